"""A function spliced in for a part of the model."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from residual import Config, Transformer
from residual.methods.splice import splice
from residual.taps import ablate, at, compose, record

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("models.py"))))
models, batch, same = shared.models, shared.batch, shared.same
theorem = settings(deadline=None, max_examples=25)


def dictionary(seed=0, d_model=shared.D_MODEL):
    """Return a small ReLU autoencoder, which reconstructs badly."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(d_model, 9), nn.ReLU(), nn.Linear(9, d_model)).double()


def places(model):
    """Return pairs (read, write): for an autoencoder, for a function around the whole layer, for a transcoder."""
    pairs = [("blocks.0.resid_post", "blocks.0.resid_post"), ("blocks.0.resid_pre", "blocks.0.resid_post")]
    if model.config.d_mlp and model.config.norm != "none":
        pairs.append(("blocks.0.ln2.normalized", "blocks.0.mlp_out"))
    return pairs


class ByHand:
    """A stateful tap written by hand, which splice replaces."""

    def __init__(self, read, write, f, error=0):
        self.read, self.write, self.f, self.error = read, write, f, error

    def __call__(self, name, x):
        if name == self.read:
            self.seen = x
        return self.f(self.seen) + self.error if name == self.write else x


@theorem
@given(models(min_layers=1), st.integers(0, 99))
def test_splicing_in_the_identity_changes_nothing(model, seed):
    tokens = batch(seed)
    for name in ("blocks.0.resid_post", "blocks.0.attn.z"):
        assert torch.equal(model(tokens, tap=splice(name, name, lambda x: x)), model(tokens, tap=record(name)))


@theorem
@given(models(min_layers=1), st.integers(0, 99))
def test_without_its_error_it_is_the_tap_written_by_hand(model, seed):
    tokens, f = batch(seed), dictionary(seed)
    for read, write in places(model):
        tap = splice(read, write, f)
        same(model(tokens, tap=tap), model(tokens, tap=ByHand(read, write, f)))
        other = batch(seed + 1, size=2)  # another run with the same tap and another batch size
        same(model(other, tap=tap), model(other, tap=ByHand(read, write, f)))


@theorem
@given(models(min_layers=1), st.integers(0, 99))
def test_with_its_error_kept_the_logits_stay_and_gradients_go_through_the_dictionary(model, seed):
    tokens, f = batch(seed), dictionary(seed)
    for read, write in places(model):
        logits = model(tokens, tap=splice(read, write, f, error="keep"))
        same(logits, model(tokens))
        grads = torch.autograd.grad(logits[..., 1].sum(), list(f.parameters()))
        # the same gradient from the layers after the splice, and f alone before them
        model(tokens, tap=(seen := record([read, write])))
        y = seen[write].detach().clone().requires_grad_()
        rest = model(tokens, tap=at(write, lambda _, y=y: y))[..., 1].sum()
        (after,) = torch.autograd.grad(rest, y)
        expected = torch.autograd.grad(f(seen[read]), list(f.parameters()), after)
        for got, right in zip(grads, expected, strict=True):
            same(got, right)


@theorem
@given(models(min_layers=1), st.integers(0, 99))
def test_a_given_error_lets_the_dictionary_be_changed(model, seed):
    tokens, f = batch(seed), dictionary(seed)
    for read, write in places(model):
        model(tokens, tap=(seen := record([read, write])))
        error = seen[write] - f(seen[read])
        same(model(tokens, tap=splice(read, write, f, error=error)), model(tokens))

        def halved(x):
            return f(0.5 * x)

        expected = model(tokens, tap=ByHand(read, write, halved, error))
        same(model(tokens, tap=splice(read, write, halved, error=error)), expected)


def test_a_function_that_writes_to_its_argument_changes_nothing_but_what_it_returns():
    def doubled_in_place(x):
        return x.mul_(2)

    tokens, name = batch(0), "blocks.0.resid_post"
    expected = SMALL(tokens, tap=at(name, lambda x: 2 * x))
    same(SMALL(tokens, tap=splice(name, name, doubled_in_place)), expected)
    same(SMALL(tokens, tap=splice(name, name, doubled_in_place, error="keep")), SMALL(tokens))
    SMALL(
        tokens, tap=compose(seen := record("blocks.0.resid_pre"), splice("blocks.0.resid_pre", name, doubled_in_place))
    )
    SMALL(tokens, tap=(recorded := record("blocks.0.resid_pre")))
    assert torch.equal(seen["blocks.0.resid_pre"], recorded["blocks.0.resid_pre"])


def test_two_dictionaries_compose():
    model = Transformer(Config(n_layers=2, d_model=6, n_heads=2, d_head=3, n_ctx=4, d_vocab=7)).double()
    tokens, f, g = batch(0), dictionary(1), dictionary(2)
    first, second = "blocks.0.resid_post", "blocks.1.resid_post"
    got = model(tokens, tap=compose(splice(first, first, f), splice(second, second, g)))
    x = model.run_from(1, f(record_stream(model, tokens)), tap=splice(second, second, g))
    same(got, x)


def record_stream(model, tokens):
    model(tokens, tap=(seen := record("blocks.0.resid_post")))
    return seen["blocks.0.resid_post"]


SMALL = Transformer(Config(n_layers=1, d_model=6, n_heads=2, d_head=3, n_ctx=4, d_vocab=7)).double()


@pytest.mark.parametrize(
    ("tap", "words"),
    [
        (lambda: splice("blocks.0.resid_post", "blocks.0.resid_pre", nn.Identity()), "is computed before"),
        (lambda: splice("blocks.0.resid", "blocks.0.resid_post", nn.Identity()), "choose from blocks.0.resid_p"),
        (lambda: splice("embed", "embed", nn.Identity(), error="kept"), "choose from keep"),
        (lambda: splice("embed", "embed", lambda x: x[..., :2]), "f returned shape [3, 4, 2] for embed"),
    ],
)
def test_mistakes_give_readable_errors(tap, words):
    with pytest.raises(ValueError) as raised:
        SMALL(batch(0), tap=tap())
    assert words in str(raised.value)


def test_it_reads_the_value_after_later_taps():
    read, write, f = "blocks.0.attn_out", "blocks.0.resid_post", dictionary()
    expected = SMALL(batch(0), tap=ByHand(read, write, lambda x: f(0 * x)))
    for taps in ((ablate(read), splice(read, write, f)), (splice(read, write, f), ablate(read))):
        same(SMALL(batch(0), tap=compose(*taps)), expected)


@pytest.mark.parametrize(
    ("f", "kind", "words"),
    [
        (lambda x: (x, x), TypeError, "f returned tuple for embed; it must return a tensor"),
        (lambda x: None, TypeError, "f returned NoneType for embed"),
        (lambda x: x.half(), ValueError, "f returned torch.float16 on cpu for embed, which is torch.float64 on cpu"),
    ],
)
def test_what_f_returns_is_checked(f, kind, words):
    with pytest.raises(kind, match=words):
        SMALL(batch(0), tap=splice("embed", "embed", f))


def test_error_none_is_refused():
    with pytest.raises(ValueError, match=r"no error None; choose from .*, or give a tensor"):
        splice("embed", "embed", nn.Identity(), error=None)
