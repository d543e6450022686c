"""The author's commands. Each imports what it needs when it is called, so that quick ones start quickly."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weave.author.completion import complete_note, complete_notebook
from weave.source.problem import Problem, Refused, nearest, say

if TYPE_CHECKING:
    from weave.book.book import Book
    from weave.run.notebook import Notebook


_OUT_OF_REACH = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


class _Commands(click.Group):
    """Shows a refusal as click shows its own errors."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Refused as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            if error.errno not in _OUT_OF_REACH:
                raise
            place = f"{error.filename}: " if error.filename else ""
            what = f"{place}{error.strerror}; nothing was half-written, say it again once that is mended"
            raise click.ClickException(what) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each command with its whole first sentence."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(1000)) for name, command in commands if command])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Execute notebooks, check the numbers in the notes against them, and rewrite stale ones."""


@main.command()
@click.option("--addr", default="127.0.0.1:8000", show_default=True, metavar="HOST:PORT", help="Where to serve.")
def serve(addr: str) -> None:
    """Serve the site while you write: pages change as files do, notebooks run on from the first cell that changed."""
    from weave.serve import server

    host, _, port = addr.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise Refused(f"'{addr}' is not an address; write it as 127.0.0.1:8000")
    server.serve(Path("mkdocs.yml"), host or "127.0.0.1", int(port))


@main.command()
@click.argument("notebooks", nargs=-1, shell_complete=complete_notebook)
@click.option("--force", is_flag=True, help="Run even what is up to date.")
def run(notebooks: tuple[str, ...], force: bool) -> None:
    """Run the notebooks whose inputs changed, or only those NAMED (zero_layer, or the path of its file).

    The output of a single one is shown as it appears.

    \b
    weave run
    weave run zero_layer --force
    """
    from weave.site.build import open_book

    book = open_book()
    if len(notebooks) == 1:
        book.on_output = _show_output
    book.execute(_paths(book, notebooks) if notebooks else None, force)
    fresh = sum(outcome.run is not None for outcome in book.outcomes.values())
    _end(book, f"{fresh} of {len(book.outcomes)} notebooks up to date")


@main.command()
@click.option("--force", is_flag=True, help="Build even if nothing changed.")
def build(force: bool) -> None:
    """Build the site into site/ if anything changed since the last time; any warning is an error."""
    from weave.site.unchanged import change

    why = "--force" if force else change(Path.cwd())
    if why is None:
        click.echo("nothing changed since the last build; weave build --force builds all the same")
        return
    click.echo(f"building the site: {why}", err=True)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "mkdocs", "build", "--strict"])


@main.command()
@click.argument("pages", nargs=-1, metavar="[NOTE]...", shell_complete=complete_note)
@click.option("--fresh", is_flag=True, help="Only say whether stored results are of today's inputs; execute nothing.")
def check(pages: tuple[str, ...], fresh: bool) -> None:
    """Check every claim, theorem, formula and link without building the site.

    Of a NOTE, or several, only their own notebooks run, and only their own problems are told.

    \b
    weave check zero-layer
    """
    from weave.author.completion import find_page
    from weave.book import stale
    from weave.book.problems import held, problems
    from weave.site.build import checked, notebooks_of, open_book
    from weave.source.layout import layout_here

    if fresh:
        _report(stale.problems(open_book()), "every notebook's result belongs to today's inputs")
        return
    only = {find_page(layout_here(), page) for page in pages}
    book = checked(only=only)
    if not only:
        return _end(book, held(book, book.pages))
    theirs = only.union(*(notebooks_of(book, page) for page in only))
    _report([problem for problem in problems(book) if problem.path in theirs], held(book, only))


@main.command()
def lint() -> None:
    """Find bare numbers in the prose that a notebook computed: to be made claims, or waved through."""
    from weave.book import lint
    from weave.site.build import checked

    _report(lint.problems(checked()), "no bare number equals a value that a notebook computed")


@main.command()
@click.argument("notebooks", nargs=-1)
@click.option("--twice", is_flag=True, help="Run a second time, and name the cells that then give something else.")
def verify(notebooks: tuple[str, ...], twice: bool) -> None:
    """Run all notebooks, or only those NAMED, without stored results, and check every claim against them.

    Stored results stay as they are.
    """
    from weave.book import verify
    from weave.site.build import build, configure

    site = configure(Path("mkdocs.yml"), "check")
    book = site.book
    chosen = _paths(book, notebooks)
    some = [notebook for notebook in book.notebooks() if notebook.path in chosen]
    verdict = verify.verify(book, some, lambda: build(site), twice)
    click.echo(verify.table(verdict))
    held = sum(claim.holds for claim in verdict.claims)
    _report(verdict.problems, f"{held} of {len(verdict.claims)} numbers hold" + ", and twice alike" * twice)


@main.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--short", is_flag=True, help="Also shorten links to a note's own notebook: [0.97](#=score).")
def fix(yes: bool, short: bool) -> None:
    """Show stale claims as a diff, then rewrite them to the values that the notebooks computed."""
    from weave.author import fix
    from weave.site.build import checked

    fix.fix(checked(), yes, short)


