"""Executes notebooks, checks the numbers in the notes against them, and weaves both into pages.

Seven rooms, each importing only rooms named before it, and `cli.py` on top:

    source   reads the repository: Markdown, front matter, names, problems
    run      turns notebooks into results
    note     turns one note into HTML and a list of facts
    book     holds all notes and results, and says what is wrong
    site     shows the book as a finished site, through MkDocs
    serve    shows it to its author while it changes
    author   writes files: the author's commands

A claim `[0.97](x.py#=score)` is read in note/extension.py (`_Weave.claim`), its number by note/numbers.py, and compared
with the value that run/claim.py published by `numbers.holds`; what is wrong is collected by book/book.py.
"""

from weave.run.claim import claim

__all__ = ["claim"]
