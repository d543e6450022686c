"""Hours: read from front matter, added up in every way to the same sum, and told in the log."""

from __future__ import annotations

import datetime
import re
import subprocess
from typing import TYPE_CHECKING
from xml.etree import ElementTree as etree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weave.book import hours
from weave.book.hours import Entry, Session

if TYPE_CHECKING:
    from conftest import Small

LOG = "docs/log/posts/2026-11-20-a-day.md"
POST = """---
title: A day
date: 2026-11-20
slug: a-day
sessions: ["9:00-10:30", "23:30-00:15"]
---

# A day

Done.
"""
TIME = st.tuples(st.integers(0, 23), st.integers(0, 59))
DATES = st.dates(datetime.date(2024, 1, 1), datetime.date(2027, 12, 31))
SESSIONS = st.builds(Session, st.integers(0, 1439), st.none() | st.integers(0, 1439))
ENTRY = st.builds(Entry, st.just("A day"), st.just("log/a/"), DATES, st.lists(SESSIONS, min_size=1))
ENTRIES = st.lists(ENTRY, min_size=1)


@given(TIME, TIME, st.sampled_from(["-", "–", " - "]))
def test_a_session_is_as_long_as_the_clock_says(start: tuple[int, int], end: tuple[int, int], dash: str) -> None:
    session = hours.parse(f"{start[0]}:{start[1]:02d}{dash}{end[0]:02d}:{end[1]:02d}")
    assert session
    first = datetime.datetime(2026, 11, 20, *start)
    last = datetime.datetime(2026, 11, 20 if end >= start else 21, *end)  # past midnight
    assert session.minutes == (last - first).total_seconds() / 60


def test_a_running_session_counts_nothing() -> None:
    session = hours.parse("19:11-")
    assert session and session.end is None and session.minutes == 0 and str(session) == "19:11–"


@pytest.mark.parametrize(
    "text", ["25:00-9", "19:11", "-", "", "19:11-24:00", "19:60-20:00", "9-10", "19:11-20:00-21:00", "-20:00", "a"]
)
def test_a_malformed_session(text: str) -> None:
    assert hours.parse(text) is None


@given(st.text(st.sampled_from("0123456789:-– "), max_size=12))
def test_what_is_read_is_written_the_same(text: str) -> None:
    session = hours.parse(text)
    assert session is None or hours.parse(str(session)) == session


@given(ENTRIES)
def test_days_weeks_and_months_add_up(entries: list[Entry]) -> None:
    total = sum(session.minutes for entry in entries for session in entry.sessions)
    sums = [hours.by(entries, name) for name in (hours.day, hours.week, hours.month)]
    assert [sum(one.values()) for one in sums] == [total] * 3
    for date in {entry.date for entry in entries}:
        same = [entry.minutes for entry in entries if entry.date.isocalendar()[:2] == date.isocalendar()[:2]]
        assert sums[1][hours.week(date)] == sum(same), "a week is Monday to Sunday, over the turn of a year as well"


@given(ENTRIES)
def test_the_calendar_has_each_day_once_in_the_row_of_its_weekday(entries: list[Entry]) -> None:
    root = etree.fromstring(hours.calendar(entries))
    worked: dict[str, float] = {}
    for square in root.iter("rect"):
        title = square.find("title")
        if title is not None and title.text:
            date = title.text[:10]
            assert date not in worked and square.get("class") != "day-0"
            worked[date] = float(square.get("y", ""))
    assert worked.keys() == {str(entry.date) for entry in entries}
    places = [(square.get("x"), square.get("y")) for square in root.iter("rect")]
    assert len(places) == len(set(places))
    by_weekday: dict[tuple[int, int], set[float]] = {}
    weeks = [datetime.date.fromisoformat(date) for date in worked]
    last = max(weeks) - datetime.timedelta(max(weeks).weekday())
    for date in weeks:
        band = (last - (date - datetime.timedelta(date.weekday()))).days // 7 // 26
        by_weekday.setdefault((band, date.weekday()), set()).add(worked[str(date)])
    assert all(len(rows) == 1 for rows in by_weekday.values())
    assert root.get("role") == "img" and f"on {len(worked)} day" in root.get("aria-label", "")


# -- in the log


