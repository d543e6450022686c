"""An experiment: a model, its data, its loss, and what to keep of the run.

Each family of experiments is a file in this folder with a subclass of ``Experiment``: ``language``, ``othello``.
``run.py`` trains any of them and knows nothing else about them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Experiment(ABC):
    """A run. Its fields determine the weights completely, and all of them are written on the card.

    This is a base class rather than a protocol because the families inherit its fields: every run has steps, a learning
    rate and a seed, which ``run`` reads and replaces.

    All randomness in a step comes from the step's number alone (see ``training.train``). So runs with different seeds
    differ in their initial weights, and read the same batches in the same order.
    """

    about: str
    _: KW_ONLY
    steps: int
    lr: float
    warmup: int = 50
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float | None = 1.0
    data: str  # name of the data
    seed: int = 0  # of the initial weights, and of nothing else
    stages: tuple[int, ...] = ()  # after each of these updates, save an extra checkpoint: NAME-STEPS
    evaluate_every: int = 50

    @abstractmethod
    def model(self) -> Any:
        """Return the untrained module, of a kind that ``files.checkpoints`` can save; ``seed`` sets its weights."""

    @abstractmethod
    def loss(self, model: Any, step: int) -> Float[Tensor, ""]:
        """Return the loss at a step, on a batch from ``windows`` or passed through ``share`` (see ``training.train``).

        Args:
            model: the result of ``model()``, perhaps compiled; use it only to call it and for its parameters' device.

        Raises:
            ModuleNotFoundError, ValueError: the data are missing; the message says what to do.
        """

    @abstractmethod
    def evaluate(self, model: Any) -> Mapping[str, Tensor]:
        """Return numbers to keep about the current model, by name; the first is the run's headline number.

        Raises:
            ModuleNotFoundError, ValueError: see ``loss``.
        """

    @abstractmethod
    def drawn(self, updates: int) -> dict[str, int]:
        """Return the amount of data read in so many updates, for the card: ``{"tokens": 6144000}``."""
