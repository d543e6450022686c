"""The tuned lens: what the stream says at each layer, after an affine map has brought it to the form of the last.

The logit lens reads the stream of a middle layer as if it were the end. The tuned lens (Belrose et al. 2023, "Eliciting
Latent Predictions from Transformers with the Tuned Lens", section 3) first translates it, with one map a layer::

    logit lens    norm(x_l) W_U
    tuned lens    norm(x_l + x_l W_l + b_l) W_U          W_l, b_l from 0, trained on KL(model's output || lens)

W_U and the norm are the model's own. Two controls need no training: ``fit_bias`` (only b_l, the mean of what the later
layers add) and ``fit_ridge`` (the W_l, b_l that predict the last stream best in squared error).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from residual.checks import Checked, Tokens
from residual.files.checkpoints import KINDS, Kind
from residual.model import Transformer
from residual.taps import record


@dataclass(frozen=True)
class LensConfig(Checked):
    """The size of a lens: a translator before each layer of a model."""

    layers: int = 4
    d_model: int = 256


class TunedLens(nn.Module):
    """A translator ``x + x W_l + b_l`` for the stream before each layer. A new one changes nothing: the logit lens."""

    def __init__(self, config: LensConfig) -> None:
        super().__init__()
        self.config = config
        self.W = nn.Parameter(torch.zeros(config.layers, config.d_model, config.d_model))
        self.b = nn.Parameter(torch.zeros(config.layers, config.d_model))

    def forward(self, x: Float[Tensor, "layer *any d_model"]) -> Float[Tensor, "layer *any d_model"]:
        """Translate the streams before the layers.

        Raises:
            ValueError: as many layers, or dimensions, as the lens does not have.
        """
        if x.ndim < 2 or (len(x), x.shape[-1]) != tuple(self.b.shape):
            raise ValueError(f"the streams have shape {list(x.shape)}; this lens translates {list(self.b.shape)}")
        flat = x.flatten(1, -2) if x.ndim > 2 else x[:, None]
        return (flat + flat @ self.W + self.b[:, None]).reshape(x.shape)


KINDS["tuned-lens"] = Kind(LensConfig, TunedLens)


def streams(model: Transformer, tokens: Tokens) -> Float[Tensor, "layer batch pos d_model"]:
    """Return the stream before each layer, and at the end: ``n_layers + 1`` of them."""
    names = [f"blocks.{layer}.resid_pre" for layer in range(model.config.n_layers)]
    end = model.run_to(tokens, model.config.n_layers, tap=(seen := record(names)) if names else None)
    return torch.stack([*(seen[name] for name in names), end])


def lens_logits(
    model: Transformer, lens: TunedLens, x: Float[Tensor, "layer *any d_model"]
) -> Float[Tensor, "layer *any d_vocab"]:
    """Return what the lens reads in the streams before the layers (``streams`` without the last)."""
    return model.unembed(lens(x))


def kl(
    final: Float[Tensor, "*any d_vocab"], logits: Float[Tensor, "*layer_any d_vocab"]
) -> Float[Tensor, "*layer_any"]:
    """Return KL(final || lens) in nats: how far the lens's distribution is from the model's, at each position.

    Raises:
        TypeError: logits that are no floats.
        ValueError: the two have vocabularies of different sizes, or other positions.
    """
    _check_logits(final, logits)
    p, q = final.log_softmax(dim=-1), logits.log_softmax(dim=-1)
    return torch.where(p == -torch.inf, 0.0, p.exp() * (p - q)).sum(dim=-1)  # 0 log 0 = 0


def lens_bias(final: Float[Tensor, "*any d_vocab"], logits: Float[Tensor, "*any d_vocab"]) -> Float[Tensor, ""]:
    """Return the KL in nats between the mean distributions of model and lens over all positions.

    It is not 0 if the lens prefers some tokens whatever the text (Belrose et al. 2023, section 3.1).

    Raises:
        TypeError, ValueError: as for ``kl``.
    """
    _check_logits(final, logits)
    p, q = (x.softmax(dim=-1).flatten(0, -2).mean(dim=0) for x in (final, logits))
    return (p * (p.clamp(min=1e-30).log() - q.clamp(min=1e-30).log())).sum()


def lens_loss(model: Transformer, lens: TunedLens, x: Float[Tensor, "layer *any d_model"]) -> Float[Tensor, ""]:
    """Return the mean over layers and positions of KL(model's output || lens), given ``streams(model, tokens)``."""
    with torch.no_grad():
        target = model.unembed(x[-1]).log_softmax(dim=-1)
    losses = []
    for logits in lens_logits(model, lens, x[:-1]):
        losses.append(
            F.kl_div(logits.log_softmax(dim=-1), target, reduction="none", log_target=True).sum(dim=-1).mean()
        )
    return torch.stack(losses).mean()


@torch.no_grad()
def fit_bias(x: Float[Tensor, "layer *any d_model"]) -> TunedLens:
    """Return the lens that adds a constant: the mean of what is written after each layer.

    Raises:
        ValueError: fewer than three axes, fewer than two streams, or no positions.
    """
    _check_streams(x)
    x = x.flatten(1, -2)
    lens = TunedLens(LensConfig(len(x) - 1, x.shape[-1])).to(x)
    lens.b.copy_((x[-1] - x[:-1]).mean(dim=1))
    return lens


@torch.no_grad()
def fit_ridge(x: Float[Tensor, "layer *any d_model"], strength: float = 1e-3) -> TunedLens:
    """Return the lens that predicts the last stream from each earlier one with the least squared error.

    With X and Y centered: ``W = (XᵀX + λ I)⁻¹ Xᵀ Y - I``, where λ is ``strength`` times the mean eigenvalue of XᵀX.

    Raises:
        ValueError: a negative strength, or one too small for so few positions; or see ``fit_bias``.
    """
    _check_streams(x)
    if not strength >= 0:
        raise ValueError(f"the strength of a ridge is {strength}; it must not be below 0")
    x = x.flatten(1, -2).double()
    mean = x.mean(dim=1, keepdim=True)
    centred, eye = x - mean, torch.eye(x.shape[-1]).to(x)
    lens = TunedLens(LensConfig(len(x) - 1, x.shape[-1]))
    for layer, X in enumerate(centred[:-1]):
        gram = X.mT @ X
        W, failed = torch.linalg.solve_ex(gram + strength * gram.trace() / len(gram) * eye, X.mT @ centred[-1])
        if failed or not bool(W.isfinite().all()):
            raise ValueError(
                f"the streams before layer {layer} determine no map: {X.shape[0]} positions for {X.shape[1]} "
                f"dimensions at strength {strength}; give more positions or a larger strength"
            )
        lens.W[layer] = W - eye
        lens.b[layer] = (mean[-1] - mean[layer] @ W)[0]
    return lens


def _check_logits(final: Tensor, logits: Tensor) -> None:
    if not final.is_floating_point() or not logits.is_floating_point():
        raise TypeError(f"logits are floats; these are {final.dtype} and {logits.dtype}")
    if final.shape[-1] != logits.shape[-1]:
        raise ValueError(f"the model has {final.shape[-1]} tokens and the lens {logits.shape[-1]}")
    if logits.shape[max(0, logits.ndim - final.ndim) :] != final.shape:
        raise ValueError(f"the model's logits have shape {list(final.shape)} and the lens's {list(logits.shape)}")


def _check_streams(x: Tensor) -> None:
    if x.ndim < 3 or len(x) < 2 or not x.numel():
        raise ValueError(
            f"the streams have shape {list(x.shape)}; give [layer, …, d_model], at least two of them, with at least "
            "one position"
        )
    if not x.is_floating_point() or not bool(x.isfinite().all()):
        raise ValueError("the streams are not finite numbers of a floating type; give those of a run")
