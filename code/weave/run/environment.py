"""The environment variables of a kernel process: a fixed list, so that a result cannot depend on others."""

from __future__ import annotations

import os
from pathlib import Path

from weave.run.facts import PASSED


def environment(folder: Path) -> dict[str, str]:
    """One thread, fixed seeds for what Python leaves open, and no personal settings: all machines compute alike.

    A few variables say where things are on this machine; a notebook that reads one of these has it as an input.

    Args:
        folder: A temporary folder of the process, in which IPython finds no settings.
    """
    fixed = {
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "IPYTHONDIR": str(folder / "ipython"),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "MATPLOTLIBRC": str(Path(__file__).with_name("weave.matplotlibrc")),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONSAFEPATH": "1",
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",  # a forked process would lack its threads
    }
    return {name: os.environ[name] for name in PASSED if name in os.environ} | fixed
