"""The site's own JavaScript: it type-checks strictly, and its tests pass."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NODE = shutil.which("node") or str(ROOT / ".venv/bin/node")


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_types() -> None:
    files = sorted(str(path) for folder in ("live", "weave") for path in (ROOT / "code" / folder).rglob("*.js"))
    assert len(files) >= 10
    strict = [
        "--noEmit",
        "--allowJs",
        "--checkJs",
        "--strict",
        "--target",
        "es2023",
        "--lib",
        "es2023,dom,dom.iterable",
    ]
    run(NODE, "node_modules/typescript/bin/tsc", *strict, "--module", "esnext", "--moduleResolution", "bundler", *files)


def test_node() -> None:
    run(NODE, "--test", "tests/live/live.test.mjs")
