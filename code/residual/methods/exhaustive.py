"""Every circuit of a graph at once: the exact truth by which a method that looks for circuits can be graded.

A circuit is a set of kept edges (see ``edges``): readers see the clean run's term along a kept edge, and the corrupted
run's along any other. Among n edges there are 2ⁿ circuits. They need not be run one by one where the metric is a
difference of logits and nothing but attention follows the last layer's reads: the end of the stream is then a sum, and
the metric with it::

    m(C) = Σ_w d · t_w(C) + Σ_h d · o_h(C)        t_w: what earlier parts write,  o_h: the output of head h

``t_w`` is one of two vectors, and ``o_h`` depends on the edges of head h alone. So 2¹⁶ values a head, four heads of
which make 2⁶⁹ circuits, hold the metric of every circuit; the best circuit of each size is a maximum over how a size is
shared out among the heads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from functools import cached_property
from typing import cast

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residual.errors import nearest
from residual.methods.edges import Edge
from residual.model import Block, Config, Transformer
from residual.taps import record

LARGEST = 18  # edges of one head: 2¹⁸ circuits


class EveryCircuit:
    """The metric of every circuit among the edges into the last layer and into the logits.

    Edges into earlier layers are kept in all of them. The metric is the mean over examples of
    ``logits[right] - logits[wrong]`` at the last position.

    >>> every = EveryCircuit(model, clean, corrupted, right, wrong)
    >>> every.metric([("0.1", "1.0.k"), ("embed", "1.0.q")])  # only these are kept
    >>> every.best()[4]  # the kept edges of the best circuit of four edges

    Attributes:
        edges: all edges that may be cut.
        tables: the change of the metric by what a head of the last layer writes, from that of the corrupted run; bit
            ``i`` of ``circuit`` is the head's edge ``i``: its queries', keys' and values' from each writer, and its own
            to the logits.
        direct: the change of the metric if the edge from an earlier writer to the logits is kept.
        empty: the metric of the circuit without edges, which is that of the corrupted run.

    Raises:
        ValueError: the model has an MLP in its last layer, a norm before the logits, shared or smeared keys, or too
            many edges into a head; the batches differ in shape; or an answer is missing or not in the vocabulary.
    """

    tables: Float[Tensor, "head circuit"]
    direct: Float[Tensor, " writer"]

    @torch.no_grad()
    def __init__(
        self,
        model: Transformer,
        clean: Int[Tensor, "batch pos"],
        corrupted: Int[Tensor, "batch pos"],
        right: Int[Tensor, " batch"],
        wrong: Int[Tensor, " batch"],
    ) -> None:
        c, last = model.config, model.config.n_layers - 1
        _check(c, clean, corrupted, right, wrong)
        terms = torch.stack([_terms(model, tokens) for tokens in (corrupted, clean)])  # run writer batch pos d_model
        self.writers = ["embed", *(["pos"] if c.positions == "learned" else [])]
        self.writers += [f"{layer}.{head}" for layer in range(last) for head in range(c.n_heads)]
        n, self.heads = len(self.writers), [f"{last}.{head}" for head in range(c.n_heads)]
        if 3 * n + 1 > LARGEST:
            raise ValueError(f"{n} parts write to each head: 2^{3 * n + 1} circuits; the most is 2^{LARGEST}")
        self.of_head = [
            [*((w, f"{head}.{side}") for side in "qkv" for w in self.writers), (head, "logits")] for head in self.heads
        ]
        self.edges: list[Edge] = [edge for edges in self.of_head for edge in edges]
        self.edges += [(w, "logits") for w in self.writers]
        self._place = {edge: i for i, edge in enumerate(self.edges)}
        d = model.W_U[:, right].mT - model.W_U[:, wrong].mT  # batch d_model
        self.direct = einsum(terms[1, :, :, -1] - terms[0, :, :, -1], d, "writer b d, b d -> writer") / len(d)
        kept = torch.arange(2**n)[:, None] >> torch.arange(n) & 1  # set writer
        some = torch.cat([torch.ones(2**n, 1), kept], dim=1).to(d)  # the corrupted run, and the changes of a set
        attn = cast(Block, model.blocks[last]).attn
        place, reads = model.place(0, clean.shape[1]), terms[0].sum(dim=0)
        one_clean = [attn.qkv(reads + change, place) for change in terms[1] - terms[0]]
        q, k, v = (  # the maps are affine: what a writer changes does not depend on what the others write
            torch.stack([own, *(each - own for each in changed)])  # part batch pos head d_head
            for own, *changed in zip(attn.qkv(reads, place), *one_clean, strict=True)
        )
        moved = einsum(v, attn.W_O, d, "part b pos head e, head e d, b d -> part b pos head")
        rows = []
        for h in range(c.n_heads):
            scores = einsum(q[:, :, -1, h], k[:, :, :, h], "i b e, j b pos e -> i j b pos") * c.d_head**-0.5
            pattern = einsum(some, some, scores, "query i, key j, i j b pos -> query key b pos").softmax(dim=-1)
            output = einsum(pattern, moved[..., h], "query key b pos, part b pos -> part key query")
            rows.append(einsum(some, output, "value part, part key query -> value key query").flatten())
        table = torch.stack(rows) / len(d)
        start = table[:, :1]
        self.tables = torch.cat([torch.zeros_like(table), table - start], dim=1)
        self.empty = float(einsum(terms[0, :, :, -1], d, "writer b d, b d -> ") / len(d) + start.sum())

    @property
    def full(self) -> float:
        """The metric of the clean run."""
        return self.empty + float(self.tables[:, -1].sum() + self.direct.sum())

    def metric(self, kept: Iterable[Edge]) -> float:
        """Return the metric of a circuit.

        Raises:
            ValueError: an edge is not one of ``edges``.
        """
        return float(self.metrics(self.mask(kept)[None])[0])

    def metrics(self, kept: Bool[Tensor, "circuit edge"]) -> Float[Tensor, " circuit"]:
        """Return the metric of many circuits, whose edges are in the order of ``edges``.

        Raises:
            ValueError: the masks have another width, or are not of true and false.
        """
        if kept.ndim != 2 or kept.shape[1] != len(self.edges) or kept.dtype != torch.bool:
            shape = f"{list(kept.shape)} of {str(kept.dtype).removeprefix('torch.')}"
            raise ValueError(f"kept is {shape}; give true or false, [circuit, {len(self.edges)} edges]")
        per_head = len(self.of_head[0])
        bits = kept[:, : -len(self.writers)].long().unflatten(1, (-1, per_head)) << torch.arange(per_head)
        own = self.tables.gather(1, bits.sum(dim=-1).mT).sum(dim=0)
        return self.empty + own + (kept[:, -len(self.writers) :] * self.direct).sum(dim=1)

    def mask(self, kept: Iterable[Edge]) -> Bool[Tensor, " edge"]:
        """Return true at the kept edges, in the order of ``edges``."""
        place = self._place
        chosen = torch.zeros(len(place), dtype=torch.bool)
        for edge in kept:
            if edge not in place:
                names = [" → ".join(each) for each in place]
                raise ValueError(f"{' → '.join(edge)} may not be cut here; {nearest(' → '.join(edge), names)}")
            chosen[place[edge]] = True
        return chosen

    def best(self) -> list[list[Edge]]:
        """Return, for each size from 0 to all edges, the circuit of that size with the largest metric."""
        return [self._circuit(chosen) for _, chosen in self._best]

    def best_metrics(self) -> Float[Tensor, " size"]:
        """Return the largest metric of a circuit of each size."""
        return torch.tensor([self.empty + value for value, _ in self._best], dtype=self.tables.dtype)

    def best_without(self) -> Float[Tensor, " edge"]:
        """Return, for each edge, the largest metric of a circuit without it.

        If that is too little, the edge is in every circuit that is good enough.
        """
        most = self.tables.max(dim=1).values
        direct = self.direct.clamp(min=0)
        total = self.empty + most.sum() + direct.sum()
        circuits = torch.arange(self.tables.shape[1])
        absent = torch.stack([(circuits >> i & 1) == 0 for i in range(len(self.of_head[0]))])  # edge circuit
        left = torch.stack([self.tables[:, cut].max(dim=1).values for cut in absent], dim=1)  # head edge
        return torch.cat([(total - most[:, None] + left).flatten(), total - direct])

    def shapley(self) -> Float[Tensor, " edge"]:
        """Return the Shapley value of each edge: the mean of its gain over all orders in which edges can be added.

        A sum of games has the sum of their values, so each head's table is a game of its own.
        """
        n = len(self.of_head[0])
        size, circuits = sizes(n), torch.arange(2**n)
        share = torch.tensor([1 / (n * math.comb(n - 1, k)) for k in range(n)], dtype=torch.float64)
        columns = []
        for i in range(n):
            cut = circuits[(circuits >> i & 1) == 0]
            columns.append((self.tables[:, cut + 2**i] - self.tables[:, cut]).double() @ share[size[cut]])
        return torch.cat([torch.stack(columns, dim=1).flatten(), self.direct.double()])

    def how_many(self, least: float, bins: int = 256) -> Float[Tensor, " size"]:
        """Return the number of circuits of each size whose metric is at least ``least``.

        Values are rounded to ``bins`` steps, for each head and for the direct edges, between the largest and smallest
        of any: so circuits within ``(heads + 1) / 2`` steps of ``least`` may be counted on either side.

        Raises:
            ValueError: ``least`` is not a number, or there are fewer than two bins.
        """
        if math.isnan(least) or bins < 2:
            raise ValueError(f"cannot count circuits above {least} with {bins} bins; give a number, and two or more")
        n = len(self.writers)
        direct = torch.stack([self.direct[(i >> torch.arange(n) & 1) == 1].sum() for i in torch.arange(2**n)])
        parts = [*self.tables.double(), direct.double()]
        low, high = min(float(p.min()) for p in parts), max(float(p.max()) for p in parts)
        step = (high - low) / (bins - 1) or 1.0
        counts = np.ones((1, 1))  # size bin
        for part in parts:
            height = len(part).bit_length()  # sizes 0 … of this part
            histogram = np.zeros((height, bins))
            np.add.at(histogram, (sizes(height - 1).numpy(), ((part - low) / step).round().long().numpy()), 1)
            merged = np.zeros((len(counts) + height - 1, counts.shape[1] + bins - 1))
            for a, b in itertools.product(range(len(counts)), range(height)):
                merged[a + b] += np.convolve(counts[a], histogram[b])
            counts = merged
        values = self.empty + len(parts) * low + step * np.arange(counts.shape[1])
        return torch.from_numpy(counts[:, values >= least].sum(axis=1))

    @cached_property
    def _best(self) -> list[tuple[float, tuple[int, ...]]]:
        """The largest value by size with the circuit of each part: heads in order, then the direct edges together."""
        table: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        order = self.direct.argsort(descending=True).tolist()
        direct = [(float(self.direct[order[:s]].sum()), sum(1 << w for w in order[:s])) for s in range(len(order) + 1)]
        for part in [*(_largest(values) for values in self.tables), direct]:
            merged: list[tuple[float, tuple[int, ...]]] = []
            for size in range(len(table) + len(part) - 1):
                low, high = max(0, size - len(part) + 1), min(size, len(table) - 1)
                value, s = max((table[s][0] + part[size - s][0], s) for s in range(low, high + 1))
                merged.append((value, (*table[s][1], part[size - s][1])))
            table = merged
        return table

    def _circuit(self, chosen: tuple[int, ...]) -> list[Edge]:
        parts = [*self.of_head, self.edges[-len(self.writers) :]]
        return [
            edge for bits, edges in zip(chosen, parts, strict=True) for i, edge in enumerate(edges) if bits >> i & 1
        ]


def _check(c: Config, clean: Tensor, corrupted: Tensor, right: Tensor, wrong: Tensor) -> None:
    """Raise ValueError unless the metric of a model of this kind is a sum over heads, on these texts and answers."""
    if c.n_layers == 0 or c.d_mlp or c.norm != "none" or c.smeared_keys or c.kv_heads < c.n_heads:
        raise ValueError("the end of the stream is a sum over heads only without MLPs, norms, shared or smeared keys")
    if clean.shape != corrupted.shape:
        raise ValueError(f"clean is {list(clean.shape)} and corrupted {list(corrupted.shape)}; give equal shapes")
    if clean.ndim != 2 or not clean.numel():
        raise ValueError(f"clean is {list(clean.shape)}; give tokens [batch pos], at least one")
    for name, answer in (("right", right), ("wrong", wrong)):
        if answer.shape != clean.shape[:1]:
            raise ValueError(f"{name} is {list(answer.shape)}; give one token for each of {len(clean)} texts")
        if (
            answer.is_floating_point()
            or answer.dtype == torch.bool
            or not bool(((answer >= 0) & (answer < c.d_vocab)).all())
        ):
            raise ValueError(f"{name} has {answer.tolist()}; tokens are whole numbers from 0 to {c.d_vocab - 1}")


def sizes(n_edges: int) -> Int[Tensor, " circuit"]:
    """Return the number of edges of each circuit: the bits of 0, 1, … 2ⁿ - 1."""
    circuits = torch.arange(2**n_edges)
    return sum((circuits >> i & 1 for i in range(n_edges)), torch.zeros_like(circuits))


def _largest(values: Float[Tensor, " circuit"]) -> list[tuple[float, int]]:
    """Return the largest value among circuits of each size, and its circuit."""
    n = len(values).bit_length() - 1
    size, found = sizes(n), []
    for s in range(n + 1):
        where = (size == s).nonzero().flatten()
        best = where[values[where].argmax()]
        found.append((float(values[best]), int(best)))
    return found


def _terms(model: Transformer, tokens: Tensor) -> Float[Tensor, "writer batch pos d_model"]:
    """Return what each part before the last layer writes."""
    c = model.config
    names = ["embed", *(["pos_embed"] if c.positions == "learned" else [])]
    layers = [f"blocks.{layer}.attn.result" for layer in range(c.n_layers - 1)]
    model(tokens, tap=(seen := record([*names, *layers])))
    rest = [seen["embed"], *(seen[name].expand_as(seen["embed"]) for name in names[1:])]
    return torch.stack([*rest, *(x for layer in layers for x in seen[layer].unbind(dim=2))])
