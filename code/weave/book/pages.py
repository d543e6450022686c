"""Rendering without MkDocs' templates: a page's Markdown as HTML, and a notebook as mkdocs-jupyter wants it."""

from __future__ import annotations

import datetime
import html as html_module
import json
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from markdown import Markdown

from weave.book import hours
from weave.book.book import Site
from weave.note import headings, outputs
from weave.note.numbers import show
from weave.note.page import REFERENCE, Page, rendering
from weave.run.claim import CLAIM_MIME
from weave.run.notebook import Notebook
from weave.run.store import Run
from weave.source import front_matter
from weave.source.front_matter import split
from weave.source.layout import relative_url
from weave.source.problem import Problem

_ID = re.compile(r'\sid="([^"]+)"')
_SEPARATOR = re.compile(r"<!--weave:(\d+)-->")
_PRE = re.compile(r"(<pre\b.*?</pre>)", re.DOTALL)
_SUPERFLUOUS = [
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"<style\b.*?</style>",
        r"<script\b.*?</script>",
        r'<div class="zeroclipboard-container">.*?</clipboard-copy>\s*</div>',
        r'<div class="clipboard-copy-txt".*?</div>',
        r'<div class="jp-Collapser[^>]*>\s*</div>',
        r'<div class="jp-(?:In|Out)putPrompt[^>]*>[^<]*</div>',
    )
]
_PIECE = re.compile(
    r'\sid="cell-id=(?P<cell>[^"]+)"'
    r'|<div class="highlight-ipynb[^"]*"><pre><span></span>(?P<code>.*?)</pre></div>',
    re.DOTALL,
)
_REFERENCE_MARK = re.compile(rf' {REFERENCE}="\d+"')
_REFERENCE = re.compile(rf'<a\b[^>]* {REFERENCE}="(\d+)"[^>]*>.*?</a>', re.DOTALL)
_FILE = re.compile(r'\b(href|src|data)="weave:([^"]+)"')
_CODE_CELL = re.compile(r'<div class="jp-Cell jp-CodeCell[^>]*?\sid="([^"]+)"[^>]*>')


def anchors(html: str) -> set[str]:
    """The ids that a link can end at."""
    return {html_module.unescape(found) for found in _ID.findall(html)}


def start(site: Site, path: str, text: str, markdown: str) -> Page:
    """A page about to be rendered; ``markdown`` is what is left of ``text`` behind its front matter."""
    before = len(text) - len(markdown) if text.endswith(markdown) else 0
    page = Page(path, first_line=text[:before].count("\n") + 1, site=site)
    page.problems += hours.problems(path, text)
    page.problems += front_matter.problems(site.layout, path, text)
    site.pages[path] = page
    return page


def render_page(site: Site, path: str, md: Markdown) -> str:
    """One Markdown file of the docs folder as HTML; what is wrong with it is in ``site.pages[path]``."""
    text = site.layout.read(path)
    markdown, _ = split(text)
    with rendering(start(site, path, text, markdown)) as page:
        html = md.reset().convert(markdown)
    page.anchors, page.headings = anchors(html), headings.read(html)
    return html


def render_prose(site: Site, notebook: Notebook, md: Markdown) -> tuple[dict[int, str], list[dict[str, Any]]]:
    """A notebook's text cells through the same Markdown as the notes: HTML by cell number, and the headings.

    They are rendered as one text that has the notebook's own line numbers, so that errors name the right line, notes
    may be apart from their reference, and no two headings get the same id.
    """
    lines = [""] * (notebook.text.count("\n") + 2)
    for number, cell in enumerate(notebook.cells):
        if cell.kind == "markdown":
            source = cell.source.splitlines()
            lines[cell.line - 1 : cell.line - 1 + len(source)] = source
        lines[max(cell.line - 2, 0)] = f"<!--weave:{number}-->"
    lines[-1] = f"<!--weave:{len(notebook.cells)}-->"  # behind it what Markdown puts at the end: references, footnotes
    page = Page(notebook.path, site=site)
    site.pages[notebook.path] = page
    with rendering(page), _without(notebook.names, md):
        html = md.reset().convert("\n".join(lines))
    page.anchors, page.headings = anchors(html) | set(notebook.names), headings.read(html)
    if notebook.text != site.outcomes[notebook.path].notebook.text:  # shown while today's fails: not to be mended
        site.pages[notebook.path] = Page(notebook.path, site=site, anchors=page.anchors, headings=page.headings)
    pieces = _SEPARATOR.split(html)
    return {int(pieces[i]): pieces[i + 1].strip() for i in range(1, len(pieces), 2)}, getattr(md, "toc_tokens", [])


@contextmanager
def _without(taken: Collection[str], md: Markdown) -> Iterator[None]:
    """No heading gets an id that is taken: a section "Training" above the cell ``training``."""
    toc: Any = md.treeprocessors["toc"]
    plain = toc.slugify

    def slugify(text: str, separator: str) -> str:
        slug = plain(text, separator)
        return f"{slug}{separator}section" if slug in taken else slug

    toc.slugify = slugify
    try:
        yield
    finally:
        toc.slugify = plain


