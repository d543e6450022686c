"""The ledger: every claim and theorem of the site with what backs it, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from html import escape

from weave.book.book import Book
from weave.note.numbers import show
from weave.note.page import Claim, Theorem


def claims(site: Book) -> list[Claim]:
    everything = (claim for page in site.pages.values() for claim in page.claims)
    return sorted(everything, key=lambda claim: (claim.page, claim.line, claim.name))


def theorems(site: Book) -> list[Theorem]:
    everything = (theorem for page in site.pages.values() for theorem in page.theorems)
    return sorted(everything, key=lambda theorem: (theorem.page, theorem.line, theorem.test))


def as_json(site: Book) -> str:
    """The content of the ledger's page, for machines."""
    body = {
        "claims": [asdict(claim) for claim in claims(site)],
        "theorems": [asdict(theorem) for theorem in theorems(site)],
    }
    return json.dumps(body, indent=1, ensure_ascii=False) + "\n"


def as_html(site: Book, url: Callable[[str], str], json_url: str) -> str:
    """The ledger's page: two tables.

    Args:
        url: Turns a file of the repository into a link from the ledger's page.
        json_url: The link to `as_json`.
    """
    all_claims, all_theorems = claims(site), theorems(site)
    good = sum(claim.holds for claim in all_claims)
    notes = len({claim.page for claim in all_claims})
    parts = [
        f"<p>{good} of {len(all_claims)} numbers on {notes} pages hold; "
        f"{len(all_theorems)} references to theorems have a test. "
        f'The same for machines: <a href="{json_url}">ledger.json</a>.</p>',
        "<table-filter></table-filter>",
        "<h2 id='numbers'>Numbers</h2>",
        _table(
            ["note", "says", "computed", "allows", "cell", ""],
            [
                [
                    _page_link(site, claim.page, claim.line, url),
                    escape(claim.text),
                    show(claim.value),
                    escape(claim.tolerance),
                    f'<a href="{url(claim.notebook)}#value-{claim.name}"><code>{claim.name}</code></a>',
                    "holds" if claim.holds else "<strong>does not hold</strong>",
                ]
                for claim in all_claims
            ],
        ),
        "<h2 id='theorems'>Theorems</h2>",
        _table(
            ["note", "statement", "test"],
            [
                [
                    _page_link(site, theorem.page, theorem.line, url),
                    escape(theorem.summary or theorem.text),
                    f'<a href="{url(theorem.test.partition("::")[0])}#{theorem.test.partition("::")[2]}">'
                    f"<code>{theorem.test.partition('::')[2]}</code></a>",
                ]
                for theorem in all_theorems
            ],
        ),
    ]
    return "\n".join(parts)


def _page_link(site: Book, page: str, line: int, url: Callable[[str], str]) -> str:
    return f'<a href="{url(page)}">{escape(site.pages[page].title or page)}</a>,&nbsp;line&nbsp;{line}'


def _table(header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{name}</th>" if name else "<td></td>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="weave-html" tabindex="0" role="group" aria-label="table"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
