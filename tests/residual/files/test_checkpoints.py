"""Checkpoints come back as saved; damaged, absurd or mismatched files are refused before any tensor is used."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import dataclass, replace

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from residual import Config, Transformer
from residual.cli import main
from residual.files.blobs import CheckpointError
from residual.files.checkpoints import KINDS, Card, Kind, Run, load, save

CONFIG = Config(n_layers=1, d_model=6, n_heads=2, d_head=3, n_ctx=5, d_vocab=7)
TOKENS = torch.tensor([[1, 2, 6]])


def saved(folder, seed=0, **options):
    model = Transformer(CONFIG, seed=seed)
    card = Card("small", {}, data="none", seed=seed, steps=3, losses=[2.5, 1.25], command="residual train small")
    return model, save(Run(model, card), folder / "small", **options)


def rewrite(path, blob=None, **fields):
    """Write other weights or other card fields with a matching hash, as a careless or hostile user could."""
    if blob is not None:
        path.write_bytes(blob)
        fields.setdefault("sha256", hashlib.sha256(blob).hexdigest())
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(card | fields))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([torch.float32, torch.float64]))
def test_the_same_weights_come_back(tmp_path_factory, seed, dtype):
    folder = tmp_path_factory.mktemp("checkpoints")
    model = Transformer(CONFIG, seed=seed).to(dtype)
    path = save(Run(model, Card("x", {}, losses=[3.0, 2.0], steps=2)), folder / "x", dtype=dtype)
    back = load(path)
    assert torch.equal(back.model(TOKENS), model(TOKENS))
    assert back.model.config == CONFIG and back.card.losses == [3.0, 2.0] and back.card.steps == 2
    before = path.read_bytes(), path.with_suffix(".json").read_bytes()
    save(back, path, dtype=dtype)
    assert before == (path.read_bytes(), path.with_suffix(".json").read_bytes()), "saving again gives the same bytes"
    assert len(list(folder.iterdir())) == 2, "no temporary files are left"


def test_halves_keep_eleven_bits_and_half_the_bytes(tmp_path):
    model, path = saved(tmp_path, dtype=torch.float16)
    for weight, half in zip(model.parameters(), load(path).model.parameters(), strict=True):
        assert half.dtype == torch.float32
        assert ((weight - half).abs() <= weight.abs() * 2**-11 + 2**-25).all()
    numbers = sum(weight.numel() for weight in model.parameters())
    assert 2 * numbers < path.stat().st_size < 2 * numbers + 700
    with torch.no_grad():
        model.W_U[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"W_U has entries too large for torch.float16; nothing was saved"):
        save(Run(model, Card("x", {})), tmp_path / "x", dtype=torch.float16)


def test_the_card_says_what_the_weights_are(tmp_path):
    _, path = saved(tmp_path)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["config"]["d_model"] == 6 and card["seed"] == 0 and card["losses"] == [2.5, 1.25]
    assert card["shapes"]["blocks.0.attn.W_O"] == [2, 3, 6]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_damaged_byte_goes_unnoticed(tmp_path_factory, data):
    _, path = saved(tmp_path_factory.mktemp("damage"))
    blob = path.read_bytes()
    place = data.draw(st.integers(0, len(blob) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(blob[:place])
    else:
        path.write_bytes(blob[:place] + bytes([blob[place] ^ data.draw(st.integers(1, 255))]) + blob[place + 1 :])
    with pytest.raises(CheckpointError, match=r"SHA-256 differs.*make it again: residual train small"):
        load(path)


def header(entries, tail=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + tail


@pytest.mark.parametrize(
    "blob, says",
    [
        (b"1234567", "it has 7 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", r"claims a header of 9,223,372,036,854,775,808 bytes; 2 follow"),
        (header([]), "its header cannot be read"),
        (struct.pack("<Q", 3) + b"{{{", "its header cannot be read"),
        (header({"W_E": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, b"8 bytes."), "cannot be"),
        (header({"W_E": {"dtype": "F32", "shape": [-2], "data_offsets": [0, -8]}}), "has shape"),
        (header({"W_E": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"4byt"), "its tensors need 8 bytes"),
        (header({"W_E": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"8 bytes."), "cannot be in bytes 4"),
        (header({"W_E": {"dtype": "odd", "shape": [1], "data_offsets": [0, 4]}}, b"4byt"), "W_E of type odd"),
    ],
)
def test_absurd_files_are_refused_even_where_the_hash_fits(tmp_path, blob, says):
    _, path = saved(tmp_path)
    rewrite(path, blob)
    with pytest.raises(CheckpointError, match=says):
        load(path)


def test_weights_of_another_model_are_refused(tmp_path):
    model, path = saved(tmp_path)
    other = Transformer(replace(CONFIG, d_model=8))
    rewrite(path, safetensors.torch.save(dict(other.named_parameters())))
    with pytest.raises(CheckpointError, match=r"the file has shape \[7, 8\] for W_E; its card has \[7, 6\]"):
        load(path)
    rewrite(path, safetensors.torch.save({"W_E": model.W_E}))
    with pytest.raises(CheckpointError, match=r"the file has shape none for W_U; its card has \[6, 7\]"):
        load(path)
    rewrite(path, safetensors.torch.save({name: w.double() for name, w in model.named_parameters()}))
    with pytest.raises(CheckpointError, match=r"W_E is torch.float64; the card says F32"):
        load(path)
    rewrite(path, safetensors.torch.save({name: w * torch.nan for name, w in model.named_parameters()}))
    with pytest.raises(CheckpointError, match=r"W_E has entries that are not finite"):
        load(path)


@pytest.mark.parametrize(
    "fields, says",
    [
        (dict(config={"n_layers": 10**9}), "a model of 1000000000 layers cannot consist of 5 tensors"),
        (dict(config={"n_layer": 1}), "Config has no field 'n_layer'"),
        (dict(config={"n_layers": 1, "d_model": 10**12}), r"the card has shape \[.*\] for W_E"),
        (dict(config={"n_layers": 1, "d_model": 10**30}), "this config does not make a model"),
        (dict(config=[]), "config is"),
        (dict(shapes={"W_E": [10**30]}), "the shape of W_E is"),
        (dict(shapes={"W_E": "7 6"}), "the shape of W_E is '7 6'"),
        (dict(shapes={"W_E": [7, 6]}), "the card has shape none for W_U; its config has"),
        (dict(steps="many"), "steps is 'many'"),
        (dict(steps=-5), "steps is -5, which is below zero"),
        (dict(steps=True), "steps is True"),
        (dict(seed=False), "seed is False"),
        (dict(losses=[True]), "losses has True, which is not a number"),
        (dict(losses=[10**400]), "losses has 10{59,}, which is not a number"),
        (dict(metrics={"validation": math.nan}), "validation has nan, which is not a number"),
        (dict(metrics={"validation": "low"}), "validation has 'low', which is not a number"),
        (dict(metrics={"validation": None}), "validation has None, which is not a number"),
        (dict(metrics={"validation": [1.0, True]}), "validation has True, which is not a number"),
        (dict(training={"lr": math.inf}), "lr has inf, which is not a number"),
        (dict(training={"betas": [0.9, [{"x": math.nan}]]}), "betas has nan, which is not a number"),
        (dict(config={"init_std": math.nan}), "init_std has nan, which is not a number"),
        (dict(versions={"torch": 2}), "the version of torch is 2"),
        (dict(losses=[2.5, "low"]), "losses has 'low', which is not a number"),
        (dict(losses=[2.5, math.nan]), "losses has nan, which is not a number"),
        (dict(metrics={"validation by step": {"3": None}}), "validation by step has None, which is not a number"),
        (dict(extra=1), "unknown fields extra"),
        (dict(dtype="I64"), "dtype is 'I64'; weights can be F16, F32, F64"),
        (dict(kind=3), "kind is 3"),
        (dict(kind="transformers"), "the kind 'transformers' is unknown; choose from transformer"),
        (
            dict(kind="sae", module="residual.methods.saes"),
            "the kind 'sae' .* module residual.methods.saes: import it first",
        ),
        (dict(kind="result"), "is the card of a result: results.load_result reads it"),
    ],
)
def test_a_card_that_fits_no_model_is_refused(tmp_path, fields, says):
    _, path = saved(tmp_path)
    rewrite(path, **fields)
    with pytest.raises(CheckpointError, match=says):
        load(path)


# ---- Kinds


@dataclass
class ToyConfig:
    n_features: int
    d_hidden: int = 2
    act: str = "relu"


class Toy(torch.nn.Module):
    """A toy model of superposition: features through a bottleneck and back with the same weights."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        if config.act != "relu":
            raise ValueError(f"no activation {config.act!r}; choose from relu")
        self.config = config
        self.W = torch.nn.Parameter(torch.randn(config.n_features, config.d_hidden))
        self.tied = self.W  # a second name for the same weight
        self.b = torch.nn.Parameter(torch.zeros(config.n_features))
        self.register_buffer("seen", torch.ones(config.n_features))
        self.register_buffer("scratch", torch.ones(3), persistent=False)

    def forward(self, x):
        return torch.relu(x @ self.W @ self.tied.T + self.b) * self.seen


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, "toy", Kind(ToyConfig, Toy))
    model = Toy(ToyConfig(n_features=5))
    with torch.no_grad():
        model.seen.copy_(torch.arange(5.0))
    card = Card("small-toy", {}, data="sparse features", steps=7, command="residual train small-toy")
    return model, save(Run(model, card), tmp_path / "small-toy")


