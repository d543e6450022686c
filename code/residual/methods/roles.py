"""Roles of heads: where they look on a given text, and how much they move from there.

A pattern alone can mislead: a resting head pays much attention to a position from which it moves almost nothing.
Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (section "Induction Heads"), therefore weight
patterns by the length of the vectors moved; Kobayashi et al. 2020, "Attention is Not Only a Weight", make the same
correction. Every score here is available with and without it.

No pattern is stored: one run of the model leaves a few numbers per layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residual.checks import Tokens, as_tokens, check_layer, check_mask, check_tokens
from residual.model import Attention, Block, Transformer
from residual.positions import Padding
from residual.taps import record

Look = Callable[[Tensor, Tensor | None], Tensor]

ROLES = ("previous_token", "current_token", "first_position", "duplicate_token", "induction")
"""The scores of ``head_roles``, in order."""


# How much is moved


def value_norms(attention: Attention, v: Float[Tensor, "batch pos kv_head d_head"]) -> Float[Tensor, "batch head pos"]:
    """Return ``‖v_j W_O‖``, the length of each head's output if all its attention went to position j.

    Computed from a triangular factor: with ``W_Oᵀ = Q R``, ``‖v W_O‖ = ‖v Rᵀ‖``, without ``[batch head pos d_model]``.

    Args:
        v: the recorded activation ``blocks.{layer}.attn.v``, biases included.

    Returns:
        Lengths, in float32 for a model of half precision, in which torch has no QR decomposition.
    """
    c = attention.config
    v = _precise(v)
    R = torch.linalg.qr(_precise(attention.W_O).mT, mode="r").R  # head rank d_head
    values = v.repeat_interleave(c.n_heads // c.kv_heads, dim=2)  # batch pos head d_head
    written = einsum(values, R, "batch pos head d_head, head rank d_head -> batch head pos rank")
    return torch.linalg.vector_norm(written, dim=-1)


def value_weighted_pattern(
    model: Transformer,
    tokens: Tokens,
    layer: int,
    *,
    normalize: bool = False,
    mask: Bool[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "batch head query key"]:
    """Return the pattern times the length of the vectors moved, ``A_ij ‖v_j W_O‖`` (Kobayashi et al. 2020, equation 4).

    Args:
        normalize: divide each row by its sum, to get shares. A row of zeros, which moves nothing, stays zero.
        mask: of real tokens, as for the model.

    Raises:
        ValueError: there is no such layer.
    """
    check_layer(layer, model.config.n_layers, end=False)
    attn = f"blocks.{layer}.attn"
    model.run_to(tokens, layer + 1, tap=(seen := record([f"{attn}.v", f"{attn}.pattern"])), mask=mask)
    norms = value_norms(cast(Block, model.blocks[layer]).attn, seen[f"{attn}.v"])
    weighted = seen[f"{attn}.pattern"] * norms[:, :, None]
    return _share(weighted, weighted.sum(dim=-1, keepdim=True)) if normalize else weighted


# Attention by token


class ByToken(NamedTuple):
    """The shares of a head's attention by token of a text. Tokens not listed get none."""

    tokens: Int[Tensor, " token"]  # the tokens in the text, ascending
    share: Float[Tensor, "layer head token"]  # sums to 1 for each head
    error: Float[Tensor, "layer head token"]  # standard errors, over examples; NaN if there is only one


@torch.no_grad()
def attention_by_token(
    model: Transformer,
    tokens: Tokens,
    *,
    counted: Bool[Tensor, "batch pos"] | None = None,
    value_weighted: bool = False,
    mask: Bool[Tensor, "batch pos"] | None = None,
) -> ByToken:
    """Return the share of each head's attention that goes to each token, wherever in the text the token is.

    Args:
        tokens: tokens, or texts if the model has a vocabulary.
        counted: the queries that count; default: all real tokens.
        value_weighted: weight attention by the length of the vectors moved, as in ``value_weighted_pattern``.
        mask: of real tokens, as for the model.

    Raises:
        ValueError: ``counted`` marks no query, or has another shape than ``tokens``.
    """
    tokens, real, counted = _read(model, tokens, mask, counted)
    kinds, place = _kinds(tokens, real)

    def look(pattern: Tensor, norms: Tensor | None) -> Tensor:
        return _received(pattern, counted, place, len(kinds))

    paid = _look(model, tokens, real, look, value_weighted)  # layer batch head token
    return ByToken(kinds, *_ratio(paid, paid.sum(dim=-1, keepdim=True)))


# Roles


