"""The commands, with an experiment that takes a second."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from residual import Config, Transformer, cli
from residual.cli import main, sketch
from residual.experiments import language, measure, run
from residual.files import checkpoints, results
from residual.methods.induction import repeats
from residual.training.corpus import Corpus

TINY = language.NextToken(
    "as small as possible",
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
    monkeypatch.setitem(run.EXPERIMENTS, "tiny", TINY)
    monkeypatch.setitem(language.DATA, "tiny", lambda: Corpus(stream[:200], stream[200:]))
    monkeypatch.setattr(run, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(checkpoints, "FOLDER", tmp_path / "checkpoints")
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")


def invoke(*arguments, fails=False):
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code != 0) == fails, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), "an error message, not a traceback"
    return result.output


def listed(name):
    """Return a name's line in ``residual list``, with single spaces."""
    return next(" ".join(line.split()) for line in invoke("list").splitlines() if line.split()[0] == name)


def test_train_list_show(tmp_path):
    assert listed("tiny") == "tiny not trained as small as possible"
    assert "tiny: not trained; residual train tiny" in invoke("show", "tiny")
    assert "12 steps, validation 1." in invoke("train", "tiny")
    folder = tmp_path / "checkpoints"
    assert sorted(path.stem for path in folder.glob("*.safetensors")) == ["tiny", "tiny-0", "tiny-5"]
    assert not list((tmp_path / "cache" / "runs").glob("*.safetensors")), "a finished run leaves no state"
    assert listed("tiny").startswith("tiny 12 steps, validation 1.")
    shown = invoke("show", "tiny-5")
    assert "5 steps" in shown and "verified" in shown and "residual train tiny" in shown
    card = json.loads((folder / "tiny-5.json").read_text())
    assert card["steps"] == len(card["losses"]) == 5 and card["training"]["tokens"] == 5 * 4 * 8
    assert list(card["metrics"]["validation by step"]) == ["0", "4", "5"]
    assert {"torch", "python"} <= card["versions"].keys() and card["dtype"] == "F16"


def test_the_command_on_the_card_makes_the_weights_again(tmp_path):
    invoke("train", "tiny", "--seed", "3", "--steps", "6")
    files = [path.stem for path in (tmp_path / "checkpoints").glob("*.safetensors")]
    assert files == ["tiny-steps6-seed3"], "under its own name, without stages"
    card = checkpoints.read_card(tmp_path / "checkpoints" / "tiny-steps6-seed3")
    assert card.command == "residual train tiny --steps 6 --seed 3"
    invoke("train", "tiny", "--accumulate", "2", "--full", "--seed", "4", "--out", str(tmp_path / "full"))
    full = checkpoints.read_card(tmp_path / "full" / "tiny-seed4")
    assert full.command == "residual train tiny --seed 4 --accumulate 2 --full"
    invoke(*full.command.split()[1:], "--out", str(tmp_path / "full again"))
    assert checkpoints.read_card(tmp_path / "full again" / "tiny-seed4").sha256 == full.sha256
    invoke(*card.command.split()[1:], "--out", str(tmp_path / "again"))
    assert checkpoints.read_card(tmp_path / "again" / "tiny-steps6-seed3").sha256 == card.sha256
    invoke("train", "tiny", "--steps", "6", "--out", str(tmp_path / "other"))
    assert checkpoints.read_card(tmp_path / "other" / "tiny-steps6").sha256 != card.sha256


def test_mistakes_give_readable_errors(tmp_path):
    assert "no experiment 'tinny'; choose from tiny" in invoke("train", "tinny", fails=True)
    assert "no experiment and no checkpoint 'tinny'; choose from tiny" in invoke("show", "tinny", fails=True)
    assert "a batch of 4 cannot be cut into 3 equal shares" in invoke("train", "tiny", "--accumulate", "3", fails=True)
    assert "not in the range" in invoke("train", "tiny", "--seed", str(2**32 - 1), fails=True)
    invoke("train", "tiny", "--seed", str(2**32 - 2))
    (tmp_path / "file").write_text("")
    assert "Not a directory" in invoke("train", "tiny", "--out", str(tmp_path / "file" / "folder"), fails=True)
    assert not list((tmp_path / "cache" / "runs").glob("*.safetensors")), "the error comes before the training"
    invoke("train", "tiny")
    path = tmp_path / "checkpoints" / "tiny.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "SHA-256 differs" in invoke("show", "tiny", fails=True)
    path.with_suffix(".json").write_text("{}")
    assert "damaged" in invoke("list")
    path.with_suffix(".json").unlink()
    path.with_suffix(".json").mkdir()
    assert "damaged" in invoke("list")


