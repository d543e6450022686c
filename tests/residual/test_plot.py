"""The figures' style: contrast in both modes, zero as the page's color, names that do not touch."""

import html
import io
import warnings
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from residual import plot
from residual.table import plain, shortened

LIGHT, DARK = "#ffffff", "#1e2129"


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2.1."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", plot.COLOURS)
@pytest.mark.parametrize("page", [LIGHT, DARK])
def test_colors_have_contrast_on_both_pages(colour: str, page: str) -> None:
    """WCAG requires a contrast of 3:1 between a graphic and its surroundings."""
    brighter, darker = sorted((luminance(colour), luminance(page)), reverse=True)
    assert (brighter + 0.05) / (darker + 0.05) >= 3


def test_zero_is_the_page() -> None:
    rgba = plot.ramp([-2.0, -1.0, 0.0, np.nan, 0.5, 3.0], limit=2.0)
    assert rgba[:, 3].tolist() == [1, 0.5, 0, 0, 0.25, 1]
    assert rgba[0, :3] == pytest.approx(to_rgb(plot.ORANGE))
    assert rgba[-1, :3] == pytest.approx(to_rgb(plot.BLUE))
    assert plot.ramp([-np.inf, np.inf], limit=2.0)[:, 3].tolist() == [0, 1], "a masked score is transparent"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8).map(sorted), st.floats(0.01, 0.2))
def test_names_of_curves_keep_their_distance(targets: list[float], apart: float) -> None:
    heights = np.array(plot.spread(targets, apart))
    assert (np.diff(heights) >= apart - 1e-9).all()
    if (np.diff(targets) >= apart).all():
        assert heights == pytest.approx(targets)  # names that do not touch stay in place
    assert heights.mean() == pytest.approx(np.mean(targets))  # the others move apart in both directions


def test_table_escapes_and_aligns() -> None:
    shown = plot.table([["<b>", 40000, -0.12345], ["x", None, 2.0]], header=["a & b", "n", "value"])
    html = shown._repr_html_()
    assert "&lt;b&gt;" in html and "a &amp; b" in html and "<b>" not in html
    assert '<td style="text-align: right">40,000</td>' in html
    assert '<td style="text-align: left">x</td>' in html
    assert "−0.123" in html
    assert repr(shown).splitlines()[1] == "<b>    40,000  −0.123"


def test_table_of_uneven_rows_says_which() -> None:
    with pytest.raises(ValueError, match=r"a row has 1 cells and the header 2: \['x'\]"):
        plot.table([["x"]], header=["a", "b"])


def test_a_number_is_not_a_matrix() -> None:
    with pytest.raises(ValueError, match="heatmap draws a matrix; this has shape"):
        plot.heatmap([1.0, 2.0])


def test_figures_leave_the_cell_alone() -> None:
    """They return nothing, so that a cell shows its figure and not the text of an object."""
    assert plot.heatmap(np.eye(3), rows=list("abc"), columns=list("abc"), block=1) is None
    assert plot.attention(np.ones((3, 2, 2)), columns=2) is None
    assert plot.lines(range(3), {"a": [1, 2, np.nan], "b": [1, 1, 1]}, log="y") is None


# ---- Any token is a label

NASTY = ["$", "$$", "$x$", r"$\frac$", r"\$", "_", "_hidden", "^{", "\\", "%", "#", "&<>\"'", "", " ", "\xa0", "é"]
INVISIBLE = ["\n", "\t", "\r\n", "\0", "\x1b[3m", "\x7f", "\x85", "\u200b", "\u202e", "\u2028", "\uffff", "\ud800"]
EMOJI = ["日本", "\ufeff", "😀", "👩‍👩‍👧", "🇫🇷", "e\u0301", "\u0301"]
LABEL = st.one_of(st.sampled_from(NASTY + INVISIBLE + EMOJI), st.text(st.characters(), max_size=5))


@pytest.fixture(autouse=True)
def _no_figures_left():
    yield
    plt.close("all")


def texts_of_figure() -> list[str]:
    """Return every text in the current figure's SVG, as a browser reads it."""
    out = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot.style()
        plt.savefig(out, format="svg")
    plt.close("all")
    tree = ElementTree.fromstring(out.getvalue())
    return ["".join(text.itertext()) for text in tree.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a\nb", r"a\nb"),
        ("\x00\x1b", r"\x00\x1b"),
        ("\ud800", r"\ud800"),
        ("\u202e\ufeff", r"\u202e\ufeff"),
        ("$\\_é日😀 \xa0", "$\\_é日😀 \xa0"),
        (7, "7"),
    ],
)
def test_characters_that_cannot_be_seen_are_written_out(text, shown) -> None:
    assert plain(text) == shown


