"""The desk as its author sees it: an edit changes the open page in its place, cells tell how far they are."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("small", ROOT / "tests/weave/conftest.py")
assert _spec and _spec.loader
small = importlib.util.module_from_spec(_spec)
sys.modules["small"] = small
_spec.loader.exec_module(small)

NOTE, NOTEBOOK = "docs/notes/heat.md", "code/notebooks/heat.py"
LONG = "".join(f"\nParagraph {i} of many, which make the page longer than a window.\n" for i in range(60))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    site = small.make_small(tmp_path_factory.mktemp("desk"))
    site.write(NOTE, site.read(NOTE) + LONG)
    assert site.run("weave.cli", "run").returncode == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "weave.cli", "serve", "--addr", f"127.0.0.1:{port}"]
    process = subprocess.Popen(command, cwd=site.root, env={**os.environ, **site.env}, start_new_session=True)
    url = f"http://127.0.0.1:{port}/repo/"
    for _ in range(200):
        try:
            urllib.request.urlopen(url, timeout=30).read()
            break
        except OSError:
            assert process.poll() is None
            time.sleep(0.1)
    yield site, url
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)


@pytest.fixture
def page(site: tuple[Any, str], browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.goto(f"{site[1]}notes/heat/")
    page.evaluate("window.same = true")
    page.wait_for_timeout(500)  # the desk's script has the page as it came
    yield page
    assert not page.problems
    page.close()


def test_an_edit_far_below_is_shown_where_it_is_and_nothing_else_moves(site: tuple[Any, str], page: Any) -> None:
    site[0].replace(NOTE, "Paragraph 50 of many", "The fiftieth paragraph of many")
    edited = page.get_by_text("The fiftieth paragraph")
    edited.wait_for(timeout=10_000)
    box = edited.bounding_box()
    assert 0 <= box["y"] <= 800, "it is in view"
    assert page.evaluate("window.same"), "the page was not loaded again"
    above = page.evaluate("scrollY")
    site[0].replace(NOTE, "The fiftieth paragraph of many", "Paragraph fifty of many")
    page.get_by_text("Paragraph fifty").wait_for(timeout=10_000)
    assert page.evaluate("scrollY") == above and page.evaluate("window.same")


def test_paragraphs_come_and_go(site: tuple[Any, str], page: Any) -> None:
    before = page.locator("article > p").count()
    site[0].replace(NOTE, "\nParagraph 3 of", "\nOne more.\n\nAnd another.\n\nParagraph 3 of")
    page.get_by_text("And another.").wait_for(timeout=10_000)
    assert page.locator("article > p").count() == before + 2 and page.evaluate("window.same")
    site[0].replace(NOTE, "\nOne more.\n\nAnd another.\n", "\n")
    page.get_by_text("And another.").wait_for(state="detached", timeout=10_000)
    assert page.locator("article > p").count() == before


def test_what_is_wrong_stands_in_its_place_and_goes(site: tuple[Any, str], page: Any) -> None:
    site[0].replace(NOTE, "[0.5]", "[0.6]")
    error = page.locator(".weave-error")
    error.wait_for(timeout=10_000)
    assert "the note says 0.6; heat.py computed 0.5" in error.inner_text()
    site[0].replace(NOTE, "[0.6]", "[0.5]")
    error.wait_for(state="detached", timeout=10_000)


def test_a_cell_tells_that_it_runs_and_its_figure_is_marked(site: tuple[Any, str], page: Any) -> None:
    site[0].replace(NOTEBOOK, 'ax.set_xlabel("time")', 'ax.set_xlabel("hours")\nimport time; time.sleep(2)')
    strip = page.locator("[role=status]", has_text=re.compile(r"heat\.py runs: decay \(2 of 4\)"))
    strip.wait_for(timeout=10_000)
    page.locator(".weave-figure.weave-running").wait_for(timeout=10_000)
    page.locator("svg", has_text="hours").wait_for(timeout=20_000)
    assert page.locator(".weave-running").count() == 0
    page.locator("[role=status]", has_text="heat.py runs").wait_for(state="hidden", timeout=10_000)


def test_a_new_heading_is_in_the_table_of_contents(site: tuple[Any, str], page: Any) -> None:
    site[0].replace(NOTE, "\nParagraph 9 of", "\n## A new part\n\nParagraph 9 of")
    page.locator(".md-sidebar--secondary", has_text="A new part").wait_for(timeout=10_000)


def test_a_page_that_is_not_there_yet_or_cannot_be_made_shows_itself_when_it_can(
    site: tuple[Any, str], page: Any
) -> None:
    page.goto(f"{site[1]}notes/later/")
    assert "no page" in page.inner_text("pre")
    page.wait_for_timeout(500)  # as above
    site[0].write("docs/notes/later.md", "# Later\n")
    page.locator("article h1", has_text="Later").wait_for(timeout=10_000)
    page.wait_for_timeout(500)
    site[0].write("docs/notes/later.md", "---\ntemplate: nowhere.html\n---\n# Later\n")
    page.locator("pre", has_text="nowhere.html").wait_for(timeout=10_000)
    page.wait_for_timeout(500)
    site[0].write("docs/notes/later.md", "# Much later\n")
    page.locator("article h1", has_text="Much later").wait_for(timeout=10_000)


def test_an_edit_between_the_page_and_its_script_is_shown(site: tuple[Any, str], page: Any) -> None:
    """The script learns from the number of the build that the page is older than what it fetches first."""
    page.goto("about:blank")

    def saved_meanwhile(route: Any) -> None:
        site[0].replace(NOTE, "Paragraph 2 of many", "The second paragraph of many")
        time.sleep(0.5)
        route.continue_()

    page.route("**/_weave/page.js", saved_meanwhile, times=1)
    page.goto(f"{site[1]}notes/heat/")
    page.get_by_text("The second paragraph").wait_for(timeout=10_000)
    site[0].replace(NOTE, "The second paragraph of many", "Paragraph 2 of many")
    page.get_by_text("Paragraph 2 of many").wait_for(timeout=10_000)
