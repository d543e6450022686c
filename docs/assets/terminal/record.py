"""Draws the terminal pictures of docs/pages/writing.md: runs the commands on a small site, in a terminal, and keeps
what stood on the screen as SVG.

    make terminal        draw them again

The site is made in a folder that goes afterwards, the clock stands still, and how long something took is left out, so
that two runs draw the same. tests/weave/author/test_terminal.py runs this too, and fails where a picture is no longer
true.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pexpect
import pyte

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT / "tests/weave"))

from conftest import Small, make_small  # noqa: E402

COLUMNS, ROWS = 92, 200
WIDE, TALL, EDGE = 8.4, 19, 14  # of a character, of a line, around the text: pixels where the picture has its own size
COLOURS = {"red": "#a3271b", "green": "#2c6e31", "cyan": "#1f6478", "brown": "#7a5200"}
TOOK = re.compile(r"\d+\.\d s\b")

POST = """\
---
title: A first body
date: 2026-11-20
slug: a-first-body
description: What cools, and how fast.
sessions: ["19:11-21:54"]
---

# A first body

**Goal.** A curve.

## TODO

- [x] Draw the curve.
- [ ] Find out whether a second body cools as fast.
- [ ] Read the derivation again.
"""

SNIPPETS = """
```python
halves = [0.5**n for n in range(4)]
halves
```

```python
sum(halves) / len(halve)
```
"""


@dataclass
class Terminal:
    """A terminal in which commands are typed at a prompt."""

    site: Small
    clock: str = "2026-11-25T19:11"
    typed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self.stream = pyte.Stream(self.screen)

    def weave(self, arguments: str, *answers: tuple[str, str]) -> None:
        """Type ``weave …``, then each answer when its question stands there."""
        self.stream.feed(f"$ \x1b[1mweave {arguments}\x1b[0m\r\n")
        env = {**self.site.env, "WEAVE_NOW": self.clock, "TERM": "xterm-256color", "LANG": "C.UTF-8", "PATH": _path()}
        env["COLUMNS"] = str(COLUMNS)  # whatever is set where this runs
        child = pexpect.spawn(
            sys.executable,
            ["-m", "weave.cli", *_words(arguments)],
            cwd=str(self.site.root),
            env=env,  # type: ignore[arg-type]
            dimensions=(ROWS, COLUMNS),
            encoding="utf-8",
            timeout=120,
        )
        said = ""
        for question, answer in answers:
            child.expect_exact(question)
            said += child.before + child.after
            child.sendline(answer)
        child.expect(pexpect.EOF)
        child.close()
        self.stream.feed(TOOK.sub("… s", said + child.before))

    def svg(self, label: str) -> str:
        """What stands on the screen."""
        rows = [list(_runs(self.screen.buffer[row])) for row in range(ROWS)]
        while rows and not rows[-1]:
            rows.pop()
        width, height = COLUMNS * WIDE + 2 * EDGE, len(rows) * TALL + 2 * EDGE
        lines = []
        for number, runs in enumerate(rows):
            y = EDGE + number * TALL + 14
            for column, text, style in runs:
                size = f'x="{EDGE + column * WIDE:g}" y="{y:g}" textLength="{len(text) * WIDE:g}"'
                lines.append(f"<text {size}{style}>{escape(text)}</text>")
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label={quoteattr(label)} width="{width:g}" '
            f'height="{height:g}" viewBox="0 0 {width:g} {height:g}" font-size="14" fill="#1d2529" '
            'style="white-space:pre"\n'
            "font-family=\"'Source Code Pro',ui-monospace,'SF Mono','DejaVu Sans Mono',Menlo,Consolas,monospace\">\n"
            '<rect width="100%" height="100%" rx="4" fill="#f3f3f2"/>\n' + "\n".join(lines) + "\n</svg>\n"
        )


def record(folder: Path) -> None:
    """Draw every picture into a folder."""
    with tempfile.TemporaryDirectory(prefix="weave-terminal-") as made:
        site = make_small(Path(made))
        site.write("docs/log/posts/2026-11-20-a-first-body.md", POST)
        _commit(site, "2026-11-20T22:00")
        terminal = Terminal(site)

        def keep(name: str, label: str) -> None:
            (folder / f"{name}.svg").write_text(terminal.svg(label), "utf-8")
            terminal.clear()

        terminal.weave('new "Attention sinks"')
        terminal.weave("run attention_sinks")
        terminal.weave("check")
        keep("new", "weave new makes a note and its notebook; weave run runs it, weave check finds nothing wrong")

        terminal.weave("start", ("entry: ", "A second body"))
        terminal.clock = "2026-11-26T00:25"
        terminal.weave("stop")
        keep("log", "weave start asks for a title and makes today's entry; weave stop ends the session past midnight")

        _commit(site, "2026-11-26T00:30")
        site.write("code/lab.py", "RATE = 0.25\n")
        terminal.clock = "2026-12-02T09:00"
        terminal.weave("next")
        keep("next", "weave next shows open tasks by age, drafts, notes not touched, and one stale notebook")

        terminal.weave("stale")
        terminal.weave("run heat")
        terminal.weave("check")
        terminal.weave("fix", ("[y/N]: ", "y"))
        terminal.weave("check")
        keep("fix", "after an edit weave check finds a number that no longer holds; weave fix rewrites it")

        site.write("docs/notes/heat.md", site.read("docs/notes/heat.md") + SNIPPETS)
        terminal.weave("snippets heat")
        keep("snippets", "weave snippets runs two blocks of a note; the second fails and is named with its line")


def _words(arguments: str) -> list[str]:
    return [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', arguments)]


def _path() -> str:
    """Python's own folder first, where node lies that `make install` installed."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _commit(site: Small, date: str) -> None:
    who = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in
           {"NAME": "A", "EMAIL": "a@example.org", "DATE": date}.items()}  # fmt: skip
    site.write(".gitignore", ".cache/\nnode_modules\n__pycache__/\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=site.root, env={**os.environ, **who}, check=True)


def _runs(row: dict[int, pyte.screens.Char]) -> Iterator[tuple[int, str, str]]:
    """A line of the screen as pieces of one look: where each begins, what it says, and its attributes."""
    cells = [(column, row[column]) for column in range(COLUMNS)]
    while cells and cells[-1][1].data == " ":
        cells.pop()
    for (colour, bold), found in groupby(cells, key=lambda cell: (cell[1].fg, cell[1].bold)):
        piece = list(found)
        text = "".join(cell.data for _, cell in piece)
        style = (f' fill="{COLOURS[colour]}"' if colour in COLOURS else "") + (' font-weight="600"' if bold else "")
        if text.strip():
            lead = len(text) - len(text.lstrip())
            yield piece[0][0] + lead, text.strip(), style


def main() -> None:
    with tempfile.TemporaryDirectory() as made:  # all, or none
        record(Path(made))
        for drawn in sorted(Path(made).glob("*.svg")):
            shutil.copyfile(drawn, HERE / drawn.name)
            print((HERE / drawn.name).relative_to(ROOT))


if __name__ == "__main__":
    main()
