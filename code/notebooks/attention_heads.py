# %% [markdown]
# # Attention heads
#
# The computations behind the note of the same name. A committed one-layer model of attention and nothing else, in three
# seeds, is taken apart in float64; then the 270 heads of SmolLM2 are asked where they look. `residual train attn-1l`,
# with `--seed 1` and `--seed 2`, makes the checkpoints again.

# %% setup
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from residual import FactoredMatrix, Transformer, load, smollm2
from residual.files.tokens import tokenizer, words
from residual.plot import BLUE, GREEN, GREY, INK, ORANGE, attention, heatmap, lines, panels, table
from residual.taps import ablate, at, compose, freeze, record
from residual.training.corpus import corpus, sotu_texts, split
from residual.training.train import windows
from weave import claim

torch.set_grad_enabled(False)

# %% [markdown]
# ## A model to take apart
#
# Eight heads of 16 dimensions in a stream of 128: together the heads are as wide as the stream, as in GPT-2.

# %% train
NAMES = ["attn-1l", "attn-1l-seed1", "attn-1l-seed2"]
runs = [load(name) for name in NAMES]
config = runs[0].model.config
n_heads, d_model, d_head, n_ctx = config.n_heads, config.d_model, config.d_head, config.n_ctx
text = corpus()
validation = text.validation[: len(text.validation) // (n_ctx + 1) * (n_ctx + 1)].view(-1, n_ctx + 1)  # window pos


def losses_of(model: Transformer, tokens: Tensor, tap=None) -> Tensor:
    """The loss of each window [window pos], in nats a token."""
    logits = model(tokens[:, :-1], tap=tap)
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(tokens), -1).mean(1)


def error(x: Tensor) -> Tensor:
    """The standard error of a mean over windows."""
    return x.std() / len(x) ** 0.5


whole = [torch.cat([losses_of(run.model, part) for part in validation.split(512)]) for run in runs]  # in float32
models = [run.model.double().requires_grad_(False) for run in runs]
model = models[0]
attn = model.blocks[0].attn

# %% losses
pairs = text.train[:-1] * config.d_vocab + text.train[1:]
counts = torch.bincount(pairs, minlength=config.d_vocab**2).reshape(config.d_vocab, -1) + 1.0  # one for each unseen
log_bigram = (counts / counts.sum(dim=1, keepdim=True)).log()
by_bigram = -log_bigram[validation[:, :-1], validation[:, 1:]].mean(dim=1)
claim(
    parameters=sum(weight.numel() for weight in model.parameters()),
    tokens_seen=runs[0].card.training["tokens"],
    windows=len(validation),
    loss_model=whole[0].mean(),
    loss_error=error(whole[0]),
    loss_seeds_most=max(one.mean() for one in whole),
    loss_bigram=by_bigram.mean(),
    gain_over_bigrams=(by_bigram - whole[0]).mean(),
)
held_out = windows(text.validation, 128, n_ctx + 1, seed=1)  # what the measurements below are made on
loss_model = losses_of(model, held_out)  # window

# %% [markdown]
# ## What the heads do with a sentence
#
# The sentence is from the address of 1991, which the model has not seen. A dot stands for a space.

# %% sentence
sentence = " And that will define the state of our Union."
tokens = torch.tensor(tokenizer().encode(sentence).ids)[None]  # batch pos
shown = [word.replace(" ", "·") for word in words(tokens[0])]
seen = record(["*.pattern", "*.result", "*.resid_pre", "*.attn_out"])
logits = model(tokens, tap=seen)[0]  # pos d_vocab
stream = seen["blocks.0.resid_pre"][0]  # pos d_model
patterns = seen["blocks.0.attn.pattern"][0]  # head query key
results = seen["blocks.0.attn.result"][0]  # pos head d_model
print(" ".join(shown))

# %% patterns
attention(patterns, columns=4, limit=0.8)

# %% one-head
sharpest = int(patterns.amax(dim=-1).mean(dim=-1).argmax())  # the head with the largest weights
heatmap(
    patterns[sharpest],
    rows=shown,
    columns=shown,
    xlabel="source",
    ylabel="destination",
    limit=0.8,
    bar=None,
)

