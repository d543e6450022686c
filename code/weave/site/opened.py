"""The site of a folder, for whoever asks about it without building it."""

from __future__ import annotations

import logging

from markdown import Markdown
from mkdocs.config import load_config
from mkdocs.exceptions import ConfigurationError

from weave.book import pages
from weave.book.book import Site
from weave.note.katex import FORMULAS, EngineError, engine, render_tex
from weave.note.page import use_site
from weave.site.plugin import plugin_of, site_of
from weave.source.names import source_pages
from weave.source.problem import Refused, not_utf8


def open_site() -> tuple[Site, Markdown]:
    """The site that the mkdocs.yml of this folder describes, and its Markdown.

    Raises:
        Refused: There is no such file, it is wrong, or it has no plugin ``weave``.
    """
    logging.getLogger("mkdocs").setLevel(logging.ERROR)
    try:
        config = load_config("mkdocs.yml")
    except (ConfigurationError, FileNotFoundError) as error:
        raise Refused(f"mkdocs.yml: {error}") from None
    plugin = plugin_of(config)
    site = site_of(config, plugin.config)
    site.read_terms()
    site.read_references()
    use_site(site)
    return site, Markdown(extensions=config.markdown_extensions, extension_configs=config.mdx_configs)


def rendered_site() -> Site:
    """The site of this folder, its notebooks run and its pages rendered, as a build has it; nothing is written."""
    site, md = open_site()
    need_engine()
    engine().remember(site.layout.root / FORMULAS)
    site.execute()
    render_all(site, md)
    return site


def need_engine() -> None:
    """Raise Refused where formulas cannot be rendered here."""
    try:
        render_tex("x")
    except EngineError as error:
        raise Refused(str(error)) from None


def render_all(site: Site, md: Markdown) -> None:
    """Render every page and every notebook's prose; what is wrong is in ``site.problems()`` afterwards."""
    for path in source_pages(site.layout.root, site.layout.docs):
        try:
            pages.render_page(site, path, md)
        except UnicodeDecodeError as error:
            site.unreadable.append(not_utf8(path, (site.layout.root / path).read_bytes(), error))
    for path, outcome in site.outcomes.items():
        good = site.run_of(path)
        pages.render_prose(site, good.notebook if good else outcome.notebook, md)
