r"""Formulas in notes: ``$x$``, ``$$x$$`` and markdown-katex's ``$`x`$`` and ```` ```math ````, rendered while the
site is built.

A formula takes three steps. The preprocessor finds it in the text and puts a marker in its place, so that no other
syntax touches the TeX. Where Markdown then meets the marker in running text, it becomes ``<tex-math>TeX</tex-math>``,
checked by KaTeX; where it meets it in code, a comment or an attribute, the text comes back as it was written. Search,
table of contents and titles thus see TeX as text, never markup. Last, `render_html` turns the finished page's
``<tex-math>`` into KaTeX's HTML with MathML.
"""

from __future__ import annotations

import difflib
import html
import json
import re
import xml.etree.ElementTree as etree
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from markdown import Markdown
from markdown.blockprocessors import BlockProcessor
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.postprocessors import Postprocessor
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor
from markdown.util import ETX, STX, AtomicString, code_escape
from markdown_katex.extension import KatexExtension, KatexPreprocessor

from weave.note import katex
from weave.note.katex import TexError, copy_katex, engine, render_tex
from weave.note.page import current_page, unmark

__all__ = ["MathExtension", "TexError", "copy_katex", "engine", "render_html", "render_tex"]

# --- finding formulas -----------------------------------------------------------------------------------------------

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


class MathPreprocessor(KatexPreprocessor):
    """Puts a marker in the place of each formula."""

    ext: MathExtension

    def _iter_out_lines(self, lines: list[str]) -> list[str]:
        self.numbers = _numbers(self.ext.source, lines)
        self.text = "\n".join(lines)
        self._measure(lines)
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
            if any(one.label == label for one in self.ext.formulas):
                problem = rf"two equations are called \label{{{label}}}; rename one"
            number = 1 + sum(bool(one.label) for one in self.ext.formulas)
            stripped = _LABEL.sub("", stripped).strip() + rf" \tag{{{number}}}"
        column = start - self.starts[bisect_right(self.starts, start) - 1]
        line = self.numbers[min(line, len(self.numbers)) - 1]
        self.ext.formulas.append(Formula(self.text[start:end], column, stripped, line, classes, problem, label))
        return f"{STX}math:{len(self.ext.formulas) - 1}{ETX}"


class KeepSource(Preprocessor):
    """Keeps the lines as they are in the file, before snippets are included."""

    ext: MathExtension

    def run(self, lines: list[str]) -> list[str]:
        self.ext.source = lines
        return lines


def _numbers(source: list[str], lines: list[str]) -> list[int]:
    """For each line its number in the source; an included one has the number of the line that includes it."""
    if len(lines) == len(source) + 2:  # only white space was normalized
        return list(range(1, len(lines) + 1))
    matcher = difflib.SequenceMatcher(None, source, lines, autojunk=False)
    return [
        1 + min(i + k, max(i, i_end - 1)) for _, i, i_end, j, j_end in matcher.get_opcodes() for k in range(j_end - j)
    ]


# --- from marker to element -----------------------------------------------------------------------------------------

_MARKER = re.compile(f"{STX}math:([0-9]+){ETX}")


def _element(formula: Formula) -> etree.Element:
    """``<tex-math>``, or what is wrong with the formula."""
    problem, line = formula.problem, formula.line
    if not problem:
        try:
            render_tex(formula.tex, **_options(formula.classes))
        except TexError as error:
            problem, line = str(error), line + error.line
    if problem:
        element = etree.Element("span", {"class": "weave-error"})
        element.text = AtomicString(str(current_page().report(line, problem)))
    else:
        element = etree.Element("tex-math", {"class": " ".join(formula.classes)} if formula.classes else {})
        if formula.label:
            element.set("id", f"eq-{formula.label}")
        element.text = AtomicString(formula.tex.replace("&", "&amp;"))  # the serializer takes &lt; for an entity
    return element


def _options(classes: tuple[str, ...] | list[str]) -> dict[str, bool]:
    return {"display": "display" in classes} | {name: True for name in ("leqno", "fleqn") if name in classes}


class MathInline(InlineProcessor):
    ext: MathExtension

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[etree.Element, int, int]:  # type: ignore[override]
        element = _element(self.ext.formulas[int(m[1])])
        if element.tag == "tex-math" and element.get("class"):
            element.set("class", element.get("class", "") + " inline")
        return element, m.start(0), m.end(0)


class MathBlock(BlockProcessor):
    """Display math that has a line for itself is a block, whatever stands before and after it."""

    ext: MathExtension

    def _formula(self, line: str) -> Formula | None:
        match = _MARKER.fullmatch(line.strip())
        formula = self.ext.formulas[int(match[1])] if match else None
        return formula if formula and "display" in formula.classes else None

    def test(self, parent: etree.Element, block: str) -> bool:
        return STX in block and any(self._formula(line) for line in block.split("\n"))

    def run(self, parent: etree.Element, blocks: list[str]) -> None:
        lines = blocks.pop(0).split("\n")
        at, formula = next((k, formula) for k, line in enumerate(lines) if (formula := self._formula(line)))
        if at:
            self.parser.parseBlocks(parent, ["\n".join(lines[:at])])
        if parent.text and not len(parent):  # a list item's text; search must see where it ends
            parent.text += "\n"
        element = _element(formula)
        element.tail = "\n"
        if element.tag != "tex-math":
            parent = etree.SubElement(parent, "p")
            parent.text = ""
        parent.append(element)
        if lines[at + 1 :]:
            blocks.insert(0, "\n".join(lines[at + 1 :]))


