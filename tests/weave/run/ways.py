"""Ways in which a Python program reads: tables for `test_inputs.py`, a way a line."""

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
import shutil, tempfile; d = tempfile.mkdtemp(); shutil.copytree(D, d + "/t"); x = open(d + "/t/f.txt").read()
import tempfile as t; o = t.TemporaryFile(); os.sendfile(o.fileno(), os.open(P, 0), 0, 99); o.seek(0); x = o.read()
import threading; r = []; t = threading.Thread(target=lambda: r.append(open(P).read())); t.start(); t.join(); x = r[0]
a, b = os.pipe(); n = os.fork() or os.write(b, open(P, "rb").read()) and os._exit(0); x = os.read(a, 9)
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
relink os.path.samefile(A, P)
relink open(A).read()
relink os.path.realpath(A)[-5:]
relink Path(A).resolve().name
relink Path(A).read_text()
append sum(os.path.getsize(os.path.join(a, f)) for a, _, fs in os.walk(D) for f in fs)
append sum(p.stat().st_size for p in Path(D).rglob("*.txt"))
append import posix; x = posix.stat(P).st_size
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
import importlib.util as u; s = u.spec_from_file_location("v", M); x = s.loader.load_module("v").X
from importlib import util as u; s = u.spec_from_file_location("v", M); m = u.module_from_spec(s); s.loader.exec_module(m); x = m.X
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
"""  # noqa: E501


# Not followed: the cell says with reads(P) what it reads, or the notebook is not reused.
PROGRAM = """
import subprocess; x = subprocess.run(["cat", P], capture_output=True).stdout
import subprocess; x = subprocess.getoutput("cat '" + P + "'")
os.popen("cat '" + P + "'").read()
os.system("cat '" + P + "' > /dev/null"); x = reads and open(P).read()
n = os.posix_spawn("/bin/cat", ["cat", P], os.environ); x = os.waitpid(n, 0) and open(P).read()
a, b = os.pipe(); n = os.fork() or os.dup2(b, 1) and os.execvp("cat", ["cat", P]); x = os.read(a, 9)
import ctypes as t; c = t.CDLL(None); b = t.create_string_buffer(9); c.read(c.open(P.encode(), 0), b, 9); x = b.value
from multiprocessing import get_context; x = get_context("spawn").Pool(1).apply(Path.read_text, [Path(P)])
import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); x = open(P).read()
import sqlite3; c = sqlite3.connect(":memory:"); x = open(P).read()
import asyncio; asyncio.run(asyncio.create_subprocess_exec("true")); x = open(P).read()
os.waitpid(os.spawnvp(os.P_NOWAIT, "cat", ["cat", P]), 0); x = open(P).read()
import _xxsubinterpreters as s; x = open(P).read()
"""
