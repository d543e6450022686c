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
import os
import shutil
import sys
from types import FrameType
from typing import Any

from weave.run import facts
from weave.run.places import is_import_system, path_of
from weave.run.record import STATE, Record

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
_OTHERS = {"open", "os.listdir", "os.scandir", "os.chdir", "import", "ctypes.dlopen"}
_READ_BY_NAME = {"sqlite3.connect", "os.getxattr", "os.listxattr"}
_CODE_FOLLOWED = {
    *("numpy", "torch", "torchgen", "functorch", "safetensors", "tokenizers", "matplotlib", "mpl_toolkits", "PIL"),
    *("contourpy", "kiwisolver", "psutil", "zmq", "tornado", "debugpy", "yaml", "markupsafe", "charset_normalizer"),
    *("brotli", "fontTools", "rpds", "wcwidth", "greenlet", "hypothesis"),
}
"""Packages whose compiled code opens no file, or only through Python or a function that `noticed.py` wraps."""


class Recorder(Record):
    """The record, and what Python announces for it."""

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
        probing = event == "socket.bind" and isinstance(arguments[1], tuple) and arguments[1][1] == 0
        if probing and self.asking().startswith(self.places.packages):
            return  # a package asks whether the machine has such an address, as urllib3 does when it is imported
        if event in _UNFOLLOWED:
            if not (event.endswith("xattr") and frame.f_code.co_filename == shutil.__file__):  # copies them along
                self._started(event, arguments)
        elif event == "open":
            self.opened(arguments[0], arguments[1], arguments[2])
        elif event in ("os.listdir", "os.scandir"):
            self._listed("." if arguments[0] is None else arguments[0], event == "os.scandir", frame)
        elif event == "os.chdir":  # what is opened from there on goes by the folder's own path
            self.noticed("exists", arguments[0])
            self.noticed("place", arguments[0])
        elif event == "import" and isinstance(arguments[1], str):
            self.compiled(arguments[1])
        elif event == "import" and arguments[0] in ("_interpreters", "_xxsubinterpreters"):
            self.unfollowed("starts an interpreter")  # which announces nothing here
        elif event == "ctypes.dlopen" and self.name(arguments[0]):
            self.record_file(arguments[0])

    def _follow_effect(self, event: str, arguments: tuple) -> None:
        with contextlib.suppress(OSError, ValueError, TypeError):
            if event == "os.mkdir" and not os.path.lexists(arguments[0]):
                real = os.path.realpath(os.fsdecode(arguments[0]))
                if not real.startswith(self.places.root):  # where a later run may find what others have put there
                    self.places.made.add(real)
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
            elif os.path.isfile(text) or not os.path.lexists(text):  # in a pipe is what another has written
                self.places.made.add(os.path.realpath(text))

    def _listed(self, path: Any, details: bool, frame: FrameType) -> None:
        if is_import_system(frame):
            return
        if isinstance(path, int):
            path = path_of(path)
        if path is None:
            return
        real = os.path.realpath(os.fsdecode(path))
        if real + os.sep in self.places.packages:
            self.record("distributions", "*")
        elif real.startswith(STATE):
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


def _flags(mode: str) -> int:
    flags = os.O_RDWR if "+" in mode else os.O_RDONLY if "r" in mode else os.O_WRONLY
    more = {"w": os.O_CREAT | os.O_TRUNC, "x": os.O_CREAT | os.O_EXCL, "a": os.O_CREAT | os.O_APPEND}
    return flags | next((more[letter] for letter in mode if letter in more), 0)
