"""activation-patching: all head subsets by plain loops, Shapley values by orders, gradients along the diagonal."""

import math
import re
from functools import cache
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from . import llama
from .claims import Again, each, wrong
from .forward import forward
from .text import cut, repeats
from .weights import SEEDS, config, heads, named, weights

HEADS = range(8)
METRICS = ("log-probability", "logit", "probability")


@cache
def data(kind: str) -> tuple[Tensor, Tensor]:
    """Return 12 windows and the predictions that count; the speeches are the notebook's, the repeats are others.

    A kind may name a metric, as in ``repeats by logit``; without one it is log-probability.
    """
    if kind.startswith("speeches"):
        tokens = cut(65, 512, 64)[::400][:12]
        return tokens, torch.ones(12, 64, dtype=torch.bool)
    tokens, periods = repeats(12, 65, (8, 24))
    return tokens, torch.arange(1, 65) > periods[:, None]


class Game:
    """The mean log-probability of the next token by the heads that are present; absent ones give their mean."""

    def __init__(self, seed: int, kind: str, zeros: bool = False) -> None:
        self.name, self.metric = named("induction", seed), METRICS.index(kind.partition(" by ")[2] or METRICS[0])
        assert config(self.name)["n_layers"] == 2 and config(self.name)["n_heads"] == 4
        self.tokens, self.counted = data(kind)
        self.w = {key: tensor.float() for key, tensor in weights(self.name).items()}
        self.h = [{k: t.float() for k, t in heads(self.name, layer).items()} for layer in (0, 1)]
        self.x = self.w["W_E"][self.tokens[:, :-1]]
        first = self.mixed(0, self.x)
        self.means = [first.mean(dim=(0, 2))]
        self.means += [self.mixed(1, self.x + self.out(0, first)).mean(dim=(0, 2))]
        if zeros:
            self.means = [torch.zeros_like(mean) for mean in self.means]
        self.first = first

    def mixed(self, layer: int, x: Tensor) -> Tensor:
        """Return A v of each head, ``[batch head pos d_head]``; queries and keys see positions, values do not."""
        h, n = self.h[layer], x.shape[1]
        placed = (x + self.w["W_pos"][:n])[:, None]
        scores = (placed @ h["Q"]) @ (placed @ h["K"]).transpose(2, 3) / math.sqrt(config(self.name)["d_head"])
        future = torch.ones(n, n, dtype=torch.bool).triu(1)
        return scores.masked_fill(future, -torch.inf).softmax(dim=-1) @ (x[:, None] @ h["V"])

    def out(self, layer: int, z: Tensor) -> Tensor:
        return (z @ self.h[layer]["O"]).sum(dim=1)

    def faded(self, layer: int, z: Tensor, gates: Tensor) -> Tensor:
        mean = self.means[layer][:, None]
        return mean + gates[:, None, None] * (z - mean)

    def end(self, x: Tensor) -> Tensor:
        logits = x @ self.w["W_U"]
        log_p = logits.log_softmax(dim=-1)
        by_metric = torch.stack([log_p, logits - logits.mean(dim=-1, keepdim=True), log_p.exp()])
        right = self.tokens[None, :, 1:, None].expand(3, -1, -1, 1)
        return by_metric.gather(-1, right)[..., 0][:, self.counted].mean(dim=1)

    def value(self, gates: Tensor) -> Tensor:
        x = self.x + self.out(0, self.faded(0, self.first, gates[:4]))
        return self.end(x + self.out(1, self.faded(1, self.mixed(1, x), gates[4:])))

    @torch.no_grad()
    def every(self) -> dict[frozenset, list[float]]:
        found = {}
        for size in range(5):
            for some in combinations(range(4), size):
                gates = torch.tensor([float(i in some) for i in range(4)])
                x = self.x + self.out(0, self.faded(0, self.first, gates))
                z = self.mixed(1, x)
                for number in range(16):
                    then = torch.tensor([float(number >> i & 1) for i in range(4)])
                    members = frozenset(some) | {4 + i for i in range(4) if number >> i & 1}
                    found[members] = self.end(x + self.out(1, self.faded(1, z, then))).tolist()
        return found

    def slopes(self, t: float) -> np.ndarray:
        gates = torch.full((8,), t, requires_grad=True)
        (gradient,) = torch.autograd.grad(self.value(gates)[self.metric], gates)
        return gradient.numpy()


@cache
def game(seed: int, kind: str) -> Game:
    return Game(seed, kind)


