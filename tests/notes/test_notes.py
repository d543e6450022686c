"""The notes as published: what they say is checked, what they show runs, what they prove is tested."""

from __future__ import annotations

import ast
import re
import traceback
from pathlib import Path

import pytest
from click.testing import CliRunner

from weave.cli import main
from weave.notebook import parse

ROOT = Path(__file__).parents[2]
NOTES = sorted((ROOT / "docs/notes").glob("*.md"))
TEXTS = [*NOTES, *sorted((ROOT / "docs/pages").glob("*.md")), *sorted((ROOT / "docs/log").rglob("*.md"))]
OPENING = re.compile(r"^( *)```python\b.*$")
THEOREM = re.compile(r"\]\((?:\.\./)+(tests/[\w/]+\.py)#(test_\w+)\)")

by_name = pytest.mark.parametrize("note", NOTES, ids=lambda note: note.stem)


def snippets(text: str) -> list[tuple[int, str]]:
    """The fenced python blocks of a note, those in lists and folded boxes too, each with its first line's number."""
    found, lines, number = [], text.splitlines(), 0
    while number < len(lines):
        if opening := OPENING.match(lines[number]):
            indent, body, first = len(opening[1]), [], number + 2
            number += 1
            while lines[number].strip() != "```":
                body.append(lines[number][indent:])
                number += 1
            found.append((first, "\n".join(body)))
        number += 1
    return found


def test_every_claim_theorem_formula_and_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the notebooks whose inputs changed, so this is the test that takes its time."""
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(main, ["check"])
    assert result.exit_code == 0, result.output


@by_name
def test_snippets_run(note: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom in one namespace, as a reader would type them; a failure names the note's line."""
    monkeypatch.chdir(ROOT)
    shown, namespace = note.relative_to(ROOT).as_posix(), {"__name__": "__main__"}
    for first, code in snippets(note.read_text(encoding="utf-8")):
        try:
            exec(compile("\n" * (first - 1) + code, shown, "exec"), namespace)  # line numbers are the note's
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            line = next((frame.lineno for frame in reversed(frames) if frame.filename == shown), None)
            line = line or getattr(error, "lineno", first)
            pytest.fail(f"{shown}:{line}: {type(error).__name__}: {error}", pytrace=False)


@by_name
def test_has_what_a_note_has(note: Path) -> None:
    """A description, a notebook of its name, a theorem, open questions, exercises with folded solutions."""
    text = note.read_text(encoding="utf-8")
    assert re.search(r"^description: .{20,}\.$", text, re.MULTILINE)
    assert (ROOT / "code/notebooks" / f"{note.stem.replace('-', '_')}.py").is_file()
    opening = text.split("# ", 1)[1].split("\n\n")[1]
    assert "fter this note you can" in opening and re.search(r"minutes|an hour", opening)
    assert THEOREM.search(text) and "- [ ] " in text
    assert len(re.findall(r'\?\?\? success "Solution"', text)) >= 4


@by_name
def test_shows_only_what_it_says(note: Path) -> None:
    """Every embedded figure has a caption that is a sentence: it is the figure's alternative text as well."""
    captions = re.findall(r"!\[(.*?)\]\([^)]*\.py[^)]*\)", note.read_text(encoding="utf-8"), re.DOTALL)
    assert captions
    for caption in captions:
        assert len(caption.split()) >= 3 and caption.rstrip().endswith((".", "?", ")")), caption


def theorems() -> list[tuple[str, str]]:
    return sorted({found for text in TEXTS for found in THEOREM.findall(text.read_text(encoding="utf-8"))})


@pytest.mark.parametrize(("path", "name"), theorems(), ids=lambda part: part.rpartition("/")[2])
def test_a_theorem_is_tested_on_drawn_inputs(path: str, name: str) -> None:
    """A badge stands for a property: the test draws its inputs with hypothesis and asserts something of them."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    test = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    assert any("given" in ast.unparse(decorator) for decorator in test.decorator_list), f"{name} draws nothing"
    # The check may lie in a helper of the same file, called by the test.
    helpers = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    called = {node.func.id for node in ast.walk(test) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    bodies = [test, *(helpers[one] for one in called & helpers.keys())]
    checks = (ast.Assert, ast.With)
    asserted = any(isinstance(node, checks) for body in bodies for node in ast.walk(body))
    assert asserted or any("assert" in ast.unparse(body) for body in bodies)
    assert ast.get_docstring(test), f"{name} says in no word what it holds"


@pytest.mark.parametrize("path", sorted((ROOT / "code/notebooks").glob("*.py")), ids=lambda path: path.stem)
def test_a_notebook_belongs_to_a_note(path: Path) -> None:
    """A notebook without problems, whose note cites it."""
    notebook = parse(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    assert not notebook.problems
    note = ROOT / "docs/notes" / f"{path.stem.replace('_', '-')}.md"
    assert f"notebooks/{path.name}#" in note.read_text(encoding="utf-8")
