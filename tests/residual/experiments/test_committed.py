"""The committed weights still do what their cards say they did."""

from __future__ import annotations

import pytest
import torch

from residual.experiments.measure import spot_check
from residual.experiments.run import experiment
from residual.files.checkpoints import load
from residual.files.results import load_result
from residual.methods.induction import prefix_matching_score
from residual.methods.loss import losses
from residual.training.corpus import bible, corpus
from residual.training.train import windows


@pytest.mark.parametrize("positions", ["learned", "shortformer"])
def test_models_of_text_alone_match_prefixes_as_much_as_their_cards_say(positions):
    run = load(f"induction-text-{positions}")
    assert run.model.config.positions == positions and run.card.seed == 0
    scores = prefix_matching_score(run.model, periods=(8, 32), seed=0).amax(dim=1)
    for layer, score in enumerate(scores.tolist()):
        curve = run.card.metrics[f"prefix-matching, layer {layer} by step"]
        assert score == pytest.approx(curve[str(run.card.steps)], abs=6e-4), "the card has three digits"


@pytest.mark.weekly
@torch.no_grad()
def test_the_house_model_has_the_losses_that_its_run_ended_with():
    """The run was on a GPU in bfloat16, with tokens from another script; the same text gives the same losses here."""
    run, entry = load("house"), experiment("house")
    assert run.model.config == entry.config and run.card.training["tokens"] == entry.drawn(4000)["tokens"] == 65_536_000
    for name, text, known in (("sotu-2048", corpus(2048), 3.06), ("bible", bible(), 2.42)):
        parts = windows(text.validation, entry.held_out, 257).split(8)
        loss = torch.stack([losses(run.model, part).mean() for part in parts]).mean().item()
        curve = run.card.metrics[f"validation on {name} by step"]
        assert loss == pytest.approx(curve["4000"], abs=2e-4) and round(loss, 2) == known


@pytest.mark.weekly
def test_smollm2_loses_its_induction_with_head_16_0_alone():
    """All 270 heads, one at a time; and one of them measured again."""
    values, card = load_result("smollm2-head-ablations")
    assert card.command == "residual measure smollm2-head-ablations"
    for head, before, after in (("17.4", 0.79, 0.06), ("18.6", 0.88, 0.39)):
        scores = values[f"prefix-matching {head}"]
        assert round(scores[29, 0].item(), 2) == before, "a head of the last layer has no effect"
        assert round(scores[16, 0].item(), 2) == after
        scores[16, 0] = before
        assert (scores > 0.75 * before).all()
    assert spot_check("smollm2-head-ablations", places=1, seed=int(card.sha256[:4], 16)) < 1e-3
