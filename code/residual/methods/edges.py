"""Edges: what one part of the model reads of what another part wrote.

The stream before a part is the sum of what the parts before it wrote, so each pair of a writer and a later reader is an
edge, and an edge can be changed alone: the reader gets ``x + (t' - t)`` instead of x, where t is the writer's term in
this run and t' its term in another. The stream stays as it is, and so does what every other part reads.

- writers: ``embed``, ``pos`` (learned positions), ``0.1`` (layer 0, head 1), ``mlp.0``
- readers: ``1.1.q``, ``1.1.k``, ``1.1.v`` (what the maps of head 1 in layer 1 read), ``mlp.1``, ``logits``

Where query heads share keys and values (Ainslie et al. 2023, "GQA"), k and v are read once by each key head: ``1.0.k``
is then key head 0, for all the query heads that share it. An edge to one sharer alone is no edge of such a model.

``patch_edges`` changes edges; with one, it is path patching along the direct path (Goldowsky-Dill et al. 2023,
"Localizing Model Behavior with Path Patching"). ``edge_attribution`` estimates what changing each would do.
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


class _End(NamedTuple):
    """Where an edge begins or ends."""

    name: str  # of the activation
    head: int | None
    step: int  # writers: after how many sublayers it is written; readers: how many have written before


def writers(config: Config) -> list[str]:
    """The parts that write to the stream, in order."""
    return list(_writers(config))


def readers(config: Config) -> list[str]:
    """The parts that read the stream, in order."""
    return list(_readers(config))


def written(model: Transformer, tokens: Tokens, mask: Bool[Tensor, "batch pos"] | None = None) -> dict[str, Tensor]:
    """Return, by the names of activations, what each writer writes: for ``patch_edges``."""
    seen = record(list(dict.fromkeys(end.name for end in _writers(model.config).values())))
    with torch.no_grad():
        model.run_to(tokens, model.config.n_layers, tap=seen, mask=mask)
    return dict(seen)


class patch_edges:
    """Let readers read writers as they are in another run, and everything else as it is in this; a tap.

    >>> other = written(model, corrupted)
    >>> model(clean, tap=patch_edges(model, [("0.1", "1.1.k")], other))

    "As it is in this run" counts changed edges before it: with every edge patched the run is the other run. The norm
    before a reader divides by the scale of what is read, unless another tap freezes it::

        compose(patch_edges(…), freeze({name: x for name, x in seen.items() if name.endswith("scale")}))

    Args:
        edges: pairs (writer, reader), of those in ``writers(model.config)`` and ``readers(model.config)``.
        recorded: of ``written``, for as many examples as are run, or for one.
        how: the writer's term as recorded; its ``"mean"`` over the recorded examples, at each position, which should
            be of one length; or ``"zero"``, which needs no recording. A bias of an MLP is no part of its term.

    Raises:
        ValueError: no such writer or reader, or the reader comes first; nothing recorded, or of another shape.
    """

    writes = False

    def __init__(
        self,
        model: Transformer,
        edges: Iterable[tuple[str, str]],
        recorded: Mapping[str, Tensor] | None = None,
        how: Literal["patch", "mean", "zero"] = "patch",
    ) -> None:
        if how not in ("patch", "mean", "zero"):
            raise ValueError(f"cannot change an edge by {how!r}; {nearest(how, ['patch', 'mean', 'zero'])}")
        if recorded is None and how != "zero":
            raise ValueError(f"{how!r} needs what is written in another run: recorded=written(model, tokens)")
        self.model = model
        chosen = _ends(model.config, edges)
        self._heads: dict[str, list[int]] = {}  # of each activation that is written, those of use here
        for begin, _ in chosen:
            heads = self._heads.setdefault(begin.name, [])
            if begin.head is not None and begin.head not in heads:
                heads.append(begin.head)
        self._new: dict[str, Tensor] = {}
        for name in self._heads if how != "zero" else ():
            if recorded is None or name not in recorded:
                raise ValueError(f"{name} was not recorded; written(model, tokens) records all that is needed")
            self._new[name] = recorded[name].mean(dim=0, keepdim=True) if how == "mean" else recorded[name]
        # For each activation that is read, by the activation that is written: 1 where (reader head, writer head) is an
        # edge. A part that has no heads counts as one.
        self._reads: dict[str, dict[str, Tensor]] = {}
        for begin, end in chosen:
            width = len(self._heads[begin.name]) or 1
            rows = model.config.n_heads if end.name.endswith("q_in") else model.config.kv_heads
            mask = self._reads.setdefault(end.name, {}).setdefault(
                begin.name, torch.zeros(1 if end.head is None else rows, width)
            )
            mask[end.head or 0, 0 if begin.head is None else self._heads[begin.name].index(begin.head)] = 1
        self._terms: dict[str, Tensor] = {}  # of this run, as they are written; the next run clears both
        self._changes: dict[str, Tensor] = {}

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if name in self._heads:
            self._terms[name], self._changes[name] = x, self._change(name, x)
        if name in self._reads:
            y = x
            for source, mask in self._reads[name].items():
                change = einsum(mask.to(x), self._changes[source], "reader writer, writer b pos d -> b pos reader d")
                y = y + (change if y.ndim == 4 else change[:, :, 0])
            x = y
        return x

    def settled(self, name: str, x: Tensor) -> None:
        """Take what is written in this run after all taps."""
        if name in self._heads and x is not self._terms.get(name):
            self._changes[name] = self._change(name, x)

    def resolve(self, known: list[str]) -> frozenset[str]:
        self._terms.clear()
        self._changes.clear()
        names = [*self._heads, *self._reads]
        return find(names, known) if names else frozenset()

    def _change(self, name: str, x: Tensor) -> Float[Tensor, "writer batch pos d_model"]:
        """The new terms minus those of this run."""
        new = self._new.get(name)
        block = cast(Block, self.model.blocks[int(name.split(".")[1])]) if name.startswith("blocks.") else None
        if new is None:
            new = torch.zeros_like(x)
            if name.endswith("mlp_out") and block is not None and block.mlp is not None and block.mlp.b_out is not None:
                new = new + block.mlp.b_out
        elif new.shape[1:] != x.shape[1:] or len(new) not in (1, len(x)):
            raise ValueError(f"{name} was recorded with shape {list(new.shape)}; in this run it has {list(x.shape)}")
        change = new.to(x) - x
        if not name.endswith("attn.z") or block is None:
            return change[None]
        heads = self._heads[name]
        return einsum(change[:, :, heads], block.attn.W_O[heads], "b pos head d_head, head d_head d -> head b pos d")


@dataclass(frozen=True)
class EdgeScores:
    """A number for each edge; 0 for pairs that are none, since the reader comes before the writer."""

    values: Float[Tensor, "writer reader"]
    exists: Bool[Tensor, "writer reader"]
    writers: list[str]
    readers: list[str]

    def __getitem__(self, edge: tuple[str, str]) -> Tensor:
        """The score of an edge (writer, reader).

        Raises:
            KeyError: there is no such writer or reader, or the reader comes first.
        """
        for name, names in zip(edge, (self.writers, self.readers), strict=True):
            if name not in names:
                raise KeyError(f"no {name!r} is there; {nearest(name, names)}")
        place = self.writers.index(edge[0]), self.readers.index(edge[1])
        if not bool(self.exists[place]):
            raise KeyError(f"{edge[1]} reads the stream before {edge[0]} writes to it; that is no edge")
        return self.values[place]

    def top(self, n: int) -> list[tuple[str, str]]:
        """The ``n`` edges with the largest scores, whatever their sign, largest first; all, where there are fewer.

        Raises:
            ValueError: ``n`` is no whole number, or below 0.
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
    """Estimate for every edge how the metric of the clean run changes when the edge is patched with the corrupted run.

    ``Σ (t' - t) · ∂metric/∂(what the reader reads)``, over examples, positions and coordinates: first order in the
    change, all edges from two runs and one backward pass (Syed et al. 2023, "Attribution Patching Outperforms Automated
    Circuit Discovery", Section 3). With more steps, the gradient is the mean over runs whose embedding lies on the line
    from corrupted to clean, at 1/steps, 2/steps, … 1 of the way (Hanna et al. 2024, "Have Faith in Faithfulness",
    Section 3; their code takes 0, 1/steps, …).

    Args:
        metric: of logits ``[batch d_vocab]`` at ``position``, or ``[batch pos d_vocab]`` if that is None; one number.
        position: where the metric reads: the same in all examples, or one for each; None for all positions.
        mask: as for the model, and the same for both batches.

    Raises:
        ValueError: the two batches differ in shape, or in what is real; there is no such position; the metric is more
            than one number; no steps.
    """
    c = model.config
    clean, mask = as_tokens(clean, mask, model.vocabulary, model.W_E.device)
    corrupted, corrupted_mask = as_tokens(corrupted, None, model.vocabulary, model.W_E.device)
    if clean.shape != corrupted.shape:
        raise ValueError(
            f"clean is {list(clean.shape)} and corrupted {list(corrupted.shape)}; patching needs the same shapes"
        )
    if corrupted_mask is not None and (mask is None or not torch.equal(mask, corrupted_mask)):
        raise ValueError("a clean text and its corrupted text differ in length; patching needs the same positions")
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
    """What each writer writes in the other run minus what it writes in this, ``[writer batch pos d_model]``."""
    found = []
    for name, x in base.items():
        change = other[name] - x
        if name.endswith("attn.z"):
            W_O = cast(Block, model.blocks[int(name.split(".")[1])]).attn.W_O.detach()
            found.append(einsum(change, W_O, "b pos head d_head, head d_head d_model -> head b pos d_model"))
        else:
            found.append(change[None])
    return torch.cat(found)


