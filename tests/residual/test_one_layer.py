"""The theorems of the note one-layer: path expansion, the meaning of eigenvalues, the limits of a factored table."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual import Config, Transformer
from residual.factored import FactoredMatrix
from residual.methods.circuits import copying_score, full_OV, full_QK, positivity
from residual.methods.kron import kron, vec
from residual.taps import record

seeds = st.integers(0, 10**6)
positions = st.sampled_from(["shortformer", "none", "rotary"])


def model_of(seed, positions="shortformer"):
    config = Config(1, 8, 3, 4, 7, 10, positions=positions, init_std=0.7)
    return Transformer(config, seed=seed).double().requires_grad_(False)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=80)
@given(seeds, positions)
def test_the_path_expansion_is_the_model(seed, positions):
    """``Id ⊗ (W_E W_U)ᵀ + Σ_h A^h ⊗ (W_E W_OV^h W_U)ᵀ``, written out with one-hot rows and whole tables."""
    model = model_of(seed, positions)
    tokens = torch.randint(10, (2, 7), generator=torch.Generator().manual_seed(seed))
    logits = model(tokens, tap=(seen := record("*.pattern")))
    one_hot = torch.nn.functional.one_hot(tokens, 10).double()
    direct = model.W_E @ model.W_U
    table = one_hot @ direct
    operator = kron(torch.eye(7, dtype=torch.float64), direct.T)  # for the first text, with its rows concatenated
    for head in range(3):
        whole = model.W_E @ model.blocks[0].attn.W_V[head] @ model.blocks[0].attn.W_O[head] @ model.W_U
        pattern = seen["blocks.0.attn.pattern"][:, head]
        table += pattern @ one_hot @ whole
        operator += kron(pattern[0], whole.T)
    assert torch.allclose(table, logits, atol=1e-9, rtol=1e-9)
    assert torch.allclose(operator @ vec(one_hot[0]), vec(logits[0]), atol=1e-9, rtol=1e-9)


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_one_number_for_each_source_destination_and_output(seed):
    """Without positions a head adds, over sources, softmax(QK[destination, source]) OV[source, output]."""
    model = model_of(seed, "none")
    tokens = torch.randint(10, (7,), generator=torch.Generator().manual_seed(seed))
    QK, OV = full_QK(model, 0).AB / 4**0.5, full_OV(model, 0).AB  # head token token
    logits = model(tokens[None])[0]
    for i, destination in enumerate(tokens.tolist()):
        expected = (model.W_E @ model.W_U)[destination].clone()
        for head in range(3):
            weights = [torch.exp(QK[head, destination, tokens[j]]) for j in range(i + 1)]
            for j, weight in enumerate(weights):
                expected += weight / sum(weights) * OV[head, tokens[j]]
        assert torch.allclose(logits[i], expected, atol=1e-8, rtol=1e-8)


@settings(deadline=None, max_examples=100)
@given(seeds, st.integers(1, 5), st.integers(1, 9))
def test_nonzero_eigenvalues_of_AB_and_BA_agree(seed, rank, size):
    """A maps each eigenvector of BA to one of AB with the same eigenvalue; and the traces of powers agree."""
    A, B = random(seed, size, rank), random(seed + 1, rank, size)
    values, vectors = torch.linalg.eig(B @ A)
    for value, vector in zip(values, vectors.T, strict=True):
        carried = A.to(value.dtype) @ vector
        assert torch.allclose((A @ B).to(value.dtype) @ carried, value * carried, atol=1e-8)
    for power in (1, 2, 3):
        first, second = torch.matrix_power(A @ B, power).trace(), torch.matrix_power(B @ A, power).trace()
        assert torch.isclose(first, second, atol=1e-7, rtol=1e-9)


@settings(deadline=None, max_examples=60)
@given(seeds)
def test_the_sum_of_eigenvalues_is_the_sum_of_own_logits(seed):
    """A positive score does prove this: on average over the vocabulary, a token raises its own logit over the mean."""
    model = model_of(seed)
    OV, scores = full_OV(model, 0), copying_score(model)[0]
    own = OV.AB.diagonal(dim1=-2, dim2=-1)
    assert torch.allclose(OV.eigenvalues().sum(dim=-1).real, own.sum(dim=-1), atol=1e-8)
    over_mean = (own - OV.AB.mean(dim=-1)).mean(dim=-1)
    assert ((scores > 0) == (over_mean > 0)).all()


@settings(deadline=None, max_examples=40)
@given(seeds, st.floats(-9, 9))
def test_the_copying_score_does_not_see_what_softmax_does_not(seed, size):
    """A constant added to all logits changes no probability and no score, but it changes the raw sum."""
    model = model_of(seed)
    before, raw = copying_score(model), full_OV(model, 0).eigenvalues().sum(dim=-1).real
    tokens = torch.randint(10, (2, 7), generator=torch.Generator().manual_seed(seed))
    probabilities = model(tokens).softmax(dim=-1)
    added = size * random(seed + 5, model.config.d_model)
    with torch.no_grad():
        model.W_U += added[:, None]
    assert torch.allclose(model(tokens).softmax(dim=-1), probabilities, atol=1e-9)
    assert torch.allclose(copying_score(model), before, atol=1e-7)
    moved = (model.W_E @ model.blocks[0].attn.W_OV().AB @ added).sum(dim=-1)  # the trace of a matrix of rank one
    assert torch.allclose(full_OV(model, 0).eigenvalues().sum(dim=-1).real - raw, moved, atol=1e-7)


@settings(deadline=None, max_examples=60)
@given(seeds, st.floats(0.1, 9), st.integers(2, 6))
def test_the_score_of_pure_copying_is_one(seed, strength, size):
    """It is one in any basis, and minus one for the opposite of copying."""
    basis = random(seed, size, size)
    copying = strength * basis @ torch.diag(torch.arange(1.0, size + 1).double()) @ torch.linalg.inv(basis)
    identity = torch.eye(size).double()
    for sign in (1, -1):
        assert positivity(FactoredMatrix(sign * copying, identity)).item() == pytest.approx(sign, abs=1e-4)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 8), st.floats(1.01, 50))
def test_positive_eigenvalues_do_not_prove_copying(size, push):
    """All eigenvalues are 1, so the score is 1; yet every token but the last raises its neighbor's logit more."""
    table = torch.eye(size).double() + push * torch.diag(torch.ones(size - 1).double(), 1)
    # (λ Id - table) is triangular with λ - 1 on its diagonal: its determinant is (λ - 1)^size
    for value in (0.3, 2.0, -1.0):
        determinant = torch.linalg.det(value * torch.eye(size).double() - table)
        assert torch.isclose(determinant, torch.tensor(value - 1).double() ** size, rtol=1e-6)
    assert table.argmax(dim=1).tolist() == [min(i + 1, size - 1) for i in range(size)]


