"""Runs inside a notebook's kernel and records everything that its results depend on.

Recorded are: every file of the repository that is opened for reading (also if it does not exist), every module of the
repository that is imported, listings of the repository's folders, and the packages that files and modules came from,
each with the cell that came upon it first. What a cell does to the world outside of its process (files that it writes,
programs, connections) is recorded as an effect: after an effect, a cell cannot be run again from the state before it.
Not seen: reads by code that is not Python's (open files with ``Path.read_bytes`` and pass the bytes on), by programs
that the notebook starts, checks whether a file exists, imports of modules that do not exist, listings of the
repository's root.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.machinery
import json
import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

_EFFECTS = (
    "os.chmod os.exec os.fork os.forkpty os.link os.mkdir os.posix_spawn os.remove os.rename os.rmdir os.startfile"
    " os.symlink os.system os.truncate os.utime shutil.rmtree socket.bind socket.connect sqlite3.connect"
    " subprocess.Popen"
)
_IGNORED = {".git", ".cache", ".venv", "node_modules", "site", "__pycache__"}


class Fact(NamedTuple):
    """A recorded fact, as a line of the record has it."""

    kind: str
    """``files``, ``listings``, ``packages`` or ``effects``."""
    name: str
    """A path relative to the repository, a top-level module, or an audit event."""
    digest: str | None
    """Of a file or listing; None if there is no such file."""
    cell: int
    """The cell that ran, counted from 0; -1 before the first."""


class Recorder:
    def __init__(self, root: Path, target: Path) -> None:
        self.root = str(root.resolve()) + os.sep
        prefix = Path(sys.prefix).resolve()
        if root.resolve().is_relative_to(prefix):  # the environment is around the repository: exclude what is installed
            prefix = Path(sysconfig.get_path("purelib")).resolve()
        self.prefix = str(prefix) + os.sep
        self.write_to(target)
        self.recorded: set[tuple[str, str]] = set()
        self.threads = threading.local()  # of each thread: whether what it does now is not the notebook's doing
        self.cell = -1
        self.effects = frozenset(_EFFECTS.split())

    def write_to(self, target: str | Path) -> None:
        """Continue in another file; what was recorded in the one before is not repeated."""
        # A line for each fact, written at once: if the kernel is killed, what it read so far is known.
        self.target = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Ignore what this thread does in the block."""
        self.threads.paused = True
        try:
            yield
        finally:
            self.threads.paused = False

    def relative(self, path: Any) -> str | None:
        """Return the path relative to the repository; None if it lies outside or in a folder that does not count."""
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        full = os.path.abspath(os.fsdecode(path))
        if not full.startswith(self.root):  # perhaps it leads here through a symbolic link
            full = os.path.realpath(full)
        if full.startswith(self.prefix) or not full.startswith(self.root):
            return None
        inside = full[len(self.root) :]
        return None if _IGNORED & set(inside.split(os.sep)) else inside.replace(os.sep, "/")

    def record(self, kind: str, name: str | None, digest: Callable[[Path], str | None] = lambda _: None) -> None:
        if name is not None and (kind, name) not in self.recorded:
            fact = Fact(kind, name, digest(Path(self.root, name)), self.cell)
            os.write(self.target, (json.dumps(fact) + "\n").encode())
            self.recorded.add((kind, name))

    def record_file(self, path: Any) -> None:
        self.record("files", self.relative(path), file_digest)
        self.record_package(path)

    def record_package(self, path: Any) -> None:
        """Record the package that a file in site-packages belongs to."""
        _, folder, inside = path.rpartition("site-packages" + os.sep) if isinstance(path, str) else ("", "", "")
        if folder:
            self.record("packages", inside.split(os.sep)[0].removesuffix(".py"))

    def record_packages(self, *_: object) -> None:
        """Record the packages of all modules imported so far."""
        for name, module in list(sys.modules.items()):
            if "." not in name:
                self.record_package(getattr(getattr(module, "__spec__", None), "origin", None))

    def record_effect(self, event: str) -> None:
        self.recorded.discard(("effects", event))  # each cell that has the effect records it
        self.record("effects", event)

    def audit(self, event: str, arguments: tuple) -> None:
        """Called by Python before each audited event (PEP 578)."""
        effect = event in self.effects
        if not effect and event not in ("open", "os.listdir", "os.scandir"):
            return
        if getattr(self.threads, "paused", False):
            return
        with self.paused():  # the recorder opens files, too
            if effect:
                self.record_effect(event)
            elif event == "open":
                if _for_reading(*arguments[1:3]):
                    self.record_file(arguments[0])
                elif isinstance(arguments[0], str | bytes | os.PathLike) and arguments[0] != os.devnull:
                    self.record_effect(event)
            elif not _by_import(sys._getframe(1)):
                path = "." if arguments[0] is None else arguments[0]
                self.record("listings", self.relative(path), listing_digest)


def read(target: Path) -> list[Fact]:
    """Read a record, without the last line that a killed kernel left unfinished."""
    facts: list[Fact] = []
    for line in target.read_text().split("\n") if target.exists() else ():
        with contextlib.suppress(ValueError):
            facts.append(Fact(*json.loads(line)))
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
        if fact.kind == "files" and fact.digest:
            first.setdefault(fact.name, fact.cell)
    return first


class _FromSource(importlib.machinery.SourceFileLoader):
    """Compiles the repository's modules from their source each time.

    A cached bytecode file is matched to its source by size and by time in whole seconds, which is not safe enough.
    """

    recorder: Recorder

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        self.recorder.record_file(path)
        return self.source_to_code(self.get_data(path), path)


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file's bytes; None if there is no such file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError):
        return None


def listing_digest(path: Path) -> str:
    """SHA-256 of the names in a folder; a folder that does not exist counts as empty."""
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
    """True if the import system lists a folder of sys.path: a new module there does not concern the notebook."""
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
    own = str(Path(__file__).parents[1]) + os.sep  # the code of kernels is an input by itself: see inputs.py
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if path and os.path.isabs(path) and not path.startswith(own):  # torch has modules without a file
            recorder.record_file(path)
    sys.addaudithook(recorder.audit)

    from IPython import get_ipython

    get_ipython().events.register("post_run_cell", recorder.record_packages)
    return recorder
