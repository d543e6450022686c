"""Hidden checks of the labs of the note activation-patching."""

from __future__ import annotations

import numpy as np


def setup():
    """Return what the reader's code finds: numpy, three gates and their slopes."""
    gates = {
        "AND": lambda a, b: a * b,
        "OR": lambda a, b: a + b - a * b,
        "XOR": lambda a, b: a + b - 2 * a * b,
    }
    return {"np": np, "gates": gates}


def two_directions(noising, denoising):
    """Check the effect of each input of a gate, removed from (1, 1) and added to (0, 0)."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        none, first, second, both = rng.normal(size=4)

        def m(a, b, none=none, first=first, second=second, both=both):
            return (1 - a) * (1 - b) * none + a * (1 - b) * first + (1 - a) * b * second + a * b * both

        for name, function, right in (
            ("noising", noising, (both - second, both - first)),
            ("denoising", denoising, (first - none, second - none)),
        ):
            found = np.asarray(function(m), dtype=float)
            assert found.shape == (2,), f"{name} returns shape {found.shape}; return two numbers, one for each input"
            if np.allclose(found, right):
                continue
            if np.allclose(found, right[::-1]):
                raise AssertionError(f"{name} has the two inputs in the wrong order: the first number is of input a")
            if np.allclose(found, -np.asarray(right)):
                raise AssertionError(f"{name} has the wrong sign: take it with the input, less without it")
            other = (first - none, second - none) if name == "noising" else (both - second, both - first)
            if np.allclose(found, other):
                raise AssertionError(f"{name} is the other direction: noising starts at (1, 1), denoising at (0, 0)")
            raise AssertionError(
                f"of m(0,0) = {none:.2f}, m(1,0) = {first:.2f}, m(0,1) = {second:.2f}, m(1,1) = {both:.2f}, "
                f"{name} gives {found[0]:.2f}, {found[1]:.2f}; it is {right[0]:.2f}, {right[1]:.2f}"
            )


def integrated(integrate):
    """Check integrated gradients along the diagonal: the sum over inputs, and the shares of AND and OR."""
    rng = np.random.default_rng(1)
    for n in (2, 3, 5):
        linear = rng.normal(size=n)
        found = np.asarray(integrate(lambda t, linear=linear: linear.copy(), 8), dtype=float)
        assert found.shape == (n,), f"the slopes have shape ({n},), yours has {found.shape}; average over t only"
        assert np.allclose(found, linear), (
            f"of a linear function the slope is the same everywhere, {linear[0]:.2f}; yours is {found[0]:.2f}: "
            "do the weights of your points sum to 1?"
        )
        share = np.asarray(integrate(lambda t, n=n: np.full(n, t ** (n - 1)), 400), dtype=float)  # AND of n inputs
        if np.allclose(share, 1, atol=1e-2):
            raise AssertionError("that is the slope at the clean end alone; average it over t from 0 to 1")
        if np.allclose(share, 0, atol=1e-6):
            raise AssertionError("that is the slope at the corrupted end alone; average it over t from 0 to 1")
        assert np.allclose(share, 1 / n, atol=5e-3), (
            f"an AND of {n} inputs gives each {1 / n:.3f} of it; yours gives {share[0]:.3f} with 400 points"
        )
        points: list[float] = []
        integrate(lambda t, n=n, points=points: points.append(t) or np.ones(n), 5 + n)
        assert len(points) == 5 + n, (
            f"with steps = {5 + n} your code asks for the slopes {len(points)} times; use `steps` points"
        )
        coarse = float(np.asarray(integrate(lambda t: np.full(2, t**2), 4))[0])
        assert abs(coarse - 1 / 3) < 0.02, (
            f"with 4 points the integral of t² is {coarse:.3f}, not {1 / 3:.3f}: take the middles of the 4 intervals, "
            "not their ends"
        )


def one_score(moved):
    """Check the effect of adding to one score of a softmax, in closed form."""
    rng = np.random.default_rng(2)

    def softmax(x):
        e = np.exp(x - x.max())
        return e / e.sum()

    def effect(s, g, key, change):
        return float((softmax(s + change * (np.arange(len(s)) == key)) - softmax(s)) @ g)

    for change, place in ((0.3, -1), (-4.0, -1), (9.0, -1), (2.0, 0), (-1.0, 2), (3.0, 4)):
        s, g = rng.normal(size=6) * 3, rng.normal(size=6)
        s[np.argmax(s)] += 3  # a saturated key, where the first order fails
        key = int(np.argsort(s)[place])
        p, after = softmax(s), softmax(s + change * (np.arange(6) == key))
        given = s.copy(), g.copy()
        right, found = effect(s, g, key, change), float(moved(s, g, key, change))
        if not (np.array_equal(s, given[0]) and np.array_equal(g, given[1])):
            raise AssertionError("your code changes s or g, which belong to the caller; work on a copy, s.copy()")
        rest = (p @ g - p[key] * g[key]) / (1 - p[key])
        if np.isclose(found, right):
            continue
        if np.isclose(found, p[key] * (1 - p[key]) * change * (g[key] - rest)):
            raise AssertionError(
                f"that is the first order, {found:.4f}; the exact change is {right:.4f}: use σ(logit p + change) − p"
            )
        if np.isclose(found, (after[key] - p[key]) * g[key]):
            raise AssertionError("the other keys lose what this one wins: subtract their mean value from g[key]")
        if key != np.argmax(s) and np.isclose(found, effect(s, g, int(np.argmax(s)), change)):
            raise AssertionError("that is the effect of the largest score; the one that changes is s[key]")
        if np.isclose(found, -right):
            raise AssertionError("the sign is turned around: the effect is after minus before")
        raise AssertionError(f"with change {change} what is read moves by {right:.4f}; yours says {found:.4f}")
