"""The runs behind the committed checkpoints: ``residual train gpt`` makes ``code/checkpoints/gpt.safetensors``.

An entry holds all that decides the weights: config, data, seed, steps, and the optimiser's numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from residual.errors import nearest
from residual.files.checkpoints import FOLDER, Card, Run, save, versions
from residual.methods.induction import in_context, repeats
from residual.methods.loss import next_token_loss
from residual.model import Config, Transformer
from residual.training.corpus import CACHE, Corpus, corpus
from residual.training.resume import History
from residual.training.train import share, train, windows

DATA: dict[str, Callable[[], Corpus]] = {"sotu": corpus, "sotu-2048": lambda: corpus(2048)}
"""Token streams for training and validation, by name."""


@dataclass(frozen=True)
class Experiment:
    """A run: the next token of random windows of a text, one context long; some of them random tokens that repeat."""

    about: str
    config: Config
    steps: int
    batch: int  # windows a step
    lr: float
    warmup: int = 50
    weight_decay: float = 0.01
    clip: float | None = 1.0
    data: str = "sotu"
    seed: int = 0  # of the weights before training, and of the windows
    stages: tuple[int, ...] = ()  # after these updates a checkpoint of its own is kept: NAME-STEPS
    evaluate_every: int = 50
    held_out: int = 64  # windows of the validation text that the loss is measured on
    repeats: int = 0  # of the windows of a batch, so many hold random tokens that repeat (data.repeats)
    periods: tuple[int, int] = (8, 32)  # the shortest and the longest of these


SMALL = Config(d_model=128, n_heads=4, d_head=32, n_ctx=128, d_vocab=512, positions="shortformer", init_std=0.05)

EXPERIMENTS = {
    "gpt": Experiment(
        "GPT-2 made small: three layers with LayerNorm and MLP on the State of the Union",
        Config(
            n_layers=3,
            d_model=128,
            n_heads=4,
            d_head=32,
            n_ctx=128,
            d_vocab=512,
            d_mlp=512,
            norm="layer",
            bias=True,
            tied=True,
        ),
        steps=1500,
        batch=32,
        lr=3e-3,
        warmup=100,
        stages=(30, 300),
    ),
    "attn-1l": Experiment(
        "One layer of attention and nothing else, eight heads, on the State of the Union",
        Config(n_layers=1, d_model=128, n_heads=8, d_head=16, n_ctx=64, d_vocab=512, init_std=0.05),
        steps=600,
        batch=32,
        lr=2e-2,
        warmup=20,
    ),
    "attn-2l": Experiment(
        "Two layers of attention and nothing else, as in the Framework paper, on the State of the Union",
        Config(n_layers=2, d_model=128, n_heads=8, d_head=16, n_ctx=128, d_vocab=512, init_std=0.05),
        steps=2000,
        batch=32,
        lr=1e-2,
        warmup=100,
        weight_decay=0.1,
    ),
    "one-layer": Experiment(
        "One layer of attention and nothing else, on the State of the Union in 2,048 tokens",
        Config(
            n_layers=1,
            d_model=128,
            n_heads=12,
            d_head=16,
            n_ctx=128,
            d_vocab=2048,
            positions="shortformer",
            init_std=0.05,
        ),
        steps=1500,
        batch=32,
        lr=1e-2,
        warmup=100,
        weight_decay=0.1,
        data="sotu-2048",
    ),
    "induction": Experiment(
        "Two layers of attention, half on the State of the Union and half on random tokens that repeat",
        replace(SMALL, n_layers=2),
        steps=1500,
        batch=32,
        repeats=16,
        lr=1e-2,
        warmup=100,
        weight_decay=0.1,
        evaluate_every=25,
        stages=(50, 100, 150, 200, 250, 300, 350, 400, 450, 500, 600, 800, 1000),
    ),
    "smeared": Experiment(
        "One layer of attention whose keys are mixed with the keys before them, on the data of induction",
        replace(SMALL, n_layers=1, smeared_keys=True),
        steps=1500,
        batch=32,
        repeats=16,
        lr=1e-2,
        warmup=100,
        weight_decay=0.1,
        evaluate_every=25,
    ),
    "unsmeared": Experiment(
        "The control of smeared: one layer of ordinary attention",
        replace(SMALL, n_layers=1),
        steps=1500,
        batch=32,
        repeats=16,
        lr=1e-2,
        warmup=100,
        weight_decay=0.1,
        evaluate_every=25,
    ),
}


def experiment(name: str) -> Experiment:
    """The entry of that name.

    Raises:
        KeyError: there is none; the message lists the nearest.
    """
    if name not in EXPERIMENTS:
        raise KeyError(f"no experiment {name!r}; {nearest(name, EXPERIMENTS)}")
    return EXPERIMENTS[name]


def run(
    name: str,
    *,
    folder: Path = FOLDER,
    steps: int | None = None,
    seed: int | None = None,
    accumulate: int = 1,
    device: str | None = None,
    dtype: torch.dtype = torch.float16,
) -> Run:
    """Train what ``name`` describes and write it to ``folder``, stages too. A killed run goes on where it was.

    Args:
        steps, seed: other ones than the entry's.
        device: a GPU where there is one, unless said otherwise.
        dtype: of the numbers in the file (float16: half the size; see ``checkpoints.save``).

    A run of other steps or from another seed is kept under a name of its own, ``NAME-steps100``, ``NAME-seed3``, and
    without stages: a trial does not take the place of what notebooks read.

    Raises:
        KeyError: no experiment of that name.
        ValueError: the same run is going on in another process, there is no GPU; see ``train`` for more.
        OSError: ``folder`` is not there and cannot be made.
    """
    entry = experiment(name)
    file = name + (f"-steps{steps}" if steps not in (None, entry.steps) else "")
    file += f"-seed{seed}" if seed not in (None, entry.seed) else ""
    entry = replace(entry, steps=steps or entry.steps, seed=entry.seed if seed is None else seed)
    command = f"residual train {name}" + (f" --steps {steps}" if steps else "") + (f" --seed {seed}" if seed else "")
    command += (f" --accumulate {accumulate}" if accumulate > 1 else "") + (" --full" if dtype == torch.float32 else "")
    where = _device(device)
    folder.mkdir(parents=True, exist_ok=True)  # that it cannot be made is better known before than after
    text = DATA[entry.data]()
    model = Transformer(entry.config, seed=entry.seed).to(where)
    length = entry.config.n_ctx + 1
    held_out = windows(text.validation, entry.held_out, length).to(where)
    history = History()

    def loss(step: int) -> Tensor:
        drawn = windows(text.train, entry.batch - entry.repeats, length, step=step, seed=entry.seed)
        if entry.repeats:
            seed = (entry.seed + 1 << 32) + step
            random, _ = repeats(entry.repeats, length, entry.periods, d_vocab=entry.config.d_vocab, seed=seed)
            drawn = torch.cat([drawn, share(random).to(drawn)])
        return next_token_loss(model, drawn)

    def evaluate() -> dict[str, Tensor]:
        found = {"validation": next_token_loss(model, held_out)}
        return found | in_context(model, held_out, entry.periods) if entry.repeats else found

    def keep(updates: int, file: str) -> Run:
        if updates not in history.evaluations:
            with torch.no_grad():
                history.evaluations[updates] = {name: value.item() for name, value in evaluate().items()}
        evaluations = {step: found for step, found in sorted(history.evaluations.items()) if step <= updates}
        card = Card(
            name=file,
            config=asdict(entry.config),
            data=entry.data,
            seed=entry.seed,
            steps=updates,
            training={
                **{
                    key: value for key, value in asdict(entry).items() if key not in ("config", "data", "seed", "about")
                },
                "about": entry.about,
                "tokens": updates * entry.batch * entry.config.n_ctx,
                "accumulate": accumulate,
                "threads": torch.get_num_threads(),
                "processes": int(os.environ.get("WORLD_SIZE", 1)),
                "device": where.type,
                "seconds": round(history.seconds),
            },
            losses=history.losses[:updates],
            metrics={
                "validation": round(evaluations[updates]["validation"], 5),
                **{
                    f"{measure} by step": {str(step): round(found[measure], 5) for step, found in evaluations.items()}
                    for measure in evaluations[updates]
                },
            },
            command=command,
            versions=versions(),
        )
        made = Run(model, card)
        save(made, folder / f"{file}.safetensors", dtype=dtype)
        return made

    def watch(updates: int) -> None:
        if updates in entry.stages and updates < entry.steps and file == name:
            keep(updates, f"{name}-{updates}")

    key = hashlib.sha256(repr((name, entry, accumulate)).encode()).hexdigest()[:12]
    state = CACHE / "runs" / f"{file}-{key}.safetensors"
    first = int(os.environ.get("RANK", 0)) == 0  # of the processes that torchrun started, only one writes
    with _alone(state) if first else contextlib.nullcontext():
        train(
            model,
            loss,
            steps=entry.steps,
            lr=entry.lr,
            warmup=min(entry.warmup, entry.steps - 1),
            weight_decay=entry.weight_decay,
            clip=entry.clip,
            accumulate=accumulate,
            watch=watch,
            evaluate=evaluate,
            evaluate_every=entry.evaluate_every,
            history=history,
            state=state,
            label=file,
        )
        if not first:
            return Run(model, Card(file, asdict(entry.config)))
        made = keep(entry.steps, file)
        state.unlink(missing_ok=True)
    return made


def sketch(values: list[float], width: int | None = None) -> str:
    """A curve in one line of text, ``▇▅▃▂▁``: means over equal stretches, from the lowest to the highest."""
    width = min(width or max(20, shutil.get_terminal_size().columns - 30), len(values))
    means = [
        sum(part) / len(part)
        for i in range(width)
        if (part := values[i * len(values) // width : (i + 1) * len(values) // width])
    ]
    low, high = min(means), max(means)
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * (mean - low) / (high - low or 1)))] for mean in means)


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Two runs of the same thing at once would write the same files."""
    state.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(state.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"this very run is going on in another process ({lock.lock_file} is held)") from None
    try:
        yield
    finally:
        lock.release()  # (the system does so when a process is killed)


def _device(asked: str | None) -> torch.device:
    if asked is None:
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("there is no GPU that this PyTorch can use; leave the device out, or say cpu")
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may differ from run to run
        torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.device(asked)
