"""The theorems of logit-attribution: who gets the credit for a path, and when the methods agree with the truth."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from residual import Config, Transformer
from residual.methods.attribution import attribute, decompose, logit_lens
from residual.methods.shapley import alone, removed, shapley, subset_values, subsets
from residual.taps import ablate, compose, freeze, record

theorem = settings(deadline=None, max_examples=15)
seeds = st.integers(0, 2**31)
D_VOCAB = 7


def model_of(seed, n_layers=2, n_heads=2, **others):
    """Draw a model in float64 with large random weights."""
    sizes = {"d_model": 6, "n_heads": n_heads, "d_head": 3, "n_ctx": 5, "d_vocab": D_VOCAB}
    model = Transformer(Config(n_layers=n_layers, **sizes, **others)).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.copy_(0.7 * torch.randn(weight.shape, generator=generator, dtype=torch.double))
    return model


def tokens_of(seed):
    return torch.randint(D_VOCAB, (2, 5), generator=torch.Generator().manual_seed(seed))


def last_logit(logits):
    return logits[:, -1, 3].mean()


def by_loops(values):
    """Return the mean gain of each player over all orders."""
    n = len(values).bit_length() - 1
    orders = list(itertools.permutations(range(n)))
    gains = torch.zeros(n, dtype=values.dtype)
    for order in orders:
        s = 0
        for i in order:
            gains[i] += values[s | 1 << i] - values[s]
            s |= 1 << i
    return gains / len(orders)


@theorem
@given(seeds, st.integers(1, 2))
def test_in_the_last_layer_attribution_is_zero_ablation_if_there_is_no_norm(seed, n_layers):
    model, tokens = model_of(seed, n_layers), tokens_of(seed)
    credit = attribute(decompose(model, tokens), 3)
    for head in range(2):
        gone = model(tokens, tap=ablate(f"blocks.{n_layers - 1}.attn.z", "zero", heads=head))
        assert_close(credit[f"{n_layers - 1}.{head}"], (model(tokens) - gone)[..., 3])


@theorem
@given(seeds)
def test_heads_that_read_no_other_head_get_exactly_what_is_attributed(seed):
    """One layer without norm and MLP, zero in place of absent heads: the game is additive, and every method agrees."""
    model, tokens = model_of(seed, n_layers=1, n_heads=3), tokens_of(seed)
    values = subset_values(model, tokens, last_logit, instead="zero")
    credit = attribute(decompose(model, tokens), 3).heads[0, :, :, -1].mean(dim=1)
    for measured in (shapley, alone, removed):
        assert_close(measured(values), credit)


def frozen_values(model, tokens):
    """Return the value of each subset of heads, run one by one with the patterns of the whole model, zero instead."""
    model(tokens, tap=(seen := record("*.attn.pattern")))
    n_heads = model.config.n_heads
    found = []
    for member in subsets(model.config.n_layers * n_heads):
        gone = [f"{i // n_heads}.{i % n_heads}" for i, kept in enumerate(member.tolist()) if not kept]
        taps = [freeze(dict(seen)), *([ablate("*.attn.z", "zero", heads=gone)] if gone else [])]
        found.append(last_logit(model(tokens, tap=compose(*taps))))
    return torch.stack(found)


@theorem
@given(seeds, st.integers(2, 3))
def test_with_patterns_frozen_a_path_is_shared_evenly_by_its_heads(seed, n_layers):
    """Multiply the paths out with plain matrices; a path through k heads brings each of them 1/k."""
    model, tokens = model_of(seed, n_layers), tokens_of(seed)
    model(tokens, tap=(seen := record(["*.attn.pattern", "blocks.0.resid_pre"])))
    shares = torch.zeros(2 * n_layers, dtype=torch.double)
    last_credit = torch.zeros_like(shares)
    for path in itertools.product([None, 0, 1], repeat=n_layers):  # one head of each layer, or none
        x, members = seen["blocks.0.resid_pre"], []
        for layer, head in enumerate(path):
            if head is not None:
                attn = model.blocks[layer].attn
                x = seen[f"blocks.{layer}.attn.pattern"][:, head] @ x @ attn.W_V[head] @ attn.W_O[head]
                members.append(2 * layer + head)
        worth = (x @ model.W_U)[:, -1, 3].mean()
        for i in members:
            shares[i] += worth / len(members)
        if members:
            last_credit[members[-1]] += worth
    assert_close(shapley(frozen_values(model, tokens)), shares)
    # attribution gives all of each path to its last head
    assert_close(attribute(decompose(model, tokens), 3).heads[..., -1].mean(dim=2).flatten(), last_credit)


@theorem
@given(st.integers(2, 6), seeds)
def test_if_players_interact_in_pairs_at_most_the_mean_of_first_and_last_is_the_shapley_value(n, seed):
    generator = torch.Generator().manual_seed(seed)
    single, pairs = torch.randn(n, generator=generator).double(), torch.randn(n, n, generator=generator).double()
    member = subsets(n).double()
    values = member @ single + torch.einsum("si,ij,sj->s", member, pairs.triu(1), member)
    assert_close((alone(values) + removed(values)) / 2, by_loops(values) if n < 6 else shapley(values))


def gains_in(values, order):
    """Return what each player gains as players are added in this order."""
    gains, s = torch.zeros(len(order), dtype=values.dtype), 0
    for i in order:
        gains[i], s = values[s | 1 << i] - values[s], s | 1 << i
    return gains


@theorem
@given(st.integers(2, 6), seeds, st.data())
def test_an_order_and_its_reversal_sum_to_the_whole_and_are_exact_for_pairs(n, seed, data):
    generator = torch.Generator().manual_seed(seed)
    order, member = data.draw(st.permutations(range(n))), subsets(n).double()
    single, pairs = torch.randn(n, generator=generator).double(), torch.randn(n, n, generator=generator).double()
    values = member @ single + torch.einsum("si,ij,sj->s", member, pairs.triu(1), member)
    assert_close((gains_in(values, order) + gains_in(values, order[::-1])) / 2, shapley(values))
    values = torch.randn(2**n, generator=generator).double()  # any game
    both = (gains_in(values, order) + gains_in(values, order[::-1])) / 2
    assert_close(both.sum(), values[-1] - values[0])


def test_for_three_players_at_once_it_is_not():
    """v = 1 only if all three are there: each should get 1/3, and the mean of first and last is 1/2."""
    values = torch.zeros(8)
    values[7] = 1
    assert_close(by_loops(values), torch.full((3,), 1 / 3))
    assert_close((alone(values) + removed(values)) / 2, torch.full((3,), 1 / 2))


@theorem
@given(seeds)
def test_a_tied_embedding_of_equal_lengths_echoes_through_the_first_lens(seed):
    """By Cauchy-Schwarz: no other row of the same length has as large a product with a row as it has itself."""
    model = model_of(seed, tied=True, norm="rms", positions="none")
    model.ln_final.w.fill_(1)
    model.W_E.copy_(torch.nn.functional.normalize(model.W_E, dim=-1))
    tokens = tokens_of(seed)
    assert (logit_lens(model, tokens)[0].argmax(dim=-1) == tokens).all()
