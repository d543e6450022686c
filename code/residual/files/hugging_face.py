"""Folders in Hugging Face's layout, config.json beside safetensors, with a GPT-2 or a Llama.

Tensors are found by the ends of their names, because tools add prefixes: ``model.`` or ``transformer.`` for a model
with a head, ``module.`` after parallel training, ``_orig_mod.`` after compilation. ``safetensors.torch.save_model``
writes tensors that share their numbers only once, and lists the other names as metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from residual.files.formats import Stored, gpt2_pieces, llama_pieces, make_config, split_evenly, whole_number
from residual.model import Config

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
    """Return the model in a folder with ``config.json`` and safetensors.

    Raises:
        FileNotFoundError, ValueError: see ``pretrained.load``.
    """
    entries = _json(folder / "config.json")
    family = entries.get("model_type")
    if family not in ("gpt2", "llama"):
        raise ValueError(f"{folder / 'config.json'} says model_type {family!r}; only gpt2 and llama can be loaded")
    config = _gpt2_config(entries, folder) if family == "gpt2" else _llama_config(entries, folder)
    stored = _stored(_tensor_files(folder))
    ignored: tuple[str, ...]

    def read(name: str) -> Tensor:
        from safetensors import safe_open

        with safe_open(stored[name].file, framework="pt") as file:
            return file.get_tensor(stored[name].name)

    if family == "gpt2":
        prefix, head = _before(stored, "h.0.ln_1.weight", "transformer.", folder), _head(stored)
        embedding, ignored = f"{prefix}wte.weight", (".attn.bias", ".attn.masked_bias")
        pieces = lambda: gpt2_pieces(config, prefix, head)  # noqa: E731
    else:
        prefix, head = _before(stored, "layers.0.input_layernorm.weight", "model.", folder), _head(stored)
        embedding, ignored = f"{prefix}embed_tokens.weight", (".rotary_emb.inv_freq",)
        names = {key: name.replace("model.", prefix, 1) for key, name in HUGGING_FACE_LLAMA.items()} | {"W_U": head}
        biases = {"attention": entries.get("attention_bias"), "mlp": entries.get("mlp_bias")}
        pieces = lambda: llama_pieces(config, names, lambda part: bool(biases[part]))  # noqa: E731
    if config.tied and head in stored:
        ignored += (head,)
        stored.setdefault(embedding, stored[head])
        if stored[embedding] != stored[head]:
            first, second = (read(name).nan_to_num() for name in (embedding, head))
            if not torch.equal(first, second):
                raise ValueError(
                    f"{folder / 'config.json'} ties the unembedding to the embedding, but {embedding} "
                    f"and {head} differ; if they were trained separately, it must say tie_word_embeddings false"
                )
    return Stored(folder, config, {name: place.shape for name, place in stored.items()}, read, pieces, ignored)


class Place(NamedTuple):
    """A tensor's place: its file, its name there, and its shape."""

    file: Path
    name: str
    shape: tuple[int, ...]


WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch inserts into the names of modules that it compiles, shards or recomputes."""


def _stored(files: list[Path]) -> dict[str, Place]:
    """Return the places of all tensors, by name without wrappers; a tensor stored once for two has both names."""
    places_by_name: dict[str, Place] = {}
    for file in files:
        shapes, metadata = _safetensors_shapes(file)
        places = {name: Place(file, name, shape) for name, shape in shapes.items()}
        shared = {name: places[stored] for name, stored in metadata.items() if stored in places and name not in places}
        for name, place in (places | shared).items():
            plain = WRAPPERS.sub("", name)
            if plain in places_by_name:
                raise ValueError(f"{file} has {name}, but {plain} is already in {places_by_name[plain].file}")
            places_by_name[plain] = place
    return places_by_name


def _before(names: Iterable[str], end: str, usual: str, folder: Path) -> str:
    """Return the prefix of the model's own tensor names; ``usual`` if no name ends in ``end``."""
    prefixes = sorted({name.removesuffix(end) for name in names if f".{name}".endswith(f".{end}")})
    if len(prefixes) > 1:
        raise ValueError(
            f"{folder} holds {len(prefixes)} models, {' and '.join(map(repr, prefixes))}; keep one of them"
        )
    return prefixes[0] if prefixes else usual


def _head(names: Iterable[str]) -> str:
    """Return the name of the unembedding, with its prefix."""
    return min((name for name in names if f".{name}".endswith(".lm_head.weight")), default="lm_head.weight")


