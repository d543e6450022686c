"""Arrays of what a notebook has at hand: tensors of any float, lists of them, sparse ones."""

from __future__ import annotations

from typing import Any

import numpy as np


def to_numpy(values: Any) -> np.ndarray:
    """An array of a tensor (detached, on the CPU, of a float that numpy knows), a list or an array.

    Raises:
        ValueError: the numbers are complex, or the rows of a list of different lengths.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.to_dense() if values.is_sparse else values
        if values.is_floating_point() and values.itemsize < 4:  # bfloat16 is unknown to numpy
            values = values.float()
    if isinstance(values, list | tuple):
        values = [to_numpy(value) if hasattr(value, "detach") else value for value in values]
    try:
        found = np.asarray(values)
    except ValueError:
        raise ValueError(f"the rows differ in length: {values!r:.60}") from None
    if np.iscomplexobj(found):
        raise ValueError("the numbers are complex; give their real part, imaginary part or magnitude")
    return found


def floats(values: Any) -> np.ndarray:
    """An array of float64.

    Raises:
        ValueError: as ``to_numpy``, or what is given are no numbers.
    """
    found = to_numpy(values)
    try:
        return found.astype(float)
    except (ValueError, TypeError):
        raise ValueError(f"these are no numbers: {values!r:.60}") from None
