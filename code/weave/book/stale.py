"""Whether each notebook's stored result belongs to today's inputs, and all that speaks against it, without a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from weave.book.book import Book
from weave.run import recorder
from weave.run.notebook import Cell, Notebook
from weave.run.store import Run, code_digest, surroundings, version_of
from weave.source.problem import Problem

_HOW = {"skip-execution", "raises-exception"}


def reasons(site: Book) -> dict[str, list[str]]:
    """For every notebook, by its path, why its stored result does not belong to today's inputs; fresh: no reason."""
    return {path: [one.message for one in found] for path, found in stale(site).items()}


def problems(site: Book) -> list[Problem]:
    """The same for a person, with what to do."""
    return [
        replace(one, message=f"stale: {one.message}; weave run {Path(path).stem} brings it up to date")
        for path, found in stale(site).items()
        for one in found
    ]


def stale(site: Book) -> dict[str, list[Problem]]:
    """The same with the line of the notebook that each reason has to do with."""
    return {notebook.path: _of(site, notebook) for notebook in site.notebooks()}


def _of(site: Book, notebook: Notebook) -> list[Problem]:
    if notebook.problems:
        return [replace(one, message=f"cannot be run: {one.message}") for one in notebook.problems]
    if site.store.fresh(notebook):
        return []
    run = site.store.last(notebook)
    if run is None:
        return [Problem(notebook.path, 1, "never ran")]
    found = []
    if run.inputs["code"] != code_digest(notebook):
        line, what = _code(run.notebook.code, notebook.code)
        found.append(Problem(notebook.path, line, what))
    whole = [*_surroundings(run), *_files(site.layout.root, run.inputs), *_packages(run.inputs["packages"])]
    return found + [Problem(notebook.path, 1, what) for what in whole]


def _code(old: list[Cell], new: list[Cell]) -> tuple[int, str]:
    """Where two versions of a notebook's code part, and what the first cell is that differs."""
    before, after = [_key(cell) for cell in old], [_key(cell) for cell in new]
    same = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(old), len(new)))
    if same == len(old) == len(new):  # the same cells, taken apart in another way
        return 1, "its code changed"
    rest_old, rest_new = before[same:], after[same:]
    last = new[same - 1].line if same else 1
    if not rest_new or rest_new[0] in rest_old[1:]:
        return new[same].line if rest_new else last, f"{_name(old, same)} is gone"
    if not rest_old or rest_old[0] in rest_new[1:]:
        return new[same].line, f"{_name(new, same)} is new"
    return new[same].line, f"the code of {_name(new, same)} changed"


def _key(cell: Cell) -> tuple[str, tuple[str, ...]]:
    return cell.source, tuple(sorted(_HOW & set(cell.tags)))


def _name(cells: list[Cell], number: int) -> str:
    return f"cell '{cells[number].name or f'cell-{number + 1}'}'"


def _surroundings(run: Run) -> list[str]:
    changed = {name: now for name, now in surroundings().items() if run.inputs.get(name) != now}
    said = {
        "python": f"Python changed from {run.inputs.get('python')} to {changed.get('python')}",
        "machine": f"the machine changed from {run.inputs.get('machine')} to {changed.get('machine')}",
        "weave": "the code that executes notebooks changed",
    }
    return [said[name] for name in changed]


def _files(root: Path, inputs: dict[str, Any]) -> list[str]:
    found = []
    for name, before in inputs["files"].items():
        now = recorder.digest(root / name)
        if now != before:
            found.append(f"{name} {'appeared' if before is None else 'vanished' if now is None else 'changed'}")
    for name, before in inputs["listings"].items():
        if recorder.listing_digest(root / name) != before:
            found.append(f"a file appeared in {name}/ or vanished from it")
    return found


def _packages(recorded: dict[str, str]) -> list[str]:
    now = {name: version_of(name) for name in recorded}
    return [f"{name} changed from {was} to {now[name]}" for name, was in recorded.items() if now[name] != was]
