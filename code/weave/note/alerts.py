r"""GitHub's alerts and folded parts, which GitHub and Obsidian show as this site does: as boxes and folds.

======================================  =======================================================
in the note                             on the page
======================================  =======================================================
``> [!WARNING]``, ``> **Title**``       a box with that title
``> [!NOTE]`` without a title           an aside, in the margin where there is one
``<details>``, ``<summary>…</summary>`` a part that unfolds, up to ``</details>``; Markdown inside
======================================  =======================================================

They are written anew, line for line, in the syntax of the extensions admonition and pymdownx.details, which know lists.
"""

from __future__ import annotations

import re

from markdown.preprocessors import Preprocessor

from weave.note.page import current_page
from weave.source.markdown import outside_fences

_KINDS = {"note": "note", "tip": "tip", "important": "info", "warning": "warning", "caution": "danger"}
_ALERT = re.compile(r"(?P<indent> *)>[ ]?\[!(?P<kind>\w+)\](?P<rest>.*)")
_TITLE = re.compile(r"\*\*(.+)\*\*")
_OPEN = re.compile(r"( *)<details( open)?>\s*")
_SUMMARY = re.compile(r" *<summary>(.*)</summary>\s*")


class Alerts(Preprocessor):
    """Every line stays on its line."""

    def run(self, lines: list[str]) -> list[str]:
        known = self.md.parser.blockprocessors
        if "admonition" in known:
            lines = _alerts(lines)
        return _details(lines) if "details" in known else lines


def _alerts(lines: list[str]) -> list[str]:
    out = list(lines)
    done = 0
    for line, number in outside_fences(lines):
        match = _ALERT.fullmatch(line) if number and number > done else None
        if not match or not number:
            continue
        kind, indent = _KINDS.get(match["kind"].lower()), match["indent"]
        if kind is None or match["rest"].strip():
            known = ", ".join(f"[!{name.upper()}]" for name in _KINDS)
            what = "stands alone on its line; put a title in **bold** on the next" if kind else f"is none of {known}"
            current_page().report(number, f"[!{match['kind']}] {what}")
            continue
        quoted = re.compile(rf"{indent}>[ ]?(.*)")
        body = []
        for below in lines[number:]:
            inner = quoted.fullmatch(below)
            if not inner:
                break
            body.append(inner[1])
        title = _TITLE.fullmatch(body[0].strip()) if body else None
        if title and (len(body) == 1 or not body[1].strip()):
            body[0] = ""
            head = f'{kind} "{title[1]}"'
        else:
            head = 'side ""' if kind == "note" else kind
        done = number + len(body)
        out[number - 1 : done] = [f"{indent}!!! {head}", *(f"{indent}    {one}".rstrip() for one in body)]
    return out


def _details(lines: list[str]) -> list[str]:
    out: list[str] = []
    opened: list[tuple[int, str]] = []  # number of its line, its indentation
    for at, (line, number) in enumerate(outside_fences(lines), start=1):
        start = _OPEN.fullmatch(line) if number else None
        summary = _SUMMARY.fullmatch(lines[at]) if start and at < len(lines) else None
        shift = "    " * len(opened)
        if start and summary:
            out.append(f'{shift}{start[1]}???{"+" if start[2] else ""} "{summary[1].strip()}"')
            opened.append((at, start[1]))
        elif opened and opened[-1][0] == at - 1:  # the summary
            out.append("")
        elif number and opened and line.rstrip() == f"{opened[-1][1]}</details>":
            out.append("")
            opened.pop()
        else:
            out.append(shift + line if line.strip() else line)
    for number, _ in opened:
        current_page().report(number, "<details> is not closed; write </details> below it, as far to the left")
    return out
