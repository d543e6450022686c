"""The one scanner of Markdown: `scan(text)` lists the parts of a source, and whoever reads sources filters that list.

===================  ====================================================================================
kind                 its parts (each a piece of the source; "" where the token has none)
===================  ====================================================================================
front                yaml, the lines between the two lines of dashes
fence                info, body
math                 tex, info of a fence; an unclosed one has no tex
code                 body, what is between the backticks
comment              body
escape               body, the character behind the backslash
tag                  of inline HTML, with its attributes
address              a bare address, or one in <…>
heading              marks (`##`, or the underline), text, attributes (`{ #id }`)
task                 mark (`x` or a blank), text (the first paragraph; the token ends with the list item)
link, image          text; target and title, or the id of a definition
definition           id, target
wiki                 target, words
citation             works, as in `@key, section 3; @other`
footnote             id
footnote definition  id, body
===================  ====================================================================================

Where Python-Markdown, as this site configures it, differs from CommonMark, the tokens are what it renders: a fence
needs its end, which is exactly as long as its beginning; of two nested links the outer one counts.
Indented code and blocks of HTML are scanned like other text, so that nothing an author wrote is overlooked.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from weave.source import blocks, fences, links, opaque
from weave.source.fences import FRONT, front_matter
from weave.source.tokens import Text, Token, blanked

__all__ = ["FRONT", "WIKI", "Token", "blanked", "front_matter", "outside_fences", "prose", "scan", "tokens"]

WIKI = r"\[\[(?P<inside>[^\[\]\n]*)\]\](?![(\[])"


@lru_cache(maxsize=512)
def scan(source: str) -> tuple[Token, ...]:
    """List all tokens of a source in the order of their places; one inside of another comes after it."""
    text = Text(source)
    fences.read(text)
    text.measure()
    opaque.read(text)
    blocks.read(text)
    links.read(text)
    return tuple(sorted(text.tokens, key=lambda token: (token.start, -token.end)))


def tokens(text: str, *kinds: str) -> Iterator[Token]:
    """Yield the tokens of these kinds."""
    return (token for token in scan(text) if token.kind in kinds)


def outside_fences(lines: list[str]) -> Iterator[tuple[str, int | None]]:
    """Yield each line with its number, or with None if it belongs to fenced code."""
    fenced = {row for fence in fences.fences(lines) for row in range(fence.first, fence.last + 1)}
    return ((line, None if row in fenced else row + 1) for row, line in enumerate(lines))


def prose(text: str) -> str:
    """Return the text with blanks in place of all fences, code, comments and escaped characters."""
    hidden = [*tokens(text, "fence", "code", "comment", "escape")]
    hidden += [token for token in tokens(text, "math") if "info" in token.parts]
    return blanked(text, [(token.start, token.end) for token in hidden])
