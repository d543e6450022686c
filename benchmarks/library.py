"""How fast `residual` is beside TransformerLens and a plain PyTorch model, with the same weights, in one run.

    make peers                           once: transformers, TransformerLens 3.9 and 4.3, each in its own environment
    python benchmarks/library.py         about a quarter of an hour on one core
    python benchmarks/library.py --quick two rounds of fewer tasks, to see that everything runs

Each system is a process of its own that computes on one thread. They take turns, task by task, so that a busy machine
slows all of them; a round is repeated, and the tables show medians of process CPU time (user and system), which other
programs disturb less than time on the clock. Before anything is timed, every system's logits are compared with ours.

- ours         `residual`
- plain        a model of nanoGPT's kind, written below: fused maps, PyTorch's attention kernel, a key-value cache
- TL 3.9, 4.3  TransformerLens: `HookedTransformer`, and the `TransformerBridge.boot_native` that replaced it
- HF           Hugging Face's GPT-2

The small model has 2 layers of attention only, width 256, 8 heads, a context of 256 and 512 tokens; it reads a batch of
8 × 256. The large one has the size of GPT-2 small, with random weights. A sweep patches the output z of one head at one
position, for all 2 × 8 × 256 of them, and reads a logit at the last position. All but ours would take minutes, so that
8 of their 4096 patches are timed and multiplied up.

TransformerLens 3.9 generates wrong tokens if it keeps the keys and values of a model with learned positions: it adds
the offset of the positions twice. The aim is held against its right tokens, without the cache; the wrong ones are timed
in rows of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LAYERS, WIDTH, HEADS, D_HEAD, CTX, VOCAB, BATCH = 2, 256, 8, 32, 256, 512, 8
PROMPT, NEW = 8, 120  # TransformerLens 3.9 fails when twice the length exceeds the context
LARGE_NEW = 64
PATCHED = (1, 3, 200)  # layer, head, position
NAMES = {"ours": "ours", "plain": "plain", "tl39": "TL 3.9", "tl43": "TL 4.3", "hf": "HF"}
SMALL = ("ours", "plain", "tl39", "tl43")

# task -> (what it is, systems, aim against TL 3.9, runs a measurement, also with --quick)
TASKS: dict[str, tuple[str, tuple[str, ...], float | None, int, bool]] = {
    "forward": ("forward", SMALL, 4, 3, True),
    "recorded": ("forward, every activation recorded", SMALL, 2, 2, True),
    "results": ("… and each head's result", ("ours", "plain", "tl39"), None, 1, False),
    "train": ("training step", SMALL, 2, 3, True),
    "patch": ("one patch", SMALL, None, 2, True),
    "sweep": ("patch sweep 2 × 8 × 256", SMALL, 500, 1, True),
    "generate1": (f"greedy, {NEW} tokens, batch 1", SMALL, 10, 1, True),
    "generate8": (f"greedy, {NEW} tokens, batch 8", SMALL, 10, 1, False),
    "wrong1": ("… batch 1, TL 3.9 with its cache", ("ours", "tl39"), None, 1, False),
    "wrong8": ("… batch 8, TL 3.9 with its cache", ("ours", "tl39"), None, 1, False),
    "large-forward": ("forward", ("ours", "hf"), None, 1, True),
    "large-recorded": ("forward, every activation recorded", ("ours", "hf"), None, 1, False),
    "large-generate": (f"greedy, {LARGE_NEW} tokens, batch 1", ("ours", "hf"), None, 1, False),
}


# --- the systems: each runs in a process of its own -------------------------------------------------------------------


class System:
    """One implementation with the weights that ours saved; a method for each task."""

    extrapolated = 1  # a timed sweep stands for this many times its patches

    def __init__(self, folder: Path) -> None:
        import torch

        self.folder, self.torch = folder, torch
        generator = torch.Generator().manual_seed(1)
        self.tokens = torch.randint(VOCAB, (BATCH, CTX), generator=generator)
        self.corrupted = torch.randint(VOCAB, (BATCH, CTX), generator=generator)
        self.large_tokens = torch.randint(50257, (1, CTX), generator=generator)
        self.shared: dict[str, Any] = {}

    def load(self) -> None:
        """Read the weights, and what ours computed with them."""
        from safetensors.torch import load

        self.shared = load((self.folder / "shared.safetensors").read_bytes())
        self.z = [self.shared[f"z{layer}"] for layer in range(LAYERS)]
        self.build(self.shared)

    def build(self, weights: dict[str, Any]) -> None:
        raise NotImplementedError

    def sample(self) -> list[tuple[int, int, int]]:
        """The patches that stand for the whole sweep, spread over it."""
        total, wanted = LAYERS * HEADS * CTX, 8
        self.extrapolated = total // wanted
        flat = [i * total // wanted + 37 * i for i in range(wanted)]
        return [(i // (HEADS * CTX), i // CTX % HEADS, i % CTX) for i in flat]

    def sweep(self) -> Any:
        return [self.metric(self.patch(*which)) for which in self.sample()]

    def metric(self, logits: Any) -> Any:
        """The mean logit of token 1 at the last position."""
        return logits[:, -1, 1].mean()

    def patch(self, layer: int = PATCHED[0], head: int = PATCHED[1], position: int = PATCHED[2]) -> Any:
        raise NotImplementedError

    def optimise(self, model: Any, loss: Callable[[], Any]) -> None:
        if "optimiser" not in self.__dict__:
            self.optimiser = self.torch.optim.AdamW(model.parameters(), lr=1e-5)
        self.optimiser.zero_grad()
        loss().backward()
        self.optimiser.step()

    def wrong1(self) -> Any:
        return self.generate1()

    def wrong8(self) -> Any:
        return self.generate8()

    def generate1(self) -> Any:
        return self.generate(self.tokens[:1, :PROMPT])

    def generate8(self) -> Any:
        return self.generate(self.tokens[:, :PROMPT])

    def generate(self, prompt: Any) -> Any:
        raise NotImplementedError

    def measure(self, task: str, runs: int) -> dict[str, float]:
        work = getattr(self, task.replace("large-", "large_"))
        mode = self.torch.enable_grad() if task == "train" else self.torch.no_grad()
        with mode:
            start = time.process_time(), time.perf_counter()
            for _ in range(runs):
                work()
            cpu, wall = time.process_time() - start[0], time.perf_counter() - start[1]
        scale = self.extrapolated if task == "sweep" else 1
        return {"cpu": cpu / runs * scale, "wall": wall / runs * scale}

    def check(self) -> dict[str, float]:
        """How far this system's logits are from ours, and the share of its generated tokens that are ours."""
        with self.torch.no_grad():
            found = {"logits": (self.forward() - self.shared["logits"]).abs().max().item()}
            found["patched"] = (self.patch() - self.shared["patched"]).abs().max().item()
            found["tokens"] = (self.generate1() == self.shared["text"]).double().mean().item()
            if "sweep" in self.shared and type(self).sweep is System.sweep:
                ours = self.torch.stack([self.shared["sweep"][which] for which in self.sample()])
                found["swept"] = (self.torch.stack(self.sweep()) - ours).abs().max().item()
        return found

    def check_large(self) -> dict[str, list[float]]:
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
        # what TransformerLens records too; the heads' separate results are a task of their own
        self.names = [name for name in self.model.activation_names if not name.endswith("result")]

    def load(self) -> None:
        if not self.shared:
            self.build()
        from safetensors.torch import load

        path = self.folder / "shared.safetensors"
        if path.exists():
            self.shared = load(path.read_bytes())
            self.z = {f"blocks.{layer}.attn.z": self.shared[f"z{layer}"] for layer in range(LAYERS)}

    def save(self) -> None:
        """Write the weights, and what the others are compared with."""
        from safetensors.torch import save

        m = self.model
        with self.torch.no_grad():
            given = {"W_E": m.W_E, "W_pos": m.W_pos, "W_U": m.W_U}
            for layer, block in enumerate(m.blocks):
                given |= {f"{name}{layer}": getattr(block.attn, name) for name in ("W_Q", "W_K", "W_V", "W_O")}
            m(self.corrupted, tap=(seen := self.library["record"]("*.attn.z")))
            self.z = dict(seen)
            given |= {f"z{layer}": seen[f"blocks.{layer}.attn.z"] for layer in range(LAYERS)}
            given |= {"logits": self.forward(), "patched": self.patch(), "text": self.generate1()}
            given["sweep"] = self.sweep()
            tensors = {name: value.detach().clone().contiguous() for name, value in given.items()}
        (self.folder / "shared.safetensors").write_bytes(save(tensors))

    def forward(self) -> Any:
        return self.model(self.tokens)

    def recorded(self) -> Any:
        self.model(self.tokens, tap=(seen := self.library["record"](self.names)))
        return seen

    def results(self) -> Any:
        self.model(self.tokens, tap=(seen := self.library["record"]()))
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
    """What one would write without a library, after nanoGPT's model.py; without biases, norms and MLPs here."""

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
                if kept is not None and self.results:
                    kept.append(torch.einsum("bthd,ohd->btho", y, self.c_proj.weight.view(WIDTH, HEADS, D_HEAD)))
                return self.c_proj(y.contiguous().view(B, T, HEADS * D_HEAD))

            results = False

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
                    given = patched[1:] if patched is not None and patched[0] == layer else None
                    out = block(x, kept, None if past is None else past[layer], given)
                    if kept is not None:
                        kept += [x, out, x + out]
                    x = x + out
                return self.lm_head(x)

        self.model, self.kind = Model(), Attention
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

    def results(self) -> Any:
        self.kind.results = True
        try:
            return self.recorded()
        finally:
            self.kind.results = False

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


