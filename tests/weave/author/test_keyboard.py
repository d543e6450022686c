"""A week at the desk, typed: each workflow from the keyboard, in a terminal, as an author would go about it."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pexpect
import pytest

from weave.source import front_matter
from weave.source.layout import Layout

if TYPE_CHECKING:
    from conftest import Small

TOOK = 60
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Desk:
    site: Small
    clock: str = "2026-11-25T19:11"

    def type(self, *arguments: str) -> pexpect.spawn[str]:
        """The command, typed; what it asks is still to be answered."""
        env = {**self.site.env, "WEAVE_NOW": self.clock, "TERM": "xterm", "PATH": os.environ["PATH"]}
        return pexpect.spawn(
            sys.executable, ["-m", "weave.cli", *arguments], cwd=str(self.site.root), env=env,  # type: ignore[arg-type]
            encoding="utf-8", timeout=TOOK, dimensions=(24, 200),
        )  # fmt: skip

    def weave(self, *arguments: str, good: bool = True) -> str:
        """Run a command that asks nothing; return its output."""
        return finish(self.type(*arguments), good)


def finish(child: pexpect.spawn[str], good: bool = True) -> str:
    child.expect(pexpect.EOF)
    child.close()
    said = COLOUR.sub("", child.before or "").replace("\r\n", "\n")
    assert (child.exitstatus == 0) is good, said
    assert "Traceback" not in said
    return said


@pytest.fixture
def desk(small: Small) -> Desk:
    return Desk(small)


def test_from_a_title_to_a_published_note(desk: Desk) -> None:
    site = desk.site
    assert "docs/notes/attention-sinks.md: a draft" in desk.weave("new", "Attention sinks")
    said = desk.weave("run", "attention_sinks")
    assert re.search(r"code/notebooks/attention_sinks.py ran in [\d.]+ s", said)
    assert "4 numbers hold" in desk.weave("check")
    # The author writes: another measurement, and what it gives.
    site.replace("code/notebooks/attention_sinks.py", "range(5)", "range(7)")
    assert "attention_sinks.py: the code of cell 'setup' changed" in desk.weave("stale")
    desk.weave("run")
    said = desk.weave("check")
    assert "draft: docs/notes/attention-sinks.md" in said and "the note says 16" in said, "told, and stops nothing"
    fixing = desk.type("fix")
    fixing.expect_exact("rewrite 1 file? [y/N]:")
    fixing.sendline("y")
    finish(fixing)
    assert "Of [7](" in site.read("docs/notes/attention-sinks.md") and "[36](" in site.read(
        "docs/notes/attention-sinks.md"
    )
    site.replace("docs/notes/attention-sinks.md", "draft: true\n", "")
    said = desk.weave("check")
    assert "4 numbers hold" in said and "draft" not in said
    assert site.build().returncode == 0
    assert (site.root / "site/notes/attention-sinks/index.html").is_file()


def test_an_evening_with_the_log(desk: Desk) -> None:
    place = Layout(desk.site.root)
    begun = desk.type("start")
    begun.expect_exact("there is no log entry for today yet; it is made now")
    begun.expect_exact("title of today's entry: ")
    begun.sendline("")  # nothing: it asks again
    begun.expect_exact("title of today's entry: ")
    begun.sendline("Why the heads are silent")
    assert "session began at 19:11" in finish(begun)
    entry = "docs/log/posts/2026-11-25-why-the-heads-are-silent.md"
    desk.clock = "2026-11-25T20:00"
    assert f"a session is open since 19:11 ({entry}); weave stop ends it" in desk.weave("start", good=False)
    desk.site.write(entry, desk.site.read(entry) + "\n- [ ] Ask the second head.\n")
    desk.clock = "2026-11-26T00:25"
    assert "19:11-00:25, past midnight: 5:14 hours" in desk.weave("stop")
    assert front_matter.meta(desk.site.read(entry))["sessions"] == ["19:11-00:25"]
    asked = desk.type("log")
    asked.expect_exact("title of today's entry: ")
    asked.sendline("The second head")
    assert f"1 left to do from {entry}" in finish(asked)
    assert desk.site.read("docs/log/posts/2026-11-26-the-second-head.md").endswith(
        "## TODO\n\n- [ ] Ask the second head.\n"
    )
    assert "is today's entry already; nothing was written" in desk.weave("log", "Another")
    said = desk.weave("next")
    assert said.count("Ask the second head.") == 1 and "2026-11-26-the-second-head.md:" in said
    assert {path.name for path in (place.root / "docs/log/posts").iterdir()} == {
        "2026-11-25-why-the-heads-are-silent.md",
        "2026-11-26-the-second-head.md",
    }


@pytest.mark.parametrize(
    "leave", [lambda child: child.sendintr(), lambda child: child.sendeof()], ids=["Ctrl-C", "Ctrl-D"]
)
@pytest.mark.parametrize("command", ["log", "start"])
def test_who_leaves_at_the_question_has_written_nothing(
    desk: Desk, command: str, leave: Callable[[pexpect.spawn[str]], None]
) -> None:
    child = desk.type(command)
    child.expect_exact("title of today's entry: ")
    for _ in range(20):  # a key pressed in the very moment in which Python begins to read is lost; one presses again
        leave(child)
        if child.expect_exact([pexpect.EOF, pexpect.TIMEOUT], timeout=3) == 0:
            break
    child.close()
    assert "Aborted!" in child.before and child.exitstatus == 1
    assert not (desk.site.root / "docs/log").exists()


def test_snippets_speak_while_they_run(desk: Desk) -> None:
    """A cell's output appears before the next cell ends; Ctrl-C stops the run."""
    blocks = "\n```python\nprint('first')\n```\n\n```python\nimport time\ntime.sleep(600)\n```\n"
    desk.site.write("docs/notes/heat.md", desk.site.read("docs/notes/heat.md") + blocks)
    child = desk.type("snippets", "heat")
    child.expect_exact("first")
    child.expect(r"docs/notes/heat\.md:\d+")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.signalstatus == signal.SIGINT or child.exitstatus not in (0, None)
    assert "Traceback" not in (child.before or "")


def test_commands_and_names_complete_on_tab(desk: Desk) -> None:
    """In a real bash, with the script that `weave completion bash` prints."""
    shim = '#!/bin/sh\nexec "$WEAVE_PYTHON" -c "from weave.cli import main; main(prog_name=\'weave\')" "$@"\n'
    desk.site.write("bin/weave", shim)
    (desk.site.root / "bin/weave").chmod(0o755)
    env = {
        **desk.site.env, "WEAVE_PYTHON": sys.executable, "TERM": "dumb", "PS1": "> ",
        "PATH": f"{desk.site.root}/bin:{os.environ['PATH']}", "INPUTRC": "/dev/null",
    }  # fmt: skip
    bash = pexpect.spawn(
        "bash", ["--norc", "--noprofile", "-i"], cwd=str(desk.site.root), env=env,  # type: ignore[arg-type]
        encoding="utf-8", timeout=TOOK,
    )  # fmt: skip
    bash.expect_exact("> ")
    bash.sendline('eval "$(weave completion bash)"; echo re""ady')
    bash.expect_exact("\nready")
    bash.send("weave snip\t")
    bash.expect_exact("weave snippets ")
    bash.send("he\t")
    bash.expect_exact("heat ")
    bash.sendline('; echo do""ne')
    bash.expect_exact("docs/notes/heat.md has no Python snippets")
    bash.expect_exact("\ndone")
    bash.close(force=True)
