"""Wrong answers to the labs of activation-patching.md, each with words of the sentence that the reader gets."""

WRONG = {
    "two-directions": [
        (
            "def noising(m):\n    return m(1, 0) - m(0, 0), m(0, 1) - m(0, 0)\n"
            "def denoising(m):\n    return m(1, 1) - m(0, 1), m(1, 1) - m(1, 0)",
            "noising is the other direction",
        ),
        (
            "def noising(m):\n    return m(1, 1) - m(0, 1), m(1, 1) - m(1, 0)\n"
            "def denoising(m):\n    return m(0, 1) - m(0, 0), m(1, 0) - m(0, 0)",
            "denoising has the two inputs in the wrong order",
        ),
        (
            "def noising(m):\n    return m(0, 1) - m(1, 1), m(1, 0) - m(1, 1)\n"
            "def denoising(m):\n    return m(1, 0) - m(0, 0), m(0, 1) - m(0, 0)",
            "noising has the wrong sign",
        ),
    ],
    "integrated": [
        ("def integrate(slopes, steps):\n    return slopes(0.0)", "at the corrupted end alone"),
        (
            "def integrate(slopes, steps):\n    return sum(slopes(k / steps) for k in range(1, steps + 1)) / steps",
            "take the middles",
        ),
        (
            "def integrate(slopes, steps):\n    return sum(slopes((k + 0.5) / steps) for k in range(steps))",
            "do the weights of your points sum to 1",
        ),
        (
            "def integrate(slopes, steps):\n    return sum(slopes((k + 0.5) / 1000) for k in range(1000)) / 1000",
            "use `steps` points",
        ),
    ],
    "one-score": [
        (
            "def moved(s, g, key, change):\n    p = np.exp(s) / np.exp(s).sum()\n"
            "    rest = (p @ g - p[key] * g[key]) / (1 - p[key])\n"
            "    return p[key] * (1 - p[key]) * change * (g[key] - rest)",
            "that is the first order",
        ),
        (
            "def moved(s, g, key, change):\n    p = np.exp(s) / np.exp(s).sum()\n"
            "    after = 1 / (1 + (1 - p[key]) / p[key] * np.exp(-change))\n"
            "    return (after - p[key]) * g[key]",
            "the other keys lose what this one wins",
        ),
        (
            "def moved(s, g, key, change):\n    key, p = int(np.argmax(s)), np.exp(s) / np.exp(s).sum()\n"
            "    odds = p[key] * np.expm1(change)\n"
            "    return odds / (1 + odds) * (g[key] - p @ g)",
            "the one that changes is s[key]",
        ),
        (
            "def moved(s, g, key, change):\n    p = np.exp(s) / np.exp(s).sum()\n    s[key] += change\n"
            "    return (np.exp(s) / np.exp(s).sum() - p) @ g",
            "work on a copy",
        ),
    ],
}
