"""Runs stale notebooks, in parallel, each in a process of its own; says file and line where one fails.

While an author is at work (``Executor(keep=True)``), a notebook runs on from its first cell that changed, or that had
read something that did: in a copy of the process as it was before that cell. Where that might give anything else than
a run from the top (a later cell wrote files, started a program or a thread), it runs from the top.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weave.run import provenance, recorder
from weave.run.claim import CLAIM_MIME
from weave.run.notebook import Cell, Notebook
from weave.run.store import Run, Store, code_digest, how_run, installed, surroundings, versions
from weave.source.problem import Problem

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = re.compile(r"Cell In ?\[(\d+)\], line (\d+)")
_TEMPORARY_FILE = re.compile(r" \((\S*\.py|<ipython-input-[^>]*>), line \d+\)$")
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+(?=>)")
_TEMPORARY_CELL = re.compile(r"<ipython-input-\d+-[0-9a-f]+>")


@dataclass
class Outcome:
    """What is known of a notebook after an attempt: a result that belongs to today's inputs, or problems."""

    notebook: Notebook
    run: Run | None
    problems: list[Problem] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)
    """What a failed run depended on: while none of it changes, running again would fail again."""
    running: bool = False
    """Whether it has to run first: what is shown is of before."""


class Died(Exception):
    """A process ended, or did not begin; says why, where that is known."""


class Late(Exception):
    """A cell took too long; its process was killed."""


class Kernel:
    """The other end of ``kernel.py``: one process."""

    def __init__(self, connection: socket.socket, kernels: Kernels) -> None:
        self.connection, self.kernels = connection, kernels
        self.lines = connection.makefile("r", encoding="utf-8")
        self.pid = int(self._answer(30)["pid"])

    def tell(self, do: str, **order: Any) -> None:
        try:
            self.connection.sendall(json.dumps({"do": do, **order}).encode() + b"\n")
        except OSError:
            raise Died("") from None

    def fork(self) -> Kernel:
        """A copy of the process as it is now."""
        return self.kernels.copy(self)

    def run(self, number: int, source: str, seconds: float, hear: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """What a cell gives out: ``outputs``, and the ``count`` that IPython gave it. Raises Died, Late."""
        self.tell("run", cell=number, source=source)
        end = time.monotonic() + seconds
        while "output" in (answer := self._answer(end - time.monotonic())):
            hear(answer["output"])
        return answer

    def _answer(self, seconds: float) -> dict[str, Any]:
        self.connection.settimeout(max(seconds, 0.001))
        try:
            line = self.lines.readline()
        except TimeoutError:
            self.end()
            raise Late from None
        except (OSError, ValueError):
            line = ""
        if not line:
            raise Died("")
        return json.loads(line)

    def end(self) -> None:
        """Nobody needs it any more."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, 9)
        for one in (self.lines, self.connection):
            with contextlib.suppress(OSError):
                one.close()


class Kernels:
    """Where kernels come from: a first process that has imported ``modules`` and is copied for each notebook."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.modules = list(modules)
        self.lock = threading.Lock()
        self.first: Kernel | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.made_in: Any = None

    def start(self) -> Kernel:
        """A process that has run nothing yet. Raises Died."""
        with self.lock:
            if not self.current():
                self._close()
                self._open()
        assert self.first
        return self.copy(self.first)

    def copy(self, kernel: Kernel) -> Kernel:
        with self.lock:  # whoever connects next is the one asked for
            kernel.tell("fork")
            return self._accept()

    def current(self) -> bool:
        """Whether the first process lives, and has the environment and the packages that a new one would have."""
        return (
            self.process is not None and self.process.poll() is None and self.made_in == (dict(os.environ), installed())
        )

    def _open(self) -> None:
        # The socket lies in it, whose path may be some hundred bytes long.
        short = "/tmp" if len(tempfile.gettempdir()) > 60 else None
        self.folder = Path(tempfile.mkdtemp(prefix="weave-", dir=short))
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.folder / "socket"))
        self.listener.listen()
        self.made_in = dict(os.environ), installed()
        command = [sys.executable, "-m", "weave.run.kernel", str(self.folder / "socket"), *self.modules]
        with open(self.folder / "said", "wb") as said:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=_environment(self.folder),
                start_new_session=True,
            )
        self.first = self._accept()

    def _accept(self) -> Kernel:
        assert self.process
        end = time.monotonic() + (30 if self.first else 120)
        self.listener.settimeout(0.2)
        while True:
            try:
                connection, _ = self.listener.accept()
                return Kernel(connection, self)
            except TimeoutError:
                if self.process.poll() is not None or time.monotonic() > end:
                    lines = (self.folder / "said").read_text("utf-8", "replace").strip().splitlines()
                    raise Died(lines[-1] if lines else "it does not answer") from None

    def close(self) -> None:
        with self.lock:
            self._close()

    def kill(self) -> None:
        """At once, whatever is being done with them."""
        if self.process is not None:
            self.process.kill()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _close(self) -> None:
        if self.process is None:
            return
        if self.first:
            self.first.end()
        self.process.kill()
        self.process.wait()
        self.listener.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.process = self.first = None


