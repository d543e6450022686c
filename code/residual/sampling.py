"""Text from a model: greedy, at a temperature, from the most likely tokens, or by beam search.

Every sampler reads the prompt once and then one token at a time, with the keys and values of all earlier tokens
kept (see cache.py). The result is that of running the whole sequence again for each token.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual.cache import KVCache
from residual.model import Transformer


def generate(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    n: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    chunk: int | None = None,
    cached: bool = True,
) -> Int[Tensor, "batch pos_and_n"]:
    """``tokens``, and ``n`` more after them.

    Args:
        temperature: 0 takes the most likely token; 1 draws from the model's distribution; between, sharper.
        top_k: draw from the k most likely tokens only (Fan et al. 2018, "Hierarchical Neural Story Generation").
        top_p: draw from the fewest tokens that hold this much probability (Holtzman et al. 2020, "The Curious Case
            of Neural Text Degeneration"), after ``top_k``. The most likely token always stays.
        seed: of the draws.
        chunk: read the prompt in pieces of this many tokens, which needs less memory. The result is the same.
        cached: keep keys and values. Without, everything is computed again for each token: slower, the same result.

    Raises:
        ValueError: the sequence does not fit the context, or a setting makes no sense.
    """
    _check(model, tokens, n, temperature=temperature, top_k=top_k, top_p=top_p, chunk=chunk)
    batch, start = tokens.shape
    generator = torch.Generator(tokens.device).manual_seed(seed)
    with torch.inference_mode():
        text = torch.cat([tokens, tokens.new_empty(batch, n)], dim=1)
        cache = model.cache(batch, start + n) if cached else None
        for stop in range(start, start + n):
            logits = _last_logits(model, text[:, :stop], cache, chunk)  # batch d_vocab
            text[:, stop] = _draw(logits, temperature, top_k, top_p, generator)
    return text.clone()  # an ordinary tensor again, which may be trained on


def beam(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    n: int,
    width: int,
    *,
    chunk: int | None = None,
    cached: bool = True,
) -> tuple[Int[Tensor, "batch width pos_and_n"], Float[Tensor, "batch width"]]:
    """The ``width`` likeliest continuations found, best first, and the log-probability of the tokens added.

    After each token the ``width`` likeliest of all one-token extensions are kept. With ``width`` of at least
    ``d_vocab ** (n - 1)`` nothing is ever dropped, and the search is exact.

    Raises:
        ValueError: the sequence does not fit the context, or there are fewer continuations than ``width``.
    """
    _check(model, tokens, n, width=width, chunk=chunk)
    d_vocab = model.config.d_vocab
    if width > d_vocab**n:
        raise ValueError(
            f"there are {d_vocab**n} continuations of {n} tokens; a beam of width {width} cannot be filled"
        )
    batch, start = tokens.shape
    with torch.inference_mode():
        text, score = tokens[:, None], model.W_E.new_zeros(batch, 1)  # batch beam pos; batch beam
        cache = model.cache(batch, start + n) if cached else None
        for _ in range(n):
            logits = _last_logits(model, text.flatten(0, 1), cache, chunk)
            total = score[:, :, None] + logits.log_softmax(dim=-1).unflatten(0, score.shape)  # batch beam d_vocab
            score, best = total.flatten(1).topk(min(width, total[0].numel()), dim=-1)  # batch new_beam
            rows = torch.arange(batch, device=best.device)[:, None] * text.shape[1] + best // d_vocab  # extended
            text = torch.cat([text.flatten(0, 1)[rows], (best % d_vocab)[:, :, None]], dim=-1)
            if cache is not None:
                cache.reorder(rows.flatten())
    return text.clone(), score.clone()


def _last_logits(model: Transformer, text: Tensor, cache: KVCache | None, chunk: int | None) -> Tensor:
    """The logits after ``text [batch pos]``, of which the cache holds a beginning: ``[batch d_vocab]``."""
    if cache is None:
        return model(text)[:, -1]
    step = chunk or text.shape[1]
    while cache.length < text.shape[1]:
        logits = model(text[:, cache.length : cache.length + step], cache=cache)
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
    logits = logits - logits.amax(dim=-1, keepdim=True)  # divided by a small temperature, float16 would overflow
    if top_k is None and top_p is None:
        return torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator)[:, 0]
    d_vocab = logits.shape[-1]
    logits, tokens = logits.topk(d_vocab if top_k is None else min(top_k, d_vocab), dim=-1)  # likeliest first
    probabilities = (logits / temperature).softmax(dim=-1)
    if top_p is not None:
        likelier = probabilities.cumsum(dim=-1) - probabilities  # what the tokens before this one hold
        probabilities = probabilities.masked_fill(likelier >= top_p, 0.0)
    return tokens.gather(-1, torch.multinomial(probabilities, 1, generator=generator))[:, 0]


def _check(
    model: Transformer,
    tokens: Tensor,
    n: int,
    temperature: float = 1.0,
    top_p: float | None = None,
    **counts: int | None,
) -> None:
    if tokens.ndim != 2:
        raise ValueError(f"tokens have shape {list(tokens.shape)}; a sampler takes [batch pos]")
    if not isinstance(n, int) or n < 0:
        raise ValueError(f"n is {n!r}; it must be a whole number of tokens to add")
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is {value!r}; it must be a whole number, at least 1")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature!r}; it must be 0 (the most likely token) or above")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p!r}; it must be above 0 and at most 1")
    if temperature == 0 and (top_p is not None or counts.get("top_k") is not None):
        raise ValueError(
            "top_k and top_p have no effect at temperature 0, which takes the likeliest token; give one above"
        )
    if n and 0 in tokens.shape:
        raise ValueError(
            f"tokens have shape {list(tokens.shape)}; there must be a text, and a token in it, to go on from"
        )
    if tokens.shape[1] + n > model.config.n_ctx:
        raise ValueError(
            f"{tokens.shape[1]} tokens and {n} more are longer than the model's context, n_ctx = {model.config.n_ctx}"
        )
