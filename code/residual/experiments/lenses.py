"""Tuned lenses of committed models, trained to say at each layer what the model will say at the end.

From Belrose et al. 2023, "Eliciting Latent Predictions from Transformers with the Tuned Lens", section 3. The paper
trains with SGD; its authors later found all their lenses undertrained. Here it is AdamW, as for the models.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cache

import torch
from torch import Tensor

from residual.experiments.experiment import Experiment
from residual.experiments.language import DATA
from residual.files.checkpoints import load
from residual.methods.tuned_lens import LensConfig, TunedLens, kl, lens_logits, lens_loss, streams
from residual.model import Transformer
from residual.training.train import windows


@cache
def _teacher(name: str, device: torch.device) -> Transformer:
    return load(name).model.to(device).requires_grad_(False)


@dataclass(frozen=True)
class Lens(Experiment):
    """A lens for one committed model, on random windows of the model's training text."""

    config: LensConfig
    _: KW_ONLY
    of: str  # the model's checkpoint
    batch: int  # windows per step
    length: int  # tokens per window
    held_out: int = 12  # validation windows

    def model(self) -> TunedLens:
        """Return the untrained lens: the logit lens."""
        return TunedLens(self.config)

    def loss(self, model: TunedLens, step: int) -> Tensor:
        """Return the mean KL over layers and positions of the step's windows.

        Raises:
            KeyError, FileNotFoundError, ModuleNotFoundError: there are no such data, or no such checkpoint.
        """
        teacher = _teacher(self.of, next(model.parameters()).device)
        with torch.no_grad():
            x = streams(teacher, windows(DATA[self.data]().train, self.batch, self.length, step=step))
        return lens_loss(teacher, model, x)

    def evaluate(self, model: TunedLens) -> dict[str, Tensor]:
        """Return the KL on held-out text, its mean over layers and by layer.

        Raises:
            KeyError, FileNotFoundError, ModuleNotFoundError: see ``loss``.
        """
        device = next(model.parameters()).device
        teacher = _teacher(self.of, device)
        x = streams(teacher, windows(DATA[self.data]().validation, self.held_out, self.length).to(device))
        by_layer = kl(teacher.unembed(x[-1]), lens_logits(teacher, model, x[:-1])).flatten(1).mean(dim=1)
        return {"KL": by_layer.mean(), **{f"KL before layer {i}": value for i, value in enumerate(by_layer)}}

    def drawn(self, updates: int) -> dict[str, int]:
        """Return the number of positions read."""
        return {"tokens": updates * self.batch * self.length}


EXPERIMENTS = {
    "house-lens": Lens(
        "A tuned lens for house: an affine map before each layer, trained on KL to the model's own output",
        LensConfig(layers=4, d_model=256),
        of="house",
        steps=300,
        batch=8,
        length=96,
        lr=3e-3,
        warmup=30,
        weight_decay=0.0,
        data="house",
        evaluate_every=150,
    ),
}
