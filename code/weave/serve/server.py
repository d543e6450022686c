"""``weave serve``: the site while its author is at work.

A request is answered from the files as they are at that moment: what changed since the last one is built first, and a
page is put into its template only when somebody asks for it. Notebooks run beside that; until one is done, pages show
what it gave before, marked. Open pages are told of all this, and change in place (``desk.js``).
"""

from __future__ import annotations

import contextlib
import json
import logging
import mimetypes
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from mkdocs.commands import build as mkdocs_build
from mkdocs.config import load_config
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import Abort, BuildError, ConfigurationError
from mkdocs.structure.files import File, InclusionLevel, get_files, set_exclusions
from mkdocs.structure.nav import get_navigation
from mkdocs.structure.pages import Page
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from weave.note.katex import katex_files
from weave.run import recorder
from weave.run.executor import Outcome
from weave.run.notebook import Notebook
from weave.site.plugin import plugin_of
from weave.source.problem import Problem, Refused, say

_IGNORED = {"__pycache__", "node_modules", "site"}
_QUIET = 0.03  # seconds without an edit, after which pages that are open are told
_TICK = 20_000_000  # nanoseconds
_OWN = "_weave/"  # below the site's own address
_HERE = Path(__file__).parent
Seen = dict[str, tuple[int, ...]]


