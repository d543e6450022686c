"""A cell's text and that of its programs stand in their places; a display can be updated later."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from weave.run.executor import Executor, Outcome
from weave.run.notebook import Notebook, parse
from weave.run.store import Store


def notebook(cells: list[str]) -> Notebook:
    return parse("code/notebooks/n.py", "".join(f"# %% c{i}\n{cell}\n\n" for i, cell in enumerate(cells)))


def executor(root: Path, said: list[str], resume: bool = False) -> Executor:
    store = Store(root, root / f".cache/{resume}", said.append)
    return Executor(root, store, timeout=60, say=said.append, resume=resume)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("outputs")
    (root / "code/notebooks").mkdir(parents=True)
    return root


def run(root: Path, cells: list[str]) -> Outcome:
    [outcome] = executor(root, []).run([notebook(cells)])
    return outcome


def shown(outcome: Outcome) -> list[list[Any]]:
    """The text that each cell shows, or the plain form of a value, without the quotes of a string."""
    assert outcome.run, outcome.problems
    return [[out.get("text") or out["data"]["text/plain"].strip("'") for out in given] for given in outcome.run.outputs]


PRINTS = """
import time
began = time.process_time()
for i in range({}):
    print("line", i, "of many")
time.process_time() - began
"""


def test_printing_takes_as_long_as_there_is_to_print(root: Path) -> None:
    outcome = run(root, [PRINTS.format(30_000)])
    [text, seconds] = shown(outcome)[0]
    assert text == "".join(f"line {i} of many\n" for i in range(30_000))
    assert float(seconds) < 3, "it takes half a minute if each print copies all text before it"


def test_what_a_program_writes_stands_where_it_was_written(root: Path) -> None:
    cells = [
        "import os, subprocess\nfor i in range(3):\n    print(i)\n    os.write(1, b'descriptor\\n')",
        'half = \'printf "\\\\303"; sleep 0.1; printf "\\\\274"\'',
        "print('a', end=' ')\nsubprocess.run(['sh', '-c', half])\nprint(' b')",
        "import ctypes\nctypes.CDLL(None).printf(b'kept back\\n');",
        "if os.fork() == 0:\n    print('child')\n    os._exit(0)\nos.wait()\nprint('parent')",
    ]
    outcome = run(root, cells)
    expected = ["".join(f"{i}\ndescriptor\n" for i in range(3)), "a ü b\n", "kept back\n", "child\nparent\n"]
    assert [*filter(None, shown(outcome))] == [[text] for text in expected]


def test_a_display_is_updated_wherever_it_stands(root: Path) -> None:
    """Also in an earlier cell; and the cells before an edited one show what they showed before the update."""
    cells = [
        "from IPython.display import clear_output, display, update_display\nh = display('a', display_id='x')",
        "display('first', display_id='x')\nupdate_display('second', display_id='x')\nprint('after')",
        "for i in range(3):\n    clear_output(wait=True)\n    print(i)\nupdate_display('nowhere', display_id='y')",
        "update_display('last', display_id='x')",
    ]
    outcome = run(root, cells)
    assert shown(outcome) == [["last"], ["last", "after\n"], ["2\n"], []]
    said: list[str] = []
    resuming = executor(root, said, resume=True)
    resuming.run([notebook(cells)])
    [outcome] = resuming.run([notebook([*cells[:3], "1"])])
    resuming.close()
    assert "code/notebooks/n.py runs (cell 4 of 4 on)" in said
    assert shown(outcome)[:2] == [["second"], ["second", "after\n"]]


def test_the_first_lines_of_most_notebooks(root: Path) -> None:
    cells = [
        "%load_ext autoreload\n%autoreload 2",
        "# %matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);",
        "%config InlineBackend.figure_format = 'retina'\nplt.plot([1, 2]);",
        "%pylab inline\nsin(0) + plt.rcParams['svg.hashsalt'].count('weave')",
    ]
    outcome = run(root, cells)
    assert outcome.run, outcome.problems
    [], [vector], [raster], [_, value] = outcome.run.outputs
    assert vector["data"]["image/svg+xml"].count("<svg") == 1
    assert raster["data"]["image/png"].startswith("iVBOR") and set(raster["metadata"]["image/png"]) == {
        "width",
        "height",
    }
    assert float(value["data"]["text/plain"].strip("np.float64()")) == 1


def test_a_picture_that_an_object_gives_as_bytes(root: Path) -> None:
    cell = "class Dot:\n    def _repr_png_(self):\n        return b'\\x89PNG...'\nDot()"
    outcome = run(root, [cell])
    assert outcome.run and base64.b64decode(outcome.run.outputs[0][0]["data"]["image/png"]) == b"\x89PNG..."