def _differentiated(
    model: Transformer, tokens: Tensor, mask: Tensor | None, embedding: Tensor, metric: Metric, position: Position
):
    """Return the activations of a run from this embedding, and the metric's gradients by some of them, both by name."""
    c = model.config
    layers = [f"blocks.{i}." for i in range(c.n_layers)]
    asked = [f"{layer}attn.{name}" for layer in layers for name in "qkv"]
    asked += [f"{layer}mlp.in" for layer in layers if c.d_mlp]
    others = [*(end.name for end in _writers(c).values()), *(f"{layer}resid_pre" for layer in layers)]
    with torch.enable_grad():
        embedding = embedding.detach().requires_grad_()
        start = at("embed", lambda _: embedding)
        x = model.run_to(tokens, c.n_layers, tap=compose(start, seen := record([*asked, *others])), mask=mask)
        value = metric(_logits(model, x, position))
        if not isinstance(value, Tensor) or not value.requires_grad:
            raise ValueError("the metric does not depend on the logits it is given; compute it from them with torch")
        if value.numel() != 1:
            raise ValueError(f"the metric has shape {list(value.shape)}; it must be one number")
        *found, end = torch.autograd.grad(value.sum(), [*(seen[name] for name in asked), x], materialize_grads=True)
    gradients = dict(zip(asked, found, strict=True)) | {"end": end}
    return {name: x.detach() for name, x in seen.items()}, gradients


