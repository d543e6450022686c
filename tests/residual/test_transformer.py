"""The theorems of docs/notes/transformer.md, in float64.

Weights are drawn at random; the oracle is NumPy, a loop, autograd, a count, or a program that runs everything again.
"""

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from residual import Config, Transformer
from residual.methods.fold import fold_layernorm
from residual.methods.loss import next_token_loss
from residual.sampling import beam, generate
from residual.taps import at, record
from residual.training.corpus import corpus
from residual.training.train import train, windows

theorem = settings(deadline=None, max_examples=30, derandomize=True)
seeds = st.integers(0, 2**31 - 1)
GPT2_SMALL = Config(
    n_layers=12,
    d_model=768,
    n_heads=12,
    d_head=64,
    n_ctx=1024,
    d_vocab=50257,
    d_mlp=3072,
    norm="layer",
    tied=True,
    bias=True,
)


def gpt(seed: int, *, n_layers: int = 2, tied: bool = True, n_ctx: int = 9) -> Transformer:
    """Return a small GPT-2 with every weight, bias and norm scale far from its initial value."""
    config = Config(
        n_layers=n_layers,
        d_model=8,
        n_heads=2,
        d_head=4,
        n_ctx=n_ctx,
        d_vocab=11,
        d_mlp=16,
        norm="layer",
        tied=tied,
        bias=True,
        init_std=0.5,
    )
    model = Transformer(config, seed=seed).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if not name.split(".")[-1].startswith("W_"):
            weight += 0.3 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return model


def some_tokens(seed: int, batch: int = 2, pos: int = 9) -> Tensor:
    return torch.randint(11, (batch, pos), generator=torch.Generator().manual_seed(seed))


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Parameters


@theorem
@given(*[st.integers(1, 5)] * 5, st.booleans())
def test_parameter_count(n_layers: int, heads: int, d_head: int, vocab: int, n_ctx: int, tied: bool) -> None:
    """V d + n d + L (12 d² + 13 d) + 2 d with d_mlp = 4 d and heads as wide as the stream; V d + V more, untied."""
    d = heads * d_head
    config = Config(
        n_layers=n_layers,
        d_model=d,
        n_heads=heads,
        d_head=d_head,
        n_ctx=n_ctx,
        d_vocab=vocab,
        d_mlp=4 * d,
        norm="layer",
        tied=tied,
        bias=True,
    )
    counted = sum(weight.numel() for weight in Transformer(config).parameters())
    formula = vocab * d + n_ctx * d + n_layers * (12 * d**2 + 13 * d) + 2 * d
    assert counted == formula + (0 if tied else vocab * d + vocab)


def test_gpt2_has_so_many_parameters() -> None:
    """The count of the released model, computed without allocating it."""
    with torch.device("meta"):
        model = Transformer(GPT2_SMALL)
    assert sum(weight.numel() for weight in model.parameters()) == 124_439_808


def by_numpy(model: Transformer, tokens: np.ndarray) -> np.ndarray:
    """Compute GPT-2 one token and one head at a time: logits [pos d_vocab] of tokens [pos]."""
    w = {name: weight.numpy() for name, weight in model.named_parameters()}
    c = model.config

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.sum() / c.d_model
        return centred / math.sqrt((centred @ centred) / c.d_model + c.norm_eps) * w[f"{name}.w"] + w[f"{name}.b"]

    past: list[dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]] = []
    logits = []
    for position, token in enumerate(tokens):
        x = w["W_E"][token] + w["W_pos"][position]
        past.append({})
        for layer in range(c.n_layers):
            b = f"blocks.{layer}"
            read, written = norm(x, f"{b}.ln1"), w[f"{b}.attn.b_O"]
            for h in range(c.n_heads):
                rows = [h, c.n_heads + h, 2 * c.n_heads + h]
                q, k, v = (w[f"{b}.attn.W_QKV"][i] @ read + w[f"{b}.attn.b_QKV"][i] for i in rows)
                past[-1][layer, h] = k, v
                weights = np.array([math.exp(q @ seen[layer, h][0] / math.sqrt(c.d_head)) for seen in past])
                moved = sum(a * seen[layer, h][1] for a, seen in zip(weights / weights.sum(), past, strict=True))
                written = written + moved @ w[f"{b}.attn.W_O"][h]
            x = x + written
            pre = norm(x, f"{b}.ln2") @ w[f"{b}.mlp.W_in"] + w[f"{b}.mlp.b_in"]
            gelu = pre / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (pre + 0.044715 * pre**3)))
            x = x + gelu @ w[f"{b}.mlp.W_out"] + w[f"{b}.mlp.b_out"]
        logits.append(norm(x, "ln_final") @ w["W_E"].T)
    return np.array(logits)


