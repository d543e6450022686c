"""ACDC: cut edges one after another, from the output back, and keep those whose loss is noticed.

From Conmy et al. 2023, "Towards Automated Circuit Discovery for Mechanistic Interpretability", Section 3, algorithm 1:
readers in reverse topological order; for each, its writers; an edge stays out if the loss rises by less than τ. One run
for each edge, so it suits graphs of up to thousands of edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from tqdm import tqdm

from residual.errors import nearest
from residual.methods.edges import Edge, readers, writers
from residual.model import Config


def sweep_order(config: Config, edges: Iterable[Edge]) -> list[Edge]:
    """Return edges in the order in which ACDC tries them: late readers first, and for each, late writers first.

    Raises:
        ValueError: there is no such writer or reader.
    """
    read = {name: i for i, name in enumerate(readers(config))}
    wrote = {name: i for i, name in enumerate(writers(config))}
    edges = list(edges)
    for edge in edges:
        for name, names in zip(edge, (wrote, read), strict=True):
            if name not in names:
                raise ValueError(f"{' → '.join(edge)} is no edge of this model: {nearest(name, names)}")
    return sorted(edges, key=lambda edge: (read[edge[1]], wrote[edge[0]]), reverse=True)


def acdc(order: Sequence[Edge], loss: Callable[[list[Edge]], float], threshold: float) -> list[Edge]:
    """Return the edges that ACDC keeps, in the order in which they were tried.

    >>> run = CircuitRuns(model, clean, corrupted, divergence_from(model, clean))
    >>> acdc(sweep_order(model.config, run.edges), run, threshold=0.05)

    Args:
        order: the edges, from ``sweep_order``; another order gives another circuit.
        loss: of a circuit, given by its edges.
        threshold: τ of the paper: an edge stays out if the loss of the circuit without it is higher by less than this.

    Raises:
        ValueError: the threshold or a loss is not a number, or an edge is listed twice.
    """
    if math.isnan(threshold):
        raise ValueError("the threshold is not a number; edges stay out if the loss rises by less than it")
    kept = dict.fromkeys(order)
    if len(kept) < len(order):
        raise ValueError("an edge is listed twice; each is tried once")
    before = loss(list(kept))
    if math.isnan(before):
        raise ValueError("the loss of all edges is not a number")
    for edge in tqdm(order, desc="acdc", leave=False, disable=None):
        without = [other for other in kept if other != edge]
        after = loss(without)
        if math.isnan(after):
            raise ValueError(f"the loss without {edge} is not a number")
        if after - before < threshold:
            del kept[edge]
            before = after
    return list(kept)
