"""Taps: look at an activation, or change it, while the model runs.

At every named activation the model calls ``x = tap(name, x)``. Any function of a name and a tensor is a tap::

    def silence(name, x):
        return 0 * x if name == "blocks.0.attn_out" else x

    model(tokens, tap=silence)

The taps below also say which names they want, so that the model materialises those and nothing else. There is
nothing to register and nothing to remove: a tap lives as long as the call it is given to. Gradients flow
through. A name may be a pattern, ``"blocks.*.attn.pattern"``; one that matches nothing is an error that lists
the nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residual.errors import nearest
from residual.scope import Tap, apply, find, matches, wanted

Positions = int | Sequence[int] | Bool[Tensor, "batch pos"]  # the same in every example, or marked in each


class at:
    """Apply ``function`` to each activation that matches ``names``: ``at("*.attn.z", lambda z: 0 * z)``."""

    def __init__(self, names: str | Iterable[str], function: Callable[[Tensor], Tensor]) -> None:
        self.names = _listed(names)
        self.function = function

    def __call__(self, name: str, x: Tensor) -> Tensor:
        return self.function(x) if matches(name, self.names) else x

    def resolve(self, known: list[str]) -> frozenset[str]:
        return find(self.names, known)


class record(Mapping[str, Tensor]):
    """Keep every activation that matches ``names``; read them afterwards, as from a dict.

    >>> seen = record("blocks.*.attn.pattern")
    >>> model(tokens, tap=seen)
    >>> seen["blocks.0.attn.pattern"].shape  # batch head query key

    The tensors are the model's own, with their gradient history; ``torch.no_grad()`` where none is wanted.
    """

    def __init__(self, names: str | Iterable[str] = "*") -> None:
        self.names = _listed(names)
        self._seen: dict[str, Tensor] = {}

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if matches(name, self.names):
            self._seen[name] = x
        return x

    def resolve(self, known: list[str]) -> frozenset[str]:
        return find(self.names, known)

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._seen[name]
        except KeyError:
            if not self._seen:
                raise KeyError(f"nothing is recorded yet; call model(tokens, tap=…) before asking for {name}") from None
            raise KeyError(f"{name} was not recorded; {nearest(name, self._seen)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._seen)

    def __len__(self) -> int:
        return len(self._seen)


class freeze:
    """Put recorded activations back in: whatever the input, these keep the value they had.

    With every ``attn.pattern`` frozen, an attention-only model is a linear function of its embeddings
    (Elhage et al. 2021, "Freezing Attention Patterns").
    """

    def __init__(self, recorded: Mapping[str, Tensor]) -> None:
        self.recorded = dict(recorded)

    def __call__(self, name: str, x: Tensor) -> Tensor:
        return self.recorded.get(name, x)

    def resolve(self, known: list[str]) -> frozenset[str]:
        return find(self.recorded, known)


class patch:
    """Put values of another run in, at some heads and positions, or everywhere.

    >>> model(clean, tap=(seen := record("*.attn.z")))
    >>> model(corrupted, tap=patch(seen, "blocks.1.attn.z", heads=3, positions=-1))

    Args:
        recorded: values by name, of as many examples as are run, or of one for all of them.
        names: which of them; all, if not given.
        heads: which heads; of keys and values in a model with fewer of them, which key heads.
        positions: which positions, or ``[batch pos]`` true where to patch. In a pattern these are queries.

    Raises (when the model runs):
        ValueError: a name that was not recorded or that the model does not have, no such head or position.
    """

    def __init__(
        self,
        recorded: Mapping[str, Tensor],
        names: str | Iterable[str] = "*",
        *,
        heads: int | Sequence[int] | None = None,
        positions: Positions | None = None,
    ) -> None:
        self.recorded, self.names, self.heads, self.positions = dict(recorded), _listed(names), heads, positions
        for pattern in self.names:
            if not any(matches(name, [pattern]) for name in self.recorded):
                raise ValueError(f"{pattern!r} was not recorded; {nearest(pattern, self.recorded)}")

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if name not in self.recorded or not matches(name, self.names):
            return x
        return _put(name, x, self.recorded[name], self.heads, self.positions)

    def resolve(self, known: list[str]) -> frozenset[str]:
        return find([name for name in self.recorded if matches(name, self.names)], known)


class ablate:
    """Take away what an activation says about the example at hand.

    Args:
        names: which activations.
        how: put in ``"zero"``; the ``"mean"`` over the examples of ``reference``, at each position; or,
            ``"resample"``, what another example has there, one drawn for each example and the same for all names.
        reference: recorded activations, by name; if not given, those of the run itself.
        heads, positions: only there, as in ``patch``.
        across_positions: take the mean over positions too, so that even the position is forgotten.
        seed: of the draw.

    Which of the three is meant changes the conclusions (Miller et al. 2024, "Transformer Circuit Faithfulness
    Metrics Are Not Robust"): say it with every result.

    Raises:
        ValueError: an unknown ``how``; and, when the model runs, as ``patch``.
    """

    def __init__(
        self,
        names: str | Iterable[str],
        how: Literal["zero", "mean", "resample"] = "zero",
        reference: Mapping[str, Tensor] | None = None,
        *,
        heads: int | Sequence[int] | None = None,
        positions: Positions | None = None,
        across_positions: bool = False,
        seed: int = 0,
    ) -> None:
        if how not in ("zero", "mean", "resample"):
            raise ValueError(f"cannot ablate by {how!r}; {nearest(how, ['zero', 'mean', 'resample'])}")
        self.names, self.how, self.reference = _listed(names), how, reference
        self.heads, self.positions, self.across_positions, self.seed = heads, positions, across_positions, seed

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if not matches(name, self.names):
            return x
        if self.how == "zero":
            return _put(name, x, torch.zeros_like(x), self.heads, self.positions)
        if self.reference is not None and name not in self.reference:
            raise ValueError(f"the reference has no {name}; {nearest(name, self.reference)}")
        source = x if self.reference is None else self.reference[name]
        if self.how == "resample":
            value = source[self._others(len(x), len(source))]
        else:
            if self.across_positions and _is_square(name):
                raise ValueError(f"{name} has a query and a key axis; a mean across positions would mix them")
            value = source.mean(dim=(0, 1) if self.across_positions else 0, keepdim=True)
            value = value.expand(1, *x.shape[1:]) if self.across_positions else value
        return _put(name, x, value, self.heads, self.positions)

    def resolve(self, known: list[str]) -> frozenset[str]:
        return find(self.names, known)

    def _others(self, batch: int, pool: int) -> Tensor:
        """For each example, the row to take instead: from the run itself never its own (one random cycle)."""
        generator = torch.Generator().manual_seed(self.seed)
        if self.reference is not None:
            return torch.randint(pool, (batch,), generator=generator)
        if batch < 2:
            raise ValueError("resampling needs another example: run at least two, or give a reference")
        order = torch.randperm(batch, generator=generator)
        return torch.empty_like(order).index_put_((order,), order.roll(1))


class steer:
    """Add ``strength · direction`` to the activation, at every position or at some (Turner et al. 2023, "ActAdd").

    Args:
        direction: of the length of the activation's last axis, or any shape that broadcasts to the activation.
    """

    def __init__(
        self,
        names: str | Iterable[str],
        direction: Float[Tensor, "*broadcast width"],
        strength: float = 1.0,
        *,
        heads: int | Sequence[int] | None = None,
        positions: Positions | None = None,
    ) -> None:
        self.names, self.direction, self.strength = _listed(names), direction, strength
        self.heads, self.positions = heads, positions

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if not matches(name, self.names):
            return x
        _check_broadcast(name, x, self.direction)
        return _put(name, x, x + self.strength * self.direction.to(x), self.heads, self.positions)

    def resolve(self, known: list[str]) -> frozenset[str]:
        return find(self.names, known)


class compose:
    """Several taps as one; at each activation they are applied from left to right."""

    def __init__(self, *taps: Tap) -> None:
        self.taps = taps

    def __call__(self, name: str, x: Tensor) -> Tensor:
        for tap in self.taps:
            x = apply(tap, name, x)
        return x

    def resolve(self, known: list[str]) -> frozenset[str]:
        return frozenset().union(*(wanted(tap, known) for tap in self.taps))


# Where in an activation


def _put(name: str, x: Tensor, value: Tensor, heads: int | Sequence[int] | None, positions: Positions | None) -> Tensor:
    """``x`` with ``value`` at these heads and positions; with neither given, all of it."""
    _check_broadcast(name, x, value)
    if heads is None and positions is None:
        return value.to(x).expand_as(x)
    there = torch.ones((), dtype=torch.bool, device=x.device)
    if heads is not None:
        if name.rsplit(".", 1)[-1] not in ("q", "k", "v", "z", "result", "scores", "pattern"):
            raise ValueError(
                f"{name} has no axis of heads; leave heads out, or name q, k, v, z, result, scores, pattern"
            )
        there = there & _marked(name, x, 1 if _is_square(name) else 2, heads, "head")
    if isinstance(positions, Tensor) and positions.dtype == torch.bool:
        if positions.shape != (len(x), x.shape[2 if _is_square(name) else 1]):
            raise ValueError(f"positions mark {list(positions.shape)} [batch pos]; {name} has shape {list(x.shape)}")
        marks = positions.to(x.device)[:, None] if _is_square(name) else positions.to(x.device)
        there = there & marks.reshape(*marks.shape, *[1] * (x.ndim - marks.ndim))
    elif positions is not None:
        there = there & _marked(name, x, 2 if _is_square(name) else 1, positions, "position")
    return torch.where(there, value.to(x), x)


def _marked(name: str, x: Tensor, axis: int, index: int | Sequence[int] | Tensor, word: str) -> Tensor:
    """True at ``index`` along ``axis``, of a shape that broadcasts to ``x``."""
    wanted = torch.as_tensor(index).reshape(-1)
    length = x.shape[axis]
    if wanted.numel() and (wanted.is_floating_point() or wanted.dtype == torch.bool):
        raise ValueError(f"a {word} is a whole number; {index} is none")
    if wanted.numel() and not bool(((wanted >= -length) & (wanted < length)).all()):
        raise ValueError(f"{name} has {length} {word}s; there is no {word} {index}")
    mark = torch.zeros(length, dtype=torch.bool)
    mark[wanted.long()] = True
    return mark.to(x.device).reshape([length if i == axis else 1 for i in range(x.ndim)])


def _is_square(name: str) -> bool:
    """Whether the activation is ``[batch head query key]``."""
    return name.endswith((".scores", ".pattern"))


def _check_broadcast(name: str, x: Tensor, value: Tensor) -> None:
    try:
        fits = torch.broadcast_shapes(value.shape, x.shape) == x.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"a value of shape {list(value.shape)} does not fit {name}, which has shape {list(x.shape)}")


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