class HeadRoles(NamedTuple):
    """Role scores of each head on a text: shares of its attention, from 0 to 1. See ``head_roles``."""

    previous_token: Float[Tensor, "layer head"]
    current_token: Float[Tensor, "layer head"]
    first_position: Float[Tensor, "layer head"]
    duplicate_token: Float[Tensor, "layer head"]
    induction: Float[Tensor, "layer head"]
    top_token: Int[Tensor, "layer head"]  # the token that gets the most attention
    top_share: Float[Tensor, "layer head"]
    errors: dict[str, Tensor]  # the standard error of each score over examples; NaN if there is only one
    uniform: dict[str, float]  # each score of a head with uniform attention; value-weighted, the mean
    # over heads, each with the lengths of its own vectors


@torch.no_grad()
def head_roles(
    model: Transformer,
    tokens: Tokens,
    *,
    counted: Bool[Tensor, "batch pos"] | None = None,
    value_weighted: bool = False,
    mask: Bool[Tensor, "batch pos"] | None = None,
) -> HeadRoles:
    """Return the share of each head's attention that each role accounts for, from one run of the model.

    For the query at position i, which holds token t_i, and counted if the role has a position to attend to:

    - ``previous_token``: to i-1, from the second position on (Elhage et al. 2021)
    - ``current_token``: to i itself, from the second position on
    - ``first_position``: to 0, from the second position on: the sink of Xiao et al. 2023, "Efficient Streaming
      Language Models with Attention Sinks"
    - ``duplicate_token``: to all earlier j with t_j = t_i, if there is one (Wang et al. 2022, "Interpretability in
      the Wild", section 3)
    - ``induction``: to all j < i with t_{j-1} = t_i, which followed the same token before, if there is one (Olsson
      et al. 2022, "In-context Learning and Induction Heads": prefix matching)

    A position may serve two roles: in a text with few distinct tokens, the previous token is often a duplicate as well.
    Compare with ``uniform``, and with random tokens that repeat: ``head_roles(model, induction.repeats(…)[0])``.

    Args:
        tokens: tokens, or texts if the model has a vocabulary.
        counted: the queries that count; default: all real tokens.
        value_weighted: shares of the length of the vectors moved, as in ``value_weighted_pattern``, not of attention.
        mask: of real tokens, as for the model. Positions count real tokens only.

    Returns:
        Scores; NaN for a role that no counted query can play.

    Raises:
        ValueError: ``counted`` marks no query, or has another shape than ``tokens``.
    """
    tokens, real, counted = _read(model, tokens, mask, counted)
    kinds, place = _kinds(tokens, real)
    padding = Padding(real, 0, model.config.causal)
    targets = _targets(tokens, real, padding) & counted[:, None, :, None]  # batch role query key
    playing = targets.any(dim=-1)  # batch role query

    seen = padding.seen.to(_precise(model.W_E))
    seen = seen / seen.sum(dim=-1, keepdim=True)  # batch 1 query key: attention to all alike

    def to_roles(pattern: Tensor) -> Tensor:
        to_targets = einsum(
            pattern, targets.to(pattern), "batch head query key, batch role query key -> batch head role"
        )
        of_all = einsum(
            pattern.sum(dim=-1), playing.to(pattern), "batch head query, batch role query -> batch head role"
        )
        return torch.cat([to_targets, of_all], dim=-1)

    def look(pattern: Tensor, norms: Tensor | None) -> Tensor:
        alike = [] if norms is None else [to_roles(seen * norms)]
        return torch.cat([to_roles(pattern), _received(pattern, counted, place, len(kinds)), *alike], dim=-1)

    n = len(ROLES)
    looked = _look(model, tokens, real, look, value_weighted)
    both, by_token, alike = looked.tensor_split([2 * n, 2 * n + len(kinds)], dim=-1)
    scores, errors = _ratio(*both.split(n, dim=-1))  # layer head role
    top = _ratio(by_token, by_token.sum(dim=-1, keepdim=True))[0].max(dim=-1)
    alike = _ratio(*(alike if value_weighted else to_roles(seen)[None]).split(n, dim=-1))[0].mean(dim=(0, 1))  # role
    previous, current, first, duplicate, induction = scores.unbind(dim=-1)
    return HeadRoles(
        previous,
        current,
        first,
        duplicate,
        induction,
        top_token=kinds[top.indices],
        top_share=top.values,
        errors=dict(zip(ROLES, errors.unbind(dim=-1), strict=True)),
        uniform=dict(zip(ROLES, alike.tolist(), strict=True)),
    )


