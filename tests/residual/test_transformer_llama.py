"""The theorems of the note transformer about Llama: rotary positions, RMSNorm, gates, shared keys; in float64."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from residual import Config, Transformer
from residual.methods.loss import losses
from residual.model import angles, rotate
from residual.taps import at, record

theorem = settings(deadline=None, max_examples=30, derandomize=True)
seeds = st.integers(0, 2**31 - 1)


def llama(seed: int, **changed) -> Transformer:
    """Return a small Llama: four query heads that share two key heads, every scale far from 1."""
    config = Config(
        **{
            **dict(n_layers=2, d_model=8, n_heads=4, d_head=4, n_kv_heads=2, n_ctx=64, d_vocab=11, d_mlp=12),
            **dict(norm="rms", act="swiglu", positions="rotary", tied=True, init_std=0.5),
            **changed,
        }
    )
    model = Transformer(config, seed=seed).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if name.endswith(".w"):
            weight += 0.3 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return model


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_tokens(seed: int) -> Tensor:
    return torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(seed))


def turned_by(angle: Tensor, interleaved: bool):
    """Return a tap that rotates queries and keys by ``angle [pos pair]``, before the model rotates them."""
    place = torch.stack([angle.cos(), angle.sin()])[:, :, None]
    return at(["*.attn.q", "*.attn.k"], lambda x: rotate(x, place, interleaved))


# Rotary positions


@theorem
@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), st.booleans(), seeds)
def test_rotary_scores_depend_on_the_distance_alone(i: int, j: int, later: int, interleaved: bool, seed: int) -> None:
    """The score is Re Σ q conj(k) e^{i (i − j) ω}, with complex pairs: moving both by `later` changes nothing."""
    d, base = 6, 100.0
    q, k = normal(seed, 2, d)

    def at_position(x: Tensor, position: int) -> Tensor:
        turn = angles(torch.tensor([position]), d, base)
        place = torch.stack([turn.cos(), turn.sin()])[:, :, None]
        return rotate(x[None, None, None], place, interleaved)[0, 0, 0]

    score = at_position(q, i) @ at_position(k, j)
    assert_close(at_position(q, i + later) @ at_position(k, j + later), score, atol=1e-9, rtol=0)
    pairs = (lambda x: (x[0::2], x[1::2])) if interleaved else (lambda x: (x[: d // 2], x[d // 2 :]))
    q_c, k_c = (np.array([complex(a, b) for a, b in zip(*pairs(x.tolist()), strict=True)]) for x in (q, k))
    speed = np.array([base ** (-2 * c / d) for c in range(d // 2)])
    by_hand = (q_c * k_c.conj() * np.exp(1j * (i - j) * speed)).sum().real
    assert math.isclose(score, by_hand, abs_tol=1e-9)


@theorem
@given(st.integers(1, 10_000), st.booleans(), seeds)
def test_a_rotary_model_does_not_see_where_it_begins(later: int, interleaved: bool, seed: int) -> None:
    """Rotating all queries and keys by the same angles gives the same logits; rotating only queries does not."""
    model, tokens = llama(seed, rotary_interleaved=interleaved), some_tokens(seed)
    c = model.config
    further = angles(torch.tensor([later]), c.d_head, c.rotary_base).expand(9, -1)
    assert_close(model(tokens, tap=turned_by(further, interleaved)), model(tokens))
    place = torch.stack([further.cos(), further.sin()])[:, :, None]
    queries = at("*.attn.q", lambda x: rotate(x, place, interleaved))
    assert (model(tokens, tap=queries) - model(tokens)).abs().max() > 1e-6


@theorem
@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 200), st.integers(1, 8))
def test_sinusoids_have_products_that_depend_on_the_distance(i: int, j: int, later: int, half: int) -> None:
    """Vaswani et al. 2017, section 3.5: p_i · p_j = Σ cos((i − j) ω). With tokens added, it is not so simple."""
    turn = angles(torch.arange(401), 2 * half, 10000.0)
    p = torch.cat([turn.sin(), turn.cos()], dim=-1)
    speed = [10000.0 ** (-c / half) for c in range(half)]
    assert math.isclose(p[i] @ p[j], sum(math.cos((i - j) * w) for w in speed), abs_tol=1e-9)
    assert math.isclose(p[i + later] @ p[j + later], p[i] @ p[j], abs_tol=1e-9)


# RMSNorm


@theorem
@given(st.integers(2, 40), st.floats(0.1, 5), seeds)
def test_rmsnorm_is_layernorm_without_the_mean(width: int, mean: float, seed: int) -> None:
    """LN(x) = RMS(x − x̄) for every x, so they agree on x exactly if its mean is 0."""
    x = normal(seed, 5, width)
    x = x - x.mean(dim=-1, keepdim=True)
    layer, rms = (lambda y: F.layer_norm(y, (width,), eps=1e-5)), (lambda y: F.rms_norm(y, (width,), eps=1e-5))
    assert_close(rms(x), layer(x))
    assert_close(layer(x + mean), rms(x))
    assert (rms(x + mean) - layer(x + mean)).abs().max() > 1e-4
    # a mean shrinks RMSNorm's deviations, by the angle to the all-ones direction, and adds a mean to its output
    share = mean**2 / (x + mean).square().mean(dim=-1)
    assert_close(F.rms_norm(x + mean, (width,), eps=0.0).mean(dim=-1).square(), share)


# Gates


@theorem
@given(st.floats(0.1, 10), st.booleans(), seeds)
def test_a_gated_mlp_leaves_a_scale_free(scale: float, negative: bool, seed: int) -> None:
    """Scaling a neuron's W_in by c and its W_out by 1/c, c of either sign, changes nothing; with GELU it does."""
    c = -scale if negative else scale
    tokens = some_tokens(seed)
    for act, same in (("swiglu", True), ("gelu", False)):
        model = llama(seed, act=act)
        before = model(tokens)
        for block in model.blocks:
            block.mlp.W_in *= c
            block.mlp.W_out /= c
        if same:
            assert_close(model(tokens), before)
        elif not 0.9 < c < 1.1:
            assert (model(tokens) - before).abs().max() > 1e-6


