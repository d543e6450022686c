"""The scanner's third pass: headings, tasks and definitions, which begin a line."""

from __future__ import annotations

import re

from weave.source.tokens import PREFIX, Text

_CONTAINERS = r"[ ]*(?:>[ ]*|(?:[-*+]|\d{1,9}[.)])[ ]+)*"
_HEADING = re.compile(
    rf"{_CONTAINERS}(?P<marks>#{{1,6}})(?![^ ])[ ]*(?P<text>.*?)[ ]*(?:(?<=[ ])#+)?"
    r"(?P<attributes>[ ]+\{:?[ ]*[^ }][^}]*\})?[ ]*$"
)
_UNDERLINE = re.compile(r"(?:=+|-+)[ ]*$")
_TASK = re.compile(
    r"(?:[ >]|(?:[-*+]|\d+[.)])[ ]+(?=[-*+\d]))*"
    r"(?P<item>[-*+]|\d+[.)])[ ]+(?P<box>\[(?P<mark>[ xX])\])[ ]+(?P<text>\S.*)"
)
_ITEM = re.compile(r"(?:[-*+]|\d+[.)])[ ]|#{1,6}[^#]")
_DEFINITION = re.compile(
    r"[ >]*\[(?P<id>[^\[\]\n^][^\[\]\n]*)\]:[ ]*(?:\n[ >]*)?<?(?P<target>[^\s<>]+)>?[ ]*"
    r"(?:\n?[ >]*(?:\"[^\"\n]*\"|'[^'\n]*'|\([^()\n]*\))[ ]*)?$",
    re.MULTILINE,
)
_FOOTNOTE = re.compile(
    r"[ >]{0,3}\[\^(?P<id>[^\[\]\n]+)\]:(?P<body>.*$(?:\n(?=[ ]{4}|[ ]*\n[ ]{4}).*$)*)", re.MULTILINE
)


def read(text: Text) -> None:
    """Read headings, tasks and definitions; hide from links what of them looks like one."""
    hidden: list[tuple[int, int]] = []
    lines = text.seen.split("\n")
    after_block, underline = True, -1
    for row, line in enumerate(lines):
        start = text.starts[row]

        def part(match: re.Match[str], name: str, start: int = start) -> tuple[int, int]:
            return start + match.start(name), start + match.end(name)

        is_heading = False
        if "#" in line and (heading := _HEADING.match(line)):
            is_heading = True
            parts = {name: part(heading, name) for name in ("marks", "text")}
            if heading["attributes"]:
                parts["attributes"] = text.trimmed(*part(heading, "attributes"))
            text.add("heading", parts["marks"][0], start + len(line.rstrip()), **parts)
        elif row <= underline or (after_block and (underline := _underlined(text, lines, row))):
            is_heading = True
        if "[" in line and not is_heading:
            if task := _TASK.match(line):
                end, text_end = _end_of_item(text, lines, row, start + task.start("item"))
                words = (start + task.start("text"), text_end)
                text.add("task", start + task.start("item"), end, mark=part(task, "mark"), text=words)
                hidden.append(part(task, "box"))
            elif definition := _DEFINITION.match(text.seen, start):
                name, target = definition.span("id"), definition.span("target")
                text.add("definition", name[0] - 1, target[1], id=name, target=target)
                text.definitions.add(text.id(*name))
                hidden.append(definition.span())
            elif note := _FOOTNOTE.match(text.seen, start):
                body = (note.start("body"), note.start("body") + len(note["body"].rstrip()))
                text.add("footnote definition", note.start("id") - 2, body[1], id=note.span("id"), body=body)
                hidden.append((note.start(), note.end("id") + 1))
        after_block = is_heading or not line.strip(" >-_*")
    text.hide(hidden)


def _underlined(text: Text, lines: list[str], row: int) -> int:
    """Read a heading with a line of = or - below it, which begins its block; return the row of that line, or 0."""
    prefix = PREFIX.match(lines[row])[0]  # type: ignore[index]  # always matches
    if not lines[row].strip(" >-_*=") or _ITEM.match(lines[row][len(prefix) :]) or "|" in lines[row]:
        return 0
    for last in range(row + 1, len(lines)):
        line = lines[last]
        below = PREFIX.match(line)[0]  # type: ignore[index]  # always matches
        if below.count(">") != prefix.count(">") or not line.strip(" >") or "|" in line:
            return 0
        if abs(len(below) - len(prefix)) < 4 and (mark := _UNDERLINE.match(line, len(below))):
            start, under = text.starts[row] + len(prefix), text.starts[last] + len(below)
            end = under + len(mark[0].rstrip())
            text.add("heading", start, end, text=text.trimmed(start, text.starts[last] - 1), marks=(under, end))
            return last
        if _ITEM.match(line[len(below) :]):
            return 0
    return 0


def _end_of_item(text: Text, lines: list[str], row: int, start: int) -> tuple[int, int]:
    """Return where a list item ends, and its first paragraph."""
    indent = start - text.starts[row]
    last = last_of_text = row
    blank = False
    for below in range(row + 1, len(lines)):
        line = lines[below]
        prefix = PREFIX.match(line)[0]  # type: ignore[index]  # always matches
        body = line[len(prefix) :]
        if not body.strip():
            blank = True
            continue
        if len(prefix) <= indent and (blank or _ITEM.match(body)):
            break
        if last_of_text == below - 1 and not _ITEM.match(body):
            last_of_text = below
        last = below
    end, end_of_text = (text.starts[at] + len(lines[at].rstrip(" ")) for at in (last, last_of_text))
    return end, end_of_text
