"""The generated book: the same prose, formulas, cells and helper module for each tool, in the syntax that it documents.

Ours does more in each build: every note embeds its notebook's figure and checks one number against it.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from peers import ROOT

TEXT = """a head reads from the stream what earlier heads wrote and adds its own result so that each later layer
sees the sum of all of them which is why paths can be counted and compared and why the weights of two heads may be
multiplied into one matrix whose singular values say how much of it matters"""


@dataclass(frozen=True)
class Corpus:
    notes: int = 12
    """As many notebooks."""
    formulas: int = 40
    """In each note."""
    cells: int = 10
    """In each notebook."""

    def __str__(self) -> str:
        notes = f"{self.notes} notes of {self.formulas} formulas"
        return f"{notes}, {self.notes} notebooks of {self.cells} cells"

    def note(self, number: int, inline: str, display: str, extra: str = "") -> str:
        """Return about 900 words with formulas, one in four of them displayed.

        ``inline`` and ``display`` are a tool's two forms of a formula, with one ``%s``.
        """
        rng = random.Random(number)
        parts = [f"# Note {number}", extra]
        for index in range(self.formulas):
            words = " ".join(rng.choices(TEXT.split(), k=900 // self.formulas))
            tex = rf"\sum_{{i={number}}}^{{n}} W_{{{index}}}^{{\top}} \frac{{x_i + {index}}}{{\sqrt{{d_{{{number}}}}}}}"
            if index % 8 == 0:
                parts.append(f"## Part {index // 8 + 1}")
            parts.append(f"{words}.\n\n{display % tex}" if index % 4 == 3 else f"{words} {inline % tex}.")
        return "\n\n".join(part for part in parts if part) + "\n"

    def notebook(self, number: int) -> list[tuple[str, str]]:
        """Return name and code of each cell: the first uses the helper module, the last draws."""
        first = (
            "import os\n\nimport helper\nimport matplotlib.pyplot as plt\nimport numpy as np\n\n"
            'with open(os.environ["BENCH_RUNS"], "a") as runs:\n    runs.write(f"{__import__(\'time\').time()}\\n")\n'
            f'print("answer", helper.answer({number}))'
        )
        cells = [("answer", first)]
        for index in range(1, self.cells):
            cells.append(
                (f"cell-{index}", f"x = np.random.default_rng({index}).normal(size=1000)\nprint(x.mean() + {number})")
            )
        return [*cells, ("figure", "plt.plot(np.cumsum(x))\nplt.show()")]

    def helper(self, base: int) -> str:
        return f"def answer(number):\n    return {base} + number\n"


QUICK = Corpus(2, 4, 3)
"""To see that everything runs."""


class Project:
    """The book as a project of one tool, in a folder of its own."""

    name = ""
    inline, display = "$`%s`$", "```math\n%s\n```"  # markdown-katex's own syntax, which weave reads too

    def __init__(self, corpus: Corpus, folder: Path, python: Path) -> None:
        self.corpus, self.folder, self.python = corpus, folder, python
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "lib").mkdir(parents=True)
        (folder / ".tmp").mkdir()
        self.base = 41_000
        """What the helper module adds; ``edit`` raises it."""
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SITE_", "REPO_"))},
            "PATH": self.path(),
            "PYTHONPATH": str(folder / "lib"),
            "BENCH_RUNS": str(folder / ".tmp" / "runs"),
            "TMPDIR": str(folder / ".tmp"),  # markdown-katex caches there
            "NO_MKDOCS_2_WARNING": "1",
            "JUPYTER_PLATFORM_DIRS": "1",
        }
        self.write("lib/helper.py", corpus.helper(self.base))
        self.create()

    # what each tool says

    def create(self) -> None:
        """Write the project's files."""
        raise NotImplementedError

    def path(self) -> str:
        """Return the programs that the tool finds: nothing but its own environment.

        markdown-katex looks for KaTeX with `npx` once per formula, also for formulas it has cached, which takes about
        a second each wherever npx is on PATH (mbarkhau/markdown-katex issue 22).
        """
        return str(self.python.parent)

    def command(self) -> list[str]:
        """Return the command that builds the site."""
        return [str(self.python), "-m", "mkdocs", "build", "--quiet"]

    def note(self, number: int) -> str:
        return f"docs/notes/note{number:02}.md"

    def notebook(self, number: int) -> str:
        return f"docs/notebooks/nb{number:02}.ipynb"

    def page(self, number: int) -> Path:
        """Return the built page of a notebook."""
        return self.folder / f"site/notebooks/nb{number:02}/index.html"

    # what they share

    @property
    def numbers(self) -> range:
        return range(1, self.corpus.notes + 1)

    def write(self, path: str, text: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def read(self, path: str) -> str:
        return (self.folder / path).read_text(encoding="utf-8")

    def write_pages(self) -> None:
        """Write the home page, and each note and notebook as Jupyter has it."""
        self.write("docs/index.md", "# Home\n")
        for number in self.numbers:
            self.write(self.note(number), self.corpus.note(number, self.inline, self.display))
            self.write(self.notebook(number), ipynb(self.corpus.notebook(number)))

    def edit(self, scenario: str, turn: int, number: int = 1) -> str:
        """Make an edit that no other build has seen; return the text that a page must show afterwards.

        - prose: a sentence is added to a note
        - cell: a cell of a notebook computes something that stands nowhere in its code
        - module: the helper module, which all notebooks import, gives another number
        """
        if scenario == "prose":
            path, new = self.note(number), f"Read for the {turn}th time."
            text = self.read(path) + f"\n{new}\n"
        elif scenario == "cell":
            path, new = self.notebook(number), str(1_000_001 * turn)
            before, call, after = self.read(path).rpartition("print(x.mean()")
            text = before + call + re.sub(r"^[^)]*", f" + {number}, 1_000_001 * {turn}", after, count=1)
        else:
            self.base += 1_000
            path, new = "lib/helper.py", f"answer {self.base + number}"
            text = self.corpus.helper(self.base)
        self.write(path, text)
        return new


MKDOCS = """\
site_name: Benchmark
theme: {{ name: material, font: false }}
plugins:
  - search
{plugins}
markdown_extensions:
  - tables
  - toc: {{ permalink: true }}
  - pymdownx.highlight
  - pymdownx.superfences
{extensions}
"""
_JUPYTER = "  - mkdocs-jupyter: {include: ['*.ipynb'], ignore: ['*.md'], execute: false, allow_errors: false}"


class Ours(Project):
    """MkDocs, Material, mkdocs-jupyter for the pages, weave for everything else."""

    name = "ours"

    def command(self) -> list[str]:
        """Return what ``make site`` runs, which builds nothing where nothing changed."""
        return [str(self.python), "-m", "weave.cli", "build"]

    def create(self) -> None:
        # this weave and no other; and as in our own mkdocs.yml, the slow module is imported beforehand
        self.env["PYTHONPATH"] = os.pathsep.join([self.env["PYTHONPATH"], str(ROOT / "code")])
        weave = "  - weave: {notebooks: notebooks, sources: [lib], modules: [matplotlib.pyplot]}"
        self.write("mkdocs.yml", MKDOCS.format(plugins=f"{_JUPYTER}\n{weave}", extensions="  - weave\n  - weave.math"))
        self.write("docs/index.md", "# Home\n")
        (self.folder / "node_modules").symlink_to(ROOT / "node_modules")
        for number in self.numbers:
            extra = (
                f"There are [{number}](../../notebooks/nb{number:02}.py#=number) of them.\n\n"
                f"![A random walk of a thousand steps.](../../notebooks/nb{number:02}.py#figure)"
            )
            self.write(self.note(number), self.corpus.note(number, self.inline, self.display, extra))
            cells = self.corpus.notebook(number)
            cells[1] = ("number", f"{cells[1][1]}\nfrom weave import claim\nclaim(number={number})")
            self.write(self.notebook(number), "\n\n".join(f"# %% {name}\n{code}" for name, code in cells) + "\n")

    def path(self) -> str:
        return os.environ["PATH"]

    def notebook(self, number: int) -> str:
        return f"notebooks/nb{number:02}.py"


class WithoutNotebooks(Ours):
    """Our notes alone, without embeds and claims."""

    def create(self) -> None:
        super().create()
        shutil.rmtree(self.folder / "notebooks")
        for number in self.numbers:
            self.write(self.note(number), self.corpus.note(number, self.inline, self.display))


class WithoutMath(WithoutNotebooks):
    """The same words and the same TeX, as code instead of formulas."""

    name = "no math"
    inline, display = "`%s`", "```text\n%s\n```"


class WithoutWeave(Ours):
    """Our site without our plugin: formulas stay TeX, and notebooks that were executed are pages by mkdocs-jupyter."""

    name = "without weave"

    def create(self) -> None:
        super().create()
        self.write("mkdocs.yml", MKDOCS.format(plugins=_JUPYTER, extensions=""))

    def take_notebooks(self, ours: Ours) -> None:
        (self.folder / "docs/notebooks").mkdir()
        for path in (ours.folder / "site/notebooks").glob("*/*.ipynb"):
            shutil.copy(path, self.folder / "docs/notebooks" / path.name)


class Stock(Project):
    """MkDocs, Material, mkdocs-jupyter running the notebooks, markdown-katex; as their manuals set them up."""

    name = "stock"

    def create(self) -> None:
        plugins, extensions = "  - mkdocs-jupyter: {execute: true}", "  - markdown_katex"
        self.write("mkdocs.yml", MKDOCS.format(plugins=plugins, extensions=extensions))
        self.write_pages()


class Book(Project):
    """Jupyter Book 1 with `execute_notebooks: cache`."""

    name = "book"
    inline, display = "$%s$", "$$\n%s\n$$"

    def create(self) -> None:
        execute = "execute: {execute_notebooks: cache}"
        self.write("docs/_config.yml", f"title: Benchmark\n{execute}\nonly_build_toc_files: true\n")
        files = [f"{kind}{n:02}" for kind in ("notes/note", "notebooks/nb") for n in self.numbers]
        chapters = "".join(f"- file: {file}\n" for file in files)
        self.write("docs/_toc.yml", f"format: jb-book\nroot: index\nchapters:\n{chapters}")
        self.write_pages()

    def command(self) -> list[str]:
        return [str(self.python.parent / "jupyter-book"), "build", "--quiet", "docs"]

    def page(self, number: int) -> Path:
        return self.folder / f"docs/_build/html/notebooks/nb{number:02}.html"


class Myst(Project):
    """mystmd with a theme of no content, without which not even its content server starts."""

    name = "myst"
    inline, display = "$%s$", "$$\n%s\n$$"

    def create(self) -> None:
        files = ["docs/index.md", *map(self.note, self.numbers), *map(self.notebook, self.numbers)]
        toc = "".join(f"    - file: {file}\n" for file in files)
        self.write("myst.yml", f"version: 1\nproject:\n  title: Benchmark\n  toc:\n{toc}site:\n  template: theme\n")
        install = "build:\n  install: 'true'\n  start: 'true'\n"
        self.write("theme/template.yml", f"jtex: v1\ntitle: None\nversion: 1.0.0\n{install}parts: []\noptions: []\n")
        self.write_pages()
        beside = self.folder.with_name("myst-tmp")  # its server watches everything in the project
        beside.mkdir(exist_ok=True)
        self.env.update(BENCH_RUNS=str(beside / "runs"), TMPDIR=str(beside))
        if os.getuid() == 0:  # where Jupyter's server refuses to start, mystmd leaves out every output
            self.write("jupyter/jupyter_server_config.py", "c.ServerApp.allow_root = True\n")
            self.env["JUPYTER_CONFIG_DIR"] = str(self.folder / "jupyter")

    def path(self) -> str:
        node = [str(Path(found).parent)] if (found := shutil.which("node")) else []
        return os.pathsep.join([super().path(), *node])


def ipynb(cells: list[tuple[str, str]]) -> str:
    """Return cells as a notebook file without outputs."""
    code = [
        {"cell_type": "code", "id": name, "metadata": {}, "execution_count": None, "outputs": [], "source": source}
        for name, source in cells
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return json.dumps({"cells": code, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}, indent=1)
