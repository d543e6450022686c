"""Fixtures: the site, built once and served under a sub-path as on GitHub Pages, and a headless browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
SUBPATH = "/repo/"
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# No sandbox: containers have no user namespaces. The others keep Chromium from requests to its maker at each start.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # a request to anywhere else fails, and is reported
]
MISSING = f"no browser on this machine ({', '.join(BROWSERS)}): the pages were NOT looked at"


@dataclass
class BuiltSite:
    folder: Path
    url: str
    """Address of the home page, with a slash at its end."""

    def file(self, url: str) -> Path:
        """Return the file that answers a URL of this site."""
        path = self.folder / url.partition("#")[0].removeprefix(self.url)
        return path / "index.html" if path.is_dir() else path

    @property
    def pages(self) -> list[str]:
        """The URLs of all pages."""
        files = sorted(self.folder.rglob("*.html"))
        urls = [self.url + path.relative_to(self.folder).as_posix().removesuffix("index.html") for path in files]
        return [url for url in urls if not url.endswith("/404.html")]


class _UnderSubpath(SimpleHTTPRequestHandler):
    """Serves a folder at SUBPATH and nothing elsewhere, so that an address from the root is a 404."""

    def translate_path(self, path: str) -> str:
        if not path.startswith(SUBPATH):
            return str(Path(self.directory) / "no such file")
        return super().translate_path(path.removeprefix(SUBPATH[:-1]))

    def log_message(self, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    allow_reuse_port = True  # each worker of pytest-xdist serves the same site, at the address that it is built for


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuiltSite]:
    """The built site; the first worker that needs it builds it, and the others wait."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # the workers' common folder
    folder, port = shared / "built-site", shared / "built-site.port"
    with FileLock(shared / "built-site.lock"):
        number = int(port.read_text()) if port.exists() else 0
        server = _Server(("127.0.0.1", number), partial(_UnderSubpath, directory=str(folder)))
        url = f"http://127.0.0.1:{server.server_port}{SUBPATH}"
        if not number:
            built = subprocess.run(
                [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
                cwd=ROOT,
                env={**os.environ, "SITE_URL": url, "NO_MKDOCS_2_WARNING": "1"},
                capture_output=True,
                text=True,
            )
            if built.returncode:
                pytest.fail(f"the site does not build:\n{built.stdout}{built.stderr}", pytrace=False)
            port.write_text(str(server.server_port))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield BuiltSite(folder, url)
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    browsers = [path for name in BROWSERS if (path := shutil.which(name))]
    if not browsers:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{MISSING}; .ci/run installs one", pytrace=False)
        pytest.skip(MISSING)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browsers[0], args=FLAGS)
        yield chromium
        chromium.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run a failed test once more, because a browser on a busy machine may be late; a real error fails twice."""
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if MISSING in str(report.longrepr)]
    if skipped:
        terminalreporter.write_sep("!", f"{len(skipped)} browser tests skipped: {MISSING}", red=True, bold=True)
