"""The outputs of cells in a browser: no HTML gets out of its place, and no style either."""

from __future__ import annotations

import base64
import io
import random
import re
from typing import Any

import matplotlib.pyplot as plt

from weave.note.outputs import problem, to_html

TAGS = re.findall(
    r"\S+",
    "a b body button caption col dd details div dl dt em figcaption figure form frameset h1 head hr html i input label"
    " li math mi nobr noscript object ol optgroup option p plaintext pre ruby rt script section select span style"
    " svg foreignObject path table tbody td template textarea tfoot th thead title tr ul xmp",
)
REST = [
    "text",
    "&lt;",
    "&",
    "<!--",
    "-->",
    "--!>",
    "<![CDATA[",
    "]]>",
    "<",
    "</",
    '<a title="',
    '">',
    "<p class=x",
    "\0",
]
PLACES = [
    "<figure id=f><div class=o>{}</div><figcaption id=c>c</figcaption></figure><p id=e>end</p>",
    "<ul><li><figure id=f><div class=o>{}</div><figcaption id=c>c</figcaption></figure></li><li id=e>end</li></ul>",
    "<table><tr><td><figure id=f><div class=o>{}</div><figcaption id=c>c</figcaption></figure><td id=e>end</table>",
]
INSIDE = """(pages) => pages.map((page) => {
  const found = new DOMParser().parseFromString(page, "text/html");
  const [figure, caption, end] = ["f", "c", "e"].map((id) => found.getElementById(id));
  if (!figure || !caption || !end || !found.querySelector(".o")) return "lost";
  const rest = found.body.cloneNode(true);
  rest.querySelector(".o").remove();
  return rest.outerHTML;
})"""


def junk(seed: int) -> str:
    draw = random.Random(seed)
    pieces = [f"<{tag}>" for tag in TAGS] + [f"</{tag}>" for tag in [*TAGS, "figure", "div", "div"]] + REST
    return "".join(draw.choice(pieces) for _ in range(draw.randint(1, 12)))


def html_of(html: str) -> str:
    return to_html({"output_type": "display_data", "data": {"text/html": html}}, "x-0", 'aria-label="x"')


def test_no_html_gets_out_of_its_place(browser: Any) -> None:
    """The page around it is the same as around an empty output; without our care it often is not."""
    cases = [junk(seed) for seed in range(700)]
    page = browser.new_page()
    for place in PLACES:
        [plain] = page.evaluate(INSIDE, [place.format("")])
        raw = page.evaluate(INSIDE, [place.format(case) for case in cases])
        assert sum(around != plain for around in raw) > 100
        shown = page.evaluate(INSIDE, [place.format(html_of(case)) for case in cases])
        assert [case for case, around in zip(cases, shown, strict=True) if around != plain] == []
    page.close()


STYLES = """<style>
  p { color: rgb(1, 2, 3) } </style><style> } p { color: rgb(4, 5, 6) }
  @media all { p { color: rgb(7, 8, 9) }
</style><p>in</p>"""


def test_a_style_holds_in_its_output_alone_and_a_script_runs(browser: Any) -> None:
    script = "<div id=box></div><script>document.getElementById('box').textContent = 1 < 2 && '</b>'</script>"
    page = browser.new_page()
    page.set_content(f"<body><p>out</p>{html_of(STYLES)}{html_of(script)}</body>")
    colors = page.evaluate("[...document.querySelectorAll('p')].map((p) => getComputedStyle(p).color)")
    assert colors == ["rgb(0, 0, 0)", "rgb(7, 8, 9)"]
    assert page.text_content("#box") == "</b>"
    page.close()


SVG = 'xmlns="http://www.w3.org/2000/svg"'
DRAWINGS = {  # with the color of the pixel in its middle
    "small-numbers": (f'<svg {SVG} viewBox="0 0 .01 .01"><rect width=".0099" height=".0099" fill="red"/></svg>', "red"),
    "no-viewBox": ('<svg width="300" height="300"><rect width="300" height="300" fill="red"/></svg>', "red"),
    "style": (
        f'<svg {SVG} viewBox="0 0 9 9"><style>rect {{ fill: blue }}</style><rect width="9" height="9"/></svg>',
        "blue",
    ),
    "entities": ("<svg viewBox='0 0 9 9'><text>a&nbsp;b</text><rect width=9 height=9 fill=lime></svg>", "lime"),
    "other-encoding": (
        f'<?xml version="1.0" encoding="latin-1"?><svg {SVG} viewBox="0 0 9 9"><title>ü</title></svg>',
        "",
    ),
    "xlink": (
        "<svg viewBox='0 0 9 9'><defs><rect id='r' width='9' height='9' fill='red'/></defs><use xlink:href='#r'/>",
        "red",
    ),
}
MIDDLE = """async (html) => {
  document.body.innerHTML = html;
  const image = document.querySelector("img");
  await image.decode();
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
  canvas.width = canvas.height = 300;
  context.drawImage(image, 0, 0, 300, 300);
  return [image.naturalWidth, image.naturalHeight, [...context.getImageData(150, 150, 1, 1).data]];
}"""
COLORS = {"red": [255, 0, 0, 255], "blue": [0, 0, 255, 255], "lime": [0, 255, 0, 255], "": [0, 0, 0, 0]}


def test_a_drawing_is_shown_as_it_was_given(browser: Any) -> None:
    page = browser.new_page()
    for name, (svg, color) in DRAWINGS.items():
        output = {"output_type": "display_data", "data": {"image/svg+xml": svg}}
        assert problem(output, {}) == "", name
        width, height, middle = page.evaluate(MIDDLE, to_html(output, "x-0", 'aria-label="x"'))
        assert (width, height) == (300, 300) or "width=" not in svg[:20], name
        assert middle == COLORS[color], name
    page.close()


def test_a_picture_has_the_size_that_it_was_given(browser: Any) -> None:
    file = io.BytesIO()
    plt.figure(figsize=(2, 1)).savefig(file, format="png", dpi=50, bbox_inches=None)
    plt.close("all")
    data = {"image/png": base64.b64encode(file.getvalue()).decode()}
    page = browser.new_page()
    for given, size in [({"width": 60}, [60, 30]), ({"height": 20}, [40, 20]), ({"width": 60, "height": 50}, [60, 50])]:
        output = {"output_type": "display_data", "data": data, "metadata": {"image/png": given}}
        page.set_content(f"<style>img {{ max-width: 100%; height: auto }}</style>{to_html(output, 'x', '')}")
        assert page.evaluate("(({ width, height }) => [width, height])(document.images[0])") == size
    page.close()
