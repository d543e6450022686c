# %% [markdown]
# # Two layers: composition
#
# Everything that the note [two-layer](../../docs/notes/two-layer.md) shows and counts, on two trained models: one that
# has read speeches alone (`attn-2l`), and the five of [induction-heads](induction_heads.py), of which half was repeats.

# %% setup
import numpy as np
import torch
from torch.nn import functional as F

from residual import plot
from residual.files import checkpoints
from residual.methods.circuits import composition_scores
from residual.methods.induction import previous_token_score, repeats
from residual.methods.paths import two_layer_paths
from residual.plot import BLUE, GREEN, GREY, ORANGE, panels
from residual.taps import ablate
from residual.training.corpus import corpus
from residual.training.train import windows
from weave import claim

torch.set_grad_enabled(False)
SEEDS = range(5)


def trained(name, seed=0):
    return checkpoints.load(name if seed == 0 else f"{name}-seed{seed}").model


speeches = trained("attn-2l")
inductive = [trained("induction", seed) for seed in SEEDS]
text = windows(corpus().validation, 24, 129, seed=3)
random, period = repeats(24, 129, (8, 32), seed=11)
again = torch.arange(1, 129) >= period  # batch pos: the predicted token came a period ago
everywhere = torch.ones_like(again)

# %% [markdown]
# ## The terms, by order
#
# Patterns are frozen to those of the whole model, so that each term is exact and their sum is the model.


# %% terms
def loss_of(model, stream, tokens, counted):
    """Mean loss in nats, of logits read off this much of the stream."""
    logits = stream @ model.W_U
    found = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return found.unflatten(0, logits.shape[:2])[counted].mean().item()


def orders(model, tokens, counted):
    """The loss without any term, with the direct path, with single heads too, with virtual heads too."""
    paths = two_layer_paths(model, tokens[:, :-1])
    direct, one, two = paths.direct, paths.heads.sum(dim=(0, 1)), paths.virtual.sum(dim=(0, 1))
    streams = [0 * direct, direct, direct + one, direct + one + two]
    layers = [direct + paths.heads[layer].sum(dim=0) for layer in range(2)]
    return [loss_of(model, stream, tokens, counted) for stream in (*streams, *layers)], paths


cases = {"attn-2l, speeches": (speeches, text, everywhere)}
cases |= {"induction, speeches": (inductive[0], text, everywhere), "induction, repeats": (inductive[0], random, again)}
by_case = {name: orders(*case) for name, case in cases.items()}
gains = {name: -np.diff(losses[:4]) for name, (losses, _) in by_case.items()}  # of the three orders
n_heads, n_virtual = 16, 64
a, b, c = gains.values()
claim(
    direct_gain=a[0],
    heads_gain=a[1],
    virtual_gain=a[2],
    whole_loss=by_case["attn-2l, speeches"][0][3],
    per_head=a[1] / n_heads,
    per_virtual=a[2] / n_virtual,
    induction_direct=b[0],
    induction_heads=b[1],
    induction_virtual=b[2],
    repeats_direct=c[0],
    repeats_heads=c[1],
    repeats_virtual=c[2],
    repeats_loss=by_case["induction, repeats"][0][3],
)
plot.table(
    [[name, *losses[:1], *(-gains[name]), losses[3]] for name, (losses, _) in by_case.items()],
    ["model, data", "nothing", "direct path", "single heads", "virtual heads", "whole"],
    digits=3,
)

# %% layers
rows = []
for name, (losses, _) in by_case.items():
    nothing, direct, heads, _, early, late = losses
    rows.append([name, early - direct, late - direct, heads - late, heads - early])
claim(
    layer_0_alone=-rows[0][1],
    layer_1_alone=-rows[0][2],
    layer_0_on_top=-rows[0][3],
    layer_1_on_top=-rows[0][4],
    repeats_layer_1_alone=-rows[2][2],
    repeats_layer_0_on_top=rows[2][3],
)
plot.table(
    rows,
    ["model, data", "layer 0 alone", "layer 1 alone", "layer 0 on top", "layer 1 on top"],
    digits=2,
)

