"""The model, against a transformer written as plain loops, and against mathematical properties."""

from __future__ import annotations

import cmath
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from residual import Config, Transformer
from residual.taps import at, compose, freeze, record

# ---- The oracle: NumPy, a loop for every index, sharing only the weights with the library


def normed(x, kind, eps, w, b):
    """Apply LayerNorm or RMSNorm to one vector."""
    if kind == "none":
        return x
    n = len(x)
    mean = sum(x) / n if kind == "layer" else 0.0
    scale = math.sqrt(sum((value - mean) ** 2 for value in x) / n + eps)
    return np.array([(x[i] - mean) / scale * w[i] + (0.0 if b is None else b[i]) for i in range(n)])


def turned(x, position, base, interleaved):
    """Apply rotary positions to one head's query or key: its pairs, as complex numbers, times ``exp(i p θ)``."""
    half = len(x) // 2
    out = np.zeros(len(x))
    for i in range(half):
        first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
        turn = complex(x[first], x[second]) * cmath.exp(1j * position * base ** (-2 * i / len(x)))
        out[first], out[second] = turn.real, turn.imag
    return out


def attention(x, c, W, place=None, read=None):
    """Compute one layer of attention on ``x [pos d_model]``, with the layer's weights ``W`` by name.

    ``read`` holds separate inputs for each head's map, by the map's letter, ``[pos head d_model]``.

    Returns the layer's output ``[pos d_model]`` and the pattern ``[head query key]``.
    """
    n_pos, d_model = x.shape
    n_kv = c.n_heads if c.n_kv_heads is None else c.n_kv_heads
    bias = {name: np.zeros((c.n_heads, c.d_head)) if W[name] is None else W[name] for name in ("b_Q", "b_K", "b_V")}

    def mapped(name, head, pos):
        source = x[pos] if read is None else read[name][pos, head]
        source = source if place is None or name == "V" else source + place[pos]
        return [
            sum(source[m] * W["W_" + name][head, m, d] for m in range(d_model)) + bias["b_" + name][head, d]
            for d in range(c.d_head)
        ]

    def key(head, pos):
        k = np.array(mapped("K", head, pos))
        return turned(k, pos, c.rotary_base, c.rotary_interleaved) if c.positions == "rotary" else k

    out = np.zeros((n_pos, d_model)) + (0.0 if W["b_O"] is None else W["b_O"])
    pattern = np.zeros((c.n_heads, n_pos, n_pos))
    for head in range(c.n_heads):
        kv = head * n_kv // c.n_heads  # neighboring query heads share a key head
        keys = [key(kv, pos) for pos in range(n_pos)]
        if c.smeared_keys:
            own = 1 / (1 + math.exp(-W["smear"][kv]))
            keys = [own * keys[j] + (1 - own) * keys[j - 1] if j else keys[0] for j in range(n_pos)]
        values = [mapped("V", kv, pos) for pos in range(n_pos)]
        for query in range(n_pos):
            q = np.array(mapped("Q", head, query))
            if c.positions == "rotary":
                q = turned(q, query, c.rotary_base, c.rotary_interleaved)
            seen = range(query + 1) if c.causal else range(n_pos)
            scores = {j: sum(q * keys[j]) / math.sqrt(c.d_head) for j in seen}
            weights = {j: math.exp(score - max(scores.values())) for j, score in scores.items()}
            for j in seen:
                pattern[head, query, j] = weights[j] / sum(weights.values())
                for m in range(d_model):
                    moved = sum(values[j][d] * W["W_O"][head, d, m] for d in range(c.d_head))
                    out[query, m] += pattern[head, query, j] * moved
    return out, pattern


def neurons(x, c, W):
    """Apply the MLP to one vector."""
    act = {
        "relu": lambda t: max(t, 0.0),
        "gelu": lambda t: t * 0.5 * (1 + math.erf(t / math.sqrt(2))),
        "gelu_new": lambda t: 0.5 * t * (1 + math.tanh(math.sqrt(2 / math.pi) * (t + 0.044715 * t**3))),
        "swiglu": lambda t: t / (1 + math.exp(-t)),
    }[c.act]

    def into(name, neuron):
        bias = 0.0 if W["b_" + name] is None else W["b_" + name][neuron]
        return sum(x[m] * W["W_" + name][m, neuron] for m in range(len(x))) + bias

    out = np.zeros(len(x)) + (0.0 if W["b_out"] is None else W["b_out"])
    for n in range(c.d_mlp):
        value = act(into("gate", n)) * into("in", n) if c.act == "swiglu" else act(into("in", n))
        out = out + value * W["W_out"][n]
    return out


