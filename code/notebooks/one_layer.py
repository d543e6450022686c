# %% [markdown]
# # One layer: skip-trigrams
#
# Everything that the note [one-layer](../../docs/notes/one-layer.md) shows and counts: five models of one layer,
# trained on the State of the Union in 2,048 tokens, read off their weights.

# %% setup
import numpy as np
import torch
from torch.nn import functional as F

from residual import Transformer, plot
from residual.files import checkpoints
from residual.files.tokens import words
from residual.methods.circuits import copying_score, full_OV, top_entries
from residual.plot import BLUE, GREY, panels
from residual.taps import record
from residual.training.corpus import corpus
from residual.training.train import windows
from weave import claim

torch.set_grad_enabled(False)
D_VOCAB, SEEDS = 2048, range(5)


def trained(seed=0):
    return checkpoints.load("one-layer" if seed == 0 else f"one-layer-seed{seed}").model


model = trained()
attn, config = model.blocks[0].attn, model.config
text = corpus(D_VOCAB)
held_out = windows(text.validation, 32, 129, seed=3)
inputs, targets = held_out[:, :-1], held_out[:, 1:]
frequency = torch.bincount(text.train, minlength=D_VOCAB).float()
shown = [w.replace(" ", "·").replace("\n", "⏎") for w in words(range(D_VOCAB), D_VOCAB)]
claim(train_tokens=len(text.train), parameters=sum(w.numel() for w in model.parameters()))

# %% [markdown]
# ## The expansion is exact
#
# In float64, every term by itself.

# %% expansion
exact = trained().double()
heads64 = exact.blocks[0].attn
exact(inputs[:4], tap=(seen := record("*.pattern")))
embedded = exact.W_E[inputs[:4]]
total = embedded @ exact.W_U
for head in range(12):
    total += seen["blocks.0.attn.pattern"][:, head] @ embedded @ heads64.W_OV(head).AB @ exact.W_U
claim(
    expansion_error=(total - exact(inputs[:4])).abs().max(),
    full_table=12 * D_VOCAB**2,
    factored_table=12 * 2 * D_VOCAB * 16,
)

# %% [markdown]
# ## What explains the loss
#
# From nothing to the model: the corpus' own statistics, then the model's terms.

# %% explained
nothing = np.log(D_VOCAB)
unigram = (frequency + 0.5) / (frequency + 0.5).sum()
pairs = torch.bincount(text.train[:-1] * D_VOCAB + text.train[1:], minlength=D_VOCAB**2).view(D_VOCAB, D_VOCAB).float()


def nll(log_p):
    return F.nll_loss(log_p.flatten(0, -2), targets.flatten()).item()


def of_logits(logits):
    return nll(logits.log_softmax(dim=-1))


def bigram(alpha):
    """Counts, and `alpha` pseudo-counts shared out like single tokens."""
    return ((pairs + alpha * unigram) / (pairs.sum(dim=1, keepdim=True) + alpha)).log()


best_bigram = min(nll(bigram(alpha)[inputs]) for alpha in (3, 10, 30, 100))
loss_unigram = nll(unigram.log().expand(*inputs.shape, -1))
logits = model(inputs, tap=(seen := record("*.pattern")))
pattern = seen["blocks.0.attn.pattern"]
stream = model.W_E[inputs]


def with_patterns(pattern, heads=range(12)):
    written = sum(pattern[:, h] @ stream @ attn.W_V[h] @ attn.W_O[h] for h in heads)
    return (stream + written) @ model.W_U


# what a head would do if it looked at places, not at tokens: its mean pattern over many windows
many = windows(text.train, 64, 129, seed=5)[:, :-1]
model(many, tap=(seen := record("*.pattern")))
typical = seen["blocks.0.attn.pattern"].mean(dim=0, keepdim=True)
direct = of_logits(stream @ model.W_U)
by_place = of_logits(with_patterns(typical.expand(len(inputs), -1, -1, -1)))
whole = of_logits(logits)
claim(
    uniform=nothing,
    unigram_loss=loss_unigram,
    bigram_loss=best_bigram,
    direct_loss=direct,
    by_place_loss=by_place,
    whole_loss=whole,
    beyond_bigrams=best_bigram - whole,
    share_of_bigrams=(nothing - best_bigram) / (nothing - whole),
    share_by_place=(direct - by_place) / (direct - whole),
    content_gain=by_place - whole,
    place_gain=direct - by_place,
    heads_gain=direct - whole,
)
plot.table(
    [
        ["nothing", nothing],
        ["how often each token occurs (counted)", loss_unigram],
        ["the current token (counted, smoothed)", best_bigram],
        ["the model's direct path alone", direct],
        ["… and heads that look at places only", by_place],
        ["… and at tokens: the whole model", whole],
    ],
    ["a prediction from …", "loss (nats)"],
)

# %% [markdown]
# ## Where the heads look
#
# Mean attention by distance, on held-out text.

