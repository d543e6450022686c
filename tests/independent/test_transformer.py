"""transformer: GPT-2 counted by hand, and the model ``gpt`` computed from the formulas."""

import math
from functools import cache

import torch
from torch import Tensor

from .claims import Again, each, wrong
from .forward import gpt, layer_norm, loss, losses, over
from .text import counts, cut, drawn, speeches, tokens
from .weights import CHECKPOINTS, card, parameters, weights

NAME = "gpt"
N, D, LAYERS, VOCAB = 1024, 768, 12, 50257  # GPT-2 small

MLP = LAYERS * (D * 4 * D + 4 * D + 4 * D * D + D)
ATTENTION = LAYERS * (4 * D * D + 4 * D)
NORMS = (2 * LAYERS + 1) * 2 * D
TOTAL = VOCAB * D + N * D + MLP + ATTENTION + NORMS
MATRICES = LAYERS * 12 * D * D


def next_token(old: int) -> int:
    """Return the FLOPs of matrix products for a token after ``old`` cached ones: weights, patterns, unembedding."""
    return 2 * MATRICES + LAYERS * 2 * 2 * D * (old + 1) + 2 * D * VOCAB


# -- the trained model on speeches


@cache
def every() -> Tensor:
    """Return the whole validation text as windows; each token is predicted once."""
    return cut(129, step=128)


@cache
def part() -> tuple[Tensor, Tensor, Tensor]:
    """Return losses on every eighth window: of the model, of ``attn-2l``, of bigram counts with one added to each."""
    some = every()[::8]
    p = (counts() + 1) / (counts() + 1).sum(dim=1, keepdim=True)
    return over(NAME, some, gpt), over("attn-2l", some), -p[some[:, :-1], some[:, 1:]].log().mean(dim=1)


@cache
def windows() -> Tensor:
    return drawn(48, 129)


@cache
def logits() -> Tensor:
    return gpt(NAME, windows()[:, :-1])


def instead(norm) -> float:
    """Return the change of the loss with another normalization."""
    return loss(gpt(NAME, windows()[:, :-1], norm=norm), windows()[:, 1:]) - loss(logits(), windows()[:, 1:])


def no_eps(x: Tensor) -> Tensor:
    x = x - x.mean(dim=-1, keepdim=True)
    return x / x.square().mean(dim=-1, keepdim=True).sqrt()


def bessel(x: Tensor) -> Tensor:
    x = x - x.mean(dim=-1, keepdim=True)
    return x / (x.square().sum(dim=-1, keepdim=True) / (x.shape[-1] - 1)).sqrt()


def unit_length(x: Tensor) -> Tensor:
    return layer_norm(x) / math.sqrt(x.shape[-1])


@cache
def ordered() -> Tensor:
    return logits().softmax(-1).flatten(0, 1).sort(descending=True).values


def nucleus() -> Tensor:
    """Return how many tokens it takes to reach nine tenths of the probability."""
    return (ordered().cumsum(-1) < 0.9).sum(dim=-1) + 1


@cache
def doubled() -> tuple[float, float]:
    """Return the cost of giving token t the position 2 t, from 16 on, and how often the likeliest token changes."""
    short, begins = windows()[:, :65], 16
    w, read = weights(NAME), windows()[:, :64]
    place = torch.arange(64)
    wrong_place = w["W_pos"][torch.where(place < begins, place, 2 * place)]
    right = gpt(NAME, read)[:, begins:]
    off = gpt(NAME, read, shift=wrong_place - w["W_pos"][:64])[:, begins:]
    after = short[:, begins + 1 :]
    cost = float(losses(off, after).mean() - losses(right, after).mean())
    return cost, float((off.argmax(-1) != right.argmax(-1)).double().mean())


def hand() -> Tensor:
    """Return the last row of the pattern by hand: scores 0, 2, 0 of "sat" for the, cat, sat."""
    return torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64).softmax(0)


def surprise_real() -> float:
    """Return the surprise over tokens 16 to 95 of held-out stretches."""
    return float(losses(logits(), windows()[:, 1:])[:, 15:95].mean())


AGAIN = {
    "gpt2_parameters": Again(lambda: TOTAL, 0),
    "gpt2_untied": Again(lambda: TOTAL + VOCAB * D, 0),
    "gpt2_matrices": Again(lambda: MATRICES, 0),
    "share_of_mlps": Again(lambda: MLP / TOTAL),
    "share_of_embedding": Again(lambda: VOCAB * D / TOTAL),
    "share_of_attention": Again(lambda: ATTENTION / TOTAL),
    "ratio_at_1024": Again(lambda: 1024, 0),
    "growth_with_cache": Again(lambda: next_token(1023) / next_token(0), 1e-6),
    "cached_numbers_a_token": Again(lambda: 2 * LAYERS * D, 0),
    "cached_mebibytes": Again(lambda: 2 * LAYERS * D * N * 4 / 2**20, 0),
    "cached_over_weights": Again(lambda: 2 * LAYERS * D * N / TOTAL),
    "parameters": Again(lambda: parameters(NAME), 0),
    "tokens_seen": Again(lambda: card(NAME)["steps"] * card(NAME)["training"]["batch"] * 128, 0),
    "file_megabytes": Again(lambda: (CHECKPOINTS / "gpt.safetensors").stat().st_size / 1e6, 0.01),
    "hand_cat": Again(lambda: hand()[1]),
    "hand_the": Again(lambda: hand()[0]),
    "hand_out": Again(lambda: 10 * hand()[1]),
    "validation_windows": Again(lambda: len(every()), 0),
    "loss_whole": Again(lambda: part()[0].mean(), 0.03),
    "loss_whole_error": Again(lambda: part()[0].std() / len(every()[::4]) ** 0.5, 1e-3),
    "attn_2l_whole": Again(lambda: part()[1].mean(), 0.03),
    "better_than_attn_2l": Again(lambda: (part()[1] - part()[0]).mean(), 0.01),
    "gain_whole": Again(lambda: (part()[2] - part()[0]).mean(), 0.02),
    "bytes_a_token": Again(lambda: sum(len(t.encode()) for t in speeches()[1]) / len(tokens("validation")), 1e-3),
    "cost_of_no_eps": Again(lambda: abs(instead(no_eps)), 2e-4),
    "cost_of_bessel": Again(lambda: abs(instead(bessel)), 5e-4),
    "cost_of_unit_length": Again(lambda: instead(unit_length), 0.15),
    "nucleus_of_one": Again(lambda: (nucleus() == 1).double().mean(), 0.02),
    "nucleus_largest": Again(lambda: nucleus().max(), 15),
    "ten_hold_least": Again(lambda: ordered()[:, :10].sum(dim=-1).min(), 0.06),
    "surprise_real": Again(surprise_real, 0.15),
    "cost_of_wrong_positions": Again(lambda: doubled()[0], 0.03),
    "wrong_positions_other_token": Again(lambda: doubled()[1], 0.03),
}


NUMBERS = {"transformer": AGAIN}


@each(NUMBERS)
def test_the_number_comes_out_again(note: str, name: str, number: Again) -> None:
    assert wrong(note, name, number) == []
