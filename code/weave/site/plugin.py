"""Wires weave's steps into MkDocs; each step is a function that works without it."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock
from markdown import Markdown
from mkdocs.config import config_options
from mkdocs.config.base import Config
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import Abort
from mkdocs.livereload import LiveReloadServer
from mkdocs.plugins import BasePlugin, event_priority
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page as MkDocsPage
from mkdocs.structure.pages import _RelativePathTreeprocessor
from mkdocs.structure.toc import get_toc
from mkdocs.utils import CountHandler, get_relative_url

from weave.book import drafts, hours, ledger, mentions, overviews, pages
from weave.book.book import Site
from weave.book.overviews import Collected
from weave.book.rendered import Rendered
from weave.note import code_pages, headings, snippets
from weave.note.extension import error_html
from weave.note.katex import FORMULAS, EngineError, copy_katex, engine, render_tex
from weave.note.math import render_html
from weave.note.page import start_page, use_site
from weave.run import provenance
from weave.run.store import Run, digest, kept, write_whole
from weave.site import fonts
from weave.site.unpublished import leave_out
from weave.source import front_matter
from weave.source.layout import Layout
from weave.source.problem import Problem, Refused, not_utf8, say

_LEDGER = "<!-- weave:ledger -->"
_JSON = "assets/ledger.json"
_STYLE_SHEET = "assets/weave.css"
_CONVERTERS = [version(name).encode() for name in ("mkdocs-jupyter", "nbconvert")]


class WeaveConfig(Config):
    notebooks = config_options.Type(str, default="code/notebooks")
    """Folder of the notebooks, relative to mkdocs.yml."""
    sources = config_options.ListOfItems(config_options.Type(str), default=["tests", "code"])
    """Folders of Python files that notes may link to."""
    cell_timeout = config_options.Type(int, default=300)
    """Seconds that one cell may take."""
    modules = config_options.ListOfItems(config_options.Type(str), default=[])
    """What is imported before any notebook runs, because it takes long and most need it."""
    browser_packages = config_options.ListOfItems(config_options.Type(str), default=[])
    """Packages that snippets can import in the reader's browser; none: no snippet runs there."""


def plugin_of(config: MkDocsConfig) -> WeavePlugin:
    """The plugin ``weave`` of a site's configuration.

    Raises:
        Refused: It has none.
    """
    plugin = next((one for one in config.plugins.values() if isinstance(one, WeavePlugin)), None)
    if plugin is None:
        raise Refused("mkdocs.yml:1: no plugin 'weave'; add it under plugins")
    return plugin


def site_of(config: MkDocsConfig, options: WeaveConfig) -> Site:
    """The site that a mkdocs.yml describes."""
    root = Path(config.config_file_path).resolve().parent
    docs = Path(config.docs_dir).resolve().relative_to(root).as_posix()
    return Site(
        Layout(root, docs, options.notebooks, tuple(options.sources)), options.cell_timeout, tuple(options.modules)
    )


