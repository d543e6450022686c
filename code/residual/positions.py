"""Positions: the angles of rotary embeddings, and batches with padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def angles(positions: Int[Tensor, "*batch pos"], width: int, base: float) -> Float[Tensor, "*batch pos half"]:
    """Return ``p · base^(-2i / width)`` for positions p and pairs i: ever slower clocks (Vaswani et al. 2017, 3.5).

    Always in float64: rounding an angle of a thousand turns to float32 would show in the logits.
    """
    speed = base ** -(torch.arange(0, width, 2, dtype=torch.float64, device=positions.device) / width)
    return positions.double().unsqueeze(-1) * speed


def rotate(
    x: Float[Tensor, "*batch pos head d_head"], place: Float[Tensor, "2 *batch pos 1 half"], interleaved: bool
) -> Float[Tensor, "*batch pos head d_head"]:
    """Rotate each pair of coordinates by its position's angle (Su et al. 2021, "RoFormer", equation 34)."""
    cos, sin = place
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
    turned = a * cos - b * sin, a * sin + b * cos
    return torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)


class Padding:
    """The real tokens of a batch whose examples differ in length, and what follows from them.

    Padding has no effect on real tokens: none attends to it, and positions count real tokens only. A padding token also
    attends to itself, so that its row of the pattern is not empty; its stream and logits mean nothing.

    Args:
        real: true at real tokens of the whole text, including those in a cache.
        start: the position at which this run begins.
        causal: hide later tokens as well.

    Attributes:
        positions: of this run's tokens, ``[batch pos]``.
        seen: true where the query may attend to the key, ``[batch 1 query key]``.
        before: the index of the real token before each, or its own if there is none, ``[batch key]``.
    """

    def __init__(self, real: Bool[Tensor, "batch key"], start: int, causal: bool) -> None:
        key = torch.arange(real.shape[1], device=real.device)
        query = key[start:, None]
        self.positions = (real.cumsum(dim=1) - 1).clamp(min=0)[:, start:]
        seen = real[:, None] & (key <= query) if causal else real[:, None].expand(-1, len(query), -1)
        self.seen = (seen | (key == query))[:, None]
        last = torch.where(real, key, -1).cummax(dim=1).values  # the last real token up to here
        before = F.pad(last[:, :-1], (1, 0), value=-1)
        self.before = torch.where(before < 0, key, before)