@functools.cache
def kernels(modules: tuple[str, ...]) -> Kernels:
    """The kernels of this process that begin with these modules; they end with it."""
    made = Kernels(modules)
    atexit.register(made.close)
    return made


@dataclass
class State:
    """What is kept of a notebook's last run: for each cell the state before it, what it gave, and what it read."""

    notebook: Notebook
    before: list[Kernel] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    facts: list[recorder.Fact] = field(default_factory=list)
    packages: dict[str, str] = field(default_factory=dict)

    def end(self) -> None:
        for kernel in self.before:
            kernel.end()
        self.before.clear()

    def cut(self, cell: int) -> None:
        """Forget what came of the cells from this one on."""
        for kernel in self.before[cell + 1 :]:
            kernel.end()
        del self.before[cell + 1 :], self.answers[cell:], self.took[cell:]
        self.facts = [fact for fact in self.facts if fact[3] < cell]


_KEPT_STATES = 3  # notebooks; each copy shares what did not change
_LONGEST = 64  # cells

Hear = Callable[[Notebook, int, dict[str, Any] | None], None]
"""Told of each output of each cell as it appears, and with None of each cell that begins."""


class Executor:
    def __init__(
        self,
        root: Path,
        store: Store,
        *,
        timeout: int,
        say: Callable[[str], None],
        modules: Sequence[str] = (),
        hear: Hear = lambda *_: None,
        keep: bool = False,
    ) -> None:
        """``timeout``: seconds that a cell may take; ``say`` gets a line of progress at a time; ``modules``: what is
        imported before any notebook runs, because it takes long; ``keep`` states to run on from."""
        self.root, self.store, self.timeout, self.say, self.hear, self.keep = root, store, timeout, say, hear, keep
        self.kernels = kernels(tuple(modules))
        self.states: dict[str, State] = {}
        self._running: dict[str, Kernel] = {}
        self._stopping = threading.Event()

    def run(self, notebooks: Sequence[Notebook], workers: int | None = None, force: bool = False) -> list[Outcome]:
        """Run every notebook given, ``workers`` at a time (default: one a core); by ``force`` from the top."""
        if not notebooks:
            return []
        if force:
            self.close()
        count = min(len(notebooks), workers or os.cpu_count() or 1)
        outcomes: dict[str, Outcome] = {}
        with ThreadPoolExecutor(count, thread_name_prefix="notebook") as pool:
            futures = [pool.submit(self._attempt, notebook) for notebook in notebooks]
            try:
                for done, future in enumerate(as_completed(futures), start=1):
                    outcome = future.result()
                    outcomes[outcome.notebook.path] = outcome
                    took = f"in {outcome.run.seconds:.1f} s" if outcome.run else "and failed"
                    self.say(f"{outcome.notebook.path} ran {took} ({done} of {len(futures)})")
            except BaseException:
                self._stop(futures)
                raise
        return [outcomes[notebook.path] for notebook in notebooks]

    def close(self) -> None:
        for state in list(self.states.values()):
            state.end()
        self.states.clear()

    def stop(self, path: str) -> None:
        """End what runs of a notebook, which then fails; nothing happens where nothing does."""
        if kernel := self._running.get(path):
            kernel.end()

    def _stop(self, futures: Sequence[Any]) -> None:
        self._stopping.set()
        for future in futures:
            future.cancel()
        for kernel in list(self._running.values()):
            kernel.end()

    def _attempt(self, notebook: Notebook) -> Outcome:
        for _ in range(3):
            outcome = self._once(notebook)
            changed = None if outcome.run is None else self.store.why_stale(outcome.run, notebook)
            if changed is None:
                break
            self.say(f"{notebook.path}: {changed} while it ran; running it again")
        else:
            what = "what it reads kept changing while it ran; it must not write files that it also reads"
            return Outcome(notebook, None, [Problem(notebook.path, 1, what)])
        if outcome.run:
            self.store.save(outcome.run)
        return outcome

    # -- one run

    def _once(self, notebook: Notebook) -> Outcome:
        started = time.monotonic()
        state = self.states.pop(notebook.path, None) or State(notebook)
        first = self._first(state, notebook)
        state.cut(first)
        state.notebook = notebook
        where = f"cell {first + 1} of {len(notebook.code)} on" if first else f"{len(notebook.code)} cells"
        self.say(f"{notebook.path} runs ({where})")
        made: dict[str, Any] = provenance.surroundings(self.root)
        folder = Path(tempfile.mkdtemp(prefix="weave-"))
        try:
            problems = self._execute(state, first, folder / "record")
            state.facts += recorder.read(folder / "record")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        facts = state.facts
        state.packages = versions(list(recorder.of_kind(facts, "packages")))
        inputs = {
            "code": code_digest(notebook),
            **surroundings(),
            "files": recorder.of_kind(facts, "files"),
            "listings": recorder.of_kind(facts, "listings"),
            "packages": state.packages,
        }
        made["cell_seconds"] = list(state.took)
        self._keep(state)
        if problems:
            return Outcome(notebook, None, problems, inputs)
        outputs = [[_tidy(output, self.root) for output in answer["outputs"]] for answer in state.answers]
        run = Run(notebook, outputs, inputs, time.monotonic() - started, made)
        problems = _did_not_raise(notebook, outputs) or _published_twice(run)
        return Outcome(notebook, None if problems else run, problems, inputs)

    def _first(self, state: State, notebook: Notebook) -> int:
        """The cell from which a notebook has to run; the state before it is there, and it is what it would be again."""
        if not state.before or not self._as_before(state):
            state.end()
            return 0
        pairs = zip(state.notebook.code, notebook.code, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if how_run(a) != how_run(b)), len(notebook.code))
        for kind, name, found, cell in state.facts:
            digest = recorder.digest if kind == "files" else recorder.listing_digest
            if kind in ("files", "listings") and cell < first and digest(self.root / name) != found:
                first = cell
        first = min(first, len(state.before) - 1)
        if first <= 0 or any(kind == "effects" and cell >= first for kind, _, _, cell in state.facts):
            state.end()
            return 0
        return first

    def _as_before(self, state: State) -> bool:
        return self.kernels.current() and versions(list(recorder.of_kind(state.facts, "packages"))) == state.packages

    def _keep(self, state: State) -> None:
        if self.keep:
            self.states[state.notebook.path] = state
            for path in list(self.states)[:-_KEPT_STATES]:
                if old := self.states.pop(path, None):  # a notebook that ends just now may have ended it
                    old.end()

    def _execute(self, state: State, first: int, record: Path) -> list[Problem]:
        """Run the cells from the first on; each one's answer, and a copy of the state before it, go into ``state``."""
        notebook, code = state.notebook, state.notebook.code
        keep = self.keep and len(code) <= _LONGEST
        try:
            if first:
                kernel = state.before[first].fork()
                kernel.tell("record", record=str(record))
            else:
                kernel = self.kernels.start()
                kernel.tell("begin", root=str(self.root), record=str(record))
        except Died as error:
            why = f" ({error})" if str(error) else ""
            return [Problem(notebook.path, 1, f"its kernel did not start{why}; try: weave run {notebook.stem}")]
        self._running[notebook.path] = kernel
        try:
            for number in range(first, len(code)):
                cell, began = code[number], time.monotonic()
                if self._stopping.is_set():
                    raise Died("")
                if keep and len(state.before) == number:
                    state.before.append(kernel.fork())
                self.hear(notebook, number, None)
                answer: dict[str, Any] = {"outputs": [], "count": -1}
                if "skip-execution" not in cell.tags:
                    hear = functools.partial(self.hear, notebook, number)
                    answer = kernel.run(number, cell.source, self.timeout, hear)
                state.answers.append(answer)
                state.took.append(round(time.monotonic() - began, 3))
                failed = any(one["output_type"] == "error" for one in answer["outputs"])
                if failed and "raises-exception" not in cell.tags:
                    return [_raised(notebook, state.answers)]
            if keep and len(state.before) == len(code):
                state.before.append(kernel.fork())  # what is added at the end runs on from here
        except Late:
            what = f"took longer than {self.timeout} s; make it quicker, or raise weave: cell_timeout in mkdocs.yml"
            return [_at(notebook, cell, what)]
        except Died:
            what = f"the kernel died here (killed, or out of memory); try: weave run {notebook.stem}"
            return [_at(notebook, cell, what)]
        finally:
            del self._running[notebook.path]
            kernel.end()
        return []