@settings(deadline=None, max_examples=60)
@given(seeds)
def test_a_head_cannot_keep_trigrams_apart(seed):
    """For one source, what a head adds to output o at destination d is ``A[d] · OV[o]``: a table of rank one."""
    model = model_of(seed)
    OV = full_OV(model, 0).AB  # head source output
    tokens = torch.randint(10, (2,), generator=torch.Generator().manual_seed(seed))
    for head in range(3):
        attends = []
        for destination in range(10):
            model(torch.stack([tokens[0], torch.tensor(destination)])[None], tap=(seen := record("*.pattern")))
            attends.append(seen["blocks.0.attn.pattern"][0, head, 1, 0])
        raised = torch.stack(attends)[:, None] * OV[head, tokens[0]]  # destination output
        crossed = (
            raised[:, None, :, None] * raised[None, :, None, :] - raised[:, None, None, :] * raised[None, :, :, None]
        )
        assert crossed.abs().max() < 1e-10
        assert (torch.stack(attends) > 0).all(), "attention is never zero: every destination gets some of everything"


@settings(deadline=None, max_examples=80)
@given(seeds)
def test_a_bilinear_form_cannot_ask_for_exclusive_or(seed):
    """``s(a + b) + s(a' + b') = s(a + b') + s(a' + b)`` for keys that are sums of two features."""
    query, W = random(seed, 6), random(seed + 1, 6, 6)
    a, a2, b, b2 = random(seed + 2, 4, 6)
    score = lambda key: query @ W @ key  # noqa: E731
    assert torch.isclose(score(a + b) + score(a2 + b2), score(a + b2) + score(a2 + b), atol=1e-9)