# %% positions
reach = 12
by_distance = torch.stack(
    [pattern.diagonal(offset=-k, dim1=-2, dim2=-1)[..., 16:].mean(dim=(0, -1)) for k in range(reach)], dim=-1
)  # head distance
beyond = 1 - by_distance.sum(dim=-1, keepdim=True)
previous = int(by_distance[:, 1].argmax())
claim(
    previous_head=previous,
    previous_weight=by_distance[previous, 1],
    self_heads=int((by_distance[:, 0] > 0.5).sum()),
    with_self_heads_loss=of_logits(with_patterns(pattern, (by_distance[:, 0] > 0.5).nonzero().flatten().tolist())),
    far_heads=int((beyond > 0.5).sum()),
)
plot.heatmap(
    torch.cat([by_distance, beyond], dim=1),
    rows=[f"0.{h}" for h in range(12)],
    columns=[str(k) for k in range(reach)] + ["more"],
    xlabel="how far back",
    limit=0.6,
    bar=None,
    height=4.2,
)

# %% [markdown]
# ## Skip-trigrams
#
# Keys are centred over sources and outputs over the vocabulary, as softmax does not see these constants. Only tokens
# with letters that occur at least 300 times take part: the largest entries of all belong to tokens that hardly occur.

# %% search
common = torch.tensor(
    [i for i in range(D_VOCAB) if frequency[i] >= 300 and any(c.isalpha() for c in shown[i]) and "<" not in shown[i]]
)
weight = (frequency[common] / frequency[common].sum())[:, None]
E = model.W_E[common]
out = model.W_U - model.W_U.mean(dim=1, keepdim=True)


def circuits(head):
    """QK: [destination source], OV: [source output], both as thin factors."""
    keys = E @ attn.W_K[head]
    keys = (keys - (weight * keys).sum(dim=0)) / config.d_head**0.5
    return (E @ attn.W_Q[head], keys.T), (E @ attn.W_V[head], attn.W_O[head] @ out)


def trigrams(head, n=3, width=4):
    """The strongest sources of a head, with the destinations that look for them and the outputs they raise."""
    (Q, K), (V, U) = circuits(head)
    strength = (V @ (U @ U.T)).mul(V).sum(dim=1).clamp(min=0).sqrt()  # length of each source's row of OV
    found, rows = top_entries(Q, K * strength, k=400), []
    for source in dict.fromkeys(found.columns.tolist()):
        destinations = (Q @ K[:, source]).topk(width).indices.tolist()
        raised = (V[source] @ U)[common].topk(width)
        rows.append(
            [
                f"0.{head}",
                shown[common[source]],
                ", ".join(shown[common[d]] for d in destinations),
                ", ".join(shown[common[o]] for o in raised.indices.tolist()),
            ]
        )
        if len(rows) == n:
            break
    return rows


claim(common_tokens=len(common), common_share=frequency[common].sum() / frequency.sum())
plot.table([row for head in range(12) for row in trigrams(head)], ["head", "source", "destination", "output"])

# %% [markdown]
# ## Copying
#
# The eigenvalues of W_E W_OV W_U from its 16-dimensional side, and the same for models that were not trained.

# %% copying
scores = torch.stack([copying_score(trained(seed).double())[0] for seed in SEEDS])  # seed head
null = torch.stack([copying_score(Transformer(config, seed=100 + i).double())[0] for i in range(20)]).flatten()
limit = null.abs().quantile(0.99).item()
positive, negative = (scores > limit).sum(dim=1), (scores < -limit).sum(dim=1)
claim(
    null_limit=limit,
    heads_scored=scores.numel(),
    copying=int(positive.sum()),
    anticopying=int(negative.sum()),
    fewest_copying=int(positive.min()),
    most_copying=int(positive.max()),
    score_most=scores.max(),
    null_most=null.max(),
)
ax = panels(height=2.6)
ax.axvspan(-limit, limit, color=GREY, alpha=0.2, linewidth=0)
ax.scatter(null, torch.full_like(null, 5), s=14, color=GREY, alpha=0.5, linewidth=0)
ax.set(
    xlabel="Σλ / Σ|λ|", yticks=range(6), yticklabels=[*(f"seed {s}" for s in SEEDS), "untrained"], xlim=(-1.05, 1.05)
)
for seed in SEEDS:
    ax.scatter(scores[seed], [seed] * 12, s=26, color=BLUE, alpha=0.75, linewidth=0)

# %% diagonal
rows, agree = [], []
live = frequency >= 300
for seed in SEEDS:
    m = trained(seed)
    for head in range(12):
        table = full_OV(m, 0, head)
        rows_of = table.A[live] @ table.B  # only rows of tokens that occur
        own = rows_of.gather(1, live.nonzero())
        rank = (rows_of > own).sum(dim=1).float()
        agree.append((scores[seed, head].item(), rank.median().item() / D_VOCAB, (rank < 1).float().mean().item()))
