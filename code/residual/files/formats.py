"""Tensor layouts of other programs, GPT-2's and Llama's, mapped to this library's parameters; and GGUF files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from residual.files.gguf import GGUF
from residual.model import Config

if TYPE_CHECKING:
    from tokenizers import Tokenizer


# From a file's tensors to parameters


@dataclass(frozen=True)
class Piece:
    """The source of a parameter: tensors of the file, their expected shapes, and the function that combines them."""

    sources: Mapping[str, tuple[int, ...]]
    make: Callable[..., Tensor] = lambda x: x


@dataclass(frozen=True)
class Stored:
    """A model as stored in a file."""

    where: Path
    config: Config
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]
    pieces: Callable[[], dict[str, Piece]]
    ignored: tuple[str, ...] = ()  # tensors whose names end like this are not weights


def llama_pieces(c: Config, names: Mapping[str, str], has_bias: Callable[[str], bool]) -> dict[str, Piece]:
    """Return a Llama's pieces, from tensors ``[out in]`` under the names of a format (``{}`` stands for the layer)."""
    d, m, h, k, n = c.d_model, c.d_mlp, c.n_heads * c.d_head, c.kv_heads * c.d_head, c.d_head

    def heads(*maps: Tensor) -> Tensor:  # three times [(head d_head) d_model]
        return torch.cat(maps).unflatten(0, (-1, n))

    pieces = {
        "W_E": Piece({names["W_E"]: (c.d_vocab, d)}),
        "ln_final.w": Piece({names["ln_final"]: (d,)}),
    }
    if not c.tied:
        pieces["W_U"] = Piece({names["W_U"]: (c.d_vocab, d)}, _transposed)
    for layer in range(c.n_layers):
        here, at = f"blocks.{layer}", {key: name.replace("{}", str(layer)) for key, name in names.items()}
        pieces |= {
            f"{here}.ln1.w": Piece({at["ln1"]: (d,)}),
            f"{here}.attn.W_QKV": Piece({at["q"]: (h, d), at["k"]: (k, d), at["v"]: (k, d)}, heads),
            f"{here}.attn.W_O": Piece({at["o"]: (d, h)}, lambda x: x.T.unflatten(0, (-1, n))),
            f"{here}.ln2.w": Piece({at["ln2"]: (d,)}),
            f"{here}.mlp.W_gate": Piece({at["gate"]: (m, d)}, _transposed),
            f"{here}.mlp.W_in": Piece({at["up"]: (m, d)}, _transposed),
            f"{here}.mlp.W_out": Piece({at["down"]: (d, m)}, _transposed),
        }
        biases = {name: at[name].removesuffix("weight") + "bias" for name in ("q", "k", "v", "o", "gate", "up", "down")}
        if has_bias("attention"):
            sizes = {biases["q"]: (h,), biases["k"]: (k,), biases["v"]: (k,)}
            pieces[f"{here}.attn.b_QKV"] = Piece(sizes, heads)
            pieces[f"{here}.attn.b_O"] = Piece({biases["o"]: (d,)})
        if has_bias("mlp"):
            pieces[f"{here}.mlp.b_gate"] = Piece({biases["gate"]: (m,)})
            pieces[f"{here}.mlp.b_in"] = Piece({biases["up"]: (m,)})
            pieces[f"{here}.mlp.b_out"] = Piece({biases["down"]: (d,)})
    return pieces


def gpt2_pieces(c: Config, prefix: str, head: str) -> dict[str, Piece]:
    """Return GPT-2's pieces, from tensors ``[in out]`` except for the unembedding, which is called ``head``."""
    d, m, n = c.d_model, c.d_mlp, c.d_head
    pieces = {
        "W_E": Piece({f"{prefix}wte.weight": (c.d_vocab, d)}),
        "W_pos": Piece({f"{prefix}wpe.weight": (c.n_ctx, d)}),
        "ln_final.w": Piece({f"{prefix}ln_f.weight": (d,)}),
        "ln_final.b": Piece({f"{prefix}ln_f.bias": (d,)}),
    }
    if not c.tied:
        pieces["W_U"] = Piece({head: (c.d_vocab, d)}, _transposed)
    for layer in range(c.n_layers):
        here, at = f"blocks.{layer}", f"{prefix}h.{layer}"
        for ours, theirs in {"ln1": "ln_1", "ln2": "ln_2"}.items():
            pieces[f"{here}.{ours}.w"] = Piece({f"{at}.{theirs}.weight": (d,)})
            pieces[f"{here}.{ours}.b"] = Piece({f"{at}.{theirs}.bias": (d,)})
        pieces |= {
            f"{here}.attn.W_QKV": Piece({f"{at}.attn.c_attn.weight": (d, 3 * d)}, lambda x: x.T.unflatten(0, (-1, n))),
            f"{here}.attn.b_QKV": Piece({f"{at}.attn.c_attn.bias": (3 * d,)}, lambda x: x.unflatten(0, (-1, n))),
            f"{here}.attn.W_O": Piece({f"{at}.attn.c_proj.weight": (d, d)}, lambda x: x.unflatten(0, (-1, n))),
            f"{here}.attn.b_O": Piece({f"{at}.attn.c_proj.bias": (d,)}),
            f"{here}.mlp.W_in": Piece({f"{at}.mlp.c_fc.weight": (d, m)}),
            f"{here}.mlp.b_in": Piece({f"{at}.mlp.c_fc.bias": (m,)}),
            f"{here}.mlp.W_out": Piece({f"{at}.mlp.c_proj.weight": (m, d)}),
            f"{here}.mlp.b_out": Piece({f"{at}.mlp.c_proj.bias": (d,)}),
        }
    return pieces


