"""The systems that library.py compares: ours, a plain PyTorch model, TransformerLens, Hugging Face's GPT-2.

All systems compute the same tasks with the weights that ours saved. Each runs in a process and an environment of its
own (measure.serve), so it imports its library when it is made. The small model has 2 layers of attention only, width
256, 8 heads, a context of 256 and 512 tokens; it reads a batch of 8 × 256. The large one has the size of GPT-2 small,
with random weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LAYERS, WIDTH, HEADS, D_HEAD, CTX, VOCAB, BATCH = 2, 256, 8, 32, 256, 512, 8
PROMPT, NEW = 8, 120
LARGE_NEW = 64
PATCHED = (1, 3, 200)  # layer, head, position


class System:
    """An implementation with the weights that ours saved; a method for each task."""

    extrapolated = 1
    """A timed sweep stands for this many times its patches."""

    def __init__(self, folder: Path) -> None:
        import torch

        self.folder, self.torch = folder, torch
        generator = torch.Generator().manual_seed(1)
        self.tokens = torch.randint(VOCAB, (BATCH, CTX), generator=generator)
        self.corrupted = torch.randint(VOCAB, (BATCH, CTX), generator=generator)
        self.large_tokens = torch.randint(50257, (1, CTX), generator=generator)
        self.shared: dict[str, Any] = {}

    def load(self) -> None:
        """Read the weights, and what ours computed with them, from ``shared.safetensors``."""
        from safetensors.torch import load

        self.shared = load((self.folder / "shared.safetensors").read_bytes())
        self.z = [self.shared[f"z{layer}"] for layer in range(LAYERS)]
        self.build(self.shared)

    def build(self, weights: dict[str, Any]) -> None:
        """Make the model with these weights."""
        raise NotImplementedError

    def sample(self) -> list[tuple[int, int, int]]:
        """Return the patches that stand for the whole sweep, spread over it: (layer, head, position)."""
        total, wanted = LAYERS * HEADS * CTX, 8
        self.extrapolated = total // wanted
        flat = [i * total // wanted + 37 * i for i in range(wanted)]
        return [(i // (HEADS * CTX), i // CTX % HEADS, i % CTX) for i in flat]

    def sweep(self) -> Any:
        return [self.metric(self.patch(*which)) for which in self.sample()]

    def metric(self, logits: Any) -> Any:
        """Return the mean logit of token 1 at the last position."""
        return logits[:, -1, 1].mean()

    def patch(self, layer: int = PATCHED[0], head: int = PATCHED[1], position: int = PATCHED[2]) -> Any:
        raise NotImplementedError

    def optimise(self, model: Any, loss: Callable[[], Any]) -> None:
        if "optimiser" not in self.__dict__:
            self.optimiser = self.torch.optim.AdamW(model.parameters(), lr=1e-5)
        self.optimiser.zero_grad()
        loss().backward()
        self.optimiser.step()

    def generate1(self) -> Any:
        return self.generate(self.tokens[:1, :PROMPT])

    def generate8(self) -> Any:
        return self.generate(self.tokens[:, :PROMPT])

    def generate(self, prompt: Any) -> Any:
        raise NotImplementedError

    def measure(self, task: str, runs: int) -> dict[str, float]:
        """Return the CPU seconds of a task, the mean of some runs."""
        work = getattr(self, task.replace("large-", "large_"))
        mode = self.torch.enable_grad() if task == "train" else self.torch.no_grad()
        with mode:
            start = time.process_time()
            for _ in range(runs):
                work()
            cpu = time.process_time() - start
        return {"cpu": cpu / runs * (self.extrapolated if task == "sweep" else 1)}

    def check(self) -> dict[str, float]:
        """Return how far this system's logits are from ours, and the share of its generated tokens that are ours."""
        with self.torch.no_grad():
            apart = {"logits": (self.forward() - self.shared["logits"]).abs().max().item()}
            apart["patched"] = (self.patch() - self.shared["patched"]).abs().max().item()
            ours = self.torch.stack([self.shared["sweep"][which] for which in self.sample()])
            apart["swept"] = (self.torch.stack(self.sweep()) - ours).abs().max().item()
            return apart | {"tokens": (self.generate1() == self.shared["text"]).double().mean().item()}

    def check_large(self) -> dict[str, list[float]]:
        """Return what the large models are compared by: logits, and greedy text."""
        with self.torch.no_grad():
            return {
                "logits": self.large_forward()[0, -1, :64].tolist(),
                "text": self.large_generate()[0].tolist(),
            }

    def forward(self) -> Any:
        raise NotImplementedError