class Lens(System):
    """What both versions of TransformerLens do in the same way."""

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

    cached = True

    def generate(self, prompt: Any) -> Any:
        return self.model.generate(
            prompt, NEW, stop_at_eos=False, do_sample=False, use_past_kv_cache=self.cached, verbose=False
        )


SHAPE = dict(n_layers=LAYERS, d_model=WIDTH, n_heads=HEADS, d_head=D_HEAD, n_ctx=CTX, d_vocab=VOCAB, attn_only=True)


class Lens39(Lens):
    cached = False  # see the top of this file

    def wrong1(self) -> Any:
        self.cached = True
        try:
            return self.generate1()
        finally:
            self.cached = False

    def wrong8(self) -> Any:
        self.cached = True
        try:
            return self.generate8()
        finally:
            self.cached = False

    def build(self, weights: dict[str, Any]) -> None:
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        config = HookedTransformerConfig(**SHAPE, normalization_type=None, device="cpu", default_prepend_bos=False)
        self.model = HookedTransformer(config)
        given = {"embed.W_E": weights["W_E"], "pos_embed.W_pos": weights["W_pos"], "unembed.W_U": weights["W_U"]}
        for layer in range(LAYERS):
            for name in ("W_Q", "W_K", "W_V", "W_O"):
                given[f"blocks.{layer}.attn.{name}"] = weights[f"{name}{layer}"]
        missing = self.model.load_state_dict(given, strict=False).missing_keys
        assert all(".b_" in name or name.endswith(("mask", "IGNORE")) for name in missing), missing

    def results(self) -> Any:
        self.model.set_use_attn_result(True)
        try:
            return self.recorded()
        finally:
            self.model.set_use_attn_result(False)


