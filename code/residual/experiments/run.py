"""Training of an experiment: ``residual train gpt`` makes ``code/checkpoints/gpt.safetensors`` and its card.

An entry determines the weights up to the options of a run, which are part of the card's command. A killed run resumes
where it stopped; the same entry, options and number of threads give the same bits.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from residual.errors import nearest
from residual.experiments import language, lenses, othello
from residual.experiments.experiment import Experiment
from residual.files.checkpoints import FOLDER, Card, Run, save, versions
from residual.training.corpus import CACHE
from residual.training.resume import History
from residual.training.train import train

EXPERIMENTS: dict[str, Experiment] = {**language.EXPERIMENTS, **lenses.EXPERIMENTS, **othello.EXPERIMENTS}
"""All experiments of all families, by name."""


def experiment(name: str) -> Experiment:
    """Return the entry of that name.

    Raises:
        KeyError: there is no such experiment; the message lists the nearest names.
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
    bf16: bool = False,
    compiled: bool = False,
    dtype: torch.dtype = torch.float16,
) -> Run:
    """Train the experiment ``name`` and write it to ``folder`` with its stages. A killed run resumes where it stopped.

    Args:
        steps: overrides the entry's steps.
        seed: overrides the entry's seed, which is that of the initial weights; the batches do not depend on it.
        device: default: a GPU if there is one.
        bf16: compute the loss in bfloat16 where torch considers it safe (autocast). Weights, updates and evaluations
            stay in float32.
        compiled: compute the loss with ``torch.compile``, which takes a minute before the first step.
        dtype: of the numbers in the file (float16 halves its size; see ``checkpoints.save``).

    A run with other steps or another seed is saved under its own name, ``NAME-steps100`` or ``NAME-seed3``, without
    stages, so that a trial never replaces the files that notebooks read.

    Raises:
        KeyError: there is no experiment of that name.
        ModuleNotFoundError: its data are not installed.
        ValueError: the same run is in progress in another process; there is no GPU, or one without bfloat16;
            torch.compile does not work here; see ``train`` for more.
        OSError: ``folder`` does not exist and cannot be made.
    """
    entry = experiment(name)
    file = name + (f"-steps{steps}" if steps not in (None, entry.steps) else "")
    file += f"-seed{seed}" if seed not in (None, entry.seed) else ""
    entry = replace(entry, steps=steps or entry.steps, seed=entry.seed if seed is None else seed)
    command = f"residual train {name}" + (f" --steps {steps}" if steps else "") + (f" --seed {seed}" if seed else "")
    command += (f" --accumulate {accumulate}" if accumulate > 1 else "") + (" --bf16" if bf16 else "")
    command += (" --compile" if compiled else "") + (" --full" if dtype == torch.float32 else "")
    where = _device(device, bf16)
    folder.mkdir(parents=True, exist_ok=True)  # first, so as to fail before training rather than after it
    model = entry.model().to(where)
    called = _compiled(model, where) if compiled else model
    options = {"accumulate": accumulate} | ({"bf16": True} if bf16 else {}) | ({"compile": True} if compiled else {})
    history = History()

    def loss(step: int) -> Tensor:
        with torch.autocast(where.type, torch.bfloat16, enabled=bf16):
            return entry.loss(called, step)

    def evaluate() -> dict[str, Tensor]:
        return dict(entry.evaluate(model))

    def keep(updates: int, file: str) -> Run:
        if updates not in history.evaluations:
            with torch.no_grad():
                history.evaluations[updates] = {name: value.item() for name, value in evaluate().items()}
        measures = {step: values for step, values in sorted(history.evaluations.items()) if step <= updates}
        card = Card(
            name=file,
            config={},  # filled in by save
            data=entry.data,
            seed=entry.seed,
            steps=updates,
            training={
                **_numbers(entry),
                "about": entry.about,
                **entry.drawn(updates),
                **options,
                "threads": torch.get_num_threads(),
                "processes": int(os.environ.get("WORLD_SIZE", 1)),
                "device": where.type,
                "seconds": round(history.seconds),
            },
            losses=history.losses[:updates],
            metrics=_metrics(measures),
            command=command,
            versions=versions(),
        )
        trained = Run(model, card)
        save(trained, folder / f"{file}.safetensors", dtype=dtype)
        return trained

    def watch(updates: int) -> None:
        if updates in entry.stages and updates < entry.steps and file == name:
            keep(updates, f"{name}-{updates}")

    key = hashlib.sha256(repr((name, entry, options)).encode()).hexdigest()[:12]
    state = CACHE / "runs" / f"{file}-{key}.safetensors"
    first = int(os.environ.get("RANK", 0)) == 0  # only the first process of torchrun writes
    with _exclusive(state) if first else contextlib.nullcontext():
        train(
            model,
            loss,
            steps=entry.steps,
            lr=entry.lr,
            warmup=min(entry.warmup, entry.steps - 1),
            weight_decay=entry.weight_decay,
            betas=entry.betas,
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
            return Run(model, Card(file, {}))
        trained = keep(entry.steps, file)
        state.unlink(missing_ok=True)
    return trained


def _numbers(entry: Experiment) -> dict[str, Any]:
    """Return the fields of an entry that have no field of their own on the card."""
    return {key: value for key, value in asdict(entry).items() if key not in ("about", "config", "data", "seed")}


def _metrics(measures: dict[int, dict[str, float]]) -> dict[str, Any]:
    """Return the run's headline number, then each measure by number of updates."""
    last = measures[max(measures)]
    main = next(iter(last))
    curves = {
        f"{measure} by step": {str(step): round(values[measure], 5) for step, values in measures.items()}
        for measure in last
    }
    return {main: round(last[main], 5), **curves}


@contextlib.contextmanager
def _exclusive(state: Path) -> Iterator[None]:
    """Hold a lock: two identical runs at once would write the same files."""
    state.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(state.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"the same run is in progress in another process, which holds {lock.lock_file}") from None
    try:
        yield
    finally:
        lock.release()  # (if the process is killed, the system releases it)


def _device(requested: str | None, bf16: bool) -> torch.device:
    if requested is None:
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    if requested == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("there is no GPU that this PyTorch can use; leave the device out, or use cpu")
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        if bf16 and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ValueError(f"{torch.cuda.get_device_name()} does not compute in bfloat16; leave bf16 out")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may differ from run to run
        torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.device(requested)


def _compiled(model: torch.nn.Module, device: torch.device) -> Callable[..., Any]:
    """Return the model compiled by ``torch.compile``, after checking with a tiny function that a compiler works."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(1, device=device))
    except Exception as problem:  # torch has a separate class for each compiler that may be missing
        why = str(problem).strip().splitlines()[0]
        raise ValueError(f"torch.compile does not work here; leave compile out ({why})") from None
    return torch.compile(model)
