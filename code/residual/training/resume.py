"""The state of an unfinished run: everything that the loop in train.py needs to resume as if it had never stopped.

A safetensors file (nothing is pickled) with its SHA-256 as the last 32 bytes. It is written aside and renamed, so a
kill at any moment leaves the last state or the one before it, whole.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from residual.files.blobs import check_header, write_whole


@dataclass
class History:
    """The record of a run. It is filled in during the run; a resumed run continues the earlier record."""

    losses: list[float] = field(default_factory=list)  # at each step, before its update
    evaluations: dict[int, dict[str, float]] = field(default_factory=dict)  # by the number of updates so far
    seconds: float = 0.0  # spent in the loop, summed over all parts of the run


def keep(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, history: History, arguments: dict[str, object]
) -> None:
    """Write everything the loop needs to resume: weights, AdamW's moments, torch's generators, the history."""
    tensors = {f"weight.{name}": weight.detach() for name, weight in model.named_parameters()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in moments.items()}
    tensors["losses"] = torch.tensor(history.losses, dtype=torch.float64)
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    notes = {
        "arguments": json.dumps(arguments),
        "evaluations": json.dumps(history.evaluations),
        "seconds": str(history.seconds),
    }
    blob = safetensors.torch.save(tensors, metadata=notes)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, blob + hashlib.sha256(blob).digest())  # (the digest is the file's last 32 bytes)


def restore(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, history: History, arguments: dict[str, object]
) -> int:
    """Restore a run's saved state; return the number of updates made so far.

    Raises:
        ValueError: the file is damaged, or belongs to another run.
    """
    data = path.read_bytes()
    blob, digest = data[:-32], data[-32:]
    if hashlib.sha256(blob).digest() != digest:
        raise ValueError(f"{path} is corrupt or truncated; delete it to start the run over")
    check_header(blob, path)
    tensors = safetensors.torch.load(blob)
    notes = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])["__metadata__"]
    before = json.loads(notes["arguments"])
    for name, value in arguments.items():
        if before.get(name) != value:
            raise ValueError(
                f"{path} is from a run with {name} = {before.get(name)}, not {value}; "
                "delete it to start this run over, or resume with the same settings"
            )
    weights = dict(model.named_parameters())
    saved = {name.removeprefix("weight."): tensor for name, tensor in tensors.items() if name.startswith("weight.")}
    for name in sorted(weights.keys() | saved.keys()):
        shapes = [list(where[name].shape) if name in where else "none" for where in (saved, weights)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{path} is from another model: its {name} has shape {shapes[0]}, not {shapes[1]}")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(saved[name])
    empty = optimiser.state_dict()
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, part = name.split(".")
            empty["state"].setdefault(int(index), {})[part] = tensor
    optimiser.load_state_dict(empty)
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    history.losses[:] = tensors["losses"].tolist()
    history.evaluations.update({int(step): values for step, values in json.loads(notes["evaluations"]).items()})
    history.seconds = float(notes["seconds"])
    return len(history.losses)
