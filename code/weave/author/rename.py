"""``weave rename``: a note gets a new name, with its notebook, its scan, and everything that names one of them.

Links are changed by their destination, a path elsewhere (in code, in a table of README, in a test) by its text. No word
of a sentence changes: ``[[old title]]`` becomes ``[[new-name|old title]]``.
"""

from __future__ import annotations

import ast
import json
import os
import posixpath
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import click

from weave.author.fix import edited, show_diff
from weave.book.book import Book
from weave.run.notebook import parse
from weave.source import markdown, names
from weave.source import renaming as plan
from weave.source.problem import Refused, nearest, not_utf8
from weave.source.terms import key, spelt

_TEXTS = {".md", ".py", ".yml", ".yaml", ".toml", ".json", ".js", ".mjs", ".css", ".html", ".jinja", ".txt", ".cfg"}
_LARGEST = 1_000_000
_NEEDS = re.compile(r"^needs:[^\n]*(?:\n[ \t]*-[^\n]*)*", re.MULTILINE)
_WORD = r"(?<![\w-]){}(?![\w-])"


@dataclass(frozen=True)
class Change:
    """A file before and after; paths are relative to the repository's root."""

    path: str
    to: str
    before: bytes
    after: bytes


class Renaming:
    """The old and new names of a note, and how they change each file. Raises Refused for a name that it cannot have."""

    def __init__(self, book: Book, old: str, new: str, title: str | None) -> None:
        self.book, self.old, self.new, self.title, self.root = book, old, new, title, book.layout.root
        layout, notes = book.layout, f"{book.layout.docs}/notes"
        stems = [Path(path).stem for path in names.source_pages(self.root, notes)]
        if old not in stems:
            raise Refused(f"no note '{old}' in {notes}/; {nearest(old, stems)}")
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", new):
            raise Refused(f"'{new}' cannot name a note; use small letters and digits, with - between words")
        self.note, self.old_stem, self.new_stem = f"{notes}/{old}.md", old.replace("-", "_"), new.replace("-", "_")
        self.notebook = f"{layout.notebooks}/{self.old_stem}.py"
        pairs = {self.note: f"{notes}/{new}.md", f"{notes}/{old}.pdf": f"{notes}/{new}.pdf"}
        pairs[self.notebook] = f"{layout.notebooks}/{self.new_stem}.py"
        self.moves = {path: to for path, to in pairs.items() if (self.root / path).is_file()}
        for path, to in self.moves.items():
            if (self.root / path).is_symlink():
                raise Refused(f"{path} is a symbolic link; put the file itself there first")
            if (self.root / to).exists():
                raise Refused(f"{to} exists already; choose another name")
        if self.notebook in self.moves and self.new_stem in sys.stdlib_module_names:
            raise Refused(f"a notebook {self.new_stem}.py would hide Python's own module of that name; choose another")
        text = self._decoded(self.note, (self.root / self.note).read_bytes())
        called, front, _ = names.names_of(self.note, text.replace("\r\n", "\n"))
        if text.lstrip("\ufeff").startswith("---") and not front:
            raise Refused(f"{self.note}:1: cannot read the lines between the two ---; correct them first")
        self.titles = "|".join(re.escape(name) for name in called)
        others = {spelt(name): term.path for name, term in book.names.pages.items() if term.path != self.note}
        for name in (new, title or new):
            if other := others.get(spelt(name)):
                raise Refused(f"{other} is called '{name}' already; choose another name")
        kept, _, _ = names.names_of(self.moves[self.note], self._retitled(text).replace("\r\n", "\n"))
        self.kept = {spelt(name) for name in kept} | {key(name) for name in kept}  # names that stay good

    def _decoded(self, path: str, data: bytes) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused(str(not_utf8(path, data, error))) from None

    def changes(self) -> Iterator[Change]:
        """Yield every file that changes or moves. Raises Refused."""
        files = list(self._files())
        unique = [posixpath.basename(path) for path in files].count(f"{self.old_stem}.py") == 1
        for path in files:
            data = (self.root / path).read_bytes()
            ours = path.endswith(".md") or self.book.layout.is_notebook(path)
            if not ours and b"\0" in data:
                continue
            before = self._decoded(path, data)
            after = self._rewritten(path, before, unique and ours)
            if path.endswith(".py") and after != before:
                try:
                    ast.parse(after)
                except SyntaxError as error:
                    raise Refused(f"{path}:{error.lineno or 1}: {error.msg}; correct it, then rename") from None
            if after != before or path in self.moves:
                yield Change(path, self.moves.get(path, path), data, after.encode())
        for path in self.moves.keys() - set(files):
            yield Change(path, self.moves[path], *[(self.root / path).read_bytes()] * 2)

    def _files(self) -> Iterator[str]:
        for folder, inside, found in os.walk(self.root):
            inside[:] = sorted({name for name in inside if name[0] != "."} - {"node_modules", "__pycache__", "site"})
            for path in (Path(folder, name) for name in sorted(found)):
                if path.suffix in _TEXTS and not path.is_symlink() and path.stat().st_size < _LARGEST:
                    yield path.relative_to(self.root).as_posix()

    def _rewritten(self, path: str, text: str, bare: bool) -> str:
        if path == self.note:
            text = self._retitled(text)
        if path.endswith(".md"):
            front = markdown.front_matter(text)
            start = min(front.end(), len(text)) if front else 0
            old = _WORD.format(re.escape(self.old))
            head = _NEEDS.sub(lambda match: re.sub(old, self.new, match[0]), text[:start])
            text = head + self._linked(path, text[start:], text[start:])
        elif self.book.layout.is_notebook(path):
            text = self._notebook(path, text)
        elif path == "mkdocs.yml" and self.title:
            label = rf"(-[ ]+)(['\"]?)(?:{self.titles})\2(?=:[ ]+['\"]?notes/{re.escape(self.old)}\.md)"
            text = re.sub(label, lambda match: match[1] + _scalar(self.title or ""), text)
        return self._renamed(path, text, bare)

    def _retitled(self, text: str) -> str:
        """Return the note with its new title, where it has one."""
        if not self.title:
            return text
        headings = (token for token in markdown.tokens(text, "heading") if token.level == token.column == 1)
        heading = next((token for token in headings if token["text"]), None)
        text = edited(text, {heading.parts["text"]: self.title} if heading else {})
        front = markdown.front_matter(text)
        start = min(front.end(), len(text)) if front else 0
        line = f"title: {_scalar(self.title)}"
        return re.sub(r"^title:[^\n\r]*", lambda _: line, text[:start], flags=re.MULTILINE) + text[start:]

    def _notebook(self, path: str, text: str) -> str:
        """Return a notebook whose text cells lead to the new places, below a heading of the new title."""
        lines = text.split("\n")
        notebook = parse(path, text.replace("\r\n", "\n"))
        if notebook.problems:
            raise Refused(f"{notebook.problems[0]}; correct it, then rename")
        for cell in notebook.cells:
            if cell.kind == "markdown":
                rows = slice(cell.line - 1, cell.line + cell.source.count("\n"))
                part = "\n".join(lines[rows])
                if path == self.notebook and self.title:
                    heading = rf"^((?:# )?# +)(?:{self.titles})[ ]*(?=\r?$)"
                    part = re.sub(heading, lambda match: f"{match[1]}{self.title}", part, flags=re.MULTILINE)
                plain = re.sub("^# ?", lambda match: " " * len(match[0]), part, flags=re.MULTILINE)
                lines[rows] = self._linked(path, part, plain).split("\n")
        return "\n".join(lines)

    def _linked(self, path: str, text: str, plain: str) -> str:
        """Return Markdown whose links lead to the new places; ``plain`` is the text with blanks for a notebook's #."""
        edits = {}
        for link in markdown.tokens(plain, "link", "image", "definition", "wiki"):
            start, end = link.parts.get("target", (0, 0))
            if link.kind == "wiki":
                name, mark, heading = link["target"].partition("#")
                if new := self._new_name(name.strip(), bool(mark)):
                    row = plain[plain.rfind("\n", 0, start) + 1 : start].lstrip()
                    pipe = "\\|" if row.startswith("|") else "|"
                    shown = link["words"] or mark or name.strip() == self.old or "/" in name
                    edits[start, end] = f"{new}{mark}{heading}{'' if shown else pipe + name.strip()}"
                continue
            address = re.split(r"[?#]", link["target"], maxsplit=1)[0]
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(address)))
            if address and (to := self.moves.get(re.sub(r"\.ipynb$", ".py", target))):
                name = Path(to).stem + posixpath.splitext(target)[1]
                edits[start, start + len(address)] = posixpath.join(posixpath.dirname(address), name)
        return edited(text, edits)

    def _new_name(self, name: str, heading: bool) -> str | None:
        """Return the name to put in place of one in ``[[…]]``; None if it stays good or means something else."""
        term = self.book.names.find(name, heading) if name else None
        if term is None or term.path != self.note or term.anchor:
            return None
        if "/" in name:
            return re.sub(_WORD.format(re.escape(self.old)), self.new, name)
        return None if name != self.old and {spelt(name), key(name)} & self.kept else self.new

    def _renamed(self, path: str, text: str, bare: bool) -> str:
        """Return a text in which paths are changed by how they read."""
        patterns = {f"(notes/){re.escape(self.old)}": self.new}
        if self.notebook in self.moves:
            patterns |= {f"(notebooks/|weave run ){self.old_stem}": self.new_stem}
        for pattern, new in patterns.items():
            text = re.sub(_WORD.format(pattern), rf"\g<1>{new}", text)
        if bare and self.notebook in self.moves:
            text = re.sub(rf"(?<![\w/.-]){self.old_stem}(?=\.(?:py|ipynb)(?![\w-]))", self.new_stem, text)
        if path.startswith(tuple(f"{folder}/" for folder in self.book.layout.sources)) and "-" in self.old:
            text = re.sub(rf"(?<=['\"]){self.old}(?=['\"])", self.new, text)  # a test that lists notes by name
        return text


