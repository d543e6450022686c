"""All notes, notebooks and results of a repository, and everything that is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from os.path import isfile
from pathlib import Path

from weave.note import code_pages
from weave.note.bibliography import Bibliography, Work, read
from weave.note.page import Page
from weave.run import facts
from weave.run.executor import Executor, OnOutput, Outcome
from weave.run.notebook import Notebook, parse
from weave.run.store import Result, Store
from weave.source import names
from weave.source.files import digest
from weave.source.layout import Layout
from weave.source.names import Names
from weave.source.problem import Problem, nearest, not_utf8, say
from weave.source.terms import Term


@dataclass
class Book:
    layout: Layout
    cell_timeout: int = 300
    """Seconds that one cell may take."""
    modules: tuple[str, ...] = ()
    """Modules imported before any notebook runs."""
    packages: tuple[str, ...] = ()
    """Packages that snippets can import in the reader's browser; without any, no snippet runs there."""
    serving: bool = False
    """Whether an author is at work: a notebook runs on from its first changed cell."""
    on_output: OnOutput = lambda *_: None
    """Called with each notebook's progress."""
    defer: Callable[[list[Notebook]], None] | None = None
    """Takes the stale notebooks instead of running them at once, so that pages need not wait."""
    workers: int | None = None
    frozen: bool = False
    """Whether `execute` leaves all outcomes as they are, because a command has set them (``weave verify``)."""

    pages: dict[str, Page] = field(default_factory=dict)
    """Every page rendered so far, by source. Pages are added when they begin to be rendered; a build starts empty."""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """How each notebook ended, by path. Set by `execute`; read by pages and by `problems`."""
    last_good: dict[str, Result] = field(default_factory=dict)
    """The result to show for each notebook; stays while the notebook fails."""
    unreadable_pages: list[Problem] = field(default_factory=list)
    """Sources that are not UTF-8. Set by each build."""
    warnings: list[Problem] = field(default_factory=list)
    """What MkDocs and other plugins warned of, for which a strict build fails. Set by site.build.checked."""
    drafts: set[str] = field(default_factory=set)
    """Unpublished notes and their notebooks. Set by each build that leaves them out."""
    names: Names = field(default_factory=Names)
    """The names that ``[[name]]`` can mean. Set by `read_sources`."""
    bibliography: Bibliography = field(default_factory=lambda: Bibliography(""))
    """The works that ``[@key]`` can cite. Set by `read_sources`."""
    addresses: str = ""
    """A digest of all pages' addresses; links between pages depend on it. Set by the site's plugin in each build."""

    def configure(self, other: Book) -> None:
        """Take over the settings of another book; results stay."""
        if (self.cell_timeout, self.modules) != (other.cell_timeout, other.modules):
            self.executor.close()
            del self.executor
        self.layout, self.cell_timeout, self.modules = other.layout, other.cell_timeout, other.modules
        self.packages = other.packages

    def read_sources(self) -> None:
        """Read names and bibliography anew, as each build does."""
        self.names = names.read(self.layout.root, self.layout.docs, self.layout.glossary)
        path = f"{self.layout.docs}/references.bib"
        file = self.layout.root / path
        data = file.read_bytes() if file.is_file() else b""
        self.bibliography = read(path, data.decode("utf-8", errors="replace").replace("\r\n", "\n"))
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            self.bibliography = replace(
                self.bibliography, problems=[*self.bibliography.problems, not_utf8(path, data, error)]
            )

    # -- notebooks

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
            on_output=lambda *progress: self.on_output(*progress),
            resume=self.serving,
        )

    def notebooks(self) -> list[Notebook]:
        """Return every notebook as it is on disk."""
        notebooks = []
        for file in sorted((self.layout.root / self.layout.notebooks).glob("*.py")):
            path = file.relative_to(self.layout.root).as_posix()
            try:
                notebooks.append(parse(path, file.read_text(encoding="utf-8")))
            except UnicodeDecodeError as error:
                notebooks.append(Notebook(path, "", (), (not_utf8(path, file.read_bytes(), error),)))
        return notebooks

    def execute(self, only: Iterable[str] | None = None, force: bool = False) -> None:
        """Bring every notebook's result up to date by running those whose inputs changed.

        A notebook that failed runs again only when something that it read has changed.
        """
        if self.frozen:
            return
        stale = self._stale(only, force)
        if self.defer:
            self.defer(stale)
        else:
            if len(stale) > 1:
                say(f"{len(stale)} notebooks are stale; they run first")
            for outcome in self.executor.run(stale, self.workers, force):
                self.record(outcome)

    def record(self, outcome: Outcome) -> None:
        """Record the outcome of a run."""
        self.outcomes[outcome.notebook.path] = outcome
        if outcome.run:
            self.last_good[outcome.notebook.path] = outcome.run

    def _stale(self, only: Iterable[str] | None, force: bool) -> list[Notebook]:
        """Set each notebook's outcome as far as it is known without running it; return those that have to run."""
        stale = []
        chosen = None if only is None else set(only)
        notebooks = [notebook for notebook in self.notebooks() if chosen is None or notebook.path in chosen]
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
            self.outcomes = {notebook.path: self.outcomes[notebook.path] for notebook in notebooks}
        for path, outcome in self.outcomes.items():
            good = outcome.run or self.last_good.get(path) or self.store.last(outcome.notebook)
            if good:
                self.last_good[path] = good
        return stale

    def _still_fails(self, before: Outcome, notebook: Notebook) -> bool:
        if not before.inputs:  # its inputs are unknown: only an edit makes it run again
            return before.notebook.text == notebook.text
        return before.run is None and not any(self.store.changes(before, notebook))

    # -- answers to pages (note.page.BookForPage says what each is)

    def outcome(self, path: str) -> Outcome | None:
        return self.outcomes.get(path)

    def result(self, path: str) -> Result | None:
        return self.last_good.get(path)

    def notebook(self, path: str) -> Notebook:
        today, good = self.outcomes[path].notebook, self.result(path)
        return good.notebook if good and today.problems else today

    def unknown_notebook(self, path: str) -> str:
        known = [Path(path).name for path in self.outcomes]
        return f"no notebook {Path(path).name}; {nearest(Path(path).name, known, self.layout.notebooks + '/')}"

    def definitions(self, path: str) -> dict[str, code_pages.Definition]:
        return code_pages.definitions(self.layout.read(path))

    def unreadable(self, path: str) -> list[Problem]:
        try:
            self.definitions(path)
        except UnicodeDecodeError as error:
            return [not_utf8(path, (self.layout.root / path).read_bytes(), error)]
        except SyntaxError as error:
            return [Problem(path, error.lineno or 1, f"a page links to it, but {error.msg}; correct it")]
        return []

    def unknown_source(self, path: str) -> str:
        known = [Path(source).name for source in self.layout.source_files()]
        return f"no file {path}; {nearest(Path(path).name, known, 'the site')}"

    def term(self, name: str, heading: bool) -> Term | None:
        return self.names.find(name, heading)

    def unknown_term(self, name: str, heading: bool) -> str:
        what = "page" if heading else "page and no entry of the glossary"
        known = nearest(name, self.names.pages if heading else self.names.known, "the site")
        return f"no {what} is called '{name}'; {known}"

    def is_file(self, path: str) -> bool:
        return isfile(self.layout.root / path)

    def unknown_file(self, path: str) -> str:
        folder = (self.layout.root / path).parent
        known = [file.name for file in folder.iterdir() if file.name[0] != "."] if folder.is_dir() else []
        return f"no file {path}; {nearest(Path(path).name, known, 'its folder')}"

    def work(self, key: str) -> Work | Problem | None:
        return self.bibliography.broken.get(key) or self.bibliography.works.get(key)

    def unknown_work(self, key: str) -> str:
        return f"no work '{key}' in {self.bibliography.path}; {nearest(key, self.bibliography.works)}"

    def modules_digest(self) -> str:
        digests = (facts.file_digest(self.layout.root / path) or "" for path in self.layout.source_files())
        return digest(*(one.encode() for one in digests))

    def page_addresses(self) -> str:
        return self.addresses
