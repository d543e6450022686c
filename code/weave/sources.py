"""Tests and modules as pages of the site, one section a function, so that a link to a test ends at its source."""

from __future__ import annotations

import ast
from dataclasses import dataclass


@dataclass(frozen=True)
class Definition:
    """A function or class at the top of a module."""

    name: str
    summary: str
    first: int
    """First line, decorators and the comments right above included; counted from 1."""
    last: int


def definitions(text: str) -> dict[str, Definition]:
    """The module's functions and classes in order.

    Raises:
        SyntaxError: the module is not Python.
    """
    lines = text.splitlines()
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            while first > 1 and lines[first - 2].startswith("#"):
                first -= 1
            summary = (ast.get_docstring(node) or "").partition("\n")[0]
            found[node.name] = Definition(node.name, summary, first, node.end_lineno or node.lineno)
    return found


def page(path: str, text: str) -> str:
    """A module as Markdown: its code from top to bottom, with a heading that can be linked to at each definition."""
    lines = text.splitlines()
    fence = "````" if "```" in text else "```"
    command = f"\n\nRun it: `python -m pytest {path}`\n" if path.startswith("tests/") else "\n"
    parts = [f"---\ntitle: {path}\nsearch:\n  exclude: true\n---\n\n# {path}{command}"]
    start = 1

    def code(first: int, last: int) -> None:
        body = "\n".join(lines[first - 1 : last]).strip("\n")
        if body.strip():
            parts.append(f'{fence}python linenums="{_first_line(lines, first)}"\n{body}\n{fence}')

    for definition in definitions(text).values():
        code(start, definition.first - 1)
        parts.append(f"## `{definition.name}` {{ #{definition.name} }}")
        code(definition.first, definition.last)
        start = definition.last + 1
    code(start, len(lines))
    return "\n\n".join(parts) + "\n"


def _first_line(lines: list[str], first: int) -> int:
    """The number of the first line from ``first`` on that is not blank."""
    while first < len(lines) and not lines[first - 1].strip():
        first += 1
    return first
