r"""Math in notes: what counts as a formula, what an author is told, what reaches the page."""

from __future__ import annotations

import html
import re
import threading
from html.parser import HTMLParser
from pathlib import Path

import markdown
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from material.plugins.search.plugin import Parser

from weave.note import katex
from weave.note.math import MathExtension, TexError, copy_katex, engine, render_html, render_tex
from weave.note.page import Page, rendering

ROOT = Path(__file__).resolve().parents[3]
MACROS = {r"\R": r"\mathbb{R}", r"\softmax": r"\operatorname{softmax}", r"\broken": r"x^2^3"}
EXTENSIONS = [
    *("abbr", "admonition", "attr_list", "def_list", "footnotes", "md_in_html", "tables", "toc"),
    *(
        "pymdownx.details",
        "pymdownx.highlight",
        "pymdownx.inlinehilite",
        "pymdownx.superfences",
        "pymdownx.tabbed",
        "pymdownx.tasklist",
    ),
]
CONFIGS = {"pymdownx.tabbed": {"alternate_style": True}}


def convert(text: str, extensions: list[str] = EXTENSIONS, macros: dict[str, str] = MACROS) -> tuple[str, list[str]]:
    """HTML and problems of a note."""
    md = markdown.Markdown(extensions=[*extensions, MathExtension(macros=macros)], extension_configs=CONFIGS)
    with rendering(Page("docs/notes/x.md")) as page:
        return md.convert(text), [str(problem) for problem in page.problems]


def plain(text: str) -> str:
    """Render without the math extension."""
    return markdown.markdown(text, extensions=EXTENSIONS, extension_configs=CONFIGS)


