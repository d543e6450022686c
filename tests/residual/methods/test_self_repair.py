"""Self-repair in three parts: their sum is the change of a logit in a patched run, and each part is what it says."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual import Config, Transformer
from residual.methods.attribution import attribute, decompose
from residual.methods.self_repair import INSTEAD, SelfRepair, next_token_direction
from residual.taps import ablate, patch, record

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("models.py"))))
models, batch, same, N_HEADS, D_MODEL = shared.models, shared.batch, shared.same, shared.N_HEADS, shared.D_MODEL
theorem = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 99)


def head_of(model, data):
    return data.draw(st.integers(0, model.config.n_layers - 1)), data.draw(st.integers(0, N_HEADS - 1))


@theorem
@given(models(min_layers=1), seeds, st.sampled_from(INSTEAD), st.data())
def test_the_three_parts_sum_to_the_change_of_the_logit(model, seed, instead, data):
    """Against a run of the whole model with the head's result patched, and the logits that it gives."""
    tokens, (layer, head) = batch(seed), head_of(model, data)
    u = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed)).double()
    splits = SelfRepair(model, tokens, u)
    split = splits(f"{layer}.{head}", instead, by_part=True)
    model(tokens, tap=(seen := record(["*.attn.result", "ln_final.*"] if model.config.norm != "none" else "*.result")))
    wrote = seen[f"blocks.{layer}.attn.result"]
    changed = wrote.clone()
    changed[:, :, head] = splits._replacement(wrote[:, :, head], instead, 0)

    def read(tap):
        """Unembed along u: a model whose W_U is u."""
        with torch.no_grad():
            end = model.run_to(tokens, model.config.n_layers, tap=tap)
            return model.ln_final(end) @ u

    new = read(patch({f"blocks.{layer}.attn.result": changed}))
    clean = read(None)
    size = max(1.0, (split.direct.abs() + split.later.abs() + split.scale.abs()).max().item())
    same(split.change, new - clean, size)
    same(split.repair, new - clean + split.direct, size)
    same(split.by_part.sum(dim=0), split.later, size)


@theorem
@given(models(min_layers=1), seeds, st.data())
def test_the_direct_effect_is_the_heads_attribution(model, seed, data):
    tokens, (layer, head) = batch(seed), head_of(model, data)
    split = SelfRepair(model, tokens, model.W_U[:, 3])(f"{layer}.{head}", "zero")
    same(split.direct, attribute(decompose(model, tokens), 3)[f"{layer}.{head}"])


@theorem
@given(models(min_layers=1, d_mlp=0), seeds, st.integers(0, N_HEADS - 1))
def test_with_nothing_after_the_head_all_repair_is_the_scale(model, seed, head):
    """Then it is the difference of the two attributions: with the scale frozen, and with the scale recomputed."""
    tokens, name = batch(seed), f"{model.config.n_layers - 1}.{head}"
    split = SelfRepair(model, tokens, model.W_U[:, 3])(name, "zero", by_part=True)
    terms = decompose(model, tokens)
    frozen, recomputed = attribute(terms, 3)[name], attribute(terms, 3, scale="recomputed")[name]
    size = max(1.0, split.scale.abs().max().item())
    same(split.later, torch.zeros_like(split.later), size)
    same(split.scale, frozen - recomputed, 1e3 * size)
    same(split.alone, split.scale, size)
    assert len(split.by_part) == 0


@theorem
@given(models(min_layers=1, norm="none"), seeds, st.data())
def test_without_a_norm_nothing_is_repaired_by_the_scale(model, seed, data):
    tokens, (layer, head) = batch(seed), head_of(model, data)
    split = SelfRepair(model, tokens, model.W_U[:, 3])(f"{layer}.{head}", "mean")
    assert (split.scale == 0).all() and (split.mixed == 0).all()


@theorem
@given(models(min_layers=1), seeds, st.sampled_from(["elsewhere", "projected"]), st.data())
def test_the_controls_keep_the_length_and_say_nothing_along_the_direction(model, seed, instead, data):
    tokens, (layer, head) = batch(seed), head_of(model, data)
    model(tokens, tap=(seen := record("*.attn.result")))
    wrote = seen[f"blocks.{layer}.attn.result"][:, :, head]
    splits = SelfRepair(model, tokens, model.W_U[:, 3])
    new = splits._replacement(wrote, instead, seed)
    same(new.norm(dim=-1), wrote.norm(dim=-1))
    same((new * splits.read).sum(dim=-1), torch.zeros(new.shape[:2]).double())
    full = splits(f"{layer}.{head}", "zero").direct
    same(splits(f"{layer}.{head}", instead, seed=seed).direct, full, max(1.0, full.abs().max().item()))


