"""``weave new``: a note, its notebook and their lines in the navigation, to begin with and green as they are."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import yaml

from weave.author.common import slug
from weave.run.store import write_whole
from weave.source.layout import Layout
from weave.source.problem import nearest

_LINES = re.compile(
    r"[^\n\r\x85\u2028\u2029]*(?:\r\n|[\n\r\x85\u2028\u2029])|[^\n\r\x85\u2028\u2029]+\Z"
)  # as YAML has them

_NO_LIST = "it has no list, a line for each page, to put it into"

NOTE = """\
---
description: A draft that does not yet say in one plain sentence what a reader will find in it.
needs: []
draft: true
---

# TITLE

After this note you can say what TITLE is about; it takes about 10 minutes.

<!-- To be filled in before `draft: true` goes, all of it held by tests/notes:
- description: one sentence of 20 to 160 plain characters, as search engines and feeds show it;
- needs: the notes that this one builds on, by the names of their files: [zero-layer, attention-heads];
- above: "After this note you can …; it takes about 30 minutes.", one sentence;
- at least one number of the notebook, one figure with a caption that says what to see, and one theorem:
  [theorem](TESTS#test_name) leads to its test.
-->

## The confusion

<!-- What I believed, and what happened when I tried it. -->

## First numbers

Of [5](NOTEBOOK#=measured) values the largest is [16](NOTEBOOK#=largest).

![Squares in place of the first measurement: each step is longer than the one before it.](NOTEBOOK#measurement)

## What this does not show

## Open questions

- [ ] Which question does this note leave open?

## Exercises

**1.** What is the next value?

??? success "Solution"

    25, as the values are squares.

## References
"""

NOTEBOOK = """\
# %% [markdown]
# # TITLE
#
# What the note [NAME](NOTE) shows and counts.

# %% setup
import matplotlib.pyplot as plt

from weave import claim

values = [n**2 for n in range(5)]  # in place of the first measurement
claim(measured=len(values), largest=max(values))

# %% measurement
figure, axes = plt.subplots(figsize=(5, 3))
axes.plot(values, "o-")
axes.set_xlabel("step")
axes.set_ylabel("value")
plt.show()
"""


def new(place: Layout, title: str, part: str | None) -> list[str]:
    """Write what a note begins with; says what was written, a line each.

    Raises:
        click.ClickException: The title names nothing, something of its name is there already, or there is no such part.
    """
    title = "".join(one for one in " ".join(title.split()) if one.isprintable())
    name = slug(title)
    stem = name.replace("-", "_")
    if not name:
        raise click.ClickException(f"'{title}' has no letter or digit to name files by")
    note, notebook = f"{place.docs}/notes/{name}.md", f"{place.notebooks}/{stem}.py"
    for path in (note, notebook):
        if (place.root / path).exists():
            raise click.ClickException(f"{path} is there already and stays as it is; choose another title")
    if _is_module(stem):
        what = f"a notebook {stem}.py would hide Python's module '{stem}' from every notebook"
        raise click.ClickException(f"{what}; choose another title")
    config = place.root / "mkdocs.yml"
    before = config.read_bytes()
    after, said = _in_nav(before.decode(), f"notes/{name}.md", f"notebooks/{stem}.ipynb", part)

    up = "../" * (note.count("/"))
    words = {"TITLE": title, "NAME": name, "NOTEBOOK": up + notebook, "TESTS": f"{up}tests/test_{stem}.py"}
    _write_new(place.root / note, _filled(NOTE, words))
    words["NOTE"] = "../" * notebook.count("/") + note
    _write_new(place.root / notebook, _filled(NOTEBOOK, words))
    if after.encode() != before:
        if config.read_bytes() != before:
            raise click.ClickException("mkdocs.yml was edited in the meantime; add the note to its nav by hand")
        write_whole(config, after.encode())
    return [f"{note}: a draft, shown by weave serve and left out of the build", notebook, *said]


def _filled(text: str, words: dict[str, str]) -> str:
    return re.sub("|".join(sorted(words, key=len, reverse=True)), lambda word: words[word[0]], text)


def _write_new(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)


def _is_module(stem: str) -> bool:
    if stem in sys.stdlib_module_names:
        return True
    found = importlib.util.find_spec(stem)
    return found is not None and found.origin is not None  # a mere folder of that name hides nothing


# -- the navigation, which is edited as text: comments and spaces in it are the author's


def _in_nav(text: str, note: str, notebook: str, part: str | None) -> tuple[str, list[str]]:
    """mkdocs.yml with a line for each, and where they went."""
    groups = list(_groups(text))
    if not groups:
        if part:
            raise click.ClickException("mkdocs.yml has no nav, and so no part to choose")
        return text, ["mkdocs.yml has no nav: MkDocs lists every page by itself"]
    if part and part not in (of_notes := _last_rows(groups, "notes/")):
        raise click.ClickException(f"mkdocs.yml: no part '{part}' with notes; {nearest(part, of_notes, 'nav')}")
    said = []
    for path, chosen in ((note, part), (notebook, None)):
        parts = _last_rows(_groups(text), path.partition("/")[0] + "/")
        name = chosen or max(parts, key=parts.__getitem__, default="")
        changed = _insert(text, parts[name], path) if parts else None
        said.append(
            f"mkdocs.yml: {path} in {name}" if changed else f"mkdocs.yml: add {path} to nav by hand; {_NO_LIST}"
        )
        text = changed or text
    return text, said


def _groups(text: str) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Each list of nav with its name: for every page in it the line (from 0) and the path."""
    root = yaml.compose(text, yaml.SafeLoader)
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == "nav" and isinstance(value, yaml.SequenceNode):
            yield from _lists("nav", value)


def _lists(name: str, node: yaml.SequenceNode) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    own = []
    for item in node.value:
        if isinstance(item, yaml.ScalarNode):
            own.append((item.start_mark.line, item.value))
        elif isinstance(item, yaml.MappingNode):
            for key, value in item.value:
                if isinstance(value, yaml.ScalarNode):
                    own.append((value.start_mark.line, value.value))
                elif isinstance(value, yaml.SequenceNode):
                    yield from _lists(key.value, value)
    if own:
        yield name, own


def _last_rows(groups: Iterable[tuple[str, list[tuple[int, str]]]], folder: str) -> dict[str, int]:
    """For each list that has pages of a folder, the line of the last."""
    rows = {name: [row for row, path in items if path.startswith(folder)] for name, items in groups}
    return {name: max(found) for name, found in rows.items() if found}


def _insert(text: str, row: int, path: str) -> str | None:
    """The text with a line for ``path`` below line ``row``, and nothing else changed in it; None where it cannot be."""
    lines = _LINES.findall(text)
    body = lines[row].rstrip("\r\n")
    indent, dash, _ = body.partition("- ")
    if indent.strip() or not dash:
        return None
    end = lines[row][len(body) :] or "\n"
    lines[row] = body + end
    lines.insert(row + 1, f"{indent}- {path}{end}")
    changed = "".join(lines)
    was, now = ([path for _, items in _groups(one) for _, path in items] for one in (text, changed))
    return changed if sorted(now) == sorted([*was, path]) else None
