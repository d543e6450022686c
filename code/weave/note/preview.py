r"""A page as the site reads it beside the page as GitHub and Obsidian read it: where they differ, the author is told.

GitHub's own parser (cmark-gfm) reads the source, Python-Markdown has read it, and the structure of both is compared:
which words stand in which headings, lists, tables, quotations, code. Formulas, ``[[links]]`` and citations are left out
of both. What only the site has (``!!! note``, ``=== "Tab"``, definitions) is taken for what is in it.
"""

from __future__ import annotations

import difflib
import html
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from xml.etree import ElementTree as etree

import cmarkgfm
from cmarkgfm.cmark import Options
from markdown import Markdown
from markdown.extensions.footnotes import NBSP_PLACEHOLDER
from markdown.treeprocessors import Treeprocessor
from markdown.util import AMP_SUBSTITUTE, ETX, STX

from weave.note import unread
from weave.note.lines import MarkLines, unmark
from weave.source import leftovers
from weave.source.markdown import outside_fences, tokens
from weave.source.tokens import PREFIX

_LEFT_OUT, _DISPLAYED = "\ue000", "\ue001"  # characters for a formula, link, citation; for a formula on its own lines
_GAP = re.compile(f"[$(]?[|\\\\]*{_LEFT_OUT}[{_LEFT_OUT}|\\\\]*[$)]?|{_DISPLAYED}+")
_STASHED = re.compile(f"<p>\\s*{STX}wzxhzdk:(\\d+){ETX}\\s*</p>|{STX}wzxhzdk:(\\d+){ETX}")
_CHARACTER = re.compile(f"{STX}(\\d+){ETX}")
_OPTIONS = Options.CMARK_OPT_FOOTNOTES | Options.CMARK_OPT_UNSAFE | Options.CMARK_OPT_SOURCEPOS
_KEPT = {
    *("h1", "h2", "h3", "h4", "h5", "h6", "p", "ul", "ol", "li", "blockquote", "pre", "table", "tr", "th", "td"),
    *("a", "code", "em", "strong", "del", "br", "hr", "img", "input"),
}
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
_SKIPPED_TAGS = {"summary", "script", "style", "svg", "title"}
_SKIPPED = {"admonition-title", "footnote-ref", "footnote-backref", "headerlink", "tabbed-labels", "filename"}
_ONLY_HERE = re.compile(r"(?P<indent>[ ]*)(?:(?:!!!|\?\?\?\+?|===\+?!?)[ ]|(?P<term>:)(?=[ ]{1,3}\S))")
_MODULE = re.compile(r"^[ ]*(?:#+ +)?::: ", re.MULTILINE)
_ABBREVIATION = re.compile(r"[ ]{0,3}\*\[[^\]]+\]:")
_ALERT = re.compile(r"\[!\w+\][-+]?")
_WITHIN_WORDS = {"span", "label", "sup", "sub", "abbr", "small", "u", "i", "b", "kbd"}
_MARKS = re.compile(r"[*_`~\\]")
_CODE = re.compile(r'<pre[^>]* data-sourcepos="(\d+):\d+-(\d+):')
_FIRST_RULE = re.compile(r"\A---(?=[ \t]*\n)")  # no front matter: that is cut off
_SHOWN = 60


