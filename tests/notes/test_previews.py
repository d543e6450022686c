"""Notes as GitHub and Obsidian show them: plain Markdown without raw site syntax.

Rendered by GitHub's own parser (cmark-gfm). Its support for formulas is weaker than it seems: it parses Markdown before
it looks for dollar signs, so a backslash before punctuation is lost, and `_` may start emphasis. Obsidian, on the other
hand, does not support the other forms, $`x`$ and ```math. TeX between dollar signs survives both if it spells out
`\\thinspace` for `\\,`, `\\Vert` for `\\|`, `\\lbrace` for `\\{`, `\\cr` for `\\\\`, and `)_ {i}` for `)_{i}`.

Accepted exceptions, because they read well enough and improve the site:

- `[[term]]` shows its brackets on GitHub; Obsidian follows it.
- An embedded cell is an image that neither can show: its caption appears in place of the missing picture.
- `[](#eq-name)`, the number of an equation, is empty there; sentences make sense without it.
- The macros of mkdocs.yml (`\\R`, `\\tr`, …) show by their names; spelled out they would make the sources unreadable.
- The glossary's `:   meaning` is a separate line below the word, with its colon.
- `::: module` in the reference, which is generated, appears below a heading that says the same.
- The site's own elements, `<kronecker-builder>`, show the sentence inside them.
"""

from __future__ import annotations

import re
from collections import Counter
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import cmarkgfm
import pytest
from cmarkgfm.cmark import Options
from markdown import Markdown
from mkdocs.utils import meta

from weave.note.math import MathExtension
from weave.source.markdown import prose

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
VOID = {"area", "br", "col", "hr", "img", "input", "link", "meta", "wbr"}
RAW = {
    "!!!": r"^\s*!!! ",
    "???": r"^\s*\?\?\?",
    ":::": r"^\s*:::",
    "tabs": r"^\s*=== ",
    "attributes": r"\{ ?[.#:][\w-]",
    "a footnote's mark": r"\[\^",
    "an alert": r"\[!\w+\][^\n]",
    "HTML": r"<\w+[^>]*>|markdown=|\bmarkdown>",
    "a link": r"\]\(",
    "a table": r"^\s*\|",
    "a heading": r"^#{1,6} ",
    "a task": r"\[[ xX]\] ",
    "a fence": r"```|~~~",
}
ACCEPTED = {("docs/pages/reference.md", ":::")}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