def test_measure_list_show(tmp_path, monkeypatch):
    table = measure.Measurement("sums", (2, 3), lambda: lambda i, j: {"sum": torch.tensor(i + 10.0 * j)})
    monkeypatch.setitem(measure.MEASUREMENTS, "sums", table)
    assert listed("sums") == "sums not measured sums"
    assert "sums: not measured; residual measure sums" in invoke("show", "sums")
    assert "sums.safetensors: measured in 0 s" in invoke("measure", "sums")
    assert listed("sums") == "sums measured in 0 s sums"
    shown = invoke("show", "sums")
    assert "residual measure sums" in shown and "verified" in shown and "[2, 3]" in shown
    values, card = results.load_result(tmp_path / "results" / "sums")
    assert values["sum"].tolist() == [[0, 10, 20], [1, 11, 21]] and {"torch", "python"} <= card.versions.keys()
    invoke("train", "tiny", "--out", str(tmp_path / "other"))
    invoke("measure", "sums", "--out", str(tmp_path / "other"))
    both = invoke("list", "--out", str(tmp_path / "other"))
    assert "12 steps" in both and "measured in 0 s" in both, "one folder may hold both"
    assert "no measurement 'sum'; choose from sums" in invoke("measure", "sum", fails=True)
    (tmp_path / "file").write_text("")
    assert "Not a directory" in invoke("measure", "sums", "--out", str(tmp_path / "file" / "folder"), fails=True)
    path = tmp_path / "results" / "sums.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "SHA-256 differs" in invoke("show", "sums", fails=True)


def test_the_card_decides_what_a_file_is_in_any_folder(tmp_path, monkeypatch):
    """A checkpoint among the results, under a measurement's name, and a result among the checkpoints."""
    monkeypatch.setitem(
        measure.MEASUREMENTS, "sums", measure.Measurement("sums", (2,), lambda: lambda i: {"n": torch.tensor(i)})
    )
    model = Transformer(TINY.config)
    checkpoints.save(checkpoints.Run(model, checkpoints.Card("sums", {})), tmp_path / "results" / "sums")
    invoke("measure", "sums", "--out", str(tmp_path / "checkpoints"))
    for kind in (".safetensors", ".json"):
        (tmp_path / "checkpoints" / f"sums{kind}").rename(tmp_path / "checkpoints" / f"mine{kind}")
    assert listed("mine") == "mine measured in 0 s sums" and "[2]" in invoke("show", "mine")
    assert listed("sums") == "sums steps unknown sums"
    shown = invoke("show", "sums")
    assert "no data, steps unknown" in shown and "seed None" not in shown


def test_a_missing_folder_is_a_readable_error(tmp_path):
    for command in (["list"], ["show", "tiny"]):
        assert "does not exist" in invoke(*command, "--out", str(tmp_path / "nope"), fails=True)


def test_every_module_that_adds_a_kind_is_imported_by_show():
    """The list has every module that writes to ``checkpoints.KINDS``, and no other."""
    package = Path(cli.__file__).parent
    adding = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf8"))):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            written = {ast.unparse(t.value if isinstance(t, ast.Subscript) else t) for t in targets if t is not None}
            if isinstance(node, ast.Assign | ast.AnnAssign) and written & {"KINDS", "checkpoints.KINDS"}:
                adding.add(".".join(("residual", *path.relative_to(package).with_suffix("").parts)))
    assert set(cli.DEFINE_KINDS) == adding


def test_help_explains_the_seed():
    assert "and of nothing else" in " ".join(invoke("train", "--help").split())


def test_help_names_every_command():
    shown = invoke("--help")
    assert all(f"residual {command}" in shown for command in ("list", "train", "measure", "show"))


def test_no_measurement_has_an_experiments_name():
    assert not measure.MEASUREMENTS.keys() & run.EXPERIMENTS.keys()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_a_readable_error():
    assert "there is no GPU that this PyTorch can use" in invoke("train", "tiny", "--device", "cuda", fails=True)


def test_the_same_run_twice_at_once_is_refused(monkeypatch):
    """The second run starts while the first evaluates its model."""
    loss, answers = language.next_token_loss, []

    def meanwhile(*arguments):
        if not answers:
            answers.append("")
            answers.append(invoke("train", "tiny", fails=True))
        return loss(*arguments)

    monkeypatch.setattr(language, "next_token_loss", meanwhile)
    invoke("train", "tiny")
    assert "the same run is in progress in another process" in answers[1]


