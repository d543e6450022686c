"""Tables of the roles of heads, and of the tokens to which they pay most attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residual.methods.roles import ROLES, ByToken, HeadRoles
from residual.methods.sites import named_heads
from residual.where import Heads

Words = Callable[[list[int]], list[str]]


def strongest(scores: Float[Tensor, "layer head"], k: int = 5) -> list[str]:
    """Return the names of the ``k`` heads with the highest scores, highest first: ``["18.6", "17.3"]``; NaN is skipped.

    Raises:
        ValueError: there are fewer than ``k`` heads.
    """
    if not 0 <= k <= scores.numel():
        raise ValueError(f"cannot take {k} heads of {scores.numel()}")
    best = scores.nan_to_num(nan=-torch.inf).flatten().topk(k).indices.tolist()
    return [f"{i // scores.shape[1]}.{i % scores.shape[1]}" for i in best]


def role_table(
    roles: HeadRoles,
    heads: Heads | None = None,
    *,
    words: Words | None = None,
    repeated: HeadRoles | None = None,
) -> tuple[list[list[Any]], list[str]]:
    """Return rows and header for ``plot.table(*role_table(roles))``: a row per head, and one for uniform attention.

    Args:
        heads: names such as ``"18.6"``, in this order; default: all heads.
        words: shows tokens as text, such as ``files.tokens.words``; default: numbers.
        repeated: the roles on random tokens that repeat; adds a column for induction there.

    Raises:
        ValueError: there is no such head.
    """
    header = ["head", *(role.replace("_", " ") for role in ROLES)]
    columns = [(getattr(roles, role), roles.uniform[role]) for role in ROLES]
    if repeated is not None:
        header.append("induction on repeats")
        columns.append((repeated.induction, repeated.uniform["induction"]))
    rows: list[list[Any]] = []
    for layer, head in _places(roles.induction, heads):
        scores = [round(column[layer, head].item(), 3) for column, _ in columns]
        token, share = int(roles.top_token[layer, head]), round(roles.top_share[layer, head].item(), 3)
        rows.append([f"{layer}.{head}", *scores, _shown(token, words), share])
    rows.append(["uniform", *(round(alike, 3) for _, alike in columns), "", None])
    return rows, [*header, "rests on", "share"]


def token_table(
    by_token: ByToken, heads: Heads | None = None, *, words: Words | None = None, k: int = 4
) -> tuple[list[list[Any]], list[str]]:
    """Return rows and header for ``plot.table``: for each head the ``k`` tokens that get most, ``·the 36 ± 2 %``.

    Args:
        heads, words: see ``role_table``.

    Raises:
        ValueError: there is no such head, or the text has fewer than ``k`` tokens.
    """
    if not 0 < k <= len(by_token.tokens):
        raise ValueError(f"cannot show {k} tokens of a text that has {len(by_token.tokens)}")
    rows: list[list[Any]] = []
    for layer, head in _places(by_token.share[..., 0], heads):
        cells = []
        for i in by_token.share[layer, head].topk(k).indices.tolist():
            share, error = 100 * by_token.share[layer, head, i].item(), 100 * by_token.error[layer, head, i].item()
            spread = "" if error != error else f" ± {error:.0f}"  # NaN if there is a single example
            cells.append(f"{_shown(int(by_token.tokens[i]), words)} {share:.0f}{spread} %")
        rows.append([f"{layer}.{head}", *cells])
    return rows, ["head", *(str(i) for i in range(1, k + 1))]


def _places(scores: Float[Tensor, "layer head"], heads: Heads | None) -> list[tuple[int, int]]:
    n_layers, n_heads = scores.shape
    if heads is None:
        return [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    return named_heads(heads, n_layers, n_heads)


def _shown(token: int, words: Words | None) -> str:
    return str(token) if words is None else words([token])[0].replace(" ", "·").replace("\n", "⏎")
