"""The theorems of docs/notes/residual-stream.md, in float64, on random weights.

Changes of basis are made by hand, one parameter at a time; the oracle is the model itself, autograd, or a sum.
"""

import math
from copy import deepcopy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from residual import Config, Transformer
from residual.methods.fold import center, fold_layernorm, rotate
from residual.taps import record

theorem = settings(deadline=None, max_examples=25, derandomize=True)
seeds = st.integers(0, 2**31 - 1)
layers = st.integers(0, 3)
D_MODEL, D_VOCAB, N_CTX = 8, 11, 6


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_model(seed: int, n_layers: int = 2, **options) -> Transformer:
    """Return a model with every parameter random, biases and norms too."""
    config = Config(
        n_layers=n_layers, d_model=D_MODEL, n_heads=2, d_head=3, n_ctx=N_CTX, d_vocab=D_VOCAB, init_std=0.7, **options
    )
    model = Transformer(config, seed=seed).double().requires_grad_(False)
    for weight in model.parameters():
        weight.add_(0.3 * torch.randn(weight.shape, generator=generator(seed), dtype=torch.float64))
    return model


def some_tokens(seed: int, batch: int = 2) -> Tensor:
    return torch.randint(D_VOCAB, (batch, N_CTX), generator=generator(seed))


def orthogonal(seed: int, d: int = D_MODEL) -> Tensor:
    Q, R = torch.linalg.qr(torch.randn(d, d, generator=generator(seed), dtype=torch.float64))
    return Q * R.diagonal().sign()


def invertible(seed: int) -> Tensor:
    stretch = torch.linspace(0.5, 2.0, D_MODEL, dtype=torch.float64)
    return orthogonal(seed) * stretch @ orthogonal(seed + 1)


def in_another_basis(model: Transformer, M: Tensor) -> Transformer:
    """Return the model with writes multiplied by M and reads by M⁻¹."""
    other, back = deepcopy(model), torch.linalg.inv(M)
    other.W_E.copy_(model.W_E @ M)
    if model.W_pos is not None:
        other.W_pos.copy_(model.W_pos @ M)
    for new, old in zip(other.blocks, model.blocks, strict=True):
        for into, old_into in zip(
            (new.attn.W_Q, new.attn.W_K, new.attn.W_V), (old.attn.W_Q, old.attn.W_K, old.attn.W_V), strict=True
        ):
            into.copy_(back @ old_into)
        new.attn.W_O.copy_(old.attn.W_O @ M)
        if old.attn.b_O is not None:
            new.attn.b_O.copy_(old.attn.b_O @ M)
        if old.mlp is not None:
            new.mlp.W_in.copy_(back @ old.mlp.W_in)
            new.mlp.W_out.copy_(old.mlp.W_out @ M)
            if old.mlp.b_out is not None:
                new.mlp.b_out.copy_(old.mlp.b_out @ M)
    other.W_U.copy_(back @ model.W_U)
    return other


@theorem
@given(layers, st.sampled_from(["attention alone", "GPT-2", "Llama"]), seeds)
def test_the_stream_is_the_sum_of_what_was_written(n_layers: int, kind: str, seed: int) -> None:
    """True for all norms and nonlinearities: they act on what is read, and outputs are added."""
    options = {
        "attention alone": {},
        "GPT-2": dict(norm="layer", d_mlp=7, bias=True),
        "Llama": dict(norm="rms", d_mlp=7, act="swiglu", positions="rotary", d_head=4, n_kv_heads=1),
    }[kind]
    config = {**dict(d_head=3), **options}
    model = Transformer(
        Config(n_layers=n_layers, d_model=D_MODEL, n_heads=2, n_ctx=N_CTX, d_vocab=D_VOCAB, init_std=0.7, **config),
        seed=seed,
    ).double()
    seen = record("*")
    logits = model(some_tokens(seed), tap=seen)
    written = [seen["embed"]]
    if "pos_embed" in seen:
        written.append(seen["pos_embed"])
    for layer, block in enumerate(model.blocks):
        if f"blocks.{layer}.resid_pre" in seen:
            assert_close(seen[f"blocks.{layer}.resid_pre"], sum(written))
        written += seen[f"blocks.{layer}.attn.result"].unbind(dim=2)
        if block.attn.b_O is not None:
            written.append(block.attn.b_O.expand_as(written[0]))
        if block.mlp is not None:
            written.append(seen[f"blocks.{layer}.mlp_out"])
        assert_close(seen[f"blocks.{layer}.resid_post"], sum(written))
    if kind == "attention alone":  # then the logits are the sum of each part's own contribution
        assert_close(logits, sum(part @ model.W_U for part in written))


