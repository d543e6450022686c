"""The checks that git runs before a commit refuse mistakes, spelling included."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from conftest import Small

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / ".pre-commit-config.yaml"
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
HOOKS = [hook for repo in yaml.safe_load(CONFIG.read_text("utf-8"))["repos"] for hook in repo["hooks"]]


@pytest.fixture(scope="module")
def committed(new_small: Callable[[], Small]) -> Small:
    """The small site in git, with this repository's hooks."""
    site = new_small()
    for name in (".pre-commit-config.yaml", "pyproject.toml", ".gitignore"):
        site.write(name, (ROOT / name).read_bytes())
    (site.root / ".venv").symlink_to(sys.prefix)
    with (site.root / ".gitignore").open("a") as file:
        file.write(".venv\nnode_modules\n")
    git(site, "init", "-q")
    site.run("ruff", "format", "-q", ".")
    git(site, "add", ".")
    installed = site.run("pre_commit", "install")
    assert installed.returncode == 0, installed.stdout + installed.stderr
    first = git(site, "commit", "-qm", "The small site", "--no-verify")
    assert first.returncode == 0, first.stdout + first.stderr
    return site


@pytest.fixture
def repository(committed: Small) -> Small:
    git(committed, "reset", "-q", "--hard")
    return committed


def git(site: Small, *command: str) -> subprocess.CompletedProcess[str]:
    who = {f"GIT_{role}_{what}": "a@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    outside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env = {**outside, **site.env, **who, "PRE_COMMIT_HOME": str(site.root / ".cache/pre-commit")}
    return subprocess.run(["git", *command], cwd=site.root, env=env, capture_output=True, text=True, timeout=120)


MISTAKES = [  # hook, file, what is added to it, what the hook says
    ("ruff", "code/lab.py", "import os\n", "`os` imported but unused"),
    ("spelling", "docs/notes/heat.md", "\nIt cools seperately.\n", "seperately ==> separately"),  # codespell:ignore
    ("claims", "docs/notes/heat.md", "\n[0.6](../../code/notebooks/heat.py#=rate)\n", "heat.py computed 0.5"),
    ("numbers", "docs/notes/heat.md", "\n10 of 12 bodies.\n", "10 of 12 equals heads of heat.py"),
]


def test_each_hook_refuses_what_it_is_for(repository: Small) -> None:
    for _, path, added, _ in MISTAKES:
        repository.write(path, repository.read(path) + added)
    git(repository, "add", ".")
    before = git(repository, "rev-parse", "HEAD").stdout
    ran = git(repository, "commit", "-qm", "Wrong")
    assert ran.returncode == 1
    for hook, _, _, said in MISTAKES:
        said_by = re.search(
            rf"^- hook id: {hook}\n(.*?)(?=^\S[^\n]*\.\.\.|\Z)", ran.stdout + ran.stderr, re.MULTILINE | re.DOTALL
        )
        assert said_by and said in said_by[1], ran.stdout + ran.stderr
    assert git(repository, "rev-parse", "HEAD").stdout == before


def test_what_is_right_is_committed(repository: Small) -> None:
    repository.write("docs/notes/heat.md", repository.read("docs/notes/heat.md") + "\nIt cools.\n")
    repository.write("code/lab.py", "RATE = 0.5\nOTHER = 1\n")
    git(repository, "add", ".")
    ran = git(repository, "commit", "-qm", "Right")
    assert ran.returncode == 0 and (ran.stdout + ran.stderr).count("Passed") == len(HOOKS), ran.stdout + ran.stderr


def test_badly_formatted_code_is_formatted_and_held_back(repository: Small) -> None:
    repository.write("code/lab.py", "RATE   =   0.5\n")
    git(repository, "add", ".")
    assert git(repository, "commit", "-qm", "Wrong").returncode == 1
    assert repository.read("code/lab.py") == "RATE = 0.5\n"


def test_hooks_are_local_and_installed_by_make() -> None:
    config = yaml.safe_load(CONFIG.read_text("utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    assert all(hook["language"] == "system" and hook["entry"].startswith(".venv/bin/") for hook in HOOKS)
    assert re.search(r"^hooks: install .*\n\t@\$\(PY\) -m pre_commit install$", MAKEFILE, re.MULTILINE)


def test_make_check_does_what_the_hooks_do() -> None:
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe
    for hook in HOOKS:
        words = hook["entry"].removeprefix(".venv/bin/").removeprefix("python -m ").split()
        assert " ".join(words[:2] if len(words) > 1 else words) in recipe[1], hook["entry"]


def test_this_repository_is_spelled_right(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-m", "codespell_lib"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
