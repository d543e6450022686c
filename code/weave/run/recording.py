"""Begins to record what a notebook's process reads."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from IPython import get_ipython

from weave.run import imports, noticed
from weave.run.recorder import Recorder

current: Recorder | None = None
"""The recorder of this process. Set by `start`, read by `reads`."""


def start(root: str, target: str, cell_globals: dict[str, Any]) -> Recorder:
    """Begin to record; called in the kernel before the first cell."""
    global current
    recorder = current = Recorder(Path(root), Path(target))
    recorder.cell_globals = cell_globals
    recorder.places.made.add(os.path.realpath(os.environ["IPYTHONDIR"]))
    with recorder.paused():
        recorder.record("environment", "PYTHONPATH")
        imports.follow(recorder)
        noticed.follow(recorder)
    sys.addaudithook(recorder.audit)

    get_ipython().events.register("post_run_cell", recorder.record_packages)
    return recorder
