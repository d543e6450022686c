"""The pages and files of one build, as a browser asks for them; a page is put into its template only then."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Collection
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mkdocs.commands import build as mkdocs_build

from weave.note.katex import katex_files
from weave.site.build import Built, Site

OWN = "_weave/"
"""Where the server's own addresses begin, below the site's."""
PAGE_SCRIPT = f"{OWN}page.js"
_FOR_SEARCH = re.compile(r'\s?data-search-\w+="[^"]+"')


class Shown:
    """The pages and files of one build.

    Args:
        site: The configured site.
        built: Its build.
        script: HTML that is added to each page.
    """

    def __init__(self, site: Site, built: Built, script: str) -> None:
        self.site, self.built, self.script = site, built, script
        self.pages = {unquote(file.url): file.page for file in built.pages if file.page}
        """Every page by its address, as browsers ask for it."""
        self.files = {file.dest_uri: file for file in built.files if not file.is_documentation_page()}
        self.extra = site.plugin.extra_files()
        self.written: dict[str, bytes] = {}
        """What was answered for an address. Thrown away by `forget`."""
        self.katex = {f"assets/katex/{name}": data for name, data in katex_files(site.book.layout.root).items()}
        # A page's words go into the search index when somebody searches, instead of each time the page is shown.
        plugins = site.config.plugins
        self.search: Any = next((plugin for name, plugin in plugins.items() if name.endswith("search")), None)
        if self.search:
            events = plugins.events["page_context"]
            events[:] = [event for event in events if getattr(event, "__self__", None) is not self.search]

    def forget(self, urls: Collection[str] | None = None) -> None:
        """Write these pages, or all, anew when they are asked for."""
        for url in list(self.written) if urls is None else urls:
            self.written.pop(url, None)

    def is_apart(self, path: str | None, rendered: Collection[str]) -> bool:
        """Return whether an address shows nothing of any page but those rendered."""
        if path is None or path in self.extra or path.startswith("search/"):
            return False
        url = self.page_at(path)
        return url in rendered or url not in self.pages

    def answer(self, path: str, failure: str, build: int) -> tuple[str, bytes] | None:
        """Return type and body for an address, pages with a failure above them; None where there is nothing.

        A page carries the number of the build, by which its script sees whether files changed before it was there.
        """
        if (url := self.page_at(path)) in self.pages:
            numbered = self._page(url, failure).replace(b"<article", b'<article data-build="%d"' % build, 1)
            return "text/html; charset=utf-8", numbered
        if path not in self.written:
            body = self._file(path)
            if body is None:
                return None
            self.written[path] = body
        return mimetypes.guess_type(path)[0] or "application/octet-stream", self.written[path]

    def page_at(self, path: str) -> str:
        """Return the key in ``pages`` for an address that a browser asks for; any other address as it is."""
        of_folders = path.removesuffix("index.html") or "./"
        return next((url for url in (path, of_folders, f"{path}index.html") if url in self.pages), path)

    def _page(self, url: str, failure: str) -> bytes:
        if url not in self.written:
            page, config, nav = self.pages[url], self.site.config, self.built.nav
            config._current_page, page.active = page, True
            content = page.content
            try:
                context = mkdocs_build.get_context(nav, self.built.pages, config, page)
                context = config.plugins.on_page_context(context, page=page, config=config, nav=nav)
                html = self.site.env.get_template(page.meta.get("template", "main.html")).render(context)
                html = config.plugins.on_post_page(html, page=page, config=config)
            finally:
                config._current_page, page.active, page.content = None, False, content  # type: ignore[assignment]
            html = _FOR_SEARCH.sub("", html)  # as Material's plugin does where it makes the index
            above = f'<div class="weave-error">{escape(failure)}</div>' if failure else ""
            html = html.replace("<article", f"{above}<article", 1)
            self.written[url] = html.replace("</body>", f"{self.script}</body>", 1).encode(errors="xmlcharrefreplace")
        return self.written[url]

    def _file(self, path: str) -> bytes | None:
        if path == PAGE_SCRIPT:
            return Path(__file__).with_name("page.js").read_bytes()
        if make := self.extra.get(path):
            return make()
        if path in self.katex:
            data = self.katex[path]
            return data if isinstance(data, bytes) else data.read_bytes()
        if path == "search/search_index.json" and self.search:
            return self._search_index()
        file = self.files.get(path)
        return file.content_bytes if file else None

    def _search_index(self) -> bytes:
        self.search.search_index.entries = []
        for page in self.pages.values():
            content = page.content
            self.search.on_page_context({}, page=page, config=self.site.config, nav=self.built.nav)
            page.content = content
        return self.search.search_index.generate_search_index(None).encode()
