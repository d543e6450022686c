"""Change one thing at a time, everywhere: each head or layer, at each position, and the metric that follows.

What a change at layer l and position p leaves alone is not computed again: neither the layers up to l, nor, in a
causal model, the positions before p or after the one where the metric reads. And the two last layers need no second
run of the model at all, whatever norms and MLPs they have:

- after the last attention layer, positions no longer see each other: a change at p is seen at p alone;
- before it, the query that is read sees one key and one value change, which is a rank-one update of its softmax::

      z' = (Σ_{j≠p} e_j v_j + e'_p v'_p) / (Σ_{j≠p} e_j + e'_p)

All of it equals the plain loop over ``model(tokens, tap=patch(…))``, to rounding. Ablation values, the direction
(clean into corrupted or the reverse) and the metric change what a sweep shows: report them with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from residual.cache import KVCache
from residual.errors import nearest
from residual.model import Block, Transformer
from residual.scope import QUIET
from residual.taps import ablate, record

Metric = Callable[[Tensor], Tensor]
Position = int | Int[Tensor, " batch"] | None
How = Literal["zero", "mean", "resample"]

BLOCK = 2**25  # numbers in the largest tensor that is there at once; 128 MB as float32


def patch_heads(
    model: Transformer,
    clean: Int[Tensor, "batch pos"],
    corrupted: Int[Tensor, "batch pos"],
    metric: Metric,
    *,
    position: Position = -1,
) -> Float[Tensor, "layer head pos *metric"]:
    """Run on ``corrupted``; put ``z`` of one head at one position in as it is on ``clean``; what is the metric?

    Args:
        metric: of logits ``[batch d_vocab]`` at ``position``, or ``[batch pos d_vocab]`` if that is None; a tensor.
        position: where the metric reads: the same in all examples, or one for each; None for all positions, which
            takes longer.

    Raises:
        ValueError: the two batches differ in shape; there is no such position.
    """
    source = _recorded(model, clean, corrupted, "attn.z")
    return _heads(_Base(model, corrupted, metric, position), source)


def ablate_heads(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    metric: Metric,
    how: How = "zero",
    *,
    reference: Int[Tensor, "other pos"] | None = None,
    position: Position = -1,
    seed: int = 0,
) -> Float[Tensor, "layer head pos *metric"]:
    """Take ``z`` of one head at one position away (``taps.ablate`` says how); what is the metric?

    Args:
        reference: the examples that means and resamples come from; ``tokens`` themselves, if not given.
        metric, position: see ``patch_heads``.
    """
    base = _Base(model, tokens, metric, position)
    return _heads(base, _ablated(base, "attn.z", how, reference, seed))


def patch_resid(
    model: Transformer,
    clean: Int[Tensor, "batch pos"],
    corrupted: Int[Tensor, "batch pos"],
    metric: Metric,
    *,
    name: str = "resid_pre",
    position: Position = -1,
) -> Float[Tensor, "layer pos *metric"]:
    """Run on ``corrupted``; put the stream, or what is added to it, at one layer and position in as on ``clean``.

    Args:
        name: ``resid_pre``, ``attn_out``, ``resid_mid``, ``mlp_out`` or ``resid_post``, of each layer.
        metric, position: see ``patch_heads``.
    """
    source = _recorded(model, clean, corrupted, _known(model, name))
    return _layers(_Base(model, corrupted, metric, position), name, source)


def ablate_resid(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    metric: Metric,
    how: How = "zero",
    *,
    name: str = "attn_out",
    reference: Int[Tensor, "other pos"] | None = None,
    position: Position = -1,
    seed: int = 0,
) -> Float[Tensor, "layer pos *metric"]:
    """Take the stream, or what is added to it, at one layer and position away; what is the metric?

    Args:
        name: see ``patch_resid``.
        reference: see ``ablate_heads``.
        metric, position: see ``patch_heads``.
    """
    base = _Base(model, tokens, metric, position)
    return _layers(base, name, _ablated(base, _known(model, name), how, reference, seed))


# What is changed


@torch.no_grad()
def _heads(base: _Base, new: list[Tensor]) -> Tensor:
    """``new[layer]`` is ``z`` as it is to be, ``[batch pos head d_head]``."""
    found = []
    for layer, block in enumerate(base.blocks):
        change = (new[layer] - base.seen[f"blocks.{layer}.attn.z"]).to(base.middle[layer])
        change = einsum(change, block.attn.W_O, "batch pos head d_head, head d_head d_model -> head batch pos d_model")
        found.append(base.metrics(layer + 1, block.after_attention(base.middle[layer] + change)))
    return torch.stack(found) if found else torch.zeros(0, base.model.config.n_heads, base.n_pos)


@torch.no_grad()
def _layers(base: _Base, name: str, new: list[Tensor]) -> Tensor:
    """``new[layer]`` is the named activation as it is to be, ``[batch pos d_model]``."""
    found = []
    for layer, block in enumerate(base.blocks):
        stage, changed = layer + 1, new[layer].to(base.stream[0])
        if name == "resid_pre":
            stage = layer
        elif name == "attn_out":
            changed = block.after_attention(base.middle[layer] + (changed - base.seen[f"blocks.{layer}.attn_out"]))
        elif name == "resid_mid":
            changed = block.after_attention(changed)
        elif name == "mlp_out":
            changed = base.stream[layer + 1] + (changed - base.seen[f"blocks.{layer}.mlp_out"])
        found.append(base.metrics(stage, changed[None])[0])
    return torch.stack(found) if found else torch.zeros(0, base.n_pos)


@torch.no_grad()
def _recorded(model: Transformer, clean: Tensor, corrupted: Tensor, name: str) -> list[Tensor]:
    if clean.shape != corrupted.shape:
        raise ValueError(
            f"clean is {list(clean.shape)} and corrupted {list(corrupted.shape)}; patching needs the same shapes"
        )
    if not model.config.n_layers:
        return []
    seen = record(f"blocks.*.{name}")
    model(clean, tap=seen)
    return list(seen.values())


@torch.no_grad()
def _ablated(base: _Base, name: str, how: How, reference: Tensor | None, seed: int) -> list[Tensor]:
    other = None
    if reference is not None and base.blocks:
        base.model(reference, tap=(other := record(f"blocks.*.{name}")))
    take_away = ablate("*", how, other, seed=seed)
    names = [f"blocks.{layer}.{name}" for layer in range(len(base.blocks))]
    return [take_away(name, base.seen[name]) for name in names]


def _known(model: Transformer, name: str) -> str:
    names = ["resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"]
    names = names if model.config.d_mlp else [one for one in names if one not in ("resid_mid", "mlp_out")]
    if name not in names:
        raise ValueError(f"no {name!r} in this model's layers; {nearest(name, names)}")
    return name


# What follows


class _Base:
    """The run that is changed, and what the metric becomes when its stream is another at one position.

    ``changed`` is ``[node batch pos d_model]`` below: for each node (a head, say) and each position the stream as it is
    there if it is changed there, and nowhere else.
    """

    @torch.no_grad()
    def __init__(self, model: Transformer, tokens: Tensor, metric: Metric, position: Position) -> None:
        c, n_layers = model.config, model.config.n_layers
        self.model, self.metric = model, metric
        self.blocks = [cast(Block, block) for block in model.blocks]
        names = ["attn.z", "attn_out", "resid_pre", "resid_post", *(["mlp_out", "resid_mid"] if c.d_mlp else [])]
        self.seen = record([f"blocks.*.{name}" for name in names] if n_layers else "embed")
        self.cache = model.cache(len(tokens), tokens.shape[1]) if c.causal else None
        self.logits = model(tokens, tap=self.seen, cache=self.cache)  # batch pos d_vocab
        self.n_pos = tokens.shape[1]
        ends = [f"blocks.{n_layers - 1}.resid_post"] if n_layers else []
        self.stream = [self.seen[name] for name in [*(f"blocks.{i}.resid_pre" for i in range(n_layers)), *ends]]
        self.middle = [self.seen[f"blocks.{i}.{'resid_mid' if c.d_mlp else 'resid_post'}"] for i in range(n_layers)]
        self.example = torch.arange(len(tokens), device=tokens.device)
        self.read = self._positions(position)  # of each example; None: all
        self.unchanged = self._measure(self._where_read(self.logits)[None])[0]

    def metrics(self, stage: int, changed: Tensor) -> Float[Tensor, "node pos *metric"]:
        """``changed`` is the stream that enters layer ``stage``, or leaves the last."""
        c, nodes = self.model.config, len(changed)
        found = self.unchanged.expand(nodes, self.n_pos, *self.unchanged.shape).clone()
        stop = self.n_pos  # positions from here on change nothing that is read
        if self.read is not None and c.causal:
            stop = int(self.read.max()) + 1
        if stage == c.n_layers:
            mine = (
                self.model.unembed(changed)
                if self.read is None
                else self.model.unembed(changed[:, self.example, self.read])
            )
            for p in range(self.n_pos) if self.read is None else self.read.unique().tolist():
                logits = self._where_read(self.logits).expand(nodes, *self._where_read(self.logits).shape).clone()
                if self.read is None:
                    logits[:, :, p] = mine[:, :, p]
                else:
                    logits = torch.where((self.read == p)[:, None], mine, logits)
                found[:, p] = self._measure(logits)
        elif stage == c.n_layers - 1 and self.read is not None and not c.smeared_keys:
            size = max(1, BLOCK // (nodes * len(self.example) * max(c.d_vocab, c.n_heads * c.d_head)))
            last = _LastLayer(self)
            for first in range(0, stop, size):
                some = slice(first, min(first + size, stop))
                logits = self.model.unembed(last.stream(changed[:, :, some], some))  # node batch pos d_vocab
                values = self._measure(logits.transpose(1, 2).flatten(0, 1))
                found[:, some] = values.unflatten(0, (nodes, -1))
        else:
            width = (c.n_layers + 8) * max(c.d_model, c.n_heads * c.d_head, c.d_mlp)
            size = max(1, BLOCK // (len(self.example) * self.n_pos * width))
            for p in range(stop):
                for first in range(0, nodes, size):
                    some = slice(first, first + size)
                    found[some, p] = self._measure(self._again(stage, changed[some, :, p], p, stop))
        return found

    def _again(self, stage: int, changed: Float[Tensor, "node batch d_model"], p: int, stop: int) -> Tensor:
        """The logits that are read, from the layers that are run again, on positions ``p`` to ``stop`` alone."""
        nodes, batch, _ = changed.shape
        first = p if self.cache is not None else 0
        x = self.stream[stage][:, first:stop].repeat(nodes, 1, 1)  # (node batch) pos d_model
        x[:, p - first] = changed.flatten(0, 1)
        before = None if self.cache is None else _Before(self.cache, p, nodes)
        for block in self.blocks[stage:]:
            x = block(x, QUIET, self.model.place(first, stop), before)
        x = x.unflatten(0, (nodes, batch))
        if self.read is None:
            before_p = self.logits[:, :first].expand(nodes, -1, -1, -1)
            return torch.cat([before_p, self.model.unembed(x)], dim=2)
        new = x[:, self.example, (self.read - first).clamp(min=0)]
        old = self.stream[-1][self.example, self.read].expand(nodes, -1, -1)  # read before the change
        return self.model.unembed(torch.where((self.read >= first)[:, None], new, old))

    def _where_read(self, x: Float[Tensor, "batch pos width"]) -> Tensor:
        return x if self.read is None else x[self.example, self.read]

    def _measure(self, logits: Float[Tensor, "run batch *pos d_vocab"]) -> Float[Tensor, "run *metric"]:  # noqa: F821, UP037
        """The metric of each run; all at once where torch can do that."""
        try:
            return torch.vmap(self.metric)(logits)
        except RuntimeError:
            return torch.stack([torch.as_tensor(self.metric(run)) for run in logits])

    def _positions(self, position: Position) -> Tensor | None:
        if position is None:
            return None
        read = torch.as_tensor(position, device=self.example.device).expand(len(self.example))
        if not bool(((-self.n_pos <= read) & (read < self.n_pos)).all()):
            raise ValueError(f"there is no position {position} in {self.n_pos} tokens")
        return read % self.n_pos


class _Before:
    """A cache to read from: the base run's keys and values before position ``p``, for each of several nodes."""

    def __init__(self, cache: KVCache, p: int, nodes: int) -> None:
        self.k, self.v = (kept[:, :, :, :p].repeat(1, nodes, 1, 1, 1) for kept in (cache.k, cache.v))

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([self.k[layer], k], dim=2), torch.cat([self.v[layer], v], dim=2)


