"""Wrong answers to the labs of tensor-products.md, each with words of the sentence that the reader gets."""

WRONG = {
    "commutation-matrix": [
        ("def commutation_matrix(m, n):\n    return np.eye(m * n)", "this is the identity"),
        (
            "def commutation_matrix(m, n):\n    return np.eye(m * n)[np.arange(m * n).reshape(n, m).T.reshape(-1)]",
            "its transpose is the answer",
        ),
        ("def commutation_matrix(m, n):\n    return np.eye(m)", "has the shape (2, 2), not (4, 4)"),
    ],
}
