"""The questions that a page asked of the book: it stays fresh while their answers stay the same.

The recorder's idea (run/recorder.py), applied to pages. A page is rendered with an `Asked` in the place of its book,
which passes each question on and writes down a digest of the answer. No list of a page's inputs can fall behind.
"""

from __future__ import annotations

from typing import Any

from weave.note.page import BookForPage
from weave.run.executor import Outcome
from weave.run.notebook import Notebook
from weave.run.store import Result


class Asked:
    """A book that remembers what it was asked. It has every method of `BookForPage`."""

    def __init__(self, book: BookForPage, serving: bool) -> None:
        self.book, self.serving = book, serving
        self.layout = book.layout  # changes only with mkdocs.yml, and then all pages are rendered again
        self.answers: dict[tuple[str, tuple[Any, ...]], str] = {}
        """The digest of each answer by question and arguments; empty digests unless serving. Written while a page is
        rendered, read by `is_fresh`, thrown away with the page."""

    def __getattr__(self, question: str) -> Any:
        if question.startswith("_"):
            raise AttributeError(question)

        def ask(*arguments: Any) -> Any:
            answer = getattr(self.book, question)(*arguments)
            self.answers[question, arguments] = _digest(answer) if self.serving else ""
            return answer

        return ask

    def notebooks(self) -> list[str]:
        """Return the paths of the notebooks that the page shows or quotes."""
        return [arguments[0] for question, arguments in self.answers if question == "outcome"]

    def is_fresh(self) -> bool:
        """Return whether every question would be answered the same now."""
        return all(
            _digest(getattr(self.book, question)(*arguments)) == answer
            for (question, arguments), answer in self.answers.items()
        )


def _digest(answer: Any) -> str:
    if isinstance(answer, Outcome):
        problems = [f"{problem}{problem.detail}" for problem in answer.problems]
        return repr((answer.notebook.text, answer.running, answer.run is None, problems))
    if isinstance(answer, Result):
        return f"{answer.digest} {answer.notebook.text}"
    if isinstance(answer, Notebook):
        return answer.text
    if isinstance(answer, dict):  # definitions: a page shows their names and summaries
        return "\0".join(f"{definition.name} {definition.summary}" for definition in answer.values())
    return repr(answer)


class Rendered:
    """The results of rendering, by page, while the site is served."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[str, Asked, Any]] = {}
        """Text, questions and result by page. Written after a page is rendered; thrown away when it is rendered again,
        or all at once when mkdocs.yml changes."""

    def get(self, page: str, text: str) -> Any:
        """Return what was made of a page's text; None where there is nothing or it is stale."""
        known = self.kept.get(page)
        return known[2] if known and known[0] == text and known[1].is_fresh() else None

    def notebooks(self, page: str) -> list[str]:
        """Return the paths of the notebooks that a page shows."""
        known = self.kept.get(page)
        return known[1].notebooks() if known else []

    def forget(self, page: str) -> None:
        self.kept.pop(page, None)

    def put(self, page: str, text: str, asked: Asked, made: Any) -> None:
        self.kept[page] = text, asked, made
