# %% [markdown]
# # Activation patching
#
# Everything that the note [activation-patching](../../docs/notes/activation-patching.md) shows and counts: gates by
# hand, the five `induction` models with all 256 subsets of their heads, and SmolLM2 on indirect object identification.

# %% setup
from itertools import pairwise

import numpy as np
import torch

from residual import plot
from residual.experiments.ioi import LAYOUT, ioi_prompts
from residual.experiments.patching import PATCHED, PROMPTS, prompts
from residual.files import checkpoints
from residual.files.pretrained import smollm2
from residual.files.results import load_result
from residual.methods.attribution import attribute, decompose
from residual.methods.attribution_patching import HeadGates, attribution, diagonal, one_score, slope
from residual.methods.induction import repeats
from residual.methods.reruns import BaseRun
from residual.methods.shapley import alone, best_subsets, removed, shapley, subset_values, subsets
from residual.methods.sweeps import patch_heads, patch_resid
from residual.plot import BLUE, GREEN, GREY, ORANGE, panels
from residual.taps import ablate, patch, record
from residual.training.corpus import corpus
from weave import claim

torch.set_grad_enabled(False)
SEEDS, HEADS = range(5), [f"{layer}.{head}" for layer in (0, 1) for head in range(4)]


def ranks(x):
    return torch.as_tensor(x).flatten().argsort().argsort().double()


def pearson(x, y):
    x, y = (torch.as_tensor(a).flatten().double() for a in (x, y))
    return torch.corrcoef(torch.stack([x, y]))[0, 1].item()


def spearman(x, y):
    return pearson(ranks(x), ranks(y))


def number(x, digits=2):
    return f"{x:.{digits}f}".replace("-", "−")


def error(x):
    """Standard error of a mean over the last axis."""
    return x.std(dim=-1) / x.shape[-1] ** 0.5


# %% [markdown]
# ## Two inputs, three gates
#
# Clean is (1, 1), corrupted (0, 0).

# %% gates
GATES = {"AND": lambda x: x[0] * x[1], "OR": lambda x: x[0] + x[1] - x[0] * x[1]}
GATES["XOR"] = lambda x: x[0] + x[1] - 2 * x[0] * x[1]


def corners(m, n):
    return torch.stack([m(corner.double()) for corner in subsets(n)])


rows = []
for name, m in GATES.items():
    values = corners(m, 2)

    def slopes(t, m=m):
        return slope(m, torch.full((2,), t, dtype=torch.float64))

    found = [removed(values), alone(values), slopes(1.0), slopes(0.0), diagonal(slopes, 1), shapley(values)]
    rows.append([name, *(number(x[0].item(), 1) for x in found)])
plot.table(
    rows,
    ["gate", "noising", "denoising", "slope at clean", "slope at corrupted", "integrated gradients", "Shapley value"],
)

# %% [markdown]
# ## Five models, 256 subsets each


# %% truth
METRICS = ("log-probability", "logit", "probability")
WINDOWS = (11, 5, 6)  # seeds of the tokens; the first is that of all tables but one


def data(kind, windows=WINDOWS[0]):
    """12 windows, and which predictions count: on repeats, those of what came a period ago after the same token."""
    if kind == "repeats":
        tokens, period = repeats(12, 65, (8, 24), seed=windows)
        return tokens, torch.arange(1, 65) > period
    tokens = corpus().validation.unfold(0, 65, 64)[::400][:12]
    return tokens, torch.ones(12, 64, dtype=torch.bool)


def of_token(logits, token):
    """What one token has of the logits by each metric, stacked in front; the logit is over the mean of all tokens."""
    right, log_p = (x.gather(-1, token[..., None]).squeeze(-1) for x in (logits, logits.log_softmax(dim=-1)))
    return torch.stack([log_p, right - logits.mean(dim=-1), log_p.exp()])


def named_model(seed):
    return checkpoints.load("induction" if seed == 0 else f"induction-seed{seed}").model.requires_grad_(False)


def game(seed, kind, windows=WINDOWS[0]):
    """Metrics of what comes next, for every subset [subset metric], by window, and with heads faded, by metric."""
    model, (tokens, counted) = named_model(seed), data(kind, windows)
    window, n, right = counted.nonzero()[:, 0], counted.sum(dim=1), tokens[:, 1:][counted]

    def by_window(stream):  # only the predictions that count are unembedded
        x = of_token(model.unembed(stream[counted]), right)
        return x.new_zeros(len(x), len(n)).index_add(1, window, x) / n

    values = subset_values(model, tokens[:, :-1], by_window, stream=True)  # subset metric window
    gates = [
        HeadGates(model, tokens[:, :-1], lambda logits, i=i: of_token(logits[counted], right)[i].mean())
        for i in range(len(METRICS))
    ]
    return (values * n).sum(dim=-1) / n.sum(), values, gates


every_game = {("repeats", seed, windows): game(seed, "repeats", windows) for seed in SEEDS for windows in WINDOWS}
every_game |= {("speeches", seed, WINDOWS[0]): game(seed, "speeches") for seed in SEEDS}
games = {  # by log-probability
    (kind, seed): (values[:, 0], by_window[:, 0], gates[0])
    for (kind, seed, windows), (values, by_window, gates) in every_game.items()
    if windows == WINDOWS[0]
}
truth = {key: shapley(values) for key, (values, _, _) in games.items()}
claim(
    subsets=len(games["repeats", 0][0]),
    loss_none=-max(games["repeats", s][0][0] for s in SEEDS),
    loss_all=-min(games["repeats", s][0][-1] for s in SEEDS),
    shapley_error=max(error(shapley(windows)).max() for _, windows, _ in games.values()),
    whole_0=games["repeats", 0][0][-1] - games["repeats", 0][0][0],
    mover_noise_0=removed(games["repeats", 0][0])[1],
    mover_denoise_0=alone(games["repeats", 0][0])[1],
    shapley_mover_least=min(truth["repeats", s][:4].max() for s in SEEDS),
    shapley_mover_most=max(truth["repeats", s][:4].max() for s in SEEDS),
)
plot.table(
    [[seed, *(number(x) for x in truth["repeats", seed].tolist())] for seed in SEEDS],
    ["seed", *HEADS],
)


