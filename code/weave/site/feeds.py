"""The site's feeds, Atom and RSS: one entry for each note and each log entry, the last change first."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import format_datetime
from pathlib import Path
from xml.etree import ElementTree as etree

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files

from weave.book import reading

_ATOM = "http://www.w3.org/2005/Atom"


@dataclass(frozen=True)
class Entry:
    title: str
    description: str
    url: str
    """Absolute."""
    published: datetime.date
    changed: datetime.date


def write(site: Path, files: Files, config: MkDocsConfig, changed: dict[str, datetime.date]) -> None:
    """Write ``atom.xml`` and ``rss.xml`` into the folder ``site``.

    ``changed`` gives the day of the last commit to each Markdown file, by its path below the docs folder; a file that
    was never committed counts as changed today.
    """
    url, author = str(config.site_url), (config.extra.get("author") or {}).get("name", "")
    entries = sorted(_entries(files, changed), key=lambda entry: (entry.changed, entry.title), reverse=True)
    (site / "atom.xml").write_bytes(atom(entries, config.site_name, url, author))
    (site / "rss.xml").write_bytes(rss(entries, config.site_name, url, str(config.site_description or "")))


def _entries(files: Files, changed: dict[str, datetime.date]) -> Iterable[Entry]:
    for file in files.documentation_pages():
        page, folder = file.page, file.src_uri.partition("/")[0]
        if page and folder in ("notes", "log") and not file.src_uri.endswith("index.md") and page.canonical_url:
            last = changed.get(file.src_uri) or datetime.date.today()
            first = reading.date_of(page.meta.get("date")) or last
            about = str(page.meta.get("description") or "")
            yield Entry(str(page.title), about, page.canonical_url, first, max(first, last))


def atom(entries: list[Entry], site: str, url: str, author: str) -> bytes:
    """Return an Atom feed (RFC 4287); without an author's name, the site is the author."""
    feed = etree.Element("feed", {"xmlns": _ATOM})
    _text(feed, "title", site)
    _text(feed, "id", url)
    etree.SubElement(feed, "link", {"href": url})
    etree.SubElement(feed, "link", {"href": f"{url}atom.xml", "rel": "self"})
    _text(feed, "updated", f"{max((entry.changed for entry in entries), default=datetime.date(1970, 1, 1))}T00:00:00Z")
    _text(etree.SubElement(feed, "author"), "name", author or site)
    for entry in entries:
        element = etree.SubElement(feed, "entry")
        _text(element, "title", entry.title)
        _text(element, "id", entry.url)
        etree.SubElement(element, "link", {"href": entry.url})
        _text(element, "published", f"{entry.published}T00:00:00Z")
        _text(element, "updated", f"{entry.changed}T00:00:00Z")
        _text(element, "summary", entry.description)
    return etree.tostring(feed, encoding="utf-8", xml_declaration=True)


def rss(entries: list[Entry], site: str, url: str, description: str) -> bytes:
    """Return an RSS 2.0 feed."""
    root = etree.Element("rss", {"version": "2.0"})
    channel = etree.SubElement(root, "channel")
    for name, text in (("title", site), ("link", url), ("description", description)):
        _text(channel, name, text)
    for entry in entries:
        item = etree.SubElement(channel, "item")
        day = datetime.datetime.combine(entry.published, datetime.time(), datetime.UTC)
        for name, text in (("title", entry.title), ("link", entry.url), ("guid", entry.url)):
            _text(item, name, text)
        _text(item, "pubDate", format_datetime(day))
        _text(item, "description", entry.description)
    return etree.tostring(root, encoding="utf-8", xml_declaration=True)


def _text(parent: etree.Element, tag: str, text: str) -> None:
    etree.SubElement(parent, tag).text = text
