"""Sources and their tokens: a table of traps, and Python-Markdown as the judge of texts that nobody thought of."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from markdown import Markdown

from weave.note.gfm import register
from weave.source.markdown import Token, blanked, outside_fences, scan, tokens

ROOT = Path(__file__).parents[3]


def shown(token: Token) -> str:
    """``kind line:column–last line part=text …``; ⏎ and ␍ stand for the ends of lines."""
    more = token.written.rstrip("\n").count("\n")
    place = f"{token.line}:{token.column}" + (f"–{token.line + more}" if more else "")
    parts = "".join(f" {name}={token[name]}" for name in token.parts)
    return f"{token.kind} {place}{parts}".replace("\r", "␍").replace("\n", "⏎")


# fmt: off
CASES: list[tuple[str, list[str]]] = [
    # fences
    ("```python\nx = 1\n```", ["fence 1:1–3 info=python body=x = 1⏎"]),
    ("```\n[a](b.md) # c\n```\n\n[d](e.md)", ["fence 1:1–3 info= body=[a](b.md) # c⏎", "link 5:1 text=d target=e.md"]),
    ("~~~ text\n```\n~~~", ["fence 1:1–3 info=text body=```⏎"]),
    ("````\n```\n[a](b)\n```\n````", ["fence 1:1–5 info= body=```⏎[a](b)⏎```⏎"]),
    ("```\n[a](b)\n````\n", ["link 2:1 text=a target=b"]),
    ("```\n[a](b)\n", ["link 2:1 text=a target=b"]),
    ("```python title=\"a b\" linenums=\"1\"\nx\n```",
     ["fence 1:1–3 info=python title=\"a b\" linenums=\"1\" body=x⏎"]),
    ("``` {.python .live}\nx\n```", ["fence 1:1–3 info={.python .live} body=x⏎"]),
    ("```py `a`\n[b](c)\n```\n[d](e)", ["code 1:1–3 body=py `a`⏎[b](c)⏎", "link 4:1 text=d target=e"]),
    ("- a\n\n    ```python\n    [b](c)\n    ```\n\n    [d](e)",
     ["fence 3:5–5 info=python body=    [b](c)⏎", "link 7:5 text=d target=e"]),
    ("- ```python\n  [b](c)\n  ```", ["fence 1:3–3 info=python body=  [b](c)⏎"]),
    ("> ```text\n> [b](c)\n> ```\n> [d](e)", ["fence 1:3–3 info=text body=> [b](c)⏎", "link 4:3 text=d target=e"]),
    ("> ```text\n> [b](c)\n\n[d](e)", ["link 2:3 text=b target=c", "link 4:1 text=d target=e"]),
    ("!!! note\n\n    ~~~\n    [b](c)\n    ~~~", ["fence 3:5–5 info= body=    [b](c)⏎"]),
    ("    ```\n[b](c)\n    ```", ["code 1:5–3 body=⏎[b](c)⏎    "]),
    ("```\r\n[b](c)\r\n```  \r\n[d](e)", ["fence 1:1–3 info= body=[b](c)␍⏎", "link 4:1 text=d target=e"]),
    ("a\n```\n[b](c)\n```\nd", ["fence 2:1–4 info= body=[b](c)⏎"]),
    # math
    ("$x$ and $y_1$", ["math 1:1 tex=x", "math 1:9 tex=y_1"]),
    ("It costs $5 and 10$ more.", []),
    ("${HOME}:$PATH and a$b$", []),
    ("\\$x$ and \\$5", ["escape 1:1 body=$", "escape 1:10 body=$"]),
    ("the $k$th, $HOME:$PATH", ["math 1:5 tex=k"]),
    ("$a\n+ b$", []),
    ("$a\n\nb$", []),
    ("- $a\n- b$", []),
    ("$[x](y)$ [z](w)", ["math 1:1 tex=[x](y)", "link 1:10 text=z target=w"]),
    ("$`a_b`$ and `$x$`", ["math 1:1 tex=a_b", "code 1:13 body=$x$"]),
    ("$$\n- a [b](c)\n$$", ["math 1:1–3 tex=⏎- a [b](c)⏎"]),
    ("a $$x$$ b", ["math 1:3 tex=x"]),
    ("$$ x", ["math 1:1"]),
    ("```math\nx\n```", ["math 1:1–3 info=math tex=x⏎"]),
    ("> ```math {\"leqno\": true}\n> x\n> ```", ["math 1:3–3 info=math {\"leqno\": true} tex=> x⏎"]),
    ("```math\nx", ["math 1:1 info=math"]),
    ("| a | b |\n|---|---|\n| $x | y$ |", ["math 3:3 tex=x | y"]),
    ("$x = \\text{if $y$}$", ["math 1:1 tex=x = \\text{if $y$}"]),
    ("[a](b$c$d) $e$", ["link 1:1 text=a target=b$c$d", "math 1:12 tex=e"]),
    ("https://x.org/$a$ $b$", ["address 1:1", "math 1:19 tex=b"]),
    # code
    ("`a` and ``b ` c``", ["code 1:1 body=a", "code 1:9 body=b ` c"]),
    ("`[a](b.md)` [c](d.md)", ["code 1:1 body=[a](b.md)", "link 1:13 text=c target=d.md"]),
    ("`a\nb`", ["code 1:1–2 body=a⏎b"]),
    ("`a\n\nb`", []),
    ("- `a\n- b`", []),
    ("\\`[a](b)` `c`", ["escape 1:1 body=`", "link 1:3 text=a target=b", "code 1:9 body= "]),
    ("`a\\` [b](c)", ["code 1:1 body=a\\", "link 1:6 text=b target=c"]),
    ("`` ` ``", ["code 1:1 body= ` "]),
    ("```inline``` [a](b)", ["code 1:1 body=inline", "link 1:14 text=a target=b"]),
    ("``a`", ["code 1:1 body=`a"]),
    ("`# a`", ["code 1:1 body=# a"]),
    ("# `a` [b](c)", ["heading 1:1 marks=# text=`a` [b](c)", "code 1:3 body=a", "link 1:7 text=b target=c"]),
    # comments, tags, addresses, escapes
    ("<!-- [a](b) -->", ["comment 1:1 body= [a](b) "]),
    ("a <!-- [b](c)\nd --> [e](f)", ["comment 1:3–2 body= [b](c)⏎d ", "link 2:7 text=e target=f"]),
    ("<!--\n- [ ] a\n\n# b\n-->\n\n- [ ] c", ["comment 1:1–5 body=⏎- [ ] a⏎⏎# b⏎", "task 7:1 mark=  text=c"]),
    ("<!--\n```\n[a](b)\n```\n-->", ["comment 1:1–5 body=⏎```⏎[a](b)⏎```⏎"]),
    ("`<!-- a` [b](c) `-->`", ["code 1:1 body=<!-- a", "link 1:10 text=b target=c", "code 1:17 body=-->"]),
    ("<!-- `a --> [b](c) `d`", ["comment 1:1 body= `a ", "link 1:13 text=b target=c", "code 1:20 body=d"]),
    ("<!-- [a](b)", ["link 1:6 text=a target=b"]),
    ("a <!-- b\n\n[c](d) -->", ["link 3:1 text=c target=d"]),
    ("```\n<!--\n```\n[a](b) -->", ["fence 1:1–3 info= body=<!--⏎", "link 4:1 text=a target=b"]),
    ("<img alt=\"[a](b)\" title='c > d'> [e](f)", ["tag 1:1", "link 1:34 text=e target=f"]),
    ("<a href=\"x.html\">[b](c)</a>", ["tag 1:1", "link 1:18 text=b target=c", "tag 1:24"]),
    ("a < b [c](d) > e", ["link 1:7 text=c target=d"]),
    ("<https://x.org/[a](b)> and https://x.org/c [d](e)", ["address 1:1", "address 1:28", "link 1:44 text=d target=e"]),
    ("<me@x.org>", ["address 1:1"]),
    ("\\[a](b) [c\\]](d)", ["escape 1:1 body=[", "link 1:9 text=c\\] target=d", "escape 1:11 body=]"]),
    ("a\\\\[b](c)", ["escape 1:2 body=\\", "link 1:4 text=b target=c"]),
    ("\\* \\a", ["escape 1:1 body=*"]),
    # headings
    ("# A\n\n## B ##\n", ["heading 1:1 marks=# text=A", "heading 3:1 marks=## text=B"]),
    ("#A", []),
    ("####### A", []),
    ("# A {#id}\n## B { #c .d }",
     ["heading 1:1 marks=# text=A attributes={#id}", "heading 2:1 marks=## text=B attributes={ #c .d }"]),
    ("# C#\n# C\\#", ["heading 1:1 marks=# text=C#", "heading 2:1 marks=# text=C\\#", "escape 2:4 body=#"]),
    (" # A", ["heading 1:2 marks=# text=A"]),
    ("- # A\n  ## B", ["heading 1:3 marks=# text=A", "heading 2:3 marks=## text=B"]),
    ("a\n# B\nc", ["heading 2:1 marks=# text=B"]),
    ("> # A", ["heading 1:3 marks=# text=A"]),
    ("- # A", ["heading 1:3 marks=# text=A"]),
    ("    # A", ["heading 1:5 marks=# text=A"]),
    ("A\n=\n\nB *c*\n------  \n", ["heading 1:1–2 text=A marks==", "heading 4:1–5 text=B *c* marks=------"]),
    ("A\nB\n---", ["heading 1:1–3 text=A⏎B marks=---"]),
    ("> A\n> ===", ["heading 1:3–2 text=A marks===="]),
    ("- A\n  ---", []),
    ("a\n\n---\n\nb", []),
    ("# A\nB\n===", ["heading 1:1 marks=# text=A", "heading 2:1–3 text=B marks===="]),
    ("#", ["heading 1:1 marks=# text="]),
    ("\\# A", ["escape 1:1 body=#"]),
    ("# A\r\n\r\nB\r\n===\r\n", ["heading 1:1 marks=# text=A", "heading 3:1–4 text=B marks===="]),
    ("| a |\n|---|\n# B", ["heading 3:1 marks=# text=B"]),
    # links
    ("[a](b.md)", ["link 1:1 text=a target=b.md"]),
    ("![a](b.png)", ["image 1:1 text=a target=b.png"]),
    ("[a](b.md#c?d=e)", ["link 1:1 text=a target=b.md#c?d=e"]),
    ("[a](<b c.md>)", ["link 1:1 text=a target=b c.md"]),
    ("[a]( <b.md> 'T' )", ["link 1:1 text=a target=b.md title='T'"]),
    ("[a](b.md \"T (x)\")", ["link 1:1 text=a target=b.md title=\"T (x)\""]),
    ("[a](b_(c).md)", ["link 1:1 text=a target=b_(c).md"]),
    ("[a](b (c (d)))", ["link 1:1 text=a target=b (c (d))"]),
    ("[a]()", ["link 1:1 text=a target="]),
    ("[a] (b)", []),
    ("[](#eq-a)", ["link 1:1 text= target=#eq-a"]),
    ("[a\nb](c.md)", ["link 1:1–2 text=a⏎b target=c.md"]),
    ("[a](\nb.md)", ["link 1:1–2 text=a target=b.md"]),
    ("[a\n\nb](c)", []),
    ("[a [b] c](d)", ["link 1:1 text=a [b] c target=d"]),
    ("[a [b](c) d](e)", ["link 1:1 text=a [b](c) d target=e"]),
    ("[![a](b)](c)", ["link 1:1 text=![a](b) target=c", "image 1:2 text=a target=b"]),
    ("![a [b](c)](d.py#e)", ["image 1:1 text=a [b](c) target=d.py#e", "link 1:5 text=b target=c"]),
    ("[0.97](x.py#=score)", ["link 1:1 text=0.97 target=x.py#=score"]),
    ("![It falls.](../x.py?code#decay)", ["image 1:1 text=It falls. target=../x.py?code#decay"]),
    ("[a](b\\).md)", ["link 1:1 text=a target=b\\).md"]),
    ("a[0](b)", ["link 1:2 text=0 target=b"]),
    ("[a](b", []),
    ("[a [b](c)", ["link 1:4 text=b target=c"]),
    ("*[a](b)* **[c](d)**", ["link 1:2 text=a target=b", "link 1:12 text=c target=d"]),
    ("- [a](b)\n- [c](d)", ["link 1:3 text=a target=b", "link 2:3 text=c target=d"]),
    ("| [a](b) | [c](d) |\n|---|---|\n| [e](f) | g |",
     ["link 1:3 text=a target=b", "link 1:12 text=c target=d", "link 3:3 text=e target=f"]),
    ("> [a](b)\n> > [c](d)", ["link 1:3 text=a target=b", "link 2:5 text=c target=d"]),
    ("a (see [b](c))", ["link 1:8 text=b target=c"]),
    # reference links
    ("[a]: b.md", ["definition 1:1 id=a target=b.md"]),
    ("[a]: <b.md> 'T'", ["definition 1:1 id=a target=b.md"]),
    ("[a]: b.md that is a sentence", []),
    ("[a]:\n  b.md", ["definition 1:1–2 id=a target=b.md"]),
    ("> [a]: b.md", ["definition 1:3 id=a target=b.md"]),
    ("[a][b] [b][] [b]\n\n[b]: c.md",
     ["link 1:1 text=a id=b", "link 1:8 text=b id=b", "link 1:14 text=b id=b", "definition 3:1 id=b target=c.md"]),
    ("[a][B c]\n\n[b  C]: d.md", ["link 1:1 text=a id=B c", "definition 3:1 id=b  C target=d.md"]),
    ("[a][b]", []),
    ("[a] [b](c)\n\n[a]: d.md",
     ["link 1:1 text=a id=a", "link 1:5 text=b target=c", "definition 3:1 id=a target=d.md"]),
    ("![a][b]\n\n[b]: c.png", ["image 1:1 text=a id=b", "definition 3:1 id=b target=c.png"]),
    ("`[a]: b.md`", ["code 1:1 body=[a]: b.md"]),
    ("a\n[b]: c.md\nd", ["definition 2:1 id=b target=c.md"]),
    ("[0.5][r]\n\n[r]: x.py#=rate", ["link 1:1 text=0.5 id=r", "definition 3:1 id=r target=x.py#=rate"]),
    # footnotes
    ("a[^1]\n\n[^1]: b [c](d.md)",
     ["footnote 1:2 id=1", "footnote definition 3:1 id=1 body= b [c](d.md)", "link 3:9 text=c target=d.md"]),
    ("[^a]: b\n    c\n\n    d\n\ne", ["footnote definition 1:1–4 id=a body= b⏎    c⏎⏎    d"]),
    ("[^a] and [^]", ["footnote 1:1 id=a"]),
    # wiki links
    ("[[a]]", ["wiki 1:1 target=a"]),
    ("[[a|b]] [[a#b|c d]] [[#b]]",
     ["wiki 1:1 target=a words=b", "wiki 1:9 target=a#b words=c d", "wiki 1:21 target=#b"]),
    ("| a |\n|---|\n| [[a\\|b]] |", ["wiki 3:3 target=a words=b", "escape 3:6 body=|"]),
    ("`[[a]]` \\[[b]] [[[c]]]", ["code 1:1 body=[[a]]", "escape 1:9 body=[", "wiki 1:17 target=c"]),
    ("[[a](b)] [[1]](c)", ["link 1:2 text=a target=b", "link 1:10 text=[1] target=c"]),
    ("[[a][b]]", []),
    ("[[a\nb]]", []),
    ("[[^a]] [[]] [[ # ]]", ["footnote 1:2 id=a"]),
    ("![[a]]", ["wiki 1:2 target=a"]),
    ("[[heat#On $\\alpha$ decay|there]]",
     ["wiki 1:1 target=heat#On $\\alpha$ decay words=there", "math 1:11 tex=\\alpha"]),
    ("[[a|]]", ["wiki 1:1 target=a words="]),
    ("torch.tensor([[1, 2], [3, 4]])", []),
    # citations
    ("[@a]", ["citation 1:1 works=@a"]),
    ("[@a, section 3; @b]", ["citation 1:1 works=@a, section 3; @b"]),
    ("[@a](b) [@c][d]", ["link 1:1 text=@a target=b"]),
    ("\\[@a] `[@b]`", ["escape 1:1 body=[", "code 1:7 body=[@b]"]),
    ("a@b [c @d]", []),
    ("[@a", []),
    # tasks
    ("- [ ] a", ["task 1:1 mark=  text=a"]),
    ("- [x] a\n- [X] b", ["task 1:1 mark=x text=a", "task 2:1 mark=X text=b"]),
    ("* [ ] a\n+ [ ] b\n1. [ ] c\n2) [ ] d",
     ["task 1:1 mark=  text=a", "task 2:1 mark=  text=b", "task 3:1 mark=  text=c", "task 4:1 mark=  text=d"]),
    ("> - [ ] a\n>   b", ["task 1:3–2 mark=  text=a⏎>   b"]),
    ("> 1. [ ] a", ["task 1:3 mark=  text=a"]),
    ("- [ ] a\n  b\nc\n\nd", ["task 1:1–3 mark=  text=a⏎  b⏎c"]),
    ("- [ ] a\n\n    b\n\n- c", ["task 1:1–3 mark=  text=a"]),
    ("- [ ] a\n    - [ ] b\n- [ ] c", ["task 1:1–2 mark=  text=a", "task 2:5 mark=  text=b", "task 3:1 mark=  text=c"]),
    ("- [ ] `a` [b](c)", ["task 1:1 mark=  text=`a` [b](c)", "code 1:7 body=a", "link 1:11 text=b target=c"]),
    ("- [ ]", []),
    ("-[ ] a", []),
    ("- [ ] a\n# B", ["task 1:1 mark=  text=a", "heading 2:1 marks=# text=B"]),
    ("```\n- [ ] a\n```", ["fence 1:1–3 info= body=- [ ] a⏎"]),
    ("- [y] a", []),
    ("- [ ] a\r\n  b\r\n\r\nc", ["task 1:1–2 mark=  text=a␍⏎  b"]),
    ("- 1. [ ] a", ["task 1:3 mark=  text=a"]),
    ("[ ] a", []),
    # front matter
    ("---\na: b\n---\n", ["front 1:1–3 yaml=a: b⏎"]),
    ("---\na: b\n---\n# C", ["front 1:1–3 yaml=a: b⏎", "heading 4:1 marks=# text=C"]),
    ("\ufeff---\na: b\n---\n\nc", ["front 1:2–3 yaml=a: b⏎"]),
    ("---  \na: b\n...\t\nc", ["front 1:1–3 yaml=a: b⏎"]),
    ("---\r\na: b\r\n---\r\n# C\r\n", ["front 1:1–3 yaml=a: b␍⏎", "heading 4:1 marks=# text=C"]),
    ("---\na: b\n---", ["front 1:1–3 yaml=a: b⏎"]),
    ("---\na: b\n\nc", []),
    ("---\n---\n# A", ["heading 3:1 marks=# text=A"]),
    ("\n---\na: b\n---\n", ["heading 3:1–4 text=a: b marks=---"]),
    ("---\na: [x](y)\n- [ ] b\n---\n", ["front 1:1–4 yaml=a: [x](y)⏎- [ ] b⏎"]),
    ("---\na: b\n----\n", ["heading 2:1–3 text=a: b marks=----"]),
]
# fmt: on


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[text for text, _ in CASES])
def test_the_tokens_of_a_text(text: str, expected: list[str]) -> None:
    assert [shown(token) for token in scan(text)] == expected


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[text for text, _ in CASES])
def test_line_ends_do_not_matter(text: str, expected: list[str]) -> None:
    """Windows' line ends give the same tokens on the same lines, and old Macintosh's too."""
    text = text.replace("\r\n", "\n")
    plain = [(token.kind, token.line, token.column, *token.parts) for token in scan(text)]
    for end in ("\r\n", "\r"):
        other = scan(text.replace("\n", end))
        assert [(token.kind, token.line, token.column, *token.parts) for token in other] == plain
        assert [token.written.replace(end, "\n") for token in other] == [token.written for token in scan(text)]


@given(st.text(st.sampled_from("ab[]()<>!`~#-=$|\\:@^*x1. \t\n\r\"'{}\0"), max_size=80))
def test_every_token_has_its_place_whatever_the_text(text: str) -> None:
    lines = re.split(r"\r\n|\r|\n", text)
    for token in scan(text):
        assert 0 <= token.start < token.end <= len(text)
        assert all(token.start <= start <= end <= token.end for start, end in token.parts.values())
        first = re.split(r"[\r\n]", token.written)[0]
        assert lines[token.line - 1][token.column - 1 :].startswith(first)
    covered = blanked(text, [(token.start, token.end) for token in scan(text)])
    assert len(covered) == len(text) and covered.count("\n") == text.count("\n")


def test_a_fence_knows_its_code() -> None:
    texts = ["```\na\n\n  b\n```", "> ```\n> a\n>\n>   b\n> ```", "- x\n\n    ```\n    a\n\n      b\n    ```"]
    assert [token.code for text in texts for token in tokens(text, "fence")] == ["a\n\n  b\n"] * 3


def test_a_task_knows_its_words_and_a_heading_its_level() -> None:
    (task,) = tokens("> - [ ] Find `x`\n>   or not\n", "task")
    assert task.words == "Find `x` or not"
    headings = tokens("A\n=\n\nB\n-\n\n### C\n", "heading")
    assert [heading.level for heading in headings] == [1, 2, 3]


def test_the_lines_outside_fences() -> None:
    lines = ["a", "```", "b", "```", "> ~~~", "> c", "> ~~~", "d", "```"]
    assert [number for _, number in outside_fences(lines)] == [1, None, None, None, None, None, None, 8, 9]


# -- Python-Markdown, as mkdocs.yml configures it, without our own syntax

Loader = type("Loader", (yaml.SafeLoader,), {})
Loader.add_multi_constructor("", lambda *_: None)  # type: ignore[attr-defined]
CONFIG = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), Loader)
EXTENSIONS = [
    extension if isinstance(extension, str) else next(iter(extension)) for extension in CONFIG["markdown_extensions"]
]
MARKDOWN = Markdown(extensions=[name for name in EXTENSIONS if not name.startswith(("weave", "toc"))])
register(MARKDOWN)


class Page(HTMLParser):
    """The links, images and headings of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, str | int | None]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "a" and "footnote" not in (given.get("class") or ""):
            self.seen.append(("link", given.get("href")))
        elif tag == "img":
            self.seen.append(("image", given.get("src")))
        elif re.fullmatch("h[1-6]", tag):
            self.seen.append(("heading", int(tag[1])))