# %% methods
def scores(values, gates):
    noised, denoised = removed(values), alone(values)
    at_clean, at_corrupted = gates.slopes(1.0), gates.slopes(0.0)
    return {
        "removing one": noised,
        "adding one to none": denoised,
        "mean of the two": (noised + denoised) / 2,
        "gradient with all": at_clean,
        "gradient with none": at_corrupted,
        "mean of these gradients": (at_clean + at_corrupted) / 2,
        "integrated gradients, 2 nodes": diagonal(gates.slopes, 2),
        "integrated gradients, 4 nodes": diagonal(gates.slopes, 4),
    }


def lost(values, score):
    """By how much the heads of highest score fall short of the best subset of that size, for sizes 1 to 7."""
    best, order = best_subsets(values), score.argsort(descending=True).tolist()
    return torch.tensor([best[k][1] - values[sum(2**i for i in order[:k])].item() for k in range(1, 8)])


def overlap(values, score):
    """Share of the best subset's heads that are among as many heads of highest score; mean over sizes 1 to 7."""
    best, order = best_subsets(values), score.argsort(descending=True).tolist()
    return np.mean([len({*best[k][0]} & {*order[:k]}) / k for k in range(1, 8)])


COST = [9, 9, 18, 2, 2, 4, 4, 8, 20]
graded = {key: scores(values, gates) for key, (values, _, gates) in games.items()}
generator = torch.Generator().manual_seed(0)
for (kind, seed), found in graded.items():
    if kind == "repeats":
        found["integrated gradients, 10 nodes"] = diagonal(games[kind, seed][2].slopes, 10)
    found["the Shapley value itself"] = truth[kind, seed]
METHODS = list(graded["repeats", 0])


def over_seeds(kind, method, measure):
    return [measure(games[kind, s][0], graded[kind, s][method], truth[kind, s]) for s in SEEDS]


MEASURES = {
    "rank": lambda values, score, phi: spearman(score, phi),
    "error": lambda values, score, phi: ((score - phi).abs().sum() / phi.abs().sum()).item(),
    "overlap": lambda values, score, phi: overlap(values, score),
    "lost": lambda values, score, phi: lost(values, score).mean().item(),
}
table = {
    (kind, method): {name: over_seeds(kind, method, measure) for name, measure in MEASURES.items()}
    for kind in ("repeats", "speeches")
    for method in graded[kind, 0]
}
# the control: the same scores, given to heads at random
shuffled = {name: [] for name in MEASURES}
for seed in SEEDS:
    for _ in range(40):
        score = truth["repeats", seed][torch.randperm(8, generator=generator)]
        for name, measure in MEASURES.items():
            shuffled[name].append(measure(games["repeats", seed][0], score, truth["repeats", seed]))


def span(numbers, digits=2):
    return f"{number(min(numbers), digits)} to {number(max(numbers), digits)}"


plot.table(
    [
        [method, *(span(table["repeats", method][name]) for name in MEASURES), cost]
        for method, cost in zip(METHODS, [*COST, 256], strict=True)
    ]
    + [["shuffled (mean of 200)", *(number(np.mean(shuffled[name])) for name in MEASURES), ""]],
    ["method", "rank correlation", "relative error", "overlap with the best", "nats lost", "passes"],
)

# %% metrics3
RESCALED = ("removing one, rescaled", "mean of the two, rescaled")
SCORED = ("removing one", "adding one to none", "mean of the two", "gradient with all", "gradient with none")
SCORED += ("integrated gradients, 4 nodes", *RESCALED)


def off(seed, windows, metric, kind="repeats"):
    """Relative error of each method for one metric; rescaled, a method's scores have the sum that is known."""
    values, gates = (x[metric] for x in (every_game[kind, seed, windows][0].T, every_game[kind, seed, windows][2]))
    phi, whole_there = shapley(values), values[-1] - values[0]
    one, two = removed(values), alone(values)
    found = [one, two, (one + two) / 2, gates.slopes(1.0), gates.slopes(0.0), diagonal(gates.slopes, 4)]
    found += [x * whole_there / x.sum() for x in (one, one + two)]
    return dict(zip(SCORED, (((x - phi).abs().sum() / phi.abs().sum()).item() for x in found), strict=True))


offs = {(m, w, s): off(s, w, m) for m in range(len(METRICS)) for w in WINDOWS for s in SEEDS}


def of_metric(m, method):
    return [offs[m, w, s][method] for w in WINDOWS for s in SEEDS]


def wins(m, method, rival):
    return sum(x < y for x, y in zip(of_metric(m, method), of_metric(m, rival), strict=True))


IG, BOTH = "integrated gradients, 4 nodes", "mean of the two"
for m, short in enumerate(("log", "logit", "p")):
    for name, method in zip(
        ("noise", "denoise", "both", "clean", "corrupted", "ig", "noise_scaled", "both_scaled"), SCORED, strict=True
    ):
        x = of_metric(m, method)
        claim(**{f"{short}_{name}_least": min(x), f"{short}_{name}_most": max(x)})
    claim(**{f"wins_{short}": wins(m, IG, BOTH), f"wins_{short}_scaled": wins(m, IG, RESCALED[1])})
    # the same on speeches
    text = [off(s, WINDOWS[0], m, "speeches") for s in SEEDS]
    claim(**{f"wins_text_{short}": sum(x[IG] < x[BOTH] for x in text)})
    for name, method in (("ig", IG), ("both", BOTH)):
        x = [found[method] for found in text]
        claim(**{f"text_{short}_{name}_least": min(x), f"text_{short}_{name}_most": max(x)})
