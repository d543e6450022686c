"""The model against a transformer written with plain loops, and against what the mathematics says of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual import Config, Transformer
from residual.taps import at, compose, freeze, record

# ---- The oracle: numpy, a loop for every index, and nothing shared with the library but the weights


def attention(x, W_Q, W_K, W_V, W_O):
    """One layer of causal attention on ``x [pos d_model]``.

    Returns what the layer writes ``[pos d_model]``, and where it looked ``[head query key]``.
    """
    n_pos, d_model = x.shape
    n_heads, _, d_head = W_Q.shape
    out = np.zeros((n_pos, d_model))
    pattern = np.zeros((n_heads, n_pos, n_pos))
    for head in range(n_heads):
        for query in range(n_pos):
            q = [sum(x[query, m] * W_Q[head, m, d] for m in range(d_model)) for d in range(d_head)]
            weights = []
            for key in range(query + 1):
                k = [sum(x[key, m] * W_K[head, m, d] for m in range(d_model)) for d in range(d_head)]
                weights.append(math.exp(sum(a * b for a, b in zip(q, k, strict=True)) / math.sqrt(d_head)))
            for key in range(query + 1):
                pattern[head, query, key] = weights[key] / sum(weights)
                v = [sum(x[key, m] * W_V[head, m, d] for m in range(d_model)) for d in range(d_head)]
                for m in range(d_model):
                    moved = sum(v[d] * W_O[head, d, m] for d in range(d_head))
                    out[query, m] += pattern[head, query, key] * moved
    return out, pattern


def transformer(tokens, weights):
    """Logits ``[pos d_vocab]`` of a list of tokens."""
    x = np.array([weights["W_E"][token] for token in tokens])
    if weights["W_pos"] is not None:
        x = x + weights["W_pos"][: len(tokens)]
    for layer in weights["layers"]:
        x = x + attention(x, *layer)[0]
    return x @ weights["W_U"]


def weights_of(model):
    """A model's weights, as numpy arrays."""

    def array(tensor):
        return None if tensor is None else tensor.detach().numpy().copy()

    layers = [tuple(map(array, (b.attn.W_Q, b.attn.W_K, b.attn.W_V, b.attn.W_O))) for b in model.blocks]
    return dict(W_E=array(model.W_E), W_pos=array(model.W_pos), W_U=array(model.W_U), layers=layers)


# ---- Models small enough for the oracle, with weights large enough for patterns far from uniform


@st.composite
def models(draw, max_layers=2):
    config = Config(
        n_layers=draw(st.integers(0, max_layers)),
        d_model=draw(st.integers(1, 6)),
        n_heads=draw(st.integers(1, 3)),
        d_head=draw(st.integers(1, 4)),
        n_ctx=6,
        d_vocab=7,
        positions=draw(st.sampled_from(["learned", "none"])),
        init_std=0.8,
    )
    return Transformer(config, seed=draw(st.integers(0, 2**32 - 1))).double()


def tokens_for(model, batch=2):
    c = model.config
    generator = torch.Generator().manual_seed(c.d_model)
    return torch.randint(c.d_vocab, (batch, c.n_ctx), generator=generator)


def everything(name, x):
    """A plain function: it does not say what it wants, so it is shown everything."""
    return x


@settings(max_examples=25, deadline=None)
@given(models())
def test_model_equals_plain_loops(model):
    tokens = tokens_for(model, batch=1)
    expected = transformer(tokens[0].tolist(), weights_of(model))
    np.testing.assert_allclose(model(tokens)[0].detach().numpy(), expected, atol=1e-9, rtol=1e-9)