class _Formulas(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tex-math":
            self.inside = True
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "tex-math"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.found[-1] += data


def formulas(text: str) -> list[str]:
    """TeX of the formulas on the page, as a browser would read it."""
    page, problems = convert(text)
    assert not problems
    return _Formulas(page).found


# --- what is a formula ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected", "why"),
    [
        ("$x$", ["x"], "the plain case"),
        ("$x$, ($y$) and **$z$**: *$w$*.", ["x", "y", "z", "w"], "punctuation and emphasis may touch it"),
        (r"$a_1 * b_2$ and $c_3 * d_4$", ["a_1 * b_2", "c_3 * d_4"], "no emphasis in TeX"),
        (r"$[a](b)$ and $\{x\}$ and $a<b>c$", ["[a](b)", r"\{x\}", "a<b>c"], "no links, escapes, tags in TeX"),
        ("the $k$th of $n$s", ["k", "n"], "ordinals and plurals as one writes them"),
        ("non-$x$, $x$-axis, $x$’s", ["x", "x", "x"], "hyphens and apostrophes"),
        (r"$\text{if $x$ holds}$", [r"\text{if $x$ holds}"], "dollars within braces belong to \\text"),
        ("$a\nb$ c", ["a\nb"], "a line of prose may break in a formula"),
        ("$5$ or $5 + 3$ or $2\\pi$", ["5", "5 + 3", r"2\pi"], "numbers are formulas when dollars close them"),
        ("${}^2x$ and ${x}$", ["{}^2x", "{x}"], "a formula may begin with a brace"),
        ("$`x`$ and $``x``$", ["x", "x"], "as GitHub and markdown-katex write it"),
        ("$`a\nb`$", ["a\nb"], "also over a line's end"),
        ("x$`a`$y", ["a"], "backticks make it clear within a word"),
        ("```math\nx\n\ny\n```", ["x\n\ny"], "a math fence may hold empty lines"),
        ("~~~math\nx\n~~~", ["x"], "tildes fence too"),
        ('``` math {"leqno": true}\nx\n```', ["x"], "options as JSON"),
        ("$$x$$", ["x"], "on one line"),
        ("$$\n  x\n+ y\n- z\n= w\n$$", ["x\n+ y\n- z\n= w"], "no lists in display math"),
        ("$$\na\n> b\n>\nc\n$$", ["a\n> b\n>\nc"], "and no quotes"),
        ("$$\n|\n- | -\n|\n$$", ["|\n- | -\n|"], "and no tables"),
        ("Thus $$x$$ holds.", ["x"], "within a line"),
        ("Thus\n$$\nx\n$$\nholds.", ["x"], "no empty lines needed"),
        ("$$a \\\\\n\\$b$$", ["a \\\\\n\\$b"], "an escaped dollar closes nothing"),
        ("- a $x$\n- b\n  $$\n  y\n  $$\n- c\n\n    $$\n    z\n    $$\n", ["x", "y", "z"], "in lists"),
        ("1. $$x$$\n2. y", ["x"], "alone in a list item"),
        ("> $x$ $a\n> b$\n>\n> $$\n> y\n> $$\n>\n> ```math\n> z\n> ```", ["x", "a\nb", "y", "z"], "in quotes"),
        ("> - ```math\n>   x\n>   ```", ["x"], "in a list in a quote"),
        ('!!! note "On $x$"\n    $$\n    y\n    $$\n\n    ```math\n    z\n    ```', ["x", "y", "z"], "in admonitions"),
        ('=== "Tab"\n\n    $x$\n\n    - $$\n      y\n      $$', ["x", "y"], "in tabs"),
        ("a[^1]\n\n[^1]: $x$\n    $$\n    y\n    $$", ["x", "y"], "in footnotes"),
        ("term $x$\n:   $y$", ["x", "y"], "in definition lists"),
        (
            "| $a|b$ | $`|x|`$ |\n|---|---|\n| $|y|$ | $\\|z\\|$ |",
            ["a|b", "|x|", "|y|", r"\|z\|"],
            "bars split no cell",
        ),
        ("# On $x$\n\nOn $y$\n====", ["x", "y"], "in headings"),
        ("[the $x$](a.md) and [$y$][r]\n\n[r]: b.md", ["x", "y"], "in the text of links"),
        ("<div markdown>$x$</div>", ["x"], "in HTML that asks for Markdown"),
        ("a <b>$x$</b>", ["x"], "between inline tags"),
        (r"\\$x$", ["x"], "an escaped backslash escapes no dollar"),
        ("`$` $x$ `$`", ["x"], "beside code"),
    ],
)
def test_is_math(text: str, expected: list[str], why: str) -> None:
    assert formulas(text) == expected, why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("It costs $5 and $10.", "the closing dollar follows a space"),
        ("between $3–$4, $3-$4 or $3/$4", "no formula ends before a digit"),
        ("5$ and 6$, 5$-6$", "none begins before a space or after a digit"),
        ("$5 and 10$", "a number, a space and a word: a price, though pandoc sees a formula"),
        ("US$5, A$6 and C$7", "none begins within a word"),
        ("| a | b |\n|---|---|\n| $5 | 6$ |", "nor does one cross a cell's border behind a price"),
        ("| a |\n|---|\n| $x |\n| y$ |", "or a row's"),
        ("- costs $5\n- and 5$ more", "or a list item's"),
        ("# Costs $5\nor 5$", "or a heading's"),
        ("costs $5\n\nor 5$", "or a paragraph's"),
        ("$HOME and $PATH", "the closing dollar follows a space"),
        ("$HOME:$PATH and $HOME/$USER", "none ends before a letter, though in pandoc it does"),
        ("${HOME}:$, ${HOME}$", "a shell's braces"),
        ("echo $1 $2 $? $$$", "shell parameters; three dollars delimit nothing"),
        ("$x $y $z", "Perl"),
        ("$ x $", "spaces inside, as in pandoc"),
        ("$x", "one dollar is a dollar"),
        ("$a `b$` c$", "code binds tighter"),
        ("`$x$` ``$`x`$`` ```$$x$$``` `a\n$x$`", "code spans, whatever their backticks"),
        ("```bash\necho $x$ $$\n```", "fenced code"),
        ("~~~\n$x$\n```\n$$\n~~~", "fenced with tildes, with backticks inside"),
        ("````md\n```math\nx\n```\n$$\n````", "a fence within a fence"),
        ("```\n    ```\n$x$\n```", "an indented fence closes none"),
        ("- a\n\n    ```\n    $x$\n    ```", "fenced in a list"),
        ("> ```\n> $x$ < y\n> ```", "fenced in a quote"),
        ("```mathematica\n$x$\n```", "another language"),
        ("a\n\n    $x$ < &amp; $$\n\n    $$\n      y\n    $$\n\n    ```math", "indented code"),
        ("- a\n\n        $$\n          y\n        $$", "indented code in a list"),
        ("a <!-- $x$ --> b", "a comment in a line"),
        ("<!--\n$x$\n\n$$ $`\n\n```math\n-->\n\na", "a comment over paragraphs"),
        ("a <i title=\"$x$\">b</i> <i title='$$'>c</i>", "attributes"),
        ("<div>\n$x$ < $$\n</div>", "raw HTML, as everything in it"),
        ("<script>\nlet a = `$x$`;\n\nlet b = '$$';\n</script>", "scripts"),
        ('[a](b$x$c "d") <https://e/$x$> [f]\n\n[f]: g/$x$', "where links lead"),
        ('![alt](b$x$c "title $5")', "where images lie"),
        ("https://a.b/$c$d", "addresses in plain text"),
    ],
)
def test_is_no_math(text: str, why: str) -> None:
    assert convert(text) == (plain(text), []), why


