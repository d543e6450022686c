"""The notes: every number, theorem, link and formula is correct, every snippet runs, and no required part is missing.

The first test runs the notebooks that changed since their last run, which takes minutes after an edit of the library
and no time otherwise: the build shares the results in .cache.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from markdown import Markdown
from mkdocs.config import load_config
from mkdocs.utils import meta

from weave.author.snippets import run_snippets
from weave.book.book import Book
from weave.book.drafts import drafts
from weave.book.problems import problems
from weave.site.build import checked
from weave.source.front_matter import split
from weave.source.layout import Layout

ROOT = Path(__file__).resolve().parents[2]
DRAFTS = {ROOT / path for path in drafts(Layout(ROOT))}  # not published, so not checked yet
NOTES = sorted({*(ROOT / "docs/notes").glob("*.md")} - DRAFTS)
PAGES = sorted({*(ROOT / "docs").rglob("*.md")} - DRAFTS)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


notes = pytest.mark.parametrize("note", NOTES, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def site() -> Book:
    with contextlib.chdir(ROOT):
        return checked()


def test_everything_that_the_notes_say_holds(site: Book) -> None:
    """Claims, theorems, formulas and links, as in `weave check`; and every notebook runs."""
    assert [str(problem) for problem in problems(site) if ROOT / problem.path not in DRAFTS] == []
    assert {path.name for path in (ROOT / "code/notebooks").glob("*.py")} == {Path(path).name for path in site.outcomes}
    assert all(outcome.run for path, outcome in site.outcomes.items() if ROOT / path not in DRAFTS)


@notes
def test_without_mkdocs_the_extension_checks_the_same_claims(site: Book, note: Path, capsys: Any) -> None:
    """Plain Python-Markdown, as in any other site generator: the same numbers, cells and theorems, nothing wrong."""
    with contextlib.chdir(ROOT):
        config = load_config("mkdocs.yml")
        md = Markdown(extensions=config.markdown_extensions, extension_configs=config.mdx_configs)
        html = md.convert(split(note.read_text(encoding="utf-8"))[0])
    page = site.pages[name(note)]
    assert html.count('class="weave-claim"') == len(page.claims)
    assert html.count('<span class="weave-badge">') == len(page.theorems)
    assert capsys.readouterr().err == "" and "weave-error" not in html


def test_the_notes_rest_on_their_notebooks(site: Book) -> None:
    for note in NOTES:
        page = site.pages[name(note)]
        own = f"code/notebooks/{note.stem.replace('-', '_')}.py"
        assert any(claim.notebook == own for claim in page.claims), f"{name(note)} has no number of {own}"
        assert any(use.notebook == own for use in page.uses), f"{name(note)} shows nothing of {own}"
        assert page.theorems, f"{name(note)} has no theorem"


# -- snippets


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_snippets_run(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.chdir(ROOT):
        assert run_snippets(name(page), page.read_text(encoding="utf-8")) is None


def test_a_snippet_that_fails_is_named_with_its_line() -> None:
    indented = "    def f():\n        return y / 0\n\n\n    y = x\n"
    good = f"# N\n\n```python\nx = 1\n```\n\n!!! note\n\n    ```python\n{indented}    ```\n\n"
    assert run_snippets("docs/n.md", good) is None
    for slip, message in {
        "```python\nf()\n```\n": "docs/n.md:11: ZeroDivisionError: division by zero",
        "```python\nx\n\nz\n```\n": "docs/n.md:20: NameError: name 'z' is not defined",
        "~~~python\nx\n  x\n~~~\n": "docs/n.md:19: IndentationError: unexpected indent",
        "```text\nz\n```\n\n```python\nimport json\njson.loads('[')\n```\n": "docs/n.md:23: JSONDecodeError: ",
    }.items():
        assert str(run_snippets("docs/n.md", good + slip)).startswith(message)


# -- the parts of each note


def parts(note: Path) -> tuple[dict[str, Any], str]:
    text, front = meta.get_data(note.read_text(encoding="utf-8"))
    return front, text


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_has_a_plain_description(page: Path) -> None:
    """A description is one sentence without TeX or Markdown, which search results and feeds do not render."""
    description = parts(page)[0].get("description", "")
    assert re.fullmatch(r"[A-Z][^\n$`*\[\]<>]{20,160}\.", description), description


@notes
def test_a_note_opens_with_what_the_reader_will_be_able_to_do(note: Path) -> None:
    _, text = parts(note)
    title, opening = re.split(r"\n\s*\n", text.strip())[:2]
    assert re.fullmatch(r"# [^\n]+", title)
    sentence = " ".join(opening.split())
    assert re.match(r"After this note you can .+?\.(?: |$)", sentence), sentence
    assert not re.search(r"takes about (an hour|\d+ minutes)", sentence), "how long it takes is counted"


@notes
def test_a_note_has_a_notebook_of_its_name(note: Path) -> None:
    assert (ROOT / "code/notebooks" / f"{note.stem.replace('-', '_')}.py").is_file()


@notes
def test_embedded_figures_have_captions(note: Path) -> None:
    text = note.read_text(encoding="utf-8")
    captions = re.findall(r"^ *!\[(.*)\]\([^)\s]*#[^)]*\)$", text, re.MULTILINE)
    assert captions, "a note shows something of its notebook"
    for caption in captions:
        assert re.fullmatch(r".{20,}[.?!)]", caption), f"a caption is a sentence that says what to see: {caption!r}"


# -- theorems


def test_every_theorem_s_test_is_collected_and_is_a_property(site: Book) -> None:
    """Pytest finds the test behind each badge; for a "theorem", hypothesis draws the cases."""
    badges = [badge for page in site.pages.values() for badge in page.theorems]
    tests = sorted({badge.test for badge in badges})
    theorems = sorted({badge.test for badge in badges if badge.text == "theorem"})
    files = sorted({test.partition("::")[0] for test in tests})
    command = [sys.executable, "-m", "pytest", "--collect-only", *files]  # -q is set in pyproject.toml
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    collected = {line.partition("[")[0] for line in listed.stdout.splitlines()}
    assert [test for test in tests if test not in collected] == [], listed.stdout
    assert [test for test in theorems if not is_property(*test.split("::"))] == []


def is_property(file: str, test: str) -> bool:
    sys.path.insert(0, str(ROOT))  # some tests import from files beside them
    try:
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    finally:
        sys.path.remove(str(ROOT))
    return getattr(getattr(module, test), "is_hypothesis_test", False)
