"""A small site in a folder of its own, to be broken in every way that the real one could be."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner, Result
from hypothesis import settings

from weave.cli import main as weave

ROOT = Path(__file__).parents[2]

settings.register_profile("weave", deadline=None)  # time is no property
settings.load_profile("weave")

MKDOCS = r"""
site_name: Small
site_url: https://example.org/repo/
theme: {name: material, font: false}
validation: {nav: {omitted_files: ignore}, links: {absolute_links: warn, unrecognized_links: warn}}
plugins:
  - search
  - mkdocs-jupyter: {include: ["*.ipynb"], ignore: ["*.md"], execute: false, allow_errors: false}
  - weave: {cell_timeout: 10}
markdown_extensions:
  - admonition
  - attr_list
  - footnotes
  - md_in_html
  - tables
  - toc: {permalink: true}
  - pymdownx.details
  - pymdownx.superfences
  - pymdownx.tasklist
  - weave
  - weave.math: {macros: {'\R': '\mathbb{R}'}}
"""

NOTEBOOK = """# %% [markdown]
# # Heat
#
# The decay constant $\\lambda$ is positive.

# %% setup
from weave import claim

from lab import RATE

# %% decay
import matplotlib.pyplot as plt

fig, ax = plt.subplots(figsize=(3, 2))
ax.plot([0, 1, 2], [1, RATE, RATE**2])
ax.set_xlabel("time")
plt.show()

# %% values
claim(rate=RATE, heads=(10, 12))

# %% words
print("cooling", "down")
"""

NOTE = """---
title: Heat
description: How a body cools.
---

# How heat decays

A body cools at [0.5](../../code/notebooks/heat.py#=rate) a second, as $e^{-\\lambda t}$, $\\lambda \\in \\R$.

![The curve falls and never reaches zero.](../../code/notebooks/heat.py#decay)

See [the set-up](../../code/notebooks/heat.py#setup) and the [theorem](../../tests/test_heat.py#test_cools).
[10 of 12](../../code/notebooks/heat.py#=heads) bodies agree.

## On $\\alpha$ decay

$$
\\int_0^\\infty e^{-t}\\,dt = 1
$$
"""

TEST = '''"""Heat."""


def test_cools():
    """A body cools."""
    assert 0.5 < 1
'''

PROBLEM = re.compile(r"^[\w./-]+\.(?:md|py|yml|json):\d+: .+$", re.MULTILINE)


@dataclass
class Small:
    """The small site: its files, and the commands run on it as an author would."""

    root: Path

    def write(self, path: str, text: str | bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode() if isinstance(text, str) else text)

    def read(self, path: str) -> str:
        return (self.root / path).read_text(encoding="utf-8")

    def replace(self, path: str, old: str, new: str) -> None:
        text = self.read(path)
        assert old in text, f"{old!r} is not in {path}"
        self.write(path, text.replace(old, new))

    @property
    def env(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.root / "code"), str(ROOT / "code")])
        return {**os.environ, "PYTHONPATH": path, "NO_MKDOCS_2_WARNING": "1", "SOURCE_DATE_EPOCH": "1700000000"}

    # -- as an author: a process of its own

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.root,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        process = self.start(*command)
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def build(self) -> subprocess.CompletedProcess[str]:
        return self.run("mkdocs", "build", "--strict", "-q")

    def check(self) -> subprocess.CompletedProcess[str]:
        return self.run("weave.cli", "check")

    # -- quicker: in this process

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        with contextlib.chdir(self.root), mock.patch.dict(os.environ, self.env):
            yield

    def weave(self, *arguments: str, answer: str | None = None) -> Result:
        """``weave check`` and its like; what it printed is in ``output``."""
        with self.here():
            return CliRunner().invoke(weave, arguments, input=answer)

    def rerun(self) -> set[str]:
        """Stems of the notebooks that ``weave run`` ran now, which is to succeed."""
        result = self.weave("run")
        assert result.exit_code == 0, result.output
        return set(re.findall(r"^code/notebooks/(\w+)\.py runs ", result.output, re.MULTILINE))


def problems(output: str) -> list[str]:
    """The lines of an output that say where something is wrong."""
    return PROBLEM.findall(output)


@pytest.fixture(scope="session")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small site's notebook run once, for all tests: a ``.cache`` folder."""
    site = make_small(tmp_path_factory.mktemp("executed"))
    assert site.rerun() == {"heat"}
    return site.root / ".cache"


@pytest.fixture(scope="session")
def new_small(tmp_path_factory: pytest.TempPathFactory, executed: Path) -> Callable[[], Small]:
    """Makes small sites whose notebook has been run."""

    def new() -> Small:
        site = make_small(tmp_path_factory.mktemp("small"))
        shutil.copytree(executed, site.root / ".cache")
        return site

    return new


@pytest.fixture
def small(new_small: Callable[[], Small], monkeypatch: pytest.MonkeyPatch) -> Small:
    site = new_small()
    monkeypatch.setenv("PYTHONPATH", site.env["PYTHONPATH"])  # an input of every notebook
    return site


@pytest.fixture
def bare(tmp_path: Path) -> Small:
    """The small site where nothing has run yet."""
    return make_small(tmp_path)


def make_small(root: Path) -> Small:
    site = Small(root)
    site.write("mkdocs.yml", MKDOCS)
    site.write("docs/index.md", "# Small\n\n[Heat](notes/heat.md#on-alpha-decay)\n")
    site.write("docs/notes/heat.md", NOTE)
    site.write("code/notebooks/heat.py", NOTEBOOK)
    site.write("code/lab.py", "RATE = 0.5\n")
    site.write("tests/test_heat.py", TEST)
    (root / "node_modules").symlink_to(ROOT / "node_modules")
    return site
