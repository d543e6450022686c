r"""Finding formulas in Markdown: ``$x$``, ``$$x$$``, markdown-katex's ``$`x`$`` and ```` ```math ````.

A dollar is only TeX where Pandoc's rules, made a little stricter, say so; code, comments, HTML tags and addresses are
left alone.
"""

from __future__ import annotations

import difflib
import json
import re
from bisect import bisect_right
from dataclasses import dataclass

from markdown.util import ETX, STX

from weave.note.lines import unmark

MARKER = re.compile(f"{STX}math:([0-9]+){ETX}")
"""A formula's place in the text, with its index."""

_TOKEN = re.compile(
    r"""
    ^(?P<prefix>[ >]*(?:(?:[-*+]|\d+[.)])[ ]+)?)(?P<fence>`{3,}|~{3,})(?P<info>[^`\n]*)$
  | (?P<skip>
        \\[\s\S]                                                              # an escaped character
      | <!--[\s\S]*?-->
      | </?[A-Za-z][\w:-]*(?:\s+[\w:@.-]+(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'=<>`]+))?)*\s*/?>
      | <[A-Za-z][A-Za-z0-9+.-]*:[^\s<>]*> | \bhttps?://[^\s<>\])]+           # addresses
      | \]\([ ]*(?:<[^<>\n]*>|(?:\\.|[^()\s\\]|\([^()\s]*\))*)                # where a link leads
      | ^[ >]*\[[^\]^\n][^\]\n]*\]:[ ]*\S+                                    # definition of a link
    )
  | (?P<ticks>`+)
  | (?P<dollars>\$`{1,2}(?!`)|\$+)
    """,
    re.MULTILINE | re.VERBOSE,
)
_CLOSING_DISPLAY = re.compile(r"((?:\\[\s\S]|[^\\])*?)\$\$")
_QUOTE = re.compile(r"[ >]*")
_FENCE_LINE = re.compile(r"(?:`{3,}[^`]*|~{3,}.*)$")
_NEW_BLOCK = re.compile(r"[-*+][ ]|\d+[.)][ ]|#{1,6}[^#]|(?:!!!|\?\?\?\+?|===)[ ]|\[\^?[^\]]+\]:|:[ ]+|\|")
_TABLE_RULE = re.compile(r"(?=.*-)[\s|:-]*\|[\s|:-]*$")
# What looks like a formula between two dollars and is none: ${HOME}:$ and "$5 and 10$"
_NOT_TEX = re.compile(r"\{\w{2,}\}|\d[\d.,]*\s+(?:[A-Za-z]{2,}|\|)")
_PIECE = re.compile(r"\\[\s\S]|[`{}$]")
_NO_CLOSER = re.compile(r"(?!(?:st|nd|rd|th|s)\b)\w|\$")  # $HOME:$PATH is no formula, the $k$th is
_LABEL = re.compile(r"\\label\{([a-z0-9-]+)\}")
_OPTIONS = ("display-mode", "leqno", "fleqn")


@dataclass(frozen=True)
class Formula:
    source: str
    """As written, to be put back where it stands in code."""
    column: int
    """Where ``source`` begins in its line."""
    tex: str
    line: int
    """Line of the TeX in the Markdown text, counted from 1."""
    classes: tuple[str, ...] = ()
    problem: str = ""
    label: str = ""
    r"""What ``\label{…}`` calls it; it is numbered then, and ``#eq-label`` leads to it."""


