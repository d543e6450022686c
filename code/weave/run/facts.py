"""Facts about what a notebook read, and what each of them is today.

A fact is a line of the record that `record.py` writes. Most are inputs: they have a kind, a name and a digest, and
`TODAY` says of each kind how to take the digest again. Names are paths relative to the repository's root, or absolute
outside of it; a name leads where it led the notebook, through the same links.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.machinery
import importlib.metadata
import io
import json
import os
import stat
import sys
import sysconfig
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

LARGE = 64 * 2**20
"""Bytes from which on a file is not hashed when it is opened, but after the run (`settle`)."""
PASSED = ("PATH", "HOME", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
"""The variables that a kernel gets from outside; all others have a fixed value or none."""
_GENERATED = (".cache", "site")  # at the root
_SUFFIXES = importlib.machinery.all_suffixes()


class Fact(NamedTuple):
    """A recorded fact, as a line of the record has it."""

    kind: str
    """One of `TODAY`; or ``packages``, ``effects``, ``unfollowed``, ``declared``."""
    name: str
    """A path, a name of a module, package or variable, an audit event, or what could not be followed."""
    digest: str | None
    """Of what was read; None if there was nothing."""
    cell: int
    """The cell that ran, counted from 0; -1 before the first."""
    line: int = 0
    """The line of that cell, counted from 1; 0 if it is not known."""


class RecordLost(Exception):
    """A failure to write down what a notebook read, so that nobody knows when its result is stale."""


def read(target: Path) -> list[Fact]:
    """Read a record, without the last line that a killed kernel left unfinished.

    Raises:
        RecordLost: A fact could not be written (then the recorder has set the file's mode), or was overwritten.
    """
    try:
        lost = not stat.S_IMODE(target.stat().st_mode) & stat.S_IRGRP
        lines = target.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        raise RecordLost from None
    facts: list[Fact] = []
    for line in lines[:-1]:
        try:
            fact = Fact(*json.loads(line))
            lost = lost or not (isinstance(fact.kind, str) and isinstance(fact.name, str) and type(fact.cell) is int)
        except (ValueError, TypeError):
            lost = True
        if lost:
            raise RecordLost
        facts.append(fact)
    if lost:
        raise RecordLost
    return facts


def digests(facts: list[Fact], kind: str) -> dict[str, str | None]:
    """The digests of one kind by name, as they were when first recorded."""
    first: dict[str, str | None] = {}
    for fact in facts:
        if fact.kind == kind:
            first.setdefault(fact.name, fact.digest)
    return first


def first_read(facts: list[Fact]) -> dict[str, int]:
    """The number of the cell that read a file first, by the file's name; files that did not exist are left out."""
    first: dict[str, int] = {}
    for fact in facts:
        if fact.kind in ("files", "modules") and fact.digest:
            first.setdefault(fact.name, fact.cell)
    return first


# -- files and folders


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file's bytes; None if there is no such file, or if it is no regular file."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return None
        return _large_digest(path, stamp(found)) if found.st_size >= LARGE else _digest(path)
    except (OSError, ValueError):
        return None


def _digest(path: Path) -> str:
    with io.open(path, "rb") as file:  # noqa: UP020 - a cell may have replaced the builtin
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.lru_cache(maxsize=64)
def _large_digest(path: Path, _: str) -> str:
    return _digest(path)


def stamp(found: os.stat_result) -> str:
    """A text that changes when a file is written."""
    return f"stamp {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def quick_digest(path: Path) -> str | None:
    """The digest of a file, or the stamp of a large one: a cell does not wait until it is hashed."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return stamp(found) if stat.S_ISREG(found.st_mode) and found.st_size >= LARGE else file_digest(path)


def settle(path: Path, digest: str | None) -> str | None:
    """Turn a stamp into a digest, if the file has not changed since."""
    return file_digest(path) if digest and digest.startswith("stamp ") and quick_digest(path) == digest else digest


def listing_digest(path: Path, details: bool = False, without: Collection[str] = ()) -> str:
    """SHA-256 of the names and kinds of what is in a folder; a folder that does not exist counts as empty.

    Args:
        details: Also of what ``stat`` says of each.
        without: Names that do not count.
    """
    names = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name == "__pycache__" or entry.name in without:
                    continue
                try:
                    found = entry.stat() if details else None
                    more = f"\0{found.st_mode}\0{found.st_size}\0{found.st_mtime_ns}" if found else ""
                    kind = "/" * entry.is_dir() + "@" * entry.is_symlink() + "-" * entry.is_file()
                    names.append(f"{entry.name}\0{kind}{more}")
                except OSError:  # a link that leads nowhere
                    names.append(entry.name)
    except (OSError, ValueError):
        pass
    return hashlib.sha256(os.fsencode("\0".join(sorted(names)))).hexdigest()


def stat_value(root: Path, name: str) -> str | None:
    """A field of what ``stat`` says of a file: ``st_size data/x``, of a link itself ``link-st_mode data/x``."""
    field, _, path = name.partition(" ")
    try:
        if field.startswith("access-"):
            return str(os.access(root / path, int(field.removeprefix("access-"))))
        found = os.lstat(root / path) if field.startswith("link-") else os.stat(root / path)
    except (OSError, ValueError):
        return None
    field = field.removeprefix("link-")
    if field == "place":
        real, inside = os.path.realpath(root / path), os.path.realpath(root) + os.sep
        return real.removeprefix(inside)
    return "there" if field == "exists" else str(getattr(found, field))


def link_target(root: Path, name: str) -> str | None:
    try:
        return os.readlink(root / name)
    except (OSError, ValueError):
        return None


def paths(inputs: dict[str, Any]) -> set[str]:
    """The files and folders whose change may make a result with these inputs stale, as far as they have a name.

    Args:
        inputs: As `inputs.py` has them.
    """
    plain = {name for kind in ("files", "listings", "entries", "links", "metadata") for name in inputs.get(kind, {})}
    return plain | {name.partition(" ")[2] for name in inputs.get("stats", {})}


# -- modules


def candidates(root: Path, name: str) -> str | None:
    """The files of which Python takes one for the module ``name``, a path without a suffix; None if there are none."""
    path = root / name
    folder = [f"/__init__{suffix}" for suffix in _SUFFIXES]
    found = [end for end in (*folder, *_SUFFIXES) if os.path.isfile(f"{path}{end}")]
    return " ".join(found + ["/"] * os.path.isdir(path)) or None


def shadows(root: Path, name: str) -> str | None:
    """The modules in a folder that have the name of one of Python's own."""
    try:
        stems = {entry.split(".")[0] for entry in os.listdir(root / name)}
    except OSError:
        return None
    return " ".join(sorted(stems & sys.stdlib_module_names)) or None


def _importable(_: Path, name: str) -> str | None:
    return "there" if name in owners() else None


# -- packages and environment


def version_of(package: str) -> str:
    """The version of a distribution that is installed now, or "none"."""
    return _version(package, installed())


def owners() -> Mapping[str, list[str]]:
    """The distributions that installed top-level modules belong to."""
    return _distributions(installed())


@functools.lru_cache(maxsize=1)  # reads the file list of every distribution, which takes a tenth of a second
def _distributions(_: tuple[int, ...]) -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@functools.lru_cache(maxsize=1024)
def _version(package: str, _: tuple[int, ...]) -> str:
    found = importlib.metadata.distributions(name=package, path=package_folders()) if package else ()
    return next((distribution.version for distribution in found), "none")


def installed() -> tuple[int, ...]:
    """A value that changes when a package is installed or removed: when its folder was last modified."""
    return tuple(os.stat(folder).st_mtime_ns for folder in package_folders())


@functools.cache
def package_folders() -> list[str]:
    return sorted({folder for name in ("purelib", "platlib") if (folder := sysconfig.get_path(name))})


def _distribution(_: Path, name: str) -> str | None:
    if name != "*":
        return version_of(name)
    return " ".join(
        sorted({f"{found.name}-{found.version}" for found in importlib.metadata.distributions(path=package_folders())})
    )


def _metadata(root: Path, name: str) -> str:
    """The distributions whose metadata are in a folder that is no installed package's."""
    with contextlib.suppress(OSError):
        return " ".join(
            sorted(entry for entry in os.listdir(root / name) if entry.endswith((".dist-info", ".egg-info")))
        )
    return ""


def variable(root: Path, name: str, values: Mapping[str, str] | None = None) -> str | None:
    """Digest of a variable of the environment; of paths in the repository only what follows its root."""
    value = (os.environ if values is None else values).get(name)
    if value is None:
        return None
    real = os.path.realpath(root)
    parts = [os.path.realpath(part) if os.path.isabs(part) else part for part in value.split(os.pathsep)]
    inside = [os.path.relpath(part, real) if Path(part).is_relative_to(real) else part for part in parts]
    return hashlib.sha256(os.fsencode(os.pathsep.join(inside))).hexdigest()


def _listing(root: Path, name: str, details: bool = False) -> str:
    return listing_digest(root / name, details, _GENERATED if name == "." else ())


def _of_path(digest: Callable[[Path], str | None]) -> Callable[[Path, str], str | None]:
    return lambda root, name: digest(root / name)


TODAY: dict[str, Callable[[Path, str], str | None]] = {
    "files": _of_path(file_digest),
    "modules": _of_path(file_digest),
    "listings": _listing,
    "entries": lambda root, name: _listing(root, name, details=True),
    "stats": stat_value,
    "links": link_target,
    "imports": candidates,
    "shadows": shadows,
    "missing": _importable,
    "distributions": _distribution,
    "metadata": _metadata,
    "environment": variable,
}
"""How to take the digest of each kind of input again."""
