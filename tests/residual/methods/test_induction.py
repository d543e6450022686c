"""Repeating sequences with a start token."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from residual import Config, Transformer
from residual.methods.induction import in_context, prefix_matching_score, repeats


@given(st.integers(1, 6), st.integers(0, 6), st.integers(2, 40), st.integers(0, 6), st.integers(0, 99))
def test_the_start_token_is_only_at_the_start(shortest, more, length, start, seed):
    tokens, period = repeats(5, length, (shortest, shortest + more), d_vocab=7, start=start, seed=seed)
    assert tokens.shape == (5, length)
    for row, p in zip(tokens.tolist(), period.flatten().tolist(), strict=True):
        assert row[0] == start and start not in row[1:] and set(row) <= set(range(7))
        assert all(row[i] == row[i - p] for i in range(p + 1, length))


def test_with_a_start_token_every_other_token_is_drawn():
    tokens, _ = repeats(400, 9, (8, 8), d_vocab=5, start=2)
    assert tokens[:, 1:].unique().tolist() == [0, 1, 3, 4]


@torch.no_grad()
def test_in_context_measures_with_a_start_token_are_those_of_a_loop():
    """On a model with random weights: a token counts as repeated once a whole period after the start was read."""
    model = Transformer(Config(2, 8, 2, 4, 32, 11, init_std=0.7, positions="shortformer"), seed=1).double()
    text = torch.randint(11, (3, 33), generator=torch.Generator().manual_seed(0))
    got = in_context(model, text, (3, 9), examples=5, start=4, seed=2)
    tokens, period = repeats(5, 33, (3, 9), d_vocab=11, start=4, seed=2)
    first, again = [], []
    for row, p in zip(tokens, period.flatten().tolist(), strict=True):
        log_p = model(row[None, :-1])[0].log_softmax(-1)
        for i in range(1, 33):
            (again if i >= p + 1 else first).append(-log_p[i - 1, row[i]].item())
    assert got["first period"].item() == pytest.approx(sum(first) / len(first), abs=1e-12)
    assert got["repeated"].item() == pytest.approx(sum(again) / len(again), abs=1e-12)


@torch.no_grad()
def test_prefix_matching_never_draws_the_start_token_again():
    """With ten tokens and periods of nine, a start token that could be drawn would be in nine rows out of ten."""
    taken = []

    class Spy(Transformer):
        def run_to(self, tokens, *args, **kwargs):
            taken.append(tokens)
            return super().run_to(tokens, *args, **kwargs)

    model = Spy(Config(1, 8, 1, 4, 28, 10, positions="shortformer"))
    prefix_matching_score(model, examples=50, periods=(9, 9), start=3)
    assert (taken[0][:, 0] == 3).all() and not (taken[0][:, 1:] == 3).any()
