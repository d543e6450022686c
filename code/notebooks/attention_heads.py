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
from residual.methods.roles import value_norms, value_weighted_pattern
from residual.plot import BLUE, GREEN, GREY, ORANGE, attention, heatmap, lines, panels, table
from residual.taps import ablate, at, compose, freeze, record
from residual.training.corpus import corpus, sotu_texts, split
from residual.training.train import windows
from weave import claim

_ = torch.set_grad_enabled(False)

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
    return (
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(tokens), -1).mean(1)
    )


def error(x: Tensor) -> Tensor:
    """The standard error of a mean over windows."""
    return x.std() / len(x) ** 0.5


whole = torch.cat([losses_of(runs[0].model, part) for part in validation.split(512)])  # in float32
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
    loss_model=whole.mean(),
    loss_error=error(whole),
    loss_bigram=by_bigram.mean(),
    gain_over_bigrams=(by_bigram - whole).mean(),
)
held_out = windows(text.validation, 128, n_ctx + 1)  # what the measurements below are made on
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
axes = panels(2, 2, height=4.4, sharex=True, sharey=True)
for ax, (name, found) in zip(axes.flat, angles.items(), strict=True):
    ax.fill_between(index, at_random.amin(0), at_random.amax(0), color=GREY, alpha=0.35, linewidth=0)
    lines(index, {"": found.mean(0)}, ax=ax, title=name, marker="o", colours=[BLUE])
    ax.fill_between(index, found.amin(0), found.amax(0), color=BLUE, alpha=0.2, linewidth=0)
    ax.set(ylim=(0, 1.03), xticks=[1, 8, 16], yticks=[0, 0.5, 1])
for ax in axes[1]:
    ax.set(xlabel="principal angle")
for ax in axes[:, 0]:
    ax.set(ylabel="cosine")

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
    """Mean attention to 1, …, 24 tokens back, over heads and queries from 24 on, with keys from the stream x."""
    seen = record("*.pattern")
    model(held_out[:, :-1], tap=compose(keys_from(model, x), seen))
    A = seen["blocks.0.attn.pattern"]  # batch head query key
    return torch.stack([A.diagonal(-back, 2, 3)[:, :, 24 - back :].mean() for back in range(1, 25)])


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
    # a stricter control than random directions, which the stream hardly uses: its longest axes besides u
    spread = without(u, x - x.mean(dim=(0, 1))).flatten(0, 1)
    long_axes = torch.linalg.eigh(spread.T @ spread).eigenvectors.flip(1).T[:3]
    unread_axes = [cost(keys_from(model, without(v, x))).mean() for v in long_axes]
    unwritten_axes = [cost(at("*.attn_out", lambda y, v=v: without(v, y))).mean() for v in long_axes]

    def constant(direction: Tensor) -> Tensor:
        """The cost when the final stream has the same coordinate along a direction everywhere."""
        mean = (flow["blocks.0.resid_post"] @ direction).mean()
        return cost(at("*.resid_post", lambda y: without(direction, y) + mean * direction)).mean()

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
        "three longest other axes hidden, most": max(unread_axes),
        "gain along u, greatest head": gains.max(),
        "gain along u, all heads": gains.sum(),
        "slope left": slope(leaves) / slope(enters),
        "unembedding along u": (u @ logit_weights).square().sum() / (logit_weights.square().sum() / d_model),
        "u not written": unwritten.mean(),
        "standard error of that": error(unwritten),
        "random direction not written, most": max(one.mean() for one in unwritten_random),
        "three longest other axes not written, most": max(unwritten_axes),
        "u constant at the end": constant(u),
        "three longest other axes constant at the end, least": min(map(constant, long_axes)),
        "overlap of keys without u": cosines(attn.W_K - torch.einsum("m,n,hnk->hmk", u, u, attn.W_K)).square().mean(),
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
    loss_without_axes_most=story["three longest other axes hidden, most"],
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
    loss_without_axes_write=story["three longest other axes not written, most"],
    loss_constant=story["u constant at the end"],
    loss_constant_axes=story["three longest other axes constant at the end, least"],
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


