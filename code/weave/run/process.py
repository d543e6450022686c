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


class Nonsense(KernelDied):
    """A process sent something else than an answer, and was killed."""


class KernelProcess:
    def __init__(self, connection: socket.socket, child: subprocess.Popen[bytes] | None = None) -> None:
        """Take over a connection. ``child``: the process, if it is this one's child and not a copy of another."""
        self.connection, self.child, self.ended = connection, child, False
        self.lines = connection.makefile("r", encoding="utf-8")
        self.pid = 0
        hello = self._receive(_CONNECT)
        self._expect(type(hello.get("pid")) is int, hello)
        self.pid = int(hello["pid"])

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
            Nonsense: It sent something else than an answer; the process is killed.
        """
        self.send("run", cell=number, source=source)
        end = time.monotonic() + seconds
        while "output" in (message := self._receive(end - time.monotonic())):
            self._expect(_is_output(message["output"]), message)
            on_output(message["output"])
        outputs = message.get("outputs")
        good = isinstance(outputs, list) and all(map(_is_output, outputs)) and type(message.get("count")) is int
        self._expect(good, message)
        return message

    def _expect(self, good: bool, message: object) -> None:
        if not good:
            self.end()
            raise Nonsense(f"{message!r:.60}")

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
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = line
        self._expect(isinstance(message, dict), message)
        return message

    def end(self) -> None:
        """Kill the process; may be called at any moment, from any thread, and again."""
        if self.ended:  # its number may belong to another process by now
            return
        self.ended = True
        with contextlib.suppress(OSError):
            if self.pid:
                os.killpg(self.pid, signal.SIGKILL)  # also the programs that its cells have left running
        for part in (self.lines, self.connection):
            with contextlib.suppress(OSError):
                part.close()
        if self.child:
            self.child.wait()


def _is_output(output: object) -> bool:
    """Return whether this is an output in nbformat's shape."""
    if not isinstance(output, dict):
        return False
    match output.get("output_type"):
        case "stream":
            return isinstance(output.get("name"), str) and isinstance(output.get("text"), str)
        case "display_data" | "update_display_data" | "execute_result":
            return isinstance(output.get("data"), dict) and isinstance(output.get("metadata"), dict)
        case "error":
            lines = output.get("traceback")
            texts = [output.get("ename"), output.get("evalue"), *(lines if isinstance(lines, list) else [None])]
            return all(isinstance(text, str) for text in texts)
    return False
