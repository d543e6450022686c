"""The development container for Codespaces and VS Code does what README says."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONTAINER = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text("utf-8"))
README = (ROOT / "README.md").read_text("utf-8")


def test_its_commands_are_those_of_the_readme() -> None:
    commands = [value for key, value in CONTAINER.items() if key.endswith("Command")]
    assert "make serve" in commands
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for command in commands:
        assert command in README, command
        assert re.fullmatch(r"make [a-z]+", command) and command.removeprefix("make ") in targets, command


def test_its_image_is_pinned_to_a_python_that_the_project_supports() -> None:
    match = re.fullmatch(r"[\w./-]+:\d+-(\d+)\.(\d+)-[a-z]+", CONTAINER["image"])
    assert match, "the image names its own version, Python's and Debian's"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    least = project["requires-python"].removeprefix(">=").split(".")
    assert (int(match[1]), int(match[2])) >= (int(least[0]), int(least[1]))


def test_it_forwards_the_port_of_the_site() -> None:
    port = re.search(r"^ADDR +\?= .*:(\d+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert port and CONTAINER["forwardPorts"] == [int(port[1])]
    assert list(CONTAINER["portsAttributes"]) == [port[1]]