class _LastLayer:
    """What the read position gets from the last layer when one of the positions before it is changed."""

    def __init__(self, base: _Base) -> None:
        c, x = base.model.config, base.stream[-2]
        assert base.read is not None
        self.base, self.block, self.read, self.example = base, base.blocks[-1], base.read, base.example
        q, k, v = self._heads(x, slice(0, base.n_pos))  # batch pos head d_head
        self.q, self.k, self.v = q[self.example, self.read], k, v
        key = torch.arange(base.n_pos, device=x.device)
        self.hidden = (key > self.read[:, None]) & c.causal  # batch key: in the future of the query
        scores = self._scores(self.q, k)  # batch head key
        # All sums leave one key out. For every key but the heaviest, taking its term away from the sum over all loses
        # nothing: the heaviest, which is 1, stays in it. For that one the sum is made anew.
        top = scores.max(dim=-1, keepdim=True)
        self.heaviest = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, top.indices, True)
        e = (scores - top.values).exp()
        ev = einsum(e, v, "batch head key, batch key head d_head -> batch head key d_head")
        rest = scores.masked_fill(self.heaviest, -torch.inf)
        second = rest.amax(dim=-1, keepdim=True)
        f = (rest - second.nan_to_num(neginf=0)).exp()  # all 0 where there is but one key
        fv = einsum(f, v, "batch head key, batch key head d_head -> batch head d_head")[:, :, None]
        self.total = torch.where(self.heaviest, f.sum(-1, keepdim=True), e.sum(-1, keepdim=True) - e)
        self.moved = torch.where(self.heaviest[..., None], fv, ev.sum(dim=2, keepdim=True) - ev)
        self.unit = torch.where(self.heaviest, second, top.values)  # total and moved are in units of its exp

    def stream(self, changed: Float[Tensor, "node batch pos d_model"], some: slice) -> Tensor:
        """The end of the stream at the read position, for a change at each position of ``some``."""
        base, read, attn = self.base, self.read, self.block.attn
        q, k, v = self._heads(changed, some)
        score = einsum(self.q, k, "batch head d_head, node batch pos head d_head -> node batch head pos")
        score = score * attn.config.d_head**-0.5
        score = score.masked_fill(self.hidden[:, None, some], -torch.inf)
        unit = self.unit[:, :, some].maximum(score)
        old, new = (self.unit[:, :, some] - unit).exp(), (score - unit).exp()  # node batch head pos
        total = old * self.total[:, :, some] + new
        z = old[..., None] * self.moved[:, :, some] + new[..., None] * v.transpose(2, 3)
        z = (z / total[..., None]).transpose(2, 3)  # node batch pos head d_head
        x = base.stream[-2][self.example, read][:, None].expand_as(changed).clone()
        own = ((read >= some.start) & (read < some.stop)).nonzero().flatten()  # examples whose query changes too
        if len(own):
            at = read[own] - some.start
            x[:, own, at] = changed[:, own, at]
            keys, values = (kept[own].repeat(len(changed), 1, 1, 1) for kept in (self.k, self.v))
            row = torch.arange(len(keys), device=keys.device)
            where = read[own].repeat(len(changed))
            keys[row, where], values[row, where] = (made[:, own, at].flatten(0, 1) for made in (k, v))
            hidden = self.hidden[own].repeat(len(changed), 1)
            pattern = self._scores(q[:, own, at].flatten(0, 1), keys, hidden).softmax(dim=-1)
            z_own = einsum(pattern, values, "row head key, row key head d_head -> row head d_head")
            z[:, own, at] = z_own.unflatten(0, (len(changed), -1))
        return self.block.after_attention(x + F.linear(z.flatten(-2), attn.W_O.flatten(0, 1).mT, attn.b_O))

    def _heads(self, x: Float[Tensor, "*any pos d_model"], some: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values ``[… pos head d_head]`` of the positions ``some``: see ``Attention``."""
        attn = self.block.attn
        q, k, v = attn.qkv(self.block.ln1(x), self.base.model.place(some.start, some.stop))
        return q, attn._shared(k, dim=-2), attn._shared(v, dim=-2)

    def _scores(self, q: Tensor, k: Tensor, hidden: Tensor | None = None) -> Float[Tensor, "batch head key"]:
        scores = einsum(q, k, "batch head d_head, batch key head d_head -> batch head key") * q.shape[-1] ** -0.5
        return scores.masked_fill((self.hidden if hidden is None else hidden)[:, None], -torch.inf)
