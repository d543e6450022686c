"""The residual stream as a sum of terms, and the contribution of each term to a logit.

Every part of a model adds to the stream, so the stream's end is the sum of what was written. A logit reads it along
one direction u, so a logit is a sum too, once the final norm's scale s is held constant::

    x = embed + pos + Σ_{l,h} z^{l,h} W_O^{l,h} + Σ_l mlp^l + biases                     decompose
    logit = u · (w ∘ x̃ / s + b) + b_U = Σ_t (u ∘ w) · t̃ / s + u · b + b_U               attribute

where ~ subtracts the mean over coordinates (LayerNorm) or does nothing (RMSNorm), and w, b are the norm's weights. From
Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", and nostalgebraist 2020, "interpreting GPT: the
logit lens". The terms are kept as factors (z and W_O, neurons and W_out, patterns and values), and a direction is
multiplied into the weights first: ``[term batch pos d_model]`` is computed only by ``values``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residual.checks import Tokens, check_layer
from residual.errors import nearest
from residual.methods.sites import indices
from residual.model import Block, Transformer
from residual.taps import record

Token = int | Int[Tensor, " batch"]


class Terms:
    """Terms that sum to the stream ``x [batch pos d_model]``, in the order in which they are written.

    >>> terms = decompose(model, tokens)  # terms.labels: ["embed", "pos", "0.0", "0.1", …, "mlp.0", …]
    >>> terms["1.3"]  # the output of head 3 of layer 1, batch pos d_model
    """

    def __init__(self, model: Transformer, stream: Float[Tensor, "batch pos d_model"], parts: Sequence[_Part]) -> None:
        self.model, self.stream, self._parts = model, stream, parts
        self.labels = [label for part in parts for label in part.labels]

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"<{len(self)} terms of a stream {list(self.stream.shape)}: {self.labels[0]} … {self.labels[-1]}>"

    def __getitem__(self, label: str) -> Float[Tensor, "batch pos d_model"]:
        for part in self._parts:
            if label in part.labels:
                return part.term(part.labels.index(label))
        raise KeyError(f"there is no term {label!r}; {nearest(label, self.labels)}")

    @property
    def values(self) -> Float[Tensor, "term batch pos d_model"]:
        """All terms written out, each as large as the stream."""
        return torch.cat([part.values() for part in self._parts])

    def along(self, direction: Float[Tensor, "*batch_pos d_model"]) -> Float[Tensor, "term batch pos"]:
        """Return ``values @ direction`` without writing the values out.

        Args:
            direction: one vector, or a tensor that broadcasts to the stream's shape; another shape is a ValueError.
        """
        fits = all(n in (1, m) for n, m in zip(direction.shape[-2::-1], self.stream.shape[-2::-1], strict=False))
        if direction.ndim > 3 or direction.shape[-1:] != self.stream.shape[-1:] or not fits:
            raise ValueError(f"a direction {list(direction.shape)} does not fit a stream {list(self.stream.shape)}")
        direction = direction.expand(*[1] * (3 - direction.ndim), *direction.shape)
        return torch.cat([part.along(direction).expand(-1, *self.stream.shape[:2]) for part in self._parts])

    def squares(self) -> Float[Tensor, "term batch pos"]:
        """Return the squared length of each term without writing the terms out."""
        return torch.cat([part.squares() for part in self._parts])

    def double(self) -> Terms:
        """Return the same terms in float64."""
        parts = []
        for part in self._parts:
            factors: dict[str, Any] = {name: x.double() for name, x in vars(part).items() if isinstance(x, Tensor)}
            parts.append(replace(part, **factors))
        return Terms(self.model, self.stream.double(), parts)


@dataclass(frozen=True)
class Attribution:
    """The contribution of each term to a logit, or to another linear reading of the stream."""

    values: Float[Tensor, "term batch pos"]
    labels: list[str]

    def __getitem__(self, label: str) -> Float[Tensor, "batch pos"]:
        if label in self.labels:
            return self.values[self.labels.index(label)]
        raise KeyError(f"there is no term {label!r}; {nearest(label, self.labels)}")

    @property
    def heads(self) -> Float[Tensor, "layer head batch pos"]:
        """The contributions of the heads. A term "0.1 from 3" counts toward head 0.1.

        Raises:
            ValueError: no term is a head.
        """
        names = [label.split(" ")[0] for label in self.labels]
        heads = [name for name in dict.fromkeys(names) if name.replace(".", "").isdigit()]
        if not heads:
            raise ValueError('no term is a head; decompose(…, by="head") makes such terms')
        row = {name: i for i, name in enumerate(heads)}
        mine = torch.tensor([i for i, name in enumerate(names) if name in row], device=self.values.device)
        to = torch.tensor([row[name] for name in names if name in row], device=self.values.device)
        summed = self.values.new_zeros(len(heads), *self.values.shape[1:]).index_add(0, to, self.values[mine])
        return summed.unflatten(0, (len({name.split(".")[0] for name in heads}), -1))


def decompose(
    model: Transformer,
    tokens: Tokens,
    *,
    layer: int | None = None,
    by: Literal["component", "head", "source"] = "head",
    neurons: int | Iterable[int] = (),
    mask: Bool[Tensor, "batch pos"] | None = None,
) -> Terms:
    """Return the terms written to the stream before ``layer`` (default: to its end).

    Labels are ``embed``, ``pos``; ``attn.0`` (all heads of layer 0), ``0.1`` (layer 0, head 1) or ``0.1 from 3`` (the
    part that this head moves from position 3); ``attn.0.b_O``; ``mlp.0`` or ``mlp.0.17`` (neuron 17); ``mlp.0.b_out``.
    A head's value bias is part of its term.

    Args:
        by: one term per attention layer, per head, or per head and source position,
            ``A_ij v_j W_O`` (Elhage et al. 2021, "Attention Heads as Information Movement").
        neurons: the layer or layers whose MLP is split into its neurons.
        mask: as for the model.

    Raises:
        ValueError: there is no such layer, no such ``by``, or no MLP to split.
    """
    c = model.config
    end = c.n_layers if layer is None else layer
    check_layer(end, c.n_layers)
    if by not in ("component", "head", "source"):
        raise ValueError(f"cannot split by {by!r}; {nearest(by, ['component', 'head', 'source'])}")
    split = set(indices([neurons] if isinstance(neurons, int | np.integer) else list(neurons), c.n_layers, "layer"))
    if wrong := [i for i in split if not 0 <= i < end or not c.d_mlp]:
        raise ValueError(f"layer {wrong[0]} has no MLP before layer {end}; leave it out of neurons")
    names = ["embed"] + ["pos_embed"] * (c.positions == "learned")
    for i in range(end):
        names += [f"blocks.{i}.attn.{name}" for name in (("pattern", "v") if by == "source" else ("z",))]
        names += [f"blocks.{i}.{'mlp.post' if i in split else 'mlp_out'}"] * bool(c.d_mlp)
    stream = model.run_to(tokens, end, tap=(seen := record(names)), mask=mask)
    parts: list[_Part] = [_Written(["embed"], seen["embed"][None])]
    if c.positions == "learned":
        parts.append(_Written(["pos"], seen["pos_embed"].expand_as(stream)[None]))
    for i, block in enumerate(cast(list[Block], list(model.blocks[:end]))):
        attn, mlp = block.attn, block.mlp
        heads = [f"{i}.{head}" for head in range(c.n_heads)]
        if by == "source":
            pattern, v = seen[f"blocks.{i}.attn.pattern"], attn._shared(seen[f"blocks.{i}.attn.v"], dim=2)
            parts.append(
                _Moved([f"{head} from {j}" for head in heads for j in range(v.shape[1])], pattern, v, attn.W_O)
            )
        elif by == "head":
            parts.append(_Mapped(heads, seen[f"blocks.{i}.attn.z"], attn.W_O))
        else:
            z, W_O = seen[f"blocks.{i}.attn.z"].flatten(2)[:, :, None], attn.W_O.flatten(0, 1)[None]
            parts.append(_Mapped([f"attn.{i}"], z, W_O))
        if attn.b_O is not None:
            parts.append(_Written([f"attn.{i}.b_O"], attn.b_O.expand(1, *stream.shape)))
        if mlp is None:
            continue
        if i in split:
            post = seen[f"blocks.{i}.mlp.post"][..., None]
            parts.append(_Mapped([f"mlp.{i}.{n}" for n in range(c.d_mlp)], post, mlp.W_out[:, None]))
        else:
            out = seen[f"blocks.{i}.mlp_out"]
            parts.append(_Written([f"mlp.{i}"], (out if mlp.b_out is None else out - mlp.b_out)[None]))
        if mlp.b_out is not None:
            parts.append(_Written([f"mlp.{i}.b_out"], mlp.b_out.expand(1, *stream.shape)))
    return Terms(model, stream, parts)


def attribute(
    terms: Terms,
    direction: Token | tuple[Token, Token] | Float[Tensor, "*batch d_model"],
    *,
    scale: Literal["frozen", "recomputed"] = "frozen",
) -> Attribution:
    """Return the contribution of each term to a logit at each position: direct logit attribution.

    Args:
        direction: a token: its logit; a pair (answer, wrong): the difference of their logits; tokens may differ by
            example, ``[batch]``. Or a vector that reads the normalized stream like a column of ``W_U``.
        scale: ``"frozen"``: the final norm divides by the scale of the run. The values of all terms sum to the logit,
            the terms ``ln_final.b`` and ``b_U`` included. ``"recomputed"``: the logit minus the logit of the stream
            without the term, divided by its own scale, as in zero ablation of the direct path. These do not sum to
            the logit.

    Raises:
        TypeError: a direction of another type.
        ValueError: a token out of range, a direction of another shape, or an unknown ``scale``.
    """
    if scale not in ("frozen", "recomputed"):
        raise ValueError(f"no scale {scale!r}; {nearest(scale, ['frozen', 'recomputed'])}")
    model, x = terms.model, terms.stream
    norm = model.ln_final
    u, b_U = _read(model, direction, len(x))  # batch 1 d_model, batch 1
    read = u if norm.w is None else u * norm.w
    if norm.b is not None:  # to read a centered vector, the direction may as well be centered
        read = read - read.mean(dim=-1, keepdim=True)
        x = x - x.mean(dim=-1, keepdim=True)
    values = terms.along(read)
    if norm.w is not None:
        variance = x.square().mean(dim=-1)  # batch pos
        s = (variance + norm.config.norm_eps).sqrt()
        if scale == "frozen":
            values = values / s
        else:
            total = (x * read).sum(dim=-1)  # batch pos
            without = _variance_without(terms, x, centred=norm.b is not None).to(x)
            values = total / s - (total - values) / (without + norm.config.norm_eps).sqrt()
    rows, labels = [values], list(terms.labels)
    if norm.b is not None:
        rows.append((u @ norm.b).expand(1, *x.shape[:2]))
        labels.append("ln_final.b")
    if b_U is not None:
        rows.append(b_U.expand(1, *x.shape[:2]))
        labels.append("b_U")
    return Attribution(torch.cat(rows), labels)


def logit_lens(
    model: Transformer,
    tokens: Tokens,
    *,
    positions: int | Sequence[int] | slice = slice(None),
    mask: Bool[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "layer batch *pos d_vocab"]:
    """Return the logits of the stream before each layer and after the last one: ``n_layers + 1`` of them.

    All later layers are skipped; the final norm is applied (nostalgebraist 2020). The last logits are the model's own.

    Args:
        positions: only these; a single whole number drops the position axis.
        mask: as for the model.

    Raises:
        ValueError: there is no such position.
    """
    c = model.config
    names = [f"blocks.{layer}.resid_pre" for layer in range(c.n_layers)]
    end = model.run_to(tokens, c.n_layers, tap=(seen := record(names or "embed")), mask=mask)
    some = indices(positions, end.shape[1], "position")
    if not some:
        raise ValueError(f"positions is {positions!r}, which selects none of {end.shape[1]}; give at least one")
    streams = [x[:, some] for x in [*(seen[name] for name in names), end]]
    logits = model.run_from(c.n_layers, streams[-1])[None]  # computed separately: the model's own, bit for bit
    if c.n_layers:  # all others at once, because W_U is large
        earlier = model.run_from(c.n_layers, torch.cat(streams[:-1])).unflatten(0, (c.n_layers, -1))
        logits = torch.cat([earlier, logits])
    single = not isinstance(positions, slice) and torch.as_tensor(positions).ndim == 0
    return logits[:, :, 0] if single else logits


def _variance_without(terms: Terms, x: Tensor, centred: bool) -> Float[Tensor, "term batch pos"]:
    """Return the mean square of ``x`` minus each term: ``|x - t|² = |x|² - 2 x·t + |t|²``.

    In float64: a term can be nearly all of x (a massive activation), and then large numbers almost cancel.
    """
    terms, x = terms.double(), x.double()
    squares = terms.squares()
    if centred:
        squares = squares - terms.along(torch.ones_like(x[0, 0])).square() / x.shape[-1]
    left = x.square().sum(dim=-1) - 2 * terms.along(x) + squares
    return left.clamp(min=0) / x.shape[-1]


def _read(model: Transformer, direction, batch: int) -> tuple[Tensor, Tensor | None]:
    """Return the direction ``[batch 1 d_model]`` or ``[1 1 d_model]``, and its component of ``b_U``."""
    c = model.config
    if isinstance(direction, tuple):
        if len(direction) != 2:
            raise ValueError(f"a direction is one token or a pair (answer, wrong); these are {len(direction)}")
        (u, b), (v, d) = (_read(model, token, batch) for token in direction)
        return u - v, None if b is None or d is None else b - d
    if isinstance(direction, np.ndarray | np.integer):
        direction = torch.as_tensor(direction)
    if isinstance(direction, Tensor) and direction.is_floating_point():
        if direction.shape not in ((c.d_model,), (batch, c.d_model), (1, c.d_model)):
            raise ValueError(
                f"the direction has shape {list(direction.shape)}; it must be [d_model = {c.d_model}], or one for each "
                f"of {batch} examples"
            )
        return direction.to(model.W_E).reshape(-1, 1, c.d_model), None
    if not isinstance(direction, int | Tensor) or getattr(direction, "dtype", type(direction)) in (bool, torch.bool):
        raise TypeError(
            f"a direction is a token, a pair (answer, wrong) or a vector; this is {type(direction).__name__}"
        )
    token = torch.as_tensor(direction, device=model.W_E.device).reshape(-1).long()
    if len(token) not in (1, batch):
        raise ValueError(f"{len(token)} tokens do not fit {batch} examples; give one token, or one for each")
    if not bool(((token >= 0) & (token < c.d_vocab)).all()):
        raise ValueError(f"token {direction} is out of range; the model knows 0 to {c.d_vocab - 1}")
    return model.W_U[:, token].mT[:, None], None if model.b_U is None else model.b_U[token][:, None]


# Kinds of terms, each kept in the factors that a run computes anyway


@dataclass(frozen=True)
class _Written:
    """Terms kept as they are."""

    labels: list[str]
    x: Float[Tensor, "term batch pos d_model"]

    def term(self, i: int) -> Tensor:
        return self.x[i]

    def values(self) -> Tensor:
        return self.x

    def along(self, direction: Tensor) -> Tensor:
        return (self.x * direction).sum(dim=-1)

    def squares(self) -> Tensor:
        return self.x.square().sum(dim=-1)


@dataclass(frozen=True)
class _Mapped:
    """Terms that are a few numbers times rows of a matrix: a head's ``z W_O``, a neuron's ``post W_out``."""

    labels: list[str]
    x: Float[Tensor, "batch pos term width"]
    W: Float[Tensor, "term width d_model"]

    def term(self, i: int) -> Tensor:
        return self.x[:, :, i] @ self.W[i]

    def values(self) -> Tensor:
        return einsum(self.x, self.W, "batch pos term width, term width d_model -> term batch pos d_model")

    def along(self, direction: Tensor) -> Tensor:
        seen = einsum(self.W, direction, "term width d_model, batch pos d_model -> batch pos term width")
        return rearrange((self.x * seen).sum(dim=-1), "batch pos term -> term batch pos")

    def squares(self) -> Tensor:
        gram = self.W @ self.W.mT  # term width width
        moved = einsum(self.x, gram, "batch pos term width, term width other -> batch pos term other")
        return rearrange((self.x * moved).sum(dim=-1), "batch pos term -> term batch pos")


@dataclass(frozen=True)
class _Moved:
    """Terms that a head moves from one position, ``A_ij v_j W_O``; ordered by head, then by source."""

    labels: list[str]
    pattern: Float[Tensor, "batch head query key"]
    v: Float[Tensor, "batch key head d_head"]
    W_O: Float[Tensor, "head d_head d_model"]

    def term(self, i: int) -> Tensor:
        head, key = divmod(i, self.v.shape[1])
        return self.pattern[:, head, :, key, None] * (self.v[:, key, head] @ self.W_O[head])[:, None]

    def values(self) -> Tensor:
        written = einsum(self.v, self.W_O, "batch key head d_head, head d_head d_model -> batch head key d_model")
        return einsum(
            self.pattern, written, "b head query key, b head key d_model -> head key b query d_model"
        ).flatten(0, 1)

    def along(self, direction: Tensor) -> Tensor:
        seen = einsum(self.W_O, direction, "head d_head d_model, batch query d_model -> batch query head d_head")
        seen = seen.expand(len(self.v), -1, -1, -1)
        read = einsum(self.v, seen, "batch key head d_head, batch query head d_head -> batch head query key")
        return rearrange(self.pattern * read, "batch head query key -> (head key) batch query")

    def squares(self) -> Tensor:
        gram = self.W_O @ self.W_O.mT  # head d_head d_head
        length = einsum(self.v, gram, self.v, "b key head d_head, head d_head other, b key head other -> b head key")
        return rearrange(self.pattern.square() * length[:, :, None], "batch head query key -> (head key) batch query")


_Part = _Written | _Mapped | _Moved
