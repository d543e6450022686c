"""Stored measurements: ``NAME.safetensors`` in ``code/results``, with a card beside it.

>>> values, card = load_result("smollm2-head-ablations")

A notebook that reads a result recomputes a random part of it and compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from residual.files import cards
from residual.files.cards import DTYPES, ResultCard

FOLDER = Path(__file__).parents[2] / "results"
"""The folder of committed results: ``code/results``."""


def save_result(path: str | Path, values: Mapping[str, Tensor], card: ResultCard) -> Path:
    """Write the values to ``path``, each in its own type, and the card beside them; return the path of the values.

    NaN and infinity are allowed: a table of scores may have meaningless entries.

    Raises:
        ValueError: there are no values; a value is empty, or has a type or name that the file cannot hold; or the card
            could not be read back, for example because of a number that is not finite.
    """
    path = cards.weights_path(path)
    names = {dtype: name for name, dtype in DTYPES.items()}
    if not values:
        raise ValueError(f"there is nothing to save in {path}")
    stored, dtypes = {}, {}
    for name, value in values.items():
        if not isinstance(value, Tensor) or value.dtype not in names or not value.numel():
            kind = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(f"{name} is {kind}; a result holds tensors of {', '.join(map(str, names))}, none empty")
        stored[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)  # shares no memory
        dtypes[name] = names[value.dtype]
    card.dtypes = dict(sorted(dtypes.items()))
    cards.write(path, stored, card)
    return path


def load_result(path: str | Path) -> tuple[dict[str, Tensor], ResultCard]:
    """Return the values saved in ``path`` and their card (a bare name is looked up in ``FOLDER``).

    Raises:
        FileNotFoundError: there is no such result.
        CheckpointError: corrupt, truncated, or different from its card.
    """
    path = cards.find(path, FOLDER)
    card = cards.read(path, ResultCard)
    return cards.read_tensors(path, card, card.dtypes), card
