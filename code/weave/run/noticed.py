"""Notices what Python does not announce: questions about files, variables of the environment, readers in C and Rust."""

from __future__ import annotations

import functools
import os
import posix
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from weave.run import facts
from weave.run.places import is_import_system, path_of
from weave.run.recorder import Recorder

_NATIVE = {
    "safetensors": ("safe_open",),
    "tokenizers": (
        "Tokenizer.from_file", "models.BPE.from_file", "models.BPE.read_file", "models.WordPiece.from_file",
        "models.WordPiece.read_file", "models.WordLevel.from_file", "models.WordLevel.read_file", "Tokenizer.train",
        "Tokenizer.from_pretrained",
    ),
    "torch": ("from_file", "UntypedStorage.from_file", "jit.load"),
    "PIL.ImageFont": ("truetype",),
    "ssl": ("SSLContext.load_verify_locations", "SSLContext.load_cert_chain"),
}  # fmt: skip
"""Functions that read files by compiled code, by module; their first argument is a path, others may be."""
_UNSTABLE = {"st_atime": "", "st_atime_ns": "", "st_ino": "place", "st_dev": "place"}
"""Fields that differ without any change of the file; those that say which file it is are recorded as its real path."""


def follow(recorder: Recorder) -> None:
    """Begin to notice; the functions of ``os`` do what they did."""
    _follow_questions(recorder)
    _follow_environment(recorder)
    _follow_native(recorder)
    _follow_programs(recorder)


# -- files


class Stat(tuple):
    """An ``os.stat_result`` that reports which of its fields are read."""

    _found: os.stat_result
    _notice: Callable[[str], None]

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return os.stat_result

    def __getattr__(self, field: str) -> Any:
        value = getattr(self._found, field)
        self._notice(field)
        return value

    def _notice_all(self) -> None:
        for field in ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_mtime_ns"):
            self._notice(field)

    def __getitem__(self, index: Any) -> Any:
        self._notice_all()
        return self._found[index]

    def __iter__(self) -> Iterator[Any]:
        self._notice_all()
        return iter(self._found)

    def __repr__(self) -> str:
        self._notice_all()
        return repr(self._found)

    def __reduce__(self) -> Any:
        self._notice_all()
        return self._found.__reduce__()


def _follow_questions(recorder: Recorder) -> None:
    stat, lstat, fstat, access, readlink, open_ = os.stat, os.lstat, os.fstat, os.access, os.readlink, os.open

    def noticing(found: os.stat_result, path: Any, folder: str | None, link: str = "") -> Any:
        result = Stat(found)

        def notice(field: str) -> None:
            field = _UNSTABLE.get(field, field)
            if field.startswith(("st_", "place")) and not recorder.is_paused():
                recorder.noticed(link + field, path, folder)

        result._found, result._notice = found, notice
        return result

    def exempt(path: Any) -> bool:
        return recorder.is_paused() or is_import_system(sys._getframe(2))

    @functools.wraps(stat)
    def stat_(path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> Any:
        if exempt(path):
            return stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        if isinstance(path, int):
            return fstat_(path)
        folder, link = None if dir_fd is None else path_of(dir_fd), "" if follow_symlinks else "link-"
        recorder.noticed(f"{link}exists", path, folder)
        return noticing(stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks), path, folder, link)

    @functools.wraps(lstat)
    def lstat_(path: Any, *, dir_fd: int | None = None) -> Any:
        if exempt(path):
            return lstat(path, dir_fd=dir_fd)
        folder = None if dir_fd is None else path_of(dir_fd)
        recorder.noticed("link-exists", path, folder)
        return noticing(lstat(path, dir_fd=dir_fd), path, folder, "link-")

    @functools.wraps(fstat)
    def fstat_(fd: int) -> Any:
        found = fstat(fd)
        path = None if recorder.is_paused() else path_of(fd)
        return found if path is None else noticing(found, path, None)

    @functools.wraps(access)
    def access_(path: Any, mode: int, *, dir_fd: int | None = None, **options: bool) -> bool:
        if not exempt(path):
            recorder.noticed(f"access-{mode}", path, None if dir_fd is None else path_of(dir_fd))
        return access(path, mode, dir_fd=dir_fd, **options)

    @functools.wraps(readlink)
    def readlink_(path: Any, *, dir_fd: int | None = None) -> Any:
        if not exempt(path):
            recorder.record("links", recorder.name(path, None if dir_fd is None else path_of(dir_fd)))
        return readlink(path, dir_fd=dir_fd)

    @functools.wraps(open_)
    def open__(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if dir_fd is None or recorder.is_paused():
            return open_(path, flags, mode, dir_fd=dir_fd)
        with recorder.paused():
            recorder.opened(path, None, flags, path_of(dir_fd))
            return open_(path, flags, mode, dir_fd=dir_fd)

    for original, wrapper in (
        (stat, stat_), (lstat, lstat_), (fstat, fstat_), (access, access_), (readlink, readlink_), (open_, open__),
    ):  # fmt: skip
        for module in (os, posix):
            setattr(module, original.__name__, wrapper)
        for able in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks, os.supports_effective_ids):
            if original in able:
                able.add(wrapper)


