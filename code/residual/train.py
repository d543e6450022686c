"""One training loop: AdamW, warm-up, linear decay. The same arguments give the same weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm


def train(
    model: nn.Module,
    loss: Callable[[int], Tensor],
    *,
    steps: int,
    lr: float,
    warmup: int = 0,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.99),
    watch: Callable[[int], None] | None = None,
    label: str = "training",
) -> Float[Tensor, " steps"]:
    """Train ``model`` in place; the loss at each step, before that step's update.

    Args:
        loss: of the model at a step, a scalar. What is random in it should come from the step's number alone:
            see ``windows``.
        lr: the learning rate at its highest (see ``learning_rate``).
        weight_decay: per step, times the learning rate (AdamW: Loshchilov and Hutter 2019, algorithm 2).
        watch: called with the number of updates made so far: 0 before the first, ``steps`` after the last.

    Raises:
        FloatingPointError: the loss is no longer a finite number.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=betas, weight_decay=weight_decay)
    losses = []
    bar = tqdm(range(steps), desc=label, unit="step", leave=False, disable=None)  # only in a terminal
    for step in bar:
        if watch is not None:
            watch(step)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, lr, warmup)
        value = loss(step)
        losses.append(value.item())
        if not torch.isfinite(value):
            raise FloatingPointError(f"the loss is {losses[-1]} at step {step}; try a learning rate below {lr:g}")
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        bar.set_postfix_str(f"loss {losses[-1]:.3f}", refresh=False)
    if watch is not None:
        watch(steps)
    return torch.tensor(losses)


def learning_rate(step: int, steps: int, highest: float, warmup: int = 0) -> float:
    """Rises in a line over ``warmup`` steps, then falls in a line, to reach zero just after the last step."""
    if step < warmup:
        return highest * (step + 1) / warmup
    return highest * (steps - step) / (steps - warmup)


def windows(
    tokens: Int[Tensor, " tokens"], batch: int, length: int, *, step: int = 0, seed: int = 0
) -> Int[Tensor, "batch length"]:
    """``batch`` stretches of ``length`` tokens, from random places that ``seed`` and ``step`` alone decide.

    Raises:
        ValueError: there are fewer than ``length`` tokens.
    """
    if len(tokens) < length:
        raise ValueError(f"a window of {length} tokens does not fit into {len(tokens)}")
    generator = torch.Generator().manual_seed((seed << 32) + step)
    starts = torch.randint(len(tokens) - length + 1, (batch, 1), generator=generator)
    return tokens[starts + torch.arange(length)]


def next_token_loss(model: nn.Module, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    """Mean cross-entropy, in nats, of each token after the first, given those before it."""
    logits = model(tokens[:, :-1])  # batch pos-1 d_vocab
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
