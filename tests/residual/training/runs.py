"""A small run in a separate process, for tests that kill a run or start several: python runs.py OUT [options]."""

import argparse
import json
import os
import signal
from pathlib import Path

import torch

from residual import Config, Transformer
from residual.files.checkpoints import Card, Run, save
from residual.methods.loss import next_token_loss
from residual.training.train import History, train, windows

TOKENS = torch.randint(5, (400,), generator=torch.Generator().manual_seed(0))
CONFIG = Config(n_layers=1, d_model=8, n_heads=2, d_head=4, n_ctx=8, d_vocab=5, init_std=0.5)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--die-at", type=int, help="kill -9 this process after this many updates")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args(arguments)
    rank = int(os.environ.get("RANK", 0))
    model, history = Transformer(CONFIG, seed=rank), History()  # the weights of seed 0 must win

    def loss(step: int) -> torch.Tensor:
        if step == options.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return next_token_loss(model, windows(TOKENS, options.batch, 9, step=step))

    def evaluate() -> dict[str, torch.Tensor]:
        return {"validation": next_token_loss(model, windows(TOKENS, 16, 9, step=10**6))}

    train(
        model,
        loss,
        steps=20,
        lr=1e-2,
        warmup=3,
        weight_decay=0.1,
        clip=0.5,
        accumulate=options.accumulate,
        evaluate=evaluate,
        evaluate_every=5,
        history=history,
        state=options.state,
        state_every=4,
    )
    out = options.out.with_name(f"{options.out.name}-{rank}")
    save(Run(model, Card("small", {}, losses=history.losses)), out)
    record = {"losses": history.losses, "evaluations": history.evaluations}
    out.with_suffix(".history").write_text(json.dumps(record))


if __name__ == "__main__":
    main()