@theorem
@given(seeds)
def test_a_reader_meets_each_writer_through_virtual_weights(seed: int) -> None:
    """A query of layer 1 is exactly the sum over earlier writers of their coefficients times W_O W_Q."""
    model, tokens, seen = random_model(seed), some_tokens(seed), record("*")
    model(tokens, tap=seen)
    first, second = model.blocks[0].attn, model.blocks[1].attn
    for g in range(2):
        for name, W_in in (("q", second.W_Q[g]), ("k", second.W_K[g]), ("v", second.W_V[g])):
            from_heads = sum(seen["blocks.0.attn.z"][:, :, h] @ (first.W_O[h] @ W_in) for h in range(2))
            direct = (model.W_E @ W_in)[tokens] + model.W_pos @ W_in
            assert_close(seen[f"blocks.1.attn.{name}"][:, :, g], direct + from_heads)


@theorem
@given(layers, st.sampled_from([0, 7]), seeds)
def test_rotating_the_stream_changes_nothing(n_layers: int, d_mlp: int, seed: int) -> None:
    model, tokens, Q = random_model(seed, n_layers, d_mlp=d_mlp), some_tokens(seed), orthogonal(seed)
    before, after = record("*"), record("*")
    logits = model(tokens, tap=before)
    assert_close(in_another_basis(model, Q)(tokens, tap=after), logits)
    in_stream = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "result", "mlp.in", "mlp_out")
    for name in before:
        turned = name.endswith(in_stream)
        assert_close(after[name], before[name] @ Q if turned else before[name])


@theorem
@given(layers, seeds)
def test_any_invertible_matrix_changes_nothing(n_layers: int, seed: int) -> None:
    """Lengths and angles in the stream are not part of the model: only what its readers read is."""
    model, tokens, M = random_model(seed, n_layers), some_tokens(seed), invertible(seed)
    before, after = record("*"), record("*")
    logits = model(tokens, tap=before)
    other = in_another_basis(model, M)
    assert_close(other(tokens, tap=after), logits)
    assert_close(other.W_E @ other.W_U, model.W_E @ model.W_U)
    x, y = before["embed"][0, 0], after["embed"][0, 0]
    assert (x.norm() - y.norm()).abs() > 1e-6
    for old, new in zip(model.blocks, other.blocks, strict=True):
        assert_close(new.attn.W_QK().AB, torch.linalg.inv(M) @ old.attn.W_QK().AB @ torch.linalg.inv(M).T)
        assert_close(new.attn.W_OV().trace(), old.attn.W_OV().trace())
        assert_close(new.attn.W_OV().eigenvalues().abs(), old.attn.W_OV().eigenvalues().abs(), atol=1e-6, rtol=1e-6)
    if n_layers > 1:
        first, second = model.blocks[0].attn, model.blocks[1].attn
        first_new, second_new = other.blocks[0].attn, other.blocks[1].attn
        assert_close(first_new.W_O @ second_new.W_V, first.W_O @ second.W_V)


