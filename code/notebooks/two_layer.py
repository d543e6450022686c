# %% [markdown]
# # Two layers: composition
#
# Everything that the note [two-layer](../../docs/notes/two-layer.md) shows and counts: a model that has read speeches
# alone (`attn-2l`), the five of [induction-heads](induction_heads.py), of which half was repeats, and SmolLM2.

# %% setup
import itertools
from math import factorial

import numpy as np
import torch
from torch.nn import functional as F

from residual import plot
from residual.experiments.hand_set import induction
from residual.experiments.measure import spot_check
from residual.factored import FactoredMatrix
from residual.files import checkpoints
from residual.files.pretrained import smollm2
from residual.files.results import load_result
from residual.methods.circuits import composition_scores
from residual.methods.fold import fold_layernorm
from residual.methods.induction import prefix_matching_score, previous_token_score, repeats
from residual.methods.paths import score_paths, two_layer_paths
from residual.plot import BLUE, GREEN, GREY, ORANGE, panels
from residual.taps import ablate, at, compose, freeze, patch, record
from residual.training.corpus import corpus, sotu_texts, split
from weave import claim

torch.set_grad_enabled(False)
SEEDS, PERIODS = range(5), (8, 32)


def trained(name, seed=0):
    return checkpoints.load(name if seed == 0 else f"{name}-seed{seed}").model


speeches = trained("attn-2l")
inductive = [trained("induction", seed) for seed in SEEDS]
held_out = corpus().validation.unfold(0, 129, 128)  # the whole validation text; each token is predicted once
text = held_out[::62]
random, period = repeats(len(text), 129, PERIODS, seed=11)
again = torch.arange(1, 129) >= period  # batch pos: the predicted token came a period ago
everywhere = torch.ones_like(again)
DATA = {"repeats": (random, again), "speeches": (text, everywhere)}
twice = text.gather(1, torch.arange(129) % period)  # a piece of a speech, said again and again
claim(windows=len(held_out), windows_few=len(text))


def by_window(logits, tokens, counted=None):
    """Mean loss in nats of each window, over the predictions that are counted."""
    found = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").unflatten(
        0, logits.shape[:2]
    )
    return found.mean(dim=1) if counted is None else (found * counted).sum(dim=1) / counted.sum(dim=1)


def error(x):
    """Standard error of the mean over windows."""
    return (x.std() / len(x) ** 0.5).item()


def shown(x):
    """A mean over windows with its standard error."""
    return f"{x.mean():.3f} ± {error(x):.3f}".replace("-", "−")


# %% [markdown]
# ## Three ways to compose

# %% three-ways
axes = panels(1, 3, height=2.5)
for ax, kind, colour, where, what in zip(
    axes,
    "QKV",
    (ORANGE, BLUE, GREEN),
    (2, 0, 0),
    ("who asks", "who answers", "what moves"),
    strict=True,
):
    for x in (0, 2):
        ax.plot([x, x], [0, 4], color=GREY, linewidth=1.2)
    ax.plot([where], [1], "o", color=colour, markersize=9)
    ax.text(where + (0.3 if where == 0 else -0.3), 1, "head 1", ha="left" if where == 0 else "right", va="center")
    ax.plot([1], [2.6], "s", color="black", markersize=7, fillstyle="none")
    ax.text(1, 3.0, "head 2", ha="center", va="bottom")
    ends = {"Q": ((2, 1.9), (1.12, 2.5)), "K": ((0, 1.7), (0.88, 2.5)), "V": ((0, 2.5), (0.85, 2.65))}
    for name, (start, stop) in ends.items():
        chosen = name == kind
        ax.annotate(
            "", xy=stop, xytext=start,
            arrowprops={"arrowstyle": "->", "color": colour if chosen else GREY, "linewidth": 2.4 if chosen else 0.8},
        )  # fmt: skip
        ax.text(
            (start[0] + stop[0]) / 2,
            (start[1] + stop[1]) / 2 + (0.16 if name != "K" else -0.28),
            name.lower(),
            color=colour if chosen else GREY,
        )
    ax.annotate("", xy=(2, 3.6), xytext=(1.15, 2.7), arrowprops={"arrowstyle": "->", "color": GREY, "linewidth": 0.8})
    ax.text(0, -0.35, "source", ha="center")
    ax.text(2, -0.35, "destination", ha="center")
    ax.set(xlim=(-0.7, 2.8), ylim=(-0.8, 4.2))
    ax.set_title(f"{kind}: {what}", color=colour, fontsize=9)
    ax.axis("off")

# %% [markdown]
# ## The terms, by order
#
# Patterns are frozen to those of the whole model, so that each term is exact and their sum is the model.


# %% terms
def parts(model, tokens):
    """What the direct path, the heads of each layer on it, and all virtual heads write to the end of the stream."""
    names = ["blocks.0.resid_pre", "blocks.0.attn_out", "blocks.1.resid_post", "blocks.1.attn.pattern"]
    model(tokens, tap=(seen := record(names)))
    direct, early = seen["blocks.0.resid_pre"], seen["blocks.0.attn_out"]
    frozen = freeze({"blocks.1.attn.pattern": seen["blocks.1.attn.pattern"]})
    model.run_from(1, direct, tap=compose(frozen, on_direct := record("blocks.1.attn_out")))
    late = on_direct["blocks.1.attn_out"]
    return direct, early, late, seen["blocks.1.resid_post"] - direct - early - late


def orders(model, tokens, counted):
    """Losses by window: nothing, the direct path, single heads too, the whole; and with one layer's heads only."""
    rows = []
    for some, where in zip(tokens.split(64), counted.split(64), strict=True):
        direct, early, late, virtual = parts(model, some[:, :-1])
        whole = direct + early + late + virtual
        streams = [0 * direct, direct, direct + early + late, whole, direct + early, direct + late]
        rows.append(torch.stack([by_window(x @ model.W_U, some, where) for x in streams]))
    return torch.cat(rows, dim=1)  # stream window


