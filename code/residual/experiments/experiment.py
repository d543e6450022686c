"""An experiment: a model, its data, its loss, and what is kept of the run.

Each family of experiments is a file beside this, with a class that says the three: ``language``, ``othello``.
``run.py`` trains any of them, and knows nothing else about it.
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
    """A run. Its fields are all that decides the weights, and all of them are written on the card.

    A base class rather than a protocol, because the families inherit the fields: every run has steps, a learning rate
    and a seed, and ``run`` reads and replaces them.

    What is random in a step comes from the step's number alone (see ``training.train``). So runs that differ in their
    seed differ in their weights before training, and read the same batches in the same order.
    """

    about: str
    _: KW_ONLY
    steps: int
    lr: float
    warmup: int = 50
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float | None = 1.0
    data: str  # its name
    seed: int = 0  # of the weights before training, and of nothing else
    stages: tuple[int, ...] = ()  # after these updates a checkpoint of its own is kept: NAME-STEPS
    evaluate_every: int = 50

    @abstractmethod
    def model(self) -> Any:
        """The module before training, of a kind that ``files.checkpoints`` can keep; ``seed`` decides its weights."""

    @abstractmethod
    def loss(self, model: Any, step: int) -> Float[Tensor, ""]:
        """The loss at a step; its batch drawn by ``windows``, or passed through ``share`` (see ``training.train``).

        Args:
            model: what ``model()`` gave, perhaps compiled: to be called, and for its parameters' device.

        Raises:
            ModuleNotFoundError, ValueError: the data are not there; the message says what to do.
        """

    @abstractmethod
    def evaluate(self, model: Any) -> Mapping[str, Tensor]:
        """Numbers to keep of the model as it is, by name; the first is the one that stands for the run.

        Raises:
            ModuleNotFoundError, ValueError: as ``loss``.
        """

    @abstractmethod
    def drawn(self, updates: int) -> dict[str, int]:
        """The amount of data that so many updates take, for the card: ``{"tokens": 6144000}``."""
