"""A notebook as git stores it: a Python file whose cells begin with ``# %%`` (jupytext's percent format)."""

from __future__ import annotations

import ast
import re
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from jupytext.formats import get_format_implementation
from jupytext.languages import set_main_and_cell_language

from weave.source.problem import Problem

_READER = get_format_implementation(".py", "percent").cell_reader_class
_HEADER = re.compile(r"# ---\s*\n# *jupy")
_MARKER = re.compile(r"\s*#\s*(%%|<codecell>|In\[[0-9 ]*\])")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LABEL = re.compile(r"^#\|\s*label:\s*(\S+)\s*$", re.MULTILINE)
_GRAMMAR = """write it as # %% name tags=["hide-input"]"""


@dataclass(frozen=True)
class Cell:
    kind: Literal["code", "markdown"]
    name: str | None
    """The name that the author gave a code cell; only named cells can be embedded."""
    key: str
    """The cell's id on pages and in downloads: its name, or ``cell-N`` for the Nth code cell, counted from 1.
    Markdown has ``prose-N``, where N is its index among all cells."""
    tags: tuple[str, ...]
    line: int
    """Line of the notebook's file on which ``source`` begins, counted from 1."""
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


@lru_cache(maxsize=256)
def parse(path: str, text: str) -> Notebook:
    """Split a notebook into cells that know their line; what is wrong with it goes into ``problems``."""
    lines = text.removeprefix("\ufeff").removesuffix("\n").split("\n")
    if _HEADER.match("\n".join(lines)):
        what = "begins with a jupytext header; delete it: a notebook begins with its first cell (# %%)"
        return Notebook(path, text, (), (Problem(path, 1, what),))
    cells: list[Cell] = []
    problems: list[Problem] = []
    lines_of_names: dict[str, int] = {}
    start = code_cells = 0
    while start < len(lines):
        marker, start_line = lines[start], start + 1
        # The loop of jupytext.reads, which does not report the lines of cells.
        try:
            cell, used = _READER({"extension": ".py", "format_name": "percent"}, "python").read(lines[start:])
        except Exception:  # anything may come of bad metadata
            what = f"'{marker}' does not begin a cell that jupytext can read; {_GRAMMAR}"
            return Notebook(path, text, (), (*problems, Problem(path, start_line, what)))
        if "incorrectly_encoded_metadata" in cell.metadata:
            problems.append(Problem(path, start_line, f"cannot read what follows '# %%'; {_GRAMMAR}"))
        kind: Literal["code", "markdown"] = "code" if cell.cell_type == "code" else "markdown"
        label = _LABEL.search(cell.source)
        name = label[1] if label else cell.metadata.get("title") or cell.metadata.get("name")
        if name and kind == "code":
            what = ""
            if not _NAME.fullmatch(name):
                what = f"'{name}' cannot name a cell; use letters, digits, - and _, 64 at most (a link ends in it)"
            elif name in lines_of_names:
                what = f"two cells are named '{name}', the other at line {lines_of_names[name]}; rename one"
            lines_of_names[name] = start_line
            if what:
                problems.append(Problem(path, start_line, what))
                name = None
        if kind == "code":
            code_cells += 1
            key = name or f"cell-{code_cells}"
        else:
            name, key = None, f"prose-{len(cells)}"
        blank = ("",) if kind == "code" else ("", "#", '"""', "'''", 'r"""')
        line = start_line + bool(_MARKER.match(marker))
        while line < start + used and lines[line - 1].strip() in blank:
            line += 1
        tags = tuple(cell.metadata.get("tags", ()))
        source = cell.source.strip("\n")
        if kind == "code" and "language" in cell.metadata:  # `# %% language="bash"` is how jupytext writes `%%bash`
            set_main_and_cell_language({"kernelspec": {"language": "python"}}, [cell], ".py", [])
            source, line = cell.source.rstrip("\n"), start_line
        cells.append(Cell(kind, name, key, tags, line, source))
        if kind == "code" and not {"skip-execution", "raises-exception"} & set(tags):
            problems += _syntax(path, cells[-1])
        start += used
    keys_of_unnamed = {cell.key for cell in cells if not cell.name}
    for named in cells:
        if named.name in keys_of_unnamed:
            what = f"'{named.name}' is also the id of a cell that has no name; rename this cell, or name that one"
            problems.append(Problem(path, lines_of_names[named.key], what))
    return Notebook(path, text, tuple(cells), tuple(problems))


def _syntax(path: str, cell: Cell) -> Iterator[Problem]:
    """Find the first error of syntax in a cell, so that it is known before any cell runs."""
    try:
        _compile(cell.source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        try:
            _compile(cell.source, magic=True)
        except (RecursionError, MemoryError):  # it will be told when the cell runs
            pass
        except (SyntaxError, ValueError) as error:
            line = min(getattr(error, "lineno", None) or 1, cell.source.count("\n") + 1)
            named = f"cell '{cell.name}': " if cell.name else ""
            what = f"{named}{type(error).__name__}: {getattr(error, 'msg', error)}; no cell ran; correct the line"
            yield Problem(path, cell.line + line - 1, what, "".join(traceback.format_exception_only(error)))


def _compile(source: str, magic: bool = False) -> None:
    """Compile a cell and throw the result away; with ``magic``, it may have lines that only IPython understands."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are shown when the cell runs
        if magic:
            from IPython.core.inputtransformer2 import TransformerManager  # takes long, and few notebooks need it

            source = TransformerManager().transform_cell(source)
        tree = compile(source, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        for statement in tree.body:  # one by one, as IPython does
            alone = ast.Module([statement], [])
            compile(alone, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
