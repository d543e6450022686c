"""The facts of one page: its claims, theorems, links and problems; and the questions that it asks of the book."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from markdown import Markdown

from weave.source.problem import Problem

if TYPE_CHECKING:
    from weave.note.bibliography import Work
    from weave.note.code_pages import Definition
    from weave.note.numbers import Value
    from weave.run.executor import Outcome
    from weave.run.notebook import Notebook
    from weave.run.store import Result
    from weave.source.layout import Layout
    from weave.source.terms import Term


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
    """A statement in the prose with the property-based test behind it."""

    page: str
    line: int
    text: str
    test: str
    """``tests/residual/test_x.py::test_name``."""
    summary: str
    """First line of the test's docstring."""


@dataclass(frozen=True)
class Use:
    """A cell that a page shows, cites or links."""

    page: str
    line: int
    notebook: str
    cell: str


REFERENCE = "data-weave-reference"
"""Attribute of a link to an anchor: the index of its Reference."""


@dataclass(frozen=True)
class Reference:
    """A link to a heading or other anchor, to be checked once all pages are known."""

    line: int
    target: str
    """Page with the anchor, relative to the repository's root."""
    anchor: str
    by_text: bool = False
    """Whether ``anchor`` is the text of a heading instead of an id."""


@dataclass(frozen=True)
class Heading:
    level: int
    text: str
    """As it reads."""
    anchor: str


class BookForPage(Protocol):
    """The book as a page sees it: questions about all notes and notebooks, which book/book.py answers.

    Each is a method, and each answer depends on nothing but the arguments and the files: book/asked.py writes them down
    to know when the page has to be rendered again.
    """

    @property
    def layout(self) -> Layout: ...

    def outcome(self, path: str) -> Outcome | None:
        """Return the outcome of a notebook's last run; None if there is no such notebook."""

    def result(self, path: str) -> Result | None:
        """The result to show for a notebook: today's, or the last good one while today's fails."""

    def notebook(self, path: str) -> Notebook:
        """A notebook as it is on disk, or as it was last good while it cannot be parsed."""

    def unknown_notebook(self, path: str) -> str:
        """The error message for a notebook that does not exist."""

    def definitions(self, path: str) -> dict[str, Definition]:
        """The functions and classes of a Python file by name."""

    def unreadable(self, path: str) -> list[Problem]:
        """The reasons why a Python file cannot be shown as a page."""

    def unknown_source(self, path: str) -> str:
        """The error message for a test or module that does not exist."""

    def term(self, name: str, heading: bool) -> Term | None:
        """The page or glossary entry that ``[[name]]`` means; only pages where a heading of it is meant."""

    def unknown_term(self, name: str, heading: bool) -> str:
        """The error message for a name that means nothing."""

    def is_file(self, path: str) -> bool:
        """Return whether a file of the repository exists."""

    def unknown_file(self, path: str) -> str:
        """The error message for a file that does not exist."""

    def work(self, key: str) -> Work | Problem | None:
        """The work that ``[@key]`` cites; the problem of its entry, if it has one."""

    def unknown_work(self, key: str) -> str:
        """The error message for a work that is not in the bibliography."""

    def modules_digest(self) -> str:
        """A digest of all Python sources, for pages that document modules."""

    def page_addresses(self) -> str:
        """A digest of all pages' addresses, which links between pages depend on."""


@dataclass
class Page:
    path: str
    """Source file, relative to the repository's root: ``docs/notes/x.md``."""
    first_line: int = 1
    """Line in the source file of the first line that Markdown sees (front matter is cut off before)."""
    book: BookForPage | None = None
    title: str = ""
    problems: list[Problem] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    theorems: list[Theorem] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    links: list[tuple[int, str]] = field(default_factory=list)
    """Line and file of each link to a page or notebook of the repository."""
    short_links: list[tuple[int, str]] = field(default_factory=list)
    """Line and name of each text link ``#name`` taken for a cell of the page's own notebook."""
    sources: set[str] = field(default_factory=set)
    """Tests and modules that the page links to."""
    anchors: set[str] = field(default_factory=set)
    cited: list[str] = field(default_factory=list)
    """Keys of the works that the page cites, in the order of their numbers."""
    headings: list[Heading] = field(default_factory=list)

    def line(self, line: int) -> int:
        """Return the line in the file of a line of the Markdown text (both counted from 1)."""
        return self.first_line + line - 1

    def report(self, line: int, message: str) -> Problem:
        """Record a problem on ``line`` (counted from 1) of the Markdown text."""
        problem = Problem(self.path, self.line(line), message)
        self.problems.append(problem)
        return problem


_current: ContextVar[Page | None] = ContextVar("weave_page", default=None)
"""The page being rendered. Set by whoever renders one (MkDocs' hooks, the book), since Python-Markdown passes only the
text to an extension; read by the extensions; reset when the page is done."""


def current_page() -> Page | None:
    """Return the page being rendered; None where nobody has named one (a blog's excerpt, another tool)."""
    return _current.get()


def page_of(md: Markdown) -> Page:
    """Return the page of the text that ``md`` converts, for the steps after `lines.MarkLines`."""
    return getattr(md, "weave_page", None) or current_page() or Page("<markdown>")


def start_page(page: Page | None) -> None:
    """Make this the page that the next text belongs to; None ends it."""
    _current.set(page)


@contextmanager
def rendering(page: Page) -> Iterator[Page]:
    """Make this the current page within the block."""
    token = _current.set(page)
    try:
        yield page
    finally:
        _current.reset(token)