@pytest.mark.parametrize(
    ("front", "line", "said"),
    [
        ('sessions: ["9:00-10:30", "25:00-9"]', 5, '\'sessions\' cannot be "25:00-9"; write "HH:MM-HH:MM", or'),
        ('sessions:\n  - "9:00-10:30"\n  - "10:30"', 7, '\'sessions\' cannot be "10:30"; write "HH:MM-HH:MM", or'),
        ("sessions: [9:00]", 5, "'sessions' cannot be 9:00; write \"HH:MM-HH:MM\", or"),  # YAML takes it for minutes
        ("sessions: 9:00-10:30", 5, "'sessions' cannot be 9:00-10:30; write a list of sessions: ["),
    ],
)
@pytest.mark.parametrize("command", ["check", "build"])
def test_a_malformed_session_is_told_at_its_line(small: Small, command: str, front: str, line: int, said: str) -> None:
    small.write(LOG, re.sub("^sessions: .*$", lambda _: front, POST, flags=re.MULTILINE))
    result = small.weave("check") if command == "check" else small.build()
    output = result.output if command == "check" else result.stderr  # type: ignore[union-attr]
    assert (result.exit_code if command == "check" else result.returncode) == 1  # type: ignore[union-attr]
    assert re.findall(rf"^{LOG}:{line}: {re.escape(said)}", output, re.MULTILINE), output
    assert "1 problem" in output or command == "build"


def git(site: Small, *arguments: str, date: str = "2026-11-20T12:00:00") -> None:
    env = {**site.env, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": "2026-12-01T12:00:00"}
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=site.root, env=env, check=True, capture_output=True)


def test_the_log_tells_hours_and_what_was_changed(small: Small) -> None:
    """The blog plugin is on, as for the real log."""
    small.replace("mkdocs.yml", "  - search\n", "  - search\n  - blog: {blog_dir: log, post_url_format: '{slug}'}\n")
    small.write("docs/log/index.md", "# Log\n\n<!-- weave:hours -->\n")
    small.write(LOG, POST)
    small.write(
        LOG.replace("20-a-day", "24-another"),
        POST.replace("A day", "Another")
        .replace("a-day", "another")
        .replace("11-20", "11-24")
        .replace("23:30-00:15", "11:00-"),
    )
    small.write("docs/notes/cold-body.md", "# A cold body\n")
    git(small, "init", "-q")
    git(small, "add", "docs/notes/heat.md", "docs/index.md")
    git(small, "commit", "-qm", "Heat")
    small.write("code/notebooks/cold_body.py", "# %% a\n1\n")
    git(small, "add", ".")
    git(small, "commit", "-qm", "Cold", date="2026-11-24T23:59:00+09:00")
    result = small.build()
    assert result.returncode == 0, result.stdout + result.stderr

    index = small.read("site/log/index.html")
    assert "3 h 45 min on 2 days. One of 2026-11-24 is running." in index
    rows = re.findall(r"<tr>(.*?)</tr>", index)
    said = [re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", row)).strip() for row in rows]
    assert said == [
        "month hours",
        "November 2026 3:45",
        "week hours",
        "week of 23 November 2026 1:30",
        "week of 16 November 2026 2:15",
        "day entry and sessions hours",
        "2026-11-24 Another 9:00–10:30, 11:00– (running) 1:30",
        "2026-11-20 A day 9:00–10:30, 23:30–0:15 2:15",
    ]
    assert 'href="another/"' in index and 'href="a-day/"' in index

    first, second = small.read("site/log/a-day/index.html"), small.read("site/log/another/index.html")
    assert "Worked 9:00–10:30, 23:30–0:15: 2 h 15 min." in first
    assert 'Notes changed on this day: <a href="../../notes/heat/">Heat</a>.' in first
    assert "Worked 9:00–10:30, 11:00– (running): 1 h 30 min." in second
    assert '<a href="../../notes/cold-body/">A cold body</a>' in second


def test_a_shallow_clone_claims_nothing(small: Small) -> None:
    """Its oldest commit looks as if it had changed every file."""
    git(small, "init", "-q")
    for text in ("# One\n", "# Two\n"):
        small.write("docs/notes/heat.md", text)
        git(small, "add", "docs")
        git(small, "commit", "-qm", "Heat")
    git(small, "clone", "-q", "--depth", "1", f"file://{small.root}", "shallow")
    assert hours.touched(small.root, "docs/notes") == {datetime.date(2026, 11, 20): ["docs/notes/heat.md"]}
    assert hours.touched(small.root / "shallow", "docs/notes") == {}
    assert hours.touched(small.root.parent, "docs/notes") == {}, "no repository at all"
