"""Front matter and mkdocs.yml are held against the schemas that editors use; a slip gives its line and the cure."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from weave.site.plugin import WeaveConfig
from weave.source import front_matter as settings
from weave.source.layout import Layout
from weave.source.problem import Problem

if TYPE_CHECKING:
    from conftest import Small

ROOT = Path(__file__).parents[3]
SCHEMAS = sorted((ROOT / "code/weave/source/schemas").glob("*.json"))
TEXT = "a text; in quotes where it looks like a number or has a colon"


def matches(said: str, line: str) -> bool:
    return re.fullmatch(re.escape(said).replace(r"\*", ".*"), line) is not None


def said(front: str, path: str = "docs/notes/x.md", root: Path = Path("nowhere")) -> list[str]:
    problems = settings.problems(Layout(root), path, f"---\n{front}---\n\n# X\n")
    assert all(problem.path == path for problem in problems)
    return [f"{problem.line}: {problem.message}" for problem in problems]


@pytest.mark.parametrize("file", SCHEMAS, ids=lambda file: file.stem)
def test_each_schema_is_one_and_says_of_every_value_what_is_allowed(file: Path) -> None:
    schema = json.loads(file.read_text("utf-8"))
    Draft202012Validator.check_schema(schema)

    def undescribed(part: object, place: str) -> list[str]:
        if not isinstance(part, dict):
            return []
        found = []
        for name, value in part.get("properties", {}).items():
            if "description" not in value and "$ref" not in value:
                found.append(f"{place}/{name}")
            found += undescribed(value, f"{place}/{name}")
        if "items" in part and "$ref" not in part["items"]:
            found += [f"{place}[]"] if "description" not in part["items"] else []
        return found + [one for name, value in part.get("$defs", {}).items() for one in undescribed(value, name)]

    assert undescribed(schema, "") == []


def test_the_schema_of_mkdocs_yml_knows_the_plugin_s_options_and_no_other() -> None:
    ours = settings.schema("mkdocs")["$defs"]["plugin"]["properties"]["weave"]["properties"]
    real = WeaveConfig()
    assert {name: one["default"] for name, one in ours.items()} == {name: real[name] for name in real}
    kinds = {"string": str, "array": list, "integer": int}
    assert all(isinstance(real[name], kinds[one["type"]]) for name, one in ours.items())


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ("title: X\ndescription: A thing.\n", []),
        ("", []),
        ("title: X\nneds: [a]\n", ["3: no key 'neds' is known here; a note has: needs, *"]),
        ("date: 2026-11-24\n", ["2: no key 'date' is known here; a note has: *"]),
        ("title: 2026\n", [f"2: 'title' cannot be 2026; write {TEXT}"]),
        ("description: A.\ntitle:\n", [f"3: 'title' is empty; write {TEXT}"]),
        ("title: X\n\nneeds: transformer\n", ["4: 'needs' cannot be transformer; write a list of the notes to read *"]),
        ("needs:\n  - a\n  - A b\n", ["4: 'needs' cannot be A b; write the name of a note's file, without .md"]),
        ("needs: [a, a]\n", ["2: 'needs' cannot be [a, a]; write a list of the notes to read before, each once, *"]),
        ("hide: [tocs]\n", ["2: 'hide' cannot be tocs; write navigation, toc, path, footer, feedback or tags"]),
        ("title: A: b\n", ["2: not YAML: mapping values are not allowed here; put a text with a colon *"]),
        ("title: X\ndescription: `a`\n", ["3: not YAML: found character '`' that cannot start any token; *"]),
        ("title: 'X\n", ["*: not YAML: *"]),
        ("- title\n", ["2: not front matter: write lines of key: value between the two ---"]),
        ("titl: X\ndescr: Y\n", ["2: no key 'titl' *", "3: no key 'descr' is known here; *description*"]),
        ("1: X\n", ["2: no key '1' is known here; *"]),
        ("needs: &a [*a]\n", ["2: *"]),
        ("? [a]\n: b\n", ["*"]),
    ],
)
def test_a_note_s_slips(front: str, expected: list[str]) -> None:
    lines = said(front)
    assert len(lines) == len(expected), lines
    assert all(matches(one, line) for one, line in zip(expected, lines, strict=True)), lines


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ('date: 2026-11-24\nsessions: ["9:30-11:45", "23:10–0:20"]\nslug: a-b\n', []),
        ("date: {created: 2026-11-24, updated: 2026-11-25}\n", []),
        ("title: X\n", ["2: a log entry lacks 'date'; add date: a day: 2026-11-24"]),
        ("date: 24.11.2026\n", ["2: 'date' cannot be 24.11.2026; write a day: 2026-11-24"]),
        ("date: 2026-11-31\n", ["2: 'date' cannot be 2026-11-31; write a day: 2026-11-24"]),
        ("date: 2026-11-24\nslug: A b\n", ["3: 'slug' cannot be A b; write what the address ends in: *"]),
        ("date: 2026-11-24\nneeds: [a]\n", ["3: no key 'needs' is known here; a log entry has: *"]),
    ],
)
def test_a_log_entry_s_slips(front: str, expected: list[str]) -> None:
    lines = said(front, "docs/log/posts/x.md")
    assert len(lines) == len(expected), lines
    assert all(matches(one, line) for one, line in zip(expected, lines, strict=True)), lines


def test_other_pages() -> None:
    assert said("title: X\nhide: [toc]\nsearch: {exclude: true}\n", "docs/index.md") == []
    (line,) = said("title: X\nsearch: {excl: true}\n", "docs/pages/x.md")
    assert line == "3: no key 'excl' is known here; 'search' has: exclude, boost"


def test_a_front_matter_that_does_not_end() -> None:
    text = "---\ntitle: X\n\n# X\n"
    (problem,) = settings.problems(Layout(Path("nowhere")), "docs/notes/x.md", text)
    assert problem.line == 1 and "does not end; put --- below it" in problem.message
    assert settings.problems(Layout(Path("nowhere")), "docs/notes/x.md", "---\n\nA rule above.\n") == []


def test_notes_that_a_note_needs_are_there(tmp_path: Path) -> None:
    (tmp_path / "docs/notes").mkdir(parents=True)
    for name in ("x", "transformer"):
        (tmp_path / f"docs/notes/{name}.md").touch()
    assert said("needs: [transformer]\n", root=tmp_path) == []
    assert said("needs:\n  - transformer\n  - transformr\n", root=tmp_path) == [
        "4: needs 'transformr', which is not a note beside it; its folder has: transformer"
    ]
    assert said("needs: [x]\n", root=tmp_path)[0].startswith("2: needs 'x', which is not a note beside it")


def test_check_and_build_say_it_and_publish_nothing(small: Small) -> None:
    small.replace("docs/notes/heat.md", "description:", "descriptionn:")
    expected = "docs/notes/heat.md:3: no key 'descriptionn' is known here; a note has: description, "
    result = small.weave("check")
    assert result.exit_code == 1 and expected in result.output
    build = small.build()
    assert build.returncode == 1 and expected in build.stderr
    assert not (small.root / "site").exists()


def test_the_author_s_part_of_mkdocs_yml(small: Small) -> None:
    good = small.read("mkdocs.yml")
    author = 'extra: {author: {name: "A. Person", links: [https://example.org]}}\n'
    small.write("mkdocs.yml", good + author)
    assert small.weave("check").exit_code == 0
    lines = good.count("\n")
    for slip, line, expected in (
        ("extra:\n  author:\n    nama: A\n", 3, "no key 'nama' is known here; 'author' has: name, links"),
        ("extra: {author: A. Person}\n", 1, "'author' cannot be A. Person; write name and links"),
        ("extra:\n  author:\n    links: [example.org]\n", 3, "'links' cannot be example.org; write an address: *"),
    ):
        small.write("mkdocs.yml", good + slip)
        result = small.weave("check")
        assert result.exit_code == 1
        assert f"mkdocs.yml:{lines + line}: {expected.rstrip('*')}" in result.output
        assert small.build().returncode == 1


def test_this_repository_s_own() -> None:
    layout = Layout(ROOT)
    assert settings.mkdocs_yml(layout) == []
    pages = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert [one for path in pages for one in settings.problems(layout, path, layout.read(path))] == []


@given(st.text(st.sampled_from("a:[]{}-\n'\"#&*!|>?%@`,1 é\t"), max_size=40))
def test_whatever_is_written_gives_lines_of_the_file_and_no_traceback(front: str) -> None:
    for path in ("docs/notes/x.md", "docs/log/posts/x.md"):
        text = f"---\n{front}\n---\n\nX\n"
        problems = settings.problems(Layout(Path("nowhere")), path, text)
        assert all(isinstance(one, Problem) and 1 <= one.line <= text.count("\n") for one in problems)
