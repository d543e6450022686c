"""Where a figure or number comes from: the cell, the code it needs, seeds, versions, machine, time, and who checked."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from weave.run import slices
from weave.run.notebook import Cell
from weave.run.store import Run

_SEED = re.compile(r"(?:\bseed\w*\s*=\s*|\b(?:manual_seed|default_rng|RandomState|seed)\(\s*)(\d+)")
_NAMED = ("torch", "numpy", "einops")


def surroundings(root: Path) -> dict[str, str]:
    """What is true of a run as a whole, noted when it runs."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short=10", "HEAD")
    changed = commit and git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": f"{commit} and changes after it" if changed else commit,
        "device": f"CPU, one thread ({platform.machine()}, {platform.system()})",
    }


@lru_cache(maxsize=1024)
def script(sources: tuple[str, ...], number: int) -> str:
    """A cell with what it needs; the cell alone where it is not plain Python."""
    try:
        return slices.script(sources[:number], sources[number])
    except SyntaxError:
        return sources[number] + "\n"


def script_of(run: Run, number: int) -> str:
    cell = run.notebook.code[number]
    head = f"# {run.notebook.path}, cell {name_of(cell, number)}, with what it needs\n"
    return head + script(tuple(one.source for one in run.notebook.code), number)


def script_bytes(run: Run, number: int) -> bytes:
    return script_of(run, number).encode()


def as_json(run: Run) -> bytes:
    """All of a notebook's cells."""
    return (json.dumps([of(run, number) for number in range(len(run.notebook.code))], indent=1) + "\n").encode()


def name_of(cell: Cell, number: int) -> str:
    return cell.name or f"cell-{number + 1}"


def of(run: Run, number: int) -> dict[str, Any]:
    """Everything that is known of one cell's result, for machines."""
    seeds = sorted({int(seed) for seed in _SEED.findall(script_of(run, number))})
    seconds = run.made.get("cell_seconds", [])
    files = run.inputs.get("files", {})
    return {
        "cell": f"{run.notebook.path}#{name_of(run.notebook.code[number], number)}",
        "commit": run.made.get("commit", ""),
        "seeds": seeds,
        "device": run.made.get("device", ""),
        "python": run.inputs.get("python", ""),
        "packages": run.inputs.get("packages", {}),
        "weights": sorted(Path(name).stem for name in files if name.endswith(".safetensors")),
        "seconds": seconds[number] if number < len(seconds) else None,
        "verified": verified(),
    }


def verified() -> str:
    """The CI run that builds this page, and so has checked it; empty where it is built by hand."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return ""
    server, repository, run = (os.environ.get(f"GITHUB_{key}", "") for key in ("SERVER_URL", "REPOSITORY", "RUN_ID"))
    return f"{server}/{repository}/actions/runs/{run}"


def as_html(run: Run, number: int, json_url: str) -> str:
    """To be unfolded below a figure."""
    about = of(run, number)
    versions = [f"{name} {about['packages'][name]}" for name in _NAMED if name in about["packages"]]
    rows = {
        "code at": f"commit {about['commit']}" if about["commit"] else "",
        "seed" if len(about["seeds"]) == 1 else "seeds": ", ".join(map(str, about["seeds"])),
        "trained weights": _some(about["weights"]),
        "with": ", ".join([f"Python {about['python']}", *versions]),
        "on": about["device"],
        "took": "" if about["seconds"] is None else f"{about['seconds']:.2g} s",
    }
    body = "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in rows.items() if text)
    if about["verified"]:
        link = f'<a href="{escape(about["verified"])}">this run of CI</a>'
        body += f"<div><dt>checked by</dt><dd>{link}</dd></div>"
    else:
        body += "<div><dt>checked by</dt><dd>the build that made this page</dd></div>"
    return (
        f'<details class="weave-code weave-provenance" data-search-exclude><summary>provenance</summary><dl>{body}</dl>'
        f'<p><a href="{json_url}">the same for machines</a></p></details>'
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
