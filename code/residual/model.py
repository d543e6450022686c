"""A transformer, on one page: read it from top to bottom, in the order in which it computes.

Activations are row vectors, and a weight acts from the right: ``x @ W``. The notation is that of Elhage
et al. 2021, "A Mathematical Framework for Transformer Circuits", transposed (the paper writes columns)::

    x_0      = W_E[tokens] + W_pos                                    embedding
    A^h      = softmax(x W_Q^h (x W_K^h)ᵀ / √d_head)                  where head h looks (causal)
    x_{l+1}  = x_l + Σ_h A^h x_l W_V^h W_O^h                          what it moves; heads add
    logits   = x_L W_U                                                unembedding

No biases, no LayerNorm, no MLP: the models of that paper, with any number of layers, zero included.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor, nn

from residual.factored import FactoredMatrix
from residual.taps import Scope, Tap, nearest, scope

Positions = Literal["learned", "none"]


@dataclass(frozen=True)
class Config:
    """The numbers of a model.

    Raises:
        TypeError: a field that does not exist (the message lists the nearest).
        ValueError: a number that makes no model.
    """

    n_layers: int = 2
    d_model: int = 128  # width of the residual stream
    n_heads: int = 4
    d_head: int = 32  # need not be d_model / n_heads
    n_ctx: int = 128  # the longest sequence, in tokens
    d_vocab: int = 512
    positions: Positions = "learned"  # added to the stream, or absent
    init_std: float = 0.02  # standard deviation of the weights before training

    def __new__(cls, *args, **kwargs) -> Config:
        known = [field.name for field in fields(cls)]
        for name in kwargs:
            if name not in known:
                raise TypeError(f"Config has no field {name!r}; {nearest(name, known)}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name, least in dict(n_layers=0, d_model=1, n_heads=1, d_head=1, n_ctx=1, d_vocab=1).items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"Config.{name} is {value!r}; it must be a whole number, at least {least}")
        if self.positions not in get_args(Positions):
            raise ValueError(f"Config.positions is {self.positions!r}; {nearest(self.positions, get_args(Positions))}")


class Attention(nn.Module):
    """Heads that each move information along their own pattern; what they write is added up."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        # One parameter for the three maps into the heads, output axis first, so that one matrix product
        # computes them all; W_Q, W_K and W_V below are views of it, in the papers' shape.
        self.W_QKV = nn.Parameter(torch.empty(3 * c.n_heads, c.d_head, c.d_model))
        self.W_O = nn.Parameter(torch.empty(c.n_heads, c.d_head, c.d_model))

    def forward(self, x: Float[Tensor, "batch pos d_model"], tap: Scope) -> Float[Tensor, "batch pos d_model"]:
        c = self.config
        qkv = F.linear(x, self.W_QKV.flatten(0, 1))  # batch pos (3 head d_head)
        q, k, v = qkv.unflatten(-1, (-1, c.d_head)).split(c.n_heads, dim=-2)
        q, k, v = tap("q", q), tap("k", k), tap("v", v)  # batch pos head d_head

        if tap.wants("scores", "pattern"):
            scores = einsum(q, k, "batch query head d_head, batch key head d_head -> batch head query key")
            future = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(diagonal=1)  # query key
            scores = tap("scores", (scores * c.d_head**-0.5).masked_fill(future, -torch.inf))
            pattern = tap("pattern", scores.softmax(dim=-1))  # batch head query key; rows sum to 1
            z = einsum(pattern, v, "batch head query key, batch key head d_head -> batch query head d_head")
        else:  # the same three lines in one kernel, which never stores the pattern
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # batch head pos d_head
            z = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        z = tap("z", z)  # batch pos head d_head

        if tap.wants("result"):
            result = einsum(z, self.W_O, "batch pos head d_head, head d_head d_model -> batch pos head d_model")
            return tap("result", result).sum(dim=-2)  # batch pos d_model
        # concatenating the heads and multiplying once is the same sum, without storing its terms
        return z.flatten(-2) @ self.W_O.flatten(0, 1)  # batch pos d_model

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        return self.W_QKV[: self.config.n_heads].mT

    @property
    def W_K(self) -> Float[Tensor, "head d_model d_head"]:
        return self.W_QKV[self.config.n_heads : 2 * self.config.n_heads].mT

    @property
    def W_V(self) -> Float[Tensor, "head d_model d_head"]:
        return self.W_QKV[2 * self.config.n_heads :].mT

    def W_QK(self, head: int | slice = slice(None)) -> FactoredMatrix:
        """``W_Q W_Kᵀ [d_model d_model]``, without the ``1/√d_head``: which keys a query takes from."""
        return FactoredMatrix(self.W_Q[head], self.W_K[head].mT)

    def W_OV(self, head: int | slice = slice(None)) -> FactoredMatrix:
        """``W_V W_O [d_model d_model]``: what is written when a position is attended to."""
        return FactoredMatrix(self.W_V[head], self.W_O[head])