class Compare(Treeprocessor):
    """Reports the first difference in each block of a page of the book; before links are resolved."""

    def __init__(self, md: Markdown, lines: MarkLines) -> None:
        super().__init__(md)
        self.lines = lines

    def run(self, root: etree.Element) -> None:
        page = self.lines.page
        if page.book is None:
            return
        text = _FIRST_RULE.sub("***", "\n".join(self.lines.lines))
        github = _github(text)
        code = {line for start, end in _CODE.findall(github) for line in range(int(start), int(end) + 1)}
        notes = [*unread.footnotes(text, code)]
        for line, what in [*leftovers.find(text, code), *notes, *unread.addresses(page, text, code)]:
            page.report(line, what)
        if _MODULE.search(text) or _is_broken(root):  # mkdocstrings writes the page; what is told already
            return
        if "MathInCode" not in self.md.treeprocessors:  # formulas are another extension's
            return
        site = structure(self._html(root), notes=not notes)
        for line, here, there in differences(site, structure(github, notes=not notes)):
            what = f"GitHub and Obsidian show {there}, the site {here}"
            page.report(line, f"{what}; write it so that all read the same (blank lines around it often do)")

    def _html(self, root: etree.Element) -> str:
        """Return the page so far as HTML, with what Markdown has put aside."""
        blocks = self.md.htmlStash.rawHtmlBlocks

        def stashed(match: re.Match[str]) -> str:
            block = blocks[int(match[1] or match[2])]
            return block if isinstance(block, str) else self.md.serializer(block)

        text = self.md.serializer(root)
        for _ in range(9):  # HTML put aside inside of HTML
            text, count = _STASHED.subn(stashed, text)
            if not count:
                break
        text = _CHARACTER.sub(lambda match: html.escape(chr(int(match[1]))), unmark(text))
        return text.replace(AMP_SUBSTITUTE, "&").replace(NBSP_PLACEHOLDER, " ")


def _is_broken(root: etree.Element) -> bool:
    """Return whether a page has a formula or a citation that cannot be read, which is reported by itself."""
    cited = (element for element in root.iter("span") if element.get("weave-cites"))
    return any(group[-1].tail != "]" for group in cited) or any(
        element.get("class") == "weave-error" for element in root.iter()
    )


