"""The Python blocks of a note: which ones the reader's browser can run, what they gave here, and how they look.

A block is live if it imports only the standard library and the packages that the site carries to the browser
(`browser_packages` in mkdocs.yml), and uses only names from itself and from live blocks above it.
"""

from __future__ import annotations

import ast
import builtins
import json
import re
import subprocess
import symtable
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import dedent
from typing import Any

from weave.note import session
from weave.run.inputs import version_of
from weave.source import markdown
from weave.source.files import cached, digest

_BLOCK = re.compile(r'<div class="language-python highlight">.*?</pre></div>', re.DOTALL)
# As it comes out within a list, where Markdown takes it for a part of the text around it.
_IN_PARAGRAPH = re.compile(rf"<p>((?:(?!</?p>).)*?)({_BLOCK.pattern})((?:(?!</?p>).)*)</p>", re.DOTALL)
_TIMEOUT = 60


@dataclass(frozen=True)
class Snippet:
    number: int
    """Counted from 1."""
    line: int
    """Line of the text on which its code begins, counted from 1."""
    code: str
    live: bool = False


def find(text: str, packages: Sequence[str] = ()) -> list[Snippet]:
    """The Python blocks of a Markdown text, in their order; without ``packages`` none is live."""
    snippets: list[Snippet] = []
    known = set(dir(builtins))
    for fence in markdown.tokens(text, "fence"):
        if not re.match(r"python\b", fence["info"]):
            continue
        code = dedent(fence.code)
        live = False
        if packages:
            try:
                imported, bound, used = names(code)
                live = imported <= {*packages, *sys.stdlib_module_names} and used <= known | bound
            except SyntaxError:
                pass
        if live:
            known |= bound
        snippets.append(Snippet(len(snippets) + 1, fence.line + 1, code, live))
    return snippets


def names(code: str) -> tuple[set[str], set[str], set[str]]:
    """Return the top-level modules that code imports, the global names that it binds, and those that it uses.

    Raises:
        SyntaxError: It is not Python.
    """
    imported = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    tables = [symtable.symtable(code, "snippet", "exec")]
    for table in tables:  # grows by each scope's inner scopes
        tables += table.get_children()
    symbols = [symbol for table in tables for symbol in table.get_symbols() if table is tables[0] or symbol.is_global()]
    bound = {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
    used = {symbol.get_name() for symbol in symbols if symbol.is_referenced()}
    return imported, bound, used


def record(folder: Path, snippets: Sequence[Snippet], packages: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Run the live snippets of a note in a process of their own, and return what each gave, by number.

    The results stay in ``folder`` until a snippet or a package changes; `session.py` says what is in one.
    """
    live = [(f"snippet {snippet.number}", snippet.code) for snippet in snippets if snippet.live]
    if not live:
        return {}
    asked = json.dumps(live)
    versions = [f"{name} {version_of(name)}".encode() for name in packages]
    key = digest(asked.encode(), Path(session.__file__).read_bytes(), sys.version.encode(), *versions)

    def run() -> str:
        command = [sys.executable, "-I", session.__file__]
        done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        return done.stdout if done.returncode == 0 else "[]"

    try:
        results = json.loads(cached(folder, key, run))
    except subprocess.TimeoutExpired:
        results = []
    return dict(zip([snippet.number for snippet in snippets if snippet.live], results, strict=False))


def script_path(uri: str) -> str:
    """The path on the site of a page's snippets as scripts, with ``{}`` for the number."""
    return f"{uri.removesuffix('.md')}/snippet-{{}}.py"


def script(snippets: Sequence[Snippet], number: int) -> bytes:
    """The snippets up to this one, as one script."""
    return "\n\n".join(snippet.code.strip("\n") for snippet in snippets[:number]).encode() + b"\n"


def weave(html: str, snippets: Sequence[Snippet], recorded: dict[int, dict[str, Any]], scripts: str) -> str:
    """The page with each block as a snippet; ``scripts`` is the path of their scripts, with ``{}`` for the number."""
    html = _IN_PARAGRAPH.sub(
        lambda m: "".join(f"<p>{m[i]}</p>" if i != 2 else m[2] for i in (1, 2, 3) if m[i].strip()), html
    )
    blocks = _BLOCK.findall(html)
    if len(blocks) != len(snippets):  # something else writes blocks of Python: better plain than mixed up
        return html
    rest = iter(snippets)

    def dress(match: re.Match[str]) -> str:
        snippet = next(rest)
        below = _recorded(recorded[snippet.number]) if snippet.number in recorded else ""
        live = ' class="live"' if snippet.live else ""
        script = f"weave:{scripts.format(snippet.number)}"
        link = f'<a class="weave-up-to" href="{script}" download>the snippets up to here</a>'
        take = f'<p class="weave-take">{link}</p>'
        return f'<py-snippet number="{snippet.number}"{live}>{match[0]}{take}{below}</py-snippet>'

    return _BLOCK.sub(dress, html)


def _recorded(result: dict[str, Any]) -> str:
    text = (result["text"] + result["error"]).rstrip()
    if not text:
        return ""
    return (
        f'<div class="weave-gave"><pre tabindex="0" aria-label="what it gives"><code>{escape(text)}</code></pre></div>'
    )
