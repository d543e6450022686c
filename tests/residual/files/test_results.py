"""Results come back bit for bit as saved; damaged results are refused."""

from __future__ import annotations

import hashlib
import json
import math

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.files import checkpoints
from residual.files.blobs import CheckpointError
from residual.files.cards import ResultCard
from residual.files.results import load_result, save_result

VALUES = {
    "scores": torch.tensor([[0.5, math.nan], [-math.inf, 2.0]]),
    "exact": torch.tensor([1 / 3], dtype=torch.float64),
    "tokens": torch.tensor([2**40, -1]),
    "mask": torch.tensor([True, False, True]),
    "loss": torch.tensor(1.5),
}


def saved(folder, values=VALUES):
    card = ResultCard("heads", about="Scores of heads", command="residual measure heads", seconds=61.5)
    card.settings = {"seed": 3, "texts": 64}
    return save_result(folder / "heads", values, card)


def test_the_same_values_come_back(tmp_path):
    path = saved(tmp_path)
    values, card = load_result(path)
    for name, value in VALUES.items():
        torch.testing.assert_close(values[name], value, rtol=0, atol=0, equal_nan=True)
        assert values[name].dtype == value.dtype and values[name].shape == value.shape
    assert values.keys() == VALUES.keys()
    assert (card.about, card.seconds, card.settings) == ("Scores of heads", 61.5, {"seed": 3, "texts": 64})
    assert card.kind == "result" and card.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    before = path.read_bytes(), path.with_suffix(".json").read_bytes()
    save_result(path, values, card)
    assert before == (path.read_bytes(), path.with_suffix(".json").read_bytes()), "saving again gives the same bytes"


def test_views_are_saved_by_value(tmp_path):
    whole = torch.arange(6.0).reshape(2, 3)
    values = {"whole": whole, "turned": whole.T, "row": whole[1], "spread": whole[:1, :1].expand(2, 2)}
    back, _ = load_result(saved(tmp_path, values))
    assert all(torch.equal(back[name], values[name]) for name in values)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_damaged_byte_goes_unnoticed(tmp_path_factory, data):
    path = saved(tmp_path_factory.mktemp("damage"))
    blob = path.read_bytes()
    place = data.draw(st.integers(0, len(blob) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(blob[:place])
    else:
        path.write_bytes(blob[:place] + bytes([blob[place] ^ data.draw(st.integers(1, 255))]) + blob[place + 1 :])
    with pytest.raises(CheckpointError, match=r"SHA-256 differs.*make it again: residual measure heads"):
        load_result(path)


def rewrite(path, blob=None, **fields):
    """Write other values or other card fields with a matching hash."""
    if blob is not None:
        path.write_bytes(blob)
        fields["sha256"] = hashlib.sha256(blob).hexdigest()
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(card | fields))


@pytest.mark.parametrize(
    "blob, fields, says",
    [
        (None, dict(kind="transformer"), "is the card of a checkpoint: checkpoints.load reads it"),
        (None, dict(seconds="long"), "seconds is 'long'"),
        (None, dict(seconds=math.nan), "seconds has nan, which is not a number"),
        (None, dict(seconds=-1), "seconds is -1, which is below zero"),
        (None, dict(seconds=True), "seconds is True"),
        (None, dict(settings={"at": [math.inf]}), "at has inf, which is not a number"),
        (None, dict(extra=1), "unknown fields extra"),
        (None, dict(shapes={"scores": [2, 2]}), r"the file has shape \[1\] for exact; its card has none"),
        (None, dict(dtypes={}), "exact is torch.float64; the card says nothing"),
        (None, dict(dtypes={"exact": ["F64"]}), r"exact is torch.float64; the card says \['F64'\]"),
        (b"short", {}, "it has 5 bytes"),
        (safetensors.torch.save({"scores": torch.ones(3)}), {}, r"has shape none for exact; its card has \[1\]"),
    ],
)
def test_another_card_or_file_is_refused(tmp_path, blob, fields, says):
    path = saved(tmp_path)
    rewrite(path, blob, **fields)
    with pytest.raises(CheckpointError, match=says):
        load_result(path)


def test_a_result_is_not_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"is the card of a result: results\.load_result reads it"):
        checkpoints.load(saved(tmp_path))


@pytest.mark.parametrize(
    "values, says",
    [
        ({}, "there is nothing to save"),
        ({"scores": [1.0]}, "scores is a list; a result holds tensors"),
        ({"__metadata__": torch.ones(1)}, "the name '__metadata__'; nothing was saved"),
        ({"\ud800": torch.ones(1)}, r"the name '\\ud800'; nothing was saved"),
        ({1: torch.ones(1)}, "the name 1; nothing was saved"),
        ({"scores": torch.ones(2, dtype=torch.complex64)}, r"scores is torch.complex64 \[2\]; a result holds"),
        ({"scores": torch.ones(0, 3)}, r"scores is torch.float32 \[0, 3\]; .* none empty"),
    ],
)
def test_values_that_cannot_be_saved_are_errors(tmp_path, values, says):
    with pytest.raises(ValueError, match=says):
        saved(tmp_path, values)
    with pytest.raises(ValueError, match="seconds has nan, which is not a number"):
        save_result(tmp_path / "x", VALUES, ResultCard("x", seconds=math.nan))
    assert not list(tmp_path.iterdir())


def test_a_missing_result_is_an_error(tmp_path):
    saved(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no .*haeds.safetensors; .* holds heads"):
        load_result(tmp_path / "haeds")
