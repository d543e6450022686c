"""The parts that every page gets beside its author's text: tables of text → text, and one small site."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as etree

import pytest
from mkdocs.exceptions import Abort

from weave.site import accessible, cards, colab, downloads, feeds, policy
from weave.source.layout import Layout

if TYPE_CHECKING:
    from conftest import Small

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<tr><th></th><th>loss</th></tr>", "<tr><td></td><th>loss</th></tr>"),
        ('<th style="text-align: right"></th>', '<td style="text-align: right"></td>'),
        ('<input type="checkbox" disabled>', '<input aria-label="open" type="checkbox" disabled>'),
        ('<input type="checkbox" disabled="" />', '<input aria-label="open" type="checkbox" disabled />'),
        ('<input type="checkbox" disabled checked>', '<input aria-label="done" type="checkbox" disabled checked>'),
        ('<input type="checkbox">', '<input type="checkbox">'),
    ],
)
def test_tables_and_tasks_are_accessible(html: str, expected: str) -> None:
    assert accessible.content(html) == expected


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ('<nav class="md-nav">', '<nav class="md-nav" role="none">'),
        ('<nav class="md-pagination">', '<nav class="md-pagination" aria-label="Pages of the log">'),
        ('<nav class="md-nav" aria-label="Navigation">', '<nav class="md-nav" aria-label="Navigation">'),
        ('<nav aria-labelledby="__nav_2_label">', '<nav aria-label="Section">'),
        (
            '<label id="__nav_2_label"><nav aria-labelledby="__nav_2_label">',
            '<label id="__nav_2_label"><nav aria-labelledby="__nav_2_label">',
        ),
    ],
)
def test_what_the_theme_leaves_unnamed_has_a_name(html: str, expected: str) -> None:
    assert accessible.page(html) == expected


@pytest.mark.parametrize(
    ("prose", "taken"),
    [
        ("See [the note](../../docs/notes/a.md#b) too.", "See [the note](https://x.org/notes/a.md#b) too."),
        ("At [0.5](#=rate), [0.6](b.py#=r).", "At [0.5](https://x.org/notebooks/heat.ipynb#value-rate), 0.6."),
        ("[the cell](#decay) and [Jupyter](https://jupyter.org)", None),
        ("`[x](y.md)` and $[a](b)$, ![curve](curve.svg)", "`[x](y.md)` and $[a](b)$, ![curve](curve.svg)"),
        ("[gone](../../docs/notes/none.md)", "gone"),
    ],
)
def test_links_of_a_downloaded_notebook_lead_to_the_site_or_are_text(prose: str, taken: str | None) -> None:
    layout, shown = Layout(ROOT), {"docs/notes/a.md", "code/notebooks/heat.py"}
    if taken is None:
        taken = prose.replace("(#", "(https://x.org/notebooks/heat.ipynb#")

    def address(path: str) -> str:
        return f"https://x.org/{layout.page_uri(path)}" if path in shown else ""

    assert downloads.with_full_addresses(prose, "code/notebooks/heat.py", layout, address) == taken


@pytest.mark.parametrize(
    ("html", "before"),
    [
        ('<html><head><meta charset="utf-8"><title>x</title>', '<head><meta charset="utf-8">'),
        ("<html><HEAD lang='en'><title>x</title>", "<HEAD lang='en'>"),
        ('<head><title>x</title><meta charset="UTF-8" />', '<title>x</title><meta charset="UTF-8" />'),
    ],
)
def test_a_page_gets_the_policy_early_in_its_head(html: str, before: str, tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text(html)
    policy.protect(tmp_path)
    page = (tmp_path / "x.html").read_text()
    assert re.search(re.escape(before) + r'\s*<meta http-equiv="Content-Security-Policy" content="default-src', page)


def test_the_theme_does_not_ask_github_for_stars() -> None:
    link = '<a href="https://github.com/a/b" title="Go to repository" class="md-source" data-md-component="source">'
    assert (
        policy.without_requests(link) == '<a href="https://github.com/a/b" title="Go to repository" class="md-source">'
    )


def test_all_pages_allow_the_same_scripts(tmp_path: Path) -> None:
    head = '<head><meta charset="utf-8"></head>'
    (tmp_path / "a.html").write_text(f"{head}<script>1</script>")
    (tmp_path / "b.html").write_text(f'{head}<script src="x.js"></script><script type="application/json">2</script>')
    policy.protect(tmp_path)
    policies = {re.search(r'content="(default[^"]*)"', path.read_text())[1] for path in tmp_path.glob("*.html")}
    assert len(policies) == 1
    # printf 1 | openssl dgst -sha256 -binary | base64
    assert re.findall(r"'sha256-[^']*'", policies.pop()) == ["'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s='"]


def test_a_page_without_a_place_for_the_policy_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/x.html").write_text("<p>no head")
    with pytest.raises(Abort, match=r"notes/x\.html: no .* so the page has no content security policy"):
        policy.protect(tmp_path)


def test_feeds_have_titles_addresses_and_dates() -> None:
    day = datetime.date(2026, 11, 20)
    entries = [feeds.Entry("Heat & <cold>", "How it flows.", "https://x.org/heat/", day, datetime.date(2026, 11, 26))]
    name = "{http://www.w3.org/2005/Atom}"
    entry = etree.fromstring(feeds.atom(entries, "Site", "https://x.org/", "")).find(f"{name}entry")
    assert entry is not None
    text = {child.tag.removeprefix(name): child.text or child.get("href") for child in entry}
    assert text == {
        "title": "Heat & <cold>",
        "id": "https://x.org/heat/",
        "link": "https://x.org/heat/",
        "published": "2026-11-20T00:00:00Z",
        "updated": "2026-11-26T00:00:00Z",
        "summary": "How it flows.",
    }
    item = etree.fromstring(feeds.rss(entries, "Site", "https://x.org/", "All")).find("channel/item")
    assert item is not None and item.findtext("pubDate") == "Fri, 20 Nov 2026 00:00:00 +0000"
    assert item.findtext("title") == "Heat & <cold>" and item.findtext("link") == "https://x.org/heat/"


def test_a_card_is_drawn_once(tmp_path: Path) -> None:
    fonts = ROOT / "node_modules/@fontsource/source-serif-4/files"
    first = cards.draw("Heat", "How it costs $5.", "Site", fonts, tmp_path)
    assert first.read_bytes()[:4] == b"\x89PNG"
    before = first.stat().st_mtime_ns
    assert cards.draw("Heat", "How it costs $5.", "Site", fonts, tmp_path) == first
    assert first.stat().st_mtime_ns == before
    assert cards.draw("Cold", "How it costs $5.", "Site", fonts, tmp_path) != first


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        ("https://github.com/a/b", "https://colab.research.google.com/github/a/b/blob/colab/heat.ipynb"),
        ("https://github.com/a/b/", "https://colab.research.google.com/github/a/b/blob/colab/heat.ipynb"),
        ("https://example.org/a/b", None),
        ("", None),
        (None, None),
    ],
)
def test_colab_opens_repositories_on_github(repository: str | None, expected: str | None) -> None:
    assert colab.address(repository, "heat") == expected


def test_a_finished_site_has_feeds_and_notebooks_for_colab(small: Small) -> None:
    small.replace("mkdocs.yml", "cell_timeout: 10", "cell_timeout: 10, colab: needs.txt")
    small.replace("mkdocs.yml", "site_name: Small", "site_name: Small\nrepo_url: https://github.com/a/b")
    built = small.build()
    assert built.returncode == 0, built.stderr
    site = small.root / "site"
    assert (site / "colab/names.txt").read_text() == "heat.ipynb\n"
    cells = json.loads((site / "colab/heat.ipynb").read_text("utf-8"))["cells"]
    assert (
        "git clone -q --depth 1 https://github.com/a/b " in cells[0]["source"] and "-r needs.txt" in cells[0]["source"]
    )
    own, *others = json.loads((site / "notebooks/heat/heat.ipynb").read_text("utf-8"))["cells"]
    assert cells[1:] == others and "git clone https://github.com/a/b b\n" in own["source"], "each says what it needs"
    assert b"https://example.org/repo/notes/heat/" in (site / "atom.xml").read_bytes()
    page = (site / "notes/heat/index.html").read_text("utf-8")
    assert re.search(r'<p class="note-about">1 minute .*<code>weave run heat</code>.*>\.ipynb</a>.*>in Colab</a>', page)
    assert "Content-Security-Policy" in page