def transformer(tokens, c, weights):
    """Return logits ``[pos d_vocab]`` for a list of tokens."""
    x = np.array([weights["W_E"][token] for token in tokens])
    place = None
    if c.positions == "learned":
        x = x + weights["W_pos"][: len(tokens)]
    elif c.positions == "shortformer":
        place = weights["W_pos"][: len(tokens)]

    def norm(x, W):
        return np.array([normed(row, c.norm, c.norm_eps, W["w"], W["b"]) for row in x])

    for layer in weights["layers"]:
        x = x + attention(norm(x, layer["ln1"]), c, layer["attn"], place)[0]
        if c.d_mlp:
            x = x + np.array([neurons(row, c, layer["mlp"]) for row in norm(x, layer["ln2"])])
    logits = norm(x, weights["ln_final"]) @ weights["W_U"]
    return logits if weights["b_U"] is None else logits + weights["b_U"]


def weights_of(model):
    """Return a model's weights, by name, as NumPy arrays."""

    def arrays(module, names):
        values = {name: getattr(module, name, None) for name in names.split()}
        return {name: None if x is None else x.detach().numpy().copy() for name, x in values.items()}

    layers = [
        dict(
            ln1=arrays(block.ln1, "w b"),
            attn=arrays(block.attn, "W_Q W_K W_V W_O b_Q b_K b_V b_O smear"),
            ln2=arrays(block.ln2, "w b"),
            mlp=arrays(block.mlp, "W_in W_gate W_out b_in b_gate b_out"),
        )
        for block in model.blocks
    ]
    return dict(arrays(model, "W_E W_pos W_U b_U"), layers=layers, ln_final=arrays(model.ln_final, "w b"))


# ---- Models small enough for the oracle, with weights large enough for patterns far from uniform


@st.composite
def models(draw, max_layers=2):
    """Draw attention-only models: no norm, no MLP, no biases."""
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


@st.composite
def all_kinds(draw, causal=None, **fixed):
    """Draw every kind of block, in every combination."""
    heads, kv_heads = draw(st.sampled_from([(1, None), (2, None), (2, 1), (4, 2)]))
    fields = dict(
        n_layers=draw(st.integers(0, 2)),
        d_model=draw(st.integers(2, 6)),
        n_heads=heads,
        d_head=draw(st.sampled_from([2, 4])),
        n_ctx=6,
        d_vocab=7,
        positions=draw(st.sampled_from(["learned", "shortformer", "rotary", "none"])),
        init_std=0.6,
        d_mlp=draw(st.sampled_from([0, 5])),
        act=draw(st.sampled_from(["relu", "gelu", "gelu_new", "swiglu"])),
        norm=draw(st.sampled_from(["none", "layer", "rms"])),
        norm_eps=draw(st.sampled_from([1e-5, 0.1])),
        n_kv_heads=kv_heads,
        rotary_base=draw(st.sampled_from([100.0, 10000.0])),
        rotary_interleaved=draw(st.booleans()),
        smeared_keys=draw(st.booleans()),
        tied=draw(st.booleans()),
        bias=draw(st.booleans()),
        causal=draw(st.booleans()) if causal is None else causal,
    )
    seed = draw(st.integers(0, 2**32 - 1))
    model = Transformer(Config(**{**fields, **fixed}), seed=seed).double()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():  # make norms differ from 1 and biases from 0
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return model


def tokens_for(model, batch=2):
    c = model.config
    generator = torch.Generator().manual_seed(c.d_model)
    return torch.randint(c.d_vocab, (batch, c.n_ctx), generator=generator)


def by_name(model):
    """Return all names, including those that a tap must ask for by name."""
    heads = [f"blocks.{i}.attn.{name}" for i in range(model.config.n_layers) for name in ("q_in", "k_in", "v_in")]
    return [*model.activation_names, *heads]


def everything(name, x):
    """A plain function as a tap: it does not say what it wants, so it sees everything."""
    return x


