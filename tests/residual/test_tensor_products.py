"""The theorems of docs/notes/tensor-products.md, in float64.

The oracle is never the code under test: loops over indices, NumPy's ``kron``, or a least-squares solver.
"""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from residual.methods.kron import expand, kron, rearrange, vec, vec_col

size = st.integers(1, 5)
seeds = st.integers(0, 2**32 - 1)
theorem = settings(deadline=None, max_examples=50, derandomize=True)


class Draw:
    """Random float64 matrices from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def matrix(self, rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, dtype=torch.float64, generator=self.generator)

    def invertible(self, n: int) -> Tensor:
        """Return an orthogonal matrix times a diagonal in [1, 2]: well conditioned, so that rounding stays small."""
        Q, _ = torch.linalg.qr(self.matrix(n, n))
        return Q * (1 + torch.rand(n, dtype=torch.float64, generator=self.generator))

    def of_rank(self, rows: int, columns: int, rank: int) -> Tensor:
        U, _ = torch.linalg.qr(self.matrix(rows, rows))
        V, _ = torch.linalg.qr(self.matrix(columns, columns))
        return U[:, :rank] @ V[:, :rank].T

    def pattern(self, n: int) -> Tensor:
        """Return a causal attention pattern: lower triangular, positive, with rows that sum to one."""
        scores = self.matrix(n, n).masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
        return scores.softmax(dim=-1)


def attend(A: Tensor, X: Tensor, W: Tensor) -> Tensor:
    """Compute one head, number by number: ``out[i, b] = Σ_j Σ_a A[i, j] X[j, a] W[a, b]``."""
    out = torch.zeros(A.shape[0], W.shape[1], dtype=X.dtype)
    for i in range(A.shape[0]):
        for j in range(A.shape[1]):
            for b in range(W.shape[1]):
                for a in range(W.shape[0]):
                    out[i, b] += A[i, j] * X[j, a] * W[a, b]
    return out


def multiset_distance(values: np.ndarray, expected: np.ndarray) -> float:
    """Return the distance of two lists of complex numbers, each number paired with the nearest one not yet taken."""
    left = list(expected)
    worst = 0.0
    for number in values:
        gaps = np.abs(np.array(left) - number)
        worst = max(worst, float(gaps.min()))
        left.pop(int(gaps.argmin()))
    return worst


# Definition and algebra


@theorem
@given(size, size, size, size, seeds)
def test_definition(m: int, n: int, p: int, q: int, seed: int) -> None:
    """The entry of A ⊗ B at the pairs (i, k), (j, l) is A_ij B_kl."""
    draw = Draw(seed)
    A, B = draw.matrix(m, n), draw.matrix(p, q)
    AB = kron(A, B)
    assert AB.shape == (m * p, n * q)
    for i, j, k, l in np.ndindex(m, n, p, q):  # noqa: E741
        assert AB[i * p + k, j * q + l] == A[i, j] * B[k, l]
    assert np.array_equal(AB.numpy(), np.kron(A.numpy(), B.numpy()))


def test_transposed_arguments_are_taken() -> None:
    """torch.kron refuses transposed arguments on some backends, because its reshape needs contiguous memory."""
    draw = Draw(0)
    A, B = draw.matrix(3, 4), draw.matrix(2, 5)
    assert_close(kron(A.T, B.T), torch.tensor(np.kron(A.numpy().T, B.numpy().T)))


@theorem
@given(size, size, size, size, size, size, seeds)
def test_mixed_product(m: int, n: int, r: int, p: int, q: int, s: int, seed: int) -> None:
    """(A ⊗ B)(C ⊗ D) = AC ⊗ BD."""
    draw = Draw(seed)
    A, B, C, D = draw.matrix(m, n), draw.matrix(p, q), draw.matrix(n, r), draw.matrix(q, s)
    left = np.kron(A.numpy(), B.numpy()) @ np.kron(C.numpy(), D.numpy())
    assert_close(kron(A @ C, B @ D), torch.tensor(left))


@theorem
@given(size, size, size, size, seeds)
def test_transpose(m: int, n: int, p: int, q: int, seed: int) -> None:
    """(A ⊗ B)ᵀ = Aᵀ ⊗ Bᵀ."""
    draw = Draw(seed)
    A, B = draw.matrix(m, n), draw.matrix(p, q)
    assert_close(kron(A.T, B.T), torch.tensor(np.kron(A.numpy(), B.numpy()).T))


@theorem
@given(size, size, seeds)
def test_inverse(m: int, p: int, seed: int) -> None:
    """(A ⊗ B)⁻¹ = A⁻¹ ⊗ B⁻¹."""
    draw = Draw(seed)
    A, B = draw.invertible(m), draw.invertible(p)
    inverse = kron(torch.linalg.inv(A), torch.linalg.inv(B))
    assert_close(inverse @ kron(A, B), torch.eye(m * p, dtype=torch.float64))


@theorem
@given(size, size, seeds)
def test_trace(m: int, p: int, seed: int) -> None:
    """tr(A ⊗ B) = tr A · tr B."""
    draw = Draw(seed)
    A, B = draw.matrix(m, m), draw.matrix(p, p)
    assert_close(kron(A, B).trace(), A.trace() * B.trace())


@theorem
@given(size, size, size, size, st.data(), seeds)
def test_rank(m: int, n: int, p: int, q: int, data: st.DataObject, seed: int) -> None:
    """rank(A ⊗ B) = rank A · rank B."""
    a = data.draw(st.integers(1, min(m, n)))
    b = data.draw(st.integers(1, min(p, q)))
    draw = Draw(seed)
    A, B = draw.of_rank(m, n, a), draw.of_rank(p, q, b)
    assert int(torch.linalg.matrix_rank(kron(A, B))) == a * b


@theorem
@given(size, size, seeds)
def test_eigenvalues(m: int, p: int, seed: int) -> None:
    """The eigenvalues of A ⊗ B are the products of those of A and B."""
    draw = Draw(seed)
    A, B = draw.matrix(m, m), draw.matrix(p, p)
    products = np.multiply.outer(np.linalg.eigvals(A.numpy()), np.linalg.eigvals(B.numpy())).ravel()
    # eigenvalues that are nearly equal move by the square root of the rounding
    assert multiset_distance(np.linalg.eigvals(kron(A, B).numpy()), products) < 1e-5


@theorem
@given(size, size, size, size, seeds)
def test_singular_values_and_norm(m: int, n: int, p: int, q: int, seed: int) -> None:
    """The singular values of A ⊗ B are the products of those of A and B, and so is the norm."""
    draw = Draw(seed)
    A, B = draw.matrix(m, n), draw.matrix(p, q)
    products = torch.outer(torch.linalg.svdvals(A), torch.linalg.svdvals(B)).flatten().sort(descending=True)[0]
    values = torch.linalg.svdvals(kron(A, B))
    assert_close(values[: len(products)], products)
    assert values[len(products) :].abs().sum() < 1e-9 * (1 + products[0])
    assert_close(kron(A, B).norm(), A.norm() * B.norm())


@theorem
@given(size, seeds)
def test_causal_head_eigenvalues(d: int, seed: int) -> None:
    """A causal pattern is triangular, so a head's operator has the eigenvalues A_ii λ(W)."""
    draw = Draw(seed)
    A, W = draw.pattern(4), draw.matrix(d, d)
    products = np.multiply.outer(A.diagonal().numpy(), np.linalg.eigvals(W.numpy())).ravel()
    assert multiset_distance(np.linalg.eigvals(kron(A, W.T.contiguous()).numpy()), products) < 1e-5