many = held_out[::4]
cases = {"attn-2l, speeches": (speeches, many, torch.ones_like(many[:, 1:]))}
cases |= {
    "induction, speeches": (inductive[0], *DATA["speeches"]),
    "induction, repeats": (inductive[0], *DATA["repeats"]),
}
by_case = {name: orders(*case) for name, case in cases.items()}
gains = {name: losses[:3] - losses[1:4] for name, losses in by_case.items()}  # order window
n_heads, n_virtual = 16, 64
a, b, c = (gain.mean(dim=1) for gain in gains.values())
claim(
    direct_gain=a[0],
    heads_gain=a[1],
    virtual_gain=a[2],
    virtual_gain_error=error(gains["attn-2l, speeches"][2]),
    whole_loss=by_case["attn-2l, speeches"][3].mean(),
    whole_loss_error=error(by_case["attn-2l, speeches"][3]),
    per_head=a[1] / n_heads,
    per_virtual=a[2] / n_virtual,
    induction_direct=b[0],
    induction_heads=b[1],
    induction_virtual=b[2],
    repeats_direct=c[0],
    repeats_heads=c[1],
    repeats_virtual=c[2],
    repeats_loss=by_case["induction, repeats"][3].mean(),
)
plot.table(
    [
        [name, f"{losses[0].mean():.2f}", *(shown(-gain) for gain in gains[name]), shown(losses[3])]
        for name, losses in by_case.items()
    ],
    ["model, data", "nothing", "direct path", "single heads", "virtual heads", "whole"],
)

# %% layers
rows = []
for name, losses in by_case.items():
    _, direct, heads, _, early, late = losses.mean(dim=1).tolist()
    rows.append(
        [name, *(f"{x:.3f}".replace("-", "−") for x in (early - direct, late - direct, heads - late, heads - early))]
    )
    if name == "attn-2l, speeches":
        claim(
            layer_0_alone=direct - early,
            layer_1_alone=direct - late,
            layer_0_on_top=late - heads,
            layer_1_on_top=early - heads,
        )
    if name == "induction, repeats":
        claim(repeats_layer_1_alone=direct - late, repeats_layer_0_on_top=heads - late)
plot.table(rows, ["model, data", "layer 0 alone", "layer 1 alone", "layer 0 on top", "layer 1 on top"])

# %% all-seeds
spread = [[(-orders(m, *DATA[name]).diff(dim=0)[:3]) for name in ("speeches", "repeats")] for m in inductive]
mean_of = np.array([[gain.mean(dim=1).numpy() for gain in pair] for pair in spread])  # seed data order
claim(
    virtual_text_most=mean_of[:, 0, 2].max(),
    virtual_text_least=mean_of[:, 0, 2].min(),
    virtual_repeats_most=mean_of[:, 1, 2].max(),
    virtual_repeats_least=mean_of[:, 1, 2].min(),
    heads_repeats_least=mean_of[:, 1, 1].min(),
    virtual_repeats_least_fall=-mean_of[:, 1, 2].min(),
    virtual_repeats_error=max(error(pair[1][2]) for pair in spread),
    virtual_repeats_falls=sum(bool(pair[1][2].mean() < -2 * error(pair[1][2])) for pair in spread),
)
plot.table(
    [[seed, *(shown(order) for gain in spread[seed] for order in gain[1:])] for seed in SEEDS],
    ["seed", "speeches: heads", "virtual heads", "repeats: heads", "virtual heads"],
)

# %% [markdown]
# ## Each path by itself
#
# What the loss rises by when one path is left out of the sum, all patterns as they were.


# %% one-by-one
def marginal(model, tokens, counted):
    """Rises of the loss by window: of single heads [layer head window], of virtual heads [later earlier window]."""
    found = []
    for some, where in zip(tokens.split(32), counted.split(32), strict=True):
        paths = two_layer_paths(model, some[:, :-1])
        whole = (paths.direct + paths.heads.sum(dim=(0, 1)) + paths.virtual.sum(dim=(0, 1))) @ model.W_U
        base = by_window(whole, some, where)

        def left_out(group, whole=whole, base=base, some=some, where=where):
            rises = [by_window(whole - x @ model.W_U, some, where) - base for x in group.flatten(0, 1)]
            return torch.stack(rises).unflatten(0, group.shape[:2])

        found.append((left_out(paths.heads), left_out(paths.virtual)))
    return [torch.cat(part, dim=-1) for part in zip(*found, strict=True)]


def without_writer(model, tokens, writer):
    """Rises of the loss by window without the virtual heads that begin in one head, and without any."""
    found = []
    for some in tokens.split(32):
        paths = two_layer_paths(model, some[:, :-1])
        whole = paths.direct + paths.heads.sum(dim=(0, 1)) + paths.virtual.sum(dim=(0, 1))
        streams = whole, whole - paths.virtual[:, writer].sum(dim=0), whole - paths.virtual.sum(dim=(0, 1))
        base, *without = (by_window(x @ model.W_U, some) for x in streams)
        found.append(torch.stack(without) - base)
    return torch.cat(found, dim=1)


sampled = held_out[::31]
from_writer, from_all = without_writer(speeches, sampled, 7)
single, pairs_of = marginal(speeches, sampled, torch.ones_like(sampled[:, 1:]))
heads, virtual = single.mean(dim=-1).numpy(), pairs_of.mean(dim=-1).numpy()
claim(
    windows_one_by_one=len(sampled),
    best_head=heads.max(),
    median_head=np.median(heads),
    best_virtual=virtual.max(),
    worst_virtual=virtual.min(),
    median_virtual=np.median(virtual),
    virtual_above_hundredth=int((virtual > 0.01).sum()),
    virtual_error=max(error(x) for x in pairs_of.flatten(0, 1)),
    best_virtual_error=error(pairs_of.flatten(0, 1)[virtual.argmax()]),
    virtual_total=virtual.sum(),
    virtual_together=a[2],
    virtual_from_0_7=from_writer.mean(),
    virtual_from_0_7_error=error(from_writer),
    virtual_from_0_7_share=from_writer.mean() / from_all.mean(),
)
left, right = panels(1, 2, height=2.9, width=5.2, width_ratios=(2, 5))
plot.heatmap(heads.T, ax=left, xlabel="layer", ylabel="head", title="single heads", limit=0.125, bar=None)
plot.heatmap(
    virtual.T,
    ax=right,
    xlabel="head of layer 1",
    ylabel="head of layer 0",
    title="virtual heads",
    limit=0.0125,
    bar="nats",
)

