"""``weave log``, ``weave start``, ``weave stop``: dated entries, and the sessions in their front matter.

A session is ``"19:11-21:54"`` in ``sessions: [...]``, on one line; one that goes on ends in the dash, ``"20:00-"``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import click
import yaml

from weave.author.common import now, slug
from weave.book.reading import date_of
from weave.run.store import write_whole
from weave.source.front_matter import find as front_matter
from weave.source.front_matter import meta, read
from weave.source.layout import Layout

ENTRY = """\
---
title: TITLE
date: DATE
slug: SLUG
description: What I wanted to find out on DATE, what came of it, and what is left open.
sessions: []
---

# HEADING

**Goal.** <!-- What is to be known, or to work, at the end of the day. -->

**Summary.** <!-- What came of it, in three sentences. -->

<!-- more -->

## Goals for the session

## Notes

## TODO
"""

_SESSIONS = re.compile(r"^sessions:[ \t]*\[(?P<list>[^\[\]\r\n]*)\][ \t]*(?:#[^\r\n]*)?\r?$", re.MULTILINE)
_OPEN = re.compile(r"\s*([01]?\d|2[0-3]):([0-5]\d)\s*[-–]\s*")
_UNENDED = re.compile(r"(\d:\d\d\s*[-–])\s*(?=[\"']?\s*(?:,|$))")
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Entry:
    path: str
    """Relative to the repository's root."""
    date: date
    text: str
    meta: dict[str, Any]

    @property
    def open_since(self) -> datetime | None:
        """When its session began that has no end yet."""
        for session in self.meta.get("sessions") or ():
            if begun := _OPEN.fullmatch(str(session)):
                return datetime(self.date.year, self.date.month, self.date.day, int(begun[1]), int(begun[2]))
        return None


def entries(place: Layout) -> list[Entry]:
    """The log, from its first day to its last."""
    found = []
    for path in (place.root / place.docs / "log/posts").glob("*.md"):
        text = read(path)
        front = meta(text)
        day = date_of(front.get("date")) or _date_in(path.name)
        if day:
            found.append(Entry(path.relative_to(place.root).as_posix(), day, text, front))
    return sorted(found, key=lambda entry: (entry.date, entry.path))


def begin(place: Layout, title: Callable[[], str]) -> tuple[Entry, list[str]]:
    """Today's entry, made where there is none, with what the last one left to do; and what there is to say of it.

    Args:
        place: The site.
        title: Asked for the title of an entry that is made.
    """
    today, log = now().date(), entries(place)
    for entry in reversed(log):
        if entry.date == today:
            return entry, [f"{entry.path} is today's entry already; nothing was written"]
    asked = " ".join(title().split())
    name = slug(asked)
    if not name:
        raise click.ClickException(f"'{asked}' has no letter or digit to name a file by")
    left = todo(log[-1].text) if log else []
    path = f"{place.docs}/log/posts/{today}-{name}.md"
    words = {"TITLE": _quoted(asked), "HEADING": asked, "DATE": str(today), "SLUG": _quoted(name)}
    text = re.sub("|".join(words), lambda word: words[word[0]], ENTRY)
    text += "".join(["\n", *(f"{item}\n" for item in left)]) if left else ""
    target = place.root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "x", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(text)
    said = [f"{path}: today's entry"]
    if left:
        said.append(f"{len(left)} left to do from {log[-1].path}, which stays as it is")
    return Entry(path, today, text, meta(text)), said


def todo(text: str) -> list[str]:
    """What an entry left to do: the open items below its heading TODO, each with the lines that belong to it."""
    items: list[str] = []
    level, taking = 0, False
    for line in io.StringIO(text, newline=None):  # whatever ends them
        line = line.rstrip("\n")
        if heading := re.match(r"(#+)\s+(.*)", line):
            if level and len(heading[1]) <= level:
                level = 0
            if heading[2].strip().upper() in ("TODO", "TO DO"):
                level = len(heading[1])
            taking = False
        elif not level:
            continue
        elif re.match(r"[-*+] ", line):
            taking = bool(re.match(r"[-*+] \[ \] +\S", line))
            items += [line] if taking else []
        elif taking and (line[:1].isspace() or not line.strip()):
            items[-1] += f"\n{line}"
        elif line.strip():  # the item's next line, as far out as Markdown lets it stand
            if taking and not items[-1].endswith("\n"):
                items[-1] += f"\n{line}"
            else:
                taking = False
    return [item.rstrip() for item in items]


