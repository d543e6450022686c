"""Language models: the next token of random windows of a text, some of them random tokens that repeat.

An entry holds all that decides the weights: config, data, seed, steps, and the optimizer's numbers. ``run`` trains it.
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
"""Token streams for training and validation, by name. House is the speeches in 2,048 tokens, then the Bible."""


@dataclass(frozen=True)
class NextToken(Experiment):
    """A run: the next token of random windows of a text, one context long; some of them random tokens that repeat."""

    config: Config
    _: KW_ONLY
    batch: int  # windows a step
    data: str = "sotu"
    held_out: int = 64  # windows of the validation text that the loss is measured on
    also: tuple[str, ...] = ()  # further data whose validation loss is kept
    repeats: int = 0  # of the windows of a batch, so many hold random tokens that repeat (methods.induction.repeats)
    periods: tuple[int, int] = (8, 32)  # the shortest and the longest of these
    start: bool = False  # the start token stands before every window, and counts as one of its n_ctx tokens

    def model(self) -> Transformer:
        """The transformer before training."""
        return Transformer(self.config, seed=self.seed)

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """The mean loss of the step's windows, those of repeated random tokens last.

        Raises:
            KeyError: there are no data of that name.
            ModuleNotFoundError: the data are not installed.
        """
        c, text = self.config, DATA[self.data]()
        drawn = windows(text.train, self.batch - self.repeats, self._length, step=step)
        drawn = self._begun(drawn, text)
        if self.repeats:
            start = self._start(text)
            random, _ = repeats(self.repeats, c.n_ctx + 1, self.periods, d_vocab=c.d_vocab, start=start, seed=step)
            drawn = torch.cat([drawn, share(random).to(drawn)])
        return next_token_loss(model, drawn)

    def evaluate(self, model: Transformer) -> dict[str, Tensor]:
        """The loss on text that was held out; in runs with repeats also what tells the phase change (``in_context``).

        Raises:
            KeyError, ModuleNotFoundError: as ``loss``.
        """
        text, held_out = DATA[self.data](), {name: self._held_out(name, model) for name in (self.data, *self.also)}
        found = {"validation": next_token_loss(model, held_out[self.data])}
        found |= {f"validation on {name}": next_token_loss(model, held_out[name]) for name in self.also}
        if self.repeats:
            found |= in_context(model, held_out[self.data], self.periods, start=self._start(text))
        return found

    def drawn(self, updates: int) -> dict[str, int]:
        """The tokens that were predicted."""
        return {"tokens": updates * self.batch * self.config.n_ctx}

    @property
    def _length(self) -> int:
        """Of a window of text: what is predicted is one context long."""
        return self.config.n_ctx + 1 - self.start

    def _start(self, text: Corpus) -> int | None:
        return int(text.train[0]) if self.start else None  # every speech begins with it

    def _begun(self, tokens: Tensor, text: Corpus) -> Tensor:
        start = self._start(text)
        return tokens if start is None else F.pad(tokens, (1, 0), value=start)

    def _held_out(self, name: str, model: nn.Module) -> Tensor:
        text = DATA[name]()
        tokens = self._begun(windows(text.validation, self.held_out, self._length), text)
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
