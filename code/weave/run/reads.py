"""`reads`, by which a notebook declares what nobody can see it read."""

from __future__ import annotations

import os
import sys
from typing import Any


def reads(*paths: str | os.PathLike[str]) -> None:
    """Declare the files and folders that this cell reads by a program, a database or compiled code.

    The notebook runs again when one of them changes. Without a path: what the cell reads that way never changes.

    Raises:
        FileNotFoundError: There is no such file or folder.
    """
    for path in paths:
        if not os.path.exists(path):
            raise FileNotFoundError(f"reads({os.fspath(path)!r}): there is no such file or folder")
    recording: Any = sys.modules.get("weave.run.recording")
    if recording and recording.current:
        recording.current.declare(paths)
