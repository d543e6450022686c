"""``weave fix`` rewrites what is stale and nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weave import cli
from weave.author.fix import rewritten
from weave.book.book import Book
from weave.note import numbers
from weave.note.page import Claim
from weave.source.layout import Layout

if TYPE_CHECKING:
    from conftest import Small

HEAT = "../../code/notebooks/heat.py"
OTHER = "# %% values\nfrom weave import claim\nclaim(rate=0.7, share=0.123, big=20481)\n"


@pytest.fixture(scope="module")
def executed_anew(new_small: Callable[[], Small]) -> Path:
    site = new_small()
    site.write("code/lab.py", "RATE = 0.25\n")
    assert site.rerun() == {"heat"}
    return site.root / ".cache"


@pytest.fixture
def stale(small: Small, executed_anew: Path) -> Small:
    """The notebook now computes another rate than the notes say."""
    small.write("code/lab.py", "RATE = 0.25\n")
    shutil.copytree(executed_anew, small.root / ".cache", dirs_exist_ok=True)
    return small


def test_it_shows_the_diff_asks_and_rewrites(stale: Small) -> None:
    before = stale.read("docs/notes/heat.md")
    result = stale.weave("fix", answer="y\n")
    assert result.exit_code == 0
    old, new = f"A body cools at [0.5]({HEAT}#=rate) a second", f"A body cools at [0.2]({HEAT}#=rate) a second"
    assert f"\n-{old}" in result.output and f"\n+{new}" in result.output
    assert "rewrite 1 file? [y/N]" in result.output
    assert stale.read("docs/notes/heat.md") == before.replace(old, new)
    result = stale.weave("check")
    assert result.exit_code == 0 and "2 numbers hold" in result.output


def test_it_is_idempotent(stale: Small) -> None:
    stale.weave("fix", "--yes")
    after = stale.read("docs/notes/heat.md")
    result = stale.weave("fix", "--yes")
    assert result.output == "no stale claims\n" and stale.read("docs/notes/heat.md") == after


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_without_a_yes_nothing_is_written(stale: Small, answer: str) -> None:
    before = stale.read("docs/notes/heat.md")
    stale.weave("fix", answer=answer)
    assert stale.read("docs/notes/heat.md") == before


def test_every_byte_that_is_not_a_stale_claim_stays(stale: Small) -> None:
    """Line ends, a byte order mark, odd separators, spaces, a last line without an end."""
    for end in ("\r\n", "\n", "\r"):
        lines = ["\ufeff---", "title: x", "---", "", "# Heat", "", "a\x0c\u2028 a  ", f"\tb [0.5]({HEAT}#=rate)", "c"]
        note = end.join(lines)
        stale.write("docs/notes/heat.md", note)
        result = stale.weave("fix", "--yes")
        assert result.exit_code == 0
        written = (stale.root / "docs/notes/heat.md").read_bytes()
        assert written == note.replace("0.5", "0.2").encode(), result.output


def test_only_the_stale_of_two_that_look_alike(stale: Small) -> None:
    stale.write("code/notebooks/other.py", OTHER)
    line = (
        f"[0.7]({HEAT}#=rate) [0.7](../../code/notebooks/other.py#=rate) [0.70]({HEAT}#=rate 'title') "
        f"`[0.7](x.py#=rate)` [0.7]({HEAT}#decay) [0.2](<{HEAT}#=rate>) [0.7]( {HEAT}#=rate ) "
        f"[10 of 12]({HEAT}#=heads) 0.7"
    )
    stale.write("docs/index.md", "# Small\n")
    stale.write("docs/notes/heat.md", f"# Heat\n\n{line}\n\n{line}\n")
    result = stale.weave("fix", "--yes")
    assert result.exit_code == 0 and "by hand" not in result.output
    fixed = line.replace(f"[0.7]({HEAT}#=", f"[0.2]({HEAT}#=").replace("[0.70]", "[0.25]").replace("[0.7]( ", "[0.2]( ")
    assert stale.read("docs/notes/heat.md") == f"# Heat\n\n{fixed}\n\n{fixed}\n"
    result = stale.weave("check")
    assert result.exit_code == 0, result.output


def test_several_files_and_the_notebook_s_own_prose(stale: Small) -> None:
    stale.write("docs/other.md", "# Other\n\n[50%](../code/notebooks/heat.py#=rate)\n")
    prose = "# %% [markdown]\n# It is [0.50](#=rate), as [0.5](heat.py#=rate).\n\n"
    stale.write("code/notebooks/heat.py", prose + stale.read("code/notebooks/heat.py"))
    result = stale.weave("fix", "--yes")
    assert stale.read("docs/other.md").endswith("[25%](../code/notebooks/heat.py#=rate)\n")
    assert "# It is [0.25](#=rate), as [0.2](heat.py#=rate).\n" in stale.read("code/notebooks/heat.py"), result.output
    result = stale.weave("check")
    assert result.exit_code == 0 and "runs" not in result.output


def test_what_it_cannot_find_it_leaves_to_the_author(stale: Small) -> None:
    note = f"# Heat\n\n[**0.5**]({HEAT}#=rate)\n"
    stale.write("docs/notes/heat.md", note)
    result = stale.weave("fix", "--yes")
    assert stale.read("docs/notes/heat.md") == note
    assert "docs/notes/heat.md:3: cannot find '0.5' on this line to rewrite it; make it 0.2 by hand" in result.output


def test_a_failing_notebook_s_last_result_is_no_reason_to_rewrite(small: Small) -> None:
    small.replace("docs/notes/heat.md", "[0.5]", "[0.9]")
    small.write("code/lab.py", "RATE = 1 / 0\n")
    before = small.read("docs/notes/heat.md")
    result = small.weave("fix", "--yes")
    assert small.read("docs/notes/heat.md") == before
    assert "ZeroDivisionError" in result.output and "left alone" in result.output


def test_a_note_edited_meanwhile_is_left_alone(stale: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    def edit_and_confirm(*_: object) -> bool:
        stale.write("docs/notes/heat.md", "# Meanwhile\n")
        return True

    monkeypatch.setattr(cli.click, "confirm", edit_and_confirm)
    result = stale.weave("fix")
    assert result.exit_code == 1
    assert "docs/notes/heat.md was edited in the meantime and is left alone; run weave fix again" in result.output
    assert stale.read("docs/notes/heat.md") == "# Meanwhile\n"


texts = st.sampled_from(["0.9", "97%", "1,024", "> 0.5", "about 3", "1.2e-7", "10 of 12", "2.6×", "at most 3", "−0.4"])
values = st.floats(-1e9, 1e9) | st.integers(-(10**6), 10**6) | st.tuples(st.integers(0, 99), st.integers(1, 99))


@given(st.lists(st.tuples(texts, values), min_size=1, max_size=6), st.sampled_from(["\n", "\r\n"]), st.integers(1, 3))
def test_any_claims_on_any_lines(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[str, numbers.Value]], end: str, per_line: int
) -> None:
    root = tmp_path_factory.mktemp("fix")
    links = [f"[{text}](../code/notebooks/n.py#=v{i})" for i, (text, _) in enumerate(made)]
    rows = [" and ".join(links[i : i + per_line]) for i in range(0, len(links), per_line)]
    (root / "docs").mkdir()
    (root / "docs/n.md").write_bytes(end.join(["# N", "", *rows, ""]).encode())
    stale = []
    for i, (text, value) in enumerate(made):
        written = numbers.read(text)
        assert written
        line, good = 3 + i // per_line, numbers.holds(written, value)
        stale.append(Claim("docs/n.md", line, text, "code/notebooks/n.py", "c", f"v{i}", value, "", good))
    before, after = rewritten(Book(Layout(root)), "docs/n.md", [claim for claim in stale if not claim.holds])
    assert before == (root / "docs/n.md").read_bytes().decode()
    found = re.findall(r"\[([^]]*)\]\(\.\./code/notebooks/n\.py#=v(\d+)\)", after)
    assert [int(number) for _, number in found] == list(range(len(made)))
    for (text, number), claim in zip(found, stale, strict=True):
        again = numbers.read(text)
        assert again and numbers.holds(again, made[int(number)][1])
        assert not claim.holds or text == claim.text
    assert re.sub(r"\[[^]]*\]", "", after) == re.sub(r"\[[^]]*\]", "", before)
    (root / "docs/n.md").unlink()


def test_read_only_to_the_reader(stale: Small) -> None:
    """A rewritten file keeps its permissions, and no half-written file is left."""
    stale.weave("fix", "--yes")
    folder: Path = stale.root / "docs/notes"
    assert [path.name for path in folder.iterdir()] == ["heat.md"]
    assert (folder / "heat.md").stat().st_mode & 0o777 == 0o644


def test_a_note_behind_a_symbolic_link_is_mended_where_it_lies(stale: Small) -> None:
    """It keeps its permissions; a copy in its place would silently replace the link."""
    note, real = stale.root / "docs/notes/heat.md", stale.root / "vault/heat.md"
    real.parent.mkdir()
    note.rename(real)
    real.chmod(0o640)
    note.symlink_to("../../vault/heat.md")
    result = stale.weave("fix", "--yes")
    assert result.exit_code == 0 and note.is_symlink() and f"[0.2]({HEAT}#=rate)" in stale.read("vault/heat.md")
    assert real.stat().st_mode & 0o777 == 0o640


def test_links_to_the_own_notebook_become_short_where_they_mean_the_same(small: Small) -> None:
    small.write(
        "docs/notes/heat.md",
        small.read("docs/notes/heat.md") + "\n## Words\n\n[w](../../code/notebooks/heat.py#words)\n",
    )
    assert small.weave("check").exit_code == 0
    result = small.weave("fix", "--short", "--yes")
    text = small.read("docs/notes/heat.md")
    assert result.exit_code == 0 and "[0.5](#=rate)" in text and "](#decay)" in text and "[the set-up](#setup)" in text
    assert "[w](../../code/notebooks/heat.py#words)" in text, "#words is a heading of the note"
    assert small.weave("check").exit_code == 0 and "no stale claims" in small.weave("fix", "--short").output


def test_what_would_mean_something_else_stays_long(small: Small) -> None:
    path = "../../code/notebooks/heat.py"
    kept = [
        f"It is [0.5](\n{path}#=rate) still.",  # a line that begins with # is a heading
        f"    [0.5]({path}#=rate) in indented code",
        f"## S {{ #setup }}\n\n[it]({path}#setup)",
        f"![It falls.]({path}?x=1#decay)",
    ]
    small.write("docs/index.md", "# Small\n")
    small.write("docs/notes/heat.md", "# Heat\n\n" + "\n\n".join(kept) + "\n")
    before = small.read("docs/notes/heat.md")
    assert small.weave("check").exit_code == 0
    small.weave("fix", "--short", "--yes")
    assert small.read("docs/notes/heat.md") == before
