"""Each kind of output is shown as in Jupyter; figures are lighter than matplotlib made them, and show the same."""

import html as html_module
import io
import re
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from hypothesis import given, settings
from hypothesis import strategies as st

from weave.note import outputs
from weave.note.katex import katex_dir
from weave.site import fonts

matplotlib.use("agg")
ROOT = Path(__file__).resolve().parents[3]


def svg_of(figure: "plt.Figure") -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg")
    plt.close(figure)
    return file.getvalue()


def on_page(svg: str) -> str:
    output = {"output_type": "display_data", "data": {"image/svg+xml": svg}}
    return outputs.to_html(output, "note-cell-0", 'aria-label="a curve"')


def points(path: str) -> list[tuple[float, float]]:
    """The points of a path of straight lines, in absolute or relative coordinates."""
    found, x, y = [], 0.0, 0.0
    for letter, numbers in re.findall(r"([MLml])([^MLmlz]*)", path):
        ab = [float(number) for number in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", numbers)]
        for a, b in zip(ab[::2], ab[1::2], strict=True):
            x, y = (x + a, y + b) if letter.islower() else (a, b)
            found.append((x, y))
    return found


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=60))
def test_a_curve_goes_where_it_went(values: list[float]) -> None:
    figure, ax = plt.subplots()
    ax.plot(values, color="#123456")
    svg = svg_of(figure)
    drawn = r'\bd="([^"]*)"[^>]*#123456'
    before, after = re.findall(drawn, svg), re.findall(drawn, on_page(svg))
    assert len(before) == len(after) == 1 and len(after[0]) < len(before[0])
    assert np.allclose(points(before[0]), points(after[0]), atol=0.0501)


def test_markers_stay_round_and_references_lead_somewhere() -> None:
    figure, ax = plt.subplots()
    ax.plot([1, 2, 3], [2, 1, 3], "o")
    ax.set_title("x")
    svg = svg_of(figure)
    html = on_page(svg)
    assert html.count("<use") == svg.count("<use") and len(html) < len(svg)
    arcs = re.compile(r"^C -?\d", re.MULTILINE)
    assert arcs.findall(html) and len(arcs.findall(html)) == len(arcs.findall(svg))
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', html)) == set(ids)


def test_code_reads_as_it_was_written() -> None:
    source = 'def f(x):\n    return {"a": x[0] < 2}  # <b>\n'
    html = outputs.code_html(source)
    text = re.sub(r"<[^>]+>", "", html).replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    assert text.strip() == source.strip() and 'class="k"' in html


