"""A notebook that runs on from a changed cell gives what a run from the top gives."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weave.run.executor import Executor, State
from weave.run.notebook import Notebook, parse
from weave.run.store import Store

# Cells that read, bind, change in place, draw at random, define, and show: each may stand anywhere.
CELLS = [
    "import random\nrandom.seed(3)\nx, xs, d = 1, [1, 2], {'a': 1}",
    "x = x + 1\nprint(x)",
    "xs.append(x)\nxs",
    "d['a'] += len(xs)\nd",
    "random.random()",
    "def f(n):\n    xs.append(n)\n    return n * x",
    "print(f(2), xs)",
    "import math\nmath.tau = x\nmath.tau",
    "x = len(open('data.txt').read())",
    "import lab\nprint(lab.VALUE, math.tau if 'math' in dir() else None)",
    "[x * i for i in range(3)]",
    "it = iter(xs)",
    "next(it)",
]


def notebook(cells: list[str]) -> Notebook:
    return parse("code/notebooks/n.py", "".join(f"# %% c{i}\n{cell}\n\n" for i, cell in enumerate(cells)))


def executor(root: Path, keep: bool, said: list[str]) -> Executor:
    return Executor(root, Store(root, root / f".cache/{keep}", said.append), timeout=30, say=said.append, keep=keep)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kernel")
    (root / "code/notebooks").mkdir(parents=True)
    return root


@pytest.fixture(scope="module")
def both(root: Path) -> Any:
    """Two executors of the same folder: one runs on, the other always from the top."""
    said: list[str] = []
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", f"{root / 'code'}:{Path(__file__).parents[3] / 'code'}")
    kept, plain = executor(root, True, said), executor(root, False, said)
    yield kept, plain, said
    kept.close()
    patch.undo()


cells = st.lists(st.sampled_from(CELLS[1:]), min_size=2, max_size=6).map(lambda rest: [CELLS[0], *rest])
edits = st.lists(
    st.one_of(
        st.tuples(st.just("cell"), st.integers(1, 6), st.sampled_from(CELLS[1:])),
        st.tuples(st.just("drop"), st.integers(1, 6), st.just("")),
        st.tuples(st.just("data"), st.integers(1, 3), st.just("")),
        st.tuples(st.just("module"), st.integers(1, 3), st.just("")),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=settings().max_examples // 8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=cells, edits=edits)
def test_running_on_is_running_from_the_top(root: Path, both: Any, start: list[str], edits: list[Any]) -> None:
    kept, plain, _ = both
    kept.close()
    data, value = "one", 1
    now = list(start)
    for kind, where, cell in [("", 0, ""), *edits]:
        if kind == "cell":
            now[min(where, len(now) - 1)] = cell
        elif kind == "drop" and len(now) > 2:
            del now[min(where, len(now) - 1)]
        elif kind == "data":
            data = "x" * where
        elif kind == "module":
            value = where
        (root / "data.txt").write_text(data)
        (root / "code/lab.py").write_text(f"VALUE = {value}\n")
        [a], [b] = kept.run([notebook(now)]), plain.run([notebook(now)])
        assert [str(one) for one in a.problems] == [str(one) for one in b.problems]
        assert (a.run is None) == (b.run is None)
        if a.run and b.run:
            assert a.run.outputs == b.run.outputs
            assert a.run.inputs == b.run.inputs


def ran(said: list[str]) -> str:
    return [line for line in said if " runs (" in line][-1].partition("(")[2].rstrip(")")


def test_it_runs_from_the_first_cell_that_changed_or_read_what_changed(root: Path, both: Any) -> None:
    kept, _, said = both
    kept.close()
    (root / "data.txt").write_text("data")
    cells = ["x = 1", "y = len(open('data.txt').read())", "x + y", "y"]
    kept.run([notebook(cells)])
    assert ran(said) == "4 cells"
    kept.run([notebook([*cells[:3], "y + 1"])])
    assert ran(said) == "cell 4 of 4 on"
    kept.run([notebook([*cells[:3], "y + 1", "x"])])
    assert ran(said) == "cell 5 of 5 on"
    (root / "data.txt").write_text("other")
    [outcome] = kept.run([notebook(cells)])
    assert ran(said) == "cell 2 of 4 on" and outcome.run.outputs[2][0]["data"]["text/plain"] == "6"
    kept.run([notebook(["x = 2", *cells[1:]])])
    assert ran(said) == "4 cells"


@pytest.mark.parametrize(
    "cell",
    [
        "open('out.txt', 'a').write('x')",
        "import subprocess\nsubprocess.run(['true'])",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "import os\nos.makedirs('made', exist_ok=True)\nos.rmdir('made')",
    ],
)
def test_after_an_effect_on_the_world_it_runs_from_the_top(root: Path, both: Any, cell: str) -> None:
    """The state of the process before the cell is there, the state of the world is not."""
    kept, _, said = both
    kept.close()
    kept.run([notebook(["x = 1", "y = 2", cell, "x"])])
    kept.run([notebook(["x = 1", "y = 2", cell, "x + 1"])])
    assert ran(said) == "cell 4 of 4 on", "the effect is before it, and stays"
    kept.run([notebook(["x = 1", "y = 3", cell, "x + 1"])])
    assert ran(said) == "4 cells"


def test_a_mended_cell_runs_on_from_where_it_failed(root: Path, both: Any) -> None:
    kept, _, said = both
    kept.close()
    [failed] = kept.run([notebook(["x = 1", "x / 0", "x"])])
    assert failed.problems and failed.problems[0].line == 5
    [good] = kept.run([notebook(["x = 1", "x / 1", "x"])])
    assert ran(said) == "cell 2 of 3 on" and good.run and good.run.outputs[2][0]["data"]["text/plain"] == "1"


def test_nothing_is_left_when_it_ends(root: Path, both: Any) -> None:
    kept, _, _ = both
    kept.run([notebook(["x = 1", "x"])])
    pids = [kernel.pid for kernel in kept.states["code/notebooks/n.py"].before]
    assert pids and all(Path(f"/proc/{pid}").exists() for pid in pids)
    kept.close()
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_what_is_not_seeded_differs_between_runs(root: Path, both: Any) -> None:
    """Copies of one process would else draw the same numbers, and hide that nothing seeds them."""
    _, plain, _ = both
    cells = ["import random\nrandom.random()"]
    shown = {plain.run([notebook(cells)])[0].run.outputs[0][0]["data"]["text/plain"] for _ in range(2)}
    assert len(shown) == 2


def test_a_long_line_takes_no_longer_than_it_has_to(root: Path, both: Any) -> None:
    """What was overwritten is looked for in each line once, not from each of its characters on."""
    _, plain, _ = both
    cells = ["print('x' * 2_000_000)", "print('a\\rbc\\r\\nd\\re\\rf\\ng\\r', end='')"]
    [outcome] = plain.run([notebook(cells)])
    assert outcome.run and outcome.run.seconds < 10
    assert [given[0]["text"] for given in outcome.run.outputs] == ["x" * 2_000_000 + "\n", "bc\r\nf\ng\r"]


def test_what_a_program_says_belongs_to_the_cell_that_started_it(root: Path, both: Any) -> None:
    _, plain, _ = both
    cells = ["import subprocess\nsubprocess.run(['sh', '-c', 'yes | head -c 3000000']);", "print('next')"]
    [outcome] = plain.run([notebook(cells)])
    assert outcome.run and [len(given[0]["text"]) for given in outcome.run.outputs] == [3_000_000, 5]


def test_a_line_for_the_shell_is_run_by_it(root: Path, both: Any) -> None:
    _, plain, _ = both
    [outcome] = plain.run([notebook(["!echo out; echo err >&2", "said = !echo again\nprint(*said)", "%cd -q .\n'on'"])])
    assert outcome.run
    said = [sorted(part.get("text") or part["data"]["text/plain"] for part in cell) for cell in outcome.run.outputs]
    assert said == [["err\n", "out\n"], ["again\n"], ["'on'"]]


def test_a_process_that_a_cell_forked_does_not_answer_for_it(root: Path, both: Any) -> None:
    _, plain, _ = both
    cells = [
        "import os, time\nchild = os.fork()\nif child:\n    time.sleep(0.5)\nprint(bool(child))",
        "print('next')",
    ]
    [outcome] = plain.run([notebook(cells)])
    assert outcome.run and [given[0]["text"] for given in outcome.run.outputs] == ["True\n", "next\n"]


def test_two_notebooks_that_end_at_once_tidy_up_once(root: Path) -> None:
    """The second finds the oldest states gone that the first is about to end."""
    kept = executor(root, True, [])

    class Slow(State):
        def end(self) -> None:
            kept.states.pop("b", None)

    kept.states = {name: Slow(notebook(["1"])) for name in "abcd"}
    kept._keep(State(notebook(["1"])))
    assert list(kept.states) == ["c", "d", "code/notebooks/n.py"]


def test_half_a_character_is_a_question_mark(root: Path, both: Any) -> None:
    """As in a file's name that is no UTF-8, which no page and no terminal could show."""
    _, plain, _ = both
    [outcome] = plain.run([notebook(["print('a\\udcff → ü\\u2028\\x85')", "raise ValueError('\\ud800')"])])
    assert "ValueError: ?; the traceback is below" in outcome.problems[0].message
    [outcome] = plain.run([notebook(["print('a\\udcff → ü\\u2028\\x85')"])])
    assert outcome.run and outcome.run.outputs[0][0]["text"] == "a? → ü\u2028\x85\n"
