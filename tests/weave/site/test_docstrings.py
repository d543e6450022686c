"""Docstrings in Python's own manner become the Markdown that means the same."""

import textwrap
from pathlib import Path

import griffe
import pytest

from weave.site.docstrings import Docstrings, markdown

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("A sentence, with a :: in it.", "A sentence, with a :: in it."),
        ("Rates::\n\n    x = y²\n      + z\n\nMore.", "Rates:\n\n```text\nx = y²\n  + z\n```\n\nMore."),
        ("Code::\n\n    f(x)\n\n    g(x)", "Code:\n\n```python\nf(x)\n\ng(x)\n```\n\n"),
        ("So:\n\n>>> f(1)\n2\n\nEnd.", "So:\n\n```pycon\n>>> f(1)\n2\n```\n\nEnd."),
        (">>> f(\n...     1)", "```pycon\n>>> f(\n...     1)\n```\n"),
    ],
)
def test_blocks_and_examples_are_fenced(given: str, wanted: str) -> None:
    assert markdown(given) == wanted


def loaded(code: str, tmp_path: Path) -> griffe.Module:
    (tmp_path / "sample.py").write_text(textwrap.dedent(code))
    module = griffe.load("sample", search_paths=[tmp_path], extensions=griffe.load_extensions(Docstrings))
    assert isinstance(module, griffe.Module)
    return module


def test_the_comment_behind_a_field_is_what_it_means(tmp_path: Path) -> None:
    module = loaded(
        """
        from dataclasses import dataclass

        @dataclass
        class Config:
            width: int = 3  # of the stream, see "#1"
            colour: str = "#fff"
            depth: int = 2
            '''In layers.'''  # not this
        """,
        tmp_path,
    )
    means = {name: member.docstring.value for name, member in module["Config"].members.items() if member.docstring}
    assert means == {"width": 'Of the stream, see "#1".', "depth": "In layers."}


def test_what_is_kept_without_a_word_is_left_out_but_weights_are_not(tmp_path: Path) -> None:
    module = loaded(
        """
        class Layer(Module):
            def __init__(self, config):
                self.config = config
                self.W = Parameter(empty(3, 4))
                self.b: Tensor = zeros(4)
        """,
        tmp_path,
    )
    assert {"W", "b"} == set(module["Layer"].members) - {"__init__"}
