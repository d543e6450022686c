"""ACDC on losses whose answer is worked by hand, and on the induction model with known edges."""

from __future__ import annotations

import pytest
import torch

from residual.experiments.hand_set import induction
from residual.methods.acdc import acdc, sweep_order
from residual.methods.edges import every_edge, readers, writers
from residual.methods.faithfulness import CircuitRuns, divergence_from

A, B, C = ("embed", "0.0.q"), ("embed", "0.0.v"), ("0.0", "logits")


def test_edges_stay_out_if_the_loss_rises_by_less_than_the_threshold():
    """Costs 3, 1 and 0.5 add up: with τ = 1 the second stays in, because its rise is not below τ."""
    cost = {A: 3.0, B: 1.0, C: 0.5}
    seen = []

    def loss(kept):
        seen.append(tuple(kept))
        return sum(cost[e] for e in cost if e not in kept)

    assert acdc([C, B, A], loss, 1.0) == [B, A]
    assert seen == [(C, B, A), (B, A), (A,), (B,)]  # once whole, then one run for each edge
    assert acdc([C, B, A], loss, 0.0) == [C, B, A] and acdc([C, B, A], loss, 5.0) == []


def test_of_two_edges_that_stand_in_for_each_other_the_later_tried_stays():
    def loss(kept):
        return 0.0 if {A, B} & set(kept) else 1.0

    assert acdc([A, B], loss, 0.1) == [B] and acdc([B, A], loss, 0.1) == [A]


def test_the_sweep_goes_from_the_output_back():
    model = induction(8, 7)
    order = sweep_order(model.config, every_edge(model.config))
    read, wrote = readers(model.config), writers(model.config)
    places = [(read.index(r), wrote.index(w)) for w, r in order]
    assert places == sorted(places, reverse=True) and order[0] == ("1.0", "logits")


def test_it_finds_the_five_edges_of_the_model_by_hand():
    model = induction(8, 7)
    clean = torch.tensor([[0, 3, 5, 2, 6, 3], [0, 2, 4, 7, 1, 2]])
    corrupted = torch.tensor([[0, 1, 2, 4, 7, 6], [0, 5, 6, 3, 1, 7]])
    run = CircuitRuns(model, clean, corrupted, divergence_from(model, clean))
    found = acdc(sweep_order(model.config, run.edges), run, 0.01)
    expected = {("embed", "0.0.v"), ("embed", "1.0.q"), ("0.0", "1.0.k"), ("embed", "1.0.v"), ("1.0", "logits")}
    assert set(found) == expected


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="threshold is not a number"):
        acdc([A], len, float("nan"))
    with pytest.raises(ValueError, match="listed twice"):
        acdc([A, A], len, 1.0)
    with pytest.raises(ValueError, match="the loss of all edges is not a number"):
        acdc([A], lambda kept: float("nan"), 1.0)
    with pytest.raises(ValueError, match=r"the loss without .* is not a number"):
        acdc([A], lambda kept: 0.0 if kept else float("nan"), 1.0)
    with pytest.raises(ValueError, match=r"embed → 9\.9\.q is no edge of this model"):
        sweep_order(induction(8, 7).config, [("embed", "9.9.q")])
