r"""The formulas of a Markdown text: ``$x$``, ``$$x$$``, markdown-katex's ``$`x`$`` and ```` ```math ````.

The scanner (source/markdown.py) finds them; here each becomes a `Formula`, and a marker in its place.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass

from markdown.util import ETX, STX

from weave.note.lines import unmark
from weave.source.markdown import Token, tokens

MARKER = re.compile(f"{STX}math:([0-9]+){ETX}")
"""A formula's place in the text, with its index."""
_QUOTE = re.compile(r"[ >]*")
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
    r"""The name that ``\label{…}`` gives it; it is numbered then, and ``#eq-label`` leads to it."""


def replace(lines: list[str], numbers: list[int]) -> tuple[list[str], list[Formula]]:
    """Return the lines with a marker in the place of each formula, and the formulas.

    Args:
        lines: The text.
        numbers: The line in the file of each.
    """
    text = "\n" + "\n".join(lines)  # whose first line is never that of front matter
    formulas: list[Formula] = []
    done, out = 0, []
    for token in tokens(text, "math"):
        out += [text[done : token.start], f"{STX}math:{len(formulas)}{ETX}"]
        done = token.end
        formulas.append(_formula(token, text.split("\n"), numbers, formulas))
    return ("".join(out) + text[done:]).split("\n")[1:], formulas


def _formula(token: Token, lines: list[str], numbers: list[int], before: list[Formula]) -> Formula:
    problem = ""
    classes: tuple[str, ...] = ("display",) if token.written.startswith("$$") else ()
    begin, end = token.parts.get("tex", (token.end, token.end))
    if "info" in token.parts:
        classes, problem = _options(token["info"].removeprefix("math").strip())
        if "tex" not in token.parts:
            fence = token.written[: len(token.written) - len(token.written.lstrip("`~"))]
            problem = f"unclosed math: no {fence} closes this {fence}math; close it on a line of its own"
        begin -= 1  # the end of the line before, behind which marks of quotation are taken off
        if problem:
            begin = end = token.start
    elif "tex" not in token.parts:
        problem = f"unclosed math: no {token.written[::-1]} closes this {token.written} before its paragraph ends; "
        problem += r"close it, or write \$ for a dollar"
    row = token.source.count("\n", 0, begin)
    quote = _QUOTE.match(lines[row])[0]  # type: ignore[index]  # always matches
    tex = re.sub(rf"\n(?:[ ]*>){{0,{quote.count('>')}}}[ ]*", "\n", unmark(token.source[begin:end]))
    row += tex[: len(tex) - len(tex.lstrip())].count("\n")
    stripped = tex.strip()
    if stripped.endswith("\\") and tex[-1].isspace():
        stripped += " "  # "\ " is a space
    label = ""
    if (match := _LABEL.search(stripped)) and "display" in classes:
        label = match[1]
        if any(formula.label == label for formula in before):
            problem = rf"two equations are called \label{{{label}}}; rename one"
        number = 1 + sum(bool(formula.label) for formula in before)
        stripped = _LABEL.sub("", stripped).strip() + rf" \tag{{{number}}}"
    line = numbers[min(row, len(numbers)) - 1]
    return Formula(token.written, token.column - 1, stripped, line, classes, problem, label)


def _options(header: str) -> tuple[tuple[str, ...], str]:
    """Return the classes for markdown-katex's options after ```` ```math ````, and what is wrong with them."""
    options, problem = {"display-mode": True}, ""
    if header.startswith("{"):
        try:
            options |= {name: bool(value) for name, value in json.loads(header).items()}
        except (ValueError, AttributeError):
            problem = f'bad math options: {header} is not JSON; write them like {{"leqno": true}}, or leave them out'
        if unknown := [name for name in options if name not in _OPTIONS]:
            problem = f"bad math options: KaTeX has no {unknown[0]} here; use {', '.join(_OPTIONS)}"
    return tuple(name.replace("display-mode", "display") for name in _OPTIONS if options.get(name)), problem


def line_numbers(source: list[str], lines: list[str]) -> list[int]:
    """Return each line's number in the source; an included line has the number of the line that includes it."""
    if len(lines) == len(source) + 2:  # only white space was normalized
        return list(range(1, len(lines) + 1))
    matcher = difflib.SequenceMatcher(None, source, lines, autojunk=False)
    return [
        1 + min(i + k, max(i, i_end - 1)) for _, i, i_end, j, j_end in matcher.get_opcodes() for k in range(j_end - j)
    ]
