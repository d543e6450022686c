"""Runs inside a notebook's kernel and writes down everything that its results depend on.

Recorded are: every file of the repository that is opened for reading (and those looked for in vain), every module
of the repository that is imported, directory listings of the repository, and the packages that files or modules came
from. Not seen: reads by code that is not Python's (open files with ``Path.read_bytes`` and hand over the bytes), by
subprocesses, and existence checks.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import json
import os
import sys
from pathlib import Path
from typing import Any

_IGNORED = {".git", ".cache", ".venv", "node_modules", "site", "__pycache__"}


class Recorder:
    def __init__(self, root: Path, target: Path) -> None:
        self.root = str(root.resolve()) + os.sep
        self.prefix = str(Path(sys.prefix).resolve()) + os.sep
        self.target = target
        self.files: dict[str, str | None] = {}
        self.listings: dict[str, str] = {}
        self.packages: set[str] = set()
        self.busy = False

    def relative(self, path: Any) -> str | None:
        """The path in the repository, or None where it lies outside or does not matter."""
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        full = os.path.abspath(os.fsdecode(path))
        if full.startswith(self.prefix) or not full.startswith(self.root):
            _, found, inside = full.rpartition("site-packages" + os.sep)
            if found:
                self.packages.add(inside.split(os.sep)[0].removesuffix(".py"))
            return None
        inside = full[len(self.root) :]
        return None if _IGNORED & set(inside.split(os.sep)) else inside.replace(os.sep, "/")

    def file(self, path: Any) -> None:
        name = self.relative(path)
        if name is not None and name not in self.files:
            self.files[name] = digest(Path(self.root, name))

    def listing(self, path: Any) -> None:
        name = self.relative(path if path is not None else ".")
        # The import system lists the folders of sys.path: new modules there are none of a notebook's business.
        if name is not None and not name.startswith("code/") and name != "code" and name not in self.listings:
            self.listings[name] = listing_digest(Path(self.root, name))

    def audit(self, event: str, arguments: tuple) -> None:
        if self.busy or event not in ("open", "os.listdir", "os.scandir"):
            return
        self.busy = True  # what the recorder reads itself is not the notebook's doing
        try:
            if event != "open":
                self.listing(arguments[0])
            elif _for_reading(*arguments[1:3]):
                self.file(arguments[0])
        finally:
            self.busy = False

    def write(self, *_: object) -> None:
        """Save what is known so far, so that a run that fails or is killed still tells what it read."""
        self.busy = True
        try:
            for name, module in list(sys.modules.items()):
                origin = getattr(getattr(module, "__spec__", None), "origin", None)
                if "." not in name and isinstance(origin, str):
                    self.relative(origin)
            record = {"files": self.files, "listings": self.listings, "packages": sorted(self.packages)}
            aside = self.target.with_suffix(".part")
            aside.write_text(json.dumps(record))
            aside.replace(self.target)
        finally:
            self.busy = False


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
    except OSError:
        return None


def listing_digest(path: Path) -> str:
    try:
        names = sorted(set(os.listdir(path)) - _IGNORED)
    except OSError:
        names = []
    return hashlib.sha256("\0".join(names).encode()).hexdigest()


def _for_reading(mode: str | None, flags: int = 0) -> bool:
    if mode is not None:
        return not set("wax+") & set(mode)
    return not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)


def start(root: str, target: str) -> None:
    """Begin to record; called in the kernel before the first cell."""
    recorder = Recorder(Path(root), Path(target))
    loader = type("_FromSource", (_FromSource,), {"recorder": recorder})
    suffixes = [
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
        (loader, importlib.machinery.SOURCE_SUFFIXES),
    ]

    def in_repository(path: str) -> importlib.machinery.FileFinder:
        if recorder.relative(path or ".") is None:
            raise ImportError
        return importlib.machinery.FileFinder(path or ".", *suffixes)

    sys.path_hooks.insert(0, in_repository)
    sys.path_importer_cache.clear()
    for module in list(sys.modules.values()):  # weave itself is loaded already
        if path := getattr(module, "__file__", None):
            recorder.file(path)
    sys.addaudithook(recorder.audit)

    from IPython import get_ipython

    get_ipython().events.register("post_run_cell", recorder.write)
