"""Checks of a config and of a model's input, with readable errors, so that model.py need only say what it computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from types import UnionType
from typing import Literal, Protocol, get_args, get_origin, get_type_hints

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residual.errors import nearest

MAY_BE_ZERO = ("n_layers", "d_mlp", "init_std")


class Checked:
    """A dataclass whose fields are checked against their types when an instance is made.

    Raises:
        TypeError: there is no such field (the message lists the nearest names).
        ValueError: the field does not allow this value.
    """

    def __new__(cls, *args, **kwargs):
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        for name in kwargs:
            if name not in known:
                raise TypeError(f"{cls.__name__} has no field {name!r}; {nearest(name, known)}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            _check_field(f"{type(self).__name__}.{name}", getattr(self, name), kind, int(name not in MAY_BE_ZERO))


def _check_field(name: str, value, kind, least: int) -> None:
    if isinstance(kind, UnionType):  # int | None
        if value is not None:
            _check_field(name, value, get_args(kind)[0], least)
    elif get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"{name} is {value!r}; {nearest(str(value), get_args(kind))}")
    elif kind is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}; it must be True or False")
    elif kind is int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} is {value!r}; it must be a whole number, at least {least}")
    elif not isinstance(value, int | float) or not math.isfinite(value) or (value <= 0 if least else value < 0):
        raise ValueError(f"{name} is {value!r}; it must be a number {'above' if least else 'not below'} 0")


class Reader(Protocol):
    """A tokenizer: a model's ``vocabulary``."""

    def tokens(self, texts: str | list[str]) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """Return the tokens, padded on the left, and a mask that is true at real tokens."""
        ...


Tokens = Int[Tensor, "batch pos"] | Sequence[Sequence[int]] | np.ndarray | str | Sequence[str]


def as_tokens(
    source: Tokens, mask: Bool[Tensor, "batch pos"] | None, vocabulary: Reader | None, device: torch.device
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"] | None]:
    """Return the tokens of a list, array or text, and a mask; texts of unequal length come with a mask of their own.

    Raises:
        TypeError: the input is text, and there is no vocabulary.
        ValueError: rows of unequal length, a text without a token, or a mask for texts.
    """
    if isinstance(source, Tensor):
        return source, mask
    if isinstance(source, str) or (isinstance(source, list | tuple) and any(isinstance(text, str) for text in source)):
        if vocabulary is None:
            raise TypeError(
                "the model has no vocabulary, so it cannot read text; give tokens, load a model that has one "
                "(residual.load, residual.smollm2), or set model.vocabulary"
            )
        if mask is not None:
            raise ValueError("texts come with a mask of their own; leave mask out, or give tokens")
        if not isinstance(source, str) and not all(isinstance(text, str) for text in source):
            raise ValueError("the list holds texts and something else; give only texts, or tokens")
        tokens, mask = vocabulary.tokens(source if isinstance(source, str) else list(source))
        if not bool(mask.any(dim=1).all()):
            raise ValueError("a text has no tokens; each text needs at least one")
        return tokens.to(device), mask.to(device)
    try:
        tokens = torch.as_tensor(source, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            "tokens must be a table [batch pos] of whole numbers; rows of unequal length need padding and a mask"
        ) from None
    return (tokens if tokens.is_floating_point() or tokens.dtype == torch.bool else tokens.long()), mask


def check_tokens(tokens: Tensor, W_E: Tensor) -> None:
    """Check the type, shape, device and range of the tokens.

    Raises:
        TypeError: the tokens are not whole numbers of 32 or 64 bits.
        ValueError: they are not ``[batch pos]``, not on the model's device, or one is out of range.
    """
    d_vocab = len(W_E)
    if tokens.dtype not in (torch.long, torch.int):
        raise TypeError(f"tokens are {tokens.dtype}; the model takes whole numbers, torch.long")
    if tokens.ndim != 2 or 0 in tokens.shape:
        raise ValueError(f"tokens have shape {list(tokens.shape)}; the model takes [batch pos], neither of them 0")
    if tokens.device != W_E.device:
        raise ValueError(f"the tokens are on {tokens.device}, the model on {W_E.device}; move one with .to(…)")
    if not tokens.is_cpu:  # on a GPU an index out of range may pass unnoticed, or end the process
        check_range(tokens, d_vocab)


def check_range(tokens: Tensor, d_vocab: int) -> None:
    """Check that every token is in the vocabulary.

    Raises:
        ValueError: a token is out of range.
    """
    low, high = (int(end) for end in tokens.aminmax())
    if low < 0 or high >= d_vocab:
        bad = low if low < 0 else high
        raise ValueError(f"token {bad} is out of range; the model knows 0 to {d_vocab - 1} (d_vocab = {d_vocab})")


def embed(
    tokens: Int[Tensor, "batch pos"], W_E: Float[Tensor, "d_vocab d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    """Return the rows of ``W_E``. PyTorch checks every index anyway; we look again only to name the wrong token.

    Raises:
        TypeError, ValueError: see ``check_tokens``.
    """
    check_tokens(tokens, W_E)
    try:
        return F.embedding(tokens, W_E)
    except IndexError:
        check_range(tokens, len(W_E))
        raise


def check_stream(resid: Tensor, layer: int, n_layers: int, d_model: int) -> None:
    """Check the residual stream from which a run is to start.

    Raises:
        ValueError: there is no such layer, or ``resid`` is not ``[batch pos d_model]``.
    """
    check_layer(layer, n_layers)
    if resid.ndim != 3 or resid.shape[-1] != d_model or 0 in resid.shape:
        raise ValueError(f"resid has shape {list(resid.shape)}; it must be [batch pos d_model = {d_model}]")


def check_layer(layer: int, n_layers: int, end: bool = True) -> None:
    """Check that a run may start at this layer, or stop before it.

    Args:
        end: allow ``n_layers``, the end of the stream.

    Raises:
        ValueError: not a whole number, or there is no such layer.
    """
    if isinstance(layer, bool) or not isinstance(layer, int | np.integer):
        raise ValueError(f"a layer is a whole number; {layer!r} is not")
    if not 0 <= layer < n_layers + end:
        layers = f"0 to {n_layers - 1}" if n_layers else "none"
        raise ValueError(f"there is no layer {layer}; the model's are {layers}{f', and {n_layers} its end' * end}")


def check_mask(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """Return the mask on the device of ``x [batch pos …]``, or None if every token is real.

    Raises:
        ValueError: the mask is not one boolean per token.
    """
    if mask is None:
        return None
    mask = torch.as_tensor(mask, device=x.device)
    if mask.dtype != torch.bool or mask.shape != x.shape[:2]:
        raise ValueError(
            f"mask is {mask.dtype} {list(mask.shape)}; it must be torch.bool {list(x.shape[:2])}, true at real tokens"
        )
    return None if bool(mask.all()) else mask
