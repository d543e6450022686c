r"""TeX that is taken for text: a dollar that begins no formula, ``\(x\)``, ``\begin{align}`` outside of dollars.

A page would show it raw. Prices, ``$HOME`` and dollars with a backslash before them are text, and stay.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from itertools import pairwise

from weave.source.markdown import tokens
from weave.source.tokens import blanked

_HIDDEN = ("front", "fence", "code", "math", "comment", "tag", "address", "definition", "escape")
_PARAGRAPH = re.compile(r"(?:[^\n]*[^\s>\0][^\n]*(?:\n|$))+")
_DOLLAR = re.compile(r"\$")
_TEX = re.compile(r"[\\^{}]|_\w|[A-Za-z]_|[=<>]")  # between two dollars, and in no price
_SYMBOL = re.compile(r"\s*[A-Za-zΑ-ω]\w?'*\s*(?:[-+*/,|()\[\]]\s*[\w()]{0,3}'*\s*)*")  # x, ab, x + 1, f(x)
_WORDS = re.compile(r"[A-Za-z]{3,}")
_PRICE = re.compile(r"\$\s?\d[\d.,]*(?![\w^]*[\\^_])|\$\(|\${|\$(?:[A-Za-z]{2}\w*|_[A-Za-z]*\b)|\$[?!@#*\d]")
_BEGUN = re.compile(r"\$(?:\\[A-Za-z]|[A-Za-z](?:[\s.,;:)^_=+(-]|$)|[A-Za-z\d]*[\^_]\{?\w)")
_ENDED = re.compile(r"(?:(?<=\s)|^)(?:[A-Za-z]|\S*[\\^]\S*)\$(?![\w$])", re.MULTILINE)
_BEGIN = re.compile(r"\\(?:begin|end)\{\w+\*?\}")
_DOUBLE = re.compile(r"\\\\\((?=[^\n]*\\\\\))|^[ >]*\\\\\[[ ]*$", re.MULTILINE)


def find(text: str, code: Container[int]) -> Iterator[tuple[int, str]]:
    """Yield the line of each piece of TeX that is shown as text, and what to do.

    Args:
        text: A Markdown source.
        code: The lines of code that has no fence.
    """
    spans = [(token.start, token.end) for token in tokens(text, *_HIDDEN)]
    spans += [token.parts["target"] for token in tokens(text, "link", "image") if "target" in token.parts]
    prose = blanked(text, spans, "\0")
    found = [*_dollars(prose), *_brackets(text, prose)]
    for match in _BEGIN.finditer(prose):
        if match[0].startswith("\\begin"):
            what = "stands outside of a formula; put $$ above it and $$ below its end"
            found.append((match.start(), f"{match[0]} {what}"))
    told: set[int] = set()
    for at, message in sorted(found):
        line = text.count("\n", 0, at) + 1
        if line not in code and line not in told:
            told.add(line)
            yield line, message


def _dollars(prose: str) -> Iterator[tuple[int, str]]:
    advice = r"write $x$ with no blank inside and no letter or digit beside it, $`x`$ within a word, or \$ for a dollar"
    for paragraph in _PARAGRAPH.finditer(prose):
        start, words = paragraph.start(), paragraph[0]
        places = [match.start() for match in _DOLLAR.finditer(words)]
        used = -1
        for at, end in pairwise(places):
            if at > used and _is_tex(words, at, end):
                used = end
                shown = " ".join(words[at : end + 1].split())
                yield start + at, f"{shown} is shown with its dollars; {advice}"
        for at in places:
            if at > used and (_BEGUN.match(words, at) and not _PRICE.match(words, at)):
                yield start + at, f"no dollar ends the formula that begins here; {advice}"
        for match in _ENDED.finditer(words):
            if match.end() - 1 > used and match.end() - 1 in places:
                yield start + match.start(), f"no dollar begins the formula that ends here; {advice}"


def _is_tex(words: str, at: int, end: int) -> bool:
    """Return whether what is between two dollars looks like a formula."""
    inside = words[at + 1 : end]
    rest = re.sub(r"\\[A-Za-z]+(?:\{[^{}]*\})*", "", inside)
    if not inside.strip() or "\0" in inside or _PRICE.match(words, at):
        return rest != inside and not _WORDS.search(rest)
    if _SYMBOL.fullmatch(inside):
        return True
    return bool(_TEX.search(inside)) and not (_WORDS.search(rest) and " " in rest.strip())


def _brackets(text: str, prose: str) -> Iterator[tuple[int, str]]:
    r"""Yield ``\(`` with its ``\)``, and ``\[`` with its ``\]`` if what is between looks like TeX."""
    opened: dict[str, int] = {}
    for token in tokens(text, "escape"):
        sign = token["body"]
        if sign in "([":
            opened[sign] = token.start
        elif sign in ")]" and (start := opened.pop({")": "(", "]": "["}[sign], None)) is not None:
            inside = text[start + 2 : token.start]
            line = text[text.rfind("\n", 0, start) + 1 : start]
            alone = not line.strip(" >") and not text[token.end :].partition("\n")[0].strip(" .,;")
            tex = re.search(r"[\\^{}=]|\w_\w|^\s*\w\s*$", inside) or (alone and "\n" in inside)
            if "\n\n" not in inside and (sign == ")" or tex) and text[token.end : token.end + 1] not in ("(", "["):
                written, instead = (r"\(…\)", "$x$") if sign == ")" else (r"\[…\]", "$$ on lines of their own")
                yield start, f"{written} is no formula here, and is shown without its backslashes; write {instead}"
    for match in _DOUBLE.finditer(text):
        if prose[match.start()] == "\0" and match[0].strip(" >").startswith("\\\\"):
            yield match.start(), r"\\( is no formula here; write $x$"
