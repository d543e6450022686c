"""Sweeps: change one thing at a time, at each head or layer and each position, and compute the metric.

::

    patch_heads(model, clean, corrupted, metric)                               # layer head pos: z of each head
    patch_heads(model, clean, corrupted, metric, name="k", together=True)      # layer key_head: keys everywhere
    patch_heads(model, clean, corrupted, metric, heads=["18.6", "17.4"])       # head pos
    ablate_resid(model, tokens, metric, "mean", name="mlp_out", positions=[3, 4], together=True)  # layer

The results equal those of the plain loop over ``model(tokens, tap=patch(…))``, up to rounding; ``reruns`` explains what
need not be computed again. A query or a pattern at one position changes only ``z`` of that head there, so those sweeps
are sweeps of ``z``. Keys and values are seen from all later positions, so their layer runs again as well.

Ablation values, the direction (clean into corrupted or the reverse) and the metric change the result of a sweep: report
them with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from residual.checks import Tokens
from residual.errors import nearest
from residual.methods.reruns import BaseRun, Metric, Position
from residual.methods.sites import OF_HEADS, OF_STREAM, Index, Sites, whole_texts
from residual.model import Transformer
from residual.scope import scope
from residual.taps import ablate, compose, patch, record
from residual.where import Heads, Positions

How = Literal["zero", "mean", "resample"]


def patch_heads(
    model: Transformer,
    clean: Tokens,
    corrupted: Tokens,
    metric: Metric,
    *,
    name: str = "z",
    heads: Heads | None = None,
    layers: Index = None,
    positions: Positions | None = None,
    together: bool = False,
    position: Position = -1,
) -> Float[Tensor, "layer head pos *metric"] | Float[Tensor, "head pos *metric"]:
    """Run on ``corrupted`` with one head's activation at one position taken from ``clean``; return the metric of each.

    Args:
        clean, corrupted: tokens, or texts with equally many tokens.
        metric: of logits ``[batch d_vocab]`` at ``position``, or ``[batch pos d_vocab]`` if that is None; a tensor.
        name: ``q``, ``k``, ``v`` (before any rotation), ``pattern`` or ``z``. Heads are key heads for keys and values;
            positions are queries for a pattern.
        heads: only these, in this order, by names such as ``"18.6"``. The result then has one axis for them, ``head``.
        layers: only these; default: all.
        positions: change only these; default: all.
        together: change all ``positions`` at once; they may then differ by example (``[batch pos]``, true where to
            change; or ``where.per_example``). The result has no axis for them.
        position: where the metric reads: one for all examples, or one for each; None for all positions, which is
            slower.

    Raises:
        ValueError: the two batches differ in shape; or there is no such activation, head, layer or position.
    """
    clean, corrupted = whole_texts(model, clean), whole_texts(model, corrupted)
    sites = Sites(model, corrupted, _known(name, OF_HEADS), heads, layers, positions, together)
    source = _recorded(model, clean, corrupted, f"attn.{name}")
    base = BaseRun(model, corrupted, metric, position, f"attn.{name}", "attn.z")
    return _heads(base, sites, name, source)


def ablate_heads(
    model: Transformer,
    tokens: Tokens,
    metric: Metric,
    how: How = "zero",
    *,
    name: str = "z",
    reference: Tokens | None = None,
    heads: Heads | None = None,
    layers: Index = None,
    positions: Positions | None = None,
    together: bool = False,
    position: Position = -1,
    seed: int = 0,
) -> Float[Tensor, "layer head pos *metric"] | Float[Tensor, "head pos *metric"]:
    """Ablate one head's activation at one position (see ``taps.ablate``); return the metric of each.

    Args:
        reference: the examples for means and resamples; default: ``tokens`` themselves.
        metric, name, heads, layers, positions, together, position: see ``patch_heads``.
        seed: of the resamples.

    Raises:
        ValueError: see ``patch_heads``.
    """
    tokens = whole_texts(model, tokens)
    sites = Sites(model, tokens, _known(name, OF_HEADS), heads, layers, positions, together)
    base = BaseRun(model, tokens, metric, position, f"attn.{name}", "attn.z")
    return _heads(base, sites, name, _ablated(base, f"attn.{name}", how, reference, seed))


def patch_resid(
    model: Transformer,
    clean: Tokens,
    corrupted: Tokens,
    metric: Metric,
    *,
    name: str = "resid_pre",
    layers: Index = None,
    positions: Positions | None = None,
    together: bool = False,
    position: Position = -1,
) -> Float[Tensor, "layer pos *metric"]:
    """Run on ``corrupted`` with the stream, or a write to it, at one layer and position taken from ``clean``.

    Args:
        name: ``resid_pre``, ``attn_out``, ``resid_mid``, ``mlp_out`` or ``resid_post``, of each layer.
        metric, layers, positions, together, position: see ``patch_heads``.

    Returns:
        The metric of each run.

    Raises:
        ValueError: see ``patch_heads``.
    """
    clean, corrupted = whole_texts(model, clean), whole_texts(model, corrupted)
    sites = Sites(model, corrupted, _known(name, _of_stream(model)), None, layers, positions, together)
    source = _recorded(model, clean, corrupted, name)
    return _layers(BaseRun(model, corrupted, metric, position, name), sites, name, source)


def ablate_resid(
    model: Transformer,
    tokens: Tokens,
    metric: Metric,
    how: How = "zero",
    *,
    name: str = "attn_out",
    reference: Tokens | None = None,
    layers: Index = None,
    positions: Positions | None = None,
    together: bool = False,
    position: Position = -1,
    seed: int = 0,
) -> Float[Tensor, "layer pos *metric"]:
    """Ablate the stream, or a write to it, at one layer and position; return the metric of each.

    Args:
        name: see ``patch_resid``.
        reference, seed: see ``ablate_heads``.
        metric, layers, positions, together, position: see ``patch_heads``.

    Raises:
        ValueError: see ``patch_heads``.
    """
    tokens = whole_texts(model, tokens)
    sites = Sites(model, tokens, _known(name, _of_stream(model)), None, layers, positions, together)
    base = BaseRun(model, tokens, metric, position, name)
    return _layers(base, sites, name, _ablated(base, name, how, reference, seed))


# Changes


def _known(name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise ValueError(f"no {name!r} in this model's layers; {nearest(name, names)}")
    return name


def _of_stream(model: Transformer) -> list[str]:
    return [name for name in OF_STREAM if model.config.d_mlp or name not in ("resid_mid", "mlp_out")]


@torch.no_grad()
def _recorded(model: Transformer, clean: Tensor, corrupted: Tensor, name: str) -> list[Tensor]:
    if clean.shape != corrupted.shape:
        raise ValueError(
            f"clean is {list(clean.shape)} and corrupted {list(corrupted.shape)}; patching needs the same shapes"
        )
    if not model.config.n_layers:
        return []
    model.run_to(clean, model.config.n_layers, tap=(seen := record(f"blocks.*.{name}")))
    return list(seen.values())


@torch.no_grad()
def _ablated(base: BaseRun, name: str, how: How, reference: Tokens | None, seed: int) -> list[Tensor]:
    other = None
    if reference is not None and base.blocks:
        other = record(f"blocks.*.{name}")
        base.model.run_to(whole_texts(base.model, reference), len(base.blocks), tap=other)
    take_away = ablate("*", how, other, seed=seed)
    names = [f"blocks.{layer}.{name}" for layer in range(len(base.blocks))]
    return [take_away(name, base.seen[name]) for name in names]


@torch.no_grad()
def _heads(base: BaseRun, sites: Sites, name: str, new: list[Tensor]) -> Tensor:
    """Return the metrics of changed heads; ``new[layer]`` is the new value of the named activation."""
    by_layer = {}
    for layer, heads in sites.heads.items():
        if name in ("k", "v"):
            by_layer[layer] = _key_heads(base, sites, layer, name, new[layer], heads)
            continue
        W_O: Tensor = base.blocks[layer].attn.W_O
        old, z = base.seen[f"blocks.{layer}.attn.z"], _z(base, layer, name, new[layer])
        if len(heads) < len(W_O):
            old, z, W_O = old[:, :, heads], z[:, :, heads], W_O[heads]
        by_layer[layer] = _follow(base, sites, layer + 1, old, z, partial(_stream_after, base, layer, old, W_O))
    return sites.arranged(base, by_layer)


def _z(base: BaseRun, layer: int, name: str, new: Tensor) -> Float[Tensor, "batch pos head d_head"]:
    """Return ``z`` of all heads if the named activation is ``new`` at all positions."""
    if name == "z":
        return new
    attn, block = f"blocks.{layer}.attn", base.blocks[layer]
    tap = compose(patch({f"{attn}.{name}": new}), seen := record(f"{attn}.z"))
    inside = scope(tap, base.model.activation_names).inside(attn)
    block.attn(block.ln1(base.stream[layer]), inside, base.model.place(0, base.n_pos), None)
    return seen[f"{attn}.z"]


def _stream_after(
    base: BaseRun,
    layer: int,
    old: Float[Tensor, "batch pos head d_head"],
    W_O: Float[Tensor, "head d_head d_model"],
    z: Float[Tensor, "batch pos head d_head"],
) -> Float[Tensor, "head batch pos d_model"]:
    """Return the stream after a layer in which some heads' ``z``, one head at a time, is no longer ``old``."""
    change = einsum(z - old, W_O, "batch pos head d_head, head d_head d_model -> head batch pos d_model")
    return base.blocks[layer].after_attention(base.middle[layer] + change)


