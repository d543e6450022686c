"""Text to tokens and back, with the model's own tokenizer.

>>> model = load("gpt").model
>>> tokens, mask = model.vocabulary.tokens(["The Senate", "We"])
>>> model.vocabulary.words(tokens[0])
['The', ' S', 'en', 'ate']
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Vocabulary:
    """The tokens of a model. ``len(vocabulary)`` is their number.

    Args:
        tokenizer: a ``tokenizers.Tokenizer``, or a function that returns one and is called on first use.
    """

    def __init__(self, tokenizer: Tokenizer | Callable[[], Tokenizer]) -> None:
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def __deepcopy__(self, memo: Any) -> Vocabulary:
        return self  # never changes: a copied model may share it

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, set neither to truncate texts nor to pad them."""
        tokenizer = self._tokenizer() if callable(self._tokenizer) else self._tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def tokens(self, texts: str | list[str]) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """Return the tokens of one or more texts, padded on the left with token 0, and a mask, True at real tokens.

        The tokenizer adds its own special tokens, as Llama's does at the start.

        Raises:
            TypeError: neither a string nor a list of strings.
            ValueError: no texts, a text without a token, or a text with half a character (a surrogate) in it.
        """
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"texts must be a string or a list of strings; this is {texts!r:.60}")
        for index, text in enumerate(texts):
            try:
                text.encode()
            except UnicodeEncodeError as problem:
                half = ascii(text[problem.start])
                raise ValueError(f"text {index} has half a character, {half}, at {problem.start}: bad UTF-8") from None
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        if not rows:
            raise ValueError("there are no texts; give a string or a list of strings")
        if [] in rows:
            raise ValueError(f"text {rows.index([])} has no tokens; a model needs at least one")
        longest = max(map(len, rows))
        padded = torch.tensor([[0] * (longest - len(ids)) + ids for ids in rows])
        lengths = torch.tensor([[len(ids)] for ids in rows])
        return padded, torch.arange(longest) >= longest - lengths

    def words(self, tokens: Int[Tensor, " pos"] | Iterable[int]) -> list[str]:
        """Return each token by itself as text; bytes that are not a whole character are shown as ``<e2>``.

        Raises:
            TypeError: not a row of whole numbers.
            ValueError: a token is not in the vocabulary.
        """
        return [self._word(token) for token in self._row(tokens)]

    def text(self, tokens: Int[Tensor, " pos"] | Iterable[int]) -> str:
        """Return the text that the tokens stand for, special tokens included.

        Raises:
            TypeError, ValueError: see ``words``.
        """
        row = self._row(tokens)
        if not self._byte_level:
            return self.tokenizer.decode(row, skip_special_tokens=False)
        pieces = [self._raw(token) for token in row]  # decode() would read an added "é" as the name of a byte
        return b"".join(piece.encode() if isinstance(piece, str) else piece for piece in pieces).decode(
            errors="replace"
        )

    def _row(self, tokens: Any) -> list[int]:
        """Return the tokens as a list of Python ints, after checking that the vocabulary has them all."""
        if isinstance(tokens, str):
            raise TypeError(f"{tokens!r:.60} is text, not token numbers; vocabulary.tokens(text) returns them")
        shape = getattr(tokens, "shape", None)
        if shape is not None and len(shape) != 1:
            raise TypeError(f"the tokens have shape {list(shape)}; give one row, [pos]")
        try:
            row = [operator.index(token) for token in (tokens.tolist() if shape is not None else tokens)]
        except TypeError:
            raise TypeError(f"tokens must be whole numbers, in a list or a tensor; this is {tokens!r:.60}") from None
        for token in row:
            if not 0 <= token < 2**32 or self.tokenizer.id_to_token(token) is None:
                raise ValueError(f"token {token} is out of range; the tokenizer knows 0 to {len(self) - 1}")
        return row

    def _word(self, token: int) -> str:
        raw = self._raw(token)
        if not isinstance(raw, str):
            return _bytes(raw)
        if self._byte_level or token in self._added:
            return raw
        return re.sub(r"^<0x([0-9A-F]{2})>$", lambda byte: _bytes(bytes.fromhex(byte[1])), raw).replace("▁", " ")

    def _raw(self, token: int) -> str | bytes:
        """Return the bytes of a token of byte-level BPE; the name of an added token or of any other kind."""
        name = self.tokenizer.id_to_token(token)
        assert name is not None  # _row has checked
        of_character = _bytes_of_characters()
        if not self._byte_level or token in self._added or not all(character in of_character for character in name):
            return name
        return bytes(of_character[character] for character in name)

    @cached_property
    def _byte_level(self) -> bool:
        from tokenizers import decoders

        return isinstance(self.tokenizer.decoder, decoders.ByteLevel)

    @cached_property
    def _added(self) -> frozenset[int]:
        """The tokens that stand for their own name: special tokens, and those added after training."""
        return frozenset(self.tokenizer.get_added_tokens_decoder())


def _bytes(raw: bytes) -> str:
    try:
        return raw.decode("utf8")
    except UnicodeDecodeError:
        return "".join(f"<{byte:02x}>" for byte in raw)


@cache
def _bytes_of_characters() -> dict[str, int]:
    """Return the byte behind each character of byte-level BPE: itself if printable, else from U+0100 on."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
