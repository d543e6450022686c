"""Runs stale notebooks in parallel, each in a process of its own; reports file and line where one fails.

While an author is at work (``Executor(resume=True)``), a notebook continues from the first cell that changed: see
`snapshots.py`.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weave.run import answers, facts, provenance
from weave.run.inputs import inputs_of
from weave.run.kernels import kernels
from weave.run.notebook import Notebook
from weave.run.process import CellTimeout, KernelDied, KernelProcess, Nonsense
from weave.run.snapshots import LONGEST, SnapshotCache, Snapshots
from weave.run.store import Result, Store
from weave.source.problem import Problem

_ATTEMPTS = 3  # at a run during which no input changes

OnOutput = Callable[[Notebook, int, dict[str, Any] | None], None]
"""Gets each output of each cell (by its number, counted from 0) as it appears, and None when a cell begins."""


@dataclass
class Outcome:
    """The state of a notebook: a result of today's inputs, or problems, or neither yet."""

    notebook: Notebook
    run: Result | None
    problems: list[Problem] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)
    """Of a run that failed: while none of them changes, it would fail again."""
    running: bool = False
    """It is about to run or runs; pages show the result before it."""
    skipped: bool = False
    """It was not asked for, and will not run."""


class Executor:
    def __init__(
        self,
        root: Path,
        store: Store,
        *,
        timeout: int,
        say: Callable[[str], None],
        modules: Sequence[str] = (),
        on_output: OnOutput = lambda *_: None,
        resume: bool = False,
        fork: bool | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            timeout: Seconds that a cell may take.
            say: Gets progress, a line at a time.
            modules: Imported before any notebook runs, because they take long.
            resume: Keep snapshots, and continue from the first cell that changed.
            fork: Whether kernels are forked; by default as is safe on this platform.

        Raises:
            Refused: Notebooks cannot run on this platform.
        """
        self.root, self.store, self.timeout, self.say, self.on_output = root, store, timeout, say, on_output
        self.kernels = kernels(tuple(modules), fork)
        self.resume = resume and self.kernels.forks
        self.snapshots = SnapshotCache()
        # The process of each notebook that runs, by path: `_run_cells` writes it, `stop` and `_stop_all` read it.
        self._running: dict[str, KernelProcess] = {}
        self._stopping = threading.Event()

    def run(self, notebooks: Sequence[Notebook], workers: int | None = None, force: bool = False) -> list[Outcome]:
        """Run every notebook given, ``workers`` at a time (by default one per core); with ``force`` from the top."""
        if not notebooks:
            return []
        if force:
            self.close()
        self._stopping.clear()
        count = min(len(notebooks), workers or os.cpu_count() or 1)
        outcomes: dict[str, Outcome] = {}
        with ThreadPoolExecutor(count, thread_name_prefix="notebook") as pool:
            futures = [pool.submit(self._run, notebook, force) for notebook in notebooks]
            try:
                for done, future in enumerate(as_completed(futures), start=1):
                    outcome = future.result()
                    outcomes[outcome.notebook.path] = outcome
                    took = f"in {outcome.run.seconds:.1f} s" if outcome.run else "and failed"
                    of = f" ({done} of {len(futures)})" if len(futures) > 1 else ""
                    self.say(f"{outcome.notebook.path} ran {took}{of}")
            except BaseException:
                self._stop_all(futures)
                raise
        return [outcomes[notebook.path] for notebook in notebooks]

    def close(self) -> None:
        """Close all snapshots."""
        self.snapshots.close()

    def stop(self, path: str) -> None:
        """End the run of a notebook, which then fails; without effect if it does not run."""
        if process := self._running.get(path):
            process.end()

    def _stop_all(self, futures: Sequence[Any]) -> None:
        self._stopping.set()
        for future in futures:
            future.cancel()
        for process in list(self._running.values()):
            process.end()

    # -- one notebook

    def _run(self, notebook: Notebook, force: bool) -> Outcome:
        try:
            return self._run_in_turn(notebook, force)
        except Exception as error:  # of one notebook: the others go on
            why = f"{type(error).__name__}: {error}"
            what = f"could not be run ({why}); try: weave run {notebook.stem}"
            return Outcome(notebook, None, [Problem(notebook.path, 1, what, traceback.format_exc())])

    def _run_in_turn(self, notebook: Notebook, force: bool) -> Outcome:
        """Run a notebook; where another process has just run it, take that result."""
        with self.store.turn(notebook, self.say, self._stopping.is_set) as waited:
            if waited and not force and (result := self.store.fresh(notebook)):
                return Outcome(notebook, result)
            return self._run_until_inputs_stay(notebook)

    def _run_until_inputs_stay(self, notebook: Notebook) -> Outcome:
        for _ in range(_ATTEMPTS):
            outcome = self._run_once(notebook)
            changed = next(self.store.changes(outcome.run, notebook), None) if outcome.run else None
            if changed is None:
                break
            self.say(f"{notebook.path}: {changed.what} while it ran; running it again")
        else:
            what = "what it reads kept changing while it ran; it must not write files that it also reads"
            return Outcome(notebook, None, [Problem(notebook.path, 1, what)])
        if outcome.run:
            self.store.save(outcome.run)
        return outcome

    def _run_once(self, notebook: Notebook) -> Outcome:
        started = time.monotonic()
        run = self._continue_from(notebook)
        first = len(run.answers)
        where = f"cell {first + 1} of {len(notebook.code)} on" if first else f"{len(notebook.code)} cells"
        self.say(f"{notebook.path} runs ({where})")
        circumstances: dict[str, Any] = provenance.circumstances(self.root)
        folder, problems = Path(tempfile.mkdtemp(prefix="weave-")), []
        try:
            (folder / "record").touch(0o644)
            problems = self._run_cells(run, folder / "record")
            run.facts += facts.read(folder / "record")
        except facts.RecordLost:
            run.close()
            what = "what it read could not be recorded, so its result is not kept (is the disk full?); make room in "
            return Outcome(notebook, None, problems or [Problem(notebook.path, 1, f"{what}{folder.parent}")])
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        inputs = inputs_of(self.root, notebook, run.facts)
        run.packages = inputs["packages"]
        circumstances["cell_seconds"] = list(run.seconds)
        circumstances["first_read"] = facts.first_read(run.facts)
        if self.resume:
            self.snapshots.put(run)
        problems = problems or _preloaded(run.facts)
        if problems:
            return Outcome(notebook, None, problems, inputs)
        outputs = answers.outputs(run.answers, self.root)
        if problems := answers.problems(notebook, outputs):
            return Outcome(notebook, None, problems, inputs)
        return Outcome(notebook, Result(notebook, outputs, inputs, time.monotonic() - started, circumstances))

    def _continue_from(self, notebook: Notebook) -> Snapshots:
        """Take out the notebook's snapshots, cut to the cells that need not run again; empty if all must run."""
        last = self.snapshots.take(notebook.path)
        first = last.first_to_run(notebook, self.root) if last and self.kernels.current() else 0
        if last and first:
            last.cut(first)
            last.notebook = notebook
            return last
        if last:
            last.close()
        return Snapshots(notebook)

    def _run_cells(self, run: Snapshots, record: Path) -> list[Problem]:
        """Run the cells that ``run`` has no answer to, and add to it their answers and snapshots."""
        notebook, code, first = run.notebook, run.notebook.code, len(run.answers)
        resume = self.resume and len(code) <= LONGEST
        try:
            if first:
                process = self.kernels.copy(run.before[first])
                process.send("record", record=str(record))
            else:
                process = self.kernels.start()
                process.send("begin", root=str(self.root), record=str(record))
        except KernelDied as error:
            run.close()  # the next run does not rely on these snapshots
            why = f" ({error})" if str(error) else ""
            return [Problem(notebook.path, 1, f"its kernel did not start{why}; try: weave run {notebook.stem}")]
        self._running[notebook.path] = process
        try:
            for number in range(first, len(code)):
                cell, began = code[number], time.monotonic()
                if self._stopping.is_set():
                    raise KernelDied("")
                if resume and len(run.before) == number:
                    run.before.append(self.kernels.copy(process))
                self.on_output(notebook, number, None)
                answer: answers.Answer = {"outputs": [], "count": -1}
                if "skip-execution" not in cell.tags:
                    on_output = functools.partial(self.on_output, notebook, number)
                    answer = process.run(number, cell.source, self.timeout, on_output)
                run.answers.append(answer)
                run.seconds.append(round(time.monotonic() - began, 3))
                if answers.failed(cell, answer):
                    return [answers.error(notebook, run.answers, self.root)]
            if resume and len(run.before) == len(code):
                run.before.append(self.kernels.copy(process))  # a cell added at the end continues from here
        except CellTimeout:
            what = f"took longer than {self.timeout} s; make it quicker, or raise weave: cell_timeout in mkdocs.yml"
            return [answers.problem(notebook, cell, what)]
        except Nonsense as error:
            run.close()
            what = f"wrote into a file of the kernel's own ({error}); use only descriptors that the cell has opened"
            return [answers.problem(notebook, cell, what)]
        except KernelDied:
            what = f"the kernel died here (killed, or out of memory); try: weave run {notebook.stem}"
            return [answers.problem(notebook, cell, what)]
        finally:
            del self._running[notebook.path]
            process.end()
        return []


def _preloaded(recorded: list[facts.Fact]) -> list[Problem]:
    """A problem for each file of the repository that was imported before the first cell: edits do not reach it."""
    files = [fact.name for fact in recorded if fact.kind == "modules" and fact.cell < 0]
    what = "weave: modules imports {}, a file of this repository; list packages only"
    return [Problem("mkdocs.yml", 1, what.format(name)) for name in files]
