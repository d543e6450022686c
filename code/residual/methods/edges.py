"""Edges: what one part of the model reads from the output of another part.

The stream before a part is the sum of the outputs of earlier parts, so each pair of a writer and a later reader is an
edge, which can be changed alone: the reader gets ``x + (t' - t)`` instead of x, where t is the writer's term in this
run and t' its term in another. The stream itself, and all other readers, stay unchanged.

- writers: ``embed``, ``pos`` (learned positions), ``0.1`` (layer 0, head 1), ``mlp.0``
- readers: ``1.1.q``, ``1.1.k``, ``1.1.v`` (the inputs of the maps of head 1 in layer 1), ``mlp.1``, ``logits``

If query heads share keys and values (Ainslie et al. 2023, "GQA"), k and v are read once per key head: ``1.0.k`` is then
key head 0, for all query heads that share it. Such a model has no edge to one of them alone.

``patch_edges`` changes edges; with a single edge, it is path patching along the direct path (Goldowsky-Dill et al.
2023, "Localizing Model Behavior with Path Patching"). ``edge_attribution`` estimates the effect of changing each edge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from residual.checks import Tokens, as_tokens, embed
from residual.errors import nearest
from residual.methods.reruns import Metric, Position, positions_read
from residual.model import Block, Config, Norm, Transformer
from residual.taps import at, compose, find, record

Edge = tuple[str, str]
"""A writer and a reader, by name."""


class _End(NamedTuple):
    """The start or end of an edge."""

    name: str  # of the activation
    head: int | None
    step: int  # sublayers completed by the write (its own included), or before the read


def writers(config: Config) -> list[str]:
    """Return the parts that write to the stream, in order."""
    return list(_writers(config))


def readers(config: Config) -> list[str]:
    """Return the parts that read the stream, in order."""
    return list(_readers(config))


def every_edge(config: Config) -> list[Edge]:
    """Return all edges, by writer and then by reader."""
    begins, ends = _writers(config), _readers(config)
    return [(w, r) for w, begin in begins.items() for r, end in ends.items() if begin.step <= end.step]


def written(model: Transformer, tokens: Tokens, mask: Bool[Tensor, "batch pos"] | None = None) -> dict[str, Tensor]:
    """Return the output of each writer by activation name, for ``patch_edges``."""
    seen = record(list(dict.fromkeys(end.name for end in _writers(model.config).values())))
    with torch.no_grad():
        model.run_to(tokens, model.config.n_layers, tap=seen, mask=mask)
    return dict(seen)


class patch_edges:
    """A tap that changes edges: readers see the output of writers from another run, and all else from this run.

    >>> other = written(model, corrupted)
    >>> model(clean, tap=patch_edges(model, [("0.1", "1.1.k")], other))

    "This run" includes the effects of earlier changed edges: with every edge patched, the run is the other run. The
    norm before a reader divides by the scale of the changed input, unless another tap freezes it::

        compose(patch_edges(…), freeze({name: x for name, x in seen.items() if name.endswith("scale")}))

    Args:
        edges: pairs (writer, reader), from ``writers(model.config)`` and ``readers(model.config)``.
        recorded: the result of ``written``, for as many examples as are run, or for one.
        how: use the writer's term as recorded; its ``"mean"`` over the recorded examples, at each position, which
            should have the same length; or ``"zero"``, which needs no recording. An MLP's bias is not part of its term.
        where: true at the positions where the edges are changed; default: everywhere.

    Raises:
        ValueError: no such writer or reader, or the reader comes first; a term not recorded, or of another shape.
    """

    writes = False

    def __init__(
        self,
        model: Transformer,
        edges: Iterable[tuple[str, str]],
        recorded: Mapping[str, Tensor] | None = None,
        how: Literal["patch", "mean", "zero"] = "patch",
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> None:
        if how not in ("patch", "mean", "zero"):
            raise ValueError(f"cannot change an edge by {how!r}; {nearest(how, ['patch', 'mean', 'zero'])}")
        if recorded is None and how != "zero":
            raise ValueError(f"{how!r} needs the outputs of another run: recorded=written(model, tokens)")
        self.model, self.where = model, where
        chosen = _ends(model.config, edges)
        self._heads: dict[str, list[int]] = {}  # by written activation, in order: the heads that are edges' writers
        self._first: dict[str, int] = {}  # and the row of its first writer among all
        self._n, order = 0, {end: i for i, end in enumerate(_writers(model.config).values())}
        for begin in sorted({begin for begin, _ in chosen}, key=order.__getitem__):
            self._heads.setdefault(begin.name, []).extend([] if begin.head is None else [begin.head])
        for name, heads in self._heads.items():
            self._first[name], self._n = self._n, self._n + max(len(heads), 1)
        self._new: dict[str, Tensor] = {}
        for name in self._heads if how != "zero" else ():
            if recorded is None or name not in recorded:
                raise ValueError(f"{name} was not recorded; written(model, tokens) records everything needed")
            self._new[name] = recorded[name].mean(dim=0, keepdim=True) if how == "mean" else recorded[name]
        # By the activation read: 1 where (reader head, writer) is an edge. A part without heads counts as one head.
        self._reads: dict[str, Tensor] = {}
        for begin, end in chosen:
            width = model.config.n_heads if end.name.endswith("q_in") else model.config.kv_heads
            mask = self._reads.setdefault(end.name, torch.zeros(1 if end.head is None else width, self._n))
            place = 0 if begin.head is None else self._heads[begin.name].index(begin.head)
            mask[end.head or 0, self._first[begin.name] + place] = 1
        self._terms: dict[str, Tensor] = {}  # of this run, filled in as they are written; cleared by the next run
        self._changes: Tensor | None = None  # of all writers in order; the first ``_written`` rows are filled in
        self._written = 0

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if name in self._heads:
            self._terms[name] = x
            self._keep(name, self._change(name, x))
        if name in self._reads and self._changes is not None:
            mask, n = self._reads[name].to(x), self._written
            change = einsum(mask[:, :n], self._changes[:n], "reader writer, writer b pos d -> b pos reader d")
            x = x + (change if x.ndim == 4 else change[:, :, 0])
        return x

    def settled(self, name: str, x: Tensor) -> None:
        """Take the value written in this run, after all taps."""
        if name in self._heads and x is not self._terms.get(name):
            self._keep(name, self._change(name, x))

    def resolve(self, known: list[str]) -> frozenset[str]:
        self._terms, self._changes, self._written = {}, None, 0
        names = [*self._heads, *self._reads]
        return find(names, known) if names else frozenset()

    def _keep(self, name: str, change: Float[Tensor, "writer batch pos d_model"]) -> None:
        """Put the changes of these writers in their rows; as a new tensor if gradients flow through."""
        rows, first = self._changes, self._first[name]
        rows = change.new_zeros(self._n, *change.shape[1:]) if rows is None else rows
        if rows.requires_grad or change.requires_grad:
            change = change.expand(-1, *rows.shape[1:])
            rows = torch.cat([rows[:first], change, rows[first + len(change) :]])
        else:
            rows[first : first + len(change)] = change
        self._changes, self._written = rows, first + len(change)

    def _change(self, name: str, x: Tensor) -> Float[Tensor, "writer batch pos d_model"]:
        """Return the new terms minus those of this run."""
        new = self._new.get(name)
        block = cast(Block, self.model.blocks[int(name.split(".")[1])]) if name.startswith("blocks.") else None
        if new is None:
            new = torch.zeros_like(x)
            if name.endswith("mlp_out") and block is not None and block.mlp is not None and block.mlp.b_out is not None:
                new = new + block.mlp.b_out
        elif new.shape[1:] != x.shape[1:] or len(new) not in (1, len(x)):
            raise ValueError(f"{name} was recorded with shape {list(new.shape)}; in this run it has {list(x.shape)}")
        change = new.to(x) - x
        if self.where is not None:
            if self.where.ndim != 2 or self.where.shape[1] != x.shape[1] or len(self.where) not in (1, len(x)):
                raise ValueError(f"where is {list(self.where.shape)}; this run has {list(x.shape[:2])}, [batch pos]")
            change = change * self.where.to(x).reshape(*self.where.shape, *[1] * (x.ndim - 2))
        if not name.endswith("attn.z") or block is None:
            return change[None]
        heads = self._heads[name]
        return einsum(change[:, :, heads], block.attn.W_O[heads], "b pos head d_head, head d_head d -> head b pos d")


@dataclass(frozen=True)
class EdgeScores:
    """A score for each edge; 0 for pairs that are not edges because the reader comes before the writer."""

    values: Float[Tensor, "writer reader"]
    exists: Bool[Tensor, "writer reader"]
    writers: list[str]
    readers: list[str]

    def __getitem__(self, edge: tuple[str, str]) -> Tensor:
        """Return the score of an edge (writer, reader).

        Raises:
            KeyError: there is no such writer or reader, or the reader comes first.
        """
        for name, names in zip(edge, (self.writers, self.readers), strict=True):
            if name not in names:
                raise KeyError(f"there is no {name!r}; {nearest(name, names)}")
        place = self.writers.index(edge[0]), self.readers.index(edge[1])
        if not bool(self.exists[place]):
            raise KeyError(f"{edge[1]} reads the stream before {edge[0]} writes to it; that is not an edge")
        return self.values[place]

    def top(self, n: int) -> list[tuple[str, str]]:
        """Return the ``n`` edges with the largest absolute scores, largest first; all edges if there are fewer.

        Raises:
            ValueError: ``n`` is not a whole number, or is below 0.
        """
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            raise ValueError(f"cannot take {n!r} edges; give a whole number, 0 or above")
        order = self.values.abs().masked_fill(~self.exists, -1).flatten().argsort(descending=True, stable=True)
        pairs = [divmod(i, len(self.readers)) for i in order[: min(n, int(self.exists.sum()))].tolist()]
        return [(self.writers[i], self.readers[j]) for i, j in pairs]


def edge_attribution(
    model: Transformer,
    clean: Tokens,
    corrupted: Tokens,
    metric: Metric,
    *,
    position: Position = -1,
    steps: int = 1,
    mask: Bool[Tensor, "batch pos"] | None = None,
) -> EdgeScores:
    """Estimate for every edge the change of the clean run's metric when the edge is patched from the corrupted run.

    ``Σ (t' - t) · ∂metric/∂(reader's input)``, over examples, positions and coordinates: first order in the change, for
    all edges from two runs and one backward pass (Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit
    Discovery", Section 3). With more steps, the gradient is the mean over runs whose embeddings are interpolated from
    corrupted to clean, at 1/steps, 2/steps, … 1 of the way (Hanna et al. 2024, "Have Faith in Faithfulness", Section 3;
    their code takes 0, 1/steps, …).

    Args:
        metric: of logits ``[batch d_vocab]`` at ``position``, or ``[batch pos d_vocab]`` if that is None; one number.
        position: where the metric reads: one for all examples, or one for each; None for all positions.
        mask: as for the model, and the same for both batches.

    Raises:
        ValueError: the two batches differ in shape or in padding; there is no such position; the metric is not a single
            number; ``steps`` is below 1.
    """
    c = model.config
    clean, mask = as_tokens(clean, mask, model.vocabulary, model.W_E.device)
    corrupted, corrupted_mask = as_tokens(corrupted, None, model.vocabulary, model.W_E.device)
    if clean.shape != corrupted.shape:
        raise ValueError(
            f"clean is {list(clean.shape)} and corrupted {list(corrupted.shape)}; patching needs the same shapes"
        )
    if corrupted_mask is not None and (mask is None or not torch.equal(mask, corrupted_mask)):
        raise ValueError("clean and corrupted texts differ in length; patching needs the same positions")
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise ValueError(f"steps is {steps!r}; it must be a whole number, at least 1")
    other = written(model, corrupted, mask)
    begin, end, columns = _writers(c), _readers(c), readers(c)
    towards = embed(clean, model.W_E) - other["embed"]
    changes = values = torch.empty(0)
    for step in range(steps, 0, -1):  # the first is the clean run itself
        seen, gradients = _differentiated(model, clean, mask, other["embed"] + step / steps * towards, metric, position)
        if step == steps:
            changes = _changes(model, {name: seen[name] for name in other}, other).flatten(1)
            values = changes.new_zeros(len(begin), len(end))
        for names, gradient in _by_reader(model, seen, gradients):
            reach = sum(w.step <= end[names[0]].step for w in begin.values())
            column = columns.index(names[0])
            values[:reach, column : column + len(names)] += changes[:reach] @ gradient.flatten(1).mT / steps
    exists = torch.tensor([[w.step <= r.step for r in end.values()] for w in begin.values()], device=values.device)
    return EdgeScores(values, exists, list(begin), columns)


def _changes(model: Transformer, base: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Tensor:
    """Return each writer's output in the other run minus its output in this run, ``[writer batch pos d_model]``."""
    changes = []
    for name, x in base.items():
        change = other[name] - x
        if name.endswith("attn.z"):
            W_O = cast(Block, model.blocks[int(name.split(".")[1])]).attn.W_O.detach()
            changes.append(einsum(change, W_O, "b pos head d_head, head d_head d_model -> head b pos d_model"))
        else:
            changes.append(change[None])
    return torch.cat(changes)


def _differentiated(
    model: Transformer, tokens: Tensor, mask: Tensor | None, embedding: Tensor, metric: Metric, position: Position
):
    """Return the activations of a run from this embedding, and the metric's gradients by some of them, both by name."""
    c = model.config
    layers = [f"blocks.{i}." for i in range(c.n_layers)]
    names = [f"{layer}attn.{name}" for layer in layers for name in "qkv"]
    names += [f"{layer}mlp.in" for layer in layers if c.d_mlp]
    others = [*(end.name for end in _writers(c).values()), *(f"{layer}resid_pre" for layer in layers)]
    with torch.enable_grad():
        embedding = embedding.detach().requires_grad_()
        start = at("embed", lambda _: embedding)
        x = model.run_to(tokens, c.n_layers, tap=compose(start, seen := record([*names, *others])), mask=mask)
        value = metric(_logits(model, x, position))
        if not isinstance(value, Tensor) or not value.requires_grad:
            raise ValueError("the metric does not depend on its logits; compute it from them with torch")
        if value.numel() != 1:
            raise ValueError(f"the metric has shape {list(value.shape)}; it must be one number")
        *inner, end = torch.autograd.grad(value.sum(), [*(seen[name] for name in names), x], materialize_grads=True)
    gradients = dict(zip(names, inner, strict=True)) | {"end": end}
    return {name: x.detach() for name, x in seen.items()}, gradients


def _by_reader(model: Transformer, seen: Mapping[str, Tensor], gradients: Mapping[str, Tensor]):
    """Return the readers of each activation with the gradient by their input ``[reader batch pos d]``.

    Gradients of queries, keys and values are taken back through the heads' maps and the norm by hand, so that the
    separate input of each head is never materialized.
    """
    for i, block in enumerate(cast(list[Block], list(model.blocks))):
        attn, layer = block.attn, f"blocks.{i}."
        for kind, W in (("q", attn.W_Q), ("k", attn.W_K), ("v", attn.W_V)):
            g = einsum(gradients[f"{layer}attn.{kind}"], W.detach(), "b pos head d_head, head d d_head -> head b pos d")
            yield [f"{i}.{h}.{kind}" for h in range(len(W))], _back_through(block.ln1, seen[f"{layer}resid_pre"], g)
        if block.mlp is not None:
            yield [f"mlp.{i}"], gradients[f"{layer}mlp.in"][None]
    yield ["logits"], gradients["end"][None]


def _logits(model: Transformer, x: Tensor, position: Position) -> Tensor:
    """Return only the logits that the metric reads."""
    if position is None:
        return model.run_from(model.config.n_layers, x)
    example = torch.arange(len(x), device=x.device)
    read = positions_read(position, x.shape[1], example)
    return model.run_from(model.config.n_layers, x[example, read][:, None])[:, 0]


def _back_through(
    norm: Norm, x: Float[Tensor, "b pos d_model"], gradient: Float[Tensor, "reader b pos d_model"]
) -> Tensor:
    """Return the gradient by a norm's input from that by its output: ``(g - x̂ (x̂ · g) / d_model) / s``, g times w."""
    if norm.w is None:
        return gradient
    gradient = gradient * norm.w.detach()
    if norm.b is not None:
        x = x - x.mean(dim=-1, keepdim=True)
        gradient = gradient - gradient.mean(dim=-1, keepdim=True)
    scale = (x.square().mean(dim=-1, keepdim=True) + norm.config.norm_eps).sqrt()
    x = x / scale
    return (gradient - x * (x * gradient).mean(dim=-1, keepdim=True)) / scale


# Names


def _writers(c: Config) -> dict[str, _End]:
    ends = {"embed": _End("embed", None, 0)}
    if c.positions == "learned":
        ends["pos"] = _End("pos_embed", None, 0)
    for i in range(c.n_layers):
        ends |= {f"{i}.{head}": _End(f"blocks.{i}.attn.z", head, 2 * i + 1) for head in range(c.n_heads)}
        if c.d_mlp:
            ends[f"mlp.{i}"] = _End(f"blocks.{i}.mlp_out", None, 2 * i + 2)
    return ends


def _readers(c: Config) -> dict[str, _End]:
    ends: dict[str, _End] = {}
    for i in range(c.n_layers):
        for kind, heads in (("q", c.n_heads), ("k", c.kv_heads), ("v", c.kv_heads)):
            ends |= {f"{i}.{head}.{kind}": _End(f"blocks.{i}.attn.{kind}_in", head, 2 * i) for head in range(heads)}
        if c.d_mlp:
            ends[f"mlp.{i}"] = _End(f"blocks.{i}.mlp.in", None, 2 * i + 1)
    ends["logits"] = _End(f"blocks.{c.n_layers - 1}.resid_post", None, 2 * c.n_layers)
    return ends


def _ends(c: Config, edges: Iterable[tuple[str, str]]) -> list[tuple[_End, _End]]:
    begins, ends, pairs = _writers(c), _readers(c), []
    for writer, reader in edges:
        if not c.n_layers:
            raise ValueError("the model has no layers, so only the unembedding reads; change the embedding instead")
        if writer not in begins:
            raise ValueError(f"nothing named {writer!r} writes to the stream; {nearest(writer, begins)}")
        if reader not in ends:
            shared = f" (keys and values are read by {c.kv_heads} key heads)" if c.kv_heads < c.n_heads else ""
            raise ValueError(f"nothing named {reader!r} reads the stream{shared}; {nearest(reader, ends)}")
        if begins[writer].step > ends[reader].step:
            raise ValueError(f"{reader} reads the stream before {writer} writes to it; that is not an edge")
        pairs.append((begins[writer], ends[reader]))
    return pairs
