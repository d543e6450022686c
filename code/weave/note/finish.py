"""The last steps from a page's HTML to the finished page: its broken links, and the addresses of extra files."""

from __future__ import annotations

import html as html_module
import re
from collections.abc import Mapping

from weave.note.page import REFERENCE
from weave.source.layout import relative_url
from weave.source.problem import Problem

_REFERENCE_MARK = re.compile(rf' {REFERENCE}="\d+"')
_REFERENCE = re.compile(rf'<a\b[^>]* {REFERENCE}="(\d+)"[^>]*>.*?</a>', re.DOTALL)
_FILE = re.compile(r'\b(href|src|data|checks)="weave:([^"]+)"')


def show_dangling(html: str, dangling: Mapping[int, Problem]) -> str:
    """Return the page with an error message in the place of each link to an anchor that does not exist."""

    def link(match: re.Match[str]) -> str:
        problem = dangling.get(int(match[1]))
        return f'<strong class="weave-error">{html_module.escape(str(problem))}</strong>' if problem else match[0]

    return _REFERENCE.sub(link, html) if dangling else html


def without_marks(html: str) -> str:
    """Return the page without the attributes by which `show_dangling` finds its links."""
    return _REFERENCE_MARK.sub("", html)


def with_files(html: str, url: str) -> str:
    """Return the page with ``href="weave:path/in/site"`` as links from its own address."""
    return _FILE.sub(lambda match: f'{match[1]}="{relative_url(match[2], url)}"', html)
