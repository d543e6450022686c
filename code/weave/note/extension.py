r"""The Markdown extension: links to notebooks, tests and pages become figures, checked numbers, badges, checked links.

======================================  =========================================================
in the note                             on the page
======================================  =========================================================
``![caption](…/x.py#cell)``             what the cell shows, with the caption and a link to it
``![caption](…/x.py?code#cell)``        the same with its code open
``[0.97](…/x.py#=name)``                the number as written, checked against the value published
``[text](…/x.py#cell)``                 a link to the cell on the notebook's own page
``[theorem](…/test_x.py#test_name)``    a numbered badge that links to the test's source
``[](#eq-name)``, ``[](#thm-name)``     the number of the equation with ``\label{name}``, of the theorem
``[[name]]``, ``[[name|words]]``        a link to the page or the glossary's entry of that name
``[[name#heading]]``, ``[[#heading]]``  a link to that heading of the page, of this page
``[@key]``, ``[@key, section 3]``       the number of a work in the page's list of references
``![caption](scan.pdf)``                the pages of a PDF
======================================  =========================================================
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from html import escape, unescape
from os.path import isfile
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree as etree

from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import IMAGE_LINK_RE, ImageInlineProcessor, InlineProcessor
from markdown.postprocessors import Postprocessor
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor
from markdown.util import AMP_SUBSTITUTE, ETX, INLINE_PLACEHOLDER_RE, STX, AtomicString

from weave.note import citations, numbers, outputs
from weave.note.alerts import Alerts
from weave.note.headings import HEADING
from weave.note.math import as_written
from weave.note.page import (
    REFERENCE,
    Book,
    Claim,
    Page,
    Reference,
    Theorem,
    Use,
    current_page,
    mark,
    marked_line,
    unmark,
)
from weave.run import provenance
from weave.run.executor import Outcome
from weave.source import markdown, terms
from weave.source.markdown import outside_fences
from weave.source.problem import nearest

_DESTINATION = re.compile(r"(\]\(\s*<?)(?=[^\s)>])|(^ {0,3}\[(?!\^)[^\]]+\]:\s*<?)(?=\S)")
_CODE = re.compile(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)")
_ERROR_SPAN = re.compile('<span class="err">([\U000f0000-\U000ffffd])</span>')
_EMBED = "weave-embed"
_CHARACTER = re.compile(f"{STX}([0-9]+){ETX}")
_ESCAPED_PIPE = f"{STX}{ord('|')}{ETX}"
_WIKI = re.compile(r"\[\[(?=[^\[\]\n]+\]\])")
_MARKED = re.compile("|".join((_DESTINATION.pattern, _WIKI.pattern, citations.START)))


class WeaveExtension(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        # Before every other preprocessor: line numbers are those of the file.
        lines = _MarkLines(md)
        md.preprocessors.register(lines, "weave_lines", 60)
        md.preprocessors.register(Alerts(md), "weave_alerts", 55)
        md.inlinePatterns.register(_Embed(IMAGE_LINK_RE, md), "weave_embed", 155)
        md.inlinePatterns.register(_Wiki(markdown.WIKI, md), "weave_wiki", 165)
        weave = _Weave(md, lines)
        md.treeprocessors.register(weave, "weave", 15)
        citations.register(md, lines.line_of, weave.show_error, weave.error)
        md.postprocessors.register(_Unmark(md), "weave_unmark", -10)


class _MarkLines(Preprocessor):
    """Puts its line number into every link's destination, as one invisible character."""

    def run(self, lines: list[str]) -> list[str]:
        self.lines = lines
        return [line if number is None else _mark_destinations(line, number) for line, number in outside_fences(lines)]

    def line_of(self, url: str) -> int:
        """The line of a destination, marked or not (a definition inside of a quotation): where it stands first."""
        found = (number for number, line in enumerate(self.lines, start=1) if unmark(url) in line)
        return marked_line(url) or next(found, 1)


def _mark_destinations(line: str, number: int) -> str:
    code = [match.span() for match in _CODE.finditer(line)]

    def put(match: re.Match[str]) -> str:
        inside = any(start < match.start() < end for start, end in code)
        return match[0] if inside else match[0] + mark(number)

    return _MARKED.sub(put, line)


