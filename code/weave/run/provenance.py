"""The origin of a figure or number: its cell, the code up to it, seeds, versions, machine, time, and who checked."""

from __future__ import annotations

import json
import os
import platform
import re
from html import escape
from pathlib import Path
from typing import Any

from weave.run.notebook import Cell, Notebook
from weave.run.store import Result
from weave.source.git import git

_SEED = re.compile(r"(?:\bseed\w*\s*=\s*|\b(?:manual_seed|default_rng|RandomState|seed)\(\s*)(\d+)")
_CODE = (".py", ".safetensors")
_IMPORT = re.compile(r"^\s*(?:import|from)\s+(\w+)", re.MULTILINE)


def circumstances(root: Path) -> dict[str, str]:
    """The ``commit`` and the ``device`` of a run, asked for when it runs."""
    commit = "".join(git(root, "rev-parse", "--short=10", "HEAD"))
    changed = commit and any(git(root, "status", "--porcelain", "--untracked-files=no"))
    return {
        "commit": f"{commit} and changes after it" if changed else commit,
        "device": f"CPU, one thread ({platform.machine()}, {platform.system()})",
    }


# -- the notebook up to a cell


def up_to(notebook: Notebook, cell: Cell) -> str:
    """The text of a notebook from its first line to the last line of a cell."""
    end = cell.line + cell.source.count("\n")
    return "\n".join(notebook.text.split("\n")[:end]) + "\n"


def script(notebook: Notebook, cell: Cell, repository: str) -> bytes:
    """The notebook up to a cell as a script, which says at its head how to get what it imports.

    Args:
        repository: The address to clone; empty if the site does not know it.
    """
    head = f"# {notebook.path} up to the cell '{cell.key}'.\n{needs(repository)}"
    return (head + up_to(notebook, cell)).encode()


def needs(repository: str) -> str:
    """The comment at the head of a program that says how to get what it imports."""
    commands = "".join(f"#   {line}\n" for line in install(repository))
    return f"# To run it with Python 3.11 or newer, get the packages that it imports, once:\n{commands}\n"


def install(repository: str) -> list[str]:
    """The commands that get the packages of a repository."""
    name = repository.rstrip("/").rpartition("/")[2].removesuffix(".git") or "repository"
    clone = f"git clone {repository or '<address of the repository>'} {name}"
    return [clone, f"python -m pip install --editable {name}"]


# -- provenance


def as_json(result: Result) -> bytes:
    """The provenance of all code cells."""
    return (json.dumps([of(result, cell) for cell in result.notebook.code], indent=1) + "\n").encode()


def of(result: Result, cell: Cell) -> dict[str, Any]:
    """Everything that is known about one code cell's outputs, for machines.

    ``seeds``, ``weights`` and ``data`` are those of the notebook up to the cell, which nothing that follows can affect;
    of the weights and data, what was read last comes first.
    """
    cells = result.notebook.code
    number = cells.index(cell)
    code = "\n".join(earlier.source for earlier in cells[: number + 1])
    seconds = result.circumstances.get("cell_seconds", [])
    first_read = result.circumstances.get("first_read", {})
    up_to_here = [name for name, first in first_read.items() if first <= number and not os.path.isabs(name)]
    read = sorted(up_to_here, key=lambda name: (-first_read[name], name))
    weights = [Path(name) for name in read if name.endswith(".safetensors")]
    data = [name for name in read if not name.endswith(_CODE) and Path(name).with_suffix(".safetensors") not in weights]
    values = {name: published.value for name, published in result.published.items() if published.cell == cell.key}
    return {
        "cell": f"{result.notebook.path}#{cell.key}",
        "values": values,
        "commit": result.circumstances.get("commit", ""),
        "seeds": sorted({int(seed) for seed in _SEED.findall(code)}),
        "device": result.circumstances.get("device", ""),
        "python": result.inputs.get("python", ""),
        "packages": result.inputs.get("packages", {}),
        "weights": [path.stem for path in weights],
        "data": data,
        "seconds": seconds[number] if number < len(seconds) else None,
        "verified": verified(),
    }


def verified() -> str:
    """The address of the CI run that builds this page, and so has checked it; empty outside CI."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return ""
    server, repository, run = (os.environ.get(f"GITHUB_{key}", "") for key in ("SERVER_URL", "REPOSITORY", "RUN_ID"))
    return f"{server}/{repository}/actions/runs/{run}"


def as_html(result: Result, cell: Cell, json_url: str) -> str:
    """A panel that unfolds below a figure."""
    about = of(result, cell)
    imported = set(_IMPORT.findall(up_to(result.notebook, cell)))
    versions = [f"{name} {version}" for name, version in about["packages"].items() if name in imported]
    rows = {
        "code at": f"commit {about['commit']}" if about["commit"] else "",
        "seeds up to here": ", ".join(map(str, about["seeds"])),
        "weights up to here": _first_three(about["weights"]),
        "data up to here": _first_three([Path(name).name for name in about["data"]]),
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


def _first_three(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
