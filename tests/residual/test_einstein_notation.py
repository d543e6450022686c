"""The theorems of docs/notes/einstein-notation.md, in float64.

The oracle is a loop over the values of all indices, in plain Python. If only sums and products of small whole numbers
occur, float64 is exact and the results must be equal, not just close.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import einsum, repeat
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from residual import Config, Transformer
from residual.taps import record

theorem = settings(deadline=None, max_examples=60, derandomize=True)
seeds = st.integers(0, 2**31 - 1)
size = st.integers(1, 4)

Terms = tuple[tuple[str, ...], ...]  # the index names of each factor, then of the output


def written(terms: Sequence[Sequence[str]]) -> str:
    *factors, output = (" ".join(term) for term in terms)
    return f"{', '.join(factors)} -> {output}"


def names_of(terms: Sequence[Sequence[str]]) -> list[str]:
    return sorted({name for term in terms for name in term})


def whole_numbers(seed: int, terms: Terms, sizes: dict[str, int]) -> list[Tensor]:
    """Return a factor for each term except the last, with whole numbers from -3 to 3."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(-3, 4, [sizes[name] for name in term], generator=generator).double() for term in terms[:-1]]


def by_loops(factors: Sequence[Tensor], terms: Terms, sizes: dict[str, int]) -> Tensor:
    """Evaluate the definition: for all values of all indices, add the product of the entries to the output's entry."""
    names = names_of(terms)
    arrays = [factor.numpy() for factor in factors]
    out = np.zeros([sizes[name] for name in terms[-1]])
    for values in itertools.product(*(range(sizes[name]) for name in names)):
        value = dict(zip(names, values, strict=True))
        entries = (array[tuple(value[name] for name in term)] for array, term in zip(arrays, terms[:-1], strict=True))
        out[tuple(value[name] for name in terms[-1])] += math.prod(entries)
    return torch.tensor(out)


@st.composite
def expressions(draw: st.DrawFn, most: int = 4, repeated: bool = True) -> tuple[Terms, dict[str, int]]:
    """Draw any expression: names may occur in one factor or several, twice in a factor, in the output or not."""
    term = st.lists(st.sampled_from("abcde"), min_size=1, max_size=3, unique=not repeated)
    factors = draw(st.lists(term, min_size=1, max_size=most))
    names = names_of(factors)
    output = draw(st.lists(st.sampled_from(names), unique=True, max_size=3))
    sizes = {name: draw(st.integers(1, 3)) for name in names}
    return (*(tuple(factor) for factor in factors), tuple(output)), sizes


@st.composite
def tidy_expressions(draw: st.DrawFn, factors: int = 3) -> Terms:
    """Draw expressions in which every name occurs at least twice, at most once in each term."""
    terms: list[list[str]] = [[] for _ in range(factors + 1)]
    for name in "abcd"[: draw(st.integers(2, 4))]:
        for place in draw(st.lists(st.integers(0, factors), min_size=2, unique=True)):
            terms[place].append(name)
    assume(all(terms[:-1]))
    return tuple(tuple(draw(st.permutations(term))) for term in terms)


# The meaning of an expression


@theorem
@given(expressions(), seeds)
def test_definition(expression: tuple[Terms, dict[str, int]], seed: int) -> None:
    terms, sizes = expression
    factors = whole_numbers(seed, terms, sizes)
    assert torch.equal(einsum(*factors, written(terms)), by_loops(factors, terms, sizes))


@theorem
@given(expressions(), st.permutations("abcde"), seeds)
def test_names_do_not_matter(expression: tuple[Terms, dict[str, int]], names: list[str], seed: int) -> None:
    """Renaming all indices, each to a different name, changes nothing."""
    terms, sizes = expression
    renamed = tuple(tuple("uvwxy"[names.index(name)] for name in term) for term in terms)
    factors = whole_numbers(seed, terms, sizes)
    assert torch.equal(einsum(*factors, written(renamed)), by_loops(factors, terms, sizes))


