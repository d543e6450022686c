"""The speed of edge attribution beside its authors' own code, with the same weights, in one run.

    make .venv-peers/.installed                                  once
    git clone https://github.com/hannamw/EAP-IG                  once
    python benchmarks/eap.py EAP-IG                              a minute on one core
    python benchmarks/eap.py --smollm2                           32 prompts of 16 tokens, without a peer

The peer is the code of Hanna et al. 2024 ("Have Faith in Faithfulness"), on TransformerLens 3.9. It asks for a GPU and
for texts; here it gets a CPU and the same tokens as ours. The model has 4 layers, width 256, 8 heads, MLPs and random
weights; the batch is 4 × 16. The edges' scores are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from measure import Worker, beside, measure_task, peak_memory, require_same, serve, table
from peers import LIBRARIES

LAYERS, HEADS, WIDTH, D_HEAD, CTX, VOCAB, BATCH, N_POS = 4, 8, 256, 32, 64, 512, 4, 16
ANSWER, WRONG, STEPS = 3, 5, 5
TASKS = {"eap": "all edges, by attribution", "ig": f"all edges, {STEPS} steps of integrated gradients"}


class Ours:
    def __init__(self, folder: Path) -> None:
        import torch

        self.torch, self.weights = torch, folder / "weights.pt"
        generator = torch.Generator().manual_seed(1)
        self.tokens, self.corrupted = torch.randint(VOCAB, (2, BATCH, N_POS), generator=generator)

    def load(self) -> None:
        from residual import Config, Transformer
        from residual.methods.edges import edge_attribution

        self.edge_attribution = edge_attribution
        self.torch.manual_seed(0)
        config = Config(LAYERS, WIDTH, HEADS, D_HEAD, CTX, VOCAB, d_mlp=4 * WIDTH, init_std=0.05)
        self.model = Transformer(config).requires_grad_(False)
        parts = {"W_E": self.model.W_E, "W_pos": self.model.W_pos, "W_U": self.model.W_U}
        for layer, block in enumerate(self.model.blocks):
            queries, keys, values = block.attn.W_QKV.unflatten(0, (3, HEADS)).transpose(-1, -2)
            for name, weight in (("Q", queries), ("K", keys), ("V", values), ("O", block.attn.W_O)):
                parts[f"{layer}.attn.W_{name}"] = weight
            parts |= {f"{layer}.mlp.W_in": block.mlp.W_in, f"{layer}.mlp.W_out": block.mlp.W_out}
        self.torch.save({name: part.contiguous() for name, part in parts.items()}, self.weights)

    def logits(self) -> Any:
        return self.model(self.tokens)[:, -1]

    def scores(self, steps: int) -> Any:
        metric = lambda logits: (logits[:, ANSWER] - logits[:, WRONG]).mean()  # noqa: E731
        return self.edge_attribution(self.model, self.tokens, self.corrupted, metric, steps=steps)

    def from_heads_to_queries(self) -> Any:
        scores = self.scores(1)
        pairs = [(f"{i}.{g}", f"{j}.{h}.q") for i, g, j, h in PAIRS]
        return self.torch.stack([scores[pair] for pair in pairs])

    def results(self) -> dict[str, Any]:
        with self.torch.no_grad():
            logits = self.logits().flatten().tolist()
        return {"logits": logits, "edges": self.from_heads_to_queries().tolist()}

    def measure(self, task: str, runs: int) -> dict[str, float]:
        start = time.process_time()
        for _ in range(runs):
            self.scores(1 if task == "eap" else STEPS)
        return {"cpu": (time.process_time() - start) / runs}


PAIRS = [(i, g, j, h) for i in range(LAYERS) for j in range(i + 1, LAYERS) for g in range(HEADS) for h in range(HEADS)]


class Authors(Ours):
    def load(self) -> None:
        sys.path.insert(0, str(Path((self.weights.parent / "clone").read_text()) / "src"))
        for name in ("matplotlib", "matplotlib.cm"):  # which they import for pictures of circuits
            sys.modules[name] = ModuleType(name)
        torch = self.torch
        zeros = torch.zeros
        torch.zeros = lambda *size, **options: zeros(*size, **{**options, "device": "cpu"})  # they ask for a GPU
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        from eap import attribute, graph, utils

        shape = dict(n_layers=LAYERS, d_model=WIDTH, n_heads=HEADS, d_head=D_HEAD, n_ctx=CTX, d_vocab=VOCAB)
        self.model = HookedTransformer(
            HookedTransformerConfig(**shape, d_mlp=4 * WIDTH, act_fn="gelu_new", normalization_type=None, device="cpu")
        )
        state = {name: zeros(value.shape) for name, value in self.model.named_parameters()}
        names = {"W_E": "embed.W_E", "W_pos": "pos_embed.W_pos", "W_U": "unembed.W_U"}
        for name, weight in torch.load(self.weights, weights_only=True).items():
            target = names.get(name, f"blocks.{name}")
            assert state[target].shape == weight.shape, name
            state[target] = weight
        self.model.load_state_dict(state, strict=False)
        for option in ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in"):
            setattr(self.model.cfg, option, True)
        self.model.cfg.ungroup_grouped_query_attention = True
        self.graph = graph.Graph.from_model(self.model)
        everywhere = torch.ones(BATCH, N_POS, dtype=torch.long)
        given = lambda _, tokens, *__: (tokens, everywhere, everywhere.sum(1), N_POS)  # noqa: E731
        attribute.tokenize_plus = utils.tokenize_plus = given
        self.attribute = attribute

    def logits(self) -> Any:
        return self.model(self.tokens)[:, -1]

    def scores(self, steps: int) -> Any:
        metric = lambda logits, *_: (logits[:, -1, ANSWER] - logits[:, -1, WRONG]).mean()  # noqa: E731
        data = [(self.tokens, self.corrupted, None)]
        if steps == 1:
            scores = self.attribute.get_scores_eap(self.model, self.graph, data, metric, quiet=True)
        else:
            scores = self.attribute.get_scores_eap_ig(self.model, self.graph, data, metric, steps=steps, quiet=True)
        return scores * BATCH  # they divide by the number of examples, and our metric is a mean already

    def from_heads_to_queries(self) -> Any:
        scores, nodes, graph = self.scores(1), self.graph.nodes, self.graph
        found = []
        for i, g, j, h in PAIRS:
            sender, receiver = nodes[f"a{i}.h{g}"], nodes[f"a{j}.h{h}"]
            found.append(scores[graph.forward_index(sender, False), graph.backward_index(receiver, "q", False)])
        return self.torch.stack(found)


SYSTEMS: dict[str, type[Ours]] = {"ours": Ours, "authors": Authors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, nargs="?", help="a clone of hannamw/EAP-IG")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions; the table shows medians (default 5)")
    parser.add_argument("--smollm2", action="store_true", help="time and memory on SmolLM2, and nothing else")
    parser.add_argument("--serve", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(SYSTEMS[args.serve](args.folder))
    if args.smollm2:
        return smollm2()
    python = LIBRARIES["peers"] / "bin/python"
    if not python.exists():
        sys.exit("TransformerLens 3.9 is not installed; `make peers` does that")
    if args.clone is None or not (args.clone / "src/eap/attribute.py").exists():
        sys.exit("name a clone of the authors' code: git clone https://github.com/hannamw/EAP-IG")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        (Path(folder) / "clone").write_text(str(args.clone.resolve()))
        compare(Path(folder), python, args.rounds)


def compare(folder: Path, python: Path, rounds: int) -> None:
    mine = Worker("ours", Path(sys.executable), folder, __file__)
    ours = mine.ask_fork("results")  # it has written the weights by now
    peer = Worker("authors", python, folder, __file__)
    require_same(ours, peer.ask_fork("results"), "the authors' code")
    rows = []
    for task, text in TASKS.items():
        cpu, memory = measure_task([mine, peer], task, 3, rounds)
        rows.append(beside(text, cpu, memory, "authors"))
    print()
    table(["CPU time", "ours", "the authors'", "the authors' / ours", "memory, ours", "the authors'"], rows)
    mine.close()
    peer.close()


def smollm2() -> None:
    """Print what edge attribution takes on SmolLM2 in all, with 32 prompts of 16 tokens: CPU seconds, peak memory."""
    import torch

    from residual import smollm2 as pretrained
    from residual.methods.edges import edge_attribution

    torch.set_num_threads(1)
    model, _ = pretrained()
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    tokens, corrupted = torch.randint(model.config.d_vocab, (2, 32, 16), generator=generator)
    start = time.process_time()
    for clean, other in zip(tokens.split(8), corrupted.split(8), strict=True):
        edge_attribution(model, clean, other, lambda logits: (logits[:, 1] - logits[:, 2]).mean())
    took = time.process_time() - start
    print(f"SmolLM2, 32 × 16 tokens, 70,651 edges: {took:.1f} s of CPU, {peak_memory() / 1000:.1f} GB at most")


if __name__ == "__main__":
    main()
