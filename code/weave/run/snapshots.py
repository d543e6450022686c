"""Snapshots of a notebook's last run, so that the next run can continue from the first cell that changed.

A snapshot is a copy of the kernel process as it was before a cell. Continuing from it must give exactly what a run from
the top gives. So the cell to continue from is the first one that changed, or that had read something that changed; and
where any later cell had an effect on the world outside (it wrote files, started a program or a thread), or the cell
before has left a file open (held.py), the notebook runs from the top.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from weave.run.answers import Answer
from weave.run.facts import TODAY, Fact, digests, settle
from weave.run.inputs import code_of, versions
from weave.run.notebook import Notebook
from weave.run.process import KernelProcess

_NOTEBOOKS = 3  # whose snapshots are kept; copies of a process share the memory that did not change
LONGEST = 64  # cells of a notebook of which snapshots are taken


@dataclass
class Snapshots:
    """A notebook's last run, cell by cell. The run appends to it; the next run takes it over and cuts it."""

    notebook: Notebook
    before: list[KernelProcess] = field(default_factory=list)
    """The process before each cell that ran; if all did, one more, in its state at the end."""
    answers: list[Answer] = field(default_factory=list)
    """Of each cell that ran."""
    seconds: list[float] = field(default_factory=list)
    """That each of these cells took."""
    facts: list[Fact] = field(default_factory=list)
    packages: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that the run imported, as they were at its end."""

    def close(self) -> None:
        for process in self.before:
            process.end()
        self.before.clear()

    def cut(self, cell: int) -> None:
        """Forget this cell and all after it; keep the snapshot before it."""
        for process in self.before[cell + 1 :]:
            process.end()
        del self.before[cell + 1 :], self.answers[cell:], self.seconds[cell:]
        self.facts = [fact for fact in self.facts if fact.cell < cell]

    def first_to_run(self, notebook: Notebook, root: Path) -> int:
        """The number of the first cell, counted from 0, that today's ``notebook`` must run; 0: it runs from the top."""
        if not self.before or versions(digests(self.facts, "packages")) != self.packages:
            return 0
        pairs = enumerate(zip(self.notebook.code, notebook.code, strict=False))
        first = next((i for i, (old, new) in pairs if code_of(old) != code_of(new)), len(notebook.code))
        for fact in self.facts:
            if fact.kind not in TODAY or fact.cell >= first:
                continue
            if TODAY[fact.kind](root, fact.name) != settle(root / fact.name, fact.digest):
                first = fact.cell
        first = min(first, len(self.before) - 1)
        effects_after = any(fact.kind == "effects" and fact.cell >= first for fact in self.facts)
        shared = any(fact.kind == "held" and fact.cell == first - 1 for fact in self.facts)
        return 0 if effects_after or shared else max(first, 0)


class SnapshotCache:
    """The snapshots of the notebooks that ran last, by path; safe to use from several threads.

    The executor takes a notebook's snapshots out when a run of it begins, and puts them back when it ends. The oldest
    are closed when those of a fourth notebook come in; `close` closes all.
    """

    def __init__(self) -> None:
        self._by_path: dict[str, Snapshots] = {}
        self._lock = threading.Lock()

    def take(self, path: str) -> Snapshots | None:
        with self._lock:
            return self._by_path.pop(path, None)

    def put(self, snapshots: Snapshots) -> None:
        with self._lock:
            replaced = self._by_path.pop(snapshots.notebook.path, None)
            self._by_path[snapshots.notebook.path] = snapshots
            oldest = [self._by_path.pop(path) for path in list(self._by_path)[:-_NOTEBOOKS]]
        for old in [replaced, *oldest]:
            if old:
                old.close()

    def close(self) -> None:
        with self._lock:
            everything = list(self._by_path.values())
            self._by_path.clear()
        for snapshots in everything:
            snapshots.close()
