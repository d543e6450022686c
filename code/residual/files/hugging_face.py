"""Folders in Hugging Face's layout: config.json beside safetensors, of GPT-2 or a Llama.

Tensors are found by the ends of their names, since tools put something before them: ``model.`` or ``transformer.``
where a head was put on the model, ``module.`` where it was trained in parallel, ``_orig_mod.`` where it was compiled.
Of tensors that share their numbers, ``safetensors.torch.save_model`` writes one, and the other's name as metadata.
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
    """The model in a folder with ``config.json`` and safetensors.

    Raises:
        FileNotFoundError, ValueError: see ``pretrained.load``.
    """
    said = _json(folder / "config.json")
    family = said.get("model_type")
    if family not in ("gpt2", "llama"):
        raise ValueError(f"{folder / 'config.json'} says model_type {family!r}; gpt2 and llama can be loaded")
    config = _gpt2_config(said, folder) if family == "gpt2" else _llama_config(said, folder)
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
        biases = {"attention": said.get("attention_bias"), "mlp": said.get("mlp_bias")}
        pieces = lambda: llama_pieces(config, names, lambda part: bool(biases[part]))  # noqa: E731
    if config.tied and head in stored:
        ignored += (head,)
        stored.setdefault(embedding, stored[head])
        if stored[embedding] != stored[head]:
            one, other = (read(name).nan_to_num() for name in (embedding, head))
            if not torch.equal(one, other):
                raise ValueError(
                    f"{folder / 'config.json'} says that the embedding is the unembedding too, but {embedding} and "
                    f"{head} differ; if they were trained apart, it has to say tie_word_embeddings false"
                )
    return Stored(folder, config, {name: place.shape for name, place in stored.items()}, read, pieces, ignored)


class Place(NamedTuple):
    """Where a tensor lies: its file, its name there, and its shape."""

    file: Path
    name: str
    shape: tuple[int, ...]


WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch puts into names, anywhere, for modules that it compiles, shards or recomputes."""


def _stored(files: list[Path]) -> dict[str, Place]:
    """The tensors of the files by their names without wrappers; one stored for two under both names."""
    found: dict[str, Place] = {}
    for file in files:
        shapes, metadata = _safetensors_shapes(file)
        places = {name: Place(file, name, shape) for name, shape in shapes.items()}
        shared = {name: places[kept] for name, kept in metadata.items() if kept in places and name not in places}
        for name, place in (places | shared).items():
            plain = WRAPPERS.sub("", name)
            if plain in found:
                raise ValueError(f"{file} has {name}, and {plain} is there already, in {found[plain].file}")
            found[plain] = place
    return found


def _before(names: Iterable[str], end: str, usual: str, folder: Path) -> str:
    """What stands before the names of the model's own tensors, ``usual`` where the one that ends so is missing."""
    prefixes = sorted({name.removesuffix(end) for name in names if f".{name}".endswith(f".{end}")})
    if len(prefixes) > 1:
        raise ValueError(
            f"{folder} holds {len(prefixes)} models, {' and '.join(map(repr, prefixes))}; keep one of them"
        )
    return prefixes[0] if prefixes else usual


def _head(names: Iterable[str]) -> str:
    """The name of the unembedding, whatever stands before it."""
    return min((name for name in names if f".{name}".endswith(".lm_head.weight")), default="lm_head.weight")


def _gpt2_config(said: Mapping[str, Any], folder: Path) -> Config:
    where = folder / "config.json"
    for name, needed in dict(
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
    ).items():
        if said.get(name, needed) != needed:
            raise ValueError(f"{where} says {name} {said[name]!r}; only {needed!r} can be loaded")
    d_model, n_heads = whole_number(said, "n_embd", where), whole_number(said, "n_head", where)
    return make_config(
        where,
        n_layers=whole_number(said, "n_layer", where),
        d_model=d_model,
        n_heads=n_heads,
        d_head=split_evenly(d_model, n_heads, where),
        n_ctx=whole_number(said, "n_positions", where),
        d_vocab=whole_number(said, "vocab_size", where),
        d_mlp=4 * d_model if said.get("n_inner") is None else whole_number(said, "n_inner", where),
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
    d_model, n_heads = whole_number(said, "hidden_size", where), whole_number(said, "num_attention_heads", where)
    return make_config(
        where,
        n_layers=whole_number(said, "num_hidden_layers", where),
        d_model=d_model,
        n_heads=n_heads,
        d_head=said.get("head_dim") or split_evenly(d_model, n_heads, where),
        n_kv_heads=said.get("num_key_value_heads") or n_heads,
        n_ctx=whole_number(said, "max_position_embeddings", where),
        d_vocab=whole_number(said, "vocab_size", where),
        positions="rotary",
        rotary_base=rope.get("rope_theta", said.get("rope_theta", 10000.0)),
        d_mlp=whole_number(said, "intermediate_size", where),
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


def _safetensors_shapes(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes and metadata of a file. The package checks all lengths against the file's own."""
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
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; it must hold an object")
    return found


def _act(name: Any, where: Path) -> str:
    known = {"gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{where} says activation_function {name!r}; {', '.join(known)} can be loaded")
    return known[name]
