"""Reruns of a model after a single change, from the changed layer and position on; ``sweeps`` is built on them.

Whatever a change at layer l and position p cannot affect is not computed again: neither the layers up to l nor, in a
causal model, the positions before p or after the one where the metric reads. And the last two layers need no rerun of
the model at all, whatever norms and MLPs they have:

- after the last attention layer, positions no longer see each other: a change at p is seen at p alone;
- before it, one key and one value change for the query that is read: a rank-one update of its softmax::

      z' = (Σ_{j≠p} e_j v_j + e'_p v'_p) / (Σ_{j≠p} e_j + e'_p)

All of it equals a run of the whole model with the change put in, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residual.cache import KVCache
from residual.model import Block, Transformer
from residual.scope import QUIET, Tap, scope
from residual.taps import record
from residual.where import per_example

Metric = Callable[[Tensor], Tensor]
Position = int | Int[Tensor, " batch"] | per_example | None

BLOCK = 2**25  # numbers in the largest temporary tensor; 128 MB as float32


class BaseRun:
    """The run to be changed, which computes the metric for changed streams.

    Below, ``changed`` is ``[node batch pos d_model]``: the changed stream for each node (a head, for example).

    Args:
        metric: of logits ``[batch d_vocab]`` at ``position``, or ``[batch pos d_vocab]`` if that is None.
        position: where the metric reads: one for all examples, or one for each; None for all positions.
        names: activations of each layer to record besides the stream, such as ``"attn.z"``.

    Raises:
        ValueError: there is no such position.
    """

    @torch.no_grad()
    def __init__(
        self, model: Transformer, tokens: Int[Tensor, "batch pos"], metric: Metric, position: Position, *names: str
    ) -> None:
        c, n_layers = model.config, model.config.n_layers
        self.model, self.metric, self.n_pos = model, metric, tokens.shape[1]
        self.blocks = [cast(Block, block) for block in model.blocks]
        middle = "resid_mid" if c.d_mlp else "resid_post"
        recorded = {"resid_pre", middle, "resid_post", *names}
        self.seen = record([f"blocks.*.{name}" for name in recorded] if n_layers else "embed")
        self.cache = model.cache(len(tokens), self.n_pos) if c.causal else None
        self.logits = model(tokens, tap=self.seen, cache=self.cache)  # batch pos d_vocab
        ends = [f"blocks.{n_layers - 1}.resid_post"] if n_layers else []
        self.stream = [self.seen[name] for name in [*(f"blocks.{i}.resid_pre" for i in range(n_layers)), *ends]]
        self.middle = [self.seen[f"blocks.{i}.{middle}"] for i in range(n_layers)]
        self.example = torch.arange(len(tokens), device=tokens.device)
        self.read = positions_read(position, self.n_pos, self.example)  # one per example; None: all
        self.stop = self.n_pos  # changes from here on do not affect the metric
        if self.read is not None and c.causal:
            self.stop = int(self.read.max()) + 1
        self.unchanged = self.measure(self._where_read(self.logits)[None])[0]

    def changed_at_each(
        self,
        stage: int,
        changed: Float[Tensor, "node batch pos d_model"],
        positions: Sequence[int],
        moved: Bool[Tensor, " pos"],
    ) -> Float[Tensor, "node position *metric"]:
        """Return the metric with the stream changed to ``changed`` at one position, and unchanged at all others.

        Args:
            stage: the layer that this stream enters; ``n_layers`` for its end.
            moved: false at positions where nothing changes.
        """
        n_layers, nodes = self.model.config.n_layers, len(changed)
        results = self.unchanged.expand(nodes, len(positions), *self.unchanged.shape).clone()
        changes = moved.tolist()
        wanted = [(i, p) for i, p in enumerate(positions) if p < self.stop and changes[p]]
        if stage == n_layers:
            seen = set(range(self.n_pos) if self.read is None else self.read.tolist())
            for i, p in wanted:
                if p in seen:
                    results[:, i] = self.measure(self._end_changed_at(p, changed[:, :, p]))
        elif stage == n_layers - 1 and self.read is not None and not self.model.config.smeared_keys and wanted:
            self._through_last_layer(results, changed, wanted)
        else:
            size = self.at_once()
            for i, p in wanted:
                first = p if self.cache is not None else 0
                for some in range(0, nodes, size):
                    part = changed[some : some + size, :, p]
                    x = self.stream[stage][None, :, first : self.stop].repeat(len(part), 1, 1, 1)
                    x[:, :, p - first] = part
                    results[some : some + size, i] = self.measure(self.run(stage, x, first))
        return results

    def changed_together(
        self, stage: int, changed: Float[Tensor, "node batch pos d_model"], first: int
    ) -> Float[Tensor, " node *metric"]:
        """Return the metric with the stream changed to ``changed`` at all positions; it is given from ``first`` on.

        Args:
            stage: see ``changed_at_each``.
        """
        results = self.unchanged.expand(len(changed), *self.unchanged.shape).clone()
        if first >= self.stop:
            return results
        size = self.at_once()
        for some in range(0, len(changed), size):
            part = changed[some : some + size, :, first : self.stop]
            results[some : some + size] = self.measure(self.run(stage, part, first))
        return results

    def run(
        self, stage: int, x: Float[Tensor, "node batch pos d_model"], first: int, tap: Tap | None = None
    ) -> Float[Tensor, "node batch *pos d_vocab"]:
        """Return the logits that the metric reads, from the stream ``x`` at layer ``stage`` and position ``first`` on.

        Args:
            tap: sees only layer ``stage``, whose activations have ``(node batch)`` as their first axis.
        """
        nodes, batch, n_pos, _ = x.shape
        before = None if self.cache is None else _Before(self.cache, first, nodes)
        seen, place = scope(tap, self.model.activation_names), self.model.place(first, first + n_pos)
        x = x.flatten(0, 1)
        for layer, block in enumerate(self.blocks[stage:], stage):
            x = block(x, seen.inside(f"blocks.{layer}") if layer == stage else QUIET, place, before)
        x = x.unflatten(0, (nodes, batch))
        if self.read is None:
            return torch.cat([self.logits[:, :first].expand(nodes, -1, -1, -1), self.model.unembed(x)], dim=2)
        new = x[:, self.example, (self.read - first).clamp(min=0)]
        old = self.stream[-1][self.example, self.read].expand(nodes, -1, -1)  # read before the change
        return self.model.unembed(torch.where((self.read >= first)[:, None], new, old))

    def first(self, marks: Bool[Tensor, "batch pos"]) -> int:
        """Return the first position that a change at the marked positions can affect; ``n_pos`` if none is marked."""
        marked = marks.any(dim=0).nonzero().flatten().tolist()
        if not marked:
            return self.n_pos
        return marked[0] if self.cache is not None else 0

    def at_once(self) -> int:
        """The number of nodes to run together."""
        c = self.model.config
        width = max(3 * c.d_model, 3 * c.n_heads * c.d_head, 2 * c.d_mlp, c.d_vocab if self.read is None else 0)
        return max(1, BLOCK // (len(self.example) * self.n_pos * width))

    def measure(self, logits: Float[Tensor, "run batch *pos d_vocab"]) -> Float[Tensor, "run *metric"]:  # noqa: F821, UP037
        """Return the metric of each run; all at once if torch can batch the metric."""
        try:
            return torch.vmap(self.metric)(logits.clone())  # a metric may write to its argument
        except RuntimeError:
            return torch.stack([torch.as_tensor(self.metric(run.clone())) for run in logits])

    def _end_changed_at(self, p: int, changed: Float[Tensor, "node batch d_model"]) -> Tensor:
        """Return the logits that the metric reads if the end of the stream is ``changed`` at position p."""
        mine, base = self.model.unembed(changed), self._where_read(self.logits)
        if self.read is not None:
            return torch.where((self.read == p)[:, None], mine, base)
        logits = base.expand(len(changed), *base.shape).clone()
        logits[:, :, p] = mine
        return logits

    def _through_last_layer(self, results: Tensor, changed: Tensor, wanted: list[tuple[int, int]]) -> None:
        """Fill in ``results`` for streams that enter the last layer."""
        c, nodes, last = self.model.config, len(changed), _LastLayer(self)
        size = max(1, BLOCK // (nodes * len(self.example) * max(c.d_vocab, c.n_heads * c.d_head)))
        for first in range(0, self.stop, size):
            some = slice(first, min(first + size, self.stop))
            here = [(i, p - first) for i, p in wanted if some.start <= p < some.stop]
            if here:
                at, offsets = map(list, zip(*here, strict=True))
                ends = last.stream(changed[:, :, some], some)[:, :, offsets]
                values = self.measure(self.model.unembed(ends).transpose(1, 2).flatten(0, 1))
                results[:, at] = values.unflatten(0, (nodes, -1))

    def _where_read(self, x: Float[Tensor, "batch pos width"]) -> Tensor:
        return x if self.read is None else x[self.example, self.read]


def positions_read(position: Position, n_pos: int, example: Int[Tensor, " batch"]) -> Int[Tensor, " batch"] | None:
    """Return the position where a metric reads in each example; None for all.

    Raises:
        ValueError: neither a whole number nor one for each example; or there is no such position.
    """
    if position is None:
        return None
    try:
        read = torch.as_tensor(position.positions if isinstance(position, per_example) else position).to(example.device)
    except (TypeError, ValueError, RuntimeError):
        read = torch.empty(0)
    if read.is_floating_point() or read.dtype == torch.bool or read.ndim > 1 or read.numel() not in (1, len(example)):
        raise ValueError(
            f"position is {position!r}; it must be a whole number, or one for each of the {len(example)} examples"
        )
    read = read.long().expand(len(example))
    if not bool(((-n_pos <= read) & (read < n_pos)).all()):
        raise ValueError(f"there is no position {position} in {n_pos} tokens")
    return read % n_pos


class _Before:
    """A read-only cache: the base run's keys and values before position ``p``, repeated for several nodes."""

    def __init__(self, cache: KVCache, p: int, nodes: int) -> None:
        self.k, self.v, self.nodes = cache.k[:, :, :, :p], cache.v[:, :, :, :p], nodes

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of the earlier positions followed by the given ones."""
        before_k, before_v = (cached[layer].repeat(self.nodes, 1, 1, 1) for cached in (self.k, self.v))
        return torch.cat([before_k, k], dim=2), torch.cat([before_v, v], dim=2)


class _LastLayer:
    """The last layer's output at the read position, after a change at one of the positions before it."""

    def __init__(self, base: BaseRun) -> None:
        c, x = base.model.config, base.stream[-2]
        assert base.read is not None
        self.base, self.block, self.read, self.example = base, base.blocks[-1], base.read, base.example
        q, k, v = self._heads(x, slice(0, base.n_pos))  # batch pos head d_head
        self.q, self.k, self.v = q[self.example, self.read], k, v
        key = torch.arange(base.n_pos, device=x.device)
        self.hidden = (key > self.read[:, None]) & c.causal  # batch key: in the future of the query
        scores = self._scores(self.q, k)  # batch head key
        # All sums leave one key out. For every key except the heaviest, subtracting its term from the full sum loses no
        # precision, because the heaviest term, 1, stays in. For the heaviest key the sum is computed separately.
        top = scores.max(dim=-1, keepdim=True)
        self.heaviest = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, top.indices, True)
        e = (scores - top.values).exp()
        ev = einsum(e, v, "batch head key, batch key head d_head -> batch head key d_head")
        rest = scores.masked_fill(self.heaviest, -torch.inf)
        second = rest.amax(dim=-1, keepdim=True)
        f = (rest - second.nan_to_num(neginf=0)).exp()  # all 0 if there is only one key
        fv = einsum(f, v, "batch head key, batch key head d_head -> batch head d_head")[:, :, None]
        self.total = torch.where(self.heaviest, f.sum(-1, keepdim=True), e.sum(-1, keepdim=True) - e)
        self.moved = torch.where(self.heaviest[..., None], fv, ev.sum(dim=2, keepdim=True) - ev)
        self.unit = torch.where(self.heaviest, second, top.values)  # total and moved are in units of its exp

    def stream(self, changed: Float[Tensor, "node batch pos d_model"], some: slice) -> Tensor:
        """Return the end of the stream at the read position, for a change at each position of ``some``."""
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
        own = ((read >= some.start) & (read < some.stop)).nonzero().flatten()  # examples whose query changes as well
        if len(own):
            at = read[own] - some.start
            x[:, own, at] = changed[:, own, at]
            keys, values = (tensor[own].repeat(len(changed), 1, 1, 1) for tensor in (self.k, self.v))
            row = torch.arange(len(keys), device=keys.device)
            where = read[own].repeat(len(changed))
            keys[row, where], values[row, where] = (tensor[:, own, at].flatten(0, 1) for tensor in (k, v))
            hidden = self.hidden[own].repeat(len(changed), 1)
            pattern = self._scores(q[:, own, at].flatten(0, 1), keys, hidden).softmax(dim=-1)
            z_own = einsum(pattern, values, "row head key, row key head d_head -> row head d_head")
            z[:, own, at] = z_own.unflatten(0, (len(changed), -1))
        return self.block.after_attention(x + F.linear(z.flatten(-2), attn.W_O.flatten(0, 1).mT, attn.b_O))

    def _heads(self, x: Float[Tensor, "*any pos d_model"], some: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values ``[… pos head d_head]`` at the positions ``some``: see ``Attention``."""
        attn = self.block.attn
        q, k, v = attn.qkv(self.block.ln1(x), self.base.model.place(some.start, some.stop))
        return q, attn._shared(k, dim=-2), attn._shared(v, dim=-2)

    def _scores(self, q: Tensor, k: Tensor, hidden: Tensor | None = None) -> Float[Tensor, "batch head key"]:
        scores = einsum(q, k, "batch head d_head, batch key head d_head -> batch head key") * q.shape[-1] ** -0.5
        return scores.masked_fill((self.hidden if hidden is None else hidden)[:, None], -torch.inf)
