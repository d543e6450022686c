"""Everything that keeps a book from being published, in one place for all commands."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from weave.book import drafts, written
from weave.book.book import Book
from weave.note import headings, labs, snippets
from weave.note.page import Page
from weave.source import front_matter
from weave.source.problem import Problem, nearest
from weave.source.renaming import unfinished


def problems(book: Book) -> list[Problem]:
    """Return every problem, in the order of files and lines. All pages have to be rendered before."""
    every = [
        *book.unreadable_pages,
        *book.bibliography.problems,
        *book.names.problems,
        *front_matter.mkdocs_yml(book.layout),
    ]
    for outcome in book.outcomes.values():
        every += outcome.problems
    for path, page in book.pages.items():
        every += _left_out(book, page)
        every += [*page.problems, *dangling(book, page).values(), *_ambiguous(book, page)]
        if path.endswith(".md") and book.is_file(path):
            text = book.layout.read(path)
            every += front_matter.problems(book.layout, path, text)
            every += snippets.unrun(path, text)
            every += labs.problems(book.layout, path, text, book.packages)
    every += drafts.links_to(book)
    every += written.outside(book.layout)
    every += unfinished(book.layout)
    sources = [path for path in book.pages if path.endswith(".md") and book.is_file(path)]
    every += written.unwritten(book.layout, sources)
    if book.addresses:  # every page is known
        notes = [path for path in {*book.pages, *book.drafts} if path.endswith(".md") and book.is_file(path)]
        every += labs.unused(book.layout, notes, book.packages)
    if not every:  # MkDocs would repeat some of these in its own words
        every += book.warnings
    return sorted(set(every), key=lambda problem: (problem.path, problem.line, problem.message))


def held(book: Book, pages: Collection[str]) -> str:
    """Return a sentence that counts what was checked on these pages."""
    claims = sum(len(book.pages[path].claims) for path in pages)
    theorems = sum(len(book.pages[path].theorems) for path in pages)
    where = f"on {len(pages)} pages" if len(pages) > 2 else f"in {' and '.join(sorted(pages))}"
    return f"{claims} numbers hold, {theorems} references to theorems have a test, {where}"


def above(book: Book, path: str) -> list[Problem]:
    """Return the problems of a page's front matter."""
    text = book.layout.read(path)
    return front_matter.problems(book.layout, path, text)


def dangling(book: Book, page: Page) -> dict[int, Problem]:
    """Return the problem of each link to an anchor that does not exist, by the link's index on its page."""
    wrong = {}
    for number, reference in enumerate(page.references):
        target = book.pages.get(reference.target)
        if target is None:
            continue
        place = "this page" if target is page else reference.target
        if reference.by_text:
            if headings.find(target, reference.anchor) is None:
                near = nearest(reference.anchor, [heading.text for heading in target.headings])
                what = f"no heading '{reference.anchor}' on {place}; {near}"
                wrong[number] = Problem(page.path, reference.line, what)
        elif reference.anchor not in target.anchors:
            what = f"no anchor '#{reference.anchor}' on {place}"
            if book.layout.is_notebook(reference.target):
                what = f"{Path(reference.target).name} has no cell or heading '{reference.anchor}'"
            near = nearest(reference.anchor, target.anchors)
            wrong[number] = Problem(page.path, reference.line, f"{what}; {near}")
    return wrong


def _left_out(book: Book, page: Page) -> list[Problem]:
    """Return the links to Markdown files that exist, but are no pages (exclude_docs in mkdocs.yml)."""
    if not book.addresses:  # not every page is known
        return []
    docs = f"{book.layout.docs}/"
    known = {*book.pages, *book.drafts, *(problem.path for problem in book.unreadable_pages)}
    return [
        Problem(page.path, line, f"leads to {target}, which mkdocs.yml leaves out of the site; take the link out")
        for line, target in page.links
        if target.startswith(docs) and target.endswith(".md") and target not in known and book.is_file(target)
    ]


def _ambiguous(book: Book, page: Page) -> list[Problem]:
    """Return the links ``#name`` that could mean an anchor of the page or a cell of its notebook."""
    notebook = Path(book.layout.notebook_of(page.path)).name
    what = "'#{name}' is an anchor of this page and a cell of {notebook}; write the path of the notebook, or rename one"
    return [
        Problem(page.path, line, what.format(name=name, notebook=notebook))
        for line, name in page.short_links
        if name in page.anchors
    ]
