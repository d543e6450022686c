"""Attribution patching against patches that are small, against exact patches where it must be exact, and by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from residual import Config, Transformer
from residual.methods.attribution_patching import HeadGates, attribution, diagonal, one_score, slope
from residual.methods.linearise import linearise
from residual.methods.shapley import alone, removed, shapley, subset_values
from residual.methods.sites import OF_HEADS, OF_STREAM
from residual.methods.sweeps import patch_heads, patch_resid
from residual.taps import compose, patch, record

from .models import D_VOCAB, N_POS, batch, models

theorem = settings(deadline=None, max_examples=20)
seeds = st.integers(0, 10**6)


def difference(logits):
    """Return the mean logit difference of two tokens."""
    return (logits[..., 1] - logits[..., 2]).mean()


def small(model, clean, corrupted, name, size, position=-1):
    """Return the slope of the metric by a plain loop: each activation moved a little towards its clean value."""
    c = model.config
    full = f"attn.{name}" if name in OF_HEADS else name
    names = [f"blocks.{layer}.{full}" for layer in range(c.n_layers)]
    model(clean, tap=(there := record(names)))
    model(corrupted, tap=(here := record(names)))
    base = difference(model(corrupted)[:, position])
    rows = []
    for site in names:
        heads = range(c.kv_heads if name in ("k", "v") else c.n_heads) if name in OF_HEADS else [None]
        for head, at_position in itertools.product(heads, range(N_POS)):
            value = here[site] + size * (there[site] - here[site])
            moved = model(corrupted, tap=patch({site: value}, heads=head, positions=at_position))
            rows.append((difference(moved[:, position]) - base) / size)
    shape = [c.n_layers, -1, N_POS] if name in OF_HEADS else [c.n_layers, N_POS]
    return torch.stack(rows).reshape(shape)


@theorem
@given(models(min_layers=1, max_layers=2, smeared_keys=False), seeds, st.sampled_from([*OF_HEADS, *OF_STREAM]))
def test_the_gradient_is_the_effect_of_a_small_patch(model, seed, name):
    if model.config.act == "relu" or (name in ("mlp_out", "resid_mid") and not model.config.d_mlp):
        return  # a kink, or no such activation
    clean, corrupted = batch(seed), batch(seed + 1)
    score = attribution(model, clean, corrupted, difference, [name])[name]
    size = 1e-6
    slope_up, slope_down = (small(model, clean, corrupted, name, s) for s in (size, -size))
    expected = (slope_up + slope_down) / 2
    assert_close(score, expected, atol=1e-6 * max(1, expected.abs().max().item()), rtol=1e-5)


@theorem
@given(seeds, st.sampled_from(["learned", "rotary", "shortformer"]), st.sampled_from([None, 2]), st.booleans())
def test_with_the_softmax_computed_again_one_layer_is_exact(seed, positions, kv, causal):
    """One layer without norm and MLP: what follows the pattern is linear, and only the softmax was not."""
    config = Config(1, 6, 4, 2, N_POS, D_VOCAB, init_std=1.5, positions=positions, n_kv_heads=kv, causal=causal)
    model = Transformer(config, seed=seed).double().requires_grad_(False)
    clean, corrupted = batch(seed), batch(seed + 1)
    scores = attribution(model, clean, corrupted, difference, ["q", "k", "v", "pattern", "z"], softmax=True)
    base = difference(model(corrupted)[:, -1])
    for name, score in scores.items():
        exact = patch_heads(model, clean, corrupted, difference, name=name) - base
        assert_close(score, exact, atol=1e-9, rtol=1e-9)


@theorem
@given(models(min_layers=1, max_layers=3), seeds, st.sampled_from(["z", "v", *OF_STREAM]))
def test_in_the_frozen_model_it_is_exact(model, seed, name):
    """With patterns, scales and neurons' ratios held fixed, the backward pass is that of an affine map."""
    if model.config.act == "swiglu" and model.config.d_mlp:
        return  # the half-rule divides a product evenly; it is no map's gradient
    clean, corrupted = batch(seed), batch(seed + 1)
    full = f"attn.{name}" if name in OF_HEADS else name
    names = [f"blocks.{i}.{full}" for i in range(model.config.n_layers)]
    if names[0] not in model.activation_names:
        return
    score = attribution(model, clean, corrupted, difference, [name], frozen=("norm", "mlp", "pattern"))[name]
    model(clean, tap=(there := record(names)))
    linear = linearise(model, corrupted)
    base = difference(model(corrupted, tap=linear)[:, -1])
    for layer, site in enumerate(names):
        for p in range(N_POS):
            moved = model(corrupted, tap=compose(linear, patch(there, [site], positions=p)))
            whole = score[layer, :, p].sum() if name in OF_HEADS else score[layer, p]
            size = max(1.0, moved.abs().max().item())
            assert_close(whole, difference(moved[:, -1]) - base, atol=1e-9 * size, rtol=1e-7)


