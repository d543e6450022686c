"""Sampling: the cache changes nothing, each sampler does what its definition says, a wide beam is exhaustive search."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual import Config, Transformer
from residual.sampling import beam, generate

seeds = st.integers(0, 2**32 - 1)


@st.composite
def causal_models(draw):
    """Every kind of causal model, in float64, with weights large enough for text that varies."""
    heads, kv_heads = draw(st.sampled_from([(1, None), (2, 1), (4, 2)]))
    config = Config(
        n_layers=draw(st.integers(0, 2)),
        d_model=draw(st.integers(2, 6)),
        n_heads=heads,
        d_head=2,
        n_ctx=12,
        d_vocab=5,
        positions=draw(st.sampled_from(["learned", "shortformer", "rotary", "none"])),
        init_std=0.8,
        d_mlp=draw(st.sampled_from([0, 5])),
        act=draw(st.sampled_from(["gelu_new", "swiglu"])),
        norm=draw(st.sampled_from(["none", "layer", "rms"])),
        n_kv_heads=kv_heads,
        rotary_interleaved=draw(st.booleans()),
        smeared_keys=draw(st.booleans()),
    )
    return Transformer(config, draw(seeds)).double()


samplers = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        dict(
            temperature=st.floats(0.2, 3),
            top_k=st.sampled_from([None, 1, 2, 4, 9]),
            top_p=st.sampled_from([None, 0.1, 0.5, 0.9, 1.0]),
            seed=st.integers(0, 1000),
        )
    ),
)


def prompts(batch, length, seed=0, d_vocab=5):
    return torch.randint(d_vocab, (batch, length), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(causal_models(), st.lists(st.integers(1, 11), max_size=5), seeds)
def test_any_chunking_gives_the_same_logits(model, cuts, seed):
    tokens = prompts(2, 12, seed)
    cache, edges = model.cache(2), [0, *sorted(set(cuts)), 12]
    with torch.no_grad():
        parts = [model(tokens[:, i:j], cache=cache) for i, j in itertools.pairwise(edges)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), atol=1e-11, rtol=1e-9)
    assert cache.length == 12


@settings(max_examples=40, deadline=None)
@given(causal_models(), samplers, st.integers(1, 3), st.integers(1, 6), st.sampled_from([None, 1, 2, 4]))
def test_cached_equals_uncached(model, sampler, batch, length, chunk):
    tokens = prompts(batch, length)
    expected = generate(model, tokens, 12 - length, cached=False, **sampler)
    assert torch.equal(generate(model, tokens, 12 - length, chunk=chunk, **sampler), expected)
    assert torch.equal(expected[:, :length], tokens) and expected.max() < 5


@settings(max_examples=25, deadline=None)
@given(causal_models(), st.integers(1, 3), st.integers(1, 5), st.sampled_from([None, 1, 2]))
def test_cached_beam_equals_uncached(model, batch, width, chunk):
    tokens = prompts(batch, 5)
    text, score = beam(model, tokens, 4, width, chunk=chunk)
    expected, expected_score = beam(model, tokens, 4, width, cached=False)
    assert torch.equal(text, expected)
    torch.testing.assert_close(score, expected_score)


@settings(max_examples=10, deadline=None)
@given(causal_models())
def test_greedy_takes_the_likeliest(model):
    text = generate(model, prompts(3, 2), 10)
    assert torch.equal(model(text[:, :-1])[:, 1:].argmax(dim=-1), text[:, 2:])


@settings(max_examples=10, deadline=None)
@given(causal_models(), st.integers(1, 6))
def test_a_batch_is_its_rows(model, width):
    tokens = prompts(3, 4)
    text, (found, _) = generate(model, tokens, 5), beam(model, tokens, 3, width)
    for row in range(3):
        alone = tokens[row : row + 1]
        assert torch.equal(generate(model, alone, 5)[0], text[row])
        assert torch.equal(beam(model, alone, 3, width)[0][0], found[row])


@settings(max_examples=10, deadline=None)
@given(causal_models())
def test_a_beam_of_one_is_greedy(model):
    tokens = prompts(2, 3)
    assert torch.equal(beam(model, tokens, 6, 1)[0][:, 0], generate(model, tokens, 6))


@settings(max_examples=10, deadline=None)
@given(causal_models(), st.integers(1, 25))
def test_a_wide_beam_is_exhaustive_search(model, keep):
    """Nothing is dropped on the way at width 25 = d_vocab²: its best are the best of all 125 continuations."""
    tokens = prompts(1, 2)
    endings = torch.tensor(list(itertools.product(range(5), repeat=3)))
    text = torch.cat([tokens.expand(125, -1), endings], dim=1)
    steps = model(text[:, :-1]).log_softmax(dim=-1)[:, 1:]  # of each token after the prompt
    total = steps.gather(-1, endings[:, :, None])[:, :, 0].sum(dim=-1)
    best = total.sort(descending=True, stable=True)
    found, score = beam(model, tokens, 3, 25)
    torch.testing.assert_close(score[0], best.values[:25])
    distinct = keep if keep < 25 and best.values[keep - 1] - best.values[keep] > 1e-9 else 0
    assert {tuple(row) for row in found[0, :distinct, 2:].tolist()} == {
        tuple(endings[i].tolist()) for i in best.indices[:distinct]
    }


def frequencies(model, draws=20_000, **sampler):
    """How often each token follows token 2, with the model's own probabilities."""
    tokens = torch.full((draws, 1), 2)
    drawn = generate(model, tokens, 1, **sampler)[:, 1]
    probabilities = model(tokens[:1])[0, 0].softmax(dim=-1)
    return drawn.bincount(minlength=5) / draws, probabilities.detach()


