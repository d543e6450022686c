"""The record of what a notebook's process reads: a line for each fact of `facts.py`, written at once."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
import threading
from collections.abc import Iterator
from importlib.util import source_from_cache
from pathlib import Path
from types import FrameType
from typing import Any

from weave.run import facts
from weave.run.facts import TODAY, Fact
from weave.run.places import Places

_DEVICES = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")}
STATE = ("/proc/", "/sys/")
_HERE = os.path.dirname(__file__)


class Record:
    # ``recorded``: the facts in the record so far, by kind and name. Copies of the process go on with their own.

    def __init__(self, root: Path, target: Path) -> None:
        self.places = Places(root)
        self.recorded: set[tuple[str, str]] = set()
        self.origins: set[str] = set()  # of the modules whose packages are recorded
        self.threads = threading.local()  # of each thread: whether what it does now is not the notebook's doing
        self.cell = -1
        self.cell_globals: dict[str, Any] = {}
        self.write_to(target)

    def write_to(self, target: str | Path) -> None:
        """Continue in another file; what was recorded in the one before is not repeated."""
        self.target = str(target)
        with self.paused():
            self.places.made.add(os.path.realpath(os.path.dirname(self.target)))  # the run's own folder

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Ignore what this thread does in the block."""
        before = self.is_paused()
        self.threads.paused = True
        try:
            yield
        finally:
            self.threads.paused = before

    def is_paused(self) -> bool:
        return getattr(self.threads, "paused", False)

    def name(self, path: Any, folder: str | None = None) -> str | None:
        """Return the name under which a path is recorded; None if what is there is no input. Records a package."""
        with self.paused():
            name = self.places.name(path, folder)
            if name is None and (package := self.places.package(path, folder)):
                self.record(*package)
            return name

    def record(self, kind: str, name: str | None, digest: str | None = None, line: int = 0) -> None:
        """Record a fact, unless it is known. Without ``digest`` the digest is that of now."""
        if name is None or (kind, name) in self.recorded:
            return
        with self.paused():
            if digest is None and kind in TODAY:
                root = Path(self.places.root)
                digest = facts.quick_digest(root / name) if kind == "files" else TODAY[kind](root, name)
            self._write(json.dumps(Fact(kind, name, digest, self.cell, line)) + "\n")
        self.recorded.add((kind, name))

    def _write(self, line: str) -> None:
        # Written at once, so that it is known if the kernel is killed, and through a descriptor of its own, since cells
        # may close those that they find. A fact that cannot be written must not become an error of the notebook's
        # ``open``, nor get lost: the file's mode says so, which needs no space, and `facts.read` refuses it.
        data, written = line.encode("utf-8", "surrogateescape"), -1
        try:
            target = os.open(self.target, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                written = os.write(target, data)
            finally:
                os.close(target)
        except OSError:
            pass
        if written != len(data):
            self._lose()

    def _lose(self) -> None:
        with contextlib.suppress(OSError):
            os.chmod(self.target, 0o600)

    def record_effect(self, event: str) -> None:
        self.record_again("effects", event)

    def record_again(self, kind: str, name: str) -> None:
        """Record a fact of the running cell, also if an earlier cell has recorded it."""
        self.recorded.discard((kind, name))
        self.record(kind, name)

    def unfollowed(self, what: str) -> None:
        """Record that the running cell does what cannot be followed."""
        line = 0
        frame: FrameType | None = sys._getframe()
        while frame:
            if frame.f_globals is self.cell_globals:
                line = frame.f_lineno
            frame = frame.f_back
        if ("unfollowed", f"{self.cell}:{line} {what}") not in self.recorded:
            self.recorded.discard(("unfollowed", what))
            self.record("unfollowed", what, line=line)
            self.recorded.add(("unfollowed", f"{self.cell}:{line} {what}"))

    def declare(self, paths: tuple[Any, ...]) -> None:
        """Record files and whole folders as inputs, and that the running cell has declared what it reads."""
        for path in paths:
            with self.paused():
                folders = list(os.walk(path)) if os.path.isdir(path) else []
            for folder, _, files in folders:
                self.record("listings", self.name(folder))
                for file in files:
                    self.record_file(os.path.join(folder, file))
            if not folders:
                self.record_file(path)
        self.recorded.discard(("declared", ""))
        self.record("declared", "")

    def record_packages(self, *_: object) -> None:
        """Record the packages of all modules imported so far."""
        with self.paused():
            for name, module in list(sys.modules.items()):
                origin = getattr(getattr(module, "__spec__", None), "origin", None)
                if "." not in name and isinstance(origin, str) and origin not in self.origins:
                    self.origins.add(origin)
                    self.name(origin)

    def record_file(self, path: Any) -> None:
        """Record that a file is read, whether there is one or not."""
        with self.paused():
            try:
                real = os.path.realpath(os.fsdecode(path))
                found = os.stat(path)
            except (OSError, ValueError):
                found = None
            if found and stat.S_ISDIR(found.st_mode):
                self.noticed("exists", path)
            elif found and (not stat.S_ISREG(found.st_mode) or real.startswith(STATE)):
                of_package = real.startswith(STATE) and self.asking().startswith(self.places.packages)
                if not of_package and real not in _DEVICES and not self.places.is_made(real):
                    self.unfollowed(f"reads {os.fsdecode(path)}, which is no regular file")
            else:
                self.record("files", self.name(path))
                if os.fsdecode(path).endswith(".pyc"):
                    with contextlib.suppress(ValueError):
                        self.record("files", self.name(source_from_cache(os.fsdecode(path))))

    def noticed(self, field: str, path: Any, folder: str | None = None) -> None:
        """Record that a field of what ``stat`` says of a file was read."""
        name = self.name(path, folder)
        if name is not None and name != ".":
            self.record("stats", f"{field} {name}")

    def asking(self) -> str:
        """The file of the innermost running function that is not of Python's own library."""
        frame: FrameType | None = sys._getframe(1)
        while frame:
            file = frame.f_code.co_filename
            if not file.startswith("<frozen") and os.path.dirname(file) != _HERE:
                real = os.path.realpath(file)
                if not real.startswith(self.places.python) or real.startswith(self.places.packages):
                    return real
            frame = frame.f_back
        return ""
