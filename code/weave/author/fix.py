"""``weave fix``: rewrite stale claims to the values that the notebooks computed, and long links to short ones."""

from __future__ import annotations

import difflib
import io
import posixpath
from urllib.parse import unquote

import click

from weave.book.book import Book
from weave.note import numbers
from weave.note.page import Claim
from weave.source import markdown
from weave.source.files import write_atomically
from weave.source.layout import Layout
from weave.source.problem import Refused, say


def fix(book: Book, yes: bool, short: bool) -> None:
    """Show what changes, ask, and rewrite it; with ``short``, also links to a page's own notebook.

    A failing notebook's claims are left alone: its values are old.
    """
    for outcome in book.outcomes.values():
        for problem in outcome.problems:
            say(f"{problem} (claims of this notebook are left alone)")
    claims = [claim for page in book.pages.values() for claim in page.claims]
    stale = [claim for claim in claims if not claim.holds and book.outcomes[claim.notebook].run]
    paths = {claim.page for claim in stale} | {path for path in book.pages if short and path.endswith(".md")}
    pages = {path: rewritten(book, path, stale) for path in sorted(paths)}
    if short:
        pages = {path: (before, shortened(book, path, after)) for path, (before, after) in pages.items()}
    changes = {path: (before, after) for path, (before, after) in pages.items() if before != after}
    for path, (before, after) in changes.items():
        show_diff(path, before, after)
    if not changes:
        click.echo("no stale claims" if not stale else "nothing that could be rewritten")
        return
    if not yes and not click.confirm(f"rewrite {len(changes)} file{'s' * (len(changes) > 1)}?"):
        return
    for path, (before, after) in changes.items():
        target = book.layout.root / path
        if target.read_bytes() != before.encode():
            raise Refused(f"{path} was edited in the meantime and is left alone; run weave fix again")
        write_atomically(target, after.encode())


def rewritten(book: Book, path: str, stale: list[Claim]) -> tuple[str, str]:
    """Return a page's text before and after its stale claims are corrected."""
    before = (book.layout.root / path).read_bytes().decode()
    lines = list(io.StringIO(before, newline=""))  # whatever ends them, it stays
    for claim in dict.fromkeys(claim for claim in stale if claim.page == path):
        written = numbers.read(claim.text)
        assert written is not None
        new, row = numbers.rewrite(written, claim.value), claim.line - 1
        links = [link for link in markdown.tokens(lines[row], "link") if link["text"].strip() == claim.text]
        edits = {link.parts["text"]: new for link in links if _cites(book.layout, link["target"], claim)}
        if not edits:
            say(f"{path}:{claim.line}: cannot find '{claim.text}' on this line to rewrite it; make it {new} by hand")
        lines[row] = edited(lines[row], edits)
    return before, "".join(lines)


def shortened(book: Book, path: str, text: str) -> str:
    """Return a page's text with ``#name`` for links to values and cells of the page's own notebook."""
    own = book.layout.notebook_of(path)
    if own not in book.outcomes:
        return text
    page, cells = book.pages[path], book.notebook(own).names
    rendered = {use.line for use in page.uses if use.notebook == own}  # the others are samples of code
    edits = {}
    for link in markdown.tokens(text, "link", "image"):
        address, _, name = link["target"].partition("#")
        file, _, query = address.partition("?")
        start = link.parts["target"][0]
        if link.line not in rendered or text[:start].endswith("\n") or query not in ("", "code"):
            continue
        if not file or posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(file))) != own:
            continue
        # In a text, a name that is an anchor of the page, too, would mean the anchor.
        if name.startswith("=") or (name in cells and (link.kind == "image" or name not in page.anchors)):
            edits[link.parts["target"]] = (f"?{query}" if query else "") + f"#{name}"
    return edited(text, edits)


def _cites(layout: Layout, target: str, claim: Claim) -> bool:
    """Return whether a link's destination is the value of a claim."""
    address, _, name = target.partition("#=")
    path = posixpath.join(posixpath.dirname(claim.page), unquote(address.partition("?")[0]))
    notebook = posixpath.splitext(posixpath.normpath(path))[0] + ".py" if address else layout.notebook_of(claim.page)
    return unquote(name) == claim.name and notebook == claim.notebook


def edited(text: str, edits: dict[tuple[int, int], str]) -> str:
    """Return a text with new words in place of these spans."""
    for (start, end), new in sorted(edits.items(), reverse=True):
        text = text[:start] + new + text[end:]
    return text


def show_diff(path: str, before: str, after: str) -> None:
    """Print the changes of a file in color."""
    for line in difflib.unified_diff(before.splitlines(), after.splitlines(), path, path, lineterm="", n=1):
        click.secho(line, fg={"+": "green", "-": "red", "@": "cyan"}.get(line[:1]))
