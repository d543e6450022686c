"""Ablating, patching and steering, against numbers computed in another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual import Config, Transformer
from residual.methods.splice import splice
from residual.sampling import generate
from residual.taps import ablate, at, compose, freeze, parse_heads, patch, per_example, record, steer


def model_for(seed=0, **fields):
    config = Config(**{**dict(n_layers=2, d_model=6, n_heads=2, d_head=3, n_ctx=5, d_vocab=7, init_std=0.7), **fields})
    return Transformer(config, seed).double()


def batch(n, seed=0):
    return torch.randint(7, (n, 5), generator=torch.Generator().manual_seed(seed))


seeds = st.integers(0, 2**32 - 1)
written = ["embed", "pos_embed", "*attn_out", "*mlp_out"]


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 5), st.sampled_from([0, 8]))
def test_mean_ablation_of_everything_equals_the_mean(seed, n, d_mlp):
    """Without a norm the logits are linear in the outputs: all outputs at their mean give the mean logits."""
    model, tokens = model_for(seed, d_mlp=d_mlp), batch(n, seed)
    names = written if d_mlp else written[:-1]
    seen = record(names)
    logits = model(tokens, tap=seen)
    ablated = model(tokens, tap=ablate(names, "mean", seen))
    torch.testing.assert_close(ablated, logits.mean(dim=0, keepdim=True).expand_as(logits))
    everywhere = model(tokens, tap=ablate(names, "mean", seen, across_positions=True))
    torch.testing.assert_close(everywhere, logits.mean(dim=(0, 1), keepdim=True).expand_as(logits))


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_every_activation_at_its_mean_is_the_mean(seed):
    """For any name, with a norm or not, a record after the ablation equals the mean over the reference."""
    model, tokens = model_for(seed, norm="layer", d_mlp=8), batch(3, seed)
    seen = record()
    model(batch(4, seed + 1), tap=seen)
    for name in model.activation_names:
        after = record(name)
        model(tokens, tap=compose(ablate(name, "mean", seen), after))
        torch.testing.assert_close(after[name], seen[name].mean(dim=0, keepdim=True).expand_as(after[name]))


def test_mean_of_the_run_itself_needs_no_reference():
    model, tokens = model_for(), batch(3)
    seen = record("blocks.0.attn.z")
    model(tokens, tap=seen)
    expected = model(tokens, tap=ablate("blocks.0.attn.z", "mean", seen))
    assert torch.equal(model(tokens, tap=ablate("blocks.0.attn.z", "mean")), expected)


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from(["z", "result", "pattern"]), st.integers(0, 1), st.integers(0, 1))
def test_zero_ablating_a_head_takes_away_what_it_adds(seed, name, layer, head):
    model, tokens = model_for(seed), batch(2, seed)
    seen = record()
    model(tokens, tap=seen)
    after = record(f"blocks.{layer}.attn_out")
    model(tokens, tap=compose(ablate(f"blocks.{layer}.attn.{name}", "zero", heads=head), after))
    expected = seen[f"blocks.{layer}.attn_out"] - seen[f"blocks.{layer}.attn.result"][:, :, head]
    torch.testing.assert_close(after[f"blocks.{layer}.attn_out"], expected)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(2, 6))
def test_resampling_takes_each_example_from_another(seed, n):
    """All names from the same other example: resampling every output permutes the logits."""
    model, tokens = model_for(seed), batch(n, seed)
    seen = record(written[:-1])
    logits = model(tokens, tap=seen)
    others = ablate(written[:-1], "resample", seed=seed)._others(n, n)
    assert sorted(others.tolist()) == list(range(n)) and (others != torch.arange(n)).all()
    frozen = compose(freeze(seen), ablate(written[:-1], "resample", seed=seed))
    torch.testing.assert_close(model(tokens, tap=frozen), logits[others])


def test_resampling_from_a_reference():
    """If the reference has one example, every example gets that one."""
    model, tokens, other = model_for(), batch(3), batch(1, seed=9)
    seen = record("blocks.0.attn_out")
    model(other, tap=seen)
    after = record("blocks.0.attn_out")
    model(tokens, tap=compose(ablate("blocks.0.attn_out", "resample", seen), after))
    assert torch.equal(after["blocks.0.attn_out"], seen["blocks.0.attn_out"].expand(3, -1, -1))


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(0, 1), st.sampled_from([0, 1, [0, 1], -1]), st.sampled_from([3, -1, [0, 2]]))
def test_patch_equals_assigning_the_entries(seed, layer, heads, positions):
    model, clean, corrupted = model_for(seed), batch(2, seed), batch(2, seed + 1)
    seen = record("*.z")
    model(clean, tap=seen)
    name = f"blocks.{layer}.attn.z"

    def by_hand(x):
        x = x.clone()
        for head in [heads] if isinstance(heads, int) else heads:
            for position in [positions] if isinstance(positions, int) else positions:
                x[:, position, head] = seen[name][:, position, head]
        return x

    expected = model(corrupted, tap=at(name, by_hand))
    assert torch.equal(model(corrupted, tap=patch(seen, name, heads=heads, positions=positions)), expected)


def test_patching_all_of_a_layer_gives_the_other_run():
    model, clean, corrupted = model_for(d_mlp=8, norm="rms"), batch(2), batch(2, seed=1)
    seen = record("blocks.1.resid_pre")
    logits = model(clean, tap=seen)
    assert torch.equal(model(corrupted, tap=patch(seen)), logits)


def test_positions_may_differ_between_examples():
    model, tokens = model_for(), batch(2)
    seen = record(["blocks.1.resid_pre", "blocks.1.attn.pattern"])
    model(batch(2, seed=1), tap=seen)
    marks = torch.zeros(2, 5, dtype=torch.bool)
    marks[0, 1] = marks[1, 4] = True
    for name in seen:
        before, after = record(name), record(name)
        model(tokens, tap=before)
        model(tokens, tap=compose(patch(seen, name, positions=marks), after))
        x, y, put = (r[name].movedim(2, 1) if name.endswith("pattern") else r[name] for r in (before, after, seen))
        assert torch.equal(y[marks], put[marks]) and torch.equal(y[~marks], x[~marks])


heads_in_layers = st.dictionaries(st.integers(0, 1), st.lists(st.integers(0, 1), min_size=1, unique=True), min_size=1)


@settings(max_examples=30, deadline=None)
@given(seeds, heads_in_layers, st.sampled_from(["ablate", "patch", "steer"]), st.sampled_from(["q", "z", "pattern"]))
def test_heads_of_several_layers_by_name(seed, named, kind, name):
    """Equal to one tap per layer with that layer's numbers; layers without a named head are unchanged."""
    model, tokens, seen = model_for(seed), batch(2, seed), record(f"*.{name}")
    model(batch(2, seed + 1), tap=seen)
    direction = torch.ones(5 if name == "pattern" else 3).double()
    make = {
        "ablate": lambda names, heads: ablate(names, heads=heads, positions=-1),
        "patch": lambda names, heads: patch(seen, names, heads=heads),
        "steer": lambda names, heads: steer(names, direction, 0.3, heads=heads),
    }[kind]
    by_name = make(f"blocks.*.attn.{name}", [f"{layer}.{head}" for layer, heads in named.items() for head in heads])
    by_layer = [make(f"blocks.{layer}.attn.{name}", heads) for layer, heads in named.items()]
    assert torch.equal(model(tokens, tap=by_name), model(tokens, tap=compose(*by_layer)))


