"""Text generation: greedy, at a temperature, from the most likely tokens, or by beam search.

Every sampler reads the prompt once and then one token at a time, keeping the keys and values of all earlier tokens
(see cache.py). The result is the same as running the whole sequence again for each token.

A tap changes the generated text: ``generate(model, tokens, 20, tap=steer("blocks.1.resid_post", direction))``. It acts
on each position when that position is computed. ``positions`` count from the start of the text, padding included, and
recorded values are put in at their own positions (``taps.growing``), so the result is the same with and without a
cache. The exception is a function of your own that depends on the values at a position, or on where the position is in
the tensor: with a cache it gets the new positions only.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residual.cache import KVCache
from residual.checks import Tokens, as_tokens, check_mask
from residual.model import Transformer
from residual.taps import Tap, growing


def generate(
    model: Transformer,
    tokens: Tokens,
    n: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    chunk: int | None = None,
    cached: bool = True,
    tap: Tap | None = None,
    mask: Bool[Tensor, "batch pos"] | None = None,
) -> Int[Tensor, "batch pos_and_n"]:
    """Return ``tokens`` followed by ``n`` more. Texts work as well; of unequal length, they are padded on the left.

    Args:
        temperature: 0 takes the most likely token; 1 draws from the model's distribution; values between are sharper.
        top_k: draw from the k most likely tokens only (Fan et al. 2018, "Hierarchical Neural Story Generation").
        top_p: draw from the fewest tokens that hold this much probability (Holtzman et al. 2020, "The Curious Case
            of Neural Text Degeneration"), after ``top_k``. The most likely token always stays.
        seed: of the draws.
        chunk: read the prompt in pieces of this many tokens, to save memory. The result is the same.
        cached: keep keys and values. If False, everything is recomputed for each token: slower, with the same result.
        tap: sees and changes activations at each step: see above.
        mask: true at real tokens, for prompts of unequal length that are padded on the left.

    Raises:
        ValueError: the sequence does not fit the context, a setting makes no sense, or a bidirectional model is asked
            to keep keys and values.
    """
    tokens, mask = as_tokens(tokens, mask, model.vocabulary, model.W_E.device)
    mask = _check(model, tokens, mask, n, cached, temperature=temperature, top_k=top_k, top_p=top_p, chunk=chunk)
    batch, start = tokens.shape
    generator = torch.Generator(tokens.device).manual_seed(seed)
    with _no_gradients(tap):
        text = torch.cat([tokens, tokens.new_empty(batch, n)], dim=1)
        cache = model.cache(batch, start + n) if cached else None
        for stop in range(start, start + n):
            logits = _last_logits(model, text[:, :stop], mask, cache, chunk, tap)  # batch d_vocab
            text[:, stop] = _draw(logits, temperature, top_k, top_p, generator)
    return text.clone()  # an ordinary tensor, which may be trained on


def beam(
    model: Transformer,
    tokens: Tokens,
    n: int,
    width: int,
    *,
    chunk: int | None = None,
    cached: bool = True,
    tap: Tap | None = None,
    mask: Bool[Tensor, "batch pos"] | None = None,
) -> tuple[Int[Tensor, "batch width pos_and_n"], Float[Tensor, "batch width"]]:
    """Return the ``width`` likeliest continuations found, best first, and the log-probability of their new tokens.

    After each token the ``width`` likeliest one-token extensions are kept. If ``width`` is at least
    ``d_vocab ** (n - 1)``, nothing is ever dropped, and the search is exact.

    Args:
        chunk, cached, tap, mask: as in ``generate``.

    Raises:
        ValueError: the sequence does not fit the context, or there are fewer continuations than ``width``.
    """
    tokens, mask = as_tokens(tokens, mask, model.vocabulary, model.W_E.device)
    mask = _check(model, tokens, mask, n, cached, width=width, chunk=chunk)
    d_vocab, n = model.config.d_vocab, int(n)
    if width > d_vocab**n:
        raise ValueError(
            f"there are only {d_vocab**n} continuations of {n} tokens; a beam of width {width} cannot be filled"
        )
    batch, start = tokens.shape
    with _no_gradients(tap):
        text, score = tokens[:, None], model.W_E.new_zeros(batch, 1)  # batch beam pos; batch beam
        cache = model.cache(batch, start + n) if cached else None
        for _ in range(n):
            logits = _last_logits(model, text.flatten(0, 1), mask, cache, chunk, tap, copies=text.shape[1])
            total = score[:, :, None] + logits.log_softmax(dim=-1).unflatten(0, score.shape)  # batch beam d_vocab
            score, best = total.flatten(1).topk(min(width, total[0].numel()), dim=-1)  # batch new_beam
            rows = torch.arange(batch, device=best.device)[:, None] * text.shape[1] + best // d_vocab  # extended
            text = torch.cat([text.flatten(0, 1)[rows], (best % d_vocab)[:, :, None]], dim=-1)
            if cache is not None:
                cache.reorder(rows.flatten())
    return text.clone(), score.clone()


def _no_gradients(tap: Tap | None):
    """Return ``no_grad`` if there is a tap, as its records may need gradients later, else ``inference_mode``."""
    return torch.inference_mode() if tap is None else torch.no_grad()


def _last_logits(
    model: Transformer,
    text: Tensor,
    mask: Tensor | None,
    cache: KVCache | None,
    chunk: int | None,
    tap: Tap | None,
    copies: int = 1,
) -> Float[Tensor, "batch d_vocab"]:
    """Return the logits after ``text [batch pos]``, whose beginning is in the cache.

    Each prompt is repeated ``copies`` times in a row.
    """
    if mask is not None:
        mask = F.pad(mask, (0, text.shape[1] - mask.shape[1]), value=True).repeat_interleave(copies, dim=0)
    first, step = (0, text.shape[1]) if cache is None else (cache.length, chunk or text.shape[1])
    for start in range(first, text.shape[1], step):
        some = slice(start, start + step)
        here = None if tap is None else growing(tap, start, copies)
        logits = model(text[:, some], tap=here, cache=cache, mask=None if mask is None else mask[:, some])
    return logits[:, -1]


def _draw(
    logits: Float[Tensor, "batch d_vocab"],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator,
) -> Int[Tensor, " batch"]:
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits - logits.amax(dim=-1, keepdim=True)  # float16 would overflow when divided by a small temperature
    if top_k is None and top_p is None:
        return torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator)[:, 0]
    d_vocab = logits.shape[-1]
    logits, tokens = logits.topk(d_vocab if top_k is None else min(top_k, d_vocab), dim=-1)  # likeliest first
    probabilities = (logits / temperature).softmax(dim=-1)
    if top_p is not None:
        likelier = probabilities.cumsum(dim=-1) - probabilities  # the probability of the tokens before this one
        probabilities = probabilities.masked_fill(likelier >= top_p, 0.0)
    return tokens.gather(-1, torch.multinomial(probabilities, 1, generator=generator))[:, 0]


def _check(
    model: Transformer,
    tokens: Tensor,
    mask: Tensor | None,
    n: int,
    cached: bool,
    temperature: float = 1.0,
    top_p: float | None = None,
    **counts: int | None,
) -> Tensor | None:
    """Check the arguments of a sampler; return the mask on the model's device, or None if every token is real."""
    if tokens.ndim != 2:
        raise ValueError(f"tokens have shape {list(tokens.shape)}; a sampler takes [batch pos]")
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
        raise ValueError(f"n is {n!r}; it must be a whole number of tokens to add")
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int | np.integer) or value < 1):
            raise ValueError(f"{name} is {value!r}; it must be a whole number, at least 1")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature!r}; it must be 0 (the most likely token) or above")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p!r}; it must be above 0 and at most 1")
    if temperature == 0 and (top_p is not None or counts.get("top_k") is not None):
        raise ValueError("top_k and top_p have no effect at temperature 0, which takes the likeliest token; raise it")
    if n and 0 in tokens.shape:
        raise ValueError(
            f"tokens have shape {list(tokens.shape)}; there must be at least one text, with at least one token"
        )
    if tokens.shape[1] + n > model.config.n_ctx:
        raise ValueError(
            f"{tokens.shape[1]} tokens and {n} more do not fit into the model's context, n_ctx = {model.config.n_ctx}"
        )
    if cached and not model.config.causal:
        raise ValueError("in a bidirectional model each new token changes all earlier positions; give cached=False")
    mask = check_mask(mask, tokens)
    if mask is not None and not bool(mask[:, -1].all()):
        raise ValueError("a prompt ends in padding; pad on the left, so that each prompt ends in its last token")
    return mask