@settings(max_examples=15, deadline=None)
@given(models().filter(lambda model: model.config.n_layers > 0))
def test_pattern_equals_plain_loops(model):
    seen = record("blocks.0.attn.pattern")
    tokens = tokens_for(model, batch=1)
    model(tokens, tap=seen)
    weights = weights_of(model)
    x = weights["W_E"][tokens[0].numpy()]
    if weights["W_pos"] is not None:
        x = x + weights["W_pos"][: tokens.shape[1]]
    _, expected = attention(x, *weights["layers"][0])
    np.testing.assert_allclose(seen["blocks.0.attn.pattern"][0].detach().numpy(), expected, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(models())
def test_tapped_equals_fast_path(model):
    """Every subset of the activations may be asked for; the logits are those of the fused kernels."""
    tokens = tokens_for(model)
    logits = model(tokens)
    for names in [[name] for name in model.activation_names] + [model.activation_names]:
        torch.testing.assert_close(model(tokens, tap=record(names)), logits, atol=1e-12, rtol=1e-9)


@settings(max_examples=20, deadline=None)
@given(models())
def test_a_tap_that_returns_its_input_changes_not_one_bit(model):
    tokens = tokens_for(model)
    for name in model.activation_names:
        watched = model(tokens, tap=record(name))
        assert torch.equal(model(tokens, tap=at(name, lambda x: x)), watched)
        assert torch.equal(model(tokens, tap=at(name, torch.clone)), watched)


@settings(max_examples=25, deadline=None)
@given(models())
def test_the_listed_names_are_the_names_seen(model):
    """In order, each once, with the shape that the papers give it."""
    order = []
    model(tokens_for(model), tap=lambda name, x: order.append(name) or x)
    assert order == model.activation_names
    seen = record()
    model(tokens_for(model), tap=seen)
    c = model.config
    batch, pos = 2, c.n_ctx
    shapes = {
        **dict.fromkeys("qkvz", (batch, pos, c.n_heads, c.d_head)),
        **dict.fromkeys(["scores", "pattern"], (batch, c.n_heads, pos, pos)),
        "result": (batch, pos, c.n_heads, c.d_model),
    }
    for name, x in seen.items():
        assert tuple(x.shape) == shapes.get(name.split(".")[-1], (batch, pos, c.d_model)), name


@pytest.mark.parametrize(
    "names, fused",
    [([], 2), (["embed", "*.z", "*.q", "*.resid_pre"], 2), (["blocks.1.attn.pattern"], 1), (["*.scores"], 0)],
)
def test_only_what_is_asked_for_is_materialised(names, fused, monkeypatch):
    """A layer of which nobody asks the pattern goes through the fused kernel, which never has one."""
    calls = []
    kernel = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or kernel(*a, **k)
    )
    small()(torch.tensor([[1, 2, 3]]), tap=record(names))
    assert len(calls) == fused


@settings(max_examples=25, deadline=None)
@given(models())
def test_residual_stream_is_the_sum_of_what_was_written(model):
    seen = record()
    logits = model(tokens_for(model), tap=seen)
    written = [x for name, x in seen.items() if name in ("embed", "pos_embed") or name.endswith("attn_out")]
    torch.testing.assert_close(sum(written) @ model.W_U, logits)
    for layer in range(model.config.n_layers):
        here = f"blocks.{layer}."
        torch.testing.assert_close(seen[here + "attn.result"].sum(-2), seen[here + "attn_out"])
        torch.testing.assert_close(seen[here + "resid_pre"] + seen[here + "attn_out"], seen[here + "resid_post"])


@settings(max_examples=25, deadline=None)
@given(models().filter(lambda model: model.config.n_layers > 0))
def test_a_layer_is_the_sum_over_heads_of_pattern_and_OV(model):
    """``Σ_h A^h x W_V^h W_O^h``, multiplied out with materialised matrices."""
    seen = record()
    model(tokens_for(model), tap=seen)
    for layer, block in enumerate(model.blocks):
        here = f"blocks.{layer}."
        pattern, x = seen[here + "attn.pattern"], seen[here + "resid_pre"]
        expanded = sum(pattern[:, h] @ x @ (block.attn.W_V[h] @ block.attn.W_O[h]) for h in range(model.config.n_heads))
        torch.testing.assert_close(expanded, seen[here + "attn_out"])


