"""Checks of the labs in docs/notes/tensor-products.md."""

import numpy as np


def commutation_matrix(commutation_matrix):
    for m, n in ((2, 2), (3, 2), (2, 4)):
        P = np.asarray(commutation_matrix(m, n))
        size = m * n
        assert P.shape == (size, size), f"For m = {m} and n = {n}, P has the shape {P.shape}, not ({size}, {size})."
        X = np.arange(1.0, size + 1).reshape(m, n)
        rows, columns = X.reshape(-1), X.T.reshape(-1)
        if not np.array_equal(P @ rows, columns):
            why = ""
            if np.array_equal(P, np.eye(size)):
                why = ": this is the identity, and the two orders differ"
            elif np.array_equal(P @ columns, rows):
                why = ": it takes columns(X) to rows(X), so its transpose is the answer"
            raise AssertionError(f"For m = {m} and n = {n}, P @ rows(X) is not columns(X){why}.")
    A, W = np.arange(9.0).reshape(3, 3), np.arange(4.0).reshape(2, 2) + 1
    P = np.asarray(commutation_matrix(3, 2))
    assert np.allclose(P @ np.kron(A, W) @ P.T, np.kron(W, A)), "P does not swap the factors of A ⊗ W."
    return "Right: P takes rows(X) to columns(X) for every shape, and swaps the factors of a tensor product."
