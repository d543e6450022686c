"""Content that pages get from other pages, once all are rendered: sources, backlinks, hours, overviews."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from mkdocs.structure.files import File, Files
from mkdocs.structure.toc import get_toc
from mkdocs.utils import get_relative_url

from weave.book import hours, mentions, overviews
from weave.book.book import Book
from weave.book.overviews import Collected
from weave.book.reading import date_of
from weave.note import code_pages, headings
from weave.note.embeds import error_html
from weave.note.page import Page
from weave.site.every_page import MINUTES
from weave.source.problem import Problem


def show_sources(book: Book, files: Files) -> None:
    """Fill the pages of the tests and modules that a page links to, and drop the others."""
    linked = {path for page in book.pages.values() for path in page.sources}
    for path in book.layout.source_files():
        file = files.get_file_from_path(f"source/{path}.md")
        if file is None:
            continue
        if path not in linked or file.page is None:
            files.remove(file)
            continue
        try:
            file.page.content, tokens = code_pages.page(path, book.layout.read(path))
            file.page.toc = get_toc(tokens)
            file.page.present_anchor_ids = headings.read(file.page.content)[0]
        except (SyntaxError, UnicodeDecodeError):  # reported where it is linked to
            file.page.content = "".join(error_html(str(problem)) for problem in book.unreadable(path))


def add_backlinks(book: Book, files: Files, path_of: Callable[[File], str]) -> dict[str, str]:
    """Add to each note the pages that link to it; return what was added. ``path_of`` returns a page's source."""
    shown = [(file, file.page) for file in files.documentation_pages() if file.page and file.page.content]
    linking = [
        (str(page.title), file.url, mentions.find(page.content or "", file.url))
        for file, page in shown
        if path_of(file) in book.pages
    ]
    feet = {}
    for file, page in shown:
        if file.src_uri.startswith("notes/") and not file.src_uri.endswith("index.md"):
            feet[file.src_uri] = mentions.foot(file.url, linking)
            page.content = f"{page.content}{feet[file.src_uri]}"
    return feet


def fill_overviews(book: Book, files: Files) -> None:
    """Fill the pages made of what others say: open questions, reading list, hours, map."""
    entries = _log_entries(book, files)
    collected = []
    for file in files.documentation_pages():
        kind = {"notes": "note", "log": "log"}.get(file.src_uri.partition("/")[0], "")
        if kind and file.page and file.page.content and not file.src_uri.endswith("index.md"):
            meta = file.page.meta
            page = Collected(str(file.page.title), file.url, file.page.content, kind, Path(file.src_uri).stem)
            page.description = str(meta.get("description", ""))
            needs = meta.get("needs")  # anything but a list of names is reported where it is written
            page.needs = [name for name in needs if isinstance(name, str)] if isinstance(needs, list) else []
            page.date, page.minutes = date_of(meta.get("date")), meta.get(MINUTES, 0)
            collected.append(page)

    def address(uri: str, url: str) -> str:
        file = files.get_file_from_path(uri)
        return get_relative_url(file.url, url) if file else ""

    overview = {
        "questions": overviews.questions,
        "reading": lambda _, url: overviews.reading_list(book, lambda uri: address(uri, url)),
        "hours": lambda _, url: hours.overview(entries, lambda there: get_relative_url(there, url)),
        "map": lambda notes, url: overviews.reading_map(notes, url, lambda note: f"{note.minutes} min"),
    }
    for file in files.documentation_pages():
        for name, make in overview.items():
            mark = f"<!-- weave:{name} -->"
            if file.page and file.page.content and mark in file.page.content:
                file.page.content = file.page.content.replace(mark, make(collected, file.url))


def _log_entries(book: Book, files: Files) -> list[hours.Entry]:
    """Return the log with its hours; each entry shows its own, and what changed on its day."""
    entries, changed, layout = [], None, book.layout
    for file in files.documentation_pages():
        path, page = source_of(book, file), file.page
        date = date_of(page.meta.get("date")) if page and file.src_uri.startswith("log/") else None
        if not path or not page or not page.content or not date:
            continue
        if changed is None:
            changed = hours.touched(layout.root, f"{layout.docs}/notes", layout.notebooks)
        entry = hours.Entry(str(page.title), file.url, date, hours.sessions(page.meta.get("sessions")))
        entries.append(entry)
        uris = {f"notes/{Path(name).stem.replace('_', '-')}.md" for name in changed.get(date, [])}
        notes = [note for uri in sorted(uris) if (note := files.get_file_from_path(uri)) and note.page]
        links = [(str(note.page.title), get_relative_url(note.url, file.url)) for note in notes if note.page]
        about = hours.about(entry, links)
        page.content = page.content.replace("</h1>", f"</h1>\n{about}", 1)
    return entries


def needs_others(page: Page, files: Files, reported: Collection[Problem]) -> bool:
    """Return whether a page, rendered alone, needs a page or a name that only a build of all pages finds."""
    unshown = any(files.get_file_from_path(f"source/{path}.md") is None for path in page.sources)
    return unshown or any(problem not in reported for problem in page.problems)


def source_of(book: Book, file: File) -> str | None:
    """Return the Markdown file behind a page; None for a page that the build makes."""
    path = f"{book.layout.docs}/{file.src_uri}"
    written = file.generated_by is None and file.src_uri.endswith(".md")
    return path if written and book.is_file(path) else None
