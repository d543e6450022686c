"""Taps: functions that look at activations, or change them, while the model runs.

At every named activation the model calls ``x = tap(name, x)``. Any function of a name and a tensor is a tap::

    def silence(name, x):
        return 0 * x if name == "blocks.0.attn_out" else x

    model(tokens, tap=silence)

The taps below also tell the model which names they want, so that it materializes those and nothing else. There is
nothing to register and nothing to remove: a tap acts only in the call it is passed to. Gradients flow through.
A name may be a pattern, ``"blocks.*.attn.pattern"``; a pattern that matches nothing is an error that lists the
nearest names. A function may write to its argument, ``x[:, 0] = 0``, and return it: it is a copy. In scores and
patterns, what the model hides (later keys, padding) stays hidden, whatever a tap puts there.

``heads`` are numbers, meaning heads of every layer that the names match, or ``"1.3"``, head 3 of layer 1. ``positions``
are numbers or a slice, the same in every example; ``per_example`` for one each; or a bool tensor ``[batch pos]``.
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
    """A tap that names the activations it wants and does not write to the tensors it gets."""

    writes = False
    names: list[str]

    def resolve(self, known: list[str]) -> frozenset[str]:
        """Return the wanted names among those ``known`` to the model."""
        return find(self.names, known)


class at(Named):
    """Apply ``function`` to each activation that matches ``names``: ``at("*.attn.z", lambda z: 0 * z)``."""

    def __init__(self, names: str | Iterable[str], function: Callable[[Tensor], Tensor]) -> None:
        self.names = _listed(names)
        self.function = function

    def __call__(self, name: str, x: Tensor) -> Tensor:
        return on_copy(self.function, x) if matches(name, self.names) else x


class record(Named, Mapping[str, Tensor]):
    """Record every activation that matches ``names``; afterwards, read them as from a dict.

    >>> seen = record("blocks.*.attn.pattern")
    >>> model(tokens, tap=seen)
    >>> seen["blocks.0.attn.pattern"].shape  # batch head query key

    The tensors are the model's own, with their gradient history; run under ``torch.no_grad()`` to avoid it.
    """

    def __init__(self, names: str | Iterable[str] = "*") -> None:
        self.names = _listed(names)
        self.real: Tensor | None = None  # true at real tokens of the last run; None if it had no padding
        self._seen: dict[str, Tensor] = {}

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if matches(name, self.names):
            self._seen[name] = x
        return x

    def padded(self, real: Tensor | None) -> record:
        """Return this tap, after noting which tokens are real."""
        self.real = real
        return self

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._seen[name]
        except KeyError:
            if not self._seen:
                raise KeyError(f"nothing is recorded yet; call model(tokens, tap=…) before reading {name}") from None
            raise KeyError(f"{name} was not recorded; {nearest(name, self._seen)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._seen)

    def __len__(self) -> int:
        return len(self._seen)


class Placed(Named):
    """A tap that changes activations at some heads and positions, or everywhere."""

    heads: Heads | None = None
    positions: Positions | None = None
    start: int | None = None  # in a growing text: the number of positions before this run's
    copies: int = 1  # and the number of continuations of each example

    def resolve(self, known: list[str]) -> frozenset[str]:
        return with_heads(find(self.names, known), self.heads)

    def growing(self, start: int, copies: int) -> Placed:
        """Return this tap for a growing text: see the function ``growing``."""
        tap = copy.copy(self)
        tap.start, tap.copies = start, copies
        tap.positions = repeated(self.positions, copies)
        return tap

    def _put(self, name: str, x: Tensor, value: Tensor) -> Tensor:
        return put(name, x, value, self.heads, self.positions, self.start)

    def _aligned(self, name: str, value: Tensor, x: Tensor) -> Tensor:
        """Return ``value [batch pos …]`` at the positions of ``x`` in a growing text; ``x`` where there is no value."""
        if self.start is None:
            return value
        if is_square(name):
            raise ValueError(f"{name} has a query and a key axis, and both grow; recorded values cannot be put in")
        value = value[:, self.start : self.start + x.shape[1]].to(x)
        value = value.repeat_interleave(self.copies, dim=0) if len(value) > 1 else value
        check_fit(name, x[:, : value.shape[1]], value)
        return torch.cat([value.expand(len(x), *value.shape[1:]), x[:, value.shape[1] :]], dim=1)


class patch(Placed):
    """Put in values from another run, at some heads and positions or everywhere.

    >>> model(clean, tap=(seen := record("*.attn.z")))
    >>> model(corrupted, tap=patch(seen, heads=["0.2", "1.3"], positions=-1))

    Args:
        recorded: values by name, from as many examples as are run, or from one for all of them.
        names: which of them; default: all.
        heads: which heads; for keys and values in a model with fewer of them, which key heads.
        positions: which positions. In a pattern these are queries.

    Raises (when the model runs):
        ValueError: a name was not recorded or is unknown to the model, there is no such head or position, or a value
            has another shape or number of examples.
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
    """Put recorded activations back in: whatever the input, they keep their recorded values.

    With every ``attn.pattern`` frozen, an attention-only model is a linear function of its embeddings
    (Elhage et al. 2021, "Freezing Attention Patterns").
    """

    def __init__(self, recorded: Mapping[str, Tensor]) -> None:
        super().__init__(recorded, list(recorded))