def _by_reader(model: Transformer, seen: Mapping[str, Tensor], gradients: Mapping[str, Tensor]):
    """For the readers of each activation: their names, and the gradient by what they read ``[reader batch pos d]``.

    Those of queries, keys and values are taken back through the heads' maps and the norm by hand: what each head reads
    never has to exist.
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
    """The logits that the metric reads, and no others."""
    if position is None:
        return model.run_from(model.config.n_layers, x)
    example = torch.arange(len(x), device=x.device)
    read = positions_read(position, x.shape[1], example)
    return model.run_from(model.config.n_layers, x[example, read][:, None])[:, 0]


def _back_through(
    norm: Norm, x: Float[Tensor, "b pos d_model"], gradient: Float[Tensor, "reader b pos d_model"]
) -> Tensor:
    """The gradient by a norm's input, from that by its output: ``(g - x̂ (x̂ · g) / d_model) / s``, with g times w."""
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
    found = {"embed": _End("embed", None, 0)}
    if c.positions == "learned":
        found["pos"] = _End("pos_embed", None, 0)
    for i in range(c.n_layers):
        found |= {f"{i}.{head}": _End(f"blocks.{i}.attn.z", head, 2 * i + 1) for head in range(c.n_heads)}
        if c.d_mlp:
            found[f"mlp.{i}"] = _End(f"blocks.{i}.mlp_out", None, 2 * i + 2)
    return found


def _readers(c: Config) -> dict[str, _End]:
    found: dict[str, _End] = {}
    for i in range(c.n_layers):
        for kind, heads in (("q", c.n_heads), ("k", c.kv_heads), ("v", c.kv_heads)):
            found |= {f"{i}.{head}.{kind}": _End(f"blocks.{i}.attn.{kind}_in", head, 2 * i) for head in range(heads)}
        if c.d_mlp:
            found[f"mlp.{i}"] = _End(f"blocks.{i}.mlp.in", None, 2 * i + 1)
    found["logits"] = _End(f"blocks.{c.n_layers - 1}.resid_post", None, 2 * c.n_layers)
    return found


def _ends(c: Config, edges: Iterable[tuple[str, str]]) -> list[tuple[_End, _End]]:
    begins, ends, found = _writers(c), _readers(c), []
    for writer, reader in edges:
        if not c.n_layers:
            raise ValueError(
                "the model has no layers, so that only the unembedding reads; change the embedding instead"
            )
        if writer not in begins:
            raise ValueError(f"nothing named {writer!r} writes to the stream; {nearest(writer, begins)}")
        if reader not in ends:
            shared = f" (keys and values are read by {c.kv_heads} key heads)" if c.kv_heads < c.n_heads else ""
            raise ValueError(f"nothing named {reader!r} reads the stream{shared}; {nearest(reader, ends)}")
        if begins[writer].step > ends[reader].step:
            raise ValueError(f"{reader} reads the stream before {writer} writes to it; that is no edge")
        found.append((begins[writer], ends[reader]))
    return found
