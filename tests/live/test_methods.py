"""The methods that run in the reader's browser give the numbers of the library: lens, terms, patched heads, edges."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import torch

from residual.files import checkpoints
from residual.methods.attribution import attribute, decompose, logit_lens
from residual.methods.edges import patch_edges, readers, writers, written
from residual.methods.sweeps import patch_heads
from residual.model import Transformer
from residual.taps import record

ROOT = Path(__file__).resolve().parents[2]
NODE = shutil.which("node") or str(ROOT / ".venv/bin/node")
CLEAN, CORRUPTED = "From year to year, from year to", "From day to day, from day to"


@cache
def load(name: str) -> Transformer:
    return checkpoints.load(name).model


def ask(name: str, asked: str, tokens: torch.Tensor, **more):
    question = dict(
        file=str(ROOT / f"code/checkpoints/{name}.safetensors"), asked=asked, tokens=tokens.tolist(), **more
    )
    script = Path(__file__).with_name("methods.mjs")
    done = subprocess.run([NODE, script], input=json.dumps(question), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def house(text: str) -> torch.Tensor:
    return load("house").vocabulary.tokens(text)[0][0]


@pytest.mark.parametrize("n", [1, 9, 24])
@torch.no_grad()
def test_a_model_with_norms_and_neurons_agrees_with_torch(n: int) -> None:
    """To 1e-3 in logits of size 10, at random tokens: patterns, z, what MLPs write, logits, the lens; in a second."""
    model = load("house")
    tokens = torch.randint(2048, (n,), generator=torch.Generator().manual_seed(n))
    got = ask("house", "run", tokens)
    logits = model(tokens[None], tap=(seen := record(["*.pattern", "*.attn.z", "*.mlp_out"])))[0]
    assert torch.allclose(torch.tensor(got["logits"]).view(n, -1), logits, atol=1e-3)
    assert torch.allclose(torch.tensor(got["p"]), logits[-1].softmax(-1), atol=1e-5)
    assert got["milliseconds"] < 1000
    assert got["top"] == logits[-1].topk(5).indices.tolist()
    for layer in range(model.config.n_layers):
        at = f"blocks.{layer}."
        assert torch.allclose(
            torch.tensor(got["patterns"][layer]).view(-1, n, n).float(), seen[at + "attn.pattern"][0], atol=1e-4
        )
        assert torch.allclose(torch.tensor(got["z"][layer]), seen[at + "attn.z"].flatten(), atol=1e-3)
        assert torch.allclose(torch.tensor(got["mlp"][layer]), seen[at + "mlp_out"].flatten(), atol=1e-3)
    assert torch.allclose(torch.tensor(got["lens"]), logit_lens(model, tokens[None], positions=-1)[:, 0], atol=1e-3)


@pytest.mark.parametrize("position", [0, 5])
@torch.no_grad()
def test_terms_agree_and_sum_to_the_logit(position: int) -> None:
    model, tokens = load("house"), house("The children of Israel went out of the land of")
    logits = model(tokens[None])[0, position]
    token = int(logits.argmax())
    got = {term["label"]: term["value"] for term in ask("house", "terms", tokens, position=position, token=token)}
    values = attribute(decompose(model, tokens[None]), token)
    assert sum(got.values()) == pytest.approx(logits[token].item(), abs=1e-3)
    expected = {label: values[label][0, position].item() for label in values.labels}
    biases = sum(value for label, value in expected.items() if "b_" in label or label.endswith(".b"))
    assert got.pop("biases") == pytest.approx(biases, abs=1e-3)
    assert len(got) == 2 + 4 * 8 + 4
    for label, value in got.items():
        assert value == pytest.approx(expected[label], abs=1e-3), label


@pytest.mark.parametrize("texts", [(CORRUPTED, CLEAN), (CLEAN, CORRUPTED)], ids=["denoising", "noising"])
@torch.no_grad()
def test_patching_every_head_at_every_position_agrees_with_the_library(texts: tuple[str, str]) -> None:
    model, (base, source) = load("house"), [house(text) for text in texts]
    answer = int(house(" year")[0])
    expected = patch_heads(model, source[None], base[None], lambda logits: logits[0, answer])
    got = torch.full(expected.shape, torch.nan)
    for site in ask("house", "sweep", base, other=source.tolist(), token=answer):
        got[site["layer"], site["head"], site["position"]] = site["logit"]
    assert torch.allclose(got, expected, atol=1e-3)


@torch.no_grad()
def test_every_edge_agrees_with_patch_edges() -> None:
    """The loss of the second half with an edge replaced by the writer's mean over the positions of the text."""
    model, once = load("induction"), 100 + torch.arange(9) * 61 % 311
    tokens = torch.cat([once, once])[None]

    def loss(tap=None) -> float:
        nats = -model(tokens, tap=tap)[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
        return nats[len(once) :].mean().item()  # the second half without its first token

    means = {name: x.mean(dim=1, keepdim=True).expand_as(x) for name, x in written(model, tokens).items()}
    got = ask("induction", "edges", tokens[0])
    assert got["whole"] == pytest.approx(loss(), abs=1e-4)
    edges = {(edge["writer"], edge["reader"]): edge["score"] for edge in got["scores"]}
    c = model.config
    known = [(w, r) for r in readers(c) for w in writers(c) if r == "logits" or w == "embed" or w.split(".")[0] < r[0]]
    assert set(edges) == set(known) and len(known) == 81
    for edge, score in edges.items():
        assert score == pytest.approx(loss(patch_edges(model, [edge], means)) - loss(), abs=1e-3), edge
