"""The speed of the methods of `residual` beside the tools of TransformerLens 4.3, with the same weights, in one run.

    make .venv-peers43/.installed        once
    python benchmarks/methods.py         a few minutes on one core
    python benchmarks/methods.py --smollm2   what the methods cost on SmolLM2, beside its forward pass; no peer

Each system is a process of its own that computes on one thread, as in library.py, and each task runs in a fork. The
model is a GPT-2 of 4 layers, width 256, 8 heads and 512 tokens, with random weights; the batch is 4 × 16. Before
anything is timed, the results are compared: attributions, lens and edges as ours, to rounding.

- attribution  each head's part of a logit difference at the last position: `direct_logit_attribution`
- lens         the logits of every layer at every position: `logit_lens`
- edges        attribution patching of every edge: `attribution_patch`. Its edges are those of single positions, ours
               their sums; its gradient is of the corrupted run, so that its clean run is our corrupted one
- patched      the edges from head 0.1 to all later queries, each patched by itself: `get_act_patch_direct_path`
- heads        the output of one head at one position patched, for all of them: `get_act_patch_attn_head_out_by_pos`
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import Worker, beside, measure_task, median, require_same, seconds, serve, table, times
from peers import LIBRARIES
from systems import System

LAYERS, HEADS, WIDTH, VOCAB, BATCH, N_POS = 4, 8, 256, 512, 4, 16
ANSWER, WRONG = 3, 5
EDGES = [("0.1", f"{layer}.{head}.q") for layer in range(1, LAYERS) for head in range(HEADS)]
TASKS = {  # description, runs in each round
    "forward": ("forward", 9),
    "attribution": ("attribution to each head", 9),
    "lens": ("logit lens", 9),
    "edges": ("all edges, by attribution", 3),
    "patched": (f"{len(EDGES)} edges, each patched", 1),
    "heads": (f"patch sweep {LAYERS} × {HEADS} × {N_POS}", 1),
}


class Ours(System):
    def load(self) -> None:
        from residual.files.pretrained import load
        from residual.methods import attribution, edges, sweeps

        torch = self.torch
        self.attribution_, self.edges_, self.sweeps_ = attribution, edges, sweeps
        self.model = load(self.folder / "gpt2").requires_grad_(False)
        generator = torch.Generator().manual_seed(1)
        self.tokens = torch.randint(VOCAB, (BATCH, N_POS), generator=generator)
        self.corrupted = torch.randint(VOCAB, (BATCH, N_POS), generator=generator)

    def forward(self) -> Any:
        return self.model(self.tokens)

    def attribution(self) -> Any:
        terms = self.attribution_.decompose(self.model, self.tokens)
        return self.attribution_.attribute(terms, (ANSWER, WRONG)).heads[..., -1].flatten(0, 1)  # head batch

    def lens(self) -> Any:
        return self.attribution_.logit_lens(self.model, self.tokens)

    def edges(self) -> Any:
        metric = lambda logits: (logits[:, ANSWER] - logits[:, WRONG]).mean()  # noqa: E731
        return self.edges_.edge_attribution(self.model, self.tokens, self.corrupted, metric)

    def patched(self) -> Any:
        other, patch = self.edges_.written(self.model, self.corrupted), self.edges_.patch_edges
        runs = [self.model(self.tokens, tap=patch(self.model, [edge], other)) for edge in EDGES]
        return self.torch.stack([self.metric(logits) for logits in runs])

    def heads(self) -> Any:
        metric = lambda logits: (logits[:, ANSWER] - logits[:, WRONG]).mean()  # noqa: E731
        return self.sweeps_.patch_heads(self.model, self.corrupted, self.tokens, metric)

    def metric(self, logits: Any) -> Any:
        return (logits[:, -1, ANSWER] - logits[:, -1, WRONG]).mean()

    def measure(self, task: str, runs: int) -> dict[str, float]:
        work = getattr(self, task)
        with self.torch.set_grad_enabled(task == "edges"):
            start = time.process_time()
            for _ in range(runs):
                work()
            return {"cpu": (time.process_time() - start) / runs}

    def results(self) -> dict[str, Any]:
        """Return what is compared: numbers that every system has in the same order."""
        with self.torch.no_grad():
            values = {"attribution": self.attribution(), "lens": self.lens(), "patched": self.patched()}
            values |= {"heads": self.heads()}
        values["edges"] = self.edge_sums()
        return {name: value.flatten()[:4096].tolist() for name, value in values.items()}

    def edge_sums(self) -> Any:
        """Return the scores of the edges from heads to queries, by layer and head."""
        scores = self.edges()
        pairs = [(f"{i}.{g}", f"{j}.{h}.q") for i, j, g, h in self.pairs()]
        return self.torch.stack([scores[pair] for pair in pairs])

    def pairs(self) -> list[tuple[int, int, int, int]]:
        both = [(i, j) for i in range(LAYERS) for j in range(i + 1, LAYERS)]
        return [(i, j, g, h) for i, j in both for g in range(HEADS) for h in range(HEADS)]


class TransformerLens(Ours):
    def load(self) -> None:
        import transformers
        from tokenizers import Tokenizer, models
        from transformer_lens import patching
        from transformer_lens.model_bridge import TransformerBridge
        from transformer_lens.tools.analysis import attribution_patching, direct_logit_attribution, logit_lens

        self.patching, self.attribution_patching = patching, attribution_patching
        self.direct_logit_attribution, self.logit_lens = direct_logit_attribution, logit_lens
        torch, folder = self.torch, self.folder / "gpt2"
        if not folder.exists():
            torch.manual_seed(0)
            config = transformers.GPT2Config(
                n_layer=LAYERS, n_embd=WIDTH, n_head=HEADS, n_positions=64, vocab_size=VOCAB, initializer_range=0.1
            )
            transformers.GPT2LMHeadModel(config).save_pretrained(folder)
            words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCAB)}, unk_token="t0"))
            special = dict.fromkeys(["bos_token", "eos_token", "unk_token", "pad_token"], "t0")
            transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)

        def bridge() -> Any:
            model = transformers.GPT2LMHeadModel.from_pretrained(folder)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            return TransformerBridge.boot_transformers(
                str(folder), hf_model=model, tokenizer=tokenizer, device="cpu"
            ).eval()

        self.model, self.folded = bridge(), bridge()
        self.folded.enable_compatibility_mode(disable_warnings=True)  # which direct_logit_attribution asks for
        generator = torch.Generator().manual_seed(1)
        self.tokens = torch.randint(VOCAB, (BATCH, N_POS), generator=generator)
        self.corrupted = torch.randint(VOCAB, (BATCH, N_POS), generator=generator)

    def attribution(self) -> Any:
        result = self.direct_logit_attribution(
            self.folded, self.tokens, answer_tokens=ANSWER, incorrect_tokens=WRONG, unit="head"
        )
        return result.attribution[: LAYERS * HEADS]

    def lens(self) -> Any:
        return self.logit_lens(self.model, self.tokens, positions=None).values

    def edges(self) -> Any:
        config = self.attribution_patching.EdgeAttributionConfig(granularity="edge")
        return self.attribution_patching.attribution_patch(
            self.model, self.corrupted, self.tokens, self.metric, config
        ).edge_scores

    def edge_sums(self) -> Any:
        sums: dict[tuple[int, ...], float] = {}
        for (writer, reader), score in self.edges().items():
            if writer.kind == "attn_head_out" and reader.kind == "q_input":
                key = writer.layer, reader.layer, writer.head, reader.head
                sums[key] = sums.get(key, 0.0) + score
        return self.torch.tensor([sums[pair] for pair in self.pairs()])

    def patched(self) -> Any:
        (_, base), (_, other) = (self.model.run_with_cache(x) for x in (self.tokens, self.corrupted))
        results = self.patching.get_act_patch_direct_path(
            self.model, self.tokens, other, base, self.metric, 0, 1, "q", verbose=False
        )
        return results[1:]  # layer head

    def heads(self) -> Any:
        _, cache = self.model.run_with_cache(self.corrupted)
        results = self.patching.get_act_patch_attn_head_out_by_pos(self.model, self.tokens, cache, self.metric)
        return results.transpose(1, 2)  # layer head pos


SYSTEMS: dict[str, type[Ours]] = {"ours": Ours, "tl": TransformerLens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="repetitions; the table shows medians (default 5)")
    parser.add_argument("--peers43", type=Path, default=LIBRARIES["peers43"], help="TransformerLens 4.3's environment")
    parser.add_argument("--smollm2", action="store_true", help="time the methods on SmolLM2, and nothing else")
    parser.add_argument("--serve", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(SYSTEMS[args.serve](args.folder))
    if args.smollm2:
        return smollm2(args.rounds)
    python = args.peers43 / "bin/python"
    if not python.exists():
        sys.exit("TransformerLens 4.3 is not installed; `make peers` does that")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        compare(Path(folder), python, args.rounds)


def compare(folder: Path, python: Path, rounds: int) -> None:
    workers = {"tl": Worker("tl", python, folder, __file__)}
    theirs = workers["tl"].ask_fork("results")  # it has written the weights by now
    workers["ours"] = Worker("ours", Path(sys.executable), folder, __file__)
    mine = workers["ours"].ask_fork("results")
    require_same(mine, theirs, "TransformerLens")
    rows = []
    for task, (text, runs) in TASKS.items():
        cpu, memory = measure_task(list(workers.values()), task, runs, rounds if runs > 1 else 1)
        rows.append(beside(text, cpu, memory, "tl"))
    print()
    table(["CPU time", "ours", "TL 4.3", "TL 4.3 / ours", "memory, ours", "TL 4.3"], rows)
    for worker in workers.values():
        worker.close()


def smollm2(rounds: int) -> None:
    """Print the time of each method on SmolLM2 and 16 tokens, as a multiple of a forward pass; they take turns."""
    import torch

    from residual import record
    from residual import smollm2 as pretrained
    from residual.methods.attribution import attribute, decompose, logit_lens
    from residual.methods.edges import edge_attribution
    from residual.methods.linearise import linearise

    torch.set_num_threads(1)
    model, _ = pretrained()
    model.requires_grad_(False)
    tokens, corrupted = torch.randint(model.config.d_vocab, (2, 1, 16), generator=torch.Generator().manual_seed(0))
    tasks = {
        "forward": lambda: model(tokens),
        "forward, every activation recorded": lambda: model(tokens, tap=record()),
        "attribution to each head": lambda: attribute(decompose(model, tokens), (1, 2)),
        "… and source position": lambda: attribute(decompose(model, tokens, by="source"), (1, 2)),
        "… and neuron": lambda: attribute(decompose(model, tokens, neurons=range(30)), (1, 2)),
        "logit lens": lambda: logit_lens(model, tokens),
        "logit lens, last position": lambda: logit_lens(model, tokens, positions=-1),
        "linearised": lambda: model(tokens, tap=linearise(model, tokens)),
        "70,651 edges, by attribution": lambda: edge_attribution(
            model, tokens, corrupted, lambda logits: logits[0, 1] - logits[0, 2]
        ),
    }
    cpu: dict[str, list[float]] = {name: [] for name in tasks}
    with torch.no_grad():
        for number in range(rounds + 1):
            for name, task in tasks.items():
                start = time.process_time()
                task()
                if number:
                    cpu[name].append(time.process_time() - start)
    base = median(cpu["forward"])
    rows = [[name, seconds(median(values)), times(median(values) / base)] for name, values in cpu.items()]
    table(["SmolLM2, 16 tokens", "CPU time", "beside forward"], rows)


if __name__ == "__main__":
    main()
