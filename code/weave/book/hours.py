"""Hours at work, from the ``sessions`` in the front matter of log entries: ``sessions: ["19:11-21:54", "22:10-"]``.

A session past midnight counts for the day on which it began; one without an end is running and counts nothing yet.
"""

from __future__ import annotations

import datetime
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from weave.source.front_matter import split
from weave.source.problem import Problem

_SESSION = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)\s*[-–]\s*(?:([01]?\d|2[0-3]):([0-5]\d))?")
_WRITE = 'write "HH:MM-HH:MM", or "HH:MM-" while it runs'
_WEEKS, _CELL, _LEFT, _TOP = 26, 15, 30, 18


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


def parse(text: str) -> Session | None:
    """One session; None where it is malformed."""
    found = _SESSION.fullmatch(text.strip())
    if not found:
        return None
    start, end = (None if found[i] is None else int(found[i]) * 60 + int(found[i + 1]) for i in (1, 3))
    assert start is not None
    return Session(start, end)


def problems(path: str, text: str) -> list[Problem]:
    """What is wrong with the ``sessions`` in a page's front matter."""
    if "sessions:" not in text:
        return []
    text = text.removeprefix("\ufeff")
    markdown, data = split(text)
    lines = text[: len(text) - len(markdown)].splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith("sessions:")), 0)
    given = data.get("sessions")
    if given is not None and not isinstance(given, list):
        return [Problem(path, first + 1, 'sessions is no list; write sessions: ["HH:MM-HH:MM"]')]
    found = []
    for one in given or []:
        if not isinstance(one, str) or parse(one) is None:
            written = re.compile(rf"(?<![\w:–-]){re.escape(str(one))}(?![\w:–-])")
            line = next((i for i, line in enumerate(lines[first:], first) if written.search(line)), first)
            found.append(Problem(path, line + 1, f"'{one}' is no session; {_WRITE}"))
    return found


@dataclass
class Entry:
    """A log entry with the hours that went into its day."""

    title: str
    url: str
    date: datetime.date
    sessions: list[Session] = field(default_factory=list)

    @property
    def minutes(self) -> int:
        return sum(one.minutes for one in self.sessions)

    @property
    def running(self) -> bool:
        return any(one.end is None for one in self.sessions)


def sessions(given: Any) -> list[Session]:
    """The well-formed ones of what front matter has; the others are reported as ``problems``."""
    return [one for text in given if isinstance(text, str) and (one := parse(text))] if isinstance(given, list) else []


def by(entries: Iterable[Entry], name: Callable[[datetime.date], str]) -> dict[str, int]:
    """Minutes by what ``name`` makes of a date, the latest first."""
    found: Counter[str] = Counter()
    for entry in sorted(entries, key=lambda entry: entry.date, reverse=True):
        found[name(entry.date)] += entry.minutes
    return dict(found)


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
    """A length of time, to be read by people: ``2 h 43 min``."""
    hours, rest = divmod(minutes, 60)
    return " ".join(filter(None, (f"{hours} h" if hours else "", f"{rest} min" if rest or not hours else "")))


def _times(entry: Entry) -> str:
    return ", ".join(f"{one}{' (running)' if one.end is None else ''}" for one in entry.sessions)


def overview(entries: list[Entry], address: Callable[[str], str]) -> str:
    """Calendar and hours by month, week and day; ``address`` leads from this page to an entry's URL."""
    worked = sorted((one for one in entries if one.sessions), key=lambda one: one.date, reverse=True)
    if not worked:
        return ""
    rows = []
    for one in worked:
        link = f'<a href="{escape(address(one.url))}">{escape(one.title)}</a>'
        when = f"<small>{_times(one)}</small>"
        rows.append(f"<tr><td>{one.date}</td><td>{link} {when}</td>{_number(one.minutes)}</tr>")
    running = "".join(f" One of {one.date} is running." for one in worked if one.running)
    days = (
        '<table class="weave-hours wide"><thead><tr><th>day</th><th>entry and sessions</th>'
        f'<th class="number">hours</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )
    return (
        f'<h2 id="hours">Hours</h2><p>{_in_all(worked)}.{running}</p>{calendar(worked)}'
        f'<div class="weave-sums">{_sums("month", by(worked, month))}{_sums("week", by(worked, week))}</div>{days}'
    )


def _in_all(entries: list[Entry]) -> str:
    days = len({one.date for one in entries})
    return f"{_time(sum(one.minutes for one in entries))} on {days} day{'s' * (days != 1)}"


def _number(minutes: int) -> str:
    return f'<td class="number">{_clock(minutes)}</td>'


def _sums(name: str, found: dict[str, int]) -> str:
    rows = "".join(f"<tr><td>{one}</td>{_number(spent)}</tr>" for one, spent in found.items())
    head = f'<thead><tr><th>{name}</th><th class="number">hours</th></tr></thead>'
    return f'<table class="weave-hours">{head}<tbody>{rows}</tbody></table>'


def calendar(entries: list[Entry]) -> str:
    """A square for each day, a column for each week: half a year up to the last entry, and earlier ones below it.

    It is one picture to those who hear the page; the tables beside it have its numbers.
    """
    spent = by(entries, day)
    running = {day(one.date) for one in entries if one.running}
    first, last = min(one.date for one in entries), max(one.date for one in entries)
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
    said = "" if minutes is None else f"<title>{date}: {'running' if running else _time(minutes)}</title>"
    kind = f"day-{level} running" if running else f"day-{level}"
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{_CELL - 3}" height="{_CELL - 3}" rx="2">{said}</rect>'


def _monday(date: datetime.date) -> datetime.date:
    return date - datetime.timedelta(date.weekday())


def about(entry: Entry, notes: list[tuple[str, str]], faults: list[Problem]) -> str:
    """The lines under an entry's title: when it was worked, and the notes (title, address) that changed on that day."""
    parts = [f'<p class="weave-error">{escape(str(one))}</p>' for one in faults]
    lines = []
    if entry.sessions:
        length = f": {_time(entry.minutes)}" if entry.minutes else ""
        lines.append(f"Worked {_times(entry)}{length}.")
    if notes:
        links = ", ".join(f'<a href="{escape(url)}">{escape(title)}</a>' for title, url in notes)
        lines.append(f"Notes changed on this day: {links}.")
    if lines:
        parts.append(f'<p class="weave-worked">{"<br>".join(lines)}</p>')
    return "".join(parts)


def touched(root: Path, *folders: str) -> dict[datetime.date, list[str]]:
    """Files in these folders by the days on which commits changed them; nothing where git does not know (in a shallow
    clone the oldest commit looks as if it had changed everything)."""

    def git(*arguments: str) -> str:
        command = ["git", "-c", "core.quotePath=false", *arguments]
        return subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8", check=False).stdout

    found: dict[datetime.date, list[str]] = {}
    if git("rev-parse", "--is-shallow-repository").strip() != "false":
        return found
    date = datetime.date.min
    for line in git("log", "--no-merges", "--format=@%as", "--name-only", "--relative", "--", *folders).splitlines():
        if line.startswith("@"):
            date = datetime.date.fromisoformat(line[1:])
        elif line and line not in found.setdefault(date, []):
            found[date].append(line)
    return found
