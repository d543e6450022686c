"""A live element is one file: a new one works on a small site without any other change."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MKDOCS = """
site_name: Small
theme: {name: material, font: false}
plugins: []
extra_javascript: [{path: assets/live/live.js, type: module}]
hooks: [code/live/hook.py]
"""
PAGE = """# Home

<model-size model="one-layer">With JavaScript, the size of the model is here.</model-size>

<py-lab models="smeared one-layer"></py-lab>
"""
ELEMENT = """
import { element } from "../lib/element.js";
import { LiveFigure } from "../lib/figure.js";
import { load } from "../lib/model.js";

export default class ModelSize extends LiveFigure {
  static label = "Try it: how large is it?";

  async start() {
    const { model, tokenizer } = await load(this);
    const token = tokenizer.show(tokenizer.encode(" peace")[0]);
    this.show(element("p", { textContent: `${model.heads} heads, “${token}”` }));
  }
}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A site with one page that has a new element, beside a copy of code/live."""
    shutil.copytree(ROOT / "code/live", tmp_path / "code/live", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("node_modules", "code/checkpoints", "code/residual", "code/weave"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").mkdir()
    (tmp_path / "mkdocs.yml").write_text(MKDOCS)
    (tmp_path / "docs/index.md").write_text(PAGE)
    (tmp_path / "code/live/elements/model-size.js").write_text(ELEMENT)
    return tmp_path


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def test_a_new_element_works_on_a_page_without_any_other_change(folder: Path, browser: Any) -> None:
    built = build(folder)
    assert built.returncode == 0, built.stdout + built.stderr
    models = sorted(path.name for path in (folder / "site/assets/live/models").iterdir())
    expected = [f"{name}.{ending}" for name in ("one-layer", "smeared") for ending in ("safetensors", "tokenizer.json")]
    assert models == expected, "those that a page names, and no others"
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder / "site")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    try:
        page = browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("response", lambda answer: problems.append(answer.url) if answer.status >= 400 else None)
        page.goto(address)
        figure = page.locator("model-size")
        figure.get_by_role("button", name="how large").click()
        figure.get_by_text("12 heads, “ peace”").wait_for()
        assert problems == []
        page.close()

        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(address)
        assert page.locator("model-size").inner_text() == "With JavaScript, the size of the model is here."
        context.close()
    finally:
        server.shutdown()
        server.server_close()


def test_names_that_nothing_has_fail_the_build_with_their_lines(folder: Path) -> None:
    (folder / "docs/index.md").write_text('# Home\n\n<model-size model="one-lair">\n\n<modell-size>\n')
    built = build(folder)
    assert built.returncode != 0
    for said in (
        "docs/index.md:3: <model-size> names the model 'one-lair', but code/checkpoints",
        "docs/index.md:5: <modell-size> is not a live element; code/live/elements has",
    ):
        assert said in built.stdout + built.stderr
