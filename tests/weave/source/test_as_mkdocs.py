"""Weave's own front matter and addresses, which it needs without MkDocs, agree with MkDocs."""

from hypothesis import given
from hypothesis import strategies as st
from mkdocs.utils import get_relative_url, meta

from weave.source.front_matter import split
from weave.source.layout import relative_url

LINES = st.sampled_from([" ", "# A", "\r", "text", "- x", "\ufeff---"]) | st.sampled_from(
    ["---", "--- ", "...", "title: A", "a-b: [1, 2]", "    more", "\tmore", "key:", "a: b: c", "date: 2026-11-31", ""]
)
ENDS = st.sampled_from(["\n", "\n", "\r\n", "\r"])
TEXTS = st.lists(st.tuples(LINES, ENDS).map("".join), max_size=8).map("".join)
FOLDERS = st.lists(st.sampled_from(["notes", "a", "log", "..", ".", "v1.2"]), max_size=3).map("/".join)
URLS = st.builds(
    lambda folder, name: f"{folder}/{name}" if folder else name,
    FOLDERS,
    st.sampled_from(["", "index.html", "a/", "x.css", "404.html"]),
)


@given(TEXTS)
def test_front_matter_is_cut_off_where_mkdocs_cuts(text: str) -> None:
    assert split(text) == meta.get_data(text)


@given(URLS, URLS)
def test_an_address_leads_where_mkdocs_leads(url: str, page: str) -> None:
    assert relative_url(url, page) == get_relative_url(url, page)
