"""The time that a build takes, beside other tools, on the same generated book: 12 notes and 12 notebooks by default.

    python benchmarks/build.py            three repetitions, about ten minutes on two cores
    python benchmarks/build.py --quick    a small book once, to see that everything runs

Part "compare": ours, stock and book (see corpus.py) take turns within each repetition, so that a busy machine slows
all of them. CPU time is that of the command and of every process it started, kernels included.

Part "math": the CPU seconds that 1,000 formulas add to a cold build. Part "weave": builds and reloads of our site
beside the same site without weave.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import peers
from corpus import QUICK, Book, Corpus, Ours, Project, Stock, WithoutMath, WithoutNotebooks, WithoutWeave
from measure import adopt_orphans, rotated, run, table
from servers import MkDocs, Tool, Weave

SCENARIOS = ["cold", "unchanged", "prose", "cell", "module"]
PROJECTS: dict[str, type[Project]] = {"ours": Ours, "stock": Stock, "book": Book}


@dataclass
class Build:
    """A build, or a reload under a server, and what it did."""

    wall: float
    cpu: float
    runs: int = 0
    """Notebooks that were executed."""
    ok: bool = True
    shown: int = 0
    """Notebook pages that show the helper module's present value."""


Builds = defaultdict[tuple[str, str], list[Build]]
"""By system and scenario."""


def build(project: Project) -> Build:
    """Build a project's site; what a failed build printed goes to stderr."""
    runs = Path(project.env["BENCH_RUNS"])
    runs.write_text("")
    wall, cpu, status, output = run(project.command(), project.folder, project.env)
    if status:
        print(f"\n{project.name}: exit status {status}\n{output[-3000:]}", file=sys.stderr)
    shown = sum(f"answer {project.base + number}" in text_of(project.page(number)) for number in project.numbers)
    return Build(wall, cpu, len(runs.read_text().splitlines()), status == 0, shown)


def text_of(page: Path) -> str:
    """Return a page's text without tags; nothing if there is no such page."""
    if not page.exists():
        return ""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.read_text(encoding="utf-8")))


def add(builds: Builds, system: str, scenario: str, done: Build) -> None:
    builds[system, scenario].append(done)
    print(f"  {system:14} {scenario:10} {done.wall:7.2f} s wall {done.cpu:7.2f} s CPU", file=sys.stderr)


def median(builds: Builds, system: str, scenario: str, what: str) -> float:
    return statistics.median(getattr(done, what) for done in builds[system, scenario])


def compare(args: argparse.Namespace, corpus: Corpus, folder: Path) -> None:
    """Take every system through every scenario."""
    builds: Builds = defaultdict(list)
    pythons, absent = peers.install(["stock", "book"], args.peers)
    for turn in range(1, args.reps + 1):
        projects = [PROJECTS[name](corpus, folder / name, python) for name, python in pythons.items()]
        for number, scenario in enumerate(SCENARIOS):
            for project in rotated(projects, turn + number):
                if scenario not in ("cold", "unchanged"):
                    project.edit(scenario, turn)
                add(builds, project.name, scenario, build(project))

    print(
        f"\n## {corpus}\n\nMedian seconds, wall (CPU); × how many times ours; stale: the pages do not show the edit.\n"
    )
    table(["", *SCENARIOS], [[name, *(cell(builds, name, scenario) for scenario in SCENARIOS)] for name in pythons])
    print("\nNotebooks that were executed:\n")
    runs = [[name, *(str(builds[name, scenario][-1].runs) for scenario in SCENARIOS)] for name in pythons]
    table(["", *SCENARIOS], runs)
    for name in pythons:
        shown = builds[name, "module"][-1].shown
        print(f"\n{name}: after the module edit {shown} of {corpus.notes} notebook pages show the new value.")
    for (name, scenario), measured in builds.items():
        if failed := sum(not done.ok for done in measured):
            print(f"\n{name}, {scenario}: {failed} of {len(measured)} builds ended with an error.")
    for name, why in absent.items():
        print(f"\n{name} could not be installed, so it is not measured: {why}")


