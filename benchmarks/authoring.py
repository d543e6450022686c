"""How long an author waits for an edit to show, beside other tools, with every tool's server running.

    python benchmarks/authoring.py            five repetitions, about fifteen minutes on two cores
    python benchmarks/authoring.py --quick    small sites once, about three minutes: does everything run?

Part "compare": 12 notes of 40 formulas and 12 notebooks of 10 cells that import a helper module, the same for every
tool (they come from build.py). In each repetition there are three edits, and at each of them all tools take turns:

- prose     a sentence is added to the last note
- cell      of the last notebook, the last cell that computes computes something else
- module    the helper module, which all notebooks import, gives another number; the last notebook prints it

The time runs from saving the file until the page that the server gives out says the new thing. A page that is as it
was 15 s later, while the server rests, is stale; it is asked for once more to be sure. CPU seconds are those of the
server and all that it started, kernels included, from the edit until they rest again.

- ours      weave serve
- stock     mkdocs serve with Material, mkdocs-jupyter running the notebooks, and markdown-katex, as their manuals set
            them up; told to watch the helper module too
- book      Jupyter Book 1 with `execute_notebooks: cache`. It has no server: the manual says to build again, and the
            time is that of the build; after a stale one it builds once more to be sure
- myst      mystmd's content server alone. The theme that makes pages of what this serves is no part of the package,
            and its makers' server cannot be reached from everywhere (whether from here, is printed). The time is that
            until the page's content, as JSON, says the new thing: a good deal less work than a page
- quarto    is not measured: its package on PyPI downloads the program from elsewhere; what installing it says is
            printed

Part "scale": ours alone, 20 + 20 and 100 + 100 light notes and notebooks: the wait for a prose edit, and the memory of
the server and its kernels after all edits, as PSS (memory that several processes share counts once).

The others are installed from PyPI, each into a virtual environment of its own. Reads /proc, so it needs Linux. Exits
with 0 whatever it finds; aims that are missed are marked.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil
from tqdm import tqdm

import build
from build import ROOT, Corpus, System, adopt_orphans, ipynb, peer, table

build.PEERS["myst"] = ["mystmd==1.11.0", "jupyter-server", "ipykernel", "numpy", "matplotlib"]
build.PEERS["quarto"] = ["quarto-cli==1.10.19"]
SCENARIOS = ["prose", "cell", "module"]
SETTLE = 15
"""Seconds after which a page that did not change is stale, if the server rests."""
PATIENCE = 180
"""Seconds that an edit may take."""
FIRST_PATIENCE = 900
"""Seconds until the first page: all notebooks run."""
MEMORY = 1.0
"""GiB."""
_browser = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # straight to 127.0.0.1


class Failed(Exception):
    """A tool does not do what it should; says what it does."""


@dataclass
class Measure:
    wall: float
    cpu: float
    shows: str
    """'new'; 'stale', what was true before the edit; or what is wrong."""


# --- processes --------------------------------------------------------------------------------------------------------


class Processes:
    """All that a tool started and that runs, known by the environment that each inherited.

    Their parents would not do: kernels are often nobody's children.
    """

    def __init__(self, env: dict[str, str]) -> None:
        self.mark = env["BENCH_RUNS"]
        self.ended = 0.0
        """CPU seconds of orphans that have ended."""

    def __iter__(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("BENCH_RUNS") == self.mark:
                    yield process

    def cpu(self) -> float:
        """CPU seconds so far. Orphans are our children (see adopt_orphans); those that ended are counted here."""
        for child in psutil.Process().children():
            with suppress(psutil.Error, ChildProcessError):
                if child.status() == psutil.STATUS_ZOMBIE and child.pid not in Served.started:
                    usage = os.wait4(child.pid, 0)[2]
                    self.ended += usage.ru_utime + usage.ru_stime
        total = self.ended
        for process in self:
            with suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])  # with that of its children that ended
        return total

    def memory(self) -> float:
        """MiB."""
        total = 0
        for process in self:
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total / 2**20

    def rest(self) -> None:
        """Wait until a second and a half took next to no CPU time."""
        end, now = time.monotonic() + PATIENCE, self.cpu()
        while time.monotonic() < end:
            time.sleep(1.5)
            before, now = now, self.cpu()
            if now - before < 0.15:
                return

    def end(self) -> int:
        """Kill those that are there 3 s from now; how many that were."""
        deadline = time.monotonic() + 3
        while list(self) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = list(self)
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        self.cpu()
        return len(left)


# --- tools ------------------------------------------------------------------------------------------------------------


class Tool:
    """One tool with its site, as its author works with it."""

    pages: ClassVar = {"note": "note{:02}", "notebook": "nb{:02}"}

    def __init__(self, system: System) -> None:
        self.system = system
        self.processes = Processes(system.env)
        self.log = system.folder.with_suffix(".log")  # beside the site: a server may watch all that is in it
        self.remark = ""
        self.left = 0
        """Processes that were still there after the server had been ended."""

    def open(self) -> None:
        """Start, and wait for the first pages. Raises Failed."""
        raise NotImplementedError

    def wait(self, page: str, new: str, old: str) -> tuple[float, str]:
        """Seconds until the page says the new thing, and what it shows. Raises Failed."""
        raise NotImplementedError

    def look(self, page: str) -> str:
        """The page as it is now, nothing else done than to ask for it. Raises OSError."""
        raise NotImplementedError

    def said(self) -> str:
        lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else "nothing"

    def close(self) -> None:
        self.left = self.processes.end()

    def edit(self, scenario: str, turn: int, number: int) -> Measure:
        """Save an edit of the note or notebook of this number (the module has none), and wait for it to show."""
        system, page, old = self.system, self.pages["notebook"].format(number), f"answer {self.system.base + number}"
        if scenario == "prose":
            page, old = self.pages["note"].format(number), f"Note {number}"
            path, new = system.note(number), f"Read for the {turn}th time."
            text = system.read(path) + f"\n{new}\n"
        elif scenario == "cell":  # what it computes stands nowhere in its code
            path, new = system.notebook(number), str(1_000_001 * turn)
            before, call, after = system.read(path).rpartition("print(x.mean()")
            text = before + call + re.sub(r"^[^)]*", f" + {number}, 1_000_001 * {turn}", after, count=1)
        else:
            system.base += 1_000
            path, new = "lib/helper.py", f"answer {system.base + number}"
            text = system.corpus.helper(system.base)
        cpu, start = self.processes.cpu(), time.perf_counter()
        system.write(path, text)
        try:
            wall, shows = self.wait(page, new, old)
            self.processes.rest()
            cpu = self.processes.cpu() - cpu
            if shows == "stale" and new in self.look(page):
                shows = "it only after a second look"
        except (Failed, OSError) as error:
            wall, cpu, shows = time.perf_counter() - start, self.processes.cpu() - cpu, f"nothing: {error}"
        return Measure(wall, cpu, shows)


class Served(Tool):
    started: ClassVar[set[int]] = set()
    """Servers, whose end is waited for where they were started."""

    def command(self, port: int) -> list[str]:
        raise NotImplementedError

    def address(self, page: str) -> str:
        return f"{'notes' if page.startswith('note') else 'notebooks'}/{page}/"

    def open(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        with self.log.open("wb") as log:
            self.server = subprocess.Popen(
                self.command(self.port),
                cwd=self.system.folder,
                env=self.system.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, and then we end it
            )
        self.started.add(self.server.pid)
        for page, text in (("note", "Note 1"), ("notebook", f"answer {self.system.base + 1}")):
            self._until(self.pages[page].format(1), text, None, FIRST_PATIENCE)
        self.processes.rest()

    def wait(self, page: str, new: str, old: str) -> tuple[float, str]:
        return self._until(page, new, old, PATIENCE)

    def look(self, page: str) -> str:
        with _browser.open(f"http://127.0.0.1:{self.port}/{self.address(page)}", timeout=PATIENCE) as answer:
            return answer.read().decode("utf-8", "replace")

    def _until(self, page: str, new: str, old: str | None, patience: float) -> tuple[float, str]:
        start, rested = time.perf_counter(), False
        while (waited := time.perf_counter() - start) < patience:
            text = ""
            with suppress(OSError):
                text = self.look(page)
            if new in text:
                return time.perf_counter() - start, "new"
            if self.server.poll() is not None:
                raise Failed(f"its server ended and said: {self.said()}")
            if rested and old and old in text:
                return waited, "stale"
            if waited > SETTLE and old:
                self.processes.rest()
                rested = True
            time.sleep(0.05)
        raise Failed(f"{page} does not say {new!r} after {patience:.0f} s")

    def close(self) -> None:
        if hasattr(self, "server"):
            for number, patience in ((signal.SIGINT, 15), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
                self.server.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    self.server.wait(patience)
                    break
            self.started.discard(self.server.pid)
        super().close()


class MkDocs(Served):
    def command(self, port: int) -> list[str]:
        serve = [str(self.system.python), "-m", "mkdocs", "serve", "--livereload", "--watch", "lib"]
        return [*serve, "--dev-addr", f"127.0.0.1:{port}"]


class Weave(Served):
    def command(self, port: int) -> list[str]:
        return [str(self.system.python), "-m", "weave.cli", "serve", "--addr", f"127.0.0.1:{port}"]


class Content(Served):
    """mystmd's server of pages as JSON."""

    def command(self, port: int) -> list[str]:
        myst = str(self.system.python.parent / "myst")
        return [myst, "start", "--headless", "--execute", "--server-port", str(port)]

    def address(self, page: str) -> str:
        return f"content/{page}.json"

    def open(self) -> None:
        super().open()
        self.remark = f"gives out content as JSON here, not pages; its theme {self._theme()}"

    def _theme(self) -> str:
        myst, env = str(self.system.python.parent / "myst"), self.system.env
        command = [myst, "templates", "download", "site/myst/book-theme", "theirs"]
        try:
            run = subprocess.run(
                command,
                cwd=env["TMPDIR"],
                env=env,
                capture_output=True,
                text=True,
                timeout=60,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            return "could not be had here within a minute"
        said = next((line for line in (run.stdout + run.stderr).splitlines() if "failed" in line), "?")
        return f"cannot be had here: {said.strip()}" if run.returncode else "could be had here, and is not used"


class Builds(Tool):
    """No server: each edit is followed by a build."""

    def open(self) -> None:
        self.remark = "has no server; its time is that of a build"
        self._build(FIRST_PATIENCE)
        for page, text in (("note", "Note 1"), ("notebook", f"answer {self.system.base + 1}")):
            if text not in self._read(self.pages[page].format(1)):
                raise Failed(f"its first build does not say {text!r}")

    def wait(self, page: str, new: str, old: str) -> tuple[float, str]:
        start = time.perf_counter()
        self._build(PATIENCE)
        text = self._read(page)
        if new not in text and old not in text:
            raise Failed(f"{page} says neither {new!r} nor {old!r}")
        return time.perf_counter() - start, "new" if new in text else "stale"

    def look(self, page: str) -> str:
        self._build(PATIENCE)
        return self._read(page)

    def _read(self, page: str) -> str:
        kind = "notes" if page.startswith("note") else "notebooks"
        return (self.system.folder / f"docs/_build/html/{kind}/{page}.html").read_text("utf-8")

    def _build(self, patience: float) -> None:
        system = self.system
        with self.log.open("wb") as said:
            process = subprocess.Popen(system.command(), cwd=system.folder, env=system.env, stdout=said, stderr=said)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:  # it is left to Processes.cpu to take note of its end
            if ended := os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
                process.returncode = ended.si_status
                break
            time.sleep(0.01)
        if process.returncode != 0:
            raise Failed(f"its build did not end well and said: {self.said()}")


class OurSite(build.Ours):
    """With what our own mkdocs.yml has too: the modules that most notebooks import are loaded beforehand."""

    def create(self) -> None:
        self.env["PYTHONPATH"] = os.pathsep.join([self.env["PYTHONPATH"], str(ROOT / "code")])  # this weave, no other
        super().create()
        settings = self.read("mkdocs.yml")
        self.write("mkdocs.yml", settings.replace("sources: [lib]", "sources: [lib], modules: [matplotlib.pyplot]"))


class Myst(System):
    name = "myst"

    def create(self) -> None:
        numbers = range(1, self.corpus.notes + 1)
        files = ["docs/index.md", *map(self.note, numbers), *map(self.notebook, numbers)]
        toc = "".join(f"    - file: {file}\n" for file in files)
        self.write("myst.yml", f"version: 1\nproject:\n  title: Benchmark\n  toc:\n{toc}site:\n  template: theme\n")
        # Without a theme of some sort not even the content server starts.
        install = "build:\n  install: 'true'\n  start: 'true'\n"
        self.write("theme/template.yml", f"jtex: v1\ntitle: None\nversion: 1.0.0\n{install}parts: []\noptions: []\n")
        self.write("docs/index.md", "# Home\n")
        for number in numbers:
            self.write(self.note(number), self.corpus.note(number, "$%s$", "$$\n%s\n$$"))
            self.write(self.notebook(number), ipynb(self.corpus.notebook(number)))
        beside = self.folder.with_name("myst-tmp")  # the server watches all that is in the site
        beside.mkdir(exist_ok=True)
        self.env.update(BENCH_RUNS=str(beside / "runs"), TMPDIR=str(beside))
        if os.getuid() == 0:  # where Jupyter's server refuses to start, mystmd leaves out every output
            self.write("jupyter/jupyter_server_config.py", "c.ServerApp.allow_root = True\n")
            self.env["JUPYTER_CONFIG_DIR"] = str(self.folder / "jupyter")


SYSTEMS: dict[str, tuple[type[System], type[Tool]]] = {
    "ours": (OurSite, Weave),
    "stock": (build.Stock, MkDocs),
    "book": (build.Book, Builds),
    "myst": (Myst, Content),
}


def path_for(name: str, python: Path) -> str:
    """The programs that a tool finds; nothing but its own environment, for markdown-katex's sake (see build.py)."""
    if name == "ours":
        return os.environ["PATH"]
    node = [str(Path(found).parent)] if name == "myst" and (found := shutil.which("node")) else []
    return os.pathsep.join([str(python.parent), *node])


# --- parts ------------------------------------------------------------------------------------------------------------


def aim(text: str, met: bool) -> None:
    print(f"- {'met:   ' if met else 'MISSED:'} {text}")


Measures = dict[tuple[str, str], list[Measure]]
"""By tool and scenario."""


def installed(folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The python of each tool, and why those that are missing are."""
    pythons: dict[str, Path] = {"ours": Path(sys.executable)}
    absent: dict[str, str] = {}
    for name in build.PEERS:
        found = peer(name, folder)
        if isinstance(found, Path):
            pythons[name] = found
        else:
            absent[name] = f"cannot be installed here: {found}"
    if pythons.pop("quarto", None):
        absent["quarto"] = "can be installed here, but this benchmark does not know how to measure it"
    return pythons, absent


def compare(args: argparse.Namespace, folder: Path) -> None:
    corpus = Corpus(2, 4, 3) if args.quick else Corpus()
    pythons, absent = installed(args.peers)
    tools: dict[str, Tool] = {}
    measures: Measures = defaultdict(list)
    with ExitStack() as stack:
        steps = len(pythons) * (1 + args.reps * len(SCENARIOS))
        bar = stack.enter_context(tqdm(total=steps, desc="compare", unit="step", file=sys.stderr))
        for name, python in pythons.items():
            bar.set_postfix_str(f"{name} starts")
            system, kind = SYSTEMS[name]
            tool = kind(system(corpus, folder / name, python, path_for(name, python)))
            stack.callback(tool.close)
            try:
                tool.open()
                tools[name] = tool
            except Failed as error:
                absent[name] = f"does not run here: {error}"
            bar.update()
        for turn in range(1, args.reps + 1):
            for number, scenario in enumerate(SCENARIOS):
                names = list(tools)
                shift = (turn + number) % len(names) if names else 0
                for name in names[shift:] + names[:shift]:
                    bar.set_postfix_str(f"{name}, {scenario} edit")
                    measures[name, scenario].append(tools[name].edit(scenario, turn, corpus.notes))
                    bar.update()
        memory = {name: tool.processes.memory() for name, tool in tools.items()}

    print(f"\n## {corpus.notes} notes of {corpus.formulas} formulas, {corpus.notes} notebooks of {corpus.cells} cells")
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"\nMedian of {args.reps}; × how many times ours. {os.cpu_count()} cores, load {load} at the end.")
    for title, what in (("Seconds until the edit shows", "wall"), ("CPU seconds until the server rests", "cpu")):
        print(f"\n{title}:\n")
        rows = [[name, *(cell(measures, name, one, what) for one in SCENARIOS)] for name in tools]
        if what == "cpu":
            rows = [[*row, f"{memory[row[0]]:.0f}" if isinstance(tools[row[0]], Served) else "–"] for row in rows]
        table(["", *SCENARIOS, *(["MiB at the end"] if what == "cpu" else [])], rows)
    for name, tool in tools.items():
        if tool.remark:
            print(f"\n{name} {tool.remark}.")
        for scenario in SCENARIOS:
            for shows in sorted({one.shows for one in measures[name, scenario]} - {"new"}):
                count = sum(one.shows == shows for one in measures[name, scenario])
                what = "what was true before it" if shows == "stale" else shows
                print(f"\n{name}, {scenario} edit: {count} of {args.reps} times it shows {what}.")
        if tool.left:
            print(f"\n{name} left processes behind when its server had been ended: {tool.left}.")
    for name, why in absent.items():
        print(f"\n{name} {why}")
    if "ours" in tools:
        aims(measures, [name for name in tools if name not in ("ours", "myst")])


def aims(measures: Measures, others: list[str]) -> None:
    print("\nAims:\n")
    for scenario in SCENARIOS:
        aim(f"ours shows each {scenario} edit", all(one.shows == "new" for one in measures["ours", scenario]))
        waits = {
            name: median(measures[name, scenario], "wall")
            for name in ("ours", *others)
            if any(one.shows == "new" for one in measures[name, scenario])
        }
        said = ", ".join(f"{name} {wall:.2f} s" for name, wall in waits.items()) or "none does"
        aim(
            f"no other makes a page of a {scenario} edit sooner ({said})",
            min(waits, key=waits.__getitem__, default="") == "ours",
        )
    cpu = median(measures["ours", "prose"], "cpu")
    aim(f"ours takes less than a second of CPU for a prose edit ({cpu:.2f})", cpu < 1)


def median(measures: list[Measure], what: str) -> float:
    """Of those that show the edit, where any does."""
    good = [one for one in measures if one.shows == "new"]
    return statistics.median(getattr(one, what) for one in good or measures)


def cell(measures: Measures, name: str, scenario: str, what: str) -> str:
    mine = measures[name, scenario]
    number = median(mine, what)
    shown = sum(one.shows == "new" for one in mine)
    text = f"{number:.2f}"
    if name != "ours" and (ours := measures["ours", scenario]):
        text += f" ×{number / median(ours, what):.1f}"
    if shown == 0:
        kinds = {one.shows for one in mine}
        never = "stale" if kinds == {"stale"} else "never"
        return never if what == "wall" else f"{text}, {never}"
    return text if shown == len(mine) else f"{text}, {shown} of {len(mine)}"


def scale(args: argparse.Namespace, folder: Path) -> None:
    sizes = (4, 20) if args.quick else (20, 100)
    tools: dict[int, Tool] = {}
    measures: dict[int, list[Measure]] = defaultdict(list)
    cells = min(5, *sizes)
    with ExitStack() as stack:
        steps = len(sizes) * (1 + args.reps + cells)
        bar = stack.enter_context(tqdm(total=steps, desc="scale", unit="step", file=sys.stderr))
        for size in sizes:
            bar.set_postfix_str(f"{size} + {size} starts")
            site = OurSite(Corpus(size, 8, 3), folder / f"ours-{size}", Path(sys.executable), os.environ["PATH"])
            tools[size] = Weave(site)
            stack.callback(tools[size].close)
            try:
                tools[size].open()
            except Failed as error:
                print(f"\n## Scale\n\nours with {size} notes and {size} notebooks does not run here: {error}")
                return
            bar.update()
        for turn in range(1, args.reps + 1):
            for size in sizes[:: 1 if turn % 2 else -1]:
                bar.set_postfix_str(f"{size} + {size}, prose edit")
                measures[size].append(tools[size].edit("prose", turn, size))
                bar.update()
        wrong = [f"{size} + {size}: prose edit shows {one.shows}" for size in sizes for one in measures[size]]
        for number in range(1, cells + 1):
            for size in sizes:
                bar.set_postfix_str(f"{size} + {size}, cell edit")
                wrong.append(f"{size} + {size}: cell edit shows {tools[size].edit('cell', number, number).shows}")
                bar.update()
        memory = {size: tools[size].processes.memory() for size in sizes}

    print("\n## Ours, small and large: light notes (8 formulas) and notebooks (3 cells)\n")
    rows = []
    for size in sizes:
        wall, cpu = (median(measures[size], what) for what in ("wall", "cpu"))
        rows.append([f"{size} + {size}", f"{wall:.2f}", f"{cpu:.2f}", f"{memory[size]:.0f}"])
    table(["notes + notebooks", "prose edit, s", "CPU s", "MiB after the edits"], rows)
    for line in sorted({line for line in wrong if not line.endswith("shows new")}):
        print(f"\n{line}")
    small, large = sizes
    ratio = median(measures[large], "wall") / median(measures[small], "wall")
    print("\nAims:\n")
    aim(
        f"a prose edit waits at most twice as long with {large} + {large} as with {small} + {small} (×{ratio:.2f})",
        ratio <= 2,
    )
    gib = memory[large] / 1024
    aim(f"{large} + {large} take less than {MEMORY:.0f} GiB ({gib:.2f})", gib < MEMORY)


PARTS: dict[str, Callable[[argparse.Namespace, Path], None]] = {"compare": compare, "scale": scale}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=5, help="repetitions; the tables show medians (default 5)")
    parser.add_argument("--quick", action="store_true", help="small sites, once: does everything run?")
    parser.add_argument(
        "--peers", type=Path, default=ROOT / ".cache/bench-peers", help="folder of the peers' environments"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which parts (default both)")
    args = parser.parse_args()
    if not Path("/proc/self/smaps_rollup").exists():
        print("This reads processes from /proc/*/smaps_rollup, which only Linux has; nothing is measured.")
        return
    if args.quick:
        args.reps = 1
    args.peers = args.peers.resolve()
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        for part in args.parts:
            with suppress(KeyboardInterrupt):
                PARTS[part](args, Path(folder).resolve())


if __name__ == "__main__":
    main()
