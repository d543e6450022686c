"""The extension by itself, as another site generator or a script would use it: ``extensions=["weave"]``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from markdown import markdown

from weave.source.front_matter import split
from weave.source.problem import Refused

if TYPE_CHECKING:
    from conftest import Small

RATE = "code/notebooks/heat.py#=rate"


def test_it_checks_claims_and_embeds_cells(small: Small, capsys: Any) -> None:
    with small.here():
        html = markdown(split(small.read("docs/notes/heat.md"))[0], extensions=["weave", "weave.math"])
    assert 'title="rate = 0.5' in html and "<svg" in html and '<span class="weave-badge">tested</span>' in html
    assert "data-weave" not in html and "weave:" not in html and "<math" in html
    assert capsys.readouterr().err == ""


def test_a_text_of_no_page_lies_in_the_current_folder(small: Small, capsys: Any) -> None:
    with small.here():
        assert 'class="weave-claim"' in markdown(f"[0.5]({RATE})", extensions=["weave"])
        html = markdown(f"One\n[0.7]({RATE})", extensions=["weave"])
    message = "text.md:2: the note says 0.7; heat.py computed 0.5 (rate); weave fix rewrites it"
    assert message in html and capsys.readouterr().err == message + "\n"


def test_a_problem_of_a_page_has_the_page_s_own_line(small: Small, capsys: Any) -> None:
    small.replace("docs/notes/heat.md", "[0.5]", "[0.6]")
    with small.here():
        markdown(split(small.read("docs/notes/heat.md"))[0], extensions=["weave"])
    assert capsys.readouterr().err.startswith("docs/notes/heat.md:8: the note says 0.6; ")


def test_a_stale_result_is_not_compared_and_no_notebook_runs(small: Small, capsys: Any) -> None:
    small.write("code/lab.py", "RATE = 0.25\n")
    with small.here():
        html = markdown(f"[0.7]({RATE})", extensions=["weave"])
    assert "weave-error" not in html
    assert capsys.readouterr().err == (
        "code/notebooks/heat.py:1: has no result for today's inputs; run `weave run heat`\n"
    )


def test_without_settings_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match=r"no mkdocs\.yml in this folder"):
        markdown("x", extensions=["weave"])
