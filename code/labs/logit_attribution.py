"""Checks of the labs in docs/notes/logit-attribution.md."""

from itertools import permutations

import numpy as np


def _over_orders(values, n):
    """Return the mean gain of each head over all orders."""
    gains = np.zeros(n)
    for order in (orders := list(permutations(range(n)))):
        s = 0
        for i in order:
            gains[i] += (values[s | 1 << i] - values[s]) / len(orders)
            s |= 1 << i
    return gains


def contributions(contributions):
    rng = np.random.default_rng(0)
    for _ in range(3):
        terms, u, w, eps = rng.normal(size=(5, 8)), rng.normal(size=8), rng.uniform(0.5, 2, size=8), 0.1
        found = np.asarray(contributions(terms.copy(), u.copy(), w.copy(), eps), dtype=float)
        assert found.shape == (5,), f"There are 5 terms, and the answer has the shape {found.shape}; one number each."
        stream = terms.sum(axis=0)
        s = np.sqrt((stream**2).mean() + eps)
        right = terms @ (u * w) / s
        if np.allclose(found, right):
            continue
        logit, total = right.sum(), found.sum()
        why = ""
        own = np.sqrt((terms**2).mean(axis=1) + eps)
        if np.allclose(found, terms @ (u * w) / own):
            why = ": each term is divided by its own scale, not by that of the stream"
        elif np.allclose(found, terms @ (u * w)):
            why = ": the scale is missing"
        elif np.allclose(found * s, terms @ u):
            why = ": the norm's weights w are missing"
        elif np.allclose(found, terms @ (u * w) / np.sqrt((stream**2).mean())):
            why = ": eps is missing under the root"
        elif np.allclose(found, terms @ (u * w) / (np.sqrt((stream**2).mean()) + eps)):
            why = ": eps belongs under the root"
        elif np.allclose(found, terms @ (u * w) / np.sqrt(stream.var() + eps)):
            why = ": RMSNorm takes no mean off the stream"
        raise AssertionError(f"The terms sum to {total:.3f}, the logit is {logit:.3f}{why}.")
    return "Right: the contributions sum to the logit."


def fair_shares(fair_shares):
    rng = np.random.default_rng(1)
    gloves = np.array([float(s & 1 and s >> 1 > 0) for s in range(8)])  # 0 has a left glove, 1 and 2 right gloves
    found = np.asarray(fair_shares(gloves.copy()), dtype=float)
    assert found.shape == (3,), f"8 values belong to 3 heads, and the answer has the shape {found.shape}."
    if np.allclose(found, [1, 0, 0]):
        raise AssertionError(
            "This is what is lost without each head, v(all) - v(all but h): only the last of all orders."
        )
    if np.allclose(found, [0, 0, 0]):
        raise AssertionError("This is what each head gains alone, v(h) - v(none): only the first of all orders.")
    assert np.isclose(found.sum(), 1), (
        f"The shares sum to {found.sum():.3f} and the whole is 1.000: look at the weights."
    )
    assert np.allclose(found, [2 / 3, 1 / 6, 1 / 6]), (
        f"One left glove and two right ones: the shares are 2/3, 1/6, 1/6, not {', '.join(f'{x:.3f}' for x in found)}; "
        "is the weight |S|!(n - |S| - 1)!/n!, with S the subset without the head?"
    )
    for n in (1, 2, 4):
        values = rng.normal(size=2**n)
        found = np.asarray(fair_shares(values.copy()), dtype=float)
        assert np.isclose(found.sum(), values[-1] - values[0]), (
            f"For {n} heads the shares sum to {found.sum():.3f}; v(all) - v(none) is {values[-1] - values[0]:.3f}."
        )
        right = _over_orders(values, n)
        assert np.allclose(found, right), (
            f"For {n} heads the shares sum to the whole, but head {np.abs(found - right).argmax()} gets "
            f"{found[np.abs(found - right).argmax()]:.3f}; its mean gain over all {n}! orders is "
            f"{right[np.abs(found - right).argmax()]:.3f}."
        )
    return "Right: the shares sum to what all heads gain, and equals get the same."


def three_parts(three_parts):
    rng = np.random.default_rng(2)
    for _ in range(3):
        x, response, t, t_changed, r = rng.normal(size=(5, 8))
        x_changed = x - t + t_changed + response
        found = np.asarray(three_parts(*(y.copy() for y in (x, x_changed, t, t_changed, r))), dtype=float)
        assert found.shape == (3,), "Return three numbers: direct, later, scale."
        s, s_changed = (np.sqrt((y**2).mean()) for y in (x, x_changed))
        change = r @ x_changed / s_changed - r @ x / s
        right = np.array([r @ (t - t_changed) / s, r @ response / s, r @ x_changed * (1 / s_changed - 1 / s)])
        if np.allclose(found, right):
            continue
        if np.allclose(found[0], -right[0]):
            raise AssertionError("direct has the wrong sign: it is positive if the head wrote along r.")
        if not np.isclose(found[1] + found[2] - found[0], change):
            raise AssertionError(
                f"later + scale - direct is {found[1] + found[2] - found[0]:.3f}; the logit changes by {change:.3f}."
            )
        if np.isclose(found[1], r @ response / s_changed):
            raise AssertionError(
                "The three sum to the change, but later is read at the changed scale; take the clean one."
            )
        part = int((~np.isclose(found, right)).argmax())
        means = (
            "what the head wrote less what it writes now, along r, at the clean scale",
            "what changes in the stream beyond t' - t, along r, at the clean scale",
            "the changed stream along r, times the change of 1/s",
        )[part]
        raise AssertionError(
            f"The three sum to the change, but {('direct', 'later', 'scale')[part]} is {right[part]:.3f}, not "
            f"{found[part]:.3f}: {means}."
        )
    return "Right: later + scale - direct is the change of the logit, exactly."
