"""A notebook that continues from a changed cell gives what a run from the top gives; so do kernels without forks."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weave.run.executor import Executor
from weave.run.kernels import Kernels, can_fork
from weave.run.notebook import Notebook, parse
from weave.run.process import KernelDied
from weave.run.snapshots import SnapshotCache, Snapshots
from weave.run.store import Store
from weave.source.problem import Refused

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


def executor(root: Path, said: list[str], resume: bool = False, **options: Any) -> Executor:
    store = Store(root, root / f".cache/{resume}", said.append)
    return Executor(root, store, timeout=30, say=said.append, resume=resume, **options)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kernel")
    (root / "code/notebooks").mkdir(parents=True)
    return root


@pytest.fixture(scope="module")
def both(root: Path) -> Any:
    """Two executors of the same folder: the first continues from snapshots, the second always runs from the top."""
    said: list[str] = []
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", f"{root / 'code'}:{Path(__file__).parents[3] / 'code'}")
    resuming, plain = executor(root, said, resume=True), executor(root, said)
    yield resuming, plain, said
    resuming.close()
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
    resuming, plain, _ = both
    resuming.close()
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
        [a], [b] = resuming.run([notebook(now)]), plain.run([notebook(now)])
        assert [str(one) for one in a.problems] == [str(one) for one in b.problems]
        assert (a.run is None) == (b.run is None)
        if a.run and b.run:
            assert a.run.outputs == b.run.outputs
            assert a.run.inputs == b.run.inputs


def ran(said: list[str]) -> str:
    return [line for line in said if " runs (" in line][-1].partition("(")[2].rstrip(")")


def test_it_runs_from_the_first_cell_that_changed_or_read_what_changed(root: Path, both: Any) -> None:
    resuming, _, said = both
    resuming.close()
    (root / "data.txt").write_text("data")
    cells = ["x = 1", "y = len(open('data.txt').read())", "x + y", "y"]
    resuming.run([notebook(cells)])
    assert ran(said) == "4 cells"
    resuming.run([notebook([*cells[:3], "y + 1"])])
    assert ran(said) == "cell 4 of 4 on"
    resuming.run([notebook([*cells[:3], "y + 1", "x"])])
    assert ran(said) == "cell 5 of 5 on"
    (root / "data.txt").write_text("other")
    [outcome] = resuming.run([notebook(cells)])
    assert ran(said) == "cell 2 of 4 on" and outcome.run.outputs[2][0]["data"]["text/plain"] == "6"
    resuming.run([notebook(["x = 2", *cells[1:]])])
    assert ran(said) == "4 cells"


@pytest.mark.parametrize(
    "cell",
    [
        "open('out.txt', 'a').write('x')",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.makedirs('made', exist_ok=True)\nos.rmdir('made')",
    ],
)
def test_after_an_effect_on_the_world_it_runs_from_the_top(root: Path, both: Any, cell: str) -> None:
    """The state of the process before the cell is there, the state of the world is not."""
    resuming, _, said = both
    resuming.close()
    resuming.run([notebook(["x = 1", "y = 2", cell, "x"])])
    resuming.run([notebook(["x = 1", "y = 2", cell, "x + 1"])])
    assert ran(said) == "cell 4 of 4 on", "the effect is before it, and stays"
    resuming.run([notebook(["x = 1", "y = 3", cell, "x + 1"])])
    assert ran(said) == "4 cells"


def test_a_mended_cell_runs_on_from_where_it_failed(root: Path, both: Any) -> None:
    resuming, _, said = both
    resuming.close()
    [failed] = resuming.run([notebook(["x = 1", "x / 0", "x"])])
    assert failed.problems and failed.problems[0].line == 5
    [good] = resuming.run([notebook(["x = 1", "x / 1", "x"])])
    assert ran(said) == "cell 2 of 3 on" and good.run and good.run.outputs[2][0]["data"]["text/plain"] == "1"


def test_nothing_is_left_when_it_ends(root: Path, both: Any) -> None:
    resuming, _, _ = both
    resuming.run([notebook(["x = 1", "x"])])
    assert processes_in(root)
    resuming.close()
    end = time.monotonic() + 20
    while processes_in(root) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes_in(root) == []


def processes_in(root: Path) -> list[int]:
    """Processes whose working folder is the site's: the kernels of its notebooks."""
    folders = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                folders[int(entry.name)] = os.readlink(entry / "cwd")
    return [pid for pid, folder in folders.items() if folder == str(root.resolve())]