class Lens43(Lens):
    def build(self, weights: dict[str, Any]) -> None:
        from transformer_lens.config import TransformerBridgeConfig
        from transformer_lens.model_bridge import TransformerBridge

        config = TransformerBridgeConfig(
            **SHAPE, act_fn=None, normalization_type=None, positional_embedding_type="standard"
        )
        self.model = TransformerBridge.boot_native(config)
        given = {"embed": weights["W_E"], "pos_embed": weights["W_pos"], "unembed": weights["W_U"].T}
        for layer in range(LAYERS):
            for name in "QKV":
                given[f"blocks.{layer}.attn.{name.lower()}"] = weights[f"W_{name}{layer}"].transpose(1, 2).flatten(0, 1)
            given[f"blocks.{layer}.attn.o"] = weights[f"W_O{layer}"].flatten(0, 1).T
        state = {name: self.torch.zeros_like(value) for name, value in self.model.state_dict().items()}
        for name, value in given.items():
            assert state[f"{name}.weight"].shape == value.shape, name
            state[f"{name}.weight"] = value.contiguous()
        self.model.load_state_dict(state)


class HuggingFace(System):
    def load(self) -> None:
        """A GPT-2 of the small size with random weights, saved as Hugging Face saves it, for ours to read."""
        import transformers

        self.torch.manual_seed(0)
        kinds = {"sdpa": None, "eager": None}
        folder = self.folder / "gpt2"
        if not folder.exists():
            transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(folder)
        for kind in kinds:
            model = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation=kind)
            kinds[kind] = model.eval()
        kinds["sdpa"].generation_config.pad_token_id = 50256
        self.kinds = kinds

    def large_forward(self) -> Any:
        return self.kinds["sdpa"](self.large_tokens, use_cache=False).logits

    def large_recorded(self) -> Any:
        # what it can record: the stream, and the pattern, for which the slower attention has to run
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