def test_an_escaped_dollar_is_a_dollar() -> None:
    assert convert(r"\$x\$ and `\$`") == (r"<p>$x$ and <code>\$</code></p>", [])


def test_an_images_alternative_text_keeps_its_dollars() -> None:
    assert convert("![The $x<y$](a.png)")[0] == plain("![The $x<y$](a.png)")


WORDS = st.lists(
    st.sampled_from(
        ["costs", "$5", "$HOME", "`$x$`", "``$`a`$``", "and", "US$7", "$3,", r"\*", "*a*", "[b](c$d$e)", "<", "&"]
    ),
    min_size=1,
    max_size=12,
).map(" ".join)
CODE = st.text(alphabet=" $`~x{}\\<&\n\t-#|>", max_size=40)


@given(st.lists(WORDS, min_size=1, max_size=4), st.sampled_from(["\n", "\n\n", "\n- ", "\n> ", "\n\n1. ", "\n\n    "]))
@settings(deadline=None)
def test_prose_without_math_stays_as_it_is(paragraphs: list[str], between: str) -> None:
    text = between.join(paragraphs)
    assert convert(text) == (plain(text), [])


@given(CODE, st.sampled_from(["", "- a\n\n", "> "]))
@settings(deadline=None)
def test_fenced_code_stays_as_it_is(code: str, before: str) -> None:
    indent = {"": "", "> ": "> "}.get(before, "    ")
    lines = ["~~~~~", *code.split("\n"), "~~~~~"]
    text = "\n".join((before if k == 0 and indent != "    " else indent) + line for k, line in enumerate(lines))
    text = "- a\n\n" + text if indent == "    " else text
    assert convert(text) == (plain(text), [])


@given(CODE.filter(lambda code: code.strip() and "`````" not in code))
@settings(deadline=None)
def test_indented_code_stays_as_it_is(code: str) -> None:
    text = "a\n\n" + "\n".join("    " + line for line in code.expandtabs(4).split("\n")) + "\n\nb"
    assert convert(text) == (plain(text), [])


PIECES = [
    "x",
    "1",
    r"\alpha",
    "_i",
    "^2",
    "<",
    ">",
    "|",
    r"\|",
    "=",
    "+",
    "*",
    "[",
    "]",
    "(",
    ")",
    r"\{",
    r"\}",
    "~",
    "é",
]
TEX = st.lists(
    st.sampled_from([*PIECES, "{&x;}".replace("&", r"\&"), r"\_", "'", "{a}", "!", ":"]), min_size=1, max_size=12
)


@given(
    TEX.map(" ".join),
    st.sampled_from(["a $%s$ b", "- $%s$", "> $`%s`$", "[$%s$](a)", "# $%s$", "$$%s$$", "$$\n%s\n$$"]),
)
@settings(max_examples=300, deadline=None)
def test_tex_reaches_the_page_unchanged(tex: str, where: str) -> None:
    """Both as the placeholder's text and as the annotation that KaTeX leaves beside its MathML."""
    if re.search(r"\^2 (\^2|')|_i _i|' (\^2|')|_i (\^2|') _i|\^2 _i (\^2|')|' _i (\^2|')", tex):
        return  # a double superscript or subscript is an error
    page, problems = convert(where % tex)
    assert not problems
    assert _Formulas(page).found == [tex]
    annotation = re.search(r'<annotation encoding="application/x-tex">(.*?)</annotation>', render_html(page, MACROS))
    assert annotation and html.unescape(annotation[1]) == tex


# --- what an author is told -----------------------------------------------------------------------------------------

