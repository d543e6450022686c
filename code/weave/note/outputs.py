"""A cell's outputs as HTML: figures as inline SVG with real text, tables, text, tracebacks."""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from weave.run.claim import CLAIM_MIME

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
    """A cell's code in the classes that the theme colours; names and brackets, most of it, are ordinary ink."""
    html = highlight(source, PythonLexer(), HtmlFormatter(cssclass="highlight", wrapcode=True))
    return re.sub(r'<span class="[nwp]">([^<]*)</span>', r"\1", html)


def _text(text: str, kind: str = "weave-text") -> str:
    return f'<pre class="{kind}" tabindex="0"><code>{escape(_ANSI.sub("", text).rstrip())}</code></pre>'


_PLACES = re.compile(r'\s(?:d|x|y|width|height|points|x1|x2|y1|y2)="[^"]*"|(?:translate|rotate)\([^)]*\)')
_DIGITS = re.compile(r"(\d\.\d{2})\d+")

_PATH = re.compile(r'\bd="(M [-\d.]+ [-\d.]+\s+(?:[ML] [-\d.]+ [-\d.]+\s+)*z?)\s*"')


def _short_path(path: str) -> str:
    """A path of straight lines with each point told from the one before, to a tenth of a point."""
    said, x, y = [], 0, 0
    for move, to_x, to_y in re.findall(r"([ML]) ([-\d.]+) ([-\d.]+)", path):
        next_x, next_y = round(10 * float(to_x)), round(10 * float(to_y))
        for number in (next_x - x, next_y - y):
            text = f"{number / 10:g}"
            said.append(text.replace("0.", ".", 1) if abs(number) < 10 else text)
        said[-2] = ("m" if move == "M" else "l") + said[-2]
        x, y = next_x, next_y
    closed = "z" if path.rstrip().endswith("z") else ""
    return re.sub(r" (?=[-ml])", "", " ".join(said)) + closed


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
    svg = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", svg)
    svg = _PATH.sub(lambda match: f'd="{_short_path(match[1])}"', svg)
    svg = _PLACES.sub(lambda match: _DIGITS.sub(r"\1", match[0]), svg)  # a hundredth of a point is enough
    svg = re.sub(r"<use\b[^>]*>", lambda match: re.sub(r"(\.\d)\d\b", r"\1", match[0]), svg)
    used = set(re.findall(r"#([^\")]+)[\")]", svg))
    svg = re.sub(r'\sid="([^"]+)"', lambda match: match[0] if match[1] in used else "", svg)
    root = _ROOT.match(svg)
    assert root is not None
    head = re.sub(r'\s(?:height|version|id)="[^"]*"|\sxmlns(?::\w+)?="[^"]*"', "", root[0])
    look = 'data-search-exclude fill="currentColor" stroke-linejoin="round" stroke-linecap="butt"'
    head = f'{head[:-1]} role="img" {label} {look}>'
    svg = head + svg[root.end() :]
    return re.sub(r">\s+<", "><", svg).strip()