def test_names_of_heads_are_parsed():
    assert parse_heads(["18.6", 3, np.int64(-1)]) == [(18, 6), (None, 3), (None, -1)]
    assert parse_heads("0.11") == [(0, 11)] and parse_heads(range(2)) == [(None, 0), (None, 1)]


def test_a_number_beside_a_name_is_that_head_of_every_layer():
    model, tokens = model_for(), batch(2)
    both = model(tokens, tap=compose(ablate("*.z", heads=0), ablate("*.z", heads="1.1")))
    assert torch.equal(model(tokens, tap=ablate("*.z", heads=[0, "1.1"])), both)


def test_layers_without_a_named_head_stay_fused():
    """The tap does not want their patterns, so they keep the kernel that never materializes a pattern."""
    assert ablate("*.pattern", heads="1.0").resolve(model_for().activation_names) == {"blocks.1.attn.pattern"}


@pytest.mark.parametrize(
    "positions, listed",
    [
        (slice(1, 3), [1, 2]),
        (slice(-2, None), [3, 4]),
        (range(0, 5, 2), [0, 2, 4]),
        ((0, -1), [0, 4]),
        (np.int64(3), [3]),
        ([np.int32(0), 4], [0, 4]),
        (torch.tensor(2), [2]),
        (np.array([[False, True, False, False, True]] * 2), [1, 4]),
        (per_example([1, 1]), [1]),
        (per_example(torch.tensor([-1, 4])), [4]),
        ([], []),
    ],
)
@pytest.mark.parametrize("name", ["blocks.1.resid_pre", "blocks.1.attn.z", "blocks.1.attn.pattern"])
def test_positions_in_every_spelling(name, positions, listed):
    model, tokens, after, before = model_for(), batch(2), record(name), record(name)
    model(tokens, tap=before)
    model(tokens, tap=compose(ablate(name, positions=positions), after))
    expected = before[name].clone()
    (expected.movedim(2, 1) if name.endswith("pattern") else expected)[:, listed] = 0
    assert torch.equal(after[name], expected)


