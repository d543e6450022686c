# %% [markdown]
# # Path patching
#
# Everything that the note [path-patching](../../docs/notes/path-patching.md) shows and counts: a model by hand whose
# edges are known, the five `induction` models, of which every circuit of 69 edges is known, and SmolLM2.

# %% setup
from math import comb

import numpy as np
import torch
import torch.nn.functional as F

from residual import plot
from residual.experiments import hand_set, ioi_circuits
from residual.experiments.measure import spot_check
from residual.files import checkpoints
from residual.files.results import load_result
from residual.methods.acdc import acdc, sweep_order
from residual.methods.edges import edge_attribution, every_edge, patch_edges, written
from residual.methods.exhaustive import EveryCircuit
from residual.methods.faithfulness import FRACTIONS, CircuitRuns, cmd, cpr, curve, divergence_from, weights
from residual.methods.induction import previous_token_score
from residual.methods.scrubbing import partners, recovered, scrub
from residual.plot import BLUE, GREEN, GREY, ORANGE, panels
from residual.training.corpus import corpus
from weave import claim

torch.set_grad_enabled(False)
SEEDS = range(5)
models = [checkpoints.load("induction" if seed == 0 else f"induction-seed{seed}").model for seed in SEEDS]


def task(n=48, length=49, periods=(8, 24), d_vocab=512, same_structure=False, start=False, seed=0):
    """Clean and corrupted tokens [batch pos], the token that induction predicts, and a wrong one.

    Clean rows repeat a stretch of distinct tokens. Corrupted rows have other tokens: all different, so that nothing
    repeats; or, with ``same_structure``, repeating with the same period, and then their own answer is the wrong one.
    """
    generator = torch.Generator().manual_seed(seed)
    period = torch.randint(periods[0], periods[1] + 1, (n, 1), generator=generator)
    drawn = torch.rand(n, d_vocab - start, generator=generator).argsort(dim=1) + start
    rows = drawn.gather(1, torch.arange(length) % period)
    other = drawn.flip(1)[:, :length]
    back = 1 + (torch.rand(n, 1, generator=generator) * (period - 1)).long()
    wrong = rows.gather(1, length - 1 - back)
    if same_structure:
        other = other.gather(1, torch.arange(length) % period)
        wrong = other[:, -1:]
    clean, corrupted = rows[:, :-1], other[:, :-1]
    if start:
        zero = torch.zeros_like(wrong)
        clean, corrupted = torch.cat([zero, clean], dim=1), torch.cat([zero, corrupted], dim=1)
    return clean, corrupted, rows[:, -1], wrong[:, 0]


def named(edge):
    return " → ".join(edge)


# %% [markdown]
# ## Truth: every circuit
#
# 69 edges into the second layer and the logits, 2⁶⁹ circuits, for each of the five seeds.

# %% every-circuit
every = [EveryCircuit(model, *task()) for model in models]


def share(seed, metric):
    """Faithfulness: 0 for the corrupted run, 1 for the clean one."""
    return (metric - every[seed].empty) / (every[seed].full - every[seed].empty)


best = [each.best() for each in every]
best_f = torch.stack([share(seed, each.best_metrics()).double() for seed, each in enumerate(every)])  # seed size
N = len(every[0].edges)
SIZES = range(N + 1)
smallest = [int((f >= 0.9).nonzero()[0]) for f in best_f]  # edges of the smallest circuit that reaches 0.9
claim(
    edges=N,
    circuits=2.0**N,
    full_least=min(each.full for each in every),
    empty_most=max(each.empty for each in every),
    smallest_least=min(smallest),
    smallest_most=max(smallest),
    smallest_f_least=min(float(best_f[seed, k]) for seed, k in enumerate(smallest)),
    smallest_f_most=max(float(best_f[seed, k]) for seed, k in enumerate(smallest)),
    three_most=best_f[:, 3].max(),
    four_least=best_f[:, 4].min(),
    four_most=best_f[:, 4].max(),
    most_f=best_f.max(),
)
plot.table(
    [[seed, *(f"{best_f[seed, k]:.2f}" for k in (1, 3, 4, 8, 12, 20, 40, 69)), smallest[seed]] for seed in SEEDS],
    ["seed", "1 edge", "3", "4", "8", "12", "20", "40", "69", "edges for 0.9"],
)

# %% best-circuits
movers = [int(previous_token_score(m, task(seed=1)[0])[0].argmax()) for m in models]


def as_story(seed, kept):
    """The number of whole induction circuits in a list of edges, and the edges that are left over."""
    left, count = set(kept), 0
    for head in range(4):
        reader, mover = f"1.{head}", f"0.{movers[seed]}"
        whole = {("embed", f"{reader}.q"), (mover, f"{reader}.k"), ("embed", f"{reader}.v"), (reader, "logits")}
        if whole <= left:
            left, count = left - whole, count + 1
    return count, left


whole = {k: [as_story(seed, best[seed][k]) for seed in SEEDS] for k in (4, 8, 12)}
steps = [sum(set(best[s][k]) <= set(best[s][k + 1]) for k in range(N)) for s in SEEDS]
claim(
    four_are_the_story=sum(count == 1 and not left for count, left in whole[4]),
    eight_are_the_story=sum(count == 2 and not left for count, left in whole[8]),
    three_heads=sum(k == 12 for k in smallest),
    twelve_are_the_story=sum(whole[12][s] == (3, set()) for s in SEEDS if smallest[s] == 12),
    nested_least=min(steps),
    nested_most=max(steps),
    two_in_four=sum(set(best[s][2]) <= set(best[s][4]) for s in SEEDS),
    two_in_three=sum(set(best[s][2]) <= set(best[s][3]) for s in SEEDS),
    three_in_four=sum(set(best[s][3]) <= set(best[s][4]) for s in SEEDS),
)
again = [EveryCircuit(model, *task(n=24, seed=1)) for model in models]  # other texts
again_f = [(e.best_metrics()[4].item() - e.empty) / (e.full - e.empty) for e in again]
again_best = [e.best() for e in again]
again_smallest = [int(((e.best_metrics() - e.empty) / (e.full - e.empty) >= 0.9).nonzero()[0]) for e in again]
claim(
    again_heads=sum(not as_story(s, again_best[s][k])[1] for s, k in enumerate(again_smallest)),
    again_largest=max(again_smallest),
    again_the_story=sum(as_story(s, again_best[s][k]) == (k // 4, set()) for s in SEEDS for k in (4, 8)),
    again_the_same=sum(set(again_best[s][4]) == set(best[s][4]) for s in SEEDS),
    again_differs=max(abs(f - float(best_f[s, 4])) for s, f in enumerate(again_f)),
)
plot.table(
    [[seed, k, f"{best_f[seed, k]:.2f}", ", ".join(map(named, best[seed][k]))] for seed in SEEDS for k in (2, 3, 4)],
    ["seed", "edges", "f", "the best circuit"],
)

# %% speeches


def speech_task(corrupt_with_speeches, n=32, length=49, seed=4):
    """As ``task``, but the stretch that repeats is one of speeches; corrupted rows are speeches or random tokens."""
    held_out, generator = corpus().validation, torch.Generator().manual_seed(seed)

    def number(least, most):
        return int(torch.randint(least, most, (), generator=generator))

    rows = []
    while len(rows) < n:
        period, start, other = number(8, 25), number(0, len(held_out) - 100), number(0, len(held_out) - 100)
        row = held_out[start : start + period].repeat(length)[:length]
        others = row[row != row[-1]]
        corrupted = held_out[other : other + length] if corrupt_with_speeches else task(n=1, seed=other)[1][0]
        rows.append((row[:-1], corrupted[: length - 1], row[-1], others[number(0, len(others))]))
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))


