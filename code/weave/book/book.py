"""What the build, the check and the author's commands work on: notebooks, their results, the pages that cite them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from weave.note import bibliography, code_pages, headings
from weave.note.page import Page
from weave.run.executor import Executor, Hear, Outcome
from weave.run.notebook import Notebook, parse
from weave.run.store import Run, Store
from weave.source import front_matter, names
from weave.source.layout import Layout
from weave.source.names import Names
from weave.source.problem import Problem, nearest, not_utf8, say


@dataclass
class Site:
    layout: Layout
    cell_timeout: int = 300
    modules: tuple[str, ...] = ()
    """What is imported before any notebook runs."""
    serving: bool = False
    """Whether an author is at work: notebooks run on from what changed."""
    hear: Hear = lambda *_: None
    """Told how far each notebook is."""
    later: Callable[[list[Notebook]], None] | None = None
    """Takes the notebooks that have to run, where pages do not wait for them."""
    workers: int | None = None
    pages: dict[str, Page] = field(default_factory=dict)
    """Every page rendered so far, by its source."""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    last_good: dict[str, Run] = field(default_factory=dict)
    unreadable: list[Problem] = field(default_factory=list)
    """Sources that are no text at all."""

    names: Names = field(default_factory=Names)
    """What ``[[name]]`` leads to; read anew for each build."""

    @property
    def glossary(self) -> str:
        return f"{self.layout.docs}/pages/glossary.md"

    def read_terms(self) -> None:
        self.names = names.read(self.layout.root, self.layout.docs, self.glossary)

    bibliography: bibliography.Bibliography = field(default_factory=lambda: bibliography.Bibliography(""))
    """What ``[@key]`` cites; read anew for each build."""

    def read_references(self) -> None:
        path = f"{self.layout.docs}/references.bib"
        file = self.layout.root / path
        data = file.read_bytes() if file.is_file() else b""
        self.bibliography = bibliography.read(path, data.decode("utf-8", errors="replace").replace("\r\n", "\n"))
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            problems = [*self.bibliography.problems, not_utf8(path, data, error)]
            self.bibliography = replace(self.bibliography, problems=problems)

    @cached_property
    def store(self) -> Store:
        return Store(self.layout.root, self.layout.root / ".cache" / "weave" / "runs", say)

    @cached_property
    def executor(self) -> Executor:
        return Executor(
            self.layout.root,
            self.store,
            timeout=self.cell_timeout,
            say=say,
            modules=self.modules,
            hear=lambda *heard: self.hear(*heard),
            keep=self.serving,
        )

    # -- notebooks

    def notebooks(self) -> list[Notebook]:
        """Every notebook as it now is on disk."""
        found = []
        for path in sorted((self.layout.root / self.layout.notebooks).glob("*.py")):
            name = path.relative_to(self.layout.root).as_posix()
            try:
                found.append(parse(name, path.read_text(encoding="utf-8")))
            except UnicodeDecodeError as error:
                found.append(Notebook(name, "", (), (not_utf8(name, path.read_bytes(), error),)))
        return found

    def execute(self, only: Iterable[str] | None = None, force: bool = False) -> None:
        """Bring every notebook's result up to date, running only those whose inputs changed.

        A notebook that failed is run again only when something it read has changed.
        """
        stale = self._stale(only, force)
        if self.later:
            self.later(stale)
        else:
            for outcome in self.executor.run(stale, self.workers, force):
                self.ran(outcome)

    def ran(self, outcome: Outcome) -> None:
        self.outcomes[outcome.notebook.path] = outcome
        if outcome.run:
            self.last_good[outcome.notebook.path] = outcome.run

    def _stale(self, only: Iterable[str] | None, force: bool) -> list[Notebook]:
        """What is known of each notebook as it is today; those that have to run."""
        stale = []
        chosen = None if only is None else set(only)
        notebooks = [one for one in self.notebooks() if chosen is None or one.path in chosen]
        for notebook in notebooks:
            before = self.outcomes.get(notebook.path)
            if notebook.problems:
                self.outcomes[notebook.path] = Outcome(notebook, None, list(notebook.problems))
            elif not force and (run := self.store.fresh(notebook)):
                self.outcomes[notebook.path] = Outcome(notebook, run)
            elif not force and before and before.problems and self._still_fails(before, notebook):
                self.outcomes[notebook.path] = Outcome(notebook, None, before.problems, before.inputs)
            else:
                self.outcomes[notebook.path] = Outcome(notebook, None, running=True)
                stale.append(notebook)
        if chosen is None:
            self.outcomes = {one.path: self.outcomes[one.path] for one in notebooks}
        for path, outcome in self.outcomes.items():
            good = outcome.run or self.last_good.get(path) or self.store.last(outcome.notebook)
            if good:
                self.last_good[path] = good
        return stale

    def _still_fails(self, before: Outcome, notebook: Notebook) -> bool:
        if not before.inputs:  # nobody knows what it depends on: an edit is what makes it run again
            return before.notebook.text == notebook.text
        failed = Run(notebook, [], before.inputs)
        return before.run is None and self.store.why_stale(failed, notebook) is None

    def run_of(self, path: str) -> Run | None:
        """The result to show for a notebook: today's, or the last good one while today's fails."""
        return self.last_good.get(path)

    def notebook_of(self, path: str) -> Notebook:
        """A notebook as it is on disk, or as it was last good while something is wrong with how it is written."""
        today, good = self.outcomes[path].notebook, self.run_of(path)
        return good.notebook if good and today.problems else today

    # -- files

    def unknown_notebook(self, path: str) -> str:
        names = [Path(known).name for known in self.outcomes]
        return f"no notebook {Path(path).name}; {nearest(Path(path).name, names, self.layout.notebooks + '/')}"

    def definitions(self, path: str) -> dict[str, code_pages.Definition]:
        return code_pages.definitions(self.layout.read(path))

    def unshown(self, path: str) -> list[Problem]:
        """Why a module cannot have a page, if it cannot."""
        try:
            self.definitions(path)
        except UnicodeDecodeError as error:
            return [not_utf8(path, (self.layout.root / path).read_bytes(), error)]
        except SyntaxError as error:
            return [Problem(path, error.lineno or 1, f"a page links to it, but {error.msg}; mend it")]
        return []

    # -- what is wrong

    def problems(self) -> list[Problem]:
        """Everything that keeps this site from being published, in the order of files and lines."""
        found = [
            *self.unreadable,
            *self.bibliography.problems,
            *self.names.problems,
            *front_matter.mkdocs_yml(self.layout),
        ]
        for outcome in self.outcomes.values():
            found += outcome.problems
        for page in self.pages.values():
            found += page.problems
            found += self.dangling(page).values()
        return sorted(set(found), key=lambda problem: (problem.path, problem.line, problem.message))

    def dangling(self, page: Page) -> dict[int, Problem]:
        """Links of a page, by their number, to anchors that are not there; to be asked when all pages are known."""
        found = {}
        for number, reference in enumerate(page.references):
            target = self.pages.get(reference.target)
            if target and reference.by_text:
                if headings.find(target, reference.anchor) is None:
                    place = "this page" if target is page else reference.target
                    near = nearest(reference.anchor, target.headings)
                    what = f"no heading '{reference.anchor}' on {place}; {near}"
                    found[number] = Problem(page.path, reference.line, what)
                continue
            if target and reference.anchor not in target.anchors:
                what = f"no anchor '#{reference.anchor}' on {'this page' if target is page else reference.target}"
                if self.layout.is_notebook(reference.target):
                    what = f"{Path(reference.target).name} has no cell or heading '{reference.anchor}'"
                names = nearest(reference.anchor, target.anchors)
                found[number] = Problem(page.path, reference.line, f"{what}; {names}")
        return found
