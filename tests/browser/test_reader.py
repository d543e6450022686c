"""A page as a reader uses it: snippets, previews, filters, loading, its policy, feeds and pictures, print."""

from __future__ import annotations

import gzip
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as etree

import pytest

from weave.note import snippets

if TYPE_CHECKING:
    from conftest import BuiltSite

ROOT = Path(__file__).resolve().parents[2]
SNIPPET_NOTES = ("einstein-notation", "attention-heads", "tensor-products")
PACKAGES = ["numpy", "einops"]


@pytest.fixture
def page(browser: Any):
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.problems, page.requests = [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: page.requests.append(request.url))
    yield page
    context.close()


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e[-+]?\d+)?", text)]


def words(text: str) -> list[str]:
    return re.sub(r"-?\d+\.?\d*(?:e[-+]?\d+)?", "0", text).split()


def run(snippet: Any) -> str:
    """Press Run and wait; return the snippet's status."""
    snippet.get_by_role("button", name="Run").click()
    status = snippet.locator("[role=status]")
    status.filter(has_text=re.compile(r"^(ran|raised|stopped|Python did)")).wait_for(timeout=90_000)
    return status.inner_text()


@pytest.mark.parametrize("note", SNIPPET_NOTES)
def test_every_live_snippet_prints_in_the_browser_what_it_prints_here(
    site: BuiltSite, page: Any, note: str, tmp_path: Path
) -> None:
    here = snippets.record(tmp_path, snippets.find((ROOT / f"docs/notes/{note}.md").read_text(), PACKAGES), PACKAGES)
    assert len(here) >= 6
    page.goto(f"{site.url}notes/{note}/")
    assert not any("pyodide" in url for url in page.requests), "Python is fetched on the first click"
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    page.add_style_tag(content="* { content-visibility: visible !important }")  # blocks far below can be read, too
    live = page.locator("py-snippet.live")
    assert live.count() == len(here)
    assert run(live.last).startswith("ran")
    for i, (number, expected) in enumerate(here.items()):
        assert live.nth(i).locator("[role=status]").inner_text().startswith("ran"), f"snippet {number}"
        shown = live.nth(i).locator(".weave-gave[role] pre code")
        text = shown.inner_text() if shown.count() else ""
        assert words(text) == words(expected["text"]) and not expected["error"]
        assert numbers(text) == pytest.approx(numbers(expected["text"]), rel=1e-6, abs=1e-12), f"snippet {number}"
    assert not page.problems and all(url.startswith((site.url, "blob:")) for url in page.requests)


def test_a_snippet_can_be_edited_broken_stopped_and_reset(site: BuiltSite, page: Any) -> None:
    page.goto(f"{site.url}notes/tensor-products/")
    snippet = page.locator("py-snippet.live").first
    assert run(snippet).startswith("ran")
    field = snippet.locator("textarea")

    def change(code: str, status: str) -> None:
        if not field.is_visible():
            snippet.get_by_role("button", name="Edit").click()
        field.fill(code)
        field.press("Control+Enter")
        snippet.locator("[role=status]").filter(has_text=re.compile(status)).wait_for(timeout=60_000)

    change("import numpy as np\nnp.eye(3)", "^ran")
    assert snippet.locator(".weave-gave[role] svg[role=img] path").count() == 1, "an array is also shown as a picture"
    change("x = 1\ny = x / 0", "^raised")
    error = snippet.locator(".weave-gave[role]").inner_text()
    assert "line 2" in error and "ZeroDivisionError" in error and "session.py" not in error
    change("while True: pass", "runs")
    assert page.evaluate("1 + 1") == 2, "the page stays responsive"
    snippet.get_by_role("button", name="Stop").click()
    snippet.locator("[role=status]").filter(has_text="stopped").wait_for()
    field.press("Escape")
    assert not field.is_visible() and "while True" in snippet.locator("code").first.inner_text()
    snippet.get_by_role("button", name="Reset").click()
    assert "by_hand" in snippet.locator("code").first.inner_text()
    assert run(snippet).startswith("ran") and "0.5" in snippet.locator(".weave-gave[role]").inner_text()
    assert not page.problems


