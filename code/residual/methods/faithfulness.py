"""Faithfulness: how much of a metric is left when a model is cut down to some of its edges.

With m(C) the metric when readers see the clean run along the edges of a circuit C and a corrupted run along all others,

    f(C) = (m(C) - m(∅)) / (m(all) - m(∅))

is 0 for no edges and 1 for all. It is above 1 when C leaves out edges that lower the metric. A method that scores edges
gives a circuit of each size, its best k; f against k is its curve, and two areas sum up a curve (Mueller et al. 2025,
"MIB: A Mechanistic Interpretability Benchmark", Section 3): CPR, of f with edges ranked by signed score (more is
better), and CMD, of |1 - f| with edges ranked by absolute score (less is better).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from residual.checks import Tokens
from residual.errors import nearest
from residual.methods.edges import Edge, EdgeScores, every_edge, patch_edges, written
from residual.methods.reruns import Metric, Position, positions_read
from residual.methods.sites import whole_texts
from residual.model import Transformer

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The sizes of circuits in MIB, as fractions of all edges."""


class CircuitRuns:
    """A function from the kept edges to the metric of a run in which all other edges are corrupted.

    >>> run = CircuitRuns(model, clean, corrupted, metric)
    >>> run([("0.1", "1.0.k"), ("embed", "1.0.q"), ("embed", "1.0.v"), ("1.0", "logits")])

    Args:
        metric: of logits ``[batch d_vocab]`` at ``position``, or ``[batch pos d_vocab]`` if that is None; one number.
        how: what takes the place of a cut edge's term: that of the corrupted run (``"patch"``), its ``"mean"`` over the
            corrupted examples at each position, or ``"zero"``.
        always: edges that are kept in every circuit.

    Attributes:
        edges: the edges that may be cut, by writer and then by reader.
        full, empty: the metric with all of them kept, and with none.

    Raises:
        ValueError: the two batches differ in shape, or there is no such position or edge (in ``always`` either); the
            metric is not one number; see ``patch_edges``.
    """

    def __init__(
        self,
        model: Transformer,
        clean: Tokens,
        corrupted: Tokens,
        metric: Metric,
        *,
        position: Position = -1,
        how: Literal["patch", "mean", "zero"] = "patch",
        always: Iterable[Edge] = (),
    ) -> None:
        self.model, self.metric, self.how = model, metric, how
        self.tokens, other = whole_texts(model, clean), whole_texts(model, corrupted)
        if self.tokens.shape != other.shape:
            raise ValueError(
                f"clean is {list(self.tokens.shape)} and corrupted {list(other.shape)}; patching needs the same shapes"
            )
        self.example = torch.arange(len(other), device=other.device)
        self.read = positions_read(position, other.shape[1], self.example)
        self.other = written(model, other)
        kept = set(always)
        every = every_edge(model.config)
        if unknown := kept.difference(every):
            raise ValueError(f"always has {_no_edge(min(unknown), every)}")
        self.edges = [edge for edge in every if edge not in kept]
        self.full, self.empty = self(self.edges), self([])

    @torch.no_grad()
    def __call__(self, kept: Iterable[Edge]) -> float:
        """Return the metric of the circuit.

        Raises:
            ValueError: an edge is not one of ``edges``.
        """
        chosen = set(kept)
        if unknown := chosen.difference(self.edges):
            raise ValueError(f"kept has {_no_edge(min(unknown), self.edges)}")
        cut = [edge for edge in self.edges if edge not in chosen]
        tap = patch_edges(self.model, cut, self.other, self.how) if cut else None
        n_layers = self.model.config.n_layers
        x = self.model.run_to(self.tokens, n_layers, tap=tap)
        if self.read is None:
            logits = self.model.run_from(n_layers, x)
        else:
            logits = self.model.run_from(n_layers, x[self.example, self.read][:, None])[:, 0]
        value = torch.as_tensor(self.metric(logits))
        if value.numel() != 1:
            raise ValueError(f"the metric has shape {list(value.shape)}; it must be one number")
        return float(value)

    def faithfulness(self, kept: Iterable[Edge]) -> float:
        """Return f of the circuit: 0 for the metric of no edges, 1 for that of all.

        Raises:
            ValueError: the metric is the same with no edges as with all, so there is nothing to be a share of; an edge
                is not one of ``edges``.
        """
        span = self.full - self.empty
        if not abs(span) > 0:
            raise ValueError(f"the metric is {self.full:.3g} with all edges and {self.empty:.3g} with none: no span")
        return (self(kept) - self.empty) / span


def _no_edge(edge: Edge, edges: Sequence[Edge]) -> str:
    name = " → ".join(edge)
    return f"{name}, which is no edge that can be cut; {nearest(name, [' → '.join(each) for each in edges])}"


