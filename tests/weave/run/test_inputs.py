"""Whatever a program reads, and however: once that has changed, its old value is never served again.

Programs are made of the ways to read in the tables below, one a cell, each with files of its own. A seeded generator
picks the folder and the path that leads to the file, and puts the way into a function, a module, a thread or a string.
Each program runs; then each file is changed in turn, and the notebook has to be stale for it, and fresh again when the
change is taken back. In the end everything is changed at once, and what each way gives must differ: else it had not
read what was changed, and the test would show nothing.
"""

from __future__ import annotations

import os
import py_compile
import random
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

# A way to read is an expression, or statements that set `x`. `P` is the path of a text file, `D` its folder, `A` a link
# to the file, `M` the path of a module whose name is in `MOD`.
READ = """
open(P).read()
open(P, "rb").read()
open(P, "r+").read()
f = open(P, "a+"); f.seek(0); x = f.read()
import io; x = io.open(P).read()
import io; x = io.open_code(os.path.realpath(P)).read()
import io; x = io.FileIO(P).read()
import codecs; x = codecs.open(P).read()
os.read(os.open(P, os.O_RDONLY), 99)
os.read(os.open(P, os.O_RDWR), 99)
os.read(os.open(P, os.O_RDWR | os.O_CREAT), 99)
os.read(os.open(P, os.O_RDWR | os.O_APPEND), 99)
os.fdopen(os.open(P, os.O_RDONLY)).read()
f = os.open(D, os.O_RDONLY); x = os.read(os.open(os.path.basename(P), os.O_RDONLY, dir_fd=f), 99)
f = os.open(D, os.O_RDONLY); x = open(os.path.basename(P), opener=lambda p, n: os.open(p, n, dir_fd=f)).read()
f = os.open(P, os.O_RDONLY); x = open(f"/proc/self/fd/{f}").read()
f = os.open(P, os.O_RDONLY); x = open(f"/dev/fd/{f}").read()
f = os.dup(os.open(P, os.O_RDONLY)); x = os.read(f, 99)
Path(P).read_text()
Path(P).read_bytes()
Path(P).resolve().read_text()
open(os.path.realpath(P)).read()
open(b"" + os.fsencode(P)).read()
old = os.getcwd(); os.chdir(D); x = open(os.path.basename(P)).read(); os.chdir(old)
f = open(P); import mmap; x = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[:]
import numpy; x = numpy.fromfile(P, "u1").tolist()
import numpy; x = numpy.memmap(P, "u1", "r").tolist()
import numpy; x = numpy.loadtxt(P, dtype=str).tolist()
import fileinput; x = list(fileinput.input([P]))
import linecache; x = linecache.getlines(os.path.realpath(P))
import tokenize; x = tokenize.open(P).read()
import shutil, tempfile; d = tempfile.mkdtemp(); x = open(shutil.copy(P, d)).read()
import shutil, tempfile; d = tempfile.mkdtemp(); shutil.copytree(D, d + "/t"); x = open(d + "/t/" + os.path.basename(P)).read()
import tempfile; o = tempfile.TemporaryFile(); n = os.sendfile(o.fileno(), os.open(P, os.O_RDONLY), 0, 99); o.seek(0); x = o.read()
import threading; r = []; t = threading.Thread(target=lambda: r.append(open(P).read())); t.start(); t.join(); x = r[0]
a, b = os.pipe(); n = os.fork() or (os.write(b, open(P, "rb").read()), os._exit(0)); os.waitpid(n, 0); x = os.read(a, 99)
from multiprocessing import get_context; x = get_context("fork").Pool(1).apply(Path(P).read_text)
import concurrent.futures as c; x = next(c.ThreadPoolExecutor(1).map(Path.read_text, [Path(P)]))
eval("open(P).read()", {"P": P})
import importlib.resources as r; x = r.files("email").joinpath(os.path.realpath(P)).read_text()
open(A).read()
"""
# Of questions about a file or folder, with what changes the answer.
ASK = """
append os.path.getsize(P)
append os.stat(P).st_size
append os.stat(P)[6]
append Path(P).stat().st_size
append os.lstat(P).st_size
append os.fstat(os.open(P, os.O_RDONLY)).st_size
append [e.stat().st_size for e in os.scandir(D)]
append [e.stat().st_size for e in os.scandir(os.open(D, os.O_RDONLY))]
append open(P, "rb").seek(0, 2)
relink os.readlink(A)
relink open(A).read()
relink os.path.realpath(A)[-5:]
relink Path(A).resolve().name
relink Path(A).read_text()
append sum(os.path.getsize(os.path.join(a, f)) for a, _, fs in os.walk(D) for f in fs)
append sum(p.stat().st_size for p in Path(D).rglob("*.txt"))
touch os.path.getmtime(P)
touch os.stat(P).st_mtime_ns
touch Path(P).stat().st_mtime
chmod os.access(P, os.X_OK)
chmod oct(os.stat(P).st_mode)
remove os.path.exists(P)
remove Path(P).exists()
remove os.path.isfile(P)
remove Path(P).is_file()
remove os.access(P, os.R_OK)
remove os.path.lexists(P)
remove bool(__import__("glob").glob(P))
remove Path(P) in Path(D).iterdir()
more os.listdir(D).__len__()
more len(os.listdir(os.open(D, os.O_RDONLY)))
more sum(1 for e in os.scandir(D))
more sum(1 for e in os.scandir(os.open(D, os.O_RDONLY)))
more len(list(Path(D).glob("*")))
more len(list(Path(D).rglob("*.txt")))
more len(__import__("glob").glob(D + "/*"))
more sum(len(f) for _, _, f in os.walk(D))
more sum(len(f) for _, _, f, _ in os.fwalk(D))
more old = os.getcwd(); os.chdir(D); x = len(os.listdir()); os.chdir(old)
more import shutil, tempfile; d = tempfile.mkdtemp(); shutil.copytree(D, d + "/t"); x = len(os.listdir(d + "/t"))
"""
MODULE = """
import MOD; x = MOD.X
from MOD import X; x = X
import importlib; x = importlib.import_module("MOD").X
import importlib.util as u; s = u.spec_from_file_location("v", M); m = u.module_from_spec(s); s.loader.exec_module(m); x = m.X
from importlib.machinery import SourceFileLoader as L; m = type(os)("v"); L("v", M).exec_module(m); x = m.X
import jaxtyping; jaxtyping.install_import_hook("MOD", None); import MOD; x = MOD.X
import runpy; x = runpy.run_path(M)["X"]
import runpy; x = runpy.run_module("MOD")["X"]
n = {}; exec(open(M).read(), n); x = n["X"]
n = {}; exec(compile(Path(M).read_text(), M, "exec"), n); x = n["X"]
import pkgutil; x = pkgutil.resolve_name("MOD:X")
import sys; sys.path.insert(0, os.path.dirname(M)); import MOD; x = MOD.X
import sys; sys.modules.pop("MOD", None); __import__("MOD"); x = sys.modules["MOD"].X
import pickle; x = pickle.loads(b"cMOD\\nX\\n.")
import inspect, MOD; x = inspect.getsource(MOD)
"""