def _gpt2_config(entries: Mapping[str, Any], folder: Path) -> Config:
    where = folder / "config.json"
    for name, needed in dict(
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
    ).items():
        if entries.get(name, needed) != needed:
            raise ValueError(f"{where} says {name} {entries[name]!r}; only {needed!r} can be loaded")
    d_model, n_heads = whole_number(entries, "n_embd", where), whole_number(entries, "n_head", where)
    return make_config(
        where,
        n_layers=whole_number(entries, "n_layer", where),
        d_model=d_model,
        n_heads=n_heads,
        d_head=split_evenly(d_model, n_heads, where),
        n_ctx=whole_number(entries, "n_positions", where),
        d_vocab=whole_number(entries, "vocab_size", where),
        d_mlp=4 * d_model if entries.get("n_inner") is None else whole_number(entries, "n_inner", where),
        act=_act(entries.get("activation_function", "gelu_new"), where),
        norm="layer",
        norm_eps=entries.get("layer_norm_epsilon", 1e-5),
        tied=entries.get("tie_word_embeddings", True),
        bias=True,
    )


def _llama_config(entries: Mapping[str, Any], folder: Path) -> Config:
    where = folder / "config.json"
    if entries.get("hidden_act", "silu") != "silu":
        raise ValueError(f"{where} says hidden_act {entries['hidden_act']!r}; only 'silu' can be loaded")
    rope = entries.get("rope_parameters") or entries.get("rope_scaling") or {}  # rope_parameters since transformers 5
    if not isinstance(rope, dict):
        raise ValueError(f"{where} says rotary positions {rope!r:.60}; they must be an object")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(
            f"{where} says rotary positions of type {kind!r}; only unscaled positions ('default') can be loaded"
        )
    d_model, n_heads = whole_number(entries, "hidden_size", where), whole_number(entries, "num_attention_heads", where)
    return make_config(
        where,
        n_layers=whole_number(entries, "num_hidden_layers", where),
        d_model=d_model,
        n_heads=n_heads,
        d_head=entries.get("head_dim") or split_evenly(d_model, n_heads, where),
        n_kv_heads=entries.get("num_key_value_heads") or n_heads,
        n_ctx=whole_number(entries, "max_position_embeddings", where),
        d_vocab=whole_number(entries, "vocab_size", where),
        positions="rotary",
        rotary_base=rope.get("rope_theta", entries.get("rope_theta", 10000.0)),
        d_mlp=whole_number(entries, "intermediate_size", where),
        act="swiglu",
        norm="rms",
        norm_eps=entries.get("rms_norm_eps", 1e-6),
        tied=entries.get("tie_word_embeddings", False),
        bias=bool(entries.get("attention_bias") or entries.get("mlp_bias")),
    )


def _tensor_files(folder: Path) -> list[Path]:
    """Return ``model.safetensors``, or the shards that ``model.safetensors.index.json`` lists."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = _json(index).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise ValueError(f"{index} has no weight_map of tensors to files")
        for name in sorted(set(listed.values())):
            if Path(name).name != name:
                raise ValueError(f"{index} names {name!r}; the files must be in the same folder")
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{index} names {name}, which is missing; the download is incomplete")
        return [folder / name for name in sorted(set(listed.values()))]
    pickled = [path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]
    if pickled:
        raise ValueError(
            f"{folder} has {pickled[0]} but no model.safetensors; pickled weights can run code when they are read, and "
            "are never read here: save the model as safetensors first"
        )
    raise FileNotFoundError(f"{folder} has neither model.safetensors nor model.safetensors.index.json")


def _safetensors_shapes(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Return the shapes and metadata of a file. The package checks all lengths against the file's own."""
    from safetensors import SafetensorError, safe_open

    with open(path, "rb") as opened:
        size, header = opened.seek(0, 2), opened.seek(0) or int.from_bytes(opened.read(8), "little")
    if size < 10 or header > size - 8:
        raise ValueError(f"{path} has {size} bytes, but claims a header of {header}; it is corrupt: get it again")
    try:
        with safe_open(path, framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 — not a mapping
            wrong = [(name, part.get_dtype()) for name, part in parts.items() if part.get_dtype() not in FLOATS]
            shapes = {name: tuple(part.get_shape()) for name, part in parts.items()}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is corrupt or incomplete ({error}); get it again") from None
    wrong = [(name, dtype) for name, dtype in wrong if not name.endswith((".attn.bias", ".attn.masked_bias"))]
    if wrong:
        raise ValueError(f"{path} stores {wrong[0][0]} as {wrong[0][1]}; {', '.join(FLOATS)} can be loaded")
    return shapes, metadata


FLOATS = ("F64", "F32", "F16", "BF16")


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; give a folder in Hugging Face's layout")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; it must hold an object")
    return content


def _act(name: Any, where: Path) -> str:
    known = {"gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{where} says activation_function {name!r}; {', '.join(known)} can be loaded")
    return known[name]
