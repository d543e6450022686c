"""A number leads to its cell: where a link lands, what lights up, what the address says, and what is known of it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import BuiltSite

NOTE = "induction-heads"
LAID_OUT = "() => !document.querySelector('.jp-Cell:nth-child(n + 6):not(.near)')"
# The element that an address names, and the cell around it.
PLACE = """(id) => {
  const target = document.getElementById(id), cell = target.closest(".jp-CodeCell");
  const paper = (element) => getComputedStyle(element).backgroundColor;
  const other = document.querySelector(".jp-CodeCell:not(:has(:target)):not(:target)");
  return { y: target.getBoundingClientRect().y, named: target.matches(":target"),
    code: cell.querySelector(".jp-InputArea pre").getBoundingClientRect().bottom,
    name: cell.querySelector(".weave-name")?.innerText, washes: [target, cell, other].map(paper) };
}"""


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Any):
    context = browser.new_context(
        viewport={"width": 1440, "height": 900}, color_scheme=getattr(request, "param", "light")
    )
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    yield page
    context.close()
    assert not page.problems


def links(page: Any, selector: str) -> list[str]:
    """Return the addresses of a note's links into its own notebook, each once."""
    found = page.locator(f"article {selector}").evaluate_all("(all) => all.map((link) => link.href)")
    return [url for url in dict.fromkeys(found) if f"notebooks/{NOTE.replace('-', '_')}/#" in url]


def landed(page: Any, anchor: str) -> dict[str, Any]:
    """Return where a link has led to once the page is at rest."""
    page.wait_for_function(LAID_OUT, timeout=60_000)
    page.wait_for_timeout(600)  # Material writes the address a quarter of a second after the page has moved
    return page.evaluate(PLACE, anchor)


def test_every_link_to_a_cell_lands_below_the_header_also_on_a_busy_machine(site: BuiltSite, page: Any) -> None:
    page.goto(f"{site.url}notes/{NOTE}/")
    cells = links(page, "a.weave-cell")
    assert len(cells) >= 16
    page.goto(f"{cells[0]}%")  # a mistyped address is not an error
    busy = page.context.new_cdp_session(page)
    busy.send("Emulation.setCPUThrottlingRate", {"rate": 3})
    for url in (cells[1], cells[len(cells) // 2], cells[-2]):
        page.goto("about:blank")
        page.goto(url)
        anchor = url.partition("#")[2]
        place = landed(page, anchor)
        assert place["y"] == pytest.approx(72, abs=2) and place["named"] and place["name"].startswith(anchor), url
        own, _, other = place["washes"]
        assert own != other, "it lights up"
        assert page.url == url, "the address can be shared on"


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
def test_a_number_leads_to_its_own_line_below_the_end_of_its_code(site: BuiltSite, page: Any) -> None:
    page.goto(f"{site.url}notes/{NOTE}/")
    claims = links(page, "a.weave-claim")
    for url in (claims[8], claims[-8]):
        anchor = url.partition("#")[2]
        if page.url != f"{site.url}notes/{NOTE}/":
            page.go_back()
        link = page.locator(f'article a.weave-claim[href$="#{anchor}"]').first
        link.evaluate("(link) => link.closest('details')?.setAttribute('open', '')")
        link.click()  # at once after the page has moved there
        page.wait_for_url("**/notebooks/**")
        place = landed(page, anchor)
        assert place["named"] and page.url == url
        assert 48 < place["code"] < place["y"] < 860, "the end of the code and the value are seen"
        value, cell, other = place["washes"]
        assert len({value, cell, other}) == 3, "the cell lights up, and the value in it"
        line = page.locator(f'[id="{anchor}"]').inner_text()
        assert line.startswith(anchor.removeprefix("value-")) and "=" in line
    page.mouse.wheel(0, 6000)
    page.wait_for_timeout(1000)
    assert page.url != url, "far from the cell, the address follows the reader again"


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
def test_numbers_are_ink_on_dots_and_links_are_not(site: BuiltSite, page: Any) -> None:
    page.goto(f"{site.url}notes/tensor-products/")
    look = """(link) => { const of = getComputedStyle(link), text = getComputedStyle(link.closest("p, li, td"));
      return [of.textDecorationLine, of.textDecorationStyle, of.color === text.color, of.whiteSpace]; }"""
    claim, theorem, plain = ("a.weave-claim", "a.weave-theorem", "a:not([class])")
    assert page.locator(f"article p > {claim}").first.evaluate(look) == ["underline", "dotted", True, "nowrap"]
    assert page.locator(f"article p > {theorem}").first.evaluate(look) == ["underline", "solid", False, "nowrap"]
    assert page.locator(f"article p > {plain}").first.evaluate(look)[:3] == ["underline", "solid", False]


@pytest.mark.parametrize("width", [1440, 360])
def test_a_card_stands_beside_its_number_also_when_it_has_grown(site: BuiltSite, browser: Any, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 700}, has_touch=width < 400)
    page = context.new_page()
    page.goto(f"{site.url}notes/einstein-notation/")
    page.add_style_tag(content="* { content-visibility: visible !important }")  # nothing moves from here on
    claim, card = page.locator("article p > a.weave-claim").nth(4), page.locator("#weave-card")
    for y in (600, 100):
        claim.evaluate("(claim, y) => scrollBy(0, claim.getBoundingClientRect().top - y)", y)
        page.mouse.move(0, 0)
        claim.tap() if width < 400 else claim.hover()
        card.filter(has_text="the cell took").wait_for()
        box, link = card.bounding_box(), claim.bounding_box()
        assert box["y"] + box["height"] <= link["y"] if y == 600 else box["y"] >= link["y"] + link["height"]
        assert box["x"] >= 8 and box["x"] + box["width"] <= width - 8
        page.keyboard.press("Escape")
    context.close()


def test_what_is_known_of_a_cell_is_of_that_cell(site: BuiltSite) -> None:
    read = json.loads((site.folder / "notebooks/induction_heads/provenance.json").read_text("utf-8"))
    cells = {entry["cell"].partition("#")[2]: entry for entry in read}
    assert cells["by-hand"]["weights"] == [], "its weights are written by hand"
    assert "smeared" not in cells["phase-numbers"]["weights"] and "smeared" in cells["smeared"]["weights"]
    ledger = json.loads((site.folder / "assets/ledger.json").read_text("utf-8"))["claims"]
    own = [claim for claim in ledger if claim["notebook"].endswith("/induction_heads.py")]
    assert own and all(cells[claim["cell"]]["values"][claim["name"]] == claim["value"] for claim in own)


def test_a_note_takes_as_long_on_the_map_as_on_its_own_page(site: BuiltSite) -> None:
    home = (site.folder / "index.html").read_text("utf-8")
    on_map = dict(re.findall(r'<li><a href="(notes/[^"]*/)">[^<]*</a>, (\d+) min</li>', home))
    assert len(on_map) >= 12
    for url, minutes in on_map.items():
        text = site.file(f"{site.url}{url}").read_text("utf-8")
        assert re.findall(r">(\d+) minutes? to read through", text) == [minutes], url
        assert not re.search(r"takes about (an hour|\d+ minutes)", text.partition("<h2")[0]), url
