"""Whatever a program reads, and however: once that has changed, its old value is never served again.

Programs are made of the ways to read in `ways.py`, one a cell, each with files of its own. A seeded generator
picks the folder and the path that leads to the file, and puts the way into a function, a module, a thread or a string.
Each program runs; then each file is changed in turn, and the notebook has to be stale for it, and fresh again when the
change is taken back. In the end everything is changed at once, and what each way gives must differ: else it had not
read what was changed, and the test would show nothing.
"""

from __future__ import annotations

import os
import py_compile
import random
import runpy
import shutil
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.numpy
from tokenizers import Tokenizer, models

from weave.run.executor import Executor
from weave.run.inputs import unfollowed
from weave.run.notebook import Notebook, parse
from weave.run.store import Result, Store

WAYS = runpy.run_path(str(Path(__file__).with_name("ways.py")))
FOLDERS = ("plain", "site", "deep/.cache", "node_modules", "a b", "ü", "lib/site-packages", ".git", "deep/__main__")


class Way(NamedTuple):
    """A cell, and how its input is changed and put back."""

    code: str
    change: Callable[[], object]
    back: Callable[[], object]


def write(path: Path, data: str | bytes) -> None:
    """Write a file as an adversary does: its date of modification stays what it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    date = path.stat().st_mtime_ns if path.exists() else 1_700_000_000_000_000_000
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    os.utime(path, ns=(date, date))


class World:
    """A repository with files that ways read, and the ways that the generator has made so far."""

    def __init__(self, base: Path, seed: int) -> None:
        self.root, self.elsewhere, self.random = base / "root", base / "elsewhere", random.Random(seed)
        (self.root / "code/notebooks").mkdir(parents=True)
        (self.root / "data/far/near").mkdir(parents=True)
        (self.root / "data/via").symlink_to("far/near")
        self.ways: list[Way] = []

    def file(self) -> tuple[Path, str]:
        """Make a file, and return with it a path that leads there from the root."""
        inside = f"data/{self.random.choice(FOLDERS)}/w{len(self.ways)}/f.txt"
        if self.random.random() < 0.15:
            real = self.elsewhere / inside
            path = str(real)
        else:
            real = self.root / inside
            path = self.random.choice([inside, inside, str(real), f"./{inside}", "data/via/../../" + inside[5:]])
        write(real, "one")
        return real, path

    def wrapped(self, head: str, code: str) -> str:
        """Put a way into a cell: as it is, in a function, a module, a thread, a string."""
        lines = code if "x = " in code else f"x = {code}"
        form = self.random.choice(["plain", "function", "module", "thread", "string"])
        go = "def go():\n" + "".join(f"    {line}\n" for line in [head, lines, "return x"])
        if "os.chdir" in code and form == "thread":
            form = "function"
        match form:
            case "function":
                return f"{go}x = go()"
            case "thread":
                return f"{go}import threading\nr = []\nt = threading.Thread(target=lambda: r.append(go()))\n" + (
                    "t.start(); t.join(); x = r[0]"
                )
            case "module":
                name = f"helper{len(self.ways)}"
                write(
                    self.root / f"code/{name}.py", f"import os\nfrom pathlib import Path\nfrom weave import reads\n{go}"
                )
                return f"import {name}; x = {name}.go()"
            case "string":
                return f"n = {{'os': os, 'Path': Path, 'reads': reads}}; exec({f'{head}; {lines}'!r}, n); x = n['x']"
        return f"{head}\n{lines}"

    def add(self, code: str, change: Callable[[], object], back: Callable[[], object]) -> None:
        self.ways.append(Way(code, change, back))

    def read(self, code: str, kind: str = "text", more: str = "") -> None:
        """Add a way of the tables above; ``kind`` is the kind of change."""
        real, path = self.file()
        other, link, date = real.with_name("g.txt"), self.root / f"data/link{len(self.ways)}", real.stat().st_mtime_ns
        link.symlink_to(real)
        link.with_name(f"{link.name}.x").write_text("two")
        folder = f"{os.path.dirname(path)}"
        head = f"P, D, A = {path!r}, {folder!r}, {os.path.relpath(link, self.root)!r}" + more

        def relink(target: Path) -> None:
            link.unlink()
            link.symlink_to(target)

        def unmore() -> None:
            other.unlink()
            os.utime(real.parent, ns=(folder_date, folder_date))

        folder_date = real.parent.stat().st_mtime_ns
        changes: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "text": (lambda: write(real, "two"), lambda: write(real, "one")),
            "append": (lambda: write(real, "one more"), lambda: write(real, "one")),
            "touch": (lambda: os.utime(real, ns=(date, date + 5 * 10**9)), lambda: os.utime(real, ns=(date, date))),
            "chmod": (lambda: real.chmod(0o755), lambda: real.chmod(0o644)),
            "remove": (real.unlink, lambda: write(real, "one")),
            "more": (lambda: write(other, "one"), unmore),
            "relink": (lambda: relink(link.with_name(f"{link.name}.x")), lambda: relink(real)),
        }
        self.add(self.wrapped(head, code), *changes[kind])

    def module(self, code: str) -> None:
        name = f"mod{len(self.ways)}"
        path = self.root / f"code/{name}.py"
        write(path, "X = 'one'\n")
        py_compile.compile(str(path))  # matches the changed file by size and date, too
        head = f"M = {str(path)!r}"
        self.add(
            self.wrapped(head, code.replace("MOD", name)),
            lambda: write(path, "X = 'two'\n"),
            lambda: write(path, "X = 'one'\n"),
        )

    def special(self, code: str, path: str, before: str | bytes | None, after: str | bytes) -> None:
        """Add a way that reads the file ``path``, absent where ``before`` is None."""
        real = self.root / path
        if before is not None:
            write(real, before)

        def back() -> None:
            if before is not None:
                write(real, before)
            else:
                real.unlink()
                if not any(real.parent.iterdir()) or real.name == "__init__.py":
                    shutil.rmtree(real.parent)

        self.add(code if "x = " in code else f"x = {code}", lambda: write(real, after), back)

    def notebook(self) -> Notebook:
        head = "# %%\nimport os\nfrom pathlib import Path\nfrom weave import reads\n\n"
        cells = (f"# %% c{i}\n{way.code}\nrepr(x)\n\n" for i, way in enumerate(self.ways))
        return parse("code/notebooks/n.py", head + "".join(cells))

    def run(self) -> Result:
        said: list[str] = []
        store = Store(self.root, self.root / ".cache/weave/runs", said.append)
        [outcome] = Executor(self.root, store, timeout=60, say=said.append).run([self.notebook()])
        assert outcome.run, "\n".join([*said, *(problem.with_detail for problem in outcome.problems)])
        return outcome.run


def values(result: Result) -> list[str]:
    return [next(o["data"]["text/plain"] for o in outputs if "data" in o) for outputs in result.outputs[1:]]


def packed(tmp: Path, text: str) -> tuple[bytes, bytes]:
    """A zip file with a module and a text, and a tar file with a text."""
    (tmp / "t").write_text(text)
    with zipfile.ZipFile(tmp / "z", "w") as file:
        file.writestr("t", text)
        file.writestr("zipped_module.py", f"X = {text!r}\n")
    with tarfile.open(tmp / "tar", "w") as tar:
        tar.add(tmp / "t", "t")
    return (tmp / "z").read_bytes(), (tmp / "tar").read_bytes()


def add_special(world: World, tmp: Path) -> None:
    """Formats with readers of their own, and what is absent at first."""
    zips, tars = zip(*(packed(tmp, text) for text in ("one", "two")), strict=True)
    world.special("import zipfile; x = zipfile.ZipFile('data/z.zip').read('t')", "data/z.zip", *zips)
    world.special(
        "import sys; sys.path.insert(0, 'data/m.zip'); import zipped_module as z; x = z.X", "data/m.zip", *zips
    )
    world.special("import tarfile; x = tarfile.open('data/t.tar').extractfile('t').read()", "data/t.tar", *tars)
    tensors = [safetensors.numpy.save({"a": np.array([value])}) for value in (1, 2)]
    load = "from safetensors.numpy import load_file; x = load_file('data/a.safetensors')['a'].tolist()"
    world.special(load, "data/a.safetensors", *tensors)
    load = "from safetensors import safe_open; x = safe_open('data/b.safetensors', 'np').get_tensor('a').tolist()"
    world.special(load, "data/b.safetensors", *tensors)
    tokenizers = [Tokenizer(models.WordLevel({word: 0}, word)).to_str() for word in ("one", "two")]
    load = "from tokenizers import Tokenizer; x = Tokenizer.from_file('data/t.json').get_vocab()"
    world.special(load, "data/t.json", *tokenizers)
    arrays = []
    for value in (1, 2):
        np.save(tmp / "a.npy", np.array([value]))
        arrays.append((tmp / "a.npy").read_bytes())
    world.special("import numpy; x = numpy.load('data/a.npy', mmap_mode='r').tolist()", "data/a.npy", *arrays)
    world.special("import numpy; x = numpy.load('data/b.npy').tolist()", "data/b.npy", *arrays)
    databases = []
    for value in (1, 2):
        with sqlite3.connect(tmp / f"{value}.db") as database:
            database.execute(f"create table t as select {value} as v")
        database.close()
        databases.append((tmp / f"{value}.db").read_bytes())
    ask = "import sqlite3; reads('data/x.db'); x = sqlite3.connect('data/x.db').execute('select v from t').fetchall()"
    world.special(ask, "data/x.db", *databases)

    world.special("Path('data/absent/x').exists()", "data/absent/x", None, "")
    world.special("os.path.isdir('data/absent2')", "data/absent2/x", None, "")
    vain = "try:\n    x = open('data/vain/x').read()\nexcept OSError:\n    x = None"
    world.special(vain, "data/vain/x", None, "")
    world.special("len(list(Path('data/listed').rglob('*')))", "data/listed/x", None, "")
    optional = "try:\n    import optional1 as m\n    x = m.X\nexcept ImportError:\n    x = None"
    world.special(optional, "code/optional1/__init__.py", None, "X = 1\n")
    find = "import importlib.util as u; x = u.find_spec('optional2') is not None"
    world.special(find, "code/optional2/__init__.py", None, "")
    write(world.root / "code/shadowed.py", "X = 1\n")
    world.special("import shadowed; x = shadowed.X", "code/shadowed/__init__.py", None, "X = 2\n")
    write(world.root / "code/plugins/__init__.py", "")
    write(world.root / "code/plugins/one.py", "")
    plugins = "import pkgutil, plugins; x = [m.name for m in pkgutil.iter_modules(plugins.__path__)]"
    world.special(plugins, "code/plugins/two/__init__.py", None, "")
    world.special("import legacy; x = legacy.X", "code/legacy.py", "X = 1  # one\n", "X = 2  # one\n")
    version = "import importlib.metadata as m; x = m.version('thing')"
    info = "Metadata-Version: 2.1\nName: thing\nVersion: "
    world.special(version, "code/thing-1.0.dist-info/METADATA", f"{info}1.0\n", f"{info}1.1\n")
    entry = "import importlib.metadata as m; x = [e.value for e in m.entry_points(group='things')]"
    world.special(entry, "code/thing-1.0.dist-info/entry_points.txt", "[things]\na = b:c\n", "[things]\na = b:d\n")
    home = os.environ.get("HOME", "")
    for ask in ("os.environ['HOME']", "os.getenv('HOME')", "os.path.expanduser('~')", "dict(os.environ)['HOME']"):
        world.add(f"x = {ask}", lambda: os.environ.update(HOME="/"), lambda: os.environ.update(HOME=home))


def check(world: World) -> None:
    """Run a world's program and change its inputs."""
    before = world.run()
    notebook = world.notebook()
    store = Store(world.root, world.root / ".cache/weave/runs", print)

    def reasons() -> list[str]:
        return [reason.what for reason in store.changes(before, notebook)]

    assert reasons() == [] and unfollowed(before) == [], (reasons(), unfollowed(before))
    assert store.fresh(notebook), "a followed notebook is used again"
    for way in world.ways:
        way.change()
        assert next(store.changes(before, notebook), None), f"stale value of\n{way.code}"
        way.back()
        assert reasons() == [], way.code
    for way in world.ways:
        way.change()
    try:
        after = world.run()
    finally:
        for way in world.ways[::-1]:
            way.back()
    same = [way.code for way, old, new in zip(world.ways, values(before), values(after), strict=True) if old == new]
    assert not same, "it does not read what changes:\n" + "\n\n".join(same)


