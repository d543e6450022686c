"""Problems around a run: each belongs to its notebook, at its line; never to another one, never becomes a number."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from weave.book.book import Book
from weave.run.facts import LARGE
from weave.run.store import Store
from weave.source.layout import Layout

if TYPE_CHECKING:
    from conftest import Small

MIME = "application/vnd.weave.claim+json"
SHOWS = "# %% a\nfrom IPython.display import display\n\ndisplay({{'{}': {}, 'text/plain': 'x'}}, raw=True)\n"
READS = "# %% a\nfrom weave import claim\n\nclaim(x=int(open('data/x').read()))\n"


def runs(small: Small, **notebooks: str) -> dict[str, str]:
    """Run notebooks, and return what is wrong with each: nothing for those that ran well."""
    shutil.rmtree(small.root / "code/notebooks")
    for name, text in notebooks.items():
        small.write(f"code/notebooks/{name}.py", text)
    book = Book(Layout(small.root), cell_timeout=20)
    with small.here():
        book.execute()
    outcomes = {Path(path).stem: outcome for path, outcome in book.outcomes.items()}
    assert all((outcome.run is None) == bool(outcome.problems) for outcome in outcomes.values())
    return {name: "\n".join(map(str, outcome.problems)) for name, outcome in outcomes.items()}


def test_what_stands_under_the_claim_type_is_a_number_or_a_problem(bare: Small) -> None:
    wrong = ["{'x': 'text'}", "{'x': None}", "{'x': True}", "{'x': float('nan')}", "{'x': {}}", "[1]", "'text'", "None"]
    wrong += ["{'x': [1]}", "{'x': [1, [2]]}", "{'x': 10**400}"]
    good = ["{'x': 1}", "{'x': 1.5, 'y': [1, 2]}", "{}"]
    cells = {f"n{number}": SHOWS.format(MIME, value) for number, value in enumerate([*wrong, *good])}
    found = runs(bare, **cells)
    for number, value in enumerate(wrong):
        assert found[f"n{number}"].startswith(f"code/notebooks/n{number}.py:2: cell 'a': shows "), (value, found)
    assert not any(found[f"n{number}"] for number in range(len(wrong), len(cells)))


def test_a_kernel_that_answers_nonsense_fails_alone(bare: Small) -> None:
    """A cell that writes into every descriptor that it finds, and one that closes them, beside one that is well."""
    bare.write("data/x", "1")
    spam = "# %% first\n1\n\n# %% spam\nimport os\n\nfor fd in range(3, 40):\n    try:\n        os.write(fd, {})\n"
    spam += "    except OSError:\n        pass\n"
    lines = ["b'x\\n'", "b'3\\n'", "b'{}\\n'", 'b\'{"outputs": 3, "count": 1}\\n\'', "b'\\xff\\n'"]
    lines.append('b\'{"outputs": [{"output_type": "stream"}], "count": 1}\\n\'')
    close = "# %% shut\nimport os\n\nos.closerange(3, 100)\n"
    found = runs(bare, good=READS, close=close, **{f"s{n}": spam.format(line) for n, line in enumerate(lines)})
    assert found.pop("good") == ""
    assert found.pop("close").startswith("code/notebooks/close.py:2: cell 'shut': the kernel died here")
    for name, what in found.items():
        assert what.startswith(f"code/notebooks/{name}.py:5: cell 'spam': "), (name, what)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_record_that_does_not_fit_on_the_disk_fails_the_run(bare: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the cell tolerates errors, and where a process that it forked hits the limit."""
    for number in range(300):
        bare.write(f"data/f{number}.txt", "1")
    count = "x = 0\nfor i in range(300):\n    try:\n        x += int(open(f'data/f{i}.txt').read())\n"
    count += "    except OSError:\n        pass\n"
    fork = f"import os\npid = os.fork()\nif not pid:\n    exec({count!r})\n    os._exit(0)\n"
    fork += "os.waitpid(pid, 0)\n"
    tiny = bare.root / "tiny"
    tiny.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tiny)], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        real = tempfile.mkdtemp
        monkeypatch.setattr(tempfile, "mkdtemp", lambda prefix="", dir=None: real(prefix=prefix, dir=dir or str(tiny)))
        found = runs(bare, count=f"# %% a\n{count}", fork=f"# %% a\n{fork}")
    finally:
        subprocess.run(["umount", "-l", str(tiny)], check=True)
    for name in ("count", "fork"):
        assert found[name].startswith(f"code/notebooks/{name}.py:1: what it read could not be recorded"), found


def test_fifos_and_large_files_are_not_read_before_the_cell_reads_them(bare: Small) -> None:
    os.mkfifo(bare.root / "pipe")
    fifo = (
        "# %% a\nimport os, threading\n\nt = threading.Thread(target=lambda: open('pipe', 'w').write('5'))\nt.start()\n"
    )
    fifo += "x = open('pipe').read()\nassert x == '5'\n"
    (bare.root / "sparse").touch()
    os.truncate(bare.root / "sparse", 2 * LARGE)
    sparse = "# %% a\nimport numpy, time\n\nstart = time.process_time()\nx = numpy.memmap('sparse', 'u1', 'r')[0]\n"
    sparse += "assert time.process_time() - start < 0.05\n"
    assert runs(bare, fifo=fifo, sparse=sparse) == {"fifo": "", "sparse": ""}
    stale = bare.weave("stale").output
    assert "code/notebooks/fifo.py: line 6 reads pipe, which is no regular file" in stale and "sparse.py" not in stale
    with open(bare.root / "sparse", "r+b") as file:
        file.seek(LARGE)
        file.write(b"1")
    assert "sparse changed" in bare.weave("stale").output


