"""The other tools: which versions of them we compare with, and the virtual environment of each."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".cache/bench-peers"
"""Where the environments of the tools are made."""
LIBRARIES = {"peers": ROOT / ".venv-peers", "peers43": ROOT / ".venv-peers43"}
"""The environments with transformers, and with TransformerLens 4.3, which `make peers` makes."""
_JUPYTER = ["ipykernel", "numpy", "matplotlib"]
TOOLS = {
    "stock": [
        "mkdocs==1.6.1",
        "mkdocs-material==9.8.1",
        "mkdocs-jupyter==0.26.3",
        "markdown-katex==202406.1035",
        *_JUPYTER,
    ],
    "book": ["jupyter-book==1.0.4.post1", *_JUPYTER],
    "myst": ["mystmd==1.11.0", "jupyter-server", *_JUPYTER],
    "quarto": ["quarto-cli==1.10.19"],
}


def install(names: Iterable[str], folder: Path = FOLDER) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the python of each of these tools, ours first, and the reasons why others cannot be had here.

    An environment is made when it is missing, and kept in ``folder``.
    """
    pythons, absent = {"ours": Path(sys.executable)}, {}
    for name in names:
        python = folder.resolve() / name / "bin/python"
        if not python.exists():
            print(f"installing {name} into {python.parents[1]}", file=sys.stderr)
            make = [sys.executable, "-m", "venv", str(python.parents[1])]
            fill = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *TOOLS[name]]
            for command in (make, fill):
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    shutil.rmtree(python.parents[1], ignore_errors=True)
                    absent[name] = (done.stderr.strip().splitlines() or ["?"])[-1]
                    break
        if name not in absent:
            pythons[name] = python
    return pythons, absent
