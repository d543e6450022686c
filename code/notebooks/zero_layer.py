# %% [markdown]
# # Zero layers
#
# Everything that the note [zero-layer](../../docs/notes/zero-layer.md) shows and counts. The model has two
# matrices and no attention: token in, `W_E`, `W_U`, logits out. It is trained here, on the State of the Union
# addresses, and measured against the exact table of bigram counts.

# %% setup
from itertools import pairwise

import numpy as np
import torch

from residual import Config, Transformer, plot
from residual.files.pretrained import smollm2
from residual.files.tokens import tokenizer, words
from residual.methods.bigrams import (
    bigram_counts,
    centred,
    conditional_entropy,
    cross_entropy,
    excess,
    mutual_information,
    smoothed,
)
from residual.methods.loss import next_token_loss
from residual.taps import record
from residual.training.corpus import corpus, sotu_texts, split
from residual.training.train import train, windows
from weave import claim

# %% [markdown]
# ## The table
#
# One pass over the corpus. From here on the text is not needed any more: these counts are all that a model without
# attention can learn from it.

# %% counts
D_VOCAB = 512
text = corpus()
counts = bigram_counts(text.train, D_VOCAB)  # token next
held_out = bigram_counts(text.validation, D_VOCAB)

live = counts.sum(dim=1) > 0  # tokens that occur at all; the others are bytes that no speech contains
seen = counts > 0
n_live = int(live.sum())
uniform = torch.zeros(D_VOCAB, D_VOCAB).double()
next_alone = counts.sum(dim=0).clamp(min=1e-300).log().expand(D_VOCAB, D_VOCAB)

claim(
    train_tokens=len(text.train),
    live_tokens=n_live,
    dead_tokens=D_VOCAB - n_live,
    live_pairs=n_live**2,
    seen_pairs=int(seen.sum()),
    unseen_share=1 - seen.sum() / n_live**2,
    uniform_loss=cross_entropy(counts, uniform),
    next_alone_loss=cross_entropy(counts, next_alone),
    bigram_entropy=conditional_entropy(counts),
    mutual_information=mutual_information(counts),
)
plot.table(
    [
        ["nothing: every token equally likely", cross_entropy(counts, uniform).item(), excess(counts, uniform).item()],
        ["how often each token occurs", cross_entropy(counts, next_alone).item(), mutual_information(counts).item()],
        ["the current token", conditional_entropy(counts).item(), 0.0],
    ],
    ["a prediction that knows …", "loss at best (nats)", "excess (nats)"],
)

# %% [markdown]
# ## Training
#
# Two runs of the same model from the same weights. One sees batches of text; the other sees the table, and so takes at
# each step the gradient over the whole corpus.

# %% model
D_MODEL = 64
every_token = torch.arange(D_VOCAB)[:, None]  # a batch of 512 sequences of one token each
table = counts.float()


def zero_layer(d_model, seed=0):
    config = Config(n_layers=0, d_model=d_model, n_ctx=1, d_vocab=D_VOCAB, positions="none")
    return Transformer(config, seed=seed)


def logits_of(model):
    """W_E W_U, the whole model as one table: [token next], in float64."""
    return (model.W_E @ model.W_U).detach().double()


def train_on_the_table(model, steps=800, lr=0.1, watch=None, table=table):
    return train(
        model,
        lambda step: cross_entropy(table, model(every_token)[:, 0]),
        steps=steps,
        lr=lr,
        watch=watch,
        label=f"d_model {model.config.d_model}",
    )


# %% train
STEPS, BATCH = 800, 1024
moments = sorted({round(x) for x in np.geomspace(1, STEPS, 40)} | {0})
seen_weights = seen.double()
log_bigram = torch.where(seen, (counts / counts.sum(dim=1, keepdim=True)).log(), 0.0)  # only read where seen


def correlation(x, y, weights):
    """Pearson's, of two tables, each entry counted with its weight."""
    weights = weights / weights.sum()
    x, y = x - (weights * x).sum(), y - (weights * y).sum()
    return (weights * x * y).sum() / ((weights * x * x).sum() * (weights * y * y).sum()).sqrt()


def raw_and_centred(x, y, weights):
    return correlation(x, y, weights), correlation(centred(x, weights), centred(y, weights), weights)


def measuring(model, into, measures):
    def watch(step):
        if step in moments:
            into.append(measures(logits_of(model)))

    return watch