def folded_and_centred(model: Transformer) -> Transformer:
    """Return a model with RMSNorm without weights that computes the same as a model with LayerNorm.

    Each norm's w and b are folded into the readers after it; each writer loses its mean along the stream.
    """
    options = {**vars(model.config), "norm": "rms"}
    other = Transformer(Config(**options)).double().requires_grad_(False)
    mine = dict(model.named_parameters())
    for name, weight in other.named_parameters():
        weight.copy_(mine[name])
    for block, old in zip(other.blocks, model.blocks, strict=True):
        w, b = old.ln1.w, old.ln1.b
        maps = old.attn.W_QKV  # maps d_head d_model
        block.attn.W_QKV.copy_(maps * w)
        block.attn.b_QKV.copy_(old.attn.b_QKV + maps @ b)
        block.ln1.w.fill_(1.0)
        w, b = old.ln2.w, old.ln2.b
        block.mlp.W_in.copy_(w[:, None] * old.mlp.W_in)
        block.mlp.b_in.copy_(old.mlp.b_in + b @ old.mlp.W_in)
        block.ln2.w.fill_(1.0)
        for written in (block.attn.W_O, block.attn.b_O, block.mlp.W_out, block.mlp.b_out):
            written.sub_(written.mean(dim=-1, keepdim=True))
    for written in (other.W_E, other.W_pos):
        written.sub_(written.mean(dim=-1, keepdim=True))
    w, b = model.ln_final.w, model.ln_final.b
    other.W_U.copy_(w[:, None] * model.W_U)
    other.b_U.copy_(model.b_U + b @ model.W_U)
    other.ln_final.w.fill_(1.0)
    return other


@theorem
@given(st.integers(1, 2), seeds)
def test_with_layernorm_only_after_folding_and_centring(n_layers: int, seed: int) -> None:
    model = random_model(seed, n_layers, norm="layer", d_mlp=7, bias=True)
    tokens, Q = some_tokens(seed), orthogonal(seed)
    logits = model(tokens)
    plain = folded_and_centred(model)
    assert_close(plain(tokens), logits)
    assert_close(in_another_basis(plain, Q)(tokens), logits)

    library = rotate(center(fold_layernorm(model)), Q)  # it centers the unembedding too
    assert_close(library(tokens).log_softmax(dim=-1), logits.log_softmax(dim=-1))


def test_layernorm_singles_out_a_basis() -> None:
    """LayerNorm depends on the basis twice: through the mean over coordinates, and through a weight per coordinate."""
    tokens, Q = some_tokens(0), orthogonal(0)
    model = random_model(0, norm="layer", d_mlp=7, bias=True)
    assert (in_another_basis(model, Q)(tokens) - model(tokens)).abs().max() > 1

    for block in model.blocks:  # only folded: the mean is still taken over coordinates
        for norm in (block.ln1, block.ln2, model.ln_final):
            norm.w.fill_(1.0)
            norm.b.fill_(0.0)
    logits = model(tokens)
    assert (in_another_basis(model, Q)(tokens) - logits).abs().max() > 0.1
    ones = torch.ones(D_MODEL, 1, dtype=torch.float64)
    basis, _ = torch.linalg.qr(torch.cat([ones, torch.eye(D_MODEL, dtype=torch.float64)[:, 1:]], dim=1))
    inside = torch.block_diag(torch.eye(1, dtype=torch.float64), orthogonal(1, D_MODEL - 1))
    keeps_the_mean = basis @ inside @ basis.T
    assert_close(in_another_basis(model, keeps_the_mean)(tokens), logits)


@theorem
@given(seeds)
def test_squared_length_is_the_sum_of_all_inner_products(seed: int) -> None:
    model, seen = random_model(seed), record(["embed", "pos_embed", "*.result", "blocks.1.resid_post"])
    model(some_tokens(seed, batch=1), tap=seen)
    parts = [seen["embed"], seen["pos_embed"]]
    parts += [part for layer in range(2) for part in seen[f"blocks.{layer}.attn.result"].unbind(dim=2)]
    written = torch.stack(parts)[:, 0]  # part pos d_model
    gram = torch.einsum("apm,bpm->pab", written, written)
    assert_close(gram.sum(dim=(1, 2)), seen["blocks.1.resid_post"][0].square().sum(dim=-1))