def zero_layer(logits):
    """A model after whose token 2 come these logits."""
    model = Transformer(Config(0, 1, 1, 1, 12, 5, "none")).double()
    with torch.no_grad():
        model.W_E.fill_(1.0)
        model.W_U.copy_(torch.tensor(logits).double()[None])
    return model


LIKELIHOODS = [0.4, 0.3, 0.15, 0.1, 0.05]


@pytest.mark.parametrize(
    "sampler, expected",
    [
        (dict(temperature=1.0), LIKELIHOODS),
        (dict(temperature=0.5), [p**2 / sum(q**2 for q in LIKELIHOODS) for p in LIKELIHOODS]),
        (dict(temperature=1.0, top_k=2), [4 / 7, 3 / 7, 0, 0, 0]),
        (dict(temperature=1.0, top_k=9), LIKELIHOODS),
        (dict(temperature=1.0, top_p=0.75), [0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0, 0]),
        (dict(temperature=1.0, top_p=0.01), [1, 0, 0, 0, 0]),
        (dict(temperature=1.0, top_p=1.0), LIKELIHOODS),
        (dict(temperature=1.0, top_k=3, top_p=0.5), [4 / 7, 3 / 7, 0, 0, 0]),
    ],
)
def test_frequencies_are_those_of_the_definition(sampler, expected):
    """Within five standard deviations, for each token; what may not be drawn never is. Order must not matter."""
    order = [3, 0, 4, 1, 2]
    logits = [0.0] * 5
    for rank, token in enumerate(order):
        logits[token] = math.log(LIKELIHOODS[rank])
    seen, _ = frequencies(zero_layer(logits), **sampler)
    for rank, token in enumerate(order):
        p = expected[rank]
        assert abs(seen[token].item() - p) <= 5 * math.sqrt(p * (1 - p) / 20_000), (rank, seen[token], p)


def test_equally_likely_tokens_do_not_widen_top_k():
    seen, _ = frequencies(zero_layer([0.0] * 5), draws=500, temperature=1.0, top_k=2)
    assert (seen > 0).sum() == 2


