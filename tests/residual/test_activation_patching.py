"""The theorems of the note activation-patching: gates, bounds on the first order, what a metric cannot see."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from residual import Config, Transformer
from residual.methods.attribution_patching import attribution, diagonal, one_score, slope
from residual.methods.shapley import alone, removed, shapley, subset_values
from residual.methods.sweeps import patch_resid

theorem = settings(deadline=None, max_examples=40)
numbers = st.floats(-3, 3)
seeds = st.integers(0, 10**6)

GATES = {  # values of (0, 0), (1, 0), (0, 1), (1, 1)
    "AND": [0, 0, 0, 1],
    "OR": [0, 1, 1, 1],
    "XOR": [0, 1, 1, 0],
}
BY_HAND = {  # noising, denoising, the share that adds up
    "AND": (1, 0, 1 / 2),
    "OR": (0, 1, 1 / 2),
    "XOR": (-1, 1, 0),
}


def multilinear(values):
    """Return the function of two numbers that is linear in each and has these values at the corners."""
    none, first, second, both = values
    joint = both - first - second + none
    return lambda x: none + (first - none) * x[0] + (second - none) * x[1] + joint * x[0] * x[1]


@pytest.mark.parametrize("gate", GATES)
def test_gates_by_hand(gate):
    values = torch.tensor(GATES[gate], dtype=torch.float64)
    m = multilinear(values)

    def slopes(t):
        return slope(m, torch.full((2,), t, dtype=torch.float64))

    noising, denoising, share = BY_HAND[gate]
    for found, expected in (
        (removed(values), noising),
        (alone(values), denoising),
        (slopes(1.0), noising),
        (slopes(0.0), denoising),
        (diagonal(slopes, 1), share),
        (shapley(values), share),
    ):
        assert found.tolist() == pytest.approx([expected, expected])


@theorem
@given(st.lists(numbers, min_size=4, max_size=4))
def test_of_two_inputs_the_mean_of_both_directions_is_the_shapley_value(values):
    values = torch.tensor(values, dtype=torch.float64)
    assert_close((removed(values) + alone(values)) / 2, shapley(values), atol=1e-12, rtol=1e-12)


def test_of_three_inputs_it_is_not():
    values = torch.tensor([0, 0, 0, 1, 0, 1, 1, 1], dtype=torch.float64)  # two of three: a majority
    assert removed(values).tolist() == alone(values).tolist() == [0, 0, 0]
    assert shapley(values).tolist() == pytest.approx([1 / 3] * 3)


@theorem
@given(seeds)
def test_without_norm_and_mlp_heads_of_the_last_layer_add_in_the_logits(seed):
    """Whatever is in place below them; in the log-probability they do not add."""
    model = Transformer(Config(2, 6, 2, 3, 4, 7, init_std=0.7), seed=seed).double().requires_grad_(False)
    tokens = torch.randint(7, (3, 4), generator=torch.Generator().manual_seed(seed))
    values = subset_values(model, tokens, lambda x: torch.stack([x[:, -1], x[:, -1].log_softmax(dim=-1)]))
    joint = torch.stack([values[i + 12] - values[i + 4] - values[i + 8] + values[i] for i in range(4)])
    assert joint[:, 0].abs().max() < 1e-10 and joint[:, 1].abs().max() > 1e-9


@theorem
@given(st.lists(st.floats(-8, 8), min_size=2, max_size=6), st.floats(-15, 15), seeds)
def test_one_score_of_a_softmax(scores, change, seed):
    """The closed form against a softmax computed twice; and the first order within its bound."""
    s = torch.tensor(scores, dtype=torch.float64)
    g = torch.randn(len(s), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    p, moved = s.softmax(0), s.clone()
    moved[0] += change
    gap = g[0] - (p[1:] * g[1:]).sum() / p[1:].sum()
    exact, first, bound = one_score(p[0], torch.tensor(change, dtype=torch.float64), gap)
    assert_close(exact, (moved.softmax(0) * g).sum() - (p * g).sum(), atol=1e-7, rtol=1e-6)
    assert (exact - first).abs() <= bound + 1e-9
    slope_there = slope(lambda x: (x.softmax(0) * g).sum(), s)[0]
    assert_close(first, slope_there * change, atol=1e-9, rtol=1e-7)


def test_no_share_of_the_effect_is_safe():
    """At p → 1 the first order sees a vanishing part of an effect that stays near 1."""
    for p in (0.99, 0.9999, 0.999999):
        change = torch.tensor(-2 * math.log(p / (1 - p)), dtype=torch.float64)  # to the other side: 1 - p
        exact, first, _ = one_score(torch.tensor(p, dtype=torch.float64), change, torch.ones_like(change))
        assert exact == pytest.approx(1 - 2 * p) and first / exact < 20 * (1 - p) * math.log(1 / (1 - p))


@theorem
@given(seeds, st.sampled_from([0.1, 0.5, 2.0]))
def test_a_log_probability_is_within_a_quarter_of_the_logits_change_squared(seed, size):
    """The Hessian of log-sum-exp has a norm of at most 1/2; without a final norm the logits are linear in the end."""
    model = Transformer(Config(1, 6, 2, 3, 4, 7, init_std=size), seed=seed).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    clean, corrupted = (torch.randint(7, (3, 4), generator=generator) for _ in range(2))

    def log_p(logits):
        return logits.log_softmax(dim=-1)[..., 2].mean()

    a, b = model(clean), model(corrupted)
    exact = patch_resid(model, clean, corrupted, log_p, name="resid_post")[0] - log_p(b[:, -1])
    score = attribution(model, clean, corrupted, log_p, ["resid_post"])["resid_post"][0]
    bound = (a - b)[:, -1].square().sum(dim=-1).mean() / 4
    assert (score - exact)[-1].abs() <= bound + 1e-12
    assert_close(score[:-1], torch.zeros(3).double())


@theorem
@given(seeds)
def test_kl_has_no_slope_at_the_run_it_compares_with(seed):
    model = Transformer(Config(2, 6, 2, 3, 4, 7, init_std=0.7, norm="rms"), seed=seed).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    clean, corrupted = (torch.randint(7, (3, 4), generator=generator) for _ in range(2))
    q = model(clean)[:, -1].log_softmax(dim=-1)

    def kl(logits):
        return (q.exp() * (q - logits.log_softmax(dim=-1))).sum(dim=-1).mean()

    names = ["z", "q", "k", "v", "pattern", "resid_pre"]
    for score in attribution(model, corrupted, clean, kl, names).values():  # the run is clean: noising
        assert score.abs().max() < 1e-12
    assert attribution(model, clean, corrupted, kl, ["resid_pre"])["resid_pre"].abs().max() > 1e-4


@theorem
@given(st.integers(2, 30), seeds)
def test_resampling_moves_an_activation_twice_as_far_as_its_mean(n, seed):
    """In squared distance, over all pairs of examples (an example may meet itself)."""
    x = torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    to_mean = (x - x.mean(dim=0)).square().sum(dim=1).mean()
    to_another = (x[:, None] - x[None]).square().sum(dim=2).mean()
    assert_close(to_another, 2 * to_mean, atol=1e-12, rtol=1e-12)


@theorem
@given(st.integers(3, 6), seeds, st.floats(0, math.pi / 2))
def test_the_illusion_is_half_the_sine_of_twice_the_angle(d, seed, angle):
    """The output reads h along r; n varies with the input and is not read; along r nothing varies."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    r, n = basis[0], basis[1]
    base, source = torch.randn(2, generator=generator, dtype=torch.float64)
    w = 2.5 * r

    def hidden(x):
        return x * n + 0.7 * r  # what varies is along n; along r, a constant

    v = math.cos(angle) * n + math.sin(angle) * r
    patched = hidden(base) + v * (v @ (hidden(source) - hidden(base)))
    moved = w @ patched - w @ hidden(base)
    assert_close(moved, 2.5 * math.sin(2 * angle) / 2 * (source - base), atol=1e-12, rtol=1e-12)
    for direction in (n, r):  # either part by itself moves nothing
        alone_there = hidden(base) + direction * (direction @ (hidden(source) - hidden(base)))
        assert_close(w @ alone_there, w @ hidden(base), atol=1e-12, rtol=1e-12)
