"""Rules for the layout of the repository: what may be where, and what may import what.

Each rule is a function from a folder to a list of violations. The tests check that this repository has none, and that
each rule finds the violation in a small repository made to break it.
"""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")

LOCKS = {"requirements.lock", "requirements-node.lock", "package-lock.json"}
LARGEST = 500_000  # bytes; far more than any file written by hand
LARGEST_WEIGHTS = 9_000_000  # of a checkpoint: the largest has 4.3 million parameters, two bytes each
BINARY_ALLOWED = {
    ".safetensors",
    ".png",
    ".woff2",
}  # our own weights and figures
VENDORED = re.compile(r"(^|/)(vendor|third_party|node_modules|site-packages)/|\.min\.(js|css)$|\.bundle\.js$")
PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".joblib", ".npy", ".npz", ".ckpt"}


IMPORTERS = {"__import__", "import_module", "importlib.import_module"}


def tracked(root: Path) -> list[Path]:
    """Return every file that git tracks, or would after the next `git add`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return sorted(root / name for name in set(listed.split("\0")) if name and (root / name).is_file())


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, top-level package) of each absolute import, anywhere in a Python file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in IMPORTERS:
            yield from ((node.lineno, ast.unparse(name).strip("'\"").partition(".")[0]) for name in node.args[:1])


def code_is_no_package(root: Path) -> list[str]:
    """Find an `__init__.py` in `code`: pdb and pytest would import it instead of the standard library's module."""
    return [f"code/{name}" for name in ("__init__.py", "__main__.py") if (root / "code" / name).exists()]


def no_standard_names(root: Path) -> list[str]:
    """Find modules that hide one of the standard library: code/ and notebooks' folders are on sys.path."""
    modules = [
        path
        for folder in (root / "code", root / "code/notebooks")
        for path in sorted(folder.iterdir())
        if path.suffix == ".py" or any(path.glob("*.py"))
    ]
    return [str(path.relative_to(root)) for path in modules if path.stem in sys.stdlib_module_names]


def packages_are_free_of_each_other(root: Path) -> list[str]:
    """Find imports between weave and residual, or of a notebook: weave could serve any site; residual needs none."""
    forbidden = {"weave": {"residual", "notebooks"}, "residual": {"weave", "notebooks"}}
    return [
        f"{path.relative_to(root)}:{line}: imports {name}"
        for package, names in forbidden.items()
        for path in sorted((root / "code" / package).rglob("*.py"))
        for line, name in imports(path)
        if name in names
    ]


ROOMS = {
    "residual": ["", "files", "methods", "training", "experiments", "cli"],
    "weave": ["source", "run", "note", "book", "site", "serve", "author", "cli"],
}
"""The rooms of each package, from the bottom up; "" stands for the modules at its top level."""


def no_room_looks_up(root: Path) -> list[str]:
    """Find imports from a higher room than a module's own, and circles of imports."""
    broken = []
    for package, rooms in ROOMS.items():
        folder = root / "code" / package
        modules = {
            ".".join((package, *path.relative_to(folder).with_suffix("").parts)): path
            for path in sorted(folder.rglob("*.py"))
            if path.name != "__init__.py"
        }

        def room(module: str, rooms: list[str] = rooms) -> str:
            part = module.split(".")[1]
            return part if part in rooms else ""

        needs: dict[str, set[str]] = {}
        for module, path in modules.items():
            needs[module] = set()
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module:
                    named = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                elif isinstance(node, ast.Import):
                    named = [alias.name for alias in node.names]
                else:
                    continue
                for other in modules.keys() & set(named) - {module}:
                    needs[module].add(other)
                    if rooms.index(room(other)) > rooms.index(room(module)):
                        broken.append(f"{path.relative_to(root)}:{node.lineno}: imports {other}, of a room above it")
        while free := [module for module, others in needs.items() if not others & needs.keys()]:
            for module in free:
                del needs[module]
        if needs and not broken:
            broken.append(f"code/{package}: {', '.join(sorted(needs))} import each other in a circle")
    return broken


KEPT_TO = {"mkdocs": {"site", "serve"}, "click": {"author", "cli.py"}}
"""The only rooms of weave that may import a library, so that another site generator would change only two rooms."""


def libraries_keep_to_their_rooms(root: Path) -> list[str]:
    folder = root / "code/weave"
    return [
        f"{path.relative_to(root)}:{line}: imports {name}"
        for path in sorted(folder.rglob("*.py"))
        for line, name in imports(path)
        if name in KEPT_TO and path.relative_to(folder).parts[0] not in KEPT_TO[name]
    ]


def notebooks_are_plain_python(root: Path) -> list[str]:
    """Find notebooks that are not percent-format Python without a jupytext header, and .ipynb files."""
    broken = [f"{path.relative_to(root)}: an .ipynb" for path in tracked(root) if path.suffix == ".ipynb"]
    for path in tracked(root):
        if path.parent != root / "code/notebooks" or path.suffix == ".ipynb":
            continue
        text = path.read_text("utf-8")
        first = next((line for line in text.splitlines() if line.strip()), "")
        if path.suffix != ".py":
            broken.append(f"{path.relative_to(root)}: not a .py")
        elif re.search(r"^# (---|jupyter:|  jupytext:)\s*$", text, re.MULTILINE):
            broken.append(f"{path.relative_to(root)}: a jupytext header")
        elif not first.startswith("# %%"):
            broken.append(f"{path.relative_to(root)}: does not begin with a cell (# %%)")
    return broken


