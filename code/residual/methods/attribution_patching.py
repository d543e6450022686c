"""Attribution patching: the effects of all patches of a sweep, estimated from gradients.

``sweeps.patch_heads`` runs on corrupted tokens with one activation a taken from the clean run, and reads the metric m.
To first order that changes m by ``(a_clean - a_corrupted) · ∂m/∂a``, and one backward pass has ``∂m/∂a`` for all
activations at once: two runs and a backward pass in place of one run for each site (Nanda 2023, "Attribution Patching:
Activation Patching At Industrial Scale"; Kramár et al. 2024, "AtP*", Section 2)::

    attribution(model, clean, corrupted, metric, ["z", "mlp_out"])["z"]       # layer head pos, as patch_heads less base
    attribution(model, clean, corrupted, metric, ["mlp_out"], frozen=("norm", "mlp"))      # RelP's backward pass
    attribution(model, clean, corrupted, metric, ["q", "k"], softmax=True)                 # the softmax computed again
    attribution(model, clean, corrupted, metric, ["z"], nodes=5)                           # integrated gradients

``HeadGates`` and ``diagonal`` are the same for heads that are taken away rather than patched.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from numbers import Integral
from typing import Literal

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from residual.checks import Tokens, embed
from residual.errors import nearest
from residual.methods.reruns import Metric, Position, positions_read
from residual.methods.sites import OF_HEADS, OF_STREAM, whole_texts
from residual.model import Transformer
from residual.taps import Tap, at, compose, record

Part = Literal["norm", "mlp", "pattern"]
_ENDS: dict[str, tuple[str, ...]] = {
    "norm": (".scale",),
    "mlp": (".mlp.pre", ".mlp.pre_linear", ".mlp.post"),
    "pattern": (".pattern",),
}


def attribution(
    model: Transformer,
    clean: Tokens,
    corrupted: Tokens,
    metric: Metric,
    names: Sequence[str] = ("z",),
    *,
    frozen: Collection[Part] = (),
    softmax: bool = False,
    nodes: int = 0,
    position: Position = -1,
) -> dict[str, Tensor]:
    """Estimate what the metric gains on ``corrupted`` if one activation at one position is taken from ``clean``.

    Args:
        clean, corrupted: tokens, or texts with equally many tokens.
        metric: of logits ``[batch d_vocab]`` at ``position``, or ``[batch pos d_vocab]`` if that is None; one number.
        names: of ``q``, ``k``, ``v``, ``pattern``, ``z``, ``resid_pre``, ``attn_out``, ``resid_mid``, ``mlp_out``,
            ``resid_post``. All of them cost one backward pass.
        frozen: what the backward pass treats as constant: ``norm``, the scales; ``mlp``, each neuron's ratio of output
            to input, with half of a gated neuron's effect given to each of its two factors; ``pattern``, the attention
            patterns. ``("norm", "mlp")`` is RelP (Jafari et al. 2025, "RelP": LN-rule, identity rule, half-rule).
        softmax: for ``q`` and ``k``, compute the pattern with the changed query or key, and take only what follows to
            first order (Kramár et al. 2024, Section 3.1.1, "QK fix").
        nodes: if not 0, average the gradient over so many runs whose embeddings lie between the two, at the nodes of
            Gauss and Legendre (Hanna et al. 2024, "Have Faith in Faithfulness", with equal steps; Sundararajan et al.
            2017 for the integral).
        position: where the metric reads.

    Returns:
        By name, ``[layer head pos]`` or ``[layer pos]``; key heads for ``k`` and ``v``, queries for a pattern.

    Raises:
        ValueError: the batches differ in shape; no layers; no names; no such name, part or position; the metric is not
            one number or does not depend on the logits; ``nodes`` is not a whole number or below 0; ``softmax`` with
            smeared keys; under ``torch.inference_mode``, which keeps no gradients.
    """
    c = model.config
    clean, corrupted = whole_texts(model, clean), whole_texts(model, corrupted)
    if not isinstance(names, str):
        names = list(names)  # a generator can be read only once
    if not isinstance(frozen, str):
        frozen = list(frozen)
    _check(model, clean, corrupted, names, frozen, softmax, nodes)
    recomputed = [name for name in names if softmax and name in ("q", "k")]
    wanted = [*names, *(["pattern"] if recomputed and "pattern" not in names else [])]
    wanted = [name for name in wanted if f"blocks.0.{_full(name)}" in model.activation_names]
    read = [f"blocks.{layer}.{_full(name)}" for layer in range(c.n_layers) for name in wanted]
    scored = (".q", ".k", ".rot_q", ".rot_k") if recomputed else ()
    turned = [name for name in model.activation_names if name.endswith(scored)]
    with torch.no_grad():
        model.run_to(clean, c.n_layers, tap=(there := record([*read, *turned])))
        model.run_to(corrupted, c.n_layers, tap=(here := record([*read, *turned])))
    start, towards = embed(corrupted, model.W_E).detach(), None
    towards = embed(clean, model.W_E).detach() - start
    points, weights = _gauss(nodes) if nodes else ([0.0], [1.0])
    slopes: dict[str, Tensor] = {}
    for point, weight in zip(points, weights, strict=True):
        gradients = _gradients(model, corrupted, start + point * towards, metric, position, read, frozen)
        for name, gradient in gradients.items():
            slopes[name] = slopes[name] + weight * gradient if name in slopes else weight * gradient
    found = {}
    for name in names:
        rows = []
        for layer in range(c.n_layers):
            full, block = f"blocks.{layer}.{_full(name)}", f"blocks.{layer}.attn."
            if full not in slopes:
                rows.append(torch.zeros(clean.shape[1]).to(model.W_E))  # mlp_out of a model without MLPs
            elif name in recomputed:
                rows.append(_through_softmax(model, here, there, block, name, slopes[f"{block}pattern"]))
            else:
                terms = (there[full] - here[full]) * slopes[full]
                rows.append(_by_site(terms, name))
        found[name] = torch.stack(rows)
    return found


class HeadGates:
    """A model whose heads can be faded out: a function of one gate for each head, ``[head]``, layer by layer.

    Each head's ``z`` is at ``mean + gate · (z - mean)``. Gate 1 leaves the head as it is, gate 0 puts in its mean over
    examples and positions, the ``"mean"`` of ``shapley.subset_values``. Later heads are computed from what the faded
    ones wrote. The function is differentiable, so it has a value between "present" and "absent" as well.

    Args:
        measure: takes the logits ``[batch pos d_vocab]`` and returns one number.
    """

    def __init__(self, model: Transformer, tokens: Tokens, measure: Callable[[Tensor], Tensor]) -> None:
        self.model, self.tokens, self.measure = model, whole_texts(model, tokens), measure
        with torch.no_grad():
            model.run_to(self.tokens, model.config.n_layers, tap=(seen := record("*.attn.z")))
        self.means = {name: z.mean(dim=(0, 1)) for name, z in seen.items()}  # head d_head

    def __call__(self, gates: Float[Tensor, " head"] | Sequence[float]) -> Float[Tensor, ""]:
        """Return the measure with these gates.

        Raises:
            ValueError: not one gate for each head.
        """
        c, gates = self.model.config, torch.as_tensor(gates).to(self.model.W_E)
        if gates.shape != (c.n_layers * c.n_heads,):
            raise ValueError(
                f"gates have shape {list(gates.shape)}; give one for each of {c.n_layers * c.n_heads} heads"
            )

        def fade(name: str, gate: Tensor):
            return at(name, lambda z: self.means[name] + gate[:, None] * (z - self.means[name]))

        by_layer = gates.unflatten(0, (c.n_layers, c.n_heads))
        taps = [fade(name, gate) for name, gate in zip(self.means, by_layer, strict=True)]
        return self.measure(self.model(self.tokens, tap=compose(*taps)))

    def slopes(self, gate: float) -> Float[Tensor, " head"]:
        """Return the gradient where every gate has the same value: one run and one backward pass.

        At 1 it is attribution patching of the removal of each head, at 0 of its addition to none.

        Raises:
            ValueError: see ``slope``.
        """
        gates = self.model.W_E.new_full((self.model.config.n_layers * self.model.config.n_heads,), gate)
        return slope(self, gates)


def slope(value: Callable[[Tensor], Tensor], at_point: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the gradient of a function of n numbers.

    Raises:
        ValueError: the point is not of floating-point numbers, or the value is not one number that depends on them.
    """
    if not at_point.is_floating_point():
        raise ValueError(f"the point is of {at_point.dtype}; a slope needs floating-point numbers")
    _check_gradients()
    with torch.enable_grad():
        x = at_point.detach().clone().requires_grad_()
        found = value(x)
        _check_number(found, "the value", "the point")
        (gradient,) = torch.autograd.grad(found.sum(), x)
    return gradient


