"""The one shape of every error that an author sees: file, line, problem, cure."""

from __future__ import annotations

import difflib
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

_LISTED = 6


class Refused(Exception):
    """A command cannot do what it was asked for; the message is for a person, and the command line shows it alone."""


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

    @property
    def with_detail(self) -> str:
        """The line, with the traceback below it."""
        return f"{self}\n\n{self.detail}\n" if self.detail else str(self)

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def nearest(word: str, known: Iterable[str], place: str = "it") -> str:
    """The names that exist, nearest to ``word`` first, as the end of an error message."""
    names = sorted(set(known), key=lambda name: (-difflib.SequenceMatcher(None, word, name).ratio(), name))
    if not names:
        return f"{place} has none"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{place} has: {', '.join(names[:_LISTED])}{more}"


def not_utf8(path: str, data: bytes, error: UnicodeDecodeError) -> Problem:
    line = data[: error.start].count(b"\n") + 1
    return Problem(path, line, f"not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8")


_say_lock = threading.Lock()


def say(line: str) -> None:
    """A line of progress, whole even where several threads speak."""
    with _say_lock:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
