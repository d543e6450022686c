"""The value of every subset of a few heads, and what follows from it: exact Shapley values, the best subset of a size.

A subset S of n heads keeps its heads; the others give a constant (zero, their mean, or values of another run), and
everything after them is computed again. Each subset has a value v(S), for example a logit difference. Then::

    φ_i = Σ_{S without i} |S|! (n - |S| - 1)! / n! · (v(S ∪ i) - v(S))                          shapley
        = the mean, over all n! orders in which heads can be added, of what v gains with head i

It is the only division of v(all) - v(none) that treats equals equally, gives nothing to a head that changes nothing,
and is linear in v (Shapley 1953, "A value for n-person games"). Subsets are numbered in binary: head i is in subset s
if bit i of s is set, so that ``values[0]`` is that of no heads and ``values[-1]`` that of all::

    values = subset_values(model, tokens, lambda logits: logits[:, -1, 3].mean())  # 256 of a model with 8 heads
    shapley(values)  # 8, in the order of every_head(model): 0.0, 0.1, …
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import comb
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from residual.checks import Tokens
from residual.errors import nearest
from residual.model import Block, Transformer
from residual.scope import scope
from residual.taps import parse_heads, record

MOST = 12
"""The largest number of heads: 4,096 subsets."""


def every_head(model: Transformer) -> list[str]:
    """Return the labels of all heads in order: ``["0.0", "0.1", …]``."""
    return [f"{layer}.{head}" for layer in range(model.config.n_layers) for head in range(model.config.n_heads)]


def subsets(n: int) -> Bool[Tensor, "subset head"]:
    """Return the members of all subsets of n heads, in the order of ``subset_values``.

    Raises:
        ValueError: n is below 1 or above ``MOST``.
    """
    if not 1 <= n <= MOST:
        raise ValueError(f"{n} heads have 2^{n} subsets; give between 1 and {MOST} heads")
    return (torch.arange(2**n)[:, None] >> torch.arange(n)) & 1 == 1


@torch.no_grad()
def subset_values(
    model: Transformer,
    tokens: Tokens,
    measure: Callable[[Float[Tensor, "batch pos d_vocab"]], Tensor],
    *,
    heads: Sequence[str] | None = None,
    instead: Literal["zero", "mean"] | Mapping[str, Tensor] = "mean",
    stream: bool = False,
) -> Float[Tensor, " subset *measured"]:
    """Return the measure of the logits for every subset of ``heads``; heads outside the subset are replaced.

    The layers before a changed one are not computed again: for two layers of four heads the first layer runs once, the
    second 16 times, and the unembedding 256 times.

    Args:
        measure: takes the logits and returns a number or a tensor, always of the same shape.
        heads: as in ``["0.1", "1.3"]``; default: all. Heads not listed always stay as they are.
        instead: what an absent head gives: zero; the mean of its ``attn.z`` over examples and positions in the run
            with all heads; or recorded values by name, ``{"blocks.0.attn.z": …}``, such as those of other tokens.
        stream: the measure takes the end of the stream, before the final norm, instead of the logits. Logits are most
            of the work, and a few of them can be read off the stream.

    Raises:
        TypeError: ``heads`` is one string, ``instead`` is something else, or the measure returns no number.
        ValueError: no such head, a head twice, more than ``MOST`` heads, recorded values of another shape, or a
            measure whose shape changes.
        KeyError: ``instead`` lacks the ``attn.z`` of a layer.
    """
    if isinstance(heads, str):
        raise TypeError(f"heads is a list of labels, as in [{heads!r}]; this is the string {heads!r}")
    labels = every_head(model) if heads is None else list(heads)
    known = every_head(model)
    if wrong := [label for label in labels if label not in known]:
        raise ValueError(f"there is no head {wrong[0]!r}; {nearest(str(wrong[0]), known)}")
    if len(set(labels)) < len(labels):
        raise ValueError(f"a head is listed twice: {', '.join(labels)}")
    member = subsets(len(labels))
    if isinstance(instead, str) and instead not in ("zero", "mean"):
        raise ValueError(f"cannot put in {instead!r}; {nearest(instead, ['zero', 'mean'])}, or give recorded values")
    if not isinstance(instead, str | Mapping):
        raise TypeError(
            f"an absent head gives 'zero', 'mean', or values by name, {{'blocks.0.attn.z': …}}; this is "
            f"{type(instead).__name__}"
        )
    places = [cast(tuple[int, int], place) for place in parse_heads(labels)]
    layers = sorted({layer for layer, _ in places})
    names = {layer: f"blocks.{layer}.attn.z" for layer in layers}
    start = f"blocks.{layers[0]}.resid_pre"
    model(tokens, tap=(seen := record([start, *names.values()])))
    given: dict[int, Tensor] = {}
    for layer, name in names.items():
        if isinstance(instead, Mapping):
            given[layer] = _fitting(instead, name, seen[name])
        else:
            mean = seen[name].mean(dim=(0, 1), keepdim=True)
            given[layer] = (mean if instead == "mean" else torch.zeros_like(mean)).expand_as(seen[name])
    found: dict[int, Tensor] = {}
    bar = tqdm(total=len(member), desc="subsets", leave=False, disable=None)

    def walk(depth: int, x: Tensor, chosen: int) -> None:
        """Go through the subsets of one layer's heads, given the stream before it and the heads kept so far."""
        layer = layers[depth]
        last = depth + 1 == len(layers)
        mine = [i for i, place in enumerate(places) if place[0] == layer]
        block = cast(Block, model.blocks[layer])
        z, rest = _head_outputs(model, layer, x)
        start = x + torch.einsum("bphd,hdm->bpm", z, block.attn.W_O) + rest
        listed = [places[i][1] for i in mine]
        losses = torch.einsum("bphd,hdm->hbpm", (given[layer] - z)[:, :, listed], block.attn.W_O[listed])
        for kept in range(2 ** len(mine)):
            gone = [k for k in range(len(mine)) if not kept >> k & 1]
            after = block.after_attention(start + sum(losses[k] for k in gone))
            number = chosen | sum(1 << i for k, i in enumerate(mine) if k not in gone)
            if last:
                end = _onward(model, after, layer + 1, model.config.n_layers)
                found[number] = _number(measure(end if stream else model.unembed(end)))
                if found[number].shape != (shape := next(iter(found.values())).shape):
                    raise ValueError(
                        f"the measure gave shape {list(shape)}, then {list(found[number].shape)}; it must not change"
                    )
                bar.update()
            else:
                walk(depth + 1, _onward(model, after, layer + 1, layers[depth + 1]), number)

    walk(0, seen[start], 0)
    bar.close()
    return torch.stack([found[number] for number in range(len(member))])