claim(games=len(WINDOWS) * len(SEEDS))
plot.table(
    [[method, *(span(of_metric(m, method)) for m in range(len(METRICS)))] for method in SCORED],
    ["relative error", *METRICS],
)

# %% graded
chosen = dict(zip(SCORED, (GREY, GREY, GREEN, ORANGE, ORANGE, BLUE), strict=False))
axes = panels(1, 3, height=2.6, width=8.2, sharey=True)
places = -np.arange(len(chosen))
for ax, (m, metric) in zip(axes, enumerate(METRICS), strict=True):
    for place, (method, colour) in zip(places, chosen.items(), strict=True):
        ax.plot(of_metric(m, method), [place] * 15, "o", color=colour, markersize=4, alpha=0.5)
    ax.set(title=metric, xlabel="relative error", xlim=(-0.05, 1.05 if m == 0 else None))
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=0)
_ = axes[0].set_yticks(places, [f"{m} ({COST[METHODS.index(m)]})" for m in chosen])

# %% spans
AT_CLEAN, AT_CORRUPTED = "gradient with all", "gradient with none"


def between(name, kind, method, measure):
    x = table[kind, method][measure]
    return {f"{name}_{measure}_least": min(x), f"{name}_{measure}_most": max(x)}


SHORT = {
    "noise": "removing one",
    "denoise": "adding one to none",
    "both": BOTH,
    "clean": AT_CLEAN,
    "corrupted": AT_CORRUPTED,
    "ig": IG,
    "ig2": "integrated gradients, 2 nodes",
    "itself": "the Shapley value itself",
}
for short, method in SHORT.items():
    for measure in MEASURES:
        claim(**between(short, "repeats", method, measure), **between(f"{short}_text", "speeches", method, measure))
# how much of noising's error is too much credit for the previous-token head
excess = []
for seed in SEEDS:
    off = graded["repeats", seed]["removing one"] - truth["repeats", seed]
    excess.append((off[:4].clamp(min=0).sum() / off.abs().sum()).item())
claim(excess_least=min(excess), excess_most=max(excess))
claim(
    ig_beats_both=sum(
        a < b for a, b in zip(table["repeats", IG]["error"], table["repeats", BOTH]["error"], strict=True)
    ),
    heads_above_tenth_least=min(int((truth["repeats", s].abs() > 0.1).sum()) for s in SEEDS),
    heads_above_tenth_most=max(int((truth["repeats", s].abs() > 0.1).sum()) for s in SEEDS),
    ig_beats_noise=sum(
        a < b for a, b in zip(table["repeats", IG]["error"], table["repeats", "removing one"]["error"], strict=True)
    ),
    ig_rank_at_least_noise=sum(
        a >= b - 1e-9
        for a, b in zip(table["repeats", IG]["rank"], table["repeats", "removing one"]["rank"], strict=True)
    ),
    shuffled_rank=np.mean(shuffled["rank"]),
    shuffled_lost=np.mean(shuffled["lost"]),
    shuffled_overlap=np.mean(shuffled["overlap"]),
    noise_sum=max(removed(games["repeats", s][0]).sum() for s in SEEDS),
    denoise_sum=max(alone(games["repeats", s][0]).sum() for s in SEEDS),
    whole=max(games["repeats", s][0][-1] - games["repeats", s][0][0] for s in SEEDS),
    clean_slope_sum=max(graded["repeats", s][AT_CLEAN].sum() for s in SEEDS),
    corrupted_slope_sum=max(graded["repeats", s][AT_CORRUPTED].sum() for s in SEEDS),
)

# %% along
t = torch.linspace(0, 1, 15)
curves = {seed: torch.stack([games["repeats", seed][2](torch.full((8,), x.item())) for x in t]) for seed in SEEDS}
ax = panels(1, 1, height=2.8, width=5.4)
for seed, curve in curves.items():
    ax.plot(t, curve, color=BLUE, linewidth=1.6 if seed == 0 else 0.7, alpha=1 if seed == 0 else 0.6)
first, last = (graded["repeats", 0][name].sum().item() for name in (AT_CORRUPTED, AT_CLEAN))
for start, slope_there, at in ((curves[0][0].item(), first, 0), (curves[0][-1].item(), last, 1)):
    x = np.array([0, 0.42]) if at == 0 else np.array([0.58, 1])
    ax.plot(x, start + slope_there * (x - at), color=ORANGE, linewidth=2)
ax.set(xlabel="gate of all eight heads", ylabel="log-probability (nats)")
steepest = [(curve.diff() / t.diff()).max().item() for curve in curves.values()]
claim(steepest_least=min(steepest), steepest_most=max(steepest))


# %% live
def live(seed, n=64, period=16, last=27):
    """Each head's output at all positions, put in or taken out where later heads respond: shares [metric head].

    Tokens repeat with a period; corrupted, the earlier occurrence of the last token is another token.
    """
    model, generator = named_model(seed), torch.Generator().manual_seed(0)
    drawn = torch.stack([torch.randperm(512, generator=generator)[: period + 1] for _ in range(n)])
    clean = drawn[:, torch.arange(last + 1) % period]
    corrupted = clean.clone()
    corrupted[:, last - period] = drawn[:, period]
    answer = drawn[:, (last + 1) % period]

    def metric(logits):
        return of_token(logits, answer).mean(dim=1)

    ends = [metric(model(tokens)[:, -1]) for tokens in (clean, corrupted)]
    put = patch_heads(model, clean, corrupted, metric, together=True).flatten(0, 1) - ends[1]
    out = ends[0] - patch_heads(model, corrupted, clean, metric, together=True).flatten(0, 1)
    return [(x / (ends[0] - ends[1])).T for x in (put, out)]


