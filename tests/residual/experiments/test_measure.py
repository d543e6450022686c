"""Measurements: tables place by place, spot checks that show whether a table still holds, ablations by a plain loop."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from residual import Config, Transformer
from residual.experiments import measure
from residual.experiments.ablations import ablated
from residual.files.cards import ResultCard
from residual.files.results import load_result, save_result
from residual.methods.induction import repeats

SHAPE = (4, 5)


@pytest.fixture(autouse=True)
def table(monkeypatch):
    """A measurement with a number and a row of three at each place, NaN at one; yields the list of places measured."""
    asked = []

    def row(i, j):
        asked.append((i, j))
        return {
            "product": torch.tensor(float(i * j) if (i, j) != (3, 4) else math.nan),
            "powers": torch.tensor([1.0, i, i**2]) + j,
        }

    monkeypatch.setitem(measure.MEASUREMENTS, "table", measure.Measurement("a table", SHAPE, lambda: row))
    return asked


def store(folder, **changes):
    """Measure the table, then store it with other values."""
    values, _ = load_result(measure.measure("table", folder=folder))
    save_result(folder / "table", values | changes, ResultCard("table"))
    return values


def test_all_places_or_some(table):
    every = measure.compute("table")
    assert every["product"].shape == SHAPE and every["powers"].shape == (*SHAPE, 3)
    assert every["product"][2, 3] == 6 and every["powers"][2, 3].tolist() == [4, 5, 7]
    table.clear()
    some = measure.compute("table", only=[(2, 3), (0, 1)])
    assert table == [(2, 3), (0, 1)] and some["product"].tolist() == [6, 0]
    assert torch.equal(some["powers"], every["powers"][[2, 0], [3, 1]])


def test_unknown_places_and_names_are_errors():
    with pytest.raises(ValueError, match=r"table has no place \(4, 0\); its shape is \[4, 5\]"):
        measure.compute("table", only=[(0, 0), (4, 0)])
    with pytest.raises(ValueError, match=r"table has no place \(-1, 0\)"):
        measure.compute("table", only=[(-1, 0)])
    with pytest.raises(ValueError, match="only has no places of table"):
        measure.compute("table", only=[])
    with pytest.raises(KeyError, match="no measurement 'tablet'; choose from table"):
        measure.compute("tablet")


def test_a_spot_check_measures_a_few_places_and_agrees(tmp_path, table):
    store(tmp_path)
    table.clear()
    assert measure.spot_check("table", places=6, seed=1, folder=tmp_path) == 0
    assert len(set(table)) == 6
    table.clear()
    measure.spot_check("table", places=6, seed=2, folder=tmp_path)
    second = set(table)
    table.clear()
    measure.spot_check("table", places=6, seed=1, folder=tmp_path)
    assert set(table) != second, "another seed draws other places"
    assert measure.spot_check("table", places=20, folder=tmp_path) == 0, "at all places, NaN equals NaN"


def test_a_spot_check_finds_what_changed(tmp_path):
    values = store(tmp_path)
    changed = values["powers"].clone()
    changed[1, 2, 0] += 0.25
    store(tmp_path, powers=changed)
    assert measure.spot_check("table", places=20, folder=tmp_path) == 0.25
    differences = [measure.spot_check("table", places=10, seed=seed, folder=tmp_path) for seed in range(20)]
    assert set(differences) == {0.0, 0.25}, "half the draws include the place"
    gone = values["product"].clone()
    gone[0, 0] = math.nan
    store(tmp_path, product=gone)
    assert measure.spot_check("table", places=20, folder=tmp_path) == math.inf


def test_a_result_of_another_measurement_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="residual measure table makes it"):
        measure.spot_check("table", folder=tmp_path)
    store(tmp_path, product=torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"does not match table as it is now \(product differs\)"):
        measure.spot_check("table", folder=tmp_path)
    store(tmp_path, other=torch.zeros(4, 5))
    with pytest.raises(ValueError, match=r"\(other differs\)"):
        measure.spot_check("table", folder=tmp_path)


@torch.no_grad()
def test_ablated_heads_are_those_of_a_plain_loop():
    """Each head of three layers at its mean, with a full run of the model each time and scores summed by hand."""
    config = Config(3, 12, 2, 6, 20, 9, init_std=0.6, d_mlp=8, norm="rms", positions="rotary")
    model = Transformer(config, seed=2).double()
    tokens, period = repeats(3, 18, (4, 7), d_vocab=9, seed=1)
    looked_at = [(1, 0), (2, 1)]
    row = ablated(model, tokens, period, looked_at)

    def run(layer=None, head=None, mean=None):
        patterns = {}

        def tap(name, x):
            if name == f"blocks.{layer}.attn.z":
                x = x.clone()
                x[:, :, head] = mean
            if name.endswith("pattern"):
                patterns[int(name.split(".")[1])] = x.clone()
            return x

        logits = model(tokens, tap=tap)
        losses, matching = [], {place: [] for place in looked_at}
        for b, p in enumerate(period.flatten().tolist()):
            for i in range(p, 18):
                losses.append(F.cross_entropy(logits[b, i - 1], tokens[b, i]).item())
                for at, head_at in looked_at:
                    keys = range(i - p + 1, 0, -p)
                    matching[at, head_at].append(sum(patterns[at][b, head_at, i, j].item() for j in keys))
        return sum(losses) / len(losses), {k: sum(v) / len(v) for k, v in matching.items()}, patterns

    loss_before, matching_before, patterns = run()
    for layer in range(3):
        zs = []
        model(tokens, tap=lambda name, x, at=f"blocks.{layer}.attn.z", zs=zs: zs.append(x) or x if name == at else x)
        for head in range(2):
            loss, matching, _ = run(layer, head, zs[0][:, :, head].mean(dim=(0, 1)))
            effects = row(layer, head)
            assert effects["rise"].item() == pytest.approx(loss - loss_before, abs=1e-12)
            for (at, head_at), expected in matching.items():
                assert effects[f"prefix-matching {at}.{head_at}"].item() == pytest.approx(expected, abs=1e-12)
            previous = [patterns[layer][b, head, i, i - 1].item() for b in range(3) for i in range(1, 18)]
            assert effects["previous-token"].item() == pytest.approx(sum(previous) / len(previous), abs=1e-12)
    assert effects["prefix-matching 2.1"].item() == pytest.approx(matching_before[2, 1]), (
        "the last layer is too late to matter"
    )
