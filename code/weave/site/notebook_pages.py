"""A page for each notebook: mkdocs-jupyter renders the executed notebook, with its prose rendered as the notes are."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from markdown import Markdown
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page as MkDocsPage
from mkdocs.structure.pages import _RelativePathTreeprocessor
from mkdocs.structure.toc import get_toc

from weave.book.asked import Rendered
from weave.book.book import Book
from weave.book.render import render_prose
from weave.note import outputs
from weave.note.embeds import error_html
from weave.note.numbers import show
from weave.run import answers
from weave.run.claim import CLAIM_MIME
from weave.run.store import Result
from weave.source.files import cached, digest, write_atomically
from weave.source.problem import Problem

_CONVERTERS = [version(name).encode() for name in ("mkdocs-jupyter", "nbconvert")]
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
_CELL_OR_HEADING = re.compile(r'<div class="jp-Cell jp-CodeCell[^>]*?\sid="(?P<cell>[^"]+)"[^>]*>|<h(?P<level>[1-6])\b')


class NotebookPages:
    """The notebooks' pages of one site.

    Args:
        book: Has the notebooks and their results.
        rendered: Remembers what was made of each page while the site is served.
    """

    def __init__(self, book: Book, rendered: Rendered) -> None:
        self.book, self.rendered = book, rendered
        self.folder = tempfile.TemporaryDirectory(prefix="weave-")
        """The executed notebooks as files, where mkdocs-jupyter reads them. This process's own, so that no two builds
        meet in it; deleted by `close`."""
        self.headings: dict[str, list[Any]] = {}
        """Each notebook's headings by its page's path under docs/. Set by `write`; read when the page is rendered."""
        self.shown: dict[str, dict[str, str]] = {}
        """The outputs of each notebook as HTML, by their place (`_place`). Set and read as the headings are."""

    def close(self) -> None:
        self.folder.cleanup()

    def prepare(self, config: MkDocsConfig) -> None:
        """Turn off mkdocs-jupyter's own cache: it is written in place, where a kill leaves half an entry."""
        if jupyter := config.plugins.get("mkdocs-jupyter"):
            jupyter.config["cache"] = False

    def add(self, files: Files, config: MkDocsConfig) -> None:
        """Add a page for each notebook; `write` fills its file once every page is known."""
        for path in self.book.outcomes:
            file = self._file(path)
            if not file.exists():
                write_atomically(file, b"{}")
            files.append(File(self._uri(path), str(file.parents[1]), config.site_dir, config.use_directory_urls))

    def write(self, files: Files, config: MkDocsConfig) -> None:
        """Write each executed notebook as mkdocs-jupyter expects it."""
        for path, outcome in self.book.outcomes.items():
            uri = self._uri(path)
            file = files.get_file_from_path(uri)
            assert file is not None
            notebook = outcome.run.notebook if outcome.run else outcome.notebook
            run = self.book.result(path) or Result(notebook, [[] for _ in notebook.code])
            if known := self.rendered.get(path, run.notebook.text):
                self.headings[uri], self.shown[uri], self.book.pages[path] = known
                continue
            md = Markdown(extensions=config.markdown_extensions, extension_configs=config.mdx_configs)
            _RelativePathTreeprocessor(file, files, config)._register(md)
            prose, headings, asked = render_prose(self.book, run.notebook, md)
            self.headings[uri], self.shown[uri] = headings, shown(run)
            if outcome.run:
                macros = config.mdx_configs.get("weave.math", {}).get("macros", {})
                self.book.pages[path].problems += problems(run, macros)
            errors = [error_html(str(problem), problem.detail) for problem in outcome.problems]
            body = json.dumps(document(run, prose, errors), sort_keys=True).encode()
            target = self._file(path)
            if target.read_bytes() != body:
                write_atomically(target, body)
            self.rendered.put(path, run.notebook.text, asked, (headings, self.shown[uri], self.book.pages[path]))

    def render_with(self, page: MkDocsPage) -> None:
        """Let mkdocs-jupyter convert a notebook only once, as long as the notebook is the same."""
        uri = page.file.src_uri
        path = self.path_of(uri)
        hidden = {cell.name or "" for cell in self.book.notebook(path).code if "hide-input" in cell.tags}
        convert = page.render

        def render(config: MkDocsConfig, files: Files) -> None:
            def make() -> str:
                convert(config, files)
                return clean(page.content or "", hidden)

            key = digest(
                self._file(path).read_bytes(), repr(sorted(hidden)).encode(), Path(__file__).read_bytes(), *_CONVERTERS
            )
            html = cached(self.book.layout.root / ".cache/weave/pages" / Path(path).stem, key, make)
            page.content = _PLACE.sub(lambda place: self.shown[uri][place[1]], html)
            headings = self.headings[uri]
            page.toc = get_toc(headings)
            page.title = next((heading["name"] for heading in headings if heading["level"] == 1), Path(path).name)

        page.render = render  # type: ignore[method-assign]

    def path_of(self, uri: str) -> str:
        return f"{self.book.layout.notebooks}/{Path(uri).stem}.py"

    def annotate(self, output: str, path: str, url: Callable[[str], str]) -> str:
        """Return a finished page with the name of each cell, and links to the notes that use it, or the notebook.

        Args:
            output: The page.
            path: The notebook.
            url: Returns the address of a note, given its path.
        """
        stem, names = Path(path).stem, self.book.notebook(path).names
        level = 1

        def links(users: list[str]) -> str:
            titles = self.book.pages
            return ", ".join(f'<a href="{url(user)}">{escape(titles[user].title)}</a>' for user in users)

        uses = {
            user: {use.cell for use in page.uses if use.notebook == path}
            for user, page in self.book.pages.items()
            if user != path and any(use.notebook == path for use in page.uses)
        }
        behind = f"The notebook behind {links(list(uses))}. " if uses else ""
        top = (
            f'<p class="weave-about">{behind}Run it: <code>python {path}</code>, or take it along: '
            f'<a href="{stem}.ipynb" download>{stem}.ipynb</a>, <a href="{stem}.py" download>{stem}.py</a>.</p>'
        )

        def above(match: re.Match[str]) -> str:
            nonlocal level
            if match["level"]:
                level = int(match["level"])
                return match[0]
            cell, tag = match["cell"], f"h{min(level + 1, 6)}"
            link = f'<a href="#{cell}" title="Link to this cell">{cell}</a>'
            name = f'<{tag} class="weave-name">{link}</{tag}>' if cell in names else ""
            users = [user for user, cells in uses.items() if cell in cells]
            used = f"used in {links(users)} · " if users else ""
            href = f"weave:notebooks/{stem}/{cell}.py"
            script = f'<a class="weave-up-to" href="{href}" download>the notebook up to here</a>'
            return f'{match[0]}{name}<p class="weave-used">{used}{script}</p>'

        output = output.replace('<div class="weave-top">', f'<div class="weave-top">{top}', 1)
        return _CELL_OR_HEADING.sub(above, output)

    def _uri(self, path: str) -> str:
        uri = self.book.layout.page_uri(path)
        assert uri is not None
        return uri

    def _file(self, path: str) -> Path:
        return Path(self.folder.name) / self._uri(path)