def test_one_position_for_each_example():
    model, tokens, after, before = model_for(), batch(2), record("embed"), record("embed")
    model(tokens, tap=compose(before, ablate("embed", positions=per_example([4, 1])), after))
    expected = before["embed"].clone()
    expected[0, 4] = expected[1, 1] = 0
    assert torch.equal(after["embed"], expected)


def test_a_recording_of_one_example_is_used_for_all():
    model, seen = model_for(), record("blocks.0.attn.pattern")
    model(batch(1), tap=seen)
    for tap in (freeze(seen), patch(seen)):
        after = record("blocks.0.attn.pattern")
        model(batch(3), tap=compose(tap, after))
        assert torch.equal(after["blocks.0.attn.pattern"], seen["blocks.0.attn.pattern"].expand(3, -1, -1, -1))


kinds = dict(
    positions=st.sampled_from(["learned", "shortformer", "rotary", "none"]),
    norm=st.sampled_from(["none", "layer", "rms"]),
    act=st.sampled_from(["gelu", "swiglu"]),
)


@settings(max_examples=50, deadline=None)
@given(st.fixed_dictionaries(kinds), st.integers(1, 2), st.booleans(), st.data())
def test_writing_into_an_activation_changes_nothing_else(fields, n, everything, data):
    """The same logits as with an edited copy; weights, earlier records and the caller's tensors stay unchanged."""
    model, tokens = model_for(d_mlp=5, d_head=2, **fields), batch(n)
    heads = [f"blocks.{layer}.attn.{name}" for layer in range(2) for name in ("q_in", "k_in", "v_in")]
    name = data.draw(st.sampled_from([*model.activation_names, *heads]))

    def write(x):
        if everything:
            return x.fill_(0.25)
        x[:, 0] = 0.5
        return x

    def edit(x):
        return write(x.clone())

    taken = record(["*", "*.q_in", "*.k_in", "*.v_in"])
    model(batch(n, seed=1), tap=taken)
    mine = {other: x.detach().clone() for other, x in taken.items()}  # the caller's tensors, put in before
    copies = {other: x.clone() for other, x in mine.items()}
    plain = {"tap": lambda f: lambda at_name, x: f(x) if at_name == name else x, "at": lambda f: at(name, f)}
    kind = data.draw(st.sampled_from(["at"] if name in heads else list(plain)))
    weights = {key: weight.clone() for key, weight in model.state_dict().items()}
    with torch.set_grad_enabled(data.draw(st.booleans())):
        for before in (record(name), freeze({name: mine[name]}), patch(mine, name, positions=[0, 2])):
            first, later = record(name), record(name)
            expected = model(tokens, tap=compose(before, first, plain[kind](edit)))
            untouched = first[name].clone()
            logits = model(tokens, tap=compose(before, later, plain[kind](write)))
            assert torch.equal(logits, expected) and torch.equal(later[name], untouched)
    assert all(torch.equal(weight, weights[key]) for key, weight in model.state_dict().items())
    assert all(torch.equal(mine[other], copies[other]) for other in mine)


def test_a_record_is_not_a_view_of_a_weight():
    for positions in ("learned", "shortformer"):
        model, seen = model_for(positions=positions), record()
        model(batch(1), tap=seen)
        weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        assert not weights & {x.untyped_storage().data_ptr() for x in seen.values()}


def test_the_stream_passed_to_run_from_is_not_written_to():
    model, stream = model_for(), torch.ones(2, 5, 6).double()
    model.run_from(0, stream, tap=lambda name, x: x.zero_())
    assert (stream == 1).all()


