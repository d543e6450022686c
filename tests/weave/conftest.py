"""A small site in a folder of its own, to be broken in every way that the real one could be."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MKDOCS = """
site_name: Small
site_url: https://example.org/repo/
theme: {name: material, font: false}
validation: {nav: {omitted_files: ignore}, links: {absolute_links: warn, unrecognized_links: warn}}
plugins:
  - search
  - mkdocs-jupyter: {include: ["*.ipynb"], ignore: ["*.md"], execute: false, allow_errors: false}
  - weave: {cell_timeout: 10}
markdown_extensions:
  - attr_list
  - footnotes
  - md_in_html
  - tables
  - toc: {permalink: true}
  - pymdownx.superfences
  - weave
  - weave.math: {macros: {'\\R': '\\mathbb{R}'}}
"""

NOTEBOOK = '''# %% [markdown]
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
'''

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

    def run(self, *command: str, timeout: float = 120, text: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.root,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            input=text,
        )

    @property
    def env(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.root / "code"), str(ROOT / "code")])
        return {**os.environ, "PYTHONPATH": path, "NO_MKDOCS_2_WARNING": "1", "SOURCE_DATE_EPOCH": "1700000000"}

    def build(self) -> subprocess.CompletedProcess[str]:
        return self.run("mkdocs", "build", "--strict", "-q")

    def check(self) -> subprocess.CompletedProcess[str]:
        return self.run("weave.cli", "check")


@pytest.fixture
def small(tmp_path: Path) -> Small:
    site = Small(tmp_path)
    site.write("mkdocs.yml", MKDOCS)
    site.write("docs/index.md", "# Small\n\n[Heat](notes/heat.md#on-alpha-decay)\n")
    site.write("docs/notes/heat.md", NOTE)
    site.write("code/notebooks/heat.py", NOTEBOOK)
    site.write("code/lab.py", "RATE = 0.5\n")
    site.write("tests/test_heat.py", TEST)
    (tmp_path / "node_modules").symlink_to(ROOT / "node_modules")
    return site
