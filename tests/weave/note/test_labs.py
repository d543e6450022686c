"""Labs: what a reader's answer is told, and every way in which an author's lab can be incomplete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from weave.note import labs, snippets
from weave.note.session import Session, read_weights
from weave.source.layout import Layout

if TYPE_CHECKING:
    from conftest import Small

PAGE, FILE = "docs/notes/a-b.md", "code/labs/a_b.py"
ABOVE = "base = 3"
LAB = "# lab: the-sum\ntotal = ..."
SOLUTION = "# solution: the-sum\ntotal = base + hidden"
CHECKS = """
def setup():
    return {"hidden": 4}

def the_sum(total, base):
    assert total == 7, f"the sum is 7, not {total}: did you leave out a term?"
"""


def note(*blocks: str) -> str:
    return "# A note\n\n" + "\n".join(f"```python\n{block}\n```\n" for block in blocks)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    write(tmp_path, FILE, CHECKS)
    return Layout(tmp_path)


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, "utf-8")


def problems(layout: Layout, *blocks: str) -> list[str]:
    text = note(*blocks)
    write(layout.root, PAGE, text)
    found = [*labs.problems(layout, PAGE, text, ["numpy"]), *labs.unused(layout, [PAGE], ["numpy"])]
    return [str(problem) for problem in found]


def test_a_lab_is_live_but_nothing_depends_on_it() -> None:
    text = note(ABOVE, LAB, SOLUTION, "total", "base", "# lab: far\nimport torch")
    found = snippets.find(text, ["numpy"])
    assert [one.live for one in found] == [True, True, False, False, True, False]
    assert [(one.lab, one.solves) for one in found[:3]] == [("", ""), ("the-sum", ""), ("", "the-sum")]
    assert (found[1].code, found[1].line) == ("total = ...\n", 9), "without the mark, at the line where it begins"
    assert snippets.script(found, 5) == b"base = 3\n\ntotal\n\nbase\n"


def test_a_page_shows_a_lab_without_its_mark() -> None:
    shown = snippets.find(note(LAB, SOLUTION), ["numpy"])
    blocks = [
        f'<div class="language-python highlight"><pre><span></span><code><span class="c1">{mark}</span>\n'
        "<span>total</span>\n</code></pre></div>"
        for mark in ("# lab: the-sum", "# solution: the-sum")
    ]
    html = snippets.weave("".join(blocks), shown, {}, "notes/a-b", ["tiny"])
    assert html.count("the-sum") == 1 and '<py-lab number="1" class="live" lab="the-sum"' in html
    assert 'checks="weave:notes/a-b/labs.py" models="tiny"' in html and "the sum</p>" in html
    assert snippets.files("notes/a-b.md", shown, "x = 1") == {"notes/a-b/labs.py": b"x = 1"}


def test_complete_labs_are_right(layout: Layout) -> None:
    assert problems(layout, ABOVE, LAB, SOLUTION, "base") == []
    assert problems(layout, ABOVE, SOLUTION, LAB) == [], "a solution may be anywhere"


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([ABOVE, LAB], "lab 'the-sum' has no solution; add a block that begins with '# solution: the-sum'"),
        ([LAB, SOLUTION, LAB], "a second lab named 'the-sum'; rename one"),
        ([LAB, SOLUTION, SOLUTION], "a second solution named 'the-sum'; rename one"),
        ([ABOVE, LAB, SOLUTION, "# solution: a-sum\n1"], "the solution of no lab; this page has: the-sum"),
        ([ABOVE, LAB, SOLUTION, "# lab: new\n1", "# solution: new\n1"], f"no check in {FILE}; it has: the-sum"),
        ([LAB.replace("the-sum", "The sum"), SOLUTION.replace("the-sum", "The sum")], "is no name of a lab; use "),
        (["# lab:\n1"], "'?' is no name of a lab"),
        ([LAB + "\nimport torch", SOLUTION], "cannot run in the browser: it is not Python, or imports"),
        ([LAB + "\n  x", SOLUTION], "cannot run in the browser: it is not Python, or imports"),
        ([ABOVE, LAB, SOLUTION + " + 1"], "does not pass its check: the sum is 7, not 8: did you leave out a term?"),
        ([ABOVE, LAB, "# solution: the-sum\nx = 1"], "does not pass its check: The code defines no total."),
        ([LAB, SOLUTION], "does not pass its check: NameError: name 'base' is not defined"),
        (["base", "base = 1", LAB, SOLUTION], "the sum is 7, not 5"),
        ([ABOVE, LAB, "# solution: the-sum\nimport os\nos._exit(1)"], "Python ended, or took over a minute, while the"),
    ],
)
def test_an_incomplete_lab_is_a_problem(layout: Layout, blocks: list[str], message: str) -> None:
    found = problems(layout, *blocks)
    text = (layout.root / PAGE).read_text().splitlines()
    assert message in found[0] and found[0].startswith(f"{PAGE}:")
    line = text[int(found[0].split(":")[1]) - 1]
    assert line.startswith(("# lab:", "# solution:", "total", "x =", "import os")), line


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        ("def the_sum(:", ":1: not Python: invalid syntax"),
        (
            CHECKS + "\ndef other(x):\n    pass\n",
            ":8: a check of no lab; the note has: the-sum; the name of",
        ),
        (CHECKS + "\ndef _helper(x):\n    pass\n", ""),
        ("import torch" + CHECKS, ":1: imports torch, which a browser does not have"),
        ("MODELS = ['none']" + CHECKS, ":1: no model 'none'; code/checkpoints has: tiny"),
        ("MODELS = 3" + CHECKS, ":1: MODELS is a list of names"),
    ],
)
def test_a_wrong_file_of_checks_is_a_problem(layout: Layout, checks: str, message: str) -> None:
    write(layout.root, FILE, checks)
    write(layout.root, "code/checkpoints/tiny.safetensors", "")
    found = problems(layout, ABOVE, LAB, SOLUTION)
    assert [one for one in found if one.startswith(FILE + message)] if message else found == []


def test_a_file_of_checks_without_a_note_is_a_problem(layout: Layout) -> None:
    write(layout.root, "code/labs/gone.py", CHECKS)
    expected = ["code/labs/gone.py:1: no note has this file's name; rename it, or delete it"]
    assert problems(layout, ABOVE, LAB, SOLUTION) == expected
    (layout.root / FILE).unlink()
    found = problems(layout, ABOVE, LAB, SOLUTION)
    assert found[0] == f"{PAGE}:8: lab 'the-sum' has no check in {FILE}; it has none"


# -- what a reader is told


@pytest.fixture
def ask(layout: Layout) -> Any:
    session = Session()
    session.run(ABOVE, "snippet 1")

    def ask(code: str) -> dict[str, Any]:
        asked = {"lab": "the-sum", "checks": str(layout.root / FILE), "models": str(layout.root / layout.models)}
        return session.answer({"code": code, "name": "lab the sum", **asked})

    ask.session = session  # type: ignore[attr-defined]
    return ask


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("total = 7", "Right."),
        ("total = 3", "the sum is 7, not 3: did you leave out a term?"),
        ("totel = 7", "The code defines no total."),
        ("total = ...", "total is still to be written."),
        ("def total():\n    'Say it.'\n    ...", "total is still to be written."),
        ("import numpy as np\ntotal = np.zeros(2)", "The check cannot use this: is total or base of the right kind"),
    ],
)
def test_a_verdict_is_a_sentence(ask: Any, code: str, verdict: str) -> None:
    result = ask(code)
    assert result["verdict"].startswith(verdict) and result["passed"] == (verdict == "Right.") and not result["error"]


@pytest.mark.parametrize(
    "code", ["total = base / 0", "class Bad:\n    def __eq__(self, x): return 1 / 0\ntotal = Bad()"]
)
def test_an_error_of_the_answer_s_own_code_is_shown_as_one(ask: Any, code: str) -> None:
    """Also if it happens only when the check calls the code."""
    result = ask(code)
    assert result["raised"] == "ZeroDivisionError" and result["verdict"] == ""
    assert "lab the sum" in result["error"] and "session.py" not in result["error"]


def test_what_an_answer_binds_is_gone(ask: Any) -> None:
    assert ask("total = base + hidden\nbase = 0\nprint(total)\ntotal")["text"] == "7\n7\n"
    assert ask.session.run("print(base)\ntotal", "snippet 2")["raised"] == "NameError"
    assert ask.session.run("base", "snippet 3")["text"] == "3\n"


def test_weights_are_read_as_they_were_saved_and_cannot_be_changed(layout: Layout) -> None:
    rng = np.random.default_rng(0)
    half, full = rng.normal(size=(2, 3, 4)).astype(np.float16), rng.normal(size=5).astype(np.float32)
    path = layout.root / layout.models / "tiny-1.safetensors"
    path.parent.mkdir(parents=True)
    save_file({"half": half, "full": full, "one": np.array(3, np.float32)}, path, {"about": "a test"})
    read = read_weights(path)
    assert read.keys() == {"half", "full", "one"} and all(array.dtype == np.float32 for array in read.values())
    assert np.array_equal(read["half"], half) and np.array_equal(read["full"], full) and read["one"] == 3
    with pytest.raises(ValueError, match="read-only"):
        read["full"] *= 2
    checks = "MODELS = ['tiny-1']\n\ndef setup(tiny):\n    return {'hidden': round(float(tiny['one'])) + 1}\n\n"
    write(layout.root, FILE, checks + CHECKS[CHECKS.index("def the_sum") :])
    assert problems(layout, ABOVE, LAB, SOLUTION) == []


def test_to_run_notebooks_is_to_find_no_fault_with_labs(small: Small) -> None:
    """No page is rendered then, so no lab has a note yet."""
    small.write(PAGE, note("base = 3", LAB, SOLUTION))
    small.write(FILE, CHECKS)
    ran = small.weave("run")
    assert ran.exit_code == 0, ran.output
