"""The tuned lens and its two controls: what a new lens reads, what the fits solve, and that training lowers the KL."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.experiments.run import experiment
from residual.files.checkpoints import load
from residual.methods.attribution import logit_lens
from residual.methods.tuned_lens import (
    LensConfig,
    TunedLens,
    fit_bias,
    fit_ridge,
    kl,
    lens_bias,
    lens_logits,
    lens_loss,
    streams,
)
from residual.training.train import train

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("models.py"))))
models, batch, same = shared.models, shared.batch, shared.same
theorem = settings(deadline=None, max_examples=20)
seeds = st.integers(0, 99)


def stacked(seed, layers=3, rows=40, width=5):
    return torch.randn(layers, rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


@theorem
@given(models(min_layers=1), seeds)
def test_a_new_lens_is_the_logit_lens(model, seed):
    tokens = batch(seed)
    x = streams(model, tokens)
    lens = TunedLens(LensConfig(model.config.n_layers, model.config.d_model)).double()
    same(lens_logits(model, lens, x[:-1]), logit_lens(model, tokens)[:-1])
    same(model.unembed(x[-1]), model(tokens))


@theorem
@given(seeds)
def test_kl_is_that_of_two_coins(seed):
    a, b = torch.rand(2, generator=torch.Generator().manual_seed(seed)).double().clamp(0.01, 0.99).tolist()
    by_hand = a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))
    coins = [torch.tensor([p, 1 - p], dtype=torch.double).log() + 3 for p in (a, b)]  # a constant changes nothing
    same(kl(*coins), torch.tensor(by_hand, dtype=torch.double))
    same(lens_bias(*(coin[None] for coin in coins)), torch.tensor(by_hand, dtype=torch.double))


@theorem
@given(seeds)
def test_the_bias_of_a_lens_is_at_most_its_mean_kl(seed):
    """KL is convex in the pair of distributions (Jensen)."""
    final, logits = stacked(seed)[:2]
    assert lens_bias(final, logits) <= kl(final, logits).mean() + 1e-12
    assert lens_bias(final, final[torch.randperm(len(final))]) < 1e-12


@theorem
@given(seeds)
def test_the_bias_lens_removes_the_mean_error(seed):
    x = stacked(seed)
    left = x[-1] - fit_bias(x)(x[:-1])
    same(left.mean(dim=1), torch.zeros(2, 5).double())


@theorem
@given(seeds)
def test_ridge_of_strength_zero_is_least_squares_with_an_intercept(seed):
    x = stacked(seed)
    lens = fit_ridge(x, strength=0).double()
    for layer, X in enumerate(x[:-1].numpy()):
        design = np.concatenate([X, np.ones((len(X), 1))], axis=1)
        solution = np.linalg.lstsq(design, x[-1].numpy(), rcond=None)[0]
        expected = torch.from_numpy(design @ solution)
        assert torch.allclose(lens(x[:-1])[layer], expected, atol=1e-5)  # the lens holds float32


@theorem
@given(seeds)
def test_ridge_finds_an_affine_map_that_is_there(seed):
    x = stacked(seed)
    A = torch.randn(5, 5, dtype=torch.double)
    x[-1] = x[0] @ A + 2
    assert (fit_ridge(x, strength=1e-9).double()(x[:-1])[0] - x[-1]).abs().max() < 1e-4


def test_the_loss_is_the_mean_kl_and_training_lowers_it():
    entry = experiment("house-lens")
    house = load("house").model.requires_grad_(False)
    tokens = torch.randint(2048, (2, 24), generator=torch.Generator().manual_seed(0))
    x, lens = streams(house, tokens), entry.model()
    before = lens_loss(house, lens, x)
    expected = kl(house.unembed(x[-1]), logit_lens(house, tokens)[:-1]).mean()
    assert torch.allclose(before, expected, rtol=1e-4)
    train(lens, lambda step: lens_loss(house, lens, x), steps=8, lr=3e-3)
    assert lens_loss(house, lens, x) < 0.8 * before


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: TunedLens(LensConfig(2, 5))(torch.zeros(3, 4, 5)), "translates [2, 5]"),
        (lambda: TunedLens(LensConfig(2, 5))(torch.zeros(2, 4, 6)), "have shape [2, 4, 6]"),
        (lambda: fit_ridge(stacked(0), strength=-1), "must not be below 0"),
        (lambda: fit_ridge(torch.zeros(3, 8)), "the streams have shape [3, 8]"),
        (lambda: fit_bias(torch.zeros(3, 0, 8)), "with at least one position"),
        (lambda: kl(torch.zeros(2, 7), torch.zeros(2, 8)), "the model has 7 tokens and the lens 8"),
        (lambda: lens_bias(torch.zeros(2, 7), torch.zeros(2, 8)), "the model has 7 tokens and the lens 8"),
        (lambda: lens_bias(torch.zeros(2, 7), torch.zeros(5, 7)), "have shape [2, 7] and the lens's [5, 7]"),
        (lambda: kl(torch.zeros(2, 7).long(), torch.zeros(2, 7)), "logits are floats; these are torch.int64"),
        (lambda: fit_bias(torch.zeros(1, 4, 8)), "at least two of them"),
        (lambda: fit_bias(torch.full((2, 4, 8), torch.nan)), "the streams are not finite"),
        (lambda: fit_ridge(torch.zeros(2, 1, 8)), "layer 0 determine no map: 1 positions for 8 dimensions"),
    ],
)
def test_mistakes_give_readable_errors(call, words):
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    assert words in str(raised.value)