def test_in_a_pattern_positions_are_queries():
    model, tokens = model_for(), batch(1)
    after = record("blocks.0.attn.pattern")
    model(tokens, tap=compose(ablate("blocks.0.attn.pattern", heads=1, positions=2), after))
    rows = after["blocks.0.attn.pattern"][0].sum(dim=-1)  # head query
    expected = torch.ones(2, 5).double()
    expected[1, 2] = 0
    torch.testing.assert_close(rows, expected)


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(-3, 3), st.sampled_from([None, 2, [0, -1]]))
def test_steering_the_last_stream_moves_the_logits_along_the_unembedding(seed, strength, positions):
    model, tokens = model_for(seed), batch(2, seed)
    direction = torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    moved = model(tokens, tap=steer("blocks.1.resid_post", direction, strength, positions=positions)) - model(tokens)
    expected = torch.zeros(2, 5, 7, dtype=torch.float64)
    expected[:, slice(None) if positions is None else positions] = strength * (direction @ model.W_U)
    torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize(
    "make", [lambda d: steer("blocks.0.resid_post", d), lambda d: patch({"embed": d.expand(1, 5, 6)})]
)
def test_gradients_reach_patched_values(make):
    direction = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    model_for()(batch(2), tap=make(direction)).square().sum().backward()
    assert direction.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda seen: ablate("*.z", "median"), "cannot ablate by 'median'; choose from mean, "),
        (lambda seen: ablate("*.zz"), "no activation '\\*.zz'; choose from "),
        (lambda seen: ablate("*.z", "mean", {}), "the reference has no blocks.0.attn.z; there are none"),
        (lambda seen: ablate("*.z", "resample"), "needs another example: run at least two, or give a reference"),
        (lambda seen: ablate("*.scores", "mean", across_positions=True), "a mean across positions would mix them"),
        (lambda seen: ablate("*.z", heads=0.5), "a head is a whole number; 0.5 is not"),
        (
            lambda seen: ablate("*.z", positions=[True, False]),
            "a position is a whole number; True is not",
        ),
        (lambda seen: ablate("*.z", heads="1.2"), "blocks.1.attn.z has 2 heads; there is no head 2"),
        (lambda seen: ablate("*.z", heads="2.0"), "there is no head 2.0 in .*: none is in layer 2"),
        (lambda seen: ablate("blocks.0.attn.z", heads=["0.1", "1.1"]), "there is no head 1.1 in blocks.0.attn.z: none"),
        (lambda seen: ablate("*.z", heads="L1H2"), "'L1H2' is not the name of a head; head 3 of layer 1 is '1.3'"),
        (lambda seen: ablate("*.z", heads=True), "a head is a whole number; True is not"),
        (lambda seen: ablate("*.z", positions=torch.tensor([1])), "positions.tolist\\(\\) for the first, per_example"),
        (lambda seen: ablate("*.z", positions=np.array([1])), "the same for every example, or one for each\\? Write"),
        (lambda seen: ablate("*.z", positions=torch.ones(5) > 0), "positions mark \\[5\\] \\[batch pos\\]"),
        (lambda seen: ablate("*.z", positions=[[0, 1]]), "a position is a whole number; \\[0, 1\\] is not"),
        (lambda seen: ablate("*.z", positions=1.0), "a position is a whole number; 1.0 is not"),
        (lambda seen: ablate("*.z", positions=slice(5, 9)), "there is no position in slice\\(5, 9, None\\) of 5"),
        (lambda seen: ablate("*.z", positions=per_example([1, 2])), "are for 2 examples; blocks.0.attn.z has 1"),
        (lambda seen: ablate("*.z", positions=per_example([5])), "there is no position 5"),
        (lambda seen: freeze({"embed": torch.zeros(2, 5, 6)}), "a value of 2 examples does not fit the 1 of embed"),
        (lambda seen: patch({"embed": torch.zeros(5, 6)}), "shape \\[5, 6\\] does not fit embed"),
        (
            lambda seen: steer("embed", torch.zeros(5, 6)),
            "shape \\[5, 6\\] does not fit .*: give \\[6\\], or all the axes",
        ),
        (lambda seen: steer("embed", torch.zeros(2, 5, 6)), "shape \\[2, 5, 6\\] does not fit embed"),
        (lambda seen: ablate("*.z", heads=2), "blocks.0.attn.z has 2 heads; there is no head 2"),
        (lambda seen: ablate("*.z", positions=[0, 5]), "has 5 positions; there is no position 5"),
        (lambda seen: ablate("embed", heads=0), "embed has no head axis"),
        (lambda seen: ablate("embed", positions=torch.ones(2, 5) > 0), "positions mark \\[2, 5\\] \\[batch pos\\]"),
        (lambda seen: patch(seen, "*.pattern"), "'\\*.pattern' was not recorded; choose from blocks.0.attn.z"),
        (
            lambda seen: patch({"embed": torch.zeros(1, 4, 6)}),
            "shape \\[1, 4, 6\\] does not fit embed, which has shape",
        ),
        (lambda seen: patch({"embd": torch.zeros(1)}), "no activation 'embd'; choose from embed"),
        (
            lambda seen: steer("embed", torch.zeros(7)),
            "shape \\[7\\] does not fit embed, which has shape \\[1, 5, 6\\]",
        ),
    ],
)
def test_bad_input_is_a_readable_error(make, says):
    model, seen = model_for(), record("*.z")
    model(batch(1), tap=seen)
    with pytest.raises(ValueError, match=says):
        model(batch(1), tap=make(seen))


