# %% [markdown]
# # The residual stream
#
# The computations behind the note of the same name: on a committed checkpoint of two attention layers and nothing
# else, in float64 (`residual train attn-2l` makes it again), and on SmolLM2.

# %% setup
from collections import Counter
from copy import deepcopy
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from residual import Transformer, smollm2
from residual.files.checkpoints import load
from residual.files.tokens import tokenizer, words
from residual.methods.attribution import attribute, decompose
from residual.methods.fold import center_unembedding, rotate
from residual.plot import BLUE, GREEN, GREY, INK, ORANGE, heatmap, lines, panels, table
from residual.taps import ablate, at, record
from residual.training.corpus import corpus, sotu_texts, split
from residual.training.train import windows
from weave import claim

_ = torch.set_grad_enabled(False)
run = load("attn-2l")
validation = corpus().validation
validation = validation[: len(validation) // 129 * 129].view(-1, 129)  # window pos
by_window = torch.cat(
    [
        F.cross_entropy(run.model(part[:, :-1]).mT, part[:, 1:], reduction="none").mean(dim=1)
        for part in validation.split(256)
    ]
)  # in float32
model = run.model.double().requires_grad_(False)
c = model.config
first, second = (block.attn for block in model.blocks)
generator = torch.Generator().manual_seed(0)

# %% model
text = corpus()
held_out = windows(text.validation, 32, c.n_ctx + 1)
read, target = held_out[:, :-1], held_out[:, 1:]


def loss(tap=None, by: Transformer = model) -> Tensor:
    """Nats a token on speeches that were not trained on; of each window."""
    return F.cross_entropy(by(read, tap=tap).mT, target, reduction="none").mean(dim=1)


def error(x: Tensor) -> Tensor:
    """The standard error of a mean over windows."""
    return x.std() / len(x) ** 0.5


whole = loss()
claim(
    parameters=sum(weight.numel() for weight in model.parameters()),
    tokens_seen=run.card.training["tokens"],
    loss_model=by_window.mean(),
    loss_error=error(by_window),
    windows=len(by_window),
    d_model=c.d_model,
)

# %% [markdown]
# ## Two writers, one reader
#
# In two dimensions: a reader whose direction is at right angles to what $b$ writes hears $a$, however loud $b$ is.

# %% two-writers
a, b, reader = torch.tensor([0.4, 1.2]), torch.tensor([-0.6, 1.2]), torch.tensor([2.0, 1.0]) / 5**0.5
heard_of = [float(w @ reader) for w in (a, b, 2 * b)]
for ax, loudness in zip(panels(1, 2, height=3.0, sharex=True, sharey=True), (1, 2), strict=True):
    end = a + loudness * b
    foot = (end @ reader) * reader
    ax.plot(*torch.stack([-0.4 * reader, 2.4 * reader]).T, color=GREY, linewidth=1.2)
    ax.plot(*torch.stack([end, foot]).T, color=INK, linewidth=0.9, linestyle=":")
    for start, stop, colour in ((torch.zeros(2), a, BLUE), (a, end, ORANGE)):
        arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", xy=stop.tolist(), xytext=start.tolist(), arrowprops=arrow)
    ax.plot(*end, marker="o", color=INK, markersize=5)
    ax.plot(*foot, marker="o", color=INK, markersize=5, fillstyle="none")
    ax.text(0.05, 0.75, "a", color=BLUE, ha="right")
    ax.text(*(a + 0.5 * loudness * b + torch.tensor([0.15, 0.05])), "b" if loudness == 1 else "2 b", color=ORANGE)
    ax.text(2.2, 0.55, "reader", color=GREY, ha="right", va="top")
    ax.text(*(foot + torch.tensor([0.1, -0.3])), "heard", color=INK)
    ax.set(aspect="equal", xticks=[], yticks=[], xlim=(-1.4, 2.5), ylim=(-0.5, 3.9))
    ax.spines[:].set_visible(False)
claim(heard_a=heard_of[0], heard_b=heard_of[1], heard_loud_b=heard_of[2])

# %% [markdown]
# ## Eighteen writers
#
# The token, the position, and sixteen heads. Everything that is ever written, on held-out text and on one sentence.

# %% writers
NAMES = ["token", "position", *(f"{layer}.{h}" for layer in range(c.n_layers) for h in range(c.n_heads))]


def taken_apart(tokens: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    """What each writer wrote [writer batch pos d_model]; the stream before, between and after the layers; logits."""
    seen = record(["embed", "pos_embed", "*.result", "*.resid_pre", "*.resid_post"])
    logits = model(tokens, tap=seen)
    heads = [seen[f"blocks.{layer}.attn.result"].unbind(dim=2) for layer in range(c.n_layers)]
    written = torch.stack([seen["embed"], seen["pos_embed"], *heads[0], *heads[1]])
    return written, [seen["blocks.0.resid_pre"], seen["blocks.1.resid_pre"], seen["blocks.1.resid_post"]], logits


written, (before, between, after), logits = taken_apart(read)
claim(
    writers=len(NAMES),
    sum_error=(written.sum(dim=0) - after).abs().max(),
    logit_error=((written @ model.W_U).sum(dim=0) - logits).abs().max(),
)

# %% [markdown]
# ## The sum, at one position
#
# A plane through the stream. Across: the direction in which one head, 0.7, writes (more of it below). Up: toward the
# token that comes next, and away from the mean of all tokens.

# %% message-direction
ruler_head = NAMES.index("0.7")
its_writes = written[ruler_head].flatten(0, 1)
_, strength, right = torch.linalg.svd(its_writes - its_writes.mean(dim=0), full_matrices=False)
m = right[0] * torch.sign((written[ruler_head][:, -1] @ right[0]).mean())  # positive at late positions
coordinate = written[ruler_head] @ m  # batch pos
at_position = torch.arange(c.n_ctx).double()
claim(
    message_one_direction=strength[0] ** 2 / strength.square().sum(),
    message_straight=torch.corrcoef(torch.stack([at_position, coordinate.mean(dim=0)]))[0, 1],
    message_scatter=coordinate.std(dim=0).mean(),
    message_span=coordinate[:, -1].mean() - coordinate[:, 0].mean(),
    message_norm=written[ruler_head].norm(dim=-1).mean(),
    other_norm=written[2:10].norm(dim=-1).mean(dim=(1, 2))[:7].mean(),
)

# %% sentence
sentence = " And that will define the state of our Union."
tokens = torch.tensor(tokenizer().encode(sentence).ids)[None]
shown = [word.replace(" ", "·") for word in words(tokens[0])]
place = shown.index("ate")
parts, _, its_logits = taken_apart(tokens)
parts = parts[:, 0, place]  # writer d_model
toward = (model.W_U - model.W_U.mean(dim=1, keepdim=True))[:, tokens[0, place + 1]]
up = F.normalize(toward - (toward @ m) * m, dim=0)
claim(answer_probability=its_logits[0, place].softmax(dim=-1)[tokens[0, place + 1]])
print(" ".join(shown), "| at", shown[place], "| next", shown[place + 1])

# %% walk
steps = torch.stack([parts @ m, parts @ up], dim=1)  # writer 2
stops = torch.cat([torch.zeros(1, 2, dtype=steps.dtype), steps.cumsum(dim=0)])
ax = panels(height=4.0)
colours = [GREY, GREY, *[BLUE] * 8, *[ORANGE] * 8]
for start, end, colour in zip(stops[:-1], stops[1:], colours, strict=True):
    arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=end.tolist(), xytext=start.tolist(), arrowprops=arrow)
for i, name, offset in (
    (0, "token", (6, 0)),
    (1, "position", (-62, -8)),
    (9, "head 0.7", (0, 10)),
    (13, "layer 1", (-34, 12)),
):
    ax.annotate(name, stops[i : i + 2].mean(dim=0).tolist(), xytext=offset, textcoords="offset points", va="center")
ax.plot(*stops.T, linestyle="")  # for the limits
ax.plot(*stops[-1], marker="o", color=INK)
ax.set(xlabel="along what head 0.7 writes", ylabel=f"toward “{shown[place + 1]}”")
ax.margins(0.08)
claim(
    walk_out=parts[ruler_head] @ m,
    walk_back=parts[10:].sum(dim=0) @ m,
    walk_end=parts.sum(dim=0) @ m,
)

# %% [markdown]
# The same walk as two methods with names. *Direct logit attribution*: each writer times the unembedding of the answer,
# against the mean logit. *Logit lens*: the unembedding applied to the stream after an earlier layer.

# %% attribution
attributed = parts @ toward  # writer; they sum to the answer's logit less the mean logit
lens = {
    name: F.cross_entropy((x @ model.W_U).flatten(0, 1), target.flatten())
    for name, x in (("the embeddings", before), ("layer 0", between), ("layer 1", after))
}
claim(
    dla_total=attributed.sum(),
    dla_error=(attributed.sum() - (its_logits[0, place, tokens[0, place + 1]] - its_logits[0, place].mean())).abs(),
    dla_token=attributed[0],
    dla_layer_0=attributed[2:10].sum(),
    dla_layer_1=attributed[10:].sum(),
    dla_message=attributed[ruler_head],
    walk_tilt=(toward @ m).square() / toward.square().sum(),
    lens_embeddings=lens["the embeddings"],
    lens_between=lens["layer 0"],
    lens_end=lens["layer 1"],
)
table([[name, float(value)] for name, value in lens.items()], header=["unembedded after", "nats a token"])

# %% gram
gram = parts @ parts.T
ax = panels(height=4.6)
heatmap(gram, ax=ax, rows=NAMES, columns=NAMES, limit=8, bar="inner product")
claim(
    squared_length=gram.sum(),
    gram_error=(gram.sum() - parts.sum(dim=0).square().sum()).abs(),
    own_squares=gram.diagonal().sum(),
    length_ruler=gram[ruler_head, ruler_head].sqrt(),
    length_others_most=gram.diagonal()[torch.arange(len(NAMES)) != ruler_head].max().sqrt(),
    ruler_with_layer_1_taken=-2 * gram[ruler_head, 10:].sum(),
)

# %% [markdown]
# ## Another basis, the same model


# %% basis
def in_another_basis(model: Transformer, M: Tensor) -> Transformer:
    """What is written is multiplied by M, what is read by its inverse."""
    other, back = deepcopy(model), torch.linalg.inv(M)
    for weight in (other.W_E, other.W_pos, *(block.attn.W_O for block in other.blocks)):
        weight.copy_(weight @ M)
    for block in other.blocks:
        block.attn.W_QKV.copy_(block.attn.W_QKV @ back.T)  # its last axis is the stream
    other.W_U.copy_(back @ other.W_U)
    return other


def rotation() -> Tensor:
    """Uniformly random [d_model d_model]."""
    Q, R = torch.linalg.qr(torch.randn(c.d_model, c.d_model, generator=generator, dtype=torch.float64))
    return Q * R.diagonal().sign()


def cosine(writer: Tensor, stream: Tensor) -> Tensor:
    """Mean cosine of what is written and what is there."""
    return F.cosine_similarity(writer, stream, dim=-1).mean()


turned = rotate(model, rotation())
squeeze = torch.eye(c.d_model, dtype=torch.float64) - 0.99 * torch.outer(m, m)  # one axis to a hundredth
squeezed = in_another_basis(model, squeeze)
centred = center_unembedding(model)
eraser = NAMES.index("1.1")
ov = [one.blocks[1].attn.W_OV(1) for one in (model, squeezed)]
claim(
    turned_logits=(turned(read) - logits).abs().max(),
    turned_weights=(turned.W_E - model.W_E).norm() / model.W_E.norm(),
    squeezed_logits=(squeezed(read) - logits).abs().max(),
    cosine_as_trained=cosine(written[eraser], between),
    cosine_squeezed=cosine(written[eraser] @ squeeze, between @ squeeze),
    norm_as_trained=between.norm(dim=-1).mean(),
    norm_squeezed=(between @ squeeze).norm(dim=-1).mean(),
    trace_difference=(ov[0].trace() - ov[1].trace()).abs(),
    centred_logits=(centred(read) - logits).abs().max(),
    centred_probabilities=(centred(read).log_softmax(dim=-1) - logits.log_softmax(dim=-1)).abs().max(),
)

# %% [markdown]
# ## Is the trained basis special?
#
# Kurtosis over coordinates, $d \sum_i x_i^4 / (\sum_i x_i^2)^2$, of each vector, averaged; and the root mean square of
# each coordinate. A random rotation of the stream is the null: under gradient descent the trained basis would be one.


# %% kurtosis
def kurtosis(x: Tensor) -> Tensor:
    """Mean over vectors [vector d_model]; 3 d / (d + 2) for a random direction."""
    return (x.shape[-1] * x.pow(4).sum(dim=-1) / x.square().sum(dim=-1).square()).mean()


def without(direction: Tensor, x: Tensor) -> Tensor:
    return x - (x @ direction)[..., None] * direction


places = {
    "tokens": written[0],
    "positions": written[1],
    "before layer 0": before,
    "between the layers": between,
    "between, without one direction": without(m, between),
    "after layer 1": after,
}
sample = {name: x[:, ::4].flatten(0, 1) for name, x in places.items()}  # vector d_model
rotations = [rotation() for _ in range(100)]
rms = {name: [] for name in sample}
found = {}
for name, x in sample.items():
    at_random = []
    for Q in rotations:
        y = x @ Q
        at_random.append(kurtosis(y))
        rms[name].append(y.square().mean(dim=0).sqrt().sort(descending=True).values)
    found[name] = kurtosis(x), torch.stack(at_random)
top = int(between.square().mean(dim=(0, 1)).argmax())
claim(
    kurtosis_expected=3 * c.d_model / (c.d_model + 2),
    kurtosis_tokens=found["tokens"][0],
    kurtosis_before=found["before layer 0"][0],
    kurtosis_before_random_least=found["before layer 0"][1].min(),
    kurtosis_between=found["between the layers"][0],
    kurtosis_between_random_most=found["between the layers"][1].max(),
    kurtosis_without=found["between, without one direction"][0],
    kurtosis_after=found["after layer 1"][0],
    kurtosis_after_random_most=found["after layer 1"][1].max(),
    top_coordinate=top,
    message_on_top=m[top] ** 2,
)
table(
    [[name, float(mine), float(null.min()), float(null.max())] for name, (mine, null) in found.items()],
    header=["the stream’s vectors", "trained basis", "least of 100 rotations", "most"],
)

# %% spectrum
x = sample["between the layers"]
own = x.square().mean(dim=0).sqrt().sort(descending=True).values
null = torch.stack(rms["between the layers"])
axes_of = torch.linalg.svdvals(x) / len(x) ** 0.5
rank = torch.arange(1, c.d_model + 1)
ax = panels(height=3.2)
ax.fill_between(rank, null.amin(0), null.amax(0), color=GREY, alpha=0.45, linewidth=0)
lines(
    rank,
    {"principal axes": axes_of, "coordinates": own, "rotated": null.mean(0)},
    ax=ax,
    log="xy",
    xlabel="coordinates, largest first",
    ylabel="root mean square",
    colours=[GREEN, BLUE, GREY],
)
turned_x = x @ rotations[0]
claim(
    top_over_median=own[0] / own[c.d_model // 2],
    top_over_median_rotated=(null[:, 0] / null[:, c.d_model // 2]).max(),
    spectrum_moved=(torch.linalg.svdvals(turned_x) / len(x) ** 0.5 - axes_of).abs().max(),
)

# %% [markdown]
# ## Who reads whom
#
# $\|X W\|^2$ against $\|X\|^2 \|W\|^2 / d$, which is what a random rotation between them would give on average; $X$ is
# everything that a writer wrote on held-out text, less its mean, and $W$ what a reader reads by.

# %% virtual
readers = {
    f"{kind}{layer}": W
    for layer, attn in enumerate((first, second))
    for kind, W in (("Q", attn.W_Q), ("K", attn.W_K), ("V", attn.W_V))
}
columns = [W[h] for W in readers.values() for h in range(c.n_heads)]
columns.append(model.W_U - model.W_U.mean(dim=1, keepdim=True))
wrote = written.flatten(1, 2)  # writer (batch pos) d_model
wrote = wrote - wrote.mean(dim=1, keepdim=True)
covariance = wrote.mT @ wrote  # writer d_model d_model


def heard(covariance: Tensor, W: Tensor) -> Tensor:
    """‖X W‖² in units of what strangers would have; of each writer."""
    size = covariance.diagonal(dim1=-2, dim2=-1).sum(-1) * W.square().sum() / c.d_model
    return torch.einsum("...mn,mk,nk->...", covariance, W, W) / size


ratio = torch.stack([heard(covariance, W) for W in columns], dim=1)  # writer reader
ratio[2:10, :24] = torch.nan  # a layer reads before it writes
ratio[10:, :-1] = torch.nan
strangers = torch.stack([heard(Q.T @ covariance @ Q, columns[0]) for Q in rotations])  # rotation writer
ax = panels(height=3.0)
labels = [""] * 49
for block, name in enumerate(readers):
    labels[8 * block + 3] = name[0] + "₀₁"[int(name[1])]
named = {0: "token", 1: "position", 5: "layer 0", 9: "head 0.7", 13: "layer 1"}
drawn = torch.cat([ratio, ratio[:, -1:], ratio[:, -1:]], dim=1).log2()  # the one column of U three columns wide
labels[48:] = ["", "U", ""]
heatmap(drawn, ax=ax, rows=[named.get(i, "") for i in range(18)], columns=labels, limit=5, bar=None)
ax.tick_params(axis="x", rotation=0)
ax.set_aspect("auto")
hairline = {"color": INK, "alpha": 0.35, "linewidth": 0.7}
for edge in range(0, 50, 8):
    ax.plot([edge - 0.5] * 2, [-0.5, 17.5], **hairline)
for edge in (2, 10):
    ax.plot([-0.5, 50.5], [edge - 0.5] * 2, **hairline)
K0, V0, Q1, K1, V1, U = slice(8, 16), slice(16, 24), slice(24, 32), slice(32, 40), slice(40, 48), 48
claim(
    position_to_keys=ratio[1, K0].mean(),
    position_to_values_of_ruler=ratio[1, 16 + 7],
    position_to_other_values_most=ratio[1, 16 : 16 + 7].max(),
    position_to_unembedding=ratio[1, U],
    message_to_keys=ratio[ruler_head, K1].mean(),
    message_to_queries_most=ratio[ruler_head, Q1].max(),
    message_to_values_most=ratio[ruler_head, V1].max(),
    message_to_unembedding=ratio[ruler_head, U],
    others_to_keys_most=ratio[2:9, K1].max(),
    pale=(int((ratio.log2().abs() < 1).sum()), int(ratio.isfinite().sum())),
    strangers_mean=strangers.mean(),
    strangers_most=strangers.max(),
)

# %% [markdown]
# ## Bandwidth
#
# Sixteen heads of sixteen dimensions write into 128. How crowded is that, and at least how crowded must it be?


# %% bandwidth
def overlaps(one: Tensor, other: Tensor) -> Tensor:
    """Mean squared cosine of the principal angles of all pairs [head head] of write spaces [head d_head d_model]."""
    bases = [torch.linalg.qr(W.mT)[0] for W in (one, other)]  # head d_model d_head
    return torch.einsum("amk,bml->abkl", *bases).square().sum(dim=(2, 3)) / c.d_head


heads = 2 * c.n_heads
pairs = torch.tensor(list(combinations(range(heads), 2)))
W_O = torch.cat([first.W_O, second.W_O])
every = overlaps(W_O, W_O)
of_pairs = every[pairs[:, 0], pairs[:, 1]]
within = (pairs < c.n_heads).all(dim=1) | (pairs >= c.n_heads).all(dim=1)
random_W_O = torch.randn(W_O.shape, generator=generator, dtype=W_O.dtype)
of_random = overlaps(random_W_O, random_W_O)[pairs[:, 0], pairs[:, 1]]


def dimensions(x: Tensor, share: float = 0.9) -> int:
    """How many principal axes hold that share of the variance."""
    spread = torch.linalg.svdvals(x - x.mean(dim=0)).square()
    return int((spread.cumsum(0) < share * spread.sum()).sum()) + 1


needs = [dimensions(X) for X in wrote]
apart = torch.Generator().manual_seed(1)
by_itself = sum(X[torch.randperm(len(X), generator=apart)] for X in wrote)  # writers, shuffled against each other
claim(
    write_dimensions=heads * c.d_head,
    overlap_least_possible=(heads * c.d_head / c.d_model - 1) / (heads - 1),
    overlap_chance=c.d_head / c.d_model,
    overlap_within=of_pairs[within].mean(),
    overlap_across=of_pairs[~within].mean(),
    overlap_random_mean_most=of_random.mean(),
    need_token=needs[0],
    need_position=needs[1],
    need_ruler=needs[ruler_head],
    need_other_least=min(need for i, need in enumerate(needs) if i > 1 and i != ruler_head),
    need_other_most=max(need for i, need in enumerate(needs) if i > 1),
    need_sum=sum(needs),
    need_after=dimensions(after.flatten(0, 1)),
    need_shuffled=dimensions(by_itself),
    gpt2_dimensions=12 * (12 * 64 + 3072),
    gpt2_per_dimension=12 * (12 * 64 + 3072) / 768,
)

# %% [markdown]
# ## Who deletes
#
# The cosine of what a head writes with what is there when it writes, at the same position and at another one drawn at
# random from all texts; and at the same position with one direction taken out of both.

# %% deleting
streams = [before] * 8 + [between] * 8
elsewhere = torch.randperm(read.numel(), generator=generator)
here = torch.stack([cosine(w, s) for w, s in zip(written[2:], streams, strict=True)])
shuffled = torch.stack(
    [cosine(w.flatten(0, 1), s.flatten(0, 1)[elsewhere]) for w, s in zip(written[2:], streams, strict=True)]
)
rest = torch.stack([cosine(without(m, w), without(m, s)) for w, s in zip(written[2:], streams, strict=True)])
ax = panels(height=3.0)
ax.axhline(0, color=INK, linewidth=0.7, alpha=0.5)
for values, colour, marker in ((shuffled, GREY, "_"), (rest, GREEN, "o"), (here, ORANGE, "o")):
    ax.plot(range(16), values, linestyle="", marker=marker, color=colour, markersize=7 if marker == "_" else 5)
for y, colour, name in (
    (-0.13, ORANGE, "here"),
    (-0.18, GREEN, "here, m taken out"),
    (-0.23, GREY, "at another position"),
):
    ax.plot([0], [y], marker="_" if colour == GREY else "o", color=colour, markersize=6)
    ax.text(0.5, y, name, va="center")
ax.set(xticks=range(16), ylabel="cosine with the stream")
ax.set_xticklabels(NAMES[2:], rotation=90)
claim(
    deleters=(int((here[8:] < shuffled[8:]).sum()), 8),
    deleters_layer_0=(int((here[:8] < shuffled[:8]).sum()), 8),
    cosine_deepest=here.min(),
    cosine_shuffled_most=shuffled.abs().max(),
    cosine_rest_least=rest.min(),
)

# %% [markdown]
# ## One message, from sending to deletion

# %% life
life = {
    "written by W_pos": written[1] @ m,
    "after layer 0": between @ m,
    "after layer 1": after @ m,
}
ax = panels(height=3.0)
for (_, value), colour in zip(life.items(), (GREY, BLUE, ORANGE), strict=True):
    ax.fill_between(
        range(c.n_ctx), value.quantile(0.1, dim=0), value.quantile(0.9, dim=0), color=colour, alpha=0.25, linewidth=0
    )
lines(
    range(c.n_ctx),
    {name: value.mean(dim=0) for name, value in life.items()},
    ax=ax,
    xlabel="position",
    ylabel="along m",
    colours=[GREY, BLUE, ORANGE],
)


def slope(y: Tensor) -> Tensor:
    """Of the mean over texts [batch pos], per position."""
    return torch.stack([at_position, y.mean(dim=0)]).cov()[0, 1] / at_position.var()


def share_in(weights: Tensor) -> Tensor:
    """The share of m that lies in each head's subspace [head d_model d_head]."""
    Q, _ = torch.linalg.qr(weights)
    return torch.einsum("m,hmk->hk", m, Q).square().sum(dim=-1)


gains = torch.einsum("m,hmn,n->h", m, second.W_OV().AB, m)  # what a layer-1 head makes of the coordinate along m
ruler = torch.linalg.svd(model.W_pos - model.W_pos.mean(dim=0))[2][0]
claim(
    angle_to_ruler=(m @ ruler).abs(),
    ruler_variance=dimensions(model.W_pos, 0.95),
    m_in_keys_least=share_in(second.W_K).min(),
    m_in_queries_most=share_in(second.W_Q).max(),
    m_in_values_most=share_in(second.W_V).max(),
    amplified=slope(between @ m) / slope(written[1] @ m),
    scatter_in_positions=coordinate.std(dim=0).mean() / slope(coordinate),
    left=slope(after @ m) / slope(between @ m),
    gains_negative=(int((gains < 0).sum()), c.n_heads),
    gains_sum=gains.sum(),
)

# %% [markdown]
# Interventions, in nats on held-out text. First the head: silenced, then told the position and nothing else.

# %% interventions
shape = written[ruler_head].mean(dim=0)  # pos d_model: what the head writes at a position on average


def only_position(result: Tensor) -> Tensor:
    result = result.clone()
    result[:, :, 7] = shape
    return result


def silent(layer: int, head: int) -> Tensor:
    return loss(ablate(f"blocks.{layer}.attn.result", "zero", heads=head)) - whole


def reading(kind: str, direction: Tensor) -> Tensor:
    """The loss when the layer-1 queries, keys or values do not see a direction."""
    W = {"q": second.W_Q, "k": second.W_K, "v": second.W_V}[kind]
    seen = torch.einsum("bpm,hmk->bphk", without(direction, between), W)
    return loss(at(f"blocks.1.attn.{kind}", lambda _: seen)) - whole


def not_writing(direction: Tensor) -> Tensor:
    """The loss when layer 1 writes nothing along a direction."""
    return loss(at("blocks.1.attn_out", lambda x: without(direction, x))) - whole


random_directions = F.normalize(torch.randn(5, c.d_model, generator=generator, dtype=torch.float64), dim=1)
others = torch.stack([silent(0, h) for h in range(7)]).mean(dim=1)
silenced, unheard, kept_on = silent(0, 7), reading("k", m), not_writing(m)
# a stricter control than random directions, which the stream hardly uses: the longest axes of what is there besides m
spread = without(m, between - between.mean(dim=(0, 1))).flatten(0, 1)
long_axes = torch.linalg.eigh(spread.T @ spread).eigenvectors.flip(1).T[:2]


def read_out(x: Tensor) -> Tensor:
    """The loss when the unembedding, and nothing else, reads another stream."""
    return F.cross_entropy((x @ model.W_U).mT, target, reduction="none").mean(dim=1) - whole


def made_constant(direction: Tensor) -> Tensor:
    """The loss when the final stream has one and the same coordinate along a direction everywhere."""
    coordinate = after @ direction
    return read_out(after - (coordinate - coordinate.mean())[..., None] * direction)


put_back = read_out(after + ((between - after) @ m)[..., None] * m)
claim(
    silent_ruler=silenced.mean(),
    silent_ruler_error=error(silenced),
    silent_others_least=others.min(),
    silent_others_most=others.max(),
    ruler_tells_position_only=(loss(at("blocks.0.attn.result", only_position)) - whole).mean(),
    hidden_from_keys=unheard.mean(),
    hidden_from_keys_error=error(unheard),
    hidden_from_queries=reading("q", m).mean(),
    hidden_from_values=reading("v", m).mean(),
    hidden_random_most=torch.stack([reading("k", v).mean() for v in random_directions]).max(),
    not_deleting=kept_on.mean(),
    not_deleting_error=error(kept_on),
    not_writing_random_most=torch.stack([not_writing(v).mean() for v in random_directions]).max(),
    hidden_axis_1=reading("k", long_axes[0]).mean(),
    hidden_axis_2=reading("k", long_axes[1]).mean(),
    not_writing_axis_1=not_writing(long_axes[0]).mean(),
    not_writing_axis_2=not_writing(long_axes[1]).mean(),
    put_back=put_back.mean(),
    put_back_error=error(put_back),
    constant_m=made_constant(m).mean(),
    constant_axis_1=made_constant(long_axes[0]).mean(),
)

# %% [markdown]
# The same without any inner product of the stream: the score, in nats, that a source gets from the mean query of a
# layer-1 head, and how much it rises from one position to the next. No change of basis alters these numbers.

# %% scores
mean_query = torch.einsum("bpm,hmk->hk", between, second.W_Q) / read.numel()
asked = torch.einsum("hmk,hk->hm", second.W_K, mean_query) / c.d_head**0.5  # head d_model
rises = {
    "W_pos": written[1],
    "the token": written[0],
    "heads 0.0 to 0.6": written[2:9].sum(dim=0),
    "head 0.7": written[ruler_head],
    "layer 1 (not read any more)": written[10:].sum(dim=0),
    "what is left at the end": after,
}
rise = {name: torch.stack([slope(x @ r) for r in asked]) for name, x in rises.items()}
claim(
    rise_between_least=torch.stack([slope(between @ r) for r in asked]).min(),
    rise_between_most=torch.stack([slope(between @ r) for r in asked]).max(),
    rise_share_of_ruler=(rise["head 0.7"] / torch.stack([slope(between @ r) for r in asked])).mean(),
    rise_left_most=(rise["what is left at the end"] / torch.stack([slope(between @ r) for r in asked])).max(),
    reach=1 / torch.stack([slope(between @ r) for r in asked]).min(),
)
table(
    [[name, *(float(value) for value in (rise[name].min(), rise[name].mean(), rise[name].max()))] for name in rises],
    header=["written by", "least of 8 heads", "mean", "most"],
    digits=2,
)

# %% [markdown]
# ## The same on other seeds
#
# The head of layer 0 whose writes follow the position most closely, its main direction, and the same measurements.


# %% seeds
def story(model: Transformer) -> dict[str, str | float]:
    """The life of the message in a model of the same kind, in numbers."""
    second = model.blocks[1].attn
    seen = record(["*.result", "*.resid_pre", "*.resid_post"])
    as_is = loss(seen, by=model)
    heads = seen["blocks.0.attn.result"]  # batch pos head d_model
    between, after = seen["blocks.1.resid_pre"], seen["blocks.1.resid_post"]
    slopes = []
    for h in range(c.n_heads):
        spread = (heads[:, :, h] - heads[:, :, h].mean(dim=(0, 1))).flatten(0, 1)
        m = torch.linalg.svd(spread, full_matrices=False)[2][0]
        slopes.append((float(slope(heads[:, :, h] @ m).abs()), h, m))
    _, sender, m = max(slopes)
    inside = {
        kind: torch.einsum("m,hmk->hk", m, torch.linalg.qr(W)[0]).square().sum(dim=-1)
        for kind, W in (("keys", second.W_K), ("queries", second.W_Q), ("values", second.W_V))
    }
    x, y = between[:, ::4].flatten(0, 1), without(m, between)[:, ::4].flatten(0, 1)
    written = seen["blocks.1.attn.result"].unbind(dim=2)
    unheard = torch.einsum("bpm,hmk->bphk", without(m, between), second.W_K)
    return {
        "sender": f"0.{sender}",
        "largest coordinate of m": str(int(m.abs().argmax())),
        "its share of m": float(m.square().max()),
        "kurtosis between the layers": float(kurtosis(x)),
        "without m": float(kurtosis(y)),
        "m in keys, least": float(inside["keys"].min()),
        "m in queries, most": float(inside["queries"].max()),
        "m in values, most": float(inside["values"].max()),
        "heads of layer 1 with negative cosine": str(sum(float(cosine(w, between)) < 0 for w in written)),
        "the same without m": str(sum(float(cosine(without(m, w), without(m, between))) < 0 for w in written)),
        "slope that layer 1 leaves": float(slope(after @ m) / slope(between @ m)),
        "cost of silencing the sender": float(
            (loss(ablate("blocks.0.attn.result", "zero", heads=sender), by=model) - as_is).mean()
        ),
        "cost of hiding m from the keys": float(
            (loss(at("blocks.1.attn.k", lambda _: unheard), by=model) - as_is).mean()
        ),
    }


SEEDS = ["attn-2l", "attn-2l-seed1", "attn-2l-seed2"]
stories = [story(load(name).model.double()) for name in SEEDS]
claim(
    left_seeds_least=min(one["slope that layer 1 leaves"] for one in stories),
    left_seeds_most=max(one["slope that layer 1 leaves"] for one in stories),
    kurtosis_without_seeds_most=max(one["without m"] for one in stories),
)
table(
    [[name, *(one[name] for one in stories)] for name in stories[0]],
    header=["", *SEEDS],
    digits=2,
)

# %% [markdown]
# ## A real model
#
# SmolLM2 on stretches of ten held-out speeches. No position is written into its stream (rotary), a norm stands before
# every reader, and MLPs write, too.

# %% smollm2
lm, lm_tokenizer = smollm2()
depth = lm.config.n_layers
speeches = split(sotu_texts())[1]


def opened(speeches: list[str]) -> Tensor:
    """80 tokens and the next one of each, from an arbitrary place on [speech pos]."""
    return torch.tensor([lm_tokenizer.encode(speech[2000:6000]).ids[:81] for speech in speeches])


lm_text = opened(speeches[:10])
lm_read, lm_target = lm_text[:, :-1], lm_text[:, 1:]


def lm_losses(logits: Tensor, target: Tensor = lm_target) -> Tensor:
    """The loss at each position [speech pos]."""
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(target)


seen = record(["*.resid_pre", "*.resid_mid", "*.resid_post", "*.attn_out", "*.mlp_out", "*.pattern"])
lm_whole = lm_losses(lm(lm_read, tap=seen))
at_layer = [seen["blocks.0.resid_pre"], *(seen[f"blocks.{layer}.resid_post"] for layer in range(depth))]
norm = torch.stack([x.norm(dim=-1) for x in at_layer])  # layer speech pos
opening = torch.zeros(lm_read.shape, dtype=torch.bool)
opening[:, 0] = True
loud = (norm[4] > 5 * norm[4].median()) & ~opening  # other positions that stand out after layer 3
quiet = ~loud & ~opening
top_of_first = at_layer[20][:, 0].square().mean(dim=0)
wire = int(top_of_first.argmax())  # the coordinate that carries most of it
lines(
    range(depth + 1),
    {
        "first position": norm[:, opening].mean(dim=1),
        "loud tokens": norm[:, loud].mean(dim=1),
        "the others": norm[:, quiet].median(dim=1).values,
    },
    xlabel="layers so far",
    ylabel="length of the stream",
    log="y",
    colours=[ORANGE, GREEN, BLUE],
)
claim(
    lm_loss=lm_whole.mean(),
    lm_loss_error=lm_whole.mean(dim=1).std() / len(lm_whole) ** 0.5,
    quiet_start=norm[0][quiet].median(),
    quiet_after_first=norm[1][quiet].median(),
    quiet_end=norm[-1][quiet].median(),
    first_wave=norm[4][opening].mean(),
    first_wave_others=norm[4][quiet].median(),
    between_waves=norm[11][opening].mean(),
    between_waves_others=norm[11][quiet].median(),
    second_wave=norm[20][opening].mean(),
    second_wave_others=norm[20][quiet].median(),
    wire=wire,
    wire_share=top_of_first[wire] / top_of_first.sum(),
    wire_share_early=at_layer[4][:, 0, wire].square().mean() / norm[4][opening].square().mean(),
)

# %% loud
the = lm_tokenizer.encode(" the").ids[0]
PREPOSITIONS = " in to at by on with from for without between under into upon within during"
prepositions = lm_tokenizer.encode(PREPOSITIONS).ids


def counted_the(tokens: Tensor, loud: Tensor) -> dict[str, tuple[int, int]]:
    """How many “·the” are loud: of those after such a preposition, and of the others, first positions aside."""
    follows = torch.zeros_like(loud)
    follows[:, 1:] = torch.isin(tokens[:, :-1], torch.tensor(prepositions))
    is_the = tokens == the
    is_the[:, 0] = False
    groups = {"after_preposition": is_the & follows, "else": is_the & ~follows}
    return {name: (int((loud & group).sum()), int(group.sum())) for name, group in groups.items()}


fresh = opened(speeches[10:25])[:, :-1]  # speeches on which nothing was looked for
its_norm = lm.run_to(fresh, 4).norm(dim=-1)
loud_there = its_norm > 5 * its_norm.median()
loud_there[:, 0] = False
mine, theirs = counted_the(lm_read, loud), counted_the(fresh, loud_there)
loudest = Counter(lm_tokenizer.decode([int(token)]) for token in lm_read[loud])
loudest_there = Counter(lm_tokenizer.decode([int(token)]) for token in fresh[loud_there])
claim(
    loud_tokens=int(loud.sum()),
    loud_the=loudest[" the"],
    loud_the_after_preposition=mine["after_preposition"],
    loud_the_else=mine["else"],
    fresh_the=(loudest_there[" the"], int(loud_there.sum())),
    fresh_the_after_preposition=theirs["after_preposition"],
    fresh_the_else=theirs["else"],
)
print(loudest.most_common(5), loudest_there.most_common(5))

# %% [markdown]
# Who writes along that coordinate: mean over the first positions, the loud tokens, and the others.

# %% wire
rows = []
for layer in range(depth):
    for kind in ("attn_out", "mlp_out"):
        wrote_there = seen[f"blocks.{layer}.{kind}"][..., wire]
        means = [float(wrote_there[places].mean()) for places in (opening, loud, quiet)]
        if max(map(abs, means[:2])) > 100:
            rows.append([f"{'MLP' if kind == 'mlp_out' else 'heads'} {layer}", *(f"{mean:+,.0f}" for mean in means)])
along = {layer: seen[f"blocks.{layer}.mlp_out"][..., wire] for layer in range(depth)}
attention_paid = torch.stack(
    [seen[f"blocks.{layer}.attn.pattern"][:, :, 32:].mean(dim=(1, 2)) for layer in range(depth)]
)  # layer speech key
to_first = attention_paid[:, :, 0].mean(dim=1)
to_loud = (attention_paid * loud).sum(dim=2).mean(dim=1)
claim(
    sent_1=along[1][opening].mean() + along[2][opening].mean(),
    sent_1_loud=along[1][loud].mean() + along[2][loud].mean(),
    deleted_1=sum(along[layer][opening].mean() for layer in (8, 9, 10)),
    deleted_1_loud=sum(along[layer][loud].mean() for layer in (8, 9, 10)),
    sent_2=along[11][opening].mean(),
    sent_2_others=along[11][~opening].abs().mean(),
    deleted_2=sum(along[layer][opening].mean() for layer in (27, 28, 29)),
    remains_2=at_layer[-1][opening][:, wire].mean(),
    remains_2_length=norm[-1][opening].mean(),
    paid_first_early=to_first[3:10].mean(),
    paid_loud_early=to_loud[3:10].mean(),
    paid_first_between=to_first[11],
    paid_first_late=to_first[12:].mean(),
    paid_loud_late=to_loud[12:].mean(),
)
table(rows, header=[f"along coordinate {wire}", "first position", "loud tokens", "the others"])

# %% [markdown]
# ## Sent, read, deleted: what each step is worth
#
# The readers' own lines, with a direction taken out of what they read at some positions; or writers that leave out a
# direction. The change of the loss on three kinds of predictions: from the first position, from loud tokens, from the
# others (mean and standard error over speeches).


# %% prices
class unread:
    """A tap: queries, keys or values of some layers are computed from a changed stream at the marked positions.

    The norm takes its scale from the changed stream; with ``kept`` it keeps the one that it had.
    """

    def __init__(self, kind: str, layers: range, change, marked: Tensor, kept: bool = False) -> None:
        self.kind, self.layers, self.change, self.marked, self.kept = kind, layers, change, marked, kept

    def resolve(self, known: list[str]) -> frozenset[str]:
        return frozenset(f"blocks.{layer}.{end}" for layer in self.layers for end in ("resid_pre", f"attn.{self.kind}"))

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if name.endswith("resid_pre"):
            self.stream = x[self.marked]
            return x
        block = lm.blocks[int(name.split(".")[1])]
        W = {"q": block.attn.W_Q, "k": block.attn.W_K, "v": block.attn.W_V}[self.kind]
        y = self.change(self.stream)
        scale = ((self.stream if self.kept else y).square().mean(dim=-1, keepdim=True) + lm.config.norm_eps).sqrt()
        x = x.clone()
        x[self.marked] = torch.einsum("nm,hmk->nhk", y / scale * block.ln1.w, W)
        return x


def changed(names: list[str], change, marked: Tensor):
    """A tap: these activations, changed at the marked positions."""

    def function(x: Tensor) -> Tensor:
        x = x.clone()
        x[marked] = change(x[marked])
        return x

    return at(names, function)


def mlps(*layers: int) -> list[str]:
    return [f"blocks.{layer}.mlp_out" for layer in layers]


def zero(kind: str, layers: range, marked: Tensor):
    return changed([f"blocks.{layer}.attn.{kind}" for layer in layers], torch.zeros_like, marked)


def without_wire(x: Tensor) -> Tensor:
    x = x.clone()
    x[..., wire] = 0
    return x


sent = F.normalize(at_layer[20][:, 0].mean(dim=0), dim=0)  # the direction of the stream at the first position
random_direction = F.normalize(torch.randn(576, generator=generator), dim=0)
without_sent, without_random = (lambda x, v=v: without(v, x) for v in (sent, random_direction))
early, late = range(3, 11), range(12, depth)
LENGTH = 64  # of each stretch, which is enough for the costs
starting, weak, rest_of_them = (mark[:, :LENGTH] for mark in (opening, loud, quiet))
both = starting | weak


def wire_at_mean(x: Tensor) -> Tensor:
    x = x.clone()
    x[..., wire] = x[..., wire].mean()
    return x


cases = {  # name: a row of the table, the first layer that is another, and the tap
    "one_keys": ("first message hidden from keys", 3, unread("k", early, without_wire, both)),
    "one_keys_kept": ("… with σ kept", 3, unread("k", early, without_wire, both, kept=True)),
    "one_values": ("… from values", 3, unread("v", early, without_wire, both)),
    "one_zero": ("values there set to zero", 3, zero("v", early, both)),
    "one_not_sent": ("not sent (MLPs 1, 2)", 1, changed(mlps(1, 2), without_wire, both)),
    "one_not_deleted": ("not deleted (MLPs 8, 9, 10)", 8, changed(mlps(8, 9, 10), without_wire, both)),
    "two_keys": ("second message hidden from keys", 12, unread("k", late, without_sent, starting)),
    "two_keys_kept": ("… with σ kept", 12, unread("k", late, without_sent, starting, kept=True)),
    "two_keys_zero": ("keys there set to zero", 12, zero("k", late, starting)),
    "two_random": ("a random direction hidden from keys", 12, unread("k", late, without_random, starting)),
    "two_values": ("second message hidden from values", 12, unread("v", late, without_sent, starting)),
    "two_values_kept": ("… with σ kept", 12, unread("v", late, without_sent, starting, kept=True)),
    "two_zero": ("values there set to zero", 12, zero("v", late, starting)),
    "two_not_sent": ("not sent (MLP 11)", 11, changed(mlps(11), without_sent, starting)),
    "two_half_sent": (f"only coordinate {wire} not sent", 11, changed(mlps(11), without_wire, starting)),
    "two_mean": (f"coordinate {wire} set to its mean", 11, changed(mlps(11), wire_at_mean, starting)),
    "two_not_deleted": ("not deleted (MLPs 27, 28, 29)", 27, changed(mlps(27, 28, 29), without_wire, starting)),
}
rows, costs = [], {}
for name, (row, start, tap) in cases.items():
    found = lm_losses(lm.run_from(start, at_layer[start][:, :LENGTH], tap=tap), lm_target[:, :LENGTH])
    change = found - lm_whole[:, :LENGTH]
    by_speech = torch.stack([own[places].mean() for own, places in zip(change, rest_of_them, strict=True)])
    samples = {"first": change[starting], "loud": change[weak], "others": by_speech}
    costs[name] = {kind: (x.mean().item(), error(x).item()) for kind, x in samples.items()}
    rows.append([row, *(f"{mean:+.2f} ± {spread:.2f}" for mean, spread in costs[name].values())])
claim(
    **{name: cost["others"][0] for name, cost in costs.items() if name not in ("two_random", "two_not_deleted")},
    two_random=abs(costs["two_random"]["others"][0]),
    two_not_deleted=abs(costs["two_not_deleted"]["others"][0]),
    two_keys_error=costs["two_keys"]["others"][1],
    two_keys_kept_error=costs["two_keys_kept"]["others"][1],
    two_values_error=costs["two_values"]["others"][1],
    two_mean_error=costs["two_mean"]["others"][1],
    one_not_deleted_loud=costs["one_not_deleted"]["loud"][0],
    one_not_deleted_loud_error=costs["one_not_deleted"]["loud"][1],
    two_not_deleted_first=costs["two_not_deleted"]["first"][0],
    two_not_deleted_first_error=costs["two_not_deleted"]["first"][1],
)
table(rows, header=["", "from the first", "from loud tokens", "from the others"])

# %% [markdown]
# Ten predictions are few. The last row again, on more first positions: four in each speech that is long enough.

# %% more-starts
starts = [speech[k : k + 3000] for speech in speeches[:25] if len(speech) > 12000 for k in (2000, 4000, 6000, 8000)]
start_ids = torch.tensor([lm_tokenizer.encode(start).ids[:3] for start in starts])
at_start = torch.zeros(len(start_ids), 2, dtype=torch.bool)
at_start[:, 0] = True
before_deletion = lm.run_to(start_ids[:, :-1], 27)
tap = changed(mlps(27, 28, 29), without_wire, at_start)
kept, as_it_is = (lm_losses(lm.run_from(27, before_deletion, tap=tap), start_ids[:, 1:]) for tap in (tap, None))
change = (kept - as_it_is)[:, 0]
claim(starts=len(starts), starts_not_deleted=change.mean(), starts_not_deleted_error=error(change))

# %% [markdown]
# ## The rest of the note, on this model
#
# At the quiet positions: who writes against what is there, how many dimensions are used, is the position written
# anywhere, what does the unembedding make of the stream.

# %% lm-cosines
quiet_order = torch.randperm(int(quiet.sum()), generator=generator)
against = []
for layer in range(depth):
    for kind, stream_name in (("attn_out", "resid_pre"), ("mlp_out", "resid_mid")):
        w, x = seen[f"blocks.{layer}.{kind}"][quiet], seen[f"blocks.{layer}.{stream_name}"][quiet]
        name = f"{'MLP' if kind == 'mlp_out' else 'heads'} {layer}"
        against.append((name, float(cosine(w, x)), float(cosine(w, x[quiet_order]))))
at_first = F.cosine_similarity(seen["blocks.28.mlp_out"], seen["blocks.28.resid_mid"], dim=-1)[opening].mean()
below = sorted(against, key=lambda row: row[1] - row[2])
claim(
    lm_writers=len(against),
    lm_against=sum(mine < 0 for _, mine, _ in against),
    lm_below=sum(mine < other - 0.05 for _, mine, other in against),
    lm_deepest=below[0][1],
    lm_deepest_shuffled=below[0][2],
    lm_cosine_mlp_28=at_first,
)
table(below[:6], header=["writes", "cosine with what is there", "with what is elsewhere"], digits=2)

# %% lm-dimensions
shown_layers = [0, 1, 2, 4, 7, 11, 12, 16, 20, 24, 28, 29, 30]
used = {
    layer: (dimensions(at_layer[layer][quiet]), dimensions(at_layer[layer].flatten(0, 1))) for layer in shown_layers
}


def position_read(x: Tensor, ridge: float = 0.3) -> float:
    """R² of the position, read by ridge regression from the stream: fitted on six speeches, measured on four."""
    x = F.normalize(x[:, 4:].double(), dim=-1)
    place = torch.arange(4, 80).double().expand(len(x), -1)
    fit, test = x[:6].flatten(0, 1), x[6:].flatten(0, 1)
    center = fit.mean(dim=0)
    target = place[:6].flatten() - place.mean()
    weights = torch.linalg.solve(
        (fit - center).T @ (fit - center) + ridge * len(fit) / 576 * torch.eye(576).double(), (fit - center).T @ target
    )
    left = place[6:].flatten() - place.mean() - (test - center) @ weights
    return float(1 - left.square().mean() / place[6:].var())


position = {layer: position_read(at_layer[layer]) for layer in shown_layers}
claim(
    lm_dimensions_start=used[1][0],
    lm_dimensions_most=max(mine for mine, _ in used.values()),
    lm_dimensions_end=used[30][0],
    lm_dimensions_with_first=used[20][1],
    position_read_start=position[0],
    position_read_most=max(position.values()),
    position_read_end=position[30],
)
table(
    [[layer, *used[layer], position[layer]] for layer in shown_layers],
    header=["layers so far", "dimensions for 90%", "with first and loud positions", "R² of the position"],
    digits=2,
)

# %% lm-lens
some = slice(0, 4), slice(0, 64)
final = lm.run_from(depth, at_layer[-1][some]).log_softmax(dim=-1)
counted = quiet[some]
lens_layers = [0, 5, 10, 15, 20, 25, 29]
divergence, agreement, mended = [], [], []
for layer in lens_layers:
    x = at_layer[layer]
    for offset, kept in ((0, divergence), ((at_layer[-1] - x)[4:][quiet[4:]].mean(dim=0), mended)):  # of other speeches
        seen_early = lm.run_from(depth, x[some] + offset).log_softmax(dim=-1)
        kept.append((final.exp() * (final - seen_early)).sum(dim=-1)[counted].mean())
        if kept is divergence:
            agreement.append((seen_early.argmax(-1) == final.argmax(-1))[counted].double().mean())
            if layer == 0:
                echo = (seen_early.argmax(-1) == lm_read[some])[counted].double().mean()
lines(
    lens_layers,
    {"logit lens": divergence, "with a constant added": mended},
    xlabel="layers so far",
    ylabel="KL from the output, nats",
    log="y",
    colours=[ORANGE, BLUE],
    height=2.6,
)
claim(
    lens_middle=divergence[lens_layers.index(15)],
    lens_middle_mended=mended[lens_layers.index(15)],
    lens_chance=torch.log(torch.tensor(float(lm.config.d_vocab))),
    lens_agree_middle=agreement[lens_layers.index(15)],
    lens_agree_late=agreement[-1],
    lens_echo=echo,
)

# %% [markdown]
# ## Attribution with the norm frozen
#
# The logit of one token against another, as a sum over the embedding, 270 heads and 30 MLPs, with the scale of the last
# norm kept as it was; and what taking a term away does when the scale, or everything, is computed again.

# %% frozen
prompt = "The capital of France is"
prompt_ids = torch.tensor([lm_tokenizer.encode(prompt).ids])
right, wrong = (lm_tokenizer.encode(word).ids[0] for word in (" Paris", " London"))
prompt_logits = lm(prompt_ids, tap=(took := record(["ln_final.scale", "blocks.29.resid_post"])))[0, -1]
difference = float(prompt_logits[right] - prompt_logits[wrong])
terms = decompose(lm, prompt_ids)
frozen, again = (attribute(terms, (right, wrong), scale=scale) for scale in ("frozen", "recomputed"))
shares = frozen.values[:, 0, -1]  # term


def difference_without(label: str) -> float:
    """The difference of the logits when the model runs without what that term wrote at the last position."""
    silence = (
        ablate(f"blocks.{label.removeprefix('mlp.')}.mlp_out", "zero", positions=-1)
        if label.startswith("mlp")
        else ablate("*.result", "zero", heads=[label], positions=-1)
    )
    found = lm(prompt_ids, tap=silence)[0, -1]
    return float(found[right] - found[wrong])


strongest = shares.abs().argsort(descending=True)[:8].tolist()
end = took["blocks.29.resid_post"][0, -1]
factors = [
    took["ln_final.scale"][0, -1, 0]
    / ((end - terms[terms.labels[t]][0, -1]).square().mean() + lm.config.norm_eps).sqrt()
    for t in strongest
]
claim(
    answer_logit=difference,
    frozen_error=abs(float(shares.sum()) - difference),
    frozen_terms=len(terms.labels),
    frozen_first=shares[strongest[0]],
    scale_ratio_most=max(factors),
    scale_ratio_least=min(factors),
)
table(
    [
        [
            label.replace("mlp.", "MLP ") if label.startswith("mlp") else f"head {label}",
            -float(shares[t]),
            -float(again.values[t, 0, -1]),
            difference_without(label) - difference,
        ]
        for t in strongest
        for label in [terms.labels[t]]
    ],
    header=["taken away", "scale frozen", "scale computed again", "everything computed again"],
    digits=2,
)
