# %% [markdown]
# # Einstein notation
#
# The computations behind the note of the same name: what an index says, which slips of the pen an expression
# survives, what the order of a contraction costs, and a transformer block written in named axes.

# %% setup
import itertools
import math
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce
from matplotlib.axes import Axes
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from residual import Config, Transformer
from residual.plot import BLUE, GREEN, GREY, ORANGE, VIOLET, lines, panels, table
from residual.taps import record
from weave import claim

generator = torch.Generator().manual_seed(0)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# %% [markdown]
# ## An axis that has no name
#
# The queries of four heads for a batch of sequences, by `x @ W_Q`. The matrix product looks at the last two axes
# and pairs the others by where they stand.

# %% no-name
heads, pos, d_model, d_head = 4, 5, 8, 3
W_Q = draw(heads, d_model, d_head)
rows = []
for sequences in (1, 3, 4):
    x = draw(sequences, pos, d_model)
    wanted = einsum(x, W_Q, "batch pos d_model, head d_model d_head -> batch head pos d_head")
    try:
        got = x @ W_Q
    except RuntimeError:
        rows.append([sequences, "an error", 0, sequences * heads])
        continue
    there = [
        (b, h) for b, h in itertools.product(range(sequences), range(heads)) for g in got if g.allclose(wanted[b, h])
    ]
    rows.append([sequences, "×".join(map(str, got.shape)), len(there), sequences * heads])
claim(pairs_computed=tuple(rows[-1][2:]), pairs_with_one_sequence=tuple(rows[0][2:]))
table(rows, header=["sequences", "shape of x @ W_Q", "queries computed", "wanted"])

# %% [markdown]
# ## Drawn
#
# A factor is a disk, a name is a line: a bound one joins two disks, a free one ends in the open.

# %% networks
networks = panels(2, 2, height=3.3)


def disk(ax: Axes, x: float, y: float, name: str) -> None:
    shape = {"boxstyle": "circle,pad=0.3", "facecolor": "none", "edgecolor": BLUE, "linewidth": 1.4}
    ax.text(x, y, name, ha="center", va="center", bbox=shape)


def leg(ax: Axes, x: tuple[float, float], name: str, bound: bool) -> None:
    """A line at height 0 from x[0] to x[1], with its name above; gray where it is summed over."""
    ax.plot(x, (0, 0), color=GREY if bound else ORANGE, linewidth=1.6)
    ax.text(sum(x) / 2, 0.22, name, ha="center", va="bottom", fontsize=8, rotation=30)


chains = {
    "a query: two free": (["x", "Q"], ["pos", "d_model", "d_head"]),
    "xᵀ W y: none free": (["x", "W", "y"], ["", "i", "j", ""]),
    "scores of one head": (["x", "Q", "K", "y"], ["query", "d_model", "d_head", "d_model'", "key"]),
}
for ax, (title, (factors, legs)) in zip(networks.flat, chains.items(), strict=False):
    for place, name in enumerate(factors):
        disk(ax, place, 0, name)
    for place, name in enumerate(legs, -1):
        if name:
            inner = 0.27
            ax_ends = (place + inner, place + 1 - inner)
            leg(ax, ax_ends, name, bound=0 <= place < len(factors) - 1)
    middle = (len(factors) - 1) / 2
    ax.set(xlim=(middle - 2.6, middle + 2.6), ylim=(-0.6, 1.1), title=title)
ring = networks.flat[3]
corners = [(math.sin(a), math.cos(a)) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)]
for (x, y), name, label in zip(corners, "ABC", "jki", strict=True):
    disk(ring, 1.1 * x, 0.9 * y, name)
    middle = math.atan2(x, y) + math.pi / 3
    arc = torch.linspace(middle - 0.75, middle + 0.75, 30)
    ring.plot(1.1 * arc.sin(), 0.9 * arc.cos(), color=GREY, linewidth=1.6)
    ring.text(1.45 * math.sin(middle), 1.2 * math.cos(middle), label, ha="center", va="center", fontsize=9)
ring.set(xlim=(-2.6, 2.6), ylim=(-1.5, 1.35), title="tr ABC: a ring")
for ax in networks.flat:
    ax.axis("off")

# %% [markdown]
# ## Slips of the pen
#
# The four contractions of an attention layer. A *slip* changes one expression: one name, at one place, becomes
# another name of that expression or one that occurs nowhere (a misspelling); or two names of one term change places.

# %% slips
attention_layer = {
    "queries, keys, values": "batch pos d_model, head d_model d_head -> batch head pos d_head",
    "scores": "batch head query d_head, batch head key d_head -> batch head query key",
    "moving": "batch head query key, batch head key d_head -> batch head query d_head",
    "writing": "batch head query d_head, head d_head d_model -> batch query d_model",
}


