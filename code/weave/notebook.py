"""A notebook as it lies in git: a Python file whose cells begin with ``# %%`` (jupytext's percent format)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jupytext

from weave.problem import Problem

_MARKER = re.compile(r"^#\s?%%(?!%)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_LABEL = re.compile(r"^#\|\s*label:\s*(\S+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Cell:
    kind: Literal["code", "markdown"]
    name: str | None
    tags: tuple[str, ...]
    line: int
    """Line of the notebook's file where ``source`` begins, counted from 1."""
    source: str


@dataclass(frozen=True)
class Notebook:
    path: str
    """Relative to the repository's root: ``code/notebooks/zero_layer.py``."""
    text: str
    cells: tuple[Cell, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def stem(self) -> str:
        return Path(self.path).stem

    @property
    def code(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.kind == "code"]

    @property
    def names(self) -> dict[str, Cell]:
        return {cell.name: cell for cell in self.code if cell.name}


def parse(path: str, text: str) -> Notebook:
    """Split a notebook into cells that know their line. What is wrong with it is in ``problems``."""
    lines = text.splitlines()
    try:
        raw = jupytext.reads(text, fmt="py:percent").cells
    except Exception as error:  # jupytext raises whatever the bad metadata provoked
        return Notebook(path, text, (), (Problem(path, 1, f"not a notebook that jupytext reads: {error}"),))
    starts = [number for number, line in enumerate(lines, start=1) if _MARKER.match(line)]
    if len(raw) == len(starts) + 1:  # code before the first marker is a cell of its own
        starts.insert(0, 0)
    if len(raw) != len(starts):
        where = starts[0] if starts else 1
        what = "cells cannot be told apart; a line inside a string or comment begins with '# %%': indent it"
        return Notebook(path, text, (), (Problem(path, where, what),))

    cells, problems = [], []
    seen: dict[str, int] = {}
    for cell, start in zip(raw, starts, strict=True):
        label = _LABEL.search(cell.source)
        name = label[1] if label else cell.metadata.get("title") or cell.metadata.get("name")
        if name and cell.cell_type == "code":
            if not _NAME.fullmatch(name):
                what = f"'{name}' cannot name a cell; use letters, digits, - and _ (a link ends in it)"
                problems.append(Problem(path, start, what))
            elif name in seen:
                what = f"two cells are named '{name}', the other at line {seen[name]}; rename one"
                problems.append(Problem(path, start, what))
            seen[name] = start
        kind: Literal["code", "markdown"] = "code" if cell.cell_type == "code" else "markdown"
        blank = ("",) if kind == "code" else ("", "#", '"""', "'''", 'r"""')
        line = start + 1
        while line < len(lines) and lines[line - 1].strip() in blank:
            line += 1
        tags = tuple(cell.metadata.get("tags", ()))
        cells.append(Cell(kind, name if kind == "code" else None, tags, line, cell.source.strip("\n")))
    return Notebook(path, text, tuple(cells), tuple(problems))
