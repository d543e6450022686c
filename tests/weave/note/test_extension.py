"""Links in notes: each knows its line wherever it stands, and what is no link of ours is left alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from markdown import Markdown
from mkdocs.config import load_config

from weave.book.book import Book
from weave.note.finish import without_marks
from weave.note.gfm import register
from weave.note.lines import mark
from weave.note.page import Page, rendering
from weave.source.layout import Layout
from weave.source.problem import nearest

from .bench import Bench

if TYPE_CHECKING:
    from conftest import Small

HEAT = "../../code/notebooks/heat.py"
GOOD_BLOCKS = [
    "A paragraph\nof two lines.",
    f"A [good link](heat.md), a [claim]({HEAT}#values) and an <me@example.org>.",
    "```python\nx = [1](nowhere.md)\n# [0.9](x.py#=y)\n```",
    "~~~\n```\n[1](nowhere.md)\n~~~",
    "````text\n```\n[a](b.md)\n```\n````",
    "    [indented](code.md)\n    $`x",
    "Inline `[a](b.md)` and ``[a](b.md) ` `` code.",
    "$$\na\n+ b\n$$",
    "```math\na\n\n+ b\n```",
    "$$\\begin{aligned}\na &= b \\\\\n&= c\n\\end{aligned}$$",
    "- a list\n- of items\n\n    with a paragraph\n\n    ```python\n    [a](b.md)\n    ```\n- end",
    "1. one\n   continued\n2. two",
    "> quoted\n> lines\n>\n> > twice",
    "| a | b |\n|---|---|\n| $x$ | `[a](b.md)` |",
    "!!! note\n    An admonition.\n\n    Of two paragraphs.",
    '??? success "Solution"\n    ```python\n    [a](b.md)\n    ```',
    "<!-- a comment\nwith [a link](nowhere.md)\n-->",
    "<div>\nraw [html](nowhere.md)\n</div>",
    "## A heading { #own-anchor }",
    "# Another\n## In a row",
    "A note[^n].\n\n[^n]: Below, [linked](heat.md).",
    "[ref]: heat.md\n[other]: https://example.org/a",
    "Term\n:   Definition [linked](heat.md).",
    "*[HTML]: Markup",
    "- [ ] a task\n- [x] done",
    "Broken  \nby hand",
    "---",
    "***",
    "\\[escaped\\](nowhere.md)",
    "Code `[@x]`, ``a `[@x]` ``, \\[@x\\], [@x](https://example.org/@x), <a@example.org> and @x.",
    "```python\n[@x]\n```",
    "```\nunclosed by its other fence ~~~\n```",
    "Price: $5 and 10$.",
    f"![A figure.]({HEAT}#decay)",
    f"[0.5]({HEAT}#=rate)",
    "",
    "\n\n",
]
SLIPS = {
    "link": ("See [this](gone.md).", 0),
    "third-line": ("One\ntwo\nsee [this](gone.md).", 2),
    "claim": (f"It is [0.7]({HEAT}#=rate).", 0),
    "embed": (f"![A figure.]({HEAT}#gone)", 0),
    "heading": ("## See [this](gone.md)", 0),
    "list": ("- a\n- b\n    - c\n    - see [this](gone.md)", 3),
    "list-paragraph": ("1. a\n\n    b\n\n    see [this](gone.md)", 4),
    "list-embed": (f"- a\n\n    ![A figure.]({HEAT}#gone)", 2),
    "quotation": ("> a\n>\n> see [this](gone.md)", 2),
    "quoted-list": ("> - a\n> - see [this](gone.md)", 1),
    "table": ("| a | b |\n|---|---|\n| c | d |\n| e | [this](gone.md) |", 3),
    "admonition": ("!!! note\n    a\n\n    see [this](gone.md)", 3),
    "nested-admonition": ('!!! note\n    ??? tip "t"\n        see [this](gone.md)', 2),
    "footnote": ("a[^foot]\n\n[^foot]: b\n    see [this](gone.md)", 3),
    "definition": ("see [this][gone]\n\n[gone]: gone.md", 2),
    "quoted-definition": ("> see [this][gone]\n>\n> [gone]: gone.md", 2),
    "definition-list": ("Term\n:   a\n\n    see [this](gone.md)", 3),
    "on-the-next-line": ("see [this](\ngone.md)", 1),
    "in-angle-brackets": ("see [this](<gone.md>)", 0),
    "with-a-title": ('see [this](gone.md "title")', 0),
    "image": ("![this](gone.png)", 0),
    "linked-image": ("[![this](https://example.org/x.png)](gone.md)", 0),
    "emphasis": ("**see [this](gone.md)**", 0),
    "strong-text": ("a\n[**0.7**](../../code/notebooks/heat.py#=rate)", 1),
    "after-code": ("`code` and ``co`de`` [this](gone.md)", 0),
    "after-a-span-over-lines": ("a `b\nc` see [this](gone.md) `d`", 1),
    "after-escaped-ticks": ("a \\`b [this](gone.md) c\\`", 0),
    "after-math": ("$x$\nand $`y`$ [this](gone.md)", 1),
    "citation": ("a\nsee [@gone] and", 1),
    "citation-over-lines": ("see [@gone,\npage 3]", 0),
    "listed-citation": ("1. a\n\n    > see [@gone]", 2),
    "citation-in-a-table": ("| a |\n|---|\n| [@gone, p. 3] |", 2),
    "citation-after-links": ("[a](heat.md) `[@x]` [@gone]", 0),
    "unclosed-citation": ("a\nsee [@gone and", 1),
    "math": ("a\nb $\\gone$", 1),
    "display-math": ("$$\na \\\\\n\\gone\n$$", 2),
    "fenced-math": ("```math\na\n\\gone\n```", 2),
    "listed-math": ("- a\n\n    $$\n    \\gone\n    $$", 3),
    "quoted-math": ("> $$\n> a\n> \\gone\n> $$", 2),
    "unclosed-fence": ("```\nsee [this](gone.md)", 1),
}


@dataclass
class NoteBench(Bench):
    config: Any

    def plain(self, without: str) -> Markdown:
        names = [name for name in self.config.markdown_extensions if name != without]
        md = Markdown(extensions=names, extension_configs=self.config.mdx_configs)
        if without == "weave":
            register(md)  # how Markdown reads lists and the like
        return md


@pytest.fixture(scope="module")
def bench(new_small: Callable[[], Small], request: pytest.FixtureRequest) -> NoteBench:
    small = new_small()
    config = load_config(str(request.config.rootpath / "mkdocs.yml"))
    book = Book(Layout(small.root))
    with small.here():
        book.execute()
    md = Markdown(extensions=config.markdown_extensions, extension_configs=config.mdx_configs)
    return NoteBench(book, md, config)


blocks = st.lists(st.sampled_from(GOOD_BLOCKS), max_size=6)
fronts = st.sampled_from(
    ["", "---\ntitle: X\n---\n", "---\ntitle: X\ndescription: |\n  a\n  b\n---\n\n\n", "title: X\ntags: a\n\n", "\n\n"]
)


@pytest.mark.parametrize("name", SLIPS)
@settings(max_examples=25)
@given(front=fronts, before=blocks, after=blocks)
def test_the_line_is_true_whatever_stands_around(
    bench: Bench, name: str, front: str, before: list[str], after: list[str]
) -> None:
    text, offset = SLIPS[name]
    assume(sum("[^n]:" in block for block in [*before, *after]) < 2)  # two footnotes of one name
    assume(front or before[:1] != ["---"])  # two rules would be the marks of front matter
    if name == "unclosed-fence":  # else a fence below would close it
        after = [block for block in after if "`" not in block and "$" not in block]
    head = front + "".join(f"{block}\n\nNext.\n\n" for block in before) + "Here:\n\n"
    note = head + text + "\n\n" + "".join(f"\nThere:\n\n{block}\n" for block in after)
    _, problems = bench.render(note)
    if name == "unclosed-fence":  # which GitHub takes for code, up to the end
        problems = [problem for problem in problems if "GitHub" not in problem.message]
    assert [problem.line for problem in problems] == [head.count("\n") + 1 + offset], (note, problems)


@given(fronts, st.lists(st.sampled_from(sorted(SLIPS)), min_size=2, max_size=5))
def test_the_same_slip_twice_is_told_twice(bench: Bench, front: str, names: list[str]) -> None:
    """A line is the slip's own and not the first one that looks alike."""
    names = [
        name
        for name in names
        if "definition" not in name and name not in ("footnote", "unclosed-fence", "on-the-next-line")
    ]
    note, expected = front, []
    for name in names:
        text, offset = SLIPS[name]
        note += "Here:\n\n"
        expected.append(note.count("\n") + 1 + offset)
        note += text + "\n\n"
    _, problems = bench.render(note)
    assert [problem.line for problem in problems] == expected


