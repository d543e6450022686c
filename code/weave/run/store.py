"""Results of executed notebooks, kept only as long as everything that they depended on is unchanged."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from weave.run import recorder
from weave.run.claim import CLAIM_MIME
from weave.run.notebook import Cell, Notebook, parse

_KEPT = 5
_MACHINERY = ("executor.py", "kernel.py", "recorder.py", "claim.py", "weave.matplotlibrc")


@dataclass(frozen=True)
class Published:
    """A number that a notebook published with ``claim(name=value)``."""

    value: int | float | tuple[int | float, int | float]
    cell: str
    line: int


@dataclass(frozen=True)
class Run:
    """A notebook together with what its code cells gave out, in nbformat's shape."""

    notebook: Notebook
    outputs: list[list[dict[str, Any]]]
    inputs: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    made: dict[str, Any] = field(default_factory=dict)
    """Where and how it ran; nothing that a result depends on."""
    checksum: str = ""
    """Of the stored result."""

    @property
    def digest(self) -> str:
        """Changes with everything that pages show of it."""
        return self.checksum or _checksum({"outputs": self.outputs, "made": self.made})

    @cached_property
    def published(self) -> dict[str, Published]:
        found = {}
        for number, (cell, outputs) in enumerate(zip(self.notebook.code, self.outputs, strict=True), start=1):
            for output in outputs:
                for name, value in output.get("data", {}).get(CLAIM_MIME, {}).items():
                    plain = tuple(value) if isinstance(value, list) else value
                    found[name] = Published(plain, cell.name or f"cell-{number}", cell.line)
        return found


def code_digest(notebook: Notebook) -> str:
    """Changes with the code and with how it is run; prose between the cells is not part of it."""
    return hashlib.sha256(json.dumps([how_run(cell) for cell in notebook.code]).encode()).hexdigest()


def how_run(cell: Cell) -> tuple[str, list[str]]:
    """What of a cell its outputs depend on."""
    return cell.source, sorted({"skip-execution", "raises-exception"} & set(cell.tags))


@cache
def surroundings() -> dict[str, str]:
    """What every notebook depends on: Python, the machine's kind, and the modules that execute it."""
    here = Path(__file__).parent
    machinery = hashlib.sha256(b"".join((here / name).read_bytes() for name in _MACHINERY)).hexdigest()
    machine = f"{platform.system()} {platform.machine()}"
    return {"python": platform.python_version(), "machine": machine, "weave": machinery}


def versions(top_level: list[str]) -> dict[str, str]:
    """Versions of the distributions that these top-level modules belong to."""
    owners = importlib.metadata.packages_distributions()
    names = {owner for module in top_level for owner in owners.get(module, ())}
    return {name: version_of(name) for name in sorted(names)}


def version_of(package: str) -> str:
    """The version that is installed now, or "none"."""
    return _version(package, installed())


@cache
def _version(package: str, _: tuple[int, ...]) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def installed() -> tuple[int, ...]:
    """Changes when a package is installed or removed."""
    return tuple(os.stat(folder).st_mtime_ns for folder in _package_folders())


@cache
def _package_folders() -> list[str]:
    return sorted({folder for name in ("purelib", "platlib") if (folder := sysconfig.get_path(name))})


