"""What lets others point here: a picture for each page, drawn while the site is built, and feeds of notes and log."""

from __future__ import annotations

import datetime
import hashlib
import textwrap
from dataclasses import dataclass
from email.utils import format_datetime
from pathlib import Path
from xml.etree import ElementTree as etree

PAPER, INK, QUIET, ACCENT = "#fffefb", "#22282c", "#566066", "#b4532a"
_ATOM = "http://www.w3.org/2005/Atom"


@dataclass(frozen=True)
class Entry:
    title: str
    description: str
    url: str
    """In full."""
    published: datetime.date
    changed: datetime.date


def card(title: str, description: str, site: str, fonts: Path, target: Path) -> Path:
    """A picture of 1200 × 630 with title and description; made once for each text."""
    key = hashlib.sha256("\0".join((title, description, site, Path(__file__).read_text())).encode()).hexdigest()[:24]
    path = target / f"{key}.png"
    if path.exists():
        return path
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    def face(weight: int) -> FontProperties:
        return FontProperties(fname=str(_truetype(fonts / f"source-serif-4-latin-{weight}-normal.woff", target)))

    figure = Figure(figsize=(12, 6.3), dpi=100, facecolor=PAPER)
    FigureCanvasAgg(figure)
    lines = textwrap.wrap(title.replace("$", r"\$"), 34)[:2]
    figure.text(0.07, 0.86, site, fontproperties=face(400), fontsize=23, color=ACCENT, va="top")
    figure.text(
        0.07, 0.72, "\n".join(lines), fontproperties=face(600), fontsize=46, color=INK, va="top", linespacing=1.15
    )
    below = textwrap.fill(textwrap.shorten(description.replace("$", r"\$"), 190, placeholder=" …"), 66)
    figure.text(0.07, 0.08, below, fontproperties=face(400), fontsize=23, color=QUIET, va="bottom", linespacing=1.4)
    target.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    figure.savefig(aside, format="png", facecolor=PAPER, metadata={"Software": None})
    aside.replace(path)
    return path


def _truetype(woff: Path, target: Path) -> Path:
    """The font as matplotlib reads it."""
    path = target / f"{woff.stem}.ttf"
    if not path.exists():
        from fontTools.ttLib import TTFont

        target.mkdir(parents=True, exist_ok=True)
        font = TTFont(woff)
        font.flavor = None
        font.save(path)
    return path


def atom(entries: list[Entry], site: str, url: str, author: str) -> bytes:
    """RFC 4287."""
    feed = etree.Element("feed", {"xmlns": _ATOM})
    _text(feed, "title", site)
    _text(feed, "id", url)
    etree.SubElement(feed, "link", {"href": url})
    etree.SubElement(feed, "link", {"href": f"{url}atom.xml", "rel": "self"})
    _text(feed, "updated", f"{max((one.changed for one in entries), default=datetime.date(1970, 1, 1))}T00:00:00Z")
    _text(etree.SubElement(feed, "author"), "name", author or site)
    for one in entries:
        entry = etree.SubElement(feed, "entry")
        _text(entry, "title", one.title)
        _text(entry, "id", one.url)
        etree.SubElement(entry, "link", {"href": one.url})
        _text(entry, "published", f"{one.published}T00:00:00Z")
        _text(entry, "updated", f"{one.changed}T00:00:00Z")
        _text(entry, "summary", one.description)
    return etree.tostring(feed, encoding="utf-8", xml_declaration=True)


def rss(entries: list[Entry], site: str, url: str, description: str) -> bytes:
    """RSS 2.0."""
    root = etree.Element("rss", {"version": "2.0"})
    channel = etree.SubElement(root, "channel")
    for name, text in (("title", site), ("link", url), ("description", description)):
        _text(channel, name, text)
    for one in entries:
        item = etree.SubElement(channel, "item")
        day = datetime.datetime.combine(one.published, datetime.time(), datetime.UTC)
        for name, text in (("title", one.title), ("link", one.url), ("guid", one.url)):
            _text(item, name, text)
        _text(item, "pubDate", format_datetime(day))
        _text(item, "description", one.description)
    return etree.tostring(root, encoding="utf-8", xml_declaration=True)


def _text(parent: etree.Element, tag: str, text: str) -> None:
    etree.SubElement(parent, tag).text = text