@settings(theorem, max_examples=8)
@given(st.integers(1, 5), st.integers(2, 16), st.integers(1, 5), seeds)
def test_virtual_weights_of_strangers(rows: int, d: int, columns: int, seed: int) -> None:
    """For a uniformly random rotation Q, the mean of ‖A Q B‖² is ‖A‖² ‖B‖² / d."""
    draw = generator(seed)
    A = torch.randn(rows, d, generator=draw, dtype=torch.float64) * torch.arange(1, d + 1)
    B = torch.randn(d, columns, generator=draw, dtype=torch.float64)
    Q, R = torch.linalg.qr(torch.randn(4000, d, d, generator=draw, dtype=torch.float64))
    Q = Q * R.diagonal(dim1=1, dim2=2).sign()[:, None]
    ratios = (A @ Q @ B).square().sum(dim=(1, 2)) / (A.square().sum() * B.square().sum() / d)
    assert abs(ratios.mean() - 1) < 4 * ratios.std() / math.sqrt(len(ratios))


@theorem
@given(st.integers(2, 7), st.integers(1, 4), seeds)
def test_crowding(n: int, k: int, seed: int) -> None:
    """n subspaces of k dimensions in d: the mean overlap of the pairs is at least (n k / d - 1) / (n - 1)."""
    Q, _ = torch.linalg.qr(torch.randn(n, D_MODEL, k, generator=generator(seed), dtype=torch.float64))
    overlaps = [(Q[a].T @ Q[b]).square().sum() / k for a in range(n) for b in range(n) if a != b]
    assert sum(overlaps) / len(overlaps) >= (n * k / D_MODEL - 1) / (n - 1) - 1e-12


def test_crowding_is_attained() -> None:
    """Two heads on each of the four pairs of axes attain the bound."""
    spaces = torch.eye(8, dtype=torch.float64).reshape(4, 2, 8).repeat(2, 1, 1)  # head k d
    overlaps = torch.tensor(
        [(spaces[a] @ spaces[b].T).square().sum() / 2 for a in range(8) for b in range(8) if a != b]
    )
    assert_close(overlaps.mean().double(), torch.tensor((8 * 2 / 8 - 1) / 7, dtype=torch.float64), check_dtype=False)


@settings(theorem, max_examples=8)
@given(st.integers(2, 24), seeds)
def test_a_random_direction_has_no_heavy_coordinates(d: int, seed: int) -> None:
    """The mean over rotations of d Σ x_i⁴ / (Σ x_i²)² is 3 d / (d + 2), whatever the vector."""
    x = torch.randn(20000, d, generator=generator(seed), dtype=torch.float64)  # uniform in direction
    ratios = d * x.pow(4).sum(dim=1) / x.square().sum(dim=1).square()
    assert abs(ratios.mean() - 3 * d / (d + 2)) < 4 * ratios.std() / math.sqrt(len(ratios))


def steps(model: Transformer, optimiser: str, seed: int, n: int = 5) -> Transformer:
    """Train for a few updates, always on the same batches."""
    model = deepcopy(model).requires_grad_(True)
    if optimiser == "gradient descent":
        update = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01)
    else:
        update = torch.optim.AdamW(model.parameters(), lr=0.05)
    for step in range(n):
        tokens = some_tokens(seed + step, batch=3)
        loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        update.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        update.step()
    return model.requires_grad_(False)