def terms_of(expression: str) -> list[list[str]]:
    """The names in each factor, then those in the output."""
    return [term.split() for term in expression.replace("->", ",").split(",")]


def written(terms: list[list[str]]) -> str:
    *factors, output = (" ".join(term) for term in terms)
    return f"{', '.join(factors)} -> {output}"


def slips_of(expression: str) -> Iterator[str]:
    terms = terms_of(expression)
    names = sorted({name for term in terms for name in term})
    for t, term in enumerate(terms):
        for place, name in enumerate(term):
            for other in (*names, "misspelt"):
                if other != name:
                    yield written([*terms[:t], [*term[:place], other, *term[place + 1 :]], *terms[t + 1 :]])
        for a, b in itertools.combinations(range(len(term)), 2):
            swapped = list(term)
            swapped[a], swapped[b] = swapped[b], swapped[a]
            yield written([*terms[:t], swapped, *terms[t + 1 :]])


def lonely(expression: str) -> bool:
    """Whether some name occurs only once."""
    everywhere = [name for term in terms_of(expression) for name in term]
    return any(everywhere.count(name) == 1 for name in everywhere)


different = dict(batch=2, head=3, pos=5, query=5, key=7, d_model=8, d_head=4)
sizes = {
    "all sizes 4": dict.fromkeys(different, 4),
    "one sequence,\none head": different | dict(batch=1, head=1, key=5),
    "all different,\nas many keys\nas queries": different | dict(key=5),
    "all different": different,
}
outcomes = ("an error", "another shape", "wrong numbers", "right numbers, here")
counts = {name: dict.fromkeys(outcomes, 0) for name in sizes}
silent: dict[str, list[str]] = {name: [] for name in sizes}
for name, size in sizes.items():
    for expression in attention_layer.values():
        factors = [draw(*(size[axis] for axis in term)) for term in terms_of(expression)[:-1]]
        right = einsum(*factors, expression)
        for slip in slips_of(expression):
            try:
                out = einsum(*factors, slip)
            except Exception:
                outcome = "an error"
            else:
                same_shape = out.shape == right.shape
                same = same_shape and torch.allclose(out, right)
                outcome = "right numbers, here" if same else "wrong numbers" if same_shape else "another shape"
            counts[name][outcome] += 1
            if outcome == "wrong numbers":
                silent[name].append(slip)

ax = panels(height=3.0)
colours = dict(zip(outcomes, (GREY, VIOLET, ORANGE, GREEN), strict=True))
for row, count in enumerate(counts.values()):
    left = 0
    for outcome, n in count.items():
        ax.barh(
            row, n, left=left, height=0.62, color=colours[outcome], label=outcome if row == 0 else None, linewidth=0
        )
        if n:
            ax.text(left + n / 2, row, str(n), ha="center", va="center", fontsize=9)
        left += n
ax.set_yticks(range(len(sizes)), list(sizes))
ax.invert_yaxis()
ax.set(xticks=[], xlim=(0, left))
ax.spines[:].set_visible(False)
ax.tick_params(length=0)
ax.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.36, 0), handlelength=1, columnspacing=1.5)
total = sum(counts["all different"].values())
claim(slips=total)

# %% slip-numbers
same_4, alone, usual, all_different = counts
claim(
    silent_equal=(counts[same_4]["wrong numbers"], total),
    pass_with_one=counts[alone]["right numbers, here"],
    silent_usual=counts[usual]["wrong numbers"],
    silent_different=counts[all_different]["wrong numbers"],
    misspelt=sum("misspelt" in slip for slip in silent[all_different]),
    left_usual=sum(not lonely(slip) for slip in silent[usual]),
    left_different=sum(not lonely(slip) for slip in silent[all_different]),
    lonely_right=(sum(map(lonely, attention_layer.values())), len(attention_layer)),
)
print("What is left when queries are as many as keys, and a name that occurs once is an error:")
print(*(slip for slip in silent[usual] if not lonely(slip)), sep="\n")

# %% [markdown]
# ## One expression, fifteen orders
#
# The scores of one head of GPT-2 small at its full context: $x_i\, W_Q W_K^\top x_j^\top$, four factors. `x` and `y`
# are the stream, read by the queries and by the keys; `Q` and `K` are the head's two weights.

# %% orders
names = {"x": "query a", "Q": "a d_head", "K": "b d_head", "y": "key b"}
output = {"query", "key"}
gpt2 = dict(query=1024, key=1024, a=768, b=768, d_head=64)
Tree = str | tuple["Tree", "Tree"]