@theorem
@given(size, st.integers(1, 3), seeds)
def test_causal_head_rank(n: int, d_head: int, seed: int) -> None:
    """A causal softmax pattern is invertible, so a head's operator has rank n · rank(W_OV)."""
    draw = Draw(seed)
    A, W_OV = draw.pattern(n), draw.of_rank(4, 4, d_head)
    assert A.diagonal().prod() > 0
    assert int(torch.linalg.matrix_rank(kron(A, W_OV.T), rtol=1e-12)) == n * d_head


# vec, in both orders


@theorem
@given(size, size, size, size, seeds)
def test_vec_row_major(m: int, n: int, d: int, e: int, seed: int) -> None:
    """Stacked by rows, vec(A X W) = (A ⊗ Wᵀ) vec(X)."""
    draw = Draw(seed)
    A, X, W = draw.matrix(m, n), draw.matrix(n, d), draw.matrix(d, e)
    assert_close(kron(A, W.T) @ vec(X), vec(attend(A, X, W)))


@theorem
@given(size, size, size, size, seeds)
def test_vec_column_major(m: int, n: int, d: int, e: int, seed: int) -> None:
    """Stacked by columns, vec(A X W) = (Wᵀ ⊗ A) vec(X)."""
    draw = Draw(seed)
    A, X, W = draw.matrix(m, n), draw.matrix(n, d), draw.matrix(d, e)
    assert_close(kron(W.T, A) @ vec_col(X), vec_col(attend(A, X, W)))


