"""`weave build` builds if anything changed since the last strict build, says what, and does nothing otherwise."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from weave.site.unchanged import change, inputs, remember

if TYPE_CHECKING:
    from conftest import Small

BUILT = "building the site: "


def test_a_second_build_builds_nothing_and_a_forced_one_does(small: Small) -> None:
    first = small.run("weave.cli", "build")
    assert first.returncode == 0 and f"{BUILT}no strict build is remembered" in first.stderr
    pages = {path: path.stat().st_ino for path in small.root.glob("site/**/*.html")}
    again = small.run("weave.cli", "build")
    assert (again.returncode, again.stderr) == (0, "") and again.stdout.startswith(
        "nothing changed since the last build"
    )
    assert {path: path.stat().st_ino for path in pages} == pages and pages
    small.write("docs/notes/heat.md", small.read("docs/notes/heat.md") + "\nIt is [0.6](#=rate).\n")
    wrong = small.run("weave.cli", "build")
    assert wrong.returncode != 0 and f"{BUILT}docs/notes/heat.md changed" in wrong.stderr
    assert small.run("weave.cli", "build").returncode != 0, "a site with a problem is never up to date"
    small.replace("docs/notes/heat.md", "[0.6]", "[0.5]")
    assert small.run("weave.cli", "build").returncode == 0
    assert BUILT in small.run("weave.cli", "build", "--force").stderr


RESULT = ".cache/weave/runs/heat/1.json"
FILES = {
    "mkdocs.yml": "site_url: !ENV [SITE_URL, '']\n",
    "docs/index.md": "# A\n",
    "code/lab.py": "x = 1\n",
    ".gitignore": "data\nsite\n",
    "data/t.csv": "1\n",
    "site/index.html": "A",
    RESULT: "{}",
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder in git with a site that counts as built."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    remember(tmp_path, inputs(tmp_path))
    assert change(tmp_path) is None
    return tmp_path


def git(root: Path, *command: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *command], cwd=root, check=True)


def same_size_and_date(root: Path) -> None:
    path = root / "code/lab.py"
    shutil.copystat(path, root / "data/t.csv")
    path.write_text("x = 2\n")
    shutil.copystat(root / "data/t.csv", path)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a page": (lambda root: (root / "docs/index.md").write_text("# B\n"), "docs/index.md changed"),
    "a new page": (lambda root: (root / "docs/b.md").write_text("# B\n"), "docs/b.md is new"),
    "a page less": (lambda root: (root / "docs/index.md").unlink(), "docs/index.md is gone"),
    "data that git ignores": (lambda root: (root / "data/t.csv").write_text("2\n"), "data/t.csv changed"),
    "a commit": (lambda root: git(root, "commit", "-q", "--allow-empty", "-m", "second"), "the commit changed"),
    "a result": (lambda root: (root / RESULT).unlink(), f"{RESULT} is gone"),
    "the site": (lambda root: (root / "site/index.html").unlink(), "site/index.html is gone"),
    "all of the site": (lambda root: shutil.rmtree(root / "site"), "site/index.html is gone"),
    "the same size, and the date set back": (same_size_and_date, "code/lab.py changed"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_any_change_is_seen_and_named(site: Path, name: str) -> None:
    act, said = CHANGES[name]
    act(site)
    assert change(site) == said


def test_a_variable_that_the_settings_name_counts(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", "any")
    assert change(site) is None
    monkeypatch.setenv("SITE_URL", "https://example.org/")
    assert change(site) == "the variable SITE_URL changed"


def test_what_other_programs_keep_does_not_count(site: Path) -> None:
    for name in (".venv/lib/x.py", ".cache/other", "node_modules/x/index.js", "code/__pycache__/lab.pyc"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("x")
    assert change(site) is None


def test_a_build_to_elsewhere_or_one_that_lets_warnings_pass_is_not_remembered(small: Small, tmp_path: Path) -> None:
    assert small.run("mkdocs", "build", "--strict", "-q", "--site-dir", str(tmp_path / "site")).returncode == 0
    assert small.run("mkdocs", "build", "-q").returncode == 0
    assert change(small.root) == "no strict build is remembered"
