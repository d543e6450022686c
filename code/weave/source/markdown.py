"""Markdown's source as text: what of it is code, and where its links stand."""

from __future__ import annotations

import re
from collections.abc import Iterator

_FENCE = re.compile(r"^[\s>]*(?:[-*+]\s+|\d+[.)]\s+)?(`{3,}|~{3,})(.*)$")
_IN_PARAGRAPH = r"(?:(?!\n[ >]*\n)[\s\S])*?"
_NO_PROSE = re.compile(rf"\\[!-/:-@\[-`{{}}~]|<!--[\s\S]*?-->|(?<!`)(`+)(?!`){_IN_PARAGRAPH}(?<!`)\1(?!`)")
WIKI = r"\[\[(?P<inside>[^\[\]\n]*)\]\](?![(\[])"
_WIKI = re.compile(
    r"\[\[(?=[^|\]]*[^\s#|\]])(?!\^)(?P<target>[^\[\]|\n]+?)(?:\\?\|(?P<words>[^\[\]\n]+))?\]\](?![(\[])"
)
_DESTINATION = re.compile(
    r"\]\(\s*<?(?P<inline>[^\s<>()]+)|^(?:[ >]*)\[(?!\^)[^\]\n]+\]:[ \t]*<?(?P<defined>[^\s<>]+)", re.MULTILINE
)
_TASK = re.compile(r"[\s>]*(?:[-*+]|\d+[.)])\s+\[ \]\s+(?P<text>\S.*)")
_ITEM = re.compile(r"[\s>]*(?:[-*+]|\d+[.)])\s")


def outside_fences(lines: list[str]) -> Iterator[tuple[str, int | None]]:
    """Each line with its number, or with None where it belongs to fenced code."""
    fence = ""
    for number, line in enumerate(lines, start=1):
        match = _FENCE.match(line)
        if fence:
            if match and match[1][0] == fence[0] and len(match[1]) >= len(fence) and not match[2].strip():
                fence = ""
            yield line, None
        elif match and "`" not in match[2]:
            fence = match[1]
            yield line, None
        else:
            yield line, number


def prose(text: str) -> str:
    """The text with blanks in the place of code, comments and what is escaped; every line and column stays."""
    lines = outside_fences(text.split("\n"))
    outside = "\n".join(line if number else " " * len(line) for line, number in lines)
    return _NO_PROSE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), outside)


def wiki_links(text: str) -> Iterator[re.Match[str]]:
    """Every ``[[target|words]]`` of a source."""
    return _WIKI.finditer(prose(text))


def destinations(text: str) -> Iterator[tuple[int, int]]:
    """From where to where in a source the address of each ordinary link, image and definition stands."""
    for match in _DESTINATION.finditer(prose(text)):
        yield match.span(match.lastgroup or 0)


def open_tasks(text: str) -> Iterator[tuple[int, str]]:
    """Every ``- [ ]`` of a source: its line, and what is to be done."""
    lines = prose(text).split("\n")
    source = text.split("\n")
    for i, line in enumerate(lines):
        if match := _TASK.match(line):
            said = [source[i][match.start("text") :]]
            for more in range(i + 1, len(lines)):
                if not lines[more].strip(" >") or lines[more][0] not in " >" or _ITEM.match(lines[more]):
                    break
                said.append(source[more].strip(" >"))
            yield i + 1, " ".join(" ".join(said).split())
