"""The scanner's first pass: front matter and fences, which no other syntax looks into."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from weave.source.tokens import PREFIX, Text, same_length

FRONT = re.compile(r"-{3}[ \t]*\n(?P<yaml>.*?\n)(?:\.{3}|-{3})[ \t]*\n", re.DOTALL)
"""Front matter, exactly as MkDocs finds it."""
_FENCE = re.compile(
    r"(?P<prefix>[> \t]*(?:(?:[-*+]|\d+[.)])[ ]+)?)(?P<fence>`{3,}|~{3,})"
    r"(?P<info>(?:[ \t]*\.?[\w#.+-]+(?=[ \t]|$))?"
    r"(?:[ \t]*\{.*\}|(?:[ \t]*(?:hl_lines|linenums|title)=(?:\"[^\"]*\"|'[^']*'))*))[ \t]*$"
)
MATH_FENCE = re.compile(
    r"(?P<prefix>[ >]*(?:(?:[-*+]|\d+[.)])[ ]+)?)(?P<fence>`{3,}|~{3,})(?P<info>[ ]*math(?!\w)[^`]*)$"
)


def front_matter(source: str) -> re.Match[str] | None:
    """Find the front matter of a source, whatever ends its lines; with a byte order mark, too."""
    return FRONT.match(same_length(source) + "\n", source.startswith("\ufeff"))


def read(text: Text) -> None:
    """Read front matter and fences, formulas in fences among them."""
    spans = []
    lines = text.seen.split("\n")
    first = 0
    if front := front_matter(text.source):
        end = min(front.end(), len(text.seen))
        text.add("front", front.start(), end, yaml=front.span("yaml"))
        spans.append((0, end))
        first = bisect_right(text.starts, end) - 1
    for fence in fences(lines[first:]):
        row, last, opening = fence.first + first, fence.last + first, fence.opening
        begin, body, close = text.starts[row], text.starts[row] + len(lines[row]) + 1, text.starts[last]
        start, end = begin + opening.start("fence"), close + len(lines[last].rstrip())
        info = text.trimmed(begin + opening.start("info"), begin + opening.end("info"))
        if opening.re is MATH_FENCE:
            tex = {"tex": (body, close)} if last > row else {}
            text.add("math", start, end, info=info, **tex)
        else:
            text.add("fence", start, end, info=info, body=(body, close))
        spans.append((start, end))
    text.hide(spans, " ")


@dataclass(frozen=True)
class Fence:
    """The rows that a fence takes, counted from 0."""

    first: int
    last: int
    """The closing line; the opening line if nothing closes a formula."""
    opening: re.Match[str]


def fences(lines: list[str]) -> Iterator[Fence]:
    """Yield every fence, and the beginnings of formulas that nothing closes."""
    row = unclosed = 0  # up to this row, superfences takes a fence that nothing closes for code
    while row < len(lines):
        line = lines[row].rstrip("\r")
        opening, closed, after = None, False, row + 1
        if "```" in line or "~~~" in line:
            if opening := MATH_FENCE.match(line):
                closed, after = _end_of_math(lines, row, opening)
            elif row >= unclosed and (opening := _FENCE.match(line)):
                closed, after = _end_of_fence(lines, row, opening)
        if opening and (closed or opening.re is MATH_FENCE):
            yield Fence(row, after - 1, opening)
        elif opening:
            unclosed, after = after, row + 1
        row = after


def _end_of_math(lines: list[str], row: int, opening: re.Match[str]) -> tuple[bool, int]:
    """Return whether a formula's fence closes, and the row where scanning goes on."""
    for end in range(row + 1, len(lines)):
        prefix = PREFIX.match(lines[end])[0]  # type: ignore[index]  # always matches
        if prefix.count(">") < opening["prefix"].count(">"):
            break
        if lines[end][len(prefix) :].rstrip() == opening["fence"]:
            return True, end + 1
    return False, row + 1


def _end_of_fence(lines: list[str], row: int, opening: re.Match[str]) -> tuple[bool, int]:
    """Return whether a fence closes, and the row where scanning goes on, as pymdownx.superfences has it."""
    if opening["prefix"].strip("> \t"):  # behind the mark of a list item; there, superfences sees inline code
        return _end_of_math(lines, row, opening)
    width, depth, blank_above = len(opening["prefix"]), opening["prefix"].count(">"), False
    for end in range(row + 1, len(lines)):
        line = lines[end].rstrip("\r")
        prefix = re.match(rf"[> \t]{{0,{width}}}", line)[0]  # type: ignore[index]  # always matches
        content, deep = line[len(prefix) :], prefix.count(">")
        if not (content if depth else line.strip()):
            blank_above = True
            continue
        if deep > depth or len(prefix) < width or (blank_above and deep < depth):
            return False, end + 1
        blank_above = False
        if content.rstrip(" \t") == opening["fence"]:
            return True, end + 1
    return False, len(lines)
