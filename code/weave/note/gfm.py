r"""Syntax of GitHub and Obsidian that Python-Markdown lacks, or reads otherwise; lists are in lists.py.

Headings that end in a sign (``## C#``), tables and fences right below a line of text, text right below a fence, ``\|``
in the code of a table, line breaks by a backslash, ``~~struck out~~``, bare addresses, a backslash before any sign.
"""

from __future__ import annotations

import re
import string
import xml.etree.ElementTree as etree
from typing import Any

from markdown import Markdown
from markdown.blockprocessors import BlockProcessor
from markdown.inlinepatterns import InlineProcessor, SimpleTagInlineProcessor
from markdown.treeprocessors import Treeprocessor
from markdown.util import HTML_PLACEHOLDER_RE, AtomicString

from weave.note.lists import BLOCK, RULE, Lists, item_of

_HEADING = re.compile(r"^[ ]{0,3}(?P<marks>#{1,6})(?:[ ]+(?P<text>.*?))??(?:[ ]+#+)?[ ]*$", re.MULTILINE)
_UNDERLINE = re.compile(r"[ ]{0,3}(?:=+|-+)[ ]*$")
_DELIMITERS = re.compile(r"[ ]*\|?[ ]*:?-+:?[ ]*(?:\|[ ]*:?-+:?[ ]*)*\|?[ ]*$")
_MAIL = r"(?<![\w.+-])([A-Za-z0-9._+-]+@[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.[A-Za-z0-9_-]*[A-Za-z0-9])(?![\w-])"
_ADDRESS = r"(?<![^\s*_~(])((?:https?://|www\.)[^\s<>\u0002\ufdd0-\ufdef]+)"


def register(md: Markdown) -> None:
    """Make all of it part of the Markdown."""
    blocks = md.parser.blockprocessors
    for name in ("ulist", "olist", "indent"):
        if name in blocks:
            blocks.deregister(name)
    blocks.register(Lists(md.parser), "weave_lists", 45)  # after headings and rules, before quotations
    blocks.register(_Headings(md.parser), "hashheader", 70)
    blocks.register(_Setext(md.parser), "setextheader", 60)
    blocks.register(_Stashed(md.parser), "weave_stashed", 77)
    blocks.register(_BelowText(md.parser), "weave_tables", 76)  # before tables
    md.ESCAPED_CHARS = sorted({*md.ESCAPED_CHARS, *string.punctuation} - {"&"})
    md.inlinePatterns.register(_Break(r"\\\n", md), "weave_break", 185)  # before escapes, after code
    struck = r"(?<![~\\])(~~?)(?![\s~])((?:(?!\n\n).)*?[^\s~])\1(?!~)"
    md.inlinePatterns.register(SimpleTagInlineProcessor(struck, "del"), "weave_struck", 65)
    md.inlinePatterns.register(_Address(_ADDRESS, md), "weave_address", 80)  # after HTML (90)
    md.inlinePatterns.register(_Mail(_MAIL, md), "weave_mail", 79)
    md.treeprocessors.register(_Cells(md), "weave_cells", 30)  # before what is in a line


class _Headings(BlockProcessor):
    """``# text``, with a blank between; signs at the end are part of it unless a blank is before them."""

    def test(self, parent: etree.Element, block: str) -> bool:
        return bool(_HEADING.search(block))

    def run(self, parent: etree.Element, blocks: list[str]) -> None:
        block = blocks.pop(0)
        heading = _HEADING.search(block)
        assert heading
        if before := block[: heading.start()].rstrip("\n"):
            self.parser.parseBlocks(parent, [before])
        etree.SubElement(parent, f"h{len(heading['marks'])}").text = (heading["text"] or "").strip()
        if after := block[heading.end() :].lstrip("\n"):
            blocks.insert(0, after)