def shapley(values: Float[Tensor, " subset *measured"]) -> Float[Tensor, " head *measured"]:
    """Return the Shapley value of each head, given the values of all subsets. They sum to v(all) - v(none).

    Raises:
        TypeError: the values are no tensor of floats.
        ValueError: the number of values is not that of the subsets of 1 to ``MOST`` heads, or one is not finite.
    """
    n, member = _members(values)
    if not bool(values.isfinite().all()):
        raise ValueError(
            "a value is infinite, and a difference of infinite values is no share; measure something finite"
        )
    size = member.sum(dim=1)
    weight = torch.tensor([1 / (n * comb(n - 1, k)) for k in range(n)], dtype=values.dtype)
    rows = []
    for i in range(n):
        without = torch.nonzero(~member[:, i])[:, 0]
        gain = values[without + 2**i] - values[without]
        rows.append(torch.tensordot(weight[size[without]], gain, dims=1))
    return torch.stack(rows)


def alone(values: Float[Tensor, " subset *measured"]) -> Float[Tensor, " head *measured"]:
    """Return what each head gains when all others are absent: the first step of ``shapley``."""
    n, _ = _members(values)
    return values[2 ** torch.arange(n)] - values[0]


def removed(values: Float[Tensor, " subset *measured"]) -> Float[Tensor, " head *measured"]:
    """Return what is lost when each head alone is absent: its single ablation, the last step of ``shapley``."""
    n, _ = _members(values)
    return values[-1] - values[2**n - 1 - 2 ** torch.arange(n)]


def best_subsets(values: Float[Tensor, " subset"]) -> list[tuple[tuple[int, ...], float]]:
    """Return, for each size from 0 to n, the members and the value of the subset with the largest value.

    To look for the smallest loss, give minus the loss. Of equals, the first in order of numbering is returned.

    Raises:
        TypeError, ValueError: see ``shapley``; or there is more than one value a subset.
    """
    n, _ = _members(values)
    if values.ndim != 1:
        raise ValueError(f"the best subset needs one number a subset; these have shape {list(values.shape)}")
    found = []
    for size in range(n + 1):
        every = sorted(combinations(range(n), size), key=lambda heads: sum(2**i for i in heads))
        scores = values[torch.tensor([sum(2**i for i in heads) for heads in every])]
        best = int(scores.argmax())
        found.append((every[best], scores[best].item()))
    return found


def _members(values: Tensor) -> tuple[int, Tensor]:
    if not isinstance(values, Tensor) or not values.is_floating_point() or not values.ndim:
        kind = f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"the values are a tensor of floats, one for each subset; this is {kind}")
    if bool(values.isnan().any()):
        raise ValueError("a value is nan: the measure is not defined for some subset")
    n = len(values).bit_length() - 1
    if len(values) != 2**n or not 1 <= n <= MOST:
        raise ValueError(f"{len(values)} values are not one for each subset of 1 to {MOST} heads (2, 4, …, {2**MOST})")
    return n, subsets(n)


def _head_outputs(model: Transformer, layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``attn.z`` of a layer for the stream before it, and what the layer's attention adds besides: its bias."""
    block = cast(Block, model.blocks[layer])
    names = [f"blocks.{layer}.attn.z"]
    tap = scope(seen := record(names), names).inside(f"blocks.{layer}").inside("attn")
    place = model.place(0, x.shape[1])
    block.attn(block.ln1(x), tap, place, None)
    bias = block.attn.b_O
    return seen[names[0]], x.new_zeros(()) if bias is None else bias


def _number(measured: Tensor | float) -> Tensor:
    if not isinstance(measured, Tensor | float | int):
        raise TypeError(f"the measure returns a number or a tensor; it returned {type(measured).__name__}")
    return torch.as_tensor(measured)


def _fitting(instead: Mapping[str, Tensor], name: str, z: Tensor) -> Tensor:
    try:
        return instead[name].expand_as(z)
    except RuntimeError:
        raise ValueError(f"{name} has shape {list(instead[name].shape)}; it must fit {list(z.shape)}") from None


def _onward(model: Transformer, x: Tensor, first: int, last: int) -> Tensor:
    """Return the stream before layer ``last``, given that before layer ``first``."""
    place = model.place(0, x.shape[1])
    for layer in range(first, last):
        x = cast(Block, model.blocks[layer])(x, scope(None, []), place, None)
    return x
