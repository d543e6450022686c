"""The scanner's last pass: everything in brackets, paragraph by paragraph."""

from __future__ import annotations

import re

from weave.source.tokens import Text

_BRACKET = re.compile(r"[\[\]]")
_ANGLE = re.compile(r"\(\s*<(?P<target>[^<>]*)>\s*(?P<title>\"[^\"]*\"|'[^']*')?\s*\)")
_PLAIN = re.compile(
    r"\(\s*(?P<target>(?:\\.|[^()\\]|\((?:[^()]|\([^()]*\))*\))*?)(?:\s+(?P<title>\"[^\"]*\"|'[^']*'))?\s*\)"
)
_ID = re.compile(r"\s?\[(?P<id>[^\[\]]*)\]")
_PIPE = re.compile(r"\\?\|")


def read(text: Text) -> None:
    """Read everything in brackets; no link goes on in the next paragraph."""
    start = -1
    for row, begin in enumerate([*text.starts, len(text.seen) + 1]):
        inside = row < len(text.ends) and not text.ends[row] and not text.begins[row]
        if inside and start >= 0 and text.depths[row] == text.depths[row - 1]:
            continue
        if start >= 0 and text.seen.find("[", start, begin - 1) >= 0:
            _read_brackets(text, start, begin - 1)
        start = begin


def _read_brackets(text: Text, start: int, end: int) -> None:
    seen = text.seen
    opened: list[int] = []
    pairs: dict[int, int] = {}
    for bracket in _BRACKET.finditer(seen, start, end):
        if bracket[0] == "[":
            opened.append(bracket.start())
        elif opened:
            pairs[opened.pop()] = bracket.start()
    done, in_link, addresses = start, start, [(end, end)]
    for at in sorted(pairs):
        close = pairs[at]
        if at < done or any(a < at < b for a, b in addresses):
            continue
        inside, after = seen[at + 1 : close], seen[close + 1 : min(close + 2, end)]
        single = "[" not in inside and after not in ("(", "[")
        if inside.startswith("[") and pairs.get(at + 1) == close - 1 and _read_wiki(text, at, close, after):
            done = close + 1
        elif inside.startswith("^") and len(inside) > 1:
            text.add("footnote", at, close + 1, id=(at + 2, close))
            done = close + 1
        elif inside.startswith("@") and single:
            text.add("citation", at, close + 1, works=(at + 1, close))
            done = close + 1
        else:
            image = seen[at - 1 : at] == "!" and at > start
            if (image or at >= in_link) and (over := _read_link(text, at, close, end, image)):
                addresses.append((close, over))
                in_link = in_link if image else close


def _read_wiki(text: Text, at: int, close: int, after: str) -> bool:
    inside = text.seen[at + 2 : close - 1]
    if re.search(r"[\[\]\n]", inside) or after in ("(", "[") or inside.startswith("^"):
        return False
    pipe = _PIPE.search(text.source, at + 2, close - 1)
    target = (at + 2, pipe.start() if pipe else close - 1)
    if not text.source[slice(*target)].strip(" #"):
        return False
    text.add("wiki", at, close + 1, target=target, **({"words": (pipe.end(), close - 1)} if pipe else {}))
    return True


def _read_link(text: Text, at: int, close: int, end: int, image: bool) -> int:
    """Read the link or image whose text is in the brackets at these two places; return its end, 0 if it is none."""
    kind, start, parts = "image" if image else "link", at - image, {"text": (at + 1, close)}
    match = _ANGLE.match(text.seen, close + 1, end) or _PLAIN.match(text.seen, close + 1, end)
    if match:
        names = ("target", "title") if match["title"] else ("target",)
        parts |= {name: match.span(name) for name in names}
    else:
        match = _ID.match(text.seen, close + 1, end)
        parts["id"] = match.span("id") if match and match["id"] else (at + 1, close)
        if match and text.id(*parts["id"]) not in text.definitions:  # [text] by itself, before other brackets
            match, parts["id"] = None, (at + 1, close)
        if text.id(*parts["id"]) not in text.definitions:
            return 0
    over = match.end() if match else close + 1
    text.add(kind, start, over, **parts)
    return over
