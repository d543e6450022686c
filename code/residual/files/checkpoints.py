"""Trained weights on disk: ``NAME.safetensors``, and beside it the card ``NAME.json`` that describes them.

The card holds the model's kind and config, the data, the seed, the steps, the loss curve, metrics, the command that
makes the weights again, the versions it ran on, the SHA-256 of the weights' file and the shape of every tensor.
``load`` trusts no file: the card is checked against the config, and the file against the card, before any tensor is
used.

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
"""The folder of committed checkpoints: ``code/checkpoints``."""

FLOATS = ("F16", "F32", "F64")
"""Types of weights, by their names in safetensors."""

TEXTS = ("sotu", "sotu-2048", "bible", "house")
"""The data that are encoded with the committed tokenizers."""


@dataclass(frozen=True)
class Kind:
    """The classes that belong to a kind of card.

    ``module(config)`` makes the model, on the device "meta" too, and keeps the config as ``.config``.

    Raises:
        TypeError: not two classes; ``save`` looks up a model's kind by its class.
    """

    config: type[Any]  # a dataclass of numbers, strings and booleans
    module: type[nn.Module]

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, type):
                raise TypeError(f"the {name} of a kind must be a class; this is {value!r:.60}")


KINDS: dict[str, Kind] = {"transformer": Kind(Config, Transformer)}
"""Every kind of model, by the card's ``kind``. Each module that defines a model adds its kind on import."""


@dataclass
class Run:
    """A model and its card. The model is a module of the card's kind, with its config as ``.config``."""

    model: Any
    card: Card


def save(run: Run, path: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write the weights of ``run`` to ``path`` and the card beside them; return the path of the weights.

    Each file is written aside and renamed, so that neither is ever half-written. The same weights and card give the
    same bytes.

    Args:
        dtype: of the numbers in the file. ``torch.float16`` halves the file and keeps 11 significant bits.

    Raises:
        ValueError: the model is of no kind in ``KINDS``; a weight is empty, not finite, too large for ``dtype`` or a
            whole number; or the card could not be read back, for example because of a number that is not finite.
    """
    path = cards.weights_path(path)
    kinds = [kind for kind, entry in KINDS.items() if entry.module is type(run.model)]
    if not kinds:
        raise ValueError(f"{type(run.model).__name__} is of no known kind; add its kind to checkpoints.KINDS")
    names = {DTYPES[name]: name for name in FLOATS}
    if dtype not in names:
        raise ValueError(f"weights can be saved as {', '.join(map(str, names))}, not as {dtype}")
    state = {}
    for name, weight in _state(run.model).items():
        if not weight.is_floating_point():
            raise ValueError(f"{name} is {weight.dtype}; a checkpoint holds floating-point numbers; nothing was saved")
        if not weight.numel():
            raise ValueError(f"{name} is empty (shape {list(weight.shape)}); leave it out; nothing was saved")
        stored = weight.detach().to("cpu", dtype, copy=True).contiguous()  # shares no memory
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
    """Return the model saved in ``path`` (with or without ``.safetensors``; a bare name is looked up in ``FOLDER``).

    Weights come back as float32, or as float64 if saved as float64. A transformer trained on data that are encoded with
    a committed tokenizer has it as ``model.vocabulary``.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        CheckpointError: corrupt, truncated, different from its card, or of a kind that no imported module defines.
    """
    path = find(path)
    card = read_card(path)
    kind, beside = _kind(card, path), path.with_suffix(".json")
    if card.dtype not in FLOATS:
        raise CheckpointError(f"{beside}: dtype is {card.dtype!r:.60}; weights can be {', '.join(FLOATS)}")
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
    """Return the path of a checkpoint's weights.

    Raises:
        FileNotFoundError: there is no such file, or it has no card.
    """
    return cards.find(path, FOLDER)


def read_card(path: str | Path) -> Card:
    """Return the card beside the weights in ``path``.

    Raises:
        FileNotFoundError: there is no card.
        CheckpointError: it is not the card of a checkpoint.
    """
    return cards.read(path, Card)


def _kind(card: Card, path: Path) -> Kind:
    if card.kind in KINDS:
        return KINDS[card.kind]
    defined = f"; its card names the module {card.module}: import it first" if card.module else ""
    known = nearest(card.kind, KINDS)
    raise CheckpointError(f"{path.with_suffix('.json')}: the kind {card.kind!r} is unknown; {known}{defined}")


def _shapes(kind: Kind, config: Any, tensors: int, beside: Path) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a model of ``config``, without allocating memory for it."""
    n_layers = getattr(config, "n_layers", 0)
    if n_layers > tensors:
        raise CheckpointError(f"{beside}: a model of {n_layers} layers cannot consist of {tensors} tensors")
    try:
        with torch.device("meta"):
            model = kind.module(config)
    except (RuntimeError, TypeError, ValueError, OverflowError) as problem:
        raise CheckpointError(f"{beside}: this config does not make a model ({problem})") from None
    return {name: tuple(weight.shape) for name, weight in _state(model).items()}


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers, each once; a tied weight under the first of its names."""
    state: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        state.setdefault(id(tensor), (name, tensor))
    return dict(state.values())
