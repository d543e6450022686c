"""The labs of a note, exercises in code with checks that a reader does not see; and what can be wrong with both.

A lab is a snippet (`snippets.py`). In ``code/labs/<note>.py``, the function of the lab's name checks the answer:

    MODELS = ["induction"]              # weights for setup, which is called with a dict of numpy arrays for each

    def setup(induction):               # optional: names that the labs find, beside those of the note's snippets
        return {"W_E": induction["W_E"]}

    def most_similar(token, W_E):       # the lab most-similar; the parameters are names that it binds, or finds
        assert token != 0, "every vector is most similar to itself: leave the token itself out"

`session.py` runs an answer and its check, in the reader's browser and here, where every solution has to pass.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from weave.note import snippets
from weave.note.snippets import Snippet
from weave.run.facts import file_digest
from weave.source.layout import Layout
from weave.source.problem import Problem, nearest

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Checks:
    """A file of checks as it is written, not run."""

    path: str
    text: str = ""
    lines: dict[str, int] = field(default_factory=dict)
    """The line of each check, by the name of its lab."""
    models: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def checks(layout: Layout, page: str, packages: Sequence[str]) -> Checks:
    """Read the checks of a page's labs; a page without a file of checks has none."""
    path = layout.checks_of(page)
    return _checks(layout, path, layout.read(path), tuple(packages)) if (layout.root / path).is_file() else Checks(path)


