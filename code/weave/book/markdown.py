"""The Markdown extension ``weave`` by itself: in a folder with a mkdocs.yml, without MkDocs.

    markdown.markdown(text, extensions=["weave"])

checks claims, embeds cells and prints what is wrong, as the site does. It never runs a notebook: a stale one is
reported, and ``weave run`` brings it up to date. The page is the one whose text this is; any other text is taken for a
file in the current folder. Within MkDocs the plugin names book and page, and this does nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as etree

from markdown import Markdown
from markdown.postprocessors import Postprocessor
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor

from weave.book.book import Book
from weave.book.problems import dangling
from weave.book.render import begin
from weave.note import finish, headings
from weave.note.extension import NoteExtension
from weave.note.math import MathExtension, render_html
from weave.note.page import Page, current_page
from weave.run.executor import Outcome
from weave.source.front_matter import read, split
from weave.source.layout import layout_here
from weave.source.markdown import front_matter
from weave.source.names import source_pages
from weave.source.problem import Problem, say


class WeaveExtension(NoteExtension):
    """Raises Refused while a text is converted where there is no mkdocs.yml."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.own: Page | None = None
        """The page of the text being converted, if nobody else named it. Set by `begin`, read by `_Finish`."""
        self.whole = False
        """Whether the tree is done. Before that, toc runs all postprocessors on each heading."""

    def extendMarkdown(self, md: Markdown) -> None:
        super().extendMarkdown(md)
        md.preprocessors.register(_Front(md, self), "weave_front", 70)  # before lines are counted (60)
        md.treeprocessors.register(_Done(md, self), "weave_done", -100)  # last
        md.postprocessors.register(_Finish(md, self), "weave_finish", -20)  # after line marks are deleted (-10)

    def begin(self, text: str) -> Page:
        self.own, self.whole = None, False
        if current_page() or self.getConfig("book"):
            return super().begin(text)
        self.book = book = _open()
        path = _path_of(book, text)
        whole = book.layout.read(path) if book.is_file(path) else text
        self.own, self.asked = begin(book, path, whole, text)
        return self.own


def _open() -> Book:
    book = Book(layout_here())
    book.read_sources()
    book.defer = lambda _: None
    book.execute()
    for path, outcome in book.outcomes.items():
        if outcome.running:
            problem = Problem(path, 1, f"has no result for today's inputs; run `weave run {Path(path).stem}`")
            book.outcomes[path] = Outcome(outcome.notebook, None, [problem])
    return book


def _path_of(book: Book, text: str) -> str:
    for path in source_pages(book.layout.root, book.layout.docs):
        if split(read(book.layout.root / path))[0].strip() == text.strip():
            return path
    return "text.md"


class _Front(Preprocessor):
    """Blanks the front matter of a whole file; MkDocs has taken it off before."""

    def __init__(self, md: Markdown, ext: WeaveExtension) -> None:
        super().__init__(md)
        self.ext = ext

    def run(self, lines: list[str]) -> list[str]:
        if current_page() or self.ext.getConfig("book"):
            return lines
        front = front_matter("\n".join(lines))
        rows = front[0].rstrip("\n").count("\n") + 1 if front else 0
        return [""] * rows + lines[rows:]


class _Done(Treeprocessor):
    def __init__(self, md: Markdown, ext: WeaveExtension) -> None:
        super().__init__(md)
        self.ext = ext

    def run(self, root: etree.Element) -> None:
        self.ext.whole = True


class _Finish(Postprocessor):
    """Does what the site's plugin does to finished pages."""

    def __init__(self, md: Markdown, ext: WeaveExtension) -> None:
        super().__init__(md)
        self.ext = ext

    def run(self, text: str) -> str:
        page = self.ext.own
        if page is None or not self.ext.whole:
            return text
        asked = self.ext.asked
        book = self.ext.book
        page.anchors, page.headings = headings.read(text)
        broken = dangling(book, page)
        named = sorted(asked.notebooks())
        stale = [problem for path in named if path in book.outcomes for problem in book.outcomes[path].problems]
        for problem in [*stale, *page.problems, *broken.values()]:
            say(str(problem))
        text = finish.without_marks(headings.link(finish.show_dangling(text, broken), book.pages))
        uri = book.layout.page_uri(page.path) or page.path
        macros = [ext.macros for ext in self.md.registeredExtensions if isinstance(ext, MathExtension)]
        return render_html(finish.with_files(text, f"{uri.removesuffix('.md')}/"), macros[0] if macros else {})
