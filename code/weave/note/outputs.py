"""A cell's outputs as HTML, chosen and shown as Jupyter does; what a page cannot show is a problem of the cell.

A note and the notebook's page show an output by the same function, so they show the same. The kinds of output are in
one table, `_KINDS`, the one that Jupyter prefers first; each has a function here or in a file of its own: drawings
(SVG), cell_html, cell_tex (LaTeX and Markdown).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from html import escape, unescape
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from weave.note import cell_html, cell_tex, drawings
from weave.note.cell_tex import NotShown
from weave.note.katex import TexError, render_tex
from weave.run.claim import CLAIM_MIME

_TEX = re.compile(r'<tex-math( class="display(?: inline)?")?>(.*?)</tex-math>', re.DOTALL)
_PICTURES = {
    "image/png": b"\x89PNG",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
    "image/bmp": b"BM",
}
"""The first bytes of each kind of picture."""
_INSTEAD = {
    "application/javascript": "show HTML with a <script> that has its code in itself",
    "application/vnd.jupyter.widget-view+json": "a widget needs a running kernel: show what it would show",
    "": "show it as text, HTML, Markdown, LaTeX, SVG or a picture",
}


def visible(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The outputs that a reader sees in a note; published numbers are cited, not shown."""
    return [output for output in outputs if _shows_something(output)]


def _shows_something(output: dict[str, Any]) -> bool:
    if output["output_type"] == "error":
        return True
    data = output.get("data", {"text/plain": output.get("text", "")})
    if CLAIM_MIME in data:
        return False
    shown = {kind: part for kind, part in data.items() if kind != "text/plain"} or data
    return any(str(_joined(part)).strip() for part in shown.values())


def to_html(output: dict[str, Any], prefix: str, label: str) -> str:
    """One output as HTML; an error message where it cannot be shown.

    ``prefix`` keeps the ids of several figures on one page apart; ``label`` is the attribute that names a figure for
    those who do not see it: ``aria-label="…"`` or ``aria-labelledby="…"``.
    """
    try:
        return _to_html(output, prefix, label)
    except NotShown as problem:
        return f'<div class="weave-error">{escape(str(problem))}</div>'


def problem(output: dict[str, Any], macros: Mapping[str, str]) -> str:
    """Return why a page cannot show an output, and what to do; "" if it can. Raises EngineError."""
    try:
        for display, tex in _TEX.findall(_to_html(output, "output", "")):
            render_tex(unescape(tex), macros, display=bool(display))
    except (NotShown, TexError) as error:
        return str(error)
    return ""


def _to_html(output: dict[str, Any], prefix: str, label: str) -> str:
    if output["output_type"] == "stream":
        return _text(output["text"])
    if output["output_type"] == "error":
        text = "\n".join(output["traceback"]) or f"{output['ename']}: {output['evalue']}"
        return _text(text, "weave-traceback")
    data, metadata = output["data"], output.get("metadata", {})
    problems = []
    for kind, show in _KINDS.items():
        if kind in data:
            try:
                return show(_joined(data[kind]), prefix, label, metadata.get(kind) or {})
            except NotShown as problem:  # another form of the same may do
                problems.append(problem)
    if problems:
        raise problems[0]
    if other := sorted(data.keys() - {"text/plain"}):
        do = next((_INSTEAD[kind] for kind in other if kind in _INSTEAD), _INSTEAD[""])
        raise NotShown(f"shows {' and '.join(other)}, which a page cannot show; {do}")
    return _text(str(_joined(data.get("text/plain", ""))))


def _joined(part: Any) -> Any:
    """Return text in one piece; nbformat allows a list of lines."""
    return "".join(part) if isinstance(part, list) and all(isinstance(line, str) for line in part) else part


# -- one function a kind of output: what was given, prefix and label as above, and the metadata of this kind


def _html(html: Any, prefix: str, label: str, metadata: dict[str, Any]) -> str:
    name = f"{prefix}-html"
    inside = cell_html.isolated(str(html), name)
    own = f' id="{name}"' if f"@scope (#{name})" in inside else ""
    return f'<div class="weave-html"{own} role="group" tabindex="0" {label}>{inside}</div>'


def _markdown(text: Any, prefix: str, label: str, metadata: dict[str, Any]) -> str:
    name = f"{prefix}-html"
    inside = cell_html.isolated(cell_tex.markdown(str(text)), name, typeset=False)
    own = f' id="{name}"' if f"@scope (#{name})" in inside else ""
    return f'<div class="weave-markdown"{own} role="group" tabindex="0" {label}>{inside}</div>'


def _latex(text: Any, prefix: str, label: str, metadata: dict[str, Any]) -> str:
    return f'<div class="weave-latex">{cell_tex.latex(str(text))}</div>'


def _svg(text: Any, prefix: str, label: str, metadata: dict[str, Any]) -> str:
    return drawings.to_html(str(text), prefix, label, metadata)


def _json(value: Any, prefix: str, label: str, metadata: dict[str, Any]) -> str:
    return _text(json.dumps(value, indent=2, ensure_ascii=False))


def _picture(kind: str) -> Callable[[Any, str, str, dict[str, Any]], str]:
    def show(data: Any, prefix: str, label: str, metadata: dict[str, Any]) -> str:
        encoded = "".join(str(data).split())
        try:
            good = base64.b64decode(encoded, validate=True).startswith(_PICTURES[kind])
        except binascii.Error:
            good = False
        if not good:
            raise NotShown(f"shows {kind} that is none; give it the bytes of a picture of this kind")
        source = f"data:{kind};base64,{encoded}"
        return f'<img class="weave-picture" src="{source}" role="img" alt="" {label}{cell_html.size(metadata)}>'

    return show


def _text(text: str, kind: str = "weave-text") -> str:
    from nbconvert.filters.ansi import ansi2html  # takes long to import

    shown = ansi2html(cell_tex.printable(text, colors=True).rstrip())
    return f'<pre class="{kind}" tabindex="0"><code>{shown}</code></pre>'


_KINDS: dict[str, Callable[[Any, str, str, dict[str, Any]], str]] = {
    "text/html": _html,
    "text/markdown": _markdown,
    "image/svg+xml": _svg,
    "text/latex": _latex,
    **{kind: _picture(kind) for kind in _PICTURES},
    "application/json": _json,
}
"""The forms in which a page shows an output beside plain text, in the order of Jupyter's preference (nbconvert's)."""


@lru_cache(maxsize=1024)
def code_html(source: str) -> str:
    """A cell's code in the classes that the theme colours; names and brackets, most of it, are ordinary ink."""
    html = highlight(source, PythonLexer(), HtmlFormatter(cssclass="highlight", wrapcode=True))
    return re.sub(r'<span class="[nwp]">([^<]*)</span>', r"\1", html)