agree = np.array(agree)
order = np.argsort(-agree[:, 0])
claim(
    rank_correlation=np.corrcoef(agree[:, 0], agree[:, 1])[0, 1],
    best_top_one=agree[:, 2].max(),
    copying_median_rank=np.median(agree[agree[:, 0] > limit, 1]),
    copying_worst_rank=agree[agree[:, 0] > limit, 1].max(),
    strong_top_one=np.median(agree[order[:5], 2]),
)
ax = panels(height=3.0)
ax.scatter(agree[:, 0], 100 * agree[:, 1], s=26, color=BLUE, alpha=0.75, linewidth=0)
ax.set(xlabel="Σλ / Σ|λ|", ylabel="median rank of the token itself (%)", xlim=(-1.05, 1.05), ylim=(100, -3))
for x in (-limit, limit):
    ax.axvline(x, color=GREY, linewidth=0.7)

# %% [markdown]
# ## A skip-trigram bug
#
# One source, two destinations, two outputs; in the corpus, each destination has its own. A head cannot tell.

# %% bug
WINDOW = 24
train_tokens = text.train


def continuations(source):
    """How often `output` follows `destination` with `source` among the 24 tokens before: [destination output]."""
    hits = (train_tokens == source).cumsum(0)
    before = torch.cat([torch.zeros(WINDOW + 1, dtype=torch.long), hits])[: len(hits)]
    near = torch.zeros_like(hits, dtype=torch.bool)
    near[1:] = (hits[:-1] - before[1:].clamp(max=hits[-1])) > 0
    near = near[:-1]
    at = train_tokens[:-1][near] * D_VOCAB + train_tokens[1:][near]
    return torch.bincount(at, minlength=D_VOCAB**2).view(D_VOCAB, D_VOCAB)


best = None
for head in range(12):
    (Q, K), (V, U) = circuits(head)
    strength = (V @ (U @ U.T)).mul(V).sum(dim=1).clamp(min=0).sqrt()
    sources = list(dict.fromkeys(top_entries(Q, K * strength, k=300).columns.tolist()))[:8]
    for source in sources:
        counts = continuations(int(common[source]))[common]
        asks, raised = Q @ K[:, source], V[source] @ U
        ds = asks.topk(40).indices
        outs = raised.topk(25).indices
        sub = counts[ds][:, outs]
        for i, j in (sub >= 8).nonzero().tolist():
            rivals = ((sub >= 8) & (sub[:, j] == 0)[:, None] & (sub[i] == 0)[None]).nonzero().tolist()
            for k, m in rivals:
                value = min(raised[outs[j]], raised[outs[m]]).item() * min(asks[ds[i]], asks[ds[k]]).item()
                if asks[ds[i]] > 0 and asks[ds[k]] > 0 and (best is None or value > best[0]):
                    best = (
                        value,
                        head,
                        source,
                        ds[i].item(),
                        ds[k].item(),
                        outs[j].item(),
                        outs[m].item(),
                        [[sub[i, j].item(), sub[i, m].item()], [sub[k, j].item(), sub[k, m].item()]],
                    )
_, bug_head, source, d1, d2, o1, o2, seen_counts = best
ids = [int(common[source]), int(common[d1]), int(common[d2]), o1, o2]
names = [shown[i] for i in ids]
# what the head does to the logits after "source destination", measured in a run: attention times OV
contexts = torch.tensor([[ids[0], ids[1]], [ids[0], ids[2]]])
model(contexts, tap=(seen := record("*.pattern")))
attended = seen["blocks.0.attn.pattern"][:, bug_head, 1, 0]  # of the two destinations, to the source
lift = model.W_E[ids[0]] @ attn.W_V[bug_head] @ attn.W_O[bug_head] @ (model.W_U - model.W_U.mean(dim=1, keepdim=True))
raised = attended[:, None] * lift[[o1, o2]]
claim(
    bug_head=bug_head,
    bug_seen_11=seen_counts[0][0],
    bug_seen_22=seen_counts[1][1],
    bug_seen_12=seen_counts[0][1],
    bug_seen_21=seen_counts[1][0],
    bug_raised_12=raised[0, 1],
    bug_raised_21=raised[1, 0],
    bug_raised_11=raised[0, 0],
    bug_raised_22=raised[1, 1],
    bug_crossed=(raised[0, 0] * raised[1, 1] - raised[0, 1] * raised[1, 0]).abs(),
    bug_attends_least=attended.min(),
    bug_probability=model(contexts)[1, -1].softmax(dim=-1)[o1],
    right_probability=model(contexts)[1, -1].softmax(dim=-1)[o2],
)
plot.table(
    [
        [names[0], names[1 + d], names[3 + o], seen_counts[d][o], raised[d, o].item()]
        for d in range(2)
        for o in range(2)
    ],
    ["source", "destination", "output", "in the corpus", f"raised by head 0.{bug_head} (logits)"],
)
