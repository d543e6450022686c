"""The labs of every note: their solutions pass, and what is wrong is told in the right sentence.

Beside this file, ``<note>.py`` has the wrong answers of a note: ``WRONG``, by lab, each with words of the sentence. It
may have right ones that are written differently from the note's: ``RIGHT``, by lab, one that works in place among them.
"""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import pytest

from weave.note import labs, snippets
from weave.note.snippets import Snippet
from weave.source.layout import Layout

ROOT = Path(__file__).resolve().parents[2]
LAYOUT = Layout(ROOT)
PACKAGES = ["numpy", "einops"]  # browser_packages in mkdocs.yml
NOTES = {LAYOUT.checks_of(path.name): path for path in sorted((ROOT / "docs/notes").glob("*.md"))}
FILES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / LAYOUT.labs).glob("*.py"))]

each = pytest.mark.parametrize("file", FILES, ids=lambda file: Path(file).stem)


def read(file: str) -> tuple[str, list[Snippet], dict[str, list[tuple[str, str]]]]:
    """Return the path of a file's note, its snippets, and the wrong answers."""
    page = NOTES[file].relative_to(ROOT).as_posix()
    wrong = ast.parse((Path(__file__).parent / Path(file).name).read_text("utf-8")).body[-1]
    assert isinstance(wrong, ast.Assign)
    return page, snippets.find(LAYOUT.read(page), PACKAGES), ast.literal_eval(wrong.value)


@each
def test_solutions_pass(file: str) -> None:
    page, _, _ = read(file)
    assert [str(problem) for problem in labs.problems(LAYOUT, page, LAYOUT.read(page), PACKAGES)] == []


@each
def test_wrong_answers_are_told_what_is_wrong(file: str, tmp_path: Path) -> None:
    page, shown, wrong = read(file)
    assert wrong.keys() == {snippet.lab for snippet in shown if snippet.lab}
    assert all(len(answers) >= 2 for answers in wrong.values())
    given = [(lab, code, words) for lab, answers in wrong.items() for code, words in answers]
    results = labs.answers(tmp_path, LAYOUT, page, shown, [one[:2] for one in given], PACKAGES)
    for (lab, code, words), result in zip(given, results, strict=True):
        assert not result["passed"] and not result["error"], f"{lab}: {code}\n{result['error']}"
        assert words in result["verdict"], f"{lab}: {code}"


@each
def test_right_answers_written_differently_pass(file: str, tmp_path: Path) -> None:
    page, shown, _ = read(file)
    answers = list(runpy.run_path(str(Path(__file__).parent / Path(file).name)).get("RIGHT", {}).items())
    for given, result in zip(answers, labs.answers(tmp_path, LAYOUT, page, shown, answers, PACKAGES), strict=True):
        assert result["passed"], f"{given}: {result}"


@each
def test_a_lab_does_not_pass_as_it_is_posed(file: str, tmp_path: Path) -> None:
    page, shown, _ = read(file)
    given = [(snippet.lab, snippet.code) for snippet in shown if snippet.lab]
    results = labs.answers(tmp_path, LAYOUT, page, shown, given, PACKAGES)
    assert [result["passed"] for result in results] == [False] * len(given)
