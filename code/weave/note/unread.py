"""Things that Markdown passes over in silence: footnotes without their other half, and addresses in HTML."""

from __future__ import annotations

import posixpath
from collections.abc import Container, Iterator
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

from weave.note.links import refused
from weave.note.page import Page
from weave.source.markdown import tokens
from weave.source.problem import nearest

_ADDRESS = ("href", "src", "poster", "data")


def footnotes(text: str, code: Container[int]) -> Iterator[tuple[int, str]]:
    """Yield the line of each footnote that is written and not referred to, or the other way round, and what to do.

    Args:
        text: A Markdown source.
        code: The lines of code that has no fence.
    """
    written: dict[str, int] = {}
    used = [token for token in tokens(text, "footnote") if token.line not in code]
    for token in tokens(text, "footnote definition"):
        if token.line in code:
            continue
        if token["id"] in written:
            yield token.line, f"a second footnote '{token['id']}'; rename one"
        written.setdefault(token["id"], token.line)
    names = {token["id"] for token in used}
    for token in used:
        if token["id"] not in written:
            yield token.line, f"no footnote '[^{token['id']}]: …'; {nearest(token['id'], written, 'this page')}"
    for name, line in written.items():
        if name not in names:
            yield line, f"footnote '{name}' is referred to nowhere; write [^{name}] where it belongs, or delete it"


def addresses(page: Page, text: str, code: Container[int]) -> Iterator[tuple[int, str]]:
    """Yield the line of each address in HTML that leads nowhere on the site, and what to do."""
    book = page.book
    assert book
    for token in tokens(text, "tag"):
        if token.line in code:
            continue
        reader = _Attributes()
        reader.feed(token.written)
        for name, url in reader.found:
            try:
                parts = urlsplit(url)
            except ValueError:
                yield token.line, f"'{url}' is not an address; correct it"
                continue
            if what := refused(url):
                yield token.line, what
            if what or parts.scheme or parts.netloc or not parts.path:
                continue
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page.path), unquote(parts.path)))
            if parts.path.startswith("/") or path.startswith("../"):
                yield token.line, f"'{url}' leaves the repository; link to a file of it by a relative path"
            elif not book.is_file(path):
                yield token.line, book.unknown_file(path)
            elif not page.path.endswith("/index.md") or path.endswith((".md", ".py", ".ipynb")):
                markdown = "![…]" if name == "src" else "[…]"
                what = f'{name}="{url}" is relative to the page\'s address on the site, and leads nowhere there'
                yield token.line, f"{what}; write {markdown}({url})"


class _Attributes(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(name, value) for name, value in attrs if name in _ADDRESS and value]