@theorem
@given(expressions(), st.data(), seeds)
def test_order_of_the_factors_does_not_matter(
    expression: tuple[Terms, dict[str, int]], data: st.DataObject, seed: int
) -> None:
    terms, sizes = expression
    factors = whole_numbers(seed, terms, sizes)
    order = data.draw(st.permutations(range(len(factors))))
    shuffled = written([*(terms[k] for k in order), terms[-1]])
    assert torch.equal(einsum(*(factors[k] for k in order), shuffled), by_loops(factors, terms, sizes))


@theorem
@given(size, size, size, size, size, seeds)
def test_bilinear_form(n: int, m: int, heads: int, queries: int, keys: int, seed: int) -> None:
    """One form for a pair of vectors; with more names in the output, for all pairs and all heads."""
    generator = torch.Generator().manual_seed(seed)
    x, y, W = (torch.randn(*s, generator=generator).double() for s in ((queries, n), (keys, m), (heads, n, m)))
    scores = einsum(x, W, y, "query i, head i j, key j -> head query key")
    for h, q, k in np.ndindex(heads, queries, keys):
        form = sum(float(x[q, i] * W[h, i, j] * y[k, j]) for i in range(n) for j in range(m))
        assert_close(float(einsum(x[q], W[h], y[k], "i, i j, j ->")), form)
        assert_close(float(scores[h, q, k]), form)


@theorem
@given(st.lists(size, min_size=2, max_size=5), seeds)
def test_trace_is_cyclic(sizes: list[int], seed: int) -> None:
    """tr(A B C) = tr(B C A) = tr(C A B): a ring of indices has no beginning."""
    n = len(sizes)
    ring = tuple((f"i{k}", f"i{(k + 1) % n}") for k in range(n))
    of = {f"i{k}": value for k, value in enumerate(sizes)}
    matrices = whole_numbers(seed, (*ring, ()), of)
    expected = by_loops(matrices, (*ring, ()), of)
    for start in range(n):
        turned = matrices[start:] + matrices[:start]
        assert torch.linalg.multi_dot(turned).trace() == expected
        assert einsum(*turned, written([*ring[start:], *ring[:start], ()])) == expected


def test_trace_is_not_symmetric() -> None:
    """The ring may be rotated, but its beads may not be exchanged."""
    A, B, C = torch.tensor([[[0.0, 1], [0, 0]], [[0, 0], [1, 0]], [[1, 0], [0, 0]]])
    assert (A @ B @ C).trace() == 1
    assert (A @ C @ B).trace() == 0


@theorem
@given(size, size, size, seeds)
def test_norm_of_a_product_by_small_matrices(m: int, r: int, n: int, seed: int) -> None:
    """‖AB‖² is a ring of four, which can be cut so that only r × r matrices are formed."""
    A, B = whole_numbers(seed, (("m", "r"), ("r", "n"), ()), dict(m=m, r=r, n=n))
    small = einsum(A, A, "m r, m s -> r s"), einsum(B, B, "r n, s n -> r s")
    assert einsum(*small, "r s, r s ->") == (A @ B).square().sum()


@theorem
@given(expressions(repeated=False), st.data(), seeds)
def test_an_axis_that_stays_keeps_its_slices_apart(
    expression: tuple[Terms, dict[str, int]], data: st.DataObject, seed: int
) -> None:
    """If a name is in a factor and in the output, slice i of the factor reaches only slice i of the output."""
    terms, sizes = expression
    shared = [name for name in terms[0] if name in terms[-1]]
    assume(shared)
    name = data.draw(st.sampled_from(shared))
    i = data.draw(st.integers(0, sizes[name] - 1))
    factors = whole_numbers(seed, terms, sizes)
    before = einsum(*factors, written(terms))
    factors[0].select(terms[0].index(name), i).add_(1)
    changed = (einsum(*factors, written(terms)) != before).movedim(terms[-1].index(name), 0)
    assert not changed[torch.arange(sizes[name]) != i].any()