rows, alive = (
    [],
    {
        name: []
        for name in (
            "put_mover",
            "out_mover",
            "put_sum",
            "out_sum",
            "put_reader",
            "out_reader",
            "put_sum_logit",
            "out_sum_logit",
        )
    },
)
for seed in SEEDS:
    put, out = live(seed)
    mover = int(truth["repeats", seed][:4].argmax())
    for name, x in (("put", put), ("out", out)):
        alive[f"{name}_mover"].append(x[0, mover].item())
        alive[f"{name}_reader"].append(x[0, 4:].max().item())
        alive[f"{name}_sum"].append(x[0].sum().item())
        alive[f"{name}_sum_logit"].append(x[1].sum().item())
    cells = [alive[f"{name}_{what}"][-1] for what in ("mover", "reader", "sum", "sum_logit") for name in ("put", "out")]
    rows.append([seed, *(number(x) for x in cells)])
for name, x in alive.items():
    claim(**{f"live_{name}_least": min(x), f"live_{name}_most": max(x)})
WHICH = ("mover", "best reader", "all eight", "all eight, logit")
plot.table(rows, ["seed", *(f"{what}: {name}" for what in WHICH for name in ("put in", "taken out"))])


# %% pairs
def joint(values, i, j, others):
    """What a pair is worth beyond its members, with these other heads in place."""
    a, b, rest = 2**i, 2**j, sum(2**k for k in others)
    return (values[rest + a + b] - values[rest + a] - values[rest + b] + values[rest]).item()


def players(seed):
    """The previous-token head and the two best readers."""
    phi = truth["repeats", seed]
    return int(phi[:4].argmax()), *(4 + phi[4:].argsort(descending=True)[:2]).tolist()


rows, joints = [], {(kind, m): [] for kind in ("and", "or") for m in range(len(METRICS))}
for seed in SEEDS:
    mover, one, two = players(seed)
    for m in range(len(METRICS)):
        values = every_game["repeats", seed, WINDOWS[0]][0][:, m]
        joints["and", m].append(joint(values, mover, one, []))
        joints["or", m].append(joint(values, one, two, range(4)))
    cells = [number(joints[kind, m][-1]) for kind in ("and", "or") for m in range(len(METRICS))]
    rows.append([seed, f"{HEADS[mover]}, {HEADS[one]}", *cells[:3], f"{HEADS[one]}, {HEADS[two]}", *cells[3:]])
for (kind, m), x in joints.items():
    short = ("log", "logit", "p")[m]
    claim(**{f"{kind}_{short}_least": min(x), f"{kind}_{short}_most": max(x), f"{kind}_{short}_size": max(map(abs, x))})
plot.table(rows, ["seed", "mover, reader", *METRICS, "two readers", *METRICS])


# %% subgames
def sub(seed, metric, some, fixed):
    """Removing, adding and integrated gradients summed over some heads, by what these are worth; others are fixed."""
    values, gates = (
        x[metric] for x in (every_game["repeats", seed, WINDOWS[0]][0].T, every_game["repeats", seed, WINDOWS[0]][2])
    )
    part = values[sum(2**i for i in fixed) + subsets(len(some)).long() @ torch.tensor([2**i for i in some])]
    start = torch.zeros(8)
    start[list(fixed)] = 1

    def m(x):
        return gates(start.index_put((torch.tensor(some),), x))

    ig = diagonal(lambda t: slope(m, torch.full((len(some),), t)), 4)
    return [(x.sum() / (part[-1] - part[0])).item() for x in (removed(part), alone(part), ig)]


rows = []
for kind, title in (("and", "mover and reader, all others absent"), ("or", "two readers, layer 0 in place")):
    for m, metric in enumerate(METRICS):
        found = []
        for seed in SEEDS:
            mover, one, two = players(seed)
            found.append(sub(seed, m, [mover, one], []) if kind == "and" else sub(seed, m, [one, two], range(4)))
        spans = list(zip(*found, strict=True))
        for name, x in zip(("noise", "denoise", "ig"), spans, strict=True):
            tag = f"sub_{kind}_{('log', 'logit', 'p')[m]}_{name}"
            claim(**{f"{tag}_least": min(x), f"{tag}_most": max(x)})
        rows.append([title, metric, *(span(x) for x in spans)])
plot.table(rows, ["two heads", "metric", "removing", "adding", "integrated"])

# %% circuits
rows = []
for size in range(1, 6):
    row = [size]
    for seed in SEEDS:
        members, value = best_subsets(games["repeats", seed][0])[size]
        row.append(" ".join(HEADS[i] for i in members) + f" ({number(-value)})")
    rows.append(row)


def nested(windows):
    """The number of seeds in which each best subset contains the one before."""
    every_best = [best_subsets(every_game["repeats", seed, windows][0][:, 0]) for seed in SEEDS]
    return sum(all({*a[0]} <= {*b[0]} for a, b in pairwise(best)) for best in every_best)


def shortfall(values):
    """What the best ranking of heads falls short of the best subsets, at the size where it falls short most."""
    best, least = best_subsets(values), {0: 0.0}
    for members in sorted(range(1, len(values)), key=int.bit_count):
        before = min(least[members ^ 2**i] for i in range(8) if members >> i & 1)
        least[members] = max(before, best[members.bit_count()][1] - values[members].item())
    return least[len(values) - 1]


