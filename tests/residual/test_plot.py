"""The promises that the figures' style makes: contrast in both modes, zero as the page, names that do not touch."""

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

matplotlib.use("Agg")
from residual import plot

LIGHT, DARK = "#ffffff", "#1e2129"


def luminance(colour: str) -> float:
    """WCAG 2.1, relative luminance."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", plot.COLOURS)
@pytest.mark.parametrize("page", [LIGHT, DARK])
def test_colours_read_on_both_pages(colour: str, page: str) -> None:
    """WCAG asks for 3:1 between a graphic and what is around it."""
    brighter, darker = sorted((luminance(colour), luminance(page)), reverse=True)
    assert (brighter + 0.05) / (darker + 0.05) >= 3


def test_zero_is_the_page() -> None:
    rgba = plot.ramp([-2.0, -1.0, 0.0, np.nan, 0.5, 3.0], limit=2.0)
    assert rgba[:, 3].tolist() == [1, 0.5, 0, 0, 0.25, 1]
    assert rgba[0, :3] == pytest.approx(to_rgb(plot.ORANGE))
    assert rgba[-1, :3] == pytest.approx(to_rgb(plot.BLUE))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8).map(sorted), st.floats(0.01, 0.2))
def test_names_keep_their_distance(wanted: list[float], apart: float) -> None:
    got = np.array(plot._spread(wanted, apart))
    assert (np.diff(got) >= apart - 1e-9).all()
    if (np.diff(wanted) >= apart).all():
        assert got == pytest.approx(wanted)  # names that do not touch stay where they are
    assert got.mean() == pytest.approx(np.mean(wanted))  # the others give way to both sides


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
    """They return nothing, so that a cell ends in its figure and not in the text of an object."""
    assert plot.heatmap(np.eye(3), rows=list("abc"), columns=list("abc"), block=1) is None
    assert plot.attention(np.ones((3, 2, 2)), columns=2) is None
    assert plot.lines(range(3), {"a": [1, 2, np.nan], "b": [1, 1, 1]}, log="y") is None
