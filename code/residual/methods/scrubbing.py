"""Causal scrubbing: replace everything that a hypothesis says does not matter, and see whether the loss stays.

A hypothesis says of an edge (see ``edges``) which feature of its position the reader depends on: "the keys of head 1.0
read the previous token from head 0.1, and nothing else". If it is true, the writer's term may be replaced by its term
at any other position, of any example, where the feature is the same, and the loss does not change. From Chan et al.
2022, "Causal Scrubbing: a method for rigorously testing interpretability hypotheses".

The loss recovered is a mean, so a hypothesis can pass because it is wrong in two ways that cancel: look at the changes
of single predictions too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual.checks import Tokens
from residual.methods.edges import Edge, patch_edges, written
from residual.methods.sites import whole_texts
from residual.model import Transformer
from residual.taps import compose

Claim = tuple[Iterable[Edge], Int[Tensor, "batch pos"] | None]
"""Edges, and the feature of each position on which alone they depend; None if nothing about it matters."""


def partners(feature: Int[Tensor, "batch pos"], generator: torch.Generator) -> Int[Tensor, "batch pos"]:
    """Return for each position another one with the same feature, as an index into the flattened positions.

    It is a random permutation among the positions with the same feature, so each is used once.
    """
    flat = feature.flatten()
    orders = []
    for _ in range(2):  # two random orders, sorted by feature: equal ranks have equal features
        shuffled = torch.randperm(len(flat), generator=generator).to(flat.device)
        orders.append(shuffled[flat[shuffled].argsort(stable=True)])
    found = torch.empty_like(flat, dtype=torch.long)
    found[orders[0]] = orders[1]
    return found.unflatten(0, feature.shape)


def resampled(recorded: Mapping[str, Tensor], chosen: Int[Tensor, "batch pos"]) -> dict[str, Tensor]:
    """Return recorded activations ``[batch pos …]`` with those of position ``chosen[b, p]`` at each position."""
    batch, pos = chosen.shape
    moved = {}
    for name, x in recorded.items():
        full = x.expand(batch, pos, *x.shape[2:])
        moved[name] = full.flatten(0, 1)[chosen.flatten()].unflatten(0, (batch, pos))
    return moved


@torch.no_grad()
def scrub(
    model: Transformer, tokens: Tokens, claims: Sequence[Claim], *, seed: int = 0
) -> Float[Tensor, "batch pos d_vocab"]:
    """Return the logits when each claimed edge sees its writer at another position where the feature is the same.

    Each claim draws once, for all of its edges; edges in no claim are left alone.

    Raises:
        ValueError: a feature is not ``[batch pos]``, like the tokens, or not of whole numbers; no such edge.
    """
    tokens = whole_texts(model, tokens)
    generator = torch.Generator().manual_seed(seed)
    terms, taps = written(model, tokens), []
    for edges, feature in claims:
        same = torch.zeros_like(tokens) if feature is None else feature
        if same.shape != tokens.shape:
            raise ValueError(
                f"a feature is {list(same.shape)} and the tokens are {list(tokens.shape)}; both [batch pos]"
            )
        if same.is_floating_point():
            raise ValueError("a feature is a whole number at each position (which are alike?); this one has fractions")
        taps.append(patch_edges(model, edges, resampled(terms, partners(same, generator))))
    logits: Tensor = model(tokens, tap=compose(*taps) if taps else None)
    return logits


def recovered(
    model_loss: Float[Tensor, ""] | float, scrubbed: Float[Tensor, ""] | float, shuffled: Float[Tensor, ""] | float
) -> float:
    """Return the share of the loss recovered: 1 if scrubbing costs nothing, 0 if it costs all.

    ``(shuffled - scrubbed) / (shuffled - model)``, where ``shuffled`` is the loss of the model's predictions at random
    other positions.

    Raises:
        ValueError: the shuffled loss is not above the model's, or not finite; the scrubbed loss is not a number.
    """
    span = float(shuffled) - float(model_loss)
    if not (span > 0 and math.isfinite(span)):
        raise ValueError(f"shuffled predictions lose {float(shuffled):.3g}, the model {float(model_loss):.3g}: no span")
    if math.isnan(float(scrubbed)):
        raise ValueError("the scrubbed loss is not a number")
    return (float(shuffled) - float(scrubbed)) / span
