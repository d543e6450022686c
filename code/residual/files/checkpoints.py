"""Trained weights on disk: ``NAME.safetensors``, and beside it ``NAME.json``, the card that says what they are.

The card holds the model's kind and config, the data, the seed, the steps, the loss curve, metrics, the command that
makes the weights again, the versions it ran on, and of the weights' file its SHA-256 and every tensor's shape.
``load`` believes no file: the card is compared with the config, and the file with the card, before any tensor is used.

A module that defines another kind of model adds it to ``KINDS``::

    KINDS["sae"] = Kind(SAEConfig, SAE)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from residual.errors import nearest
from residual.files import cards
from residual.files.blobs import CheckpointError
from residual.files.cards import DTYPES, Card, card_text, versions
from residual.model import Config, Transformer

__all__ = [
    "KINDS",
    "Card",
    "CheckpointError",
    "Kind",
    "Run",
    "card_text",
    "find",
    "load",
    "read_card",
    "save",
    "versions",
]

FOLDER = Path(__file__).parents[2] / "checkpoints"
"""Where committed checkpoints live: ``code/checkpoints``."""

FLOATS = ("F16", "F32", "F64")
"""Types of weights, under safetensors' names."""

TEXTS = ("sotu", "sotu-2048", "bible", "house")
"""Data that the committed tokenizers cut into tokens."""


@dataclass(frozen=True)
class Kind:
    """The classes that belong to a kind of card.

    ``module(config)`` makes the model, also on the device "meta", and keeps the config as ``.config``.

    Raises:
        TypeError: not two classes. By the class of a model, ``save`` knows its kind.
    """

    config: type[Any]  # a dataclass of numbers, strings and booleans
    module: type[nn.Module]

    def __post_init__(self) -> None:
        for name, given in vars(self).items():
            if not isinstance(given, type):
                raise TypeError(f"the {name} of a kind is a class; this is {given!r:.60}")


KINDS: dict[str, Kind] = {"transformer": Kind(Config, Transformer)}
"""By the card's ``kind``. Written by the modules that define the models, when they are imported."""


@dataclass
class Run:
    """A model and its card. The model is a module of the card's kind, with its config as ``.config``."""

    model: Any
    card: Card


def save(run: Run, path: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write ``run`` to ``path`` and the card beside it; the path of the weights.

    Each file is written aside and renamed, so that neither is ever half there. The same weights and card give the
    same bytes.

    Args:
        dtype: of the numbers in the file. ``torch.float16`` halves it, and keeps 11 significant bits of each.

    Raises:
        ValueError: the model is of no kind in ``KINDS``; a weight is empty, not finite, too large for ``dtype`` or a
            whole number; or the card could not be read back, such as for a number that is not finite.
    """
    path = cards.weights_path(path)
    kinds = [kind for kind, entry in KINDS.items() if entry.module is type(run.model)]
    if not kinds:
        raise ValueError(f"{type(run.model).__name__} is of no kind that is known; add its kind to checkpoints.KINDS")
    names = {DTYPES[name]: name for name in FLOATS}
    if dtype not in names:
        raise ValueError(f"weights are saved as {', '.join(map(str, names))}; not as {dtype}")
    state = {}
    for name, weight in _state(run.model).items():
        if not weight.is_floating_point():
            raise ValueError(f"{name} is {weight.dtype}; a checkpoint holds floating-point numbers; nothing was saved")
        if not weight.numel():
            raise ValueError(f"{name} is empty (shape {list(weight.shape)}): make no weight of it; nothing was saved")
        stored = weight.detach().to("cpu", dtype, copy=True).contiguous()  # shares nothing
        if not stored.isfinite().all():
            why = "is not finite" if not weight.isfinite().all() else f"has entries too large for {dtype}"
            raise ValueError(f"{name} {why}; nothing was saved")
        state[name] = stored
    run.card.kind, run.card.module = kinds[0], type(run.model).__module__
    run.card.dtype = names[dtype]
    run.card.config = asdict(run.model.config)
    cards.write(path, state, run.card)
    return path


def load(path: str | Path) -> Run:
    """The model kept in ``path`` (with or without ``.safetensors``; a bare name is sought in ``FOLDER``).

    Weights come back as float32, those kept as float64 as float64. A transformer trained on a text that the
    committed tokenizers cut has that vocabulary: ``model.vocabulary``.

    Raises:
        FileNotFoundError: no such checkpoint.
        CheckpointError: corrupt, truncated, not what its card says, or of a kind that no imported module defines.
    """
    path = find(path)
    card = read_card(path)
    kind, beside = _kind(card, path), path.with_suffix(".json")
    if card.dtype not in FLOATS:
        raise CheckpointError(f"{beside}: dtype is {card.dtype!r:.60}; weights are {', '.join(FLOATS)}")
    try:
        config = kind.config(**card.config)
    except (TypeError, ValueError) as problem:
        raise CheckpointError(f"{beside}: {problem}") from None
    listed = {name: tuple(shape) for name, shape in card.shapes.items()}
    cards.compare(listed, _shapes(kind, config, len(listed), beside), beside, "the card", "its config")
    state = cards.read_tensors(path, card, dict.fromkeys(listed, card.dtype))
    for name, tensor in sorted(state.items()):
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} has entries that are not finite")
    model: Any = kind.module(config)
    if card.dtype == "F64":
        model = model.double()
    with torch.no_grad():
        for name, weight in _state(model).items():
            weight.copy_(state[name])
    if isinstance(config, Config) and card.data in TEXTS:
        from residual.files.tokens import TOKENIZERS, vocabulary

        model.vocabulary = vocabulary(config.d_vocab) if config.d_vocab in TOKENIZERS else None
    return Run(model, card)


def find(path: str | Path) -> Path:
    """The path of a checkpoint's weights.

    Raises:
        FileNotFoundError: there is none, or it has no card.
    """
    return cards.find(path, FOLDER)


def read_card(path: str | Path) -> Card:
    """The card beside the weights in ``path``.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it is not the card of a checkpoint.
    """
    return cards.read(path, Card)


def _kind(card: Card, path: Path) -> Kind:
    if card.kind in KINDS:
        return KINDS[card.kind]
    defined = f"; its card names the module {card.module}: import that first" if card.module else ""
    known = nearest(card.kind, KINDS)
    raise CheckpointError(f"{path.with_suffix('.json')}: no kind {card.kind!r} is known; {known}{defined}")


def _shapes(kind: Kind, config: Any, tensors: int, beside: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes that a model of ``config`` has, without memory for one."""
    n_layers = getattr(config, "n_layers", 0)
    if n_layers > tensors:
        raise CheckpointError(f"{beside}: a model of {n_layers} layers cannot consist of {tensors} tensors")
    try:
        with torch.device("meta"):
            model = kind.module(config)
    except (RuntimeError, TypeError, ValueError, OverflowError) as problem:
        raise CheckpointError(f"{beside}: no model has this config ({problem})") from None
    return {name: tuple(weight.shape) for name, weight in _state(model).items()}


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, each once: a tied weight under the first of its names."""
    state: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        state.setdefault(id(tensor), (name, tensor))
    return dict(state.values())
