"""``weave lint`` finds numbers that a notebook computed and nobody checks, and takes little else for one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weave.book import lint
from weave.note import numbers

if TYPE_CHECKING:
    from conftest import Small

HEAT = "../../code/notebooks/heat.py"
NOTE = "docs/notes/heat.md"
MORE = "claim(rate=RATE, heads=(10, 12), size=20481, share=0.1234, tiny=1.25e-7)"


@pytest.fixture
def small(small: Small) -> Small:
    """Its notebook publishes more; it runs again in each test, so tests do much at once."""
    small.replace("code/notebooks/heat.py", "claim(rate=RATE, heads=(10, 12))", MORE)
    return small


def test_a_bare_number_is_named_with_its_claim_until_it_is_bound_or_waved_through(small: Small) -> None:
    before = small.read(NOTE)
    prose = "Bodies of 20,481 kinds\ncool, 12.3% of them, or 0.123, and\n10 of 12 agree, 0.124 not, to 1.25e-7.\n"
    small.write(NOTE, before + "\n" + prose)
    assert small.weave("check").exit_code == 0
    result = small.weave("lint")
    assert result.exit_code == 1
    first = before.count("\n") + 2
    found = {
        "20,481": (first, "size"),
        "12.3%": (first + 1, "share"),
        "0.123": (first + 1, "share"),
        "10 of 12": (first + 2, "heads"),
        "1.25e-7": (first + 2, "tiny"),
    }
    assert [line for line in result.output.splitlines() if line.startswith("docs/")] == [
        f"{NOTE}:{line}: {text} equals {name} of heat.py; make it a claim [{text}](#={name}), "
        f"or wave it through: <!-- not a claim: {text} -->"
        for text, (line, name) in found.items()
    ]
    # What it says to do is enough, either way.
    bound = prose
    for text, (_, name) in found.items():
        bound = bound.replace(text, f"[{text}](#={name})")
    waved = prose.strip() + f" <!-- not a claim: {', '.join(found)} -->\n"
    for cured in (bound, waved):
        small.write(NOTE, before + "\n" + cured)
        result = small.weave("lint")
        assert result.exit_code == 0, result.output
        assert small.weave("check").exit_code == 0


def test_a_waiver_is_for_its_paragraph_and_goes_when_it_is_not_needed(small: Small) -> None:
    small.write(NOTE, f"# Heat\n\n[0.5]({HEAT}#=rate)\n\n0.123 <!-- not a claim: 0.123 -->\n\n0.123\n\n"
                      "| a | b |\n|---|---|\n| 0.123 | 20481 <!-- not a claim: 0.123, 20481 --> |\n\n"
                      "No number. <!-- not a claim: 0.123 -->\n\n```text\n<!-- not a claim: 7 -->\n```\n")  # fmt: skip
    lines = [line for line in small.weave("lint").output.splitlines() if line.startswith("docs/")]
    assert len(lines) == 2
    assert lines[0].startswith(f"{NOTE}:7: 0.123 equals share of heat.py")
    assert (
        lines[1] == f"{NOTE}:13: waves '0.123' through, which its paragraph does not say; correct or delete the comment"
    )


def test_a_count_is_not_written_with_a_decimal_point(small: Small) -> None:
    small.replace("code/notebooks/heat.py", "tiny=1.25e-7)", "tiny=1.25e-7, layer=16, all_heads=135)")
    small.write(NOTE, small.read(NOTE) + "\nHead 16.0 feeds head 135.0.\n")
    result = small.weave("lint")
    assert result.exit_code == 0, result.output
    small.write(NOTE, small.read(NOTE) + "\nThere are 135 heads.\n")
    assert "135 equals all_heads" in small.weave("lint").output


def test_only_notebooks_that_the_page_uses_count(small: Small) -> None:
    small.write("docs/other.md", "# Other\n\nHere 20481 is a number of its own.\n")
    small.write("docs/cites.md", "# Cites\n\n20481, as [there](../code/notebooks/heat.py#decay).\n")
    result = small.weave("lint")
    assert "docs/other.md" not in result.output and "docs/cites.md:3: 20481 equals size" in result.output


def test_the_comment_is_not_seen_on_the_page(small: Small) -> None:
    small.write(
        NOTE,
        f"# Heat\n\n[0.5]({HEAT}#=rate), 0.123 <!-- not a claim: 0.123 --> so\n\n- 20481 <!-- not a claim: 20481 -->\n",
    )
    small.write("docs/index.md", "# Small\n")
    assert small.build().returncode == 0
    html = (small.root / "site/notes/heat/index.html").read_text()
    assert "not a claim" in html
    assert "not a claim" not in re.sub(r"<!--.*?-->", "", html, flags=re.DOTALL)


def found(text: str) -> list[str]:
    return [one.text for one in lint.bare_numbers(text)]


@pytest.mark.parametrize(
    ("prose", "numbers"),
    [
        ("It is 3.47 nats, 96% of it, 4,920,227 tokens, −0.412, 1.25e-7 and 15.3× so.", None),
        ("In the end 3.47.", ["3.47"]),
        ("(3.47), “3.47”, *3.47*, 3.47; 3.47: 3.47, and 3.47?", ["3.47"] * 7),
        ("| 3.47 | 12.8% |", ["3.47", "12.8%"]),
        ("![A curve that ends at 3.47.](../x.py#cell)", ["3.47"]),
        ("> quoted 3.47\n\n    indented 3.47", ["3.47", "3.47"]),
        ("10 of 12 and 3 of 4", ["10 of 12"]),
        # too little to be told from chance
        ("19 heads, 2.6 times, 7%, 100 steps, 1,000, 0.05, 0.10, 2.6×, 50%, 10%", []),
        ("12% and 5.0%", ["12%", "5.0%"]),
        # not prose
        ("`3.47` and ``a ` 3.47`` and $x = 3.47$ and $`3.47`$", []),
        ("$$\n3.47\n$$", []),
        ("```python\nx = 3.47\n```\n\n~~~\n3.47\n~~~", []),
        (
            "[3.47](x.md), [see 3.47 there][x], [a [3.47] b](x.md), <https://x.org/3.47> https://x.org/3.47\n\n[x]: u",
            [],
        ),
        ("# About 3.47\n\n### 3.47", []),
        ("---\ndescription: It is 3.47.\n---\n", []),
        ("[^a]: Somebody, 3.47, [x](y), pp. 118.5.\n    More 3.47.\n\n    More 3.47.\n\nProse 3.48", ["3.48"]),
        ("[x]: https://x.org/3.47", []),
        ("Said[^347] <span title='3.47'>so</span> [[3.47]] <!-- 3.47 -->", []),
        ("## References and further reading\n\n- A paper, 347 pages, 3.47.\n", []),
        # places and times
        ("2026-11-20, 20 November 2026, November 24, 2026, in 1898 and 2026, the 1990s, at 19:11-21:54", []),
        (
            "section 3.47, Table 347, equations 3.41 and 3.47, §3.47, figure 347, head 18.7, layers 117 to 123",
            [],
        ),
        ("version 3.47, Python 3.11.7, 1.2.3, SmolLM2-135M, GPT-347, x347, v3.47, 347th, 3.47/3", []),
        ("arXiv 2502.02737, seed 347", []),
        # but these are numbers
        ("2,026 is a number, and so is 1898.5", ["2,026", "1898.5"]),
        ("It costs $3.47 there, of 128 dimensions, in a 128-dimensional room", ["3.47", "128", "128"]),
    ],
)
def test_what_counts_as_a_number_of_the_prose(prose: str, numbers: list[str] | None) -> None:
    if numbers is None:
        numbers = ["3.47", "96%", "4,920,227", "−0.412", "1.25e-7", "15.3×"]
    assert found(prose) == numbers


words = st.text("abc xyz.,;()*\n", max_size=30)


@given(words, st.sampled_from(["3.47", "12.5%", "4,920,227", "10 of 12", "1.25e-7"]), words)
def test_lines_are_those_of_the_file(before: str, number: str, after: str) -> None:
    text = f"{before} {number} {after}"
    for one in lint.bare_numbers(text):
        assert one.text == number and one.line == before.count("\n") + 1
    assert len(lint.bare_numbers(text)) <= 1


@given(st.integers(100, 10**7), st.sampled_from([1, 10, 1000]))
def test_what_a_notebook_printed_is_found_as_it_stands(digits: int, scale: int) -> None:
    """However a value is copied into prose, with three digits that count it is seen and taken for what it is."""
    value = digits / scale
    copied = f"{value:,}".removesuffix(".0")
    kept = [one for one in lint.bare_numbers(f"We measured {copied} there.") if numbers.holds(one.written, value)]
    telling = (
        len(re.sub(r"\D", "", copied).strip("0") if "." not in copied else re.sub(r"\D", "", copied).lstrip("0")) >= 3
    )
    year = "," not in copied and "." not in copied and 1500 <= value < 2100
    assert bool(kept) == (telling and not year)
