"""How other programs store a transformer: Hugging Face folders (GPT-2, Llama) and GGUF files (Llama)."""

from __future__ import annotations

import json
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


# What a file holds, and which of it becomes which parameter


@dataclass(frozen=True)
class Piece:
    """Where a parameter comes from: tensors of the file with the shapes they must have, and what makes it of them."""

    sources: Mapping[str, tuple[int, ...]]
    make: Callable[..., Tensor] = lambda x: x


@dataclass(frozen=True)
class Stored:
    """A model as a file has it."""

    where: Path
    config: Config
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]
    pieces: Callable[[], dict[str, Piece]]
    ignored: tuple[str, ...] = ()  # ends of the names of tensors that are no weights


def _llama_pieces(c: Config, names: Mapping[str, str], has_bias: Callable[[str], bool]) -> dict[str, Piece]:
    """A Llama's tensors, ``[out in]`` each, under the names of a format (``{}`` stands for the layer)."""
    d, m, h, k, n = c.d_model, c.d_mlp, c.n_heads * c.d_head, c.kv_heads * c.d_head, c.d_head

    def heads(*maps: Tensor) -> Tensor:  # [(head d_head) d_model], thrice
        return torch.cat(maps).unflatten(0, (-1, n))

    pieces = {
        "W_E": Piece({names["W_E"]: (c.d_vocab, d)}),
        "ln_final.w": Piece({names["ln_final"]: (d,)}),
    }
    if not c.tied:
        pieces["W_U"] = Piece({names["W_U"]: (c.d_vocab, d)}, _transposed)
    for layer in range(c.n_layers):
        here, at = f"blocks.{layer}", {key: name.format(layer) for key, name in names.items()}
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


def _gpt2_pieces(c: Config, prefix: str) -> dict[str, Piece]:
    """GPT-2's tensors, ``[in out]`` each, but for the unembedding."""
    d, m, n = c.d_model, c.d_mlp, c.d_head
    pieces = {
        "W_E": Piece({f"{prefix}wte.weight": (c.d_vocab, d)}),
        "W_pos": Piece({f"{prefix}wpe.weight": (c.n_ctx, d)}),
        "ln_final.w": Piece({f"{prefix}ln_f.weight": (d,)}),
        "ln_final.b": Piece({f"{prefix}ln_f.bias": (d,)}),
    }
    if not c.tied:
        pieces["W_U"] = Piece({"lm_head.weight": (c.d_vocab, d)}, _transposed)
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


# Hugging Face folders

HUGGING_FACE_LLAMA = {
    "W_E": "model.embed_tokens.weight",
    "ln1": "model.layers.{}.input_layernorm.weight",
    "q": "model.layers.{}.self_attn.q_proj.weight",
    "k": "model.layers.{}.self_attn.k_proj.weight",
    "v": "model.layers.{}.self_attn.v_proj.weight",
    "o": "model.layers.{}.self_attn.o_proj.weight",
    "ln2": "model.layers.{}.post_attention_layernorm.weight",
    "gate": "model.layers.{}.mlp.gate_proj.weight",
    "up": "model.layers.{}.mlp.up_proj.weight",
    "down": "model.layers.{}.mlp.down_proj.weight",
    "ln_final": "model.norm.weight",
    "W_U": "lm_head.weight",
}


def hugging_face(folder: Path) -> Stored:
    """The model in a folder with ``config.json`` and safetensors.

    Raises:
        FileNotFoundError, ValueError: see ``pretrained.load``.
    """
    said = _json(folder / "config.json")
    family = said.get("model_type")
    if family not in ("gpt2", "llama"):
        raise ValueError(f"{folder / 'config.json'} says model_type {family!r}; gpt2 and llama can be loaded")
    config = _gpt2_config(said, folder) if family == "gpt2" else _llama_config(said, folder)
    files = _tensor_files(folder)
    contents = {file: _safetensors_shapes(file) for file in files}
    shapes = {name: shape for found in contents.values() for name, shape in found.items()}
    place = {name: file for file, found in contents.items() for name in found}

    def read(name: str) -> Tensor:
        from safetensors import safe_open

        with safe_open(place[name], framework="pt") as file:
            return file.get_tensor(name)

    if family == "gpt2":
        prefix = "" if "wte.weight" in shapes else "transformer."
        ignored = (".attn.bias", ".attn.masked_bias") + (("lm_head.weight",) if config.tied else ())
        return Stored(folder, config, shapes, read, lambda: _gpt2_pieces(config, prefix), ignored)
    biases = {"attention": said.get("attention_bias"), "mlp": said.get("mlp_bias")}
    ignored = (".rotary_emb.inv_freq",) + (("lm_head.weight",) if config.tied else ())
    pieces = lambda: _llama_pieces(config, HUGGING_FACE_LLAMA, lambda part: bool(biases[part]))  # noqa: E731
    return Stored(folder, config, shapes, read, pieces, ignored)


