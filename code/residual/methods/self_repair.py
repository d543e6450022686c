"""Self-repair, split exactly: why removing a head costs less than the head wrote.

A head wrote t to the stream; put t' there instead, and let everything after it respond. With the reading direction
r = u ∘ w (a column or difference of columns of W_U, times the norm's weight), the stream's end x, its scale s, and
primes for the changed run::

    logit' - logit = r·x'/s' - r·x/s
                   = - r·(t - t')/s   +   r·(x' - x + t - t')/s   +   r·x' (1/s' - 1/s)
                       direct effect      later parts' response       scale

The direct effect is what direct logit attribution credits to the head. Self-repair is what is not lost after all,
``(logit' - logit) + direct = later + scale`` (the quantity of Rushing and Nanda 2024, "Explorations of Self-Repair in
Language Models"). ``later`` is a sum too, over the heads and MLPs after the head. With LayerNorm, ``·`` reads a
centered stream, and the shifts cancel in the difference; without a norm the scale's part is 0. The split takes the
scale last, at the changed stream; ``mixed`` is the part of it that another order would move.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from residual.checks import Tokens
from residual.errors import nearest
from residual.methods.shapley import every_head
from residual.model import Block, Transformer
from residual.scope import scope
from residual.taps import parse_heads, record

Instead = Literal["zero", "mean", "resample", "elsewhere", "projected"]
INSTEAD = ("zero", "mean", "resample", "elsewhere", "projected")


@dataclass(frozen=True)
class Split:
    """The effect of replacing one head on a logit, in three parts: ``change = later + scale - direct``."""

    direct: Float[Tensor, "batch pos"]  # what the head's output brought, at the scale of the clean run
    later: Float[Tensor, "batch pos"]  # the change in what was written after it, at the same scale
    scale: Float[Tensor, "batch pos"]
    mixed: Float[Tensor, "batch pos"]  # the part of ``scale`` from the changed stream: (r·x' - r·x)(1/s' - 1/s)
    alone: Float[Tensor, "batch pos"]  # what ``scale`` would be if nothing after the head responded
    by_part: Float[Tensor, "part batch pos"]  # ``later``, one row for each of ``labels``
    labels: list[str]  # "mlp.2", "3.0", "3.1", …

    @property
    def change(self) -> Float[Tensor, "batch pos"]:
        """The logit of the changed run minus that of the clean run."""
        return self.later + self.scale - self.direct

    @property
    def repair(self) -> Float[Tensor, "batch pos"]:
        """Self-repair: the direct effect that is not lost after all."""
        return self.later + self.scale


class SelfRepair:
    """One clean run, from which single heads are replaced.

    >>> splits = SelfRepair(model, tokens, next_token_direction(model, tokens))
    >>> split = splits("9.6", "mean")
    >>> split.direct - split.repair == -split.change

    Args:
        direction: reads the normalized stream like a column of ``W_U``: one vector ``[d_model]``, one for each example
            ``[batch d_model]`` or ``[batch 1 d_model]``, or one for each position ``[batch pos d_model]``.

    Raises:
        TypeError: the direction is no tensor of floats; for a token's logit give ``model.W_U[:, token]``.
        ValueError: a direction of another shape.
    """

    @torch.no_grad()
    def __init__(self, model: Transformer, tokens: Tokens, direction: Float[Tensor, "*batch_pos d_model"]) -> None:
        _check_direction(direction)
        c = self.config = model.config
        self.model, self.norm = model, model.ln_final
        names = ["resid_pre", "attn.z", "attn_out", *(["mlp_out"] if c.d_mlp else [])]
        self.end = model.run_to(tokens, c.n_layers, tap=(seen := record([f"*.{name}" for name in names])))
        self.seen = dict(seen)
        self._aim(direction)

    @torch.no_grad()
    def toward(self, direction: Float[Tensor, "*batch_pos d_model"]) -> SelfRepair:
        """Return the same clean run, read along another direction; nothing is run again.

        Raises:
            TypeError, ValueError: as for the class.
        """
        _check_direction(direction)
        other = copy(self)
        other._aim(direction)
        return other

    def _aim(self, direction: Tensor) -> None:
        direction = self._shaped(direction)
        self.read = self._centred((direction if self.norm.w is None else direction * self.norm.w).double())
        self.read = self.read.expand_as(self.end)
        self.logit, self.s = self._reading(self.end)

    @torch.no_grad()
    def __call__(
        self, head: str, instead: Instead | Float[Tensor, "batch pos d_model"], *, by_part: bool = False, seed: int = 0
    ) -> Split:
        """Return the split for one head.

        Args:
            instead: what is written in the head's place. ``"zero"``: nothing; ``"mean"``: its mean over examples and
                positions; ``"resample"``: what it writes in the next example of the batch; ``"elsewhere"``: a random
                vector of the same length at right angles to the reading direction; ``"projected"``: its own output
                without its component along that direction, brought to the same length; or a tensor.
            by_part: also split ``later`` by head and MLP (otherwise ``by_part`` has no rows).
            seed: of the random vectors.

        Raises:
            ValueError: there is no such head or no such ``instead``; resampling from one example.
        """
        layer, _ = self._place(head)
        names = [f"blocks.{i}.attn.z" for i in range(layer + 1, self.config.n_layers)] * by_part
        names += [f"blocks.{i}.mlp_out" for i in range(layer, self.config.n_layers) if self.config.d_mlp] * by_part
        delta, x = self._rerun(head, instead, seed, scope(seen := record(names), names) if names else scope(None, []))
        logit, s = self._reading(x)
        lost = -(delta.double() * self.read).sum(dim=-1)
        total, before = logit * s, self.logit * self.s  # r·x', r·x
        further = 1 / s - 1 / self.s
        bare, bare_s = self._reading(self.end + delta)  # the head changed, and nothing else
        rows, labels = self._parts(seen, layer) if names else (self.end.new_zeros(0, *x.shape[:2]).double(), [])
        return Split(
            direct=lost / self.s,
            later=(total - before + lost) / self.s,
            scale=total * further,
            mixed=(total - before) * further,
            alone=bare * (1 - bare_s / self.s),
            by_part=rows,
            labels=labels,
        )

    @torch.no_grad()
    def rerun(
        self, head: str, instead: Instead | Float[Tensor, "batch pos d_model"], *, seed: int = 0
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_model"]]:
        """Return what replacing the head adds to the stream, t' - t, and the stream's end in the changed run.

        With these ``later`` can be read along other directions: it is linear in r.

        Raises:
            ValueError: as when a split is asked for.
        """
        return self._rerun(head, instead, seed, scope(None, []))

    def _rerun(self, head: str, instead, seed: int, tap) -> tuple[Tensor, Tensor]:
        layer, index = self._place(head)
        block = cast(Block, self.model.blocks[layer])
        wrote = self.seen[f"blocks.{layer}.attn.z"][:, :, index] @ block.attn.W_O[index]
        delta = self._replacement(wrote, instead, seed).to(wrote) - wrote
        x = self.seen[f"blocks.{layer}.resid_pre"] + self.seen[f"blocks.{layer}.attn_out"] + delta
        x = block.after_attention(x, tap.inside(f"blocks.{layer}"))
        place = self.model.place(0, x.shape[1])
        for i in range(layer + 1, self.config.n_layers):
            x = cast(Block, self.model.blocks[i])(x, tap.inside(f"blocks.{i}"), place, None)
        return delta, x

    def _parts(self, seen: record, layer: int) -> tuple[Tensor, list[str]]:
        rows, labels = [], []
        for name in sorted(seen, key=lambda name: (int(name.split(".")[1]), name)):  # attn.z before mlp_out
            i = int(name.split(".")[1])
            moved = (seen[name] - self.seen[name]).double()
            if name.endswith("mlp_out"):
                rows.append((moved * self.read).sum(dim=-1)[None])
                labels.append(f"mlp.{i}")
            else:
                W_O = cast(Block, self.model.blocks[i]).attn.W_O.double()
                seen_by = torch.einsum("hdm,bpm->bphd", W_O, self.read)
                rows.append((moved * seen_by).sum(dim=-1).permute(2, 0, 1))
                labels += [f"{i}.{head}" for head in range(self.config.n_heads)]
        return torch.cat(rows) / self.s, labels

    def _reading(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logit, without shifts, and the scale, in float64."""
        x = self._centred(x.double())
        if self.norm.w is None:
            s = torch.ones_like(x[..., 0])
        else:
            s = (x.square().mean(dim=-1) + self.config.norm_eps).sqrt()
        return (x * self.read).sum(dim=-1) / s, s

    def _centred(self, x: Tensor) -> Tensor:
        return x if self.norm.b is None else x - x.mean(dim=-1, keepdim=True)

    def _shaped(self, direction: Tensor) -> Tensor:
        """Return the direction as ``[batch or 1, pos or 1, d_model]``."""
        batch, pos, d_model = self.end.shape
        if direction.shape == (d_model,):
            return direction[None, None]
        if direction.shape == (batch, d_model):
            return direction[:, None]
        if direction.shape in ((batch, 1, d_model), (batch, pos, d_model)):
            return direction
        raise ValueError(
            f"the direction has shape {list(direction.shape)}; give [{d_model}], one for each of {batch} examples "
            f"[{batch}, {d_model}], or one for each position [{batch}, {pos}, {d_model}]"
        )

    def _replacement(self, wrote: Tensor, instead, seed: int) -> Tensor:
        if isinstance(instead, Tensor):
            if instead.shape not in (wrote.shape, (wrote.shape[-1],)):
                raise ValueError(
                    f"the replacement has shape {list(instead.shape)}; the head writes {list(wrote.shape)}"
                )
            return instead.expand_as(wrote)
        if instead not in INSTEAD:
            raise ValueError(f"cannot put {instead!r} in a head's place; {nearest(str(instead), INSTEAD)}")
        if instead == "zero":
            return torch.zeros_like(wrote)
        if instead == "mean":
            return wrote.mean(dim=(0, 1), keepdim=True).expand_as(wrote)
        if instead == "resample":
            if len(wrote) < 2:
                raise ValueError("there is one example; resampling takes the output of another")
            return wrote.roll(1, dims=0)
        generator = torch.Generator().manual_seed(seed)
        free = wrote if instead == "projected" else torch.randn(wrote.shape, generator=generator).to(wrote)
        free, unit = free.double(), torch.nn.functional.normalize(self.read, dim=-1)
        free = free - (free * unit).sum(dim=-1, keepdim=True) * unit
        return torch.nn.functional.normalize(free, dim=-1) * wrote.double().norm(dim=-1, keepdim=True)

    def _place(self, head: str) -> tuple[int, int]:
        known = every_head(self.model)
        if head not in known:
            raise ValueError(f"there is no head {head!r}; {nearest(str(head), known)}")
        return cast(tuple[int, int], parse_heads([head])[0])


