"""Each thing that can be wrong gives one line, ``path:line: what is wrong; what to do``, and nothing is published."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, Any

import pytest

from weave.book.problems import problems
from weave.note import katex
from weave.serve.preview import Preview

if TYPE_CHECKING:
    from conftest import Small

HEAT = "../../code/notebooks/heat.py"


@dataclass(frozen=True)
class Slip:
    """Markdown with one thing wrong, the line of the slip in it (counted from 0), and what is to be said."""

    text: str
    said: str
    line: int = 0


NOTE_SLIPS = {
    "unknown-notebook": Slip(
        "![A figure.](../../code/notebooks/heet.py#decay)",
        "no notebook heet.py; code/notebooks/ has: heat.py*",
    ),
    "unknown-notebook-of-a-claim": Slip(
        "[0.5](../../code/notebooks/heet.py#=rate)", "no notebook heet.py; code/notebooks/ has: heat.py*"
    ),
    "unknown-cell": Slip(f"![A figure.]({HEAT}#decai)", "heat.py has no cell 'decai'; it has: decay, *"),
    "unknown-cell-of-a-link": Slip(
        f"Two lines,\nthen [a cell]({HEAT}#sety).",
        "heat.py has no cell or heading 'sety'; it has: setup, heat, decay, words, values",
        line=1,
    ),
    "unknown-value": Slip(f"[0.5]({HEAT}#=rats)", "heat.py publishes no value 'rats'; it has: rate, heads"),
    "no-cell": Slip(f"![A figure.]({HEAT})", f"'{HEAT}' names no cell to show; write heat.py#cell; it has: *"),
    "embed-of-a-module": Slip(
        "![A module.](../../code/lab.py#decay)",
        "'../../code/lab.py#decay' is not a notebook; notebooks are in code/notebooks/",
    ),
    "shows-nothing": Slip(f"![A figure.]({HEAT}#setup)", "cell 'setup' of heat.py shows nothing; end it in a value"),
    "publishes-but-shows-nothing": Slip(
        f"![A figure.]({HEAT}#values)", "cell 'values' of heat.py shows nothing; end it in a value"
    ),
    "false-claim": Slip(
        f"It was [0.51]({HEAT}#=rate).", "the note says 0.51; heat.py computed 0.5 (rate); weave fix rewrites it"
    ),
    "false-pair": Slip(
        f"[11 of 12]({HEAT}#=heads)", "the note says 11 of 12; heat.py computed 10 of 12 (heads); weave fix rewrites it"
    ),
    "no-number": Slip(
        f"[half]({HEAT}#=rate)", "'half' is not a number to check against heat.py#=rate; write it as 0.97, *"
    ),
    "malformed-tex": Slip("It is $\\frac{1}{2$ or so.", "bad math: *; correct the TeX"),
    "unknown-command": Slip(
        "$$\na = 1\n\\alhpa\n$$", "bad math: Undefined control sequence: \\alhpa *; did you mean \\alpha? *", line=2
    ),
    "unclosed-math": Slip(
        "An unclosed $`x` of math.", "unclosed math: no `$ closes this $` before its paragraph ends; *"
    ),
    "unclosed-display-math": Slip("$$\nx = 1", "unclosed math: no $$ closes this $$ before its paragraph ends; *"),
    "unknown-theorem": Slip(
        "[A body cools](../../tests/test_heat.py#test_cool).",
        "tests/test_heat.py has no test 'test_cool'; it has: test_cools",
    ),
    "unknown-test-file": Slip(
        "[A body cools](../../tests/test_heet.py#test_cools).",
        "no file tests/test_heet.py; the site has: test_heat.py, lab.py",
    ),
    "missing-page": Slip("[A note](heet.md)", "no file docs/notes/heet.md; its folder has: heat.md*"),
    "missing-page-by-reference": Slip(
        "[A note][there]\n\n[there]: heet.md#on", "no file docs/notes/heet.md; its folder has: heat.md*", line=2
    ),
    "missing-image": Slip("![An image](../assets/x.png)", "no file docs/assets/x.png; its folder has none"),
    "missing-anchor": Slip("[Here](#nowhere)", "no anchor '#nowhere' on this page; it has*"),
    "missing-anchor-elsewhere": Slip(
        "[There](heat.md#on-alpha-decai)",
        "no anchor '#on-alpha-decai' on docs/notes/heat.md; it has: on-alpha-decay, *",
    ),
    "unknown-work": Slip(
        "As was shown\nby others [@elhage2021].", "no work 'elhage2021' in docs/references.bib; it has none", line=1
    ),
    "no-citation": Slip("As was shown [@a b].", "'[@a b]' is not a citation; write [@key], *"),
    "unclosed-citation": Slip("As was shown [@a, p. 3.", "'[@a,' is not a citation; write [@key], *"),
    "leaves-the-repository": Slip(
        "[Out](../../../elsewhere.md)", "'../../../elsewhere.md' leaves the repository; link to a file of it, or *"
    ),
    "server-absolute": Slip(
        "[Root](/notes/heat/)", "'/notes/heat/' starts at the server's root, which moves; link by *"
    ),
    "not-shown": Slip("[The settings](../../mkdocs.yml)", "mkdocs.yml is not shown on the site; link to a page, a *"),
    "no-address": Slip("[Somewhere](http://[half)", "'http://[half' is not an address; correct it"),
    "in-a-sentence": Slip(
        f"See ![this]({HEAT}#decay) here.", "an embed is a paragraph of its own; put blank lines around it"
    ),
    "no-caption": Slip(f"![]({HEAT}#decay)", "an embed has no caption; say in it what to see: ![caption](…)"),
    "claim-by-reference": Slip(
        "It is [0.5][rate].\n\n[rate]: ../../code/notebooks/heat.py#=rate",
        "a claim has its value's name beside it; write [0.97](#=rate), without a reference",
        2,
    ),
    "embed-by-reference": Slip(
        f"![A figure][figure]\n\n[figure]: {HEAT}#decay",
        "a cell is embedded by its path alone; write ![caption](path.py#cell), without a reference",
        line=2,
    ),
}

NOTEBOOK_SLIPS = {
    "raises": Slip(
        "# %% works\ndef f(x):\n    return 1 / x\n\n# %% breaks\ny = 1\nf(0)\n",
        "cell 'works': ZeroDivisionError: division by zero; the traceback is below",
        line=2,
    ),
    "raises-in-a-module": Slip(
        "# %% breaks\nimport lab\n\nlab.missing\n",
        "cell 'breaks': AttributeError: module 'lab' has no attribute 'missing'; the traceback is below",
        line=3,
    ),
    "syntax": Slip(
        "# %% first\nassert False\n\n# %% breaks\nx = 1\n%pwd\ny = = 1\n",
        "cell 'breaks': SyntaxError: invalid syntax; no cell ran; correct the line",
        line=6,
    ),
    "module-beside": Slip(
        "# %% a\n\nimport raises\n",
        "cell 'a': ModuleNotFoundError: No module named 'raises'; code/notebooks/raises.py is not on Python's path: a"
        " notebook runs in the repository's root, so move raises.py to code/; the traceback is below",
        line=2,
    ),
    "file-beside": Slip(
        "# %% a\nopen('raises.py')\n",
        "cell 'a': FileNotFoundError: * 'raises.py'; a notebook runs in the repository's root: write"
        " code/notebooks/raises.py; the traceback is below",
        line=1,
    ),
    "latex": Slip(
        "# %% a\nfrom IPython.display import Latex\nLatex(r'It is $\\alhpa$')\n",
        "cell 'a': bad math: Undefined control sequence: \\alhpa *; did you mean \\alpha? *",
        line=1,
    ),
    "window": Slip(
        "# %% a\n%matplotlib qt\n",
        "cell 'a': UsageError: no window opens here, as qt would need; write inline, or leave the line out; *",
        line=1,
    ),
    "no-kind-of-a-page": Slip(
        "# %%\n1\n\n# %% a\nfrom IPython.display import Javascript\nJavascript('alert(1)')\n",
        "cell 'a': shows application/javascript, which a page cannot show; show HTML with a <script> that *",
        line=4,
    ),
    "slow": Slip(
        "# %% breaks\nimport time\n\n# %% unhurried\ntime.sleep(60)\n",
        "cell 'unhurried': took longer than 2 s; make it quicker, or raise weave: cell_timeout in mkdocs.yml",
        line=4,
    ),
    "killed": Slip(
        "# %%\nimport os, signal\n\n# %%\nos.kill(os.getpid(), signal.SIGKILL)\n",
        "the kernel died here (killed, or out of memory); try: weave run killed",
        line=4,
    ),
    "twice": Slip(
        "# %% a\nfrom weave import claim\nclaim(x=1)\n\n# %% b\nclaim(x=2)\n",
        "cell 'b': publishes 'x' again (first at line 2); rename one",
        line=5,
    ),
    "not-finite": Slip(
        '# %% a\nfrom weave import claim\nclaim(x=float("nan"))\n',
        "cell 'a': ValueError: claim(x=nan): a published number must be finite; the traceback is below",
        line=2,
    ),
    "did-not-raise": Slip(
        '# %% a tags=["raises-exception"]\n1 / 1\n',
        "cell 'a': is tagged raises-exception and raised nothing; drop the tag",
        line=1,
    ),
    "two-of-one-name": Slip(
        "# %% a\n1\n\n# %% a\n2\n", "two cells are named 'a', the other at line 1; rename one", line=3
    ),
    "bad-name": Slip(
        "# %% a b\n1\n", "'a b' cannot name a cell; use letters, digits, - and _, 64 at most (a link ends in it)"
    ),
    "bad-metadata": Slip(
        "# %% a\n1\n\n# %% b tags=3\n2\n",
        "'# %% b tags=3' does not begin a cell that jupytext can read; write it as *",
        line=3,
    ),
    "header": Slip(
        "# ---\n# jupyter:\n#   kernelspec: {}\n# ---\n\n# %% a\n1\n", "begins with a jupytext header; delete it: *"
    ),
    "prose-math": Slip(
        "# %% [markdown]\n# # Title\n#\n# It is $\\alhpa$.\n\n# %% a\n1\n",
        "bad math: Undefined control sequence: \\alhpa *; *",
        line=3,
    ),
    "prose-link": Slip(
        "# %% [markdown]\n# # Title\n#\n# See [it](#nowhere)\n# and [this](../../docs/notes/heet.md).\n\n# %% a\n1\n",
        "no file docs/notes/heet.md; its folder has: *",
        line=4,
    ),
    "prose-anchor": Slip(
        "# %% [markdown]\n# # Title\n#\n# See [it](#titl) and [itself](#title).\n\n# %% a\n1\n",
        "prose_anchor.py has no cell or heading 'titl'; it has: title, a",
        line=3,
    ),
}
FILES = {
    "not-utf8": (
        "docs/notes/not_utf8.md",
        b"# Title\n\nna\xefve\n",
        3,
        "not UTF-8 (byte 0xef); save the file as UTF-8",
    ),
    "notebook-not-utf8": (
        "code/notebooks/latin.py",
        b"# %% a\nx = '\xe9'\n",
        2,
        "not UTF-8 (byte 0xe9); save the file as UTF-8",
    ),
}
FRONT = "---\ntitle: Broken\ndescription: In every way.\n---\n\n# Broken\n\n"


def note_line(name: str) -> int:
    """The line of a slip in the note that has them all, one below the other."""
    before = FRONT
    for other, slip in NOTE_SLIPS.items():
        if other == name:
            return before.count("\n") + 1 + slip.line
        before += slip.text + "\n\n"
    raise KeyError(name)


def lines() -> dict[str, tuple[str, str]]:
    """For each slip where it is, and what is said."""
    notes = {name: (f"docs/notes/broken.md:{note_line(name)}", slip.said) for name, slip in NOTE_SLIPS.items()}
    notebooks = {
        name: (f"code/notebooks/{stem(name)}.py:{slip.line + 1}", slip.said) for name, slip in NOTEBOOK_SLIPS.items()
    }
    return {**notes, **notebooks, **{name: (f"{path}:{line}", said) for name, (path, _, line, said) in FILES.items()}}


def stem(name: str) -> str:
    return name.replace("-", "_")


def matches(said: str, line: str) -> bool:
    return re.fullmatch(re.escape(said).replace(r"\*", ".*"), line) is not None


def write_note(site: Small, text: str) -> None:
    site.write("docs/notes/broken.md", FRONT + text)


@pytest.fixture(scope="module")
def broken(new_small: Callable[[], Small]) -> Small:
    """The small site with every slip at once, over a good one built before."""
    site = new_small()
    site.replace("mkdocs.yml", "cell_timeout: 10", "cell_timeout: 2")
    assert site.build().returncode == 0
    write_note(site, "".join(slip.text + "\n\n" for slip in NOTE_SLIPS.values()))
    for name, slip in NOTEBOOK_SLIPS.items():
        site.write(f"code/notebooks/{stem(name)}.py", slip.text)
    for path, data, _, _ in FILES.values():
        site.write(path, data)
    return site


@pytest.fixture(scope="module")
def before(broken: Small) -> dict[str, bytes]:
    return tree(broken)


def tree(site: Small) -> dict[str, bytes]:
    folder = site.root / "site"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", params=["build", "check"])
def result(request: pytest.FixtureRequest, broken: Small, before: Any) -> CompletedProcess[str]:
    return {"build": broken.build, "check": broken.check}[request.param]()


def test_the_server_finds_the_same_in_the_same_words(broken: Small, before: Any, result: Any) -> None:
    with broken.here():
        preview = Preview(str(broken.root / "mkdocs.yml"), 8765)
        try:
            preview.fresh()
            end = time.monotonic() + 120
            while preview.background.running:
                assert time.monotonic() < end, preview.background.running
                time.sleep(0.05)
                preview.fresh()
            found = [str(problem) for problem in problems(preview.book)]
        finally:
            preview.end()
    assert sorted(found) == sorted(said(result))


def said(result: CompletedProcess[str]) -> list[str]:
    """The reported problems, without progress and without the notebooks' own tracebacks."""
    return re.findall(r"^(?:docs|code|tests|mkdocs)\S*:\d+: .*$", result.stderr, re.MULTILINE)


