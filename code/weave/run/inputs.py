"""The inputs of a notebook's result, and which of them have changed since.

A result belongs to today's inputs as long as `changes` finds nothing. They are one JSON object:

    code                     digest of the code cells and of the tags that affect how they run
    python, machine, weave   what every notebook on this machine depends on
    files, listings          digests of the repository's files and folders that the notebook read
    packages                 versions of the distributions that it imported
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import os
import platform
import sysconfig
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Protocol

from weave.run.notebook import Cell, Notebook
from weave.run.recorder import Fact, digests, file_digest, listing_digest

_MACHINERY = (
    "../__init__.py", "answers.py", "claim.py", "environment.py", "kernel.py", "outputs.py", "recorder.py",
    "snapshots.py", "weave.matplotlibrc",
)  # fmt: skip
"""The files that decide what a run gives out and records: a change in one of them makes every stored result stale. The
others start processes, store results and report progress; they see outputs but do not make them."""
_GENERATION = 1
"""Raise it when a bug elsewhere in this room has produced wrong results: it makes all of them stale, too."""


class Executed(Protocol):
    """A run that succeeded or failed: the notebook as it was, and the inputs that the run recorded."""

    @property
    def notebook(self) -> Notebook: ...
    @property
    def inputs(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Reason:
    """A reason why a result is stale."""

    line: int
    """Line of the notebook that it concerns, counted from 1; 1 if it concerns all of it."""
    what: str
    """What happened, without an end of sentence: ``code/lab.py changed``."""


def inputs_of(notebook: Notebook, facts: list[Fact]) -> dict[str, Any]:
    """Return the inputs of a run of ``notebook`` that recorded ``facts``."""
    return {
        "code": code_digest(notebook),
        **platform_inputs(),
        "files": digests(facts, "files"),
        "listings": digests(facts, "listings"),
        "packages": versions(digests(facts, "packages")),
    }


def changes(root: Path, earlier: Executed, notebook: Notebook) -> Iterator[Reason]:
    """Find, one at a time, the differences between the inputs of an earlier run and today's inputs of ``notebook``."""
    inputs = earlier.inputs
    if inputs["code"] != code_digest(notebook):
        yield _first_difference(earlier.notebook.code, notebook.code)
    now = platform_inputs()
    words = {"python": "Python", "machine": "the machine"}
    for name in now:
        if inputs.get(name) != now[name]:
            what = f"{words[name]} changed from {inputs.get(name)} to {now[name]}" if name in words else ""
            yield Reason(1, what or "the code that executes notebooks changed")
    for name, before in inputs["files"].items():
        today = file_digest(root / name)
        if today != before:
            yield Reason(1, f"{name} {'appeared' if before is None else 'vanished' if today is None else 'changed'}")
    for name, before in inputs["listings"].items():
        if listing_digest(root / name) != before:
            yield Reason(1, f"a file appeared in {name}/ or vanished from it")
    for name, before in inputs["packages"].items():
        if version_of(name) != before:
            yield Reason(1, f"{name} changed from {before} to {version_of(name)}")


# -- code


def code_digest(notebook: Notebook) -> str:
    """Digest of a notebook's code and of how it runs; the prose between the cells does not count."""
    return hashlib.sha256(json.dumps([code_of(cell) for cell in notebook.code]).encode()).hexdigest()


def code_of(cell: Cell) -> tuple[str, list[str]]:
    """The parts of a cell that affect its outputs: its source, and the tags that change how it runs."""
    return cell.source, sorted({"skip-execution", "raises-exception"} & set(cell.tags))


def _first_difference(old: list[Cell], new: list[Cell]) -> Reason:
    """Describe the first cell in which two versions of a notebook's code differ, at its line in the new version."""
    before, after = [code_of(cell) for cell in old], [code_of(cell) for cell in new]
    pairs = enumerate(zip(before, after, strict=False))
    same = next((i for i, (a, b) in pairs if a != b), min(len(old), len(new)))
    if same == len(old) == len(new):
        return Reason(1, "its code changed")
    rest_old, rest_new = before[same:], after[same:]
    last = new[same - 1].line if same else 1
    if not rest_new or rest_new[0] in rest_old[1:]:
        return Reason(new[same].line if rest_new else last, f"cell '{old[same].key}' is gone")
    if not rest_old or rest_old[0] in rest_new[1:]:
        return Reason(new[same].line, f"cell '{new[same].key}' is new")
    return Reason(new[same].line, f"the code of cell '{new[same].key}' changed")


# -- the platform


@cache
def platform_inputs() -> dict[str, str]:
    """The inputs of every notebook: Python, the kind of machine, and the code that executes notebooks."""
    here = Path(__file__).parent
    parts = [str(_GENERATION), *(meaning(here / name) for name in _MACHINERY)]
    machinery = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    machine = f"{platform.system()} {platform.machine()}"
    return {"python": platform.python_version(), "machine": machine, "weave": machinery}


_parsing = threading.Lock()  # Python 3.11 counts the depth of the trees of all threads together, and may fail


def meaning(file: Path) -> str:
    """Return a text that changes with what a file does: of Python, the syntax without comments and docstrings."""
    text = file.read_text("utf-8")
    if file.suffix != ".py":
        return text
    with _parsing:
        tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_docstring(part)]
    return ast.dump(tree)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


# -- packages


def versions(modules: Mapping[str, object]) -> dict[str, str]:
    """Versions of the distributions that top-level modules belong to, by the distribution's name."""
    owners = _distributions(installed())
    names = {owner for module in modules for owner in owners.get(module, ())}
    return {name: version_of(name) for name in sorted(names)}


def version_of(package: str) -> str:
    """The version of a distribution that is installed now, or "none"."""
    return _version(package, installed())


@lru_cache(maxsize=1)  # reads the file list of every distribution, which takes a tenth of a second
def _distributions(_: tuple[int, ...]) -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@lru_cache(maxsize=1024)
def _version(package: str, _: tuple[int, ...]) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def installed() -> tuple[int, ...]:
    """A value that changes when a package is installed or removed: when its folder was last modified."""
    return tuple(os.stat(folder).st_mtime_ns for folder in _package_folders())


@cache
def _package_folders() -> list[str]:
    return sorted({folder for name in ("purelib", "platlib") if (folder := sysconfig.get_path(name))})
