"""``weave new``: a note, its notebook and their lines in the navigation, which pass `weave check` from the start."""

from __future__ import annotations

import importlib.util
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

import yaml

from weave.source.files import create_atomically, write_atomically
from weave.source.layout import Layout
from weave.source.problem import Refused, nearest

_LINES = re.compile(r"[^\n\r\x85\u2028\u2029]*(?:\r\n|[\n\r\x85\u2028\u2029])|[^\n\r\x85\u2028\u2029]+\Z")  # YAML's

NOTE = """\
---
description: A draft that does not yet say in one plain sentence what a reader will find in it.
needs: []
draft: true
---

# TITLE

After this note you can say what TITLE is about.

<!-- To be filled in before `draft: true` goes, all of it held by tests/notes:
- description: one sentence of 20 to 160 plain characters, as search engines and feeds show it;
- needs: the notes that this one builds on, by the names of their files: [zero-layer, attention-heads];
- above: "After this note you can …", one sentence;
- at least one number of the notebook, one figure with a caption that says what to see, and one theorem:
  [theorem](TESTS#test_name) leads to its test.
-->

## The confusion

<!-- What I believed, and what happened when I tried it. -->

## First numbers

Of [5](#=measured) values the largest is [16](#=largest).

![Squares in place of the first measurement: each step is longer than the one before it.](NOTEBOOK#measurement)

## What this does not show

## Open questions

- [ ] Which question does this note leave open?

## Exercises

**1.** What is the next value?

<details>
<summary>Solution</summary>

25, as the values are squares.

</details>

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


def slug(title: str) -> str:
    """Return a title as a file's name: ``Attention sinks`` is ``attention-sinks``, ``Poincaré's`` is ``poincares``."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().replace("'", "")
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


def fill(template: str, words: dict[str, str]) -> str:
    """Return a template with each of these words replaced by its value."""
    return re.sub("|".join(sorted(words, key=len, reverse=True)), lambda word: words[word[0]], template)


def new(layout: Layout, title: str, part: str | None) -> list[str]:
    """Write the files of a new note and return what to report, a line each.

    Raises:
        Refused: The title names nothing, something has its name already, or there is no such part.
    """
    title = "".join(character for character in " ".join(title.split()) if character.isprintable())
    name = slug(title)
    stem = name.replace("-", "_")
    if not name:
        raise Refused(f"'{title}' has no letter or digit to name files by")
    note, notebook = f"{layout.docs}/notes/{name}.md", f"{layout.notebooks}/{stem}.py"
    up = "../" * note.count("/")
    words = {"TITLE": title, "NAME": name, "NOTEBOOK": up + notebook, "TESTS": f"{up}{_tests(layout)}test_{stem}.py"}
    words["NOTE"] = "../" * notebook.count("/") + note
    texts = {path: fill(template, words).encode() for path, template in ((note, NOTE), (notebook, NOTEBOOK))}
    config = layout.root / "mkdocs.yml"
    before = config.read_bytes()
    after, report = add_to_nav(before.decode(), f"notes/{name}.md", f"notebooks/{stem}.ipynb", part)
    listed = f"notes/{name}.md" in before.decode() or after.encode() == before
    there = [path for path in texts if (layout.root / path).exists()]
    for path in there:  # what an interrupted command wrote is kept, and the rest is written
        if (len(there) == len(texts) and listed) or (layout.root / path).read_bytes() != texts[path]:
            raise Refused(f"{path} exists already and stays as it is; choose another title")
    if _is_module(stem):
        what = f"a notebook {stem}.py would hide Python's module '{stem}' from every notebook"
        raise Refused(f"{what}; choose another title")
    config = layout.root / "mkdocs.yml"
    before = config.read_bytes()
    after, report = add_to_nav(before.decode(), f"notes/{name}.md", f"notebooks/{stem}.ipynb", part)
    for path in texts.keys() - set(there):
        create_atomically(layout.root / path, texts[path])
    if after.encode() != before:
        if config.read_bytes() != before:
            raise Refused("mkdocs.yml was edited in the meantime; add the note to its nav by hand")
        write_atomically(config, after.encode())
    return [f"{note}: a draft, shown by weave serve and left out of the build", notebook, *report]