def _gpt2_config(said: Mapping[str, Any], folder: Path) -> Config:
    where = folder / "config.json"
    for name, needed in dict(
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
    ).items():
        if said.get(name, needed) != needed:
            raise ValueError(f"{where} says {name} {said[name]!r}; only {needed!r} can be loaded")
    d_model, n_heads = _number(said, "n_embd", where), _number(said, "n_head", where)
    return _config(
        where,
        n_layers=_number(said, "n_layer", where),
        d_model=d_model,
        n_heads=n_heads,
        d_head=_split(d_model, n_heads, where),
        n_ctx=_number(said, "n_positions", where),
        d_vocab=_number(said, "vocab_size", where),
        d_mlp=4 * d_model if said.get("n_inner") is None else _number(said, "n_inner", where),
        act=_act(said.get("activation_function", "gelu_new"), where),
        norm="layer",
        norm_eps=said.get("layer_norm_epsilon", 1e-5),
        tied=said.get("tie_word_embeddings", True),
        bias=True,
    )


def _llama_config(said: Mapping[str, Any], folder: Path) -> Config:
    where = folder / "config.json"
    if said.get("hidden_act", "silu") != "silu":
        raise ValueError(f"{where} says hidden_act {said['hidden_act']!r}; a Llama's is 'silu'")
    rope = said.get("rope_parameters") or said.get("rope_scaling") or {}  # the first since transformers 5
    if not isinstance(rope, dict):
        raise ValueError(f"{where} says rotary positions {rope!r:.60}; that must be an object")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(
            f"{where} says rotary positions of type {kind!r}; only unscaled ones ('default') can be loaded"
        )
    d_model, n_heads = _number(said, "hidden_size", where), _number(said, "num_attention_heads", where)
    return _config(
        where,
        n_layers=_number(said, "num_hidden_layers", where),
        d_model=d_model,
        n_heads=n_heads,
        d_head=said.get("head_dim") or _split(d_model, n_heads, where),
        n_kv_heads=said.get("num_key_value_heads") or n_heads,
        n_ctx=_number(said, "max_position_embeddings", where),
        d_vocab=_number(said, "vocab_size", where),
        positions="rotary",
        rotary_base=rope.get("rope_theta", said.get("rope_theta", 10000.0)),
        d_mlp=_number(said, "intermediate_size", where),
        act="swiglu",
        norm="rms",
        norm_eps=said.get("rms_norm_eps", 1e-6),
        tied=said.get("tie_word_embeddings", False),
        bias=bool(said.get("attention_bias") or said.get("mlp_bias")),
    )


