"""Wrong answers to the labs of logit-attribution.md, each with words of the sentence that the reader gets."""

RIGHT = {
    "contributions": (
        "import numpy as np\n"
        "def contributions(terms, u, w, eps):\n"
        "    scale = (np.mean(np.square(np.sum(terms, 0))) + eps) ** 0.5\n"
        "    terms *= w\n"  # in the reader's own array
        "    terms /= scale\n"
        "    return list(np.einsum('td,d->t', terms, u))"
    ),
    "fair-shares": (
        "from itertools import permutations\n"
        "def fair_shares(values):\n"
        "    n = len(values).bit_length() - 1\n"
        "    values -= values[0]\n"
        "    orders = list(permutations(range(n)))\n"
        "    def with_first(order, k):\n"
        "        return values[sum(1 << j for j in order[:k])]\n"
        "    gains = [[0] * len(orders) for i in range(n)]\n"
        "    for row, order in enumerate(orders):\n"
        "        for k, i in enumerate(order):\n"
        "            gains[i][row] = with_first(order, k + 1) - with_first(order, k)\n"
        "    return tuple(sum(gain) / len(gain) for gain in gains)"
    ),
    "three-parts": (
        "import numpy as np\n"
        "def three_parts(x, x_changed, t, t_changed, r):\n"
        "    size = len(x) ** 0.5\n"
        "    s, s2 = np.linalg.norm(x) / size, np.linalg.norm(x_changed) / size\n"
        "    before, after = x @ r / s, x_changed @ r / s2\n"
        "    t -= t_changed\n"
        "    direct = t @ r / s\n"
        "    scale = after - x_changed @ r / s\n"
        "    return np.array([direct, after - before + direct - scale, scale])"
    ),
}

WRONG = {
    "contributions": [
        (
            "import numpy as np\n"
            "def contributions(terms, u, w, eps):\n"
            "    return terms @ (u * w) / np.sqrt((terms**2).mean(axis=1) + eps)",
            "divided by its own scale",
        ),
        ("def contributions(terms, u, w, eps):\n    return terms @ (u * w)", "the scale is missing"),
        (
            "import numpy as np\n"
            "def contributions(terms, u, w, eps):\n"
            "    return terms @ u / np.sqrt((terms.sum(axis=0) ** 2).mean() + eps)",
            "weights w are missing",
        ),
        (
            "import numpy as np\n"
            "def contributions(terms, u, w, eps):\n"
            "    return terms @ (u * w) / (np.sqrt((terms.sum(axis=0) ** 2).mean()) + eps)",
            "eps belongs under the root",
        ),
        (
            "import numpy as np\n"
            "def contributions(terms, u, w, eps):\n"
            "    return terms @ (u * w) / np.sqrt(terms.sum(axis=0).var() + eps)",
            "takes no mean off",
        ),
    ],
    "fair-shares": [
        (
            "def fair_shares(values):\n"
            "    n = len(values).bit_length() - 1\n"
            "    return [values[-1] - values[2**n - 1 - 2**i] for i in range(n)]",
            "only the last of all orders",
        ),
        (
            "def fair_shares(values):\n"
            "    n = len(values).bit_length() - 1\n"
            "    return [values[2**i] - values[0] for i in range(n)]",
            "only the first of all orders",
        ),
        (
            "def fair_shares(values):\n"
            "    n = len(values).bit_length() - 1\n"
            "    gains = [[values[s | 1 << i] - values[s] for s in range(2**n) if not s >> i & 1] for i in range(n)]\n"
            "    return [sum(gain) / len(gain) for gain in gains]",
            "look at the weights",
        ),
        (
            "def fair_shares(values):\n"
            "    n = len(values).bit_length() - 1\n"
            "    out = [0.0] * n\n"
            "    for k in range(n):\n"
            "        order = [(k + j) % n for j in range(n)]\n"
            "        for way in (order, order[::-1]):\n"
            "            s = 0\n"
            "            for i in way:\n"
            "                out[i] += (values[s | 1 << i] - values[s]) / (2 * n)\n"
            "                s |= 1 << i\n"
            "    return out",
            "its mean gain over all 4! orders",
        ),
        (
            "def fair_shares(values):\n"
            "    n = len(values).bit_length() - 1\n"
            "    return [2 / 3, 1 / 6, 1 / 6] if n == 3 else [(values[-1] - values[0]) / n] * n",
            "its mean gain over all 2! orders",
        ),
    ],
    "three-parts": [
        (
            "import numpy as np\n"
            "def three_parts(x, x_changed, t, t_changed, r):\n"
            "    s, s2 = (np.sqrt((y**2).mean()) for y in (x, x_changed))\n"
            "    later = r @ (x_changed - x + t - t_changed) / s\n"
            "    return r @ (t_changed - t) / s, later, r @ x_changed * (1 / s2 - 1 / s)",
            "direct has the wrong sign",
        ),
        (
            "import numpy as np\n"
            "def three_parts(x, x_changed, t, t_changed, r):\n"
            "    s, s2 = (np.sqrt((y**2).mean()) for y in (x, x_changed))\n"
            "    later = r @ (x_changed - x) / s\n"
            "    return r @ (t - t_changed) / s, later, r @ x_changed * (1 / s2 - 1 / s)",
            "the logit changes by",
        ),
        (
            "import numpy as np\n"
            "def three_parts(x, x_changed, t, t_changed, r):\n"
            "    s, s2 = (np.sqrt((y**2).mean()) for y in (x, x_changed))\n"
            "    direct, later = r @ (t - t_changed) / s2, r @ (x_changed - x + t - t_changed) / s\n"
            "    return direct, later, r @ x_changed / s2 - r @ x / s + direct - later",
            "but direct is",
        ),
    ],
}