on_text, text_rows = {}, []
for kind, whole_speech in (("other speeches", True), ("random tokens", False)):
    for seed in SEEDS:
        each = EveryCircuit(models[seed], *speech_task(whole_speech))
        f, kept = (each.best_metrics() - each.empty) / (each.full - each.empty), each.best()
        size = int((f >= 0.9).nonzero()[0])
        left = [edge for edge in kept[size] if edge in as_story(seed, kept[size])[1]]
        on_text[kind, seed] = as_story(seed, kept[4]) == (1, set()), float(f[3]), float(f[4]), left
        text_rows.append([kind, seed, f"{f[3]:.2f}", f"{f[4]:.2f}", ", ".join(map(named, kept[4])), size,
                          ", ".join(map(named, left)) or "none"])  # fmt: skip
other_draws = [
    sum(as_story(s, EveryCircuit(models[s], *speech_task(True, seed=draw)).best()[4]) == (1, set()) for s in SEEDS)
    for draw in (5, 6, 7)
]
claim(
    speeches_draws_least=min(other_draws),
    speeches_draws_most=max(other_draws),
    speeches_four_are_the_story=sum(on_text["other speeches", s][0] for s in SEEDS),
    speeches_three_least=min(on_text["other speeches", s][1] for s in SEEDS),
    speeches_three_most=max(on_text["other speeches", s][1] for s in SEEDS),
    speeches_random_four_are_the_story=sum(on_text["random tokens", s][0] for s in SEEDS),
    speeches_random_direct=sum(("embed", "logits") in on_text["random tokens", s][3] for s in SEEDS),
)
plot.table(
    text_rows,
    [
        "corrupted by",
        "seed",
        "f with 3",
        "f with 4",
        "the best circuit of four",
        "edges for 0.9",
        "not in a whole head",
    ],
)

# %% how-many
level = [each.empty + 0.9 * (each.full - each.empty) for each in every]
good = torch.stack([each.how_many(limit) for each, limit in zip(every, level, strict=True)])  # seed size
possible = torch.tensor([float(comb(N, k)) for k in SIZES], dtype=torch.float64)


def indispensable(each, f):
    """The edges without which no circuit reaches f."""
    limit = each.empty + f * (each.full - each.empty)
    return [edge for edge, most in zip(each.edges, each.best_without(), strict=True) if most < limit]


needed = [indispensable(each, 0.9) for each in every]
containing = [2.0 ** (N - len(edges)) for edges in needed]
claim(
    good_at_smallest=max(int(good[seed, k]) for seed, k in enumerate(smallest)),
    good_share_most=max(float(row.sum()) / 2.0**N for row in good),
    good_at_20=good[0, 20],
    possible_at_20=possible[20],
    needed_least=min(map(len, needed)),
    needed_most=max(map(len, needed)),
    needed_are_in_it=sum(set(needed[seed]) <= set(best[seed][smallest[seed]]) for seed in SEEDS),
    needed_are_all_of_it=sum(set(needed[seed]) == set(best[seed][smallest[seed]]) for seed in SEEDS),
    needed_not_seed0=smallest[0] - len(needed[0]),
    contain_and_good_least=min(float(row.sum()) / n for row, n in zip(good, containing, strict=True)),
    seeds_where_containing_is_enough=sum(float(row.sum()) / n > 0.99 for row, n in zip(good, containing, strict=True)),
    half_random_size=int(next(k for k in SIZES if good[0, k] / possible[k] > 0.5)),
)
ax = panels(height=2.8)
for seed in SEEDS:
    ax.plot(SIZES, np.log10(good[seed].numpy().clip(1e-9)), color=BLUE, linewidth=1)
ax.plot(SIZES, np.log10(possible.numpy()), color=GREY)
ax.set(xlabel="edges kept", ylabel="log₁₀ of the number of circuits", ylim=(0, 22.5))
for x, y, name, colour in ((34.5, 20.8, "all circuits", GREY), (40, 11.5, "f ≥ 0.9, five seeds", BLUE)):
    ax.text(x, y, name, ha="center", color=colour)

# %% thresholds
BOUNDS = (0.5, 0.7, 0.8, 0.85, 0.9, 0.95)
size_at = {b: [int((f >= b).nonzero()[0]) for f in best_f] for b in BOUNDS}
needed_at = {b: [indispensable(each, b) for each in every] for b in BOUNDS}
claim(
    half_without_needed=sum(not edges for edges in needed_at[0.5]),
    all_needed_at_half=sum(len(e) == k for e, k in zip(needed_at[0.5], size_at[0.5], strict=True)),
    all_needed_at_80=sum(len(e) == k for e, k in zip(needed_at[0.8], size_at[0.8], strict=True)),
    all_needed_at_95=sum(len(e) == k for e, k in zip(needed_at[0.95], size_at[0.95], strict=True)),
    step_seed2=best_f[2, smallest[2]],
)
plot.table(
    [[seed, *(f"{len(needed_at[b][seed])} of {size_at[b][seed]}" for b in BOUNDS)] for seed in SEEDS],
    ["seed", *(f"f ≥ {b}" for b in BOUNDS)],
)

# %% [markdown]
# ## The methods, on the same 69 edges


# %% grade
def by_score(edges, scores):
    """Orders by help and by size, from the change of the metric if an edge is corrupted."""
    pairs = list(zip(edges, scores, strict=True))
    helps = [edge for edge, _ in sorted(pairs, key=lambda pair: pair[1])]
    return helps, [edge for edge, _ in sorted(pairs, key=lambda pair: -abs(pair[1]))]


