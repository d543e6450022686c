"""One training loop: AdamW, warm-up, linear decay. The same arguments give the same weights.

What is random in a step is drawn from the step's number alone (see ``windows``). That is why a run can be killed and
go on from its last saved state as if nothing had happened, bit for bit; and why a batch can be cut into shares, one
for each process of ``torchrun`` and each turn of gradient accumulation, without a word of it in the code that calls
``train``: while the loop asks for a loss, ``windows`` hands out the share in force, and the loop averages.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from residual.training.resume import History, keep, restore


def train(
    model: nn.Module,
    loss: Callable[[int], Tensor],
    *,
    steps: int,
    lr: float,
    warmup: int = 0,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.99),
    clip: float | None = None,
    accumulate: int = 1,
    watch: Callable[[int], None] | None = None,
    evaluate: Callable[[], Mapping[str, float | Tensor]] | None = None,
    evaluate_every: int = 100,
    history: History | None = None,
    state: str | Path | None = None,
    state_every: int = 100,
    label: str = "training",
) -> Float[Tensor, " steps"]:
    """Train ``model`` in place, on the device where it is; the loss at each step, before that step's update.

    Under ``torchrun`` each process computes its share of every batch, and all make the same updates.

    Args:
        loss: of the model at a step, a scalar. What is random in it should come from the step's number alone:
            see ``windows``. A batch that is not drawn by ``windows`` should pass through ``share``.
        lr: the learning rate at its highest (see ``learning_rate``).
        weight_decay: per step, times the learning rate (AdamW: Loshchilov and Hutter 2019, algorithm 2).
        clip: the longest that the gradient of all parameters together may be; longer ones are scaled down.
        accumulate: in how many turns a batch is computed, each needing that much less memory.
        watch: called with the number of updates made so far: 0 before the first, ``steps`` after the last. The
            place for checkpoints. Of several processes only the first calls it.
        evaluate: numbers to keep in ``history.evaluations``, computed without gradients before the first update,
            every ``evaluate_every`` updates, and after the last.
        state: a file in which the loop keeps all it needs to go on, every ``state_every`` updates and at the end. If
            it is there at the start, the run goes on from it: with the same thread count, to the same bits.

    Raises:
        FloatingPointError: the loss is no longer a finite number.
        ValueError: a batch that cannot be cut evenly, or is to be computed in no turns at all; ``state`` is damaged, or
            of a run with other arguments.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate is {accumulate}; a batch is computed in at least one turn")
    history = History() if history is None else history
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=betas, weight_decay=weight_decay)
    device = next(model.parameters()).device
    rank, processes = _join(device)
    arguments = dict(
        steps=steps,
        lr=lr,
        warmup=warmup,
        weight_decay=weight_decay,
        betas=list(betas),
        clip=clip,
        accumulate=accumulate,
    )
    first = 0
    if state is not None and Path(state).exists():
        first = restore(Path(state), model, optimiser, history, arguments)
    if processes > 1:
        for weight in model.parameters():  # the first process' weights, in case theirs began otherwise
            torch.distributed.broadcast(weight.data, 0)

    def look(updates: int) -> None:
        if evaluate is not None and (updates % evaluate_every == 0 or updates == steps):
            with torch.no_grad():
                history.evaluations[updates] = {name: float(value) for name, value in evaluate().items()}
        if watch is not None and rank == 0:
            watch(updates)

    began = time.perf_counter() - history.seconds
    bar = tqdm(  # only in a terminal
        total=steps, initial=first, desc=label, unit="step", leave=False, disable=None if rank == 0 else True
    )
    with bar:
        for step in range(first, steps):
            look(step)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, steps, lr, warmup)
            optimiser.zero_grad()
            value, tokens = 0.0, 0
            for turn in range(accumulate):
                with _sharing(rank * accumulate + turn, processes * accumulate, device) as sharing:
                    part = loss(step)
                (part if accumulate == 1 else part / accumulate).backward()
                value += part.item() / accumulate
                tokens += sharing.tokens * processes
            if processes > 1:
                value = _average(model, value, processes)
            if not value - value == 0:  # infinite, or not a number
                raise FloatingPointError(f"the loss is {value} at step {step}; try a learning rate below {lr:g}")
            history.losses.append(value)
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimiser.step()
            history.seconds = time.perf_counter() - began
            if state is not None and rank == 0 and ((step + 1) % state_every == 0 or step + 1 == steps):
                keep(Path(state), model, optimiser, history, arguments)
            if not bar.disable:
                bar.set_postfix_str(
                    _shown(history, tokens, step + 1 - first, bar.format_dict["elapsed"]), refresh=False
                )
            bar.update()
    look(steps)
    return torch.tensor(history.losses)


