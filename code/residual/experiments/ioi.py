"""Prompts for indirect object identification: "When Mary and John went to the store, John gave a drink to" → " Mary".

The task of Wang et al. 2022 ("Interpretability in the wild"). IO is the indirect object, the right answer; S is the
subject, whose name comes twice (S1, S2). All prompts here have the same 15 tokens' layout, so that every position means
the same thing in all of them, and a change at a position is a change at that word::

    0              1     2     3    4     5     6   7    8      9  10    11    12  13     14
    <|endoftext|>  When  Mary  and  John  went  to  the  store  ,  John  gave  a   drink  to

Half of the prompts name IO first (ABBA), half S first (BABA), unless one order is asked for.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residual.checks import Reader

_NAMES = (
    "Mary John James Robert Michael William David Richard Charles Thomas Daniel Matthew Anthony Mark Paul Steven "
    "Andrew Kenneth George Kevin Brian Edward Ryan Jacob Eric Jonathan Scott Frank Benjamin Samuel Jack Dennis Alex "
    "Adam Peter Henry Sarah Linda Susan Lisa Nancy Margaret Sandra Emily Michelle Laura Rebecca Anna Alice Julia Emma "
    "Anne Maria Victoria"
)
NAMES = tuple(_NAMES.split(" "))
OPENINGS = (("When", " went to"), ("After", " went to"), ("While", " worked at"), ("As", " walked to"))
PLACES = ("store", "garden", "office", "station", "school", "hospital", "restaurant", "house")
VERBS = ("gave", "handed", "passed", "offered")
OBJECTS = ("drink", "ring", "book", "letter", "flower", "phone", "gift", "computer")
START = "<|endoftext|>"
FIRST, SECOND, S2, END = 2, 4, 10, 14  # positions of the names and of the last token, where the answer is read
LAYOUT = tuple(
    ["start", "When", "name_1", "and", "name_2", "went", "to", "the", "store", ",", "S2", "gave", "a", "drink", "to"]
)


@dataclass(frozen=True)
class IOI:
    """A batch of prompts, and the two corrupted versions of each.

    - ``clean``: the answer is IO.
    - ``swapped``: S2 says IO instead, one token differs, and the answer is S.
    - ``abc``: three other names, all different, so that no answer is right; the other words are the same.
    """

    texts: list[str]  # of the clean prompts
    clean: Int[Tensor, "batch pos"]
    swapped: Int[Tensor, "batch pos"]
    abc: Int[Tensor, "batch pos"]
    io: Int[Tensor, " batch"]  # token of the indirect object
    s: Int[Tensor, " batch"]  # token of the subject
    io_first: Bool[Tensor, " batch"]

    @property
    def end(self) -> int:
        """The position where the answer is read."""
        return END

    @property
    def positions(self) -> dict[str, Int[Tensor, " batch"]]:
        """The position of each role in each prompt: ``io``, ``s1``, ``s2``, ``end``."""
        first, second = torch.full_like(self.io, FIRST), torch.full_like(self.io, SECOND)
        return {
            "io": torch.where(self.io_first, first, second),
            "s1": torch.where(self.io_first, second, first),
            "s2": torch.full_like(self.io, S2),
            "end": torch.full_like(self.io, END),
        }

    def each(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        """Return logit of IO minus logit of S in each prompt, from the logits at the end."""
        return (logits.gather(1, self.io[:, None]) - logits.gather(1, self.s[:, None])).squeeze(1)

    def logit_diff(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, ""]:
        """Return the mean logit difference: a metric for ``methods.sweeps``, whose ``position`` is -1."""
        return self.each(logits).mean()


def ioi_prompts(
    vocabulary: Reader | None,
    n: int,
    *,
    order: Literal["both", "io first", "s first"] = "both",
    names: Sequence[str] = NAMES,
    seed: int = 0,
) -> IOI:
    """Return ``n`` prompts with random names, place, verb and object; the same ones for the same seed.

    ::

        model, _ = smollm2()
        prompts = ioi_prompts(model.vocabulary, 16)
        patch_heads(model, prompts.clean, prompts.swapped, prompts.logit_diff)

    Args:
        vocabulary: of the model, in which each word with a space before it must be one token (SmolLM2's is such).
        order: ``both`` alternates, IO first in prompts 0, 2, ….
        names: at least five, all different.

    Raises:
        ValueError: no vocabulary, no prompts, fewer than five names, or a word that is not one token.
    """
    if vocabulary is None:
        raise ValueError("this model has no vocabulary; prompts of words need one, such as smollm2()'s")
    if n < 1:
        raise ValueError(f"n is {n}; ask for at least one prompt")
    if len(set(names)) < 5 or len(set(names)) < len(names):
        raise ValueError(f"five names or more, all different, are needed; these are {', '.join(names)}")
    if order not in ("both", "io first", "s first"):
        raise ValueError(f"order is {order!r}; choose 'both', 'io first' or 's first'")
    draw = random.Random(seed)
    io_first = [order == "io first" or (order == "both" and i % 2 == 0) for i in range(n)]
    rows: dict[str, list[str]] = {"clean": [], "swapped": [], "abc": []}
    pairs = []
    for first in io_first:
        io, s, *others = draw.sample(list(names), 5)
        (opening, going), place = draw.choice(OPENINGS), draw.choice(PLACES)
        verb, thing = draw.choice(VERBS), draw.choice(OBJECTS)
        named = (io, s) if first else (s, io)
        for kind, (a, b, c) in {"clean": (*named, s), "swapped": (*named, io), "abc": others}.items():
            rows[kind].append(f"{START}{opening} {a} and {b}{going} the {place}, {c} {verb} a {thing} to")
        pairs.append((io, s))
    tokens = {kind: _of_one_length(vocabulary, texts) for kind, texts in rows.items()}
    io_tokens, s_tokens = (torch.tensor([_one(vocabulary, pair[i]) for pair in pairs]) for i in (0, 1))
    texts = [text.removeprefix(START) for text in rows["clean"]]
    return IOI(texts, **tokens, io=io_tokens, s=s_tokens, io_first=torch.tensor(io_first))


def _of_one_length(vocabulary: Reader, texts: list[str]) -> Int[Tensor, "batch pos"]:
    tokens, _ = vocabulary.tokens(texts)
    if tokens.shape[1] != len(LAYOUT):
        raise ValueError(
            f"a prompt has {tokens.shape[1]} tokens in this vocabulary, not {len(LAYOUT)}: one of its words is several "
            f"tokens; the longest is {max(texts, key=lambda text: len(vocabulary.tokens(text)[0][0]))!r}"
        )
    return tokens


def _one(vocabulary: Reader, name: str) -> int:
    tokens, _ = vocabulary.tokens(f" {name}")
    if tokens.shape[1] != 1:
        raise ValueError(f"the name {name!r} is {tokens.shape[1]} tokens in this vocabulary; give names of one token")
    return int(tokens[0, 0])
