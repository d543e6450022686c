"""Links out of the repository, notes without text, the same text twice: nothing of it is a page to publish."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from weave.source.front_matter import read, split
from weave.source.layout import Layout
from weave.source.problem import Problem


def outside(layout: Layout) -> list[Problem]:
    """Return the problem of each link below docs/ that leads out of the repository, or nowhere."""
    root, problems = layout.root.resolve(), []
    for folder, folders, files in os.walk(layout.root / layout.docs):
        for path in (Path(folder, name) for name in sorted(folders + files)):
            if not path.is_symlink():
                continue
            real, name = Path(os.path.realpath(path)), path.relative_to(layout.root).as_posix()
            if not real.is_relative_to(root):
                what = f"is a link to {real}, outside of the repository; put the file itself here"
                problems.append(Problem(name, 1, what))
            elif not real.exists():
                problems.append(Problem(name, 1, f"is a link to {real.relative_to(root)}, which is gone; delete it"))
    return problems


def unwritten(layout: Layout, pages: Iterable[str]) -> Iterator[Problem]:
    """Yield the problem of each page without text, and of each with the text of another."""
    texts: dict[str, str] = {}
    for path in sorted(pages):
        text = split(read(layout.root / path))[0].strip()
        if not text:
            yield Problem(path, 1, "has no text, and would be an empty page; write it, or delete the file")
        elif (other := texts.setdefault(text, path)) != path:
            yield Problem(path, 1, f"is the same text as {other}; delete one of them")
