"""``weave open``: a notebook in JupyterLab, which saves it as the Python file that it is, or in VS Code."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click

from weave.run.store import write_whole
from weave.source.front_matter import read
from weave.source.layout import Layout

_SETTINGS = {
    "@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"python": "Jupytext Notebook"}},
    "@jupyterlab/notebook-extension:tracker": {"autoStartDefaultKernel": True},  # the file names none: no question
}
_MISSING = "JupyterLab is not installed; to have it: pip install jupyterlab (into the environment that weave is in)"


def copies(place: Layout, path: str) -> list[str]:
    """The copies of a notebook, as Jupyter leaves them, that are newer than its file and say something else."""
    file = place.root / path
    kept = file.parent / ".ipynb_checkpoints"
    found = []
    for copy in (file.with_suffix(".ipynb"), *(kept / f"{file.stem}-checkpoint{end}" for end in (".ipynb", ".py"))):
        if copy.is_file() and copy.stat().st_mtime > file.stat().st_mtime and _code(copy) != _code(file):
            found.append(copy.relative_to(place.root).as_posix())
    return found


def open_in_jupyter(place: Layout, path: str) -> int:
    """Open a notebook, in JupyterLab where it is installed; the exit status of what was opened."""
    for copy in copies(place, path):
        click.echo(f"{copy} is newer than {path} and not the same; both are kept, and the site shows {Path(path).name}")
        if copy.endswith(".ipynb"):
            click.echo(f"  to read it as Python: jupytext --to py:percent --output - {copy}")
    if importlib.util.find_spec("jupyterlab"):
        # Only the JupyterLab that is started here shows Python files as notebooks; the author's own settings stay.
        settings = place.root / ".cache/weave/jupyter"
        write_whole(settings / "labconfig/default_setting_overrides.json", json.dumps(_SETTINGS).encode())
        paths = [str(settings), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
        click.echo(f"{path}: opens in JupyterLab, which saves it back as it is; Ctrl-C twice ends it")
        # Its root would be the notebook's folder, where jupytext does not see the configuration in pyproject.toml.
        command = [sys.executable, "-m", "jupyterlab", path, f"--ServerApp.root_dir={place.root}"]
        return subprocess.run(
            command, cwd=place.root, env={**os.environ, "JUPYTER_CONFIG_PATH": os.pathsep.join(paths)}, check=False
        ).returncode
    click.echo(_MISSING)
    code = shutil.which("code")
    if code is None:
        click.echo(f"{path} is plain Python with cells (# %%): VS Code runs them as it is, any editor edits it")
        return 1
    if not click.confirm("open it in VS Code, which runs the cells of the file as it is?", default=True):
        return 1
    return subprocess.run([code, str(place.root), "--goto", str(place.root / path)], check=False).returncode


def _code(path: Path) -> list[str]:
    """The cells of a notebook, whichever kind of file it is; of one that cannot be read, something unlike any other."""
    if path.suffix == ".py":
        import jupytext

        return [cell.source for cell in jupytext.reads(read(path), "py:percent").cells]
    try:
        cells = json.loads(path.read_bytes())["cells"]
        return ["".join(cell["source"]) for cell in cells]
    except (ValueError, KeyError, TypeError):
        return [str(path)]
