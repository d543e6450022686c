r"""Lists as GitHub and Obsidian have them: CommonMark's rules, in the place of Python-Markdown's own.

A list may begin right below a line of text; what belongs to an item is as far in as the item's own text; ``1)`` counts
as well; another mark begins another list; a list with blank lines between its items or their parts is a loose one, the
paragraphs of which are ``<p>``. https://spec.commonmark.org/0.31.2/#list-items
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as etree
from itertools import pairwise

from markdown.blockprocessors import BlockProcessor
from markdown.util import STX

ITEM = re.compile(r"[ ]{0,3}(?P<mark>[-*+]|(?P<number>\d{1,9})[.)])(?:(?P<space>[ ]{1,4})(?=[^ ])|(?=[ ])|$)")
RULE = re.compile(r"[ ]{0,3}([-*_])[ ]*(?:\1[ ]*){2,}$")
# What begins a line of a block that is no paragraph: no paragraph of an item goes on in it.
BLOCK = re.compile(rf"[ ]{{0,3}}(?:>|#{{1,6}}(?:[ ]|$)|{STX}|(?:!!!|\?\?\?\+?|===)[ ]|:[ ]{{1,3}}|\[\^?[^\]]+\]:)")
_OPENED = re.compile(r"[ ]*(?:!!!|\?\?\?\+?|===|:|\[\^[^\]]+\]:)(?:[ ]|$)")


def item_of(line: str) -> re.Match[str] | None:
    """Return the mark of the list item that a line begins."""
    return None if RULE.match(line) else ITEM.match(line)


def _width(mark: re.Match[str]) -> int:
    """Return how far in the text of an item is."""
    return mark.end() if mark["space"] else mark.end("mark") + 1


class Lists(BlockProcessor):
    """Takes a whole list out of the blocks that follow, and parses what is in each item."""

    def _row(self, parent: etree.Element, block: str) -> int:
        """Return the row of a block in which a list begins, or -1."""
        text = False
        for row, line in enumerate(block.split("\n")):
            if line.startswith("    ") and not text:
                return -1  # indented code
            mark = item_of(line)
            # A paragraph is interrupted by an item with text in it, and by a number if that is 1.
            if mark and (not text or (line[mark.end() :].strip() and (mark["number"] or "1") == "1")):
                return row
            text = bool(line.strip()) and not BLOCK.match(line) and not RULE.match(line)
        return -1

    def test(self, parent: etree.Element, block: str) -> bool:
        return self._row(parent, block) >= 0

    def run(self, parent: etree.Element, blocks: list[str]) -> None:
        at = self._row(parent, blocks[0])
        before = blocks[0].split("\n")[:at]
        lines = "\n\n".join(blocks).split("\n")[at:]
        blocks.clear()
        if before:
            self.parser.parseBlocks(parent, ["\n".join(before)])
        items, rest, loose, number = _items(lines)
        listed = etree.SubElement(parent, "ul" if number is None else "ol")
        if number not in (None, 1):
            listed.set("start", str(number))
        for content in items:
            item = etree.SubElement(listed, "li")
            self.parser.parseChunk(item, "\n".join(_leveled(content)))
            if not loose:
                _tighten(item)
        blocks += "\n".join(rest).split("\n\n") if rest else []


def _items(lines: list[str]) -> tuple[list[list[str]], list[str], bool, int | None]:
    """Return the lines of each item of the list that begins here, without indentation; the lines below the list;
    whether the list is loose; and its first number."""
    items: list[list[str]] = []
    row, loose, kind, number = 0, False, "", None
    while row < len(lines):
        mark = item_of(lines[row])
        if mark is None or (kind and mark["mark"][-1] != kind):
            break
        if not items:
            kind, number = mark["mark"][-1], int(mark["number"]) if mark["number"] else None
        content, end = _item(lines, row, mark)
        loose = loose or _is_loose(content)
        items.append(content)
        row = end
        blank = row
        while blank < len(lines) and not lines[blank].strip():
            blank += 1
        if blank > row and blank < len(lines) and (after := item_of(lines[blank])) and after["mark"][-1] == kind:
            loose, row = True, blank
    return items, lines[row:], loose, number


def _item(lines: list[str], row: int, mark: re.Match[str]) -> tuple[list[str], int]:
    """Return the lines of an item, and the row below them."""
    first = lines[row]
    width = _width(mark)
    content = [first[width:].rstrip(" ") if not first[width:].strip() else first[width:]]
    end = row = row + 1
    text = bool(content[0].strip()) and not BLOCK.match(content[0])  # whether a paragraph may go on
    while row < len(lines):
        line = lines[row]
        if not line.strip():
            if len(content) == 1 and not content[0].strip():
                break  # an item that begins with a blank line has nothing below a second one
            text = False
            content.append("")
            row += 1
            continue
        if line.startswith(" " * width):
            inside = line[width:]
            text = not BLOCK.match(inside) or bool(item_of(inside))
            content.append(inside)
        elif text and not item_of(line) and not BLOCK.match(line) and not RULE.match(line):
            content.append(line.strip(" ") + " " * (2 if line.endswith("  ") else 0))
        else:
            break
        row += 1
        end = row
    return content[: len(content) - (row - end)], end


def _is_loose(content: list[str]) -> bool:
    """Return whether a blank line parts two blocks of an item, and not of something in it."""
    inner, last = 0, content[0]
    if mark := item_of(last):
        inner = _width(mark)
    for above, line in pairwise(content):
        if not line.strip():
            continue
        mark = item_of(line)
        within = inner and (line.startswith(" " * inner) or mark)
        code = line.startswith("    ") and (last.startswith("    ") or _OPENED.match(last))
        if not above.strip() and last.strip() and not within and not code:
            return True
        if not line.startswith(" " * inner) or not inner:
            if mark:
                inner = _width(mark)
            elif not above.strip() or BLOCK.match(line):
                inner = 0
        last = line if not code or not _OPENED.match(last) else last
    return False


def _leveled(content: list[str]) -> list[str]:
    """Return an item's lines without the one to three blanks that are left before a block: they mean nothing."""
    leveled, extra, blank = [], 0, False
    for line in content:
        indent = len(line) - len(line.lstrip(" "))
        if line.strip():
            if indent < extra or (blank and indent < 4 and not extra):
                extra = indent if indent < 4 else 0
            blank = False
        else:
            blank = True
        leveled.append(line[min(extra, indent) :])
    return leveled


def _tighten(item: etree.Element) -> None:
    """Take the paragraphs of an item for its text."""
    last = None
    for child in list(item):
        if child.tag == "p" and not len(child):
            text = (child.text or "").strip()
            if last is None:
                item.text = "\n".join(filter(None, [(item.text or "").strip(), text]))
            else:
                last.tail = "\n".join(filter(None, [(last.tail or "").strip(), text]))
            item.remove(child)
        else:
            last = child