LINKLESS = [
    block for block in GOOD_BLOCKS if not re.search(r"(?<!`)\]\((heat\.md|\.\./)|\]: heat\.md", block)
] + [
    "[out](https://example.org/a?b=c&d=e#f 'title')",
    "[mail](mailto:me@example.org) <me@example.org> <https://example.org/x>",
    "![an image](https://example.org/x.png){ width=3 }",
    "[up](#own)\n\n## Own { #own }",
    "`a](b` [c](https://example.org) ``](``",
    "[a](https://example.org/(x)) and ](b and [c](",
    "[ref][r] and [r]\n\n[r]: https://example.org 'r'",
    "\ue000, \U0010ffff and an icon font's \U000f0002",
]  # fmt: skip


@given(st.lists(st.sampled_from(LINKLESS), max_size=8))
def test_a_page_without_links_of_ours_is_the_same_without_the_extension(bench: NoteBench, parts: list[str]) -> None:
    note = "# Title\n\n" + "\n\nNext.\n\n".join(dict.fromkeys(parts))
    html, problems = bench.render(note)
    assert problems == []
    with rendering(Page("docs/notes/x.md")):
        assert without_marks(html) == bench.plain("weave").convert(note)


@given(st.text(st.sampled_from("[]()!@;,`$*_#>|-\\<> \nab\t~:^.\"'/=?&%{}"), max_size=80))
def test_no_text_makes_it_fail(bench: Bench, text: str) -> None:
    html, _ = bench.render(text)
    assert not any(digit in html for digit in mark(0x1234))


