"""Edges, against a model that sums the terms for every reader separately, and against first differences."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from residual import Config, Transformer
from residual.methods.attribution import decompose
from residual.methods.edges import edge_attribution, patch_edges, readers, writers, written
from residual.taps import ablate, at, compose, freeze, patch, per_example, record

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("models.py"))))
models, batch, same = shared.models, shared.batch, shared.same
theorem = settings(deadline=None, max_examples=30)

# ---- The oracle: no stream, only terms; each reader sums the terms that it reads


def normed(norm, x):
    if norm.w is None:
        return x
    x = x - x.mean(-1, keepdim=True) if norm.b is not None else x
    x = x / (x.square().mean(-1, keepdim=True) + norm.config.norm_eps).sqrt() * norm.w
    return x if norm.b is None else x + norm.b


def turned(x, c):
    """Apply rotary positions with complex numbers: ``[batch pos d_head]``."""
    a, b = x.chunk(2, dim=-1)
    speed = c.rotary_base ** (-torch.arange(0, c.d_head, 2, dtype=torch.float64) / c.d_head)
    angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * speed
    z = torch.complex(a, b) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], dim=-1)


def slow(model, tokens, edges, new):
    """Return the logits when the reader of each edge reads ``new[writer]`` instead of the writer's output."""
    c, edges, n_pos = model.config, set(edges), tokens.shape[1]
    terms = {"embed": model.W_E[tokens]}  # [batch pos d_model], by writer
    if c.positions == "learned":
        terms["pos"] = model.W_pos[:n_pos].expand_as(terms["embed"])
    constant = 0

    def reads(reader):
        return sum((new[w] if (w, reader) in edges else term) for w, term in terms.items()) + constant

    place = model.W_pos[:n_pos] if c.positions == "shortformer" else 0
    for i, block in enumerate(model.blocks):
        attn, inputs = block.attn, {}

        def mapped(kind, head, block=block, attn=attn, i=i):
            x = normed(block.ln1, reads(f"{i}.{head}.{kind}")) + (0 if kind == "v" else place)
            bias = getattr(attn, f"b_{kind.upper()}")
            x = x @ getattr(attn, f"W_{kind.upper()}")[head] + (0 if bias is None else bias[head])
            x = turned(x, c) if c.positions == "rotary" and kind != "v" else x
            if attn.smear is not None and kind == "k":
                own = attn.smear[head].sigmoid()
                x = torch.stack([own * x[:, p] + (1 - own) * x[:, max(p - 1, 0)] for p in range(n_pos)], dim=1)
            return x

        for head in range(c.n_heads):
            key_head = head * c.kv_heads // c.n_heads
            q, k, v = mapped("q", head), mapped("k", key_head), mapped("v", key_head)
            scores = q @ k.mT / c.d_head**0.5
            if c.causal:
                scores = scores.masked_fill(torch.ones(n_pos, n_pos).triu(1).bool(), -torch.inf)
            inputs[f"{i}.{head}"] = scores.softmax(-1) @ v @ attn.W_O[head]
        terms |= inputs
        constant = constant + (0 if attn.b_O is None else attn.b_O)
        if block.mlp is not None:
            mlp, x = block.mlp, normed(block.ln2, reads(f"mlp.{i}"))
            p = x @ mlp.W_in + (0 if mlp.b_in is None else mlp.b_in)
            if c.act == "swiglu":
                post = F.silu(x @ mlp.W_gate + (0 if mlp.b_gate is None else mlp.b_gate)) * p
            else:
                post = (
                    F.relu(p) if c.act == "relu" else F.gelu(p, approximate="tanh" if c.act == "gelu_new" else "none")
                )
            terms[f"mlp.{i}"] = post @ mlp.W_out
            constant = constant + (0 if mlp.b_out is None else mlp.b_out)
    logits = normed(model.ln_final, reads("logits")) @ model.W_U
    return logits if model.b_U is None else logits + model.b_U


def graph(config):
    """Return every edge: the reader comes after the writer in the order of computation."""
    edges = []
    for w in writers(config):
        for r in readers(config):
            w_layer = -1 if w in ("embed", "pos") else int(w.replace("mlp.", "").split(".")[0])
            r_layer = config.n_layers if r == "logits" else int(r.replace("mlp.", "").split(".")[0])
            same_layer = w_layer == r_layer and r.startswith("mlp") and not w.startswith("mlp")
            if w_layer < r_layer or same_layer:
                edges.append((w, r))
    return edges


@st.composite
def some_edges(draw, model):
    return draw(st.lists(st.sampled_from(graph(model.config)), max_size=12, unique=True))


