"""Links to headings, and what Markdown would pass over in silence: each leads to the right place, or is told."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from markdown import Markdown
from mkdocs.config import load_config

from weave.book.book import Book
from weave.note import headings
from weave.note.snippets import unrun
from weave.source.layout import Layout

from .bench import Bench

if TYPE_CHECKING:
    from conftest import Small

ROOT = Path(__file__).parents[3]
CASES = """

## Setup

### Details

## Results

### Details

## Case x > 0

## Case x < 0

## `f(x)` of x

## 😀

## C#

## C
"""
HEADINGS = {
    "Details": "details",
    "Results#Details": "details_1",
    "results#details": "details_1",
    "Setup#Details": "details",
    "Case x < 0": "case-x-0_1",
    "Case x > 0": "case-x-0",
    "case x 0": "case-x-0",
    "`f(x)` of x": "fx-of-x",
    "f(x) of x": "fx-of-x",
    "😀": "_1",
    "C#": "c",
    "C": "c_1",
    "case-x-0_1": "case-x-0_1",
}
TOLD = [
    ("[[#Nope#Details]]", ["no heading 'Nope#Details' on this page"]),
    ("[[`a` b]]", ["no page and no entry of the glossary is called 'a b'"]),
    ("![[my note]]", ["![[my note]] shows nothing here; write [[…]]"]),
    ("![[b.png]]", ["![[b.png]] shows nothing here"]),
    ("[a](file:///etc/passwd)", ["'file:///etc/passwd': it is on one machine only"]),
    ("[a](C:/x.md)", ["'C:/x.md': it is on one machine only"]),
    ("[a](JavaScript:alert(1))", ["'JavaScript:alert(1)': a page runs no script"]),
    ("![a](attachment:image.png)", ["'attachment:image.png': the picture is in no file"]),
    ("[a](data:text/html,x)", ["'data:text/html,x': browsers open no page"]),
    ("<img src='missing.png'>", ["no file docs/notes/missing.png"]),
    ("<a href=nowhere.md>x</a>", ["no file docs/notes/nowhere.md"]),
    ('<a href="javascript:alert(1)">x</a>', ["a page runs no script"]),
    (
        '<img src="b.png">',
        ["is relative to the page's address on the site"],
    ),
    ("A[^none].", ["no footnote '[^none]: …'; this page has none"]),
    ("A[^1].\n\n[^1]: x\n\n[^two]: y", ["footnote 'two' is referred to nowhere"]),
    ("A[^1].\n\n[^1]: x\n\n[^1]: y", ["a second footnote '1'"]),
]
SILENT = [
    "![a](b.png) [b](https://x.org) <me@x.org> [c](mailto:me@x.org) ![d](data:image/png;base64,AAAA)",
    "<a href='https://x.org'>a</a> <a href='#top'>b</a>",
    "`<img src=gone.png>` and `[^x]` and `![[x]]`",
    "A[^1] and [^1].\n\n[^1]: x",
    "    <img src='gone.png'> [^x]",
]


@pytest.fixture(scope="module")
def bench(new_small: Callable[[], Small]) -> Bench:
    config = load_config(str(ROOT / "mkdocs.yml"))
    site = new_small()
    site.write("docs/notes/b.png", "")
    book = Book(Layout(site.root))
    book.read_sources()
    return Bench(book, Markdown(extensions=config.markdown_extensions, extension_configs=config.mdx_configs))


@pytest.mark.parametrize(("written", "anchor"), HEADINGS.items())
def test_a_link_to_a_heading_ends_there(bench: Bench, written: str, anchor: str) -> None:
    html, problems = bench.render(f"# T\n\n[[#{written}]]{CASES}")
    assert problems == []
    links = re.findall(r'href="x\.md#([^"]*)"', headings.link(html, bench.book.pages))
    assert links == [anchor]


@pytest.mark.parametrize(("text", "messages"), TOLD)
def test_what_leads_nowhere_is_told_at_its_line(bench: Bench, text: str, messages: list[str]) -> None:
    problems = bench.render(f"# T\n\n{text}{CASES}")[1]
    assert len(problems) == len(messages)
    for problem, message in zip(problems, messages, strict=True):
        assert message in problem.message
        assert problem.line == 3 + text.rpartition("\n\n")[0].count("\n") + 2 * ("\n\n" in text)
        assert not re.search("wzxhzdk|klzzwxh|[\x00-\x1f]", problem.message)


@pytest.mark.parametrize("text", SILENT)
def test_what_is_right_is_not(bench: Bench, text: str) -> None:
    assert bench.render(f"# T\n\n{text}{CASES}")[1] == []


def test_an_id_is_what_a_browser_takes_for_one() -> None:
    html = '<p id=\'a\' data-id="b"><!-- <i id="c"> --><i\nid=d>&lt; id="e"</i><b ID="f&amp;g"></b></p>'
    assert headings.read(html)[0] == {"a", "d", "f&g"}


@pytest.mark.parametrize("info", ["py", "Python", "python3", "pycon", "ipython", "{.python}", ".py", "py title='a'"])
def test_python_that_never_runs_is_told(info: str) -> None:
    problems = unrun("docs/notes/x.md", f"# T\n\n```{info}\nx = 1\n```\n")
    assert [problem.line for problem in problems] == [3]


@pytest.mark.parametrize("info", ["python", "python title='a'", "text", "pytb", "", "pypy-config", "json", "console"])
def test_other_blocks_are_not(info: str) -> None:
    assert unrun("docs/notes/x.md", f"```{info}\nx = 1\n```\n") == []
