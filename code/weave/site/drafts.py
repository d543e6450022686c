"""Drafts in a site that is built: as if they were not there."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files

from weave.source.layout import Layout


def leave_out(paths: Collection[str], layout: Layout, files: Files, config: MkDocsConfig) -> None:
    """Build the site as if these were not there: no page, no line in the navigation."""
    uris = {layout.page_uri(path) for path in paths}
    for uri in uris:
        if uri and (file := files.get_file_from_path(uri)):
            files.remove(file)
    if config.nav is not None:
        config.nav = _without(config.nav, uris)


def _without(nav: Any, uris: Collection[str | None]) -> Any:
    """The part of a navigation that is left; None where nothing is."""
    if isinstance(nav, list):
        return [left for one in nav if (left := _without(one, uris)) is not None] or None
    if isinstance(nav, dict):
        return {title: left for title, one in nav.items() if (left := _without(one, uris)) is not None} or None
    return None if nav in uris else nav
