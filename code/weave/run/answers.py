"""A kernel's answers, as outputs to store and as problems to report.

An answer is what `kernel.py` sends for a cell: its ``outputs``, in nbformat's shape, and the ``count`` that IPython
gave the cell (-1 if it was skipped). An output that has an id (``transient``) can be changed by a later cell; the
change is an output of that cell until `outputs` puts it where it belongs.
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

from weave.run.claim import CLAIM_MIME, LARGEST
from weave.run.notebook import Cell, Notebook
from weave.source.problem import Problem

Answer = dict[str, Any]

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_FRAME = re.compile(r"Cell In ?\[(\d+)\], line (\d+)")
_TEMPORARY_FILE = re.compile(r" \((\S*\.py|<ipython-input-[^>]*>), line \d+\)$")
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+(?=>)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_MISSING = re.compile(r"'([^'\n]+)'\s*$")
_TEMPORARY_CELL = re.compile(r"<ipython-input-\d+-[0-9a-f]+>")


def outputs(answers: list[Answer], root: Path) -> list[list[dict[str, Any]]]:
    """Return what each cell shows once all have run."""
    every = [[without_noise(output, root) for output in answer["outputs"]] for answer in answers]
    for number, given in enumerate(every):
        for update in [output for output in given if output["output_type"] == "update_display_data"]:
            given.remove(update)
            for shown in (output for earlier in every[:number] for output in earlier):
                if shown.get("transient") == update["transient"]:
                    shown.update(data=update["data"], metadata=update["metadata"])
    for given in every:
        for output in given:
            output.pop("transient", None)
    return every


def without_noise(output: Any, root: Path) -> dict[str, Any]:
    """Return an output without what differs between machines and runs: counters, folders, addresses."""
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


def failed(cell: Cell, answer: Answer) -> bool:
    return _raised(answer["outputs"]) and "raises-exception" not in cell.tags


def error(notebook: Notebook, answers: list[Answer], root: Path) -> Problem:
    """The error of the last cell that ran, at the innermost line of the notebook in its traceback."""
    raised = next(output for output in reversed(answers[-1]["outputs"]) if output["output_type"] == "error")
    detail = _CONTROL.sub("", _ANSI.sub("", "\n".join(raised["traceback"])))
    cell, offset = notebook.code[len(answers) - 1], 0
    by_count = {answer["count"]: number for number, answer in enumerate(answers)}
    for count, line in _FRAME.findall(detail):
        if int(count) in by_count:
            cell, offset = notebook.code[by_count[int(count)]], int(line) - 1
    text = _CONTROL.sub("", _ANSI.sub("", raised["evalue"]))
    first = _TEMPORARY_FILE.sub("", (text.strip().splitlines() or [""])[0])
    what = f"{raised['ename']}: {first}" if first else raised["ename"]
    return problem(notebook, cell, f"{what}{_beside(raised, notebook, root)}; the traceback is below", offset, detail)


def _beside(raised: dict[str, Any], notebook: Notebook, root: Path) -> str:
    """Return what to do about a file or module that is beside the notebook and was not found there."""
    folder = Path(notebook.path).parent
    missing = _MISSING.search(raised["evalue"])
    if missing and raised["ename"] == "ModuleNotFoundError":
        name = missing[1].split(".")[0]
        if file := next((name for name in (f"{name}.py", name) if (root / folder / name).exists()), None):
            what = f"; {(folder / file).as_posix()} is not on Python's path: a notebook runs in the repository's root"
            return f"{what}, so move {file} to {folder.parent.as_posix()}/"
    if missing and raised["ename"] == "FileNotFoundError" and (root / folder / missing[1]).exists():
        return f"; a notebook runs in the repository's root: write {os.path.normpath(folder / missing[1])}"
    return ""


def problems(notebook: Notebook, outputs: list[list[dict[str, Any]]]) -> list[Problem]:
    """Return the problems of a run in which no cell failed: a missing promised error, what no claim() published."""
    for cell, given in zip(notebook.code, outputs, strict=True):
        if "raises-exception" in cell.tags and not _raised(given):
            return [problem(notebook, cell, "is tagged raises-exception and raised nothing; drop the tag")]
    first: dict[str, Cell] = {}
    wrong = []
    for cell, given in zip(notebook.code, outputs, strict=True):
        for output in given:
            published = output.get("data", {}).get(CLAIM_MIME, {})
            if not isinstance(published, dict) or not all(map(_is_value, published.values())):
                what = f"shows {published!s:.60} as {CLAIM_MIME}, which is no number; publish numbers with claim()"
                wrong.append(problem(notebook, cell, what))
                continue
            for name in published:
                if name in first:
                    what = f"publishes '{name}' again (first at line {first[name].line}); rename one"
                    wrong.append(problem(notebook, cell, what))
                first[name] = cell
    return wrong


def _is_value(value: object) -> bool:
    """Return whether this is a finite number, or a pair of them."""
    if isinstance(value, list):
        return len(value) == 2 and all(_is_value(part) and not isinstance(part, list) for part in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST


def problem(notebook: Notebook, cell: Cell, what: str, offset: int = 0, detail: str = "") -> Problem:
    """A problem of a cell, ``offset`` lines below its first line."""
    named = f"cell '{cell.name}': " if cell.name else ""
    return Problem(notebook.path, cell.line + offset, named + what, detail)


def _raised(outputs: list[dict[str, Any]]) -> bool:
    return any(output["output_type"] == "error" for output in outputs)