@theorem
@given(models(min_layers=1), st.data(), st.integers(0, 99), st.sampled_from(["patch", "mean", "zero"]))
def test_patched_edges_equal_a_sum_over_terms(model, data, seed, how):
    edges = data.draw(some_edges(model))
    clean, corrupted = batch(seed), batch(seed + 100)
    terms = decompose(model, corrupted)
    new = {w: terms[w] for w in writers(model.config)}
    if how != "patch":
        new = {w: x.mean(dim=0, keepdim=True).expand_as(x) * (how == "mean") for w, x in new.items()}
    got = model(clean, tap=patch_edges(model, edges, None if how == "zero" else written(model, corrupted), how))
    same(got, slow(model, clean, edges, new))


@theorem
@given(models(min_layers=1), st.integers(0, 99))
def test_patching_every_edge_gives_the_other_run_and_patching_none_this_run(model, seed):
    clean, corrupted = batch(seed), batch(seed + 100)
    other = written(model, corrupted)
    same(model(clean, tap=patch_edges(model, graph(model.config), other)), model(corrupted))
    assert torch.equal(model(clean, tap=patch_edges(model, [], other)), model(clean))


@theorem
@given(models(min_layers=2, max_layers=2, d_mlp=0, n_kv_heads=None), st.integers(0, 99), st.data())
def test_in_two_layers_of_attention_it_is_classical_path_patching(model, seed, data):
    """Run with the sender corrupted and other heads clean, record the receiver's input, and put only that in."""
    sender, receiver, kind = (
        data.draw(st.integers(0, 3)),
        data.draw(st.integers(0, 3)),
        data.draw(st.sampled_from("qkv")),
    )
    clean, corrupted = batch(seed), batch(seed + 100)
    model(clean, tap=(clean_z := record("*.attn.z")))
    model(corrupted, tap=(other := record("*.attn.z")))
    sent = patch(other, "blocks.0.attn.z", heads=sender)
    name = f"blocks.1.attn.{kind}"
    model(clean, tap=compose(freeze(clean_z), sent, got := record(name)))
    expected = model(clean, tap=patch(got, name, heads=receiver))
    edge = (f"0.{sender}", f"1.{receiver}.{kind}")
    same(model(clean, tap=patch_edges(model, [edge], written(model, corrupted))), expected)


@theorem
@given(models(min_layers=2, max_layers=2, norm="rms"), st.integers(0, 99))
def test_with_a_frozen_scale_the_reader_divides_by_it(model, seed):
    clean, corrupted = batch(seed), batch(seed + 100)
    model(clean, tap=(seen := record(["*.scale", "blocks.1.attn.q"])))
    scales = freeze({name: x for name, x in seen.items() if name.endswith("scale")})
    tap = compose(patch_edges(model, [("0.1", "1.2.q")], written(model, corrupted)), scales)
    model(clean, tap=compose(tap, got := record("blocks.1.attn.q")))
    change = decompose(model, corrupted)["0.1"] - decompose(model, clean)["0.1"]
    block = model.blocks[1]
    expected = seen["blocks.1.attn.q"].clone()
    expected[:, :, 2] += (change / seen["blocks.1.ln1.scale"] * block.ln1.w) @ block.attn.W_Q[2]
    same(got["blocks.1.attn.q"], expected)


def metric(logits):
    """Return one number from ``[batch d_vocab]`` or ``[batch pos d_vocab]``."""
    return (logits[..., 1] - logits[..., 2]).mean()


smooth = st.sampled_from(["gelu", "gelu_new", "swiglu"])
positions = st.sampled_from([-1, torch.tensor([3, 0, 2]), None])


def read(logits, position):
    return logits if position is None else logits[torch.arange(3), position]


@theorem
@given(smooth.flatmap(lambda act: models(act=act)), positions, st.integers(0, 99), st.data())
def test_an_edge_s_score_is_the_first_difference_of_patching_it(model, position, seed, data):
    clean, corrupted = batch(seed), batch(seed + 100)
    scores = edge_attribution(model, clean, corrupted, metric, position=position)
    base, other = written(model, clean), written(model, corrupted)
    if not model.config.n_layers:
        moved = model.W_E[corrupted] - model.W_E[clean]
        x = model.run_to(clean, 0)
        up, down = (metric(read(model.run_from(0, x + e * moved), position)) for e in (1e-5, -1e-5))
        assert_close(scores["embed", "logits"], (up - down) / 2e-5, atol=1e-6, rtol=1e-4)
        return
    for edge in data.draw(some_edges(model)):
        sides = []
        for e in (1e-5, -1e-5):
            near = {name: x + e * (other[name] - x) for name, x in base.items()}
            sides.append(metric(read(model(clean, tap=patch_edges(model, [edge], near)), position)))
        assert_close(scores[edge], (sides[0] - sides[1]) / 2e-5, atol=1e-6, rtol=1e-4)


