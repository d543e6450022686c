"""``weave log``, ``weave start``, ``weave stop``: dated entries, and the sessions in their front matter.

A session is ``"19:11-21:54"`` in ``sessions: [...]``, on one line; a running one ends in the dash: ``"20:00-"``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import yaml

from weave.author.new import fill, slug
from weave.book import hours
from weave.book.reading import date_of
from weave.source import markdown
from weave.source.files import create_atomically, write_atomically
from weave.source.front_matter import meta, read
from weave.source.layout import Layout
from weave.source.problem import Refused

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
_RUNNING = re.compile(r"(\d:\d\d\s*[-–])\s*(?=[\"']?\s*(?:,|$))")


@dataclass(frozen=True)
class Entry:
    path: str
    """Relative to the repository's root."""
    date: date
    text: str
    meta: dict[str, Any]

    @property
    def running_since(self) -> datetime | None:
        """The beginning of the session that has no end yet."""
        starts = [session.start for session in hours.sessions(self.meta.get("sessions")) if session.end is None]
        return datetime.combine(self.date, datetime.min.time()) + timedelta(minutes=starts[0]) if starts else None


def now() -> datetime:
    """Return the time by the wall clock, or WEAVE_NOW=2026-11-25T20:00 if a test or a picture sets it."""
    fixed = os.environ.get("WEAVE_NOW")
    try:
        return datetime.fromisoformat(fixed) if fixed else datetime.now()
    except ValueError:
        raise Refused(f"WEAVE_NOW={fixed} is not a time; write it as 2026-11-25T20:00") from None


def entries(layout: Layout) -> list[Entry]:
    """Return the log, from its first day to its last."""
    log = []
    for path in (layout.root / layout.docs / "log/posts").glob("*.md"):
        text = read(path)
        front = meta(text)
        if day := date_of(front.get("date")) or _date_in(path.name):
            log.append(Entry(path.relative_to(layout.root).as_posix(), day, text, front))
    return sorted(log, key=lambda entry: (entry.date, entry.path))


def _date_in(name: str) -> date | None:
    try:
        return date.fromisoformat(name[:10])
    except ValueError:
        return None


def begin(layout: Layout, title: Callable[[], str]) -> tuple[Entry, list[str]]:
    """Return today's entry and what to report about it. If there is none, write it, with the last one's open tasks.

    Args:
        layout: The repository.
        title: Called for the title of a new entry.
    """
    today, log = now().date(), entries(layout)
    for entry in reversed(log):
        if entry.date == today:
            return entry, [f"{entry.path} is today's entry already; nothing was written"]
    heading = " ".join(title().split())
    name = slug(heading)
    if not name:
        raise Refused(f"'{heading}' has no letter or digit to name a file by")
    left = todo(log[-1].text) if log else []
    path = f"{layout.docs}/log/posts/{today}-{name}.md"
    text = fill(ENTRY, {"TITLE": _scalar(heading), "HEADING": heading, "DATE": str(today), "SLUG": _scalar(name)})
    text += "".join(["\n", *(f"{item}\n" for item in left)]) if left else ""
    create_atomically(layout.root / path, text.encode("utf-8", "surrogateescape"))
    report = [f"{path}: today's entry"]
    if left:
        report.append(f"{len(left)} left to do from {log[-1].path}, which stays as it is")
    return Entry(path, today, text, meta(text)), report


def todo(text: str) -> list[str]:
    """Return the open tasks below the headings TODO of an entry, each with the lines that belong to it."""
    items, level = [], 0
    for token in markdown.tokens(text, "heading", "task"):
        if token.kind == "heading":
            if not level or token.level <= level:
                level = token.level if token["text"].strip().upper() in ("TODO", "TO DO") else 0
        elif level and token.column == 1 and token["mark"] == " ":
            items.append(token.written.replace("\r\n", "\n").replace("\r", "\n"))
    return items


def start(layout: Layout, title: Callable[[], str]) -> list[str]:
    """Begin a session in today's entry and return what to report.

    Raises:
        Refused: A session is running, or the entry cannot be written to.
    """
    if running := _running(layout):
        raise Refused(f"a session is open since {_when(running)} ({running.path}); weave stop ends it")
    entry, report = begin(layout, title)
    report = [] if "already" in report[0] else report
    clock = f"{now():%H:%M}"
    _write(layout, entry, lambda listed: ", ".join(filter(None, [listed.strip(" \t,"), f'"{clock}-"'])))
    return [*report, f"{entry.path}: session began at {clock}"]


def stop(layout: Layout) -> list[str]:
    """End the running session, today's or one that went past midnight, and return what to report.

    Raises:
        Refused: No session is running, or it has been for a day.
    """
    entry = _running(layout)
    if entry is None:
        raise Refused("no session is open; weave start begins one")
    begun, end = entry.running_since, now()
    assert begun is not None
    if not timedelta() <= end - begun < timedelta(days=1):
        what = f"{entry.path}: the session open since {_when(entry)} cannot end now, {end:%Y-%m-%d %H:%M}"
        raise Refused(f"{what}; write its end into the front matter")
    _write(layout, entry, lambda listed: _RUNNING.sub(rf"\g<1>{end:%H:%M}", listed, count=1))
    spent = int((end - begun).total_seconds()) // 60
    past = ", past midnight" if end.date() > begun.date() else ""
    return [f"{entry.path}: session {begun:%H:%M}-{end:%H:%M}{past}: {spent // 60}:{spent % 60:02d} hours"]


def _running(layout: Layout) -> Entry | None:
    return next((entry for entry in reversed(entries(layout)) if entry.running_since), None)


def _when(entry: Entry) -> str:
    begun = entry.running_since
    assert begun is not None
    return f"{begun:%H:%M}" if begun.date() == now().date() else f"{begun:%Y-%m-%d %H:%M}"


def _write(layout: Layout, entry: Entry, change: Callable[[str], str]) -> None:
    """Change what is in the brackets of ``sessions``, and not a byte besides."""
    front = markdown.front_matter(entry.text)
    if front is None:
        raise Refused(f"{entry.path}:1: no front matter; begin the file with ---, sessions: [] and ---")
    begin, end = front.span("yaml")
    if listed := _SESSIONS.search(entry.text, begin, end):
        begin, end = listed.span("list")
        new = change(listed["list"])
    elif "sessions" in entry.meta:
        line = entry.text[: entry.text.find("\nsessions") + 1].count("\n") + 1
        raise Refused(f'{entry.path}:{line}: write the sessions on one line: sessions: ["19:11-21:54"]')
    else:
        begin, new = end, f"sessions: [{change('')}]" + ("\r\n" if entry.text[:end].endswith("\r\n") else "\n")
    target = layout.root / entry.path
    if read(target) != entry.text:
        raise Refused(f"{entry.path} was edited in the meantime and is left alone; say it again")
    text = entry.text[:begin] + new + entry.text[end:]
    write_atomically(target, text.encode("utf-8", "surrogateescape"))


def _scalar(text: str) -> str:
    """Return a text as YAML: plain if that is read as the same text."""
    plain = re.fullmatch(r"[A-Za-z][\w ,.()’-]*", text) and yaml.safe_load(text) == text
    return text if plain else "'" + text.replace("'", "''") + "'"
