# %% [markdown]
# # One layer: skip-trigrams
#
# Everything that the note [one-layer](../../docs/notes/one-layer.md) shows and counts: five models of one layer,
# trained on the State of the Union in 2,048 tokens, read off their weights; and the copying scores of SmolLM2.

# %% setup
import numpy as np
import torch
from torch.nn import functional as F

from residual import plot
from residual.factored import FactoredMatrix
from residual.files import checkpoints
from residual.files.pretrained import smollm2
from residual.files.tokens import words
from residual.methods.circuits import copying_score, full_OV, positivity, top_entries
from residual.methods.fold import fold_layernorm
from residual.plot import BLUE, GREY, ORANGE, panels
from residual.taps import ablate, at, record
from residual.training.corpus import corpus, sotu_texts, split
from residual.training.train import windows
from weave import claim

torch.set_grad_enabled(False)
D_VOCAB, SEEDS = 2048, range(5)


def trained(seed=0):
    return checkpoints.load("one-layer" if seed == 0 else f"one-layer-seed{seed}").model


model = trained()
attn, config = model.blocks[0].attn, model.config
text = corpus(D_VOCAB)
held_out = text.validation.unfold(0, 129, 128)  # the whole validation text; each token is predicted once
sample = held_out[::5]
inputs, targets = sample[:, :-1], sample[:, 1:]
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


