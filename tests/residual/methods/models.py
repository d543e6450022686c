"""Random models of every kind, and tokens for them, for the theorems about the methods."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch.testing import assert_close

from residual import Config, Transformer

N_POS, N_HEADS, D_MODEL, D_MLP, D_VOCAB = 4, 4, 6, 5, 7


@st.composite
def models(draw, min_layers=0, max_layers=3, **given):
    """Draw a model in float64 with all weights random, norms and biases too; ``given`` are fixed config fields."""
    drawn = {
        "d_mlp": draw(st.sampled_from([0, D_MLP])),
        "act": draw(st.sampled_from(["relu", "gelu", "gelu_new", "swiglu"])),
        "norm": draw(st.sampled_from(["none", "layer", "rms"])),
        "positions": draw(st.sampled_from(["learned", "rotary", "shortformer", "none"])),
        "n_kv_heads": draw(st.sampled_from([None, 2])),
        "bias": draw(st.booleans()),
        "tied": draw(st.booleans()),
        "causal": draw(st.booleans()),
        "smeared_keys": draw(st.booleans()),
    }
    n_layers = draw(st.integers(min_layers, max_layers))
    sizes = {"d_model": D_MODEL, "n_heads": N_HEADS, "d_head": 2, "n_ctx": N_POS, "d_vocab": D_VOCAB}
    model = Transformer(Config(n_layers=n_layers, **sizes, **(drawn | given))).double().requires_grad_(False)
    c = model.config
    size = 0.3 if c.act == "swiglu" and c.norm == "none" else 0.7  # without a norm, a SwiGLU MLP squares the stream
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    for weight in model.parameters():
        weight.copy_(size * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return model


def fixed():
    """Return a small model with random weights."""
    torch.manual_seed(0)
    config = Config(n_layers=1, d_model=6, n_heads=4, d_head=2, n_ctx=4, d_vocab=7)
    return Transformer(config).double().requires_grad_(False)


def batch(seed, size=3):
    return torch.randint(D_VOCAB, (size, N_POS), generator=torch.Generator().manual_seed(seed))


def same(got, expected, size=1.0):
    """Check equality up to rounding; ``size`` is the magnitude of the summed numbers, if much larger than the sum."""
    size = max(size, 1.0, expected.abs().max().item())
    assert_close(got, expected, atol=1e-9 * size, rtol=1e-9)
