"""Each sweep against the plain loop over the model with one tap at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from residual import Config, Transformer
from residual.methods import reruns, sweeps
from residual.taps import ablate, patch, record

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
    """A logit difference, one for each example, of ``[batch d_vocab]``."""
    return logits[..., 1] - logits[..., 2]


positions = st.sampled_from([-1, 2, torch.tensor([4, 0, 2]), None])


def read(logits, position):
    if position is None:
        return logits
    return logits[torch.arange(len(logits)), torch.as_tensor(position).expand(len(logits)) % N_POS]


def loop(model, tokens, tap_at, position, heads=(None,)):
    """``tap_at(layer, head, pos)`` one after the other; ``[layer head pos …]``."""
    rows = []
    for layer in range(model.config.n_layers):
        rows.append([])
        for head in heads:
            taps = [tap_at(layer, head, pos) for pos in range(N_POS)]
            rows[-1].append(torch.stack([difference(read(model(tokens, tap=tap), position)) for tap in taps]))
    return torch.stack([torch.stack(row) for row in rows])


def same(got, expected):
    assert_close(got, expected, atol=1e-9, rtol=1e-9)


@theorem
@given(models(), positions, st.integers(0, 99))
def test_patching_heads_is_the_loop(model, position, seed):
    clean, corrupted = batch(seed), batch(seed + 100)
    got = sweeps.patch_heads(model, clean, corrupted, difference, position=position)
    if not model.config.n_layers:
        assert got.shape[:3] == (0, N_HEADS, N_POS)
        return
    model(clean, tap=(seen := record("*.attn.z")))

    def tap(layer, head, pos):
        return patch(seen, f"blocks.{layer}.attn.z", heads=head, positions=pos)

    same(got, loop(model, corrupted, tap, position, range(N_HEADS)))


@theorem
@given(models(), positions, st.sampled_from(["zero", "mean", "resample"]), st.booleans())
def test_ablating_heads_is_the_loop(model, position, how, with_reference):
    tokens, reference = batch(1), batch(2, size=6) if with_reference else None
    got = sweeps.ablate_heads(model, tokens, difference, how, reference=reference, position=position, seed=5)
    if not model.config.n_layers:
        return
    other = None
    if reference is not None:
        model(reference, tap=(other := record("*.attn.z")))

    def tap(layer, head, pos):
        return ablate(f"blocks.{layer}.attn.z", how, other, heads=head, positions=pos, seed=5)

    same(got, loop(model, tokens, tap, position, range(N_HEADS)))


names = st.sampled_from(["resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"])


@theorem
@given(models(), positions, names, st.booleans())
def test_layers_patched_or_ablated_are_the_loop(model, position, name, patching):
    if name in ("resid_mid", "mlp_out") and not model.config.d_mlp:
        with pytest.raises(ValueError, match=f"no '{name}' in this model's layers; there is "):
            sweeps.patch_resid(model, batch(3), batch(4), difference, name=name)
        return
    clean, corrupted = batch(3), batch(4)
    if patching:
        got = sweeps.patch_resid(model, clean, corrupted, difference, name=name, position=position)
    else:
        got = sweeps.ablate_resid(model, corrupted, difference, "mean", name=name, position=position)
    if not model.config.n_layers:
        return
    model(clean, tap=(seen := record(f"*.{name}")))

    def tap(layer, head, pos):
        place = f"blocks.{layer}.{name}"
        return patch(seen, place, positions=pos) if patching else ablate(place, "mean", positions=pos)

    same(got, loop(model, corrupted, tap, position)[:, 0])


@theorem
@given(st.sampled_from([1e2, 1e4, 1e6]), st.integers(0, 999))
def test_hard_attention_keeps_its_digits(sharp, seed):
    """Where one key has all the weight and is the one that changes, what is left of the sum is not a difference."""
    model = Transformer(Config(2, 6, N_HEADS, 2, N_POS, D_VOCAB, init_std=0.8), seed=seed).requires_grad_(False)
    model.blocks[1].attn.W_Q.mul_(sharp)
    clean, corrupted = batch(seed), batch(seed + 1)
    for exact in (model.double(),):
        exact(clean, tap=(seen := record("*.attn.z")))

        def tap(layer, head, pos, seen=seen):
            return patch(seen, f"blocks.{layer}.attn.z", heads=head, positions=pos)

        got = sweeps.patch_heads(exact, clean, corrupted, difference)
        assert_close(got, loop(exact, corrupted, tap, -1, range(N_HEADS)), atol=1e-6, rtol=1e-6)


def test_in_single_precision_to_1e_5():
    model = Transformer(Config(2, 32, 4, 8, 24, 20, init_std=0.3)).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randint(20, (2, 2, 24), generator=generator)
    got = sweeps.patch_heads(model, clean, corrupted, difference)
    model(clean, tap=(seen := record("*.attn.z")))
    for layer, head, pos in [(0, 0, 0), (0, 3, 23), (0, 1, 12), (1, 2, 23), (1, 0, 3)]:
        tap = patch(seen, f"blocks.{layer}.attn.z", heads=head, positions=pos)
        expected = difference(model(corrupted, tap=tap)[:, -1])
        assert_close(got[layer, head, pos], expected, atol=1e-5, rtol=1e-5)


def test_small_blocks_change_nothing(monkeypatch):
    model = Transformer(Config(3, 6, 4, 2, N_POS, D_VOCAB, init_std=0.8)).double().requires_grad_(False)
    whole = sweeps.patch_heads(model, batch(0), batch(1), difference)
    monkeypatch.setattr(reruns, "BLOCK", 1)
    same(sweeps.patch_heads(model, batch(0), batch(1), difference), whole)


def test_metrics_of_any_shape_and_those_that_torch_cannot_batch():
    model = Transformer(Config(2, 6, 4, 2, N_POS, D_VOCAB, init_std=0.8)).double().requires_grad_(False)
    answers = torch.tensor([1, 2, 3])

    def loss(logits):
        return torch.nn.functional.cross_entropy(logits, answers)

    def with_item(logits):
        return torch.tensor(loss(logits).item(), dtype=torch.float64)

    one = sweeps.patch_heads(model, batch(0), batch(1), loss)
    assert one.shape == (2, 4, N_POS)
    same(one, sweeps.patch_heads(model, batch(0), batch(1), with_item))
    assert sweeps.patch_heads(model, batch(0), batch(1), lambda logits: logits).shape == (2, 4, N_POS, 3, D_VOCAB)


def test_slips_are_sentences():
    model = Transformer(Config(1, 6, 4, 2, N_POS, D_VOCAB))
    with pytest.raises(ValueError, match=r"clean is \[3, 5\] and corrupted \[2, 5\]"):
        sweeps.patch_heads(model, batch(0), batch(0, size=2), difference)
    with pytest.raises(ValueError, match="there is no position 5 in 5 tokens"):
        sweeps.ablate_heads(model, batch(0), difference, position=5)
