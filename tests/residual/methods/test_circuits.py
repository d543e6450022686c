"""Circuits computed from factors, against the matrices multiplied out, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from residual import Config, FactoredMatrix, Transformer
from residual.methods.circuits import (
    composition_scores,
    copying_score,
    full_OV,
    full_QK,
    overlap,
    positivity,
    principal_cosines,
    top_entries,
)
from residual.methods.induction import attention_to, prefix_matching_score, previous_token_score
from residual.taps import record

theorem = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**31 - 1)
small = st.integers(1, 6)


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def model_of(seed, n_layers=3, n_kv_heads=None, d_head=3):
    config = Config(n_layers, 8, 4, d_head, 12, 10, init_std=0.6, n_kv_heads=n_kv_heads)
    return Transformer(config, seed=seed).double().requires_grad_(False)


def multiplied_out(model):
    """Return ``W_QK`` and ``W_OV`` of every head as NumPy arrays, ``[layer][head]``."""
    shared = model.config.n_heads // model.config.kv_heads
    qk, ov = [], []
    for block in model.blocks:
        W_Q, W_K, W_V, W_O = (getattr(block.attn, name).numpy() for name in ("W_Q", "W_K", "W_V", "W_O"))
        heads = range(model.config.n_heads)
        qk.append([W_Q[h] @ W_K[h // shared].T for h in heads])
        ov.append([W_V[h // shared] @ W_O[h] for h in heads])
    return qk, ov


# ---- Composition


@theorem
@given(seeds, st.sampled_from([None, 2]), st.integers(1, 9))
def test_composition_scores_are_those_of_the_matrices(seed, n_kv_heads, d_head):
    """Also with d_head above d_model, where no factor is thin."""
    model = model_of(seed, n_kv_heads=n_kv_heads, d_head=d_head)
    qk, ov = multiplied_out(model)
    composition, norm = composition_scores(model, samples=2), np.linalg.norm
    for reader in range(3):
        for writer in range(3):
            for i in range(4):
                for j in range(4):
                    place = (reader, i, writer, j)
                    if writer >= reader:
                        assert all(scores[place].isnan() for scores in composition[:3])
                        continue
                    wrote, qk2, ov2 = ov[writer][j], qk[reader][i], ov[reader][i]
                    expected = (
                        norm(wrote @ qk2) / norm(wrote) / norm(qk2),
                        norm(qk2 @ wrote.T) / norm(wrote) / norm(qk2),
                        norm(wrote @ ov2) / norm(wrote) / norm(ov2),
                    )
                    for scores, value in zip(composition[:3], expected, strict=True):
                        assert scores[place].item() == pytest.approx(value, abs=1e-10)


@pytest.mark.filterwarnings("error")
def test_a_spread_needs_two_samples():
    model = Transformer(Config(n_layers=2, d_model=8, n_heads=2, d_head=4, d_vocab=5, n_ctx=4))
    for samples in (1, 0, -1):
        with pytest.raises(ValueError, match=f"samples is {samples}; a baseline with its spread needs at least 2"):
            composition_scores(model, samples=samples)
    assert composition_scores(model, samples=2).spread > 0


def test_the_baseline_is_what_random_heads_score():
    """Untrained heads are random matrices of those shapes and rank, so their mean score is the baseline."""
    model = Transformer(Config(2, 32, 16, 8, 4, 5), seed=5).double()
    composition = composition_scores(model, samples=400)
    for scores in composition[:3]:
        before = scores[1, :, 0]
        assert before.mean().item() == pytest.approx(composition.baseline, rel=0.02)
        assert before.std().item() == pytest.approx(composition.spread, rel=0.3)
    assert composition.baseline == pytest.approx(32**-0.5, rel=0.05)
    again = composition_scores(model, samples=400)
    assert again.baseline == composition.baseline, "the same seed gives the same baseline"


@theorem
@given(seeds)
def test_the_frobenius_norm_is_not_cyclic(seed):
    """The mistake in the first version of the Framework's figure: factors may not be rotated under the norm."""
    a, b = random(6, 1, seed=seed), random(1, 6, seed=seed + 1)
    assert FactoredMatrix(a, b).norm().item() == pytest.approx((a.norm() * b.norm()).item())
    assert FactoredMatrix(b, a).norm().item() == pytest.approx(abs((b @ a).item()))  # less, by their angle
    A, B = random(6, 2, seed=seed), random(2, 6, seed=seed + 1)
    for power in (1, 2, 3):  # traces of powers are cyclic, and so are the eigenvalues
        first, second = (torch.linalg.matrix_power(M, power).trace() for M in (A @ B, B @ A))
        assert_close(first, second, atol=1e-9, rtol=1e-9)