@cache
def by_metric(seed: int, kind: str) -> dict[frozenset, list[float]]:
    return game(seed, kind).every()


def values(seed: int, kind: str) -> dict[frozenset, float]:
    metric = game(seed, kind).metric
    return {members: x[metric] for members, x in by_metric(seed, kind.partition(" by ")[0]).items()}


ORDERS = list(permutations(HEADS))[::97]  # one in 97 of all 40,320 orders


@cache
def shares(seed: int, kind: str) -> np.ndarray:
    """Return Shapley values by their sum over subsets, with the weights counted out."""
    v = values(seed, kind)
    return divided(v)


def divided(v: dict) -> np.ndarray:
    """Return the Shapley value of each head, in every metric that the values have."""
    found = []
    for i in HEADS:
        others = [j for j in HEADS if j != i]
        sizes = ([frozenset(s) for s in combinations(others, size)] for size in range(8))
        found.append(
            np.mean([np.mean([np.subtract(v[s | {i}], v[s]) for s in some], axis=0) for some in sizes], axis=0)
        )
    return np.array(found)


def by_orders(seed: int, kind: str) -> np.ndarray:
    """Return Shapley values as a mean over orders in which heads come."""
    v, found = values(seed, kind), np.zeros(8)
    for order in ORDERS:
        have: frozenset = frozenset()
        for i in order:
            found[i] += v[have | {i}] - v[have]
            have |= {i}
    return found / len(ORDERS)


def noising(seed: int, kind: str) -> np.ndarray:
    v, every = values(seed, kind), frozenset(HEADS)
    return np.array([v[every] - v[every - {i}] for i in HEADS])


def denoising(seed: int, kind: str) -> np.ndarray:
    v = values(seed, kind)
    return np.array([v[frozenset([i])] - v[frozenset()] for i in HEADS])


def both(seed: int, kind: str) -> np.ndarray:
    return (noising(seed, kind) + denoising(seed, kind)) / 2


def integrated(seed: int, kind: str) -> np.ndarray:
    """Return the mean slope by Simpson's rule on 8 intervals: another rule than the notebook's, and nearly exact."""
    weights_ = np.array([1, 4, 2, 4, 2, 4, 2, 4, 1]) / 24
    return sum(w * game(seed, kind).slopes(t) for w, t in zip(weights_, np.linspace(0, 1, 9), strict=True))


@cache
def errors(method, kind: str) -> list[float]:
    found = []
    for seed in SEEDS:
        phi = shares(seed, kind)
        found.append(float(np.abs(method(seed, kind) - phi).sum() / np.abs(phi).sum()))
    return found


def most(function, kind: str = "repeats") -> float:
    return max(function(seed, kind) for seed in SEEDS)


def mover(seed: int, kind: str) -> float:
    return float(shares(seed, kind)[:4].max())


@cache
def brought_back(seed: int) -> float:
    """Return the best share that one head of layer 0 brings back when layer 1 responds to it, log-probability.

    Corrupted, the earlier occurrence of the last token is another token.
    """
    draw = np.random.default_rng(5)
    rows = torch.tensor(np.stack([draw.permutation(512)[:14] for _ in range(48)]))
    clean = torch.cat([rows[:, :13], rows[:, :9]], dim=1)  # period 13; what comes after the last is rows[:, 9]
    corrupted = clean.clone()
    corrupted[:, 8] = rows[:, 13]
    g = Game(seed, "repeats")

    def end(tokens: Tensor, z: Tensor) -> float:
        x = g.w["W_E"][tokens] + g.out(0, z)
        logits = (x + g.out(1, g.mixed(1, x)))[:, -1] @ g.w["W_U"]
        return float(logits.log_softmax(dim=-1)[torch.arange(48), rows[:, 9]].mean())

    here, there = (g.mixed(0, g.w["W_E"][tokens]) for tokens in (corrupted, clean))
    base, best, shares_ = end(corrupted, here), end(clean, there), []
    for head in range(4):
        z = here.clone()
        z[:, head] = there[:, head]
        shares_.append((end(corrupted, z) - base) / (best - base))
    return max(shares_)


def reader_ratio(seed: int, metric: str) -> float:
    """Return what removing counts of the two best readers, by what both are worth, layer 0 in place."""
    v, layer0 = values(seed, f"repeats by {metric}"), frozenset(range(4))
    phi = shares(seed, "repeats")
    a, b = sorted(range(4, 8), key=lambda i: -phi[i])[:2]
    both_, one, two, none = (v[layer0 | set(some)] for some in ((a, b), (a,), (b,), ()))
    return (2 * both_ - one - two) / (both_ - none)


