"""Runs a note's snippets one after the other in one namespace.

The same file runs in two places: in CPython while the site is built (the page shows below a snippet what it gave), and
in the reader's browser, which runs it again as the reader has edited it. Hence nothing here but the standard library.
"""

from __future__ import annotations

import ast
import io
import json
import linecache
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

LARGEST = 4096
"""Numbers that an array may have to be shown as a heatmap."""


class Session:
    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def run(self, code: str, name: str) -> dict[str, Any]:
        """Run a snippet and return what it gave.

        Returns:
            ``text``, what it printed and the value of a last expression; ``array``, that value's rows if it is a matrix
            of numbers, or None; and ``error``, a traceback that begins in the snippet, or "".
        """
        text = io.StringIO()
        result: dict[str, Any] = {"text": "", "array": None, "error": ""}
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)  # for the traceback
        try:
            with redirect_stdout(text), redirect_stderr(text):
                value = self._value(code, name)
                if value is not None:
                    print(repr(value))
                    result["array"] = _matrix(value)
        except SyntaxError as error:
            result["error"] = "".join(traceback.format_exception_only(error))
        except BaseException as error:
            frames = error.__traceback__
            while frames is not None and frames.tb_frame.f_code.co_filename != name:
                frames = frames.tb_next
            result["error"] = "".join(traceback.format_exception(type(error), error, frames))
        result["text"] = text.getvalue()
        return result

    def _value(self, code: str, name: str) -> Any:
        tree = ast.parse(code, name)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        exec(compile(tree, name, "exec"), self.names)
        return (
            eval(compile(ast.Expression(last.value), name, "eval"), self.names) if isinstance(last, ast.Expr) else None
        )


def _matrix(value: Any) -> list[list[float]] | None:
    """Return the rows of a matrix of finite real numbers; None for anything else."""
    if getattr(value, "ndim", 0) != 2 or not 1 < value.size <= LARGEST or value.dtype.kind not in "biuf":
        return None
    rows = [[float(number) for number in row] for row in value]
    return rows if all(abs(number) < float("inf") for row in rows for number in row) else None


def main() -> None:
    """Read snippets from stdin as JSON (pairs of name and code), and write what each gave."""
    session = Session()
    json.dump([session.run(code, name) for name, code in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
