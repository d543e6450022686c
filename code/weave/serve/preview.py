"""The site as its files are now: every page and file that a browser may ask for.

When a file is saved, `Watcher` (serve/watch.py) calls `Preview.refresh`: first a changed page of prose by itself, which
open pages show at once, then all pages. A request (serve/server.py) calls `fresh` and `answer`, and never gets an old
page. Pages whose text and answers stayed the same are not rendered again (book/asked.py).
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mkdocs.commands import build as mkdocs_build
from mkdocs.exceptions import Abort, BuildError, ConfigurationError

from weave.book.book import Book
from weave.serve.notebooks import Background
from weave.serve.shown import PAGE_SCRIPT, Shown
from weave.serve.watch import Files
from weave.site.build import build, configure
from weave.source.problem import Refused, say

_LOOKED_AT = 8  # pages whose notebooks go first


class Preview:
    """Raises Refused if mkdocs.yml cannot be read.

    Args:
        settings: The site's mkdocs.yml.
        port: Of the server, for the addresses in pages.
    """

    def __init__(self, settings: str, port: int) -> None:
        self.settings, self.port = settings, port
        self.lock = threading.RLock()
        """Held while anything below changes or is read."""
        self.listeners: set[queue.Queue[dict[str, Any]]] = set()
        """One queue for each open page. Filled by `tell`."""
        self.wake: Callable[[], None] = lambda: None
        """Makes the watcher call `refresh`. Set by the server."""
        self.own = [str(Path(__file__).parents[1])]
        """The folders of the server's code."""
        self.failure = ""
        """Why the last build did not work, shown on every page; the last good pages stay."""
        self.count = 0
        """The builds so far."""
        self.alone: set[str] = set()
        """Pages rendered by themselves after the last whole build; all others are out of date until the next."""
        self.looked_at: list[str] = []
        """The pages asked for last, the latest first. Written by `answer`; their notebooks run before others."""
        self.notebook_ended = False
        """Whether pages are out of date though no file changed."""
        self.shown: Shown | None = None
        """What there is to see. Replaced by each whole build; None until the first works."""
        self._configure()
        self.watched = Files(self.book, {self.settings, *self.hooks}, self._folders())

    @property
    def book(self) -> Book:
        return self.site.book

    def _configure(self) -> None:
        before = getattr(self, "site", None)
        self.site = configure(Path(self.settings), "serve", self.port, before.plugin if before else None)
        config = self.site.config
        self.mount = str(urlsplit(str(config.site_url)).path)
        self.bad_settings = ""
        self.hooks = [os.path.abspath(str(hook)) for hook in config.hooks]
        if before is None:
            self.background = Background(self.book, self.lock, self._notebook_ended, self._tell_progress, self._awaited)

    def _folders(self) -> set[str]:
        """Return the absolute paths of folders that matter beside the site's own."""
        config = self.site.config
        return {os.path.abspath(folder) for folder in (config.theme.custom_dir, *config.watch) if folder}

    # -- building

    def refresh(self) -> None:
        """Build after an edit: a page of prose first, so that it is shown before all others are built."""
        self.fresh(quick=True)
        self.fresh()

    def fresh(self, path: str | None = None, quick: bool = False) -> None:
        """Rebuild if a file changed.

        Args:
            path: The address that is asked for; pages that it does not need may be built later.
            quick: Build only what can be built fast.
        """
        with self.lock:
            first = not self.watched.stamps
            before = self.watched.stamps.keys()
            changed = self.watched.changed()
            if self.notebook_ended:
                self.notebook_ended = False
                changed.add("")  # of no file
            if first:
                self._whole(set())
            elif changed and not self._render_alone(changed, before):
                self._whole(changed)
            if self.alone and not quick and not (self.shown and self.shown.is_apart(path, self.alone)):
                self._whole(set())

    def _render_alone(self, changed: set[str], known: Collection[str]) -> bool:
        """Render changed pages by themselves; return False if that is not enough (a title, front matter, the log)."""
        if self.failure or self.shown is None or not all(path in known for path in changed):
            return False
        docs = str(self.book.layout.root / self.book.layout.docs) + os.sep
        sources = {file.src_uri: file for file in self.shown.built.pages if file.generated_by is None}
        files = [sources.get(path.removeprefix(docs)) for path in changed if path.startswith(docs)]
        prose = [file for file in files if file and file.page and not file.src_uri.startswith("log/")]
        if len(prose) < len(changed):
            return False
        for file in prose:
            page = file.page
            assert page
            before = page.meta, page.title
            page.__dict__.pop("render", None)  # the hook sets it again
            try:
                mkdocs_build._populate_page(page, self.site.config, self.shown.built.files)
            except Exception:
                return False
            if (page.meta, page.title) != before or not self.site.plugin.finish_page(file):
                return False
        self.alone = {unquote(file.url) for file in prose}
        self.shown.forget(self.alone)
        self.count += 1
        self.tell({"built": self.count})
        return True

    def _whole(self, changed: set[str]) -> None:
        if changed:
            self._restart_if_own(changed)
            # mkdocstrings reads each module only once
            documented = "mkdocstrings" in self.site.config.plugins and any(path.endswith(".py") for path in changed)
            if self.settings in changed or documented:
                try:
                    self._configure()
                    self.watched.settings, self.watched.folders = {self.settings, *self.hooks}, self._folders()
                except Refused as error:  # the last good settings stay
                    message = str(error)
                    self.bad_settings = message if message.startswith("mkdocs.yml:") else f"mkdocs.yml: {message}"
                    say(self.bad_settings)
        theme = os.path.join(self.site.config.theme.custom_dir or os.devnull, "")
        if any(path.startswith(theme) for path in changed):
            self.site.env = None  # Jinja keeps compiled templates, and MkDocs tells it not to look at the files again
        try:
            self.shown = Shown(self.site, build(self.site), self.script)
            self.failure = self.bad_settings
            self.background.start()
        except (Abort, BuildError, ConfigurationError) as error:
            self.failure = str(error)
            say(self.failure)
        except Exception as error:  # of MkDocs or another plugin
            self.failure = f"{type(error).__name__}: {error}"
            if self.watched.look() == self.watched.stamps:  # else a file was saved, and a build follows
                say(traceback.format_exc())
        self.alone.clear()
        if self.shown:
            self.shown.forget()
        self.count += 1
        looks = any(path.endswith((".css", ".js", ".svg", ".png", ".html")) for path in changed)
        self.tell({"built": self.count, "reload": looks})

    def _restart_if_own(self, changed: set[str]) -> None:
        """Start the server again if its own code changed, which cannot be imported twice."""
        own = tuple(folder + os.sep for folder in (*self.own, *map(os.path.dirname, self.hooks)))
        if any(path.startswith(own) and path.endswith((".py", ".mjs")) for path in changed):
            say("the server's own code changed; starting again")
            self.end(wait=False)  # for threads that may wait for the lock that is held here
            self.book.executor.kernels.kill()
            os.execv(sys.executable, [sys.executable, "-m", "weave.cli", *sys.argv[1:]])

    def _notebook_ended(self) -> None:
        self.notebook_ended = True
        self.wake()

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """Return type and body for an address below the site's; None where there is nothing."""
        with self.lock:
            if self.shown is None:
                return None
            if (url := self.shown.page_at(path)) in self.shown.pages:
                self.looked_at = [url, *(other for other in self.looked_at if other != url)][:_LOOKED_AT]
            return self.shown.answer(path, self.failure, self.count)

    def _awaited(self) -> list[str]:
        """Return the notebooks of the pages that somebody looks at, those of the latest page first."""
        with self.lock:
            plugin, pages = self.site.plugin, self.shown.pages if self.shown else {}
            sources = [plugin.path_of(pages[url].file) for url in self.looked_at if url in pages]
            return [notebook for source in sources for notebook in plugin.rendered.notebooks(source)]

    @property
    def script(self) -> str:
        """The script that keeps an open page up to date."""
        return f'<script type="module" src="{self.mount}{PAGE_SCRIPT}"></script>'

    # -- open pages

    def tell(self, event: dict[str, Any]) -> None:
        """Send an event to every open page."""
        for listener in list(self.listeners):
            listener.put(event)

    def _tell_progress(self, running: list[dict[str, Any]]) -> None:
        self.tell({"running": running})

    def end(self, wait: bool = True) -> None:
        self.background.end(wait)
        self.site.config.plugins.on_shutdown()
