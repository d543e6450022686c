"""The committed lens of `house`, and the measurement of SmolLM2's self-repair, are what their cards say."""

from __future__ import annotations

import pytest
import torch

from residual.experiments.measure import spot_check
from residual.experiments.repairs import FIRST, PARTS, PUT_IN, held_out_speeches
from residual.experiments.run import experiment
from residual.files.checkpoints import load
from residual.files.results import load_result
from residual.training.corpus import sotu_texts, split


def test_an_untrained_lens_changes_nothing_and_the_trained_one_has_its_size():
    entry, run = experiment("house-lens"), load("house-lens")
    x = torch.randn(4, 2, 256)
    assert torch.equal(entry.model()(x), x)
    assert run.card.kind == "tuned-lens" and run.model.config == entry.config
    assert run.card.training["tokens"] == entry.drawn(300)["tokens"] == 300 * 8 * 96


@pytest.mark.weekly
@torch.no_grad()
def test_the_committed_lens_has_the_kl_of_its_card():
    run = load("house-lens")
    found = experiment("house-lens").evaluate(run.model)
    assert found["KL"].item() == pytest.approx(run.card.metrics["KL"], abs=2e-3), "float16 weights"


def test_the_measured_parts_fit_together():
    """Zero and the two controls of equal length take the whole direct effect away; the scale alone is not the scale."""
    values, card = load_result("smollm2-self-repair")
    assert card.settings["shape"] == [30 - FIRST, 9]
    for table in values.values():
        assert table.shape == (18, 9, len(PUT_IN), len(PARTS), 2)
    direct = {how: values["ioi"][:, :, PUT_IN.index(how), 0, 0] for how in PUT_IN}
    for control in ("elsewhere", "projected"):
        assert torch.allclose(direct[control], direct["zero"], atol=1e-4)
    assert not torch.allclose(direct["resample"], direct["zero"], atol=0.1)
    last = values["largest"][-1, :, :, PARTS.index("later"), 0].abs().sum()
    assert last > 0, "an MLP comes after the heads of the last layer"


@pytest.mark.weekly
def test_two_places_of_the_measurement_come_out_again():
    _, card = load_result("smollm2-self-repair")
    assert spot_check("smollm2-self-repair", places=1, seed=int(card.sha256[:4], 16)) < 1e-2


def test_held_out_speeches_are_the_last_ones_each_from_its_token_200_on():
    vocabulary = load("gpt").model.vocabulary
    speeches = split(sotu_texts())[1]
    rows = held_out_speeches(vocabulary, 3, 20)
    for row, speech in zip(rows, speeches[-3:], strict=True):
        assert row.tolist() == vocabulary.tokens(speech)[0][0].tolist()[200:220]
    with pytest.raises(ValueError, match=f"30 texts; there are {len(speeches)} held-out speeches"):
        held_out_speeches(vocabulary, 30, 20)
    with pytest.raises(ValueError, match="from token 200 on; the length is 1000000"):
        held_out_speeches(vocabulary, 2, 1_000_000)
    with pytest.raises(ValueError, match="this model has no vocabulary"):
        held_out_speeches(None)