def test_two_ways_to_a_shapley_value() -> None:
    assert np.abs(shares(0, "speeches") - by_orders(0, "speeches")).max() < 0.03


@pytest.mark.parametrize("seed", SEEDS)
def test_with_zeros_in_place_of_means_the_winners_are_the_same(seed: int) -> None:
    """Four gradients by log-probability; by logit and probability, the mean of removing one and adding one to none."""
    played = Game(seed, "repeats", zeros=True)
    v, every = played.every(), frozenset(HEADS)
    phi = divided(v)
    both_ = [np.subtract(v[every], v[every - {i}]) + np.subtract(v[frozenset([i])], v[frozenset()]) for i in HEADS]
    off = np.abs(np.array(both_) / 2 - phi).sum(axis=0)
    points, weights_ = np.polynomial.legendre.leggauss(4)
    for played.metric in range(3):
        slopes = [played.slopes(float(t)) for t in (points + 1) / 2]
        gradients = np.abs(weights_ @ slopes / 2 - phi[:, played.metric]).sum()
        assert (gradients < off[played.metric]) == (played.metric == 0), METRICS[played.metric]


def test_the_subsets_are_those_of_the_plain_forward_pass() -> None:
    tokens, counted = data("repeats")
    logits = forward(named("induction", 0), tokens[:, :-1], torch.float32).logits
    log_p = logits.log_softmax(dim=-1).gather(-1, tokens[:, 1:, None])[..., 0]
    assert abs(float(log_p[counted].mean()) - values(0, "repeats")[frozenset(HEADS)]) < 1e-4


# -- SmolLM2

SENTENCES = [
    (" Mary", " John", "When Mary and John went to the store, John gave a drink to"),
    (" John", " Mary", "When Mary and John went to the store, Mary gave a drink to"),
    (" Anna", " Paul", "After Paul and Anna went to the office, Paul handed a letter to"),
    (" Henry", " Alice", "While Alice and Henry worked at the school, Alice passed a book to"),
    (" Laura", " Mark", "As Laura and Mark walked to the garden, Mark offered a flower to"),
    (" Peter", " Emma", "After Peter and Emma went to the station, Emma handed a phone to"),
]


@cache
def ids() -> dict[str, int]:
    """Return the number of each token by its text, with a space written as the file writes it."""
    return {token: i for i, token in enumerate(llama.reader().get_field("tokenizer.ggml.tokens").contents())}


def tokens_of(text: str) -> list[int]:
    """Return the tokens of a sentence in which every word is one: no merges are needed."""
    words = re.findall(r" ?\w+|,", text)
    return [ids()["<|endoftext|>"], *(ids()[word.replace(" ", "Ġ")] for word in words)]


@cache
def told_apart() -> list[float]:
    """Return the logit of the name that comes once less that of the other, for each sentence."""
    logits = llama.forward(torch.tensor([tokens_of(text) for _, _, text in SENTENCES])).logits[:, -1]
    return [
        float(row[tokens_of(io)[1]] - row[tokens_of(s)[1]]) for row, (io, s, _) in zip(logits, SENTENCES, strict=True)
    ]


@cache
def first_mlp() -> tuple[float, float, float]:
    """Return the whole difference, what MLP 0 at S2 brings back of it, and what its gradient says; other prompts."""
    clean = torch.tensor([tokens_of(text) for _, _, text in SENTENCES])
    swapped, s2 = clean.clone(), 10
    names = torch.tensor([[tokens_of(io)[1], tokens_of(s)[1]] for io, s, _ in SENTENCES])
    assert torch.equal(clean[:, s2], names[:, 1])
    swapped[:, s2] = names[:, 0]
    written: dict[str, Tensor] = {}

    def difference(tokens: Tensor, keep: str = "", put: Tensor | None = None) -> Tensor:
        def mlp(layer: int, out: Tensor) -> Tensor:
            if layer == 0 and keep:
                written[keep] = out.detach()
            if layer == 0 and put is not None:
                return torch.cat([out[:, :s2], put[:, None], out[:, s2 + 1 :]], dim=1)
            return out

        of_name = llama.forward(tokens, mlp=mlp).logits[:, -1].gather(1, names)
        return (of_name[:, 0] - of_name[:, 1]).mean()

    with torch.no_grad():
        ends = [float(difference(tokens, keep)) for tokens, keep in ((clean, "clean"), (swapped, "swapped"))]
        there, here = (written[keep][:, s2] for keep in ("clean", "swapped"))
        exact = float(difference(swapped, put=there)) - ends[1]
    start = here.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(difference(swapped, put=start), start)
    return ends[0] - ends[1], exact, float((gradient * (there - here)).sum())