def test_a_model_of_another_kind_comes_back(toy):
    model, path = toy
    back = load(path)
    x = torch.rand(4, 5)
    assert type(back.model) is Toy and back.model.config == model.config
    assert torch.equal(back.model(x), model(x)), "the buffer is saved too"
    assert back.card.kind == "toy" and back.card.module == __name__
    assert back.card.shapes == {"W": [5, 2], "b": [5], "seen": [5]}, "the tied weight once, no scratch buffer"
    back.model.W.data.zero_()
    assert not back.model.tied.any(), "still tied"


def test_a_model_of_another_kind_is_listed_and_shown(toy):
    _, path = toy
    listed = CliRunner().invoke(main, ["list", "--out", str(path.parent)])
    assert "small-toy 7 steps" in " ".join(listed.output.split())
    shown = CliRunner().invoke(main, ["show", "small-toy", "--out", str(path.parent)])
    assert "ToyConfig(n_features=5, d_hidden=2, act='relu')" in shown.output and "15 as F32" in shown.output
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert "SHA-256 differs" in CliRunner().invoke(main, ["show", "small-toy", "--out", str(path.parent)]).output


def test_a_model_of_a_kind_that_nothing_here_defines_is_shown_from_its_card(toy, monkeypatch):
    _, path = toy
    monkeypatch.delitem(KINDS, "toy")
    show = ["show", "small-toy", "--out", str(path.parent)]
    shown = CliRunner().invoke(main, show)
    assert shown.exit_code == 0, shown.output
    assert f"n_features 5, d_hidden 2, act relu (kind toy, defined by {__name__}: not" in shown.output
    assert "20 as F32, buffers included" in shown.output and "verified" in shown.output
    rewrite(path, shapes={"W": [5, 2], "b": [5], "seen": [6]})
    assert "the file has shape [5] for seen; its card has [6]" in CliRunner().invoke(main, show).output
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert "SHA-256 differs" in CliRunner().invoke(main, show).output


