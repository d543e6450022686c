"""Runs a note's snippets one after the other in one namespace, and a lab with its check in a copy of it.

The same file runs in two places: in CPython while the site is built (the page shows below a snippet what it gave, and
every solution has to pass its check), and in the reader's browser, which runs it again as the reader has edited it.
Hence nothing is imported here but the standard library, and numpy where a lab needs weights.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import linecache
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

LARGEST = 4096
"""Numbers that an array may have to be shown as a heatmap."""


class Session:
    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self._checks: dict[str, tuple[dict[str, Any], list[Any]]] = {}

    def answer(self, request: dict[str, str]) -> dict[str, Any]:
        """Run a snippet or a lab: the arguments of ``run`` or of ``lab``, as they come from elsewhere."""
        return self.lab(**request) if "lab" in request else self.run(**request)

    def run(self, code: str, name: str) -> dict[str, Any]:
        """Run a snippet and return what it gave.

        Returns:
            ``text``, what it printed and the value of a last expression; ``array``, that value's rows if it is a matrix
            of numbers, or None; ``error``, a traceback that begins in the snippet, or ""; and ``raised``, the type of
            the error, or "".
        """
        _for_tracebacks(name, code)
        result: dict[str, Any] = {"array": None}

        def act() -> None:
            value = _value(code, name, self.names)
            if value is not None:
                print(repr(value))
                result["array"] = _matrix(value)

        return result | _watched(act, name)

    def lab(self, code: str, name: str, lab: str, checks: str, models: str) -> dict[str, Any]:
        """Run an answer to a lab, then the lab's check.

        The code sees the names of the snippets that ran, and those of ``setup`` in the file of checks. What it binds is
        gone afterwards, so that an unfinished lab harms nothing.

        Args:
            code: The answer.
            name: Its name in tracebacks.
            lab: The name of the lab, and with ``_`` for ``-`` of the function that checks it.
            checks: The path of the note's checks.
            models: The folder of the weights that the checks name in ``MODELS``.

        Returns:
            The same as ``run``, and ``passed``; and ``verdict``, a sentence, or "" if the code raised an error.
        """
        _for_tracebacks(name, code)
        result: dict[str, Any] = {"array": None, "passed": False, "verdict": ""}

        def act() -> None:
            names, check = self._prepared(lab, checks, models)
            value = _value(code, name, names)
            if value is not None:
                print(repr(value))
            result["passed"], result["verdict"] = _verdict(check, names | _unwritten(code), name)

        return result | _watched(act, name, checks)

    def _prepared(self, lab: str, checks: str, models: str) -> tuple[dict[str, Any], Callable[..., str | None]]:
        """Return the names that a lab's code sees, made anew, and the lab's check."""
        if checks not in self._checks:
            source = Path(checks).read_text("utf-8")
            _for_tracebacks(checks, source)
            module: dict[str, Any] = {"__name__": Path(checks).stem}
            exec(compile(source, checks, "exec"), module)
            weights = [read_weights(Path(models) / f"{model}.safetensors") for model in module.get("MODELS", [])]
            self._checks[checks] = module, weights
        module, weights = self._checks[checks]
        hidden = module["setup"](*weights) if "setup" in module else {}
        return self.names | hidden, module[lab.replace("-", "_")]


def _watched(act: Callable[[], None], *names: str) -> dict[str, Any]:
    """Run code; return what it printed, and the error that it raised, from the first frame in code of these names."""
    text, error, raised = io.StringIO(), "", ""
    try:
        with redirect_stdout(text), redirect_stderr(text):
            act()
    except SyntaxError as problem:
        error, raised = "".join(traceback.format_exception_only(problem)), type(problem).__name__
    except BaseException as problem:
        frames = next(filter(None, (_within(problem, name) for name in names)), None)
        error, raised = "".join(traceback.format_exception(type(problem), problem, frames)), type(problem).__name__
    return {"text": text.getvalue(), "error": error, "raised": raised}


def _verdict(check: Callable[..., str | None], names: dict[str, Any], name: str) -> tuple[bool, str]:
    """Return whether an answer passes its check, and the sentence to say. Raises what the answer's own code raises."""
    wanted = list(inspect.signature(check).parameters)
    for one in wanted:
        if names.get(one, ...) is ...:
            return False, f"{one} is still to be written." if one in names else f"The code defines no {one}."
    try:
        return True, check(*[names[one] for one in wanted]) or "Right."
    except Exception as problem:
        if _within(problem, name):
            raise
        if isinstance(problem, AssertionError):
            return False, str(problem) or "This is not right yet."
        what = f"{type(problem).__name__}: {problem}"
        return False, f"The check cannot use this: is {' or '.join(wanted)} of the right kind and shape? ({what})"


def _unwritten(code: str) -> dict[str, Any]:
    """Return the functions without a body, each as ``...``."""
    functions = [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
    bodies = {node.name: [getattr(line, "value", line) for line in node.body] for node in functions}
    return {name: ... for name, body in bodies.items() if all(isinstance(one, ast.Constant | ast.Pass) for one in body)}


def _within(error: BaseException, name: str) -> Any:
    """Return the traceback of an error from the first frame in the code called ``name``; None if it has none."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != name:
        frames = frames.tb_next
    return frames


def _for_tracebacks(name: str, code: str) -> None:
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)


def _value(code: str, name: str, names: dict[str, Any]) -> Any:
    """Run code; return the value of a last expression."""
    tree = ast.parse(code, name)
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    exec(compile(tree, name, "exec"), names)
    return eval(compile(ast.Expression(last.value), name, "eval"), names) if isinstance(last, ast.Expr) else None


def read_weights(path: Path) -> dict[str, Any]:
    """Read a safetensors file of float16 and float32 into numpy arrays of float32, which cannot be written to.

    Raises:
        KeyError: An array is of another type.
    """
    import numpy as np

    data = path.read_bytes()
    body = 8 + int.from_bytes(data[:8], "little")
    arrays = {}
    for name, entry in json.loads(data[8:body]).items():
        if name != "__metadata__":
            kind = {"F16": "<f2", "F32": "<f4"}[entry["dtype"]]
            start, end = entry["data_offsets"]
            array = np.frombuffer(data[body + start : body + end], kind).reshape(entry["shape"]).astype(np.float32)
            array.flags.writeable = False
            arrays[name] = array
    return arrays


def _matrix(value: Any) -> list[list[float]] | None:
    """Return the rows of a matrix of finite real numbers; None for anything else."""
    if getattr(value, "ndim", 0) != 2 or not 1 < value.size <= LARGEST or value.dtype.kind not in "biuf":
        return None
    rows = [[float(number) for number in row] for row in value]
    return rows if all(abs(number) < float("inf") for row in rows for number in row) else None


def main() -> None:
    """Read snippets and labs from stdin as JSON, what `Session.answer` takes, and write what each gave."""
    session = Session()
    json.dump([session.answer(request) for request in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
