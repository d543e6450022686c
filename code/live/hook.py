"""What readers get beside the woven pages: the pieces that run in their browser with all that these read, faces, the
line under a note's title, share pictures, feeds, names for those who hear a page, and a content security policy.

A MkDocs hook (see `hooks` in mkdocs.yml), so that neither `weave` nor `residual` knows of it.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))  # a hook is a file by itself

import pack
import share

from weave.book import reading
from weave.note import finish

ROOT = Path(__file__).parents[2]
CODE, MODULES, CACHE = ROOT / "code", ROOT / "node_modules", ROOT / ".cache/live"
FACES = [
    *(
        MODULES / f"@fontsource/source-serif-4/files/source-serif-4-latin-{face}.woff2"
        for face in ("400-normal", "400-italic", "600-normal")
    ),
    MODULES / "@fontsource/source-code-pro/files/source-code-pro-latin-400-normal.woff2",
]
LIVE = [
    *sorted(Path(__file__).parent.glob("*.js")),
    CODE / "weave/note/session.py",
    *(CODE / f"residual/files/{name}.json" for name in ("tokenizer", "tokenizer-2048")),
    *(CODE / f"checkpoints/{name}.safetensors" for name in ("induction", "smeared", "one-layer")),
]
GITHUB = re.compile(r"https://github\.com/([^/]+/[^/]+?)/?")
LATE_SEARCH = Path(__file__).with_name("late-search.js")  # in the page itself: nothing is painted before it is there
serving = False


def on_startup(command: str, **_: Any) -> None:
    global serving
    serving = command == "serve"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    published = {"live": LIVE, "fonts": FACES, "pyodide": pack.pack(MODULES, CACHE)}
    for folder, paths in published.items():
        for path in paths:
            files.append(File.generated(config, f"assets/{folder}/{path.name}", abs_src_path=str(path)))
    return files


# -- pages


@event_priority(-50)
def on_page_content(html: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    html = re.sub(r"<th( [^>]*)?></th>", r"<td\1></td>", html)  # the empty corner of a table heads nothing
    for state, name in ((" checked", "done"), ("", "open")):
        html = re.sub(
            rf'<input type="checkbox" disabled(?:="")?{state}(?=[ /">])',
            f'<input aria-label="{name}" type="checkbox" disabled{state}',
            html,
        )
    if page.file.src_uri.startswith("notes/"):
        html = html.replace("</h1>", f"</h1>\n{_under_title(html, page, config)}", 1)
    return html


def _under_title(html: str, page: Page, config: MkDocsConfig) -> str:
    """How long it takes, when it last changed, and how to run it."""
    stem = Path(page.file.src_uri).stem.replace("-", "_")
    notebook = CODE / f"notebooks/{stem}.py"
    parts = [f"{reading.minutes(html)} minutes to read through"]
    if day := changed(f"docs/{page.file.src_uri}", f"code/notebooks/{stem}.py"):
        parts.append(f'changed <time datetime="{day}">{day.day} {day:%B %Y}</time>')
    if notebook.is_file():
        parts.append(f"run it: <code>weave run {stem}</code>")
        take = [f'<a href="weave:notebooks/{stem}/{stem}.{kind}" download>.{kind}</a>' for kind in ("ipynb", "py")]
        if repository := GITHUB.fullmatch(config.repo_url or ""):
            colab = f"https://colab.research.google.com/github/{repository[1]}/blob/colab/{stem}.ipynb"
            take.append(f'<a href="{colab}">in Colab</a>')
        parts.append("take it along: " + ", ".join(take))
    return f'<p class="note-about">{" · ".join(parts)}</p>'


@lru_cache(maxsize=256)
def changed(*paths: str) -> datetime.date | None:
    """The day of the last commit to any of these files; None where git does not know."""
    log = subprocess.run(
        ["git", "log", "-1", "--format=%cs", "--", *paths], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return datetime.date.fromisoformat(log.stdout.strip()) if log.stdout.strip() else None


def on_page_context(context: dict[str, Any], page: Page, config: MkDocsConfig, **_: Any) -> None:
    context["late_search"] = re.sub(r"^ *//.*\n", "", LATE_SEARCH.read_text("utf-8"), flags=re.MULTILINE)
    if config.site_url:
        says = page.meta.get("description")
        title = str(page.title) if says and not page.is_homepage else config.site_name
        fonts = MODULES / "@fontsource/source-serif-4/files"
        card = share.card(title, str(says or config.site_description), config.site_name, fonts, CACHE / "cards")
        page.meta["card"] = f"assets/cards/{card.name}"


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    return finish.with_files(_named(output), page.url)


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    return _named(output_content) if template_name == "404.html" else output_content


def _named(output: str) -> str:
    output = output.replace(
        '<div class="md-search" data-md-component="search" role="dialog">',
        '<div class="md-search" data-md-component="search" role="dialog" aria-label="Search">',
    )
    output = _UNNAMED.sub(lambda nav: f"{nav[0][:-1]} {_NAMES[nav[1]]}>", output)
    return _LABELLED.sub(lambda nav: nav[0] if f'id="{nav[1]}"' in output else 'aria-label="Section"', output)


# What Material leaves without a name, so that a listener cannot tell one from the other.
_NAMES = {
    "md-post__action": 'role="none"',
    "md-nav": 'role="none"',
    "md-nav md-nav--primary": 'aria-label="About this entry"',
    "md-pagination": 'aria-label="Pages of the log"',
}
_UNNAMED = re.compile(rf'<nav class="({"|".join(_NAMES)})">')
_LABELLED = re.compile(r'aria-labelledby="(__nav_[\d_]+_label)"')


# -- the finished site


@event_priority(0)
def on_env(env: Any, config: MkDocsConfig, files: Files) -> None:
    """Feeds are written when every page's title and date are known."""
    global entries
    entries = []
    for file in files.documentation_pages():
        page, folder = file.page, file.src_uri.partition("/")[0]
        if page and folder in ("notes", "log") and not file.src_uri.endswith("index.md") and page.canonical_url:
            last = changed(f"docs/{file.src_uri}") or datetime.date.today()
            first = reading.date_of(page.meta.get("date")) or last
            about = str(page.meta.get("description") or "")
            entries.append(share.Entry(str(page.title), about, page.canonical_url, first, max(first, last)))
    entries.sort(key=lambda one: (one.changed, one.title), reverse=True)


