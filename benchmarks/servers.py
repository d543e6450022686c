"""Each tool's server, as an author works with it: started once, then an edit after the other is waited for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass

from corpus import Project
from measure import Processes

SETTLE = 15
"""Seconds after which a page that did not change is stale, if the server rests."""
PATIENCE = 180
"""Seconds that an edit may take."""
FIRST_PATIENCE = 900
"""Seconds until the first page: all notebooks run."""
_browser = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # straight to 127.0.0.1


class Failed(Exception):
    """A tool does not do what it should; the message says what it does."""


@dataclass
class Edit:
    """An edit and what came of it."""

    wall: float
    """Seconds until the edit shows."""
    cpu: float
    """CPU seconds from the edit until the server rests."""
    shows: str
    """'new'; 'stale', the page as it was before the edit; or what is wrong."""


class Tool:
    """A tool with its project, as its author works with it."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.processes = Processes(project.env)
        self.log = project.folder.with_suffix(".log")  # beside the project: a server may watch all that is in it
        self.remark = ""
        self.left = 0
        """Processes that still ran after the server had been ended."""

    def open(self) -> None:
        """Start, and wait for the first pages. Raises Failed."""
        raise NotImplementedError

    def wait(self, page: str, new: str, old: str) -> tuple[float, str]:
        """Return the seconds until the page says the new thing, and what it shows. Raises Failed."""
        raise NotImplementedError

    def read(self, page: str) -> str:
        """Return the page as it is now, without waiting for anything. Raises OSError."""
        raise NotImplementedError

    def close(self) -> None:
        self.left = self.processes.end()

    def edit(self, scenario: str, turn: int, number: int) -> Edit:
        """Save an edit of the note or notebook of this number, or of the module, and wait until it shows."""
        page, old = f"nb{number:02}", f"answer {self.project.base + number}"
        if scenario == "prose":
            page, old = f"note{number:02}", f"Note {number}"
        cpu, start = self.processes.cpu(), time.perf_counter()
        new = self.project.edit(scenario, turn, number)
        try:
            wall, shows = self.wait(page, new, old)
            self.processes.rest(PATIENCE)
            cpu = self.processes.cpu() - cpu
            if shows == "stale" and new in self.read(page):
                shows = "it only after a second look"
        except (Failed, OSError) as error:
            wall, cpu, shows = time.perf_counter() - start, self.processes.cpu() - cpu, f"nothing: {error}"
        return Edit(wall, cpu, shows)

    def last_line(self) -> str:
        """Return the last line that the tool has printed."""
        lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else "nothing"


class Served(Tool):
    """A tool with a server."""

    def command(self, port: int) -> list[str]:
        raise NotImplementedError

    def address(self, page: str) -> str:
        return f"{'notes' if page.startswith('note') else 'notebooks'}/{page}/"

    def open(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        with self.log.open("wb") as log:
            self.server = subprocess.Popen(
                self.command(self.port),
                cwd=self.project.folder,
                env=self.project.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, and then we end it
            )
        Processes.started.add(self.server.pid)
        for page, text in (("note01", "Note 1"), ("nb01", f"answer {self.project.base + 1}")):
            self._until(page, text, None, FIRST_PATIENCE)
        self.processes.rest(PATIENCE)

    def wait(self, page: str, new: str, old: str) -> tuple[float, str]:
        return self._until(page, new, old, PATIENCE)

    def read(self, page: str) -> str:
        with _browser.open(f"http://127.0.0.1:{self.port}/{self.address(page)}", timeout=PATIENCE) as answer:
            return answer.read().decode("utf-8", "replace")

    def _until(self, page: str, new: str, old: str | None, patience: float) -> tuple[float, str]:
        start, rested = time.perf_counter(), False
        while (waited := time.perf_counter() - start) < patience:
            text = ""
            with suppress(OSError):
                text = self.read(page)
            if new in text:
                return time.perf_counter() - start, "new"
            if self.server.poll() is not None:
                raise Failed(f"its server ended and printed: {self.last_line()}")
            if rested and old and old in text:
                return waited, "stale"
            if waited > SETTLE and old:
                self.processes.rest(PATIENCE)
                rested = True
            time.sleep(0.05)
        raise Failed(f"{page} does not say {new!r} after {patience:.0f} s")

    def close(self) -> None:
        if hasattr(self, "server"):
            for number, patience in ((signal.SIGINT, 15), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
                self.server.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    self.server.wait(patience)
                    break
            Processes.started.discard(self.server.pid)
        super().close()


class MkDocs(Served):
    def command(self, port: int) -> list[str]:
        serve = [str(self.project.python), "-m", "mkdocs", "serve", "--livereload", "--watch", "lib"]
        return [*serve, "--dev-addr", f"127.0.0.1:{port}"]


class Weave(Served):
    def command(self, port: int) -> list[str]:
        return [str(self.project.python), "-m", "weave.cli", "serve", "--addr", f"127.0.0.1:{port}"]


class MystContent(Served):
    """mystmd's server of pages as JSON."""

    def command(self, port: int) -> list[str]:
        myst = str(self.project.python.parent / "myst")
        return [myst, "start", "--headless", "--execute", "--server-port", str(port)]

    def address(self, page: str) -> str:
        return f"content/{page}.json"

    def open(self) -> None:
        super().open()
        self.remark = f"serves content as JSON here, not pages; its theme {self._theme()}"

    def _theme(self) -> str:
        """Say whether its theme, which makes the pages, can be downloaded here."""
        myst, env = str(self.project.python.parent / "myst"), self.project.env
        command = [myst, "templates", "download", "site/myst/book-theme", "theirs"]
        try:
            done = subprocess.run(
                command,
                cwd=env["TMPDIR"],
                env=env,
                capture_output=True,
                text=True,
                timeout=60,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            return "could not be downloaded here within a minute"
        reason = next((line for line in (done.stdout + done.stderr).splitlines() if "failed" in line), "?")
        return f"cannot be downloaded here: {reason.strip()}" if done.returncode else "could be, and is not used"


class Builds(Tool):
    """A tool without a server: each edit is followed by a build."""

    def open(self) -> None:
        self.remark = "has no server; its time is that of a build"
        self._build(FIRST_PATIENCE)
        for page, text in (("note01", "Note 1"), ("nb01", f"answer {self.project.base + 1}")):
            if text not in self._page(page):
                raise Failed(f"its first build does not say {text!r}")

    def wait(self, page: str, new: str, old: str) -> tuple[float, str]:
        start = time.perf_counter()
        self._build(PATIENCE)
        text = self._page(page)
        if new not in text and old not in text:
            raise Failed(f"{page} says neither {new!r} nor {old!r}")
        return time.perf_counter() - start, "new" if new in text else "stale"

    def read(self, page: str) -> str:
        self._build(PATIENCE)
        return self._page(page)

    def _page(self, page: str) -> str:
        kind = "notes" if page.startswith("note") else "notebooks"
        return (self.project.folder / f"docs/_build/html/{kind}/{page}.html").read_text("utf-8")

    def _build(self, patience: float) -> None:
        project = self.project
        with self.log.open("wb") as log:
            process = subprocess.Popen(project.command(), cwd=project.folder, env=project.env, stdout=log, stderr=log)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:  # Processes.cpu takes note of its end
            if ended := os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
                process.returncode = ended.si_status
                break
            time.sleep(0.01)
        if process.returncode != 0:
            raise Failed(f"its build failed and printed: {self.last_line()}")
