# %% [markdown]
# # Attention heads
#
# The computations behind the note of the same name. A one-layer attention-only model is trained on the State of
# the Union addresses, here in this notebook, and then taken apart in float64.

# %% setup
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from residual import Config, FactoredMatrix, Transformer
from residual.files.tokens import tokenizer, words
from residual.methods.loss import next_token_loss
from residual.plot import BLUE, GREEN, GREY, ORANGE, attention, heatmap, lines, panels, table
from residual.taps import at, compose, freeze, record
from residual.training.corpus import corpus
from residual.training.train import train, windows
from weave import claim

# %% [markdown]
# ## A model to take apart
#
# Eight heads of 16 dimensions in a stream of 128: together the heads are as wide as the stream, as in GPT-2.

# %% train
config = Config(n_layers=1, d_model=128, n_heads=8, d_head=16, n_ctx=64, d_vocab=512, init_std=0.05)
text = corpus()
model = Transformer(config, seed=0)
steps, batch = 600, 32


def loss(step: int) -> Tensor:
    return next_token_loss(model, windows(text.train, batch, config.n_ctx + 1, step=step))


train(model, loss, steps=steps, lr=2e-2, warmup=20, weight_decay=0.01)

model = model.double().requires_grad_(False)
attn = model.blocks[0].attn
n_heads, d_model, d_head = config.n_heads, config.d_model, config.d_head

# %% losses
held_out = windows(text.validation, 64, config.n_ctx + 1, seed=1)
loss_model = next_token_loss(model, held_out)

pairs = text.train[:-1] * config.d_vocab + text.train[1:]
counts = torch.bincount(pairs, minlength=config.d_vocab**2).reshape(config.d_vocab, -1) + 1.0  # one for each unseen
log_bigram = (counts / counts.sum(dim=1, keepdim=True)).log().double()
loss_bigram = F.nll_loss(log_bigram[held_out[:, :-1]].flatten(0, 1), held_out[:, 1:].flatten())
claim(
    parameters=sum(weight.numel() for weight in model.parameters()),
    tokens_seen=steps * batch * config.n_ctx,
    loss_model=loss_model,
    gain_over_bigrams=loss_bigram - loss_model,
)

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


