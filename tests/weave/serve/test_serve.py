"""``weave serve``: what is wrong stands on the page at its place, the last good result stays, the server lives on."""

from __future__ import annotations

import html as html_module
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Small

NOTE, NOTEBOOK = "docs/notes/heat.md", "code/notebooks/heat.py"
FIGURE = 'role="img"'
OTHER = "# %% a\nfrom weave import claim\nclaim(other=3)\n"


@dataclass
class Server:
    site: Small
    process: subprocess.Popen[bytes]
    port: int
    log: IO[str]

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def get(self, path: str) -> str:
        address = f"http://127.0.0.1:{self.port}/repo/{path}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            return html_module.unescape(answer.read().decode())

    def until(self, path: str, condition: Callable[[str], bool]) -> str:
        """The page as soon as it is as it should be; while a build runs, the server lets a request wait for it."""
        end = time.monotonic() + 60
        while True:
            assert self.process.poll() is None, self.said()
            try:
                page = self.get(path)
                if condition(page):
                    return page
            except OSError:  # the server has not begun yet
                page = ""
            assert time.monotonic() < end, f"waited in vain; the page was:\n{visible(page)}\n\n{self.said()}"
            time.sleep(0.1)


def visible(page: str) -> str:
    body = page.partition("<article")[2].partition("</article>")[0]
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"<svg.*?</svg>|<[^>]*>", "", body, flags=re.DOTALL))


@contextmanager
def serving(site: Small) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open(site.root / "log", "w+") as log:
        command = [sys.executable, "-m", "weave.cli", "serve", "--addr", f"127.0.0.1:{port}"]
        process = subprocess.Popen(command, cwd=site.root, env=site.env, stdout=log, stderr=log, start_new_session=True)
        try:
            yield Server(site, process, port, log)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=30)
            finally:
                process.kill()


@pytest.fixture(scope="module")
def server(new_small: Callable[[], Small]) -> Iterator[Server]:
    site = new_small()
    site.write("code/notebooks/other.py", OTHER)
    with serving(site) as server:
        server.until("notes/heat/", good)
        yield server


def good(page: str) -> bool:
    return "weave-error" not in page and FIGURE in page and 'class="weave-claim"' in page


@dataclass(frozen=True)
class Break:
    path: str
    old: str
    new: str
    said: str
    """The line as it stands on the note's page."""
    runs: tuple[str, ...] = ()
    """Notebooks that run because of it."""


BREAKS = {
    "claim": Break(NOTE, "[0.5]", "[0.6]", f"{NOTE}:8: the note says 0.6; heat.py computed 0.5 (rate); weave fix"),
    "formula": Break(NOTE, "\\int_0", "\\itn_0", f"{NOTE}:18: bad math: Undefined control sequence: \\itn"),
    "front matter": Break(NOTE, "title:", "titl:", f"{NOTE}:2: no key 'titl' is known here; a note has: title, "),
    "link": Break(NOTE, "#setup)", "#setap)", f"{NOTE}:12: heat.py has no cell or heading 'setap'; it has: setup"),
    "anchor": Break(
        NOTE, "See [the", "See [this](#nowhere) [the", f"{NOTE}:12: no anchor '#nowhere' on this page; it has"
    ),
    "embed": Break(NOTE, "#decay)", "#decai)", f"{NOTE}:10: heat.py has no cell 'decai'; it has: decay"),
    "cell": Break(
        NOTEBOOK,
        "fig, ax =",
        "1 / 0\nfig, ax =",
        f"{NOTEBOOK}:14: cell 'decay': ZeroDivisionError: division by zero; the traceback is below",
        runs=("heat",),
    ),
    "module": Break(
        "code/lab.py",
        "RATE = 0.5",
        "RATE = 0.5 +",
        f"{NOTEBOOK}:9: cell 'setup': SyntaxError: invalid syntax",
        runs=("heat",),
    ),
    "metadata": Break(
        NOTEBOOK, "# %% decay", "# %% decay tags=3", f"{NOTEBOOK}:11: '# %% decay tags=3' does not begin a cell"
    ),
}


