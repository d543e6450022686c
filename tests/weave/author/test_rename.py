"""``weave rename`` moves a note with everything that names it, or changes nothing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from weave import cli
from weave.site.build import open_book

if TYPE_CHECKING:
    from conftest import Small

ROOT = Path(__file__).parents[3]
OTHER = """---
description: About heat.
needs: [heat]
---

# Flow

[[heat]], [[How heat decays]], [[heat#On $\\alpha$ decay|there]], [[notes/heat]], [h](heat.md#on-alpha-decay),
`[[heat]]`.
[0.5](../../code/notebooks/heat.py#=rate), [the theorem](../../tests/test_heat.py#test_cools), `weave run heat`.

| a |
|---|
| [[HOW heat decays]] |

![It falls.](../../code/notebooks/heat.py?code#decay)

[ref]: <./heat.md>

```sh
python code/notebooks/heat.py   # heat
```
"""


@pytest.fixture
def full(small: Small) -> Small:
    small.write("docs/notes/heat-flow.md", OTHER)
    small.write(
        "docs/log/first.md",
        '# First\n\nSee [[heat]], [heat](../notes/heat.md) and <a href="https://example.org/repo/notes/heat/">it</a>.\n',
    )
    small.write("README.md", "[A note](docs/notes/heat.md) and `code/notebooks/heat.py`.\n")
    small.write("tests/test_paths.py", 'NOTE = "docs/notes/heat.md"\nPAGE = "notes/heat/"\nOURS = "notes/heat-flow/"\n')
    small.replace(
        "mkdocs.yml",
        "plugins:",
        "nav:\n  - How heat decays: notes/heat.md\n  - notes/heat-flow.md\n  - notebooks/heat.ipynb\nplugins:",
    )
    small.replace(
        "code/notebooks/heat.py", "is positive.", "is positive: [[heat]], heat.py, [n](../../docs/notes/heat.md)."
    )
    return small


def state(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file() and "node_modules" not in path.parts)
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_everything_that_names_a_note_follows(full: Small) -> None:
    assert full.weave("check").exit_code == 0
    result = full.weave("rename", "heat", "cooling", "How bodies cool", "--yes")
    assert result.exit_code == 0, result.output
    assert "docs/notes/heat.md → docs/notes/cooling.md\n" in result.output
    assert "\n-# How heat decays\n+# How bodies cool\n" in result.output
    note, notebook = full.read("docs/notes/cooling.md"), full.read("code/notebooks/cooling.py")
    assert not (full.root / "docs/notes/heat.md").exists() and not (full.root / "code/notebooks/heat.py").exists()
    assert "title: How bodies cool\n" in note and "[0.5](../../code/notebooks/cooling.py#=rate)" in note
    assert "positive: [[cooling]], cooling.py, [n](../../docs/notes/cooling.md)." in notebook
    flow = full.read("docs/notes/heat-flow.md")
    assert "needs: [cooling]" in flow
    assert (
        "[[cooling]], [[cooling|How heat decays]], [[cooling#On $\\alpha$ decay|there]], [[notes/cooling]], "
        "[h](cooling.md#on-alpha-decay),\n`[[heat]]`.\n"
        "[0.5](../../code/notebooks/cooling.py#=rate), [the theorem](../../tests/test_heat.py#test_cools), "
        "`weave run cooling`." in flow
    )
    assert "| [[cooling\\|HOW heat decays]] |" in flow and "cooling.py?code#decay" in flow
    assert "[ref]: <./cooling.md>" in flow and "python code/notebooks/cooling.py   # heat" in flow
    assert (
        '[[cooling]], [heat](../notes/cooling.md) and <a href="https://example.org/repo/notes/cooling/">'
        in full.read("docs/log/first.md")
    )
    assert full.read("README.md") == "[A note](docs/notes/cooling.md) and `code/notebooks/cooling.py`.\n"
    assert full.read("tests/test_paths.py").splitlines() == [
        'NOTE = "docs/notes/cooling.md"',
        'PAGE = "notes/cooling/"',
        'OURS = "notes/heat-flow/"',
    ]
    nav = "  - How bodies cool: notes/cooling.md\n  - notes/heat-flow.md\n  - notebooks/cooling.ipynb\n"
    assert nav in full.read("mkdocs.yml")
    result = full.weave("check")
    assert result.exit_code == 0 and "runs" not in result.output, result.output  # what it computed came along


def test_without_a_new_title_links_by_title_stay(full: Small) -> None:
    full.weave("rename", "docs/notes/heat.md", "cooling", "--yes")
    flow = full.read("docs/notes/heat-flow.md")
    assert "[[cooling]], [[How heat decays]], [[cooling#On $\\alpha$ decay|there]]" in flow
    assert "| [[HOW heat decays]] |" in flow and full.weave("check").exit_code == 0


def test_there_and_back_is_nothing(full: Small) -> None:
    before = state(full.root)
    full.weave("rename", "heat", "cooling-down", "--yes")
    assert state(full.root) != before
    full.weave("rename", "cooling-down", "heat", "--yes")
    assert state(full.root) == before


def test_it_asks_first(full: Small) -> None:
    before = state(full.root)
    result = full.weave("rename", "heat", "cooling", answer="n\n")
    assert re.search(r"rename 2 and rewrite \d+ files\? \[y/N\]", result.output) and state(full.root) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("heet", "cooling"), "no note 'heet' in docs/notes/; it has: heat, heat-flow"),
        (("heat", "heat-flow"), "docs/notes/heat-flow.md exists already"),
        (("heat", "Cool Down"), "'Cool Down' cannot name a note; use small letters and digits"),
        (("heat", "../x"), "'../x' cannot name a note"),
        (("heat", "queue"), "a notebook queue.py would hide Python's own module"),
        (("heat", "lab"), "code/notebooks/lab.py exists already"),
        (("heat", "cooling", "Flow"), "docs/notes/heat-flow.md is called 'Flow' already"),
    ],
)
def test_a_name_that_cannot_be_is_refused(full: Small, arguments: tuple[str, ...], said: str) -> None:
    full.write("code/notebooks/lab.py", "# %% x\n1\n")
    before = state(full.root)
    result = full.weave("rename", *arguments, "--yes")
    assert result.exit_code == 1 and said in result.output and "nothing was changed" in result.output
    assert "Traceback" not in result.output and state(full.root) == before


@pytest.mark.parametrize(
    ("path", "data", "said"),
    [
        (
            "docs/notes/heat.md",
            b"---\ntitle: [\n---\n\n# Heat\n",
            "docs/notes/heat.md:1: cannot read the lines between",
        ),
        ("docs/notes/other.md", b"# Other\n\n\xff [[heat]]\n", "docs/notes/other.md:3: not UTF-8"),
        ("code/notebooks/heat.py", b"# %% a b c\n1\n# %%% {]\n", "code/notebooks/heat.py:"),
        ("tests/test_paths.py", b"x = (\n'notes/heat.md'\n", "tests/test_paths.py:1: '(' was never closed"),
    ],
)
def test_what_cannot_be_read_is_left_alone(full: Small, path: str, data: bytes, said: str) -> None:
    full.write(path, data)
    before = state(full.root)
    result = full.weave("rename", "heat", "cooling", "--yes")
    assert result.exit_code == 1 and said in result.output, result.output
    assert "Traceback" not in result.output and state(full.root) == before


def test_a_note_without_a_notebook_and_a_scan_beside_it(full: Small) -> None:
    full.write("docs/notes/heat-flow.pdf", b"%PDF-1.4")
    result = full.weave("rename", "heat-flow", "flow", "--yes")
    assert result.exit_code == 0, result.output
    assert (full.root / "docs/notes/flow.pdf").read_bytes() == b"%PDF-1.4"
    assert not (full.root / "docs/notes/heat-flow.pdf").exists()
    assert 'OURS = "notes/flow/"' in full.read("tests/test_paths.py")
    result = full.weave("check")
    assert result.exit_code == 0, result.output


def test_every_note_of_this_site_can_be_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the old name is left in a path or link, in a copy of the real pages, notebooks and tests."""
    for folder in ("docs", "code/notebooks", "tests", "code/live"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("mkdocs.yml", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for note in sorted((ROOT / "docs/notes").glob("*.md")):
        old, stem = note.stem, note.stem.replace("-", "_")
        result = CliRunner().invoke(cli.main, ["rename", old, f"{old}-renamed", f"Renamed {old}", "--yes"])
        assert result.exit_code == 0, result.output
        texts = {
            path: path.read_text() for path in tmp_path.rglob("*") if path.suffix in (".md", ".py", ".yml", ".mjs")
        }
        gone = re.compile(rf"(?:notes/{old}|notebooks/{stem}|\({old}\.md)(?![\w-])")
        assert [str(path) for path, text in texts.items() if gone.search(text)] == []
        front = texts[tmp_path / f"docs/notes/{old}-renamed.md"]
        assert f"\n# Renamed {old}\n" in front
    assert open_book().names.problems == []
    for path, text in texts.items():
        for link in re.findall(r"\]\(([^)#?\s]+\.(?:md|py))[)#?]", text) if path.suffix == ".md" else []:
            if not link.startswith("http") and "/residual/" not in link:
                assert (path.parent / link).exists() or path.name == "README.md", f"{path}: {link}"


def test_line_ends_and_rights_stay(full: Small) -> None:
    """Every file as Windows writes it; only what is named another way differs."""
    paths = [*full.root.glob("docs/**/*.md"), *full.root.glob("code/**/*.py"), *full.root.glob("tests/*.py")]
    before = {path: path.read_bytes() for path in paths}
    full.weave("rename", "heat", "cooling", "How bodies cool", "--yes")
    expected = {path: path.read_bytes() for path in full.root.glob("[dct]*/**/*.[mp][dy]")}
    for path in expected:
        path.unlink()
    for path, data in before.items():
        path.write_bytes(data.replace(b"\n", b"\r\n"))
    (full.root / "tests/test_paths.py").chmod(0o755)
    (full.root / "code/notebooks/heat.py").chmod(0o755)
    full.replace("mkdocs.yml", "cooling", "heat")
    result = full.weave("rename", "heat", "cooling", "How bodies cool", "--yes")
    assert result.exit_code == 0, result.output
    for path, data in expected.items():
        assert path.read_bytes() == data.replace(b"\n", b"\r\n"), path
    for name in ("tests/test_paths.py", "code/notebooks/cooling.py"):
        assert (full.root / name).stat().st_mode & 0o777 == 0o755


def test_a_note_that_is_a_symbolic_link_is_left_alone(full: Small) -> None:
    (full.root / "docs/notes/heat.md").rename(full.root / "heat.md")
    (full.root / "docs/notes/heat.md").symlink_to("../../heat.md")
    before = state(full.root)
    result = full.weave("rename", "heat", "cooling", "--yes")
    assert result.exit_code == 1 and "docs/notes/heat.md is a symbolic link;" in result.output
    assert "nothing was changed" in result.output and state(full.root) == before


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("at", range(1, 9))
def test_a_rename_that_was_stopped_is_told_and_finished(full: Small, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Stopped at each of its writes in turn: said again, it ends as if it had never been stopped."""
    whole = Path(shutil.copytree(full.root, full.root.with_name(f"{full.root.name}-whole-{at}"), symlinks=True))
    arguments = ("rename", "heat", "cooling", "How cooling goes", "--yes")
    assert type(full)(whole).weave(*arguments).exit_code == 0
    replace, count = os.replace, 0

    def stop(old: str, new: str) -> None:
        nonlocal count
        count += 1
        if count == at:
            raise Killed
        replace(old, new)

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", stop)
        with contextlib.suppress(Killed):
            full.weave(*arguments)
    assert count == at
    if at > 1:  # before the first, nothing has begun
        assert "weave rename heat cooling" in full.weave("check").output
        refused = full.weave("rename", "heat", "other", "--yes")
        assert refused.exit_code == 1 and "weave rename heat cooling" in refused.output
    assert full.weave(*arguments).exit_code == 0

    def files(root: Path) -> dict[str, bytes]:
        paths = [path for path in root.rglob("*") if path.is_file() and not {".cache", "node_modules"} & {*path.parts}]
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths if path.suffix != ".pyc"}

    assert files(full.root) == files(whole)
