"""What a cell gave out, as HTML for a page: figures as inline SVG with real text, tables, text, tracebacks."""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from weave.publish import CLAIM_MIME

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_ROOT = re.compile(r"<svg\b[^>]*>")


def visible(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The outputs that a reader sees in a note; published numbers are cited, not shown."""
    return [output for output in outputs if CLAIM_MIME not in output.get("data", {})]


def to_html(output: dict[str, Any], prefix: str, label: str) -> str:
    """One output as HTML.

    ``prefix`` keeps the ids of several figures on one page apart; ``label`` is the attribute that names a figure for
    those who do not see it: ``aria-label="…"`` or ``aria-labelledby="…"``.
    """
    if output["output_type"] == "stream":
        return _text(output["text"])
    if output["output_type"] == "error":
        return _text("\n".join(output["traceback"]), "weave-traceback")
    data = {kind: "".join(part) if isinstance(part, list) else part for kind, part in output["data"].items()}
    if "image/svg+xml" in data:
        return _svg(data["image/svg+xml"], prefix, label)
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            encoded = "".join(data[kind].split())
            return f'<img src="data:{kind};base64,{encoded}" role="img" alt="" {label}>'
    if "text/html" in data:
        return f'<div class="weave-html" role="group" tabindex="0" {label}>{data["text/html"]}</div>'
    if "text/latex" in data:
        tex = data["text/latex"].strip().strip("$").strip()
        return f'<tex-math class="display">{escape(tex)}</tex-math>'
    return _text(data.get("text/plain", ""))


@lru_cache(maxsize=1024)
def code_html(source: str) -> str:
    """A cell's code in the classes that the theme colours."""
    return highlight(source, PythonLexer(), HtmlFormatter(cssclass="highlight", wrapcode=True))


def _text(text: str, kind: str = "weave-text") -> str:
    return f'<pre class="{kind}" tabindex="0"><code>{escape(_ANSI.sub("", text).rstrip())}</code></pre>'


_PLACES = re.compile(r'\s(?:d|x|y|width|height|points|x1|x2|y1|y2)="[^"]*"|translate\([^)]*\)')
_DIGITS = re.compile(r"(\d\.\d{2})\d+")


def _svg(svg: str, prefix: str, label: str) -> str:
    """A matplotlib figure fit to stand in a page: ids of its own, ink in the colour of the text around it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    # matplotlib's style sheet says `*`, which would mean the whole page: its two rules go to the root instead.
    svg = re.sub(r"<style[^>]*>\s*\*\{[^}]*\}\s*</style>", "", svg)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    svg = svg.replace("#000000", "currentColor")
    svg = _PLACES.sub(lambda match: _DIGITS.sub(r"\1", match[0]), svg)  # a hundredth of a point is enough
    root = _ROOT.match(svg)
    assert root is not None
    head = re.sub(r'\s(?:height|version|id)="[^"]*"|\sxmlns(?::\w+)?="[^"]*"', "", root[0])
    look = 'data-search-exclude fill="currentColor" stroke-linejoin="round" stroke-linecap="butt"'
    head = f'{head[:-1]} role="img" {label} {look}>'
    svg = head + svg[root.end() :]
    return re.sub(r">\s+<", "><", svg).strip()
