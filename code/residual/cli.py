"""The command line: ``residual train``, ``residual measure``, ``residual list``, ``residual show``."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from residual.errors import nearest
from residual.experiments import measure as measurements
from residual.experiments import run as experiments
from residual.files import cards, checkpoints, results

DEFINE_KINDS = ("residual.files.checkpoints", "residual.methods.tuned_lens")
"""The modules of this library that add to ``checkpoints.KINDS``. ``residual show`` imports them all."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train the small models of the notes, run the long measurements, and look at the results.

    \b
    residual list            experiments and measurements, and which of them are done
    residual train gpt       train a model; if killed, run the same command again to resume
    residual measure NAME    measure a table that would take a notebook too long to compute
    residual show gpt        a card: config, data, losses, versions, hash
    """


@main.command("train")
@click.argument("name")
@click.option("--steps", type=click.IntRange(1), help="Override the experiment's steps; saved as NAME-stepsN.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 2),
    help="Seed of the initial weights and of nothing else: a step draws the same batch whatever the seed. "
    "Saved as NAME-seedN.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the checkpoint.  [code/checkpoints]"
)
@click.option(
    "--accumulate",
    type=click.IntRange(1),
    default=1,
    help="Compute each batch in this many parts, to save memory.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: a GPU if there is one.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads. The same number gives the same bits.")
@click.option("--bf16", is_flag=True, help="Compute in bfloat16 wherever PyTorch's autocast does.")
@click.option("--compile", "compiled", is_flag=True, help="Use torch.compile; worth it for long runs on a GPU.")
@click.option("--full", is_flag=True, help="Save the weights as float32 instead of rounding them to float16.")
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
    """Train the experiment NAME; write weights and card, including those of its stages.

    A progress bar shows loss and tokens per second. The state is saved every hundred steps: if the run is killed, the
    same command resumes from there and ends with the same weights, bit for bit.

    Several processes can share each batch; the losses are the same up to rounding:

    \b
    torchrun --nproc-per-node 2 -m residual.cli train NAME
    """
    if threads:
        torch.set_num_threads(threads)
    try:
        run = experiments.run(
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
    if run.card.sha256:
        path = (out or checkpoints.FOLDER) / f"{run.card.name}.safetensors"
        click.echo(f"{path}: {', '.join([_steps(run.card), *_main_number(run.card, 4)])}")


@main.command("measure")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the result.  [code/results]")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
def measure(name: str, out: Path | None, threads: int | None) -> None:
    """Run the measurement NAME; write its numbers and a card with command, versions and seconds.

    A notebook that reads the numbers recomputes a few of them and compares: see residual.experiments.measure.
    """
    if threads:
        torch.set_num_threads(threads)
    try:
        path = measurements.measure(name, folder=out or results.FOLDER)
    except KeyError as problem:
        raise click.ClickException(problem.args[0]) from None
    except (ValueError, ModuleNotFoundError, OSError) as problem:
        raise click.ClickException(str(problem)) from None
    click.echo(f"{path}: {_summary(path)[0]}")


OUT = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder to look in.  [code/checkpoints, code/results]",
)


@main.command("list")
@OUT
def list_(out: Path | None) -> None:
    """List the experiments and measurements, and the existing checkpoints and results."""
    files, plans = _files(out), _plans()
    names = [*plans, *sorted(files.keys() - plans.keys())]
    for name in names:
        status = "not measured" if name in measurements.MEASUREMENTS else "not trained"
        about = plans[name].about if name in plans else ""
        if name in files:
            try:
                status, card_about = _summary(files[name])
                about = about or card_about
            except (checkpoints.CheckpointError, OSError) as problem:
                status, about = "damaged", str(problem)
        click.echo(f"{name:{max(map(len, names))}} {status:28} {about}")


@main.command()
@click.argument("name")
@OUT
def show(name: str, out: Path | None) -> None:
    """Print the card of the experiment or measurement NAME, or its settings if it was never run. Verifies the file."""
    files, plans = _files(out), _plans()
    try:
        if name in files:
            card = cards.read_any(files[name])
            described = _checkpoint(files[name], card) if isinstance(card, cards.Card) else _result(files[name])
            click.echo("\n".join(described))
        elif name in plans:
            verb, done = ("measure", "measured") if name in measurements.MEASUREMENTS else ("train", "trained")
            click.echo(f"{name}: not {done}; residual {verb} {name}\n{plans[name].about}")
            for key, value in vars(plans[name]).items():
                if key != "about":
                    click.echo(f"  {key:14} {getattr(value, '__name__', value)}")
        else:
            raise click.ClickException(f"no experiment and no checkpoint {name!r}; {nearest(name, {*files, *plans})}")
    except (checkpoints.CheckpointError, OSError) as problem:
        raise click.ClickException(str(problem)) from None


# Files


def _plans() -> dict[str, experiments.Experiment | measurements.Measurement]:
    """Return everything that can be trained or measured, by name."""
    return {**experiments.EXPERIMENTS, **measurements.MEASUREMENTS}


def _files(out: Path | None) -> dict[str, Path]:
    """Return the files of checkpoints and results, by name."""
    folders = [out] if out else [checkpoints.FOLDER, results.FOLDER]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.safetensors"))}


def _summary(path: Path) -> tuple[str, str]:
    """Return a file's state in a few words and its subject, both from its card alone."""
    card = cards.read_any(path)
    if isinstance(card, cards.ResultCard):
        return f"measured in {card.seconds:.0f} s", card.about
    return ", ".join([_steps(card), *_main_number(card, 3)]), card.training.get("about", "")


