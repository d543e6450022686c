"""``![caption](x.py#cell)``: a cell's output as a figure, with its code, its provenance and a link to the notebook.

A new kind of embed gets a method of `Embeds`, a line in `Embeds.embed` that chooses it, and its file extension in
note/extension.py (`_EMBEDDED`).
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from html import escape
from typing import Any
from xml.etree import ElementTree as etree

from markdown.util import AtomicString

from weave.note import outputs
from weave.note.lines import unmark
from weave.note.links import LinkError, Links, Target, running_class
from weave.note.page import Use
from weave.run import provenance
from weave.source.problem import nearest

EMBED = "weave-embed"
"""Tag of an embed before it is resolved; its first child is the caption, ``src`` its destination."""


class Embeds:
    """The embeds of one page.

    Args:
        links: Resolves their destinations.
        stash: Keeps raw HTML out of Markdown's reach and returns a placeholder for it.
    """

    def __init__(self, links: Links, stash: Callable[[str], str]) -> None:
        self.links, self.stash = links, stash
        self.page, self.book = links.page, links.book
        self.figures = 0

    def embed(self, parent: etree.Element, element: etree.Element) -> None:
        """Fill the figure. Raises LinkError, with ``element`` as the place to show it."""
        url = element.attrib.pop("src", "")
        line, caption = self.links.lines.line_of(url), element[0]
        element.tag = "figure"
        element.set("class", "weave-figure")
        try:
            if not _alone(parent, element):
                raise LinkError(line, "an embed is a paragraph of its own; put blank lines around it")
            if not "".join(caption.itertext()).strip():
                raise LinkError(line, "an embed has no caption; say in it what to see: ![caption](…)")
            target = self.links.resolve(url)
            if target and target.path.endswith(".pdf"):
                self._pdf(element, caption, target)
                _leave_paragraph(parent)
                return
            if target is None or not (target.short or self.book.layout.is_notebook(target.path)):
                folder = self.book.layout.notebooks
                raise LinkError(line, f"'{unmark(url)}' is not a notebook; notebooks are in {folder}/")
            path = self.links.notebook_of(target)
            self.links.leads_to(line, path)
            notebook, base = self.book.notebook(path), posixpath.basename(path)
            if not target.anchor:
                what = f"'{unmark(url)}' names no cell to show; write {base}#cell"
                raise LinkError(line, f"{what}; {nearest('', notebook.names)}")
            if notebook.problems:  # reported once, at the notebook
                show_error(element, "\n".join(map(str, notebook.problems)))
                return
            if target.anchor not in notebook.names:
                raise LinkError(line, f"{base} has no cell '{target.anchor}'; {nearest(target.anchor, notebook.names)}")
            self._cell(element, caption, path, target)
            _leave_paragraph(parent)
        except LinkError:
            if caption in element:
                element.remove(caption)
            raise

    def _pdf(self, element: etree.Element, caption: etree.Element, target: Target) -> None:
        """Show the pages of a PDF where the browser can, and a link in any case."""
        layout = self.book.layout
        uri = layout.page_uri(target.path)
        if uri is None or not self.book.is_file(target.path):
            raise LinkError(target.line, f"no file {target.path} under {layout.docs}/; put the PDF beside the note")
        element.remove(caption)
        label = escape("".join(caption.itertext()).strip(), quote=True)
        link = f'<a href="weave:{uri}" download>{posixpath.basename(uri)}</a>'
        viewer = f'<object data="weave:{uri}" type="application/pdf" aria-label="{label}">'
        self._raw(etree.SubElement(element, "div", {"class": "weave-pdf"}), f"{viewer}<p>{link}</p></object>")
        below = etree.SubElement(element, "figcaption")
        below.append(caption)
        caption.tail = " "
        self._raw(etree.SubElement(below, "span"), link)

    def _cell(self, element: etree.Element, caption: etree.Element, path: str, target: Target) -> None:
        outcome, result, notebook = self.book.outcome(path), self.book.result(path), self.book.notebook(path)
        assert outcome
        cell = notebook.names[target.anchor]
        visible: list[dict[str, Any]] = []
        if result:
            cells = zip(result.notebook.code, result.outputs, strict=True)
            visible = [out for other, given in cells if other.name == cell.name for out in outputs.visible(given)]
        self.page.uses.append(Use(self.page.path, self.page.line(target.line), path, target.anchor))
        if not visible and outcome.run:
            what = f"cell '{cell.name}' of {posixpath.basename(path)} shows nothing; end it in a value"
            raise LinkError(target.line, what)

        element.set("class", f"weave-figure{running_class(outcome)}")
        self.figures += 1
        name = f"{notebook.stem}-{cell.name}-{self.figures}".replace("_", "-")
        element.remove(caption)
        element.set("id", name)
        caption.set("id", f"{name}-caption")
        for problem in outcome.problems:
            self._raw(etree.SubElement(element, "div"), error_html(str(problem)))
        label = f'aria-labelledby="{name}-caption"'
        body = "".join(outputs.to_html(out, f"{name}-{i}", label) for i, out in enumerate(visible))
        if outcome.running and not visible:
            body = "<p>The notebook runs for the first time …</p>"
        self._raw(etree.SubElement(element, "div", {"class": "weave-output"}), body)
        below = etree.SubElement(element, "figcaption")
        below.append(caption)
        caption.tail = " "
        link = etree.SubElement(below, "a", {"class": "weave-cell", "href": self.links.href(path, target.anchor)})
        link.text = AtomicString(f"{posixpath.basename(path)} · {cell.name}")
        details = etree.SubElement(element, "details", {"class": "weave-code"})
        if target.query == "code":
            details.set("open", "open")
        etree.SubElement(details, "summary").text = AtomicString("code")
        folder = f"weave:notebooks/{notebook.stem}"
        script = f'<a class="weave-up-to" href="{folder}/{cell.key}.py" download>the notebook up to here</a>'
        code = f'{outputs.code_html(cell.source)}<p class="weave-take">{script}</p>'
        self._raw(etree.SubElement(details, "div"), code)
        if result and (ran := result.notebook.names.get(target.anchor)):
            about = provenance.as_html(result, ran, f"{folder}/provenance.json")
            self._raw(etree.SubElement(element, "div"), about)

    def _raw(self, element: etree.Element, html: str) -> None:
        element.text = AtomicString(self.stash(html))


def _leave_paragraph(parent: etree.Element) -> None:
    """Turn the paragraph around a figure into a division: HTML allows no figure in a paragraph."""
    if parent.tag == "p":
        parent.tag = "div"
        parent.set("class", "weave-embed")
        parent.text = ""


def show_error(element: etree.Element, text: str) -> None:
    """Put an error message in the place of an element."""
    for child in list(element):
        element.remove(child)
    tail = element.tail
    element.attrib.clear()
    element.tail = tail
    element.tag = "strong" if element.tag in ("a", "img") else "div"
    element.set("class", "weave-error")
    element.text = AtomicString(text)


def error_html(message: str, detail: str = "") -> str:
    """Return an error message as HTML, with a traceback where there is one."""
    below = f'<pre tabindex="0">{escape(detail)}</pre>' if detail else ""
    return f'<div class="weave-error">{escape(message)}{below}</div>'


def _alone(parent: etree.Element, element: etree.Element) -> bool:
    """Return whether an element is the only content of its paragraph, list item or cell."""
    block = parent.tag in ("p", "li", "td", "div", "dd")
    return block and len(parent) == 1 and not (parent.text or "").strip() and not (element.tail or "").strip()
