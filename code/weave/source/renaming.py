"""The plan of a rename, kept until all of it is done, so that one that was stopped can be finished."""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from weave.source.files import digest, read_checked, write_atomically, write_checked
from weave.source.layout import Layout
from weave.source.problem import Problem, Refused

PLAN = ".cache/weave/renaming"


@dataclass(frozen=True)
class Step:
    """A file before and after; paths are relative to the repository's root."""

    path: str
    to: str
    before: str
    """Digest of its content."""
    after: str
    """Its content, in base64; empty if it only moves."""


def unfinished(layout: Layout) -> list[Problem]:
    """Return the problem of a rename that was stopped halfway."""
    names = plan(layout)[0]
    if not names:
        return []
    what = (
        f"the rename of {names[0]} to {names[1]} was stopped halfway; `weave rename {names[0]} {names[1]}` finishes it"
    )
    return [Problem(f"{layout.docs}/notes/{names[1]}.md", 1, what)]


def plan(layout: Layout) -> tuple[list[str], list[Step]]:
    """Return the old and the new name of an unfinished rename, and its steps; nothing if there is none."""
    stored = json.loads(read_checked(layout.root / PLAN) or "{}")
    return stored.get("names", []), [Step(**step) for step in stored.get("steps", [])]


def begin(layout: Layout, names: tuple[str, str], changes: Sequence[tuple[str, str, bytes, bytes]]) -> None:
    """Keep what is about to be done: path before, path after, content before, content after of each file."""
    steps = [
        Step(path, to, digest(before), b64encode(after).decode() if after != before else "")
        for path, to, before, after in changes
    ]
    write_checked(layout.root / PLAN, json.dumps({"names": names, "steps": [asdict(step) for step in steps]}))


def finish(layout: Layout) -> None:
    """Do what is still to be done, and forget the plan.

    Raises:
        Refused: A file is neither as it was nor as it is to be.
    """
    steps = plan(layout)[1]
    for step in steps:
        _checked(layout.root, step)
    for step in steps:
        path, to = layout.root / step.path, layout.root / step.to
        if step.after:
            mode = path.stat().st_mode & 0o777 if path.exists() else None
            write_atomically(to, b64decode(step.after))
            if mode is not None:
                os.chmod(to, mode)
        elif path.exists():
            os.replace(path, to)
    for step in steps:
        if step.path != step.to:
            (layout.root / step.path).unlink(missing_ok=True)
    (layout.root / PLAN).unlink(missing_ok=True)


def _checked(root: Path, step: Step) -> None:
    good = {step.before} | ({digest(b64decode(step.after))} if step.after else set())
    there = [path for path in {step.path, step.to} if (root / path).exists()]
    for path in there:
        if digest((root / path).read_bytes()) not in good:
            what = (
                "was edited since the rename was stopped; undo the edit and say it again, or finish by hand and delete"
            )
            raise Refused(f"{path} {what} {PLAN}")
    if not there:
        raise Refused(f"{step.path} is gone since the rename was stopped; finish by hand and delete {PLAN}")
