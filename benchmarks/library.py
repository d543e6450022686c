"""The speed of `residual` beside TransformerLens and a plain PyTorch model, with the same weights, in one run.

    make peers                           once: transformers and TransformerLens 4.3, each in its own environment
    python benchmarks/library.py         about a quarter of an hour on one core
    python benchmarks/library.py --quick two rounds of fewer tasks, to see that everything runs

Each system is a process of its own that computes on one thread. They take turns, task by task, so that a busy machine
slows all of them; a round is repeated, and the tables show medians of process CPU time (user and system), which other
programs disturb less than time on the clock. Before anything is timed, every system's logits are compared with ours.

- ours         `residual`
- plain        a model of nanoGPT's kind, in systems.py: fused maps, PyTorch's attention kernel, a key-value cache
- TL           TransformerLens 4.3: `TransformerBridge.boot_native`
- HF           Hugging Face's GPT-2

The small model and the large one are described in systems.py. A sweep patches the output z of one head at one position,
for all 2 × 8 × 256 of them, and reads a logit at the last position. All but ours would take minutes, so that 8 of their
4096 patches are timed and multiplied up.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from measure import Worker, environment, measure_task, median, seconds, serve, table, times
from peers import LIBRARIES, ROOT
from systems import BATCH, CTX, HEADS, LARGE_NEW, LAYERS, NEW, SYSTEMS, WIDTH

NAMES = {"ours": "ours", "plain": "plain", "tl": "TL", "hf": "HF"}
SMALL, LARGE = ("ours", "plain", "tl"), ("ours", "hf")


class Task(NamedTuple):
    text: str
    systems: tuple[str, ...]
    aim: float | None
    """How many times slower TransformerLens should be."""
    runs: int
    """In each measurement."""
    quick: bool


TASKS = {
    "forward": Task("forward", SMALL, 2.4, 3, True),
    "recorded": Task("forward, every activation recorded", SMALL, 2, 2, True),
    "train": Task("training step", SMALL, 2.4, 3, True),
    "patch": Task("one patch", SMALL, None, 2, True),
    "sweep": Task("patch sweep 2 × 8 × 256", SMALL, 500, 1, True),
    "generate1": Task(f"greedy, {NEW} tokens, batch 1", SMALL, 10, 1, True),
    "generate8": Task(f"greedy, {NEW} tokens, batch 8", SMALL, 10, 1, False),
    "large-forward": Task("forward", LARGE, None, 1, True),
    "large-recorded": Task("forward, every activation recorded", LARGE, None, 1, False),
    "large-generate": Task(f"greedy, {LARGE_NEW} tokens, batch 1", LARGE, None, 1, False),
}


def compare(workers: dict[str, Worker], tasks: list[str], rounds: int) -> None:
    """Measure these tasks, and print a table of CPU times and one of memory."""
    others = [name for name in workers if name != "ours"]
    cpu_rows, memory_rows = [], []
    for name in tasks:
        task = TASKS[name]
        taking_part = [worker for system, worker in workers.items() if system in task.systems]

        def progress(number: int, text: str = task.text) -> None:
            print(f"\r{text}: round {number} of {rounds} {'':20}", end="", file=sys.stderr)

        measured, memory = measure_task(taking_part, name, task.runs, rounds, progress)
        cpu = {system: median(values) for system, values in measured.items()}
        verdict = []
        if task.aim is not None and "tl" in cpu:
            missed = cpu["tl"] / cpu["ours"] < task.aim
            verdict.append(f"TL ≥ {task.aim:g} ×{': missed' if missed else ''}")
        verdict += [f"behind {NAMES[peer]}" for peer in ("plain", "hf") if cpu.get(peer, 1e9) < 0.97 * cpu["ours"]]
        ratios = [times(cpu[system] / cpu["ours"]) if system in cpu else "" for system in others]
        values = [seconds(cpu[system]) if system in cpu else "" for system in workers]
        cpu_rows.append([task.text, *values, *ratios, ", ".join(verdict)])
        memory_rows.append([task.text, *(f"{memory[s]:.0f} MB" if s in memory else "" for s in workers)])
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    names = [NAMES[system] for system in workers]
    table(["CPU time", *names, *(f"{NAMES[system]} / ours" for system in others), "aim"], cpu_rows)
    print()
    table(["memory, beside the weights'", *names], memory_rows)
    print()


def compare_small(pythons: dict[str, Path], folder: Path, ours: Worker, tasks: list[str], rounds: int) -> None:
    """Compare the systems on the small model, if all compute what ours computes."""
    print(f"{LAYERS} layers, attention only, d_model {WIDTH}, {HEADS} heads; batch {BATCH} × {CTX}; same weights:")
    workers = {"ours": ours}
    for system in [system for system in SMALL if system in pythons and system != "ours"]:
        workers[system] = Worker(system, pythons[system], folder, __file__)
        apart = workers[system].ask_fork("check")
        print(
            f"  {NAMES[system]}: logits as ours to {apart['logits']:.0e}, patched ones to {apart['patched']:.0e}, "
            f"{apart['tokens']:.0%} of greedy tokens the same, the sweep's sample to {apart['swept']:.0e}"
        )
        if max(apart["logits"], apart["patched"], apart["swept"]) > 1e-4:
            sys.exit(f"{NAMES[system]} does not compute what ours computes: nothing to compare")
    print()
    compare(workers, tasks, rounds)
    for system, worker in workers.items():
        if system != "ours":
            worker.close()


def compare_large(python: Path, folder: Path, ours: Worker, tasks: list[str], rounds: int) -> None:
    """Compare ours with Hugging Face's GPT-2, if both compute the same."""
    worker = Worker("hf", python, folder, __file__)
    theirs = worker.ask_fork("check_large")  # it has written the weights by now
    ours.ask("large")
    mine = ours.ask_fork("check_large")
    apart = max(abs(a - b) for a, b in zip(mine["logits"], theirs["logits"], strict=True))
    text = "the same" if mine["text"] == theirs["text"] else "NOT the same"
    print(f"The size of GPT-2 small, batch 1 × {CTX}: logits as Hugging Face's to {apart:.0e}, greedy text {text}\n")
    if apart > 1e-4:
        sys.exit("HF does not compute what ours computes: nothing to compare")
    compare({"ours": ours, "hf": worker}, tasks, rounds)
    worker.close()