SYSTEMS = {"ours": Ours, "plain": Plain, "tl39": Lens39, "tl43": Lens43, "hf": HuggingFace}


def serve(system: System) -> None:
    """Do what the lines on standard input ask, and answer each with a line; whatever else is printed goes to stderr.

    Between "begin" and "end" a fork of this process answers, which is ready and has computed nothing: what earlier
    tasks left in the memory allocator would otherwise decide about a third of the time, and most of the memory. The
    memory of a task is how far its fork's peak is above what the fork began with: imports, weights and tokens.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(1)
    system.load()
    forked, before = False, 0.0
    while line := sys.stdin.readline():
        asked = json.loads(line)
        reply: dict[str, Any] = {}
        if asked["do"] == "begin":
            child = os.fork()
            if child:
                if os.waitpid(child, 0)[1]:
                    sys.exit("the measuring process failed")
            else:
                forked, before = True, peak_memory()  # a fork's peak is at first what it holds
            if not forked:
                continue
        elif asked["do"] == "end":
            reply = {"memory": peak_memory() - before}
        elif asked["do"] == "measure":
            reply = system.measure(asked["task"], asked["runs"])
        else:
            reply = getattr(system, asked["do"])() or {}
        print(json.dumps(reply), file=answers, flush=True)
        if asked["do"] == "end":
            os._exit(0)


def peak_memory() -> float:
    """The most that this process ever held, in MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1024)


# --- the run ----------------------------------------------------------------------------------------------------------


class Worker:
    def __init__(self, name: str, python: Path, folder: Path, program: str = __file__) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [python, program, "--serve", name, "--folder", folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(),
                text=True,
            )

    def ask(self, do: str, **given: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **given}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{NAMES[self.name]} ended while it did {do} {given}:\n{self.log.read_text()[-2000:]}")
        return json.loads(answer)

    def apart(self, do: str) -> dict[str, Any]:
        """Ask a fork, so that nothing of it is left for what is measured afterwards."""
        self.ask("begin")
        answer = self.ask(do)
        self.ask("end")
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    threads = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"], "1")
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**kept, **threads, **offline, "PYTHONPATH": str(ROOT / "code"), "PYTHONWARNINGS": "ignore"}


