"""A transformer on one page, to be read from top to bottom, in the order of computation.

Activations are row vectors, and weights act from the right: ``x @ W``. The notation is that of Elhage
et al. 2021, "A Mathematical Framework for Transformer Circuits", transposed (the paper writes columns)::

    x_0      = W_E[tokens] + W_pos                                    embedding
    A^h      = softmax(x̂ W_Q^h (x̂ W_K^h)ᵀ / √d_head)                  attention of head h (causal); x̂ = norm(x_l)
    x_mid    = x_l + Σ_h A^h x̂ W_V^h W_O^h                            what it moves; heads are summed
    x_{l+1}  = x_mid + act(norm(x_mid) W_in) W_out                    MLP
    logits   = norm(x_L) W_U                                          unembedding

``Config()`` has no norm, MLP or biases, like the models of that paper, with any number of layers, even zero.
``norm="layer", d_mlp=4 * d_model, bias=True, tied=True`` is GPT-2 (Radford et al. 2019), and
``norm="rms", act="swiglu", positions="rotary"`` with fewer key heads is Llama (Touvron et al. 2023).
"""

from __future__ import annotations

from functools import cached_property
from itertools import islice

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from residual.cache import KVCache, span
from residual.checks import Reader, Tokens, as_tokens, check_layer, check_mask, check_stream, embed
from residual.config import HEADS_READ, Config, activations
from residual.heads import HeadWeights
from residual.positions import Padding, angles, rotate
from residual.scope import BY_NAME_ALONE, QUIET, Scope, Tap, scope

Own = tuple[Tensor | None, Tensor | None, Tensor | None]  # separate inputs of the query, key and value maps


