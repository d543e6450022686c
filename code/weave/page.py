"""The page that is being rendered, so that a Markdown extension can say file and line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from weave.problem import Problem


@dataclass
class Page:
    path: str
    """Source file, relative to the repository's root: ``docs/notes/x.md``."""
    first_line: int = 1
    """Line in the source file of the first line that Markdown gets to see (front matter is cut off before)."""
    problems: list[Problem] = field(default_factory=list)

    def report(self, line: int, message: str) -> Problem:
        """Record what is wrong on ``line`` (counted from 1) of the Markdown text."""
        problem = Problem(self.path, self.first_line + line - 1, message)
        self.problems.append(problem)
        return problem


_current: ContextVar[Page | None] = ContextVar("weave_page", default=None)


def current_page() -> Page:
    """The page being rendered; outside of a build (a test, Zensical), a nameless one."""
    return _current.get() or Page("<markdown>")


@contextmanager
def rendering(page: Page) -> Iterator[Page]:
    token = _current.set(page)
    try:
        yield page
    finally:
        _current.reset(token)
