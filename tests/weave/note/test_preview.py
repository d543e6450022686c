"""The site shows a page as GitHub does: a corpus of constructs, rendered by GitHub's own parser and by the site.

Each is the same in both, or `weave check` reports it, at its line. The comparison here is the test's own: it looks at
the finished HTML of both, not at what weave compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import cmarkgfm
import pytest
from cmarkgfm.cmark import Options
from markdown import Markdown
from mkdocs.config import load_config

from weave.book.book import Book
from weave.source.layout import Layout

from .bench import Bench

if TYPE_CHECKING:
    from conftest import Small

ROOT = Path(__file__).parents[3]
KEPT = [
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "p",
    "ul",
    "ol",
    "li",
    "blockquote",
    "pre",
    "table",
    "tr",
    "th",
    "td",
    "a",
    "code",
    "em",
    "strong",
    "del",
    "br",
    "hr",
    "img",
    "input",
]
VOID = {"br", "hr", "img", "input"}

SAME = [
    # lists: where they begin
    "- a\n- b",
    "* a\n* b",
    "+ a\n+ b",
    "1. a\n2. b",
    "1) a\n2) b",
    "A text:\n- a\n- b",
    "A text:\n* a\n* b",
    "A text:\n1. a\n2. b",
    "A text:\n1) a\n2) b",
    "Text\n2. is no list",
    "1986. A great year\nfor all.",
    "Text\n14. is no list",
    "-a\n-b",
    "1.a\n2.b",
    "# H\n- a\n- b",
    "- a\n# H\n- b",
    "- a\n\n# H",
    "- a\n***\n- b",
    "- a\n---\n- b",
    "* a\n* * *\n* b",
    "-\n- b",
    "- a\n-\n- b",
    "- \n\n  a",
    " - a\n - b",
    "  - a\n  - b",
    "   - a\n   - b",
    "- a\n - b\n  - c\n   - d",
    "3. a\n4. b",
    "0. a\n1. b",
    "007. a\n8. b",
    "- a\n* b\n+ c",
    "1. a\n2) b",
    "- a\n1. b",
    "**Bold:**\n- a",
    "`code`\n- a",
    "[a](https://x.org)\n- b",
    "Two\nlines\n- a\n- b",
    # lists: nested
    "- a\n  - b",
    "- a\n   - b",
    "- a\n    - b",
    "* a\n  * b\n    * c",
    "- a\n    - b\n        - c",
    "- a\n  - b\n    - c\n      - d\n- e",
    "1. a\n   - b\n2. c",
    "1. a\n    - b\n2. c",
    "1. a\n  - b",
    "1. a\n   1. b\n   2. c\n2. d",
    "1. a\n    1. b\n2. c",
    "10. a\n    - b\n11. c",
    "1) a\n   - b\n2) c",
    "- a\n\n  - b",
    "- a\n\n    - b\n    - c\n\n- d",
    "- - a\n  - b",
    "1. - a\n   - b\n2. c",
    "- 1. a\n  2. b",
    "- a\n  - b\n\n  c",
    "- a\n  1. b\n  2. c\n- d",
    "- a\n  - b\n\n\n  - c",
    # lists: what is in an item
    "1. a\n\n   para\n\n2. c",
    "1. a\n\n    para\n\n2. c",
    "- a\n\n  para\n- b",
    "- a\n\n    para\n- b",
    "- a\nlazy\n- b",
    "- a\n  more\n- b",
    "- a\n    more\n- b",
    "- a\n\n\n  b",
    "- a\n\nb",
    "- a\n\n b",
    "- a\n- b\n\n- c",
    "- a\n\n- b\n\n- c",
    "- a\n\n\n- b",
    "- a\n\n      code\n- b",
    "-     code",
    "- a\n\n  > q\n\n  b",
    "- a\n  > q",
    "- > q\n  > r",
    "- # H\n- b",
    "- a\n\n  ## H\n\n  b",
    "- a\n\n   ## H",
    "- a\n\n  ```python\n  x = 1\n  ```\n- b",
    "- a\n  ```\n  x = 1\n  ```\n- b",
    "1. a\n\n   ```\n   x\n\n   y\n   ```\n\n2. b",
    "1. a\n\n    ```\n    x\n    ```\n\n2. b",
    "- a\n\n  | a | b |\n  |---|---|\n  | 1 | 2 |\n\n- b",
    "- a\n\n  ---\n\n  b",
    "- a  \n  b",
    "- a\\\n  b",
    "- [ ] a\n- [x] b",
    "1. [ ] a\n2. [x] b",
    "- [ ] a\n  - [x] b",
    "- [X] a",
    "- [ ] a\n\n  b\n\n- [x] c",
    "- *a* **b** `c`",
    "- a\n\n  b\n\n  c\n- d",
    "- a\n\n  b\n\n      c\n\n  d",
    "- ![a](b.png)\n- b",
    "- a\n<!-- c -->\n- b",
    # quotations
    "> a\n> b",
    "> a\nlazy",
    "> - a\n>   - b",
    "> 1. a\n>\n>    b\n> 2. c",
    "> a\n>\n> b",
    ">a\n>b",
    "> > a\n> > b",
    "> a\n> > b",
    "> a\n\n> b",
    "> a\n\nb",
    "Text\n> q",
    "> ```\n> x\n> ```",
    "> # H\n> a",
    "> text\n> - a\n> - b",
    "> | a | b |\n> |---|---|\n> | 1 | 2 |",
    "> [!NOTE]\n> a",
    "> [!TIP]\n>\n> - a\n> - b",
    # headings
    "# A",
    "###### A",
    "####### A",
    "#A",
    "## C#",
    "## C++ vs C#",
    "## F# and C# ##",
    "## A ##",
    "## A ##  ",
    "## A \\#",
    "## A #b",
    "#",
    "   ## A",
    "## A\nb",
    "a\n## B\nc",
    "A\n=",
    "A\n---",
    "A\nb\n---",
    "A `c`\n===",
    "## *A* `b` **c**",
    # rules and code
    "---",
    "***",
    "* * *",
    "_ _ _",
    "- - -",
    "a\n\n---\n\nb",
    "a\n***\nb",
    "    code\n    more",
    "    a\n\n    b",
    "a\n    not code",
    "```\na\n```",
    "```python\nx = 1\n```",
    "~~~\na\n~~~",
    "````\n```\na\n```\n````",
    "a\n```\nb\n```\nc",
    "`` ` ``",
    "`a  b`",
    "``a `b` c``",
    # tables
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "a | b\n--|--\n1 | 2",
    "text\n| a | b |\n|---|---|\n| 1 | 2 |",
    "text\nmore\n\n| a | b |\n|:--|--:|\n| 1 | 2 |",
    "| a |\n|---|\n| 1 |",
    "| a | b |\n|---|---|",
    "| `x\\|y` | b |\n|---|---|\n| 1 | 2 |",
    "| a \\| b | c |\n|---|---|\n| 1 | 2 |",
    "| a | b |\n|---|---|\n| 1 |",
    "| a | b |\n|---|---|\n| 1 | 2 | 3 |",
    "| a | b |\n|---|---|\n| **x** | [y](https://z.org) |",
    "| a | b |\n|---|---|\n| 1 | 2 |\n\ntext",
    "no | table\nhere",
    "| a | b |\n| c | d |",
    # within a line
    "a\\\nb",
    "a  \nb",
    "a \nb",
    "~~gone~~",
    "a ~~b c~~ d",
    "~gone~",
    "about ~5 and ~6",
    "a ~ b ~ c",
    "*a* _b_ **c** __d__ ***e***",
    "a*b*c and a_b_c",
    "snake_case_name and __init__",
    "2 * 3 * 4",
    "2*3*4",
    "**a**b",
    "**a *b* c**",
    "*a **b** c*",
    "***a** b*",
    "\\*a\\* \\_b\\_ \\`c\\`",
    "\\% \\@ \\~ \\^ \\= \\| \\\" \\' \\/ \\: \\; \\, \\? \\<a\\>",
    "A C:\\dir and a\\b",
    "&copy; &amp; &lt; AT&T",
    "1 < 2 > 1",
    "<https://x.org> and https://x.org/a_b_c.",
    "(https://x.org/a(b)) https://x.org?a=b&c=d, and http://y.org!",
    '[a](https://x.org "t") [b](<https://x.org/a b>)',
    "[a][r] and [r], [r][].\n\n[r]: https://x.org",
    '![a *b*](c.png "t")',
    "[![a](b.png)](https://x.org)",
    "[a `b` *c*](https://x.org)",
    "[a]",
    "a [b] (c)",
    "a<br>b",
    "x<sub>1</sub> and <kbd>Ctrl</kbd>",
    "A note[^1] and more[^x].\n\n[^1]: One.\n\n[^x]: Two\n    lines.",
    "<!-- c -->\n\na",
    "a <!-- c --> b",
    "<details>\n<summary>S</summary>\n\n- a\n- b\n\n</details>",
    "a\tb",
    "- a\n\t- b",
    "1.\ta\n\n\tb\n2.\tc",
]
REPORTED = [
    ("AT\\&T", 1),
    ("a\n\n| $a|b$ | c |\n|---|---|\n| 1 | 2 |", 3),
    ("[a] [r]\n\n[r]: https://x.org", 1),
    ("<div>\n\n**a**\n\n</div>", 3),
    ("- ```\n  x\n  ```", 1),
    ("```\na\n````", 1),
    ("````\na", 1),
]


class Tree(HTMLParser):
    """HTML as nested tags and words, without attributes and what the site adds to every page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.out, self.skip, self.words, self.around = [], "", "", ""
        self.feed(html)
        self.close()
        self._end_words()

    def _end_words(self) -> None:
        self.out += self.words.split()
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        classes = str(dict(attrs).get("class"))
        self.around = classes if tag in ("div", "section") else self.around
        if (not self.skip and re.search("headerlink|footnote-|admonition-title", classes)) or tag == "summary":
            self.skip = tag
        if not self.skip and tag in KEPT and not (tag == "hr" and "footnote" in self.around):
            self._end_words()
            start = dict(attrs).get("start")
            self.out.append(f"<{tag} {start}>" if start else f"<{tag}>")

    def handle_endtag(self, tag: str) -> None:
        if self.skip:
            self.skip = "" if tag == self.skip else self.skip
        elif tag in KEPT:
            self._end_words()
            if tag not in VOID:
                self.out.append(f"</{tag}>")
        elif tag in ("div", "section", "details"):
            self._end_words()

    def handle_data(self, data: str) -> None:
        if not self.skip:
            self.words += data


