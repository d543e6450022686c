"""The commands, on an experiment that takes a second."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from residual import Config, checkpoints, experiments
from residual.cli import main
from residual.data import Corpus

TINY = experiments.Experiment(
    "as small as it gets",
    Config(1, 8, 2, 4, 8, 5),
    steps=12,
    batch=4,
    lr=0.01,
    warmup=3,
    stages=(0, 5),
    evaluate_every=4,
    held_out=2,
    data="tiny",
)


@pytest.fixture(autouse=True)
def tiny(tmp_path, monkeypatch):
    stream = torch.randint(5, (300,), generator=torch.Generator().manual_seed(0))
    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny", TINY)
    monkeypatch.setitem(experiments.DATA, "tiny", lambda: Corpus(stream[:200], stream[200:]))
    monkeypatch.setattr(experiments, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(checkpoints, "FOLDER", tmp_path / "checkpoints")


def told(*arguments, fails=False):
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code != 0) == fails, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), "a sentence, no traceback"
    return result.output


def test_train_list_show(tmp_path):
    assert "tiny         not trained" in told("list")
    assert "tiny: not trained; residual train tiny" in told("show", "tiny")
    assert "12 steps, validation loss 1." in told("train", "tiny")
    folder = tmp_path / "checkpoints"
    assert sorted(path.stem for path in folder.glob("*.safetensors")) == ["tiny", "tiny-0", "tiny-5"]
    assert not list((tmp_path / "cache" / "runs").glob("*.safetensors")), "no state is left of a finished run"
    assert "tiny         12 steps, loss 1." in told("list")
    shown = told("show", "tiny-5")
    assert "5 steps" in shown and "verified" in shown and "residual train tiny" in shown
    card = json.loads((folder / "tiny-5.json").read_text())
    assert card["steps"] == len(card["losses"]) == 5 and card["training"]["tokens"] == 5 * 4 * 8
    assert list(card["metrics"]["validation by step"]) == ["0", "4", "5"]
    assert {"torch", "python"} <= card["versions"].keys() and card["dtype"] == "F16"


def test_the_command_on_the_card_makes_the_weights_again(tmp_path):
    told("train", "tiny", "--seed", "3", "--steps", "6")
    card = checkpoints.read_card(tmp_path / "checkpoints" / "tiny")
    assert card.command == "residual train tiny --steps 6 --seed 3"
    told(*card.command.split()[1:], "--out", str(tmp_path / "again"))
    assert checkpoints.read_card(tmp_path / "again" / "tiny").sha256 == card.sha256
    told("train", "tiny", "--steps", "6", "--out", str(tmp_path / "other"))
    assert checkpoints.read_card(tmp_path / "other" / "tiny").sha256 != card.sha256


def test_slips_are_sentences(tmp_path):
    assert "no experiment 'tinny'; there is tiny" in told("train", "tinny", fails=True)
    assert "no experiment and no checkpoint 'tinny'; there is tiny" in told("show", "tinny", fails=True)
    assert "a batch of 4 cannot be cut into 3 equal shares" in told("train", "tiny", "--accumulate", "3", fails=True)
    told("train", "tiny")
    path = tmp_path / "checkpoints" / "tiny.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "SHA-256 differs" in told("show", "tiny", fails=True)
    path.with_suffix(".json").write_text("{}")
    assert "damaged" in told("list")


def test_the_same_run_twice_at_once_is_refused(monkeypatch):
    """The second begins while the first evaluates its model."""
    loss, answers = experiments.next_token_loss, []

    def meanwhile(*arguments):
        if not answers:
            answers.append("")
            answers.append(told("train", "tiny", fails=True))
        return loss(*arguments)

    monkeypatch.setattr(experiments, "next_token_loss", meanwhile)
    told("train", "tiny")
    assert "this very run is going on in another process" in answers[1]


def test_every_experiment_can_be_made():
    """Each entry's numbers make a model and a run; what the notes use is there."""
    assert {"gpt", "attn-2l"} <= experiments.EXPERIMENTS.keys()
    for name, entry in experiments.EXPERIMENTS.items():
        assert entry.data in experiments.DATA, name
        assert entry.warmup < entry.steps and all(0 <= stage < entry.steps for stage in entry.stages), name
        with torch.device("meta"):
            experiments.Transformer(entry.config)


def test_a_curve_in_a_line():
    assert experiments.sketch([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]) == "█▇▆▅▄▃▂▁"
    assert len(experiments.sketch([1.0] * 1000, width=30)) == 30