def test_run_says_that_it_waits_and_keeps_the_focus(site: BuiltSite, page: Any) -> None:
    page.goto(f"{site.url}notes/tensor-products/")
    first, second, third = (page.locator("py-snippet.live").nth(i) for i in range(3))
    third.get_by_role("button", name="Run").press("Enter")
    assert "waits" in third.locator("[role=status]").inner_text(), "the first snippet runs, perhaps out of sight"
    assert third.get_by_role("button", name="Stop").is_visible()
    third.locator("[role=status]").filter(has_text=re.compile("^ran")).wait_for(timeout=60_000)
    assert page.evaluate("document.activeElement.ariaLabel") == "Run snippet 3"

    first.get_by_role("button", name="Edit").click()
    first.locator("textarea").fill("while True: pass")
    third.get_by_role("button", name="Run").click()
    first.locator("[role=status]").filter(has_text="runs").wait_for()
    second.get_by_role("button", name="Run").click()
    third.get_by_role("button", name="Stop").click()
    for snippet in (second, third):  # and neither starts the loop again
        snippet.locator("[role=status]").filter(has_text="did not run").wait_for()
    first.locator("textarea").fill("1 / 0")
    third.get_by_role("button", name="Run").click()
    third.locator("[role=status]").filter(has_text="raised an error").wait_for(timeout=60_000)
    assert not page.problems


def test_snippets_below_a_changed_one_run_again(site: BuiltSite, page: Any) -> None:
    page.goto(f"{site.url}notes/tensor-products/")
    first, second, third = (page.locator("py-snippet.live").nth(i) for i in range(3))
    for snippet, code in ((first, "x = 1"), (second, "y = x + 1"), (third, "print(y)")):
        snippet.get_by_role("button", name="Edit").click()
        snippet.locator("textarea").fill(code)
    gave = third.locator(".weave-gave[role] pre")
    third.get_by_role("button", name="Run").click()
    gave.filter(has_text=re.compile("^2$")).wait_for(timeout=60_000)
    first.locator("textarea").fill("x = 10")
    third.get_by_role("button", name="Run").click()
    gave.filter(has_text=re.compile("^11$")).wait_for()
    colours = "py-snippet.live pre > code > span"
    before = first.locator("textarea").input_value()
    assert not first.locator("pre").first.is_visible(), "its code is shown once, in the editor"
    first.get_by_role("button", name="Done").click()
    assert first.locator("code").first.inner_text() == before
    first.get_by_role("button", name="Reset").click()
    assert page.locator(colours).first.is_visible(), "the author's code, in its colours"
    assert not page.problems


def test_leaving_a_page_ends_its_endless_loop(site: BuiltSite, page: Any) -> None:
    page.goto(f"{site.url}notes/tensor-products/")
    snippet = page.locator("py-snippet.live").first
    assert run(snippet).startswith("ran")
    snippet.get_by_role("button", name="Edit").click()
    snippet.locator("textarea").fill("while True: pass")
    snippet.locator("textarea").press("Control+Enter")
    snippet.locator("[role=status]").filter(has_text="runs").wait_for()
    page.locator(".md-nav--primary").get_by_role("link", name="Einstein notation").first.click()
    page.locator("h1", has_text="Einstein").wait_for()
    assert run(page.locator("py-snippet.live").first).startswith("ran")


def test_the_output_of_a_snippet_stays_small(site: BuiltSite, page: Any) -> None:
    page.goto(f"{site.url}notes/tensor-products/")
    snippet = page.locator("py-snippet.live").first
    snippet.get_by_role("button", name="Edit").click()
    for code in (
        "import numpy as np\nnp.ones((4096, 1))",
        "import numpy as np\nnp.ones((1, 4096))",
        "for i in range(5000): print(i)",
        "input()",
    ):
        snippet.locator("textarea").fill(code)
        assert run(snippet).startswith("ran" if "input" not in code else "raised")
        assert snippet.locator(".weave-gave[role]").bounding_box()["height"] < 900, code
        if "numpy" in code:
            assert snippet.locator(".weave-gave svg").bounding_box()["height"] > 10, code
    assert "EOFError" in snippet.locator(".weave-gave[role]").inner_text() and not page.problems


