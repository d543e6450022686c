"""Rename a note: its file, its notebook, its scan, and everything that names one of them.

Links are changed where they stand, by what they lead to; a path elsewhere (in code, in a table of README, in a test) by
how it reads. No word of a sentence changes: ``[[old title]]`` becomes ``[[new-name|old title]]``.
"""

from __future__ import annotations

import ast
import difflib
import json
import os
import posixpath
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import click

from weave.book.book import Book
from weave.run.notebook import parse
from weave.run.store import write_whole
from weave.source import markdown, names
from weave.source.problem import nearest, not_utf8
from weave.source.terms import key, spelt

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TEXTS = {".md", ".py", ".yml", ".yaml", ".toml", ".json", ".js", ".mjs", ".css", ".html", ".jinja", ".txt", ".cfg"}
_LARGEST = 1_000_000
_FRONT = re.compile(r"\ufeff?---[ \t]*\r?\n.*?^(?:---|\.\.\.)[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_NEEDS = re.compile(r"^needs:[^\n]*(?:\n[ \t]*-[^\n]*)*", re.MULTILINE)
_CALLED = r"(?<![\w-]){}(?![\w-])"


class Refused(Exception):
    """Why nothing was changed."""


@dataclass(frozen=True)
class Change:
    """A file as it is and as it will be; paths are relative to the repository's root."""

    path: str
    to: str
    before: bytes
    after: bytes


@dataclass
class Renaming:
    site: Book
    old: str
    new: str
    title: str | None = None
    moves: dict[str, str] = field(default_factory=dict)
    """What has a new path, by the old one."""

    def changes(self) -> list[Change]:
        """All that has to change. Raises Refused."""
        self.read()
        found = [*self.texts()]
        for path, to in self.moves.items():
            if path.endswith(".pdf"):
                scan = (self.root / path).read_bytes()
                found.append(Change(path, to, scan, scan))
        return found

    @property
    def root(self) -> Path:
        return self.site.layout.root

    def read(self) -> None:
        """Find out what the note is called now, and refuse a name that it cannot have."""
        layout = self.site.layout
        notes = f"{layout.docs}/notes"
        stems = [Path(path).stem for path in names.source_pages(self.root, notes)]
        if self.old not in stems:
            raise Refused(f"no note '{self.old}' in {notes}/; {nearest(self.old, stems)}")
        if not _SLUG.fullmatch(self.new):
            raise Refused(f"'{self.new}' cannot name a note; use small letters and digits, with - between words")
        self.note = f"{notes}/{self.old}.md"
        self.old_stem, self.new_stem = self.old.replace("-", "_"), self.new.replace("-", "_")
        pairs = {
            self.note: f"{notes}/{self.new}.md",
            f"{notes}/{self.old}.pdf": f"{notes}/{self.new}.pdf",
            f"{layout.notebooks}/{self.old_stem}.py": f"{layout.notebooks}/{self.new_stem}.py",
        }
        self.moves = {path: to for path, to in pairs.items() if (self.root / path).is_file()}
        for path, to in self.moves.items():
            if (self.root / path).is_symlink():
                raise Refused(f"{path} is a symbolic link; put the file itself there first")
            if (self.root / to).exists():
                raise Refused(f"{to} is there already; choose another name")
        self.notebook = f"{layout.notebooks}/{self.old_stem}.py"
        if self.notebook in self.moves and self.new_stem in sys.stdlib_module_names:
            raise Refused(f"a notebook {self.new_stem}.py would hide Python's own module of that name; choose another")

        text = self.decoded(self.note, (self.root / self.note).read_bytes())
        self.called, front, _ = names.names_of(self.note, _unix(text))
        if text.lstrip("\ufeff").startswith("---") and not front:
            raise Refused(f"{self.note}:1: cannot read what stands between the two lines of ---; mend it first")
        self.titles = "|".join(re.escape(name) for name in self.called)
        others = {spelt(name): term.path for name, term in self.site.names.pages.items() if term.path != self.note}
        for name in (self.new, self.title or self.new):
            if other := others.get(spelt(name)):
                raise Refused(f"{other} is called '{name}' already; choose another name")
        # Of what the note was called, what it still is.
        now, _, _ = names.names_of(self.moves[self.note], _unix(self.retitled(text)))
        self.stays = {spelt(name) for name in now} | {key(name) for name in now}

    def decoded(self, path: str, data: bytes) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused(str(not_utf8(path, data, error))) from None

    # -- files

    def texts(self) -> Iterator[Change]:
        """Every text file of the repository that changes or moves."""
        files = list(self.files())
        bases = [posixpath.basename(path) for path in files]
        alone = bases.count(f"{self.old_stem}.py") == 1
        for path in files:
            data = (self.root / path).read_bytes()
            ours = path.endswith(".md") or self.site.layout.is_notebook(path)
            if not ours and b"\0" in data:
                continue
            before = self.decoded(path, data)
            after = self.rewritten(path, before, alone and ours)
            if path.endswith(".py") and after != before:
                self.parsed(path, after)
            if after != before or path in self.moves:
                yield Change(path, self.moves.get(path, path), data, after.encode())

    def files(self) -> Iterator[str]:
        for folder, inside, found in os.walk(self.root):
            inside[:] = sorted(
                one for one in inside if one[0] != "." and one not in ("node_modules", "__pycache__", "site")
            )
            for name in sorted(found):
                path = Path(folder, name)
                if path.suffix in _TEXTS and not path.is_symlink() and path.stat().st_size < _LARGEST:
                    yield path.relative_to(self.root).as_posix()

    def parsed(self, path: str, text: str) -> None:
        try:
            ast.parse(text)
        except SyntaxError as error:
            raise Refused(f"{path}:{error.lineno or 1}: {error.msg}; mend it first, then rename") from None

    # -- texts

    def rewritten(self, path: str, text: str, bare: bool) -> str:
        if path == self.note:
            text = self.retitled(text)
        if path.endswith(".md"):
            front = _FRONT.match(text)
            start = front.end() if front else 0
            text = self.needing(text[:start]) + self.linked(path, text[start:])
        elif self.site.layout.is_notebook(path):
            text = self.notebook_linked(path, text)
        elif path == "mkdocs.yml" and self.title:
            label = rf"(-[ ]+)(['\"]?)(?:{self.titles})\2(?=:[ ]+['\"]?notes/{re.escape(self.old)}\.md)"
            text = re.sub(label, lambda match: match[1] + _scalar(self.title or ""), text)
        return self.renamed(path, text, bare)

    def retitled(self, text: str) -> str:
        """The note with its new title, where it has one."""
        if not self.title:
            return text
        front = _FRONT.match(text)
        start = front.end() if front else 0
        head = re.sub(
            r"^title:[^\n\r]*", lambda _: f"title: {_scalar(self.title or '')}", text[:start], flags=re.MULTILINE
        )
        lines = text[start:].split("\n")
        for line, number in markdown.outside_fences(lines):
            if number and re.match(r"# +\S", line):
                lines[number - 1] = re.sub(
                    r"# +.*?(?=\s*(?:\{[^{}]*\}\s*)?$)", lambda _: f"# {self.title}", line, count=1
                )
                break
        return head + "\n".join(lines)

    def needing(self, front: str) -> str:
        return _NEEDS.sub(lambda match: re.sub(_CALLED.format(re.escape(self.old)), self.new, match[0]), front)

    def notebook_linked(self, path: str, text: str) -> str:
        """A notebook whose text cells lead to the new places, under a heading of the new title."""
        lines = text.split("\n")
        notebook = parse(path, _unix(text))
        if notebook.problems:
            raise Refused(f"{notebook.problems[0]}; mend it first, then rename")
        for cell in notebook.cells:
            if cell.kind == "markdown":
                rows = slice(cell.line - 1, cell.line + cell.source.count("\n"))
                part = "\n".join(lines[rows])
                if path == self.notebook and self.title:
                    heading = rf"^((?:# )?# +)(?:{self.titles})[ ]*(?=\r?$)"
                    part = re.sub(heading, lambda match: f"{match[1]}{self.title}", part, flags=re.MULTILINE)
                lines[rows] = self.linked(path, part).split("\n")
        return "\n".join(lines)

    def linked(self, path: str, text: str) -> str:
        """Markdown whose links lead to the new places."""
        edits: list[tuple[int, int, str]] = []
        for start, end in markdown.destinations(text):
            address = re.split(r"[?#]", text[start:end], maxsplit=1)[0]
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(address)))
            executed = target.removesuffix(".ipynb") + ".py" if target.endswith(".ipynb") else target
            if address and (to := self.moves.get(executed)):
                name = Path(to).stem + posixpath.splitext(target)[1]
                edits.append((start, start + len(address), posixpath.join(posixpath.dirname(address), name)))
        for link in markdown.wiki_links(text):
            name, mark, heading = link["target"].partition("#")
            term = self.site.names.find(name.strip(), bool(mark))
            if not name.strip() or term is None or term.path != self.note or term.anchor:
                continue
            new = self.wiki(name.strip())
            if new is None:
                continue
            row = text[text.rfind("\n", 0, link.start()) + 1 : link.start()]
            pipe = "\\|" if row.lstrip("# ").startswith("|") else "|"
            words = "" if link["words"] or mark or name.strip() == self.old or "/" in name else f"{pipe}{name.strip()}"
            edits.append((*link.span("target"), f"{new}{mark}{heading}{words}"))
        for start, end, new in sorted(edits, reverse=True):
            text = text[:start] + new + text[end:]
        return text

    def wiki(self, name: str) -> str | None:
        """What is to stand for a name of the note; None where the name stays good."""
        if "/" in name:
            return re.sub(_CALLED.format(re.escape(self.old)), self.new, name)
        if name != self.old and {spelt(name), key(name)} & self.stays:
            return None
        return self.new

    def renamed(self, path: str, text: str, bare: bool) -> str:
        """Text in which paths are changed by how they read."""
        for before, after in (
            (_CALLED.format(f"(notes/){re.escape(self.old)}"), self.new),
            (_CALLED.format(f"(notebooks/){self.old_stem}"), self.new_stem),
            (_CALLED.format(f"(weave run ){self.old_stem}"), self.new_stem),
        ):
            if self.notebook in self.moves or "notes/" in before:
                text = re.sub(before, lambda match, after=after: match[1] + after, text)  # type: ignore[misc]
        if bare and self.notebook in self.moves:
            text = re.sub(rf"(?<![\w/.-]){self.old_stem}(?=\.(?:py|ipynb)(?![\w-]))", self.new_stem, text)
        if path.startswith(tuple(f"{folder}/" for folder in self.site.layout.sources)) and "-" in self.old:
            text = re.sub(rf"(?<=['\"]){self.old}(?=['\"])", self.new, text)  # a test that lists notes by name
        return text


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")


