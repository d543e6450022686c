"""zero-layer: the facts of the table of bigram counts, counted from the speeches."""

import itertools
from functools import cache

import torch
from torch import Tensor

from .claims import Again, each, wrong
from .text import counts, tokenizer, tokens


@cache
def seen() -> list[tuple[int, int, int]]:
    """Return (token, next, count) of every pair that occurs, counted in a dictionary instead of a matrix."""
    table: dict[tuple[int, int], int] = {}
    text = tokens("train").tolist()
    for pair in itertools.pairwise(text):
        table[pair] = table.get(pair, 0) + 1
    return [(*pair, count) for pair, count in table.items()]


def entropy(of: list[float]) -> float:
    p = torch.tensor(of, dtype=torch.float64)
    p = p / p.sum()
    return float(-(p * p.log()).sum())


def totals(position: int) -> dict[int, float]:
    sums: dict[int, float] = {}
    for entry in seen():
        sums[entry[position]] = sums.get(entry[position], 0) + entry[2]
    return sums


@cache
def joint() -> float:
    return entropy([count for *_, count in seen()])


def conditional() -> float:
    """Return H(next | token) = H(token, next) − H(token)."""
    return joint() - entropy(list(totals(0).values()))


def information() -> float:
    """Return I = H(token) + H(next) − H(token, next)."""
    return entropy(list(totals(0).values())) + entropy(list(totals(1).values())) - joint()


@cache
def live() -> Tensor:
    return torch.tensor(sorted(totals(0)))


def share_of_empty() -> float:
    """Return the weight of (share of i × share of j) on pairs that never occur."""
    few = counts()[live()][:, live()]
    rows, columns = few.sum(dim=1) / counts().sum(), (counts().sum(dim=0) / counts().sum())[live()]
    product = rows[:, None] * columns
    return float(product[few == 0].sum() / product.sum())


def follows(first: str, second: str) -> float:
    a, b = (tokenizer().encode(word).ids for word in (first, second))
    assert len(a) == len(b) == 1
    return float(counts()[a[0], b[0]] / counts()[a[0]].sum())


def validation_smoothed() -> float:
    """Return the best loss of counts on held-out speeches, with the same pseudo-count for every pair."""
    text = tokens("validation")
    results = []
    for alpha in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0):
        p = (counts() + alpha) / (counts().sum(dim=1, keepdim=True) + 512 * alpha)
        results.append(float(-p[text[:-1], text[1:]].log().mean()))
    return min(results)


def weighted_svd_32() -> float:
    """Return the excess loss of the best rank-32 table over counting, by eigenvectors instead of an SVD."""
    few = counts()[live()][:, live()]
    rows, columns = few.sum(dim=1) / few.sum(), (few.sum(dim=0) / few.sum()).clamp(min=1e-12)
    results = []
    for alpha in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0):
        p = (few + alpha) / (few + alpha).sum(dim=1, keepdim=True)
        table = p.log() - (p.log() * columns).sum(dim=1, keepdim=True) / columns.sum()
        scaled = table * rows[:, None].sqrt() * columns.sqrt()
        V = torch.linalg.eigh(scaled.T @ scaled).eigenvectors[:, -32:]
        low = scaled @ V @ V.T / rows[:, None].sqrt() / columns.sqrt()
        loss = low.logsumexp(dim=1, keepdim=True) - low
        results.append(float((few * loss).sum() / few.sum()) - conditional())
    return min(results)


def pairs_once() -> int:
    return sum(count == 1 for *_, count in seen())


def n_tokens() -> int:
    return len(tokens("train"))


AGAIN = {
    "train_tokens": Again(n_tokens, 0),
    "live_tokens": Again(lambda: len(live()), 0),
    "dead_tokens": Again(lambda: 512 - len(live()), 0),
    "work_saved": Again(lambda: (n_tokens() - 1) / 512, 1e-3),
    "seen_pairs": Again(lambda: len(seen()), 0),
    "unseen_share": Again(lambda: 1 - len(seen()) / len(live()) ** 2),
    "uniform_loss": Again(lambda: 9 * torch.log(torch.tensor(2.0, dtype=torch.float64))),
    "bigram_entropy": Again(conditional),
    "mutual_information": Again(information),
    "excess_at_start": Again(lambda: 9 * torch.log(torch.tensor(2.0)).item() - conditional(), 1e-3),  # logits near 0
    "pairs_once": Again(pairs_once, 0),
    "tokens_in_pairs_once": Again(lambda: pairs_once() / (n_tokens() - 1)),
    "weight_on_empty": Again(share_of_empty),
    "united_counted": Again(lambda: follows(" Un", "ited")),
    "united_backwards": Again(lambda: follows("ited", " Un")),
    "validation_smoothed": Again(validation_smoothed, 1e-4),
    "weighted_svd_32": Again(weighted_svd_32, 1e-4),
}


NUMBERS = {"zero-layer": AGAIN}


@each(NUMBERS)
def test_the_number_comes_out_again(note: str, name: str, number: Again) -> None:
    assert wrong(note, name, number) == []
