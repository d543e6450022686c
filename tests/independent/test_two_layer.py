"""two-layer: terms by order with frozen patterns, composition scores, and the cost of an edge."""

from functools import cache, cached_property
from itertools import product

import torch
from torch import Tensor

from .claims import Again, each, wrong
from .forward import forward, losses
from .matching import NAMES, again, changed, edge, inductors, mover, repeated
from .text import cut
from .weights import W_OV, W_QK, heads, weights

SPEECHES, INDUCTION = "attn-2l", "induction"


class Parts:
    """The stream of a two-layer model as a sum: direct path, heads of each layer alone, virtual heads."""

    def __init__(self, name: str, tokens: Tensor, counted: Tensor | None = None) -> None:
        read = tokens[:, :-1]
        self.name, self.tokens, self.counted = name, tokens, counted
        w, patterns = weights(name), forward(name, read).pattern
        self.direct = w["W_E"][read]
        if name == SPEECHES:
            self.direct = self.direct + w["W_pos"]
        self.A = patterns
        self.heads = [
            torch.stack([A[:, h] @ self.direct @ OV for h, OV in enumerate(W_OV(name, layer))])
            for layer, A in enumerate(patterns)
        ]
        self.virtual = sum(A @ self.heads[0].sum(dim=0) @ OV for A, OV in self.second())

    def second(self) -> list[tuple[Tensor, Tensor]]:
        return [(self.A[1][:, h], OV) for h, OV in enumerate(W_OV(self.name, 1))]

    def one_virtual(self, first: int, then: int) -> Tensor:
        A, OV = self.second()[then]
        return A @ self.heads[0][first] @ OV

    def loss(self, stream: Tensor) -> float:
        of_tokens = losses(stream.float() @ weights(self.name)["W_U"].float(), self.tokens[:, 1:]).double()
        return float(of_tokens.mean() if self.counted is None else of_tokens[self.counted].mean())

    @property
    def whole(self) -> Tensor:
        return self.direct + self.heads[0].sum(dim=0) + self.heads[1].sum(dim=0) + self.virtual

    @cached_property
    def orders(self) -> dict[str, float]:
        early, late = (layer.sum(dim=0) for layer in self.heads)
        return {
            "nothing": self.loss(0 * self.direct),
            "direct": self.loss(self.direct),
            "early": self.loss(self.direct + early),
            "late": self.loss(self.direct + late),
            "heads": self.loss(self.direct + early + late),
            "whole": self.loss(self.whole),
        }

    def fall(self, before: str, after: str) -> float:
        return self.orders[before] - self.orders[after]


@cache
def on_speeches() -> Parts:
    return Parts(SPEECHES, cut(129, 512, 128)[1::64])


@cache
def on_repeats(name: str = INDUCTION) -> Parts:
    return Parts(name, *again())


@cache
def single() -> list[float]:
    """Return the rise of the loss without one head's own term, for each of the 16."""
    parts = on_speeches()
    return [parts.loss(parts.whole - term) - parts.orders["whole"] for layer in parts.heads for term in layer]


@cache
def virtual() -> list[float]:
    parts = on_speeches()
    base = parts.orders["whole"]
    return [parts.loss(parts.whole - parts.one_virtual(*pair)) - base for pair in product(range(8), range(8))]


@cache
def hidden() -> dict[str, float]:
    parts, head = on_repeats(), mover(INDUCTION)
    paths = parts.heads[0][head] + sum(parts.one_virtual(head, then) for then in range(4))

    def away(z: Tensor, layer: int) -> Tensor:
        return z if layer else z * (torch.arange(4) != head)[:, None, None]

    return {
        "whole": parts.orders["whole"],
        "path": parts.loss(parts.whole - paths),
        "gone": repeated(changed(INDUCTION, z=away).logits),
    }


# -- composition


def frobenius(M: Tensor) -> Tensor:
    return M.square().sum(dim=(-2, -1)).sqrt()


@cache
def composition(name: str, kind: str) -> Tensor:
    """Return ``[later earlier]`` scores, from the full 128 × 128 products."""
    qk, earlier, later = W_QK(name, 1), W_OV(name, 0), W_OV(name, 1)
    reads = {"Q": qk, "K": qk.transpose(1, 2), "V": later}[kind]
    rows = [[frobenius(OV @ R) / (frobenius(OV) * frobenius(R)) for OV in earlier] for R in reads]
    return torch.tensor(rows)


