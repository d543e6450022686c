"""The committed tokenizers: byte-level BPEs of 512 tokens, and of 2048 where words matter.

Trained once on the training speeches (``python -m residual.training.corpus`` makes them again).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

D_VOCAB = 512
TOKENIZERS = {512: Path(__file__).with_name("tokenizer.json"), 2048: Path(__file__).with_name("tokenizer-2048.json")}
"""By the size of the vocabulary."""
START = "<|endoftext|>"
"""The token before each speech."""


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
def _byte_characters() -> dict[int, str]:
    """How byte-level BPE writes each byte: as itself where that prints, else as the next from U+0100 on."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
