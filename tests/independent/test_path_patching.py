"""path-patching: circuits of the induction models run by hand, areas in numpy, edges counted, SmolLM2's table read."""

from __future__ import annotations

import json
import math
import struct
from functools import cache
from itertools import product

import numpy as np
import torch
from torch import Tensor

from .claims import Again, each, wrong
from .forward import forward
from .weights import ROOT, SEEDS, config, heads, named, weights

# ---- The induction models: a run in which every reader sees its own mixture of two runs' terms

Edge = tuple[str, str]
WRITERS = ["embed", *(f"0.{h}" for h in range(4))]


@cache
def texts(same: bool = False, rows: int = 48, length: int = 49) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return clean and corrupted tokens, the right and a wrong token; other texts than the notebook's."""
    generator = torch.Generator().manual_seed(99)
    clean, corrupted, right, false = [], [], [], []
    for _ in range(rows):
        period = int(torch.randint(8, 25, (), generator=generator))
        order = torch.randperm(512, generator=generator)
        other = order[100 : 100 + period].repeat(length)[:length] if same else order[100 : 100 + length]
        row = order[:period].repeat(length)[:length]
        clean.append(row[:-1])
        corrupted.append(other[:-1])
        right.append(row[-1])
        back = int(torch.randint(1, period, (), generator=generator))
        false.append(other[-1] if same else row[length - 1 - back])
    return torch.stack(clean), torch.stack(corrupted), torch.stack(right), torch.stack(false)


@cache
def terms(name: str, same: bool, which: int) -> tuple[list[Tensor], Tensor]:
    """Return what the embedding and the four early heads write, and what the late heads write, in one of two runs."""
    tokens = texts(same)[which]
    seen = forward(name, tokens, apart=True)
    return [weights(name)["W_E"][tokens], *seen.written[0].unbind(dim=2)], seen.written[1]


@cache
def metric(name: str, kept: frozenset[Edge], same: bool = False) -> float:
    clean, corrupted = terms(name, same, 0), terms(name, same, 1)
    right, false = texts(same)[2:]

    def reads(reader: str) -> Tensor:
        return sum((c if (w, reader) in kept else x) for w, c, x in zip(WRITERS, clean[0], corrupted[0], strict=True))

    h, n = heads(name, 1), texts(same)[0].shape[1]
    place, end = weights(name)["W_pos"][:n], reads("logits")[:, -1]
    for i in range(4):
        if (f"1.{i}", "logits") not in kept:
            end = end + corrupted[1][:, -1, i]
            continue
        q = ((reads(f"1.{i}.q") + place) @ h["Q"][i])[:, -1]
        k, v = (reads(f"1.{i}.k") + place) @ h["K"][i], reads(f"1.{i}.v") @ h["V"][i]
        A = (torch.einsum("be,bke->bk", q, k) / math.sqrt(config(name)["d_head"])).softmax(dim=-1)
        end = end + torch.einsum("bk,bke->be", A, v) @ h["O"][i]
    logits = end @ weights(name)["W_U"]
    row = torch.arange(len(right))
    return float((logits[row, right] - logits[row, false]).mean())


EVERY = frozenset(
    [(w, f"1.{i}.{side}") for w, i, side in product(WRITERS, range(4), "qkv")]
    + [(w, "logits") for w in [*WRITERS, *(f"1.{i}" for i in range(4))]]
)


def f(name: str, kept: frozenset[Edge], same: bool = False) -> float:
    low, high = metric(name, frozenset(), same), metric(name, EVERY, same)
    return (metric(name, kept, same) - low) / (high - low)


@cache
def mover(name: str) -> int:
    A = forward(name, texts()[0]).pattern[0]
    return int(A.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=(0, 2)).argmax())


def story(name: str, head: int) -> frozenset[Edge]:
    edges = [("embed", f"1.{head}.q"), (f"0.{mover(name)}", f"1.{head}.k"), ("embed", f"1.{head}.v")]
    return frozenset([*edges, (f"1.{head}", "logits")])


@cache
def best_head(seed: int) -> float:
    name = named("induction", seed)
    return max(f(name, story(name, head)) for head in range(4))


