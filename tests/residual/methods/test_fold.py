"""Weights that change without changing the function: folding, centering, rotating."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from residual import Config, Transformer
from residual.methods.fold import center, center_unembedding, fold_layernorm, fold_value_bias, rotate
from residual.taps import record

theorem = settings(deadline=None, max_examples=15)
seeds = st.integers(0, 2**31 - 1)


@st.composite
def models(draw, norms=("none", "layer", "rms"), positions=("learned", "rotary", "none")):
    config = Config(
        n_layers=draw(st.integers(0, 2)),
        d_model=6,
        n_heads=4,
        d_head=2,
        n_ctx=5,
        d_vocab=7,
        init_std=0.7,
        d_mlp=draw(st.sampled_from([0, 5])),
        act=draw(st.sampled_from(["relu", "gelu", "gelu_new", "swiglu"])),
        norm=draw(st.sampled_from(norms)),
        positions=draw(st.sampled_from(positions)),
        n_kv_heads=draw(st.sampled_from([None, 2])),
        bias=draw(st.booleans()),
        tied=draw(st.booleans()),
        causal=draw(st.booleans()),
        smeared_keys=draw(st.booleans()),
    )
    seed = draw(seeds)
    model = Transformer(config, seed=seed).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():  # move biases and norms away from their initial values
        weight.add_(0.3 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return model


def tokens_of(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.d_vocab, (3, model.config.n_ctx), generator=generator)


def orthogonal(seed, size=6):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def same_probabilities(first, second):
    tokens = tokens_of(first)
    assert_close(first(tokens).log_softmax(-1), second(tokens).log_softmax(-1), atol=1e-9, rtol=1e-10)


@theorem
@given(models())
def test_folding_leaves_the_logits_unchanged(model):
    before = [weight.clone() for weight in model.parameters()]
    folded = fold_layernorm(model)
    assert_close(folded(tokens_of(model)), model(tokens_of(model)), atol=1e-9, rtol=1e-10)
    for name, weight in folded.named_parameters():
        if ".ln" in f".{name}":
            assert (weight == (1 if name.endswith("w") else 0)).all(), name
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)), "the old model is unchanged"


@theorem
@given(models())
def test_folding_the_value_bias_leaves_the_logits_unchanged(model):
    folded = fold_value_bias(model)
    assert_close(folded(tokens_of(model)), model(tokens_of(model)), atol=1e-9, rtol=1e-10)
    assert all(block.attn.b_V is None or not block.attn.b_V.any() for block in folded.blocks)


@theorem
@given(models(norms=["layer"]), st.booleans())
def test_centering_keeps_log_probabilities_and_removes_the_mean(model, fold_first):
    model = fold_layernorm(model) if fold_first else model
    centred, seen = center(model), record("*")
    same_probabilities(model, centred)
    logits = centred(tokens_of(model), tap=seen)
    for name in [f"blocks.{layer}.resid_post" for layer in range(model.config.n_layers)] or ["embed"]:
        assert seen[name].mean(dim=-1).abs().max() < 1e-12
    if fold_first:  # (otherwise the final norm's shift adds a constant to each token's logit)
        assert logits.mean(dim=-1).abs().max() < 1e-10
    same_probabilities(fold_layernorm(centred), fold_layernorm(model))


@theorem
@given(models())
def test_centering_the_unembedding_keeps_log_probabilities(model):
    centred = center_unembedding(model)
    same_probabilities(model, centred)
    assert centred(tokens_of(model)).mean(dim=-1).abs().max() < 1e-10


@theorem
@given(models(norms=["none"], positions=["learned", "rotary", "none", "shortformer"]), seeds)
def test_a_rotated_stream_gives_the_same_logits(model, seed):
    """Without norms no folding is needed, with or without MLPs."""
    Q, tokens = orthogonal(seed), tokens_of(model)
    turned, before, after = rotate(model, Q), record("*resid_post"), record("*resid_post")
    if model.config.n_layers:
        assert_close(turned(tokens, tap=after), model(tokens, tap=before), atol=1e-9, rtol=1e-10)
        for name in before:
            assert_close(after[name], before[name] @ Q, atol=1e-9, rtol=1e-10)
    assert_close(turned(tokens), model(tokens), atol=1e-9, rtol=1e-10)


@theorem
@given(models(norms=["rms"]), seeds)
def test_rotation_is_exact_with_folded_rmsnorm(model, seed):
    with pytest.raises(ValueError, match="fold_layernorm first"):
        rotate(model, orthogonal(seed))
    same_probabilities(model, rotate(fold_layernorm(model), orthogonal(seed)))


@theorem
@given(models(norms=["layer"]), seeds)
def test_rotation_is_exact_with_folded_and_centered_layernorm(model, seed):
    folded, Q = fold_layernorm(model), orthogonal(seed)
    with pytest.raises(ValueError, match="center first"):
        rotate(folded, Q)
    turned = rotate(center(folded), Q)
    assert turned.config.norm == "rms"
    same_probabilities(model, turned)


def test_impossible_changes_are_readable_errors():
    for norm, says in [("rms", "RMSNorm, which does not subtract the mean"), ("none", "no LayerNorm")]:
        with pytest.raises(ValueError, match=says):
            center(Transformer(Config(1, 6, 2, 3, 5, 7, norm=norm)))
    with pytest.raises(ValueError, match="shortformer"):
        fold_layernorm(Transformer(Config(1, 6, 2, 3, 5, 7, norm="rms", positions="shortformer")))
    with pytest.raises(ValueError, match=r"Q has shape \[5, 5\]; it must be orthogonal, 6 × 6"):
        rotate(Transformer(Config(1, 6, 2, 3, 5, 7)), torch.eye(5))
    with pytest.raises(ValueError, match="must be orthogonal"):
        rotate(Transformer(Config(1, 6, 2, 3, 5, 7)), torch.ones(6, 6))


def test_centering_an_rms_model_by_hand_would_change_it():
    """The reason for ``center`` to refuse: a model with RMSNorm reads the mean."""
    model = Transformer(Config(1, 6, 2, 3, 5, 7, norm="rms", init_std=0.7)).double().requires_grad_(False)
    tokens, before = tokens_of(model), model(tokens_of(model)).log_softmax(-1)
    model.W_E -= model.W_E.mean(dim=-1, keepdim=True)
    assert (model(tokens).log_softmax(-1) - before).abs().max() > 0.01


@pytest.mark.parametrize("change", [fold_layernorm, center, center_unembedding, fold_value_bias])
def test_changed_models_keep_their_vocabulary(change):
    model = Transformer(Config(1, 6, 2, 3, 5, 7, norm="layer", bias=True))
    model.vocabulary = frozenset("abc")  # any value that a copy keeps
    assert change(model).vocabulary == model.vocabulary
