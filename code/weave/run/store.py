"""Results of executed notebooks, each kept as long as everything that it depended on is unchanged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from weave.run import inputs
from weave.run.claim import CLAIM_MIME
from weave.run.inputs import Executed, Reason
from weave.run.notebook import Notebook, parse
from weave.source.files import write_atomically

_RESULTS_KEPT = 5
_LOOK_AGAIN = 0.3  # seconds between two looks at whether another process still runs a notebook


@dataclass(frozen=True)
class Published:
    """A number that a notebook published with ``claim(name=value)``."""

    value: int | float | tuple[int | float, int | float]
    cell: str
    """Key of the cell."""
    line: int


@dataclass(frozen=True)
class Result:
    """A notebook together with what its code cells gave out, in nbformat's shape: a list of outputs for each cell."""

    notebook: Notebook
    outputs: list[list[dict[str, Any]]]
    inputs: dict[str, Any] = field(default_factory=dict)
    """See ``inputs.py``."""
    seconds: float = 0.0
    circumstances: dict[str, Any] = field(default_factory=dict)
    """Shown, but not compared: ``commit``, ``device``, ``cell_seconds`` of each cell, and ``first_read``, the number of
    the cell that read a file first."""
    checksum: str = ""
    """Of the stored result."""

    @property
    def digest(self) -> str:
        """Changes with everything that pages show of it."""
        return self.checksum or _checksum({"outputs": self.outputs, "circumstances": self.circumstances})

    @cached_property
    def published(self) -> dict[str, Published]:
        values = {}
        for cell, outputs in zip(self.notebook.code, self.outputs, strict=True):
            for output in outputs:
                for name, value in output.get("data", {}).get(CLAIM_MIME, {}).items():
                    plain = tuple(value) if isinstance(value, list) else value
                    values[name] = Published(plain, cell.key, cell.line)
        return values


class Store:
    """A folder of results, ``<notebook>/<digest of its inputs>.json``; of each notebook the last five in use."""

    # ``_parsed`` holds each result that was read or found fresh, beside the stamp of its file. Only `_read` and `fresh`
    # write it; an entry counts as long as the file has that stamp, and lives as long as the store.

    def __init__(self, root: Path, folder: Path, warn: Callable[[str], None]) -> None:
        self.root, self.folder, self.warn = root, folder, warn
        self._parsed: dict[Path, tuple[tuple[int, ...], Result]] = {}
        # The keys of results saved in this build: these are used though they read what cannot be followed.
        self._saved: set[str] = set()

    def fresh(self, notebook: Notebook) -> Result | None:
        """Return the stored result whose inputs are all unchanged, if there is one."""
        for path in self._entries(notebook):
            result = self._read(path, notebook)
            if result and self._reusable(result) and not any(self.changes(result, notebook)):
                with contextlib.suppress(FileNotFoundError):  # another build has cleaned up
                    self._make_newest(path, notebook)
                    self._parsed[path] = _stamp(path), result
                # Prose may have changed since: cells come from today's notebook, outputs from the store.
                return Result(
                    notebook, result.outputs, result.inputs, result.seconds, result.circumstances, result.checksum
                )
        return None

    def last(self, notebook: Notebook) -> Result | None:
        """Return the last good result, to be shown while a newer run fails."""
        return next((result for path in self._entries(notebook) if (result := self._read(path, notebook))), None)

    def reasons(self, notebook: Notebook) -> list[Reason]:
        """Say why a notebook has no fresh result: every input of the last one that changed. Fresh: no reason."""
        if notebook.problems:
            return [Reason(problem.line, f"cannot be run: {problem.message}") for problem in notebook.problems]
        if self.fresh(notebook):
            return []
        last = self.last(notebook)
        return [*self.changes(last, notebook), *inputs.unfollowed(last)] if last else [Reason(1, "never ran")]

    def _reusable(self, result: Result) -> bool:
        return not inputs.unfollowed(result) or _key(result) in self._saved

    def changes(self, earlier: Executed, notebook: Notebook) -> Iterator[Reason]:
        """Find, one at a time, the inputs that have changed since an earlier run, stored or not."""
        return inputs.changes(self.root, earlier, notebook)

    @contextlib.contextmanager
    def turn(self, notebook: Notebook, say: Callable[[str], None], stopped: Callable[[], bool]) -> Iterator[bool]:
        """Let no other process run the notebook within the block. Yields whether one did when the block was reached.

        Args:
            say: Is told that this process waits.
            stopped: Ends the waiting.
        """
        folder, waited = self.folder / notebook.stem, False
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", thread_local=False)
        while not lock.is_locked and not stopped():
            try:
                lock.acquire(timeout=_LOOK_AGAIN)
            except Timeout:
                if not waited:
                    say(f"{notebook.path} waits: another process is running it")
                waited = True
        try:
            yield waited
        finally:
            lock.release()

    def save(self, result: Result) -> None:
        body = {
            "inputs": result.inputs,
            "notebook": result.notebook.text,
            "outputs": result.outputs,
            "seconds": result.seconds,
            "circumstances": result.circumstances,
        }
        body["sha256"] = _checksum(body)
        key, folder = _key(result), self.folder / result.notebook.stem
        target = folder / f"{key}.json"
        write_atomically(target, json.dumps(body).encode())  # keys in the run's order, as pages show
        self._saved.add(key)
        with contextlib.suppress(FileNotFoundError):  # another build has cleaned up
            self._make_newest(target, result.notebook)
        for old in self._entries(result.notebook)[_RESULTS_KEPT:]:
            old.unlink(missing_ok=True)

    def _make_newest(self, path: Path, notebook: Notebook) -> None:
        """Date a result after all others, though the clock may have gone backwards since these were stored."""
        now = time.time_ns()
        for other in self._entries(notebook):
            with contextlib.suppress(FileNotFoundError):  # another build has cleaned up
                now = max(now, other.stat().st_mtime_ns + (other != path))
        os.utime(path, ns=(now, now))

    def _entries(self, notebook: Notebook) -> list[Path]:
        """The files of a notebook's results, the one last in use first."""
        times = []
        for path in (self.folder / notebook.stem).glob("*.json"):
            with contextlib.suppress(FileNotFoundError):  # another build has cleaned up
                times.append((path.stat().st_mtime_ns, path))
        return [path for _, path in sorted(times, reverse=True)]

    def _read(self, path: Path, today: Notebook) -> Result | None:
        try:
            stamp = _stamp(path)
            if (parsed := self._parsed.get(path)) and parsed[0] == stamp:
                return parsed[1]
            body = json.loads(path.read_bytes())
            checksum = body.pop("sha256")
            if checksum != _checksum(body):
                raise ValueError("its checksum does not match")
            notebook = parse(today.path, body["notebook"])
            circumstances = body.get("circumstances", {})
            result = Result(notebook, body["outputs"], body["inputs"], body["seconds"], circumstances, checksum)
            if len(result.outputs) != len(notebook.code):
                raise ValueError("its cells do not match")
            self._parsed[path] = stamp, result
            return result
        except FileNotFoundError:
            return None
        except OSError as error:
            self.warn(f"{self._shown(path)}:1: cannot be read ({error.strerror}); delete it")
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.warn(
                f"{self._shown(path)}:1: this result cannot be trusted ({error}); deleted it, the notebook runs again"
            )
            path.unlink(missing_ok=True)
            return None

    def _shown(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)


def _key(result: Result) -> str:
    return hashlib.sha256(json.dumps(result.inputs, sort_keys=True).encode()).hexdigest()[:24]


def _stamp(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_ctime_ns, stat.st_size, stat.st_ino


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
