"""Every page in a browser: it loads, requests nothing from elsewhere, and is readable: light, dark and on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import BuiltSite

NOTES = ("tensor-products", "attention-heads", "zero-layer")
VIEWS = {  # width, height, colour scheme; a page asks for the reader's scheme when it loads
    "light": (1280, 900, "light"),
    "narrow": (360, 740, "light"),
    "dark": (1280, 900, "dark"),
    "phone": (390, 844, "dark"),
}

# All pages of Python files are made the same way: these stand for all.
PROGRAMS = ("code/residual/model.py/", "tests/residual/test_two_layer.py/", "tests/residual/test_transformer.py/")

# Nothing moves, and blocks far below are laid out as they are when a reader comes near.
STILL = "* { transition: none !important; animation: none !important; content-visibility: visible !important }"

# How a page looks from inside, as plain data.
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

  // The text outside of code and formulas.
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
      const texts = [...svg.querySelectorAll("text")];
      return { name: named(svg), ...box(svg), ink, contrast: contrast(rgb(ink).rgb, paper), texts: texts.length,
        inked: texts.filter((text) => getComputedStyle(text).fill === ink).length };
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
    """The result of opening a page: what went wrong, and how it looks in each of VIEWS."""

    status: int
    looks: dict[str, Any]
    wrong: list[str]
    """Console errors, failed requests, and requests to elsewhere."""


@contextmanager
def opened(browser: Any, site: BuiltSite, **options: Any) -> Iterator[tuple[Any, list[str]]]:
    """Yield a page as a new visitor has it, and the list of what goes wrong on it."""
    wrong: list[str] = []
    context = browser.new_context(**options)
    page = context.new_page()
    page.on("console", lambda message: wrong.append(f"console: {message.text}") if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url} ({request.failure})"))
    page.on("response", lambda answer: wrong.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None)

    def note_elsewhere(request: Any) -> None:
        if not request.url.startswith((site.url, "data:", "blob:")):
            wrong.append(f"request to elsewhere: {request.url}")

    page.on("request", note_elsewhere)
    yield page, wrong
    context.close()


@pytest.fixture(scope="module")
def visits(browser: Any, site: BuiltSite) -> dict[str, Visit]:
    """Every page of the site by its path, opened in light and dark, and looked at in each of VIEWS."""
    visits: dict[str, Visit] = {}
    for scheme in ("light", "dark"):
        views = {view: size for view, (*size, its_scheme) in VIEWS.items() if its_scheme == scheme}
        with opened(browser, site, color_scheme=scheme) as (page, wrong):
            for url in site.pages:
                program = url.removeprefix(site.url).startswith("source/")
                until = "networkidle" if scheme == "light" and not program else "load"
                if program and not url.endswith(PROGRAMS):
                    continue
                if scheme == "dark" and "/notebooks/" in url and not url.endswith("/one_layer/"):
                    continue  # the notes show the same outputs in the dark
                looks = {}
                for view, (width, height) in views.items():
                    page.set_viewport_size({"width": width, "height": height})
                    if not looks:
                        page.goto("about:blank")
                        wrong.clear()
                        status = page.goto(url, wait_until=until).status
                        page.add_style_tag(content=STILL)
                    page.evaluate("document.fonts.ready.then(() => null)")
                    looks[view] = page.evaluate(LOOK)
                visit = visits.setdefault(url.removeprefix(site.url), Visit(status, {}, []))
                visit.looks |= looks
                visit.wrong += wrong
    return visits


def seen(visits: dict[str, Visit], view: str) -> dict[str, Any]:
    """Return how the pages look in one of VIEWS, by path."""
    return {name: visit.looks[view] for name, visit in visits.items() if view in visit.looks}


def test_every_page_loads_without_an_error_and_without_requests_to_elsewhere(visits: dict[str, Visit]) -> None:
    assert len(visits) >= 10
    assert {name: visit.status for name, visit in visits.items() if visit.status != 200} == {}
    assert {name: visit.wrong for name, visit in visits.items() if visit.wrong} == {}


def test_what_goes_wrong_is_noticed(browser: Any, site: BuiltSite) -> None:
    """The test above can fail: an error, a missing file and a request to elsewhere are each noticed."""
    with opened(browser, site, bypass_csp=True) as (page, wrong):
        page.goto(site.url)
        page.set_content("<img src='nowhere.png'><img src='http://example.org/x.png'><script>undefined.x</script>")
        page.wait_for_load_state("load")
    listed = "\n".join(wrong)
    assert "404:" in listed and "elsewhere: http://example.org/x.png" in listed and "exception:" in listed


@pytest.mark.parametrize("note", NOTES)
def test_math_is_visible(visits: dict[str, Visit], note: str) -> None:
    look = visits[f"notes/{note}/"].looks["light"]
    assert len(look["formulas"]) >= 5
    assert [formula for formula in look["formulas"] if formula["width"] < 2 or formula["height"] < 2] == []
    assert {"KaTeX_Main", "KaTeX_Math"} <= set(look["fonts"]), "formulas are set in KaTeX's own fonts"


def test_no_tex_is_left_in_the_text(visits: dict[str, Visit]) -> None:
    for name, visit in visits.items():
        look = visit.looks["light"]
        assert re.findall(r"\\[a-zA-Z]{2,}|\$`|\$\$", look["text"]) == [], name
        assert look["unrendered"] == 0, name


def test_figures_are_visible_and_have_a_name(visits: dict[str, Visit]) -> None:
    assert {note for note in NOTES if not visits[f"notes/{note}/"].looks["light"]["figures"]} == set()
    for name, visit in visits.items():
        look = visit.looks["light"]
        for figure in look["figures"]:
            assert figure["width"] > 50 and figure["height"] > 20, (name, figure)
            assert len(figure["name"]) > 10, (name, figure)
        assert look["unnamedImages"] == [] and look["deadImages"] == [], name


def test_figures_fit_a_phone(visits: dict[str, Visit]) -> None:
    for name, look in seen(visits, "phone").items():
        for figure in look["figures"]:
            assert figure["left"] >= 0 and figure["right"] <= VIEWS["phone"][0], (name, figure)


@pytest.mark.parametrize("view", VIEWS)
def test_no_page_scrolls_sideways(visits: dict[str, Visit], view: str) -> None:
    widths = {name: (look["pageWidth"], look["viewWidth"]) for name, look in seen(visits, view).items()}
    assert {name: (page, seen) for name, (page, seen) in widths.items() if page > seen} == {}


def test_figures_follow_dark_mode(visits: dict[str, Visit]) -> None:
    with_text = 0
    for name, dark in seen(visits, "dark").items():
        light = visits[name].looks["light"]
        assert light["scheme"] != dark["scheme"], name
        for by_day, by_night in zip(light["figures"], dark["figures"], strict=True):
            assert by_day["ink"] != by_night["ink"], (name, by_day)
            for figure in (by_day, by_night):
                assert figure["contrast"] >= 4.5, (name, figure)
                assert figure["inked"] > 0 or not figure["texts"], (name, "no text in the page's ink", figure)
            with_text += by_day["texts"] > 0
    assert with_text >= len(NOTES), "figures have real text"


def test_a_page_has_one_main_heading(visits: dict[str, Visit]) -> None:
    assert {name: v.looks["light"]["h1"] for name, v in visits.items() if v.looks["light"]["h1"] != 1} == {}


def test_notes_can_be_read_without_javascript(browser: Any, site: BuiltSite) -> None:
    with opened(browser, site, java_script_enabled=False) as (page, wrong):
        for note in NOTES:
            page.goto(f"{site.url}notes/{note}/")
            formula = page.locator("article .katex").first.bounding_box()
            figure = page.locator("article svg[role=img]").first.bounding_box()
            assert formula and formula["width"] > 2 and figure and figure["width"] > 50, note
        assert wrong == []


def test_search_finds_a_word_and_shows_no_markup(browser: Any, site: BuiltSite) -> None:
    with opened(browser, site) as (page, wrong):
        page.goto(site.url, wait_until="networkidle")
        page.keyboard.press("/")
        page.keyboard.type("Kronecker", delay=20)
        results = page.locator(".md-search-result__item")
        results.first.wait_for(state="visible")
        texts = results.all_inner_texts()
        assert any("ensor products" in result for result in texts)
        for result in texts:
            assert not re.search(r"</?[a-z]+[ >]|katex|class=|&[a-z]+;", result), result
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile(re.escape(site.url) + r"(notes|notebooks|source)/"))
        assert wrong == []


def test_a_claim_leads_to_the_cell_that_computed_it(browser: Any, site: BuiltSite) -> None:
    with opened(browser, site) as (page, wrong):
        page.goto(f"{site.url}notes/zero-layer/", wait_until="networkidle")
        page.add_style_tag(content=STILL)
        claim = page.locator("article a.weave-claim").first
        assert re.search(r"\d", claim.inner_text())
        anchor = claim.get_attribute("href").partition("#")[2]  # scrolling changes the address
        claim.click()
        page.wait_for_url(re.compile(r"/notebooks/.*#"))
        value = page.locator(f'.jp-CodeCell li[id="{anchor}"]')
        assert value.text_content().strip()  # it may not be laid out yet
        assert wrong == []


def test_the_ledger_lists_the_claims_and_theorems_of_the_notes(browser: Any, site: BuiltSite) -> None:
    with opened(browser, site) as (page, wrong):
        numbers, theorems = [], []
        for note in NOTES:
            page.goto(f"{site.url}notes/{note}/", wait_until="networkidle")  # else the next page aborts its fonts
            numbers += page.locator("article a.weave-claim").all_text_contents()  # some are folded
            theorems += page.locator("article a.weave-theorem").all_text_contents()
        (ledger,) = [url for url in site.pages if url.rstrip("/").endswith("ledger")]
        page.goto(ledger)
        texts = "(rows) => rows.map((row) => [...row.querySelectorAll('td')].map((cell) => cell.innerText))"
        rows = page.locator("article tbody tr").evaluate_all(texts)
        checked = [row for row in rows if row[-1] in ("holds", "does not hold")]
        assert len(numbers) >= 3 and {row[-1] for row in checked} == {"holds"}
        assert set(numbers) <= {row[1] for row in checked}
        assert len(theorems) >= 3 and len(rows) >= len(numbers) + len(theorems)
        assert wrong == []