@settings(deadline=None, max_examples=8)
@given(models(min_layers=1, max_layers=2), seeds)
def test_integrated_gradients_of_the_embedding_sum_to_the_whole_difference(model, seed):
    """Along a straight path of the first stream the integral of the slope is the difference of its ends."""
    if model.config.act == "relu":
        return
    for weight in model.parameters():
        weight.mul_(0.3)  # gentle: the rule with 24 nodes has then converged
    clean, corrupted = batch(seed), batch(seed + 1)
    score = attribution(model, clean, corrupted, difference, ["resid_pre"], nodes=24)["resid_pre"]
    whole = difference(model(clean)[:, -1]) - difference(model(corrupted)[:, -1])
    assert_close(score[0].sum(), whole, atol=2e-3 * max(1, whole.abs().item()), rtol=2e-3)


@theorem
@given(models(min_layers=1, max_layers=2, causal=True), seeds)
def test_gates_are_the_game_of_the_subsets(model, seed):
    tokens = batch(seed)
    heads = [f"{layer}.{head}" for layer in range(model.config.n_layers) for head in range(model.config.n_heads)]
    if len(heads) > 8:
        return
    gates = HeadGates(model, tokens, difference)
    values = subset_values(model, tokens, difference)
    for number in (0, 1, 2 ** len(heads) - 1, seed % 2 ** len(heads)):
        some = torch.tensor([float(number >> i & 1) for i in range(len(heads))]).double()
        assert_close(gates(some), values[number], atol=1e-9, rtol=1e-9)
    up, down = (gates(torch.full((len(heads),), 1.0).double() - e) for e in (-1e-6, 1e-6))
    assert_close(gates.slopes(1.0).sum(), (up - down) / 2e-6, atol=1e-4, rtol=1e-4)


multilinear = st.integers(1, 6).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.floats(-3, 3), min_size=2**n, max_size=2**n))
)


def extension(values):
    """Return the multilinear function whose values at the corners of the cube are those of the subsets."""
    values, n = torch.tensor(values, dtype=torch.float64), len(values).bit_length() - 1

    def m(x):
        total = 0
        for number in range(2**n):
            weight = 1
            for i in range(n):
                weight = weight * (x[i] if number >> i & 1 else 1 - x[i])
            total = total + weight * values[number]
        return total

    return m, values, n


