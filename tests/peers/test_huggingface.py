"""Our models match Hugging Face's GPT-2 and Llama with the same random weights, and read their files."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from residual import Config, Transformer
from residual.files.pretrained import load
from residual.sampling import generate

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed here; `make test-peers` installs it and compares"
)

SLOW = dict(rope_type="default", rope_theta=1e6)
D, HEADS, KV_HEADS, D_HEAD, D_MLP, CTX, VOCAB = 24, 4, 2, 6, 40, 32, 50


def gpt2(dtype: torch.dtype, **changes):
    config = transformers.GPT2Config(
        n_layer=3, n_embd=D, n_head=HEADS, n_positions=CTX, vocab_size=VOCAB, bos_token_id=0, eos_token_id=0, **changes
    )
    return randomise(transformers.GPT2LMHeadModel(config), dtype)


def llama(dtype: torch.dtype, **changes):
    settings = dict(
        num_hidden_layers=3,
        hidden_size=D,
        intermediate_size=D_MLP,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=CTX,
        vocab_size=VOCAB,
        bos_token_id=0,
        eos_token_id=0,
    )
    return randomise(transformers.LlamaForCausalLM(transformers.LlamaConfig(**(settings | changes))), dtype)


MODELS = {
    "gpt2": (gpt2, {}),
    "gpt2, own unembedding": (gpt2, dict(tie_word_embeddings=False)),
    "gpt2, exact gelu": (gpt2, dict(activation_function="gelu")),
    "gpt2, relu, wide": (gpt2, dict(activation_function="relu", n_inner=100)),
    "llama": (llama, {}),
    "llama, tied": (llama, dict(tie_word_embeddings=True)),
    "llama, all heads, eps": (llama, dict(num_key_value_heads=HEADS, rms_norm_eps=1e-3)),
    "llama, one key head": (llama, dict(num_key_value_heads=1)),
    "llama, wide heads, slow clocks": (
        llama,
        dict(head_dim=10, rope_parameters=dict(rope_type="default", rope_theta=1e6)),
    ),
}


def randomise(model, dtype: torch.dtype):
    """Fill every parameter with random numbers, so that none is zero or one, including biases and norms."""
    model = model.to(dtype).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=dtype) * 0.3)
    return model


class _Double:
    """The module `torch`, with single precision replaced by double."""

    def __getattr__(self, name: str):
        return getattr(torch, {"float": "double", "float32": "float64"}.get(name, name))


@pytest.fixture
def all_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run Hugging Face's own code in float64 throughout.

    Their Llama computes its angles and its RMSNorm in float32 even in a float64 model, which leaves 1e-7 of noise.
    """
    monkeypatch.setattr(transformers.models.llama.modeling_llama, "torch", _Double())
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def tokens(rows: int = 3) -> Tensor:
    return torch.randint(VOCAB, (rows, CTX), generator=torch.Generator().manual_seed(2))


