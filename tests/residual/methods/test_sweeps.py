"""Sweeps, against a plain loop that runs the model with one tap at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from residual import Config, Transformer
from residual.methods import reruns, sweeps
from residual.taps import ablate, patch, record
from residual.where import per_example

theorem = settings(deadline=None, max_examples=25)
N_POS, N_HEADS, D_VOCAB = 5, 4, 7


@st.composite
def models(draw):
    config = Config(
        n_layers=draw(st.integers(0, 3)),
        d_model=6,
        n_heads=N_HEADS,
        d_head=2,
        n_ctx=N_POS + 1,
        d_vocab=D_VOCAB,
        init_std=draw(st.sampled_from([0.5, 3.0])),
        d_mlp=draw(st.sampled_from([0, 5])),
        norm=draw(st.sampled_from(["none", "layer", "rms"])),
        positions=draw(st.sampled_from(["learned", "rotary", "shortformer", "none"])),
        n_kv_heads=draw(st.sampled_from([None, 2])),
        bias=draw(st.booleans()),
        causal=draw(st.booleans()),
        smeared_keys=draw(st.sampled_from([False, False, True])),
    )
    return Transformer(config, seed=draw(st.integers(0, 2**31))).double().requires_grad_(False)


def batch(seed, size=3):
    return torch.randint(D_VOCAB, (size, N_POS), generator=torch.Generator().manual_seed(seed))


def difference(logits):
    """Return a logit difference for each example, from ``[batch d_vocab]``."""
    return logits[..., 1] - logits[..., 2]


reads = st.sampled_from([-1, 2, torch.tensor([4, 0, 2]), None])
of_heads = st.sampled_from(["q", "k", "v", "pattern", "z"])
of_stream = st.sampled_from(["resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"])
MARKS = torch.tensor([[0, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 0, 0, 1, 0]]).bool()


def read(logits, position):
    if position is None:
        return logits
    return logits[torch.arange(len(logits)), torch.as_tensor(position).expand(len(logits)) % N_POS]


def loop(model, tokens, tap_at, position, heads=(None,)):
    """Call ``tap_at(layer, head, pos)`` one at a time; return ``[layer head pos …]``, where the last pos means all."""
    rows = []
    for layer in range(model.config.n_layers):
        rows.append([])
        for head in heads:
            taps = [tap_at(layer, head, pos) for pos in [*range(N_POS), None]]
            rows[-1].append(torch.stack([difference(read(model(tokens, tap=tap), position)) for tap in taps]))
    return torch.stack([torch.stack(row) for row in rows])


def same(got, expected):
    assert_close(got, expected, atol=1e-9, rtol=1e-9)


def heads_of(model, name):
    return range(model.config.kv_heads if name in ("k", "v") else N_HEADS)


def pair(seed, prefix):
    """Return two batches whose first ``prefix`` tokens are equal."""
    clean, corrupted = batch(seed), batch(seed + 100)
    return clean, torch.cat([clean[:, :prefix], corrupted[:, prefix:]], dim=1)


@theorem
@given(models(), of_heads, reads, st.integers(0, 99), st.integers(0, 3))
def test_patching_heads_is_the_loop(model, name, position, seed, prefix):
    clean, corrupted = pair(seed, prefix)
    got = sweeps.patch_heads(model, clean, corrupted, difference, name=name, position=position)
    together = sweeps.patch_heads(model, clean, corrupted, difference, name=name, position=position, together=True)
    if not model.config.n_layers:
        assert got.shape[:3] == (0, len(heads_of(model, name)), N_POS)
        assert together.shape[:2] == (0, len(heads_of(model, name)))
        return
    model(clean, tap=(seen := record(f"*.attn.{name}")))

    def tap(layer, head, pos):
        return patch(seen, f"blocks.{layer}.attn.{name}", heads=head, positions=pos)

    expected = loop(model, corrupted, tap, position, heads_of(model, name))
    same(got, expected[:, :, :-1])
    same(together, expected[:, :, -1])


@theorem
@given(models(), of_heads, reads, st.sampled_from(["zero", "mean", "resample"]), st.booleans())
def test_ablating_heads_is_the_loop(model, name, position, how, with_reference):
    tokens, reference = batch(1), batch(2, size=6) if with_reference else None
    options = {"name": name, "reference": reference, "position": position, "seed": 5}
    got = sweeps.ablate_heads(model, tokens, difference, how, **options)
    together = sweeps.ablate_heads(model, tokens, difference, how, together=True, **options)
    if not model.config.n_layers:
        return
    other = None
    if reference is not None:
        model(reference, tap=(other := record(f"*.attn.{name}")))

    def tap(layer, head, pos):
        return ablate(f"blocks.{layer}.attn.{name}", how, other, heads=head, positions=pos, seed=5)

    expected = loop(model, tokens, tap, position, heads_of(model, name))
    same(got, expected[:, :, :-1])
    same(together, expected[:, :, -1])


@theorem
@given(models(), reads, of_stream, st.booleans(), st.integers(0, 3))
def test_layers_patched_or_ablated_are_the_loop(model, position, name, patching, prefix):
    if name in ("resid_mid", "mlp_out") and not model.config.d_mlp:
        with pytest.raises(ValueError, match=f"no '{name}' in this model's layers; choose from "):
            sweeps.patch_resid(model, batch(3), batch(4), difference, name=name)
        return
    clean, corrupted = pair(3, prefix)

    def sweep(**options):
        if patching:
            return sweeps.patch_resid(model, clean, corrupted, difference, name=name, position=position, **options)
        return sweeps.ablate_resid(model, corrupted, difference, "mean", name=name, position=position, **options)

    got, together = sweep(), sweep(together=True)
    if not model.config.n_layers:
        assert got.shape[:2] == (0, N_POS) and together.shape[0] == 0
        return
    model(clean, tap=(seen := record(f"*.{name}")))

    def tap(layer, head, pos):
        place = f"blocks.{layer}.{name}"
        return patch(seen, place, positions=pos) if patching else ablate(place, "mean", positions=pos)

    expected = loop(model, corrupted, tap, position)[:, 0]
    same(got, expected[:, :-1])
    same(together, expected[:, -1])


@theorem
@given(models(), of_heads, reads, st.integers(0, 99))
def test_positions_marked_in_each_example(model, name, position, seed):
    """Some positions, all at once, and different ones in each example."""
    clean, corrupted = pair(seed, 0)
    options = {"name": name, "positions": MARKS, "together": True, "position": position}
    got = sweeps.patch_heads(model, clean, corrupted, difference, **options)
    of_layers = sweeps.patch_resid(model, clean, corrupted, difference, **options | {"name": "attn_out"})
    if not model.config.n_layers:
        return
    model(clean, tap=(seen := record([f"*.attn.{name}", "*.attn_out"])))
    for layer in range(model.config.n_layers):
        for head in heads_of(model, name):
            tap = patch(seen, f"blocks.{layer}.attn.{name}", heads=head, positions=MARKS)
            same(got[layer, head], difference(read(model(corrupted, tap=tap), position)))
        tap = patch(seen, f"blocks.{layer}.attn_out", positions=MARKS)
        same(of_layers[layer], difference(read(model(corrupted, tap=tap), position)))


@theorem
@given(models(), of_heads, reads)
def test_a_part_of_a_sweep_is_that_part_of_the_whole(model, name, position):
    """Layers, positions and heads by name: integers of all types, lists, slices."""
    n_layers, clean, corrupted = model.config.n_layers, *pair(7, 1)
    if not n_layers:
        return
    options = {"name": name, "position": position}
    whole = sweeps.patch_heads(model, clean, corrupted, difference, **options)

    def part(**places):
        return sweeps.patch_heads(model, clean, corrupted, difference, **options, **places)

    same(part(positions=[3, -4]), whole[:, :, [3, 1]])
    same(part(positions=slice(1, None, 2)), whole[:, :, 1::2])
    same(part(positions=np.int64(4), layers=np.int64(0)), whole[:1, :, 4:])
    same(part(positions=list(np.array([0, 2])), layers=[-1]), whole[-1:, :, [0, 2]])
    names = [f"{n_layers - 1}.1", "0.0", f"{n_layers - 1}.0"]
    same(part(heads=names), torch.stack([whole[-1, 1], whole[0, 0], whole[-1, 0]]))
    same(part(heads=names[:1], positions=2), whole[-1, 1, 2][None, None])
    same(part(heads="0.1"), whole[0, 1][None])
    same(part(heads=[1, "0.0"]), torch.stack([*whole[:, 1], whole[0, 0]]))
    some = part(heads=names, positions=[3, 4], together=True)
    marks = torch.zeros_like(clean, dtype=torch.bool)
    marks[:, 3:] = True
    same(some, part(heads=names, positions=marks, together=True))
    assert part(heads=[]).shape[:2] == (0, N_POS)
    same(part(positions=[], together=True)[0, 0], difference(read(model(corrupted), position)))
    marks = torch.tensor([[0, 0, 0, 1, 0], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0]]).bool()
    each = part(positions=per_example([3, 0, 1]), together=True)
    same(each, part(positions=marks, together=True))
    layers = sweeps.ablate_resid(model, clean, difference, position=position)
    same(sweeps.ablate_resid(model, clean, difference, layers=[0], positions=2, position=position), layers[:1, 2:3])


@theorem
@given(st.sampled_from([1e2, 1e4, 1e6]), st.integers(0, 999))
def test_hard_attention_keeps_its_digits(sharp, seed):
    """If the changed key has all the weight, the rest of the sum is not computed as a difference."""
    model = Transformer(Config(2, 6, N_HEADS, 2, N_POS, D_VOCAB, init_std=0.8), seed=seed).requires_grad_(False)
    model.blocks[1].attn.W_Q.mul_(sharp)
    clean, corrupted = batch(seed), batch(seed + 1)
    model = model.double()
    model(clean, tap=(seen := record("*.attn.z")))

    def tap(layer, head, pos):
        return patch(seen, f"blocks.{layer}.attn.z", heads=head, positions=pos)

    got = sweeps.patch_heads(model, clean, corrupted, difference)
    expected = loop(model, corrupted, tap, -1, range(N_HEADS))[:, :, :-1]
    assert_close(got, expected, atol=1e-6, rtol=1e-6)


def test_single_precision_agrees_to_1e_5():
    model = Transformer(Config(2, 32, 4, 8, 24, 20, init_std=0.3)).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randint(20, (2, 2, 24), generator=generator)
    got = sweeps.patch_heads(model, clean, corrupted, difference)
    model(clean, tap=(seen := record("*.attn.z")))
    for layer, head, pos in [(0, 0, 0), (0, 3, 23), (0, 1, 12), (1, 2, 23), (1, 0, 3)]:
        tap = patch(seen, f"blocks.{layer}.attn.z", heads=head, positions=pos)
        expected = difference(model(corrupted, tap=tap)[:, -1])
        assert_close(got[layer, head, pos], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["z", "k"])
@pytest.mark.parametrize("together", [False, True])
def test_small_blocks_change_nothing(monkeypatch, name, together):
    model = Transformer(Config(3, 6, 4, 2, N_POS, D_VOCAB, init_std=0.8)).double().requires_grad_(False)
    whole = sweeps.patch_heads(model, batch(0), batch(1), difference, name=name, together=together)
    monkeypatch.setattr(reruns, "BLOCK", 1)
    same(sweeps.patch_heads(model, batch(0), batch(1), difference, name=name, together=together), whole)


def test_metrics_of_any_shape_and_those_that_torch_cannot_batch():
    model = Transformer(Config(2, 6, 4, 2, N_POS, D_VOCAB, init_std=0.8)).double().requires_grad_(False)
    answers = torch.tensor([1, 2, 3])

    def loss(logits):
        return torch.nn.functional.cross_entropy(logits, answers)

    def with_item(logits):
        return torch.tensor(loss(logits).item(), dtype=torch.float64)

    batched = sweeps.patch_heads(model, batch(0), batch(1), loss)
    assert batched.shape == (2, 4, N_POS)
    same(batched, sweeps.patch_heads(model, batch(0), batch(1), with_item))
    assert sweeps.patch_heads(model, batch(0), batch(1), lambda logits: logits).shape == (2, 4, N_POS, 3, D_VOCAB)


SLIPS = [
    ({"position": 5}, "there is no position 5 in 5 tokens"),
    ({"position": 1.5}, "position is 1.5; it must be a whole number, or one for each of the 3 examples"),
    ({"position": [0, 1]}, r"position is \[0, 1\]; it must be a whole number, or one for each"),
    ({"name": "zz"}, "no 'zz' in this model's layers; choose from z"),
    ({"heads": ["0.4"]}, r"there is no head 0\.4; choose from 0\.0"),
    ({"heads": ["0.2"], "name": "k"}, r"there is no key head 0\.2; choose from 0\.0, 0\.1"),
    ({"heads": ["1"]}, "'1' is not the name of a head; head 3 of layer 1 is '1.3'"),
    ({"heads": [5]}, r"there is no head 0\.5; choose from "),
    ({"heads": ["0.1"], "layers": [0]}, "the names of heads include their layers; leave layers out"),
    ({"layers": [1]}, r"there is no layer \[1\] among 1"),
    ({"positions": 5}, "tokens has 5 positions; there is no position 5"),
    ({"positions": 0.5}, "a position is a whole number; 0.5 is not"),
    ({"positions": "2"}, "a position is a whole number; '2' is not"),
    ({"positions": True}, "a position is a whole number; True is not"),
    ({"positions": torch.tensor([1, 2, 3])}, r"positions is a tensor of shape \[3\]: the same for every example, or"),
    ({"positions": MARKS}, "positions that differ by example are changed all at once; give together=True as well"),
    ({"positions": per_example([1, 2, 3])}, "positions that differ by example are changed all at once; give"),
    ({"positions": MARKS[:2], "together": True}, r"positions mark \[2, 5\] \[batch pos\]; tokens has shape \[3, 5\]"),
]


@pytest.mark.parametrize(("options", "sentence"), SLIPS)
def test_mistakes_give_readable_errors(options, sentence):
    model = Transformer(Config(1, 6, 4, 2, N_POS, D_VOCAB, n_kv_heads=2))
    with pytest.raises(ValueError, match=f"^{sentence}"):
        sweeps.patch_heads(model, batch(0), batch(1), difference, **options)
    with pytest.raises(ValueError, match=f"^{sentence}"):
        sweeps.ablate_heads(model, batch(0), difference, **options)


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        (torch.arange(5), r"tokens have shape \[5\]; the model takes \[batch pos\]"),
        ([[1, 2], [3]], r"tokens must be a table \[batch pos\] of whole numbers; rows of unequal length need padding"),
        (["a", "bc"], "the texts have 1, 2 tokens; give texts of equal length"),
    ],
)
def test_bad_tokens_are_readable_errors(tokens, sentence):
    model = Transformer(Config(1, 6, 4, 2, N_POS, D_VOCAB))

    class Reader:
        def tokens(self, texts):
            return torch.zeros(2, 2, dtype=torch.long), torch.tensor([[False, True], [True, True]])

    model.vocabulary = Reader()
    with pytest.raises(ValueError, match=f"^{sentence}"):
        sweeps.ablate_resid(model, tokens, difference)
    with pytest.raises(ValueError, match=f"^{sentence}"):
        sweeps.patch_heads(model, batch(0), tokens, difference)


def test_tokens_may_be_lists():
    model = Transformer(Config(2, 6, 4, 2, N_POS, D_VOCAB, init_std=0.8)).double()
    got = sweeps.patch_heads(model, batch(0).tolist(), batch(1).numpy(), difference)
    same(got, sweeps.patch_heads(model, batch(0), batch(1), difference))


def test_patching_needs_batches_of_one_shape():
    model = Transformer(Config(1, 6, 4, 2, N_POS, D_VOCAB))
    with pytest.raises(ValueError, match=r"clean is \[3, 5\] and corrupted \[2, 5\]"):
        sweeps.patch_heads(model, batch(0), batch(0, size=2), difference)


@pytest.mark.parametrize("position", [None, -1, 2])
@pytest.mark.parametrize("fits_vmap", [True, False])
def test_a_metric_may_write_to_its_logits(position, fits_vmap):
    model = Transformer(Config(2, 6, N_HEADS, 2, N_POS, D_VOCAB, init_std=0.5)).double()

    def plain(logits):
        return (2 * logits)[..., 1].mean() + (0 if fits_vmap else float((2 * logits).sum()))

    def writes(logits):
        return plain(logits.mul_(2)) / 2  # plain is linear

    for sweep in (sweeps.patch_heads, sweeps.patch_resid):
        expected = sweep(model, batch(0), batch(1), lambda logits: plain(logits), position=position)
        assert_close(sweep(model, batch(0), batch(1), writes, position=position), expected)


def test_heads_and_positions_may_be_iterators():
    model = Transformer(Config(2, 6, N_HEADS, 2, N_POS, D_VOCAB, init_std=0.5)).double()
    metrics = sweeps.ablate_heads(model, batch(0), difference, heads=iter(["0.1", "1.0"]), positions=iter([1, 3]))
    assert_close(metrics, sweeps.ablate_heads(model, batch(0), difference, heads=["0.1", "1.0"], positions=[1, 3]))


def test_heads_may_count_from_the_last():
    model = Transformer(Config(2, 6, N_HEADS, 2, N_POS, D_VOCAB, init_std=0.5)).double()
    metrics = sweeps.ablate_heads(model, batch(0), difference, heads=-1, positions=[2])
    assert_close(metrics, sweeps.ablate_heads(model, batch(0), difference, heads=["0.3", "1.3"], positions=[2]))
    with pytest.raises(ValueError, match=r"there is no head 0\.-5"):
        sweeps.ablate_heads(model, batch(0), difference, heads=-5)
