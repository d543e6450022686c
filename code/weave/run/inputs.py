"""The inputs of a notebook's result, and which of them have changed since.

A result belongs to today's inputs as long as `changes` finds nothing. They are one JSON object:

    code                     digest of the code cells and of the tags that affect how they run
    python, machine, weave   what every notebook on this machine depends on
    files                    digests of the files that the notebook read or imported
    meanings                 of the modules among them that were imported only: digests of what they do
    listings, stats, …       the other kinds of `facts.py`
    packages                 versions of the distributions that it imported
    unfollowed               what it did that cannot be followed, each with its line
"""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from weave.run.facts import TODAY, Fact, digests, file_digest, owners, settle, version_of
from weave.run.notebook import Cell, Notebook

_MACHINERY = (
    "../__init__.py", "answers.py", "claim.py", "environment.py", "facts.py", "held.py", "imports.py", "kernel.py",
    "noticed.py", "outputs.py", "places.py", "reads.py", "record.py", "recorder.py", "recording.py", "snapshots.py",
    "weave.matplotlibrc",
)  # fmt: skip
"""The files that decide what a run gives out and records: a change in one of them makes every stored result stale. The
others start processes, store results and report progress; they see outputs but do not make them."""
_GENERATION = 1
"""Raise it when a bug elsewhere in this room has produced wrong results: it makes all of them stale, too."""


