"""Places in an activation: heads of layers, positions, and values that fit there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from operator import index
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

HEADED = ("q", "k", "v", "rot_q", "rot_k", "q_in", "k_in", "v_in", "z", "result", "scores", "pattern")

Heads = int | str | Sequence[int | str]  # 3: head 3 of every layer; "1.3": head 3 of layer 1


def held(values: Any) -> Any:
    """Return heads or positions that can be read more than once: an iterator becomes a list."""
    once = isinstance(values, Iterable) and not isinstance(values, str | Sequence | Tensor | np.ndarray)
    return list(values) if once else values


class per_example:
    """One position for each example: ``per_example([4, 2])`` is position 4 in the first and 2 in the second.

    Raises:
        ValueError: the positions are not whole numbers.
    """

    def __init__(self, positions: Sequence[int] | Int[Tensor, " batch"]) -> None:
        self.positions = [_whole(position, "position") for position in _items(positions)]


Positions = int | slice | Sequence[int] | Bool[Tensor, "batch pos"] | per_example


def parse_heads(heads: Heads) -> list[tuple[int | None, int]]:
    """Return the heads as pairs (layer, head). A number by itself is that head of every layer: its layer is None.

    >>> parse_heads(["18.6", 3])
    [(18, 6), (None, 3)]

    Raises:
        ValueError: a head is neither a whole number nor such a name.
    """
    pairs: list[tuple[int | None, int]] = []
    for head in _items(heads):
        if not isinstance(head, str):
            pairs.append((None, _whole(head, "head")))
        elif name := re.fullmatch(r"(\d+)\.(\d+)", head):
            pairs.append((int(name[1]), int(name[2])))
        else:
            raise ValueError(f"{head!r} is not the name of a head; head 3 of layer 1 is '1.3'")
    return pairs


def with_heads(names: Iterable[str], heads: Heads | None) -> frozenset[str]:
    """Return the activations whose layer has one of the heads; all of them if no heads are given.

    Raises:
        ValueError: an activation has no heads; or no activation is in the layer of a head.
    """
    names = frozenset(names)
    if heads is None:
        return names
    for name in sorted(names):
        _check_headed(name)
    pairs, layers = parse_heads(heads), {_layer(name) for name in names}
    for layer, head in pairs:
        if layer is not None and layer not in layers:
            raise ValueError(f"there is no head {layer}.{head} in {', '.join(sorted(names))}: none is in layer {layer}")
    return frozenset(name for name in names if any(layer in (None, _layer(name)) for layer, _ in pairs))


def is_square(name: str) -> bool:
    """Return True if the activation is ``[batch head query key]``."""
    return name.endswith((".scores", ".pattern"))


def put(
    name: str, x: Tensor, value: Tensor, heads: Heads | None, positions: Positions | None, start: int | None = None
) -> Tensor:
    """Return ``x`` with ``value`` at these heads and positions; everywhere if neither is given.

    Args:
        value: the shape of x, or one example for the whole batch.
        start: in a growing text (see ``taps.growing``), the number of positions before those in x.

    Raises:
        ValueError: the value does not fit, or there is no such head or position.
    """
    check_fit(name, x, value)
    chosen = torch.ones((), dtype=torch.bool, device=x.device)
    if heads is not None:
        _check_headed(name)
        mine = [head for layer, head in parse_heads(heads) if layer in (None, _layer(name))]
        axis = 1 if is_square(name) else 2
        chosen = chosen & _along(_marks(name, mine, x.shape[axis], "head"), x, axis)
    if positions is not None:
        chosen = chosen & mark(name, x, positions, start)
    if heads is None and positions is None:
        return value.to(x).expand_as(x)
    return torch.where(chosen, value.to(x), x)


def mark(name: str, x: Tensor, positions: Positions, start: int | None = None) -> Bool[Tensor, "*broadcast"]:
    """Return True at the positions (in a pattern: at the queries), in a shape that broadcasts to ``x``.

    Raises:
        ValueError: there is no such position, or the positions are ambiguous.
    """
    axis = 2 if is_square(name) else 1
    batch, length = len(x), x.shape[axis] + (start or 0)
    if isinstance(positions, np.ndarray):
        positions = torch.as_tensor(positions)
    if isinstance(positions, Tensor) and positions.dtype == torch.bool:
        marks = positions
        if start is not None and marks.ndim == 2:  # later positions are not marked
            marks = torch.cat([marks, marks.new_zeros(len(marks), max(0, length - marks.shape[1]))], dim=1)[:, :length]
        if marks.shape != (batch, length):
            raise ValueError(f"positions mark {list(positions.shape)} [batch pos]; {name} has shape {list(x.shape)}")
    elif isinstance(positions, per_example):
        if len(positions.positions) != batch:
            raise ValueError(f"positions are for {len(positions.positions)} examples; {name} has {batch}")
        rows = [_marks(name, [position], length, "position", start) for position in positions.positions]
        marks = torch.stack(rows)
    elif isinstance(positions, Tensor) and positions.ndim:
        raise ValueError(
            f"positions is a tensor of shape {list(positions.shape)}: the same for every example, or one for each? "
            "Write positions.tolist() for the first, per_example(positions) for the second"
        )
    else:
        marks = _marks(name, _listed(positions, length, start), length, "position", start)[None]
    marks = marks[:, start or 0 :].to(x.device)  # batch pos
    return marks[:, None, :, None] if axis == 2 else marks.reshape(*marks.shape, *[1] * (x.ndim - 2))


def check_fit(name: str, x: Tensor, value: Tensor) -> None:
    """Check that a value has the shape of ``x``, or is a single example for the whole batch.

    Raises:
        ValueError: it has another shape.
    """
    if value.ndim == x.ndim and value.shape[1:] == x.shape[1:] and len(value) not in (1, len(x)):
        raise ValueError(f"a value of {len(value)} examples does not fit the {len(x)} of {name}; give {len(x)}, or 1")
    if value.ndim != x.ndim or value.shape[1:] != x.shape[1:]:
        raise ValueError(f"a value of shape {list(value.shape)} does not fit {name}, which has shape {list(x.shape)}")


def repeated(positions: Positions | None, copies: int) -> Positions | None:
    """Return the positions for a batch in which each example is repeated ``copies`` times in a row."""
    if isinstance(positions, per_example):
        return per_example([position for position in positions.positions for _ in range(copies)])
    marks = torch.as_tensor(positions) if isinstance(positions, np.ndarray) else positions
    return marks.repeat_interleave(copies, dim=0) if isinstance(marks, Tensor) and marks.ndim == 2 else positions


def _listed(positions: int | slice | Sequence[int] | Tensor, length: int, start: int | None) -> list[int]:
    if not isinstance(positions, slice):
        return [_whole(position, "position") for position in _items(positions)]
    if start is not None and min(positions.start or 0, positions.stop or 0) < 0:
        raise ValueError(f"{positions} counts from the end, but the text is still growing; count from its start")
    listed = list(range(*positions.indices(length)))
    if not listed and start is None:
        raise ValueError(f"there is no position in {positions} of {length}")
    return listed


def _marks(name: str, indices: list[int], length: int, word: str, start: int | None = None) -> Bool[Tensor, " length"]:
    """Return True at the indices; in a growing text, positions not yet reached are ignored."""
    marks = torch.zeros(length, dtype=torch.bool)
    for i in indices:
        if start is not None and i < 0:
            raise ValueError(f"position {i} counts from the end, but the text is still growing; count from its start")
        if start is None and not -length <= i < length:
            raise ValueError(f"{name} has {length} {word}s; there is no {word} {i}")
        if i < length:
            marks[i] = True
    return marks


def _check_headed(name: str) -> None:
    if name.rsplit(".", 1)[-1] not in HEADED:
        raise ValueError(f"{name} has no head axis; leave heads out, or use {', '.join(HEADED)}")


def _along(marks: Tensor, x: Tensor, axis: int) -> Tensor:
    return marks.to(x.device).reshape([-1 if i == axis else 1 for i in range(x.ndim)])


def _layer(name: str) -> int | None:
    match = re.match(r"blocks\.(\d+)\.", name)
    return int(match[1]) if match else None


def _items(values) -> list:
    if isinstance(values, Tensor | np.ndarray):
        return values.reshape(-1).tolist()
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]


def _whole(value, word: str) -> int:
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return index(value)
    except TypeError:
        raise ValueError(f"a {word} is a whole number; {value!r} is not") from None
