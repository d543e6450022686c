"""The notebooks whose stored results do not belong to today's inputs; nothing runs."""

from __future__ import annotations

from weave.book.book import Book
from weave.run.inputs import Reason
from weave.source.problem import Problem


def reasons(site: Book) -> dict[str, list[str]]:
    """Say why each stale notebook would run now, by its path."""
    changes = {notebook.path: site.store.reasons(notebook) for notebook in site.notebooks()}
    return {path: [_why(reason) for reason in found] for path, found in changes.items() if found}


def problems(site: Book) -> list[Problem]:
    """The same as problems, each at the line of the notebook that it concerns."""
    return [
        Problem(
            notebook.path,
            reason.line,
            f"stale: {reason.what}"
            + ("" if reason.unfollowed else f"; weave run {notebook.stem} brings it up to date"),
        )
        for notebook in site.notebooks()
        for reason in site.store.reasons(notebook)
    ]


def _why(reason: Reason) -> str:
    return f"line {reason.line} {reason.what}" if reason.unfollowed else reason.what