by_table, by_text = [], []
model = zero_layer(D_MODEL)
train_on_the_table(
    model,
    STEPS,
    lr=0.03,
    watch=measuring(
        model, by_table, lambda table: [excess(counts, table), *raw_and_centred(table, log_bigram, counts)]
    ),
)
sampled = zero_layer(D_MODEL)
train(
    sampled,
    lambda step: next_token_loss(sampled, windows(text.train, BATCH, 2, step=step)),
    steps=STEPS,
    lr=0.03,
    watch=measuring(sampled, by_text, lambda table: excess(counts, table)),
    label="on text",
)
by_table, by_text = torch.tensor(by_table), torch.tensor(by_text)  # moment (excess raw centred), moment

logits = logits_of(model)
claim(
    steps=STEPS,
    work_saved=(len(text.train) - 1) / D_VOCAB,
    raw_at_its_highest=by_table[:, 1].max(),
    excess_by_table=by_table[-1, 0],
    excess_by_text=by_text[-1],
    text_over_table=by_text[-1] / by_table[-1, 0],
    updates_to_frequencies=moments[int((by_table[:, 0] < mutual_information(counts)).nonzero()[0])],
    excess_at_start=by_table[0, 0],
    tokens_sampled=STEPS * BATCH,
)

# %% training
above, below = plot.panels(2, 1, height=5.6, sharex=True)
above.axhline(mutual_information(counts), color=plot.GREY, linewidth=1, linestyle=":")
above.annotate("ignores the token", (STEPS, mutual_information(counts)), ha="right", va="bottom", fontsize=9)
below.set_ylim(0, 1.02)
plot.lines(
    moments[1:],
    {"text": by_text[1:], "table": by_table[1:, 0]},
    ax=above,
    log="xy",
    ylabel="excess loss (nats)",
    colours=[plot.GREY, plot.BLUE],
)
plot.lines(
    moments[1:],
    {"raw": by_table[1:, 1], "centered": by_table[1:, 2]},
    ax=below,
    log="x",
    xlabel="updates",
    ylabel="correlation",
    colours=[plot.ORANGE, plot.BLUE],
)

# %% [markdown]
# ## The constant of each row

# %% correlations
raw, centre = raw_and_centred(logits, log_bigram, counts)
raw_pairs, centre_pairs = raw_and_centred(logits, log_bigram, seen_weights)
other = zero_layer(D_MODEL, seed=1)
train_on_the_table(other, STEPS, lr=0.1)
between_raw, between_centred = raw_and_centred(logits, logits_of(other), counts)
alive = torch.ones(n_live, n_live).double()
invented = [
    raw_and_centred(logits[live][:, live], smoothed(counts[live][:, live], alpha), alive)[1] for alpha in (0.01, 1.0)
]
claim(
    raw_correlation=raw,
    centred_correlation=centre,
    raw_correlation_pairs=raw_pairs,
    centred_correlation_pairs=centre_pairs,
    between_runs_raw=between_raw,
    between_runs_centred=between_centred,
    smoothed_correlation_small=invented[0],
    smoothed_correlation_large=invented[1],
)
plot.table(
    [
        ["each pair as often as it occurs", raw.item(), centre.item()],
        ["each observed pair once", raw_pairs.item(), centre_pairs.item()],
        ["two trained models with each other", between_raw.item(), between_centred.item()],
    ],
    ["correlation of W_E W_U with the log-bigram table", "raw", "rows centered"],
)


# %% raw-and-centred
def cloud(ax, x, y, title, label):
    """A two-dimensional histogram, each pair counted as often as it occurs; opacity is the log of the count."""
    bins = 60
    x, y, weights = (t[seen].numpy() for t in (x, y, counts))
    low, high = (np.quantile(np.concatenate([x, y]), q) for q in (0.002, 0.998))
    histogram, *_ = np.histogram2d(y, x, bins=bins, range=[[low, high]] * 2, weights=weights)
    ax.imshow(
        plot.ramp(np.log10(1 + histogram), np.log10(histogram.max())),
        origin="lower",
        extent=(low, high, low, high),
        interpolation="none",
    )
    ax.plot([low, high], [low, high], color=plot.ORANGE, linewidth=1)
    ax.set(title=title, xlabel="log-bigram table", ylabel=label)


left, right = plot.panels(1, 2, height=2.9)
cloud(left, log_bigram, logits, "raw", "W_E W_U")
cloud(right, centred(log_bigram, counts), centred(logits, counts), "rows centered", "")

# %% [markdown]
# The same two tables as pictures: the thirty most frequent tokens, rows centered; pairs that never occur are blank.