ADVICE = r"correct the TeX or define the macro under weave.math: macros in mkdocs.yml"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            r"a $x = \foo{1}$ b",
            1,
            r"bad math: Undefined control sequence: \foo at column 5 in `x = \foo{1}`; " + ADVICE,
        ),
        (
            r"$\aplha$",
            1,
            rf"bad math: Undefined control sequence: \aplha at column 1 in `\aplha`; did you mean \alpha? {ADVICE}",
        ),
        (
            r"$\sofmax$",
            1,
            rf"bad math: Undefined control sequence: \sofmax at column 1 in `\sofmax`; did you mean \softmax? {ADVICE}",
        ),
        ("a\n\n$$\nx\n+ y_1_2\n$$", 5, "bad math: Double subscript at column 6 in `+ y_1_2`; correct the TeX"),
        (
            "a\n\n- b\n\n    $$x\n    & y$$",
            6,
            "bad math: Expected 'EOF', got '&' at column 1 in `& y`; correct the TeX",
        ),
        (
            "> a\n> ```math\n>\n> x\n> \\}\n> }\n> ```",
            6,
            "bad math: Expected 'EOF', got '}' at column 1 in `}`; correct the TeX",
        ),
        ("a\n$b\nx{2$", 3, "bad math: Expected '}', got 'EOF' at the end of `x{2`; correct the TeX"),
        ("𝔸𝔸\n\n$𝔸 \\foo$", 3, rf"bad math: Undefined control sequence: \foo at column 3 in `𝔸 \foo`; {ADVICE}"),
        (
            r"$\broken$",
            1,
            r"bad math: Double superscript, in a macro that `\broken` uses; correct the macro in mkdocs.yml",
        ),
        (r"$\sqrt{\href{a}{b}}$", 1, r"bad math: \href is switched off in `\sqrt{\href{a}{b}}`; correct the TeX"),
        (
            f"${'x + ' * 50}x^2^3{' + x' * 50}$",
            1,
            f"bad math: Double superscript at column 204 in `…{' x +' * 9} x^2^3{' + x' * 9} +…`; correct the TeX",
        ),
        (
            "| a |\n|---|\n| $x$ |\n| $x^2^3$ |",
            4,
            "bad math: Double superscript at column 4 in `x^2^3`; correct the TeX",
        ),
        ("a\n\n# $x^2^3$", 3, "bad math: Double superscript at column 4 in `x^2^3`; correct the TeX"),
        (
            "a[^1]\n\n[^1]:\n    b\n\n    $$x^2^3$$",
            6,
            "bad math: Double superscript at column 4 in `x^2^3`; correct the TeX",
        ),
        (
            "a\n\n$$\nx\n\ny",
            3,
            r"unclosed math: no $$ closes this $$ before its paragraph ends; close it, or write \$ for a dollar",
        ),
        (
            "> a\n> $$x\n$$",
            2,
            r"unclosed math: no $$ closes this $$ before its paragraph ends; close it, or write \$ for a dollar",
        ),
        (
            "a\nb $`x`",
            2,
            r"unclosed math: no `$ closes this $` before its paragraph ends; close it, or write \$ for a dollar",
        ),
        ("a\n\n```math\nx", 3, "unclosed math: no ``` closes this ```math; close it on a line of its own"),
        ("> ```math\n> x\n\n```", 1, "unclosed math: no ``` closes this ```math; close it on a line of its own"),
        (
            "a\n\n```math {.x}\ny\n```",
            3,
            'bad math options: {.x} is not JSON; write them like {"leqno": true}, or leave them out',
        ),
        (
            'a\n\n```math {"size": 2}\ny\n```',
            3,
            "bad math options: KaTeX has no size here; use display-mode, leqno, fleqn",
        ),
    ],
)
def test_problem_with_its_line(text: str, line: int, message: str) -> None:
    page, problems = convert(text)
    expected = f"docs/notes/x.md:{line}: {message}"
    assert expected in problems
    assert f'<span class="weave-error">{html.escape(expected, quote=False)}</span>' in page
    assert "tex-math" not in page or "$x$" in text


@given(st.integers(0, 30), st.integers(0, 5), st.sampled_from(["", "    ", "> "]))
@settings(deadline=None)
def test_the_line_is_exact_wherever_the_formula_stands(before: int, inside: int, prefix: str) -> None:
    lines = (
        ["- a", *["", "- b $y$ `c`"] * before, ""] if prefix == "    " else ["a", *["", "```\n$$\n```"] * before, ""]
    )
    lines = "\n".join(lines).split("\n")
    display = ["$$", *["x +"] * inside, r"\foo", "$$"]
    text = "\n".join(lines + [prefix + line for line in display])
    (problem,) = convert(text)[1]
    assert problem.startswith(f"docs/notes/x.md:{len(lines) + 1 + inside + 1}: ")


