"""A notebook runs again exactly when something that it depended on has changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weave.book.book import Book
from weave.run import facts
from weave.run.inputs import Executed, Reason, code_digest, meaning, platform_inputs, versions
from weave.run.notebook import Notebook, parse
from weave.run.store import Result, Store
from weave.source.layout import Layout

if TYPE_CHECKING:
    from conftest import Small

ONE = """# %% [markdown]
# Prose of one.

# %% a
from weave import claim
import lab
claim(one=lab.RATE)
"""
TWO = """# %% a
from pathlib import Path

from weave import claim
import deep.outer

text = Path("data/numbers.txt").read_text()
claim(two=len(text))

# %% b
extra = Path("data/extra.txt")
try:
    extra.read_text()
except FileNotFoundError:
    pass

# %% c
sorted(Path("data/folder").glob("*"))
"""


@pytest.fixture(scope="module")
def executed_two(tmp_path_factory: pytest.TempPathFactory, new_small: Callable[[], Small]) -> Path:
    """The small site with two quick notebooks in the place of its own, run once."""
    site = new_small()
    shutil.rmtree(site.root / ".cache")
    (site.root / "code/notebooks/heat.py").unlink()
    (site.root / "docs/notes/heat.md").unlink()
    site.write("docs/index.md", "# Small\n\n[0.5](../code/notebooks/one.py#=one)\n")
    site.write("code/notebooks/one.py", ONE)
    site.write("code/notebooks/two.py", TWO)
    site.write("code/deep/outer.py", "from deep import inner\n")
    site.write("code/deep/inner.py", "X = 1\n")
    site.write("code/unused.py", "X = 1\n")
    site.write("data/numbers.txt", "12345")
    site.write("data/folder/a", "")
    assert site.rerun() == {"one", "two"}
    return site.root


@pytest.fixture
def two(executed_two: Path, tmp_path: Path, small: Small) -> Small:
    small.root = tmp_path / "site"
    shutil.copytree(executed_two, small.root, symlinks=True)
    return small


def test_nothing_changed_nothing_runs(two: Small) -> None:
    assert two.rerun() == set()


def test_the_folder_is_no_input(two: Small) -> None:
    """The copy of the site in another folder is as fresh as the first."""
    result = two.weave("check")
    assert result.exit_code == 0 and "runs" not in result.output, result.output


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        ("code/notebooks/one.py", "claim(one=lab.RATE)", "claim(one=lab.RATE + 0)", {"one"}),
        ("code/notebooks/one.py", "# %% a", '# %% a tags=["raises-exception"]', None),
        ("code/notebooks/one.py", "# %% a", '# %% renamed tags=["hide-input"]', set()),
        ("code/notebooks/one.py", "# Prose of one.", "# Other prose.\n\n# %% [markdown]\n# More.", set()),
        ("code/lab.py", "0.5", "0.25", {"one"}),
        ("code/deep/outer.py", "from deep", "from  deep", set()),
        ("code/deep/outer.py", "from deep", "# why\nfrom deep", set()),
        ("code/deep/outer.py", "inner", "inner as other", {"two"}),
        ("code/deep/inner.py", "1", "2", {"two"}),
        ("code/unused.py", "1", "2", set()),
        ("data/numbers.txt", "5", "6", {"two"}),
        ("data/extra.txt", None, "now it is there", {"two"}),
        ("data/folder/b", None, "", {"two"}),
        ("data/folder/a", "", "other content, which nobody read", set()),
        ("data/elsewhere", None, "", set()),
        ("docs/index.md", "# Small", "# Large", set()),
        ("tests/test_heat.py", "0.5", "0.4", set()),
    ],
)
def test_an_edit_runs_what_depends_on_it(
    two: Small, path: str, old: str | None, new: str, expected: set[str] | None
) -> None:
    if old:
        two.replace(path, old, new)
    else:
        two.write(path, new)
    result = two.weave("run")
    ran = {name for name in ("one", "two") if f"{name}.py runs" in result.output}
    assert ran == (expected if expected is not None else {"one"}), result.output
    assert (result.exit_code == 0) == (expected is not None)
    assert expected is None or two.rerun() == set()


def test_prose_is_shown_as_it_now_is_beside_stored_outputs(two: Small) -> None:
    two.replace("code/notebooks/one.py", "Prose of one", "Prose rewritten")
    with two.here():
        site = Book(Layout(two.root))
        site.execute()
        run = site.result("code/notebooks/one.py")
    assert run and "Prose rewritten" in run.notebook.cells[0].source and run.published["one"].value == 0.5
    assert run.published["one"].line == run.notebook.names["a"].line


def test_reverting_is_instant(two: Small) -> None:
    two.replace("code/lab.py", "0.5", "0.25")
    assert two.rerun() == {"one"}
    two.replace("code/lab.py", "0.25", "0.5")
    assert two.rerun() == set()
    assert two.weave("check").exit_code == 0


def test_two_edits_of_a_module_within_a_second_and_of_one_size(two: Small) -> None:
    """Bytecode files know a module by its time in whole seconds and its size: they must not be believed."""
    for rate in ("0.1", "0.2", "0.3"):
        two.write("code/lab.py", f"RATE = {rate}\n")
        os.utime(two.root / "code/lab.py", (1_700_000_000, 1_700_000_000))
        assert two.rerun() == {"one"}
        result = two.weave("check")
        assert f"computed {rate}" in result.output
    assert not list((two.root / "code").rglob("*.pyc"))


def test_force_and_names(two: Small) -> None:
    output = two.weave("run", "--force", "two").output
    assert "two.py runs" in output and "one.py runs" not in output
    two.replace("code/lab.py", "0.5", "0.25")
    output = two.weave("run", "code/notebooks/two.py").output
    assert "runs" not in output
    result = two.weave("run", "tow")
    assert result.exit_code == 1 and "no notebook 'tow'" in result.output and "two" in result.output
    assert two.rerun() == {"one"}


def edit_record(two: Small, notebook: str, change: Callable[[dict], object]) -> None:
    """Change the inputs in a stored result, as if it came from another machine or day."""
    store = Store(two.root, two.root / ".cache/weave/runs", print)
    result = store.last(parse(f"code/notebooks/{notebook}.py", two.read(f"code/notebooks/{notebook}.py")))
    assert result
    inputs = json.loads(json.dumps(result.inputs))
    change(inputs)
    shutil.rmtree(store.folder / notebook)
    store.save(replace(result, inputs=inputs))


def test_another_version_of_an_imported_package(two: Small) -> None:
    edit_record(two, "one", lambda inputs: inputs["packages"].update(ipython="0.0.1"))
    edit_record(two, "two", lambda inputs: inputs["packages"].update({"gone-since": "1.0"}))
    assert two.rerun() == {"one", "two"}


@pytest.mark.parametrize("name", ["python", "machine", "weave"])
def test_another_python_machine_or_weave(two: Small, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, notebook = Store(two.root, two.root / ".cache/weave/runs", print), parse("code/notebooks/one.py", ONE)
    monkeypatch.setenv("PYTHONPATH", two.env["PYTHONPATH"])
    assert store.fresh(notebook)
    edit_record(two, "one", lambda inputs: inputs.update({name: "other"}))
    assert store.fresh(notebook) is None and store.last(notebook)
    words = {"python": "Python changed from other to ", "machine": "the machine changed from other to "}
    [reason] = store.reasons(notebook)
    assert reason.line == 1 and reason.what.startswith(words.get(name, "the code that executes notebooks changed"))
    edit_record(two, "one", lambda inputs: inputs.pop(name))  # written by an older weave
    assert store.fresh(notebook) is None and store.last(notebook)


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        flip,
        lambda data: b"",
        lambda data: b"[]",
        lambda data: b"3",
        lambda data: b'{"sha256": 1}',
        lambda data: b"\xff\xfe\x00",
        lambda data: data.replace(b'"one"', b'"two"'),
    ],
    ids=["half", "last-byte", "flipped", "empty", "list", "number", "other-keys", "bytes", "consistent-edit"],
)
def test_a_damaged_result_is_thrown_away_with_a_note(two: Small, damage: Callable[[bytes], bytes]) -> None:
    (entry,) = (two.root / ".cache/weave/runs/one").glob("*.json")
    good = entry.read_bytes()
    entry.write_bytes(damage(good))
    with two.here():
        said: list[str] = []
        store = Store(two.root, two.root / ".cache/weave/runs", said.append)
        notebook = parse("code/notebooks/one.py", ONE)
        assert store.fresh(notebook) is None and store.last(notebook) is None
    assert not entry.exists() and len(said) == 1
    where = f"{entry.relative_to(two.root).as_posix()}:1: "
    assert said[0].startswith(where) and said[0].endswith("; deleted it, the notebook runs again")


def test_a_damaged_result_is_built_again_by_the_check(two: Small) -> None:
    (entry,) = (two.root / ".cache/weave/runs/one").glob("*.json")
    entry.write_bytes(flip(entry.read_bytes()))
    result = two.weave("check")
    assert result.exit_code == 0 and "one.py runs" in result.output and "two.py runs" not in result.output
    assert result.output.count("cannot be trusted") == 1
    assert two.rerun() == set()


def test_a_failing_run_is_not_stored_and_the_last_good_one_stays(two: Small) -> None:
    entries = sorted((two.root / ".cache/weave/runs/one").iterdir())
    two.replace("code/notebooks/one.py", "claim(one=", "1 / 0\nclaim(one=")
    for _ in range(2):
        result = two.weave("run")
        assert result.exit_code == 1 and "one.py runs" in result.output
    assert sorted((two.root / ".cache/weave/runs/one").iterdir()) == entries
    two.replace("code/notebooks/one.py", "1 / 0\n", "")
    assert two.rerun() == set()


def test_while_serving_a_failed_notebook_waits_for_a_change(two: Small, capfd: pytest.CaptureFixture[str]) -> None:
    """One Book lives as long as `mkdocs serve`: a notebook that fails is not run at each edit of a note."""

    def ran() -> bool:
        capfd.readouterr()
        site.execute()
        return "one.py runs" in capfd.readouterr().err

    with two.here():
        site = Book(Layout(two.root))
        assert not ran()
        two.write("code/lab.py", "import other\nRATE = other.X\n")
        two.write("code/other.py", "X = 1 / 0\n")
        assert ran() and site.outcomes["code/notebooks/one.py"].problems
        good = site.result("code/notebooks/one.py")
        assert good and good.published["one"].value == 0.5
        two.write("docs/index.md", "# Other\n")
        two.write("code/unused.py", "X = 3\n")
        assert not ran() and site.outcomes["code/notebooks/one.py"].problems
        two.write("code/other.py", "X = 7\n")
        assert ran() and not site.outcomes["code/notebooks/one.py"].problems
        good = site.result("code/notebooks/one.py")
        assert good and good.published["one"].value == 7
        two.replace("code/notebooks/one.py", "claim(one=", "1 / 0\nclaim(one=")
        assert ran() and not ran()
        two.replace("code/notebooks/one.py", "1 / 0\n", "")
        assert not ran() and not site.outcomes["code/notebooks/one.py"].problems


def test_a_file_edited_while_the_notebook_runs_makes_it_run_again(two: Small) -> None:
    """The digest is taken when the file is first read; what is stored must belong to what is there at the end."""
    two.write(
        "code/notebooks/one.py",
        "# %% a\nfrom pathlib import Path\nfrom weave import claim\nfile = Path('data/numbers.txt')\n"
        "value = int(file.read_text())\n\n# %% someone-edits\nimport subprocess\n"
        "if value == 12345:\n    subprocess.run(['sh', '-c', 'printf 77 > data/numbers.txt'])\nclaim(value=value)\n",
    )
    two.write("docs/index.md", "# Small\n\n[77](../code/notebooks/one.py#=value)\n")
    result = two.weave("check")
    assert result.exit_code == 0, result.output
    assert result.output.count("one.py runs") == 2
    assert "data/numbers.txt changed while it ran; running it again" in result.output


def test_a_notebook_that_edits_what_it_reads_is_told_so(two: Small) -> None:
    two.write(
        "code/notebooks/one.py",
        "# %% a\nfrom pathlib import Path\nfile = Path('data/numbers.txt')\nfile.write_text(file.read_text() + '1')\n",
    )
    result = two.weave("run")
    assert result.exit_code == 1
    assert "code/notebooks/one.py:1: what it reads kept changing while it ran; it must not" in result.output


# -- the store by itself, without kernels


def result_of(text: str, **inputs: object) -> Result:
    notebook = parse("code/notebooks/one.py", text)
    known = {"code": code_digest(notebook), **platform_inputs(), "files": {}, "listings": {}, "packages": {}, **inputs}
    return Result(
        notebook, [[{"output_type": "stream", "name": "stdout", "text": text * 1000}] for _ in notebook.code], known
    )


def test_the_last_five_results_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path, tmp_path / "runs", print)
    for number in range(8):
        store.save(result_of(f"# %% a\n{number}\n"))
        for path in (tmp_path / "runs/one").glob("*.json"):
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))
    kept = {number for number in range(8) if store.fresh(parse("code/notebooks/one.py", f"# %% a\n{number}\n"))}
    assert kept == {3, 4, 5, 6, 7}
    assert len(list((tmp_path / "runs/one").iterdir())) == 5


def test_a_result_in_use_is_not_the_oldest(tmp_path: Path) -> None:
    store = Store(tmp_path, tmp_path / "runs", print)
    for number in range(9):
        store.save(result_of(f"# %% a\n{number}\n"))
        for path in (tmp_path / "runs/one").glob("*.json"):
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))
        assert store.fresh(parse("code/notebooks/one.py", "# %% a\n0\n")), number


@given(
    st.lists(st.sampled_from(["x = 1", "y = 2", "", "print(3)"]), min_size=1, max_size=4),
    st.text("ab #\n", max_size=20),
)
def test_code_counts_and_prose_does_not(sources: list[str], prose: str) -> None:
    code = "".join(f"# %% c{i}\n{source}\n\n" for i, source in enumerate(sources))
    text = "\n".join(f"# {line}" for line in prose.split("\n"))
    with_prose = code.replace("# %% c0", f"# %% [markdown]\n{text}\n\n# %% c0")
    plain = code_digest(parse("x.py", code))
    assert code_digest(parse("x.py", with_prose)) == plain
    assert code_digest(parse("x.py", code + "# %% last\nz = 1\n")) != plain
    skipped = code.replace("# %% c0", '# %% c0 tags=["skip-execution"]')
    assert code_digest(parse("x.py", skipped)) != plain
    assert code_digest(parse("x.py", code.replace("# %% c0", '# %% c0 tags=["hide-input"]'))) == plain


def test_an_entry_that_vanishes_between_two_steps_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another build tidies up at any moment."""
    store = Store(tmp_path, tmp_path / "runs", print)
    store.save(result_of("# %% a\n1\n"))
    notebook = parse("code/notebooks/one.py", "# %% a\n1\n")
    real = store.changes

    def vanishing(earlier: Executed, notebook: Notebook) -> Iterator[Reason]:
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        return real(earlier, notebook)

    monkeypatch.setattr(store, "changes", vanishing)
    assert store.fresh(notebook) is not None
    assert store.fresh(notebook) is None and store.last(notebook) is None


