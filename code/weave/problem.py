"""What is wrong, where, and what to do: the one shape of every error that an author sees."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

_LISTED = 6


@dataclass(frozen=True)
class Problem:
    """One line for a person: ``docs/notes/x.md:42: what is wrong; what to do``."""

    path: str
    """Relative to the repository's root, with forward slashes."""
    line: int
    """Counted from 1, as editors do."""
    message: str
    detail: str = field(default="", compare=False)
    """Shown below the line: a notebook's traceback."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def nearest(word: str, known: Iterable[str], place: str = "it") -> str:
    """The names that exist, nearest to ``word`` first, as the end of an error message."""
    names = sorted(set(known), key=lambda name: (-difflib.SequenceMatcher(None, word, name).ratio(), name))
    if not names:
        return f"{place} has none"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{place} has: {', '.join(names[:_LISTED])}{more}"
