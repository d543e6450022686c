"""A link resolved: to a cell, a checked number, a theorem, a page, a heading, an entry of the glossary.

`Links.resolve` finds the file of the repository that a destination means, `Links.link` does what its kind asks for. A
number in the prose is compared with the value that its notebook published in `Links.claim`.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from html import unescape
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree as etree

from markdown.util import AMP_SUBSTITUTE, AtomicString

from weave.note import numbers
from weave.note.headings import HEADING
from weave.note.lines import MarkLines, unmark
from weave.note.page import REFERENCE, BookForPage, Claim, Page, Reference, Theorem, Use
from weave.run.executor import Outcome
from weave.source.problem import nearest
from weave.source.terms import Term

_TAG = re.compile(r"\\tag\{(\d+)\}")


_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*):")
_NOWHERE = {
    "attachment": "the picture is in no file; save it beside this file and write ![…](picture.png)",
    "file": "it is on one machine only; put the file into the repository and link to it by a relative path",
    "javascript": "a page runs no script from a link; take it out",
    "vbscript": "a page runs no script from a link; take it out",
    "weave": "no reader's program knows it; link to the file by a relative path",
}


def refused(url: str) -> str:
    """Return why an address leads nowhere for a reader of the site; nothing for one that may lead somewhere."""
    found = _SCHEME.match(url)
    scheme = found[1].lower() if found else ""
    what = _NOWHERE.get(scheme, "")
    if len(scheme) == 1:
        what = _NOWHERE["file"]
    elif scheme == "data" and not url.strip().lower().startswith("data:image/"):
        what = "browsers open no page that is written in its address; put it into a file"
    return f"'{url if len(url) <= 60 else url[:59] + '…'}': {what}" if what else ""


class LinkError(Exception):
    """A link or an embed is wrong; the message is shown in its place and reported with its line."""

    def __init__(self, line: int, message: str) -> None:
        self.line, self.message = line, message


@dataclass(frozen=True)
class Target:
    """A link's destination: a file of the repository, and a place in it."""

    line: int
    path: str
    query: str
    anchor: str
    short: bool = False
    """Whether the destination names no file, and so means the page itself or its own notebook."""