class _Wiki(InlineProcessor):
    """``[[name]]``: which page it leads to is resolved with all other links."""

    def handleMatch(  # type: ignore[override]
        self, m: re.Match[str], data: str
    ) -> tuple[etree.Element | None, int | None, int | None]:
        target, pipe, words = m["inside"].partition("|")
        if not pipe:  # in a table it is escaped, and by now one of Markdown's numbers
            escaped = (one for one in INLINE_PLACEHOLDER_RE.finditer(target) if self.unescape(one[0]) == _ESCAPED_PIPE)
            if one := next(escaped, None):
                target, words = target[: one.start()], target[one.end() :]
        name = _CHARACTER.sub(lambda one: chr(int(one[1])), self.unescape(as_written(target, self.md)))
        if unmark(name).startswith("^") or not unmark(name).strip(" #"):
            return None, None, None
        element = etree.Element("a", {"weave-term": name})
        element.text = words or unmark(target).strip().removeprefix("#").replace("#", " > ")
        return element, m.start(0), m.end(0)


class _Embed(ImageInlineProcessor):
    """``![caption](…/x.py#cell)``: keeps the caption as Markdown, which an image's alternative text is not."""

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Any, int | None, int | None]:  # type: ignore[override]
        text, index, found = self.getText(data, m.end(0))
        if not found:
            return None, None, None
        target, _, index, found = self.getLink(data, index)
        if not found or not re.search(r"\.(py|ipynb|pdf)([?#]|$)", unmark(target)):
            return None, None, None
        element = etree.Element(_EMBED, {"src": target})
        etree.SubElement(element, "span", {"class": "weave-caption"}).text = text
        return element, m.start(0), index


_TAG = re.compile(r"\\tag\{(\d+)\}")


@dataclass(frozen=True)
class _Target:
    """A link's destination, resolved."""

    line: int
    path: str
    query: str
    anchor: str