def test_a_page_with_front_matter_counts_its_lines() -> None:
    md = markdown.Markdown(extensions=[MathExtension()])
    with rendering(Page("docs/notes/x.md", first_line=4)) as page:
        md.convert("a\n\n$x^2^3$")
    assert [problem.line for problem in page.problems] == [6]


def test_lines_count_in_the_file_behind_an_included_snippet(tmp_path: Path) -> None:
    (tmp_path / "part.md").write_text("one $x$\n\ntwo\n\n$z^2^3$\n")
    md = markdown.Markdown(
        extensions=["pymdownx.snippets", MathExtension()],
        extension_configs={"pymdownx.snippets": {"base_path": [str(tmp_path)]}},
    )
    with rendering(Page("docs/notes/x.md")) as page:
        text = md.convert('a\n\n--8<-- "part.md"\n\n$y^2^3$\n')
    assert _Formulas(text).found == ["x"]
    assert [problem.line for problem in page.problems] == [3, 5]


def test_a_macro_needs_its_backslash() -> None:
    with pytest.raises(ValueError, match=r"weave\.math: macros: R needs a backslash; write '\\R'"):
        MathExtension(macros={"R": "x"})


# --- what reaches the page ------------------------------------------------------------------------------------------


def test_a_heading_has_a_plain_id_and_title() -> None:
    md = markdown.Markdown(extensions=["toc", MathExtension()])
    assert '<h2 id="on-alpha-decay">' in md.convert(r"## On $\alpha$ decay")
    (heading,) = md.toc_tokens  # type: ignore[attr-defined]
    assert heading["id"] == "on-alpha-decay"
    assert heading["name"] == r"On \alpha decay"


def test_the_search_index_has_the_tex_once() -> None:
    page = convert("## On $\\alpha$\n\nIn $\\beta<1$ and\n$$\n\\gamma\n$$\n\n- item\n  $$\\delta$$\n")[0]
    index = Parser()
    index.feed(page)
    text = " ".join("".join(section.title + section.text) for section in index.data)
    assert [text.count(tex) for tex in ("On \\alpha", "\\beta&lt;1", "\\gamma", "\\delta")] == [1, 1, 1, 1]
    assert not re.search(r"math|class|item\\delta", text)


@pytest.mark.parametrize(
    "text", ["$$x$$", "$$\nx\n$$", "```math\nx\n```", "a\n$$x$$\nb", "- $$x$$\n- b", "> a\n> $$x$$"]
)
def test_display_math_on_its_own_line_is_a_block(text: str) -> None:
    page = convert(text)[0]
    assert '<tex-math class="display">x</tex-math>' in page
    assert not re.search(r"<p>[^/]*<tex-math", page)
    assert render_html(page, MACROS).count('<div class="math-display"') == 1


@pytest.mark.parametrize("text", ["a $$x$$ b", "# $$x$$", "[$$x$$](b)", "| a |\n|---|\n| $$x$$ |"])
def test_display_math_within_a_line_is_no_block(text: str) -> None:
    page = convert(text)[0]
    assert '<tex-math class="display inline">x</tex-math>' in page
    assert "<div" not in render_html(page, MACROS)


def test_a_list_goes_on_behind_display_math() -> None:
    page = convert("- a\n  $$\n  x\n  $$\n- b\n")[0]
    assert re.sub(r"\s*\n\s*", "", page) == '<ul><li>a<tex-math class="display">x</tex-math></li><li>b</li></ul>'


def test_the_rendered_page_is_html_and_mathml_with_our_macros() -> None:
    page = render_html(convert(r"On $\R$ and $x<y$.")[0], MACROS)
    assert "<tex-math" not in page
    assert page.count('<span class="katex">') == page.count("<math ") == 2
    assert '<mi mathvariant="double-struck">R</mi>' in page
    assert r'<annotation encoding="application/x-tex">x&lt;y</annotation>' in page


def test_other_macros_give_another_page() -> None:
    def page(body: str) -> str:
        return render_html(convert(r"$\m$", macros={r"\m": body})[0], {r"\m": body})

    first = page(r"\alpha")
    assert page(r"\beta") != first
    assert page(r"\alpha") == first


def test_a_definition_in_one_formula_ends_with_it() -> None:
    assert convert(r"$\gdef\mine{x}\mine$")[1] == []
    assert r"Undefined control sequence: \mine" in convert(r"$\mine$")[1][0]


def test_options_of_a_fence() -> None:
    page = convert('```math {"leqno": true}\nx \\tag{1}\n```')[0]
    assert 'class="display leqno"' in page
    assert "leqno" in render_html(page, MACROS)
    page = convert('```math {"display-mode": false}\nx\n```')[0]
    assert page == "<p><tex-math>x</tex-math></p>"