@main.command()
@click.argument("old", shell_complete=complete_note)
@click.argument("new")
@click.argument("title", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
def rename(old: str, new: str, title: str | None, yes: bool) -> None:
    """Rename the note OLD (tensor-products) to NEW, with its notebook, wherever they are named; give it a TITLE."""
    from weave.author import rename
    from weave.site.build import open_book

    rename.rename(open_book(), old, new, title, yes)


@main.command()
def todo() -> None:
    """List every open task (- [ ]) of the notes, the log and the pages, with its place."""
    from weave.author import todo
    from weave.source.layout import layout_here

    for task in todo.tasks(layout_here()):
        click.echo(task)


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
    from weave.author import new
    from weave.source.layout import layout_here

    _echo(new.new(layout_here(), title, part))


@main.command()
@click.argument("title", required=False)
def log(title: str | None) -> None:
    """Begin today's log entry, with what the last one left to do.

    \b
    weave log "Why the heads are silent"
    weave log                              asks for the title
    """
    from weave.author import log
    from weave.source.layout import layout_here

    _echo(log.begin(layout_here(), _title(title))[1])


@main.command()
@click.argument("title", required=False)
def start(title: str | None) -> None:
    """Begin a work session: the time goes into today's log entry.

    TITLE is for the entry if there is none yet; it is asked for if it is needed and not given.

    \b
    weave start
    weave start "Why the heads are silent"
    """
    from weave.author import log
    from weave.source.layout import layout_here

    _echo(log.start(layout_here(), _title(title, "there is no log entry for today yet; it is made now")))


@main.command()
def stop() -> None:
    """End the work session that is open, also one that began before midnight.

    \b
    weave stop
    """
    from weave.author import log
    from weave.source.layout import layout_here

    _echo(log.stop(layout_here()))


@main.command("next")
def next_() -> None:
    """Show what has waited longest: open tasks, drafts, notes not touched, stale notebooks.

    \b
    weave next
    """
    from weave.author import todo
    from weave.book import stale
    from weave.site.build import open_book

    book = open_book()
    _echo(todo.overview(book.layout, stale.reasons(book), shutil.get_terminal_size().columns))


@main.command()
def stale() -> None:
    """List the notebooks that would run now, and what changed.

    \b
    weave stale
    """
    from weave.book.stale import reasons
    from weave.site.build import open_book

    why_stale = reasons(open_book())
    _echo([f"{path}: {', '.join(why)}" for path, why in sorted(why_stale.items())] or ["nothing is stale"])


@main.command()
@click.argument("page", shell_complete=complete_note)
def snippets(page: str) -> None:
    """Run a note's Python snippets from top to bottom, in one namespace, as the tests do.

    \b
    weave snippets zero-layer
    weave snippets docs/notes/zero-layer.md
    """
    from weave.author import snippets
    from weave.author.completion import find_page
    from weave.source.front_matter import read
    from weave.source.layout import layout_here

    layout = layout_here()
    path = find_page(layout, page)
    count = 0

    def announce(line: int) -> None:
        nonlocal count
        count += 1
        click.secho(f"{path}:{line}", dim=True)

    problem = snippets.run_snippets(path, read(layout.root / path).replace("\r\n", "\n"), announce)
    if problem:
        click.echo(f"{problem.detail}{problem}", err=True)
        sys.exit(1)
    click.echo(f"{count} snippets ran" if count else f"{path} has no Python snippets")


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands, notes and notebooks, and how to put it to use.

    \b
    eval "$(weave completion bash)"        in ~/.bashrc
    eval "$(weave completion zsh)"         in ~/.zshrc, below compinit
    weave completion fish | source         in ~/.config/fish/config.fish
    """
    from weave.author import completion

    click.echo(completion.script(main, shell))


def _show_output(notebook: Notebook, number: int, output: dict[str, Any] | None) -> None:
    """Print a cell's output as it appears; figures by their kind."""
    if output is None:
        cell = notebook.code[number]
        place = f"{notebook.path}:{cell.line} {cell.name or ''}"
        click.secho(f"{place} ({number + 1} of {len(notebook.code)})", dim=True)
    elif output["output_type"] == "stream":
        click.echo(output["text"], nl=False)
    elif output["output_type"] != "error":  # errors are reported at the end, with their place
        pictures = [kind for kind in output["data"] if kind.startswith("image/")]
        click.echo(f"[{pictures[0]}]" if pictures else output["data"].get("text/plain", ""))


def _title(given: str | None, before_asking: str = "") -> Callable[[], str]:
    """Return a function that returns the title given, or asks for one."""

    def title() -> str:
        if before_asking:
            click.echo(before_asking)
        return given or click.prompt("title of today's entry")

    return title


def _paths(book: Book, names: tuple[str, ...]) -> set[str]:
    """Return the paths of the notebooks of these names, or of all if there are no names."""
    paths = {Path(notebook.path).stem: notebook.path for notebook in book.notebooks()}
    for name in names:
        if Path(name).stem not in paths:
            raise Refused(f"no notebook '{name}' in {book.layout.notebooks}; {nearest(name, paths)}")
    return {paths[Path(name).stem] for name in names} or set(paths.values())


def _echo(lines: list[str]) -> None:
    for line in lines:
        click.echo(line)


def _end(book: Book, good: str) -> None:
    from weave.book.drafts import drafts
    from weave.book.problems import problems

    _report(problems(book), good, book.drafts | drafts(book.layout))


def _report(problems: list[Problem], good: str, unpublished: Collection[str] = ()) -> None:
    """Print every problem and exit, or print that all is good; problems of drafts do not count."""
    counted = [problem for problem in problems if problem.path not in unpublished]
    for problem in problems:
        mark = "" if problem in counted else "draft: "
        say(f"{mark}{problem.with_detail}")
    if counted:
        say(f"{len(counted)} problem{'s' * (len(counted) > 1)}")
        sys.exit(1)
    click.echo(good)


if __name__ == "__main__":
    main()