def of_logits(logits, targets=targets):
    """Mean loss of each window."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape).mean(dim=1)


def bigram(alpha):
    """Counts, and `alpha` pseudo-counts shared out like single tokens."""
    return -((pairs + alpha * unigram) / (pairs.sum(dim=1, keepdim=True) + alpha)).log()


def error(x):
    """Standard error of the mean over windows."""
    return (x.std() / len(x) ** 0.5).item()


table = min((bigram(alpha) for alpha in (3, 10, 30, 100)), key=lambda t: t[inputs, targets].mean())
loss_bigram, loss_unigram = table[inputs, targets].mean(dim=1), -unigram.log()[targets].mean(dim=1)
everywhere = torch.cat([of_logits(model(part[:, :-1]), part[:, 1:]) for part in held_out.split(64)])
bigram_everywhere = table[held_out[:, :-1], held_out[:, 1:]].mean(dim=1)
logits = model(inputs, tap=(seen := record("*.pattern")))
pattern = seen["blocks.0.attn.pattern"]
stream = model.W_E[inputs]


def with_patterns(pattern, heads=range(12)):
    written = sum(pattern[:, h] @ stream @ attn.W_V[h] @ attn.W_O[h] for h in heads)
    return (stream + written) @ model.W_U


# what a head would do if it looked at places, not at tokens: its mean pattern over many windows
many = windows(text.train, 64, 129)[:, :-1]
model(many, tap=(seen := record("*.pattern")))
typical = seen["blocks.0.attn.pattern"].mean(dim=0, keepdim=True)
direct = of_logits(stream @ model.W_U)
by_place = of_logits(with_patterns(typical.expand(len(inputs), -1, -1, -1)))
whole = of_logits(logits)
claim(
    uniform=nothing,
    unigram_loss=loss_unigram.mean(),
    bigram_loss=bigram_everywhere.mean(),
    direct_loss=direct.mean(),
    by_place_loss=by_place.mean(),
    whole_loss=everywhere.mean(),
    whole_loss_error=error(everywhere),
    windows=len(held_out),
    windows_sampled=len(sample),
    beyond_bigrams=(bigram_everywhere - everywhere).mean(),
    beyond_bigrams_error=error(bigram_everywhere - everywhere),
    share_of_bigrams=(nothing - bigram_everywhere.mean()) / (nothing - everywhere.mean()),
    share_by_place=(direct - by_place).mean() / (direct - whole).mean(),
    content_gain=(by_place - whole).mean(),
    content_gain_error=error(by_place - whole),
    place_gain=(direct - by_place).mean(),
    heads_gain=(direct - whole).mean(),
)
plot.table(
    [
        ["nothing", f"{nothing:.2f}", ""],
        *(
            [name, f"{loss.mean():.2f}", f"{error(loss):.2f}"]
            for name, loss in (
                ("how often each token occurs (counted)", loss_unigram),
                ("the current token (counted, smoothed)", loss_bigram),
                ("the model's direct path alone", direct),
                ("… and heads that look at places only", by_place),
                ("… and at tokens: the whole model", whole),
                ("the whole model, whole validation text", everywhere),
            )
        ),
    ],
    ["a prediction from …", "loss (nats)", "± s.e."],
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
own_heads = (by_distance[:, 0] > 0.5).nonzero().flatten().tolist()
own_only = torch.eye(128).expand_as(pattern)  # as if these heads attended to nothing but their own token
claim(
    previous_head=previous,
    previous_weight=by_distance[previous, 1],
    self_heads=len(own_heads),
    self_heads_least=by_distance[own_heads, 0].min(),
    self_heads_most=by_distance[own_heads, 0].max(),
    with_self_heads_loss=of_logits(with_patterns(pattern, own_heads)).mean(),
    with_own_tokens_loss=of_logits(with_patterns(own_only, own_heads)).mean(),
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

# %% worked-row
row_head, either = 2, shown.index("·either")
place = common.tolist().index(either)
(Q, K), (V, U) = circuits(row_head)
asks, raises = Q @ K[:, place], (V[place] @ U)[common]
asked, raised_most = asks.topk(4).indices, raises.topk(4).indices
holding = held_out[(held_out[:, :-1] == either).any(dim=1)][
    :, :-1
]  # all windows of the validation text with the source
model(holding, tap=(seen := record("*.pattern")))
here = holding == either
after = (seen["blocks.0.attn.pattern"][:, row_head] * here[:, None]).sum(dim=-1)  # attention to any "either"
wanted = torch.isin(holding, common[asks.topk(100).indices]) & (here.cumsum(dim=1) > 0)
others = ~wanted & ~here & (here.cumsum(dim=1) > 0)
claim(
    row_asks_most=asks.max(),
    row_asks_median=asks.median(),
    row_or=raises[common.tolist().index(shown.index("·or"))],
    row_nor=raises[common.tolist().index(shown.index("·nor"))],
    row_median=raises.median(),
    row_or_rank=int((raises > raises[common.tolist().index(shown.index("·or"))]).sum()) + 1,
    row_attention_wanted=after[wanted].mean(),
    row_attention_error=error(after[wanted]),
    row_places=int(wanted.sum()),
    row_attention_other=after[others].mean(),
)
plot.table(
    [
        [shown[common[d]], f"{asks[d]:.1f}", shown[common[o]], f"{raises[o]:.1f}"]
        for d, o in zip(asked.tolist(), raised_most.tolist(), strict=True)
    ],
    ["destination", "its score for ·either", "output", "raised by (logits)"],
)

# %% [markdown]
# ### What strong entries are worth
#
# A term is left out by giving a source the head's mean value instead of its own.

# %% worth
tokens = sample[::3]
given, then = tokens[:, :-1], tokens[:, 1:]
base = model(given, tap=(seen := record("*.pattern")))
base_loss, paid = of_logits(base, then), seen["blocks.0.attn.pattern"]
values_of = torch.einsum("ti,hij->htj", model.W_E, attn.W_V)  # head token d_head
share = frequency / frequency.sum()
mean_value = torch.einsum("t,htj->hj", share, values_of)


def listed(head, n=3, width=4):
    """The rows of the table above, as tokens: (head, source, destinations, outputs)."""
    (Q, K), (V, U) = circuits(head)
    strength = (V @ (U @ U.T)).mul(V).sum(dim=1).clamp(min=0).sqrt()
    for source in list(dict.fromkeys(top_entries(Q, K * strength, k=400).columns.tolist()))[:n]:
        destinations, outputs = (Q @ K[:, source]).topk(width).indices, (V[source] @ U)[common].topk(width).indices
        yield head, int(common[source]), common[destinations], common[outputs]


def term(head, source, destinations=None, outputs=None):
    """What a head adds to the logits from one source: attention [batch pos], and logits by token."""
    amount = (paid[:, head] * (given == source)[:, None]).sum(dim=-1)
    if destinations is not None:
        amount = amount * torch.isin(given, destinations)
    logits = (values_of[head, source] - mean_value[head]) @ attn.W_O[head] @ model.W_U
    if outputs is not None:
        logits = torch.zeros_like(logits).scatter(0, outputs, logits[outputs])
    return amount, logits


def without_terms(terms):
    """How much the loss of each window rises when these terms are left out."""
    amounts, logits = (torch.stack(part, dim=d) for part, d in zip(zip(*terms, strict=True), (-1, 0), strict=True))
    return of_logits(base - amounts @ logits, then) - base_loss


entries = [entry for head in range(12) for entry in listed(head)]
levels = {
    "these sources, whatever follows": without_terms([term(h, s) for h, s, _, _ in entries]),
    "… before the destinations of the table": without_terms([term(h, s, d) for h, s, d, _ in entries]),
    "… and only the outputs of the table": without_terms([term(*entry) for entry in entries]),
}


def without_sources(chosen):
    """The same if each head reads its mean value from the tokens that are ``chosen`` [head token]."""

    def change(v):  # batch pos head d_head
        away = chosen[:, given].permute(1, 2, 0)[..., None]
        return torch.where(away, mean_value, v)

    return of_logits(model(given, tap=at("*.attn.v", change)), then) - base_loss


effect = torch.einsum("htj,hji->hti", values_of - mean_value[:, None], attn.W_O).norm(dim=-1)  # head token
strongest = torch.full((12, D_VOCAB), -1.0)
for head in range(12):
    (Q, K), (V, U) = circuits(head)
    strength = (V @ (U @ U.T)).mul(V).sum(dim=1).clamp(min=0).sqrt()
    strongest[head, common] = ((Q @ K).amax(dim=0) * strength).clamp(min=0)
ranked = {"strongest first": strongest, "weighted by frequency": effect * share}
curve = {}
for name, by in ranked.items():
    for n in (3, 30, 300):
        chosen = torch.zeros(12, D_VOCAB, dtype=torch.bool).scatter(1, by.topk(n, dim=1).indices, True)
        curve[name, n] = without_sources(chosen), (share * chosen).sum(dim=1).mean().item()
all_of_them = without_sources(torch.ones(12, D_VOCAB, dtype=torch.bool))
bigram_heads = torch.zeros(12, 1, dtype=torch.bool).index_fill(0, torch.tensor(own_heads), True).expand(-1, D_VOCAB)
of_own_heads, of_others = without_sources(bigram_heads), without_sources(~bigram_heads)
rows_of_others = without_terms([term(h, s) for h, s, _, _ in entries if h not in own_heads])
# what random sources of the same frequency are worth: each row's is one of the twenty common tokens nearest to it
draw, alike = torch.Generator().manual_seed(0), []
for _ in range(6):
    chosen = []
    for h, s, _, _ in entries:
        near = (frequency[common].log() - frequency[s].log()).abs().topk(21, largest=False).indices[1:]
        chosen.append(term(h, int(common[near[torch.randint(20, (1,), generator=draw)]])))
    alike.append(without_terms(chosen).mean().item())
sources, with_destination, triples = (loss.mean() for loss in levels.values())
claim(
    table_sources=sources,
    table_sources_error=error(levels["these sources, whatever follows"]),
    table_destinations=with_destination,
    table_triples=triples,
    table_triples_error=error(levels["… and only the outputs of the table"]),
    table_share=sum(share[s] for _, s, _, _ in entries) / 12,
    strong_300=curve["strongest first", 300][0].mean(),
    frequent_3=curve["weighted by frequency", 3][0].mean(),
    frequent_30=curve["weighted by frequency", 30][0].mean(),
    frequent_300=curve["weighted by frequency", 300][0].mean(),
    all_sources=all_of_them.mean(),
    all_sources_self=of_own_heads.mean(),
    all_sources_others=of_others.mean(),
    table_rows_self=sum(h in own_heads for h, *_ in entries),
    table_rows=len(entries),
    table_sources_others=rows_of_others.mean(),
    alike=np.mean(alike),
    alike_least=min(alike),
    alike_most=max(alike),
    table_over_alike=sources / np.mean(alike),
)
plot.table(
    [
        *([f"the table: {name}", None, f"{x.mean():.4f}", f"{error(x):.4f}"] for name, x in levels.items()),
        [
            "… these sources, in heads that look elsewhere",
            None,
            f"{rows_of_others.mean():.4f}",
            f"{error(rows_of_others):.4f}",
        ],
        [f"random sources as frequent as the table's, mean of {len(alike)} draws", None, f"{np.mean(alike):.4f}", ""],
        *(
            [f"{n} sources a head, {name}", f"{covered:.1%}", f"{x.mean():.4f}", f"{error(x):.4f}"]
            for (name, n), (x, covered) in curve.items()
        ),
        *(
            [name, "100%", f"{x.mean():.4f}", f"{error(x):.4f}"]
            for name, x in (
                ("all sources", all_of_them),
                ("… in heads that attend to themselves", of_own_heads),
                ("… in the others", of_others),
            )
        ),
    ],
    ["left out", "share of the text", "loss rises by (nats)", "± s.e."],
)

# %% [markdown]
# ## Copying
#
# The eigenvalues of W_E W_OV W_U from its 16-dimensional side, and the same for models that were not trained. W_U less
# its mean over outputs: what is added to all logits alike is in the sum of eigenvalues and in no prediction.

# %% copying
models = [trained(seed) for seed in SEEDS]
scores = torch.stack([copying_score(trained(seed).double())[0] for seed in SEEDS])  # seed head
generator = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def score_of(W_V, W_O, through):
    """Copying scores of heads ``[head d_model d_head]`` and ``[head d_head d_model]``; ``through`` is W_U W_E."""
    small = W_O @ through @ W_V  # has the nonzero eigenvalues of W_E W_V W_O W_U
    return positivity(FactoredMatrix(small, torch.eye(small.shape[-1]).to(small).expand_as(small)))


def centered(W_U, weights=None):
    """W_U less its mean over outputs, which all count alike or by their weights."""
    mean = W_U.mean(dim=1, keepdim=True) if weights is None else (W_U * weights).sum(dim=1, keepdim=True)
    return W_U - mean


def of_models(change):
    """Copying scores [seed head] with the unembedding changed in some way."""
    exact = [trained(seed).double() for seed in SEEDS]
    return torch.stack([score_of(m.blocks[0].attn.W_V, m.blocks[0].attn.W_O, change(m.W_U) @ m.W_E) for m in exact])


as_is = of_models(lambda W_U: W_U)
by_frequency = of_models(lambda W_U: centered(W_U, (frequency / frequency.sum()).double()))


def random_heads(through, n):
    return score_of(normal(n, 128, 16), normal(n, 16, 128), through)


null = torch.cat([random_heads(centered(normal(128, D_VOCAB)) @ normal(D_VOCAB, 128), 100) for _ in range(50)])
stricter = torch.stack([random_heads((centered(m.W_U) @ m.W_E).double(), 1000) for m in models])  # seed head
limit, strict_limit = null.abs().quantile(0.99).item(), stricter.abs().quantile(0.99, dim=1).tolist()
positive, negative = (scores > limit).sum(dim=1), (scores < -limit).sum(dim=1)
strict = torch.tensor(strict_limit)[:, None]
claim(
    null_limit=limit,
    null_draws=len(null),
    heads_scored=scores.numel(),
    copying=int(positive.sum()),
    anticopying=int(negative.sum()),
    fewest_copying=int(positive.min()),
    most_copying=int(positive.max()),
    score_most=scores.max(),
    null_most=null.abs().max(),
    strict_limit_least=min(strict_limit),
    strict_limit_most=max(strict_limit),
    copying_strict=int((scores > strict).sum()),
    anticopying_strict=int((scores < -strict).sum()),
    raw_copying=int((as_is > limit).sum()),
    raw_anticopying=int((as_is < -limit).sum()),
    frequency_copying=int((by_frequency > limit).sum()),
    frequency_anticopying=int((by_frequency < -limit).sum()),
)
ax = panels(height=2.9)
ax.axvspan(-limit, limit, color=GREY, alpha=0.2, linewidth=0)
for y, drawn in ((5, null), (6, stricter.flatten())):
    drawn = drawn[::20]
    ax.scatter(drawn, torch.full_like(drawn, y), s=14, color=GREY, alpha=0.4, linewidth=0)
names = [*(f"seed {s}" for s in SEEDS), "untrained", "random heads,\ntrained W_E, W_U"]
ax.set(xlabel="Σλ / Σ|λ|", yticks=range(7), yticklabels=names, xlim=(-1.05, 1.05))
for seed in SEEDS:
    ax.scatter(scores[seed], [seed] * 12, s=26, color=BLUE, alpha=0.75, linewidth=0)

# %% [markdown]
# ### Two populations
#
# A head that attends to the token it stands on makes its diagonal a bigram statement: how likely a token is to follow
# itself.

# %% self-attention
few = sample[::10]
reads, follows = few[:, :-1], few[:, 1:]


def heads_of(model):
    """For each head: attention to its own token, the same weighted by values, one back, and the cost without it."""
    attn = model.blocks[0].attn
    whole = of_logits(model(reads, tap=(seen := record(["*.pattern", "*.v"]))), follows)
    pattern, v = seen["blocks.0.attn.pattern"], seen["blocks.0.attn.v"]
    length = torch.stack([(v[:, :, h] @ attn.W_O[h]).norm(dim=-1) for h in range(12)], dim=1)  # batch head key
    weighted = pattern * length[:, :, None]
    weighted = weighted / weighted.sum(dim=-1, keepdim=True)

    def back(x, k):
        return x.diagonal(offset=-k, dim1=-2, dim2=-1)[..., 16:].mean(dim=(0, 2))

    costs = [
        of_logits(model(reads, tap=ablate("*.attn.z", "mean", heads=h, across_positions=True)), follows) - whole
        for h in range(12)
    ]
    by_token = torch.zeros(12, D_VOCAB)
    for h in range(12):
        by_token[h].index_add_(0, reads.flatten(), weighted[:, h].sum(dim=1).flatten())
    by_token /= by_token.sum(dim=1, keepdim=True)
    columns = [back(pattern, 0), back(weighted, 0), back(pattern, 1), torch.stack(costs).mean(dim=1)]
    return torch.stack(columns, dim=1), by_token, costs


measured = [heads_of(m) for m in models]
roles = torch.stack([found for found, *_ in measured]).numpy()  # seed head (own, weighted own, one back, cost)
own, cost, flat = roles[..., 0], roles[..., 3], scores.numpy()
on_itself = own > 0.5


def census(where, limit=limit):
    above, below = (flat > limit)[where], (flat < -limit)[where]
    return int(where.sum()), int(above.sum()), int((~above & ~below).sum()), int(below.sum())


away = ~on_itself
errors = [error(c) for _, _, costs in measured for c in costs]
claim(
    self_attending=census(on_itself)[0],
    self_negative=census(on_itself)[3],
    self_copying=census(on_itself)[1],
    others=census(away)[0],
    others_copying=census(away)[1],
    others_copying_share=census(away)[1] / census(away)[0],
    others_negative=census(away)[3],
    others_copying_strict=int((flat > strict.numpy())[away].sum()),
    others_negative_strict=int((flat < -strict.numpy())[away].sum()),
    self_negative_strict=int((flat < -strict.numpy())[on_itself].sum()),
    self_score_correlation=np.corrcoef(own.flatten(), flat.flatten())[0, 1],
    weighted_self_correlation=np.corrcoef(roles[..., 1].flatten(), flat.flatten())[0, 1],
    others_correlation=np.corrcoef(own[away], flat[away])[0, 1],
    negative_own=own[flat < -limit].mean(),
    copying_own=own[flat > limit].mean(),
    self_least_per_seed=int(on_itself.sum(axis=1).min()),
    self_most_per_seed=int(on_itself.sum(axis=1).max()),
    self_cost=cost[on_itself].mean(),
    copying_cost=cost[(flat > limit) & away].mean(),
    cost_error=max(errors),
    raw_others_copying=int((as_is.numpy() > limit)[away].sum()),
    raw_others_negative=int((as_is.numpy() < -limit)[away].sum()),
    raw_turned_least=flat[(as_is.numpy() < -limit) & away].min(),
    raw_others_correlation=np.corrcoef(own[away], as_is.numpy()[away])[0, 1],
)
ax = panels(height=3.0)
ax.axhspan(-limit, limit, color=GREY, alpha=0.2, linewidth=0)
ax.scatter(own[away], flat[away], s=26, color=BLUE, alpha=0.75, linewidth=0)
ax.scatter(own[on_itself], flat[on_itself], s=26, color=ORANGE, alpha=0.75, linewidth=0)
ax.set(xlabel="attention to the token that it stands on", ylabel="Σλ / Σ|λ|", ylim=(-1.05, 1.05))

# %% census
plot.table(
    [
        [name, *census(where), f"{cost[where].mean():.3f}"]
        for name, where in (
            ("look mostly at themselves", on_itself),
            ("look elsewhere", away),
            ("all", on_itself | away),
        )
    ],
    ["heads that", "in all", "copying", "within the null", "below it", "mean cost without (nats)"],
)

# %% heads
resting = measured[0][1]
claim(
    rest_largest_4=resting[4].max(),
    rest_largest_6=resting[6].max(),
    cost_4=cost[0, 4],
    cost_6=cost[0, 6],
    score_4=flat[0, 4],
    score_6=flat[0, 6],
)
plot.table(
    [
        [
            f"0.{h}",
            *(f"{x:.2f}" for x in (flat[0, h], *roles[0, h, :3])),
            f"{cost[0, h]:.3f}",
            ", ".join(f"{shown[i]} {measured[0][1][h, i]:.2f}" for i in measured[0][1][h].topk(4).indices.tolist()),
        ]
        for h in range(12)
    ],
    ["head", "score", "own token", "weighted by values", "one back", "cost (nats)", "reads most, weighted by values"],
)

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
    raw_rank_correlation=np.corrcoef(as_is.flatten(), agree[:, 1])[0, 1],
    frequency_rank_correlation=np.corrcoef(by_frequency.flatten(), agree[:, 1])[0, 1],
    copying_ranks_above=agree[agree[:, 0] > limit, 1].mean() * D_VOCAB,
    strong_score_least=agree[order[4], 0],
    strong_rank=np.median(agree[order[:5], 1]) * D_VOCAB,
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


bugs = []
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
                if asks[ds[i]] > 0 and asks[ds[k]] > 0:
                    places = ds[i].item(), ds[k].item(), outs[j].item(), outs[m].item()
                    counted = [[sub[i, j].item(), sub[i, m].item()], [sub[k, j].item(), sub[k, m].item()]]
                    bugs.append((value, head, source, *places, counted))
bugs.sort(key=lambda bug: -bug[0])
_, bug_head, source, d1, d2, o1, o2, seen_counts = bugs[0]
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

# %% [markdown]
# ### What bugs cost
#
# The strongest bug of each head and source. Probability on a crossed output that never comes costs −log(1 − p).

# %% bug-cost
strongest_bugs = list({(head, source): bug for bug in reversed(bugs) for head, source in [bug[1:3]]}.values())
probability, places, wasted = base.softmax(dim=-1), 0, torch.zeros(len(given))
crossed = []
for _, head, source, first, second, out_1, out_2, _ in strongest_bugs:
    token = int(common[source])
    recent = (given == token).cumsum(dim=1)
    recent = recent - torch.nn.functional.pad(recent, (WINDOW, 0))[:, :-WINDOW] > 0
    for destination, output in ((first, out_2), (second, out_1)):
        there = recent & (given == common[destination])
        places += int(there.sum())
        wasted += -(1 - probability[..., output]).log().mul(there).sum(dim=1) / given.shape[1]
        crossed.append(term(head, token, common[destination][None], torch.tensor([output])))
relief = without_terms(crossed)
claim(
    bugs_priced=len(strongest_bugs),
    bug_places=places,
    bug_wasted=wasted.mean(),
    bug_wasted_there=wasted.sum() * given.shape[1] / places,
    bug_relief=relief.mean(),
)
plot.table(
    [
        ["bugs: one for each head and source", f"{len(strongest_bugs)}"],
        [f"places among {given.numel():,} where one can act", f"{places:,}"],
        ["probability wasted on crossings, nats at such a place", f"{wasted.sum() * given.shape[1] / places:.1e}"],
        ["… and nats a token over the text", f"{wasted.mean():.1e}"],
        ["loss if the crossed entries were left out, nats a token", f"{relief.mean():+.1e}".replace("-", "−")],
    ],
    ["", ""],
)

# %% [markdown]
# ## SmolLM2
#
# Norms folded. The embedding stands for what a head reads, and the unembedding for what becomes of what it writes.

# %% smollm2
large, tokenizer = smollm2()
folded = fold_layernorm(large)
through = (centered(folded.W_U) @ folded.W_E).double()
attention = [block.attn for block in folded.blocks]
copies = torch.stack([score_of(a._shared(a.W_V, dim=0).double(), a.W_O.double(), through) for a in attention])
control = torch.cat([score_of(normal(50, 576, 64), normal(50, 64, 576), through) for _ in range(20)])
large_limit = control.abs().quantile(0.99).item()
speeches = [tokenizer.encode(speech).ids[200:296] for speech in split(sotu_texts())[1][-6:]]
large(torch.tensor(speeches), tap=(seen := record("*.pattern")))
on_own = torch.stack(
    [seen[f"blocks.{layer}.attn.pattern"].diagonal(dim1=-2, dim2=-1)[..., 16:].mean(dim=(0, 2)) for layer in range(30)]
)
on_first = torch.stack([seen[f"blocks.{layer}.attn.pattern"][:, :, 16:, 0].mean(dim=(0, 2)) for layer in range(30)])
much = on_own > 0.3
early = torch.arange(30)[:, None].expand(30, 9) < 25
claim(
    smollm2_heads=copies.numel(),
    smollm2_null=large_limit,
    smollm2_copying=int((copies > large_limit).sum()),
    smollm2_negative=int((copies < -large_limit).sum()),
    smollm2_self_half=int((on_own > 0.5).sum()),
    smollm2_self=int(much.sum()),
    smollm2_self_negative=int((copies[much] < -large_limit).sum()),
    smollm2_correlation=np.corrcoef(on_own.flatten(), copies.flatten())[0, 1],
    smollm2_early_correlation=np.corrcoef(on_own[early], copies[early])[0, 1],
    smollm2_first=on_first.median(),
    smollm2_17_4=copies[17, 4],
    smollm2_18_6=copies[18, 6],
)
ax = panels(height=3.0)
ax.axhspan(-large_limit, large_limit, color=GREY, alpha=0.2, linewidth=0)
ax.scatter(on_own[early], copies[early], s=18, color=BLUE, alpha=0.7, linewidth=0)
ax.scatter(on_own[~early], copies[~early], s=18, color=ORANGE, alpha=0.7, linewidth=0)
ax.set(xlabel="attention to the token that it stands on", ylabel="Σλ / Σ|λ|", ylim=(-1.05, 1.05))
ax.text(0.45, 0.72, "layers 25 to 29", color=ORANGE)
ax.text(0.45, -0.72, "layers 0 to 24", color=BLUE)
