r"""Formulas in notes: ``$x$``, ``$$x$$`` and markdown-katex's ``$`x`$`` and ```` ```math ````, rendered while the
site is built.

A formula takes three steps. The preprocessor finds it in the text and puts a marker in its place, so that no other
syntax touches the TeX. Where Markdown then meets the marker in running text, it becomes ``<tex-math>TeX</tex-math>``,
checked by KaTeX; where it meets it in code, a comment or an attribute, the text comes back as it was written. Search,
table of contents and titles thus see TeX as text, never markup. Last, `render_html` turns the finished page's
``<tex-math>`` into KaTeX's HTML with MathML.
"""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as etree
from collections.abc import Callable, Mapping
from typing import Any

from markdown import Markdown
from markdown.blockprocessors import BlockProcessor
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.postprocessors import Postprocessor
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor
from markdown.util import STX, AtomicString, code_escape
from markdown_katex.extension import KatexExtension, KatexPreprocessor

from weave.note.formulas import MARKER, Formula, line_numbers, replace
from weave.note.katex import TexError, copy_katex, engine, render_tex
from weave.note.page import page_of

__all__ = ["MathExtension", "TexError", "copy_katex", "engine", "render_html", "render_tex"]


class MathPreprocessor(KatexPreprocessor):
    """Puts a marker in the place of each formula."""

    ext: MathExtension

    def _iter_out_lines(self, lines: list[str]) -> list[str]:
        lines, self.ext.formulas[:] = replace(lines, line_numbers(self.ext.source, lines))
        return lines


class KeepSource(Preprocessor):
    """Keeps the lines as they are in the file, before snippets are included."""

    ext: MathExtension

    def run(self, lines: list[str]) -> list[str]:
        self.ext.source = lines
        return lines


# --- from marker to element -----------------------------------------------------------------------------------------
def _element(formula: Formula, ext: MathExtension, md: Markdown) -> etree.Element:
    """Return ``<tex-math>``, or an error message in its place."""
    problem, line = formula.problem, formula.line
    if not problem:
        try:
            render_tex(formula.tex, ext.macros, **_options(formula.classes))
        except TexError as error:
            problem, line = str(error), line + error.line
    if problem:
        element = etree.Element("span", {"class": "weave-error"})
        element.text = AtomicString(str(page_of(md).report(line, problem)))
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
        element = _element(self.ext.formulas[int(m[1])], self.ext, self.md)
        if element.tag == "tex-math" and element.get("class"):
            element.set("class", element.get("class", "") + " inline")
        return element, m.start(0), m.end(0)


class MathBlock(BlockProcessor):
    """Display math that has a line for itself is a block, whatever stands before and after it."""

    ext: MathExtension

    def _formula(self, line: str) -> Formula | None:
        match = MARKER.fullmatch(line.strip())
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
        element = _element(formula, self.ext, self.parser.md)
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

    return MARKER.sub(source, text)


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
        md.registerExtension(self)
        md.ESCAPED_CHARS = [*md.ESCAPED_CHARS, "$"]
        for registry, step, priority in (
            (md.preprocessors, KeepSource(md), 33),  # before snippets (32)
            (md.preprocessors, MathPreprocessor(md, self), 29),  # after white space (30), before fences (25)
            (md.parser.blockprocessors, MathBlock(md.parser), 12),  # before paragraphs (10)
            (md.treeprocessors, MathInCode(md), 100),
            (md.inlinePatterns, MathInline(MARKER.pattern, md), 85),  # after HTML tags (90)
            (md.postprocessors, MathElsewhere(md), 35),  # before raw HTML (30)
        ):
            step.ext = self
            registry.register(step, type(step).__name__, priority)


def makeExtension(**kwargs: Any) -> MathExtension:
    return MathExtension(**kwargs)


# --- the finished page ----------------------------------------------------------------------------------------------

_PLACEHOLDER = re.compile(r'<tex-math(?: class="([^"]*)")?(?: id="([^"]*)")?>(.*?)</tex-math>([.,;:!?)]*)', re.DOTALL)
_SHORT = 40  # characters of TeX that fit a phone's line


def render_html(page: str, macros: Mapping[str, str]) -> str:
    """Return the finished page with KaTeX's HTML in the place of each ``<tex-math>``."""

    def formula(placeholder: re.Match[str]) -> str:
        classes = (placeholder[1] or "").split()
        try:
            rendered = render_tex(html.unescape(placeholder[3]), macros, **_options(classes))
        except TexError as error:  # in a cell's output, where it is the notebook's problem
            return f'<span class="weave-error">{html.escape(str(error))}</span>{placeholder[4]}'
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
