"""The loss of a language model: cross-entropy of the next token, in nats."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


def next_token_loss(model: nn.Module, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    """Return the mean cross-entropy, in nats, of each token after the first, given those before it."""
    return losses(model, tokens, "mean")


def losses(
    model: nn.Module, tokens: Int[Tensor, "batch pos"], reduction: Literal["none", "mean"] = "none"
) -> Float[Tensor, "batch pos_less_1"] | Float[Tensor, ""]:
    """Return the cross-entropy, in nats, of each token after the first, given those before it; or their mean."""
    logits = model(tokens[:, :-1])  # batch pos-1 d_vocab
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction=reduction)
    return loss if reduction == "mean" else loss.unflatten(0, logits.shape[:2])