def _tests(layout: Layout) -> str:
    """Return the folder of the tests that most notes link to, with a slash behind it."""
    notes = (layout.root / layout.docs / "notes").glob("*.md")
    texts = (note.read_text("utf-8", "replace") for note in notes)
    link = re.compile(r"\]\((?:\.\./)+([^()#\s]*/)test_\w+\.py#")
    counted = Counter(folder for text in texts for folder in link.findall(text))
    return next((folder for folder, _ in counted.most_common(1)), f"{layout.sources[0]}/")


def _is_module(stem: str) -> bool:
    if stem in sys.stdlib_module_names:
        return True
    spec = importlib.util.find_spec(stem)
    return spec is not None and spec.origin is not None  # a folder of that name hides nothing


# -- the navigation, which is edited as text: comments and spaces in it are the author's


def add_to_nav(text: str, note: str, notebook: str, part: str | None) -> tuple[str, list[str]]:
    """Return mkdocs.yml with a line for each of two pages, and what to report.

    Raises:
        Refused: There is no part of this name.
    """
    lists = list(nav_lists(text))
    if not lists:
        if part:
            raise Refused("mkdocs.yml has no nav, and so no part to choose")
        return text, ["mkdocs.yml has no nav: MkDocs lists every page by itself"]
    if part and part not in (known := _last_rows(lists, "notes/")):
        raise Refused(f"mkdocs.yml: no part '{part}' with notes; {nearest(part, known, 'nav')}")
    report = []
    for path, chosen in ((note, part), (notebook, None)):
        parts = _last_rows(nav_lists(text), path.partition("/")[0] + "/")
        name = chosen or max(parts, key=parts.__getitem__, default="")
        if changed := _insert(text, parts[name], path) if parts else None:
            text = changed
            report.append(f"mkdocs.yml: {path} in {name}")
        else:
            why = "it has no list, a line for each page, to put it into"
            report.append(f"mkdocs.yml: add {path} to nav by hand; {why}")
    return text, report


def nav_lists(text: str) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Yield each list of nav with its name: the row (from 0) and path of every page in it."""
    root = yaml.compose(text, yaml.SafeLoader)
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == "nav" and isinstance(value, yaml.SequenceNode):
            yield from _lists("nav", value)


def _lists(name: str, node: yaml.SequenceNode) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    pages = []
    for item in node.value:
        for key, value in item.value if isinstance(item, yaml.MappingNode) else [(item, item)]:
            if isinstance(value, yaml.ScalarNode):
                pages.append((value.start_mark.line, value.value))
            elif isinstance(value, yaml.SequenceNode):
                yield from _lists(key.value, value)
    if pages:
        yield name, pages


def _last_rows(lists: Iterable[tuple[str, list[tuple[int, str]]]], folder: str) -> dict[str, int]:
    """Return the row of the last page of a folder in each list that has any."""
    rows = {name: [row for row, path in pages if path.startswith(folder)] for name, pages in lists}
    return {name: max(found) for name, found in rows.items() if found}


def _insert(text: str, row: int, path: str) -> str | None:
    """Return the text with a line for ``path`` below a row, and nothing else changed; None if that is impossible."""
    lines = _LINES.findall(text)
    body = lines[row].rstrip("\r\n")
    indent, dash, _ = body.partition("- ")
    if indent.strip() or not dash:
        return None
    end = lines[row][len(body) :] or "\n"
    lines[row] = body + end
    lines.insert(row + 1, f"{indent}- {path}{end}")
    changed = "".join(lines)
    before, after = ([path for _, pages in nav_lists(one) for _, path in pages] for one in (text, changed))
    return changed if sorted(after) == sorted([*before, path]) else None
