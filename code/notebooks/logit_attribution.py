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
from residual.experiments.ioi import S2, ioi_prompts
from residual.experiments.measure import spot_check
from residual.experiments.repairs import FIRST, LARGEST, PARTS, PUT_IN, held_out_speeches
from residual.files.results import load_result
from residual.methods.attribution import attribute, decompose
from residual.methods.induction import previous_token_score, repeats
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
    lens_loss,
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
held = held_out_speeches(large.vocabulary, 24, 160)


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
        self.scaled = {how: x * (self.total(how) / x.mean(dim=1).sum()) for how, x in self.removed.items()}

    def by_order(self, how, order):
        """Return what each head gains as heads are added in an order, and in its reversal, on average."""
        values, gains = self.values[how], torch.zeros_like(self.removed[how])
        for way in (order, order[::-1]):
            s = 0
            for head in way:
                gains[head] += (values[s | 1 << head] - values[s]) / 2
                s |= 1 << head
        return {how: gains}

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
    "single ablation, scaled": lambda g: g.scaled,
    "alone": lambda g: g.alone,
    "both ends": lambda g: g.both_ends,
}
grades = {
    (method, name, how): np.array([g[name].grade(of(g[name]), how) for g in graded])
    for method, of in METHODS.items()
    for name in DATA
    for how in ("zero", "mean")
}
generator = np.random.default_rng(0)
orders = [generator.permutation(8).tolist() for _ in range(50)]
reversed_too = {
    (name, how): np.array([[g[name].grade(g[name].by_order(how, order), how) for order in orders] for g in graded])
    for name in DATA
    for how in ("zero", "mean")
}
grades |= {("an order and its reversal", *key): values.mean(axis=1) for key, values in reversed_too.items()}
spoken = [(g["speeches"].attribution["mean"][movers[seed]].mean(), g["speeches"].shapley["mean"][movers[seed]].mean())
          for seed, g in enumerate(graded)]  # fmt: skip
ends_sums = [(g[name].both_ends[how].mean(dim=1).sum() / g[name].total(how)).item()
             for g in graded for name in DATA for how in ("zero", "mean")]  # fmt: skip
better = [grades["single ablation, scaled", *key][:, 2].max() / grades["both ends", *key][:, 2].max()
          for key in reversed_too]  # fmt: skip
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
    mover_spoken_credited=spoken[0][0],
    mover_spoken_true=spoken[0][1],
    spoken_total=graded[0]["speeches"].total("mean"),
    ends_better_least=min(better),
    ends_better_most=max(better),
    reversal_most=max(values[..., 2].max() for values in reversed_too.values()),
    ends_sum_least=min(ends_sums),
    ends_sum_most=max(ends_sums),
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
        found.append((seed, head, wrote[head], passed[head], at.removed["mean"][head], at.removed["zero"][head]))
erased = [min((row for row in found if row[0] == seed), key=lambda row: row[3].mean()) for seed in SEEDS]
claim(
    erased_wrote_least=min(row[2].mean() for row in erased),
    erased_wrote_most=max(row[2].mean() for row in erased),
    erased_passed_least=-max(row[3].mean() for row in erased),
    erased_passed_most=-min(row[3].mean() for row in erased),
    erased_error=max(error(x) for row in erased for x in row[2:4]),
    erased_cost_most=max(row[4].mean().abs() for row in erased),
    erased_zero_least=min(row[5].mean() for row in erased),
    erased_zero_most=max(row[5].mean() for row in erased),
    erased_left_most=max(row[2].mean() + row[3].mean() for row in erased),
    erased_over=sum(bool(row[2].mean() + row[3].mean() < 0) for row in erased),
)
table(
    [
        [seed, f"0.{head}", *(f"{shown(x.mean())} ± {error(x):.2f}" for x in (wrote, passed, wrote + passed, *costs))]
        for seed, head, wrote, passed, *costs in erased
    ],
    [
        "seed",
        "head",
        "writes along the logit",
        "later heads, reading it",
        "together",
        "lost if put at its mean",
        "at zero",
    ],
)

