"""Bare numbers in the prose that a notebook of the page computed: to be made claims, or waved through.

A number counts as a notebook's if it agrees with a value as a claim would, in three digits or more or in percent.
Numbers that name a place or a time do not count: dates, years, "section 3"; nor do those in code, formulas, links,
headings, footnotes and references.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass

from weave.book.book import Book
from weave.note import numbers
from weave.note.page import Page
from weave.source import markdown
from weave.source.layout import Layout
from weave.source.problem import Problem

_WAIVER = re.compile(r"\s*not a claim:\s*(.*?)\s*", re.DOTALL)
_PLACES = (
    "sections?|secs?|chapters?|ch|appendix|appendices|parts?|pages?|pp?|tables?|figures?|figs?|equations?|eqs?|theorems?|"
    "lemmas?|exercises?|steps?|arguments?|items?|lines?|columns?|rows?|seeds?|layers?|heads?|blocks?|positions?|"
    "tokens?|versions?|python|arxiv|§"
)
_MONTHS = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+−-]?\d{1,3})?"
_PAIR = re.compile(r"(?<![\w.,^$€£#:/=−-])\d+(?:,\d{3})* of \d+(?:,\d{3})*(?![\w%]|[.,:/]\d)")
_ALONE = re.compile(
    rf"(?<![\w.,^€£#:/=])(?<![A-Za-z]-)(?:(?<!\w)[+−-])?{_NUMBER}(?:\s?%|\s?×(?!\s?\d))?(?![\w^]|[.,:/–]\d|-\d)"
)
_NOT_A_CLAIM = re.compile(
    rf"\b\d{{1,2}}\.? {_MONTHS}( \d{{4}})?\b|\b{_MONTHS} \d{{1,2}}(, \d{{4}})?\b|\b\d{{4}}-\d\d-\d\d\b"
    r"|(?<![\w.,])(?:1[5-9]|20)\d\d(?:s\b|(?![\w%]|[.,]\d| ?×))"  # years
    rf"|(?:\b|(?=§))(?:{_PLACES})\.?[\s-]?\(?\d[\d.]*(?:(?:, | and | or | to |–|-)\d[\d.]*)*",
    re.IGNORECASE,
)
_NO_PROSE = (
    *("front", "fence", "code", "comment", "math", "heading", "link", "definition", "wiki", "footnote"),
    *("footnote definition", "tag", "address"),
)


@dataclass(frozen=True)
class Bare:
    """A number in the prose that is not a claim."""

    line: int
    text: str
    written: numbers.Written


def problems(book: Book) -> list[Problem]:
    """Return all bare numbers that equal a value, and needless waivers. All pages have to be rendered before."""
    pages = [book.pages[path] for path in sorted(book.pages) if path.endswith(".md")]
    return [problem for page in pages for problem in _of(book, page, book.layout.read(page.path))]


def _of(book: Book, page: Page, text: str) -> Iterator[Problem]:
    values = {
        (use.notebook, name): published.value
        for use in page.uses
        if (run := book.result(use.notebook))
        for name, published in run.published.items()
    }
    paragraphs = _paragraphs(text)
    waivers = list(_waivers(text))
    numbers_here = bare_numbers(text)
    for bare in numbers_here:
        if any(paragraphs[line] == paragraphs[bare.line] and bare.text in waived for line, waived in waivers):
            continue
        equal = [
            key for key, value in values.items() if numbers.holds(bare.written, value) and not _a_name(bare, value)
        ]
        if equal:
            yield Problem(page.path, bare.line, _message(book.layout, page.path, bare.text, equal))
    for line, waived in waivers:
        for number in waived:
            if not any(paragraphs[bare.line] == paragraphs[line] and bare.text == number for bare in numbers_here):
                what = f"waves '{number}' through, which its paragraph does not say; correct or delete the comment"
                yield Problem(page.path, line, what)


def _message(layout: Layout, page: str, text: str, equal: list[tuple[str, str]]) -> str:
    notebook, name = equal[0]
    more = f" (and {len(equal) - 1} more)" if len(equal) > 1 else ""
    own = notebook == layout.notebook_of(page)
    target = "" if own else posixpath.relpath(notebook, posixpath.dirname(page))
    return (
        f"{text} equals {name} of {posixpath.basename(notebook)}{more}; make it a claim [{text}]({target}#={name}), "
        f"or wave it through: <!-- not a claim: {text} -->"
    )


def bare_numbers(text: str) -> list[Bare]:
    """Return the numbers of a page's prose that are too exact to equal a value by accident."""
    prose = _prose(text)
    pairs = list(_PAIR.finditer(prose))
    spans = [pair.span() for pair in pairs]
    alone = (match for match in _ALONE.finditer(prose) if not any(a <= match.start() < b for a, b in spans))
    matches = sorted([*pairs, *alone], key=re.Match.start)
    read = [(text.count("\n", 0, match.start()) + 1, match[0], numbers.read(match[0])) for match in matches]
    return [Bare(line, number, written) for line, number, written in read if written and _is_exact(written)]


def _a_name(bare: Bare, value: numbers.Value) -> bool:
    """Return whether a number is a name: a count has no decimal point, so "head 16.0" is not the value 16."""
    return "." in bare.text and isinstance(value, int) and not bare.written.percent


def _is_exact(written: numbers.Written) -> bool:
    """Return whether agreement with a value is hardly chance: at three digits that count, or two and a percent sign."""
    mantissa = re.split("[eE]", written.number)[0]
    digits = re.sub(r"\D", "", mantissa).lstrip("0")
    if written.total is not None:
        return len(digits + re.sub(r"\D", "", written.total)) >= 3
    if "." not in mantissa:
        digits = digits.rstrip("0")
    return len(digits) >= 3 or (written.percent and len(digits) >= 2)


def _prose(text: str) -> str:
    """Return the text with blanks in place of everything that is not prose; every character keeps its place."""
    spans = [(token.start, token.end) for token in markdown.tokens(text, *_NO_PROSE)]
    # What an image shows; its caption is prose.
    spans += [(token.parts["text"][1], token.end) for token in markdown.tokens(text, "image")]
    for heading in markdown.tokens(text, "heading"):
        if heading["text"].lower().startswith("references"):
            spans.append((heading.start, len(text)))
    prose = markdown.blanked(text, spans)
    return _NOT_A_CLAIM.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), prose)


def _paragraphs(text: str) -> list[int]:
    """Return the number of each line's paragraph; lines count from 1."""
    paragraphs, number = [0], 0
    for line in text.split("\n"):
        number += not line.strip()
        paragraphs.append(number)
    return paragraphs


def _waivers(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the numbers of each comment that waves numbers through."""
    for comment in markdown.tokens(text, "comment"):
        if match := _WAIVER.fullmatch(comment["body"]):
            yield comment.line, re.split(r",\s+", match[1])
