"""Runs notebooks without looking at what is stored, and holds every claim against what came out."""

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
from weave.run.store import Run, Store
from weave.source.problem import Problem, say

_HEADER = ("claim", "name", "says", "old value", "new value", "allows", "")
_SHOWN = 60


@dataclass(frozen=True)
class Verdict:
    """What came out of it."""

    claims: list[Claim]
    """Every claim on the notebooks that ran, with the values that they have now."""
    old: dict[tuple[str, str], numbers.Value]
    """What was stored before, by notebook and name; empty where nothing was."""
    problems: list[Problem]


def verify(site: Book, notebooks: Sequence[Notebook], render: Callable[[], object], twice: bool) -> Verdict:
    """Run ``notebooks`` anew, aside from the author's results, and render the pages with what they computed.

    Args:
        site: Its outcomes are set here.
        notebooks: Those to run.
        render: Renders all pages of the site, which checks their claims.
        twice: Run a second time, and report the cells that then give something else.
    """
    old = {
        (notebook.path, name): one.value
        for notebook in notebooks
        if (run := site.store.fresh(notebook) or site.store.last(notebook))
        for name, one in run.published.items()
    }
    first = _run(site, notebooks)
    again = _run(site, notebooks) if twice else []
    # What does not run is marked as failing, for which pages are forgiven what they cite.
    left_out = Problem("", 0, "not asked for")
    site.outcomes = {one.path: Outcome(one, None, [left_out]) for one in site.notebooks()}
    site.outcomes.update({one.notebook.path: one for one in first})
    site.last_good = {one.notebook.path: one.run for one in first if one.run}
    site.frozen = True
    render()
    chosen = {one.path for one in notebooks}
    found = [claim for page in site.pages.values() for claim in page.claims if claim.notebook in chosen]
    problems = [one for one in problems_of(site) if one != left_out]
    for one, other in zip(first, again, strict=False):
        problems += other.problems if not one.problems else []
        if one.run and other.run:
            problems += differences(one.run, other.run)
    return Verdict(sorted(found, key=lambda claim: (claim.page, claim.line, claim.name)), old, problems)


def _run(site: Book, notebooks: Sequence[Notebook]) -> list[Outcome]:
    with tempfile.TemporaryDirectory(prefix="weave-verify-") as folder:
        store = Store(site.layout.root, Path(folder), say)
        executor = Executor(site.layout.root, store, timeout=site.cell_timeout, say=say, modules=site.modules)
        readable = [one for one in notebooks if not one.problems]
        ran = {one.notebook.path: one for one in executor.run(readable, site.workers)}
    return [ran.get(one.path) or Outcome(one, None, list(one.problems)) for one in notebooks]


def table(verdict: Verdict) -> str:
    """Every claim with its old and its new value."""
    rows = [_HEADER]
    for one in verdict.claims:
        old = verdict.old.get((one.notebook, one.name))
        rows.append(
            (
                f"{one.page}:{one.line}",
                one.name,
                one.text,
                "–" if old is None else numbers.show(old),
                numbers.show(one.value),
                one.tolerance,
                "holds" if one.holds else "DOES NOT HOLD",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def differences(first: Run, second: Run) -> list[Problem]:
    """The cells of a notebook that gave something else when it ran a second time."""
    found = []
    cells = zip(first.notebook.code, first.outputs, second.outputs, strict=True)
    for number, (cell, one, other) in enumerate(cells, start=1):
        if one != other:
            name = cell.name or f"cell-{number}"
            what = f"cell '{name}' is not deterministic: {_what(one, other)}; leave nothing to chance or time"
            found.append(Problem(first.notebook.path, cell.line, what))
    return found


def _what(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> str:
    published, again = _published(one), _published(other)
    differ = [name for name in {**published, **again} if published.get(name) != again.get(name)]
    if differ:
        return ", ".join(f"{name} is {_value(published, name)}, then {_value(again, name)}" for name in differ)
    for a, b in zip(_lines(one), _lines(other), strict=False):
        if a != b:
            return f"it shows '{_short(a)}', then '{_short(b)}'"
    return "its figure or table differs"


def _published(given: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: value for out in given for name, value in out.get("data", {}).get(CLAIM_MIME, {}).items()}


def _value(published: dict[str, Any], name: str) -> str:
    value = published.get(name)
    return "not published" if value is None else " of ".join(map(repr, value if isinstance(value, list) else [value]))


def _lines(given: list[dict[str, Any]]) -> list[str]:
    texts = [out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in outputs.visible(given)]
    return "\n".join(texts).splitlines()


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
