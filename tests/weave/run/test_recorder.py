"""A notebook's inputs, as its kernel records them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from weave.run import facts, places, provenance
from weave.run.executor import Executor
from weave.run.notebook import parse
from weave.run.store import Store

if TYPE_CHECKING:
    from conftest import Small

READER = r"""
# %% modules
import importlib.metadata

import lab
import package.inner
import click

importlib.metadata.version("click")

# %% files
import json, os, threading
from pathlib import Path

Path("data/plain.txt").read_text()
open(b"data/bytes.txt", "rb").read()
os.close(os.open("data/low.txt", os.O_RDONLY))
with open("data/both.txt", "r+") as file:
    file.read()

threads = [threading.Thread(target=Path(f"data/thread-{i}.txt").read_text) for i in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()

child = os.fork()
if child == 0:
    Path("data/forked.txt").read_text()
    os._exit(0)
os.waitpid(child, 0)

# %% in-vain
for name in ("data/absent.txt", "data/nowhere/x.txt", "data/a\0b", "x" * 300):
    try:
        open(name)
    except (OSError, ValueError):
        pass

# %% listings
sorted(os.listdir("data"))
sorted(Path("code/checkpoints").glob("*.json"))
list(os.walk("code/package"))
os.listdir(".")

# %% outside
Path("/etc/hostname").read_text()

# %% not-inputs
Path("data/written.txt").write_text("out")
open("data/appended.txt", "a").close()
Path(".cache/own").mkdir(parents=True, exist_ok=True)
Path(".cache/own/x").write_text("x")
Path(".cache/own/x").read_text()

# %% after-changing-folder
os.chdir("data")
Path("relative.txt").read_text()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("recorded")
    for name in ["plain", "bytes", "low", "both", "forked", "relative", *(f"thread-{i}" for i in range(8))]:
        write(root / f"data/{name}.txt", name)
    write(root / "code/lab.py", "from helper import X\n")
    write(root / "code/helper.py", "X = 1\n")
    write(root / "code/unused.py", "X = 1\n")
    write(root / "code/package/__init__.py", "")
    write(root / "code/package/inner.py", "from . import sibling\n")
    write(root / "code/package/sibling.py", "")
    write(root / "code/checkpoints/m.json", "{}")
    write(root / "code/notebooks/reader.py", READER)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{root / 'code'}:{Path(__file__).parents[3] / 'code'}")
        executor = Executor(root, Store(root, root / ".cache/runs", said.append), timeout=30, say=said.append)
        (outcome,) = executor.run([parse("code/notebooks/reader.py", READER)])
    assert outcome.run, (outcome.problems, said)
    return outcome.run, root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_exactly_the_files_that_matter(run: Any) -> None:
    found, _ = run
    read = {f"data/{name}.txt" for name in ("plain", "bytes", "low", "both", "forked", "relative")}
    threads = {f"data/thread-{i}.txt" for i in range(8)}
    modules = {f"code/{name}.py" for name in ("lab", "helper", "package/__init__", "package/inner", "package/sibling")}
    outside = {"/etc/hostname"}
    in_vain = {"data/absent.txt", "data/nowhere/x.txt", "x" * 300}
    seen = {name for name in found.inputs["files"] if "\0" not in name}
    assert seen == read | threads | modules | in_vain | outside


def test_a_cell_depends_on_what_was_read_up_to_it_and_not_on_what_follows(run: Any) -> None:
    found, _ = run
    data = {name: set(provenance.of(found, cell)["data"]) for name, cell in found.notebook.names.items()}
    assert data["modules"] == set()
    threads = [f"data/thread-{i}.txt" for i in range(8)]
    by_files = {"data/plain.txt", "data/bytes.txt", "data/low.txt", "data/both.txt", "data/forked.txt", *threads}
    assert data["files"] == data["listings"] == by_files
    assert data["after-changing-folder"] == by_files | {"data/relative.txt"}


def test_digests_are_those_of_the_bytes(run: Any) -> None:
    found, root = run
    for name, digest in found.inputs["files"].items():
        if digest is None:
            assert "\0" in name or len(name) > 255 or not (root / name).exists()
        else:
            assert digest == hashlib.sha256((root / name).read_bytes()).hexdigest()


def test_listings_by_the_notebook_count_and_those_of_the_import_system_do_not(run: Any) -> None:
    found, _ = run
    assert set(found.inputs["listings"]) == {".", "data", "code/checkpoints", "code/package"}


def test_packages_that_were_imported_are_known_with_their_versions(run: Any) -> None:
    from importlib.metadata import version

    packages = run[0].inputs["packages"]
    assert packages["click"] == version("click") and packages["ipython"] == version("ipython")
    assert "torch" not in packages and "mkdocs" not in packages


def test_a_record_cut_short_keeps_its_whole_lines(tmp_path: Path) -> None:
    """The kernel is killed while it writes: what stands before is still known."""
    written = [("files", "a", "1", -1, 0), ("packages", "b", None, 0, 0), ("files", "a", "2", 1, 0)]
    text = "".join(json.dumps(fact) + "\n" for fact in written)
    for cut in range(len(text) + 1):
        (tmp_path / "record").write_text(text[:cut])
        found = facts.read(tmp_path / "record")
        assert found == written[: len(found)]
    assert found == written and facts.digests(found, "files") == {"a": "1"}


def test_a_record_with_a_hole_is_refused(tmp_path: Path) -> None:
    record = tmp_path / "record"
    good = json.dumps(["files", "a", "1", -1, 0]) + "\n"
    for text in ("x\n" + good, good + "[]\n", good + '["files"]\n', "\xff\n", good + '["files", 3, null, 0]\n'):
        record.write_bytes(text.encode("latin-1"))
        with pytest.raises(facts.RecordLost):
            facts.read(record)
    record.write_text(good)
    record.chmod(0o600)
    with pytest.raises(facts.RecordLost):
        facts.read(record)
    with pytest.raises(facts.RecordLost):
        facts.read(tmp_path / "nothing")


def test_listings_see_names_and_no_caches(tmp_path: Path) -> None:
    first = facts.listing_digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    assert facts.listing_digest(tmp_path) == first == facts.listing_digest(tmp_path / "absent")
    (tmp_path / "new").write_text("1")
    second = facts.listing_digest(tmp_path)
    (tmp_path / "new").write_text("2")
    assert facts.listing_digest(tmp_path) == second != first
    (tmp_path / b"\xff".decode("utf-8", "surrogateescape")).write_text("")
    assert facts.listing_digest(tmp_path) not in (first, second)


def test_nobody_s_own_settings_reach_a_notebook(bare: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    bare.write("mine/startup.py", "mine = 1\n")
    bare.write("mine/profile_default/startup/mine.py", "mine = 1\n")
    bare.write(
        "mine/profile_default/ipython_config.py", "c = get_config()\nc.InteractiveShellApp.exec_lines=['mine=1']\n"
    )
    bare.write("mine/matplotlibrc", "figure.facecolor: red\n")
    monkeypatch.setenv("PYTHONSTARTUP", str(bare.root / "mine/startup.py"))
    monkeypatch.setenv("IPYTHONDIR", str(bare.root / "mine"))
    monkeypatch.setenv("MPLCONFIGDIR", str(bare.root / "mine"))
    text = "# %%\nimport os\nassert 'mine' not in globals()\nassert os.environ['OMP_NUM_THREADS'] == '1'\n"
    text += "import logging\nassert logging.getLogger('matplotlib.font_manager').level == logging.ERROR\n"
    bare.write("code/notebooks/heat.py", text)
    assert bare.rerun() == {"heat"}


def test_a_failed_or_killed_cell_has_told_what_it_read(bare: Small) -> None:
    """Else the notebook would not run again once that file is mended."""
    from weave.book.book import Book
    from weave.source.layout import Layout

    bare.write("code/slow.py", "import time\ntime.sleep(100)\n")
    bare.write("code/notebooks/heat.py", "# %% slow\nimport slow\n")
    bare.write("code/notebooks/dead.py", "# %% dead\nimport lab, os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    site = Book(Layout(bare.root), cell_timeout=1)
    with bare.here():
        site.execute()
    slow, dead = site.outcomes["code/notebooks/heat.py"], site.outcomes["code/notebooks/dead.py"]
    assert slow.problems[0].line == 2 and "took longer than 1 s" in slow.problems[0].message
    assert dead.problems[0].line == 2 and "the kernel died" in dead.problems[0].message
    assert "code/slow.py" in slow.inputs["files"] and "code/lab.py" in dead.inputs["files"]


def test_a_repository_reached_through_a_symbolic_link(bare: Small, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A module imported by another path to the same folder still belongs to the repository."""
    way = tmp_path_factory.mktemp("way") / "site"
    way.symlink_to(bare.root)
    there = type(bare)(way)
    assert there.rerun() == {"heat"}
    there.write("code/lab.py", "RATE = 0.25\n")
    result = there.weave("check")
    assert result.exit_code == 1 and "heat.py computed 0.25 (rate)" in result.output


def test_a_repository_within_the_environment_that_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a folder comes from ``python -m venv .`` or ``pip install --editable git+…``."""
    installed = tmp_path / "lib/python3/site-packages"
    monkeypatch.setattr(places.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(places.sysconfig, "get_path", lambda _: str(installed))
    for root in (tmp_path, tmp_path / "src/site"):
        root.mkdir(parents=True, exist_ok=True)
        seen = places.Places(root)
        assert seen.name(root / "code/lab.py") == "code/lab.py"
        assert seen.name(installed / "click/core.py") is None
