"""While an author is at work: Markdown is rendered again only when something that it may show has changed.

What a page may show: its own text, the notebooks and Python files that it names, what names and citations lead to, and
which files there are. What is made from finished pages (who mentions whom, open questions) is made anew each time.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from weave.book.book import Site
from weave.run import recorder
from weave.run.store import digest


def _stem(path: str) -> str:
    return PurePosixPath(path).stem


class Rendered:
    def __init__(self) -> None:
        self.known: dict[str, tuple[str, Any]] = {}
        self.site: Site | None = None

    def begin(self, site: Site, uris: Iterable[str]) -> None:
        """A build begins; these are its files, as paths under docs/."""
        self.site = site
        self.states: dict[str, str] = {}
        self.sources: dict[str, list[str]] = {}
        for path in site.layout.source_files():
            self.sources.setdefault(PurePosixPath(path).stem, []).append(path)
        files = "\0".join(sorted(uris))
        self.common = digest(files.encode(), repr(site.names).encode(), repr(site.bibliography).encode())

    def key(self, text: str) -> str:
        """Changes with all that a Markdown text may show."""
        assert self.site
        plain = unquote(text)
        stems = {*self.sources, *map(_stem, self.site.outcomes)}
        named = sorted(stem for stem in stems if f"{stem}.py" in plain or f"{stem}.ipynb" in plain)
        if "\n::: " in text:  # the reference: every module
            named = sorted(self.sources)
        states = [self._state(name) for name in named]
        return digest(text.encode(), self.common.encode(), *(state.encode() for state in states))

    def _state(self, stem: str) -> str:
        assert self.site
        if stem not in self.states:
            layout = self.site.layout
            parts = [recorder.digest(layout.root / path) or "" for path in self.sources.get(stem, ())]
            path = f"{layout.notebooks}/{stem}.py"
            if outcome := self.site.outcomes.get(path):
                run = self.site.run_of(path)
                parts += [outcome.notebook.text, str(outcome.running), str(outcome.run is None)]
                parts += [f"{one}{one.detail}" for one in outcome.problems]
                parts += [run.notebook.text, run.digest] if run else []
            self.states[stem] = digest(*(part.encode() for part in parts))
        return self.states[stem]

    def get(self, uri: str, key: str) -> Any:
        """What was put for this page under the same key; None where nothing was."""
        known = self.known.get(uri)
        return known[1] if known and known[0] == key else None

    def put(self, uri: str, key: str, value: Any) -> None:
        self.known[uri] = key, value
