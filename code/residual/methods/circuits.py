"""Circuits of attention heads, read off the weights: what heads copy, how they compose, which subspaces they use.

From Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", for row vectors. If the model has norms,
fold them first (``fold.fold_layernorm``): otherwise their scales are missing from every product below. Nothing here
forms a ``d_model × d_model`` or ``d_vocab × d_vocab`` matrix.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual.factored import FactoredMatrix
from residual.methods.sites import indices
from residual.model import Attention, Block, Transformer


def full_OV(model: Transformer, layer: int, head: int | slice = slice(None)) -> FactoredMatrix:
    """Return ``W_E W_OV W_U [d_vocab d_vocab]``: how attending to a token changes the logits of all tokens.

    Raises:
        ValueError: there is no such layer or head.
    """
    attn, head = _head_of(model, layer, head)
    return model.W_E @ attn.W_OV(head) @ model.W_U


def full_QK(model: Transformer, layer: int, head: int | slice = slice(None)) -> FactoredMatrix:
    """Return ``W_E W_QK W_Eᵀ [d_vocab d_vocab]``: how each token scores each other, without the ``1/√d_head``.

    Raises:
        ValueError: there is no such layer or head.
    """
    attn, head = _head_of(model, layer, head)
    return model.W_E @ attn.W_QK(head) @ model.W_E.mT


# Composition


class Composition(NamedTuple):
    """Composition scores, the reading head first: ``K[2, 5, 0, 3]`` is head 2.5 reading head 0.3 with its keys.

    NaN unless the head that is read is in an earlier layer.
    """

    Q: Float[Tensor, "layer head layer head"]
    K: Float[Tensor, "layer head layer head"]
    V: Float[Tensor, "layer head layer head"]
    baseline: float  # mean score of random matrices of the same shapes and rank
    spread: float  # standard deviation of those scores


@torch.no_grad()
def composition_scores(model: Transformer, *, samples: int = 64, seed: int = 0) -> Composition:
    """Return how much of a head's input can come from an earlier head's output (Elhage et al. 2021, "Composition").

    ::

        Q   ‖W_OV¹ W_QK²‖ / (‖W_OV¹‖ ‖W_QK²‖)
        K   ‖W_QK² W_OV¹ᵀ‖ / (‖W_QK²‖ ‖W_OV¹‖)
        V   ‖W_OV¹ W_OV²‖ / (‖W_OV¹‖ ‖W_OV²‖)

    in Frobenius norms. This norm is not cyclic (‖AB‖ ≠ ‖BA‖), which the first version of the paper's figure
    overlooked; here the four factors stay in order. Random matrices also have a score, near ``1/√d_model``: subtract
    ``baseline`` before calling a score large.

    Args:
        samples: the number of pairs of Gaussian matrices, with the model's shapes and rank, for the baseline.
        seed: of the samples.

    Raises:
        ValueError: fewer than two samples, which give no standard deviation.
    """
    if samples < 2:
        raise ValueError(f"samples is {samples}; a baseline with its spread needs at least 2")
    c = model.config
    attention = _attention(model)
    ov, qk = [attn.W_OV() for attn in attention], [attn.W_QK() for attn in attention]
    scores = {kind: model.W_E.new_full((c.n_layers, c.n_heads) * 2, torch.nan) for kind in "QKV"}
    for reader in range(c.n_layers):
        for writer in range(reader):
            wrote = ov[writer]
            scores["Q"][reader, :, writer] = _ratios(wrote, qk[reader]).mT
            scores["K"][reader, :, writer] = _ratios(qk[reader], wrote.T)
            scores["V"][reader, :, writer] = _ratios(wrote, ov[reader]).mT
    random = _random_scores(c.d_model, c.d_head, samples, seed)
    return Composition(**scores, baseline=random.mean().item(), spread=random.std().item())


def _ratios(first: FactoredMatrix, second: FactoredMatrix) -> Float[Tensor, "first second"]:
    """Return ``‖A B‖ / (‖A‖ ‖B‖)`` for every pair from two batches of matrices.

    By ``A = Q R`` of the outermost factors, ``‖A¹ (B¹ A²) B²‖ = ‖R (B¹ A²) R'‖``, and all of these are d_head wide.
    """
    left = torch.linalg.qr(first.A, mode="r").R  # first rank rank
    right = torch.linalg.qr(second.B.mT, mode="r").R  # second rank rank
    core = first.B[:, None] @ second.A[None]  # first second rank rank
    products = torch.linalg.matrix_norm(left[:, None] @ core @ right.mT[None])
    return products / (first.norm()[:, None] * second.norm()[None])


def _random_scores(d_model: int, d_head: int, samples: int, seed: int) -> Float[Tensor, " samples"]:
    generator = torch.Generator().manual_seed(seed)
    scores = []
    for _ in range(samples):  # one at a time: wide models' factors are large
        shapes = ((d_model, d_head), (d_head, d_model)) * 2
        a, b, c, d = (torch.randn(1, *shape, generator=generator, dtype=torch.float64) for shape in shapes)
        scores.append(_ratios(FactoredMatrix(a, b), FactoredMatrix(c, d)).squeeze())
    return torch.stack(scores)


# Copying and matching


def positivity(M: FactoredMatrix) -> Float[Tensor, "*batch"]:
    """Return ``Σ λ / Σ |λ|`` over the eigenvalues: 1 if all are positive, -1 if all are negative (Elhage et al. 2021).

    The eigenvalues of a real matrix come in conjugate pairs, so the sum is real. Positive eigenvalues alone do not
    prove copying, because eigenvectors need not be orthogonal: look at the diagonal too (``top_entries``).
    """
    values = M.eigenvalues()
    return values.real.sum(dim=-1) / values.abs().sum(dim=-1)


@torch.no_grad()
def copying_score(model: Transformer) -> Float[Tensor, "layer head"]:
    """Return ``positivity`` of each head's ``W_E W_OV W_U``: does attending to a token raise its own logit?

    The mean of ``W_U`` over outputs is subtracted first. It adds the same to all logits, which softmax does not see but
    the sum of the eigenvalues does: without this, models with the same predictions have different scores.
    """
    W_U = model.W_U - model.W_U.mean(dim=-1, keepdim=True)
    scores = [positivity(model.W_E @ attn.W_OV() @ W_U) for attn in _attention(model)]
    return torch.stack(scores) if scores else model.W_E.new_zeros(0, model.config.n_heads)


# Tables too large to form


class Entries(NamedTuple):
    """The entries of a table, largest first."""

    values: Float[Tensor, " k"]
    rows: Int[Tensor, " k"]
    columns: Int[Tensor, " k"]


@torch.no_grad()
def top_entries(
    A: Float[Tensor, "rows rank"], B: Float[Tensor, "rank columns"], k: int = 10, *, block: int = 1024
) -> Entries:
    """Return the ``k`` largest entries of ``A @ B``, forming at most ``block × block`` entries at a time.

    Exact. Rows and columns are visited from the longest to the shortest. Since ``|a · b| ≤ ‖a‖ ‖b‖``, a block whose
    bound is below the smallest entry kept so far contains none of them, nor do later blocks. For the smallest entries,
    pass ``-A``.

    Raises:
        ValueError: the shapes do not match, or there are fewer than ``k`` entries.
    """
    if A.ndim != 2 or B.ndim != 2 or A.shape[1] != B.shape[0]:
        raise ValueError(f"{list(A.shape)} @ {list(B.shape)} is no table; both need two axes, the inner axes equal")
    n_rows, n_columns = A.shape[0], B.shape[1]
    if not 0 < k <= n_rows * n_columns:
        raise ValueError(f"cannot take {k} entries of a table of {n_rows} × {n_columns}")
    row_norms, row_order = A.norm(dim=1).sort(descending=True, stable=True)
    column_norms, column_order = B.norm(dim=0).sort(descending=True, stable=True)
    A, B = A[row_order], B[:, column_order]
    values, places = A.new_zeros(0), row_order.new_zeros(0)
    for top in range(0, n_rows, block):
        for left in range(0, n_columns, block):
            bound = row_norms[top] * column_norms[left] * (1 + 1e-5)  # (the norms are rounded)
            if len(values) == k and bound < values[-1]:
                break
            part = A[top : top + block] @ B[:, left : left + block]
            best, where = part.flatten().topk(min(k, part.numel()))
            rows, columns = where // part.shape[1] + top, where % part.shape[1] + left
            values, order = torch.cat([values, best]).topk(min(k, len(values) + len(best)))
            places = torch.cat([places, rows * n_columns + columns])[order]
    return Entries(values, row_order[places // n_columns], column_order[places % n_columns])


# Subspaces


def principal_cosines(
    A: Float[Tensor, "*batch d_model rank_a"], B: Float[Tensor, "*batch d_model rank_b"]
) -> Float[Tensor, "*batch rank"]:
    """Return the cosines of the principal angles between the column spaces of A and B, largest first.

    Raises:
        ValueError: the columns of A and B differ in length.
    """
    _check_columns(A, B)
    return torch.linalg.svdvals(_basis(A).mT @ _basis(B)).clamp(max=1)


def overlap(
    A: Float[Tensor, "*batch d_model rank_a"], B: Float[Tensor, "*batch d_model rank_b"]
) -> Float[Tensor, "*batch"]:
    """Return the mean squared cosine of the principal angles: 1 if one space contains the other, 0 if orthogonal.

    For two random spaces it is ``max(rank_a, rank_b) / d_model`` on average: compare with that. For the spaces that
    heads write to, pass ``W_O.mT``; for those they read, ``W_Q``, ``W_K``, ``W_V`` as they are.

    Raises:
        ValueError: the columns of A and B differ in length.
    """
    _check_columns(A, B)
    first, second = _basis(A), _basis(B)
    # columns that _basis sets to zero count neither here nor in the rank
    smaller = torch.minimum(*(basis.square().sum(dim=(-2, -1)) for basis in (first, second)))
    return (first.mT @ second).square().sum(dim=(-2, -1)) / smaller


def _check_columns(A: Tensor, B: Tensor) -> None:
    if min(A.ndim, B.ndim) < 2 or A.shape[-2] != B.shape[-2]:
        raise ValueError(f"the columns of {list(A.shape)} and {list(B.shape)} are not in the same space")


def _basis(A: Float[Tensor, "*batch d_model rank"]) -> Float[Tensor, "*batch d_model rank"]:
    """Return an orthonormal basis of the columns' span, padded with zero columns if they are dependent."""
    U, S, _ = torch.linalg.svd(A, full_matrices=False)
    tolerance = S[..., :1] * max(A.shape[-2:]) * torch.finfo(A.dtype).eps
    return U * S.gt(tolerance)[..., None, :]


def _head_of(model: Transformer, layer: int, head: int | slice) -> tuple[Attention, int | slice]:
    """Return the attention of a layer, and the head, after checking that both exist."""
    places = indices(layer, model.config.n_layers, "layer")
    if isinstance(layer, slice) or len(places) != 1:
        raise ValueError(f"layer is {layer!r}; a circuit is in one layer, so give one whole number")
    if not isinstance(head, slice):
        heads = indices(head, model.config.n_heads, "head")
        if len(heads) != 1:
            raise ValueError(f"head must be a number or a slice; {head!r} is neither")
        head = heads[0]
    return _attention(model)[places[0]], head


def _attention(model: Transformer) -> list[Attention]:
    return [cast(Block, block).attn for block in model.blocks]
