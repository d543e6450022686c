"""A handle on one kernel process, whose other end is `kernel.py`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

from weave.run.answers import Answer

_CONNECT = 30  # seconds that a process may take to send its number once it has connected


class KernelDied(Exception):
    """A process ended or did not start; the message says why, if that is known."""


class CellTimeout(Exception):
    """A cell took too long, and its process was killed."""


class KernelProcess:
    def __init__(self, connection: socket.socket, child: subprocess.Popen[bytes] | None = None) -> None:
        """Take over a connection. ``child``: the process, if it is this one's child and not a copy of another."""
        self.connection, self.child, self.ended = connection, child, False
        self.lines = connection.makefile("r", encoding="utf-8")
        self.pid = int(self._receive(_CONNECT)["pid"])

    def send(self, order: str, **arguments: Any) -> None:
        """Send one of the orders at the head of `kernel.py`. Raises KernelDied."""
        try:
            self.connection.sendall(json.dumps({"do": order, **arguments}).encode() + b"\n")
        except OSError:
            raise KernelDied("") from None

    def run(self, number: int, source: str, seconds: float, on_output: Callable[[dict[str, Any]], None]) -> Answer:
        """Run a cell and return its answer; ``on_output`` gets each output as it appears.

        Raises:
            CellTimeout: It took longer than ``seconds``; the process is killed.
            KernelDied: The process ended.
        """
        self.send("run", cell=number, source=source)
        end = time.monotonic() + seconds
        while "output" in (message := self._receive(end - time.monotonic())):
            on_output(message["output"])
        return message

    def _receive(self, seconds: float) -> dict[str, Any]:
        self.connection.settimeout(max(seconds, 0.001))
        try:
            line = self.lines.readline()
        except TimeoutError:
            self.end()
            raise CellTimeout from None
        except (OSError, ValueError):
            line = ""
        if not line:
            raise KernelDied("")
        return json.loads(line)

    def end(self) -> None:
        """Kill the process; may be called at any moment, from any thread, and again."""
        if self.ended:  # its number may belong to another process by now
            return
        self.ended = True
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
        for part in (self.lines, self.connection):
            with contextlib.suppress(OSError):
                part.close()
        if self.child:
            self.child.wait()