def _check_direction(direction: Tensor) -> None:
    if not isinstance(direction, Tensor) or not direction.is_floating_point():
        raise TypeError(
            f"a direction is a tensor of floats; for the logit of token {direction!r} give model.W_U[:, token]"
        )


def next_token_direction(model: Transformer, tokens: Tokens) -> Float[Tensor, "batch pos d_model"]:
    """Return, at each position but the last, the direction of the next token's logit minus the mean logit.

    The last position has no next token: its direction is 0. A constant added to all logits changes no probability, so
    the mean is taken out (as Rushing and Nanda 2024 do).

    Raises:
        TypeError: the tokens are text, which must be encoded first, or no whole numbers.
        ValueError: not ``[batch pos]``, or a token that the model does not know.
    """
    if not isinstance(tokens, Tensor):
        raise TypeError(f"the next tokens are read off a tensor [batch pos]; this is {type(tokens).__name__}")
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise TypeError(f"tokens are whole numbers; these are {tokens.dtype}")
    if tokens.ndim != 2:
        raise ValueError(f"the tokens have shape {list(tokens.shape)}; give [batch pos]")
    if wrong := [token for token in tokens.flatten().tolist() if not 0 <= token < model.config.d_vocab]:
        raise ValueError(f"token {wrong[0]} is out of range; the model knows 0 to {model.config.d_vocab - 1}")
    W_U = model.W_U
    found = W_U.new_zeros(*tokens.shape, len(W_U))
    found[:, :-1] = W_U.mT[tokens[:, 1:]] - W_U.mean(dim=1)
    return found