def greedy(each, backward):
    """Remove, or add, the edge that leaves the largest metric; from the most to the least important."""
    kept = torch.full((N,), backward)
    order = []
    while (kept == backward).any():
        where = (kept == backward).nonzero().flatten()
        trials = kept.repeat(len(where), 1)
        trials[torch.arange(len(where)), where] = not backward
        chosen = where[each.metrics(trials).argmax()]
        kept[chosen] = not backward
        order.append(each.edges[chosen])
    return order[::-1] if backward else order


def attribution(seed, corrupted_end=False, steps=1, same_structure=False):
    clean, corrupted, right, wrong = task(same_structure=same_structure)
    row = torch.arange(len(right))
    runs, sign = ((corrupted, clean), -1) if corrupted_end else ((clean, corrupted), 1)
    found = edge_attribution(models[seed], *runs, lambda x: (x[row, right] - x[row, wrong]).mean(), steps=steps)
    return [sign * float(found[edge]) for edge in every[seed].edges]


def orders(seed):
    each, alone = every[seed], torch.eye(N, dtype=torch.bool)
    scores = {
        "remove one edge": (each.metrics(~alone) - each.full).tolist(),
        "add one edge": (each.empty - each.metrics(alone)).tolist(),
        "EAP": attribution(seed),
        "EAP, corrupted end": attribution(seed, corrupted_end=True),
        "EAP-IG": attribution(seed, steps=5),
        "Shapley values": (-each.shapley()).tolist(),
        "at random": torch.randn(N, generator=torch.Generator().manual_seed(seed)).tolist(),
    }
    found = {name: by_score(each.edges, score) for name, score in scores.items()}
    for name, backward in (("greedy, removing", True), ("greedy, adding", False)):
        found[name] = (order := greedy(each, backward), order)
    return scores, found


scored, ordered = zip(*(orders(seed) for seed in SEEDS), strict=True)
METHODS = [
    "greedy, removing", "Shapley values", "remove one edge", "EAP-IG", "EAP", "greedy, adding", "add one edge",
    "EAP, corrupted end", "at random",
]  # fmt: skip
COST = {
    "greedy, removing": f"{N * (N + 1) // 2:,} runs", "Shapley values": "all circuits", "remove one edge": f"{N} runs",
    "EAP-IG": "6 runs, 5 gradients", "EAP": "2 runs, 1 gradient", "greedy, adding": f"{N * (N + 1) // 2:,} runs",
    "add one edge": f"{N} runs", "EAP, corrupted end": "2 runs, 1 gradient", "at random": "none",
}  # fmt: skip
kept_f = {
    name: torch.stack([share(s, curve(every[s].metric, ordered[s][name][0], SIZES)) for s in SEEDS]) for name in METHODS
}  # seed size
size_f = {
    name: torch.stack([share(s, curve(every[s].metric, ordered[s][name][1], SIZES)) for s in SEEDS]) for name in METHODS
}
loss20 = {name: (best_f - f)[:, 1:21].mean(dim=1) for name, f in kept_f.items()}
at_smallest = {name: torch.stack([f[s, smallest[s]] for s in SEEDS]) for name, f in kept_f.items()}


def between(x, digits=2):
    low, high = (f"{value:.{digits}f}".replace("-", "−") for value in (x.min(), x.max()))
    return low if low == high else f"{low} to {high}"


def name_of(name):
    return name.replace(", ", "_").replace(" ", "_").replace("-", "_").lower()


claim(
    **{f"loss20_{name_of(name)}_least": x.min() for name, x in loss20.items()},
    **{f"loss20_{name_of(name)}_most": x.max() for name, x in loss20.items()},
    **{f"four_{name_of(name)}_most": f[:, 4].max() for name, f in kept_f.items()},
    **{f"found_{name_of(name)}": int((x > 0.9).sum()) for name, x in at_smallest.items()},
    shapley_seed1_8=kept_f["Shapley values"][1, 8],
    best_seed1_8=best_f[1, 8],
    greedy_runs=N * (N + 1) // 2,
)
plot.table(
    [
        [
            name,
            *(between(kept_f[name][:, k]) for k in (4, 8)),
            f"{int((at_smallest[name] > 0.9).sum())} of 5",
            between(loss20[name], 3),
            COST[name],
        ]
        for name in METHODS
    ],
    ["method", "f with 4 edges", "with 8", "finds the smallest", "below the best, 1 to 20 edges", "cost"],
)

# %% acdc
THRESHOLDS = (0.01, 0.05, 0.1, 0.3, 1, 2, 3, 5)


def sweeps(order_of):
    """ACDC's circuits of each seed at all thresholds."""
    found = []
    for seed in SEEDS:
        order = order_of(seed, sweep_order(models[seed].config, every[seed].edges))
        found.append([acdc(order, lambda kept, seed=seed: -every[seed].metric(kept), t) for t in THRESHOLDS])
    return found


def shuffled(seed, order):
    return [order[i] for i in torch.randperm(len(order), generator=torch.Generator().manual_seed(seed)).tolist()]


def distinct(found):
    """How many different circuits, how many of these the best of their size, the largest gap."""
    different = {(s, frozenset(kept)) for s, row in enumerate(found) for kept in row}
    below = [float(best_f[s, len(kept)] - share(s, every[s].metric(kept))) for s, kept in different]
    return len(below), sum(gap < 1e-4 for gap in below), max(below)


backward = sweeps(lambda seed, order: order)
swept = [[(len(kept), float(share(s, every[s].metric(kept)))) for kept in row] for s, row in enumerate(backward)]
ways = {
    "back": distinct(backward),
    "forward": distinct(sweeps(lambda seed, order: order[::-1])),
    "random": distinct(sweeps(shuffled)),
}
by_kl = []
for seed in SEEDS:
    clean, corrupted, *_ = task(n=8)
    always = [edge for edge in every_edge(models[seed].config) if edge not in set(every[seed].edges)]
    run = CircuitRuns(models[seed], clean, corrupted, divergence_from(models[seed], clean), always=always)
    kept = acdc(sweep_order(models[seed].config, run.edges), run, 0.1)
    by_kl.append((len(kept), float(share(seed, every[seed].metric(kept))), as_story(seed, kept)[1] == set()))
claim(
    **{f"acdc_{way}_{what}": x for way, row in ways.items()
       for what, x in zip(("circuits", "exact", "gap_most"), row, strict=True)},
    acdc_kl_story=sum(story for *_, story in by_kl),
    acdc_kl_gap_most=max(float(best_f[s, k]) - f for s, (k, f, _) in enumerate(by_kl)),
)  # fmt: skip
plot.table(
    [
        [seed, *(f"{k}: {f:.2f}" for k, f in row), f"{by_kl[seed][0]}: {by_kl[seed][1]:.2f}"]
        for seed, row in enumerate(swept)
    ],
    ["seed", *(f"τ = {t:g}" for t in THRESHOLDS), "KL, τ = 0.1"],
)

