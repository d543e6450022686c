"""Measuring: the time of a command and of all that it starts, systems that take turns, and tables of the results."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from peers import ROOT

T = TypeVar("T")
median = statistics.median


# --- programs ---------------------------------------------------------------------------------------------------------


def adopt_orphans() -> None:
    """On Linux, become the parent of processes that a program leaves behind, so that they can be timed and ended."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def run(command: list[str], folder: Path, env: dict[str, str]) -> tuple[float, float, int, str]:
    """Run a command; return wall seconds, CPU seconds of its whole process tree, exit status and output."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        before, start = used(), time.perf_counter()
        status = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output).wait()
        wall = time.perf_counter() - start
        deadline = time.monotonic() + 10  # processes left behind end, and are counted
        with suppress(ChildProcessError):
            while time.monotonic() < deadline:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.05)
        output.seek(0)
        return wall, used() - before, status, output.read()


class Processes:
    """The processes of a tool that runs on: those that have a variable of its environment, ``BENCH_RUNS``.

    Their parents do not identify them: kernels are often orphans.
    """

    started: set[int] = set()  # noqa: RUF012
    """Process ids whose end is awaited by whoever started them."""

    def __init__(self, env: dict[str, str]) -> None:
        self.mark = env["BENCH_RUNS"]
        self.ended = 0.0
        """CPU seconds of orphans that have ended; ``cpu`` adds them."""

    def __iter__(self) -> Iterator[Any]:
        import psutil

        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("BENCH_RUNS") == self.mark:
                    yield process

    def cpu(self) -> float:
        """Return the CPU seconds so far, with those of orphans that have ended (see adopt_orphans)."""
        import psutil

        for child in psutil.Process().children():
            with suppress(psutil.Error, ChildProcessError):
                if child.status() == psutil.STATUS_ZOMBIE and child.pid not in self.started:
                    usage = os.wait4(child.pid, 0)[2]
                    self.ended += usage.ru_utime + usage.ru_stime
        total = self.ended
        for process in self:
            with suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])  # with that of its children that ended
        return total

    def memory(self) -> float:
        """Return the memory in MiB, as PSS: what several processes share counts once."""
        import psutil

        total = 0
        for process in self:
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total / 2**20

    def rest(self, patience: float) -> None:
        """Wait until a second and a half took next to no CPU time, or until ``patience`` seconds are over."""
        end, now = time.monotonic() + patience, self.cpu()
        while time.monotonic() < end:
            time.sleep(1.5)
            before, now = now, self.cpu()
            if now - before < 0.15:
                return

    def end(self) -> int:
        """Kill the processes that still run in 3 s; return how many those were."""
        deadline = time.monotonic() + 3
        while list(self) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = list(self)
        for process in left:
            with suppress(Exception):  # it ended meanwhile
                process.kill()
        self.cpu()
        return len(left)


# --- functions, in a process for each system --------------------------------------------------------------------------


class Worker:
    """A process that computes for one system, on one thread, when it is asked to: see ``serve``."""

    def __init__(self, name: str, python: Path, folder: Path, program: str) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [python, program, "--serve", name, "--folder", folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(),
                text=True,
            )

    def ask(self, do: str, **given: Any) -> dict[str, Any]:
        """Return the answer to a request; end this program if the worker has ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"do": do, **given}) + "\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{self.name} ended while it did {do} {given}:\n{self.log.read_text()[-2000:]}")
        return json.loads(answer)

    def ask_fork(self, do: str) -> dict[str, Any]:
        """Return the answer of a fork, which leaves nothing behind in the process that is measured afterwards."""
        self.ask("begin")
        answer = self.ask(do)
        self.ask("end")
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(system: Any) -> None:
    """Be a worker: answer each line of standard input with a line; whatever else is printed goes to stderr.

    Between "begin" and "end" a fork of this process answers, which is ready and has computed nothing: otherwise what
    earlier tasks left in the memory allocator would decide about a third of the time, and most of the memory. The
    memory of a task is how far its fork's peak is above what the fork began with: imports, weights and tokens.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(1)
    system.load()
    forked, before = False, 0.0
    while line := sys.stdin.readline():
        request = json.loads(line)
        reply: dict[str, Any] = {}
        if request["do"] == "begin":
            child = os.fork()
            if child:
                if os.waitpid(child, 0)[1]:
                    sys.exit("the measuring process failed")
                continue
            forked, before = True, peak_memory()  # a fork's peak is at first what it holds
        elif request["do"] == "end":
            reply = {"memory": peak_memory() - before}
        elif request["do"] == "measure":
            reply = system.measure(request["task"], request["runs"])
        else:
            reply = getattr(system, request["do"])() or {}
        print(json.dumps(reply), file=answers, flush=True)
        if request["do"] == "end" and forked:
            os._exit(0)


def peak_memory() -> float:
    """Return the most memory that this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1024)


def environment() -> dict[str, str]:
    """Return the environment of a worker: one thread, no network, the library from code/."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    threads = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"], "1")
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**kept, **threads, **offline, "PYTHONPATH": str(ROOT / "code"), "PYTHONWARNINGS": "ignore"}


def measure_task(
    workers: Sequence[Worker], task: str, runs: int, rounds: int, progress: Callable[[int], None] = lambda _: None
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return, by worker, the CPU seconds of a task in each round and its memory in MB.

    The workers take turns, in the opposite order from round to round. A first round warms up and does not count.
    """
    for worker in workers:
        worker.ask("begin")
    cpu: dict[str, list[float]] = {worker.name: [] for worker in workers}
    for number in range(rounds + 1):
        progress(number)
        for worker in workers if number % 2 else reversed(workers):
            answer = worker.ask("measure", task=task, runs=runs)
            if number:
                cpu[worker.name].append(answer["cpu"])
    return cpu, {worker.name: worker.ask("end")["memory"] for worker in workers}


# --- turns and tables -------------------------------------------------------------------------------------------------


def require_same(mine: dict[str, list[float]], theirs: dict[str, list[float]], peer: str) -> None:
    """Print how far a peer's numbers are from ours; end this program if that is more than rounding."""
    for name, values in mine.items():
        apart = max(abs(a - b) for a, b in zip(values, theirs[name], strict=True))
        print(f"  {name}: as ours to {apart:.0e}, of {max(map(abs, values)):.2g}")
        if apart > 1e-3 * max(map(abs, values)):
            sys.exit(f"{peer} does not compute what ours computes: nothing to compare ({name})")


def beside(text: str, cpu: dict[str, list[float]], memory: dict[str, float], peer: str) -> list[str]:
    """Return the row of a task: the time of ours and of a peer, their ratio, the memory of both."""
    ours, other = median(cpu["ours"]), median(cpu[peer])
    held = [f"{memory[name]:.0f} MB" for name in ("ours", peer)]
    return [text, seconds(ours), seconds(other), times(other / ours), *held]


def rotated(systems: Sequence[T], turn: int) -> list[T]:
    """Return the systems with another one first in each turn, so that none is always the first."""
    shift = turn % len(systems) if systems else 0
    return [*systems[shift:], *systems[:shift]]


def seconds(value: float) -> str:
    if value >= 100:
        return f"{value:.0f} s"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"


def times(ratio: float) -> str:
    return f"{ratio:.0f} ×" if ratio >= 100 else f"{ratio:.1f} ×" if ratio >= 10 else f"{ratio:.2f} ×"


def table(header: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [text.rjust(w) if i else text.ljust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))]
        print("| " + " | ".join(cells) + " |", flush=True)


def aim(text: str, met: bool) -> None:
    print(f"- {'met:   ' if met else 'MISSED:'} {text}")
