"""Runs stale notebooks, in parallel, each in a kernel of its own; says file and line where one fails."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weave import provenance, recorder
from weave.notebook import Cell, Notebook
from weave.problem import Problem
from weave.publish import CLAIM_MIME
from weave.store import Run, Store, code_digest, surroundings, versions

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = re.compile(r"Cell In ?\[(\d+)\], line (\d+)")
_TEMPORARY_FILE = re.compile(r" \(\S*\.py, line \d+\)$")
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+(?=>)")
_TEMPORARY_CELL = re.compile(r"\S*/ipykernel_\d+/\d+\.py")


@dataclass
class Outcome:
    """What is known of a notebook after an attempt: a result that belongs to today's inputs, or problems."""

    notebook: Notebook
    run: Run | None
    problems: list[Problem] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)
    """What a failed run depended on: while none of it changes, running again would fail again."""


class Executor:
    def __init__(self, root: Path, store: Store, *, timeout: int, say: Callable[[str], None]) -> None:
        """``timeout``: seconds that a cell may take; ``say`` gets a line of progress at a time."""
        self.root, self.store, self.timeout, self.say = root, store, timeout, say
        self._kernels: set[Any] = set()
        self._stopping = threading.Event()

    def run(self, notebooks: Sequence[Notebook], workers: int | None = None) -> list[Outcome]:
        """Run every notebook given, ``workers`` at a time (default: one a core)."""
        if not notebooks:
            return []
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

    def _stop(self, futures: Sequence[Any]) -> None:
        self._stopping.set()
        for future in futures:
            future.cancel()
        for kernel in list(self._kernels):
            process = getattr(kernel.provisioner, "process", None)
            if process is not None:
                process.kill()

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

    def _once(self, notebook: Notebook) -> Outcome:
        started = time.monotonic()
        self.say(f"{notebook.path} runs ({len(notebook.code)} cells)")
        # Sockets lie in it, whose paths may be some hundred bytes long.
        short = "/tmp" if len(tempfile.gettempdir()) > 60 else None
        folder = Path(tempfile.mkdtemp(prefix="weave-", dir=short))
        try:
            made: dict[str, Any] = {**provenance.surroundings(self.root), "cell_seconds": []}
            outputs, problems = asyncio.run(self._execute(notebook, folder, made["cell_seconds"]))
            record = recorder.read(folder / "record")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        inputs = {
            "code": code_digest(notebook),
            **surroundings(),
            "files": record["files"],
            "listings": record["listings"],
            "packages": versions(list(record["packages"])),
        }
        run = Run(notebook, outputs, inputs, time.monotonic() - started, made)
        problems = problems or _published_twice(run)
        return Outcome(notebook, None if problems else run, problems, inputs)

    async def _execute(
        self, notebook: Notebook, folder: Path, took: list[float]
    ) -> tuple[list[list[dict[str, Any]]], list[Problem]]:
        # Imported here: what only reads stored results does not wait for them.
        import nbformat
        from jupyter_client.manager import AsyncKernelManager
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

        code = notebook.code
        made = [
            nbformat.v4.new_code_cell(cell.source, metadata={"tags": list(cell.tags)}, id=f"cell-{number}")
            for number, cell in enumerate(code)
        ]
        document = nbformat.v4.new_notebook(cells=made)
        # Unix sockets in a folder of our own: no port that another build could take in between.
        manager = AsyncKernelManager(
            kernel_name="python3",
            transport="ipc",
            ip=str(folder / "kernel"),
            connection_file=str(folder / "kernel.json"),
        )
        start = [
            f"import weave.recorder; weave.recorder.start({str(self.root)!r}, {str(folder / 'record')!r})",
            "import logging; logging.getLogger('matplotlib.font_manager').setLevel('ERROR')",  # "this may take…"
        ]
        client = NotebookClient(
            document,
            km=manager,
            timeout=self.timeout,
            shutdown_kernel="immediate",
            coalesce_streams=True,
            record_timing=False,
            resources={"metadata": {"path": str(self.root)}},
            extra_arguments=[
                "--HistoryManager.enabled=False",
                "--InlineBackend.figure_formats={'svg'}",
                "--InlineBackend.print_figure_kwargs={'bbox_inches':'tight','metadata':{'Date':None}}",
                *(f"--IPKernelApp.exec_lines={line}" for line in start),
            ],
        )
        client.owns_km = True  # or the kernel outlives us
        current: list[int] = []
        started: list[float] = []

        async def note_cell(cell: Any, cell_index: int) -> None:
            if self._stopping.is_set():
                raise DeadKernelError("stopped")
            current[:] = [cell_index]
            started[:] = [time.monotonic()]

        async def note_time(**_: Any) -> None:
            took.append(round(time.monotonic() - started[0], 3))

        client.on_cell_execute = note_cell
        client.on_cell_executed = note_time
        self._kernels.add(manager)
        problem = None
        try:
            await client.async_execute(env=_environment(folder))
        except CellExecutionError:
            problem = _raised(notebook, document, current[0])
        except CellTimeoutError:
            what = f"took longer than {self.timeout} s; make it quicker, or raise weave: cell_timeout in mkdocs.yml"
            problem = _at(notebook, code[current[0]], what)
        except Exception as error:
            if current and not isinstance(error, DeadKernelError):
                raise
            if current:
                what = f"the kernel died here (killed, or out of memory); try: weave run {notebook.stem}"
                problem = _at(notebook, code[current[0]], what)
            else:
                first = (str(error).splitlines() or [type(error).__name__])[0]
                problem = Problem(
                    notebook.path, 1, f"its kernel did not start ({first}); try: weave run {notebook.stem}"
                )
        finally:
            self._kernels.discard(manager)
            atexit.unregister(client._cleanup_kernel)  # nbclient forgets to, where the kernel did not start
        outputs = [[_tidy(output, self.root) for output in cell.outputs] for cell in made]
        if problem is None:
            problem = _did_not_raise(notebook, outputs)
        return outputs, [problem] if problem else []