@settings(theorem, max_examples=8)
@given(seeds)
def test_gradient_descent_does_not_see_the_basis(seed: int) -> None:
    """Rotating then training equals training then rotating, with momentum, weight decay and clipping."""
    model, Q = random_model(seed), orthogonal(seed)
    trained = in_another_basis(steps(model, "gradient descent", seed), Q)
    turned = steps(in_another_basis(model, Q), "gradient descent", seed)
    assert (trained.W_E - in_another_basis(model, Q).W_E).abs().max() > 1e-3
    for a, b in zip(trained.parameters(), turned.parameters(), strict=True):
        assert_close(a, b)


def test_adam_depends_on_the_basis() -> None:
    model, Q = random_model(0), orthogonal(0)
    trained = in_another_basis(steps(model, "AdamW", 0), Q)
    turned = steps(in_another_basis(model, Q), "AdamW", 0)
    assert (trained.W_E - turned.W_E).abs().max() > 1e-2


def seen_by_the_last_norm(seed: int, norm: str) -> tuple[Transformer, Tensor, record, list[Tensor]]:
    """Return a model with a final norm, its logits, its recorded activations, and the terms of the stream's end."""
    options = dict(d_mlp=7, bias=True) if norm == "layer" else dict(d_mlp=7, act="swiglu", positions="none")
    model = random_model(seed, norm=norm, **options)
    seen = record("*")
    logits = model(some_tokens(seed), tap=seen)
    terms = [seen["embed"]] + ([seen["pos_embed"]] if "pos_embed" in seen else [])
    for layer, block in enumerate(model.blocks):
        terms += seen[f"blocks.{layer}.attn.result"].unbind(dim=2)
        if block.attn.b_O is not None:
            terms.append(block.attn.b_O.expand_as(terms[0]))
        terms.append(seen[f"blocks.{layer}.mlp_out"])
    return model, logits, seen, terms


@theorem
@given(st.sampled_from(["layer", "rms"]), seeds)
def test_attribution_with_the_norm_frozen_is_exact(norm: str, seed: int) -> None:
    """With the last scale frozen, the difference of two logits is one number per writer, plus the norm's bias."""
    model, logits, seen, terms = seen_by_the_last_norm(seed, norm)
    asked = model.W_U[:, 3] - model.W_U[:, 5]
    scale = seen["ln_final.scale"][..., 0]
    total = torch.zeros_like(scale)
    for term in terms:
        centered = term - term.mean(dim=-1, keepdim=True) if norm == "layer" else term
        total += (centered * model.ln_final.w) @ asked / scale
    if norm == "layer":
        total += model.ln_final.b @ asked + model.b_U[3] - model.b_U[5]
    assert_close(logits[..., 3] - logits[..., 5], total)


@theorem
@given(st.integers(0, 4), seeds)
def test_a_new_scale_stretches_all_logits_alike(which: int, seed: int) -> None:
    """Remove a term and recompute the scale: the frozen answer times σ / σ', the same factor for every token."""
    model, logits, seen, terms = seen_by_the_last_norm(seed, "rms")
    left = seen["blocks.1.resid_post"] - terms[which]
    again = model.run_from(2, left)
    scale = seen["ln_final.scale"]
    frozen = logits - (terms[which] / scale * model.ln_final.w) @ model.W_U
    new_scale = (left.square().mean(dim=-1, keepdim=True) + model.config.norm_eps).sqrt()
    assert_close(again, frozen * scale / new_scale)


@theorem
@given(st.floats(-50, 50), seeds)
def test_a_large_coordinate_silences_the_rest(size: float, seed: int) -> None:
    """After RMSNorm, the other coordinates are divided by at least |size| / √d, and a reader sees size's sign."""
    x = torch.randn(D_MODEL, generator=generator(seed), dtype=torch.float64)
    x[0] = size
    y = x / x.square().mean().sqrt()
    assert y[1:].norm() <= math.sqrt(D_MODEL) * x[1:].norm() / max(abs(size), 1e-9) + 1e-12
    assert y[0] * size >= 0