# Limits of taps


def any_tap(kind, name, seen):
    """Return a tap of each kind that changes a square activation as much as it can."""
    return {
        "zero": lambda: ablate(name),
        "mean": lambda: ablate(name, "mean", seen),
        "own mean": lambda: ablate(name, "mean"),
        "resample": lambda: ablate(name, "resample", seen, seed=1),
        "patch": lambda: patch({name: torch.ones_like(seen[name])}),
        "freeze": lambda: freeze({name: 0.1 * torch.ones_like(seen[name])}),
        "steer": lambda: steer(name, torch.linspace(0.1, 1, 5).double()),
        "at": lambda: at(name, lambda x: 0.2 + 0 * x.nan_to_num(neginf=0)),
        "function": lambda: lambda at_name, x: x.fill_(0.3) if at_name == name else x,
        "compose": lambda: compose(ablate(name), steer(name, torch.ones(5).double())),
    }[kind]()


KINDS = ["zero", "mean", "own mean", "resample", "patch", "freeze", "steer", "at", "function", "compose"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["blocks.0.attn.scores", "blocks.1.attn.pattern"])
def test_no_tap_shows_the_future(kind, name):
    model, tokens, seen = model_for(), batch(3), record(name)
    model(batch(3, seed=1), tap=seen)
    later = tokens.clone()
    later[:, 3:] = (later[:, 3:] + 1) % 7
    tap = any_tap(kind, name, seen)
    logits, other = model(tokens, tap=tap), model(later, tap=tap)
    assert torch.equal(logits[:, :3], other[:, :3]) and not torch.allclose(logits[:, 3:], other[:, 3:])
    mask = torch.tensor([[False, False, True, True, True], [True] * 5, [True] * 5])
    if "mean" not in kind:
        changed = torch.where(mask, tokens, 6 - tokens)  # and padding
        torch.testing.assert_close(model(tokens, tap=tap, mask=mask)[mask], model(changed, tap=tap, mask=mask)[mask])


@pytest.mark.parametrize("make", [lambda: ablate("*.scores"), lambda: at("*.scores", lambda x: 0.5 * x)])
@pytest.mark.parametrize("padded", [False, True])
def test_changed_scores_write_the_same_text_with_and_without_kept_keys(make, padded):
    model, tokens = model_for(n_ctx=9), batch(2)
    mask = torch.tensor([[not padded, True, True, True, True], [True] * 5])
    cached_text = generate(model, tokens, 4, tap=make(), mask=mask)
    assert torch.equal(cached_text, generate(model, tokens, 4, tap=make(), mask=mask, cached=False))


@pytest.mark.parametrize("keyword, values", [("heads", [0, "1.1"]), ("positions", [1, 3])])
def test_heads_and_positions_may_be_iterators(keyword, values):
    model, tokens, seen = model_for(), batch(2), record("*.z")
    model(batch(2, seed=1), tap=seen)
    for make in (ablate, lambda names, **where: patch(seen, names, **where), lambda n, **w: steer(n, DIRECTION, **w)):
        expected = model(tokens, tap=make("*.z", **{keyword: values}))
        for once in (iter(values), (value for value in values)):
            tap = make("*.z", **{keyword: once})
            assert torch.equal(model(tokens, tap=tap), expected) and torch.equal(model(tokens, tap=tap), expected)