def test_unusual_labels_are_drawn_as_they_are() -> None:
    labels = NASTY + INVISIBLE + EMOJI
    plot.heatmap(np.eye(len(labels)), rows=labels)
    assert set(filter(None, map(plain, labels))) <= set(texts_of_figure())
    plot.lines([1, 2], {name: [i, 0] for i, name in enumerate(labels)}, height=6)
    assert set(filter(None, map(plain, labels))) <= set(texts_of_figure())


@settings(max_examples=8, deadline=None)
@given(st.lists(LABEL, min_size=2, max_size=4))
def test_any_label_of_a_matrix_is_drawn_as_it_is(labels: list[str]) -> None:
    n = len(labels)
    plot.heatmap(np.eye(n), rows=labels, columns=labels, xlabel=labels[0], title=labels[1], bar=labels[0])
    shown = texts_of_figure()
    ticks = [shortened(plain(label), plot.LONGEST_TICK) for label in labels]
    for tick in filter(None, ticks):
        assert shown.count(tick) >= 2 * ticks.count(tick)
    plot.attention(np.full((1, n, n), 1 / n), tokens=labels, titles=[labels[0]])
    shown = texts_of_figure()
    assert all(shown.count(tick) >= 2 for tick in ticks if tick)


@settings(max_examples=8, deadline=None)
@given(st.lists(LABEL, min_size=2, max_size=4, unique=True))
def test_any_name_of_a_curve_is_drawn_as_it_is(names: list[str]) -> None:
    plot.lines([1, 2, 3], {name: [i, 1, 2 * i] for i, name in enumerate(names)}, xlabel=names[0])
    shown = texts_of_figure()
    assert all(shortened(plain(name), plot.LONGEST_NAME) in shown for name in names if name)


@given(st.lists(LABEL, min_size=1, max_size=4))
def test_a_table_shows_any_text(cells: list[str]) -> None:
    shown = plot.table([cells], header=cells)
    tree = ElementTree.fromstring(shown._repr_html_())
    assert [cell.text or "" for cell in tree.iter("td")] == list(map(plain, cells))
    assert [cell.text or "" for cell in tree.iter("th")] == list(map(plain, cells))
    assert len(repr(shown).split("\n")) == 2, "one line per row"
    assert html.escape(plain(cells[0])) in shown._repr_html_()


def test_numbers_are_names_whatever_holds_them() -> None:
    plot.heatmap(
        torch.eye(2).to_sparse(),
        rows=torch.tensor([17, 23]),
        limit=torch.tensor(1.0),
        columns=(name for name in [np.int64(5), 0.5]),
    )
    shown = texts_of_figure()
    assert {"17", "23", "5", "0.5"} <= set(shown) and not any("tensor" in text for text in shown)
    assert repr(plot.table([[1]], [torch.tensor(3)])).split() == ["3", "1"]


def test_long_names_leave_the_axes_room() -> None:
    """Both ends of a name are kept, because names may differ at either."""
    long = "a" * 300
    names = [f"1{long}2", f"1{long}3"]
    figures = {
        lambda: plot.heatmap(np.eye(2), rows=names, columns=names, title=long, xlabel=long, ylabel=long): 20,
        lambda: plot.lines([1, 2], {names[0]: [1, 2], names[1]: [2, 1]}, title=long): 40,
        lambda: plot.attention(np.ones((2, 2, 2)), tokens=names): 20,
    }
    for draw, longest in figures.items():
        draw()
        plt.gcf().canvas.draw()
        assert plt.gca().get_window_extent().width > 0.15 * plt.gcf().bbox.width
        shown = texts_of_figure()
        begin, end = "1" + "a" * (longest // 2 - 2), "a" * (longest // 2 - 1)
        assert {f"{begin}…{end}2", f"{begin}…{end}3"} <= set(shown)
        assert max(map(len, shown)) <= plot.LONGEST_LINE


def test_a_title_may_have_two_lines() -> None:
    plot.heatmap(np.eye(2), title="above\nbelow", values=".1f")
    assert {"above", "below", "1.0", "0.0"} <= set(texts_of_figure())


# ---- Any numbers


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool]
)
def test_tensors_of_any_type(dtype) -> None:
    values = torch.tensor([[0, 1], [1, 1]], dtype=dtype)
    if dtype.is_floating_point:
        values.requires_grad_()
    assert plot.to_numpy(values).astype(float).tolist() == [[0, 1], [1, 1]]
    plot.heatmap(values, values="g", rows=["a", "b"], columns=["c", "d"])
    assert sorted(texts_of_figure()) == ["0", "1", "1", "1", "a", "b", "c", "d"]
    plot.attention(values[None])
    plot.lines(values[0], {"a": values[0], "b": list(values[1])})
    assert {"a", "b"} <= set(texts_of_figure())
    assert f">{'True' if dtype is torch.bool else 1}<" in plot.table([[values[1, 1]]], ["n"])._repr_html_()


