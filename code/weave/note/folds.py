r"""Folded parts as GitHub and Obsidian have them: ``<details>``, ``<summary>…</summary>``, up to ``</details>``.

They are rewritten, line for line, in the syntax of pymdownx.details, which also works in lists, unlike md_in_html.
"""

from __future__ import annotations

import re

from markdown.preprocessors import Preprocessor

from weave.note.page import page_of
from weave.source.markdown import outside_fences

_OPEN = re.compile(r"( *)<details( open)?>\s*")
_SUMMARY = re.compile(r" *<summary>(.*)</summary>\s*")


class Folds(Preprocessor):
    """Rewrites folds; every line stays on its line."""

    def run(self, lines: list[str]) -> list[str]:
        if "details" not in self.md.parser.blockprocessors:
            return lines
        out: list[str] = []
        opened: list[tuple[int, str]] = []  # number and indentation of the line that opens each fold
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
            what = "<details> is not closed; write </details> below it, as far to the left"
            page_of(self.md).report(number, what)
        return out
