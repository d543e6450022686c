"""A forward pass of the committed models, written from the papers' formulas and sharing nothing with the library.

Attention-only models (Elhage et al. 2021), with positions in the stream or only in the input of queries and keys
(Press et al. 2021, "Shortformer"), and GPT-2 (Radford et al. 2019): positions in the stream, LayerNorm, an MLP.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .weights import config, heads, weights


@dataclass
class Seen:
    """The results of a pass, by layer: ``pattern [batch head query key]``, ``written [batch pos head d_model]``.

    ``stream[l]`` is the input of layer ``l``; the last entry is the end of the stream.
    """

    pattern: list[Tensor] = field(default_factory=list)
    written: list[Tensor] = field(default_factory=list)
    stream: list[Tensor] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


Change = Callable[[Tensor, int], Tensor]


def unchanged(x: Tensor, layer: int) -> Tensor:
    return x


def forward(
    name: str,
    tokens: Tensor,
    dtype: torch.dtype = torch.float64,
    *,
    pattern: Change = unchanged,
    z: Change = unchanged,
    out: Change = unchanged,
    keys_from: Change = unchanged,
    keys: Change = unchanged,
    apart: bool = False,
) -> Seen:
    """Run an attention-only model on tokens ``[batch pos]``; each argument may change a layer's intermediate results.

    Args:
        z: the mixed values ``[batch head pos d_head]``, before ``W_O``.
        out: the sum of all heads' outputs ``[batch pos d_model]``.
        keys_from: the stream that the keys read.
        keys: the keys themselves, ``[batch head pos d_head]``.
        apart: keep the output of each head as well.
    """
    c = config(name)
    assert c["norm"] == "none" and not c["d_mlp"], f"{name} is not attention-only"
    w = {key: tensor.to(dtype) for key, tensor in weights(name).items()}
    seen = Seen()
    n = tokens.shape[1]
    x, place = w["W_E"][tokens], w["W_pos"][:n]
    if c["positions"] == "learned":  # added to the stream once, not to the input of queries and keys at each layer
        x, place = x + place, torch.zeros_like(place)
    future = torch.ones(n, n, dtype=torch.bool).triu(1)
    for layer in range(c["n_layers"]):
        seen.stream.append(x)
        h = {kind: tensor.to(dtype) for kind, tensor in heads(name, layer).items()}
        q = ((x + place)[:, None]) @ h["Q"]
        k = (keys_from(x, layer) + place)[:, None] @ h["K"]
        v = x[:, None] @ h["V"]  # values see no positions
        smear = w.get(f"blocks.{layer}.attn.smear")
        if smear is not None:  # Olsson et al. 2022, argument 2: each key is mixed with the one before
            own = (1 / (1 + (-smear).exp()))[:, None, None]
            before = torch.cat([k[:, :, :1], k[:, :, :-1]], dim=2)
            k = own * k + (1 - own) * before
        scores = q @ keys(k, layer).transpose(2, 3) / math.sqrt(c["d_head"])
        A = pattern(scores.masked_fill(future, -torch.inf).softmax(dim=-1), layer)
        mixed = z(A @ v, layer)
        if apart:
            seen.written.append((mixed @ h["O"]).transpose(1, 2))
        seen.pattern.append(A)
        x = x + out(mixed.transpose(1, 2).flatten(2) @ h["O"].flatten(0, 1), layer)
    seen.stream.append(x)
    seen.logits = x @ w["W_U"]
    return seen


def gpt(
    name: str,
    tokens: Tensor,
    dtype: torch.dtype = torch.float64,
    norm: Callable[[Tensor], Tensor] | None = None,
    shift: Tensor | float = 0,
) -> Tensor:
    """Return the logits of a GPT-2 with tied embeddings.

    Args:
        norm: a normalization instead of LayerNorm's, before its gain and bias.
        shift: added to the position vectors, ``[pos d_model]``.
    """
    c, w = config(name), {key: tensor.to(dtype) for key, tensor in weights(name).items()}
    n, n_heads = tokens.shape[1], c["n_heads"]
    norm = norm or layer_norm
    x = w["W_E"][tokens] + w["W_pos"][:n] + shift
    future = torch.ones(n, n, dtype=torch.bool).triu(1)
    for layer in range(c["n_layers"]):
        b = {key.split(".", 2)[2]: tensor for key, tensor in w.items() if key.startswith(f"blocks.{layer}.")}
        y = norm(x) * b["ln1.w"] + b["ln1.b"]
        maps = (y[:, None] @ b["attn.W_QKV"].transpose(1, 2)) + b["attn.b_QKV"][:, None]
        q, k, v = maps.split(n_heads, dim=1)
        A = (q @ k.transpose(2, 3) / math.sqrt(c["d_head"])).masked_fill(future, -torch.inf).softmax(dim=-1)
        x = x + (A @ v @ b["attn.W_O"]).sum(dim=1) + b["attn.b_O"]
        y = norm(x) * b["ln2.w"] + b["ln2.b"]
        x = x + gelu(y @ b["mlp.W_in"] + b["mlp.b_in"]) @ b["mlp.W_out"] + b["mlp.b_out"]
    return (norm(x) * w["ln_final.w"] + w["ln_final.b"]) @ w["W_E"].T


def layer_norm(x: Tensor) -> Tensor:
    """Normalize to mean 0 and variance 1 (Ba et al. 2016), with GPT-2's ε."""
    x = x - x.mean(dim=-1, keepdim=True)
    return x / ((x * x).mean(dim=-1, keepdim=True) + 1e-5).sqrt()


def gelu(x: Tensor) -> Tensor:
    """GPT-2's approximation by tanh (Hendrycks and Gimpel 2016, equation 2)."""
    return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return −log p of each target ``[batch pos]``, in nats."""
    return logits.logsumexp(dim=-1) - logits.gather(-1, targets[..., None])[..., 0]


def loss(logits: Tensor, targets: Tensor) -> float:
    return losses(logits, targets).mean().item()


def over(name: str, windows: Tensor, run: Callable = forward, size: int = 16) -> Tensor:
    """Return the loss of each window ``[window pos]``, in single precision, a few windows at a time."""
    parts = []
    for part in windows.split(size):
        result = run(name, part[:, :-1], torch.float32)
        parts.append(losses(result.logits if isinstance(result, Seen) else result, part[:, 1:]).mean(dim=1))
    return torch.cat(parts).double()
