"""residual-stream: the 18 writers of ``attn-2l``, and the direction along which one of them writes the position."""

from collections.abc import Callable
from functools import cache
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from .claims import Again, each, wrong
from .forward import Seen, forward, loss, over
from .text import cut, drawn, tokenizer
from .weights import W_OV, card, heads, parameters, weights

NAME = "attn-2l"
RULER = 7  # head 0.7


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def orthonormal(W: Tensor) -> Tensor:
    """Return a basis of the span of the columns ``[... d_model d]``."""
    return torch.linalg.qr(W).Q


# -- writers on text


@cache
def windows() -> Tensor:
    return drawn(48, 129)


@cache
def run() -> Seen:
    return forward(NAME, windows()[:, :-1], apart=True)


@cache
def base() -> float:
    return loss(run().logits, windows()[:, 1:])


@cache
def writers() -> Tensor:
    """Return ``[writer row d_model]``: token, position, 0.0 … 1.7, at all positions of all windows."""
    w, read = weights(NAME), windows()[:, :-1]
    token, position = w["W_E"][read], w["W_pos"].expand(len(read), -1, -1)
    written = [out.permute(2, 0, 1, 3) for out in run().written]
    return torch.cat([token[None], position[None], *written]).flatten(1, 2)


@cache
def message() -> Tensor:
    """Return the direction along which the output of 0.7 varies most, oriented to grow with the position."""
    writes = writers()[2 + RULER]
    spread = writes - writes.mean(dim=0)
    m = torch.linalg.eigh(spread.T @ spread).eigenvectors[:, -1]
    by_place = (writes @ m).view(len(windows()), -1).mean(dim=0)
    return m * (by_place[-1] - by_place[0]).sign()


def along(x: Tensor) -> Tensor:
    """Return the mean coordinate along the message at each position."""
    return (x.view(len(windows()), 128, -1) @ message()).mean(dim=0)


def slope(y: Tensor) -> float:
    """Return the least-squares slope of one number per position."""
    x = torch.arange(len(y), dtype=torch.float64) - (len(y) - 1) / 2
    return float((x * y).sum() / (x * x).sum())


def axes_for(x: Tensor, share: float = 0.9) -> int:
    spread = x - x.mean(dim=0)
    strength = torch.linalg.eigvalsh(spread.T @ spread).flip(0)
    return 1 + int((strength.cumsum(0) < share * strength.sum()).sum())


@cache
def needs() -> list[int]:
    return [axes_for(x) for x in writers()]


def one_direction() -> float:
    writes = writers()[2 + RULER]
    return float((writes - writes.mean(0)).matmul(message()).square().sum() / (writes - writes.mean(0)).square().sum())


def straight() -> float:
    y = along(writers()[2 + RULER])
    return float(torch.corrcoef(torch.stack([torch.arange(128, dtype=torch.float64), y]))[0, 1])


def scatter() -> float:
    """Return how far 0.7's coordinate varies between texts, in positions."""
    y = (writers()[2 + RULER] @ message()).view(-1, 128)
    return float(y.std(dim=0).mean()) / slope(y.mean(dim=0))


# -- which readers hear which writers: ‖X W‖² relative to a random rotation


def heard(x: Tensor, W: Tensor) -> float:
    x = x - x.mean(dim=0)
    return float((x @ W).square().sum() * len(W) / (x.square().sum() * W.square().sum()))


@cache
def readers(layer: int, kind: str, writer: int) -> list[float]:
    x = weights(NAME)["W_pos"] if writer == 1 else writers()[writer]
    return [heard(x, W) for W in heads(NAME, layer)[kind]]


def centered_unembedding() -> Tensor:
    W_U = weights(NAME)["W_U"]
    return W_U - W_U.mean(dim=1, keepdim=True)


def mean(x: list[float]) -> float:
    return sum(x) / len(x)


def share_of(direction: Tensor, layer: int, kind: str) -> list[float]:
    """Return the share of a unit vector in each head's subspace."""
    return [float((orthonormal(W).T @ direction).square().sum()) for W in heads(NAME, layer)[kind]]


