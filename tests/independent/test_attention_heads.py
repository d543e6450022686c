"""attention-heads: the one-layer model ``attn-1l``, its subspaces, its position direction, and one prediction."""

from functools import cache
from itertools import combinations

import torch
from torch import Tensor

from .claims import Again, each, wrong
from .forward import Seen, forward, loss, over
from .text import counts, cut, drawn, tokenizer
from .weights import W_OV, card, heads, parameters, weights

NAME = "attn-1l"
N, D, D_HEAD, HEADS = 1024, 768, 64, 12  # GPT-2 small


# -- subspaces


def spaces(kind: str) -> list[Tensor]:
    """Return an orthonormal basis ``[d_model d_head]`` of the space that each head reads from or writes to."""
    return [torch.linalg.qr(W.T if kind == "O" else W).Q for W in heads(NAME, 0)[kind]]


def cosines(kind: str) -> Tensor:
    """Return the cosines of each pair of heads' principal angles, ``[pair angle]``, by eigenvalues of projections."""
    pairs = []
    for A, B in combinations(spaces(kind), 2):
        squares = torch.linalg.eigvalsh(A.T @ B @ B.T @ A).clamp(min=0).flip(0)
        pairs.append(squares.sqrt())
    return torch.stack(pairs)


def overlap(kind: str) -> float:
    return float(cosines(kind).square().mean())


@cache
def spectrum() -> tuple[Tensor, Tensor]:
    """Return the variances of the position vectors, largest first, and the first direction, growing with position."""
    W_pos = weights(NAME)["W_pos"]
    spread = W_pos - W_pos.mean(dim=0)
    values, vectors = torch.linalg.eigh(spread.T @ spread)
    u = vectors[:, -1]
    return values.flip(0), u * (spread[-2] @ u).sign()


def u() -> Tensor:
    return spectrum()[1]


def straight() -> float:
    y = (weights(NAME)["W_pos"] @ u())[:-1]  # the last position is never a past key
    x = torch.arange(len(y), dtype=torch.float64)
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / ((x * x).sum() * (y * y).sum()).sqrt())


def share(kind: str, direction: Tensor) -> Tensor:
    return torch.stack([(B.T @ direction).square().sum() for B in spaces(kind)])


def gains() -> Tensor:
    return u() @ W_OV(NAME, 0) @ u()


def unembedding_along_u() -> float:
    W_U = weights(NAME)["W_U"]
    W_U = W_U - W_U.mean(dim=1, keepdim=True)
    return float((u() @ W_U).square().sum() / W_U.square().sum() * 128)


# -- on text


@cache
def windows() -> Tensor:
    return drawn(96, 65)


@cache
def run() -> Seen:
    return forward(NAME, windows()[:, :-1])


@cache
def base() -> float:
    return loss(run().logits, windows()[:, 1:])


def costs(**changes) -> float:
    return loss(forward(NAME, windows()[:, :-1], torch.float32, **changes).logits, windows()[:, 1:]) - base()


def along(x: Tensor, layer: int = 0) -> Tensor:
    return (x @ u().to(x))[..., None] * u().to(x)


def without(x: Tensor, layer: int = 0) -> Tensor:
    return x - along(x)


def recency(**changes) -> float:
    """Return attention one token back over attention 16 tokens back, for tokens from position 24 on."""
    pattern = forward(NAME, windows()[:, :-1], **changes).pattern[0]
    near, far = (torch.stack([pattern[:, :, i, i - back] for i in range(24, 64)]).mean() for back in (1, 16))
    return float(near / far)


@cache
def silent(*heads: int) -> float:
    def change(z: Tensor, layer: int) -> Tensor:
        z = z.clone()
        z[:, list(heads)] = 0
        return z

    return costs(z=change)


def alone() -> list[float]:
    return [silent(h) for h in range(8)]


def slope(y: Tensor) -> float:
    x = torch.arange(len(y), dtype=torch.float64) - (len(y) - 1) / 2
    return float((x * y).sum() / (x * x).sum())


def left() -> float:
    enters, leaves = ((x @ u()).mean(dim=0)[:-1] for x in run().stream)
    return slope(leaves) / slope(enters)


def mean_stream() -> Tensor:
    mean = run().stream[0].mean(dim=(0, 1))
    return mean / mean.norm()


@cache
def some() -> Tensor:
    return over(NAME, cut(65)[::4])


def by_bigrams() -> Tensor:
    """Return −log p of each window's tokens by bigram counts, with a count of one for unseen pairs."""
    p = (counts() + 1) / (counts() + 1).sum(dim=1, keepdim=True)
    return -p[cut(65)[:, :-1], cut(65)[:, 1:]].log().mean(dim=1)


# -- the parts of one prediction


@cache
def account(seed: int) -> dict[str, float]:
    """Return the answer's logit at "ate" less the mean, as shares by source; the direct path; the probability."""
    name = NAME if seed == 0 else f"{NAME}-seed{seed}"
    encoded = tokenizer().encode(" And that will define the state of our Union.")
    ids, place, w = torch.tensor(encoded.ids), encoded.tokens.index("ate"), weights(name)
    seen = forward(name, ids[None])
    logits = seen.logits[0, place]
    toward = w["W_U"][:, ids[place + 1]] - w["W_U"].mean(dim=1)
    total = logits[ids[place + 1]] - logits.mean()
    x = seen.stream[0][0]
    of_source = [
        sum(float(seen.pattern[0][0, h, place, j] * (x[j] @ W @ toward)) for h, W in enumerate(W_OV(name, 0)))
        for j in range(place + 1)
    ]
    return {
        "the": of_source[encoded.tokens.index("Ġthe")] / float(total),
        "st": of_source[encoded.tokens.index("Ġst")] / float(total),
        "direct": float(x[place] @ toward / total),
        "probability": float(logits.softmax(-1)[ids[place + 1]]),
        "terms": 8 * (place + 1),
    }


