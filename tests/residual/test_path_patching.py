"""Theorems of the note path-patching: what edges and paths add up to, and where a first-order score is exact."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from residual import Config, Transformer, at, compose, patch, record
from residual.methods.edges import edge_attribution, every_edge, patch_edges, written
from residual.methods.linearise import linearise
from residual.methods.shapley import shapley

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("methods") / "models.py")))
models, batch = shared.models, shared.batch
theorem = settings(deadline=None, max_examples=12)


def drawn(seed, n_layers=2, size=0.7, **given):
    """Return a random attention-only model in float64."""
    config = Config(n_layers=n_layers, d_model=6, n_heads=3, d_head=2, n_ctx=4, d_vocab=7, **given)
    model = Transformer(config).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.copy_(size * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return model


# ---- Paths


def normed(norm, x, scale):
    """A change of the stream behind a norm whose scale is fixed."""
    if norm.w is None:
        return x
    x = x - x.mean(-1, keepdims=True) if norm.b is not None else x
    return x / scale * norm.w.numpy()


def parts_of(model, seen):
    """Return, sublayer by sublayer, the linear maps of a change of the stream, with everything nonlinear fixed."""
    c, found = model.config, []
    scales = {name: x.numpy() for name, x in seen.items() if name.endswith("scale")}
    for i, block in enumerate(model.blocks):
        attn, A = block.attn, seen[f"blocks.{i}.attn.pattern"].numpy()

        def head(x, h, i=i, block=block, attn=attn, A=A):
            own = h * c.kv_heads // c.n_heads
            x = normed(block.ln1, x, scales.get(f"blocks.{i}.ln1.scale"))
            return A[:, h] @ x @ attn.W_V[own].numpy() @ attn.W_O[h].numpy()

        found.append([lambda x, h=h, head=head: head(x, h) for h in range(c.n_heads)])
        if block.mlp is not None:
            pre, post = (seen[f"blocks.{i}.mlp.{name}"].numpy() for name in ("pre", "post"))

            def mlp(x, i=i, block=block, pre=pre, post=post):
                x = normed(block.ln2, x, scales.get(f"blocks.{i}.ln2.scale")) @ block.mlp.W_in.numpy()
                gate = pre / (1 + np.exp(-pre)) if c.act == "swiglu" else post / np.where(pre == 0, 1, pre)
                return (x * gate) @ block.mlp.W_out.numpy()

            found.append([mlp])
    return found, scales


@theorem
@given(models(min_layers=1, max_layers=2), st.integers(0, 99))
def test_all_paths_sum_to_the_total_effect(model, seed):
    """In the linearised model, one term for each way through the layers; each layer is passed by, or entered once."""
    clean, corrupted = batch(seed), batch(seed + 100)
    model(clean, tap=(seen := record("*")))
    change = model.W_E[corrupted] - model.W_E[clean]
    moved = model(clean, tap=compose(linearise(model, clean), at("embed", lambda x: x + change)))
    sublayers, scales = parts_of(model, seen)
    total = 0
    for way in itertools.product(*([None, *parts] for parts in sublayers)):
        x = change.numpy()
        for part in way:
            x = x if part is None else part(x)
        total = total + normed(model.ln_final, x, scales.get("ln_final.scale")) @ model.W_U.numpy()
    expected = (moved - model(clean)).numpy()
    np.testing.assert_allclose(total, expected, atol=1e-8 * max(1.0, float(abs(total).max()), float(moved.abs().max())))


# ---- Scores


def difference(logits):
    return (logits[:, 0] - 2 * logits[:, 1]).mean()


@settings(deadline=None, max_examples=4)
@given(st.integers(0, 999))
def test_where_nothing_is_nonlinear_scores_are_exact_and_flow_through(seed):
    """With queries of zero, every pattern is constant: scores into a head sum to those out of it."""
    model = drawn(seed, positions="none")
    for block in model.blocks:
        block.attn.W_Q.zero_()
    clean, corrupted = batch(seed), batch(seed + 100)
    scores = edge_attribution(model, clean, corrupted, difference)
    other, base = written(model, corrupted), difference(model(clean)[:, -1])
    for edge in every_edge(model.config)[::7]:
        patched = difference(model(clean, tap=patch_edges(model, [edge], other))[:, -1])
        assert_close(scores[edge], patched - base, atol=1e-9, rtol=1e-7)
    out = {w: sum(float(scores[w, r]) for v, r in every_edge(model.config) if v == w) for w in scores.writers}
    assert_close(out["embed"], float(difference(model(corrupted)[:, -1]) - base), atol=1e-9, rtol=1e-7)
    for head in scores.writers[1:]:
        into = sum(float(scores[w, r]) for w, r in every_edge(model.config) if r.startswith(f"{head}."))
        assert_close(into, out[head], atol=1e-9, rtol=1e-7)


@theorem
@given(st.integers(0, 999))
def test_scores_into_the_last_values_and_the_logits_are_exact(seed):
    """Without norms and MLPs the metric is linear in them: the pattern is that of the clean run."""
    model = drawn(seed, positions="shortformer")
    clean, corrupted = batch(seed), batch(seed + 100)
    scores = edge_attribution(model, clean, corrupted, difference)
    other, base = written(model, corrupted), difference(model(clean)[:, -1])
    for edge in every_edge(model.config):
        if edge[1] == "logits" or (edge[1].startswith("1.") and edge[1].endswith(".v")):
            patched = difference(model(clean, tap=patch_edges(model, [edge], other))[:, -1])
            assert_close(scores[edge], patched - base, atol=1e-9, rtol=1e-7)


@theorem
@given(st.integers(0, 999), st.data())
def test_the_error_of_a_score_is_of_second_order(seed, data):
    """Half the change of the embeddings, a quarter of the error."""
    model = drawn(seed, n_layers=1, norm="rms", positions="learned")
    edge = data.draw(st.sampled_from(every_edge(model.config)))
    clean, corrupted = torch.full((1, 4), 0), torch.full((1, 4), 1)
    direction = torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    errors = []
    for size in (1e-3, 5e-4):
        model.W_E[1] = model.W_E[0] + size * direction
        base = difference(model(clean)[:, -1])
        patched = difference(model(clean, tap=patch_edges(model, [edge], written(model, corrupted)))[:, -1])
        errors.append(abs(float(edge_attribution(model, clean, corrupted, difference)[edge] - (patched - base))))
    assert errors[0] < 1e-9 or 3.5 < errors[0] / errors[1] < 4.5


@theorem
@given(models(min_layers=1, n_kv_heads=None), st.integers(0, 99), st.data())
def test_all_edges_out_of_a_head_are_the_head(model, seed, data):
    layer = data.draw(st.integers(0, model.config.n_layers - 1))
    head = data.draw(st.integers(0, 3))
    clean, corrupted = batch(seed), batch(seed + 100)
    other = written(model, corrupted)
    edges = [edge for edge in every_edge(model.config) if edge[0] == f"{layer}.{head}"]
    expected = model(clean, tap=patch(other, f"blocks.{layer}.attn.z", heads=head))
    assert_close(model(clean, tap=patch_edges(model, edges, other)), expected, atol=1e-8, rtol=1e-7)


@theorem
@given(models(min_layers=1), st.integers(0, 99))
def test_with_all_edges_patched_the_run_is_the_other_run(model, seed):
    clean, corrupted = batch(seed), batch(seed + 100)
    tap = patch_edges(model, every_edge(model.config), written(model, corrupted))
    assert_close(model(clean, tap=tap), model(corrupted), atol=1e-8, rtol=1e-7)


# ---- Gates


@theorem
@given(st.integers(2, 6))
def test_of_an_and_every_part_gets_the_same_share(n):
    """m = x₁ … xₙ, n > 1: each removal costs all, each addition brings nothing, the Shapley values are 1/n."""
    kept = torch.arange(2**n)[:, None] >> torch.arange(n) & 1
    values = kept.double().prod(dim=1)
    for i in range(n):
        assert values[-1] - values[2**n - 1 - 2**i] == 1  # remove one from all
        assert values[2**i] - values[0] == 0  # add one to none
    assert_close(shapley(values), torch.full((n,), 1 / n, dtype=torch.float64))
    x = torch.ones(n, dtype=torch.float64, requires_grad=True)
    (at_clean,) = torch.autograd.grad(x.prod(), x)
    assert_close(at_clean, torch.ones(n, dtype=torch.float64))  # sums to n, not to 1
    nothing = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    (at_corrupted,) = torch.autograd.grad(nothing.prod(), nothing)
    assert_close(at_corrupted, torch.zeros(n, dtype=torch.float64))
    middle = ((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000) ** (n - 1)  # ∂m/∂xᵢ where all are t
    assert_close(middle.mean(), torch.tensor(1 / n, dtype=torch.float64), atol=1e-5, rtol=1e-5)
