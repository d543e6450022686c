"""The frozen model equals the model on its own batch, and is an affine map of any stream."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.methods.linearise import linearise
from residual.taps import ablate, at, compose, record

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("models.py"))))
models, batch, same = shared.models, shared.batch, shared.same
theorem = settings(deadline=None, max_examples=40)


def streams(seed, n):
    """Return random streams of the batch's shape."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, shared.N_POS, shared.D_MODEL, generator=generator, dtype=torch.float64)


@theorem
@given(models(), st.integers(0, 99))
def test_on_its_own_batch_it_is_the_model(model, seed):
    tokens = batch(seed)
    linear = linearise(model, tokens)
    same(model(tokens, tap=linear), model(tokens))
    same(model(tokens, tap=linear), model(tokens))  # again: nothing is left over from the first run


@theorem
@given(models(), st.integers(0, 99))
def test_with_a_mask_it_is_the_model_with_that_mask(model, seed):
    tokens, mask = batch(seed), torch.ones(3, shared.N_POS, dtype=torch.bool)
    mask[1, :2] = False
    same(model(tokens, tap=linearise(model, tokens, mask), mask=mask)[mask], model(tokens, mask=mask)[mask])


@theorem
@given(models(), st.integers(0, 99), st.floats(-3, 3), st.data())
def test_it_is_affine_in_the_stream_before_every_layer(model, seed, a, data):
    """f(a x + (1 - a) y) = a f(x) + (1 - a) f(y), the definition of an affine map."""
    layer = data.draw(st.integers(0, model.config.n_layers))
    linear = linearise(model, batch(seed))
    x, y = streams(seed, 2)
    f_x, f_y, f_mixed = (model.run_from(layer, z, tap=linear) for z in (x, y, a * x + (1 - a) * y))
    same(f_mixed, a * f_x + (1 - a) * f_y)


@theorem
@given(models(), st.integers(0, 99), st.floats(-3, 3))
def test_it_is_affine_in_the_embedding(model, seed, a):
    tokens = batch(seed)
    linear = linearise(model, tokens)
    x, y = streams(seed, 2)

    def f(embedding):
        return model(tokens, tap=compose(at("embed", lambda _: embedding), linear))

    same(f(a * x + (1 - a) * y), a * f(x) + (1 - a) * f(y))


@theorem
@given(models(), st.integers(0, 99))
def test_its_gradient_anywhere_is_the_map_everywhere(model, seed):
    linear = linearise(model, batch(seed))
    x, y, z = streams(seed, 3)
    x.requires_grad_()
    logit = model.run_from(0, x, tap=linear)[:, -1, 2].sum()
    (gradient,) = torch.autograd.grad(logit, x)
    moved = model.run_from(0, y, tap=linear)[:, -1, 2].sum() - model.run_from(0, z, tap=linear)[:, -1, 2].sum()
    same(((y - z) * gradient).sum(), moved)


@theorem
@given(models(min_layers=1, d_mlp=5), st.integers(0, 99))
def test_its_neurons_multiply_their_input_by_the_batch_s_ratio(model, seed):
    """By hand, with the stream doubled before the last MLP: the neurons' inputs double, except for the bias."""
    tokens, mlp = batch(seed), model.blocks[-1].mlp
    last = f"blocks.{model.config.n_layers - 1}"
    model(tokens, tap=(seen := record(f"{last}.*")))
    linear = linearise(model, tokens)
    model(tokens, tap=compose(at(f"{last}.resid_mid", lambda x: 2 * x), linear, doubled := record(f"{last}.*")))
    if model.config.norm == "none":
        x = seen[f"{last}.resid_mid"]
    else:
        x = seen[f"{last}.ln2.normalized"] * model.blocks[-1].ln2.w
    b = 0 if model.blocks[-1].ln2.b is None else model.blocks[-1].ln2.b
    inward = (2 * x + b) @ mlp.W_in + (0 if mlp.b_in is None else mlp.b_in)
    base = (x + b) @ mlp.W_in + (0 if mlp.b_in is None else mlp.b_in)
    same(doubled[f"{last}.mlp.post"], inward * seen[f"{last}.mlp.post"] / base)


@theorem
@given(models(min_layers=1, d_mlp=shared.D_MLP, act="gelu"), st.integers(0, 99))
def test_a_change_of_neurons_counts_on_either_side(model, seed):
    """The ratio times the value that other taps leave: half of the input gives half of the output."""
    tokens, name = batch(seed), "blocks.0.mlp.pre"
    linear = linearise(model, tokens)
    expected = model(tokens, tap=compose(linear, at("blocks.0.mlp.post", lambda post: 0.5 * post)))
    for change in (at(name, lambda pre: 0.5 * pre), lambda n, x: x.mul_(0.5) if n == name else x):
        same(model(tokens, tap=compose(linear, change)), expected)
        same(model(tokens, tap=compose(change, linear)), expected)
        same(model(tokens, tap=compose(compose(linear), compose(change))), expected)
    gone = model(tokens, tap=compose(linear, at("blocks.0.mlp.post", lambda post: 0 * post)))
    same(model(tokens, tap=compose(linear, ablate(name))), gone)
