"""The files in .vscode: snippets that weave accepts as they are, tasks that exist, schemas that are found."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from weave.cli import main as weave

if TYPE_CHECKING:
    from conftest import Small

ROOT = Path(__file__).parents[3]
EDITOR = ROOT / ".vscode"
SNIPPETS: dict[str, dict[str, Any]] = json.loads((EDITOR / "weave.code-snippets").read_text("utf-8"))
TASKS: list[dict[str, Any]] = json.loads((EDITOR / "tasks.json").read_text("utf-8"))["tasks"]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def expand(body: str, variables: dict[str, str]) -> str:
    """A snippet as it stands when every default is taken: the grammar of VS Code's snippets, as far as ours use it."""
    position, defaults = 0, dict[str, str]()

    def text(inside: bool) -> str:
        nonlocal position
        out = ""
        while position < len(body):
            if body[position] == "\\":
                out, position = out + body[position + 1], position + 2
            elif body[position] == "$":
                position += 1
                out += field()
            elif inside and body[position] == "}":
                position += 1
                return out
            else:
                out, position = out + body[position], position + 1
        assert not inside, "a placeholder does not end"
        return out

    def field() -> str:
        nonlocal position
        match = re.compile(r"(\{)?(\d+|[A-Z_]+)").match(body, position)
        assert match, f"${body[position : position + 9]} is no field; a dollar sign is written \\$"
        name, position = match[2], match.end()
        known = (lambda: defaults.get(name, "")) if name.isdigit() else (lambda: variables[name])
        if not match[1]:
            return known()
        mark, position = body[position], position + 1
        if mark == "}":
            return known()
        if mark == ":":
            defaults[name] = text(inside=True)
            return defaults[name]
        if mark == "|":
            choices, position = body[position : (end := body.index("|}", position))].split(","), end + 2
            defaults[name] = choices[0]
            return choices[0]
        assert mark == "/"
        old, new, flags = body[position : (end := body.index("}", position))].split("/")
        position = end + 1
        assert flags == "g"
        return re.sub(old, new, known())

    return text(inside=False)


def snippet(name: str, file: str) -> str:
    body = SNIPPETS[name]["body"]
    date = {"CURRENT_YEAR": "2026", "CURRENT_MONTH": "03", "CURRENT_DATE": "09"}
    return expand(body if isinstance(body, str) else "\n".join(body), {"TM_FILENAME_BASE": Path(file).stem, **date})


def test_the_expander_itself() -> None:
    assert expand("a ${1:b ${V/-/_/g}} $1 ${2|x,y|} \\$c ${3}$0", {"V": "p-q-r"}) == "a b p_q_r b p_q_r x $c "
    with pytest.raises(AssertionError, match="a dollar sign is written"):
        expand("$a$", {})


@pytest.mark.parametrize("file", sorted(EDITOR.iterdir()), ids=lambda file: file.name)
def test_every_file_is_plain_json_and_in_git(file: Path) -> None:
    json.loads(file.read_text("utf-8"))
    assert not re.search(r"^/?\.vscode|^\.\*", (ROOT / ".gitignore").read_text("utf-8"), re.MULTILINE)


def test_all_snippets_as_they_come_make_a_site_that_weave_accepts(small: Small) -> None:
    used = set()

    def put(name: str, file: str) -> str:
        used.add(name)
        return snippet(name, file)

    note, notebook, test = "docs/notes/new-note.md", "code/notebooks/new_note.py", "tests/residual/test_new_note.py"
    parts = "\n\n".join([f"It is {put('Claim', note)}.", put("Embedded cell", note), put("Theorem", note)])
    frame, marked = put("Note", note), "I thought, and why it cannot be so.\n\n"
    assert marked in frame
    small.write(note, frame.replace(marked, f"{marked}{parts}\n\n"))
    small.write(notebook, put("Notebook", notebook) + "\n\n" + put("Named cell", notebook) + "1 + 1\n")
    small.write(test, put("Theorem's test", test) + "\n")
    entry = put("Log entry", "docs/log/posts/today.md")
    small.write("docs/log/posts/today.md", entry)
    assert used == set(SNIPPETS)

    result = small.weave("check")
    assert result.exit_code == 0, result.output
    assert "3 numbers hold, 2 references to theorems have a test" in result.output  # two and one are the site's own
    assert small.weave("lint").exit_code == 0
    assert "date: 2026-03-09\n" in entry and "needs: []\n" in small.read(note)
    runpy.run_path(str(small.root / test))["test_addition_commutes"]()


def test_each_snippet_is_for_the_files_where_it_belongs() -> None:
    for name, one in SNIPPETS.items():
        assert one["scope"] in ("markdown", "python") and one["description"], name
    prefixes = [one["prefix"] for one in SNIPPETS.values()]
    assert len(set(prefixes)) == len(prefixes)


def test_tasks_name_commands_that_exist() -> None:
    assert [task["label"] for task in TASKS] == ["serve", "check", "fix", "run this notebook", "verify"]
    for task in TASKS:
        command, name, *rest = task["command"].split()
        if command == "make":
            assert re.search(rf"^{name}:.*##", MAKEFILE, re.MULTILINE) and not rest
        else:
            assert command == ".venv/bin/weave" and name in weave.commands
            assert rest == ["${fileBasenameNoExtension}"]


def test_tasks_find_what_weave_says(small: Small) -> None:
    """A problem in a terminal is one in the editor, at its line."""
    small.replace("docs/notes/heat.md", "[0.5]", "[0.6]")
    (line,) = [one for one in small.weave("check").output.splitlines() if "0.6" in one]
    for task in TASKS:
        matcher = task["problemMatcher"]
        if matcher:
            pattern = matcher["pattern"]
            match = re.fullmatch(pattern["regexp"], line)
            assert match and match[pattern["file"]] == "docs/notes/heat.md" and match[pattern["line"]] == "8"
            assert match[pattern["message"]].startswith("the note says 0.6; heat.py computed 0.5")
    assert [task["label"] for task in TASKS if not task["problemMatcher"]] == ["fix"]  # it asks, in the terminal


def test_schemas_are_where_the_settings_say() -> None:
    settings = json.loads((EDITOR / "settings.json").read_text("utf-8"))
    mapped = settings["yaml.schemas"]
    assert {(ROOT / name).resolve() for name in mapped} == set((ROOT / "code/weave/source/schemas").glob("*.json"))
    for globs in mapped.values():
        for glob in [globs] if isinstance(globs, str) else globs:
            assert list(ROOT.glob(glob)), f"{glob} matches nothing"
