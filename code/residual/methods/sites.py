"""The layers, heads and positions at which ``sweeps`` make changes, checked with readable errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from residual.checks import Tokens, as_tokens, check_tokens
from residual.errors import nearest
from residual.model import Transformer
from residual.where import Heads, Positions, held, mark, parse_heads, per_example

if TYPE_CHECKING:
    from residual.methods.reruns import BaseRun

Index = int | slice | Sequence[int] | None

OF_HEADS = ("q", "k", "v", "pattern", "z")
OF_STREAM = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


class Sites:
    """The layers, heads and positions of a sweep, and the axes of its result."""

    def __init__(
        self,
        model: Transformer,
        tokens: Int[Tensor, "batch pos"],
        name: str,
        heads: Heads | None,
        layers: Index,
        positions: Positions | None,
        together: bool,
    ) -> None:
        c, heads, positions = model.config, held(heads), held(positions)
        n_heads = 1 if name in OF_STREAM else c.kv_heads if name in ("k", "v") else c.n_heads
        if heads is not None and layers is not None:
            raise ValueError("the names of heads include their layers; leave layers out")
        some = indices(layers, c.n_layers, "layer")
        if heads is None:
            self.in_order = [(layer, head) for layer in some for head in range(n_heads)]
        else:
            self.in_order = named_heads(heads, c.n_layers, n_heads, "key head" if name in ("k", "v") else "head")
        self.heads: dict[int, list[int]] = {}  # by layer, ascending
        for layer, head in sorted(set(self.in_order)):
            self.heads.setdefault(layer, []).append(head)
        self.axes = [len(some), n_heads] if heads is None and name in OF_HEADS else [len(self.in_order)]
        self.together = together
        every = torch.ones_like(tokens[:1], dtype=torch.bool)
        self.marks = (every if positions is None else mark("tokens", tokens, positions)).expand_as(tokens)  # batch pos
        marked = isinstance(positions, Tensor | np.ndarray) and torch.as_tensor(positions).dtype == torch.bool
        if not together and (marked or isinstance(positions, per_example)):
            raise ValueError("positions that differ by example are changed all at once; give together=True as well")
        self.positions = [] if together else indices(cast(Index, positions), tokens.shape[1], "position")

    def arranged(self, base: BaseRun, by_layer: dict[int, Tensor]) -> Tensor:
        """Return the metrics of each layer, ``[head *pos *metric]``, as one tensor."""
        rows = [by_layer[layer][self.heads[layer].index(head)] for layer, head in self.in_order]
        shape = [*([] if self.together else [len(self.positions)]), *base.unchanged.shape]
        return (torch.stack(rows) if rows else base.unchanged.new_zeros(0, *shape)).reshape(*self.axes, *shape)


def indices(selection: Index, length: int, word: str) -> list[int]:
    """Return the selected indices below ``length``; all of them for None.

    Raises:
        ValueError: they are not whole numbers, or out of range.
    """
    if selection is None or isinstance(selection, slice):
        return list(range(length))[selection or slice(None)]
    try:
        index = torch.as_tensor(selection)
        if index.ndim > 1:
            raise ValueError
        index = index.reshape(-1)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{word}s must be whole numbers, a list of them or a slice; {selection!r} is not") from None
    if index.numel() and (index.is_floating_point() or index.dtype == torch.bool):
        raise ValueError(f"{word}s must be whole numbers, a list of them or a slice; {selection!r} is not")
    if not bool(((-length <= index) & (index < length)).all()):
        raise ValueError(f"there is no {word} {selection} among {length}")
    return (index.long() % max(length, 1)).tolist()


def named_heads(heads: Heads, n_layers: int, n_heads: int, word: str = "head") -> list[tuple[int, int]]:
    """Return the layer and head of names such as ``"18.6"``; a number by itself is that head of every layer, counted
    from the last if below 0.

    Raises:
        ValueError: this is not the name of a head, or there is no such head.
    """
    known = [f"{layer}.{head}" for layer in range(n_layers) for head in range(n_heads)]
    pairs = []
    for layer, head in parse_heads(heads):
        for each in range(n_layers) if layer is None else [layer]:
            if not (0 <= each < n_layers and -n_heads <= head < n_heads):
                raise ValueError(f"there is no {word} {each}.{head}; {nearest(f'{each}.{head}', known)}")
            pairs.append((each, head % n_heads))
    return pairs


def whole_texts(model: Transformer, source: Tokens) -> Int[Tensor, "batch pos"]:
    """Return the tokens of a batch without padding.

    Raises:
        TypeError: not whole numbers; or text, and the model has no vocabulary.
        ValueError: not ``[batch pos]``, texts of unequal length, or a token out of range.
    """
    tokens, mask = as_tokens(source, None, model.vocabulary, model.W_E.device)
    if mask is not None and not bool(mask.all()):
        lengths = ", ".join(str(int(n)) for n in mask.sum(dim=1))
        raise ValueError(f"the texts have {lengths} tokens; give texts of equal length, so that positions match")
    tokens = tokens.to(model.W_E.device)
    check_tokens(tokens, model.W_E)
    return tokens
