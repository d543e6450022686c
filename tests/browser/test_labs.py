"""A lab as a reader uses it: a wrong answer, a right one, what is kept, and code that Python does not survive."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import BuiltSite

PLACE = "notes/tensor-products/"
WRONG = "def commutation_matrix(m, n):\n    return np.eye(m * n)"
RIGHT = "def commutation_matrix(m, n):\n    return np.eye(m * n)[np.arange(m * n).reshape(m, n).T.reshape(-1)]"


@pytest.fixture
def page(browser: Any):
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    yield page
    context.close()


def lab_of(page: Any) -> Any:
    lab = page.locator("py-lab.live")
    lab.locator("textarea").wait_for()
    return lab


def run(lab: Any, code: str, status: str = "ran") -> str:
    """Write an answer and run it; return the verdict, "" if there is none."""
    lab.locator("textarea").fill(code)
    lab.locator("textarea").press("Control+Enter")
    lab.locator(".py-bar [role=status]").filter(has_text=re.compile(f"^{status}")).wait_for(timeout=60_000)
    return lab.locator(".weave-verdict").inner_text()


def test_a_lab_is_failed_passed_and_survives_what_python_does_not(site: BuiltSite, page: Any) -> None:
    page.goto(site.url + PLACE)
    lab = lab_of(page)
    field, verdict, status = (lab.locator(css) for css in ("textarea", ".weave-verdict", ".py-bar [role=status]"))
    posed = field.input_value()
    assert posed.startswith("def commutation_matrix")
    assert run(lab, posed) == "commutation_matrix is still to be written."
    above = page.locator("py-snippet.live").first.locator("[role=status]")
    assert above.inner_text().startswith("ran first"), "a lab uses the names above it"
    assert "this is the identity" in run(lab, WRONG) and "passed" not in verdict.get_attribute("class")
    assert run(lab, "1 / 0", "raised") == "" and "ZeroDivisionError" in lab.locator(".py-error").inner_text()
    assert run(lab, "import torch", "raised") == "" and "Python of this page has numpy" in status.inner_text()

    broken = "class A:\n    def __repr__(self):\n        return repr(self)\nA()"
    assert run(lab, broken, "Python ended: a function calls itself without end") == ""
    assert run(lab, RIGHT).startswith("✓ Right") and "passed" in verdict.get_attribute("class"), "a new Python"
    assert page.evaluate("document.activeElement.localName") == "textarea"
    assert not page.problems


def test_what_was_written_is_kept_until_reset(site: BuiltSite, page: Any) -> None:
    page.goto(site.url + PLACE)
    field, reset = lab_of(page).locator("textarea"), lab_of(page).get_by_role("button", name="Reset")
    posed = field.input_value()
    assert not reset.is_visible()
    field.fill("")
    field.press_sequentially(WRONG.replace("    ", ""))  # the editor indents
    page.reload()
    assert lab_of(page).locator("textarea").input_value() == WRONG
    field.press("Escape")
    assert page.evaluate("document.activeElement.ariaLabel") == "Run lab commutation matrix"
    reset.click()
    assert field.input_value() == posed and not reset.is_visible()
    page.reload()
    assert lab_of(page).locator("textarea").input_value() == posed and not page.problems


def test_a_browser_that_keeps_nothing_has_labs_too(site: BuiltSite, page: Any) -> None:
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw Error('no') } })")
    page.goto(site.url + PLACE)
    lab_of(page).locator("textarea").fill("x")
    assert lab_of(page).get_by_role("button", name="Reset").is_visible()


def test_the_weights_that_labs_read_are_on_the_site(site: BuiltSite) -> None:
    for page in site.folder.glob("notes/*/index.html"):
        for models in re.findall(r'<py-lab [^>]*models="([^"]*)"', page.read_text("utf-8")):
            for model in models.split():
                assert (site.folder / f"assets/live/models/{model}.safetensors").is_file(), page.parent.name
