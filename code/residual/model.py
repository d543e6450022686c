"""A transformer, on one page: read it from top to bottom, in the order in which it computes.

Activations are row vectors, and a weight acts from the right: ``x @ W``. The notation is that of Elhage
et al. 2021, "A Mathematical Framework for Transformer Circuits", transposed (the paper writes columns)::

    x_0      = W_E[tokens] + W_pos                                    embedding
    A^h      = softmax(x̂ W_Q^h (x̂ W_K^h)ᵀ / √d_head)                  where head h looks (causal); x̂ = norm(x_l)
    x_mid    = x_l + Σ_h A^h x̂ W_V^h W_O^h                            what it moves; heads add
    x_{l+1}  = x_mid + act(norm(x_mid) W_in) W_out                    MLP
    logits   = norm(x_L) W_U                                          unembedding

``Config()`` has neither norm nor MLP nor biases: the models of that paper, with any number of layers, zero
included. ``norm="layer", d_mlp=4 * d_model, bias=True, tied=True`` is GPT-2 (Radford et al. 2019), and
``norm="rms", act="swiglu", positions="rotary"`` with fewer key heads is Llama (Touvron et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor, nn

from residual.cache import KVCache, span
from residual.checks import Checked, check_stream, embed
from residual.factored import FactoredMatrix
from residual.taps import Scope, Tap, scope


@dataclass(frozen=True)
class Config(Checked):
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
    positions: Literal["learned", "shortformer", "rotary", "none"] = "learned"
    # that is: added to the stream; added to what queries and keys read (Press et al. 2021); turning these; absent
    init_std: float = 0.02  # standard deviation of the weights before training
    d_mlp: int = 0  # 0: no MLP
    act: Literal["relu", "gelu", "gelu_new", "swiglu"] = "gelu_new"  # GPT-2's, by tanh; "gelu" is the exact one
    norm: Literal["none", "layer", "rms"] = "none"
    norm_eps: float = 1e-5
    n_kv_heads: int | None = None  # as many as n_heads, or fewer, which query heads share
    rotary_base: float = 10000.0
    rotary_interleaved: bool = False  # turn the pairs (2i, 2i+1); else (i, i + d_head/2), as Hugging Face does
    smeared_keys: bool = False  # each key mixed with the one before it
    tied: bool = False  # W_U is W_Eᵀ
    bias: bool = False
    causal: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_heads % self.kv_heads:
            raise ValueError(f"Config.n_heads is {self.n_heads}; {self.kv_heads} key heads cannot share it evenly")
        if self.positions == "rotary" and self.d_head % 2:
            raise ValueError(f"Config.d_head is {self.d_head}; rotary positions turn pairs, so it must be even")

    @property
    def kv_heads(self) -> int:
        """The number of heads that keys and values have."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads


