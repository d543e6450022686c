"""The line under a note's title: how long it takes to read, when it last changed, how to run and download it."""

from __future__ import annotations

import datetime
from functools import lru_cache
from pathlib import Path

from weave.site import colab
from weave.source.git import git
from weave.source.layout import Layout


def under_title(html: str, uri: str, minutes: int, layout: Layout, repository: str | None) -> str:
    """Return a note's content with the line below its first heading.

    ``uri`` is the note's path below the docs folder; ``repository`` is the address whose branch ``colab`` has the
    notebooks for Colab, None for a site without one.
    """
    stem = Path(uri).stem.replace("-", "_")
    notebook = f"{layout.notebooks}/{stem}.py"
    days = changed(layout.root, layout.docs, layout.notebooks)
    parts = [f"{minutes} minute{'s' * (minutes != 1)} to read through"]
    if day := max((days[path] for path in (f"{layout.docs}/{uri}", notebook) if path in days), default=None):
        parts.append(f'changed <time datetime="{day}">{day.day} {day:%B %Y}</time>')
    if (layout.root / notebook).is_file():
        parts.append(f"run it: <code>weave run {stem}</code>")
        take = [f'<a href="weave:notebooks/{stem}/{stem}.{kind}" download>.{kind}</a>' for kind in ("ipynb", "py")]
        if address := colab.address(repository, stem):
            take.append(f'<a href="{address}">in Colab</a>')
        parts.append("take it along: " + ", ".join(take))
    line = f'<p class="note-about" data-search-exclude="1">{" · ".join(parts)}</p>'
    return html.replace("</h1>", f"</h1>\n{line}", 1)


@lru_cache(maxsize=8)
def changed(root: Path, *folders: str) -> dict[str, datetime.date]:
    """Return the day of the last commit to each file in these folders; files that git does not know are left out.

    It is read once a process: a server shows the days as they were when it started.
    """
    days: dict[str, datetime.date] = {}
    day = datetime.date.min
    for line in git(root, "log", "--format=@%cs", "--name-only", "--relative", "--", *folders):
        if line.startswith("@"):
            day = datetime.date.fromisoformat(line[1:])
        elif line:
            days.setdefault(line, day)
    return days
