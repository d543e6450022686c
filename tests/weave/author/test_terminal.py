"""The terminal pictures of docs/pages/writing.md are what the commands say today."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "docs/assets/terminal"
PICTURES = sorted(FOLDER.glob("*.svg"))


def test_recorded_again_they_are_the_same(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("record_terminal", FOLDER / "record.py")
    assert spec and spec.loader
    recorder = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recorder)
    recorder.record(tmp_path)
    now = {path.name: path.read_text("utf-8") for path in tmp_path.glob("*.svg")}
    then = {path.name: path.read_text("utf-8") for path in PICTURES}
    assert now.keys() == then.keys(), "run make terminal"
    for name, picture in now.items():
        assert said(picture) == said(then[name]), f"{name} is no longer what the command says: run make terminal"
        assert picture == then[name], f"{name} is drawn otherwise: run make terminal"


def said(picture: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_a_picture_is_text_that_asks_nobody_for_anything(picture: Path) -> None:
    text = picture.read_text("utf-8")
    root = ElementTree.fromstring(text)
    assert root.get("role") == "img" and len(root.get("aria-label") or "") > 20
    assert said(text)[0].startswith("$") and "weave" in said(text)[1]
    assert not re.search(r"href|url\(|@import|<script|<image|<foreignObject", text)
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"/tmp/|/home/|/root/|/Users/", text), "no machine's paths"


def test_the_page_shows_each_of_them_with_what_to_see() -> None:
    page = (ROOT / "docs/pages/writing.md").read_text("utf-8")
    shown = re.findall(r"^!\[(.{20,}[.])\]\(\.\./assets/terminal/(\w+\.svg)\)$", page, re.MULTILINE)
    assert sorted(name for _, name in shown) == [path.name for path in PICTURES]