def test_what_is_not_seeded_differs_between_runs(root: Path, both: Any) -> None:
    """Copies of one process would else draw the same numbers, and hide that nothing seeds them."""
    _, plain, _ = both
    cells = ["import random\nrandom.random()"]
    shown = {plain.run([notebook(cells)])[0].run.outputs[0][0]["data"]["text/plain"] for _ in range(2)}
    assert len(shown) == 2


def test_a_long_line_takes_no_longer_than_it_has_to(root: Path, both: Any) -> None:
    """Overwritten text is looked for once in each line, not from each of its characters on."""
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
    assert outcome.run and [given[0]["text"] for given in outcome.run.outputs] == ["False\nTrue\n", "next\n"]


def test_the_snapshots_of_three_notebooks_are_kept_and_all_others_closed_once() -> None:
    """Also where notebooks end at the same moment, and closing one takes a while."""
    cache, closed = SnapshotCache(), []

    class Slow(Snapshots):
        def close(self) -> None:
            time.sleep(0.001)
            closed.append(self.notebook.path)

    paths = [f"code/notebooks/{number}.py" for number in range(24)]
    threads = [threading.Thread(target=cache.put, args=(Slow(parse(path, "# %%\n1\n")),)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = [path for path in paths if (snapshots := cache.take(path)) and snapshots.notebook.path == path]
    assert len(kept) == 3 and sorted(closed) == sorted(set(paths) - set(kept))


def test_half_a_character_is_a_question_mark(root: Path, both: Any) -> None:
    """Such a text comes from a file's name that is not UTF-8; no page and no terminal could show it."""
    _, plain, _ = both
    [outcome] = plain.run([notebook(["print('a\\udcff → ü\\u2028\\x85')", "raise ValueError('\\ud800')"])])
    assert "ValueError: ?; the traceback is below" in outcome.problems[0].message
    [outcome] = plain.run([notebook(["print('a\\udcff → ü\\u2028\\x85')"])])
    assert outcome.run and outcome.run.outputs[0][0]["text"] == "a? → ü\u2028\x85\n"


# -- without a fork, as on macOS


def test_forks_are_for_linux_and_windows_is_sent_to_wsl() -> None:
    assert can_fork("linux") and not can_fork("darwin")
    with pytest.raises(Refused, match=r"notebooks run on Linux and macOS; on Windows, .* WSL"):
        can_fork("win32")


PICTURE = """
import matplotlib.pyplot as plt
from weave import claim
plt.plot([1, 2, 4])
plt.show()
claim(x=1.5, agreeing=(2, 3))
{'a': object()}
"""


def test_a_kernel_that_is_not_forked_gives_the_same(root: Path, both: Any) -> None:
    """Outputs, figures and published values, to the byte; and it never continues from a snapshot."""
    _, plain, _ = both
    said: list[str] = []
    unforked = executor(root, said, resume=True, modules=("numpy",), fork=False)
    (root / "data.txt").write_text("data")
    (root / "code/lab.py").write_text("VALUE = 3\n")
    cells = [*CELLS[:4], CELLS[6 - 1], CELLS[6], *CELLS[7:10], PICTURE, "print('before')\n1 / 0"]
    for count in (len(cells) - 1, len(cells)):
        [a], [b] = plain.run([notebook(cells[:count])]), unforked.run([notebook(cells[:count])])
        assert [(str(problem), problem.detail) for problem in a.problems] == [
            (str(problem), problem.detail) for problem in b.problems
        ]
        assert (a.run is None) == (b.run is None) == (count == len(cells))
        if a.run and b.run:
            assert a.run.outputs == b.run.outputs and a.run.published == b.run.published
            of_modules = {kind: a.run.inputs[kind] for kind in ("packages", "imports")}
            assert a.run.inputs == {**b.run.inputs, **of_modules}
            assert set(b.run.published) == {"x", "agreeing"}
    assert ran(said) == f"{len(cells)} cells" and processes_in(root) == []


def test_a_kernel_that_does_not_start_says_why(root: Path, both: Any) -> None:
    for fork in (True, False):
        [outcome] = executor(root, [], modules=("no_such_module",), fork=fork).run([notebook(["1"])])
        [problem] = outcome.problems
        assert "its kernel did not start (ModuleNotFoundError: No module named 'no_such_module')" in str(problem)


def test_modules_are_packages_and_not_files_of_the_repository(root: Path, both: Any) -> None:
    """Else every notebook would go on with the module as it was when the first kernel started."""
    (root / "code/preloaded.py").write_text("X = 1\n")
    [outcome] = executor(root, [], modules=("preloaded",)).run([notebook(["1"])])
    [problem] = outcome.problems
    assert str(problem).startswith("mkdocs.yml:1: weave: modules imports code/preloaded.py, a file of this repository;")


def test_a_new_environment_or_package_starts_a_new_first_process(both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = Kernels([], fork=True)
    try:
        kernels.start().end()
        assert kernels.current()
        monkeypatch.setenv("SOMETHING", "else")
        assert not kernels.current()
        kernels.start().end()
        assert kernels.current()
    finally:
        kernels.close()
    assert not kernels.current()


def test_a_process_stopped_while_it_is_copied_keeps_nobody_waiting(both: Any) -> None:
    """An edit may stop a notebook just as it is asked for a snapshot: the copy never comes."""
    kernels = both[0].kernels
    process = kernels.start()
    os.kill(process.pid, signal.SIGSTOP)  # it cannot answer
    stopping = threading.Timer(0.3, process.end)
    stopping.start()
    began = time.monotonic()
    with pytest.raises(KernelDied):
        kernels.copy(process)
    assert time.monotonic() - began < 5
    kernels.start().end()


def test_two_processes_do_not_run_a_notebook_twice(root: Path) -> None:
    """``weave check`` beside ``weave serve``: the second waits, and takes the first one's result."""
    said: list[str] = []
    once = notebook(["import time\ntime.sleep(1)"])
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda _: executor(root, said).run([once])[0], range(2)))
    assert all(outcome.run for outcome in outcomes)
    assert said.count("code/notebooks/n.py runs (1 cells)") == 1
    assert said.count("code/notebooks/n.py waits: another process is running it") == 1


@pytest.mark.parametrize(
    ("opened", "used"),
    [
        ("f = open('data.txt')", "print(len(f.read()))"),
        ("import os\nr, w = os.pipe()\nos.write(w, b'abc')", "print(os.read(r, 1))"),
        ("import mmap\nm = mmap.mmap(-1, 8)", "m[0] += 1\nprint(m[0])"),
        ("import threading\nt = threading.Timer(0.2, print, 'x')\nt.start()", "t.join()"),
        ("import tempfile\nf = tempfile.TemporaryFile('w+')", "f.write('x')\nprint(f.tell())"),
    ],
    ids=["file", "pipe", "memory", "thread", "temporary"],
)
def test_what_a_snapshot_shares_with_the_run_makes_it_run_from_the_top(
    root: Path, both: Any, opened: str, used: str
) -> None:
    """An open file has one position for a process and its copies; of threads, a copy has none."""
    (root / "data.txt").write_text("some words")
    resuming, plain, _ = both
    for cells in ([opened, used, "1"], [opened, used + "\n# again", "1"], [opened, used, "2", "3"]):
        [a], [b] = resuming.run([notebook(cells)]), plain.run([notebook(cells)])
        assert a.run and b.run and a.run.outputs == b.run.outputs
