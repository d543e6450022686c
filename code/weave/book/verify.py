"""Runs notebooks without trusting stored results, and compares every claim with what they compute now."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weave.book.book import Book
from weave.book.problems import problems as problems_of
from weave.note import numbers, outputs
from weave.note.page import Claim
from weave.run.claim import CLAIM_MIME
from weave.run.executor import Executor, Outcome
from weave.run.notebook import Notebook
from weave.run.store import Result, Store
from weave.source.problem import Problem, say

_HEADER = ("claim", "name", "says", "old value", "new value", "allows", "")
_LONGEST = 60  # characters of a line that a message quotes


@dataclass(frozen=True)
class Verdict:
    claims: list[Claim]
    """Every claim on the notebooks that ran, with its value of now."""
    old: dict[tuple[str, str], numbers.Value]
    """The stored values, by notebook and name."""
    problems: list[Problem]


def verify(site: Book, notebooks: Sequence[Notebook], render: Callable[[], object], twice: bool) -> Verdict:
    """Run ``notebooks`` again, apart from the author's stored results, and render the pages with what they computed.

    Args:
        site: Its outcomes are replaced by those of this run.
        notebooks: The notebooks to run; claims on others are not checked.
        render: Renders all pages of the site, which checks their claims.
        twice: Run a second time, and report the cells that give something else then.
    """
    old = {
        (notebook.path, name): published.value
        for notebook in notebooks
        if (result := site.store.fresh(notebook) or site.store.last(notebook))
        for name, published in result.published.items()
    }
    first = _run(site, notebooks)
    second = _run(site, notebooks) if twice else []
    site.outcomes = {notebook.path: Outcome(notebook, None, skipped=True) for notebook in site.notebooks()}
    site.outcomes.update({outcome.notebook.path: outcome for outcome in first})
    site.last_good = {outcome.notebook.path: outcome.run for outcome in first if outcome.run}
    site.frozen = True
    render()
    chosen = {notebook.path for notebook in notebooks}
    claims = [claim for page in site.pages.values() for claim in page.claims if claim.notebook in chosen]
    problems = problems_of(site)
    for before, after in zip(first, second, strict=False):
        problems += after.problems if not before.problems else []
        if before.run and after.run:
            problems += differences(before.run, after.run)
    return Verdict(sorted(claims, key=lambda claim: (claim.page, claim.line, claim.name)), old, problems)


def _run(site: Book, notebooks: Sequence[Notebook]) -> list[Outcome]:
    with tempfile.TemporaryDirectory(prefix="weave-verify-") as folder:
        store = Store(site.layout.root, Path(folder), say)
        executor = Executor(site.layout.root, store, timeout=site.cell_timeout, say=say, modules=site.modules)
        readable = [notebook for notebook in notebooks if not notebook.problems]
        ran = {outcome.notebook.path: outcome for outcome in executor.run(readable, site.workers)}
    return [ran.get(notebook.path) or Outcome(notebook, None, list(notebook.problems)) for notebook in notebooks]


def table(verdict: Verdict) -> str:
    """Every claim with its old and its new value, as lines of text."""
    rows = [_HEADER]
    for claim in verdict.claims:
        old = verdict.old.get((claim.notebook, claim.name))
        rows.append(
            (
                f"{claim.page}:{claim.line}",
                claim.name,
                claim.text,
                "–" if old is None else numbers.show(old),
                numbers.show(claim.value),
                claim.tolerance,
                "holds" if claim.holds else "DOES NOT HOLD",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def differences(first: Result, second: Result) -> list[Problem]:
    """A problem for each cell of a notebook that gave something else when it ran a second time."""
    cells = zip(first.notebook.code, first.outputs, second.outputs, strict=True)
    return [
        Problem(
            first.notebook.path,
            cell.line,
            f"cell '{cell.key}' is not deterministic: {_difference(before, after)}; leave nothing to chance or time",
        )
        for cell, before, after in cells
        if before != after
    ]


Outputs = list[dict[str, Any]]
"""Of one cell, in nbformat's shape."""


def _difference(before: Outputs, after: Outputs) -> str:
    old, new = _published(before), _published(after)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if names:
        return ", ".join(f"{name} is {_value(old, name)}, then {_value(new, name)}" for name in names)
    for old_line, new_line in zip(_lines(before), _lines(after), strict=False):
        if old_line != new_line:
            return f"it shows '{_shortened(old_line)}', then '{_shortened(new_line)}'"
    return "its figure or table differs"


def _published(given: Outputs) -> dict[str, Any]:
    return {name: value for output in given for name, value in output.get("data", {}).get(CLAIM_MIME, {}).items()}


def _value(published: dict[str, Any], name: str) -> str:
    value = published.get(name)
    return "not published" if value is None else " of ".join(map(repr, value if isinstance(value, list) else [value]))


def _lines(given: Outputs) -> list[str]:
    texts = [
        output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs.visible(given)
    ]
    return "\n".join(texts).splitlines()


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