# %% one-by-one-induction
each = [{name: marginal(m, *DATA[name])[1] for name in DATA} for m in inductive]
on_repeats = [pair["repeats"].mean(dim=-1) for pair in each]
on_text = [pair["speeches"].mean(dim=-1) for pair in each]
rows = []
for seed, m in enumerate(inductive):
    later, earlier = divmod(int(on_text[seed].argmax()), 4)
    m(text[:, :-1], tap=(seen := record("*.pattern")))
    first, second = seen["blocks.0.attn.pattern"][:, earlier], seen["blocks.1.attn.pattern"][:, later]
    moved = [
        x.diagonal(offset=-k, dim1=-2, dim2=-1)[..., 8:].mean().item()
        for x, k in ((second @ first, 1), (second, 0), (first, 1))
    ]
    rows.append([seed, f"1.{later} ∘ 0.{earlier}", each[seed]["speeches"][later, earlier], *moved])
strongest = max(rows, key=lambda row: row[2].mean())
claim(
    virtual_repeats_best=max(x.max() for x in on_repeats),
    virtual_text_best=strongest[2].mean(),
    virtual_text_best_seed=strongest[0],
    virtual_text_best_back=strongest[3],
    virtual_text_best_own=strongest[4],
    virtual_text_best_previous=strongest[5],
    virtual_back_least=min(row[3] for row in rows),
)
plot.table(
    [
        [seed, name, shown(rise), *(f"{x:.2f}" for x in moved), f"{on_repeats[seed].max():.3f}"]
        for seed, name, rise, *moved in rows
    ],
    ["seed", "best on speeches", "nats", "its pattern: one back", "1.x: own token", "0.y: one back", "best on repeats"],
)

# %% [markdown]
# ## What freezing hides
#
# The previous-token head writes a term of its own, and it shapes the pattern of the heads after it. The first is a
# path; the second is inside A.

# %% hidden
m = inductive[0]
mover = int(previous_token_score(m, text[:, :-1])[0].argmax())
paths = two_layer_paths(m, random[:, :-1])
full = paths.direct + paths.heads.sum(dim=(0, 1)) + paths.virtual.sum(dim=(0, 1))
as_path = full - paths.heads[0, mover] - paths.virtual[:, mover].sum(dim=0)
gone = m(random[:, :-1], tap=ablate("blocks.0.attn.z", "zero", heads=mover))
whole_loss, path_loss, gone_loss = (by_window(x, random, again) for x in (full @ m.W_U, as_path @ m.W_U, gone))
claim(hidden_whole=whole_loss.mean(), hidden_path=path_loss.mean(), hidden_gone=gone_loss.mean())
plot.table(
    [
        ["the whole model", shown(whole_loss)],
        [f"all {1 + 4} paths through head 0.{mover} left out, patterns frozen", shown(path_loss)],
        [f"head 0.{mover} taken away, patterns computed again", shown(gone_loss)],
    ],
    ["", "loss on what repeats (nats)"],
)

# %% [markdown]
# ## The scores, path by path
#
# First the model by hand, whose answer is known; then the heads of the trained models.

# %% score-kinds
KINDS = ("neither", "Q", "K", "both")


def kinds_of(paths):
    """[query_path key_path …] as four kinds of term."""
    return torch.stack([paths[0, 0], paths[1:, 0].sum(dim=0), paths[0, 1:].sum(dim=0), paths[1:, 1:].sum(dim=(0, 1))])


def followers(tokens):
    """True at [batch query key] where the key's predecessor is the query's token."""
    n = tokens.shape[1]
    same = tokens[:, :, None] == tokens[:, None, :-1]
    return torch.cat([torch.zeros_like(same[:, :, :1]), same], dim=2) & torch.ones(n, n, dtype=torch.bool).tril()


def margin(scores, tokens):
    """By how much scores [… batch query key] of right keys exceed the mean of the others, where there are any."""
    right = followers(tokens).to(scores)
    wrong = torch.ones_like(right).tril() - right
    exceeds = (scores * right).sum(dim=-1) / right.sum(dim=-1).clamp(min=1) - (scores * wrong).sum(dim=-1) / wrong.sum(
        dim=-1
    )
    return exceeds[..., right.any(dim=-1)].mean(dim=-1)


by_hand, drawn = induction(32, 64), repeats(4, 64, PERIODS, d_vocab=31, seed=7)[0] + 1
drawn[:, 0] = 0  # its start token
hand = margin(kinds_of(score_paths(by_hand, drawn)), drawn)[:, 0]
inductors = [(prefix_matching_score(m, periods=PERIODS)[1] > 0.5).nonzero().flatten().tolist() for m in inductive]
movers = [int(previous_token_score(m, text[:, :-1])[0].argmax()) for m in inductive]
rows, from_mover, elsewhere = [], [], []
for seed, m in enumerate(inductive):
    some = random[:6, :-1]
    terms = score_paths(m, some)
    found = torch.stack([margin(kinds_of(terms)[:, :, head], some) for head in range(4)], dim=1)  # kind head
    by_writer = torch.stack([margin(terms[0, 1:, :, head], some) for head in inductors[seed]], dim=1)  # writer head
    for head in inductors[seed]:
        rows.append([f"seed {seed}, 1.{head}", *found[:, head].tolist()])
    from_mover += (by_writer[movers[seed]] / by_writer.sum(dim=0)).tolist()
    elsewhere += [found[2, head].item() for head in range(4) if head not in inductors[seed]]
shares = np.array([row[1:] for row in rows])
shares_of = shares / shares.sum(axis=1, keepdims=True)
claim(
    induction_heads_seen=len(rows),
    k_share_least=shares_of[:, 2].min(),
    k_share_most=shares_of[:, 2].max(),
    k_from_mover_least=min(from_mover),
    k_margin_least=shares[:, 2].min(),
    k_margin_others=max(elsewhere),
    hand_k_share=hand[2] / hand.sum(),
)
plot.table(
    [
        ["by hand, 1.0", *(f"{x:.2f}".replace("-0.00", "0.00") for x in hand.tolist())],
        *([name, *(f"{x:.2f}".replace("-", "−") for x in values)] for name, *values in rows),
    ],
    ["head", "neither", "Q-composition", "K-composition", "both"],
)

