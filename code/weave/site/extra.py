"""The site's files beside its pages: downloads of notebooks, cells and snippets, provenance, the ledger as JSON."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mkdocs.structure.files import Files

from weave.book import ledger
from weave.book.book import Book
from weave.note import snippets
from weave.run import provenance
from weave.site import downloads
from weave.site.note_pages import NotePages

LEDGER = "assets/ledger.json"
STYLE_SHEET = "assets/weave.css"


def files(book: Book, notes: NotePages, pages: Files, repository: str, site: str) -> dict[str, Callable[[], bytes]]:
    """Return a function that makes each file, by the file's path on the site.

    Args:
        book: Has the notebooks and their results.
        notes: Has the snippets of each page, and the checks of its labs.
        pages: All pages.
        repository: The address to clone; empty if the site does not know it.
        site: The site's address; empty if the site does not know it.
    """
    address = partial(downloads.full_address, pages, book.layout, site)
    extra: dict[str, Callable[[], bytes]] = {
        STYLE_SHEET: Path(__file__).with_name("weave.css").read_bytes,
        LEDGER: lambda: ledger.as_json(book).encode(),
    }
    for path, outcome in book.outcomes.items():
        folder = f"notebooks/{outcome.notebook.stem}"
        extra[f"{folder}/{outcome.notebook.stem}.py"] = partial(downloads.as_py, outcome.notebook, repository)
        if run := book.result(path):
            extra[f"{folder}/{outcome.notebook.stem}.ipynb"] = partial(
                downloads.as_ipynb, run, repository, book.layout, address
            )
            extra[f"{folder}/provenance.json"] = partial(provenance.as_json, run)
            for cell in run.notebook.code:
                extra[f"{folder}/{cell.key}.py"] = partial(provenance.script, run.notebook, cell, repository)
    for uri, of_page in notes.snippets.items():
        for name, data in snippets.files(uri, of_page, notes.checks.get(uri, "")).items():
            extra[name] = partial(bytes, data)
    return extra