def test_a_python_that_cannot_start_says_so_and_can_be_started_again(site: BuiltSite, page: Any) -> None:
    page.route("**/pyodide.asm.wasm", lambda route: route.abort())
    page.goto(f"{site.url}notes/tensor-products/")
    snippet = page.locator("py-snippet.live").first
    assert "did not start" in run(snippet)
    page.unroute("**/pyodide.asm.wasm")
    snippet.get_by_role("button", name="Run").click()
    snippet.locator("[role=status]").filter(has_text=re.compile("^ran")).wait_for(timeout=60_000)


def test_snippets_and_figures_work_after_an_instant_navigation(site: BuiltSite, page: Any) -> None:
    page.goto(f"{site.url}notes/tensor-products/")
    page.evaluate("window.still = 'the same document'")
    run(page.locator("py-snippet.live").first)
    page.locator(".md-nav--primary").get_by_role("link", name="Einstein notation").first.click()
    page.wait_for_url("**/einstein-notation/")
    page.locator("h1", has_text="Einstein").wait_for()
    assert page.evaluate("window.still") == "the same document"
    assert run(page.locator("py-snippet.live").first).startswith("ran")
    page.go_back()
    page.locator("h1", has_text="Tensor").wait_for()
    builder = page.locator("kronecker-builder")
    builder.get_by_role("button").first.click()
    builder.locator("svg").wait_for()
    assert not page.problems


def test_the_kronecker_product_is_numpys(site: BuiltSite, page: Any) -> None:
    import numpy as np

    page.goto(f"{site.url}notes/tensor-products/")
    builder = page.locator("kronecker-builder")
    builder.get_by_role("button").first.click()
    builder.get_by_label("A, row 3, column 3").fill("-4")
    builder.get_by_label("B, row 1, column 2").fill("7")
    A, B = np.array([[1, 0, 0], [0.5, 0.5, 0], [0.1, 0.6, -4]]), np.array([[1, 7], [2, -1]])

    def entries() -> list[float]:
        return [float(text.replace("−", "-")) for text in builder.locator("svg text").all_text_contents()]

    assert np.allclose(entries(), np.kron(A, B).ravel(), atol=0.005)
    builder.get_by_label("order").select_option("B ⊗ A")
    assert np.allclose(entries(), np.kron(B, A).ravel(), atol=0.005)
    builder.locator(".product").press("ArrowRight")
    status = builder.locator("[role=status]").inner_text()
    row, column = (int(number) - 1 for number in re.search(r"Row (\d+).*column (\d+)", status).groups())
    assert float(status.rpartition("= ")[2].replace("−", "-")) == pytest.approx(np.kron(B, A)[row, column], abs=0.005)
    assert not page.problems


def test_any_number_may_be_typed_into_a_matrix(site: BuiltSite, page: Any) -> None:
    page.goto(f"{site.url}notes/tensor-products/")
    builder = page.locator("kronecker-builder")
    builder.get_by_role("button").first.click()
    field, first = builder.get_by_label("A, row 1, column 1"), builder.locator("svg text").first
    for typed, shown in {"0,5": "0.5", "1e5": "100000", "−2": "−2", "-": None, "abc": None, "1e999": None}.items():
        field.fill(typed)
        assert field.evaluate("(field) => field.matches(':invalid')") == (shown is None), typed
        assert first.text_content() == (shown or "−2"), "text that is not a number changes nothing"
    field.fill("-123456.789")
    assert first.evaluate("(text) => text.getBBox().width") < 1, "it stays in its cell"
    assert not page.problems