def tree(html: str) -> list[str]:
    text = " ".join(Tree(html).out)
    text = text.replace("<input> <p>", "<p> <input>")
    text = text.replace("<strong> <em>", "<em> <strong>").replace("</em> </strong>", "</strong> </em>")
    text = re.sub(r"<pre>(.*?)</pre>", lambda match: f"<pre>{re.sub('</?code>', '', match[1])}</pre>", text)
    text = re.sub(
        r"<blockquote> <p> \[!\w+\]( </p>)?(.*?)</blockquote>", lambda m: ("" if m[1] else "<p>") + m[2], text
    )
    return text.split()


def on_github(text: str) -> list[str]:
    options = Options.CMARK_OPT_FOOTNOTES | Options.CMARK_OPT_UNSAFE
    return tree(cmarkgfm.github_flavored_markdown_to_html(text, options=options))


@pytest.fixture(scope="module")
def bench(new_small: Callable[[], Small]) -> Bench:
    """The small site's book and the Markdown of the real one."""
    config = load_config(str(ROOT / "mkdocs.yml"))
    site = new_small()
    for name in ("b.png", "c.png"):
        site.write(f"docs/notes/{name}", "")
    book = Book(Layout(site.root))
    book.read_sources()
    return Bench(book, Markdown(extensions=config.markdown_extensions, extension_configs=config.mdx_configs))


@pytest.fixture(scope="module")
def told(bench: Bench) -> Callable[[str], list[int]]:
    def lines(text: str) -> list[int]:
        return [problem.line for problem in bench.render(text)[1] if "GitHub" in problem.message]

    return lines


def test_the_corpus_is_large() -> None:
    assert len({*SAME, *(text for text, _ in REPORTED)}) >= 150


@pytest.mark.parametrize("text", SAME)
def test_the_site_shows_what_github_shows(bench: Bench, told: Callable[[str], list[int]], text: str) -> None:
    assert tree(bench.render(text)[0]) == on_github(text)
    assert told(text) == []


@pytest.mark.parametrize(("text", "line"), REPORTED)
def test_what_differs_is_reported(bench: Bench, told: Callable[[str], list[int]], text: str, line: int) -> None:
    assert tree(bench.render(text)[0]) != on_github(text)
    assert told(text)[:1] == [line]
