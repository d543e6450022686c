"""The MkDocs plugin: hooks that call weave's steps in their order. Each step is a function that works without it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from mkdocs.config import config_options
from mkdocs.config.base import Config
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import Abort
from mkdocs.plugins import BasePlugin, event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page as MkDocsPage
from mkdocs.structure.toc import get_toc
from mkdocs.utils import get_relative_url

from weave.book import drafts, ledger
from weave.book.asked import Rendered
from weave.book.book import Book
from weave.book.problems import above, dangling, problems
from weave.note import finish, headings
from weave.note.embeds import error_html
from weave.note.katex import FORMULAS, EngineError, copy_katex, engine
from weave.note.math import render_html
from weave.note.page import start_page
from weave.site import collected, every_page, extra, fonts, publish, sources, unchanged
from weave.site.note_pages import NotePages
from weave.site.notebook_pages import NotebookPages
from weave.source.files import digest, write_atomically
from weave.source.layout import Layout
from weave.source.problem import Problem, Refused, say

_LEDGER = "<!-- weave:ledger -->"


class WeaveConfig(Config):
    notebooks = config_options.Type(str, default="code/notebooks")
    """Folder of the notebooks, relative to mkdocs.yml."""
    sources = config_options.ListOfItems(config_options.Type(str), default=["tests", "code"])
    """Folders of Python files that notes may link to."""
    cell_timeout = config_options.Type(int, default=300)
    """Seconds that one cell may take."""
    modules = config_options.ListOfItems(config_options.Type(str), default=[])
    """Modules imported before any notebook runs, because they take long and most notebooks need them."""
    browser_packages = config_options.ListOfItems(config_options.Type(str), default=[])
    """Packages that snippets can import in the reader's browser; without any, no snippet runs there."""
    colab = config_options.Type(str, default="")
    """The file of requirements that a notebook installs in Colab; without one, no notebook is prepared for Colab."""


def plugin_of(config: MkDocsConfig) -> WeavePlugin:
    """Return the plugin ``weave`` of a site's configuration. Raises Refused if there is none."""
    plugin = next((plugin for plugin in config.plugins.values() if isinstance(plugin, WeavePlugin)), None)
    if plugin is None:
        raise Refused("mkdocs.yml:1: no plugin 'weave'; add it under plugins")
    return plugin


def book_of(config: MkDocsConfig, options: WeaveConfig) -> Book:
    """Return the book that a mkdocs.yml describes."""
    root = Path(config.config_file_path).resolve().parent
    docs = Path(config.docs_dir).resolve().relative_to(root).as_posix()
    layout = Layout(root, docs, options.notebooks, tuple(options.sources))
    return Book(layout, options.cell_timeout, tuple(options.modules), tuple(options.browser_packages))


