"""``[@key]``, ``[@key, section 3]`` and ``[@a; @b]``, as in Pandoc: the numbers of works in a list on the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree as etree

from markdown import Markdown
from markdown.inlinepatterns import InlineProcessor
from markdown.treeprocessors import Treeprocessor
from markdown.util import AtomicString

from weave.note.bibliography import Work
from weave.note.embeds import show_error
from weave.note.lines import MARK, unmark
from weave.note.page import page_of
from weave.source.problem import Problem

START = r"(?<!\\)\[(?=@)"
"""Where a citation begins: behind it stands the invisible character that knows the line."""
_CITATION = rf"\[((?:{MARK})?@[^\[\]]*)\](?![(\[])"
_UNCLOSED = rf"\[((?:{MARK})@[^\s\[\]]*)(?![^\[\]]*\][(\[])"
_ONE = re.compile(r"@(\w[\w:.+/-]*)(?:\s*,\s*(.+))?", re.DOTALL)
_HEADING = re.compile(r"references\b", re.IGNORECASE)


def register(md: Markdown, line_of: Callable[[str], int]) -> None:
    """Make citations part of the Markdown; ``line_of`` returns the line of a text that carries its mark."""
    md.inlinePatterns.register(_Cite(_CITATION, md), "weave_cite", 165)
    md.inlinePatterns.register(_Cite(_UNCLOSED, md), "weave_cite_unclosed", 164)
    md.treeprocessors.register(_References(md, line_of), "weave_references", 14)


class _Cite(InlineProcessor):
    """Numbers are given when the whole page is known."""

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[etree.Element, int, int]:  # type: ignore[override]
        group = etree.Element("span", {"class": "weave-cites", "weave-cites": m[1]})
        group.text = AtomicString("[")
        closed = m[0].endswith("]")
        for part in unmark(m[1]).split(";"):
            found = _ONE.fullmatch(part.strip()) if closed else None
            link = etree.SubElement(group, "a", {"weave-cite": found[1] if found else ""})
            link.text = f", {found[2]}" if found and found[2] else ""  # Markdown, too
            link.tail = AtomicString("; ")
        link.tail = AtomicString("]" if closed else "")
        return group, m.start(0), m.end(0)


class _References(Treeprocessor):
    """Numbers the citations of a page and writes the list of the works."""

    def __init__(self, md: Markdown, line_of: Callable[[str], int]) -> None:
        super().__init__(md)
        self.line_of = line_of

    def run(self, root: etree.Element) -> None:
        page = page_of(self.md)
        if page.book is None:
            return
        # A blog's excerpt stands on a page with others, without its end; its links lead to the whole entry.
        excerpt = "excerpt" in self.md.treeprocessors
        times: dict[str, int] = {}
        works: list[Work] = []
        for group in root.iter("span"):
            written = group.attrib.pop("weave-cites", "")
            if not written:
                continue
            line = self.line_of(written)
            for link in list(group):
                key = link.attrib.pop("weave-cite", None)
                if key is None:
                    continue
                if not key:
                    end = "]" if group[-1].tail == "]" else ""
                    forms = "[@key], [@key, section 3] or [@key; @other]"
                    problem = page.report(line, f"'[{unmark(written)}{end}' is not a citation; write {forms}")
                    show_error(link, str(problem))
                    continue
                work = page.book.work(key)
                if isinstance(work, Problem):  # reported at its entry
                    show_error(link, str(work))
                elif work is None:
                    show_error(link, str(page.report(line, page.book.unknown_work(key))))
                else:
                    works += [] if key in times else [work]
                    times[key] = times.get(key, 0) + 1
                    _cite(link, work, works.index(work) + 1, 0 if excerpt else times[key])
        page.cited = list(times)
        if times and not excerpt:
            _place(root, _list(works, times))


def _cite(link: etree.Element, work: Work, number: int, time: int) -> None:
    link.set("class", "weave-term weave-cite")
    link.set("href", f"#ref-{work.key}")
    link.set("title", work.says)
    link.text = AtomicString(f"{number}{link.text or ''}")
    if time:
        link.set("id", _place_of(work.key, time))


def _place_of(key: str, time: int) -> str:
    return f"cite-{key}" if time == 1 else f"cite-{key}-{time}"


def _list(works: list[Work], times: dict[str, int]) -> etree.Element:
    """The references, in the order of their numbers, each with links back to where it is cited."""
    element = etree.Element("ol", {"class": "weave-references"})
    for work in works:
        item = etree.SubElement(element, "li", {"id": f"ref-{work.key}"})
        item.text = AtomicString(f"{work.authors}, ")
        title = etree.SubElement(item, *(("a", {"href": work.url}) if work.url else ("cite", {})))
        title.text = AtomicString(work.title)
        title.tail = AtomicString(f", {work.after}.\u00a0")
        for time in range(1, times[work.key] + 1):
            href = f"#{_place_of(work.key, time)}"
            which = "" if times[work.key] == 1 else f" {time}"
            label = f"back to citation{which} of {work.authors}, {work.year}"
            back = etree.SubElement(item, "a", {"class": "weave-back", "href": href, "aria-label": label})
            back.text = AtomicString("↩\ufe0e")
            back.tail = " "
    return element


def _place(root: etree.Element, references: etree.Element) -> None:
    """Under the heading "References", or under one of its own at the end, before footnotes."""
    blocks = list(root)
    for i, block in enumerate(blocks):
        if block.tag == "h2" and _HEADING.match("".join(block.itertext()).strip()):
            root.insert(i + 1, references)
            return
    end = len(blocks) - (bool(blocks) and blocks[-1].get("class") == "footnote")
    heading = etree.Element("h2")
    heading.text = "References"
    root.insert(end, heading)
    root.insert(end + 1, references)