def _checks(layout: Layout, path: str, text: str, packages: Sequence[str]) -> Checks:
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        return Checks(path, text, problems=(Problem(path, error.lineno or 1, f"not Python: {error.msg}"),))
    wrong, models, lines = [], [], {}
    foreign = snippets.names(text)[0] - {*packages, *sys.stdlib_module_names}
    if packages and foreign:
        wrong.append(Problem(path, 1, f"imports {', '.join(sorted(foreign))}, which a browser does not have"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.name != "setup":
            lines[node.name.replace("_", "-")] = node.lineno
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODELS":
            try:
                models = [str(model) for model in ast.literal_eval(node.value)]
            except (ValueError, TypeError):
                wrong.append(Problem(path, node.lineno, 'MODELS is a list of names, as in ["induction"]'))
            folder = layout.root / layout.models
            known = [file.stem for file in folder.glob("*.safetensors")]
            for model in models:
                if model not in known:
                    near = nearest(model, known, layout.models)
                    wrong.append(Problem(path, node.lineno, f"no model '{model}'; {near}"))
    return Checks(path, text, lines, tuple(models), tuple(wrong))


def answers(
    folder: Path,
    layout: Layout,
    page: str,
    shown: Sequence[Snippet],
    given: Sequence[tuple[str, str]],
    packages: Sequence[str],
) -> list[dict[str, Any]]:
    """Run answers to a page's labs, each after the live snippets above its lab, in a process of their own.

    Args:
        folder: Where the results stay, as in `snippets.answers`.
        layout: Where the files are.
        page: The note.
        shown: Its snippets.
        given: The name of a lab that it has, and an answer; as often as wanted.
        packages: As in `snippets.find`.

    Returns:
        What `session.Session.lab` says of each; nothing if Python did not survive.
    """
    about = checks(layout, page, packages)
    file, models = str(layout.root / about.path), str(layout.root / layout.models)
    order = {snippet.lab: snippet.number for snippet in shown if snippet.lab}
    asked = [(snippet.number, -1, snippets.request(snippet)) for snippet in shown if snippet.live and not snippet.apart]
    for i, (lab, code) in enumerate(given):
        request = {"code": code, "name": f"lab {lab}", "lab": lab, "checks": file, "models": models}
        asked.append((order[lab], i, request))
    asked.sort(key=lambda one: one[:2])
    weights = [file_digest(Path(models, f"{model}.safetensors")) or "" for model in about.models]
    results = snippets.answers(
        folder, [one[2] for one in asked], packages, about.text.encode(), *(one.encode() for one in weights)
    )
    by_index = {i: result for (_, i, _), result in zip(asked, results, strict=False) if i >= 0}
    return [by_index[i] for i in range(len(given))] if len(results) == len(asked) else []


def problems(layout: Layout, page: str, text: str, packages: Sequence[str]) -> list[Problem]:
    """Return what is wrong with the labs of a page: a part that is missing, and a solution that does not pass."""
    if not re.search(r"^[> \t]*# *(lab|solution):", text, re.MULTILINE):
        return []
    shown = snippets.find(text, packages)
    about = checks(layout, page, packages)
    posed = {snippet.lab: snippet for snippet in shown if snippet.lab}
    solved = {snippet.solves: snippet for snippet in shown if snippet.solves}
    wrong: list[Problem] = list(about.problems)

    def report(snippet: Snippet, what: str, detail: str = "") -> None:
        wrong.append(Problem(page, snippet.line - 1, what, detail))  # where its mark is

    for snippet in shown:
        name = snippet.lab or snippet.solves
        if name and not _NAME.fullmatch(name):
            report(snippet, f"'{name}' is no name of a lab; use lower-case words with hyphens, as in sum-of-terms")
        elif name and snippet not in (posed.get(name), solved.get(name)):
            report(snippet, f"a second {'lab' if snippet.lab else 'solution'} named '{name}'; rename one")
        elif snippet.solves and name not in posed:
            report(snippet, f"the solution of no lab; {nearest(name, posed, 'this page')}")
        elif snippet.lab and name not in solved:
            report(snippet, f"lab '{name}' has no solution; add a block that begins with '# solution: {name}'")
        elif snippet.lab and name not in about.lines and not about.problems:
            near = nearest(name, about.lines)
            report(snippet, f"lab '{name}' has no check in {about.path}; {near}")
        elif snippet.lab and packages and not snippet.live:
            report(snippet, f"lab '{name}' cannot run in the browser: it is not Python, or imports what is not there")
    return wrong or _unsolved(layout, page, text, about.text, tuple(packages))


@lru_cache(maxsize=128)
def _unsolved(layout: Layout, page: str, text: str, source: str, packages: tuple[str, ...]) -> list[Problem]:
    shown = snippets.find(text, packages)
    solutions = [snippet for snippet in shown if snippet.solves]
    if not solutions:  # the marks are in a fence of something else
        return []
    folder = layout.root / ".cache/weave/labs" / Path(page).with_suffix("")
    results = answers(folder, layout, page, shown, [(one.solves, one.code) for one in solutions], packages)
    if not results:
        return [Problem(page, solutions[0].line, "Python ended, or took over a minute, while the solutions ran")]
    wrong = []
    for solution, result in zip(solutions, results, strict=True):
        if not result["passed"]:
            why = result["verdict"] or result["error"].strip().rpartition("\n")[2]
            what = f"the solution of lab '{solution.solves}' does not pass its check: {why}"
            wrong.append(Problem(page, solution.line, what, result["error"]))
    return wrong


def unused(layout: Layout, pages: Sequence[str], packages: Sequence[str]) -> list[Problem]:
    """Return the checks whose lab is on none of the pages."""
    posed: dict[str, set[str]] = {}
    for page in pages:
        path = layout.checks_of(page)
        if (layout.root / path).is_file():
            posed.setdefault(path, set()).update(snippet.lab for snippet in snippets.find(layout.read(page)))
    wrong = []
    for file in sorted((layout.root / layout.labs).glob("*.py")):
        path = file.relative_to(layout.root).as_posix()
        if path not in posed:
            wrong.append(Problem(path, 1, "no note has this file's name; rename it, or delete it"))
            continue
        for lab, line in _checks(layout, path, layout.read(path), tuple(packages)).lines.items():
            if lab not in posed[path]:
                near = nearest(lab, posed[path] - {""}, "the note")
                what = f"a check of no lab; {near}; the name of a function that checks nothing begins with _"
                wrong.append(Problem(path, line, what))
    return wrong
