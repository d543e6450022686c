"""The bibliography, citations of it, and the reading list that is made of both."""

from __future__ import annotations

import html as html_module
import re
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown import Markdown
from mkdocs.config import load_config

from weave.book.book import Book
from weave.note import bibliography as references
from weave.source.layout import Layout
from weave.source.terms import plain

from .bench import Bench

if TYPE_CHECKING:
    from conftest import Small

BIB = r"""% works on heat

@book{fourier1822,
  author = {Fourier, J.},
  title  = {Théorie analytique de la {CHALEUR}},
  publisher = {Didot},
  year   = {1822},
  annote = {Sums of waves & more, <all> of them.},
}
@article{newton1701, author={Newton, I.}, title={Scala graduum caloris}, journal={Phil. Trans.}, volume=22, year=1701,
  doi = {10.1000/xyz%20}}
@misc{joule, author = {Joule, J. P. and others}, title = {On heat}, year = 1850, url = {https://example.org/a_b?c=d&e=f}}
@misc{unread, author = {M{\"u}ller, A. and {The Heat Group}}, title = {Later}, year = {2001}}
"""
FAULTS = {
    "unclosed": (
        "@misc{a, author={A}, title={T, year=2000}\n\n@misc{b, author={B}, title={U}, year=2001}",
        1,
        "'a' cannot",
    ),
    "unclosed-at-the-end": ("\n@misc{a, author={A}, title={T}, year=2000", 2, "'a' cannot be read"),
    "no-comma": ("@misc{a,\n author={A},\n title={T} year=2000\n}", 3, "'a' has no comma behind its title; put one"),
    "no-comma-after-the-key": ("@misc{a author={A}}", 1, "'a' cannot be read"),
    "no-title": ("\n\n@misc{a, author={A}, titel={T}, year=2000}", 3, "'a' has no title; add it"),
    "nobody": ("@misc{a, title={T}, year={}, author={}}", 1, "'a' has no author and no year; add it"),
    "same-key": (
        "@misc{a, author={A}, title={T}, year=2000}\n@misc{a, author={B}, title={U}, year=2001}",
        2,
        "'a' is the key of the entry on line 1 too; give one of them another",
    ),
    "same-field": ("@misc{a, author={A}, title={T},\n year=2000, year=2001}", 1, "'a' has year twice; remove one"),
    "no-entry": ("@misc a, title={T}\n", 1, "'@misc a, title={T}' begins no entry; write @article{key, … }"),
    "no-at": ("\nmisc{a, title={T}}\n", 2, "'misc{a, title={T}}' begins no entry"),
    "no-address": (
        "@misc{a, author={A}, title={T}, year=2000,\n  url={www.example.org}}",
        2,
        "'www.example.org' is no address; write it in full",
    ),
    "a-script": (
        "@misc{a, author={A}, title={T}, year=2000, url={javascript:alert(1)}}",
        1,
        "'javascript:alert(1)' is no address",
    ),
    "names": ("@misc{a, author={A, B, C, D}, title={T}, year=2000}", 1, "'a' cannot be read"),
}


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    config = load_config(str(request.config.rootpath / "mkdocs.yml"))
    book = Book(Layout(tmp_path_factory.mktemp("root")))
    book.bibliography = references.read("docs/references.bib", BIB)
    return Bench(book, Markdown(extensions=config.markdown_extensions, extension_configs=config.mdx_configs))


def numbers(html: str) -> list[tuple[str, str]]:
    """Key and number of each citation on a page."""
    return re.findall(r'<a class="weave-term weave-cite" href="#ref-([^"]+)"[^>]*>(\d+)', html)


def listed(html: str) -> list[str]:
    (items,) = re.findall(r'<ol class="weave-references">(.*?)</ol>', html, re.DOTALL)
    return re.findall(r'<li id="ref-([^"]+)">', items)


def text_of(html: str) -> str:
    return html_module.unescape(re.sub(r"<[^>]+>", "", html))


# -- the file


def test_works_are_read_as_they_are_shown() -> None:
    works = references.read("x.bib", BIB).works
    assert [(work.authors, work.title, work.after) for work in works.values()] == [
        ("J. Fourier", "Théorie analytique de la CHALEUR", "Didot, 1822"),
        ("I. Newton", "Scala graduum caloris", "Phil. Trans. 22, 1701"),
        ("J. P. Joule et al.", "On heat", "1850"),
        ("A. Müller and The Heat Group", "Later", "2001"),
    ]
    assert works["newton1701"].url == "https://doi.org/10.1000/xyz%20", "a percent sign in an address is no comment"
    assert works["joule"].url == "https://example.org/a_b?c=d&e=f"


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_has_its_line(name: str) -> None:
    text, line, said = FAULTS[name]
    (problem,) = references.read("docs/references.bib", text).problems
    assert (problem.line, problem.message[: len(said)]) == (line, said)
    assert "; " in problem.message


