"""Prints all notes as one PDF, with Chromium and from the built site: `make pdf`.

Links between notes stay links within the PDF. Links to the rest of the site lead to its address (SITE_URL); without
one they become text.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from mkdocs.config import load_config
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, NameObject
from tqdm import tqdm

ROOT = Path(__file__).parents[2]
NOWHERE = "https://site.invalid/"
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FOOTER = (
    '<div style="font: 8px serif; width: 100%; text-align: center; color: #555">'
    '<span class="title"></span> · <span class="pageNumber"></span></div>'
)


def notes(nav: Any) -> list[str]:
    """Return the notes of a mkdocs.yml as ``notes/x``, in the order of its navigation."""
    if isinstance(nav, str):
        return [nav.removesuffix(".md")] if nav.startswith("notes/") else []
    parts = nav.values() if isinstance(nav, dict) else nav
    return [name for part in parts for name in notes(part)]


def print_notes(site: Path, names: list[str], address: str) -> list[bytes]:
    """Return each note as Chromium prints it; requests to the site's address are answered from its folder.

    Raises:
        SystemExit: There is no browser, or a note is not in the folder.
    """
    from playwright.sync_api import Route, sync_playwright

    browsers = [path for name in BROWSERS if (path := shutil.which(name))]
    if not browsers:
        raise SystemExit(f"make pdf: no browser on this machine; install one of {', '.join(BROWSERS)}")

    def answer(route: Route) -> None:
        path = site / route.request.url.removeprefix(address).partition("?")[0].partition("#")[0]
        path = path / "index.html" if path.is_dir() else path
        if route.request.url.startswith(address) and path.is_file():
            route.fulfill(body=path.read_bytes(), content_type=_TYPES.get(path.suffix, "application/octet-stream"))
        else:
            route.abort()

    pages = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browsers[0], args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(color_scheme="light")
        page.route("**/*", answer)
        for name in tqdm(names, desc="printing", unit="note", disable=not sys.stderr.isatty()):
            if not (site / name / "index.html").is_file():
                raise SystemExit(f"make pdf: {site.name}/{name}/ is not there; run make site")
            page.goto(f"{address}{name}/", wait_until="load")
            page.evaluate("document.querySelectorAll('article details.weave-code').forEach((code) => code.remove())")
            page.evaluate("document.querySelectorAll('article details').forEach((part) => { part.open = true; })")
            page.evaluate("document.fonts.ready.then(() => null)")
            options = {"format": "A4", "print_background": True, "prefer_css_page_size": True, "tagged": True}
            footer = {"display_header_footer": True, "header_template": "<span></span>", "footer_template": _FOOTER}
            pages.append(page.pdf(outline=True, **options, **footer))
        browser.close()
    return pages


def join(parts: list[bytes], names: list[str], address: str, title: str, author: str) -> bytes:
    """Return one PDF with an outline, in which a link from one part to another stays inside."""
    writer = PdfWriter()
    starts = {}
    for name, part in zip(names, parts, strict=True):
        starts[f"{address}{name}/"] = len(writer.pages)
        writer.append(PdfReader(io.BytesIO(part)))
    for page in writer.pages:
        links = [link.get_object() for link in page.get("/Annots", ())]
        for link in links:
            uri = str(link.get("/A", {}).get("/URI", ""))
            start = starts.get(uri.partition("#")[0])
            if start is not None:  # of a note, this one or another
                del link["/A"]
                link[NameObject("/Dest")] = ArrayObject([writer.pages[start].indirect_reference, NameObject("/Fit")])
            elif uri.startswith(NOWHERE):
                link.clear()
        if links:
            kept = [link for link in page["/Annots"] if link.get_object()]
            page[NameObject("/Annots")] = ArrayObject(kept)
    writer.add_metadata({"/Title": title, **({"/Author": author} if author else {})})
    target = io.BytesIO()
    writer.write(target)
    return target.getvalue()


def main() -> None:
    os.chdir(ROOT)
    config = load_config("mkdocs.yml")
    site = Path(config.site_dir)
    address = config.site_url or NOWHERE
    names = notes(config.nav)
    author = str((config.extra.get("author") or {}).get("name", ""))
    whole = join(print_notes(site, names, address), names, address, config.site_name, author)
    target = site.parent / "notes.pdf"
    target.write_bytes(whole)
    print(f"{target.name}: {len(names)} notes on {len(PdfReader(io.BytesIO(whole)).pages)} pages")


if __name__ == "__main__":
    main()
