"""Tensor (Kronecker) products of matrices, written ``A ⊗ W`` as in the notes.

Vectorisation is row-major, torch's own order, unless a name says otherwise. So, for ``X [n d]``,

    vec(A X W)     = (A ⊗ Wᵀ) vec(X)
    vec_col(A X W) = (Wᵀ ⊗ A) vec_col(X)

The rearrangement and the expansion are from Van Loan and Pitsianis, "Approximation with Kronecker
products" (1993). In the shapes, ``mp`` stands for m·p: the row index (i, k) flattened, k running fastest.
"""

from __future__ import annotations

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor


def kron(A: Float[Tensor, "m n"], B: Float[Tensor, "p q"]) -> Float[Tensor, "mp nq"]:
    """Return ``(A ⊗ B)[i p + k, j q + l] = A[i, j] B[k, l]``: the block matrix whose block (i, j) is ``A[i, j] B``.

    Unlike ``torch.kron`` it takes a transposed (non-contiguous) argument on every backend.
    """
    (m, n), (p, q) = A.shape, B.shape
    return einsum(A, B, "m n, p q -> m p n q").reshape(m * p, n * q)


def vec(X: Float[Tensor, "m n"]) -> Float[Tensor, " mn"]:
    """Return the rows of ``X``, one after the other."""
    return X.reshape(-1)


def vec_col(X: Float[Tensor, "m n"]) -> Float[Tensor, " mn"]:
    """Return the columns of ``X``, one after the other: the order in most textbooks."""
    return X.T.reshape(-1)


def rearrange(M: Float[Tensor, "mp nq"], outer: tuple[int, int], inner: tuple[int, int]) -> Float[Tensor, "mn pq"]:
    """Return the blocks of ``M`` as rows: row ``(i, j)`` is vec of block ``(i, j)``.

    ``rearrange(A ⊗ B) = vec(A) vec(B)ᵀ``, so a matrix is a sum of ``r`` tensor products of these shapes if
    and only if its rearrangement has rank at most ``r``. Entries only move, so the Frobenius norm stays the same.

    Args:
        outer: shape ``(m, n)`` of the left factors, the number of blocks down and across.
        inner: shape ``(p, q)`` of the right factors, the shape of one block.

    Raises:
        ValueError: ``M`` is not ``[m p, n q]``.
    """
    (m, n), (p, q) = outer, inner
    if M.shape != (m * p, n * q):
        raise ValueError(f"{m}×{n} blocks of {p}×{q} make a {m * p}×{n * q} matrix; this one is {tuple(M.shape)}")
    return M.reshape(m, p, n, q).transpose(1, 2).reshape(m * n, p * q)


def expand(
    M: Float[Tensor, "mp nq"], outer: tuple[int, int], inner: tuple[int, int], terms: int
) -> list[tuple[Float[Tensor, "m n"], Float[Tensor, "p q"]]]:
    """Return the factors of the ``terms`` tensor products whose sum is nearest to ``M`` in the Frobenius norm.

    By Eckart–Young it is the truncated singular value decomposition of ``rearrange(M)``. Each pair carries
    the square root of its singular value in both factors.
    """
    U, S, Vh = torch.linalg.svd(rearrange(M, outer, inner), full_matrices=False)
    return [((S[r].sqrt() * U[:, r]).reshape(outer), (S[r].sqrt() * Vh[r]).reshape(inner)) for r in range(terms)]