# Mistakes in names


def slips(terms: Terms) -> Iterator[list[list[str]]]:
    """Yield expressions with one mistake: a name replaced by another, known or new, or two names of a term swapped."""
    for t, term in enumerate(terms):
        for place, name in enumerate(term):
            for other in (*names_of(terms), "new"):
                if other != name:
                    slip = [list(term) for term in terms]
                    slip[t][place] = other
                    yield slip
        for a, b in itertools.combinations(range(len(term)), 2):
            slip = [list(term) for term in terms]
            slip[t][a], slip[t][b] = term[b], term[a]
            yield slip


@settings(deadline=None, max_examples=40, derandomize=True)
@given(tidy_expressions(), st.permutations([2, 3, 4, 5]))
def test_different_sizes_betray_every_slip(terms: Terms, primes: list[int]) -> None:
    """The expression fails, gives another shape, or has a name that occurs only once."""
    sizes = dict(zip("abcd", primes, strict=True))
    factors = whole_numbers(0, terms, sizes)
    shape = einsum(*factors, written(terms)).shape
    for slip in slips(terms):
        if 1 in Counter(name for term in slip for name in term).values():
            continue
        try:
            out = einsum(*factors, written(slip))
        except Exception:  # einops, NumPy and torch each raise their own
            continue
        assert out.shape != shape, written(slip)


@pytest.mark.parametrize(
    ("expression", "slip"),
    [
        ("query d, key d -> query key", "query d, key d -> key query"),  # as many queries as keys
        ("query d, key d -> query key", "query d, key misspelt -> query key"),  # this name occurs only once
    ],
)
def test_equal_sizes_hide_some_slips(expression: str, slip: str) -> None:
    q, k = whole_numbers(0, (("query", "d"), ("key", "d"), ()), dict(query=3, key=3, d=2))
    assert einsum(q, k, slip).shape == einsum(q, k, expression).shape
    assert not torch.equal(einsum(q, k, slip), einsum(q, k, expression))


@theorem
@given(size, size, size, seeds)
def test_a_misspelt_name_makes_rank_one(queries: int, keys: int, d: int, seed: int) -> None:
    """Each factor is summed separately: the intended score becomes an outer product of two sums."""
    q, k = whole_numbers(seed, (("query", "d"), ("key", "d"), ()), dict(query=queries, key=keys, d=d))
    scores = einsum(q, k, "query d_head, key d_haed -> query key")
    assert torch.equal(scores, torch.outer(q.sum(1), k.sum(1)))
    assert torch.linalg.matrix_rank(scores) <= 1


# Order and cost


@theorem
@given(expressions(most=5), st.data(), seeds)
def test_any_order(expression: tuple[Terms, dict[str, int]], data: st.DataObject, seed: int) -> None:
    """Contract any two factors, then any two of the rest, and so on: the numbers are always the same."""
    terms, sizes = expression
    factors = whole_numbers(seed, terms, sizes)
    left = [(factor, list(term)) for factor, term in zip(factors, terms[:-1], strict=True)]
    while len(left) > 1:
        i, j = data.draw(st.permutations(range(len(left))))[:2]
        rest = [pair for k, pair in enumerate(left) if k not in (i, j)]
        elsewhere = {name for _, term in rest for name in term} | set(terms[-1])
        (S, of_S), (T, of_T) = left[i], left[j]
        names = [name for name in dict.fromkeys(of_S + of_T) if name in elsewhere]
        left = [*rest, (einsum(S, T, written([of_S, of_T, names])), names)]
    ((result, axes),) = left
    assert torch.equal(einsum(result, written([axes, terms[-1]])), by_loops(factors, terms, sizes))