@theorem
@given(models(min_layers=1), positions, st.integers(0, 99), st.sampled_from([1, 3]))
def test_scores_are_the_changes_times_autograd_s_gradients_along_the_way(model, position, seed, steps):
    clean, corrupted = batch(seed), batch(seed + 100)
    scores = edge_attribution(model, clean, corrupted, metric, position=position, steps=steps)
    a, b = decompose(model, clean), decompose(model, corrupted)
    last = f"blocks.{model.config.n_layers - 1}.resid_post"
    total = {}
    for step in range(1, steps + 1):
        x = (b["embed"] + step / steps * (a["embed"] - b["embed"])).requires_grad_()
        names = ["*.q_in", "*.k_in", "*.v_in", last] + ["*.mlp.in"] * bool(model.config.d_mlp)
        own = [at("*.mlp.in", torch.clone)] * bool(model.config.d_mlp)  # otherwise it would be the stream itself
        tap = compose(at("embed", lambda _, x=x: x), *own, seen := record(names))
        value = metric(read(model(clean, tap=tap), position))
        for name, gradient in zip(
            seen, torch.autograd.grad(value, list(seen.values()), materialize_grads=True), strict=True
        ):
            i = name.split(".")[1]
            if name == last:
                total["logits"] = total.get("logits", 0) + gradient / steps
            elif name.endswith("mlp.in"):
                total[f"mlp.{i}"] = total.get(f"mlp.{i}", 0) + gradient / steps
            else:
                for head in range(gradient.shape[2]):
                    reader = f"{i}.{head}.{name[-4]}"
                    total[reader] = total.get(reader, 0) + gradient[:, :, head] / steps
    for w, r in graph(model.config):
        products = (b[w] - a[w]) * total[r]
        same(scores[w, r], products.sum(), 100 * products.abs().sum().item())


@theorem
@given(models())
def test_the_edges_that_exist_are_those_whose_reader_comes_later(model):
    scores = edge_attribution(model, batch(0), batch(1), metric)
    pairs = [(w, r) for w in scores.writers for r in scores.readers]
    exist = {pair for pair, there in zip(pairs, scores.exists.flatten().tolist(), strict=True) if there}
    assert exist == set(graph(model.config))
    assert not scores.values[~scores.exists].any()
    top = scores.top(len(pairs))
    assert set(top) == exist
    sizes = [abs(scores[edge].item()) for edge in top]
    assert sizes == sorted(sizes, reverse=True) and scores.top(3) == top[:3]


@theorem
@given(models(), st.integers(0, 99))
def test_a_padded_example_s_edges_are_scored_as_alone(model, seed):
    clean, corrupted = batch(seed, size=1), batch(seed + 100, size=1)
    mask = torch.tensor([[False, True, True, True]])
    together = edge_attribution(model, clean, corrupted, metric, mask=mask)
    alone = edge_attribution(model, clean[:, 1:], corrupted[:, 1:], metric)
    same(together.values, alone.values, 100 * alone.values.abs().max().item())


def test_four_heads_in_two_layers_have_81_edges():
    """Layer 0 reads the embedding: 4 heads × 3 maps; layer 1 reads 5 terms: 12 × 5; the unembedding reads 9."""
    config = Config(n_layers=2, d_model=8, n_heads=4, d_head=2, n_ctx=4, d_vocab=7, positions="shortformer")
    assert len(graph(config)) == 12 + 60 + 9
    scores = edge_attribution(Transformer(config), batch(0), batch(1), metric)
    assert int(scores.exists.sum()) == 81


def test_gradients_flow_through_a_patched_edge():
    model = Transformer(Config(n_layers=2, d_model=6, n_heads=2, d_head=3, n_ctx=4, d_vocab=7)).double()
    other = {name: x.requires_grad_() for name, x in written(model, batch(1)).items()}
    model(batch(0), tap=patch_edges(model, [("0.1", "1.0.v")], other))[:, -1, 2].sum().backward()
    gradient = other["blocks.0.attn.z"].grad
    assert gradient[:, :, 1].abs().max() > 0 and not gradient[:, :, 0].any()


def test_a_tap_may_be_used_again_on_other_batches():
    model = Transformer(Config(n_layers=2, d_model=6, n_heads=2, d_head=3, n_ctx=4, d_vocab=7)).double()
    mean = patch_edges(model, [("0.1", "1.0.v")], written(model, batch(1)), "mean")
    together = model(batch(5), tap=mean)
    same(torch.cat([model(batch(5)[i : i + 1], tap=mean) for i in range(3)]), together)


