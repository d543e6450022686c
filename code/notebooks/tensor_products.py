# %% [markdown]
# # Tensor products
#
# The computations behind the note of the same name: what $A \otimes W$ is, which way round it goes, and
# what it would cost to write an attention layer down as one matrix.

# %% setup
import math

import torch

from residual import Config, Transformer
from residual.methods.kron import expand, kron, rearrange, vec, vec_col
from residual.plot import BLUE, COLOURS, GREY, INK, VIOLET, heatmap, lines, panels, table
from residual.taps import record
from weave import claim

torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## Which way round?
#
# Three positions, two channels, one head. The pattern `A` says where each position looks, `W` is the head's
# $W_{OV}$, and a position's row vector is multiplied from the right. The loop is the meaning; everything else
# on this page has to agree with it.

# %% three-tokens
tokens = ["the", "cat", "sat"]
A = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.1, 0.6, 0.3]])  # query key
W = torch.tensor([[1.0, 2.0], [0.0, -1.0]])  # d_model d_model
X = torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])  # pos d_model

out = torch.zeros_like(X)
for query in range(3):
    for key in range(query + 1):
        out[query] += A[query, key] * (X[key] @ W)

# %% readings
operators = {
    "A ⊗ W": kron(A, W),
    "A ⊗ Wᵀ": kron(A, W.T),
    "W ⊗ A": kron(W, A),
    "Wᵀ ⊗ A": kron(W.T, A),
}
errors = {name: [float((M @ v(X) - v(out)).abs().max()) for v in (vec, vec_col)] for name, M in operators.items()}
right = sum(error < 1e-12 for pair in errors.values() for error in pair)
claim(readings_right=(right, 2 * len(operators)), largest_error=max(max(pair) for pair in errors.values()))
table(
    [[name, *("exact" if error < 1e-12 else f"off by {error:.1f}" for error in pair)] for name, pair in errors.items()],
    header=["operator", "rows stacked (torch)", "columns stacked (textbooks)"],
)

# %% [markdown]
# ## Anatomy
#
# Each block of the product is one number of the pattern times the whole of $W^\top$.

# %% anatomy
layout = panels(2, 2, height=3.6, width_ratios=[1, 2.1], height_ratios=[3, 2])
for ax in layout[:, 1]:
    ax.remove()
whole = layout[0, 0].figure.add_subplot(layout[0, 0].get_gridspec()[:, 1])
heatmap(A, ax=layout[0, 0], values="g", title="A", limit=2, rows=tokens, columns=tokens)
heatmap(W.T, ax=layout[1, 0], values="g", title="Wᵀ", limit=2)
layout[1, 0].set(xticks=[], yticks=[])
heatmap(kron(A, W.T), ax=whole, values="g", title="A ⊗ Wᵀ", limit=2, block=2)
whole.set_xticks([0.5, 2.5, 4.5], tokens)
whole.set_yticks([0.5, 2.5, 4.5], tokens)
claim(operator_entries=kron(A, W.T).numel(), factor_entries=A.numel() + W.numel())

# %% [markdown]
# ## Two kinds of map and their product

# %% two-kinds
positions, channels = torch.eye(3), torch.eye(2)
each = kron(positions, W.T)
move = kron(A, channels)
kinds = {"Id ⊗ Wᵀ": each, "A ⊗ Id": move, "A ⊗ Wᵀ": move @ each}
layout = panels(1, 3, width=5.6, height=2.2)
for ax, (name, M) in zip(layout, kinds.items(), strict=True):
    heatmap(M, ax=ax, title=name, limit=2, block=2, bar=None)
    ax.set_xticks([0.5, 2.5, 4.5], tokens)
    ax.set_yticks([0.5, 2.5, 4.5], tokens if ax is layout[0] else [""] * 3)
claim(
    commutator=float((move @ each - each @ move).abs().max()),
    each_nonzero=int((each != 0).sum()),
    move_nonzero=int((move != 0).sum()),
)

# %% [markdown]
# ## Eigenvalues and rank
#
# A layer with random weights: 16 positions, 32 channels, 8 heads of $d_\text{head} = 4$. The patterns are the
# model's own, on random tokens.

