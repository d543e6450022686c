"""A matrix kept as the product of two thin matrices.

A head's ``W_QK = W_Q W_Kᵀ`` and ``W_OV = W_V W_O`` are ``d_model × d_model`` but have rank at most ``d_head``
(Elhage et al. 2021, "Attention Heads are Independent and Additive"). Everything below is cheaper to
compute from the factors::

    A B       = Q_A (R_A R_Bᵀ) Q_Bᵀ          with A = Q_A R_A and Bᵀ = Q_B R_B
    σ(A B)    = σ(R_A R_Bᵀ)                   Q_A and Q_B have orthonormal columns
    ‖A B‖_F   = ‖R_A R_Bᵀ‖_F                  for the same reason
    λ(A B)    = λ(B A), up to zeros           A B and B A have the same nonzero eigenvalues
    tr(A B)   = Σ_ij A_ij B_ji
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FactoredMatrix:
    """``A @ B``, multiplied out only by ``.AB``. Leading axes (heads, for example) are batched.

    Raises:
        ValueError: the shapes do not match.
    """

    A: Float[Tensor, "*batch rows rank"]
    B: Float[Tensor, "*batch rank columns"]

    def __post_init__(self) -> None:
        if self.A.ndim < 2 or self.B.ndim < 2 or self.A.shape[-1] != self.B.shape[-2]:
            raise ValueError(
                f"cannot factor a matrix as {list(self.A.shape)} @ {list(self.B.shape)}: "
                "the last axis of A must be as long as the last but one of B"
            )

    @property
    def AB(self) -> Float[Tensor, "*batch rows columns"]:
        """The matrix, multiplied out."""
        return self.A @ self.B

    @property
    def shape(self) -> torch.Size:
        batch = torch.broadcast_shapes(self.A.shape[:-2], self.B.shape[:-2])
        return torch.Size((*batch, self.A.shape[-2], self.B.shape[-1]))

    @property
    def rank(self) -> int:
        """The length of the inner axis, an upper bound on the matrix's rank."""
        return self.A.shape[-1]

    @property
    def T(self) -> FactoredMatrix:
        return FactoredMatrix(self.B.mT, self.A.mT)

    def __getitem__(self, index) -> FactoredMatrix:
        """Return one matrix (or a slice) of the batch: only leading axes can be indexed."""
        if self.A.ndim != self.B.ndim or self.A.ndim < 3:
            raise IndexError("this FactoredMatrix has no leading axis to index; use .AB for single entries")
        return FactoredMatrix(self.A[index], self.B[index])

    def __matmul__(self, other: Tensor | FactoredMatrix) -> FactoredMatrix:
        """Return ``(A B) M``, still factored; if M is factored too, through the smaller of the two inner axes."""
        if isinstance(other, FactoredMatrix):
            if self.rank <= other.rank:
                return FactoredMatrix(self.A, (self.B @ other.A) @ other.B)
            return FactoredMatrix(self.A @ (self.B @ other.A), other.B)
        return FactoredMatrix(self.A, self.B @ other)

    def __rmatmul__(self, other: Tensor) -> FactoredMatrix:
        """``M (A B)``."""
        return FactoredMatrix(other @ self.A, self.B)

    def __mul__(self, scale: float) -> FactoredMatrix:
        return FactoredMatrix(self.A * scale, self.B)

    __rmul__ = __mul__

    @cached_property
    def _qr(self) -> tuple[Tensor, Tensor, Tensor]:
        """``Q_A, R_A R_Bᵀ, Q_B``."""
        Q_A, R_A = torch.linalg.qr(self.A)
        Q_B, R_B = torch.linalg.qr(self.B.mT)
        return Q_A, R_A @ R_B.mT, Q_B

    def norm(self) -> Float[Tensor, "*batch"]:
        """The Frobenius norm."""
        return torch.linalg.matrix_norm(self._qr[1])

    def singular_values(self) -> Float[Tensor, "*batch rank"]:
        """The largest ``min(rows, rank, columns)`` singular values, descending; all others are zero."""
        return torch.linalg.svdvals(self._qr[1])

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """Thin ``U [rows rank], S [rank], V [columns rank]`` with ``A B = U diag(S) Vᵀ``."""
        Q_A, core, Q_B = self._qr
        U, S, Vh = torch.linalg.svd(core, full_matrices=False)
        return Q_A @ U, S, Q_B @ Vh.mT

    def eigenvalues(self) -> Complex[Tensor, "*batch rank"]:
        """The eigenvalues of the square matrix ``A B``, largest modulus first; those not listed are zero.

        Raises:
            ValueError: the matrix is not square.
        """
        rows, columns = self.shape[-2:]
        if rows != columns:
            raise ValueError(f"only a square matrix has eigenvalues; this one is {rows} × {columns}")
        small = self.B @ self.A if self.rank <= rows else self.AB
        values = torch.linalg.eigvals(small)
        return values.gather(-1, values.abs().argsort(dim=-1, descending=True))

    def trace(self) -> Float[Tensor, "*batch"]:
        """``Σ_i (A B)_ii``.

        Raises:
            ValueError: the matrix is not square.
        """
        rows, columns = self.shape[-2:]
        if rows != columns:
            raise ValueError(f"only a square matrix has a trace; this one is {rows} × {columns}")
        return (self.A * self.B.mT).sum(dim=(-2, -1))