@cache
def baseline(d_model: int, d_head: int, draws: int) -> tuple[float, float]:
    """Return the mean and the standard deviation of the scores of Gaussian matrices of that rank."""
    generator = torch.Generator().manual_seed(77)

    def normal() -> Tensor:
        A, B = (torch.randn(*s, generator=generator).double() for s in ((d_model, d_head), (d_head, d_model)))
        return A @ B

    samples = torch.stack(
        [frobenius(M @ N) / (frobenius(M) * frobenius(N)) for M, N in ((normal(), normal()) for _ in range(draws))]
    )
    return float(samples.mean()), float(samples.std())


@cache
def turned_round() -> Tensor:
    """Return the paper's first formula: the last factor of W_QK W_OVᵀ moved to the front, which norms do not allow."""
    first, then = heads(SPEECHES, 0), heads(SPEECHES, 1)
    rows = []
    for Q, K in zip(then["Q"], then["K"], strict=True):
        row = []
        for V, out in zip(first["V"], first["O"], strict=True):  # Q (Kᵀ Oᵀ) Vᵀ, cyclically shifted: (Vᵀ Q) (Kᵀ Oᵀ)
            row.append(frobenius(V.T @ Q @ K.T @ out.T) / (frobenius(Q @ K.T) * frobenius(V @ out)))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def places(x: Tensor) -> Tensor:
    """Return the rank of each entry, 1 for the largest."""
    return (x.flatten()[None] > x.flatten()[:, None]).sum(dim=1) + 1


def rank_correlation() -> float:
    pair = torch.stack([places(composition(SPEECHES, "K")), places(turned_round())]).double()
    return float(torch.corrcoef(pair)[0, 1])


def moved() -> tuple[int, int]:
    right, bad = places(composition(SPEECHES, "K")), places(turned_round())
    most = int((right - bad).abs().argmax())
    return int(right[most]), int(bad[most])


def factors() -> Tensor:
    return composition(SPEECHES, "K") / turned_round()


def chance() -> float:
    return baseline(128, 16, 300)[0]


AGAIN = {
    "windows_few": Again(lambda: len(cut(129, 512, 128)[::62]), 0),
    "direct_gain": Again(lambda: on_speeches().fall("nothing", "direct"), 0.04),
    "heads_gain": Again(lambda: on_speeches().fall("direct", "heads"), 0.04),
    "virtual_gain": Again(lambda: on_speeches().fall("heads", "whole"), 0.02),
    "per_head": Again(lambda: on_speeches().fall("direct", "heads") / 16, 0.003),
    "per_virtual": Again(lambda: on_speeches().fall("heads", "whole") / 64, 3e-4),
    "layer_1_on_top": Again(lambda: on_speeches().fall("early", "heads"), 0.04),
    "layer_0_on_top": Again(lambda: on_speeches().fall("late", "heads"), 0.02),
    "best_head": Again(lambda: max(single()), 0.015),
    "best_virtual": Again(lambda: max(virtual()), 0.005),
    "repeats_heads": Again(lambda: on_repeats().fall("direct", "heads"), 0.06),
    "repeats_layer_0_on_top": Again(lambda: abs(on_repeats().fall("late", "heads")), 0.006),
    "virtual_repeats_least_fall": Again(lambda: max(-on_repeats(n).fall("heads", "whole") for n in NAMES), 0.02),
    "hidden_whole": Again(lambda: hidden()["whole"], 0.05),
    "hidden_path": Again(lambda: hidden()["path"], 0.05),
    "hidden_gone": Again(lambda: hidden()["gone"], 0.12),
    "induction_heads_seen": Again(lambda: sum(len(inductors(name)) for name in NAMES), 0),
    "edge_repeats_least": Again(lambda: min(map(edge, NAMES)), 0.15),
    "edge_repeats_most": Again(lambda: max(map(edge, NAMES)), 0.15),
    "baseline": Again(chance, 0.0015),
    "baseline_spread": Again(lambda: baseline(128, 16, 300)[1], 0.001),
    "largest_k": Again(lambda: composition(SPEECHES, "K").max()),
    "largest_q_excess": Again(lambda: composition(SPEECHES, "Q").max() - chance(), 0.0015),
    "largest_v_excess": Again(lambda: composition(SPEECHES, "V").max() - chance(), 0.0015),
    "induction_q": Again(lambda: composition(INDUCTION, "Q").max()),
    "rank_correlation": Again(rank_correlation),
    "smallest_factor": Again(lambda: factors().min()),
    "largest_factor": Again(lambda: factors().max()),
    "moved_from": Again(lambda: moved()[0], 0),
    "moved_to": Again(lambda: moved()[1], 0),
}


NUMBERS = {"two-layer": AGAIN}


@each(NUMBERS)
def test_the_number_comes_out_again(note: str, name: str, number: Again) -> None:
    assert wrong(note, name, number) == []
