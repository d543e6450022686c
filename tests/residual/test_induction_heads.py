"""The theorems of the note induction-heads: hand-set models that cannot fail, and the phase change on a small scale."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual import Config, Transformer
from residual.experiments.hand_set import induction, pointer_induction, smeared_induction
from residual.factored import FactoredMatrix
from residual.files import checkpoints
from residual.methods.circuits import positivity
from residual.methods.induction import in_context, prefix_matching_score, repeats
from residual.methods.loss import next_token_loss
from residual.taps import record
from residual.training.corpus import corpus
from residual.training.train import train, windows

sequences = st.integers(2, 6).flatmap(
    lambda d_vocab: st.tuples(st.just(d_vocab), st.lists(st.integers(1, d_vocab - 1), min_size=1, max_size=12))
)


def followers(tokens, i):
    """Return the tokens right after each earlier occurrence of the token at i, by a loop."""
    return [tokens[j + 1] for j in range(i) if tokens[j] == tokens[i]]


@settings(deadline=None, max_examples=200)
@given(sequences)
def test_the_model_by_hand_continues_every_sequence(given_):
    """If the current token came before, always followed by the same token, that token wins by a wide margin."""
    d_vocab, tokens = given_[0], [0, *given_[1]]
    logits = induction(d_vocab, 13)(torch.tensor([tokens]))[0]
    for i in range(1, len(tokens)):
        after = set(followers(tokens, i))
        if len(after) == 1:
            best = logits[i].topk(2)
            assert best.indices[0] == after.pop()
            assert best.values[0] > 1 - 1e-12 and best.values[1] < 1e-12


def test_the_model_by_hand_on_every_short_sequence():
    """All 3^7 sequences over an alphabet of three."""
    tokens = torch.tensor([[0, *rest] for rest in itertools.product((1, 2, 3), repeat=7)])
    answers = induction(4, 8)(tokens).argmax(dim=-1)
    checked = 0
    for row, answer in zip(tokens.tolist(), answers.tolist(), strict=True):
        for i in range(1, 8):
            after = set(followers(row, i))
            if len(after) == 1:
                assert answer[i] == after.pop()
                checked += 1
    assert checked > 5000


@settings(deadline=None, max_examples=200)
@given(sequences)
def test_the_model_by_hand_counts_bigrams_in_context(given_):
    """If the followers differ, the logits are their relative frequencies."""
    d_vocab, tokens = given_[0], [0, *given_[1]]
    logits = induction(d_vocab, 13)(torch.tensor([tokens]))[0]
    for i in range(1, len(tokens)):
        if after := followers(tokens, i):
            counts = torch.bincount(torch.tensor(after), minlength=d_vocab).double()
            assert torch.allclose(logits[i], counts / len(after), atol=1e-12, rtol=0)


@settings(deadline=None, max_examples=200)
@given(sequences, st.floats(0.5, 12))
def test_the_bound_on_the_attention(given_, sharpness):
    """At any sharpness s, the matches get at least m / (m + n exp(-s (1 - 2ε))), with ε = i / (i + exp s)."""
    d_vocab, tokens = given_[0], [0, *given_[1]]
    logits = induction(d_vocab, 13, sharpness)(torch.tensor([tokens]))[0]
    for i in range(1, len(tokens)):
        after = followers(tokens, i)
        if len(set(after)) == 1:
            m, n = len(after), i + 1 - len(after)
            epsilon = i / (i + math.exp(sharpness))
            bound = m / (m + n * math.exp(-sharpness * (1 - 2 * epsilon)))
            assert logits[i, after[0]].item() >= bound - 1e-12


@settings(deadline=None, max_examples=100)
@given(sequences)
def test_smeared_keys_do_it_in_one_layer(given_):
    d_vocab, tokens = given_[0], torch.tensor([[0, *given_[1]]])
    two_layers, one_layer = induction(d_vocab, 13)(tokens), smeared_induction(d_vocab, 13)(tokens)
    assert torch.allclose(one_layer, two_layers, atol=1e-12, rtol=0)


@settings(deadline=None, max_examples=100)
@given(sequences)
def test_pointer_arithmetic_counts_the_same_bigrams(given_):
    """If the current token came before, the second algorithm gives the logits of the first."""
    d_vocab, tokens = given_[0], [0, *given_[1]]
    answers = pointer_induction(d_vocab, 13)(torch.tensor([tokens]))[0]
    for i in range(1, len(tokens)):
        if after := followers(tokens, i):
            counts = torch.bincount(torch.tensor(after), minlength=d_vocab).double()
            assert torch.allclose(answers[i], counts / len(after), atol=1e-12, rtol=0)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 8), st.floats(1, 6))
def test_pointers_are_diluted_by_several_matches(m, sharpness):
    """With m earlier matches a pointer's score is at most s / m, so they get at most m / (m + n exp(-s / m))."""
    tokens = [0, *[1, 2] * m, 1]
    pattern = record("blocks.1.attn.pattern")
    pointer_induction(3, 20, sharpness)(torch.tensor([tokens]), tap=pattern)
    paid = pattern["blocks.1.attn.pattern"][0, 0, -1, 2:-1:2].sum().item()  # attention to the 2 after each earlier 1
    n = len(tokens) - m
    assert paid <= m / (m + n * math.exp(-sharpness / m)) + 1e-12


