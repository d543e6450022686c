"""Splicing a function into the model in place of a part: a sparse autoencoder, a transcoder, a reconstruction.

A dictionary f reads an activation x and predicts an activation y (for an autoencoder, y = x). Its error is
``y - f(x)``. There are three ways to run the model with f, which differ in what happens to the error::

    drop      f(x)                      the model runs on the dictionary's output alone
    keep      f(x) + stop(y - f(x))     values unchanged, and gradients that flow through f
    given     f(x) + error              f may be changed (a feature ablated); the error comes from an unchanged run

The second and third are from Marks et al. 2024, "Sparse Feature Circuits", Section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from residual.errors import nearest
from residual.scope import find, on_copy


class splice:
    """A tap that replaces the activation ``write`` by ``f`` of the activation ``read``.

    >>> model(tokens, tap=splice("blocks.1.resid_post", "blocks.1.resid_post", sae))
    >>> model(tokens, tap=splice("blocks.1.ln2.normalized", "blocks.1.mlp_out", transcoder, error="keep"))

    To give an error, pass ``seen[write] - f(seen[read])``, with both recorded in an unchanged run.

    Composed with other taps, f reads the final value of ``read``, after all of them; if ``read`` is ``write``, the
    value after those to the left.

    Raises:
        TypeError: f does not return a tensor.
        ValueError: an unknown ``error``. When the model runs: there is no such activation, ``write`` is computed before
            ``read``, or the result of f has another shape, dtype or device than ``write``.
    """

    writes = False

    def __init__(
        self,
        read: str,
        write: str,
        f: Callable[[Tensor], Tensor],
        *,
        error: Literal["drop", "keep"] | Tensor = "drop",
    ) -> None:
        if not isinstance(error, Tensor) and error not in ("drop", "keep"):
            raise ValueError(f"no error {error!r}; {nearest(str(error), ['drop', 'keep'])}, or give a tensor")
        self.read, self.write, self.f, self.error = read, write, f, error
        self._read: Tensor | None = None  # set at ``read``, used and cleared at ``write``

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if name == self.read:
            self._read = x
        if name != self.write or self._read is None:
            return x
        y, self._read = on_copy(self.f, self._read), None
        if not isinstance(y, Tensor):
            raise TypeError(f"f returned {type(y).__name__} for {name}; it must return a tensor")
        if (y.dtype, y.device) != (x.dtype, x.device):
            raise ValueError(f"f returned {y.dtype} on {y.device} for {name}, which is {x.dtype} on {x.device}")
        if y.shape != x.shape:
            raise ValueError(f"f returned shape {list(y.shape)} for {name}, which has shape {list(x.shape)}")
        if isinstance(self.error, Tensor):
            return y + self.error.to(y)
        return y if self.error == "drop" else y + (x - y).detach()

    def settled(self, name: str, x: Tensor) -> None:
        """Take the final value of ``read``, after all taps."""
        if name == self.read and self._read is not None:
            self._read = x

    def resolve(self, known: list[str]) -> frozenset[str]:
        names = find([self.read, self.write], known)
        if known.index(self.write) < known.index(self.read):
            raise ValueError(f"{self.write} is computed before {self.read}; it must be computed after it")
        return names
