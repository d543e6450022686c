"""Names and roles for readers who hear a page, where Markdown and the theme Material give none."""

from __future__ import annotations

import re

# Material leaves these without a name, so that a listener cannot tell one from another.
_NAMES = {
    "md-post__action": 'role="none"',
    "md-nav": 'role="none"',
    "md-nav md-nav--primary": 'aria-label="About this entry"',
    "md-pagination": 'aria-label="Pages of the log"',
}
_UNNAMED = re.compile(rf'<nav class="({"|".join(_NAMES)})">')
_LABELLED = re.compile(r'aria-labelledby="(__nav_[\d_]+_label)"')
_SEARCH = '<div class="md-search" data-md-component="search" role="dialog"'


def content(html: str) -> str:
    """Return a page's content with its tables and task lists made accessible."""
    html = re.sub(r"<th( [^>]*)?></th>", r"<td\1></td>", html)  # the empty corner of a table is not a heading
    for state, name in ((" checked", "done"), ("", "open")):
        html = re.sub(
            rf'<input type="checkbox" disabled(?:="")?{state}(?=[ /">])',
            f'<input aria-label="{name}" type="checkbox" disabled{state}',
            html,
        )
    return html


def page(html: str) -> str:
    """Return a whole page with names for the theme's dialogs and navigation."""
    html = html.replace(f"{_SEARCH}>", f'{_SEARCH} aria-label="Search">')
    html = _UNNAMED.sub(lambda nav: f"{nav[0][:-1]} {_NAMES[nav[1]]}>", html)
    return _LABELLED.sub(lambda nav: nav[0] if f'id="{nav[1]}"' in html else 'aria-label="Section"', html)
