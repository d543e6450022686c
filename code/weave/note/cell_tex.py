r"""LaTeX and Markdown that a cell shows, with the formulas that MathJax would find in Jupyter, as ``<tex-math>``.

A formula is ``$x$``, ``$$x$$``, ``\(x\)``, ``\[x\]`` or an environment; all else is text. What KaTeX writes otherwise
than LaTeX is put into its words: ``eqnarray`` is a ``darray``, and no equation is numbered, as in Jupyter.
"""

from __future__ import annotations

import re
from functools import cache
from html import escape
from typing import Any

_DELIMITED = (
    r"(?<![\\$])\$\$(?P<display>.+?)(?<!\\)\$\$"
    r"|(?<!\\)\\\[(?P<bracket>.+?)(?<!\\)\\\]"
    r"|(?<!\\)\\\((?P<round>.+?)(?<!\\)\\\)"
    r"|(?P<environment>\\begin\{(?P<name>[a-zA-Z]+\*?)\}.*?\\end\{(?P=name)\})"
)
_IN_LATEX = re.compile(
    _DELIMITED + r"|(?<!\\)\$(?P<inline>(?:[^$\\]|\\.)+?)\$|(?P<logo>\\(?:La)?TeX)(?:\{\}|(?![a-zA-Z]))", re.DOTALL
)
# In a table of prices two dollars are no formula: as in Pandoc, no space is inside of them, and no digit behind.
_IN_TEXT = re.compile(_DELIMITED + r"|(?<![\\$])\$(?![\s$])(?P<inline>(?:[^$\\]|\\.)+?)(?<!\s)\$(?![\d$])", re.DOTALL)
_LEFT_OVER = re.compile(r"(?<!\\)(?:\$|\\[(\[]|\\[a-zA-Z]+)")
_CODE = re.compile(
    r"(\x1b\[[\d;]*m)|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]", re.DOTALL
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]|\x1b(?!\[[\d;]*m)")
_UNNUMBERED = {name: f"{name}*" for name in ("equation", "align", "gather", "alignat")}
_OTHER = {
    "eqnarray": ("darray", "{rcl}"),
    "multline": ("gathered", ""),
    "flalign": ("align*", ""),
    "displaymath": ("equation*", ""),
    "math": ("equation*", ""),
}
_SUPERFLUOUS = re.compile(r"\\label\{[^}]*\}|\\require\{[^}]*\}|\\(?:nonumber|notag)(?![a-zA-Z])")


class NotShown(Exception):
    """An output cannot be shown on a page; the message says what it shows and what to do."""


def printable(text: str, colors: bool = False) -> str:
    """Return text without what no page can hold: control characters, and a terminal's codes; ``colors`` may stay."""
    if "\x1b" in text:
        text = _CODE.sub(lambda code: (code[1] or "") if colors else "", text)
    return _CONTROL.sub("", text)


def latex(text: str) -> str:
    """Return ``text/latex`` as HTML. Raises NotShown."""
    text = printable(text).strip()
    if not _IN_LATEX.search(text) and "\\" in text.replace(r"\$", ""):
        return _formula(text, "display")
    for between in _pieces(text, _IN_LATEX)[::2]:
        if left := _LEFT_OVER.search(between):
            shown = between[left.start() :].split("\n")[0][:60]
            what = rf"shows LaTeX with a command or an open dollar outside of its formulas, at `{shown}`"
            raise NotShown(rf"{what}; write it as $…$, \$ for a dollar, or show text as Markdown")
    return _set(text, _IN_LATEX, "display")


def typeset(text: str) -> str:
    """Return text as HTML, with the formulas in it as ``<tex-math>``."""
    return _set(text, _IN_TEXT, "display inline")  # it may stand in a paragraph


def _set(text: str, pattern: re.Pattern[str], display: str) -> str:
    parts = []
    for piece in _pieces(text, pattern):
        if isinstance(piece, str):
            parts.append(escape(piece.replace(r"\$", "$"), quote=False))
        elif piece.groupdict().get("logo"):
            parts.append(_formula(piece["logo"]))
        elif piece["environment"]:
            parts.append(_formula(piece["environment"], display))
        else:
            tex = next(filter(None, piece.group("display", "bracket", "round", "inline")))
            parts.append(_formula(tex, "" if piece["round"] or piece["inline"] else display))
    return "".join(parts)


def _pieces(text: str, pattern: re.Pattern[str]) -> list[Any]:
    """Return text and matches of formulas in turn, beginning and ending with text."""
    pieces: list[Any] = []
    end = 0
    for match in pattern.finditer(text):
        pieces += [text[end : match.start()], match]
        end = match.end()
    return [*pieces, text[end:]]


def _formula(tex: str, classes: str = "") -> str:
    tex = _SUPERFLUOUS.sub("", tex).strip()
    tex = re.sub(r"\\(begin|end)\{([a-z]+)\*?\}", _environment, tex)
    opened = f'<tex-math class="{classes}">' if classes else "<tex-math>"
    return f"{opened}{escape(tex)}</tex-math>"


def _environment(match: re.Match[str]) -> str:
    kind, name = match.groups()
    if name in _UNNUMBERED:
        return rf"\{kind}{{{_UNNUMBERED[name]}}}"
    other, columns = _OTHER.get(name, ("", ""))
    return rf"\{kind}{{{other}}}{columns if kind == 'begin' else ''}" if other else match[0]


def markdown(text: str) -> str:
    """Return ``text/markdown`` as HTML, as Jupyter reads it; the HTML in it is as it was written. Raises NotShown."""
    return _converter().render(printable(text))


@cache
def _converter() -> Any:
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath  # takes long to import

    class Renderer(IPythonRenderer):
        def inline_math(self, body: str) -> str:
            return _formula(body)

        def block_math(self, body: str) -> str:
            return _formula(body, "display inline")

        def latex_environment(self, name: str, body: str) -> str:
            return _formula(rf"\begin{{{name}}}{body}\end{{{name}}}", "display inline")

        def block_mermaidjs(self, code: str) -> str:
            raise NotShown("shows Markdown with a Mermaid diagram, which a page cannot draw; show it as SVG")

        def image(self, text: str, url: str, title: str | None = None) -> str:
            if url.startswith("attachment:"):
                raise NotShown(f"shows Markdown with '{url}', which a cell cannot attach; show the picture by Image(…)")
            return str(super().image(text, url, title))

    return MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True))
