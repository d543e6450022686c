"""The site's JavaScript computes what PyTorch computes: tokens, patterns, logits, heads off or frozen."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.files import checkpoints
from residual.files.tokens import tokenizer, words
from residual.taps import ablate, compose, freeze, record
from residual.training import corpus as data

ROOT = Path(__file__).resolve().parents[2]
NODE = shutil.which("node") or str(ROOT / ".venv/bin/node")
MODELS = ("induction", "smeared")


def ask(**cases):
    cases["tokenizer"] = str(ROOT / "code/residual/files/tokenizer.json")
    script = Path(__file__).with_name("run.mjs")
    done = subprocess.run([NODE, script], input=json.dumps(cases), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@settings(deadline=None, max_examples=8)
@given(st.lists(st.text(max_size=40), min_size=20, max_size=20))
def test_the_tokenizer_agrees_with_python(texts):
    texts = [*texts, "The State of the Union's 1,776  gold\n\n — don't  ", "Ünïcödé 🦉 … x" * 3]
    assert ask(texts=texts)["encoded"] == [tokenizer().encode(text).ids for text in texts]


def test_tokens_are_shown_as_in_python():
    shown = ask(ids=list(range(1, 512)))["shown"]
    python = [
        word.replace("<", "‹").replace(">", "›") if len(word) > 3 and word[0] == "<" else word
        for word in words(range(1, 512))
    ]
    assert shown == python


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_model_agrees_with_torch(name):
    """To 1e-4, on held-out text and random tokens; with heads off, with patterns computed again or kept."""
    model = checkpoints.load(name).model
    layers, file = model.config.n_layers, str(ROOT / f"code/checkpoints/{name}.safetensors")
    text = data.corpus().validation
    generator = torch.Generator().manual_seed(0)
    last = f"{layers - 1}.2"
    cases = [
        (text[500:564], [], False),
        (text[900:903], ["0.1"], False),
        (torch.randint(512, (64,), generator=generator), ["0.1", last], False),
        (text[2000:2040], ["0.1", "0.3", last], True),
    ]
    asked = [dict(file=file, tokens=t.tolist(), off=off, freeze=kept) for t, off, kept in cases]
    for (tokens, off, kept), got in zip(cases, ask(runs=asked)["runs"], strict=True):
        model(tokens[None], tap=(whole := record("*.pattern")))
        silence = [ablate(f"blocks.{h[0]}.attn.z", "zero", heads=int(h[2:])) for h in off]
        seen = record(["*.pattern", "*.attn.v"])
        logits = model(tokens[None], tap=compose(*([freeze(whole)] if kept else []), *silence, seen))[0]
        n = len(tokens)
        assert torch.allclose(torch.tensor(got["logits"]).view(n, -1), logits, atol=1e-4)
        for layer in range(layers):
            patterns = torch.tensor(got["patterns"][layer]).view(4, n, n)
            assert torch.allclose(patterns, seen[f"blocks.{layer}.attn.pattern"][0], atol=1e-4)
            v = seen[f"blocks.{layer}.attn.v"][0].transpose(0, 1) @ model.blocks[layer].attn.W_O  # head pos d_model
            assert torch.allclose(torch.tensor(got["lengths"][layer]), v.norm(dim=-1), atol=1e-3)
        expected = -logits.log_softmax(-1)[:-1].gather(1, tokens[1:, None])[:, 0]
        assert torch.allclose(torch.tensor(got["losses"]), expected, atol=1e-4)
        assert torch.allclose(torch.tensor(got["last"]), logits[-1].softmax(-1), atol=1e-5)