class Norm(nn.Module):
    """LayerNorm (Ba et al. 2016), RMSNorm (Zhang and Sennrich 2019) or the identity, applied to each position."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.w = nn.Parameter(torch.ones(config.d_model)) if config.norm != "none" else None
        self.b = nn.Parameter(torch.zeros(config.d_model)) if config.norm == "layer" else None

    def forward(
        self, x: Float[Tensor, "*batch d_model"], tap: Scope = QUIET, scale: Float[Tensor, "*batch 1"] | None = None
    ) -> Float[Tensor, "*batch d_model"]:
        """Normalize ``x`` by its own scale, or by the given one."""
        if self.w is None:
            return x
        eps = self.config.norm_eps
        if scale is not None or tap.wants("scale", "normalized"):
            if self.b is not None:
                x = x - x.mean(dim=-1, keepdim=True)
            if scale is None:
                scale = tap("scale", (x.square().mean(dim=-1, keepdim=True) + eps).sqrt())  # batch pos 1
            x = tap("normalized", x / scale) * self.w  # batch pos d_model
            return x if self.b is None else x + self.b
        if self.b is not None:  # the same computation in one kernel
            return F.layer_norm(x, self.w.shape, self.w, self.b, eps)
        return F.rms_norm(x, self.w.shape, self.w, eps)


class Attention(HeadWeights):
    """Heads that move information between positions, each along its own pattern; their outputs are summed."""

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        tap: Scope,
        place: Tensor | None,
        cache: KVCache | None,
        padding: Padding | None = None,
        own: Own | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        c, n, m = self.config, self.config.n_heads, self.config.kv_heads
        q, k, v = self.qkv(x, place, tap, own)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # batch head pos d_head
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        if self.smear is not None:  # Olsson et al. 2022, "In-context Learning and Induction Heads", Argument 2
            share = self.smear.sigmoid()[:, None, None]  # head 1 1
            before = torch.cat([k[:, :, :1], k[:, :, :-1]], dim=-2)
            if padding is not None:
                before = k.gather(2, padding.before[:, None, :, None].expand_as(k))
            k = share * k + (1 - share) * before

        n_query, n_key = q.shape[-2], k.shape[-2]  # with a cache there are more keys than queries
        future = None  # query key; -∞ where the key comes later. A single query is the last position and has no future
        if padding is not None:
            future = torch.zeros_like(padding.seen, dtype=x.dtype).masked_fill_(~padding.seen, -torch.inf)
        elif c.causal and n_query > 1 and (n_query < n_key or tap.wants("scores", "pattern")):
            future = x.new_full((n_query, n_key), -torch.inf).triu(diagonal=1 + n_key - n_query)
        if tap.wants("scores", "pattern"):
            k, v = self._shared(k, dim=1), self._shared(v, dim=1)
            scores = einsum(q, k, "batch head query d_head, batch head key d_head -> batch head query key")
            scores = scores.mul_(c.d_head**-0.5)  # in place, here and below: these tensors take most of the memory
            scores = tap("scores", scores if future is None else scores.add_(future), future)
            pattern = tap("pattern", scores.softmax(dim=-1), future)  # batch head query key; rows sum to 1
            z = einsum(pattern, v, "batch head query key, batch head key d_head -> batch query head d_head")
        else:  # the same computation in one kernel, which never stores the pattern
            causal = c.causal and n_query > 1 and future is None
            z = F.scaled_dot_product_attention(q, k, v, future, is_causal=causal, enable_gqa=n > m).transpose(1, 2)
        z = tap("z", z)  # batch pos head d_head

        if tap.wants("result"):
            result = einsum(z, self.W_O, "batch pos head d_head, head d_head d_model -> batch pos head d_model")
            out = tap("result", result).sum(dim=-2)  # batch pos d_model
            return out if self.b_O is None else out + self.b_O
        # concatenating the heads and multiplying once gives the same sum without storing its terms
        return F.linear(z.flatten(-2), self.W_O.flatten(0, 1).mT, self.b_O)  # batch pos d_model

    def qkv(
        self, x: Float[Tensor, "*batch pos d_model"], place: Tensor | None, tap: Scope = QUIET, own: Own | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values ``[*batch pos head d_head]``, with positions but without smearing of keys.

        Args:
            x: the normalized stream.
            place: ``Transformer.place`` of these positions.
            own: separate inputs of the heads' query, key and value maps, ``[*batch pos head d_model]``, instead of x.
        """
        c, n, m = self.config, self.config.n_heads, self.config.kv_heads
        qkv = F.linear(x, self.W_QKV.flatten(0, 1), None if self.b_QKV is None else self.b_QKV.flatten())
        q, k, v = qkv.view(*x.shape[:-1], -1, c.d_head).split_with_sizes([n, m, m], dim=-2)
        if own is not None:
            biases = (None, None, None) if self.b_QKV is None else self._maps(self.b_QKV)
            weights = zip((q, k, v), own, self._maps(self.W_QKV), biases, strict=True)
            q, k, v = (shared if mine is None else self._map(mine, W, b) for shared, mine, W, b in weights)
        if c.positions == "shortformer" and place is not None:
            # (x + place) W = x W + place W, where place W is the same for the whole batch. Values see no positions.
            shift = F.linear(place, self.W_QKV[: n + m].flatten(0, 1)).unflatten(-1, (-1, c.d_head))
            q, k = q + shift[..., :n, :], k + shift[..., n:, :]
        q, k, v = tap("q", q), tap("k", k), tap("v", v)  # batch pos head d_head
        if c.positions == "rotary" and place is not None:
            q = tap("rot_q", rotate(q, place, c.rotary_interleaved))
            k = tap("rot_k", rotate(k, place, c.rotary_interleaved))
        return q, k, v

    @staticmethod
    def _map(x: Tensor, W: Tensor, b: Tensor | None) -> Float[Tensor, "batch pos head d_head"]:
        """Apply each head's map to its own input."""
        x = einsum(x, W, "batch pos head d_model, head d_head d_model -> batch pos head d_head")
        return x if b is None else x + b


class MLP(nn.Module):
    """``d_mlp`` neurons that read the stream and write to it, at each position separately."""

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

    def forward(self, x: Float[Tensor, "*batch d_model"], tap: Scope = QUIET) -> Float[Tensor, "*batch d_model"]:
        inward = F.linear(x, self.W_in.mT, self.b_in)  # batch pos d_mlp
        if self.W_gate is not None:  # Shazeer 2020, "GLU Variants Improve Transformer", equation 6
            post = F.silu(tap("pre", F.linear(x, self.W_gate.mT, self.b_gate))) * tap("pre_linear", inward)
        elif self.config.act == "relu":
            post = F.relu(tap("pre", inward))
        else:
            post = F.gelu(tap("pre", inward), approximate="tanh" if self.config.act == "gelu_new" else "none")
        return F.linear(tap("post", post), self.W_out.mT, self.b_out)  # batch pos d_model