def test_the_gradient_misses_the_first_mlp() -> None:
    whole, exact, estimate = first_mlp()
    assert exact > 0.8 * whole and estimate < 0.3 * exact


NUMBERS = {
    "activation-patching": {
        "loss_none": Again(lambda: max(-values(s, "repeats")[frozenset()] for s in SEEDS), 0.2),
        "loss_all": Again(lambda: min(-values(s, "repeats")[frozenset(HEADS)] for s in SEEDS), 0.15),
        "whole": Again(lambda: most(lambda s, k: values(s, k)[frozenset(HEADS)] - values(s, k)[frozenset()]), 0.15),
        "shapley_mover_least": Again(lambda: min(mover(s, "repeats") for s in SEEDS), 0.3),
        "shapley_mover_most": Again(lambda: most(mover), 0.3),
        "noise_sum": Again(lambda: most(lambda s, k: float(noising(s, k).sum())), 0.7),
        "denoise_sum": Again(lambda: most(lambda s, k: float(denoising(s, k).sum())), 0.2),
        "log_noise_least": Again(lambda: min(errors(noising, "repeats")), 0.08),
        "log_noise_most": Again(lambda: max(errors(noising, "repeats")), 0.08),
        "wins_text_log": Again(
            lambda: sum(a < b for a, b in zip(errors(integrated, "speeches"), errors(both, "speeches"), strict=True))
        ),
        "wins_text_p": Again(
            lambda: sum(
                a < b
                for a, b in zip(
                    errors(integrated, "speeches by probability"), errors(both, "speeches by probability"), strict=True
                )
            )
        ),
        "log_ig_most": Again(lambda: max(errors(integrated, "repeats")), 0.06),
        "log_both_most": Again(lambda: max(errors(both, "repeats")), 0.08),
        "logit_both_most": Again(lambda: max(errors(both, "repeats by logit")), 0.04),
        "logit_ig_most": Again(lambda: max(errors(integrated, "repeats by logit")), 0.05),
        "p_both_most": Again(lambda: max(errors(both, "repeats by probability")), 0.05),
        "p_ig_most": Again(lambda: max(errors(integrated, "repeats by probability")), 0.07),
        "logit_noise_least": Again(lambda: min(errors(noising, "repeats by logit")), 0.06),
        "wins_logit": Again(
            lambda: sum(
                a < b
                for a, b in zip(errors(integrated, "repeats by logit"), errors(both, "repeats by logit"), strict=True)
            )
        ),
        "sub_or_logit_noise_least": Again(lambda: min(reader_ratio(s, "logit") for s in SEEDS), 1e-4),
        "sub_or_p_noise_most": Again(lambda: max(reader_ratio(s, "probability") for s in SEEDS), 0.3),
        "live_put_mover_least": Again(lambda: min(brought_back(s) for s in SEEDS), 0.03),
        "whole_diff": Again(lambda: first_mlp()[0], 2.5),
        "mlp_first": Again(lambda: first_mlp()[1], 2.5),
        "noise_text_error_least": Again(lambda: min(errors(noising, "speeches")), 2e-3),
        "noise_text_error_most": Again(lambda: max(errors(noising, "speeches")), 2e-3),
        "denoise_text_error_most": Again(lambda: max(errors(denoising, "speeches")), 2e-3),
        "both_text_error_least": Again(lambda: min(errors(both, "speeches")), 2e-3),
        "both_text_error_most": Again(lambda: max(errors(both, "speeches")), 2e-3),
        "ig_text_error_least": Again(lambda: min(errors(integrated, "speeches")), 5e-3),
        "ig_text_error_most": Again(lambda: max(errors(integrated, "speeches")), 5e-3),
        "saturated_exact": Again(lambda: 1 / (1 + math.exp(10) / 999) - 0.999),
        "saturated_first": Again(lambda: -10 * 0.999 * 0.001),
        "right": Again(lambda: np.mean([x > 0 for x in told_apart()]), 0.05),
        "many_diff": Again(lambda: np.mean(told_apart()), 1.5),
    }
}


@each(NUMBERS)
def test_the_number_comes_out_again(note: str, name: str, number: Again) -> None:
    assert wrong(note, name, number) == []
