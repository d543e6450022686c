"""GitHub's alerts and folds become the boxes and folds that admonitions and details are, line for line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weave.book import pages
from weave.note.page import rendering
from weave.site.opened import open_site

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
KINDS = {"NOTE": "note", "TIP": "tip", "IMPORTANT": "info", "WARNING": "warning", "CAUTION": "danger"}


class Desk:
    def __init__(self, small: Small) -> None:
        with small.here():
            self.site, self.md = open_site()
            self.site.execute()

    def render(self, text: str) -> tuple[str, list[str]]:
        with rendering(pages.start(self.site, "docs/notes/x.md", text, text)) as page:
            html = self.md.reset().convert(text)
        return html, [f"{one.line}: {one.message}" for one in page.problems]


@pytest.fixture(scope="module")
def desk(new_small: Callable[[], Small]) -> Desk:
    return Desk(new_small())


def moved_in(text: str, by: str) -> str:
    return "\n".join(f"{by}{line}".rstrip() for line in text.split("\n"))


bodies = st.lists(st.sampled_from(BODIES), min_size=1, max_size=4).map("\n\n".join)
depths = st.sampled_from(["", "    "])


def inside(depth: str, text: str) -> str:
    return (
        f"Before.\n\n1. An item\n\n{moved_in(text, depth)}\n\n2. Next\n" if depth else f"Before.\n\n{text}\n\nAfter.\n"
    )


@given(st.sampled_from(sorted(KINDS)), bodies, depths)
def test_an_alert_is_an_admonition(desk: Desk, kind: str, body: str, depth: str) -> None:
    alert = f"> [!{kind}]\n> **A $t$ title**\n>\n{moved_in(body, '> ')}"
    box = f'!!! {KINDS[kind]} "A $t$ title"\n\n\n{moved_in(body, "    ")}'
    assert desk.render(inside(depth, alert)) == desk.render(inside(depth, box))
    assert f'<div class="admonition {KINDS[kind]}">' in desk.render(inside(depth, alert))[0]


@given(bodies, depths, st.booleans())
def test_a_fold_is_a_fold_also_in_a_list(desk: Desk, body: str, depth: str, opened: bool) -> None:
    fold = f"<details{' open' if opened else ''}>\n<summary>A $t$ title</summary>\n\n{body}\n\n</details>"
    other = f'???{"+" if opened else ""} "A $t$ title"\n\n\n{moved_in(body, "    ")}\n\n'
    html = desk.render(inside(depth, fold))
    assert html == desk.render(inside(depth, other))
    assert re.search(
        r'<details( open="open")?><summary>A <tex-math>t</tex-math> title</summary>', html[0].replace("\n", "")
    )


def test_folds_within_folds_and_alerts_within_them(desk: Desk) -> None:
    inner = "<details>\n<summary>In</summary>\n\nDeep.\n\n> [!TIP]\n> Deeper.\n\n</details>"
    html, problems = desk.render(
        f"<details>\n<summary>Out</summary>\n\nText.\n\n{inner}\n\nMore.\n\n</details>\n\nAfter."
    )
    assert problems == []
    flat = re.sub(r"\s*\n\s*", "", html)
    tip = '<div class="admonition tip"><p class="admonition-title">Tip</p><p>Deeper.</p></div>'
    inner_html = f"<details><summary>In</summary><p>Deep.</p>{tip}</details>"
    assert flat == f"<details><summary>Out</summary><p>Text.</p>{inner_html}<p>More.</p></details><p>After.</p>"


def test_a_note_without_a_title_is_an_aside(desk: Desk) -> None:
    html, _ = desk.render("> [!NOTE]\n> Aside.\n\n> [!WARNING]\n> Beware.\n\n> plain\n")
    assert '<div class="admonition side">\n<p>Aside.</p>' in html
    assert '<p class="admonition-title">Warning</p>\n<p>Beware.</p>' in html and "<blockquote>\n<p>plain</p>" in html


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("> [!NOTICE]\n> x", "1: [!NOTICE] is none of [!NOTE], [!TIP], [!IMPORTANT], [!WARNING], [!CAUTION]"),
        ("> [!NOTE] Title\n> x", "1: [!NOTE] stands alone on its line; put a title in **bold** on the next"),
        ("One.\n\n<details>\n<summary>S</summary>\n\nx", "3: <details> is not closed; write </details> below it, "),
        ("> [!NOTE]\n> **T**\n>\n> see [this](gone.md)", "4: no file docs/notes/gone.md"),
        ("<details>\n<summary>S</summary>\n\n- a\n\n    $\\gone$\n\n</details>", "6: bad math: "),
    ],
)
def test_what_is_wrong_is_told_with_its_line(desk: Desk, text: str, said: str) -> None:
    _, problems = desk.render(text)
    assert len(problems) == 1 and problems[0].startswith(said), problems


@given(
    st.lists(st.sampled_from(["```\n> [!NOTE]\n<details>\n<summary>S</summary>\n```", "`<details>`", "<b>x</b>", "a"]))
)
def test_code_is_left_alone(desk: Desk, parts: list[str]) -> None:
    html, problems = desk.render("\n\n".join(parts))
    assert problems == [] and "admonition" not in html and "<details" not in html