class WeavePlugin(BasePlugin[WeaveConfig]):
    book: Book
    notes: NotePages
    notebooks: NotebookPages

    def __init__(self) -> None:
        self.mode: Literal["build", "check", "serve"] = "build"
        """Set by site/build.py before anything else. Only a build writes a site; only a server renders pages again."""
        self.rendered = Rendered()
        self.feet: dict[str, str] = {}
        """The backlinks below each note, by page. Written when all are rendered, read when one is rendered alone."""
        self.reported: list[Problem] = []
        """The problems of the last build: while serving, each is reported once."""

    def on_startup(self, *, command: str, dirty: bool) -> None:
        """MkDocs keeps a plugin that has this method alive between the builds of a server."""
        if command == "serve" and self.mode != "serve":
            raise Abort("`mkdocs serve` does not run notebooks; use `weave serve`")

    # -- before rendering

    @event_priority(100)
    def on_config(self, config: MkDocsConfig) -> MkDocsConfig:
        root = Path(config.config_file_path).resolve().parent
        publish.fix_date(root)
        try:
            engine().start(root / FORMULAS)
        except EngineError as error:
            raise Abort(str(error)) from None
        if hasattr(self, "book"):
            self.book.configure(book_of(config, self.config))
        else:
            self.book = book_of(config, self.config)
            self.book.serving = self.mode == "serve"
            self.notes = NotePages(self.book, self.rendered)
            self.notebooks = NotebookPages(self.book, self.rendered)
        self.repository, self.address = config.repo_url or "", config.site_url or ""
        config.mdx_configs.setdefault("weave", {})["book"] = self.book
        self.rendered.kept.clear()  # the settings may have changed
        self.notebooks.prepare(config)
        config.extra_css[:0] = ["assets/katex/katex.min.css", extra.STYLE_SHEET]
        self.final = Path(config.site_dir)
        if self.mode == "build":
            self.before = unchanged.inputs(root)
            config.site_dir = publish.folder_aside(self.final)
        return config

    @event_priority(100)
    def on_pre_build(self, config: MkDocsConfig) -> None:
        self.book.pages.clear()
        self.book.read_sources()

    @event_priority(100)
    def on_files(self, files: Files, config: MkDocsConfig) -> Files:
        """Run the stale notebooks; add a page for each notebook, test and module."""
        book = self.book
        sources.replace_unreadable(book, files, config)
        book.drafts = drafts.drafts(book.layout, sources.draft_docs(book.layout, files, config))
        if self.mode == "build" and book.drafts:
            book.execute({notebook.path for notebook in book.notebooks()} - book.drafts)
            sources.leave_out(book.drafts, book.layout, files, config)
        else:
            book.execute()
        self.notebooks.add(files, config)
        sources.add_code(book.layout, files, config)
        return files

    def on_nav(self, nav: Navigation, config: MkDocsConfig, files: Files) -> None:
        written = sorted(f"{file.src_uri} {file.url}" for file in files if file.generated_by != "weave")
        self.book.addresses = digest("\0".join(written).encode())
        self.notebooks.write(files, config)

    @event_priority(-100)
    def on_pre_page(self, page: MkDocsPage, config: MkDocsConfig, files: Files) -> MkDocsPage:
        is_notebook = page.file.src_uri in self.notebooks.headings
        if is_notebook and self.mode != "check":
            self.notebooks.render_with(page)
        elif is_notebook or page.file.src_uri.startswith("source/"):  # sources are filled once all links are known
            page.render = lambda config, files: setattr(page, "content", "")  # type: ignore[method-assign]
            page.toc = get_toc([])
        elif self.mode == "serve" and (path := collected.source_of(self.book, page.file)):
            self.notes.render_with(page, path)
        return page

    @event_priority(100)
    def on_page_markdown(self, markdown: str, page: MkDocsPage, config: MkDocsConfig, files: Files) -> str:
        return self.notes.begin(page.file, markdown)

    @event_priority(-100)
    def on_page_content(self, html: str, page: MkDocsPage, config: MkDocsConfig, files: Files) -> str:
        start_page(None)
        if self.mode != "check":
            html = every_page.content(html, page, config, self.book.layout, self.config.colab)
        if source := collected.source_of(self.book, page.file):
            wrong = "".join(error_html(str(problem)) for problem in above(self.book, source))
            html = wrong + self.notes.with_snippets(html, page.file.src_uri, source)
            html = (drafts.BANNER if source in self.book.drafts else "") + html
        if about := self.book.pages.get(self.path_of(page.file)):
            if page.file.src_uri not in self.notebooks.headings:  # a notebook's are known since its prose was rendered
                about.anchors, about.headings = headings.read(html)
            # A link that is not Markdown's (another plugin's) names the page instead of the file.
            about.sources.update(re.findall(r'href="[^"#]*\bsource/([^"#]+\.py)/', html))
            about.title = str(page.title)
        return html if self.mode == "check" else every_page.searchable(html, page)

    @event_priority(-100)
    def on_env(self, env: Any, config: MkDocsConfig, files: Files) -> None:
        """Every page is rendered: fill what depends on the others, and stop a build that has problems."""
        self.files = files
        if self.mode == "check":  # shows nothing, and its command reports by itself
            return
        collected.show_sources(self.book, files)
        self.feet = collected.add_backlinks(self.book, files, self.path_of)
        collected.fill_overviews(self.book, files)
        for file in files.documentation_pages():
            self._show_dangling(file)
        if (wrong := self.report()) and self.mode == "build":
            raise Abort(f"{len(wrong)} problem{'s' * (len(wrong) > 1)}; the site was not built")

    def _show_dangling(self, file: File) -> None:
        about = self.book.pages.get(self.path_of(file))
        if about and file.page and file.page.content:
            file.page.content = finish.show_dangling(file.page.content, dangling(self.book, about))

    def report(self) -> list[Problem]:
        """Return every problem, and print those that the last build did not have."""
        wrong = problems(self.book)
        for problem in wrong:
            if problem not in self.reported:
                say(problem.with_detail)
        self.reported = wrong
        return wrong

    def finish_page(self, file: File) -> bool:
        """Do what ``on_env`` does to a page that was rendered alone; return False where that takes all pages."""
        content, about = file.page.content if file.page else None, self.book.pages[self.path_of(file)]
        if content is None or "<!-- weave:" in content or "<autoref" in content:
            return False
        if collected.needs_others(about, self.files, self.reported):
            self.rendered.forget(about.path)
            return False
        file.page.content = content + self.feet.get(file.src_uri, "")  # type: ignore[union-attr]
        self._show_dangling(file)
        self.report()
        return True

    def on_page_context(self, context: Any, page: MkDocsPage, config: MkDocsConfig, nav: Navigation) -> Any:
        return context | every_page.context(page, config, self.book.layout.root, self.mode == "serve")

    def on_post_template(self, output_content: str, template_name: str, config: MkDocsConfig) -> str:
        return every_page.finish(output_content) if template_name == "404.html" else output_content

    @event_priority(-100)
    def on_post_page(self, output: str, page: MkDocsPage, config: MkDocsConfig) -> str:
        output = every_page.finish(output)
        if page.file.src_uri in self.notebooks.headings:
            path = self.path_of(page.file)
            output = self.notebooks.annotate(output, path, lambda user: self._url(user, page))
        if _LEDGER in output:
            table = ledger.as_html(
                self.book, lambda path: self._url(path, page), get_relative_url(extra.LEDGER, page.url)
            )
            output = output.replace(_LEDGER, table)
        output = finish.without_marks(headings.link(output, self.book.pages))
        output = finish.with_files(output, page.url)
        return render_html(output, config.mdx_configs.get("weave.math", {}).get("macros", {}))

    @event_priority(-100)
    def on_post_build(self, config: MkDocsConfig) -> None:
        site_dir, root = Path(config.site_dir), self.book.layout.root
        for name, make in self.extra_files().items():
            write_atomically(site_dir / name, make())
        copy_katex(root, site_dir)
        if self.mode == "build":
            every_page.publish(site_dir, self.files, config, self.book.layout, self.config.colab)
            fonts.shrink(site_dir, root / ".cache/weave/fonts")
            engine().keep(root / FORMULAS)
            if not publish.strict_warnings():
                publish.publish(site_dir, self.final, root / ".cache/weave/site.lock")
                config.site_dir = str(self.final)  # where other plugins and `mkdocs gh-deploy` look for it now
                unchanged.keep(config, self.before)

    def extra_files(self) -> dict[str, Callable[[], bytes]]:
        """Return what the site has beside pages, by its path, with a function that makes each."""
        return extra.files(self.book, self.notes, self.files, self.repository, self.address)

    def on_shutdown(self) -> None:
        """Also called after an error or Ctrl-C."""
        if hasattr(self, "notebooks"):
            self.notebooks.close()
            publish.clear(self.final)

    def path_of(self, file: File) -> str:
        """Return the source of a page, relative to the repository's root."""
        uri = file.src_uri
        return self.notebooks.path_of(uri) if uri in self.notebooks.headings else f"{self.book.layout.docs}/{uri}"

    def _url(self, path: str, page: MkDocsPage) -> str:
        file = self.files.get_file_from_path(self.book.layout.page_uri(path) or "")
        return file.url_relative_to(page.file) if file else ""