class Ours(System):
    def build(self, weights: dict[str, Any] | None = None) -> None:
        from residual import Config, Transformer
        from residual.methods.loss import next_token_loss
        from residual.sampling import generate
        from residual.taps import patch, record
        from residual.training.train import train

        self.library = dict(generate=generate, patch=patch, record=record, train=train, loss=next_token_loss)
        config = Config(LAYERS, WIDTH, HEADS, D_HEAD, CTX, VOCAB, init_std=0.06)
        self.model = Transformer(config)
        # what TransformerLens records, too
        self.names = [name for name in self.model.activation_names if not name.endswith("result")]

    def load(self) -> None:
        self.build()
        if (path := self.folder / "shared.safetensors").exists():
            from safetensors.torch import load

            self.shared = load(path.read_bytes())
            self.z = {f"blocks.{layer}.attn.z": self.shared[f"z{layer}"] for layer in range(LAYERS)}

    def save(self) -> None:
        """Write the weights, and what the others are compared with, into ``shared.safetensors``."""
        from safetensors.torch import save

        m = self.model
        with self.torch.no_grad():
            shared = {"W_E": m.W_E, "W_pos": m.W_pos, "W_U": m.W_U}
            for layer, block in enumerate(m.blocks):
                shared |= {f"{name}{layer}": getattr(block.attn, name) for name in ("W_Q", "W_K", "W_V", "W_O")}
            m(self.corrupted, tap=(seen := self.library["record"]("*.attn.z")))
            self.z = dict(seen)
            shared |= {f"z{layer}": seen[f"blocks.{layer}.attn.z"] for layer in range(LAYERS)}
            shared |= {"logits": self.forward(), "patched": self.patch(), "text": self.generate1()}
            shared["sweep"] = self.sweep()
            tensors = {name: value.detach().clone().contiguous() for name, value in shared.items()}
        (self.folder / "shared.safetensors").write_bytes(save(tensors))

    def forward(self) -> Any:
        return self.model(self.tokens)

    def recorded(self) -> Any:
        self.model(self.tokens, tap=(seen := self.library["record"](self.names)))
        return seen

    def train(self) -> None:
        self.library["train"](self.model, lambda step: self.library["loss"](self.model, self.tokens), steps=1, lr=1e-5)

    def patch(self, layer: int = PATCHED[0], head: int = PATCHED[1], position: int = PATCHED[2]) -> Any:
        name = f"blocks.{layer}.attn.z"
        return self.model(self.tokens, tap=self.library["patch"](self.z, name, heads=head, positions=position))

    def sweep(self) -> Any:
        from residual.methods.sweeps import patch_heads

        # runs on its second argument, with z from its first; the metric gets the logits at the last position
        return patch_heads(self.model, self.corrupted, self.tokens, lambda logits: logits[:, 1].mean())

    def generate(self, prompt: Any) -> Any:
        return self.library["generate"](self.model, prompt, NEW)

    def large(self) -> None:
        from residual.files.pretrained import load

        self.large_model = load(self.folder / "gpt2")

    def large_forward(self) -> Any:
        return self.large_model(self.large_tokens)

    def large_recorded(self) -> Any:
        names = [name for name in self.large_model.activation_names if not name.endswith("result")]
        self.large_model(self.large_tokens, tap=(seen := self.library["record"](names)))
        return seen

    def large_generate(self) -> Any:
        return self.library["generate"](self.large_model, self.large_tokens[:, :PROMPT], LARGE_NEW)