def _scalar(text: str) -> str:
    """Return a text as YAML has it."""
    return text if re.fullmatch(r"\w[\w ,.'()-]*", text) else json.dumps(text, ensure_ascii=False)


def rename(book: Book, old: str, new: str, title: str | None, yes: bool) -> None:
    """Show what changes, ask, and change it; or finish a rename that was stopped halfway."""
    if begun := plan.plan(book.layout)[0]:
        if begun != [Path(old).name.removesuffix(".md"), new]:
            raise Refused(f"{plan.unfinished(book.layout)[0].message}; nothing was changed")
        plan.finish(book.layout)
        _move_runs(book, *begun)
        click.echo(f"finished the rename of {begun[0]} to {begun[1]}")
        return
    if (term := book.names.find(old)) and not term.anchor:
        old = Path(term.path).stem
    root = book.layout.root
    try:
        renaming = Renaming(book, Path(old).name.removesuffix(".md"), new, title)
        changes = list(renaming.changes())
    except Refused as refused:
        raise Refused(f"{refused}; nothing was changed") from None
    for change in changes:
        if change.path != change.to:
            click.secho(f"{change.path} → {change.to}", fg="cyan")
        if not change.path.endswith(".pdf"):
            show_diff(change.to, change.before.decode(), change.after.decode())
    moved = [change for change in changes if change.path != change.to]
    rewritten = sum(change.before != change.after for change in changes)
    if not yes and not click.confirm(f"rename {len(moved)} and rewrite {rewritten} files?"):
        return
    for change in changes:
        if (root / change.path).read_bytes() != change.before:
            raise Refused(f"{change.path} was edited in the meantime; nothing was changed, rename again")
    names_ = renaming.old, renaming.new
    plan.begin(book.layout, names_, [(change.path, change.to, change.before, change.after) for change in changes])
    plan.finish(book.layout)
    _move_runs(book, *names_)


def _move_runs(book: Book, old: str, new: str) -> None:
    """Keep a notebook's results under its new name: same code, same result."""
    old_runs, new_runs = (book.store.folder / name.replace("-", "_") for name in (old, new))
    if old_runs.is_dir() and not new_runs.exists():
        old_runs.rename(new_runs)
