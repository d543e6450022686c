"""The foot of a note: the pages that link to it, each with the sentence that does.

Read from the rendered pages, before anything is added to them that the author did not write.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape, unescape
from urllib.parse import urlsplit

from weave.source.layout import relative_url

_BLOCKS = {
    *("p", "li", "dd", "dt", "td", "th", "blockquote", "figcaption", "summary", "div", "section", "figure", "details"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "tr"),
}
_SKIPPED = {"headerlink", "footnote-ref", "footnote-backref", "weave-badge", "weave-cell", "weave-code", "weave-error"}
_PIECE = re.compile(
    r"<(?P<void>svg|pre|script|style)\b.*?</(?P=void)>|<!--.*?-->"
    r"|<(?P<whole>tex-math|code)\b(?P<given>[^>]*)>(?P<inside>.*?)</(?P=whole)>"
    r"|<(?P<end>/?)(?P<tag>\w[\w-]*)(?P<attributes>(?:\"[^\"]*\"|'[^']*'|[^>\"'])*)>|(?P<text>[^<]+|<)",
    re.DOTALL,
)
_WHOLE, _BLOCK = "\x01", "\x02"
"""Characters for a formula or a piece of code, so that no sentence ends in it, and for the border of a block."""
_LINK = re.compile("\x03(?P<number>[0-9]+)\x04(?P<text>[^\x03\x05]*)\x05")
_MARKS = re.compile("\x03[0-9]+\x04|\x05")
_FEW = 3
_ABBREVIATED = r"(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bcf\.)(?<!\bal\.)(?<!\bFig\.)(?<!\bvs\.)(?<!\b[A-Z]\.)"
_SENTENCE = re.compile(rf"(?:(?<=[.!?…])|(?<=[.!?…][”’\")\]])){_ABBREVIATED}\s+(?=[^\sa-z])")


@dataclass(frozen=True)
class Mention:
    """A link from a page to another."""

    target: str
    """Address of the other page, from the site's root, without an anchor."""
    sentence: str
    """HTML: text, with formulas and code as they were."""


@lru_cache(maxsize=512)
def find(html: str, url: str) -> tuple[Mention, ...]:
    """Return every link of a rendered page to a page of the site, with its sentence.

    Args:
        html: The page's content.
        url: Its address, from the site's root.
    """
    text, wholes, addresses = _flat(html)
    mentions = []
    for block in text.split(_BLOCK):
        for link in _LINK.finditer(block):
            target = _resolve(addresses[int(link["number"])], url)
            if target is not None and link["text"].strip():
                start = len(_MARKS.sub("", block[: link.start()]))
                plain = _MARKS.sub("", block)
                first, last = _sentence(plain, start, start + len(link["text"]))
                inside = iter(wholes[plain.count(_WHOLE, 0, first) :])
                words = escape(" ".join(plain[first:last].split()), quote=False).split(_WHOLE)
                mentions.append(Mention(target, words[0] + "".join(next(inside) + part for part in words[1:])))
        wholes = wholes[block.count(_WHOLE) :]
    return tuple(mentions)


def _flat(html: str) -> tuple[str, list[str], list[str]]:
    """Return a page's text, with marks in it; the HTML of its formulas and code; and the addresses of its links."""
    text: list[str] = []
    wholes: list[str] = []
    addresses: list[str] = []
    skipping, depth = "", 0
    for piece in _PIECE.finditer(re.sub(r"[\x01-\x05]", "", html)):
        tag, given = piece["tag"], piece["attributes"] or ""
        if skipping:
            depth += (1 - 2 * bool(piece["end"])) * (tag == skipping)
            skipping = skipping if depth else ""
        elif piece["whole"]:
            kind = re.search(r' class="[^"]*"', piece["given"]) if piece["whole"] == "tex-math" else None
            wholes.append(f"<{piece['whole']}{kind[0] if kind else ''}>{piece['inside']}</{piece['whole']}>")
            text.append(_WHOLE)
        elif piece["text"]:
            text.append(unescape(piece["text"]))
        elif tag and not piece["end"] and _SKIPPED & set(_attribute("class", given).split()):
            skipping, depth = tag, 1
        elif tag == "a" and not piece["end"]:
            text.append(f"\x03{len(addresses)}\x04")
            addresses.append(_attribute("href", given))
        elif tag in ("a", "br") or tag in _BLOCKS:
            text.append({"a": "\x05", "br": " "}.get(tag, _BLOCK))
    return "".join(text), wholes, addresses


def _attribute(name: str, attributes: str) -> str:
    match = re.search(rf"""\s{name}=(?:"([^"]*)"|'([^']*)')""", attributes)
    return unescape(match[1] or match[2] or "") if match else ""


def _resolve(href: str, here: str) -> str | None:
    """Return the address, from the site's root, of a link on the page at ``here``; None if it leads elsewhere."""
    parts = urlsplit(href)
    if parts.scheme or parts.netloc or not parts.path:
        return None
    base = here if here.endswith("/") or not here else posixpath.dirname(here)
    whole = posixpath.normpath(posixpath.join(base, parts.path)).removeprefix("./")
    return whole + "/" if parts.path.endswith("/") and whole != "." else whole.removeprefix(".")


def _sentence(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the place of the sentence that has the link from ``start`` to ``end`` in it."""
    cuts = [cut for cut in _SENTENCE.finditer(text) if not _quoted(text, cut.start())]
    begins = [0, *(cut.end() for cut in cuts if cut.end() <= start)]
    ends = next((cut.start() for cut in cuts if cut.start() >= end), len(text))
    beside = text[begins[-1] : start] + text[end:ends]
    short = len(beside.split()) < _FEW  # "See …" says nothing without the sentence before
    return begins[-2] if short and len(begins) > 1 else begins[-1], ends


def _quoted(text: str, place: int) -> bool:
    return text.count("“", 0, place) > text.count("”", 0, place)


def foot(note: str, pages: Iterable[tuple[str, str, Sequence[Mention]]]) -> str:
    """Return the foot of the note at an address; nothing if no page mentions it.

    Args:
        note: The note's address.
        pages: Title, address and mentions of every page.
    """
    items = []
    for title, url, mentions in pages:
        sentences = dict.fromkeys(mention.sentence for mention in mentions if mention.target == note)
        if sentences and url != note:
            quoted = "".join(f"<p>{sentence}</p>" for sentence in sentences)
            items.append(f'<li><a href="{relative_url(url, note)}">{escape(title)}</a>{quoted}</li>')
    if not items:
        return ""
    return (
        '<section class="weave-mentions" aria-labelledby="mentioned-in" data-search-exclude>'
        f'<h2 id="mentioned-in">Mentioned in</h2><ul>{"".join(items)}</ul></section>'
    )
