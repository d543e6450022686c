"""What is left to do: every ``- [ ]`` in the notes, the log and the pages."""

from __future__ import annotations

from collections.abc import Iterator

from weave.source.layout import Layout
from weave.source.markdown import open_tasks
from weave.source.names import source_pages


def items(layout: Layout) -> Iterator[str]:
    """``docs/notes/x.md:42: what is to be done``, in the order of files and lines."""
    for path in source_pages(layout.root, layout.docs):
        text = (layout.root / path).read_text(encoding="utf-8", errors="replace")
        yield from (f"{path}:{line}: {said}" for line, said in open_tasks(text))