# %% [markdown]
# ## Concatenate and multiply = sum over heads

# %% additive
W_OV = attn.W_OV().AB  # head d_model d_model
by_head = torch.stack([patterns[h] @ stream @ W_OV[h] for h in range(n_heads)])  # head pos d_model
written = seen["blocks.0.attn_out"][0]  # pos d_model, from concatenated heads
claim(additive_error=(by_head.sum(dim=0) - written).abs().max())


# %% [markdown]
# ## Three ways to compute it, counted
#
# The counts come from torch's dispatcher, on tensors without data, at the shape of GPT-2 small: FLOPs of the matrix
# products, operations that make a new tensor, and the bytes of those tensors.


# %% counting
class Made(TorchDispatchMode):
    """Counts the tensors that are made, and their bytes; a view of a tensor makes none."""

    tensors = bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.tensors += 1
            self.bytes += out.nbytes
        return out


pos, d, heads, d_h = 1024, 768, 12, 64
A = torch.empty(heads, pos, pos, device="meta")
x = torch.empty(pos, d, device="meta")
W_V, W_O = torch.empty(heads, d, d_h, device="meta"), torch.empty(heads, d_h, d, device="meta")
dense_OV = torch.empty(heads, d, d, device="meta")
side_by_side, stacked = torch.empty(d, heads * d_h, device="meta"), torch.empty(heads * d_h, d, device="meta")


def operators() -> Tensor:
    """Each head as its own map, W_OV multiplied out."""
    return sum((A[h] @ (x @ dense_OV[h]) for h in range(1, heads)), A[0] @ (x @ dense_OV[0]))


def sum_over_heads() -> Tensor:
    """The same sum through d_head dimensions."""
    return sum((A[h] @ (x @ W_V[h]) @ W_O[h] for h in range(1, heads)), A[0] @ (x @ W_V[0]) @ W_O[0])


def concatenated() -> Tensor:
    """All heads side by side, one product at either end."""
    v = (x @ side_by_side).unflatten(-1, (heads, d_h)).transpose(0, 1)  # head pos d_head
    return (A @ v).transpose(0, 1).flatten(1) @ stacked


counted = {}
for form in (operators, sum_over_heads, concatenated):
    with FlopCounterMode(display=False) as flops, Made() as made:
        form()
    counted[form] = flops.get_total_flops(), made.tensors, made.bytes / 2**20
claim(
    flops_dense_over_concatenated=counted[operators][0] / counted[concatenated][0],
    flops_sum_over_concatenated=counted[sum_over_heads][0] / counted[concatenated][0],
    tensors_sum=counted[sum_over_heads][1],
    tensors_concatenated=counted[concatenated][1],
    bytes_sum_over_concatenated=counted[sum_over_heads][2] / counted[concatenated][2],
    stored_dense_over_factors=dense_OV.numel() / (W_V.numel() + W_O.numel()),
)
table(
    [
        ["each head multiplied out", *counted[operators]],
        ["sum over heads, factored", *counted[sum_over_heads]],
        ["concatenate, multiply once", *counted[concatenated]],
    ],
    header=["form", "FLOPs", "tensors made", "MiB made"],
)

# %% [markdown]
# ## Information that moves
#
# With the pattern frozen, the derivative of what position $i$ receives by what is at position $j$ is
# $\sum_h A^h_{ij} W_{OV}^h$. Autograd is the witness.

# %% moves
i, j = shown.index("ate"), shown.index("·st")


def received(at_j: Tensor, frozen: bool) -> Tensor:
    """What the layer writes at i, as a function of the stream at j."""
    x = torch.cat([stream[:j], at_j[None], stream[j + 1 :]])
    taps = [at("*.resid_pre", lambda _: x[None])]
    if frozen:
        taps.append(freeze({"blocks.0.attn.pattern": patterns[None]}))
    out = record(["*.attn_out", "*.pattern"])
    model(tokens, tap=compose(*taps, out))
    return out["blocks.0.attn_out"][0, i]


