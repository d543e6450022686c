"""Notes that are not published yet: those whose front matter says ``draft: true``, and the notebooks of their names.

They are on the site while it is served, and left out of what is built. What is wrong in one is said, and stops nothing.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection

from weave.book.book import Book
from weave.source.front_matter import meta, read
from weave.source.layout import Layout
from weave.source.markdown import outside_fences
from weave.source.problem import Problem

BANNER = '<p class="weave-draft"><strong>Draft.</strong> Shown while the site is served, left out when it is built.</p>'
_LINK = re.compile(r"\]\(\s*<?([^()\s<>#?]+\.(?:md|py))[^()]*\)")
_TERM = re.compile(r"\[\[([^\[\]|\n]+)(?:\|[^\[\]\n]+)?\]\]")


def drafts(layout: Layout) -> set[str]:
    """Paths of notes and notebooks, relative to the repository's root."""
    found = set()
    for path in (layout.root / layout.docs / "notes").glob("*.md"):
        if meta(read(path)).get("draft") is True:
            found |= {path.relative_to(layout.root).as_posix(), f"{layout.notebooks}/{path.stem.replace('-', '_')}.py"}
    return found


def links_to(site: Book) -> list[Problem]:
    """Return the links of published pages to drafts, which lead nowhere once the site is built."""
    found: list[Problem] = []
    paths: Collection[str] = set() if site.serving else site.drafts
    for page in site.pages:
        if not paths or page in paths or not page.endswith(".md"):
            continue
        for line, number in outside_fences(read(site.layout.root / page).splitlines()):
            if number is None:
                continue
            targets = [posixpath.normpath(posixpath.join(posixpath.dirname(page), one)) for one in _LINK.findall(line)]
            terms = [site.names.find(one.partition("#")[0]) for one in _TERM.findall(line)]
            for target in dict.fromkeys(targets + [term.path for term in terms if term]):
                if target in paths:
                    what = f"leads to {target}, a draft, which is not built; publish it or take the link out"
                    found.append(Problem(page, number, what))
    return found
