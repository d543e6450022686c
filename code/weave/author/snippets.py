"""``weave snippets``: run a note's Python blocks from top to bottom in one namespace, as the tests do."""

from __future__ import annotations

import ast
import traceback
from collections.abc import Callable
from typing import Any

from weave.note import snippets
from weave.source.problem import Problem


def run_snippets(path: str, text: str, before: Callable[[int], None] = lambda line: None) -> Problem | None:
    """Run a page's snippets; return the error that stopped them, at its line of the page, with its traceback as detail.

    Args:
        path: The page's name in messages.
        text: Its Markdown.
        before: Called with the line of each snippet that is about to run.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for snippet in snippets.find(text):
        if snippet.apart:  # a lab, which is unfinished; and `weave check` runs its solution with the lab's check
            continue
        before(snippet.line)
        try:
            tree = ast.parse(snippet.code, path)
            ast.increment_lineno(tree, snippet.line - 1)
            last = [tree.body.pop()] if tree.body and isinstance(tree.body[-1], ast.Expr) else []
            exec(compile(tree, path, "exec"), namespace)
            exec(compile(ast.Interactive(last), path, "single"), namespace)  # its value is printed, as in the page
        except SyntaxError as error:
            line = snippet.line + error.lineno - 1 if error.filename == path and error.lineno else snippet.line
            return Problem(path, line, f"{type(error).__name__}: {error.msg}")
        except (Exception, SystemExit) as error:
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
            line = next((frame.lineno for frame in reversed(frames) if frame.filename == path), None) or snippet.line
            plain = [
                traceback.FrameSummary(frame.filename, frame.lineno, frame.name, line=frame.line) for frame in frames
            ]
            detail = "".join(traceback.format_list(plain))
            return Problem(path, line, f"{type(error).__name__}: {error}", detail)
    return None
