"""Shapley's axioms; the value as the mean over all orders; and the values of subsets against one ablated run each."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual import Config, Transformer
from residual.experiments.hand_set import induction
from residual.methods.shapley import alone, best_subsets, every_head, removed, shapley, subset_values, subsets
from residual.taps import ablate, compose, patch, record

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("models.py"))))
models, batch, same = shared.models, shared.batch, shared.same
theorem = settings(deadline=None, max_examples=20)
sizes, seeds = st.integers(1, 5), st.integers(0, 2**31)


def game(n, seed, *shape):
    """Draw a value for every subset of n players."""
    return torch.randn(2**n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def number(players):
    return sum(2**i for i in players)


@theorem
@given(sizes, seeds)
def test_it_is_the_mean_gain_over_all_orders(n, seed):
    values = game(n, seed)
    gains = torch.zeros(n, dtype=torch.double)
    orders = list(itertools.permutations(range(n)))
    for order in orders:
        for k, i in enumerate(order):
            gains[i] += values[number(order[: k + 1])] - values[number(order[:k])]
    same(shapley(values), gains / len(orders))


@theorem
@given(sizes, seeds)
def test_efficiency_the_values_sum_to_what_all_gain(n, seed):
    values = game(n, seed, 3)
    same(shapley(values).sum(dim=0), values[-1] - values[0])


@theorem
@given(st.integers(2, 5), seeds, st.data())
def test_symmetry_players_that_can_be_exchanged_get_the_same(n, seed, data):
    i, j = data.draw(st.permutations(range(n)))[:2]
    values = game(n, seed)
    swapped = [number([{i: j, j: i}.get(k, k) for k in range(n) if s >> k & 1]) for s in range(2**n)]
    got = shapley((values + values[swapped]) / 2)
    same(got[i], got[j])


@theorem
@given(sizes, seeds, st.data())
def test_a_player_that_adds_a_constant_gets_that_constant(n, seed, data):
    i, worth = data.draw(st.integers(0, n - 1)), data.draw(st.sampled_from([0.0, -1.5, 3.0]))
    values = game(n, seed)
    values = torch.stack([values[s & ~(1 << i)] + worth * (s >> i & 1) for s in range(2**n)])
    for measured in (shapley, alone, removed):
        same(measured(values)[i], torch.tensor(worth, dtype=torch.double))


@theorem
@given(sizes, seeds, seeds)
def test_linearity(n, one, other):
    a, b = game(n, one), game(n, other)
    same(shapley(2 * a - 3 * b), 2 * shapley(a) - 3 * shapley(b))


@theorem
@given(sizes, seeds)
def test_if_each_player_adds_its_own_share_all_measures_agree(n, seed):
    share = game(n, seed)[:n]
    values = subsets(n).double() @ share
    for measured in (shapley, alone, removed):
        same(measured(values), share)


def test_the_glove_game_worked_out_by_hand():
    """One left glove (0), two right gloves (1, 2); a pair is worth 1. Shapley values: 2/3, 1/6, 1/6."""
    values = torch.tensor([float(s & 1 and s >> 1 > 0) for s in range(8)])
    assert torch.allclose(shapley(values), torch.tensor([4, 1, 1]) / 6)
    assert alone(values).tolist() == [0, 0, 0]
    assert removed(values).tolist() == [1, 0, 0]
    assert best_subsets(values) == [((), 0.0), ((0,), 0.0), ((0, 1), 1.0), ((0, 1, 2), 1.0)]


@theorem
@given(sizes, seeds)
def test_the_best_subsets_are_those_of_a_search(n, seed):
    values = game(n, seed)
    for size, (heads, value) in enumerate(best_subsets(values)):
        every = {s: values[s].item() for s in range(2**n) if bin(s).count("1") == size}
        assert value == max(every.values()) == every[number(heads)] and len(heads) == size


def readings(logits):
    return torch.stack([logits[:, -1, 3].mean(), logits.square().mean()])


@settings(deadline=None, max_examples=15)
@given(models(min_layers=1), st.data(), seeds)
def test_each_subset_is_one_run_with_the_other_heads_ablated(model, data, seed):
    tokens, known = batch(seed), every_head(model)
    heads = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=4, unique=True))
    how = data.draw(st.sampled_from(["zero", "mean"]))
    model(tokens, tap=(seen := record("*.attn.z")))
    values = subset_values(model, tokens, readings, heads=heads, instead=how)
    assert values.shape == (2 ** len(heads), 2)
    ends = subset_values(model, tokens, lambda x: readings(model.unembed(x)), heads=heads, instead=how, stream=True)
    assert torch.equal(ends, values)
    for s, row in enumerate(values):
        gone = [head for i, head in enumerate(heads) if not s >> i & 1]
        taps = [ablate("*.attn.z", how, seen, heads=gone, across_positions=True)] if gone else []
        same(row, readings(model(tokens, tap=compose(*taps)))) if taps else same(row, readings(model(tokens)))


@settings(deadline=None, max_examples=10)
@given(models(min_layers=2, max_layers=2), seeds)
def test_absent_heads_may_take_the_values_of_another_run(model, seed):
    tokens, others, heads = batch(seed), batch(seed + 1), ["0.1", "1.0", "1.2"]
    model(others, tap=(seen := record("*.attn.z")))
    values = subset_values(model, tokens, readings, heads=heads, instead=seen)
    for s, row in enumerate(values):
        gone = [head for i, head in enumerate(heads) if not s >> i & 1]
        same(row, readings(model(tokens, tap=patch(seen, heads=gone) if gone else None)))


def test_two_heads_that_compose_share_what_they_make_together():
    """In the model by hand neither head does anything without the other, so each gets half."""
    model = induction(6, 8)
    tokens = torch.tensor([[0, 1, 2, 3, 4, 1]])  # the answer is 2
    values = subset_values(model, tokens, lambda logits: logits[0, -1, 2] - logits[0, -1, 3], instead="zero")
    assert torch.allclose(values, torch.tensor([0, 0, 0, 1]).double(), atol=1e-6)
    assert torch.allclose(shapley(values), torch.tensor([0.5, 0.5]).double(), atol=1e-6)


SMALL = Transformer(Config(n_layers=4, d_model=8, n_heads=4, d_head=2, n_ctx=4, d_vocab=7))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: subset_values(SMALL, batch(0), readings), "16 heads have 2^16 subsets; give between 1 and 12"),
        (lambda: subset_values(SMALL, batch(0), readings, heads=["0.4"]), "there is no head '0.4'; choose from"),
        (lambda: subset_values(SMALL, batch(0), readings, heads=["0.1", "0.1"]), "a head is listed twice"),
        (lambda: subset_values(SMALL, batch(0), readings, heads=["0.1"], instead="means"), "choose from mean"),
        (lambda: subset_values(SMALL, batch(0), readings, heads=[]), "0 heads"),
        (lambda: shapley(torch.zeros(6)), "6 values are not one for each subset"),
        (lambda: best_subsets(torch.zeros(4, 2)), "needs one number a subset"),
        (lambda: best_subsets(torch.tensor([0, 1, torch.nan, 2])), "a value is nan"),
        (lambda: shapley(torch.tensor([0, 1, 2, 3])), "a tensor of floats, one for each subset; this is torch.int64"),
        (lambda: shapley([0.0, 1.0]), "this is list"),
        (lambda: shapley(torch.tensor(1.0)), "this is torch.float32 []"),
        (lambda: shapley(torch.tensor([0, torch.inf, 1, 2])), "a value is infinite"),
        (lambda: subset_values(SMALL, batch(0), lambda x: None, heads=["0.1"]), "it returned NoneType"),
        (lambda: subset_values(SMALL, batch(0), readings, heads="0.1"), "as in ['0.1']"),
        (lambda: subset_values(SMALL, batch(0), readings, heads=["0.1"], instead=None), "this is NoneType"),
        (
            lambda: subset_values(SMALL, batch(0), readings, heads=["0.1"], instead={"blocks.0.attn.z": torch.ones(3)}),
            "blocks.0.attn.z has shape [3]; it must fit",
        ),
        (
            lambda: subset_values(
                SMALL, batch(0), lambda x, seen=[]: torch.ones(len(seen.append(1) or seen)), heads=["0.1"]
            ),
            "the measure gave shape [1], then [2]",
        ),
    ],
)
def test_mistakes_give_readable_errors(call, words):
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    assert words in str(raised.value)
