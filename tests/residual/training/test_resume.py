"""Killed runs, runs in several processes and batches in several turns end with the same weights."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from residual import Config, Transformer
from residual.methods.loss import next_token_loss
from residual.training.train import History, share, train, windows

SCRIPT = Path(__file__).with_name("runs.py")
runs = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
TOKENS, CONFIG = runs.TOKENS, runs.CONFIG


def start(*arguments, prefix=()):
    """Start a run in a separate process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    command = [sys.executable, *prefix, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def here(*arguments):
    runs.main([str(argument) for argument in arguments])


def finished(out, rank=0):
    """Return the bytes of a run's weights, its losses and its evaluations."""
    record = json.loads(Path(f"{out}-{rank}.history").read_text())
    return Path(f"{out}-{rank}.safetensors").read_bytes(), record["losses"], record["evaluations"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run from beginning to end in one process."""
    out = tmp_path_factory.mktemp("whole") / "run"
    here(out)
    return finished(out)


def test_a_killed_run_resumes_to_the_same_bits(whole, tmp_path):
    """Killed with kill -9 two updates after the third saved state, it resumes in another process and finishes."""
    out, state = tmp_path / "run", tmp_path / "state"
    killed = start(out, "--state", state, "--die-at", 14)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert state.exists() and not Path(f"{out}-0.safetensors").exists()
    here(out, "--state", state)
    assert finished(out) == whole
    here(out, "--state", state)  # a finished run has nothing left to do
    assert finished(out) == whole


def test_two_processes_give_the_result_of_one(whole, tmp_path):
    """torchrun with gloo: half of each batch in each of two processes, whose initial models differ."""
    out = tmp_path / "run"
    prefix = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    together = start(out, "--state", tmp_path / "state", prefix=prefix)
    assert together.returncode == 0, together.stderr
    first, second = finished(out, 0), finished(out, 1)
    assert first == second, "both processes have the same weights, to the bit"
    assert first[1] == pytest.approx(whole[1], abs=1e-6)
    for step, values in whole[2].items():
        assert first[2][step]["validation"] == pytest.approx(values["validation"], abs=1e-6)


def test_a_batch_in_turns_gives_the_result_of_the_whole_batch(whole, tmp_path):
    out = tmp_path / "run"
    here(out, "--accumulate", 4)
    assert finished(out)[1] == pytest.approx(whole[1], abs=1e-6)
    with pytest.raises(ValueError, match="a batch of 8 cannot be cut into 3 equal shares"):
        here(out, "--accumulate", 3)


def small_run(state, steps=6, lr=0.01, config=CONFIG, **options):
    model = Transformer(config)
    train(
        model,
        lambda step: next_token_loss(model, windows(TOKENS, 4, 9, step=step)),
        steps=steps,
        lr=lr,
        state=state,
        state_every=2,
        **options,
    )
    return model


def test_a_state_of_another_run_or_a_damaged_one_is_refused(tmp_path):
    state = tmp_path / "run.state"
    small_run(state)
    with pytest.raises(ValueError, match=r"run.state is from a run with lr = 0.01, not 0.02"):
        small_run(state, lr=0.02)
    with pytest.raises(ValueError, match=r"from another model: its W_E has shape \[5, 8\], not \[5, 12\]"):
        small_run(state, config=Config(1, 12, 2, 4, 8, 5))
    data = state.read_bytes()
    for damaged in (data[:-100], data[:20], b"", data[:500] + b"\1" + data[501:]):
        state.write_bytes(damaged)
        with pytest.raises(ValueError, match="is corrupt or truncated; delete it"):
            small_run(state)


def test_evaluations_are_kept_and_take_no_part_in_training():
    plain, seen, history = small_run(None), [], History()
    watched = small_run(None, evaluate=lambda: seen.append(torch.is_grad_enabled()) or {"n": len(seen)},
                        evaluate_every=4, history=history)  # fmt: skip
    assert history.evaluations == {0: {"n": 1}, 4: {"n": 2}, 6: {"n": 3}} and not any(seen)
    assert len(history.losses) == 6 and history.seconds > 0
    assert torch.equal(plain.W_E, watched.W_E)


def test_a_clipped_gradient_has_the_requested_length():
    """By plain sums: AdamW's first moment after one update is (1 - β₁) times the clipped gradient."""
    model = torch.nn.Module()
    model.x = torch.nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    gradients = []
    model.x.register_post_accumulate_grad_hook(lambda x: gradients.append(x.grad))
    train(model, lambda _: (model.x**2).sum() / 2, steps=1, lr=0.1, clip=1.0)
    torch.testing.assert_close(gradients[0], torch.tensor([0.6, 0.8], dtype=torch.float64))


def test_outside_of_training_a_batch_is_whole():
    batch = torch.arange(10)
    assert share(batch) is batch
    assert len(windows(TOKENS, 6, 9)) == 6