def test_one_broken_entry_leaves_the_others_usable() -> None:
    for text, _, _ in FAULTS.values():
        found = references.read("docs/references.bib", text + "\n\n" + BIB)
        if not text.endswith("2000"):  # an entry that nothing ends may take the next one with it
            assert {"fourier1822", "newton1701", "joule", "unread"} <= found.works.keys(), text


@given(st.text(st.sampled_from('@{}(),=" \n%\\ab1misc~#'), max_size=60), st.integers(0, len(BIB)))
def test_no_file_makes_it_fail(text: str, at: int) -> None:
    whole = BIB[:at] + text + BIB[at:]
    found = references.read("docs/references.bib", whole)
    assert all(1 <= problem.line <= whole.count("\n") + 1 and ":" not in problem.path for problem in found.problems)
    assert not found.works.keys() & {key for key in found.broken if key not in found.works}


names = st.lists(
    st.sampled_from(["Elhage, N.", "Van Loan, C. F.", "Rush, A.", "{DeepSeek-AI}"]), min_size=1, max_size=9
)


@given(names, st.booleans())
def test_every_author_is_named_or_stands_behind_et_al(given: list[str], more: bool) -> None:
    entry = f"@misc{{a, author={{{' and '.join(given + ['others'] * more)}}}, title={{T}}, year=1}}"
    said = references.read("x.bib", entry).works["a"].authors
    assert said.endswith(" et al.") == (more or len(given) > 6)
    if len(given) <= 6:
        assert len(re.split(", | and ", said.removesuffix(" et al."))) == len(given)


# -- citations


def test_a_citation_leads_to_the_list_and_on_to_the_work(bench: Bench) -> None:
    html, problems = bench.render("Heat spreads [@joule, section 3] and *more* [@fourier1822; @joule].\n")
    assert problems == []
    assert text_of(html).startswith("Heat spreads [1, section 3] and more [2; 1].")
    assert numbers(html) == [("joule", "1"), ("fourier1822", "2"), ("joule", "1")]
    assert '<a href="https://example.org/a_b?c=d&amp;e=f">On heat</a>' in html
    assert re.search(r'<h2 id="references">References', html), "a page without the heading gets one"
    assert (
        'title="Théorie analytique de la CHALEUR\nJ. Fourier, Didot, 1822\nSums of waves &amp; more, &lt;all&gt;'
        in html
    )


@given(st.lists(st.sampled_from(["fourier1822", "newton1701", "joule"]), min_size=1, max_size=8), st.integers(1, 3))
def test_numbers_are_those_of_the_list(bench: Bench, keys: list[str], together: int) -> None:
    """By first mention, one for each work; every link of a citation and of the list ends on the page."""
    groups = [keys[i : i + together] for i in range(0, len(keys), together)]
    html, problems = bench.render("\n\n".join(f"- a [{'; '.join('@' + key for key in group)}]" for group in groups))
    assert problems == []
    order = list(dict.fromkeys(keys))
    assert numbers(html) == [(key, str(order.index(key) + 1)) for key in keys]
    assert listed(html) == order == bench.book.pages["docs/notes/x.md"].cited
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(ids)
    assert html.count('class="weave-back"') == len(keys)


@pytest.mark.parametrize("heading", ["## References", "## References and further reading", "## references { #own }"])
def test_the_list_stands_under_the_author_s_heading(bench: Bench, heading: str) -> None:
    html, _ = bench.render(f"Heat [@joule].[^1]\n\n{heading}\n\n- More.\n\n[^1]: A remark, with [@fourier1822].\n")
    assert html.count("<h2") == 1
    parts = [html.index(part) for part in ("<h2", "weave-references", "<li>More.", 'class="footnote"')]
    assert all(before < after for before, after in pairwise(parts))
    assert listed(html) == ["joule", "fourier1822"]


def test_without_a_citation_nothing_is_listed(bench: Bench) -> None:
    html, _ = bench.render("Heat.\n\n## References\n")
    assert "weave-references" not in html


@pytest.mark.parametrize(
    "text",
    [
        "`[@joule]` and ``[@joule]``",
        "    [@joule]",
        "~~~python\n@property\n[@joule]\n~~~",
        "\\[@joule\\]",
        "[@joule](https://example.org)",
        "joule@example.org, @joule and [joule@example.org](mailto:joule@example.org)",
        "<!-- [@joule] -->",
    ],
)
def test_what_is_no_citation_is_left_alone(bench: Bench, text: str) -> None:
    html, problems = bench.render(text)
    assert problems == [] and "weave-cite" not in html and "joule" in html
    assert not re.search("[\U000f0000-\U000ffffd]", html)


