"""Sources added to the files of a build, and taken out of them, before any page is rendered."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

from weave.book import written
from weave.book.book import Book
from weave.note.embeds import error_html
from weave.site.collected import source_of
from weave.source.layout import Layout
from weave.source.problem import not_utf8


def replace_unreadable(book: Book, files: Files, config: MkDocsConfig) -> None:
    """Replace each page that is not UTF-8 with an error message; leave out what lies outside of the repository."""
    book.unreadable_pages.clear()
    for problem in written.outside(book.layout):
        uri = problem.path.removeprefix(f"{book.layout.docs}/")
        for file in [file for file in files if file.src_uri == uri or file.src_uri.startswith(f"{uri}/")]:
            files.remove(file)
    for file in list(files.documentation_pages()):
        path = source_of(book, file)
        if path is None:
            continue
        data = (book.layout.root / path).read_bytes()
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            problem = not_utf8(path, data, error)
            book.unreadable_pages.append(problem)
            files.remove(file)
            content = f"# {file.src_uri}\n\n{error_html(str(problem))}\n"
            files.append(File.generated(config, file.src_uri, content=content))


def draft_docs(layout: Layout, files: Files, config: MkDocsConfig) -> list[str]:
    """Return the paths of the pages that ``draft_docs`` in mkdocs.yml names."""
    if not config.draft_docs:
        return []
    pages = (file.src_uri for file in files if file.is_documentation_page())
    return [f"{layout.docs}/{uri}" for uri in pages if config.draft_docs.match_file(uri)]


def add_code(layout: Layout, files: Files, config: MkDocsConfig) -> None:
    """Add a page for each test and module; collected.show_sources drops those that no page links to."""
    for path in layout.source_files():
        head = f"---\ntitle: {path}\nsearch:\n  exclude: true\n---\n"
        uri = f"source/{path}.md"
        files.append(File.generated(config, uri, content=head, inclusion=InclusionLevel.NOT_IN_NAV))


def leave_out(paths: Collection[str], layout: Layout, files: Files, config: MkDocsConfig) -> None:
    """Leave drafts out of the site: no page, no line in the navigation."""
    uris = {layout.page_uri(path) for path in paths}
    for uri in uris:
        if uri and (file := files.get_file_from_path(uri)):
            files.remove(file)
    if config.nav is not None:
        config.nav = _without(config.nav, uris)


def _without(nav: Any, uris: Collection[str | None]) -> Any:
    """Return what is left of a navigation; None if nothing is."""
    if isinstance(nav, list):
        return [left for one in nav if (left := _without(one, uris)) is not None] or None
    if isinstance(nav, dict):
        return {title: left for title, entry in nav.items() if (left := _without(entry, uris)) is not None} or None
    return None if nav in uris else nav
