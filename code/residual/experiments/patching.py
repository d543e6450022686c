"""Activation patching of SmolLM2 on IOI by exact reruns: every head, layer and position, kind by kind."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from residual.experiments.ioi import IOI, ioi_prompts
from residual.files.pretrained import smollm2
from residual.methods.sites import OF_HEADS
from residual.methods.sweeps import patch_heads, patch_resid
from residual.model import Transformer

PATCHED = ("z", "q", "k", "v", "pattern", "mlp_out", "resid_pre", "z noised")
PROMPTS = 6


def prompts(model: Transformer) -> IOI:
    """Return the prompts on which ``smollm2_on_ioi`` measures: six, half of them with IO first."""
    return ioi_prompts(model.vocabulary, PROMPTS, seed=0)


def smollm2_on_ioi() -> Callable[[int, int], dict[str, Tensor]]:
    """Return a function of a layer and the index of a kind (``PATCHED``) that patches each head and position there.

    The run is on ``swapped``, where the name that comes twice is IO, and one activation comes from ``clean``; for
    ``z noised`` the two change places. The result is ``effect [9 15]``, by head (or key head) and position: the mean
    logit difference IO − S with the patch, less that without. Rows of heads that do not exist are NaN; a write to the
    stream, or the stream, is in row 0.

    Raises:
        ModuleNotFoundError, ValueError: see ``pretrained.smollm2``.
    """
    model, _ = smollm2()
    batch = prompts(model)
    metric, unchanged = batch.logit_diff, {}
    for name, tokens in (("clean", batch.clean), ("swapped", batch.swapped)):
        unchanged[name] = metric(model(tokens)[:, -1])

    def row(layer: int, kind: int) -> dict[str, Tensor]:
        name = PATCHED[kind]
        source, base, before = batch.clean, batch.swapped, unchanged["swapped"]
        if name == "z noised":
            name, source, base, before = "z", batch.swapped, batch.clean, unchanged["clean"]
        sweep = patch_heads if name in OF_HEADS else patch_resid
        found = sweep(model, source, base, metric, name=name, layers=[layer]).flatten(0, -2) - before
        effect = torch.full((model.config.n_heads, base.shape[1]), torch.nan)
        effect[: len(found)] = found
        return {"effect": effect}

    return row
