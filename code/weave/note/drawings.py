"""SVG on a page: a figure of matplotlib's becomes part of the page, what another program drew is shown as it is.

The page knows how matplotlib draws: its figures get the page's ink, and real text, and lose what nobody sees. In any
other drawing this would be damage. It is a picture (``<img>``, as in JupyterLab): its styles, ids and scripts stay in
it, and the browser draws it by the rules of XML. Its ink is often black and unsaid, so it lies on a light ground.
"""

from __future__ import annotations

import base64
import re
from typing import Any
from xml.etree import ElementTree

from bleach.html5lib_shim import HTMLParser

from weave.note.cell_html import asks_elsewhere, size
from weave.note.cell_tex import NotShown

_SVG = "http://www.w3.org/2000/svg"
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>\s*")
_BY_MATPLOTLIB = re.compile(r"<dc:title>\s*Matplotlib v|<!-- Created with matplotlib ")
_ROOT = re.compile(r"<svg\b[^>]*>")


def to_html(svg: str, prefix: str, label: str, metadata: dict[str, Any]) -> str:
    """Return an SVG as HTML; the arguments are those of `outputs.to_html`.

    Raises:
        NotShown: It is no SVG, or asks another site for a part of itself.
    """
    if _BY_MATPLOTLIB.search(svg):
        return _figure(svg, prefix, label)
    data = base64.b64encode(_drawing(svg).encode()).decode()
    source = f"data:image/svg+xml;base64,{data}"
    return f'<img class="weave-drawing" src="{source}" role="img" alt="" {label}{size(metadata)}>'


def _drawing(svg: str) -> str:
    """Return an SVG as XML that stands alone."""
    text = _DECLARATION.sub("", svg.lstrip("\ufeff"))  # it may name another encoding
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:  # what is no XML may still be HTML, which Jupyter would show
        root, text = _from_html(text), ""
    if root.tag == "svg":  # no name space: it was written to stand in HTML
        root, text = _from_html(text), ""
    if root.tag != f"{{{_SVG}}}svg":
        raise NotShown("shows an image/svg+xml whose first element is not <svg>; correct it")
    for element in root.iter():
        for name, value in element.attrib.items():
            plain = name.rpartition("}")[2]
            fetched = plain in ("href", "src") and not str(element.tag).endswith("}a")
            if asks_elsewhere(value if fetched else "", value if plain == "style" else ""):
                raise NotShown(
                    f"shows a drawing that loads '{value[:80]}'; a drawing must have all its parts in itself"
                )
        if str(element.tag).endswith("}style") and asks_elsewhere("", element.text or ""):
            raise NotShown("shows a drawing whose <style> loads a file; a drawing must have all its parts in itself")
    return text or ElementTree.tostring(root, "unicode")


def _from_html(text: str) -> ElementTree.Element:
    root = HTMLParser().parseFragment(text)
    if (svg := root.find(f"{{{_SVG}}}svg")) is None:
        raise NotShown("shows an image/svg+xml that has no <svg>; correct it")
    svg.tail = None
    return svg


# -- matplotlib's


_PLACES = re.compile(r'\s(?:d|x|y|width|height|points|x1|x2|y1|y2)="[^"]*"|(?:translate|rotate)\([^)]*\)')
_DIGITS = re.compile(r"(\d\.\d{2})\d+")

_PATH = re.compile(r'\bd="(M [-\d.]+ [-\d.]+\s+(?:[ML] [-\d.]+ [-\d.]+\s+)*z?)\s*"')


def _short_path(path: str) -> str:
    """A path of straight lines with each point told from the one before, to a tenth of a point."""
    said, x, y = [], 0, 0
    for move, to_x, to_y in re.findall(r"([ML]) ([-\d.]+) ([-\d.]+)", path):
        next_x, next_y = round(10 * float(to_x)), round(10 * float(to_y))
        for number in (next_x - x, next_y - y):
            text = f"{number / 10:g}"
            said.append(text.replace("0.", ".", 1) if abs(number) < 10 else text)
        said[-2] = ("m" if move == "M" else "l") + said[-2]
        x, y = next_x, next_y
    closed = "z" if path.rstrip().endswith("z") else ""
    return re.sub(r" (?=[-ml])", "", " ".join(said)) + closed


def _figure(svg: str, prefix: str, label: str) -> str:
    """A matplotlib figure fit to stand in a page: ids of its own, ink in the color of the text around it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    # matplotlib's style sheet says `*`, which would mean the whole page: its two rules go to the root instead.
    svg = re.sub(r"<style[^>]*>\s*\*\{[^}]*\}\s*</style>", "", svg)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    svg = svg.replace("#000000", "currentColor")
    svg = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", svg)
    svg = _PATH.sub(lambda match: f'd="{_short_path(match[1])}"', svg)
    svg = _PLACES.sub(lambda match: _DIGITS.sub(r"\1", match[0]), svg)  # a hundredth of a point is enough
    svg = re.sub(r"<use\b[^>]*>", lambda match: re.sub(r"(\.\d)\d\b", r"\1", match[0]), svg)
    used = set(re.findall(r"#([^\")]+)[\")]", svg))
    svg = re.sub(r'\sid="([^"]+)"', lambda match: match[0] if match[1] in used else "", svg)
    root = _ROOT.match(svg)
    assert root is not None
    head = re.sub(r'\s(?:height|version|id)="[^"]*"|\sxmlns(?::\w+)?="[^"]*"', "", root[0])
    look = 'data-search-exclude fill="currentColor" stroke-linejoin="round" stroke-linecap="butt"'
    head = f'{head[:-1]} role="img" {label} {look}>'
    svg = head + svg[root.end() :]
    return re.sub(r">\s+<", "><", svg).strip()