@theorem
@given(models(min_layers=1), seeds, st.data())
def test_the_mean_is_that_of_the_tap(model, seed, data):
    tokens, (layer, head) = batch(seed), head_of(model, data)
    split = SelfRepair(model, tokens, model.W_U[:, 3])(f"{layer}.{head}", "mean")
    ablated = model(tokens, tap=ablate(f"blocks.{layer}.attn.z", "mean", heads=head, across_positions=True))
    size = max(1.0, split.direct.abs().max().item(), split.scale.abs().max().item())
    same(split.change, (ablated - model(tokens))[..., 3], size)


@theorem
@given(models(), seeds)
def test_the_direction_of_the_next_token_reads_its_logit_less_the_mean(model, seed):
    tokens = batch(seed)
    u = next_token_direction(model, tokens)
    end = model.ln_final(model.run_to(tokens, model.config.n_layers))
    logits = end @ model.W_U
    expected = logits[:, :-1].gather(2, tokens[:, 1:, None])[..., 0] - logits[:, :-1].mean(dim=-1)
    same((end * u).sum(dim=-1)[:, :-1], expected)
    assert (u[:, -1] == 0).all()


@theorem
@given(models(min_layers=1), seeds, st.data())
def test_a_rerun_is_the_model_with_the_head_ablated(model, seed, data):
    layer, head = head_of(model, data)
    tokens, name = batch(seed), f"blocks.{layer}.attn.z"
    delta, end = SelfRepair(model, tokens, model.W_U[:, 3]).rerun(f"{layer}.{head}", "zero")
    model(tokens, tap=(seen := record(name)))
    same(delta, -seen[name][:, :, head] @ model.blocks[layer].attn.W_O[head])
    same(end, model.run_to(tokens, model.config.n_layers, tap=ablate(name, "zero", heads=head)))


@theorem
@given(models(min_layers=1), seeds)
def test_a_direction_for_each_example_is_one_for_each_of_its_positions(model, seed):
    tokens = batch(seed)
    u = torch.randn(len(tokens), model.config.d_model, generator=torch.Generator().manual_seed(seed)).double()
    by_example = SelfRepair(model, tokens, u)("0.0", "zero")
    by_position = SelfRepair(model, tokens, u[:, None].expand(-1, tokens.shape[1], -1))("0.0", "zero")
    same(by_example.later, by_position.later)


@theorem
@given(models(min_layers=1), seeds, st.sampled_from(INSTEAD), st.data())
def test_a_run_read_along_another_direction_is_a_run_with_that_direction(model, seed, instead, data):
    tokens, (layer, head) = batch(seed), head_of(model, data)
    u, v = torch.randn(2, D_MODEL, generator=torch.Generator().manual_seed(seed)).double()
    first = SelfRepair(model, tokens, u)
    before = first(f"{layer}.{head}", instead).later
    turned, fresh = (run(f"{layer}.{head}", instead) for run in (first.toward(v), SelfRepair(model, tokens, v)))
    for part in ("direct", "later", "scale"):
        same(getattr(turned, part), getattr(fresh, part))
    same(first(f"{layer}.{head}", instead).later, before)  # the first keeps its own direction


SMALL = Transformer(Config(n_layers=1, d_model=6, n_heads=2, d_head=3, n_ctx=4, d_vocab=7, norm="rms"))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: SelfRepair(SMALL, batch(0), SMALL.W_U[:, 0])("0.2", "zero"), ValueError, "no head '0.2'; choose from"),
        (lambda: SelfRepair(SMALL, batch(0), SMALL.W_U[:, 0])("0.1", "meen"), ValueError, "choose from mean"),
        (lambda: SelfRepair(SMALL, batch(0)[:1], SMALL.W_U[:, 0])("0.1", "resample"), ValueError, "one example"),
        (lambda: SelfRepair(SMALL, batch(0), SMALL.W_U[:, 0])("0.1", torch.ones(3)), ValueError, "has shape [3]"),
        (lambda: SelfRepair(SMALL, batch(0), 3), TypeError, "for the logit of token 3 give model.W_U[:, token]"),
        (lambda: SelfRepair(SMALL, batch(0), torch.ones(4, 6)), ValueError, "the direction has shape [4, 6]; give [6]"),
        (lambda: next_token_direction(SMALL, "text"), TypeError, "this is str"),
        (lambda: next_token_direction(SMALL, torch.ones(2, 3)), TypeError, "whole numbers; these are torch.float32"),
        (lambda: next_token_direction(SMALL, torch.ones(2, 3) > 0), TypeError, "whole numbers; these are torch.bool"),
        (lambda: SelfRepair(SMALL, batch(0), SMALL.W_U[:, 0]).toward(3), TypeError, "for the logit of token 3"),
        (lambda: next_token_direction(SMALL, torch.tensor([1, 2])), ValueError, "give [batch pos]"),
        (lambda: next_token_direction(SMALL, torch.tensor([[1, -1]])), ValueError, "token -1 is out of range"),
    ],
)
def test_mistakes_give_readable_errors(call, error, words):
    with pytest.raises(error) as raised:
        call()
    assert words in str(raised.value)
