"""Headings by what they say: ``[[note#heading]]`` is found on a page when all pages are rendered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape, unescape

from weave.note.page import Page

HEADING = "data-weave-heading"
"""Attribute of a link: the page's source, ``#`` and the heading as the author wrote it."""

_HEADING = re.compile(r'<h[1-6]\b[^>]*\sid="([^"]+)"[^>]*>(.*?)</h[1-6]>', re.DOTALL)
_PERMALINK = re.compile(r'<a class="headerlink".*?</a>', re.DOTALL)
_LINK = re.compile(rf'<a\b[^>]* {HEADING}="([^"]*)"[^>]*>')
_ATTRIBUTE = re.compile(rf' {HEADING}="[^"]*"')


def read(html: str) -> dict[str, str]:
    """The id of each heading of a rendered page, by its plain text; the first of those that read the same."""
    found: dict[str, str] = {}
    for name, inner in _HEADING.findall(html):
        text = unescape(re.sub(r"<[^>]+>", "", _PERMALINK.sub("", inner)))
        found.setdefault(" ".join(text.split()), unescape(name))
    return found


def find(page: Page, written: str) -> str | None:
    """The id that a heading, written as it reads or as its id, has on a page. As in Obsidian, ``A#B`` means B."""
    last = written.rpartition("#")[2].strip()
    by_text = (name for text, name in page.headings.items() if _spelt(text) == _spelt(last) != "")
    return next(by_text, last if last in page.anchors else None)


def link(html: str, pages: Mapping[str, Page]) -> str:
    """The finished page with every link to a heading ending in its id."""

    def ending(match: re.Match[str]) -> str:
        path, _, written = unescape(match[1]).partition("#")
        page = pages.get(path)
        name = find(page, written) if page else None
        tag = _ATTRIBUTE.sub("", match[0])
        return tag if name is None else re.sub(r'\shref="([^"#]*)"', rf' href="\g<1>#{escape(name)}"', tag, count=1)

    return _LINK.sub(ending, html)


def _spelt(text: str) -> str:
    """Return a heading without case, hyphens and marks of formulas and code, for comparing."""
    return " ".join(re.sub(r"[\W_]+", " ", text).casefold().split())