def start(place: Layout, title: Callable[[], str]) -> list[str]:
    """Begin a session in today's entry.

    Raises:
        click.ClickException: One is open, or the entry cannot be written to.
    """
    if open_one := _open_entry(place):
        what = f"a session is open since {_when(open_one)} ({open_one.path})"
        raise click.ClickException(f"{what}; weave stop ends it")
    entry, said = begin(place, title)
    said = said if "already" not in said[0] else []
    clock = f"{now():%H:%M}"
    _write(place, entry, lambda listed: ", ".join(filter(None, [listed.strip(" \t,"), f'"{clock}-"'])))
    return [*said, f"{entry.path}: session began at {clock}"]


def stop(place: Layout) -> list[str]:
    """End the session that is open, today's or one that went past midnight.

    Raises:
        click.ClickException: None is open, or it has been for a day.
    """
    entry = _open_entry(place)
    if entry is None:
        raise click.ClickException("no session is open; weave start begins one")
    begun, ends = entry.open_since, now()
    assert begun is not None
    if not timedelta() <= ends - begun < _DAY:
        what = f"{entry.path}: the session open since {_when(entry)} cannot end now, {ends:%Y-%m-%d %H:%M}"
        raise click.ClickException(f"{what}; write into its front matter when it ended")
    _write(place, entry, lambda listed: _UNENDED.sub(rf"\g<1>{ends:%H:%M}", listed, count=1))
    spent = int((ends - begun).total_seconds()) // 60
    past = ", past midnight" if ends.date() > begun.date() else ""
    return [f"{entry.path}: session {begun:%H:%M}-{ends:%H:%M}{past}: {spent // 60}:{spent % 60:02d} hours"]


def _open_entry(place: Layout) -> Entry | None:
    return next((entry for entry in reversed(entries(place)) if entry.open_since), None)


def _when(entry: Entry) -> str:
    begun = entry.open_since
    assert begun is not None
    return f"{begun:%H:%M}" if begun.date() == now().date() else f"{begun:%Y-%m-%d %H:%M}"


def _write(place: Layout, entry: Entry, change: Callable[[str], str]) -> None:
    """Change what is in the brackets of ``sessions``, and not a byte besides."""
    front = front_matter(entry.text)
    if front is None:
        raise click.ClickException(f"{entry.path}:1: no front matter; begin the file with ---, sessions: [] and ---")
    found = _SESSIONS.search(entry.text, front.start(1), front.end(1))
    if found:
        start, end, new = found.start("list"), found.end("list"), change(found["list"])
    elif "sessions" in entry.meta:
        line = entry.text[: entry.text.find("\nsessions") + 1].count("\n") + 1
        raise click.ClickException(f'{entry.path}:{line}: write the sessions on one line: sessions: ["19:11-21:54"]')
    else:
        start = end = front.end(1)
        new = f"sessions: [{change('')}]" + ("\r\n" if front[0].endswith("\r\n") else "\n")
    text = entry.text[:start] + new + entry.text[end:]
    target = place.root / entry.path
    if read(target) != entry.text:
        raise click.ClickException(f"{entry.path} was edited in the meantime and is left alone; say it again")
    write_whole(target, text.encode("utf-8", "surrogateescape"))


def _date_in(name: str) -> date | None:
    try:
        return date.fromisoformat(name[:10])
    except ValueError:
        return None


def _quoted(text: str) -> str:
    """A text as YAML has it: plain where that is read as the same text."""
    plain = re.fullmatch(r"[A-Za-z][\w ,.()’-]*", text) and yaml.safe_load(text) == text
    return text if plain else "'" + text.replace("'", "''") + "'"
