"""Ask git about the history of files."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git(root: Path, *command: str) -> list[str]:
    """Run a git command in a folder and return the lines it prints; none where git or the repository is missing."""
    try:
        command = ("git", "-c", "core.quotePath=false", *command)
        done = subprocess.run(command, cwd=root, capture_output=True, check=False)
    except FileNotFoundError:
        return []
    return done.stdout.decode("utf-8", "replace").split("\n") if done.returncode == 0 else []