# -- the trained basis


def kurtosis(x: Tensor) -> float:
    return float((x.shape[1] * (x**4).sum(dim=1) / (x**2).sum(dim=1) ** 2).mean())


def between() -> Tensor:
    return run().stream[1].flatten(0, 1)


def without_message(x: Tensor) -> Tensor:
    m = message().to(x)
    return x - (x @ m)[..., None] * m


def squeeze(x: Tensor) -> Tensor:
    return x - 0.99 * (x @ message())[..., None] * message()


# -- crowding, and deletion


@cache
def overlaps(same_layer: bool) -> float:
    bases = [orthonormal(W.T) for layer in range(2) for W in heads(NAME, layer)["O"]]
    pairs = [(i, j) for i, j in combinations(range(16), 2) if (i // 8 == j // 8) == same_layer]
    return mean([float((bases[i].T @ bases[j]).square().sum()) / 16 for i, j in pairs])


def cosine(x: Tensor, y: Tensor) -> float:
    return float((unit(x) * unit(y)).sum(dim=-1).mean())


@cache
def here(layer: int) -> list[float]:
    stream = run().stream[layer].flatten(0, 1)
    return [cosine(x, stream) for x in writers()[2 + 8 * layer : 10 + 8 * layer]]


@cache
def elsewhere() -> list[float]:
    """Return the same cosines with a stream from another text and place: the level of chance."""
    stream = run().stream[1].flatten(0, 1)
    other = torch.randperm(len(stream), generator=torch.Generator().manual_seed(3))
    return [cosine(x, stream[other]) for x in writers()[10:]]


def gains() -> Tensor:
    return message() @ W_OV(NAME, 1) @ message()


# -- interventions


def costs(**changes: Callable[[Tensor, int], Tensor]) -> float:
    return loss(forward(NAME, windows()[:, :-1], torch.float32, **changes).logits, windows()[:, 1:]) - base()


@cache
def silent(head: int) -> float:
    def change(z: Tensor, layer: int) -> Tensor:
        keep = torch.ones(8, 1, 1)
        keep[head] = layer != 0
        return z * keep

    return costs(z=change)


def position_only() -> float:
    ruler = run().written[0][:, :, RULER]
    shift = (ruler.mean(dim=0) - ruler).float()

    def change(out: Tensor, layer: int) -> Tensor:
        return out if layer else out + shift

    return costs(out=change)


def in_layer_1(x: Tensor, layer: int) -> Tensor:
    return without_message(x) if layer == 1 else x


def hidden_from_values() -> float:
    """Hide the message from the values of layer 1, by subtracting what each pattern moves of it from the outputs."""
    moved = run().pattern[1] @ (without_message(run().stream[1])[:, None] @ heads(NAME, 1)["V"])

    def change(mixed: Tensor, layer: int) -> Tensor:
        return moved.to(mixed) if layer else mixed

    return costs(z=change)


@cache
def rises() -> dict[str, Tensor]:
    """Return, per position, the rise of the mean query's score due to each writer, for each head of layer 1."""
    stream, h = run().stream[1], heads(NAME, 1)
    query = stream.mean(dim=(0, 1)) @ h["Q"]  # head d_head
    asked = torch.einsum("hdk,hk->hd", h["K"], query) / 4
    parts = {"between": stream, "ruler": run().written[0][:, :, RULER], "end": run().stream[2]}
    return {
        name: torch.tensor([slope((x @ a).mean(dim=0)) for a in asked], dtype=torch.float64)
        for name, x in parts.items()
    }


# -- the sentence of the note


class Sentence(NamedTuple):
    parts: Tensor  # writer d_model, at "ate"
    toward: Tensor  # from the mean of all tokens to the answer
    probability: float


@cache
def sentence() -> Sentence:
    encoded = tokenizer().encode(" And that will define the state of our Union.")
    ids = torch.tensor(encoded.ids)[None]
    place = encoded.tokens.index("ate")
    seen = forward(NAME, ids, apart=True)
    w = weights(NAME)
    parts = torch.cat(
        [w["W_E"][ids[0, place]][None], w["W_pos"][place][None], *(out[0, place] for out in seen.written)]
    )
    answer = ids[0, place + 1]
    return Sentence(parts, centered_unembedding()[:, answer], float(seen.logits[0, place].softmax(-1)[answer]))


def lengths() -> Tensor:
    return sentence().parts.norm(dim=1)


def lens(stop: int) -> float:
    """Return the loss read off the stream before that layer."""
    return loss(run().stream[stop] @ weights(NAME)["W_U"], windows()[:, 1:])


@cache
def some() -> Tensor:
    """Return the loss of every fifth window of the validation text."""
    return over(NAME, cut(129)[::5])


AGAIN = {
    "parameters": Again(lambda: parameters(NAME), 0),
    "tokens_seen": Again(lambda: card(NAME)["steps"] * card(NAME)["training"]["batch"] * 128, 0),
    "windows": Again(lambda: len(cut(129)), 0),
    "loss_model": Again(lambda: some().mean(), 0.02),
    "loss_error": Again(lambda: some().std() / len(cut(129)) ** 0.5, 3e-4),
    "lens_embeddings": Again(lambda: lens(0), 0.1),
    "lens_between": Again(lambda: lens(1), 0.1),
    "writers": Again(lambda: len(writers()), 0),
    "answer_probability": Again(lambda: sentence().probability),
    "squared_length": Again(lambda: sentence().parts.sum(dim=0).square().sum(), 1e-4),
    "own_squares": Again(lambda: lengths().square().sum(), 1e-4),
    "length_ruler": Again(lambda: lengths()[2 + RULER], 1e-4),
    "length_others_most": Again(lambda: lengths().sort().values[-2], 1e-4),
    "dla_total": Again(lambda: sentence().parts.sum(dim=0) @ sentence().toward, 1e-4),
    "dla_token": Again(lambda: sentence().parts[0] @ sentence().toward, 1e-4),
    "dla_layer_0": Again(lambda: sentence().parts[2:10].sum(dim=0) @ sentence().toward, 1e-4),
    "dla_layer_1": Again(lambda: sentence().parts[10:].sum(dim=0) @ sentence().toward, 1e-4),
    "walk_out": Again(lambda: sentence().parts[2 + RULER] @ message(), 0.02),
    "walk_back": Again(lambda: sentence().parts[10:].sum(dim=0) @ message(), 0.03),
    "message_one_direction": Again(one_direction, 0.003),
    "message_straight": Again(straight, 1e-4),
    "scatter_in_positions": Again(scatter, 0.08),
    "position_to_keys": Again(lambda: mean(readers(0, "K", 1)), 1e-3),
    "position_to_values_of_ruler": Again(lambda: readers(0, "V", 1)[RULER], 1e-3),
    "position_to_other_values_most": Again(lambda: max(readers(0, "V", 1)[:RULER]), 1e-3),
    "position_to_unembedding": Again(lambda: heard(weights(NAME)["W_pos"], centered_unembedding()), 1e-3),
    "message_to_keys": Again(lambda: mean(readers(1, "K", 2 + RULER)), 0.3),
    "message_to_queries_most": Again(lambda: max(readers(1, "Q", 2 + RULER)), 0.01),
    "message_to_values_most": Again(lambda: max(readers(1, "V", 2 + RULER)), 0.01),
    "message_to_unembedding": Again(lambda: heard(writers()[2 + RULER], centered_unembedding()), 0.02),
    "kurtosis_expected": Again(lambda: 3 * 128 / 130),
    "kurtosis_between": Again(lambda: kurtosis(between()), 0.3),
    "kurtosis_without": Again(lambda: kurtosis(without_message(between())), 0.03),
    "top_coordinate": Again(lambda: between().square().mean(dim=0).argmax(), 0),
    "message_on_top": Again(lambda: message()[104] ** 2, 0.005),
    "write_dimensions": Again(lambda: sum(len(W) for layer in range(2) for W in heads(NAME, layer)["O"]), 0),
    "gpt2_dimensions": Again(lambda: 12 * (12 * 64 + 4 * 768), 0),
    "gpt2_per_dimension": Again(lambda: 12 * (12 * 64 + 4 * 768) / 768, 0),
    "overlap_least_possible": Again(lambda: (256 / 128 - 1) / 15),
    "overlap_chance": Again(lambda: 16 / 128),
    "overlap_within": Again(lambda: overlaps(True)),
    "overlap_across": Again(lambda: overlaps(False)),
    "need_token": Again(lambda: needs()[0], 1),
    "need_position": Again(lambda: needs()[1], 0),
    "need_ruler": Again(lambda: needs()[2 + RULER], 0),
    "need_other_least": Again(lambda: min(n for i, n in enumerate(needs()) if i not in (0, 1, 2 + RULER)), 1),
    "need_other_most": Again(lambda: max(needs()[2:]), 1),
    "need_sum": Again(lambda: sum(needs()), 5),
    "need_after": Again(lambda: axes_for(run().stream[2].flatten(0, 1)), 1),
    "deleters": Again(lambda: (sum(x < y for x, y in zip(here(1), elsewhere(), strict=True)), 8)),
    "cosine_deepest": Again(lambda: min(here(0) + here(1)), 0.01),
    "cosine_as_trained": Again(lambda: here(1)[1], 0.01),
    "cosine_squeezed": Again(lambda: cosine(squeeze(writers()[11]), squeeze(between())), 0.005),
    "norm_as_trained": Again(lambda: between().norm(dim=1).mean(), 0.05),
    "norm_squeezed": Again(lambda: squeeze(between()).norm(dim=1).mean(), 0.03),
    "angle_to_ruler": Again(lambda: (message() @ ruler()).abs(), 0.003),
    "amplified": Again(lambda: slope(along(between())) / slope(weights(NAME)["W_pos"] @ message()), 0.15),
    "left": Again(lambda: slope(along(run().stream[2])) / slope(along(between())), 0.01),
    "m_in_keys_least": Again(lambda: min(share_of(message(), 1, "K")), 0.005),
    "m_in_queries_most": Again(lambda: max(share_of(message(), 1, "Q")), 0.002),
    "m_in_values_most": Again(lambda: max(share_of(message(), 1, "V")), 0.002),
    "gains_negative": Again(lambda: (int((gains() < 0).sum()), 8)),
    "gains_sum": Again(lambda: gains().sum(), 0.01),
    "silent_ruler": Again(lambda: silent(RULER), 0.05),
    "silent_others_least": Again(lambda: min(map(silent, range(7))), 0.012),
    "silent_others_most": Again(lambda: max(map(silent, range(7))), 0.015),
    "ruler_tells_position_only": Again(position_only, 0.008),
    "hidden_from_keys": Again(lambda: costs(keys_from=in_layer_1), 0.05),
    "hidden_from_values": Again(hidden_from_values, 0.02),
    "not_deleting": Again(lambda: costs(out=in_layer_1), 0.012),
    "rise_between_least": Again(lambda: rises()["between"].min(), 0.02),
    "rise_between_most": Again(lambda: rises()["between"].max(), 0.02),
    "rise_share_of_ruler": Again(lambda: (rises()["ruler"] / rises()["between"]).mean(), 0.01),
    "rise_left_most": Again(lambda: (rises()["end"] / rises()["between"]).max(), 0.01),
    "reach": Again(lambda: 1 / rises()["between"].min(), 0.1),
}


@cache
def ruler() -> Tensor:
    """Return the direction along which the position vectors vary most."""
    spread = weights(NAME)["W_pos"] - weights(NAME)["W_pos"].mean(dim=0)
    return torch.linalg.eigh(spread.T @ spread).eigenvectors[:, -1]


NUMBERS = {"residual-stream": AGAIN}


@each(NUMBERS)
def test_the_number_comes_out_again(note: str, name: str, number: Again) -> None:
    assert wrong(note, name, number) == []
