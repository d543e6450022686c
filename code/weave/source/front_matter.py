"""What an author writes as YAML, held against a schema: the front matter of pages, and our part of mkdocs.yml.

The schemas (``schemas/*.json``) are those that editors complete and check by; their descriptions say what is allowed.
"""

from __future__ import annotations

import json
import re
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml
from jsonschema import Draft202012Validator, ValidationError

from weave.source.problem import Problem, nearest

if TYPE_CHECKING:
    from weave.source.layout import Layout

_CHECKED = re.compile(r"\ufeff?---[ \t]*\n(?P<yaml>.*?\n)?(?:\.{3}|-{3})[ \t]*\n", re.DOTALL)
_UNCLOSED = re.compile(r"\ufeff?---[ \t]*\n[\w-]+:")


class _Loader(yaml.SafeLoader):
    """Dates stay text, as JSON has them; what MkDocs alone knows (``!ENV``) is nothing that we check."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_multi_constructor("", lambda *_: None)


def problems(layout: Layout, path: str, text: str) -> list[Problem]:
    """What is wrong above a page's text."""
    found = _CHECKED.match(text)
    if not found:
        what = "the front matter does not end; put --- below it, on a line of its own"
        return [Problem(path, 1, what)] if _UNCLOSED.match(text) else []
    problems, data = _check(_kind(path), path, found["yaml"] or "", 2)
    if problems:
        return list(problems)
    notes = {one.stem for one in (layout.root / path).parent.glob("*.md")}
    return [
        Problem(path, line, f"needs '{name}', which is no note beside it; {nearest(name, notes - own, 'its folder')}")
        for name, line in data.get("needs", [])
        if name not in notes - (own := {Path(path).stem})
    ]


def mkdocs_yml(layout: Layout) -> list[Problem]:
    """What is wrong with our part of mkdocs.yml."""
    path = layout.root / "mkdocs.yml"
    return list(_check("mkdocs", path.name, path.read_text(encoding="utf-8"), 1)[0]) if path.is_file() else []


def _kind(path: str) -> str:
    """The schema for a page's front matter, by its folder."""
    folders = PurePosixPath(path).parent.parts
    return "note" if folders[-1:] == ("notes",) else "log-entry" if "posts" in folders else "page"


@cache
def schema(kind: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "schemas" / f"{kind}.json").read_bytes())


@lru_cache(maxsize=256)
def _check(kind: str, path: str, text: str, first: int) -> tuple[tuple[Problem, ...], dict[str, Any]]:
    """What is wrong with a text, whose first line is line ``first`` of its file; and what else is to be looked at."""
    try:
        node = yaml.compose(text, _Loader)
        data = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = f"no YAML: {error.problem or error.context}; put a text with a colon or a mark at its start in quotes"
        return (Problem(path, first + (mark.line if mark else 0), what),), {}
    except yaml.YAMLError as error:
        return (Problem(path, first, f"no YAML: {str(error).splitlines()[0]}; correct it"),), {}
    if node is None:
        data = {}
    if not isinstance(data, dict):
        return (Problem(path, first, "no front matter: write lines of key: value between the two ---"),), {}
    validator = Draft202012Validator(schema(kind), format_checker=Draft202012Validator.FORMAT_CHECKER)
    errors = [said for error in validator.iter_errors(data) for said in _said(error, kind, text, node)]
    problems = [Problem(path, first + line, what) for line, what in sorted(set(errors))]
    needs = (
        [] if problems else [(one, first + _find(node, ["needs", i])[0]) for i, one in enumerate(data.get("needs", []))]
    )
    return tuple(problems), {"needs": needs}


def _said(error: ValidationError, kind: str, text: str, node: yaml.Node | None) -> list[tuple[int, str]]:
    """Lines, counted from 0, and what is wrong with them."""
    path, here, instance, expected = [*error.absolute_path], error.schema, error.instance, error.validator_value
    assert isinstance(here, dict)
    names = [part for part in path if isinstance(part, str)]
    inside = f"'{names[-1]}'" if names else schema(kind)["title"]
    allowed = here.get("properties", {})
    if error.validator == "additionalProperties":
        return [
            (_find(node, [*path, key])[0], f"no key '{key}' is known here; {nearest(str(key), allowed, inside)}")
            for key in instance  # type: ignore[union-attr]
            if key not in allowed
        ]
    line, value = _find(node, path)
    if error.validator == "required":
        missing = [key for key in expected if key not in instance]  # type: ignore[union-attr, operator]
        return [(line, f"{inside} lacks '{key}'; add {key}: {allowed[key]['description']}") for key in missing]
    given = " ".join(text[value.start_mark.index : value.end_mark.index].split()) if value else ""
    given = given if len(given) <= 60 else f"{given[:59]}…"
    said = f"{inside} cannot be {given}" if given else f"{inside} says nothing"
    return [(line, f"{said}; write {here.get('description', 'lines of key: value')}")]


def _find(node: yaml.Node | None, path: list[Any]) -> tuple[int, yaml.Node | None]:
    """Where a value or its key stands (counted from 0), and the value."""
    line = node.start_mark.line if node else 0
    for part in path:
        if isinstance(node, yaml.MappingNode):
            key, node = next(((k, v) for k, v in node.value if k.value == str(part)), (node, None))
            line = key.start_mark.line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line
    return line, node


# -- reading it

_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
# As MkDocs finds it: YAML between lines of dashes, or else lines of "Key: value" above the first empty line.
_YAML = re.compile(r"-{3}[ \t]*\n(.*?\n)(?:\.{3}|-{3})[ \t]*\n", re.DOTALL | re.UNICODE)
_KEY = re.compile(r"[ ]{0,3}(?P<key>[A-Za-z0-9_-]+):\s*(?P<value>.*)")
_MORE = re.compile(r"([ ]{4}|\t)(\s*)(?P<value>.*)")


def split(text: str) -> tuple[str, dict[str, Any]]:
    """The Markdown below a page's front matter, and the front matter, exactly as MkDocs tells them apart."""
    if match := _YAML.match(text):
        try:
            data = yaml.safe_load(match[1])
        except Exception:  # as MkDocs does: what is wrong with it, `problems` says
            return text, {}
        return (text[match.end() :].lstrip("\n"), data) if isinstance(data, dict) else (text, {})
    data, key, lines = {}, "", re.split(r"\r\n|\r|\n", text)
    while lines:
        if not lines[0].strip():
            lines.pop(0)
            break
        if match := _KEY.match(lines[0]):
            key = match["key"].lower().strip()
            data[key] = f"{data[key]} {match['value'].strip()}" if key in data else match["value"].strip()
        elif key and (match := _MORE.match(lines[0])):
            data[key] += f" {match['value'].strip()}"
        else:
            break
        lines.pop(0)
    return "\n".join(lines).lstrip("\n"), data


def find(text: str) -> re.Match[str] | None:
    """Where a Markdown file's front matter stands; group 1 is what is between the two lines of dashes."""
    return _FRONT.match(text)


def meta(text: str) -> dict[str, Any]:
    """A Markdown file's front matter; empty where it has none that can be read."""
    found = find(text)
    try:
        front = yaml.safe_load(found[1]) if found else {}
    except (yaml.YAMLError, ValueError):  # the 31st of November
        return {}
    return front if isinstance(front, dict) else {}


def read(path: Path) -> str:
    """A text with its line ends as they are; bytes that are no UTF-8 are kept apart, not refused."""
    return path.read_bytes().decode("utf-8", "surrogateescape")