class Links:
    """The links of one page.

    Args:
        page: Gets the facts: claims, theorems, uses, references, problems.
        book: Knows everything outside the page.
        lines: Knows the line of each destination.
    """

    def __init__(self, page: Page, book: BookForPage, lines: MarkLines) -> None:
        self.page, self.book, self.lines = page, book, lines
        self.numbered: frozenset[str] = frozenset()
        """Ids of the theorems numbered so far."""

    def resolve(self, url: str) -> Target | None:
        """Return where a link leads in the repository; None for a link that leaves it. Raises LinkError."""
        line = self.lines.line_of(url)
        url = unescape(unmark(url).replace(AMP_SUBSTITUTE, "&"))  # as <me@example.org> is written
        try:
            parts = urlsplit(url)
        except ValueError:
            raise LinkError(line, f"'{url}' is not an address; correct it") from None
        if refusal := refused(url):
            raise LinkError(line, refusal)
        if parts.scheme or parts.netloc:
            return None
        anchor = unquote(parts.fragment)
        if not parts.path:
            return Target(line, self.page.path, parts.query, anchor, short=True)
        if parts.path.startswith("/"):
            what = f"'{url}' starts at the server's root, which moves; link by a path relative to this file"
            raise LinkError(line, what)
        path = posixpath.normpath(posixpath.join(posixpath.dirname(self.page.path), unquote(parts.path)))
        if path == ".." or path.startswith("../"):
            raise LinkError(line, f"'{url}' leaves the repository; link to a file of it, or to a full address")
        return Target(line, path, parts.query, anchor)

    def notebook_of(self, target: Target) -> str:
        """Return the notebook that a target names; the page's own for a short link. Raises LinkError."""
        if not target.short:
            path = posixpath.splitext(target.path)[0] + ".py"
            if self.book.outcome(path) is None:
                raise LinkError(target.line, self.book.unknown_notebook(path))
            return path
        path = self.book.layout.notebook_of(self.page.path)
        if self.book.outcome(path) is None:
            name = f"#{target.anchor}"
            what = f"'{name}' means the notebook {path}, which does not exist; write ../path/to/notebook.py{name}"
            raise LinkError(target.line, what)
        return path

    def is_own_cell(self, target: Target) -> bool:
        """Return whether ``#name`` means a cell or a value of the page's own notebook instead of a heading."""
        if not target.short or not target.anchor:
            return False
        path = self.book.layout.notebook_of(self.page.path)
        if target.anchor.startswith("="):
            return True
        if self.page.path == path or self.book.outcome(path) is None:
            return False
        return target.anchor in self.book.notebook(path).names

    def href(self, path: str, anchor: str) -> str:
        """Return a link from this page to the page that shows ``path``, as MkDocs resolves it."""
        uri = self.book.layout.page_uri(path)
        if uri is None:  # a text of no page, which links to itself
            return f"#{anchor}"
        own = self.book.layout.page_uri(self.page.path) or ""  # any other text is taken to be at the site's root
        relative = posixpath.relpath(uri, posixpath.dirname(own) or ".")
        return f"{relative}#{anchor}" if anchor else relative

    def link(self, element: etree.Element, key: str) -> None:
        """Turn the destination in attribute ``key`` into an address on the site. Raises LinkError."""
        url = element.get(key, "")
        target = self.resolve(url)
        element.set(key, unmark(url))
        if target is None:
            return
        layout = self.book.layout
        if not target.short:
            self.leads_to(target.line, target.path)
        if target.anchor.startswith("=") and self.lines.is_defined(url):
            what = f"a claim has its value's name beside it; write [0.97](#{target.anchor}), without a reference"
            raise LinkError(target.line, what)
        if key == "src" and (target.path.endswith(".py") or self.is_own_cell(target)):
            what = "a cell is embedded by its path alone; write ![caption](path.py#cell), without a reference"
            raise LinkError(target.line, what)
        if self.is_own_cell(target) or layout.is_notebook(target.path):
            if target.short and target.path.endswith(".md") and not target.anchor.startswith("="):
                self.page.short_links.append((self.page.line(target.line), target.anchor))
            self._notebook(element, self.notebook_of(target), target)
        elif layout.is_source(target.path):
            self._source(element, target)
        elif target.path != self.page.path and not self.book.is_file(target.path):
            raise LinkError(target.line, self.book.unknown_file(target.path))
        elif target.path != self.page.path and layout.page_uri(target.path) is None:
            what = f"{target.path} is not shown on the site; link to a page, a notebook, a test or a module"
            raise LinkError(target.line, what)
        elif target.path != self.page.path:
            element.set(key, self.href(target.path, target.anchor))
        if target.anchor and target.path.endswith(".md") and not self.is_own_cell(target):
            self._refer(element, target.path, target)

    def term(self, element: etree.Element, written: str) -> None:
        """Turn ``[[written]]`` into a link. Raises LinkError."""
        line, written = self.lines.line_of(written), unmark(written)
        name, _, heading = (part.strip() for part in written.partition("#"))
        term = self.book.term(name, bool(heading)) if name else Term(self.page.path, "", "")
        if term is None:
            raise LinkError(line, self.book.unknown_term(name, bool(heading)))
        self.leads_to(line, term.path)
        own = term.path == self.page.path and not heading
        element.set("class", "weave-term")
        element.set("href", f"#{term.anchor}" if own else self.href(term.path, term.anchor))
        if term.says:
            element.set("title", term.says)
        if heading:  # looked up once all pages are known
            element.set(HEADING, f"{term.path}#{heading}")
            element.set(REFERENCE, str(len(self.page.references)))
            self.page.references.append(Reference(self.page.line(line), term.path, heading, by_text=True))

    def leads_to(self, line: int, path: str) -> None:
        """Record the file that a link or an embed leads to."""
        path = posixpath.splitext(path)[0] + ".py" if self.book.layout.is_notebook(path) else path
        self.page.links.append((self.page.line(line), path))

    def _refer(self, element: etree.Element, path: str, target: Target) -> None:
        """Record an anchor to be checked once all pages are known, and mark its link."""
        element.set(REFERENCE, str(len(self.page.references)))
        self.page.references.append(Reference(self.page.line(target.line), path, target.anchor))

    # -- notebooks

    def _notebook(self, element: etree.Element, path: str, target: Target) -> None:
        if target.anchor.startswith("="):
            self.claim(element, path, target.anchor[1:], target.line)
            return
        notebook = self.book.notebook(path)
        if target.anchor in notebook.names:
            self.page.uses.append(Use(self.page.path, self.page.line(target.line), path, target.anchor))
        elif target.anchor and not notebook.problems:  # a heading or a footnote, perhaps
            self._refer(element, path, target)
        own = path == self.page.path
        element.set("href", f"#{target.anchor}" if own else self.href(path, target.anchor))

    def claim(self, element: etree.Element, path: str, name: str, line: int) -> None:
        """Check the number that a link's text states against the value ``name`` of a notebook. Raises LinkError."""
        result, outcome = self.book.result(path), self.book.outcome(path)
        assert outcome
        text = self.lines.as_read("".join(element.itertext())).strip()
        base = posixpath.basename(path)
        failing = outcome.run is None  # reported at the notebook; a claim is not compared with an old value
        if result is None or (failing and name not in result.published):
            element.set("href", self.href(path, ""))
            return
        if name not in result.published:
            raise LinkError(line, f"{base} publishes no value '{name}'; {nearest(name, result.published)}")
        published = result.published[name]
        written = numbers.read(text)
        if written is None:
            what = f"'{text}' is not a number to check against {base}#={name}; {numbers.GRAMMAR}"
            raise LinkError(line, what)
        holds = numbers.holds(written, published.value)
        place = self.page.path, self.page.line(line)
        claim = Claim(*place, text, path, published.cell, name, published.value, written.tolerance, holds)
        self.page.claims.append(claim)
        self.page.uses.append(Use(*place, path, published.cell))
        value = numbers.show(published.value)
        if not holds and not failing:
            raise LinkError(line, f"the note says {text}; {base} computed {value} ({name}); weave fix rewrites it")
        element.set("href", self.href(path, f"value-{name}"))
        element.set("class", f"weave-claim{running_class(outcome)}")
        cell = f"cell {published.cell} of {base}"
        element.set("title", f"{name} = {value}\n“{text}” allows {written.tolerance}\n{cell}")

    # -- tests and modules

    def _source(self, element: etree.Element, target: Target) -> None:
        if not self.book.is_file(target.path):
            raise LinkError(target.line, self.book.unknown_source(target.path))
        self.page.sources.add(target.path)
        unreadable = self.book.unreadable(target.path)
        self.page.problems += unreadable
        if target.anchor and not unreadable:
            definitions = self.book.definitions(target.path)
            if target.anchor not in definitions:
                kind = "test" if target.anchor.startswith("test_") else "function"
                what = f"{target.path} has no {kind} '{target.anchor}'; {nearest(target.anchor, definitions)}"
                raise LinkError(target.line, what)
            if target.anchor.startswith("test_"):
                self.numbered = _theorem(element, self.page, target, definitions[target.anchor].summary, self.numbered)
        element.set("href", self.href(target.path, target.anchor))


