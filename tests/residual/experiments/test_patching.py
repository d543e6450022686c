"""The stored effects of patches in SmolLM2 are those of plain runs with a tap."""

from __future__ import annotations

import torch

from residual.experiments.patching import PATCHED, PROMPTS, prompts
from residual.files.results import load_result
from residual.taps import patch, record


@torch.no_grad()
def test_a_place_is_a_plain_run_with_a_patch(model):
    values, card = load_result("smollm2-ioi-patching")
    assert card.command == "residual measure smollm2-ioi-patching"
    effect, batch = values["effect"], prompts(model)
    assert len(batch.texts) == PROMPTS and effect.shape == (30, len(PATCHED), 9, 15)
    names = ["blocks.29.attn.z", "blocks.0.mlp_out", "blocks.23.attn.v"]
    model(batch.clean, tap=(there := record(names)))
    before = batch.logit_diff(model(batch.swapped)[:, -1])
    for name, layer, kind, head, position in (
        (names[0], 29, "z", 1, 14),
        (names[1], 0, "mlp_out", 0, 10),
        (names[2], 23, "v", 1, 10),
    ):
        heads = None if kind == "mlp_out" else head
        run = model(batch.swapped, tap=patch(there, name, heads=heads, positions=position))
        found = effect[layer, PATCHED.index(kind), head, position]
        assert torch.isclose(batch.logit_diff(run[:, -1]) - before, found, atol=2e-3), name


def test_heads_that_do_not_exist_are_nan(model):
    effect = load_result("smollm2-ioi-patching")[0]["effect"]
    heads = effect.isfinite().all(dim=-1).sum(dim=-1)  # layer kind
    assert heads.unique(dim=0).tolist() == [[{"k": 3, "v": 3, "mlp_out": 1, "resid_pre": 1}.get(k, 9) for k in PATCHED]]
    assert effect[:, :, :, :10].nan_to_num(0).abs().max() < 1e-4, "before S2 the two prompts are the same"
