"""On the command line: ``residual train``, ``residual list``, ``residual show``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from residual.errors import nearest
from residual.experiments import run as experiments
from residual.files import checkpoints


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train the small models of the notes, and look at what was trained.

    \b
    residual list            which experiments there are, and which are trained
    residual train gpt       train one; kill it and say it again: it goes on where it was
    residual show gpt        its card: config, data, losses, versions, hash
    """


@main.command("train")
@click.argument("name")
@click.option("--steps", type=click.IntRange(1), help="Other than the experiment's; kept as NAME-stepsN.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 2),
    help="Of the weights before training; kept as NAME-seedN.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the checkpoint.  [code/checkpoints]"
)
@click.option(
    "--accumulate", type=click.IntRange(1), default=1, help="Compute each batch in so many turns: less memory."
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="A GPU where there is one, if not given.")
@click.option("--threads", type=click.IntRange(1), help="Of the CPU. The same number gives the same bits.")
@click.option("--bf16", is_flag=True, help="Compute in bfloat16 where torch thinks it safe (autocast).")
@click.option("--compile", "compiled", is_flag=True, help="Use torch.compile; pays off in long runs on a GPU.")
@click.option("--full", is_flag=True, help="Keep weights as float32; they are rounded to float16 otherwise.")
def train(
    name: str,
    steps: int | None,
    seed: int | None,
    out: Path | None,
    accumulate: int,
    device: str | None,
    threads: int | None,
    bf16: bool,
    compiled: bool,
    full: bool,
) -> None:
    """Train the experiment NAME; write weights and card, also of its stages.

    A progress bar shows loss and tokens per second. The state of a run is kept every hundred steps: after a kill, the
    same command goes on from there, to the same weights, bit for bit.

    Several processes share each batch, with the same losses to rounding:

    \b
    torchrun --nproc-per-node 2 -m residual.cli train NAME
    """
    if threads:
        torch.set_num_threads(threads)
    try:
        made = experiments.run(
            name,
            folder=out or checkpoints.FOLDER,
            steps=steps,
            seed=seed,
            accumulate=accumulate,
            device=device,
            bf16=bf16,
            compiled=compiled,
            dtype=torch.float32 if full else torch.float16,
        )
    except KeyError as problem:
        raise click.ClickException(problem.args[0]) from None
    except (ValueError, FloatingPointError, ModuleNotFoundError, OSError) as problem:
        raise click.ClickException(str(problem)) from None
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    if made.card.sha256:
        path = (out or checkpoints.FOLDER) / f"{made.card.name}.safetensors"
        click.echo(f"{path}: {made.card.steps} steps, {_main_number(made.card, 4)}")


@main.command("list")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of checkpoints.  [code/checkpoints]"
)
def list_(out: Path | None) -> None:
    """The experiments, and the checkpoints that are there."""
    folder = out or checkpoints.FOLDER
    there = {path.stem for path in folder.glob("*.safetensors")}
    for name in [*experiments.EXPERIMENTS, *sorted(there - experiments.EXPERIMENTS.keys())]:
        about = experiments.EXPERIMENTS[name].about if name in experiments.EXPERIMENTS else ""
        if name in there:
            try:
                card = checkpoints.read_card(folder / name)
                about = about or card.training.get("about", "")
                status = ", ".join(filter(None, [f"{card.steps} steps", _main_number(card, 3)]))
            except (checkpoints.CheckpointError, OSError) as problem:
                status, about = "damaged", str(problem)
        else:
            status = "not trained"
        click.echo(f"{name:12} {status:24} {about}")


@main.command()
@click.argument("name")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of checkpoints.  [code/checkpoints]"
)
def show(name: str, out: Path | None) -> None:
    """What is known of NAME: its card where it is trained, else what would be done. Verifies the weights."""
    folder = out or checkpoints.FOLDER
    if not (folder / f"{name}.safetensors").exists():
        if name not in experiments.EXPERIMENTS:
            known = {*experiments.EXPERIMENTS, *(path.stem for path in folder.glob("*.safetensors"))}
            raise click.ClickException(f"no experiment and no checkpoint {name!r}; {nearest(name, known)}")
        entry = experiments.EXPERIMENTS[name]
        click.echo(f"{name}: not trained; residual train {name}\n{entry.about}")
        for key, value in vars(entry).items():
            if key != "about":
                click.echo(f"  {key:14} {value}")
        return
    try:
        run = checkpoints.load(folder / name)
    except (checkpoints.CheckpointError, OSError) as problem:
        raise click.ClickException(str(problem)) from None
    card = run.card
    parameters = sum(weight.numel() for weight in run.model.parameters())
    click.echo(f"{card.name}: {card.training.get('about', '')}")
    click.echo(f"  command      {card.command}")
    click.echo(f"  config       {run.model.config}")
    click.echo(f"  parameters   {parameters:,} as {card.dtype}; SHA-256 {card.sha256[:16]}…, verified")
    click.echo(f"  data         {card.data}, seed {card.seed}, {card.steps} steps")
    told = {key: value for key, value in card.training.items() if key != "about" and value is not None}
    click.echo("  training     " + ", ".join(f"{key} {value}" for key, value in told.items()))
    if card.losses:
        click.echo(f"  losses       {card.losses[0]:.3f} {sketch(card.losses)} {card.losses[-1]:.3f}")
    for key, value in card.metrics.items():
        if isinstance(value, dict):
            value = "  ".join(f"{step}: {number:.3f}" for step, number in value.items())
        click.echo(f"  {key:12} {value}")
    click.echo("  versions     " + ", ".join(f"{key} {value}" for key, value in card.versions.items()))


def sketch(values: Sequence[float], width: int | None = None) -> str:
    """A curve in one line of text, ``▇▅▃▂▁``: means over equal stretches, from the lowest to the highest."""
    width = min(width or max(20, shutil.get_terminal_size().columns - 30), len(values))
    means = [
        sum(part) / len(part)
        for i in range(width)
        if (part := values[i * len(values) // width : (i + 1) * len(values) // width])
    ]
    low, high = min(means), max(means)
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * (mean - low) / (high - low or 1)))] for mean in means)


def _main_number(card: checkpoints.Card, digits: int) -> str:
    """The number that stands for a run, with its name; nothing if its card has none."""
    for name, value in card.metrics.items():
        if isinstance(value, float):
            return f"{name} {value:.{digits}f}"
    return ""


if __name__ == "__main__":
    main()