SMALL = Transformer(Config(n_layers=2, d_model=6, n_heads=4, n_kv_heads=2, d_head=2, n_ctx=4, d_vocab=7, d_mlp=5))
NONE = Transformer(Config(n_layers=0, d_model=6, n_ctx=4, d_vocab=7))
SEEN = written(SMALL, batch(0))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: patch_edges(SMALL, [("0.4", "1.0.k")], SEEN),
            "nothing named '0.4' writes to the stream; choose from 0.0",
        ),
        (lambda: patch_edges(SMALL, [("0.1", "1.2.k")], SEEN), "read by 2 key heads); choose from 1.0.k"),
        (lambda: patch_edges(SMALL, [("1.1", "1.0.k")], SEEN), "1.0.k reads the stream before 1.1 writes to it"),
        (lambda: patch_edges(SMALL, [("0.1", "1.0.k")]), "recorded=written(model, tokens)"),
        (lambda: patch_edges(SMALL, [("0.1", "1.0.k")], {}), "blocks.0.attn.z was not recorded"),
        (lambda: patch_edges(SMALL, [("0.1", "1.0.k")], SEEN, "resample"), "choose from"),
        (lambda: patch_edges(NONE, [("embed", "logits")], how="zero"), "the model has no layers"),
        (
            lambda: SMALL(batch(0, size=2), tap=patch_edges(SMALL, [("0.1", "1.0.k")], SEEN)),
            "blocks.0.attn.z was recorded with shape [3, 4, 4, 2]; in this run it has [2, 4, 4, 2]",
        ),
        (lambda: edge_attribution(SMALL, batch(0), batch(0, size=2), metric), "patching needs the same shapes"),
        (lambda: edge_attribution(SMALL, batch(0), batch(1), metric, position=4), "there is no position 4 in 4 tokens"),
        (lambda: edge_attribution(SMALL, batch(0), batch(1), lambda logits: logits[:, 1]), "it must be one number"),
        (lambda: edge_attribution(SMALL, batch(0), batch(1), lambda logits: 1.0), "the metric does not depend on its"),
        (
            lambda: edge_attribution(SMALL, batch(0), batch(1), metric, position=1.5),
            "position is 1.5; it must",
        ),
        (lambda: edge_attribution(SMALL, batch(0), batch(1), metric, position=True), "position is True; it must"),
        (lambda: edge_attribution(SMALL, batch(0), batch(1), metric, position="a"), "position is 'a'; it must"),
        (lambda: edge_attribution(SMALL, batch(0), batch(1), metric, position=[1, 2]), "or one for each of the 3"),
        (lambda: edge_attribution(SMALL, batch(0), batch(1), metric, steps=1.5), "steps is 1.5; it must be a whole"),
        (lambda: edge_attribution(SMALL, batch(0), batch(1), metric).top(-1), "cannot take -1 edges; give a whole"),
        (
            lambda: edge_attribution(SMALL, batch(0), batch(1), metric, steps=0),
            "steps is 0; it must be a whole number",
        ),
    ],
)
def test_mistakes_give_readable_errors(call, words):
    with pytest.raises(ValueError) as raised:
        call()
    assert words in str(raised.value)


def test_a_term_is_read_after_all_other_taps():
    """An edge from a head that another tap silences, on either side, subtracts nothing."""
    model = Transformer(Config(n_layers=2, d_model=6, n_heads=2, d_head=3, n_ctx=4, d_vocab=7)).double()
    tokens, other = batch(0), written(model, batch(1))
    edges, silence = [("0.1", "1.0.k"), ("0.1", "logits")], ablate("blocks.0.attn.z", heads=1)
    expected = model(tokens, tap=compose(silence, patch_edges(model, edges, other)))
    same(model(tokens, tap=compose(patch_edges(model, edges, other), silence)), expected)
    same(model(tokens, tap=compose(patch_edges(model, edges, how="zero"), silence)), model(tokens, tap=silence))


def test_a_pair_that_is_not_an_edge_has_no_score():
    scores = edge_attribution(SMALL, batch(0), batch(1), metric)
    assert scores["0.1", "1.0.k"] == scores.values[scores.writers.index("0.1"), scores.readers.index("1.0.k")]
    with pytest.raises(KeyError, match=r"1\.0\.k reads the stream before 1\.1 writes to it; that is not an edge"):
        scores["1.1", "1.0.k"]


def test_the_metric_may_read_elsewhere_in_each_example():
    position = [3, 0, 2]
    expected = edge_attribution(SMALL, batch(0), batch(1), metric, position=torch.tensor(position)).values
    for same_position in (position, per_example(position), np.array(position), torch.tensor([-1, -4, -2])):
        assert torch.equal(edge_attribution(SMALL, batch(0), batch(1), metric, position=same_position).values, expected)