class Norm(nn.Module):
    """LayerNorm (Ba et al. 2016), RMSNorm (Zhang and Sennrich 2019), or nothing: each position by itself."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.w = nn.Parameter(torch.ones(config.d_model)) if config.norm != "none" else None
        self.b = nn.Parameter(torch.zeros(config.d_model)) if config.norm == "layer" else None

    def forward(self, x: Float[Tensor, "batch pos d_model"], tap: Scope) -> Float[Tensor, "batch pos d_model"]:
        if self.w is None:
            return x
        eps = self.config.norm_eps
        if tap.wants("scale", "normalized"):
            if self.b is not None:
                x = x - x.mean(dim=-1, keepdim=True)
            scale = tap("scale", (x.square().mean(dim=-1, keepdim=True) + eps).sqrt())  # batch pos 1
            x = tap("normalized", x / scale) * self.w  # batch pos d_model
            return x if self.b is None else x + self.b
        if self.b is not None:  # the same lines in one kernel
            return F.layer_norm(x, self.w.shape, self.w, self.b, eps)
        return F.rms_norm(x, self.w.shape, self.w, eps)


class Attention(nn.Module):
    """Heads that each move information along their own pattern; what they write is added up."""

    def __init__(self, config: Config, layer: int = 0) -> None:
        super().__init__()
        c = self.config = config
        self.layer = layer
        # One parameter for the three maps into the heads, output axis first, so that one matrix product
        # computes them all; W_Q, W_K and W_V below are views of it, in the papers' shape.
        n_maps = c.n_heads + 2 * c.kv_heads
        self.W_QKV = nn.Parameter(torch.empty(n_maps, c.d_head, c.d_model))
        self.W_O = nn.Parameter(torch.empty(c.n_heads, c.d_head, c.d_model))
        self.b_QKV = nn.Parameter(torch.zeros(n_maps, c.d_head)) if c.bias else None
        self.b_O = nn.Parameter(torch.zeros(c.d_model)) if c.bias else None
        self.smear = nn.Parameter(torch.zeros(c.kv_heads)) if c.smeared_keys else None

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], tap: Scope, place: Tensor | None, cache: KVCache | None
    ) -> Float[Tensor, "batch pos d_model"]:
        c, n, m = self.config, self.config.n_heads, self.config.kv_heads
        qkv = F.linear(x, self.W_QKV.flatten(0, 1), None if self.b_QKV is None else self.b_QKV.flatten())
        q, k, v = qkv.view(*x.shape[:2], -1, c.d_head).split_with_sizes([n, m, m], dim=-2)
        if c.positions == "shortformer" and place is not None:
            # (x + place) W = x W + place W, and the second is the same for the whole batch. Values see no positions.
            shift = F.linear(place, self.W_QKV[: n + m].flatten(0, 1)).unflatten(-1, (-1, c.d_head))
            q, k = q + shift[..., :n, :], k + shift[..., n:, :]
        q, k, v = tap("q", q), tap("k", k), tap("v", v)  # batch pos head d_head
        if c.positions == "rotary" and place is not None:
            q, k = rotate(q, place, c.rotary_interleaved), rotate(k, place, c.rotary_interleaved)

        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # batch head pos d_head
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        if self.smear is not None:  # Olsson et al. 2022, "In-context Learning and Induction Heads", Argument 2
            own = self.smear.sigmoid()[:, None, None]  # head 1 1
            k = own * k + (1 - own) * torch.cat([k[:, :, :1], k[:, :, :-1]], dim=-2)

        n_query, n_key = q.shape[-2], k.shape[-2]  # with a cache there are more keys than queries
        future = None  # query key; -∞ where the key comes later. One query alone is the last, and has no future
        if c.causal and n_query > 1 and (n_query < n_key or tap.wants("scores", "pattern")):
            future = x.new_full((n_query, n_key), -torch.inf).triu(diagonal=1 + n_key - n_query)
        if tap.wants("scores", "pattern"):
            k, v = self._shared(k, dim=1), self._shared(v, dim=1)
            scores = einsum(q, k, "batch head query d_head, batch head key d_head -> batch head query key")
            scores = scores.mul_(c.d_head**-0.5)  # in place, here and below: this is what takes the memory
            scores = tap("scores", scores if future is None else scores.add_(future))
            pattern = tap("pattern", scores.softmax(dim=-1))  # batch head query key; rows sum to 1
            z = einsum(pattern, v, "batch head query key, batch head key d_head -> batch query head d_head")
        else:  # the same lines in one kernel, which never stores the pattern
            causal = c.causal and n_query > 1 and future is None
            z = F.scaled_dot_product_attention(q, k, v, future, is_causal=causal, enable_gqa=n > m).transpose(1, 2)
        z = tap("z", z)  # batch pos head d_head

        if tap.wants("result"):
            result = einsum(z, self.W_O, "batch pos head d_head, head d_head d_model -> batch pos head d_model")
            out = tap("result", result).sum(dim=-2)  # batch pos d_model
            return out if self.b_O is None else out + self.b_O
        # concatenating the heads and multiplying once is the same sum, without storing its terms
        return F.linear(z.flatten(-2), self.W_O.flatten(0, 1).mT, self.b_O)  # batch pos d_model

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        return self._maps(self.W_QKV)[0].mT

    @property
    def W_K(self) -> Float[Tensor, "kv_head d_model d_head"]:
        return self._maps(self.W_QKV)[1].mT

    @property
    def W_V(self) -> Float[Tensor, "kv_head d_model d_head"]:
        return self._maps(self.W_QKV)[2].mT

    @property
    def b_Q(self) -> Float[Tensor, "head d_head"] | None:
        return None if self.b_QKV is None else self._maps(self.b_QKV)[0]

    @property
    def b_K(self) -> Float[Tensor, "kv_head d_head"] | None:
        return None if self.b_QKV is None else self._maps(self.b_QKV)[1]

    @property
    def b_V(self) -> Float[Tensor, "kv_head d_head"] | None:
        return None if self.b_QKV is None else self._maps(self.b_QKV)[2]

    def W_QK(self, head: int | slice = slice(None)) -> FactoredMatrix:
        """``W_Q W_Kᵀ [d_model d_model]``, without the ``1/√d_head``: which keys a query takes from."""
        return FactoredMatrix(self.W_Q[head], self._shared(self.W_K, dim=0)[head].mT)

    def W_OV(self, head: int | slice = slice(None)) -> FactoredMatrix:
        """``W_V W_O [d_model d_model]``: what is written when a position is attended to."""
        return FactoredMatrix(self._shared(self.W_V, dim=0)[head], self.W_O[head])

    def _maps(self, joint: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The parts of a joint parameter that make queries, keys and values. Views, so they can be written to."""
        n, m = self.config.n_heads, self.config.kv_heads
        return joint[:n], joint[n : n + m], joint[n + m :]

    def _shared(self, x: Tensor, dim: int) -> Tensor:
        """Keys or values, one for each query head (Ainslie et al. 2023, "GQA")."""
        sharing = self.config.n_heads // self.config.kv_heads
        return x if sharing == 1 else x.repeat_interleave(sharing, dim=dim)


