"""YAML that authors write, checked against a schema: the front matter of pages, and our part of mkdocs.yml.

The schemas (``schemas/*.json``) are those that editors complete and check by; their descriptions say what is allowed.
"""

from __future__ import annotations

import json
import re
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from weave.source import markdown
from weave.source.problem import Problem, nearest

if TYPE_CHECKING:
    from jsonschema import ValidationError

    from weave.source.layout import Layout

# Lines of "Key: value" above the first empty line, which MkDocs reads where there are no lines of dashes.
_KEY = re.compile(r"[ ]{0,3}(?P<key>[A-Za-z0-9_-]+):\s*(?P<value>.*)")
_MORE = re.compile(r"([ ]{4}|\t)(\s*)(?P<value>.*)")


# -- reading it


def split(text: str) -> tuple[str, dict[str, Any]]:
    """Return the Markdown below a page's front matter, and the front matter, exactly as MkDocs does."""
    if match := markdown.FRONT.match(text):
        try:
            data = yaml.safe_load(match["yaml"])
        except Exception:  # as MkDocs does; `problems` reports it
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


def meta(text: str) -> dict[str, Any]:
    """Return a Markdown file's front matter; empty where it has none that can be read."""
    found = markdown.front_matter(text)
    try:
        front = yaml.safe_load(found["yaml"]) if found else {}
    except (yaml.YAMLError, ValueError):  # the 31st of November
        return {}
    return front if isinstance(front, dict) else {}


def read(path: Path) -> str:
    """Return a file's text with its line ends as they are; bytes that are not UTF-8 become surrogates."""
    return path.read_bytes().decode("utf-8", "surrogateescape")


# -- checking it


class _Loader(yaml.SafeLoader):
    """Leaves dates as text, as JSON has them, and ignores tags that only MkDocs knows (``!ENV``)."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_multi_constructor("", lambda *_: None)


def problems(layout: Layout, path: str, text: str) -> list[Problem]:
    """Return the problems of a page's front matter."""
    front = markdown.front_matter(text)
    if not front:
        if re.match(r"\ufeff?---[ \t]*\n[\w-]+:", text):
            return [Problem(path, 1, "the front matter does not end; put --- below it, on a line of its own")]
        if taken := next(iter(split(text)[1]), ""):
            what = f"'{taken}:' and what follows is taken for front matter, and not shown"
            return [Problem(path, 1, f"{what}; put front matter between two lines of ---, or a heading above the text")]
        return []
    problems, needs = _check(_kind(path), path, front["yaml"], 2)
    known = {file.stem for file in (layout.root / path).parent.glob("*.md")} - {Path(path).stem}
    return [*problems] + [
        Problem(path, line, f"needs '{name}', which is not a note beside it; {nearest(name, known, 'its folder')}")
        for name, line in needs
        if name not in known
    ]


def mkdocs_yml(layout: Layout) -> list[Problem]:
    """Return the problems of our part of mkdocs.yml."""
    path = layout.root / "mkdocs.yml"
    return list(_check("mkdocs", path.name, path.read_text(encoding="utf-8"), 1)[0]) if path.is_file() else []


def _kind(path: str) -> str:
    """Return the name of the schema for a page's front matter, which depends on its folder."""
    folders = PurePosixPath(path).parent.parts
    return "note" if folders[-1:] == ("notes",) else "log-entry" if "posts" in folders else "page"


@cache
def schema(kind: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "schemas" / f"{kind}.json").read_bytes())


@lru_cache(maxsize=256)
def _check(kind: str, path: str, text: str, first: int) -> tuple[tuple[Problem, ...], list[tuple[str, int]]]:
    """Return the problems of a YAML text starting at line ``first``, and its ``needs`` with the line of each."""
    from jsonschema import Draft202012Validator

    try:
        node = yaml.compose(text, _Loader)
        data = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = f"not YAML: {error.problem or error.context}; put a text with a colon or a mark at its start in quotes"
        return (Problem(path, first + (mark.line if mark else 0), what),), []
    except yaml.YAMLError as error:
        return (Problem(path, first, f"not YAML: {str(error).splitlines()[0]}; correct it"),), []
    data = {} if node is None else data
    if not isinstance(data, dict):
        return (Problem(path, first, "not front matter: write lines of key: value between the two ---"),), []
    validator = Draft202012Validator(schema(kind), format_checker=Draft202012Validator.FORMAT_CHECKER)
    errors = {line for error in validator.iter_errors(data) for line in _explain(error, kind, text, node)}
    if errors:
        return tuple(Problem(path, first + line, what) for line, what in sorted(errors)), []
    needs = data.get("needs", [])
    return (), [(name, first + _find(node, ["needs", i])[0]) for i, name in enumerate(needs)]


def _explain(error: ValidationError, kind: str, text: str, node: yaml.Node | None) -> list[tuple[int, str]]:
    """Return lines, counted from 0, and a message for each."""
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
    what = f"{inside} cannot be {given}" if given else f"{inside} is empty"
    return [(line, f"{what}; write {here.get('description', 'lines of key: value')}")]


def _find(node: yaml.Node | None, path: list[Any]) -> tuple[int, yaml.Node | None]:
    """Return the line of a value or of its key (counted from 0), and the value."""
    line = node.start_mark.line if node else 0
    for part in path:
        if isinstance(node, yaml.MappingNode):
            key, node = next(((k, v) for k, v in node.value if k.value == str(part)), (node, None))
            line = key.start_mark.line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line
    return line, node