@contextmanager
def edited(site: Small, path: str, old: str, new: str) -> Iterator[None]:
    """Within the block something is wrong. Files change at once, as when an editor saves: nobody reads half of one."""
    good = site.read(path)
    assert old in good

    def save(text: str) -> None:
        target = site.root / path
        new_file = target.with_name(f".{target.name}")
        new_file.write_text(text, encoding="utf-8")
        new_file.replace(target)

    save(good.replace(old, new))
    try:
        yield
    finally:
        save(good)


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_wrong_stands_on_the_page_until_it_is_mended(server: Server, name: str) -> None:
    slip, before = BREAKS[name], len(server.said())
    with edited(server.site, slip.path, slip.old, slip.new):
        page = server.until("notes/heat/", lambda page: "weave-error" in page)
        assert visible(page).count(slip.said) == 1, visible(page)
        assert server.said()[before:].count(slip.said) == 1
        if name != "embed":
            assert FIGURE in page and "The curve falls" in page, "the last good figure stays"
        if name != "claim":
            assert ">0.5</a>" in page, "the last good number stays"
        assert "cooling down" in server.get("notebooks/heat/")
        assert tuple(re.findall(r"notebooks/(\w+)\.py runs", server.said()[before:])) == slip.runs
    server.until("notes/heat/", good)
    assert "weave-error" not in server.get("notebooks/heat/")
    assert tuple(re.findall(r"notebooks/(\w+)\.py runs", server.said()[before:])) == slip.runs, "mending is instant"


def test_the_traceback_stands_on_the_notebook_s_page(server: Server) -> None:
    with edited(server.site, NOTEBOOK, "fig, ax =", "undefined_name\nfig, ax ="):
        page = server.until("notebooks/heat/", lambda page: "weave-error" in page)
        assert f"{NOTEBOOK}:14: cell 'decay': NameError" in visible(page) and "Traceback (most recent call" in page
        assert FIGURE in page
    server.until("notebooks/heat/", lambda page: "weave-error" not in page)


@pytest.mark.parametrize(("path", "line"), [(NOTE, 8), (NOTEBOOK, 4)])
def test_a_file_that_is_no_text(server: Server, path: str, line: int) -> None:
    text = server.site.read(path).encode()
    try:
        server.site.write(path, re.sub(rb"A body|The decay", b"b\xf6dy", text, count=1))
        page = server.until("notes/heat/", lambda page: "weave-error" in page)
        assert f"{path}:{line}: not UTF-8 (byte 0xf6); save the file as UTF-8" in visible(page)
        assert "Small" in server.get("") and (FIGURE in page) == (path == NOTEBOOK)
    finally:
        server.site.write(path, text)
    server.until("notes/heat/", good)


def test_an_edit_runs_only_the_notebook_that_is_edited(server: Server) -> None:
    before = len(server.said())
    server.site.replace("code/notebooks/other.py", "other=3", "other=4")
    server.until("notebooks/other/", lambda page: "other = 4" in visible(page))
    assert re.findall(r"notebooks/(\w+)\.py runs", server.said()[before:]) == ["other"]


def test_prose_of_notes_and_notebooks_is_shown_without_a_run(server: Server) -> None:
    before = len(server.said())
    server.site.replace(NOTE, "A body cools", "Any body cools")
    server.until("notes/heat/", lambda page: "Any body cools" in page)
    server.site.replace(NOTEBOOK, "is positive", "is above zero")
    server.until("notebooks/heat/", lambda page: "is above zero" in page)
    assert "runs" not in server.said()[before:]


def test_a_new_notebook_and_a_new_note_appear_and_go(server: Server) -> None:
    server.site.write("code/notebooks/new.py", "# %% a\nprint('new here')\n")
    server.site.write("docs/notes/new.md", "# New\n\n![Said.](../../code/notebooks/new.py#a)\n")
    server.until("notes/new/", lambda page: "new here" in visible(page))
    (server.site.root / "code/notebooks/new.py").unlink()
    page = server.until("notes/new/", lambda page: "weave-error" in page)
    assert "docs/notes/new.md:3: no notebook new.py; code/notebooks/ has:" in visible(page)
    (server.site.root / "docs/notes/new.md").unlink()
    server.until("notes/heat/", good)