def shares_of(model: Transformer) -> dict[str, Tensor]:
    """The shares of the same logit that the heads bring from “·the” and from “·st”."""
    seen, attn = record(["*.pattern", "*.resid_pre"]), model.blocks[0].attn
    found = model(tokens, tap=seen)[0, i]
    towards = (model.W_U - model.W_U.mean(dim=1, keepdim=True))[:, answer]
    A, x = seen["blocks.0.attn.pattern"][0, :, i], seen["blocks.0.resid_pre"][0]
    brought = torch.einsum("hj,jm,hmn,n->j", A, x, attn.W_OV().AB, towards) / (found[answer] - found.mean())
    return {"the": brought[shown.index("·the")], "st": brought[j]}


shares = [shares_of(one) for one in models]
claim(
    account_error=(direct + account.sum() - total).abs(),
    account_terms=account[:, : i + 1].numel(),
    account_direct=direct / total,
    account_words=account[:, [shown.index("·the"), j]].sum() / total,
    account_the=shares[0]["the"],
    account_st=shares[0]["st"],
    account_words_1=shares[1]["the"] + shares[1]["st"],
    account_words_2=shares[2]["the"] + shares[2]["st"],
    account_st_1=shares[1]["st"],
    account_st_2=shares[2]["st"],
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

# %% [markdown]
# ## Weighing a pattern by what it moves
#
# $A_{ij}$ times the length of what source $j$ offers, $|x_j W_{OV}|$, each row scaled to sum to one again.

# %% value-weighted
offered = torch.einsum("jm,hmn->hjn", stream, W_OV).norm(dim=-1)  # head source
weighted = value_weighted_pattern(model, tokens, 0, normalize=True)[0]
assert torch.allclose(weighted, F.normalize(patterns * offered[:, None], p=1, dim=-1))
moved = 0.5 * (weighted - patterns).abs().sum(dim=-1)  # head query: the share of the row that changes its place
h = int(moved.mean(dim=-1).argmax())
attention(torch.stack([patterns[h], weighted[h]]), tokens=shown, titles=[f"head {h}", "value-weighted"], limit=0.8)
claim(
    value_weight_head=h,
    value_weight_moved=moved[h].mean(),
    value_weight_moved_mean=moved.mean(),
    value_weight_spread=(offered.amax(dim=1) / offered.amin(dim=1)).mean(),
)

# %% [markdown]
# ## A real model: where do 270 heads look?
#
# SmolLM2, 30 layers of nine heads, on stretches of held-out speeches and on random tokens that repeat once. For each
# head the mean attention to five kinds of sources; by attention, by value-weighted attention, and as a share of what
# does not go to the first position.

# %% smollm2
language, its_tokenizer = smollm2()
its = language.config
speeches = split(sotu_texts())[1]


def opened(speeches: list[str], length: int) -> Tensor:
    """So many tokens of each, from an arbitrary place on [speech pos]."""
    return torch.tensor([its_tokenizer.encode(speech[2000:8000]).ids[:length] for speech in speeches])


its_text = opened(speeches[:8], 97)
draw = torch.Generator().manual_seed(0)
period = 36
drawn = torch.randint(100, its.d_vocab, (8, period), generator=draw)  # the first hundred are special or bytes
its_random = torch.cat([drawn, drawn], dim=1)
ROLES = ["first position", "itself", "the token before", "same token before", "what followed it"]


def sources(tokens: Tensor) -> Tensor:
    """Of which kind each source is, for each destination [role batch query key]; all of them in the past."""
    n = tokens.shape[1]
    at_first = torch.zeros(n, n)
    at_first[:, 0] = 1
    same = (tokens[:, :, None] == tokens[:, None, :]).tril(-1)
    after_same = F.pad(same, (1, 0))[:, :, :-1].tril(-1)
    fixed = [at_first, torch.eye(n), torch.eye(n).roll(1, 0).tril(-1)]
    return torch.stack([*(kind.expand(len(tokens), n, n) for kind in fixed), same.float(), after_same.float()])


class Zoo:
    """A tap: each head's mean share of attention to each kind of source, weighed in three ways."""

    def __init__(self, tokens: Tensor) -> None:
        self.kinds = sources(tokens)
        self.counted = self.kinds.amax(dim=-1)  # role batch query: where there is such a source
        self.counted[:, :, :2] = 0
        self.roles, self.alike, self.drain, self.streams = [], [], [], []

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if name.endswith("resid_pre"):
            self.streams.append(x)
            return x
        if name.endswith(".v"):
            attn = language.blocks[len(self.roles)].attn
            self.size = value_norms(attn, x)  # batch head key
            return x
        rest = x.clone()
        rest[..., 0] = 0
        weighed = torch.stack([x, x * self.size[:, :, None], rest])  # weighing batch head query key
        weighed = weighed / weighed.sum(dim=-1, keepdim=True).clamp(min=1e-9)
        paid = torch.einsum("wbhqk,rbqk,rbq->whr", weighed, self.kinds, self.counted)
        self.roles.append(paid / self.counted.sum(dim=(1, 2)))
        late = weighed[2][:, :, 8:]
        self.alike.append(
            torch.stack([torch.minimum(late[:, a], late[:, b]).sum(-1).mean() for a, b in combinations(range(9), 2)])
        )
        self.drain.append(self.size[:, :, 1:].mean(dim=(0, 2)) / self.size[:, :, 0].mean(dim=0))
        return x

    def resolve(self, known: list[str]) -> frozenset[str]:
        return frozenset(name for name in known if name.endswith(("resid_pre", ".v", ".pattern")))


def loss_at_each(logits: Tensor, tokens: Tensor) -> Tensor:
    """The loss at each position [batch pos]."""
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(tokens), -1)


