"""Figures on a page are lighter than matplotlib made them, and show the same."""

import io
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
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
