"""Induction: repeating sequences, where heads look on them, and the measures of the phase change.

From Olsson et al. 2022, "In-context Learning and Induction Heads".
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residual.checks import Tokens
from residual.methods.circuits import composition_scores
from residual.methods.loss import losses
from residual.methods.sites import whole_texts
from residual.model import Transformer


def repeats(
    batch: int,
    length: int,
    periods: tuple[int, int],
    *,
    d_vocab: int = 512,
    start: int | None = None,
    seed: int = 0,
) -> tuple[Int[Tensor, "batch length"], Int[Tensor, "batch 1"]]:
    """Return random tokens that repeat, and the period of each row, drawn from ``periods`` (both ends included).

    Because periods vary, a model that looks a fixed distance back cannot pass for one that finds the same token again:
    no distance is right for more than a few rows. Tokens are drawn with replacement, so a token may occur twice in a
    period.

    Args:
        length: of a row in tokens, the start token included.
        start: a token put before each row; it occurs nowhere else in the row.

    Raises:
        ValueError: the shortest period is below 1, or above the longest.
    """
    shortest, longest = periods
    if not 1 <= shortest <= longest:
        raise ValueError(f"periods from {shortest} to {longest}: the shortest is at least 1 and at most the longest")
    generator = torch.Generator().manual_seed(seed)
    period = torch.randint(shortest, longest + 1, (batch, 1), generator=generator)
    if start is None:
        drawn = torch.randint(d_vocab, (batch, longest), generator=generator)
        return drawn.gather(1, torch.arange(length) % period), period
    drawn = torch.randint(d_vocab - 1, (batch, longest), generator=generator)
    drawn += drawn >= start  # every token except the start token
    return torch.cat([torch.full((batch, 1), start), drawn.gather(1, torch.arange(length - 1) % period)], 1), period


# Where heads look


@torch.no_grad()
def prefix_matching_score(
    model: Transformer,
    *,
    examples: int = 32,
    periods: tuple[int, int] | None = None,
    length: int | None = None,
    start: int | None = None,
    seed: int = 0,
) -> Float[Tensor, "layer head"]:
    """Return how much a head attends, from a token that came before, to what followed it then (Olsson et al. 2022).

    Each example repeats a stretch of random distinct tokens. The lengths differ between examples, so a head that looks
    a fixed distance back gets little credit overall; with equal periods it could get full credit.

    Args:
        periods: shortest and longest stretch; default: a quarter and half of the sequence.
        length: of the sequences, in tokens; default: the model's context.
        start: a token put before each sequence, for models that expect one.

    Returns:
        The mean, over examples and positions from the second stretch on, of the attention paid to what followed
        the same token in all earlier stretches: from 0 to 1.

    Raises:
        ValueError: the sequence is too short, or the vocabulary too small, for such periods.
    """
    if examples < 1:
        raise ValueError(f"examples is {examples}; it must be at least 1")
    c = model.config
    length = c.n_ctx if length is None else length
    n_pos = length - (start is not None)
    shortest, longest = periods or (max(2, n_pos // 4), min(max(2, n_pos // 2), c.d_vocab))
    if shortest <= c.d_vocab and not 2 <= shortest <= longest < n_pos:
        raise ValueError(f"periods from {shortest} to {longest} do not repeat in {n_pos} tokens")
    if max(shortest, longest) > c.d_vocab:
        raise ValueError(f"a stretch of {max(shortest, longest)} distinct tokens cannot be drawn from {c.d_vocab}")
    generator = torch.Generator().manual_seed(seed)
    period = torch.randint(shortest, longest + 1, (examples, 1), generator=generator)
    drawn = torch.rand(examples, c.d_vocab, generator=generator)
    if start is not None:
        drawn[:, start] = 1  # sorts the start token last, so that it is not drawn again
    stretch = drawn.argsort(dim=1)[:, :longest]  # distinct tokens
    tokens = stretch.gather(1, torch.arange(n_pos) % period)  # batch pos
    query = torch.arange(n_pos).expand(examples, -1)
    repeats = torch.arange(1, n_pos // shortest + 1)
    key = query[..., None] - period[..., None] * repeats + 1  # batch pos repeat
    counted = query >= period
    if start is not None:
        tokens = torch.cat([torch.full((examples, 1), start), tokens], dim=1)
        key = torch.cat([torch.full_like(key[:, :1], -1), torch.where(key > 0, key + 1, -1)], dim=1)
        counted = torch.cat([torch.zeros(examples, 1, dtype=torch.bool), counted], dim=1)
    return attention_to(model, tokens, torch.where(key > 0, key, -1), counted)


@torch.no_grad()
def previous_token_score(model: Transformer, tokens: Tokens) -> Float[Tensor, "layer head"]:
    """Return the mean attention to the previous position, from the second position on.

    Raises:
        TypeError, ValueError: see the model; or texts of unequal length, or of one token.
    """
    tokens = whole_texts(model, tokens)
    key = (torch.arange(tokens.shape[1]) - 1).expand(tokens.shape)
    return attention_to(model, tokens, key, key >= 0)


@torch.no_grad()
def attention_to(
    model: Transformer,
    tokens: Tokens,
    key: Int[Tensor, "batch pos"] | Int[Tensor, "batch pos n"],
    counted: Bool[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "layer head"]:
    """Return the mean attention from position i to position ``key[i]``, or to several positions together.

    The mean is over the examples and the ``counted`` positions i; keys below zero get no attention.

    Raises:
        ValueError: ``key`` does not match the tokens, or is out of range; ``counted`` has another shape, or marks none.
    """
    tokens = whole_texts(model, tokens)
    counted = torch.ones(tokens.shape, dtype=torch.bool) if counted is None else counted
    if key.shape[:2] != tokens.shape or key.ndim > 3 or key.is_floating_point():
        raise ValueError(f"key is {key.dtype} {list(key.shape)}; tokens of shape {list(tokens.shape)} need [batch pos]")
    if key.numel() and int(key.max()) >= tokens.shape[1]:
        raise ValueError(f"there is no key {int(key.max())} in {tokens.shape[1]} tokens")
    if counted.shape != tokens.shape or counted.dtype != torch.bool or not counted.any():
        raise ValueError(f"counted must mark at least one of the tokens of shape {list(tokens.shape)}, true or false")
    device = model.W_E.device
    seen = _Attended(key.reshape(*key.shape[:2], -1).to(device), counted.to(device))
    model.run_to(tokens.to(device), model.config.n_layers, tap=seen)
    return torch.stack(seen.means) if seen.means else model.W_E.new_zeros(0, model.config.n_heads)


class _Attended:
    """A tap that keeps one number per head, so that the patterns of all layers need not be stored."""

    def __init__(self, key: Tensor, counted: Tensor) -> None:
        self.key, self.weight = key.clamp(min=0)[:, None], ((key >= 0) & counted[..., None])[:, None]
        self.total = counted.sum()
        self.means: list[Tensor] = []

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if name.endswith(".pattern"):  # batch head query key
            paid = x.gather(3, self.key.expand(-1, x.shape[1], -1, -1)) * self.weight  # batch head query n
            self.means.append(paid.sum(dim=(0, 2, 3)) / self.total)
        return x

    def resolve(self, known: list[str]) -> frozenset[str]:
        return frozenset(name for name in known if name.endswith(".pattern"))


@torch.no_grad()
def in_context(
    model: Transformer,
    text: Tokens,
    periods: tuple[int, int],
    *,
    examples: int = 64,
    start: int | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return the measures of the phase change in Olsson et al. 2022: losses in nats, scores from 0 to 1.

    - ``first period`` and ``repeated``: the loss on random tokens that repeat, the first time and from then on
    - ``in-context score``: the loss on ``text`` over its last quarter minus that over its second eighth; below zero
      if the context helps (the paper: the 500th token's loss minus the 50th's)
    - ``prefix-matching`` and ``previous-token``: the highest score of any head, on random tokens and on
      ``text`` respectively
    - ``K-composition``: the largest score, in models of two or more layers (see ``circuits.composition_scores``)

    Args:
        text: if there is a start token, each row begins with it.
        start: the token put before each row of random tokens, for models that expect one.
    """
    text = whole_texts(model, text)
    tokens, period = repeats(examples, text.shape[1], periods, d_vocab=model.config.d_vocab, start=start, seed=seed)
    of_random, of_text = losses(model, tokens.to(text)), losses(model, text)
    again = (torch.arange(1, text.shape[1]) >= period + int(start is not None)).to(text.device)  # batch pos
    n_pos = of_text.shape[1]
    measures = {
        "first period": of_random[~again].mean(),
        "repeated": of_random[again].mean(),
        "in-context score": of_text[:, -n_pos // 4 :].mean() - of_text[:, n_pos // 8 : n_pos // 4].mean(),
        "prefix-matching": prefix_matching_score(model, periods=periods, start=start, seed=seed).max(),
        "previous-token": previous_token_score(model, text[:, :-1]).max(),
    }
    if model.config.n_layers > 1:
        scores = composition_scores(model, samples=2).K
        measures["K-composition"] = scores[~scores.isnan()].max()
    return measures
