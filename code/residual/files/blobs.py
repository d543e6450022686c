"""Atomic file writes, and safetensors headers checked against the file before any tensor is read."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

LONGEST_HEADER = 10_000_000  # bytes; the header of a thousand-layer model has fewer than a million


class CheckpointError(ValueError):
    """An invalid file. The message says which file, what is wrong, and what to do."""


def write_whole(path: Path, data: bytes) -> None:
    """Write a temporary file, then rename it: readers see the old file or the new one, even after a power cut."""
    aside = path.with_name(path.name + ".part")
    with open(aside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def check_header(blob: bytes, path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the type and shape of each tensor of a safetensors file, after checking all lengths and offsets.

    Raises:
        CheckpointError: the header does not match the file.
    """

    def bad(why: str) -> CheckpointError:
        return CheckpointError(f"{path} is not an intact safetensors file: {why}")

    if len(blob) < 8:
        raise bad(f"it has {len(blob)} bytes")
    length = int.from_bytes(blob[:8], "little")
    if length > min(LONGEST_HEADER, len(blob) - 8):
        raise bad(f"it claims a header of {length:,} bytes; {len(blob) - 8:,} follow")
    try:
        header = json.loads(blob[8 : 8 + length])
        header.pop("__metadata__", None)
        tensors, ends = {}, []
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            shape, dtype = tuple(entry["shape"]), entry["dtype"]
            if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
                raise ValueError(f"{name} has shape {shape!r:.60}")
            tensors[name] = (dtype, shape)
            ends.append((begin, end, name))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise bad(f"its header cannot be read ({problem!r:.100})") from None
    reached = 0
    for begin, end, name in sorted(ends):
        dtype, shape = tensors[name]
        if begin != reached or end - begin != math.prod(shape) * _WIDTHS.get(dtype, 0):
            raise bad(f"{name} of type {dtype} and shape {list(shape)} cannot be in bytes {begin:,} to {end:,}")
        reached = end
    if reached != len(blob) - 8 - length:
        raise bad(f"its tensors need {reached:,} bytes; there are {len(blob) - 8 - length:,}")
    return tensors


_WIDTHS = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "U8": 1, "BOOL": 1}