@pytest.mark.parametrize(
    "tex", [r"\href{https://e.org}{x}", r"\includegraphics{https://e.org/x.png}", r"\htmlClass{a}{x}"]
)
def test_nothing_in_tex_reaches_out_of_the_page(tex: str) -> None:
    with pytest.raises(TexError, match="is switched off"):
        render_tex(tex)


def test_a_page_without_formulas_starts_nothing() -> None:
    assert katex.Engine(Path("/nowhere")).process is None
    assert render_html("<p>no math, $5</p>", {}) == "<p>no math, $5</p>"


def test_the_stylesheet_asks_only_for_files_that_are_there(tmp_path: Path) -> None:
    copy_katex(ROOT, tmp_path)
    folder = tmp_path / "assets/katex"
    css = (folder / "katex.min.css").read_text()
    named = {match.strip("'\"") for match in re.findall(r"url\(([^)]*)\)", css)}
    assert named == {f"fonts/{path.name}" for path in (folder / "fonts").iterdir()}
    assert len(named) == css.count("@font-face")
    assert all(name.endswith(".woff2") for name in named)
    for name in named:
        assert (folder / name).read_bytes()[:4] == b"wOF2"
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    copy_katex(ROOT, tmp_path)
    assert first == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the engine -----------------------------------------------------------------------------------------------------


def test_the_engine_survives_being_killed() -> None:
    render_tex("x_{1}")
    process = engine().process
    assert process
    process.kill()
    assert "katex" in render_tex("x_{2}")
    process.wait()
    assert engine().process is not process
    engine().process.kill()  # type: ignore[union-attr]
    engine().process.wait()  # type: ignore[union-attr]
    assert "katex" in render_tex("x_{3}")


def test_formulas_of_an_earlier_build_are_todays_or_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, asked = tmp_path / "formulas", [r"\R^n", r"\sum_i x_i", "é"]
    first = katex.Engine(ROOT)
    made = [first.render(tex, MACROS) for tex in asked]
    with pytest.raises(TexError):
        first.render(r"\frac", MACROS)
    first.keep(file)
    first.close()
    good = file.read_bytes()

    def later(kept: bytes) -> katex.Engine:
        file.write_bytes(kept)
        engine = katex.Engine(ROOT)
        engine.remember(file)
        assert [engine.render(tex, MACROS) for tex in asked] == made
        return engine

    quick = later(good)
    assert quick.process is None, "nothing was asked twice"
    assert quick.render(r"\R^n", {r"\R": "R"}) != made[0]
    with pytest.raises(TexError):
        quick.render(r"\frac", MACROS)
    quick.close()
    other_checksum, damaged = b"0" * 64 + good[64:], good.replace(b"katex-html", b"katex-htm1", 1)
    for bad in (other_checksum, damaged, good[:-9], good[:9], b"", b"\xff\n\xff\n{}"):
        slow = later(bad)
        assert slow.process, bad[:99]
        slow.close()
    monkeypatch.setattr(katex.Engine, "_by", lambda _: (b"another KaTeX", b""))
    slow = later(good)
    assert slow.process
    slow.close()


def test_threads_get_their_own_formula() -> None:
    wrong: list[str] = []

    def work(name: str) -> None:
        for number in range(40):
            tex = f"{name}_{{{number}}}"
            if f'<annotation encoding="application/x-tex">{tex}</annotation>' not in render_tex(tex):
                wrong.append(tex)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_node_ends_with_us() -> None:
    running = katex.Engine(ROOT)
    running.render("x", {})
    process = running.process
    assert process and process.stdin
    process.stdin.close()
    assert process.wait(timeout=10) == 0


def test_what_is_missing_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(katex.EngineError, match="KaTeX is not installed in"):
        katex.Engine(tmp_path).render("x", {})
    with pytest.raises(katex.EngineError, match="run `npm ci`"):
        copy_katex(tmp_path, tmp_path)
    monkeypatch.setattr(katex.shutil, "which", lambda *_, **__: None)
    with pytest.raises(katex.EngineError, match="there is no node to render math with; install Node"):
        katex.Engine(ROOT).render("x", {})


def test_bad_tex_is_an_error_with_its_line() -> None:
    for _ in range(2):  # the second from memory
        with pytest.raises(TexError, match="Double superscript") as caught:
            render_tex("a\nb\nx^2^3")
        assert caught.value.line == 2
