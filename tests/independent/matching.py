"""Prefix matching on random tokens that repeat, in the five models trained on them."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from .forward import Seen, forward, losses
from .text import drawn, repeats
from .weights import SEEDS, heads, named

NAMES = [named("induction", seed) for seed in SEEDS]
PERIODS = (8, 32)


def previous(pattern: Tensor) -> Tensor:
    """Return each head's mean attention to the previous token, ``[head]``, in a pattern ``[batch head query key]``."""
    return pattern.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=(0, 2))


def matching(pattern: Tensor, periods: Tensor) -> Tensor:
    """Return each head's mean attention, from the second period on, to what followed this token in earlier periods."""
    means = []
    for row, period in zip(pattern, periods.tolist(), strict=True):
        for query in range(period, row.shape[-1]):
            keys = list(range(query - period + 1, 0, -period))
            means.append(row[:, query, keys].sum(dim=-1))
    return torch.stack(means).mean(dim=0)


@cache
def scores(name: str) -> Tensor:
    """Return the prefix matching of each head, ``[layer head]``, on stretches of distinct tokens."""
    tokens, periods = repeats(24, 128, PERIODS, distinct=True)
    return torch.stack([matching(pattern, periods) for pattern in forward(name, tokens, torch.float32).pattern])


@cache
def mover(name: str) -> int:
    """Return the head of layer 0 that attends most to the previous token, on speeches."""
    seen = forward(name, drawn(16, 129)[:, :-1], torch.float32)
    return int(previous(seen.pattern[0]).argmax())


def inductors(name: str, layer: int = 1) -> list[int]:
    return (scores(name)[layer] > 0.5).nonzero().flatten().tolist()


def again() -> tuple[Tensor, Tensor]:
    """Return tokens that repeat, and a mask of the predictions whose target came one period before."""
    tokens, periods = repeats(48, 129, PERIODS)
    return tokens, torch.arange(1, 129) >= periods[:, None]


@cache
def run(name: str) -> Seen:
    return forward(name, again()[0][:, :-1], torch.float32, apart=True)


def repeated(logits: Tensor) -> float:
    tokens, counted = again()
    return float(losses(logits, tokens[:, 1:])[counted].mean())


def first_time(logits: Tensor) -> float:
    tokens, counted = again()
    return float(losses(logits, tokens[:, 1:])[~counted].mean())


def changed(name: str, **changes: Callable[[Tensor, int], Tensor]) -> Seen:
    return forward(name, again()[0][:, :-1], torch.float32, **changes)


def at_mean(layer: int, chosen: list[int]) -> Callable[[Tensor, int], Tensor]:
    """Return a change of ``z`` that sets these heads to their mean over texts and positions."""

    def change(z: Tensor, here: int) -> Tensor:
        if here != layer:
            return z
        z = z.clone()
        z[:, chosen] = z[:, chosen].mean(dim=(0, 2), keepdim=True)
        return z

    return change


def edge(name: str) -> float:
    """Return the rise of the loss if the induction heads' keys read the mean of the previous-token head's output."""
    seen, readers = run(name), inductors(name)
    wrote = seen.written[0][:, :, mover(name)]
    W_K = heads(name, 1)["K"].float()

    def change(k: Tensor, layer: int) -> Tensor:
        if layer == 0:
            return k
        k = k.clone()
        k[:, readers] += (wrote.mean(dim=(0, 1)) - wrote)[:, None] @ W_K[readers]
        return k

    return repeated(changed(name, keys=change).logits) - repeated(seen.logits)
