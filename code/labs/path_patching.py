"""Hidden checks of the labs in the note path-patching: one function a lab, which raises a sentence if it is wrong."""

from __future__ import annotations

import numpy as np


def setup():
    """Return the names that the labs of the note find."""
    return {}


def reads(reads):
    generator = np.random.default_rng(0)
    clean, corrupted = generator.normal(size=(2, 3, 4, 5))
    cases = {(True, True, True): clean.sum(0), (False, False, False): corrupted.sum(0)}
    cases[True, False, True] = clean[0] + corrupted[1] + clean[2]
    cases[True, False, False] = clean[0] + corrupted[1] + corrupted[2]
    for kept, expected in cases.items():
        got = reads(clean, corrupted, np.array(kept))
        if got is None:
            raise AssertionError("reads returns nothing: does it end with a return?")
        if np.shape(got) != (4, 5):
            raise AssertionError(f"the reader's input is [pos d_model], here (4, 5); yours has shape {np.shape(got)}")
        if not np.allclose(got, expected):
            only = (clean * np.array(kept)[:, None, None]).sum(0)
            why = ": a cut edge carries the corrupted term, not nothing" if np.allclose(got, only) else ""
            raise AssertionError(
                f"with kept = {list(kept)} the reader sees something else than the sum of its terms{why}"
            )


def sweep(sweep):
    cost = {"a": 3.0, "b": 1.0, "c": 0.5}

    def loss(kept):
        return sum(cost[edge] for edge in cost if edge not in kept)

    got = sweep(["c", "b", "a"], loss, 1.0)
    if got is None:
        raise AssertionError("sweep returns nothing: does it end with a return?")
    got = list(got)
    if got == ["a"]:
        raise AssertionError("an edge whose absence costs exactly τ stays in; yours left it out")
    if set(got) != {"a", "b"}:
        raise AssertionError(
            f"of costs 3, 1 and 0.5 with τ = 1, a and b stay; yours keeps {', '.join(got) or 'nothing'}"
        )
    if got != ["b", "a"]:
        raise AssertionError(f"b was tried before a, and they stay in this order; yours returns {', '.join(got)}")
    for tau, expected in ((0.6, {"a"}), (0.1, {"a"})):

        def alike(kept):  # b and c stand in for each other, either will do
            return (3.0 if "a" not in kept else 0.0) + (0.0 if {"b", "c"} & set(kept) else 1.0)

        got = set(sweep(["c", "b", "a"], alike, tau))
        if got == expected:
            raise AssertionError("b and c stand in for each other and both are gone: compare with what is left by then")
        if got != {"a", "b"}:
            raise AssertionError(f"c can go because b is there, then b cannot; yours keeps {', '.join(sorted(got))}")

    def small(kept):  # three edges of 0.5 each: none is noticed alone, all three would be
        return 0.5 * (3 - len(set(kept) & {"a", "b", "c"}))

    if got := list(sweep(["a", "b", "c"], small, 0.6)):
        raise AssertionError(
            f"each edge costs 0.5 and τ is 0.6, so all go; yours keeps {', '.join(got)}: is the loss to compare with "
            "that of what is left now?"
        )

    def harmful(kept):  # without a the loss falls by 2
        return (2.0 if "a" in kept else 0.0) + (0.0 if "b" in kept else 1.0)

    if (got := list(sweep(["a", "b"], harmful, 0.6))) != ["b"]:
        raise AssertionError(f"an edge whose absence lowers the loss goes; yours keeps {', '.join(got) or 'nothing'}")

    def later(kept):  # a is noticed while b is there, and not after
        return 1.0 if "b" in kept and "a" not in kept else 0.0

    if (got := list(sweep(["a", "b"], later, 0.6))) != ["a"]:
        raise AssertionError(
            f"each edge is tried once: a stays, though after b it could go; yours keeps {', '.join(got) or 'nothing'}"
        )


def distance(distance):
    sizes, f = [0.1, 0.5, 1.0], [0.0, 0.5, 1.0]
    expected = (0.4 * 0.75 + 0.5 * 0.25) / 0.9
    got = distance(sizes, f)
    if got is None:
        raise AssertionError("distance returns nothing: does it end with a return?")
    if np.isclose(got, expected * 0.9):
        raise AssertionError("this is the area; divide by the length of the axis, here 0.9")
    if not np.isclose(got, expected):
        raise AssertionError(
            f"for f = 0, 0.5, 1 at sizes 0.1, 0.5, 1 the mean of |1 − f| is {expected:.3f}, not {got:.3f}"
        )
    above = (0.4 * 0.75 + 0.5 * 0.25) / 0.9
    if not np.isclose(distance(sizes, [0.0, 1.5, 1.0]), above):
        raise AssertionError("where f is above 1, the distance is f − 1: is there an absolute value?")
    low, high = np.log(5), np.log(2)
    if not np.isclose(distance(sizes, f, log=True), (low * 0.75 + high * 0.25) / (low + high)):
        raise AssertionError("on the log axis the widths are differences of logarithms, and so is the length")
    if not np.isclose(distance([0.1, 0.3, 0.5], [0.0, 0.5, 1.0]), 0.5):
        raise AssertionError("these sizes end at 0.5: divide by the length of the axis that is given, here 0.4")