# -- variables


def _follow_environment(recorder: Recorder) -> None:
    known = dict(os.environ)

    def notice(name: str) -> None:
        if name in facts.PASSED and not recorder.is_paused():
            recorder.record("environment", name, facts.variable(Path(recorder.places.root), name, known))

    base: Any = type(os.environ)

    class Noticing(base):
        def __getitem__(self, key: Any) -> Any:
            if isinstance(key, str | bytes):
                notice(os.fsdecode(key))
            return super().__getitem__(key)

        def __iter__(self) -> Iterator[Any]:
            for name in facts.PASSED:
                notice(name)
            return super().__iter__()

    for environ in (os.environ, os.environb):
        environ.__class__ = Noticing


# -- compiled code and programs


def _follow_native(recorder: Recorder) -> None:
    def reading(function: Any) -> Any:
        @functools.wraps(function, updated=())
        def wrapper(*arguments: Any, **named: Any) -> Any:
            paths: list[Any] = []
            for value in (*arguments, *named.values()):
                paths += value if isinstance(value, list | tuple) else [value]
            paths = [path for path in paths if isinstance(path, str | bytes | os.PathLike)]
            with recorder.paused():
                there = paths[:1] + [path for path in paths[1:] if os.path.exists(path)]
            for path in there:
                recorder.record_file(path)
            if function.__name__ == "from_pretrained":
                recorder.unfollowed("opens a connection")
            return function(*arguments, **named)

        return wrapper

    def wrap(module: Any, names: tuple[str, ...]) -> None:
        for dotted in names:
            *parents, name = dotted.split(".")
            owner = functools.reduce(lambda found, part: getattr(found, part, None), parents, module)
            if function := getattr(owner, name, None):
                wrapper: Any = reading(function)
                if isinstance(owner, type) and type(function).__name__ != "method_descriptor":
                    wrapper = staticmethod(wrapper)
                setattr(owner, name, wrapper)

    class First:
        """Wraps the functions of a module once it is imported."""

        @staticmethod
        def find_spec(fullname: str, path: Any = None, target: Any = None) -> Any:
            if fullname not in _NATIVE:
                return None
            others = (finder for finder in sys.meta_path if finder is not First)
            found = (finder.find_spec(fullname, path, target) for finder in others)
            spec = next((spec for spec in found if spec), None)
            loader: Any = spec and spec.loader
            if loader:
                run = loader.exec_module

                def run_and_wrap(module: Any) -> None:
                    run(module)
                    wrap(module, _NATIVE[fullname])

                loader.exec_module = run_and_wrap
            return spec

    for name, functions in _NATIVE.items():
        if module := sys.modules.get(name):
            wrap(module, functions)
    sys.meta_path.insert(0, First)  # type: ignore[arg-type]


def _follow_programs(recorder: Recorder) -> None:
    """Record programs that multiprocessing starts, which Python does not announce."""
    import _posixsubprocess

    original = _posixsubprocess.fork_exec

    def fork_exec(arguments: Any, *more: Any) -> int:
        tracker = any("resource_tracker" in str(argument) for argument in arguments)  # reads nothing of the notebook
        if not tracker and sys._getframe(1).f_globals.get("__name__") != "subprocess":  # which Python announces
            recorder.record_effect("fork_exec")
            recorder.unfollowed("starts a process")
        return original(arguments, *more)

    _posixsubprocess.fork_exec = fork_exec
