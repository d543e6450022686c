"""Docstrings as Python writes them, made the Markdown that a page wants (an extension of griffe, for mkdocstrings).

- a paragraph that ends with ``::`` and what is indented below it is a block of text, as in reStructuredText
- ``>>>`` lines are an example, wherever they stand
- the comment behind a field of a dataclass is what the field means
- an attribute of which nothing is said stays out, unless it is a network's weight
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import Any

from griffe import Attribute, Class, Docstring, Extension, Object

_BLOCK = re.compile(r"^(?P<before>.*\S)::\n(?:[ \t]*\n)+(?P<block>(?:(?: {4,}.*)?(?:\n|\Z))+)", re.MULTILINE)
_EXAMPLE = re.compile(r"^(?P<indent> *)>>> .*\n?(?:(?P=indent)(?:>>>|\.\.\.) .*\n?|(?P=indent)\S.*\n?)*", re.MULTILINE)
_COMMENT = re.compile(r"#\s*(?P<text>.+)$")


class Docstrings(Extension):
    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)

    def on_class_members(self, *, cls: Class, **_: Any) -> None:
        """Leave out what ``__init__`` keeps, where nothing is said of it."""
        for name, member in list(cls.members.items()):
            if not isinstance(member, Attribute) or "instance-attribute" not in member.labels:
                continue
            said = member.docstring is not None or member.annotation is not None
            if not said and "Parameter(" not in str(member.value):
                del cls.members[name]

    def on_attribute_instance(self, *, node: Any, attr: Attribute, **_: Any) -> None:
        """``width: int = 128  # of the stream``: the comment, up to the end of the line, is its docstring."""
        if attr.docstring is not None or not isinstance(node, ast.AnnAssign) or node.end_lineno is None:
            return
        assert isinstance(attr.filepath, Path)
        line = attr.lines_collection[attr.filepath][node.end_lineno - 1].encode()  # columns are counted in bytes
        if found := _COMMENT.search(line[node.end_col_offset :].decode()):
            text = found["text"].strip()
            attr.docstring = Docstring(text[0].upper() + text[1:] + ".", lineno=node.lineno, parent=attr)


def markdown(text: str) -> str:
    """The docstring with its blocks and examples fenced."""
    text = _BLOCK.sub(_fenced, text)
    return _EXAMPLE.sub(lambda m: _fence(m[0].rstrip("\n"), "pycon", m["indent"]) + "\n", text)


def _fenced(found: re.Match[str]) -> str:
    block = found["block"].rstrip()
    indent = re.match(r" *", found["before"])
    language = "python" if _parses(block) else "text"
    return f"{found['before']}:\n\n{_fence(block, language, indent[0] if indent else '')}\n\n"


def _fence(block: str, language: str, indent: str) -> str:
    body = textwrap.indent(textwrap.dedent(block), indent)
    return f"{indent}```{language}\n{body}\n{indent}```"


def _parses(block: str) -> bool:
    try:
        ast.parse(textwrap.dedent(block))
    except SyntaxError:
        return False
    return True
