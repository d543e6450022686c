"""Changes of weights that leave the function unchanged: folded norms, removed means, a rotated stream.

A norm's scale and shift are linear, and so are the maps that read the norm's output; two linear maps are one::

    (x̂ ∘ w + b) W + c  =  x̂ (diag(w) W) + (b W + c)                   fold_layernorm

LayerNorm subtracts the mean over ``d_model``, so nothing depends on whether the mean was ever written; and softmax
ignores a constant added to all logits of a position::

    norm(x + y) = norm(x + y - mean(y))                               center: the writes
    softmax(x W_U) = softmax(x (W_U - mean over tokens))              center: W_U

Each function returns a new model and leaves the old one unchanged. None of them changes a probability, but raw logits,
activations and weights do change: never compare those across conventions.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from residual.model import Block, Config, Norm, Transformer


@torch.no_grad()
def fold_layernorm(model: Transformer) -> Transformer:
    """Return a model with the same logits and norms without weights: scale 1, shift 0.

    A model with LayerNorm gains biases if it had none (for the shifts), and a ``W_U`` of its own if it was tied.

    Raises:
        ValueError: the model has a norm, and positions are added to queries and keys only (``shortformer``): they pass
            through ``W_Q`` and ``W_K`` but not through the norm, so no single ``W_Q`` serves both.
    """
    c = model.config
    if c.norm == "none":
        return deepcopy(model)
    if c.positions == "shortformer":
        raise ValueError("a norm cannot be folded if positions are added to its output, as with shortformer positions")
    folded = _with(model, bias=c.bias or c.norm == "layer", tied=False)
    for block in _blocks(folded):
        attn, mlp = block.attn, block.mlp
        _fold(block.ln1, attn.W_QKV, attn.b_QKV)
        if mlp is not None and block.ln2 is not None:
            for reads, bias in ((mlp.W_in, mlp.b_in), (mlp.W_gate, mlp.b_gate)):
                if reads is not None:
                    _fold(block.ln2, reads.mT, bias)
            _reset(block.ln2)
        _reset(block.ln1)
    _fold(folded.ln_final, folded.W_U.mT, folded.b_U)
    _reset(folded.ln_final)
    return folded


@torch.no_grad()
def fold_value_bias(model: Transformer) -> Transformer:
    """Return a model with the same logits without ``b_V``: a pattern's rows sum to 1, so heads move one ``b_V``."""
    folded = deepcopy(model)
    for block in _blocks(folded):
        attn = block.attn
        if attn.b_V is not None and attn.b_O is not None:
            b_V = attn._shared(attn.b_V, dim=0)  # head d_head
            attn.b_O.add_((b_V[:, None] @ attn.W_O).sum(dim=(0, 1)))
            attn.b_V.zero_()
    return folded


@torch.no_grad()
def center(model: Transformer) -> Transformer:
    """Return a model with the same log-probabilities, a stream of mean 0 everywhere, and a centered ``W_U``.

    Raises:
        ValueError: the model has no LayerNorm, so it reads the stream's mean (RMSNorm does not subtract it).
    """
    if model.config.norm != "layer":
        has = "RMSNorm, which does not subtract the mean" if model.config.norm == "rms" else "no LayerNorm"
        raise ValueError(f"the stream can be centered only if nothing reads its mean; this model has {has}")
    centred = center_unembedding(model)  # with a W_U of its own
    for weight in _written(centred):
        weight.sub_(weight.mean(dim=-1, keepdim=True))
    return centred


@torch.no_grad()
def center_unembedding(model: Transformer) -> Transformer:
    """Return a model with the same log-probabilities, whose logits have mean 0 over tokens, whatever the norm."""
    centred = _with(model, tied=False)
    centred.W_U.sub_(centred.W_U.mean(dim=1, keepdim=True))
    if centred.b_U is not None:
        centred.b_U.sub_(centred.b_U.mean())
    return centred