def made(base: Path, seed: int) -> World:
    """Make a world of all ways."""
    world = World(base, seed)
    for code in WAYS["READ"].strip().split("\n"):
        world.read(code)
    for line in WAYS["ASK"].strip().split("\n"):
        kind, _, code = line.partition(" ")
        world.read(code, kind)
    for code in WAYS["MODULE"].strip().split("\n"):
        world.module(code)
    for code in WAYS["PROGRAM"].strip().split("\n"):
        world.read(code, more="; reads(P)")
    return world


@pytest.fixture
def code_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'root/code'}:{Path(__file__).parents[3] / 'code'}")
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("HOME", os.environ.get("HOME", "/"))


@pytest.mark.usefixtures("code_on_path")
def test_no_stale_value_is_ever_served(tmp_path: Path) -> None:
    world = made(tmp_path, seed=0)
    add_special(world, tmp_path)
    check(world)


@pytest.mark.weekly
@pytest.mark.usefixtures("code_on_path")
@pytest.mark.parametrize("seed", range(1, 9))
def test_nor_in_other_folders_forms_and_paths(tmp_path: Path, seed: int) -> None:
    check(made(tmp_path, seed))


@pytest.mark.usefixtures("code_on_path")
def test_a_notebook_with_what_cannot_be_followed_is_not_used_again(tmp_path: Path) -> None:
    world = World(tmp_path, seed=0)
    for code in WAYS["PROGRAM"].strip().split("\n"):
        world.read(code)
    result, notebook = world.run(), world.notebook()
    assert Store(world.root, world.root / ".cache/weave/runs", print).fresh(notebook) is None
    lines = {reason.line for reason in unfollowed(result)}
    for cell in notebook.code[1:]:
        assert lines & set(range(cell.line, cell.line + cell.source.count("\n") + 1)), cell.source