@settings(max_examples=25, deadline=None)
@given(models().filter(lambda model: model.config.n_layers > 0))
def test_scores_are_the_bilinear_form_QK(model):
    """``x_i W_QK x_jᵀ / √d_head`` on and below the diagonal; nothing above it."""
    seen = record()
    model(tokens_for(model), tap=seen)
    for layer, block in enumerate(model.blocks):
        x, scores = seen[f"blocks.{layer}.resid_pre"], seen[f"blocks.{layer}.attn.scores"]
        for h in range(model.config.n_heads):
            bilinear = x @ block.attn.W_QK(h).AB @ x.mT / math.sqrt(model.config.d_head)
            torch.testing.assert_close(scores[:, h].tril(), bilinear.tril())
            future = torch.ones_like(scores[0, h], dtype=torch.bool).triu(1)
            assert (scores[:, h][:, future] == -torch.inf).all()


@settings(max_examples=25, deadline=None)
@given(models(max_layers=3), st.floats(-3, 3))
def test_with_frozen_patterns_the_model_is_linear(model, scale):
    """Freeze where every head looks, and the logits are a linear function of the embeddings."""
    tokens = tokens_for(model)
    seen = record("blocks.*.attn.pattern") if model.config.n_layers else record("embed")
    model(tokens, tap=seen)
    patterns = {name: x for name, x in seen.items() if name.endswith("pattern")}
    generator = torch.Generator().manual_seed(1)
    shape = (*tokens.shape, model.config.d_model)
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))

    def frozen(stream):
        no_positions = [at("pos_embed", torch.zeros_like)] if model.W_pos is not None else []
        return model(tokens, tap=compose(freeze(patterns), at("embed", lambda _: stream), *no_positions))

    torch.testing.assert_close(frozen(a + scale * b), frozen(a) + scale * frozen(b), atol=1e-8, rtol=1e-8)


def test_without_freezing_a_layer_is_not_linear():
    """The test above would pass for a model that ignored its patterns; this one would not."""
    model = Transformer(Config(1, 6, 2, 3, 6, 7, "none", init_std=0.8)).double()
    tokens = tokens_for(model)
    seen = record("embed")
    once = model(tokens, tap=seen)
    twice = model(tokens, tap=at("embed", lambda x: 2 * x))
    assert (twice - 2 * once).abs().max() > 0.01


@settings(max_examples=25, deadline=None)
@given(models())
def test_no_position_sees_a_later_token(model):
    tokens = tokens_for(model)
    logits = model(tokens)
    changed = tokens.clone()
    changed[:, 3:] = (changed[:, 3:] + 1) % model.config.d_vocab
    torch.testing.assert_close(model(changed)[:, :3], logits[:, :3])
    torch.testing.assert_close(model(tokens[:, :3]), logits[:, :3])


def test_gradients_flow_through_taps():
    """The derivative of a logit by a recorded activation, against a difference quotient through a patch."""
    model = Transformer(Config(2, 6, 2, 3, 6, 7, init_std=0.8)).double()
    tokens = tokens_for(model, batch=1)
    name = "blocks.0.attn.z"
    seen = record(name)
    logit = model(tokens, tap=seen)[0, -1, 2]
    (gradient,) = torch.autograd.grad(logit, seen[name])
    step = torch.zeros_like(seen[name])
    step[0, 1, 1, 2] = 1e-6

    def moved(sign):
        return model(tokens, tap=at(name, lambda x: x + sign * step))[0, -1, 2]

    assert gradient[0, 1, 1, 2].item() != 0
    torch.testing.assert_close((moved(1) - moved(-1)) / 2e-6, gradient[0, 1, 1, 2], atol=1e-8, rtol=1e-6)


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one, other = Transformer(Config(), seed=3), Transformer(Config(), seed=4)
    assert torch.equal(torch.random.get_rng_state(), before), "building a model must not touch the global generator"
    torch.manual_seed(2)
    again = Transformer(Config(), seed=3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.W_E, other.W_E)


