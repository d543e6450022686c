"""The content security policy: a page loads what this site has, and nothing from anywhere else."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from mkdocs.exceptions import Abort

_INLINE = re.compile(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)[^>]*>(.*?)</script>", re.DOTALL)
_PLACE = re.compile(r'<meta charset="utf-8"[^>]*>|<head\b[^>]*>', re.IGNORECASE)


def without_requests(html: str) -> str:
    """Return a page whose theme makes no request that the policy refuses.

    Material asks GitHub for the stars of the repository that a page links to.
    """
    return html.replace(' class="md-source" data-md-component="source"', ' class="md-source"')


def protect(site: Path) -> None:
    """Put one policy into every HTML file of a folder.

    All pages have the same policy, which allows every inline script of the site by its hash: with instant navigation
    the first page's policy holds for the pages that come after it.

    Raises:
        Abort: A page has neither ``<meta charset="utf-8">`` nor ``<head>``, so that no policy can be put in.
    """
    pages = {path: path.read_text("utf-8") for path in sorted(site.rglob("*.html"))}
    scripts = {body for html in pages.values() for body in _INLINE.findall(html) if body.strip()}
    hashes = sorted(base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in scripts)
    policy = "; ".join(
        [
            "default-src 'self'",  # Firefox fetches the next page ahead
            "script-src 'self' 'wasm-unsafe-eval' " + " ".join(f"'sha256-{digest}'" for digest in hashes),
            "style-src 'self' 'unsafe-inline'",  # KaTeX and Pygments write style attributes
            "img-src 'self' data:",
            "media-src 'self' data:",  # the sound that a cell shows
            "base-uri 'self'",
            "form-action 'self'",
        ]
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    for path, html in pages.items():
        places = {place[0][:5].lower(): place.end() for place in reversed(list(_PLACE.finditer(html)))}
        end = places.get("<meta") or places.get("<head")
        if end is None:
            name = path.relative_to(site).as_posix()
            raise Abort(f'{name}: no <meta charset="utf-8"> and no <head>, so the page has no content security policy')
        path.write_text(f"{html[:end]}\n      {meta}{html[end:]}", "utf-8")
