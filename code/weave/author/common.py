"""What the author's commands have in common: where things lie, what time it is, how notes and notebooks are named."""

from __future__ import annotations

import os
import re
import unicodedata
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import yaml
from click.shell_completion import CompletionItem, get_completion_class

from weave.source.layout import Layout
from weave.source.problem import nearest

_HOW = {
    "bash": 'eval "$(weave completion bash)"   # put this line into ~/.bashrc',
    "zsh": 'eval "$(weave completion zsh)"   # put this line into ~/.zshrc, below compinit',
    "fish": "weave completion fish | source   # put this line into ~/.config/fish/config.fish",
}


def layout() -> Layout:
    """Where the site of this folder lies, read from its mkdocs.yml without loading what that names.

    Raises:
        click.ClickException: No mkdocs.yml here, or none that is YAML.
    """
    root = Path.cwd()
    try:
        config = yaml.load((root / "mkdocs.yml").read_text(encoding="utf-8"), yaml.BaseLoader)  # every scalar is text
    except FileNotFoundError:
        raise click.ClickException("no mkdocs.yml in this folder; go to the one that the site lies in") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise click.ClickException(f"mkdocs.yml:{line}: no YAML ({getattr(error, 'problem', error)})") from None
    except UnicodeDecodeError:
        raise click.ClickException("mkdocs.yml:1: not UTF-8; save the file as UTF-8") from None
    config = config if isinstance(config, dict) else {}
    options: Any = {}
    for one in config.get("plugins") or ():
        if isinstance(one, dict) and isinstance(one.get("weave"), dict):
            options = one["weave"]
    return Layout(root, config.get("docs_dir", Layout.docs), options.get("notebooks", Layout.notebooks))


def now() -> datetime:
    """The time by the wall clock; WEAVE_NOW=2026-11-25T20:00 stands in for it where a test or a picture needs one."""
    fixed = os.environ.get("WEAVE_NOW")
    try:
        return datetime.fromisoformat(fixed) if fixed else datetime.now()
    except ValueError:
        raise click.ClickException(f"WEAVE_NOW={fixed} is no time; write it as 2026-11-25T20:00") from None


def slug(title: str) -> str:
    """A title as the name of a file: ``Attention sinks`` is ``attention-sinks``, ``Poincaré's`` is ``poincares``."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().replace("'", "")
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


# -- names


def notebook(place: Layout, name: str) -> str:
    """The path of a notebook that was named: ``zero_layer``, ``zero-layer``, or the path of its file or of its note.

    Raises:
        click.ClickException: There is none.
    """
    stems = {path.stem for path in (place.root / place.notebooks).glob("*.py")}
    stem = Path(name).stem
    stem = stem if stem in stems else stem.replace("-", "_")
    if stem not in stems:
        raise click.ClickException(f"no notebook '{name}' in {place.notebooks}; {nearest(stem, stems)}")
    return f"{place.notebooks}/{stem}.py"


def page(place: Layout, name: str) -> str:
    """The path of a page that was named: ``zero-layer``, ``zero_layer``, or the path of its file.

    Raises:
        click.ClickException: There is none, or more than one.
    """
    docs = place.root / place.docs
    pages = sorted(path.relative_to(place.root).as_posix() for path in docs.rglob("*.md"))
    given = Path(name).as_posix()
    if given in pages:
        return given
    stem = Path(name).stem
    found = [path for path in pages if Path(path).stem in (stem, stem.replace("_", "-"))]
    if not found:
        known = {Path(path).stem for path in pages}
        raise click.ClickException(f"no page '{name}' in {place.docs}; {nearest(stem, known)}")
    if len(found) > 1:
        raise click.ClickException(f"'{name}' may be {' or '.join(found)}; say which")
    return found[0]


# -- completion


def complete_notebook(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    place = layout()
    stems = sorted(path.stem for path in (place.root / place.notebooks).glob("*.py"))
    return [CompletionItem(stem) for stem in stems if stem.startswith(begun)]


def complete_note(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    place = layout()
    stems = sorted(path.stem for path in (place.root / place.docs / "notes").glob("*.md"))
    return [CompletionItem(stem) for stem in stems if stem.startswith(begun)]


def completion(main: click.Group, shell: str) -> str:
    """The script that lets a shell complete this program's commands and names."""
    made = get_completion_class(shell)
    assert made is not None
    return f"# {_HOW[shell]}\n{made(main, {}, 'weave', '_WEAVE_COMPLETE').source()}"
