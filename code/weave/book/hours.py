"""Hours of work, from the ``sessions`` in the front matter of log entries: ``sessions: ["19:11-21:54", "22:10-"]``.

A session past midnight counts for the day on which it began; one without an end is running and does not count yet.
The schema of a log entry has the grammar of a session, so that editors and `weave check` complain alike.
"""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from weave.source.front_matter import schema
from weave.source.git import git

_WEEKS, _CELL, _LEFT, _TOP = 26, 15, 30, 18
"""The calendar: weeks in a row, and in pixels the size of a day, the width of its names, the height of its months."""


@dataclass(frozen=True)
class Session:
    start: int
    """Minutes since midnight."""
    end: int | None
    """None while it runs."""

    @property
    def minutes(self) -> int:
        return 0 if self.end is None else (self.end - self.start) % (24 * 60)

    def __str__(self) -> str:
        return f"{_clock(self.start)}–{'' if self.end is None else _clock(self.end)}"


@cache
def _grammar() -> re.Pattern[str]:
    return re.compile(schema("log-entry")["properties"]["sessions"]["items"]["pattern"])


def parse(text: str) -> Session | None:
    """Return the session that a text describes; None if it is malformed."""
    match = _grammar().fullmatch(text)
    if not match:
        return None
    end = None if match[3] is None else int(match[3]) * 60 + int(match[4])
    return Session(int(match[1]) * 60 + int(match[2]), end)


def sessions(listed: Any) -> list[Session]:
    """Return the well-formed sessions of a list in front matter; its check reports the others."""
    texts = [text for text in listed if isinstance(text, str)] if isinstance(listed, list) else []
    return [session for text in texts if (session := parse(text))]


@dataclass
class Entry:
    """A log entry with the sessions of its day."""

    title: str
    url: str
    date: datetime.date
    sessions: list[Session] = field(default_factory=list)

    @property
    def minutes(self) -> int:
        return sum(session.minutes for session in self.sessions)

    @property
    def running(self) -> bool:
        return any(session.end is None for session in self.sessions)


def by(entries: Iterable[Entry], name: Callable[[datetime.date], str]) -> dict[str, int]:
    """Return the minutes of all entries summed by the name of their dates, the latest first."""
    sums: Counter[str] = Counter()
    for entry in sorted(entries, key=lambda entry: entry.date, reverse=True):
        sums[name(entry.date)] += entry.minutes
    return dict(sums)


def day(date: datetime.date) -> str:
    return date.isoformat()


def week(date: datetime.date) -> str:
    monday = _monday(date)
    return f"week of {monday.day} {monday:%B %Y}"


def month(date: datetime.date) -> str:
    return f"{date:%B %Y}"


# -- as HTML


def _clock(minutes: int) -> str:
    return f"{minutes // 60}:{minutes % 60:02d}"


def _time(minutes: int) -> str:
    """Return a length of time in words: ``2 h 43 min``."""
    hours, rest = divmod(minutes, 60)
    return " ".join(filter(None, (f"{hours} h" if hours else "", f"{rest} min" if rest or not hours else "")))


def _times(entry: Entry) -> str:
    return ", ".join(f"{session}{' (running)' if session.end is None else ''}" for session in entry.sessions)


def overview(entries: list[Entry], address: Callable[[str], str]) -> str:
    """Return a calendar and the hours by month, week and day; ``address`` turns an entry's URL into a link."""
    worked = sorted((entry for entry in entries if entry.sessions), key=lambda entry: entry.date, reverse=True)
    if not worked:
        return ""
    rows = "".join(
        f'<tr><td>{entry.date}</td><td><a href="{escape(address(entry.url))}">{escape(entry.title)}</a> '
        f"<small>{_times(entry)}</small></td>{_number(entry.minutes)}</tr>"
        for entry in worked
    )
    running = "".join(f" One of {entry.date} is running." for entry in worked if entry.running)
    days = _table("day</th><th>entry and sessions", rows, " wide")
    sums = "".join(
        _table(
            name.__name__,
            "".join(f"<tr><td>{date}</td>{_number(spent)}</tr>" for date, spent in by(worked, name).items()),
        )
        for name in (month, week)
    )
    summary = f'<h2 id="hours">Hours</h2><p>{_in_all(worked)}.{running}</p>'
    return f'{summary}{calendar(worked)}<div class="weave-sums">{sums}</div>{days}'