def ours_of(theirs) -> Transformer:
    """Return our model with their weights, copied by hand, sharing no code with `residual.files.pretrained`."""
    c, weights = theirs.config, {name: weight.detach() for name, weight in theirs.state_dict().items()}
    is_llama = c.model_type == "llama"
    n_kv = c.num_key_value_heads if is_llama else c.n_head
    d_head = (c.head_dim if is_llama and c.head_dim else None) or c.hidden_size // c.num_attention_heads
    shared = dict(
        n_layers=c.num_hidden_layers,
        d_model=c.hidden_size,
        n_heads=c.num_attention_heads,
        d_head=d_head,
        n_ctx=c.max_position_embeddings,
        d_vocab=c.vocab_size,
        tied=c.tie_word_embeddings,
    )
    if is_llama:
        config = Config(
            **shared,
            d_mlp=c.intermediate_size,
            act="swiglu",
            norm="rms",
            norm_eps=c.rms_norm_eps,
            n_kv_heads=n_kv,
            positions="rotary",
            rotary_base=c.rope_parameters["rope_theta"],
        )
    else:
        config = Config(
            **shared,
            d_mlp=c.n_inner or 4 * c.n_embd,
            act=c.activation_function,
            norm="layer",
            norm_eps=c.layer_norm_epsilon,
            bias=True,
        )
    ours = Transformer(config).to(theirs.dtype)

    def heads(weight: Tensor) -> Tensor:  # (head d_head) d_model -> head d_head d_model
        return weight.unflatten(0, (-1, d_head))

    def fill(**given: Tensor) -> None:
        for name, weight in given.items():
            target = ours.get_parameter(name.replace("__", "."))
            assert target.shape == weight.shape, name
            target.data.copy_(weight)

    for layer in range(config.n_layers):
        b = f"blocks__{layer}__"
        if is_llama:
            w = {name: weights[f"model.layers.{layer}.{name}.weight"] for name in LLAMA}
            qkv = [heads(w[f"self_attn.{part}_proj"]) for part in "qkv"]
            given = {
                "ln1__w": w["input_layernorm"],
                "ln2__w": w["post_attention_layernorm"],
                "attn__W_O": heads(w["self_attn.o_proj"].T),
                "mlp__W_in": w["mlp.up_proj"].T,
                "mlp__W_gate": w["mlp.gate_proj"].T,
                "mlp__W_out": w["mlp.down_proj"].T,
            }
            given["attn__W_QKV"] = torch.cat(qkv)
        else:
            w = {name: weights[f"transformer.h.{layer}.{name}"] for name in GPT2}
            given = {
                "ln1__w": w["ln_1.weight"],
                "ln1__b": w["ln_1.bias"],
                "ln2__w": w["ln_2.weight"],
                "ln2__b": w["ln_2.bias"],
                "attn__W_QKV": heads(w["attn.c_attn.weight"].T),  # their Conv1D multiplies from the right, as we do
                "attn__b_QKV": heads(w["attn.c_attn.bias"]),
                "attn__W_O": heads(w["attn.c_proj.weight"]),
                "attn__b_O": w["attn.c_proj.bias"],
                "mlp__W_in": w["mlp.c_fc.weight"],
                "mlp__b_in": w["mlp.c_fc.bias"],
                "mlp__W_out": w["mlp.c_proj.weight"],
                "mlp__b_out": w["mlp.c_proj.bias"],
            }
        fill(**{b + name: weight for name, weight in given.items()})
    if is_llama:
        fill(W_E=weights["model.embed_tokens.weight"], ln_final__w=weights["model.norm.weight"])
    else:
        fill(W_E=weights["transformer.wte.weight"], W_pos=weights["transformer.wpe.weight"])
        fill(ln_final__w=weights["transformer.ln_f.weight"], ln_final__b=weights["transformer.ln_f.bias"])
    if not config.tied:
        fill(W_U=weights["lm_head.weight"].T)
    return ours


LLAMA = ["input_layernorm", "post_attention_layernorm"]
LLAMA += [f"self_attn.{part}_proj" for part in "qkvo"] + [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
GPT2 = [f"{part}.{kind}" for part in ("ln_1", "ln_2") for kind in ("weight", "bias")]
GPT2 += [
    f"{part}.{kind}" for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj") for kind in ("weight", "bias")
]


def compared(name: str, dtype: torch.dtype) -> float:
    """Return the largest difference between any two logits."""
    make, changes = MODELS[name]
    theirs = make(dtype, **changes)
    with torch.no_grad():
        expected = theirs(tokens()).logits
        assert expected.std() > 0.3  # agreement on near-constant logits would prove nothing
        return (ours_of(theirs)(tokens()) - expected).abs().max().item()


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_hugging_face(name: str) -> None:
    assert compared(name, torch.float32) < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_hugging_face_in_float64(name: str, all_double: None) -> None:
    assert compared(name, torch.float64) < 1e-9


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_that_hugging_face_saved_loads(name: str, tmp_path: Path) -> None:
    make, changes = MODELS[name]
    theirs = make(torch.float32, **changes)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1  # check shards too
    ours = load(tmp_path)
    with torch.no_grad():
        assert (ours(tokens()) - theirs(tokens()).logits).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_greedy_text_is_that_of_hugging_face(name: str) -> None:
    make, changes = MODELS[name]
    theirs = make(torch.float32, **changes)
    prompt = tokens()[:, :7]
    theirs.generation_config.eos_token_id = None  # any token may come, and the text goes on
    text = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, do_sample=False)
    assert text.shape == (3, 27) and torch.equal(generate(ours_of(theirs), prompt, 20), text)


def test_a_rotary_scaling_that_ours_does_not_have_is_refused(tmp_path: Path) -> None:
    stretched = dict(rope_type="linear", factor=2.0, rope_theta=10000.0)
    llama(torch.float32, rope_parameters=stretched).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="of type 'linear'"):
        load(tmp_path)
