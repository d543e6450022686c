"""`claim`, the one function of weave that a notebook calls."""

from __future__ import annotations

import math
import numbers
import sys
from typing import Any

CLAIM_MIME = "application/vnd.weave.claim+json"
LARGEST = 10**308


def claim(**values: Any) -> None:
    """Publish numbers under names, so that prose can cite them: ``[0.97](../../code/notebooks/x.py#=name)``.

    A value is a finite number (also a 0-d tensor or array), or a pair ``(k, n)`` for "k of n".

    Raises:
        TypeError: a value is not a number or a pair of numbers.
        ValueError: a value is NaN, infinite, or an integer not below 10**308.
    """
    plain = {name: _plain(name, value) for name, value in values.items()}
    text = "\n".join(f"{name} = {_show(value)}" for name, value in plain.items())
    if "IPython" in sys.modules and _in_notebook():
        from IPython.display import display

        display({CLAIM_MIME: plain, "text/plain": text}, raw=True)
    else:
        print(text)


def _in_notebook() -> bool:
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and type(shell).__name__ != "TerminalInteractiveShell"


def _plain(name: str, value: Any) -> int | float | list[int | float]:
    if isinstance(value, tuple | list) and len(value) == 2:
        return [_scalar(name, part) for part in value]
    return _scalar(name, value)


def _scalar(name: str, value: Any) -> int | float:
    if hasattr(value, "item"):
        try:
            value = value.item()
        except (ValueError, RuntimeError):
            raise TypeError(f"claim({name}=…) got an array of more than one number; publish one number") from None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"claim({name}=…) got {type(value).__name__}; publish a number, or a pair (k, n) for 'k of n'")
    if isinstance(value, numbers.Integral) and abs(int(value)) >= LARGEST:
        raise ValueError(f"claim({name}=…): a published number must be below 10**308")
    if not math.isfinite(value):
        raise ValueError(f"claim({name}={value}): a published number must be finite")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _show(value: int | float | list) -> str:
    return " of ".join(map(str, value)) if isinstance(value, list) else str(value)