by_autograd = torch.func.jacrev(lambda at_j: received(at_j, frozen=True))(stream[j])  # out in
by_formula = torch.einsum("h,hab->ba", patterns[:, i, j], W_OV)
whole = torch.func.jacrev(lambda at_j: received(at_j, frozen=False))(stream[j])
claim(
    jacobian_error=(by_autograd - by_formula).abs().max(),
    jacobian_through_pattern=(whole - by_formula).norm() / whole.norm(),
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
model(held_out[:, :-1], tap=everywhere)
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

# %% position
centred = model.W_pos - model.W_pos.mean(dim=0)
_, strength, right = torch.linalg.svd(centred, full_matrices=False)
along = centred @ right[0]  # pos
u = right[0] * along[-2].sign()  # grows with the position; the last one is never a past key, so it is left out
ramp = centred[:-1] @ u
line = torch.stack([torch.arange(len(ramp)).double(), ramp])


def inside(weights: Tensor, unit: Tensor) -> Tensor:
    """The share of a unit vector [d_model] that lies in each head's subspace [head]."""
    Q, _ = torch.linalg.qr(weights)
    return (unit @ Q).square().sum(dim=-1)


share = {name: inside(weights, u) for name, weights in spaces.items()}
rest = attn.W_K - torch.einsum("m,n,hnk->hmk", u, u, attn.W_K)  # the keys' maps without that direction
claim(
    position_one_direction=strength[0] ** 2 / strength.square().sum(),
    position_straight=line.corrcoef()[0, 1],
    u_in_keys_least=share["W_K reads"].min(),
    u_in_queries_most=share["W_Q reads"].max(),
    u_in_values_most=share["W_V reads"].max(),
    u_in_outputs_mean=share["W_O writes"].mean(),
    overlap_K_without_u=cosines(rest).square().mean(),
)

# %% [markdown]
# What does it do? Two interventions on the keys alone: keep only what comes through that direction, or remove it.

# %% recency
pre = record("*.resid_pre")
model(held_out[:, :-1], tap=pre)
x_held = pre["blocks.0.resid_pre"]  # batch pos d_model


def keys_of(x: Tensor) -> at:
    """A tap: the keys as they would be for another stream [batch pos d_model]."""
    return at("*.attn.k", lambda _: torch.einsum("bpm,hmk->bphk", x, attn.W_K))


def lose(direction: Tensor) -> Tensor:
    """The held-out loss when the keys do not see a direction."""
    tap = keys_of(x_held - torch.outer(direction, direction).matmul(x_held[..., None])[..., 0])
    return F.cross_entropy(model(held_out[:, :-1], tap=tap).flatten(0, 1), held_out[:, 1:].flatten()) - loss_model


along_u = (x_held @ u)[..., None] * u
profiles = {}
for name, x in {"all keys": x_held, "only u": along_u, "without u": x_held - along_u}.items():
    patterns_seen = record("*.pattern")
    model(held_out[:, :-1], tap=compose(keys_of(x), patterns_seen))
    A_held = patterns_seen["blocks.0.attn.pattern"]  # batch head query key
    profiles[name] = torch.stack([A_held.diagonal(-back, 2, 3)[:, :, 24:].mean() for back in range(1, 25)])
ax = panels(height=2.8)
ax.set(xticks=[1, 8, 16, 24])
lines(
    range(1, 25), profiles, ax=ax, xlabel="tokens back", ylabel="mean attention", log="y", colours=[BLUE, ORANGE, GREY]
)
random_directions = F.normalize(torch.randn(10, d_model, generator=generator).double(), dim=1)
claim(
    recency_all=profiles["all keys"][0] / profiles["all keys"][15],
    recency_only_u=profiles["only u"][0] / profiles["only u"][15],
    recency_without_u=profiles["without u"][0] / profiles["without u"][15],
    loss_without_u=lose(u),
    loss_without_random_most=torch.stack([lose(v) for v in random_directions]).max(),
    mean_in_queries=inside(attn.W_Q, F.normalize(x_held.mean(dim=(0, 1)), dim=0)).mean(),
)

# %% [markdown]
# And why do heads *write* along it? The mean coordinate along $u$ at each position: as it enters the layer, what all
# heads together write, and as it leaves.

# %% erasing
flow = record(["*.resid_pre", "*.attn_out", "*.resid_post"])
model(held_out[:, :-1], tap=flow)
coordinate = {
    "enters": (flow["blocks.0.resid_pre"] @ u).mean(dim=0)[:-1],  # pos
    "heads write": (flow["blocks.0.attn_out"] @ u).mean(dim=0)[:-1],
    "leaves": (flow["blocks.0.resid_post"] @ u).mean(dim=0)[:-1],
}
lines(
    range(len(ramp)),
    coordinate,
    xlabel="position",
    ylabel="along u",
    colours=[BLUE, ORANGE, GREEN],
    height=2.6,
)


def slope(y: Tensor) -> Tensor:
    x = torch.arange(len(y)).double()
    return torch.stack([x, y]).cov()[0, 1] / x.var()


def loss_with(tap) -> Tensor:
    return F.cross_entropy(model(held_out[:, :-1], tap=tap).flatten(0, 1), held_out[:, 1:].flatten())


def not_along(direction: Tensor) -> at:
    """A tap: the heads write nothing along a direction."""
    return at("*.attn_out", lambda x: x - (x @ direction)[..., None] * direction)


gains = torch.einsum("m,hmn,n->h", u, W_OV, u)  # what a head makes of the coordinate along u
logit_weights = model.W_U - model.W_U.mean(dim=1, keepdim=True)
claim(
    erase_gain_greatest=gains.max(),
    erase_gain_sum=gains.sum(),
    ruler_left=slope(coordinate["leaves"]) / slope(coordinate["enters"]),
    unembedding_along_u=(u @ logit_weights).square().sum() / (logit_weights.square().sum() / d_model),
    loss_without_erasing=loss_with(not_along(u)) - loss_model,
    loss_without_random_write=torch.stack([loss_with(not_along(v)) - loss_model for v in random_directions]).max(),
)

# %% [markdown]
# ## Additive in the stream, not in the loss


# %% ablate
def without(*heads: int) -> Tensor:
    """The loss on held-out text when these heads write nothing."""

    def silence(result: Tensor) -> Tensor:  # batch pos head d_model
        return result.index_fill(2, torch.tensor(heads), 0)

    held = held_out[:, :-1]
    return F.cross_entropy(model(held, tap=at("*.result", silence)).flatten(0, 1), held_out[:, 1:].flatten())


alone = torch.stack([without(h) - loss_model for h in range(n_heads)])
together = without(*range(n_heads)) - loss_model
claim(
    loss_alone_least=alone.min(),
    loss_alone_sum=alone.sum(),
    loss_together=together,
    sum_over_together=alone.sum() / together,
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