class WeavePlugin(BasePlugin[WeaveConfig]):
    site: Site

    def __init__(self) -> None:
        self.serving = False
        self.headings: dict[str, list[Any]] = {}
        self.rendered = Rendered()
        self.feet: dict[str, str] = {}
        """Who mentions a note, as it stands below it."""
        self.told: list[Any] = []
        """Problems of the last build: while serving, each is said once."""
        self.snippets: dict[str, list[snippets.Snippet]] = {}
        """By page, as a path under docs/."""

    def on_startup(self, *, command: str, dirty: bool) -> None:
        """MkDocs keeps a plugin that has this method alive between the builds of `serve`."""
        self.serving = command == "serve"

    # -- before rendering

    @event_priority(100)
    def on_config(self, config: MkDocsConfig) -> MkDocsConfig:
        root = Path(config.config_file_path).resolve().parent
        _fix_date(root)
        try:
            render_tex("x")
        except EngineError as error:
            raise Abort(str(error)) from None
        engine().remember(root / FORMULAS)
        if not hasattr(self, "site"):
            self.site = site_of(config, self.config)
            self.site.serving = self.serving
        use_site(self.site)
        self.rendered.known.clear()  # the settings may be others
        if not hasattr(self, "made"):
            self.made = tempfile.TemporaryDirectory(prefix="weave-")  # of this process: builds do not meet in it
        if jupyter := config.plugins.get("mkdocs-jupyter"):
            jupyter.config["cache"] = False  # written in place, where a kill leaves half an entry: see on_pre_page
        config.extra_css[:0] = ["assets/katex/katex.min.css", _STYLE_SHEET]
        self.final = Path(config.site_dir)
        if not self.serving:  # built aside, so that a build that fails or is killed leaves the last good site alone
            config.site_dir = _folder_aside(self.final)
        return config

    @event_priority(100)
    def on_pre_build(self, config: MkDocsConfig) -> None:
        self.site.pages.clear()
        self.site.read_terms()
        self.site.read_references()

    @event_priority(100)
    def on_files(self, files: Files, config: MkDocsConfig) -> Files:
        """Execute what is stale; add a page for each notebook, test and module."""
        site = self.site
        site.unreadable.clear()
        for file in list(files.documentation_pages()):
            self._check_encoding(file, files, config)
        self.drafts = drafts.drafts(site.layout)
        unpublished = set() if self.serving else self.drafts
        site.execute({one.path for one in site.notebooks()} - unpublished if unpublished else None)
        leave_out(unpublished, site.layout, files, config)
        for path in site.outcomes:
            target = self._notebook_file(path)
            if not target.exists():  # filled in on_nav, when every page is known
                write_whole(target, b"{}")
            uri = site.layout.page_uri(path)
            assert uri is not None
            files.append(File(uri, str(target.parents[1]), config.site_dir, config.use_directory_urls))
        for path in site.layout.source_files():  # those that no page links to go again on_env
            head = f"---\ntitle: {path}\nsearch:\n  exclude: true\n---\n"
            uri = f"source/{path}.md"
            files.append(File.generated(config, uri, content=head, inclusion=InclusionLevel.NOT_IN_NAV))
        return files

    def on_nav(self, nav: Navigation, config: MkDocsConfig, files: Files) -> None:
        """Write each executed notebook as mkdocs-jupyter wants it, its prose rendered as the notes are."""
        self.rendered.begin(self.site, (file.src_uri for file in files if file.generated_by != "weave"))
        for path, outcome in self.site.outcomes.items():
            uri = self.site.layout.page_uri(path)
            assert uri is not None
            file = files.get_file_from_path(uri)
            assert file is not None
            notebook = outcome.run.notebook if outcome.run else outcome.notebook
            run = self.site.run_of(path) or Run(notebook, [[] for _ in notebook.code])
            key = self.rendered.key(f"{path}\0{run.notebook.text}")
            if known := self.rendered.get(path, key):
                self.headings[uri], self.site.pages[path] = known
                continue
            md = Markdown(extensions=config.markdown_extensions, extension_configs=config.mdx_configs)
            _RelativePathTreeprocessor(file, files, config)._register(md)
            prose, headings = pages.render_prose(self.site, run.notebook, md)
            self.headings[uri] = headings
            errors = [error_html(str(one), one.detail) for one in outcome.problems]
            body = json.dumps(pages.document(run, prose, errors), sort_keys=True).encode()
            target = self._notebook_file(path)
            if target.read_bytes() != body:
                write_whole(target, body)
            self.rendered.known.pop(uri, None)  # the page that was made of it
            self.rendered.put(path, key, (headings, self.site.pages[path]))

    # -- rendering

    @event_priority(-100)
    def on_pre_page(self, page: MkDocsPage, config: MkDocsConfig, files: Files) -> MkDocsPage:
        if page.file.src_uri in self.headings:
            self._render_notebook(page, config, files)
        elif page.file.src_uri.startswith("source/"):  # filled when it is known which are linked to
            page.render = lambda config, files: setattr(page, "content", "")  # type: ignore[method-assign]
            page.toc = get_toc([])
        elif self.serving:
            self._render_if_changed(page)
        return page

    def _render_notebook(self, page: MkDocsPage, config: MkDocsConfig, files: Files) -> None:
        """Let mkdocs-jupyter convert a notebook once, and keep what it made as long as the notebook is the same."""
        uri = page.file.src_uri
        path = self._path_of(uri)
        hidden = {cell.name or "" for cell in self.site.notebook_of(path).code if "hide-input" in cell.tags}
        convert = page.render

        def make() -> str:
            convert(config, files)
            return pages.clean(page.content or "", hidden)

        def render(config: MkDocsConfig, files: Files) -> None:
            content = self.rendered.get(uri, repr(hidden))
            if content is None:
                body = self._notebook_file(path).read_bytes()
                key = digest(body, repr(sorted(hidden)).encode(), Path(pages.__file__).read_bytes(), *_CONVERTERS)
                content = kept(self.site.layout.root / ".cache/weave/pages" / Path(path).stem, key, make)
                self.rendered.put(uri, repr(hidden), content)
            page.content = content
            headings = self.headings[uri]
            page.toc = get_toc(headings)
            page.title = next((head["name"] for head in headings if head["level"] == 1), Path(path).name)

        page.render = render  # type: ignore[method-assign]

    def _render_if_changed(self, page: MkDocsPage) -> None:
        uri, convert = page.file.src_uri, page.render
        path = self._path_of(uri)
        kept = ("content", "toc", "_title_from_render", "present_anchor_ids", "links_to_anchors")

        def render(config: MkDocsConfig, files: Files) -> None:
            source = self._source_of(page.file)  # its front matter too: it is checked, and moves the lines below it
            key = self.rendered.key(f"{page.markdown}\0{self.site.layout.read(source) if source else ''}")
            if known := self.rendered.get(uri, key):
                found, about = known
                for name, value in found.items():
                    setattr(page, name, value)
            else:
                convert(config, files)
                found = {name: getattr(page, name) for name in kept if hasattr(page, name)}
                about = self.site.pages.get(path)
                self.rendered.put(uri, key, (found, about))
            if about is not None:
                self.site.pages[path] = about

        page.render = render  # type: ignore[method-assign]

    @event_priority(100)
    def on_page_markdown(self, markdown: str, page: MkDocsPage, config: MkDocsConfig, files: Files) -> str:
        path = self._source_of(page.file)
        if path is None:
            start_page(None)
            return markdown
        start_page(pages.start(self.site, path, self.site.layout.read(path), markdown))
        scan = (self.site.layout.root / path).with_suffix(".pdf")
        if scan.is_file() and scan.name not in markdown:  # dropped beside the note
            markdown += f"\n\n## By hand\n\n![The same, by hand.]({scan.name})\n"
        return markdown

    @event_priority(-100)
    def on_page_content(self, html: str, page: MkDocsPage, config: MkDocsConfig, files: Files) -> str:
        start_page(None)
        path = self._path_of(page.file.src_uri)
        if source := self._source_of(page.file):
            text = self.site.layout.read(source)
            above = front_matter.problems(self.site.layout, source, text)
            html = "".join(error_html(str(one)) for one in above) + self._weave_snippets(html, page, text)
            html = (drafts.BANNER if source in self.drafts else "") + html
        if path in self.site.pages:
            if page.file.src_uri not in self.headings:  # a notebook's were found when its prose was rendered
                self.site.pages[path].anchors = pages.anchors(html)
                self.site.pages[path].headings = headings.read(html)
            # A link that is no Markdown (another plugin's) names the page, not the file.
            self.site.pages[path].sources.update(re.findall(r'href="[^"#]*\bsource/([^"#]+\.py)/', html))
            self.site.pages[path].title = str(page.title)
        return html

    @event_priority(-100)
    def on_env(self, env: Any, config: MkDocsConfig, files: Files) -> None:
        """Every page is rendered: say all that is wrong, and go no further unless somebody is at work on it."""
        self.files = files
        self._show_sources(files)
        self._collect(files)
        for file in files.documentation_pages():
            self._show_dangling(file)
        problems = self._tell()
        if problems and not self.serving:
            raise Abort(f"{len(problems)} problem{'s' * (len(problems) > 1)}; the site was not built")

    def _show_dangling(self, file: File) -> None:
        path = self._path_of(file.src_uri)
        if path in self.site.pages and file.page and file.page.content:
            file.page.content = pages.show_dangling(file.page.content, self.site.dangling(self.site.pages[path]))

    def _tell(self) -> list[Problem]:
        """Say what is wrong, each problem once as long as it stays."""
        problems = self.site.problems()
        if not self.serving:
            problems += drafts.led_to(self.site, self.drafts)
        new = [problem for problem in problems if problem not in self.told]
        self.told = problems
        for problem in new:
            say(str(problem) + ("\n\n" + problem.detail + "\n" if problem.detail else ""))
        return problems

    def finish_page(self, file: File) -> bool:
        """A page was rendered again by itself: what ``on_env`` does to it; False where that takes all pages."""
        content = file.page.content if file.page else None
        if content is None or "<!-- weave:" in content or "<autoref" in content:
            return False
        file.page.content = content + self.feet.get(file.src_uri, "")  # type: ignore[union-attr]
        self._show_dangling(file)
        self._tell()
        return True

    # -- after rendering

    @event_priority(-100)
    def on_post_page(self, output: str, page: MkDocsPage, config: MkDocsConfig) -> str:
        if page.file.src_uri in self.headings:
            path = self._path_of(page.file.src_uri)
            output = pages.annotate(output, self._about(path, page), lambda cell: self._above(path, cell, page))
        if _LEDGER in output:
            table = ledger.as_html(self.site, lambda path: self._url(path, page), get_relative_url(_JSON, page.url))
            output = output.replace(_LEDGER, table)
        output = headings.link(output, self.site.pages)
        return render_html(pages.with_files(pages.without_marks(output), page.url))

    @event_priority(-100)
    def on_post_build(self, config: MkDocsConfig) -> None:
        site_dir = Path(config.site_dir)
        for name, make in self.beside().items():
            write_whole(site_dir / name, make())
        copy_katex(self.site.layout.root, site_dir)
        if not self.serving:
            fonts.shrink(site_dir, self.site.layout.root / ".cache/weave/fonts")
            engine().keep(self.site.layout.root / FORMULAS)
            if not _strict_warnings():
                _publish(site_dir, self.final, self.site.layout.root / ".cache/weave/site.lock")
                config.site_dir = str(self.final)  # where others look for it now, as `mkdocs gh-deploy` does

    def beside(self) -> dict[str, Callable[[], bytes]]:
        """What stands on the site beside pages, by its path, and how it is made."""
        made: dict[str, Callable[[], bytes]] = {
            _STYLE_SHEET: Path(__file__).with_name("weave.css").read_bytes,
            _JSON: lambda: ledger.as_json(self.site).encode(),
        }
        for path, outcome in self.site.outcomes.items():
            folder = f"notebooks/{outcome.notebook.stem}"
            made[f"{folder}/{outcome.notebook.stem}.py"] = outcome.notebook.text.encode
            if run := self.site.run_of(path):
                made[f"{folder}/{outcome.notebook.stem}.ipynb"] = partial(pages.download_bytes, run)
                made[f"{folder}/provenance.json"] = partial(provenance.as_json, run)
                for number, cell in enumerate(run.notebook.code):
                    name = provenance.name_of(cell, number)
                    made[f"{folder}/{name}.py"] = partial(provenance.script_bytes, run, number)
        for uri, found in self.snippets.items():
            for one in found:
                made[snippets.script_file(uri).format(one.number)] = partial(snippets.script_bytes, found, one.number)
        return made

    def on_shutdown(self) -> None:
        """Also after an error or Ctrl-C."""
        if hasattr(self, "made"):
            self.made.cleanup()  # a server ends without tidying up
        if hasattr(self, "final"):
            for left in self.final.parent.glob(f".{self.final.name}-{os.getpid()}-*.part"):
                shutil.rmtree(left, ignore_errors=True)

    def on_serve(self, server: LiveReloadServer, config: MkDocsConfig, builder: Any) -> LiveReloadServer:
        for folder in {self.site.layout.notebooks, *self.site.layout.sources}:
            if (self.site.layout.root / folder).is_dir():  # watching what is not there ends the server
                server.watch(str(self.site.layout.root / folder))
        return server

    # -- pieces

    def _weave_snippets(self, html: str, page: MkDocsPage, text: str) -> str:
        uri, packages = page.file.src_uri, self.config.browser_packages
        self.snippets[uri] = found = snippets.find(text, packages)
        folder = self.site.layout.root / ".cache/weave/snippets" / Path(uri).with_suffix("")
        return snippets.weave(html, found, snippets.record(folder, found, packages), snippets.script_file(uri))

    def _collect(self, files: Files) -> None:
        """Fill the pages that are made of what others say."""
        self._mention(files)
        entries = self._log_entries(files)
        found = []
        for file in files.documentation_pages():
            kind = {"notes": "note", "log": "log"}.get(file.src_uri.partition("/")[0], "")
            if kind and file.page and file.page.content and not file.src_uri.endswith("index.md"):
                meta = file.page.meta
                one = Collected(str(file.page.title), file.url, file.page.content, kind, Path(file.src_uri).stem)
                one.description = str(meta.get("description", ""))
                needs = meta.get("needs")  # what is no list of names is told where it stands
                one.needs = [name for name in needs if isinstance(name, str)] if isinstance(needs, list) else []
                one.date = pages.date_of(meta.get("date"))
                found.append(one)
        made = {
            "questions": overviews.questions,
            "reading": lambda _, url: overviews.reading_list(self.site, lambda uri: self._address(uri, url)),
            "hours": lambda _, url: hours.overview(entries, lambda there: get_relative_url(there, url)),
            "map": lambda found, url: overviews.reading_map(found, url, lambda one: f"{pages.minutes(one.html)} min"),
        }
        for file in files.documentation_pages():
            for name, make in made.items():
                mark = f"<!-- weave:{name} -->"
                if file.page and file.page.content and mark in file.page.content:
                    file.page.content = file.page.content.replace(mark, make(found, file.url))

    def _log_entries(self, files: Files) -> list[hours.Entry]:
        """The log with its hours; each entry is told its own, and what was changed on its day."""
        entries, changed, layout = [], None, self.site.layout
        for file in files.documentation_pages():
            path, page = self._source_of(file), file.page
            date = pages.date_of(page.meta.get("date")) if page and file.src_uri.startswith("log/") else None
            if not path or not page or not page.content or not date:
                continue
            if changed is None:
                changed = hours.touched(layout.root, f"{layout.docs}/notes", layout.notebooks)
            entry = hours.Entry(str(page.title), file.url, date, hours.sessions(page.meta.get("sessions")))
            entries.append(entry)
            uris = {f"notes/{Path(one).stem.replace('_', '-')}.md" for one in changed.get(date, [])}
            notes = [one for uri in sorted(uris) if (one := files.get_file_from_path(uri)) and one.page]
            links = [(str(note.page.title), get_relative_url(note.url, file.url)) for note in notes if note.page]
            about = hours.about(entry, links, hours.problems(path, layout.read(path)))
            page.content = page.content.replace("</h1>", f"</h1>\n{about}", 1)
        return entries

    def _address(self, uri: str, url: str) -> str:
        """Of a page or file, given as a path under docs/, from the page at ``url``."""
        file = self.files.get_file_from_path(uri)
        return get_relative_url(file.url, url) if file else ""

    def _mention(self, files: Files) -> None:
        """Say at the foot of each note which pages link to it."""
        shown = [(file, file.page) for file in files.documentation_pages() if file.page and file.page.content]
        known = [
            (str(page.title), file.url, mentions.find(page.content or "", file.url))
            for file, page in shown
            if self._path_of(file.src_uri) in self.site.pages
        ]
        for file, page in shown:
            if file.src_uri.startswith("notes/") and not file.src_uri.endswith("index.md"):
                self.feet[file.src_uri] = mentions.foot(file.url, known)
                page.content = f"{page.content}{self.feet[file.src_uri]}"

    def _path_of(self, uri: str) -> str:
        """The source of a page, relative to the repository's root."""
        layout = self.site.layout
        return f"{layout.notebooks}/{Path(uri).stem}.py" if uri in self.headings else f"{layout.docs}/{uri}"

    def _check_encoding(self, file: File, files: Files, config: MkDocsConfig) -> None:
        path = self._source_of(file)
        if path is None:
            return
        data = (self.site.layout.root / path).read_bytes()
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            problem = not_utf8(path, data, error)
            self.site.unreadable.append(problem)
            files.remove(file)
            content = f"# {file.src_uri}\n\n{error_html(str(problem))}\n"
            files.append(File.generated(config, file.src_uri, content=content))

    def _show_sources(self, files: Files) -> None:
        """Fill the pages of the tests and modules that are linked to, and drop the others."""
        linked = {path for about in self.site.pages.values() for path in about.sources}
        for path in self.site.layout.source_files():
            file = files.get_file_from_path(f"source/{path}.md")
            if file is None:
                continue
            if path not in linked or file.page is None:
                files.remove(file)
                continue
            try:
                file.page.content, tokens = code_pages.page(path, self.site.layout.read(path))
                file.page.toc = get_toc(tokens)
                file.page.present_anchor_ids = pages.anchors(file.page.content)
            except (SyntaxError, UnicodeDecodeError):  # reported where it is linked to
                file.page.content = "".join(error_html(str(problem)) for problem in self.site.unshown(path))

    def _source_of(self, file: File) -> str | None:
        """The Markdown file in the docs folder behind a page; None for a page that is made by the build."""
        path = f"{self.site.layout.docs}/{file.src_uri}"
        real = file.generated_by is None and file.src_uri.endswith(".md")
        return path if real and (self.site.layout.root / path).is_file() else None

    def _notebook_file(self, path: str) -> Path:
        uri = self.site.layout.page_uri(path)
        assert uri is not None
        return Path(self.made.name) / uri

    def _url(self, path: str, page: MkDocsPage) -> str:
        uri = self.site.layout.page_uri(path)
        file = self.files.get_file_from_path(uri) if uri else None
        return file.url_relative_to(page.file) if file else ""

    def _above(self, path: str, cell: str, page: MkDocsPage) -> str:
        """Above a cell of a notebook's page: who uses it, and how to take it along."""
        take = (
            f'<a class="weave-needs" href="weave:notebooks/{Path(path).stem}/{cell}.py" download>with what it needs</a>'
        )
        return f'<p class="weave-used">{self._used(path, cell, page)}{take}</p>'

    def _used(self, path: str, cell: str, page: MkDocsPage) -> str:
        """The notes that show, cite or link a cell."""
        users = [
            user
            for user, about in self.site.pages.items()
            if user != path and any(use.notebook == path and use.cell == cell for use in about.uses)
        ]
        if not users:
            return ""
        links = ", ".join(
            f'<a href="{self._url(user, page)}">{escape(self.site.pages[user].title)}</a>' for user in users
        )
        return f"used in {links} · "

    def _about(self, path: str, page: MkDocsPage) -> str:
        name = Path(path).stem
        users = [user for user, about in self.site.pages.items() if any(use.notebook == path for use in about.uses)]
        links = ", ".join(
            f'<a href="{self._url(user, page)}">{escape(self.site.pages[user].title)}</a>'
            for user in users
            if user != path
        )
        computes = f"The notebook behind {links}. " if links else ""
        return (
            f'<p class="weave-about">{computes}Run it: <code>python {path}</code>, or take it along: '
            f'<a href="{name}.ipynb" download>{name}.ipynb</a>, <a href="{name}.py" download>{name}.py</a>.</p>'
        )


