"""Pages made from other pages: the open questions, the map of which note needs which, the reading list.

A page shows one of them where its Markdown has ``<!-- weave:questions -->`` and the like. They are made from rendered
HTML, so that formulas, claims and links come along; links are rewritten for their new page.
"""

from __future__ import annotations

import datetime
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape, unescape
from urllib.parse import urlsplit

from weave.book.book import Book
from weave.note.bibliography import as_html
from weave.source.layout import relative_url

_TASK = re.compile(r'<li class="task-list-item">(.*?)</li>', re.DOTALL)
_BOX = re.compile(r"<input\b[^>]*>")
_MARK = re.compile(r'<sup id="fnref.*?</sup>', re.DOTALL)
_HEADING = re.compile(r'<h[23] id="([^"]+)">')
_LINK = re.compile(r'\b(href|src)="([^"]*)"')


@dataclass
class Collected:
    """The facts of one page that overviews are made from."""

    title: str
    url: str
    html: str
    kind: str
    """``note`` or ``log``."""
    slug: str = ""
    description: str = ""
    needs: list[str] = field(default_factory=list)
    """Slugs of the notes that this one builds on."""
    minutes: int = 0
    """The note's reading time."""
    date: datetime.date | None = None
    """The day of a log entry."""


def relink(html: str, here: str, there: str) -> str:
    """Return HTML of the page at the URL ``here`` with its links rewritten for the page at ``there``."""

    def link(match: re.Match[str]) -> str:
        address = unescape(match[2])
        if urlsplit(address).scheme or address.startswith("//"):
            return match[0]
        base = here if here.endswith("/") or not here else posixpath.dirname(here)
        path, mark, anchor = address.partition("#")
        whole = posixpath.normpath(posixpath.join(base, path)) if path else here
        if path.endswith("/") and not whole.endswith("/"):
            whole += "/"
        return f'{match[1]}="{escape(relative_url(whole, there) + mark + anchor)}"'

    return _LINK.sub(link, re.sub(r'\sid="[^"]*"', "", html))


def questions(pages: list[Collected], url: str) -> str:
    """Return every open task, below the title of its page."""
    parts, count = [], 0
    last: dict[str, datetime.date] = {}  # a task that a later log entry took over is open, or done, in that entry
    for page in sorted((page for page in pages if page.date), key=lambda page: str(page.date)):
        last |= {_words(item): page.date for item in _TASK.findall(page.html) if page.date}
    for page in pages:
        items = []
        for match in _TASK.finditer(page.html):
            box = _BOX.search(match[1])
            if box and "checked" in box[0].replace("checkbox", ""):
                continue
            if page.date and last[_words(match[1])] != page.date:
                continue
            before = _HEADING.findall(page.html[: match.start()])
            anchor = f"#{before[-1]}" if before else ""
            text = relink(_MARK.sub("", _BOX.sub("", match[1], count=1)), page.url, url).strip()
            items.append(f'<li>{text} <a href="{relative_url(page.url, url)}{anchor}">asked here</a></li>')
        if items:
            count += len(items)
            parts.append(f'<h2 id="{page.slug}">{escape(page.title)}</h2><ul>{"".join(items)}</ul>')
    return f"<p>{count} questions stand open.</p>{''.join(parts)}"


def _words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", "", html).split())