def test_in_a_caption_a_heading_and_a_table(bench: Bench) -> None:
    html, problems = bench.render(
        "# Heat [@joule]\n\n| a |\n|---|\n| [@joule; @newton1701] |\n\n*[@newton1701, $p$ 3]*\n"
    )
    assert problems == []
    assert numbers(html) == [("joule", "1"), ("joule", "1"), ("newton1701", "2"), ("newton1701", "2")]


def test_the_nearest_keys_are_named(bench: Bench) -> None:
    html, problems = bench.render("Heat\n[@newton1702; @joule].")
    assert [str(one) for one in problems] == [
        "docs/notes/x.md:2: no work 'newton1702' in docs/references.bib; it has: newton1701, fourier1822, unread, joule"
    ]
    assert 'class="weave-error"' in html and numbers(html) == [("joule", "1")]


def test_a_definition_s_tooltip_has_no_citation() -> None:
    assert plain("Heat, as [[Joule]] says [@joule, section 3].") == "Heat, as Joule says."


# -- the site


@pytest.fixture(scope="module")
def built(new_small: Callable[[], Small]) -> Small:
    site = new_small()
    site.write("docs/references.bib", BIB)
    site.write("docs/reading.md", "# Reading\n\n<!-- weave:reading -->\n")
    site.write("docs/notes/cold.md", "# Cold\n\nIt was known [@newton1701].\n")
    site.replace("docs/notes/heat.md", "A body cools", "A body [@newton1701; @joule] cools")
    site.replace("code/notebooks/heat.py", "is positive.", "is positive [@fourier1822].")
    result = site.build()
    assert result.returncode == 0, result.stdout + result.stderr
    return site


def test_the_reading_list_has_works_verdicts_and_who_cites_them(built: Small) -> None:
    page = built.read("site/reading/index.html")
    works = re.findall(r'<li id="(\w+)">(.*?)</li>', page.partition('<h2 id="to-read">')[0], re.DOTALL)
    assert [key for key, _ in works] == ["fourier1822", "joule", "newton1701"], "by the author's name"
    said = dict(works)
    assert "Sums of waves &amp; more, &lt;all&gt; of them." in said["fourier1822"]
    assert '<a href="../notebooks/heat/#cite-fourier1822">Heat</a>' in said["fourier1822"], "notebooks cite, too"
    assert '<a href="../notes/cold/#cite-newton1701">Cold</a>' in said["newton1701"]
    assert '<a href="../notes/heat/#cite-newton1701">Heat</a>' in said["newton1701"]
    assert "Later" in page.partition('<h2 id="to-read">')[2], "what nothing cites is still to read"
    assert 'href="../references.bib" download' in page and built.read("site/references.bib") == BIB


def test_every_link_of_the_reading_list_ends_at_a_citation(built: Small) -> None:
    links = re.findall(r'href="\.\./([\w/]+)/#(cite-\w+)"', built.read("site/reading/index.html"))
    assert len(links) == 4
    for page, anchor in links:
        assert f'id="{anchor}"' in built.read(f"site/{page}/index.html")


def test_a_notebook_has_its_references_at_its_end(built: Small) -> None:
    page = built.read("site/notebooks/heat/index.html")
    assert listed(page) == ["fourier1822"]
    assert page.index('id="ref-fourier1822"') > page.index("cooling down")


@pytest.mark.parametrize("command", ["check", "build"])
def test_a_broken_entry_is_told_once_at_its_line(small: Small, command: str) -> None:
    """However many pages cite it."""
    small.write("docs/references.bib", BIB.replace("year=1701,", "year=1701"))
    small.write("docs/notes/cold.md", "# Cold\n\nIt was known [@newton1701], twice [@newton1701].\n")
    result = small.check() if command == "check" else small.build()
    assert result.returncode == 1
    assert re.findall(r"^docs/.*$", result.stderr, re.MULTILINE) == [
        "docs/references.bib:10: 'newton1701' has no comma behind its year; put one"
    ]


def test_a_bibliography_that_is_no_text(small: Small) -> None:
    small.write("docs/references.bib", BIB.encode("latin-1"))
    result = small.weave("check")
    assert result.exit_code == 1
    assert "docs/references.bib:5: not UTF-8 (byte 0xe9); save the file as UTF-8" in result.output
