"""Every cell and snippet that the site shows can be had "with what it needs": one script, which here runs by itself.

A script starts from a process that has imported torch and done nothing else, and must come to what the whole notebook
came to: the same published numbers, to the last digit that floats agree on, the same text and the same figures.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from weave.site.opened import rendered_site

from weave.book.book import Site
from weave.note import snippets
from weave.run import provenance
from weave.run.claim import CLAIM_MIME
from weave.run.slices import pieces, script
from weave.run.store import Run, digest, kept

ROOT = Path(__file__).resolve().parents[2]
EVERY = 6  # of how many cells one runs by itself in `make test`
MEASURED = {"right_is_faster_capped_at_10"}  # a time, which is another one each time
NOTEBOOKS = sorted((ROOT / "code/notebooks").glob("*.py"))

# Runs scripts that begin alike together and forks where they part: to each it is a clean process, and what they have in
# common (a training, mostly) runs once. All have all imports and functions of their notebook at hand; that none uses
# one that it does not bring along is tested apart, without running anything.
SERVER = r"""
import contextlib, io, json, os, sys, traceback
import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot, numpy, torch
from torch.nn import functional

matplotlib.pyplot.show = lambda *a, **k: None
out, names = io.StringIO(), {"__name__": "__main__"}

def report(numbers, error):
    figures = len(matplotlib.pyplot.get_fignums())
    for number in numbers:
        line = json.dumps({"number": number, "text": out.getvalue(), "error": error, "figures": figures}) + "\n"
        with open(sys.argv[1] + f"/{number}", "w") as file:
            file.write(line)

def go(group, depth):
    ways = {}
    for number in group:
        ways.setdefault(scripts[number][depth], []).append(number)
    for i, (piece, numbers) in enumerate(ways.items()):
        if child := os.fork() if i < len(ways) - 1 else 0:
            os.waitpid(child, 0)
            continue
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
                exec(compile(piece, "script", "exec"), names)
        except BaseException:
            report(numbers, traceback.format_exc())
            os._exit(0)
        done = [number for number in numbers if len(scripts[number]) == depth + 1]
        report(done, "")
        if rest := [number for number in numbers if number not in done]:
            go(rest, depth + 1)
        os._exit(0)

scripts, free = json.load(sys.stdin)
for piece in free:
    exec(compile(piece, "script", "exec"), names)