def trees(leaves: tuple[str, ...]) -> list[Tree]:
    """Every way to contract the factors two at a time. The first leaf stays left: (A, B) and (B, A) are one tree."""
    if len(leaves) == 1:
        return [leaves[0]]
    first, *rest = leaves
    return [
        (left, right)
        for n in range(len(rest))
        for others in itertools.combinations(rest, n)
        for left in trees((first, *others))
        for right in trees(tuple(leaf for leaf in rest if leaf not in others))
    ]


def leaves_of(tree: Tree) -> list[str]:
    return [tree] if isinstance(tree, str) else leaves_of(tree[0]) + leaves_of(tree[1])


def axes_of(tree: Tree) -> set[str]:
    """Which axes are left after contracting a subtree: those that the output or a factor outside of it needs."""
    inside = leaves_of(tree)
    needed = output.union(*(names[leaf].split() for leaf in names if leaf not in inside))
    return {axis for leaf in inside for axis in names[leaf].split() if axis in needed or isinstance(tree, str)}


def cost(tree: Tree, size: dict[str, int]) -> int:
    """FLOPs: a step multiplies once for every value of all its axes, and adds as often if it sums over any."""
    if isinstance(tree, str):
        return 0
    axes = axes_of(tree[0]) | axes_of(tree[1])
    step = math.prod(size[axis] for axis in axes) * (2 if axes > axes_of(tree) else 1)
    return step + cost(tree[0], size) + cost(tree[1], size)


def outer(tree: Tree) -> bool:
    """Whether some step multiplies factors that share no axis."""
    return not isinstance(tree, str) and (not axes_of(tree[0]) & axes_of(tree[1]) or outer(tree[0]) or outer(tree[1]))


def contract(tree: Tree, factors: dict[str, Tensor]) -> tuple[Tensor, list[str]]:
    """The tensor of a (sub)tree, and its axes in order; each step is an einsum of two."""
    if isinstance(tree, str):
        return factors[tree], names[tree].split()
    (left, left_axes), (right, right_axes) = (contract(part, factors) for part in tree)
    axes = ["query", "key"] if axes_of(tree) == output else sorted(axes_of(tree))
    return einsum(left, right, written([left_axes, right_axes, axes])), axes


def label(tree: Tree) -> str:
    return tree if isinstance(tree, str) else "".join(x if isinstance(x, str) else f"({label(x)})" for x in tree)


orders = sorted(trees(tuple(names)), key=lambda tree: cost(tree, gpt2))
small = dict(query=3, key=5, a=4, b=6, d_head=2)
factors = {leaf: draw(*(small[axis] for axis in axes.split())) for leaf, axes in names.items()}
reference = factors["x"] @ factors["Q"] @ factors["K"].T @ factors["y"].T
spread = max(float((contract(tree, factors)[0] - reference).abs().max()) for tree in orders)

ax = panels(height=3.8)
costs = [cost(tree, gpt2) for tree in orders]
for row, tree in enumerate(orders):
    ax.plot(costs[row], row, "o", color=GREY if outer(tree) else BLUE)
ax.hlines(range(len(orders)), costs[0] / 2, costs, color=GREY, alpha=0.35, linewidth=0.8)
ax.set_yticks(range(len(orders)), [label(tree) for tree in orders])
ax.set(xscale="log", xlabel="FLOPs", xlim=(costs[0] / 2, costs[-1] * 3), ylim=(len(orders) - 0.5, -0.5))
ax.tick_params(axis="y", length=0)
ax.minorticks_off()
ax.text(costs[4] * 2.5, 2, "along the chain", va="center")
ax.text(costs[8] * 2.5, 6.5, "with an outer product", va="center")
claim(orders=len(orders), chain_orders=sum(not outer(tree) for tree in orders))

# %% order-numbers
meta = {leaf: torch.empty([gpt2[axis] for axis in axes.split()], device="meta") for leaf, axes in names.items()}
agree = []
for tree in orders:
    if not outer(tree):
        with FlopCounterMode(display=False) as counter:
            contract(tree, meta)
        agree.append(counter.get_total_flops() == cost(tree, gpt2))
by_label = dict(zip(map(label, orders), costs, strict=True))
claim(
    orders_agree=spread,
    counter_agrees=(sum(agree), len(agree)),
    worst_over_best=costs[-1] / costs[0],
    product_over_best=by_label["(x(QK))y"] / costs[0],
    worst_chain_over_best=max(cost(tree, gpt2) for tree in orders if not outer(tree)) / costs[0],
)
print("cheapest:", label(orders[0]), " dearest:", label(orders[-1]))

