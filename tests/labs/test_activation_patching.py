"""The labs of activation-patching: a right answer passes, wrong ones get the sentence that helps."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

path = Path(__file__).resolve().parents[2] / "code/labs/activation_patching.py"
spec = importlib.util.spec_from_file_location("labs_activation_patching", path)
labs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(labs)


def noising(m):
    return m(1, 1) - m(0, 1), m(1, 1) - m(1, 0)


def denoising(m):
    return m(1, 0) - m(0, 0), m(0, 1) - m(0, 0)


def test_two_directions():
    assert labs.setup()["gates"]["OR"](1, 1) == 1
    labs.two_directions(noising, denoising)
    with pytest.raises(AssertionError, match="noising is the other direction"):
        labs.two_directions(denoising, noising)
    with pytest.raises(AssertionError, match="denoising has the two inputs in the wrong order"):
        labs.two_directions(noising, lambda m: denoising(m)[::-1])
    with pytest.raises(AssertionError, match="noising has the wrong sign"):
        labs.two_directions(lambda m: [-x for x in noising(m)], denoising)
    with pytest.raises(AssertionError, match="return two numbers"):
        labs.two_directions(lambda m: m(1, 1), denoising)


def midpoints(slopes, steps):
    return np.mean([slopes((k + 0.5) / steps) for k in range(steps)], axis=0)


def test_integrated():
    labs.integrated(midpoints)
    with pytest.raises(AssertionError, match="at the clean end alone"):
        labs.integrated(lambda slopes, steps: slopes(1.0))
    with pytest.raises(AssertionError, match="at the corrupted end alone"):
        labs.integrated(lambda slopes, steps: slopes(0.0))
    with pytest.raises(AssertionError, match="do the weights of your points sum to 1"):
        labs.integrated(lambda slopes, steps: np.sum([slopes((k + 0.5) / steps) for k in range(steps)], axis=0))
    with pytest.raises(AssertionError, match="take the middles"):
        labs.integrated(lambda slopes, steps: np.mean([slopes(k / steps) for k in range(1, steps + 1)], axis=0))


def right(s, g, key, change):
    p = np.exp(s - s.max())
    p /= p.sum()
    rest = (p @ g - p[key] * g[key]) / (1 - p[key])
    after = 1 / (1 + (1 - p[key]) / p[key] * np.exp(-change))
    return (after - p[key]) * (g[key] - rest)


def test_one_score():
    labs.one_score(right)

    def first_order(s, g, key, change):
        p = np.exp(s) / np.exp(s).sum()
        rest = (p @ g - p[key] * g[key]) / (1 - p[key])
        return p[key] * (1 - p[key]) * change * (g[key] - rest)

    def without_the_rest(s, g, key, change):
        p = np.exp(s) / np.exp(s).sum()
        after = 1 / (1 + (1 - p[key]) / p[key] * np.exp(-change))
        return (after - p[key]) * g[key]

    with pytest.raises(AssertionError, match="that is the first order"):
        labs.one_score(first_order)
    with pytest.raises(AssertionError, match="the other keys lose"):
        labs.one_score(without_the_rest)
    with pytest.raises(AssertionError, match="the sign is turned around"):
        labs.one_score(lambda *given: -right(*given))