def _checkpoint(path: Path, card: cards.Card) -> list[str]:
    """Return the lines that describe a checkpoint, after verifying its weights.

    The module of an unknown kind may be anywhere. Then the file is checked against its card, and the card is not
    checked.
    """
    for module in DEFINE_KINDS:
        importlib.import_module(module)
    if card.kind in checkpoints.KINDS:
        run = checkpoints.load(path)
        config, card = str(run.model.config), run.card
        parameters = f"{sum(weight.numel() for weight in run.model.parameters()):,} as {card.dtype}"
    else:
        weights = cards.read_tensors(path, card, dict.fromkeys(card.shapes, card.dtype))
        config = ", ".join(f"{key} {value}" for key, value in card.config.items())
        config += f" (kind {card.kind}, defined by {card.module or 'no module here'}: not checked)"
        parameters = f"{sum(weight.numel() for weight in weights.values()):,} as {card.dtype}, buffers included"
    drawn = [card.data or "no data", *([] if card.seed is None else [f"seed {card.seed}"]), _steps(card)]
    notes = {key: value for key, value in card.training.items() if key != "about" and value is not None}
    lines = [
        f"{card.name}: {card.training.get('about', '')}",
        f"  command      {card.command}",
        f"  config       {config}",
        f"  parameters   {parameters}; SHA-256 {card.sha256[:16]}…, verified",
        f"  data         {', '.join(drawn)}",
        "  training     " + ", ".join(f"{key} {value}" for key, value in notes.items()),
    ]
    if card.losses:
        lines.append(f"  losses       {card.losses[0]:.3f} {sketch(card.losses)} {card.losses[-1]:.3f}")
    for key, value in card.metrics.items():
        if isinstance(value, dict):
            value = "  ".join(f"{step}: {number:.3f}" for step, number in value.items())
        lines.append(f"  {key:12} {value}")
    return [*lines, "  versions     " + ", ".join(f"{key} {value}" for key, value in card.versions.items())]


def _result(path: Path) -> list[str]:
    """Return the lines that describe a result, after verifying its numbers."""
    values, card = results.load_result(path)
    return [
        f"{card.name}: {card.about}",
        f"  command      {card.command}",
        f"  file         SHA-256 {card.sha256[:16]}…, verified; measured in {card.seconds:.0f} s",
        *(f"  {name:20} {list(value.shape)}" for name, value in sorted(values.items())),
        "  settings     " + ", ".join(f"{key} {value}" for key, value in card.settings.items()),
        "  versions     " + ", ".join(f"{key} {value}" for key, value in card.versions.items()),
    ]


def sketch(values: Sequence[float], width: int | None = None) -> str:
    """Draw a curve as one line of text, ``▇▅▃▂▁``: means over equal stretches, scaled from lowest to highest."""
    width = min(width or max(20, shutil.get_terminal_size().columns - 30), len(values))
    means = [
        sum(part) / len(part)
        for i in range(width)
        if (part := values[i * len(values) // width : (i + 1) * len(values) // width])
    ]
    low, high = min(means), max(means)
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * (mean - low) / (high - low or 1)))] for mean in means)


def _steps(card: checkpoints.Card) -> str:
    return "steps unknown" if card.steps is None else f"{card.steps} steps"


def _main_number(card: checkpoints.Card, digits: int) -> list[str]:
    """Return the run's headline number with its name, in a list; an empty list if its card has none."""
    return [f"{name} {value:.{digits}f}" for name, value in card.metrics.items() if isinstance(value, float)][:1]


if __name__ == "__main__":
    main()