def test_a_skip_trigram_is_looked_up(site: BuiltSite, page: Any) -> None:
    page.goto(f"{site.url}notes/one-layer/")
    lookup = page.locator("skip-trigrams")
    lookup.get_by_role("button").click()
    lookup.locator("tbody tr").first.wait_for()
    assert lookup.locator("tbody tr").count() == 12
    first = lookup.locator("tbody tr").first.inner_text()
    assert first.startswith("0.2") and "·or" in first, "either … or, which the note discusses"
    lookup.get_by_label("seen before").fill("unbelievable")
    assert "“unbelievable” is more than one token" in lookup.locator("[role=status]").inner_text()
    lookup.get_by_label("seen before").fill("")
    assert "Type a word" in lookup.locator("[role=status]").inner_text()
    assert not page.problems


# -- previews


def test_a_claim_shows_its_value_by_mouse_keyboard_and_touch(site: BuiltSite, browser: Any, page: Any) -> None:
    page.goto(f"{site.url}notes/tensor-products/")
    claim = page.locator("article a.weave-claim").first
    card = page.locator("#weave-card")
    claim.hover()
    card.filter(has_text="the cell took").wait_for()
    assert "readings_right = 2 of 8" in card.inner_text() and "“2 of 8” allows ± 0.5" in card.inner_text()
    page.keyboard.press("Escape")
    assert not card.is_visible()
    page.mouse.move(0, 0)
    page.keyboard.press("Tab")  # the focus ring shows only after a key
    claim.focus()
    card.wait_for()
    assert claim.get_attribute("aria-describedby") == "weave-card"

    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True)
    phone = context.new_page()
    phone.goto(f"{site.url}notes/tensor-products/")
    phone.locator("article a.weave-claim").first.tap()
    phone.locator("#weave-card").wait_for()
    assert "/notes/" in phone.url, "the first tap shows the card and stays on the page"
    box = phone.locator("#weave-card").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    phone.locator("#weave-card").get_by_role("link", name="Go there").tap()
    phone.wait_for_url("**/notebooks/tensor_products/**")
    context.close()
    assert not page.problems


def test_terms_equations_and_theorems_show_what_they_mean(site: BuiltSite, page: Any) -> None:
    page.goto(f"{site.url}notes/tensor-products/")
    card = page.locator("#weave-card")
    term = page.locator("article a.weave-term").first
    meaning = term.get_attribute("title")
    term.hover()
    card.wait_for()
    assert meaning and meaning[:40] in card.inner_text()
    for reference, has in (('article a[href*="#eq-"]', ".katex"), ('article a[href*="#thm-"]', ".weave-badge")):
        page.mouse.move(0, 0)
        page.locator(reference).first.hover()
        card.locator(has).first.wait_for()
        assert re.fullmatch(r"\(\d+\)|Theorem \d+", page.locator(reference).first.inner_text())
    assert not page.problems


def test_a_card_does_not_cover_the_second_line_of_its_link(site: BuiltSite, page: Any) -> None:
    page.set_viewport_size({"width": 500, "height": 800})
    page.goto(f"{site.url}notes/residual-stream/")
    link = page.locator("article a.weave-cite", has_text="section on the residual stream").first
    page.add_style_tag(content="* { content-visibility: visible !important }")  # nothing moves from here on
    link.evaluate("(link) => link.scrollIntoView({ block: 'center' })")
    page.wait_for_timeout(500)
    lines = link.evaluate("(link) => [...link.getClientRects()].map((box) => [box.x + 4, box.y + box.height / 2])")
    assert len(lines) == 2
    page.mouse.move(*lines[1])
    page.locator("#weave-card").wait_for()
    assert link.evaluate("(link, [x, y]) => link.contains(document.elementFromPoint(x, y))", lines[1])


def test_going_back_returns_to_where_the_reader_was(site: BuiltSite, page: Any) -> None:
    page.goto(f"{site.url}notes/residual-stream/", wait_until="load")
    page.wait_for_timeout(2500)
    page.mouse.wheel(0, 9000)
    page.wait_for_timeout(1500)
    left = page.evaluate("scrollY")
    page.locator(".md-nav--primary").get_by_role("link", name="Transformer").first.click()
    page.locator("h1", has_text="Transformer").wait_for()
    page.wait_for_timeout(500)
    page.go_back()
    page.locator("h1", has_text="stream").wait_for()
    page.wait_for_timeout(3000)
    assert page.evaluate("scrollY") == pytest.approx(left, abs=30) and not page.problems