with torch.enable_grad():
    by_autograd = torch.func.jacrev(lambda at_j: received(at_j, frozen=True))(stream[j])  # out in
    both_ways = torch.func.jacrev(lambda at_j: received(at_j, frozen=False))(stream[j])
by_formula = torch.einsum("h,hab->ba", patterns[:, i, j], W_OV)
claim(
    jacobian_error=(by_autograd - by_formula).abs().max(),
    jacobian_through_pattern=(both_ways - by_formula).norm() / both_ways.norm(),
)

# %% [markdown]
# ## Only the products matter

# %% gauge
generator = torch.Generator().manual_seed(0)
R, S = (torch.randn(n_heads, d_head, d_head, generator=generator, dtype=torch.float64) for _ in range(2))
other = Transformer(config).double().requires_grad_(False)
other.load_state_dict(model.state_dict())
queries, keys, values = other.blocks[0].attn.W_QKV.view(3, n_heads, d_head, d_model)
queries.copy_(R.mT @ queries)  # W_Q R
keys.copy_(torch.linalg.inv(R) @ keys)  # W_K R⁻ᵀ
values.copy_(S.mT @ values)  # W_V S
other.blocks[0].attn.W_O.copy_(torch.linalg.inv(S) @ attn.W_O)  # S⁻¹ W_O
before, after = record("*.attn.k"), record("*.attn.k")
logits_before, logits_after = model(tokens, tap=before), other(tokens, tap=after)
k_before, k_after = before["blocks.0.attn.k"], after["blocks.0.attn.k"]
claim(
    gauge_logits=(logits_after - logits_before).abs().max(),
    gauge_keys=(k_after - k_before).norm() / k_before.norm(),
)

# %% [markdown]
# ## Rank

# %% rank
everywhere = record("*.result")
model(held_out[:64, :-1], tap=everywhere)
of_results = everywhere["blocks.0.attn.result"].flatten(0, 1)  # (batch pos) head d_model
ranks = {
    "W_QK": torch.linalg.matrix_rank(attn.W_QK().AB),
    "W_OV": torch.linalg.matrix_rank(W_OV),
    "results": torch.linalg.matrix_rank(of_results.transpose(0, 1), rtol=1e-10),
}
assert all((rank == rank[0]).all() for rank in ranks.values())
claim(
    rank_QK=ranks["W_QK"][0],
    rank_OV=ranks["W_OV"][0],
    rank_results=ranks["results"][0],
    result_vectors=len(of_results),
    numbers_dense=d_model**2,
    numbers_factored=2 * d_model * d_head,
)

# %% [markdown]
# ## Where heads read and write
#
# A head reads through the columns of $W_Q$, $W_K$ and $W_V$ and writes through the rows of $W_O$: four subspaces of 16
# dimensions each. For every pair of heads, the cosines of the 16 principal angles, against random subspaces.


# %% angles
def cosines(weights: Tensor) -> Tensor:
    """Cosines of principal angles [pair angle] between the column spaces of weights [head d_model d_head]."""
    Q, _ = torch.linalg.qr(weights)
    return torch.stack([torch.linalg.svdvals(Q[a].T @ Q[b]) for a, b in combinations(range(len(Q)), 2)])


spaces = {"W_Q reads": attn.W_Q, "W_K reads": attn.W_K, "W_V reads": attn.W_V, "W_O writes": attn.W_O.mT}
angles = {name: cosines(weights) for name, weights in spaces.items()}
at_random = torch.cat([cosines(torch.randn(n_heads, d_model, d_head, generator=generator).double()) for _ in range(10)])
index = torch.arange(1, d_head + 1)
for ax, (name, found) in zip(panels(2, 2, height=4.4, sharex=True, sharey=True).flat, angles.items(), strict=True):
    ax.fill_between(index, at_random.amin(0), at_random.amax(0), color=GREY, alpha=0.35, linewidth=0)
    lines(index, {"": found.mean(0)}, ax=ax, title=name, marker="o", colours=[BLUE])
    ax.fill_between(index, found.amin(0), found.amax(0), color=BLUE, alpha=0.2, linewidth=0)
    ax.set(ylim=(0, 1.03), xticks=[1, 8, 16], yticks=[0, 0.5, 1])