@theorem
@given(seeds)
def test_an_independent_implementation(seed: int) -> None:
    """A program of loops, with keys and values in lists, gives the model's logits."""
    model, tokens = gpt(seed), some_tokens(seed, batch=1)
    assert_close(model(tokens)[0], torch.from_numpy(by_numpy(model, tokens[0].numpy())))


# LayerNorm


@theorem
@given(st.integers(2, 40), st.floats(1e-3, 1e3), seeds)
def test_layernorm_is_a_point_on_a_sphere(width: int, size: float, seed: int) -> None:
    """Without w and b, every output is in the plane of mean 0, at distance √d σ / √(σ² + ε) from the origin."""
    x = size * normal(seed, 5, width) + 3 * size
    out, deviation = F.layer_norm(x, (width,), eps=1e-5), x.var(dim=-1, correction=0)
    assert_close(out.sum(dim=-1), torch.zeros(5, dtype=torch.float64), atol=1e-9, rtol=0)
    assert_close(out.norm(dim=-1), (width * deviation / (deviation + 1e-5)).sqrt())
    assert (out.norm(dim=-1) < math.sqrt(width)).all()


@theorem
@given(st.integers(2, 40), seeds)
def test_unit_length_is_no_layernorm(width: int, seed: int) -> None:
    """(x − x̄) / |x − x̄| is LayerNorm divided by √d, up to ε; with x.std()'s divisor d − 1, by √(d / (d − 1))."""
    x = normal(seed, 5, width)
    centred = x - x.mean(dim=-1, keepdim=True)
    right = F.layer_norm(x, (width,), eps=0.0)
    assert_close(math.sqrt(width) * centred / centred.norm(dim=-1, keepdim=True), right)
    assert_close(centred / x.std(dim=-1, keepdim=True) * math.sqrt(width / (width - 1)), right)


def untied(model: Transformer) -> Transformer:
    """Return the same function with a separate W_U, so that it can be changed alone."""
    config = Config(**{**vars(model.config), "tied": False})
    other = Transformer(config).to(model.W_E.dtype).requires_grad_(False)
    other.load_state_dict({**model.state_dict(), "W_U": model.W_E.T, "b_U": torch.zeros_like(model.W_E[:, 0])})
    return other


@theorem
@given(seeds)
def test_folding_leaves_the_logits(seed: int) -> None:
    """The logits, not only the probabilities: folding moves factors and drops nothing."""
    model, tokens = gpt(seed), some_tokens(seed)
    other = fold_layernorm(model)
    assert all((block.ln2.w == 1).all() and (block.ln2.b == 0).all() for block in other.blocks)
    assert_close(other(tokens), model(tokens))


@theorem
@given(seeds)
def test_centred_writing_leaves_the_logits(seed: int) -> None:
    """The outputs added to the stream may lose their mean over d_model: no norm sees it."""
    model, tokens = gpt(seed), some_tokens(seed)
    other = untied(model)
    writes = ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out")
    for name, weight in other.named_parameters():
        if name.split(".")[-1] in writes:
            weight -= weight.mean(dim=-1, keepdim=True)
    seen = record("*.resid_post")
    assert_close(other(tokens, tap=seen), model(tokens))
    for stream in seen.values():
        assert_close(stream.mean(dim=-1), torch.zeros_like(stream[..., 0]))


@theorem
@given(seeds)
def test_centring_the_unembedding(seed: int) -> None:
    """All logits of a position change by the same number, so no probability changes."""
    model, tokens = untied(gpt(seed)), some_tokens(seed)
    before = model(tokens)
    model.W_U -= model.W_U.mean(dim=1, keepdim=True)
    after = model(tokens)
    shift = (before - after).mean(dim=-1, keepdim=True)
    assert shift.abs().max() > 1e-3
    assert_close(before, after + shift)
    assert_close(before.log_softmax(dim=-1), after.log_softmax(dim=-1))


@theorem
@given(seeds)
def test_a_mean_must_stay_where_no_norm_removes_it(seed: int) -> None:
    """With RMSNorm, centered outputs make a different model."""
    config = Config(n_layers=1, d_model=8, n_heads=2, d_head=4, n_ctx=9, d_vocab=11, norm="rms", init_std=0.5)
    model, tokens = Transformer(config, seed=seed).double().requires_grad_(False), some_tokens(seed)
    before = model(tokens).log_softmax(dim=-1)
    model.W_E -= model.W_E.mean(dim=-1, keepdim=True)
    assert (model(tokens).log_softmax(dim=-1) - before).abs().max() > 1e-3


# Sampling


@theorem
@given(st.integers(2, 30), st.floats(0.2, 5), seeds)
def test_temperature_spreads(vocab: int, temperature: float, seed: int) -> None:
    """dH/dT is the variance of the logits over T³: never negative. The oracle is autograd."""
    logits = normal(seed, vocab)
    T = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    p = (logits / T).softmax(dim=-1)
    entropy = -(p * p.log()).sum()
    (slope,) = torch.autograd.grad(entropy, T)
    p = p.detach()
    variance = (p * (logits - (p * logits).sum()).square()).sum()
    assert_close(slope, variance / temperature**3)
    assert slope >= 0