@pytest.mark.parametrize(
    "fields, says",
    [
        (dict(config={"n_features": 6}), r"the card has shape \[5, 2\] for W; its config has \[6, 2\]"),
        (dict(config={"n_feature": 5}), "n_feature"),
        (dict(config={"n_features": 10**15}), r"the card has shape \[.*\] for W"),
        (dict(config={"n_features": "5"}), "this config does not make a model"),
        (dict(config={"n_features": 5, "act": "gelu"}), "no activation 'gelu'; choose from relu"),
        (dict(kind="transformer"), "Config has no field 'n_features'"),
    ],
)
def test_a_card_of_another_kind_that_fits_no_model_is_refused(toy, fields, says):
    _, path = toy
    rewrite(path, **fields)
    with pytest.raises(CheckpointError, match=says):
        load(path)


def test_a_kind_that_no_module_defines_is_an_error(toy, monkeypatch, tmp_path):
    model, path = toy
    monkeypatch.delitem(KINDS, "toy")
    with pytest.raises(CheckpointError, match=rf"the kind 'toy' is unknown; .* the module {__name__}: import it first"):
        load(path)
    with pytest.raises(ValueError, match=r"Toy is of no known kind; add its kind to checkpoints\.KINDS"):
        save(Run(model, Card("x", {})), tmp_path / "x")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_kind_is_two_classes():
    """A function that makes the model would be enough for ``load``, but ``save`` looks up a kind by its class."""
    with pytest.raises(TypeError, match="the module of a kind must be a class; this is <function"):
        Kind(ToyConfig, lambda config: Toy(config))
    with pytest.raises(TypeError, match="the config of a kind must be a class"):
        Kind(lambda **fields: ToyConfig(**fields), Toy)


