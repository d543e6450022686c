"""Notebooks as they lie in git, read as jupytext reads them, with the line of each cell."""

from __future__ import annotations

import jupytext
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weave.run.notebook import parse

NAMES = st.from_regex(r"[a-z][a-z0-9]*(-[a-z0-9]+){0,2}", fullmatch=True)
TAGS = ["hide-input", "remove-cell", "raises-exception", "skip-execution"]
STATEMENTS = [
    "x = 1",
    "print(x)",
    "",
    "# a comment",
    "def f():\n    return 2\n\n\nf()",
    's = """\ntext\n\nmore\n"""',
    "#",
    "%pwd",
]
PROSE = ["Words and $x$.", "", "- a list", "    code", "## A heading", "[0.5](x.py#=y)", "```", "| a | b |"]


@st.composite
def cells(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Cells as (marker line with what follows, kind)."""
    names = draw(st.lists(NAMES, unique=True, max_size=8))
    made = []
    for name in names:
        if draw(st.booleans()):
            tags = draw(st.lists(st.sampled_from(TAGS), unique=True, max_size=2))
            tagged = f" tags={tags}".replace("'", '"') if tags else ""
            title = draw(st.sampled_from([f" {name}", "", f' name="{name}"']))
            body = "\n".join(draw(st.lists(st.sampled_from(STATEMENTS), max_size=6)))
            label = f"#| label: {name}\n" if not title and draw(st.booleans()) else ""
            if draw(st.integers(0, 5)) == 0:  # `%%bash`, as jupytext writes it
                tagged, body = f'{tagged} language="bash"', "".join(f"# {line}\n" for line in body.split("\n"))
                label = ""
            made.append((f"# %%{title}{tagged}\n{label}{body}", "code"))
        else:
            lines = "\n".join(draw(st.lists(st.sampled_from(PROSE), max_size=6))).split("\n")
            if draw(st.booleans()):
                body = "\n".join(f"# {line}".rstrip() for line in lines)
            else:
                body = '"""\n' + "\n".join(lines) + '\n"""'
            made.append((f"# %% [markdown]\n{body}", "markdown"))
    return made


@given(cells(), st.sampled_from(["\n", "\n\n", "\n\n\n"]), st.sampled_from(["", "import os\n\n"]))
def test_cells_are_those_that_jupytext_reads_and_know_their_line(
    made: list[tuple[str, str]], gap: str, preamble: str
) -> None:
    text = preamble + gap.join(cell for cell, _ in made) + "\n"
    notebook = parse("x.py", text)
    assert not notebook.problems
    expected = jupytext.reads(text, fmt="py:percent").cells
    assert [cell.kind for cell in notebook.cells] == [cell.cell_type for cell in expected]
    assert [cell.source for cell in notebook.cells] == [cell.source.strip("\n") for cell in expected]
    assert [list(cell.tags) for cell in notebook.cells] == [cell.metadata.get("tags", []) for cell in expected]
    lines = text.split("\n")
    for cell in notebook.cells:
        for offset, line in enumerate(cell.source.split("\n") if cell.source else []):
            there = lines[cell.line + offset - 1]
            if line == "%%bash":
                assert there.startswith("# %%") and there.endswith('language="bash"')
                continue
            plain = there.removeprefix("# ").removeprefix("#") if there.startswith("#") else there
            assert line in (there, plain, there.removeprefix("# ")), (cell, offset)


def named(text: str) -> dict[str, tuple[int, str]]:
    return {name: (cell.line, cell.source) for name, cell in parse("code/notebooks/x.py", text).names.items()}


def test_the_three_ways_to_name_a_cell() -> None:
    text = '# %% first\na = 1\n\n# %% name="second"\nb = 2\n\n# %%\n#| label: third\nc = 3\n'
    assert named(text) == {"first": (2, "a = 1"), "second": (5, "b = 2"), "third": (8, "#| label: third\nc = 3")}


def test_a_line_that_looks_like_a_cell_inside_a_string_is_none() -> None:
    assert named('# %% a\nx = """\n# %% b\n"""\n') == {"a": (2, 'x = """\n# %% b\n"""')}


@pytest.mark.parametrize("name", ["a b", "a" * 65, "naïve", "-a"])
def test_a_name_that_no_link_could_end_in(name: str) -> None:
    what = "cannot name a cell; use letters, digits, - and _, 64 at most (a link ends in it)"
    found = parse("code/notebooks/x.py", f"# %% {name}\nx = 1\n").problems
    assert [str(one) for one in found] == [f"code/notebooks/x.py:1: '{name}' {what}"]


def test_two_cells_of_one_name() -> None:
    found = parse("code/notebooks/x.py", "# %% a\nx = 1\n\n# %%\ny = 1\n\n# %% a\nz = 1\n").problems
    what = "two cells are named 'a', the other at line 1; rename one"
    assert [str(one) for one in found] == [f"code/notebooks/x.py:7: {what}"]


@pytest.mark.parametrize(
    "marker", ['# %% b tags="hide-input"', "# %% b tags=[1]", "# %% b tags=3", "# %% name=3", '# %% {"tags": ["b"']
)
def test_bad_metadata(marker: str) -> None:
    """It is told at the cell's own line, with an example that works."""
    found = parse("code/notebooks/x.py", f"# %% a\nx = 1\n\n{marker}\ny = 2\n").problems
    assert len(found) == 1
    where, _, message = str(found[0]).partition(": ")
    assert where == "code/notebooks/x.py:4"
    assert message.endswith('; write it as # %% name tags=["hide-input"]')
    assert parse("x.py", message.rpartition("write it as ")[2] + "\nz = 3\n").problems == ()


def test_a_header_is_refused() -> None:
    """All notebooks run in the same way; a header could only say otherwise and be ignored."""
    header = "# ---\n# jupyter:\n#   kernelspec:\n#     name: python3\n# ---\n\n"
    found = parse("code/notebooks/x.py", f"{header}# %% a\nx = 1\n").problems
    assert [str(one) for one in found] == [
        "code/notebooks/x.py:1: begins with a jupytext header; delete it: a notebook begins with its first cell (# %%)"
    ]


@given(st.text(st.sampled_from("#% \n'\"ab[]=\x0c\u2028\r{}-:"), max_size=60))
def test_any_text_is_read_or_has_a_problem_with_a_line(text: str) -> None:
    notebook = parse("code/notebooks/x.py", text)
    for problem in notebook.problems:
        assert 1 <= problem.line <= text.count("\n") + 1


@pytest.mark.parametrize("character", ["\x0c", "\x0b", "\u2028", "\x85", "\x1c"])
def test_lines_are_counted_as_editors_and_python_count_them(character: str) -> None:
    text = f"# %% a\ns = '{character}'\n\n# %% b\nx = 1\n"
    assert parse("x.py", text).problems == () and named(text)["b"] == (5, "x = 1")


def test_a_byte_order_mark_is_no_part_of_the_first_cell() -> None:
    assert named("\ufeff# %% a\nx = 1\n") == {"a": (2, "x = 1")}
    assert parse("x.py", "\ufeff# ---\n# jupyter:\n# ---\n# %%\n1\n").problems


@pytest.mark.parametrize(
    "cell",
    [
        "%matplotlib inline\nx = 1",
        "!ls *.py",
        "files = !ls",
        "print?",
        "%%bash\nfor i in 1 2; do echo $i; done",
        "await thing()",
        "x = 1\nfrom __future__ import annotations",
        "'\\d'",
        "  indented = 1\n  again = 2",
        "%timeit [i for i in range(3)]",
    ],
)
def test_all_that_ipython_runs_is_syntax(cell: str) -> None:
    assert parse("x.py", f"# %% a\n{cell}\n").problems == ()


@pytest.mark.parametrize(
    ("cell", "line"),
    [("x = (", 2), ("x = 1\n\ny = = 2", 4), ("return 1", 2), ("%pwd\nx = 1\nif x:\ny = 2", 5), ("\x00", 2)],
)
def test_an_error_of_syntax_is_found_before_any_cell_runs(cell: str, line: int) -> None:
    [found] = parse("x.py", f"# %% a\n{cell}\n\n# %% b\n1\n").problems
    assert found.line == line and "no cell ran" in found.message
    for tag in ("raises-exception", "skip-execution"):
        assert parse("x.py", f'# %% a tags=["{tag}"]\n{cell}\n').problems == ()