on_text, on_random = Zoo(its_text[:, :-1]), Zoo(its_random[:, :-1])
text_loss, random_loss = (
    loss_at_each(language(tokens[:, :-1], tap=zoo), tokens)
    for zoo, tokens in ((on_text, its_text), (on_random, its_random))
)
by_text, by_random = (torch.stack(zoo.roles, dim=1) for zoo in (on_text, on_random))  # weighing layer head role
text_chance, random_chance = (
    ((zoo.kinds.sum(-1) / torch.arange(1, zoo.kinds.shape[2] + 1)) * zoo.counted).sum((1, 2)) / zoo.counted.sum((1, 2))
    for zoo in (on_text, on_random)
)  # role: what attention spread evenly over the past would pay

# %% roles
attended, weighted_by_value, not_first = by_text
named = by_text[0] > 0.5
counted_for = [*by_text, *by_random[:2]]  # text: attention, weighted, without first; random: attention, weighted
counts = [[role, *(int((by[..., r] > 0.5).sum()) for by in counted_for)] for r, role in enumerate(ROLES)]
counts.append(["none of these", *(int((by.amax(dim=-1) <= 0.5).sum()) for by in counted_for)])
for r, row in enumerate(counts[:-1]):
    row.append(int(((by_text[0, ..., r] > 0.5) & (by_random[0, ..., r] > 0.5)).sum()))
counts[-1].append(int(((by_text[0].amax(dim=-1) <= 0.5) & (by_random[0].amax(dim=-1) <= 0.5)).sum()))
claim(
    its_heads=its.n_layers * its.n_heads,
    its_text_loss=text_loss.mean(),
    resting=counts[0][1],
    resting_weighted=counts[0][2],
    resting_least_third=int((by_text[0, ..., 0] > 0.3).sum()),
    with_role=int(named.any(-1).sum()),
    with_role_not_first=int(named[..., 1:].any(-1).sum()),
    with_role_weighted=int((by_text[1] > 0.5).any(-1).sum()),
    none_text=counts[5][1],
    none_weighted=counts[5][2],
    none_not_first=counts[5][3],
    none_anywhere=counts[5][-1],
    none_third=int((by_text[0].amax(-1) <= 0.3).sum()),
    even_most=torch.stack([text_chance, random_chance]).max(),
    resting_gap=(by_text[0, ..., 0] - 0.5).abs().min(),
    followers_text=counts[4][1],
    followers_random=counts[4][4],
    followers_not_first=counts[4][3],
    drain_late=torch.stack(on_text.drain)[12:].median(),
    drain_between=torch.stack(on_text.drain)[10:12].median(),
)
table(
    counts,
    header=["more than half goes to", "text", "weighted", "without first", "random", "random, weighted", "both"],
)

