"""Sampling: the cache changes no result, each sampler follows its definition, a wide beam is exhaustive search."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from residual import Config, Transformer, ablate, at, compose, freeze, patch, record, steer
from residual.sampling import beam, generate
from residual.taps import per_example

seeds = st.integers(0, 2**32 - 1)


@st.composite
def causal_models(draw):
    """Draw every kind of causal model, in float64, with weights large enough for varied text."""
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
    text, (beams, _) = generate(model, tokens, 5), beam(model, tokens, 3, width)
    for row in range(3):
        alone = tokens[row : row + 1]
        assert torch.equal(generate(model, alone, 5)[0], text[row])
        assert torch.equal(beam(model, alone, 3, width)[0][0], beams[row])


@settings(max_examples=10, deadline=None)
@given(causal_models())
def test_a_beam_of_one_is_greedy(model):
    tokens = prompts(2, 3)
    assert torch.equal(beam(model, tokens, 6, 1)[0][:, 0], generate(model, tokens, 6))


@settings(max_examples=10, deadline=None)
@given(causal_models(), st.integers(1, 25))
def test_a_wide_beam_is_exhaustive_search(model, keep):
    """With width 25 = d_vocab² nothing is dropped: the best continuations are the best of all 125."""
    tokens = prompts(1, 2)
    endings = torch.tensor(list(itertools.product(range(5), repeat=3)))
    text = torch.cat([tokens.expand(125, -1), endings], dim=1)
    steps = model(text[:, :-1]).log_softmax(dim=-1)[:, 1:]  # log-probabilities of each token after the prompt
    total = steps.gather(-1, endings[:, :, None])[:, :, 0].sum(dim=-1)
    best = total.sort(descending=True, stable=True)
    beams, score = beam(model, tokens, 3, 25)
    torch.testing.assert_close(score[0], best.values[:25])
    distinct = keep if keep < 25 and best.values[keep - 1] - best.values[keep] > 1e-9 else 0
    assert {tuple(row) for row in beams[0, :distinct, 2:].tolist()} == {
        tuple(endings[i].tolist()) for i in best.indices[:distinct]
    }


@st.composite
def padded(draw):
    """Draw prompts of unequal length, padded on the left."""
    lengths = draw(st.lists(st.integers(1, 4), min_size=2, max_size=3))
    mask = torch.tensor([[position >= 4 - length for position in range(4)] for length in lengths])
    return prompts(len(lengths), 4, draw(seeds)), mask


@settings(max_examples=40, deadline=None)
@given(causal_models(), padded(), st.sampled_from([None, 1, 3]))
def test_prompts_of_unequal_length_continue_as_each_alone(model, text, chunk):
    tokens, mask = text
    generated = generate(model, tokens, 6, chunk=chunk, mask=mask)
    assert torch.equal(generate(model, tokens, 6, mask=mask, cached=False), generated)
    beams, score = beam(model, tokens, 3, 2, chunk=chunk, mask=mask)
    for row, real in enumerate(mask):
        alone = tokens[row : row + 1, real]
        assert torch.equal(generate(model, alone, 6)[0], generated[row, 4 - alone.shape[1] :])
        best, best_score = beam(model, alone, 3, 2)
        torch.testing.assert_close(score[row], best_score[0])
        if (best_score[0, 0] - best_score[0, 1]).abs() > 1e-9:
            assert torch.equal(best[0], beams[row, :, 4 - alone.shape[1] :])


def written_slowly(model, tokens, n, act):
    """Return greedy text by ``act(text)``, the tap for the text so far, and the smallest lead of a chosen token."""
    lead = math.inf
    for _ in range(n):
        best = model(tokens, tap=act(tokens))[:, -1].topk(2, dim=-1)
        lead = min(lead, (best.values[:, 0] - best.values[:, 1]).min().item())
        tokens = torch.cat([tokens, best.indices[:, :1]], dim=1)
    return tokens, lead


@st.composite
def steering(draw):
    """Draw a tap, and an equivalent written by hand for the whole text of any length."""
    model = draw(causal_models().filter(lambda model: model.config.n_layers))
    layer = draw(st.integers(0, model.config.n_layers - 1))
    name = f"blocks.{layer}.{draw(st.sampled_from(['resid_pre', 'attn_out', 'attn.z', 'resid_post']))}"
    seen, other = record([name, "embed"]), prompts(2, 4, draw(seeds))
    model(other, tap=seen)
    value, positions = (
        seen[name].detach(),
        draw(st.sampled_from([None, 0, [1, 3, 6], slice(2, 7), per_example([5, 0])])),
    )
    direction = 2 * torch.randn(value.shape[-1], generator=torch.Generator().manual_seed(layer)).double()
    kind = draw(st.sampled_from(["steer", "ablate", "mean", "patch", "freeze", "at", "both"]))
    by_head = name.endswith(".z") and kind in ("steer", "ablate", "mean", "patch")
    heads = draw(st.sampled_from([None, f"{layer}.0"])) if by_head else None
    tap = {
        "steer": steer(name, direction, positions=positions, heads=heads),
        "ablate": ablate(name, positions=positions, heads=heads),
        "mean": ablate(name, "mean", {name: value}, heads=heads, across_positions=True),
        "patch": patch({name: value}, positions=positions, heads=heads),
        "freeze": freeze({name: value}),
        "at": at(name, lambda x: x + direction),
        "both": compose(steer(name, direction), at("embed", lambda x: 1.5 * x)),
    }[kind]

    def act(text):
        def edit(name_here, x):
            if kind == "both" and name_here == "embed":
                return 1.5 * x
            if name_here != name:
                return x
            x, length = x.clone(), text.shape[1]
            for row, position in itertools.product(range(len(x)), range(length)):
                there = positions is None or kind in ("mean", "freeze", "at", "both")
                if isinstance(positions, per_example):
                    there = there or position == positions.positions[row]
                elif not there:
                    listed = range(*positions.indices(length)) if isinstance(positions, slice) else positions
                    there = position in (listed if isinstance(listed, list | range) else [listed])
                for head in range(x.shape[2]) if heads is None and x.ndim == 4 else [0] if x.ndim == 4 else [...]:
                    if there and kind in ("steer", "at", "both"):
                        x[row, position, head] += direction
                    elif there and kind == "ablate":
                        x[row, position, head] = 0
                    elif there and kind == "mean":
                        x[row, position, head] = value.mean(dim=(0, 1))[head]
                    elif there and position < 4:
                        x[row, position, head] = value[row, position, head]
            return x

        return edit

    return model, tap, act


@settings(max_examples=80, deadline=None)
@given(steering(), st.sampled_from([None, 1, 2]))
def test_steering_while_writing_equals_the_slow_loop(steered, chunk):
    model, tap, act = steered
    tokens = prompts(2, 3)
    expected, lead = written_slowly(model, tokens, 6, act)
    assume(lead > 1e-9)
    assert torch.equal(generate(model, tokens, 6, tap=tap, chunk=chunk), expected)
    assert torch.equal(generate(model, tokens, 6, tap=tap, cached=False), expected)
    assert torch.equal(beam(model, tokens, 6, 1, tap=tap)[0][:, 0], expected)


@settings(max_examples=25, deadline=None)
@given(steering(), st.sampled_from([None, 1, 2]))
def test_a_steered_beam_is_the_same_with_and_without_a_cache(steered, chunk):
    """Each beam uses the positions and recorded values of its own example."""
    model, tap, _ = steered
    tokens = prompts(2, 3)
    text, score = beam(model, tokens, 4, 3, tap=tap, chunk=chunk)
    expected, expected_score = beam(model, tokens, 4, 3, tap=tap, cached=False)
    torch.testing.assert_close(score, expected_score)
    if (expected_score.diff(dim=1).abs() > 1e-9).all():
        assert torch.equal(text, expected)


def test_records_made_while_generating_can_be_used_with_gradients():
    model, seen = Transformer(Config(1, 6, 2, 3, 12, 5)), record("blocks.0.attn.z")
    generate(model, prompts(1, 3), 2, tap=seen)
    assert seen["blocks.0.attn.z"].shape[1] == 1, "the last pass computed one position"
    direction = torch.nn.Parameter(torch.ones(3))
    (seen["blocks.0.attn.z"] * direction).sum().backward()


class Digits:
    """A vocabulary of the digits 0 to 4."""

    def tokens(self, texts):
        texts = [texts] if isinstance(texts, str) else texts
        width = max(len(text) for text in texts)
        marks = torch.tensor([[False] * (width - len(text)) + [True] * len(text) for text in texts])
        return torch.tensor([[0] * (width - len(text)) + [int(digit) for digit in text] for text in texts]), marks


def test_a_text_can_be_continued():
    model, tokens = Transformer(Config(1, 6, 2, 3, 12, 5, init_std=0.8)), torch.tensor([[2, 4, 1]])
    model.vocabulary = Digits()
    expected = generate(model, tokens, 5)
    assert torch.equal(generate(model, "241", np.int64(5)), expected)
    assert torch.equal(generate(model, [[2, 4, 1]], 5), expected)
    assert torch.equal(generate(model, ["1", "241"], 5)[1:], expected)
    assert torch.equal(beam(model, "241", np.int64(5), np.int64(1))[0][:, 0], expected)


def frequencies(model, draws=20_000, **sampler):
    """Return how often each token follows token 2, and the model's own probabilities."""
    tokens = torch.full((draws, 1), 2)
    drawn = generate(model, tokens, 1, **sampler)[:, 1]
    probabilities = model(tokens[:1])[0, 0].softmax(dim=-1)
    return drawn.bincount(minlength=5) / draws, probabilities.detach()