# Not followed: the cell says with reads(P) what it reads, or the notebook is not reused.
PROGRAM = """
import subprocess; x = subprocess.run(["cat", P], capture_output=True).stdout
import subprocess; x = subprocess.getoutput("cat '" + P + "'")
os.popen("cat '" + P + "'").read()
import os; os.system("cat '" + P + "' > /dev/null"); x = reads and open(P).read()
import os; n = os.posix_spawn("/bin/cat", ["cat", P], os.environ); x = os.waitpid(n, 0) and open(P).read()
import os; a, b = os.pipe(); n = os.fork() or os.dup2(b, 1) and os.execvp("cat", ["cat", P]); os.waitpid(n, 0); x = os.read(a, 99)
import ctypes; c = ctypes.CDLL(None); b = ctypes.create_string_buffer(99); c.read(c.open(os.fsencode(P), 0), b, 99); x = b.value
from multiprocessing import get_context; x = get_context("spawn").Pool(1).apply(Path.read_text, [Path(P)])
import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); x = open(P).read()
import sqlite3; c = sqlite3.connect(":memory:"); x = open(P).read()
"""

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
        (self.root / f"data/o{len(self.ways)}.x").write_text("two")
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
            "relink": (lambda n=len(self.ways): relink(self.root / f"data/o{n}.x"), lambda: relink(real)),
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
        file.writestr(f"zipped{len(str(tmp)) % 7}.py", "")
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
    for code in READ.strip().split("\n"):
        world.read(code)
    for line in ASK.strip().split("\n"):
        kind, _, code = line.partition(" ")
        world.read(code, kind)
    for code in MODULE.strip().split("\n"):
        world.module(code)
    for code in PROGRAM.strip().split("\n"):
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
    for code in PROGRAM.strip().split("\n"):
        world.read(code)
    result, notebook = world.run(), world.notebook()
    assert Store(world.root, world.root / ".cache/weave/runs", print).fresh(notebook) is None
    lines = {reason.line for reason in unfollowed(result)}
    for cell in notebook.code[1:]:
        assert lines & set(range(cell.line, cell.line + cell.source.count("\n") + 1)), cell.source