def _scalar(text: str) -> str:
    """A text as YAML has it."""
    return text if re.fullmatch(r"\w[\w ,.'()-]*", text) else json.dumps(text, ensure_ascii=False)


def show_diff(path: str, before: str, after: str) -> None:
    """What changes in a file, as an author reads it."""
    for line in difflib.unified_diff(before.splitlines(), after.splitlines(), path, path, lineterm="", n=1):
        click.secho(line, fg={"+": "green", "-": "red", "@": "cyan"}.get(line[:1]))


def rename(site: Book, old: str, new: str, title: str | None, yes: bool) -> None:
    """What ``weave rename`` does: show, ask, change."""
    if (term := site.names.find(old)) and not term.anchor:
        old = Path(term.path).stem
    old = Path(old).name.removesuffix(".md")
    renaming = Renaming(site, old, new, title)
    try:
        changes = renaming.changes()
    except Refused as refused:
        raise click.ClickException(f"{refused}; nothing was changed") from None
    for one in changes:
        if one.path != one.to:
            click.secho(f"{one.path} → {one.to}", fg="cyan")
        if not one.path.endswith(".pdf"):
            show_diff(one.to, one.before.decode(), one.after.decode())
    moved = sum(one.path != one.to for one in changes)
    if not yes and not click.confirm(
        f"rename {moved} and rewrite {sum(one.before != one.after for one in changes)} files?"
    ):
        return
    for one in changes:
        if (site.layout.root / one.path).read_bytes() != one.before:
            raise click.ClickException(f"{one.path} was edited in the meantime; nothing was changed, rename again")
    for one in changes:
        write_whole(site.layout.root / one.to, one.after)
        shutil.copymode(site.layout.root / one.path, site.layout.root / one.to)
    for one in changes:
        if one.path != one.to:
            (site.layout.root / one.path).unlink()
    runs = site.store.folder
    if (runs / renaming.old_stem).is_dir() and not (runs / renaming.new_stem).exists():
        (runs / renaming.old_stem).rename(runs / renaming.new_stem)  # same code, same result
