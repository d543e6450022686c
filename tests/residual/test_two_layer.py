"""The theorems of the note two-layer: a model is the sum of its paths, and a norm is not a trace."""

from __future__ import annotations

import itertools
from math import comb

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual import Config, Transformer
from residual.experiments.hand_set import induction
from residual.methods.circuits import composition_scores
from residual.methods.paths import by_order, score_paths, two_layer_paths
from residual.taps import compose, freeze, record

seeds = st.integers(0, 10**6)


def model_of(n_layers, seed, n_heads=3, **options):
    config = Config(n_layers, 8, n_heads, 4, 6, 9, init_std=0.7, **options)
    return Transformer(config, seed=seed).double().requires_grad_(False)


def tokens_of(seed, batch=2):
    return torch.randint(9, (batch, 6), generator=torch.Generator().manual_seed(seed))


def matrices(seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


options = st.sampled_from(
    [{}, {"positions": "shortformer"}, {"positions": "rotary"}, {"smeared_keys": True}, {"n_kv_heads": 1}]
)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), seeds, options)
def test_the_orders_add_up_to_the_stream(n_layers, seed, config):
    model, tokens = model_of(n_layers, seed, **config), tokens_of(seed)
    orders = by_order(model, tokens)
    assert len(orders) == n_layers + 1
    assert torch.allclose(orders.sum(dim=0) @ model.W_U, model(tokens), atol=1e-9, rtol=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), seeds)
def test_orders_are_those_of_the_papers_algorithm(n_layers, seed):
    """Frozen patterns; in run n the layers' outputs are replaced by those of run n - 1, and at first by zeros."""
    model, tokens = model_of(n_layers, seed), tokens_of(seed)
    model(tokens, tap=(seen := record("*.pattern")))
    patterns = freeze(seen)
    names = [f"blocks.{layer}.attn_out" for layer in range(n_layers)]
    saved = {name: torch.zeros(2, 6, 8).double() for name in names}
    orders = by_order(model, tokens)
    for n in range(n_layers + 1):
        out, outputs = record(f"blocks.{n_layers - 1}.resid_post"), record(names)
        model(tokens, tap=compose(patterns, outputs, freeze(saved), out))
        upto = out[f"blocks.{n_layers - 1}.resid_post"]
        assert torch.allclose(upto, orders[: n + 1].sum(dim=0), atol=1e-9, rtol=1e-9)
        saved = dict(outputs)


@settings(deadline=None, max_examples=60)
@given(seeds, options)
def test_paths_add_up_to_their_orders(seed, config):
    model, tokens = model_of(2, seed, **config), tokens_of(seed)
    paths, orders = two_layer_paths(model, tokens), by_order(model, tokens)
    sums = torch.stack([paths.direct, paths.heads.sum(dim=(0, 1)), paths.virtual.sum(dim=(0, 1))])
    assert torch.allclose(sums, orders, atol=1e-9, rtol=1e-9)


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_a_virtual_head_is_the_product_of_patterns_and_of_maps(seed):
    """``A² A¹ ⊗ W_OV¹ W_OV²`` is a head: rows of its pattern sum to 1, and nothing comes from the future."""
    model, tokens = model_of(2, seed), tokens_of(seed)
    model(tokens, tap=(seen := record(["*.pattern", "blocks.0.resid_pre"])))
    virtual = two_layer_paths(model, tokens).virtual
    first, second = (block.attn for block in model.blocks)
    for later, earlier in itertools.product(range(3), repeat=2):
        pattern = seen["blocks.1.attn.pattern"][:, later] @ seen["blocks.0.attn.pattern"][:, earlier]
        moved = pattern @ seen["blocks.0.resid_pre"] @ (first.W_OV(earlier).AB @ second.W_OV(later).AB)
        assert torch.allclose(virtual[later, earlier], moved, atol=1e-9, rtol=1e-9)
        assert torch.allclose(pattern.sum(dim=-1), torch.ones(2, 6).double())
        assert pattern.triu(diagonal=1).abs().max() == 0 and pattern.min() >= 0


