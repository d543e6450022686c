"""Published numbers computed a second time, and compared with the note and with the notebook.

A test file has ``NUMBERS``: for each note, a table of ``Again(compute, within)`` by the claim's name. The new value
must lie ``within`` that distance of the published value, and the text of the note must be true of it or of a number
that near.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import pytest

from weave.book.book import Book
from weave.note.numbers import holds, read
from weave.source.layout import Layout

from .weights import ROOT

Number = float | tuple[int, int]


class Again(NamedTuple):
    """A function that computes a number again, and how far the result may be from the published number."""

    compute: Callable[[], Number]
    within: float = 1e-6


def each(numbers: dict[str, dict[str, Again]]) -> pytest.MarkDecorator:
    """Parametrize a test by the entries of the tables."""
    rows = [(note, name, number) for note, table in numbers.items() for name, number in table.items()]
    ids = [f"{note}-{name}" for note, name, _ in rows]
    return pytest.mark.parametrize(("note", "name", "number"), rows, ids=ids)


@cache
def says(note: str) -> dict[str, list[str]]:
    """Return the texts that the note writes for each claim of its own notebook, by the claim's name."""
    notebook = note.replace("-", "_") + ".py"
    text = (ROOT / f"docs/notes/{note}.md").read_text("utf-8")
    texts: dict[str, list[str]] = {}
    for words, path, name in re.findall(r"\[([^\]\[]+)\]\(([^)\s#]*)#=(\w+)\)", text):
        if path in ("", f"../../code/notebooks/{notebook}"):
            texts.setdefault(name, []).append(words)
    return texts


@cache
def published(note: str) -> dict[str, Number]:
    """Return the numbers that the notebook published; the notebook runs first if one of its inputs has changed."""
    path = f"code/notebooks/{note.replace('-', '_')}.py"
    site = Book(Layout(ROOT))
    site.execute(only=[path])
    run = site.result(path)
    assert run, f"{path} does not run: {site.outcomes[path].problems}"
    return {name: entry.value for name, entry in run.published.items()}


def wrong(note: str, name: str, number: Again) -> list[str]:
    """Return each contradiction between the second program and the note, as text; an empty list if they agree."""
    if name not in says(note):
        return [f"docs/notes/{note}.md no longer has a claim {name}; remove it from this table, or rename it"]
    value = number.compute()
    value = value if isinstance(value, tuple) else float(value)
    problems = []
    was = published(note)[name]
    if isinstance(value, tuple) or isinstance(was, tuple):
        near, candidates = value == was, [value]
    else:
        low, high = value - number.within, value + number.within
        near, candidates = low <= was <= high, [value, low, high]
    if not near:
        problems.append(f"{note}: {name} is {value} by the second program, {was} by the notebook; ± {number.within}")
    for words in says(note)[name]:
        written = read(words)
        if written is None:
            continue  # a claim in words, which the notebook's own check reads
        shown = float(written.shown)
        nearest = shown if not isinstance(value, tuple) and low <= shown <= high else candidates[0]
        if not any(holds(written, candidate) for candidate in (*candidates, nearest)):
            problems.append(f"docs/notes/{note}.md says {words} for {name}; the second program has {value}")
    return problems
