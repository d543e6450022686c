"""The process that runs a notebook's cells: IPython behind a socket, which can be copied at any moment.

On Linux a first process imports the modules that take long and runs nothing. Each notebook gets a copy of it
(``fork``), and while an author is at work a copy is kept of the state before each cell: a changed cell is run in
exactly the state that the cells before it left. The other end is ``process.py``; both speak JSON, one message per line:

- ``{"do": "fork"}``: a copy of this process connects to the same address and takes orders of its own;
- ``{"do": "begin", "root": …, "record": …}``: this process becomes a notebook's and records what it reads;
- ``{"do": "record", "record": …}``: continue the record in another file;
- ``{"do": "run", "cell": 3, "source": …}``: answered by one message for each output as it appears, then by
  ``{"outputs": […], "count": …}``, where updates of displays (``update_display_data``) come last.

It ends when its connection does, even in the middle of a cell.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import random
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type
from traitlets.config import Config

from weave.run import facts, recording
from weave.run.held import held
from weave.run.outputs import Outputs, Programs, Stream, encoded
from weave.run.recorder import Recorder

_FLUSH = ctypes.CDLL(None).fflush
"""C's own, found once: what a cell looks up in compiled code is recorded."""


class Publisher(DisplayPublisher):
    """Receives what ``display`` shows."""

    outputs: Outputs

    def publish(  # type: ignore[override]
        self, data: Any, metadata: Any = None, *, transient: Any = None, update: bool = False, **_: Any
    ) -> None:
        shown = {"data": encoded(data), "metadata": metadata or {}}
        name = (transient or {}).get("display_id")
        if name and update:
            self.outputs.update(name, shown)
        else:
            known = {"transient": {"display_id": name}} if name else {}
            self.outputs.add({"output_type": "display_data", **shown, **known})

    def clear_output(self, wait: bool = False) -> None:
        if wait:
            self.outputs.clear_before_next = True
        else:
            self.outputs.clear_now()


class LastValue(DisplayHook):
    """Receives the value of a cell's last expression."""

    outputs: Outputs

    def write_output_prompt(self) -> None:
        pass

    def write_format_data(self, format_dict: Any, md_dict: Any = None) -> None:
        shown = {"data": encoded(format_dict), "metadata": md_dict or {}}
        self.outputs.add({"output_type": "execute_result", **shown})

    def finish_displayhook(self) -> None:
        pass


class Shell(InteractiveShell):
    display_pub_class = Type(Publisher)
    displayhook_class = Type(LastValue)
    outputs: Outputs
    system = InteractiveShell.system_raw  # a program has no terminal here

    def enable_gui(self, gui: str | None = None) -> None:
        pass

    def enable_matplotlib(self, gui: str | None = None) -> Any:
        """``%matplotlib`` and ``%pylab``: figures are inline from the start, and there is nowhere to open a window."""
        if gui not in (None, "auto", "inline", "agg"):
            raise UsageError(f"no window opens here, as {gui} would need; write inline, or leave the line out")
        return super().enable_matplotlib("agg" if gui == "agg" else "inline")

    def ask_exit(self) -> None:
        raise SystemExit

    def _showtraceback(self, etype: Any, evalue: Any, stb: list[str]) -> None:
        error = {"output_type": "error", "ename": etype.__name__, "evalue": str(evalue), "traceback": stb}
        self.outputs.add(error)