def cell(builds: Builds, name: str, scenario: str) -> str:
    wall, cpu = (median(builds, name, scenario, what) for what in ("wall", "cpu"))
    ours = median(builds, "ours", scenario, "wall")
    text = f"{wall:.1f} ({cpu:.1f})" + ("" if name == "ours" else f" ×{wall / ours:.2f}")
    return text if any(done.shown for done in builds[name, scenario]) else f"{text}, stale"


def cost_of_math(args: argparse.Namespace, corpus: Corpus, folder: Path) -> None:
    """Measure the CPU seconds that formulas add to a cold build of notes without notebooks."""
    builds: Builds = defaultdict(list)
    for turn in range(args.reps):
        for kind in rotated([WithoutNotebooks, WithoutMath], turn):
            add(
                builds,
                kind.name,
                "cold",
                build(kind(corpus, folder / kind.name.replace(" ", "-"), Path(sys.executable))),
            )
    math, none = (median(builds, name, "cold", "cpu") for name in ("ours", "no math"))
    print(f"\n## What {corpus.notes * corpus.formulas} formulas on {corpus.notes} notes add to a cold build\n")
    print(f"{math - none:.2f} CPU seconds ({math:.2f} with, {none:.2f} with the same TeX as code); budget 2.00.")


def cost_of_weave(args: argparse.Namespace, corpus: Corpus, folder: Path) -> None:
    """Measure builds, and reloads under each site's server, beside the same site without weave."""
    python = Path(sys.executable)
    ours, without = Ours(corpus, folder / "ours", python), WithoutWeave(corpus, folder / "without-weave", python)
    build(ours)
    without.take_notebooks(ours)
    build(without)
    builds: Builds = defaultdict(list)
    for turn in range(2 * args.reps):
        for scenario in ("unchanged", "prose"):
            for project in rotated([ours, without], turn):
                if scenario == "prose":
                    project.edit(scenario, turn)
                add(builds, project.name, scenario, build(project))
    tools: list[Tool] = [Weave(ours), MkDocs(without)]
    try:
        for tool in tools:
            tool.open()
        for turn in range(100, 100 + 2 * args.reps):
            for tool in rotated(tools, turn):
                done = tool.edit("prose", turn, 1)
                add(builds, tool.project.name, "reload", Build(done.wall, done.cpu, ok=done.shows == "new"))
    finally:
        for tool in tools:
            tool.close()
    print("\n## Beside the same site without weave (formulas as TeX, executed notebooks as pages)\n")
    rows = []
    for scenario, budget in {"unchanged": 1.3, "prose": 1.5, "reload": 1.5}.items():
        row = [scenario if scenario != "reload" else "prose under the site's server, until the page shows it"]
        for what in ("wall", "cpu"):
            a, b = (median(builds, project.name, scenario, what) for project in (ours, without))
            row.append(f"{a:.2f} / {b:.2f} = ×{a / b:.2f}")
        rows.append([*row, f"×{budget}"])
    table(["seconds with / without", "wall", "CPU", "budget"], rows)


PARTS: dict[str, Callable[[argparse.Namespace, Corpus, Path], None]] = {
    "compare": compare,
    "math": cost_of_math,
    "weave": cost_of_weave,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=3, help="repetitions; the table shows medians (default 3)")
    parser.add_argument("--quick", action="store_true", help="2 notes of 4 formulas, once: does everything run?")
    parser.add_argument("--peers", type=Path, default=peers.FOLDER, help="folder of the peers' environments")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which parts (default all)")
    args = parser.parse_args()
    if args.quick:
        args.reps = 1
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        for part in args.parts:
            corpus = QUICK if args.quick else Corpus(20, 50) if part == "math" else Corpus()
            PARTS[part](args, corpus, Path(folder).resolve())


if __name__ == "__main__":
    main()
