"""How long a build takes, beside other tools, on the same generated site: 12 notes and 12 notebooks by default.

    python benchmarks/build.py            three repetitions, about ten minutes on two cores
    python benchmarks/build.py --quick    a small site once, to see that everything runs

Systems, each with the same prose, formulas, cells and helper module, in the syntax that it documents:

- ours      MkDocs, Material, mkdocs-jupyter for the pages, weave for everything else
- stock     MkDocs, Material, mkdocs-jupyter running the notebooks, markdown-katex; as their manuals set them up
- book      Jupyter Book 1 with `execute_notebooks: cache`

Ours does more in each build: every note embeds its notebook's figure and checks one number against it. The others are
installed from PyPI, each into a virtual environment of its own, and find nothing on PATH but that: markdown-katex looks
for KaTeX with `npx` once per formula, also for formulas it has cached, which takes about a second each wherever npx is
on PATH (mbarkhau/markdown-katex issue 22). `--npx` measures that case too, once, cold and unchanged.

All systems take turns within each repetition, so that a busy machine slows all of them. CPU time is that of the command
and of every process it started, kernels included.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEERS = {
    "stock": [
        "mkdocs==1.6.1",
        "mkdocs-material==9.8.1",
        "mkdocs-jupyter==0.26.3",
        "markdown-katex==202406.1035",
        "ipykernel",
        "numpy",
        "matplotlib",
    ],
    "book": ["jupyter-book==1.0.4.post1", "ipykernel", "numpy", "matplotlib"],
}
SCENARIOS = ["cold", "unchanged", "prose edit", "cell edit", "module edit"]
TEXT = """a head reads from the stream what earlier heads wrote and adds its own result so that each later layer
sees the sum of all of them which is why paths can be counted and compared and why the weights of two heads may be
multiplied into one matrix whose singular values say how much of it matters"""


# --- the site ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corpus:
    notes: int = 12
    formulas: int = 40
    cells: int = 10

    def note(self, number: int, inline: str, display: str, extra: str = "") -> str:
        """About 900 words with formulas, one in four of them displayed; ``inline`` and ``display`` hold one ``%s``."""
        rng = random.Random(number)
        parts = [f"# Note {number}", extra]
        for index in range(self.formulas):
            words = " ".join(rng.choices(TEXT.split(), k=900 // self.formulas))
            tex = rf"\sum_{{i={number}}}^{{n}} W_{{{index}}}^{{\top}} \frac{{x_i + {index}}}{{\sqrt{{d_{{{number}}}}}}}"
            if index % 8 == 0:
                parts.append(f"## Part {index // 8 + 1}")
            parts.append(f"{words}.\n\n{display % tex}" if index % 4 == 3 else f"{words} {inline % tex}.")
        return "\n\n".join(part for part in parts if part) + "\n"

    def notebook(self, number: int) -> list[tuple[str, str]]:
        """(name, code) of each cell: the first uses the helper module, the last draws."""
        first = (
            "import os\n\nimport helper\nimport matplotlib.pyplot as plt\nimport numpy as np\n\n"
            'with open(os.environ["BENCH_RUNS"], "a") as runs:\n    runs.write(f"{__import__(\'time\').time()}\\n")\n'
            f'print("answer", helper.answer({number}))'
        )
        cells = [("answer", first)]
        for index in range(1, self.cells):
            cells.append(
                (f"cell-{index}", f"x = np.random.default_rng({index}).normal(size=1000)\nprint(x.mean() + {number})")
            )
        return [*cells, ("figure", "plt.plot(np.cumsum(x))\nplt.show()")]

    def helper(self, base: int) -> str:
        return f"def answer(number):\n    return {base} + number\n"


@dataclass
class Measure:
    wall: float
    cpu: float
    runs: int
    """Notebooks that were executed."""
    ok: bool
    shown: int = 0
    """Notebook pages that show the helper module's present value."""


