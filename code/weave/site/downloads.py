"""Notebooks to take along: each file says how to get what it imports, and its links lead to the site."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable
from urllib.parse import urlsplit

from mkdocs.structure.files import Files

from weave.run.notebook import Notebook
from weave.run.provenance import install, needs
from weave.run.store import Result
from weave.site.notebook_pages import download
from weave.source.layout import Layout
from weave.source.markdown import tokens

NEEDS = "needs"
"""The id of the cell that says how to get what a notebook imports."""


def as_ipynb(run: Result, repository: str, layout: Layout, address: Callable[[str], str]) -> bytes:
    """Return an executed notebook for Jupyter.

    Args:
        run: The notebook and its outputs.
        repository: The address to clone; empty if the site does not know it.
        layout: Says which file a link means.
        address: Returns the full address of the page that shows a file, as `full_address` below does.
    """
    document = download(run)
    for cell in document["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = with_full_addresses(cell["source"], run.notebook.path, layout, address)
    commands = "\n".join(install(repository))
    how = f"To run it with Python 3.11 or newer, get the packages that it imports, once:\n\n```sh\n{commands}\n```"
    document["cells"].insert(0, {"cell_type": "markdown", "id": NEEDS, "metadata": {}, "source": how})
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def as_py(notebook: Notebook, repository: str) -> bytes:
    """Return a notebook's source, with a comment above it."""
    return (needs(repository) + notebook.text).encode()


def full_address(files: Files, layout: Layout, site: str, path: str) -> str:
    """Return the full address of the page that shows a file; empty if none does, or the site's address is unknown."""
    file = files.get_file_from_path(layout.page_uri(path) or "")
    return f"{site}{file.url}" if file and site else ""


def with_full_addresses(text: str, path: str, layout: Layout, address: Callable[[str], str]) -> str:
    """Return a notebook's prose with links that lead to the site from anywhere; one that cannot becomes its text."""
    pieces, done = [], 0
    for token in tokens(text, "link"):
        url = urlsplit(token["target"])
        if not token["target"] or url.scheme or url.netloc or token.start < done:
            continue
        file = posixpath.normpath(posixpath.join(posixpath.dirname(path), url.path)) if url.path else path
        file = posixpath.splitext(file)[0] + ".py" if layout.is_notebook(file) else file
        anchor = url.fragment.replace("=", "value-", 1) if url.fragment.startswith("=") else url.fragment
        full = address(file)
        link = f"[{token['text']}]({full}{'#' * bool(anchor)}{anchor})" if full else token["text"]
        pieces += [text[done : token.start], link]
        done = token.end
    return "".join([*pieces, text[done:]])
