"""The glossary, a definition list: its entries, their meanings in plain text, and the anchors of ``[[entry]]``."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ENTRY = re.compile(r"^((?:[^\s:#<!].*\n)+)((?::[ \t]+.*\n(?:(?:[ \t]+.*)?\n(?=[ \t]|\Z))*)+)", re.MULTILINE)


@dataclass(frozen=True)
class Term:
    path: str
    """The page, relative to the repository's root."""
    anchor: str
    says: str
    """The meaning in plain text; empty for a note without a description."""


def spelt(term: str) -> str:
    """Return a term in a form in which case, hyphens and markup do not matter."""
    plain = re.sub(r"[`$*_\\{}^]", "", term).replace("-", " ").casefold()
    return " ".join(plain.split())


def key(term: str) -> str:
    """Return a term in a form in which a plural s does not matter either."""
    return re.sub(r"(?<=\w{3})s\b", "", spelt(term))


def anchor(term: str) -> str:
    """Return the id of an entry in the glossary."""
    return "term-" + re.sub(r"[^a-z0-9]+", "-", key(term)).strip("-")


def plain(markdown: str) -> str:
    """Return Markdown as plain text, as a tooltip shows it."""
    text = re.sub(r"\[\[([^\]|]+\|)?([^\]]+)\]\]", r"\2", markdown)
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)
    text = re.sub(r" ?\[@[^\]]+\]|\[\^[^\]]+\]|[`$*]", "", text)
    return re.sub(r"\s+", " ", text.replace("\\", "")).strip()


def entries(path: str, text: str) -> dict[str, Term]:
    """Return every entry of a glossary by each of its names."""
    terms: dict[str, Term] = {}
    for entry in _ENTRY.finditer(text + "\n"):
        names = entry[1].strip().splitlines()
        meaning = plain(re.sub(r"^:[ \t]+", "", entry[2], flags=re.MULTILINE))
        terms |= dict.fromkeys(names, Term(path, anchor(names[0]), meaning))
    return terms