@pytest.mark.parametrize("note", ["tensor-products", "two-layer"])
def test_the_name_of_a_cell_stays_in_the_margin(site: BuiltSite, page: Any, note: str) -> None:
    page.goto(f"{site.url}notes/{note}/")
    over = "(all) => all.map((a) => a.getBoundingClientRect().right - a.parentElement.getBoundingClientRect().right)"
    assert max(page.locator("figcaption a.weave-cell").evaluate_all(over)) < 1


def test_what_is_too_wide_has_a_shadow_at_its_edge_or_fits(site: BuiltSite, page: Any) -> None:
    page.goto(f"{site.url}notes/one-layer/")
    lookup = page.locator("skip-trigrams")
    lookup.get_by_role("button").click()
    lookup.locator("tbody tr").first.wait_for()
    assert lookup.locator(".scroll").evaluate("(box) => box.scrollWidth <= box.clientWidth")
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{site.url}notes/two-layer/")
    page.locator("article .md-typeset__scrollwrap.weave-wide").first.wait_for()  # once all is laid out
    wide = page.evaluate(
        """() => Array.from(document.querySelectorAll("article :is(.weave-html, .md-typeset__scrollwrap)"), (box) =>
          [box.scrollWidth > box.clientWidth + 1, getComputedStyle(box).backgroundImage.includes("gradient")])"""
    )
    assert any(scrolls for scrolls, _ in wide) and all(scrolls == shaded for scrolls, shaded in wide)


def test_the_ledger_can_be_filtered_and_the_address_remembers(site: BuiltSite, page: Any) -> None:
    page.goto(f"{site.url}pages/ledger/")
    rows = page.locator("article tbody tr:visible")
    total = rows.count()
    page.get_by_label("show only rows with these words").fill("zero entropy")
    assert 0 < rows.count() < total
    page.goto(page.url)
    page.locator("table-filter [role=status]").filter(has_text="of").wait_for()
    assert 0 < rows.count() < total and not page.problems


# -- loading


@pytest.mark.parametrize("path", [f"notes/{path.stem}/" for path in sorted((ROOT / "docs/notes").glob("*.md"))] + [""])
def test_a_first_load_is_small(site: BuiltSite, page: Any, path: str) -> None:
    page.goto(f"{site.url}{path}", wait_until="networkidle")
    page.mouse.wheel(0, 6000)
    page.wait_for_timeout(300)
    sizes = {}
    for url in dict.fromkeys(url.partition("#")[0] for url in page.requests):
        data = site.file(url).read_bytes()
        packed = url.endswith((".woff", ".woff2", ".png"))
        sizes[url.removeprefix(site.url)] = len(data) if packed else len(gzip.compress(data, 6))
    assert sum(sizes.values()) <= 300_000, sorted(sizes.items(), key=lambda item: -item[1])[:8]
    assert not page.problems


@pytest.mark.parametrize("path", ["notes/transformer/", "notes/induction-heads/", ""])
def test_nothing_shifts_while_a_page_loads(site: BuiltSite, browser: Any, page: Any, path: str) -> None:
    def shift(page: Any) -> float:
        page.add_init_script(
            "window.shift = 0; new PerformanceObserver((list) => { for (const entry of list.getEntries())"
            " if (!entry.hadRecentInput) window.shift += entry.value; })"
            ".observe({ type: 'layout-shift', buffered: true });"
        )
        page.goto(f"{site.url}{path}", wait_until="networkidle")
        for _ in range(15):  # as a reader scrolls
            page.mouse.wheel(0, 400)
            page.wait_for_timeout(40)
        page.wait_for_timeout(300)
        return page.evaluate("window.shift")

    if shift(page) >= 0.01:  # a busy machine paints before it has read a cached font: once more
        other = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        assert shift(other) < 0.01
        other.context.close()


