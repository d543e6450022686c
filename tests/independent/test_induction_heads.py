"""induction-heads: two-layer models on repeating random tokens and on speeches, and one layer with smeared keys."""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from .claims import Again, each, wrong
from .forward import Seen, forward, losses
from .matching import (
    NAMES,
    PERIODS,
    again,
    at_mean,
    changed,
    first_time,
    inductors,
    matching,
    mover,
    previous,
    repeated,
    run,
    scores,
)
from .text import drawn, repeats
from .weights import SEEDS, W_OV, W_QK, card, named, weights

SMEARED = [named("smeared", seed) for seed in SEEDS]
PLAIN = [named("unsmeared", seed) for seed in SEEDS]


def turn(name: str) -> int:
    """Return the first evaluation on the card at which the loss on repeats is below half of log 512."""
    by_step = card(name)["metrics"]["repeated by step"]
    return next(int(step) for step, loss in by_step.items() if loss < math.log(512) / 2)


def median(x: list[float]) -> float:
    return sorted(x)[len(x) // 2]


# -- on repeats


@cache
def cost_of(name: str, layer: int, head: int) -> float:
    return repeated(changed(name, z=at_mean(layer, [head])).logits) - repeated(run(name).logits)


def following() -> Tensor:
    """Return a mask of the keys that follow an earlier copy of the query's token: ``[row query key]``."""
    tokens = again()[0][:, :-1]
    same = tokens[:, :, None] == tokens[:, None, :]
    after = torch.zeros_like(same)
    after[:, :, 1:] = same[:, :, :-1]
    return after & torch.ones(128, 128, dtype=torch.bool).tril()


def match(seen: Seen) -> float:
    """Return the best attention of a head of layer 1 to what followed, at predictions of tokens that came before."""
    paid = (seen.pattern[1] * following()[:, None]).sum(dim=-1).transpose(0, 1)
    return max(float(head[again()[1]].mean()) for head in paid)


def without_mover() -> Seen:
    return changed("induction", z=at_mean(0, [mover("induction")]))


def replaced(layer: int, chosen: list[int], pattern: Tensor) -> Callable[[Tensor, int], Tensor]:
    def change(A: Tensor, here: int) -> Tensor:
        if here != layer:
            return A
        A = A.clone()
        A[:, chosen] = pattern[:, None] if pattern.ndim == 3 else pattern
        return A

    return change


def one_back() -> Tensor:
    exact = torch.diag(torch.ones(127), -1)
    exact[0, 0] = 1
    return exact


def pure() -> Tensor:
    """Return uniform attention to what followed; to the first position if nothing did."""
    keys = following().float()
    keys[:, :, 0] += keys.sum(dim=-1) == 0
    return keys / keys.sum(dim=-1, keepdim=True)


def recovered(name: str, layer: int, chosen: list[int], pattern: Tensor) -> float:
    """Return the share of these heads' worth that is left if they attend like this instead of being at their mean."""
    gone = repeated(changed(name, z=at_mean(layer, chosen)).logits)
    put = repeated(changed(name, pattern=replaced(layer, chosen, pattern)).logits)
    return (gone - put) / (gone - repeated(run(name).logits))


# -- on speeches


@cache
def windows() -> Tensor:
    return drawn(48, 129)


@cache
def on_speeches(name: str) -> Seen:
    return forward(name, windows()[:, :-1], torch.float32)


def worth(name: str, layer: int, chosen: list[int]) -> float:
    """Return the rise of the loss on speeches with these heads at their mean."""
    base = losses(on_speeches(name).logits, windows()[:, 1:]).mean()
    gone = forward(name, windows()[:, :-1], torch.float32, z=at_mean(layer, chosen)).logits
    return float(losses(gone, windows()[:, 1:]).mean() - base)


def others(name: str) -> list[int]:
    return [head for head in range(4) if head not in inductors(name)]


@cache
def of_others() -> list[tuple[float, float]]:
    """Return, for each non-induction head of layer 1, its attention to its own token and its worth on speeches."""
    return [
        (float(on_speeches(n).pattern[1][:, h].diagonal(dim1=1, dim2=2).mean()), worth(n, 1, [h]))
        for n in NAMES
        for h in others(n)
    ]


@cache
def of_inductors() -> list[float]:
    return [worth(name, 1, [head]) for name in NAMES for head in inductors(name)]


def at_zero(layer: int, head: int) -> Callable[[Tensor, int], Tensor]:
    def change(z: Tensor, here: int) -> Tensor:
        if here != layer:
            return z
        z = z.clone()
        z[:, head] = 0
        return z

    return change


@cache
def idle(name: str) -> list[int]:
    """Return the induction heads of a seed that are worth no more than 0.1 nats on speeches."""
    return [head for head in inductors(name) if worth(name, 1, [head]) <= 0.1]


@cache
def from_zero() -> list[float]:
    """Return the rise of the loss on speeches with an idle head's z at zero, for each idle head."""
    rises = []
    for name in NAMES:
        base = losses(on_speeches(name).logits, windows()[:, 1:]).mean()
        for head in idle(name):
            gone = forward(name, windows()[:, :-1], torch.float32, z=at_zero(1, head)).logits
            rises.append(float(losses(gone, windows()[:, 1:]).mean() - base))
    return rises


def common_end(tokens: list[int], i: int, j: int) -> int:
    """Return how many tokens up to place i equal those up to place j, with j before i."""
    n = 0
    while n <= j and tokens[i - n] == tokens[j - n]:
        n += 1
    return n


@cache
def matches() -> list[tuple[int, int, int, int]]:
    """Return window, place, length of the longest match and the token after its latest occurrence, for each match."""
    results = []
    for row, tokens in enumerate(windows()[:, :-1].tolist()):
        for i in range(len(tokens)):
            length, latest = max(((common_end(tokens, i, j), j) for j in range(i)), default=(0, 0))
            if length:
                results.append((row, i, length, tokens[latest + 1]))
    return results


@cache
def raised(name: str) -> Tensor:
    """Return how far the idle heads raise the log-probability of each match's follower."""
    rows, places, _, followers = torch.tensor(matches()).T
    gone = forward(name, windows()[:, :-1], torch.float32, z=at_mean(1, idle(name))).logits
    extra = on_speeches(name).logits.log_softmax(dim=-1) - gone.log_softmax(dim=-1)
    return extra[rows, places, followers]


def of_length(values: Tensor, least: int, most: int = 999) -> float:
    lengths = torch.tensor(matches())[:, 2]
    return float(values[(lengths >= least) & (lengths <= most)].float().mean())


def came() -> Tensor:
    """Return, for each match, 1 if its follower is the next token."""
    rows, places, _, followers = torch.tensor(matches()).T
    return windows()[rows, places + 1] == followers


# -- the weights


def positivity(M: Tensor) -> float:
    values = torch.linalg.eigvals(M)
    return float(values.real.sum() / values.abs().sum())


@cache
def corner() -> list[tuple[float, float]]:
    """Return QK through the previous-token head, and OV, of each induction head.

    The nonzero eigenvalues of the 512 × 512 tables, computed on the side of the stream: A B has those of B A.
    """
    pairs = []
    for name in NAMES:
        w, first = weights(name), W_OV(name, 0)[mover(name)]
        for head in inductors(name):
            through = W_QK(name, 1)[head] @ first.T @ w["W_E"].T @ w["W_E"]
            copies = W_OV(name, 1)[head] @ w["W_U"] @ w["W_E"]
            pairs.append((positivity(through), positivity(copies)))
    return pairs


def counting(periods: tuple[int, int]) -> float:
    """Return the score of a head that always looks 15 back."""
    tokens, drawn_periods = repeats(64, 128, periods, distinct=True)
    back = torch.zeros(128, 128)
    back[torch.arange(15, 128), torch.arange(113)] = 1
    back[:15, 0] = 1
    return float(matching(back.expand(len(tokens), 1, -1, -1), drawn_periods))


def own_keys() -> list[float]:
    """Return, for each induction head of one layer, the share of its own key in the mix with the previous key."""
    return [
        float(weights(name)["blocks.0.attn.smear"][head].sigmoid()) for name in SMEARED for head in inductors(name, 0)
    ]


AGAIN = {
    "text_only_best": Again(lambda: scores("attn-2l").max(), 0.01),
    "earliest_turn": Again(lambda: min(map(turn, NAMES)), 0),
    "latest_turn": Again(lambda: max(map(turn, NAMES)), 0),
    "repeated_worst": Again(lambda: max(repeated(run(name).logits) for name in NAMES), 0.03),
    "first_period_end": Again(lambda: min(first_time(run(name).logits) for name in NAMES), 0.15),
    "fewest_induction_heads": Again(lambda: min(len(inductors(name)) for name in NAMES), 0),
    "most_induction_heads": Again(lambda: max(len(inductors(name)) for name in NAMES), 0),
    "layer_0_best": Again(lambda: max(float(scores(name)[0].max()) for name in NAMES), 0.01),
    "previous_token_best": Again(lambda: previous(on_speeches("induction").pattern[0]).max(), 0.02),
    "seed_2_previous": Again(lambda: previous(on_speeches(NAMES[2]).pattern[0]).max(), 0.02),
    "prefix_best": Again(lambda: scores("induction")[1].max(), 0.02),
    "counting_fixed": Again(lambda: counting((16, 16)), 0),
    "counting_varied": Again(lambda: counting(PERIODS), 0.04),
    "knock_after": Again(lambda: cost_of("induction", 0, mover("induction")), 0.1),
    "knock_after_others": Again(
        lambda: max(cost_of("induction", 0, h) for h in range(4) if h != mover("induction")), 0.008
    ),
    "match_after": Again(lambda: match(run("induction")), 0.02),
    "match_after_without": Again(lambda: match(without_mover()), 0.02),
    "exact_previous_random": Again(lambda: median([recovered(n, 0, [mover(n)], one_back()) for n in NAMES]), 0.005),
    "pure_random": Again(lambda: median([recovered(n, 1, inductors(n), pure()) for n in NAMES]), 0.006),
    "corner_heads": Again(lambda: len(corner()), 0),
    "corner_qk_least": Again(lambda: min(qk for qk, _ in corner()), 1e-3),
    "corner_ov_least": Again(lambda: min(ov for _, ov in corner()), 1e-3),
    "mover_text": Again(lambda: median([worth(name, 0, [mover(name)]) for name in NAMES]), 0.05),
    "text_idle": Again(lambda: sum(x <= 0.1 for x in of_inductors()), 0),
    "text_idle_most": Again(lambda: max(x for x in of_inductors() if x <= 0.1), 0.015),
    "text_idle_least": Again(lambda: min(of_inductors()), 0.02),
    "text_zero_least": Again(lambda: min(from_zero()), 0.01),
    "text_zero_most": Again(lambda: max(from_zero()), 0.03),
    "follower_one": Again(lambda: of_length(raised("induction"), 1, 1), 0.05),
    "follower_four": Again(lambda: of_length(raised("induction"), 4), 0.15),
    "right_one": Again(lambda: of_length(came(), 1, 1), 0.02),
    "right_two": Again(lambda: of_length(came(), 2, 2), 0.1),
    "second_job_least": Again(lambda: min(x for x in of_inductors() if x > 0.1), 0.06),
    "second_job_most": Again(lambda: max(of_inductors()), 0.07),
    "negative_self_least": Again(lambda: min(own for own, _ in of_others()), 0.03),
    "negative_self_most": Again(lambda: max(own for own, _ in of_others()), 0.03),
    "negative_worth_least": Again(lambda: min(loss for _, loss in of_others()), 0.07),
    "negative_worth_most": Again(lambda: max(loss for _, loss in of_others()), 0.15),
    "smeared_earliest": Again(lambda: min(map(turn, SMEARED)), 0),
    "smeared_worst": Again(lambda: max(repeated(run(name).logits) for name in SMEARED), 0.04),
    "plain_best": Again(lambda: min(repeated(run(name).logits) for name in PLAIN), 0.2),
    "smeared_inductors": Again(lambda: len(own_keys()), 0),
    "smeared_inductors_own": Again(lambda: max(own_keys()), 1e-4),
}


NUMBERS = {"induction-heads": AGAIN}


@each(NUMBERS)
def test_the_number_comes_out_again(note: str, name: str, number: Again) -> None:
    assert wrong(note, name, number) == []
