"""Language models: next-token prediction on random windows of a text, and on random tokens that repeat.

An entry determines the weights completely: config, data, seed, steps, and the optimizer's numbers. ``run`` trains it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residual.experiments.experiment import Experiment
from residual.methods.induction import in_context, repeats
from residual.methods.loss import next_token_loss
from residual.model import Config, Transformer
from residual.training.corpus import Corpus, bible, corpus, house
from residual.training.train import share, windows

DATA: dict[str, Callable[[], Corpus]] = {
    "sotu": corpus,
    "sotu-2048": lambda: corpus(2048),
    "bible": bible,
    "house": house,
}
"""Training and validation tokens by name. House is the speeches in 2,048 tokens, then the Bible."""


@dataclass(frozen=True)
class NextToken(Experiment):
    """A run on windows one context long: random windows of a text, and optionally random tokens that repeat."""

    config: Config
    _: KW_ONLY
    batch: int  # windows per step
    data: str = "sotu"
    held_out: int = 64  # number of validation windows for the loss
    also: tuple[str, ...] = ()  # other data to report the validation loss on
    repeats: int = 0  # the number of windows in a batch with random tokens that repeat (methods.induction.repeats)
    periods: tuple[int, int] = (8, 32)  # shortest and longest period of the repeats
    start: bool = False  # put the start token before every window; it counts as one of the n_ctx tokens

    def model(self) -> Transformer:
        """Return the untrained transformer."""
        return Transformer(self.config, seed=self.seed)

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Return the mean loss over the step's windows; the repeated random tokens come last in the batch.

        Raises:
            KeyError: there are no data of that name.
            ModuleNotFoundError: the data are not installed.
        """
        c, text = self.config, DATA[self.data]()
        drawn = windows(text.train, self.batch - self.repeats, self._length, step=step)
        drawn = self._with_start(drawn, text)
        if self.repeats:
            start = self._start(text)
            random, _ = repeats(self.repeats, c.n_ctx + 1, self.periods, d_vocab=c.d_vocab, start=start, seed=step)
            drawn = torch.cat([drawn, share(random).to(drawn)])
        return next_token_loss(model, drawn)

    def evaluate(self, model: Transformer) -> dict[str, Tensor]:
        """Return the loss on held-out text and, if the run has repeats, the phase change's measures (``in_context``).

        Raises:
            KeyError, ModuleNotFoundError: see ``loss``.
        """
        text, held_out = DATA[self.data](), {name: self._held_out(name, model) for name in (self.data, *self.also)}
        measures = {"validation": next_token_loss(model, held_out[self.data])}
        measures |= {f"validation on {name}": next_token_loss(model, held_out[name]) for name in self.also}
        if self.repeats:
            measures |= in_context(model, held_out[self.data], self.periods, start=self._start(text))
        return measures

    def drawn(self, updates: int) -> dict[str, int]:
        """Return the number of tokens predicted."""
        return {"tokens": updates * self.batch * self.config.n_ctx}

    @property
    def _length(self) -> int:
        """The length of a text window: one context of predicted tokens."""
        return self.config.n_ctx + 1 - self.start

    def _start(self, text: Corpus) -> int | None:
        return int(text.train[0]) if self.start else None  # the start token, with which every text begins

    def _with_start(self, tokens: Tensor, text: Corpus) -> Tensor:
        start = self._start(text)
        return tokens if start is None else F.pad(tokens, (1, 0), value=start)

    def _held_out(self, name: str, model: nn.Module) -> Tensor:
        text = DATA[name]()
        tokens = self._with_start(windows(text.validation, self.held_out, self._length), text)
        return tokens.to(next(model.parameters()).device)


SMALL = Config(d_model=128, n_heads=4, d_head=32, n_ctx=128, d_vocab=512, positions="shortformer", init_std=0.05)

INDUCTION = NextToken(
    "Two layers of attention, half on the State of the Union and half on random tokens that repeat",
    replace(SMALL, n_layers=2),
    steps=1500,
    batch=32,
    repeats=16,
    lr=1e-2,
    warmup=100,
    weight_decay=0.1,
    evaluate_every=25,
    stages=(50, 100, 150, 200, 250, 300, 350, 400, 450, 500, 600, 800, 1000),
)

EXPERIMENTS = {
    "gpt": NextToken(
        "GPT-2 made small: three layers with LayerNorm and MLP on the State of the Union",
        Config(
            n_layers=3,
            d_model=128,
            n_heads=4,
            d_head=32,
            n_ctx=128,
            d_vocab=512,
            d_mlp=512,
            norm="layer",
            bias=True,
            tied=True,
        ),
        steps=1500,
        batch=32,
        lr=3e-3,
        warmup=100,
        stages=(30, 300),
    ),
    "attn-1l": NextToken(
        "One layer of attention and nothing else, eight heads, on the State of the Union",
        Config(n_layers=1, d_model=128, n_heads=8, d_head=16, n_ctx=64, d_vocab=512, init_std=0.05),
        steps=600,
        batch=32,
        lr=2e-2,
        warmup=20,
    ),
    "attn-2l": NextToken(
        "Two layers of attention and nothing else, as in the Framework paper, on the State of the Union",
        Config(n_layers=2, d_model=128, n_heads=8, d_head=16, n_ctx=128, d_vocab=512, init_std=0.05),
        steps=2000,
        batch=32,
        lr=1e-2,
        warmup=100,
        weight_decay=0.1,
    ),
    "one-layer": NextToken(
        "One layer of attention and nothing else, on the State of the Union in 2,048 tokens",
        Config(
            n_layers=1,
            d_model=128,
            n_heads=12,
            d_head=16,
            n_ctx=128,
            d_vocab=2048,
            positions="shortformer",
            init_std=0.05,
        ),
        steps=1500,
        batch=32,
        lr=1e-2,
        warmup=100,
        weight_decay=0.1,
        data="sotu-2048",
    ),
    "induction": INDUCTION,
    "induction-start": replace(
        INDUCTION,
        about="As induction, with the start token before every window, as the models of the Induction paper had it",
        start=True,
        stages=(),
    ),
    "smeared": NextToken(
        "One layer of attention whose keys are mixed with the keys before them, on the data of induction",
        replace(SMALL, n_layers=1, smeared_keys=True),
        steps=1500,
        batch=32,
        repeats=16,
        lr=1e-2,
        warmup=100,
        weight_decay=0.1,
        evaluate_every=25,
    ),
    "unsmeared": NextToken(
        "The control of smeared: one layer of ordinary attention",
        replace(SMALL, n_layers=1),
        steps=1500,
        batch=32,
        repeats=16,
        lr=1e-2,
        warmup=100,
        weight_decay=0.1,
        evaluate_every=25,
    ),
    "house": NextToken(
        "A small GPT-2, four layers, on the State of the Union and the World English Bible in 2,048 tokens",
        Config(
            n_layers=4,
            d_model=256,
            n_heads=8,
            d_head=32,
            n_ctx=256,
            d_vocab=2048,
            d_mlp=1024,
            act="gelu",
            norm="layer",
            bias=True,
        ),
        steps=4000,
        batch=64,
        lr=2e-3,
        warmup=200,
        weight_decay=0.1,
        betas=(0.9, 0.95),
        data="house",
        also=("sotu-2048", "bible"),
        evaluate_every=250,
    ),
}