def test_models_that_could_not_be_loaded_are_not_saved(toy, tmp_path):
    model, _ = toy
    model.none = torch.nn.Parameter(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"none is empty \(shape \[0, 3\]\).* nothing was saved"):
        save(Run(model, Card("x", {})), tmp_path / "x")
    del model.none
    model.register_parameter("__metadata__", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(ValueError, match="the name '__metadata__'; nothing was saved"):
        save(Run(model, Card("x", {})), tmp_path / "x")
    assert not (tmp_path / "x.safetensors").exists()


def test_weights_that_share_memory_are_saved_by_value(toy, tmp_path):
    model, _ = toy
    model.b = torch.nn.Parameter(model.W.detach()[:, 0])  # a view of another weight
    back = load(save(Run(model, Card("x", {})), tmp_path / "x"))
    assert torch.equal(back.model.b, model.b) and torch.equal(back.model.W, model.W)


def test_whole_numbers_are_refused_as_weights(toy, tmp_path):
    model, _ = toy
    model.seen = model.seen.long()
    with pytest.raises(ValueError, match=r"seen is torch.int64; .* nothing was saved"):
        save(Run(model, Card("x", {})), tmp_path / "x")


def test_a_card_without_a_kind_is_of_a_transformer(tmp_path):
    model, path = saved(tmp_path)
    card = json.loads(path.with_suffix(".json").read_text())
    del card["kind"], card["module"]
    path.with_suffix(".json").write_text(json.dumps(card))
    assert torch.equal(load(path).model(TOKENS), model(TOKENS))


@pytest.mark.parametrize("name", ["gpt", "one-layer-seed3"])
def test_a_committed_model_has_its_vocabulary(name):
    run = load(name)
    tokens, mask = run.model.vocabulary.tokens("The Senate")
    assert mask.all() and run.model.vocabulary.text(tokens[0]) == "The Senate"
    assert len(run.model.vocabulary) == run.model.config.d_vocab


def test_a_model_of_other_data_has_no_vocabulary(tmp_path):
    assert getattr(load(saved(tmp_path)[1]).model, "vocabulary", None) is None


def test_a_card_that_could_not_be_read_is_not_written(tmp_path):
    for number in (math.nan, math.inf, True, "low"):
        for fields in (dict(losses=[2.5, number]), dict(metrics={"validation": number})):
            with pytest.raises(ValueError, match="which is not a number"):
                save(Run(Transformer(CONFIG), Card("small", {}, **fields)), tmp_path / "small")
    for fields, says in [(dict(steps=-1), "steps is -1"), (dict(data="\ud800"), "half a character")]:
        with pytest.raises(ValueError, match=says):
            save(Run(Transformer(CONFIG), Card("small", {}, **fields)), tmp_path / "small")
    assert not list(tmp_path.iterdir())


def test_invalid_and_missing_cards_are_errors(tmp_path):
    _, path = saved(tmp_path)
    for text, says in [
        ("{", "is not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "it lacks config, dtype, name"),
    ]:
        path.with_suffix(".json").write_text(text)
        with pytest.raises(CheckpointError, match=says):
            load(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*small.json"):
        load(path)
    with pytest.raises(FileNotFoundError, match=r"there is no .*smaall.safetensors; .* holds small"):
        load(tmp_path / "smaall")
