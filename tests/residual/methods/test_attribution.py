"""The residual stream and its logits as sums of terms: the sums are exact, and each term equals a plain loop's."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from residual import Config, Transformer
from residual.methods.attribution import attribute, decompose, logit_lens
from residual.taps import record

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("models.py"))))
models, batch, same, N_POS, N_HEADS = shared.models, shared.batch, shared.same, shared.N_POS, shared.N_HEADS
D_MODEL, D_MLP, D_VOCAB = shared.D_MODEL, shared.D_MLP, shared.D_VOCAB
theorem = settings(deadline=None, max_examples=30)


def split(model, by):
    return {"by": by, "neurons": range(model.config.n_layers) if model.config.d_mlp else ()}


def final_norm(model, x):
    """Apply LayerNorm or RMSNorm as defined in their papers."""
    norm = model.ln_final
    if norm.w is None:
        return x
    x = x - x.mean(-1, keepdim=True) if norm.b is not None else x
    x = x / (x.square().mean(-1, keepdim=True) + model.config.norm_eps).sqrt() * norm.w
    return x if norm.b is None else x + norm.b


bys = st.sampled_from(["component", "head", "source"])


@theorem
@given(models(), bys, st.integers(0, 99))
def test_the_terms_sum_to_the_stream_at_every_layer(model, by, seed):
    tokens, n_layers = batch(seed), model.config.n_layers
    model(tokens, tap=(seen := record()))
    for layer in range(n_layers + 1):
        terms = decompose(model, tokens, layer=layer, by=by)
        if layer < n_layers:
            same(terms.values.sum(dim=0), seen[f"blocks.{layer}.resid_pre"])
        elif n_layers:
            same(terms.values.sum(dim=0), seen[f"blocks.{layer - 1}.resid_post"])
        else:
            same(
                terms.values.sum(dim=0),
                seen["embed"] + seen.get("pos_embed", 0) * (model.config.positions == "learned"),
            )
        assert len(terms.labels) == len(set(terms.labels)) == len(terms.values)


@theorem
@given(models(min_layers=1), st.integers(0, 99))
def test_sources_sum_to_heads_heads_to_layers_and_neurons_to_mlps(model, seed):
    tokens, c = batch(seed), model.config
    model(tokens, tap=(seen := record()))
    components, heads = decompose(model, tokens, by="component"), decompose(model, tokens)
    sources = decompose(model, tokens, **split(model, "source"))
    for i, block in enumerate(model.blocks):
        bias = 0 if block.attn.b_O is None else block.attn.b_O
        same(components[f"attn.{i}"] + bias, seen[f"blocks.{i}.attn_out"])
        same(sum(heads[f"{i}.{h}"] for h in range(N_HEADS)), components[f"attn.{i}"])
        for h in range(N_HEADS):
            same(heads[f"{i}.{h}"], seen[f"blocks.{i}.attn.result"][:, :, h])
            same(sum(sources[f"{i}.{h} from {j}"] for j in range(N_POS)), heads[f"{i}.{h}"])
        if c.d_mlp:
            bias = 0 if block.mlp.b_out is None else block.mlp.b_out
            same(sum(sources[f"mlp.{i}.{n}"] for n in range(D_MLP)) + bias, seen[f"blocks.{i}.mlp_out"])
            same(heads[f"mlp.{i}"] + bias, seen[f"blocks.{i}.mlp_out"])


@theorem
@given(models(min_layers=1), st.integers(0, 99))
def test_a_source_is_the_pattern_times_the_moved_vector(model, seed):
    tokens = batch(seed)
    model(tokens, tap=(seen := record()))
    sources = decompose(model, tokens, by="source")
    per_key_head = N_HEADS // model.config.kv_heads
    last = model.config.n_layers - 1
    for head in range(N_HEADS):
        for b in range(3):
            for query in range(N_POS):
                for key in range(N_POS):
                    value = seen[f"blocks.{last}.attn.v"][b, key, head // per_key_head]
                    weight = seen[f"blocks.{last}.attn.pattern"][b, head, query, key]
                    moved = weight * (value @ model.blocks[last].attn.W_O[head])
                    same(sources[f"{last}.{head} from {key}"][b, query], moved)


@theorem
@given(models(), bys, st.integers(0, 99))
def test_along_a_direction_equals_the_terms_written_out(model, by, seed):
    tokens = batch(seed)
    terms = decompose(model, tokens, **split(model, by))
    everywhere, by_example = torch.randn(D_MODEL).double(), torch.randn(3, 1, D_MODEL).double()
    for direction in (everywhere, by_example, terms.stream):
        same(terms.along(direction), (terms.values * direction).sum(dim=-1))
    same(terms.squares(), terms.values.square().sum(dim=-1))
    for i in (0, len(terms) // 2, len(terms) - 1):
        same(terms[terms.labels[i]], terms.values[i])


answers = st.sampled_from([3, (3, 5), torch.tensor([1, 6, 1]), (torch.tensor([1, 6, 1]), 2)])


def read(logits, direction):
    """Return the logit, or difference of logits, that a direction names; ``[batch pos]``."""
    if isinstance(direction, tuple):
        return read(logits, direction[0]) - read(logits, direction[1])
    token = torch.as_tensor(direction).expand(len(logits))
    return torch.stack([row[:, t] for row, t in zip(logits, token, strict=True)])


@theorem
@given(models(), bys, answers, st.integers(0, 99))
def test_the_attributions_sum_to_the_logit(model, by, direction, seed):
    tokens = batch(seed)
    logits = model(tokens)
    got = attribute(decompose(model, tokens, **split(model, by)), direction)
    same(got.values.sum(dim=0), read(logits, direction))
    assert len(got.labels) == len(got.values)
    assert ("ln_final.b" in got.labels) == (model.config.norm == "layer")


@theorem
@given(models(min_layers=1), answers, st.integers(0, 99), st.data())
def test_the_attributions_before_a_layer_sum_to_its_logit_lens(model, direction, seed, data):
    tokens = batch(seed)
    layer = data.draw(st.integers(0, model.config.n_layers - 1))
    got = attribute(decompose(model, tokens, layer=layer), direction)
    same(got.values.sum(dim=0), read(logit_lens(model, tokens)[layer], direction))


@theorem
@given(models(), bys, answers, st.integers(0, 99))
def test_with_the_scale_recomputed_an_attribution_is_the_cost_of_removing_the_term(model, by, direction, seed):
    tokens = batch(seed)
    terms = decompose(model, tokens, **split(model, by))
    got = attribute(terms, direction, scale="recomputed")

    def logit(x):
        logits = final_norm(model, x) @ model.W_U
        return read(logits if model.b_U is None else logits + model.b_U, direction)

    for i, term in enumerate(terms.values):
        rest = terms.stream - term
        if model.config.norm != "none":  # a term that is nearly the whole stream leaves nothing to divide
            centred = rest - rest.mean(-1, keepdim=True) if model.config.norm == "layer" else rest
            if (centred.square().sum(-1) / terms.stream.square().sum(-1)).min() < 1e-6:
                continue
        assert_close(got.values[i], logit(terms.stream) - logit(rest), atol=1e-7, rtol=1e-6)


@theorem
@given(models(), st.integers(0, 99))
def test_a_vector_reads_as_a_column_of_the_unembedding_does(model, seed):
    tokens = batch(seed)
    terms = decompose(model, tokens)
    by_token, by_vector = attribute(terms, 3), attribute(terms, model.W_U[:, 3])
    for label in by_vector.labels:
        same(by_vector[label], by_token[label])
    assert set(by_token.labels) - set(by_vector.labels) <= {"b_U"}


def test_attributions_of_a_stream_worked_out_by_hand():
    """Without layers, with RMSNorm: token 0 is (3, 4), its position (0, -4); the stream (3, 0) has scale 3 / √2."""
    model = Transformer(Config(n_layers=0, d_model=2, n_ctx=1, d_vocab=2, norm="rms", norm_eps=1e-30)).double()
    with torch.no_grad():
        model.W_E.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        model.W_pos.copy_(torch.tensor([[0.0, -4.0]]))
        model.W_U.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        model.ln_final.w.copy_(torch.tensor([1.0, 2.0]))
        terms = decompose(model, torch.tensor([[0]]))
        frozen, recomputed = attribute(terms, 0), attribute(terms, 0, scale="recomputed")
    root = 2**0.5
    assert terms.labels == ["embed", "pos"]
    same(frozen.values.flatten(), torch.tensor([11 * root / 3, -8 * root / 3], dtype=torch.double))
    # without the position (3, 4) has scale 5 / √2, and the logit is 11 √2 / 5; it was √2
    same(recomputed["pos"], torch.tensor([[root - 11 * root / 5]], dtype=torch.double))


@theorem
@given(models(), st.integers(0, 99))
def test_the_logit_lens_ends_in_the_logits_bit_for_bit(model, seed):
    tokens = batch(seed)
    lens = logit_lens(model, tokens)
    assert lens.shape == (model.config.n_layers + 1, 3, N_POS, D_VOCAB)
    assert torch.equal(lens[-1], model(tokens))
    same(logit_lens(model, tokens, positions=-1), lens[:, :, -1])
    same(logit_lens(model, tokens, positions=[2, 0]), lens[:, :, [2, 0]])


@theorem
@given(models(min_layers=1), st.integers(0, 99))
def test_the_logit_lens_reads_each_stream_through_the_final_norm(model, seed):
    tokens = batch(seed)
    model(tokens, tap=(seen := record("*.resid_pre")))
    for layer, logits in enumerate(logit_lens(model, tokens)[:-1]):
        expected = final_norm(model, seen[f"blocks.{layer}.resid_pre"]) @ model.W_U
        same(logits, expected if model.b_U is None else expected + model.b_U)


@theorem
@given(models(min_layers=1), st.integers(0, 99))
def test_heads_collects_heads_by_layer_and_sources_into_them(model, seed):
    tokens = batch(seed)
    by_head = attribute(decompose(model, tokens), 2)
    assert by_head.heads.shape == (model.config.n_layers, N_HEADS, 3, N_POS)
    same(by_head.heads[0, 1], by_head["0.1"])
    same(by_head.heads[-1, 3], by_head[f"{model.config.n_layers - 1}.3"])
    same(attribute(decompose(model, tokens, by="source"), 2).heads, by_head.heads)


def padded(seed):
    """Return a batch whose second example is two tokens shorter, padded on the left."""
    tokens, mask = batch(seed, size=2), torch.ones(2, N_POS, dtype=torch.bool)
    mask[1, :2] = False
    return tokens, mask


@theorem
@given(models(), st.integers(0, 99))
def test_a_padded_example_is_attributed_as_it_is_alone(model, seed):
    tokens, mask = padded(seed)
    together = attribute(decompose(model, tokens, mask=mask), (2, 5))
    alone = attribute(decompose(model, tokens[1:, 2:]), (2, 5))
    assert together.labels == alone.labels
    same(together.values[:, 1:, 2:], alone.values)
    same(logit_lens(model, tokens, mask=mask)[:, 1:, 2:], logit_lens(model, tokens[1:, 2:]))


def test_gradients_flow_through_an_attribution():
    model = Transformer(Config(n_layers=2, d_model=6, n_heads=2, d_head=3, n_ctx=4, d_vocab=7, norm="layer")).double()
    tokens = batch(0)
    attribute(decompose(model, tokens), 2)["0.1"].sum().backward()
    assert model.blocks[0].attn.W_O.grad[1].abs().max() > 0


SMALL = Transformer(Config(n_layers=1, d_model=6, n_heads=2, d_head=3, n_ctx=4, d_vocab=7))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: decompose(SMALL, batch(0), layer=2), ValueError, "there is no layer 2"),
        (lambda: decompose(SMALL, batch(0), by="heads"), ValueError, "choose from head"),
        (lambda: decompose(SMALL, batch(0), neurons=[0]), ValueError, "layer 0 has no MLP"),
        (lambda: decompose(SMALL, batch(0))["0.2"], KeyError, "choose from 0.0"),
        (lambda: attribute(decompose(SMALL, batch(0)), 7), ValueError, "token 7 is out of range"),
        (lambda: attribute(decompose(SMALL, batch(0)), (1, 2, 3)), ValueError, "a pair"),
        (lambda: attribute(decompose(SMALL, batch(0)), [1, 2]), TypeError, "this is list"),
        (lambda: attribute(decompose(SMALL, batch(0)), torch.zeros(4)), ValueError, "d_model = 6"),
        (lambda: attribute(decompose(SMALL, batch(0)), torch.tensor([1, 2])), ValueError, "3 examples"),
        (lambda: attribute(decompose(SMALL, batch(0)), 1, scale="froze"), ValueError, "choose from frozen"),
        (lambda: decompose(SMALL, batch(0)).along(torch.ones(7)), ValueError, "a direction [7] does not fit a stream"),
        (lambda: decompose(SMALL, batch(0)).along(torch.ones(2, 4, 6)), ValueError, "a direction [2, 4, 6] does not"),
        (lambda: attribute(decompose(SMALL, batch(0)), 1)["0.2"], KeyError, "choose from 0.0"),
        (lambda: attribute(decompose(SMALL, batch(0), by="component"), 1).heads, ValueError, 'by="head"'),
        (lambda: logit_lens(SMALL, batch(0), positions=4), ValueError, "there is no position 4 among 4"),
        (lambda: logit_lens(SMALL, batch(0), positions=[]), ValueError, "positions is [], which selects none of 4"),
        (lambda: logit_lens(SMALL, batch(0), positions="1"), ValueError, "positions must be whole numbers"),
        (lambda: logit_lens(SMALL, batch(0), positions=1.5), ValueError, "positions must be whole numbers"),
        (lambda: logit_lens(SMALL, batch(0), positions=[[0, 1]]), ValueError, "positions must be whole numbers"),
        (lambda: decompose(SMALL, batch(0), layer=1.0), ValueError, "a layer is a whole number; 1.0 is not"),
        (lambda: decompose(SMALL, batch(0), neurons=0), ValueError, "layer 0 has no MLP"),
        (lambda: attribute(decompose(SMALL, batch(0)), torch.tensor([True] * 3)), TypeError, "this is Tensor"),
    ],
)
def test_mistakes_give_readable_errors(call, error, words):
    with pytest.raises(error) as raised:
        call()
    assert words in str(raised.value)


@pytest.mark.parametrize("kind", [np.int64, torch.tensor, lambda x: torch.tensor(x, dtype=torch.int8)])
def test_numbers_of_numpy_and_torch_are_numbers(kind):
    model = Transformer(Config(n_layers=2, d_model=6, n_heads=2, d_head=3, n_ctx=4, d_vocab=7, d_mlp=5))
    terms = decompose(model, batch(0), neurons=0)
    assert terms.labels == decompose(model, batch(0), neurons=[0]).labels and "mlp.0.4" in terms.labels
    for token, plain in ((kind(3), 3), ((kind(3), 4), (3, 4))):
        assert torch.equal(attribute(terms, token).values, attribute(terms, plain).values)
    assert torch.equal(logit_lens(model, batch(0), positions=kind(2)), logit_lens(model, batch(0), positions=2))
