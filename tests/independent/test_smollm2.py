"""SmolLM2 in four notes: its counts, its weights, and runs on random tokens that repeat."""

from functools import cache

import torch
from torch import Tensor

from . import llama
from .claims import Again, each, wrong
from .forward import losses
from .matching import matching, previous
from .text import repeats

VOCAB = 49152


@cache
def prefix() -> Tensor:
    """Return prefix matching ``[layer head]`` on stretches of distinct tokens."""
    tokens, periods = repeats(6, 64, (12, 24), VOCAB, distinct=True)
    return torch.stack([matching(pattern, periods) for pattern in llama.forward(tokens).pattern])


def best() -> list[tuple[int, int]]:
    return [(int(i) // 9, int(i) % 9) for i in prefix().flatten().argsort(descending=True)[:8]]


def drawn() -> tuple[Tensor, Tensor]:
    tokens, periods = repeats(8, 64, (16, 24), VOCAB)
    return tokens, torch.arange(1, 64) >= periods[:, None]


@cache
def run(without: bool = False) -> llama.Seen:
    return llama.forward(drawn()[0][:, :-1], best() if without else ())


def loss(again: bool, without: bool = False) -> float:
    tokens, counted = drawn()
    of_tokens = losses(run(without).logits, tokens[:, 1:])
    return float(of_tokens[counted if again else ~counted].mean())


def baseline() -> float:
    """Return the K-composition of Gaussian heads of the same shapes."""
    generator = torch.Generator().manual_seed(5)

    def normal() -> Tensor:
        return torch.randn(576, 64, generator=generator) @ torch.randn(64, 576, generator=generator)

    samples = [(M @ N).norm() / (M.norm() * N.norm()) for M, N in ((normal(), normal()) for _ in range(16))]
    return float(torch.stack(samples).mean())


def total() -> int:
    return llama.size("")


ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")
CACHED = 2 * 30 * 3 * 64

NUMBERS = {
    "transformer": {
        "smollm2_parameters": Again(total, 0),
        "smollm2_share_of_mlps": Again(lambda: sum(map(llama.size, ("gate", "up", "down"))) / total()),
        "smollm2_share_of_attention": Again(lambda: sum(map(llama.size, ATTENTION)) / total()),
        "smollm2_share_of_embedding": Again(lambda: llama.size("token_embd") / total()),
        "smollm2_norm_weights": Again(lambda: llama.size("norm"), 0),
        "smollm2_d_mlp": Again(lambda: llama.weight("blk.0.ffn_gate").shape[0], 0),
        "pairs": Again(lambda: len(llama.clocks()), 0),
        "pairs_without_a_turn": Again(lambda: sum(clock > 8192 for clock in llama.clocks()), 0),
        "fastest_turn": Again(lambda: llama.clocks()[0]),
        "slowest_turn": Again(lambda: llama.clocks()[-1], 1),
        "smollm2_cached_numbers": Again(lambda: 2 * llama.layers() * llama.key_heads() * llama.d_head(), 0),
        "smollm2_cached_bytes": Again(lambda: 2 * CACHED, 0),
        "smollm2_cached_bytes_ungrouped": Again(lambda: 2 * CACHED * 9 / 3, 0),
        "smollm2_cached_mebibytes": Again(lambda: 2 * CACHED * 8192 / 2**20, 0),
        "smollm2_cached_mebibytes_ungrouped": Again(lambda: 2 * CACHED * 3 * 8192 / 2**20, 0),
    },
    "one-layer": {
        "smollm2_heads": Again(lambda: llama.copying().numel(), 0),
        "smollm2_copying": Again(lambda: int((llama.copying() > 0.1628).sum()), 0),
        "smollm2_negative": Again(lambda: int((llama.copying() < -0.1628).sum()), 0),
        "smollm2_17_4": Again(lambda: llama.copying()[17, 4], 1e-3),
        "smollm2_18_6": Again(lambda: llama.copying()[18, 6], 1e-3),
    },
    "two-layer": {
        "smollm2_baseline": Again(baseline, 0.002),
        "smollm2_k_17_4": Again(lambda: llama.k_composition((17, 4), (16, 0)), 1e-4),
        "smollm2_k_18_6": Again(lambda: llama.k_composition((18, 6), (16, 0)), 1e-4),
    },
    "induction-heads": {
        "smol_best": Again(lambda: prefix().max(), 0.03),
        "smol_best_layer": Again(lambda: best()[0][0], 0),
        "smol_best_head": Again(lambda: best()[0][1], 0),
        "smol_above_half": Again(lambda: int((prefix() > 0.5).sum()), 1),
        "smol_median": Again(lambda: prefix().flatten().quantile(0.5), 0.012),
        "smol_previous": Again(lambda: previous(run().pattern[16])[0], 0.03),
        "smol_first": Again(lambda: loss(again=False), 1),
        "smol_second": Again(lambda: loss(again=True), 0.5),
        "smol_second_without": Again(lambda: loss(again=True, without=True), 1),
    },
}


@each(NUMBERS)
def test_the_number_comes_out_again(note: str, name: str, number: Again) -> None:
    assert wrong(note, name, number) == []
