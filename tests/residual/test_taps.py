"""Ablating, patching and steering, against what they must do to a number that can be worked out otherwise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual import Config, Transformer
from residual.taps import ablate, at, compose, freeze, patch, record, steer


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
    """Without a norm the logits are linear in what is written: all of it at its mean gives the mean logits."""
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
    """Whatever the name, with a norm or not: what is seen after the ablation is the mean over the reference."""
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
    """Every name from the same other example: resampling all that is written permutes the logits."""
    model, tokens = model_for(seed), batch(n, seed)
    seen = record(written[:-1])
    logits = model(tokens, tap=seen)
    others = ablate(written[:-1], "resample", seed=seed)._others(n, n)
    assert sorted(others.tolist()) == list(range(n)) and (others != torch.arange(n)).all()
    frozen = compose(freeze(seen), ablate(written[:-1], "resample", seed=seed))
    torch.testing.assert_close(model(tokens, tap=frozen), logits[others])


def test_resampling_from_a_reference():
    """With one example in the reference, that one is what everybody gets."""
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
def test_gradients_reach_what_is_put_in(make):
    direction = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    model_for()(batch(2), tap=make(direction)).square().sum().backward()
    assert direction.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda seen: ablate("*.z", "median"), "cannot ablate by 'median'; there is mean, "),
        (lambda seen: ablate("*.zz"), "no activation '\\*.zz'; there is "),
        (lambda seen: ablate("*.z", "mean", {}), "the reference has no blocks.0.attn.z; there is none"),
        (lambda seen: ablate("*.z", "resample"), "needs another example: run at least two, or give a reference"),
        (lambda seen: ablate("*.scores", "mean", across_positions=True), "a mean across positions would mix them"),
        (lambda seen: ablate("*.z", heads=0.5), "a head is a whole number; 0.5 is none"),
        (
            lambda seen: ablate("*.z", positions=[True, False]),
            "a position is a whole number; True is none",
        ),
        (lambda seen: ablate("*.z", heads=2), "blocks.0.attn.z has 2 heads; there is no head 2"),
        (lambda seen: ablate("*.z", positions=[0, 5]), "has 5 positions; there is no position 5"),
        (lambda seen: ablate("embed", heads=0), "embed has no axis of heads"),
        (lambda seen: ablate("embed", positions=torch.ones(2, 5) > 0), "positions mark \\[2, 5\\] \\[batch pos\\]"),
        (lambda seen: patch(seen, "*.pattern"), "'\\*.pattern' was not recorded; there is blocks.0.attn.z"),
        (
            lambda seen: patch({"embed": torch.zeros(1, 4, 6)}),
            "shape \\[1, 4, 6\\] does not fit embed, which has shape",
        ),
        (lambda seen: patch({"embd": torch.zeros(1)}), "no activation 'embd'; there is embed"),
        (
            lambda seen: steer("embed", torch.zeros(7)),
            "shape \\[7\\] does not fit embed, which has shape \\[1, 5, 6\\]",
        ),
    ],
)
def test_bad_input_is_a_sentence(make, says):
    model, seen = model_for(), record("*.z")
    model(batch(1), tap=seen)
    with pytest.raises(ValueError, match=says):
        model(batch(1), tap=make(seen))