# %% thirty
thirty = counts.sum(dim=1).topk(30).indices
shown_words = [word.replace(" ", "␣").replace("\n", "⏎") for word in words(thirty)]
pair = (thirty[:, None], thirty)
seen_here = seen[pair]
left, right = plot.panels(1, 2, height=3.2)
for ax, title, whole in ((left, "log-bigram table", log_bigram), (right, "W_E W_U", logits)):
    part = centred(whole, counts)[pair]
    shades = torch.where(seen_here, part, torch.nan)
    plot.heatmap(shades, ax=ax, rows=shown_words, columns=shown_words, limit=6, bar=None, title=title)
    ax.tick_params(labelsize=5.5)
right.set_yticks([])
_ = left.set(xlabel="next", ylabel="token")
difference = (centred(log_bigram, counts) - centred(logits, counts))[pair][seen_here]
claim(thirty_largest_difference=difference.abs().max(), thirty_median_difference=difference.abs().median())

# %% [markdown]
# Plain gradient descent never moves the mean of `W_U`'s columns, since the gradient has no component there. AdamW
# rescales each coordinate by itself, and so does. But taking that drift out of the logits does not mend the raw
# correlation.

# %% conserved
descended = zero_layer(D_MODEL)
start = descended.W_U.detach().mean(dim=1).clone()
optimiser = torch.optim.SGD(descended.parameters(), lr=3.0)
for _ in range(300):
    optimiser.zero_grad()
    cross_entropy(table, descended(every_token)[:, 0]).backward()
    optimiser.step()


def moved(trained):
    """How far the mean column went, and how far a column went on average."""
    mean = (trained.W_U.detach().mean(dim=1) - start).norm()
    columns = (trained.W_U.detach() - zero_layer(D_MODEL).W_U.detach()).norm(dim=0).mean()
    return mean, columns


(sgd_mean, sgd_columns), (adam_mean, adam_columns) = moved(descended), moved(model)
claim(
    sgd_mean_over_columns=sgd_mean / sgd_columns,
    adam_mean_over_columns=adam_mean / adam_columns,
    raw_correlation_without_drift=correlation(centred(logits), log_bigram, counts),
)
plot.table(
    [
        ["gradient descent", sgd_columns.item(), "0, up to rounding" if sgd_mean < 1e-5 else sgd_mean.item()],
        ["AdamW", adam_columns.item(), adam_mean.item()],
    ],
    ["trained with", "a column moves by", "the mean column moves by"],
    digits=2,
)

# %% [markdown]
# What does it is the pairs that never occur. Their logits sink for as long as training lasts; where the mean of a row
# stays put, the others must rise, and the more so the more of the row is empty.

# %% sinking
never = live[:, None] & live & ~seen
constants = logits.logsumexp(dim=-1)  # z_i: logits less log-probabilities
empty = never.sum(dim=1).double()  # how many of the live tokens never follow token i
shares = counts.sum(dim=1) / counts.sum()


def depth(model):
    """Mean log-probability of the pairs that never occur, each row with its token's share."""
    per_row = (logits_of(model).log_softmax(dim=-1) * never).sum(dim=1) / empty.clamp(min=1)
    return (shares * per_row).sum()