def _targets(
    tokens: Int[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"], padding: Padding
) -> Bool[Tensor, "batch role query key"]:
    """Return the positions that each role attends to, in the order of ``ROLES``."""
    at = padding.positions
    later, first = (at > 0)[:, :, None], (at == 0)[:, None]  # queries; keys
    back = at[:, :, None] - at[:, None]  # batch query key
    same = tokens[:, :, None] == tokens[:, None]
    follows = (tokens[:, :, None] == tokens.gather(1, padding.before)[:, None]) & ~first
    each = [back == 1, (back == 0) & later, first & later, same & (back > 0), follows & (back > 0)]
    return torch.stack(each, dim=1) & (real[:, :, None] & real[:, None])[:, None]


# Shared helpers


def _read(
    model: Transformer, source: Tokens, mask: Tensor | None, counted: Tensor | None
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Return the tokens, the mask of real tokens, and the mask of counted queries."""
    device = model.W_E.device
    tokens, mask = as_tokens(source, mask, model.vocabulary, device)
    tokens = tokens.to(device)
    check_tokens(tokens, model.W_E)
    mask = check_mask(mask, tokens)
    real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.to(device)
    if counted is None:
        return tokens, real, real
    counted = torch.as_tensor(counted)
    if counted.shape != tokens.shape or counted.dtype != torch.bool:
        raise ValueError(
            f"counted is {counted.dtype} of shape {list(counted.shape)}; it must mark the queries, true or false, of "
            f"tokens of shape {list(tokens.shape)}"
        )
    if not (counted.to(device) & real).any():
        raise ValueError("counted marks no query")
    return tokens, real, counted.to(device) & real


def _kinds(tokens: Tensor, real: Tensor) -> tuple[Int[Tensor, " token"], Int[Tensor, "batch pos"]]:
    """Return the distinct tokens of a text, ascending, and the index of each position's token; arbitrary at padding."""
    kinds = tokens[real].unique()
    return kinds, torch.searchsorted(kinds, tokens).clamp(max=len(kinds) - 1)


def _received(
    pattern: Float[Tensor, "batch head query key"], counted: Tensor, place: Int[Tensor, "batch pos"], n: int
) -> Float[Tensor, "batch head n"]:
    """Return the attention from the counted queries to each of ``n`` kinds of keys; ``place`` is a key's kind."""
    received = einsum(pattern, counted.to(pattern), "batch head query key, batch query -> batch head key")
    return received.new_zeros(*received.shape[:2], n).scatter_add(2, place[:, None].expand_as(received), received)


def _look(
    model: Transformer, tokens: Tensor, real: Tensor, look: Look, value_weighted: bool
) -> Float[Tensor, "layer batch head n"]:
    """Return ``look`` of each layer's pattern, without storing the patterns."""
    seen = _Looked(model, look, value_weighted)
    mask = None if bool(real.all()) else real
    model.run_to(tokens, model.config.n_layers, tap=seen, mask=mask)  # no logits are needed
    if not seen.results:
        none = model.W_E.new_zeros(len(tokens), model.config.n_heads, tokens.shape[1], tokens.shape[1])
        return look(none, None)[None][:0]
    return torch.stack(seen.results)


class _Looked:
    """A tap that stores ``look`` of each pattern, optionally weighted by the length of the vectors moved."""

    def __init__(self, model: Transformer, look: Look, value_weighted: bool) -> None:
        self.attention = [cast(Block, block).attn for block in model.blocks]
        self.look, self.value_weighted = look, value_weighted
        self.norms: list[Tensor] = []  # one per layer; a layer computes its values before its pattern
        self.results: list[Tensor] = []

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if name.endswith(".attn.v"):
            self.norms.append(value_norms(self.attention[len(self.norms)], x)[:, :, None])  # batch head 1 key
        else:
            norms, pattern = self.norms[-1] if self.value_weighted else None, _precise(x)
            self.results.append(self.look(pattern if norms is None else pattern * norms, norms))
        return x

    def resolve(self, known: list[str]) -> frozenset[str]:
        ends = (".attn.pattern", ".attn.v") if self.value_weighted else (".attn.pattern",)
        return frozenset(name for name in known if name.endswith(ends))


def _ratio(
    part: Float[Tensor, "layer batch head n"], whole: Float[Tensor, "layer batch head n"]
) -> tuple[Float[Tensor, "layer head n"], Float[Tensor, "layer head n"]]:
    """Return ``Σ part / Σ whole`` over the examples, with its standard error (delta method, for a ratio of means).

    If the wholes of all examples are equal, this is the standard error of the mean of ``part / whole``.
    """
    batch, total = part.shape[1], whole.sum(dim=1)
    share = part.sum(dim=1) / total
    spread = (part - share[:, None] * whole).square().sum(dim=1)
    return share, (spread * (batch / (batch - 1) if batch > 1 else torch.nan)).sqrt() / total


def _precise(x: Tensor) -> Tensor:
    """Return ``x`` in float32 if it is of half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Return ``part / whole``, and 0 if both are 0."""
    return part / whole.masked_fill(whole == 0, 1)