class Plain(System):
    """A model as one would write it without a library, after nanoGPT's model.py, without biases, norms and MLPs."""

    def build(self, weights: dict[str, Any]) -> None:
        torch = self.torch
        nn, F = torch.nn, torch.nn.functional

        class Attention(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.c_attn = nn.Linear(WIDTH, 3 * HEADS * D_HEAD, bias=False)
                self.c_proj = nn.Linear(HEADS * D_HEAD, WIDTH, bias=False)

            def forward(self, x, kept=None, past=None, patched=None):
                B, T, _ = x.shape
                q, k, v = (part.view(B, T, HEADS, D_HEAD).transpose(1, 2) for part in self.c_attn(x).chunk(3, dim=-1))
                if past is not None:
                    keys, values, start = past
                    keys[:, :, start : start + T], values[:, :, start : start + T] = k, v
                    k, v = keys[:, :, : start + T], values[:, :, : start + T]
                if kept is None:
                    y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)
                else:
                    scores = (q @ k.transpose(-2, -1)) * D_HEAD**-0.5
                    future = torch.ones(T, T, dtype=torch.bool).triu(1)
                    scores = scores.masked_fill(future, float("-inf"))
                    pattern = scores.softmax(dim=-1)
                    y = pattern @ v
                    kept += [q, k, v, scores, pattern, y]
                y = y.transpose(1, 2)
                if patched is not None:
                    head, position, value = patched
                    y = y.clone()
                    y[:, position, head] = value
                return self.c_proj(y.contiguous().view(B, T, HEADS * D_HEAD))

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.wte, self.wpe = nn.Embedding(VOCAB, WIDTH), nn.Embedding(CTX, WIDTH)
                self.h = nn.ModuleList(Attention() for _ in range(LAYERS))
                self.lm_head = nn.Linear(WIDTH, VOCAB, bias=False)

            def forward(self, tokens, kept=None, past=None, patched=None):
                start = 0 if past is None else past[0][2]
                where = self.wpe(torch.arange(start, start + tokens.shape[1]))
                x = self.wte(tokens)
                if kept is not None:
                    kept += [x, where.expand_as(x)]
                x = x + where
                for layer, block in enumerate(self.h):
                    here = patched[1:] if patched is not None and patched[0] == layer else None
                    out = block(x, kept, None if past is None else past[layer], here)
                    if kept is not None:
                        kept += [x, out, x + out]
                    x = x + out
                return self.lm_head(x)

        self.model = Model()
        with torch.no_grad():
            self.model.wte.weight.copy_(weights["W_E"])
            self.model.wpe.weight.copy_(weights["W_pos"])
            self.model.lm_head.weight.copy_(weights["W_U"].T)
            for layer, block in enumerate(self.model.h):
                maps = [weights[f"{name}{layer}"].transpose(1, 2).flatten(0, 1) for name in ("W_Q", "W_K", "W_V")]
                block.c_attn.weight.copy_(torch.cat(maps))
                block.c_proj.weight.copy_(weights[f"W_O{layer}"].flatten(0, 1).T)

    def forward(self) -> Any:
        return self.model(self.tokens)

    def recorded(self) -> Any:
        kept: list[Any] = []
        self.model(self.tokens, kept)
        return kept

    def train(self) -> None:
        def loss() -> Any:
            logits = self.model(self.tokens[:, :-1])
            return self.torch.nn.functional.cross_entropy(logits.flatten(0, 1), self.tokens[:, 1:].flatten())

        self.optimise(self.model, loss)

    def patch(self, layer: int = PATCHED[0], head: int = PATCHED[1], position: int = PATCHED[2]) -> Any:
        return self.model(self.tokens, patched=(layer, head, position, self.z[layer][:, position, head]))

    def generate(self, prompt: Any) -> Any:
        torch = self.torch
        with torch.inference_mode():
            shape = (len(prompt), HEADS, prompt.shape[1] + NEW, D_HEAD)
            kept = [(torch.empty(shape), torch.empty(shape)) for _ in range(LAYERS)]
            text, start, new = prompt, 0, prompt
            for _ in range(NEW):
                logits = self.model(new, past=[(k, v, start) for k, v in kept])
                start += new.shape[1]
                new = logits[:, -1].argmax(dim=-1, keepdim=True)
                text = torch.cat([text, new], dim=1)
        return text