@settings(deadline=None, max_examples=60)
@given(seeds, options)
def test_the_score_is_the_sum_over_pairs_of_paths(seed, config):
    model, tokens = model_of(2, seed, **config), tokens_of(seed)
    model(tokens, tap=(seen := record("blocks.1.attn.scores")))
    scores = score_paths(model, tokens).sum(dim=(0, 1))
    past = torch.ones(6, 6, dtype=torch.bool).tril()
    assert torch.allclose(scores[..., past], seen["blocks.1.attn.scores"][..., past], atol=1e-9, rtol=1e-9)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_a_term_of_the_score_is_two_patterns_and_one_matrix(seed):
    """``A_q ⊗ A_k ⊗ W``, with every sum written as a loop over the tokens that query and key gathered."""
    model, tokens = model_of(2, seed, n_heads=2), tokens_of(seed, batch=1)
    model(tokens, tap=(seen := record(["blocks.0.attn.pattern", "blocks.0.resid_pre"])))
    x, terms = seen["blocks.0.resid_pre"][0], score_paths(model, tokens)
    first, second = (block.attn for block in model.blocks)
    gathers = [pattern.tolist() for pattern in (torch.eye(6), *seen["blocks.0.attn.pattern"][0])]
    writes = [torch.eye(8).double(), *first.W_OV().AB]
    for path, other in itertools.product(range(3), repeat=2):
        for head in range(2):
            W = writes[path] @ second.W_QK(head).AB @ writes[other].T / 4**0.5
            scores = (x @ W @ x.T).tolist()
            for i, j in itertools.product(range(6), repeat=2):
                expected = 0.0
                for a, b in itertools.product(range(6), repeat=2):
                    expected += gathers[path][i][a] * gathers[other][j][b] * scores[a][b]
                assert terms[path, other, 0, head, i, j].item() == pytest.approx(expected, abs=1e-9, rel=1e-9)


def test_induction_by_hand_is_k_composition_alone():
    """In the hand-set model, only the pair (direct query, key through head 0.0) distinguishes the right key."""
    model = induction(8, 12)
    tokens = torch.tensor([[0, 1, 2, 3, 4, 5, 1, 6, 7, 2, 3, 1]])
    terms = score_paths(model, tokens)[:, :, 0, 0]  # query_path key_path query key
    after_a_match = [(6, 2), (9, 3), (10, 4), (11, 2), (11, 7)]  # the key follows an earlier copy of the query's token
    for i, j in after_a_match:
        assert terms[0, 1, i, j] > 1
        others = [m for m in range(1, i + 1) if tokens[0, m - 1] != tokens[0, i]]
        assert terms[0, 1, i, others].abs().max() < 0.01 * terms[0, 1, i, j]
    assert terms[1, 0].abs().max() < 1e-6 and terms[1, 1].abs().max() < 1e-6


@settings(deadline=None, max_examples=60)
@given(seeds)
def test_a_constant_write_acts_through_queries_alone(seed):
    """The same vector at every position changes no pattern as a key; as a query it favors the same keys everywhere."""
    x, (c,), (W,) = matrices(seed, (6, 8))[0], *(matrices(seed + 1, (8,)), matrices(seed + 2, (8, 8)))
    pattern = (x @ W @ x.T).softmax(dim=-1)
    assert torch.allclose((x @ W @ (x + c).T).softmax(dim=-1), pattern, atol=1e-9)
    ratio = ((x + c) @ W @ x.T).softmax(dim=-1) / pattern
    ratio = ratio / ratio[:, :1]  # how much each key gains on the first: the same for every query
    assert torch.allclose(ratio, ratio[:1].expand(6, 6), rtol=1e-6)
    assert not torch.allclose(ratio, torch.ones(6, 6).double(), rtol=1e-3)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 3))
def test_the_number_of_paths(n_layers, n_heads):
    """A path skips each layer or goes through one of its heads: counted one by one, by the number of heads."""
    ways = itertools.product(range(n_heads + 1), repeat=n_layers)
    of_order = [0] * (n_layers + 1)
    for way in ways:
        of_order[sum(head > 0 for head in way)] += 1
    assert of_order == [comb(n_layers, n) * n_heads**n for n in range(n_layers + 1)]
    assert sum(of_order) == (1 + n_heads) ** n_layers


@settings(deadline=None, max_examples=100)
@given(seeds, st.integers(1, 6), st.integers(1, 6))
def test_trace_and_eigenvalues_are_cyclic(seed, rows, rank):
    A, B = matrices(seed, (rows, rank), (rank, rows))
    assert torch.isclose((A @ B).trace(), (B @ A).trace(), atol=1e-9)
    # the same characteristic polynomial up to a power of λ: equal sums of powers of the eigenvalues
    for power in range(1, 5):
        first, second = torch.matrix_power(A @ B, power).trace(), torch.matrix_power(B @ A, power).trace()
        assert torch.isclose(first, second, atol=1e-6, rtol=1e-9)