def _environment(folder: Path) -> dict[str, str]:
    """One thread, fixed seeds for what Python leaves open, nobody's own settings: every machine computes alike."""
    fixed = {
        "IPYTHONDIR": str(folder / "ipython"),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "MATPLOTLIBRC": str(Path(__file__).with_name("weave.matplotlibrc")),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONSAFEPATH": "1",
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",  # its threads would not be in a copy
    }
    return {name: value for name, value in {**os.environ, **fixed}.items() if name != "PYTHONSTARTUP"}


def _at(notebook: Notebook, cell: Cell, what: str, offset: int = 0, detail: str = "") -> Problem:
    named = f"cell '{cell.name}': " if cell.name else ""
    return Problem(notebook.path, cell.line + offset, named + what, detail)


def _raised(notebook: Notebook, answers: list[dict[str, Any]]) -> Problem:
    """The innermost line of the notebook in the traceback of the last cell that ran."""
    error = next(one for one in reversed(answers[-1]["outputs"]) if one["output_type"] == "error")
    detail = _ANSI.sub("", "\n".join(error["traceback"]))
    place, offset = notebook.code[len(answers) - 1], 0
    by_count = {answer["count"]: number for number, answer in enumerate(answers)}
    for count, line in _FRAME.findall(detail):
        if int(count) in by_count:
            place, offset = notebook.code[by_count[int(count)]], int(line) - 1
    first = _TEMPORARY_FILE.sub("", (error["evalue"].strip().splitlines() or [""])[0])
    what = f"{error['ename']}: {first}" if first else error["ename"]
    return _at(notebook, place, f"{what}; the traceback is below", offset, detail)


