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

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

from torch import Tensor

Tap = Callable[[str, Tensor], Tensor]


class at:
    """Apply ``function`` to each activation that matches ``names``: ``at("*.attn.z", lambda z: 0 * z)``."""

    def __init__(self, names: str | Iterable[str], function: Callable[[Tensor], Tensor]) -> None:
        self.names = _listed(names)
        self.function = function

    def __call__(self, name: str, x: Tensor) -> Tensor:
        return self.function(x) if _matches(name, self.names) else x

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
        if _matches(name, self.names):
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


class compose:
    """Several taps as one; at each activation they are applied from left to right."""

    def __init__(self, *taps: Tap) -> None:
        self.taps = taps

    def __call__(self, name: str, x: Tensor) -> Tensor:
        for tap in self.taps:
            x = tap(name, x)
        return x

    def resolve(self, known: list[str]) -> frozenset[str]:
        return frozenset().union(*(wanted(tap, known) for tap in self.taps))


# The model's side


class Scope:
    """What a part of the model sees of a tap: the names below its own prefix, and which are asked for."""

    __slots__ = ("names", "prefix", "tap")

    def __init__(self, tap: Tap | None, names: frozenset[str], prefix: str = "") -> None:
        self.tap, self.names, self.prefix = tap, names, prefix

    def inside(self, part: str) -> Scope:
        """The scope of a part: ``scope.inside("blocks.0")("z", x)`` is ``tap("blocks.0.z", x)``."""
        return Scope(self.tap, self.names, f"{self.prefix}{part}.") if self.names else self

    def wants(self, *names: str) -> bool:
        """Whether any of these activations is asked for, and so has to exist."""
        return any(self.prefix + name in self.names for name in names)

    def __call__(self, name: str, x: Tensor) -> Tensor:
        name = self.prefix + name
        if self.tap is None or name not in self.names:
            return x
        y = self.tap(name, x)
        if not isinstance(y, Tensor):
            raise TypeError(f"the tap returned {type(y).__name__} for {name}; return a tensor (x itself, to keep it)")
        if y.shape != x.shape:
            raise ValueError(f"the tap returned shape {list(y.shape)} for {name}, which has shape {list(x.shape)}")
        return y


def scope(tap: Tap | None, known: list[str]) -> Scope:
    """The scope of the whole model, whose activations are ``known``.

    Raises:
        ValueError: the tap asks for a name that the model does not have.
    """
    return Scope(tap, wanted(tap, known) if tap is not None else frozenset())


def wanted(tap: Tap, known: list[str]) -> frozenset[str]:
    """The names at which a tap wants to be called. A plain function does not say, and so gets them all."""
    resolve = getattr(tap, "resolve", None)
    return frozenset(known) if resolve is None else resolve(known)


def find(patterns: Iterable[str], known: list[str]) -> frozenset[str]:
    """The names that match the patterns (``*`` stands for any characters).

    Raises:
        ValueError: a pattern matches nothing; the message lists the nearest names.
    """
    found: set[str] = set()
    for pattern in patterns:
        matching = [name for name in known if fnmatchcase(name, pattern)]
        if not matching:
            raise ValueError(f"the model has no activation {pattern!r}; {nearest(pattern, known)}")
        found.update(matching)
    return frozenset(found)


def nearest(word: str, known: Iterable[str], limit: int = 5) -> str:
    """The names that exist, nearest to ``word`` first, as the end of an error message."""
    names = sorted(set(known), key=lambda name: (-difflib.SequenceMatcher(None, word, name).ratio(), name))
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return "there is " + ", ".join(names[:limit]) + more if names else "there is none"


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
