"""Measurements too long for a notebook's minute: ``residual measure smollm2-head-ablations`` writes ``code/results``.

A measurement is a table with some numbers at each place of ``shape``, for example each layer and head. Every place is
measured independently, so a notebook that reads the table can measure a few places again and compare (``spot_check``)::

    values, card = load_result("smollm2-head-ablations")
    claim(furthest=spot_check("smollm2-head-ablations", places=3, seed=1))
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from residual.errors import nearest
from residual.experiments import ablations, ioi_circuits, patching, repairs
from residual.files.cards import ResultCard, versions
from residual.files.results import FOLDER, load_result, save_result

Place = tuple[int, ...]
Row = Callable[..., Mapping[str, Tensor]]  # row(layer, head) returns the numbers of a place


@dataclass(frozen=True)
class Measurement:
    """A table of numbers: ``prepare`` loads the data and returns the function that measures one place."""

    about: str
    shape: tuple[int, ...]
    prepare: Callable[[], Row]


MEASUREMENTS = {
    "smollm2-head-ablations": Measurement(
        "SmolLM2 with each head at its mean: what is left of the prefix matching of 17.4 and 18.6, and of the loss",
        (30, 9),
        ablations.smollm2_on_repeats,
    ),
    "smollm2-self-repair": Measurement(
        "SmolLM2 with each head of layers 12 to 29 replaced: its direct effect and self-repair, on IOI and on speeches",
        (18, 9),
        repairs.smollm2_repair,
    ),
    "smollm2-ioi-patching": Measurement(
        "SmolLM2 on IOI: the effect of patching each activation at each position, by layer and kind",
        (30, 8),
        patching.smollm2_on_ioi,
    ),
    "smollm2-ioi-edge-scores": Measurement(
        "SmolLM2's edges scored by EAP and EAP-IG for indirect objects, against three other names",
        (len(ioi_circuits.STEPS),),
        ioi_circuits.scores,
    ),
    "smollm2-ioi-curves": Measurement(
        "The logit difference of SmolLM2 cut down to its best edges: orders of edges by size of circuit",
        (len(ioi_circuits.RANKINGS), len(ioi_circuits.FRACTIONS)),
        ioi_circuits.curves,
    ),
    "smollm2-ioi-choices": Measurement(
        "One circuit of SmolLM2 for indirect objects: nodes or edges, what replaces the rest, which positions",
        (len(ioi_circuits.LEVELS), len(ioi_circuits.WAYS), len(ioi_circuits.PLACES)),
        ioi_circuits.choices,
    ),
}
"""All measurements by name."""


def measurement(name: str) -> Measurement:
    """Return the measurement of that name.

    Raises:
        KeyError: there is no such measurement; the message lists the nearest names.
    """
    if name not in MEASUREMENTS:
        raise KeyError(f"no measurement {name!r}; {nearest(name, MEASUREMENTS)}")
    return MEASUREMENTS[name]


def compute(name: str, only: Iterable[Place] | None = None) -> dict[str, Tensor]:
    """Return the numbers, each ``[*shape *number]``; with ``only``, those of some places, ``[place *number]``.

    Raises:
        KeyError: there is no measurement of that name.
        ModuleNotFoundError: a package it needs is not installed.
        ValueError: ``only`` is empty, or has a place outside the table.
    """
    entry = measurement(name)
    every = list(itertools.product(*map(range, entry.shape)))
    places = every if only is None else [tuple(place) for place in only]
    if missing := [place for place in places if place not in every]:
        raise ValueError(f"{name} has no place {missing[0]}; its shape is {list(entry.shape)}")
    if not places:
        raise ValueError(f"only has no places of {name}; leave it out to measure all")
    row = entry.prepare()
    with torch.no_grad():
        rows = [row(*place) for place in tqdm(places, desc=name, leave=False, disable=None)]
    values = {number: torch.stack([place[number] for place in rows]) for number in rows[0]}
    return values if only is not None else {n: value.unflatten(0, entry.shape) for n, value in values.items()}


def measure(name: str, *, folder: Path = FOLDER) -> Path:
    """Measure all places and write the result and its card to ``folder``; return the path of the result.

    Raises:
        KeyError, ModuleNotFoundError: see ``compute``.
        OSError: ``folder`` does not exist and cannot be made.
    """
    entry = measurement(name)
    folder.mkdir(parents=True, exist_ok=True)  # first, so as to fail before the measurement rather than after it
    began = time.perf_counter()
    values = compute(name)
    card = ResultCard(
        name=name,
        about=entry.about,
        command=f"residual measure {name}",
        seconds=round(time.perf_counter() - began),
        settings={"shape": list(entry.shape), "threads": torch.get_num_threads()},
        versions=versions(),
    )
    return save_result(folder / f"{name}.safetensors", values, card)


def spot_check(name: str, *, places: int = 3, seed: int = 0, folder: Path = FOLDER) -> float:
    """Return the largest difference between the stored result and a few random places measured again.

    Where both are NaN the difference is 0; where only one is, it is infinite.

    Raises:
        KeyError, ModuleNotFoundError: see ``compute``.
        FileNotFoundError: there is no stored result; the message names the command that measures it.
        CheckpointError: the stored result is corrupt.
        ValueError: the stored result has other numbers, or another shape, than the measurement.
    """
    entry = measurement(name)
    path = folder / f"{name}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; residual measure {name} makes it")
    stored, _ = load_result(path)
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randperm(math.prod(entry.shape), generator=generator)[:places]
    drawn = torch.stack(torch.unravel_index(flat, entry.shape), dim=-1)  # place axis
    again = compute(name, [tuple(place) for place in drawn.tolist()])
    furthest = 0.0
    for number in sorted(stored.keys() | again.keys()):
        if number not in stored or number not in again or stored[number].shape[: len(entry.shape)] != entry.shape:
            raise ValueError(
                f"{path} does not match {name} as it is now ({number} differs); run residual measure {name}"
            )
        before = stored[number][drawn.unbind(-1)]
        distance = (before - again[number]).abs().nan_to_num(nan=math.inf)
        distance[before.isnan() & again[number].isnan()] = 0
        furthest = max(furthest, distance.max().item())
    return furthest
