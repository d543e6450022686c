"""Notes that are not published yet, with notebook and checks: ``draft: true`` in front matter, or in ``draft_docs``.

They are on the site while it is served, and left out when it is built. Their problems are reported, but stop nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from weave.source.front_matter import meta, read
from weave.source.layout import Layout
from weave.source.problem import Problem

if TYPE_CHECKING:
    from weave.book.book import Book

BANNER = '<p class="weave-draft"><strong>Draft.</strong> Shown while the site is served, left out when it is built.</p>'


def drafts(layout: Layout, others: Collection[str] = ()) -> set[str]:
    """Return the paths of unpublished notes, their notebooks and checks, relative to the repository's root.

    Args:
        layout: The repository.
        others: Pages that ``draft_docs`` in mkdocs.yml names.
    """
    files = [path for path in (layout.root / layout.docs / "notes").glob("*.md") if path.is_file()]
    notes = {path.relative_to(layout.root).as_posix() for path in files if meta(read(path)).get("draft") is True}
    notes |= set(others)
    return {path for note in notes for path in (note, layout.notebook_of(note), layout.checks_of(note))}


def links_to(book: Book) -> list[Problem]:
    """Return the links of published pages to drafts, which lead nowhere once the site is built."""
    unpublished = set() if book.serving else book.drafts
    what = "leads to {}, a draft, which is not built; publish it or take the link out"
    return [
        Problem(path, line, what.format(target))
        for path, page in book.pages.items()
        if path not in unpublished
        for line, target in page.links
        if target in unpublished
    ]
