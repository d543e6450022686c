"""One visual style for every figure of the notes.

Ink is black: on the page it takes the color of the surrounding text, so that one drawing serves light and dark mode.
Colors are mid-tones, with a contrast of at least 3:1 on white and on the dark page. Color maps ramp the opacity of a
hue, so that zero is the page itself. Series are named at their ends, not in a legend.

The functions draw and return nothing, so that a cell that ends in one of them shows only its figure:

    heatmap(pattern, rows=words, columns=words, xlabel="from", ylabel="to")

For more than one panel, or to add to a figure, make the axes first and pass one of them:

    left, right = panels(1, 2)
    heatmap(pattern, ax=left)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import MaxNLocator

from residual.arrays import floats, to_numpy
from residual.table import plain, shortened, signed, table

__all__ = ["attention", "heatmap", "lines", "panels", "ramp", "style", "table", "to_numpy"]

INK = "black"
BLUE, ORANGE, GREEN, VIOLET, OCHRE, GREY = "#2f7fd6", "#d8652a", "#2a9a72", "#9467e0", "#a8821f", "#808792"
COLOURS = (BLUE, ORANGE, GREEN, VIOLET, OCHRE, GREY)

WIDTH = 5.2
"""In inches. On a phone, at 340 px, 10 pt text is then still 9 px tall."""

LONGEST_TICK, LONGEST_NAME, LONGEST_LINE = 20, 40, 90
"""Most characters in a row's name, a curve's name and a line of a title; longer text gets an ellipsis in its middle."""

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "mathtext.fontset": "dejavusans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "lines.linewidth": 1.7,
    "lines.markersize": 4,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.max_open_warning": 0,
    "svg.fonttype": "none",
    "svg.hashsalt": "residual",
}


def style() -> None:
    """Set matplotlib's defaults to this module's style. Every function here calls it first."""
    matplotlib.rcParams.update(_STYLE)
    # an SVG holds the text itself, and the reader's browser finds a font for it
    warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)


def panels(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = WIDTH,
    height: float = 3.0,
    **options: Any,
) -> Any:
    """Return the axes of a new figure of ``width`` × ``height`` inches: one, or an array, as from ``plt.subplots``."""
    style()
    _, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)
    return axes


def ramp(values: Any, limit: float, colours: tuple[str, str] = (BLUE, ORANGE)) -> np.ndarray:
    """Return RGBA colors: opacity is ``|value| / limit``; the hue is the first color above zero, the second below.

    ``values [...] → [... 4]``. NaN and −∞ (a masked score) are fully transparent, as zero is.
    """
    x = np.nan_to_num(to_numpy(values).astype(float) / limit, neginf=0).clip(-1, 1)
    positive, negative = (np.array(to_rgb(colour)) for colour in colours)
    hue = np.where((x >= 0)[..., None], positive, negative)
    return np.concatenate([hue, np.abs(x)[..., None]], axis=-1)


def heatmap(
    matrix: Any,
    *,
    ax: Axes | None = None,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    limit: float | None = None,
    colours: tuple[str, str] = (BLUE, ORANGE),
    values: str = "",
    bar: str | None = "",
    block: int | tuple[int, int] | None = None,
    height: float | None = None,
) -> None:
    """Draw a matrix ``[row column]`` as colored cells; zero, NaN and −∞ have the color of the page.

    Args:
        rows, columns: names of the rows and columns, shown as given unless very long; default: sparse indices.
        limit: the magnitude drawn in full color (default: the largest finite one in the matrix).
        values: a format such as ``".2f"``; each cell then shows its number, and there is no color bar.
        bar: the label of the color bar; None for no bar.
        block: draw a hairline after this many rows and columns (one number for both, or a pair).
        height: of the figure in inches, if no ``ax`` is given.

    Raises:
        ValueError: not a matrix of real numbers, or an empty matrix; too few or too many names; an invalid limit,
            format or block.
    """
    matrix = floats(matrix)
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"heatmap draws a matrix; this has shape {matrix.shape}")
    n_rows, n_columns = matrix.shape
    rows, columns = _names(rows, n_rows, "rows"), _names(columns, n_columns, "columns")
    finite = matrix[np.isfinite(matrix)]
    if limit is None:
        limit = float(np.abs(finite).max(initial=0)) or 1.0
    highest = floats(limit)
    if highest.ndim or not 0 < highest < np.inf:
        raise ValueError(f"limit is {limit}; it must be a number above 0")
    limit = float(highest)
    try:
        signed(1.0, values)
    except ValueError:
        raise ValueError(f"values is {values!r}, which is not a number format; give one such as '.2f'") from None
    down, across = block if isinstance(block, tuple) else (block, block)
    for every in () if block is None else (down, across):
        if not isinstance(every, Integral) or every < 1:
            raise ValueError(f"block is {block!r}; give a number of rows and columns, 1 or more, or a pair")
    ax = ax if ax is not None else panels(height=height or 0.8 + (WIDTH - 1.2) * min(1.2, n_rows / n_columns))
    ax.imshow(ramp(matrix, limit, colours), interpolation="none", aspect="equal")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    for axis, names, n in ((ax.xaxis, columns, n_columns), (ax.yaxis, rows, n_rows)):
        if names is not None:
            axis.set_ticks(range(n), names, parse_math=False)
        else:
            axis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    if columns is not None and max(len(name) for name in columns) > 2:
        ax.tick_params(axis="x", rotation=90)
    if down and across:
        hairline: dict[str, Any] = {"color": INK, "alpha": 0.35, "linewidth": 0.7}
        for y in range(0, n_rows + 1, down):
            ax.plot([-0.5, n_columns - 0.5], [y - 0.5, y - 0.5], **hairline, clip_on=False)
        for x in range(0, n_columns + 1, across):
            ax.plot([x - 0.5, x - 0.5], [-0.5, n_rows - 0.5], **hairline, clip_on=False)
        ax.set_xlim(-0.5, n_columns - 0.5)
        ax.set_ylim(n_rows - 0.5, -0.5)
    for row, column in np.ndindex(*matrix.shape) if values else ():
        number = matrix[row, column]
        if not np.isnan(number):
            ax.text(column, row, signed(number, values), ha="center", va="center", fontsize=9)
    _label(ax, xlabel=xlabel, ylabel=ylabel, title=title)
    if bar is not None and not values:
        _colour_bar(ax, float(finite.min(initial=0)), limit, colours, bar)


def attention(
    pattern: Any,
    *,
    tokens: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    columns: int = 2,
    limit: float = 1.0,
    colour: str = BLUE,
) -> None:
    """Draw attention patterns ``[head query key]`` as small multiples on one scale, in full color at ``limit``.

    Destinations run down the side and sources along the bottom: a row shows where that token looks.

    Raises:
        ValueError: not such an array, or an empty one; too few or too many tokens or titles; a limit not above 0; no
            columns.
    """
    pattern = floats(pattern)
    if pattern.ndim != 3 or not pattern.size:
        raise ValueError(f"attention draws [head query key]; this has shape {pattern.shape}")
    n_heads = len(pattern)
    names = _names(tokens, pattern.shape[2], "tokens")
    _names(titles, n_heads, "heads")
    if columns < 1:
        raise ValueError(f"columns is {columns}; it must be at least 1")
    columns = min(columns, n_heads)
    rows = -(-n_heads // columns)
    side = WIDTH / columns
    axes = np.atleast_1d(panels(rows, columns, height=rows * (side + 0.05) + (0.6 if names else 0.2))).reshape(
        rows, columns
    )
    for index, ax in enumerate(axes.flat):
        if index >= n_heads:
            ax.set_visible(False)
            continue
        at_left, at_bottom = index % columns == 0, index + columns >= n_heads
        heatmap(
            pattern[index],
            ax=ax,
            rows=(names if at_left else [""] * len(names)) if names else None,
            columns=(names if at_bottom else [""] * len(names)) if names else None,
            title=titles[index] if titles else f"head {index}",
            limit=limit,
            colours=(colour, colour),
            bar=None,
        )
        if not names:
            ax.set(xticks=[], yticks=[])


def lines(
    x: Any,
    series: Mapping[str, Any],
    *,
    ax: Axes | None = None,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    log: str = "",
    colours: Sequence[str] | Mapping[str, str] | None = None,
    marker: str = "",
    height: float = 3.0,
) -> None:
    """Draw curves over a common ``x``, each named at its right end.

    Args:
        series: name → values, as many as ``x`` has (NaN for no value; ∞ is left out).
        log: axes on a logarithmic scale: ``"x"``, ``"y"`` or ``"xy"``.
        colours: one for each series, in order or by name.

    Raises:
        ValueError: no series; a series whose length differs from ``x``, without a point that can be drawn, or without a
            color; or a ``log`` of other axes.
    """
    x = floats(x)
    if not isinstance(series, Mapping):
        raise ValueError(f"series must map names to values; this is a {type(series).__name__}")
    if set(log) - {"x", "y"}:
        raise ValueError(f"log is {log!r}; it must be 'x', 'y' or 'xy'")
    if isinstance(colours, Mapping) and (missing := series.keys() - colours.keys()):
        raise ValueError(f"colours has no color for the series {', '.join(map(repr, sorted(missing, key=str)))}")
    curves = {name: floats(y) for name, y in series.items()}
    ends = [_end(x, name, y, log) for name, y in curves.items()]
    if not ends:
        raise ValueError("there are no series; give names and their values")
    ax = ax if ax is not None else panels(height=height)
    _label(ax, xlabel=xlabel, ylabel=ylabel, title=title)
    if "x" in log:
        ax.set_xscale("log")
    if "y" in log:
        ax.set_yscale("log")
    named = []
    for index, (name, y) in enumerate(curves.items()):
        if isinstance(colours, Mapping):
            colour = colours[name]
        else:
            colour = (colours or COLOURS)[index % len(colours or COLOURS)]
        ax.plot(x, np.where(np.isfinite(y), y, np.nan), color=colour, marker=marker)
        named.append((shortened(plain(name), LONGEST_NAME), colour, *ends[index]))
    ax.margins(x=0.02)
    if len(named) > 1 or named[0][0]:
        _name_at_the_ends(ax, named)


def _end(x: np.ndarray, name: str, y: np.ndarray, log: str) -> tuple[float, float]:
    """Return the last point of a curve that can be drawn."""
    if x.ndim != 1 or y.shape != x.shape:
        raise ValueError(f"x has shape {x.shape} and the series {name!r} {y.shape}; both must be rows of one length")
    drawn = np.isfinite(x) & np.isfinite(y)
    drawn &= (x > 0) if "x" in log else True
    drawn &= (y > 0) if "y" in log else True
    if not drawn.any():
        raise ValueError(f"the series {name!r} has no point that can be drawn: NaN, ∞, or 0 or less on a log axis")
    last = np.flatnonzero(drawn)[-1]
    return float(x[last]), float(y[last])


def _name_at_the_ends(ax: Axes, ends: list[tuple[str, str, float, float]]) -> None:
    """Write names in ink to the right of the curves, moved apart so as not to touch, each tied to its curve."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # fixes the layout, on which the distances below depend
    to_axes = ax.transData + ax.transAxes.inverted()
    apart = 13 / 72 * figure.dpi / ax.bbox.height  # one line of text, as a share of the axes' height
    placed = sorted((float(to_axes.transform((x, y))[1]), name, colour, (x, y)) for name, colour, x, y in ends)
    heights = spread([at for at, *_ in placed], apart)
    for at, (_, name, colour, end) in zip(heights, placed, strict=True):
        ax.annotate(
            name,
            xy=end,
            xytext=(1.05, at),
            textcoords="axes fraction",
            va="center",
            annotation_clip=False,
            parse_math=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 1.2,
                "shrinkA": 2,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def spread(targets: list[float], apart: float) -> list[float]:
    """Return the heights nearest to ``targets`` (ascending) that keep a distance ``apart`` (isotonic regression)."""
    pools: list[tuple[float, int]] = []  # (mean, count) of names that touch
    for index, at in enumerate(targets):
        mean, count = at - index * apart, 1
        while pools and pools[-1][0] > mean:
            other, others = pools.pop()
            mean, count = (mean * count + other * others) / (count + others), count + others
        pools.append((mean, count))
    means = [mean for mean, count in pools for _ in range(count)]
    return [mean + index * apart for index, mean in enumerate(means)]


def _colour_bar(ax: Axes, least: float, limit: float, colours: tuple[str, str], label: str) -> None:
    low = -limit if least < 0 else 0.0
    bar = ax.inset_axes((1.04, 0.0, 0.035, 1.0))
    bar.imshow(
        ramp(np.linspace(limit, low, 128)[:, None], limit, colours),
        extent=(0, 1, low, limit),
        aspect="auto",
        interpolation="none",
    )
    bar.spines[:].set_visible(False)
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.set_yticks([low, 0, limit] if low else [0, limit])
    bar.set_yticklabels([signed(tick, ".2g") for tick in bar.get_yticks()])
    bar.tick_params(length=0)
    if label:
        _label(bar, ylabel=label)
        bar.yaxis.set_label_position("right")


def _names(names: Iterable[Any] | None, n: int, kind: str) -> list[str] | None:
    if names is None:
        return None
    shown = [shortened(plain(name), LONGEST_TICK) for name in names]
    if len(shown) != n:
        raise ValueError(f"there are {len(shown)} names for {n} {kind}")
    return shown


def _label(ax: Axes, **texts: str) -> None:
    """Set the texts that are given, without math markup, and leave the others as they are."""
    for part, text in texts.items():
        if text:
            shown = "\n".join(shortened(plain(line), LONGEST_LINE) for line in str(text).split("\n"))
            getattr(ax, f"set_{part}")(shown, parse_math=False)
