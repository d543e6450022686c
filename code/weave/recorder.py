"""Runs inside a notebook's kernel and writes down everything that its results depend on.

Recorded are: every file of the repository that is opened for reading (and those looked for in vain), every module of
the repository that is imported, listings of the repository's folders, and the packages that files and modules came
from. Not seen: reads by code that is not Python's (open files with ``Path.read_bytes`` and hand over the bytes), by
programs that the notebook starts, existence checks, modules that were not there, listings of the repository's root.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

_IGNORED = {".git", ".cache", ".venv", "node_modules", "site", "__pycache__"}


class Recorder:
    def __init__(self, root: Path, target: Path) -> None:
        self.root = str(root.resolve()) + os.sep
        self.prefix = str(Path(sys.prefix).resolve()) + os.sep
        # A line for each fact, as soon as it is known: a kernel that is killed has told what it read so far.
        self.target = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.known: set[tuple[str, str]] = set()
        self.here = threading.local()

    def relative(self, path: Any) -> str | None:
        """The path in the repository, or None where it lies outside or does not matter."""
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        full = os.path.abspath(os.fsdecode(path))
        if full.startswith(self.prefix) or not full.startswith(self.root):
            return None
        inside = full[len(self.root) :]
        return None if _IGNORED & set(inside.split(os.sep)) else inside.replace(os.sep, "/")

    def note(self, kind: str, name: str | None, digest: Callable[[Path], str | None]) -> None:
        if name is not None and (kind, name) not in self.known:
            line = json.dumps([kind, name, digest(Path(self.root, name))]) + "\n"
            os.write(self.target, line.encode())
            self.known.add((kind, name))

    def file(self, path: Any) -> None:
        self.note("files", self.relative(path), digest)
        self.package(path)

    def package(self, path: Any) -> None:
        _, found, inside = path.rpartition("site-packages" + os.sep) if isinstance(path, str) else ("", "", "")
        if found:
            self.note("packages", inside.split(os.sep)[0].removesuffix(".py"), lambda _: None)

    def audit(self, event: str, arguments: tuple) -> None:
        if event not in ("open", "os.listdir", "os.scandir") or getattr(self.here, "busy", False):
            return
        self.here.busy = True  # what the recorder reads itself is not the notebook's doing
        try:
            if event == "open":
                if _for_reading(*arguments[1:3]):
                    self.file(arguments[0])
            elif not _by_import(sys._getframe(1)):
                path = "." if arguments[0] is None else arguments[0]
                self.note("listings", self.relative(path), listing_digest)
        finally:
            self.here.busy = False

    def packages(self, *_: object) -> None:
        """Note the packages of all modules imported so far."""
        for name, module in list(sys.modules.items()):
            if "." not in name:
                self.package(getattr(getattr(module, "__spec__", None), "origin", None))


def read(target: Path) -> dict[str, dict[str, str | None]]:
    """What was recorded: digests (None for what was not there) of ``files`` and ``listings``, and ``packages``."""
    record: dict[str, dict[str, str | None]] = {"files": {}, "listings": {}, "packages": {}}
    for line in target.read_text().split("\n") if target.exists() else ():
        try:
            kind, name, found = json.loads(line)
        except ValueError:  # the last line, of a kernel that was killed
            continue
        record[kind].setdefault(name, found)
    return record


class _FromSource(importlib.machinery.SourceFileLoader):
    """Compiles the repository's modules from their source each time.

    A cached bytecode file is trusted by its time in whole seconds and its size: too little to be sure of.
    """

    recorder: Recorder

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        self.recorder.file(path)
        return self.source_to_code(self.get_data(path), path)


def digest(path: Path) -> str | None:
    """SHA-256 of a file's bytes, or None where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError):
        return None


def listing_digest(path: Path) -> str:
    try:
        names = sorted(set(os.listdir(path)) - _IGNORED)
    except OSError:
        names = []
    return hashlib.sha256(os.fsencode("\0".join(names))).hexdigest()


def _for_reading(mode: str | None, flags: int = 0) -> bool:
    if mode is not None:
        return not set("wax") & set(mode)
    return not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)


def _by_import(frame: FrameType) -> bool:
    """Whether the import system lists a folder of sys.path: new modules are none of a notebook's business."""
    name = frame.f_code.co_filename
    return "importlib" in name or name.endswith("pkgutil.py")


def start(root: str, target: str) -> None:
    """Begin to record; called in the kernel before the first cell."""
    recorder = Recorder(Path(root), Path(target))
    loader = type("_FromSource", (_FromSource,), {"recorder": recorder})
    suffixes = [
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
        (loader, importlib.machinery.SOURCE_SUFFIXES),
    ]

    def in_repository(path: str) -> importlib.machinery.FileFinder:
        if recorder.relative(os.path.join(path or ".", "module.py")) is None:
            raise ImportError
        return importlib.machinery.FileFinder(path or ".", *suffixes)

    sys.path_hooks.insert(0, in_repository)
    sys.path_importer_cache.clear()
    for module in list(sys.modules.values()):  # weave itself is loaded already
        if path := getattr(module, "__file__", None):
            recorder.file(path)
    sys.addaudithook(recorder.audit)

    from IPython import get_ipython

    get_ipython().events.register("post_run_cell", recorder.packages)