# %% overlaps
overlap = {name: found.square().mean() for name, found in angles.items()}
overlap_random = at_random.square().mean(dim=1)  # for each pair
claim(
    overlap_expected=d_head / d_model,
    overlap_random=overlap_random.mean(),
    overlap_random_most=overlap_random.max(),
    overlap_Q=overlap["W_Q reads"],
    overlap_K=overlap["W_K reads"],
    overlap_V=overlap["W_V reads"],
    overlap_O=overlap["W_O writes"],
    first_cosine_K=angles["W_K reads"][:, 0].mean(),
    first_cosine_random=at_random[:, 0].max(),
)

# %% [markdown]
# ## The direction that all keys share
#
# Everything in this section is measured on each of the three seeds, on the same 128 windows.


# %% position
def inside(weights: Tensor, unit: Tensor) -> Tensor:
    """The share of a unit vector [d_model] that lies in each head's subspace [head]."""
    Q, _ = torch.linalg.qr(weights)
    return (unit @ Q).square().sum(dim=-1)


def without(direction: Tensor, x: Tensor) -> Tensor:
    return x - (x @ direction)[..., None] * direction


def slope(y: Tensor) -> Tensor:
    """Per position, of a straight line through y [pos]."""
    place = torch.arange(len(y)).double()
    return torch.stack([place, y]).cov()[0, 1] / place.var()


def ruler_of(model: Transformer) -> Tensor:
    """The direction along which most of the position vectors' variance lies; it grows with the position."""
    centered = model.W_pos - model.W_pos.mean(dim=0)
    u = torch.linalg.svd(centered, full_matrices=False)[2][0]
    return u * (centered[-2] @ u).sign()  # the last position is never a past key, so it is left out


def keys_from(model: Transformer, x: Tensor) -> at:
    """A tap: the keys as they would be for another stream [batch pos d_model]."""
    return at("*.attn.k", lambda _: torch.einsum("bpm,hmk->bphk", x, model.blocks[0].attn.W_K))


def attention_by_distance(model: Transformer, x: Tensor) -> Tensor:
    """Mean attention to 1, …, 24 tokens back, over heads and late queries, with keys from the stream x."""
    seen = record("*.pattern")
    model(held_out[:, :-1], tap=compose(keys_from(model, x), seen))
    A = seen["blocks.0.attn.pattern"]  # batch head query key
    return torch.stack([A.diagonal(-back, 2, 3)[:, :, 24:].mean() for back in range(1, 25)])


generator = torch.Generator().manual_seed(0)
random_directions = F.normalize(torch.randn(5, d_model, generator=generator).double(), dim=1)


