"""The training loop against a loop written by hand; the same arguments give the same weights."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual import Config, Transformer
from residual.methods.loss import next_token_loss
from residual.training.train import learning_rate, train, windows

CONFIG = Config(n_layers=1, d_model=8, n_heads=2, d_head=4, n_ctx=8, d_vocab=5)
TOKENS = torch.randint(5, (400,), generator=torch.Generator().manual_seed(0))


def trained(steps=12, seed=0, **options):
    model = Transformer(CONFIG, seed=seed)
    losses = train(
        model,
        lambda step: next_token_loss(model, windows(TOKENS, 4, 9, step=step)),
        steps=steps,
        lr=1e-2,
        **options,
    )
    return model, losses


def test_the_same_arguments_give_the_same_weights_to_the_bit():
    torch.manual_seed(1)
    model, losses = trained()
    torch.manual_seed(2)
    other, again = trained()
    assert torch.equal(losses, again)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    different, _ = trained(seed=1)
    assert not torch.equal(model.W_E, different.W_E)


def test_one_parameter_against_adamw_by_hand():
    """Loshchilov and Hutter 2019, algorithm 2, on f(x) = (x - 3)²."""
    lr, betas, decay, steps, warmup = 0.1, (0.9, 0.99), 0.01, 7, 3
    x, m, v = 0.5, 0.0, 0.0
    for t in range(1, steps + 1):
        rate = learning_rate(t - 1, steps, lr, warmup)
        gradient = 2 * (x - 3)
        m = betas[0] * m + (1 - betas[0]) * gradient
        v = betas[1] * v + (1 - betas[1]) * gradient**2
        corrected = (m / (1 - betas[0] ** t)) / (math.sqrt(v / (1 - betas[1] ** t)) + 1e-8)
        x = x - rate * decay * x - rate * corrected
    model = torch.nn.Module()
    model.x = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
    train(
        model,
        lambda _: (model.x - 3) ** 2,
        steps=steps,
        lr=lr,
        warmup=warmup,
        betas=betas,
        weight_decay=decay,
    )
    assert model.x.item() == pytest.approx(x, abs=1e-12)


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(0, 49), st.floats(1e-5, 1))
def test_the_learning_rate_rises_and_falls_in_lines(steps, warmup, highest):
    warmup = min(warmup, steps - 1)
    rates = [learning_rate(step, steps, highest, warmup) for step in range(steps + 1)]
    assert max(rates) == pytest.approx(highest) and rates[-1] == 0
    assert all(rate > 0 for rate in rates[:-1])
    for part in (rates[:warmup], rates[warmup:]):
        slopes = [b - a for a, b in itertools.pairwise(part)]
        assert all(slope == pytest.approx(slopes[0], rel=1e-6, abs=1e-9) for slope in slopes)


def test_a_model_learns_a_deterministic_stream():
    """A stream with period 2 has no entropy left once the previous token is known."""
    config = Config(n_layers=0, d_model=4, n_ctx=8, d_vocab=5, positions="none")
    model, stream = Transformer(config), torch.tensor([1, 3] * 50)
    losses = train(model, lambda step: next_token_loss(model, windows(stream, 4, 9, step=step)), steps=150, lr=0.1)
    assert losses[0] == pytest.approx(math.log(5), abs=0.01)
    assert losses[-1] < 0.01


def test_watch_sees_every_number_of_updates():
    seen = []
    trained(steps=5, watch=seen.append)
    assert seen == [0, 1, 2, 3, 4, 5]


def test_a_loss_that_is_not_finite_stops_the_run():
    model = Transformer(CONFIG)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 2; try a learning rate below 0.01"):
        train(model, lambda step: model.W_E.sum() * (math.nan if step == 2 else 1), steps=5, lr=0.01)


def test_zero_turns_are_refused():
    """With accumulate=0 a run would end with losses of zero and its initial weights."""
    with pytest.raises(ValueError, match="accumulate is 0; a batch is computed in at least one turn"):
        trained(steps=3, accumulate=0)


@settings(deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 60))
def test_windows_are_stretches_of_the_stream(step, length):
    stream = torch.arange(60)
    drawn = windows(stream, 3, length, step=step)
    assert drawn.shape == (3, length)
    assert (drawn.diff(dim=1) == 1).all() and drawn.min() >= 0 and drawn.max() < 60
    assert torch.equal(drawn, windows(stream, 3, length, step=step))


def test_windows_reach_both_ends_and_differ_from_step_to_step():
    starts = torch.cat([windows(torch.arange(10), 50, 3, step=step)[:, 0] for step in range(4)])
    assert set(starts.tolist()) == set(range(8))
    assert not torch.equal(windows(TOKENS, 8, 9, step=0), windows(TOKENS, 8, 9, step=1))
    with pytest.raises(ValueError, match="a window of 11 tokens does not fit into 10"):
        windows(torch.arange(10), 1, 11)


def test_the_loss_is_the_mean_surprise_of_the_next_token():
    model = Transformer(CONFIG, seed=3).double()
    tokens = windows(TOKENS, 2, 9)
    expected = []
    for row in tokens.tolist():
        for end in range(1, len(row)):
            logits = model(torch.tensor([row[:end]]))[0, -1].tolist()
            total = sum(math.exp(logit) for logit in logits)
            expected.append(-math.log(math.exp(logits[row[end]]) / total))
    assert next_token_loss(model, tokens).item() == pytest.approx(sum(expected) / len(expected), abs=1e-12)


def test_no_progress_bar_without_a_terminal(capfd):
    trained(steps=3)
    assert capfd.readouterr().err == ""
