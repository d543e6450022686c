"""The parts that every page gets, whatever its author wrote; the plugin's hooks call these functions.

Each part is a file of its own here: about (the line under a note's title), accessible (names for those who hear a
page), cards and feeds (what others see), colab, policy, and late_search.js, which is part of the page itself because it
has to be there before the theme's own script.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from weave.book import reading
from weave.site import about, accessible, cards, colab, feeds, policy
from weave.source.layout import Layout

MINUTES = "weave-minutes"
"""Key of a note's reading time in its metadata: counted once, on what its author wrote, and shown in two places."""

_CARDS = "assets/cards"
_BOOSTS = {"notes/": 1, "notebooks/": 0.0005, "pages/reference": 0.0005, "": 0.3}
"""Weight of a page in the search, by how its path begins; a word in a title counts a thousand times one in the text."""
_COMMENT = re.compile(r"^ *//[^\n]*\n|^ */\*\*.*?\*/\n", re.MULTILINE | re.DOTALL)


def content(html: str, page: Page, config: MkDocsConfig, layout: Layout, requirements: str) -> str:
    """Return a page's rendered Markdown with what belongs inside it; ``requirements`` as in ``publish``."""
    html = accessible.content(html)
    if page.file.src_uri.startswith("notes/"):
        page.meta[MINUTES] = minutes = reading.minutes(html)
        html = about.under_title(html, page.file.src_uri, minutes, layout, config.repo_url if requirements else None)
    return html


def searchable(html: str, page: Page) -> str:
    """Return a page's content without its code in the search index, and rank the page: notes before all others."""
    boosts = [boost for prefix, boost in _BOOSTS.items() if page.file.src_uri.startswith(prefix)]
    page.meta.setdefault("search", {}).setdefault("boost", boosts[0])
    return html.replace("<pre", '<pre data-search-exclude="1"')  # Material's plugin takes the attribute out again


def context(page: Page, config: MkDocsConfig, root: Path, serving: bool) -> dict[str, Any]:
    """Return what templates may use: ``late_search``, a script, and ``card()``, the path of the page's picture.

    A picture is drawn when the template asks for it, and is then part of the site.
    """
    script = Path(__file__).with_name("late_search.js").read_text("utf-8")

    def card() -> str:
        about_page = page.meta.get("description")
        title = str(page.title) if about_page and not page.is_homepage else config.site_name
        fonts = root / "node_modules/@fontsource/source-serif-4/files"
        text = str(about_page or config.site_description or "")
        path = cards.draw(title, text, config.site_name, fonts, root / ".cache/weave/cards")
        if not serving:
            folder = Path(config.site_dir, _CARDS)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / path.name)
        return f"{_CARDS}/{path.name}"

    return {"late_search": _COMMENT.sub("", script), "card": card}


def finish(html: str) -> str:
    """Return a page in its template, with names for listeners and without requests to other sites."""
    return policy.without_requests(accessible.page(html))


def publish(site: Path, files: Files, config: MkDocsConfig, layout: Layout, requirements: str) -> None:
    """Write what a finished site has beside its pages, and put the policy into them.

    With ``requirements``, a file of the repository, there is a copy of each notebook for Colab, which installs it.

    Raises:
        Abort: The policy does not fit into a page.
    """
    if config.site_url:
        days = about.changed(layout.root, layout.docs, layout.notebooks)
        feeds.write(site, files, config, {path.removeprefix(f"{layout.docs}/"): day for path, day in days.items()})
        if requirements:
            colab.write(site, config.repo_url, requirements)
    policy.protect(site)