def test_a_font_keeps_what_the_pages_have(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    whole = (katex_dir(ROOT) / "fonts/KaTeX_Main-Regular.woff2").read_bytes()
    (site / "face.woff2").write_bytes(whole)
    (site / "index.html").write_text("<p>&alpha; ⊗ and é</p>", "utf-8")
    for _ in range(2):  # made, and then taken from the cache
        (site / "face.woff2").write_bytes(whole)
        fonts.shrink(site, tmp_path / "cache")
        kept = set(TTFont(site / "face.woff2").getBestCmap())
        has = set(TTFont(io.BytesIO(whole)).getBestCmap())
        assert kept == has & (set(map(ord, "α⊗é")) | set(range(128)))
        assert len((site / "face.woff2").read_bytes()) < 0.7 * len(whole)


# -- the other kinds of output


def shown(data: dict[str, Any]) -> str:
    return outputs.to_html({"output_type": "display_data", "data": data, "metadata": {}}, "x-0", 'aria-label="x"')


def problem(data: dict[str, Any]) -> str:
    return outputs.problem({"output_type": "display_data", "data": data, "metadata": {}}, {})


def formulas(data: dict[str, Any]) -> list[tuple[str, bool]]:
    """The formulas of an output that KaTeX can set, and whether each has a line of its own."""
    assert problem(data) == ""
    found = re.findall(r"<tex-math([^>]*)>(.*?)</tex-math>", shown(data), re.DOTALL)
    return [(html_module.unescape(tex), "display" in classes) for classes, tex in found]


def words(html: str) -> str:
    return html_module.unescape(re.sub(r"<tex-math.*?</tex-math>", "@", html, flags=re.DOTALL).replace("\n", " "))


LATEX = {
    r"The value $a$ is below $b$": [("a", False), ("b", False)],
    r"\(x\) and \[y\]": [("x", False), ("y", True)],
    r"$$a$$ $$b$$": [("a", True), ("b", True)],
    r"$\displaystyle x^2$": [(r"\displaystyle x^2", False)],
    r"$ x $": [("x", False)],
    r"\frac{1}{2}": [(r"\frac{1}{2}", True)],
    r"\begin{equation} a=b \label{eq:1} \end{equation}": [(r"\begin{equation*} a=b  \end{equation*}", True)],
    r"\begin{eqnarray} a &=& b \\ c &=& d \nonumber \end{eqnarray}": [
        (r"\begin{darray}{rcl} a &=& b \\ c &=& d  \end{darray}", True)
    ],
    r"\begin{align} a &= b \end{align}": [(r"\begin{align*} a &= b \end{align*}", True)],
    r"\begin{multline} a \\ b \end{multline}": [(r"\begin{gathered} a \\ b \end{gathered}", True)],
    r"\require{cancel}\cancel{x}": [(r"\cancel{x}", True)],
    r"In \LaTeX{}: $a^2$, for \$5": [(r"\LaTeX", False), ("a^2", False)],
    "plain words & < signs": [],
}


@pytest.mark.parametrize("tex", LATEX)
def test_latex_of_every_form(tex: str) -> None:
    assert formulas({"text/latex": tex}) == LATEX[tex]


def test_text_between_formulas_is_text() -> None:
    assert "In @: @, for $5" in words(shown({"text/latex": r"In \LaTeX{}: $a^2$, for \$5"}))
    assert "a & b < @" in words(shown({"text/latex": "a & b < $c$"}))


@pytest.mark.parametrize(
    ("tex", "what"),
    [
        (r"$$\frobnicate{x}$$", r"bad math: Undefined control sequence: \frobnicate at column 1 in `\frobnicate{x}`"),
        (r"\begin{tabular}{c} 1 \end{tabular}", "bad math: No such environment: tabular"),
        ("it costs $5", "an open dollar outside of its formulas, at `$5`"),
        (
            r"\textbf{a} and $b$",
            r"shows LaTeX with a command or an open dollar outside of its formulas, at `\textbf{a} and `",
        ),
        (r"$a$ and \begin{align} b", r"at `\begin{align} b`"),
    ],
)
def test_latex_that_no_page_can_show(tex: str, what: str) -> None:
    assert what in problem({"text/latex": tex}) and "; " in problem({"text/latex": tex})


def test_markdown_is_read_as_jupyter_reads_it() -> None:
    text = "The **loss** is $x^2$, $$y$$\n\n| a |\n|---|\n| `1` |\n\n- b\n\n<i>raw</i> ~~no~~"
    text += "\n\n\\begin{align}a\\end{align}"
    html = shown({"text/markdown": text, "text/plain": "<IPython.core.display.Markdown object>"})
    assert formulas({"text/markdown": text}) == [("x^2", False), ("y", True), (r"\begin{align*}a\end{align*}", True)]
    for piece in ("<strong>loss</strong>", "<td><code>1</code></td>", "<li>b</li>", "<i>raw</i>", "<del>no</del>"):
        assert piece in html
    assert "Markdown object" not in html


def test_formulas_in_html_and_prices() -> None:
    html = "<p>$x^2$ for $5 or $6</p><pre>$a$</pre><script>f('$b$')</script>"
    assert formulas({"text/html": html}) == [("x^2", False)]
    assert "for $5 or $6" in shown({"text/html": html}) and "<script>f('$b$')</script>" in shown({"text/html": html})


REFUSED = {
    "<script src='a.js'></script>": "a script that loads code",
    "<script type=module>import x from 'https://x.org/x.js'</script>": "a script that loads code",
    "<script>require(['plotly'], f)</script>": "a script that loads code",
    "<img src='a.png'>": "loads 'a.png'",
    "<img src=x onerror='f()'>": "loads 'x'",
    "<button onclick='f()'>b</button>": "onclick=…",
    "<a href='a.csv'>a</a>": "a link to 'a.csv'",
    "<iframe src='https://x.org'></iframe>": "<iframe>",
    "<style>@import 'a.css'</style>": "a <style> that loads a file",
    "<p style='background: url(a.png)'>p</p>": "style='background: url(a.png)'",
    "<link rel=stylesheet href=a.css>": "loads 'a.css'",
    "<base href=/>": "<base>",
}


@pytest.mark.parametrize("html", REFUSED)
def test_html_that_would_be_dead_on_a_page(html: str) -> None:
    assert REFUSED[html] in problem({"text/html": html}) and REFUSED[html] in html_module.unescape(
        shown({"text/html": html})
    )
    picture = {"text/html": html, "image/gif": "R0lGODlhAQABAAAAACw="}
    assert problem(picture) == "" and "image/gif" in shown(picture), "another form of the same will do"


@pytest.mark.parametrize(
    "data",
    [
        {"application/javascript": "f()", "text/plain": "<Javascript object>"},
        {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "IntSlider()"},
        {"image/png": "bm8gcGljdHVyZQ=="},
        {"image/svg+xml": "<p>no drawing</p>"},
        {"image/svg+xml": '<svg xmlns="http://www.w3.org/2000/svg"><image href="a.png"/></svg>'},
        {"text/markdown": "```mermaid\na\n```"},
        {"text/markdown": "![a](attachment:a.png)"},
    ],
)
def test_what_no_page_can_show_says_what_to_do(data: dict[str, Any]) -> None:
    assert re.fullmatch(r"shows [^;]+(; | that )[^;]+(; .+)?", problem(data)) and "object>" not in shown(data)


def test_json_and_plain_text() -> None:
    assert shown({"application/json": ["a", {"b": "ü"}]}).count("\n") == 5
    assert "ü" in shown({"application/json": {"b": "ü"}, "text/plain": "<JSON object>"})
    assert "&lt;a at&gt;" in shown({"text/plain": "<a at>"})


@given(st.text(st.sampled_from("a\x1b[]0;1m?\x07\\\x9b\x00\x08\r\n\x85 <&8K")))
def test_no_control_character_reaches_a_page(text: str) -> None:
    html = outputs.to_html({"output_type": "stream", "name": "stdout", "text": text}, "x", "")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", html)
    if "\x1b" not in text:  # else some of it belongs to a terminal's code
        plain = html_module.unescape(re.sub(r"<[^>]+>", "", html))
        assert (
            plain == "".join(character for character in text if character == "\n" or character.isprintable()).rstrip()
        )


def test_colors_stay_and_other_codes_of_a_terminal_go() -> None:
    text = "\x1b[31mred\x1b[0m \x1b[2K\x1b[1A\x1b[?25l\x1b]8;;https://x.org\x1b\\link\x1b]8;;\x07 \x1b(Bend\x07\x00"
    html = outputs.to_html({"output_type": "stream", "name": "stdout", "text": text}, "x", "")
    assert '<span class="ansi-red-fg">red</span> link end</code>' in html


def test_an_output_without_anything_to_see_is_not_visible() -> None:
    blank = [{"output_type": "stream", "name": "stdout", "text": "\n"}]
    blank += [{"output_type": "display_data", "data": data} for data in ({}, {"text/plain": ""}, {"text/html": " "})]
    error = {"output_type": "error", "ename": "SystemExit", "evalue": "1", "traceback": []}
    assert outputs.visible([*blank, error]) == [error]
    assert "SystemExit: 1" in outputs.to_html(error, "x", "")
