"""The places of a repository's parts, and the addresses that lead from one page of its site to another."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from weave.source.problem import Refused


@dataclass(frozen=True)
class Layout:
    """Paths relative to the repository's root, with forward slashes."""

    root: Path
    docs: str = "docs"
    notebooks: str = "code/notebooks"
    sources: tuple[str, ...] = ("tests", "code")
    """Folders of Python files that a note may link to."""

    def read(self, path: str) -> str:
        return (self.root / path).read_text(encoding="utf-8")

    labs = "code/labs"
    """Folder of the checks of labs."""
    models = "code/checkpoints"
    """Folder of the weights, safetensors files, that labs may ask for."""

    @property
    def glossary(self) -> str:
        return f"{self.docs}/pages/glossary.md"

    def notebook_of(self, path: str) -> str:
        """Return the notebook of a note's own name (``notes/a-b.md``: ``a_b.py``); of a notebook, itself."""
        return path if self.is_notebook(path) else f"{self.notebooks}/{Path(path).stem.replace('-', '_')}.py"

    def checks_of(self, path: str) -> str:
        """Return the checks of a note's labs (``notes/a-b.md``: ``a_b.py``)."""
        return f"{self.labs}/{Path(path).stem.replace('-', '_')}.py"

    def page_uri(self, path: str) -> str | None:
        """The page, as a path under docs/, that shows a file of the repository; None where none does."""
        if path.startswith(f"{self.docs}/"):
            return path.removeprefix(f"{self.docs}/")
        if self.is_notebook(path):
            return f"notebooks/{Path(path).stem}.ipynb"
        if self.is_source(path):
            return f"source/{path}.md"
        return None

    def is_notebook(self, path: str) -> bool:
        return posixpath.dirname(path) == self.notebooks and path.endswith((".py", ".ipynb"))

    def is_source(self, path: str) -> bool:
        return (
            path.endswith(".py")
            and not self.is_notebook(path)
            and any(path.startswith(f"{folder}/") for folder in self.sources)
        )

    def source_files(self) -> list[str]:
        """The Python files that get a page: tests and the modules that notebooks import."""
        found = (path for folder in self.sources for path in (self.root / folder).rglob("*.py"))
        names = (path.relative_to(self.root).as_posix() for path in found)
        return sorted(name for name in names if self.is_source(name) and "__pycache__" not in name)


def layout_here() -> Layout:
    """Read the layout from the mkdocs.yml of this folder, without importing the plugins that it names.

    Raises:
        Refused: There is no mkdocs.yml here, or it is not YAML.
    """
    root = Path.cwd()
    try:
        config = yaml.load((root / "mkdocs.yml").read_text(encoding="utf-8"), yaml.BaseLoader)  # every scalar is text
    except FileNotFoundError:
        raise Refused("no mkdocs.yml in this folder; go to the folder of the site") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise Refused(f"mkdocs.yml:{line}: not YAML ({getattr(error, 'problem', error)})") from None
    except UnicodeDecodeError:
        raise Refused("mkdocs.yml:1: not UTF-8; save the file as UTF-8") from None
    config = config if isinstance(config, dict) else {}
    options: dict[str, Any] = {}
    plugins = config.get("plugins") or ()
    for plugin in [plugins] if isinstance(plugins, dict) else plugins:  # MkDocs allows both
        if isinstance(plugin, dict) and isinstance(plugin.get("weave"), dict):
            options = plugin["weave"]
    sources = tuple(options.get("sources", Layout.sources))
    return Layout(root, config.get("docs_dir", Layout.docs), options.get("notebooks", Layout.notebooks), sources)


def relative_url(url: str, page: str) -> str:
    """An address on the site as a link of another page has it; both are relative to the site's root."""
    folder, _, name = page.rpartition("/")
    start = folder if "." in name else page
    relative = posixpath.relpath(f"/{url}", posixpath.normpath(f"/{start}"))
    return f"{relative}/" if url.endswith("/") else relative