def test_a_head_built_to_compose_scores_one():
    """Head 1.0 reads, with its keys only, exactly the plane that head 0.0 writes to."""
    model = model_of(0, n_layers=2, d_head=2)
    first, second = model.blocks[0].attn, model.blocks[1].attn
    first.W_O.zero_(), second.W_K.zero_(), second.W_Q.zero_(), second.W_V.zero_()
    first.W_O[0, 0, 4] = first.W_O[0, 1, 5] = first.W_V[0, 0, 0] = 1
    second.W_K[0, 4, 0] = second.W_Q[0, 0, 0] = second.W_V[0, 0, 0] = 1
    first.W_V[0].zero_()
    first.W_V[0, 0, 0] = 1  # W_OV¹ = e₀ e₄ᵀ, W_QK² = e₀ e₄ᵀ, W_OV² = e₀ (…)ᵀ
    scores = composition_scores(model, samples=2)
    assert [kind[1, 0, 0, 0].item() for kind in scores[:3]] == pytest.approx([0, 1, 0], abs=1e-12)


# ---- Copying


@theorem
@given(seeds, st.sampled_from([None, 2]))
def test_copying_scores_are_those_of_the_vocabulary_tables(seed, n_kv_heads):
    model = model_of(seed, n_layers=2, n_kv_heads=n_kv_heads)
    _, ov = multiplied_out(model)
    qk, _ = multiplied_out(model)
    W_E, W_U = model.W_E.numpy(), model.W_U.numpy()
    scores = copying_score(model)
    for layer in range(2):
        for head in range(4):
            table = W_E @ ov[layer][head] @ W_U
            values = np.linalg.eigvals(table - table.mean(axis=1, keepdims=True))
            expected = values.sum().real / np.abs(values).sum()
            assert scores[layer, head].item() == pytest.approx(expected, abs=1e-6)  # (zeros of eigvals: 1e-16^(1/2))
            np.testing.assert_allclose(full_OV(model, layer, head).AB.numpy(), table, atol=1e-10)
            asks = W_E @ qk[layer][head] @ W_E.T
            np.testing.assert_allclose(full_QK(model, layer)[head].AB.numpy(), asks, atol=1e-10)


@theorem
@given(seeds, st.floats(-3, 3).filter(lambda x: abs(x) > 0.1))
def test_positivity_of_matrices_whose_eigenvalues_are_known(seed, scale):
    """A projection scaled by s has eigenvalues s and 0; a rotation of the plane by t has e^{±it}."""
    A = torch.linalg.qr(random(7, 3, seed=seed))[0]
    assert positivity(FactoredMatrix(scale * A, A.mT)).item() == pytest.approx(np.sign(scale), abs=1e-9)
    turn = torch.tensor([[np.cos(scale), -np.sin(scale)], [np.sin(scale), np.cos(scale)]])
    assert positivity(FactoredMatrix(A[:, :2] @ turn, A[:, :2].mT)).item() == pytest.approx(np.cos(scale), abs=1e-9)


# ---- Where heads look


def looks_back(distance, n_ctx=24, d_vocab=30):
    """Return a layer with one hand-set head that attends from each position to the one ``distance`` before it."""
    model = Transformer(Config(1, n_ctx + 2, 1, n_ctx, n_ctx, d_vocab)).double().requires_grad_(False)
    for weight in model.parameters():
        weight.zero_()
    model.W_pos[:, :n_ctx] = torch.eye(n_ctx)
    attn = model.blocks[0].attn
    attn.W_Q[0, distance:n_ctx, : n_ctx - distance] = 1e4 * torch.eye(n_ctx - distance)
    attn.W_K[0, :n_ctx] = torch.eye(n_ctx)
    return model