@theorem
@given(seeds)
def test_swiglu_is_a_product_of_two_readings(seed: int) -> None:
    """For each neuron: (x · gate) σ(x · gate) (x · in), times the neuron's row of W_out."""
    model, tokens = llama(seed), some_tokens(seed)
    mlp, seen = model.blocks[0].mlp, record(["blocks.0.ln2.normalized", "blocks.0.mlp_out"])
    model(tokens, tap=seen)
    x = seen["blocks.0.ln2.normalized"] * model.blocks[0].ln2.w
    written = torch.zeros_like(x)
    for neuron in range(mlp.W_in.shape[1]):
        gate, inward = x @ mlp.W_gate[:, neuron], x @ mlp.W_in[:, neuron]
        written += (gate / (1 + (-gate).exp()) * inward)[..., None] * mlp.W_out[neuron]
    assert_close(seen["blocks.0.mlp_out"], written)


# Shared keys and values


@theorem
@given(seeds)
def test_sharing_is_having_equal_keys_and_values(seed: int) -> None:
    """A model with separate keys and values that are equal within each group is the same function."""
    model, tokens = llama(seed), some_tokens(seed)
    other = llama(seed, n_kv_heads=None)
    state = model.state_dict()
    for layer, block in enumerate(model.blocks):
        a = block.attn
        each = [x.mT.repeat_interleave(2, dim=0) for x in (a.W_K, a.W_V)]  # head d_head d_model
        state[f"blocks.{layer}.attn.W_QKV"] = torch.cat([a.W_Q.mT, *each])
    other.load_state_dict(state)
    assert_close(other(tokens), model(tokens))


@theorem
@given(*[st.integers(1, 4)] * 4, st.integers(1, 3), st.integers(1, 9))
def test_llama_parameter_count(n_layers: int, groups: int, sharing: int, half: int, vocab: int, d_mlp: int) -> None:
    """V d + L (2 d² + 2 d G d_head + 3 d d_mlp + 2 d) + d, tied, with heads together as wide as the stream."""
    d_head = 2 * half
    d = groups * sharing * d_head
    sizes = dict(n_layers=n_layers, d_model=d, n_heads=groups * sharing, n_kv_heads=groups, d_head=d_head)
    model = llama(0, **sizes, d_vocab=vocab, d_mlp=d_mlp)
    counted = sum(weight.numel() for weight in model.parameters())
    assert counted == vocab * d + n_layers * (2 * d**2 + 2 * d * groups * d_head + 3 * d * d_mlp + 2 * d) + d


@theorem
@given(st.integers(1, 3), st.sampled_from([1, 2, 4]), st.integers(1, 5))
def test_a_cache_holds_two_rows_for_each_key_head(n_layers: int, groups: int, tokens: int) -> None:
    """2 L G d_head numbers per token: smaller by the number of heads that share."""
    cache = llama(0, n_layers=n_layers, n_kv_heads=groups).cache(batch=1, n_ctx=tokens)
    assert cache.k.numel() + cache.v.numel() == 2 * n_layers * groups * 4 * tokens


# One pass trains all positions


@settings(theorem, max_examples=10)
@given(seeds)
def test_all_positions_are_trained_at_once(seed: int) -> None:
    """The gradient of one pass is the mean over all prefixes, each scored only at its last token."""
    model, tokens = llama(seed).requires_grad_(True), some_tokens(seed)[:1]
    weights = list(model.parameters())
    together = torch.autograd.grad(losses(model, tokens).mean(), weights)
    apart = [torch.zeros_like(w) for w in weights]
    for n in range(1, tokens.shape[1]):
        last = F.cross_entropy(model(tokens[:, :n])[:, -1], tokens[:, n])
        for total, gradient in zip(apart, torch.autograd.grad(last, weights), strict=True):
            total += gradient / (tokens.shape[1] - 1)
    assert_close(together, tuple(apart))
