# %% [markdown]
# # Induction heads
#
# Everything that the note [induction-heads](../../docs/notes/induction-heads.md) shows and counts: two models written
# by hand, ten that were trained for it (five of them with a start token), ten of one layer, two that read text alone,
# and a pretrained one.

# %% setup
import numpy as np
import torch
import torch.nn.functional as F

from residual import Config, Transformer, plot
from residual.experiments.hand_set import induction, pointer_induction, smeared_induction
from residual.factored import FactoredMatrix
from residual.files import checkpoints
from residual.files.pretrained import smollm2
from residual.files.tokens import words
from residual.methods.circuits import copying_score, full_OV, positivity
from residual.methods.induction import prefix_matching_score, previous_token_score, repeats
from residual.methods.loss import losses
from residual.plot import BLUE, GREY, ORANGE, panels
from residual.taps import ablate, at, compose, patch, record
from residual.training.corpus import corpus, sotu_texts, split
from residual.training.train import windows
from weave import claim

torch.set_grad_enabled(False)
SEEDS, PERIODS = range(5), (8, 32)
FRESH = 10_011  # the seed of update n is n, and no run had so many: these repeats are in nobody's training


def trained(name, seed=0):
    return checkpoints.load(name if seed == 0 else f"{name}-seed{seed}")


# %% [markdown]
# ## By hand
#
# The alphabet is that of one word; `^` begins the sequence.

# %% by-hand
word = "^abracadabra"
alphabet = sorted(set(word))
letters = torch.tensor([[alphabet.index(letter) for letter in word]])
by_hand = induction(len(alphabet), len(word))
seen = record("*.pattern")
logits = by_hand(letters, tap=seen)[0]
plot.attention(
    torch.cat([seen["blocks.0.attn.pattern"][0], seen["blocks.1.attn.pattern"][0]]),
    tokens=list(word),
    titles=["head 0.0: the token before", "head 1.0: what followed"],
)

# %% by-hand-says
said = torch.softmax(60 * logits, dim=-1)
rows = []
for i in range(1, len(word)):
    after = sorted({word[j + 1] for j in range(1, i) if word[j] == word[i]})
    best = logits[i].topk(2)
    answer = ", ".join(f"{alphabet[t]} {v:.2f}" for v, t in zip(best.values, best.indices, strict=True) if v > 0.01)
    rows.append([word[1 : i + 1], "".join(after) or "–", answer if after else "(spread over all)"])
smeared_logits = smeared_induction(len(alphabet), len(word))(letters)[0]
claim(
    by_hand_parameters_used=int(sum((weight != 0).sum() for weight in by_hand.parameters())),
    smeared_by_hand_agrees=(logits - smeared_logits).abs().max(),
    after_third_a=logits[8, alphabet.index("b")],
)
plot.table(rows, ["read so far", "followed this letter before", "logits of the model by hand"])

# %% pointer
by_pointer = pointer_induction(len(alphabet), len(word))
seen = record("*.pattern")
pointed = by_pointer(letters, tap=seen)[0]
matched = [i for i in range(1, len(word)) if word[i] in word[:i]]
claim(pointer_agrees=(pointed - logits)[matched].abs().max())
plot.attention(
    torch.cat([seen["blocks.0.attn.pattern"][0], seen["blocks.1.attn.pattern"][0]]),
    tokens=list(word),
    titles=["head 0.0: where it occurred earlier", "head 1.0: one place further"],
)

# %% [markdown]
# ## Trained: five seeds on one time axis
#
# The cards of the checkpoints hold what was measured every 25 updates.

# %% phase-change
cards = [trained("induction", seed).card for seed in SEEDS]


def through_training(card, measure):
    values = card.metrics[f"{measure} by step"]
    return np.array([int(step) for step in values]), np.array(list(values.values()))


def curves(ax, cards, measure, label, colour=BLUE):
    for seed, card in reversed(list(enumerate(cards))):
        steps, values = through_training(card, measure)
        ax.plot(steps, values, color=colour, linewidth=2.2 if seed == 0 else 1.0, alpha=1 if seed == 0 else 0.55)
    ax.set_title(label, loc="left")


def turn(card):
    """The first evaluation at which the loss on repeated tokens is below half of log 512."""
    steps, values = through_training(card, "repeated")
    return int(steps[np.argmax(values < np.log(512) / 2)])


turns = [turn(card) for card in cards]
axes = panels(5, 1, height=8.4, sharex=True)
curves(axes[0], cards, "repeated", "loss on random tokens that repeat (nats)")
curves(axes[1], cards, "validation", "loss on speeches (nats)")
curves(axes[2], cards, "in-context score", "in-context score on speeches (nats)")
curves(axes[3], cards, "prefix-matching", "prefix-matching score, best head")
curves(axes[4], cards, "K-composition", "K-composition, largest")
axes[-1].set_xlabel("updates of 4,096 tokens")
for ax in axes:
    ax.axvspan(min(turns), max(turns), color=GREY, alpha=0.18, linewidth=0)

# %% phase-numbers
scores = [prefix_matching_score(trained("induction", seed).model, periods=PERIODS) for seed in SEEDS]
found = []
for seed, card in enumerate(cards):
    repeated, text = through_training(card, "repeated")[1], through_training(card, "validation")[1]
    score, k = through_training(card, "in-context score")[1], through_training(card, "K-composition")[1]
    heads = [f"1.{head}" for head in range(4) if scores[seed][1, head] > 0.5]
    found.append(
        [seed, turns[seed], repeated[-1], text[-1], score.min(), score[-1], k.max(), k[-1], " ".join(heads) or "none"]
    )
rises = []  # how far the loss on speeches goes above its least so far
for card in cards:
    text = through_training(card, "validation")[1]
    rises.append((text - np.minimum.accumulate(text)).max())