def test_a_head_that_looks_a_fixed_distance_back_gets_credit_for_that_period_alone():
    """Distance 7 is right for period 8: full score there, little if periods differ."""
    head = looks_back(7)
    assert prefix_matching_score(head, periods=(8, 8)).item() == pytest.approx(1, abs=1e-12)
    assert prefix_matching_score(head, periods=(9, 9)).item() == pytest.approx(0, abs=1e-12)
    assert prefix_matching_score(head, periods=(6, 12), examples=400).item() == pytest.approx(1 / 7, abs=0.06)


def test_the_score_is_the_mean_over_a_loop():
    """The same sequences, read one position at a time from recorded patterns; with a start token too."""
    model = model_of(3, n_layers=2)
    for start in (None, 9):
        got = prefix_matching_score(model, examples=6, periods=(3, 5), start=start, seed=4)
        taken, seen = [], record("*.pattern")

        class Spy(Transformer):
            def run_to(self, tokens, layer, tap=None, taken=taken, seen=seen):
                taken.append(tokens)
                super().run_to(tokens, layer, tap=seen)
                return super().run_to(tokens, layer, tap=tap)

        spy = Spy(model.config).double()
        spy.load_state_dict(model.state_dict())
        prefix_matching_score(spy, examples=6, periods=(3, 5), start=start, seed=4)
        tokens, shift = taken[0].tolist(), int(start is not None)
        for layer in range(2):
            for head in range(4):
                paid = []
                for pattern, row in zip(seen[f"blocks.{layer}.attn.pattern"], tokens, strict=True):
                    row = row[shift:]
                    period = next(p for p in range(2, 12) if row[p] == row[0])
                    assert len(set(row[:period])) == period and 3 <= period <= 5
                    for i in range(period, len(row)):
                        assert row[i] == row[i - period]
                        after = [j for j in range(1, i) if row[j - 1] == row[i]]  # after earlier copies
                        assert i - period + 1 in after or period == 1
                        paid.append(sum(pattern[head, i + shift, j + shift].item() for j in after))
                assert got[layer, head].item() == pytest.approx(np.mean(paid), abs=1e-12)


def test_previous_token_score_of_a_previous_token_head():
    tokens = torch.randint(30, (3, 24), generator=torch.Generator().manual_seed(0))
    assert previous_token_score(looks_back(1), tokens).item() == pytest.approx(1, abs=1e-12)
    assert previous_token_score(looks_back(2), tokens).item() == pytest.approx(0.5 / 23)  # position 1 has no such key


def test_impossible_periods_are_errors():
    with pytest.raises(ValueError, match="periods from 3 to 12 do not repeat in 12 tokens"):
        prefix_matching_score(model_of(0), periods=(3, 12))
    with pytest.raises(ValueError, match="11 distinct tokens cannot be drawn from 10"):
        prefix_matching_score(model_of(0), periods=(3, 11))
    with pytest.raises(ValueError, match="a stretch of 32 distinct tokens cannot be drawn from 20"):
        prefix_matching_score(Transformer(Config(1, 6, 2, 3, 128, 20)))  # the default is a quarter of the context


TOKENS = torch.zeros(2, 8, dtype=torch.long)
SLIPS = [
    (lambda model: full_OV(model, 3), "there is no layer 3 among 3"),
    (lambda model: full_QK(model, slice(1)), "a circuit is in one layer, so give one whole number"),
    (lambda model: full_OV(model, 0, 4), "there is no head 4 among 4"),
    (lambda model: full_OV(model, 0, "0.1"), "heads must be whole numbers, a list of them or a slice; '0.1' is not"),
    (lambda model: full_OV(model, 0, [0, 1]), "head must be a number or a slice;"),
    (lambda model: overlap(torch.ones(3, 2), torch.ones(4, 2)), "are not in the same space"),
    (lambda model: principal_cosines(torch.ones(3), torch.ones(3)), "are not in the same space"),
    (lambda model: prefix_matching_score(model, examples=0), "examples is 0; it must be at least 1"),
    (lambda model: previous_token_score(model, TOKENS[0]), r"tokens have shape \[8\]"),
    (
        lambda model: attention_to(model, TOKENS, TOKENS[:, :3]),
        r"key is torch.int64 \[2, 3\]; tokens of shape \[2, 8\]",
    ),
    (lambda model: attention_to(model, TOKENS, TOKENS + 8), "there is no key 8 in 8 tokens"),
    (lambda model: attention_to(model, TOKENS, TOKENS, TOKENS > 0), "counted must mark at least one of the tokens"),
]


