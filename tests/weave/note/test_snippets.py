"""The Python blocks of a note: which ones the reader's browser can run, and what a reader takes along."""

from __future__ import annotations

import pytest

from weave.note import snippets


def note(*blocks: str) -> str:
    return "# A note\n\n" + "\n".join(f"Text.\n\n```python\n{block}\n```\n" for block in blocks)


@pytest.mark.parametrize(
    ("blocks", "live"),
    [
        (["x = 1", "x + 1"], [True, True]),
        (["import numpy as np", "np.zeros(3)"], [True, True]),
        (["import torch", "x = torch.zeros(3)", "x", "y = 1"], [False, False, False, True]),
        (["import math, torch"], [False]),
        (["from torch import nn\nx = 1", "x"], [False, False]),
        (["def f():\n    import torch"], [False]),
        (["import os.path\nos.path.join('a')"], [True]),
        (["y = x", "x = 1", "y"], [False, True, False]),
        (["def f(a, *b, c=1, **d):\n    e = a\n    return b, c, d, e"], [True]),
        (["def f():\n    return x"], [False]),
        (["def f():\n    return x\nx = 1", "f()"], [True, True]),
        (["import torch\np = 1", "def f(q):\n    p = q\n    return p", "f(2)"], [False, True, True]),
        (["[a * b for a in range(3) for b in [a]]", "{a for a in [1]}", "a"], [True, True, False]),
        (["f = lambda a: a + b", "b = 1"], [False, True]),
        (["class A:\n    x = 1\n    y = x\n    def f(self):\n        return A.x", "A().f()"], [True, True]),
        (["def f():\n    global x\n    x = 1", "f()\nx"], [True, True]),
        (["try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    print(error)"], [True]),
        (["with open('x') as file:\n    (a, *b), c = file", "a, b, c, file"], [True, True]),
        (["match [1]:\n    case [x, *rest]:\n        pass", "x, rest"], [True, True]),
        (["print(__name__)"], [True]),
        (["%pwd", "not Python"], [False, False]),
    ],
)
def test_a_snippet_is_live_if_all_that_it_uses_is(blocks: list[str], live: list[bool]) -> None:
    assert [snippet.live for snippet in snippets.find(note(*blocks), ["numpy"])] == live


def test_without_packages_no_snippet_runs_in_the_browser() -> None:
    assert [snippet.live for snippet in snippets.find(note("x = 1"))] == [False]


def test_the_snippets_up_to_one_are_all_above_it_and_itself() -> None:
    found = snippets.find(note("x = 1\n", "import torch", "print(x)", "y = 2"))
    assert snippets.script(found, 3) == b"x = 1\n\nimport torch\n\nprint(x)\n"
    assert [snippet.line for snippet in found] == [6, 13, 19, 25]