# %% all-seeds
spread = np.array(
    [[-np.diff(orders(m, *data)[0][:4]) for data in ((text, everywhere), (random, again))] for m in inductive]
)  # seed data order
claim(
    virtual_text_most=spread[:, 0, 2].max(),
    virtual_text_least=spread[:, 0, 2].min(),
    virtual_repeats_most=spread[:, 1, 2].max(),
    virtual_repeats_least=spread[:, 1, 2].min(),
    heads_repeats_least=spread[:, 1, 1].min(),
    virtual_repeats_least_fall=-spread[:, 1, 2].min(),
)
plot.table(
    [[seed, *spread[seed, 0], *spread[seed, 1]] for seed in SEEDS],
    ["seed", "speeches: direct", "heads", "virtual", "repeats: direct", "heads", "virtual"],
    digits=2,
)

# %% [markdown]
# ## Each path by itself
#
# What the loss rises by when one path is left out of the sum, all patterns as they were.


# %% one-by-one
def marginal(model, paths, tokens, counted):
    whole = paths.direct + paths.heads.sum(dim=(0, 1)) + paths.virtual.sum(dim=(0, 1))
    base = loss_of(model, whole, tokens, counted)
    heads = [[loss_of(model, whole - x, tokens, counted) - base for x in layer] for layer in paths.heads]
    virtual = [[loss_of(model, whole - x, tokens, counted) - base for x in row] for row in paths.virtual]
    return np.array(heads), np.array(virtual)


heads, virtual = marginal(speeches, by_case["attn-2l, speeches"][1], text, everywhere)
claim(
    best_head=heads.max(),
    median_head=np.median(heads),
    best_virtual=virtual.max(),
    worst_virtual=virtual.min(),
    median_virtual=np.median(virtual),
    virtual_above_hundredth=int((virtual > 0.01).sum()),
    virtual_total=virtual.sum(),
    virtual_together=a[2],
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
many = [marginal(m, two_layer_paths(m, random[:, :-1]), random, again)[1] for m in inductive]
on_text = [marginal(m, two_layer_paths(m, text[:, :-1]), text, everywhere)[1] for m in inductive]
claim(
    virtual_repeats_best=max(v.max() for v in many),
    virtual_text_best=max(v.max() for v in on_text),
)
plot.table(
    [[seed, many[seed].max(), many[seed].min(), on_text[seed].max(), on_text[seed].min()] for seed in SEEDS],
    ["seed", "repeats: most", "least", "speeches: most", "least"],
    digits=2,
)

# %% [markdown]
# ## What freezing hides
#
# The head before writes a term of its own, and it shapes the pattern of the heads after it. The first is a path; the
# second is inside A.

# %% hidden
m = inductive[0]
mover = int(previous_token_score(m, text[:, :-1])[0].argmax())
paths = by_case["induction, repeats"][1]
full = paths.direct + paths.heads.sum(dim=(0, 1)) + paths.virtual.sum(dim=(0, 1))
as_path = full - paths.heads[0, mover] - paths.virtual[:, mover].sum(dim=0)
gone = ablate("blocks.0.attn.z", "zero", heads=mover)
logits = m(random[:, :-1], tap=gone)
found = F.cross_entropy(logits.flatten(0, 1), random[:, 1:].flatten(), reduction="none").unflatten(0, again.shape)
whole_loss, path_loss, gone_loss = (
    loss_of(m, full, random, again),
    loss_of(m, as_path, random, again),
    found[again].mean().item(),
)
claim(hidden_whole=whole_loss, hidden_path=path_loss, hidden_gone=gone_loss)
plot.table(
    [
        ["the whole model", whole_loss],
        [f"all {1 + 4} paths through head 0.{mover} left out, patterns frozen", path_loss],
        [f"head 0.{mover} taken away, patterns computed again", gone_loss],
    ],
    ["", "loss on what repeats (nats)"],
)

# %% [markdown]
# ## Composition scores, and the erratum


# %% scores
def scored(model):
    found = composition_scores(model, samples=64)
    return {kind: getattr(found, kind)[1, :, 0].numpy() for kind in "QKV"}, found.baseline, found.spread


score, baseline, spread_of = scored(speeches)
score_i, baseline_i, spread_i = scored(inductive[0])
kinds = list("QKV")
claim(
    baseline=baseline,
    baseline_spread=spread_of,
    baseline_induction=baseline_i,
    largest_q=score["Q"].max(),
    largest_k=score["K"].max(),
    largest_v=score["V"].max(),
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
