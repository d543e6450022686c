"""The HTML that a cell shows, made fit to stand in a page: it ends where the cell ends, and loads nothing.

It is parsed as a browser would parse it and written anew, so that what is left open is closed, and what closes too much
closes nothing. What would be lost on a page in silence is not shown but told: see `_refused`.

Styles and scripts are treated alike on a note and on the notebook's page. A ``<style>`` is kept and holds for this
output alone (``@scope``). A ``<script>`` with all its code in itself is kept too, and the page's policy allows it by
its hash: without it, what it draws would be an empty box. One that loads code from elsewhere could not run.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape
from typing import Any
from xml.etree.ElementTree import Element

import tinycss2
from bleach.html5lib_shim import HTMLParser

from weave.note import cell_tex
from weave.note.cell_tex import NotShown

_VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"]
)
_RAW = frozenset(("script", "style"))
_DROPPED = frozenset(["title", "meta", "noscript", "noframes", "noembed"])  # a browser shows nothing of them
_FRAMES = frozenset(["iframe", "frame", "object", "embed", "applet", "portal"])
_VERBATIM = frozenset(
    ["pre", "code", "samp", "kbd", "textarea", "script", "style", "svg", "math", "tex-math", "option", "xmp"]
)
_ATTRIBUTE = re.compile(r"[^\s\"'<>/=\x00-\x1f]+")
_LOADED = frozenset(["src", "srcset", "poster", "background", "data"])
_ROUNDS = 5
_SIZE = re.compile(r"\d+(?:\.\d+)?")
_ELSEWHERE = re.compile(r"\s*(?!data:|#)\S", re.IGNORECASE)
_CSS_ELSEWHERE = re.compile(r"url\(\s*['\"]?\s*(?!data:|#)[^'\"\s)]|@import", re.IGNORECASE)
_LOADS_CODE = re.compile(r"\b(?:from|import)\s*\(?\s*[\"'`](?!data:)|\brequire(?:js)?\s*[.(]|\bimportScripts\b")
_WEB = re.compile(r"https?:|mailto:|data:|#", re.IGNORECASE)


def asks_elsewhere(address: str, css: str = "") -> bool:
    """Return whether an address, or a rule of a style, makes a browser load something that is not in it."""
    return bool(_ELSEWHERE.match(address) or _CSS_ELSEWHERE.search(css))


def size(metadata: dict[str, Any]) -> str:
    """Return the attributes of an ``<img>`` for the size that ``Image(…, width=…, height=…)`` was given."""
    width, height = (str(metadata.get(name) or "") for name in ("width", "height"))
    width, height = (text if _SIZE.fullmatch(text) else "" for text in (width, height))
    if width and height:
        return f' style="width:{width}px;aspect-ratio:{width}/{height}"'
    return f' style="width:{width}px"' if width else f' style="width:auto;height:{height}px"' if height else ""


@lru_cache(maxsize=256)
def isolated(html: str, name: str, typeset: bool = True) -> str:
    """Return HTML that ends with its last character and touches nothing outside.

    Args:
        html: Any text.
        name: The id of the element that it will stand in.
        typeset: Whether formulas in the text (``$x$``) are set, as Jupyter does.

    Raises:
        NotShown: It needs something that no page has.
    """
    # What a parser makes of a broken text may be another tree once it is written and parsed again, as the browser does.
    for _ in range(_ROUNDS):
        before, html = html, _Writer().inside(_parsed(html))
        if html == before:
            return _Writer(name, typeset).inside(_parsed(html))
    raise NotShown("shows HTML that is too broken to be read in one way only; correct it")


def _parsed(html: str) -> Element:
    return HTMLParser(namespaceHTMLElements=False).parseFragment(html)


class _Writer:
    """Writes the elements of one output; without the ``name`` of what they stand in, styles are as they were."""

    def __init__(self, name: str = "", typeset: bool = False) -> None:
        self.name, self.typeset = name, typeset

    def inside(self, element: Element, verbatim: bool = False) -> str:
        """Return what an element contains."""
        parts = [self.text(element.text, verbatim)]
        for child in element:
            if isinstance(child.tag, str):  # no comment
                parts.append(self.element(child, verbatim))
            parts.append(self.text(child.tail, verbatim))
        return "".join(parts)

    def text(self, text: str | None, verbatim: bool) -> str:
        text = cell_tex.printable(text or "")
        if verbatim or not self.typeset:
            return escape(text, quote=False)
        return cell_tex.typeset(text)

    def element(self, element: Element, verbatim: bool) -> str:
        tag = str(element.tag).rpartition("}")[2]
        if tag in _DROPPED:
            return ""
        if problem := _refused(tag, element):
            raise NotShown(problem)
        attributes = "".join(_attribute(name, value) for name, value in element.attrib.items())
        if tag == "style":
            css = _balanced(element.text or "")
            return f"<style{attributes}>{f'@scope (#{self.name}) {{{css}}}' if self.name else css}</style>"
        if tag == "script":
            return f"<script{attributes}>{element.text or ''}</script>"
        if element.tag in ("plaintext", "xmp", "listing"):  # nothing ends a <plaintext>
            tag = "pre"
        if tag in _VOID:
            return f"<{tag}{attributes}>"
        inside = self.inside(element, verbatim or tag in _VERBATIM)
        if tag in ("pre", "textarea") and inside.startswith("\n"):
            inside = f"\n{inside}"  # a browser leaves out the first
        return f"<{tag}{attributes}>{inside}</{tag}>"


def _attribute(name: str, value: str) -> str:
    space, _, plain = name.rpartition("}")
    plain = f"xlink:{plain}" if space.endswith("xlink") else plain
    return f' {plain}="{escape(value)}"' if _ATTRIBUTE.fullmatch(plain) else ""


def _refused(tag: str, element: Element) -> str:
    """Return what is wrong with an element that would be dead, empty or out of place on a page; "" for any other."""
    if tag in _FRAMES:
        return f"shows HTML with <{tag}>, which pages do not have; show what is in it, or link to it"
    if tag == "base":
        return "shows HTML with <base>, which would change the page's links; leave it out"
    if tag == "script" and element.tag != tag:
        return "shows SVG with a script; put the script behind the <svg>"
    if tag == "script" and (element.get("src") or _LOADS_CODE.search(element.text or "")):
        return "shows HTML with a script that loads code, which pages do not allow; show a picture, or put the code in"
    if tag == "style" and asks_elsewhere("", element.text or ""):
        return "shows HTML with a <style> that loads a file; put what it needs into it"
    for attribute, value in element.attrib.items():
        name = attribute.rpartition("}")[2]
        shown = value if len(value) < 60 else f"{value[:60]}…"
        if name.startswith("on"):
            return f"shows HTML with {name}=…, which the page's policy refuses; use addEventListener in a <script>"
        if name == "style" and asks_elsewhere("", value):
            return f"shows HTML with style='{shown}', which loads a file; pages load none"
        if name in _LOADED or (name == "href" and tag not in ("a", "area")):
            if asks_elsewhere(value):
                return f"shows HTML that loads '{shown}'; a page loads nothing: put it into the HTML (data:…)"
        elif name == "href" and value.strip() and not _WEB.match(value.strip()):
            return f"shows a link to '{shown}', which leads nowhere from a page; link to it in the note instead"
    return ""


def _balanced(css: str) -> str:
    """Return the rules of a style sheet, without those whose brackets do not match."""
    rules = tinycss2.parse_stylesheet(css, skip_comments=True, skip_whitespace=True)
    css = "".join(rule.serialize() for rule in rules if not _broken(rule))
    return re.sub("<(?=[a-zA-Z/!?])", r"\\3c ", css)  # no tag begins in it


def _broken(rule: Any) -> bool:
    if rule.type == "error" or (rule.type == "at-rule" and rule.lower_at_keyword in ("charset", "namespace")):
        return True
    parts = [*(getattr(rule, "prelude", None) or ()), *(getattr(rule, "content", None) or ())]
    return any(map(_broken, [*parts, *(getattr(rule, "arguments", None) or ())]))
