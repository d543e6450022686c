"""The reference page lists every module, and everything public has a docstring."""

import re
from collections.abc import Iterator
from pathlib import Path

import griffe
import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT / "code/residual").with_suffix("").parts)
    for path in (ROOT / "code/residual").rglob("[a-z]*.py")
)
# these are documented by their class, and by the protocol of taps
SAID_ELSEWHERE = {"forward", "resolve"}


def test_every_module_is_in_the_reference() -> None:
    page = (ROOT / "docs/pages/reference.md").read_text("utf-8")
    assert sorted(re.findall(r"^::: residual\.([\w.]+)$", page, re.MULTILINE)) == MODULES


def public(parent: griffe.Module | griffe.Class) -> Iterator[griffe.Class | griffe.Function]:
    for name, member in parent.members.items():
        if not name.startswith("_") and isinstance(member, griffe.Class | griffe.Function):
            yield member
            if isinstance(member, griffe.Class):
                yield from public(member)


@pytest.fixture(scope="module")
def package() -> griffe.Module:
    module = griffe.load("residual", search_paths=[ROOT / "code"])
    assert isinstance(module, griffe.Module)
    return module


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_is_described_and_annotated(package: griffe.Module, name: str) -> None:
    module = package[name]
    assert isinstance(module, griffe.Module) and module.docstring
    for member in public(module):
        assert member.docstring or member.name in SAID_ELSEWHERE, member.path
        if isinstance(member, griffe.Function):
            without = [p.name for p in member.parameters if p.annotation is None and p.name not in ("self", "cls")]
            assert not without, f"{member.path}: no annotation of {', '.join(without)}"
            assert member.returns is not None, f"{member.path}: no annotation of the return value"