go(range(len(scripts)), 0)
"""


@pytest.fixture(scope="module")
def site() -> Site:
    with contextlib.chdir(ROOT):
        return rendered_site()


def is_free(piece: str) -> bool:
    """Whether a statement only imports or defines a function: having it changes nothing."""
    (node,) = ast.parse(piece).body
    plain = isinstance(node, ast.FunctionDef) and not (node.decorator_list or node.args.defaults)
    return plain or isinstance(node, ast.Import | ast.ImportFrom)


def without_annotations(piece: str) -> str:
    """They are evaluated where a function is defined, and may name what comes later in the notebook."""
    tree = ast.parse(piece)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
    return ast.unparse(tree)


def results(scripts: list[list[str]], folder: Path) -> list[dict[str, Any]]:
    """What each script gave: its text, its error, how many figures."""
    env = {**os.environ, "MATPLOTLIBRC": str(ROOT / "code/weave/run/weave.matplotlibrc"), "TQDM_DISABLE": "1"}
    env |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # as notebooks run
    free = [piece for script in scripts for piece in script[:-1] if is_free(piece)]
    imports_first = sorted(dict.fromkeys(free), key=lambda piece: not piece.startswith(("import ", "from ")))
    others = [[*(piece for piece in script[:-1] if not is_free(piece)), script[-1]] for script in scripts]
    done = subprocess.run(
        [sys.executable, "-c", SERVER, folder],
        input=json.dumps([others, [without_annotations(piece) for piece in imports_first]]),
        capture_output=True,
        text=True,
        cwd=ROOT / "code/notebooks",
        env=env,
    )
    assert not done.stderr, done.stderr
    return [json.loads((folder / str(number)).read_text()) for number in range(len(scripts))]


def numbers(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", text)]


@pytest.fixture(scope="module")
def given(
    site: Site, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> dict[str, dict[int, dict[str, Any]]]:
    """What the script of each chosen cell of each notebook gave: every cell weekly, a few in `make test`."""
    weekly = pytestconfig.getoption("--hypothesis-profile") == "weekly"

    def all_of(path: Path) -> dict[int, dict[str, Any]]:
        run = site.run_of(path.relative_to(ROOT).as_posix())
        assert isinstance(run, Run)
        sources = [cell.source for cell in run.notebook.code]
        chosen = range(len(sources)) if weekly else range(2, len(sources), EVERY)
        scripts = [pieces(sources[:i], sources[i]) for i in chosen]
        # Minutes for all; kept as long as the scripts and all that the notebook reads are the same.
        asked = json.dumps([scripts, SERVER, run.inputs], sort_keys=True).encode()
        make = lambda: json.dumps(results(scripts, tmp_path_factory.mktemp(path.stem)))  # noqa: E731
        return dict(
            zip(chosen, json.loads(kept(ROOT / ".cache/weave/scripts" / path.stem, digest(asked), make)), strict=True)
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip([path.stem for path in NOTEBOOKS], pool.map(all_of, NOTEBOOKS), strict=True))


@pytest.mark.weekly  # minutes, since the notebooks look at a real model
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_cell_with_what_it_needs_computes_what_the_notebook_did(
    site: Site, given: dict[str, dict[int, dict[str, Any]]], path: Path
) -> None:
    run = site.run_of(path.relative_to(ROOT).as_posix())
    assert isinstance(run, Run)
    cells = run.notebook.code
    for i, result in given[path.stem].items():
        cell, outputs = cells[i], run.outputs[i]
        where = f"{path.name}#{cell.name or f'cell-{i + 1}'}"
        code = script([one.source for one in cells[:i]], cell.source)
        assert not result["error"], f"{where} with what it needs:\n{code}\n{result['error']}"
        said = dict(line.split(" = ", 1) for line in result["text"].splitlines() if re.match(r"\w+ = ", line))
        for output in outputs:
            for key, value in output.get("data", {}).get(CLAIM_MIME, {}).items():
                if key in MEASURED:
                    continue
                expected = numbers(" of ".join(map(str, value)) if isinstance(value, list) else str(value))
                assert numbers(said[key]) == pytest.approx(expected, rel=1e-6, abs=1e-9), f"{where}: {key}"
        figures = sum("image/svg+xml" in output.get("data", {}) for output in outputs)
        assert result["figures"] >= figures, f"{where} draws {result['figures']} of {figures} figures"


def test_a_script_brings_every_name_that_it_uses(site: Site, tmp_path: Path) -> None:
    for run in site.last_good.values():
        for number in range(len(run.notebook.code)):
            name = provenance.name_of(run.notebook.code[number], number)
            (tmp_path / f"{run.notebook.stem}-{name}.py").write_text(provenance.script_of(run, number))
    for note in sorted((ROOT / "docs/notes").glob("*.md")):
        found = snippets.find(note.read_text(), ["numpy", "einops"])
        for one in found:
            (tmp_path / f"{note.stem}-{one.number}.py").write_text(snippets.script_of(found, one.number))
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,E9", "--ignore-noqa", "--quiet"]
    said = subprocess.run([*ruff, "--output-format", "concise", str(tmp_path)], capture_output=True, text=True)
    shapes = re.compile(r"Undefined name `(batch|pos|d_\w+|query|key|head\w*|layer|\w+ed|\w+)` .*jaxtyping")
    assert [line for line in said.stdout.splitlines() if not shapes.search(line)] == []


@pytest.mark.parametrize("note", sorted((ROOT / "docs/notes").glob("*.md")), ids=lambda path: path.stem)
def test_a_snippet_with_what_it_needs_runs_alone(note: Path, tmp_path: Path) -> None:
    found = snippets.find(note.read_text(), ["numpy", "einops"])
    recorded = snippets.record(tmp_path, found, ["numpy", "einops"])
    for one in found:
        if one.live:
            done = subprocess.run(
                [sys.executable, "-"], input=snippets.script_of(found, one.number), capture_output=True, text=True
            )
            where = f"{note.name}, snippet {one.number}"
            assert done.returncode == 0, f"{where}:\n{done.stderr}"
            assert not recorded[one.number]["error"], recorded[one.number]["error"]
            assert done.stdout.endswith(recorded[one.number]["text"]), where
