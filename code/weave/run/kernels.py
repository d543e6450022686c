"""The pool that kernel processes come from.

On Linux, a first process imports the modules that take long (`modules` in mkdocs.yml) and is forked for each notebook:
a copy takes 0.02 s where a start takes a second and more. On macOS a process that has loaded torch or matplotlib must
not be forked (their threads and Apple's frameworks do not survive it), so each notebook gets a process of its own,
started plainly; there are no snapshots to continue from, so each run is a run from the top.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weave.run.environment import environment
from weave.run.facts import installed
from weave.run.process import KernelDied, KernelProcess
from weave.source.problem import Refused

_START, _FORK = 120, 30  # seconds that a new process or a copy may take to connect
_LONGEST_TEMPORARY = 60  # bytes; the path of a socket may have about a hundred in all


def can_fork(platform: str = sys.platform) -> bool:
    """Return whether kernels on this platform are forked.

    Raises:
        Refused: Notebooks cannot run on it at all.
    """
    if platform == "win32":
        raise Refused("notebooks run on Linux and macOS; on Windows, install and run weave in WSL (wsl --install)")
    return platform != "darwin"


class Kernels:
    # ``first`` is the process that the others are copies of, or None; `start` replaces it when the environment, the
    # installed packages or the code of kernels have changed since, and `close` ends it. Where processes are not forked
    # it stays None. ``process`` is the one started last, for `kill`. ``lock`` is held from an order to a process until
    # the copy or the new process has connected: all use the same socket.

    def __init__(self, modules: Sequence[str], fork: bool | None = None) -> None:
        """Start nothing yet. ``fork``: whether processes are forked; by default as is safe on this platform."""
        self.forks = can_fork() if fork is None else fork
        self.modules = list(modules)
        self.lock = threading.Lock()
        self.folder: Path | None = None
        self.first: KernelProcess | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.started_with: Any = None

    def start(self) -> KernelProcess:
        """Return a process that has run nothing yet. Raises KernelDied."""
        with self.lock:
            if not self.forks:
                return self._launch()
            if not self.current():
                self._close()
                self.first = self._launch()
                self.started_with = _surroundings()
        assert self.first
        return self.copy(self.first)

    def copy(self, process: KernelProcess) -> KernelProcess:
        """Return a copy of a process in its present state, for processes that are forked. Raises KernelDied."""
        with self.lock:
            process.send("fork")
            return self._accept(_FORK, asked=process)

    def current(self) -> bool:
        """Return whether the first process is alive, and no different from one that would start now."""
        alive = self.first is not None and self.process is not None and self.process.poll() is None
        return alive and self.started_with == _surroundings()

    def _launch(self) -> KernelProcess:
        if self.folder is None:
            short = "/tmp" if len(tempfile.gettempdir()) > _LONGEST_TEMPORARY else None
            self.folder = Path(tempfile.mkdtemp(prefix="weave-", dir=short))
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(str(self.folder / "socket"))
            self.listener.listen()
        command = [sys.executable, "-m", "weave.run.kernel", str(self.folder / "socket"), *self.modules]
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(self.folder),
                start_new_session=True,
            )
        try:
            return self._accept(_START, self.process)
        except KernelDied:
            self.process.kill()
            self.process.wait()
            raise

    def _accept(
        self, seconds: float, child: subprocess.Popen[bytes] | None = None, asked: KernelProcess | None = None
    ) -> KernelProcess:
        """Wait for the process that connects next. Raises KernelDied, with the last line that it wrote.

        ``asked`` is the process that was asked for a copy. Once it has been stopped, no copy will come, and all others
        who want one wait for the lock.
        """
        assert self.process and self.folder
        end = time.monotonic() + seconds
        self.listener.settimeout(0.2)
        while True:
            try:
                connection, _ = self.listener.accept()
                return KernelProcess(connection, child)
            except TimeoutError:
                stopped = asked is not None and asked.ended
                if stopped or self.process.poll() is not None or time.monotonic() > end:
                    lines = (self.folder / "log").read_text("utf-8", "replace").strip().splitlines()
                    raise KernelDied(lines[-1] if lines else "it does not answer") from None

    def close(self) -> None:
        with self.lock:
            self._close()

    def kill(self) -> None:
        """End the first process at once, without waiting for what others do with it."""
        if self.process is not None:
            self.process.kill()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _close(self) -> None:
        if self.first:
            self.first.end()
        if self.folder is not None:
            self.listener.close()
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder = self.first = self.process = None


def _surroundings() -> Any:
    """The state that a new process depends on, beside its modules: environment, packages, the code of kernels."""
    here = Path(__file__).parent
    own = [file.stat().st_mtime_ns for file in (here.parent / "__init__.py", *sorted(here.glob("*.py")))]
    return dict(os.environ), installed(), own


@functools.cache
def kernels(modules: tuple[str, ...], fork: bool | None = None) -> Kernels:
    """Return this program's kernels that begin with these modules; they end when it does."""
    pool = Kernels(modules, fork)
    atexit.register(pool.close)
    return pool
