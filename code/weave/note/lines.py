"""Line numbers that travel through Markdown's parser with a text's links and citations.

Python-Markdown forgets where an element came from. So before it begins, each place that may have to be reported gets
its line number as five characters that no text holds: the noncharacters U+FDD0 to U+FDDF, one for each hexadecimal
digit. They are taken out of the finished HTML, and an author's own are reported and deleted first.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from itertools import chain, pairwise

from markdown import Markdown
from markdown.postprocessors import Postprocessor
from markdown.preprocessors import Preprocessor
from markdown.util import AMP_SUBSTITUTE, ETX, HTML_PLACEHOLDER_RE, STX

from weave.note.page import Page
from weave.source.markdown import tokens

_ZERO, _WIDTH = 0xFDD0, 5
_DIGIT = f"[{chr(_ZERO)}-{chr(_ZERO + 15)}]"
MARK = f"{_DIGIT}{{{_WIDTH}}}"
"""Pattern of a line number."""
_MARK = re.compile(MARK)
_CHARACTER = re.compile(f"{STX}([0-9]+){ETX}")
_STRAY = re.compile(_DIGIT)
_ERROR_SPAN = re.compile(f'<span class="err">({_DIGIT}*)</span>')  # Pygments does not know them either


def mark(line: int) -> str:
    """Return a line number as invisible characters."""
    return "".join(chr(_ZERO + int(digit, 16)) for digit in f"{line:0{_WIDTH}x}")


def unmark(text: str) -> str:
    """Return the text without line numbers."""
    return _STRAY.sub("", text)


def marked_line(text: str) -> int | None:
    """Return the first line number in a text."""
    match = _MARK.search(text)
    return int("".join(f"{ord(digit) - _ZERO:x}" for digit in match[0]), 16) if match else None


def as_read(text: str, md: Markdown) -> str:
    """Return a text that Markdown is at work on as a reader will see it: without line numbers and placeholders."""

    def stashed(match: re.Match[str]) -> str:
        block = md.htmlStash.rawHtmlBlocks[int(match[1])]
        words = block if isinstance(block, str) else "".join(block.itertext())
        return html.unescape(re.sub(r"<[^>]*>", "", words))

    text = HTML_PLACEHOLDER_RE.sub(stashed, unmark(text)).replace(AMP_SUBSTITUTE, "&")
    return _CHARACTER.sub(lambda character: chr(int(character[1])), text)


class MarkLines(Preprocessor):
    """Puts its line number behind each place that matches a pattern, outside of code.

    As the first preprocessor it also asks ``begin`` for the page of the text, for all that follow (`page_of`).
    """

    def __init__(self, md: Markdown, places: re.Pattern[str], begin: Callable[[str], Page]) -> None:
        super().__init__(md)
        self.places, self.begin = places, begin

    def run(self, lines: list[str]) -> list[str]:
        self.page = self.md.weave_page = self.begin("\n".join(lines))  # type: ignore[attr-defined]
        for number, line in enumerate(lines, start=1):
            if stray := _STRAY.search(line):
                self.page.report(number, f"U+{ord(stray[0]):04X} stands for no character in any text; delete it")
        self.lines = [unmark(line) for line in lines]
        text = "\n".join(self.lines)
        self.definitions = {token.line for token in tokens(text, "definition")}
        hidden = [(token.start, token.end) for token in tokens(text, "fence", "code")]
        places = [match.end() for match in self.places.finditer(text)]
        shown = [at for at in places if not any(start < at < end for start, end in hidden)]
        pieces = [text[start:end] for start, end in pairwise([0, *shown, len(text)])]
        marks = [mark(text.count("\n", 0, at) + 1) for at in shown]
        return "".join(chain.from_iterable(zip(pieces, [*marks, ""], strict=True))).split("\n")

    def as_read(self, text: str) -> str:
        """Return a text as a reader will see it."""
        return as_read(text, self.md)

    def is_defined(self, url: str) -> bool:
        """Return whether a destination comes from a definition ``[id]: url`` below the text."""
        return self.line_of(url) in self.definitions

    def line_of(self, url: str) -> int:
        """Return the line of a destination; of one without a mark (defined inside a quotation), its first line."""
        lines = (number for number, line in enumerate(self.lines, start=1) if unmark(url) in line)
        return marked_line(url) or next(lines, 1)


class Unmark(Postprocessor):
    """Deletes line numbers that ended up in text, as in a link shown as code."""

    def run(self, text: str) -> str:
        return unmark(_ERROR_SPAN.sub("", text))
