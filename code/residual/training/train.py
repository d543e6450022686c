"""One training loop: AdamW, warm-up, linear decay. The same arguments give the same weights.

All randomness in a step is drawn from the step's number alone (see ``windows``). That is why a run can be killed and
resumed from its last saved state, bit for bit, and why a batch can be cut into shares, one for each process of
``torchrun`` and each turn of gradient accumulation, without any code for it in the caller of ``train``: while the loop
computes a loss, ``windows`` returns the current share, and the loop averages.
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
    """Train ``model`` in place, on its device; return the loss at each step, before that step's update.

    Under ``torchrun`` each process computes its share of every batch, and all make the same updates.

    Args:
        loss: the loss of the model at a step, a scalar. Its randomness should come from the step's number alone:
            see ``windows``. A batch not drawn by ``windows`` should pass through ``share``.
        lr: the peak learning rate (see ``learning_rate``).
        weight_decay: per step, times the learning rate (AdamW: Loshchilov and Hutter 2019, algorithm 2).
        clip: the largest norm of the gradient of all parameters together; longer gradients are scaled down.
        accumulate: the number of turns in which a batch is computed; more turns need less memory.
        watch: called with the number of updates so far: 0 before the first, ``steps`` after the last. The place for
            checkpoints. Only the first of several processes calls it.
        evaluate: returns numbers to keep in ``history.evaluations``; called without gradients before the first update,
            every ``evaluate_every`` updates, and after the last.
        state: a file in which the loop saves its state, every ``state_every`` updates and at the end. If the file
            exists at the start, the run resumes from it: with the same thread count, to the same bits.

    Raises:
        FloatingPointError: the loss is no longer a finite number.
        ValueError: a batch cannot be cut evenly, or ``accumulate`` is below 1; ``state`` is damaged, or from a run with
            other arguments.
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
        for weight in model.parameters():  # start from the first process's weights everywhere
            torch.distributed.broadcast(weight.data, 0)

    def look(updates: int) -> None:
        if evaluate is not None and (updates % evaluate_every == 0 or updates == steps):
            with torch.no_grad():
                history.evaluations[updates] = {name: float(value) for name, value in evaluate().items()}
        if watch is not None and rank == 0:
            watch(updates)

    began = time.perf_counter() - history.seconds
    bar = tqdm(  # in a terminal only
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
    """Return a rate that rises linearly over ``warmup`` steps, then falls linearly to 0 just after the last step."""
    if step < warmup:
        return highest * (step + 1) / warmup
    return highest * (steps - step) / (steps - warmup)


def windows(tokens: Int[Tensor, " tokens"], batch: int, length: int, *, step: int = 0) -> Int[Tensor, "batch length"]:
    """Return ``batch`` stretches of ``length`` tokens, from random places that depend on ``step`` alone: runs with
    different seeds see the same batches in the same order.

    Inside the loss of ``train``: only the rows of the current share of the batch, on the model's device.

    Raises:
        ValueError: there are fewer than ``length`` tokens, or the batch cannot be cut into equal shares.
    """
    if len(tokens) < length:
        raise ValueError(f"a window of {length} tokens does not fit into {len(tokens)} tokens")
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
    """Return the rows of a batch that this process computes in this turn; all rows outside of ``train``.

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
    """The share of the batch now being computed, and the model's device."""

    index: int
    of: int
    device: torch.device
    tokens: int = 0  # drawn so far, to compute the speed


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
    """Return this process's number and the number of processes; wait for the others if ``torchrun`` started several."""
    distributed = torch.distributed
    if not distributed.is_available():
        return 0, 1
    if not distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", 1)) > 1 and "MASTER_ADDR" in os.environ:
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=datetime.timedelta(minutes=30))
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def _average(model: nn.Module, value: float, processes: int) -> float:
    """Average every gradient over the processes, in one message; return the mean of ``value``."""
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