def zero_layer(logits):
    """Return a model with these logits after token 2."""
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
    """Within five standard deviations for each token, in any order of tokens; excluded tokens are never drawn."""
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


def test_generated_text_can_be_trained_on():
    model = Transformer(Config(1, 6, 2, 3, 12, 5))
    text = generate(model, prompts(1, 3), 4)
    model(text).sum().backward()
    assert model.W_E.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.9}])
def test_a_temperature_near_zero_is_greedy_in_any_precision(dtype, options):
    """Logits of a few units divided by 10⁻⁵ overflow float16, so only their differences are divided."""
    model, tokens = Transformer(Config(1, 6, 2, 3, 12, 5, init_std=2.0)).to(dtype), prompts(2, 3)
    assert torch.equal(generate(model, tokens, 4, temperature=1e-5, **options), generate(model, tokens, 4))


def test_adding_no_tokens_returns_the_prompt():
    model, tokens = Transformer(Config(1, 6, 2, 3, 12, 5)), prompts(2, 3)
    assert torch.equal(generate(model, tokens, 0), tokens)
    assert torch.equal(generate(model, tokens[:, :0], 0), tokens[:, :0])


@pytest.mark.parametrize(
    "call, says",
    [
        (
            lambda m: generate(m, prompts(1, 3), 10),
            "3 tokens and 10 more do not fit into the model's context, n_ctx = 12",
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
        (lambda m: generate(m, prompts(1, 3)[:, :0], 1), r"tokens have shape \[1, 0\]; there must be at least one"),
        (lambda m: generate(m, prompts(1, 3)[:0], 1), r"tokens have shape \[0, 3\]; there must be at least one text"),
        (lambda m: generate(m, prompts(1, 3), True), "n is True; it must be a whole number"),
        (lambda m: generate(m, prompts(1, 3), 1, mask=torch.tensor([[True, True, False]])), "pad on the left"),
        (lambda m: generate(m, prompts(1, 3), 1, mask=torch.ones(1, 4) > 0), r"it must be torch.bool \[1, 3\]"),
        (lambda m: generate(m, prompts(1, 3), 1, tap=ablate("*.z", positions=-1)), "position -1 counts from the end"),
        (lambda m: generate(m, prompts(1, 3), 1, tap=ablate("*.z", positions=slice(-2, None))), "counts from the end"),
        (lambda m: generate(m, prompts(2, 3), 1, tap=ablate("*.z", "mean")), "means and resamples need a reference"),
        (
            lambda m: generate(m, prompts(1, 3), 1, tap=freeze({"blocks.0.attn.pattern": torch.ones(1, 2, 3, 3)})),
            "both grow",
        ),
        (lambda m: beam(m, prompts(1, 3)[:, :0], 1, 2), r"tokens have shape \[1, 0\]; there must be at least one text"),
        (lambda m: beam(m, prompts(1, 3), 1, 6), "there are only 5 continuations of 1 tokens; a beam of width 6"),
        (lambda m: beam(m, prompts(1, 3), 1, 0), "width is 0"),
    ],
)
def test_bad_input_is_a_readable_error(call, says):
    with pytest.raises(ValueError, match=says):
        call(Transformer(Config(1, 6, 2, 3, 12, 5)))


def test_a_bidirectional_model_has_no_next_token():
    model = Transformer(Config(1, 6, 2, 3, 12, 5, causal=False))
    with pytest.raises(ValueError, match="each new token changes all earlier positions; give cached=False"):
        generate(model, prompts(1, 3), 1)
    assert generate(model, prompts(1, 3), 1, cached=False).shape == (1, 4)


@pytest.mark.parametrize("cached", [True, False])
def test_a_beam_steers_each_example_its_own_way(cached):
    model = Transformer(Config(1, 6, 2, 3, 12, 5, init_std=0.8), 3).double()
    direction = torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(0)).double()
    beams, scores = beam(model, prompts(2, 3), 4, 3, tap=steer("embed", direction), cached=cached)
    for i in range(2):
        alone = beam(model, prompts(2, 3)[i : i + 1], 4, 3, tap=steer("embed", direction[i, 0]), cached=cached)
        assert torch.equal(beams[i], alone[0][0])
        torch.testing.assert_close(scores[i], alone[1][0])