@theorem
@given(size, size, size, size, seeds)
def test_vec_as_a_row(m: int, n: int, d: int, e: int, seed: int) -> None:
    """Operators that act from the right transpose the pattern and leave the weight alone."""
    draw = Draw(seed)
    A, X, W = draw.matrix(m, n), draw.matrix(n, d), draw.matrix(d, e)
    assert_close(vec(X) @ kron(A.T, W), vec(attend(A, X, W)))


@theorem
@given(size, size, seeds)
def test_weights_that_act_from_the_left(n: int, d: int, seed: int) -> None:
    """In the Framework's columns, x_i ↦ W x_i, the operator on row-major vec is A ⊗ W without a transpose."""
    draw = Draw(seed)
    A, X, W = draw.pattern(n), draw.matrix(n, d), draw.matrix(d, d)
    mixed = torch.stack([sum(A[i, j] * (W @ X[j]) for j in range(n)) for i in range(n)])
    assert_close(kron(A, W) @ vec(X), vec(mixed))


@theorem
@given(size, size, size, size, seeds)
def test_commutation(m: int, n: int, p: int, q: int, seed: int) -> None:
    """Both orders of vec differ by a permutation for each shape; P_mp (A ⊗ B) P_nqᵀ = B ⊗ A for A [m n], B [p q]."""
    draw = Draw(seed)
    A, B, X = draw.matrix(m, n), draw.matrix(p, q), draw.matrix(n, q)

    def commutation(rows: int, columns: int) -> Tensor:
        order = vec_col(torch.arange(rows * columns).reshape(rows, columns))
        return torch.eye(rows * columns, dtype=torch.float64)[order]

    assert_close(commutation(n, q) @ vec(X), vec_col(X))
    assert_close(commutation(m, p) @ kron(A, B) @ commutation(n, q).T, kron(B, A))


# In a transformer


@theorem
@given(size, size, size, seeds)
def test_per_position(n: int, d: int, e: int, seed: int) -> None:
    """Id ⊗ Wᵀ acts on each position separately."""
    draw = Draw(seed)
    X, W = draw.matrix(n, d), draw.matrix(d, e)
    each = torch.cat([X[i] @ W for i in range(n)])
    assert_close(kron(torch.eye(n, dtype=torch.float64), W.T) @ vec(X), each)


@theorem
@given(size, size, seeds)
def test_across_positions(n: int, d: int, seed: int) -> None:
    """A ⊗ Id mixes positions and leaves channels alone."""
    draw = Draw(seed)
    A, X = draw.pattern(n), draw.matrix(n, d)
    each = torch.stack([A @ X[:, channel] for channel in range(d)], dim=1)
    assert_close(kron(A, torch.eye(d, dtype=torch.float64)) @ vec(X), vec(each))


@theorem
@given(size, size, seeds)
def test_position_and_channel_maps_commute(n: int, d: int, seed: int) -> None:
    """A map across positions and a map at each position commute; together they are A ⊗ Wᵀ."""
    draw = Draw(seed)
    A, W = draw.pattern(n), draw.matrix(d, d)
    move = kron(A, torch.eye(d, dtype=torch.float64))
    map_each = kron(torch.eye(n, dtype=torch.float64), W.T)
    assert_close(move @ map_each, map_each @ move)
    assert_close(move @ map_each, kron(A, W.T))


