"""The keys and values that a model keeps of the positions it has read."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class KVCache:
    """Keys and values of the positions already read, so that later positions need not compute them again.

    ``model.cache(batch)`` makes an empty cache; ``model(tokens, cache=cache)`` then reads ``tokens`` as a continuation.
    Set ``length`` back to forget positions. For inference only: use it under ``torch.no_grad()``.
    """

    def __init__(self, layers: int, batch: int, heads: int, n_ctx: int, d_head: int, *, like: Tensor) -> None:
        self.length = 0
        self.real: Tensor | None = None  # [batch n_ctx], true at real tokens; None if there is no padding yet
        self._hold(*(like.new_empty(layers, batch, heads, n_ctx, d_head) for _ in range(2)))

    def _hold(self, k: Tensor, v: Tensor) -> None:
        self.k, self.v = k, v
        self._layers = [(k[layer], v[layer]) for layer in range(len(k))]  # views, made once rather than at each token

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values, and return all of them up to here: two tensors ``[batch head pos d_head]``."""
        start, n = self.length, k.shape[-2]
        all_k, all_v = self._layers[layer]
        all_k.narrow(2, start, n).copy_(k)
        all_v.narrow(2, start, n).copy_(v)
        return all_k.narrow(2, 0, start + n), all_v.narrow(2, 0, start + n)

    def keep(self, real: Bool[Tensor, "batch pos"] | None, stop: int) -> Bool[Tensor, "batch stop"] | None:
        """Append the mask of the next tokens (None: all real); return the mask up to ``stop``, or None if all are."""
        if real is None and self.real is None:
            return None
        if self.real is None:
            self.real = torch.ones(self.k.shape[1], self.k.shape[3], dtype=torch.bool, device=self.k.device)
        self.real[:, self.length : stop] = True if real is None else real
        return self.real[:, :stop]

    def reorder(self, rows: Int[Tensor, " new_batch"]) -> None:
        """Make row ``rows[i]`` the new row i. A row may be repeated or left out, as in a beam search."""
        self._hold(self.k[:, rows], self.v[:, rows])
        self.real = None if self.real is None else self.real[rows]


def span(x: Tensor, n_ctx: int, cache: KVCache | None) -> tuple[int, int]:
    """Return the positions of the first token of ``x [batch pos …]`` and of the one after its last.

    Raises:
        ValueError: the tokens do not fit into the context or the cache.
    """
    start = 0 if cache is None else cache.length
    stop = start + x.shape[1]
    if stop > n_ctx:
        raise ValueError(f"the sequence has {stop} tokens; the model's context holds n_ctx = {n_ctx}")
    if cache is not None and (len(x) != cache.k.shape[1] or stop > cache.k.shape[3]):
        batch, room = cache.k.shape[1], cache.k.shape[3]
        raise ValueError(f"the cache is for {batch} × {room} tokens; {len(x)} × {stop} do not fit")
    return start, stop
