"""A run computes what an explicit loop computes, for any family of experiments; its options do what they say."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F

from residual import Config, Transformer
from residual.experiments import language, othello, run
from residual.experiments.experiment import Experiment
from residual.files import checkpoints
from residual.methods.induction import repeats
from residual.training.corpus import Corpus
from residual.training.train import windows

STREAM = torch.randint(1, 5, (300,), generator=torch.Generator().manual_seed(0))
STREAM[0] = 0  # the start token, here alone
TINY = language.NextToken(
    "as small as possible",
    Config(2, 8, 2, 4, 8, 5),
    steps=6,
    batch=4,
    repeats=2,
    periods=(2, 4),
    start=True,
    lr=0.01,
    warmup=3,
    weight_decay=0.1,
    betas=(0.8, 0.95),
    clip=0.3,
    evaluate_every=4,
    held_out=2,
    data="tiny",
    seed=5,
)


@pytest.fixture(autouse=True)
def tiny(tmp_path, monkeypatch):
    monkeypatch.setitem(run.EXPERIMENTS, "tiny", TINY)
    monkeypatch.setitem(language.DATA, "tiny", lambda: Corpus(STREAM[:200], STREAM[200:]))
    monkeypatch.setattr(run, "CACHE", tmp_path / "cache")


def train(folder, name="tiny", **options):
    return run.run(name, folder=folder, dtype=torch.float32, **options)


def difference(first, second):
    return max((a - b).abs().max().item() for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_run_is_the_loop_written_out(tmp_path):
    """Half the batch text, half repeating random tokens, start tokens, AdamW, clipping, the rate rising and falling."""
    model = Transformer(TINY.config, seed=5)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.8, 0.95), weight_decay=0.1)
    losses = []
    for step in range(6):
        generator = torch.Generator().manual_seed(step)
        starts = torch.randint(200 - 8 + 1, (2, 1), generator=generator).flatten().tolist()
        text = torch.stack([torch.cat([STREAM[:1], STREAM[s : s + 8]]) for s in starts])
        random, _ = repeats(2, 9, (2, 4), d_vocab=5, start=0, seed=step)
        batch = torch.cat([text, random])
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, 5), batch[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        optimizer.param_groups[0]["lr"] = 0.01 * (step + 1) / 3 if step < 3 else 0.01 * (6 - step) / 3
        optimizer.step()
        losses.append(loss.item())
    trained = train(tmp_path)
    assert trained.card.losses == pytest.approx(losses, abs=1e-6)
    assert difference(trained.model, model) < 1e-6


@dataclass(frozen=True)
class Reversing(Experiment):
    """An experiment that reverses sequences: it shares only the module with language models."""

    data: str = "made up"

    def model(self):
        return Transformer(Config(1, 16, 2, 8, 4, 7, causal=False), seed=self.seed)

    def loss(self, model, step):
        tokens = windows(torch.arange(700) % 7, 8, 4, step=step)
        return F.cross_entropy(model(tokens).flatten(0, 1), tokens.flip(1).flatten())

    def evaluate(self, model):
        tokens = windows(torch.arange(700) % 7, 8, 4, step=10**6)
        right = model(tokens).argmax(-1) == tokens.flip(1)
        return {"share right": right.float().mean(), "loss": self.loss(model, 10**6)}

    def drawn(self, updates):
        return {"sequences": 8 * updates}


def test_another_family_is_trained_kept_and_described_alike(tmp_path, monkeypatch):
    entry = Reversing("backwards", steps=60, lr=0.03, warmup=5, stages=(30,), evaluate_every=20)
    monkeypatch.setitem(run.EXPERIMENTS, "reversing", entry)
    trained = train(tmp_path, "reversing")
    with torch.no_grad():
        right = entry.evaluate(trained.model)["share right"].item()
    assert trained.card.metrics["share right"] == right > 0.6, "the first measure is the headline number"
    assert list(trained.card.metrics["loss by step"]) == ["0", "20", "30", "40", "60"]
    assert trained.card.training["sequences"] == 480 and trained.card.training["stages"] == (30,)
    stage = checkpoints.load(tmp_path / "reversing-30")
    assert stage.card.training["sequences"] == 240 and not stage.model.config.causal
    assert difference(checkpoints.load(tmp_path / "reversing").model, trained.model) == 0


def test_bfloat16_is_an_option_that_changes_the_last_digits_and_is_written_down(tmp_path):
    plain, half = train(tmp_path / "plain"), train(tmp_path / "half", bf16=True)
    assert half.card.command == "residual train tiny --bf16 --full" and half.card.training["bf16"] is True
    assert "bf16" not in plain.card.training and "compile" not in plain.card.training
    assert half.card.losses != plain.card.losses
    assert half.card.losses == pytest.approx(plain.card.losses, rel=2**-7), "bfloat16 has 8 significant bits"
    assert all(weight.dtype == torch.float32 for weight in half.model.parameters())
    assert 0 < difference(half.model, plain.model) < 0.02
    assert train(tmp_path / "again").card.sha256 == plain.card.sha256


@pytest.mark.parametrize("config", [TINY.config, language.EXPERIMENTS["house"].config])
def test_torch_compile_sees_each_model_as_one_graph(config):
    """Then no part of a step falls back to slow code. No kernel is compiled here: that takes a minute."""
    model = Transformer(replace(config, n_layers=1, d_model=8, n_heads=2, d_head=4, n_ctx=8))
    tokens = torch.randint(model.config.d_vocab, (2, 8))
    logits = model(tokens)
    traced = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(traced(tokens), logits, atol=1e-6)


def test_compile_without_a_compiler_is_a_readable_error(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (str(tmp_path / "no-compiler"),))
    monkeypatch.setattr("torch._inductor.config.fx_graph_cache", False)
    with pytest.raises(ValueError, match=r"torch\.compile does not work here; leave compile out"):
        train(tmp_path, compiled=True)
    assert not list(tmp_path.glob("*.safetensors"))


def test_othello_is_described_and_cannot_be_trained_yet(tmp_path):
    entry = othello.EXPERIMENTS["othello"]
    assert sum(weight.numel() for weight in entry.model().parameters()) == 6_364_989
    assert entry.drawn(entry.steps) == {"games": 11_439_104}
    with pytest.raises(ValueError, match="othello cannot be trained yet: the code that draws random legal games"):
        train(tmp_path, "othello")
    assert not list(tmp_path.glob("*.safetensors"))