class Desk:
    def __init__(self, settings: str, port: int) -> None:
        """Read the settings and begin. Raises Refused."""
        self.settings, self.port = settings, port
        self.lock = threading.RLock()
        self.listeners: set[queue.Queue[dict[str, Any]]] = set()
        self.running: dict[str, Notebook] = {}
        self.started: set[str] = set()
        self.progress: dict[str, dict[str, Any]] = {}
        self.turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self.pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="notebook")
        self.seen: Seen = {}
        self.recent: dict[str, str] = {}
        self.looked = 0
        self.read: set[str] = set()
        """Files elsewhere that notebooks have read, and folders that they have listed."""
        self.again = False
        """Whether a notebook is through, and pages have to be built though no file changed."""
        self.ahead: set[str] = set()
        """Pages that were rendered by themselves since all were."""
        self.wake: Callable[[], None] = lambda: None
        self.failure = ""
        self.count = 0
        self.pages: dict[str, Page] = {}
        self.files: dict[str, File] = {}
        self.written: dict[str, bytes] = {}
        MkDocsConfig.plugins.plugin_cache.clear()  # type: ignore[attr-defined]  # of another site in this process
        self._load()

    # -- building

    def fresh(self, path: str | None = None, quick: bool = False) -> None:
        """Build, if any file is not what it was at the last build: everything, or what a path below the site's address
        needs. Where only prose changed that is its page; all others are behind then, until one of them is asked for,
        or until this is called again without ``quick``."""
        with self.lock:
            first = not self.seen
            changed = self._changed()
            if first:
                self._whole(set())
            elif changed and not self._quickly(changed):
                self._whole(changed)
            if self.ahead and not quick and not self._needs_no_other(path):
                self._whole(set())

    def _needs_no_other(self, path: str | None) -> bool:
        """Whether a path has nothing of the pages that are behind."""
        if path is None or path in self.beside or path.startswith("search/"):
            return False
        url = self._url(path)
        return url in self.ahead or url not in self.pages

    def _url(self, path: str) -> str:
        """What the page at a path below the site's address is called here."""
        of_folders = path.removesuffix("index.html") or "./"
        return next((url for url in (path, of_folders, f"{path}index.html") if url in self.pages), path)

    def _quickly(self, changed: set[str]) -> bool:
        """Render these pages again by themselves, if they are pages of prose whose name and front matter stay."""
        docs = str(self.site.layout.root / self.site.layout.docs) + os.sep
        files = [self.by_source.get(path.removeprefix(docs)) for path in changed if path.startswith(docs)]
        known = [file for file in files if file and file.page and not file.src_uri.startswith("log/")]
        if self.failure or len(known) < len(changed) or not all(path in self.seen for path in changed):
            return False
        for file in known:
            page = file.page
            assert page
            before = page.meta, page.title
            page.__dict__.pop("render", None)  # as it was rendered before
            try:
                mkdocs_build._populate_page(page, self.config, self.all)
            except Exception:
                return False
            if (page.meta, page.title) != before or not self.plugin.finish_page(file):
                return False
            self.written.pop(unquote(file.url), None)
        self.ahead = {unquote(file.url) for file in known}
        self.count += 1
        self.tell({"built": self.count})
        return True

    def _whole(self, changed: set[str]) -> None:
        if changed:
            self._restart_if_own(changed)
            if self.settings in changed:
                try:
                    self._load()
                except Refused as error:  # the last good ones stay
                    said = str(error)
                    self.bad_settings = said if said.startswith("mkdocs.yml:") else f"mkdocs.yml: {said}"
                    say(self.bad_settings)
        try:
            self._build()
            self.failure = self.bad_settings
            for notebook in self.running.values():
                if notebook.path not in self.started:  # after the pages: they are what is waited for
                    self.started.add(notebook.path)
                    self.pool.submit(self._run, notebook)
        except (Abort, BuildError, ConfigurationError) as error:
            self.failure = str(error)
            say(self.failure)
        except Exception as error:  # of MkDocs or another plugin: the last good pages stay
            self.failure = f"{type(error).__name__}: {error}"
            say(traceback.format_exc())
        self.ahead.clear()
        self.count += 1
        looks = any(path.endswith((".css", ".js", ".svg", ".png", ".html")) for path in changed)
        self.tell({"built": self.count, "reload": looks})

    def _load(self) -> None:
        try:
            config = load_config(self.settings, site_dir=os.path.join(os.path.dirname(self.settings), "site"))
        except (Abort, ConfigurationError) as error:
            raise Refused(f"mkdocs.yml: {error}") from None
        plugin = plugin_of(config)
        first = not hasattr(self, "config")
        self.mount = (urlsplit(config.site_url or "/").path or "/").rstrip("/") + "/"
        config.site_url = f"http://127.0.0.1:{self.port}{self.mount}"
        if first:
            config.plugins.on_startup(command="serve", dirty=False)
        try:
            self.config: MkDocsConfig = config.plugins.on_config(config)
        except Abort as error:
            raise Refused(str(error)) from None
        self.bad_settings = ""
        self.hooks = [os.path.abspath(str(hook)) for hook in config.hooks]
        self.plugin, self.site = plugin, plugin.site
        self.site.later, self.site.hear = self._later, self._hear
        # A page's words go into the index when somebody searches, not each time the page is shown.
        self.search: Any = next((one for name, one in config.plugins.items() if name.endswith("search")), None)
        if self.search:
            events = config.plugins.events["page_context"]
            events[:] = [one for one in events if getattr(one, "__self__", None) is not self.search]
        self.env = config.theme.get_env()
        self.theme: list[File] = []
        root = self.site.layout.root
        self.katex = {f"assets/katex/{name}": data for name, data in katex_files(root).items()}

    def _build(self) -> None:
        """As ``mkdocs build`` does, up to where it writes."""
        config = self.config
        config.plugins.on_pre_build(config=config)
        files = get_files(config)
        if not self.theme:  # some thousands of names to go through, always the same
            own = {file.src_uri for file in files}
            files.add_files_from_theme(self.env, config)
            self.theme = [file for file in files if file.src_uri not in own]
        else:
            for file in self.theme:
                if file.src_uri not in files.src_uris:
                    files.append(file)
        files = config.plugins.on_files(files, config=config)
        set_exclusions(files, config)
        nav = config.plugins.on_nav(get_navigation(files, config), config=config, files=files)
        shown = files.documentation_pages(inclusion=InclusionLevel.is_in_serve)
        for file in shown:
            page = file.page or Page(None, file, config)
            mkdocs_build._populate_page(page, config, files)
        self.env = config.plugins.on_env(self.env, config=config, files=files)
        shown = files.documentation_pages(inclusion=InclusionLevel.is_in_serve)
        self.nav, self.shown, self.all = nav, shown, files
        self.by_source = {file.src_uri: file for file in shown if file.generated_by is None}
        self.pages = {unquote(file.url): file.page for file in shown if file.page}  # as paths are asked for
        self.files = {file.dest_uri: file for file in files if not file.is_documentation_page()}
        self.beside = self.plugin.beside()
        self.written = {}

    def _changed(self) -> set[str]:
        """The files that are not what they were at the last look.

        Clocks tick every few milliseconds: what was written just before a look may be written again within the same
        tick. Of such a file the bytes are compared.
        """
        now, seen = time.time_ns(), self._look()
        changed = {path for path in self.seen.keys() | seen.keys() if self.seen.get(path) != seen.get(path)}
        # What the last build found that a notebook reads was what it should be; it is only looked at from now on.
        changed -= {
            path for path in changed if path in self.read and path not in self.seen and seen[path][1] < self.looked
        }
        self.looked = now
        changed |= {path for path, found in self.recent.items() if _content(path) != found}
        late = [path for path, stamp in seen.items() if now - stamp[1] < _TICK]
        self.seen, self.recent = seen, {path: _content(path) for path in late}
        if self.again:
            self.again = False
            changed.add("")
        return changed

    def _look(self) -> Seen:
        """Every file that the site may be made of, with what changes when it is written."""
        layout = self.site.layout
        found: Seen = {}
        for folder in {layout.docs, layout.notebooks, *layout.sources}:
            for entry in _entries(str(layout.root / folder)):
                with contextlib.suppress(OSError):  # editors' own files come and go
                    found[entry.path] = _stamp(entry.stat())
        read = {
            name
            for outcome in self.site.outcomes.values()
            for inputs in (outcome.inputs, outcome.run.inputs if outcome.run else {})
            for kind in ("files", "listings")
            for name in inputs.get(kind, {})
        }
        self.read = {str(layout.root / name) for name in read} - found.keys()
        for path in {self.settings, *self.hooks, *self.read}:
            try:
                found[path] = _stamp(os.stat(path))
            except OSError:
                continue
        return found

    def _restart_if_own(self, changed: set[str]) -> None:
        """What is imported here cannot be changed under us."""
        own = tuple(folder + os.sep for folder in (str(_HERE), *map(os.path.dirname, self.hooks)))
        if any(path.startswith(own) and path.endswith((".py", ".mjs")) for path in changed):
            say("the server's own code changed; starting again")
            self.end(wait=False)  # for threads that may wait for the lock that is held here
            self.site.executor.kernels.kill()
            os.execv(sys.executable, [sys.executable, "-m", "weave.cli", *sys.argv[1:]])

    # -- pages and files

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """Type and body for a path below the site's address; None where nothing is."""
        with self.lock:
            if (url := self._url(path)) in self.pages:
                return "text/html; charset=utf-8", self._page(url)
            if path not in self.written:
                body = self._file(path)
                if body is None:
                    return None
                self.written[path] = body
            return mimetypes.guess_type(path)[0] or "application/octet-stream", self.written[path]

    @property
    def script(self) -> str:
        return f'<script type="module" src="{self.mount}{_OWN}desk.js"></script>'

    def _page(self, url: str) -> bytes:
        if url not in self.written:
            page, config = self.pages[url], self.config
            config._current_page, page.active = page, True
            content = page.content
            try:
                context = mkdocs_build.get_context(self.nav, self.shown, config, page)
                context = config.plugins.on_page_context(context, page=page, config=config, nav=self.nav)
                html = self.env.get_template(page.meta.get("template", "main.html")).render(context)
                html = config.plugins.on_post_page(html, page=page, config=config)
            finally:
                config._current_page, page.active, page.content = None, False, content  # type: ignore[assignment]
            failure = f'<div class="weave-error">{escape(self.failure)}</div>' if self.failure else ""
            html = html.replace("<article", f"{failure}<article", 1)
            self.written[url] = html.replace("</body>", f"{self.script}</body>", 1).encode(errors="xmlcharrefreplace")
        return self.written[url]

    def _file(self, path: str) -> bytes | None:
        if path == f"{_OWN}desk.js":
            return (_HERE / "desk.js").read_bytes()
        if make := self.beside.get(path):
            return make()
        if path in self.katex:
            data = self.katex[path]
            return data if isinstance(data, bytes) else data.read_bytes()
        if path == "search/search_index.json" and self.search:
            return self._search_index()
        file = self.files.get(path)
        return file.content_bytes if file else None

    def _search_index(self) -> bytes:
        self.search.search_index.entries = []
        for page in self.pages.values():
            content = page.content
            self.search.on_page_context({}, page=page, config=self.config, nav=self.nav)
            page.content = content
        return self.search.search_index.generate_search_index(None).encode()

    # -- notebooks

    def _later(self, stale: list[Notebook]) -> None:
        """Run these, and nothing else that runs still."""
        wanted = {notebook.path: notebook for notebook in stale}
        for path, notebook in list(self.running.items()):
            if path not in wanted or wanted[path].code != notebook.code:
                del self.running[path]
                self.site.executor.stop(path)
        for path, notebook in wanted.items():
            if path not in self.running:
                self.running[path] = replace(notebook)  # each run's own: parse() gives one for the same text
                self.started.discard(path)

    def _run(self, notebook: Notebook) -> None:
        with self.turns[notebook.path]:  # the run before it may be ending
            if self.running.get(notebook.path) is not notebook:
                return
            try:
                [outcome] = self.site.executor.run([notebook], 1)
            except Exception as error:  # no slip of the notebook's own
                what = (
                    f"could not be run ({type(error).__name__}: {error}); the terminal has more; edit it to try again"
                )
                outcome = Outcome(notebook, None, [Problem(notebook.path, 1, what)])
                say(traceback.format_exc())
        with self.lock:
            self.progress.pop(notebook.path, None)
            if self.running.get(notebook.path) is not notebook:  # it was edited since
                return
            del self.running[notebook.path]
            self.site.ran(outcome)
            self.again = True
            self.tell({"running": list(self.progress.values())})
        self.wake()

    def _hear(self, notebook: Notebook, number: int, output: dict[str, Any] | None) -> None:
        if output is None and self.running.get(notebook.path) is not notebook:  # edited before there was what to stop
            self.site.executor.stop(notebook.path)
        elif output is None:
            cells = notebook.code
            name = cells[number].name or f"cell {number + 1}"
            about = {"notebook": notebook.path, "cell": number + 1, "of": len(cells), "name": name}
            self.progress[notebook.path] = about
            self.tell({"running": list(self.progress.values())})

    # -- telling

    def tell(self, event: dict[str, Any]) -> None:
        for listener in list(self.listeners):
            listener.put(event)

    def end(self, wait: bool = True) -> None:
        for path in list(self.running):
            self.running.pop(path)
            self.site.executor.stop(path)
        self.pool.shutdown(wait, cancel_futures=True)
        self.site.executor.close()
        self.config.plugins.on_shutdown()


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        found = list(os.scandir(folder))
    except OSError:  # gone, or not there yet
        return
    for entry in found:
        if entry.name.startswith(".") or entry.name in _IGNORED or entry.name.endswith(".egg-info"):
            continue
        if entry.is_dir():
            yield from _entries(entry.path)
        elif entry.is_file():
            yield entry


