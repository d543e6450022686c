# %% [markdown]
# # Logit attribution and the lenses
#
# Everything that the note [logit-attribution](../../docs/notes/logit-attribution.md) shows and counts: models of eight
# heads whose every subset is run, the lenses of `house`, and SmolLM2 on names and on speeches.

# %% setup
import numpy as np
import torch

from residual import load, smollm2
from residual.experiments.hand_set import induction
from residual.experiments.ioi import ioi_prompts
from residual.experiments.measure import spot_check
from residual.experiments.repairs import FIRST, LARGEST, PARTS, PUT_IN, smollm2_speeches
from residual.files.results import load_result
from residual.methods.attribution import attribute, decompose
from residual.methods.induction import previous_token_score, repeats
from residual.methods.loss import losses
from residual.methods.paths import two_layer_paths
from residual.methods.self_repair import SelfRepair, next_token_direction
from residual.methods.shapley import alone, removed, shapley, subset_values
from residual.methods.tuned_lens import (
    LensConfig,
    TunedLens,
    fit_bias,
    fit_ridge,
    kl,
    lens_bias,
    lens_logits,
    streams,
)
from residual.plot import BLUE, GREEN, GREY, ORANGE, lines, panels, table
from residual.taps import ablate, compose, record
from residual.training.corpus import corpus, house
from residual.training.train import windows
from weave import claim

_ = torch.set_grad_enabled(False)
SEEDS, ROWS = range(5), 8
large, _ = smollm2()


def error(x):
    """Standard error of the mean of independent values."""
    return (x.std() / len(x) ** 0.5).item()


def shown(x, digits=2):
    return f"{x:.{digits}f}".replace("-", "−")


def ranks(x):
    return np.asarray(x).argsort().argsort()


# %% [markdown]
# ## By hand
#
# Two heads, each term known. The logit of the right answer less that of another token.

# %% by-hand
by_hand = induction(6, 8)
sentence = torch.tensor([[0, 1, 2, 3, 4, 1]])  # 1 was followed by 2
known = attribute(decompose(by_hand, sentence), (2, 3))
subsets = subset_values(by_hand, sentence, lambda logits: logits[0, -1, 2] - logits[0, -1, 3], instead="zero")
hand_shapley, hand_removed = shapley(subsets), removed(subsets)
claim(
    hand_total=known.values[:, 0, -1].sum(),
    hand_attributed_first=known["0.0"][0, -1],
    hand_attributed_second=known["1.0"][0, -1],
    hand_shapley=hand_shapley[0],
    hand_removed=hand_removed[0],
)
table(
    [
        ["embedding", known["embed"][0, -1].item(), None, None],
        *([f"head {h}", known[h][0, -1].item(), hand_shapley[i].item(), hand_removed[i].item()]
          for i, h in enumerate(("0.0", "1.0"))),
    ],
    ["term", "attribution", "Shapley value", "lost without it"],
    digits=2,
)  # fmt: skip

# %% [markdown]
# ## Truth: all 256 subsets of eight heads
#
# The number to divide: the logit of the token that comes, less the mean logit, averaged over predictions. It is linear
# in the stream, and these models have no norm, so that attribution has its best case.