def _key_heads(base: BaseRun, sites: Sites, layer: int, name: str, new: Tensor, heads: list[int]) -> Tensor:
    """Return the metric if keys or values ``[batch pos kv_head d_head]`` are ``new``, one key head at a time."""
    name = f"blocks.{layer}.attn.{name}"
    moved = _moved(base.seen[name][:, :, heads], new[:, :, heads])
    if sites.together:
        changes = [sites.marks]
    else:
        each = torch.eye(base.n_pos, dtype=torch.bool, device=moved.device)[:, None]  # pos 1 pos
        changes = [each[p].expand_as(sites.marks) for p in sites.positions]
    results = base.unchanged.expand(len(changes), len(heads), *base.unchanged.shape).clone()
    size = base.at_once()
    for i, marks in enumerate(changes):
        first = base.first(marks & moved)
        if first >= base.stop:
            continue
        part = slice(first, base.stop)
        for some in range(0, len(heads), size):
            mine = heads[some : some + size]
            x = base.stream[layer][:, part].expand(len(mine), -1, -1, -1)
            tap = _Put(name, new[:, part], mine, marks[:, part])
            results[i, some : some + size] = base.measure(base.run(layer, x, first, tap))
    return results[0] if sites.together else results.transpose(0, 1)  # head *pos *metric


