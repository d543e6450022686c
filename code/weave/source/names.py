"""What ``[[…]]`` leads to: every page by its file, title and aliases, and the entries of the glossary.

As in Obsidian, ``aliases`` in a page's front matter are further names of it. Case and hyphens do not matter. Where
several things have a name, the first of these is meant: the file that is called just so; the entry of the glossary;
the page; and then all of it again without a plural s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weave.source import terms
from weave.source.front_matter import split
from weave.source.markdown import outside_fences
from weave.source.problem import Problem
from weave.source.terms import Term, key, spelt

_TITLE = re.compile(r"# +(.+?)[ #]*(?:\{[^{}]*\}\s*)?$")


@dataclass
class Names:
    entries: dict[str, Term] = field(default_factory=dict)
    """The glossary, by each name of an entry."""
    pages: dict[str, Term] = field(default_factory=dict)
    """The pages, by each title, alias and slug."""
    files: dict[str, Term] = field(default_factory=dict)
    """The pages, by their file's name and path under docs/, both without ``.md``."""
    problems: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        steps = [(spelt, self.entries), (spelt, self.pages), (key, self.entries), (key, self.pages)]
        self._steps = [(form, {form(name): term for name, term in reversed(known.items())}) for form, known in steps]

    def find(self, name: str, heading: bool = False) -> Term | None:
        """What a name means; where a heading of it is meant, it is a page."""
        if found := self.files.get(name.removesuffix(".md")):
            return found
        for form, known in self._steps:
            found = known.get(form(name))
            if found and not (heading and found.anchor):
                return found
        return None

    @property
    def known(self) -> list[str]:
        return [*self.entries, *self.pages]


def source_pages(root: Path, docs: str) -> list[str]:
    """The Markdown files of the docs folder, relative to the root; what is hidden (Obsidian's own) is none."""
    found = (path.relative_to(root) for path in sorted((root / docs).rglob("*.md")))
    return [path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)]


def names_of(path: str, text: str) -> tuple[list[str], dict[str, Any], str]:
    """What a page is called, best name first; its front matter; and what is wrong with its aliases."""
    markdown, front = split(text)
    lines = (line for line, number in outside_fences(markdown.split("\n")) if number)
    heading = next((match[1] for line in lines if (match := _TITLE.fullmatch(line.rstrip()))), None)
    aliases, wrong = front.get("aliases") or [], ""
    if isinstance(aliases, str):
        aliases = [aliases]
    if not isinstance(aliases, list) or not all(isinstance(one, str | int | float) for one in aliases):
        aliases, wrong = [], "aliases is no list of names; write aliases: [one name, another name]"
    given = [front.get("title"), heading, *aliases, front.get("slug")]
    stem = Path(path).stem
    names = [str(one) for one in given if one] + [stem] * (stem != "index")
    return list(dict.fromkeys(names)), front, wrong


def read(root: Path, docs: str, glossary_path: str) -> Names:
    """All names of the site, with what is wrong about them: two pages that are called the same."""
    entries: dict[str, Term] = {}
    pages: dict[str, Term] = {}
    files: dict[str, Term] = {}
    problems: list[Problem] = []
    by_spelling: dict[str, str] = {}
    for path in source_pages(root, docs):
        text = (root / path).read_text(encoding="utf-8", errors="replace")
        names, front, wrong = names_of(path, text)
        term = Term(path, "", terms.plain(str(front.get("description", ""))))
        within = path.removeprefix(f"{docs}/").removesuffix(".md")
        files[within] = term
        if wrong:
            problems.append(Problem(path, _line(text, "aliases"), wrong))
        for name in names:
            if (other := by_spelling.setdefault(spelt(name), path)) != path:
                what = f"'{name}' is what {other} is called too; [[{name}]] could mean either: rename one"
                problems.append(Problem(path, _line(text, name), what))
                continue
            pages[name] = term
            if name == Path(path).stem:
                files[name] = term
        if path == glossary_path:
            entries = terms.entries(path, text)
    return Names(entries, pages, files, problems)


def _line(text: str, word: str) -> int:
    """Where a word stands first, counted from 1."""
    return next((number for number, line in enumerate(text.split("\n"), start=1) if word in line), 1)
