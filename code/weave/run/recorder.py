"""Runs inside a notebook's kernel and writes down everything that its results depend on.

Recorded are: every file of the repository that is opened for reading (and those looked for in vain), every module of
the repository that is imported, listings of the repository's folders, and the packages that files and modules came
from. Beside each stands the cell that came upon it first. What a cell does to the world outside of its process (files
that it writes, programs, connections) is noted too: where there is such an effect, a cell cannot be run again from the
state before it. Not seen: reads by code that is not Python's (open files with ``Path.read_bytes`` and hand over the
bytes), by programs that the notebook starts, existence checks, modules that were not there, listings of the
repository's root.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import json
import os
import sys
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

_EFFECTS = (
    "os.chmod os.exec os.fork os.forkpty os.link os.mkdir os.posix_spawn os.remove os.rename os.rmdir os.startfile"
    " os.symlink os.system os.truncate os.utime shutil.rmtree socket.bind socket.connect sqlite3.connect"
    " subprocess.Popen"
)
_IGNORED = {".git", ".cache", ".venv", "node_modules", "site", "__pycache__"}


class Recorder:
    def __init__(self, root: Path, target: Path) -> None:
        self.root = str(root.resolve()) + os.sep
        prefix = Path(sys.prefix).resolve()
        if root.resolve().is_relative_to(prefix):  # the environment is around the repository: only what is installed
            prefix = Path(sysconfig.get_path("purelib")).resolve()
        self.prefix = str(prefix) + os.sep
        self.move(target)
        self.known: set[tuple[str, str]] = set()
        self.here = threading.local()
        self.cell = -1
        """The one that runs; -1 before the first."""
        self.effects = frozenset(_EFFECTS.split())

    def move(self, target: str | Path) -> None:
        """Go on writing elsewhere; what is known already is not told again."""
        # A line for each fact, as soon as it is known: a kernel that is killed has told what it read so far.
        self.target = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def relative(self, path: Any) -> str | None:
        """The path in the repository, or None where it lies outside or does not matter."""
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        full = os.path.abspath(os.fsdecode(path))
        if not full.startswith(self.root):  # perhaps it leads here through a symbolic link
            full = os.path.realpath(full)
        if full.startswith(self.prefix) or not full.startswith(self.root):
            return None
        inside = full[len(self.root) :]
        return None if _IGNORED & set(inside.split(os.sep)) else inside.replace(os.sep, "/")

    def note(self, kind: str, name: str | None, digest: Callable[[Path], str | None]) -> None:
        if name is not None and (kind, name) not in self.known:
            line = json.dumps([kind, name, digest(Path(self.root, name)), self.cell]) + "\n"
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
        effect = event in self.effects
        if (not effect and event not in ("open", "os.listdir", "os.scandir")) or getattr(self.here, "busy", False):
            return
        self.here.busy = True  # what the recorder reads itself is not the notebook's doing
        try:
            if event == "open":
                if _for_reading(*arguments[1:3]):
                    self.file(arguments[0])
                elif isinstance(arguments[0], str | bytes | os.PathLike) and arguments[0] != os.devnull:
                    effect = True
            if effect:
                self.known.discard(("effects", event))  # each cell that has one
                self.note("effects", event, lambda _: None)
            elif event == "open":
                pass
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


Fact = tuple[str, str, str | None, int]
"""Kind, name, digest, and the cell."""


def read(target: Path) -> list[Fact]:
    """What was recorded: ``files`` and ``listings`` with digests (None for what was not there), ``packages``,
    ``effects``."""
    facts: list[Fact] = []
    for line in target.read_text().split("\n") if target.exists() else ():
        try:
            kind, name, found, cell = json.loads(line)
        except ValueError:  # the last line, of a kernel that was killed
            continue
        facts.append((kind, name, found, cell))
    return facts


def of_kind(facts: list[Fact], kind: str) -> dict[str, str | None]:
    """The digests of one kind, as they were first found."""
    digests: dict[str, str | None] = {}
    for one, name, found, _ in facts:
        if one == kind:
            digests.setdefault(name, found)
    return digests


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


def start(root: str, target: str) -> Recorder:
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
    return recorder