@given(st.text(max_size=60))
def test_no_address_makes_it_fail(bench: Bench, url: str) -> None:
    url = url.replace("\n", " ").replace("\r", " ")
    for note in (f"[a]({url})", f"[a](<{url}>)", f"![a]({url})", f"[a][b]\n\n[b]: {url}"):
        _, problems = bench.render(note)
        assert all(problem.path == "docs/notes/x.md" and problem.line in (1, 3) for problem in problems)


@pytest.mark.parametrize(
    "url", ["a" * 5000 + ".md", "%00.md", "http://[", "//", "?", "#", "..", "../..", "./", "a\\b.md"]
)
def test_odd_addresses(bench: Bench, url: str) -> None:
    _, problems = bench.render(f"One\n[a]({url})")
    assert all(problem.line == 2 for problem in problems)


def test_a_byte_order_mark_is_no_part_of_a_note(small: Small) -> None:
    """Editors on Windows write one; front matter and lines stay what they are."""
    small.write("docs/notes/heat.md", "\ufeff" + small.read("docs/notes/heat.md").replace("[0.5]", "[0.7]"))
    result = small.weave("check")
    assert result.output.startswith("docs/notes/heat.md:8: the note says 0.7;") and "1 problem" in result.output


def test_windows_line_ends(small: Small) -> None:
    note = small.read("docs/notes/heat.md").replace("[0.5]", "[0.7]").replace("\\infty", "\\infinity")
    small.write("docs/notes/heat.md", note.replace("\n", "\r\n"))
    small.write("code/notebooks/heat.py", small.read("code/notebooks/heat.py").replace("\n", "\r\n"))
    output = small.weave("check").output
    assert re.findall(r"heat\.\w+:\d+", output) == ["heat.md:8", "heat.md:18"], output
    assert "runs" not in output


# -- what becomes of links


def test_a_claim(bench: Bench) -> None:
    html, _ = bench.render(f"It is [0.5]({HEAT}#=rate).")
    assert re.search(
        r'<a class="weave-claim" href="\.\./notebooks/heat\.ipynb#value-rate" title="rate = 0\.5\n[^"]*">0\.5</a>', html
    )


def test_a_claim_in_a_table_a_list_and_math(bench: Bench) -> None:
    text = f"| a |\n|---|\n| [0.5]({HEAT}#=rate) |\n\n- [$0.5$]({HEAT}#=rate)\n- [*about* 0.52]({HEAT}#=rate)\n"
    html, problems = bench.render(text)
    assert problems == [] and html.count("weave-claim") == 3
    assert [claim.line for claim in bench.book.pages["docs/notes/x.md"].claims] == [3, 5, 6]


def test_an_embed_has_its_figure_caption_code_and_link(bench: Bench) -> None:
    html, _ = bench.render(f"![The *curve* falls as $e^{{-t}}$.]({HEAT}#decay)")
    (figure,) = re.findall(r"<figure.*?</figure>", html, re.DOTALL)
    name = re.search(r'<figure class="weave-figure" id="([^"]+)"', figure)
    assert name
    assert '<svg width="' in figure and f'aria-labelledby="{name[1]}-caption"' in figure and 'role="img"' in figure
    assert re.search(
        rf'<span class="weave-caption" id="{name[1]}-caption">The <em>curve</em> falls as <tex-math>', figure
    )
    assert 'href="../notebooks/heat.ipynb#decay"' in figure and "<details" in figure and "<details open" not in figure
    assert "subplots" in figure
    opened, _ = bench.render(f"![A curve.]({HEAT}?code#decay)")
    assert re.search(r"<details[^>]* open", opened)


