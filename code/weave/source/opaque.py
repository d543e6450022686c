"""The scanner's second pass: code, comments, formulas, tags, addresses, escaped characters.

No other syntax looks into them. A dollar is TeX by Pandoc's rules, made a little stricter.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from weave.source.tokens import Text

_OPAQUE = re.compile(
    r"""
    (?=[\\<\]`$]|https?:|^[ >]*\[) (?:                                          # most characters are none of these
    (?P<escape>\\[!-/:-@\[-`{-~])
  | (?P<comment><!--)
  | (?P<tag></?[A-Za-z][\w:-]*(?:\s+[\w:@.-]+(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'=<>`]+))?)*\s*/?>)
  | (?P<address><[A-Za-z][A-Za-z0-9+.-]*:[^\s<>]*> | <[^\s<>!@]+@[^\s<>@]+> | \bhttps?://[^\s<>\])]+)
  | (?P<skipped>
        \\[\s\S]
      | \]\([ ]*(?:<[^<>\n]*>|(?:\\.|[^()\s\\]|\([^()\s]*\))*)                # where a link leads
      | ^[ >]*\[[^\]^\n][^\]\n]*\]:[ ]*\S+                                    # definition of a link
    )
  | (?P<ticks>`+)
  | (?P<dollars>\$`{1,2}(?!`)|\$+)
    )""",
    re.MULTILINE | re.VERBOSE,
)
_CODE = re.compile(r"(`+)(?P<body>.+?)(?<!`)\1(?!`)", re.DOTALL)  # as Python-Markdown has it
_CLOSING_DISPLAY = re.compile(r"((?:\\[\s\S]|[^\\])*?)\$\$")
# What looks like a formula between two dollars and is none: ${HOME}:$ and "$5 and 10$"
_NOT_TEX = re.compile(r"\{\w{2,}\}|\d[\d.,]*\s+(?:[A-Za-z]{2,}|\|)")
_PIECE = re.compile(r"\\[\s\S]|[`{}$]")
_NO_CLOSER = re.compile(r"(?!(?:st|nd|rd|th|s)\b)\w|\$")  # $HOME:$PATH is no formula, the $k$th is


def read(text: Text) -> None:
    """Read what no other syntax looks into, from left to right."""
    hidden, opaque = [], []  # comments may separate paragraphs, the rest does not
    position = 0
    while match := _OPAQUE.search(text.seen, position):
        start, position = match.span()
        kind = match.lastgroup or ""
        if kind == "comment":
            line = text.starts[bisect_right(text.starts, start) - 1]
            is_block = start - line <= 3 and not text.seen[line:start].strip()
            close = text.seen.find("-->", position, len(text.seen) if is_block else text.extent(start))
            if close >= 0:
                position = close + 3
                text.add("comment", start, position, body=(start + 4, close))
                hidden.append((start, position))
        elif kind == "ticks":
            code = _CODE.match(text.seen, start, text.extent(start))
            if code and (code[1] == match[0] or "$" not in code["body"]):  # ``a` is `a, unless a formula is first
                position = code.end()
                text.add("code", start, position, body=code.span("body"))
                opaque.append((start, position))
        elif kind == "dollars":
            position = _read_math(text, match)
            if position > match.end():
                opaque.append((start, position))
        elif kind != "skipped":
            text.add(kind, start, position, **({"body": (start + 1, position)} if kind == "escape" else {}))
            opaque.append((start, position))
    text.hide(hidden, " ")
    text.hide(opaque)
    if hidden:
        text.tokens = [token for token in text.tokens if not any(a < token.start < b for a, b in hidden)]


def _read_math(text: Text, match: re.Match[str]) -> int:
    """Read a formula that begins with these dollars; return where scanning goes on."""
    seen, delimiter, start, end = text.seen, match[0], match.start(), match.end()
    after_word = seen[start - 1 : start].isalnum()
    if delimiter == "$":
        close = -1 if after_word else _closing_dollar(text, end)
    elif delimiter == "$$":
        found = _CLOSING_DISPLAY.match(seen, end, text.extent(start, inline=False))
        close = found.end(1) if found else -1
    elif "`" in delimiter:
        close = seen.find(delimiter[1:] + "$", end, text.extent(start))
        if close < 0 and after_word:  # 5$`code`
            return start + 1
    else:
        return end  # $$$ is no delimiter
    if close < 0:
        if delimiter != "$":
            text.add("math", start, end)
        return end
    text.add("math", start, close + len(delimiter), tex=(end, close))
    return close + len(delimiter)


def _closing_dollar(text: Text, begin: int) -> int:
    """Return where TeX that begins here ends, or -1: by Pandoc's rules, but stricter."""
    seen, stop = text.seen, text.extent(begin - 1)
    if begin >= stop or seen[begin].isspace() or _NOT_TEX.match(seen, begin, stop):
        return -1
    depth, close = 0, -1
    for piece in _PIECE.finditer(seen, begin, stop):
        depth += {"{": 1, "}": -1}.get(piece[0], 0)
        if piece[0] == "`":  # code binds tighter
            break
        if piece[0] == "$" and (depth <= 0 or close < 0):  # deeper ones are in \text{…}, if braces balance at all
            close = piece.start()
            if depth <= 0:
                break
    if close < 0 or _NO_CLOSER.match(seen, close + 1):
        return -1
    return -1 if seen[close - 1].isspace() and seen[close - 2] != "\\" else close
