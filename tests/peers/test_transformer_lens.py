"""Our models match TransformerLens 3.9: every activation, logits, gradients and greedy text.

It is the last version with `HookedTransformer`, whose names for activations the field uses.
"""

import warnings

import pytest
import torch
import torch.nn.functional as F

from residual import Config, Transformer
from residual.taps import record

transformer_lens = pytest.importorskip(
    "transformer_lens", reason="transformer-lens is not installed here; `make test-peers` installs it and compares"
)
if not hasattr(transformer_lens, "HookedTransformer"):
    pytest.skip("this transformer-lens has no HookedTransformer; 3.9 is the last that does", allow_module_level=True)

SMALL = dict(n_layers=2, d_model=24, n_heads=3, d_head=6, n_ctx=16, d_vocab=40)
GPT2 = dict(**SMALL, norm="layer", d_mlp=52, act="gelu_new", bias=True)
MODELS = {
    "attention-only": Config(**SMALL),
    "attention-only, shortformer": Config(**SMALL, positions="shortformer"),
    "attention-only, no layers": Config(**SMALL | dict(n_layers=0)),
    "attention-only, bidirectional": Config(**SMALL, causal=False),
    "gpt2": Config(**GPT2),
    "gpt2, tied": Config(**GPT2, tied=True),
    "gpt2, exact gelu": Config(**GPT2 | dict(act="gelu")),
    "gpt2, relu, no biases": Config(**GPT2 | dict(act="relu", bias=False)),
}
# our names and theirs for the same activation, inside a block and at the model's ends
ENDS = {"embed": "hook_embed", "pos_embed": "hook_pos_embed"}
INSIDE = {
    "attn.q": "attn.hook_q",
    "attn.k": "attn.hook_k",
    "attn.v": "attn.hook_v",
    "attn.scores": "attn.hook_attn_scores",
    "attn.pattern": "attn.hook_pattern",
    "attn.z": "attn.hook_z",
    "attn.result": "attn.hook_result",
    "attn_out": "hook_attn_out",
    "mlp.in": "hook_resid_mid",  # the same numbers; their hook_mlp_in exists only if switched on
    "mlp.pre": "mlp.hook_pre",
    "mlp.post": "mlp.hook_post",
    "mlp_out": "hook_mlp_out",
    **{f"resid_{where}": f"hook_resid_{where}" for where in ("pre", "mid", "post")},
}
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


def peer_name(name: str) -> str:
    """Return TransformerLens' name of our activation."""
    if name in ENDS:
        return ENDS[name]
    if name.endswith((".scale", ".normalized")):
        part, _, kind = name.rpartition(".")
        return f"{part}.hook_{kind}"
    blocks, layer, inner = name.split(".", 2)
    return f"{blocks}.{layer}.{INSIDE[inner]}"