class Kernel:
    """Takes orders, each of which is a method of the same name; see the head of this file."""

    def __init__(self, address: str, shell: Shell) -> None:
        self.address, self.shell = address, shell
        self.recorder: Recorder | None = None
        self.outputs = Outputs(self.send, lambda: self.programs.pass_on(self.outputs))
        for part in (shell, shell.display_pub, shell.displayhook):
            part.outputs = self.outputs  # type: ignore[union-attr]
        self.connect()

    def connect(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(self.address)
        self.lines = self.socket.makefile("r", encoding="utf-8")
        self.pid = os.getpid()
        self.send({"pid": self.pid})
        threading.Thread(target=_end_with, args=(self.socket,), daemon=True, name="weave").start()
        self.programs = Programs()
        self.own = held()

    def send(self, message: dict[str, Any]) -> None:
        if os.getpid() != self.pid:  # a process that a cell has forked
            return
        with contextlib.suppress(OSError):  # nobody listens any more: the watching thread ends this process
            text = json.dumps(message, default=str, ensure_ascii=False)
            self.socket.sendall(text.encode(errors="replace") + b"\n")  # half a surrogate pair cannot be shown

    def serve(self) -> None:
        while line := self.lines.readline():
            order = json.loads(line)
            getattr(self, order.pop("do"))(**order)
        os._exit(0)

    # -- orders

    def fork(self) -> None:
        paused = self.recorder.paused() if self.recorder else contextlib.nullcontext()
        with paused, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about forking beside a thread; ours only waits
            drawn = random.getstate()  # Python seeds its generator anew in a child
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                return
            if os.fork():  # the copy is a grandchild: a notebook might see children of its process
                os._exit(0)
            os.setsid()  # what this copy starts ends with it
            random.setstate(drawn)
            os.close(self.socket.detach())  # the original keeps its own
            self.connect()

    def begin(self, root: str, record: str) -> None:
        os.chdir(root)
        # As in a process that has just started: what nobody seeds differs from run to run.
        random.seed()
        if numpy := sys.modules.get("numpy"):
            numpy.random.seed()
        self.recorder = recording.start(root, record, self.shell.user_ns)
        with self.recorder.paused():
            self.own = held()

    def record(self, record: str) -> None:
        assert self.recorder
        self.recorder.write_to(record)
        with self.recorder.paused():
            self.own = held()

    def run(self, cell: int, source: str) -> None:
        self.outputs.begin()
        if self.recorder:
            self.recorder.cell = cell
        streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = Stream("stdout", self.outputs, 1), Stream("stderr", self.outputs, 2)
        count = self.shell.execution_count
        try:
            result = self.shell.run_cell(source, store_history=True)
        finally:
            sys.stdout, sys.stderr = streams
        if os.getpid() != self.pid:  # a process that the cell forked must not take the orders meant for this one
            os._exit(0)
        _FLUSH(None)  # compiled code keeps its text until then
        self.programs.pass_on(self.outputs)
        if self.recorder:
            threads = threading.active_count() > 2  # more than our own two: a copy would lack the others
            with self.recorder.paused():
                shared = bool(held() - self.own)
            if threads:
                self.recorder.record("effects", "threads")
            if threads or shared:
                self.recorder.record_again("held", "")
        error = result.error_before_exec or result.error_in_exec
        if error and not any(output["output_type"] == "error" for output in self.outputs.all):  # SystemExit
            self.outputs.add(
                {"output_type": "error", "ename": type(error).__name__, "evalue": str(error), "traceback": []}
            )
        self.send({"outputs": self.outputs.finished(), "count": count})


def _end_with(connection: socket.socket) -> None:
    """End this process when the other end of its connection closes."""
    poll = select.poll()
    poll.register(connection.fileno(), getattr(select, "POLLRDHUP", 0) | select.POLLHUP)
    poll.poll()
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """``python -m weave.run.kernel ADDRESS MODULE…``: import the modules, then take orders."""
    address, *modules = sys.argv[1:]
    sys.argv[:] = [""]  # the address differs at each run
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.separate_in = ""
    config.InlineBackend.figure_formats = {"svg"}
    config.InlineBackend.print_figure_kwargs = {"bbox_inches": "tight", "metadata": {"Date": None}}
    try:
        import logging

        logging.getLogger("matplotlib.font_manager").setLevel("ERROR")  # "this may take a moment"
        shell = Shell.instance(config=config)
        for module in modules:
            importlib.import_module(module)
        facts.owners()  # takes a while: known to all copies of this process
        kernel = Kernel(address, shell)
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    kernel.serve()


if __name__ == "__main__":
    main()