# %% model
n, d_model, d_head, n_heads = 16, 32, 4, 8
config = Config(n_layers=1, d_model=d_model, n_heads=n_heads, d_head=d_head, n_ctx=n, d_vocab=64, init_std=0.3)
model = Transformer(config, seed=0).double()
sequence = torch.randint(config.d_vocab, (1, n), generator=torch.Generator().manual_seed(0))
seen = record(["blocks.0.resid_pre", "blocks.0.attn.pattern", "blocks.0.attn_out"])
with torch.no_grad():
    model(sequence, tap=seen)
    stream = seen["blocks.0.resid_pre"][0]  # pos d_model
    patterns = seen["blocks.0.attn.pattern"][0]  # head query key
    W_OV = model.blocks[0].attn.W_OV().AB  # head d_model d_model

# %% eigenvalues
h = 7  # the head whose eigenvalues spread widest, for the sake of the drawing
head = kron(patterns[h], W_OV[h].T)
of_head, of_weight = torch.linalg.eigvals(head), torch.linalg.eigvals(W_OV[h])
small, large = (values[values.abs() > 1e-9] for values in (of_head, of_weight))
ax = panels(width=4.6, height=2.8)
for value in large:
    ax.plot([0, value.real], [0, value.imag], color=GREY, linewidth=0.8)
ax.scatter(small.real, small.imag, s=14, color=BLUE, linewidths=0)
ax.scatter(large.real, large.imag, s=70, facecolors="none", edgecolors=VIOLET, linewidths=1.5)
ax.set(xlabel="real part", ylabel="imaginary part", aspect="equal", xlim=(-1.15, 0.5), ylim=(-0.5, 0.5))
ax.locator_params(nbins=5)

products = torch.outer(patterns[h].diagonal().to(of_weight.dtype), of_weight).flatten()
gaps = (of_head[:, None] - products[None, :]).abs()
claim(
    head_size=len(head),
    head_rank=int(torch.linalg.matrix_rank(head, rtol=1e-10)),
    largest_eigenvalue_ratio=float(of_head.abs().max() / of_weight.abs().max()),
    eigenvalue_gap=float(torch.maximum(gaps.min(0).values.max(), gaps.min(1).values.max())),
    trace_gap=float((head.trace() - patterns[h].trace() * W_OV[h].trace()).abs()),
)

# %% [markdown]
# ## A layer
#
# The sum over heads of $A^h \otimes (W_{OV}^h)^\top$, against what the model's forward pass wrote.

# %% layer
layer = sum(kron(patterns[h], W_OV[h].T) for h in range(n_heads))
written = seen["blocks.0.attn_out"][0]
claim(layer_error=float((layer @ vec(stream) - vec(written)).abs().max()), layer_entries=layer.numel())

# %% [markdown]
# ## No single product will do
#
# The position-wise map nearest to a head is $(\operatorname{tr} A/n)\,W$. What it misses depends on the
# pattern alone.


# %% one-sided
def missed(pattern: torch.Tensor) -> float:
    """Share of ‖A ⊗ Wᵀ‖² outside of every Id ⊗ Mᵀ: 1 − (tr A)² / (n ‖A‖²)."""
    return float(1 - pattern.trace() ** 2 / (len(pattern) * pattern.square().sum()))


long = 128
uniform = torch.tril(torch.ones(long, long)) / torch.arange(1, long + 1)[:, None]
previous = torch.zeros(long, long)
previous[torch.arange(long), (torch.arange(long) - 1).clamp(min=0)] = 1
harmonic = sum(1 / i for i in range(1, long + 1))
shares = {
    "looks at itself only": missed(torch.eye(long)),
    "half itself, half previous": missed((torch.eye(long) + previous) / 2),
    "uniform over the past": missed(uniform),
    "previous token": missed(previous),
}
claim(missed_uniform=shares["uniform over the past"], missed_uniform_formula=1 - harmonic / long)
claim(missed_half=shares["half itself, half previous"], missed_self=shares["looks at itself only"])
table(
    [[name, f"{share:.2%}"] for name, share in shares.items()],
    header=["pattern over 128 positions", "missed"],
)