@theorem
@given(st.integers(1, 4), size, st.integers(2, 5), st.integers(1, 3), seeds)
def test_attention_layer(heads: int, n: int, d: int, d_head: int, seed: int) -> None:
    """An attention layer is Σ_h A^h ⊗ (W_OV^h)ᵀ on the stream stacked by rows."""
    draw = Draw(seed)
    A = [draw.pattern(n) for _ in range(heads)]
    W_V = [draw.matrix(d, d_head) for _ in range(heads)]
    W_O = [draw.matrix(d_head, d) for _ in range(heads)]
    X = draw.matrix(n, d)
    layer = sum(kron(A[h], (W_V[h] @ W_O[h]).T) for h in range(heads))
    written = sum(attend(A[h], X, W_V[h] @ W_O[h]) for h in range(heads))
    assert_close(layer @ vec(X), vec(written))


@theorem
@given(st.integers(2, 4), st.integers(2, 4), seeds)
def test_virtual_head(n: int, d: int, seed: int) -> None:
    """One head after another is one tensor product; with rows the weights multiply in reading order."""
    draw = Draw(seed)
    A1, A2, W1, W2, X = (
        draw.pattern(n),
        draw.pattern(n),
        draw.matrix(d, d),
        draw.matrix(d, d),
        draw.matrix(n, d),
    )
    twice = attend(A2, attend(A1, X, W1), W2)
    assert_close(kron(A2 @ A1, (W1 @ W2).T) @ vec(X), vec(twice))


@theorem
@given(st.integers(1, 5), st.integers(1, 4), seeds)
def test_no_single_product(n: int, d: int, seed: int) -> None:
    """The nearest Id ⊗ Mᵀ to A ⊗ Wᵀ has M = (tr A / n) W; the oracle is a least-squares solver."""
    draw = Draw(seed)
    A, W = draw.pattern(n), draw.matrix(d, d)
    head = kron(A, W.T)
    identity = torch.eye(n, dtype=torch.float64)
    basis = [vec(kron(identity, torch.eye(d * d, dtype=torch.float64)[index].reshape(d, d))) for index in range(d * d)]
    best = torch.linalg.lstsq(torch.stack(basis, dim=1), vec(head)[:, None]).solution.reshape(d, d)
    assert_close(best, A.trace() / n * W.T)
    missed = (head - kron(identity, best)).square().sum()
    assert_close(missed, W.square().sum() * (A.square().sum() - A.trace() ** 2 / n))


@theorem
@given(st.integers(2, 5), st.integers(2, 4), seeds)
def test_no_single_product_from_the_left(n: int, d: int, seed: int) -> None:
    """For N ⊗ Id, the head's weight would have to be a multiple of the identity."""
    draw = Draw(seed)
    A, W = draw.pattern(n), draw.matrix(d, d)
    head = kron(A, W.T)
    identity = torch.eye(d, dtype=torch.float64)
    best = W.trace() / d * A
    missed = (head - kron(best, identity)).square().sum()
    assert_close(missed, A.square().sum() * (W.square().sum() - W.trace() ** 2 / d))
    for _ in range(20):
        assert (head - kron(best + 0.1 * draw.matrix(n, n), identity)).square().sum() > missed


@theorem
@given(size, size, size, seeds)
def test_weights_around_the_pattern_do_not_multiply(n: int, d_model: int, d_head: int, seed: int) -> None:
    """``W_O A W_V X``, found in some tutorials, multiplies only if there are as many positions as channels."""
    assume(n not in (d_model, d_head))
    draw = Draw(seed)
    A, X = draw.pattern(n), draw.matrix(n, d_model)
    W_V, W_O = draw.matrix(d_model, d_head), draw.matrix(d_head, d_model)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        W_O @ A  # channels meet positions, in either convention
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        W_O.T @ A
    assert (A @ X @ W_V @ W_O).shape == X.shape