class System:
    """A tool with a project folder of its own."""

    name = ""

    def __init__(self, corpus: Corpus, folder: Path, python: Path, path: str) -> None:
        self.corpus, self.folder, self.python = corpus, folder, python
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "lib").mkdir(parents=True)
        (folder / "tmp").mkdir()
        self.base = 41_000
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SITE_", "REPO_"))},
            "PATH": path,
            "PYTHONPATH": str(folder / "lib"),
            "BENCH_RUNS": str(folder / "tmp" / "runs"),
            "TMPDIR": str(folder / "tmp"),  # markdown-katex caches there
            "NO_MKDOCS_2_WARNING": "1",
            "JUPYTER_PLATFORM_DIRS": "1",
        }
        self.write("lib/helper.py", corpus.helper(self.base))
        self.create()

    # what each system says
    def create(self) -> None:
        """Write the project."""
        raise NotImplementedError

    def command(self) -> list[str]:
        return [str(self.python), "-m", "mkdocs", "build", "--quiet"]

    def note(self, number: int) -> str:
        return f"docs/notes/note{number:02}.md"

    def notebook(self, number: int) -> str:
        return f"docs/notebooks/nb{number:02}.ipynb"

    def page(self, number: int) -> Path:
        return self.folder / f"site/notebooks/nb{number:02}/index.html"

    # what they share
    def write(self, path: str, text: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def read(self, path: str) -> str:
        return (self.folder / path).read_text(encoding="utf-8")

    def edit(self, scenario: str, turn: int) -> None:
        """The change before a build; no two builds see the same text."""
        if scenario == "prose edit":
            self.write(self.note(1), self.read(self.note(1)) + f"\nEdited for the {turn}th time.\n")
        elif scenario == "cell edit":
            path = self.notebook(1)
            self.write(path, re.sub(r"size=\d+", f"size={2000 + turn}", self.read(path), count=1))
        elif scenario == "module edit":
            self.base += 1_000
            self.write("lib/helper.py", self.corpus.helper(self.base))

    def build(self) -> Measure:
        runs = Path(self.env["BENCH_RUNS"])
        runs.write_text("")
        wall, cpu, status, said = run(self.command(), self.folder, self.env)
        if status:
            print(f"\n{self.name}: exit status {status}\n{said[-3000:]}", file=sys.stderr)
        numbers = range(1, self.corpus.notes + 1)
        right = sum(f"answer {self.base + n}" in plain(self.page(n)) for n in numbers)
        ran = len(runs.read_text().splitlines())
        return Measure(wall, cpu, ran, status == 0, right)


MKDOCS = """\
site_name: Benchmark
theme: {{ name: material, font: false }}
plugins:
  - search
{plugins}
markdown_extensions:
  - tables
  - toc: {{ permalink: true }}
  - pymdownx.highlight
  - pymdownx.superfences
{extensions}
"""


class Ours(System):
    name = "ours"
    inline, display = "$`%s`$", "```math\n%s\n```"  # markdown-katex's own syntax, which weave reads too

    def create(self) -> None:
        plugins = "  - mkdocs-jupyter: {include: ['*.ipynb'], ignore: ['*.md'], execute: false, allow_errors: false}\n"
        self.write(
            "mkdocs.yml",
            MKDOCS.format(
                plugins=plugins + "  - weave: {notebooks: notebooks, sources: [lib]}",
                extensions="  - weave\n  - weave.math",
            ),
        )
        self.write("docs/index.md", "# Home\n")
        (self.folder / "node_modules").symlink_to(ROOT / "node_modules")
        for number in range(1, self.corpus.notes + 1):
            extra = (
                f"There are [{number}](../../notebooks/nb{number:02}.py#=number) of them.\n\n"
                f"![A random walk of a thousand steps.](../../notebooks/nb{number:02}.py#figure)"
            )
            self.write(self.note(number), self.corpus.note(number, self.inline, self.display, extra))
            cells = self.corpus.notebook(number)
            cells[1] = ("number", f"{cells[1][1]}\nfrom weave import claim\nclaim(number={number})")
            self.write(self.notebook(number), "\n\n".join(f"# %% {name}\n{code}" for name, code in cells) + "\n")

    def notebook(self, number: int) -> str:
        return f"notebooks/nb{number:02}.py"


class Stock(System):
    name = "stock"

    def create(self) -> None:
        self.write(
            "mkdocs.yml",
            MKDOCS.format(plugins="  - mkdocs-jupyter: {execute: true}", extensions="  - markdown_katex"),
        )
        self.write("docs/index.md", "# Home\n")
        for number in range(1, self.corpus.notes + 1):
            self.write(self.note(number), self.corpus.note(number, "$`%s`$", "```math\n%s\n```"))
            self.write(self.notebook(number), ipynb(self.corpus.notebook(number)))


class Book(System):
    name = "book"

    def create(self) -> None:
        self.write(
            "docs/_config.yml", "title: Benchmark\nexecute: {execute_notebooks: cache}\nonly_build_toc_files: true\n"
        )
        numbers = range(1, self.corpus.notes + 1)
        files = [f"{kind}{n:02}" for kind in ("notes/note", "notebooks/nb") for n in numbers]
        self.write(
            "docs/_toc.yml", "format: jb-book\nroot: index\nchapters:\n" + "".join(f"- file: {f}\n" for f in files)
        )
        self.write("docs/index.md", "# Home\n")
        for number in numbers:
            self.write(self.note(number), self.corpus.note(number, "$%s$", "$$\n%s\n$$"))
            self.write(self.notebook(number), ipynb(self.corpus.notebook(number)))

    def command(self) -> list[str]:
        return [str(self.python.parent / "jupyter-book"), "build", "--quiet", "docs"]

    def page(self, number: int) -> Path:
        return self.folder / f"docs/_build/html/notebooks/nb{number:02}.html"


class Plain(Ours):
    """Our site without our plugin: formulas stay TeX, and the executed notebooks are pages by mkdocs-jupyter."""

    name = "without weave"

    def create(self) -> None:
        super().create()
        plugins = "  - mkdocs-jupyter: {include: ['*.ipynb'], ignore: ['*.md'], execute: false, allow_errors: false}"
        self.write("mkdocs.yml", MKDOCS.format(plugins=plugins, extensions=""))

    def take_notebooks(self, ours: Ours) -> None:
        (self.folder / "docs/notebooks").mkdir()
        for path in (ours.folder / "site/notebooks").glob("*/*.ipynb"):
            shutil.copy(path, self.folder / "docs/notebooks" / path.name)


class NoMath(Ours):
    """The same words and the same TeX, as code instead of as formulas."""

    name = "no math"
    inline, display = "`%s`", "```text\n%s\n```"


def ipynb(cells: list[tuple[str, str]]) -> str:
    """Cells as a notebook file without outputs."""
    made = [
        {"cell_type": "code", "id": name, "metadata": {}, "execution_count": None, "outputs": [], "source": code}
        for name, code in cells
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return json.dumps({"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}, indent=1)


def plain(page: Path) -> str:
    """A page's text without tags, or nothing where there is no such page."""
    if not page.exists():
        return ""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.read_text(encoding="utf-8")))


# --- measuring --------------------------------------------------------------------------------------------------------


def adopt_orphans() -> None:
    """Linux: processes that a build leaves behind become ours, so that their time is counted and they can be ended."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def run(command: list[str], folder: Path, env: dict[str, str]) -> tuple[float, float, int, str]:
    """(wall seconds, CPU seconds of the whole process tree, exit status, what it printed)."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        before, start = used(), time.perf_counter()
        status = subprocess.Popen(command, cwd=folder, env=env, stdout=said, stderr=said).wait()
        wall = time.perf_counter() - start
        deadline = time.monotonic() + 10  # what was left behind ends, and is counted
        with suppress(ChildProcessError):
            while time.monotonic() < deadline:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.05)
        said.seek(0)
        return wall, used() - before, status, said.read()


@dataclass
class Results:
    measures: dict[tuple[str, str], list[Measure]] = field(default_factory=dict)

    def add(self, system: str, scenario: str, measure: Measure) -> None:
        self.measures.setdefault((system, scenario), []).append(measure)
        print(f"  {system:14} {scenario:12} {measure.wall:7.2f} s wall {measure.cpu:7.2f} s CPU", file=sys.stderr)

    def median(self, system: str, scenario: str, what: str) -> float:
        return statistics.median(getattr(one, what) for one in self.measures[system, scenario])


def peer(name: str, folder: Path) -> Path | str:
    """The python of a peer's virtual environment, made if need be; or why there is none."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        print(f"installing {name} into {folder / name}", file=sys.stderr)
        for command in (
            [sys.executable, "-m", "venv", str(folder / name)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEERS[name]],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                shutil.rmtree(folder / name, ignore_errors=True)
                return (done.stderr.strip().splitlines() or ["?"])[-1]
    return python


def compare(args: argparse.Namespace, corpus: Corpus, folder: Path) -> None:
    """Part 1: every system through every scenario."""
    results, absent = Results(), {}
    pythons: dict[str, Path] = {"ours": Path(sys.executable)}
    for name in PEERS:
        found = peer(name, args.peers)
        if isinstance(found, str):
            absent[name] = found
        else:
            pythons[name] = found
    kinds: dict[str, type[System]] = {"ours": Ours, "stock": Stock, "book": Book}
    for turn in range(args.reps):
        systems = []
        for name, python in pythons.items():
            path = os.environ["PATH"] if name == "ours" else str(python.parent)
            systems.append(kinds[name](corpus, folder / name, python, path))
        for number, scenario in enumerate(SCENARIOS):
            shift = (turn + number) % len(systems)
            for system in systems[shift:] + systems[:shift]:
                system.edit(scenario, turn)
                results.add(system.name, scenario, system.build())
    names = list(pythons)

    print(f"\n## {corpus.notes} notes of {corpus.formulas} formulas, {corpus.notes} notebooks of {corpus.cells} cells")
    print(
        "\nMedian seconds, wall (CPU); × how many times ours; stale: the pages do not show what the sources now say.\n"
    )
    table(
        ["", *SCENARIOS],
        [[name, *(cell(results, name, scenario) for scenario in SCENARIOS)] for name in names],
    )
    print("\nNotebooks that were run:\n")
    table(
        ["", *SCENARIOS],
        [[name, *(str(results.measures[name, one][-1].runs) for one in SCENARIOS)] for name in names],
    )
    for name in names:
        shown = results.measures[name, "module edit"][-1].shown
        print(f"\n{name}: after the module edit {shown} of {corpus.notes} notebook pages show the new value.")
    for (name, scenario), measures in results.measures.items():
        failed = sum(not one.ok for one in measures)
        if failed:
            print(f"\n{name}, {scenario}: {failed} of {len(measures)} builds ended with an error.")
    for name, why in absent.items():
        print(f"\n{name} could not be installed, so it is not measured: {why}")
    if args.npx and "stock" in pythons:
        npx_too(corpus, folder, pythons["stock"])


def npx_too(corpus: Corpus, folder: Path, python: Path) -> None:
    npx = shutil.which("npx")
    if npx is None:
        print("\nThere is no npx on this machine, so its effect on markdown-katex is not measured.")
        return
    path = os.pathsep.join([str(python.parent), str(Path(npx).parent)])
    system = Stock(corpus, folder / "stock-npx", python, path)
    cold, again = system.build(), system.build()
    for name, one in (("cold", cold), ("unchanged", again)):
        print(f"\nstock with npx on PATH, {name}, once: {one.wall:.0f} s wall, {one.cpu:.0f} s CPU.")


def cell(results: Results, name: str, scenario: str) -> str:
    wall, cpu = (results.median(name, scenario, what) for what in ("wall", "cpu"))
    ours = results.median("ours", scenario, "wall")
    text = f"{wall:.1f} ({cpu:.1f})" + ("" if name == "ours" else f" ×{wall / ours:.2f}")
    stale = not any(one.shown for one in results.measures[name, scenario])
    return f"{text}, stale" if stale else text


def table(header: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |")


# --- what weave adds to a build ---------------------------------------------------------------------------------------


def cost_of_math(args: argparse.Namespace, corpus: Corpus, folder: Path) -> None:
    """Part 2: CPU seconds that formulas add to a cold build of notes without notebooks. Budget: 2 s for 1000."""
    python, path = Path(sys.executable), os.environ["PATH"]
    results = Results()
    for turn in range(args.reps):
        kinds: list[type[Ours]] = [Ours, NoMath]
        for kind in kinds[:: 1 if turn % 2 else -1]:
            system = kind(corpus, folder / kind.name.replace(" ", "-"), python, path)
            shutil.rmtree(system.folder / "notebooks")
            for number in range(1, corpus.notes + 1):
                system.write(system.note(number), corpus.note(number, system.inline, system.display))
            results.add(system.name, "cold", system.build())
    math, none = (results.median(name, "cold", "cpu") for name in ("ours", "no math"))
    count = corpus.notes * corpus.formulas
    print(f"\n## What {count} formulas on {corpus.notes} notes add to a cold build\n")
    print(f"{math - none:.2f} CPU seconds ({math:.2f} with, {none:.2f} with the same TeX as code); budget 2.00.")


def cost_of_weave(args: argparse.Namespace, corpus: Corpus, folder: Path) -> None:
    """Part 3: builds and reloads beside the same site without weave. Budgets: 1.3 × unchanged, 1.5 × prose edit."""
    python, path = Path(sys.executable), os.environ["PATH"]
    ours, without = Ours(corpus, folder / "ours", python, path), Plain(corpus, folder / "plain", python, path)
    ours.build()
    without.take_notebooks(ours)
    without.build()
    results = Results()
    for turn in range(2 * args.reps):
        for scenario in ("unchanged", "prose edit"):
            for system in (ours, without)[:: 1 if turn % 2 else -1]:
                system.edit(scenario, turn)
                results.add(system.name, scenario, system.build())
    for system in (ours, without):
        for measure in reload(system, 2 * args.reps):
            results.add(system.name, "reload", measure)
    budgets = {"unchanged": 1.3, "prose edit": 1.5, "reload": 1.5}
    print("\n## Beside the same site without weave (formulas as TeX, executed notebooks as pages)\n")
    rows = []
    for scenario, budget in budgets.items():
        row = [scenario if scenario != "reload" else "prose edit under serve, until the page shows it"]
        for what in ("wall", "cpu"):
            a, b = (results.median(system.name, scenario, what) for system in (ours, without))
            row.append(f"{a:.2f} / {b:.2f} = ×{a / b:.2f}")
        rows.append([*row, f"×{budget}"])
    table(["seconds with / without", "wall", "CPU", "budget"], rows)


def reload(system: System, times: int) -> list[Measure]:
    """Under `mkdocs serve`: from saving an edited note to the server answering with it."""
    import psutil

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [str(system.python), "-m", "mkdocs", "serve", "--quiet", "--livereload", "--dev-addr", address]
    server = subprocess.Popen(
        command, cwd=system.folder, env=system.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    tree = psutil.Process(server.pid)

    def used() -> float:
        total = 0.0
        for process in [tree, *tree.children(recursive=True)]:
            with suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])
        return total

    def wait_for(text: str) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"http://{address}/notes/note01/", timeout=120) as answer:
                if text in answer.read().decode():
                    return
            if server.poll() is not None:
                raise RuntimeError(f"{system.name}: mkdocs serve ended")
            time.sleep(0.05)
        raise TimeoutError(f"{system.name}: the page never showed {text!r}")

    measures = []
    try:
        wait_for("Note 1")
        for turn in range(times):
            time.sleep(2)
            cpu, start = used(), time.perf_counter()
            system.edit("prose edit", 100 + turn)
            wait_for(f"the {100 + turn}th time")
            measures.append(Measure(time.perf_counter() - start, used() - cpu, 0, True))
    finally:
        server.terminate()
        server.wait()
    return measures


PARTS: dict[str, Callable[[argparse.Namespace, Corpus, Path], None]] = {
    "compare": compare,
    "math": cost_of_math,
    "weave": cost_of_weave,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=3, help="repetitions; the table shows medians (default 3)")
    parser.add_argument("--quick", action="store_true", help="2 notes of 4 formulas, once: does everything run?")
    parser.add_argument(
        "--peers", type=Path, default=ROOT / ".cache/bench-peers", help="folder of the peers' environments"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which parts (default all)")
    parser.add_argument(
        "--npx", action="store_true", help="also stock with npx on PATH, once (slow: a second a formula)"
    )
    args = parser.parse_args()
    if args.quick:
        args.reps = 1
    args.peers = args.peers.resolve()
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for part in args.parts:
            corpus = Corpus(20, 50) if part == "math" else Corpus()
            PARTS[part](args, Corpus(2, 4, 3) if args.quick else corpus, Path(folder).resolve())


if __name__ == "__main__":
    main()