class Shown(HTMLParser):
    """The text that a reader sees in HTML, outside of code; and the elements that are not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.open, self.unclosed = "", [], []
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.feed(html)
        self.close()
        self.unclosed += self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.links += [value or "" for key, value in attrs if key in ("href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.links += [value or "" for key, value in attrs if key in ("href", "src")]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unclosed.append(tag)

    def handle_data(self, data: str) -> None:
        if not {"code", "pre"} & set(self.open):
            self.text += data


def rendered(text: str) -> str:
    markdown, _ = meta.get_data(text)
    options = Options.CMARK_OPT_FOOTNOTES | Options.CMARK_OPT_UNSAFE
    return cmarkgfm.github_flavored_markdown_to_html(markdown, options=options)


def broken(path: str, text: str) -> list[str]:
    """Return what a preview of a page shows wrong."""
    markdown, _ = meta.get_data(text)
    html = rendered(text)
    shown = Shown(html)
    problems = [f"{tag} is not closed" for tag in shown.unclosed]
    for what, pattern in RAW.items():
        for match in re.finditer(pattern, without_formulas(shown.text), re.MULTILINE):
            if (path, what) not in ACCEPTED:
                line = shown.text[match.start() : match.start() + 40].split("\n")[0]
                problems.append(f"shows {what}: {line}")
    plain = prose(markdown)
    for what, pattern, tags in (
        ("headings", r"^#{1,6} ", [f"h{i}" for i in range(1, 7)]),
        ("tasks", r"^[ >]*(?:[-*+]|\d+[.)]) +\[[ xX]\] ", ["input"]),
        ("rows of tables", r"^[ >]*\|(?![-|: ]+$)", ["tr"]),
        ("folds", r"^ *<details", ["details"]),
    ):
        written, seen = len(re.findall(pattern, plain, re.MULTILINE)), sum(shown.tags[tag] for tag in tags)
        if written != seen:
            problems.append(f"{written} {what} are written, {seen} are shown")
    return problems + formulas_harmed(markdown, html) + links_astray(path, shown.links)


def without_formulas(text: str) -> str:
    return re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", "", text, flags=re.DOTALL)


def formulas_harmed(markdown: str, html: str) -> list[str]:
    """Return formulas that change when a parser takes them for text."""
    extension = MathExtension()
    Markdown(extensions=[extension, "pymdownx.superfences", "tables"]).convert(markdown)
    sources = Counter(squeezed(re.sub(r"\n[ >]+", "\n", formula.source)) for formula in extension.formulas)
    there = squeezed(unescape(re.sub(r"</?(?:p|br|blockquote)[^>]*>", "", html)))
    harmed = [source for source, count in sources.items() if source[1] != "`" and there.count(source) < count]
    return [f"GitHub breaks {source}" for source in harmed if not source.startswith("```")]


def squeezed(text: str) -> str:
    return " ".join(text.split())


def links_astray(path: str, links: list[str]) -> list[str]:
    problems = []
    for link in links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc or not parts.path:
            continue
        if parts.path.startswith("/") or not (ROOT / path).parent.joinpath(unquote(parts.path)).exists():
            problems.append(f"leads nowhere: {link}")
    return problems


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_previews_well(page: Path) -> None:
    assert broken(name(page), page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('!!! note "T"\n    x', "shows !!!"),
        ('??? note "T"\n    x', "shows ???"),
        ("::: module", "shows :::"),
        ("Words { .class }", "shows attributes"),
        ("A note[^gone].", "shows a footnote's mark"),
        ("> [!NOTE] A title", "shows an alert"),
        ("Words\n|a|b|\n|c|d|", "shows a table"),
        ("1. a\n\n        | a | b |\n        |---|---|", "rows of tables"),
        ("[a](b c.md)", "shows a link"),
        ("[a](gone.md) and ![b](/x.png)", "leads nowhere: gone.md"),
        ("[a](/index.md)", "leads nowhere: /index.md"),
        ("<div>\n\nwords", "div is not closed"),
        ("<details>\n<summary>S</summary>\nwords", "details is not closed"),
        ("$a\\,b$", "GitHub breaks $a\\,b$"),
        ("$(a)_{i}$ and $(b)_{j}$", "GitHub breaks $(a)_{i}$"),
        ("$$\na\n- b\n$$", "GitHub breaks $$ a - b $$"),
        ("$$\na \\\\\nb\n$$", "GitHub breaks"),
        ("#No heading\n\nx\n\n    # code\n\n# A", ""),
    ],
)
def test_what_previews_badly_is_found(text: str, message: str) -> None:
    problems = broken("docs/notes/x.md", text)
    assert (
        any(problem.startswith(message) or message in problem for problem in problems) if message else problems == []
    ), problems


@pytest.mark.parametrize(
    "text",
    [
        "> [!NOTE]\n> **T**\n>\n> x $a_{i}$",
        "1. a\n\n    <details>\n    <summary>S</summary>\n\n    $`a\\,b`$\n\n"
        "    ```python\n    x = 1\n    ```\n\n    </details>\n",
        "```math\na \\\\\nb\n```",
        "`!!! x` and\n\n```text\n!!! x\n[^1]\n```",
        "A[^1].\n\n[^1]: Note.",
        "- [ ] a\n- [x] b",
        "$a\\thinspace b$ and $(a)_ {i}$ and $(b)_ {j}$",
    ],
)
def test_what_previews_well_is_not(text: str) -> None:
    assert broken("docs/notes/x.md", text) == []