class Executed(Protocol):
    """A run that succeeded or failed: the notebook as it was, and the inputs that the run recorded."""

    @property
    def notebook(self) -> Notebook: ...
    @property
    def inputs(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Reason:
    """A reason why a result is stale."""

    line: int
    """Line of the notebook that it concerns, counted from 1; 1 if it concerns all of it."""
    what: str
    """What happened, without an end of sentence: ``code/lab.py changed``."""
    unfollowed: bool = False
    """Nothing changed as far as is known, but the notebook reads what cannot be followed."""


def inputs_of(root: Path, notebook: Notebook, facts: list[Fact]) -> dict[str, Any]:
    """Return the inputs of a run of ``notebook`` that recorded ``facts``."""
    opened = {name: settle(root / name, digest) for name, digest in digests(facts, "files").items()}
    imported = digests(facts, "modules")
    modules = {name: digest for name, digest in imported.items() if name not in opened}
    others = {kind: found for kind in TODAY if kind not in ("files", "modules") and (found := digests(facts, kind))}
    declared = {max(fact.cell, 0) for fact in facts if fact.kind == "declared"}
    unfollowed = [
        [_line(notebook, fact), fact.name]
        for fact in facts
        if fact.kind == "unfollowed" and max(fact.cell, 0) not in declared
    ]
    cells = [cell.source for cell in notebook.code]
    texts = [*cells, *(_text(root / name) for name in imported)]
    by_text = any(map(_DOCSTRINGS_READ.search, texts)) or any(map(_HELP.search, cells))
    return {
        "code": code_digest(notebook),
        **platform_inputs(),
        "files": {**imported, **opened},
        "meanings": {} if by_text else {name: _meaning(root / name, digest) for name, digest in modules.items()},
        "listings": {},
        **others,
        "packages": versions(digests(facts, "packages")),
        "unfollowed": unfollowed,
    }


def _line(notebook: Notebook, fact: Fact) -> int:
    code = notebook.code
    return code[max(fact.cell, 0)].line + max(fact.line - 1, 0) if fact.cell < len(code) else 1


def changes(root: Path, earlier: Executed, notebook: Notebook) -> Iterator[Reason]:
    """Find, one at a time, the differences between the inputs of an earlier run and today's inputs of ``notebook``."""
    inputs = earlier.inputs
    if inputs["code"] != code_digest(notebook):
        yield _first_difference(earlier.notebook.code, notebook.code)
    now = platform_inputs()
    words = {"python": "Python", "machine": "the machine"}
    for name in now:
        if inputs.get(name) != now[name]:
            what = f"{words[name]} changed from {inputs.get(name)} to {now[name]}" if name in words else ""
            yield Reason(1, what or "the code that executes notebooks changed")
    meanings = inputs.get("meanings", {})
    for name, before in inputs["files"].items():
        today = file_digest(root / name)
        if today != before and not (meanings.get(name) and _meaning(root / name, today) == meanings[name]):
            yield Reason(1, f"{name} {'appeared' if before is None else 'vanished' if today is None else 'changed'}")
    for kind, what in _CHANGED.items():
        for name, before in inputs.get(kind, {}).items():
            if TODAY[kind](root, name) != before:
                yield Reason(1, what.format(name=name, path=name.partition(" ")[2]))
    for name, before in inputs["packages"].items():
        if version_of(name) != before:
            yield Reason(1, f"{name} changed from {before} to {version_of(name)}")


def unfollowed(earlier: Executed) -> list[Reason]:
    """Say what an earlier run did that cannot be followed, so that its result is not used again."""
    return [
        Reason(line, f'{what}, which is not followed; declare in this cell what it reads: reads("path")', True)
        for line, what in earlier.inputs.get("unfollowed", ())
    ]


_CHANGED = {
    "listings": "a file appeared in {name}/ or vanished from it",
    "entries": "a file in {name}/ changed, appeared or vanished",
    "stats": "{path} is not as it was (size, date or kind)",
    "links": "{name} leads elsewhere",
    "imports": "another file is imported as {name}",
    "shadows": "a module in {name}/ has the name of one of Python's own",
    "missing": "{name} can be imported now",
    "distributions": "the version of {name} changed",
    "metadata": "the distributions in {name}/ changed",
    "environment": "the variable {name} changed",
}
"""What to say of each kind of input, but files and packages."""
_DOCSTRINGS_READ = re.compile(
    r"__doc__|__code__|\bgetdoc\b|\bhelp\(|^\s*(import|from)\s[^#\n]*\b(pydoc|doctest|click|typer|fire|docopt)\b",
    re.MULTILINE,
)
"""Signs of code that reads the docstrings of functions: then the text of modules counts, not only what they do."""
_HELP = re.compile(r"^[^#\n]*\?[ \t]*$|^[ \t]*\?|\bp(info2?|doc|source|file|def)\b", re.MULTILINE)
"""The same in IPython's own syntax."""


# -- code


def code_digest(notebook: Notebook) -> str:
    """Digest of a notebook's code and of how it runs; the prose between the cells does not count."""
    return hashlib.sha256(json.dumps([code_of(cell) for cell in notebook.code]).encode()).hexdigest()


def code_of(cell: Cell) -> tuple[str, list[str]]:
    """The parts of a cell that affect its outputs: its source, and the tags that change how it runs."""
    return cell.source, sorted({"skip-execution", "raises-exception"} & set(cell.tags))


def _first_difference(old: list[Cell], new: list[Cell]) -> Reason:
    """Describe the first cell in which two versions of a notebook's code differ, at its line in the new version."""
    before, after = [code_of(cell) for cell in old], [code_of(cell) for cell in new]
    pairs = enumerate(zip(before, after, strict=False))
    same = next((i for i, (a, b) in pairs if a != b), min(len(old), len(new)))
    if same == len(old) == len(new):
        return Reason(1, "its code changed")
    rest_old, rest_new = before[same:], after[same:]
    last = new[same - 1].line if same else 1
    if not rest_new or rest_new[0] in rest_old[1:]:
        return Reason(new[same].line if rest_new else last, f"cell '{old[same].key}' is gone")
    if not rest_old or rest_old[0] in rest_new[1:]:
        return Reason(new[same].line, f"cell '{new[same].key}' is new")
    return Reason(new[same].line, f"the code of cell '{new[same].key}' changed")


# -- the platform


@cache
def platform_inputs() -> dict[str, str]:
    """The inputs of every notebook: Python, the kind of machine, and the code that executes notebooks."""
    here = Path(__file__).parent
    parts = [str(_GENERATION), *(meaning(here / name) for name in _MACHINERY)]
    machinery = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    machine = f"{platform.system()} {platform.machine()}"
    return {"python": platform.python_version(), "machine": machine, "weave": machinery}


_parsing = threading.Lock()  # Python 3.11 counts the depth of the trees of all threads together, and may fail


def meaning(file: Path) -> str:
    """Return a text that changes with what a file does: of Python, the syntax without comments and docstrings."""
    data = file.read_bytes()
    return _syntax(data) if file.suffix == ".py" else data.decode()


def _syntax(data: bytes) -> str:
    with _parsing:
        tree = ast.parse(data)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_docstring(part)]
    return ast.dump(tree)


# Digests of what modules do, by the digest of their bytes: a site's notebooks import the same modules.
_meanings: dict[str, str] = {}


def _meaning(path: Path, digest: str | None) -> str | None:
    """Digest of what a module does whose bytes have this digest; None if they have another, or are not Python."""
    if digest is None:
        return None
    if digest not in _meanings:
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != digest:
                return None
            _meanings[digest] = hashlib.sha256(_syntax(data).encode("utf-8", "surrogatepass")).hexdigest()
        except (OSError, SyntaxError, ValueError, RecursionError):
            return None
    return _meanings[digest]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


# -- packages


def versions(modules: Mapping[str, object]) -> dict[str, str]:
    """Versions of the distributions that top-level modules belong to, by the distribution's name."""
    known = owners()
    names = {owner for module in modules for owner in known.get(module, ())}
    return {name: version_of(name) for name in sorted(names)}