@pytest.mark.parametrize("name", lines())
def test_one_line_says_what_is_wrong_and_where(result: CompletedProcess[str], name: str) -> None:
    where, what = lines()[name]
    here = [line.removeprefix(f"{where}: ") for line in said(result) if line.startswith(f"{where}: ")]
    assert len(here) == 1, (here, said(result))
    assert matches(what, here[0]), here[0]


def test_nothing_else_is_said(result: CompletedProcess[str]) -> None:
    """A slip has no consequences that are told as if they were slips of their own."""
    expected = {where for where, _ in lines().values()} | {"code/notebooks/prose_link.py:4"}
    assert {": ".join(line.split(": ")[:1]) for line in said(result)} == expected
    assert len(said(result)) == len(expected)


def test_each_line_says_what_is_wrong_and_what_to_do(result: CompletedProcess[str]) -> None:
    for line in said(result):
        what, _, todo = line.partition(": ")[2].partition("; ")
        assert len(what) > 5 and len(todo) > 5, line


def test_the_exit_status_is_one_and_no_traceback_of_ours_is_shown(result: CompletedProcess[str]) -> None:
    assert result.returncode == 1
    assert "weave/plugin" not in result.stderr and "mkdocs/" not in result.stderr
    assert result.stdout.strip() in ("", f"{len(said(result))} problems; the site was not built")
    notebooks = [name for name in NOTEBOOK_SLIPS if "traceback is below" in NOTEBOOK_SLIPS[name].said]
    headings = re.findall(r"Traceback \(most recent call last\)", result.stderr)
    assert len(headings) == len([name for name in notebooks if name != "window"])