class _Put:
    """A tap for a run of several nodes: each gets ``value [batch pos head d_head]`` at its own head, where marked."""

    def __init__(self, name: str, value: Tensor, heads: list[int], marks: Bool[Tensor, "batch pos"]) -> None:
        self.name, self.value, self.heads, self.marks = name, value, heads, marks

    def __call__(self, name: str, x: Tensor) -> Tensor:
        nodes = len(self.heads)
        chosen = torch.zeros(nodes, *self.value.shape[:3], 1, dtype=torch.bool, device=x.device)
        chosen[range(nodes), :, :, self.heads] = self.marks[..., None]
        return torch.where(chosen, self.value, x.unflatten(0, (nodes, -1))).flatten(0, 1)

    def resolve(self, known: list[str]) -> frozenset[str]:
        return frozenset([self.name])


@torch.no_grad()
def _layers(base: BaseRun, sites: Sites, name: str, new: list[Tensor]) -> Tensor:
    """Return the metrics of changed layers; ``new[layer]`` is the new activation, ``[batch pos d_model]``."""
    by_layer = {}
    for layer in sites.heads:
        old, becomes = base.seen[f"blocks.{layer}.{name}"], partial(_stream_with, base, layer, name)
        by_layer[layer] = _follow(base, sites, layer + (name != "resid_pre"), old, new[layer], becomes)
    return sites.arranged(base, by_layer)


def _stream_with(
    base: BaseRun, layer: int, name: str, x: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "node batch pos d_model"]:
    """Return the stream after a layer whose named activation is ``x`` (for ``resid_pre``, before it), as one node."""
    if name == "attn_out":
        x = base.middle[layer] + (x - base.seen[f"blocks.{layer}.attn_out"])
    elif name == "mlp_out":
        x = base.stream[layer + 1] + (x - base.seen[f"blocks.{layer}.mlp_out"])
    return (base.blocks[layer].after_attention(x) if name in ("attn_out", "resid_mid") else x)[None]


def _follow(
    base: BaseRun, sites: Sites, stage: int, old: Tensor, new: Tensor, becomes: Callable[[Tensor], Tensor]
) -> Float[Tensor, " node *pos *metric"]:
    """Return the metric when ``old [batch pos …]`` is ``new``, and the stream at ``stage`` is ``becomes(new)``."""
    moved = _moved(old, new)
    if not sites.together:
        return base.changed_at_each(stage, becomes(new), sites.positions, moved)
    marks = sites.marks.reshape(*sites.marks.shape, *[1] * (old.ndim - 2))
    return base.changed_together(stage, becomes(torch.where(marks, new, old)), base.first(sites.marks & moved))


def _moved(old: Tensor, new: Tensor) -> Bool[Tensor, " pos"]:
    """Return True at the positions where anything changes; before two prompts differ, nothing does."""
    return (old != new).transpose(0, 1).flatten(1).any(dim=1)