def test_the_search_index_is_fetched_when_the_reader_searches(site: BuiltSite, page: Any) -> None:
    page.goto(f"{site.url}notes/two-layer/", wait_until="networkidle")
    assert not any("search_index" in url for url in page.requests)
    search = page.get_by_role("textbox", name="Search")
    search.click()
    page.locator(".md-search-result__meta", has_text="Type to start").wait_for()
    for query, expected in {
        "commutation matrix": "Tensor products",
        "mathbb": "",  # TeX source
        "prefix-matching": "Induction heads",
        "two_layer_paths": "",
        "induction": "Induction heads",
        "eigenvalue": "",
        "W_OV": "",
        "A ⊗ B": "Tensor products",
        r"\otimes": "Tensor products",
        "softmax(QK": "Attention heads",
        "+-~^:( 0.93": "",
        "inductoin": "Induction heads",  # mistyped
    }.items():
        search.fill(query)
        search.press("End")  # the theme listens to keys
        page.wait_for_timeout(700)
        page.locator(".md-search-result__item").first.wait_for()
        results = page.locator(".md-search-result__list").inner_text()
        assert expected in results and not re.search(r"</?(span|div|svg|tex-math|py-snippet)\b", results), query
        assert not re.search(r"^(import|from) \w+", results, re.MULTILINE), "no code"
        first = page.locator(".md-search-result__item a").first.get_attribute("href")
        assert "/notes/" in first, f"{query}: notes come first, not {first}"
    assert not page.problems
    assert any("search_index" in url for url in page.requests)