def _content(path: str) -> str:
    return recorder.digest(Path(path)) or recorder.listing_digest(Path(path))


def _stamp(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    desk: Desk

    def do_GET(self) -> None:
        desk = self.desk
        path = unquote(urlsplit(self.path).path)
        if not path.startswith(desk.mount):
            self._redirect(desk.mount)
            return
        path = path.removeprefix(desk.mount)
        if path == f"{_OWN}events":
            self._events()
            return
        try:
            with desk.lock:
                desk.fresh(path)
                found = desk.answer(path)
            if found is None and not path.endswith("/") and desk.answer(path + "/"):
                self._redirect(f"{desk.mount}{quote(path)}/")
                return
        except Exception as error:  # a template, another plugin: the server lives on
            say(traceback.format_exc())
            self._refuse(500, f"{type(error).__name__}: {error}")
            return
        if found is None:
            self._refuse(404, f"no page and no file {path}")
        else:
            self._send(200, *found)

    def _refuse(self, status: int, why: str) -> None:
        """A page that says why, and is another one as soon as there is one."""
        page = f'<!doctype html><meta charset="utf-8"><title>{status}</title><body><pre>{escape(why)}</pre>'
        self._send(status, "text/html; charset=utf-8", (page + self.desk.script + "</body>").encode())

    def _redirect(self, to: str) -> None:
        self.send_response(302)
        self.send_header("Location", to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        self.wfile.write(body)

    def _events(self) -> None:
        """What happens, as it happens (server-sent events)."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Connection", "close")
        self.end_headers()
        heard: queue.Queue[dict[str, Any]] = queue.Queue()
        self.desk.listeners.add(heard)
        event: dict[str, Any] = {"built": self.desk.count, "running": list(self.desk.progress.values())}
        try:
            while True:
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.flush()
                event = heard.get()
        except OSError:  # the page was closed
            self.desk.listeners.discard(heard)

    def log_message(self, *args: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()


class _Watch(FileSystemEventHandler):
    """Tells when files change, once they are quiet."""

    def __init__(self, desk: Desk, observer: BaseObserver) -> None:
        self.desk, self.observer = desk, observer
        self.watched: set[str] = set()
        self.last = 0.0
        self.woken = threading.Event()
        threading.Thread(target=self._wait, daemon=True, name="watch").start()

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("modified", "created", "deleted", "moved", "closed"):
            self.last = time.monotonic()
            self.woken.set()

    def _wait(self) -> None:
        while True:
            self.woken.wait()
            while (left := self.last + _QUIET - time.monotonic()) > 0:
                time.sleep(left)
            self.woken.clear()
            try:
                self.desk.fresh(quick=True)  # a page of prose is shown before all others are made
                self.desk.fresh()
                self.follow()
            except Exception:  # the next edit is seen all the same
                say(traceback.format_exc())

    def follow(self) -> None:
        """Watch the folders of what notebooks read elsewhere, too."""
        for path in self.desk.read:
            folder = path if os.path.isdir(path) else os.path.dirname(path)
            if folder not in self.watched and os.path.isdir(folder):
                self.observer.schedule(self, folder)
                self.watched.add(folder)


def serve(settings: Path, host: str, port: int) -> None:
    """Serve until Ctrl-C. Raises Refused."""
    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Refused(f"{host}:{port}: {error.strerror}; choose another with --addr") from None
    started = time.monotonic()
    desk = Desk(str(settings.resolve()), port)
    desk.fresh()
    handler = type("Handler", (_Handler,), {"desk": desk})
    server = ThreadingHTTPServer((host, port), handler)
    server.daemon_threads = True
    observer = Observer()
    watch = _Watch(desk, observer)
    desk.wake = watch.woken.set
    layout = desk.site.layout
    tops = {str(layout.root / one) for one in (layout.docs, layout.notebooks, *layout.sources)}
    for folder in sorted(one for one in tops if os.path.isdir(one)):
        if not any(folder.startswith(other + os.sep) for other in tops):
            observer.schedule(watch, folder, recursive=True)
    observer.schedule(watch, str(layout.root), recursive=False)
    observer.start()
    desk.fresh()  # now it is known what notebooks read
    watch.follow()
    for name in (signal.SIGINT, signal.SIGTERM):  # also where a shell had them ignored
        signal.signal(name, signal.default_int_handler)
    waiting = f"; {len(desk.running)} notebooks run" if desk.running else ""
    print(
        f"http://{host}:{port}{desk.mount} (ready in {time.monotonic() - started:.1f} s{waiting}; Ctrl-C ends it)",
        flush=True,
    )
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        observer.stop()
        server.server_close()
        ending = threading.Thread(target=desk.end, daemon=True)
        ending.start()
        ending.join(5)  # what does not end by then ends with this process
        desk.site.executor.kernels.kill()
        sys.stderr.flush()
        os._exit(0)
