"""The Python blocks of a note: which of them the reader's browser can run, what they gave here, and how they look.

A block is alive when all that it imports is Python's own or one of the packages that the site carries to the browser
(`browser_packages` in mkdocs.yml), and all it uses comes from blocks above it that are alive too.
"""

from __future__ import annotations

import builtins
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import dedent
from typing import Any

from weave.note import session
from weave.run import slices
from weave.run.store import digest, kept, version_of
from weave.source import markdown

_BLOCK = re.compile(r'<div class="language-python highlight">.*?</pre></div>', re.DOTALL)
# As it comes out within a list, where Markdown takes it for a part of the text around it.
_IN_PARAGRAPH = re.compile(rf"<p>((?:(?!</?p>).)*?)({_BLOCK.pattern})((?:(?!</?p>).)*)</p>", re.DOTALL)
_TIMEOUT = 60


@dataclass(frozen=True)
class Snippet:
    number: int
    """Counted from 1."""
    line: int
    """Of its first line of code, in the text, counted from 1."""
    code: str
    live: bool = False


def find(text: str, packages: Sequence[str] = ()) -> list[Snippet]:
    """The Python blocks of a Markdown text, in their order."""
    found: list[Snippet] = []
    known: set[str] = set(dir(builtins))
    lost: set[str] = set()
    for fence in markdown.tokens(text, "fence"):
        if not re.match(r"python\b", fence["info"]):
            continue
        code = dedent(fence.code)
        alive, names = _lives(code, known, lost, packages)
        if alive:
            known, lost = known | names, lost - names
        else:
            lost |= names - known
        found.append(Snippet(len(found) + 1, fence.line + 1, code, alive))
    return found


def _lives(code: str, known: set[str], lost: set[str], packages: Sequence[str]) -> tuple[bool, set[str]]:
    try:
        parts = slices.statements(code)
    except SyntaxError:
        return False, set()
    bound = {name for one in parts for name in one.bound}
    used = {name for one in parts for name in one.loaded}
    later = {name for one in parts for name in one.later}  # or local to a function
    imported = set(re.findall(r"^\s*(?:import|from)\s+(\w+)", code, re.MULTILINE))
    ours = imported <= set(packages) | sys.stdlib_module_names
    return bool(packages) and ours and used <= known | bound and not later & lost - bound, bound


def record(folder: Path, snippets: Sequence[Snippet], packages: Sequence[str]) -> dict[int, dict[str, Any]]:
    """What the live snippets of a note give, run in a process of their own; kept in ``folder`` until they change."""
    live = [(f"snippet {one.number}", one.code) for one in snippets if one.live]
    if not live:
        return {}
    asked = json.dumps(live)
    versions = [f"{name} {version_of(name)}".encode() for name in packages]
    key = digest(asked.encode(), Path(session.__file__).read_bytes(), sys.version.encode(), *versions)

    def make() -> str:
        command = [sys.executable, "-I", session.__file__]
        done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        return done.stdout if done.returncode == 0 else "[]"

    try:
        gave = json.loads(kept(folder, key, make))
    except subprocess.TimeoutExpired:
        gave = []
    return dict(zip([one.number for one in snippets if one.live], gave, strict=False))


def script_file(uri: str) -> str:
    """Where on the site a page's snippets lie as scripts, with ``{}`` for the number."""
    return f"{uri.removesuffix('.md')}/snippet-{{}}.py"


def script_of(snippets: Sequence[Snippet], number: int) -> str:
    """A snippet with what it needs of those above it."""
    try:
        return slices.script([one.code for one in snippets[: number - 1]], snippets[number - 1].code)
    except SyntaxError:
        return snippets[number - 1].code


def script_bytes(snippets: Sequence[Snippet], number: int) -> bytes:
    return script_of(snippets, number).encode()


def weave(html: str, snippets: Sequence[Snippet], recorded: dict[int, dict[str, Any]], file: str) -> str:
    """The page with each block as a snippet; ``file`` names its script, with ``{}`` for the number."""
    html = _IN_PARAGRAPH.sub(
        lambda m: "".join(f"<p>{m[i]}</p>" if i != 2 else m[2] for i in (1, 2, 3) if m[i].strip()), html
    )
    blocks = _BLOCK.findall(html)
    if len(blocks) != len(snippets):  # something else writes blocks of Python: better plain than mixed up
        return html
    rest = iter(snippets)

    def dress(match: re.Match[str]) -> str:
        one = next(rest)
        below = _recorded(recorded[one.number]) if one.number in recorded else ""
        take = f'<a class="weave-needs" href="weave:{file.format(one.number)}" download>with what it needs</a>'
        live = ' class="live"' if one.live else ""
        return f'<py-snippet number="{one.number}"{live}>{match[0]}<p class="weave-take">{take}</p>{below}</py-snippet>'

    return _BLOCK.sub(dress, html)


def _recorded(result: dict[str, Any]) -> str:
    text = (result["text"] + result["error"]).rstrip()
    if not text:
        return ""
    return (
        f'<div class="weave-gave"><pre tabindex="0" aria-label="what it gives"><code>{escape(text)}</code></pre></div>'
    )