# %% [markdown]
# ## With few queries, another order wins
#
# The same expression for 1 to 1,024 queries and 1,024 keys.

# %% queries
queries = torch.arange(1, 1025)
shown = ["(xQ)(Ky)", "((xQ)K)y", "(x(QK))y"]
tree_of = {label(tree): tree for tree in orders}
curves = {name: [cost(tree_of[name], gpt2 | dict(query=int(n))) for n in queries] for name in shown}
ax = panels(height=2.9)
lines(queries, curves, ax=ax, log="xy", xlabel="queries", ylabel="FLOPs")
ax.set_xticks([1, 10, 100, 1024], ["1", "10", "100", "1,024"])
ax.minorticks_off()

# %% query-numbers
keys_first, absorbed, _ = (torch.tensor(curves[name], dtype=torch.float64) for name in shown)
claim(
    absorbed_saves=keys_first[0] / absorbed[0],
    absorbed_wins_until=int((absorbed < keys_first).sum()),
    absorbed_costs_at_all=absorbed[-1] / keys_first[-1],
)

# %% [markdown]
# ## What the computer does with three factors
#
# Without the package opt_einsum, torch contracts from left to right. The ratio of the times is published only as "at
# least", since it differs from machine to machine.

# %% left-to-right
torch.backends.opt_einsum.enabled = False  # where that package is installed, torch would look for an order itself
n = 1024
A, B, v = draw(n, n), draw(n, n), draw(n)


def in_one() -> Tensor:
    return einsum(A, B, v, "i j, j k, k -> i")


def from_the_right() -> Tensor:
    return einsum(A, einsum(B, v, "j k, k -> j"), "i j, j -> i")


counted, seconds = {}, {}
for way in (in_one, from_the_right):
    with FlopCounterMode(display=False) as counter:
        way()
    counted[way] = counter.get_total_flops()
for way in (in_one, from_the_right) * 4:
    start = time.perf_counter()
    way()
    seconds[way] = min(time.perf_counter() - start, seconds.get(way, math.inf))
claim(
    left_to_right_flops=counted[in_one] / counted[from_the_right],
    right_is_faster_capped_at_10=min(10, seconds[in_one] / seconds[from_the_right]),
    order_error=(in_one() - from_the_right()).norm() / in_one().norm(),
)

# %% [markdown]
# ## A block in named axes
#
# Attention and MLP with every axis named, mask and softmax included, against the library's model.

# %% block
config = Config(n_layers=1, d_model=32, n_heads=4, d_head=8, n_ctx=16, d_vocab=64, d_mlp=128, init_std=0.3)
model = Transformer(config, seed=0).double().requires_grad_(False)
attn, mlp = model.blocks[0].attn, model.blocks[0].mlp
shapes: dict[str, Tensor] = {}  # each expression that ran, and what came out


def product(*factors: Tensor, axes: str) -> Tensor:
    shapes[axes] = einsum(*factors, axes)
    return shapes[axes]


def attention(x: Tensor) -> Tensor:
    heads = "batch pos d_model, head d_model d_head -> batch head pos d_head"
    q, k, v = (product(x, W, axes=heads) for W in (attn.W_Q, attn.W_K, attn.W_V))
    scores = product(q, k, axes="batch head query d_head, batch head key d_head -> batch head query key")

    pos = torch.arange(x.shape[1])
    future = rearrange(pos, "key -> 1 key") > rearrange(pos, "query -> query 1")
    scores = (scores / math.sqrt(config.d_head)).masked_fill(future, -math.inf)

    over_keys = "batch head query key -> batch head query 1"
    pattern = (scores - reduce(scores, over_keys, "max")).exp()
    pattern = pattern / reduce(pattern, over_keys, "sum")

    z = product(pattern, v, axes="batch head query key, batch head key d_head -> batch head query d_head")
    return product(z, attn.W_O, axes="batch head query d_head, head d_head d_model -> batch query d_model")


def feed_forward(x: Tensor) -> Tensor:
    pre = product(x, mlp.W_in, axes="batch pos d_model, d_model d_mlp -> batch pos d_mlp")
    post = F.gelu(pre, approximate="tanh")
    return product(post, mlp.W_out, axes="batch pos d_mlp, d_mlp d_model -> batch pos d_model")


