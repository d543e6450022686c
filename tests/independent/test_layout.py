"""The independent programs share nothing with the library, and the front page states their number."""

import ast
import re
from pathlib import Path

import pytest

from . import (
    test_activation_patching,
    test_attention_heads,
    test_by_hand,
    test_induction_heads,
    test_logit_attribution,
    test_one_layer,
    test_path_patching,
    test_residual_stream,
    test_smollm2,
    test_transformer,
    test_two_layer,
    test_zero_layer,
)
from .claims import Again, wrong
from .weights import ROOT

HERE = Path(__file__).parent
FILES = [
    test_activation_patching,
    test_attention_heads,
    test_by_hand,
    test_induction_heads,
    test_logit_attribution,
    test_one_layer,
    test_path_patching,
    test_residual_stream,
    test_smollm2,
    test_transformer,
    test_two_layer,
    test_zero_layer,
]
REACHES = re.compile(r"import_module|__import__|spec_from|module_from|run_path|run_module|exec|eval|subprocess")


def reaching(source: str) -> list[int]:
    """Return the lines of a file that import the library, by a statement or by a function that could."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [] if node.level else [node.module or ""]
        else:
            modules = []
        if any(module.partition(".")[0] == "residual" for module in modules):
            lines.append(node.lineno)
        if isinstance(node, ast.Call) and REACHES.fullmatch(ast.unparse(node.func).rpartition(".")[2]):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("path", sorted(HERE.glob("*.py")), ids=lambda path: path.stem)
def test_no_independent_program_imports_the_library(path: Path) -> None:
    assert reaching(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import residual",
        "import residual.files.checkpoints as c",
        "def f():\n    from residual.model import Transformer",
        "import importlib\nimportlib.import_module('residual')",
        "__import__('residual')",
    ],
)
def test_an_import_of_the_library_is_found(source: str) -> None:
    assert reaching(source)


def test_the_front_page_says_how_many_numbers_are_computed_again() -> None:
    names = {(note, name) for file in FILES for note, table in file.NUMBERS.items() for name in table}
    assert {file.__name__.rpartition(".")[2] for file in FILES} == {p.stem for p in HERE.glob("test_*.py")} - {
        "test_layout"
    }
    assert {note for note, _ in names} == {path.stem for path in (ROOT / "docs/notes").glob("*.md")} - {"index"}
    sentence = re.search(r"computes (\d+) of\s+these\s+numbers\s+again", (ROOT / "docs/index.md").read_text("utf-8"))
    assert sentence, "docs/index.md does not say how many numbers tests/independent computes again"
    assert int(sentence[1]) == len(names), f"docs/index.md says {sentence[1]}; the tables here have {len(names)}"


def test_a_claim_that_is_gone_and_a_number_that_is_off_are_named() -> None:
    (gone,) = wrong("zero-layer", "no_such_claim", Again(lambda: 1))
    assert "docs/notes/zero-layer.md no longer has a claim no_such_claim" in gone
    by_notebook, by_note = wrong("zero-layer", "dead_tokens", Again(lambda: 149, 0))
    assert "dead_tokens is 149.0 by the second program, 148 by the notebook" in by_notebook
    assert "docs/notes/zero-layer.md says 148 for dead_tokens; the second program has 149.0" in by_note
