"""Shared parts of error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], limit: int = 5) -> str:
    """Return the end of an error message that lists the names that exist, nearest to ``word`` first."""
    names = sorted(set(known), key=lambda name: (-difflib.SequenceMatcher(None, word, name).ratio(), name))
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return "choose from " + ", ".join(names[:limit]) + more if names else "there are none"
