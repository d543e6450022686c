"""Social cards: the picture that others show when they link to a page, drawn with its title and description."""

from __future__ import annotations

import hashlib
import textwrap
from pathlib import Path

PAPER, INK, QUIET, ACCENT = "#fffefb", "#22282c", "#566066", "#b4532a"


def draw(title: str, description: str, site: str, fonts: Path, cache: Path) -> Path:
    """Return the card of a page, a PNG of 1200 × 630 pixels in the folder ``cache``.

    A card is drawn once: its name is a digest of its texts and of this file. ``fonts`` holds Source Serif 4 as WOFF;
    without it the card is set in matplotlib's own face.
    """
    key = hashlib.sha256("\0".join((title, description, site, Path(__file__).read_text())).encode()).hexdigest()[:24]
    path = cache / f"{key}.png"
    if path.exists():
        return path
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    def face(weight: int) -> FontProperties:
        woff = fonts / f"source-serif-4-latin-{weight}-normal.woff"
        return FontProperties(fname=str(_truetype(woff, cache))) if woff.exists() else FontProperties()

    figure = Figure(figsize=(12, 6.3), dpi=100, facecolor=PAPER)
    FigureCanvasAgg(figure)
    lines = textwrap.wrap(title.replace("$", r"\$"), 34)[:2]
    figure.text(0.07, 0.86, site, fontproperties=face(400), fontsize=23, color=ACCENT, va="top")
    figure.text(
        0.07, 0.72, "\n".join(lines), fontproperties=face(600), fontsize=46, color=INK, va="top", linespacing=1.15
    )
    below = textwrap.fill(textwrap.shorten(description.replace("$", r"\$"), 190, placeholder=" …"), 66)
    figure.text(0.07, 0.08, below, fontproperties=face(400), fontsize=23, color=QUIET, va="bottom", linespacing=1.4)
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    figure.savefig(partial, format="png", facecolor=PAPER, metadata={"Software": None})
    partial.replace(path)
    return path


def _truetype(woff: Path, cache: Path) -> Path:
    """Return a WOFF font as a TrueType file, which matplotlib can read."""
    path = cache / f"{woff.stem}.ttf"
    if not path.exists():
        from fontTools.ttLib import TTFont

        cache.mkdir(parents=True, exist_ok=True)
        font = TTFont(woff)
        font.flavor = None
        font.save(path)
    return path