def imports(pythons: dict[str, Path], rounds: int) -> dict[str, tuple[float, float]]:
    """What each import costs a fresh interpreter: CPU-seconds and MB, the interpreter's own included."""
    modules = sorted(path.stem for path in (ROOT / "code/residual").glob("[a-z]*.py"))
    everything = ", ".join(module for module in modules if module != "plot")
    statements = {
        "torch": ("ours", "import torch"),
        "residual": ("ours", "import residual"),
        "residual, all but its plots": ("ours", f"import residual; from residual import {everything}"),
        "TL 3.9": ("tl39", "import transformer_lens; transformer_lens.HookedTransformer"),
        "TL 4.3": ("tl43", "from transformer_lens.model_bridge import TransformerBridge"),
        "transformers' GPT-2": ("hf", "from transformers import GPT2LMHeadModel"),
    }
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for label, (system, statement) in statements.items():
            if system not in pythons:
                continue
            measured = "import resource, time; print(time.process_time(), resource.getrusage(0).ru_maxrss / 1024)"
            ran = subprocess.run(
                [pythons[system], "-c", f"{statement}\n{measured}"],
                env=environment(),
                capture_output=True,
                text=True,
            )
            if ran.returncode:
                sys.exit(f"{statement!r} failed:\n{ran.stderr[-2000:]}")
            cpu, memory = ran.stdout.split()[-2:]
            found.setdefault(label, []).append((float(cpu), float(memory)))
    return {label: (median([c for c, _ in v]), median([m for _, m in v])) for label, v in found.items()}


def median(values: list[float]) -> float:
    return statistics.median(values)


def shown(seconds: float) -> str:
    if seconds >= 100:
        return f"{seconds:.0f} s"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def times(ratio: float) -> str:
    return f"{ratio:.0f} ×" if ratio >= 100 else f"{ratio:.1f} ×" if ratio >= 10 else f"{ratio:.2f} ×"


