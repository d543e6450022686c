"""Circuits of SmolLM2 for indirect object identification: edge scores, faithfulness curves, six choices of method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residual.experiments.ioi import IOI, ioi_prompts
from residual.files.pretrained import smollm2
from residual.files.results import load_result
from residual.methods.attribution_patching import attribution
from residual.methods.edges import (
    Edge,
    EdgeScores,
    edge_attribution,
    every_edge,
    patch_edges,
    readers,
    writers,
    written,
)
from residual.methods.faithfulness import FRACTIONS, ranked
from residual.model import Config, Transformer
from residual.taps import at, compose

PROMPTS = 16  # for scores
PROMPTS_CURVES = 24  # other prompts
PROMPTS_CHOICES = 32  # other prompts
STEPS = {"EAP": 1, "EAP-IG": 5}
"""The two ways to score edges, with the number of gradients that each takes the mean of."""

RANKINGS = ("EAP help", "EAP size", "EAP-IG help", "EAP-IG size", "random")
"""Orders of the edges: by method and by ``ranked``'s ``by``; or at random."""

LEVELS, WAYS, PLACES = ("node", "edge"), ("patch", "mean", "zero"), ("all", "specified")
NODES = 40  # (head, position) pairs of the circuit
BETWEEN = 80  # edges between heads of the circuit, in its version with edges

Row = Callable[..., dict[str, Tensor]]


def scores(n_prompts: int = PROMPTS) -> Row:
    """Return a function of a method's number in ``STEPS`` that scores every edge: ``scores [writer reader]``.

    The clean run is on prompts, the corrupted one on the same with three other names.

    Raises:
        ModuleNotFoundError, ValueError: see ``pretrained.smollm2``.
    """
    model, _ = smollm2()
    prompts = _prompts(model, n_prompts)

    def row(method: int) -> dict[str, Tensor]:
        steps = list(STEPS.values())[method]
        found = edge_attribution(model, prompts.clean, prompts.abc, prompts.logit_diff, steps=steps)
        return {"scores": found.values}

    return row


def stored_scores(config: Config) -> dict[str, EdgeScores]:
    """Return the measured scores by method.

    Raises:
        FileNotFoundError, CheckpointError: see ``load_result``.
    """
    values, _ = load_result("smollm2-ioi-edge-scores")
    names, exists = (writers(config), readers(config)), torch.zeros(values["scores"].shape[1:], dtype=torch.bool)
    w, r = ({name: i for i, name in enumerate(each)} for each in names)
    for begin, end in every_edge(config):
        exists[w[begin], r[end]] = True
    return {name: EdgeScores(values["scores"][i], exists, *names) for i, name in enumerate(STEPS)}


def curves() -> Row:
    """Return a function of a ranking and a size that measures the circuit: ``difference [prompt]``, of the logits.

    ``empty`` and ``full`` are the differences with no edge kept and with all. The prompts are too few to compare two
    methods (see the note): they are stored one by one, so that what they leave open can be said.

    Raises:
        FileNotFoundError, CheckpointError: the scores are not measured yet; see ``load_result``.
        ModuleNotFoundError, ValueError: see ``pretrained.smollm2``.
    """
    model, _ = smollm2()
    prompts, of = _prompts(model, PROMPTS_CURVES, seed=2), stored_scores(model.config)
    edges, other = every_edge(model.config), written(model, prompts.abc)
    orders = {f"{name} {by}": ranked(each, by) for name, each in of.items() for by in ("help", "size")}  # type: ignore[arg-type]
    shuffled = torch.randperm(len(edges), generator=torch.Generator().manual_seed(0)).tolist()
    orders["random"] = [edges[i] for i in shuffled]

    def difference(kept: list[Edge]) -> Float[Tensor, " prompt"]:
        chosen = set(kept)
        cut = [edge for edge in edges if edge not in chosen]
        return _difference(model, prompts, patch_edges(model, cut, other) if cut else None)

    n_layers = model.config.n_layers
    with torch.no_grad():
        empty, full = (
            prompts.each(model.run_from(n_layers, model.run_to(tokens, n_layers)[:, -1:])[:, 0])
            for tokens in (prompts.abc, prompts.clean)
        )

    def row(ranking: int, size: int) -> dict[str, Tensor]:
        order = orders[RANKINGS[ranking]]
        return {"difference": difference(order[: round(FRACTIONS[size] * len(order))]), "empty": empty, "full": full}

    return row


