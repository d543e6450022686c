"""GGUF, the file format of llama.cpp: a header of key-value pairs, a table of tensors, and the tensors' bytes.

This module reads the header, and checks every length against the file before allocating anything of that length; the
package ``gguf`` only dequantizes blocks. Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class Entry:
    """A tensor's place in the file: shape (slowest axis first), ggml's type number, first byte and length."""

    shape: tuple[int, ...]
    kind: int
    start: int
    length: int


class GGUF:
    """An open file: ``values`` by key, ``shapes`` of the tensors by name, ``read(name)`` for a tensor as float32.

    Raises:
        ValueError: the file is truncated, corrupt, of another format, or claims sizes that it cannot hold.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            if size < 24:
                raise ValueError(f"{path} has {size} bytes, too few for a GGUF file")
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 0
        try:
            self.values, self.tensors = self._header()
        except struct.error:
            raise self._error("ends in the middle of its header") from None
        self.shapes = {name: entry.shape for name, entry in self.tensors.items()}

    def read(self, name: str) -> Tensor:
        """Return the tensor as float32."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        entry = self.tensors[name]
        stored = np.frombuffer(self._bytes, np.uint8, entry.length, entry.start)
        kind = GGMLQuantizationType(entry.kind)
        try:
            numbers = dequantize(stored.reshape(*entry.shape[:-1], -1), kind)
        except NotImplementedError:
            raise self._error(
                f"stores {name} as {kind.name}, which the package gguf cannot turn into numbers"
            ) from None
        return torch.from_numpy(np.array(numbers, dtype=np.float32).reshape(entry.shape))

    def _header(self) -> tuple[dict[str, Any], dict[str, Entry]]:
        magic, version, n_tensors, n_values = self._unpack("4sIQQ")
        if magic != b"GGUF":
            raise self._error(f"begins with {magic!r}, not b'GGUF'")
        if version not in (2, 3):
            raise self._error(f"has version {version}; versions 2 and 3 can be read")
        if 24 * n_tensors + 13 * n_values > len(self._bytes):  # the least that each can take
            raise self._error(f"claims {n_tensors} tensors and {n_values} values, but is too short for them")
        values: dict[str, Any] = {}
        for _ in range(n_values):
            key = self._string()
            (kind,) = self._unpack("I")
            values[key] = self._value(key, kind)
        infos = [(self._string(), *self._info()) for _ in range(n_tensors)]
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 8 or alignment % 8:
            raise self._error(f"has general.alignment {alignment!r}; it must be a multiple of 8")
        data = -(-self._at // alignment) * alignment  # rounded up
        tensors = {}
        for name, shape, kind, offset in infos:
            start, length = data + offset, self._length(name, shape, kind)
            if start + length > len(self._bytes):
                raise self._error(
                    f"claims that {name} is {list(shape)} and ends at byte {start + length}, beyond its end"
                )
            if name in tensors:
                raise self._error(f"has two tensors called {name}")
            tensors[name] = Entry(shape, kind, start, length)
        return values, tensors

    def _info(self) -> tuple[tuple[int, ...], int, int]:
        (n_axes,) = self._unpack("I")
        if n_axes > 4:
            raise self._error(f"has a tensor of {n_axes} axes; the most is 4")
        shape = self._unpack(f"{n_axes}Q")[::-1]  # ggml lists the fastest axis first
        kind, offset = self._unpack("IQ")
        return shape, kind, offset

    def _length(self, name: str, shape: tuple[int, ...], kind: int) -> int:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        if kind not in [known.value for known in GGML_QUANT_SIZES]:
            raise self._error(f"stores {name} as type {kind}, which the package gguf does not know")
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if not shape or 0 in shape or shape[-1] % block:
            raise self._error(f"claims that {name} is {list(shape)}, stored in blocks of {block}, which do not fit")
        return math.prod(shape) // block * size

    def _value(self, key: str, kind: int) -> Any:
        if kind in SCALARS:
            return self._unpack(SCALARS[kind])[0]
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            raise self._error(f"has a value of unknown type {kind} for {key!r}")
        item, count = self._unpack("IQ")
        if item != STRING and item not in SCALARS:
            raise self._error(f"has a list of unknown type {item} for {key!r}")
        least = 8 if item == STRING else struct.calcsize(SCALARS[item])
        if count * least > len(self._bytes) - self._at:
            raise self._error(f"claims that {key!r} has {count} items, but is too short for them")
        if item == STRING:
            return [self._string() for _ in range(count)]
        return list(self._unpack(f"{count}{SCALARS[item]}"))

    def _string(self) -> str:
        (length,) = self._unpack("Q")
        if length > len(self._bytes) - self._at:
            raise self._error(f"has a string of {length} bytes at byte {self._at}, but is too short for it")
        text = self._bytes[self._at : self._at + length]
        self._at += length
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise self._error(f"has a string at byte {self._at - length} that is not UTF-8") from None

    def _unpack(self, layout: str) -> tuple:
        values = struct.unpack_from("<" + layout, self._bytes, self._at)
        self._at += struct.calcsize("<" + layout)
        return values

    def _error(self, problem: str) -> ValueError:
        return ValueError(f"{self.path} {problem}; it is corrupt or incomplete: get it again")