class Block(nn.Module):
    """One layer: heads, then neurons; both read the residual stream and add to it."""

    def __init__(self, config: Config, layer: int = 0) -> None:
        super().__init__()
        self.ln1 = Norm(config)
        self.attn = Attention(config, layer)
        self.ln2 = Norm(config) if config.d_mlp else None
        self.mlp = MLP(config) if config.d_mlp else None

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        tap: Scope,
        place: Tensor | None,
        cache: KVCache | None,
        padding: Padding | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        x = tap("resid_pre", x)
        ln1 = tap.inside("ln1")
        y = self.ln1(x, ln1)
        own = self._own(x, tap, ln1.changed) if tap.names and tap.wants(*HEADS_READ) else None
        y = self.attn(y, tap.inside("attn"), place, cache, padding, own)
        x = x + tap("attn_out", y)
        return tap("resid_post", self.after_attention(x, tap))

    def after_attention(self, x: Float[Tensor, "*any d_model"], tap: Scope = QUIET) -> Float[Tensor, "*any d_model"]:
        """Return the stream after the MLP, if there is one."""
        if self.mlp is None or self.ln2 is None:
            return x
        x = tap("resid_mid", x)
        inward = tap("mlp.in", x.view_as(x)) if tap.wants("mlp.in") else x  # a view: its gradient is the MLP's alone
        return x + tap("mlp_out", self.mlp(self.ln2(inward, tap.inside("ln2")), tap.inside("mlp")))

    def _own(self, x: Tensor, tap: Scope, changed: dict[str, Tensor]) -> Own:
        """Return the separate inputs that a tap asks for: the stream, copied for each head, each copy normalized."""
        if "normalized" in changed:
            raise ValueError(
                f"a tap changes {tap.prefix}ln1.normalized, which heads with separate inputs do not read; "
                "change q_in, k_in and v_in instead"
            )
        scale = changed["scale"][:, :, None] if "scale" in changed else None  # batch pos 1 1
        n, m = self.attn.config.n_heads, self.attn.config.kv_heads
        copies = (x[:, :, None].expand(-1, -1, heads, -1) for heads in (n, m, m))  # batch pos head d_model
        q, k, v = (
            self.ln1(tap(name, copy), scale=scale) if tap.wants(name) else None
            for name, copy in zip(HEADS_READ, copies, strict=True)
        )
        return q, k, v