# %% [markdown]
# ## A sum is not a product
#
# The singular values of the rearranged operator, for layers made of the first 1, 2, 4 and 8 heads.

# %% kronecker-rank
spectra = {}
for heads in (1, 2, 4, 8):
    partial = sum(kron(patterns[h], W_OV[h].T) for h in range(heads))
    values = torch.linalg.svdvals(rearrange(partial, (n, n), (d_model, d_model)))
    spectra[heads] = values / values[0]
ax = panels(height=3.2)
ax.axhspan(1e-17, 1e-13, color=INK, alpha=0.06, linewidth=0)
ax.text(12, 2e-17, "rounding error", ha="right", fontsize=9)
for (heads, spectrum), colour in zip(spectra.items(), COLOURS, strict=False):
    name = f"{heads} head" if heads == 1 else f"{heads} heads"
    ax.text(heads + 0.5, 1e-7, name, rotation=-79, va="center", fontsize=9)
    lines(range(1, 13), {"": spectrum[:12]}, ax=ax, colours=[colour], log="y", marker="o")
ax.set(xlabel="index", ylabel="singular value / largest", ylim=(1e-17, 9), yticks=[1, 1e-5, 1e-10, 1e-15])
ranks = {heads: int((spectrum > 1e-12).sum()) for heads, spectrum in spectra.items()}
claim(rank_1=ranks[1], rank_2=ranks[2], rank_4=ranks[4], rank_8=ranks[8])

# %% nearest-term
best = sum(kron(a, b) for a, b in expand(layer, (n, n), (d_model, d_model), 1))
share = float((layer - best).square().sum() / layer.square().sum())
merged = kron(patterns[0], W_OV[0].T) + kron(patterns[0], W_OV[1].T)  # two heads made to attend alike
merged_spectrum = torch.linalg.svdvals(rearrange(merged, (n, n), (d_model, d_model)))
claim(one_term_misses=share, merged_rank=int((merged_spectrum > 1e-12 * merged_spectrum[0]).sum()))

# %% [markdown]
# ## What it costs to write down
#
# GPT-2 small's width and heads, 32-bit floats. The dense operator is $(n\,d)^2$ numbers; the factors are $H$
# patterns and the value and output weights.

# %% cost
d, H, d_k, size = 768, 12, 64, 4
context = torch.tensor([2.0**k for k in range(4, 14)])
dense = (context * d) ** 2 * size
stored = H * context**2 * size
weights = torch.full_like(context, 2 * d * H * d_k * size)
activations = context * d * size
ax = panels(height=3.4)
ax.set(xscale="log", yscale="log", ylim=(2**10, 2**49), xlabel="context length in tokens")
ax.set_xticks([16, 128, 1024, 8192], ["16", "128", "1,024", "8,192"])
ax.set_yticks([2.0**k for k in (10, 20, 30, 40)], ["1 KiB", "1 MiB", "1 GiB", "1 TiB"])
ax.minorticks_off()
ax.axhline(16 * 2**30, color=INK, linewidth=0.7, alpha=0.6)
ax.text(16, 16 * 2**30 * 1.6, "16 GiB", fontsize=9)
curves = {"A ⊗ Wᵀ, dense": dense, "patterns": stored, "V, O weights": weights, "activations": activations}
lines(context, curves, ax=ax)

# %% cost-numbers
at = 1024
flops_dense = 2 * (at * d) ** 2
flops_factored = 2 * at * d * (H * d_k) + 2 * H * at**2 * d_k + 2 * at * (H * d_k) * d
toy = torch.zeros(64 * 64, 64 * 64, dtype=torch.float32)  # the operator for 64 tokens of 64 channels
claim(
    dense_tib=(at * d) ** 2 * size / 2**40,
    dense_over_patterns=d**2 / H,
    fits_in_16_gib=math.isqrt(16 * 2**30 // size) // d,
    flops_ratio=flops_dense / flops_factored,
    toy_mib=toy.nbytes / 2**20,
    smollm2_dense_tib=(8192 * 576) ** 2 * size / 2**40,
)