def one_term_misses() -> float:
    """Return 1 − σ₁²/Σσ² of Σ_h vec(A^h) vec(W_OV^h)ᵀ, by the Gram matrices of both sides."""
    ids = torch.tensor(tokenizer().encode(" And that will define the state of our Union.").ids)[None]
    A = forward(NAME, ids).pattern[0][0].flatten(1)
    W = W_OV(NAME, 0).flatten(1)
    squares = torch.linalg.eigvals(A @ A.T @ W @ W.T).real
    return float(1 - squares.max() / squares.sum())


# -- FLOPs at GPT-2's shape


def flops(width: int) -> int:
    """Return the FLOPs per head: into ``width`` numbers per token, the pattern, and back to the stream."""
    return 2 * N * D * width + 2 * N * N * width + (2 * N * width * D if width < D else 0)


AGAIN = {
    "parameters": Again(lambda: parameters(NAME), 0),
    "tokens_seen": Again(lambda: card(NAME)["steps"] * card(NAME)["training"]["batch"] * 64, 0),
    "windows": Again(lambda: len(cut(65)), 0),
    "loss_model": Again(lambda: some().mean(), 0.015),
    "loss_error": Again(lambda: some().std() / len(cut(65)) ** 0.5, 3e-4),
    "loss_bigram": Again(lambda: by_bigrams().mean(), 1e-4),
    "gain_over_bigrams": Again(lambda: by_bigrams()[::4].mean() - some().mean(), 0.01),
    "flops_dense_over_concatenated": Again(lambda: flops(D) / flops(D_HEAD), 1e-6),
    "stored_dense_over_factors": Again(lambda: D * D / (2 * D * D_HEAD)),
    "overlap_expected": Again(lambda: 16 / 128),
    "overlap_Q": Again(lambda: overlap("Q")),
    "overlap_K": Again(lambda: overlap("K")),
    "overlap_V": Again(lambda: overlap("V")),
    "overlap_O": Again(lambda: overlap("O")),
    "first_cosine_K": Again(lambda: cosines("K")[:, 0].mean()),
    "rank_QK": Again(lambda: heads(NAME, 0)["Q"].shape[2], 0),
    "numbers_dense": Again(lambda: W_OV(NAME, 0)[0].numel(), 0),
    "numbers_factored": Again(lambda: sum(heads(NAME, 0)[kind][0].numel() for kind in "VO"), 0),
    "position_one_direction": Again(lambda: spectrum()[0][0] / spectrum()[0].sum()),
    "position_straight": Again(straight),
    "u_in_keys_least": Again(lambda: share("K", u()).min()),
    "u_in_queries_most": Again(lambda: share("Q", u()).max()),
    "u_in_values_most": Again(lambda: share("V", u()).max()),
    "u_in_outputs_mean": Again(lambda: share("O", u()).mean()),
    "mean_in_queries": Again(lambda: share("Q", mean_stream()).mean(), 0.01),
    "erase_gain_greatest": Again(lambda: gains().max()),
    "erase_gain_sum": Again(lambda: gains().sum()),
    "ruler_left": Again(left, 0.01),
    "unembedding_along_u": Again(unembedding_along_u),
    "recency_all": Again(recency, 5),
    "recency_only_u": Again(lambda: recency(keys_from=along), 4),
    "recency_without_u": Again(lambda: recency(keys_from=without), 0.2),
    "loss_without_u": Again(lambda: costs(keys_from=without), 0.07),
    "loss_without_erasing": Again(lambda: costs(out=without), 0.015),
    "loss_alone_least": Again(lambda: min(alone()), 0.015),
    "loss_alone_most": Again(lambda: max(alone()), 0.04),
    "loss_alone_sum": Again(lambda: sum(alone()), 0.06),
    "loss_together": Again(lambda: silent(*range(8)), 0.07),
    "sum_over_together": Again(lambda: sum(alone()) / silent(*range(8)), 0.02),
    "account_probability": Again(lambda: account(0)["probability"]),
    "account_terms": Again(lambda: account(0)["terms"], 0),
    "account_direct": Again(lambda: account(0)["direct"]),
    "account_words": Again(lambda: account(0)["the"] + account(0)["st"]),
    "account_the": Again(lambda: account(0)["the"]),
    "account_st": Again(lambda: account(0)["st"]),
    "account_words_1": Again(lambda: account(1)["the"] + account(1)["st"]),
    "account_words_2": Again(lambda: account(2)["the"] + account(2)["st"]),
    "account_st_1": Again(lambda: account(1)["st"]),
    "account_st_2": Again(lambda: account(2)["st"]),
    "one_term_misses": Again(one_term_misses),
}


NUMBERS = {"attention-heads": AGAIN}


@each(NUMBERS)
def test_the_number_comes_out_again(note: str, name: str, number: Again) -> None:
    assert wrong(note, name, number) == []