def _environment(folder: Path) -> dict[str, str]:
    """One thread, fixed seeds for what Python leaves open, nobody's own settings: every machine computes alike."""
    fixed = {
        "IPYTHONDIR": str(folder / "ipython"),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "MATPLOTLIBRC": str(Path(__file__).with_name("weave.matplotlibrc")),
        "PYTHONSAFEPATH": "1",
        "TQDM_DISABLE": "1",
    }
    return {name: value for name, value in {**os.environ, **fixed}.items() if name != "PYTHONSTARTUP"}


def _at(notebook: Notebook, cell: Cell, what: str, offset: int = 0, detail: str = "") -> Problem:
    named = f"cell '{cell.name}': " if cell.name else ""
    return Problem(notebook.path, cell.line + offset, named + what, detail)


def _raised(notebook: Notebook, document: Any, index: int) -> Problem:
    """The innermost line of the notebook in the traceback of the cell that raised."""
    error = next(out for out in reversed(document.cells[index].outputs) if out.output_type == "error")
    detail = _ANSI.sub("", "\n".join(error.traceback))
    place, offset = notebook.code[index], 0
    by_count = {cell.execution_count: number for number, cell in enumerate(document.cells)}
    for count, line in _FRAME.findall(detail):
        if int(count) in by_count:
            place, offset = notebook.code[by_count[int(count)]], int(line) - 1
    first = _TEMPORARY_FILE.sub("", (error.evalue.strip().splitlines() or [""])[0])
    what = f"{error.ename}: {first}" if first else error.ename
    return _at(notebook, place, f"{what}; the traceback is below", offset, detail)


def _did_not_raise(notebook: Notebook, outputs: list[list[dict[str, Any]]]) -> Problem | None:
    for cell, given in zip(notebook.code, outputs, strict=True):
        if "raises-exception" in cell.tags and not any(out["output_type"] == "error" for out in given):
            return _at(notebook, cell, "is tagged raises-exception and raised nothing; drop the tag")
    return None


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
