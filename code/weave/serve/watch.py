"""Files that change: found by looking at them (`Files`), and announced by the system (`Watcher`)."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers.api import BaseObserver

from weave.book.book import Book
from weave.run import facts
from weave.source.problem import say

_IGNORED = {"__pycache__", "node_modules", "site"}
_QUIET = 0.03  # seconds without an edit, after which open pages are told
_TICK = 20_000_000  # nanoseconds: the clock of a file system
Stamps = dict[str, tuple[int, ...]]
"""What changes when a file is written, by its path: times, size, inode."""


class Files:
    """The files that a site is made of, and which of them changed.

    Args:
        book: Has the folders, and the files that notebooks read.
        settings: Further files: mkdocs.yml and its hooks.
        folders: Further folders: the theme's own, and those that mkdocs.yml lists under ``watch``.
    """

    def __init__(self, book: Book, settings: set[str], folders: set[str]) -> None:
        self.book, self.settings, self.folders = book, settings, folders
        self.stamps: Stamps = {}
        """All files at the last look. Empty before the first."""
        self.elsewhere: set[str] = set()
        """Files outside the site's folders that notebooks have read, and folders that they have listed. Set by `look`,
        read by `Watcher.follow`."""
        self._late: dict[str, str] = {}  # the content of files written within a tick of the last look
        self._looked = 0

    def changed(self) -> set[str]:
        """Look again, and return the files that changed since the last look.

        Clocks tick every few milliseconds: a file written just before a look may be written again within the same tick.
        So its bytes are compared at the next look.
        """
        now, before, stamps = time.time_ns(), self.stamps, self.look()
        changed = {path for path in before.keys() | stamps.keys() if before.get(path) != stamps.get(path)}
        # Files that the last build saw a notebook read were right then; they are watched only from now on.
        changed -= {
            path for path in changed if path in self.elsewhere and path not in before and stamps[path][1] < self._looked
        }
        changed |= {path for path, content in self._late.items() if _content(path) != content}
        late = [path for path, stamp in stamps.items() if now - stamp[1] < _TICK]
        self._late = {path: _content(path) for path in late}
        self._looked, self.stamps = now, stamps
        return changed

    def look(self) -> Stamps:
        """Return the stamps of every file that the site may be made of."""
        layout = self.book.layout
        stamps: Stamps = {}
        for folder in {layout.docs, layout.notebooks, *layout.sources, *self.folders}:
            for entry in _entries(str(layout.root / folder)):
                with contextlib.suppress(OSError):  # editors' own files come and go
                    stamps[entry.path] = _stamp(entry.stat())
        read = {
            name
            for outcome in self.book.outcomes.values()
            for inputs in (outcome.inputs, outcome.run.inputs if outcome.run else {})
            for name in facts.paths(inputs)
        }
        self.elsewhere = {str(layout.root / name) for name in read} - stamps.keys()
        for path in {*self.settings, *self.elsewhere}:
            with contextlib.suppress(OSError):
                stamps[path] = _stamp(os.stat(path))
        return stamps


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        entries = list(os.scandir(folder))
    except OSError:  # gone, or not there yet
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _IGNORED or entry.name.endswith(".egg-info"):
            continue
        if entry.is_dir():
            yield from _entries(entry.path)
        elif entry.is_file():
            yield entry


def _content(path: str) -> str:
    return facts.file_digest(Path(path)) or facts.listing_digest(Path(path))


def _stamp(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


class Watcher(FileSystemEventHandler):
    """Calls a function once files have changed and are quiet.

    Args:
        files: Has the folders of files elsewhere, to be watched too.
        refresh: Called in a thread of its own.
    """

    def __init__(self, files: Files, refresh: Callable[[], None], observer: BaseObserver) -> None:
        self.files, self.refresh, self.observer = files, refresh, observer
        self._watched: set[str] = set()
        self._last = 0.0
        self._woken = threading.Event()
        layout = files.book.layout
        tops = {
            str(layout.root / folder) for folder in (layout.docs, layout.notebooks, *layout.sources, *files.folders)
        }
        for folder in sorted(top for top in tops if os.path.isdir(top)):
            if not any(folder.startswith(other + os.sep) for other in tops):
                observer.schedule(self, folder, recursive=True)
        observer.schedule(self, str(layout.root), recursive=False)
        threading.Thread(target=self._wait, daemon=True, name="watch").start()

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("modified", "created", "deleted", "moved", "closed"):
            self._last = time.monotonic()
            self._woken.set()

    def wake(self) -> None:
        """Refresh though no file changed."""
        self._woken.set()

    def _wait(self) -> None:
        while True:
            self._woken.wait()
            while (left := self._last + _QUIET - time.monotonic()) > 0:
                time.sleep(left)
            self._woken.clear()
            try:
                self.refresh()
                self.follow()
            except Exception:  # the next edit is seen all the same
                say(traceback.format_exc())

    def follow(self) -> None:
        """Watch the folders of the files elsewhere, too."""
        for path in self.files.elsewhere:
            folder = path if os.path.isdir(path) else os.path.dirname(path)
            if folder not in self._watched and os.path.isdir(folder):
                self.observer.schedule(self, folder)
                self._watched.add(folder)