@theorem
@given(st.lists(size, min_size=3, max_size=6), seeds)
def test_any_parenthesisation(sizes: list[int], seed: int) -> None:
    """A chain of matrices, in each of its parenthesizations, against loops."""
    n = len(sizes) - 1
    links = tuple((f"i{k}", f"i{k + 1}") for k in range(n))
    terms = (*links, ("i0", f"i{n}"))
    of = {f"i{k}": value for k, value in enumerate(sizes)}
    matrices = whole_numbers(seed, terms, of)
    expected = by_loops(matrices, terms, of)
    products = list(parenthesised(matrices))
    assert len(products) == math.comb(2 * (n - 1), n - 1) // n  # the Catalan number
    for product in products:
        assert torch.equal(product, expected)


def parenthesised(matrices: list[Tensor]) -> Iterator[Tensor]:
    if len(matrices) == 1:
        yield matrices[0]
    for cut in range(1, len(matrices)):
        for left in parenthesised(matrices[:cut]):
            for right in parenthesised(matrices[cut:]):
                yield einsum(left, right, "i j, j k -> i k")


@pytest.mark.parametrize("n", range(2, 7))
def test_number_of_orders(n: int) -> None:
    """(2n − 3)!!: merge any two until one is left, and count the distinct trees."""
    states = {frozenset(range(n))}
    for _ in range(n - 1):
        states = {state - {a, b} | {frozenset([a, b])} for state in states for a, b in itertools.combinations(state, 2)}
    assert len(states) == math.prod(range(1, 2 * n - 2, 2))


@theorem
@given(tidy_expressions(factors=2), st.lists(st.integers(2, 5), min_size=4, max_size=4))
def test_cost_of_a_step(terms: Terms, values: list[int]) -> None:
    """A step that sums costs two FLOPs for every value of all its indices, as counted by torch's dispatcher."""
    sizes = dict(zip("abcd", values, strict=True))
    assume(set(names_of(terms)) - set(terms[-1]))
    factors = whole_numbers(0, terms, sizes)
    with FlopCounterMode(display=False) as counter:
        einsum(*factors, written(terms))
    assert counter.get_total_flops() == 2 * math.prod(sizes[name] for name in names_of(terms))


@theorem
@given(*[st.integers(2, 40)] * 4)
def test_when_the_absorbed_order_wins(queries: int, keys: int, d_model: int, d_head: int) -> None:
    """((x Q) K) y against (x Q)(K y): with fewer than keys·d·k / (d·k + keys·(d − k)) queries."""
    x, y = torch.empty(queries, d_model, device="meta"), torch.empty(keys, d_model, device="meta")
    Q, K = (torch.empty(d_model, d_head, device="meta") for _ in range(2))
    with FlopCounterMode(display=False) as keys_first:
        (x @ Q) @ (y @ K).T
    with FlopCounterMode(display=False) as absorbed:
        ((x @ Q) @ K.T) @ y.T
    saved = keys_first.get_total_flops() - absorbed.get_total_flops()
    formula = keys * d_model * d_head - queries * (d_model * d_head + keys * (d_model - d_head))
    assert saved == 2 * formula


@theorem
@given(size, size, size, seeds)
def test_attention_without_softmax_has_a_cheaper_order(n: int, d: int, e: int, seed: int) -> None:
    q, k, v = whole_numbers(seed, (("n", "d"), ("n", "d"), ("n", "e"), ()), dict(n=n, d=d, e=e))
    pattern_first = einsum(einsum(q, k, "query d, key d -> query key"), v, "query key, key e -> query e")
    assert torch.equal(pattern_first, einsum(q, einsum(k, v, "key d, key e -> d e"), "query d, d e -> query e"))


# Gradients


