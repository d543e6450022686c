"""Puts what runs in the reader's browser into the site: the modules beside this file, and the weights they read.

A MkDocs hook (see `hooks` in mkdocs.yml), so that neither `weave` nor `residual` knows of it.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

CODE = Path(__file__).parents[1]
PUBLISHED = [
    *sorted(Path(__file__).parent.glob("*.js")),
    CODE / "residual/tokenizer.json",
    CODE / "checkpoints/induction.safetensors",
    CODE / "checkpoints/smeared.safetensors",
]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in PUBLISHED:
        files.append(File.generated(config, f"assets/live/{path.name}", abs_src_path=str(path)))
    return files
