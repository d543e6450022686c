"""Puts what runs in the reader's browser into the site: the modules beside this file, and the weights they read.

And names, for those who hear a page, what Markdown and Material leave without a name. A MkDocs hook (see `hooks` in
mkdocs.yml), so that neither `weave` nor `residual` knows of it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

CODE = Path(__file__).parents[1]
ROOT = CODE.parent
sys.path.insert(0, str(Path(__file__).parent))  # a hook is a file by itself

import pack  # noqa: E402

PUBLISHED = [
    *sorted(Path(__file__).parent.glob("*.js")),
    CODE / "weave/session.py",
    CODE / "residual/tokenizer.json",
    CODE / "checkpoints/induction.safetensors",
    CODE / "checkpoints/smeared.safetensors",
]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in PUBLISHED:
        files.append(File.generated(config, f"assets/live/{path.name}", abs_src_path=str(path)))
    for path in pack.pack(ROOT / "node_modules", ROOT / ".cache/live"):
        files.append(File.generated(config, f"assets/pyodide/{path.name}", abs_src_path=str(path)))
    return files


def on_page_content(html: str, **_: Any) -> str:
    html = re.sub(r"<th( [^>]*)?></th>", r"<td\1></td>", html)  # the empty corner of a table heads nothing
    html = re.sub(
        r'<input type="checkbox" disabled(="")? checked',
        r'<input aria-label="done" type="checkbox" disabled checked',
        html,
    )
    return re.sub(r'<input type="checkbox" disabled', '<input aria-label="open" type="checkbox" disabled', html)


def on_post_page(output: str, **_: Any) -> str:
    return output.replace(
        '<div class="md-search" data-md-component="search" role="dialog">',
        '<div class="md-search" data-md-component="search" role="dialog" aria-label="Search">',
    )
