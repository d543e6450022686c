"""The attention explorer as a reader uses it: it starts on a click, answers typing, and shows what a head does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import BuiltSite


@pytest.fixture
def page(site: BuiltSite, browser: Any):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.problems, page.requests = [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(f"{site.url}notes/induction-heads/")
    yield page
    context.close()


def start(page: Any) -> Any:
    explorer = page.locator("attention-explorer").first
    explorer.locator("button").click()
    explorer.locator("textarea").wait_for()
    return explorer


def loss(explorer: Any) -> float:
    return float(re.search(r"Mean loss ([\d.]+) nats", explorer.locator("[role=status]").inner_text())[1])


def test_nothing_is_fetched_before_the_click(site: BuiltSite, page: Any):
    weights = f"{site.url}assets/live/models/induction.safetensors"
    assert weights not in page.requests
    start(page)
    assert weights in page.requests and all(
        url.startswith(site.url) or url.startswith("blob:") for url in page.requests
    )
    assert not page.problems


def test_a_head_off_changes_what_comes_next(page: Any):
    explorer = start(page)
    explorer.locator("textarea").fill("qz7 XKv! " * 6)  # nothing but what repeats
    before = loss(explorer)
    explorer.get_by_label("head 0.1", exact=True).uncheck()
    without = loss(explorer)
    assert without > before + 1, "induction depends on the previous-token head"
    explorer.get_by_label("keep the patterns when heads are off").check()
    assert loss(explorer) < without - 1, "with patterns kept, its output hardly matters"
    explorer.get_by_role("button", name="all heads on").click()
    assert loss(explorer) == before and explorer.get_by_label("head 0.1", exact=True).is_checked()
    assert not page.problems


def test_a_token_shows_where_the_pinned_head_looks(page: Any):
    explorer = start(page)
    explorer.locator("textarea").fill("qz7 XKv! qz7 XKv! qz7")
    explorer.get_by_role("button", name="show where head 1.1 looks").press("Enter")
    tokens = explorer.locator(".tokens button")
    names = tokens.all_inner_texts()
    here = len(names) - 1
    tokens.nth(here).press("Space")
    assert "Where head 1.1 looks from" in explorer.locator("[role=status]").inner_text()
    shares = [float(tip.split()[0]) for tip in (tokens.nth(i).get_attribute("title") for i in range(len(names)))]
    after = [i + 1 for i in range(here) if names[i] == names[here]]
    assert sum(shares[i] for i in after) > 50 and sum(shares) == pytest.approx(100, abs=1)
    assert page.evaluate("document.activeElement.shadowRoot.activeElement.ariaPressed") == "true", "focus stays"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_it_fits_the_page(site: BuiltSite, browser: Any, scheme: str, width: int):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{site.url}notes/induction-heads/")
    explorer = start(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    box = explorer.bounding_box()
    assert box["width"] <= width and explorer.locator(".heads svg").count() == 8
    context.close()


def test_without_scripts_there_is_a_sentence_in_its_place(site: BuiltSite, browser: Any):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.url}notes/induction-heads/")
    assert page.locator("figure").count() > 5
    explorer = page.locator("attention-explorer").first
    explorer.scroll_into_view_if_needed()
    assert (
        explorer.text_content() or ""
    ).strip() == "On the site, with JavaScript, you can type a text here and see where every head looks."
    context.close()