def divergence_from(model: Transformer, tokens: Tokens, position: Position = -1) -> Metric:
    """Return a metric: the mean KL divergence, in nats, of some logits from the model's own on ``tokens``.

    The model's distribution comes first, KL(model ‖ logits): the metric of Conmy et al. 2023, "Towards Automated
    Circuit Discovery", Section 3.
    """
    tokens = whole_texts(model, tokens)
    with torch.no_grad():
        own = model(tokens).log_softmax(dim=-1)
    example = torch.arange(len(tokens), device=tokens.device)
    read = positions_read(position, tokens.shape[1], example)
    own = own if read is None else own[example, read]

    def divergence(logits: Tensor) -> Tensor:
        each = F.kl_div(logits.log_softmax(dim=-1), own, log_target=True, reduction="none").sum(dim=-1)
        return each.mean()

    return divergence


def ranked(scores: EdgeScores, by: Literal["help", "size"]) -> list[Edge]:
    """Return all edges, the most important first.

    A score is the change of the metric if the edge is corrupted. By ``"help"``, an edge whose loss lowers the metric
    most comes first and one whose loss raises it comes last; by ``"size"``, the absolute score counts.

    Raises:
        ValueError: ranked by something else.
    """
    if by not in ("help", "size"):
        raise ValueError(f"cannot rank edges by {by!r}; {nearest(by, ['help', 'size'])}")
    if by == "size":
        return scores.top(int(scores.exists.sum()))
    order = scores.values.masked_fill(~scores.exists, torch.inf).flatten().argsort(stable=True)
    pairs = [divmod(i, len(scores.readers)) for i in order[: int(scores.exists.sum())].tolist()]
    return [(scores.writers[i], scores.readers[j]) for i, j in pairs]


def curve(
    run: Callable[[Sequence[Edge]], float], order: Sequence[Edge], sizes: Sequence[int]
) -> Float[Tensor, " size"]:
    """Return the metric of the first k edges of ``order`` for each k of ``sizes``.

    Raises:
        ValueError: a size is below 0, above the number of edges, or not a whole number.
    """
    if wrong := [size for size in sizes if not 0 <= size <= len(order) or size != int(size)]:
        raise ValueError(f"there is no circuit of {wrong[0]} edges; sizes are whole numbers from 0 to {len(order)}")
    found = [run(order[: int(size)]) for size in tqdm(sizes, desc="circuits", leave=False, disable=None)]
    return torch.tensor(found, dtype=torch.float64)


def weights(fractions: Sequence[float], axis: Literal["linear", "log"] = "linear") -> Float[Tensor, " size"]:
    """Return the weight of each size in the mean over an axis, by trapezoids: exact for straight lines between sizes.

    The weights sum to 1. On the linear axis this is the area of MIB divided by the length of its axis, which is .999.

    Raises:
        ValueError: fewer than two sizes, not ascending, or infinite; on the log axis, one that is not above 0; another
            axis.
    """
    if axis not in ("linear", "log"):
        raise ValueError(f"there is no axis {axis!r}; {nearest(axis, ['linear', 'log'])}")
    x = torch.tensor(list(fractions), dtype=torch.float64)
    ascend = len(x) > 1 and bool(x.isfinite().all()) and bool((x.diff() > 0).all())
    if not ascend or (axis == "log" and not bool((x > 0).all())):
        raise ValueError(f"sizes are {list(fractions)}; give two or more, ascending (and above 0 on a log axis)")
    widths = (x.log() if axis == "log" else x).diff()
    found = torch.zeros_like(x)
    found[:-1] += widths / 2
    found[1:] += widths / 2
    return found / widths.sum()


def cpr(
    fractions: Sequence[float], f: Float[Tensor, " size"] | Sequence[float], axis: Literal["linear", "log"] = "linear"
) -> Float[Tensor, ""]:
    """Return the circuit performance ratio: the mean of f over sizes (Mueller et al. 2025, Section 3). More is better.

    Raises:
        ValueError: f has not one value for each size; see ``weights``.
    """
    return (weights(fractions, axis) * _heights(f, fractions)).sum()


def cmd(
    fractions: Sequence[float], f: Float[Tensor, " size"] | Sequence[float], axis: Literal["linear", "log"] = "linear"
) -> Float[Tensor, ""]:
    """Return the circuit-model distance: the mean of |1 - f| over sizes (the same, Section 3). Less is better.

    Raises:
        ValueError: f has not one value for each size; see ``weights``.
    """
    return (weights(fractions, axis) * (1 - _heights(f, fractions)).abs()).sum()


def _heights(f: Float[Tensor, " size"] | Sequence[float], fractions: Sequence[float]) -> Float[Tensor, " size"]:
    heights = torch.as_tensor(f, dtype=torch.float64)
    if heights.shape != (len(fractions),):
        raise ValueError(f"f is {list(heights.shape)}; give one for each of {len(fractions)} sizes")
    return heights
