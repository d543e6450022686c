"""Every link, image, script and style sheet of the built site leads to a file of it, every anchor to an element."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as etree
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit

import pytest

if TYPE_CHECKING:
    from conftest import BuiltSite

# Links may lead to other sites; what a page loads by itself must be ours (test_pages.py).
HREF = {"a": "href", "area": "href", "link": "href", "script": "src", "img": "src", "source": "src", "iframe": "src"}


@dataclass
class Html(HTMLParser):
    """The links of a page, each with its line, and the page's anchors."""

    ids: set[str] = field(default_factory=set)
    own: list[str] = field(default_factory=list)
    links: list[tuple[int, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.own += [given["id"]] if given.get("id") else []
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
        url = given.get(HREF.get(tag, ""))
        if url is not None and not (tag == "link" and "canonical" in given.get("rel", "")):
            self.links.append((self.getpos()[0], tag, url))


@cache
def read(path: Path) -> Html:
    html = Html()
    html.feed(path.read_text("utf-8"))
    return html


def broken(site: BuiltSite, pages: list[str]) -> list[str]:
    """Return `page:line: problem` for each link that leads nowhere, or to where it must not lead."""
    found = []
    for page in pages:
        here = site.file(page)
        for line, tag, link in read(here).links:
            url = urljoin(page, link)
            if not url.startswith(site.url):
                # A link may lead to another site, but nothing is loaded from there or lies outside the sub-path.
                if urlsplit(url).netloc == urlsplit(site.url).netloc or tag not in ("a", "area"):
                    found.append(f"{here.relative_to(site.folder)}:{line}: <{tag}> leaves the site: {link}")
                continue
            target = site.file(unquote(url.partition("?")[0]))
            anchor = unquote(urlsplit(url).fragment)
            if not target.is_file():
                found.append(f"{here.relative_to(site.folder)}:{line}: no such file: {link}")
            elif anchor and target.suffix == ".html" and anchor not in read(target).ids:
                found.append(f"{here.relative_to(site.folder)}:{line}: no such anchor: {link}")
    return found


def test_every_link_and_anchor_resolves(site: BuiltSite) -> None:
    assert broken(site, site.pages) == []


@pytest.mark.parametrize(
    "link",
    ["../nowhere/", "#nowhere", "/assets/x.css", "https://example.org/x.js"],
)
def test_a_link_that_leads_nowhere_is_found(site: BuiltSite, link: str, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(f'<p id="somewhere"><a href="#somewhere"></a><script src="{link}"></script>')
    copy = type(site)(tmp_path, site.url)
    assert [line.rpartition(": ")[2] for line in broken(copy, copy.pages)] == [link]


def test_no_two_elements_of_a_page_answer_to_one_address(site: BuiltSite) -> None:
    """A value's line, a cell and a heading have their names in one space."""
    for page in site.pages:
        if "/notebooks/" in page:
            ids = read(site.file(page)).own
            assert len(ids) > 20 and [name for name in set(ids) if ids.count(name) > 1] == [], page


def test_the_sitemap_lists_the_pages_under_the_address_of_the_site(site: BuiltSite) -> None:
    tree = etree.parse(site.folder / "sitemap.xml")
    listed = {element.text for element in tree.findall(".//{*}loc")}
    assert listed and listed <= set(site.pages)
    for note in ("tensor-products", "attention-heads", "zero-layer"):
        assert f"{site.url}notes/{note}/" in listed


def test_each_notebook_can_be_downloaded_as_ipynb_and_py(site: BuiltSite) -> None:
    notebooks = [page for page in site.pages if "/notebooks/" in page]
    assert len(notebooks) >= 3
    for page in notebooks:
        named = [
            link for _, _, link in read(site.file(page)).links if Path(urlsplit(link).path).stem == source_name(page)
        ]
        offered = {Path(urlsplit(link).path).suffix: link for link in named}
        assert {".ipynb", ".py"} <= set(offered), page
        notebook = json.loads(site.file(urljoin(page, offered[".ipynb"])).read_text("utf-8"))
        assert any(cell.get("outputs") for cell in notebook["cells"]), f"{page}: the .ipynb has no outputs"
        prose = "".join(cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown")
        assert "git clone" in prose, f"{page}: the .ipynb does not say what it needs"
        led = re.findall(r"\]\(([^)\s]+)\)", prose)
        assert all(url.startswith("http") for url in led), f"{page}: {led} cannot be followed elsewhere"
        source = site.file(urljoin(page, offered[".py"])).read_text("utf-8")
        own = (Path(__file__).parents[2] / "code/notebooks" / f"{source_name(page)}.py").read_text("utf-8")
        assert source.endswith(own) and "git clone" in source


def source_name(page: str) -> str:
    return page.rstrip("/").rpartition("/")[2].replace("-", "_")


def test_the_search_index_holds_text_and_tex_but_no_markup(site: BuiltSite) -> None:
    index = json.loads((site.folder / "search/search_index.json").read_text("utf-8"))
    for entry in index["docs"]:
        for part in ("title", "text"):
            for markup in ("katex", "<math", "<svg", "<span", "class=", "aria-"):
                assert markup not in entry[part], f"{entry['location']}: {markup} in {entry[part][:200]}"


def test_nothing_but_the_site_is_published(site: BuiltSite) -> None:
    """No source of the tooling, cache or half-written file is in the folder that is uploaded."""
    stray = [path for path in site.folder.rglob("*") if path.name.startswith(".") or path.suffix in {".pyc", ".part"}]
    assert [path for path in stray if path.name != ".nojekyll"] == []
