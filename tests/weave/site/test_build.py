"""The site that is built: whole or not at all, the same each time, and what a reader needs on each page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import nbformat
import pytest

if TYPE_CHECKING:
    from conftest import Small

TAGGED = """# %% [markdown]
# # Tags $\\alpha$
#
# Prose with $\\R$, a [claim](heat.py#values) and [a cell](#folded).
#
# ## Folded

# %% setup tags=["remove-cell"]
from weave import claim

secret = 5

# %% folded tags=["hide-input"]
print("folded code", secret)

# %% fails tags=["raises-exception"]
def inner(x):
    return 1 / x


inner(0)

# %% never tags=["skip-execution"]
print("never " + "printed")

# %%
print("unnamed")

# %% table
class Table:
    def _repr_html_(self):
        return "<table><tr><th>name</th></tr><tr><td class='number'>1</td></tr></table>"


Table()

# %% setup-heading
claim(five=secret)
"""
TWO_NOTES = """# Two notes

![A curve.](../../code/notebooks/heat.py#decay)

![The same.](../../code/notebooks/heat.py?code#decay)

- In a list:

    ![A table.](../../code/notebooks/tags.py#table)

![What was printed.](../../code/notebooks/tags.py#folded)

[5](../../code/notebooks/tags.py#=five) and [a failing cell](../../code/notebooks/tags.py#fails).

Also $a < b \\;\\&\\; \\text{c}$, and $$x$$ inline.
"""
BLOG_POST = """---
date: 2024-01-02
---

# First entry

It cools at [0.5](../../../code/notebooks/heat.py#=rate), so $e^{-t}$.
See [the note](../../notes/heat.md#on-alpha-decay).

![The curve in a post.](../../../code/notebooks/heat.py#decay)

$$
\\alpha + \\R
$$

<!-- more -->

The rest, [a theorem](../../../tests/test_heat.py#test_cools).
"""
BLOG = "  - search\n  - blog: {blog_dir: log, post_readtime: false, authors: false}\n"


@pytest.fixture(scope="module")
def rich(new_small: Callable[[], Small]) -> Small:
    """A site with a blog, a ledger, and a notebook that has every tag."""
    site = new_small()
    site.replace("mkdocs.yml", "  - search\n", BLOG)
    site.write("code/notebooks/tags.py", TAGGED)
    site.write("docs/notes/two.md", TWO_NOTES)
    site.write("docs/log/index.md", "# Log\n")
    site.write("docs/log/posts/first.md", BLOG_POST)
    site.write("docs/ledger.md", "# Ledger\n\n<!-- weave:ledger -->\n")
    result = site.build()
    assert result.returncode == 0, result.stdout + result.stderr
    return site


def tree(root: Path) -> dict[str, bytes]:
    """Every file, without how long cells took: no two runs take the same time."""
    took = re.compile(rb'("seconds": |<dt>took</dt><dd>)[\d.e-]+')
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {name: took.sub(rb"\1", data) if name.endswith((".html", ".json")) else data for name, data in found.items()}


def page(site: Small, path: str) -> str:
    return (site.root / "site" / path / "index.html").read_text("utf-8")


def pages(site: Small) -> dict[str, str]:
    folder = site.root / "site"
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*.html")}


# -- what is on the pages


class Loads(HTMLParser):
    """Addresses that a browser fetches by itself, links, and ids."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.unnamed: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "a":
            self.links.append(found.get("href", ""))
        elif tag == "link" and found.get("rel") not in ("canonical", "next", "prev", "alternate"):
            self.fetched.append(found["href"])
        elif tag in ("script", "img", "iframe", "source", "video", "object", "embed", "use", "image"):
            self.fetched += [found[name] for name in ("src", "href", "xlink:href", "data", "srcset") if name in found]
        self.fetched += re.findall(r"url\(([^)]*)\)", found.get("style", ""))
        if (tag == "svg" and found.get("role") == "img") or tag == "img":
            name = found.get("aria-label") or found.get("aria-labelledby") or found.get("alt")
            self.unnamed += [] if name else [str(found)]


def test_no_page_fetches_anything_from_anybody_else(rich: Small) -> None:
    count = 0
    for path, html in pages(rich).items():
        for address in Loads(html).fetched:
            parts = urlsplit(address.strip("'\""))
            assert parts.scheme in ("", "data") and not parts.netloc, (path, address)
            count += 1
        for address in re.findall(r"(?:@import|url\()\s*['\"]?([^'\")\s]+)", html):
            assert not urlsplit(address).netloc, (path, address)
    assert count > 20
    for path, data in tree(rich.root / "site").items():
        if path.endswith(".css"):
            for address in re.findall(rb"(?:@import|url\()\s*['\"]?([^'\")\s]+)", data):
                assert not address.startswith((b"http", b"//")), (path, address)


def test_ids_are_unique_on_each_page(rich: Small) -> None:
    for path, html in pages(rich).items():
        ids = [name for name in Loads(html).ids if not name.startswith("__")]  # Material repeats some of its own
        assert len(ids) == len(set(ids)), (path, sorted(name for name in ids if ids.count(name) > 1))


def test_every_figure_has_a_name_for_those_who_do_not_see_it(rich: Small) -> None:
    figures = 0
    for path, html in pages(rich).items():
        found = Loads(html)
        figures += html.count('role="img"')
        assert found.unnamed == [], path
        for name in re.findall(r'aria-labelledby="([^"]+)"', html):
            if "caption" in name:
                assert name in found.ids, (path, name)
    assert figures >= 5


def test_links_lead_somewhere_in_a_subfolder_too(rich: Small) -> None:
    """Each relative link ends at a file of the site, and at an id in it: the site works under /repo/."""
    folder, checked = rich.root / "site", 0
    everything = {path: Loads(html) for path, html in pages(rich).items()}
    for path, found in everything.items():
        for link in found.links:
            address = urlsplit(link)
            if address.scheme or address.netloc or path == "404.html":
                continue
            assert not link.startswith("/"), (path, link)
            target = urlsplit(urljoin(f"http://site/repo/{path}", link)).path.removeprefix("/repo/")
            target = target + "index.html" if target.endswith("/") or not target else target
            assert (folder / target).is_file(), (path, link, target)
            if address.fragment and target.endswith(".html") and not address.fragment.startswith("__"):
                assert address.fragment in everything[target].ids, (path, link)
            checked += 1
    assert checked > 50


def test_a_note_s_figure_links_to_its_cell_and_shows_its_code(rich: Small) -> None:
    html = page(rich, "notes/two")
    figures = re.findall(r"<figure.*?</figure>", html, re.DOTALL)
    assert len(figures) == 4
    assert 'href="../../notebooks/heat/#decay"' in figures[0] and "open" not in figures[0].partition("<details")[2][:60]
    assert re.search(r"<details[^>]*\bopen", figures[1])
    assert "<table><tbody><tr><th>name</th>" in figures[2] and "folded code 5" in figures[3]
    assert "<text" in figures[0] and "currentColor" in figures[0] and "#000000" not in figures[0]


def test_math_is_rendered_everywhere_with_the_macros_of_the_site(rich: Small) -> None:
    for path, html in pages(rich).items():
        assert "<tex-math" not in html and "weave-error" not in html, path
    for path in ("notes/two", "notes/heat", "notebooks/tags", "log", "log/2024/01/02/first-entry"):
        assert 'class="katex"' in page(rich, path) and "<math" in page(rich, path), path
    assert "<title>Tags \\alpha - Small</title>" in page(rich, "notebooks/tags").replace("$", "")


def test_the_blog_s_excerpt_has_claim_math_and_figure(rich: Small) -> None:
    """Excerpts are rendered a second time, by another Markdown, for a page at another depth."""
    post, index = page(rich, "log/2024/01/02/first-entry"), page(rich, "log")
    for html, up in ((post, "../../../../../"), (index, "../")):
        assert re.search(
            rf'<a class="weave-claim" href="{re.escape(up)}notebooks/heat/#value-rate"[^>]*>0\.5</a>', html
        )
        assert f'href="{up}notes/heat/#on-alpha-decay"' in html
        assert html.count("weave-figure") == 1 and "The curve in a post." in html and "math-display" in html
    assert "a theorem" in post and "a theorem" not in index


def test_a_slip_in_a_post_is_told_once_with_its_line(rich: Small, tmp_path: Path) -> None:
    site = copy(rich, tmp_path)
    site.replace("docs/log/posts/first.md", "[0.5]", "[0.6]")
    site.replace("docs/log/posts/first.md", "test_cools", "test_cool")
    result = site.build()
    said = re.findall(r"^docs/.*", result.stderr, re.MULTILINE)
    assert [line.partition(": ")[0] for line in said] == [f"docs/log/posts/first.md:{line}" for line in (7, 18)]
    assert "2 problems" in result.stdout and result.returncode == 1


# -- notebooks' own pages


def test_a_notebook_s_page_is_small_and_has_its_downloads(rich: Small) -> None:
    for name in ("heat", "tags"):
        folder = rich.root / "site/notebooks" / name
        assert (folder / "index.html").stat().st_size < 100_000
        head, source = "# To run it with Python 3.11", rich.read(f"code/notebooks/{name}.py")
        taken = (folder / f"{name}.py").read_text("utf-8")
        assert taken.startswith(head) and taken.endswith(f"\n\n{source}") and "#   git clone " in taken
        document = nbformat.read(folder / f"{name}.ipynb", as_version=4)
        nbformat.validate(document)
        html = page(rich, f"notebooks/{name}")
        assert f'href="{name}.py" download' in html and f'href="{name}.ipynb" download' in html
    outputs = [output for cell in document.cells for output in cell.get("outputs", [])]
    assert {output.output_type for output in outputs} == {"stream", "error", "execute_result", "display_data"}
    assert any("secret = 5" in cell.source for cell in document.cells), "remove-cell is about the page alone"
    assert "git clone" in document.cells[0].source and document.cells[1].source.startswith("# Tags $\\alpha$")


def test_tags(rich: Small) -> None:
    html = page(rich, "notebooks/tags")
    assert "secret = 5" not in re.sub("<[^>]*>", "", html), "remove-cell"
    cells = dict(
        re.findall(
            r'<div class="jp-Cell jp-CodeCell[^>]*?\sid="([^"]+)"(.*?)(?=<div class="jp-Cell jp-|</article>)',
            html,
            re.DOTALL,
        )
    )
    assert set(cells) == {"folded", "fails", "never", "cell-5", "table", "setup-heading"}
    plain = {name: re.sub("<[^>]*>", "", cell) for name, cell in cells.items()}
    assert re.search(r"<details[^>]*><summary>code</summary>", cells["folded"]) and "folded code 5" in plain["folded"]
    assert "<details" not in cells["fails"]
    assert "ZeroDivisionError" in plain["fails"] and "division by zero" in plain["fails"]
    assert "Traceback (most recent call last)" in plain["fails"] and "return 1 / x" in plain["fails"]
    assert "printed" in plain["never"] and "never printed" not in plain["never"]
    assert "unnamed" in plain["cell-5"] and "<th>name</th>" in cells["table"]
    assert "five = 5" in plain["setup-heading"]


def test_a_notebook_s_page_says_which_notes_use_which_cell(rich: Small) -> None:
    html = page(rich, "notebooks/heat")
    pattern = r'id="([\w-]+)"[^>]*><h2 class="weave-name"><a href="#\1"[^>]*>\1</a></h2><p class="weave-used">(.*?)</p>'
    used = dict(re.findall(pattern, html))
    links = {cell: set(re.findall(r'href="([^"]*/)"', text)) for cell, text in used.items()}
    heat, two, post = "../../notes/heat/", "../../notes/two/", "../../log/2024/01/02/first-entry/"
    assert links["decay"] == {heat, two, post} and links["setup"] == {heat}
    assert links["values"] == {heat, post, "../tags/"} and not links["words"]
    about = re.search(r'<p class="weave-about">(.*?)</p>', html)
    assert about and {heat, two, post} <= set(re.findall(r'href="([^"]*)"', about[1]))


def test_cells_can_be_linked_to_and_headings_are_in_the_table_of_contents(rich: Small) -> None:
    html = page(rich, "notebooks/heat")
    assert {"setup", "decay", "values", "words", "heat"} <= set(Loads(html).ids)
    folded = page(rich, "notebooks/tags")
    assert re.search(r'<h2 id="folded-section">', folded) and 'href="#folded-section"' in folded
    assert re.search(r'jp-CodeCell[^>]*id="folded"', folded) and '<a href="#folded">a cell</a>' in folded
    assert "<title>Heat - Small</title>" in html


# -- ledger and search


def test_the_ledger_lists_what_the_notes_claim(rich: Small) -> None:
    body = json.loads((rich.root / "site/assets/ledger.json").read_text("utf-8"))
    claims = {(claim["page"], claim["line"], claim["text"], claim["name"]) for claim in body["claims"]}
    assert claims == {
        ("docs/notes/heat.md", 8, "0.5", "rate"),
        ("docs/notes/heat.md", 13, "10 of 12", "heads"),
        ("docs/notes/two.md", 13, "5", "five"),
        ("docs/log/posts/first.md", 7, "0.5", "rate"),
    }
    assert all(claim["holds"] for claim in body["claims"])
    tests = {(theorem["page"], theorem["test"], theorem["summary"]) for theorem in body["theorems"]}
    assert tests == {
        ("docs/notes/heat.md", "tests/test_heat.py::test_cools", "A body cools."),
        ("docs/log/posts/first.md", "tests/test_heat.py::test_cools", "A body cools."),
    }
    html = page(rich, "ledger")
    assert "4 of 4 numbers on 3 pages hold; 2 references to theorems have a test." in html
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    assert sum("holds" in row and "notebooks/" in row and "/#value-" in row for row in rows) == 4


def test_search_finds_tex_and_prose_and_no_markup(rich: Small) -> None:
    index = json.loads((rich.root / "site/search/search_index.json").read_text("utf-8"))
    texts = {doc["location"]: doc["title"] + " " + doc["text"] for doc in index["docs"]}
    two, decay = texts["notes/two/"], texts["notes/heat/#on-alpha-decay"]
    assert "\\int_0^\\infty e^{-t}" in decay and "\\alpha" in decay
    assert "katex" not in "".join(texts.values()) and "tex-math" not in "".join(texts.values())
    assert "path d=" not in two and "clip" not in two and "A curve." in two
    assert "xmlns" not in "".join(texts.values()) and "\U000f0001" not in "".join(texts.values())
    assert any(location.startswith("notebooks/tags/") for location in texts)
    assert "jp-" not in "".join(texts.values())


# -- whole or not at all


def copy(site: Small, target: Path) -> Small:
    shutil.copytree(site.root, target / "copy", symlinks=True)
    return type(site)(target / "copy")


def test_two_clean_builds_in_two_folders_are_the_same_to_the_byte(rich: Small, tmp_path: Path) -> None:
    other = copy(rich, tmp_path)
    shutil.rmtree(other.root / ".cache")
    shutil.rmtree(other.root / "site")
    result = other.build()
    assert result.returncode == 0 and "tags.py runs" in result.stderr
    ours, theirs = tree(rich.root / "site"), tree(other.root / "site")
    assert sorted(ours) == sorted(theirs)
    assert [path for path in ours if ours[path] != theirs[path]] == []
    for path, data in ours.items():
        assert str(rich.root).encode() not in data and b"ipython-input" not in data, path
        assert not re.search(rb"/(?:home|root|Users|tmp)/", data) or path.startswith("assets/"), path


def test_a_failing_build_leaves_the_last_good_site(rich: Small, tmp_path: Path) -> None:
    """Also where only MkDocs itself has a warning, which --strict takes for an error."""
    site = copy(rich, tmp_path)
    good = tree(site.root / "site")
    site.replace("docs/notes/two.md", "[5]", "[6]")
    assert site.build().returncode == 1 and tree(site.root / "site") == good
    site.replace("docs/notes/two.md", "[6]", "[5]")
    site.replace("mkdocs.yml", "theme:", "nav: [{Gone: gone.md}]\ntheme:")
    result = site.run("mkdocs", "build", "--strict")  # -q would hide the warning from --strict too
    assert result.returncode == 1 and tree(site.root / "site") == good, result.stderr
    assert clean_of_temporaries(site)
    site.replace("mkdocs.yml", "nav: [{Gone: gone.md}]\n", "")
    assert site.build().returncode == 0 and tree(site.root / "site") == good


def clean_of_temporaries(site: Small) -> bool:
    left = [path for path in site.root.iterdir() if path.name.startswith(".") and path.name != ".cache"]
    left += list((site.root / ".cache").rglob("*.part")) + list((site.root / "site").rglob("*.part"))
    return not left or pytest.fail(f"left over: {left}")


def processes_in(site: Small) -> list[int]:
    """Those whose working folder is the site's: the build, its kernels, and node."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(folder / "cwd")) == site.root:
                found.append(int(folder.name))
        except OSError:
            continue
    return found


SLOW = """# %% a
import pathlib, time
from weave import claim
time.sleep({seconds})
claim(x={number})
"""


@dataclass(frozen=True)
class Unbuilt:
    """A site to be built, with notebooks that take a while and have not run; an older site is there."""

    site: Small
    good: dict[str, bytes]
    """What its build is to give."""
    cache: Path
    """What has run, once it is built."""


@pytest.fixture(scope="module")
def unbuilt(rich: Small, tmp_path_factory: pytest.TempPathFactory) -> Unbuilt:
    site = copy(rich, tmp_path_factory.mktemp("unbuilt"))
    for number in range(2):
        site.write(f"code/notebooks/slow_{number}.py", SLOW.format(seconds=0.4, number=number))
    links = "\n\n".join(f"[{number}](../code/notebooks/slow_{number}.py#=x)" for number in range(2))
    site.write("docs/slow.md", f"# Slow\n\n{links}\n")
    built = copy(site, tmp_path_factory.mktemp("built"))
    assert built.build().returncode == 0
    return Unbuilt(site, tree(built.root / "site"), built.root / ".cache")


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("moment", "sent"),
    [
        ("/slow_0.py runs (", signal.SIGINT),
        ("/slow_0.py runs (", signal.SIGKILL),
        ("Building page notes/two", signal.SIGKILL),
        ("Running `post_build` event from plugin 'weave'", signal.SIGKILL),
    ],
)
def test_a_build_stopped_at_any_moment_is_no_harm(
    unbuilt: Unbuilt, tmp_path: Path, moment: str, sent: signal.Signals
) -> None:
    """The last good site stays or the new one is there, no process is left, and the next build is right."""
    site = copy(unbuilt.site, tmp_path)
    if "runs" not in moment:
        shutil.copytree(unbuilt.cache, site.root / ".cache", dirs_exist_ok=True)
    before = tree(site.root / "site")
    process = site.start("mkdocs", "build", "--strict", "-v")
    assert process.stderr and any(moment in line for line in process.stderr)
    if "runs" in moment:
        wait_for(lambda: len(processes_in(site)) > 2)
    process.send_signal(sent)
    process.communicate(timeout=60)
    assert process.returncode != 0 or "post_build" in moment
    wait_for(lambda: processes_in(site) == [])
    assert tree(site.root / "site") in (before, unbuilt.good)
    result = site.build()
    assert result.returncode == 0, result.stderr
    assert tree(site.root / "site") == unbuilt.good
    assert clean_of_temporaries(site)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_two_builds_at_once_are_both_right(unbuilt: Unbuilt, tmp_path: Path) -> None:
    site, good = copy(unbuilt.site, tmp_path), unbuilt.good
    first, second = (site.start("mkdocs", "build", "--strict", "-q") for _ in range(2))
    for process in (first, second):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert tree(site.root / "site") == good
    assert clean_of_temporaries(site)
    result = site.build()
    assert "runs" not in result.stderr and tree(site.root / "site") == good


def test_a_build_begun_during_another_sees_its_own_state(unbuilt: Unbuilt, tmp_path: Path) -> None:
    """Prose is edited while a build runs; the next build, begun before the first ends, does not take its pages."""
    site = copy(unbuilt.site, tmp_path)
    shutil.copytree(unbuilt.cache, site.root / ".cache", dirs_exist_ok=True)
    first = site.start("mkdocs", "build", "--strict", "-q")
    site.replace("code/notebooks/tags.py", "# # Tags", "# # Marks")
    second = site.start("mkdocs", "build", "--strict", "-q")
    assert [process.communicate(timeout=120) and process.returncode for process in (first, second)] == [0, 0]
    result = site.build()
    assert (
        result.returncode == 0
        and "Marks" in page(site, "notebooks/tags")
        and "Tags" not in page(site, "notebooks/tags")
    )


def test_nothing_changed_no_notebook_runs_and_nothing_differs(rich: Small) -> None:
    before = tree(rich.root / "site")
    result = rich.build()
    assert result.returncode == 0 and result.stderr == "" and tree(rich.root / "site") == before


def test_a_damaged_page_in_the_cache_is_made_again(rich: Small, tmp_path: Path) -> None:
    site = copy(rich, tmp_path)
    good = tree(site.root / "site")
    kept = [path for path in (site.root / ".cache/weave/pages").rglob("*") if path.is_file()]
    assert len(kept) == 2
    for path, damage in zip(kept, (lambda data: data[: len(data) // 2], lambda data: data + b"x"), strict=True):
        path.write_bytes(damage(path.read_bytes()))
    assert site.build().returncode == 0 and tree(site.root / "site") == good


def test_it_is_a_git_commit_s_date_that_pages_carry(rich: Small, tmp_path: Path) -> None:
    """Without SOURCE_DATE_EPOCH, as on an author's machine: the sitemap says when the commit was made."""
    site = copy(rich, tmp_path)
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    date = {**os.environ, "GIT_COMMITTER_DATE": "2021-03-04T05:06:07Z", "GIT_AUTHOR_DATE": "2021-03-04T05:06:07Z"}
    subprocess.run([*git, "init", "-q"], cwd=site.root, check=True)
    subprocess.run([*git, "add", "docs"], cwd=site.root, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], cwd=site.root, check=True, env=date)
    env = {name: value for name, value in site.env.items() if name != "SOURCE_DATE_EPOCH"}
    script = (
        "from mkdocs.commands.build import build; from mkdocs.config import load_config; c = load_config(); build(c)"
    )
    script += "; assert c.site_dir == str(__import__('pathlib').Path('site').resolve())"  # as it was, for gh-deploy
    subprocess.run(["python", "-c", script], cwd=site.root, check=True, env=env)
    assert "<lastmod>2021-03-04</lastmod>" in (site.root / "site/sitemap.xml").read_text()


def test_a_pdf_dropped_beside_a_note_is_shown_with_a_link_to_it(small: Small) -> None:
    small.write("docs/notes/heat.pdf", b"%PDF-1.4\n%%EOF\n")
    assert small.build().returncode == 0
    html = page(small, "notes/heat")
    assert '<object data="../heat.pdf" type="application/pdf" aria-label="The same, by hand."' in html
    assert html.count('<a href="../heat.pdf" download>heat.pdf</a>') == 2, (
        "in its place where it cannot be shown, and below"
    )
    assert (small.root / "site/notes/heat.pdf").read_bytes().startswith(b"%PDF")
    small.replace("docs/notes/heat.md", "## On", "![Page 1 of my notes.](heat.pdf)\n\n## On")
    assert small.build().returncode == 0 and "By hand" not in page(small, "notes/heat")