# %% [markdown]
# ### Each kind in nats
#
# The four kinds can be left out of the scores in 16 ways. The Shapley value is a kind's mean effect over all orders of
# adding them; the four add up to what all scores of layer 1 are worth. What layer 0 writes on average counts as direct.


# %% shares
def kind_scores(model, tokens, centered=True):
    """The scores of layer 1 by kind [kind batch head query key], and the stream before it."""
    names = ["blocks.0.resid_pre", "blocks.1.resid_pre"]
    model(tokens, tap=(seen := record(names)))
    direct, stream = (seen[name] for name in names)
    if centered:
        direct = direct + (stream - direct).mean(dim=(0, 1))
    sides = []
    for x in (direct, stream):
        model.run_from(1, x, tap=(read := record(["blocks.1.attn.q", "blocks.1.attn.k"])))
        sides.append((read["blocks.1.attn.q"], read["blocks.1.attn.k"]))
    (q, k), (q_all, k_all) = sides
    kinds = ((q, k), (q_all - q, k), (q, k_all - k), (q_all - q, k_all - k))
    scale = model.config.d_head**-0.5
    return torch.stack([torch.einsum("bqhd,bkhd->bhqk", one, other) * scale for one, other in kinds]), stream


def shapley(model, tokens, counted, centered=True):
    """What each kind is worth, by window [kind window]; and the cost of leaving it out alone."""
    kinds, stream = kind_scores(model, tokens[:, :-1], centered)
    future = torch.full(kinds.shape[-2:], -torch.inf).triu(1)
    loss = {}
    for chosen in itertools.product((0, 1), repeat=4):
        scores = torch.einsum("k,kbhij->bhij", torch.tensor(chosen).float(), kinds) + future
        loss[chosen] = by_window(
            model.run_from(1, stream, tap=freeze({"blocks.1.attn.scores": scores})), tokens, counted
        )
    values = torch.zeros(4, len(tokens))
    for chosen, without in loss.items():
        for kind in range(4):
            if not chosen[kind]:
                weight = factorial(sum(chosen)) * factorial(3 - sum(chosen)) / 24
                values[kind] += weight * (without - loss[(*chosen[:kind], 1, *chosen[kind + 1 :])])
    return values


few = {name: (tokens[:24], counted[:24]) for name, (tokens, counted) in DATA.items()}
worth = [{name: shapley(m, *few[name]) for name in DATA} for m in inductive]
as_zero = [shapley(m, *few["speeches"], centered=False) for m in inductive]
k_repeats, k_text, q_text, plain_text = (
    np.array([pair[name][kind].mean().item() for pair in worth])
    for name, kind in (("repeats", 2), ("speeches", 2), ("speeches", 1), ("speeches", 0))
)
claim(
    k_worth_repeats_least=k_repeats.min(),
    k_worth_repeats_most=k_repeats.max(),
    k_share_repeats_least=min((pair["repeats"][2].mean() / pair["repeats"].sum(dim=0).mean()).item() for pair in worth),
    k_worth_text_least=k_text.min(),
    k_worth_text_most=k_text.max(),
    q_worth_text_least=q_text.min(),
    q_worth_text_most=q_text.max(),
    plain_worth_text_least=plain_text.min(),
    q_constant_text_least=min(x[1].mean() for x in as_zero),
    q_constant_text_most=max(x[1].mean() for x in as_zero),
    shares_error=max(error(x) for pair in worth for values in pair.values() for x in values),
)
plot.table(
    [
        [
            f"{name}, seed {seed}",
            *(f"{x.mean():.2f}".replace("-", "−") for x in worth[seed][name]),
            f"{worth[seed][name].sum(dim=0).mean():.2f}",
        ]
        for name in DATA
        for seed in SEEDS
    ],
    ["Shapley value (nats)", *KINDS, "all"],
)

# %% [markdown]
# ### Each edge in nats
#
# One term of what one side of one head reads is set to its mean over windows and positions; nothing else changes but
# what follows from it.


# %% edges
turned = torch.linalg.qr(torch.randn(128, 128, generator=torch.Generator().manual_seed(0))).Q


class Edges:
    """A model, its windows, and the price of any edge from layer 0 into layer 1."""

    def __init__(self, model, tokens, counted):
        self.model, self.tokens, self.counted = model, tokens, counted
        model(tokens[:, :-1], tap=(seen := record(["blocks.1.resid_pre", "blocks.0.attn.result"])))
        self.stream, self.result = seen["blocks.1.resid_pre"], seen["blocks.0.attn.result"]
        self.base = by_window(model.run_from(1, self.stream), tokens, counted)

    def change(self, writer, how="mean"):
        term = self.result[:, :, writer]
        if how == "resample":
            return term.roll(1, dims=0) - term
        away = term.mean(dim=(0, 1)) - term
        return away @ turned if how == "turned" else away

    def price(self, writer, side, readers, how="mean"):
        W = getattr(self.model.blocks[1].attn, f"W_{side.upper()}")
        shift = torch.zeros_like(self.stream[:, :, None, : W.shape[-1]]).repeat(1, 1, len(W), 1)
        shift[:, :, readers] = torch.einsum("bpd,hde->bphe", self.change(writer, how), W[readers])
        tap = at(f"blocks.1.attn.{side}", lambda x: x + shift)
        return by_window(self.model.run_from(1, self.stream, tap=tap), self.tokens, self.counted) - self.base


TWICE = "speeches that repeat"
cases = few | {TWICE: (twice[:48], again[:48])}
rows, prices = [], {}
for seed, m in enumerate(inductive):
    for name, data in cases.items():
        edges, readers, writer = Edges(m, *data), inductors[seed], movers[seed]
        found = {
            "edge": edges.price(writer, "k", readers),
            "resample": edges.price(writer, "k", readers, "resample"),
            "turned": edges.price(writer, "k", readers, "turned"),
            "q": edges.price(writer, "q", readers),
            "v": edges.price(writer, "v", readers),
            "others": torch.stack([edges.price(w, "k", readers) for w in range(4) if w != writer]),
        }
        prices[seed, name] = found
        others = found["others"][found["others"].mean(dim=1).argmax()]
        cells = (found["edge"], found["resample"], others, found["q"], found["v"], found["turned"])
        rows.append([f"{name}, seed {seed}", *(shown(x) for x in cells)])
