"""Links out of the repository, notes without text or with another's, text taken for front matter: none is a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from markdown import markdown

if TYPE_CHECKING:
    from conftest import Small

HEAD = "---\ndescription: A sentence about what a reader finds here.\n---\n"


def test_each_is_a_problem_at_its_file(small: Small, tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("# Elsewhere\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/gone.md").symlink_to(tmp_path / "nowhere")
    for name, target in (("notes/out.md", "secret.md"), ("folder", "folder"), ("notes/gone.md", "no.md")):
        (small.root / "docs" / name).symlink_to(tmp_path / target)
    (small.root / "docs/notes/again.md").symlink_to(small.root / "docs/notes/heat.md")
    for name, text in {"empty": "", "head": HEAD, "one": f"{HEAD}# One\n\nText.\n", "two": "# One\n\nText.\n"}.items():
        small.write(f"docs/notes/{name}.md", text)
    small.write("docs/notes/taken.md", "Note: this is text.\n")
    small.write("docs/notes/.x.part", "")
    small.write("docs/notes/links.md", f"{HEAD}# Links\n\n[a](missing.md)\n")
    result = small.check()
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    for start in (
        "docs/notes/out.md:1: is a link to",
        "docs/folder:1: is a link to",
        "docs/notes/gone.md:1: is a link to",
        "docs/notes/empty.md:1: has no text",
        "docs/notes/head.md:1: has no text",
        "docs/notes/two.md:1: is the same text as docs/notes/one.md",
        "docs/notes/heat.md:1: is the same text as docs/notes/again.md",
        "docs/notes/taken.md:1: 'note:' and what follows is taken for front matter",
    ):
        assert any(line.startswith(start) for line in lines), (start, lines)
    assert not any(".part" in line for line in lines)


def test_what_draft_docs_names_is_a_draft_for_check_and_build(small: Small) -> None:
    small.write("mkdocs.yml", small.read("mkdocs.yml") + "draft_docs: |\n  notes/later.md\n")
    small.write("docs/notes/later.md", f"{HEAD}# Later\n\n[a](missing.md)\n")
    result = small.check()
    assert result.returncode == 0 and "draft: docs/notes/later.md:6: no file" in result.stderr, result.stderr
    small.write("docs/index.md", "# Small\n\n[Later](notes/later.md)\n")
    result = small.check()
    assert result.returncode == 1 and "docs/index.md:3: leads to docs/notes/later.md, a draft" in result.stderr


def test_two_names_that_differ_in_a_line_are_two(small: Small) -> None:
    small.write("docs/notes/login.md", f"{HEAD}# To log in\n\n[[log_in]]\n")
    small.write("docs/notes/log_in.md", f"{HEAD}# Logarithms\n\n[[login]] [[Login]]\n")
    result = small.weave("check")
    assert result.exit_code == 0, result.output


def test_front_matter_is_no_text_without_mkdocs(small: Small) -> None:
    with small.here():
        html = markdown(small.read("docs/notes/heat.md"), extensions=["attr_list", "weave", "weave.math"])
    assert html.lstrip().startswith("<h1") and "How a body cools" not in html
