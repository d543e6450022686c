"""Tests and modules as pages of the site, one section a function, so that a link to a test ends at its source."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

_LINE_NUMBER = re.compile(r'<span class="linenos">(\s*\d+)</span>')


@dataclass(frozen=True)
class Definition:
    """A function or class at the top of a module."""

    name: str
    summary: str
    first: int
    """First line, decorators and the comments right above included; counted from 1."""
    last: int


@lru_cache(maxsize=256)
def definitions(text: str) -> dict[str, Definition]:
    """The module's functions and classes in order.

    Raises:
        SyntaxError: the module is not Python.
    """
    lines = text.split("\n")
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            while first > 1 and lines[first - 2].startswith("#"):
                first -= 1
            summary = (ast.get_docstring(node) or "").partition("\n")[0]
            found[node.name] = Definition(node.name, summary, first, node.end_lineno or node.lineno)
    return found


@lru_cache(maxsize=512)
def page(path: str, text: str) -> tuple[str, list[Any]]:
    """A module as HTML, its code from top to bottom with a heading at each definition; and the table of contents.

    Raises:
        SyntaxError: the module is not Python.
    """
    lines = text.removesuffix("\n").split("\n")
    title = path.replace("/", "/<wbr>")
    parts = [f'<h1 id="top">{title}</h1>']
    if path.startswith("tests/"):
        parts.append(f"<p>Run it: <code>python -m pytest {path}</code></p>")
    tokens: list[Any] = []
    start = 1

    def code(first: int, last: int) -> None:
        while first < last and not lines[first - 1].strip():
            first += 1
        body = "\n".join(lines[first - 1 : last]).rstrip()
        if body:
            look = HtmlFormatter(cssclass="highlight", wrapcode=True, linenos="inline", linenostart=first)
            numbered = highlight(body, PythonLexer(), look)
            parts.append(_LINE_NUMBER.sub(r'<span data-linenos="\1 "></span>', numbered))  # not copied with the code

    for definition in definitions(text).values():
        code(start, definition.first - 1)
        parts.append(f'<h2 id="{definition.name}"><code>{definition.name}</code></h2>')
        tokens.append({"level": 2, "id": definition.name, "name": definition.name, "children": []})
        code(definition.first, definition.last)
        start = definition.last + 1
    code(start, len(lines))
    return "\n".join(parts), tokens
