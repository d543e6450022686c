"""Publishes what runs in the reader's browser, and what that reads.

A MkDocs hook (see `hooks` in mkdocs.yml), so that neither `weave` nor `residual` knows of it. A live element is one
file: `<some-thing model="induction">` on a page is the custom element in elements/some-thing.js, which live.js loads
when a reader opens that page, and `model` names the checkpoint that the element computes with. So a new element needs
nothing but its file, and a page that uses it. `models` lists the checkpoints that a lab's checks read.

    assets/live/           live.js and the other scripts of every page
    assets/live/elements/  the custom elements
    assets/live/lib/       what the elements share, and the Python session behind <py-snippet>
    assets/live/models/    NAME.safetensors, a checkpoint that a page or its labs name, and NAME.tokenizer.json
    assets/pyodide/        Python for the browser
    assets/fonts/          the site's text faces
"""

from __future__ import annotations

import json
import logging
import re
import sys
from html import unescape
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))  # MkDocs loads a hook as a file by itself

import pack

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODULES = ROOT / "node_modules"
CHECKPOINTS, TOKENIZERS = ROOT / "code/checkpoints", ROOT / "code/residual/files"
FONTS = [
    *(f"source-serif-4/files/source-serif-4-latin-{face}.woff2" for face in ("400-normal", "400-italic", "600-normal")),
    "source-code-pro/files/source-code-pro-latin-400-normal.woff2",
]
# tex-math, a formula, has no behaviour
_ELEMENT = re.compile(r"<(?!tex-math\b)(?P<tag>[a-z][a-z0-9]*-[a-z0-9-]*)(?P<attributes>[^>]*)>")
_MODEL = re.compile(r'\bmodels?="([^"]*)"')

log = logging.getLogger("mkdocs.hooks.live")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in sorted(HERE.rglob("*.js")):
        _publish(files, config, f"live/{path.relative_to(HERE).as_posix()}", path)
    _publish(files, config, "live/lib/session.py", ROOT / "code/weave/note/session.py")
    for font in FONTS:
        _publish(files, config, f"fonts/{Path(font).name}", MODULES / "@fontsource" / font)
    for path in pack.pack(MODULES, ROOT / ".cache/live"):
        _publish(files, config, f"pyodide/{path.name}", path)
    return files


@event_priority(-200)  # after weave has made its snippets and labs
def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Publish the models that a page's elements name; warn of elements and models that do not exist."""
    for match in _ELEMENT.finditer(html):
        tag, model = match["tag"], _MODEL.search(match["attributes"])
        if not (HERE / f"elements/{tag}.js").is_file():
            names = ", ".join(sorted(path.stem for path in (HERE / "elements").glob("*.js")))
            log.warning(f"{_place(page, config, tag)}: <{tag}> is not a live element; code/live/elements has {names}")
            continue
        for name in unescape(model[1]).split() if model else ():
            if problem := _publish_model(files, config, name):
                log.warning(f"{_place(page, config, tag, model[0])}: <{tag}> names {problem}")
    return html


def _publish_model(files: Files, config: MkDocsConfig, name: str) -> str:
    """Publish a checkpoint and, if it reads tokens, its tokenizer; return the problem, empty if there is none."""
    weights, card = CHECKPOINTS / f"{name}.safetensors", CHECKPOINTS / f"{name}.json"
    if not weights.is_file() or not card.is_file():
        names = ", ".join(sorted(path.stem for path in CHECKPOINTS.glob("*.safetensors")))
        return f"the model '{name}', but code/checkpoints has only {names}"
    _publish(files, config, f"live/models/{name}.safetensors", weights)
    size = json.loads(card.read_text("utf-8"))["config"].get("d_vocab")
    tokenizer = TOKENIZERS / ("tokenizer.json" if size == 512 else f"tokenizer-{size}.json")
    if tokenizer.is_file():
        _publish(files, config, f"live/models/{name}.tokenizer.json", tokenizer)
    return ""


def _publish(files: Files, config: MkDocsConfig, address: str, path: Path) -> None:
    """Add a file to the site at ``assets/address``, once."""
    uri = f"assets/{address}"
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, abs_src_path=str(path)))


def _place(page: Page, config: MkDocsConfig, tag: str, attribute: str = "") -> str:
    """Return the file and line of an element in its source, as ``docs/notes/x.md:12``."""
    path = Path(config.docs_dir, page.file.src_uri)
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    number = next((i for i, line in enumerate(lines, start=1) if f"<{tag}" in line and attribute in line), 1)
    return f"{Path(config.docs_dir).name}/{page.file.src_uri}:{number}"