def choices() -> Row:
    """Return a function of a level, a way and a place that measures one circuit of heads: ``difference [prompt]``.

    The circuit is a list of heads with positions (``circuit``). What is not in it is replaced: whole heads, or also
    edges between its own heads that score low (``LEVELS``); by what three other names give, its mean at the position,
    or zero (``WAYS``); and its heads are kept everywhere or at their positions only (``PLACES``). MLPs always stay. The
    logit difference of each prompt is that at the end; ``model`` is that of the whole model.

    Raises:
        FileNotFoundError, CheckpointError: the scores are not measured yet; see ``load_result``.
        ModuleNotFoundError, ValueError: see ``pretrained.smollm2``.
    """
    model, _ = smollm2()
    prompts = _prompts(model, PROMPTS_CHOICES, seed=1)
    kept = circuit(model, prompts)  # layer head pos
    other = written(model, prompts.abc)
    full = _difference(model, prompts, None)
    between = stored_scores(model.config)["EAP-IG"]

    def row(level: int, way: int, place: int) -> dict[str, Tensor]:
        where = kept if PLACES[place] == "specified" else kept.any(dim=2, keepdim=True).expand_as(kept)
        if LEVELS[level] == "node":
            tap = compose(*(_replaced(layer, where, other, WAYS[way]) for layer in range(len(where))))
        else:
            tap = _edges_replaced(model, where, other, WAYS[way], between)
        return {"difference": _difference(model, prompts, tap), "model": full}

    return row


def circuit(model: Transformer, prompts: IOI, nodes: int = NODES) -> Bool[Tensor, "layer head pos"]:
    """Return the heads and positions with the largest attribution scores, ``(z' - z) · ∂difference/∂z`` in size."""
    found = attribution(model, prompts.abc, prompts.clean, prompts.logit_diff, ["z"])["z"]
    chosen = torch.zeros(found.numel(), dtype=torch.bool)
    chosen[found.abs().flatten().topk(nodes).indices] = True
    return chosen.view_as(found)


def circuit_edges(config: Config, heads: Bool[Tensor, "layer head"], between: EdgeScores) -> list[Edge]:
    """Return the edges of a circuit of heads: with embedding, MLPs and logits all, among heads the ``BETWEEN`` best."""
    names = {f"{layer}.{head}" for layer, head in heads.nonzero().tolist()}
    shared = config.n_heads // config.kv_heads
    own = names | {w for w in writers(config) if w.startswith(("embed", "mlp"))}
    reads = {f"{name}.q" for name in names} | {r for r in readers(config) if r.startswith(("logits", "mlp"))}
    for name in names:
        layer, head = name.split(".")
        reads |= {f"{layer}.{int(head) // shared}.{side}" for side in "kv"}
    inside = [(w, r) for w, r in every_edge(config) if w in own and r in reads]
    headed = [(w, r) for w, r in inside if w in names and not r.startswith(("logits", "mlp"))]
    best = set(sorted(headed, key=lambda edge: -abs(float(between[edge])))[:BETWEEN])
    return [edge for edge in inside if edge in best or edge not in set(headed)]


def _prompts(model: Transformer, n: int, seed: int = 0) -> IOI:
    return ioi_prompts(model.vocabulary, n, seed=seed)


def _difference(model: Transformer, prompts: IOI, tap) -> Float[Tensor, " prompt"]:
    c = model.config
    with torch.no_grad():
        x = model.run_to(prompts.clean, c.n_layers, tap=tap)
        return prompts.each(model.run_from(c.n_layers, x[:, -1:])[:, 0])


def _replaced(layer: int, where: Tensor, other: dict[str, Tensor], way: str) -> at:
    """A tap that replaces what the heads of a layer write, wherever the circuit does not have them."""
    name = f"blocks.{layer}.attn.z"
    value = other[name].mean(dim=0, keepdim=True) if way == "mean" else other[name]
    value = torch.zeros_like(value) if way == "zero" else value
    return at(name, lambda z: torch.where(where[layer].mT[None, :, :, None], z, value))


def _edges_replaced(model: Transformer, where: Tensor, other: dict[str, Tensor], way, between: EdgeScores):
    """A tap that replaces all edges outside the circuit, and those inside wherever their writer's head is not in it."""
    heads = where.any(dim=2)
    kept = circuit_edges(model.config, heads, between)
    chosen = set(kept)
    taps = [patch_edges(model, [edge for edge in every_edge(model.config) if edge not in chosen], other, way)]
    groups: dict[tuple[bool, ...], list[Edge]] = {}
    for edge in kept:
        if "." in edge[0] and not edge[0].startswith("mlp"):
            layer, head = map(int, edge[0].split("."))
            groups.setdefault(tuple((~where[layer, head]).tolist()), []).append(edge)
    for outside, edges in groups.items():
        if any(outside):
            taps.append(patch_edges(model, edges, other, way, where=torch.tensor([outside])))
    return compose(*taps)
