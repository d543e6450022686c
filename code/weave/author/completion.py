"""``weave completion``, and the names of notes and notebooks on the command line: completed and looked up."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from weave.source.layout import Layout, layout_here
from weave.source.names import source_pages
from weave.source.problem import Refused, nearest

_HOW = {
    "bash": 'eval "$(weave completion bash)"   # put this line into ~/.bashrc',
    "zsh": 'eval "$(weave completion zsh)"   # put this line into ~/.zshrc, below compinit',
    "fish": "weave completion fish | source   # put this line into ~/.config/fish/config.fish",
}


def script(main: click.Group, shell: str) -> str:
    """Return the script with which a shell completes this program's commands and names."""
    completer = get_completion_class(shell)
    assert completer is not None
    return f"# {_HOW[shell]}\n{completer(main, {}, 'weave', '_WEAVE_COMPLETE').source()}"


def complete_notebook(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    layout = layout_here()
    return _complete(layout.root / layout.notebooks, "*.py", begun)


def complete_note(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    layout = layout_here()
    return _complete(layout.root / layout.docs / "notes", "*.md", begun)


def _complete(folder: Path, pattern: str, begun: str) -> list[CompletionItem]:
    stems = sorted(path.stem for path in folder.glob(pattern))
    return [CompletionItem(stem) for stem in stems if stem.startswith(begun)]


def find_page(layout: Layout, name: str) -> str:
    """Return the path of a page given as ``zero-layer``, ``zero_layer`` or the path of its file.

    Raises:
        Refused: There is none, or more than one.
    """
    pages = source_pages(layout.root, layout.docs)
    if Path(name).as_posix() in pages:
        return Path(name).as_posix()
    stem = Path(name).stem
    matches = [path for path in pages if Path(path).stem in (stem, stem.replace("_", "-"))]
    if not matches:
        raise Refused(f"no page '{name}' in {layout.docs}; {nearest(stem, {Path(path).stem for path in pages})}")
    if len(matches) > 1:
        raise Refused(f"'{name}' may be {' or '.join(matches)}; say which")
    return matches[0]