def scanned(text: str) -> list[tuple[str, str | int | None]]:
    """The same, by the scanner."""
    defined = {token["id"].lower(): token["target"] for token in tokens(text, "definition")}
    seen: list[tuple[str, str | int | None]] = []
    for token in scan(text):
        if token.kind in ("link", "image"):
            seen.append((token.kind, token["target"] if "target" in token.parts else defined[token["id"].lower()]))
        elif token.kind == "address" and token.written[0] == "<":
            seen.append(("link", token.written.strip("<>")))
        elif token.kind == "heading":
            seen.append((token.kind, token.level))
    return seen


PIECES = [
    *(
        "word",
        "a[0]",
        "(p)",
        "[p] (q)",
        "\\\\",
        "!",
        "`",
        "[^1]",
        '<b title="q">q</b>',
        "<https://a.b/c>",
        "so <!-- [v](w) -->",
    ),
    *(
        "[a](b.md)",
        "[a [b] c](<d e.md> 'T)')",
        '[m](n "t")',
        "*[x](y_(z))*",
        "[a\nb](c)",
        "![i](j.png)",
        "[![i](j)](k)",
    ),
    *("[r]", "[s][r]", "[S t][R]", "[u][]", "`[c](d)`", "``[` c](d)``", "`a\nb`", "\\[e](f)", "\\`[g](h)`"),
]
BLOCKS = [
    *("```python\n[a](b)\n# c\n```", "~~~\n```\n[a](b)\n~~~", "````\n```\n[x](y)\n```\n````"),
    *("<!-- a\n\n[b](c)\n-->", "[r]: r.md", "[u]: <u.md> 'T'", "[^1]: f", "- [ ] t [a](b)"),
    "| a | b |\n|---|---|\n| [a](b) | `c|d` [e](f) |",
]