def imports(pythons: dict[str, Path], rounds: int) -> None:
    """Print what each import costs a fresh interpreter: CPU-seconds and MB, the interpreter's own included."""
    modules = sorted(path.stem for path in (ROOT / "code/residual").glob("[a-z]*.py"))
    everything = ", ".join(module for module in modules if module != "plot")
    statements = {
        "torch": ("ours", "import torch"),
        "residual": ("ours", "import residual"),
        "residual, all but its plots": ("ours", f"import residual; from residual import {everything}"),
        "TransformerLens": ("tl", "from transformer_lens.model_bridge import TransformerBridge"),
        "transformers' GPT-2": ("hf", "from transformers import GPT2LMHeadModel"),
    }
    costs: dict[str, list[list[float]]] = {}
    for _ in range(rounds):
        for label, (system, statement) in statements.items():
            if system not in pythons:
                continue
            report = "import resource, time; print(time.process_time(), resource.getrusage(0).ru_maxrss / 1024)"
            command = [pythons[system], "-c", f"{statement}\n{report}"]
            done = subprocess.run(command, env=environment(), capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{statement!r} failed:\n{done.stderr[-2000:]}")
            costs.setdefault(label, []).append([float(text) for text in done.stdout.split()[-2:]])
    medians = {label: [median(column) for column in zip(*values, strict=True)] for label, values in costs.items()}
    base = medians["torch"][0]
    rows = [[name, seconds(cpu), f"{cpu - base:+.2f} s", f"{mb:.0f} MB"] for name, (cpu, mb) in medians.items()]
    table(["import", "CPU time", "beside torch's", "peak memory"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="repetitions; the tables show medians (default 7)")
    parser.add_argument("--quick", action="store_true", help="two rounds, fewer tasks")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="only these tasks, and nothing else")
    parser.add_argument("--without", nargs="+", choices=[s for s in SYSTEMS if s != "ours"], default=[], metavar="PEER")
    for name, folder in LIBRARIES.items():
        parser.add_argument(f"--{name}", type=Path, default=folder, help=f"that environment (default {folder.name})")
    parser.add_argument("--serve", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(SYSTEMS[args.serve](args.folder))

    here = Path(sys.executable)
    pythons = {"ours": here, "plain": here, "tl": args.peers43 / "bin/python", "hf": args.peers / "bin/python"}
    for system in [*args.without, *(s for s, python in pythons.items() if not python.exists())]:
        if pythons.pop(system, None) and system not in args.without:
            print(f"{NAMES[system]} is left out: it is not installed (`make peers` does)")
    rounds = 2 if args.quick else args.rounds
    tasks = args.tasks or [name for name, task in TASKS.items() if task.quick or not args.quick]
    large = [name for name in tasks if name.startswith("large-")]
    small = [name for name in tasks if name not in large]

    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary)
        saving = Worker("ours", here, folder, __file__)
        saving.ask("save")
        saving.close()
        ours = Worker("ours", here, folder, __file__)
        if small:
            compare_small(pythons, folder, ours, small, rounds)
        if large and "hf" in pythons:
            compare_large(pythons["hf"], folder, ours, large, rounds)
        ours.close()
    if not args.tasks:
        imports(pythons, rounds)


if __name__ == "__main__":
    main()