@theorem
@given(tidy_expressions(), st.data(), seeds)
def test_gradient_is_a_contraction(terms: Terms, data: st.DataObject, seed: int) -> None:
    """The gradient by a factor swaps it with the output."""
    sizes = {name: data.draw(st.integers(1, 3)) for name in "abcd"}
    factors = [factor.requires_grad_() for factor in whole_numbers(seed, terms, sizes)]
    out = einsum(*factors, written(terms))
    (G,) = whole_numbers(seed + 1, (terms[-1], ()), sizes)
    for k, by_autograd in enumerate(torch.autograd.grad(out, factors, G)):
        others = [j for j in range(len(factors)) if j != k]
        swapped = written([terms[-1], *(terms[j] for j in others), terms[k]])
        assert torch.equal(einsum(G, *(factors[j].detach() for j in others), swapped), by_autograd)


@theorem
@given(size, size, seeds)
def test_gradient_along_a_name_that_occurs_once(n: int, m: int, seed: int) -> None:
    """A name that only this factor has is missing after the swap; the gradient is constant along it."""
    (A,) = whole_numbers(seed, (("i", "j"), ("i",)), dict(i=n, j=m))
    (G,) = whole_numbers(seed + 1, (("i",), ()), dict(i=n))
    A.requires_grad_()
    (by_autograd,) = torch.autograd.grad(einsum(A, "i j -> i"), A, G)
    assert torch.equal(by_autograd, repeat(G, "i -> i j", j=m))


@theorem
@given(*[st.integers(1, 6)] * 3)
def test_backward_costs_twice_the_forward(n: int, m: int, k: int) -> None:
    """Both swapped expressions have the same indices as the original, and so the same cost."""
    A, B = torch.zeros(n, m, requires_grad=True), torch.zeros(m, k, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        out = einsum(A, B, "i j, j k -> i k")
    with FlopCounterMode(display=False) as backward:
        out.backward(torch.ones_like(out))
    assert backward.get_total_flops() == 2 * forward.get_total_flops()


# A block


@settings(deadline=None, max_examples=15, derandomize=True)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), seeds)
def test_block_in_named_axes(batch: int, pos: int, heads: int, d_head: int, seed: int) -> None:
    """Attention and MLP, with one expression per line, equal the library's model."""
    config = Config(
        n_layers=1,
        d_model=6,
        n_heads=heads,
        d_head=d_head,
        n_ctx=8,
        d_vocab=11,
        d_mlp=10,
        act="gelu_new",
        init_std=0.6,
    )
    model = Transformer(config, seed=seed).double().requires_grad_(False)
    attn, mlp = model.blocks[0].attn, model.blocks[0].mlp
    tokens = torch.randint(11, (batch, pos), generator=torch.Generator().manual_seed(seed))
    seen = record(["*.resid_pre", "*.attn_out", "*.resid_mid", "*.mlp_out"])
    model(tokens, tap=seen)

    x = seen["blocks.0.resid_pre"]
    project = "batch pos d_model, head d_model d_head -> batch head pos d_head"
    q, k, v = (einsum(x, W, project) for W in (attn.W_Q, attn.W_K, attn.W_V))
    scores = einsum(q, k, "batch head query d_head, batch head key d_head -> batch head query key") / d_head**0.5
    pattern = scores.masked_fill(torch.ones(pos, pos).triu(1).bool(), -math.inf).softmax(dim=-1)
    z = einsum(pattern, v, "batch head query key, batch head key d_head -> batch head query d_head")
    attn_out = einsum(z, attn.W_O, "batch head query d_head, head d_head d_model -> batch query d_model")
    assert_close(seen["blocks.0.attn_out"], attn_out, rtol=0, atol=1e-12)

    pre = einsum(seen["blocks.0.resid_mid"], mlp.W_in, "batch pos d_model, d_model d_mlp -> batch pos d_mlp")
    post = F.gelu(pre, approximate="tanh")
    mlp_out = einsum(post, mlp.W_out, "batch pos d_mlp, d_mlp d_model -> batch pos d_model")
    assert_close(seen["blocks.0.mlp_out"], mlp_out, rtol=0, atol=1e-12)