def table(header: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("| " + " | ".join(cells) + " |", flush=True)
    print()


def report(
    measured: dict[tuple[str, str], list[float]],
    memory: dict[tuple[str, str], float],
    tasks: list[str],
    systems: list[str],
) -> None:
    others = [system for system in systems if system != "ours"]
    rows, held = [], []
    for task in tasks:
        text, _, aim, _, _ = TASKS[task]
        seconds = {s: median(measured[task, s]) for s in systems if (task, s) in measured}
        row = [text, *(shown(seconds[s]) if s in seconds else "" for s in systems)]
        row += [times(seconds[s] / seconds["ours"]) if s in seconds else "" for s in others]
        verdict = []
        if aim is not None and "tl39" in seconds:
            missed = seconds["tl39"] / seconds["ours"] < aim
            verdict.append(f"≥ {aim:g} × TL 3.9{': missed' if missed else ''}")
        for other in ("plain", "hf"):
            if other in seconds and seconds[other] < 0.97 * seconds["ours"]:
                verdict.append(f"behind {NAMES[other]}")
        rows.append([*row, ", ".join(verdict)])
        held.append([text, *(f"{memory[task, s]:.0f} MB" if s in seconds else "" for s in systems)])
    table(["CPU time", *(NAMES[s] for s in systems), *(f"{NAMES[s]} / ours" for s in others), "aim"], rows)
    table(["memory, beside the weights'", *(NAMES[s] for s in systems)], held)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="repetitions; the tables show medians (default 7)")
    parser.add_argument("--quick", action="store_true", help="two rounds, fewer tasks, no peak memory")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="only these tasks, and nothing else")
    parser.add_argument("--without", nargs="+", choices=[s for s in SYSTEMS if s != "ours"], default=[], metavar="PEER")
    for name, folder in (("peers", ".venv-peers"), ("peers43", ".venv-peers43")):
        parser.add_argument(f"--{name}", type=Path, default=ROOT / folder, help=f"that environment (default {folder})")
    parser.add_argument("--serve", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(SYSTEMS[args.serve](args.folder))

    here = Path(sys.executable)
    pythons = {"ours": here, "plain": here, "tl39": args.peers / "bin/python", "tl43": args.peers43 / "bin/python"}
    pythons["hf"] = pythons["tl39"]
    for system in [*args.without, *(s for s, python in pythons.items() if not python.exists())]:
        if pythons.pop(system, None) and system not in args.without:
            print(f"{NAMES[system]} is left out: it is not installed (`make peers` does)")
    rounds = 2 if args.quick else args.rounds
    tasks = args.tasks or [task for task in TASKS if TASKS[task][4] or not args.quick]
    if "hf" not in pythons:
        tasks = [task for task in tasks if not task.startswith("large-")]

    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        run(args, folder, pythons, tasks, rounds)
    finally:
        shutil.rmtree(folder)


def run(args: argparse.Namespace, folder: Path, pythons: dict[str, Path], tasks: list[str], rounds: int) -> None:
    large = [task for task in tasks if task.startswith("large-")]
    small = [task for task in tasks if task not in large]
    measured: dict[tuple[str, str], list[float]] = {}
    memory: dict[tuple[str, str], float] = {}

    def measure(workers: dict[str, Worker], some: list[str]) -> None:
        for task in some:
            _, systems, _, runs, _ = TASKS[task]
            order = [system for system in systems if system in workers]
            for system in order:
                workers[system].ask("begin")
            for number in range(rounds + 1):
                print(f"\r{TASKS[task][0]}: round {number} of {rounds} {'':20}", end="", file=sys.stderr)
                for system in order if number % 2 else reversed(order):
                    answer = workers[system].ask("measure", task=task, runs=runs)
                    if number:  # the first round warms up
                        measured.setdefault((task, system), []).append(answer["cpu"])
            for system in order:
                memory[task, system] = workers[system].ask("end")["memory"]
        print("\r" + " " * 60 + "\r", end="", file=sys.stderr)

    saving = Worker("ours", pythons["ours"], folder)
    saving.ask("save")
    saving.close()
    ours = Worker("ours", pythons["ours"], folder)
    workers = {"ours": ours}
    if small:
        systems = [system for system in SMALL if system in pythons]
        workers |= {system: Worker(system, pythons[system], folder) for system in systems if system != "ours"}
        print(f"{LAYERS} layers, attention only, d_model {WIDTH}, {HEADS} heads; batch {BATCH} × {CTX}; same weights:")
        for system in systems[1:]:
            found = workers[system].apart("check")
            print(
                f"  {NAMES[system]}: logits as ours to {found['logits']:.0e}, patched ones to {found['patched']:.0e}, "
                f"{found['tokens']:.0%} of greedy tokens the same"
                + (f", the sweep's sample to {found['swept']:.0e}" if "swept" in found else "")
            )
            if max(found["logits"], found["patched"], found.get("swept", 0)) > 1e-4:
                sys.exit(f"{NAMES[system]} does not compute what ours computes: nothing to compare")
        print()
        measure(workers, small)
        report(measured, memory, small, systems)
        for system in systems[1:]:
            workers.pop(system).close()
    if large:
        workers["hf"] = Worker("hf", pythons["hf"], folder)
        theirs = workers["hf"].apart("check_large")
        ours.ask("large")
        mine = ours.apart("check_large")
        apart = max(abs(a - b) for a, b in zip(mine["logits"], theirs["logits"], strict=True))
        print(f"The size of GPT-2 small, batch 1 × {CTX}: logits as Hugging Face's to {apart:.0e}, ", end="")
        print("greedy text the same" if mine["text"] == theirs["text"] else "greedy text NOT the same", end="\n\n")
        if apart > 1e-4:
            sys.exit("HF does not compute what ours computes: nothing to compare")
        measure(workers, large)
        report(measured, memory, large, ["ours", "hf"])
        workers.pop("hf").close()
    ours.close()
    if args.tasks:
        return
    costs = imports(pythons, rounds)
    base = costs["torch"][0]
    rows = [[name, shown(cpu), f"{cpu - base:+.2f} s", f"{mb:.0f} MB"] for name, (cpu, mb) in costs.items()]
    table(["import", "CPU time", "beside torch's", "peak memory"], rows)


if __name__ == "__main__":
    main()