def test_a_clock_that_went_backwards(bare: Small) -> None:
    runs(bare, heat="# %% a\nimport lab\n")
    for number in range(6):
        bare.write("code/lab.py", f"RATE = {number}\n")
        assert bare.rerun() == {"heat"}
    ahead = time.time() + 10**6
    for path in (bare.root / ".cache/weave/runs/heat").glob("*.json"):
        os.utime(path, (ahead, ahead))
    bare.write("code/lab.py", "RATE = 0.5\n")
    assert bare.rerun() == {"heat"} and bare.rerun() == set()
    assert bare.weave("stale").output == "nothing is stale\n"
    with bare.here():
        book = Book(Layout(bare.root))
        [notebook] = book.notebooks()
        last = Store(bare.root, bare.root / ".cache/weave/runs", print).last(notebook)
        assert last == book.store.fresh(notebook)


def test_a_program_that_a_cell_leaves_running_ends_with_its_notebook(bare: Small) -> None:
    text = "# %% a\nimport subprocess\n\np = subprocess.Popen(['sleep', '77'])\nopen('pid', 'w').write(str(p.pid))\n"
    assert runs(bare, sleeper=text) == {"sleeper": ""}
    pid = int(bare.read("pid"))
    for _ in range(50):
        state = Path(f"/proc/{pid}/stat").read_text().split()[2] if Path(f"/proc/{pid}").exists() else "gone"
        if state in ("gone", "Z"):
            return
        time.sleep(0.1)
    raise AssertionError(f"the program still runs ({state})")


def test_a_notebook_that_cannot_be_followed_runs_at_each_build_and_stale_says_why(bare: Small) -> None:
    started = "# %% a\nfrom weave import claim, reads\n\n# %% b\nimport subprocess\n\n"
    started += "{}x = subprocess.check_output(['cat', 'data/x'])\nclaim(x=int(x))\n"
    bare.write("data/x", "1")
    assert runs(bare, heat=started.format("")) == {"heat": ""}
    why = 'starts a program (cat), which is not followed; declare in this cell what it reads: reads("path")'
    assert bare.weave("stale").output == f"code/notebooks/heat.py: line 7 {why}\n"
    assert bare.weave("check", "--fresh").output.splitlines()[0] == f"code/notebooks/heat.py:7: stale: {why}"
    assert bare.rerun() == bare.rerun() == {"heat"}
    with bare.here():  # within one build, and while an author is at work, it runs once
        book = Book(Layout(bare.root))
        book.execute()
        book.execute()
        assert book.outcomes["code/notebooks/heat.py"].run
    bare.write("code/notebooks/heat.py", started.format("reads('data/x')\n"))
    assert bare.rerun() == {"heat"} and bare.rerun() == set()
    bare.write("data/x", "2")
    assert bare.rerun() == {"heat"}
    bare.write("code/notebooks/heat.py", started.format("reads('data/no')\n"))
    assert "reads('data/no'): there is no such file or folder" in bare.weave("run").output


def test_no_variable_of_outside_reaches_a_notebook(bare: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WHATEVER", "LC_ALL", "MPLCONFIGDIR", "PYTHONSTARTUP", "OMP_NUM_THREADS", "TZ", "LANG"):
        monkeypatch.setenv(name, "mine")
    text = "# %% a\nimport os, sys\n\nassert 'mine' not in os.environ.values()\nassert 'WHATEVER' not in os.environ\n"
    assert runs(bare, heat=text + "assert sys.argv == ['']\n") == {"heat": ""}


MODULE = '"""Say what it does."""\n\n\ndef f():\n    """Return one."""\n    # because\n    return 1\n'


@pytest.mark.parametrize(
    ("cell", "reads_text"),
    [
        ("import lab; x = lab.f()", False),
        ("import lab; x = lab.f.__doc__", True),
        ("import lab; help(lab.f)", True),
        ("import lab, inspect; x = inspect.getsource(lab)", True),
        ("import lab, inspect; x = inspect.getdoc(lab.f)", True),
        ("import lab\nlab.f?", True),
        ("import lab\nx = open(lab.__file__).read()", True),
        ("import lab, linecache; x = linecache.getline(lab.__file__, 1)", True),
    ],
)
def test_a_comment_or_docstring_of_a_module_counts_only_where_its_text_is_read(
    bare: Small, cell: str, reads_text: bool
) -> None:
    bare.write("code/lab.py", MODULE)
    assert runs(bare, heat=f"# %% a\n{cell}\n") == {"heat": ""}
    bare.write("code/lab.py", MODULE.replace("one", "1").replace("because", "since").replace("Say", "Tell"))
    assert ("lab.py changed" in bare.weave("stale").output) == reads_text
    bare.write("code/lab.py", MODULE.replace("return 1", "return 2"))
    assert "lab.py changed" in bare.weave("stale").output
