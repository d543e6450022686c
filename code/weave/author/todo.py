"""``weave todo`` and ``weave next``: the open tasks (``- [ ]``) of all pages, and what has waited longest."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import click

from weave.author.log import entries, now
from weave.book.drafts import drafts
from weave.source import markdown
from weave.source.front_matter import read
from weave.source.git import git
from weave.source.layout import Layout
from weave.source.names import source_pages
from weave.source.terms import plain

_SHOWN = {"Open longest": 8, "Drafts": 4, "Not touched for longest": 3, "Stale": 4}


@dataclass(frozen=True)
class Task:
    path: str
    line: int
    text: str
    places: tuple[tuple[str, int], ...]
    """Path and line of every log entry that it was carried through, the first one first."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def tasks(layout: Layout) -> list[Task]:
    """Return the open tasks, in the order of files and lines.

    A task of the log that a later entry took over is open, or done, in that entry alone.
    """
    latest: dict[str, tuple[Task, bool]] = {}
    log = [entry.path for entry in entries(layout)]
    others = [path for path in source_pages(layout.root, layout.docs) if path not in log]
    for path in [*others, *log]:
        for token in markdown.tokens(read(layout.root / path), "task"):
            key = plain(token.words) if path in log else f"{path}:{token.line}"
            before = latest[key][0].places if key in latest else ()
            task = Task(path, token.line, token.words, (*before, (path, token.line)))
            latest[key] = task, token["mark"] == " "
    return sorted((task for task, is_open in latest.values() if is_open), key=lambda task: (task.path, task.line))


def overview(layout: Layout, stale: dict[str, list[str]], width: int) -> list[str]:
    """Return what has waited longest, as lines of a terminal of this width.

    Args:
        layout: The repository.
        stale: The stale notebooks, each with the reasons.
        width: Longest line, in characters.
    """
    unpublished = drafts(layout)
    waiting = [(_since(layout, task), task) for task in tasks(layout) if task.path not in unpublished]
    waiting.sort(key=lambda pair: (pair[0] or now(), pair[1].path, pair[1].line))
    touched = _last_touched(layout)
    notes = sorted(touched, key=lambda path: (touched[path], path))
    posts = [entry.path for entry in entries(layout) if entry.meta.get("draft") is True]
    begun = [*(path for path in notes if path in unpublished), *posts]
    parts: dict[str, list[tuple[str, str, str]]] = {
        "Open longest": [(_age(since), f"{task.path}:{task.line}", plain(task.text)) for since, task in waiting],
        "Drafts": [(_age(touched.get(path)), path, "") for path in begun],
        "Not touched for longest": [(_age(touched[path]), path, "") for path in notes if path not in unpublished],
        "Stale": [("", path, ", ".join(why)) for path, why in sorted(stale.items())],
    }
    lines = []
    for heading, rows in parts.items():
        if shown := rows[: _SHOWN[heading]]:
            more = f" ({len(shown)} of {len(rows)})" if len(rows) > len(shown) else ""
            lines += ["", click.style(heading + more, bold=True)]
            lines += [_cut(f"{age:>9}  {place}  {what}".rstrip(), width) for age, place, what in shown]
    return lines[1:] or ["nothing is open, drafted or stale"]


def _since(layout: Layout, task: Task) -> datetime | None:
    """Return when a task was first written, as far as git knows."""
    dates = [_written(layout.root, path).get(line) for path, line in task.places]
    return min((date for date in dates if date), default=None)


def _written(root: Path, path: str) -> dict[int, datetime]:
    """Return when each line of a file was written; empty if git does not know the file."""
    dates: dict[int, datetime] = {}
    line, time = 0, 0
    for row in git(root, "blame", "--line-porcelain", "--", path):
        if header := re.match(r"[0-9a-f]{40} \d+ (\d+)", row):
            line = int(header[1])
        elif row.startswith("author-time "):
            time = int(row.removeprefix("author-time "))
        elif row.startswith("\t"):
            dates[line] = datetime.fromtimestamp(time)
    return dates


def _last_touched(layout: Layout) -> dict[str, datetime]:
    """Return when each note was last changed: its last commit, or now if it differs from it."""
    folder = f"{layout.docs}/notes"
    commits: dict[str, datetime] = {}
    time = now()
    for row in git(layout.root, "log", "--format=@%at", "--name-only", "--relative", "--", folder):
        if row.startswith("@"):
            time = datetime.fromtimestamp(int(row[1:]))
        elif row:
            commits.setdefault(row, time)
    changed = {row[3:] for row in git(layout.root, "status", "--porcelain", "--untracked-files=all", "--", folder)}
    notes: Iterable[str] = source_pages(layout.root, folder)
    return {path: now() if path in changed else commits.get(path, now()) for path in notes}


def _age(since: datetime | None) -> str:
    days = (now().date() - since.date()).days if since else None
    return "" if days is None else "today" if days < 1 else f"{days} day{'s' * (days > 1)}"


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"