halfway = zero_layer(D_MODEL)
train_on_the_table(halfway, STEPS // 8, lr=0.03)
filled = zero_layer(D_MODEL)
train_on_the_table(filled, STEPS, lr=0.03, table=table + 1)  # a text in which every pair occurs
claim(
    raw_correlation_when_filled=correlation(logits_of(filled), log_bigram, counts),
    constants_with_empty=correlation(constants, empty, shares),
    depth_early=depth(halfway),
    depth_late=depth(model),
)
axes = plot.panels(height=3.2)
areas = (2e3 * shares).clip(3, 60)
for area in (3, 6, 12, 24, 48):  # a marker for each size, which the page then has once
    these = live & (areas >= area) & (areas < 2 * area)
    axes.scatter(empty[these], constants[these], s=1.4 * area, color=plot.BLUE, alpha=0.6, linewidths=0)
_ = axes.set(xlabel="how many tokens never follow this one", ylabel="constant of its row")

# %% [markdown]
# ## Rank
#
# The same model at every width, and next to it the best that a truncated singular value decomposition can do: two ways
# of weighting the entries, each with the smoothing constant that suits it best at that width.

# %% sweep
WIDTHS = [1, 2, 4, 8, 16, 32, 64, 128]
tables = {}
for d_model in WIDTHS:
    trained = zero_layer(d_model)
    train_on_the_table(trained)
    tables[d_model] = logits_of(trained)
    if d_model == 2:
        two = trained
best = {d: excess(counts, t) for d, t in tables.items()}

again = []
for d_model in (8, 32):  # another start, twice as long: is the first run near the best?
    longer = zero_layer(d_model, seed=1)
    train_on_the_table(longer, steps=1600)
    again.append(best[d_model] / excess(counts, logits_of(longer)))

# %% svd
ALPHAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
few, row_share = counts[live][:, live], (counts.sum(dim=1) / counts.sum())[live]
next_share = (counts.sum(dim=0) / counts.sum())[live].clamp(min=1e-12)


def truncated(log_table, rank, weighted):
    """The nearest table of this rank, in squares, to a log-table with centered rows (Eckart and Young).

    Weighted: entry (i, j) counts with the share of i times the share of j; unweighted, all alike.
    """
    rows, columns = (row_share[:, None], next_share) if weighted else (torch.tensor(1.0), torch.tensor(1.0))
    target = centred(log_table, next_share.expand_as(log_table) if weighted else None)
    U, S, Vh = torch.linalg.svd(target * rows.sqrt() * columns.sqrt())
    return (U[:, :rank] * S[:rank]) @ Vh[:rank] / rows.sqrt() / columns.sqrt()


def svd_excess(rank, weighted):
    return min(excess(few, truncated(smoothed(few, alpha), rank, weighted)) for alpha in ALPHAS)


names = words(live.nonzero().flatten())
united_live = names.index(" Un"), names.index("ited")
plain_svd = {d: svd_excess(d, weighted=False) for d in WIDTHS}
weighted_svd = {d: svd_excess(d, weighted=True) for d in WIDTHS}
claim(
    best_1=best[1],
    best_2=best[2],
    best_8=best[8],
    best_16=best[16],
    best_32=best[32],
    best_64=best[64],
    best_128=best[128],
    svd_32=plain_svd[32],
    weighted_svd_32=weighted_svd[32],
    explained_2=1 - best[2] / mutual_information(counts),
    explained_32=1 - best[32] / mutual_information(counts),
    svd_over_trained_32=weighted_svd[32] / best[32],
    svd_over_trained_64=weighted_svd[64] / best[64],
    largest_gain_of_longer_run=max(again),
    weight_on_empty=(row_share[:, None] * next_share)[few == 0].sum() / (row_share[:, None] * next_share).sum(),
    united_underweighted=few[united_live] / few[united_live[0]].sum() / next_share[united_live[1]],
    svd_1_below_frequencies=plain_svd[1] - mutual_information(counts),
)

# %% rank-bottleneck
axes = plot.panels(height=3.6)
level = mutual_information(counts).item()
axes.axhline(level, color=plot.GREY, linewidth=1, linestyle=":")
axes.annotate("ignores the token", (WIDTHS[-1], level * 1.08), ha="right", va="bottom", fontsize=9)
plot.lines(
    WIDTHS,
    {
        "SVD": [plain_svd[d] for d in WIDTHS],
        "weighted SVD": [weighted_svd[d] for d in WIDTHS],
        "trained": [best[d] for d in WIDTHS],
    },
    ax=axes,
    log="xy",
    marker="o",
    colours=[plot.ORANGE, plot.OCHRE, plot.BLUE],
    xlabel="d_model",
    ylabel="excess loss (nats)",
)
axes.minorticks_off()
_ = axes.set_xticks(WIDTHS, [str(d) for d in WIDTHS])

# %% [markdown]
# On speeches that no model has seen, more width stops helping long before the excess is used up; smoothing the counts
# by hand, with the constant chosen on these very speeches, does about as well.

# %% validation
smooth = {alpha: cross_entropy(held_out, smoothed(counts, alpha)).item() for alpha in ALPHAS}
alpha = min(smooth, key=smooth.get)
on_held_out = {d: cross_entropy(held_out, tables[d]).item() for d in WIDTHS}


def error_of(log_probabilities):
    """The standard error of a loss on the held-out text, over its tokens."""
    shares_there = held_out / held_out.sum()
    mean = (shares_there * log_probabilities).sum()
    return ((shares_there * (log_probabilities - mean).square()).sum() / held_out.sum()).sqrt()


claim(
    validation_smoothed=smooth[alpha],
    validation_error=error_of(smoothed(counts, alpha)),
    validation_tokens=int(held_out.sum()),
    validation_64=on_held_out[64],
    validation_128=on_held_out[128],
    training_gain_128=best[64] - best[128],
    validation_gain_128=on_held_out[64] - on_held_out[128],
)
plot.table(
    [[f"d_model {d}", cross_entropy(counts, tables[d]).item(), on_held_out[d]] for d in WIDTHS]
    + [[f"counts, smoothed by α = {alpha}", cross_entropy(counts, smoothed(counts, alpha)).item(), smooth[alpha]]],
    ["model", "loss, training speeches", "loss, held-out speeches"],
    digits=4,
)

# %% [markdown]
# The same curve for a vocabulary of 2,048, with as many updates for both.

# %% larger-vocabulary
larger = bigram_counts(corpus(2048).train, 2048)
larger_live = larger.sum(dim=1) > 0
larger = larger[larger_live][:, larger_live]
FEWER, SOME_WIDTHS = 150, [2, 8, 32, 128]


def share_left(of_pairs, d_model):
    """The share of the mutual information that a model of this width has not learned."""
    kinds = len(of_pairs)
    config = Config(n_layers=0, d_model=d_model, n_ctx=1, d_vocab=kinds, positions="none")
    trained, each = Transformer(config), torch.arange(kinds)[:, None]
    in_float32 = of_pairs.float()
    train(
        trained, lambda _: cross_entropy(in_float32, trained(each)[:, 0]), steps=FEWER, lr=0.1, label=f"{kinds} kinds"
    )
    return (excess(of_pairs, logits_of(trained)) / mutual_information(of_pairs)).item()


left_of = {len(table): [share_left(table, d_model) for d_model in SOME_WIDTHS] for table in (few, larger)}
n_larger = len(larger)
claim(
    live_2048=n_larger,
    mutual_information_2048=mutual_information(larger),
    unseen_2048=(larger == 0).double().mean(),
    once_2048=(larger == 1).sum() / (larger > 0).sum(),
    **{f"left_{d}_512": share for d, share in zip(SOME_WIDTHS, left_of[n_live], strict=True)},
    **{f"left_{d}_2048": share for d, share in zip(SOME_WIDTHS, left_of[n_larger], strict=True)},
)
by_width, by_share = plot.panels(1, 2, height=2.8, sharey=True)
for kinds, colour in ((n_live, plot.BLUE), (n_larger, plot.ORANGE)):
    by_width.plot(SOME_WIDTHS, left_of[kinds], color=colour, marker="o")
    by_share.plot([d / kinds for d in SOME_WIDTHS], left_of[kinds], color=colour, marker="o", label=f"{kinds:,} tokens")
for ax in (by_width, by_share):
    ax.set(xscale="log", yscale="log")
    ax.minorticks_off()
by_width.set_xticks(SOME_WIDTHS, [str(d) for d in SOME_WIDTHS])
by_share.set_xticks([0.001, 0.01, 0.1], ["0.1%", "1%", "10%"])
by_width.set_yticks([0.01, 0.1, 1], ["1%", "10%", "100%"])
by_width.set(xlabel="d_model", ylabel="mutual information not learned")
by_share.set(xlabel="d_model / tokens")
_ = by_share.legend(frameon=False)

# %% [markdown]
# ## Where the error is

# %% errors-by-count
wrong = (logits.log_softmax(dim=-1) - log_bigram).abs()
edges = [1, 2, 3, 5, 9, 17, 33, 65, 129, 257, 513, 1025, 2049, 4097, 10**9]
middle, spread = [], []
for low, high in pairwise(edges):
    here = (counts >= low) & (counts < high)
    middle.append(counts[here].median().item())
    spread.append(torch.quantile(wrong[here], torch.tensor([0.1, 0.5, 0.9]).double()))
spread = torch.stack(spread).T  # (quantile bin)
claim(
    error_once=spread[1, 0],
    error_most_frequent=spread[1, -1],
    pairs_once=(counts == 1).sum(),
    tokens_in_pairs_once=(counts == 1).sum() / counts.sum(),
)
axes = plot.panels(height=3.0)
axes.fill_between(middle, spread[0], spread[2], color=plot.BLUE, alpha=0.2, linewidth=0)
plot.lines(
    middle,
    {"median": spread[1]},
    ax=axes,
    log="xy",
    xlabel="how often the pair occurs in training",
    ylabel="error of log-probability",
)

# %% [markdown]
# ## Two dimensions
#
# With `d_model = 2` the whole output side of the model is a set of points in a plane. Softmax leaves their common
# origin free, and `W_E M · M⁻¹ W_U = W_E W_U` leaves every linear map of the plane free. What is drawn is fixed by
# three rules: mean zero, covariance one (each token counted as often as it occurs), and a first axis along which
# the contexts differ most.

# %% two-dimensions
full = logits_of(two)[live][:, live]
mean_free = centred(full, next_share.expand_as(full))
_, singular, Vh = torch.linalg.svd(mean_free * row_share.sqrt()[:, None] * next_share.sqrt())
place = (Vh[:2] / next_share.sqrt()).T  # next (x y)
often = few.sum(dim=0)

KINDS = {
    "begins a word": (plot.BLUE, lambda w: w[0] == " " and w[1:2].isalpha()),
    "continues a word": (plot.ORANGE, lambda w: w[0].islower()),
    "capital": (plot.GREEN, lambda w: w[0].isupper()),
    "digit": (plot.VIOLET, lambda w: w[0].isdigit() or w[:2] in (" 1", " 2")),
    "other": (plot.GREY, lambda w: True),
}


def kind(word):
    return next(name for name, (_, holds) in KINDS.items() if holds(word))


kinds = [kind(name) for name in names]
if place[names.index(" the"), 0] < 0:
    place[:, 0] *= -1
if place[names.index("The"), 1] < 0:
    place[:, 1] *= -1
begins = torch.tensor([k == "begins a word" for k in kinds])
continues = torch.tensor([k == "continues a word" for k in kinds])
# how well one threshold on the first axis tells the two kinds apart
thresholds = place[:, 0].sort().values
right_side = ((place[:, 0, None] > thresholds) == begins[:, None])[begins | continues].sum(dim=0).max()
claim(
    told_apart=right_side / (begins | continues).sum(),
    told_apart_of=(int(right_side), int((begins | continues).sum())),
)
axes = plot.panels(height=4.6)
for label, (colour, _) in KINDS.items():
    chosen = torch.tensor([k == label for k in kinds]) & (often >= 200)
    axes.scatter(*place[chosen].T, s=12, color=colour, alpha=0.75, linewidths=0, label=label)
labelled = [" the", " of", " be", "ing", "s", "e", "The", "A", "\n", "0", " Congress", " States", "W", "overnment"]
for word in [*labelled, "$"]:
    axes.annotate(
        repr(word)[1:-1].replace(" ", "␣").replace("$", r"\$"),
        place[names.index(word)].tolist(),
        xytext=(3, 2),
        textcoords="offset points",
        fontsize=9,
    )
axes.set(xlabel="first direction", ylabel="second direction")
_ = axes.legend(loc="upper right", frameon=False, handletextpad=0.2)

# %% [markdown]
# ## Reading the weights

# %% next-tokens
probabilities = logits.softmax(dim=-1)
share = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
everything = words(range(D_VOCAB))


def show(token):
    return everything[token].replace(" ", "␣").replace("\n", "⏎")


def following(word, n=5):
    row = probabilities[everything.index(word)]
    top = row.topk(n).indices.tolist()
    return " · ".join(f"{show(token)} {row[token]:.2f}" for token in top)


chosen = [
    " the",
    " of",
    " Un",
    "ited",
    " States",
    " Americ",
    " year",
    " should",
    " b",
    "ation",
    ".",
    "\n",
    "00",
    "$",
    "<e2>",
]
united = (everything.index(" Un"), everything.index("ited"))
byte = (everything.index("<e2>"), everything.index("<80>"))
top_is_right = probabilities[live].argmax(dim=1) == counts[live].argmax(dim=1)
claim(
    united=probabilities[united],
    united_counted=share[united],
    byte_after_byte=probabilities[byte],
    apostrophes=counts[byte[0]].sum(),
    top_agrees_share=top_is_right.sum() / n_live,
)
plot.table(
    [[show(everything.index(word)), following(word)] for word in chosen], ["after", "most likely next, by W_E W_U"]
)

# %% [markdown]
# ## Tied weights
#
# With `W_U = W_Eᵀ` the table of logits is symmetric, and the chain of tokens that it describes is reversible: read
# backwards, its text has the same statistics. English is not like that.

# %% tied
tied = torch.nn.Module()
tied.W_E = torch.nn.Parameter(zero_layer(D_MODEL).W_E.detach().clone())
train(tied, lambda _: cross_entropy(table, tied.W_E @ tied.W_E.T), steps=STEPS, lr=0.1)
symmetric = (tied.W_E @ tied.W_E.T).detach().double()
normaliser = symmetric[live][:, live].exp().sum(dim=1)
flow = normaliser[:, None] / normaliser.sum() * symmetric[live][:, live].softmax(dim=-1)
claim(
    tied_excess=excess(counts, symmetric),
    tied_over_untied=excess(counts, symmetric) / best[D_MODEL],
    tied_detailed_balance_error=(flow - flow.T).abs().max() / flow.max(),
    united_backwards=share[united[::-1]],
    united_backwards_tied=symmetric.softmax(dim=-1)[united[::-1]],
)
plot.table(
    [
        ["counted", share[united].item(), share[united[::-1]].item()],
        ["untied", probabilities[united].item(), probabilities[united[::-1]].item()],
        ["tied", symmetric.softmax(dim=-1)[united].item(), symmetric.softmax(dim=-1)[united[::-1]].item()],
    ],
    ["", "␣Un → ited", "ited → ␣Un"],
    digits=2,
)

# %% [markdown]
# ## A real model's direct path
#
# SmolLM2 ties `W_U = W_Eᵀ`. Its direct path, embedding, final norm, unembedding, for the 300 tokens that are most
# frequent in the speeches, against the successors that its own tokenizer counts there.

# %% smollm2
language, its_tokenizer = smollm2()
language.requires_grad_(False)
train_speeches, held_out_speeches = split(sotu_texts())


def its_tokens(speeches):
    return torch.cat([torch.tensor(speech.ids) for speech in its_tokenizer.encode_batch_fast(speeches)])


learned_from, tested_on = its_tokens(train_speeches[::8]), its_tokens(held_out_speeches)
n_kinds = language.config.d_vocab
current = torch.bincount(learned_from, minlength=n_kinds).topk(300).indices  # token
row_of = torch.full((n_kinds,), -1)
row_of[current] = torch.arange(len(current))


def rows_of_pairs(tokens):
    """How often each token follows one of ``current``: [token next]."""
    of, successor = row_of[tokens[:-1]], tokens[1:]
    pairs = of[of >= 0] * n_kinds + successor[of >= 0]
    return torch.bincount(pairs, minlength=len(current) * n_kinds).reshape(len(current), n_kinds).float()


its_counts, its_test = rows_of_pairs(learned_from), rows_of_pairs(tested_on)
frequency = (torch.bincount(learned_from, minlength=n_kinds) + 0.1).log()
begin = its_tokenizer.token_to_id("<|endoftext|>")


def after_one_token(tokens):
    """SmolLM2's logits [token next] for what follows a text of that one token."""
    begun = torch.stack([torch.full_like(tokens, begin), tokens], dim=1)
    return torch.cat([language(few)[:, 1] for few in begun.split(50)])


direct = language.run_from(language.config.n_layers, language.W_E[current][:, None])[:, 0]  # token next
generator = torch.Generator().manual_seed(0)
tables_of_smollm2 = {
    "the direct path": direct,
    "the direct path of another token": direct[torch.randperm(len(current), generator=generator)],
    "the whole model, given that token": after_one_token(current),
}
log_table = torch.where(its_counts > 0, (its_counts / its_counts.sum(1, keepdim=True)).log(), 0.0)
best_alpha = min((0.001, 0.003, 0.01, 0.03), key=lambda a: float(cross_entropy(its_test, smoothed(its_counts, a))))


def test_loss(logits):
    """Loss on the held-out pairs, in nats, and its standard error over the current tokens' occurrences."""
    log_probability = logits.log_softmax(-1)
    mean = (its_test * log_probability).sum() / its_test.sum()
    square = (its_test * log_probability.square()).sum() / its_test.sum()
    return -mean.item(), ((square - mean**2) / its_test.sum()).sqrt().item()


frequency_rows = frequency.expand(len(current), -1)
own_entry = torch.arange(len(current)), current  # the diagonal: the token itself comes next
which, following = its_counts.nonzero(as_tuple=True)  # the pairs that occur
pair_counts = its_counts[which, following].double()
off_diagonal = pair_counts * (following != current[which])


def agrees(logits, pairs=pair_counts, other=log_table):
    """Their correlation with another table, centered by row, each pair as often as it occurs."""
    per_row = torch.zeros(len(current)).double()

    def centred_pairs(table):
        values = table[which, following].double()
        means = per_row.index_add(0, which, pairs * values) / per_row.index_add(0, which, pairs)
        return values - means[which]

    return correlation(centred_pairs(logits), centred_pairs(other), pairs).item()


def given_frequencies(logits):
    """The partial correlation with the counts, given how often each token occurs, off the diagonal."""
    x, y, z = (
        agrees(logits, off_diagonal),
        agrees(logits, off_diagonal, frequency_rows),
        agrees(frequency_rows, off_diagonal),
    )
    return (x - y * z) / ((1 - y**2) * (1 - z**2)) ** 0.5


rows, measured = [], {}
for name, logits_there in tables_of_smollm2.items():
    loss, error = test_loss(logits_there)
    agreement, beyond = agrees(logits_there), given_frequencies(logits_there)
    echo = (logits_there.argmax(-1) == current).double().mean()
    right = (logits_there.argmax(-1) == its_counts.argmax(-1)).double().mean()
    measured[name] = (loss, error, agreement, echo.item(), right.item(), beyond)
    rows.append([name, f"{loss:.2f} ± {error:.2f}", agreement, beyond, f"{echo:.0%}", f"{right:.0%}"])
for name, logits_there in (
    ("counts of the speeches", smoothed(its_counts, best_alpha)),
    ("how often each token occurs", frequency_rows),
):
    loss, error = test_loss(logits_there)
    measured[name] = (loss, error, agrees(logits_there))
    rows.append([name, f"{loss:.2f} ± {error:.2f}", measured[name][2] if name.startswith("how") else None, *[None] * 3])
of_direct, of_other, of_whole = (measured[name] for name in tables_of_smollm2)
claim(
    direct_correlation=of_direct[2],
    other_correlation=of_other[2],
    whole_correlation=of_whole[2],
    frequency_correlation=measured["how often each token occurs"][2],
    direct_given_frequency=of_direct[5],
    other_given_frequency=of_other[5],
    whole_given_frequency=of_whole[5],
    direct_echo=of_direct[3],
    whole_echo=of_whole[3],
    whole_right=of_whole[4],
    direct_loss=of_direct[0],
    whole_loss=of_whole[0],
    whole_loss_error=of_whole[1],
    counts_loss=measured["counts of the speeches"][0],
    counts_loss_error=measured["counts of the speeches"][1],
    frequency_loss=measured["how often each token occurs"][0],
    repeats_counted=its_counts[own_entry].sum() / its_counts.sum(),
)
plot.table(
    rows,
    [
        "logits for the next token",
        "loss on held-out pairs (nats)",
        "correlation, centered",
        "given the frequencies, off the diagonal",
        "first is the token itself",
        "first is that of the counts",
    ],
    digits=2,
)

# %% [markdown]
# Where the echo goes: the lens within the first block, and what the direct path is worth under the last norm of the
# whole stream, on stretches of the held-out speeches.

# %% echo
gains = language.ln_final.w
lengths_of_tokens = (gains * language.W_E.square()).sum(1)
first_choices = direct.argmax(-1)
to_one_token = torch.bincount(first_choices[first_choices != current]).max()
begins_at = torch.randint(len(tested_on) - 80, (8,), generator=torch.Generator().manual_seed(0))
speech = tested_on[begins_at[:, None] + torch.arange(80)]  # batch pos
places = ["embed", "blocks.0.resid_mid", "blocks.0.resid_post", "ln_final.scale"]
inner = record(places)
final = language(speech, tap=inner)[:, 1:]
streams = [inner[name][:, 1:] for name in places[:3]]
echoes = [(language.run_from(language.config.n_layers, x).argmax(-1) == speech[:, 1:]).double().mean() for x in streams]
worth = streams[0] / inner["ln_final.scale"][:, 1:] * gains @ language.W_E.T  # the direct path's part of the logits
itself = worth.gather(-1, speech[:, 1:, None])[..., 0] - worth.mean(-1)
alone = (direct[own_entry] - direct.mean(1)).median()


def loss_of_speech(logits):
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), speech[:, 2:].flatten())


claim(
    echo_at_embeddings=echoes[0],
    echo_after_attention=echoes[1],
    echo_after_mlp=echoes[2],
    itself_under_last_norm=itself.median(),
    itself_alone=alone,
    loss_without_direct=(loss_of_speech(final - worth) - loss_of_speech(final)).abs(),
    negative_gains=(gains < 0).sum(),
    least_gain=gains.min(),
    shortest=lengths_of_tokens[current].min(),
    longest=lengths_of_tokens[current].max(),
    not_echoed=(int((first_choices != current).sum()), len(current)),
    not_echoed_to_one=to_one_token,
)
print(its_tokenizer.id_to_token(int(torch.bincount(first_choices[first_choices != current]).argmax())))

# %% sample
generator = torch.Generator().manual_seed(6)
tokens = [tokenizer().token_to_id("<|endoftext|>")]
for _ in range(160):
    tokens.append(int(torch.multinomial(probabilities[tokens[-1]], 1, generator=generator)))
print(tokenizer().decode(tokens[1:]))
