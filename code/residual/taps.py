"""Taps: look at an activation, or change it, while the model runs.

At every named activation the model calls ``x = tap(name, x)``. Any function of a name and a tensor is a tap::

    def silence(name, x):
        return 0 * x if name == "blocks.0.attn_out" else x

    model(tokens, tap=silence)

The taps below also say which names they want, so that the model materialises those and nothing else. There is
nothing to register and nothing to remove: a tap lives as long as the call it is given to. Gradients flow
through. A name may be a pattern, ``"blocks.*.attn.pattern"``; one that matches nothing is an error that lists
the nearest. A function may write to what it gets, ``x[:, 0] = 0``, and return it: it is a copy. In scores and
patterns, what the model hides (later keys, padding) stays hidden, whatever a tap puts there.

``heads`` are numbers, of every layer that the names match, or ``"1.3"``, head 3 of layer 1. ``positions`` are numbers
or a slice, the same in every example; ``per_example`` of one for each; or a bool tensor ``[batch pos]``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from residual.errors import nearest
from residual.scope import Tap, apply, find, matches, on_copy, padded, settle, wanted
from residual.where import (
    Heads,
    Positions,
    check_fit,
    held,
    is_square,
    parse_heads,
    per_example,
    put,
    repeated,
    with_heads,
)

__all__ = [
    "Heads",
    "Positions",
    "Tap",
    "ablate",
    "at",
    "compose",
    "find",
    "freeze",
    "growing",
    "parse_heads",
    "patch",
    "per_example",
    "record",
    "steer",
]


class Named:
    """A tap that says which activations it wants, and leaves the tensors that it gets as they are."""

    writes = False
    names: list[str]

    def resolve(self, known: list[str]) -> frozenset[str]:
        """Those of the names ``known`` to the model that the tap wants."""
        return find(self.names, known)


class at(Named):
    """Apply ``function`` to each activation that matches ``names``: ``at("*.attn.z", lambda z: 0 * z)``."""

    def __init__(self, names: str | Iterable[str], function: Callable[[Tensor], Tensor]) -> None:
        self.names = _listed(names)
        self.function = function

    def __call__(self, name: str, x: Tensor) -> Tensor:
        return on_copy(self.function, x) if matches(name, self.names) else x


class record(Named, Mapping[str, Tensor]):
    """Keep every activation that matches ``names``; read them afterwards, as from a dict.

    >>> seen = record("blocks.*.attn.pattern")
    >>> model(tokens, tap=seen)
    >>> seen["blocks.0.attn.pattern"].shape  # batch head query key

    The tensors are the model's own, with their gradient history; ``torch.no_grad()`` where none is wanted.
    """

    def __init__(self, names: str | Iterable[str] = "*") -> None:
        self.names = _listed(names)
        self.real: Tensor | None = None  # in the last run, where some tokens were padding: true at the others
        self._seen: dict[str, Tensor] = {}

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if matches(name, self.names):
            self._seen[name] = x
        return x

    def padded(self, real: Tensor | None) -> record:
        """This tap, which keeps what is real."""
        self.real = real
        return self

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


class Placed(Named):
    """A tap that changes activations at some heads and positions, or everywhere."""

    heads: Heads | None = None
    positions: Positions | None = None
    start: int | None = None  # in a text that grows: how many positions came before; and how many continuations
    copies: int = 1  # of each example there are

    def resolve(self, known: list[str]) -> frozenset[str]:
        return with_heads(find(self.names, known), self.heads)

    def growing(self, start: int, copies: int) -> Placed:
        """This tap in a text that grows: see ``growing``."""
        tap = copy.copy(self)
        tap.start, tap.copies = start, copies
        tap.positions = repeated(self.positions, copies)
        return tap

    def _put(self, name: str, x: Tensor, value: Tensor) -> Tensor:
        return put(name, x, value, self.heads, self.positions, self.start)

    def _aligned(self, name: str, value: Tensor, x: Tensor) -> Tensor:
        """``value [batch pos …]`` at the positions of ``x``, in a text that grows; x where there is none."""
        if self.start is None:
            return value
        if is_square(name):
            raise ValueError(f"{name} has a query and a key axis, and grows in both; nothing recorded can be put in")
        value = value[:, self.start : self.start + x.shape[1]].to(x)
        value = value.repeat_interleave(self.copies, dim=0) if len(value) > 1 else value
        check_fit(name, x[:, : value.shape[1]], value)
        return torch.cat([value.expand(len(x), *value.shape[1:]), x[:, value.shape[1] :]], dim=1)


class patch(Placed):
    """Put values of another run in, at some heads and positions, or everywhere.

    >>> model(clean, tap=(seen := record("*.attn.z")))
    >>> model(corrupted, tap=patch(seen, heads=["0.2", "1.3"], positions=-1))

    Args:
        recorded: values by name, of as many examples as are run, or of one for all of them.
        names: which of them; all, if not given.
        heads: which heads; of keys and values in a model with fewer of them, which key heads.
        positions: which positions. In a pattern these are queries.

    Raises (when the model runs):
        ValueError: a name that was not recorded or that the model does not have, no such head or position, a value
            of another shape or number of examples.
    """

    def __init__(
        self,
        recorded: Mapping[str, Tensor],
        names: str | Iterable[str] = "*",
        *,
        heads: Heads | None = None,
        positions: Positions | None = None,
    ) -> None:
        self.recorded = {name: _tensor(value, name) for name, value in recorded.items()}
        for pattern in _listed(names):
            if not any(fnmatchcase(name, pattern) for name in self.recorded):
                raise ValueError(f"{pattern!r} was not recorded; {nearest(pattern, self.recorded)}")
        self.names = [name for name in self.recorded if any(fnmatchcase(name, each) for each in _listed(names))]
        self.heads, self.positions = held(heads), held(positions)

    def __call__(self, name: str, x: Tensor) -> Tensor:
        return self._put(name, x, self._aligned(name, self.recorded[name], x)) if name in self.names else x


class freeze(patch):
    """Put recorded activations back in: whatever the input, these keep the value they had.

    With every ``attn.pattern`` frozen, an attention-only model is a linear function of its embeddings
    (Elhage et al. 2021, "Freezing Attention Patterns").
    """

    def __init__(self, recorded: Mapping[str, Tensor]) -> None:
        super().__init__(recorded, list(recorded))


class ablate(Placed):
    """Take away what an activation says about the example at hand.

    Args:
        names: which activations.
        how: put in ``"zero"``; the ``"mean"`` over the examples of ``reference``, at each position; or,
            ``"resample"``, what another example has there, one drawn for each example and the same for all names.
        reference: recorded activations, by name; if not given, those of the run itself.
        heads, positions: only there, as in ``patch``.
        across_positions: take the mean over positions too, so that even the position is forgotten. Padding does not
            count: neither in a run with a mask nor in a ``record`` of one (a plain dict does not know of any).
        seed: of the draw.

    Which of the three is meant changes the conclusions (Miller et al. 2024, "Transformer Circuit Faithfulness
    Metrics Are Not Robust"): say it with every result.

    Raises:
        ValueError: an unknown ``how``; and, when the model runs, as ``patch``; a mean over one example, or resampling
            from one; a mean at each position, or resampling, of examples that are padded.
    """

    real: Tensor | None = None  # in a run with padding, true at the tokens that are none

    def __init__(
        self,
        names: str | Iterable[str],
        how: Literal["zero", "mean", "resample"] = "zero",
        reference: Mapping[str, Tensor] | None = None,
        *,
        heads: Heads | None = None,
        positions: Positions | None = None,
        across_positions: bool = False,
        seed: int = 0,
    ) -> None:
        if how not in ("zero", "mean", "resample"):
            raise ValueError(f"cannot ablate by {how!r}; {nearest(how, ['zero', 'mean', 'resample'])}")
        self.names, self.how, self.reference = _listed(names), how, reference
        self.heads, self.positions = held(heads), held(positions)
        self.across_positions, self.seed = across_positions, seed

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if not matches(name, self.names):
            return x
        if self.how == "zero":
            return self._put(name, x, torch.zeros_like(x))
        if self.reference is not None and name not in self.reference:
            raise ValueError(f"the reference has no {name}; {nearest(name, self.reference)}")
        if self.reference is None and self.start is not None:
            raise ValueError("in a text that grows, means and resamples need a reference; give one")
        source = x if self.reference is None else _tensor(self.reference[name], name)
        real = self.real if self.reference is None else getattr(self.reference, "real", None)
        if real is not None and not self.across_positions:
            raise ValueError(
                f"some of the examples are padded, and a {self.how} would take padding for values; give texts of one "
                "length, or the mean with across_positions=True, which leaves padding out"
            )
        if self.how == "resample":
            value = source[self._others(len(x) // self.copies, len(source))]
        else:
            if self.across_positions and is_square(name):
                raise ValueError(f"{name} has a query and a key axis; a mean across positions would mix them")
            if self.reference is None and len(x) == 1 and not self.across_positions:
                raise ValueError("the mean over one example is the example: run at least two, or give a reference")
            if self.across_positions and real is not None:
                value = source[real].mean(dim=0)[None, None]
            else:
                value = source.mean(dim=(0, 1) if self.across_positions else 0, keepdim=True)
            if self.across_positions:
                return self._put(name, x, value.expand(1, x.shape[1], *value.shape[2:]))
        return self._put(name, x, value if self.reference is None else self._aligned(name, value, x))

    def padded(self, real: Tensor | None) -> ablate:
        """This tap in a run in which these tokens are real."""
        tap = copy.copy(self)
        tap.real = real
        return tap

    def _others(self, batch: int, pool: int) -> Tensor:
        """For each example, the row to take instead: from the run itself never its own (one random cycle)."""
        generator = torch.Generator().manual_seed(self.seed)
        if self.reference is not None:
            return torch.randint(pool, (batch,), generator=generator)
        if batch < 2:
            raise ValueError("resampling needs another example: run at least two, or give a reference")
        order = torch.randperm(batch, generator=generator)
        return torch.empty_like(order).index_put_((order,), order.roll(1))


class steer(Placed):
    """Add ``strength · direction`` to the activation, at every position or at some (Turner et al. 2023, "ActAdd").

    Args:
        direction: of the length of the activation's last axis; or with all of its axes, of which those of length 1
            stand for every example, position or head.
        heads, positions: only there, as in ``patch``.

    Raises (when the model runs):
        ValueError: as ``patch``; the direction has another shape.
    """

    def __init__(
        self,
        names: str | Iterable[str],
        direction: Float[Tensor, "*axes width"],
        strength: float = 1.0,
        *,
        heads: Heads | None = None,
        positions: Positions | None = None,
    ) -> None:
        self.names, self.direction, self.strength = _listed(names), _tensor(direction, "the direction"), strength
        self.heads, self.positions = held(heads), held(positions)

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if not matches(name, self.names):
            return x
        direction = self.direction.to(x)
        if direction.ndim == x.ndim and direction.shape[1] == 1 < len(direction):
            direction = direction.repeat_interleave(self.copies, dim=0)
        elif self.start is not None and direction.ndim == x.ndim and direction.shape[1] > 1:
            direction = self._aligned(name, direction.expand(-1, -1, *x.shape[2:]), torch.zeros_like(x))
        axes = zip(direction.shape, x.shape, strict=False) if direction.ndim == x.ndim else ((0, 1),)
        if direction.shape != x.shape[-1:] and not all(a in (1, b) for a, b in axes):
            raise ValueError(
                f"a direction of shape {list(direction.shape)} does not fit {name}, which has shape {list(x.shape)}: "
                f"give [{x.shape[-1]}], or all the axes"
            )
        return self._put(name, x, x + self.strength * direction)


class compose:
    """Several taps as one; at each activation they are applied from left to right.

    A tap that reads an activation for another one (``linearise``, ``splice``, ``patch_edges``) reads what it has become
    after the last of them. A ``record`` keeps what it is at its turn.
    """

    writes = False

    def __init__(self, *taps: Tap) -> None:
        self.taps = taps

    def __call__(self, name: str, x: Tensor) -> Tensor:
        for tap in self.taps:
            x = apply(tap, name, x)
        return x

    def resolve(self, known: list[str]) -> frozenset[str]:
        return frozenset().union(*(wanted(tap, known) for tap in self.taps))

    def settled(self, name: str, x: Tensor) -> None:
        """Tell the taps that ask for it what the activation has become."""
        for tap in self.taps:
            settle(tap, name, x)

    def padded(self, real: Tensor | None) -> compose:
        """These taps in a run in which these tokens are real."""
        return compose(*(padded(tap, real) for tap in self.taps))

    def growing(self, start: int, copies: int) -> compose:
        """These taps in a text that grows: see ``growing``."""
        return compose(*(growing(tap, start, copies) for tap in self.taps))


def growing(tap: Tap, start: int, copies: int = 1) -> Tap:
    """The tap for a text that grows, of which this run computes the positions from ``start`` on.

    ``positions`` count from the start of the text, and those that are not there yet wait for their turn. Values that
    were recorded are put in at the positions that they have, and nothing at later ones. A tap without a method
    ``growing``, as any function, gets the positions that are computed and does not learn which they are.

    Args:
        copies: how many continuations of each example are run, as in a beam search.
    """
    return tap.growing(start, copies) if hasattr(tap, "growing") else tap


def _tensor(value, what: str) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{what} is no tensor, and no table of numbers that could be one: {type(value)}") from None


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
