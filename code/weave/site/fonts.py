"""The fonts of a finished site: of each file, the characters that its pages have, which is half of it or less."""

from __future__ import annotations

import html
import logging
import string
from io import BytesIO
from pathlib import Path

from weave.source.files import digest, write_atomically

# What a page can ask of a face: pairs set closer, ligatures, accents, and the digits of a table.
_FEATURES = ["kern", "liga", "calt", "ccmp", "locl", "mark", "mkmk", "lnum", "tnum"]


def shrink(site_dir: Path, cache: Path) -> None:
    """Leave in each WOFF2 file of a site the characters that occur on its pages, and those that a reader may type."""
    pages = (html.unescape(page.read_text("utf-8")) for page in site_dir.rglob("*.html"))
    used = sorted(map(ord, set(string.printable).union(*pages)))
    for font in site_dir.rglob("*.woff2"):
        font.write_bytes(_with_only(font.read_bytes(), used, cache))


def _with_only(font: bytes, used: list[int], cache: Path) -> bytes:
    path = cache / f"{digest(font, repr((used, _FEATURES)).encode())}.woff2"
    checksum, small = _read(path)
    if checksum != digest(small):
        from fontTools.subset import Options, Subsetter
        from fontTools.ttLib import TTFont

        logging.getLogger("fontTools").setLevel("ERROR")  # KaTeX's fonts have no dates, which it would say of each
        cut = TTFont(BytesIO(font), recalcTimestamp=False)
        subsetter = Subsetter(Options(layout_features=_FEATURES, notdef_outline=True, hinting=False))
        subsetter.populate(unicodes=used)
        subsetter.subset(cut)
        cut.flavor = "woff2"
        made = BytesIO()
        cut.save(made)
        small = made.getvalue()
        write_atomically(path, digest(small).encode() + small)
    return small


def _read(path: Path) -> tuple[str, bytes]:
    """Return the checksum and the content of a font in the cache, which may be damaged."""
    data = path.read_bytes() if path.is_file() else b""
    return data[:64].decode("ascii", "replace"), data[64:]
