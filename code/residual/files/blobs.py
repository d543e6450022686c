"""Files written whole, and safetensors files whose header is compared with their bytes before anything is read."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

LONGEST_HEADER = 10_000_000  # bytes; that of a thousand-layer model is below one million


class CheckpointError(ValueError):
    """A file that is not what it has to be. The message says which, what is wrong, and what to do."""


def write_whole(path: Path, data: bytes) -> None:
    """Write a file aside, then rename it: a reader sees the old one or the new one, also after a power cut."""
    aside = path.with_name(path.name + ".part")
    with open(aside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def check_header(blob: bytes, path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor in the bytes of a safetensors file; its lengths and offsets have to add up.

    Raises:
        CheckpointError: they do not.
    """

    def bad(why: str) -> CheckpointError:
        return CheckpointError(f"{path} is no intact safetensors file: {why}")

    if len(blob) < 8:
        raise bad(f"it has {len(blob)} bytes")
    length = int.from_bytes(blob[:8], "little")
    if length > min(LONGEST_HEADER, len(blob) - 8):
        raise bad(f"it claims a header of {length:,} bytes; {len(blob) - 8:,} follow")
    try:
        header = json.loads(blob[8 : 8 + length])
        header.pop("__metadata__", None)
        found, ends = {}, []
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            shape, dtype = tuple(entry["shape"]), entry["dtype"]
            if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
                raise ValueError(f"{name} has shape {shape!r:.60}")
            found[name] = (dtype, shape)
            ends.append((begin, end, name))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise bad(f"its header does not read ({problem!r:.100})") from None
    reached = 0
    for begin, end, name in sorted(ends):
        dtype, shape = found[name]
        if begin != reached or end - begin != math.prod(shape) * _WIDTHS.get(dtype, 0):
            raise bad(f"{name} of type {dtype} and shape {list(shape)} cannot lie in bytes {begin:,} to {end:,}")
        reached = end
    if reached != len(blob) - 8 - length:
        raise bad(f"its tensors need {reached:,} bytes; {len(blob) - 8 - length:,} are there")
    return found


_WIDTHS = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "U8": 1, "BOOL": 1}