def test_the_notebook_s_traceback_stands_below_its_line(result: CompletedProcess[str]) -> None:
    below = result.stderr.partition("code/notebooks/raises.py:3: ")[2]
    assert re.match(r".*\n\n-+\nZeroDivisionError +Traceback \(most recent call last\)\n(.*\n)+?.*def f\(x\)", below)
    assert "\x1b" not in result.stderr


def test_the_number_of_problems_is_told_at_the_end(result: CompletedProcess[str]) -> None:
    assert f"{len(said(result))} problems" in result.stdout + result.stderr


def test_the_last_good_site_stays_to_the_byte(broken: Small, before: dict[str, bytes], result: Any) -> None:
    assert before and tree(broken) == before
    assert not list(broken.root.glob(".site*.part*"))


def test_the_check_fails_for_what_a_strict_build_fails_for(small: Small) -> None:
    small.replace("mkdocs.yml", "omitted_files: ignore", "omitted_files: warn")
    small.replace("mkdocs.yml", "plugins:\n", "nav: [index.md]\nplugins:\n")
    result = small.weave("check")
    assert result.exit_code == 1 and "1 problem\n" in result.output
    assert "mkdocs.yml:1: The following pages exist in the docs directory" in result.output


# -- each alone


@pytest.mark.parametrize("name", NOTE_SLIPS)
def test_a_slip_in_a_note_alone_fails_the_check(small: Small, name: str) -> None:
    slip = NOTE_SLIPS[name]
    write_note(small, slip.text + "\n")
    result = small.weave("check")
    assert result.exit_code == 1
    assert [line.partition(": ")[0] for line in said_in(result)] == [f"docs/notes/broken.md:{8 + slip.line}"]
    assert matches(slip.said, said_in(result)[0].partition(": ")[2])
    assert "1 problem\n" in result.output


