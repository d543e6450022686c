"""The author's commands on the small site: what they write, what they leave alone, what they say."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import yaml
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from weave.author import log, new
from weave.author.snippets import run_snippets
from weave.book import hours, overviews
from weave.run.notebook import parse
from weave.serve.preview import Preview
from weave.source import front_matter
from weave.source.layout import Layout
from weave.source.problem import Refused

if TYPE_CHECKING:
    from conftest import Small

NAV = """
# what the reader sees
nav:
  - Home: index.md
  - Notes:   # in the order of reading
      - First steps:
          - notes/heat.md   # the only one
      - "More, later":
          - Light: notes/light.md

  - Notebooks:
      - notebooks/heat.ipynb
"""
POST = """---
title: A first body
date: 2026-11-20
slug: a-first-body
description: What cools, and how fast.
sessions: ["19:11-21:54"]
---

# A first body

**Goal.** A curve.

<!-- more -->

## TODO

- [x] Draw the curve.
- [ ] Find out whether a second body
  cools as fast, see [heat](../../notes/heat.md).

  It may not.
- [ ] Read the derivation again.

## Later

- [ ] Not a TODO.
"""
OLD = "docs/log/posts/2026-11-20-a-first-body.md"
TODAY = "docs/log/posts/2026-11-25-why-not.md"


def files(site: Small) -> dict[str, bytes]:
    """Everything that an author wrote."""
    found = {path.relative_to(site.root): path for path in site.root.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in found.items() if name.parts[0] not in (".cache", ".git")}


def at(site: Small, clock: str, *arguments: str, answer: str | None = None) -> Result:
    with mock.patch.dict("os.environ", WEAVE_NOW=f"2026-11-{clock}" if clock[2] == "T" else clock):
        return site.weave(*arguments, answer=answer)


def git(site: Small, *arguments: str, date: str = "2026-11-20T12:00:00") -> None:
    env = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    with mock.patch.dict("os.environ", env):
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=site.root, check=True, capture_output=True)


# -- a new note


def test_a_new_note_is_green_from_its_first_minute(small: Small) -> None:
    before = files(small)
    result = small.weave("new", "Attention  sinks")
    assert result.exit_code == 0, result.output
    after = files(small)
    assert after.keys() - before.keys() == {"docs/notes/attention-sinks.md", "code/notebooks/attention_sinks.py"}
    assert {name: after[name] for name in before} == before, "no nav: nothing to edit in mkdocs.yml"
    assert small.weave("run", "attention_sinks").exit_code == 0
    result = small.weave("check")
    assert result.exit_code == 0 and "4 numbers hold" in result.output, result.output
    note = small.read("docs/notes/attention-sinks.md")
    for heading in ("# Attention sinks", "## The confusion", "## What this does not show", "## Open questions"):
        assert f"\n{heading}\n" in note
    assert re.search(r"^After this note you can .+\.$", note, re.MULTILINE)
    assert "<details>\n<summary>Solution</summary>\n" in note and "\n- [ ] " in note
    assert not small.read("code/notebooks/attention_sinks.py").startswith("# ---")


def test_it_goes_into_the_navigation_and_no_other_byte_changes(small: Small) -> None:
    config = small.read("mkdocs.yml") + NAV
    small.write("mkdocs.yml", config)
    result = small.weave("new", "Sound", "--part", "First steps")
    assert result.exit_code == 0, result.output
    expected = config.replace(
        "heat.md   # the only one\n", "heat.md   # the only one\n          - notes/sound.md\n"
    ).replace("heat.ipynb\n", "heat.ipynb\n      - notebooks/sound.ipynb\n")
    assert small.read("mkdocs.yml") == expected
    small.weave("new", "Colour")
    expected = expected.replace("notes/light.md\n", "notes/light.md\n          - notes/colour.md\n")
    assert small.read("mkdocs.yml") == expected.replace(
        "sound.ipynb\n", "sound.ipynb\n      - notebooks/colour.ipynb\n"
    ), "without --part it is the last part"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["Heat"], "docs/notes/heat.md exists already and stays as it is"),
        (["Token"], "would hide Python's module 'token'"),
        (["NumPy"], "would hide Python's module 'numpy'"),
        (["∮"], "no letter or digit"),
        (["Sound", "--part", "First step"], "no part 'First step' with notes; nav has: First steps, More, later"),
    ],
)
def test_where_it_cannot_it_says_why_and_writes_nothing(small: Small, arguments: list[str], said: str) -> None:
    small.write("mkdocs.yml", small.read("mkdocs.yml") + NAV)
    before = files(small)
    result = small.weave("new", *arguments)
    assert result.exit_code == 1 and said in result.output and "Traceback" not in result.output
    assert files(small) == before


def test_a_notebook_without_its_note_is_not_overwritten(small: Small) -> None:
    small.write("code/notebooks/sound.py", "# %% mine\n")
    before = files(small)
    assert small.weave("new", "Sound").exit_code == 1
    assert files(small) == before


def test_a_nav_in_one_line_is_left_to_the_author(small: Small) -> None:
    config = small.read("mkdocs.yml") + "nav: [index.md, {Notes: [notes/heat.md]}]\n"
    small.write("mkdocs.yml", config)
    result = small.weave("new", "Sound")
    assert result.exit_code == 0 and "add notes/sound.md to nav by hand" in result.output
    assert small.read("mkdocs.yml") == config


titles = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=20)


@given(titles)
def test_any_title_gives_a_note_that_yaml_and_python_read(tmp_path_factory: pytest.TempPathFactory, title: str) -> None:
    root = tmp_path_factory.mktemp("new")
    (root / "mkdocs.yml").write_text("site_name: x\n")
    try:
        new.new(Layout(root), title, None)
    except Refused:  # no letters, or a module's name
        assert [path.name for path in root.iterdir()] == ["mkdocs.yml"]
    else:
        (note,), (notebook,) = root.glob("docs/notes/*.md"), root.glob("code/notebooks/*.py")
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", note.stem) and notebook.stem == note.stem.replace("-", "_")
        front = front_matter.meta(front_matter.read(note))
        assert front["draft"] is True and front["needs"] == []
        assert not parse("x.py", notebook.read_text("utf-8")).problems
        compile(notebook.read_text("utf-8"), "x.py", "exec")
    shutil.rmtree(root)


paths = st.sampled_from(["notes/a.md", "notes/b.md", "index.md", "notebooks/a.ipynb"])
items = st.recursive(
    paths | st.dictionaries(st.sampled_from("AB"), paths, min_size=1, max_size=1),
    lambda inner: st.dictionaries(
        st.sampled_from(["Notes", "Notebooks"]), st.lists(inner, min_size=1), min_size=1, max_size=1
    ),
    max_leaves=8,
)


@given(st.lists(items, min_size=1, max_size=4), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_any_nav_gains_the_two_pages_and_keeps_the_rest(nav: list[Any], flow: bool, end: str) -> None:
    text = (
        "# é\nsite_name: x\n"
        + ("nav: " if flow else "nav:\n")
        + yaml.dump(nav, default_flow_style=flow, width=10**6)
        + "plugins: [search]  # last\n"
    )
    text = text.replace("\n", end)
    after, said = new.add_to_nav(text, "notes/new.md", "notebooks/new.ipynb", None)
    assert len(said) == 2
    lines = after.split(end)
    added = [line for line in lines if line.strip() in ("- notes/new.md", "- notebooks/new.ipynb")]
    for line in added:
        lines.remove(line)
    assert end.join(lines) == text, "what was there is there, byte for byte"
    assert len(added) == sum("by hand" not in one for one in said)
    pages = [path for _, found in new.nav_lists(after) for _, path in found]
    assert sorted(pages) == sorted(
        [path for _, found in new.nav_lists(text) for _, path in found] + [line.strip(" -") for line in added]
    )


# -- drafts


def test_a_draft_is_served_and_not_built(small: Small) -> None:
    config = small.read("mkdocs.yml") + NAV.replace(
        "          - Light: notes/light.md\n", "          - notes/heat.md\n"
    )
    small.write("mkdocs.yml", config)
    small.weave("new", "Sound")
    small.write("code/notebooks/sound.py", "# %% a\n1 / 0\n")  # and what is wrong in it stops nothing
    ran = small.build()
    assert ran.returncode == 0, ran.stderr
    built = {path.relative_to(small.root / "site").as_posix() for path in (small.root / "site").rglob("*")}
    assert "notes/heat/index.html" in built and not any("sound" in name for name in built)
    assert "sound" not in small.read("site/notes/heat/index.html"), "nor in the navigation"
    result = small.weave("check")
    assert result.exit_code == 0
    assert re.search(r"^draft: code/notebooks/sound.py:2: .*ZeroDivisionError", result.output, re.MULTILINE), (
        result.output
    )
    small.replace("docs/notes/sound.md", "draft: true\n", "")
    assert small.weave("check").exit_code == 1, "published, it counts"


def test_while_served_a_draft_is_there_and_says_what_it_is(small: Small) -> None:
    small.weave("new", "Sound")
    with small.here():
        preview = Preview(str(small.root / "mkdocs.yml"), 8765)
        try:
            preview.fresh()
            sound, heat = preview.answer("notes/sound/"), preview.answer("notes/heat/")
            assert sound and b"<strong>Draft.</strong>" in sound[1] and preview.answer("notebooks/sound/")
            assert heat and b"<strong>Draft.</strong>" not in heat[1]
        finally:
            preview.end()


def test_mkdocs_own_server_is_refused_with_the_command_to_use(small: Small) -> None:
    result = small.run("mkdocs", "serve")
    assert result.returncode == 1 and "use `weave serve`" in result.stdout


@pytest.mark.parametrize(
    "link", ["[it](sound.md)", "![A sound.](../../code/notebooks/sound.py#measurement)", "[[sound]]"]
)
def test_a_published_page_does_not_lead_to_a_draft(small: Small, link: str) -> None:
    small.weave("new", "Sound")
    small.write("docs/notes/heat.md", small.read("docs/notes/heat.md") + f"\n{link}\n\n```text\n[x](sound.md)\n```\n")
    line = small.read("docs/notes/heat.md").splitlines().index(link) + 1
    result = small.weave("check")
    assert result.exit_code == 1
    assert (
        len(re.findall(rf"^docs/notes/heat.md:{line}: leads to \S+sound\.\w+, a draft", result.output, re.MULTILINE))
        == 1
    )
    assert "1 problem" in result.output, result.output


# -- the log


def test_an_entry_takes_over_what_the_last_one_left(small: Small) -> None:
    small.write(OLD, POST)
    result = at(small, "25T19:11", "log", "Why not?")
    assert result.exit_code == 0 and f"2 left to do from {OLD}" in result.output, result.output
    entry = small.read(TODAY)
    assert entry.endswith(
        "## TODO\n\n- [ ] Find out whether a second body\n  cools as fast, see [heat](../../notes/heat.md).\n\n"
        "  It may not.\n- [ ] Read the derivation again.\n"
    )
    assert small.read(OLD) == POST
    front = front_matter.meta(entry)
    assert front["title"] == "Why not?" and str(front["date"]) == "2026-11-25" and front["sessions"] == []
    for part in ("**Goal.**", "**Summary.**", "<!-- more -->", "## Goals for the session", "## Notes"):
        assert part in entry
    result = small.weave("check")
    assert result.exit_code == 0, result.output


def test_today_s_entry_is_never_written_over(small: Small) -> None:
    at(small, "25T19:11", "log", "Why not?")
    small.write(TODAY, small.read(TODAY) + "\nMine.\n")
    before = files(small)
    result = at(small, "25T23:59", "log", "Another")
    assert result.exit_code == 0 and f"{TODAY} is today's entry already; nothing was written" in result.output
    assert files(small) == before


def test_a_session_is_written_into_the_front_matter_and_nowhere_else(small: Small) -> None:
    small.write(
        OLD, POST.replace("2026-11-20", "2026-11-25").replace("a-first-body\n", "a-first-body\ntags: [x]  # é\n")
    )
    before = small.read(OLD)
    assert at(small, "25T22:00", "start").exit_code == 0
    assert small.read(OLD) == before.replace('"19:11-21:54"', '"19:11-21:54", "22:00-"')
    result = at(small, "25T23:05", "stop")
    assert f"{OLD}: session 22:00-23:05: 1:05 hours" in result.output
    assert small.read(OLD) == before.replace('"19:11-21:54"', '"19:11-21:54", "22:00-23:05"')


def test_start_makes_the_entry_and_says_so(small: Small) -> None:
    result = at(small, "25T20:00", "start", answer="Why not?\n")
    assert result.exit_code == 0 and "there is no log entry for today yet; it is made now" in result.output
    assert 'sessions: ["20:00-"]' in small.read(TODAY)


def test_starting_twice_and_stopping_twice_write_nothing(small: Small) -> None:
    result = at(small, "25T19:00", "stop")
    assert result.exit_code == 1 and "no session is open; weave start begins one" in result.output
    at(small, "25T20:00", "start", "Why not?")
    before = files(small)
    for clock, since in (("25T20:05", "20:00"), ("26T08:00", "2026-11-25 20:00")):
        result = at(small, clock, "start", "More")
        assert (
            result.exit_code == 1 and f"a session is open since {since} ({TODAY}); weave stop ends it" in result.output
        )
        assert files(small) == before
    at(small, "25T21:00", "stop")
    before = files(small)
    result = at(small, "25T21:01", "stop")
    assert result.exit_code == 1 and files(small) == before


def test_a_session_past_midnight_belongs_to_the_day_on_which_it_began(small: Small) -> None:
    at(small, "25T23:30", "start", "Why not?")
    result = at(small, "26T00:40", "stop")
    assert result.exit_code == 0 and "session 23:30-00:40, past midnight: 1:10 hours" in result.output
    session = front_matter.meta(small.read(TODAY))["sessions"][0]
    assert session == "23:30-00:40" and hours.sessions([session])[0].minutes == 70


def test_a_session_forgotten_for_a_day_is_left_to_the_author(small: Small) -> None:
    at(small, "25T09:00", "start", "Why not?")
    before = files(small)
    result = at(small, "26T09:00", "stop")
    assert result.exit_code == 1 and "write its end into the front matter" in result.output
    assert files(small) == before


@pytest.mark.parametrize(
    ("front", "said"),
    [
        (
            "---\ndate: 2026-11-25\nsessions:\n  - 9:00-10:00\n---\n",
            r"x.md:3: write the sessions on one line: sessions: \[",
        ),
        ("# No front matter\n", "x.md:1: no front matter"),
    ],
)
def test_an_entry_that_it_cannot_write_to_stays(small: Small, front: str, said: str) -> None:
    small.write("docs/log/posts/2026-11-25-x.md", front)
    result = at(small, "25T20:00", "start")
    assert result.exit_code == 1 and re.search(said, result.output), result.output
    assert small.read("docs/log/posts/2026-11-25-x.md") == front


bodies = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=40)
lists = st.lists(st.sampled_from(["9:00-10:15", "19:11-21:54", "23:00-0:10"]), max_size=3)
steps = st.lists(st.integers(1, 300), min_size=2, max_size=8)


@given(bodies, lists, st.sampled_from(["\n", "\r\n"]), st.booleans(), steps)
def test_any_day_keeps_every_other_byte_and_adds_up(
    tmp_path_factory: pytest.TempPathFactory, body: str, sessions: list[str], end: str, has: bool, steps: list[int]
) -> None:
    """start, stop, start, stop … at any times, in an entry of any text: sessions are there, the rest is untouched."""
    root = tmp_path_factory.mktemp("log")
    path = root / "docs/log/posts/2026-11-25-x.md"
    path.parent.mkdir(parents=True)
    line = "sessions: [" + ", ".join(f'"{one}"' for one in sessions) + "]  # mine\n"
    front = f"---\ntitle: 'é: x'\ndate: 2026-11-25\n{line if has else ''}---\n"
    text = (front + body).replace("\n", end)
    path.write_bytes(text.encode())
    clock = datetime(2026, 11, 25, 0, 0)
    for number, step in enumerate(steps[: len(steps) // 2 * 2]):
        clock = min(clock + timedelta(minutes=step), datetime(2026, 11, 25, 23, 59))
        with mock.patch.dict("os.environ", WEAVE_NOW=clock.isoformat()):
            (log.stop if number % 2 else lambda place: log.start(place, lambda: "x"))(Layout(root))
    after = path.read_bytes().decode()
    written = front_matter.meta(after)["sessions"]
    pattern = r"^sessions: \[[^\]\n]*\]" + ("" if has else r"\r?\n")
    assert re.sub(pattern, "", after, count=1, flags=re.MULTILINE) == re.sub(
        pattern, "", text, count=1, flags=re.MULTILINE if has else 0
    )
    assert written[: len(sessions) if has else 0] == (sessions if has else [])
    assert [one.minutes >= 0 for one in hours.sessions(written)] == [True] * len(written)
    assert len(written) == (len(sessions) if has else 0) + len(steps) // 2
    shutil.rmtree(root)


# -- what waits


@pytest.fixture
def waiting(small: Small) -> Small:
    """A repository of two days: tasks, one of them carried over, a draft, two notes."""
    small.write(".gitignore", ".cache/\nnode_modules\n")
    small.write(OLD, POST)
    git(small, "init", "-q")
    git(small, "add", "-A")
    git(small, "commit", "-qm", "x")
    small.write("docs/notes/heat.md", small.read("docs/notes/heat.md") + "\n- [ ] Why does it cool?\n- [x] Done.\n")
    small.weave("new", "Sound")
    at(small, "25T19:11", "log", "Why not?")
    git(small, "add", "-A")
    git(small, "commit", "-qm", "y", date="2026-11-25T12:00:00")
    return small


def test_next_shows_what_has_waited_longest(waiting: Small) -> None:
    result = at(waiting, "2026-12-02T09:00", "next")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert len(lines) <= 24
    rows = [line for line in lines[1 : lines.index("")]]
    assert [row.split()[0] for row in rows] == ["12", "12", "12", "7"], (
        "oldest first; carried tasks are as old as they are"
    )
    assert sum(TODAY in row for row in rows) == 2, "and stand where they were carried to"
    assert re.search(r"7 days  docs/notes/heat\.md:\d+  Why does it cool\?", result.output)
    assert "Done." not in result.output and "Draw the curve" not in result.output
    drafts = lines[lines.index("Drafts") + 1]
    assert drafts.split() == ["7", "days", "docs/notes/sound.md"]
    assert "docs/notes/heat.md" in lines[lines.index("Not touched for longest") + 1]


def test_a_carried_task_that_is_done_is_done(waiting: Small) -> None:
    waiting.replace(TODAY, "- [ ] Read the derivation", "- [x] Read the derivation")
    listed = waiting.weave("todo").output
    assert "Read the derivation again." not in listed
    assert listed.count("Find out whether a second body cools as fast") == 1 and f"{TODAY}:" in listed


def test_the_page_of_questions_asks_a_carried_task_once() -> None:
    def entry(day: int, *tasks: str) -> overviews.Collected:
        boxes = {"x": '<input type="checkbox" disabled checked/>', " ": '<input type="checkbox" disabled/>'}
        items = "".join(f'<li class="task-list-item">{boxes[one[0]]} {one[1:]}</li>' for one in tasks)
        date = datetime(2026, 11, day).date()
        return overviews.Collected(f"Day {day}", f"log/{day}/", f"<ul>{items}</ul>", "log", f"day-{day}", date=date)

    html = overviews.questions([entry(25, " Two", "xOne"), entry(20, " One", " Two", " Three")], "questions/")
    assert html.startswith("<p>2 questions stand open.</p>")
    assert re.findall(r"<h2 id=\"(.*?)\">|<li>(\w+)", html) == [
        ("day-25", ""),
        ("", "Two"),
        ("day-20", ""),
        ("", "Three"),
    ]


def test_stale_names_the_file_that_changed(small: Small) -> None:
    assert small.weave("stale").output == "nothing is stale\n"
    small.write("code/lab.py", "RATE = 0.25\n")
    assert "code/notebooks/heat.py: code/lab.py changed" in small.weave("stale").output
    assert "code/notebooks/heat.py  code/lab.py changed" in small.weave("next").output


# -- snippets

BLOCKS = """
```python
x = [1, 2]
x
```

