"""`weave fix`: stale claims rewritten to what the notebooks computed."""

from __future__ import annotations

import io
import posixpath
import re

from weave.book.book import Book
from weave.note import numbers
from weave.note.page import Claim
from weave.source.problem import say

_CLAIM_LINK = re.compile(
    r"\[(?P<text>[^\[\]]*)\](?P<target>\(\s*<?(?P<notebook>[^()<>#?]*)(?:\?\w+)?#=(?P<name>\w+)[^()]*\))"
)


def rewritten(site: Book, path: str, stale: list[Claim]) -> tuple[str, str]:
    """A page's text before and after its stale claims are made true."""
    before = (site.layout.root / path).read_bytes().decode()
    lines = list(io.StringIO(before, newline=""))  # whatever ends them, it stays
    for claim in dict.fromkeys(one for one in stale if one.page == path):
        written = numbers.read(claim.text)
        assert written is not None
        new = numbers.rewrite(written, claim.value)

        def replace(link: re.Match[str], claim: Claim = claim, new: str = new) -> str:
            notebook = posixpath.normpath(
                posixpath.join(posixpath.dirname(path), link["notebook"] or posixpath.basename(path))
            )
            cites = (posixpath.splitext(notebook)[0] + ".py", link["name"]) == (claim.notebook, claim.name)
            return f"[{new}]{link['target']}" if cites and link["text"].strip() == claim.text else link[0]

        row = claim.line - 1
        rewritten = _CLAIM_LINK.sub(replace, lines[row])
        if rewritten == lines[row]:
            say(f"{path}:{claim.line}: cannot find '{claim.text}' on this line to rewrite it; make it {new} by hand")
        lines[row] = rewritten
    return before, "".join(lines)
