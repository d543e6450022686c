"""Models with weights set by hand instead of trained: induction heads with nothing left to explain.

All read sequences that begin with a token 0, which occurs nowhere else. If the current token came before, they
predict what followed it, by the in-context bigram statistics. If it did not, their logits mean nothing.

After Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", section "Induction heads", and Olsson
et al. 2022, "In-context Learning and Induction Heads", argument 2 (smeared keys).
"""

from __future__ import annotations

from typing import cast

import torch

from residual.model import Block, Config, Transformer


@torch.no_grad()
def induction(d_vocab: int, n_ctx: int, sharpness: float = 60.0) -> Transformer:
    """Return an induction model: two layers with one head each. The stream holds four things side by side::

        current    the current token; written by the embedding, read by both heads
        previous   the previous token; written by head 0.0, read by the keys of head 1.0
        next       the next token; written by head 1.0, read by the unembedding
        position   read by the queries and keys of head 0.0 only

    Args:
        sharpness: how far the score of a match exceeds all other scores.
    """
    config = Config(
        n_layers=2,
        d_model=3 * d_vocab + n_ctx,
        n_heads=1,
        d_head=max(d_vocab, n_ctx),
        n_ctx=n_ctx,
        d_vocab=d_vocab,
        positions="shortformer",
    )
    model = _empty(config)
    current, previous, following, position = _places(d_vocab, d_vocab, d_vocab, n_ctx)
    tokens, steps = torch.eye(d_vocab), torch.eye(n_ctx)
    model.W_E[:, current] = tokens
    assert model.W_pos is not None
    model.W_pos[:, position] = steps
    model.W_U[following] = tokens

    moves, matches = (cast(Block, block).attn for block in model.blocks)
    strength = sharpness * config.d_head**0.5
    moves.W_K[0, position, :n_ctx] = steps
    moves.W_Q[0, position, :n_ctx] = strength * steps.roll(-1, dims=1).tril()  # position p asks for p - 1
    moves.W_V[0, current, :d_vocab] = tokens
    moves.W_O[0, :d_vocab, previous] = tokens

    matches.W_K[0, previous, :d_vocab] = tokens  # K-composition: these keys read the output of head 0.0
    matches.W_Q[0, current, :d_vocab] = strength * tokens
    matches.W_V[0, current, :d_vocab] = tokens
    matches.W_O[0, :d_vocab, following] = tokens
    return model


@torch.no_grad()
def pointer_induction(d_vocab: int, n_ctx: int, sharpness: float = 2000.0) -> Transformer:
    """Return an induction model by Q-composition: find the token's earlier position, then look one position further.

    This is the second algorithm of Elhage et al. 2021, section "Induction heads", for models with positions in the
    residual stream. The stream holds four things side by side::

        current    the current token; written by the embedding, read by head 0.0 and the values of head 1.0
        position   the current position; copied by head 0.0, read by the keys of head 1.0
        pointer    the token's earlier position; written by head 0.0, read, moved by one, by the queries of head 1.0
        next       the next token; written by head 1.0, read by the unembedding

    Args:
        sharpness: how far the score of a match exceeds all others. Several matches share the pointer, and so the score
            in head 1.0: the sharpness must be larger than in ``induction``.
    """
    config = Config(
        n_layers=2,
        d_model=2 * d_vocab + 2 * n_ctx,
        n_heads=1,
        d_head=d_vocab + n_ctx,
        n_ctx=n_ctx,
        d_vocab=d_vocab,
        positions="learned",
    )
    model = _empty(config)
    current, following, position, pointer = _places(d_vocab, d_vocab, n_ctx, n_ctx)
    tokens, steps = torch.eye(d_vocab), torch.eye(n_ctx)
    model.W_E[:, current] = tokens
    assert model.W_pos is not None
    model.W_pos[:, position] = steps
    model.W_U[following] = tokens

    finds, looks = (cast(Block, block).attn for block in model.blocks)
    strength = sharpness * config.d_head**0.5
    finds.W_K[0, current, :d_vocab] = tokens
    finds.W_K[0, position, d_vocab:] = steps
    finds.W_Q[0, current, :d_vocab] = strength * tokens
    finds.W_Q[0, position, d_vocab:] = -2 * strength * steps  # the current token must not match itself
    finds.W_V[0, position, :n_ctx] = steps
    finds.W_O[0, :n_ctx, pointer] = steps

    looks.W_K[0, position, :n_ctx] = steps
    looks.W_Q[0, pointer, :n_ctx] = strength * steps.roll(1, dims=1).triu()  # Q-composition: one place further
    looks.W_V[0, current, :d_vocab] = tokens
    looks.W_O[0, :d_vocab, following] = tokens
    return model


@torch.no_grad()
def smeared_induction(d_vocab: int, n_ctx: int, sharpness: float = 60.0) -> Transformer:
    """Return an induction model with one layer: each key is that of the position before, which the query matches."""
    config = Config(
        n_layers=1,
        d_model=2 * d_vocab,
        n_heads=1,
        d_head=d_vocab,
        n_ctx=n_ctx,
        d_vocab=d_vocab,
        positions="none",
        smeared_keys=True,
    )
    model = _empty(config)
    current, following = _places(d_vocab, d_vocab)
    tokens = torch.eye(d_vocab)
    model.W_E[:, current] = tokens
    model.W_U[following] = tokens
    head = cast(Block, model.blocks[0]).attn
    assert head.smear is not None
    head.smear.fill_(-1e4)  # only the previous key, nothing of its own
    head.W_K[0, current] = tokens
    head.W_Q[0, current] = sharpness * config.d_head**0.5 * tokens
    head.W_V[0, current] = tokens
    head.W_O[0, :, following] = tokens
    return model


def _empty(config: Config) -> Transformer:
    """Return a model of zeros, in float64: at sharpness 60 its error bounds are below the rounding of float32."""
    model = Transformer(config).double().requires_grad_(False)
    for weight in model.parameters():
        weight.zero_()
    return model


def _places(*widths: int) -> list[slice]:
    """Return slices of these lengths, side by side."""
    ends = torch.tensor(widths).cumsum(0).tolist()
    return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
