"""axe-core finds nothing on every kind of page, light and dark, before and after each live element is used.

In light, every rule is applied to the whole page; in dark, that of colors; and both to each element before and after
its use. The weekly run looks at every note and at the two longest pages, too, in light and dark.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import BuiltSite

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "node_modules/axe-core/axe.min.js"
PAGES = (
    "",
    "pages/why/",
    "pages/glossary/",
    "pages/questions/",
    "pages/reading/",
    "log/",
    "log/the-framework-executed/",
    "notes/tensor-products/",
    "notebooks/tensor_products/",
    "source/code/residual/model.py/",
    "404.html",
)
LONG = ("pages/reference/", "pages/ledger/")
NOTES = [f"notes/{path.stem}/" for path in sorted((ROOT / "docs/notes").glob("*.md"))]


def press(page: Any, tag: str, name: str, then: str) -> None:
    element = page.locator(tag).first
    element.get_by_role("button", name=name).click()
    element.locator(then).first.wait_for(timeout=60_000)


def snippet(page: Any) -> None:
    first = page.locator("py-snippet.live").first
    first.get_by_role("button", name="Edit").click()
    first.locator("textarea").fill("import numpy as np\nnp.eye(3)")
    first.locator("textarea").press("Control+Enter")
    first.locator(".weave-gave svg").wait_for(timeout=60_000)


def lab(page: Any) -> None:
    first = page.locator("py-lab.live").first
    first.get_by_role("button", name="Run").click()
    first.locator(".weave-verdict").filter(has_text="still to be written").wait_for(timeout=60_000)


def card(page: Any) -> None:
    page.locator("article a.weave-claim").first.hover()
    page.locator("#weave-card").filter(has_text="the cell took").wait_for()


def search(page: Any) -> None:
    page.get_by_role("textbox", name="Search").fill("kronecker")
    page.locator(".md-search-result__item").first.wait_for()


# By name: a page, the element on it, and a function that uses it.
USED: dict[str, tuple[str, str, Callable[[Any], None]]] = {
    "explorer": (
        "notes/induction-heads/",
        "attention-explorer",
        lambda page: press(page, "attention-explorer", "Try it", "textarea"),
    ),
    "builder": (
        "notes/tensor-products/",
        "kronecker-builder",
        lambda page: press(page, "kronecker-builder", "Try it", "svg"),
    ),
    "lookup": (
        "notes/one-layer/",
        "skip-trigrams",
        lambda page: press(page, "skip-trigrams", "Try it", "tbody tr"),
    ),
    "snippet": ("notes/tensor-products/", "py-snippet.live", snippet),
    "lab": ("notes/tensor-products/", "py-lab.live", lab),
    "card": ("notes/einstein-notation/", "#weave-card", card),
    "search": ("", ".md-header", search),
}


def violations(page: Any, within: str = "html", rules: dict[str, Any] | None = None) -> list[str]:
    if within == "html":
        page.evaluate("document.querySelectorAll('article details').forEach((details) => { details.open = true; })")
        far = ".md-content__inner > :nth-child(n + 10):not(.near), .jp-Cell:nth-child(n + 6):not(.near)"
        page.wait_for_function("(far) => !document.querySelector(far)", arg=far)  # the whole page is laid out
    page.add_style_tag(content="* { transition: none !important; content-visibility: visible !important }")
    page.wait_for_timeout(300)  # colours change over a quarter of a second
    page.add_script_tag(path=str(AXE))
    found = page.evaluate(
        "([within, rules]) => axe.run(within, { resultTypes: ['violations'], ...rules }).then((r) => r.violations)",
        [within, rules or {}],
    )
    return [f"{rule['id']}: {json.dumps([node['html'][:160] for node in rule['nodes'][:3]])}" for rule in found]


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def page(scheme: str, browser: Any):
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900}, bypass_csp=True)
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("path", PAGES)
def test_no_violation_on_any_kind_of_page(site: BuiltSite, page: Any, scheme: str, path: str) -> None:
    page.goto(f"{site.url}{path}")
    assert violations(page, rules={} if scheme == "light" else {"runOnly": ["color-contrast"]}) == []


@pytest.mark.weekly
@pytest.mark.parametrize("path", [*NOTES, *LONG])
def test_no_violation_on_any_note(site: BuiltSite, page: Any, path: str) -> None:
    page.goto(f"{site.url}{path}")
    assert violations(page) == []


@pytest.mark.parametrize("name", USED)
def test_no_violation_before_and_after_an_element_is_used(site: BuiltSite, page: Any, scheme: str, name: str) -> None:
    path, element, use = USED[name]
    page.goto(f"{site.url}{path}")
    if page.locator(element).first.is_visible():
        assert violations(page, within=element) == []
    use(page)
    assert page.locator(element).count() > 0
    assert violations(page, within=element) == []


def test_axe_would_find_something(page: Any) -> None:
    page.set_content("<main><img src='x.png'><input></main>")
    rules = {violation.partition(":")[0] for violation in violations(page)}
    assert {"image-alt", "label"} <= rules