# %% [markdown]
# ## Lenses for `house`
#
# Four layers with LayerNorm, MLPs, its own unembedding. Fitted on training text, measured on held-out text.

# %% lenses
reader = load("house").model.requires_grad_(False)
data = house()
learn, test = windows(data.train, 64, 128, step=0), windows(data.validation, 24, 128, step=1)
x_learn, x_test = streams(reader, learn), streams(reader, test)
final = reader.unembed(x_test[-1])
tuned = load("house-lens")
trained = fit_bias(x_learn)  # the constant again, trained on the loss of the tuned lens
optimizer = torch.optim.Adam([trained.b], 3e-2)
with torch.enable_grad():
    for step in range(40):
        rows = torch.randint(len(learn), (4,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        lens_loss(reader, trained, x_learn[:, rows]).backward()
        optimizer.step()
lenses = {
    "logit lens": TunedLens(LensConfig(4, 256)),
    "a constant": fit_bias(x_learn),
    "a constant, trained": trained,
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
mean_kl = {name: m["KL"].mean(dim=1) for name, m in measured.items()}
gap = mean_kl["logit lens"]
claim(
    lens_tokens=learn.numel(),
    lens_test=test.numel(),
    lens_trained_tokens=tuned.card.training["tokens"],
    lens_parameters=sum(weight.numel() for weight in tuned.model.parameters()),
    lens_error=max(error(x) for m in measured.values() for x in m["KL"]),
    constant_closes_least=((gap - mean_kl["a constant"]) / gap)[1:].min(),
    constant_closes_most=((gap - mean_kl["a constant"]) / gap)[1:].max(),
    trained_closes_least=((gap - mean_kl["a constant, trained"]) / gap)[1:].min(),
    trained_closes_most=((gap - mean_kl["a constant, trained"]) / gap)[1:].max(),
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
spoken = held[-8:, :29]
x = streams(large, spoken)
# The first position is unlike all others, and so is another: massive activations, a stream many times as long.
length = x[15, :4, 1:].norm(dim=-1)
ordinary = length < 5 * length.median()
constant = fit_bias(x[:, :4, 1:][:, ordinary])
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
    lens_massive=int((~ordinary).sum()),
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
    lens_middle=len(closes),
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


# with a third name in the place of S2, so that no name comes twice
end = large.run_to(prompts.abc, 30, tap=(third := record(["blocks.23.attn.pattern", "blocks.23.attn.z"])))[:, -1]
wrote = third["blocks.23.attn.z"][:, -1, 3] @ large.blocks[23].attn.W_O[3] * large.ln_final.w
third_name = large.W_U.mT[prompts.abc[:, S2]] - mean
to_third = (wrote * third_name).sum(dim=-1) / (end.square().mean(dim=-1) + large.config.norm_eps).sqrt()
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
    third_attention=third["blocks.23.attn.pattern"][:, 3, -1, S2].mean(),
    third_own=to_third.mean(),
    third_error=error(to_third),
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
spoken_ids = torch.unique(held)
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
# token: what it adds to that token's logit, and where that token would rank without that. Positions with a massive
# activation do not count; heads park their attention there.

# %% attended
speeches = held[:16, :100]
WATCHED = {"23.3": BLUE, "24.4": BLUE, "23.0": GREY, "29.0": GREY}
names = [f"blocks.{i}.attn.{part}" for i in (23, 24, 29) for part in ("pattern", "z")]
end = large.run_to(speeches, 30, tap=(seen := record(["blocks.23.resid_pre", *names])))
scale = (end.square().mean(dim=-1) + large.config.norm_eps).sqrt()
length = seen["blocks.23.resid_pre"].norm(dim=-1)
massive = length > 5 * length.median()
events, rows = {}, []
generator = torch.Generator().manual_seed(1)


def mean_and_error(x):
    return f"{shown(x.mean())} ± {error(x):.2f}" if len(x) > 1 else ""


for head in WATCHED:
    layer, index = map(int, head.split("."))
    pattern = seen[f"blocks.{layer}.attn.pattern"][:, index].masked_fill(massive[:, None], 0)
    paid, key = pattern.max(dim=-1)
    b, q = torch.nonzero(paid > 0.3, as_tuple=True)
    token = speeches[b, key[b, q]]
    wrote = seen[f"blocks.{layer}.attn.z"][b, q, index] @ large.blocks[layer].attn.W_O[index] * large.ln_final.w

    def brings(tokens, wrote=wrote, b=b, q=q):
        return (wrote * (large.W_U.mT[tokens] - mean)).sum(dim=-1) / scale[b, q]

    own = brings(token)
    other = brings(speeches[(b + torch.randint(1, 8, (len(b),), generator=generator)) % len(speeches), q])
    there = large.unembed(end[b, q])
    candidate = (there > (there.gather(1, token[:, None]) - own[:, None])).sum(dim=-1) < 100
    events[head] = (own, other, candidate)
    rows.append([head, len(b), mean_and_error(own), shown(other.mean()), int(candidate.sum()),
                 mean_and_error(own[candidate]), mean_and_error(own[~candidate])])  # fmt: skip
claim(
    attended_positions=speeches.numel(),
    attended_massive=int(massive[:, 1:].sum()),
    **{
        f"attended_{head.replace('.', '_')}_{name}": value
        for head, (own, other, candidate) in events.items()
        for name, value in {
            "times": len(own),
            "own": own.mean(),
            "error": error(own),
            "other": other.mean(),
            "others": int((~candidate).sum()),
            "not_candidate": own[~candidate].mean(),
            "not_candidate_error": error(own[~candidate]),
        }.items()
    },
)
table(
    rows,
    ["head", "times", "to that token's logit", "to another's", "would be in the top 100", "then", "otherwise"],
)

# %% [markdown]
# And what happens without each? On 48 prompts that were not used so far, and on the speeches from above.

# %% removed-there
fresh = ioi_prompts(large.vocabulary, 48, seed=1)
on_fresh = SelfRepair(large, fresh.clean, (large.W_U[:, fresh.io] - large.W_U[:, fresh.s]).mT)
before, following = seen["blocks.23.resid_pre"][:, :33], speeches[:, 1:34, None]


def credited(head):
    """What attribution gives a head on the fresh prompts."""
    layer, index = map(int, head.split("."))
    wrote = on_fresh.seen[f"blocks.{layer}.attn.z"][:, -1, index] @ large.blocks[layer].attn.W_O[index]
    return (wrote * on_fresh.read[:, -1]).sum(dim=-1) / on_fresh.s[:, -1]


def spoken_loss(tap=None):
    return -large.run_from(23, before, tap=tap).log_softmax(dim=-1).gather(2, following)[..., 0]


cost, base_loss = {}, spoken_loss()
for head in ("23.3", "24.4", "23.0"):
    layer, index = map(int, head.split("."))
    tap = ablate(f"blocks.{layer}.attn.z", "mean", heads=index, across_positions=True)
    on_text = (spoken_loss(tap) - base_loss).mean(dim=1)
    cost[head] = (credited(head), on_fresh(head, "mean").change[:, -1], on_text)
claim(
    fresh_prompts=len(fresh.io),
    fresh_total=on_fresh.logit[:, -1].mean(),
    removed_positions=base_loss.numel(),
    **{
        f"away_{head.replace('.', '_')}_{name}": value
        for head, rows in cost.items()
        for kind, x in zip(("credit", "names", "text"), rows, strict=True)
        for name, value in ((kind, x.mean()), (f"{kind}_error", error(x)))
    },
    **{
        f"away_24_4_{kind}_{order}": x[first == (order == "io_first")].mean()
        for first in [fresh.io_first]
        for kind, x in zip(("credit", "names"), cost["24.4"][:2], strict=True)
        for order in ("io_first", "s_first")
    },
)
table(
    [[head, f"{shown(a.mean())} ± {error(a):.2f}", *(shown(a[at].mean()) for at in (fresh.io_first, ~fresh.io_first)),
      f"{shown(b.mean())} ± {error(b):.2f}", f"{shown(c.mean(), 3)} ± {error(c):.3f}"]
     for head, (a, b, c) in cost.items()],
    ["head", "credited", "if IO comes first", "if S does", "IO − S moves by, at its mean",
     "loss on speeches rises by (nats)"],
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
claim(
    repair_heads=len(heads),
    repair_strong=int(strong.sum()),
    repair_largest=LARGEST,
    repair_seconds=card.seconds,
    repair_differs=spot_check("smollm2-self-repair", places=1, seed=int(card.sha256[:4], 16)),
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

# %% [markdown]
# Along which direction? The mean of the columns of $W_U$ that speeches use, less that of all, is the direction in which
# the stream says "some common token" (f). Later parts' response is linear in the reading, so it splits exactly.

# %% along-f
spoken_large = held[:16].flatten()  # the last eight are for measuring
common = (large.W_U.mT[spoken_large] - mean).mean(dim=0)


def principal_directions(model):
    """Return the variance of W_U's columns along each principal direction, and the directions [d_model direction]."""
    mean = model.W_U.mean(dim=1)
    found = torch.linalg.eigh(model.W_U @ model.W_U.mT - model.config.d_vocab * torch.outer(mean, mean))
    return found.eigenvalues.flip(0).clamp(min=0), found.eigenvectors.flip(1)


def without(u, f):
    """Return the directions u less their component along f."""
    return u - (u @ f)[..., None] * f / f.square().sum()


some = held[-4:, :41]
direction = next_token_direction(large, some)
clean = SelfRepair(large, some, direction)
free = without(direction, common)
principal = principal_directions(large)
few = torch.linalg.qr(without(principal[1][:, 1:6].mT, common).mT).Q  # directions 2 to 6, at right angles to f
other_token = next_token_direction(large, some.roll(1, dims=0))
ALONG = {
    "next token": direction,
    "along f": direction - free,
    "f removed": free,
    "directions 2 to 6 of that": free @ few @ few.mT,
    "less another's": direction - other_token,
}
sums = {name: [0.0, 0.0] for name in ALONG}
for head in (h for h, wanted in zip(heads, strong, strict=True) if wanted):
    layer, index = map(int, head.split("."))
    delta, changed_end = clean.rerun(head, "resample")
    wrote = clean.seen[f"blocks.{layer}.attn.z"][:, :, index] @ large.blocks[layer].attn.W_O[index]
    top = ((wrote * direction * large.ln_final.w).sum(dim=-1) / clean.s)[:, :-1].flatten().topk(LARGEST).indices
    for name, u in ALONG.items():
        moved = [((x * u * large.ln_final.w).sum(dim=-1) / clean.s)[:, :-1].flatten()[top].mean().item()
                 for x in (-delta, changed_end - clean.end - delta)]  # fmt: skip
        sums[name] = [a + b for a, b in zip(sums[name], moved, strict=True)]
claim(
    common_cosine=torch.nn.functional.cosine_similarity(other_token[:, :-1], common, dim=-1).mean(),
    along_later=sums["next token"][1],
    along_f_later=sums["along f"][1],
    **{f"along_{key}": sums[name][1] / sums[name][0]
       for key, name in zip(("all", "f", "free", "few", "contrast"), ALONG, strict=True)},
    along_few_later=sums["directions 2 to 6 of that"][1],
    common_principal=torch.nn.functional.cosine_similarity(principal[1][:, 0], common, dim=0).abs(),
)  # fmt: skip
table(
    [[name, shown(a, 1), shown(b, 1), shown(b / a)] for name, (a, b) in sums.items()],
    ["read along", "direct effect, 46 heads", "later parts", "share"],
)

# %% [markdown]
# On names, the 48 fresh prompts: another prompt's output in the place of a head.

# %% repair-on-names
to_name = [on_fresh.toward(large.W_U.mT[name] - mean) for name in (fresh.io, fresh.s)]
answers = [splits("23.3", "resample", by_part=True) for splits in to_name]
on_contrast = {
    "23.3": [getattr(answers[0], name) - getattr(answers[1], name) for name in ("direct", "later", "scale")],
    **{head: [getattr(on_fresh(head, "resample"), name) for name in ("direct", "later", "scale")]
       for head in ("24.4", "23.0")},
}  # fmt: skip
on_contrast = {head: torch.stack(rows)[:, :, -1] for head, rows in on_contrast.items()}  # part prompt
claim(
    **{
        f"names_{head.replace('.', '_')}_{name}": value
        for head, rows in on_contrast.items()
        for kind, x in zip(("direct", "later", "scale", "repair"), (*rows, rows[1] + rows[2]), strict=True)
        for name, value in ((kind, x.mean()), (f"{kind}_error", error(x)))
    }
)
table(
    [
        [head, *(f"{shown(x.mean())} ± {error(x):.2f}" for x in (*rows, rows[1] + rows[2]))]
        for head, rows in on_contrast.items()
    ],
    ["head", "direct effect on IO − S", "later parts", "scale", "repair"],
)

# %% who-answers
labels = answers[0].labels
by_name = [answer.by_part[:, :, -1] for answer in answers]
both = by_name[0] - by_name[1]
responses = both.mean(dim=1)
largest = responses.abs().argsort(descending=True)[:6].tolist()
claim(
    answers_sum=max((answer.by_part.sum(dim=0) - answer.later).abs().max() for answer in answers),
    **{
        f"answers_{head.replace('.', '_')}_{name}": part[labels.index(head)].mean()
        for head in ("24.4", "29.1")
        for name, part in zip(("io", "s"), by_name, strict=True)
    },
    answers_up=responses.clamp(min=0).sum(),
    answers_down=-responses.clamp(max=0).sum(),
)
table(
    [[labels[i], *(f"{shown(x[i].mean())} ± {error(x[i]):.2f}" for x in (both, *by_name))] for i in largest],
    ["later part", "change of IO − S when 23.3 is replaced", "to IO", "to S"],
)

# %% [markdown]
# A push with nothing else in it: one logit is taken away along a direction, and later parts give a share of it back.

# %% push
DEPTHS = (13, 21, 28)


def directions(run, tokens, f, principal):
    """Return directions at each position, [batch pos d_model]: of tokens, of f, and of controls that are no tokens."""
    model, generator = run.model, torch.Generator().manual_seed(2)
    right, other = next_token_direction(model, tokens), next_token_direction(model, tokens.roll(1, dims=0))
    (variance, vectors), mean = principal, model.W_U.mean(dim=1)
    choices = model.unembed(run.end).topk(100).indices
    drawn = torch.randint(model.config.d_vocab, tokens.shape, generator=generator)
    of_choice, of_hundredth, of_drawn = (model.W_U.mT[ids] - mean for ids in (choices[..., 0], choices[..., 99], drawn))
    some = [torch.randn(*tokens.shape, n, generator=generator) for n in (5, len(variance), len(variance))]
    few, mixed = without(some[0] @ vectors[:, 1:6].mT, f), (some[1] * variance.sqrt()) @ vectors.mT
    few, mixed, noise = (
        x * right.norm(dim=-1, keepdim=True) / x.norm(dim=-1, keepdim=True) for x in (few, mixed, some[2])
    )
    return {
        "next token": right,
        "token of another speech": other,
        "f alone": f.expand_as(right),
        "next token, f removed": without(right, f),
        "another's token, f removed": without(other, f),
        "the model's first choice, f removed": without(of_choice, f),
        "its hundredth choice, f removed": without(of_hundredth, f),
        "token drawn uniformly": of_drawn,
        "principal directions 2 to 6 of W_U, f removed": few,
        "Gaussian, covariance of W_U's columns": mixed,
        "Gaussian, isotropic": noise,
    }


SHORT = ("next", "other", "f", "nextfree", "free", "choice", "hundredth", "drawn", "principal", "mixed", "random")


def push(run, u, layer, size=1.0):
    """Take ``size`` logits away along u before a layer's MLP; return the share given back, and the push's length."""
    read = u * run.norm.w
    read = (read if run.norm.b is None else read - read.mean(dim=-1, keepdim=True)).double()
    away = size * run.s[..., None] * read / read.square().sum(dim=-1, keepdim=True).clamp(min=1e-9)
    wrote = run.seen[f"blocks.{layer}.attn.z"][:, :, 0] @ run.model.blocks[layer].attn.W_O[0]
    delta, end = run.rerun(f"{layer}.0", wrote - away.float())
    back = ((end - run.end - delta) * read).sum(dim=-1) / run.s / size
    return back, away.norm(dim=-1) / run.seen[f"blocks.{layer}.resid_pre"].norm(dim=-1)


some = held[-6:, :33]
clean = SelfRepair(large, some, next_token_direction(large, some))
ways = directions(clean, some, common, principal)
pushes = {(kind, layer): push(clean, u, layer) for kind, u in ways.items() for layer in DEPTHS}
shares = {key: back[:, 1:-1].mean(dim=1) for key, (back, _) in pushes.items()}
lengths = [length[:, 1:-1].mean() for _, length in pushes.values()]
tenth = push(clean, ways["token of another speech"], 21, size=0.1)[0][:, 1:-1].mean()
contrast = (large.W_U.mT[fresh.io] - large.W_U.mT[fresh.s])[:, None].expand_as(on_fresh.end)
on_names = {layer: push(on_fresh, contrast, layer)[0][:, -1] for layer in (23, 28)}
# the next token where the model expects it, and where it does not
expected = large.unembed(clean.end[:, :-1]).softmax(dim=-1).gather(2, some[:, 1:, None])[:, 1:, 0]
given_back = pushes["next token, f removed", 28][0][:, 1:-1]
sure, unlikely = given_back[expected > 0.5], given_back[expected < 0.01]
claim(
    **{f"push_{short}_{layer}": shares[kind, layer].mean()
       for short, kind in zip(SHORT, ways, strict=True) for layer in DEPTHS},
    push_error=max(error(x) for x in shares.values()),
    push_tenth=tenth,
    push_length_least=min(lengths),
    push_length_most=max(lengths),
    push_sure=sure.mean(),
    push_sure_error=error(sure),
    push_sure_times=len(sure),
    push_unlikely=unlikely.mean(),
    push_unlikely_error=error(unlikely),
    push_unlikely_times=len(unlikely),
    push_names_23=on_names[23].mean(),
    push_names_28=on_names[28].mean(),
    push_names_error=max(error(x) for x in on_names.values()),
)  # fmt: skip
table(
    [[kind, *(f"{shown(shares[kind, layer].mean())} ± {error(shares[kind, layer]):.2f}" for layer in DEPTHS)]
     for kind in ways],
    ["one logit taken away along", *(f"before the MLP of {layer}" for layer in DEPTHS)],
)  # fmt: skip

# %% push-small
small_pushes = {}
for name, unseen, learned in (("house", data.validation, data.train), ("gpt", corpus().validation, corpus().train)):
    other, some = load(name).model, windows(unseen, 16, 65, step=3)
    often = torch.bincount(learned[:200_000], minlength=other.config.d_vocab) / 200_000
    run = SelfRepair(other, some, next_token_direction(other, some))
    ways = directions(run, some, other.W_U @ often - other.W_U.mean(dim=1), principal_directions(other))
    for layer in range(1, other.config.n_layers):
        for kind, u in ways.items():
            small_pushes[name, layer, kind] = push(run, u, layer)[0][:, 1:-1].mean(dim=1)
places = list(dict.fromkeys(key[:2] for key in small_pushes))
by_kind = {short: [small_pushes[*place, kind].mean() for place in places]
           for short, kind in zip(SHORT, ways, strict=True)}  # fmt: skip
claim(
    **{f"small_push_{short}_least": min(x) for short, x in by_kind.items()},
    **{f"small_push_{short}_most": max(x) for short, x in by_kind.items()},
    small_push_error=max(error(x) for x in small_pushes.values()),
)
table(
    [[kind, *(f"{shown(small_pushes[*place, kind].mean())} ± {error(small_pushes[*place, kind]):.2f}"
              for place in places)] for kind in ways],
    ["one logit taken away along", *(f"{name}, layer {layer}" for name, layer in places)],
)  # fmt: skip

# %% [markdown]
# ## Pairs that cancel in SmolLM2
#
# Terms of the next token's logit on speeches whose ranks run against each other over positions.

# %% pairs
some = held[-8:, :33]
reads = next_token_direction(large, some)
spoken_terms = decompose(large, some, by="component")
s = (spoken_terms.stream.square().mean(dim=-1) + large.config.norm_eps).sqrt()
credit = (spoken_terms.along(reads * large.ln_final.w) / s)[:, :, 1:-1].flatten(1)  # term position
loud = [i for i in range(len(credit)) if credit[i].std() > 0.4]
R = np.corrcoef(np.stack([ranks(credit[i]) for i in loud]))
shuffled = np.stack(
    [ranks(credit[i][torch.randperm(credit.shape[1], generator=torch.Generator().manual_seed(i))]) for i in loud]
)
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
large.run_to(some, 30, tap=(base := record([name, later_name, "blocks.15.resid_pre"])))
tap = ablate(name, "mean", base, across_positions=True)
large.run_to(some, 30, tap=compose(tap, changed := record(later_name)))
moves = (((changed[later_name] - base[later_name]) * reads * large.ln_final.w).sum(dim=-1) / s)[:, 1:-1].flatten()
removed_part = (
    credit[first]
    - (base[name].mean(dim=(0, 1)) * reads * large.ln_final.w).sum(dim=-1)[:, 1:-1].flatten() / s[:, 1:-1].flatten()
)
answering = (moves * (removed_part - removed_part.mean())).mean() / removed_part.var()
# the slope itself, without the positions with massive activations, and the ranks without the common-token direction
length = base["blocks.15.resid_pre"][:, 1:-1].norm(dim=-1).flatten()
ordinary = length < 5 * length.median()
one, two = credit[first].numpy(), credit[second].numpy()
no_f = (spoken_terms.along(without(reads, common) * large.ln_final.w) / s)[:, :, 1:-1].flatten(1)
claim(
    pair_slope_ordinary=-np.polyfit(one[ordinary], two[ordinary], 1)[0],
    pair_ranks_free=np.corrcoef(ranks(no_f[first]), ranks(no_f[second]))[0, 1],
    pairs_loud=len(loud),
    pairs_chance=chance,
    pairs_strongest=pairs[0][0],
    pair_first_std=rows[0][3],
    pair_second_std=rows[0][4],
    pair_sum_std=rows[0][5],
    pair_answers=answering,
    pair_slope=-np.polyfit(one, two, 1)[0],
    pair_mean_first=credit[first].mean(),
)
table(
    [[a, b, shown(r), *map(shown, rest)] for a, b, r, *rest in rows],
    ["term", "later term", "rank correlation", "spread of the first", "of the second", "of the sum"],
)
