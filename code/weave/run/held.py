"""The things that a process shares with its copies: open files (one position for all), pipes, memory mapped as shared.

A copy that is taken while a cell holds such a thing is no snapshot: what the original does afterwards changes it.
"""

from __future__ import annotations

import os
import posix  # whose functions announce nothing


def held() -> frozenset[str]:
    """Return the descriptors of this process with what they lead to, and its writable shared memory."""
    found = set()
    for descriptor in posix.listdir("/proc/self/fd"):
        try:
            target = posix.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:  # the listing's own, closed by now
            continue
        found.add(f"{descriptor} {target}")
    maps = posix.open("/proc/self/maps", os.O_RDONLY)
    with open(maps, "rb", closefd=True) as lines:
        for line in lines:
            place, permissions, *_ = line.split()
            if permissions[1:2] == b"w" and permissions[3:4] == b"s":
                found.add(place.decode())
    return frozenset(found)
