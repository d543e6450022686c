"""Pages made of what other pages say: open questions, and which note needs which.

A page shows one where its Markdown has ``<!-- weave:questions -->`` and the like. What is collected is HTML that is
rendered already, so that formulas, claims and links come along; links are turned to lead on from the new place.
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
    """What is collected from one page."""

    title: str
    url: str
    html: str
    kind: str
    """``note`` or ``log``."""
    slug: str = ""
    description: str = ""
    needs: list[str] = field(default_factory=list)
    """Slugs of the notes that this one builds on."""
    date: datetime.date | None = None
    """Of a log entry."""


def relink(html: str, here: str, there: str) -> str:
    """HTML of the page at the URL ``here`` as it must stand on the page at ``there``."""

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
    """Every task that is not done, under the page that asks it."""
    parts, count = [], 0
    last: dict[str, datetime.date] = {}  # a task that a later log entry took over is open, or done, there
    for page in sorted((one for one in pages if one.date), key=lambda one: str(one.date)):
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
    """The notes in the order in which they can be read: each row needs only rows above it. An arrow leads from a note
    to the ones that build on it."""
    notes = {page.slug: page for page in pages if page.kind == "note"}
    depth: dict[str, int] = {}

    def deep(slug: str, path: tuple[str, ...] = ()) -> int:
        if slug not in depth:
            above = [one for one in notes[slug].needs if one in notes and one not in path]
            depth[slug] = 1 + max((deep(one, (*path, slug)) for one in above), default=-1)
        return depth[slug]

    rows: dict[int, list[str]] = {}
    for slug in notes:
        rows.setdefault(deep(slug), []).append(slug)
    width, box, height, gap = 720, 214, 44, 28
    at: dict[str, tuple[float, float]] = {}
    for row, slugs in rows.items():
        slugs.sort(key=lambda one: _above(notes[one].needs, at))
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


def _above(needs: list[str], at: dict[str, tuple[float, float]]) -> float:
    """Where what a note needs stands, so that arrows cross little."""
    places = [at[one][0] for one in needs if one in at]
    return sum(places) / len(places) if places else 0


def reading_list(site: Book, address: Callable[[str], str]) -> str:
    """The works that are cited, each with the author's verdict and the pages that cite it; then those still to read.

    Args:
        site: All works, and all pages.
        address: Where, from the reading list, a page or file leads that is given as a path under docs/.
    """
    cited: list[str] = []
    unread: list[str] = []
    for work in sorted(site.bibliography.works.values(), key=lambda work: work.order):
        users = [page for page in site.pages.values() if work.key in page.cited]
        at = [(escape(address(site.layout.page_uri(page.path) or "")), escape(page.title)) for page in users]
        links = ", ".join(f'<a href="{url}#cite-{work.key}">{title}</a>' for url, title in at)
        parts = [f"<p>{as_html(work)}</p>"]
        if work.verdict:
            parts.append(f'<p class="weave-verdict">{escape(work.verdict)}</p>')
        if links:
            parts.append(f'<p class="weave-cited">Cited in {links}.</p>')
        (cited if users else unread).append(f'<li id="{escape(work.key)}">{"".join(parts)}</li>')
    html = "".join(f'<p class="weave-error">{escape(str(one))}</p>' for one in site.bibliography.problems)
    file = address(site.bibliography.path.removeprefix(f"{site.layout.docs}/"))
    html += f'<p>{len(cited)} works; <a href="{escape(file)}" download>as BibTeX</a>.</p>' if file else ""
    html += f'<ul class="weave-reading">{"".join(cited)}</ul>'
    if unread:
        html += f'<h2 id="to-read">To read</h2><ul class="weave-reading">{"".join(unread)}</ul>'
    return html