class Finder:
    """Finds the formulas of a text and puts a marker in the place of each.

    Args:
        lines: The text.
        numbers: The line in the file of each.
    """

    def __init__(self, lines: list[str], numbers: list[int]) -> None:
        self.text, self.numbers = "\n".join(lines), numbers
        self.formulas: list[Formula] = []
        self._measure(lines)

    def replace(self) -> list[str]:
        """Return the lines with markers; the formulas are in ``self.formulas`` afterwards."""
        done, position, out = 0, 0, []
        while token := _TOKEN.search(self.text, position):
            start, end, marker = self._read(token)
            if marker:
                out += [self.text[done:start], marker]
                done = end
            position = max(end, token.start() + 1)
        return ("".join(out) + self.text[done:]).split("\n")

    def _measure(self, lines: list[str]) -> None:
        """Where each line starts, how deep it is quoted, and whether it ends a paragraph or begins another block."""
        self.starts: list[int] = []
        self.depths: list[int] = []
        self.ends: list[bool] = []
        self.begins: list[bool] = []
        self.in_table: list[bool] = []
        offset, in_table, after_heading = 0, False, False
        for line in [*lines, ""]:
            prefix = _QUOTE.match(line)[0]  # type: ignore[index]  # matches always
            body = line[len(prefix) :]
            ends = not body or bool(_FENCE_LINE.match(body))
            in_table = not ends and (in_table or bool(_TABLE_RULE.match(body)))
            self.starts.append(offset)
            self.depths.append(prefix.count(">"))
            self.ends.append(ends or after_heading)
            self.begins.append(in_table or bool(_NEW_BLOCK.match(body)))
            self.in_table.append(in_table)
            after_heading = body.startswith("#")
            offset += len(line) + 1

    def _extent(self, position: int, inline: bool = True) -> int:
        """Offset up to which a formula or code span that begins at ``position`` may run."""
        line = bisect_right(self.starts, position)
        depth = self.depths[line - 1]
        inline = inline or self.in_table[line - 1]
        while line < len(self.ends):
            deeper = self.depths[line] - depth  # in display math, "> 0" may begin a line
            goes_on = deeper == 0 and not self.ends[line] and not (inline and self.begins[line])
            if not goes_on and (inline or deeper <= 0):
                break
            line += 1
        return self.starts[line] - 1 if line < len(self.ends) else len(self.text)

    def _read(self, token: re.Match[str]) -> tuple[int, int, str]:
        """Start and end in the text, and what to put there ("" to leave it)."""
        text, start, end = self.text, token.start(), token.end()
        if token["fence"]:
            return self._read_fence(token)
        if token["ticks"]:
            run = re.compile(rf"(?<!`){token['ticks']}(?!`)")
            closing = run.search(text, end, self._extent(start))
            return start, closing.end() if closing else end, ""
        if not token["dollars"]:
            return start, end, ""
        delimiter, after_word = token["dollars"], text[start - 1 : start].isalnum()
        if delimiter == "$":
            close = -1 if after_word else self._closing_dollar(end)
            if close < 0:
                return start, end, ""
        elif delimiter == "$$":
            match = _CLOSING_DISPLAY.match(text, end, self._extent(start, inline=False))
            close = match.end(1) if match else -1
        elif "`" in delimiter:
            close = text.find(delimiter[1:] + "$", end, self._extent(start))
            if close < 0 and after_word:  # 5$`code`
                return start, start + 1, ""
        else:
            return start, end, ""  # $$$ is no delimiter
        classes = ("display",) if delimiter == "$$" else ()
        if close < 0:
            problem = f"unclosed math: no {delimiter[::-1]} closes this {delimiter} before its paragraph ends; close it"
            return start, end, self._mark(start, end, end, end, classes, problem + r", or write \$ for a dollar")
        return start, close + len(delimiter), self._mark(start, close + len(delimiter), end, close, classes)

    def _closing_dollar(self, begin: int) -> int:
        """Pandoc's rules, stricter: where TeX that begins here ends, or -1."""
        text, stop = self.text, self._extent(begin - 1)
        if begin >= stop or text[begin].isspace() or _NOT_TEX.match(text, begin, stop):
            return -1
        depth, close = 0, -1
        for piece in _PIECE.finditer(text, begin, stop):
            depth += {"{": 1, "}": -1}.get(piece[0], 0)
            if piece[0] == "`":  # code binds tighter
                break
            if piece[0] == "$" and (depth <= 0 or close < 0):  # deeper ones stand in \text{…}, if braces balance at all
                close = piece.start()
                if depth <= 0:
                    break
        if close < 0 or _NO_CLOSER.match(text, close + 1):
            return -1
        return -1 if text[close - 1].isspace() and text[close - 2] != "\\" else close

    def _read_fence(self, token: re.Match[str]) -> tuple[int, int, str]:
        start, prefix, fence = token.start("fence"), token["prefix"], token["fence"]
        is_math = re.match(r"[ ]*math(?!\w)", token["info"])
        depth, close = prefix.count(">"), None
        for line in re.compile(r"^([ >]*)(.*)$", re.MULTILINE).finditer(self.text, token.end() + 1):
            if line[1].count(">") < depth:
                break
            same_indent = len(line[1]) == len(prefix) or bool(prefix.strip())
            if line[2].rstrip() == fence and (is_math or same_indent):
                close = line
                break
        if not is_math:
            return start, close.end() if close else token.end(), ""
        if not close:
            problem = f"unclosed math: no {fence} closes this {fence}math; close it on a line of its own"
            return start, token.end(), self._mark(start, token.end(), start, start, ("display",), problem)
        begin, options, problem = token.start("info") + is_math.end(), {"display-mode": True}, ""
        header = self.text[begin : token.end()].strip()
        if header.startswith("{"):
            begin = token.end()
            try:
                options |= {name: bool(value) for name, value in json.loads(header).items()}
            except (ValueError, AttributeError):
                problem = f'bad math options: {header} is no JSON; write them like {{"leqno": true}}, or leave them out'
            if unknown := [name for name in options if name not in _OPTIONS]:
                problem = f"bad math options: KaTeX has no {unknown[0]} here; use {', '.join(_OPTIONS)}"
        classes = tuple(name.replace("display-mode", "display") for name in _OPTIONS if options.get(name))
        if problem:
            begin = start
        return start, close.end(), self._mark(start, close.end(), begin, close.start(), classes, problem)

    def _mark(self, start: int, end: int, begin: int, close: int, classes: tuple[str, ...], problem: str = "") -> str:
        """Keep the formula ``text[start:end]`` with TeX ``text[begin:close]``; the marker to put there."""
        line = bisect_right(self.starts, begin)
        tex = re.sub(rf"\n(?:[ ]*>){{0,{self.depths[line - 1]}}}[ ]*", "\n", unmark(self.text[begin:close]))
        line += tex[: len(tex) - len(tex.lstrip())].count("\n")
        stripped = tex.strip()
        if stripped.endswith("\\") and tex[-1].isspace():
            stripped += " "  # "\ " is a space
        label = ""
        if (found := _LABEL.search(stripped)) and "display" in classes:
            label = found[1]
            if any(formula.label == label for formula in self.formulas):
                problem = rf"two equations are called \label{{{label}}}; rename one"
            number = 1 + sum(bool(formula.label) for formula in self.formulas)
            stripped = _LABEL.sub("", stripped).strip() + rf" \tag{{{number}}}"
        column = start - self.starts[bisect_right(self.starts, start) - 1]
        line = self.numbers[min(line, len(self.numbers)) - 1]
        self.formulas.append(Formula(self.text[start:end], column, stripped, line, classes, problem, label))
        return f"{STX}math:{len(self.formulas) - 1}{ETX}"


def line_numbers(source: list[str], lines: list[str]) -> list[int]:
    """Return each line's number in the source; an included line has the number of the line that includes it."""
    if len(lines) == len(source) + 2:  # only white space was normalized
        return list(range(1, len(lines) + 1))
    matcher = difflib.SequenceMatcher(None, source, lines, autojunk=False)
    return [
        1 + min(i + k, max(i, i_end - 1)) for _, i, i_end, j, j_end in matcher.get_opcodes() for k in range(j_end - j)
    ]
