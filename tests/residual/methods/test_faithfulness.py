"""Faithfulness: areas worked by hand, and circuits against single runs."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from residual.methods.edges import EdgeScores, every_edge, patch_edges, written
from residual.methods.faithfulness import (
    FRACTIONS,
    CircuitRuns,
    cmd,
    cpr,
    curve,
    divergence_from,
    ranked,
    weights,
)

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("models.py"))))
models, batch, fixed = shared.models, shared.batch, shared.fixed


theorem = settings(deadline=None, max_examples=15)


def test_areas_by_hand():
    """f is 0 at a tenth, 1/2 at a half, 1 at all: two trapezoids on either axis."""
    sizes, f = (0.1, 0.5, 1.0), torch.tensor([0.0, 0.5, 1.0])
    assert_close(cpr(sizes, f).item(), (0.4 * 0.25 + 0.5 * 0.75) / 0.9)
    assert_close(cmd(sizes, f).item(), (0.4 * 0.75 + 0.5 * 0.25) / 0.9)
    low, high = np.log(5), np.log(2)
    assert_close(cpr(sizes, f, "log").item(), (low * 0.25 + high * 0.75) / (low + high))
    above = torch.tensor([0.0, 1.5, 1.0])  # above 1 counts for CPR and against CMD
    assert_close(cpr(sizes, above).item(), (0.4 * 0.75 + 0.5 * 1.25) / 0.9)
    assert_close(cmd(sizes, above).item(), (0.4 * 0.75 + 0.5 * 0.25) / 0.9)


def test_weights_of_the_benchmark():
    """On the linear axis 85% of the weight is on sizes of a fifth and more, and a quarter on the whole model."""
    linear = weights(FRACTIONS) * 0.999
    expected = [0.0005, 0.002, 0.004, 0.0075, 0.02, 0.04, 0.075, 0.2, 0.4, 0.25]
    assert_close(linear, torch.tensor(expected, dtype=torch.float64))
    nothing = torch.zeros(10)
    nothing[-1] = 1
    assert round(cpr(FRACTIONS, nothing).item(), 2) == 0.25
    assert round(cmd(FRACTIONS, nothing).item(), 2) == 0.75


@theorem
@given(
    st.lists(st.floats(0.01, 1), min_size=2, max_size=9, unique=True).map(sorted), st.floats(-2, 2), st.floats(-2, 2)
)
def test_a_straight_line_has_its_own_mean(sizes, slope, height):
    x = torch.tensor(sizes, dtype=torch.float64)
    if not bool((x.diff() > 1e-6).all()):
        return
    assert_close(cpr(sizes, slope * x + height).item(), slope * (sizes[0] + sizes[-1]) / 2 + height)
    middle = (np.log(sizes[0]) + np.log(sizes[-1])) / 2
    assert_close(cpr(sizes, slope * x.log() + height, "log").item(), slope * middle + height)


@theorem
@given(models(min_layers=1, causal=True), st.integers(0, 99), st.data(), st.sampled_from(["patch", "mean", "zero"]))
def test_a_circuit_is_a_run_with_all_other_edges_cut(model, seed, data, how):
    clean, corrupted = batch(seed), batch(seed + 100)
    edges = every_edge(model.config)
    kept = data.draw(st.lists(st.sampled_from(edges), unique=True))
    run = CircuitRuns(model, clean, corrupted, lambda logits: logits[:, 2].mean(), position=2, how=how)
    cut = [edge for edge in edges if edge not in kept]
    expected = model(clean, tap=patch_edges(model, cut, written(model, corrupted), how))[:, 2, 2].mean()
    assert_close(run(kept), expected.item())
    assert_close(run.full, model(clean)[:, 2, 2].mean().item())
    if how == "patch":
        assert_close(run.empty, model(corrupted)[:, 2, 2].mean().item())
    if abs(run.full - run.empty) > 1e-6:
        assert_close(run.faithfulness(edges), 1.0)
        assert_close(run.faithfulness([]), 0.0, atol=1e-9, rtol=0)


def test_divergence_by_hand():
    model, tokens = fixed(), batch(0)
    metric = divergence_from(model, tokens)
    assert_close(metric(model(tokens)[:, -1]).item(), 0.0, atol=1e-12, rtol=0)
    p, q = model(tokens)[:, -1].softmax(-1), model(batch(1))[:, -1].softmax(-1)
    assert_close(metric(model(batch(1))[:, -1]), (p * (p / q).log()).sum(-1).mean())


def test_ranks_by_help_and_by_size():
    values = torch.tensor([[-3.0, 1.0], [9.0, -2.0]])
    exists = torch.tensor([[True, True], [False, True]])
    scores = EdgeScores(values, exists, ["embed", "0.0"], ["0.0.q", "logits"])
    a, b, c = ("embed", "0.0.q"), ("embed", "logits"), ("0.0", "logits")
    assert ranked(scores, "help") == [a, c, b]
    assert ranked(scores, "size") == [a, c, b] and scores.top(1) == [a]
    larger = EdgeScores(values * torch.tensor([1.0, 4.0]), exists, scores.writers, scores.readers)
    assert ranked(larger, "help") == [c, a, b] and ranked(larger, "size") == [c, b, a]


def test_a_curve_takes_the_first_edges():
    order = [("embed", "0.0.q"), ("embed", "logits"), ("0.0", "logits")]
    assert curve(len, order, [0, 2.0, 3]).tolist() == [0, 2, 3]


def test_errors_say_what_is_wrong():
    model = fixed()
    run = CircuitRuns(model, batch(0), batch(1), lambda logits: logits.mean())
    with pytest.raises(ValueError, match=r"kept has 0\.0 → 0\.0\.q, which is no edge that can be cut"):
        run([("0.0", "0.0.q")])
    with pytest.raises(ValueError, match="patching needs the same shapes"):
        CircuitRuns(model, batch(0), batch(1, 2), lambda logits: logits.mean())
    with pytest.raises(ValueError, match="always has foo → bar, which is no edge"):
        CircuitRuns(model, batch(0), batch(1), lambda logits: logits.mean(), always=[("foo", "bar")])
    with pytest.raises(ValueError, match="it must be one number"):
        CircuitRuns(model, batch(0), batch(1), lambda logits: logits[:, 0])
    with pytest.raises(ValueError, match="no span"):
        CircuitRuns(model, batch(0), batch(0), lambda logits: logits[:, 0].mean()).faithfulness([])
    with pytest.raises(ValueError, match="cannot rank edges by 'signed'"):
        ranked(EdgeScores(torch.zeros(1, 1), torch.ones(1, 1) > 0, ["a"], ["b"]), "signed")
    with pytest.raises(ValueError, match="there is no circuit of 4 edges; sizes are whole numbers from 0 to 3"):
        curve(len, [("a", "b")] * 3, [4])
    with pytest.raises(ValueError, match=r"no circuit of 1\.5 edges"):
        curve(len, [("a", "b")] * 3, [1.5])
    with pytest.raises(ValueError, match="ascending"):
        weights([0.1, float("inf")])
    for area in (cpr, cmd):
        for f in ([0.5], [[0.5], [0.5]], torch.zeros(3)):
            with pytest.raises(ValueError, match="give one for each of 2 sizes"):
                area([0.1, 0.2], f)
    assert cpr([0.1, 0.2], [0.5, 0.5]) == 0.5
    with pytest.raises(ValueError, match="ascending"):
        weights([0.5, 0.1])
    with pytest.raises(ValueError, match="above 0 on a log axis"):
        weights([0.0, 0.1], "log")
    with pytest.raises(ValueError, match="there is no axis 'lin'"):
        weights([0.1, 0.2], "lin")
