"""Downloads run by themselves: the notebook up to a cell, and the snippets that run in the browser."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from weave.book.book import Book
from weave.note import snippets
from weave.run import provenance
from weave.run.notebook import parse
from weave.site.build import checked

ROOT = Path(__file__).resolve().parents[2]
CELLS = [("einstein_notation", "left-to-right"), ("two_layer", "setup")]  # without the library, and with it
PACKAGES = ["numpy", "einops"]  # browser_packages in mkdocs.yml
REPOSITORY = "https://example.org/somebody/residual-stream"


@pytest.fixture(scope="module")
def book() -> Book:
    with contextlib.chdir(ROOT):
        return checked()


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", text)]


@pytest.mark.parametrize(("notebook", "name"), CELLS)
def test_the_notebook_up_to_a_cell_computes_what_the_whole_notebook_did(
    book: Book, notebook: str, name: str, tmp_path: Path
) -> None:
    """Run as a stranger would: a script in an empty folder, with only the packages installed."""
    result = book.result(f"code/notebooks/{notebook}.py")
    assert result
    cells = result.notebook.code
    number = [cell.key for cell in cells].index(name)
    (tmp_path / "script.py").write_bytes(provenance.script(result.notebook, cells[number], REPOSITORY))
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MPLBACKEND": "agg", "TQDM_DISABLE": "1"}
    env |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = dict(line.split(" = ", 1) for line in done.stdout.splitlines() if re.match(r"\w+ = ", line))
    up_to = {cell.key for cell in cells[: number + 1]}
    expected = {key: published for key, published in result.published.items() if published.cell in up_to}
    assert printed.keys() == expected.keys() and expected
    for key, published in expected.items():
        value = published.value if isinstance(published.value, tuple) else (published.value,)
        assert numbers(printed[key]) == pytest.approx(list(value), rel=1e-6, abs=1e-9), key


def test_a_script_says_how_to_get_what_it_imports() -> None:
    notebook = parse("code/notebooks/x.py", "# %% [markdown]\n# # X\n\n# %% a\nx = 1\n\n# %%\ny = 2\n")
    assert provenance.script(notebook, notebook.code[0], REPOSITORY).decode().splitlines() == [
        "# code/notebooks/x.py up to the cell 'a'.",
        "# To run it with Python 3.11 or newer, get the packages that it imports, once:",
        f"#   git clone {REPOSITORY} residual-stream",
        "#   python -m pip install --editable residual-stream",
        "",
        *["# %% [markdown]", "# # X", "", "# %% a", "x = 1"],
    ]


@pytest.mark.parametrize("note", sorted((ROOT / "docs/notes").glob("*.md")), ids=lambda path: path.stem)
def test_the_live_snippets_of_a_note_run_by_themselves(note: Path, tmp_path: Path) -> None:
    recorded = snippets.record(tmp_path, snippets.find(note.read_text(), PACKAGES), PACKAGES)
    assert not any(result["error"] for result in recorded.values())