def learning_rate(step: int, steps: int, highest: float, warmup: int = 0) -> float:
    """Rises in a line over ``warmup`` steps, then falls in a line, to reach zero just after the last step."""
    if step < warmup:
        return highest * (step + 1) / warmup
    return highest * (steps - step) / (steps - warmup)


def windows(tokens: Int[Tensor, " tokens"], batch: int, length: int, *, step: int = 0) -> Int[Tensor, "batch length"]:
    """``batch`` stretches of ``length`` tokens, from random places that ``step`` alone decides: runs that differ in
    their seed see the same batches in the same order.

    Inside the loss that ``train`` asks for: only the rows of this share of the batch, on the model's device.

    Raises:
        ValueError: there are fewer than ``length`` tokens; the batch cannot be cut into equal shares.
    """
    if len(tokens) < length:
        raise ValueError(f"a window of {length} tokens does not fit into {len(tokens)}")
    generator = torch.Generator().manual_seed(step)
    starts = torch.randint(len(tokens) - length + 1, (batch, 1), generator=generator)
    starts = share(starts)
    drawn = tokens[starts + torch.arange(length)]
    sharing = _SHARING.get()
    if sharing is None:
        return drawn
    sharing.tokens += len(drawn) * (length - 1)
    return drawn.to(sharing.device)


def share(batch: Tensor) -> Tensor:
    """The rows of a batch that are this process' and this turn's to compute; all of them outside of ``train``.

    Raises:
        ValueError: the batch cannot be cut into equal shares.
    """
    sharing = _SHARING.get()
    if sharing is None or sharing.of == 1:
        return batch
    if len(batch) % sharing.of:
        raise ValueError(
            f"a batch of {len(batch)} cannot be cut into {sharing.of} equal shares (processes × turns of accumulation)"
        )
    size = len(batch) // sharing.of
    return batch[sharing.index * size : (sharing.index + 1) * size]


# Shares of a batch


@dataclass
class _Sharing:
    """Which of how many equal shares the loss is asked for, and where the model is."""

    index: int
    of: int
    device: torch.device
    tokens: int = 0  # drawn so far, to tell the speed


_SHARING: ContextVar[_Sharing | None] = ContextVar("sharing", default=None)


@contextlib.contextmanager
def _sharing(index: int, of: int, device: torch.device) -> Iterator[_Sharing]:
    sharing = _Sharing(index, of, device)
    before = _SHARING.set(sharing)
    try:
        yield sharing
    finally:
        _SHARING.reset(before)


def _join(device: torch.device) -> tuple[int, int]:
    """This process' number and how many there are; meets the others first, where ``torchrun`` started several."""
    distributed = torch.distributed
    if not distributed.is_available():
        return 0, 1
    if not distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", 1)) > 1 and "MASTER_ADDR" in os.environ:
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=datetime.timedelta(minutes=30))
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def _average(model: nn.Module, value: float, processes: int) -> float:
    """Replace every gradient by its mean over the processes, in one message; the mean of ``value`` too."""
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    message = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(message)
    message /= processes
    for gradient, mean in zip(gradients, message.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
    total = torch.tensor(value, dtype=torch.float64, device=message.device)
    torch.distributed.all_reduce(total)
    return total.item() / processes


def _shown(history: History, tokens: int, steps: int, seconds: float) -> str:
    parts = [f"loss {history.losses[-1]:.3f}"]
    if history.evaluations:
        parts += [f"{name} {value:.3f}" for name, value in history.evaluations[max(history.evaluations)].items()]
    if tokens and seconds:
        parts.append(f"{tokens * steps / seconds:,.0f} tokens/s")
    return ", ".join(parts)