# %% zoo
rows = []
for r, role in enumerate(ROLES):
    score = by_text if r < 3 else by_random
    for place in score[0, ..., r].flatten().argsort(descending=True)[:3].tolist():
        layer, head = divmod(place, its.n_heads)
        rows.append(
            [
                f"{layer}.{head}",
                role,
                *(float(by_text[w, layer, head, r]) for w in range(3)),
                *(float(by_random[w, layer, head, r]) for w in range(2)),
                float(by_text[0, layer, head, 0]),
            ]
        )


def score_of(name: str, role: int, by: Tensor, weighing: int = 0) -> Tensor:
    layer, head = map(int, name.split("."))
    return by[weighing, layer, head, role]


claim(
    head_160_text=score_of("16.0", 2, by_text),
    head_160_random=score_of("16.0", 2, by_random),
    head_187_follows=score_of("18.7", 4, by_random),
    head_187_rests=score_of("18.7", 0, by_text),
    head_186_follows=score_of("18.6", 4, by_random),
    head_186_follows_text=score_of("18.6", 4, by_text),
    head_186_rests=score_of("18.6", 0, by_text),
    head_143_same=score_of("14.3", 3, by_random),
    head_143_same_text=score_of("14.3", 3, by_text),
    best_follower_text=by_text[0, ..., 4].max(),
)
table(
    rows,
    header=["head", "looks at", "text", "weighted", "without first", "random", "weighted", "first, on text"],
    digits=2,
)

# %% sink-map
for ax, (title, values) in zip(
    panels(2, 1, height=3.6, sharex=True),
    {"attention to the first position": by_text[0, ..., 0], "the same, value-weighted": by_text[1, ..., 0]}.items(),
    strict=True,
):
    heatmap(values.T, ax=ax, title=title, ylabel="head", xlabel="layer" if "same" in title else "", limit=1.0, bar=None)
    ax.set_aspect("auto")
long = record("*.pattern")
language.run_to(opened(speeches[:3], 400), 10, tap=long)
first_early_long = torch.stack([long[f"blocks.{layer}.attn.pattern"][:, :, 2:, 0].mean() for layer in range(3, 10)])
bands = ((0, 3), (3, 10), (10, 12), (12, 30))
in_band, in_band_random = (torch.stack([by[0, a:b, :, 0].mean() for a, b in bands]) for by in (by_text, by_random))
claim(
    first_before=in_band[0],
    first_early=in_band[1],
    first_between=in_band[2],
    first_late=in_band[3],
    first_early_random=in_band_random[1],
    first_early_long=first_early_long.mean(),
    first_late_random=in_band_random[3],
)

# %% [markdown]
# ### What resting is worth
#
# The heads that pay more than half of their attention to the first position, with that attention dropped, kept at its
# mean, replaced by an amount and a value from other speeches, or shared out over the other sources. The last is done to
# parts of these heads, to as many heads drawn at random, and to all heads at once, too.


# %% resting
def paid_to(source: int, heads: Tensor, how: str):
    """A tap: change what the marked heads [layer head] pay to one position, from all later ones."""

    def change(name: str, x: Tensor) -> Tensor:
        marked = heads[int(name.split(".")[1])]
        y = x.clone()
        usual = x[:, marked, source + 2 :, source].mean(dim=(0, 2))[None, :, None]
        y[:, marked, source + 1 :, source] = usual if how == "mean" else 0
        return y / y.sum(dim=-1, keepdim=True).clamp(min=1e-12) if how == "elsewhere" else y

    change.resolve = lambda known: frozenset(name for name in known if name.endswith(".pattern"))
    return change