@settings(deadline=None, max_examples=60)
@given(seeds)
def test_turning_does_no_harm_where_both_heads_read_the_same(seed):
    """``‖W_Q X W_Vᵀ‖ = ‖W_Vᵀ W_Q X‖`` if W_Q and W_V are orthonormal bases of one space, for any ``X = W_Kᵀ W_Oᵀ``."""
    basis, W_K, W_O, inside, other = matrices(seed, (9, 3), (9, 3), (3, 9), (3, 3), (9, 3))
    W_Q = torch.linalg.qr(basis).Q
    W_V, X, norm = W_Q @ torch.linalg.qr(inside).Q, W_K.T @ W_O.T, torch.linalg.matrix_norm
    assert torch.isclose(norm(W_Q @ X @ W_V.T), norm(W_V.T @ W_Q @ X), rtol=1e-9)
    W_V = torch.linalg.qr(other).Q  # of another space: the first is unchanged, the second is smaller
    assert torch.isclose(norm(W_Q @ X @ W_V.T), norm(X), rtol=1e-9)
    assert norm(W_V.T @ W_Q @ X) < norm(X)


def test_the_norm_is_not_cyclic():
    """The smallest counterexample: one product is zero, the other is not."""
    A, B = torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert torch.linalg.matrix_norm(A @ B) == 0
    assert torch.linalg.matrix_norm(B @ A) == 1
    assert torch.linalg.matrix_norm((B @ A) @ (B @ A)) == 0  # (its eigenvalues are those of A B: all zero)


@settings(deadline=None, max_examples=100)
@given(seeds, st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_the_norm_of_a_product_is_a_trace(seed, rows, rank, columns):
    A, B = matrices(seed, (rows, rank), (rank, columns))
    assert torch.isclose(torch.linalg.matrix_norm(A @ B).square(), (A.mT @ A @ B @ B.mT).trace(), rtol=1e-9)


@settings(deadline=None, max_examples=60)
@given(seeds, st.floats(0.1, 10), st.floats(0.1, 10))
def test_scores_do_not_see_scale_or_basis(seed, one, other):
    """Scaling a head, or rotating the whole stream, changes no score; rotating one layer alone does."""
    model = model_of(2, seed)
    before = composition_scores(model, samples=2)
    turn = torch.linalg.qr(matrices(seed + 1, (8, 8))[0]).Q
    for block, scale in zip(model.blocks, (one, other), strict=True):
        block.attn.W_QKV.copy_(scale * block.attn.W_QKV @ turn)
        block.attn.W_O.copy_(scale * block.attn.W_O @ turn)
    after = composition_scores(model, samples=2)
    for kind in "QKV":
        assert torch.allclose(getattr(before, kind)[1, :, 0], getattr(after, kind)[1, :, 0], atol=1e-9)
    model.blocks[0].attn.W_O.copy_(model.blocks[0].attn.W_O @ turn)
    assert not torch.allclose(before.K[1, :, 0], composition_scores(model, samples=2).K[1, :, 0], atol=1e-3)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_random_matrices_score_one_over_the_root_of_the_width(seed):
    """``E ‖A B‖² = ‖A‖² ‖B‖² / d`` on average over directions, if one matrix is rotated at random."""
    d = 12
    A, B = matrices(seed, (d, d), (d, d))
    turns = torch.linalg.qr(matrices(seed + 1, (4000, d, d))[0]).Q
    mean = torch.linalg.matrix_norm(A @ turns @ B).square().mean()
    assert torch.isclose(mean, A.square().sum() * B.square().sum() / d, rtol=0.05)


def test_models_that_are_not_linear_are_refused():
    for config in ({"norm": "layer"}, {"d_mlp": 4}, {"bias": True}):
        with pytest.raises(ValueError, match="no MLP, norm or bias"):
            by_order(model_of(2, 0, **config), tokens_of(0))
    with pytest.raises(ValueError, match="no layers"):
        by_order(model_of(0, 0), tokens_of(0))
    with pytest.raises(ValueError, match="the model has 3 layers"):
        two_layer_paths(model_of(3, 0), tokens_of(0))
    with pytest.raises(ValueError, match="score_paths takes one with two"):
        score_paths(model_of(3, 0), tokens_of(0))