@theorem
@given(st.integers(2, 30), seeds)
def test_ends_of_the_temperature(vocab: int, seed: int) -> None:
    """Near 0 the likeliest token gets all, near infinity all tokens get the same."""
    logits = normal(seed, vocab)
    assert (logits / 1e-6).softmax(dim=-1).argmax() == logits.argmax()
    assert_close((logits / 1e9).softmax(dim=-1), torch.full((vocab,), 1 / vocab, dtype=torch.float64))


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.floats(0.05, 0.999), seeds)
def test_top_p_keeps_the_fewest(top_p: float, seed: int) -> None:
    """Draws come from the smallest set that holds top_p, found by trying every number of tokens."""
    model = Transformer(Config(n_layers=0, d_model=11, d_vocab=11, positions="none", init_std=1.0), seed=seed).double()
    start = torch.zeros(600, 1, dtype=torch.long)
    p = model(start)[0, -1].softmax(dim=-1).detach()
    order = p.argsort(descending=True)
    fewest = next(k for k in range(1, 12) if k == 11 or p[order[:k]].sum() >= top_p)
    drawn = generate(model, start, 1, temperature=1.0, top_p=top_p)[:, 1].unique()
    assert set(drawn.tolist()) <= set(order[:fewest].tolist())
    likely = [int(token) for token in order[:fewest] if p[token] > 0.05]  # 600 draws miss it with probability 1e-13
    assert set(likely) <= set(drawn.tolist())


def chain(table: Tensor) -> Transformer:
    """Return a model without layers whose next-token probabilities are the rows of a table [d_vocab d_vocab]."""
    size = len(table)
    model = Transformer(Config(n_layers=0, d_model=size, n_ctx=8, d_vocab=size, positions="none")).double()
    model.requires_grad_(False)
    model.W_E.copy_(torch.eye(size))
    model.W_U.copy_(table.log().clamp_min(-60))
    return model


def test_a_beam_can_lose_to_greedy() -> None:
    """Two likely second steps push out the greedy one, and lead nowhere."""
    START, A, B, GOOD = range(4)
    table = torch.full((9, 9), 1 / 9, dtype=torch.float64)  # after the other tokens, anything
    table[START] = torch.tensor([0, 0.6, 0.4, 0, 0, 0, 0, 0, 0])
    table[A] = torch.tensor([0, 0, 0, 0.30, 0.10, 0.15, 0.15, 0.15, 0.15])
    table[B] = torch.tensor([0, 0, 0, 0, 0.5, 0.5, 0, 0, 0])
    table[GOOD] = torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 1.0])
    model, start = chain(table), torch.tensor([[START]])
    greedy = generate(model, start, 3)[0]
    assert greedy.tolist() == [START, A, GOOD, 8]
    of_greedy = math.log(0.6 * 0.30 * 1.0)
    _, of_beam = beam(model, start, 3, width=2)
    assert of_beam[0, 0] < of_greedy - 1
    _, of_all = beam(model, start, 3, width=81)  # nothing is dropped
    assert of_all[0, 0].item() == pytest.approx(of_greedy)


# The cache


@theorem
@given(seeds, st.integers(0, 8))
def test_the_past_does_not_change(seed: int, changed: int) -> None:
    """No activation at a position depends on a later token, which is why keys and values can be cached."""
    model, tokens = gpt(seed), some_tokens(seed)
    other = tokens.clone()
    other[:, changed] = (other[:, changed] + 1) % 11
    before, after = record("*"), record("*")
    model(tokens, tap=before)
    model(other, tap=after)
    for name in before:
        of_query = 2 if name.endswith(("scores", "pattern")) else 1  # the position axis
        assert_close(before[name].narrow(of_query, 0, changed), after[name].narrow(of_query, 0, changed))
    assert not torch.equal(before["blocks.1.attn.k"][:, changed], after["blocks.1.attn.k"][:, changed])


@theorem
@given(seeds, st.lists(st.integers(1, 4), min_size=1, max_size=9))
def test_cached_is_uncached(seed: int, chunks: list[int]) -> None:
    """With any chunks, every logit equals that of reading everything at once."""
    model, tokens = gpt(seed), some_tokens(seed, pos=min(9, sum(chunks)))
    cache, logits, begin = model.cache(batch=2), [], 0
    for size in chunks:
        if part := tokens[:, begin : begin + size].shape[1]:
            logits.append(model(tokens[:, begin : begin + size], cache=cache))
        begin += part
    assert_close(torch.cat(logits, dim=1), model(tokens))


