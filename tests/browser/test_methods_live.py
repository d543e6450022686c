"""The lens, the patch explorer and the graph of edges as a reader uses them: by mouse, by keyboard, on a telephone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import BuiltSite

AXE = Path(__file__).resolve().parents[2] / "node_modules/axe-core/axe.min.js"
# By element: the note that has it, and what is there once it has computed.
NOTES = {
    "logit-lens": ("logit-attribution", "td[aria-selected=true]"),
    "patch-explorer": ("activation-patching", ".side table + table"),
    "edge-graph": ("path-patching", ".side button"),
}


def start(site: BuiltSite, page: Any, tag: str) -> Any:
    note, ready = NOTES[tag]
    if not (site.folder / f"notes/{note}/index.html").is_file():
        pytest.skip(f"the note {note} is not written yet")
    page.goto(f"{site.url}notes/{note}/")
    assert not [url for url in page.requests if url.endswith(".safetensors")], "nothing is fetched before the click"
    figure = page.locator(tag).first
    figure.get_by_role("button", name="Try it").click()
    figure.locator(ready).first.wait_for(timeout=60_000)
    return figure


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Any):
    scheme, width = getattr(request, "param", ("light", 1280))
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.problems, page.requests = [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: page.requests.append(request.url))
    yield page
    context.close()
    assert not page.problems


def violations(page: Any, tag: str) -> list[str]:
    page.add_script_tag(path=str(AXE))
    page.wait_for_timeout(300)  # colours change over a quarter of a second
    found = page.evaluate("(tag) => axe.run(tag, { resultTypes: ['violations'] }).then((r) => r.violations)", tag)
    return [rule["id"] for rule in found]


def said(figure: Any) -> str:
    return figure.locator("[role=status]").inner_text()


def test_the_lens_shows_what_each_layer_predicts_and_what_makes_a_logit(site: BuiltSite, page: Any) -> None:
    figure = start(site, page, "logit-lens")
    assert all(url.startswith((site.url, "blob:")) for url in page.requests)
    figure.get_by_label("text for the model").fill("The Senate and the House of")
    figure.get_by_text("expects “·Rep”").wait_for()
    assert figure.locator("tbody tr th").all_inner_texts() == ["The", "·Senate", "·and", "·the", "·House", "·of"]
    figure.locator("td[tabindex='0']").press("ArrowLeft")
    chosen = figure.locator("td[aria-selected=true]")
    assert "after layer 2" in chosen.get_attribute("aria-label")
    assert page.evaluate("document.activeElement.shadowRoot.activeElement.ariaSelected") == "true", "focus goes along"
    logit, total = re.search(r"the logit: ([\d.]+)\)\s+\+([\d.]+)", figure.locator(".sum").inner_text()).groups()
    assert logit == total
    figure.get_by_label("all 39 terms").check()
    values = [float(text.replace("−", "-")) for text in figure.locator(".bars .n").all_inner_texts()]
    assert len(values) == 40 and sum(values[:-1]) == pytest.approx(values[-1], abs=0.2), "each is rounded"
    assert violations(page, "logit-lens") == []
    figure.get_by_label("text for the model").fill("")
    figure.get_by_text("Type a sentence.").wait_for()


def test_a_patched_head_moves_the_answer_and_both_ways_differ(site: BuiltSite, page: Any) -> None:
    figure = start(site, page, "patch-explorer")
    figure.get_by_label("clean", exact=True).fill("It is the law of your land and the law of")
    figure.get_by_label("corrupted", exact=True).fill("It is the law of their land")
    figure.get_by_text("patching needs as many in both").wait_for()
    figure.get_by_label("corrupted", exact=True).fill("It is the law of their land and the law of")
    figure.get_by_text("Head 3.7 at “·of”", exact=True).wait_for()
    denoising = said(figure)
    figure.locator(".map").press("ArrowUp")
    assert said(figure).startswith("Head 3.6 at “·of” (position 10)")
    figure.get_by_label("head 3.7 at position 10").click()
    assert said(figure) == denoising
    figure.get_by_label("noising: the clean").check()
    figure.get_by_text("Patching every head").wait_for(state="hidden")
    assert said(figure).startswith("Head 3.7 at “·of”") and said(figure) != denoising
    assert violations(page, "patch-explorer") == []


def test_the_strongest_edges_of_a_repeat_are_those_of_induction(site: BuiltSite, page: Any) -> None:
    figure = start(site, page, "edge-graph")
    figure.get_by_label("text for the model").fill(" kV7 qu%o Zax! 9Gd kV7 qu%o Zax! 9Gd")
    figure.get_by_text("embed → 0.1.v").first.wait_for()
    top = set(figure.locator(".side button").all_inner_texts()[:5])
    assert top == {"embed → 0.1.v", "embed → 1.1.v", "0.1 → 1.1.k", "1.1 → logits", "embed → 1.1.q"}
    few = figure.locator(".edge").count()
    figure.get_by_label("least effect").press("Home")
    assert few < figure.locator(".edge").count() == 81
    figure.get_by_role("button", name="0.1 → 1.1.k").press("Enter")
    assert "the keys of head 1.1 read from head 0.1" in said(figure) and figure.locator(".edge.chosen").count() == 1
    assert violations(page, "edge-graph") == []
    figure.get_by_label("text for the model").fill("Hi")
    figure.get_by_text("Type a text of 6 tokens or more").wait_for()


@pytest.mark.parametrize("tag", NOTES)
@pytest.mark.parametrize("page", [("dark", 360)], ids=["telephone"], indirect=True)
def test_each_fits_a_dark_telephone(site: BuiltSite, page: Any, tag: str) -> None:
    figure = start(site, page, tag)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert figure.bounding_box()["width"] <= 360
    assert violations(page, tag) == []
