"""A reader for the committed weight files: a length, a JSON header, and half-precision numbers.

Format: github.com/huggingface/safetensors, "Format". Nothing here imports the library.
"""

from __future__ import annotations

import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINTS = ROOT / "code/checkpoints"
SEEDS = range(5)


def named(family: str, seed: int = 0) -> str:
    """Return the name of the checkpoint of that seed."""
    return family if seed == 0 else f"{family}-seed{seed}"


def card(name: str) -> dict[str, Any]:
    """Return the card beside the weights; read again each time, because it is large."""
    return json.loads((CHECKPOINTS / f"{name}.json").read_text("utf-8"))


@cache
def config(name: str) -> dict[str, Any]:
    return card(name)["config"]


@cache
def weights(name: str) -> dict[str, Tensor]:
    """Return every tensor of a checkpoint in float64, by its name in the file."""
    raw = (CHECKPOINTS / f"{name}.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for key, entry in header.items():
        assert entry["dtype"] == "F16", f"{name}.safetensors has {key} in {entry['dtype']}; this reader reads only F16"
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        numbers = np.frombuffer(raw[start:stop], dtype="<f2").astype(np.float64)
        tensors[key] = torch.from_numpy(numbers.reshape(entry["shape"]))
    return tensors


def parameters(name: str) -> int:
    return sum(tensor.numel() for tensor in weights(name).values())


@cache
def heads(name: str, layer: int) -> dict[str, Tensor]:
    """Return ``Q``, ``K``, ``V`` as ``[head d_model d_head]`` and ``O`` as ``[head d_head d_model]``, for row vectors.

    The file has ``W_QKV [3 heads, d_head, d_model]``: all query maps, then all key maps, then all value maps.
    """
    w = weights(name)
    q, k, v = w[f"blocks.{layer}.attn.W_QKV"].transpose(1, 2).chunk(3)
    return {"Q": q, "K": k, "V": v, "O": w[f"blocks.{layer}.attn.W_O"]}


def W_OV(name: str, layer: int) -> Tensor:
    """Return W_OV ``[head d_model d_model]``."""
    h = heads(name, layer)
    return h["V"] @ h["O"]


def W_QK(name: str, layer: int) -> Tensor:
    """Return W_QK ``[head d_model d_model]``, without the ``1/√d_head``."""
    h = heads(name, layer)
    return h["Q"] @ h["K"].transpose(1, 2)