entries: list[share.Entry] = []


@event_priority(0)
def on_post_build(config: MkDocsConfig) -> None:
    site = Path(config.site_dir)
    if config.site_url:
        author = (config.extra.get("author") or {}).get("name", "")
        (site / "atom.xml").write_bytes(share.atom(entries, config.site_name, config.site_url, author))
        (site / "rss.xml").write_bytes(share.rss(entries, config.site_name, config.site_url, config.site_description))
        (site / "assets/cards").mkdir(parents=True, exist_ok=True)
        used = {
            name for path in site.rglob("*.html") for name in re.findall(r"assets/cards/(\w+\.png)", path.read_text())
        }
        for name in used:
            (site / "assets/cards" / name).write_bytes((CACHE / "cards" / name).read_bytes())
        if GITHUB.fullmatch(config.repo_url or ""):
            _for_colab(site, str(config.repo_url).rstrip("/"))
    if not serving:  # `mkdocs serve` puts a script of its own into pages
        protect(site)


def _for_colab(site: Path, repository: str) -> None:
    """Each notebook with a first cell that installs what it needs; a workflow puts them on the branch ``colab``."""
    name = repository.rpartition("/")[2]
    install = (
        f"!test -d /content/{name} || git clone -q --depth 1 {repository} /content/{name}\n"
        f"%cd -q /content/{name}\n"
        "%pip install -q --no-deps -r code/live/colab.txt -e ."
    )
    cell = {
        "cell_type": "code",
        "id": "install",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
        "source": install,
    }
    (site / "colab").mkdir(exist_ok=True)
    for path in sorted(site.glob("notebooks/*/*.ipynb")):
        notebook = json.loads(path.read_text("utf-8"))
        notebook["cells"].insert(0, cell)
        (site / "colab" / path.name).write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")
    names = "".join(f"{path.name}\n" for path in sorted((site / "colab").glob("*.ipynb")))
    (site / "colab/names.txt").write_text(names)


_SCRIPT = re.compile(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)[^>]*>(.*?)</script>", re.DOTALL)


def protect(site: Path) -> None:
    """Every page allows what this site brings, and nothing else. All pages have one policy: with instant navigation
    the first page's holds for those that come after it."""
    written = {path: path.read_text() for path in sorted(site.rglob("*.html"))}
    scripts = {body for html in written.values() for body in _SCRIPT.findall(html) if body.strip()}
    hashes = sorted(base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in scripts)
    policy = "; ".join(
        [
            "default-src 'self'",  # Firefox fetches the next page ahead
            "script-src 'self' 'wasm-unsafe-eval' " + " ".join(f"'sha256-{one}'" for one in hashes),
            "style-src 'self' 'unsafe-inline'",  # KaTeX and Pygments write style attributes
            "img-src 'self' data:",
            "base-uri 'self'",
            "form-action 'self'",
        ]
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    for path, html in written.items():
        path.write_text(html.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n      {meta}', 1))
