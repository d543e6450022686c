"""A piece of a Markdown source, and a source on its way through the passes of the scanner (see markdown.py)."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass, field

PREFIX = re.compile(r"[ >]*")
_NEW_BLOCK = re.compile(r"[-*+][ ]|\d+[.)][ ]|#{1,6}[^#]|(?:!!!|\?\?\?\+?|===)[ ]|\[\^?[^\]]+\]:|:[ ]+|\|")
_TABLE_RULE = re.compile(r"(?=.*-)[\s|:-]*\|[\s|:-]*$")


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a source: ``source[start:end]``. Lines and columns count from 1."""

    kind: str
    source: str = field(repr=False)
    start: int
    end: int
    line: int
    column: int
    parts: dict[str, tuple[int, int]]
    """Start and end of each part in the source."""

    def __getitem__(self, part: str) -> str:
        start, end = self.parts.get(part, (0, 0))
        return self.source[start:end]

    @property
    def written(self) -> str:
        return self.source[self.start : self.end]

    @property
    def level(self) -> int:
        """The level of a heading, from 1 to 6."""
        marks = self["marks"]
        return len(marks) if marks[0] == "#" else 1 + (marks[0] == "-")

    @property
    def code(self) -> str:
        """The lines in a fence, without the indentation or quotation marks that the fence itself has."""
        return re.sub(rf"^[> ]{{0,{self.column - 1}}}", "", self["body"], flags=re.MULTILINE)

    @property
    def words(self) -> str:
        """The text of a task, on one line."""
        return " ".join(" ".join(line.strip(" >") for line in self["text"].splitlines()).split())


def blanked(text: str, spans: Collection[tuple[int, int]], blank: str = " ") -> str:
    """Return the text with blanks in place of these spans; every line and column stays."""
    done, pieces = 0, []
    for start, end in sorted(spans):
        if end > done:
            start = max(start, done)
            pieces += [text[done:start], "\n".join(blank * len(line) for line in text[start:end].split("\n"))]
            done = end
    return "".join([*pieces, text[done:]])


def same_length(text: str) -> str:
    """Return the text with ``\\n`` at the end of every line and each character in its place."""
    return text.replace("\r\n", " \n").replace("\r", "\n") if "\r" in text else text


class Text:
    """A source while it is scanned. Each pass adds its tokens and hides them from the passes after it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.seen = same_length(source)
        """The source without what is hidden: blanks stand for it if it may separate paragraphs, else \\0."""
        self.starts = [0, *(match.end() for match in re.finditer("\n", self.seen))]
        """The offset of each line."""
        self.tokens: list[Token] = []
        self.definitions: set[str] = set()
        """The ids of all definitions of links."""

    def add(self, kind: str, start: int, end: int, **parts: tuple[int, int]) -> None:
        line = bisect_right(self.starts, start)
        self.tokens.append(Token(kind, self.source, start, end, line, start - self.starts[line - 1] + 1, parts))

    def hide(self, spans: Collection[tuple[int, int]], character: str = "\0") -> None:
        self.seen = blanked(self.seen, spans, character)

    def trimmed(self, start: int, end: int) -> tuple[int, int]:
        piece = self.seen[start:end]
        return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())

    def id(self, start: int, end: int) -> str:
        """Return the id of a definition as it is compared."""
        return " ".join(self.source[start:end].lower().split())

    # -- paragraphs

    def measure(self) -> None:
        """Measure how deep each line is quoted, and whether it ends a paragraph or begins another block."""
        self.depths: list[int] = []
        self.ends: list[bool] = []
        self.begins: list[bool] = []
        self.in_table: list[bool] = []
        in_table = after_heading = False
        for line in self.seen.split("\n"):
            prefix = PREFIX.match(line)[0]  # type: ignore[index]  # always matches
            body = line[len(prefix) :]
            blank = not body.strip()
            in_table = not blank and (in_table or bool("|" in body and _TABLE_RULE.match(body)))
            self.depths.append(prefix.count(">"))
            self.ends.append(blank or after_heading)
            self.begins.append(in_table or bool(_NEW_BLOCK.match(body)))
            self.in_table.append(in_table)
            after_heading = body.startswith("#")

    def extent(self, position: int, inline: bool = True) -> int:
        """Return the offset up to which a formula or code span that begins at ``position`` may run."""
        line = bisect_right(self.starts, position)
        depth = self.depths[line - 1]
        inline = inline or self.in_table[line - 1]
        while line < len(self.ends):
            deeper = self.depths[line] - depth  # in display math, "> 0" may begin a line
            goes_on = deeper == 0 and not self.ends[line] and not (inline and self.begins[line])
            if not goes_on and (inline or deeper <= 0):
                break
            line += 1
        return self.starts[line] - 1 if line < len(self.ends) else len(self.seen)