def measure(model: Transformer) -> dict[str, Tensor]:
    """The story of the position's direction, in numbers."""
    attn, u = model.blocks[0].attn, ruler_of(model)
    centered = model.W_pos - model.W_pos.mean(dim=0)
    ramp = (centered @ u)[:-1]
    strength = torch.linalg.svdvals(centered).square()
    flow = record(["*.resid_pre", "*.attn_out", "*.resid_post"])
    as_is = losses_of(model, held_out, flow)
    x = flow["blocks.0.resid_pre"]  # batch pos d_model
    profiles = {
        "all keys": attention_by_distance(model, x),
        "only u": attention_by_distance(model, x - without(u, x)),
        "without u": attention_by_distance(model, without(u, x)),
    }
    enters, heads_write, leaves = ((flow[f"blocks.0.{name}"] @ u).mean(dim=0)[:-1] for name in flow_names)
    gains = torch.einsum("m,hmn,n->h", u, attn.W_OV().AB, u)  # what a head makes of the coordinate along u
    logit_weights = model.W_U - model.W_U.mean(dim=1, keepdim=True)

    def cost(tap) -> Tensor:
        return losses_of(model, held_out, tap) - as_is  # window

    unread, *unread_random = (cost(keys_from(model, without(v, x))) for v in (u, *random_directions))
    unwritten, *unwritten_random = (
        cost(at("*.attn_out", lambda y, v=v: without(v, y))) for v in (u, *random_directions)
    )

    return {
        "u": u,
        "profiles": profiles,
        "flow": {"enters": enters, "heads write": heads_write, "leaves": leaves},
        "position vectors along u": strength[0] / strength.sum(),
        "straightness along u": torch.stack([torch.arange(len(ramp)).double(), ramp]).corrcoef()[0, 1],
        "u in keys, least": inside(attn.W_K, u).min(),
        "u in queries, most": inside(attn.W_Q, u).max(),
        "u in values, most": inside(attn.W_V, u).max(),
        "u in outputs, mean": inside(attn.W_O.mT, u).mean(),
        "mean stream in queries": inside(attn.W_Q, F.normalize(x.mean(dim=(0, 1)), dim=0)).mean(),
        "one back / 16 back": profiles["all keys"][0] / profiles["all keys"][15],
        "the same, only u": profiles["only u"][0] / profiles["only u"][15],
        "the same, without u": profiles["without u"][0] / profiles["without u"][15],
        "u hidden from keys": unread.mean(),
        "its standard error": error(unread),
        "random direction hidden, most": max(one.mean() for one in unread_random),
        "gain along u, greatest head": gains.max(),
        "gain along u, all heads": gains.sum(),
        "slope left": slope(leaves) / slope(enters),
        "unembedding along u": (u @ logit_weights).square().sum() / (logit_weights.square().sum() / d_model),
        "u not written": unwritten.mean(),
        "standard error of that": error(unwritten),
        "random direction not written, most": max(one.mean() for one in unwritten_random),
        "overlap of keys without u": cosines(
            attn.W_K - torch.einsum("m,n,hnk->hmk", u, u, attn.W_K)
        ).square().mean(),
    }


flow_names = ("resid_pre", "attn_out", "resid_post")
stories = [measure(model) for model in models]
story = stories[0]
u = story["u"]
claim(
    position_one_direction=story["position vectors along u"],
    position_straight=story["straightness along u"],
    u_in_keys_least=story["u in keys, least"],
    u_in_queries_most=story["u in queries, most"],
    u_in_values_most=story["u in values, most"],
    u_in_outputs_mean=story["u in outputs, mean"],
    overlap_K_without_u=story["overlap of keys without u"],
)

# %% position-seeds
rows = [name for name in story if name not in ("u", "profiles", "flow")]
table(
    [[name, *(float(one[name]) for one in stories)] for name in rows],
    header=["", "seed 0", "seed 1", "seed 2"],
    digits=2,
)

# %% [markdown]
# What does it do? Two interventions on the keys alone: keep only what comes through that direction, or remove it.

# %% recency
ax = panels(height=2.8)
ax.set(xticks=[1, 8, 16, 24])
lines(
    range(1, 25),
    story["profiles"],
    ax=ax,
    xlabel="tokens back",
    ylabel="mean attention",
    log="y",
    colours=[BLUE, ORANGE, GREY],
)
claim(
    recency_all=story["one back / 16 back"],
    recency_only_u=story["the same, only u"],
    recency_without_u=story["the same, without u"],
    loss_without_u=story["u hidden from keys"],
    loss_without_u_error=story["its standard error"],
    loss_without_random_most=story["random direction hidden, most"],
    mean_in_queries=story["mean stream in queries"],
)

# %% [markdown]
# And why do heads *write* along it? The mean coordinate along $u$ at each position: as it enters the layer, what all
# heads together write, and as it leaves.

# %% erasing
lines(
    range(n_ctx - 1),
    story["flow"],
    xlabel="position",
    ylabel="along u",
    colours=[BLUE, ORANGE, GREEN],
    height=2.6,
)
claim(
    erase_gain_greatest=story["gain along u, greatest head"],
    erase_gain_sum=story["gain along u, all heads"],
    ruler_left=story["slope left"],
    ruler_left_seeds_most=max(one["slope left"] for one in stories),
    unembedding_along_u=story["unembedding along u"],
    loss_without_erasing=story["u not written"],
    loss_without_erasing_error=story["standard error of that"],
    loss_without_random_write=story["random direction not written, most"],
)

