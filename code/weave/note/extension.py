r"""The Markdown extension: links to notebooks, tests and pages become figures, checked numbers, badges, checked links.

======================================  =========================================================
in the note                             on the page
======================================  =========================================================
``![caption](…/x.py#cell)``             the cell's output, with the caption and a link to it
``![caption](…/x.py?code#cell)``        the same with its code open
``[0.97](…/x.py#=name)``                the number as written, checked against the value published
``[text](…/x.py#cell)``                 a link to the cell on the notebook's own page
``![…](#cell)``, ``[0.97](#=name)``     the same for the notebook of the note's own name
``[theorem](…/test_x.py#test_name)``    a numbered badge that links to the test's source
``[](#eq-name)``, ``[](#thm-name)``     the number of the equation with ``\label{name}``, of the theorem
``[[name]]``, ``[[name|words]]``        a link to the page or the glossary's entry of that name
``[[name#heading]]``, ``[[#heading]]``  a link to that heading of the page, of this page
``[@key]``, ``[@key, section 3]``       the number of a work in the page's list of references
``![caption](scan.pdf)``                the pages of a PDF
======================================  =========================================================
"""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree as etree

from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import IMAGE_LINK_RE, ImageInlineProcessor, InlineProcessor
from markdown.treeprocessors import Treeprocessor
from markdown.util import ETX, INLINE_PLACEHOLDER_RE, STX

from weave.note import citations, gfm
from weave.note.embeds import EMBED, Embeds, show_error
from weave.note.folds import Folds
from weave.note.lines import MarkLines, Unmark, as_read, mark, marked_line, unmark
from weave.note.links import LinkError, Links, name_references
from weave.note.math import as_written
from weave.note.page import Page, current_page
from weave.note.preview import Compare
from weave.source import markdown, terms

_DESTINATION = r"(\]\(\s*<?)(?=[^\s)>])|(^ {0,3}\[(?!\^)[^\]]+\]:\s*<?)(?=\S)"
_WIKI = r"\[\[(?=[^\[\]\n]+\]\])"
_MARKED = re.compile("|".join((_DESTINATION, _WIKI, citations.START)), re.MULTILINE)
_EMBEDDED = re.compile(r"[^?#]*\.(?:py|ipynb|pdf)(?:[?#]|$)|(?:\?code)?#")
_ESCAPED_PIPE = f"{STX}{ord('|')}{ETX}"


class NoteExtension(Extension):
    """The extension ``weave`` for a page whose book is known (`current_page`); book/markdown.py finds it elsewhere."""

    def __init__(self, **kwargs: Any) -> None:
        self.config = {"book": ["", "BookForPage what a page asks about the other notes and the notebooks."]}
        super().__init__(**kwargs)

    def extendMarkdown(self, md: Markdown) -> None:
        self.md = md
        lines = MarkLines(md, _MARKED, self.begin)
        # Before every other preprocessor: line numbers are those of the file.
        md.preprocessors.register(lines, "weave_lines", 60)
        md.preprocessors.register(Folds(md), "weave_folds", 55)
        md.inlinePatterns.register(_Embed(IMAGE_LINK_RE, md), "weave_embed", 155)
        md.inlinePatterns.register(_Wiki(markdown.WIKI, md), "weave_wiki", 165)
        md.treeprocessors.register(_Resolve(md, lines), "weave", 15)
        citations.register(md, lines.line_of)
        gfm.register(md)
        md.treeprocessors.register(Compare(md, lines), "weave_compare", 18)  # between inline (20) and links (15)
        md.postprocessors.register(Unmark(md), "weave_unmark", -10)

    def begin(self, text: str) -> Page:
        """Return the page that a text is about to be rendered for."""
        if page := current_page():
            return page
        book, path = self.getConfig("book"), "<markdown>"
        if book and "relpath" in self.md.treeprocessors:  # a blog's excerpt
            path = f"{book.layout.docs}/{self.md.treeprocessors['relpath'].file.src_uri}"
        return Page(path, book=book or None)


class _Wiki(InlineProcessor):
    """``[[name]]``: the page it leads to is resolved with all other links."""

    def handleMatch(  # type: ignore[override]
        self, m: re.Match[str], data: str
    ) -> tuple[etree.Element | None, int | None, int | None]:
        target, pipe, words = m["inside"].partition("|")
        if not pipe:  # in a table it is escaped, and by now one of Markdown's placeholders
            placeholders = INLINE_PLACEHOLDER_RE.finditer(target)
            escaped = (match for match in placeholders if self.unescape(match[0]) == _ESCAPED_PIPE)
            if match := next(escaped, None):
                target, words = target[: match.start()], target[match.end() :]
        line = marked_line(self.unescape(target))
        name = (mark(line) if line else "") + as_read(self.unescape(as_written(target, self.md)), self.md)
        if unmark(name).startswith("^") or not unmark(name).strip(" #"):
            return None, None, None
        element = etree.Element("a", {"weave-term": name})
        element.text = words or unmark(target).strip().removeprefix("#").replace("#", " > ")
        if data[m.start(0) - 1 : m.start(0)] == "!":
            element.set("weave-embedded", "!")
        return element, m.start(0), m.end(0)


class _Embed(ImageInlineProcessor):
    """``![caption](x.py#cell)``: keeps the caption as Markdown, unlike an image's alternative text."""

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Any, int | None, int | None]:  # type: ignore[override]
        text, index, found = self.getText(data, m.end(0))
        if not found:
            return None, None, None
        target, _, index, found = self.getLink(data, index)
        if not found or not _EMBEDDED.match(unmark(target)):
            return None, None, None
        element = etree.Element(EMBED, {"src": target})
        etree.SubElement(element, "span", {"class": "weave-caption"}).text = text
        return element, m.start(0), index


class _Resolve(Treeprocessor):
    """Resolves every link and embed of the page, and shows and reports those that are wrong."""

    def __init__(self, md: Markdown, lines: MarkLines) -> None:
        super().__init__(md)
        self.lines = lines

    def run(self, root: etree.Element) -> None:
        page = self.lines.page
        book = page.book
        if book is None:
            return
        links = Links(page, book, self.lines)
        embeds = Embeds(links, self.md.htmlStash.store)
        for element in list(root.iter()):
            if element.tag == "dt" and page.path == book.layout.glossary:
                element.set("id", terms.anchor("".join(element.itertext())))
            try:
                if element.get("class") in ("footnote-ref", "footnote-backref"):
                    continue  # unread.py looks after them
                if element.attrib.pop("weave-embedded", ""):
                    written = element.attrib.pop("weave-term")
                    instead = "[[…]] for a link, ![caption](file.png) for a picture"
                    what = f"![[{unmark(written)}]] shows nothing here; write {instead}"
                    raise LinkError(self.lines.line_of(written), what)
                if element.tag == "a" and (term := element.attrib.pop("weave-term", None)) is not None:
                    links.term(element, term)
                elif element.tag == "a" and element.get("href") is not None:
                    links.link(element, "href")
                elif element.tag == "img" and element.get("src") is not None:
                    links.link(element, "src")
            except LinkError as error:
                show_error(element, str(page.report(error.line, error.message)))
        name_references(root)
        for parent in list(root.iter()):  # last: what an embed adds is resolved already
            for child in list(parent):
                if child.tag == EMBED:
                    try:
                        embeds.embed(parent, child)
                    except LinkError as error:
                        show_error(child, str(page.report(error.line, error.message)))
