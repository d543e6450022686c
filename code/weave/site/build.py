"""MkDocs' build up to where it writes: `weave check` stops there, `weave serve` goes on page by page.

The order is that of `mkdocs.commands.build.build`, which cannot be stopped halfway. The hooks of site/plugin.py and of
all other plugins run as in `mkdocs build`, so that all three find the same problems.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from mkdocs.commands import build as mkdocs_build
from mkdocs.config import load_config
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import Abort, BuildError, ConfigurationError
from mkdocs.structure.files import File, Files, InclusionLevel, get_files, set_exclusions
from mkdocs.structure.nav import Navigation, get_navigation
from mkdocs.structure.pages import Page

from weave.book.asked import Asked
from weave.book.book import Book
from weave.run.executor import Outcome
from weave.site.plugin import WeavePlugin, book_of, plugin_of
from weave.source.problem import Problem, Refused


@dataclass
class Site:
    """A configured site, to be built as often as needed."""

    config: MkDocsConfig
    plugin: WeavePlugin
    theme: list[File] = field(default_factory=list)
    """The theme's own files, thousands of names that never change. Found by the first build that shows pages."""
    env: Any = None
    """Jinja's environment of the theme, with its compiled templates. Made by the first build."""

    @property
    def book(self) -> Book:
        return self.plugin.book


@dataclass
class Built:
    """Every page with its content, not yet put into templates."""

    nav: Navigation
    files: Files
    pages: Sequence[File]
    """The documents that are shown."""


def configure(settings: Path, mode: Literal["check", "serve"], port: int = 0, again: WeavePlugin | None = None) -> Site:
    """Read a mkdocs.yml and let all plugins prepare.

    Args:
        settings: The mkdocs.yml.
        mode: The command that asks.
        port: Of the server, for the addresses in pages.
        again: The plugin of the settings before, whose results stay.

    Raises:
        Refused: There is no such file, it is wrong, or it has no plugin ``weave``.
    """
    # A plugin that other plugins have seen in this process is of another site.
    if again is None:
        MkDocsConfig.plugins.plugin_cache.clear()  # type: ignore[attr-defined]
    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    try:
        config = load_config(str(settings), site_dir=str(settings.parent.absolute() / "site"))
    except (Abort, ConfigurationError, FileNotFoundError) as error:
        raise Refused(f"mkdocs.yml: {error}") from None
    plugin = plugin_of(config)
    plugin.mode = mode
    if mode == "serve":
        path = (urlsplit(config.site_url or "/").path or "/").rstrip("/") + "/"
        config.site_url = f"http://127.0.0.1:{port}{path}"
    if again is None:
        config.plugins.on_startup(command="serve" if mode == "serve" else "build", dirty=False)
    return Site(prepare(config), plugin)


def prepare(config: MkDocsConfig) -> MkDocsConfig:
    """Let all plugins change the configuration. Raises Refused."""
    try:
        return config.plugins.on_config(config)
    except Abort as error:
        raise Refused(str(error)) from None


def build(site: Site) -> Built:
    """Run the stale notebooks and render every page. Raises what MkDocs and plugins raise."""
    config, plugins = site.config, site.config.plugins
    env = site.env or config.theme.get_env()
    plugins.on_pre_build(config=config)
    files = get_files(config)
    if not site.theme and site.plugin.mode != "check":  # which shows no page, and needs no file of the theme
        own = {file.src_uri for file in files}
        files.add_files_from_theme(env, config)
        site.theme = [file for file in files if file.src_uri not in own]
    else:
        for file in site.theme:
            if file.src_uri not in files.src_uris:
                files.append(file)
    files = plugins.on_files(files, config=config)
    set_exclusions(files, config)
    nav = plugins.on_nav(get_navigation(files, config), config=config, files=files)
    for file in files.documentation_pages(inclusion=InclusionLevel.is_in_serve):
        mkdocs_build._populate_page(file.page or Page(None, file, config), config, files)
    site.env = plugins.on_env(env, config=config, files=files)
    return Built(nav, files, files.documentation_pages(inclusion=InclusionLevel.is_in_serve))


def open_book(settings: Path = Path("mkdocs.yml")) -> Book:
    """Return the book of a folder as its files have it, with nothing rendered. Raises Refused."""
    logging.getLogger("mkdocs").setLevel(logging.ERROR)
    try:
        config = load_config(str(settings))
    except (ConfigurationError, FileNotFoundError) as error:
        raise Refused(f"mkdocs.yml: {error}") from None
    book = book_of(config, plugin_of(config).config)
    book.read_sources()
    return book


def checked(settings: Path = Path("mkdocs.yml"), only: Collection[str] = ()) -> Book:
    """Return the book of a folder with its notebooks run and all pages rendered; no site is written. Raises Refused.

    Args:
        settings: The site's mkdocs.yml.
        only: Pages; where some are given, only the notebooks that they show are run.
    """
    warnings = _Warnings()
    logger = logging.getLogger("mkdocs")
    logger.addHandler(warnings)
    try:
        site = configure(settings, "check")
        _check_anchors(site, _build_for(site, only) if only else build(site))
    except (Abort, BuildError, ConfigurationError) as error:
        raise Refused(str(error)) from None
    finally:
        logger.removeHandler(warnings)
    site.config.plugins.on_shutdown()
    site.book.warnings = warnings.problems
    return site.book


def notebooks_of(book: Book, page: str) -> set[str]:
    """Return the paths of the notebooks that a page names, and of those that it asked for when it was rendered."""
    own, text = book.layout.notebook_of(page), book.layout.read(page)
    asked = book.pages[page].book if page in book.pages else None
    paths = (notebook.path for notebook in book.notebooks())
    named = {path for path in paths if path == own or path.rpartition("/")[2] in text}
    return named.union(asked.notebooks() if isinstance(asked, Asked) else ())


def _build_for(site: Site, pages: Collection[str]) -> Built:
    """Render every page, since links lead from one to another, but run only the notebooks that these show."""
    book, wanted = site.book, set[str]()
    while not (shown := {name for path in pages for name in notebooks_of(book, path)}) <= wanted or not book.pages:
        wanted |= shown  # once a page is rendered, it may show more than its text names
        book.frozen = False
        book.execute(wanted)
        others = (notebook for notebook in book.notebooks() if notebook.path not in wanted)
        book.outcomes.update((notebook.path, Outcome(notebook, None, skipped=True)) for notebook in others)
        book.frozen = True
        built = build(site)
    return built


def _check_anchors(site: Site, built: Built) -> None:
    """Let MkDocs warn of links to anchors that do not exist, which it does at the end of a build."""
    for file in built.pages:
        if file.page:
            file.page.validate_anchor_links(files=built.files, log_level=site.config.validation.links.anchors)


class _Warnings(logging.Handler):
    """Collects warnings as problems; those that name no place are at the first line of mkdocs.yml."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.problems: list[Problem] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        place = re.match(r"(\S+):(\d+): ", message)
        path, line = (place[1], int(place[2])) if place else ("mkdocs.yml", 1)
        self.problems.append(Problem(path, line, message[place.end() if place else 0 :]))