def indented(text: str, prefix: str) -> str:
    return "\n".join(prefix + line if line else line for line in text.split("\n"))


def inside(blocks: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        blocks.map(lambda text: "\n".join(f"> {line}".rstrip() for line in text.split("\n"))),
        blocks.map(lambda text: "- x\n\n" + indented(text, "    ")),
        paragraphs.map(lambda text: "1. " + indented(text, "    ")[4:]),
        st.tuples(blocks, blocks).map(lambda two: "!!! note\n\n" + indented("\n\n".join(two), "    ")),
    )


lines = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map(" ".join)
titles = lines.filter(lambda line: "\n" not in line)
paragraphs = st.lists(lines, min_size=1, max_size=3).map("\n".join)
headings = st.builds("{}{}".format, st.sampled_from(["# ", "## ", "#"]), titles)
underlined = st.builds("{}\n{}".format, titles, st.sampled_from(["===", "---"]))
blocks = st.recursive(st.one_of(paragraphs, headings, underlined, st.sampled_from(BLOCKS)), inside, max_leaves=4)


@settings(max_examples=60, derandomize=True)
@given(st.lists(blocks, min_size=1, max_size=4).map("\n\n".join))
@example("[a](b\n\n> c)\n\n```\n[a](b)\n````\n")
def test_links_and_headings_are_those_that_are_rendered(text: str) -> None:
    # Before version 13, pymdownx lets a longer run of backticks end a span of code.
    assume(int(version("pymdown-extensions").split(".")[0]) >= 13 or "````" not in text)
    html = MARKDOWN.reset().convert(text)
    assert sorted(map(str, scanned(text))) == sorted(map(str, Page(html).seen)), html


def test_this_site_s_own_pages_agree_with_what_is_rendered() -> None:
    """Every heading of every note, and of the log."""
    for path in sorted((ROOT / "docs").rglob("*.md")):
        text = path.read_text("utf-8")
        body = text[next((token.end for token in tokens(text, "front")), 0) :]
        rendered = [seen for seen in Page(MARKDOWN.reset().convert(body)).seen if seen[0] == "heading"]
        assert [seen for seen in scanned(body) if seen[0] == "heading"] == rendered, path