def test_a_citation_follows_the_bibliography(server: Server) -> None:
    entry = "@misc{fourier1822, author = {Fourier, J.}, title = {Heat}, year = 1822}\n"
    with edited(server.site, NOTE, "body cools", "body [@fourier1822] cools"):
        page = server.until("notes/heat/", lambda page: "weave-error" in page)
        assert f"{NOTE}:8: no work 'fourier1822' in docs/references.bib; it has none" in visible(page)
        server.site.write("docs/references.bib", entry)
        page = server.until("notes/heat/", good)
        assert "J. Fourier, Heat, 1822." in visible(page)
        server.site.write("docs/references.bib", "\n" + entry.replace("1822}", "1822"))
        page = server.until("notes/heat/", lambda page: "weave-error" in page)
        assert visible(page).count("docs/references.bib:2: 'fourier1822' cannot be read") == 1
    (server.site.root / "docs/references.bib").unlink()
    server.until("notes/heat/", good)


def test_hours_follow_their_entry(server: Server) -> None:
    log = "docs/log/posts/a.md"
    server.site.write("docs/log/index.md", "# Log\n\n<!-- weave:hours -->\n")
    server.site.write(log, '---\ndate: 2026-11-20\nsessions: ["9:00-"]\n---\n\n# A day\n')
    page = server.until("log/", lambda page: "is running" in page)
    assert "0 min on 1 day. One of 2026-11-20 is running." in visible(page)
    server.site.replace(log, '"9:00-"', '"9:00-10:30"')
    server.until("log/", lambda page: "1 h 30 min on 1 day." in visible(page))
    with edited(server.site, log, "10:30", "25:30"):
        page = server.until("log/posts/a/", lambda page: "weave-error" in page)
        assert f"{log}:3: 'sessions' cannot be \"9:00-25:30\"; write" in visible(page)
    server.until("log/posts/a/", lambda page: "Worked 9:00–10:30: 1 h 30 min." in visible(page))


def test_the_server_never_said_anything_of_its_own_inside(server: Server) -> None:
    """At the end: no traceback of ours, no build that ended in an error."""
    said = server.said()
    assert (
        "weave/serve/server.py" not in said and "mkdocs/" not in said and 'File "' not in said.replace('File "<', "")
    ), said


def test_a_first_build_that_fails_does_not_end_the_server(new_small: Callable[[], Small]) -> None:
    site = new_small()
    site.replace(NOTE, "[0.5]", "[0.6]")
    site.write("docs/index.md", b"# \xff\n")
    site.write("code/notebooks/never.py", "# %% a\n1 / 0\n")
    site.write(
        "docs/never.md", "# Never\n\n![A.](../code/notebooks/never.py#a) \n\n[5](../code/notebooks/never.py#=five)\n"
    )
    with serving(site) as server:
        page = server.until("notes/heat/", lambda page: "weave-error" in page)
        assert f"{NOTE}:8: the note says 0.6" in visible(page)
        assert "docs/index.md:1: not UTF-8" in visible(server.get(""))
        server.until("never/", lambda page: "never.py:2: cell 'a': ZeroDivisionError" in visible(page))
        assert "never.py:2: cell 'a': ZeroDivisionError" in visible(server.get("notebooks/never/"))
        site.replace(NOTE, "[0.6]", "[0.5]")
        server.until("notes/heat/", good)
    assert not list(site.root.glob(".site*"))