rows.sort(key=lambda row: row[0])
mean_price = {
    key: {what: x.mean().item() for what, x in found.items() if what != "others"} for key, found in prices.items()
}
claim(
    edge_repeats_least=min(mean_price[seed, "repeats"]["edge"] for seed in SEEDS),
    edge_repeats_most=max(mean_price[seed, "repeats"]["edge"] for seed in SEEDS),
    edge_repeats_error=max(error(prices[seed, "repeats"]["edge"]) for seed in SEEDS),
    edge_text_least=min(mean_price[seed, "speeches"]["edge"] for seed in SEEDS),
    edge_text_most=max(mean_price[seed, "speeches"]["edge"] for seed in SEEDS),
    edge_text_second=sorted(mean_price[seed, "speeches"]["edge"] for seed in SEEDS)[-2],
    edge_text_turned_0=mean_price[0, "speeches"]["turned"],
    edge_others_most=max(prices[seed, "repeats"]["others"].mean(dim=1).max().item() for seed in SEEDS),
    edge_qv_most=max(mean_price[seed, "repeats"][side] for seed in SEEDS for side in "qv"),
    edge_turned_most=max(mean_price[seed, "repeats"]["turned"] for seed in SEEDS),
    edge_text_turned_most=max(mean_price[seed, "speeches"]["turned"] for seed in SEEDS),
    resample_repeats_least=min(mean_price[seed, "repeats"]["resample"] for seed in SEEDS),
    resample_repeats_most=max(mean_price[seed, "repeats"]["resample"] for seed in SEEDS),
    edge_twice_least=min(mean_price[seed, TWICE]["edge"] for seed in SEEDS),
    edge_twice_most=max(mean_price[seed, TWICE]["edge"] for seed in SEEDS),
    edge_twice_error=max(error(prices[seed, TWICE]["edge"]) for seed in SEEDS),
    edge_twice_turned_most=max(mean_price[seed, TWICE]["turned"] for seed in SEEDS),
)
plot.table(
    rows,
    [
        "loss rises by (nats)",
        "previous-token head → keys",
        "… another window's",
        "best other head → keys",
        "→ queries",
        "→ values",
        "→ keys, direction turned",
    ],
)

# %% [markdown]
# ## Composition scores, and the erratum


# %% scores
def scored(model):
    found = composition_scores(model, samples=64)
    return {kind: getattr(found, kind)[1, :, 0].numpy() for kind in "QKV"}, found.baseline, found.spread


score, baseline, spread_of = scored(speeches)
score_i, baseline_i, spread_i = scored(inductive[0])


def without_direction(model, writer):
    """K-scores [reader writer] with the strongest direction that one head writes taken out of what keys read."""
    first, second = (block.attn for block in model.blocks)
    direction = torch.linalg.svd(first.W_OV(writer).AB).Vh[0]
    qk = second.W_QK().AB
    qk = qk - (qk @ direction)[..., None] * direction
    wrote, norm = first.W_OV().AB, torch.linalg.matrix_norm
    return norm(qk[:, None] @ wrote.mT[None]) / (norm(qk)[:, None] * norm(wrote)[None])


rest = [h for h in range(8) if h != 7]
kinds = list("QKV")
claim(
    baseline=baseline,
    baseline_spread=spread_of,
    baseline_induction=baseline_i,
    largest_q=score["Q"].max(),
    largest_k=score["K"].max(),
    largest_v=score["V"].max(),
    rest_k=score["K"][:, rest].mean(),
    cleared_k=without_direction(speeches, 7)[:, rest].mean(),
    induction_k=score_i["K"].max(),
    induction_q=score_i["Q"].max(),
    induction_v=score_i["V"].max(),
    induction_k_edges=int((score_i["K"] > 0.15).sum()),
    above_k=int((score["K"] > baseline + 3 * spread_of).sum()),
    largest_q_excess=score["Q"].max() - baseline,
    largest_v_excess=score["V"].max() - baseline,
)
plot.table(
    [
        [name, *(s[kind].max() for kind in kinds), *(np.median(s[kind]) for kind in kinds), base, sd]
        for name, s, base, sd in (("attn-2l", score, baseline, spread_of), ("induction", score_i, baseline_i, spread_i))
    ],
    ["model", "Q, most", "K", "V", "Q, median", "K", "V", "random", "± sd"],
    digits=2,
)

# %% diagram
COLOUR = {"Q": ORANGE, "K": BLUE, "V": GREEN}
axes = panels(2, 1, height=5.2)
for ax, title, (s, base, sd) in zip(
    axes, ("attn-2l: speeches", "induction: half repeats"), (scored(speeches), scored(inductive[0])), strict=True
):
    n = len(s["K"])
    for shift, kind in zip((-0.07, 0, 0.07), kinds, strict=True):
        for later, earlier in np.ndindex(n, n):
            excess = s[kind][later, earlier] - base
            if excess > 4 * sd:
                ax.plot(
                    [earlier + shift, later + shift],
                    [0, 1],
                    color=COLOUR[kind],
                    linewidth=min(6, 25 * excess),
                    alpha=min(1, 6 * excess),
                    solid_capstyle="round",
                )
    for layer in range(2):
        for head in range(n):
            ax.text(head, layer + (0.09 if layer else -0.09), f"{layer}.{head}", ha="center", va="center")
    ax.set(xlim=(-0.6, n - 0.4), ylim=(-0.2, 1.2), title=title)
    ax.axis("off")
for y, kind in zip((0.34, 0.2, 0.06), kinds, strict=True):
    axes[0].text(0, y, f"{kind}-composition", color=COLOUR[kind])

# %% [markdown]
# ### The wrong norm
#
# `‖A B‖ = ‖B A‖` holds for traces and for eigenvalues, but not for this norm.


# %% erratum
def wrong(model):
    """The scores of K-composition if the last factor could be moved to the front."""
    first, second = (block.attn for block in model.blocks)
    qk, ov = second.W_QK(), first.W_OV().T  # W_QK² W_OV¹ᵀ = A B A' B'
    small = (ov.B[None] @ qk.A[:, None]) @ (qk.B[:, None] @ ov.A[None])  # (B' A) (B A')
    norms = torch.linalg.matrix_norm(small)
    return (norms / (qk.norm()[:, None] * ov.norm()[None])).numpy()


