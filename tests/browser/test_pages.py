"""Every page in a browser: it loads, asks nobody else, and can be seen: light, dark and on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import BuiltSite

NOTES = ("tensor-products", "attention-heads", "zero-layer")
SIZES = {"desktop": (1280, 900), "phone": (390, 844), "narrow": (360, 740)}

# What a page looks like from inside, as plain data.
LOOK = r"""
() => {
  const article = document.querySelector("article") || document.body;
  const box = (element) => { const r = element.getBoundingClientRect();
    return { left: r.left, right: r.right, width: r.width, height: r.height }; };
  const named = (element) => (element.getAttribute("aria-label")
    || (element.getAttribute("aria-labelledby") || "").split(/\s+/)
         .map((id) => document.getElementById(id)?.textContent || "").join(" ")).trim();
  const shown = (element) => element.checkVisibility();

  const rgb = (colour) => { const parts = colour.match(/[\d.]+/g).map(Number);
    return { rgb: parts.slice(0, 3), alpha: parts.length > 3 ? parts[3] : 1 }; };
  const luminance = ([r, g, b]) => { const f = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const contrast = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05); };
  const behind = (element) => { for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.alpha === 1) return colour.rgb; }
    return [255, 255, 255]; };

  // Text that a reader sees outside of code and formulas.
  const prose = [];
  const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const parent = node.parentElement;
    if (!parent.closest("code, pre, script, style, .katex, svg, textarea") && shown(parent)) prose.push(node.data);
  }

  return {
    text: prose.join(" "),
    formulas: [...article.querySelectorAll(".katex")].filter(shown)
      .map((e) => ({ tex: e.querySelector("annotation")?.textContent, ...box(e) })),
    unrendered: article.querySelectorAll("tex-math:not(:has(.katex))").length,
    fonts: [...document.fonts].filter((f) => f.status === "loaded").map((f) => f.family.replace(/["']/g, "")),
    figures: [...article.querySelectorAll("svg[role=img], img[role=img]")].filter(shown).map((svg) => {
      const ink = getComputedStyle(svg).color, paper = behind(svg);
      return { name: named(svg), ...box(svg), ink, contrast: contrast(rgb(ink).rgb, paper),
        inked: [...svg.querySelectorAll("text")].filter((t) => getComputedStyle(t).fill === ink).length,
        smallest: Math.min(...[...svg.querySelectorAll("text")].map((t) => t.getBoundingClientRect().height)) };
    }),
    unnamedImages: [...document.querySelectorAll("img")].filter((i) => !i.hasAttribute("alt")).map((i) => i.src),
    deadImages: [...document.images].filter((i) => i.complete && !i.naturalWidth).map((i) => i.src),
    pageWidth: document.documentElement.scrollWidth, viewWidth: document.documentElement.clientWidth,
    h1: document.querySelectorAll("h1").length,
    scheme: document.body.dataset.mdColorScheme,
  };
}
"""


@dataclass
class Visit:
    """What happened when a page was opened, and what it looked like."""

    url: str
    status: int = 0
    look: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    """Console errors, failed requests, and requests to elsewhere."""


@contextmanager
def opened(
    browser: Any, site: BuiltSite, size: str = "desktop", scheme: str = "light", **options: Any
) -> Iterator[Any]:
    """A page that writes down, in ``page.wrong``, what goes wrong; requests to elsewhere are stopped."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
    page = context.new_page()
    page.wrong = wrong = []
    page.on("console", lambda said: wrong.append(f"console: {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url} ({request.failure})"))
    page.on("response", lambda r: wrong.append(f"{r.status}: {r.url}") if r.status >= 400 else None)

    def guard(route: Any) -> None:
        url = route.request.url
        if url.startswith((site.url, "data:", "blob:")):
            route.continue_()
        else:
            wrong.append(f"request to elsewhere: {url}")
            route.abort()

    context.route("**/*", guard)
    yield page
    context.close()


def visit_all(browser: Any, site: BuiltSite, size: str, scheme: str) -> dict[str, Visit]:
    """Every page of the site, opened one after the other as a new visitor would."""
    visits = {}
    with opened(browser, site, size, scheme) as page:
        for url in site.pages:
            visit = visits[url.removeprefix(site.url)] = Visit(url)
            page.wrong.clear()
            visit.status = page.goto(url, wait_until="networkidle").status
            page.evaluate("document.fonts.ready")
            visit.look = page.evaluate(LOOK)
            visit.wrong = list(page.wrong)
    return visits


@pytest.fixture(scope="module")
def light(browser: Any, site: BuiltSite) -> dict[str, Visit]:
    return visit_all(browser, site, "desktop", "light")


@pytest.fixture(scope="module")
def dark(browser: Any, site: BuiltSite) -> dict[str, Visit]:
    return visit_all(browser, site, "desktop", "dark")


@pytest.fixture(scope="module")
def phone(browser: Any, site: BuiltSite) -> dict[str, Visit]:
    return visit_all(browser, site, "phone", "light")


@pytest.fixture(scope="module")
def narrow(browser: Any, site: BuiltSite) -> dict[str, Visit]:
    return visit_all(browser, site, "narrow", "dark")


def test_every_page_loads_without_an_error_and_without_asking_anyone_else(
    light: dict[str, Visit], narrow: dict[str, Visit]
) -> None:
    assert len(light) >= 10
    for visits in (light, narrow):
        assert {name: visit.status for name, visit in visits.items() if visit.status != 200} == {}
        assert {name: visit.wrong for name, visit in visits.items() if visit.wrong} == {}


@pytest.mark.parametrize("note", NOTES)
def test_math_is_visible(light: dict[str, Visit], note: str) -> None:
    look = light[f"notes/{note}/"].look
    assert len(look["formulas"]) >= 5
    assert [formula for formula in look["formulas"] if formula["width"] < 2 or formula["height"] < 2] == []
    assert {"KaTeX_Main", "KaTeX_Math"} <= set(look["fonts"]), "KaTeX's own fonts are what the formulas are set in"


def test_no_tex_is_left_in_the_text(light: dict[str, Visit]) -> None:
    for name, visit in light.items():
        assert re.findall(r"\\[a-zA-Z]{2,}|\$`|\$\$", visit.look["text"]) == [], name
        assert visit.look["unrendered"] == 0, name


@pytest.mark.parametrize("note", NOTES)
def test_figures_are_visible_and_have_a_name(light: dict[str, Visit], note: str) -> None:
    assert light[f"notes/{note}/"].look["figures"], "a note has a figure"
    for name, visit in light.items():
        for figure in visit.look["figures"]:
            assert figure["width"] > 50 and figure["height"] > 20, (name, figure)
            assert len(figure["name"]) > 10, (name, figure)
        assert visit.look["unnamedImages"] == [] and visit.look["deadImages"] == [], name


def test_figures_fit_a_phone(phone: dict[str, Visit]) -> None:
    for name, visit in phone.items():
        for figure in visit.look["figures"]:
            assert figure["left"] >= 0 and figure["right"] <= SIZES["phone"][0], (name, figure)


def test_no_page_scrolls_sideways(narrow: dict[str, Visit], phone: dict[str, Visit]) -> None:
    for visits in (narrow, phone):
        wide = {name: v.look["pageWidth"] for name, v in visits.items() if v.look["pageWidth"] > v.look["viewWidth"]}
        assert wide == {}


def test_figures_follow_dark_mode(light: dict[str, Visit], dark: dict[str, Visit]) -> None:
    compared = 0
    for name, visit in light.items():
        assert visit.look["scheme"] != dark[name].look["scheme"], name
        for by_day, by_night in zip(visit.look["figures"], dark[name].look["figures"], strict=True):
            assert by_day["ink"] != by_night["ink"], (name, by_day)
            for figure in (by_day, by_night):
                assert figure["contrast"] >= 4.5, (name, figure)
            compared += by_day["inked"] > 0
    assert compared >= len(NOTES), "figures have text in the page's own ink"


def test_a_page_has_one_main_heading(light: dict[str, Visit]) -> None:
    assert {name: visit.look["h1"] for name, visit in light.items() if visit.look["h1"] != 1} == {}


def test_notes_can_be_read_without_javascript(browser: Any, site: BuiltSite) -> None:
    with opened(browser, site, java_script_enabled=False) as page:
        for note in NOTES:
            page.goto(f"{site.url}notes/{note}/")
            formula = page.locator("article .katex").first.bounding_box()
            figure = page.locator("article svg[role=img]").first.bounding_box()
            assert formula and formula["width"] > 2 and figure and figure["width"] > 50, note
        assert page.wrong == []


def test_search_finds_a_word_and_shows_no_markup(browser: Any, site: BuiltSite) -> None:
    with opened(browser, site) as page:
        page.goto(site.url, wait_until="networkidle")
        page.keyboard.press("/")
        page.keyboard.type("Kronecker", delay=20)
        results = page.locator(".md-search-result__item")
        results.first.wait_for(state="visible")
        said = results.all_inner_texts()
        assert any("ensor products" in result for result in said)
        for result in said:
            assert not re.search(r"</?[a-z]+[ >]|katex|class=|&[a-z]+;", result), result
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile(re.escape(site.url) + r"(notes|notebooks|source)/"))
        assert page.wrong == []


def test_a_claim_leads_to_the_cell_that_computed_it(browser: Any, site: BuiltSite) -> None:
    with opened(browser, site) as page:
        page.goto(f"{site.url}notes/zero-layer/", wait_until="networkidle")
        claim = page.locator("article a.weave-claim").first
        assert re.search(r"\d", claim.inner_text())
        claim.click()
        page.wait_for_url(re.compile(r"/notebooks/.*#"))
        anchor = page.url.partition("#")[2]
        cell = page.locator(f'[id="{anchor}"]')
        assert cell.locator("pre").first.inner_text().strip()
        assert page.wrong == []


def test_the_ledger_lists_the_claims_of_the_notes(browser: Any, site: BuiltSite) -> None:
    with opened(browser, site) as page:
        written = 0
        for note in NOTES:
            page.goto(f"{site.url}notes/{note}/")
            written += page.locator("article a.weave-claim").count()
        (ledger,) = [url for url in site.pages if url.rstrip("/").endswith("ledger")]
        page.goto(ledger)
        said = page.locator("article").inner_text()
        assert written >= 3
        assert len(re.findall(r"\bholds\b", said)) >= written and "does not hold" not in said
        assert page.wrong == []