def _transposed(x: Tensor) -> Tensor:
    return x.T


# Configs


def whole_number(config: Mapping[str, Any], name: str, where: Path) -> int:
    """Return an entry of a config that must be a positive whole number.

    Raises:
        ValueError: it is not a whole number above 0.
    """
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise ValueError(f"{where} says {name} {value!r}; it must be a whole number above 0")
    return value


def split_evenly(d_model: int, n_heads: int, where: Path) -> int:
    """Return the width of a head.

    Raises:
        ValueError: the heads cannot share ``d_model`` dimensions evenly.
    """
    if d_model % n_heads:
        raise ValueError(f"{where} says {n_heads} heads, which cannot share {d_model} dimensions evenly")
    return d_model // n_heads


def make_config(where: Path, **fields: Any) -> Config:
    """Return the config with these fields.

    Raises:
        ValueError: they do not make a model.
    """
    try:
        return Config(**fields)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where} does not describe a model: {error}") from None


# GGUF files

GGUF_LLAMA = {
    "W_E": "token_embd.weight",
    "ln1": "blk.{}.attn_norm.weight",
    "q": "blk.{}.attn_q.weight",
    "k": "blk.{}.attn_k.weight",
    "v": "blk.{}.attn_v.weight",
    "o": "blk.{}.attn_output.weight",
    "ln2": "blk.{}.ffn_norm.weight",
    "gate": "blk.{}.ffn_gate.weight",
    "up": "blk.{}.ffn_up.weight",
    "down": "blk.{}.ffn_down.weight",
    "ln_final": "output_norm.weight",
    "W_U": "output.weight",
}


def gguf(path: Path) -> Stored:
    """Return the model in a ``.gguf`` file.

    Raises:
        ValueError: see ``pretrained.load``.
    """
    file = GGUF(path)
    values = {key.removeprefix("llama."): value for key, value in file.values.items()}
    if (architecture := values.get("general.architecture")) != "llama":
        raise ValueError(f"{path} says general.architecture {architecture!r}; only llama can be loaded")
    if values.get("rope.scaling.type", "none") != "none" or "rope_freqs.weight" in file.shapes:
        raise ValueError(f"{path} scales its rotary positions; only unscaled positions can be loaded")
    d_model = whole_number(values, "embedding_length", path)
    n_heads = whole_number(values, "attention.head_count", path)
    d_head = values.get("attention.key_length", split_evenly(d_model, n_heads, path))
    for name in ("rope.dimension_count", "attention.value_length"):
        if values.get(name, d_head) != d_head:
            raise ValueError(f"{path} says {name} {values[name]!r}; only the width of a head, {d_head}, can be loaded")
    config = make_config(
        path,
        n_layers=whole_number(values, "block_count", path),
        d_model=d_model,
        n_heads=n_heads,
        d_head=d_head,
        n_kv_heads=values.get("attention.head_count_kv", n_heads),
        n_ctx=whole_number(values, "context_length", path),
        d_vocab=file.shapes.get("token_embd.weight", (0,))[0],
        positions="rotary",
        rotary_base=values.get("rope.freq_base", 10000.0),
        rotary_interleaved=True,  # llama.cpp stores rotary pairs of queries and keys as neighboring rows
        d_mlp=whole_number(values, "feed_forward_length", path),
        act="swiglu",
        norm="rms",
        norm_eps=values.get("attention.layer_norm_rms_epsilon", 1e-6),
        tied="output.weight" not in file.shapes,
    )
    return Stored(path, config, file.shapes, file.read, lambda: llama_pieces(config, GGUF_LLAMA, lambda part: False))


def gguf_tokenizer(file: GGUF) -> Tokenizer:
    """Return the byte-level BPE (Radford et al. 2019, section 2.2) that the file's tokens and merges define."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    known: dict[str, list[Any]] = {"gpt-2": [], "smollm": [pre_tokenizers.Digits(individual_digits=True)]}
    kind, before = (file.values.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind != "gpt2" or before not in known:
        raise ValueError(
            f"{file.path} has a tokenizer {kind!r} of kind {before!r}; only gpt2 of {', '.join(known)} can be read"
        )
    tokens, merges, types = (
        file.values.get(f"tokenizer.ggml.{name}", []) for name in ("tokens", "merges", "token_type")
    )
    nonsense = f"{file.path} has an invalid tokenizer; the file is corrupt: get it again"
    if not all(isinstance(part, list) for part in (tokens, merges, types)):
        raise ValueError(nonsense)
    pairs = [(left, right) for left, _, right in (str(merge).partition(" ") for merge in merges)]
    try:
        tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
        control = [token for token, kind in zip(tokens, types, strict=True) if kind == 3]
        tokenizer.add_special_tokens(control)
    except Exception as error:  # the package raises nothing more specific
        raise ValueError(f"{nonsense} ({error})") from None
    if tokenizer.get_vocab_size() != len(tokens):
        raise ValueError(nonsense)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*known[before], pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