def test_the_policy_allows_nothing_else(site: BuiltSite, page: Any) -> None:
    page.goto(f"{site.url}notes/tensor-products/")
    policy = page.locator('meta[http-equiv="Content-Security-Policy"]').get_attribute("content")
    assert "default-src 'self'" in policy and "http" not in policy and "'unsafe-eval'" not in policy
    page.evaluate(
        """() => {
        const script = document.createElement("script"), image = document.createElement("img");
        script.textContent = "window.inline = true";
        image.src = "https://example.org/x.png";
        document.body.append(script, image);
        return fetch("https://example.org/").catch(() => { window.refused = true; }); }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("[window.inline, window.refused]") == [None, True]
    assert len([problem for problem in page.problems if "Content Security Policy" in problem]) >= 3
    policies = {
        re.search(r'Content-Security-Policy" content="([^"]*)"', path.read_text())[1]
        for path in site.folder.rglob("*.html")
    }
    assert len(policies) == 1, "instant navigation keeps the first page's policy"


@pytest.mark.parametrize("width", [360, 1920])
@pytest.mark.parametrize(
    "path", ["", "notes/tensor-products/", "notes/one-layer/", "notebooks/two_layer/", "pages/ledger/"]
)
def test_nothing_sticks_out(site: BuiltSite, browser: Any, path: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto(f"{site.url}{path}")
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_lines_have_65_to_75_characters_where_there_is_room(site: BuiltSite, page: Any) -> None:
    page.goto(f"{site.url}notes/residual-stream/")
    per_line = page.evaluate(
        """() => { const counts = [];
        for (const p of document.querySelectorAll(".md-content__inner > p")) {
          if (p.querySelector(".katex, .weave-badge, code") || p.textContent.length < 300) continue;
          const range = document.createRange(); range.selectNodeContents(p);
          const lines = new Set(Array.from(range.getClientRects(), (box) => Math.round(box.bottom / 8))).size;
          counts.push(p.textContent.length / lines);
        } return counts; }"""
    )
    typical = sorted(per_line)[len(per_line) // 2]
    assert per_line and 62 <= typical <= 76, per_line


# -- feeds, pictures, print


def test_feeds_hold_every_note_and_entry(site: BuiltSite) -> None:
    atom = etree.parse(site.folder / "atom.xml").getroot()
    name = "{http://www.w3.org/2005/Atom}"
    links = {entry.find(f"{name}link").get("href") for entry in atom.iter(f"{name}entry")}
    notes = {f"{site.url}notes/{path.stem}/" for path in (ROOT / "docs/notes").glob("*.md")}
    assert notes < links and all(site.file(url).is_file() for url in links)
    rss = etree.parse(site.folder / "rss.xml").getroot()
    assert {item.findtext("link") for item in rss.iter("item")} == links


def test_every_page_has_a_share_picture(site: BuiltSite) -> None:
    for path in site.folder.rglob("index.html"):
        card = re.search(r'property="og:image" content="([^"]+)"', path.read_text())
        assert card and card[1].startswith(site.url), path
        data = site.file(card[1]).read_bytes()
        assert data[:4] == b"\x89PNG" and struct.unpack(">II", data[16:24]) == (1200, 630)


def test_a_note_prints_without_the_page_around_it(site: BuiltSite, browser: Any, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto(f"{site.url}notes/tensor-products/")
    page.emulate_media(media="print")
    for hidden in (".md-header", ".md-sidebar", ".py-bar", "kronecker-builder button", ".weave-code"):
        assert not page.locator(hidden).first.is_visible(), hidden
    assert page.get_by_text("On the site, with JavaScript, you can type two matrices").is_visible()
    assert page.locator("article h1").is_visible() and page.locator(".weave-figure svg").first.is_visible()
    page.close()


def test_nothing_reveals_where_the_site_was_built(site: BuiltSite) -> None:
    for path in site.folder.rglob("provenance.json"):
        assert str(ROOT) not in path.read_text() and '"commit"' in path.read_text()


def test_firefox_reads_and_runs_the_same_pages(site: BuiltSite) -> None:
    import shutil

    firefox = shutil.which("firefox-esr") or shutil.which("firefox")
    if not firefox:
        pytest.skip("no Firefox on this machine: the pages were NOT looked at in it")
    node = shutil.which("node") or str(ROOT / ".venv/bin/node")
    done = subprocess.run(
        [node, str(ROOT / "tests/browser/firefox.mjs"), firefox, site.url], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_notes_become_one_pdf_with_links_inside_it(site: BuiltSite, browser: Any) -> None:
    """In a process of its own, because Playwright cannot drive a second browser beside the first."""
    script = (
        "import io, sys; sys.path.insert(0, 'code/live')\n"
        "import pdf; from pathlib import Path; from pypdf import PdfReader\n"
        "names, address = ['notes/zero-layer', 'notes/one-layer'], sys.argv[2]\n"
        "whole = pdf.join(pdf.print_notes(Path(sys.argv[1]), names, address), names, address, 'Notes', 'A. Author')\n"
        "read = PdfReader(io.BytesIO(whole))\n"
        "links = [link.get_object() for page in read.pages for link in page.get('/Annots', ())]\n"
        "print(len(read.pages), sum('/Dest' in link for link in links), read.metadata.title, read.metadata.author)\n"
        "print(*[link['/A']['/URI'] for link in links if '/A' in link])\n"
        "print(read.pages[0].extract_text()[:200].replace(chr(10), ' '))"
    )
    command = [sys.executable, "-c", script, str(site.folder), site.url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    about, addresses, text = done.stdout.splitlines()
    pages, inside, *names = about.split()
    assert int(pages) > 15 and int(inside) > 0 and names == ["Notes", "A.", "Author"]
    assert not re.search(rf"{re.escape(site.url)}notes/(zero|one)-layer/", addresses) and "Zero layers" in text


def test_drawings_are_light_on_dark_paper(site: BuiltSite, browser: Any) -> None:
    for scheme, expected in (("light", "none"), ("dark", "invert(0.92) hue-rotate(180deg)")):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(f"{site.url}pages/writing/")
        drawing = page.locator("article img[src$='.svg']").first
        assert drawing.evaluate("(image) => getComputedStyle(image).filter") == expected
        assert drawing.get_attribute("alt")
        context.close()
