"""Bare numbers in the prose that a notebook of the page computed: to be made claims, or waved through.

A number is held to be one of a notebook's when it agrees with a value as a claim would, on three digits or more or in
percent. Numbers that say where something is, or when it was, are none: dates, years, "section 3", what stands in code,
formulas, links, headings, footnotes and references.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass

from weave.book.book import Book
from weave.note import numbers
from weave.note.page import Page
from weave.source.markdown import outside_fences
from weave.source.problem import Problem

_WAIVER = re.compile(r"(?<!`)<!--\s*not a claim:\s*(.*?)\s*-->", re.DOTALL)  # not one that is quoted
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
_MASKS = [
    re.compile(pattern, re.IGNORECASE | re.MULTILINE | re.DOTALL)
    for pattern in (
        r"\A---\n.*?\n---\n",  # front matter
        r"^#{1,6} references.*\Z|^#{1,6} .*?$",
        r"^\[\^[^\]]+\]:.*?$(?:\n(?=[ ]{4}|\n[ ]{4}).*?$)*",  # footnotes
        r"^ {0,3}\[[^\]]+\]:.*?$",
        r"<!--.*?-->",
        r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)",
        r"(?<!\\)\$\$.+?(?<!\\)\$\$",
        r"(?<![\\$])\$(?![\s$])(?:\\.|[^$\\]|\n(?!\n))+?\$(?!\d)",
        r"(?<!!)\[(?:[^\[\]]|\[[^\[\]]*\])*\](?:\([^()]*(?:\([^()]*\)[^()]*)*\)|\[[^\]]*\])",  # links
        r"\]\([^()]*\)",  # what an image shows; its caption is prose
        r"\[\[[^\]]*\]\]|\[\^[^\]]*\]",
        r"</?[a-z][^<>]*>|<?\bhttps?://[^\s<>]+",
        rf"\b\d{{1,2}}\.? {_MONTHS}( \d{{4}})?\b|\b{_MONTHS} \d{{1,2}}(, \d{{4}})?\b|\b\d{{4}}-\d\d-\d\d\b",
        r"(?<![\w.,])(?:1[5-9]|20)\d\d(?:s\b|(?![\w%]|[.,]\d| ?×))",  # years
        rf"(?:\b|(?=§))(?:{_PLACES})\.?[\s-]?\(?\d[\d.]*(?:(?:, | and | or | to |–|-)\d[\d.]*)*",
    )
]  # fmt: skip


@dataclass(frozen=True)
class Bare:
    """A number that stands in the prose by itself."""

    line: int
    text: str
    written: numbers.Written


def problems(site: Book) -> list[Problem]:
    """All bare numbers that equal a value, and waivers of numbers that are not there; the pages are rendered."""
    found: list[Problem] = []
    for path in sorted(site.pages):
        if path.endswith(".md"):
            found += _of(site, site.pages[path], site.layout.read(path))
    return found


def _of(site: Book, page: Page, text: str) -> Iterator[Problem]:
    values = {
        (use.notebook, name): published.value
        for use in page.uses
        if (run := site.result(use.notebook))
        for name, published in run.published.items()
    }
    blocks = _blocks(text)
    waivers = list(_waivers(text))
    bare = bare_numbers(text)
    for one in bare:
        if any(blocks[line] == blocks[one.line] and one.text in waived for line, waived in waivers):
            continue
        equal = [key for key, value in values.items() if numbers.holds(one.written, value) and not _a_name(one, value)]
        if equal:
            yield Problem(page.path, one.line, _said(page.path, one.text, equal))
    for line, waived in waivers:
        for number in waived:
            if not any(blocks[one.line] == blocks[line] and one.text == number for one in bare):
                what = f"waves '{number}' through, which its paragraph does not say; correct or delete the comment"
                yield Problem(page.path, line, what)


def _said(page: str, text: str, equal: list[tuple[str, str]]) -> str:
    notebook, name = equal[0]
    more = f" (and {len(equal) - 1} more)" if len(equal) > 1 else ""
    target = posixpath.relpath(notebook, posixpath.dirname(page))
    return (
        f"{text} equals {name} of {posixpath.basename(notebook)}{more}; make it a claim [{text}]({target}#={name}), "
        f"or wave it through: <!-- not a claim: {text} -->"
    )


def bare_numbers(text: str) -> list[Bare]:
    """The numbers of a page's prose that are exact enough to be told from a value by accident."""
    prose = _prose(text)
    found = []
    pairs = list(_PAIR.finditer(prose))
    taken = [match.span() for match in pairs]
    alone = (one for one in _ALONE.finditer(prose) if not any(a <= one.start() < b for a, b in taken))
    for match in sorted([*pairs, *alone], key=re.Match.start):
        written = numbers.read(match[0])
        if written and _telling(written):
            found.append(Bare(text.count("\n", 0, match.start()) + 1, match[0], written))
    return found


def _a_name(bare: Bare, value: numbers.Value) -> bool:
    """A count is never written with a decimal point, so "head 16.0" is a name and not the value 16."""
    return "." in bare.text and isinstance(value, int) and not bare.written.percent


def _telling(written: numbers.Written) -> bool:
    """Whether agreement with a value can hardly be chance: three digits that count, or two and a percent sign."""
    mantissa = re.split("[eE]", written.number)[0]
    digits = re.sub(r"\D", "", mantissa).lstrip("0")
    if written.total is not None:
        return len(digits + re.sub(r"\D", "", written.total)) >= 3
    if "." not in mantissa:
        digits = digits.rstrip("0")
    return len(digits) >= 3 or (written.percent and len(digits) >= 2)


def _prose(text: str) -> str:
    """The text with blanks in the place of everything that is not prose; every character keeps its place."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    lines = [re.sub(".", " ", line) if number is None else line for line, number in outside_fences(text.split("\n"))]
    prose = "\n".join(lines)
    for mask in _MASKS:
        prose = mask.sub(blank, prose)
    return prose


def _blocks(text: str) -> list[int]:
    """For each line, counted from 1, the number of its paragraph."""
    blocks, number = [0], 0
    for line in text.split("\n"):
        number += not line.strip()
        blocks.append(number)
    return blocks


def _waivers(text: str) -> Iterator[tuple[int, list[str]]]:
    """Comments that wave numbers through: line and numbers."""
    unfenced = "\n".join(line if number else "" for line, number in outside_fences(text.split("\n")))
    for match in _WAIVER.finditer(unfenced):
        yield unfenced.count("\n", 0, match.start()) + 1, re.split(r",\s+", match[1])
