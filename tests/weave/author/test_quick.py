"""The commands that an author types all day long start quickly: they import nothing that only a build needs."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Small

SLOW = {"mkdocs", "markdown", "jsonschema", "jupytext", "jupyter_client", "nbformat", "IPython", "torch", "numpy"}
COMMANDS = {
    "help": ["--help"],
    "start": ["start", "Why not?"],
    "stop": ["stop"],
    "log": ["log", "Why not?"],
    "new": ["new", "Sound"],
    "todo": ["todo"],
    "completion": ["completion", "bash"],
}
RUN = "import atexit, sys; from weave.cli import main; atexit.register(lambda: print('|', *sys.modules)); main()"


def modules(site: Small, code: str, *arguments: str, **env: str) -> set[str]:
    """Run Python code and return what it imported, as it prints it after a bar."""
    command = [sys.executable, "-c", code, *arguments]
    ran = subprocess.run(command, cwd=site.root, env={**site.env, **env}, capture_output=True, text=True)
    assert "Traceback" not in ran.stderr, ran.stderr
    return set(ran.stdout.rpartition("|")[2].split())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_quick_command_imports_nothing_slow(bare: Small, command: str) -> None:
    if command == "stop":
        modules(bare, RUN, *COMMANDS["start"])
    imported = modules(bare, RUN, *COMMANDS[command])
    assert "weave.cli" in imported and not SLOW & imported


def test_completion_imports_nothing_slow(bare: Small) -> None:
    asked = {"_WEAVE_COMPLETE": "bash_complete", "COMP_WORDS": "weave run he", "COMP_CWORD": "2"}
    imported = modules(bare, RUN.replace("main()", "main(prog_name='weave')"), **asked)
    assert "weave.author.completion" in imported and not SLOW & imported


def test_a_claim_costs_a_notebook_nothing(bare: Small) -> None:
    imported = modules(bare, "import sys, weave; print('|', *sys.modules)")
    assert "weave.run.claim" in imported and not SLOW & imported and "click" not in imported


def test_help_takes_little_more_than_click(bare: Small) -> None:
    """In CPU seconds, the least of three: both start Python and click; ours may take four times as long."""

    def least(*command: str) -> float:
        taken = []
        for _ in range(3):
            before = os.times()
            subprocess.run([sys.executable, *command], cwd=bare.root, env=bare.env, check=True, capture_output=True)
            after = os.times()
            user, system = after.children_user - before.children_user, after.children_system - before.children_system
            taken.append(user + system)
        return min(taken)

    assert least("-c", RUN, "--help") < 4 * least("-c", "import click")
