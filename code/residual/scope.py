"""The model's side of taps: which activations a tap asks for, and how it is called at each of them.

A tap without a ``resolve`` method (a plain function) is called at every activation but the inputs of single heads,
``attn.q_in``, ``k_in`` and ``v_in``, which are as many streams as there are heads. Those exist only for a tap that
asks for them by name: the last part of the pattern is written out, as in ``"*.q_in"``. ``"*"`` does not match them.

A tap may write to the tensor that it gets. It gets a copy, so that no weight, no recorded activation and no tensor of
the caller changes with it. A tap with ``writes = False`` among its attributes, as all those of taps.py, promises to
leave the tensor as it is, and gets it without a copy.

Two methods of a tap are called if it has them: ``settled(name, x)``, with what an activation has become once all taps
are done; and ``padded(real)``, before each run, with the tokens that are real, or None where all are. The second
returns the tap for that run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor

from residual.errors import nearest

Tap = Callable[[str, Tensor], Tensor]

BY_NAME_ALONE = (".q_in", ".k_in", ".v_in")  # no wildcard reaches these


class Scope:
    """What a part of the model sees of a tap: the names below its own prefix, and which are asked for.

    ``changed`` holds, by short name, what the tap put in the place of an activation of this part.
    """

    __slots__ = ("changed", "names", "prefix", "tap")

    def __init__(self, tap: Tap | None, names: frozenset[str], prefix: str = "") -> None:
        self.tap, self.names, self.prefix = tap, names, prefix
        self.changed: dict[str, Tensor] = {}

    def inside(self, part: str) -> Scope:
        """The scope of a part: ``scope.inside("blocks.0")("z", x)`` is ``tap("blocks.0.z", x)``."""
        return Scope(self.tap, self.names, f"{self.prefix}{part}.") if self.names else self

    def wants(self, *names: str) -> bool:
        """Whether any of these activations is asked for, and so has to exist."""
        return bool(self.names) and any(self.prefix + name in self.names for name in names)

    def __call__(self, name: str, x: Tensor, future: Tensor | None = None) -> Tensor:
        """What the tap makes of the activation; where ``future`` is -∞, it stays as it was, so that none leaks in."""
        if self.tap is None:
            return x
        full = self.prefix + name
        if full not in self.names:
            return x
        y = apply(self.tap, full, x)
        if y is not x:
            if future is not None:
                y = torch.where(future.isneginf(), x, y)
            self.changed[name] = y
        settle(self.tap, full, y)
        return y

    def padded(self, real: Tensor | None) -> None:
        """Tell the tap which tokens are real."""
        if self.tap is not None:
            self.tap = padded(self.tap, real)


def settle(tap: Tap, name: str, x: Tensor) -> None:
    """Tell a tap that asks what the activation has become, with all taps done."""
    method = getattr(tap, "settled", None)
    if method is not None:
        method(name, x)


def padded(tap: Tap, real: Tensor | None) -> Tap:
    """The tap for a run in which these tokens are real; None: all are."""
    method = getattr(tap, "padded", None)
    return tap if method is None else method(real)


def apply(tap: Tap, name: str, x: Tensor) -> Tensor:
    """Return ``tap(name, x)``.

    Raises:
        TypeError: the tap returned no tensor.
        ValueError: the tap returned a tensor of another shape, kind of number or device.
    """
    if name.endswith(BY_NAME_ALONE) and not hasattr(tap, "resolve"):
        return x
    y = tap(name, x) if not getattr(tap, "writes", True) else on_copy(partial(tap, name), x)
    if not isinstance(y, Tensor):
        raise TypeError(f"the tap returned {type(y).__name__} for {name}; return a tensor (x itself, to keep it)")
    if y.shape != x.shape:
        raise ValueError(f"the tap returned shape {list(y.shape)} for {name}, which has shape {list(x.shape)}")
    if (y.dtype, y.device) != (x.dtype, x.device):
        raise ValueError(
            f"the tap returned {y.dtype} on {y.device} for {name}, which is {x.dtype} on {x.device}; return y.to(x)"
        )
    return y


def on_copy(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return ``function(x)``, where the function may write to its argument; if it does nothing, ``x`` itself."""
    copy = x.clone()
    before = None if copy.is_inference() else copy._version  # counts most writing, but none through .data or .numpy()
    y = function(copy)
    if y is not copy or (before is not None and copy._version != before):
        return y
    return x if copy.shape == x.shape and torch.equal(copy, x) else copy


def scope(tap: Tap | None, known: list[str]) -> Scope:
    """The scope of the whole model, whose activations are ``known``.

    Raises:
        ValueError: the tap asks for a name that the model does not have.
    """
    return Scope(tap, wanted(tap, known) if tap is not None else frozenset())


QUIET = scope(None, [])  # no tap


def wanted(tap: Tap, known: list[str]) -> frozenset[str]:
    """The names at which a tap wants to be called. A plain function does not say: all but the inputs of heads."""
    resolve = getattr(tap, "resolve", None)
    return frozenset(name for name in known if not name.endswith(BY_NAME_ALONE)) if resolve is None else resolve(known)


def find(patterns: Iterable[str], known: Iterable[str]) -> frozenset[str]:
    """The names that match the patterns (``*`` stands for any characters).

    Raises:
        ValueError: a pattern matches nothing; the message lists the nearest names.
    """
    known, found = list(known), set()
    for pattern in patterns:
        matching = [name for name in known if matches(name, [pattern])]
        if not matching and any(fnmatchcase(name, pattern) for name in known):
            last = pattern.rsplit(".", 1)[-1]
            raise ValueError(f"{last!r} names no input of a head; write q_in, k_in or v_in out, as in '*.q_in'")
        if not matching:
            raise ValueError(f"the model has no activation {pattern!r}; {nearest(pattern, known)}")
        found.update(matching)
    return frozenset(found)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns matches; the input of a head only with its last part written out."""
    if name.endswith(BY_NAME_ALONE):
        patterns = [pattern for pattern in patterns if pattern.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    return any(fnmatchcase(name, pattern) for pattern in patterns)
