"""At the foot of a note: the pages that link to it, each with the sentence in which it does.

Read from the rendered pages, before anything is added to them that the author did not write.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape, unescape
from html.parser import HTMLParser
from urllib.parse import urlsplit

from weave.source.layout import relative_url

_BLOCKS = {
    *("p", "li", "dd", "dt", "td", "th", "blockquote", "figcaption", "summary", "div", "section", "figure", "details"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "tr"),
}
_SKIPPED = {"headerlink", "footnote-ref", "footnote-backref", "weave-badge", "weave-cell", "weave-code", "weave-error"}
_WHOLE = {"tex-math", "code"}
_WHOLES = re.compile("[\U000f0000-\U000ffffd]")
_FIRST = 0xF0000
_FEW = 3
_ABBREVIATED = r"(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bcf\.)(?<!\bal\.)(?<!\bFig\.)(?<!\bvs\.)(?<!\b[A-Z]\.)"
_SENTENCE = re.compile(rf"(?:(?<=[.!?…])|(?<=[.!?…][”’\")\]])){_ABBREVIATED}\s+(?=[^\sa-z])")
_NO_TEXT = re.compile(r"<(svg|pre|script|style)\b.*?</\1>", re.DOTALL)


@dataclass
class _Block:
    text: str = ""
    """Its words; a formula or a piece of code is one character, the number of its HTML in ``wholes``."""
    links: list[tuple[int, int, str]] = field(default_factory=list)


class _Reader(HTMLParser):
    """Finds each link together with the text block it stands in."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.blocks = [_Block()]
        self.done: list[_Block] = []
        self.open: list[str] = []
        self.skipping, self.depth = "", 0
        self.wholes: list[str] = []
        self.whole: list[str] = []
        self.linking: list[tuple[int, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if self.skipping:
            if tag == self.skipping:
                self.depth += 1
        elif self.whole:
            self.whole.append(self.get_starttag_text() or "")
        elif _SKIPPED & set((given.get("class") or "").split()):
            self.skipping, self.depth = tag, 1
        elif tag in _WHOLE:
            name = f' class="{escape(given["class"] or "")}"' if given.get("class") and tag == "tex-math" else ""
            self.whole, self.whole_tag = [f"<{tag}{name}>"], tag
        elif tag in _BLOCKS:
            self.open.append(tag)
            self.blocks.append(_Block())
        elif tag == "a":
            self.linking.append((len(self.blocks[-1].text), given.get("href") or ""))
        elif tag == "br":
            self.blocks[-1].text += " "

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.whole:
            self.whole.append(self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        if self.skipping:
            self.depth -= tag == self.skipping
            if not self.depth:
                self.skipping = ""
        elif self.whole:
            self.whole.append(f"</{tag}>")
            if tag == self.whole_tag:
                self.wholes.append("".join(self.whole))
                self.blocks[-1].text += chr(_FIRST + len(self.wholes) - 1)
                self.whole = []
        elif tag == "a" and self.linking:
            start, href = self.linking.pop()
            self.blocks[-1].links.append((start, len(self.blocks[-1].text), href))
        elif tag in self.open:
            while self.open.pop() != tag:
                self.done.append(self.blocks.pop())
            self.done.append(self.blocks.pop())

    def handle_data(self, data: str) -> None:
        if self.whole:
            self.whole.append(data)
        elif not self.skipping:
            self.blocks[-1].text += data

    def handle_entityref(self, name: str) -> None:
        self._character(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self._character(f"&#{name};")

    def _character(self, written: str) -> None:
        self.handle_data(written if self.whole else unescape(written))


@dataclass(frozen=True)
class Mention:
    """A page links to another."""

    target: str
    """Address of the page that is linked to, from the site's root, without an anchor."""
    sentence: str
    """HTML: text, with formulas and code as they were."""


@lru_cache(maxsize=512)
def find(html: str, url: str) -> tuple[Mention, ...]:
    """Every link of a rendered page to a page of the site, with its sentence.

    Args:
        html: The page's content.
        url: Its address, from the site's root.
    """
    reader = _Reader()
    reader.feed(_NO_TEXT.sub("", _WHOLES.sub("", html)))
    reader.close()
    found = []
    for block in [*reader.done, *reversed(reader.blocks)]:
        for start, end, href in block.links:
            if (target := _resolve(href, url)) is not None and block.text[start:end].strip():
                sentence = _sentence(block.text, start, end)
                whole = _WHOLES.sub(lambda one: reader.wholes[ord(one[0]) - _FIRST], escape(sentence, quote=False))
                found.append(Mention(target, whole))
    return tuple(found)


def _resolve(href: str, here: str) -> str | None:
    parts = urlsplit(unescape(href))
    if parts.scheme or parts.netloc or not parts.path:
        return None
    base = here if here.endswith("/") or not here else posixpath.dirname(here)
    whole = posixpath.normpath(posixpath.join(base, parts.path)).removeprefix("./")
    return whole + "/" if parts.path.endswith("/") and whole != "." else whole.removeprefix(".")


def _sentence(text: str, start: int, end: int) -> str:
    """The sentence of a text that has the link from ``start`` to ``end`` in it."""
    cuts = list(_SENTENCE.finditer(text))
    begins = [0, *(cut.end() for cut in cuts if cut.end() <= start)]
    ends = next((cut.start() for cut in cuts if cut.start() >= end), len(text))
    beside = text[begins[-1] : start] + text[end:ends]
    short = len(beside.split()) < _FEW  # "See …" says nothing without what goes before
    return " ".join(text[begins[-2] if short and len(begins) > 1 else begins[-1] : ends].split())


def foot(note: str, pages: Iterable[tuple[str, str, Sequence[Mention]]]) -> str:
    """What stands at the foot of the note at an address; nothing where no page mentions it.

    Args:
        note: The note's address.
        pages: Title, address and mentions of every page.
    """
    items = []
    for title, url, mentions in pages:
        sentences = dict.fromkeys(one.sentence for one in mentions if one.target == note)
        if sentences and url != note:
            said = "".join(f"<p>{sentence}</p>" for sentence in sentences)
            items.append(f'<li><a href="{relative_url(url, note)}">{escape(title)}</a>{said}</li>')
    if not items:
        return ""
    return (
        '<section class="weave-mentions" aria-labelledby="mentioned-in" data-search-exclude>'
        f'<h2 id="mentioned-in">Mentioned in</h2><ul>{"".join(items)}</ul></section>'
    )