def pair(config: Config, dtype: torch.dtype):
    """Return our model and theirs with the same random weights; none is zero, including biases."""
    ours = Transformer(config).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in ours.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=dtype) * 0.3)
    theirs = transformer_lens.HookedTransformer(
        transformer_lens.HookedTransformerConfig(
            n_layers=config.n_layers,
            d_model=config.d_model,
            n_heads=config.n_heads,
            d_head=config.d_head,
            n_ctx=config.n_ctx,
            d_vocab=config.d_vocab,
            attn_only=not config.d_mlp,
            d_mlp=config.d_mlp or None,
            act_fn=config.act if config.d_mlp else None,
            normalization_type="LN" if config.norm == "layer" else None,
            positional_embedding_type="shortformer" if config.positions == "shortformer" else "standard",
            attention_dir="causal" if config.causal else "bidirectional",
            use_attn_result=True,
            default_prepend_bos=False,
            device="cpu",
            dtype=dtype,
        )
    )
    weights = {"embed.W_E": ours.W_E, "pos_embed.W_pos": ours.W_pos, "unembed.W_U": ours.W_U}
    if ours.b_U is not None:
        weights["unembed.b_U"] = ours.b_U
    norms = {"ln_final": ours.ln_final}
    for layer, block in enumerate(ours.blocks):
        at = f"blocks.{layer}"
        norms |= {f"{at}.ln1": block.ln1, f"{at}.ln2": block.ln2}
        for part, names in (("attn", "W_Q W_K W_V W_O b_Q b_K b_V b_O"), ("mlp", "W_in W_out b_in b_out")):
            for name in names.split():
                if (weight := getattr(getattr(block, part), name, None)) is not None:
                    weights[f"{at}.{part}.{name}"] = weight
    for name, norm in norms.items():
        if norm is not None and norm.w is not None:
            weights |= {f"{name}.w": norm.w, f"{name}.b": norm.b}
    # missing keys are biases that our model does not have
    zeros = {name: torch.zeros_like(weight) for name, weight in theirs.state_dict().items() if ".b" in name}
    theirs.load_state_dict({**zeros, **{name: weight.detach() for name, weight in weights.items()}}, strict=False)
    assert set(weights) <= set(theirs.state_dict())
    return ours, theirs


def tokens(config: Config, rows: int = 3, length: int = 0) -> torch.Tensor:
    shape = (rows, length or config.n_ctx)
    return torch.randint(config.d_vocab, shape, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TransformerLens warns that HookedTransformer is deprecated
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_every_activation_are_those_of_transformer_lens(name: str, dtype: torch.dtype) -> None:
    ours, theirs = pair(MODELS[name], dtype)
    given = tokens(ours.config)
    seen = record()
    logits = ours(given, tap=seen)
    expected, cache = theirs.run_with_cache(given, return_type="logits")
    assert expected.std() > 0.3  # agreement on near-constant logits would prove nothing
    assert (logits - expected).abs().max() < TOLERANCE[dtype]
    assert (ours(given) - expected).abs().max() < TOLERANCE[dtype]  # the path that stores nothing
    assert set(seen) == set(ours.activation_names)
    for activation, value in seen.items():
        other = cache[peer_name(activation)]
        finite = torch.isfinite(value) & (other > -1e30)  # masked scores: -inf
        if activation == "pos_embed":
            other = other.expand_as(value)
        assert value.shape == other.shape, activation
        assert (value - other)[finite].abs().max() < TOLERANCE[dtype], activation


def test_our_names_cover_their_activations() -> None:
    """All that they record by default exists here, except duplicates under other names."""
    ours, theirs = pair(MODELS["gpt2"], torch.float64)
    _, cache = theirs.run_with_cache(tokens(ours.config))
    repeats = {"hook_in", "hook_out", "hook_attn_in", "hook_mlp_in", "hook_q_input", "hook_k_input", "hook_v_input"}
    theirs_only = set(cache.keys()) - {peer_name(name) for name in ours.activation_names}
    assert {name.rpartition(".")[2] for name in theirs_only} <= repeats


@pytest.mark.parametrize("name", ["attention-only", "gpt2"])
def test_gradients_are_those_of_transformer_lens(name: str) -> None:
    ours, theirs = pair(MODELS[name], torch.float64)
    given = tokens(ours.config)
    F.cross_entropy(ours(given[:, :-1]).flatten(0, 1), given[:, 1:].flatten()).backward()
    theirs(given, return_type="loss").backward()
    n_heads = ours.config.n_heads
    for mine, other in zip(ours.blocks, theirs.blocks, strict=True):
        assert (mine.attn.W_QKV.grad[:n_heads].mT - other.attn.W_Q.grad).abs().max() < 1e-9
        assert (mine.attn.W_O.grad - other.attn.W_O.grad).abs().max() < 1e-9
    assert (ours.W_E.grad - theirs.embed.W_E.grad).abs().max() < 1e-9
    assert ours.W_E.grad.abs().max() > 1e-3