# %% staircase
left, right = panels(1, 2, height=3.0, width=9.6)
for seed in SEEDS:
    left.plot(range(25), best_f[seed, :25], color=BLUE, linewidth=1.4)
left.set(xlabel="edges kept", ylabel="faithfulness f", title="the best of all circuits, five seeds", ylim=(-0.1, 1.2))
shown = {"best": best_f[0], "remove one": kept_f["remove one edge"][0], "EAP-IG": kept_f["EAP-IG"][0]}
shown |= {"EAP": kept_f["EAP"][0], "add one": kept_f["add one edge"][0]}
plot.lines(
    range(25),
    {name: f[:25] for name, f in shown.items()},
    ax=right,
    xlabel="edges kept",
    title="seed 0: four methods",
    colours=[BLUE, GREEN, ORANGE, "#8a5aa8", GREY],
)
for ax in (left, right):
    ax.set(ylim=(-0.1, 1.2), xticks=range(0, 25, 4))

# %% [markdown]
# ## The edge matrix, exact and estimated

# %% matrix
rows = [*every[0].writers, *every[0].heads]
columns = [f"1.{h}.{side}" for side in "qkv" for h in range(4)] + ["logits"]
exact, estimate = torch.full((2, len(rows), len(columns)), torch.nan)
for i, (writer, reader) in enumerate(every[0].edges):
    place = rows.index(writer), columns.index(reader)
    exact[place], estimate[place] = scored[0]["remove one edge"][i], scored[0]["EAP"][i]
above, below = panels(2, 1, height=5.4, width=7.0)
for ax, values, title in ((above, exact, "without the edge, exactly"), (below, estimate, "EAP")):
    plot.heatmap(values, ax=ax, rows=rows, columns=columns, title=title, limit=9, bar="change of the logit difference")

# %% error-by-kind
kinds = {"v": [], "q": [], "k": [], "logits": []}
for seed in SEEDS:
    strong = zip(every[seed].edges, scored[seed]["remove one edge"], scored[seed]["EAP"], strict=True)
    for (_, reader), truth, guess in strong:
        if abs(truth) > 1:
            kinds[reader.split(".")[-1]].append((truth, guess))
pairs = {kind: np.array(values) for kind, values in kinds.items()}
ratio = {kind: values[:, 1] / values[:, 0] for kind, values in pairs.items()}
together = {kind: values[:, 1].sum() / values[:, 0].sum() for kind, values in pairs.items()}
claim(
    linear_error=max(np.abs(pairs[kind][:, 0] - pairs[kind][:, 1]).max() for kind in ("v", "logits")),
    q_ratio=together["q"],
    k_ratio=together["k"],
    ratio_least=min(ratio["q"].min(), ratio["k"].min()),
    ratio_most=max(ratio["q"].max(), ratio["k"].max()),
)
plot.table(
    [[kind, len(values), f"{together[kind]:.2f}", between(ratio[kind])] for kind, values in pairs.items()],
    ["edges into", "edges that cost over 1", "EAP divided by the exact effect", "single edges"],
)

# %% [markdown]
# ## A model by hand

# %% by-hand
NEEDED = [("embed", "1.0.q"), ("0.0", "1.0.k"), ("embed", "1.0.v"), ("1.0", "logits")]
SHARPNESS = (4, 5, 6, 8, 12, 20, 35, 60)
curves, one = {}, torch.eye(9, dtype=torch.bool)
for sharpness in SHARPNESS:
    model = hand_set.induction(32, 25, float(sharpness))
    clean, corrupted, right, wrong = task(n=16, length=25, periods=(4, 9), d_vocab=32, start=True)
    row = torch.arange(len(right))
    by_hand = EveryCircuit(model, clean, corrupted, right, wrong)
    scale = by_hand.full - by_hand.empty

    def difference(x, row=row, right=right, wrong=wrong):
        return (x[row, right] - x[row, wrong]).mean()

    places = [by_hand.edges.index(edge) for edge in NEEDED]
    removed = (by_hand.full - by_hand.metrics(~one))[places] / scale
    added = (by_hand.metrics(one) - by_hand.empty)[places] / scale
    eap, ig = (
        [-float(edge_attribution(model, clean, corrupted, difference, steps=n)[edge]) / scale for edge in NEEDED]
        for n in (1, 5)
    )
    curves[sharpness] = np.array([removed.tolist(), added.tolist(), eap, ig])  # method edge
by_hand_best = {k: (by_hand.best_metrics()[k].item() - by_hand.empty) / scale for k in (3, 4)}
run = CircuitRuns(model, clean, corrupted, divergence_from(model, clean))
found = acdc(sweep_order(model.config, run.edges), run, 0.01)
claim(
    by_hand_three=by_hand_best[3],
    by_hand_four=by_hand_best[4],
    by_hand_story=len(set(by_hand.best()[4]) & set(NEEDED)),
    by_hand_removed_least=curves[60][0].min(),
    by_hand_added_most=curves[60][1].max(),
    by_hand_eap_q=abs(curves[60][2][0]),
    by_hand_eap_k=abs(curves[60][2][1]),
    by_hand_eap_v=curves[60][2][2],
    by_hand_ig_q=abs(curves[60][3][0]),
    by_hand_ig_k=curves[60][3][1],
    by_hand_edges=len(run.edges),
    by_hand_acdc=len(found),
)
axes = panels(1, 3, height=2.7, width=9.6)
for ax, i, title in zip(axes, (0, 1, 2), ("embed → 1.0.q", "0.0 → 1.0.k", "embed → 1.0.v"), strict=True):
    series = {
        name: [curves[s][m][i] for s in SHARPNESS] for m, name in enumerate(("exact", "add one", "EAP", "EAP-IG"))
    }
    plot.lines(
        SHARPNESS, series, ax=ax, title=title, xlabel="sharpness of the match",
        colours=[BLUE, GREY, "#8a5aa8", ORANGE],
    )  # fmt: skip

# %% [markdown]
# ## The corruption decides
#
# The same models and the same edges; the corrupted text repeats too, with the same period.