def document(run: Result, prose: dict[int, str], errors: list[str]) -> dict[str, Any]:
    """Return the executed notebook for mkdocs-jupyter: prose as HTML, figures as on the notes, cells by name."""
    cells: list[dict[str, Any]] = [_html_cell("weave-top", f'<div class="weave-top">{"".join(errors)}</div>')]
    count = 0
    for number, cell in enumerate(run.notebook.cells):
        if cell.kind == "markdown":
            cells.append(_html_cell(cell.key, prose.get(number, "")))
            continue
        count += 1
        if "remove-cell" in cell.tags:
            continue
        name = cell.key
        cells.append(
            {
                "cell_type": "code",
                "id": name,
                "metadata": {},
                "execution_count": count,
                "source": cell.source,
                "outputs": [_place(name, i) for i, output in _shown_on_page(run.outputs[count - 1])],
            }
        )
    if end := prose.get(len(run.notebook.cells)):
        cells.append(_html_cell("weave-end", end))
    return {**_NOTEBOOK, "cells": cells}


def download(run: Result) -> dict[str, Any]:
    """Return the executed notebook as Jupyter expects it."""
    cells: list[dict[str, Any]] = []
    count = 0
    for cell in run.notebook.cells:
        common = {"id": cell.key, "metadata": {"tags": list(cell.tags)}, "source": cell.source}
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


def shown(run: Result) -> dict[str, str]:
    """Return what stands in the place of each output on the notebook's page."""
    return {
        f"{cell.key}-{i}": _for_page(output, f"{cell.key}-{i}", cell.key)
        for cell, given in zip(run.notebook.code, run.outputs, strict=True)
        for i, output in _shown_on_page(given)
    }


def problems(run: Result, macros: Mapping[str, str]) -> list[Problem]:
    """Return the problem of each output that no page can show, at its cell."""
    return [
        answers.problem(run.notebook, cell, why)
        for cell, given in zip(run.notebook.code, run.outputs, strict=True)
        for output in outputs.visible(given)
        if (why := outputs.problem(output, macros))
    ]


def _shown_on_page(given: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    visible = outputs.visible(given)
    return [(i, out) for i, out in enumerate(given) if out in visible or CLAIM_MIME in out.get("data", {})]


def _place(name: str, i: int) -> dict[str, Any]:
    """Return an output for mkdocs-jupyter that is only a mark: it would show it otherwise than the notes do."""
    html = f'<weave-output id="{name}-{i}"></weave-output>'
    return {"output_type": "display_data", "metadata": {}, "data": {"text/html": html}}


_PLACE = re.compile(r'<weave-output id="([^"]+)"></weave-output>')


def _for_page(output: dict[str, Any], prefix: str, name: str) -> str:
    data = output.get("data", {})
    if CLAIM_MIME in data:
        rows = "".join(
            f'<li id="value-{key}"><code>{key}</code> = {_typeset(value)}</li>'
            for key, value in data[CLAIM_MIME].items()
        )
        return f'<ul class="weave-published" aria-label="published values">{rows}</ul>'
    return outputs.to_html(output, prefix, f'aria-label="what the cell {name} shows"')


def _typeset(value: Any) -> str:
    """Return a published value as it is set in print: −0.5, 6 × 10⁻³²."""
    text = show(tuple(value) if isinstance(value, list) else value).replace("-", "−")
    return "<span>" + re.sub(r"e[+]?(−?)0*(\d+)", r" × 10<sup>\1\2</sup>", text) + "</span>"


def clean(html: str, hidden: set[str]) -> str:
    """Return mkdocs-jupyter's HTML without its 584 kB of styles and scripts a page; the theme's own take their place.

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
