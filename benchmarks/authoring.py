"""The time until an edit shows, beside other tools, with every tool's server running.

    python benchmarks/authoring.py            five repetitions, about fifteen minutes on two cores
    python benchmarks/authoring.py --quick    small books once, about three minutes: does everything run?

Part "compare": 12 notes of 40 formulas and 12 notebooks of 10 cells that import a helper module, the same for every
tool (corpus.py). In each repetition there are three edits, and at each of them all tools take turns:

- prose     a sentence is added to the last note
- cell      of the last notebook, the last cell that computes computes something else
- module    the helper module, which all notebooks import, gives another number; the last notebook prints it

The time runs from saving the file until the page that the server gives out says the new thing. A page that is as it
was 15 s later, while the server rests, is stale; it is requested once more to be sure. CPU seconds are those of the
server and all that it started, kernels included, from the edit until they rest again.

- ours      weave serve
- stock     mkdocs serve with Material, mkdocs-jupyter running the notebooks, and markdown-katex, as their manuals set
            them up; told to watch the helper module too
- book      Jupyter Book 1 with `execute_notebooks: cache`. It has no server: the manual says to build again, and the
            time is that of the build; after a stale one it builds once more to be sure
- myst      mystmd's content server alone. The theme that makes pages of what this serves is not part of the package,
            and its makers' server cannot be reached from everywhere (whether from here, is printed). The time is that
            until the page's content, as JSON, says the new thing: a good deal less work than a page
- quarto    is not measured: its package on PyPI downloads the program from elsewhere; what installing it says is
            printed

Part "scale": ours alone, 20 + 20 and 100 + 100 light notes and notebooks: the wait for a prose edit, and the memory of
the server and its kernels after all edits, as PSS (memory that several processes share counts once).

Reads /proc, so it needs Linux. Exits with 0 whatever it finds; aims that are missed are marked.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from tqdm import tqdm

import peers
from corpus import QUICK, Book, Corpus, Myst, Ours, Project, Stock
from measure import adopt_orphans, aim, rotated, table
from servers import Builds, Edit, Failed, MkDocs, MystContent, Served, Tool, Weave

SCENARIOS = ["prose", "cell", "module"]
MEMORY = 1.0
"""GiB."""
TOOLS: dict[str, tuple[type[Project], type[Tool]]] = {
    "ours": (Ours, Weave),
    "stock": (Stock, MkDocs),
    "book": (Book, Builds),
    "myst": (Myst, MystContent),
}
Edits = dict[tuple[str, str], list[Edit]]
"""By tool and scenario."""


def compare(args: argparse.Namespace, folder: Path) -> None:
    corpus = QUICK if args.quick else Corpus()
    pythons, absent = peers.install(peers.TOOLS, args.peers)
    absent = {name: f"cannot be installed here: {reason}" for name, reason in absent.items()}
    if pythons.pop("quarto", None):
        absent["quarto"] = "can be installed here, but this benchmark does not know how to measure it"
    tools: dict[str, Tool] = {}
    edits: Edits = defaultdict(list)
    with ExitStack() as stack:
        steps = len(pythons) * (1 + args.reps * len(SCENARIOS))
        bar = stack.enter_context(tqdm(total=steps, desc="compare", unit="step", file=sys.stderr))
        for name, python in pythons.items():
            bar.set_postfix_str(f"{name} starts")
            project, kind = TOOLS[name]
            tool = kind(project(corpus, folder / name, python))
            stack.callback(tool.close)
            try:
                tool.open()
                tools[name] = tool
            except Failed as error:
                absent[name] = f"does not run here: {error}"
            bar.update()
        for turn in range(1, args.reps + 1):
            for number, scenario in enumerate(SCENARIOS):
                for name in rotated(list(tools), turn + number):
                    bar.set_postfix_str(f"{name}, {scenario} edit")
                    edits[name, scenario].append(tools[name].edit(scenario, turn, corpus.notes))
                    bar.update()
        memory = {name: tool.processes.memory() for name, tool in tools.items()}

    load = " ".join(f"{average:.1f}" for average in os.getloadavg())
    print(f"\n## {corpus}\n")
    print(f"Median of {args.reps}; × how many times ours. {os.cpu_count()} cores, load {load} at the end.")
    for title, what in (("Seconds until the edit shows", "wall"), ("CPU seconds until the server rests", "cpu")):
        print(f"\n{title}:\n")
        rows = [[name, *(cell(edits, name, scenario, what) for scenario in SCENARIOS)] for name in tools]
        if what == "cpu":
            rows = [[*row, f"{memory[row[0]]:.0f}" if isinstance(tools[row[0]], Served) else "–"] for row in rows]
        table(["", *SCENARIOS, *(["MiB at the end"] if what == "cpu" else [])], rows)
    for name, tool in tools.items():
        if tool.remark:
            print(f"\n{name} {tool.remark}.")
        for scenario in SCENARIOS:
            shown = [edit.shows for edit in edits[name, scenario]]
            for shows in sorted(set(shown) - {"new"}):
                what = "what was true before it" if shows == "stale" else shows
                print(f"\n{name}, {scenario} edit: {shown.count(shows)} of {args.reps} times it shows {what}.")
        if tool.left:
            print(f"\n{name} left processes behind when its server had been ended: {tool.left}.")
    for name, reason in absent.items():
        print(f"\n{name} {reason}")
    if "ours" in tools:
        aims(edits, [name for name in tools if name not in ("ours", "myst")])


def aims(edits: Edits, others: list[str]) -> None:
    print("\nAims:\n")
    for scenario in SCENARIOS:
        aim(f"ours shows each {scenario} edit", all(edit.shows == "new" for edit in edits["ours", scenario]))
        waits = {
            name: median(edits[name, scenario], "wall")
            for name in ("ours", *others)
            if any(edit.shows == "new" for edit in edits[name, scenario])
        }
        listed = ", ".join(f"{name} {wall:.2f} s" for name, wall in waits.items()) or "none does"
        first = min(waits, key=waits.__getitem__, default="")
        aim(f"no other makes a page of a {scenario} edit sooner ({listed})", first == "ours")
    cpu = median(edits["ours", "prose"], "cpu")
    aim(f"ours takes less than a second of CPU for a prose edit ({cpu:.2f})", cpu < 1)


def median(edits: list[Edit], what: str) -> float:
    """Return the median over the edits that show, or over all if none does."""
    shown = [edit for edit in edits if edit.shows == "new"]
    return statistics.median(getattr(edit, what) for edit in shown or edits)


def cell(edits: Edits, name: str, scenario: str, what: str) -> str:
    mine = edits[name, scenario]
    number = median(mine, what)
    shown = sum(edit.shows == "new" for edit in mine)
    text = f"{number:.2f}"
    if name != "ours" and (ours := edits["ours", scenario]):
        text += f" ×{number / median(ours, what):.1f}"
    if shown == 0:
        never = "stale" if {edit.shows for edit in mine} == {"stale"} else "never"
        return never if what == "wall" else f"{text}, {never}"
    return text if shown == len(mine) else f"{text}, {shown} of {len(mine)}"


def scale(args: argparse.Namespace, folder: Path) -> None:
    sizes = (4, 20) if args.quick else (20, 100)
    tools: dict[int, Tool] = {}
    edits: dict[int, list[Edit]] = defaultdict(list)
    cells = min(5, *sizes)
    with ExitStack() as stack:
        steps = len(sizes) * (1 + args.reps + cells)
        bar = stack.enter_context(tqdm(total=steps, desc="scale", unit="step", file=sys.stderr))
        for size in sizes:
            bar.set_postfix_str(f"{size} + {size} starts")
            tools[size] = Weave(Ours(Corpus(size, 8, 3), folder / f"ours-{size}", Path(sys.executable)))
            stack.callback(tools[size].close)
            try:
                tools[size].open()
            except Failed as error:
                print(f"\n## Scale\n\nours with {size} notes and {size} notebooks does not run here: {error}")
                return
            bar.update()
        for turn in range(1, args.reps + 1):
            for size in rotated(sizes, turn):
                bar.set_postfix_str(f"{size} + {size}, prose edit")
                edits[size].append(tools[size].edit("prose", turn, size))
                bar.update()
        wrong = {f"{size} + {size}: prose edit shows {edit.shows}" for size in sizes for edit in edits[size]}
        for number in range(1, cells + 1):
            for size in sizes:
                bar.set_postfix_str(f"{size} + {size}, cell edit")
                wrong.add(f"{size} + {size}: cell edit shows {tools[size].edit('cell', number, number).shows}")
                bar.update()
        memory = {size: tools[size].processes.memory() for size in sizes}

    print("\n## Ours, small and large: light notes (8 formulas) and notebooks (3 cells)\n")
    rows = []
    for size in sizes:
        wall, cpu = (median(edits[size], what) for what in ("wall", "cpu"))
        rows.append([f"{size} + {size}", f"{wall:.2f}", f"{cpu:.2f}", f"{memory[size]:.0f}"])
    table(["notes + notebooks", "prose edit, s", "CPU s", "MiB after the edits"], rows)
    for line in sorted(line for line in wrong if not line.endswith("shows new")):
        print(f"\n{line}")
    small, large = sizes
    ratio = median(edits[large], "wall") / median(edits[small], "wall")
    text = f"a prose edit waits at most twice as long with {large} + {large} as with {small} + {small} (×{ratio:.2f})"
    print("\nAims:\n")
    aim(text, ratio <= 2)
    gib = memory[large] / 1024
    aim(f"{large} + {large} take less than {MEMORY:.0f} GiB ({gib:.2f})", gib < MEMORY)


PARTS: dict[str, Callable[[argparse.Namespace, Path], None]] = {"compare": compare, "scale": scale}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=5, help="repetitions; the tables show medians (default 5)")
    parser.add_argument("--quick", action="store_true", help="small books, once: does everything run?")
    parser.add_argument("--peers", type=Path, default=peers.FOLDER, help="folder of the peers' environments")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which parts (default both)")
    args = parser.parse_args()
    if not Path("/proc/self/smaps_rollup").exists():
        print("This reads processes from /proc/*/smaps_rollup, which only Linux has; nothing is measured.")
        return
    if args.quick:
        args.reps = 1
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        for part in args.parts:
            with suppress(KeyboardInterrupt):
                PARTS[part](args, Path(folder).resolve())


if __name__ == "__main__":
    main()