class From:
    """A tap: what the marked heads [layer head] fetch at the first position is an average of other speeches."""

    def __init__(self, heads: Tensor, others) -> None:
        self.heads, self.others = heads, others

    def resolve(self, known: list[str]) -> frozenset[str]:
        return frozenset(name for name in known if name.endswith((".pattern", ".z")))

    def __call__(self, name: str, x: Tensor) -> Tensor:
        place = name.rpartition(".")[0]
        marked = self.heads[int(name.split(".")[1])]
        x = x.clone()
        if name.endswith(".pattern"):
            x[:, marked, 1:, 0] = 0
            return x
        amount = self.others[f"{place}.pattern"][:, :, 2:, 0].mean(dim=(0, 2))  # head
        value = self.others[f"{place}.v"][:, 0].mean(dim=0).repeat_interleave(its.n_heads // its.kv_heads, dim=0)
        x[:, 1:, marked] += (amount[:, None] * value)[marked]
        return x


def worth(found: Tensor, before: Tensor, counted: slice) -> tuple[float, float]:
    """The mean change of the loss over sequences, and its standard error."""
    change = (found - before)[:, counted].mean(dim=1)
    return change.mean().item(), error(change).item()


LENGTH = 65  # the costs are measured on the beginning of each stretch


def on_text_with(tap, start: int = 0) -> tuple[float, float]:
    """The cost of a change on text, which begins at that layer."""
    logits = language.run_from(start, on_text.streams[start][:, : LENGTH - 1], tap=tap)
    return worth(loss_at_each(logits, its_text[:, :LENGTH]), text_loss[:, : LENGTH - 1], slice(1, None))


def some_of(heads: Tensor, number: int) -> Tensor:
    """That many of the marked heads, drawn at random [layer head]."""
    places = heads.flatten().nonzero()[:, 0]
    chosen = torch.zeros(heads.numel(), dtype=torch.bool)
    chosen[places[torch.randperm(len(places), generator=drawing)[:number]]] = True
    return chosen.view_as(heads)


elsewhere = record(["*.pattern", "*.v"])
language.run_to(opened(speeches[8:16], LENGTH - 1), its.n_layers, tap=elsewhere)
drawing = torch.Generator().manual_seed(0)
rest_heads = by_text[0, ..., 0] > 0.5
every_head = torch.ones_like(rest_heads)
n_rest = int(rest_heads.sum())
first_rest = int(rest_heads.any(dim=1).nonzero()[0])
changes = {
    "dropped": ("resting heads: dropped", paid_to(0, rest_heads, "dropped")),
    "mean": ("resting heads: its mean", paid_to(0, rest_heads, "mean")),
    "other": ("resting heads: amount and value of other speeches", From(rest_heads, elsewhere)),
    "elsewhere": ("resting heads: look elsewhere", paid_to(0, rest_heads, "elsewhere")),
    "half": ("half of them: look elsewhere", paid_to(0, some_of(rest_heads, n_rest // 2), "elsewhere")),
    "quarter": ("a quarter of them: look elsewhere", paid_to(0, some_of(rest_heads, n_rest // 4), "elsewhere")),
    **{
        f"random_{turn}": (
            f"as many of all heads, drawn ({turn}): look elsewhere",
            paid_to(0, some_of(every_head, n_rest), "elsewhere"),
        )
        for turn in (1, 2, 3)
    },
    "all": ("all heads: look elsewhere", paid_to(0, every_head, "elsewhere")),
}
costs = {
    name: on_text_with(tap, 0 if name.startswith(("random", "all")) else first_rest)
    for name, (_, tap) in changes.items()
}
shorter = loss_at_each(language(its_text[:, 1 : LENGTH - 1]), its_text[:, 1:LENGTH])
costs["shorter"] = worth(shorter, text_loss[:, 1 : LENGTH - 1], slice(None))
drawn_costs = [costs[f"random_{turn}"][0] for turn in (1, 2, 3)]
claim(
    rest_dropped=costs["dropped"][0],
    rest_dropped_error=costs["dropped"][1],
    rest_mean=costs["mean"][0],
    rest_mean_error=costs["mean"][1],
    rest_other=costs["other"][0],
    rest_other_error=costs["other"][1],
    rest_elsewhere=costs["elsewhere"][0],
    rest_elsewhere_error=costs["elsewhere"][1],
    rest_half=costs["half"][0],
    rest_quarter=costs["quarter"][0],
    rest_drawn_least=min(drawn_costs),
    rest_drawn_most=max(drawn_costs),
    rest_all_elsewhere=costs["all"][0],
    rest_all_error=costs["all"][1],
    rest_shorter=costs["shorter"][0],
)
labels = {**{name: label for name, (label, _) in changes.items()}, "shorter": "(the text without its first token)"}
table(
    [[labels[name], *cost] for name, cost in costs.items()],
    header=["what is paid to the first position", "cost", "±"],
    digits=2,
)

# %% [markdown]
# ### What the named heads are worth
#
# Eight heads at a time with their mean output, on text and on random tokens: the first time, and when they repeat.


# %% named
def at_mean(places: list[int]):
    by_layer = {}
    for place in places:
        by_layer.setdefault(place // its.n_heads, []).append(place % its.n_heads)
    return compose(
        *(
            ablate(f"blocks.{layer}.attn.z", "mean", heads=heads, across_positions=True)
            for layer, heads in by_layer.items()
        )
    )


groups = {
    role: (by_text if r < 3 else by_random)[0, ..., r].flatten().argsort(descending=True)[:8].tolist()
    for r, role in enumerate(ROLES)
}
taken = set().union(*groups.values())
others = torch.tensor([place for place in range(its.n_layers * its.n_heads) if place not in taken])
for turn in range(8):
    groups[f"eight others, drawn ({turn + 1})"] = others[torch.randperm(len(others), generator=draw)[:8]].tolist()
repeat = slice(period, None)  # predictions of tokens that stood one period before
half = slice(0, 4)  # of the random sequences
rows, value = [], {}
for turn, (name, places) in enumerate(groups.items()):
    tap, start = at_mean(places), min(places) // its.n_heads
    with_random = loss_at_each(language.run_from(start, on_random.streams[start][half], tap=tap), its_random[half])
    value[name] = {
        "first time": worth(with_random, random_loss[half], slice(1, period - 1)),
        "repeat": worth(with_random, random_loss[half], repeat),
    }
    if turn < 7:  # of the drawn ones, two on text
        value[name]["text"] = on_text_with(tap, start)
    which = " ".join(f"{place // its.n_heads}.{place % its.n_heads}" for place in places)
    costs_of = (value[name].get(kind) for kind in ("text", "first time", "repeat"))
    rows.append([name, which, *("" if cost is None else f"{cost[0]:.2f} ± {cost[1]:.2f}" for cost in costs_of)])
by_draw = sorted(value[name]["repeat"] for name in list(value)[5:])
at_first, at_itself, at_previous, at_same, at_following = (value[role] for role in ROLES)
claim(
    resting_eight_text=at_first["text"][0],
    resting_eight_repeat=at_first["repeat"][0],
    previous_eight_text=at_previous["text"][0],
    previous_eight_text_error=at_previous["text"][1],
    previous_eight_repeat=at_previous["repeat"][0],
    same_eight_text=at_same["text"][0],
    same_eight_repeat=at_same["repeat"][0],
    following_eight_text=at_following["text"][0],
    following_eight_repeat=at_following["repeat"][0],
    itself_eight_text=at_itself["text"][0],
    draws=len(by_draw),
    other_eight_repeat_most=by_draw[-1][0],
    other_eight_repeat_error=by_draw[-1][1],
    other_eight_repeat_next=by_draw[-2][0],
    shared_rest_follow=len(set(groups[ROLES[0]]) & set(groups[ROLES[4]])),
)
table(rows, header=["the eight that most look at", "heads", "text", "random, first time", "repeated"])

# %% [markdown]
# ### Three heads, one key
#
# In each layer three query heads share the keys and values of one key head. How alike are the patterns of heads that
# share, and of heads that do not? The common part of two rows, $\sum_j \min(A_{ij}, A'_{ij})$, without the first
# position.

# %% sharing
alike = torch.stack(on_text.alike)  # layer pair
sharing = torch.tensor([a // 3 == b // 3 for a, b in combinations(range(9), 2)])
within, across = alike[:, sharing].mean(dim=1), alike[:, ~sharing].mean(dim=1)  # layer
claim(
    alike_within=within.mean(),
    alike_across=across.mean(),
    alike_layers=(int((within > across).sum()), its.n_layers),
    alike_difference_error=error(within - across),
)