class MLP(nn.Module):
    """Each position by itself: ``d_mlp`` neurons read the stream, and write to it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        gated = c.act == "swiglu"
        self.W_in = nn.Parameter(torch.empty(c.d_model, c.d_mlp))
        self.W_gate = nn.Parameter(torch.empty(c.d_model, c.d_mlp)) if gated else None
        self.W_out = nn.Parameter(torch.empty(c.d_mlp, c.d_model))
        self.b_in = nn.Parameter(torch.zeros(c.d_mlp)) if c.bias else None
        self.b_gate = nn.Parameter(torch.zeros(c.d_mlp)) if c.bias and gated else None
        self.b_out = nn.Parameter(torch.zeros(c.d_model)) if c.bias else None

    def forward(self, x: Float[Tensor, "batch pos d_model"], tap: Scope) -> Float[Tensor, "batch pos d_model"]:
        inward = F.linear(x, self.W_in.mT, self.b_in)  # batch pos d_mlp
        if self.W_gate is not None:  # Shazeer 2020, "GLU Variants Improve Transformer", equation 6
            post = F.silu(tap("pre", F.linear(x, self.W_gate.mT, self.b_gate))) * inward
        elif self.config.act == "relu":
            post = F.relu(tap("pre", inward))
        else:
            post = F.gelu(tap("pre", inward), approximate="tanh" if self.config.act == "gelu_new" else "none")
        return F.linear(tap("post", post), self.W_out.mT, self.b_out)  # batch pos d_model


class Block(nn.Module):
    """Reads the residual stream, and adds to it: first the heads, then the neurons."""

    def __init__(self, config: Config, layer: int = 0) -> None:
        super().__init__()
        self.ln1 = Norm(config)
        self.attn = Attention(config, layer)
        self.ln2 = Norm(config) if config.d_mlp else None
        self.mlp = MLP(config) if config.d_mlp else None

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], tap: Scope, place: Tensor | None, cache: KVCache | None
    ) -> Float[Tensor, "batch pos d_model"]:
        x = tap("resid_pre", x)
        x = x + tap("attn_out", self.attn(self.ln1(x, tap.inside("ln1")), tap.inside("attn"), place, cache))
        if self.mlp is not None and self.ln2 is not None:
            x = tap("resid_mid", x)
            x = x + tap("mlp_out", self.mlp(self.ln2(x, tap.inside("ln2")), tap.inside("mlp")))
        return tap("resid_post", x)


class Transformer(nn.Module):
    """Tokens in, logits for the next token out. The weights depend on ``seed`` alone."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        super().__init__()
        c = self.config = config
        self.W_E = nn.Parameter(torch.empty(c.d_vocab, c.d_model))
        added = c.positions in ("learned", "shortformer")
        self.W_pos = nn.Parameter(torch.empty(c.n_ctx, c.d_model)) if added else None
        self.blocks = nn.ModuleList(Block(c, layer) for layer in range(c.n_layers))
        self.ln_final = Norm(c)
        if not c.tied:
            self.W_U = nn.Parameter(torch.empty(c.d_model, c.d_vocab))
        self.b_U = nn.Parameter(torch.zeros(c.d_vocab)) if c.bias and not c.tied else None
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if name.split(".")[-1].startswith("W_"):  # norms begin as 1, biases as 0
                nn.init.normal_(weight, std=c.init_std, generator=generator)
        if c.positions == "shortformer" and self.W_pos is not None:  # as Press et al. 2021; small ones hardly learn
            turn = angles(0, c.n_ctx, c.d_model, 10000.0)
            self.W_pos.data.copy_(torch.cat([turn.sin(), turn.cos()], dim=-1)[:, : c.d_model])

    def __getattr__(self, name: str):
        """A tied model has no ``W_U`` of its own: it reads out what the embedding wrote."""
        if name == "W_U" and self.config.tied:
            return self.W_E.T
        return super().__getattr__(name)

    def forward(
        self, tokens: Int[Tensor, "batch pos"], tap: Tap | None = None, cache: KVCache | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """The logits. ``tap(name, x)`` sees each of ``activation_names`` and may change it. See taps.py.

        With a ``cache``, ``tokens`` follow those that it has seen, and it has seen them afterwards.

        Raises:
            TypeError: the tokens are not whole numbers.
            ValueError: not ``[batch pos]``, longer than the context, a token out of range, a wrong tap name.
        """
        rows = embed(tokens, self.W_E)
        start, stop = span(tokens, self.config.n_ctx, cache)
        seen = scope(tap, self.activation_names)
        x = seen("embed", rows)  # batch pos d_model
        if self.W_pos is not None and self.config.positions == "learned":
            x = x + seen("pos_embed", self.W_pos[start:stop].expand_as(x))
        return self._layers(0, x, seen, cache)

    def run_from(
        self,
        layer: int,
        resid: Float[Tensor, "batch pos d_model"],
        tap: Tap | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """The logits, from ``blocks.{layer}.resid_pre`` on; with ``layer = n_layers``, from the stream's end.

        With a ``cache`` of length p, ``resid`` holds positions p, p+1, …: only they are computed again.

        Raises:
            ValueError: there is no such layer, ``resid`` has the wrong shape, or the tap names what comes before.
        """
        check_stream(resid, layer, self.config.n_layers, self.config.d_model)
        return self._layers(layer, resid, scope(tap, activations(self.config, layer)), cache)

    def _layers(self, first: int, x: Tensor, tap: Scope, cache: KVCache | None) -> Float[Tensor, "batch pos d_vocab"]:
        c = self.config
        start, stop = span(x, c.n_ctx, cache)
        place = None  # what an attention layer is told of positions
        if c.positions == "shortformer" and self.W_pos is not None:
            place = self.W_pos[start:stop]  # pos d_model
            place = tap("pos_embed", place.expand_as(x)) if tap.wants("pos_embed") else place
        elif c.positions == "rotary":
            turn = angles(start, stop, c.d_head, c.rotary_base)
            place = torch.stack([turn.cos(), turn.sin()])[:, :, None].to(x)  # (cos sin) pos 1 d_head/2
        for layer, block in enumerate(self.blocks[first:] if first else self.blocks, first):
            x = block(x, tap.inside(f"blocks.{layer}"), place, cache)
        if cache is not None:
            cache.length = stop
        x = self.ln_final(x, tap.inside("ln_final"))
        return F.linear(x, self.W_U.mT, self.b_U)  # batch pos d_vocab

    def cache(self, batch: int, n_ctx: int | None = None) -> KVCache:
        """An empty cache for ``batch`` sequences of up to ``n_ctx`` tokens; the model's context, if not given.

        Raises:
            ValueError: the model is bidirectional, so that what a position computes depends on those to come.
        """
        c = self.config
        if not c.causal:
            raise ValueError("a bidirectional model has no cache: each new token changes every earlier position")
        return KVCache(c.n_layers, batch, c.kv_heads, c.n_ctx if n_ctx is None else n_ctx, c.d_head, like=self.W_E)

    @cached_property
    def activation_names(self) -> list[str]:
        """The names that a tap can ask for, in the order in which they are computed."""
        return activations(self.config)


def activations(config: Config, first: int | None = None) -> list[str]:
    """The names of a model's activations, in the order in which they are computed; or those from layer ``first`` on."""

    def norm(name: str) -> list[str]:
        return [] if config.norm == "none" else [f"{name}.scale", f"{name}.normalized"]

    attn = [f"attn.{name}" for name in ("q", "k", "v", "scores", "pattern", "z", "result")]
    block = ["resid_pre", *norm("ln1"), *attn, "attn_out"]
    if config.d_mlp:
        block += ["resid_mid", *norm("ln2"), "mlp.pre", "mlp.post", "mlp_out"]
    names = ["embed"] if first is None else []
    if config.positions == "shortformer" or (config.positions == "learned" and first is None):
        names += ["pos_embed"]
    for layer in range(first or 0, config.n_layers):
        names += [f"blocks.{layer}.{name}" for name in (*block, "resid_post")]
    return names + norm("ln_final")


def angles(start: int, stop: int, width: int, base: float) -> Float[Tensor, "pos half"]:
    """``p · base^(-2i / width)`` for the positions p and pairs i: slower and slower clocks (Vaswani et al. 2017, 3.5).

    In float64 whatever the model: rounding an angle of a thousand turns to float32 shows in the logits.
    """
    speed = base ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.arange(start, stop, dtype=torch.float64)[:, None] * speed


def rotate(
    x: Float[Tensor, "batch pos head d_head"], place: Float[Tensor, "2 pos 1 half"], interleaved: bool
) -> Float[Tensor, "batch pos head d_head"]:
    """Turn each pair of coordinates by its position's angle (Su et al. 2021, "RoFormer", equation 34)."""
    cos, sin = place
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
    turned = a * cos - b * sin, a * sin + b * cos
    return torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)
