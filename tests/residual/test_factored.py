"""Factored matrices agree with NumPy on the matrix multiplied out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual import Config, FactoredMatrix, Transformer

size = st.integers(1, 7)
seeds = st.integers(0, 2**32 - 1)


def random(rows, columns, seed):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, columns)))


def close(got, expected, tolerance=1e-10):
    np.testing.assert_allclose(got.numpy(), expected, atol=tolerance, rtol=tolerance)


@settings(max_examples=60, deadline=None)
@given(size, size, size, seeds)
def test_norm_and_singular_values(rows, rank, columns, seed):
    M = FactoredMatrix(random(rows, rank, seed), random(rank, columns, seed + 1))
    full = M.A.numpy() @ M.B.numpy()
    assert tuple(M.shape) == full.shape
    close(M.AB, full)
    close(M.T.AB, full.T)
    close(M.norm(), np.linalg.norm(full))
    expected = np.linalg.svd(full, compute_uv=False)
    values = M.singular_values()
    close(values, expected[: len(values)])
    assert (expected[len(values) :] < 1e-10).all(), "values not listed are zero"
    U, S, V = M.svd()
    close(U * S @ V.mT, full)
    close(U.mT @ U, np.eye(len(S)))
    close(V.mT @ V, np.eye(len(S)))


@settings(max_examples=60, deadline=None)
@given(size, size, seeds)
def test_eigenvalues_and_trace(rows, rank, seed):
    """Sums of powers of eigenvalues are traces of powers, which need neither an eigenvalue solver nor an order."""
    M = FactoredMatrix(random(rows, rank, seed), random(rank, rows, seed + 1))
    full = M.A.numpy() @ M.B.numpy()
    values = M.eigenvalues()
    close(M.trace(), np.trace(full))
    scale = max(1.0, np.abs(full).sum())
    for power in range(1, 5):
        trace = np.trace(np.linalg.matrix_power(full / scale, power))
        np.testing.assert_allclose(((values / scale) ** power).sum().numpy(), trace, atol=1e-10)
    assert (values.abs().diff() <= 1e-9).all(), "largest modulus first"
    assert len(values) == min(rows, rank)


@settings(max_examples=60, deadline=None)
@given(size, size, size, size, size, seeds)
def test_products_stay_factored(rows, rank, inner, other_rank, columns, seed):
    M = FactoredMatrix(random(rows, rank, seed), random(rank, inner, seed + 1))
    N = FactoredMatrix(random(inner, other_rank, seed + 2), random(other_rank, columns, seed + 3))
    X = random(inner, columns, seed + 4)
    product, right, left = M @ N, M @ X, X.mT @ M.T
    assert product.rank == min(rank, other_rank)
    assert right.rank == left.rank == rank
    close(product.AB, M.AB.numpy() @ N.AB.numpy())
    close(right.AB, M.AB.numpy() @ X.numpy())
    close(left.AB, X.numpy().T @ M.AB.numpy().T)
    close((2 * M).AB, 2 * M.AB.numpy())


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_heads_circuits_equal_the_products_of_their_factors(seed):
    """All heads at once, and each separately; a head's circuit has rank at most d_head."""
    model = Transformer(Config(1, 8, 3, 2, 4, 5, init_std=1.0), seed=seed).double().requires_grad_(False)
    attn = model.blocks[0].attn
    for together, single, left, right in [
        (attn.W_QK(), attn.W_QK, attn.W_Q, attn.W_K.mT),
        (attn.W_OV(), attn.W_OV, attn.W_V, attn.W_O),
    ]:
        for head in range(3):
            full = left[head].numpy() @ right[head].numpy()
            close(single(head).AB, full)
            close(together[head].AB, full)
            close(together.norm()[head], np.linalg.norm(full))
            assert np.linalg.matrix_rank(single(head).AB.numpy()) <= 2


def test_a_tiny_product_of_large_factors_keeps_its_digits():
    """Two QR decompositions keep the digits; the norm as tr(AᵀA BBᵀ) would lose half of them."""
    A, B = random(6, 2, 0), random(2, 6, 1)
    rotation = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    small = FactoredMatrix(torch.cat([A, A], dim=1), torch.cat([B, (1e-12 * rotation - torch.eye(2)) @ B]))
    close(small.norm() * 1e12, np.linalg.norm(A @ rotation @ B), tolerance=1e-3)


def test_bad_shapes_are_readable_errors():
    with pytest.raises(ValueError, match=r"cannot factor a matrix as \[3, 2\] @ \[3, 2\]"):
        FactoredMatrix(torch.ones(3, 2), torch.ones(3, 2))
    flat = FactoredMatrix(torch.ones(3, 2), torch.ones(2, 4))
    with pytest.raises(ValueError, match="only a square matrix has eigenvalues; this one is 3 × 4"):
        flat.eigenvalues()
    with pytest.raises(ValueError, match="only a square matrix has a trace; this one is 3 × 4"):
        flat.trace()
    with pytest.raises(IndexError, match="no leading axis"):
        flat[0]