# %% graded
held_out = corpus().validation.unfold(0, 129, 128)
text = held_out[:: len(held_out) // ROWS][:ROWS]
random, period = repeats(ROWS, 129, (8, 32), seed=11)
again = torch.arange(1, 129) >= period
DATA = {"repeats": (random, again), "speeches": (text, torch.ones_like(again))}


class Graded:
    """A two-layer model on some rows: what each head is credited with, by row, and the truth."""

    def __init__(self, model, tokens, counted):
        self.tokens, reads = tokens[:, :-1], model.W_U.mT[tokens[:, 1:]] - model.W_U.mean(dim=1)
        weight = counted / counted.sum(dim=1, keepdim=True)

        def read(x):
            """Read the margin off a part of the stream [… batch pos d_model]: one number a row."""
            return ((x * reads).sum(dim=-1) * weight).sum(dim=-1)

        paths = two_layer_paths(model, self.tokens)
        virtual = read(paths.virtual)  # later earlier row
        self.written = torch.cat([read(paths.heads[0]), read(paths.heads[1]) + virtual.sum(dim=1)])  # head row
        self.shared = torch.cat([virtual.sum(dim=0), -virtual.sum(dim=1)]) / 2  # what a fair split of paths moves
        self.passed_on = virtual.sum(dim=0)  # what later heads make of a first-layer head's output, patterns frozen
        model(self.tokens, tap=(seen := record("*.attn.z")))
        means = [torch.einsum("hd,hdm->hm", seen[f"blocks.{i}.attn.z"].mean(dim=(0, 1)), block.attn.W_O)
                 for i, block in enumerate(model.blocks)]  # fmt: skip
        constant = read(torch.cat(means)[:, None, None].expand(-1, *self.tokens.shape, -1))
        self.attribution = {"zero": self.written, "mean": self.written - constant}
        self.values = {
            how: subset_values(model, self.tokens, read, instead=how, stream=True) for how in ("zero", "mean")
        }
        self.shapley = {how: shapley(values) for how, values in self.values.items()}
        self.removed = {how: removed(values) for how, values in self.values.items()}
        self.alone = {how: alone(values) for how, values in self.values.items()}
        self.both_ends = {how: (self.alone[how] + self.removed[how]) / 2 for how in self.alone}

    def total(self, how):
        return (self.values[how][-1] - self.values[how][0]).mean()

    def grade(self, credited, how):
        """Pearson and rank correlation with the Shapley values over heads, and the share credited to wrong heads."""
        a, truth = credited[how].mean(dim=1).numpy(), self.shapley[how].mean(dim=1).numpy()
        misplaced = np.abs(a - truth).sum() / 2 / truth.sum()
        return np.corrcoef(a, truth)[0, 1], np.corrcoef(ranks(a), ranks(truth))[0, 1], misplaced


models = [load("induction" if seed == 0 else f"induction-seed{seed}").model for seed in SEEDS]
graded = [{name: Graded(model, *data) for name, data in DATA.items()} for model in models]
movers = [int(previous_token_score(m, text[:, :-1])[0].argmax()) for m in models]
METHODS = {
    "attribution": lambda g: g.attribution,
    "single ablation": lambda g: g.removed,
    "alone": lambda g: g.alone,
    "both ends": lambda g: g.both_ends,
}
grades = {
    (method, name, how): np.array([g[name].grade(of(g[name]), how) for g in graded])
    for method, of in METHODS.items()
    for name in DATA
    for how in ("zero", "mean")
}
mover = [g["repeats"].attribution["mean"][movers[seed]] for seed, g in enumerate(graded)]
mover_true = [g["repeats"].shapley["mean"][movers[seed]] for seed, g in enumerate(graded)]
mover_removed = [g["repeats"].removed["mean"][movers[seed]] for seed, g in enumerate(graded)]
totals = [g["repeats"].total("mean") for g in graded]
of_total = [(a.mean() / t).item() for a, t in zip(mover_true, totals, strict=True)]
last_layer = max(
    (g[name].attribution["zero"][4:] - g[name].removed["zero"][4:]).abs().max() for g in graded for name in DATA
)
claim(
    subsets=len(graded[0]["repeats"].values["zero"]),
    rows=ROWS,
    margin_least=min(totals),
    margin_most=max(totals),
    mover_attributed_most=max(x.mean().abs() for x in mover),
    mover_true_least=min(x.mean() for x in mover_true),
    mover_true_most=max(x.mean() for x in mover_true),
    mover_true_error=max(error(x) for x in mover_true),
    mover_share_least=min(of_total),
    mover_share_most=max(of_total),
    mover_removed_least=min((x.mean() / t).item() for x, t in zip(mover_removed, totals, strict=True)),
    last_layer_differs=last_layer,
    sum_differs=max((g[n].written.sum(0) + g[n].values["zero"][0] - g[n].values["zero"][-1]).abs().max()
                    for g in graded for n in DATA),
    removed_sum_least=min((g["repeats"].removed["mean"].sum(0).mean() / t).item()
                          for g, t in zip(graded, totals, strict=True)),
    removed_sum_most=max((g["repeats"].removed["mean"].sum(0).mean() / t).item()
                         for g, t in zip(graded, totals, strict=True)),
    **{
        f"{method.split()[-1]}_{kind}_{name}_{how}_{end}": pick(values[:, column])
        for (method, name, how), values in grades.items()
        for column, kind in enumerate(("correlation", "ranks", "misplaced"))
        for end, pick in (("least", np.min), ("most", np.max))
    },
)  # fmt: skip
table(
    [
        [method, name, how, *(f"{shown(values[:, i].min())} to {shown(values[:, i].max())}" for i in range(3))]
        for (method, name, how), values in grades.items()
    ],
    ["method", "data", "absent head gives", "correlation", "rank correlation", "share misplaced"],
)

# %% three-answers
left, right = panels(1, 2, height=2.7, sharey=True)
answers = {"attribution": ("attribution", BLUE), "Shapley": ("shapley", GREEN), "ablation": ("removed", ORANGE)}
for ax, title, pick in (
    (left, "previous-token head", lambda x, seed: x[movers[seed]]),
    (right, "second layer, all four", lambda x, seed: x[4:].sum(dim=0)),
):
    for place, (of, colour) in enumerate(answers.values()):
        values = [pick(getattr(g["repeats"], of)["mean"], seed).mean().item() for seed, g in enumerate(graded)]
        ax.bar(place, np.mean(values), color=colour, alpha=0.45, width=0.7)
        ax.plot(place + np.linspace(-0.2, 0.2, 5), values, "o", color=colour, markersize=4)
    ax.axhline(float(np.mean(totals)), color=GREY, linewidth=0.9, linestyle=":")
    ax.set_title(title)
    ax.set_xticks(range(3), list(answers))
left.set_ylabel("credit (logits)")
_ = left.text(2.4, float(np.mean(totals)) + 0.9, "all heads together", color=GREY, ha="right", fontsize=8)

# %% where-it-goes
rows = []
for seed, g in enumerate(graded):
    at, i = g["repeats"], movers[seed]
    for name, pick in ((f"0.{i}", lambda x, i=i: x[i]), ("1.0 to 1.3", lambda x: x[4:].sum(dim=0))):
        written, paths, truth = (pick(x).mean().item() for x in (at.written, at.shared, at.shapley["zero"]))
        rows.append([seed, name, written, paths, truth - written - paths, truth])
claim(
    paths_moved_most=max(abs(row[3]) for row in rows),
    patterns_moved_least=min(row[4] for row in rows[::2]),
    patterns_moved_most=max(row[4] for row in rows[::2]),
)
table(
    [[seed, name, *map(shown, numbers)] for seed, name, *numbers in rows],
    ["seed", "heads", "attribution", "+ half of each path", "+ through patterns", "= Shapley value"],
)

# %% [markdown]
# ## Erasure
#
# What a head of the first layer writes along the logit, and what the second layer, reading it, writes on top. Patterns
# frozen, so both are exact terms of the sum. On speeches.

# %% erasure
found = []
for seed, g in enumerate(graded):
    at = g["speeches"]
    wrote, passed = at.written[:4], at.passed_on
    for head in range(4):
        found.append((seed, head, wrote[head], passed[head], at.removed["mean"][head]))
erased = [min((row for row in found if row[0] == seed), key=lambda row: row[3].mean()) for seed in SEEDS]
claim(
    erased_wrote_least=min(row[2].mean() for row in erased),
    erased_wrote_most=max(row[2].mean() for row in erased),
    erased_passed_least=-max(row[3].mean() for row in erased),
    erased_passed_most=-min(row[3].mean() for row in erased),
    erased_error=max(error(x) for row in erased for x in row[2:4]),
    erased_cost_most=max(row[4].mean().abs() for row in erased),
    erased_over=sum(bool(row[2].mean() + row[3].mean() < 0) for row in erased),
)
table(
    [
        [seed, f"0.{head}", *(f"{shown(x.mean())} ± {error(x):.2f}" for x in (wrote, passed, wrote + passed, cost))]
        for seed, head, wrote, passed, cost in erased
    ],
    ["seed", "head", "writes along the logit", "later heads, reading it", "together", "lost if put at its mean"],
)

# %% [markdown]
# ## Lenses for `house`
#
# Four layers with LayerNorm, MLPs, its own unembedding. Fitted on training text, measured on held-out text.

# %% lenses
reader = load("house").model
data = house()
learn, test = windows(data.train, 64, 128, step=0), windows(data.validation, 24, 128, step=1)
x_learn, x_test = streams(reader, learn), streams(reader, test)
final = reader.unembed(x_test[-1])
tuned = load("house-lens")
lenses = {
    "logit lens": TunedLens(LensConfig(4, 256)),
    "a constant": fit_bias(x_learn),
    "ridge": fit_ridge(x_learn),
    "tuned": tuned.model,
}
measured = {}
for name, lens in lenses.items():
    read = lens_logits(reader, lens, x_test[:-1])
    measured[name] = {
        "KL": kl(final, read).mean(dim=2),  # layer window
        "bias": torch.stack([lens_bias(final, x) for x in read]),
        "echo": (read.argmax(dim=-1) == test).float().mean(dim=(1, 2)),
    }
small = fit_ridge(x_learn[:, :8])
few = kl(final, lens_logits(reader, small, x_test[:-1])).mean(dim=(1, 2))
mean_kl = {name: m["KL"].mean(dim=1) for name, m in measured.items()}
gap = mean_kl["logit lens"]
claim(
    lens_tokens=learn.numel(),
    lens_few_tokens=learn[:8].numel(),
    lens_test=test.numel(),
    lens_trained_tokens=tuned.card.training["tokens"],
    lens_parameters=sum(weight.numel() for weight in tuned.model.parameters()),
    lens_error=max(error(x) for m in measured.values() for x in m["KL"]),
    constant_closes_least=((gap - mean_kl["a constant"]) / gap)[1:].min(),
    constant_closes_most=((gap - mean_kl["a constant"]) / gap)[1:].max(),
    ridge_few_mean=few.mean(),
    **{f"{name.split()[-1]}_kl_{i}": m["KL"][i].mean() for name, m in measured.items() for i in range(4)},
    **{f"{name.split()[-1]}_bias_{i}": m["bias"][i] for name, m in measured.items() for i in range(4)},
    **{f"{name.split()[-1]}_echo_{i}": m["echo"][i] for name, m in measured.items() for i in range(4)},
)
table(
    [
        [name, *(f"{x.mean():.2f}" for x in m["KL"]), *(f"{m['bias'][i]:.2f}" for i in (0, 3)),
         *(f"{m['echo'][i]:.2f}" for i in (0, 3))]
        for name, m in measured.items()
    ],
    ["lens", *(f"KL before layer {i}" for i in range(4)), "bias before 0", "before 3", "echo before 0", "before 3"],
)  # fmt: skip

# %% [markdown]
# ## SmolLM2's lens
#
# Tied embeddings, 30 layers. The constant is fitted on some speeches and used on others.

# %% smollm2-lens
spoken = smollm2_speeches(8, 29)
x = streams(large, spoken)
constant = fit_bias(x[:, :4, 1:])  # the first position is unlike all others
LAYERS = [0, 1, 2, 7, 13, 18, 23, 26, 29]
tokens = spoken[4:, 1:]
final_large = large.unembed(x[-1, 4:, 1:])
by_layer = []
for layer in LAYERS:
    raw, moved = (large.unembed(x[layer, 4:, 1:] + shift) for shift in (0, constant.b[layer]))
    top = raw.argmax(dim=-1)
    favorite = top.flatten().mode().values
    by_layer.append([
        kl(final_large, raw).mean(), kl(final_large, moved).mean(), lens_bias(final_large, raw),
        (top == tokens).float().mean(), (moved.argmax(dim=-1) == tokens).float().mean(),
        (top == favorite).float().mean(),
        (raw.argmax(dim=-1) == final_large.argmax(dim=-1)).float().mean(),
        (moved.argmax(dim=-1) == final_large.argmax(dim=-1)).float().mean(),
    ])  # fmt: skip
by_layer = torch.tensor(by_layer)
raw_kl, constant_kl, raw_bias, echo, echo_moved, favorite, agrees, agrees_moved = by_layer.T
middle = slice(LAYERS.index(1), LAYERS.index(23) + 1)
echo_others = {}
for name, text_tokens in (("gpt", text[:, :-1]), ("house", test)):
    other = load(name).model
    some = other.unembed(streams(other, text_tokens)).argmax(dim=-1)
    echo_others[name] = (some == text_tokens).float().mean(dim=(1, 2))
closes = ((raw_kl - constant_kl) / raw_kl)[middle]
claim(
    lens_large_positions=tokens.numel(),
    echo_embedding=echo[0],
    echo_after_first=echo[1],
    echo_later_most=echo[2:].max(),
    gpt_echo_0=echo_others["gpt"][0],
    gpt_echo_1=echo_others["gpt"][1],
    gpt_echo_2=echo_others["gpt"][2],
    house_echo_0=echo_others["house"][0],
    raw_kl_least=raw_kl[middle].min(),
    raw_kl_most=raw_kl[middle].max(),
    raw_bias_most=raw_bias[middle].max(),
    raw_bias_least=raw_bias[middle].min(),
    constant_kl_least=constant_kl[middle].min(),
    constant_kl_most=constant_kl[middle].max(),
    constant_large_least=closes.min(),
    constant_large_most=closes.max(),
    favorite_most=favorite[middle].max(),
    agrees_23=agrees[LAYERS.index(23)],
    agrees_moved_23=agrees_moved[LAYERS.index(23)],
)
lines(
    LAYERS,
    {"as it is": raw_kl.clamp(max=25), "with a constant": constant_kl},
    xlabel="before layer",
    ylabel="KL to the output (nats)",
    colours=[ORANGE, BLUE],
)

# %% [markdown]
# ## SmolLM2 on names
#
# The logit of the indirect object less that of the subject, at the end of 16 prompts, as a sum.

# %% names
N = 16
prompts = ioi_prompts(large.vocabulary, N, seed=0)
positions = prompts.positions
terms = decompose(large, prompts.clean)
frozen, recomputed = (attribute(terms, (prompts.io, prompts.s), scale=s) for s in ("frozen", "recomputed"))
at_end, again_scaled = frozen.values[:, :, -1], recomputed.values[:, :, -1]
mean = large.W_U.mean(dim=1)
of_name = {
    name: attribute(terms, (large.W_U.mT[token] - mean)) for name, token in (("IO", prompts.io), ("S", prompts.s))
}
by_source = attribute(decompose(large, prompts.clean, by="source"), (prompts.io, prompts.s))
order = at_end.mean(dim=1).abs().argsort(descending=True)[:9].tolist()


def source(head, place):
    """What a head brings from the position of a name, in each prompt."""
    every = torch.stack([by_source[f"{head} from {j}"][:, -1] for j in range(prompts.clean.shape[1])], dim=1)
    return every.gather(1, positions[place][:, None])[:, 0]


large.run_to(prompts.clean, 25, tap=(looked := record([f"blocks.{i}.attn.pattern" for i in (23, 24)])))


def attention(layer, head, place):
    rows = looked[f"blocks.{layer}.attn.pattern"][:, head, -1]
    return rows.gather(1, positions[place][:, None]).mean()


is_head = [label.replace(".", "").isdigit() for label in frozen.labels]
early = [abs(at_end[i].mean().item()) for i, label in enumerate(frozen.labels)
         if is_head[i] and int(label.split(".")[0]) < FIRST]  # fmt: skip
claim(
    prompts=N,
    ioi_total=at_end.sum(dim=0).mean(),
    ioi_total_error=error(at_end.sum(dim=0)),
    ioi_terms=len(frozen.labels),
    ioi_right=int((at_end.sum(dim=0) > 0).sum()),
    ioi_recomputed=again_scaled.sum(dim=0).mean(),
    ioi_23_3=frozen["23.3"][:, -1].mean(),
    ioi_23_3_error=error(frozen["23.3"][:, -1]),
    ioi_23_3_to_io=of_name["IO"]["23.3"][:, -1].mean(),
    ioi_23_3_to_s=of_name["S"]["23.3"][:, -1].mean(),
    ioi_23_3_to_s_error=error(of_name["S"]["23.3"][:, -1]),
    ioi_23_3_from_s2=source("23.3", "s2").mean(),
    ioi_23_3_from_io=source("23.3", "io").mean(),
    attention_23_3_s2=attention(23, 3, "s2"),
    ioi_24_4=frozen["24.4"][:, -1].mean(),
    ioi_24_4_to_io=of_name["IO"]["24.4"][:, -1].mean(),
    ioi_24_4_from_io=source("24.4", "io").mean(),
    attention_24_4_io=attention(24, 4, "io"),
    ioi_23_0=frozen["23.0"][:, -1].mean(),
    ioi_23_0_to_io=of_name["IO"]["23.0"][:, -1].mean(),
    attention_23_0_io=attention(23, 0, "io"),
    ioi_early_most=max(early),
)
table(
    [
        [frozen.labels[i], f"{shown(at_end[i].mean())} ± {error(at_end[i]):.2f}", shown(again_scaled[i].mean()),
         *(shown(of_name[name][frozen.labels[i]][:, -1].mean()) for name in ("IO", "S")),
         *(shown(source(frozen.labels[i], place).mean()) if is_head[i] else "" for place in ("io", "s1", "s2", "end"))]
        for i in order
    ],
    ["term", "IO − S", "scale recomputed", "to IO", "to S", "from IO", "from S1", "from S2", "from the end"],
)  # fmt: skip

# %% [markdown]
# ## Copy suppression
#
# For each head and each of some hundreds of tokens: attended to, is its own logit among the 5 % that fall furthest?
# Of all sampled input tokens, ranked by what they do to this token's logit. The token enters as layer 0 leaves it.

# %% suppression
spoken_ids = torch.unique(smollm2_speeches(30, 160))
ids = spoken_ids[torch.randperm(len(spoken_ids), generator=torch.Generator().manual_seed(0))[:400]]
enters = large.run_to(ids[:, None], 1)[:, 0]
U = (large.W_U[:, ids] - mean[:, None]) * large.ln_final.w[:, None]
lowest, highest = torch.zeros(30, 9), torch.zeros(30, 9)
for layer, block in enumerate(large.blocks):
    values = block.attn.W_V
    y = block.ln1(enters)
    for head in range(9):
        moved = (y @ values[head // 3]) @ (block.attn.W_O[head] @ U)  # token in, token out
        place = (moved < moved.diagonal()).float().mean(dim=0)
        lowest[layer, head], highest[layer, head] = (place < 0.05).float().mean(), (place > 0.95).float().mean()
ranked = lowest.flatten().argsort(descending=True).tolist()
claim(
    ov_tokens=len(ids),
    ov_heads=lowest.numel(),
    ov_24_4=lowest[24, 4],
    ov_23_3=lowest[23, 3],
    ov_third=lowest.flatten()[ranked[2]],
    ov_median=lowest.median(),
    ov_23_0=highest[23, 0],
    ov_top_two=len({23 * 9 + 3, 24 * 9 + 4} & set(ranked[:2])),
)
ax = panels(height=3.2)
ax.scatter(highest.flatten(), lowest.flatten(), s=14, color=GREY, alpha=0.6, linewidth=0)
for layer, head, colour, below in (
    (23, 3, ORANGE, 7), (24, 4, ORANGE, -7), (23, 0, BLUE, 7), (23, 2, BLUE, 7), (29, 6, GREY, 5), (22, 5, GREY, -6),
):  # fmt: skip
    spot = (highest[layer, head].item(), lowest[layer, head].item())
    ax.scatter(*spot, s=26, color=colour, linewidth=0)
    side, ha = (-5, "right") if head == 2 else (5, "left")
    ax.annotate(
        f"{layer}.{head}", spot, xytext=(side, below), textcoords="offset points", color=colour, va="center", ha=ha
    )
_ = ax.set(
    xlabel="own logit among the 5% that rise most",
    ylabel="among the 5% that fall most",
    xlim=(-0.02, 1),
    ylim=(-0.02, 1),
)

# %% [markdown]
# What do these heads do on speeches? Each time that one of them gives more than 0.3 of its attention to one earlier
# token (the first position does not count): what it adds to that token's logit, and where that token would rank.

# %% attended
speeches = smollm2_speeches(10, 49)
WATCHED = {"23.3": BLUE, "24.4": BLUE, "23.0": GREY, "29.0": GREY}
names = [f"blocks.{i}.attn.{part}" for i in (23, 24, 29) for part in ("pattern", "z")]
end = large.run_to(speeches, 30, tap=(seen := record(names)))
scale = (end.square().mean(dim=-1) + large.config.norm_eps).sqrt()
whole = large.unembed(end)
events, rows = {}, []
generator = torch.Generator().manual_seed(1)
for head in WATCHED:
    layer, index = map(int, head.split("."))
    pattern = seen[f"blocks.{layer}.attn.pattern"][:, index].clone()
    pattern[:, :, 0] = 0
    paid, key = pattern.max(dim=-1)
    b, q = torch.nonzero(paid > 0.3, as_tuple=True)
    token = speeches[b, key[b, q]]
    wrote = seen[f"blocks.{layer}.attn.z"][b, q, index] @ large.blocks[layer].attn.W_O[index] * large.ln_final.w

    def brings(tokens, wrote=wrote, b=b, q=q):
        return (wrote * (large.W_U.mT[tokens] - mean)).sum(dim=-1) / scale[b, q]

    own = brings(token)
    other = brings(speeches[b, torch.randint(1, 8, (len(b),), generator=generator)])
    rank = (whole[b, q] > (whole[b, q, :].gather(1, token[:, None]) - own[:, None])).sum(dim=-1)
    events[head] = (own, other, rank, paid)
    rows.append([head, len(b), f"{shown(own.mean())} ± {error(own):.2f}", shown(other.mean()),
                 int((rank < 100).sum()), shown(own[rank < 100].mean()), shown(own[rank >= 100].mean())])  # fmt: skip
claim(
    attended_positions=speeches.numel(),
    attended_23_3=len(events["23.3"][0]),
    attended_24_4=len(events["24.4"][0]),
    attended_23_3_own=events["23.3"][0].mean(),
    attended_23_3_error=error(events["23.3"][0]),
    attended_23_3_other=events["23.3"][1].mean(),
    attended_24_4_own=events["24.4"][0].mean(),
    attended_24_4_error=error(events["24.4"][0]),
    attended_23_0_own=events["23.0"][0].mean(),
    attended_23_3_negative=(events["23.3"][0] < 0).float().mean(),
)
table(
    rows,
    ["head", "times", "to that token's logit", "to another's", "would be in the top 100", "then", "otherwise"],
)

# %% removed-there
cost, few_speeches = {}, speeches[:6, :33]
base_loss = losses(large, few_speeches)
base_names = prompts.each(large(prompts.clean)[:, -1])
for head in ("23.3", "24.4", "23.0"):
    layer, index = map(int, head.split("."))
    tap = ablate(f"blocks.{layer}.attn.z", "mean", heads=index, across_positions=True)
    on_text = (losses(lambda t, tap=tap: large(t, tap=tap), few_speeches) - base_loss).mean(dim=1)
    on_names = prompts.each(large(prompts.clean, tap=tap)[:, -1]) - base_names
    cost[head] = (on_names, on_text)
claim(
    **{f"away_{head.replace('.', '_')}_names": x[0].mean() for head, x in cost.items()},
    **{f"away_{head.replace('.', '_')}_text": x[1].mean() for head, x in cost.items()},
    away_23_3_text_error=error(cost["23.3"][1]),
    away_24_4_text_error=error(cost["24.4"][1]),
)
table(
    [[head, f"{shown(a.mean())} ± {error(a):.2f}", f"{shown(b.mean(), 3)} ± {error(b):.3f}"]
     for head, (a, b) in cost.items()],
    ["head at its mean", "IO − S moves by", "loss on speeches rises by (nats)"],
)  # fmt: skip

# %% [markdown]
# ## Self-repair, in three exact parts
#
# Measured once for all heads of layers 12 to 29 (`residual measure smollm2-self-repair`); one is measured again here.

# %% repair
kept, card = load_result("smollm2-self-repair")


def part(data, how, name):
    """[head] means."""
    return kept[data][:, :, PUT_IN.index(how), PARTS.index(name), 0].flatten()


heads = [f"{FIRST + layer}.{head}" for layer in range(18) for head in range(9)]
strong = part("largest", "zero", "direct") > 0.3
shares = {}
for how in PUT_IN:
    direct, later, scale_part, bare = (
        part("largest", how, name)[strong] for name in ("direct", "later", "scale", "alone")
    )
    shares[how] = {
        "repair": ((later + scale_part).sum() / direct.sum()).item(),
        "later": (later.sum() / direct.sum()).item(),
        "scale": (scale_part.sum() / direct.sum()).item(),
        "alone": (bare.sum() / direct.sum()).item(),
        "mixed": (part("largest", how, "mixed")[strong].sum() / direct.sum()).item(),
        "repaired": int((later + scale_part > 0).sum()),
        "of_repair": (scale_part.sum() / (later + scale_part).sum()).item(),
    }
ioi_heads = [heads.index(h) for h in ("23.3", "24.4", "29.1", "23.0", "29.0")]
names_of = {name: part("ioi", "resample", name) for name in PARTS}
claim(
    repair_heads=len(heads),
    repair_strong=int(strong.sum()),
    repair_largest=LARGEST,
    repair_seconds=card.seconds,
    repair_differs=spot_check("smollm2-self-repair", places=1, seed=int(card.sha256[:4], 16)),
    ioi_23_3_repair=(names_of["later"] + names_of["scale"])[ioi_heads[0]],
    ioi_23_3_direct=names_of["direct"][ioi_heads[0]],
    ioi_24_4_repair=(names_of["later"] + names_of["scale"])[ioi_heads[1]],
    ioi_24_4_direct=names_of["direct"][ioi_heads[1]],
    ioi_23_0_direct=names_of["direct"][ioi_heads[3]],
    ioi_23_0_later=names_of["later"][ioi_heads[3]],
    ioi_23_0_scale=names_of["scale"][ioi_heads[3]],
    **{f"{how}_{name}": value for how, row in shares.items() for name, value in row.items()},
)
table(
    [
        [how, *(shown(row[name]) for name in ("repair", "later", "scale", "alone")),
         f"{row['repaired']} of {int(strong.sum())}"]
        for how, row in shares.items()
    ],
    ["put in its place", "repaired, of the direct effect", "by later parts", "by the scale",
     "scale, nothing else moving", "heads with repair"],
)  # fmt: skip

# %% repair-by-head
axes = panels(1, 2, height=2.9, sharey=True)
for ax, how in zip(axes, ("resample", "projected"), strict=True):
    direct = part("largest", how, "direct")[strong]
    for name, colour in (("later", ORANGE), ("scale", BLUE)):
        ax.scatter(direct, part("largest", how, name)[strong], s=16, color=colour, alpha=0.8, linewidth=0)
    ax.axhline(0, color=GREY, linewidth=0.7)
    ax.set(xlabel="direct effect (logits)")
    ax.set_title({"resample": "another text's output", "projected": "own output, logit removed"}[how])
axes[0].set_ylabel("repaired by (logits)")
axes[1].text(0.97, 0.95, "later parts", color=ORANGE, transform=axes[1].transAxes, ha="right", va="top")
_ = axes[1].text(0.97, 0.86, "the scale", color=BLUE, transform=axes[1].transAxes, ha="right", va="top")

# %% who-answers
splits = SelfRepair(large, prompts.clean, (large.W_U[:, prompts.io] - large.W_U[:, prompts.s]).mT[:, None])
answer = splits("23.3", "resample", by_part=True)
responses = answer.by_part[:, :, -1].mean(dim=1)
largest = responses.abs().argsort(descending=True)[:6].tolist()
claim(
    answers_sum=(answer.by_part.sum(dim=0) - answer.later).abs().max(),
    answers_later=answer.later[:, -1].mean(),
    answers_up=responses.clamp(min=0).sum(),
    answers_down=-responses.clamp(max=0).sum(),
)
table(
    [[answer.labels[i], f"{shown(responses[i])} ± {error(answer.by_part[i, :, -1]):.2f}"] for i in largest],
    ["later part", "its change when 23.3 is replaced"],
)

# %% [markdown]
# A push with nothing else in it: one logit is taken away along a direction, and later parts give a share of it back.
# The direction of the next token's logit; of another token's; and a random direction that no token has.

# %% push
DEPTHS, PUSHED = (13, 21, 28), ("the next token's", "another token's", "a random direction's")


def directions(model, tokens):
    """Return three directions at each position: the next token's, that of a token of another text, a random one."""
    right, other = next_token_direction(model, tokens), next_token_direction(model, tokens.roll(1, dims=0))
    noise = torch.randn(right.shape, generator=torch.Generator().manual_seed(2))
    noise = noise * right.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    return dict(zip(PUSHED, (right, other, noise), strict=True))


def push(run, layer, size=1.0):
    """Take ``size`` logits away along the run's direction, before the MLP of a layer."""
    wrote = run.seen[f"blocks.{layer}.attn.z"][:, :, 0] @ run.model.blocks[layer].attn.W_O[0]
    away = run.s[..., None] * run.read / run.read.square().sum(dim=-1, keepdim=True).clamp(min=1e-9)
    found = run(f"{layer}.0", wrote - size * away.float())
    stream = run.seen[f"blocks.{layer}.resid_pre"]
    return {
        **{name: getattr(found, name)[:, 1:-1].mean(dim=1) / size for name in ("direct", "later", "scale")},
        "length": (size * away.norm(dim=-1) / stream.norm(dim=-1))[:, 1:-1].mean(),
    }


some = smollm2_speeches(6, 33)
runs = {kind: SelfRepair(large, some, direction) for kind, direction in directions(large, some).items()}
pushes = {(kind, layer): push(run, layer) for kind, run in runs.items() for layer in DEPTHS}
tenth = push(runs["another token's"], 21, size=0.1)
claim(
    push_direct=max((x["direct"] - 1).abs().max() for x in pushes.values()),
    **{
        f"push_{short}_{layer}": pushes[kind, layer]["later"].mean()
        for short, kind in zip(("next", "other", "random"), PUSHED, strict=True)
        for layer in DEPTHS
    },
    push_error=max(error(x["later"]) for x in pushes.values()),
    push_tenth=tenth["later"].mean(),
    push_scale_most=max(x["scale"].mean().abs() for x in pushes.values()),
    push_length_least=min(x["length"] for x in pushes.values()),
    push_length_most=max(x["length"] for x in pushes.values()),
)
table(
    [[f"layer {layer}", *(f"{shown(pushes[kind, layer]['later'].mean())} ± {error(pushes[kind, layer]['later']):.2f}"
                          for kind in PUSHED)] for layer in DEPTHS],
    ["one logit taken away before the MLP of", *PUSHED],
)  # fmt: skip

# %% push-small
small_pushes = {}
for name, held in (("house", data.validation), ("gpt", corpus().validation)):
    other, some = load(name).model, windows(held, 16, 65, step=3)
    for kind, direction in directions(other, some).items():
        run = SelfRepair(other, some, direction)
        for layer in range(1, other.config.n_layers):
            small_pushes[name, layer, kind] = push(run, layer)["later"]
at_tokens, at_random = (
    {key: x.mean() for key, x in small_pushes.items() if (key[2] == PUSHED[2]) is wanted} for wanted in (False, True)
)
claim(
    small_push_token_least=min(at_tokens.values()),
    small_push_token_most=max(at_tokens.values()),
    small_push_random_most=max(at_random.values()),
    small_push_error=max(error(x) for x in small_pushes.values()),
)
table(
    [[name, layer, *(f"{shown(small_pushes[name, layer, kind].mean())} ± {error(small_pushes[name, layer, kind]):.2f}"
                     for kind in PUSHED)] for name, layer in dict.fromkeys(key[:2] for key in small_pushes)],
    ["model", "layer", *PUSHED],
)  # fmt: skip

# %% [markdown]
# ## Pairs that cancel in SmolLM2
#
# Terms of the next token's logit on speeches whose ranks run against each other over positions.

# %% pairs
some = smollm2_speeches(8, 33)
reads = next_token_direction(large, some)
spoken_terms = decompose(large, some, by="component")
s = (spoken_terms.stream.square().mean(dim=-1) + large.config.norm_eps).sqrt()
credit = (spoken_terms.along(reads * large.ln_final.w) / s)[:, :, 1:-1].flatten(1)  # term position
loud = [i for i in range(len(credit)) if credit[i].std() > 0.4]
R = np.corrcoef(np.stack([ranks(credit[i]) for i in loud]))
shuffled = np.stack([ranks(credit[i][torch.randperm(credit.shape[1], generator=generator)]) for i in loud])
chance = np.abs(np.corrcoef(shuffled) - np.eye(len(loud))).max()
pairs = sorted((R[a, b], loud[b], loud[a]) for a in range(len(loud)) for b in range(a))[:4]
labels = spoken_terms.labels
rows = []
for r, one, two in pairs:
    first, second = sorted((one, two))
    rows.append([labels[first], labels[second], r, credit[first].std().item(), credit[second].std().item(),
                 (credit[first] + credit[second]).std().item()])  # fmt: skip
# is the later term an answer to the earlier? put the earlier at its mean and look at the later again
first, second = sorted(pairs[0][1:])
name = f"blocks.{labels[first].split('.')[1]}.{'mlp_out' if labels[first].startswith('mlp') else 'attn_out'}"
later_name = f"blocks.{labels[second].split('.')[1]}.{'mlp_out' if labels[second].startswith('mlp') else 'attn_out'}"
large.run_to(some, 30, tap=(base := record([name, later_name])))
tap = ablate(name, "mean", base, across_positions=True)
large.run_to(some, 30, tap=compose(tap, changed := record(later_name)))
moves = (((changed[later_name] - base[later_name]) * reads * large.ln_final.w).sum(dim=-1) / s)[:, 1:-1].flatten()
removed_part = (
    credit[first]
    - (base[name].mean(dim=(0, 1)) * reads * large.ln_final.w).sum(dim=-1)[:, 1:-1].flatten() / s[:, 1:-1].flatten()
)
answering = (moves * (removed_part - removed_part.mean())).mean() / removed_part.var()
claim(
    pairs_loud=len(loud),
    pairs_chance=chance,
    pairs_strongest=pairs[0][0],
    pair_first_std=rows[0][3],
    pair_second_std=rows[0][4],
    pair_sum_std=rows[0][5],
    pair_answers=answering,
    pair_slope=-pairs[0][0] * rows[0][4] / rows[0][3],
    pair_mean_first=credit[first].mean(),
)
table(
    [[a, b, shown(r), *map(shown, rest)] for a, b, r, *rest in rows],
    ["term", "later term", "rank correlation", "spread of the first", "of the second", "of the sum"],
)