class Store:
    """A folder of results, ``<notebook>/<digest of its inputs>.json``; written aside, then renamed."""

    def __init__(self, root: Path, folder: Path, note: Callable[[str], None]) -> None:
        self.root, self.folder, self.note = root, folder, note
        self._known: dict[Path, tuple[tuple[int, ...], Run]] = {}

    def fresh(self, notebook: Notebook) -> Run | None:
        """The stored result whose recorded inputs all still are what they were, if there is one."""
        for path in self._entries(notebook):
            run = self._read(path, notebook)
            if run and self.why_stale(run, notebook) is None:
                with contextlib.suppress(FileNotFoundError):  # another build tidied up
                    os.utime(path)
                    self._known[path] = _stamp(path), run
                # Prose may have changed since: cells come from today's notebook, outputs from the store.
                return Run(notebook, run.outputs, run.inputs, run.seconds, run.made, run.checksum)
        return None

    def last(self, notebook: Notebook) -> Run | None:
        """The last good result, to be shown while a newer run fails."""
        return next((run for path in self._entries(notebook) if (run := self._read(path, notebook))), None)

    def why_stale(self, run: Run, notebook: Notebook) -> str | None:
        """What changed since the run, in words; None where nothing did."""
        inputs = run.inputs
        if inputs["code"] != code_digest(notebook):
            return "its code changed"
        for name, value in surroundings().items():
            if inputs.get(name) != value:
                return f"{name} changed from {inputs.get(name)} to {value}"
        return self._changed_file(inputs) or _changed_package(inputs["packages"])

    def save(self, run: Run) -> None:
        body = {
            "inputs": run.inputs,
            "notebook": run.notebook.text,
            "outputs": run.outputs,
            "seconds": run.seconds,
            "made": run.made,
        }
        body["sha256"] = _checksum(body)
        key = hashlib.sha256(json.dumps(run.inputs, sort_keys=True).encode()).hexdigest()[:24]
        folder = self.folder / run.notebook.stem
        write_whole(folder / f"{key}.json", json.dumps(body).encode())  # in the order of the run, which pages show
        for old in self._entries(run.notebook)[_KEPT:]:
            old.unlink(missing_ok=True)

    def _changed_file(self, inputs: dict[str, Any]) -> str | None:
        for name, digest in inputs["files"].items():
            if recorder.digest(self.root / name) != digest:
                return f"{name} changed"
        for name, digest in inputs["listings"].items():
            if recorder.listing_digest(self.root / name) != digest:
                return f"the files in {name}/ changed"
        return None

    def _entries(self, notebook: Notebook) -> list[Path]:
        aged = []
        for path in (self.folder / notebook.stem).glob("*.json"):
            try:
                aged.append((path.stat().st_mtime_ns, path))
            except FileNotFoundError:  # another build tidied up
                continue
        return [path for _, path in sorted(aged, reverse=True)]

    def _read(self, path: Path, today: Notebook) -> Run | None:
        try:
            stamp = _stamp(path)
            if (known := self._known.get(path)) and known[0] == stamp:
                return known[1]
            body = json.loads(path.read_bytes())
            checksum = body.pop("sha256")
            if checksum != _checksum(body):
                raise ValueError("its checksum does not match")
            notebook = parse(today.path, body["notebook"])
            run = Run(notebook, body["outputs"], body["inputs"], body["seconds"], body["made"], checksum)
            if len(run.outputs) != len(notebook.code):
                raise ValueError("its cells do not match")
            self._known[path] = stamp, run
            return run
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            shown = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
            self.note(f"{shown}:1: not a result to be trusted ({error}); thrown away, the notebook runs again")
            path.unlink(missing_ok=True)
            return None


def _stamp(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_ctime_ns, stat.st_size, stat.st_ino


def digest(*parts: bytes) -> str:
    """SHA-256 of several parts, each by itself: no two lists of parts have the same."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def kept(folder: Path, key: str, make: Callable[[], str]) -> str:
    """A text that is made once for a key; the folder keeps the last one, which is not trusted without its checksum."""
    path = folder / key
    if (known := read_checked(path)) is not None:
        return known
    text = make()
    write_checked(path, text)
    for old in folder.iterdir():
        if old.name != key and not old.name.startswith("."):
            old.unlink(missing_ok=True)
    return text


def read_checked(path: Path, *about: bytes) -> str | None:
    """What ``write_checked`` wrote about the same; None where nothing is, or something else."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        checksum, _, text = path.read_bytes().decode().partition("\n")
        if checksum == digest(text.encode(), *about):
            return text
    return None


def write_checked(path: Path, text: str, *about: bytes) -> None:
    """A text under a checksum of itself, and of all that it is about."""
    write_whole(path, f"{digest(text.encode(), *about)}\n{text}".encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write aside, then rename: whoever reads sees all of the old or all of the new."""
    path = path.resolve()  # what a symbolic link leads to, and not the link
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(aside, mode)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _changed_package(recorded: dict[str, str]) -> str | None:
    for name, version in recorded.items():
        if version_of(name) != version:
            return f"{name} changed from {version} to {version_of(name)}"
    return None