@functools.cache
def without_data(config: Config) -> Transformer:
    with torch.device("meta"):
        return Transformer(config)


def flops(config: Config, old: int, new: int) -> int:
    """Return the FLOPs of the matrix products that read ``new`` tokens after ``old`` cached ones, on meta tensors."""
    model = without_data(config)
    with torch.device("meta"):
        cache, stream = model.cache(batch=1), torch.empty(1, new, config.d_model)
    cache.length = old
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.run_from(0, stream, cache=cache)
    return counter.get_total_flops()


@settings(theorem, max_examples=10)
@given(st.integers(1, 1024))
def test_recomputing_costs_n_times(n: int) -> None:
    """The n-th token costs L (24 d² + 4 n d) + 2 d V with a cache, and exactly n times that without."""
    d, with_cache = 768, flops(GPT2_SMALL, n - 1, 1)
    assert with_cache == 12 * (24 * d**2 + 4 * n * d) + 2 * d * 50257
    assert flops(GPT2_SMALL, 0, n) == n * with_cache


@pytest.mark.parametrize("queries,keys", [(2, 5), (1, 3)])
def test_is_causal_is_aligned_at_the_top_left(queries: int, keys: int) -> None:
    """torch's is_causal lets query i see keys 0 to i, as if nothing were cached; here the queries are the last ones."""
    q, k = torch.zeros(1, 1, queries, 4), torch.zeros(1, 1, keys, 4)
    pattern = F.scaled_dot_product_attention(q, k, torch.eye(keys)[None, None], is_causal=True)[0, 0]
    assert torch.equal(pattern > 0, torch.ones(queries, keys).tril().bool())
    meant = torch.ones(queries, keys).tril(diagonal=keys - queries).bool()
    assert not torch.equal(pattern > 0, meant)


@theorem
@given(seeds)
def test_a_cached_token_needs_its_own_position(seed: int) -> None:
    """Counted as offset + index, with all tokens passed again, token t gets position 2 t: other logits."""
    model, tokens = gpt(seed), some_tokens(seed)
    t = 4
    doubled = at("pos_embed", lambda _: model.W_pos[[*range(t), 2 * t]].expand(2, -1, -1))
    wrong, right = model(tokens[:, : t + 1], tap=doubled), model(tokens[:, : t + 1])
    assert_close(wrong[:, :t], right[:, :t])
    assert (wrong[:, t] - right[:, t]).abs().max() > 1e-3


@theorem
@given(seeds)
def test_a_window_cannot_slide(seed: int) -> None:
    """With learned positions, dropping the first token changes the keys of all others, so the cache is invalid."""
    model, tokens = gpt(seed), some_tokens(seed)
    whole, slid = record("*.attn.k"), record("*.attn.k")
    model(tokens, tap=whole)
    model(tokens[:, 1:], tap=slid)
    for name in whole:
        assert (whole[name][:, 1:] - slid[name]).abs().amax(dim=(0, 2, 3)).min() > 1e-6


# The experiment on a small scale


def test_a_small_model_learns_and_its_beam_is_unlike_the_text() -> None:
    """Seconds of training show the note's effects: a loss below the unigram entropy, and too likely a beam."""
    config = Config(n_layers=1, d_model=64, n_heads=2, d_head=32, n_ctx=48, d_mlp=128, norm="layer", init_std=0.05)
    text, model = corpus(), Transformer(config, seed=0)
    train(
        model,
        lambda step: next_token_loss(model, windows(text.train, 16, 49, step=step)),
        steps=150,
        lr=1e-2,
        warmup=15,
        clip=1.0,
    )
    held_out = windows(text.validation, 32, 49)
    frequency = torch.bincount(text.train, minlength=512).double() + 1
    frequency /= frequency.sum()
    with torch.no_grad():
        loss = next_token_loss(model, held_out)
        assert loss < -frequency[held_out].log().mean() - 0.5
        unit = at("*.scale", lambda scale: scale * math.sqrt(config.d_model))
        logits = model(held_out[:, :-1], tap=unit)
        assert F.cross_entropy(logits.flatten(0, 1), held_out[:, 1:].flatten()) > loss + 0.5

    prompt = held_out[:8, :8]
    drawn = generate(model, prompt, 24, temperature=1.0)
    likeliest, score = beam(model, prompt, 24, width=4)

    def surprise(tokens: Tensor) -> Tensor:
        with torch.no_grad():
            return F.cross_entropy(model(tokens[:, :-1]).mT, tokens[:, 1:], reduction="none")[:, 7:].mean()

    assert_close(surprise(likeliest[:, 0]), -score[:, 0].mean() / 24)
    assert surprise(likeliest[:, 0]) < 0.7 * surprise(held_out[:8, :32])
    assert surprise(drawn) > 0.8 * surprise(held_out[:8, :32])