def nothing_foreign_is_committed(root: Path) -> list[str]:
    """Find vendored, minified, pickled, binary or huge files: other people's code comes from the lock files."""
    broken = []
    for path in tracked(root):
        name = path.relative_to(root).as_posix()
        data = path.read_bytes()
        if VENDORED.search(name):
            broken.append(f"{name}: vendored or minified")
        elif path.suffix in PICKLES:
            broken.append(f"{name}: a pickle, or an array file that may hold one; weights are .safetensors")
        elif len(data) > (limit := LARGEST_WEIGHTS if path.suffix == ".safetensors" else LARGEST):
            broken.append(f"{name}: {len(data)} bytes; the limit is {limit}")
        elif b"\0" in data and path.suffix not in BINARY_ALLOWED:
            broken.append(f"{name}: binary")
        elif path.suffix in {".js", ".mjs", ".cjs", ".css", ".html"}:
            longest = max(map(len, data.splitlines()), default=0)
            if longest > 400:
                broken.append(f"{name}: a line of {longest} characters looks minified")
    return broken


def no_pickle_is_loaded(root: Path) -> list[str]:
    """Find imports of modules that load pickles, because loading a pickle can run code."""
    return [
        f"{path.relative_to(root)}:{line}: imports {name}"
        for path in tracked(root)
        if path.suffix == ".py"
        for line, name in imports(path)
        if name in {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}
    ]


def locks_name_no_registry(root: Path) -> list[str]:
    """Find addresses in the lock files, which pin names, versions and hashes; each machine chooses its registry."""
    address = re.compile(r'^\s*"resolved"|^(-i|-f|--(?!hash))|@ (file|https?):|file://')
    installed_apart = re.compile(r"(torch|nvidia-|cuda-|triton)\b")
    return [
        f"{name}:{number}: {line.strip()}"
        for name in sorted(LOCKS)
        if (root / name).exists()
        for number, line in enumerate((root / name).read_text("utf-8").splitlines(), start=1)
        if address.search(line) or installed_apart.match(line)
    ]


PLAIN = ["code/residual", "code/weave", "code/live", "benchmarks", "tests"]
"""The folders and files whose docstrings begin with an imperative or a noun."""

CLAUSE = re.compile(r"(What|Whether|Where|Which|Who|Whose|When|Why|How|Of|That|As)\b")


def docstrings_begin_plainly(root: Path) -> list[str]:
    """Find docstrings that begin with a clause ("What is …", "Whether …") instead of an imperative or a noun."""
    matches = [match for pattern in PLAIN for match in sorted(root.glob(pattern))]
    files = [path for match in matches for path in (sorted(match.rglob("*.py")) if match.is_dir() else [match])]
    return [
        f"{path.relative_to(root)}:{node.body[0].lineno}: {docstring.splitlines()[0]}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if CLAUSE.match(docstring := ast.get_docstring(node) or "")
    ]


def files_and_classes_are_short(root: Path) -> list[str]:
    """Find files of over 390 lines and classes of over 200 in the two packages and beside them."""
    long = []
    for folder in ("code/residual", "code/weave", "code/live", "benchmarks"):
        for path in sorted((root / folder).rglob("*.py")):
            text, name = path.read_text("utf-8"), path.relative_to(root)
            long += [f"{name}:1: {count} lines"] if (count := text.count("\n")) > 390 else []
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ClassDef) and (size := (node.end_lineno or 0) - node.lineno + 1) > 200:
                    long.append(f"{name}:{node.lineno}: {node.name} has {size} lines")
    return long