claim(
    nested=nested(WINDOWS[0]),
    nested_least=min(map(nested, WINDOWS)),
    ranking_short=max(shortfall(every_game["repeats", s, w][0][:, 0]) for s in SEEDS for w in WINDOWS),
    lost_one_least=min(lost(games["repeats", s][0], truth["repeats", s])[0] for s in SEEDS),
    lost_one_most=max(lost(games["repeats", s][0], truth["repeats", s])[0] for s in SEEDS),
    best_one=max(best_subsets(games["repeats", s][0])[1][1] - games["repeats", s][0][0].item() for s in SEEDS),
)
plot.table(rows, ["size", *(f"seed {s}" for s in SEEDS)])

# %% [markdown]
# ## One softmax

# %% softmax
change = torch.linspace(-12, 12, 241, dtype=torch.float64)
ax = panels(1, 1, height=2.8, width=5.4)
for p, colour in ((0.5, GREEN), (0.9, BLUE), (0.999, ORANGE)):
    exact, first_order, _ = one_score(torch.full_like(change, p), change, torch.ones_like(change))
    ax.plot(change, exact, color=colour, label=f"p = {p}")
    ax.plot(change, first_order.clamp(-1.2, 0.8), color=colour, linestyle=":", linewidth=1)
ax.set(xlabel="change of one score", ylabel="change of what is read", ylim=(-1.1, 0.6))
ax.legend(frameon=False, fontsize=8)
exact, first_order, bound = one_score(*(torch.tensor(x, dtype=torch.float64) for x in (0.999, -10.0, 1.0)))
claim(saturated_exact=exact, saturated_first=first_order, saturated_bound=bound)

# %% [markdown]
# ## The subspace illusion, by hand
#
# A hidden state with two coordinates: n varies with the input and is not read, r is read (with weight 2) and never
# varies.

# %% illusion
base_input, source_input, weight = -1.0, 1.0, 2.0


def hidden(x):
    return np.array([x, 0.5])  # along n, along r


def read_out(h):
    return weight * h[1]


angles = np.linspace(0, np.pi / 2, 91)
moved = []
for angle in angles:
    v = np.array([np.cos(angle), np.sin(angle)])
    patched = hidden(base_input) + v * (v @ (hidden(source_input) - hidden(base_input)))
    moved.append(read_out(patched) - read_out(hidden(base_input)))
moved = np.array(moved)
claim(
    illusion_most=moved.max(), illusion_at=np.degrees(angles[moved.argmax()]), illusion_ends=abs(moved[[0, -1]]).max()
)
plot.lines(
    np.degrees(angles),
    {"output": moved},
    xlabel="angle of the patched direction, from n to r (degrees)",
    ylabel="change of the output",
    height=2.4,
)

# %% [markdown]
# ## SmolLM2 on indirect object identification
#
# The exact effects take minutes, so they are measured once (`residual measure smollm2-ioi-patching`).

# %% ioi
model, _ = smollm2()
model.requires_grad_(False)
LAYERS, S2, END = model.config.n_layers, 10, 14
batch, many = prompts(model), ioi_prompts(model.vocabulary, 16, seed=1)


def last(tokens, tap=None):
    """The logits at the last word."""
    return model.unembed(model.run_to(tokens, LAYERS, tap=tap)[:, -1])


ENDS = {name: batch.each(last(tokens)) for name, tokens in (("clean", batch.clean), ("swapped", batch.swapped))}
whole = (ENDS["clean"] - ENDS["swapped"]).mean().item()
on_many = many.each(last(many.clean, tap=(seen := record("*.attn.pattern"))))
measured, card = load_result("smollm2-ioi-patching")
EXACT = {kind: measured["effect"][:, i] for i, kind in enumerate(PATCHED)}  # layer head pos
EXACT = {kind: x[:, : int(x[0, :, -1].isfinite().sum())] for kind, x in EXACT.items()}
z = EXACT["z"]
# measured again: one layer, at two words
again = patch_heads(model, batch.clean, batch.swapped, batch.logit_diff, layers=[23], positions=[S2, END])[0]
claim(
    prompts=PROMPTS,
    clean_diff=ENDS["clean"].mean(),
    swapped_diff=ENDS["swapped"].mean(),
    whole_diff=whole,
    right=(on_many > 0).double().mean(),
    many_diff=on_many.mean(),
    many_diff_error=error(on_many),
    checked=(again - ENDS["swapped"].mean() - z[23][:, [S2, END]]).abs().max(),
)
left, right = panels(1, 2, height=2.2, width=8.0)
for ax, position, title in ((left, S2, "at S2"), (right, END, "at the last word")):
    plot.heatmap(
        z[:, :, position].T / whole,
        ax=ax,
        xlabel="layer",
        ylabel="head",
        title=title,
        limit=0.4,
        bar="share of the difference" if ax is right else None,
    )


# %% heads
def named(x, position, n, largest=True):
    """The heads with the largest effects at a position, and these."""
    order = x[:, :, position].flatten().argsort(descending=largest)[:n]
    return [(f"{i // x.shape[1]}.{i % x.shape[1]}", x[:, :, position].flatten()[i].item()) for i in order.tolist()]


def listed(x, position, n, largest=True):
    return ", ".join(f"{name} ({number(effect)})" for name, effect in named(x, position, n, largest))


noised = -EXACT["z noised"]
rows = []
for title, position, largest, n in (("S2", S2, True, 2), ("last word", END, True, 6), ("last word", END, False, 4)):
    rows.append([title, *(listed(x, position, n, largest) for x in (z, noised))])