def ranks(x):
    return x.flatten().argsort().argsort()


pairs = {"attn-2l": (score["K"], wrong(speeches)), "induction": (score_i["K"], wrong(inductive[0]))}
rank_correlation = {name: np.corrcoef(ranks(right), ranks(bad))[0, 1] for name, (right, bad) in pairs.items()}
right, bad = pairs["attn-2l"]
worst = np.unravel_index(np.abs(ranks(right) - ranks(bad)).argmax(), right.shape)
claim(
    rank_correlation=rank_correlation["attn-2l"],
    rank_correlation_induction=rank_correlation["induction"],
    largest_factor=(right / bad).max(),
    smallest_factor=(right / bad).min(),
    same_top=int(right.argmax() == bad.argmax()),
    moved_from=64 - int(ranks(right).reshape(8, 8)[worst]),
    moved_to=64 - int(ranks(bad).reshape(8, 8)[worst]),
)
ax = panels(height=3.4)
ax.set(xlabel="K-composition score", ylabel="with the factors turned round")
limit = 1.05 * max(right.max(), bad.max(), pairs["induction"][0].max(), pairs["induction"][1].max())
ax.plot([0, limit], [0, limit], color=GREY, linewidth=0.8)
for (x, y), colour in zip(pairs.values(), (GREY, BLUE), strict=True):
    ax.scatter(x, y, s=22, color=colour, alpha=0.8, linewidth=0)
for name, colour, y in (("attn-2l", GREY, 0.85), ("induction", BLUE, 0.93)):
    ax.text(0.03 * limit, y * limit, name, color=colour)

# %% diagram-control
shuffled = []
generator = torch.Generator().manual_seed(0)
for _ in range(20):  # heads of layer 0 turned by a random rotation of the stream: nothing left to compose with
    turn = torch.linalg.qr(torch.randn(128, 128, generator=generator)).Q
    qk, ov = inductive[0].blocks[1].attn.W_QK(), inductive[0].blocks[0].attn.W_OV()
    turned = turn.T @ ov @ turn
    product = torch.linalg.matrix_norm(qk.AB[:, None] @ turned.AB.mT[None])
    shuffled.append((product / (qk.norm()[:, None] * ov.norm()[None])).numpy())
claim(turned_mean=np.mean(shuffled), turned_most=np.max(shuffled))
plot.table(
    [
        ["Gaussian factors of the same rank", baseline_i, None],
        ["layer 0 turned at random", np.mean(shuffled), np.max(shuffled)],
        ["as trained", score_i["K"].mean(), score_i["K"].max()],
    ],
    ["K-composition in `induction`", "mean", "most"],
    digits=2,
)

# %% [markdown]
# ### Does a score predict a price?
#
# Every edge of the five models by itself: 3 kinds × 4 readers × 4 writers.

# %% score-against-price
found, names, varies = [], [], {}
for seed, m in enumerate(inductive):
    composition = composition_scores(m, samples=2)
    priced = [Edges(m, tokens[:8], counted[:8]) for tokens, counted in DATA.values()]
    wrote = priced[1].result  # batch pos head d_model, on speeches
    shift = wrote - wrote.mean(dim=(0, 1))
    varies[seed] = (shift.square().sum(dim=(0, 1, 3)) / wrote.square().sum(dim=(0, 1, 3))).tolist()
    for kind, reader, writer in itertools.product("QKV", range(4), range(4)):
        excess = getattr(composition, kind)[1, reader, 0, writer].item() - baseline_i
        found.append([excess, *(edges.price(writer, kind.lower(), [reader]).mean().item() for edges in priced)])
        names.append((seed, kind, reader, writer))
found = np.array(found)
of_kind = np.array([kind for _, kind, *_ in names])
strong = found[:, 0] > 0.1
strong_q, strong_k = strong & (of_kind == "Q"), strong & (of_kind == "K")
q_writers = [varies[seed][writer] for (seed, _, _, writer), yes in zip(names, strong_q, strict=True) if yes]
strongest_q = names.index((0, "Q", *np.unravel_index(score_i["Q"].argmax(), (4, 4))))
claim(
    edges_priced=len(found),
    price_rank_correlation=np.corrcoef(ranks(found[:, 0]), ranks(found[:, 1]))[0, 1],
    price_rank_correlation_text=np.corrcoef(ranks(found[:, 0]), ranks(found[:, 2]))[0, 1],
    strongest_q_repeats=found[strongest_q, 1],
    strongest_q_text=found[strongest_q, 2],
    strong_edges=int(strong.sum()),
    strong_k=int(strong_k.sum()),
    strong_q=int(strong_q.sum()),
    strong_k_cheapest=found[strong_k, 1].min(),
    strong_q_dearest=found[strong_q, 1:].max(),
    dear_edges=int((found[:, 1] > 0.05).sum()),
    q_writers_vary_least=min(q_writers),
    q_writers_vary_most=max(q_writers),
    movers_vary_least=min(varies[seed][movers[seed]] for seed in SEEDS),
)
ax = panels(height=3.0)
for kind in kinds:
    where = of_kind == kind
    ax.scatter(
        found[where, 0], found[where, 1:].max(axis=1).clip(1e-4), s=22, color=COLOUR[kind], alpha=0.75, linewidth=0
    )
ax.set(xlabel="composition score above the baseline", ylabel="price (nats)", yscale="log")
for y, kind in zip((0.72, 0.62, 0.52), kinds, strict=True):
    ax.text(0.72, y, f"{kind}-composition", color=COLOUR[kind], transform=ax.transAxes)

# %% [markdown]
# ## SmolLM2: 16.0 into the keys of 17.4 and 18.6
#
# Key heads are shared: the key of 17.4 is that of 17.3 and 17.5, the key of 18.6 that of 18.7 and 18.8.

