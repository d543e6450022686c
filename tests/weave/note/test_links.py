"""``[[…]]`` leads where an author means it to; what is no such link is left as it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown import Markdown
from mkdocs.config import load_config

from weave.note import headings
from weave.note.finish import without_marks
from weave.site.build import open_book
from weave.source import markdown
from weave.source.problem import Problem

from .bench import Bench

if TYPE_CHECKING:
    from conftest import Small

TENSORS = """---
description: One matrix for all of it.
aliases: [Kronecker algebra, "⊗"]
---

# Tensor products

## What $A \\otimes B$ means

## The rule: left meets left

## Twice { #own-id }

## Twice
"""
GLOSSARY = """# Glossary

tensor product
Kronecker product
:   Every entry of one times the whole of the other. See [[tensor products]].

decay
:   What heat does. Also in [[heat]].
"""
ENTRY = "---\ntitle: A first day\ndate: 2026-01-02\nslug: first-day\n---\n\n# A first day\n\nWork.\n"


def add_pages(small: Small) -> Small:
    small.write("docs/notes/tensor-products.md", TENSORS)
    small.write("docs/pages/glossary.md", GLOSSARY)
    small.write("docs/pages/why.md", "# Why this notebook\n")
    small.write("docs/log/posts/2026-01-02-first-day.md", ENTRY)
    small.replace("mkdocs.yml", "  - attr_list\n", "  - attr_list\n  - def_list\n")
    return small


@pytest.fixture
def linked(small: Small) -> Small:
    return add_pages(small)


class LinkBench(Bench):
    """Renders one note among the others, with its links to headings resolved."""

    def render(self, text: str, path: str = "docs/notes/x.md") -> tuple[str, list[Problem]]:
        html, wrong = super().render(text, path)
        return without_marks(headings.link(html, self.book.pages)), wrong


@pytest.fixture(scope="module")
def desk(new_small: Callable[[], Small]) -> LinkBench:
    small = add_pages(new_small())
    with small.here():
        book = open_book()
        book.execute()
        config = load_config("mkdocs.yml")
    bench = LinkBench(book, Markdown(extensions=config.markdown_extensions, extension_configs=config.mdx_configs))
    for path in ("docs/notes/tensor-products.md", "docs/notes/heat.md", "docs/pages/glossary.md"):
        bench.render(small.read(path), path)
    return bench


TO = "tensor-products.md"


@pytest.mark.parametrize(
    ("written", "href", "text"),
    [
        ("[[Tensor products]]", TO, "Tensor products"),
        ("[[tensor products]]", TO, "tensor products"),
        ("[[TENSOR-products]]", TO, "TENSOR-products"),
        ("[[tensor-products]]", TO, "tensor-products"),
        ("[[notes/tensor-products]]", TO, "notes/tensor-products"),
        ("[[tensor-products.md|this]]", TO, "this"),
        ("[[Kronecker algebra]]", TO, "Kronecker algebra"),
        ("[[⊗]]", TO, "⊗"),
        ("[[tensor products|Kronecker]]", TO, "Kronecker"),
        ("[[tensor product]]", "../pages/glossary.md#term-tensor-product", "tensor product"),
        ("[[Kronecker products]]", "../pages/glossary.md#term-tensor-product", "Kronecker products"),
        ("[[tensor product#twice]]", f"{TO}#own-id", "tensor product &gt; twice"),
        ("[[heat]]", "heat.md", "heat"),
        ("[[How heat decays]]", "heat.md", "How heat decays"),
        ("[[a first day]]", "../log/posts/2026-01-02-first-day.md", "a first day"),
        ("[[first-day]]", "../log/posts/2026-01-02-first-day.md", "first-day"),
        ("[[why this notebook|why]]", "../pages/why.md", "why"),
        ("[[heat#On $\\alpha$ decay|there]]", "heat.md#on-alpha-decay", "there"),
        ("[[heat#on alpha decay]]", "heat.md#on-alpha-decay", "heat &gt; on alpha decay"),
        ("[[heat#on-alpha-decay|*so*]]", "heat.md#on-alpha-decay", "<em>so</em>"),
        (f"[[{TO}#What $A \\otimes B$ means|`code`]]", f"{TO}#what-a-otimes-b-means", "<code>code</code>"),
        ("[[tensor products#The rule: left meets left|rule]]", f"{TO}#the-rule-left-meets-left", "rule"),
        ("[[tensor products#own-id|id]]", f"{TO}#own-id", "id"),
        ("[[tensor products#Tensor products#The rule left meets left|deep]]", f"{TO}#the-rule-left-meets-left", "deep"),
        ("[[#Below]]", "x.md#below", "Below"),
        ("[[#below|down]]", "x.md#below", "down"),
    ],
)
def test_where_it_leads(desk: LinkBench, written: str, href: str, text: str) -> None:
    html, problems = desk.render(f"# Ex\n\nSee {written}.\n\n## Below\n")
    assert problems == []
    link = re.search(r'See <a class="weave-term" href="([^"]*)"[^>]*>(.*?)</a>\.', html)
    assert link and link.groups() == (href, text), html


def test_in_a_table_the_pipe_is_escaped(desk: LinkBench) -> None:
    html, problems = desk.render("| a | b |\n|---|---|\n| [[tensor products\\|this]] | c |\n")
    assert problems == [] and re.search(rf'<td><a class="weave-term" href="{TO}"[^>]*>this</a></td>\s*<td>c</td>', html)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            "[[tensr products]]",
            "no page and no entry of the glossary is called 'tensr products'; the site has: tensor product, ",
        ),
        ("[[tensr#x|y]]", "no page is called 'tensr'; the site has: "),
        (
            "[[heat#on beta decay]]",
            "no heading 'on beta decay' on docs/notes/heat.md; it has: How heat decays, On \\alpha decay",
        ),
        ("[[#Belov]]", "no heading 'Belov' on this page; it has: Below, Ex"),
        ("[[decay#x]]", "no page is called 'decay'"),
    ],
)
def test_a_link_that_leads_nowhere_is_told_with_what_there_is(desk: LinkBench, written: str, said: str) -> None:
    _, problems = desk.render(f"# Ex\n\nOne\ntwo {written}.\n\n## Below\n")
    assert len(problems) == 1 and problems[0].line == 4 and problems[0].message.startswith(said), problems


PIECES = [
    "Words, [a link](heat.md) and *emphasis*.",
    "`[[tensr]]` and ``[[x]] ` ``",
    "```python\ntorch.tensor([[1, 2], [3, 4]])\nx = [[gone]]\n```",
    "~~~\n[[gone]]\n~~~",
    "    [[indented]]",
    "torch.tensor([[1, 2], [3, 4]]) in a sentence",
    "$[[x]]$ and $`[[y]]`$",
    "$$\n[[x]]\n$$",
    "```math\n[[x]]\n```",
    "\\[[escaped]] and [[1]](https://example.org) and [[a][b]]",
    "<!-- [[comment]] -->",
    "[[]] [[ [[[ ]]]",
    "- a\n- [ ] b",
    "> quoted",
    "| `[[a]]` | b |\n|---|---|\n| c | d |",
]


@given(st.lists(st.sampled_from(PIECES), max_size=6))
def test_what_is_no_link_is_the_same_without_them(desk: LinkBench, parts: list[str]) -> None:
    """Code, formulas and brackets: the page is the one that Markdown makes without this syntax."""
    text = "# T\n\n" + "\n\nNext.\n\n".join(parts)
    html, problems = desk.render(text)
    assert problems == []
    pattern = desk.md.inlinePatterns["weave_wiki"]
    desk.md.inlinePatterns.deregister("weave_wiki")
    try:
        assert desk.render(text)[0] == html
    finally:
        desk.md.inlinePatterns.register(pattern, "weave_wiki", 165)


@given(st.text(st.sampled_from("[]|#^()`\\! \nab$"), max_size=60))
def test_no_text_makes_it_fail_or_loses_words(desk: LinkBench, text: str) -> None:
    html, _ = desk.render(text)
    words = re.sub(r"<[^>]+>", "", html)
    assert not re.search("[\U000f0000-\U000ffffd\x02\x03]", html)
    assert "weave-error" in html or "](" in text or words.count("b") == text.count("b")


WORDS = [
    "plain words",
    "[[heat]]",
    "`[[heat]]`",
    "[[#t|up]]",
    "\\[[heat]]",
    "[[tensor products|a $b$ c]]",
    "[x](heat.md)",
]


@given(st.lists(st.one_of(st.sampled_from(WORDS), st.sampled_from(PIECES)), max_size=8))
def test_the_source_is_read_as_it_is_rendered(desk: LinkBench, parts: list[str]) -> None:
    """`weave rename` and the rendered page agree on what is a link."""
    parts = [part for part in parts if "$" not in part or part in WORDS]  # TeX with brackets is no name of a note
    parts = [part for part in parts if "indented" not in part]
    text = "# T\n\n" + "\n\nNext.\n\n".join(parts)
    html, _ = desk.render(text)
    assert len(list(markdown.tokens(text, "wiki"))) == html.count('class="weave-term"')
    assert len(list(markdown.tokens(text, "link", "image", "definition"))) == html.count("<a ") - html.count(
        'class="weave-term"'
    ) - html.count("headerlink")


@given(st.text(max_size=200))
def test_prose_keeps_every_line_and_column(text: str) -> None:
    seen = markdown.prose(text)
    assert len(seen) == len(text)
    assert all(a == b or (a == " " and b != "\n") for a, b in zip(seen, text, strict=True))


def test_two_pages_of_one_name(linked: Small) -> None:
    linked.write("docs/pages/other.md", "---\naliases: [kronecker-algebra]\n---\n\n# Tensor Products\n")
    output = linked.weave("check").output
    assert "docs/pages/other.md:5: 'Tensor Products' is what docs/notes/tensor-products.md is called too; " in output
    assert "docs/pages/other.md:2: 'kronecker-algebra' is what docs/notes/tensor-products.md is called too; " in output
    assert output.endswith("2 problems\n")


def test_aliases_that_are_no_names(linked: Small) -> None:
    linked.replace("docs/notes/tensor-products.md", "aliases: [", "aliases: [{a: b}, ")
    assert "docs/notes/tensor-products.md:3: aliases is not a list of names" in linked.weave("check").output


def test_links_in_a_notebook_s_text_and_on_the_built_pages(linked: Small) -> None:
    heat = "code/notebooks/heat.py"
    linked.replace(
        heat,
        "# # Heat\n#\n",
        "# # Heat\n#\n# See [[tensor products]], [[heat#on alpha decay|there]], [[#Heat|up]].\n# Code `[[x]]`.\n#\n",
    )
    linked.replace(
        "docs/notes/heat.md", "See [the", "Like [[tensor products#twice]] and [[#On $\\alpha$ decay]]. See [the"
    )
    linked.write("docs/.obsidian/plugin/README.md", "# No page\n\n[[gone]]\n")
    assert linked.weave("check").exit_code == 0
    built = linked.build()
    assert built.returncode == 0, built.stderr
    notebook = linked.read("site/notebooks/heat/index.html")
    assert re.search(r'href="../../notes/tensor-products/"[^>]*>tensor products</a>', notebook)
    assert re.search(r'href="../../notes/heat/#on-alpha-decay"[^>]*>there</a>', notebook)
    assert re.search(r'href="\./#heat"[^>]*>up</a>', notebook) and "<code>[[x]]</code>" in notebook
    note = linked.read("site/notes/heat/index.html")
    assert re.search(r'href="../tensor-products/#own-id"', note) and re.search(r'href="\./#on-alpha-decay"', note)
    assert "data-weave" not in note and not list(linked.root.glob("site/.obsidian"))

    linked.replace(heat, "[[tensor products]]", "[[tensor produce]]")
    assert (
        "code/notebooks/heat.py:4: no page and no entry of the glossary is called 'tensor produce'"
        in linked.weave("check").output
    )


def test_what_is_left_to_do(linked: Small) -> None:
    linked.write(
        "docs/notes/todo.md",
        "---\ntitle: Left\n---\n\n# Left\n\n- [ ] One `x`\n  goes on\n- [x] done\n    * [ ] nested $x$\n\n"
        "```\n- [ ] code\n```\n\n> 1. [ ] quoted\n\n<!--\n- [ ] hidden\n-->\n- [ ] last\n",
    )
    result = linked.weave("todo")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "docs/notes/todo.md:7: One `x` goes on",
        "docs/notes/todo.md:10: nested $x$",
        "docs/notes/todo.md:16: quoted",
        "docs/notes/todo.md:21: last",
    ]
