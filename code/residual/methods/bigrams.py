"""The entropies of a table of bigram counts, and the distance of a model's logits from it. All in nats.

``counts[i, j]`` is how often token ``j`` follows token ``i``. With ``P(j|i) = counts[i, j] / counts[i].sum()`` and
``π(i)`` the share of ``i`` among all tokens that have a successor::

    cross_entropy        = - Σ_i π(i) Σ_j P(j|i) log Q(j|i),     Q(·|i) = softmax(logits[i])
    conditional_entropy  = - Σ_i π(i) Σ_j P(j|i) log P(j|i)
    excess               =   Σ_i π(i) KL(P(·|i) ‖ Q(·|i))        their difference
    mutual_information   =   Σ_i π(i) KL(P(·|i) ‖ u)             u(j) = Σ_i π(i) P(j|i)
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual.checks import check_range


def bigram_counts(tokens: Int[Tensor, " tokens"], d_vocab: int) -> Float[Tensor, "token next"]:
    """Return how often each token follows each other token, as float64 (exact up to 2⁵³).

    Raises:
        ValueError: a token is out of range.
    """
    if len(tokens):
        check_range(tokens, d_vocab)
    pairs = tokens[:-1] * d_vocab + tokens[1:]
    return torch.bincount(pairs, minlength=d_vocab**2).reshape(d_vocab, d_vocab).double()


def cross_entropy(counts: Float[Tensor, "token next"], logits: Float[Tensor, "token next"]) -> Float[Tensor, ""]:
    """Return the mean loss of predicting each next token with the softmax of its row of ``logits``."""
    return -(counts * logits.log_softmax(dim=-1)).sum() / counts.sum()


def conditional_entropy(counts: Float[Tensor, "token next"]) -> Float[Tensor, ""]:
    """Return the least loss possible for a prediction from the current token alone (``0 log 0 = 0``)."""
    total = torch.special.xlogy(counts, counts).sum()
    rows = counts.sum(dim=1)
    return (torch.special.xlogy(rows, rows).sum() - total) / counts.sum()


def excess(counts: Float[Tensor, "token next"], logits: Float[Tensor, "token next"]) -> Float[Tensor, ""]:
    """Return the mean KL divergence of the predictions from the conditional frequencies; zero if they agree."""
    return cross_entropy(counts, logits) - conditional_entropy(counts)


def mutual_information(counts: Float[Tensor, "token next"]) -> Float[Tensor, ""]:
    """Return the information of the current token about the next one: the excess of the best constant prediction."""
    next_alone = counts.sum(dim=0, keepdim=True)
    return conditional_entropy(next_alone) - conditional_entropy(counts)


def smoothed(counts: Float[Tensor, "token next"], alpha: float) -> Float[Tensor, "token next"]:
    """Return ``log((counts + α) / (row sum + α d_vocab))``: the log-bigram table, finite even for counts of zero."""
    raised = counts + alpha
    return (raised / raised.sum(dim=1, keepdim=True)).log()


def centred(
    table: Float[Tensor, "token next"], weights: Float[Tensor, "token next"] | None = None
) -> Float[Tensor, "token next"]:
    """Subtract each row's mean, which softmax does not see. ``weights`` may leave entries out of the mean."""
    if weights is None:
        return table - table.mean(dim=1, keepdim=True)
    mean = (table * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True).clamp(min=1e-300)
    return table - mean
