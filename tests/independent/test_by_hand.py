"""einstein-notation and tensor-products: arithmetic by hand, from the sizes of GPT-2 small."""

import math
from collections.abc import Iterator
from itertools import product

import numpy as np

from .claims import Again, each, wrong

N, D, D_HEAD, HEADS = 1024, 768, 64, 12  # GPT-2 small's context, widths and heads


# -- einstein-notation: x Q Kᵀ yᵀ, x and y [N, D], Q and K [D, D_HEAD]


def multiply(a: int, b: int, c: int) -> int:
    """Return the FLOPs of [a, b] @ [b, c]."""
    return 2 * a * b * c


def queries_first(n: int) -> int:
    """Return the FLOPs of (x Q)(Kᵀ yᵀ), the usual order, for n queries."""
    return multiply(n, D, D_HEAD) + multiply(N, D, D_HEAD) + multiply(n, D_HEAD, N)


def absorbed(n: int) -> int:
    """Return the FLOPs of ((x Q) Kᵀ) yᵀ, with the keys' map absorbed into the queries."""
    return multiply(n, D, D_HEAD) + multiply(n, D_HEAD, D) + multiply(n, D, N)


def product_first() -> int:
    """Return the FLOPs of (x (Q Kᵀ)) yᵀ."""
    return multiply(D, D_HEAD, D) + multiply(N, D, D) + multiply(N, D, N)


def worst() -> int:
    """Return the FLOPs of ((x K) Q) y with outer products: x and K share no axis, so all their entries multiply."""
    x_and_y = N * D * N * D  # query a key b, multiplied out
    then_one = 2 * N * D * N * D * D_HEAD  # … with Q or K: sums over one of a, b
    then_other = 2 * N * D * D_HEAD * N
    weights_last = x_and_y + then_one + then_other
    x_and_K = N * D * D * D_HEAD  # query a, b d_head
    with_y = 2 * N * D * D * D_HEAD * N  # sums over b, keeps query a d_head key
    with_Q = 2 * N * D * D_HEAD * N
    return max(weights_last, x_and_K + with_y + with_Q)


def trees(n: int) -> int:
    """Return the number of rooted binary trees with n labeled leaves: (2n − 3)!!."""
    return math.prod(range(1, 2 * n - 2, 2))


def block() -> dict[str, int]:
    """Return the FLOPs of a block of GPT-2 on one full context."""
    return {
        "maps": 4 * multiply(N, D, D),
        "pattern": 2 * HEADS * multiply(N, D_HEAD, N),
        "mlp": 2 * multiply(N, D, 4 * D),
    }


EINSTEIN = {
    "orders": Again(lambda: trees(4), 0),
    "chain_orders": Again(lambda: math.comb(6, 3) / 4, 0),  # the Catalan number for four factors in a row
    "product_over_best": Again(lambda: product_first() / queries_first(N)),
    "worst_over_best": Again(lambda: worst() / queries_first(N)),
    "absorbed_saves": Again(lambda: queries_first(1) / absorbed(1)),
    "absorbed_wins_until": Again(lambda: sum(absorbed(n) < queries_first(n) for n in range(1, N + 1)), 0),
    "absorbed_costs_at_all": Again(lambda: absorbed(N) / queries_first(N)),
    "left_to_right_flops": Again(lambda: (multiply(N, N, N) + multiply(N, N, 1)) / (2 * multiply(N, N, 1))),
    "mlp_share": Again(lambda: block()["mlp"] / sum(block().values())),
    "pattern_share": Again(lambda: block()["pattern"] / sum(block().values())),
}


# -- tensor-products


def three_tokens() -> Iterator[float]:
    """Yield the largest error of A ⊗ W in its four spellings, times two orders of stacking, against a loop."""
    A = np.array([[1, 0, 0], [0.5, 0.5, 0], [0.1, 0.6, 0.3]])
    W, X = np.array([[1, 2], [0, -1.0]]), np.array([[1, 0], [2, 1], [0, 3.0]])
    right = np.zeros_like(X)
    for i, j, a, b in product(range(3), range(3), range(2), range(2)):
        right[i, b] += A[i, j] * X[j, a] * W[a, b]
    for left, other in ((A, W), (A, W.T), (W, A), (W.T, A)):
        for order in "CF":
            yield float(abs(np.kron(left, other) @ X.flatten(order) - right.flatten(order)).max())


def missed(A: np.ndarray) -> float:
    """Return the share of a pattern's square that the nearest multiple of the identity does not reach."""
    nearest = np.trace(A) / len(A) * np.eye(len(A))
    return float(((A - nearest) ** 2).sum() / (A**2).sum())


def uniform() -> np.ndarray:
    return np.tril(np.ones((128, 128))) / np.arange(1, 129)[:, None]


def half_previous() -> np.ndarray:
    A = np.eye(128) / 2 + np.diag(np.full(127, 0.5), -1)
    A[0, 0] = 1  # the first position has no previous position
    return A


def factored_flops() -> int:
    """Return the FLOPs of values, patterns and outputs of every head."""
    return multiply(N, D, D) + HEADS * multiply(N, N, D_HEAD) + multiply(N, D, D)


PRODUCTS = {
    "readings_right": Again(lambda: (sum(error < 1e-12 for error in three_tokens()), 8)),
    "largest_error": Again(lambda: max(three_tokens())),
    "operator_entries": Again(lambda: (3 * 2) ** 2, 0),
    "factor_entries": Again(lambda: 3**2 + 2**2, 0),
    "head_size": Again(lambda: 16 * 32, 0),
    "head_rank": Again(lambda: 16 * 4, 0),  # a pattern has full rank, W_OV has rank d_head
    "layer_entries": Again(lambda: (16 * 32) ** 2, 0),
    "missed_uniform": Again(lambda: missed(uniform())),
    "missed_uniform_formula": Again(lambda: 1 - sum(1 / i for i in range(1, 129)) / 128),
    "missed_half": Again(lambda: missed(half_previous())),
    "dense_tib": Again(lambda: (N * D) ** 2 * 4 / 2**40),
    "fits_in_16_gib": Again(lambda: max(n for n in range(1, 200) if (n * D) ** 2 * 4 <= 2**34), 0),
    "dense_over_patterns": Again(lambda: (N * D) ** 2 / (HEADS * N**2), 0),
    "flops_ratio": Again(lambda: 2 * (N * D) ** 2 / factored_flops()),
    "toy_mib": Again(lambda: (64 * 64) ** 2 * 4 / 2**20, 0),
}

NUMBERS = {"einstein-notation": EINSTEIN, "tensor-products": PRODUCTS}


@each(NUMBERS)
def test_the_number_comes_out_again(note: str, name: str, number: Again) -> None:
    assert wrong(note, name, number) == []
