"""Headings by what they say: ``[[note#heading]]`` is found on a page when all pages are rendered."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape, unescape
from html.parser import HTMLParser

from weave.note.page import Heading, Page

HEADING = "data-weave-heading"
"""Attribute of a link: the page's source, ``#`` and the heading as the author wrote it."""

_SVG = re.compile(r"<svg\b.*?</svg>", re.DOTALL)  # long, and no place to link to
_LINK = re.compile(rf'<a\b[^>]* {HEADING}="([^"]*)"[^>]*>')
_ATTRIBUTE = re.compile(rf' {HEADING}="[^"]*"')
_LEVELS = {f"h{level}": level for level in range(1, 7)}


def read(html: str) -> tuple[set[str], list[Heading]]:
    """Return the ids of a rendered page that a link can end at, and its headings."""
    reader = _Reader()
    reader.feed(_SVG.sub("", html))
    reader.close()
    return reader.anchors, reader.headings


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.headings: list[Heading] = []
        self._open: tuple[str, str] | None = None  # tag and id of the heading that is read
        self._text = ""
        self._in_link = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if name := given.get("id"):
            self.anchors.add(name)
        if tag in _LEVELS and name:
            self._open, self._text = (tag, name), ""
        elif tag == "a" and "headerlink" in (given.get("class") or "").split():
            self._in_link = True

    def handle_endtag(self, tag: str) -> None:
        if self._open and tag == self._open[0]:
            self.headings.append(Heading(_LEVELS[tag], " ".join(self._text.split()), self._open[1]))
            self._open = None
        elif tag == "a":
            self._in_link = False

    def handle_data(self, data: str) -> None:
        if self._open and not self._in_link:
            self._text += data


def find(page: Page, written: str) -> str | None:
    """Return the id of a heading, written as it reads or as its id; ``A#B`` means the B below A.

    The first that reads exactly so, else the first that reads so without case, hyphens and marks.
    """
    whole = written.strip()
    path = [part.strip() for part in whole.split("#") if part.strip()]
    for parts in ([whole], path):
        for equal in (_exactly, _loosely):
            for at, heading in enumerate(page.headings):
                if equal(heading.text, parts[-1]) and _is_below(page.headings, at, parts[:-1]):
                    return heading.anchor
    return whole if whole in page.anchors else None


def _is_below(headings: Sequence[Heading], at: int, path: list[str]) -> bool:
    """Return whether a heading is below those of a path, each somewhere below the one before."""
    above = _above(headings, at)
    return all(any(_exactly(text, part) or _loosely(text, part) for text in above) for part in reversed(path))


def _above(headings: Sequence[Heading], at: int) -> Iterator[str]:
    """Yield the texts of the headings that a heading is part of, the nearest first."""
    level = headings[at].level
    for heading in reversed(headings[:at]):
        if heading.level < level:
            level = heading.level
            yield heading.text


def link(html: str, pages: Mapping[str, Page]) -> str:
    """Return the finished page with every link to a heading ending in its id."""

    def ending(match: re.Match[str]) -> str:
        path, _, written = unescape(match[1]).partition("#")
        page = pages.get(path)
        name = find(page, written) if page else None
        tag = _ATTRIBUTE.sub("", match[0])
        return tag if name is None else re.sub(r'\shref="([^"#]*)"', rf' href="\g<1>#{escape(name)}"', tag, count=1)

    return _LINK.sub(ending, html)


def _exactly(text: str, written: str) -> bool:
    return " ".join(text.split()) == " ".join(re.sub(r"[`$*]", "", written).split()) or text == written


def _loosely(text: str, written: str) -> bool:
    return _spelt(text) == _spelt(written) != ""


def _spelt(text: str) -> str:
    """Return a heading without case, hyphens and marks of formulas and code, for comparing."""
    return " ".join(re.sub(r"[\W_]+", " ", text).casefold().split())