claim(
    z_17_4=z[17, 4, S2],
    z_23_3=z[23, 3, END],
    z_20_0=z[20, 0, END],
    z_29_1=z[29, 1, END],
    z_24_4=z[24, 4, END],
    z_29_0=z[29, 0, END],
    noised_17_4=noised[17, 4, S2],
    noised_23_3=noised[23, 3, END],
    noised_23_0=noised[23, 0, END],
    z_23_0=z[23, 0, END],
    v_20=EXACT["v"][20, 0].sum(),
    v_23=EXACT["v"][23, 1].sum(),
    q_23_7=EXACT["q"][23, 7, END],
    k_most=EXACT["k"].abs().max(),
)
plot.table(rows, ["where", "denoising", "noising"])

# %% looks
# What heads look at from the last word, and what they add to the logits of both names, directly: 16 prompts.
LOOKED = ("17.4", "20.0", "19.2", "23.3", "23.7", "29.1", "24.4", "29.0")
PLACES = {"IO": torch.where(many.io_first, 2, 4), "S1": torch.where(many.io_first, 4, 2)}
PLACES |= {name: torch.full((16,), at) for name, at in (("S2", S2), ("last word", END))}
mean_token = model.W_U.mean(dim=1)
written = {}
for tokens, of_tokens in (
    (many.clean, {"IO": many.io, "S": many.s}),
    (many.abc, {"third name": many.abc[:, S2]}),  # three different names, and nobody is repeated
):
    terms = decompose(model, tokens)
    for token, of in of_tokens.items():
        by_head = attribute(terms, model.W_U.mT[of] - mean_token)
        written[token] = {head: by_head[head][:, -1].mean().item() for head in LOOKED}
last(many.abc, tap=(seen_abc := record("*.attn.pattern")))
rows, looks = [], {}
for head in LOOKED:
    layer, i = map(int, head.split("."))
    pattern = seen[f"blocks.{layer}.attn.pattern"][:, i, END]
    looks[head] = {place: pattern[torch.arange(16), at].mean().item() for place, at in PLACES.items()}
    direct = [written[token][head] for token in ("IO", "S")]
    third = seen_abc[f"blocks.{layer}.attn.pattern"][:, i, END, S2].mean().item(), written["third name"][head]
    rows.append([head, *(number(x) for x in (*looks[head].values(), *direct, direct[0] - direct[1], *third))])
    short = head.replace(".", "_")
    claim(**{f"look_{short}_{place.replace(' ', '_')}": x for place, x in looks[head].items()})
    claim(**{f"direct_{short}_io": direct[0], f"direct_{short}_s": direct[1]})
    claim(**{f"third_look_{short}": third[0], f"third_write_{short}": third[1]})
plot.table(
    rows,
    [
        *("head", *(f"looks at {place}" for place in PLACES), "writes IO", "writes S", "IO − S"),
        *("three names: looks at the third", "writes it"),
    ],
)

# %% layers
fig_stream, fig_mlp = panels(2, 1, height=3.4, width=6.0)
for ax, kind, title in ((fig_stream, "resid_pre", "the stream before a layer"), (fig_mlp, "mlp_out", "the MLP")):
    plot.heatmap(
        EXACT[kind][:, 0, S2:].T / whole,
        ax=ax,
        xlabel="layer" if ax is fig_mlp else "",
        rows=LAYOUT[S2:],
        title=title,
        limit=1.0 if kind == "resid_pre" else 0.3,
        bar="share",
    )

# %% directions
at_s2, at_end = (pearson(z[:, :, p], noised[:, :, p]) for p in (S2, END))
ax = panels(1, 1, height=3.0, width=3.6)
for position, colour, name in ((S2, ORANGE, "S2"), (END, BLUE, "last word")):
    x, y = (a[:, :, position].flatten() / whole for a in (z, noised))
    ax.plot(x, y, "o", color=colour, markersize=3, alpha=0.6, label=name)
ax.axline((0, 0), slope=1, color=GREY, linewidth=0.8)
ax.set(xlabel="denoising: put in", ylabel="noising: taken out")
ax.legend(frameon=False, fontsize=8)
claim(
    directions_pearson=pearson(z, noised),
    directions_end=at_end,
    directions_s2=at_s2,
    smol_denoise_sum=z.sum() / whole,
    smol_noise_sum=noised.sum() / whole,
)

# %% kinds
# Up to S2 both prompts are the same, and so nothing differs: all agreement is over S2 and the four words after it.
RULES = {
    "gradient": {},
    "scales frozen": {"frozen": ["norm"]},
    "scales and gates (RelP)": {"frozen": ["norm", "mlp"]},
    "integrated, 4 nodes": {"nodes": 4, "softmax": True},
}
SITES = ("resid_pre", "mlp_out", "z", "v", "pattern", "q", "k")
estimates = {
    rule: attribution(model, batch.clean, batch.swapped, batch.logit_diff, SITES, **options)
    for rule, options in RULES.items()
}
again = attribution(model, batch.clean, batch.swapped, batch.logit_diff, ["q", "k"], softmax=True)
estimates["softmax again"] = estimates["gradient"] | again


def exact(kind):
    x = EXACT[kind][..., S2:]
    return x[:, 0] if kind in ("resid_pre", "mlp_out") else x


def estimate(rule, kind):
    return estimates[rule][kind][..., S2:]


def missed(rule, kind):
    """The sum of the errors, as a share of the sum of the exact effects (both as absolute values)."""
    x = exact(kind)
    return ((estimate(rule, kind) - x).abs().sum() / x.abs().sum()).item()


