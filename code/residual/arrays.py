"""NumPy arrays from the values in a notebook: tensors of any floating-point type, lists of tensors, sparse tensors."""

from __future__ import annotations

from typing import Any

import numpy as np


def to_numpy(values: Any) -> np.ndarray:
    """Return a tensor (detached, on the CPU, in a type that NumPy knows), a list or an array as an array.

    Raises:
        ValueError: the numbers are complex, or the rows of a list differ in length.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.to_dense() if values.is_sparse else values
        if values.is_floating_point() and values.itemsize < 4:  # NumPy has no bfloat16
            values = values.float()
    if isinstance(values, list | tuple):
        values = [to_numpy(value) if hasattr(value, "detach") else value for value in values]
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"the rows differ in length: {values!r:.60}") from None
    if np.iscomplexobj(array):
        raise ValueError("the numbers are complex; give their real part, imaginary part or magnitude")
    return array


def floats(values: Any) -> np.ndarray:
    """Return the values as an array of float64.

    Raises:
        ValueError: see ``to_numpy``; or the values are not numbers.
    """
    array = to_numpy(values)
    try:
        return array.astype(float)
    except (ValueError, TypeError):
        raise ValueError(f"these are not numbers: {values!r:.60}") from None