# %% [markdown]
# ## Additive in the stream, not in the loss


# %% ablate
def silent(*heads: int) -> Tensor:
    """What it costs on held-out text that these heads write nothing; of each window."""
    tap = at("*.result", lambda result: result.index_fill(2, torch.tensor(heads), 0))  # batch pos head d_model
    return losses_of(model, held_out, tap) - loss_model


alone = torch.stack([silent(h) for h in range(n_heads)])  # head window
together = silent(*range(n_heads))
claim(
    loss_alone_least=alone.mean(dim=1).min(),
    loss_alone_most=alone.mean(dim=1).max(),
    loss_alone_error=max(error(one) for one in alone),
    loss_alone_sum=alone.mean(dim=1).sum(),
    loss_together=together.mean(),
    loss_together_error=error(together),
    sum_over_together=alone.mean(dim=1).sum() / together.mean(),
)

# %% [markdown]
# ## The freezing trick
#
# From one stream to another in a straight line. If the layer were linear, the logits would move in a straight line
# too. How far they leave it, as a share of the distance between the ends.

# %% freezing
elsewhere = record("*.resid_pre")
model(held_out[:1, : tokens.shape[1]], tap=elsewhere)
other_stream = elsewhere["blocks.0.resid_pre"]


def at_stream(x: Tensor, *taps) -> Tensor:
    return model(tokens, tap=compose(at("*.resid_pre", lambda _: x), *taps))


frozen = freeze({"blocks.0.attn.pattern": patterns[None]})
share_of_way = torch.linspace(0, 1, 21, dtype=torch.float64)
bends = {}
for name, taps in {"patterns computed": (), "patterns frozen": (frozen,)}.items():
    start, end = at_stream(stream[None], *taps), at_stream(other_stream, *taps)
    bends[name] = (
        torch.stack(
            [
                (at_stream(torch.lerp(stream[None], other_stream, t), *taps) - torch.lerp(start, end, t)).norm()
                for t in share_of_way
            ]
        )
        / (end - start).norm()
    )
ax = panels(height=2.6)
for (name, bend), colour, offset in zip(bends.items(), (ORANGE, BLUE), (-28, 12), strict=True):
    lines(share_of_way, {"": bend}, ax=ax, xlabel="share of the way", ylabel="distance from the line", colours=[colour])
    ax.annotate(name, (0.5, bend[10]), xytext=(0, offset), textcoords="offset points", ha="center", va="center")
claim(bend_computed=bends["patterns computed"].max(), bend_frozen=bends["patterns frozen"].max())

# %% [markdown]
# ## What frozen patterns buy: an exact account of one prediction

# %% account
answer = tokens[0, i + 1]
toward = (model.W_U - model.W_U.mean(dim=1, keepdim=True))[:, answer]  # logit of the answer against the mean logit
direct = stream[i] @ toward
account = torch.einsum("hj,jm,hmn,n->hj", patterns[:, i], stream, W_OV, toward)  # head source
total = logits[i, answer] - logits[i].mean()
claim(
    account_error=(direct + account.sum() - total).abs(),
    account_terms=account[:, : i + 1].numel(),
    account_direct=direct / total,
    account_words=account[:, [shown.index("·the"), j]].sum() / total,
    account_probability=logits[i].softmax(dim=-1)[answer],
)
heatmap(
    account[:, : i + 1],
    columns=shown[: i + 1],
    rows=[f"head {h}" for h in range(n_heads)],
    xlabel=f"source, seen from “{shown[i]}”",
    bar=f"logit for “{shown[i + 1]}”",
)

# %% [markdown]
# ## As a sum of tensor products
#
# The layer on this sentence as one operator: how many tensor products it takes, and how near one alone can come.

# %% kronecker
rearranged = FactoredMatrix(patterns.flatten(1).T, W_OV.mT.flatten(1))  # Σ_h vec(A) vec(W_OVᵀ)ᵀ
spectrum = rearranged.singular_values()
claim(
    kronecker_rank=int((spectrum > 1e-10 * spectrum[0]).sum()),
    one_term_misses=1 - spectrum[0] ** 2 / spectrum.square().sum(),
)
