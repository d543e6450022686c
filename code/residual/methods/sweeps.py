"""Change one thing at a time, everywhere: each head or layer, at each position, and the metric that follows.

::

    patch_heads(model, clean, corrupted, metric)                               # layer head pos: z of each head
    patch_heads(model, clean, corrupted, metric, name="k", together=True)      # layer key_head: keys everywhere
    patch_heads(model, clean, corrupted, metric, heads=["18.6", "17.4"])       # head pos
    ablate_resid(model, tokens, metric, "mean", name="mlp_out", positions=[3, 4], together=True)  # layer

All of it equals the plain loop over ``model(tokens, tap=patch(…))``, to rounding; ``reruns`` says what is not computed
again. A query or a pattern at one position changes ``z`` of that head there and nothing else, so these sweeps are sweeps
of another ``z``. Keys and values are seen from all later positions, and begin again inside the layer.

Ablation values, the direction (clean into corrupted or the reverse) and the metric change what a sweep shows: report
them with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residual.errors import nearest
from residual.methods.reruns import BaseRun, Metric, Position
from residual.model import Block, Transformer
from residual.scope import scope
from residual.taps import ablate, compose, patch, record

How = Literal["zero", "mean", "resample"]
Positions = int | slice | Sequence[int] | Int[Tensor, " n"] | Bool[Tensor, "batch pos"]
Layers = int | slice | Sequence[int]

OF_HEADS = ("q", "k", "v", "pattern", "z")
OF_STREAM = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


def patch_heads(
    model: Transformer,
    clean: Int[Tensor, "batch pos"],
    corrupted: Int[Tensor, "batch pos"],
    metric: Metric,
    *,
    name: str = "z",
    heads: Sequence[str] | None = None,
    layers: Layers | None = None,
    positions: Positions | None = None,
    together: bool = False,
    position: Position = -1,
) -> Float[Tensor, "layer head pos *metric"] | Float[Tensor, "head pos *metric"]:
    """Run on ``corrupted``; put one head's activation at one position in as it is on ``clean``; what is the metric?

    Args:
        metric: of logits ``[batch d_vocab]`` at ``position``, or ``[batch pos d_vocab]`` if that is None; a tensor.
        name: ``q``, ``k``, ``v`` (before any rotation), ``pattern`` or ``z``. Heads are key heads for keys and values;
            positions are queries for a pattern.
        heads: names such as ``"18.6"``: only these, in this order. The result then has one axis for them, ``head``.
        layers: only these, instead of all.
        positions: change only these, instead of all.
        together: change all ``positions`` at once, which then may be marked in each example, ``[batch pos]``. The
            result has no axis for them.
        position: where the metric reads: the same in all examples, or one for each; None for all positions, which
            takes longer.

    Raises:
        ValueError: the two batches differ in shape; there is no such activation, head, layer or position.
    """
    sites = _Sites(model, corrupted, _known(name, OF_HEADS), heads, layers, positions, together)
    source = _recorded(model, clean, corrupted, f"attn.{name}")
    base = BaseRun(model, corrupted, metric, position, f"attn.{name}", "attn.z")
    return _heads(base, sites, name, source)


def ablate_heads(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    metric: Metric,
    how: How = "zero",
    *,
    name: str = "z",
    reference: Int[Tensor, "other pos"] | None = None,
    heads: Sequence[str] | None = None,
    layers: Layers | None = None,
    positions: Positions | None = None,
    together: bool = False,
    position: Position = -1,
    seed: int = 0,
) -> Float[Tensor, "layer head pos *metric"] | Float[Tensor, "head pos *metric"]:
    """Take one head's activation at one position away (``taps.ablate`` says how); what is the metric?

    Args:
        reference: the examples that means and resamples come from; ``tokens`` themselves, if not given.
        metric, name, heads, layers, positions, together, position: see ``patch_heads``.
        seed: of the resamples.

    Raises:
        ValueError: as ``patch_heads``.
    """
    sites = _Sites(model, tokens, _known(name, OF_HEADS), heads, layers, positions, together)
    base = BaseRun(model, tokens, metric, position, f"attn.{name}", "attn.z")
    return _heads(base, sites, name, _ablated(base, f"attn.{name}", how, reference, seed))


def patch_resid(
    model: Transformer,
    clean: Int[Tensor, "batch pos"],
    corrupted: Int[Tensor, "batch pos"],
    metric: Metric,
    *,
    name: str = "resid_pre",
    layers: Layers | None = None,
    positions: Positions | None = None,
    together: bool = False,
    position: Position = -1,
) -> Float[Tensor, "layer pos *metric"]:
    """Run on ``corrupted``; put the stream, or what is added to it, at one layer and position in as on ``clean``.

    Args:
        name: ``resid_pre``, ``attn_out``, ``resid_mid``, ``mlp_out`` or ``resid_post``, of each layer.
        metric, layers, positions, together, position: see ``patch_heads``.

    Raises:
        ValueError: as ``patch_heads``.
    """
    sites = _Sites(model, corrupted, _known(name, _of_stream(model)), None, layers, positions, together)
    source = _recorded(model, clean, corrupted, name)
    return _layers(BaseRun(model, corrupted, metric, position, name), sites, name, source)


def ablate_resid(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    metric: Metric,
    how: How = "zero",
    *,
    name: str = "attn_out",
    reference: Int[Tensor, "other pos"] | None = None,
    layers: Layers | None = None,
    positions: Positions | None = None,
    together: bool = False,
    position: Position = -1,
    seed: int = 0,
) -> Float[Tensor, "layer pos *metric"]:
    """Take the stream, or what is added to it, at one layer and position away; what is the metric?

    Args:
        name: see ``patch_resid``.
        reference, seed: see ``ablate_heads``.
        metric, layers, positions, together, position: see ``patch_heads``.

    Raises:
        ValueError: as ``patch_heads``.
    """
    sites = _Sites(model, tokens, _known(name, _of_stream(model)), None, layers, positions, together)
    base = BaseRun(model, tokens, metric, position, name)
    return _layers(base, sites, name, _ablated(base, name, how, reference, seed))


# Where


class _Sites:
    """The layers, heads and positions of a sweep, and the axes of its result."""

    def __init__(
        self,
        model: Transformer,
        tokens: Tensor,
        name: str,
        heads: Sequence[str] | None,
        layers: Layers | None,
        positions: Positions | None,
        together: bool,
    ) -> None:
        c = model.config
        n_heads = 1 if name in OF_STREAM else c.kv_heads if name in ("k", "v") else c.n_heads
        if heads is not None and layers is not None:
            raise ValueError("the names of heads say their layers; leave layers out")
        in_order = [(layer, head) for layer in _indices(layers, c.n_layers, "layer") for head in range(n_heads)]
        self.in_order = in_order if heads is None else _named(heads, c.n_layers, n_heads, name)
        self.heads: dict[int, list[int]] = {}  # by layer
        for layer, head in self.in_order:
            self.heads.setdefault(layer, []).append(head)
        n_layers = len(in_order) // n_heads
        if name in OF_STREAM or heads is not None:
            self.axes = [len(self.in_order)]
        else:
            self.axes = [n_layers, n_heads]
        self.together = together
        if isinstance(positions, Tensor) and positions.dtype == torch.bool:
            if not together:
                raise ValueError("positions marked in each example are changed all at once; give together=True, too")
            if positions.shape != tokens.shape:
                raise ValueError(f"positions mark {list(positions.shape)}, the tokens are {list(tokens.shape)}")
            self.positions, self.marks = [], positions.to(tokens.device)  # batch pos
        else:
            self.positions = _indices(positions, tokens.shape[1], "position")
            self.marks = torch.zeros_like(tokens, dtype=torch.bool)
            self.marks[:, self.positions] = True

    def arranged(self, base: BaseRun, found: dict[int, Tensor]) -> Tensor:
        """The metrics of each layer, ``[head *pos *metric]``, as one tensor."""
        rows = [found[layer][self.heads[layer].index(head)] for layer, head in self.in_order]
        shape = [*([] if self.together else [len(self.positions)]), *base.unchanged.shape]
        return (torch.stack(rows) if rows else base.unchanged.new_zeros(0, *shape)).reshape(*self.axes, *shape)


def _indices(wanted: Layers | Positions | None, length: int, word: str) -> list[int]:
    """The indices that are meant, of ``length``; all of them for None."""
    if wanted is None or isinstance(wanted, slice):
        return list(range(length))[wanted or slice(None)]
    try:
        index = torch.as_tensor(wanted).reshape(-1)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{word}s are whole numbers, a list of them or a slice; {wanted!r} is none") from None
    if index.numel() and (index.is_floating_point() or index.dtype == torch.bool):
        raise ValueError(f"{word}s are whole numbers, a list of them or a slice; {wanted!r} is none")
    if not bool(((-length <= index) & (index < length)).all()):
        raise ValueError(f"there is no {word} {wanted} among {length}")
    return (index.long() % max(length, 1)).tolist()


def _named(heads: Sequence[str], n_layers: int, n_heads: int, name: str) -> list[tuple[int, int]]:
    known = {f"{layer}.{head}": (layer, head) for layer in range(n_layers) for head in range(n_heads)}
    if isinstance(heads, str):
        raise ValueError(f"heads is a list of names; write heads=[{heads!r}]")
    for head in heads:
        if head not in known:
            kind = "key head" if name in ("k", "v") else "head"
            raise ValueError(f"there is no {kind} {head!r}; {nearest(str(head), known)}")
    return [known[head] for head in heads]


def _known(name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise ValueError(f"no {name!r} in this model's layers; {nearest(name, names)}")
    return name


def _of_stream(model: Transformer) -> list[str]:
    return [name for name in OF_STREAM if model.config.d_mlp or name not in ("resid_mid", "mlp_out")]


# What is changed


@torch.no_grad()
def _recorded(model: Transformer, clean: Tensor, corrupted: Tensor, name: str) -> list[Tensor]:
    if clean.shape != corrupted.shape:
        raise ValueError(
            f"clean is {list(clean.shape)} and corrupted {list(corrupted.shape)}; patching needs the same shapes"
        )
    if not model.config.n_layers:
        return []
    model(clean, tap=(seen := record(f"blocks.*.{name}")))
    return list(seen.values())


@torch.no_grad()
def _ablated(base: BaseRun, name: str, how: How, reference: Tensor | None, seed: int) -> list[Tensor]:
    other = None
    if reference is not None and base.blocks:
        base.model(reference, tap=(other := record(f"blocks.*.{name}")))
    take_away = ablate("*", how, other, seed=seed)
    names = [f"blocks.{layer}.{name}" for layer in range(len(base.blocks))]
    return [take_away(name, base.seen[name]) for name in names]


@torch.no_grad()
def _heads(base: BaseRun, sites: _Sites, name: str, new: list[Tensor]) -> Tensor:
    """``new[layer]`` is the named activation as it is to be."""
    found = {}
    for layer, heads in sites.heads.items():
        if name in ("k", "v"):
            found[layer] = _key_heads(base, sites, layer, name, new[layer], heads)
            continue
        block, old = base.blocks[layer], base.seen[f"blocks.{layer}.attn.z"][:, :, heads]

        def becomes(
            z: Tensor, layer: int = layer, block: Block = block, old: Tensor = old, heads: list = heads
        ) -> Tensor:
            W_O = block.attn.W_O[heads]
            change = einsum(z - old, W_O, "batch pos head d_head, head d_head d_model -> head batch pos d_model")
            return block.after_attention(base.middle[layer] + change)

        found[layer] = _follow(base, sites, layer + 1, old, _z(base, layer, name, new[layer])[:, :, heads], becomes)
    return sites.arranged(base, found)


def _z(base: BaseRun, layer: int, name: str, new: Tensor) -> Float[Tensor, "batch pos head d_head"]:
    """``z`` of all heads where the named activation is ``new`` at all positions."""
    if name == "z":
        return new
    attn, block = f"blocks.{layer}.attn", base.blocks[layer]
    tap = compose(patch({f"{attn}.{name}": new}), seen := record(f"{attn}.z"))
    inside = scope(tap, base.model.activation_names).inside(attn)
    block.attn(block.ln1(base.stream[layer]), inside, base.model.place(0, base.n_pos), None)
    return seen[f"{attn}.z"]


def _key_heads(base: BaseRun, sites: _Sites, layer: int, name: str, new: Tensor, heads: list[int]) -> Tensor:
    """The metric when keys or values ``[batch pos kv_head d_head]`` are ``new``, one key head at a time."""
    name = f"blocks.{layer}.attn.{name}"
    moved = _moved(base.seen[name][:, :, heads], new[:, :, heads])
    if sites.together:
        changes = [(slice(None), sites.marks)]
    else:
        each = torch.eye(base.n_pos, dtype=torch.bool, device=moved.device)[:, None]  # pos 1 pos
        changes = [((slice(None), i), each[p].expand_as(sites.marks)) for i, p in enumerate(sites.positions)]
    shape = [] if sites.together else [len(sites.positions)]
    found = base.unchanged.expand(len(heads), *shape, *base.unchanged.shape).clone()
    size = base.at_once()
    for where, marks in changes:
        first = base.first(marks & moved)
        if first >= base.stop:
            continue
        part = slice(first, base.stop)
        for some in range(0, len(heads), size):
            mine = heads[some : some + size]
            x = base.stream[layer][:, part].expand(len(mine), -1, -1, -1)
            tap = _Put(name, new[:, part], mine, marks[:, part])
            found[some : some + size][where] = base.measure(base.run(layer, x, first, tap))
    return found


class _Put:
    """A tap on a run of several nodes: each gets ``value [batch pos head d_head]`` at its own head, where marked."""

    def __init__(self, name: str, value: Tensor, heads: list[int], marks: Bool[Tensor, "batch pos"]) -> None:
        self.name, self.value, self.heads, self.marks = name, value, heads, marks

    def __call__(self, name: str, x: Tensor) -> Tensor:
        nodes = len(self.heads)
        there = torch.zeros(nodes, *self.value.shape[:3], 1, dtype=torch.bool, device=x.device)
        there[range(nodes), :, :, self.heads] = self.marks[..., None]
        return torch.where(there, self.value, x.unflatten(0, (nodes, -1))).flatten(0, 1)

    def resolve(self, known: list[str]) -> frozenset[str]:
        return frozenset([self.name])


@torch.no_grad()
def _layers(base: BaseRun, sites: _Sites, name: str, new: list[Tensor]) -> Tensor:
    """``new[layer]`` is the named activation as it is to be, ``[batch pos d_model]``."""
    found = {}
    for layer in sites.heads:
        block, old = base.blocks[layer], base.seen[f"blocks.{layer}.{name}"]

        def becomes(x: Tensor, layer: int = layer, block: Block = block, old: Tensor = old) -> Tensor:
            if name == "attn_out":
                x = base.middle[layer] + (x - old)
            elif name == "mlp_out":
                x = base.stream[layer + 1] + (x - old)
            return (block.after_attention(x) if name in ("attn_out", "resid_mid") else x)[None]

        found[layer] = _follow(base, sites, layer + (name != "resid_pre"), old, new[layer], becomes)
    return sites.arranged(base, found)


def _follow(
    base: BaseRun, sites: _Sites, stage: int, old: Tensor, new: Tensor, becomes: Callable[[Tensor], Tensor]
) -> Float[Tensor, "node *pos *metric"]:
    """The metric when ``old [batch pos …]`` is ``new``, and the stream at ``stage`` ``becomes(new)``."""
    moved = _moved(old, new)
    if not sites.together:
        return base.changed_at_each(stage, becomes(new), sites.positions, moved)
    marks = sites.marks.reshape(*sites.marks.shape, *[1] * (old.ndim - 2))
    return base.changed_together(stage, becomes(torch.where(marks, new, old)), base.first(sites.marks & moved))


def _moved(old: Tensor, new: Tensor) -> Bool[Tensor, " pos"]:
    """The positions at which anything changes; before two prompts differ, nothing does."""
    return (old != new).transpose(0, 1).flatten(1).any(dim=1)
