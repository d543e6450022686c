"""Jupyter opens a notebook's Python file and saves it back unchanged, by the configuration in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupytext.config import load_jupytext_config, notebook_formats

from weave.run.notebook import parse

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOKS = sorted((ROOT / "code/notebooks").glob("*.py"))


class Jupyter:
    """The calls that jupytext's contents manager makes in a Jupyter server when it opens and saves a notebook, with the
    configuration that it finds. (The manager itself needs a Jupyter server installed.)"""

    def __init__(self, root: Path) -> None:
        self.root = root

    def config(self, path: str) -> Any:
        return load_jupytext_config(str(self.root / path))

    def open(self, path: str) -> Any:
        return jupytext.reads((self.root / path).read_text("utf-8"), {"extension": ".py"}, config=self.config(path))

    def save(self, path: str, notebook: Any) -> None:
        """Save a notebook as JupyterLab does after all cells have run."""
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