class MathInCode(Treeprocessor):
    """Puts back what stands in an indented code block, before anybody highlights it."""

    ext: MathExtension

    def run(self, root: etree.Element) -> None:
        for code in root.iter("code"):
            if STX in (code.text or ""):
                text = _restore(html.unescape(code.text or ""), self.ext.formulas, str)
                code.text = AtomicString(code_escape(text))


class MathElsewhere(Postprocessor):
    """Puts back what stands in raw HTML (as it is) and in attributes (escaped)."""

    ext: MathExtension

    def run(self, text: str) -> str:
        stash = self.md.htmlStash.rawHtmlBlocks
        for number, raw in enumerate(stash):
            if isinstance(raw, str) and STX in raw:
                stash[number] = _restore(raw, self.ext.formulas, str)
        return _restore(text, self.ext.formulas, html.escape)


def _restore(text: str, formulas: list[Formula], escape: Callable[[str], str]) -> str:
    def source(marker: re.Match[str]) -> str:
        formula = formulas[int(marker[1])]
        column = marker.start() - (text.rfind("\n", 0, marker.start()) + 1)
        container = max(formula.column - column, 0)  # indentation that the first line has lost since
        first, *more = formula.source.split("\n")
        return escape("\n".join([first, *(line[container:] for line in more)]))

    return _MARKER.sub(source, text)


def as_written(text: str, md: Markdown) -> str:
    """A piece of text that Markdown is at work on, with its formulas as they are in the source."""
    formulas = next((one.formulas for one in md.registeredExtensions if isinstance(one, MathExtension)), [])
    return _restore(text, formulas, str)


class MathExtension(KatexExtension):
    """``weave.math`` under markdown_extensions in mkdocs.yml; option ``macros``: {"\\R": "\\mathbb{R}"}."""

    def __init__(self, **kwargs: Any):
        self.config = {"macros": [{}, "TeX macros: name with its backslash, and what it stands for"]}
        Extension.__init__(self, **kwargs)  # KatexExtension's own would look for its slow engine
        self.macros = {str(name): str(body) for name, body in (self.getConfig("macros") or {}).items()}
        if wrong := [name for name in self.macros if not name.startswith("\\")]:
            raise ValueError(f"weave.math: macros: {wrong[0]} needs a backslash; write '\\{wrong[0]}'")
        self.formulas: list[Formula] = []
        self.source: list[str] = []

    def reset(self) -> None:
        self.formulas.clear()

    def extendMarkdown(self, md: Markdown) -> None:
        katex.macros = self.macros
        md.registerExtension(self)
        md.ESCAPED_CHARS = [*md.ESCAPED_CHARS, "$"]
        for registry, step, priority in (
            (md.preprocessors, KeepSource(md), 33),  # before snippets (32)
            (md.preprocessors, MathPreprocessor(md, self), 29),  # after white space (30), before fences (25)
            (md.parser.blockprocessors, MathBlock(md.parser), 12),  # before paragraphs (10)
            (md.treeprocessors, MathInCode(md), 100),
            (md.inlinePatterns, MathInline(_MARKER.pattern, md), 85),  # after HTML tags (90)
            (md.postprocessors, MathElsewhere(md), 35),  # before raw HTML (30)
        ):
            step.ext = self
            registry.register(step, type(step).__name__, priority)


def makeExtension(**kwargs: Any) -> MathExtension:
    return MathExtension(**kwargs)


# --- the finished page ----------------------------------------------------------------------------------------------

_PLACEHOLDER = re.compile(r'<tex-math(?: class="([^"]*)")?(?: id="([^"]*)")?>(.*?)</tex-math>([.,;:!?)]*)', re.DOTALL)
_SHORT = 40  # characters of TeX that fit a phone's line


def render_html(page: str) -> str:
    """The finished page with KaTeX's HTML in the place of each ``<tex-math>``."""

    def formula(placeholder: re.Match[str]) -> str:
        classes = (placeholder[1] or "").split()
        rendered = render_tex(html.unescape(placeholder[3]), **_options(classes))
        if "display" not in classes:
            if placeholder[4] and len(placeholder[3]) <= _SHORT:  # or a line might begin with a full stop
                return f'<span class="math-kept">{rendered}{placeholder[4]}</span>'
            return rendered + placeholder[4]
        if "inline" in classes:  # in a paragraph, link or cell, where no <div> may stand
            return f'<span class="math-display">{rendered}</span>{placeholder[4]}'
        # a wide formula scrolls, also by keyboard
        name = f' id="{placeholder[2]}"' if placeholder[2] else ""
        opened = f'<div class="math-display"{name} role="group" aria-label="formula" tabindex="0">'
        return f"{opened}{rendered}</div>{placeholder[4]}"

    return _PLACEHOLDER.sub(formula, page)