@settings(max_examples=8, deadline=None)
@given(st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=1, max_size=3))
def test_a_matrix_of_any_numbers(rows: list[list[float]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot.heatmap(rows)
    texts_of_figure()
    plot.heatmap(rows, values=".1e", limit=1)
    shown = texts_of_figure()
    assert shown.count("−∞") == sum(number == -np.inf for row in rows for number in row)
    assert "nan" not in shown


def test_masked_scores_are_blank() -> None:
    """The causal mask is −∞; the scale is set by the other scores."""
    scores = torch.tensor([[[-3.0, -torch.inf], [1.0, 2.0]]])
    plot.heatmap(scores[0])
    (image,) = plt.gcf().axes[0].images
    assert np.asarray(image.get_array())[..., 3].tolist() == pytest.approx(np.array([[1, 0], [1 / 3, 2 / 3]]))
    assert texts_of_figure()[-3:] == ["−3", "0", "3"]
    plot.attention(scores)
    (image,) = plt.gcf().axes[0].images
    assert np.asarray(image.get_array())[0, 1, 3] == 0


def test_curves_may_have_gaps() -> None:
    plot.lines([0, 1, 2, np.nan], {"a": [np.nan, 1, -np.inf, 3], "b": [1, np.inf, 2, 2]}, log="y")
    assert {"a", "b"} <= set(texts_of_figure())
    plot.lines([0, 1, 2], {"a": [5, 3, 0], "b": [1, 1, 1]}, log="xy")  # zeros have no logarithm
    assert {"a", "b"} <= set(texts_of_figure())


@pytest.mark.parametrize(
    "draw, says",
    [
        (lambda: plot.heatmap(np.zeros((0, 3))), r"draws a matrix; this has shape \(0, 3\)"),
        (lambda: plot.heatmap([[1j]]), "the numbers are complex"),
        (lambda: plot.heatmap(np.eye(2), rows=["a"]), "there are 1 names for 2 rows"),
        (lambda: plot.heatmap(np.eye(2), columns="abc"), "there are 3 names for 2 columns"),
        (lambda: plot.heatmap(np.eye(2), limit=0), "limit is 0; it must be a number above 0"),
        (lambda: plot.heatmap(np.eye(2), limit="a"), "these are not numbers: 'a'"),
        (lambda: plot.heatmap(np.eye(2), limit=[1, 2]), r"limit is \[1, 2\]; it must be a number above 0"),
        (lambda: plot.heatmap(np.eye(2), values="zz"), "values is 'zz', which is not a number format"),
        (lambda: plot.heatmap(np.eye(2), block=0), "block is 0; give a number of rows and columns, 1 or more"),
        (lambda: plot.heatmap(np.eye(2), block=(1, -1)), r"block is \(1, -1\)"),
        (lambda: plot.heatmap([[1], [2, 3]]), r"the rows differ in length: \[\[1\], \[2, 3\]\]"),
        (lambda: plot.heatmap([["a"]]), r"these are not numbers: \[\['a'\]\]"),
        (lambda: plot.attention(np.ones((2, 2, 2)), columns=0), "columns is 0; it must be at least 1"),
        (lambda: plot.lines([1, 2], {"a": [1, 2]}, log="z"), "log is 'z'; it must be"),
        (lambda: plot.lines([1, 2], {"a": [1, 2]}, colours={"b": "red"}), "colours has no color for the series 'a'"),
        (lambda: plot.lines([1, 2], [[1, 2]]), "series must map names to values; this is a list"),
        (lambda: plot.attention(np.zeros((0, 2, 2))), r"attention draws .* this has shape \(0, 2, 2\)"),
        (lambda: plot.attention(np.eye(2)), r"attention draws \[head query key\]; this has shape \(2, 2\)"),
        (lambda: plot.attention(np.ones((1, 2, 2)), tokens=[]), "there are 0 names for 2 tokens"),
        (lambda: plot.attention(np.ones((2, 2, 2)), titles=["a"]), "there are 1 names for 2 heads"),
        (lambda: plot.lines([1, 2], {}), "there are no series"),
        (lambda: plot.lines([], {"a": []}), "the series 'a' has no point that can be drawn"),
        (lambda: plot.lines([1, 2], {"a": [np.nan, np.inf]}), "the series 'a' has no point"),
        (lambda: plot.lines([1, 2], {"a": [0, -1]}, log="y"), "the series 'a' has no point"),
        (lambda: plot.lines([1, 2], {"a": [1, 2, 3]}), r"x has shape \(2,\) and the series 'a' \(3,\)"),
        (lambda: plot.lines([1, 2], {"a": np.eye(2)}), r"x has shape \(2,\) and the series 'a' \(2, 2\)"),
    ],
)
def test_undrawable_input_is_a_readable_error(draw, says) -> None:
    with pytest.raises(ValueError, match=says):
        draw()
    assert not plt.get_fignums(), "no empty figure is left"