@cache
def ratio(seed: int, kind: str) -> list[tuple[float, float]]:
    """Return first order and exact, for the story's edges of this kind that cost more than one logit."""
    name, found = named("induction", seed), []
    clean, corrupted = terms(name, False, 0), terms(name, False, 1)
    h, n = heads(name, 1), texts()[0].shape[1]
    place, right, false = weights(name)["W_pos"][:n], *texts()[2:]
    d = (weights(name)["W_U"][:, right] - weights(name)["W_U"][:, false]).T
    for i in range(4):
        edge = ("embed", f"1.{i}.q") if kind == "q" else (f"0.{mover(name)}", f"1.{i}.k")
        exact = metric(name, EVERY - {edge}) - metric(name, EVERY)
        if abs(exact) <= 1:
            continue
        writer = WRITERS.index(edge[0])
        x = sum(clean[0])
        y = x.clone().requires_grad_()
        q = (((y if kind == "q" else x) + place) @ h["Q"][i])[:, -1]
        k = ((y if kind == "k" else x) + place) @ h["K"][i]
        A = (torch.einsum("be,bke->bk", q, k) / math.sqrt(config(name)["d_head"])).softmax(dim=-1)
        z = torch.einsum("bk,bke->be", A, x @ h["V"][i]) @ h["O"][i]
        (g,) = torch.autograd.grad((z * d).sum() / len(d), y)
        found.append((float((g * (corrupted[0][writer] - clean[0][writer])).sum()), exact))
    return found


def together(kind: str) -> float:
    """Return the sum of the first-order effects over that of the exact ones."""
    guess, exact = np.array([pair for seed in SEEDS for pair in ratio(seed, kind)]).sum(axis=0)
    return float(guess / exact)


# ---- Areas

SIZES = np.array([0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1])


def weight(x: np.ndarray, some: slice) -> float:
    """Return the share of an area that depends on some of the ten heights."""
    total = np.trapezoid(np.ones(10), x)
    one = np.zeros(10)
    one[some] = 1
    return float(sum(np.trapezoid(np.eye(10)[i], x) for i in np.flatnonzero(one)) / total)


# ---- SmolLM2


def shared_edges(n_layers: int = 30, n_heads: int = 9, key_heads: int = 3) -> int:
    """Count the pairs of a writer and a later reader, one by one."""
    count, written = 0, 1
    for _ in range(n_layers):
        count += written * (n_heads + 2 * key_heads)
        written += n_heads
        count += written  # the MLP reads the stream behind the heads
        written += 1
    return count + written


@cache
def table() -> dict[str, np.ndarray]:
    raw = (ROOT / "code/results/smollm2-ioi-choices.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        found[name] = np.frombuffer(raw[start:stop], dtype="<f4").reshape(entry["shape"]).astype(float)
    return found


def ratios() -> np.ndarray:
    return table()["difference"].mean(axis=-1) / table()["model"][0, 0, 0].mean()


NUMBERS = {
    "path-patching": {
        "edges": Again(lambda: float(len(EVERY))),
        "circuits": Again(lambda: 2.0 ** len(EVERY), 1e6),
        "four_least": Again(lambda: min(map(best_head, SEEDS)), 0.06),
        "four_most": Again(lambda: max(map(best_head, SEEDS)), 0.06),
        "q_ratio": Again(lambda: together("q"), 0.1),
        "k_ratio": Again(lambda: together("k"), 0.1),
        "mib_large": Again(lambda: weight(SIZES, slice(7, None))),
        "mib_small": Again(lambda: weight(SIZES, slice(5))),
        "mib_all": Again(lambda: weight(SIZES, slice(9, None))),
        "mib_log_large": Again(lambda: weight(np.log(SIZES), slice(7, None))),
        "ioi_edges": Again(lambda: float(shared_edges())),
        "choices_least": Again(lambda: ratios().min(), 1e-5),
        "choices_most": Again(lambda: ratios().max(), 1e-5),
    }
}


@each(NUMBERS)
def test_numbers(note: str, name: str, number: Again) -> None:
    assert not (problems := wrong(note, name, number)), "\n".join(problems)


def test_the_value_path_alone_is_faithful_if_the_corrupted_text_repeats_too() -> None:
    for seed in SEEDS:
        name = named("induction", seed)
        values = frozenset(edge for i in range(4) for edge in (("embed", f"1.{i}.v"), (f"1.{i}", "logits")))
        assert f(name, values, same=True) > 0.9
        assert abs(f(name, values)) < 0.25


def test_query_and_key_are_an_equality_if_the_corrupted_text_repeats_too_and_an_and_if_not() -> None:
    for seed in SEEDS:
        name, heads_seen = named("induction", seed), 0
        for head in range(4):
            q, k = ("embed", f"1.{head}.q"), (f"0.{mover(name)}", f"1.{head}.k")
            alone = [1 - f(name, EVERY - {edge}, same=True) for edge in (q, k)]
            if min(alone) > 0.05:
                heads_seen += 1
                assert abs(1 - f(name, EVERY - {q, k}, same=True)) < 0.2 * min(alone)
                broken = [1 - f(name, EVERY - cut) for cut in ({q}, {k}, {q, k})]
                assert broken[2] > 0.7 * min(broken[:2]) > 0.05
        assert heads_seen >= 2