def _fix_date(root: Path) -> None:
    """Dates in the site are the commit's, so that two builds of one commit are the same to the byte."""
    if "SOURCE_DATE_EPOCH" not in os.environ:
        git = subprocess.run(
            ["git", "log", "-1", "--format=%ct"], cwd=root, capture_output=True, text=True, check=False
        )
        if git.returncode == 0 and git.stdout.strip():
            os.environ["SOURCE_DATE_EPOCH"] = git.stdout.strip()


def _folder_aside(final: Path) -> str:
    final.parent.mkdir(parents=True, exist_ok=True)
    for left in final.parent.glob(f".{final.name}-*.part"):
        owner = left.name.split("-")[-2]
        try:
            os.kill(int(owner), 0)
        except (ProcessLookupError, ValueError):
            shutil.rmtree(left, ignore_errors=True)
        except PermissionError:
            pass
    aside = tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}-{os.getpid()}-", suffix=".part")
    os.chmod(aside, 0o755)
    return aside


def _publish(built: Path, final: Path, lock: Path) -> None:
    """Put a finished site in the place of the last one."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        old = built.with_name(built.name.removesuffix(".part") + "-old.part")
        if final.exists():
            final.rename(old)
        built.rename(final)
        shutil.rmtree(old, ignore_errors=True)


def _strict_warnings() -> bool:
    """Whether `mkdocs build --strict` is about to fail."""
    return any(one.get_counts() for one in logging.getLogger("mkdocs").handlers if isinstance(one, CountHandler))