def test_every_experiment_can_be_made():
    """The numbers of each entry make a model and a run, and everything the notes use exists."""
    assert {"gpt", "attn-2l", "house", "othello"} <= run.EXPERIMENTS.keys()
    assert {entry.data for entry in language.EXPERIMENTS.values()} <= language.DATA.keys()
    for name, entry in run.EXPERIMENTS.items():
        assert entry.warmup < entry.steps and all(0 <= stage < entry.steps for stage in entry.stages), name
        with torch.device("meta"):
            entry.model()


def test_a_curve_is_drawn_in_one_line_of_text():
    assert sketch([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]) == "█▇▆▅▄▃▂▁"
    assert len(sketch([1.0] * 1000, width=30)) == 30


def test_a_run_with_repeats_records_the_measures_of_the_phase_change(tmp_path, monkeypatch):
    entry = replace(TINY, config=Config(2, 8, 2, 4, 16, 5, positions="shortformer"), repeats=2, periods=(2, 4))
    monkeypatch.setitem(run.EXPERIMENTS, "tiny", entry)
    seen, next_token_loss = [], language.next_token_loss

    def spy(model, tokens):
        seen.append(tokens)
        return next_token_loss(model, tokens)

    monkeypatch.setattr(language, "next_token_loss", spy)
    invoke("train", "tiny")
    drawn = [tokens for tokens in seen if len(tokens) == 4]
    assert len(drawn) == 12
    for tokens in drawn:  # two windows of the text, two of tokens that repeat
        periods = [{p for p in (2, 3, 4) if torch.equal(row[p:], row[:-p])} for row in tokens]
        assert all(periods[2:]) and not any(periods[:2])
    assert not torch.equal(drawn[0][2:], drawn[1][2:]), "each step draws new ones"
    card = checkpoints.read_card(tmp_path / "checkpoints" / "tiny")
    assert {"repeated by step", "prefix-matching by step", "K-composition by step"} <= card.metrics.keys()
    assert list(card.metrics["repeated by step"]) == ["0", "4", "5", "8", "12"]


def test_a_run_with_a_start_token_puts_it_before_every_window(tmp_path, monkeypatch):
    config = Config(2, 8, 2, 4, 16, 5, positions="shortformer")
    entry = replace(TINY, config=config, repeats=2, periods=(2, 4), start=True)
    monkeypatch.setitem(run.EXPERIMENTS, "tiny", entry)
    stream = torch.randint(1, 5, (300,), generator=torch.Generator().manual_seed(0))
    stream[0] = 0  # as a corpus begins
    monkeypatch.setitem(language.DATA, "tiny", lambda: Corpus(stream[:200], stream[200:]))
    seen, next_token_loss = [], language.next_token_loss

    def spy(model, tokens):
        seen.append(tokens)
        return next_token_loss(model, tokens)

    monkeypatch.setattr(language, "next_token_loss", spy)
    invoke("train", "tiny")
    for tokens in seen:  # in training and in evaluation
        assert tokens.shape[1] == 17 and (tokens[:, 0] == 0).all()
    for tokens in (tokens for tokens in seen if len(tokens) == 4):
        assert not (tokens[2:, 1:] == 0).any(), "random tokens hold no other start token"
        assert all(any(torch.equal(row[1 + p :], row[1:-p]) for p in (2, 3, 4)) for row in tokens[2:])
    assert checkpoints.read_card(tmp_path / "checkpoints" / "tiny").training["start"] is True


@torch.no_grad()
def test_in_context_measures_are_those_of_a_loop():
    """On a model of random weights: each token's loss separately, split into first and repeated occurrences."""
    model = Transformer(Config(2, 8, 2, 4, 32, 11, init_std=0.7, positions="shortformer"), seed=1).double()
    text = torch.randint(11, (3, 33), generator=torch.Generator().manual_seed(0))
    got = language.in_context(model, text, (3, 9), examples=5, seed=2)
    tokens, period = repeats(5, 33, (3, 9), d_vocab=11, seed=2)
    first, again = [], []
    for row, p in zip(tokens, period.flatten().tolist(), strict=True):
        log_p = model(row[None, :-1])[0].log_softmax(-1)
        for i in range(1, 33):
            (again if i >= p else first).append(-log_p[i - 1, row[i]].item())
    assert got["first period"].item() == pytest.approx(sum(first) / len(first), abs=1e-12)
    assert got["repeated"].item() == pytest.approx(sum(again) / len(again), abs=1e-12)
    of_text = -model(text[:, :-1]).log_softmax(-1).gather(-1, text[:, 1:, None])[..., 0]  # losses of tokens 1 to 32
    late, early = of_text[:, 24:].mean(), of_text[:, 4:8].mean()
    assert got["in-context score"].item() == pytest.approx((late - early).item(), abs=1e-12)
