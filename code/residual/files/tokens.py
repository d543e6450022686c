"""The committed tokenizers: byte-level BPEs of 512 tokens, and of 2048 for models that need whole words.

They were trained once on the training speeches (``python -m residual.training.corpus`` trains them again).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Int
from torch import Tensor

from residual.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

D_VOCAB = 512
TOKENIZERS = {512: Path(__file__).with_name("tokenizer.json"), 2048: Path(__file__).with_name("tokenizer-2048.json")}
"""Files by the size of the vocabulary."""
START = "<|endoftext|>"
"""The token before each speech."""


@cache
def tokenizer(d_vocab: int = D_VOCAB) -> Tokenizer:
    """Return the committed tokenizer. ``decode`` inverts ``encode`` on any text.

    Raises:
        ValueError: there is no tokenizer of that size.
    """
    from tokenizers import Tokenizer

    if d_vocab not in TOKENIZERS:
        raise ValueError(f"there is no tokenizer of {d_vocab} tokens; there are {' and '.join(map(str, TOKENIZERS))}")
    return Tokenizer.from_str(TOKENIZERS[d_vocab].read_text("utf8"))


def train_tokenizer(texts: list[str], d_vocab: int = D_VOCAB) -> Tokenizer:
    """Train a byte-level BPE: START, the 256 bytes, then merges up to ``d_vocab``. Same texts, same merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=d_vocab,
        special_tokens=[START],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@cache
def vocabulary(d_vocab: int = D_VOCAB) -> Vocabulary:
    """Return the committed tokenizer as a model's vocabulary. It is opened on first use."""
    return Vocabulary(partial(tokenizer, d_vocab))


def words(tokens: Int[Tensor, " pos"] | Iterable[int], d_vocab: int = D_VOCAB) -> list[str]:
    """Return each token by itself as text; bytes that are not a whole character are shown as ``<e2>``.

    Raises:
        TypeError: not a row of whole numbers.
        ValueError: a token is not in the vocabulary, or there is no tokenizer of that size.
    """
    return vocabulary(d_vocab).words(tokens)
