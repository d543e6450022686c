"""Rendering one note, or the prose of a notebook, with Python-Markdown: HTML, and its facts in ``book.pages``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from markdown import Markdown

from weave.book.asked import Asked
from weave.book.book import Book
from weave.note import headings
from weave.note.page import Page, rendering
from weave.run.notebook import Notebook

_SEPARATOR = re.compile(r"<!--weave:(\d+)-->")
_MODULE = re.compile(r"^ *(?:#+ +)?::: ", re.MULTILINE)


def begin(book: Book, path: str, text: str, markdown: str) -> tuple[Page, Asked]:
    """Return a page about to be rendered, and what it asks; ``markdown`` is ``text`` without its front matter."""
    before = len(text) - len(markdown) if text.endswith(markdown) else 0
    asked = Asked(book, book.serving)
    asked.page_addresses()
    if _MODULE.search(markdown):  # mkdocstrings reads the modules, and asks nobody
        asked.modules_digest()
    page = Page(path, first_line=text[:before].count("\n") + 1, book=asked)
    book.pages[path] = page
    return page, asked


def render_prose(book: Book, notebook: Notebook, md: Markdown) -> tuple[dict[int, str], list[dict[str, Any]], Asked]:
    """Render a notebook's text cells: HTML by cell number, the headings, and what the page asks.

    They are rendered as one text with the notebook's own line numbers, so that errors name the right line, footnotes
    may be apart from their references, and no two headings get the same id.
    """
    lines = [""] * (notebook.text.count("\n") + 2)
    for number, cell in enumerate(notebook.cells):
        if cell.kind == "markdown":
            source = cell.source.split("\n")
            lines[cell.line - 1 : cell.line - 1 + len(source)] = source
        lines[max(cell.line - 2, 0)] = f"<!--weave:{number}-->"
    lines[-1] = f"<!--weave:{len(notebook.cells)}-->"  # behind it: references and footnotes, which Markdown puts last
    page, asked = begin(book, notebook.path, "", "\n".join(lines))
    with rendering(page), _without(notebook.names, md):
        html = md.reset().convert("\n".join(lines))
    page.anchors, page.headings = headings.read(html)
    page.anchors |= set(notebook.names)
    if notebook.text != book.outcomes[notebook.path].notebook.text:  # an old result, shown while today's fails
        book.pages[notebook.path] = Page(notebook.path, book=book, anchors=page.anchors, headings=page.headings)
    asked.outcome(notebook.path)
    asked.result(notebook.path)
    pieces = _SEPARATOR.split(html)
    prose = {int(pieces[i]): pieces[i + 1].strip() for i in range(1, len(pieces), 2)}
    return prose, getattr(md, "toc_tokens", []), asked


@contextmanager
def _without(taken: Collection[str], md: Markdown) -> Iterator[None]:
    """Within the block, give no heading an id that is taken: a section "Training" above the cell ``training``."""
    toc: Any = md.treeprocessors["toc"]
    plain = toc.slugify

    def slugify(text: str, separator: str) -> str:
        slug = plain(text, separator)
        return f"{slug}{separator}section" if slug in taken else slug

    toc.slugify = slugify
    try:
        yield
    finally:
        toc.slugify = plain