RULES: list[Callable[[Path], list[str]]] = [
    code_is_no_package,
    no_standard_names,
    packages_are_free_of_each_other,
    no_room_looks_up,
    libraries_keep_to_their_rooms,
    notebooks_are_plain_python,
    nothing_foreign_is_committed,
    no_pickle_is_loaded,
    locks_name_no_registry,
    docstrings_begin_plainly,
    files_and_classes_are_short,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_this_repository_keeps_the_rule(rule: Callable[[Path], list[str]]) -> None:
    assert rule(ROOT) == []


@pytest.mark.parametrize(
    ("rule", "name", "content"),
    [
        (code_is_no_package, "code/__init__.py", ""),
        (no_standard_names, "code/token.py", ""),
        (no_standard_names, "code/queue/thing.py", ""),
        (
            packages_are_free_of_each_other,
            "code/weave/note/page.py",
            "def f():\n    from residual.plot import table\n",
        ),
        (packages_are_free_of_each_other, "code/residual/a/b.py", "import weave.claims as c"),
        (packages_are_free_of_each_other, "code/residual/c.py", "__import__('weave')"),
        (no_room_looks_up, "code/residual/files/blobs.py", "def f():\n    from residual.methods import fold\n"),
        (no_room_looks_up, "code/residual/methods/fold.py", "import residual.cli"),
        (no_room_looks_up, "code/weave/note/links.py", "from weave.book.book import Book"),
        (no_room_looks_up, "code/weave/run/kernel.py", "import weave.serve.server"),
        (no_room_looks_up, "code/residual/taps.py", "from residual.model import Config"),
        (libraries_keep_to_their_rooms, "code/weave/note/links.py", "def f():\n    from mkdocs.utils import meta\n"),
        (libraries_keep_to_their_rooms, "code/weave/serve/watch.py", "import click"),
        (notebooks_are_plain_python, "code/notebooks/old.ipynb", "{}"),
        (
            notebooks_are_plain_python,
            "code/notebooks/a.py",
            "# ---\n# jupyter:\n#   jupytext:\n# ---\n# %%\n",
        ),
        (notebooks_are_plain_python, "code/notebooks/b.py", "import torch\n"),
        (nothing_foreign_is_committed, "docs/assets/d3.min.js", "x"),
        (nothing_foreign_is_committed, "docs/assets/d3.js", "x=1;" * 200),
        (nothing_foreign_is_committed, "code/checkpoints/m.pt", "x"),
        (nothing_foreign_is_committed, "docs/assets/movie.mp4", "a\0b"),
        (nothing_foreign_is_committed, "docs/notes/long.md", "word " * 200_000),
        (no_pickle_is_loaded, "tests/test_x.py", "import pickle"),
        (locks_name_no_registry, "requirements.lock", "--index-url https://example.org/simple\n"),
        (locks_name_no_registry, "requirements.lock", "torch==2.13.0\n"),
        (docstrings_begin_plainly, "code/residual/scope.py", 'def f():\n    """Whether it is."""\n'),
        (files_and_classes_are_short, "code/weave/cli.py", "\n" * 391),
        (files_and_classes_are_short, "code/weave/cli.py", "class A:\n" + "    x = 1\n" * 200),
        (docstrings_begin_plainly, "tests/test_x.py", '"""What is\nhere."""\n'),
        (locks_name_no_registry, "package-lock.json", '  "resolved": "https://example.org/katex.tgz",\n'),
    ],
)
def test_the_rule_finds_what_breaks_it(
    rule: Callable[[Path], list[str]], name: str, content: str, tmp_path: Path
) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for folder in ("code/weave", "code/residual", "code/notebooks"):
        (tmp_path / folder).mkdir(parents=True)
    for module in ("model", "cli", "methods/fold"):
        (tmp_path / f"code/residual/{module}.py").parent.mkdir(exist_ok=True)
        (tmp_path / f"code/residual/{module}.py").write_text("import residual.taps")
    for module in ("book/book", "serve/server"):
        (tmp_path / f"code/weave/{module}.py").parent.mkdir(exist_ok=True)
        (tmp_path / f"code/weave/{module}.py").write_text("import weave.source.problem")
    assert rule(tmp_path) == []
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content, "utf-8")
    violations = rule(tmp_path)
    assert len(violations) == 1 and violations[0].startswith("/".join(name.split("/")[:2]))


@pytest.mark.parametrize("statement", ["import code; code.InteractiveConsole", "import pdb, doctest; pdb.Pdb"])
def test_the_standard_library_s_code_still_imports(statement: str) -> None:
    """The repository's root, with a folder named code, comes first on sys.path here."""
    ran = subprocess.run([sys.executable, "-c", statement], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_the_two_commands_are_the_first_thing_in_the_readme() -> None:
    start = README[: README.index("\n## ")]
    assert re.search(r"git clone .*\n(cd .*\n)?make serve\b", start) and "make test" in start
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {"serve", "test", "site", "check", "run", "fix", "lock", "bench", "clean", "help"} <= targets
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE)) <= targets


def test_what_the_readme_links_to_is_there() -> None:
    """README's examples of the link syntax are real links, as in a note."""
    examples = re.findall(r"`!?\[[^]]+\]\((?:\.\./\.\./)?([^)#?]*)(?:\?code)?(?:#(=?)([\w-]+))?\)", README)
    assert len(examples) >= 6
    for path, value, name in examples:
        text = (ROOT / (path or "code/notebooks/zero_layer.py")).read_text("utf-8")
        pattern = rf"\b{name}=" if value else rf"^(def {name}\(|# %% {name}$)"
        assert not name or re.search(pattern, text, re.MULTILINE), f"{path} has no {name}"


def test_the_licenses_are_stated() -> None:
    assert (ROOT / "LICENSE").read_text("utf-8").startswith("MIT License")
    notes = (ROOT / "LICENSE-notes.md").read_text("utf-8")
    assert "CC BY 4.0" in notes and "https://creativecommons.org/licenses/by/4.0/" in notes


def test_npm_packages_are_pinned_exactly() -> None:
    package = json.loads((ROOT / "package.json").read_text("utf-8"))
    versions = {**package.get("dependencies", {}), **package.get("devDependencies", {})}
    assert versions and all(re.fullmatch(r"\d+\.\d+\.\d+(-[\w.-]+)?", version) for version in versions.values())
