"""The weights of a layer of attention heads, in the papers' shapes and as the products ``W_QK`` and ``W_OV``."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from residual.config import Config
from residual.factored import FactoredMatrix


class HeadWeights(nn.Module):
    """The parameters of ``Attention``."""

    def __init__(self, config: Config, layer: int = 0) -> None:
        super().__init__()
        c = self.config = config
        self.layer = layer
        # One parameter for the three maps into the heads, output axis first, so that one matrix product computes all of
        # them; W_Q, W_K and W_V below are views of it in the papers' shapes.
        n_maps = c.n_heads + 2 * c.kv_heads
        self.W_QKV = nn.Parameter(torch.empty(n_maps, c.d_head, c.d_model))
        self.W_O = nn.Parameter(torch.empty(c.n_heads, c.d_head, c.d_model))
        self.b_QKV = nn.Parameter(torch.zeros(n_maps, c.d_head)) if c.bias else None
        self.b_O = nn.Parameter(torch.zeros(c.d_model)) if c.bias else None
        self.smear = nn.Parameter(torch.zeros(c.kv_heads)) if c.smeared_keys else None

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        return self._maps(self.W_QKV)[0].mT

    @property
    def W_K(self) -> Float[Tensor, "kv_head d_model d_head"]:
        return self._maps(self.W_QKV)[1].mT

    @property
    def W_V(self) -> Float[Tensor, "kv_head d_model d_head"]:
        return self._maps(self.W_QKV)[2].mT

    @property
    def b_Q(self) -> Float[Tensor, "head d_head"] | None:
        return None if self.b_QKV is None else self._maps(self.b_QKV)[0]

    @property
    def b_K(self) -> Float[Tensor, "kv_head d_head"] | None:
        return None if self.b_QKV is None else self._maps(self.b_QKV)[1]

    @property
    def b_V(self) -> Float[Tensor, "kv_head d_head"] | None:
        return None if self.b_QKV is None else self._maps(self.b_QKV)[2]

    def W_QK(self, head: int | slice = slice(None)) -> FactoredMatrix:
        """Return ``W_Q W_Kᵀ [d_model d_model]``, without the ``1/√d_head``: how a query scores each key."""
        return FactoredMatrix(self.W_Q[head], self._shared(self.W_K, dim=0)[head].mT)

    def W_OV(self, head: int | slice = slice(None)) -> FactoredMatrix:
        """Return ``W_V W_O [d_model d_model]``: what a head writes when it attends to a position."""
        return FactoredMatrix(self._shared(self.W_V, dim=0)[head], self.W_O[head])

    def _maps(self, joint: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the query, key and value parts of a joint parameter, as views that can be written to."""
        n, m = self.config.n_heads, self.config.kv_heads
        return joint[:n], joint[n : n + m], joint[n + m :]

    def _shared(self, x: Tensor, dim: int) -> Tensor:
        """Return keys or values repeated for each query head (Ainslie et al. 2023, "GQA")."""
        sharing = self.config.n_heads // self.config.kv_heads
        return x if sharing == 1 else x.repeat_interleave(sharing, dim=dim)