# %% smollm2
original, tokenizer = smollm2()
large = fold_layernorm(original)  # the same logits; each norm only divides by the stream's length
READERS = {17: (4, 1), 18: (6, 2)}  # layer: query head, and the key head that it shares
generator = torch.Generator().manual_seed(5)
steps = torch.randint(16, 25, (6, 1), generator=generator)
repeated = torch.randint(1000, 40000, (6, 24), generator=generator).gather(1, torch.arange(65) % steps)
returns = torch.arange(1, 65) >= steps
prose = torch.tensor([tokenizer.encode(speech).ids[200:265] for speech in split(sotu_texts())[1][-6:]])
said_twice = torch.tensor([tokenizer.encode(speech).ids[200:265] for speech in split(sotu_texts())[1][-24:]])
steps_twice = torch.randint(16, 25, (24, 1), generator=torch.Generator().manual_seed(6))
said_twice = said_twice.gather(1, torch.arange(65) % steps_twice)
turn = torch.linalg.qr(torch.randn(576, 576, generator=generator)).Q
PATTERNS = [f"blocks.{layer}.attn.pattern" for layer in READERS]
STREAMS = [f"blocks.{layer}.resid_pre" for layer in (16, *READERS)]


class Pretrained:
    """SmolLM2 on some windows, and its runs with other reads in layers 17 and 18."""

    def __init__(self, tokens, counted):
        self.tokens, self.counted = tokens, counted
        names = [*STREAMS, "blocks.16.attn.result", "blocks.17.attn.result", *PATTERNS]
        self.base = by_window(large(tokens[:, :-1], tap=(seen := record(names))), tokens, counted)
        self.seen, self.matching = seen, self.matches(seen)

    def matches(self, seen):
        """Attention of 17.4 and 18.6, and of the heads with the same key, to what followed the same token before."""
        right = followers(self.tokens[:, :-1])
        found = {}
        for layer, (_, key_head) in READERS.items():
            for head in range(3 * key_head, 3 * key_head + 3):
                paid = (seen[f"blocks.{layer}.attn.pattern"][:, head] * right).sum(dim=-1)
                found[f"{layer}.{head}"] = paid[self.counted].mean().item()
        return found

    def run(self, tap, first=17):
        """How the loss rises by window, and the matching."""
        seen = record(PATTERNS)
        logits = large.run_from(first, self.seen[f"blocks.{first}.resid_pre"], compose(tap, seen))
        return by_window(logits, self.tokens, self.counted) - self.base, self.matches(seen)

    def edge(self, writers, side="k", turned=False, layers=(17, 18), source=16):
        """A tap: what these sides read has the direct terms of some heads 16.x at their mean."""
        term = self.seen[f"blocks.{source}.attn.result"][:, :, writers].sum(dim=2)
        away = term.mean(dim=(0, 1)) - term
        away = away @ turn if turned else away
        taps = []
        for layer in layers:
            stream = self.seen[f"blocks.{layer}.resid_pre"] + away
            read = stream / (stream.square().mean(dim=-1, keepdim=True) + large.config.norm_eps).sqrt()
            attn, key_head = large.blocks[layer].attn, READERS[layer][1]
            W, index = (attn.W_Q, list(range(3 * key_head, 3 * key_head + 3))) if side == "q" else (
                getattr(attn, f"W_{side.upper()}"), [key_head],
            )  # fmt: skip
            name = f"blocks.{layer}.attn.{side}"
            taps.append(patch({name: torch.einsum("bpd,hde->bphe", read, W)}, name, heads=index))
        return compose(*taps)


large_repeats, large_prose = (
    Pretrained(repeated, returns),
    Pretrained(prose, torch.ones_like(prose[:, 1:], dtype=torch.bool)),
)
large_twice = Pretrained(said_twice, torch.arange(1, 65) >= steps_twice)
others = [head for head in range(9) if head != 0]
away = ablate("blocks.16.attn.z", "mean", heads=0, across_positions=True)


def all_paths(some):
    """The keys of a run without 16.0 at all, put into an ordinary run."""
    names = [f"blocks.{layer}.attn.k" for layer in READERS]
    large.run_from(16, some.seen["blocks.16.resid_pre"], compose(away, keys := record(names)))
    return compose(*(patch(keys, name, heads=h) for name, (_, h) in zip(names, READERS.values(), strict=True)))


def only_two_heads(some):
    """Scores of 17.4 and 18.6 from the changed keys; the heads that share these keys keep theirs."""
    names = [f"blocks.{layer}.attn.scores" for layer in READERS]
    large.run_from(17, some.seen["blocks.17.resid_pre"], compose(some.edge([0]), scores := record(names)))
    return compose(*(patch(scores, name, heads=h) for name, (h, _) in zip(names, READERS.values(), strict=True)))