DIRECTION = torch.ones(3, dtype=torch.float64)


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.data[:, 0].zero_(),
        lambda x: x.detach()[:, 0].zero_(),
        lambda x: x.detach().numpy()[:, 0].fill(0),
        lambda x: x.untyped_storage().copy_((x * torch.tensor([0, 1, 1, 1, 1]).view(1, 5, 1)).untyped_storage()),
    ],
)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_writes_that_torch_does_not_count_are_found_too(write, mode):
    model, tokens, name = model_for(), batch(2), "blocks.0.resid_post"

    def write_and_return(x):
        write(x)
        return x

    with mode():
        expected = model(tokens, tap=ablate(name, positions=0))
        for tap in (
            at(name, write_and_return),
            lambda at_name, x: write_and_return(x) if at_name == name else x,
            splice(name, name, write_and_return),
        ):
            torch.testing.assert_close(model(tokens, tap=tap), expected)


@pytest.mark.parametrize("name", ["blocks.0.resid_pre", "blocks.0.attn.pattern", "blocks.0.attn.z"])
@pytest.mark.parametrize("to", [torch.float32, torch.float16, torch.int64, torch.bool, torch.complex128, "meta"])
def test_a_tap_must_keep_dtype_and_device(name, to):
    with pytest.raises(ValueError, match=f"the tap returned .* for {name}, which is torch.float64 on cpu; return y.to"):
        model_for()(batch(2), tap=at(name, lambda x: x.to(to)))


# Means and padding


def test_a_mean_leaves_padding_out():
    model, mask = model_for(positions="rotary", d_head=2), torch.tensor([[False, False, True, True, True], [True] * 5])
    tokens, name = batch(2), "blocks.0.attn.z"
    model(tokens, tap=(seen := record(name)), mask=mask)
    mean = seen[name][mask].mean(dim=0)
    expected = model(tokens, tap=at(name, lambda x: mean.expand_as(x)), mask=mask)
    for reference in (None, seen):
        tap = ablate(name, "mean", reference, across_positions=True)
        torch.testing.assert_close(model(tokens, tap=tap, mask=mask), expected)
        torch.testing.assert_close(model(tokens, tap=compose(tap, record(name)), mask=mask), expected)
    model(batch(2, seed=3), tap=seen)  # the same record, in a run without padding
    mean = seen[name].mean(dim=(0, 1))
    expected = model(tokens, tap=at(name, lambda x: mean.expand_as(x)))
    torch.testing.assert_close(model(tokens, tap=ablate(name, "mean", seen, across_positions=True)), expected)


@pytest.mark.parametrize("how", ["mean", "resample"])
def test_padding_is_not_used_as_a_value(how):
    model, tokens = model_for(), batch(2)
    mask = torch.tensor([[False, False, True, True, True], [True] * 5])
    model(tokens, tap=(seen := record("*.z")), mask=mask)
    for tap, real in ((ablate("*.z", how), mask), (ablate("*.z", how, seen), None), (ablate("*.z", how, seen), mask)):
        with pytest.raises(ValueError, match=f"some examples are padded, and a {how} would use padding"):
            model(tokens, tap=tap, mask=real)


def test_the_mean_over_one_example_is_refused():
    with pytest.raises(ValueError, match="the mean over one example is that example: run at least two, or give"):
        model_for()(batch(1), tap=ablate("*.z", "mean"))
    model_for()(batch(1), tap=ablate("*.z", "mean", across_positions=True))


def test_wildcards_do_not_match_the_inputs_of_heads():
    with pytest.raises(ValueError, match=r"'\*_in' does not match inputs of heads; write out q_in, k_in or v_in"):
        model_for()(batch(1), tap=record("*_in"))


@pytest.mark.parametrize("kind", [torch.Tensor.tolist, torch.Tensor.numpy])
def test_directions_and_recordings_may_be_lists_or_arrays(kind):
    model, tokens, direction = model_for(), batch(2), torch.arange(6.0)
    expected = model(tokens, tap=steer("embed", direction))
    assert torch.equal(model(tokens, tap=steer("embed", kind(direction))), expected)
    value = torch.ones(1, 5, 6).double()
    expected = model(tokens, tap=patch({"embed": value}))
    assert torch.equal(model(tokens, tap=patch({"embed": kind(value)})), expected)
    assert torch.equal(model(tokens, tap=ablate("embed", "mean", {"embed": kind(value)})), expected)
    for make in (lambda: steer("embed", "up"), lambda: patch({"embed": [[1], [2, 3]]})):
        with pytest.raises(ValueError, match="must be a tensor or a table of numbers"):
            make()
