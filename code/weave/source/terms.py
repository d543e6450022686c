"""The glossary, a definition list: its entries, what they say in plain text, where ``[[entry]]`` leads."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ENTRY = re.compile(r"^((?:[^\s:#<!].*\n)+)((?::[ \t]+.*\n(?:(?:[ \t]+.*)?\n(?=[ \t]|\Z))*)+)", re.MULTILINE)


@dataclass(frozen=True)
class Term:
    path: str
    """Page, relative to the repository's root."""
    anchor: str
    says: str
    """The meaning in plain text; empty for a note without a description."""


def spelt(term: str) -> str:
    """A term without what does not matter in it: case, hyphens, marks."""
    plain = re.sub(r"[`$*_\\{}^]", "", term).replace("-", " ").casefold()
    return " ".join(plain.split())


def key(term: str) -> str:
    """As ``spelt``, and a plural s does not matter either."""
    return re.sub(r"(?<=\w{3})s\b", "", spelt(term))


def anchor(term: str) -> str:
    return "term-" + re.sub(r"[^a-z0-9]+", "-", key(term)).strip("-")


def plain(markdown: str) -> str:
    """A definition as a tooltip shows it."""
    text = re.sub(r"\[\[([^\]|]+\|)?([^\]]+)\]\]", r"\2", markdown)
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)
    text = re.sub(r" ?\[@[^\]]+\]|\[\^[^\]]+\]|[`$*]", "", text)
    return re.sub(r"\s+", " ", text.replace("\\", "")).strip()


def entries(path: str, text: str) -> dict[str, Term]:
    """Every entry of a glossary's text by each of its names."""
    found: dict[str, Term] = {}
    for entry in _ENTRY.finditer(text + "\n"):
        names = entry[1].strip().splitlines()
        says = plain(re.sub(r"^:[ \t]+", "", entry[2], flags=re.MULTILINE))
        found |= dict.fromkeys(names, Term(path, anchor(names[0]), says))
    return found
