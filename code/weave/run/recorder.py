"""Runs inside a notebook's kernel and records everything that its results depend on.

Python announces what it opens, lists and starts (PEP 578); `imports.py` and `noticed.py` add modules, what is asked of
a file without opening it, variables of the environment, and readers in compiled code. Each fact is recorded with the
cell that came upon it first; `facts.py` has the kinds. What a cell does to the world outside of its
process is an effect: after an effect, a cell cannot be run again from the state before it. What nobody can follow from
here (programs, databases, connections, compiled code) is recorded as such: the cell declares what it reads
(``reads("data/x.db")``), or the notebook runs again at each build.

No inputs are: Python's own files and those of installed packages (their versions are), the repository's ``.cache``,
files that the notebook itself made, and what differs at each run or on each machine by its nature: the time, chance,
the number of cores, the names of folders above the repository.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from weave.run import facts
from weave.run.facts import TODAY, Fact
from weave.run.places import Places

_EFFECTS = {
    *(
        "os.chmod",
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.link",
        "os.mkdir",
        "os.posix_spawn",
        "os.remove",
        "os.rename",
    ),
    *("os.rmdir", "os.startfile", "os.symlink", "os.system", "os.truncate", "os.utime", "shutil.rmtree"),
    *("socket.bind", "socket.connect", "sqlite3.connect", "subprocess.Popen"),
}
_UNFOLLOWED = {
    "subprocess.Popen": "starts a program",
    "os.system": "starts a program",
    "os.exec": "starts a program",
    "os.posix_spawn": "starts a program",
    "sqlite3.connect": "opens a database",
    "socket.connect": "opens a connection",
    "socket.bind": "opens a connection",
    "socket.sendto": "opens a connection",
    "socket.getaddrinfo": "asks the network",
    "socket.gethostbyname": "asks the network",
    "socket.gethostbyaddr": "asks the network",
    "os.getxattr": "reads attributes of a file",
    "os.listxattr": "reads attributes of a file",
    "ctypes.dlsym": "calls compiled code",
    "ctypes.dlsym/handle": "calls compiled code",
}
_OTHERS = {"open", "os.listdir", "os.scandir", "import", "ctypes.dlopen"}
_READ_BY_NAME = {"sqlite3.connect", "os.getxattr", "os.listxattr"}
_DEVICES = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")}
_STATE = ("/proc/", "/sys/")
_CODE_FOLLOWED = {
    *("numpy", "torch", "torchgen", "functorch", "safetensors", "tokenizers", "matplotlib", "mpl_toolkits", "PIL"),
    *("contourpy", "kiwisolver", "psutil", "zmq", "tornado", "debugpy", "yaml", "markupsafe", "charset_normalizer"),
    *("brotli", "fontTools", "rpds", "wcwidth", "greenlet"),
}
"""Packages whose compiled code opens no file, or only through Python or a function that `noticed.py` wraps."""

current: Recorder | None = None
"""The recorder of this process. Set by `start`."""


class Recorder:
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

    # -- the record

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
        self.recorded.discard(("effects", event))  # each cell that has the effect records it
        self.record("effects", event)

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

    # -- what is announced

    def audit(self, event: str, arguments: tuple) -> None:
        """Called by Python before each audited event (PEP 578)."""
        if event not in _OTHERS and event not in _EFFECTS and event not in _UNFOLLOWED:
            return
        if self.is_paused():
            return
        with self.paused():  # the recorder opens files, too
            try:
                self._announced(event, arguments, sys._getframe(1))
            except Exception:  # must not become an error of what the notebook does
                self._lose()

    def _announced(self, event: str, arguments: tuple, frame: FrameType) -> None:
        if event in _EFFECTS:
            self.record_effect(event)
            self._follow_effect(event, arguments)
        if event in _UNFOLLOWED:
            if not (event.endswith("xattr") and frame.f_code.co_filename == shutil.__file__):  # copies them along
                self._started(event, arguments)
        elif event == "open":
            self.opened(arguments[0], arguments[1], arguments[2])
        elif event in ("os.listdir", "os.scandir"):
            self._listed("." if arguments[0] is None else arguments[0], event == "os.scandir", frame)
        elif event == "import" and isinstance(arguments[1], str):
            self.compiled(arguments[1])
        elif event == "import" and arguments[0] in ("_interpreters", "_xxsubinterpreters"):
            self.unfollowed("starts an interpreter")  # which announces nothing here
        elif event == "ctypes.dlopen" and self.name(arguments[0]):
            self.record_file(arguments[0])

    def _follow_effect(self, event: str, arguments: tuple) -> None:
        with contextlib.suppress(OSError, ValueError, TypeError):
            if event == "os.mkdir" and not os.path.lexists(arguments[0]):
                self.places.made.add(os.path.realpath(os.fsdecode(arguments[0])))
            elif event == "os.rename" and self.places.is_made(os.path.realpath(os.fsdecode(arguments[0]))):
                self.places.made.add(os.path.realpath(os.fsdecode(arguments[1])))

    def _started(self, event: str, arguments: tuple) -> None:
        what = _UNFOLLOWED[event]
        if event.startswith("ctypes."):
            asking = self.asking()
            if asking.startswith(self.places.python) or asking.startswith(self.places.packages):
                return
        if what == "starts a program":
            command = arguments[1] if event in ("subprocess.Popen", "os.exec", "os.posix_spawn") else arguments[0]
            words = [command] if isinstance(command, str | bytes) else list(command or [arguments[0]])
            first = os.fsdecode(words[0]).split()[:1]
            what += f" ({os.path.basename(first[0])})" if first else ""
        elif event in _READ_BY_NAME and isinstance(arguments[0], str | bytes | os.PathLike):
            what += f" ({os.fsdecode(arguments[0])})"
        self.unfollowed(what)

    def opened(self, path: Any, mode: str | None, flags: int, folder: str | None = None) -> None:
        """Record that a file is about to be opened."""
        if not isinstance(path, str | bytes | os.PathLike):  # a descriptor, of a file opened before
            return
        if mode is not None and not flags:
            flags = _flags(mode)
        text = os.path.join(folder or "", os.fsdecode(path))
        reads = flags & os.O_ACCMODE != os.O_WRONLY
        made = flags & os.O_TRUNC or (flags & os.O_CREAT and flags & os.O_EXCL)
        if made and os.path.isdir(text):  # a new file without a name in this folder
            return
        if reads and not made:
            self.record_file(text)
        if flags & os.O_ACCMODE != os.O_RDONLY and os.path.realpath(text) != os.devnull:
            self.record_effect("open")
        if made or (flags & os.O_CREAT and not os.path.lexists(text)):
            if flags & os.O_EXCL and os.path.lexists(text):
                self.noticed("exists", text)
            else:
                self.places.made.add(os.path.realpath(text))

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
            elif found and (not stat.S_ISREG(found.st_mode) or real.startswith(_STATE)):
                of_package = real.startswith(_STATE) and self.asking().startswith(self.places.packages)
                if not of_package and real not in _DEVICES and not self.places.is_made(real):
                    self.unfollowed(f"reads {os.fsdecode(path)}, which is no regular file")
            else:
                self.record("files", self.name(path))
                if os.fsdecode(path).endswith(".pyc"):
                    with contextlib.suppress(ValueError):
                        from importlib.util import source_from_cache

                        self.record("files", self.name(source_from_cache(os.fsdecode(path))))

    def _listed(self, path: Any, details: bool, frame: FrameType) -> None:
        from weave.run import noticed

        if noticed.is_import_system(frame):
            return
        if isinstance(path, int):
            path = noticed.path_of(path)
        if path is None:
            return
        real = os.path.realpath(os.fsdecode(path))
        if real + os.sep in self.places.packages:
            self.record("distributions", "*")
        elif real.startswith(_STATE):
            if not self.asking().startswith(self.places.packages):
                self.unfollowed(f"lists {real}")
        else:
            file = frame.f_code.co_filename  # what os.walk and glob look at is recorded as it is asked for
            details = details and not file.startswith("<frozen ") and not file.startswith(self.places.python)
            self.record("entries" if details else "listings", self.name(path))

    def compiled(self, path: str) -> None:
        """Record that compiled code is loaded, which may open files unseen."""
        real = os.path.realpath(path)
        for folder in self.places.packages:
            if real.startswith(folder):
                top = real[len(folder) :].split(os.sep)[0].split(".")[0]
                names = {top, *(name.replace("-", "_") for name in facts.owners().get(top, ()))}
                if names & _CODE_FOLLOWED or {name.lower() for name in names} & _CODE_FOLLOWED:
                    return
                self.unfollowed(f"loads compiled code ({top})")
                return
        if real.startswith(self.places.python):
            if os.path.basename(real).split(".")[0] in ("_dbm", "_gdbm"):
                self.unfollowed("opens a database (dbm)")
            return
        self.record_file(path)
        self.unfollowed(f"loads compiled code ({os.path.basename(real)})")

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
            if not file.startswith("<frozen") and file != __file__:
                real = os.path.realpath(file)
                if not real.startswith(self.places.python) or real.startswith(self.places.packages):
                    return real
            frame = frame.f_back
        return ""


def _flags(mode: str) -> int:
    flags = os.O_RDWR if "+" in mode else os.O_RDONLY if "r" in mode else os.O_WRONLY
    more = {"w": os.O_CREAT | os.O_TRUNC, "x": os.O_CREAT | os.O_EXCL, "a": os.O_CREAT | os.O_APPEND}
    return flags | next((more[letter] for letter in mode if letter in more), 0)


def start(root: str, target: str, cell_globals: dict[str, Any]) -> Recorder:
    """Begin to record; called in the kernel before the first cell."""
    global current
    from weave.run import imports, noticed

    recorder = current = Recorder(Path(root), Path(target))
    recorder.cell_globals = cell_globals
    recorder.places.made.add(os.path.realpath(os.environ["IPYTHONDIR"]))
    with recorder.paused():
        recorder.record("environment", "PYTHONPATH")
        imports.follow(recorder)
        noticed.follow(recorder)
    sys.addaudithook(recorder.audit)

    from IPython import get_ipython

    get_ipython().events.register("post_run_cell", recorder.record_packages)
    return recorder
