"""Executes notebooks, checks the numbers in the notes against them, and weaves both into pages.

Seven rooms, each importing only rooms named before it, and `cli.py` on top:

    source   reads the repository: Markdown, front matter, names, problems
    run      turns notebooks into results
    note     turns one note into HTML and a list of facts
    book     holds all notes and results, and says what is wrong
    site     shows the book as a finished site, through MkDocs
    serve    shows it to its author while it changes
    author   writes files: the author's commands, each file named after its command

Where to look:

    a number `[0.97](#=score)` is read and compared          note/links.py, Links.claim; note/numbers.py, holds
    a value is published by a notebook                       run/claim.py
    what a notebook reads is recorded                        run/recorder.py; declared with `reads`: run/reads.py
    a link, or a wiki link `[[name]]`, becomes an address    note/links.py, Links.link and Links.term (which page a
                                                             name means: source/names.py)
    an exercise that the reader's browser checks             note/labs.py; note/session.py runs its check
    a cell is embedded; a new kind of embed goes             note/embeds.py, Embeds.embed
    why a notebook's result is stale                         run/store.py, Store.reasons
    everything that is wrong, for all commands               book/problems.py
    when a page has to be rendered again                     book/asked.py
    one build, for `weave check` and `weave serve`           site/build.py; `mkdocs build` calls site/plugin.py
    a file is saved under `weave serve`                      serve/watch.py, Watcher; serve/preview.py, refresh
    another site generator                                   write another site/ and serve/, the only ones that import
                                                             MkDocs; book/markdown.py shows how little that takes
"""

from weave.run.claim import claim
from weave.run.reads import reads

__all__ = ["claim", "reads"]
