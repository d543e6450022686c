"""The theorems of the note zero-layer, in float64, on tables and models drawn at random."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual import Config, Transformer
from residual.methods.bigrams import (
    bigram_counts,
    centred,
    conditional_entropy,
    cross_entropy,
    excess,
    mutual_information,
    smoothed,
)
from residual.methods.loss import next_token_loss

seeds = st.integers(0, 2**32 - 1)
untimed = settings(deadline=None)  # the very first call is slow, because torch loads parts lazily


@st.composite
def tables(draw, smallest=0):
    """Draw counts with some zeros, but without an empty row or column."""
    size = draw(st.integers(2, 7))
    entries = st.integers(smallest, 40)
    cells = draw(st.lists(entries, min_size=size**2, max_size=size**2))
    counts = torch.tensor(cells).reshape(size, size).double()
    return counts + torch.eye(size).double()


def logits_for(counts, seed, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(counts.shape, generator=generator, dtype=torch.float64)


def model_for(d_vocab, d_model, seed):
    config = Config(n_layers=0, d_model=d_model, n_ctx=60, d_vocab=d_vocab, positions="none", init_std=1.0)
    return Transformer(config, seed=seed).double()


@untimed
@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.integers(1, 4), seeds)
def test_counts_are_enough(stream, d_model, seed):
    """The loss on a text, and its gradient, equal those on the text's table of bigram counts."""
    tokens = torch.tensor(stream)
    model = model_for(5, d_model, seed)
    on_text = next_token_loss(model, tokens[None])
    on_table = cross_entropy(bigram_counts(tokens, 5), model(torch.arange(5)[:, None])[:, 0])
    torch.testing.assert_close(on_text, on_table)
    for a, b in zip(
        torch.autograd.grad(on_text, list(model.parameters())),
        torch.autograd.grad(on_table, list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@untimed
@given(st.lists(st.integers(0, 4), min_size=2, max_size=60))
def test_counts_are_those_of_a_loop(stream):
    expected = np.zeros((5, 5))
    for i in range(len(stream) - 1):
        expected[stream[i], stream[i + 1]] += 1
    assert (bigram_counts(torch.tensor(stream), 5).numpy() == expected).all()


def test_a_token_out_of_range_is_not_counted_as_another():
    """At the end of the stream it would land in the next row: 0 → 5 is cell (1, 0)."""
    for stream, bad in (([0, 5], 5), ([5, 0], 5), ([0, -1, 3], -1)):
        with pytest.raises(ValueError, match=f"token {bad} is out of range; the model knows 0 to 4"):
            bigram_counts(torch.tensor(stream), 5)
    assert bigram_counts(torch.tensor([], dtype=torch.long), 5).sum() == 0


@untimed
@given(tables(), seeds)
def test_cross_entropy_is_entropy_plus_divergence(counts, seed):
    """The divergence is summed in a loop, and is never negative."""
    logits = logits_for(counts, seed)
    total, divergence, entropy = counts.sum().item(), 0.0, 0.0
    for i, row in enumerate(counts.tolist()):
        normaliser = sum(math.exp(x) for x in logits[i].tolist())
        for j, count in enumerate(row):
            if count:
                p, q = count / sum(row), math.exp(logits[i, j]) / normaliser
                divergence += count / total * math.log(p / q)
                entropy -= count / total * math.log(p)
    assert math.isclose(cross_entropy(counts, logits), entropy + divergence, rel_tol=1e-9)
    assert math.isclose(conditional_entropy(counts), entropy, rel_tol=1e-9, abs_tol=1e-12)
    assert math.isclose(excess(counts, logits), divergence, rel_tol=1e-7, abs_tol=1e-9)
    assert divergence > -1e-12
    if (counts > 0).all():
        assert abs(excess(counts, counts.log())) < 1e-9


@untimed
@given(tables(), seeds)
def test_ignoring_the_token_costs_the_mutual_information(counts, seed):
    """The best prediction that is the same after every token is the frequencies, whose excess is I."""
    frequencies = counts.sum(dim=0).log().expand_as(counts)
    information = mutual_information(counts)
    torch.testing.assert_close(excess(counts, frequencies), information, atol=1e-9, rtol=1e-9)
    other = logits_for(counts, seed)[:1].expand_as(counts)
    assert excess(counts, other) >= information - 1e-9
    joint, total = counts.numpy() / counts.sum().item(), 0.0
    for i, j in np.ndindex(*joint.shape):
        if joint[i, j]:
            total += joint[i, j] * math.log(joint[i, j] / (joint[i].sum() * joint[:, j].sum()))
    assert math.isclose(information, total, rel_tol=1e-9, abs_tol=1e-12)


@untimed
@given(tables(), seeds, st.floats(0.1, 100))
def test_a_constant_per_row_is_free(counts, seed, scale):
    """It changes no probability, so not the loss either; and centering removes it, so there is no other freedom."""
    logits = logits_for(counts, seed)
    moved = logits + scale * logits_for(counts, seed + 1)[:, :1]
    torch.testing.assert_close(moved.softmax(-1), logits.softmax(-1), atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(cross_entropy(counts, moved), cross_entropy(counts, logits))
    torch.testing.assert_close(centred(moved), centred(logits), atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(centred(logits.log_softmax(-1)), centred(logits), atol=1e-10, rtol=1e-9)


@untimed
@given(tables(), st.integers(1, 4), seeds)
def test_the_gradient_never_moves_the_mean_column(counts, d_model, seed):
    """The gradient of the logits sums to zero along each row, so the gradient of W_U's columns sums to zero."""
    model = model_for(len(counts), d_model, seed)
    loss = cross_entropy(counts, model(torch.arange(len(counts))[:, None])[:, 0])
    gradient = torch.autograd.grad(loss, model.W_U)[0]
    torch.testing.assert_close(gradient.sum(dim=1), torch.zeros(d_model).double(), atol=1e-10, rtol=0)


@untimed
@given(tables(), st.integers(1, 4), seeds)
def test_log_probabilities_have_rank_at_most_one_more_than_the_width(counts, d_model, seed):
    """Centered logits have rank at most d_model, because centering multiplies by a matrix from the right."""
    model = model_for(len(counts), d_model, seed).requires_grad_(False)
    logits = model.W_E @ model.W_U
    size = len(counts)
    assert np.linalg.matrix_rank(logits.log_softmax(-1).numpy(), tol=1e-8) <= min(size, d_model + 1)
    assert np.linalg.matrix_rank(centred(logits).numpy(), tol=1e-8) <= min(size, d_model)


@untimed
@given(tables(smallest=1))
def test_a_width_of_one_less_than_the_vocabulary_is_enough(counts):
    """A table without zeros is matched exactly, because its centered logarithm has rank at most d_vocab - 1."""
    U, S, Vh = torch.linalg.svd(centred(counts.log()))
    width = len(counts) - 1
    model = model_for(len(counts), width, 0).requires_grad_(False)
    model.W_E.copy_(U[:, :width] * S[:width])
    model.W_U.copy_(Vh[:width])
    logits = model(torch.arange(len(counts))[:, None])[:, 0]
    torch.testing.assert_close(logits.softmax(-1), counts / counts.sum(dim=1, keepdim=True), atol=1e-10, rtol=1e-8)
    assert abs(excess(counts, logits)) < 1e-10


@untimed
@given(tables(), seeds)
def test_a_pair_never_seen_pulls_its_logit_down_for_ever(counts, seed):
    """Its derivative is π(i) Q(j|i) > 0 for any weights, so no weights are optimal if a count is zero."""
    logits = logits_for(counts, seed).requires_grad_()
    gradient = torch.autograd.grad(cross_entropy(counts, logits), logits)[0]
    share = counts.sum(dim=1, keepdim=True) / counts.sum()
    never = counts == 0
    torch.testing.assert_close(gradient[never], (share * logits.softmax(-1))[never], atol=1e-12, rtol=1e-8)
    assert (gradient[never] > 0).all()


@untimed
@given(tables(), st.integers(1, 3), seeds)
def test_weighted_truncation_is_the_nearest_table_of_its_rank(counts, rank, seed):
    """Eckart and Young, for weights that are a product of one per row and one per column.

    The error is the tail of the squared singular values, and no table of that rank tried here has a smaller error:
    random ones, ones near the truncation, and ones found by solving for each factor in turn.
    """
    rank = min(rank, len(counts))
    target = centred(smoothed(counts, 0.5))
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.rand(len(counts), generator=generator, dtype=torch.float64) + 0.1 for _ in range(2))
    scale = (rows[:, None] * columns).sqrt()

    def error(table):
        return (rows[:, None] * columns * (target - table) ** 2).sum()

    U, S, Vh = torch.linalg.svd(target * scale)
    least = error((U[:, :rank] * S[:rank]) @ Vh[:rank] / scale)
    torch.testing.assert_close(least, (S[rank:] ** 2).sum(), atol=1e-10, rtol=1e-8)
    near = U[:, :rank] * S[:rank] / rows.sqrt()[:, None], Vh[:rank] / columns.sqrt()
    for size in (1e-3, 1e-1, 1.0):
        a, b = (x + size * torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in near)
        assert error(a @ b) >= least - 1e-9
        for _ in range(30):  # alternating least squares from there
            b = torch.linalg.lstsq(rows.sqrt()[:, None] * a, rows.sqrt()[:, None] * target).solution
            a = torch.linalg.lstsq(columns.sqrt()[:, None] * b.T, (columns.sqrt() * target).T).solution.T
        assert error(a @ b) >= least - 1e-9


@untimed
@given(tables(smallest=1), seeds)
def test_a_small_error_costs_half_its_weighted_variance(counts, seed):
    """KL to second order is half the variance of the error under P(·|i), so each entry has weight π(i) P(j|i)."""
    joint = counts / counts.sum()
    conditional = counts / counts.sum(dim=1, keepdim=True)
    error = logits_for(counts, seed, scale=1.0)
    mean = (conditional * error).sum(dim=1, keepdim=True)
    half_variance = 0.5 * (joint * (error - mean) ** 2).sum()
    small = 1e-3
    ratio = excess(counts, conditional.log() + small * error) / (small**2 * half_variance)
    assert abs(ratio - 1) < 0.02


@untimed
@given(tables(), st.integers(1, 4), seeds)
def test_the_plane_is_drawn_only_up_to_an_affine_map(counts, d_model, seed):
    """W_E M · M⁻¹ (W_U + c) gives the same predictions for any invertible M and any column c."""
    model = model_for(len(counts), d_model, seed).requires_grad_(False)
    tokens = torch.arange(len(counts))[:, None]
    before = model(tokens).softmax(-1)
    generator = torch.Generator().manual_seed(seed)
    M = torch.randn(d_model, d_model, generator=generator, dtype=torch.float64)
    M = torch.linalg.qr(M).Q * torch.linspace(0.5, 2, d_model).double()
    c = torch.randn(d_model, 1, generator=generator, dtype=torch.float64)
    model.W_E.copy_(model.W_E @ M)
    model.W_U.copy_(torch.linalg.solve(M, model.W_U + c))
    torch.testing.assert_close(model(tokens).softmax(-1), before, atol=1e-10, rtol=1e-8)


@untimed
@given(tables(), st.integers(1, 4), seeds)
def test_tied_weights_make_a_reversible_chain(counts, d_model, seed):
    """For symmetric logits S, share(i) ∝ Σ_j exp S_ij: steps from i to j are as frequent as back (detailed balance)."""
    W_E = model_for(len(counts), d_model, seed).W_E.detach()
    logits = W_E @ W_E.T
    share = logits.logsumexp(-1).softmax(-1)
    flow = share[:, None] * logits.softmax(-1)
    torch.testing.assert_close(flow, flow.T, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(share @ logits.softmax(-1), share)  # so the shares are stationary


@untimed
@given(st.integers(2, 7), st.integers(2, 6), seeds)
def test_a_tied_direct_path_echoes_where_embeddings_are_as_long(vocab, d_model, seed):
    """Logits e_i diag(w) e_j / scale_i are largest at j = i if w > 0 and all e diag(w) e are equal (Cauchy–Schwarz)."""
    config = Config(n_layers=0, d_model=d_model, n_ctx=1, d_vocab=vocab, positions="none", norm="rms", tied=True)
    model = Transformer(config, seed=seed).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    model.ln_final.w.copy_(torch.rand(d_model, generator=generator, dtype=torch.float64) + 0.1)
    rows = torch.randn(vocab, d_model, generator=generator, dtype=torch.float64)
    model.W_E.copy_(rows / (rows.square() @ model.ln_final.w).sqrt()[:, None])
    tokens = torch.arange(vocab)
    assert torch.equal(model(tokens[:, None])[:, 0].argmax(-1), tokens)
    nearest = ((model.W_E[1:] * model.ln_final.w) @ model.W_E[0]).max()  # the largest cosine with another
    model.W_E[0] *= 0.01  # a short embedding loses to any other that is closer than that
    after = model(tokens[:1, None])[0, 0]
    assert bool(after[1:].max() > after[0]) == bool(nearest > 0.01)
