"""TeX that would be shown raw is found, at its line; prices, variables of a shell and escaped signs are left alone."""

from __future__ import annotations

import pytest

from weave.source.leftovers import find
from weave.source.markdown import tokens

TEX = [
    r"CO$_2$",
    r"H$_2$O",
    r"10$\times$ faster",
    r"3$\times$3",
    r"5$\mu$m",
    "设$x$为实数",
    "the$x$",
    "$x$y",
    "a$x$b",
    "$ x $",
    "$x $",
    "$x\n\ny$",
    "The value $x_1 is small.",
    r"So $\alpha is",
    r"Inline \(x^2\).",
    "\\[\nE = mc^2\n\\]",
    "\\begin{align}\na &= b \\\\\nc &= d\n\\end{align}",
    "a $ x^2 $ b",
    "is $x = 1 here",
    "- a $ y $",
    "| $ a $ | b |\n|---|---|",
    "$ x + 1 $",
    "$f(x) = 2 x",
    "and x^2$ is",
    "\\\\(x\\\\)",
    "$\\frac{a}{b} $",
    "f$(x)$",
    "n$-th$",
]
TEXT = [
    "$5 and $6",
    "costs $5, then $10.",
    "$HOME:$PATH",
    "US$ 5 and US$ 6",
    "a $ sign",
    "\\$x\\$",
    "`$x $`",
    "$5-$10",
    "from $5 to 10$",
    "${HOME}/$USER",
    "$x$-axis and ($p$)",
    "the $k$th",
    "5$ and 6$",
    "    echo $x",
    "A$AP Rocky and Ke$ha",
    "$1,000.50 or $2k",
    "$$\nx\n$$",
    "\\[sic\\]",
    "\\[a\\](b)",
    "[a](b$c$d)",
    "pay $5/month ($60/year)",
    "$5 = 5 USD, $6 = 6 USD",
    "in $ or €",
    "Regex `\\(a\\)`",
    "cost_a is $5 and cost_b is $6",
    '<a href="$x ">a</a>',
    "$5 < $6",
    "$100 (about £80), $200_000",
    "jQuery $ and $.ajax",
    "$5M to $10M",
    "\\[@x\\]",
    "a \\* b \\(c",
]


@pytest.mark.parametrize("text", TEX)
def test_tex_that_is_no_formula_is_found_at_its_line(text: str) -> None:
    lines = [line for line, _ in find(f"# T\n\n{text}\n", set())]
    assert lines and all(3 <= line <= 3 + text.count("\n") for line in lines)


@pytest.mark.parametrize("text", TEXT)
def test_what_is_no_tex_is_left_alone(text: str) -> None:
    code = {3} if text.startswith("    ") else set()
    assert list(find(f"# T\n\n{text}\n", code)) == []


@pytest.mark.parametrize("text", TEX)
def test_no_case_is_a_formula_already(text: str) -> None:
    assert not any(token["tex"] == text.strip("$") for token in tokens(text, "math"))