def test_head_weights_can_be_written_by_hand():
    """W_Q, W_K and W_V are views: a head that copies the previous token can be set down and does so."""
    n_ctx, d_vocab = 5, 4
    d_model = n_ctx + d_vocab  # the stream holds a one-hot position and a one-hot token
    model = Transformer(Config(1, d_model, 1, d_model, n_ctx, d_vocab)).double()
    attn = model.blocks[0].attn
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.W_pos[:, :n_ctx] = torch.eye(n_ctx)
        model.W_E[:, n_ctx:] = model.W_U[n_ctx:] = torch.eye(d_vocab)
        attn.W_Q[0, 1:n_ctx, : n_ctx - 1] = 1e3 * torch.eye(n_ctx - 1)  # position i asks for i - 1
        attn.W_K[0, :n_ctx, :n_ctx] = torch.eye(n_ctx)
        attn.W_V[0] = torch.eye(d_model)
        attn.W_O[0, n_ctx:, n_ctx:] = 2 * torch.eye(d_vocab)
    tokens = torch.tensor([[3, 1, 0, 2, 2]])
    assert model(tokens)[0, 1:].argmax(-1).tolist() == tokens[0, :-1].tolist()


# ---- Bad input is a sentence


def small():
    return Transformer(Config(2, 6, 2, 3, 6, 7))


@pytest.mark.parametrize(
    "tokens, error, says",
    [
        (
            torch.zeros(1, 7, dtype=torch.long),
            ValueError,
            "the sequence has 7 tokens; the model's context holds n_ctx = 6",
        ),
        (torch.tensor([[1, 7]]), ValueError, "token 7 is out of range; the model knows 0 to 6"),
        (torch.tensor([[-1, 3]]), ValueError, "token -1 is out of range"),
        (torch.tensor([1, 2]), ValueError, r"tokens have shape \[2\]; the model takes \[batch pos\]"),
        (torch.zeros(2, 0, dtype=torch.long), ValueError, r"shape \[2, 0\]"),
        (torch.zeros(1, 2), TypeError, "tokens are torch.float32"),
    ],
)
def test_bad_tokens(tokens, error, says):
    with pytest.raises(error, match=says):
        small()(tokens)


@pytest.mark.parametrize(
    "tap",
    [
        record("blocks.0.attn.patern"),
        freeze({"blocks.0.attn.patern": torch.zeros(1)}),
        compose(everything, at("blocks.0.attn.patern", torch.neg)),
    ],
    ids=["record", "freeze", "compose"],
)
def test_a_wrong_name_lists_the_nearest(tap):
    with pytest.raises(ValueError, match=r"no activation 'blocks.0.attn.patern'; there is blocks.0.attn.pattern, "):
        small()(torch.tensor([[1, 2]]), tap=tap)


def test_a_tap_must_return_a_tensor_of_the_same_shape():
    tokens = torch.tensor([[1, 2]])
    with pytest.raises(TypeError, match="the tap returned NoneType for embed"):
        small()(tokens, tap=lambda name, x: None)
    with pytest.raises(ValueError, match=r"returned shape \[1, 1, 6\] for embed, which has shape \[1, 2, 6\]"):
        small()(tokens, tap=lambda name, x: x[:, :1])


def test_reading_what_was_not_recorded():
    seen = record("embed")
    with pytest.raises(KeyError, match="nothing is recorded yet"):
        seen["embed"]
    small()(torch.tensor([[1, 2]]), tap=seen)
    with pytest.raises(KeyError, match=r"blocks.0.attn.z was not recorded; there is embed"):
        seen["blocks.0.attn.z"]


@pytest.mark.parametrize(
    "fields, error, says",
    [
        (dict(n_layer=3), TypeError, "Config has no field 'n_layer'; there is n_layers, "),
        (dict(d_model=0), ValueError, "Config.d_model is 0; it must be a whole number, at least 1"),
        (dict(n_layers=-1), ValueError, "Config.n_layers is -1"),
        (dict(n_heads=2.5), ValueError, "Config.n_heads is 2.5"),
        (dict(positions="lerned"), ValueError, "Config.positions is 'lerned'; there is learned"),
    ],
)
def test_bad_config(fields, error, says):
    with pytest.raises(error, match=says):
        Config(**fields)
