"""Self-repair of SmolLM2's heads, measured once: on names (IOI) and on speeches, with four kinds of replacement."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from residual.checks import Reader
from residual.experiments.ioi import ioi_prompts
from residual.files.pretrained import smollm2
from residual.methods.self_repair import Instead, SelfRepair, Split, next_token_direction
from residual.training.corpus import sotu_texts, split

FIRST = 12
"""The first layer measured. Heads before it write little along the logits, and take most of the time."""

PUT_IN: tuple[Instead, ...] = ("zero", "resample", "elsewhere", "projected")
PARTS = ("direct", "later", "scale", "mixed", "alone")
LARGEST = 16
"""So many of the predictions on speeches, those with the largest direct effect of a head, are its own: a tenth."""


def held_out_speeches(vocabulary: Reader | None, texts: int = 4, length: int = 41) -> Int[Tensor, "text pos"]:
    """Return stretches of the last held-out speeches in a model's tokens, each from the speech's token 200 on.

    Raises:
        ModuleNotFoundError: the speeches are not installed.
        ValueError: no vocabulary, more texts than are held out, or a speech too short for the length.
    """
    if vocabulary is None:
        raise ValueError("this model has no vocabulary; speeches need one, such as smollm2()'s")
    speeches = split(sotu_texts())[1]
    if not 1 <= texts <= len(speeches):
        raise ValueError(f"{texts} texts; there are {len(speeches)} held-out speeches")
    rows = [vocabulary.tokens(speech)[0][0, 200 : 200 + length] for speech in speeches[-texts:]]
    if (shortest := min(map(len, rows))) < length:
        raise ValueError(f"one of the speeches has {shortest} tokens from token 200 on; the length is {length}")
    return torch.stack(rows)


def smollm2_repair() -> Callable[[int, int], dict[str, Tensor]]:
    """Return a function of a layer, counted from ``FIRST``, and a head.

    It returns means and standard errors, ``[put_in part mean_or_error]``, in the order of ``PUT_IN`` and ``PARTS``:

    - ``ioi``: of logit(IO) - logit(S) at the end of 8 prompts
    - ``speeches``: of the next token's logit, less the mean logit, at all 160 positions
    - ``largest``: the same at the ``LARGEST`` positions where the head's direct effect is largest

    Raises:
        ModuleNotFoundError, ValueError: see ``pretrained.smollm2``.
    """
    model, _ = smollm2()
    prompts = ioi_prompts(model.vocabulary, 8, seed=0)
    names = (model.W_U[:, prompts.io] - model.W_U[:, prompts.s]).mT[:, None]
    tokens = held_out_speeches(model.vocabulary)
    on_names = SelfRepair(model, prompts.clean, names)
    on_speeches = SelfRepair(model, tokens, next_token_direction(model, tokens))

    def numbers(found: Split, where: Callable[[Tensor], Tensor]) -> Tensor:
        rows = [where(getattr(found, part)) for part in PARTS]
        return torch.stack([torch.stack([x.mean(), x.std() / len(x) ** 0.5]) for x in rows]).float()

    def row(layer: int, head: int) -> dict[str, Tensor]:
        label = f"{FIRST + layer}.{head}"
        ioi = [numbers(on_names(label, how), lambda x: x[:, -1]) for how in PUT_IN]
        spoken = [on_speeches(label, how) for how in PUT_IN]
        top = spoken[0].direct[:, :-1].flatten().topk(LARGEST).indices  # of the whole output: what zero takes away
        return {
            "ioi": torch.stack(ioi),
            "speeches": torch.stack([numbers(found, lambda x: x[:, :-1].flatten()) for found in spoken]),
            "largest": torch.stack([numbers(found, lambda x: x[:, :-1].flatten()[top]) for found in spoken]),
        }

    return row