@pytest.mark.parametrize(
    "name", ["raises", "syntax", "killed", "twice", "did-not-raise", "bad-name", "bad-metadata", "prose-math"]
)
def test_a_slip_in_a_notebook_alone_fails_the_check(small: Small, name: str) -> None:
    slip = NOTEBOOK_SLIPS[name]
    small.write(f"code/notebooks/{stem(name)}.py", slip.text)
    result = small.weave("check")
    assert result.exit_code == 1
    assert [line.partition(": ")[0] for line in said_in(result)] == [f"code/notebooks/{stem(name)}.py:{slip.line + 1}"]


def test_a_kernel_that_does_not_start(bare: Small) -> None:
    bare.write("code/matplotlib_inline.py", "raise ImportError('half installed')\n")
    bare.replace("mkdocs.yml", "cell_timeout: 10", "cell_timeout: 10, modules: [matplotlib_inline]")
    result = bare.weave("check")
    assert result.exit_code == 1
    what = "its kernel did not start (ImportError: half installed); try: weave run heat"
    assert said_in(result) == [f"code/notebooks/heat.py:1: {what}"]


def test_a_machine_without_node(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    katex.engine.cache_clear()
    monkeypatch.setattr(katex.shutil, "which", lambda *_, **__: None)
    result = small.weave("check")
    katex.engine.cache_clear()
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.output.startswith("Error: there is no node to render math with; install Node.js")


def test_a_long_name_of_the_folder_for_temporary_files(bare: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are talked to through sockets in such a folder, and those must have short names."""
    long = bare.root / ("x" * 90)
    long.mkdir()
    bare.write("code/notebooks/heat.py", "# %%\n1\n")
    bare.write("docs/notes/heat.md", "# Heat\n\n## On alpha decay\n")
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert bare.rerun() == {"heat"} and list(long.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_text_alone_fails_the_check(small: Small, name: str) -> None:
    path, data, line, what = FILES[name]
    small.write(path, data)
    result = small.weave("check")
    assert result.exit_code == 1 and said_in(result) == [f"{path}:{line}: {what}"]


def said_in(result: Any) -> list[str]:
    return re.findall(r"^(?:docs|code|tests|mkdocs)\S*:\d+: .*$", result.output, re.MULTILINE)


def test_the_untouched_site_is_right(small: Small) -> None:
    result = small.weave("check")
    assert result.exit_code == 0 and said_in(result) == []
    assert result.output == "2 numbers hold, 1 references to theorems have a test, on 3 pages\n"


def test_what_depends_on_a_broken_notebook_is_not_blamed(small: Small) -> None:
    """The note cites a notebook that cannot be read or does not run: one line, at the notebook."""
    for text in ("# %% a tags=3\n1\n", "# %% setup\n1 / 0\n"):
        small.write("code/notebooks/heat.py", text + small.read("code/notebooks/heat.py"))
        result = small.weave("check")
        assert result.exit_code == 1 and len(said_in(result)) == 1, result.output
        assert said_in(result)[0].startswith("code/notebooks/heat.py:")


def test_what_a_failing_notebook_computed_before_is_no_measure(small: Small) -> None:
    """The note is ahead of the last good result: its new numbers and figures wait until the notebook runs."""
    small.replace("code/notebooks/heat.py", "# %% words", "# %% fresh\n1 / 0\nclaim(fresh=3)\n\n# %% words")
    write_note(small, f"[0.7]({HEAT}#=rate) [3]({HEAT}#=fresh)\n\n![A new figure.]({HEAT}#fresh)\n")
    result = small.weave("check")
    assert result.exit_code == 1 and len(said_in(result)) == 1, result.output
    assert said_in(result)[0].startswith("code/notebooks/heat.py:23: cell 'fresh': ZeroDivisionError")


def test_what_depends_on_a_broken_notebook_that_never_ran_is_not_blamed(bare: Small) -> None:
    bare.write("code/notebooks/heat.py", "# %% a tags=3\n" + bare.read("code/notebooks/heat.py"))
    result = bare.weave("check")
    assert result.exit_code == 1
    assert [line.partition(": ")[0] for line in said_in(result)] == ["code/notebooks/heat.py:1"]


@pytest.mark.parametrize(
    ("data", "line", "what"),
    [
        (b"def test_cools():\n    return 1\n\n\nx = = 3\n", 5, "a page links to it, but invalid syntax; correct it"),
        (b"def test_cools():\n    return '\xe9'\n", 2, "not UTF-8 (byte 0xe9); save the file as UTF-8"),
    ],
)
def test_a_linked_test_that_cannot_be_read(small: Small, data: bytes, line: int, what: str) -> None:
    small.write("tests/test_heat.py", data)
    write_note(small, "[The tests](../../tests/test_heat.py).\n")
    result = small.weave("check")
    assert result.exit_code == 1 and said_in(result) == [f"tests/test_heat.py:{line}: {what}"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  - weave: {cell_timeout: 10}\n", ""),
        ("plugins:", "plugins: ["),
        ("site_name: Small", "site_name: Small\nno_such_setting: ["),
        ("cell_timeout: 10", "cell_timeout: soon"),
    ],
)
def test_bad_settings(small: Small, old: str, new: str) -> None:
    small.replace("mkdocs.yml", old, new)
    result = small.weave("check")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.exception


def test_no_settings(small: Small) -> None:
    (small.root / "mkdocs.yml").unlink()
    result = small.weave("check")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)


def test_all_of_a_notebook_s_prose_is_rendered_whatever_separates_its_lines(small: Small) -> None:
    """Python knows more ends of lines than files do."""
    prose = "# %% [markdown]\n# a\u2028b\n# The rate is [0.7](#=rate).\n"
    small.write("code/notebooks/odd.py", prose + "# %% setup0\nfrom weave import claim\nclaim(rate=0.5)\n")
    message = "code/notebooks/odd.py:3: the note says 0.7; odd.py computed 0.5"
    assert message in small.weave("check").output
