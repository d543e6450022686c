"""Positions: the clocks of rotary embeddings, and batches in which some tokens only fill up the row."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def angles(positions: Int[Tensor, "*batch pos"], width: int, base: float) -> Float[Tensor, "*batch pos half"]:
    """``p · base^(-2i / width)`` for the positions p and pairs i: slower and slower clocks (Vaswani et al. 2017, 3.5).

    In float64 whatever the model: rounding an angle of a thousand turns to float32 shows in the logits.
    """
    speed = base ** -(torch.arange(0, width, 2, dtype=torch.float64, device=positions.device) / width)
    return positions.double().unsqueeze(-1) * speed


def rotate(
    x: Float[Tensor, "*batch pos head d_head"], place: Float[Tensor, "2 *batch pos 1 half"], interleaved: bool
) -> Float[Tensor, "*batch pos head d_head"]:
    """Turn each pair of coordinates by its position's angle (Su et al. 2021, "RoFormer", equation 34)."""
    cos, sin = place
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
    turned = a * cos - b * sin, a * sin + b * cos
    return torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)


class Padding:
    """Which tokens are real, in a batch whose examples differ in length, and what follows from it.

    What is not real is as if it were not there: no real token attends to it, and positions count real tokens only.
    A token that is not real attends to itself, too, so that its row of the pattern is not empty. It has a stream and
    logits, which mean nothing.

    Args:
        real: true at real tokens, of the whole text, what is in a cache included.
        start: the position at which this run begins.
        causal: whether later tokens are hidden, too.

    Attributes:
        positions: of the tokens of this run, ``[batch pos]``.
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
