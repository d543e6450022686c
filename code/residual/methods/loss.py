"""The loss of a language model: cross-entropy of the next token, in nats."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


def next_token_loss(model: nn.Module, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    """Mean cross-entropy, in nats, of each token after the first, given those before it."""
    return losses(model, tokens, "mean")


def losses(
    model: nn.Module, tokens: Int[Tensor, "batch pos"], reduction: Literal["none", "mean"] = "none"
) -> Float[Tensor, "batch pos_less_1"] | Float[Tensor, ""]:
    """Cross-entropy, in nats, of each token after the first, given those before it; or the mean of them all."""
    logits = model(tokens[:, :-1])  # batch pos-1 d_vocab
    found = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction=reduction)
    return found if reduction == "mean" else found.unflatten(0, logits.shape[:2])