SHAPE = dict(n_layers=LAYERS, d_model=WIDTH, n_heads=HEADS, d_head=D_HEAD, n_ctx=CTX, d_vocab=VOCAB, attn_only=True)


class TransformerLens(System):
    """TransformerLens 4.3."""

    def build(self, weights: dict[str, Any]) -> None:
        from transformer_lens.config import TransformerBridgeConfig
        from transformer_lens.model_bridge import TransformerBridge

        config = TransformerBridgeConfig(
            **SHAPE, act_fn=None, normalization_type=None, positional_embedding_type="standard"
        )
        self.model = TransformerBridge.boot_native(config)
        maps = {"embed": weights["W_E"], "pos_embed": weights["W_pos"], "unembed": weights["W_U"].T}
        for layer in range(LAYERS):
            for name in "QKV":
                maps[f"blocks.{layer}.attn.{name.lower()}"] = weights[f"W_{name}{layer}"].transpose(1, 2).flatten(0, 1)
            maps[f"blocks.{layer}.attn.o"] = weights[f"W_O{layer}"].flatten(0, 1).T
        state = {name: self.torch.zeros_like(value) for name, value in self.model.state_dict().items()}
        for name, value in maps.items():
            assert state[f"{name}.weight"].shape == value.shape, name
            state[f"{name}.weight"] = value.contiguous()
        self.model.load_state_dict(state)

    def forward(self) -> Any:
        return self.model(self.tokens, return_type="logits")

    def recorded(self) -> Any:
        return self.model.run_with_cache(self.tokens, return_type="logits")[1]

    def train(self) -> None:
        self.optimise(self.model, lambda: self.model(self.tokens, return_type="loss"))

    def patch(self, layer: int = PATCHED[0], head: int = PATCHED[1], position: int = PATCHED[2]) -> Any:
        def put(z: Any, hook: Any) -> Any:
            z[:, position, head] = self.z[layer][:, position, head]
            return z

        hooks = [(f"blocks.{layer}.attn.hook_z", put)]
        return self.model.run_with_hooks(self.tokens, return_type="logits", fwd_hooks=hooks)

    def generate(self, prompt: Any) -> Any:
        return self.model.generate(
            prompt, NEW, stop_at_eos=False, do_sample=False, use_past_kv_cache=True, verbose=False
        )


class HuggingFace(System):
    def load(self) -> None:
        """Make a GPT-2 of the small size with random weights, and save it for ours to read."""
        import transformers

        self.torch.manual_seed(0)
        folder = self.folder / "gpt2"
        if not folder.exists():
            transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(folder)
        load = transformers.GPT2LMHeadModel.from_pretrained
        self.kinds = {kind: load(folder, attn_implementation=kind).eval() for kind in ("sdpa", "eager")}
        self.kinds["sdpa"].generation_config.pad_token_id = 50256

    def large_forward(self) -> Any:
        return self.kinds["sdpa"](self.large_tokens, use_cache=False).logits

    def large_recorded(self) -> Any:
        # it can record the stream and the pattern; for the pattern its slower attention has to run
        return self.kinds["eager"](
            self.large_tokens, use_cache=False, output_hidden_states=True, output_attentions=True
        )

    def large_generate(self) -> Any:
        prompt = self.large_tokens[:, :PROMPT]
        return self.kinds["sdpa"].generate(
            prompt,
            attention_mask=self.torch.ones_like(prompt),
            max_new_tokens=LARGE_NEW,
            min_new_tokens=LARGE_NEW,
            do_sample=False,
        )


SYSTEMS: dict[str, type[System]] = {"ours": Ours, "plain": Plain, "tl": TransformerLens, "hf": HuggingFace}