tokens = torch.randint(config.d_vocab, (3, config.n_ctx), generator=generator)
seen = record(["*.resid_pre", "*.attn_out", "*.resid_mid", "*.mlp_out"])
model(tokens, tap=seen)
claim(
    attention_error=(attention(seen["blocks.0.resid_pre"]) - seen["blocks.0.attn_out"]).abs().max(),
    mlp_error=(feed_forward(seen["blocks.0.resid_mid"]) - seen["blocks.0.mlp_out"]).abs().max(),
)
table(
    [[" ".join(terms_of(axes)[-1]), "×".join(map(str, out.shape))] for axes, out in shapes.items()],
    header=["result", "shape here"],
)

# %% [markdown]
# What each line does to each axis can be read off its expression. The FLOPs are those of GPT-2 small's block on one
# sequence of 1,024 tokens, counted by torch's dispatcher.

# %% reading
block = dict(zip([*attention_layer, "MLP, in", "MLP, out"], shapes, strict=True))
assert [*block.values()][:4] == [*attention_layer.values()]
gpt2_block = dict(batch=1, pos=1024, query=1024, key=1024, head=12, d_model=768, d_head=64, d_mlp=3072)
flops = {}
for name, expression in block.items():
    with FlopCounterMode(display=False) as counter:
        einsum(*(torch.empty([gpt2_block[n] for n in t], device="meta") for t in terms_of(expression)[:-1]), expression)
    flops[name] = counter.get_total_flops() * (3 if name.startswith("queries") else 1)
by_formula = {
    name: 2 * math.prod(gpt2_block[n] for n in set(expression.replace(",", "").replace("->", "").split()))
    for name, expression in block.items()
}
rows = []
for name, expression in block.items():
    *factors, output_axes = terms_of(expression)
    bound = [axis for axis in dict.fromkeys(itertools.chain(*factors)) if axis not in output_axes]
    activations = [term for term in factors if "batch" in term]
    apart = [axis for axis in output_axes if all(axis in term for term in activations)]
    rows.append([name, ", ".join(bound), ", ".join(apart), f"{flops[name] / sum(flops.values()):.1%}"])
claim(
    mlp_share=(flops["MLP, in"] + flops["MLP, out"]) / sum(flops.values()),
    pattern_share=(flops["scores"] + flops["moving"]) / sum(flops.values()),
    lines_that_sum_over_batch=(sum("batch" in row[1] for row in rows), len(rows)),
    block_counter_agrees=(
        sum(flops[name] == by_formula[name] * (3 if name.startswith("queries") else 1) for name in block),
        len(block),
    ),
)
table(rows, header=["line", "sums over", "keeps apart", "FLOPs"])

# %% [markdown]
# The same shares in a block of SmolLM2, whose MLP has three matrices and whose nine heads share three keys and values.


# %% smollm2
def pattern_share(tokens: int, d: int = 576, keys: int = 3 * 64, d_mlp: int = 1536) -> float:
    """The share of a block's FLOPs that goes into scores and into moving by the pattern, for one sequence."""
    every_pair = 2 * 2 * tokens**2 * d
    every_token = 2 * tokens * (2 * d**2 + 2 * d * keys + 3 * d * d_mlp)
    return every_pair / (every_pair + every_token)


claim(
    smollm2_pattern_share=pattern_share(1024),
    smollm2_pattern_share_full=pattern_share(8192),
    smollm2_half_at=next(n for n in range(1, 8193) if pattern_share(n) >= 0.5),
)

# %% [markdown]
# ## Gradients
#
# For each line and each of its factors: the expression with that factor and the output in each other's places,
# against autograd.

# %% gradients
size = dict(batch=2, pos=5, query=5, key=7, head=3, d_model=8, d_head=4, d_mlp=6)
equal = []
for expression in block.values():
    *ins, out_axes = terms_of(expression)
    factors = [draw(*(size[axis] for axis in term)).requires_grad_() for term in ins]
    out = einsum(*factors, expression)
    G = draw(*out.shape)
    by_autograd = torch.autograd.grad(out, factors, G)
    for k, expected in enumerate(by_autograd):
        others = [factor for j, factor in enumerate(factors) if j != k]
        swapped = written([out_axes, *(term for j, term in enumerate(ins) if j != k), ins[k]])
        equal.append((einsum(G, *others, swapped) - expected).abs().max() < 1e-12)

model.requires_grad_(True)
x = seen["blocks.0.resid_pre"].detach().requires_grad_()
with FlopCounterMode(display=False) as forward:
    out = (attention(x) + feed_forward(x)).square().sum()
with FlopCounterMode(display=False) as backward:
    out.backward()
claim(
    gradients_equal=(sum(equal), len(equal)),
    backward_over_forward=backward.get_total_flops() / forward.get_total_flops(),
)