def reading_map(pages: list[Collected], url: str, describe: Callable[[Collected], str]) -> str:
    """Draw the notes in an order in which they can be read: each row needs only rows above it.

    An arrow leads from a note to each note that builds on it.
    """
    notes = {page.slug: page for page in pages if page.kind == "note"}
    depth: dict[str, int] = {}

    def row_of(slug: str, path: tuple[str, ...] = ()) -> int:
        if slug not in depth:
            above = [need for need in notes[slug].needs if need in notes and need not in path]
            depth[slug] = 1 + max((row_of(need, (*path, slug)) for need in above), default=-1)
        return depth[slug]

    rows: dict[int, list[str]] = {}
    for slug in notes:
        rows.setdefault(row_of(slug), []).append(slug)
    width, box, height, gap = 720, 214, 44, 28
    at: dict[str, tuple[float, float]] = {}
    for row, slugs in rows.items():
        slugs.sort(key=lambda slug: _middle(notes[slug].needs, at))
        for i, slug in enumerate(slugs):
            at[slug] = (width * (2 * i + 1) / (2 * len(slugs)), row * (height + gap) + height / 2 + 1)
    lines, boxes = [], []
    for slug, (x, y) in at.items():
        for need in notes[slug].needs:
            if need in at:
                from_x, from_y = at[need]
                top, bottom = from_y + height / 2, y - height / 2 - 5
                middle = (top + bottom) / 2
                lines.append(f'<path d="M{from_x:g} {top:g}C{from_x:g} {middle:g} {x:g} {middle:g} {x:g} {bottom:g}"/>')
        page = notes[slug]
        boxes.append(
            f'<a xlink:href="{relative_url(page.url, url)}"><title>{escape(page.description)}</title>'
            f'<rect x="{x - box / 2:g}" y="{y - height / 2:g}" width="{box}" height="{height}" rx="4"/>'
            f'<text x="{x:g}" y="{y - 2:g}">{escape(page.title.partition(":")[0])}</text>'
            f'<text class="quiet" x="{x:g}" y="{y + 14:g}">{escape(describe(page))}</text></a>'
        )
    order = [notes[slug] for row in sorted(rows) for slug in rows[row]]
    steps = "".join(
        f'<li><a href="{relative_url(page.url, url)}">{escape(page.title)}</a>, {escape(describe(page))}</li>'
        for page in order
    )
    tall = len(rows) * (height + gap) - gap + 2
    return (
        f'<svg class="weave-map" viewBox="0 0 {width} {tall}" role="group" aria-label="the notes, by what needs what">'
        '<defs><marker id="weave-tip" viewBox="0 0 8 8" refX="4" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto">'
        f'<path d="M0 1L6 4L0 7z"/></marker></defs><g class="arrows">{"".join(lines)}</g>{"".join(boxes)}</svg>'
        f'<ol class="weave-steps">{steps}</ol>'  # where the picture would be too small to read
    )


def _middle(needs: list[str], at: dict[str, tuple[float, float]]) -> float:
    """Return the mean place of the notes that a note needs, so that few arrows cross."""
    places = [at[need][0] for need in needs if need in at]
    return sum(places) / len(places) if places else 0


def reading_list(book: Book, address: Callable[[str], str]) -> str:
    """Return the cited works, each with the author's verdict and the pages that cite it; then those still to read.

    Args:
        book: All works, and all pages.
        address: Turns the path of a page or file under docs/ into a link from the reading list.
    """
    cited: list[str] = []
    unread: list[str] = []
    for work in sorted(book.bibliography.works.values(), key=lambda work: work.order):
        users = [page for page in book.pages.values() if work.key in page.cited]
        at = [(escape(address(book.layout.page_uri(page.path) or "")), escape(page.title)) for page in users]
        links = ", ".join(f'<a href="{url}#cite-{work.key}">{title}</a>' for url, title in at)
        parts = [f"<p>{as_html(work)}</p>"]
        if work.verdict:
            parts.append(f'<p class="weave-verdict">{escape(work.verdict)}</p>')
        if links:
            parts.append(f'<p class="weave-cited">Cited in {links}.</p>')
        (cited if users else unread).append(f'<li id="{escape(work.key)}">{"".join(parts)}</li>')
    html = "".join(f'<p class="weave-error">{escape(str(problem))}</p>' for problem in book.bibliography.problems)
    file = address(book.bibliography.path.removeprefix(f"{book.layout.docs}/"))
    html += f'<p>{len(cited)} works; <a href="{escape(file)}" download>as BibTeX</a>.</p>' if file else ""
    html += f'<ul class="weave-reading">{"".join(cited)}</ul>'
    if unread:
        html += f'<h2 id="to-read">To read</h2><ul class="weave-reading">{"".join(unread)}</ul>'
    return html
