"""Mean ablation of one head at a time in a pretrained model: which heads do its induction heads depend on?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from residual.files.pretrained import smollm2
from residual.methods.induction import previous_token_score, repeats
from residual.model import Transformer
from residual.taps import ablate, compose, record

INDUCTION_HEADS = ((17, 4), (18, 6))  # the two heads of SmolLM2 with the highest prefix-matching scores


def smollm2_on_repeats() -> Callable[[int, int], dict[str, Tensor]]:
    """Return ``ablated`` of SmolLM2 on 4 rows of 40 random tokens that repeat, with periods from 10 to 20.

    Raises:
        ModuleNotFoundError, ValueError: see ``pretrained.smollm2``.
    """
    model, _ = smollm2()
    tokens, period = repeats(4, 40, (10, 20), d_vocab=model.config.d_vocab)
    return ablated(model, tokens, period, INDUCTION_HEADS)


@torch.no_grad()
def ablated(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    period: Int[Tensor, "batch 1"],
    heads: Sequence[tuple[int, int]],
) -> Callable[[int, int], dict[str, Tensor]]:
    """Return a function of a layer and a head that measures the effect of replacing that head's output by its mean.

    The mean is over all examples and positions, as in Olsson et al. 2022 ("Argument 3"). The function returns, by name,

    - ``rise``: of the loss on tokens that also came one period before, in nats
    - ``prefix-matching 17.4``, and so on for each of ``heads``: the attention paid to what followed the same token in
      all earlier periods, from 0 to 1. Heads before the ablated one, or in its layer, are unchanged.
    - ``previous-token``: the attention of the ablated head, before ablation, to the previous position, from 0 to 1

    The whole model runs once; after that, only the changed layer and those after it.

    Args:
        tokens, period: rows that repeat, and their periods (see ``methods.induction.repeats``).
        heads: layer and head of each head to measure.
    """
    patterns = [f"blocks.{layer}.attn.pattern" for layer, _ in heads]
    before = record(["*.resid_pre", "*.attn.z", *patterns])
    query = torch.arange(tokens.shape[1])
    again = query >= period  # batch pos
    back = torch.arange(1, tokens.shape[1] // int(period.min()) + 1)
    key = query[:, None] - period[..., None] * back + 1  # batch pos back: the position after the earlier copy

    def loss(logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, ""]:
        of_tokens = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
        return of_tokens[again[:, 1:]].mean()

    def matching(pattern: Float[Tensor, "batch query key"]) -> Float[Tensor, ""]:
        paid = pattern.gather(2, key.clamp(min=0)) * (key > 0)  # batch pos back
        return paid.sum(dim=-1)[again].mean()

    at_first = loss(model(tokens, tap=before))
    previous = previous_token_score(model, tokens)  # layer head

    @torch.no_grad()
    def row(layer: int, head: int) -> dict[str, Tensor]:
        name = f"blocks.{layer}.attn.z"
        after = record([pattern for pattern, (later, _) in zip(patterns, heads, strict=True) if later > layer])
        taps = compose(ablate(name, "mean", before, heads=head, across_positions=True), after)
        logits = model.run_from(layer, before[f"blocks.{layer}.resid_pre"], tap=taps)
        effects = {"rise": loss(logits) - at_first, "previous-token": previous[layer, head]}
        for pattern, (matcher_layer, matcher_head) in zip(patterns, heads, strict=True):
            seen = after if pattern in after else before
            effects[f"prefix-matching {matcher_layer}.{matcher_head}"] = matching(seen[pattern][:, matcher_head])
        return effects

    return row
