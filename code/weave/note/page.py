"""The page that is being rendered: where it lies, what it cites, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from weave.source.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weave.note.bibliography import Bibliography
    from weave.note.code_pages import Definition
    from weave.note.numbers import Value
    from weave.run.executor import Outcome
    from weave.run.notebook import Notebook
    from weave.run.store import Run
    from weave.source.layout import Layout
    from weave.source.names import Names

_FIRST_MARK = 0xF0000
_MARKS = re.compile("[\U000f0000-\U000ffffd]")


@dataclass(frozen=True)
class Claim:
    """A number in the prose beside the value that a notebook computed."""

    page: str
    line: int
    text: str
    notebook: str
    cell: str
    name: str
    value: Value
    tolerance: str
    holds: bool


@dataclass(frozen=True)
class Theorem:
    """A statement in the prose that a property-based test stands behind."""

    page: str
    line: int
    text: str
    test: str
    """``tests/residual/test_x.py::test_name``."""
    summary: str
    """First line of the test's docstring."""


@dataclass(frozen=True)
class Use:
    """A page shows, cites or links a cell."""

    page: str
    line: int
    notebook: str
    cell: str


REFERENCE = "data-weave-reference"
"""Attribute of a link to an anchor: the number of its Reference."""


@dataclass(frozen=True)
class Reference:
    """A link to a heading or other anchor, to be checked when all pages are known."""

    line: int
    target: str
    """Page that is linked to, relative to the repository's root."""
    anchor: str
    by_text: bool = False
    """Whether the anchor is a heading as it reads, and not an id."""


class Book(Protocol):
    """What a page asks of the whole: book/book.py answers."""

    layout: Layout
    names: Names
    """What ``[[name]]`` leads to."""
    bibliography: Bibliography
    """What ``[@key]`` cites."""
    outcomes: dict[str, Outcome]
    """How each notebook ended, by its path."""

    @property
    def glossary(self) -> str: ...

    def run_of(self, path: str) -> Run | None: ...

    def notebook_of(self, path: str) -> Notebook: ...

    def unknown_notebook(self, path: str) -> str: ...

    def definitions(self, path: str) -> Mapping[str, Definition]: ...

    def unshown(self, path: str) -> list[Problem]: ...


@dataclass
class Page:
    path: str
    """Source file, relative to the repository's root: ``docs/notes/x.md``."""
    first_line: int = 1
    """Line in the source file of the first line that Markdown gets to see (front matter is cut off before)."""
    site: Book | None = None
    title: str = ""
    problems: list[Problem] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    theorems: list[Theorem] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    sources: set[str] = field(default_factory=set)
    """Tests and modules that the page links to."""
    anchors: set[str] = field(default_factory=set)
    cited: list[str] = field(default_factory=list)
    """Keys of the works that the page cites, in the order of their numbers."""
    headings: dict[str, str] = field(default_factory=dict)
    """The id of each heading, by what it says."""

    def line(self, line: int) -> int:
        """Line in the file for a line of the Markdown text (both counted from 1)."""
        return self.first_line + line - 1

    def report(self, line: int, message: str) -> Problem:
        """Record what is wrong on ``line`` (counted from 1) of the Markdown text."""
        problem = Problem(self.path, self.line(line), message)
        self.problems.append(problem)
        return problem


_current: ContextVar[Page | None] = ContextVar("weave_page", default=None)
_site: ContextVar[Book | None] = ContextVar("weave_site", default=None)


def current_page() -> Page:
    """The page being rendered; outside of a build (a blog's excerpt, a test), one whose problems nobody reads."""
    return _current.get() or Page("<markdown>", site=_site.get())


def start_page(page: Page | None) -> None:
    _current.set(page)


def use_site(site: Book) -> None:
    """The site that pages without a page of their own belong to."""
    _site.set(site)


@contextmanager
def rendering(page: Page) -> Iterator[Page]:
    token = _current.set(page)
    try:
        yield page
    finally:
        _current.reset(token)


def mark(line: int) -> str:
    """A line number as one invisible character, which travels with a link through Markdown's parser."""
    return chr(_FIRST_MARK + line)


def unmark(text: str) -> str:
    """The text without line numbers."""
    return _MARKS.sub("", text)


def marked_line(text: str) -> int | None:
    """The line number that travels with a text."""
    match = _MARKS.search(text)
    return ord(match[0]) - _FIRST_MARK if match else None
