"""``weave next`` and ``weave stale``: what has waited longest, on one screen."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import click

from weave.author.common import now
from weave.author.log import entries
from weave.book import stale
from weave.book.book import Book
from weave.book.drafts import drafts
from weave.source.front_matter import read
from weave.source.layout import Layout
from weave.source.markdown import outside_fences
from weave.source.terms import plain

_TASK = re.compile(r"^\s*[-*+] \[([ xX])\] +(\S.*)$")
_SHOWN = {"open": 8, "drafts": 4, "untouched": 3, "stale": 4}


@dataclass(frozen=True)
class Task:
    path: str
    line: int
    text: str
    done: bool
    since: datetime | None
    """When the line was written, as git knows it."""


def why_stale(site: Book) -> dict[str, list[str]]:
    """The notebooks whose results are not today's, each with what changed."""
    return {path: why for path, why in stale.reasons(site).items() if why}


def tasks(place: Layout) -> list[Task]:
    """The open tasks of notes and log, oldest first. One that was carried over is where it was carried to, as old as
    where it was written first, and done where it is done there."""
    found: dict[str, Task] = {}
    logged = [entry.path for entry in entries(place)]
    others = sorted(path.relative_to(place.root).as_posix() for path in (place.root / place.docs).rglob("*.md"))
    for path in [*(one for one in others if one not in logged), *logged]:
        for task in _tasks_of(place, path):
            key = plain(task.text) if path in logged else f"{path}:{task.line}"
            first = found.get(key)
            since = min((one.since for one in (first, task) if one and one.since), default=None)
            found[key] = Task(task.path, task.line, task.text, task.done, since)
    waiting = [task for task in found.values() if not task.done]
    return sorted(waiting, key=lambda task: (task.since or now(), task.path, task.line))


def overview(place: Layout, stale: dict[str, list[str]], width: int) -> list[str]:
    """What ``weave next`` shows."""
    unpublished = drafts(place)
    waiting = [task for task in tasks(place) if task.path not in unpublished]
    touched = _last_touched(place)
    notes = sorted(touched, key=lambda path: (touched[path], path))
    posts = [entry.path for entry in entries(place) if entry.meta.get("draft") is True]
    begun = [path for path in notes if path in unpublished]
    rest = [path for path in notes if path not in unpublished]
    parts = [
        ("Open longest", "open", [(_age(one.since), f"{one.path}:{one.line}", plain(one.text)) for one in waiting]),
        ("Drafts", "drafts", [(_age(touched.get(path)), path, "") for path in [*begun, *posts]]),
        ("Not touched for longest", "untouched", [(_age(touched[path]), path, "") for path in rest]),
        ("Stale", "stale", [("", path, ", ".join(why)) for path, why in sorted(stale.items())]),
    ]
    lines = []
    for heading, kind, rows in parts:
        shown = rows[: _SHOWN[kind]]
        if not shown:
            continue
        more = f" ({len(shown)} of {len(rows)})" if len(rows) > len(shown) else ""
        lines += ["", click.style(heading + more, bold=True)]
        lines += [_cut(f"{age:>9}  {where}  {what}".rstrip(), width) for age, where, what in shown]
    return lines[1:] or ["nothing is open, drafted or stale"]


def _tasks_of(place: Layout, path: str) -> Iterable[Task]:
    text = read(place.root / path)
    found = [
        (number, match)
        for line, number in outside_fences(text.splitlines())
        if number is not None and (match := _TASK.match(line))
    ]
    written = _written(place.root, path) if found else {}
    for number, match in found:
        yield Task(path, number, match[2], match[1] != " ", written.get(number))


def _written(root: Path, path: str) -> dict[int, datetime]:
    """When each line of a file was written, for git; nothing where git does not know the file."""
    dates: dict[int, datetime] = {}
    line, time = 0, 0
    for row in _git(root, "blame", "--line-porcelain", "--", path):
        if header := re.match(r"[0-9a-f]{40} \d+ (\d+)", row):
            line = int(header[1])
        elif row.startswith("author-time "):
            time = int(row.removeprefix("author-time "))
        elif row.startswith("\t"):
            dates[line] = datetime.fromtimestamp(time)
    return dates


def _last_touched(place: Layout) -> dict[str, datetime]:
    """When each note was last changed: as git knows it, or the file where it is newer than its last commit."""
    folder = f"{place.docs}/notes"
    found: dict[str, datetime] = {}
    time = now()
    for row in _git(place.root, "log", "--format=@%at", "--name-only", "--relative", "--", folder):
        if row.startswith("@"):
            time = datetime.fromtimestamp(int(row[1:]))
        elif row:
            found.setdefault(row, time)
    changed = {row[3:] for row in _git(place.root, "status", "--porcelain", "--untracked-files=all", "--", folder)}
    notes = [path.relative_to(place.root).as_posix() for path in (place.root / folder).glob("*.md")]
    return {path: now() if path in changed or path not in found else found[path] for path in notes}


def _git(root: Path, *command: str) -> list[str]:
    try:
        ran = subprocess.run(
            ["git", "-c", "core.quotePath=false", *command], cwd=root, capture_output=True, check=False
        )
    except FileNotFoundError:
        return []
    return ran.stdout.decode("utf-8", "replace").split("\n") if ran.returncode == 0 else []


def _age(since: datetime | None) -> str:
    days = (now().date() - since.date()).days if since else None
    return "" if days is None else "today" if days < 1 else f"{days} day{'s' * (days > 1)}"


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"
