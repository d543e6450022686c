"""``weave serve``: the site while its author is at work.

A request is answered from the files as they are at that moment (serve/preview.py). Notebooks run beside that; until one
is done, pages show its last result, marked. Open pages are notified, and change in place (``page.js``).
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from watchdog.observers import Observer

from weave.serve.preview import Preview
from weave.serve.shown import OWN
from weave.serve.watch import Watcher
from weave.source.problem import Refused, say

_AT_ONCE = 32  # requests that are answered at once; open pages, which wait for news, are not counted
_PATIENCE = 5  # seconds that a browser may take to say what it wants


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024  # connections that wait for their turn; the system would refuse the sixth otherwise

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        super().__init__(address, handler)
        self.turns = threading.Semaphore(_AT_ONCE)
        self.has_turn: set[int] = set()
        """The sockets, by descriptor, that count as being answered."""

    def process_request(self, request: Any, client_address: Any) -> None:
        self.turns.acquire()
        self.has_turn.add(request.fileno())
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.give_turn(request)
        super().shutdown_request(request)

    def give_turn(self, request: Any) -> None:
        """Let the next request be answered; without effect if this one has done so."""
        if request.fileno() in self.has_turn:
            self.has_turn.discard(request.fileno())
            self.turns.release()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _PATIENCE
    server: _Server
    preview: Preview
    host: str
    """The name given with --addr."""

    def do_GET(self) -> None:
        preview = self.preview
        if not self._is_own(self.headers.get("Host", "")):
            # A page on the web can give its own name this machine's address, and would read drafts.
            self._refuse(403, "this server answers to localhost only; for another name: weave serve --addr NAME:PORT")
            return
        try:
            path = unquote(str(urlsplit(self.path).path))
        except ValueError as error:
            self._refuse(400, f"not an address: {error}")
            return
        if not path.startswith(preview.mount):
            self._redirect(preview.mount)
            return
        path = path.removeprefix(preview.mount)
        if path == f"{OWN}events":
            self._events()
            return
        try:
            with preview.lock:
                preview.fresh(path)
                found = preview.answer(path)
            if found is None and not path.endswith("/") and preview.answer(path + "/"):
                self._redirect(f"{preview.mount}{quote(path)}/")
                return
        except Exception as error:  # a template, another plugin: the server lives on
            say(traceback.format_exc())
            self._refuse(500, f"{type(error).__name__}: {error}")
            return
        if found is None:
            self._refuse(404, f"no page and no file {path}")
        else:
            self._send(200, *found)

    do_HEAD = do_GET

    def _is_own(self, host: str) -> bool:
        """Return whether a request's Host is this server: an address in digits, localhost, or the name given."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        with contextlib.suppress(ValueError):
            return bool(ipaddress.ip_address(name))
        return name in ("", self.host, "localhost") or name.endswith(".localhost")

    def _refuse(self, status: int, why: str) -> None:
        """Send an error page that reloads itself once the real page exists."""
        page = f'<!doctype html><meta charset="utf-8"><title>{status}</title><body><pre>{escape(why)}</pre>'
        self._send(status, "text/html; charset=utf-8", (page + self.preview.script + "</body>").encode())

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
        if self.command != "HEAD":
            self.wfile.write(body)

    def _events(self) -> None:
        """Send what happens, as it happens (server-sent events)."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.server.give_turn(self.connection)  # it stays open as long as the page does
        events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.preview.listeners.add(events)
        event: dict[str, Any] = {
            "built": self.preview.count,
            "running": list(self.preview.background.progress.values()),
        }
        try:
            while True:
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.flush()
                event = events.get()
        except OSError:  # the page was closed
            self.preview.listeners.discard(events)

    def log_message(self, *args: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()


def serve(settings: Path, host: str, port: int) -> None:
    """Serve until Ctrl-C. Raises Refused."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Refused(f"{host}:{port}: {error.strerror}; choose another with --addr") from None
    started = time.monotonic()
    preview = Preview(str(settings.resolve()), port)
    preview.fresh()
    server = _Server((host, port), type("Handler", (_Handler,), {"preview": preview, "host": host}))
    observer = Observer()
    watcher = Watcher(preview.watched, preview.refresh, observer)
    preview.wake = watcher.wake
    observer.start()
    preview.fresh()  # the first build recorded what notebooks read
    watcher.follow()
    for name in (signal.SIGINT, signal.SIGTERM):  # also where a shell had them ignored
        signal.signal(name, signal.default_int_handler)
    running = len(preview.background.running)
    waiting = f"; {running} notebooks run" if running else ""
    print(
        f"http://{host}:{port}{preview.mount} (ready in {time.monotonic() - started:.1f} s{waiting}; Ctrl-C ends it)",
        flush=True,
    )
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        observer.stop()
        server.server_close()
        ending = threading.Thread(target=preview.end, daemon=True)
        ending.start()
        ending.join(5)  # what does not end by then ends with this process
        preview.book.executor.kernels.kill()
        sys.stderr.flush()
        os._exit(0)