interventions = {
    "16.0 → the two keys, direct": (lambda some: some.edge([0]), 17),
    "16.0 → the key of 17.4": (lambda some: some.edge([0], layers=(17,)), 17),
    "16.0 → the key of 18.6": (lambda some: some.edge([0], layers=(18,)), 17),
    "16.0 → both, for 17.4 and 18.6 alone, not the heads that share them": (only_two_heads, 17),
    "… as much, direction turned at random": (lambda some: some.edge([0], turned=True), 17),
    "16.2 → the two keys": (lambda some: some.edge([2]), 17),
    "all of 16.1 to 16.8 → the two keys": (lambda some: some.edge(others), 17),
    "16.0 → their queries": (lambda some: some.edge([0], "q"), 17),
    "16.0 → their values": (lambda some: some.edge([0], "v"), 17),
    "17.8 → the key of 18.6": (lambda some: some.edge([8], layers=(18,), source=17), 17),
    "16.0 → the two keys, all paths": (all_paths, 17),
    "16.0 away, everywhere": (lambda some: away, 16),
}
outcome = {name: large_repeats.run(make(large_repeats), first) for name, (make, first) in interventions.items()}
EDGE, TURNED, AWAY = (list(interventions)[i] for i in (0, 4, 11))
on_text_too = {
    name: large_prose.run(interventions[name][0](large_prose), interventions[name][1])[0]
    for name in (EDGE, TURNED, AWAY)
}
on_twice = {name: large_twice.run(interventions[name][0](large_twice))[0] for name in (EDGE, TURNED)}
(edge, edge_matches), *_ = outcome.values()
results = list(outcome.values())
base_loss = large_repeats.base
second_writer = large_repeats.seen["blocks.17.attn.pattern"][:, 8]
claim(
    smollm2_repeats_loss=base_loss.mean(),
    smollm2_match_17_4=large_repeats.matching["17.4"],
    smollm2_match_18_6=large_repeats.matching["18.6"],
    smollm2_edge=edge.mean(),
    smollm2_edge_error=error(edge),
    smollm2_edge_match_17_4=edge_matches["17.4"],
    smollm2_edge_match_18_6=edge_matches["18.6"],
    smollm2_edge_17=results[1][0].mean(),
    smollm2_edge_18=results[2][0].mean(),
    smollm2_two_heads=results[3][0].mean(),
    smollm2_turned=results[4][0].mean(),
    smollm2_turned_match=min(results[4][1][head] for head in ("17.4", "18.6")),
    smollm2_16_2=results[5][0].mean(),
    smollm2_others=results[6][0].mean(),
    smollm2_queries=results[7][0].mean(),
    smollm2_values=results[8][0].mean(),
    smollm2_17_8=results[9][0].mean(),
    smollm2_all_paths=results[10][0].mean(),
    smollm2_all_paths_match_18_6=results[10][1]["18.6"],
    smollm2_away=results[11][0].mean(),
    smollm2_edge_text=on_text_too[EDGE].mean(),
    smollm2_edge_text_error=error(on_text_too[EDGE]),
    smollm2_edge_twice=on_twice[EDGE].mean(),
    smollm2_edge_twice_error=error(on_twice[EDGE]),
    smollm2_twice_turned=on_twice[TURNED].mean(),
    smollm2_twice_loss=large_twice.base.mean(),
    smollm2_away_text=on_text_too[AWAY].mean(),
    smollm2_17_8_back_1=second_writer.diagonal(offset=-1, dim1=-2, dim2=-1)[..., 15:].mean(),
    smollm2_17_8_back_2=second_writer.diagonal(offset=-2, dim1=-2, dim2=-1)[..., 14:].mean(),
    smollm2_17_8_first=second_writer[:, 16:, 0].mean(),
)
plot.table(
    [
        ["nothing", *(f"{large_repeats.matching[head]:.2f}" for head in ("17.4", "18.6")), "", "", ""],
        *(
            [
                name,
                *(f"{match[head]:.2f}" for head in ("17.4", "18.6")),
                shown(rise),
                *(shown(found[name]) if name in found else "" for found in (on_twice, on_text_too)),
            ]
            for name, (rise, match) in outcome.items()
        ),
    ],
    ["changed", "17.4 matches", "18.6 matches", "random repeats: loss rises by", "speeches that repeat", "speeches"],
)

# %% smollm2-scores
writes = [block.attn.W_OV() for block in large.blocks[:18]]


def k_scores(layer, head):
    """K-composition of one head with each head of the earlier layers [layer head], at distance zero."""
    reads = large.blocks[layer].attn.W_QK()
    reader = FactoredMatrix(reads.A[head], reads.B[head])
    rows = []
    for wrote in writes[:layer]:
        product = torch.stack([(reader @ FactoredMatrix(wrote.A[h], wrote.B[h]).T).norm() for h in range(9)])
        rows.append(product / (reader.norm() * wrote.norm()))
    return torch.stack(rows)


gaussian = [torch.randn(576, 64, generator=generator) for _ in range(16)]
chance = [
    ((one := FactoredMatrix(a, b.mT)) @ (two := FactoredMatrix(c, d.mT))).norm() / (one.norm() * two.norm())
    for a, b, c, d in zip(*[iter(gaussian)] * 4, strict=True)
]
by_reader = {f"{layer}.{head}": k_scores(layer, head) for layer, (head, _) in READERS.items()}
rows = []
for name, table in by_reader.items():
    best = table.flatten().topk(4)
    listed = ", ".join(f"{i // 9}.{i % 9} {x:.3f}" for x, i in zip(best.values, best.indices.tolist(), strict=True))
    rows.append([name, f"{table[16, 0]:.3f}", listed, f"{table.median():.3f}", table.numel()])
claim(
    smollm2_baseline=torch.stack(chance).mean(),
    smollm2_k_17_4=by_reader["17.4"][16, 0],
    smollm2_k_18_6=by_reader["18.6"][16, 0],
    smollm2_k_next=by_reader["17.4"].flatten().topk(2).values[1],
    smollm2_k_18_6_most=by_reader["18.6"].max(),
    smollm2_k_median=by_reader["17.4"].median(),
    smollm2_writers=by_reader["17.4"].numel(),
)
plot.table(rows, ["reader", "16.0", "four largest", "median", "writers"])

# %% smollm2-every-head
# Each of the 270 heads at its mean, one after another: ten minutes, so measured once. Two are measured again here.
kept, card = load_result("smollm2-head-ablations")
before = {name: kept[f"prefix-matching {name}"][-1, 0] for name in ("17.4", "18.6")}  # the last layer comes too late
lost = {name: before[name] - kept[f"prefix-matching {name}"] for name in before}  # layer head
order = (lost["17.4"] + lost["18.6"]).flatten().argsort(descending=True)[:4]
worst = [divmod(int(place), kept["rise"].shape[1]) for place in order]
claim(
    every_head_heads=kept["rise"].numel(),
    every_head_first_layer=worst[0][0],
    every_head_first=worst[0][1],
    every_head_17_4=before["17.4"],
    every_head_17_4_left=before["17.4"] - lost["17.4"][worst[0]],
    every_head_18_6=before["18.6"],
    every_head_18_6_left=before["18.6"] - lost["18.6"][worst[0]],
    every_head_next_layer=worst[1][0],
    every_head_next=worst[1][1],
    every_head_next_17_4=lost["17.4"][worst[1]],
    every_head_next_18_6=lost["18.6"][worst[1]],
    every_head_differs=spot_check("smollm2-head-ablations", places=2, seed=int(card.sha256[:4], 16)),
)
plot.table(
    [
        [f"{layer}.{head}", *(f"{before[name] - lost[name][layer, head]:.2f}" for name in before)]
        + [f"{kept[number][layer, head]:.2f}" for number in ("previous-token", "rise")]
        for layer, head in worst
    ],
    ["head at its mean", "matching of 17.4", "of 18.6", "its previous-token score", "rise of the loss (nats)"],
)
