"""Notebooks that run while their pages are served: started in the background, stopped when they are edited."""

from __future__ import annotations

import os
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from weave.book.book import Book
from weave.run.executor import Outcome
from weave.run.notebook import Notebook
from weave.source.problem import Problem, say


class Background:
    """Runs stale notebooks in threads; the book gets their outcomes.

    Args:
        book: Its `defer` and `on_output` are set.
        lock: Held whenever the book changes.
        finished: Called without the lock when a notebook has ended.
        on_progress: Called with the progress of all notebooks when that of one changes.
        awaited: Gives the paths of the notebooks that somebody waits for; they run before the others.
    """

    def __init__(
        self,
        book: Book,
        lock: threading.RLock,
        finished: Callable[[], None],
        on_progress: Callable[[list[dict[str, Any]]], None],
        awaited: Callable[[], Sequence[str]],
    ) -> None:
        self.book, self.lock, self.finished, self.on_progress = book, lock, finished, on_progress
        self.awaited = awaited
        self.running: dict[str, Notebook] = {}
        """The notebooks to be run, by path. Set by `choose` in each build; one that ends, or was edited, leaves it."""
        self.started: set[str] = set()
        """The paths in ``running`` that have been started."""
        self.waiting: list[Notebook] = []
        """Those started that no thread has taken yet. Filled by `start`, emptied by `_run_next`; each addition brings
        one call of `_run_next`, so none waits for ever."""
        self.progress: dict[str, dict[str, Any]] = {}
        """The cell that each notebook is at, as open pages are told."""
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="notebook")
        book.defer, book.on_output = self.choose, self._on_output

    def choose(self, stale: list[Notebook]) -> None:
        """Make these the notebooks that run; stop all others."""
        wanted = {notebook.path: notebook for notebook in stale}
        for path, notebook in list(self.running.items()):
            if path not in wanted or wanted[path].code != notebook.code:
                del self.running[path]
                self.book.executor.stop(path)
        for path, notebook in wanted.items():
            if path not in self.running:
                self.running[path] = replace(notebook)  # each run's own object: parse() returns one for the same text
                self.started.discard(path)

    def start(self) -> None:
        """Start what was chosen: after the pages are built, since those are what somebody waits for."""
        for notebook in self.running.values():
            if notebook.path not in self.started:
                self.started.add(notebook.path)
                self.waiting.append(notebook)
                self._pool.submit(self._run_next)

    def _run_next(self) -> None:
        awaited = list(self.awaited())
        ranks = {path: rank for rank, path in reversed([*enumerate(awaited)])}
        with self.lock:
            notebook = min(self.waiting, key=lambda one: ranks.get(one.path, len(awaited)))
            self.waiting = [one for one in self.waiting if one is not notebook]
        self._run(notebook)

    def _run(self, notebook: Notebook) -> None:
        with self._turns[notebook.path]:  # the run before it may be ending
            if self.running.get(notebook.path) is not notebook:
                return
            try:
                [outcome] = self.book.executor.run([notebook], 1)
            except Exception as error:  # not the notebook's fault
                why = f"{type(error).__name__}: {error}"
                what = f"could not be run ({why}); the terminal has more; edit it to try again"
                outcome = Outcome(notebook, None, [Problem(notebook.path, 1, what)])
                say(traceback.format_exc())
        with self.lock:
            self.progress.pop(notebook.path, None)
            if self.running.get(notebook.path) is not notebook:  # it was edited since
                return
            del self.running[notebook.path]
            self.book.record(outcome)
            self.on_progress(list(self.progress.values()))
        self.finished()

    def _on_output(self, notebook: Notebook, number: int, output: dict[str, Any] | None) -> None:
        if output is None and self.running.get(notebook.path) is not notebook:  # edited before it had a process
            self.book.executor.stop(notebook.path)
        elif output is None:
            cells = notebook.code
            name = cells[number].name or f"cell {number + 1}"
            progress = {"notebook": notebook.path, "cell": number + 1, "of": len(cells), "name": name}
            self.progress[notebook.path] = progress
            self.on_progress(list(self.progress.values()))

    def end(self, wait: bool = True) -> None:
        """Stop all notebooks and their processes."""
        for path in list(self.running):
            self.running.pop(path)
            self.book.executor.stop(path)
        self._pool.shutdown(wait, cancel_futures=True)
        self.book.executor.close()
