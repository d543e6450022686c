"""The places at which ``sweeps`` change something: layers, heads by name, positions; slips are sentences here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from residual.errors import nearest
from residual.model import Transformer

if TYPE_CHECKING:
    from residual.methods.reruns import BaseRun

Positions = int | slice | Sequence[int] | Int[Tensor, " n"] | Bool[Tensor, "batch pos"]
Layers = int | slice | Sequence[int]

OF_HEADS = ("q", "k", "v", "pattern", "z")
OF_STREAM = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


class Sites:
    """The layers, heads and positions of a sweep, and the axes of its result."""

    def __init__(
        self,
        model: Transformer,
        tokens: Tensor,
        name: str,
        heads: Sequence[str] | None,
        layers: Layers | None,
        positions: Positions | None,
        together: bool,
    ) -> None:
        c = model.config
        n_heads = 1 if name in OF_STREAM else c.kv_heads if name in ("k", "v") else c.n_heads
        if heads is not None and layers is not None:
            raise ValueError("the names of heads say their layers; leave layers out")
        in_order = [(layer, head) for layer in indices(layers, c.n_layers, "layer") for head in range(n_heads)]
        self.in_order = in_order if heads is None else named_heads(heads, c.n_layers, n_heads, name)
        self.heads: dict[int, list[int]] = {}  # by layer
        for layer, head in self.in_order:
            self.heads.setdefault(layer, []).append(head)
        n_layers = len(in_order) // n_heads
        if name in OF_STREAM or heads is not None:
            self.axes = [len(self.in_order)]
        else:
            self.axes = [n_layers, n_heads]
        self.together = together
        if isinstance(positions, Tensor) and positions.dtype == torch.bool:
            if not together:
                raise ValueError("positions marked in each example are changed all at once; give together=True, too")
            if positions.shape != tokens.shape:
                raise ValueError(f"positions mark {list(positions.shape)}, the tokens are {list(tokens.shape)}")
            self.positions, self.marks = [], positions.to(tokens.device)  # batch pos
        else:
            self.positions = indices(positions, tokens.shape[1], "position")
            self.marks = torch.zeros_like(tokens, dtype=torch.bool)
            self.marks[:, self.positions] = True

    def arranged(self, base: BaseRun, found: dict[int, Tensor]) -> Tensor:
        """The metrics of each layer, ``[head *pos *metric]``, as one tensor."""
        rows = [found[layer][self.heads[layer].index(head)] for layer, head in self.in_order]
        shape = [*([] if self.together else [len(self.positions)]), *base.unchanged.shape]
        return (torch.stack(rows) if rows else base.unchanged.new_zeros(0, *shape)).reshape(*self.axes, *shape)


def indices(wanted: Layers | Positions | None, length: int, word: str) -> list[int]:
    """The indices that are meant, of ``length``; all of them for None.

    Raises:
        ValueError: they are no whole numbers, or out of range.
    """
    if wanted is None or isinstance(wanted, slice):
        return list(range(length))[wanted or slice(None)]
    try:
        index = torch.as_tensor(wanted).reshape(-1)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{word}s are whole numbers, a list of them or a slice; {wanted!r} is none") from None
    if index.numel() and (index.is_floating_point() or index.dtype == torch.bool):
        raise ValueError(f"{word}s are whole numbers, a list of them or a slice; {wanted!r} is none")
    if not bool(((-length <= index) & (index < length)).all()):
        raise ValueError(f"there is no {word} {wanted} among {length}")
    return (index.long() % max(length, 1)).tolist()


def named_heads(heads: Sequence[str], n_layers: int, n_heads: int, name: str) -> list[tuple[int, int]]:
    """The layer and the head of names such as ``"18.6"``.

    Raises:
        ValueError: there is no such head, or a name is given where a list of them is wanted.
    """
    known = {f"{layer}.{head}": (layer, head) for layer in range(n_layers) for head in range(n_heads)}
    if isinstance(heads, str):
        raise ValueError(f"heads is a list of names; write heads=[{heads!r}]")
    for head in heads:
        if head not in known:
            kind = "key head" if name in ("k", "v") else "head"
            raise ValueError(f"there is no {kind} {head!r}; {nearest(str(head), known)}")
    return [known[head] for head in heads]