@pytest.mark.parametrize(("call", "sentence"), SLIPS)
def test_mistakes_give_readable_errors(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(model_of(0))


def test_integers_of_all_kinds_name_layers_and_heads():
    model = model_of(0)
    for layer, head in [(np.int64(2), np.int64(3)), (-1, -1), (2, torch.tensor(3))]:
        assert_close(full_OV(model, layer, head).AB, full_OV(model, 2, 3).AB)
    assert full_QK(model, 1, slice(1, 3)).AB.shape[0] == 2


# ---- Large tables


@theorem
@given(small, st.integers(1, 40), st.integers(1, 40), st.integers(1, 7), seeds, st.data())
def test_top_entries_are_those_of_the_table(rank, rows, columns, block, seed, data):
    """Rows differ much in length, so that blocks are skipped; entries are whole numbers, so that they tie."""
    k = data.draw(st.integers(1, rows * columns))
    A, B = random(rows, rank, seed=seed).round(decimals=0), random(rank, columns, seed=seed + 1).mul(3).round()
    A = A * torch.from_numpy(np.random.default_rng(seed).integers(0, 50, size=(rows, 1)).astype(float))
    values, i, j = top_entries(A, B, k, block=block)
    table = A.numpy() @ B.numpy()
    assert values.tolist() == sorted(table.ravel().tolist(), reverse=True)[:k]
    assert values.tolist() == [table[place] for place in zip(i.tolist(), j.tolist(), strict=True)]
    assert len(set(zip(i.tolist(), j.tolist(), strict=True))) == k, "each entry appears once"


def test_most_blocks_of_a_skewed_table_are_never_computed():
    """Token embeddings differ in length, and the largest entries are in rows and columns that are both long."""
    A = random(4000, 4) * torch.linspace(0, 1, 4000, dtype=torch.float64)[:, None] ** 8
    B = random(4, 4000, seed=1) * torch.linspace(0, 1, 4000, dtype=torch.float64) ** 8
    expected = (A @ B).flatten().topk(20).values
    with FlopCounterMode(display=False) as counter:
        entries = top_entries(A, B, 20, block=200)
    assert_close(entries.values, expected, atol=1e-12, rtol=1e-12)
    assert counter.get_total_flops() < 0.1 * (2 * 4 * 4000**2), "the whole table takes 2 × 4 FLOPs per entry"


def test_bad_tables_are_errors():
    with pytest.raises(ValueError, match=r"\[3, 2\] @ \[3, 4\] is no table"):
        top_entries(torch.ones(3, 2), torch.ones(3, 4))
    with pytest.raises(ValueError, match="cannot take 10 entries of a table of 3 × 3"):
        top_entries(torch.ones(3, 2), torch.ones(2, 3), 10)


# ---- Subspaces


@theorem
@given(small, small, seeds)
def test_overlap_is_that_of_the_projections(rank_a, rank_b, seed):
    """tr(P Q) / min(rank P, rank Q), with projections by NumPy's pseudo-inverse; dependent columns too."""
    A, B = random(7, rank_a, seed=seed), random(7, rank_b, seed=seed + 1)
    doubled = torch.cat([A, A @ random(rank_a, 2, seed=seed + 2)], dim=1)
    P, Q = (M.numpy() @ np.linalg.pinv(M.numpy()) for M in (A, B))
    expected = np.trace(P @ Q) / min(rank_a, rank_b)
    assert overlap(A, B).item() == pytest.approx(expected, abs=1e-10)
    assert overlap(doubled, B).item() == pytest.approx(expected, abs=1e-10)
    assert overlap(A, doubled).item() == pytest.approx(1, abs=1e-10)
    cosines = principal_cosines(A, B)
    assert (cosines**2).sum().item() == pytest.approx(np.trace(P @ Q), abs=1e-10)
    both = overlap(torch.stack([A, A]), torch.stack([A, A]))
    assert_close(both, torch.ones(2, dtype=torch.float64))


def test_random_spaces_overlap_by_their_share_of_the_dimensions():
    A, B = random(2000, 12, 3, seed=1), random(2000, 12, 5, seed=2)
    assert overlap(A, B).mean().item() == pytest.approx(5 / 12, abs=0.01)