def test_open_pages_are_told_of_what_notebooks_read_elsewhere(new_small: Callable[[], Small]) -> None:
    site = new_small()
    site.write("data/read.txt", "one")
    site.write("data/listed/one.txt", "")
    code = "import os\nprint(open('data/read.txt').read(), len(os.listdir('data/listed')))"
    site.replace(NOTEBOOK, 'print("cooling", "down")', code)
    site.rerun()
    with serving(site) as server:
        server.until("notebooks/heat/", lambda page: "one 1" in visible(page))
        for path, said in (("data/read.txt", "two 1"), ("data/listed/two.txt", "two 2")):
            time.sleep(1)  # until the log that the server writes is quiet
            address = f"http://127.0.0.1:{server.port}/repo/_weave/events"
            with urllib.request.urlopen(address, timeout=20) as events:
                events.readline(), events.readline()
                site.write(path, "two")
                assert b"data: " in events.readline()
            server.until("notebooks/heat/", lambda page, said=said: said in visible(page))


def request(server: Server, head: str) -> str:
    """Return what the server answers to the head of a request, as it goes over the wire."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(f"{head}\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("[::1]:8000", 200),
        ("notes.localhost:1", 200),
        ("192.168.0.7", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("[half", 403),
    ],
)
def test_only_its_own_names_are_answered(server: Server, host: str, status: int) -> None:
    """A page on the web may give its own name this machine's address, and then ask for drafts."""
    answer = request(server, f"GET /repo/notes/heat/ HTTP/1.1\r\nHost: {host}")
    assert answer.startswith(f"HTTP/1.1 {status} ") and ("How heat decays" in answer) == (status == 200)


def test_odd_requests_are_answered(server: Server) -> None:
    head = request(server, "HEAD /repo/notes/heat/ HTTP/1.1\r\nHost: localhost")
    assert head.startswith("HTTP/1.1 200 ") and head.endswith("\r\n\r\n") and "Content-Length: 0" not in head
    assert request(server, "GET http://[half/ HTTP/1.1\r\nHost: localhost").startswith("HTTP/1.1 400 ")


def test_slow_sockets_and_hundreds_of_requests_at_once_keep_nobody_out(server: Server) -> None:
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(40)]
    try:
        for connection in slow:
            connection.sendall(b"GET /repo/ HTTP/1.1\r\n")  # and never the rest
        with ThreadPoolExecutor(300) as pool:
            pages = list(pool.map(lambda _: server.get("notes/heat/"), range(300)))
        assert all(map(good, pages))
    finally:
        for connection in slow:
            connection.close()


def test_the_notebook_of_the_page_that_is_read_runs_first(new_small: Callable[[], Small]) -> None:
    site = new_small()
    for letter in "abcdef":
        site.write(f"code/notebooks/{letter}.py", "# %% a\nimport time\nimport lab\ntime.sleep(0.5)\n")
    site.rerun()
    with serving(site) as server:
        server.until("notes/heat/", good)
        before = len(server.said())
        site.replace("code/lab.py", "RATE = 0.5", "RATE = 0.25")
        server.until("notes/heat/", lambda page: "the note says 0.5; heat.py computed 0.25" in visible(page))
        ran = re.findall(r"notebooks/(\w+)\.py runs", server.said()[before:])
        assert "heat" in ran[: os.cpu_count()], ran


def test_templates_of_the_theme_and_included_files_are_followed(new_small: Callable[[], Small]) -> None:
    site = new_small()
    site.replace("mkdocs.yml", "font: false}", "font: false, custom_dir: theme}\nwatch: [shared]")
    site.replace("mkdocs.yml", "  - tables\n", "  - tables\n  - pymdownx.snippets\n")
    site.write("theme/main.html", '{% extends "base.html" %}{% block footer %}Foot one.{% endblock %}')
    site.write("shared/said.md", "Said once.\n")
    site.write(NOTE, site.read(NOTE) + '\n--8<-- "shared/said.md"\n')
    with serving(site) as server:
        server.until("notes/heat/", lambda page: good(page) and "Said once." in page and "Foot one." in page)
        site.replace("shared/said.md", "once", "twice")
        server.until("notes/heat/", lambda page: "Said twice." in page)
        site.replace("theme/main.html", "Foot one", "Foot two")
        server.until("notes/heat/", lambda page: "Foot two." in page)