@theorem
@given(multilinear)
def test_the_diagonal_of_a_multilinear_function_is_its_shapley_value(drawn):
    """Owen 1972; and half as many nodes as there are heads are enough."""
    m, values, n = extension(drawn[1])

    def slopes(t):
        return slope(m, torch.full((n,), t, dtype=torch.float64))

    assert_close(diagonal(slopes, (n + 1) // 2), shapley(values), atol=1e-9, rtol=1e-9)
    assert_close(slopes(1.0), removed(values), atol=1e-9, rtol=1e-9)
    assert_close(slopes(0.0), alone(values), atol=1e-9, rtol=1e-9)


@settings(deadline=None, max_examples=5)
@given(seeds)
def test_grouped_keys_get_the_sum_of_their_query_heads(seed):
    """A key head shared by two query heads scores what the same key scores in the two heads of an ungrouped model."""
    grouped = Transformer(Config(2, 6, 4, 2, N_POS, D_VOCAB, init_std=0.7, n_kv_heads=2), seed=seed).double()
    apart = Transformer(Config(2, 6, 4, 2, N_POS, D_VOCAB, init_std=0.7), seed=seed).double()
    weights = {name: w.clone() for name, w in grouped.state_dict().items()}
    for layer in range(2):
        name = f"blocks.{layer}.attn.W_QKV"
        q, k, v = weights[name].split([4, 2, 2])
        weights[name] = torch.cat([q, k.repeat_interleave(2, 0), v.repeat_interleave(2, 0)])
    apart.load_state_dict(weights)
    clean, corrupted = batch(seed), batch(seed + 1)
    for softmax in (False, True):
        one, other = (
            attribution(m, clean, corrupted, difference, ["k", "v"], softmax=softmax) for m in (grouped, apart)
        )
        for name in ("k", "v"):
            assert_close(one[name], other[name].unflatten(1, (2, 2)).sum(dim=2), atol=1e-9, rtol=1e-9)


def test_bad_input_is_a_sentence():
    model = Transformer(Config(1, 6, 2, 3, N_POS, D_VOCAB))
    a, b = batch(0), batch(1)
    with pytest.raises(ValueError, match="patching needs the same shapes"):
        attribution(model, a, b[:, :3], difference)
    with pytest.raises(ValueError, match="names is"):
        attribution(model, a, b, difference, "z")
    with pytest.raises(ValueError, match="cannot freeze 'norms'"):
        attribution(model, a, b, difference, frozen=["norms"])
    with pytest.raises(ValueError, match="the model has no layers"):
        attribution(Transformer(Config(0, 6, 2, 3, N_POS, D_VOCAB)), a, b, difference)
    with pytest.raises(ValueError, match="nodes is -1"):
        attribution(model, a, b, difference, nodes=-1)
    with pytest.raises(ValueError, match="it must be one number"):
        attribution(model, a, b, lambda logits: logits[:, 0])
    with pytest.raises(ValueError, match="does not depend on its logits"):
        attribution(model, a, b, lambda logits: torch.tensor(1.0))
    for bad, message in (
        ({"names": []}, "names is"),
        ({"frozen": "norm"}, "give a list"),
        ({"nodes": 2.5}, "nodes is 2.5"),
    ):
        with pytest.raises(ValueError, match=message):
            attribution(model, a, b, difference, **bad)
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        attribution(model, a, b, difference)
    for nodes in (0, 1.5):
        with pytest.raises(ValueError, match="an integral needs at least one"):
            diagonal(lambda t: torch.zeros(2), nodes)
    with pytest.raises(ValueError, match="it must be one number"):
        HeadGates(model, a, lambda logits: logits[:, 0, 0]).slopes(1.0)
    with pytest.raises(ValueError, match="the value does not depend on the point"):
        HeadGates(model, a, lambda logits: torch.tensor(1.0)).slopes(1.0)
    with pytest.raises(ValueError, match="floating-point"):
        slope(torch.sum, torch.ones(2, dtype=torch.long))
    with pytest.raises(ValueError, match="p is a probability"):
        one_score(1.5, 1.0, 1.0)
    with pytest.raises(ValueError, match="give one for each of 2 heads"):
        HeadGates(model, a, difference)(torch.ones(3))
    smeared = Transformer(Config(1, 6, 2, 3, N_POS, D_VOCAB, smeared_keys=True))
    with pytest.raises(ValueError, match="smeared keys"):
        attribution(smeared, a, b, difference, ["k"], softmax=True)


def test_numbers_and_lists_are_taken_as_tensors():
    model = Transformer(Config(1, 6, 2, 3, N_POS, D_VOCAB), seed=0).requires_grad_(False)
    gates = HeadGates(model, batch(0), lambda logits: logits[..., 1].mean())
    assert_close(gates([1, 0]), gates(torch.tensor([1.0, 0.0])))
    assert_close(diagonal(lambda t: [t, 1.0], 2), torch.tensor([0.5, 1.0]))
    assert one_score(0.5, 0.0, 1.0)[0] == 0
    normed = Transformer(Config(2, 6, 2, 3, N_POS, D_VOCAB, norm="rms", init_std=0.7), seed=0).requires_grad_(False)
    listed, generated = (
        attribution(normed, batch(0), batch(1), difference, kind(["z"]), frozen=kind(["norm"]), nodes=nodes)["z"]
        for kind, nodes in ((list, 2), (iter, np.int64(2)))
    )
    assert_close(generated, listed, atol=0, rtol=0)
    half = attribution(model.bfloat16(), batch(0), batch(1), difference, ["q", "k"], softmax=True)
    assert half["q"].dtype == half["k"].dtype == torch.bfloat16


def test_a_patch_of_the_stream_is_exact_after_the_last_layer_without_a_norm():
    model = Transformer(Config(2, 6, 2, 3, N_POS, D_VOCAB, init_std=0.7), seed=1).double().requires_grad_(False)
    clean, corrupted = batch(3), batch(4)
    exact = patch_resid(model, clean, corrupted, difference, name="resid_post") - difference(model(corrupted)[:, -1])
    score = attribution(model, clean, corrupted, difference, ["resid_post"])["resid_post"]
    assert_close(score[1], exact[1], atol=1e-12, rtol=1e-12)
    assert (score[0] - exact[0]).abs().max() > 1e-6, "an attention layer follows: first order is not all"
