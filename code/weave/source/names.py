"""The names that ``[[…]]`` can lead to: every page by its file, title and aliases, and the entries of the glossary.

As in Obsidian, ``aliases`` in a page's front matter are further names of it. Case and hyphens do not matter. If several
things share a name, it means the first of: the file of exactly that name; the entry of the glossary; the page; and then
the same again without a plural s.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weave.source import terms
from weave.source.front_matter import split
from weave.source.markdown import tokens
from weave.source.problem import Problem
from weave.source.terms import Term, key, spelt


@dataclass
class Names:
    entries: dict[str, Term] = field(default_factory=dict)
    """The glossary by each name of an entry."""
    pages: dict[str, Term] = field(default_factory=dict)
    """The pages by each title, alias and slug."""
    files: dict[str, Term] = field(default_factory=dict)
    """The pages by their file's name and by their path under docs/, both without ``.md``."""
    problems: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        steps = [(spelt, self.entries), (spelt, self.pages), (key, self.entries), (key, self.pages)]
        self._steps = [(form, {form(name): term for name, term in reversed(known.items())}) for form, known in steps]

    def find(self, name: str, heading: bool = False) -> Term | None:
        """Return what a name means; only a page if a heading of it is meant."""
        if page := self.files.get(name.removesuffix(".md")):
            return page
        for form, known in self._steps:
            term = known.get(form(name))
            if term and not (heading and term.anchor):
                return term
        return None

    @property
    def known(self) -> list[str]:
        return [*self.entries, *self.pages]


def source_pages(root: Path, docs: str) -> list[str]:
    """Return the Markdown files of the docs folder, relative to the root, without hidden ones (Obsidian's own)."""
    paths = (path.relative_to(root) for path in sorted((root / docs).rglob("*.md")) if path.is_file())
    return [path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)]


def names_of(path: str, text: str) -> tuple[list[str], dict[str, Any], str]:
    """Return a page's names, best first; its front matter; and the problem of its aliases."""
    _, front = split(text)
    headings = (token for token in tokens(text, "heading") if token.column == 1 and token.level == 1)
    heading = next((token["text"] for token in headings if token["text"]), None)
    aliases, problem = front.get("aliases") or [], ""
    if isinstance(aliases, str):
        aliases = [aliases]
    if not isinstance(aliases, list) or not all(isinstance(alias, str | int | float) for alias in aliases):
        aliases, problem = [], "aliases is not a list of names; write aliases: [one name, another name]"
    stem = Path(path).stem
    names = [front.get("title"), heading, *aliases, front.get("slug"), stem if stem != "index" else ""]
    return list(dict.fromkeys(str(name) for name in names if name)), front, problem


def read(root: Path, docs: str, glossary_path: str) -> Names:
    """Read all names of the site, and the problems with them: two pages of one name."""
    entries: dict[str, Term] = {}
    pages: dict[str, Term] = {}
    files: dict[str, Term] = {}
    problems: list[Problem] = []
    by_spelling: dict[str, str] = {}
    for path in source_pages(root, docs):
        text = (root / path).read_text(encoding="utf-8", errors="replace")
        names, front, problem = names_of(path, text)
        term = Term(path, "", terms.plain(str(front.get("description", ""))))
        within = path.removeprefix(f"{docs}/").removesuffix(".md")
        files[within] = term
        if problem:
            problems.append(Problem(path, _line(text, "aliases"), problem))
        for name in names:
            if name == Path(path).stem:  # whose _ parts words, and marks nothing
                files[name], name = term, name.replace("_", "-")
            if (other := by_spelling.setdefault(spelt(name), path)) != path:
                what = f"'{name}' is what {other} is called too; [[{name}]] could mean either: rename one"
                problems.append(Problem(path, _line(text, name), what))
                continue
            pages[name] = term
        if path == glossary_path:
            entries = terms.entries(path, text)
    return Names(entries, pages, files, problems)


def _line(text: str, word: str) -> int:
    """Return the first line with a word, counted from 1."""
    return next((number for number, line in enumerate(text.split("\n"), start=1) if word in line), 1)
