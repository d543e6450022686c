"""Runs a note's snippets one after the other in one namespace.

The same file does it twice: in CPython while the site is built (what a snippet gave is shown below it), and in the
reader's browser, where it runs again as the reader has changed it. Hence nothing here but the standard library.
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
        """What the code gives: ``text`` (printed, and the value of a last expression), ``array`` (that value's rows,
        where it is a matrix of numbers) and ``error`` (a traceback, from the snippet on)."""
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
    """The rows of a real matrix without gaps; None for all else."""
    if getattr(value, "ndim", 0) != 2 or not 1 < value.size <= LARGEST or value.dtype.kind not in "biuf":
        return None
    rows = [[float(number) for number in row] for row in value]
    return rows if all(abs(number) < float("inf") for row in rows for number in row) else None


def main() -> None:
    """Snippets as JSON (pairs of name and code) come in, what each gave goes out."""
    session = Session()
    json.dump([session.run(code, name) for name, code in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