class _Weave(Treeprocessor):
    """Resolves every link of the page and reports those that lead nowhere."""

    page: Page
    site: Book

    def __init__(self, md: Markdown, lines: _MarkLines) -> None:
        super().__init__(md)
        self.line_of = lines.line_of

    def run(self, root: etree.Element) -> None:
        page = current_page()
        if page.site is None:
            return
        if page.path == "<markdown>" and "relpath" in self.md.treeprocessors:  # a blog's excerpt
            file = self.md.treeprocessors["relpath"].file
            page.path = f"{page.site.layout.docs}/{file.src_uri}"
        self.page, self.site = page, page.site
        self.figures = 0
        self.numbered: set[str] = set()
        for element in list(root.iter()):
            if element.tag == "dt" and page.path == page.site.glossary:
                element.set("id", terms.anchor("".join(element.itertext())))
            if element.tag == "a" and element.get("weave-term") is not None:
                self.term(element)
            elif element.tag == "a" and element.get("href") is not None:
                self.link(element, "href")
            elif element.tag == "img" and element.get("src") is not None:
                self.link(element, "src")
        self.name_references(root)
        for parent in list(root.iter()):  # last: what an embed adds is resolved already
            for child in list(parent):
                if child.tag == _EMBED:
                    self.embed(parent, child)

    # -- destinations

    def resolve(self, url: str) -> _Target | None:
        """Where a link leads in the repository; None for one that leads out of it or was reported."""
        line = self.line_of(url)
        url = unescape(unmark(url).replace(AMP_SUBSTITUTE, "&"))  # as <me@example.org> is written
        try:
            parts = urlsplit(url)
        except ValueError:
            raise _Bad(line, f"'{url}' is no address; correct it") from None
        if parts.scheme or parts.netloc:
            return None
        anchor = unquote(parts.fragment)
        if not parts.path:
            return _Target(line, self.page.path, parts.query, anchor)
        if parts.path.startswith("/"):
            raise _Bad(
                line,
                f"'{url}' starts at the server's root, which moves; link by a path relative to this file",
            )
        path = posixpath.normpath(posixpath.join(posixpath.dirname(self.page.path), unquote(parts.path)))
        if path.startswith(".."):
            raise _Bad(line, f"'{url}' leaves the repository; link to a file of it, or to a full address")
        return _Target(line, path, parts.query, anchor)

    def href(self, target: str, anchor: str) -> str:
        """A link from this page to the page that shows ``target``, in the terms that MkDocs resolves."""
        uri = self.site.layout.page_uri(target)
        own = self.site.layout.page_uri(self.page.path)
        assert uri is not None and own is not None
        relative = posixpath.relpath(uri, posixpath.dirname(own) or ".")
        return f"{relative}#{anchor}" if anchor else relative

    def link(self, element: etree.Element, key: str) -> None:
        url = element.get(key, "")
        try:
            target = self.resolve(url)
            element.set(key, unmark(url))
            if target is None:
                return
            layout = self.site.layout
            if key == "src" and target.path.endswith(".py"):
                what = "a cell is shown by its path alone; write ![caption](path.py#cell), without a reference"
                raise _Bad(target.line, what)
            if layout.is_notebook(target.path):
                self.notebook_link(element, target)
            elif layout.is_source(target.path):
                self.source_link(element, target)
            elif target.path != self.page.path and not isfile(layout.root / target.path):
                folder = (layout.root / target.path).parent
                there = [path.name for path in folder.iterdir()] if folder.is_dir() else []
                name = posixpath.basename(target.path)
                raise _Bad(target.line, f"no file {target.path}; {nearest(name, there, 'its folder')}")
            elif layout.page_uri(target.path) is None:
                what = f"{target.path} is not shown on the site; link to a page, a notebook, a test or a module"
                raise _Bad(target.line, what)
            elif target.path != self.page.path:
                element.set(key, self.href(target.path, target.anchor))
            if target.anchor and target.path.endswith(".md"):
                self.refer(element, target.path, target)
        except _Bad as bad:
            self.show_error(element, bad.line, bad.message)

    def term(self, element: etree.Element) -> None:
        written = element.attrib.pop("weave-term")
        line, written = self.line_of(written), unmark(written)
        name, _, heading = (part.strip() for part in written.partition("#"))
        names = self.site.names
        found = names.find(name, bool(heading)) if name else terms.Term(self.page.path, "", "")
        if found is None:
            what = "page" if heading else "page and no entry of the glossary"
            close = nearest(name, names.pages if heading else names.known, "the site")
            self.show_error(element, line, f"no {what} is called '{name}'; {close}")
            return
        own = found.path == self.page.path and not heading
        element.set("class", "weave-term")
        element.set("href", f"#{found.anchor}" if own else self.href(found.path, found.anchor))
        if found.says:
            element.set("title", found.says)
        if heading:  # found when all pages are known
            element.set(HEADING, f"{found.path}#{heading}")
            element.set(REFERENCE, str(len(self.page.references)))
            self.page.references.append(Reference(self.page.line(line), found.path, heading, by_text=True))

    def refer(self, element: etree.Element, path: str, target: _Target) -> None:
        """Note an anchor that is checked when all pages are known, and by what its link is found again then."""
        element.set(REFERENCE, str(len(self.page.references)))
        self.page.references.append(Reference(self.page.line(target.line), path, target.anchor))

    # -- notebooks

    def notebook_link(self, element: etree.Element, target: _Target) -> None:
        path = posixpath.splitext(target.path)[0] + ".py"
        if path not in self.site.outcomes:
            raise _Bad(target.line, self.site.unknown_notebook(path))
        if target.anchor.startswith("="):
            self.claim(element, path, target.anchor[1:], target.line)
            return
        line, notebook = self.page.line(target.line), self.site.notebook_of(path)
        if target.anchor in notebook.names:
            self.page.uses.append(Use(self.page.path, line, path, target.anchor))
        elif target.anchor and not notebook.problems:  # a heading or a footnote, perhaps
            self.refer(element, path, target)
        if path != self.page.path:
            element.set("href", self.href(path, target.anchor))

    def claim(self, element: etree.Element, path: str, name: str, line: int) -> None:
        run = self.site.run_of(path)
        text = "".join(element.itertext()).strip()
        base = posixpath.basename(path)
        failing = self.site.outcomes[path].run is None  # told at the notebook; what it computed before is no measure
        if run is None or (failing and name not in run.published):
            element.set("href", self.href(path, ""))
            return
        if name not in run.published:
            raise _Bad(line, f"{base} publishes no value '{name}'; {nearest(name, run.published)}")
        published = run.published[name]
        written = numbers.read(text)
        if written is None:
            raise _Bad(line, f"'{text}' is no number to check against {base}#={name}; {numbers.GRAMMAR}")
        good = numbers.holds(written, published.value)
        self.page.claims.append(
            Claim(
                self.page.path,
                self.page.line(line),
                text,
                path,
                published.cell,
                name,
                published.value,
                written.tolerance,
                good,
            )
        )
        self.page.uses.append(Use(self.page.path, self.page.line(line), path, published.cell))
        if not good and not failing:
            found = numbers.show(published.value)
            raise _Bad(line, f"the note says {text}; {base} computed {found} ({name}); weave fix rewrites it")
        element.set("href", self.href(path, published.cell))
        element.set("class", f"weave-claim{_running(self.site.outcomes[path])}")
        full = f"{name} = {numbers.show(published.value)}"
        where = f"cell {published.cell} of {base}"
        element.set("title", f"{full}\n“{text}” allows {written.tolerance}\n{where}")

    # -- theorems

    def source_link(self, element: etree.Element, target: _Target) -> None:
        if not isfile(self.site.layout.root / target.path):
            base = posixpath.basename(target.path)
            there = [posixpath.basename(path) for path in self.site.layout.source_files()]
            raise _Bad(target.line, f"no file {target.path}; {nearest(base, there, 'the site')}")
        self.page.sources.add(target.path)
        unshown = self.site.unshown(target.path)
        self.page.problems += unshown
        if target.anchor and not unshown:
            known = self.site.definitions(target.path)
            if target.anchor not in known:
                kind = "test" if target.anchor.startswith("test_") else "function"
                what = f"{target.path} has no {kind} '{target.anchor}'; {nearest(target.anchor, known)}"
                raise _Bad(target.line, what)
            if target.anchor.startswith("test_"):
                self.theorem(element, target, known[target.anchor].summary)
        element.set("href", self.href(target.path, target.anchor))

    def theorem(self, element: etree.Element, target: _Target, summary: str) -> None:
        text = "".join(element.itertext()).strip()
        test = f"{target.path}::{target.anchor}"
        self.page.theorems.append(Theorem(self.page.path, self.page.line(target.line), text, test, summary))
        name = f"thm-{target.anchor.removeprefix('test_').replace('_', '-')}"
        if text == "theorem" and name not in self.numbered:  # stated here; said again, it keeps its words
            self.numbered.add(name)
            element.set("id", name)
            element.text = AtomicString(f"Theorem {len(self.numbered)}")
        element.set("class", "weave-theorem")
        element.set("title", f"{summary}\n{test}" if summary else test)
        badge = etree.SubElement(element, "span", {"class": "weave-badge"})
        badge.text = AtomicString("tested")

    def name_references(self, root: etree.Element) -> None:
        """``[](#eq-bilinear)`` reads (3), and ``[](#thm-trace)`` Theorem 2."""
        names = {one.get("id", ""): one for one in root.iter() if one.get("id")}
        for link in root.iter("a"):
            target = names.get(link.get("href", "").removeprefix("#"))
            if target is None or "".join(link.itertext()).strip():
                continue
            if target.tag == "tex-math" and (tag := _TAG.search(target.text or "")):
                link.text = AtomicString(f"({tag[1]})")
            elif target.get("class") == "weave-theorem":
                link.text = target.text

    # -- embeds

    def embed(self, parent: etree.Element, element: etree.Element) -> None:
        line = self.line_of(element.get("src", ""))
        caption = element[0]
        element.tag = "figure"
        url = element.attrib.pop("src")
        element.set("class", "weave-figure")
        try:
            if not _alone(parent, element):
                raise _Bad(line, "an embedded cell is a paragraph of its own; put blank lines around it")
            if not "".join(caption.itertext()).strip():
                raise _Bad(line, "an embedded cell has no caption; say in it what to see: ![caption](…)")
            target = self.resolve(url)
            if target and target.path.endswith(".pdf"):
                self.pdf(element, caption, target)
                return
            if target is None or not self.site.layout.is_notebook(target.path):
                raise _Bad(line, f"'{unmark(url)}' is no notebook; notebooks lie in {self.site.layout.notebooks}/")
            path = posixpath.splitext(target.path)[0] + ".py"
            if path not in self.site.outcomes:
                raise _Bad(line, self.site.unknown_notebook(path))
            notebook = self.site.notebook_of(path)
            if not target.anchor:
                write = f"write {posixpath.basename(path)}#cell"
                raise _Bad(line, f"'{unmark(url)}' names no cell to show; {write}; {nearest('', notebook.names)}")
            if notebook.problems:  # told once, at the notebook
                self.error(element, "\n".join(map(str, notebook.problems)))
                return
            if target.anchor not in notebook.names:
                what = f"{posixpath.basename(path)} has no cell '{target.anchor}'"
                raise _Bad(line, f"{what}; {nearest(target.anchor, notebook.names)}")
            self.figure(element, caption, path, target)
            if parent.tag == "p":  # a figure is no part of a paragraph
                parent.tag = "div"
                parent.set("class", "weave-embed")
                parent.text = ""
        except _Bad as bad:
            element.remove(caption)
            self.show_error(element, bad.line, bad.message)

    def pdf(self, element: etree.Element, caption: etree.Element, target: _Target) -> None:
        """The pages of a PDF where the browser shows them, and a link in any case."""
        uri = self.site.layout.page_uri(target.path)
        if uri is None or not isfile(self.site.layout.root / target.path):
            raise _Bad(
                target.line, f"no file {target.path} under {self.site.layout.docs}/; put the PDF beside the note"
            )
        element.remove(caption)
        label = escape("".join(caption.itertext()).strip(), quote=True)
        link = f'<a href="weave:{uri}" download>{posixpath.basename(uri)}</a>'
        shown = f'<object data="weave:{uri}" type="application/pdf" aria-label="{label}">'
        self.raw(etree.SubElement(element, "div", {"class": "weave-pdf"}), f"{shown}<p>{link}</p></object>")
        below = etree.SubElement(element, "figcaption")
        below.append(caption)
        caption.tail = " "
        self.raw(etree.SubElement(below, "span"), link)

    def figure(self, element: etree.Element, caption: etree.Element, path: str, target: _Target) -> None:
        outcome = self.site.outcomes[path]
        cell = self.site.notebook_of(path).names[target.anchor]
        run = self.site.run_of(path)
        shown: list[dict[str, Any]] = []
        if run:
            by_name = zip(run.notebook.code, run.outputs, strict=True)
            shown = [out for one, given in by_name if one.name == cell.name for out in outputs.visible(given)]
        self.page.uses.append(Use(self.page.path, self.page.line(target.line), path, target.anchor))
        if not shown and not outcome.problems and not outcome.running:
            raise _Bad(
                target.line,
                f"cell '{cell.name}' of {posixpath.basename(path)} shows nothing; end it in a value",
            )

        element.set("class", f"weave-figure{_running(outcome)}")
        self.figures += 1
        name = f"{outcome.notebook.stem}-{cell.name}-{self.figures}".replace("_", "-")
        element.remove(caption)
        element.set("id", name)
        caption.set("id", f"{name}-caption")
        for problem in outcome.problems:
            self.raw(etree.SubElement(element, "div"), error_html(str(problem)))
        label = f'aria-labelledby="{name}-caption"'
        body = "".join(outputs.to_html(out, f"{name}-{i}", label) for i, out in enumerate(shown))
        if outcome.running and not shown:
            body = "<p>The notebook runs for the first time …</p>"
        self.raw(etree.SubElement(element, "div", {"class": "weave-output"}), body)
        below = etree.SubElement(element, "figcaption")
        below.append(caption)
        caption.tail = " "
        link = etree.SubElement(below, "a", {"class": "weave-cell", "href": self.href(path, target.anchor)})
        link.text = AtomicString(f"{posixpath.basename(path)} · {cell.name}")
        details = etree.SubElement(element, "details", {"class": "weave-code"})
        if target.query == "code":
            details.set("open", "open")
        etree.SubElement(details, "summary").text = AtomicString("code")
        number = self.site.notebook_of(path).code.index(cell)
        stem, known = outcome.notebook.stem, provenance.name_of(cell, number)
        take = f'<a class="weave-needs" href="weave:notebooks/{stem}/{known}.py" download>with what it needs</a>'
        code = f'{outputs.code_html(cell.source)}<p class="weave-take">{take}</p>'
        self.raw(etree.SubElement(details, "div"), code)
        if run and number < len(run.notebook.code):
            about = provenance.as_html(run, number, f"weave:notebooks/{stem}/provenance.json")
            self.raw(etree.SubElement(element, "div"), about)

    # -- pieces

    def raw(self, element: etree.Element, html: str) -> None:
        element.text = AtomicString(self.md.htmlStash.store(html))

    def show_error(self, element: etree.Element, line: int, message: str) -> None:
        """Say what is wrong in the element's place on the page, and record it."""
        self.error(element, str(self.page.report(line, message)))

    def error(self, element: etree.Element, text: str) -> None:
        for child in list(element):
            element.remove(child)
        tail = element.tail
        element.attrib.clear()
        element.tail = tail
        element.tag = "strong" if element.tag in ("a", "img") else "div"
        element.set("class", "weave-error")
        element.text = AtomicString(text)


class _Bad(Exception):
    def __init__(self, line: int, message: str) -> None:
        self.line, self.message = line, message


class _Unmark(Postprocessor):
    """Line numbers that ended up in text (a link shown as code) go."""

    def run(self, text: str) -> str:
        return unmark(_ERROR_SPAN.sub("", text))


def _running(outcome: Outcome) -> str:
    """What is shown is of before: its notebook runs just now."""
    return " weave-running" if outcome.running else ""


def _alone(parent: etree.Element, element: etree.Element) -> bool:
    block = parent.tag in ("p", "li", "td", "div", "dd")
    return block and len(parent) == 1 and not (parent.text or "").strip() and not (element.tail or "").strip()


def error_html(message: str, detail: str = "") -> str:
    """An error as it stands on a page while serving, with a traceback where there is one."""
    below = f'<pre tabindex="0">{escape(detail)}</pre>' if detail else ""
    return f'<div class="weave-error">{escape(message)}{below}</div>'