@settings(max_examples=80, deadline=None)
@given(all_kinds())
def test_model_equals_plain_loops(model):
    tokens = tokens_for(model, batch=1)
    expected = transformer(tokens[0].tolist(), model.config, weights_of(model))
    np.testing.assert_allclose(model(tokens)[0].detach().numpy(), expected, atol=1e-9, rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(all_kinds(n_layers=1, norm="none"))
def test_pattern_equals_plain_loops(model):
    tokens = tokens_for(model, batch=1)
    seen = record("blocks.0.*")
    model(tokens, tap=seen)
    weights, shortformer = weights_of(model), model.config.positions == "shortformer"
    x = seen["blocks.0.resid_pre"][0].detach().numpy()
    _, expected = attention(x, model.config, weights["layers"][0]["attn"], weights["W_pos"] if shortformer else None)
    np.testing.assert_allclose(seen["blocks.0.attn.pattern"][0].detach().numpy(), expected, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(all_kinds())
def test_tapped_equals_fast_path(model):
    """For any subset of the activations, the logits equal those of the fused kernels."""
    tokens = tokens_for(model)
    logits = model(tokens)
    for names in [[name] for name in by_name(model)] + [by_name(model)]:
        torch.testing.assert_close(model(tokens, tap=record(names)), logits, atol=1e-11, rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(all_kinds())
def test_a_tap_that_returns_its_input_changes_not_one_bit(model):
    """Equal to recording bit for bit if recording switches to another kernel; otherwise equal to no tap at all."""
    tokens = tokens_for(model)
    untapped = model(tokens)
    for name in by_name(model):
        materialised = name.endswith(("scores", "pattern", "result", "scale", "normalized", "_in"))
        materialised |= name == "pos_embed" and model.config.positions == "shortformer"  # else one for all
        expected = model(tokens, tap=record(name)) if materialised else untapped
        assert torch.equal(model(tokens, tap=at(name, lambda x: x)), expected)
        assert torch.equal(model(tokens, tap=at(name, torch.clone)), expected)


@settings(max_examples=25, deadline=None)
@given(all_kinds())
def test_the_listed_names_are_the_names_seen(model):
    """In order, each once, with the shape given in the papers."""
    order = []
    model(tokens_for(model), tap=lambda name, x: order.append(name) or x)
    assert order == model.activation_names
    seen = record()
    model(tokens_for(model), tap=seen)
    c = model.config
    batch, pos = 2, c.n_ctx
    shapes = {
        **dict.fromkeys(["q", "z", "rot_q"], (batch, pos, c.n_heads, c.d_head)),
        **dict.fromkeys(["k", "v", "rot_k"], (batch, pos, c.n_kv_heads or c.n_heads, c.d_head)),
        **dict.fromkeys(["pre", "pre_linear", "post"], (batch, pos, c.d_mlp)),
        "scale": (batch, pos, 1),
        **dict.fromkeys(["scores", "pattern"], (batch, c.n_heads, pos, pos)),
        "result": (batch, pos, c.n_heads, c.d_model),
    }
    for name, x in seen.items():
        assert tuple(x.shape) == shapes.get(name.split(".")[-1], (batch, pos, c.d_model)), name


@settings(max_examples=40, deadline=None)
@given(all_kinds(n_layers=1), st.booleans(), st.data())
def test_each_head_reads_what_is_put_in_for_it(model, frozen, data):
    """Separate inputs for every head's maps, normalized by their own scale or a given one, against plain loops."""
    c, tokens = model.config, tokens_for(model, batch=1)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    heads = dict(Q=c.n_heads, K=c.n_kv_heads or c.n_heads, V=c.n_kv_heads or c.n_heads)
    new = {m: torch.randn(1, 6, n, c.d_model, generator=generator, dtype=torch.float64) for m, n in heads.items()}
    put = {f"blocks.0.attn.{m.lower()}_in": x for m, x in new.items()}
    scale = torch.rand(1, 6, 1, generator=generator, dtype=torch.float64) + 0.5
    if frozen and c.norm != "none":
        put["blocks.0.ln1.scale"] = scale
    seen = record(["blocks.0.attn_out", "blocks.0.resid_pre"])
    model(tokens, tap=compose(freeze(put), seen))

    weights, place = weights_of(model), None
    if c.positions == "shortformer":
        place = weights["W_pos"]
    ln1 = weights["layers"][0]["ln1"]

    def norm(x, pos):
        if "blocks.0.ln1.scale" not in put:
            return normed(x, c.norm, c.norm_eps, ln1["w"], ln1["b"])
        centred = x - x.mean() if c.norm == "layer" else x
        return centred / scale[0, pos].item() * ln1["w"] + (0 if ln1["b"] is None else ln1["b"])

    own = {
        m: np.array([[norm(x[0, pos, head].numpy(), pos) for head in range(x.shape[2])] for pos in range(6)])
        for m, x in new.items()
    }
    x = seen["blocks.0.resid_pre"][0].detach().numpy()
    expected, _ = attention(x, c, weights["layers"][0]["attn"], place, own)
    np.testing.assert_allclose(seen["blocks.0.attn_out"][0].detach().numpy(), expected, atol=1e-9, rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(all_kinds(n_layers=1), st.sampled_from(["q_in", "k_in", "v_in"]))
def test_an_input_of_heads_is_the_stream(model, name):
    seen = record([f"*.{name}", "*.resid_pre"])
    model(tokens_for(model), tap=seen)
    heads = seen[f"blocks.0.attn.{name}"]
    assert torch.equal(heads, seen["blocks.0.resid_pre"][:, :, None].expand_as(heads))


@settings(max_examples=25, deadline=None)
@given(all_kinds(n_layers=1, positions="rotary"))
def test_rotated_queries_and_keys_equal_plain_loops(model):
    c, seen = model.config, record("blocks.0.attn.*")
    model(tokens_for(model), tap=seen)
    for name in ("q", "k"):
        before, after = seen[f"blocks.0.attn.{name}"].detach(), seen[f"blocks.0.attn.rot_{name}"].detach()
        for pos in range(6):
            for head in range(before.shape[2]):
                expected = turned(before[1, pos, head].numpy(), pos, c.rotary_base, c.rotary_interleaved)
                np.testing.assert_allclose(after[1, pos, head].numpy(), expected, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(all_kinds(n_layers=1, d_mlp=5))
def test_the_mlp_s_input_can_be_changed_alone(model):
    """With its input replaced, the MLP writes what plain loops compute, and the rest of the stream is unchanged."""
    new = torch.randn(2, 6, model.config.d_model, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen = record(["*.mlp.p*", "*resid*", "*mlp_out"])
    model(tokens_for(model), tap=compose(freeze({"blocks.0.mlp.in": new}), seen))
    c, layer = model.config, weights_of(model)["layers"][0]
    if c.act == "swiglu":
        gate, linear, post = (seen[f"blocks.0.mlp.{name}"] for name in ("pre", "pre_linear", "post"))
        torch.testing.assert_close(gate * gate.sigmoid() * linear, post)
    row = normed(new[1, 2].numpy(), c.norm, c.norm_eps, layer["ln2"]["w"], layer["ln2"]["b"])
    expected = neurons(row, c, layer["mlp"])
    np.testing.assert_allclose(seen["blocks.0.mlp_out"][1, 2].detach().numpy(), expected, atol=1e-10)
    stream = seen["blocks.0.resid_mid"] + seen["blocks.0.mlp_out"]
    assert torch.equal(seen["blocks.0.resid_post"], stream)


def test_inputs_of_heads_are_there_only_by_name():
    """They are as large as the stream times the heads, so no wildcard and no plain function gets them."""
    model, tokens, order = small(), torch.tensor([[1, 2, 3]]), []
    seen, heads = record(), record("*.k_in")
    model(tokens, tap=compose(lambda name, x: order.append(name) or x, seen, heads, at("*attn*", torch.clone)))
    assert list(heads) == ["blocks.0.attn.k_in", "blocks.1.attn.k_in"]
    assert order == list(seen) == model.activation_names


def test_a_normalised_stream_cannot_be_changed_for_heads_that_do_not_read_it():
    model = Transformer(Config(1, 6, 2, 3, 6, 7, norm="rms"))
    with pytest.raises(ValueError, match=r"blocks.0.ln1.normalized, which heads with separate inputs do not read"):
        model(torch.tensor([[1, 2]]), tap=compose(at("*normalized", torch.neg), record("*.q_in")))


@settings(max_examples=30, deadline=None)
@given(all_kinds(), st.data())
def test_gradients_reach_every_activation(model, data):
    """The derivative along a random direction, against a difference quotient."""
    tokens, name = tokens_for(model), data.draw(st.sampled_from(by_name(model)))
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 6, 7, generator=generator, dtype=torch.float64)
    seen = record(name)
    logits = model(tokens, tap=seen)
    if not seen:  # nothing to differentiate by
        return
    (gradient,) = torch.autograd.grad((logits * weights).sum(), seen[name], allow_unused=True)
    step = torch.randn(seen[name].shape, generator=generator, dtype=torch.float64)

    def moved(size):
        return (model(tokens, tap=at(name, lambda x: x + size * step)) * weights).sum()

    quotient = ((moved(1e-6) - moved(-1e-6)) / 2e-6).detach()
    expected = torch.zeros(()).double() if gradient is None else (gradient * step).nan_to_num().sum()
    if model.config.act != "relu":  # ReLU is not differentiable at 0
        torch.testing.assert_close(quotient, expected, atol=2e-5, rtol=1e-4)


# ---- Texts of unequal length


@settings(max_examples=60, deadline=None)
@given(all_kinds(), st.data())
def test_a_padded_batch_is_its_texts(model, data):
    """Wherever the padding is, each text gets the same logits as alone, and nothing is NaN."""
    marks = st.lists(st.booleans(), min_size=6, max_size=6)
    kind = data.draw(st.sampled_from(["left", "right", "anywhere"]))
    rows = data.draw(st.lists(marks.filter(any), min_size=1, max_size=3))
    if kind != "anywhere":
        rows = [sorted(row, reverse=kind == "right") for row in rows]
    mask, tokens = torch.tensor(rows), tokens_for(model, batch=len(rows))
    logits = model(tokens, mask=mask)
    assert logits.isfinite().all()
    for row, real in zip(range(len(rows)), mask, strict=True):
        torch.testing.assert_close(logits[row, real], model(tokens[row : row + 1, real])[0], atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(model(tokens, tap=everything, mask=mask)[mask], logits[mask], atol=1e-10, rtol=1e-9)
    layer = data.draw(st.integers(0, model.config.n_layers))
    stream = model.run_to(tokens, layer, mask=mask)
    torch.testing.assert_close(model.run_from(layer, stream, mask=mask), logits)
    if model.config.causal:
        cache, cut = model.cache(len(rows)), data.draw(st.integers(1, 5))
        with torch.no_grad():
            parts = [model(tokens[:, some], cache=cache, mask=mask[:, some]) for some in (slice(cut), slice(cut, 6))]
        torch.testing.assert_close(torch.cat(parts, dim=1)[mask], logits[mask], atol=1e-10, rtol=1e-9)


@settings(max_examples=20, deadline=None)
@given(all_kinds(n_layers=2))
def test_no_real_token_attends_to_padding(model):
    mask, seen = torch.tensor([[False, False, True, True, True, True], [True] * 6]), record("*.pattern")
    model(tokens_for(model), tap=seen, mask=mask)
    for pattern in seen.values():
        assert (pattern[0, :, 2:, :2] == 0).all()
        torch.testing.assert_close(pattern.sum(dim=-1), torch.ones_like(pattern[..., 0]))


@pytest.mark.parametrize("mask", [torch.ones(1, 2) > 0, torch.ones(1, 3), torch.ones(1, 3).long()])
def test_a_bad_mask_is_a_readable_error(mask):
    with pytest.raises(ValueError, match=r"it must be torch.bool \[1, 3\], true at real tokens"):
        small()(torch.tensor([[1, 2, 3]]), mask=mask)


class Letters:
    """A vocabulary of the letters a to g."""

    def tokens(self, texts):
        texts = [texts] if isinstance(texts, str) else texts
        width = max(len(text) for text in texts)
        rows = [[0] * (width - len(text)) + [ord(letter) - ord("a") for letter in text] for text in texts]
        return torch.tensor(rows), torch.tensor([[False] * (width - len(t)) + [True] * len(t) for t in texts])


@pytest.mark.parametrize(
    "tokens",
    [
        [[1, 2, 3]],
        ((1, 2, 3),),
        [torch.tensor([1, 2, 3]).tolist()],
        np.array([[1, 2, 3]], dtype=np.uint16),
        "bcd",
        ["bcd"],
    ],
)
def test_lists_arrays_and_texts_are_tokens(tokens):
    model = small()
    model.vocabulary = Letters()
    expected = torch.tensor([[1, 2, 3]])
    assert torch.equal(model(tokens), model(expected))
    assert torch.equal(model.run_to(tokens, 1), model.run_to(expected, 1))


def test_texts_of_unequal_length_are_masked():
    model = small().double()
    model.vocabulary = Letters()
    logits = model(["b", "gfe"])
    torch.testing.assert_close(logits[0, 2:], model("b")[0])
    torch.testing.assert_close(logits[1:], model("gfe"))


@pytest.mark.parametrize(
    "tokens, mask, error, says",
    [
        ("bcd", None, TypeError, "the model has no vocabulary, so it cannot read text; give tokens"),
        ([["b"]], None, ValueError, "tokens must be a table"),
        ([[1, 2], [3]], None, ValueError, "rows of unequal length need padding and a mask"),
        ([[1.5]], None, TypeError, "tokens are torch.float"),
        ([[True]], None, TypeError, "tokens are torch.bool"),
        ([1, 2], None, ValueError, r"tokens have shape \[2\]"),
        (["b", ""], None, ValueError, "a text has no tokens"),
        ("", None, ValueError, "a text has no tokens"),
        (["b", 3], None, ValueError, "the list holds texts and something else"),
        (["b"], torch.ones(1, 1) > 0, ValueError, "texts come with a mask of their own"),
    ],
)
def test_bad_tokens_are_readable_errors(tokens, mask, error, says):
    model = small()
    if "vocabulary" not in says:
        model.vocabulary = Letters()
    with pytest.raises(error, match=says):
        model(tokens, mask=mask)


@pytest.mark.parametrize(
    "names, fused",
    [([], 2), (["embed", "*.z", "*.q", "*.resid_pre"], 2), (["blocks.1.attn.pattern"], 1), (["*.scores"], 0)],
)
def test_layers_whose_pattern_is_not_wanted_use_the_fused_kernel(names, fused):
    """The fused kernel never materializes a pattern."""
    calls = []

    class Calls(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            calls.append(function)
            return function(*args, **(kwargs or {}))

    with Calls():
        small()(torch.tensor([[1, 2, 3]]), tap=record(names))
    assert calls.count(F.scaled_dot_product_attention) == fused


@settings(max_examples=25, deadline=None)
@given(all_kinds())
def test_residual_stream_is_the_sum_of_what_was_written(model):
    """The outputs, added in order, equal the stream to the last bit."""
    seen = record()
    logits = model(tokens_for(model), tap=seen)
    stream = seen["embed"]
    if model.config.positions == "learned":
        stream = stream + seen["pos_embed"]
    for name, x in seen.items():
        if name.endswith(("attn_out", "mlp_out")):
            stream = stream + x
        elif name.endswith(("resid_pre", "resid_mid", "resid_post")):
            assert torch.equal(x, stream), name
    last, norm = stream, model.ln_final
    if norm.w is not None:
        last = seen["ln_final.normalized"] * norm.w + (0 if norm.b is None else norm.b)
    torch.testing.assert_close(last @ model.W_U + (0 if model.b_U is None else model.b_U), logits)


@settings(max_examples=25, deadline=None)
@given(all_kinds())
def test_heads_add(model):
    seen = record()
    model(tokens_for(model), tap=seen)
    for layer, block in enumerate(model.blocks):
        here = f"blocks.{layer}.attn"
        heads = seen[f"{here}.result"].unbind(dim=-2)
        written = sum(heads) if block.attn.b_O is None else sum(heads) + block.attn.b_O
        torch.testing.assert_close(written, seen[f"{here}_out"])


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
    """With all patterns frozen, the logits are a linear function of the embeddings."""
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
    """A model that ignored its patterns would pass the test above; it would fail this one."""
    model = Transformer(Config(1, 6, 2, 3, 6, 7, "none", init_std=0.8)).double()
    tokens = tokens_for(model)
    seen = record("embed")
    once = model(tokens, tap=seen)
    twice = model(tokens, tap=at("embed", lambda x: 2 * x))
    assert (twice - 2 * once).abs().max() > 0.01


@settings(max_examples=25, deadline=None)
@given(all_kinds(causal=True))
def test_no_position_sees_a_later_token(model):
    tokens = tokens_for(model)
    logits = model(tokens)
    changed = tokens.clone()
    changed[:, 3:] = (changed[:, 3:] + 1) % model.config.d_vocab
    torch.testing.assert_close(model(changed)[:, :3], logits[:, :3])
    torch.testing.assert_close(model(tokens[:, :3]), logits[:, :3])


@settings(max_examples=25, deadline=None)
@given(all_kinds(causal=False, positions="none", smeared_keys=False), st.permutations(range(6)))
def test_bidirectional_without_positions_knows_no_order(model, order):
    tokens = tokens_for(model)
    torch.testing.assert_close(model(tokens[:, order]), model(tokens)[:, order])


@settings(max_examples=25, deadline=None)
@given(all_kinds(positions="rotary", n_layers=1))
def test_rotary_scores_depend_on_the_distance_alone(model):
    """With the same token everywhere, a score depends only on how far back the key is."""
    seen = record("blocks.0.attn.scores")
    model(torch.full((1, 6), 3), tap=seen)
    scores = seen["blocks.0.attn.scores"][0]
    n = 5 if model.config.smeared_keys else 6  # the first key has no previous key to mix with
    for back in range(n):
        along = scores.diagonal(-back, dim1=-2, dim2=-1)[:, -(n - back) :]
        torch.testing.assert_close(along, along[:, :1].expand_as(along))


@settings(max_examples=40, deadline=None)
@given(all_kinds(causal=True), st.data())
def test_restarting_at_a_layer_and_position_changes_nothing(model, data):
    tokens = tokens_for(model)
    seen, cache = record("*resid*" if model.config.n_layers else "embed"), model.cache(2)
    with torch.no_grad():
        logits = model(tokens, tap=seen, cache=cache)
        layer = data.draw(st.integers(0, model.config.n_layers))
        if layer < model.config.n_layers:
            stream = seen[f"blocks.{layer}.resid_pre"]
        else:
            stream = seen[list(seen)[-1]] if layer else seen["embed"]
            if not layer and model.config.positions == "learned":
                stream = stream + model.W_pos
        torch.testing.assert_close(model.run_from(layer, stream), logits)
        cache.length = position = data.draw(st.integers(0, 5))
        again = model.run_from(layer, stream[:, position:], cache=cache)
        torch.testing.assert_close(again, logits[:, position:])


@settings(max_examples=40, deadline=None)
@given(all_kinds(), st.data())
def test_running_to_a_layer_and_from_it_is_running(model, data):
    """Equal to the last bit, and nothing after the layer is computed by the first half."""
    layer = data.draw(st.integers(0, model.config.n_layers))
    tokens, order = tokens_for(model), []
    stream = model.run_to(tokens, layer, tap=lambda name, x: order.append(name) or x)
    assert all(int(name.split(".")[1]) < layer for name in order if name.startswith("blocks"))
    assert not any(name.startswith("ln_final") for name in order)
    stream = model.run_to(tokens, layer)
    assert torch.equal(model.run_from(layer, stream), model(tokens))
    if layer < model.config.n_layers:
        seen = record(f"blocks.{layer}.resid_pre")
        model(tokens, tap=seen)
        assert torch.equal(seen[f"blocks.{layer}.resid_pre"], stream)


def test_parameter_counts_of_published_models():
    """GPT-2 small has 124,439,808 parameters and SmolLM2-135M 134,515,008 (their model cards round both)."""
    gpt2 = Config(12, 768, 12, 64, 1024, 50257, d_mlp=3072, norm="layer", tied=True, bias=True)
    smollm2 = Config(
        30, 576, 9, 64, 8192, 49152, "rotary", d_mlp=1536, act="swiglu", norm="rms", n_kv_heads=3, tied=True
    )
    for config, size in [(gpt2, 124_439_808), (smollm2, 134_515_008)]:
        with torch.device("meta"):  # shapes without numbers
            model = Transformer(config)
        assert sum(weight.numel() for weight in model.parameters()) == size


def test_sharing_key_heads_equals_repeating_them():
    """A model with two key heads for four query heads is one with four, equal in pairs."""
    config = Config(2, 6, 4, 2, 6, 7, "rotary", init_std=0.8, n_kv_heads=2)
    model = Transformer(config).double()
    full = Transformer(dataclasses.replace(config, n_kv_heads=None)).double()
    with torch.no_grad():
        for name in ("W_E", "W_U"):
            getattr(full, name).copy_(getattr(model, name))
        for shared, own in zip(model.blocks, full.blocks, strict=True):
            own.attn.W_Q.copy_(shared.attn.W_Q)
            own.attn.W_K.copy_(shared.attn.W_K[[0, 0, 1, 1]])
            own.attn.W_V.copy_(shared.attn.W_V[[0, 0, 1, 1]])
            own.attn.W_O.copy_(shared.attn.W_O)
            for head in range(4):
                torch.testing.assert_close(shared.attn.W_QK(head).AB, own.attn.W_QK(head).AB)
                torch.testing.assert_close(shared.attn.W_OV().AB, own.attn.W_OV().AB)
    tokens = tokens_for(model)
    torch.testing.assert_close(model(tokens), full(tokens))


def test_a_tied_model_reads_out_what_it_embeds():
    model = Transformer(Config(1, 6, 2, 3, 6, 7, tied=True))
    assert "W_U" not in model.state_dict()
    assert torch.equal(model.W_U, model.W_E.T)
    model(torch.tensor([[1, 2]]))[0, 0, 5].backward()
    assert model.W_E.grad[5].abs().sum() > 0, "the gradient of a logit reaches the embedding"


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
    first, second = Transformer(Config(), seed=3), Transformer(Config(), seed=4)
    assert torch.equal(torch.random.get_rng_state(), before), "building a model must not touch the global generator"
    torch.manual_seed(2)
    again = Transformer(Config(), seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.W_E, second.W_E)


def test_head_weights_can_be_written_by_hand():
    """W_Q, W_K and W_V are views: a head that copies the previous token can be written down, and it works."""
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


# ---- Bad input gives readable errors


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
        (torch.zeros(1, 2, dtype=torch.long, device="meta"), ValueError, "the tokens are on meta, the model on cpu"),
    ],
)
def test_tokens_of_a_wrong_type_shape_or_range(tokens, error, says):
    with pytest.raises(error, match=says):
        small()(tokens)


@pytest.mark.parametrize(
    "tap",
    [
        record("blocks.0.attn.paterm"),
        freeze({"blocks.0.attn.paterm": torch.zeros(1)}),
        compose(everything, at("blocks.0.attn.paterm", torch.neg)),
    ],
    ids=["record", "freeze", "compose"],
)
def test_a_wrong_name_lists_the_nearest(tap):
    with pytest.raises(ValueError, match=r"no activation 'blocks.0.attn.paterm'; choose from blocks.0.attn.pattern, "):
        small()(torch.tensor([[1, 2]]), tap=tap)


def test_a_tap_must_return_a_tensor_of_the_same_shape():
    tokens = torch.tensor([[1, 2]])
    with pytest.raises(TypeError, match="the tap returned NoneType for embed"):
        small()(tokens, tap=lambda name, x: None)
    with pytest.raises(ValueError, match=r"returned shape \[1, 1, 6\] for embed, which has shape \[1, 2, 6\]"):
        small()(tokens, tap=lambda name, x: x[:, :1])


def test_reading_an_unrecorded_activation_is_an_error():
    seen = record("embed")
    with pytest.raises(KeyError, match="nothing is recorded yet"):
        seen["embed"]
    small()(torch.tensor([[1, 2]]), tap=seen)
    with pytest.raises(KeyError, match=r"blocks.0.attn.z was not recorded; choose from embed"):
        seen["blocks.0.attn.z"]


@pytest.mark.parametrize(
    "fields, error, says",
    [
        (dict(n_layer=3), TypeError, "Config has no field 'n_layer'; choose from n_layers, "),
        (dict(d_model=0), ValueError, "Config.d_model is 0; it must be a whole number, at least 1"),
        (dict(n_layers=-1), ValueError, "Config.n_layers is -1"),
        (dict(n_heads=2.5), ValueError, "Config.n_heads is 2.5"),
        (dict(positions="learnd"), ValueError, "Config.positions is 'learnd'; choose from learned"),
        (dict(act="gleu"), ValueError, "Config.act is 'gleu'; choose from gelu"),
        (dict(norm=None), ValueError, "Config.norm is None; choose from none, "),
        (dict(n_heads=4, n_kv_heads=3), ValueError, "n_heads is 4; 3 key heads cannot share it evenly"),
        (dict(n_kv_heads=0), ValueError, "kv_heads is 0"),
        (dict(d_head=3, positions="rotary"), ValueError, "d_head is 3; rotary positions rotate pairs"),
        (dict(norm_eps=0.0), ValueError, "norm_eps is 0.0; it must be a number above 0"),
        (dict(rotary_base="large"), ValueError, "rotary_base is 'large'; it must be a number above 0"),
        (dict(init_std=-1.0), ValueError, "init_std is -1.0; it must be a number not below 0"),
        (dict(tied=1), ValueError, "tied is 1; it must be True or False"),
        (dict(n_layers=True), ValueError, "n_layers is True; it must be a whole number"),
    ],
)
def test_bad_config(fields, error, says):
    with pytest.raises(error, match=says):
        Config(**fields)


def test_bad_restart():
    model, stream = small(), torch.zeros(2, 3, 6)
    with pytest.raises(ValueError, match="there is no layer 3; the model's are 0 to 1, and 2 its end"):
        model.run_from(3, stream)
    with pytest.raises(ValueError, match=r"resid has shape \[2, 3\]; it must be \[batch pos d_model = 6\]"):
        model.run_from(0, stream[..., 0])
    with pytest.raises(ValueError, match=r"no activation 'blocks.0.attn.z'; choose from blocks.1.attn.z"):
        model.run_from(1, stream, tap=record("blocks.0.attn.z"))


def test_bad_cache():
    model = small()
    cache = model.cache(batch=2, n_ctx=4)
    with pytest.raises(ValueError, match="the cache is for 2 × 4 tokens; 1 × 2 do not fit"):
        model(torch.tensor([[1, 2]]), cache=cache)
    with pytest.raises(ValueError, match="the cache is for 2 × 4 tokens; 2 × 5 do not fit"):
        model(torch.ones(2, 5, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match="a bidirectional model has no cache"):
        Transformer(Config(causal=False)).cache(1)


@pytest.mark.parametrize("layer", [1.5, "1", True, None])
def test_a_layer_is_a_whole_number(layer):
    model = Transformer(Config(n_layers=2, d_model=6, n_heads=2, d_head=3, n_ctx=4, d_vocab=7))
    for call in (
        lambda: model.run_to(torch.zeros(1, 2).long(), layer),
        lambda: model.run_from(layer, torch.zeros(1, 2, 6)),
    ):
        with pytest.raises(ValueError, match=f"a layer is a whole number; {layer!r} is not"):
            call()
    assert model.run_to(torch.zeros(1, 2).long(), np.int64(1)).shape == (1, 2, 6)
