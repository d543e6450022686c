"""Boxes and folds as GitHub has them: ``> [!NOTE]`` and ``<details>``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown import Markdown
from mkdocs.config import load_config

from weave.book.book import Book
from weave.source.layout import Layout

from .bench import Bench

if TYPE_CHECKING:
    from conftest import Small

BODIES = [
    "Plain words\nin two lines.",
    "A [link](heat.md), $x$ and `code`.",
    "- a list\n- of two\n\n    with a paragraph",
    "```python\nx = 1\n\n> y\n```",
    "$$\na\n+ b\n$$",
    "> quoted",
    "| a | b |\n|---|---|\n| $x$ | c |",
    "**bold** begins it.",
    "1. one\n2. two",
]


@pytest.fixture(scope="module")
def bench(new_small: Callable[[], Small], request: pytest.FixtureRequest) -> Bench:
    config = load_config(str(request.config.rootpath / "mkdocs.yml"))
    md = Markdown(extensions=config.markdown_extensions, extension_configs=config.mdx_configs)
    return Bench(Book(Layout(new_small().root)), md)


def indented(text: str, by: str) -> str:
    return "\n".join(f"{by}{line}".rstrip() for line in text.split("\n"))


def inside(depth: str, text: str) -> str:
    listed = f"Before.\n\n1. An item\n\n{indented(text, depth)}\n\n2. Next\n"
    return listed if depth else f"Before.\n\n{text}\n\nAfter.\n"


bodies = st.lists(st.sampled_from(BODIES), min_size=1, max_size=4).map("\n\n".join)
depths = st.sampled_from(["", "    "])


@given(bodies, depths, st.booleans())
def test_a_fold_is_a_fold_also_in_a_list(bench: Bench, body: str, depth: str, opened: bool) -> None:
    fold = f"<details{' open' if opened else ''}>\n<summary>A $t$ title</summary>\n\n{body}\n\n</details>"
    other = f'???{"+" if opened else ""} "A $t$ title"\n\n\n{indented(body, "    ")}\n\n'
    html = bench.render(inside(depth, fold))
    assert html == bench.render(inside(depth, other))
    title = r'<details( open="open")?><summary>A <tex-math>t</tex-math> title</summary>'
    assert re.search(title, html[0].replace("\n", ""))


def test_folds_within_folds_and_boxes_within_them(bench: Bench) -> None:
    inner = "<details>\n<summary>In</summary>\n\nDeep.\n\n> [!TIP]\n> Deeper.\n\n</details>"
    html, problems = bench.render(
        f"<details>\n<summary>Out</summary>\n\nText.\n\n{inner}\n\nMore.\n\n</details>\n\nAfter."
    )
    assert problems == []
    flat = re.sub(r"\s*\n\s*", "", html)
    tip = '<div class="admonition tip"><p class="admonition-title">Tip</p><p>Deeper.</p></div>'
    inner_html = f"<details><summary>In</summary><p>Deep.</p>{tip}</details>"
    assert flat == f"<details><summary>Out</summary><p>Text.</p>{inner_html}<p>More.</p></details><p>After.</p>"


@pytest.mark.parametrize("kind", ["NOTE", "TIP", "IMPORTANT", "WARNING", "CAUTION"])
def test_a_box_has_its_kind_its_title_and_what_is_in_it(bench: Bench, kind: str) -> None:
    html, problems = bench.render(f"> [!{kind}]\n> **Beware**\n>\n> of $x$.\n\n> plain\n")
    head = f'<div class="admonition {kind.lower()}">\n<p class="admonition-title">{kind.title()}</p>'
    assert problems == [] and head in html and "<p><strong>Beware</strong></p>" in html
    assert "<blockquote>\n<p>plain</p>" in html


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("One.\n\n<details>\n<summary>S</summary>\n\nx", "3: <details> is not closed; write </details> below it, "),
        ("> [!NOTE]\n> **T**\n>\n> see [this](gone.md)", "4: no file docs/notes/gone.md"),
        ("<details>\n<summary>S</summary>\n\n- a\n\n    $\\gone$\n\n</details>", "6: bad math: "),
    ],
)
def test_a_problem_inside_has_its_line(bench: Bench, text: str, message: str) -> None:
    _, problems = bench.render(text)
    [problem] = problems
    assert f"{problem.line}: {problem.message}".startswith(message)


@given(
    st.lists(st.sampled_from(["```\n> [!NOTE]\n<details>\n<summary>S</summary>\n```", "`<details>`", "<b>x</b>", "a"]))
)
def test_code_is_left_alone(bench: Bench, parts: list[str]) -> None:
    html, problems = bench.render("\n\n".join(parts))
    assert problems == [] and "admonition" not in html and "<details" not in html
