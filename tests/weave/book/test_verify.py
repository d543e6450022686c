"""``weave verify`` trusts no stored result: it runs anew, and names what no longer holds or is not the same twice."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Small

NOTE = "docs/notes/heat.md"
CHANCE = """# %% [markdown]
# # Chance

# %% fixed
import random, itertools
from weave import claim

random.seed(0)
claim(fixed=random.random())

# %% drawn
import os
claim(drawn=os.getpid(), fixed_too=1)

# %% shown
print("process", os.getpid())
"""


def stored(small: Small) -> dict[str, bytes]:
    runs = small.root / ".cache/weave/runs"
    return {str(path.relative_to(runs)): path.read_bytes() for path in runs.rglob("*.json")}


def rows(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines() if re.match(r"docs/\S+:\d+ ", line)]


def test_every_claim_is_in_the_table_and_the_stored_results_stay(small: Small) -> None:
    before = stored(small)
    result = small.weave("verify")
    assert result.exit_code == 0, result.output
    assert "code/notebooks/heat.py runs (4 cells)" in result.output
    assert rows(result.output) == [
        ["docs/notes/heat.md:8", "rate", "0.5", "0.5", "0.5", "±", "0.05", "holds"],
        ["docs/notes/heat.md:13", "heads", *["10", "of", "12"] * 3, "±", "0.5", "holds"],
    ]
    assert "2 of 2 numbers hold\n" in result.output
    assert stored(small) == before and before


def test_it_does_not_believe_what_is_stored(small: Small) -> None:
    """A cell that declares another file than its program reads counts as fresh when that changes."""
    small.replace("code/notebooks/heat.py", "import claim\n", "import claim, reads\n\nreads('other.txt')\n")
    small.write("code/lab.py", "import subprocess\nRATE = float(subprocess.check_output(['cat', 'rate.txt']))\n")
    small.write("rate.txt", "0.5")
    small.write("other.txt", "")
    assert small.rerun() == {"heat"}
    small.write("rate.txt", "0.25")
    assert small.weave("check", "--fresh").exit_code == 0 and small.weave("check").exit_code == 0
    result = small.weave("verify", "heat")
    assert result.exit_code == 1
    table = rows(result.output)
    assert table[0] == ["docs/notes/heat.md:8", "rate", "0.5", "0.5", "0.25", "±", "0.05", "DOES", "NOT", "HOLD"]
    assert table[1][-1] == "holds"
    assert f"{NOTE}:8: the note says 0.5; heat.py computed 0.25 (rate)" in result.output


def test_a_clean_clone_has_no_old_values(bare: Small) -> None:
    result = bare.weave("verify")
    assert result.exit_code == 0, result.output
    assert next(row[2:5] for row in rows(result.output)) == ["0.5", "–", "0.5"]
    assert not (bare.root / ".cache/weave/runs").exists()


def test_twice_names_what_chance_decides(small: Small) -> None:
    small.write("code/notebooks/chance.py", CHANCE)
    small.write("docs/notes/chance.md", "# Chance\n\n[> 1](../../code/notebooks/chance.py#=drawn)\n")
    once = small.weave("verify", "chance")
    assert once.exit_code == 0 and "heat.py runs" not in once.output, once.output
    result = small.weave("verify", "code/notebooks/chance.py", "--twice")
    assert result.exit_code == 1
    found = [line for line in result.output.splitlines() if "deterministic" in line]
    assert len(found) == 2 and "3 cells" in result.output
    assert found[0].startswith("code/notebooks/chance.py:12: cell 'drawn' is not deterministic: drawn is ")
    assert "fixed" not in found[0] and ", then " in found[0]
    assert found[1].startswith("code/notebooks/chance.py:16: cell 'shown' is not deterministic: it shows 'process ")


def test_twice_alike(small: Small) -> None:
    """Also a figure: the same bytes."""
    result = small.weave("verify", "--twice")
    assert result.exit_code == 0, result.output
    assert "2 of 2 numbers hold, and twice alike" in result.output
    assert result.output.count("heat.py runs") == 2


def test_a_notebook_that_fails_or_publishes_no_more(small: Small) -> None:
    """Its last good result is no excuse; the page keeps what others computed."""
    small.write("code/notebooks/other.py", "# %% a\nfrom weave import claim\nclaim(other=3)\n")
    small.write("docs/other.md", "# Other\n\n[3](../code/notebooks/other.py#=other)\n")
    assert small.rerun() == {"other"}
    small.replace("code/notebooks/heat.py", "claim(rate=RATE, ", "claim(")
    small.write("code/notebooks/other.py", "# %% a\n1 / 0\n")
    result = small.weave("verify")
    assert result.exit_code == 1
    assert "docs/notes/heat.md:8: heat.py publishes no value 'rate'; it has: heads" in result.output
    assert "code/notebooks/other.py:2: cell 'a': ZeroDivisionError: division by zero" in result.output
    assert [row[1] for row in rows(result.output)] == ["heads"]


def test_an_unknown_name(small: Small) -> None:
    result = small.weave("verify", "heet")
    assert result.exit_code == 1
    assert "no notebook 'heet' in code/notebooks; it has: heat" in result.output


def test_nothing_is_left_behind(small: Small) -> None:
    small.weave("verify")
    assert sorted(path.name for path in (small.root / ".cache/weave").iterdir()) == ["runs"]
