"""The Python blocks of a note: which ones the reader's browser can run, what they gave here, and how they look.

A block is live if it imports only the standard library and the packages that the site carries to the browser
(`browser_packages` in mkdocs.yml), and uses only names from itself and from live blocks above it.

A block that begins with `# lab: name` is an exercise, and one with `# solution: name` its solution; `labs.py` has their
checks. No block below depends on either.
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
from weave.run.facts import version_of
from weave.source import markdown
from weave.source.files import cached, digest
from weave.source.problem import Problem

_BLOCK = re.compile(r'<div class="language-python highlight">.*?</pre></div>', re.DOTALL)
_MARK = re.compile(r"# *(?P<kind>lab|solution): *(?P<name>.*?) *\n")
_MARK_IN_HTML = re.compile(r'<span class="c1"># *(?:lab|solution):[^\n]*</span>\n')
_PYTHON = re.compile(r"\.?(?:\{\s*\.?)?(?:i?py(?:thon)?[\d.]*|pycon|sage)(?![\w-])", re.IGNORECASE)
_TIMEOUT = 60


@dataclass(frozen=True)
class Snippet:
    number: int
    """Counted from 1."""
    line: int
    """Line of the text on which its code begins, counted from 1."""
    code: str
    live: bool = False
    lab: str = ""
    """The name of the exercise that it poses."""
    solves: str = ""
    """The name of the exercise that it solves."""

    @property
    def apart(self) -> bool:
        """Return whether nothing below depends on it."""
        return bool(self.lab or self.solves)


def find(text: str, packages: Sequence[str] = ()) -> list[Snippet]:
    """The Python blocks of a Markdown text, in their order; without ``packages`` none is live."""
    snippets: list[Snippet] = []
    known = set(dir(builtins))
    for fence in markdown.tokens(text, "fence"):
        if not re.match(r"python\b", fence["info"]):
            continue
        code = dedent(fence.code)
        line, kind, name = fence.line + 1, "", ""
        if mark := _MARK.match(code):
            code, line = code[mark.end() :], line + 1
            kind, name = mark["kind"], mark["name"] or "?"
        live = False
        if packages and kind != "solution":
            try:
                imported, bound, used = names(code)
                live = imported <= {*packages, *sys.stdlib_module_names}
                live = live and (kind == "lab" or used <= known | bound)  # a lab also has the names of its setup
            except SyntaxError:
                pass
        if live and not kind:
            known |= bound
        lab, solves = (name if kind == one else "" for one in ("lab", "solution"))
        snippets.append(Snippet(len(snippets) + 1, line, code, live, lab, solves))
    return snippets


def unrun(page: str, text: str) -> list[Problem]:
    """Return the problems of the blocks that look like Python on the page, and that nothing ever runs."""
    what = "is shown as Python and never run; write ```python to run it, ```text to show it"
    return [
        Problem(page, fence.line, f"a block '{fence['info']}' {what}")
        for fence in markdown.tokens(text, "fence")
        if _PYTHON.match(fence["info"]) and not re.match(r"python\b", fence["info"])
    ]


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
    live = [snippet for snippet in snippets if snippet.live and not snippet.apart]
    results = answers(folder, [request(snippet) for snippet in live], packages)
    return dict(zip([snippet.number for snippet in live], results, strict=False))


def request(snippet: Snippet) -> dict[str, str]:
    """The request to `session.Session` that runs a snippet."""
    return {"code": snippet.code, "name": f"snippet {snippet.number}"}


def answers(
    folder: Path, requests: Sequence[dict[str, str]], packages: Sequence[str], *about: bytes
) -> list[dict[str, Any]]:
    """Return what requests to one `session.Session` give in a process of its own; nothing if it fails.

    The results stay in ``folder`` until a request, a package or anything else that they are ``about`` changes.
    """
    if not requests:
        return []
    asked = json.dumps(requests)
    versions = [f"{name} {version_of(name)}".encode() for name in packages]
    key = digest(asked.encode(), Path(session.__file__).read_bytes(), sys.version.encode(), *versions, *about)

    def run() -> str:
        command = [sys.executable, "-I", session.__file__]
        done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        return done.stdout if done.returncode == 0 else "[]"

    try:
        results: list[dict[str, Any]] = json.loads(cached(folder, key, run))
    except subprocess.TimeoutExpired:
        results = []
    return results


def address(uri: str) -> str:
    """The folder on the site of what belongs to a page's snippets."""
    return uri.removesuffix(".md")


def files(uri: str, snippets: Sequence[Snippet], checks: str) -> dict[str, bytes]:
    """Return the snippets of a page as scripts, and the checks of its labs, by their paths on the site."""
    made = {
        f"{address(uri)}/snippet-{snippet.number}.py": script(snippets, snippet.number)
        for snippet in snippets
        if not snippet.apart
    }
    return made | ({f"{address(uri)}/labs.py": checks.encode()} if checks else {})


def script(snippets: Sequence[Snippet], number: int) -> bytes:
    """The snippets up to this one, without exercises and solutions, as one script."""
    return "\n\n".join(one.code.strip("\n") for one in snippets[:number] if not one.apart).encode() + b"\n"


def weave(
    html: str,
    snippets: Sequence[Snippet],
    recorded: dict[int, dict[str, Any]],
    address: str,
    models: Sequence[str] = (),
) -> str:
    """The page with each block as a snippet.

    Args:
        html: The page.
        snippets: All its snippets.
        recorded: What the live ones gave.
        address: The folder of `files` on the site.
        models: The weights that the labs' checks read.
    """
    blocks = _BLOCK.findall(html)
    if len(blocks) != len(snippets):  # something else writes blocks of Python: better plain than mixed up
        return html
    rest = iter(snippets)

    def dress(match: re.Match[str]) -> str:
        snippet = next(rest)
        block = _MARK_IN_HTML.sub("", match[0], count=1) if snippet.apart else match[0]
        live = ' class="live"' if snippet.live else ""
        if snippet.solves:
            return f'<py-snippet number="{snippet.number}">{block}</py-snippet>'
        if snippet.lab:
            about = f'number="{snippet.number}"{live} lab="{snippet.lab}" checks="weave:{address}/labs.py"'
            title = f'<p class="weave-lab"><strong>Lab</strong> {snippet.lab.replace("-", " ")}</p>'
            return f'<py-lab {about} models="{" ".join(models)}">{title}{block}<p class="weave-take"></p></py-lab>'
        below = _recorded(recorded[snippet.number]) if snippet.number in recorded else ""
        script = f"weave:{address}/snippet-{snippet.number}.py"
        link = f'<a class="weave-up-to" href="{script}" download>the snippets up to here</a>'
        take = f'<p class="weave-take">{link}</p>'
        return f'<py-snippet number="{snippet.number}"{live}>{block}{take}{below}</py-snippet>'

    return _BLOCK.sub(dress, html)


def _recorded(result: dict[str, Any]) -> str:
    text = (result["text"] + result["error"]).rstrip()
    if not text:
        return ""
    return (
        f'<div class="weave-gave"><pre tabindex="0" aria-label="what it gives"><code>{escape(text)}</code></pre></div>'
    )
