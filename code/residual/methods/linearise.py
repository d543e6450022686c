"""The model as an affine map: every nonlinearity keeps the numbers that it had on one batch.

A transformer is nonlinear in its stream in three ways. Each is a product of something computed and something passed on;
with the first held fixed, the second goes through linearly::

    attention     z    = A v                        A: the pattern, fixed
    norm          x̂    = x̃ / s                      s: the scale, fixed
    neurons       post = (act(p) / p) · p           the ratio, fixed;  SwiGLU: post = silu(gate) · p, silu(gate) fixed

On the batch itself this is the model. Elsewhere it is the circuit of that batch, applied to another stream.
From Elhage et al. 2021, "Freezing Attention Patterns"; with norms, Ameisen et al. 2025, "Circuit Tracing" (Section
"Local replacement model"); with neurons' ratios, Jafari et al. 2025, "RelP", which has the same rule for activations.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from residual.checks import Tokens
from residual.model import Transformer
from residual.taps import record


class linearise:
    """A tap that freezes patterns, norm scales and neurons' ratios at their values on ``tokens``.

    >>> linear = linearise(model, tokens)
    >>> model(tokens, tap=linear)  # the model's logits
    >>> model.run_from(2, resid, tap=linear)  # affine in resid

    The gradient of such a run by its stream is the map itself, whatever the stream. Composed with taps that change
    ``mlp.pre``, on either side, the ratio multiplies the changed value. Changes of a frozen activation (including a
    SwiGLU's ``mlp.pre``) count only if their tap is to the right.
    """

    writes = False

    @torch.no_grad()
    def __init__(self, model: Transformer, tokens: Tokens, mask: Bool[Tensor, "batch pos"] | None = None) -> None:
        c = model.config
        wanted = ["pattern", "scale", "mlp.pre", *([] if c.act == "swiglu" else ["mlp.post"])]
        names = [name for name in model.activation_names if name.endswith(tuple(wanted))]
        model(tokens, tap=(seen := record(names)) if names else None, mask=mask)
        self.frozen = {name: x for name, x in seen.items() if ".mlp." not in name} if names else {}
        self.ratios: dict[str, Tensor] = {}
        self._pre: Tensor | None = None  # set at an MLP's pre, used and cleared at its post
        if not c.d_mlp:
            return
        for layer in range(c.n_layers):
            pre = seen[f"blocks.{layer}.mlp.pre"]
            if c.act == "swiglu":  # pre is the gate
                self.frozen[f"blocks.{layer}.mlp.pre"] = pre
            else:  # where pre is 0, any ratio is right on the batch itself; choose 0
                post = seen[f"blocks.{layer}.mlp.post"]
                self.ratios[f"blocks.{layer}.mlp."] = torch.where(pre == 0, 0, post / pre)

    def __call__(self, name: str, x: Tensor) -> Tensor:
        mlp, _, part = name.rpartition(".")
        if mlp + "." in self.ratios:
            if part == "pre":
                self._pre = x  # replaced by its final value in settled()
            elif part == "post" and self._pre is not None:
                x, self._pre = self.ratios[mlp + "."] * self._pre, None
            return x
        return self.frozen.get(name, x)

    def settled(self, name: str, x: Tensor) -> None:
        """Take the final value of the neurons' inputs, after all taps."""
        if name.endswith(".mlp.pre") and self._pre is not None:
            self._pre = x

    def resolve(self, known: list[str]) -> frozenset[str]:
        # Only the names that exist: a run may begin at a later layer.
        names = {*self.frozen, *(mlp + part for mlp in self.ratios for part in ("pre", "post"))}
        return frozenset(names.intersection(known))
