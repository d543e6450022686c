"""``weave check --fresh`` says of every notebook all that its stored result no longer belongs to, and runs nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import Result

from weave.book import stale
from weave.book.book import Book
from weave.run.inputs import platform_inputs, version_of
from weave.run.notebook import parse
from weave.run.store import Store
from weave.source.layout import Layout

if TYPE_CHECKING:
    from conftest import Small

HEAT = "code/notebooks/heat.py"
DO = "; weave run heat brings it up to date"


@pytest.fixture(autouse=True)
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> None:
        raise AssertionError("a notebook was run")

    monkeypatch.setattr("weave.run.executor.Executor.run", run)


def fresh(small: Small) -> Result:
    return small.weave("check", "--fresh")


def said(small: Small) -> list[str]:
    """The lines about stale results; there are some."""
    result = fresh(small)
    assert result.exit_code == 1, result.output
    *lines, total = result.output.splitlines()
    assert total == f"{len(lines)} problem{'s' * (len(lines) > 1)}"
    assert all(line.startswith(f"{HEAT}:") and line.endswith(DO) for line in lines), lines
    return [line.removeprefix(f"{HEAT}:").removesuffix(DO) for line in lines]


def edit_inputs(small: Small, change: Callable[[dict[str, Any]], object]) -> None:
    """Make the stored result one of another machine, another time."""
    store = Store(small.root, small.root / ".cache/weave/runs", print)
    result = store.last(parse(HEAT, small.read(HEAT)))
    assert result
    inputs = json.loads(json.dumps(result.inputs))
    change(inputs)
    shutil.rmtree(store.folder / "heat")
    store.save(replace(result, inputs=inputs))


def test_nothing_changed(small: Small) -> None:
    result = fresh(small)
    assert result.exit_code == 0
    assert result.output == "every notebook's result belongs to today's inputs\n"


def test_prose_is_no_input(small: Small) -> None:
    small.replace(HEAT, "is positive", "is never negative")
    small.replace("docs/notes/heat.md", "A body", "A thing")
    assert fresh(small).exit_code == 0


def test_never_run(bare: Small) -> None:
    assert said(bare) == ["1: stale: never ran"]


def test_all_that_changed_is_said_at_once(small: Small) -> None:
    small.replace(HEAT, 'print("cooling", "down")', 'print("cooling")')
    small.write("code/lab.py", "RATE = 0.5 + 0\n")

    def older(inputs: dict[str, Any]) -> None:
        assert "numpy" in inputs["packages"] and "code/lab.py" in inputs["files"]
        inputs["packages"]["numpy"] = "1.0"
        inputs["packages"]["nothing-of-this-name"] = "3.2"
        inputs["files"]["data/gone.csv"] = "0" * 64
        inputs["files"]["data/new.csv"] = None
        inputs["listings"]["code/notebooks"] = "0" * 64
        inputs["python"] = "3.10.1"

    small.write("data/new.csv", "")
    edit_inputs(small, older)
    numpy = version_of("numpy")
    assert sorted(said(small)) == sorted(
        [
            "23: stale: the code of cell 'words' changed",
            f"1: stale: Python changed from 3.10.1 to {platform_inputs()['python']}",
            "1: stale: data/new.csv appeared",
            "1: stale: code/lab.py changed",
            "1: stale: data/gone.csv vanished",
            "1: stale: a file appeared in code/notebooks/ or vanished from it",
            f"1: stale: numpy changed from 1.0 to {numpy}",
            "1: stale: nothing-of-this-name changed from 3.2 to none",
        ]
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("# %% words", "# %% more\nx = 1\n\n# %% words", "23: stale: cell 'more' is new"),
        ("# %% setup", "# %% first\nx = 1\n\n# %% setup", "7: stale: cell 'first' is new"),
        ('\n# %% words\nprint("cooling", "down")\n', "", "20: stale: cell 'words' is gone"),
        ("# %% values\nclaim(rate=RATE, heads=(10, 12))\n", "", "21: stale: cell 'values' is gone"),
        ("claim(rate=RATE, heads", "claim(rate=RATE + 0, heads", "20: stale: the code of cell 'values' changed"),
        ("# %% values\nclaim(rate=RATE,", "# %%\nclaim(rate=RATE+0,", "20: stale: the code of cell 'cell-3' changed"),
        ("# %% words", '# %% words tags=["raises-exception"]', "23: stale: the code of cell 'words' changed"),
    ],
)
def test_the_first_cell_that_differs_is_named(small: Small, old: str, new: str, expected: str) -> None:
    small.replace(HEAT, old, new)
    assert said(small) == [expected]
    line = small.read(HEAT).splitlines()[int(expected.partition(":")[0]) - 1]
    assert line and not line.startswith("#")


def test_a_notebook_that_cannot_be_read(small: Small) -> None:
    small.write(HEAT, b"# %% a\nx = '\xe9'\n")
    (line,) = said(small)
    assert line.startswith("2: stale: cannot be run: not UTF-8 (byte 0xe9)")


def test_going_back_makes_an_older_result_fresh_again(small: Small) -> None:
    before = small.read(HEAT)
    small.write(HEAT, before + "1\n")
    assert said(small) == ["23: stale: the code of cell 'words' changed"]
    small.write(HEAT, before)
    assert fresh(small).exit_code == 0


def test_the_list_for_others_names_the_stale_notebooks(small: Small) -> None:
    small.write("code/notebooks/new.py", "# %% a\n1\n")
    site = Book(Layout(small.root))
    assert stale.reasons(site) == {"code/notebooks/new.py": ["never ran"]}
    small.write("code/notebooks/new.py", "# %% a b\n1\n")
    assert [reason[:24] for reason in stale.reasons(site)["code/notebooks/new.py"]] == ["cannot be run: 'a b' can"]
