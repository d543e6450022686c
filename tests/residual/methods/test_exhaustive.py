"""Every circuit at once, against runs of the model with each circuit's edges patched."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from residual import Config, Transformer
from residual.experiments.hand_set import induction
from residual.methods.edges import patch_edges, written
from residual.methods.exhaustive import EveryCircuit
from residual.methods.shapley import shapley

N_POS, D_VOCAB = 4, 7
theorem = settings(deadline=None, max_examples=10)


def drawn(seed, n_heads=2, n_layers=2, positions="shortformer"):
    """Return a random attention-only model in float64, and a task: clean, corrupted, right, wrong."""
    generator = torch.Generator().manual_seed(seed)
    config = Config(n_layers=n_layers, d_model=6, n_heads=n_heads, d_head=2, n_ctx=N_POS, d_vocab=D_VOCAB,
                    positions=positions)  # fmt: skip
    model = Transformer(config).double().requires_grad_(False)
    for weight in model.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    tokens = torch.randint(D_VOCAB, (2, 3, N_POS), generator=generator)
    return model, (*tokens, *torch.randint(D_VOCAB, (2, 3), generator=generator))


def by_running(model, every, task, kept):
    clean, corrupted, right, wrong = task
    cut = [edge for edge in every.edges if edge not in set(kept)]
    logits = model(clean, tap=patch_edges(model, cut, written(model, corrupted)))[:, -1]
    return (logits.gather(1, right[:, None]) - logits.gather(1, wrong[:, None])).mean()


@theorem
@given(st.integers(0, 999), st.sampled_from(["shortformer", "learned", "rotary", "none"]), st.data())
def test_the_metric_of_a_circuit_is_that_of_its_run(seed, positions, data):
    model, task = drawn(seed, positions=positions)
    every = EveryCircuit(model, *task)
    kept = data.draw(st.lists(st.sampled_from(every.edges), unique=True))
    assert_close(every.metric(kept), by_running(model, every, task, kept).item(), atol=1e-9, rtol=1e-9)
    assert_close(every.metric(every.edges), every.full, atol=1e-9, rtol=1e-9)
    assert_close(every.metric([]), every.empty, atol=1e-9, rtol=1e-9)


def brute(every):
    """Return all circuits and their metrics, one call for each."""
    circuits = (torch.arange(2 ** len(every.edges))[:, None] >> torch.arange(len(every.edges)) & 1) == 1
    return circuits, every.metrics(circuits)


shapes = st.sampled_from([(2, 1, "shortformer"), (1, 3, "none")])  # layers, heads: one table of 9 edges; three of 13


@theorem
@given(st.integers(0, 999), shapes)
def test_best_counts_and_indispensable_edges_are_those_of_a_search_over_all(seed, shape):
    n_layers, n_heads, positions = shape
    model, task = drawn(seed, n_heads, n_layers, positions)
    every = EveryCircuit(model, *task)
    assert len(every.edges) == (9 if n_heads == 1 else 13)
    circuits, values = brute(every)
    size = circuits.sum(dim=1)
    best = torch.stack([values[size == k].max() for k in range(len(every.edges) + 1)])
    assert_close(every.best_metrics(), best)
    assert_close(torch.tensor([every.metric(kept) for kept in every.best()], dtype=best.dtype), best)
    assert [len(kept) for kept in every.best()] == list(range(len(every.edges) + 1))
    without = torch.stack([values[~circuits[:, i]].max() for i in range(len(every.edges))])
    assert_close(every.best_without(), without)
    middle = (values.max() + values.min()) / 2
    gap, step = float((values - middle).abs().min()), float(values.max() - values.min()) / 1600
    if gap > 2 * (n_heads + 1) * step:  # far from the rounding of the bins
        expected = torch.stack([(values[size == k] >= middle).sum() for k in range(len(every.edges) + 1)]).double()
        assert_close(every.how_many(float(middle), bins=1600), expected)


@theorem
@given(st.integers(0, 999), st.sampled_from([(2, 1, "shortformer"), (1, 2, "none")]))  # 9 edges, in one table or two
def test_shapley_values_are_the_mean_gain_over_all_orders(seed, shape):
    n_layers, n_heads, positions = shape
    model, task = drawn(seed, n_heads, n_layers, positions)
    every = EveryCircuit(model, *task)
    _, values = brute(every)
    assert_close(every.shapley(), shapley(values))  # of one game of all edges, not a game for each head
    small = values[: 2**4]  # the first four edges; the others absent
    gains = torch.zeros(4, dtype=values.dtype)
    for order in permutations(range(4)):
        subset = 0
        for i in order:
            gains[i] += small[subset | 1 << i] - small[subset]
            subset |= 1 << i
    assert_close(shapley(small), gains / 24)


def test_the_model_by_hand_needs_exactly_four_edges():
    model = induction(8, 7)
    clean = torch.tensor([[0, 3, 5, 2, 6, 3], [0, 2, 4, 7, 1, 2]])
    corrupted = torch.tensor([[0, 1, 2, 4, 7, 6], [0, 5, 6, 3, 1, 7]])
    every = EveryCircuit(model, clean, corrupted, torch.tensor([5, 4]), torch.tensor([6, 7]))
    needed = {("embed", "1.0.q"), ("0.0", "1.0.k"), ("embed", "1.0.v"), ("1.0", "logits")}
    assert set(every.best()[4]) == needed
    assert_close(every.metric(needed), 1.0)
    assert {e for e, left in zip(every.edges, every.best_without(), strict=True) if left < 0.9} == needed


def test_errors_say_what_is_wrong():
    model, (clean, corrupted, right, wrong) = drawn(0)
    with pytest.raises(ValueError, match="give equal shapes"):
        EveryCircuit(model, clean, corrupted[:, :-1], right, wrong)
    with pytest.raises(ValueError, match=r"may not be cut here"):
        EveryCircuit(model, clean, corrupted, right, wrong).metric([("embed", "0.0.q")])
    for answer, words in (
        (right[:1], r"right is \[1\]; give one token for each of 3 texts"),
        (right - 8, "whole numbers from 0 to 6"),
        (right + 7, "whole numbers from 0 to 6"),
        (right.double(), "whole numbers from 0 to 6"),
        (right > 3, "whole numbers from 0 to 6"),
    ):
        with pytest.raises(ValueError, match=words):
            EveryCircuit(model, clean, corrupted, answer, wrong)
    with pytest.raises(ValueError, match=r"wrong is \[2\]"):
        EveryCircuit(model, clean, corrupted, right, wrong[:2])
    with pytest.raises(ValueError, match="at least one"):
        EveryCircuit(model, clean[:, :0], corrupted[:, :0], right, wrong)
    every = EveryCircuit(model, clean, corrupted, right, wrong)
    for mask in (torch.zeros(2, len(every.edges) + 1).bool(), torch.zeros(2, len(every.edges)), torch.zeros(3).bool()):
        with pytest.raises(ValueError, match="give true or false"):
            every.metrics(mask)
    for least, bins in ((0.0, 1), (float("nan"), 256)):
        with pytest.raises(ValueError, match="cannot count circuits"):
            every.how_many(least, bins)
    large, task = drawn(0, n_heads=8)
    with pytest.raises(ValueError, match=r"2\^28 circuits; the most is 2\^18"):
        EveryCircuit(large, *task)
    normed = Transformer(Config(n_layers=1, d_model=6, n_heads=2, d_head=2, n_ctx=4, d_vocab=7, norm="rms"))
    with pytest.raises(ValueError, match="only without MLPs, norms"):
        EveryCircuit(normed, clean, corrupted, right, wrong)
