"""Measurements too long for a notebook's minute: ``NAME.safetensors`` in ``code/results``, and its card beside it.

>>> values, card = load_result("smollm2-head-ablations")

A notebook that reads a result computes a random part of it again and compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from residual.files import cards
from residual.files.cards import DTYPES, ResultCard

FOLDER = Path(__file__).parents[2] / "results"
"""Where committed results live: ``code/results``."""


def save_result(path: str | Path, values: Mapping[str, Tensor], card: ResultCard) -> Path:
    """Write the values to ``path``, each in its own type, and the card beside it; the path of the values.

    NaN and infinity are kept: a table of scores may have entries that mean nothing.

    Raises:
        ValueError: there are no values; a value is empty, of a type that no file here holds, or of a name that no file
            holds; or the card could not be read back, such as for a number that is not finite.
    """
    path = cards.weights_path(path)
    names = {dtype: name for name, dtype in DTYPES.items()}
    if not values:
        raise ValueError(f"there is nothing to save in {path}")
    stored, dtypes = {}, {}
    for name, value in values.items():
        if not isinstance(value, Tensor) or value.dtype not in names or not value.numel():
            what = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(f"{name} is {what}; a result holds tensors of {', '.join(map(str, names))}, none empty")
        stored[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)  # shares nothing
        dtypes[name] = names[value.dtype]
    card.dtypes = dict(sorted(dtypes.items()))
    cards.write(path, stored, card)
    return path


def load_result(path: str | Path) -> tuple[dict[str, Tensor], ResultCard]:
    """The values kept in ``path`` and their card (a bare name is sought in ``FOLDER``).

    Raises:
        FileNotFoundError: no such result.
        CheckpointError: corrupt, truncated, or not what its card says.
    """
    path = cards.find(path, FOLDER)
    card = cards.read(path, ResultCard)
    return cards.read_tensors(path, card, card.dtypes), card
