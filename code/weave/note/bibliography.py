"""The bibliography: the works that ``[@key]`` cites, from one BibTeX file, and the reading list made of it.

BibTeX, because that is what publishers, arXiv and reference managers hand out; bibtexparser, because it knows the line
of each entry, goes on after one that is broken, and is kept up.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape
from typing import Any

import bibtexparser
from bibtexparser import model
from bibtexparser.middlewares import NameParts, SeparateCoAuthors, SplitNameParts
from pylatexenc.latex2text import LatexNodes2Text

from weave.source.problem import Problem

logging.getLogger("bibtexparser").setLevel(logging.CRITICAL)  # what is wrong is told in our words

_BLOCK = re.compile(r"@\s*(\w+)\s*[{(]\s*([^\s,{}()=]*)")
_WHERE = ("journal", "booktitle", "publisher", "institution", "howpublished")
_MOST_NAMES = 6
_DECODE = LatexNodes2Text(keep_comments=True)  # \"o is ö; a bare % is no comment here


@dataclass(frozen=True)
class Work:
    """One entry of the bibliography, as plain text."""

    key: str
    authors: str
    title: str
    where: str
    """Journal with volume, or proceedings or publisher; may be empty."""
    year: str
    url: str
    verdict: str
    """One line by the author: what the notes took from it (BibTeX's ``annote``)."""
    order: tuple[str, ...]
    """By what a list of works is sorted: the first author's last name first."""

    @property
    def says(self) -> str:
        """The tooltip of a citation."""
        return "\n".join(filter(None, (self.title, f"{self.authors}, {self.after}", self.verdict)))

    @property
    def after(self) -> str:
        """The words after the title: publisher or journal, and year."""
        return ", ".join(filter(None, (self.where, self.year)))


@dataclass
class Bibliography:
    path: str
    """The BibTeX file, relative to the repository's root."""
    works: dict[str, Work] = field(default_factory=dict)
    broken: dict[str, Problem] = field(default_factory=dict)
    """By key: entries that cannot be used, which a citation does not report again."""
    problems: list[Problem] = field(default_factory=list)


@lru_cache(maxsize=4)
def read(path: str, text: str) -> Bibliography:
    """The works of a BibTeX file; what is wrong with it is in ``problems``."""
    found = Bibliography(path)
    for block in bibtexparser.parse_string(text, append_middleware=[SeparateCoAuthors(), SplitNameParts()]).blocks:
        line = (block.start_line or 0) + 1
        if isinstance(block, model.Entry):
            fields = {one.key.lower(): one for one in block.fields}
            said = _wrong(block.key, fields)
            if said is None:
                found.works[block.key] = _work(block.key, {name: one.value for name, one in fields.items()})
                continue
            line, key = said[0] or line, block.key
            message = said[1]
        elif isinstance(block, model.ParsingFailedBlock | model.ImplicitComment):
            wrong = _unread(block, line)
            if wrong is None:
                continue
            line, key, message = wrong
        else:
            continue
        problem = Problem(path, line, message)
        found.problems.append(problem)
        if key and key not in found.works:
            found.broken[key] = problem
    return found


def _unread(block: model.Block, line: int) -> tuple[int, str, str] | None:
    """Line, key and fault of a block that is no entry; None for a comment."""
    raw = block.raw or ""
    head = _BLOCK.search(raw)
    key = head[2] if head else ""
    if isinstance(block, model.DuplicateBlockKeyBlock):
        first = (block.previous_block.start_line or 0) + 1
        return line, "", f"'{block.key}' is the key of the entry on line {first} too; give one of them another"
    if isinstance(block, model.DuplicateFieldKeyBlock):
        return line, key, f"'{key}' has {' and '.join(sorted(block.duplicate_keys))} twice; remove one"
    if isinstance(block, model.ParsingFailedBlock):
        reason = re.sub(r"\s+", " ", getattr(block.error, "abort_reason", "") or str(block.error)).strip(" .")
        return line, key, f"'{key or raw.split(chr(10))[0][:40]}' cannot be read: {reason}; check its braces and commas"
    # BibTeX takes what stands between entries for a comment, so that an entry with a slip in its head just vanishes.
    for number, text in enumerate(raw.splitlines()):
        if re.match(r"\s*(@|\w+\s*\{)", text):
            return line + number, key, f"'{text.strip()[:40]}' begins no entry; write @article{{key, … }}"
    return None


def _wrong(key: str, fields: dict[str, model.Field]) -> tuple[int | None, str] | None:
    """The line (None: the entry's own) and the fault of an entry."""
    for name, one in fields.items():
        bare = one.enclosing == "no-enclosing" and re.search(r'[{}"=]', str(one.value))
        if bare:  # {a} year = {b}
            line = None if one.start_line is None else one.start_line + 1
            return line, f"'{key}' has no comma behind its {name}; put one"
    filled = {name for name, one in fields.items() if one.value and str(one.value).strip()}
    missing = [name for name in ("title", "year") if name not in filled]
    if not {"author", "editor"} & filled:
        missing.insert(0, "author")
    if missing:
        return None, f"'{key}' has no {' and no '.join(missing)}; add it"
    url = fields.get("url")
    if url and not re.match(r"https?://[^\s\"<>]+$", str(url.value)):
        return (url.start_line or 0) + 1, f"'{url.value}' is no address; write it in full, as https://example.org"
    return None


def _work(key: str, fields: dict[str, Any]) -> Work:
    plain = {name: _plain(value) for name, value in fields.items() if isinstance(value, str)}
    names = fields.get("author") or fields["editor"]
    where = next((plain[name] for name in _WHERE if plain.get(name)), "")
    if plain.get("volume"):
        where = f"{where} {plain['volume']}".strip()
    doi = re.sub(r"^https?://(dx\.)?doi\.org/", "", fields.get("doi", "").strip())
    return Work(
        key=key,
        authors=authors(names),
        title=plain["title"],
        where=where,
        year=plain["year"],
        url=fields.get("url", "").strip() or (f"https://doi.org/{doi}" if doi else ""),
        verdict=plain.get("annote", ""),
        order=(_last(names[0]).lower(), plain["year"], plain["title"].lower()),
    )


def _plain(latex: str) -> str:
    text = _DECODE.latex_to_text(re.sub(r"(?<!\\)&", r"\\&", latex))
    return re.sub(r"\s+", " ", text).strip()


def _last(name: NameParts) -> str:
    return _plain(" ".join([*name.von, *name.last]))


def authors(names: list[NameParts]) -> str:
    """``A. Rush``, ``Z. Yang and W. Cohen``, ``N. Elhage et al.``."""
    said = [_plain(" ".join([*name.first, *name.von, *name.last, *name.jr])) for name in names]
    named = said[:-1] if len(said) > 1 and said[-1] == "others" else said
    if len(named) > _MOST_NAMES:
        return f"{named[0]} et al."
    if named is not said:
        return f"{', '.join(named)} et al."
    return " and ".join(filter(None, (", ".join(said[:-1]), said[-1])))


def as_html(work: Work) -> str:
    """A work as a list has it."""
    name = escape(work.title)
    title = f'<a href="{escape(work.url)}">{name}</a>' if work.url else f"<cite>{name}</cite>"
    return f"{escape(work.authors)}, {title}, {escape(work.after)}."
