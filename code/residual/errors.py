"""What error messages have in common."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], limit: int = 5) -> str:
    """The names that exist, nearest to ``word`` first, as the end of an error message."""
    names = sorted(set(known), key=lambda name: (-difflib.SequenceMatcher(None, word, name).ratio(), name))
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return "there is " + ", ".join(names[:limit]) + more if names else "there is none"
