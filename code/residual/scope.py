"""Taps as the model sees them: which activations a tap wants, and how the model calls it at each of them.

A tap without a ``resolve`` method (a plain function) is called at every activation except ``attn.q_in``, ``k_in`` and
``v_in``, the inputs of single heads, each as large as the stream times the number of heads. Those exist only for a tap
that asks for them by name, with the last part of the pattern written out: ``"*.q_in"``. ``"*"`` does not match them.

A tap may write to the tensor that it gets. It gets a copy, so that no weight, recorded activation or tensor of the
caller changes with it. A tap with the attribute ``writes = False``, such as all those in taps.py, promises not to
change the tensor, and gets it without a copy.

A tap may have two more methods. ``settled(name, x)`` is called with an activation's final value, after all taps.
``padded(real)`` is called before each run with the mask of real tokens, or None if all are real, and returns the tap
for that run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor

from residual.errors import nearest

Tap = Callable[[str, Tensor], Tensor]

BY_NAME_ALONE = (".q_in", ".k_in", ".v_in")  # wildcards do not match these


class Scope:
    """A tap as one part of the model sees it: the wanted names below the part's prefix.

    ``changed`` holds, by short name, the values that the tap put in place of this part's activations.
    """

    __slots__ = ("changed", "names", "prefix", "tap")

    def __init__(self, tap: Tap | None, names: frozenset[str], prefix: str = "") -> None:
        self.tap, self.names, self.prefix = tap, names, prefix
        self.changed: dict[str, Tensor] = {}

    def inside(self, part: str) -> Scope:
        """Return the scope of a part: ``scope.inside("blocks.0")("z", x)`` is ``tap("blocks.0.z", x)``."""
        return Scope(self.tap, self.names, f"{self.prefix}{part}.") if self.names else self

    def wants(self, *names: str) -> bool:
        """Return True if the tap wants any of these activations, so that the model must compute them."""
        return bool(self.names) and any(self.prefix + name in self.names for name in names)

    def __call__(self, name: str, x: Tensor, future: Tensor | None = None) -> Tensor:
        """Return the activation as the tap changes it, unchanged where ``future`` is -∞ so that nothing leaks."""
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
    """Call the tap's ``settled`` method, if it has one, with the activation's final value."""
    method = getattr(tap, "settled", None)
    if method is not None:
        method(name, x)


def padded(tap: Tap, real: Tensor | None) -> Tap:
    """Return the tap for a run with this mask of real tokens (None: all are real)."""
    method = getattr(tap, "padded", None)
    return tap if method is None else method(real)


def apply(tap: Tap, name: str, x: Tensor) -> Tensor:
    """Return ``tap(name, x)``.

    Raises:
        TypeError: the tap did not return a tensor.
        ValueError: the tap returned a tensor of another shape, dtype or device.
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
    """Return ``function(x)``, protecting ``x`` from writes; if the function changes nothing, return ``x`` itself."""
    copy = x.clone()
    before = None if copy.is_inference() else copy._version  # counts most writes, but none through .data or .numpy()
    y = function(copy)
    if y is not copy or (before is not None and copy._version != before):
        return y
    return x if copy.shape == x.shape and torch.equal(copy, x) else copy


def scope(tap: Tap | None, known: list[str]) -> Scope:
    """Return the scope of the whole model, whose activations are ``known``.

    Raises:
        ValueError: the tap asks for a name that the model does not have.
    """
    return Scope(tap, wanted(tap, known) if tap is not None else frozenset())


QUIET = scope(None, [])  # no tap


def wanted(tap: Tap, known: list[str]) -> frozenset[str]:
    """Return the names at which to call a tap; for a plain function, all except the inputs of heads."""
    resolve = getattr(tap, "resolve", None)
    return frozenset(name for name in known if not name.endswith(BY_NAME_ALONE)) if resolve is None else resolve(known)


def find(patterns: Iterable[str], known: Iterable[str]) -> frozenset[str]:
    """Return the names that match the patterns (``*`` stands for any characters).

    Raises:
        ValueError: a pattern matches nothing; the message lists the nearest names.
    """
    known, result = list(known), set()
    for pattern in patterns:
        matching = [name for name in known if matches(name, [pattern])]
        if not matching and any(fnmatchcase(name, pattern) for name in known):
            last = pattern.rsplit(".", 1)[-1]
            raise ValueError(f"{last!r} does not match inputs of heads; write out q_in, k_in or v_in, as in '*.q_in'")
        if not matching:
            raise ValueError(f"the model has no activation {pattern!r}; {nearest(pattern, known)}")
        result.update(matching)
    return frozenset(result)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return True if a pattern matches the name; the inputs of heads match only with their last part written out."""
    if name.endswith(BY_NAME_ALONE):
        patterns = [pattern for pattern in patterns if pattern.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    return any(fnmatchcase(name, pattern) for pattern in patterns)
