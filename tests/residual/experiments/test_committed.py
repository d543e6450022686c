"""The committed weights still do what their cards say they did."""

from __future__ import annotations

import pytest

from residual.files.checkpoints import load
from residual.methods.induction import prefix_matching_score


@pytest.mark.parametrize("positions", ["learned", "shortformer"])
def test_models_of_text_alone_match_prefixes_as_much_as_their_cards_say(positions):
    run = load(f"induction-text-{positions}")
    assert run.model.config.positions == positions and run.card.seed == 0
    scores = prefix_matching_score(run.model, periods=(8, 32), seed=0).amax(dim=1)
    for layer, score in enumerate(scores.tolist()):
        curve = run.card.metrics[f"prefix-matching, layer {layer} by step"]
        assert score == pytest.approx(curve[str(run.card.steps)], abs=6e-4), "three digits were kept"
