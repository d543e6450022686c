"""``weave open``: Jupyter reads a notebook's Python file and writes it back unchanged; what it left behind is kept."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jupytext
import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupytext.config import load_jupytext_config, notebook_formats

from weave.author import jupyter
from weave.run.notebook import parse
from weave.source.layout import Layout

if TYPE_CHECKING:
    from conftest import Small

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOKS = sorted((ROOT / "code/notebooks").glob("*.py"))


class Jupyter:
    """What jupytext's contents manager does in a Jupyter server when a notebook is opened and saved: the same two calls
    with the configuration that it finds. (The manager itself needs a Jupyter server installed.)"""

    def __init__(self, root: Path) -> None:
        self.root = root

    def config(self, path: str) -> Any:
        return load_jupytext_config(str(self.root / path))

    def open(self, path: str) -> Any:
        return jupytext.reads((self.root / path).read_text("utf-8"), {"extension": ".py"}, config=self.config(path))

    def save(self, path: str, notebook: Any) -> None:
        """As JupyterLab does after all cells have run."""
        notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
        notebook.metadata["language_info"] = {"name": "python", "version": "3.11.0"}
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                cell.execution_count = number
                cell.outputs = [{"output_type": "stream", "name": "stdout", "text": "1"}]
                cell.metadata |= {
                    "scrolled": True,
                    "execution": {"iopub.status.busy": "x"},
                    "jupyter": {"outputs_hidden": True},
                }
        formats = notebook_formats(notebook, self.config(path), path)
        assert len(formats) == 1, "not paired with an .ipynb"
        text = jupytext.writes(nbformat.from_dict(notebook), formats[0], config=self.config(path))
        (self.root / path).write_text(text, "utf-8")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder with this repository's configuration."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "code/notebooks").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_jupyter_saves_every_notebook_back_as_it_was(notebook: Path, repository: Path) -> None:
    path = f"code/notebooks/{notebook.name}"
    shutil.copy(notebook, repository / path)
    server = Jupyter(repository)
    opened = server.open(path)
    assert len(opened.cells) == len(parse(path, notebook.read_text("utf-8")).cells)
    server.save(path, opened)
    assert (repository / path).read_bytes() == notebook.read_bytes()


names = st.from_regex(r"[a-z][a-z0-9_-]{0,12}", fullmatch=True)
lines = st.sampled_from(["x = 1", "print(x)", "# a comment", "def f():\n    return x", "for i in range(3):\n    f()"])
cells = st.tuples(st.none() | names, st.booleans(), st.lists(lines, min_size=1, max_size=3))


@given(st.lists(cells, min_size=1, max_size=5))
def test_names_and_tags_survive_whatever_the_cells(tmp_path_factory: pytest.TempPathFactory, made: Any) -> None:
    root = tmp_path_factory.mktemp("jupyter")
    shutil.copy(ROOT / "pyproject.toml", root)
    tagged = ' tags=["hide-input"]'
    heads = [f"# %%{' ' + name if name else ''}{tagged if tag else ''}" for name, tag, _ in made]
    text = "\n\n".join("\n".join([head, *body]) for head, (_, _, body) in zip(heads, made, strict=True)) + "\n"
    (root / "x.py").write_text(text)
    server = Jupyter(root)
    server.save("x.py", server.open("x.py"))
    assert (root / "x.py").read_text() == text
    shutil.rmtree(root)


def test_a_first_tag_and_an_edit_made_in_jupyter_are_saved_and_nothing_else_changes(repository: Path) -> None:
    """Without the configuration jupytext keeps only what kinds of metadata the file has already."""
    path = "code/notebooks/x.py"
    text = "# %% [markdown]\n# # T\n\n# %% a\nx = 1\n\n# %% b\ny = 2\n"
    (repository / path).write_text(text)
    server = Jupyter(repository)
    notebook = server.open(path)
    notebook.cells[1].metadata["tags"] = ["hide-input"]
    notebook.cells[2].source = "y = 3"
    server.save(path, notebook)
    expected = text.replace("# %% a", '# %% a tags=["hide-input"]').replace("y = 2", "y = 3")
    assert (repository / path).read_text() == expected


# -- copies


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    path = tmp_path / "code/notebooks/heat.py"
    path.parent.mkdir(parents=True)
    path.write_text("# %% a\nx = 1\n")
    os.utime(path, (1000, 1000))
    return path


def copy(path: Path, source: str, age: int) -> str:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".py":
        path.write_text(f"# %% a\n{source}\n")
    else:
        jupytext.write(jupytext.reads(f"# %% a\n{source}\n", "py:percent"), path)
    os.utime(path, (age, age))
    return path.as_posix()


@pytest.mark.parametrize(
    "name", ["heat.ipynb", ".ipynb_checkpoints/heat-checkpoint.ipynb", ".ipynb_checkpoints/heat-checkpoint.py"]
)
def test_only_a_newer_copy_that_differs_is_told_of(notebook: Path, name: str) -> None:
    place, path = Layout(notebook.parents[2]), "code/notebooks/heat.py"
    beside = notebook.parent / name
    assert jupyter.copies(place, path) == []
    copy(beside, "x = 2", 2000)
    assert jupyter.copies(place, path) == [f"code/notebooks/{name}"]
    copy(beside, "x = 2", 500)
    assert jupyter.copies(place, path) == [], "older: it is what the notebook was before"
    copy(beside, "x = 1", 2000)
    assert jupyter.copies(place, path) == [], "the same"
    beside.write_text("{")
    assert jupyter.copies(place, path) == [f"code/notebooks/{name}"], "no longer a notebook"


# -- opening


LAB = "import os, sys\nprint('lab', *sys.argv[1:], os.environ['JUPYTER_CONFIG_PATH'])\n"


def test_it_starts_jupyterlab_which_shows_python_files_as_notebooks(small: Small) -> None:
    small.write("code/jupyterlab/__main__.py", LAB)  # stands in for the real one
    small.write("code/jupyterlab/__init__.py", "")
    ran = small.run("weave.cli", "open", "heat")
    assert ran.returncode == 0, ran.stderr
    settings = small.root / ".cache/weave/jupyter"
    assert f"lab code/notebooks/heat.py --ServerApp.root_dir={small.root} {settings}" in ran.stdout
    assert '"python": "Jupytext Notebook"' in (settings / "labconfig/default_setting_overrides.json").read_text()


@pytest.mark.skipif(
    shutil.which("jupyter-lab", path=str(Path(sys.executable).parent)) is not None, reason="is installed"
)
def test_without_jupyterlab_it_says_what_to_install_and_offers_vs_code(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(small.root / "bin"))
    result = small.weave("open", "heat")
    assert result.exit_code == 1
    assert "pip install jupyterlab" in result.output and "any editor edits it" in result.output
    small.write("bin/code", '#!/bin/sh\necho "$@" > said\n')
    (small.root / "bin/code").chmod(0o755)
    result = small.weave("open", "code/notebooks/heat.py", answer="n\n")
    assert result.exit_code == 1 and "open it in VS Code" in result.output and not (small.root / "said").exists()
    result = small.weave("open", "heat", answer="\n")
    assert result.exit_code == 0, result.output
    assert small.read("said") == f"{small.root} --goto {small.root}/code/notebooks/heat.py\n"


def test_a_newer_copy_is_told_of_and_kept(small: Small) -> None:
    small.write("code/jupyterlab/__main__.py", LAB)
    small.write("code/jupyterlab/__init__.py", "")
    newer = small.root / "code/notebooks/heat.ipynb"
    copy(newer, "x = 2", int((small.root / "code/notebooks/heat.py").stat().st_mtime) + 10)
    before = newer.read_bytes(), small.read("code/notebooks/heat.py")
    ran = small.run("weave.cli", "open", "heat")
    assert (
        "code/notebooks/heat.ipynb is newer than code/notebooks/heat.py and not the same; both are kept" in ran.stdout
    )
    assert (newer.read_bytes(), small.read("code/notebooks/heat.py")) == before


def test_an_unknown_notebook_is_said_with_those_there_are(small: Small) -> None:
    result = small.weave("open", "heet")
    assert result.exit_code == 1 and "no notebook 'heet' in code/notebooks; it has: heat" in result.output