def _tensor_files(folder: Path) -> list[Path]:
    """``model.safetensors``, or the shards that ``model.safetensors.index.json`` lists."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = _json(index).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise ValueError(f"{index} has no weight_map from tensors to files")
        for name in sorted(set(listed.values())):
            if Path(name).name != name:
                raise ValueError(f"{index} names {name!r}; the files must lie in the same folder")
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{index} names {name}, which is not there; the download is incomplete")
        return [folder / name for name in sorted(set(listed.values()))]
    pickled = [path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]
    if pickled:
        raise ValueError(
            f"{folder} has {pickled[0]} but no model.safetensors; pickled weights can run code when they are read, and "
            "are never read here: save the model as safetensors first"
        )
    raise FileNotFoundError(f"{folder} has neither model.safetensors nor model.safetensors.index.json")


def _safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of a file. The package checks all lengths against the file's own."""
    from safetensors import SafetensorError, safe_open

    with open(path, "rb") as opened:
        size, header = opened.seek(0, 2), opened.seek(0) or int.from_bytes(opened.read(8), "little")
    if size < 10 or header > size - 8:
        raise ValueError(f"{path} has {size} bytes, and says that its header has {header}; it is corrupt: get it again")
    try:
        with safe_open(path, framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 — not a mapping
            wrong = [(name, part.get_dtype()) for name, part in parts.items() if part.get_dtype() not in FLOATS]
            shapes = {name: tuple(part.get_shape()) for name, part in parts.items()}
    except SafetensorError as error:
        raise ValueError(f"{path} is corrupt or incomplete ({error}); get it again") from None
    wrong = [(name, dtype) for name, dtype in wrong if not name.endswith((".attn.bias", ".attn.masked_bias"))]
    if wrong:
        raise ValueError(f"{path} stores {wrong[0][0]} as {wrong[0][1]}; {', '.join(FLOATS)} can be loaded")
    return shapes


FLOATS = ("F64", "F32", "F16", "BF16")


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; give a folder in Hugging Face's layout")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; it must hold an object")
    return found


def _number(said: Mapping[str, Any], name: str, where: Path) -> int:
    value = said.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise ValueError(f"{where} says {name} {value!r}; it must be a whole number above 0")
    return value


def _split(d_model: int, n_heads: int, where: Path) -> int:
    if d_model % n_heads:
        raise ValueError(f"{where} says {n_heads} heads, which cannot share {d_model} dimensions evenly")
    return d_model // n_heads


def _act(name: Any, where: Path) -> str:
    known = {"gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{where} says activation_function {name!r}; {', '.join(known)} can be loaded")
    return known[name]


def _config(where: Path, **fields: Any) -> Config:
    try:
        return Config(**fields)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where} makes no model: {error}") from None


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
    """The model in a ``.gguf`` file.

    Raises:
        ValueError: see ``pretrained.load``.
    """
    file = GGUF(path)
    said = {key.removeprefix("llama."): value for key, value in file.values.items()}
    if said.get("general.architecture") != "llama":
        raise ValueError(f"{path} says general.architecture {said.get('general.architecture')!r}; llama can be loaded")
    if said.get("rope.scaling.type", "none") != "none" or "rope_freqs.weight" in file.shapes:
        raise ValueError(f"{path} scales its rotary positions; only unscaled ones can be loaded")
    d_model, n_heads = _number(said, "embedding_length", path), _number(said, "attention.head_count", path)
    d_head = said.get("attention.key_length", _split(d_model, n_heads, path))
    for name in ("rope.dimension_count", "attention.value_length"):
        if said.get(name, d_head) != d_head:
            raise ValueError(f"{path} says {name} {said[name]!r}; only that of a head, {d_head}, can be loaded")
    config = _config(
        path,
        n_layers=_number(said, "block_count", path),
        d_model=d_model,
        n_heads=n_heads,
        d_head=d_head,
        n_kv_heads=said.get("attention.head_count_kv", n_heads),
        n_ctx=_number(said, "context_length", path),
        d_vocab=file.shapes.get("token_embd.weight", (0,))[0],
        positions="rotary",
        rotary_base=said.get("rope.freq_base", 10000.0),
        rotary_interleaved=True,  # llama.cpp stores the rows of queries and keys so that pairs are neighbours
        d_mlp=_number(said, "feed_forward_length", path),
        act="swiglu",
        norm="rms",
        norm_eps=said.get("attention.layer_norm_rms_epsilon", 1e-6),
        tied="output.weight" not in file.shapes,
    )
    return Stored(path, config, file.shapes, file.read, lambda: _llama_pieces(config, GGUF_LLAMA, lambda part: False))


def gguf_tokenizer(file: GGUF) -> Tokenizer:
    """A byte-level BPE (Radford et al. 2019, section 2.2) out of its tokens and merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    known: dict[str, list[Any]] = {"gpt-2": [], "smollm": [pre_tokenizers.Digits(individual_digits=True)]}
    kind, before = (file.values.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind != "gpt2" or before not in known:
        raise ValueError(
            f"{file.path} has a tokenizer {kind!r} of kind {before!r}; gpt2 of {', '.join(known)} can be read"
        )
    tokens, merges, types = (
        file.values.get(f"tokenizer.ggml.{name}", []) for name in ("tokens", "merges", "token_type")
    )
    nonsense = f"{file.path} has a tokenizer that makes no sense; the file is corrupt: get it again"
    if not all(isinstance(part, list) for part in (tokens, merges, types)):
        raise ValueError(nonsense)
    pairs = [(left, right) for left, _, right in (str(merge).partition(" ") for merge in merges)]
    try:
        made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
        made.add_special_tokens([token for token, kind in zip(tokens, types, strict=True) if kind == 3])  # 3: control
    except Exception as error:  # the package raises nothing more precise
        raise ValueError(f"{nonsense} ({error})") from None
    if made.get_vocab_size() != len(tokens):
        raise ValueError(nonsense)
    made.pre_tokenizer = pre_tokenizers.Sequence([*known[before], pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    return made
