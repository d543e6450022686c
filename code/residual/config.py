"""The hyperparameters of a model, and the names of its activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from residual.checks import Checked

HEADS_READ = ("attn.q_in", "attn.k_in", "attn.v_in")


@dataclass(frozen=True)
class Config(Checked):
    """The hyperparameters of a model.

    Raises:
        TypeError: there is no such field (the message lists the nearest names).
        ValueError: no model can have this value.
    """

    n_layers: int = 2
    d_model: int = 128  # width of the residual stream
    n_heads: int = 4
    d_head: int = 32  # need not be d_model / n_heads
    n_ctx: int = 128  # longest sequence, in tokens
    d_vocab: int = 512
    positions: Literal["learned", "shortformer", "rotary", "none"] = "learned"
    # in this order: added to the stream; added to the input of queries and keys (Press et al. 2021); rotations; absent
    init_std: float = 0.02  # standard deviation of the weights before training
    d_mlp: int = 0  # 0: no MLP
    act: Literal["relu", "gelu", "gelu_new", "swiglu"] = "gelu_new"  # GPT-2's tanh approximation; "gelu" is exact
    norm: Literal["none", "layer", "rms"] = "none"
    norm_eps: float = 1e-5
    n_kv_heads: int | None = None  # None: n_heads; if fewer, query heads share them
    rotary_base: float = 10000.0
    rotary_interleaved: bool = False  # rotate the pairs (2i, 2i+1); otherwise (i, i + d_head/2), as Hugging Face does
    smeared_keys: bool = False  # mix each key with the previous one
    tied: bool = False  # W_U is W_Eᵀ
    bias: bool = False
    causal: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_heads % self.kv_heads:
            raise ValueError(f"Config.n_heads is {self.n_heads}; {self.kv_heads} key heads cannot share it evenly")
        if self.positions == "rotary" and self.d_head % 2:
            raise ValueError(f"Config.d_head is {self.d_head}; rotary positions rotate pairs, so it must be even")

    @property
    def kv_heads(self) -> int:
        """The number of key and value heads."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads


def activations(config: Config, first: int | None = None, stop: int | None = None) -> list[str]:
    """Return the names of a model's activations in the order of computation, or those of some layers only.

    Every map has a name for its own input, so that a tap can change what one reader sees and leave the other readers
    alone: ``attn.q_in``, ``k_in`` and ``v_in`` ``[batch pos head d_model]`` are the stream before the norm, as each
    head's query, key and value map reads it (``hook_q_input`` in TransformerLens). Each copy is normalized by itself,
    or by the ``ln1.scale`` that a tap supplies. ``mlp.in`` is the MLP's input, before its norm. Only the unembedding
    reads the last layer's ``resid_post``.

    Args:
        first: start at this layer, as ``run_from`` does; default: at the embedding.
        stop: stop before this layer, as ``run_to`` does; default: at the end.
    """

    def norm(name: str) -> list[str]:
        return [] if config.norm == "none" else [f"{name}.scale", f"{name}.normalized"]

    rotated = ["attn.rot_q", "attn.rot_k"] if config.positions == "rotary" else []
    attn = ["attn.q", "attn.k", "attn.v", *rotated, "attn.scores", "attn.pattern", "attn.z", "attn.result"]
    block = ["resid_pre", *norm("ln1"), *HEADS_READ, *attn, "attn_out"]
    if config.d_mlp:
        gated = ["mlp.pre_linear"] if config.act == "swiglu" else []
        block += ["resid_mid", "mlp.in", *norm("ln2"), "mlp.pre", *gated, "mlp.post", "mlp_out"]
    layers = range(first or 0, config.n_layers if stop is None else stop)
    names = ["embed"] if first is None else []
    if (config.positions == "learned" and first is None) or (config.positions == "shortformer" and stop != 0):
        names += ["pos_embed"]
    names += [f"blocks.{layer}.{name}" for layer in layers for name in (*block, "resid_post")]
    return names + (norm("ln_final") if stop is None else [])