# %% same-structure
mirrored = [EveryCircuit(model, *task(same_structure=True)) for model in models]
mirrored_f = torch.stack([((m.best_metrics() - m.empty) / (m.full - m.empty)).double() for m in mirrored])
mirrored_smallest = [int((f >= 0.9).nonzero()[0]) for f in mirrored_f]
mirrored_best = [m.best()[k] for m, k in zip(mirrored, mirrored_smallest, strict=True)]
mirrored_needed = [
    [e for e, most in zip(m.edges, m.best_without(), strict=True) if most < m.empty + 0.9 * (m.full - m.empty)]
    for m in mirrored
]
matching = [[e for e in edges if e[1].endswith((".q", ".k"))] for edges in mirrored_best]
here = [float(share(seed, every[seed].metric(mirrored_best[seed]))) for seed in SEEDS]
(clean, different, right, own_wrong), (_, repeating, _, other_wrong) = task(n=24), task(n=24, same_structure=True)
crossed_story = crossed_matching = 0  # each corrupted text with the wrong token of the other
for seed, model in enumerate(models):
    crossed_story += as_story(seed, EveryCircuit(model, clean, different, right, other_wrong).best()[4]) == (1, set())
    crossed = EveryCircuit(model, clean, repeating, right, own_wrong)
    enough = int(((crossed.best_metrics() - crossed.empty) / (crossed.full - crossed.empty) >= 0.9).nonzero()[0])
    crossed_matching += sum(e[1].endswith((".q", ".k")) for e in crossed.best()[enough])
claim(
    mirrored_smallest_least=min(mirrored_smallest),
    mirrored_smallest_most=max(mirrored_smallest),
    mirrored_matching=max(len(edges) for edges in matching),
    mirrored_needed_matching=sum(e[1].endswith((".q", ".k")) for edges in mirrored_needed for e in edges),
    mirrored_on_the_other_most=max(here),
    crossed_story=crossed_story,
    crossed_matching=crossed_matching,
)
plot.table(
    [
        [seed, ", ".join(map(named, mirrored_best[seed])), f"{mirrored_f[seed, mirrored_smallest[seed]]:.2f}",
         f"{here[seed]:.2f}".replace("-", "−")]
        for seed in SEEDS
    ],
    ["seed", "smallest circuit above 0.9, if the corrupted text repeats too", "f there", "f if it does not"],
)  # fmt: skip

# %% second-grade
AGAIN = ["remove one edge", "EAP-IG", "EAP", "EAP, corrupted end", "add one edge"]
second = {name: [] for name in AGAIN}
matching_last, cut_alone, cut_both, exact_and_eap = [], [], [], []
for seed, each in enumerate(mirrored):
    alone = torch.eye(N, dtype=torch.bool)
    found = {
        "remove one edge": (each.metrics(~alone) - each.full).tolist(),
        "add one edge": (each.empty - each.metrics(alone)).tolist(),
        "EAP": attribution(seed, same_structure=True),
        "EAP, corrupted end": attribution(seed, corrupted_end=True, same_structure=True),
        "EAP-IG": attribution(seed, steps=5, same_structure=True),
    }
    for name in AGAIN:
        metric = curve(each.metric, by_score(each.edges, found[name])[0], SIZES)
        second[name].append((metric - each.empty) / (each.full - each.empty))
    order = sorted(by_score(each.edges, found["remove one edge"])[0], key=lambda edge: edge[1].endswith((".q", ".k")))
    matching_last.append((curve(each.metric, order, SIZES) - each.empty) / (each.full - each.empty))
    for reader in each.heads:
        q, k = ("embed", f"{reader}.q"), (f"0.{movers[seed]}", f"{reader}.k")
        costs = [each.full - each.metric(set(each.edges) - set(cut)) for cut in ([q], [k], [q, k])]
        if costs[0] > 1:
            cut_alone += [cost / (each.full - each.empty) for cost in costs[:2]]
            cut_both.append(abs(costs[2]) / (each.full - each.empty))
            exact_and_eap += [(costs[i], -found["EAP"][each.edges.index(e)]) for i, e in enumerate((q, k))]
matching_last = (mirrored_f - torch.stack(matching_last))[:, 1:21].mean(dim=1)
second = {name: torch.stack(f) for name, f in second.items()}
second_found = {name: sum(float(f[s, k]) > 0.9 for s, k in enumerate(mirrored_smallest)) for name, f in second.items()}
second_loss = {name: (mirrored_f - f)[:, 1:21].mean(dim=1) for name, f in second.items()}
claim(
    **{f"second_found_{name_of(name)}": n for name, n in second_found.items()},
    **{f"second_loss_{name_of(name)}_least": x.min() for name, x in second_loss.items()},
    **{f"second_loss_{name_of(name)}_most": x.max() for name, x in second_loss.items()},
    cut_alone_least=min(cut_alone),
    cut_alone_most=max(cut_alone),
    cut_both_most=max(cut_both),
    second_eap_of_matching=sum(eap for _, eap in exact_and_eap) / sum(exact for exact, _ in exact_and_eap),
    matching_last_least=matching_last.min(),
    matching_last_most=matching_last.max(),
    second_eap_four_gap=(mirrored_f - second["EAP"])[:, 4].max(),
)
plot.table(
    [
        [name, f"{int((at_smallest[name] > 0.9).sum())} of 5", between(loss20[name], 3), f"{second_found[name]} of 5",
         between(second_loss[name], 3)]
        for name in AGAIN
    ],
    ["method", "no repeat: finds the smallest", "below the best", "repeats: finds the smallest", "below the best"],
)  # fmt: skip

# %% [markdown]
# ## Two areas, two axes

# %% areas
sizes = [k / N for k in range(1, N + 1)]
area = {}
for name in METHODS[:-1]:
    by_help, by_size = kept_f[name][:, 1:], size_f[name][:, 1:]
    area[name] = torch.stack(
        [torch.stack([cpr(sizes, by_help[s], a) if m == "cpr" else cmd(sizes, by_size[s], a) for s in SEEDS])
         for m in ("cpr", "cmd") for a in ("linear", "log")]
    )  # fmt: skip
area["the best circuits"] = torch.stack(
    [torch.stack([(cpr if m == "cpr" else cmd)(sizes, best_f[s, 1:], a) for s in SEEDS])
     for m in ("cpr", "cmd") for a in ("linear", "log")]
)  # fmt: skip


def rank(values, more):
    order = sorted(values, key=lambda name: -values[name] if more else values[name])
    return {name: i for i, name in enumerate(order)}


