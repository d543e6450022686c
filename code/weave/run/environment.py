"""The environment variables of a kernel process."""

from __future__ import annotations

import os
from pathlib import Path


def environment(folder: Path) -> dict[str, str]:
    """One thread, fixed seeds for what Python leaves open, and no personal settings: all machines compute alike.

    Args:
        folder: A temporary folder of the process, in which IPython finds no settings.
    """
    fixed = {
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
    return {name: value for name, value in {**os.environ, **fixed}.items() if name != "PYTHONSTARTUP"}