NAMES = {"gradient": "atp", "scales frozen": "norm", "scales and gates (RelP)": "relp"}
NAMES |= {"integrated, 4 nodes": "ig", "softmax again": "soft"}
rows = []
for kind in SITES:
    row = [{"resid_pre": "stream", "mlp_out": "MLP"}.get(kind, kind)]
    for rule, short in NAMES.items():
        x, y = exact(kind), estimate(rule, kind)
        r, rank, off = pearson(x, y), spearman(x, y), missed(rule, kind)
        claim(**{f"{short}_{kind}": r, f"{short}_{kind}_rank": rank, f"{short}_{kind}_off": off})
        row.append(f"{number(r)} / {number(rank)} / {number(off)}")
    rows.append(row)
plot.table(rows, ["", *NAMES])

# %% mlps
rest, s2 = slice(1, None), exact("resid_pre")[:, 0]
for rule, short in NAMES.items():
    x, y = exact("mlp_out"), estimate(rule, "mlp_out")
    estimated = estimate(rule, "resid_pre")
    claim(
        **{
            f"{short}_mlp_rest": pearson(x[rest], y[rest]),
            f"{short}_mlp_first": y[0, 0],
            f"{short}_stream_s2": pearson(s2, estimated[:, 0]),
            f"{short}_stream_rest": pearson(exact("resid_pre")[:, 1:], estimated[:, 1:]),
        }
    )
x, y = exact("mlp_out"), estimate("gradient", "mlp_out")
without = [
    pearson(x[[i for i in range(30) if i != layer]], y[[i for i in range(30) if i != layer]]) for layer in range(30)
]
claim(
    mlp_first=x[0, 0],
    mlp_next=x[rest].abs().max(),
    mlp_without_other_most=max(without[1:]),
)
# a whole name, or the whole answer, exchanged in one patch: before the heads that read it, and after
stream, by_slope = EXACT["resid_pre"][:, 0], estimates["gradient"]["resid_pre"]
WHOLE = {"S2, layers 0 to 19": (slice(0, 20), S2), "last word, layers 25 to 29": (slice(25, 30), END)}
for short, (layers, place) in zip(("before", "after"), WHOLE.values(), strict=True):
    x, y = stream[layers, place], by_slope[layers, place]
    claim(**{f"{short}_least": x.min(), f"{short}_most": x.max()})
    claim(**{f"{short}_slope_least": y.min(), f"{short}_slope_most": y.max()})
claim(end_24=stream[24, END] / whole, end_25=stream[25, END] / whole)
axes = panels(1, 3, height=2.6, width=7.6, sharey=True)
for ax, rule in zip(axes, ("gradient", "scales and gates (RelP)", "integrated, 4 nodes"), strict=True):
    x, y = exact("mlp_out"), estimate(rule, "mlp_out")
    ax.plot(x[rest].flatten(), y[rest].flatten(), "o", markersize=3, color=BLUE, alpha=0.6)
    ax.plot(x[0, :1], y[0, :1], "s", markersize=6, color=ORANGE)
    ax.axline((0, 0), slope=1, color=GREY, linewidth=0.8)
    ax.set(title=rule, xlabel="exact", xlim=(-2, 10), ylim=(-2, 10))
axes[0].set_ylabel("estimate")
# the same site on six other prompts
other = ioi_prompts(model.vocabulary, 6, seed=7)
unpatched = other.logit_diff(last(other.swapped))
patched = patch_resid(model, other.clean, other.swapped, other.logit_diff, name="mlp_out", layers=[0], positions=[S2])
slope_there = attribution(model, other.clean, other.swapped, other.logit_diff, ["mlp_out"])["mlp_out"][0, S2]
claim(other_first=patched[0, 0] - unpatched, other_first_gradient=slope_there)


# %% held
# The stream patched at one place, while later layers keep some activations as they are in the corrupted run.
HELD = {"nothing": "-", "patterns": ".attn.pattern", "scales": ".scale", "MLPs": ".mlp_out"}
last(batch.clean, tap=(there := record("*.resid_pre")))
model(batch.swapped, tap=(here := record(["*.resid_pre", *(f"*{end}" for end in HELD.values() if end != "-")])))
rows = []
for layer, place, where in ((19, S2, "S2"), (25, END, "last word")):
    name, row = f"blocks.{layer}.resid_pre", [f"{where}, layer {layer}"]
    difference = torch.zeros_like(here[name])
    difference[:, place] = (there[name] - here[name])[:, place]
    later = [n for n in here if not n.startswith("blocks.") or int(n.split(".")[1]) >= layer]
    for held, end in HELD.items():
        kept = patch(here, [n for n in later if n.endswith(end)])

        def after(x, layer=layer, kept=kept):
            return batch.logit_diff(model.run_from(layer, x, tap=kept)[:, -1])

        if held == "nothing":
            moved, slope_there = (x[layer, place] for x in (stream, by_slope))
        else:
            moved = after(here[name] + difference) - ENDS["swapped"].mean()
            slope_there = (slope(after, here[name]) * difference).sum()
        row.append(f"{number(moved)} / {number(slope_there)}")
        claim(**{f"held_{held}_{layer}": moved, f"held_{held}_{layer}_slope": slope_there})
    rows.append(row)
plot.table(rows, ["patched: exact / gradient", *(f"{held} held" for held in HELD)])


# %% way
# One patch, put in a part at a time: MLP 0 at S2. What follows runs again from S2 on.
degrees = torch.linspace(0, 1, 7)
base = BaseRun(model, batch.swapped, batch.logit_diff, END, "mlp_out")
model.run_to(batch.clean, 1, tap=(there := record("blocks.0.mlp_out")))
change = there["blocks.0.mlp_out"] - base.seen["blocks.0.mlp_out"]
moved = base.stream[1] + degrees[:, None, None, None] * change  # degree batch pos d_model
way = base.changed_at_each(1, moved, [S2], torch.ones(END + 1, dtype=torch.bool))[:, 0]
start = way[0].item()
plot.lines(
    degrees,
    {
        "exact": way,
        "gradient": start + estimate("gradient", "mlp_out")[0, 0].item() * degrees,
        "RelP": start + estimate("scales and gates (RelP)", "mlp_out")[0, 0].item() * degrees,
    },
    xlabel="part of the patch of MLP 0 at S2",
    ylabel="logit difference",
    colours=[BLUE, ORANGE, GREEN],
)
claim(way_third=way[2] - way[0], way_half=way[3] - way[0])

