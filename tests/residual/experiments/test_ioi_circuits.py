"""The circuits of SmolLM2, tried on a small random model with the same kinds of parts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from residual import Config, Transformer
from residual.experiments import ioi_circuits
from residual.experiments.ioi import IOI
from residual.methods.edges import edge_attribution, every_edge
from residual.methods.faithfulness import CircuitRuns


def prepared():
    """Return a random model with shared keys and SwiGLU, and prompts of random tokens."""
    torch.manual_seed(0)
    config = Config(n_layers=3, d_model=12, n_heads=4, n_kv_heads=2, d_head=4, n_ctx=15, d_vocab=20, d_mlp=10,
                    act="swiglu", norm="rms", positions="rotary")  # fmt: skip
    model = Transformer(config).double().requires_grad_(False)
    for weight in model.parameters():
        weight.copy_(0.5 * torch.randn(weight.shape, dtype=weight.dtype))
    clean, swapped, abc = torch.randint(20, (3, 6, 15))
    io, s = torch.randint(20, (2, 6))
    return model, IOI([""] * 6, clean, swapped, abc, io, s, torch.arange(6) % 2 == 0)


@pytest.fixture
def small(monkeypatch):
    model, prompts = prepared()
    between = edge_attribution(model, prompts.clean, prompts.abc, prompts.logit_diff)
    monkeypatch.setattr(ioi_circuits, "smollm2", lambda: (model, None))
    monkeypatch.setattr(ioi_circuits, "ioi_prompts", lambda *_, **__: prompts)
    monkeypatch.setattr(ioi_circuits, "stored_scores", lambda _: {"EAP": between, "EAP-IG": between})
    monkeypatch.setattr(ioi_circuits, "circuit", lambda model, prompts: ORIGINAL(model, prompts, nodes=25))
    return SimpleNamespace(model=model, prompts=prompts, between=between)


ORIGINAL = ioi_circuits.circuit


@pytest.mark.parametrize("way", range(3))
@pytest.mark.parametrize("place", range(2))
def test_with_all_edges_among_its_heads_a_circuit_of_edges_is_one_of_nodes(small, monkeypatch, way, place):
    monkeypatch.setattr(ioi_circuits, "BETWEEN", 10**6)
    row = ioi_circuits.choices()
    nodes, edges = (row(level, way, place)["difference"] for level in (0, 1))
    assert_close(edges, nodes)
    assert (nodes - row(0, way, place)["model"]).abs().max() > 1e-3


def test_the_circuit_has_the_nodes_with_the_largest_first_order_effect(small):
    model, prompts = small.model, small.prompts
    chosen = ORIGINAL(model, prompts, nodes=1).nonzero()
    assert chosen.shape == (1, 3)
    assert int(ORIGINAL(model, prompts, nodes=25).sum()) == 25
    layer, head, pos = chosen[0].tolist()
    assert ORIGINAL(model, prompts, nodes=25)[layer, head, pos]


def test_a_place_of_the_curves_is_a_run_of_its_first_edges(small):
    row = ioi_circuits.curves()
    run = CircuitRuns(small.model, small.prompts.clean, small.prompts.abc, small.prompts.logit_diff)
    n = len(every_edge(small.model.config))
    best = small.between.top(round(0.2 * n))
    assert_close(row(1, 7)["difference"].mean().item(), run(best), atol=1e-5, rtol=1e-5)
    assert_close(row(1, 7)["empty"].mean().item(), run.empty, atol=1e-5, rtol=1e-5)
    assert_close(row(1, 7)["full"].mean().item(), run.full, atol=1e-5, rtol=1e-5)
    whole = row(0, 9)
    assert_close(whole["difference"], whole["full"])