def _theorem(
    element: etree.Element, page: Page, target: Target, summary: str, numbered: frozenset[str]
) -> frozenset[str]:
    """Turn a link to a test into a badge; return the ids of the theorems numbered so far."""
    text = "".join(element.itertext()).strip()
    test = f"{target.path}::{target.anchor}"
    page.theorems.append(Theorem(page.path, page.line(target.line), text, test, summary))
    name = f"thm-{target.anchor.removeprefix('test_').replace('_', '-')}"
    if text == "theorem" and name not in numbered:  # stated here; a second link to it keeps its words
        numbered |= {name}
        element.set("id", name)
        element.text = AtomicString(f"Theorem {len(numbered)}")
    element.set("class", "weave-theorem")
    element.set("title", f"{summary}\n{test}" if summary else test)
    badge = etree.SubElement(element, "span", {"class": "weave-badge"})
    badge.text = AtomicString("tested")
    return numbered


def name_references(root: etree.Element) -> None:
    """Give empty links to equations and theorems their text: ``[](#eq-x)`` reads (3), ``[](#thm-x)`` Theorem 2."""
    elements = {element.get("id", ""): element for element in root.iter() if element.get("id")}
    for link in root.iter("a"):
        target = elements.get(link.get("href", "").removeprefix("#"))
        if target is None or "".join(link.itertext()).strip():
            continue
        if target.tag == "tex-math" and (tag := _TAG.search(target.text or "")):
            link.text = AtomicString(f"({tag[1]})")
        elif target.get("class") == "weave-theorem":
            link.text = target.text


def running_class(outcome: Outcome) -> str:
    """Return the class that marks an old result while its notebook runs."""
    return " weave-running" if outcome.running else ""
