"""Notebooks for Google Colab: each with a first cell that installs what it needs.

They are written into ``colab/`` of the site, from where a workflow puts them on the branch ``colab`` of the repository;
Colab opens a notebook of a GitHub repository by its address.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from weave.site.downloads import NEEDS

_GITHUB = re.compile(r"https://github\.com/([^/]+/[^/]+?)/?")


def address(repository: str | None, notebook: str) -> str | None:
    """Return the address under which Colab opens a notebook; None for a repository that is not on GitHub."""
    match = _GITHUB.fullmatch(repository or "")
    return f"https://colab.research.google.com/github/{match[1]}/blob/colab/{notebook}.ipynb" if match else None


def write(site: Path, repository: str | None, requirements: str) -> None:
    """Write a copy of each of the site's notebooks for Colab, and ``colab/names.txt``, the list of their file names.

    Its first cell clones ``repository`` and installs the packages of its file ``requirements``. Nothing is written for
    a repository that is not on GitHub.
    """
    if not _GITHUB.fullmatch(repository or ""):
        return
    url = str(repository).rstrip("/")
    name = url.rpartition("/")[2]
    install = (
        f"!test -d /content/{name} || git clone -q --depth 1 {url} /content/{name}\n"
        f"%cd -q /content/{name}\n"
        f"%pip install -q --no-deps -r {requirements} -e ."
    )
    cell: dict[str, Any] = {
        "cell_type": "code",
        "id": "install",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
        "source": install,
    }
    (site / "colab").mkdir(exist_ok=True)
    for path in sorted(site.glob("notebooks/*/*.ipynb")):
        notebook = json.loads(path.read_text("utf-8"))
        notebook["cells"] = [cell, *(other for other in notebook["cells"] if other["id"] != NEEDS)]
        (site / "colab" / path.name).write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")
    names = "".join(f"{path.name}\n" for path in sorted((site / "colab").glob("*.ipynb")))
    (site / "colab/names.txt").write_text(names)
