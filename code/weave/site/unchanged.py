"""Find out in a tenth of a second whether a strict build would give what the last one gave: then none is needed.

A strict build that succeeds leaves a stamp in the cache: the state of each file in the repository when it began, of the
commit, of Python, its packages and the variables that mkdocs.yml names; and of the site's files when it ended. A file's
state is its size, its date of modification and its date of change, which programs cannot set.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from weave.run.facts import installed, paths
from weave.source.files import read_checked, write_checked
from weave.source.git import git

if TYPE_CHECKING:  # importing it takes longer than all that this module does
    from mkdocs.config.defaults import MkDocsConfig

STAMP = ".cache/weave/built"
RESULTS = ".cache/weave/runs"
_VARIABLE = re.compile(r"!ENV\s+\[?([\w, ]+)")
_SITE = re.compile(r"^site_dir:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)

State = dict[str, object]


def inputs(root: Path) -> State:
    """Return the state of everything that a build reads: all files of the repository but those of other programs."""
    text = _settings(root)
    names = {name.strip() for found in _VARIABLE.findall(text) for name in found.split(",")} - {""}
    return {
        "the commit": git(root, "rev-parse", "HEAD"),
        "Python": [sys.executable, sys.version],
        "the installed packages": list(installed()),
        "the date of the pages": [
            os.environ.get("SOURCE_DATE_EPOCH") or "".join(git(root, "log", "-1", "--format=%ct"))
        ],
        **{f"the variable {name}": os.environ.get(name) for name in sorted(names)},
        **dict(_states(root, root, {site_of(root).name, "node_modules"})),
        **dict(_states(root / "node_modules/.installed", root, set())),
    }


def keep(config: MkDocsConfig, before: State) -> None:
    """Remember a build that began with the inputs ``before``, if it was strict, and into the folder of the settings."""
    settings = Path(config.config_file_path).resolve()
    root = settings.parent
    if config.strict and settings.name == "mkdocs.yml" and Path(config.site_dir) == site_of(root):
        remember(root, before)


def remember(root: Path, before: State) -> None:
    """Write the stamp of a site as it is now, made from the inputs ``before``.

    None is written where a notebook read what cannot be followed: it runs at each build.
    """
    elsewhere, followed = _read_elsewhere(root, before)
    if followed:
        made = {**_made(root), **_elsewhere(elsewhere)}
        write_checked(root / STAMP, json.dumps({"inputs": before, "made": made, "elsewhere": elsewhere}))
    else:
        (root / STAMP).unlink(missing_ok=True)


def change(root: Path) -> str | None:
    """Return the first change since the last strict build (``docs/index.md changed``), or None if there is none."""
    stored = read_checked(root / STAMP)
    if stored is None:
        return "no strict build is remembered"
    stamp = json.loads(stored)
    made = {**_made(root), **_elsewhere(stamp.get("elsewhere", {}))}
    for then, now in ((stamp["inputs"], inputs(root)), (stamp["made"], made)):
        for name in sorted(then.keys() | now.keys()):
            if then.get(name) != now.get(name):
                return f"{name} {'is new' if name not in then else 'is gone' if name not in now else 'changed'}"
    return None


def _read_elsewhere(root: Path, before: State) -> tuple[dict[str, list[str]], bool]:
    """The paths outside the repository and the variables that notebooks have read, and whether that is all."""
    read: dict[str, set[str]] = {"paths": set(), "variables": set()}
    followed = True
    notebooks = {Path(name).stem for name in before if name.endswith(".py")}
    for folder in (path for path in (root / RESULTS).glob("*") if path.name in notebooks):
        newest = max(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, default=None)
        found = json.loads(newest.read_bytes()).get("inputs", {}) if newest else {}
        read["paths"] |= {name for name in paths(found) if os.path.isabs(name)}
        read["variables"] |= found.get("environment", {}).keys()
        followed = followed and not found.get("unfollowed")
    return {kind: sorted(names) for kind, names in read.items()}, followed


def _elsewhere(read: dict[str, list[str]]) -> State:
    state: State = {f"the variable {name}": os.environ.get(name) for name in read.get("variables", ())}
    for name in read.get("paths", ()):
        try:
            found = os.stat(name)
            state[name] = [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
        except OSError:
            state[name] = None
    return state


def site_of(root: Path) -> Path:
    """Return the folder of the site as mkdocs.yml has it."""
    found = _SITE.search(_settings(root))
    return root / (found[1] if found else "site")


def _settings(root: Path) -> str:
    settings = root / "mkdocs.yml"
    return settings.read_text("utf-8", errors="replace") if settings.is_file() else ""


def _made(root: Path) -> State:
    return {**dict(_states(site_of(root), root, set())), **dict(_states(root / RESULTS, root, set()))}


def _states(path: Path, root: Path, without: set[str]) -> Iterator[tuple[str, list[int]]]:
    """Each file below a path, with its state; folders in ``without`` and hidden ones at the top are left out."""
    folders = [path] if path.is_dir() else []
    if path.is_file():
        yield _state(path, root)
    while folders:
        folder = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir():
                    yield _state(Path(entry.path), root)
                elif not (
                    entry.name == "__pycache__" or (folder == root and (entry.name in without or entry.name[0] == "."))
                ):
                    folders.append(Path(entry.path))


def _state(file: Path, root: Path) -> tuple[str, list[int]]:
    try:
        found = file.stat()
    except OSError:  # a link that leads nowhere
        found = file.lstat()
    return os.path.relpath(file, root), [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
