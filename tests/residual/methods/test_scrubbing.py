"""Causal scrubbing: what a true hypothesis leaves alone, what the empty one destroys."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from residual.experiments.hand_set import induction
from residual.methods.edges import every_edge, readers, written
from residual.methods.scrubbing import partners, recovered, resampled, scrub

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("models.py"))))
models, batch, fixed = shared.models, shared.batch, shared.fixed


theorem = settings(deadline=None, max_examples=15)


@theorem
@given(st.lists(st.integers(0, 3), min_size=6, max_size=6), st.integers(0, 99))
def test_partners_are_a_permutation_among_equal_features(features, seed):
    feature = torch.tensor(features).view(2, 3)
    chosen = partners(feature, torch.Generator().manual_seed(seed))
    assert sorted(chosen.flatten().tolist()) == list(range(6))
    assert torch.equal(feature.flatten()[chosen], feature)
    for kind in (torch.int32, torch.uint8):  # features of any whole type draw alike
        assert torch.equal(partners(feature.to(kind), torch.Generator().manual_seed(seed)), chosen)
    either = partners(feature > 1, torch.Generator().manual_seed(seed))
    assert torch.equal((feature > 1).flatten()[either], feature > 1)


def test_every_partner_is_equally_likely():
    feature = torch.tensor([[0, 0, 1], [0, 1, 2]])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([partners(feature, generator) for _ in range(3000)])
    assert set(drawn[:, 0, 0].tolist()) == {0, 1, 3}
    assert all(abs((drawn[:, 0, 0] == i).float().mean().item() - 1 / 3) < 0.04 for i in (0, 1, 3))
    assert (drawn[:, 1, 2] == 5).all()


@theorem
@given(models(min_layers=1, causal=True, positions="none"), st.integers(0, 99))
def test_the_current_token_is_all_that_the_embedding_says(model, seed):
    tokens = batch(seed)
    claim = [("embed", reader) for reader in readers(model.config)]
    assert_close(scrub(model, tokens, [(claim, tokens)], seed=seed), model(tokens))


@theorem
@given(models(min_layers=1), st.integers(0, 99))
def test_features_that_occur_once_change_nothing(model, seed):
    tokens = batch(seed)
    once = torch.arange(tokens.numel()).view_as(tokens)
    assert_close(scrub(model, tokens, [(every_edge(model.config), once)], seed=seed), model(tokens))


@theorem
@given(models(min_layers=1), st.integers(0, 99))
def test_with_nothing_kept_the_logits_are_those_of_other_positions(model, seed):
    tokens = batch(seed)
    got = scrub(model, tokens, [(every_edge(model.config), None)], seed=seed)
    chosen = partners(torch.zeros_like(tokens), torch.Generator().manual_seed(seed))
    assert_close(got, model(tokens).flatten(0, 1)[chosen.flatten()].view_as(got))


def test_the_story_of_the_model_by_hand_is_true():
    model = induction(8, 9)
    tokens = torch.tensor([[0, 3, 5, 2, 3, 5, 2, 3, 5], [0, 2, 4, 7, 1, 2, 4, 7, 1], [0, 6, 2, 6, 2, 6, 2, 6, 2]])
    previous = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], dim=1)
    story = [
        ([("0.0", "1.0.q"), ("0.0", "1.0.v"), ("0.0", "logits"), ("embed", "1.0.k")], None),
        ([("0.0", "1.0.k")], previous),
        ([("embed", "1.0.q"), ("embed", "1.0.v"), ("embed", "logits")], tokens),
    ]
    again = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1, 1]]) == 1
    assert_close(scrub(model, tokens, story, seed=1)[again], model(tokens)[again])
    wrong = [([("0.0", "1.0.k")], tokens)]  # the keys read the current token
    assert (scrub(model, tokens, wrong, seed=1) - model(tokens))[again].abs().max() > 0.5


def test_resampled_values_come_from_the_chosen_position():
    terms = written(model := fixed(), batch(0))
    chosen = partners(torch.zeros_like(batch(0)), torch.Generator().manual_seed(3))
    z = terms["blocks.0.attn.z"]
    b, p = divmod(int(chosen[1, 2]), z.shape[1])
    assert torch.equal(resampled(terms, chosen)["blocks.0.attn.z"][1, 2], z[b, p])
    assert model.config.n_layers >= 1


def test_recovered_by_hand_and_errors():
    assert recovered(1.0, 2.0, 5.0) == 0.75
    with pytest.raises(ValueError, match="no span"):
        recovered(1.0, 2.0, float("inf"))
    with pytest.raises(ValueError, match="no span"):
        recovered(2.0, 2.0, 1.0)
    model = fixed()
    with pytest.raises(ValueError, match=r"a feature is \[3\] and the tokens are"):
        scrub(model, batch(0), [([("embed", "logits")], torch.zeros(3, dtype=torch.long))])
    with pytest.raises(ValueError, match="a feature is a whole number at each position"):
        scrub(model, batch(0), [([("embed", "logits")], torch.zeros(batch(0).shape))])
    with pytest.raises(ValueError, match="the scrubbed loss is not a number"):
        recovered(1.0, float("nan"), 3.0)
    assert torch.equal(scrub(model, batch(0).tolist(), []), model(batch(0)))