places = [rank({name: float(x[i].mean()) for name, x in area.items()}, more=i < 2) for i in range(4)]
moved = [sum(places[i][name] != places[i + 1][name] for name in area) for i in (0, 2)]
of_mib = weights(FRACTIONS)
nothing = torch.tensor([0.0] * 9 + [1.0])
claim(
    mib_large=of_mib[7:].sum(),
    mib_small=of_mib[:5].sum(),
    mib_all=of_mib[-1],
    mib_nothing_cpr=cpr(FRACTIONS, nothing),
    mib_nothing_cmd=cmd(FRACTIONS, nothing),
    mib_log_large=weights(FRACTIONS, "log")[7:].sum(),
    moved_cpr=moved[0],
    moved_cmd=moved[1],
    area_methods=len(area),
    cmd_best=area["the best circuits"][2].mean(),
    cmd_best_place=places[2]["the best circuits"] + 1,
    cmd_remove_one=area["remove one edge"][2].mean(),
    cmd_greedy=area["greedy, removing"][2].mean(),
    cmd_eap=area["EAP"][2].mean(),
    cmd_best_before_eap=int((area["the best circuits"][2] < area["EAP"][2]).sum()),
    cmd_remove_one_signed=torch.stack([cmd(sizes, f[1:]) for f in kept_f["remove one edge"]]).mean(),
    cmd_greedy_signed=torch.stack([cmd(sizes, f[1:]) for f in kept_f["greedy, removing"]]).mean(),
    cmd_eap_signed=torch.stack([cmd(sizes, f[1:]) for f in kept_f["EAP"]]).mean(),
    cpr_best=area["the best circuits"][0].mean(),
    cpr_eap=area["EAP"][0].mean(),
    cpr_eap_log=area["EAP"][1].mean(),
    cpr_best_log=area["the best circuits"][1].mean(),
)
plot.table(
    [
        [name, *(f"{x[i].mean():.2f} ({places[i][name] + 1})" for i in range(4))]
        for name, x in sorted(area.items(), key=lambda pair: -float(pair[1][0].mean()))
    ],
    ["method", "CPR, linear", "CPR, log", "CMD, linear", "CMD, log"],
)

# %% [markdown]
# ## Causal scrubbing of the story

# %% scrubbing
W, R = [f"0.{h}" for h in range(4)], [f"1.{h}" for h in range(4)]