def _did_not_raise(notebook: Notebook, outputs: list[list[dict[str, Any]]]) -> list[Problem]:
    for cell, given in zip(notebook.code, outputs, strict=True):
        if "raises-exception" in cell.tags and not any(out["output_type"] == "error" for out in given):
            return [_at(notebook, cell, "is tagged raises-exception and raised nothing; drop the tag")]
    return []


def _published_twice(run: Run) -> list[Problem]:
    seen: dict[str, Cell] = {}
    problems = []
    for cell, outputs in zip(run.notebook.code, run.outputs, strict=True):
        for output in outputs:
            for name in output.get("data", {}).get(CLAIM_MIME, {}):
                if name in seen:
                    what = f"publishes '{name}' again (first at line {seen[name].line}); rename one"
                    problems.append(_at(run.notebook, cell, what))
                seen[name] = cell
    return problems


def _tidy(output: Any, root: Path) -> dict[str, Any]:
    """An output without what differs between machines and runs: counters, folders, process numbers, addresses."""

    home = Path.home()
    at_home = f"~{os.sep}{root.relative_to(home)}{os.sep}" if root.is_relative_to(home) else f"{root}{os.sep}"

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            value = value.replace(f"{root}{os.sep}", "").replace(at_home, "")
            return _ADDRESS.sub("", _TEMPORARY_CELL.sub("<cell>", value))
        if isinstance(value, list):
            return [clean(part) for part in value]
        if isinstance(value, dict):
            return {name: clean(part) for name, part in value.items()}
        return value

    plain = clean(json.loads(json.dumps(output)))
    plain.pop("execution_count", None)
    return plain
