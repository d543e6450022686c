"""A page's reading time and date."""

from __future__ import annotations

import datetime
import re
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=512)
def minutes(html: str) -> int:
    """Return the minutes that a page takes to read, at 200 words a minute; formulas and code count as their words."""
    text = re.sub(r"<(svg|details|style)\b.*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL)
    return max(1, round(len(text.split()) / 200))


def date_of(value: Any) -> datetime.date | None:
    """Return the date that front matter states, as YAML or the blog plugin has it; None where it states none."""
    value = getattr(value, "created", None) or (value.get("created") if isinstance(value, dict) else value)
    return value.date() if isinstance(value, datetime.datetime) else value if isinstance(value, datetime.date) else None
