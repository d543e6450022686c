"""An attention-only model as a sum over paths, with its patterns held fixed.

Once every pattern is a constant, a layer is a linear map of the stream, and the output a polynomial in these maps. Its
terms are paths: through no head (the direct path), through one head, through two in turn (a virtual head).

From Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", "Path Expansion of Logits" and
"Term Importance Analysis". The paper gets the terms up to order n from n runs, saving head outputs and feeding them
back; here one pass carries all orders along. ``score_paths`` is the other half of the expansion, for scores instead of
logits: "Path Expansion of Attention Scores QK Circuit".
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from residual.model import Attention, Block, Transformer
from residual.taps import record


class Paths(NamedTuple):
    """The contribution of each path of a two-layer model to the end of the stream; its logits are ``· @ W_U``."""

    direct: Float[Tensor, "batch pos d_model"]
    heads: Float[Tensor, "layer head batch pos d_model"]
    virtual: Float[Tensor, "later_head earlier_head batch pos d_model"]  # one head of layer 1 reads one of layer 0


def by_order(model: Transformer, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "order batch pos d_model"]:
    """Return the end of the stream, split by the number of heads in a path, 0 to ``n_layers``. The sum is the stream.

    ``x_n^{l+1} = x_n^l + Σ_h A^h x_{n-1}^l W_OV^h``: a layer raises the order of what it moves by one.

    Raises:
        ValueError: the model has no layers, or is not linear because of an MLP, norms or biases.
    """
    patterns, start = _frozen(model, tokens)
    orders = torch.stack([start, *[torch.zeros_like(start)] * model.config.n_layers])
    for attn, pattern in zip(_layers(model), patterns, strict=True):
        moved = torch.stack([_moved(attn, pattern, x).sum(dim=0) for x in orders[:-1]])
        orders = torch.cat([orders[:1], orders[1:] + moved])
    return orders


def two_layer_paths(model: Transformer, tokens: Int[Tensor, "batch pos"]) -> Paths:
    """Return every path of a two-layer model separately.

    Raises:
        ValueError: see ``by_order``; or the model does not have two layers.
    """
    _check_two_layers(model, "two_layer_paths")
    patterns, start = _frozen(model, tokens)
    first, second = _layers(model)
    early, late = _moved(first, patterns[0], start), _moved(second, patterns[1], start)
    virtual = torch.stack([_moved(second, patterns[1], x) for x in early], dim=1)
    return Paths(start, torch.stack([early, late]), virtual)


def score_paths(
    model: Transformer, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "query_path key_path batch head query key"]:
    """Return the attention scores of the second layer, split by the path of the query and the path of the key.

    Path 0 is direct: the embedding, with positions if the model adds them. Path 1 + h goes through head h of the
    first layer. Both sides of ``x_1 W_QK x_1ᵀ / √d_head`` are sums of paths, so the score is a sum over pairs::

        (h, g)   A^h x_0 (W_OV^h W_QK W_OV^gᵀ) x_0ᵀ A^gᵀ / √d_head        the term A^h ⊗ A^g ⊗ W of the paper

    The sum over both axes of paths is ``blocks.1.attn.scores``, exactly, without the causal mask. Four kinds of term:
    ``[0, 0]`` no composition, ``[1:, 0]`` Q-composition, ``[0, 1:]`` K-composition, ``[1:, 1:]`` both.

    Raises:
        ValueError: see ``two_layer_paths``.
    """
    _check_two_layers(model, "score_paths")
    patterns, start = _frozen(model, tokens)
    first, second = _layers(model)
    q, k = _queries_and_keys(model, second, torch.cat([start[None], _moved(first, patterns[0], start)]))
    pairs = "query_path batch query head d_head, key_path batch key head d_head"
    return einsum(q, k, f"{pairs} -> query_path key_path batch head query key") * model.config.d_head**-0.5


def _check_two_layers(model: Transformer, function: str) -> None:
    if model.config.n_layers != 2:
        raise ValueError(f"the model has {model.config.n_layers} layers; {function} takes one with two")


def _queries_and_keys(
    model: Transformer, attn: Attention, paths: Float[Tensor, "path batch pos d_model"]
) -> tuple[Float[Tensor, "path batch pos head d_head"], Float[Tensor, "path batch pos head d_head"]]:
    """Return each path's part of every query and key; positions that only these see are in path 0."""
    place = model.place(0, paths.shape[2])
    if model.config.positions == "rotary":  # rotation and smearing are linear: both act on each part separately
        q, k, _ = attn.qkv(paths, place)
    else:
        sides = attn.qkv(paths[:1], place), attn.qkv(paths[1:], None)
        q, k, _ = (torch.cat(parts) for parts in zip(*sides, strict=True))
    k = attn._shared(k, dim=-2)
    if attn.smear is not None:
        own = attn._shared(attn.smear.sigmoid(), dim=0)[:, None]  # head 1
        k = own * k + (1 - own) * torch.cat([k[:, :, :1], k[:, :, :-1]], dim=2)
    return q, k


def _frozen(model: Transformer, tokens: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the patterns ``[batch head query key]`` of each layer, and the stream before the first."""
    c = model.config
    if c.d_mlp or c.norm != "none" or c.bias:
        raise ValueError("paths are terms of a linear map; the model must have no MLP, norm or bias")
    if not c.n_layers:
        raise ValueError("the model has no layers: it is only the direct path")
    model(tokens, tap=(seen := record(["blocks.*.attn.pattern", "blocks.0.resid_pre"])))
    patterns = [seen[f"blocks.{layer}.attn.pattern"] for layer in range(c.n_layers)]
    return patterns, seen["blocks.0.resid_pre"]


def _moved(attn: Attention, pattern: Tensor, x: Tensor) -> Float[Tensor, "head batch pos d_model"]:
    """Return ``A^h x W_V^h W_O^h`` for each head."""
    values = attn._shared(attn.W_V, dim=0)
    v = einsum(x, values, "batch key d_model, head d_model d_head -> batch head key d_head")
    z = einsum(pattern, v, "batch head query key, batch head key d_head -> batch head query d_head")
    return einsum(z, attn.W_O, "batch head query d_head, head d_head d_model -> head batch query d_model")


def _layers(model: Transformer) -> list[Attention]:
    return [cast(Block, block).attn for block in model.blocks]