# %% metrics
clean_log = last(batch.clean).log_softmax(dim=-1)


def three(logits):
    log = logits.log_softmax(dim=-1)
    p = log.gather(-1, batch.io[:, None]).exp().mean()
    kl = (clean_log.exp() * (clean_log - log)).sum(dim=-1).mean()
    return torch.stack([batch.logit_diff(logits), p, -kl])


LATE = range(22, 30)
by_metric = patch_heads(model, batch.clean, batch.swapped, three, layers=LATE, positions=[END])[:, :, 0]
unpatched = three(last(batch.swapped))
by_metric = by_metric - unpatched  # layer head metric
against = by_metric[..., 0].flatten().argsort()[:3].tolist()
favor = by_metric[..., 0].flatten().argsort(descending=True)[:4].tolist()
claim(
    p_base=unpatched[1],
    metric_p=spearman(by_metric[..., 0], by_metric[..., 1]),
    metric_kl=spearman(by_metric[..., 0], by_metric[..., 2]),
)
rows = []
for i in favor + against:
    effect, p, kl = by_metric.flatten(0, 1)[i].tolist()
    rows.append([f"{LATE[i // 9]}.{i % 9}", number(effect), number(p, 4), number(kl)])
plot.table(
    rows,
    ["head", "logit difference", "probability of IO", "−KL from clean"],
)

# %% ablations
# Each late head's output at the last word replaced, on the clean prompts, by the same from other runs.
DRAWS = 3


def replaced(prompts, draws):
    """What each late head costs at the last word, ``[head]``, by what is in its place."""
    base = BaseRun(model, prompts.clean, prompts.logit_diff, END, "attn.z")
    runs = {"swapped name": record("*.attn.z"), "abc": record("*.attn.z")}
    for tokens, seen in zip((prompts.swapped, prompts.abc), runs.values(), strict=True):
        model.run_to(tokens, LAYERS, tap=seen)
    take = {"swapped name": patch(runs["swapped name"]), "zero": ablate("*", "zero")}
    take |= {"mean": ablate("*", "mean", runs["abc"])}
    take |= {f"resample {seed}": ablate("*", "resample", runs["abc"], seed=seed) for seed in range(draws)}
    layers = []
    for layer in LATE:
        name, block = f"blocks.{layer}.attn.z", base.blocks[layer]
        z = base.seen[name]
        change = torch.stack([(tap(name, z) - z)[:, END:] for tap in take.values()])  # way batch 1 head d_head
        written = torch.einsum("wbphd,hdm->whbpm", change, block.attn.W_O).flatten(0, 1)
        moved = block.after_attention(base.middle[layer][:, END:] + written).expand(-1, -1, END + 1, -1)
        found = base.changed_at_each(layer + 1, moved, [END], torch.ones(END + 1, dtype=torch.bool))
        layers.append(found.unflatten(0, (len(take), -1))[..., 0])
    return dict(zip(take, torch.cat(layers, dim=1) - base.unchanged, strict=True))


here, elsewhere = replaced(batch, DRAWS), replaced(other, 1)
same = EXACT["z noised"][LATE.start :, :, END].flatten()
claim(swapped_again=(here["swapped name"] - same).abs().max(), draws=DRAWS, size_swapped=same.abs().mean())
rows = [["swapped name", "1", "1", number(same.abs().mean(), 3)]]
for how in ("zero", "mean", "resample"):
    drawn = [x for name, x in here.items() if name.startswith(how)]
    alike = [spearman(x, same) for x in drawn]
    alike_there = spearman(elsewhere["resample 0" if how == "resample" else how], elsewhere["swapped name"])
    claim(**{f"alike_{how}": np.mean(alike), f"alike_{how}_least": min(alike), f"alike_{how}_most": max(alike)})
    claim(**{f"alike_{how}_other": alike_there, f"size_{how}": drawn[0].abs().mean()})
    rows.append(
        [
            how,
            span(alike) if len(alike) > 1 else number(alike[0]),
            number(alike_there),
            number(drawn[0].abs().mean(), 3),
        ]
    )
plot.table(rows, ["in its place", "rank correlation with the swapped name", "on six other prompts", "mean size"])

# %% [markdown]
# ## What the page's explorer shows at first

# %% explorer
house = checkpoints.load("house").model.requires_grad_(False)
PAIR = ["It is the law of your land and the law of", "It is the law of their land and the law of"]
(your, their), _ = house.vocabulary.tokens(PAIR)
yours, theirs = (house.vocabulary.tokens(word)[0][0, -1].item() for word in (" your", " their"))


def your_their(logits):
    return logits[..., yours].mean() - logits[..., theirs].mean()


low, high = (your_their(house(row[None])[:, -1]) for row in (their, your))
alone_there = patch_heads(house, your[None], their[None], your_their, heads=["3.5", "3.7"], positions=[-1])[:, 0]
house(your[None], tap=(there := record("blocks.3.attn.z")))
both_there = your_their(house(their[None], tap=patch(there, heads=[5, 7], positions=-1))[:, -1])
claim(
    explorer_35=(alone_there[0] - low) / (high - low),
    explorer_37=(alone_there[1] - low) / (high - low),
    explorer_both=(both_there - low) / (high - low),
)
