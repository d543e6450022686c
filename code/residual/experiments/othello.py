"""Othello models trained on moves alone: do they know the board? (Li et al. 2023, "Emergent World Representations";
Nanda et al. 2023, "Emergent Linear Representations".)

The entry holds the numbers of a run that is not possible yet: the code that draws the games is not in the library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import NoReturn

from torch import Tensor

from residual.experiments.experiment import Experiment
from residual.model import Config, Transformer


@dataclass(frozen=True)
class Othello(Experiment):
    """The next move in games whose every move is drawn uniformly from the legal moves.

    Tokens: 0 for no move once the game is over, which is not predicted; 1 to 60 for the squares, row by row, without
    the four in the middle. The first move of a game is given.
    """

    config: Config
    _: KW_ONLY
    batch: int  # games per step
    data: str = "random legal games of Othello"

    def model(self) -> Transformer:
        """Return the untrained transformer."""
        return Transformer(self.config, seed=self.seed)

    def loss(self, model: Transformer, step: int) -> NoReturn:
        """Refuse to train.

        Raises:
            ValueError: always: there are no games.
        """
        raise ValueError(
            "othello cannot be trained yet: the code that draws random legal games is not part of the library; "
            "the entry holds the numbers of the run"
        )

    def evaluate(self, model: Transformer) -> Mapping[str, Tensor]:
        """Refuse to evaluate.

        Raises:
            ValueError: see ``loss``.
        """
        self.loss(model, 0)

    def drawn(self, updates: int) -> dict[str, int]:
        """Return the number of games seen."""
        return {"games": updates * self.batch}


EXPERIMENTS = {
    "othello": Othello(
        "Eight layers on 11.4 million games of Othello, each move drawn from the legal ones (cannot be trained yet)",
        Config(
            n_layers=8,
            d_model=256,
            n_heads=8,
            d_head=32,
            n_ctx=59,
            d_vocab=61,
            d_mlp=1024,
            act="gelu",
            norm="layer",
            bias=True,
        ),
        steps=11171,
        batch=1024,
        lr=1e-3,
        warmup=300,
        betas=(0.9, 0.98),
        evaluate_every=1000,
    ),
}