class ablate(Placed):
    """Remove the information in an activation about the example at hand.

    Args:
        names: which activations.
        how: put in ``"zero"``; the ``"mean"`` over the examples of ``reference``, at each position; or,
            ``"resample"``, the values of another example, drawn once per example and the same for all names.
        reference: recorded activations, by name; default: those of the run itself.
        heads, positions: only there, as in ``patch``.
        across_positions: take the mean over positions too, to remove even the position. Padding does not count,
            neither in a run with a mask nor in a ``record`` of one (a plain dict does not know about padding).
        seed: of the draw.

    The choice among the three changes the conclusions (Miller et al. 2024, "Transformer Circuit Faithfulness
    Metrics Are Not Robust"): report it with every result.

    Raises:
        ValueError: an unknown ``how``. When the model runs: see ``patch``; a mean over one example, or resampling
            from one; a mean at each position, or resampling, with padded examples.
    """

    real: Tensor | None = None  # true at real tokens, in a run with padding

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
            raise ValueError("while a text is being generated, means and resamples need a reference; give one")
        source = x if self.reference is None else _tensor(self.reference[name], name)
        real = self.real if self.reference is None else getattr(self.reference, "real", None)
        if real is not None and not self.across_positions:
            raise ValueError(
                f"some examples are padded, and a {self.how} would use padding as values; give texts of the same "
                "length, or the mean with across_positions=True, which leaves padding out"
            )
        if self.how == "resample":
            value = source[self._others(len(x) // self.copies, len(source))]
        else:
            if self.across_positions and is_square(name):
                raise ValueError(f"{name} has a query and a key axis; a mean across positions would mix them")
            if self.reference is None and len(x) == 1 and not self.across_positions:
                raise ValueError("the mean over one example is that example: run at least two, or give a reference")
            if self.across_positions and real is not None:
                value = source[real].mean(dim=0)[None, None]
            else:
                value = source.mean(dim=(0, 1) if self.across_positions else 0, keepdim=True)
            if self.across_positions:
                return self._put(name, x, value.expand(1, x.shape[1], *value.shape[2:]))
        return self._put(name, x, value if self.reference is None else self._aligned(name, value, x))

    def padded(self, real: Tensor | None) -> ablate:
        """Return this tap for a run with this mask of real tokens."""
        tap = copy.copy(self)
        tap.real = real
        return tap

    def _others(self, batch: int, pool: int) -> Tensor:
        """Return the row to use for each example; in the run itself never its own row (one random cycle)."""
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
        direction: a vector as long as the activation's last axis; or a tensor with all of the activation's axes, each
            of the same length or of length 1.
        heads, positions: only there, as in ``patch``.

    Raises (when the model runs):
        ValueError: see ``patch``; or the direction has another shape.
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
    """Several taps as one, applied from left to right at each activation.

    A tap that reads one activation to change another (``linearise``, ``splice``, ``patch_edges``) reads its final
    value, after all of the taps. A ``record`` keeps the value at its place in the order.
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
        """Pass an activation's final value to the taps that ask for it."""
        for tap in self.taps:
            settle(tap, name, x)

    def padded(self, real: Tensor | None) -> compose:
        """Return these taps for a run with this mask of real tokens."""
        return compose(*(padded(tap, real) for tap in self.taps))

    def growing(self, start: int, copies: int) -> compose:
        """Return these taps for a growing text: see the function ``growing``."""
        return compose(*(growing(tap, start, copies) for tap in self.taps))


def growing(tap: Tap, start: int, copies: int = 1) -> Tap:
    """Return the tap for a growing text, in a run that computes the positions from ``start`` on.

    ``positions`` count from the start of the text; positions that do not exist yet are ignored until they do. Recorded
    values are put in at their own positions, and nothing at later ones. A tap without a ``growing`` method, such as a
    plain function, gets the computed positions and is not told which they are.

    Args:
        copies: the number of continuations of each example, as in a beam search.
    """
    return tap.growing(start, copies) if hasattr(tap, "growing") else tap


def _tensor(value, description: str) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{description} must be a tensor or a table of numbers; this is {type(value)}") from None


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