first = np.array([through_training(card, "first period")[1] for card in cards])
before_turn = [through_training(card, "repeated")[1][turns[seed] // 25 - 3] for seed, card in enumerate(cards)]
claim(
    earliest_turn=min(turns),
    latest_turn=max(turns),
    repeated_worst=max(row[2] for row in found),
    fewest_induction_heads=min(len(row[-1].split()) for row in found),
    most_induction_heads=max(len(row[-1].split()) for row in found),
    layer_0_best=max(float(s[0].max()) for s in scores),
    in_context_dip=min(row[4] for row in found),
    in_context_end_worst=max(row[5] for row in found),
    in_context_end_best=min(row[5] for row in found),
    k_composition_start=through_training(cards[0], "K-composition")[1][0],
    k_composition_peak_least=min(row[6] for row in found),
    first_period_end=first[:, -1].min(),
    before_turn_least=min(before_turn),  # 75 updates before
    before_turn_most=max(before_turn),
    text_rise_least=min(rises),
    text_rise_most=max(rises),
    text_only_best=prefix_matching_score(checkpoints.load("attn-2l").model, periods=PERIODS).max(),
    seed_2_previous=through_training(cards[2], "previous-token")[1][-1],
)
plot.table(
    found,
    ["seed", "turns at", "repeated", "speeches", "score, lowest", "score, end", "K, peak", "K, end", "induction heads"],
    digits=2,
)

# %% [markdown]
# ## What a head does: trained patterns beside those by hand

# %% trained-patterns
model = trained("induction").model
random, period = repeats(64, 128, PERIODS, seed=FRESH)
again = torch.arange(1, 128) >= period  # batch pos: the predicted token is one that came a period ago
example = int((period.flatten() == 10).nonzero()[0])
seen = record("*.pattern")
model(random[example : example + 1, :30], tap=seen)
on_text = windows(corpus().validation, 64, 129)
previous = previous_token_score(model, on_text[:, :-1])
prefix = prefix_matching_score(model, periods=PERIODS)
mover, inductor = int(previous[0].argmax()), int(prefix[1].argmax())
plot.attention(
    torch.stack([seen["blocks.0.attn.pattern"][0, mover], seen["blocks.1.attn.pattern"][0, inductor]]),
    titles=[f"head 0.{mover}", f"head 1.{inductor}"],
)

# %% heads
claim(
    previous_token_best=previous[0].max(),
    prefix_best=prefix[1].max(),
    heads_above_half=int((prefix[1] > 0.5).sum()),
)
plot.table(
    [
        [
            f"{layer}.{head}",
            previous[layer, head].item(),
            prefix[layer, head].item(),
            copying_score(model)[layer, head].item(),
        ]
        for layer in range(2)
        for head in range(4)
    ],
    ["head", "previous token", "prefix matching", "copying"],
    digits=2,
)

# %% [markdown]
# ## A control: heads that only count
#
# One layer, one head that looks a fixed distance back, whatever it reads.


# %% control
def counts_back(distance, n_ctx=128, d_vocab=512):
    config = Config(1, n_ctx, 1, n_ctx, n_ctx, d_vocab, positions="shortformer")
    made = Transformer(config)
    for weight in made.parameters():
        weight.zero_()
    made.W_pos[:] = torch.eye(n_ctx)
    made.blocks[0].attn.W_K[0] = torch.eye(n_ctx)
    made.blocks[0].attn.W_Q[0, distance:] = 60 * n_ctx**0.5 * torch.eye(n_ctx)[: n_ctx - distance]
    return made


fixed = prefix_matching_score(counts_back(15), periods=(16, 16)).item()
varied = prefix_matching_score(counts_back(15), periods=PERIODS).item()
claim(counting_fixed=fixed, counting_varied=varied)
plot.table(
    [
        ["looks 15 back", fixed, varied],
        [
            f"head 1.{inductor}, trained",
            prefix_matching_score(model, periods=(16, 16))[1, inductor].item(),
            prefix[1, inductor].item(),
        ],
    ],
    ["prefix-matching score of a head that …", "all periods 16", "periods 8 to 32"],
    digits=2,
)

# %% [markdown]
# ## Smeared keys: one layer

# %% smeared
smeared = [trained("smeared", seed).card for seed in SEEDS]
plain = [trained("unsmeared", seed).card for seed in SEEDS]
above, below = panels(2, 1, height=4.2, sharex=True)
for cards_of, colour in ((plain, GREY), (cards, BLUE), (smeared, ORANGE)):
    curves(above, cards_of, "repeated", "loss on random tokens that repeat (nats)", colour)
    curves(below, cards_of, "prefix-matching", "prefix-matching score, best head", colour)
below.set_xlabel("updates of 4,096 tokens")
for x, y, name, colour in (
    (1480, 4.6, "one layer", GREY),
    (960, 1.0, "two layers", BLUE),
    (170, 2.2, "one layer,\nsmeared", ORANGE),
):
    above.text(x, y, name, color=colour, ha="right")

# %% smeared-numbers
claim(
    smeared_earliest=min(map(turn, smeared)),
    smeared_latest=max(map(turn, smeared)),
    smeared_worst=max(through_training(card, "repeated")[1][-1] for card in smeared),
    plain_best=min(through_training(card, "repeated")[1].min() for card in plain),
    smeared_text=max(through_training(card, "validation")[1][-1] for card in smeared),
    plain_first_least=min(through_training(card, "first period")[1][-1] for card in plain),
    plain_text=min(through_training(card, "validation")[1][-1] for card in plain),
    two_layers_text=max(through_training(card, "validation")[1][-1] for card in cards),
)
mixing = [trained("smeared", seed).model.blocks[0].attn.smear.sigmoid() for seed in SEEDS]
smeared_scores = [prefix_matching_score(trained("smeared", seed).model, periods=PERIODS)[0] for seed in SEEDS]
matching = torch.stack(smeared_scores) > 0.5
claim(
    smeared_inductors_own=torch.stack(mixing)[matching].max(),
    smeared_inductors=int(matching.sum()),
    smeared_without=int((~matching.any(dim=1)).sum()),
)
plot.table(
    [
        [
            seed,
            turn(smeared[seed]),
            turn(cards[seed]),
            " ".join(f"{m:.2f}" for m in mixing[seed]),
            " ".join(f"{s:.2f}" for s in smeared_scores[seed]),
        ]
        for seed in SEEDS
    ],
    ["seed", "turns at", "two layers", "share of its own key, by head", "prefix matching, by head"],
    digits=2,
)

# %% [markdown]
# ## Knocking out the previous-token head
#
# z is replaced by its mean over the examples and positions.


# %% knock-out
def repeated_loss(model, tap=None):
    def run(tokens):
        return model(tokens, tap=tap)

    return losses(run, random)[again[:, : random.shape[1] - 1]].mean().item()


def match(model, tap=None):
    """The mean attention to what followed before, of each head of layer 1, on the same random tokens."""
    seen = record("blocks.1.attn.pattern")
    model(random[:, :-1], tap=seen if tap is None else compose(tap, seen))
    ideal = followers(random[:, :-1])
    paid = (seen["blocks.1.attn.pattern"] * ideal[:, None]).sum(dim=-1)  # batch head query
    return torch.stack([row[again[:, :127]].mean() for row in paid.transpose(0, 1)])


def followers(tokens):
    """1 at [query key] where the key's predecessor is the query's token: [batch query key]."""
    n = tokens.shape[1]
    same = tokens[:, :, None] == tokens[:, None, :-1]  # batch query (key - 1)
    same = torch.cat([torch.zeros_like(same[:, :, :1]), same], dim=2)
    return (same & torch.ones(n, n, dtype=torch.bool).tril()).float()


def without(layer, heads):
    return ablate(f"blocks.{layer}.attn.z", "mean", heads=heads, across_positions=True)


stages = [("induction-250", "before (250)"), ("induction", "after (1,500)")]
knocked = {}
for file, when in stages:
    m = checkpoints.load(file).model
    knocked[when] = [(repeated_loss(m), match(m).max().item())]
    knocked[when] += [(repeated_loss(m, without(0, h)), match(m, without(0, h)).max().item()) for h in range(4)]
before, after = knocked.values()
claim(
    repeated_fresh_worst=max(repeated_loss(trained("induction", seed).model) for seed in SEEDS),
    knock_before=before[1 + mover][0] - before[0][0],
    knock_before_most=max(row[0] for row in before[1:]) - before[0][0],
    knock_after=after[1 + mover][0] - after[0][0],
    match_after=after[0][1],
    match_after_without=after[1 + mover][1],
    knock_after_others=max(after[1 + h][0] - after[0][0] for h in range(4) if h != mover),
)
plot.table(
    [
        [name, *(number for when in knocked.values() for number in when[row])]
        for row, name in enumerate(["nothing", *(f"head 0.{h}" for h in range(4))])
    ],
    ["taken away", "before: loss", "matching", "after: loss", "matching"],
    digits=2,
)

# %% [markdown]
# ## How much is the idealization?
#
# A head's pattern is replaced by the one that the story gives it. Recovered is the share of the loss that is lost when
# the head is taken away (z at its mean) and comes back.


# %% hypothesis
def exactly_previous(pattern):
    n = pattern.shape[-1]
    exact = torch.diag(torch.ones(n - 1), -1)
    exact[0, 0] = 1
    return exact.expand_as(pattern)


def ideal(tokens, context=1):
    """Attend evenly to what followed the last ``context`` tokens before; to the first position where nothing did."""
    found = followers(tokens)
    if context == 2:  # keep to places where the token before agrees too, wherever there is one
        longer = found * torch.nn.functional.pad(followers(tokens)[:, :-1, :-1], (1, 0, 1, 0))
        found = torch.where(longer.sum(dim=-1, keepdim=True) > 0, longer, found)
    found[:, :, 0] = torch.where(found.sum(dim=-1) > 0, found[:, :, 0], 1.0)
    return found / found.sum(dim=-1, keepdim=True)


def put(layer, heads, pattern):
    def change(x):
        x = x.clone()
        x[:, heads] = pattern(x)[:, heads] if callable(pattern) else pattern[:, None].to(x)
        return x

    return at(f"blocks.{layer}.attn.pattern", change)


def both(model):
    """For each idealization, on both kinds of tokens: the nats lost without the heads, and with its pattern."""
    movers = [int(previous_token_score(model, on_text[:, :-1])[0].argmax())]
    inductors = (prefix_matching_score(model, periods=PERIODS)[1] > 0.5).nonzero().flatten().tolist()
    cases = [
        (0, movers, lambda t: exactly_previous),
        (1, inductors, lambda t: ideal(t[:, :-1])),
        (1, inductors, lambda t: ideal(t[:, :-1], 2)),
    ]
    found = np.full((3, 2, 2), np.nan)
    for i, (tokens, counted) in enumerate(((random, again), (on_text, slice(None)))):

        def mean(tap, tokens=tokens, counted=counted):
            return losses(lambda t: model(t, tap=tap), tokens)[counted].mean().item()

        whole = mean(None)
        for case, (layer, heads, make) in enumerate(cases[: 3 - i]):  # pairs on random tokens only
            found[case, i] = mean(without(layer, heads)) - whole, mean(put(layer, heads, make(tokens))) - whole
    return found


cost = np.array([both(trained("induction", seed).model) for seed in SEEDS])  # seed case data (gone, ideal)
recovered = 1 - cost[..., 1] / cost[..., 0]
middle = np.median(cost, axis=0)
claim(
    exact_previous_random=np.median(recovered[:, 0, 0]),
    pure_random=np.median(recovered[:, 1, 0]),
    longer_random=np.median(recovered[:, 2, 0]),
    least_recovered=recovered[:, :, 0].min(),
    mover_text=middle[0, 1, 0],
    mover_text_ideal=middle[0, 1, 1],
    inductors_text_ideal=middle[1, 1, 1],
    text_answered=followers(on_text[:, :-1]).any(dim=-1).float().mean(),  # where the ideal head finds something
)
names = ["previous-token head: exactly one back", "induction: after this token", "… and the one before it too"]
plot.table(
    [
        [name, *middle[i, 0], *(f"{share:.0%}" for share in np.quantile(recovered[:, i, 0], [0.5, 0, 1]))]
        for i, name in enumerate(names)
    ],
    ["pattern put in", "gone", "ideal", "recovered", "least of five", "most of five"],
    digits=2,
)

# %% [markdown]
# ## Read off the weights
#
# For each head of layer 1: its QK circuit through the head of layer 0 that attends most to the token before, and its
# OV circuit, both token to token, by the signs of their eigenvalues.

# %% corner
points = []
for seed in SEEDS:
    m = trained("induction", seed).model.double()
    first_layer, second = (block.attn for block in m.blocks)
    best = int(previous_token_score(m, on_text[:, :-1])[0].argmax())
    written = m.W_E @ first_layer.W_OV(best)  # token d_model: what the previous-token head writes of each token
    for head in range(4):
        qk = second.W_QK(head)
        through = FactoredMatrix((m.W_E @ qk.A) @ (qk.B @ written.B.mT), written.A.mT)
        points.append(
            (
                seed,
                head,
                positivity(through).item(),
                positivity(full_OV(m, 1, head)).item(),
                scores[seed][1, head].item(),
            )
        )
ax = panels(height=4.0)
ax.set(
    xlabel="QK through the previous-token head: Σλ / Σ|λ|", ylabel="OV: Σλ / Σ|λ|", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1)
)
ax.axhline(0, color=GREY, linewidth=0.6)
ax.axvline(0, color=GREY, linewidth=0.6)
for _, _, qk, ov, score in points:
    ax.scatter(qk, ov, s=20 + 90 * score, color=BLUE if score > 0.5 else GREY, alpha=0.75, linewidth=0)
inside = [p for p in points if p[4] > 0.5]
claim(
    corner_heads=len(inside),
    corner_qk_least=min(p[2] for p in inside),
    corner_ov_least=min(p[3] for p in inside),
    corner_in=sum(p[2] > 0.8 and p[3] > 0.8 for p in inside),
    others_qk_least=min(p[2] for p in points if p[4] <= 0.5),
    others_qk_most=max(p[2] for p in points if p[4] <= 0.5),
    others_ov_most=max(p[3] for p in points if p[4] <= 0.5),
)

# %% [markdown]
# ## On text
#
# 192 windows of held-out speeches. A head's worth is what the loss rises by when its z is replaced by its mean over
# all examples and positions; ± is the standard error over windows.

# %% text-setup
START, N_WINDOWS = 0, 192
spelled = words(list(range(512)))


def with_start(tokens):
    return F.pad(tokens, (1, 0), value=START)


SPEECHES = {
    "induction": windows(corpus().validation, N_WINDOWS, 129),
    "induction-start": with_start(windows(corpus().validation, N_WINDOWS, 128)),
}
REPEATS = {"induction": random, "induction-start": repeats(64, 128, PERIODS, start=START, seed=FRESH)[0]}


def agreement(tokens):
    """How many tokens up to the query's are those up to an earlier one, the key's: [batch query key]."""
    same = (tokens[:, :, None] == tokens[:, None, :]).tril(diagonal=-1)
    length = torch.zeros(same.shape, dtype=torch.long)
    for i in range(tokens.shape[1]):
        before = F.pad(length[:, i - 1, :-1], (1, 0)) if i else torch.zeros_like(length[:, 0])
        length[:, i] = same[:, i] * (before + 1)
    return length


def match_length(tokens):
    """How many tokens up to and including this one occurred earlier in the same order: [batch pos]."""
    return agreement(tokens).amax(dim=-1)


def by_length(values, lengths, most=4):
    """Means where nothing matches, where one token does, … and where ``most`` or more do; and their standard errors."""
    groups = [values[lengths == n] for n in range(most)] + [values[lengths >= most]]
    return [(group.mean().item(), group.std().item() / len(group) ** 0.5) for group in groups]


class Reading:
    """A trained model on speeches: its loss there, where the heads of layer 1 look, and what they are worth."""

    def __init__(self, name, seed):
        self.name, self.seed, self.model = name, seed, trained(name, seed).model
        self.tokens = SPEECHES[name]
        seen = record(["blocks.1.resid_pre", "blocks.1.attn.pattern", "blocks.1.attn.v"])
        self.model(self.tokens[:, :-1], tap=seen)
        self.resid, self.pattern = seen["blocks.1.resid_pre"], seen["blocks.1.attn.pattern"]
        written = seen["blocks.1.attn.v"].transpose(1, 2) @ self.model.blocks[1].attn.W_O  # batch head key d_model
        weighted = self.pattern * written.norm(dim=-1)[:, :, None]
        self.weighted = weighted / weighted.sum(dim=-1, keepdim=True)
        self.loss = self.losses()
        self.score = prefix_matching_score(self.model, periods=PERIODS, start=None if name == "induction" else START)[1]
        self.inductors = (self.score > 0.5).nonzero().flatten().tolist()
        self.single = [self.losses(without(1, head)) - self.loss for head in range(4)]
        self.worth = [extra.mean().item() for extra in self.single]
        self.error = [extra.mean(dim=1).std().item() / N_WINDOWS**0.5 for extra in self.single]

    def zeroed(self, head):
        """The rise of the loss with z of a head at zero, not at its mean: what it always writes is gone, too."""
        return (self.losses(ablate("blocks.1.attn.z", "zero", heads=head)) - self.loss).mean().item()

    def log_probabilities(self, tap=None):
        return self.model.run_from(1, self.resid, tap=tap).log_softmax(dim=-1)  # batch pos token

    def losses(self, tap=None):
        return losses(lambda _: self.model.run_from(1, self.resid, tap=tap), self.tokens)  # batch pos

    def paid(self, head, where, counted, weighted=False):
        """The mean attention of a head to the keys marked in ``where``, from the queries that are counted."""
        pattern = (self.weighted if weighted else self.pattern)[:, head]
        return (pattern * where).sum(dim=-1)[counted].mean().item()

    def rests_on(self, head, weighted=False):
        """The token that gets most of a head's attention, and its share."""
        pattern = (self.weighted if weighted else self.pattern)[:, head]
        share = torch.zeros(512).index_add_(0, self.tokens[:, :-1].flatten(), pattern.sum(dim=1).flatten())
        return spelled[int(share.argmax())], (share.max() / share.sum()).item(), share / share.sum()


readings = {name: [Reading(name, seed) for seed in SEEDS] for name in SPEECHES}
found_at = {name: followers(tokens[:, :-1]) for name, tokens in SPEECHES.items()}
lengths = {name: match_length(tokens[:, :-1]) for name, tokens in SPEECHES.items()}
itself, one_back, at_first = torch.eye(128), torch.diag(torch.ones(127), -1), torch.zeros(128, 128)
at_first[:, 0] = 1
everywhere = torch.ones(N_WINDOWS, 128, dtype=torch.bool)
everywhere[:, :4] = False  # the first few positions have hardly a choice


def shown_token(token):
    return "START" if token == spelled[START] else token.replace(" ", "·")


def looks(reading, head):
    """Where a head of layer 1 looks on speeches."""
    found = found_at[reading.name]
    nothing = ~found.any(dim=-1) & everywhere
    return {
        "matches": reading.paid(head, found, found.any(dim=-1)),
        "itself": reading.paid(head, itself, everywhere),
        "one back": reading.paid(head, one_back, everywhere),
        "first": reading.paid(head, at_first, nothing),
        "first, a match": reading.paid(head, at_first, found.any(dim=-1) & everywhere),
    }


def first_on_random(reading, head):
    """The attention that a head pays to the first position on random tokens, where nothing matches yet."""
    tokens = REPEATS[reading.name][:, :-1]
    seen = record("blocks.1.attn.pattern")
    reading.model(tokens, tap=seen)
    nothing = ~followers(tokens).any(dim=-1)
    nothing[:, :4] = False
    return seen["blocks.1.attn.pattern"][:, head, :, 0][nothing].mean().item()


def start_put_before(reading, head):
    """The attention to a start token that is put before the windows, where nothing matches."""
    tokens = SPEECHES["induction-start"][:64, :-1]
    seen = record("blocks.1.attn.pattern")
    reading.model(tokens, tap=seen)
    nothing = ~followers(tokens).any(dim=-1) & everywhere[:64]
    return seen["blocks.1.attn.pattern"][:, head, :, 0][nothing].mean().item()


zeroed = {
    (name, reading.seed, head): reading.zeroed(head)
    for name, of_name in readings.items()
    for reading in of_name
    for head in reading.inductors
}


def at_first_repeat(reading, head):
    """The attention to what followed, from the first random token that repeats: a match of one token."""
    tokens = REPEATS[reading.name][:, :-1]
    seen = record("blocks.1.attn.pattern")
    reading.model(tokens, tap=seen)
    paid = (seen["blocks.1.attn.pattern"][:, head] * followers(tokens)).sum(dim=-1)
    return paid.gather(1, period + (reading.name != "induction")).mean().item()  # the start token takes a place


def role(reading, head):
    where, (token, share, _) = looks(reading, head), reading.rests_on(head)
    return [
        f"{reading.seed}: 1.{head}",
        f"{reading.score[head]:.2f}",
        f"{reading.worth[head]:+.3f} ± {reading.error[head]:.3f}",
        f"{zeroed[reading.name, reading.seed, head]:.2f}",
        *(f"{where[key]:.2f}" for key in ("matches", "itself", "one back", "first")),
        f"{shown_token(token)} {share:.2f}",
        f"{shown_token(reading.rests_on(head, weighted=True)[0])} {reading.rests_on(head, weighted=True)[1]:.2f}",
    ]


columns = [
    "seed: head",
    "score",
    "worth on speeches (nats)",
    "from zero",
    "matches",
    "itself",
    "one back",
    "first",
    "most",
    "weighted",
]

# %% text-heads
plain_readings = readings["induction"]
heads = [(reading, head) for reading in plain_readings for head in reading.inductors]
second_job = [(reading, head) for reading, head in heads if reading.worth[head] > 0.1]
pure = [(reading, head) for reading, head in heads if reading.worth[head] <= 0.1]
first_shares = [looks(reading, head)["first"] for reading, head in heads]
the = spelled.index(" the")
claim(
    text_heads=len(heads),
    text_idle=len(pure),
    text_idle_most=max(reading.worth[head] for reading, head in pure),
    text_idle_least=min(reading.worth[head] for reading, head in pure),
    text_zero_least=min(zeroed["induction", reading.seed, head] for reading, head in pure),
    text_zero_most=max(zeroed["induction", reading.seed, head] for reading, head in pure),
    second_jobs=len(second_job),
    second_job_least=min(reading.worth[head] for reading, head in second_job),
    second_job_most=max(reading.worth[head] for reading, head in second_job),
    second_job_near_least=min(
        looks(reading, head)["itself"] + looks(reading, head)["one back"] for reading, head in second_job
    ),
    text_first_most=max(first_shares),
    random_first_heads=sum(first_on_random(reading, head) > 0.5 for reading, head in heads),
    the_share=plain_readings[0].rests_on(1)[2][the],
    the_share_weighted=plain_readings[0].rests_on(1, weighted=True)[2][the],
    stop_share=plain_readings[0].rests_on(1)[2][spelled.index(".")],
    start_put_before_most=max(
        start_put_before(reading, head) for reading, head in heads
    ),  # at the first position of windows that get a start token, which these models hardly know
    the_heads=sum(shown_token(reading.rests_on(head)[0]) == "·the" for reading, head in pure),
    text_worth_error=max(max(reading.error) for reading in plain_readings),
)
plot.table([role(reading, head) for reading, head in heads], columns)

# %% negative-heads
others_of_layer = [(reading, head) for reading in plain_readings for head in range(4) if head not in reading.inductors]


def repeats_worth(reading, heads):
    return repeated_loss(reading.model, without(1, heads)) - repeated_loss(reading.model)


def without_inductors(reading, head):
    """The worth of a head on speeches where the induction heads are gone already."""
    gone = reading.losses(without(1, reading.inductors))
    return (reading.losses(without(1, [head, *reading.inductors])) - gone).mean().item()


ov_sign = {(seed, head): ov for seed, head, _, ov, _ in points}
alone = [without_inductors(reading, head) for reading, head in others_of_layer]
own = [looks(reading, head)["itself"] for reading, head in others_of_layer]
repeat_worths = [repeats_worth(reading, head) for reading, head in others_of_layer]
claim(
    negative_heads=len(others_of_layer),
    negative_worth_least=min(reading.worth[head] for reading, head in others_of_layer),
    negative_worth_most=max(reading.worth[head] for reading, head in others_of_layer),
    negative_self_least=min(own),
    negative_self_most=max(own),
    negative_alone_least=min(alone[i] / r.worth[h] for i, (r, h) in enumerate(others_of_layer)),
    negative_alone_most=max(alone[i] / r.worth[h] for i, (r, h) in enumerate(others_of_layer)),
    negative_repeats_most=max(repeat_worths),
)
plot.table(
    [
        [
            f"{reading.seed}: 1.{head}",
            f"{ov_sign[reading.seed, head]:.2f}",
            f"{own[i]:.2f}",
            f"{looks(reading, head)['one back']:.2f}",
            f"{reading.worth[head]:.2f} ± {reading.error[head]:.2f}",
            f"{alone[i]:.2f}",
            f"{repeat_worths[i]:.3f}",
        ]
        for i, (reading, head) in enumerate(others_of_layer)
    ],
    ["seed: head", "OV", "itself", "one back", "worth on speeches", "… without induction heads", "worth on repeats"],
)

# %% start-heads
start_readings = readings["induction-start"]
start_heads = [(reading, head) for reading in start_readings for head in reading.inductors]
start_pure = [(reading, head) for reading, head in start_heads if reading.worth[head] <= 0.1]
start_looks = [looks(reading, head) for reading, head in start_heads]
pure_looks = [looks(reading, head) for reading, head in start_pure]
first_repeat = [at_first_repeat(reading, head) for reading, head in start_pure]
at_four = [
    reading.paid(head, at_first, lengths[reading.name].ge(4) & everywhere) for reading, head in start_pure
]  # the attention to the start token where four or more tokens match
start_cards = [trained("induction-start", seed).card for seed in SEEDS]
claim(
    start_inductors=len(start_heads),
    start_idle=len(start_pure),
    start_first_least=min(where["first"] for where in pure_looks),
    start_first_match_least=min(where["first, a match"] for where in pure_looks),
    start_first_four_least=min(at_four),
    start_first_repeat_least=min(first_repeat),
    start_first_repeat_most=max(first_repeat),
    start_zero_most=max(zeroed["induction-start", reading.seed, head] for reading, head in start_pure),
    start_idle_most=max(reading.worth[head] for reading, head in start_pure),
    start_idle_least=min(reading.worth[head] for reading, head in start_pure),
    start_random_least=min(first_on_random(reading, head) for reading, head in start_pure),
    start_earliest=min(map(turn, start_cards)),
    start_latest=max(map(turn, start_cards)),
    start_repeated_worst=max(through_training(card, "repeated")[1][-1] for card in start_cards),
)
plot.table([role(reading, head) for reading, head in start_heads], columns)

# %% [markdown]
# ### Worth by length of match
#
# The induction heads without a second job, of each seed together, taken away: what it costs where the last 0, 1, 2, …
# tokens occurred earlier in the same order.

# %% match-length
joint = {name: [] for name in readings}
parts_of_mean = {name: [] for name in readings}
for name, of_name in readings.items():
    for reading in of_name:
        idle = [head for head in reading.inductors if reading.worth[head] <= 0.1]
        extra = reading.losses(without(1, idle)) - reading.loss
        joint[name].append((extra.mean().item(), by_length(extra, lengths[name])))
        at_matches = (extra * (lengths[name] > 0)).mean().item()  # their part of the mean over all tokens
        parts_of_mean[name].append((at_matches, extra.mean().item() - at_matches))
left, right = panels(1, 2, height=3.0, sharey=True)
for ax, name, label in ((left, "induction", "without a start token"), (right, "induction-start", "with one")):
    for seed, (_, groups) in enumerate(joint[name]):
        means, errors = zip(*groups, strict=True)
        ax.errorbar(range(5), means, yerr=errors, color=BLUE, linewidth=2.2 if seed == 0 else 1.0, alpha=0.8)
    ax.axhline(0, color=GREY, linewidth=0.6)
    ax.set_title(label, loc="left")
    ax.set_xticks(range(5), ["0", "1", "2", "3", "4+"])
    ax.set_xlabel("tokens of the match")
left.set_ylabel("nats lost without induction heads")
groups = {name: np.array([[mean for mean, _ in by] for _, by in joint[name]]) for name in joint}  # seed length
share = [(lengths["induction"] == n).float().mean().item() for n in range(4)]
claim(
    share_no_match=share[0],
    share_one=share[1],
    share_two=1 - share[0] - share[1],
    gained_at_matches_least=min(gain for gain, _ in parts_of_mean["induction"]),
    gained_at_matches_most=max(gain for gain, _ in parts_of_mean["induction"]),
    lost_elsewhere_least=max(loss for _, loss in parts_of_mean["induction"]),
    lost_elsewhere_most=min(loss for _, loss in parts_of_mean["induction"]),
    worth_none_least=groups["induction"][:, 0].min(),
    worth_none_most=groups["induction"][:, 0].max(),
    worth_one_most=groups["induction"][:, 1].max(),
    worth_two_least=groups["induction"][:, 2].min(),
    worth_four_least=groups["induction"][:, 4].min(),
    worth_four_most=groups["induction"][:, 4].max(),
    worth_all_least=min(mean for mean, _ in joint["induction"]),
    worth_all_most=max(mean for mean, _ in joint["induction"]),
    start_worth_none_most=groups["induction-start"][:, 0].max(),
    start_worth_one_most=groups["induction-start"][:, 1].max(),
    start_worth_two_least=groups["induction-start"][:, 2].min(),
    start_worth_four_least=groups["induction-start"][:, 4].min(),
    start_worth_four_most=groups["induction-start"][:, 4].max(),
    start_worth_all_least=min(mean for mean, _ in joint["induction-start"]),
    start_worth_all_most=max(mean for mean, _ in joint["induction-start"]),
)

# %% [markdown]
# ### Louder, or more often right?
#
# The follower of a match is what came after the latest of the longest earlier occurrences. By how much do the same
# heads raise its log-probability, whatever the next token is, and how often is it the next token?


# %% follower
def longest_follower(tokens):
    """The token after the latest of the longest earlier occurrences, anything where there is none: [batch pos]."""
    length = agreement(tokens)
    longest = length == length.amax(dim=-1, keepdim=True)
    latest = torch.where(longest, torch.arange(tokens.shape[1]), -1).amax(dim=-1)
    return tokens.gather(1, (latest + 1).clamp(max=tokens.shape[1] - 1))


shifts, when_right, when_wrong, reliable = ({name: [] for name in readings} for _ in range(4))
for name, of_name in readings.items():
    tokens = SPEECHES[name]
    follower = longest_follower(tokens[:, :-1])
    right = follower == tokens[:, 1:]
    clipped = lengths[name].clamp(max=4)
    reliable[name] = [right[clipped == n].float().mean().item() for n in range(1, 5)]
    for reading in of_name:
        idle = [head for head in reading.inductors if reading.worth[head] <= 0.1]
        extra = reading.log_probabilities() - reading.log_probabilities(without(1, idle))
        shift = extra.gather(2, follower[:, :, None])[:, :, 0]
        won = extra.gather(2, tokens[:, 1:, None])[:, :, 0]
        shifts[name].append(by_length(shift, lengths[name])[1:])
        when_right[name].append([won[(clipped == n) & right].mean().item() for n in range(1, 5)])
        when_wrong[name].append([won[(clipped == n) & ~right].mean().item() for n in range(1, 5)])
left, right_side = panels(1, 2, height=3.0)
for name, colour in (("induction", BLUE), ("induction-start", ORANGE)):
    for seed, of_seed in enumerate(shifts[name]):
        means, errors = zip(*of_seed, strict=True)
        left.errorbar(range(1, 5), means, yerr=errors, color=colour, linewidth=2.2 if seed == 0 else 1.0, alpha=0.8)
    right_side.plot(range(1, 5), reliable[name], color=colour, label=name)
left.set(ylim=(0, 0.75), ylabel="nats of log-probability")
left.set_title("raise of the follower", loc="left")
right_side.set(ylim=(0, 1), ylabel="share of matches")
right_side.set_title("it comes next", loc="left")
for ax in (left, right_side):
    ax.set_xticks(range(1, 5), ["1", "2", "3", "4+"])
    ax.set_xlabel("tokens of the match")
flat = np.array([[[mean for mean, _ in of_seed] for of_seed in shifts[name]] for name in readings])  # kind seed length
claim(
    follower_one=flat[0, 0, 0],
    follower_four=flat[0, 0, 3],
    follower_one_error=shifts["induction"][0][0][1],
    follower_four_error=shifts["induction"][0][3][1],
    follower_change_most=abs(flat[..., 1:] - flat[..., :1]).max(),
    follower_least=flat[0].min(),
    follower_most=flat[0].max(),
    follower_start_least=flat[1].min(),
    follower_start_most=flat[1].max(),
    right_one=reliable["induction"][0],
    right_two=reliable["induction"][1],
    right_three=reliable["induction"][2],
    right_four=reliable["induction"][3],
    won_right_one=when_right["induction"][0][0],
    won_right_four=when_right["induction"][0][3],
    won_wrong_one=when_wrong["induction"][0][0],
    won_wrong_most=min(min(of_seed) for of_name in when_wrong.values() for of_seed in of_name),
)
print("how often right, with a start token:", [f"{share:.2f}" for share in reliable["induction-start"]])

# %% follower-numbers
plot.table(
    [
        [f"{seed}{' with START' if name != 'induction' else ''}", *(f"{mean:.2f} ± {error:.2f}" for mean, error in row)]
        for name, of_name in shifts.items()
        for seed, row in enumerate(of_name)
    ],
    ["seed", "1 token", "2", "3", "4 or more"],
)

# %% [markdown]
# ### The replication's test
#
# The scores of the induction heads are replaced: 0 at the first token, a at each match, minus infinity elsewhere. The
# constant a is the best of a grid, on other windows.

# %% relative
GRID = (-6.0, -3.0, 0.0, 20.0)
FEW = 96  # windows: the first half chooses a, the second half is reported


def competing(matches, a):
    """The pattern of a head whose score is 0 at the first position, a at each match, and minus infinity elsewhere."""
    scores = torch.where(matches > 0, a, -torch.inf)
    scores[:, :, 0] = torch.where(matches[:, :, 0] > 0, a, 0.0)
    return scores.softmax(dim=-1)


def longer(matches, least):
    """Of the matches, those in which at least so many tokens agree."""
    kept = matches
    for _ in range(least - 1):
        kept = matches * F.pad(kept[:, :-1, :-1], (1, 0, 1, 0))
    return kept


def tested(reading):
    """The cost of taking the induction heads away, of silence, and of the story, for matches of 1, 2, 3 tokens."""
    tokens, resid = reading.tokens[:FEW], reading.resid[:FEW]
    idle = [head for head in reading.inductors if reading.worth[head] <= 0.1]

    def cost(tap):
        found = losses(lambda _: reading.model.run_from(1, resid, tap=tap), tokens) - reading.loss[:FEW]
        return found[: FEW // 2].mean().item(), found[FEW // 2 :].mean().item()

    rows = []
    for least in (1, 2, 3):
        kept = longer(found_at[reading.name][:FEW], least)
        rows.append([cost(put(1, idle, competing(kept, a))) for a in GRID[: 4 if least == 1 else 3]])
    best = [min(row)[1] for row in rows]  # chosen on the first half
    silent = cost(put(1, idle, competing(torch.zeros_like(found_at[reading.name][:FEW]), 0.0)))[1]
    return cost(without(1, idle))[1], silent, rows[0][-1][1], *best


tests = {name: np.array([tested(reading) for reading in of_name]) for name, of_name in readings.items()}
claim(
    plain_any_least=tests["induction"][:, 3].min(),
    plain_any_most=tests["induction"][:, 3].max(),
    plain_three_least=tests["induction"][:, 5].min(),
    start_sharp_least=tests["induction-start"][:, 2].min(),
    start_any_least=tests["induction-start"][:, 3].min(),
    start_any_most=tests["induction-start"][:, 3].max(),
    start_three_least=tests["induction-start"][:, 5].min(),
    start_three_most=tests["induction-start"][:, 5].max(),
    start_gone_least=tests["induction-start"][:, 0].min(),
    start_gone_most=tests["induction-start"][:, 0].max(),
    start_silent_least=tests["induction-start"][:, 1].min(),
    start_silent_most=tests["induction-start"][:, 1].max(),
    plain_silent_least=tests["induction"][:, 1].min(),
)
plot.table(
    [
        [f"{seed}{' with START' if name != 'induction' else ''}", *(f"{x:.3f}" for x in tests[name][seed])]
        for name in tests
        for seed in range(len(tests[name]))
    ],
    ["seed", "heads gone", "always the first", "any match, always", "any match", "two tokens", "three tokens"],
)

# %% [markdown]
# ### Through the turn, token by token
#
# The loss on the same windows at the stages of seed 0, by length of match.

# %% turn-by-token
STAGES = [200, 250, 300, 350, 400, 450, 500, 600, 800, 1000, 1500]
per_token = []
for updates in STAGES:
    m = checkpoints.load("induction" if updates == 1500 else f"induction-{updates}").model
    per_token.append(losses(m, SPEECHES["induction"]))
change = [by_length(found - per_token[0], lengths["induction"]) for found in per_token]
change = np.array([[mean for mean, _ in of_stage] for of_stage in change])  # stage length
ax = panels(height=3.4)
for n, (label, shift) in enumerate(
    zip(("no match", "1 token", "2 tokens", "3 tokens", "4 or more"), (-0.03, 0.03, 0, 0.02, -0.02), strict=True)
):
    colour = plot.ramp([0.25 + 0.75 * n / 4], 1.0)[0] if n else GREY
    ax.plot(STAGES, change[:, n], color=colour, linewidth=1.8)
    ax.text(1515, change[-1, n] + shift, label, va="center", color=colour)
ax.axvspan(turns[0] - 25, turns[0], color=GREY, alpha=0.18, linewidth=0)
ax.set(xlabel="updates", ylabel="change of the loss on speeches (nats)", xlim=(190, 1780), xticks=range(200, 1501, 200))


def between(first, last):
    found = per_token[STAGES.index(last)] - per_token[STAGES.index(first)]
    return by_length(found, lengths["induction"])


def three_without(updates):
    """The loss on speeches without what become the induction heads of seed 0, and what the heads are worth."""
    m = checkpoints.load(f"induction-{updates}").model
    gone = losses(lambda t: m(t, tap=without(1, plain_readings[0].inductors)), SPEECHES["induction"]).mean().item()
    return gone, gone - per_token[STAGES.index(updates)].mean().item()


early = checkpoints.load("induction-250").model
mover_early = losses(lambda t: early(t, tap=without(0, mover)), SPEECHES["induction"]) - per_token[STAGES.index(250)]
three = {updates: three_without(updates) for updates in (300, 400)}
whole_rise = (per_token[STAGES.index(400)] - per_token[STAGES.index(300)]).mean().item()
up, down = between(300, 400), between(400, 500)
claim(
    turn_seed_0=turns[0],
    mover_text_before=mover_early.mean(),
    three_at_300=three[300][1],
    three_at_400=three[400][1],
    rise_of_three=1 - (three[400][0] - three[300][0]) / whole_rise,
    up_none=up[0][0],
    up_one=up[1][0],
    up_four=up[4][0],
    up_four_error=up[4][1],
    down_none=down[0][0],
    down_one=down[1][0],
    down_four=down[4][0],
    down_four_error=down[4][1],
)

# %% [markdown]
# ## Text alone
#
# Two models of Wikipedia, trained elsewhere (their cards say how), with a vocabulary of 2,048; one seed each.


# %% text-alone
def gap_at_end(card):
    return through_training(card, "first time")[1][-1] - through_training(card, "second time")[1][-1]


alone_cards = {kind: trained(f"induction-text-{kind}").card for kind in ("learned", "shortformer")}
above, below = panels(2, 1, height=4.2, sharex=True)
for (kind, card), colour in zip(alone_cards.items(), (ORANGE, BLUE), strict=True):
    steps, scores_then = through_training(card, "prefix-matching, layer 1")
    above.plot(steps, scores_then, color=colour)
    gap = through_training(card, "first time")[1] - through_training(card, "second time")[1]
    below.plot(steps, gap, color=colour)
    above.text(steps[-1], scores_then[-1], f" {kind}", color=colour, va="center")
above.axhline(0.057, color=GREY, linewidth=0.8, linestyle=":")
above.set_title("prefix-matching score, best head of layer 1", loc="left")
below.set_title("nats that a second copy of the same text costs less", loc="left")
below.set(xlabel="updates of 16,384 tokens", xlim=(0, 23500))
claim(
    text_copy_learned=gap_at_end(alone_cards["learned"]),
    text_copy_shortformer=gap_at_end(alone_cards["shortformer"]),
)

# %% text-alone-keys
learned = trained("induction-text-learned").model
shortformer = trained("induction-text-shortformer").model
AT = dict(periods=PERIODS, length=256, examples=16)


class Tapped:
    """A model that never runs without a tap; its scores are those of the model with that tap."""

    def __init__(self, model, tap):
        self.model, self.tap = model, tap
        self.config, self.W_E, self.vocabulary = model.config, model.W_E, model.vocabulary

    def run_to(self, tokens, layer, tap):
        return self.model.run_to(tokens, layer, tap=compose(self.tap(tokens), tap))


def whole(layer, heads):
    return lambda tokens: without(layer, heads)


def only(part, heads):
    """A tap that gives layer 1 the queries, or keys, that it has without these heads of layer 0."""

    def tap(tokens):
        seen = record(f"blocks.1.attn.{part}")
        learned(tokens, tap=compose(without(0, heads), seen))
        return patch(seen, f"blocks.1.attn.{part}")

    return tap


uniform = Transformer(learned.config)
for weight in uniform.parameters():
    weight.zero_()
chance = prefix_matching_score(uniform, **AT)[1].max()
its = prefix_matching_score(learned, **AT)[1]
best = int(its.argmax())
removed = [prefix_matching_score(Tapped(learned, whole(0, head)), **AT)[1, best].item() for head in range(8)]
feeder = int(np.argmin(removed))
keys = prefix_matching_score(Tapped(learned, only("k", feeder)), **AT)[1, best]
queries = prefix_matching_score(Tapped(learned, only("q", feeder)), **AT)[1, best]
its_random = repeats(16, 256, PERIODS, d_vocab=2048, seed=FRESH)[0]
looking = record("blocks.0.attn.pattern")
learned(its_random, tap=looking)
back_by = [looking["blocks.0.attn.pattern"][:, feeder].diagonal(-n, 1, 2).mean().item() for n in range(3)]
rest = [score for head, score in enumerate(removed) if head != feeder]
claim(
    text_learned=its.max(),
    text_shortformer=prefix_matching_score(shortformer, **AT)[1].max(),
    text_chance=chance,
    text_feeder=feeder,
    text_best=best,
    text_without_feeder=removed[feeder],
    text_without_others_least=min(rest),
    text_feeder_itself=back_by[0],
    text_feeder_one_back=back_by[1],
    text_feeder_two_back=back_by[2],
    text_keys=keys,
    text_queries=queries,
)
plot.table(
    [
        ["learned positions", its.max().item()],
        [f"… without head 0.{feeder}", removed[feeder]],
        [f"… only the keys of layer 1 without 0.{feeder}", keys.item()],
        [f"… only the queries without 0.{feeder}", queries.item()],
        ["… without any other head of layer 0, least", min(rest)],
        ["shortformer positions", prefix_matching_score(shortformer, **AT)[1].max().item()],
        ["even attention to everything", chance.item()],
    ],
    ["model of text alone", "prefix matching"],
    digits=2,
)
# %% [markdown]
# ## A real model
#
# SmolLM2 with 135 million parameters: 30 layers of nine heads.

# %% smollm2
language, its_tokenizer = smollm2()
its_scores = prefix_matching_score(language, examples=8, length=64, periods=(12, 24))
order = its_scores.flatten().argsort(descending=True)
strongest = [(int(i) // 9, int(i) % 9) for i in order[:8]]
claim(
    smol_best=its_scores.max(),
    smol_above_half=int((its_scores > 0.5).sum()),
    smol_above_third=int((its_scores > 0.3).sum()),
    smol_median=its_scores.median(),
    smol_best_layer=strongest[0][0],
    smol_best_head=strongest[0][1],
)
plot.heatmap(its_scores.T, xlabel="layer", ylabel="head", limit=1.0, height=2.3)

# %% smollm2-loss
drawn, its_period = repeats(8, 64, (16, 24), d_vocab=49152, seed=5)
its_again = torch.arange(1, 64) >= its_period


def its_losses(heads):
    by_layer = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)
    taps = [without(layer, group) for layer, group in by_layer.items()]
    found = losses(lambda t: language(t, tap=compose(*taps) if taps else None), drawn)
    return found[~its_again].mean().item(), found[its_again].mean().item()


generator = torch.Generator().manual_seed(0)
pool = [(int(i) // 9, int(i) % 9) for i in order[40:] if i != 16 * 9]  # 16.0 feeds them: see below
cases = {"nothing": [], "the 8 best at prefix matching": strongest}
for draw in "abc":
    cases[f"8 others, drawn at random ({draw})"] = [pool[i] for i in torch.randperm(229, generator=generator)[:8]]
its = {name: its_losses(heads) for name, heads in cases.items()}
claim(
    smol_first=its["nothing"][0],
    smol_second=its["nothing"][1],
    smol_second_without=its["the 8 best at prefix matching"][1],
    smol_second_others_least=min(row[1] for name, row in its.items() if "others" in name),
    smol_second_others_most=max(row[1] for name, row in its.items() if "others" in name),
)
plot.table([[name, *its[name]] for name in cases], ["taken away", "first time", "repeated"], digits=3)

# %% [markdown]
# ### Who feeds its induction heads?
#
# Previous-token heads at their mean, on the same random tokens; then only the keys, queries or values of layers 17 and
# 18 as they are without 16.0, while everything else is as it was.

# %% smollm2-keys
tops = previous_token_score(language, drawn)
back = [(int(i) // 9, int(i) % 9) for i in tops.flatten().argsort(descending=True)]
earlier_back = [place for place in back if place[0] < 16][:5]
READERS = [(17, 4), (18, 6)]
its_found = followers(drawn)
its_clean = record([f"blocks.{layer}.resid_pre" for layer in sorted({16, 17, *(layer for layer, _ in earlier_back)})])
language(drawn[:, :-1], tap=its_clean)


def of_heads(places):
    by_layer = {}
    for layer, head in places:
        by_layer.setdefault(layer, []).append(head)
    return compose(*(without(layer, group) for layer, group in by_layer.items()))


def its_matching(first, tap=None):
    """From the stream before a layer on: the matching of 17.4 and of 18.6, and the loss on what repeats."""
    seen = record([f"blocks.{layer}.attn.pattern" for layer, _ in READERS])
    both_taps = seen if tap is None else compose(tap, seen)
    found = losses(lambda _: language.run_from(first, its_clean[f"blocks.{first}.resid_pre"], tap=both_taps), drawn)
    queries = torch.arange(63) >= its_period  # batch query
    paid = [
        (seen[f"blocks.{layer}.attn.pattern"][:, head] * its_found[:, :-1, :-1]).sum(dim=-1)[queries].mean().item()
        for layer, head in READERS
    ]
    return *paid, found[its_again].mean().item()


parts = record([f"blocks.{layer}.attn.{part}" for layer in (17, 18) for part in "qkv"])
feeding = {"nothing": its_matching(17), "16.0": its_matching(16, compose(of_heads([(16, 0)]), parts))}
feeding["five others together"] = its_matching(min(earlier_back)[0], of_heads(earlier_back))
for part, word in zip("kqv", ("keys", "queries", "values"), strict=True):
    changed = patch(parts, [f"blocks.{layer}.attn.{part}" for layer in (17, 18)])
    feeding[f"16.0, for the {word} only"] = its_matching(17, changed)
key_head = compose(patch(parts, "blocks.17.attn.k", heads=1), patch(parts, "blocks.18.attn.k", heads=2))
feeding["16.0, for the keys of 17.4 and 18.6"] = its_matching(17, key_head)
claim(
    smol_previous=tops[16, 0],
    smol_previous_next=tops[earlier_back[0]],
    smol_fed_17=feeding["nothing"][0],
    smol_fed_18=feeding["nothing"][1],
    smol_gone_17=feeding["16.0"][0],
    smol_gone_18=feeding["16.0"][1],
    smol_others_17=feeding["five others together"][0],
    smol_others_18=feeding["five others together"][1],
    smol_keys_17=feeding["16.0, for the keys only"][0],
    smol_keys_18=feeding["16.0, for the keys only"][1],
    smol_queries_17=feeding["16.0, for the queries only"][0],
    smol_queries_18=feeding["16.0, for the queries only"][1],
    smol_loss_fed=feeding["nothing"][2],
    smol_loss_gone=feeding["16.0"][2],
    smol_loss_keys=feeding["16.0, for the keys only"][2],
    smol_loss_two_keys=feeding["16.0, for the keys of 17.4 and 18.6"][2],
    smol_loss_values=feeding["16.0, for the values only"][2],
    smol_loss_queries=feeding["16.0, for the queries only"][2],
    smol_loss_others=feeding["five others together"][2],
)
plot.table(
    [[name, *(f"{value:.2f}" for value in row)] for name, row in feeding.items()],
    ["taken away", "matching of 17.4", "of 18.6", "loss on repeats"],
)

# %% [markdown]
# ### On natural text
#
# Eight stretches of 128 tokens from held-out speeches. Counted are tokens that came before in their stretch, but at
# most twice, so that “the” and the commas do not decide.

# %% smollm2-speeches
speeches = split(sotu_texts())[1][::3]
stretches = torch.tensor([its_tokenizer.encode(speech[2000:6000]).ids[:128] for speech in speeches])
follow = followers(stretches)
earlier = (stretches[:, :, None] == stretches[:, None, :]).tril(diagonal=-1).sum(dim=-1)  # batch query
counted = (earlier > 0) & (earlier <= 2)


class Following:
    """A tap that keeps each head's mean attention to what followed the same token before."""

    def __init__(self):
        self.means = []

    def __call__(self, name, x):
        if name.endswith(".pattern"):
            self.means.append((x * follow[:, None]).sum(dim=-1).transpose(0, 1)[:, counted].mean(dim=1))
        return x

    def resolve(self, known):
        return frozenset(name for name in known if name.endswith(".pattern"))


watched = record(
    ["blocks.*.resid_pre", *(f"blocks.{layer}.attn.{x}" for layer in (16, 17, 18) for x in ("pattern", "v"))]
)
its_logits = language(stretches, tap=compose(following := Following(), watched))
on_speeches = torch.stack(following.means)  # layer head
ranked = on_speeches.flatten().argsort(descending=True).tolist()
claim(
    speech_queries=int(counted.sum()),
    speech_median=on_speeches.median(),
    speech_best=on_speeches.max(),
    speech_least_of_eight=min(on_speeches[place].item() for place in strongest),
    speech_overlap=len({(i // 9, i % 9) for i in ranked[:8]} & set(strongest)),
)
plot.table(
    [[f"{layer}.{head}", its_scores[layer, head].item(), on_speeches[layer, head].item()] for layer, head in strongest],
    ["head", "on random repeats", "on speeches"],
    digits=2,
)

# %% smollm2-elsewhere
its_loss = F.cross_entropy(its_logits[:, :-1].flatten(0, 1), stretches[:, 1:].flatten(), reduction="none")
elsewhere = []
for layer, head in [(16, 0), (17, 4), (18, 6)]:
    pattern = watched[f"blocks.{layer}.attn.pattern"][:, head]
    value = watched[f"blocks.{layer}.attn.v"][:, :, head // 3] @ language.blocks[layer].attn.W_O[head]
    shares = pattern * value.norm(dim=-1)[:, None]
    shares = shares / shares.sum(dim=-1, keepdim=True)
    changed = language.run_from(16, watched["blocks.16.resid_pre"], tap=without(layer, head))
    lost = F.cross_entropy(changed[:, :-1].flatten(0, 1), stretches[:, 1:].flatten(), reduction="none") - its_loss
    by_stretch = lost.unflatten(0, (8, 127)).mean(dim=1)
    elsewhere.append(
        [
            f"{layer}.{head}",
            pattern[:, 8:, 0].mean().item(),
            shares[:, 8:, 0].mean().item(),
            pattern.diagonal(-1, 1, 2).mean().item(),
            by_stretch.mean().item(),
            by_stretch.std().item() / 8**0.5,
        ]
    )
by_layer = of_heads(strongest)
first_layer_of = min(layer for layer, _ in strongest)
changed = language.run_from(first_layer_of, watched[f"blocks.{first_layer_of}.resid_pre"], tap=by_layer)
lost = F.cross_entropy(changed[:, :-1].flatten(0, 1), stretches[:, 1:].flatten(), reduction="none") - its_loss
its_lengths = match_length(stretches)[:, :-1]
its_by_length = by_length(lost.unflatten(0, (8, 127)), its_lengths, most=2)
claim(
    smol_eight_text=lost.mean(),
    smol_eight_error=lost.unflatten(0, (8, 127)).mean(dim=1).std() / 8**0.5,
    smol_eight_none=its_by_length[0][0],
    smol_eight_one=its_by_length[1][0],
    smol_eight_two=its_by_length[2][0],
    smol_eight_two_error=its_by_length[2][1],
    smol_eight_two_tokens=int((its_lengths >= 2).sum()),
    smol_text_first_least=min(row[1] for row in elsewhere[1:]),
    smol_text_first_weighted=max(row[2] for row in elsewhere[1:]),
    smol_text_previous=elsewhere[0][3],
    smol_text_worth_previous=elsewhere[0][4],
    smol_text_worth_most=max(row[4] for row in elsewhere[1:]),
)
print("the eight together, by length of match:", [f"{mean:+.3f} ± {error:.3f}" for mean, error in its_by_length])
plot.table(
    [[row[0], *(f"{x:.2f}" for x in row[1:4]), f"{row[4]:+.3f} ± {row[5]:.3f}"] for row in elsewhere],
    ["head", "to the first token", "… value-weighted", "one back", "worth on speeches (nats)"],
)

# %% smollm2-text
passage = (
    "Senators of the United States, and Whitelaw Reid to be the peace commissioners on the part of the United States."
)
assert any(passage in speech for speech in split(sotu_texts())[1]), "a sentence of a held-out speech"
ids = torch.tensor([its_tokenizer.encode(passage).ids])
shown = [its_tokenizer.decode([int(t)]).replace(" ", "·") for t in ids[0]]
layer, head = ranked[0] // 9, ranked[0] % 9  # the one that does it most on speeches
claim(speech_best_layer=layer, speech_best_head=head)
seen = record(f"blocks.{layer}.attn.pattern")
language(ids, tap=seen)
plot.heatmap(
    seen[f"blocks.{layer}.attn.pattern"][0, head],
    rows=shown,
    columns=shown,
    limit=1.0,
    bar=None,
    xlabel="attends to",
    ylabel="from",
    height=5.6,
)
