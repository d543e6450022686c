"""The terms that ``[[term]]`` leads to: notes, by slug or title, and the entries of the glossary, a definition list."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_ENTRY = re.compile(r"^((?:[^\s:#<!].*\n)+)((?::[ \t]+.*\n(?:(?:[ \t]+.*)?\n(?=[ \t]|\Z))*)+)", re.MULTILINE)
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Term:
    path: str
    """Page, relative to the repository's root."""
    anchor: str
    says: str
    """The meaning in plain text; empty for a note without a description."""


def key(term: str) -> str:
    """What a term is looked up by: case, hyphens, marks and a plural s do not matter."""
    plain = re.sub(r"[`$*_\\{}^]", "", term).replace("-", " ").lower().strip()
    return re.sub(r"(?<=\w{3})s\b", "", re.sub(r"\s+", " ", plain))


def anchor(term: str) -> str:
    return "term-" + re.sub(r"[^a-z0-9]+", "-", key(term)).strip("-")


def plain(markdown: str) -> str:
    """A definition as a tooltip shows it."""
    text = re.sub(r"\[\[([^\]|]+\|)?([^\]]+)\]\]", r"\2", markdown)
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)
    text = re.sub(r" ?\[@[^\]]+\]|\[\^[^\]]+\]|[`$*]", "", text)
    return re.sub(r"\s+", " ", text.replace("\\", "")).strip()


def terms(root: Path, glossary: str, notes: str) -> dict[str, Term]:
    """All that ``[[…]]`` can lead to; a glossary entry goes before a note of the same name.

    Args:
        root: The repository.
        glossary: The glossary's file, relative to it; it need not exist.
        notes: The folder of the notes, relative to it.
    """
    found: dict[str, Term] = {}
    for path in sorted((root / notes).glob("*.md")):
        text = path.read_text(encoding="utf-8", errors="replace")
        description = re.search(r"^description: (.*)$", text, re.MULTILINE)
        term = Term(f"{notes}/{path.name}", "", plain(description[1]) if description else "")
        title = _TITLE.search(text)
        for name in (path.stem, title[1] if title else path.stem):
            found[key(name)] = term
    if (root / glossary).is_file():
        for entry in _ENTRY.finditer((root / glossary).read_text(encoding="utf-8", errors="replace") + "\n"):
            names = entry[1].strip().splitlines()
            says = plain(re.sub(r"^:[ \t]+", "", entry[2], flags=re.MULTILINE))
            for name in names:
                found[key(name)] = Term(glossary, anchor(names[0]), says)
    return found
