"""At the foot of a note stands who links to it, with the sentence."""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weave.book import mentions

if TYPE_CHECKING:
    from conftest import Small

HERE, THERE = "notes/b/", "../a/"


def sentences(html: str) -> list[str]:
    return [one.sentence for one in mentions.find(html, HERE) if one.target == "notes/a/"]


LINK = f'<a href="{THERE}#x">this note</a>'


@pytest.mark.parametrize(
    ("html", "sentence"),
    [
        (f"<p>One. Two {LINK} of it! Three?</p>", "Two this note of it!"),
        (f"<p>{LINK}</p>", "this note"),
        (f"<p>As (e.g. by A. Turing) in {LINK}. Next.</p>", "As (e.g. by A. Turing) in this note."),
        (f"<p>He said “so.” See {LINK} with 1.5 of it. No.</p>", "See this note with 1.5 of it."),
        (f"<p>First. So “A B … A” goes on. See {LINK}.</p>", "So “A B … A” goes on. See this note."),
        (f"<p>First. “One. Two. Three four” is in {LINK}.</p>", "“One. Two. Three four” is in this note."),
        (
            f"<p>So. With <tex-math>a &lt; b. C</tex-math>, {LINK}. No.</p>",
            "With <tex-math>a &lt; b. C</tex-math>, this note.",
        ),
        (
            f'<p>At <tex-math class="display inline">x</tex-math> <em>by {LINK}</em> &amp; <code>f. G</code></p>',
            'At <tex-math class="display inline">x</tex-math> by this note &amp; <code>f. G</code>',
        ),
        (f"<ul><li>First.<ul><li>Inner {LINK}.</li></ul></li></ul>", "Inner this note."),
        (f"<table><tr><td>a</td><td>in {LINK} of it</td></tr></table>", "in this note of it"),
        (f'<p>A<sup id="fnref:x"><a class="footnote-ref" href="#fn:x">1</a></sup> b {LINK} c.</p>', "A b this note c."),
        (f"<p>A long enough sentence. See {LINK}.</p>", "A long enough sentence. See this note."),
        (f"<p>a<br>b {LINK} c\nd <svg><text>No. X</text></svg>e</p>", "a b this note c d e"),
    ],
)
def test_the_sentence_of_a_link(html: str, sentence: str) -> None:
    assert sentences(html) == [sentence]


@pytest.mark.parametrize(
    "html",
    [
        '<p><a href="../c/">no</a> <a href="https://example.org/notes/a/">no</a> <a href="#a">no</a></p>',
        f'<pre><a href="{THERE}">no</a></pre>',
        f'<h2>H<a class="headerlink" href="{THERE}">no</a></h2>',
        f'<p><a href="{THERE}"></a></p>',
    ],
)
def test_what_is_no_mention(html: str) -> None:
    assert sentences(html) == []


words = st.sampled_from(
    ["word", "e.g.", "End.", "“Quote.”", "1.5", "<tex-math>x. Y</tex-math>", "&lt;", "<em>em</em>", "A"]
)


@given(st.lists(words), st.lists(words))
def test_a_sentence_is_a_whole_part_of_its_text(before: list[str], after: list[str]) -> None:
    html = f"<p>{' '.join([*before, LINK, *after])}</p>"
    (sentence,) = sentences(html)
    plain = re.sub(r"</?(?:p|em|a)\b[^>]*>", "", html)
    assert "this note" in sentence and unescape(sentence) in unescape(plain)
    assert sentence.count("<tex-math>") == sentence.count("</tex-math>")


def test_the_foot_of_a_built_note(small: Small) -> None:
    small.write(
        "docs/notes/cold.md",
        "# Cold *things*\n\nFirst. Unlike [[heat]], $e^{-t}$ grows here. Last.\n\n"
        "Also [heat](heat.md#x).\n\n## X { #x }\n",
    )
    small.replace("docs/notes/heat.md", "## On $", "## X { #x }\n\n## On $")
    small.replace("code/notebooks/heat.py", "is positive.", "is positive, says [the note](../../docs/notes/heat.md).")
    small.write("docs/pages/reading.md", "# Reading\n\n<!-- weave:reading -->\n\n<!-- weave:map -->\n")
    built = small.build()
    assert built.returncode == 0, built.stderr
    html = small.read("site/notes/heat/index.html")
    (foot,) = re.findall(r'<section class="weave-mentions".*?</section>', html, re.DOTALL)
    assert re.findall(r'<li><a href="([^"]*)">(.*?)</a>', foot) == [
        ("../../", "Small"),
        ("../cold/", "Cold things"),
        ("../../notebooks/heat/", "Heat"),
    ]
    assert '<p>Unlike heat, <span class="katex">' in foot and "grows here.</p><p>Also heat.</p>" in foot
    assert "is positive, says the note.</p>" in foot and "First." not in foot
    assert "weave-mentions" not in small.read("site/notes/cold/index.html")
    assert "Mentioned in" not in small.read("site/search/search_index.json")
