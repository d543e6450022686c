"""Renders texts as notes without building a site."""

from __future__ import annotations

from dataclasses import dataclass

from markdown import Markdown

from weave.book import render
from weave.book.book import Book
from weave.book.problems import problems
from weave.note import headings
from weave.note.page import rendering
from weave.source.front_matter import split
from weave.source.problem import Problem


@dataclass
class Bench:
    """Renders texts as notes of a book, a few milliseconds each."""

    book: Book
    md: Markdown

    def render(self, text: str, path: str = "docs/notes/x.md") -> tuple[str, list[Problem]]:
        """HTML without MkDocs' templates, and all that is wrong with the book."""
        markdown, _ = split(text)
        page, _ = render.begin(self.book, path, text, markdown)
        with rendering(page):
            html = self.md.reset().convert(markdown)
        page.anchors, page.headings = headings.read(html)
        return html, problems(self.book)