def _in_all(entries: list[Entry]) -> str:
    days = len({entry.date for entry in entries})
    return f"{_time(sum(entry.minutes for entry in entries))} on {days} day{'s' * (days != 1)}"


def _number(minutes: int) -> str:
    return f'<td class="number">{_clock(minutes)}</td>'


def _table(head: str, rows: str, kind: str = "") -> str:
    head = f'<thead><tr><th>{head}</th><th class="number">hours</th></tr></thead>'
    return f'<table class="weave-hours{kind}">{head}<tbody>{rows}</tbody></table>'


def calendar(entries: list[Entry]) -> str:
    """Draw a square for each day and a column for each week: half a year up to the last entry, earlier ones below it.

    To those who hear the page it is one picture; the tables beside it have its numbers.
    """
    spent = by(entries, day)
    running = {day(entry.date) for entry in entries if entry.running}
    first, last = min(entry.date for entry in entries), max(entry.date for entry in entries)
    weeks = (_monday(last) - _monday(first)).days // 7 + 1
    bands = -(-weeks // _WEEKS)
    marks = []
    for band in range(bands):
        y = band * (_TOP + 7 * _CELL + 8) + _TOP
        marks += [
            f'<text x="0" y="{y + i * _CELL + 10}">{name}</text>' for i, name in ((0, "Mon"), (2, "Wed"), (4, "Fri"))
        ]
        for column in range(_WEEKS):
            monday = _monday(last) - datetime.timedelta(weeks=(band + 1) * _WEEKS - 1 - column)
            x = _LEFT + column * _CELL
            dates = [monday + datetime.timedelta(i) for i in range(7)]
            marks += [f'<text x="{x}" y="{y - 6}">{date:%b}</text>' for date in dates if date.day == 1]
            marks += [
                _square(x, y + i * _CELL, date, spent.get(day(date)), day(date) in running)
                for i, date in enumerate(dates)
                if date <= last
            ]
    size = f"{_LEFT + _WEEKS * _CELL + 8} {bands * (_TOP + 7 * _CELL + 8)}"
    label = f"Calendar of work from {first} to {last}: {_in_all(entries)}. The tables below have the numbers."
    return f'<svg class="weave-calendar" viewBox="0 0 {size}" role="img" aria-label="{label}">{"".join(marks)}</svg>'


def _square(x: int, y: int, date: datetime.date, minutes: int | None, running: bool) -> str:
    level = 0 if minutes is None else 1 + sum(minutes >= 60 * hours for hours in (1, 2, 4))
    title = "" if minutes is None else f"<title>{date}: {'running' if running else _time(minutes)}</title>"
    kind = f"day-{level} running" if running else f"day-{level}"
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{_CELL - 3}" height="{_CELL - 3}" rx="2">{title}</rect>'


def _monday(date: datetime.date) -> datetime.date:
    return date - datetime.timedelta(date.weekday())


def about(entry: Entry, notes: list[tuple[str, str]]) -> str:
    """Return the lines under an entry's title: its hours, and the notes (title, address) that changed on that day."""
    lines = []
    if entry.sessions:
        length = f": {_time(entry.minutes)}" if entry.minutes else ""
        lines.append(f"Worked {_times(entry)}{length}.")
    if notes:
        links = ", ".join(f'<a href="{escape(url)}">{escape(title)}</a>' for title, url in notes)
        lines.append(f"Notes changed on this day: {links}.")
    return f'<p class="weave-worked">{"<br>".join(lines)}</p>' if lines else ""


def touched(root: Path, *folders: str) -> dict[datetime.date, list[str]]:
    """Return the files in these folders by the days of the commits that changed them.

    A shallow clone has no such days: its oldest commit looks as if it had changed everything.
    """
    files: dict[datetime.date, list[str]] = {}
    if git(root, "rev-parse", "--is-shallow-repository")[:1] != ["false"]:
        return files
    date = datetime.date.min
    for line in git(root, "log", "--no-merges", "--format=@%as", "--name-only", "--relative", "--", *folders):
        if line.startswith("@"):
            date = datetime.date.fromisoformat(line[1:])
        elif line and line not in files.setdefault(date, []):
            files[date].append(line)
    return files