def diagonal(slopes: Callable[[float], Tensor | Sequence[float]], nodes: int) -> Tensor:
    """Return ``∫ slopes(t) dt`` from 0 to 1: integrated gradients, by the rule of Gauss and Legendre.

    For a function of n numbers in which each occurs to the first power at most, such as a gate made of ANDs and ORs,
    this is the Shapley value of each (Owen 1972, "Multilinear Extensions of Games"), and ``⌈n/2⌉`` nodes are exact:
    along the diagonal the slopes are polynomials of degree n − 1.

    Raises:
        ValueError: ``nodes`` is not a whole number, or below 1.
    """
    if not isinstance(nodes, Integral) or nodes < 1:
        raise ValueError(f"nodes is {nodes}; an integral needs at least one, and a whole number of them")
    points, weights = _gauss(nodes)
    return torch.stack(
        [weight * torch.as_tensor(slopes(point)) for point, weight in zip(points, weights, strict=True)]
    ).sum(dim=0)


def one_score(
    p: Float[Tensor, "*any"] | float, change: Float[Tensor, "*any"] | float, gap: Float[Tensor, "*any"] | float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the effect of adding ``change`` to one score of a softmax, its first order, and a bound on the difference.

    The row is read by ``Σ g_k p_k``. With p the probability of the key whose score changes, and ``gap`` its g less the
    mean of g over the other keys, weighted by their probabilities::

        exact        gap · (σ(logit p + change) - p)
        first order  gap · p (1 - p) · change
        bound        |gap| · change² / (12 √3)            because |σ''| <= 1 / (6 √3)

    Raises:
        ValueError: p is not between 0 and 1.
    """
    p, change, gap = (x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64) for x in (p, change, gap))
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError(f"p is a probability, between 0 and 1; it has {p.min():.3g} to {p.max():.3g}")
    exact = gap * (torch.sigmoid(torch.logit(p) + change) - p)
    return exact, gap * p * (1 - p) * change, gap.abs() * change.square() / (12 * 3**0.5)


class _Constant:
    """A tap that changes no value, only what the backward pass sees: the chosen parts are constant."""

    writes = False

    def __init__(self, parts: Collection[Part], gated: bool) -> None:
        self.gated = gated
        self.ends = tuple(end for part in parts for end in _ENDS[part])
        self.inward: dict[str, Tensor] = {}

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if not name.endswith(self.ends):
            return x
        if name.endswith((".scale", ".pattern")):
            return x.detach().requires_grad_()  # which has a slope of its own
        part = name.rpartition(".")[2]
        if part != "post":
            self.inward[part] = x
            return x
        pre = self.inward["pre"]
        ratio = torch.where(pre == 0, 0, x / pre).detach()  # of a gated neuron, silu(gate) / gate · linear
        if not self.gated:
            return ratio * pre
        linear = self.inward["pre_linear"]
        return (ratio * pre + torch.nn.functional.silu(pre).detach() * linear) / 2

    def resolve(self, known: list[str]) -> frozenset[str]:
        return frozenset(name for name in known if name.endswith(self.ends))


def _gradients(
    model: Transformer,
    tokens: Tensor,
    embedding: Tensor,
    metric: Metric,
    position: Position,
    names: list[str],
    frozen: Collection[Part],
) -> dict[str, Tensor]:
    """Return the metric's gradient by each activation, in a run from this embedding."""
    c = model.config
    with torch.enable_grad():
        start = embedding.clone().requires_grad_()
        constant = _Constant(frozen, c.act == "swiglu")
        taps = compose(at("embed", lambda _: start), constant, seen := record(names))
        value = metric(_final(model, model.run_to(tokens, c.n_layers, tap=taps), position, constant))
        _check_number(value, "the metric", "its logits")
        every = torch.autograd.grad(value.sum(), [seen[name] for name in names], allow_unused=True)
    return {name: torch.zeros_like(seen[name]) if g is None else g for name, g in zip(names, every, strict=True)}


def _final(model: Transformer, x: Tensor, position: Position, tap: Tap) -> Tensor:
    """Return the logits that the metric reads."""
    example = torch.arange(len(x), device=x.device)
    read = positions_read(position, x.shape[1], example)
    if read is None:
        return model.run_from(model.config.n_layers, x, tap=tap)
    return model.run_from(model.config.n_layers, x[example, read][:, None], tap=tap)[:, 0]


def _through_softmax(
    model: Transformer, here: record, there: record, block: str, name: str, slope_of_pattern: Tensor
) -> Float[Tensor, "head pos"]:
    """Return the scores of queries or keys: the pattern with one of them changed, less the pattern, times the slope."""
    c = model.config
    q_name, k_name = (f"{block}rot_{kind}" if f"{block}rot_{kind}" in here else f"{block}{kind}" for kind in "qk")

    def scores(q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
        k = k.repeat_interleave(c.n_heads // c.kv_heads, dim=2)
        s = einsum(q, k, "batch query head d, batch key head d -> batch head query key").double() * c.d_head**-0.5
        n = s.shape[-1]
        return s.masked_fill(torch.ones(n, n, dtype=torch.bool, device=s.device).triu(1), -torch.inf) if c.causal else s

    now, g = scores(here[q_name], here[k_name]), slope_of_pattern.double()
    if name == "q":
        changed = scores(there[q_name], here[k_name]).softmax(dim=-1)
        moved = einsum(changed - now.softmax(dim=-1), g, "b head query key, b head query key -> head query")
        return moved.to(slope_of_pattern)
    change = (scores(here[q_name], there[k_name]) - now).nan_to_num(0)  # −∞ − −∞ in the future
    n = now.shape[-1]
    rest = now[..., None, :].masked_fill(torch.eye(n, dtype=torch.bool, device=now.device), -torch.inf)
    odds = now - rest.logsumexp(dim=-1)  # logit of each key's probability; ∞ if it is the only key
    others = einsum(
        rest.softmax(dim=-1).nan_to_num(0), g, "b h query left_out key, b h query key -> b h query left_out"
    )
    moved = torch.sigmoid(odds + change) - torch.sigmoid(odds)
    each = einsum(moved.nan_to_num(0), g - others, "b h query key, b h query key -> h key")
    return rearrange(each, "(kv group) key -> kv group key", kv=c.kv_heads).sum(dim=1).to(slope_of_pattern)


def _by_site(terms: Tensor, name: str) -> Tensor:
    """Return the sums over examples and coordinates: ``[head pos]`` or ``[pos]``."""
    if name == "pattern":
        return terms.sum(dim=(0, 3))
    if name in OF_HEADS:
        return terms.sum(dim=(0, 3)).T
    return terms.sum(dim=(0, 2))


def _gauss(nodes: int) -> tuple[list[float], list[float]]:
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return ((points + 1) / 2).tolist(), (weights / 2).tolist()


def _full(name: str) -> str:
    return f"attn.{name}" if name in OF_HEADS else name


def _check_gradients() -> None:
    if torch.is_inference_mode_enabled():
        raise ValueError("there are no gradients under torch.inference_mode(); use torch.no_grad() around this call")


def _check_number(value: object, what: str, of: str) -> None:
    if not isinstance(value, Tensor) or not value.requires_grad:
        raise ValueError(f"{what} does not depend on {of}; compute it from {of} with torch")
    if value.numel() != 1:
        raise ValueError(f"{what} has shape {list(value.shape)}; it must be one number")


def _check(model, clean, corrupted, names, frozen, softmax, nodes) -> None:
    if clean.shape != corrupted.shape:
        raise ValueError(
            f"clean is {list(clean.shape)} and corrupted {list(corrupted.shape)}; patching needs the same shapes"
        )
    if not model.config.n_layers:
        raise ValueError("the model has no layers, and so no activations to patch")
    _check_gradients()
    for name in ([names] if isinstance(names, str) else names) or [""]:
        if name not in (*OF_HEADS, *OF_STREAM) or isinstance(names, str):
            raise ValueError(f"names is {names!r}; give a list of {nearest(str(name), (*OF_HEADS, *OF_STREAM))}")
    for part in [frozen] if isinstance(frozen, str) else frozen:
        if isinstance(frozen, str):
            raise ValueError(f"frozen is {frozen!r}; give a list, such as [{frozen!r}]")
        if part not in _ENDS:
            raise ValueError(f"cannot freeze {part!r}; {nearest(str(part), _ENDS)}")
    if not isinstance(nodes, Integral) or nodes < 0:
        raise ValueError(
            f"nodes is {nodes}, not a whole number from 0; give 0 for the gradient alone, or the number of nodes"
        )
    if softmax and model.config.smeared_keys:
        raise ValueError("with smeared keys a key is read at two positions; softmax=True does not know that")