class _Setext(BlockProcessor):
    """Text with a line of ``=`` or ``-`` below it is a heading; a list, a quotation or a table is none."""

    def _row(self, block: str) -> int:
        """Return the row of the line below the heading, or 0."""
        for row, line in enumerate(block.split("\n")):
            if row and _UNDERLINE.match(line):
                return row
            if (
                RULE.match(line)
                or (item_of(line) and not row)
                or BLOCK.match(line)
                or "|" in line
                or (line.startswith("    ") and not row)
            ):
                return 0
        return 0

    def test(self, parent: etree.Element, block: str) -> bool:
        return self._row(block) > 0

    def run(self, parent: etree.Element, blocks: list[str]) -> None:
        lines = blocks.pop(0).split("\n")
        row = next(row for row, line in enumerate(lines) if row and _UNDERLINE.match(line))
        heading = etree.SubElement(parent, "h1" if lines[row].strip()[0] == "=" else "h2")
        heading.text = "\n".join(line.strip() for line in lines[:row])
        if lines[row + 1 :]:
            blocks.insert(0, "\n".join(lines[row + 1 :]))


class _Stashed(BlockProcessor):
    """Parts a fence, or HTML, from the text right above and below it."""

    def _row(self, block: str) -> int:
        lines = block.split("\n")
        for row, line in enumerate(lines):
            if item_of(line) and not line.startswith("    "):
                return -1  # it may be in the item
            if HTML_PLACEHOLDER_RE.fullmatch(line.strip()) and len(lines) > 1:
                return row
        return -1

    def test(self, parent: etree.Element, block: str) -> bool:
        return self._row(block) >= 0 and not block.startswith(("    ", ">"))

    def run(self, parent: etree.Element, blocks: list[str]) -> None:
        lines, row = blocks[0].split("\n"), self._row(blocks[0])
        parts = ["\n".join(lines[:row]), lines[row].strip(), "\n".join(lines[row + 1 :])]
        blocks[:1] = [part for part in parts if part]


class _BelowText(BlockProcessor):
    """Parts a table from the text right above it."""

    def _row(self, block: str) -> int:
        lines = block.split("\n")
        for row in range(2, len(lines)):
            head, rule = lines[row - 1 : row + 1]
            if "|" in head and _DELIMITERS.match(head):
                return 0
            if "|" in head and "|" in rule and _DELIMITERS.match(rule) and _cells(rule) == _cells(head):
                return row - 1
        return 0

    def test(self, parent: etree.Element, block: str) -> bool:
        return self._row(block) > 0 and not block.startswith(("    ", ">"))

    def run(self, parent: etree.Element, blocks: list[str]) -> None:
        block = blocks.pop(0)
        lines, row = block.split("\n"), self._row(block)
        self.parser.parseBlocks(parent, ["\n".join(lines[:row])])
        blocks.insert(0, "\n".join(lines[row:]))


def _cells(row: str) -> int:
    return len(re.findall(r"(?<!\\)\|", row.strip().strip("|")))


class _Break(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[etree.Element, int, int]:  # type: ignore[override]
        return etree.Element("br"), m.start(0), m.end(0)


class _Mail(InlineProcessor):
    """An address for mail is a link."""

    ANCESTOR_EXCLUDES = ("a",)

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Any, Any, Any]:  # type: ignore[override]
        link = etree.Element("a", {"href": f"mailto:{m[1]}"})
        link.text = AtomicString(m[1])
        return link, m.start(1), m.end(1)


class _Address(InlineProcessor):
    """A bare address is a link; signs at its end are the sentence's."""

    ANCESTOR_EXCLUDES = ("a",)

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Any, Any, Any]:  # type: ignore[override]
        address = re.sub(r"[?!.,:*_~'\"]+$", "", m[1])
        while address.endswith(")") and address.count(")") > address.count("("):
            address = re.sub(r"[?!.,:*_~'\"]+$", "", address[:-1])
        if not re.match(r"https?://[^/\s]+|www\.[^/\s.]+\.", address):
            return None, None, None
        link = etree.Element("a", {"href": f"http://{address}" if address.startswith("www.") else address})
        link.text = AtomicString(address)
        return link, m.start(1), m.start(1) + len(address)


class _Cells(Treeprocessor):
    r"""``\|`` in a table's cell is a line, also in code; a table may have no rows."""

    def run(self, root: etree.Element) -> None:
        for table in root.iter("table"):
            for body in table.findall("tbody"):
                if len(body) == 1 and not "".join(body.itertext()).strip():
                    table.remove(body)
        for tag in ("td", "th"):
            for cell in root.iter(tag):
                cell.text = (cell.text or "").replace("\\|", "|")
