"""An attention-only model as a sum over paths, with its patterns held fixed.

Once every pattern is a constant, a layer is a linear map of the stream, and the stream a polynomial in these maps. Its
terms are paths: through no head (the direct path), through one, through two in turn (a virtual head).

From Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", "Path Expansion of Logits" and
"Term Importance Analysis". That paper gets the terms up to order n from n runs, with head outputs saved and fed back;
here one pass carries all orders along.
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
    """What each path of a model with two layers writes to the end of the stream; its logits are ``· @ W_U``."""

    direct: Float[Tensor, "batch pos d_model"]
    heads: Float[Tensor, "layer head batch pos d_model"]
    virtual: Float[Tensor, "later_head earlier_head batch pos d_model"]  # one head of layer 1 reads one of layer 0


def by_order(model: Transformer, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "order batch pos d_model"]:
    """The end of the stream, by how many heads a path goes through: 0 to ``n_layers``. Their sum is the stream.

    ``x_n^{l+1} = x_n^l + Σ_h A^h x_{n-1}^l W_OV^h``: a layer raises the order of what it moves by one.

    Raises:
        ValueError: the model has no layers, or an MLP, norms or biases, so that its layers are not linear.
    """
    patterns, start = _frozen(model, tokens)
    orders = torch.stack([start, *[torch.zeros_like(start)] * model.config.n_layers])
    for attn, pattern in zip(_layers(model), patterns, strict=True):
        moved = torch.stack([_moved(attn, pattern, x).sum(dim=0) for x in orders[:-1]])
        orders = torch.cat([orders[:1], orders[1:] + moved])
    return orders


def two_layer_paths(model: Transformer, tokens: Int[Tensor, "batch pos"]) -> Paths:
    """Every path of a model with two layers, by itself.

    Raises:
        ValueError: as ``by_order``; or the model has not two layers.
    """
    if model.config.n_layers != 2:
        raise ValueError(f"the model has {model.config.n_layers} layers; two_layer_paths takes one with two")
    patterns, start = _frozen(model, tokens)
    first, second = _layers(model)
    early, late = _moved(first, patterns[0], start), _moved(second, patterns[1], start)
    virtual = torch.stack([_moved(second, patterns[1], x) for x in early], dim=1)
    return Paths(start, torch.stack([early, late]), virtual)


def _frozen(model: Transformer, tokens: Tensor) -> tuple[list[Tensor], Tensor]:
    """The patterns ``[batch head query key]`` of each layer, and the stream before the first."""
    c = model.config
    if c.d_mlp or c.norm != "none" or c.bias:
        raise ValueError("paths are terms of a linear map; the model must have no MLP, norm or bias")
    if not c.n_layers:
        raise ValueError("the model has no layers: the direct path is all of it")
    model(tokens, tap=(seen := record(["blocks.*.attn.pattern", "blocks.0.resid_pre"])))
    patterns = [seen[f"blocks.{layer}.attn.pattern"] for layer in range(c.n_layers)]
    return patterns, seen["blocks.0.resid_pre"]


def _moved(attn: Attention, pattern: Tensor, x: Tensor) -> Float[Tensor, "head batch pos d_model"]:
    """``A^h x W_V^h W_O^h`` of each head."""
    values = attn._shared(attn.W_V, dim=0)
    v = einsum(x, values, "batch key d_model, head d_model d_head -> batch head key d_head")
    z = einsum(pattern, v, "batch head query key, batch head key d_head -> batch head query d_head")
    return einsum(z, attn.W_O, "batch head query d_head, head d_head d_model -> head batch query d_model")


def _layers(model: Transformer) -> list[Attention]:
    return [cast(Block, block).attn for block in model.blocks]