def repeated(pool, n=32, length=97, periods=(8, 32), seed=3):
    """Rows that repeat a stretch of different tokens, all rows from the same ``pool`` tokens; and their periods."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randperm(512, generator=generator)[:pool]
    period = torch.randint(periods[0], periods[1] + 1, (n, 1), generator=generator)
    drawn = torch.rand(n, pool, generator=generator).argsort(dim=1)
    return tokens[drawn.gather(1, torch.arange(length) % period)], period


text, period = repeated(40)
speeches = corpus().validation.unfold(0, 97, 96)[::160][:32]


def edges_to(writers, side):
    return [(w, f"{r}.{side}") for w in writers for r in R]


bases = {}  # the loss without scrubbing, by seed and text


def scrubbed(seed, tokens, counted, claims):
    """The loss of each counted prediction, and its rise."""
    x, y = tokens[:, :-1], tokens[:, 1:]

    def loss(logits):
        return F.cross_entropy(logits.transpose(1, 2), y, reduction="none")[counted]

    if (seed, id(tokens)) not in bases:
        bases[seed, id(tokens)] = loss(models[seed](x))
    base = bases[seed, id(tokens)]
    return base, loss(scrub(models[seed], x, claims)) - base


def hypotheses(seed, x):
    previous = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
    mover = f"0.{movers[seed]}"
    rest = [w for w in W if w != mover]
    story = [(edges_to(W, "q"), None), (edges_to(["embed", *rest], "k"), None), (edges_to(W, "v"), None)]
    return {
        "nothing is read": [(every_edge(models[seed].config), None)],
        "the story": [*story, (edges_to([mover], "k"), previous)],
        "the story, but keys read the current token": [*story, (edges_to([mover], "k"), x)],
        "the story, but keys read nothing": [*story, (edges_to([mover], "k"), None)],
        "queries read no head": [(edges_to(W, "q"), None)],
        "values read no head": [(edges_to(W, "v"), None)],
        "neither queries nor values read a head": [(edges_to(W, "q"), None), (edges_to(W, "v"), None)],
        "values read embeddings by current token": [(edges_to(["embed"], "v"), x)],
    }


counted = torch.arange(1, 97) >= period
scrubs = {}
for seed in SEEDS:
    for name, claims in hypotheses(seed, text[:, :-1]).items():
        scrubs[seed, name] = scrubbed(seed, text, counted, claims)
NAMES = list(hypotheses(0, text[:, :-1]))
wide, wide_period = repeated(512)  # partners by current token are mostly in the same row
wide_counted, wide_share = torch.arange(1, 97) >= wide_period, []
for seed in SEEDS:
    claims = hypotheses(seed, wide[:, :-1])
    base, rise = scrubbed(seed, wide, wide_counted, claims[NAMES[2]])
    _, rise_of_nothing = scrubbed(seed, wide, wide_counted, claims[NAMES[0]])
    wide_share.append(recovered(base.mean(), (base + rise).mean(), (base + rise_of_nothing).mean()))


def same_previous(tokens):
    """The share of positions whose partner by current token has the same previous token too."""
    x = tokens[:, :-1]
    partner = partners(x, torch.Generator().manual_seed(0))
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
    return (before.flatten()[partner] == before).float().mean()


def share_kept(seed, name):
    base, rise = scrubs[seed, name]
    nothing = base.mean() + scrubs[seed, NAMES[0]][1].mean()
    return recovered(base.mean(), base.mean() + rise.mean(), nothing)


backs = [float(previous_token_score(models[seed], text)[0, movers[seed]]) for seed in SEEDS]
story_share = [share_kept(seed, "the story") for seed in SEEDS]
both = "neither queries nor values read a head"
part_of = {}
for seed in SEEDS:
    every_token = torch.ones(32, 96, dtype=torch.bool)
    claims = hypotheses(seed, speeches[:, :-1])
    story = claims["the story"]
    inducing = [r for r in R if (r, "logits") in best[seed][smallest[seed]]]

    def only(heads, story=story):
        return [([(w, r) for w, r in edges if r[:3] in heads], feature) for edges, feature in story]

    parts = {
        "the whole story": story,
        "queries read no head": story[:1],
        "values read no head": story[2:3],
        "keys read the previous-token head alone": story[1:2],
        "from it, keys read the previous token alone": story[3:],
        "from it, keys read nothing": [(story[3][0], None)],
        "the whole story, but keys read nothing": claims["the story, but keys read nothing"],
        "keys read nothing from the embedding": [(edges_to(["embed"], "k"), None)],
        "the story, of the induction heads": only(inducing),
        "the story, of the other heads": only([r for r in R if r not in inducing]),
    }
    nothing_base, nothing_read = scrubbed(seed, speeches, every_token, claims["nothing is read"])
    for name, some in parts.items():
        base, rise = scrubbed(seed, speeches, every_token, some)
        part_of[seed, name] = recovered(base.mean(), (base + rise).mean(), (base + nothing_read).mean())
PARTS = list(parts)


def of_part(i, choose):
    return choose(part_of[seed, PARTS[i]] for seed in SEEDS)


claim(
    story_least=min(story_share),
    story_seed=int(np.argmin(story_share)),
    back_least=min(backs),
    back_least_seed=int(np.argmin(backs)),
    back_others=sorted(backs)[1],
    story_others=sorted(story_share)[1],
    story_most=max(story_share),
    story_current_most=max(share_kept(seed, NAMES[2]) for seed in SEEDS),
    wide_current_least=min(wide_share),
    wide_current_most=max(wide_share),
    same_previous=same_previous(text),
    same_previous_wide=same_previous(wide),
    story_current_least=min(share_kept(seed, NAMES[2]) for seed in SEEDS),
    speeches_feature_most=max(part_of[s, PARTS[0]] - part_of[s, PARTS[6]] for s in SEEDS),
    speeches_feature_least=min(part_of[s, PARTS[0]] - part_of[s, PARTS[6]] for s in SEEDS),
    story_none_most=max(share_kept(seed, NAMES[3]) for seed in SEEDS),
    **{f"speeches_{what}_{end}": of_part(i, choose) for end, choose in (("least", min), ("most", max))
       for i, what in enumerate(("story", "queries", "values", "keys", "previous", "mover_none", "none", "embedding",
                                 "inducing", "others"))},
    queries_share_least=min(share_kept(seed, "queries read no head") for seed in SEEDS),
    values_share_most=max(share_kept(seed, "values read no head") for seed in SEEDS),
    story_moves_least=min(float(scrubs[s, "the story"][1].abs().mean()) for s in SEEDS),
    story_moves_most=max(float(scrubs[s, "the story"][1].abs().mean()) for s in SEEDS),
    both_better_least=min(float((scrubs[s, both][1] < -0.05).float().mean()) for s in SEEDS),
    both_better_most=max(float((scrubs[s, both][1] < -0.05).float().mean()) for s in SEEDS),
    story_better_least=min(float((scrubs[s, "the story"][1] < -0.05).float().mean()) for s in SEEDS),
    story_better_most=max(float((scrubs[s, "the story"][1] < -0.05).float().mean()) for s in SEEDS),
    span_least=min(float(scrubs[s, NAMES[0]][1].mean()) for s in SEEDS),
    queries_rise_least=min(float(scrubs[s, "queries read no head"][1].mean()) for s in SEEDS),
    queries_rise_most=max(float(scrubs[s, "queries read no head"][1].mean()) for s in SEEDS),
    values_fall_most=max(-float(scrubs[s, "values read no head"][1].mean()) for s in SEEDS),
    both_share_least=min(share_kept(seed, both) for seed in SEEDS),
    both_rise_0=abs(float(scrubs[0, both][1].mean())),
    both_moves_0=scrubs[0, both][1].abs().mean(),
    both_moves_least=min(float(scrubs[s, both][1].abs().mean()) for s in SEEDS),
    both_moves_most=max(float(scrubs[s, both][1].abs().mean()) for s in SEEDS),
    base_0=scrubs[0, both][0].mean(),
    both_worse_0=(scrubs[0, both][1] > 0.05).float().mean(),
    both_better_0=(scrubs[0, both][1] < -0.05).float().mean(),
    true_moves=max(float(scrubs[s, NAMES[7]][1].abs().max()) for s in SEEDS),
)  # fmt: skip
plot.table(
    [
        [name, *(f"{share_kept(seed, name):.3f}" for seed in SEEDS),
         between(torch.tensor([float(scrubs[s, name][1].abs().mean()) for s in SEEDS]))]
        for name in NAMES[1:]
    ],
    ["hypothesis", *(f"seed {seed}" for seed in SEEDS), "mean |change| of a prediction (nats)"],
)  # fmt: skip

# %% scrubbing-speeches
plot.table(
    [[name, *(f"{part_of[seed, name]:.2f}" for seed in SEEDS)] for name in PARTS],
    ["claimed, on speeches", *(f"seed {seed}" for seed in SEEDS)],
)

# %% [markdown]
# ## The graph in the page
#
# Every edge alone, on one text; the reader gets the writer's mean over the positions of the text.


# %% live
def live_edges(text):
    """The loss on the second half without its first token, and what each edge adds to it, largest first."""
    model = models[0]
    tokens, _ = model.vocabulary.tokens([text])
    first = -(-tokens.shape[1] // 2)  # the loss counts the tokens after this one

    def loss(tap=None):
        of = F.cross_entropy(model(tokens, tap=tap)[0, first:-1], tokens[0, first + 1 :])
        return float(of)

    means = {name: x.mean(1, keepdim=True).expand_as(x) for name, x in written(model, tokens).items()}
    base = loss()
    rises = {edge: loss(patch_edges(model, [edge], means)) - base for edge in every_edge(model.config)}
    return base, dict(sorted(rises.items(), key=lambda pair: -pair[1]))


live_loss, live = live_edges(" kV7 qu%o Zax! 9Gd kV7 qu%o Zax! 9Gd")
_, plain = live_edges(
    "The Congress of the United States shall have power to declare war and to make peace with other nations"
)
head = {("embed", "0.1.v"), ("embed", "1.1.v"), ("0.1", "1.1.k"), ("1.1", "logits"), ("embed", "1.1.q")}
claim(
    live_loss=live_loss,
    live_story=len(head & set(list(live)[:5])),
    live_key=live["0.1", "1.1.k"],
    live_key_plain=abs(plain["0.1", "1.1.k"]),
    live_worst=min(live.values()),
)
plot.table(
    [[named(edge), rise] for edge, rise in list(live.items())[:8]], ["edge", "rise of the loss (nats)"], digits=3
)

# %% [markdown]
# ## SmolLM2 and indirect objects
#
# Scores, curves and choices are measured once (`residual measure smollm2-ioi-edge-scores`, `…-curves`, `…-choices`);
# one place of each of the last two is measured again here.

# %% smollm2-curves
kept, card = load_result("smollm2-ioi-curves")
scores, scores_card = load_result("smollm2-ioi-edge-scores")
each_low, each_high = kept["empty"][0, 0], kept["full"][0, 0]  # prompt
low, high = each_low.mean(), each_high.mean()
ioi_f = (kept["difference"].mean(dim=-1) - low) / (high - low)  # ranking size
curve_of = dict(zip(ioi_circuits.RANKINGS, ioi_f, strict=True))
ioi_area = {
    name: [
        float(measure(FRACTIONS, curve_of[f"{name} {by}" if name != "random" else name], axis))
        for measure, by in ((cpr, "help"), (cmd, "size"))
        for axis in ("linear", "log")
    ]
    for name in ("EAP", "EAP-IG", "random")
}
drawn = torch.randint(len(each_low), (2000, len(each_low)), generator=torch.Generator().manual_seed(0))
drawn_low, drawn_high = each_low[drawn].mean(dim=-1)[:, None], each_high[drawn].mean(dim=-1)[:, None]  # draw 1


def drawn_f(ranking):
    """Faithfulness of a ranking's circuits over prompts drawn again, with replacement [draw size]."""
    of = kept["difference"][ioi_circuits.RANKINGS.index(ranking)][:, drawn].mean(dim=-1).mT
    return (of - drawn_low) / (drawn_high - drawn_low)


