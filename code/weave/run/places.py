"""The paths that count as inputs, and the names that they are recorded under."""

from __future__ import annotations

import fcntl
import importlib.metadata
import linecache
import os
import sys
import sysconfig
from pathlib import Path
from types import FrameType
from typing import Any

from weave.run import facts

_IMPORT_SYSTEM = {importlib.metadata.__file__, linecache.__file__}  # linecache reads again what changed
_readlink = os.readlink


class Places:
    """The folders of a notebook's process: of the repository, of Python, of packages, and those that it made."""

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root) + os.sep
        prefix = Path(sys.prefix).resolve()
        if Path(self.root).is_relative_to(prefix):  # the environment is around the repository
            prefix = Path(sysconfig.get_path("purelib")).resolve()
        self.packages = tuple(os.path.realpath(folder) + os.sep for folder in facts.package_folders())
        self.python = (
            str(prefix) + os.sep,
            *(os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib")),
            os.path.realpath(
                os.path.join(sys.base_prefix, "lib", f"python{sysconfig.get_config_var('py_version_nodot')}.zip")
            ),
        )
        self.own = str(Path(__file__).parents[1]) + os.sep  # the code of kernels is an input by itself: see inputs.py
        self.made: set[str] = set()
        """Real paths of the files and folders that the notebook made; nothing in them is an input."""

    def name(self, path: Any, folder: str | None = None) -> str | None:
        """Return the name under which a path is recorded; None if what is there is no input.

        The name leads where the path does: links, and ``..`` after a link, are left for the system to resolve.

        Args:
            folder: That a relative path starts from; by default the current one.
        """
        paths = _paths(path, folder)
        if paths is None:
            return None
        full, real = paths
        if not self._counts(real):
            return None
        if full.startswith(self.root):
            inside = full[len(self.root) :]
        elif real + os.sep == self.root:
            inside = "."
        elif real.startswith(self.root):
            inside = self._inside(full)
        else:
            inside = full
        return inside.replace(os.sep, "/")

    def _inside(self, full: str) -> str:
        """The part of a path after the root, which it may reach through a link."""
        above = full
        while (above := os.path.dirname(above)) not in ("", os.sep):
            if os.path.realpath(above) + os.sep == self.root:
                return full[len(above) :].lstrip(os.sep)
        return full

    def _counts(self, real: str) -> bool:
        if real.startswith(self.root + ".cache" + os.sep) or real == self.root + ".cache":
            return False
        above = real.rstrip(os.sep) + os.sep
        if not above.startswith(self.root) and any(folder.startswith(above) for folder in (self.root, *self.python)):
            return False  # a folder above the repository or above Python
        if self.is_made(real):
            return False
        if real.startswith(self.own) and (
            not self.own.startswith(self.root) or real.startswith(f"{self.own}run{os.sep}")
        ):
            return False  # the files of the kernel's frames, which tracebacks show
        if real.startswith(self.packages):
            return self._package(real) is None
        return not real.startswith(self.python) and real + os.sep not in self.python

    def is_made(self, real: str) -> bool:
        return any(real == made or real.startswith(made + os.sep) for made in self.made)

    def package(self, path: Any, folder: str | None = None) -> tuple[str, str] | None:
        """Return the fact of `facts.py` about the package that a file belongs to: its kind and name."""
        paths = _paths(path, folder)
        return self._package(paths[1]) if paths else None

    def _package(self, real: str) -> tuple[str, str] | None:
        for packages in self.packages:
            if real.startswith(packages):
                top = real[len(packages) :].split(os.sep)[0]
                if top.endswith((".dist-info", ".egg-info")):
                    return "distributions", top.rpartition(".")[0].split("-")[0]
                module = top.split(".")[0]
                if module in facts.owners():
                    return "packages", module
        return None


def _paths(path: Any, folder: str | None) -> tuple[str, str] | None:
    """Return an absolute path, and the real one that it leads to; None if it is no path."""
    if not isinstance(path, str | bytes | os.PathLike):
        return None
    try:
        full = os.path.join(folder or os.getcwd(), os.fsdecode(path))
        if full.startswith(("/proc/", "/dev/")):  # a name for an open file
            full = os.path.realpath(full)
        real = os.path.realpath(full)
        plain = os.path.normpath(full)
        return plain if os.path.realpath(plain) == real else full, real
    except (OSError, ValueError):
        return None


def is_import_system(frame: FrameType) -> bool:
    """True in the functions by which Python finds modules and packages; `imports.py` records these."""
    name = frame.f_code.co_filename
    return name.startswith(("<frozen importlib", "<frozen zipimport")) or name in _IMPORT_SYSTEM


def path_of(descriptor: int) -> str | None:
    """The path of an open file or folder; None if it has none, as a pipe."""
    try:
        if sys.platform == "darwin":
            return fcntl.fcntl(descriptor, 50, bytes(1024)).rstrip(b"\0").decode()  # F_GETPATH
        path = _readlink(f"/proc/self/fd/{descriptor}")
    except (OSError, OverflowError):
        return None
    return path if path.startswith("/") and not path.endswith(" (deleted)") else None