def test_the_same_cell_twice_on_a_page_keeps_ids_apart(bench: Bench) -> None:
    html, problems = bench.render(
        f"![One.]({HEAT}#decay)\n\n![Two.]({HEAT}#decay)\n\n- a\n\n    ![Three.]({HEAT}#decay)\n"
    )
    assert problems == [] and html.count("<svg") == 3
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) >= 15 and len(set(ids)) == len(ids)
    for used in re.findall(r'(?:url\(#|href="#|aria-labelledby=")([^)"]+)', html):
        assert used in ids


def test_text_and_values_are_shown_as_text(bench: Bench) -> None:
    html, _ = bench.render(f"![What it says.]({HEAT}#words)")
    assert re.search(r'<pre class="weave-text"[^>]*><code>cooling down</code></pre>', html)


def test_a_theorem_and_a_module(bench: Bench) -> None:
    test = "../../tests/test_heat.py"
    html, problems = bench.render(f"[It cools]({test}#test_cools), [a module](../../code/lab.py), [a test]({test}).")
    assert problems == []
    assert 'class="weave-theorem" href="../source/tests/test_heat.py.md#test_cools"' in html
    assert 'title="A body cools.\ntests/test_heat.py::test_cools"' in html and html.count("weave-badge") == 1
    assert 'href="../source/code/lab.py.md"' in html


def test_ordinary_links_to_notes(bench: Bench) -> None:
    html, problems = bench.render("[a](heat.md) [b](../index.md#small) [c](./heat.md#on-alpha-decay) [d](heat.md?x=1)")
    assert re.findall(r'href="([^"]*)"', html)[:3] == ["heat.md", "../index.md#small", "heat.md#on-alpha-decay"]
    assert problems == []


def test_footnotes_and_own_headings_of_a_notebook_s_prose(small: Small) -> None:
    note = (
        "# %% [markdown]\n# ## Part\n#\n# See[^1] [this](#part), [that](#values), [0.5](#=rate), [it](heat.py#part).\n"
    )
    small.write("code/notebooks/heat.py", note + "#\n# [^1]: A footnote.\n\n" + small.read("code/notebooks/heat.py"))
    small.write("docs/index.md", "# Small\n\n[A part](../code/notebooks/heat.py#part)\n")
    result = small.weave("check")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("3 numbers hold")


def test_names_that_exist_come_nearest_first() -> None:
    names = {"decay", "setup", "values", "words", "phase", "losses", "table", "heads"}
    assert nearest("decai", names).startswith("it has: decay, ")
    assert nearest("phaze", names).startswith("it has: phase, ") and nearest("x", names).endswith(" more")
    assert nearest("x", []) == "it has none" and nearest("x", ["a"], "the site") == "the site has: a"


@pytest.mark.parametrize(
    ("text", "href"),
    [
        ("It is [0.5](#=rate).", "../notebooks/heat.ipynb#value-rate"),
        ("See [how it falls](#decay).", "../notebooks/heat.ipynb#decay"),
        ("![It falls.](#decay)", "../notebooks/heat.ipynb#decay"),
        ("![It falls.](?code#decay)", "../notebooks/heat.ipynb#decay"),
        ("See [below](#below).\n\n## Below", "#below"),
    ],
)
def test_a_name_alone_means_the_notebook_of_the_note_or_a_heading(bench: Bench, text: str, href: str) -> None:
    bench.book.pages.clear()
    html, problems = bench.render(text, "docs/notes/heat.md")
    assert problems == [] and f'href="{href}"' in html
    assert (" open" in html) == ("?code" in text)


def test_a_name_that_a_cell_and_a_heading_have_is_refused_where_it_is_used(bench: Bench) -> None:
    bench.book.pages.clear()
    _, problems = bench.render("![It falls.](#decay)\n\n## Decay", "docs/notes/heat.md")
    assert problems == [], "a picture of a heading means nothing"
    _, problems = bench.render("One [link](#decay).\n\n## Decay", "docs/notes/heat.md")
    [problem] = problems
    assert problem.line == 1 and problem.message.startswith(
        "'#decay' is an anchor of this page and a cell of heat.py; "
    )


def test_a_short_link_without_a_notebook_says_which_one_it_means(bench: Bench) -> None:
    bench.book.pages.clear()
    _, problems = bench.render("One\n[0.5](#=rate)", "docs/notes/x.md")
    assert [str(problem) for problem in problems] == [
        "docs/notes/x.md:2: '#=rate' means the notebook code/notebooks/x.py, which does not exist; "
        "write ../path/to/notebook.py#=rate"
    ]


def test_a_character_that_stands_for_none_is_reported_and_icons_stay(bench: Bench) -> None:
    bench.book.pages.clear()
    html, problems = bench.render("An icon \U000f0002.\n\nAnd \ufdd3 [this](gone.md).", "docs/notes/x.md")
    assert "\U000f0002" in html and "\ufdd3" not in html
    assert [problem.line for problem in problems] == [3, 3]
