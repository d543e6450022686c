"""The author's commands: each a few lines, their work in modules of their own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import click

from weave.author import common as author
from weave.author import jupyter, unfinished
from weave.author import log as diary
from weave.author import new as scaffold
from weave.author import rename as renaming
from weave.author import snippets as rehearse
from weave.author import todo as todo_list
from weave.author.fix import rewritten
from weave.book import lint as linter
from weave.book import stale as freshness
from weave.book import verify as verification
from weave.book.book import Book
from weave.book.drafts import drafts
from weave.book.problems import problems
from weave.run.notebook import Notebook
from weave.run.store import write_whole
from weave.site.build import build, checked, configure, open_book
from weave.source.front_matter import read
from weave.source.problem import Problem, Refused, nearest, say


class _Commands(click.Group):
    """Shows what a command refuses as click shows its own errors."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Refused as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Execute notebooks, check what the notes say against them, and mend what went stale."""


@main.command()
@click.option("--addr", default="127.0.0.1:8000", show_default=True, metavar="HOST:PORT", help="Where to serve.")
def serve(addr: str) -> None:
    """Serve the site while you write: pages change as files do, notebooks run on from the first cell that changed."""
    from weave.serve import server as desk

    host, _, port = addr.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise click.ClickException(f"'{addr}' is no address; write it as 127.0.0.1:8000")
    desk.serve(Path("mkdocs.yml"), host or "127.0.0.1", int(port))


@main.command()
@click.argument("notebooks", nargs=-1, shell_complete=author.complete_notebook)
@click.option("--force", is_flag=True, help="Run even what is up to date.")
def run(notebooks: tuple[str, ...], force: bool) -> None:
    """Run the notebooks whose inputs changed, or only those NAMED (zero_layer, or the path of its file).

    What a single one gives out is shown as it appears.

    \b
    weave run
    weave run zero_layer --force
    """
    site = open_book()
    if len(notebooks) == 1:
        site.hear = _show_output
    site.execute(_paths(site, notebooks) if notebooks else None, force)
    fresh = sum(outcome.run is not None for outcome in site.outcomes.values())
    _end(site, f"{fresh} of {len(site.outcomes)} notebooks up to date")


@main.command()
@click.option("--fresh", is_flag=True, help="Only say whether stored results are of today's inputs; execute nothing.")
def check(fresh: bool) -> None:
    """Check every claim, theorem, formula and link without building the site."""
    if fresh:
        site = open_book()
        _tell(freshness.problems(site), "every notebook's result belongs to today's inputs")
        return
    site = checked()
    found = [claim for page in site.pages.values() for claim in page.claims]
    theorems = sum(len(page.theorems) for page in site.pages.values())
    _end(site, f"{len(found)} numbers hold, {theorems} references to theorems have a test, on {len(site.pages)} pages")


@main.command()
def lint() -> None:
    """Find bare numbers in the prose that a notebook computed: to be made claims, or waved through."""
    _tell(linter.problems(checked()), "no bare number equals a value that a notebook computed")


@main.command()
@click.argument("notebooks", nargs=-1)
@click.option("--twice", is_flag=True, help="Run a second time, and name the cells that then give something else.")
def verify(notebooks: tuple[str, ...], twice: bool) -> None:
    """Run all notebooks, or only those NAMED, without stored results, and hold every claim against what they compute.

    What is stored stays as it is.
    """
    whole = configure(Path("mkdocs.yml"), "check")
    site = whole.book
    chosen = _paths(site, notebooks)
    some = [one for one in site.notebooks() if one.path in chosen]
    verdict = verification.verify(site, some, lambda: build(whole), twice)
    click.echo(verification.table(verdict))
    held = sum(one.holds for one in verdict.claims)
    _tell(verdict.problems, f"{held} of {len(verdict.claims)} numbers hold" + ", and twice alike" * twice)


@main.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def fix(yes: bool) -> None:
    """Show stale claims as a diff, then rewrite them to what the notebooks computed."""
    site = checked()
    for outcome in site.outcomes.values():  # what they computed before is no reason to change a note
        for problem in outcome.problems:
            say(f"{problem} (claims of this notebook are left alone)")
    stale = [
        claim
        for page in site.pages.values()
        for claim in page.claims
        if not claim.holds and site.outcomes[claim.notebook].run
    ]
    changes = {path: rewritten(site, path, stale) for path in sorted({claim.page for claim in stale})}
    changes = {path: (before, after) for path, (before, after) in changes.items() if before != after}
    for path, (before, after) in changes.items():
        renaming.show_diff(path, before, after)
    if not changes:
        click.echo("no stale claims" if not stale else "nothing that could be rewritten")
        return
    if not yes and not click.confirm(f"rewrite {len(changes)} file{'s' * (len(changes) > 1)}?"):
        return
    for path, (before, after) in changes.items():
        target = site.layout.root / path
        if target.read_bytes() != before.encode():
            raise click.ClickException(f"{path} was edited in the meantime and is left alone; run weave fix again")
        write_whole(target, after.encode())