def interval(x):
    return x.quantile(torch.tensor([0.025, 0.975], dtype=x.dtype)).tolist()


spread = {
    f"{name_of(name)}_{what}": interval(drawn_f(f"{name} help")[:, i])
    for name in ("EAP", "EAP-IG")
    for i, what in ((3, "1_percent"), (7, "20_percent"))
}
spread["help_gap_1_percent"] = interval(drawn_f("EAP-IG help")[:, 3] - drawn_f("EAP help")[:, 3])
for axis in ("linear", "log"):
    of_axis = weights(FRACTIONS, axis)
    distances = [(1 - drawn_f(f"{name} size")).abs().double() @ of_axis for name in ("EAP-IG", "EAP")]
    spread[f"cmd_gap_{axis}"] = interval(distances[0] - distances[1])
n_edges = 70_651
claim(
    ioi_edges=n_edges,
    ioi_scored=int((scores["scores"][0] != 0).sum()),
    ioi_full=high,
    ioi_empty=low,
    ioi_empty_error=each_low.std() / len(each_low) ** 0.5,
    **{f"{name}_{end}": x for name, ends in spread.items() for end, x in zip(("low", "high"), ends, strict=True)},
    ioi_prompts=ioi_circuits.PROMPTS,
    curve_prompts=ioi_circuits.PROMPTS_CURVES,
    ioi_seconds=scores_card.seconds,
    **{f"{name_of(name)}_{what}": x[i] for name, x in ioi_area.items()
       for i, what in enumerate(("cpr", "cpr_log", "cmd", "cmd_log"))},
    **{f"{name_of(name)}_{what}": curve_of[f"{name} help"][i] for name in ("EAP", "EAP-IG")
       for i, what in ((3, "1_percent"), (4, "2_percent"), (5, "5_percent"), (6, "10_percent"), (7, "20_percent"))},
    ioi_most=ioi_f.max(),
    ioi_curves_differ=spot_check("smollm2-ioi-curves", places=1, seed=0),
)  # fmt: skip
left, right = panels(1, 2, height=3.0, width=9.6)
for ax, log in ((left, ""), (right, "x")):
    plot.lines(
        FRACTIONS[:-1], {name: f[:-1] for name, f in curve_of.items()}, ax=ax, log=log,
        xlabel="share of edges kept", ylabel="" if log else "faithfulness f",
        title="logarithmic axis" if log else "linear axis", colours=[ORANGE, "#e8b98a", BLUE, "#9dbfe0", GREY],
    )  # fmt: skip

# %% smollm2-areas
plot.table([[name, *(f"{x:.2f}" for x in row)] for name, row in ioi_area.items()],
           ["method", "CPR, linear", "CPR, log", "CMD, linear", "CMD, log"])  # fmt: skip

# %% smollm2-choices
kept, _ = load_result("smollm2-ioi-choices")
found, whole_model = kept["difference"], kept["model"][0, 0, 0]  # level way place prompt; prompt
WAYS = {"patch": "three other names", "mean": "mean", "zero": "zero"}
bars = []
for level, level_name in enumerate(ioi_circuits.LEVELS):
    for way, way_name in enumerate(WAYS.values()):
        for place, place_name in enumerate(ioi_circuits.PLACES):
            of = found[level, way, place]
            means = of.mean() / whole_model.mean()
            each = of / whole_model
            half = [float(of[i::2].mean() / whole_model[i::2].mean()) for i in (0, 1)]
            bars.append((f"{level_name}s, {way_name}, {place_name} positions", float(means), float(each.mean()),
                         float(each.quantile(0.25)), float(each.quantile(0.75)), *half))  # fmt: skip
values = np.array([row[1:] for row in bars])
six = dict(zip([row[0] for row in bars], values, strict=True))
claim(
    choices_least=values[:, 0].min(),
    choices_most=values[:, 0].max(),
    choices_of_ratios_most=values[:, 1].max(),
    choices_abba_least=values[:, 4].min(),
    choices_baba_most=values[:, 5].max(),
    node_mean_all=six["nodes, mean, all positions"][0],
    node_patch_all=six["nodes, three other names, all positions"][0],
    node_zero_all=six["nodes, zero, all positions"][0],
    node_mean_specified=six["nodes, mean, specified positions"][0],
    node_mean_specified_ratios=six["nodes, mean, specified positions"][1],
    edge_patch_specified=six["edges, three other names, specified positions"][0],
    edge_patch_specified_abba=six["edges, three other names, specified positions"][4],
    edge_patch_specified_baba=six["edges, three other names, specified positions"][5],
    choices_model=whole_model.mean(),
    choices_prompts=len(whole_model),
    choices_nodes=ioi_circuits.NODES,
    choices_between=ioi_circuits.BETWEEN,
    choices_settings=len(bars),
    choices_differ=spot_check("smollm2-ioi-choices", places=1, seed=1),
)
ax = panels(height=4.0, width=8.0)
height = np.arange(len(bars))[::-1]
ax.hlines(height, values[:, 2], values[:, 3], color=GREY, linewidth=5, alpha=0.35)
ax.scatter(values[:, 0], height, color=BLUE, zorder=3, label="ratio of means")
ax.scatter(values[:, 1], height, color=ORANGE, marker="D", s=20, zorder=3, label="mean of ratios")
ax.scatter(values[:, 4], height, color="black", marker="$A$", s=28, zorder=3, label="ABBA")
ax.scatter(values[:, 5], height, color="black", marker="$B$", s=28, zorder=3, label="BABA")
ax.axvline(1, color=GREY, linewidth=0.8)
ax.set_yticks(height, [row[0] for row in bars])
ax.set(xlabel="logit difference of the circuit, as a share of the model's", ylim=(-0.6, len(bars) - 0.4))
legend = ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.4, -0.13), ncol=4, fontsize=8)