class Transformer(nn.Module):
    """Tokens in, logits for the next token out. The initial weights depend only on ``seed``."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        super().__init__()
        c = self.config = config
        self.vocabulary: Reader | None = None  # if set, the model can read text
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
            if name.split(".")[-1].startswith("W_"):  # norms start at 1, biases at 0
                nn.init.normal_(weight, std=c.init_std, generator=generator)
        if c.positions == "shortformer" and self.W_pos is not None:  # as Press et al. 2021; small ones hardly learn
            turn = angles(torch.arange(c.n_ctx), c.d_model, 10000.0)
            self.W_pos.data.copy_(torch.cat([turn.sin(), turn.cos()], dim=-1)[:, : c.d_model])

    def __getattr__(self, name: str):
        """Return ``W_Eᵀ`` as ``W_U`` of a tied model, which has no unembedding of its own."""
        if name == "W_U" and self.config.tied:
            return self.W_E.T
        return super().__getattr__(name)

    def forward(
        self,
        tokens: Tokens,
        tap: Tap | None = None,
        cache: KVCache | None = None,
        mask: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Return the logits. ``tap(name, x)`` sees each of ``activation_names`` and may change it: see taps.py.

        With a ``cache``, ``tokens`` continue the text in the cache and are added to it. In a batch of texts of unequal
        length, ``mask`` is true at real tokens: see ``Padding``. With a ``vocabulary``, ``tokens`` may be a text or a
        list of texts, which are padded on the left and masked.

        Raises:
            TypeError: the tokens are not whole numbers; or they are text, and the model has no vocabulary.
            ValueError: tokens not ``[batch pos]``, longer than the context or out of range; an unknown tap name; a mask
                of another shape.
        """
        seen = scope(tap, [] if tap is None else self._known)
        x, padding = self._embed(tokens, seen, cache, mask)
        return self.unembed(self._layers(x, 0, self.config.n_layers, seen, cache, padding), seen)

    def run_to(
        self,
        tokens: Tokens,
        layer: int,
        tap: Tap | None = None,
        mask: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Return ``blocks.{layer}.resid_pre`` and stop there; with ``layer = n_layers``, return the end of the stream.

        Raises:
            TypeError, ValueError: see ``forward``; or there is no such layer, or the tap names a later activation.
        """
        check_layer(layer, self.config.n_layers)
        seen = scope(tap, activations(self.config, stop=layer) if tap is not None else [])
        x, padding = self._embed(tokens, seen, None, mask)
        return self._layers(x, 0, layer, seen, None, padding)

    def run_from(
        self,
        layer: int,
        resid: Float[Tensor, "batch pos d_model"],
        tap: Tap | None = None,
        cache: KVCache | None = None,
        mask: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Return the logits, computed from ``blocks.{layer}.resid_pre``; with ``layer = n_layers``, from the end.

        With a ``cache`` of length p, ``resid`` holds positions p, p+1, …: only those are computed again.

        Raises:
            ValueError: there is no such layer, ``resid`` has the wrong shape, or the tap names an earlier activation.
        """
        check_stream(resid, layer, self.config.n_layers, self.config.d_model)
        seen = scope(tap, activations(self.config, layer) if tap is not None else [])
        padding = self._padding(resid, cache, mask, seen)
        return self.unembed(self._layers(resid, layer, self.config.n_layers, seen, cache, padding), seen)

    def unembed(self, x: Float[Tensor, "*batch d_model"], tap: Scope = QUIET) -> Float[Tensor, "*batch d_vocab"]:
        """Return the logits of the end of the stream."""
        return F.linear(self.ln_final(x, tap.inside("ln_final")), self.W_U.mT, self.b_U)

    def place(self, start: int, stop: int, positions: Int[Tensor, "batch pos"] | None = None) -> Tensor | None:
        """Return the argument ``place`` of ``Attention.qkv`` for positions ``start`` to ``stop``.

        Shortformer positions give rows of ``W_pos``, ``[pos d_model]``; rotary positions give the cosines and sines of
        the angles, ``[2 pos 1 half]``; other kinds give None. With ``positions``, each example has its own row.
        """
        c = self.config
        if c.positions == "shortformer" and self.W_pos is not None:
            return self.W_pos[start:stop] if positions is None else self.W_pos[positions]
        if c.positions == "rotary":
            clock = torch.arange(start, stop, dtype=torch.float64) if positions is None else positions
            turn = angles(clock, c.d_head, c.rotary_base)
            return torch.stack([turn.cos(), turn.sin()])[..., None, :].to(self.W_E)
        return None

    def _embed(
        self, given: Tokens, tap: Scope, cache: KVCache | None, mask: Tensor | None
    ) -> tuple[Float[Tensor, "batch pos d_model"], Padding | None]:
        W_E = self.W_E
        tokens, mask = as_tokens(given, mask, self.vocabulary, W_E.device)
        rows = embed(tokens, W_E)
        padding = self._padding(rows, cache, mask, tap)
        x = tap("embed", rows)  # batch pos d_model
        if self.config.positions == "learned" and self.W_pos is not None:
            start, stop = span(rows, self.config.n_ctx, cache)
            place = self.W_pos[start:stop] if padding is None else self.W_pos[padding.positions]
            x = x + (tap("pos_embed", place.expand_as(x).clone()) if tap.wants("pos_embed") else place)
        return x, padding

    def _layers(
        self, x: Tensor, first: int, last: int, tap: Scope, cache: KVCache | None, padding: Padding | None
    ) -> Float[Tensor, "batch pos d_model"]:
        start, stop = span(x, self.config.n_ctx, cache)
        place = self.place(start, stop, None if padding is None else padding.positions)
        if place is not None and tap.wants("pos_embed"):  # not a view of a weight: a tap could write to it
            place = tap("pos_embed", place.expand_as(x).clone())
        for layer, block in enumerate(islice(self.blocks, first, last), first):
            x = block(x, tap.inside(f"blocks.{layer}"), place, cache, padding)
        if cache is not None:
            cache.length = stop
        return x

    def _padding(self, x: Tensor, cache: KVCache | None, mask: Tensor | None, tap: Scope) -> Padding | None:
        mask = check_mask(mask, x)
        tap.padded(mask)
        if mask is None and (cache is None or cache.real is None):
            return None
        start, stop = span(x, self.config.n_ctx, cache)
        if cache is not None:
            mask = cache.keep(mask, stop)
        return None if mask is None else Padding(mask, start, self.config.causal)

    def cache(self, batch: int, n_ctx: int | None = None) -> KVCache:
        """Return an empty cache for ``batch`` sequences of up to ``n_ctx`` tokens (default: the model's context).

        Raises:
            ValueError: the model is bidirectional: earlier positions depend on later ones.
        """
        c = self.config
        if not c.causal:
            raise ValueError("a bidirectional model has no cache: each new token changes every earlier position")
        return KVCache(c.n_layers, batch, c.kv_heads, c.n_ctx if n_ctx is None else n_ctx, c.d_head, like=self.W_E)

    @cached_property
    def _known(self) -> list[str]:
        return activations(self.config)

    @cached_property
    def activation_names(self) -> list[str]:
        """The names of the activations in the order of computation, without ``attn.q_in``, ``k_in`` and ``v_in``.

        Those three exist too, but a tap gets them only if it asks for them by name: see ``activations``.
        """
        return [name for name in self._known if not name.endswith(BY_NAME_ALONE)]