@torch.no_grad()
def rotate(model: Transformer, Q: Float[Tensor, "d_model d_model"]) -> Transformer:
    """Return a model with the same logits and the stream in another basis, ``x Q``: writes are multiplied by Q, reads
    by ``Qᵀ = Q⁻¹``.

    Exact if only linear maps and lengths read the stream: without norms, or with folded RMSNorm. LayerNorm also reads
    the mean over coordinates. In a folded and centered model that mean is zero, so LayerNorm equals RMSNorm, which is
    what the rotated model gets.

    Raises:
        ValueError: Q is not orthogonal; norms are not folded; or there is LayerNorm, and the model is not centered.
    """
    c = model.config
    if Q.shape != (c.d_model, c.d_model) or (Q @ Q.mT - torch.eye(len(Q)).to(Q)).abs().max() > 1e-4:
        raise ValueError(f"Q has shape {list(Q.shape)}; it must be orthogonal, {c.d_model} × {c.d_model}")
    Q = Q.to(model.W_E)
    if not all(_is_reset(part) for part in model.modules() if isinstance(part, Norm)):
        raise ValueError("norms with weights of their own single out coordinates; fold_layernorm first")
    turned = _with(model, tied=False)
    if c.norm == "layer":
        worst = max(
            (weight.mean(dim=-1).abs().max() / weight.abs().max().clamp(min=1e-30)).item() for weight in _written(model)
        )
        if worst > 1e-5:
            raise ValueError("LayerNorm singles out the mean over coordinates; center first")
        turned = _with(turned, norm="rms")
    for weight in _written(turned):
        weight.copy_(weight @ Q)
    for block in _blocks(turned):
        block.attn.W_QKV.copy_(block.attn.W_QKV @ Q)  # [… d_model]: (Qᵀ W)ᵀ = Wᵀ Q
        if block.mlp is not None:
            for reads in (block.mlp.W_in, block.mlp.W_gate):
                if reads is not None:
                    reads.copy_(Q.mT @ reads)
    if c.positions == "shortformer" and turned.W_pos is not None:
        turned.W_pos.copy_(turned.W_pos @ Q)
    turned.W_U.copy_(Q.mT @ turned.W_U)
    return turned


def _blocks(model: Transformer) -> list[Block]:
    return cast(list[Block], list(model.blocks))


def _fold(norm: Norm, reads: Tensor, bias: Tensor | None) -> None:
    """Fold a norm into ``reads [… d_model]``, the weights that a linear map applies to the norm's output."""
    if norm.b is not None and bias is not None:
        bias.add_(reads @ norm.b)
    if norm.w is not None:
        reads.mul_(norm.w)


def _reset(norm: Norm) -> None:
    if norm.w is not None:
        norm.w.fill_(1)
    if norm.b is not None:
        norm.b.zero_()


def _is_reset(norm: Norm) -> bool:
    return norm.w is None or bool((norm.w == 1).all() and (norm.b is None or (norm.b == 0).all()))


def _written(model: Transformer) -> list[Tensor]:
    """Return every weight that adds to the stream, ``[… d_model]``."""
    weights: list[Tensor | None] = [model.W_E]
    if model.W_pos is not None and model.config.positions == "learned":
        weights.append(model.W_pos)
    for block in _blocks(model):
        weights += [block.attn.W_O, block.attn.b_O]
        if block.mlp is not None:
            weights += [block.mlp.W_out, block.mlp.b_out]
    return [weight for weight in weights if weight is not None]


def _with(model: Transformer, **changes) -> Transformer:
    """Return a copy of the model with some fields of its config changed; new weights are freshly initialized."""
    config: Config = replace(model.config, **changes)
    other = Transformer(config).to(model.W_E)
    own = dict(model.named_parameters())
    for name, weight in other.named_parameters():
        if name in own:
            weight.copy_(own[name])
            weight.requires_grad_(own[name].requires_grad)
        elif name == "W_U":
            weight.copy_(model.W_U)
    other.vocabulary = model.vocabulary
    return other.train(model.training)
