"""The pages that an author wrote: rendered again only if needed, with their snippets."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page as MkDocsPage

from weave.book import render
from weave.book.asked import Rendered
from weave.book.book import Book
from weave.note import labs, snippets
from weave.note.page import start_page
from weave.site.collected import source_of

# What MkDocs sets on a page when it renders its Markdown.
_RENDERED = ("content", "toc", "_title_from_render", "present_anchor_ids", "links_to_anchors")


class NotePages:
    """The notes, log entries and other Markdown pages of one site.

    Args:
        book: Gets the facts of each page.
        rendered: Remembers what was made of each page while the site is served.
    """

    def __init__(self, book: Book, rendered: Rendered) -> None:
        self.book, self.rendered = book, rendered
        self.snippets: dict[str, list[snippets.Snippet]] = {}
        """Each page's snippets, by its path under docs/. Written by `with_snippets`, read by extra.files."""
        self.checks: dict[str, str] = {}
        """The checks of each page's labs, by its path under docs/. Written and read like the snippets."""

    def begin(self, file: File, markdown: str) -> str:
        """Make a page the current one, and return its Markdown with the scan beside it. A plugin's page has neither."""
        path = source_of(self.book, file)
        if path is None:
            start_page(None)
            return markdown
        page, self.asked = render.begin(self.book, path, self.book.layout.read(path), markdown)
        start_page(page)
        scan = (self.book.layout.root / path).with_suffix(".pdf")
        if scan.is_file() and scan.name not in markdown:
            markdown += f"\n\n## By hand\n\n![The same, by hand.]({scan.name})\n"
        return markdown

    def render_with(self, page: MkDocsPage, path: str) -> None:
        """Render a page only if its text, or anything that it asked of the book, has changed."""
        convert = page.render

        def render(config: MkDocsConfig, files: Files) -> None:
            text = f"{page.markdown}\0{self.book.layout.read(path)}"  # front matter moves the lines below it
            if "8<--" in text or config.mdx_configs.get("pymdownx.snippets", {}).get("auto_append"):
                convert(config, files)  # pymdownx.snippets includes other files, and tells nobody which
                return
            if known := self.rendered.get(path, text):
                attributes, self.book.pages[path] = known
                for name, value in attributes.items():
                    setattr(page, name, value)
            else:
                convert(config, files)
                attributes = {name: getattr(page, name) for name in _RENDERED if hasattr(page, name)}
                self.rendered.put(path, text, self.asked, (attributes, self.book.pages[path]))

        page.render = render  # type: ignore[method-assign]

    def with_snippets(self, html: str, uri: str, path: str) -> str:
        """Return a page with its blocks of Python as snippets, and what they print."""
        book = self.book
        self.snippets[uri] = shown = snippets.find(book.layout.read(path), book.packages)
        checks = labs.checks(book.layout, path, book.packages) if any(snippet.lab for snippet in shown) else None
        self.checks[uri] = checks.text if checks else ""
        folder = book.layout.root / ".cache/weave/snippets" / Path(uri).with_suffix("")
        recorded = snippets.record(folder, shown, book.packages)
        return snippets.weave(html, shown, recorded, snippets.address(uri), checks.models if checks else ())
