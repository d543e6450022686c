"""The theorems of docs/notes/attention-heads.md, in float64.

Patterns and weights are drawn at random; the oracle is a loop over heads and positions, autograd, or a count.
"""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from residual import Config, Transformer
from residual.taps import at, compose, freeze, record

theorem = settings(deadline=None, max_examples=30, derandomize=True)
seeds = st.integers(0, 2**31 - 1)
heads = st.integers(1, 4)
widths = st.sampled_from([1, 2, 3])  # d_head


def layer(seed: int, n_heads: int, d_head: int, n_layers: int = 1, d_model: int = 8) -> Transformer:
    """A model whose patterns are far from uniform."""
    config = Config(
        n_layers=n_layers, d_model=d_model, n_heads=n_heads, d_head=d_head, n_ctx=6, d_vocab=11, init_std=0.7
    )
    return Transformer(config, seed=seed).double().requires_grad_(False)


def some_tokens(seed: int, pos: int = 6) -> Tensor:
    return torch.randint(11, (1, pos), generator=torch.Generator().manual_seed(seed))


def some_stream(seed: int, pos: int = 6, d_model: int = 8) -> Tensor:
    return torch.randn(1, pos, d_model, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def heads_by_loop(model: Transformer, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return patterns [head query key] and each head's output [head pos d_model], from the formulas."""
    attn, n = model.blocks[0].attn, len(x)
    patterns = torch.zeros(model.config.n_heads, n, n, dtype=x.dtype)
    results = torch.zeros(model.config.n_heads, *x.shape, dtype=x.dtype)
    for h in range(model.config.n_heads):
        for i in range(n):
            scores = [
                (x[i] @ attn.W_Q[h]) @ (x[j] @ attn.W_K[h]) / math.sqrt(model.config.d_head) for j in range(i + 1)
            ]
            weights = [math.exp(score - max(scores)) for score in scores]
            for j in range(i + 1):
                patterns[h, i, j] = weights[j] / sum(weights)
                results[h, i] += patterns[h, i, j] * ((x[j] @ attn.W_V[h]) @ attn.W_O[h])
    return patterns, results


@theorem
@given(heads, widths, seeds)
def test_concatenate_and_multiply(n_heads: int, d_head: int, seed: int) -> None:
    """The layer as computed, one product for all heads, is the sum over heads of A^h x W_V^h W_O^h."""
    model, tokens, seen = layer(seed, n_heads, d_head), some_tokens(seed), record(["*.resid_pre", "*.attn_out"])
    model(tokens, tap=seen)
    patterns, results = heads_by_loop(model, seen["blocks.0.resid_pre"][0])
    assert_close(seen["blocks.0.attn_out"][0], results.sum(dim=0))

    also = record(["*.pattern", "*.result"])  # recording these makes the model store the terms
    model(tokens, tap=also)
    assert_close(also["blocks.0.attn.pattern"][0], patterns)
    assert_close(also["blocks.0.attn.result"][0].transpose(0, 1), results)


@theorem
@given(st.integers(2, 4), widths, seeds)
def test_heads_do_not_meet(n_heads: int, d_head: int, seed: int) -> None:
    """A head's output does not depend on the weights of other heads, nor on its place among them."""
    model, tokens = layer(seed, n_heads, d_head), some_tokens(seed)
    before = record("*.result")
    model(tokens, tap=before)
    attn, other = model.blocks[0].attn, layer(seed + 1, n_heads, d_head).blocks[0].attn
    qkv, qkv_other = (w.W_QKV.view(3, n_heads, d_head, -1) for w in (attn, other))
    qkv[:, 1:] = qkv_other[:, 1:]
    attn.W_O[1:] = other.W_O[1:]
    after = record("*.result")
    model(tokens, tap=after)
    first = slice(None), slice(None), 0
    assert_close(after["blocks.0.attn.result"][first], before["blocks.0.attn.result"][first])

    written = model(tokens)
    order = torch.randperm(n_heads, generator=torch.Generator().manual_seed(seed))
    qkv.copy_(qkv[:, order].clone())
    attn.W_O.copy_(attn.W_O[order].clone())
    assert_close(model(tokens), written)


@theorem
@given(st.integers(1, 4), widths, st.integers(0, 5), st.integers(0, 5), seeds)
def test_attention_moves_information(n_heads: int, d_head: int, i: int, j: int, seed: int) -> None:
    """With frozen patterns, d(written at i)/d(stream at j) = Σ_h A^h_ij W_OV^h; the oracle is autograd."""
    model, tokens, seen = layer(seed, n_heads, d_head), some_tokens(seed), record(["*.resid_pre", "*.pattern"])
    model(tokens, tap=seen)
    x, patterns = seen["blocks.0.resid_pre"], seen["blocks.0.attn.pattern"]

    def written(x: Tensor) -> Tensor:
        out = record("*.attn_out")
        model(tokens, tap=compose(at("*.resid_pre", lambda _: x), freeze({"blocks.0.attn.pattern": patterns}), out))
        return out["blocks.0.attn_out"][0, i]

    jacobian = torch.autograd.functional.jacobian(written, x)[:, 0, j]  # out in
    W_OV = model.blocks[0].attn.W_OV().AB
    expected = sum(patterns[0, h, i, j] * W_OV[h] for h in range(n_heads))
    assert_close(jacobian, expected.T)
    if j > i:
        assert torch.equal(jacobian, torch.zeros_like(jacobian))


@theorem
@given(heads, widths, seeds)
def test_pattern_is_a_softmax_of_a_bilinear_form(n_heads: int, d_head: int, seed: int) -> None:
    """The score of a destination and a source is x_i W_QK x_jᵀ / √d_head and depends on nothing else in the stream."""
    model, tokens = layer(seed, n_heads, d_head), some_tokens(seed)
    seen = record(["*.resid_pre", "*.scores", "*.pattern"])
    model(tokens, tap=seen)
    x, W_QK = seen["blocks.0.resid_pre"][0].numpy(), model.blocks[0].attn.W_QK().AB.numpy()
    for h in range(n_heads):
        scores = x @ W_QK[h] @ x.T / math.sqrt(d_head)
        scores[np.triu_indices(6, k=1)] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        pattern = torch.tensor(weights / weights.sum(axis=1, keepdims=True))
        assert_close(seen["blocks.0.attn.scores"][0, h], torch.tensor(scores))
        assert_close(seen["blocks.0.attn.pattern"][0, h], pattern)


@theorem
@given(heads, widths, seeds)
def test_only_products_matter(n_heads: int, d_head: int, seed: int) -> None:
    """W_Q R, W_K R⁻ᵀ and W_V S, S⁻¹ W_O are the same heads with other queries, keys and values."""
    model, tokens, before, after = layer(seed, n_heads, d_head), some_tokens(seed), record("*"), record("*")
    model(tokens, tap=before)
    attn, generator = model.blocks[0].attn, torch.Generator().manual_seed(seed)
    turns = torch.randn(2, n_heads, d_head, d_head, generator=generator, dtype=torch.float64)
    R, S = torch.linalg.qr(turns)[0] * 1.5  # well conditioned, and not orthogonal
    queries, keys, values = attn.W_QKV.view(3, n_heads, d_head, -1)  # head d_head d_model
    queries.copy_(R.mT @ queries)
    keys.copy_(torch.linalg.inv(R) @ keys)
    values.copy_(S.mT @ values)
    attn.W_O.copy_(torch.linalg.inv(S) @ attn.W_O)
    model(tokens, tap=after)
    for name in ("scores", "pattern", "result"):
        assert_close(after[f"blocks.0.attn.{name}"], before[f"blocks.0.attn.{name}"])
    for name in ("q", "k", "v", "z"):
        assert not torch.allclose(after[f"blocks.0.attn.{name}"], before[f"blocks.0.attn.{name}"])


@theorem
@given(heads, widths, seeds)
def test_rank_at_most_d_head(n_heads: int, d_head: int, seed: int) -> None:
    """W_QK, W_OV and everything that a head writes have rank at most d_head."""
    model, tokens, seen = layer(seed, n_heads, d_head), some_tokens(seed), record("*.result")
    model(tokens, tap=seen)
    attn = model.blocks[0].attn
    for h in range(n_heads):
        for matrix in (attn.W_QK(h).AB, attn.W_OV(h).AB, seen["blocks.0.attn.result"][0, :, h]):
            assert np.linalg.matrix_rank(matrix.numpy()) <= d_head


@theorem
@given(heads, widths, seeds)
def test_write_space_is_the_same_everywhere(n_heads: int, d_head: int, seed: int) -> None:
    """Whatever the tokens and the position, head h writes to the row space of W_O^h."""
    model = layer(seed, n_heads, d_head)
    for turn in range(3):
        seen = record("*.result")
        model(some_tokens(seed + turn), tap=seen)
        for h in range(n_heads):
            rows = model.blocks[0].attn.W_O[h].numpy()  # d_head d_model
            result = seen["blocks.0.attn.result"][0, :, h].numpy()  # pos d_model
            coefficients, *_ = np.linalg.lstsq(rows.T, result.T, rcond=None)
            assert np.abs(rows.T @ coefficients - result.T).max() < 1e-9


@theorem
@given(heads, widths, st.floats(-2, 2), st.floats(-2, 2), st.integers(1, 3), seeds)
def test_frozen_patterns_make_it_linear(n_heads, d_head, a: float, b: float, n_layers: int, seed: int) -> None:
    """With every pattern frozen, logits(a x + b y) = a logits(x) + b logits(y), through any number of layers."""
    model, tokens, patterns = layer(seed, n_heads, d_head, n_layers), some_tokens(seed), record("*.pattern")
    model(tokens, tap=patterns)

    def logits(stream: Tensor) -> Tensor:
        return model(tokens, tap=compose(at("blocks.0.resid_pre", lambda _: stream), freeze(patterns)))

    x, y = some_stream(seed), some_stream(seed + 1)
    assert_close(logits(a * x + b * y), a * logits(x) + b * logits(y), atol=1e-9, rtol=1e-9)


def test_computed_patterns_make_it_nonlinear() -> None:
    model, tokens, x = layer(0, 2, 2), some_tokens(0), some_stream(0)

    def logits(stream: Tensor) -> Tensor:
        return model(tokens, tap=at("blocks.0.resid_pre", lambda _: stream))

    assert (logits(2 * x) - 2 * logits(x)).abs().max() > 1


@theorem
@given(heads, widths, seeds)
def test_account_of_a_logit(n_heads: int, d_head: int, seed: int) -> None:
    """A logit is exactly the direct path plus one number for each head and source."""
    model, tokens, seen = layer(seed, n_heads, d_head), some_tokens(seed), record(["*.resid_pre", "*.pattern"])
    logits = model(tokens, tap=seen)[0]
    x, A, W_OV = seen["blocks.0.resid_pre"][0], seen["blocks.0.attn.pattern"][0], model.blocks[0].attn.W_OV().AB
    for i in range(6):
        toward = model.W_U[:, seed % 11]
        terms = [A[h, i, j] * (x[j] @ W_OV[h] @ toward) for h in range(n_heads) for j in range(i + 1)]
        assert_close(x[i] @ toward + sum(terms), logits[i, seed % 11])


@theorem
@given(st.integers(2, 6), st.integers(2, 6), st.integers(1, 3), st.integers(1, 4), seeds)
def test_costs_of_the_forms(n: int, d: int, d_head: int, n_heads: int, seed: int) -> None:
    """FLOPs as the note counts them: 4 n d H d_head + 2 H n² d_head with factors, 2 H n d² + 2 H n² d without."""
    A, x = torch.empty(n_heads, n, n, device="meta"), torch.empty(n, d, device="meta")
    W_V, W_O = torch.empty(n_heads, d, d_head, device="meta"), torch.empty(n_heads, d_head, d, device="meta")
    W_OV = torch.empty(n_heads, d, d, device="meta")
    with FlopCounterMode(display=False) as summed:
        for h in range(n_heads):
            A[h] @ (x @ W_V[h]) @ W_O[h]
    with FlopCounterMode(display=False) as concatenated:
        v = (x @ W_V.transpose(0, 1).flatten(1)).unflatten(-1, (n_heads, d_head)).transpose(0, 1)
        (A @ v).transpose(0, 1).flatten(1) @ W_O.flatten(0, 1)
    with FlopCounterMode(display=False) as dense:
        for h in range(n_heads):
            A[h] @ (x @ W_OV[h])
    assert summed.get_total_flops() == concatenated.get_total_flops()
    assert summed.get_total_flops() == 4 * n * d * n_heads * d_head + 2 * n_heads * n**2 * d_head
    assert dense.get_total_flops() == 2 * n_heads * n * d**2 + 2 * n_heads * n**2 * d


@settings(deadline=None, max_examples=10, derandomize=True)  # a statistical test: the same draws every time
@given(st.integers(8, 24), st.integers(2, 6), seeds)
def test_overlap_of_random_subspaces(d: int, k: int, seed: int) -> None:
    """The mean squared cosine of the principal angles of two random k-dimensional subspaces is k/d on average."""
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(2, 4000, d, k, generator=generator, dtype=torch.float64))
    overlaps = torch.linalg.svdvals(Q[0].mT @ Q[1]).square().mean(dim=-1)
    standard_error = overlaps.std() / math.sqrt(len(overlaps))
    assert abs(overlaps.mean() - k / d) < 4 * standard_error


@theorem
@given(st.integers(1, 4), seeds)
def test_overlap_is_1_for_equal_and_0_for_orthogonal_subspaces(k: int, seed: int) -> None:
    """The overlap is 1 for the same subspace in any basis, 0 for orthogonal subspaces."""
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    W = Q[:, :k] @ torch.linalg.qr(torch.randn(k, k, generator=generator, dtype=torch.float64))[0] * 3.0
    again, _ = torch.linalg.qr(W)
    assert_close(torch.linalg.svdvals(Q[:, :k].T @ again), torch.ones(k, dtype=torch.float64))
    assert torch.linalg.svdvals(Q[:, :k].T @ Q[:, 4 : 4 + k]).abs().max() < 1e-12


def rotary(seed: int, n_layers: int = 2, **options) -> Transformer:
    """Return a small Llama: rotary positions, norms, a gated MLP."""
    config = Config(
        n_layers=n_layers,
        d_model=8,
        n_heads=4,
        d_head=4,
        n_kv_heads=2,
        n_ctx=8,
        d_vocab=11,
        d_mlp=7,
        act="swiglu",
        norm="rms",
        positions="rotary",
        init_std=0.7,
        **options,
    )
    return Transformer(config, seed=seed).double().requires_grad_(False)


@theorem
@given(st.integers(1, 6), st.floats(-4, 4), seeds)
def test_a_source_that_offers_nothing_is_a_bias_in_the_denominator(n: int, sink: float, seed: int) -> None:
    """Softmax over n sources and one with value zero = exp(s) v / (exp(sink) + Σ exp(s)), by a loop."""
    draw = torch.Generator().manual_seed(seed)
    scores, values = (torch.randn(n, *shape, generator=draw, dtype=torch.float64) for shape in ((), (3,)))
    with_sink = torch.cat([torch.tensor([sink], dtype=torch.float64), scores]).softmax(dim=0)
    moved = with_sink @ torch.cat([torch.zeros(1, 3, dtype=torch.float64), values])
    total = math.exp(sink) + sum(math.exp(score) for score in scores)
    expected = sum(math.exp(score) / total * value for score, value in zip(scores, values, strict=True))
    assert_close(moved, expected)


@theorem
@given(heads, widths, seeds)
def test_value_weights_do_not_depend_on_the_choice_of_values(n_heads: int, d_head: int, seed: int) -> None:
    """|x W_OV| is the same for W_V S, S⁻¹ W_O; |x W_V| is not."""
    attn = layer(seed, n_heads, d_head).blocks[0].attn
    draw = torch.Generator().manual_seed(seed + 1)
    S = torch.randn(d_head, d_head, generator=draw, dtype=torch.float64) + 3 * torch.eye(d_head, dtype=torch.float64)
    x = some_stream(seed)[0]
    for h in range(n_heads):
        values, other = x @ attn.W_V[h], x @ attn.W_V[h] @ S
        assert_close((values @ attn.W_O[h]).norm(dim=1), (other @ torch.linalg.inv(S) @ attn.W_O[h]).norm(dim=1))
        assert (values.norm(dim=1) - other.norm(dim=1)).abs().max() > 1e-3


@theorem
@given(seeds)
def test_value_weighted_attention_bounds_what_arrives(seed: int) -> None:
    """|Σ_j A_ij v_j| ≤ Σ_j A_ij |v_j|: the weights measure what is sent, which may cancel."""
    model, tokens, seen = layer(seed, 2, 3), some_tokens(seed), record(["*.pattern", "*.v", "*.result"])
    model(tokens, tap=seen)
    attn = model.blocks[0].attn
    for h in range(2):
        sizes = (seen["blocks.0.attn.v"][0, :, h] @ attn.W_O[h]).norm(dim=-1)
        arrives = seen["blocks.0.attn.result"][0, :, h].norm(dim=-1)
        assert bool((arrives <= seen["blocks.0.attn.pattern"][0, h] @ sizes + 1e-12).all())


@theorem
@given(seeds)
def test_with_rotary_positions_only_complex_numbers_are_free(seed: int) -> None:
    """A complex factor per pair for queries, and its inverse for their keys, changes nothing; any other matrix does."""
    model, tokens = rotary(seed), torch.randint(11, (1, 6), generator=torch.Generator().manual_seed(seed))
    logits = model(tokens)
    draw = torch.Generator().manual_seed(seed)
    for block in model.blocks:
        for kv in range(2):  # each key head is shared by two query heads
            size = 0.5 + torch.rand(2, generator=draw, dtype=torch.float64)
            turn = torch.polar(size, 6 * torch.rand(2, generator=draw, dtype=torch.float64))  # one number per pair
            maps = [
                (block.attn.W_Q[2 * kv], turn),
                (block.attn.W_Q[2 * kv + 1], turn),
                (block.attn.W_K[kv], 1 / turn.conj()),
            ]
            for weights, factor in maps:  # weights [d_model d_head], a view
                pairs = torch.complex(weights[:, :2], weights[:, 2:]) * factor
                weights.copy_(torch.cat([pairs.real, pairs.imag], dim=1))
    assert_close(model(tokens), logits)

    R = torch.randn(4, 4, generator=draw, dtype=torch.float64) + 3 * torch.eye(4, dtype=torch.float64)
    attn = model.blocks[0].attn
    for weights, factor in ((attn.W_Q[0], R), (attn.W_Q[1], R), (attn.W_K[0], torch.linalg.inv(R).T)):
        weights.copy_(weights @ factor)
    assert (model(tokens) - logits).abs().max() > 1e-6


@theorem
@given(seeds)
def test_to_hide_the_first_position_from_all_is_to_shorten_the_text(seed: int) -> None:
    """With rotary positions, hiding the first position in all heads equals running the model on the text without it."""
    model, tokens = rotary(seed), torch.randint(11, (2, 7), generator=torch.Generator().manual_seed(seed))

    def unseen(pattern: Tensor) -> Tensor:  # batch head query key
        pattern = pattern.clone()
        pattern[:, :, 1:, 0] = 0
        return pattern / pattern.sum(dim=-1, keepdim=True)

    assert_close(model(tokens, tap=at("*.pattern", unseen))[:, 1:], model(tokens[:, 1:]))