# Sums of tensor products


@theorem
@given(size, size, size, size, seeds)
def test_rearranged_tensor_product(m: int, n: int, p: int, q: int, seed: int) -> None:
    """Rearranged, A ⊗ B is the outer product of vec A and vec B."""
    draw = Draw(seed)
    A, B, M = draw.matrix(m, n), draw.matrix(p, q), draw.matrix(m * p, n * q)
    assert_close(rearrange(kron(A, B), (m, n), (p, q)), torch.outer(vec(A), vec(B)))
    moved = rearrange(M, (m, n), (p, q))
    for i, j in np.ndindex(m, n):
        block = M[i * p : (i + 1) * p, j * q : (j + 1) * q]
        assert torch.equal(moved[i * n + j], block.flatten())
    assert_close(moved.norm(), M.norm())


@theorem
@given(st.integers(1, 6), st.integers(3, 5), st.integers(3, 4), seeds)
def test_kronecker_rank_of_a_layer(heads: int, n: int, d: int, seed: int) -> None:
    """Heads with independent patterns and weights need as many tensor products as there are heads."""
    draw = Draw(seed)
    A = [draw.pattern(n) for _ in range(heads)]
    W = [draw.matrix(d, d) for _ in range(heads)]
    layer = sum(kron(a, w) for a, w in zip(A, W, strict=True))
    independent = [int(torch.linalg.matrix_rank(torch.stack([vec(m) for m in ms]), rtol=1e-10)) for ms in (A, W)]
    rank = int(torch.linalg.matrix_rank(rearrange(layer, (n, n), (d, d)), rtol=1e-12))
    assert rank <= min(independent)
    if independent == [heads, heads]:
        assert rank == heads


@theorem
@given(st.integers(2, 4), st.integers(2, 4), st.floats(-3, 3), seeds)
def test_when_two_heads_are_one(n: int, d: int, c: float, seed: int) -> None:
    """Two heads are one tensor product if they share a pattern or a weight, and two otherwise."""
    draw = Draw(seed)
    A, A2, W, W2 = draw.pattern(n), draw.pattern(n), draw.matrix(d, d), draw.matrix(d, d)

    def terms(M: Tensor) -> int:
        return int(torch.linalg.matrix_rank(rearrange(M, (n, n), (d, d)), rtol=1e-10))

    assert terms(kron(A, W) + kron(A, W2)) == 1  # the same pattern: one head with W + W2
    assert terms(kron(A, W) + kron(A2, c * W)) <= 1  # proportional weights: one pattern A + c A2
    assert terms(kron(A, W) + kron(A2, W2)) == 2


@theorem
@given(st.integers(2, 4), st.integers(2, 4), st.integers(1, 3), seeds)
def test_nearest_sum_of_tensor_products(n: int, d: int, terms: int, seed: int) -> None:
    """The nearest sum of r tensor products is a truncated SVD of the rearranged matrix."""
    draw = Draw(seed)
    M = draw.matrix(n * d, n * d)
    near = sum(kron(a, b) for a, b in expand(M, (n, n), (d, d), terms))
    missed = (M - near).square().sum()
    assert_close(missed, torch.linalg.svdvals(rearrange(M, (n, n), (d, d)))[terms:].square().sum())
    B = [draw.matrix(d, d) for _ in range(terms)]  # alternating least squares: an oracle without an SVD
    R = rearrange(M, (n, n), (d, d))
    for _ in range(10):
        right = torch.stack([vec(b) for b in B])
        left = torch.linalg.lstsq(right.T, R.T).solution.T
        B = list(torch.linalg.lstsq(left, R).solution.reshape(terms, d, d))
        fitted = sum(kron(a.reshape(n, n), b) for a, b in zip(left.T, B, strict=True))
        assert (M - fitted).square().sum() >= missed * (1 - 1e-12)


def test_rearranging_the_wrong_shape_says_so() -> None:
    with pytest.raises(ValueError, match="3×3 blocks of 2×2 make a 6×6 matrix"):
        rearrange(torch.zeros(6, 8), (3, 3), (2, 2))