def document(run: Run, prose: dict[int, str], errors: list[str]) -> dict[str, Any]:
    """The executed notebook for mkdocs-jupyter: prose as HTML, figures as on the notes, cells known by their names."""
    cells: list[dict[str, Any]] = [_html_cell("weave-top", f'<div class="weave-top">{"".join(errors)}</div>')]
    count = 0
    for number, cell in enumerate(run.notebook.cells):
        if cell.kind == "markdown":
            cells.append(_html_cell(f"prose-{number}", prose.get(number, "")))
            continue
        count += 1
        if "remove-cell" in cell.tags:
            continue
        name = cell.name or f"cell-{count}"
        cells.append(
            {
                "cell_type": "code",
                "id": name,
                "metadata": {},
                "execution_count": count,
                "source": cell.source,
                "outputs": [_for_page(output, f"{name}-{i}", name) for i, output in enumerate(run.outputs[count - 1])],
            }
        )
    if end := prose.get(len(run.notebook.cells)):
        cells.append(_html_cell("weave-end", end))
    return {**_NOTEBOOK, "cells": cells}


def download(run: Run) -> dict[str, Any]:
    """The executed notebook as Jupyter wants it."""
    cells: list[dict[str, Any]] = []
    count = 0
    for number, cell in enumerate(run.notebook.cells):
        common = {"id": cell.name or f"cell-{number}", "metadata": {"tags": list(cell.tags)}, "source": cell.source}
        if cell.kind == "markdown":
            cells.append({"cell_type": "markdown", **common})
        else:
            count += 1
            given = run.outputs[count - 1]
            given = [
                out | ({"execution_count": count} if out["output_type"] == "execute_result" else {}) for out in given
            ]
            cells.append({"cell_type": "code", **common, "execution_count": count, "outputs": given})
    return {**_NOTEBOOK, "cells": cells}


def download_bytes(run: Run) -> bytes:
    return (json.dumps(download(run), indent=1, ensure_ascii=False) + "\n").encode()


_NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    },
}


def _html_cell(name: str, html: str) -> dict[str, Any]:
    # On one line, or a blank line would end the HTML block and what follows would be parsed as Markdown again.
    pieces = _PRE.split(html)
    flat = "".join(part.replace("\n", "&#10;" if i % 2 else " ") for i, part in enumerate(pieces))
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": f'<div class="weave-prose">{flat}</div>'}


def _for_page(output: dict[str, Any], prefix: str, name: str) -> dict[str, Any]:
    data = output.get("data", {})
    if CLAIM_MIME in data:
        rows = "".join(
            f'<li id="value-{key}"><code>{key}</code> = {show(tuple(value) if isinstance(value, list) else value)}</li>'
            for key, value in data[CLAIM_MIME].items()
        )
        return _html_output(f'<ul class="weave-published" aria-label="published values">{rows}</ul>')
    if output["output_type"] in ("stream", "error"):
        return output
    return _html_output(outputs.to_html(output, prefix, f'aria-label="what the cell {name} shows"'))


def _html_output(html: str) -> dict[str, Any]:
    return {"output_type": "display_data", "metadata": {}, "data": {"text/html": html}}


def clean(html: str, hidden: set[str]) -> str:
    """What mkdocs-jupyter made of a notebook, without what this site has already: the theme's own code blocks, copy
    buttons and colours stand in for 584 kB of style sheets and the scripts that come with each page.

    ``hidden`` names the cells whose code is folded away (tag ``hide-input``).
    """
    html = html[html.index('<div class="jupyter-wrapper">') :]
    for superfluous in _SUPERFLUOUS:
        html = superfluous.sub("", html)
    name = ""

    def piece(match: re.Match[str]) -> str:
        nonlocal name
        if match["cell"]:
            name = match["cell"]
            return f' id="{name}"'
        code = f'<div class="highlight"><pre><code>{match["code"].strip()}</code></pre></div>'
        return f'<details class="weave-code"><summary>code</summary>{code}</details>' if name in hidden else code

    return _PIECE.sub(piece, html)


def show_dangling(html: str, dangling: dict[int, Problem]) -> str:
    """The page with what is wrong in the place of each link that leads to no anchor."""

    def link(match: re.Match[str]) -> str:
        problem = dangling.get(int(match[1]))
        return f'<strong class="weave-error">{html_module.escape(str(problem))}</strong>' if problem else match[0]

    return _REFERENCE.sub(link, html) if dangling else html


def without_marks(html: str) -> str:
    return _REFERENCE_MARK.sub("", html)


def with_files(html: str, url: str) -> str:
    """The page with ``href="weave:path/in/site"`` as links from its own place."""
    return _FILE.sub(lambda match: f'{match[1]}="{relative_url(match[2], url)}"', html)


@lru_cache(maxsize=512)
def minutes(html: str) -> int:
    """How long a page takes to read: 200 words a minute, formulas and code counted as their words."""
    text = re.sub(r"<(svg|details|style)\b.*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL)
    return max(1, round(len(text.split()) / 200))


def date_of(value: Any) -> datetime.date | None:
    """A post's date, as YAML or the blog plugin has it."""
    value = getattr(value, "created", None) or (value.get("created") if isinstance(value, dict) else value)
    return value.date() if isinstance(value, datetime.datetime) else value if isinstance(value, datetime.date) else None


def annotate(html: str, top: str, above: Callable[[str], str]) -> str:
    """Put ``top`` above a notebook's first cell, and ``above(name)`` above each code cell."""
    html = html.replace('<div class="weave-top">', f'<div class="weave-top">{top}', 1)
    return _CODE_CELL.sub(lambda match: match[0] + above(match[1]), html)