def test_one_layer_without_smeared_keys_cannot():
    """A counterexample for any one-layer model: two contexts that it cannot tell apart at the last position.

    Its output there is a sum over the earlier tokens of a function of (that token, its position, the last token). The
    contexts below swap tokens between two places; without positions, the sums are equal.
    """
    model = Transformer(Config(1, 16, 2, 8, 8, 6, positions="none", init_std=0.7), seed=3).double()
    first, second = torch.tensor([[0, 1, 2, 3, 4, 1]]), torch.tensor([[0, 1, 4, 3, 2, 1]])  # 1 was followed by 2, by 4
    assert torch.allclose(model(first)[0, -1], model(second)[0, -1], atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6))
def test_the_circuits_of_the_model_by_hand_are_identities(seed):
    """Its OV circuit, and its QK circuit through the previous-token head, are multiples of Id for any alphabet."""
    d_vocab = 2 + seed % 7
    model = induction(d_vocab, 9)
    before, match = (block.attn for block in model.blocks)
    ov = model.W_E @ match.W_OV(0).AB @ model.W_U
    assert torch.equal(ov, torch.eye(d_vocab).double())
    qk = model.W_E @ match.W_QK(0).AB @ (model.W_E @ before.W_OV(0).AB).mT
    assert torch.equal(qk, qk[0, 0] * torch.eye(d_vocab).double()) and qk[0, 0] > 0
    assert positivity(FactoredMatrix(qk, torch.eye(d_vocab).double())).item() == pytest.approx(1)


def test_the_score_of_the_model_by_hand_is_nearly_one():
    """Not quite 1: these sequences begin with any token, and the first token can attend only to itself."""
    before, match = prefix_matching_score(induction(40, 40), periods=(8, 16)).flatten().tolist()
    assert before < 0.2 and 0.95 < match < 1


@pytest.fixture(scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.weekly
def test_the_turn_happens_again(one_thread):
    """From the weights after 300 updates, 150 more: the loss on repeats falls by nats, and the heads appear."""
    model = checkpoints.load("induction-300").model
    text = corpus()
    held_out = windows(text.validation, 16, 129)

    def loss(step):
        random, _ = repeats(16, 129, (8, 32), seed=10**9 + step)  # not the sequences of the run
        return next_token_loss(model, torch.cat([windows(text.train, 16, 129, step=step), random]))

    before = in_context(model, held_out, (8, 32))
    train(model, loss, steps=150, lr=1e-2, weight_decay=0.1, clip=1.0)
    after = in_context(model, held_out, (8, 32))
    assert before["repeated"] > 5 and before["prefix-matching"] < 0.4
    assert after["repeated"] < 2 and after["prefix-matching"] > 0.7


@pytest.mark.weekly
def test_smeared_keys_turn_a_small_one_layer_model(one_thread):
    """A smaller version of the experiment, with half the context, repeats only, and 400 updates; and its control."""
    results = {}
    for smeared in (True, False):
        config = Config(1, 128, 4, 32, 64, 512, positions="shortformer", init_std=0.05, smeared_keys=smeared)
        model = Transformer(config, seed=0)

        def loss(step, model=model):
            return next_token_loss(model, repeats(32, 65, (8, 32), seed=step)[0])

        train(model, loss, steps=400, lr=1e-2, warmup=20, clip=1.0)
        results[smeared] = in_context(model, repeats(16, 65, (8, 32), seed=10**6)[0], (8, 32))
    assert results[True]["repeated"] < 2 and results[True]["prefix-matching"] > 0.5
    assert results[False]["repeated"] > 4.5 and results[False]["prefix-matching"] < 0.3