!!! note

    ```python
    def f():
        return x[7]


    f()
    ```
"""


def test_snippets_run_with_live_output_and_name_the_line_of_an_error(small: Small) -> None:
    small.write("docs/notes/heat.md", small.read("docs/notes/heat.md") + BLOCKS)
    lines = small.read("docs/notes/heat.md").splitlines()
    ran = small.run("weave.cli", "snippets", "heat")
    assert ran.returncode == 1
    first, second = lines.index("x = [1, 2]") + 1, lines.index("    def f():") + 1
    assert ran.stdout == f"docs/notes/heat.md:{first}\n[1, 2]\ndocs/notes/heat.md:{second}\n"
    assert ran.stderr.endswith(f"docs/notes/heat.md:{second + 1}: IndexError: list index out of range\n")
    assert f"line {second + 4}, in <module>\n    f()\n" in ran.stderr and "rehearse.py" not in ran.stderr
    small.replace("docs/notes/heat.md", "x[7]", "x[1]")
    ran = small.run("weave.cli", "snippets", "docs/notes/heat.md")
    assert ran.returncode == 0 and ran.stdout.endswith("\n2\n2 snippets ran\n")


def test_snippets_are_found_whatever_ends_the_lines(small: Small) -> None:
    small.write("docs/notes/other.md", "# Other\r\n\r\n```python\r\n1 / 0\r\n```\r\n")
    result = small.weave("snippets", "other")
    assert result.exit_code == 1 and "docs/notes/other.md:4: ZeroDivisionError" in result.output


@pytest.mark.parametrize("command", [["start", "x"], ["next"], ["check"]])
def test_a_day_that_is_none_is_told_and_stops_no_command(small: Small, command: list[str]) -> None:
    small.write("docs/log/posts/2026-11-30-x.md", "---\ndate: 2026-11-31\nsessions: []\n---\n\n# X\n")
    small.replace("docs/notes/heat.md", "title: Heat", "title: Heat\ndate: 2026-02-30")
    result = small.weave(*command)
    assert isinstance(result.exception, SystemExit | None), result.exception
    if command == ["check"]:
        assert "x.md:2: 'date' cannot be 2026-11-31; write a day" in result.output


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "127.0.0.1:²", "127.0.0.1"])
def test_an_address_that_is_none(small: Small, address: str) -> None:
    result = small.weave("serve", "--addr", address)
    assert result.exit_code == 1 and f"'{address}' is not an address; write it as 127.0.0.1:8000" in result.output


def test_an_exit_in_a_snippet_is_an_error_like_any_other() -> None:
    problem = run_snippets("docs/n.md", "```python\nimport sys\nsys.exit(3)\n```\n")
    assert str(problem) == "docs/n.md:3: SystemExit: 3"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["snippets", "haet"], "no page 'haet' in docs; it has: heat"),
        (["stop"], "no session is open"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
    ],
)
def test_bad_names_are_answered_with_good_ones(small: Small, command: list[str], said: str) -> None:
    result = small.weave(*command)
    assert result.exit_code != 0 and said in result.output and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("config", "said"),
    [(None, "no mkdocs.yml in this folder"), ("a: [", "mkdocs.yml:1: not YAML"), (b"\xff", "not UTF-8")],
)
def test_without_a_site_every_command_says_so(bare: Small, config: str | bytes | None, said: str) -> None:
    (bare.root / "mkdocs.yml").unlink()
    if config:
        bare.write("mkdocs.yml", config)
    for command in (["new", "x"], ["log", "x"], ["start", "x"], ["stop"], ["snippets", "x"]):
        result = bare.weave(*command)
        assert result.exit_code == 1 and said in result.output, command


# -- help and completion


def test_every_command_explains_itself_with_an_example(small: Small) -> None:
    listed = re.findall(r"^  (\w+)  +\S", small.weave("--help").output.partition("Commands:")[2], re.MULTILINE)
    assert {"new", "log", "start", "stop", "next", "stale", "snippets", "completion"} <= set(listed)
    for name in ("new", "log", "start", "stop", "next", "stale", "snippets"):
        assert re.search(rf"^  weave {name}", small.weave(name, "--help").output, re.MULTILINE), name


def complete(site: Small, *words: str) -> list[str]:
    env = {"_WEAVE_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["weave", *words]), "COMP_CWORD": str(len(words))}
    with site.here(), mock.patch.dict("os.environ", env):
        from click.shell_completion import BashComplete

        from weave.cli import main

        return [
            line.partition(",")[2] for line in BashComplete(main, {}, "weave", "_WEAVE_COMPLETE").complete().split("\n")
        ]


def test_names_complete(small: Small) -> None:
    small.weave("new", "Heavy water")
    assert complete(small, "run", "he") == ["heat", "heavy_water"]
    assert complete(small, "run", "heat", "heav") == ["heavy_water"]
    assert complete(small, "snippets", "hea") == ["heat", "heavy-water"]
    assert complete(small, "completion", "z") == ["zsh"]
    assert {"start", "stop", "stale", "snippets"} <= set(complete(small, "s"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_says_how_to_enable_it_and_its_shell_takes_it(small: Small, shell: str) -> None:
    script = small.weave("completion", shell).output
    assert re.match(rf"# .*weave completion {shell}.*config|# .*weave completion {shell}.*rc", script)
    if found := shutil.which(shell):
        ran = subprocess.run([found, "-n"], input=script, text=True, capture_output=True)
        assert ran.returncode == 0, ran.stderr


def test_a_note_that_was_half_begun_is_finished(small: Small) -> None:
    small.write("mkdocs.yml", small.read("mkdocs.yml") + NAV)
    before = small.read("mkdocs.yml")
    assert small.weave("new", "Sound").exit_code == 0
    whole = files(small)
    (small.root / "code/notebooks/sound.py").unlink()  # stopped after its first file
    small.write("mkdocs.yml", before)
    assert small.weave("new", "Sound").exit_code == 0
    assert files(small) == whole
    small.write("mkdocs.yml", before)  # stopped before the navigation
    assert small.weave("new", "Sound").exit_code == 0
    assert files(small) == whole
    result = small.weave("new", "Sound")
    assert result.exit_code == 1 and "exists already" in result.output and files(small) == whole


def test_the_help_of_each_command_is_a_whole_sentence(small: Small) -> None:
    text = " ".join(small.weave("--help").output.partition("Commands:")[2].split())
    assert "..." not in text
    assert "Rename the note OLD (tensor-products) to NEW, with its notebook, wherever they are named" in text


def test_a_full_disk_is_a_sentence_and_leaves_no_file(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(small)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.link", full)
    monkeypatch.setattr("os.replace", full)
    for command in (["new", "Sound"], ["log", "A day"]):
        result = small.weave(*command)
        assert result.exit_code == 1 and "No space left on device" in result.output, result.output
        assert "Traceback" not in result.output and isinstance(result.exception, SystemExit)
    assert files(small) == before
