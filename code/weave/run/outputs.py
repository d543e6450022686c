"""The outputs of a cell while it runs: what it prints, what programs write, what it displays and later changes."""

from __future__ import annotations

import base64
import codecs
import io
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

_OVERWRITTEN = re.compile(r"^[^\n]*\r(?=[^\n])", re.MULTILINE)  # searched once per line, however long
_AT_ONCE = 1000
"""Pieces of text that a cell sends as soon as it prints them; after these, it sends what it has from time to time."""
_FLOOD_PAUSE, _LOOK_PAUSE = 0.05, 0.0001  # seconds
_decoder = codecs.getincrementaldecoder("utf-8")


class Outputs:
    """The outputs of the running cell so far, in nbformat's shape; each piece is sent to the other end at once.

    Pieces of text that come in a flood are put together before they are sent: see `_AT_ONCE`.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None], before: Callable[[], None]) -> None:
        self.send = send
        self.before = before
        """Called before each output that Python makes: it adds what programs have written since."""
        self.begin()

    def begin(self) -> None:
        """Begin with another cell."""
        self.lock = threading.RLock()  # a new one: in a copy of the process, no thread would give back the old one
        self.updates: dict[str, dict[str, Any]] = {}
        """The last update of each display, by its id; it may stand in an earlier cell. Sent after all outputs."""
        self.sent, self.last_sent, self.looked = 0, 0.0, 0.0
        self.clear()

    def clear(self) -> None:
        self.all: list[dict[str, Any]] = []
        self.parts: list[str] = []
        """The text of the stream that is last in ``all``, whose own ``text`` is only set by `_end_stream`."""
        self.unsent = 0
        """The first of ``parts`` that is not sent yet."""
        self.clear_before_next = False

    def clear_now(self) -> None:
        with self.lock:
            self.before()
            self.clear()

    def add(self, output: dict[str, Any]) -> None:
        with self.lock:
            self.before()
            self._end_stream()
            if self.clear_before_next:
                self.clear()
            self.all.append(output)
            self.send({"output": output})

    def write(self, name: str, text: str) -> None:
        """Add to the stream ``stdout`` or ``stderr`` what Python writes.

        One print is many writes, so in the middle of a line programs are looked at only from time to time.
        """
        with self.lock:
            now = time.monotonic()
            if now - self.looked > _LOOK_PAUSE or not (self.parts and self.parts[-1][-1] != "\n"):
                self.before()
                self.looked = now
            self.written(name, text)

    def written(self, name: str, text: str) -> None:
        """Add to a stream."""
        if not text:
            return
        if self.clear_before_next:
            self.clear()
        if not (self.all and self.all[-1].get("name") == name):
            self._end_stream()
            self.all.append({"output_type": "stream", "name": name, "text": ""})
        self.parts.append(text)
        self.sent += 1
        if self.sent < _AT_ONCE or time.monotonic() - self.last_sent > _FLOOD_PAUSE:
            self._send_text()

    def update(self, name: str, shown: dict[str, Any]) -> None:
        """Change all displays of an id: here those of this cell; `answers.outputs` changes those of earlier cells."""
        for output in self.all:
            if output.get("transient") == {"display_id": name}:
                output.update(shown)
        self.updates[name] = {"output_type": "update_display_data", "transient": {"display_id": name}, **shown}

    def _send_text(self) -> None:
        text, self.unsent = "".join(self.parts[self.unsent :]), len(self.parts)
        if text:
            self.last_sent = time.monotonic()
            self.send({"output": {"output_type": "stream", "name": self.all[-1]["name"], "text": text}})

    def _end_stream(self) -> None:
        if self.parts:
            self._send_text()
            self.all[-1]["text"] = "".join(self.parts)
            self.parts, self.unsent = [], 0

    def finished(self) -> list[dict[str, Any]]:
        """Return all outputs, with text as a terminal shows it: carriage returns overwrite, backspaces erase."""
        self._end_stream()
        for output in self.all:
            if output["output_type"] == "stream":
                text = _OVERWRITTEN.sub("", output["text"])
                output["text"] = _erased(text) if "\b" in text else text
        return [*self.all, *self.updates.values()]


def _erased(text: str) -> str:
    """Return a text in which each backspace has erased the character before it, unless that is in another line."""
    kept: list[str] = []
    for character in text:
        if character == "\b" and kept and kept[-1] not in "\n\b":
            kept.pop()
        else:
            kept.append(character)
    return "".join(kept)


class Stream(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr`` of a cell."""

    encoding = "utf-8"  # type: ignore[assignment]

    def __init__(self, name: str, outputs: Outputs, descriptor: int) -> None:
        self.name, self.outputs, self.descriptor = name, outputs, descriptor
        self.pid = os.getpid()

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if os.getpid() == self.pid:
            self.outputs.write(self.name, text)
        else:  # a process that the cell has forked: a program like any other
            os.write(self.descriptor, text.encode(errors="replace"))
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor  # of the real stream, for programs that the notebook starts


class Programs:
    """The text that bypasses ``sys.stdout`` and ``sys.stderr``: compiled code and programs write to descriptors."""

    def __init__(self) -> None:
        # Files that belong to this process alone.
        self.files = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]  # noqa: SIM115
        self.read_up_to = [0, 0]
        self.decoders = [_decoder(errors="replace"), _decoder(errors="replace")]
        for descriptor, file in enumerate(self.files, start=1):
            os.dup2(file.fileno(), descriptor)

    def pass_on(self, outputs: Outputs) -> None:
        """Add to the outputs what was written since the last time."""
        for number, name in enumerate(("stdout", "stderr")):
            file, start = self.files[number].fileno(), self.read_up_to[number]
            if (size := os.fstat(file).st_size) > start:
                text = os.pread(file, size - start, start)
                self.read_up_to[number] += len(text)
                outputs.written(name, self.decoders[number].decode(text))


def encoded(data: dict[str, Any]) -> dict[str, Any]:
    """Return a bundle of MIME types with pictures that an object gave as bytes in base64, as nbformat has them."""
    return {kind: base64.b64encode(part).decode() if isinstance(part, bytes) else part for kind, part in data.items()}