def differences(site: list[tuple[str, int]], github: list[tuple[str, int]]) -> Iterator[tuple[int, str, str]]:
    """Yield the line of each difference, what the site shows there, and what GitHub shows."""
    here, there = [token for token, _ in site], [token for token, _ in github]
    if here == there:
        return
    told: set[int] = set()
    for kind, i, i_end, j, j_end in difflib.SequenceMatcher(None, here, there, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        line = next((line for _, line in github[j:] if line), github[-1][1] if github else 1)
        if line not in told and not told & {line - 1, line - 2}:
            yield line, _shown(here, i, i_end), _shown(there, j, j_end)
        told.add(line)


def _shown(words: list[str], start: int, end: int) -> str:
    text = " ".join(words[max(start - 1, 0) : max(end, start + 2)])
    text = re.sub(f"[{_LEFT_OUT}{_DISPLAYED}]", "…", text)
    return f"“{text if len(text) <= _SHOWN else text[: _SHOWN - 1] + '…'}”"


def _github(text: str) -> str:
    """Return the HTML that GitHub makes of a source, in which what only the site has is read as plain text."""
    return cmarkgfm.github_flavored_markdown_to_html(_plain(_mask(text)), _OPTIONS)


def _mask(text: str) -> str:
    """Return a source with formulas, ``[[links]]`` and citations left out, and each line on its line."""
    spans = {}
    for token in tokens(text, "math", "wiki", "citation"):
        display = token.kind == "math" and token.written[:2] in ("$$", "``", "~~")
        spans[token.start, token.end] = display and _on_its_own(text, token.start, token.end)
    pieces, done = [], 0
    for (start, end), whole in sorted(spans.items()):
        if start >= done:
            pieces += [text[done:start], _masked(text[start:end], whole)]
            done = end
    return "".join([*pieces, text[done:]])


def _on_its_own(text: str, start: int, end: int) -> bool:
    before, after = text[text.rfind("\n", 0, start) + 1 : start], text[end:].partition("\n")[0]
    return not before.strip(" >") and not after.strip()


def _masked(written: str, whole: bool) -> str:
    if not whole:
        inner = re.sub(r"\\(?!\|)|[^\n|\\]", _LEFT_OUT, written[1:-1])  # a pipe parts the cells of a table
        dollar = written[0] == "$"
        return ("$" if dollar else "(") + inner + ("$" if dollar else ")")
    first, *more = written.split("\n")
    kept = [PREFIX.match(line)[0] for line in more]  # type: ignore[index]  # always matches
    return "\n".join([_DISPLAYED * len(first), *(prefix + _DISPLAYED for prefix in kept)])


def _plain(text: str) -> str:
    """Return a source without the marks of what only the site has, and what is inside of it less far in."""
    out: list[str] = []
    inside: list[int] = []
    for line, number in outside_fences(text.split("\n")):
        indent = len(line) - len(line.lstrip(" "))
        if line.strip():
            while inside and indent < inside[-1]:
                inside.pop()
        shift = 4 * len(inside)
        mark = _ONLY_HERE.match(line) if number else None
        if number and _ABBREVIATION.match(line):
            out.append("")
        elif mark and mark["term"]:
            out.append(f"{line[:indent][shift:]}{_DISPLAYED} {line[indent + 1 :].lstrip()}")
            inside.append(indent + 4)
        elif mark:
            out.append("")
            inside.append(indent + 4)
        else:
            out.append(line[min(shift, indent) :])
    return "\n".join(out)


def structure(page: str, notes: bool = True) -> list[tuple[str, int]]:
    """Return the tags and words of HTML, each with its line in the source (0 where that is not known).

    Args:
        page: The HTML.
        notes: Whether footnotes count.
    """
    reader = _Structure()
    reader.feed(page)
    reader.close()
    found = _without_borders(_without_alerts(reader.found))
    by_words = sorted(reader.notes, key=lambda note: [token for token, _ in note])
    return _without_empty(found + [token for note in by_words for token in note if notes])


def _without_empty(found: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Leave out paragraphs of nothing, such as the one for the way back from a footnote that ends in a list."""
    kept: list[tuple[str, int]] = []
    for token in found:
        if token[0] == "</p>" and kept and kept[-1][0] == "<p>":
            kept.pop()
        else:
            kept.append(token)
    return kept


def _without_alerts(found: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Leave out the quotation, and the name, of an alert: ``> [!NOTE]``."""
    kept: list[tuple[str, int]] = []
    quotes: list[bool] = []
    for at, token in enumerate(found):
        if token[0] == "<blockquote>":
            quotes.append(at + 2 < len(found) and bool(_ALERT.fullmatch(found[at + 2][0])))
            if quotes[-1]:
                continue
        elif token[0] == "</blockquote>" and quotes and quotes.pop():
            continue
        elif quotes and quotes[-1] and _ALERT.fullmatch(token[0]) and kept[-1][0] == "<p>":
            kept.pop()
            if found[at + 1][0] != "</p>":
                kept.append(("<p>", token[1]))
            else:
                kept.append(("<empty>", 0))
            continue
        elif token[0] == "</p>" and kept and kept[-1][0] == "<empty>":
            kept.pop()
            continue
        kept.append(token)
    return kept


def _without_borders(found: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Leave out where paragraphs end beside a formula on its own lines: on GitHub it is part of them."""
    kept: list[tuple[str, int]] = []
    for token in found:
        after = bool(kept) and kept[-1][0] == _DISPLAYED
        if token[0] in ("<p>", "</p>", _DISPLAYED) and after:
            continue
        while token[0] == _DISPLAYED and kept and kept[-1][0] in ("<p>", "</p>"):
            kept.pop()
        if not (token[0] == _DISPLAYED and kept and kept[-1][0] == _DISPLAYED):
            kept.append(token)
    return kept


class _Structure(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int]] = []
        self.notes: list[list[tuple[str, int]]] = []
        self.main = self.found
        self.open: list[str] = []
        self.line = 0
        self.defined = False  # whether the definition that is read has a meaning yet
        self.text = ""
        """What was read since the last tag that counts."""
        self.skip = self.footnotes = 0
        """The depth of the element that is skipped, of the footnotes."""

    def _add(self, token: str) -> None:
        self._flush()
        self._put(token)

    def _flush(self) -> None:
        """Add the words of the text read so far."""
        text, self.text = self.text, ""
        for number, part in enumerate(text.split("\n")):
            self.line += bool(number)
            for word in _words(part):
                self._put(word)

    def _put(self, token: str) -> None:
        last = self.found[-1][0] if self.found else ""
        both = (last, token) in (("<strong>", "<em>"), ("</em>", "</strong>"))  # ***both***, in either order
        if both or (token == "<p>" and last in ("<checked>", "<unchecked>")):  # GitHub puts the box before it
            self.found.insert(-1, (token, self.line))
        elif token != _LEFT_OUT or last != _LEFT_OUT:
            self.found.append((token, self.line))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if position := given.get("data-sourcepos"):
            self._flush()
            self.line = int(position.partition(":")[0])
        if tag not in _VOID:
            self.open.append(tag)
        if self.skip:
            return
        classes = set((given.get("class") or "").split())
        if "weave-term" in given or "weave-cites" in given or tag == "tex-math" or "weave-error" in classes:
            own = tag == "tex-math" and "display" in classes and "inline" not in classes
            self._add(_DISPLAYED if own else _LEFT_OUT)
            self.skip = len(self.open)
        elif tag in _SKIPPED_TAGS or classes & _SKIPPED:
            self.skip = len(self.open)
        elif classes & {"footnote", "footnotes"} and not self.footnotes:
            self.footnotes = len(self.open)
        elif self.footnotes and tag == "li" and len(self.open) <= self.footnotes + 2:
            self._flush()
            self.found = []
            self.notes.append(self.found)
        elif tag in ("dl", "dt", "dd"):
            self._definition(tag)
        elif tag == "weave-embed":
            self._add("<img>")
        elif tag == "img":
            self._add("<img>")
            self.text = _MARKS.sub("", given.get("alt") or "")
            self._add("</img>")
        elif tag == "input" and given.get("type") != "checkbox":  # the knob of a tab
            self._flush()
        elif tag == "input":
            self._add("<checked>" if "checked" in given else "<unchecked>")
        elif tag in _KEPT and (tag == "pre" or "pre" not in self.open) and not self._flat():
            start = given.get("start") if tag == "ol" else None
            self._add(f"<{tag} {start}>" if start else f"<{tag}>")
        elif tag not in _WITHIN_WORDS and not {"pre", "weave-embed"} & set(self.open):
            self._flush()

    def _definition(self, tag: str) -> None:
        """Add what GitHub shows of a list of definitions: a paragraph for each, in which the meaning is a line."""
        self._flush()
        if tag == "dd":
            self.defined = True
            self._add(_DISPLAYED)
        elif tag == "dl" or self.defined:
            if tag == "dt" or self.defined:
                self._end_definition()
            self.defined = False
            self._add("<p>")

    def _end_definition(self) -> None:
        self._flush()
        if self.found and self.found[-1][0] != "</p>":
            self._add("</p>")

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.open:
            return
        while self.open:
            last = self.open.pop()
            if len(self.open) < self.footnotes:
                self._flush()
                self.footnotes, self.found = 0, self.main
            if self.skip:
                self.skip = 0 if len(self.open) < self.skip else self.skip
            elif last == "pre":
                self.text = _mask(self.text)  # the scanner sees no difference between text and indented code
                self._add("</pre>")
            elif last == "weave-embed":
                self._add("</img>")
            elif last == "dl":
                self._end_definition()
                self.defined = False
            elif last in _KEPT and (last == "pre" or "pre" not in self.open) and not self._flat():
                if not (self.footnotes and last == "li" and len(self.open) == self.footnotes + 1):
                    self._add(f"</{last}>")
            elif last not in _WITHIN_WORDS and not {"pre", "weave-embed"} & set(self.open):
                self._flush()
            if last == tag:
                break

    def _flat(self) -> bool:
        """Return whether tags are left out: in the text for a picture, in footnotes those of the list itself."""
        return "weave-embed" in self.open or bool(self.footnotes and len(self.open) <= self.footnotes + 1)

    def handle_data(self, data: str) -> None:
        if self.skip:
            return
        self.text += _MARKS.sub("", data) if "weave-embed" in self.open else data

    def close(self) -> None:
        super().close()
        self._flush()


def _words(text: str) -> list[str]:
    """Return the words of a text; one character for everything that is left out."""
    return _GAP.sub(lambda gap: f" {_DISPLAYED if _DISPLAYED in gap[0] else _LEFT_OUT} ", text).split()