@main.command()
@click.argument("old", shell_complete=author.complete_note)
@click.argument("new")
@click.argument("title", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
def rename(old: str, new: str, title: str | None, yes: bool) -> None:
    """Rename the note OLD (tensor-products) to NEW, with its notebook, wherever they are named; give it a TITLE."""
    renaming.rename(open_book(), old, new, title, yes)


@main.command()
def todo() -> None:
    """List every open task (- [ ]) of the notes, the log and the pages, with its place."""
    for item in todo_list.items(open_book().layout):
        click.echo(item)


@main.command()
@click.argument("title")
@click.option("--part", help="The part of the navigation to put it into.  [the last that has notes]")
def new(title: str, part: str | None) -> None:
    """Begin a note: its Markdown, its notebook, its lines in mkdocs.yml.

    It is a draft, shown by weave serve and left out of the build, until "draft: true" is taken out of it.

    \b
    weave new "Attention sinks"
    weave new "Attention sinks" --part "A mathematical framework"
    weave run attention_sinks && weave check
    """
    for line in scaffold.new(author.layout(), title, part):
        click.echo(line)


@main.command("log")
@click.argument("title", required=False)
def log_(title: str | None) -> None:
    """Begin today's log entry, with what the last one left to do.

    \b
    weave log "Why the heads are silent"
    weave log                              asks for the title
    """
    _, said = diary.begin(author.layout(), _title(title))
    for line in said:
        click.echo(line)


@main.command()
@click.argument("title", required=False)
def start(title: str | None) -> None:
    """Begin a work session: the time goes into today's log entry.

    TITLE is for the entry where there is none yet; it is asked for if it is needed and not given.

    \b
    weave start
    weave start "Why the heads are silent"
    """

    def asked() -> str:
        click.echo("there is no log entry for today yet; it is made now")
        return _title(title)()

    for line in diary.start(author.layout(), asked):
        click.echo(line)


@main.command()
def stop() -> None:
    """End the work session that is open, also one that began before midnight.

    \b
    weave stop
    """
    for line in diary.stop(author.layout()):
        click.echo(line)


@main.command("next")
def next_() -> None:
    """Show what has waited longest: open tasks, drafts, notes not touched, stale notebooks.

    \b
    weave next
    """
    site = open_book()
    for line in unfinished.overview(site.layout, unfinished.why_stale(site), shutil.get_terminal_size().columns):
        click.echo(line)


@main.command()
def stale() -> None:
    """List the notebooks that would run now, and what changed.

    \b
    weave stale
    """
    site = open_book()
    found = unfinished.why_stale(site)
    for path, why in sorted(found.items()):
        click.echo(f"{path}: {', '.join(why)}")
    if not found:
        click.echo("nothing is stale")


@main.command()
@click.argument("page", shell_complete=author.complete_note)
def snippets(page: str) -> None:
    """Run a note's Python snippets from top to bottom, in one namespace, as the tests do.

    \b
    weave snippets zero-layer
    weave snippets docs/notes/zero-layer.md
    """
    place = author.layout()
    path = author.page(place, page)
    count = 0

    def announce(line: int) -> None:
        nonlocal count
        count += 1
        click.secho(f"{path}:{line}", dim=True)

    problem = rehearse.run_snippets(path, read(place.root / path).replace("\r\n", "\n"), announce)
    if problem:
        click.echo(f"{problem.detail}{problem}", err=True)
        sys.exit(1)
    click.echo(f"{count} snippets ran" if count else f"{path} has no Python snippets")


@main.command("open")
@click.argument("notebook", shell_complete=author.complete_notebook)
def open_(notebook: str) -> None:
    """Open a notebook in JupyterLab, or else in VS Code. It stays the Python file that it is.

    \b
    weave open zero_layer
    """
    place = author.layout()
    sys.exit(jupyter.open_in_jupyter(place, author.notebook(place, notebook)))


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands, notes and notebooks, and how to put it to use.

    \b
    eval "$(weave completion bash)"        in ~/.bashrc
    eval "$(weave completion zsh)"         in ~/.zshrc, below compinit
    weave completion fish | source         in ~/.config/fish/config.fish
    """
    click.echo(author.completion(main, shell))


def _show_output(notebook: Notebook, number: int, output: dict[str, Any] | None) -> None:
    """What a cell gives out, as it appears; figures by their kind."""
    if output is None:
        name = notebook.code[number].name or ""
        click.secho(
            f"{notebook.path}:{notebook.code[number].line} {name} ({number + 1} of {len(notebook.code)})", dim=True
        )
    elif output["output_type"] == "stream":
        click.echo(output["text"], nl=False)
    elif output["output_type"] != "error":  # which is told at the end, with its place
        pictures = [kind for kind in output["data"] if kind.startswith("image/")]
        click.echo(f"[{pictures[0]}]" if pictures else output["data"].get("text/plain", ""))


def _title(given: str | None) -> Callable[[], str]:
    return lambda: given or click.prompt("title of today's entry")


def _paths(site: Book, names: tuple[str, ...]) -> set[str]:
    """The notebooks of these names, or all."""
    paths = {Path(one.path).stem: one.path for one in site.notebooks()}
    for name in names:
        if Path(name).stem not in paths:
            raise click.ClickException(f"no notebook '{name}' in {site.layout.notebooks}; {nearest(name, paths)}")
    return {paths[Path(name).stem] for name in names} or set(paths.values())


def _end(site: Book, good: str) -> None:
    _tell(problems(site), good, drafts(site.layout))


def _tell(found: list[Problem], good: str, unpublished: Collection[str] = ()) -> None:
    """Say every problem; those of drafts do no harm."""
    problems = [problem for problem in found if problem.path not in unpublished]
    for problem in found:
        mark = "" if problem in problems else "draft: "
        say(mark + str(problem) + ("\n\n" + problem.detail + "\n" if problem.detail else ""))
    if problems:
        say(f"{len(problems)} problem{'s' * (len(problems) > 1)}")
        sys.exit(1)
    click.echo(good)


if __name__ == "__main__":
    main()