def test_the_seed_alone_decides():
    model, tokens = Transformer(Config(1, 6, 2, 3, 12, 5)), prompts(2, 3)
    state = torch.random.get_rng_state()
    first = generate(model, tokens, 9, temperature=1.0, seed=1)
    torch.manual_seed(5)
    assert torch.equal(generate(model, tokens, 9, temperature=1.0, seed=1), first)
    assert not torch.equal(generate(model, tokens, 9, temperature=1.0, seed=2), first)
    torch.random.set_rng_state(state)
    generate(model, tokens, 9, temperature=1.0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_is_generated_can_be_trained_on():
    model = Transformer(Config(1, 6, 2, 3, 12, 5))
    text = generate(model, prompts(1, 3), 4)
    model(text).sum().backward()
    assert model.W_E.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.9}])
def test_a_temperature_near_zero_is_greedy_in_any_precision(dtype, options):
    """Logits of a few units, divided by 10⁻⁵, are more than float16 can hold; their differences need not be held."""
    model, tokens = Transformer(Config(1, 6, 2, 3, 12, 5, init_std=2.0)).to(dtype), prompts(2, 3)
    assert torch.equal(generate(model, tokens, 4, temperature=1e-5, **options), generate(model, tokens, 4))


def test_nothing_to_add():
    model, tokens = Transformer(Config(1, 6, 2, 3, 12, 5)), prompts(2, 3)
    assert torch.equal(generate(model, tokens, 0), tokens)
    assert torch.equal(generate(model, tokens[:, :0], 0), tokens[:, :0])


@pytest.mark.parametrize(
    "call, says",
    [
        (
            lambda m: generate(m, prompts(1, 3), 10),
            "3 tokens and 10 more are longer than the model's context, n_ctx = 12",
        ),
        (lambda m: generate(m, prompts(1, 3)[0], 1), r"tokens have shape \[3\]; a sampler takes \[batch pos\]"),
        (lambda m: generate(m, prompts(1, 3), -1), "n is -1; it must be a whole number"),
        (lambda m: generate(m, prompts(1, 3), 1, temperature=-1.0), "temperature is -1.0; it must be 0 "),
        (lambda m: generate(m, prompts(1, 3), 1, temperature=float("nan")), "temperature is nan"),
        (lambda m: generate(m, prompts(1, 3), 1, temperature=1.0, top_k=0), "top_k is 0; it must be a whole number"),
        (lambda m: generate(m, prompts(1, 3), 1, temperature=1.0, top_p=0.0), "top_p is 0.0; it must be above 0"),
        (lambda m: generate(m, prompts(1, 3), 1, top_k=3), "top_k and top_p have no effect at temperature 0"),
        (lambda m: generate(m, prompts(1, 3), 1, chunk=0), "chunk is 0"),
        (lambda m: generate(m, torch.tensor([[7]]), 1), "token 7 is out of range"),
        (lambda m: generate(m, prompts(1, 3)[:, :0], 1), r"tokens have shape \[1, 0\]; there must be a text"),
        (lambda m: generate(m, prompts(1, 3)[:0], 1), r"tokens have shape \[0, 3\]; there must be a text"),
        (lambda m: beam(m, prompts(1, 3)[:, :0], 1, 2), r"tokens have shape \[1, 0\]; there must be a text"),
        (lambda m: beam(m, prompts(1, 3), 1, 6), "there are 5 continuations of 1 tokens; a beam of width 6"),
        (lambda m: beam(m, prompts(1, 3), 1, 0), "width is 0"),
    ],
)
def test_bad_input_is_a_sentence(call, says):
    with pytest.raises(ValueError, match=says):
        call(Transformer(Config(1, 6, 2, 3, 12, 5)))


def test_a_bidirectional_model_has_no_next_token():
    with pytest.raises(ValueError, match="a bidirectional model has no cache"):
        generate(Transformer(Config(1, 6, 2, 3, 12, 5, causal=False)), prompts(1, 3), 1)