WRITER = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from test_store import result_of
from weave.run.store import Store
root = Path(sys.argv[1])
store = Store(root, root / "runs", print)
for number in range(30):
    store.save(result_of("# %% a\\n'" + "x" * 500 + "'\\n"))
    store.save(result_of(f"# %% a\\n{{number}}\\n"))
"""


def test_two_processes_that_write_one_entry_leave_it_whole(tmp_path: Path) -> None:
    """Whoever reads meanwhile sees an entry that is whole, or none."""
    script = WRITER.format(tests=str(Path(__file__).parent))
    writers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(2)]
    said: list[str] = []
    store = Store(tmp_path, tmp_path / "runs", said.append)
    notebook = parse("code/notebooks/one.py", "# %% a\n'" + "x" * 500 + "'\n")
    seen = 0
    while any(writer.poll() is None for writer in writers):
        seen += store.fresh(notebook) is not None
        store.last(notebook)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert said == [] and seen > 0 and store.fresh(notebook)
    assert [path.name for path in (tmp_path / "runs/one").iterdir() if path.suffix != ".json"] == []


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("    # why\n", "    # because\n", True),
        ('"""Add."""', '"""Return the sum."""', True),
        ("return a + b", "return (a  +  b)", True),
        ("a + b", "a - b", False),
        ('"x"', '"y"', False),
    ],
)
def test_a_comment_in_the_machinery_makes_no_result_stale(tmp_path: Path, old: str, new: str, same: bool) -> None:
    text = '"""Add."""\nX = "x"\n\n\ndef add(a, b):\n    """Add."""\n    # why\n    return a + b\n'
    (tmp_path / "old.py").write_text(text)
    (tmp_path / "new.py").write_text(text.replace(old, new))
    assert (meaning(tmp_path / "old.py") == meaning(tmp_path / "new.py")) == same


def test_the_list_of_distributions_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a tenth of a second, at each end of each notebook."""
    calls = []
    monkeypatch.setattr(facts, "installed", lambda: (-1,))
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: calls.append(1) or {"click": ["click"]})
    assert [list(versions({"click": None, "os": None})) for _ in range(3)] == [["click"]] * 3 and len(calls) == 1
    monkeypatch.setattr(facts, "installed", lambda: (-2,))
    versions({"click": None})
    assert len(calls) == 2