class Block(nn.Module):
    """Reads the residual stream, and adds to it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attn = Attention(config)

    def forward(self, x: Float[Tensor, "batch pos d_model"], tap: Scope) -> Float[Tensor, "batch pos d_model"]:
        x = tap("resid_pre", x)
        x = x + tap("attn_out", self.attn(x, tap.inside("attn")))
        return tap("resid_post", x)


class Transformer(nn.Module):
    """Tokens in, logits for the next token out. The weights depend on ``seed`` alone."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        super().__init__()
        c = self.config = config
        self.W_E = nn.Parameter(torch.empty(c.d_vocab, c.d_model))
        self.W_pos = nn.Parameter(torch.empty(c.n_ctx, c.d_model)) if c.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.n_layers))
        self.W_U = nn.Parameter(torch.empty(c.d_model, c.d_vocab))
        generator = torch.Generator().manual_seed(seed)
        for weight in self.parameters():
            nn.init.normal_(weight, std=c.init_std, generator=generator)

    def forward(self, tokens: Int[Tensor, "batch pos"], tap: Tap | None = None) -> Float[Tensor, "batch pos d_vocab"]:
        """The logits. ``tap(name, x)`` sees each of ``activation_names`` and may change it. See taps.py.

        Raises:
            TypeError: the tokens are not whole numbers.
            ValueError: not ``[batch pos]``, longer than the context, a token out of range, a wrong tap name.
        """
        self._check(tokens)
        tap = scope(tap, self.activation_names)
        x = tap("embed", F.embedding(tokens, self.W_E))  # batch pos d_model
        if self.W_pos is not None:
            x = x + tap("pos_embed", self.W_pos[: tokens.shape[1]].expand_as(x))
        for layer, block in enumerate(self.blocks):
            x = block(x, tap.inside(f"blocks.{layer}"))
        return x @ self.W_U  # batch pos d_vocab

    @cached_property
    def activation_names(self) -> list[str]:
        """The names that a tap can ask for, in the order in which they are computed."""
        names = ["embed"] if self.W_pos is None else ["embed", "pos_embed"]
        for layer in range(self.config.n_layers):
            attn = [f"attn.{name}" for name in ("q", "k", "v", "scores", "pattern", "z", "result")]
            names += [f"blocks.{layer}.{name}" for name in ("resid_pre", *attn, "attn_out", "resid_post")]
        return names

    def _check(self, tokens: Tensor) -> None:
        c = self.config
        if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            raise TypeError(f"tokens are {tokens.dtype}; the model takes whole numbers, say torch.long")
        if tokens.ndim != 2 or 0 in tokens.shape:
            raise ValueError(f"tokens have shape {list(tokens.shape)}; the model takes [batch pos], neither of them 0")
        if tokens.shape[1] > c.n_ctx:
            raise ValueError(f"the sequence has {tokens.shape[1]} tokens; the model's context holds n_ctx = {c.n_ctx}")
        low, high = (int(end) for end in tokens.aminmax())
        if low < 0 or high >= c.d_vocab:
            bad = low if low < 0 else high
            raise ValueError(
                f"token {bad} is out of range; the model knows 0 to {c.d_vocab - 1} (d_vocab = {c.d_vocab})"
            )
