"""``weave serve``: whatever is edited, added, renamed, broken and put back, every page is what a clean build makes."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from weave.book.problems import problems as problems_of
from weave.serve.preview import Preview

if TYPE_CHECKING:
    from conftest import Small

HEAT = "code/notebooks/heat.py"
PORT = 8765  # named in pages; nothing listens there
SENTENCES = [
    "It cools.",
    "It cools at [0.5](../../code/notebooks/heat.py#=rate).",
    "It cools at [0.7](../../code/notebooks/heat.py#=rate).",
    "![Words.](../../code/notebooks/heat.py#words)",
    "See [[other]] and [[heat|warmth]].",
    "See [the other](other.md).",
    "A formula: $`\\lambda^2`$.",
    "A slip: $`\\lambbda`$.",
    "See the [theorem](../../tests/test_heat.py#test_cools).",
    "## A heading\n\n[[#A heading]]",
    "- [ ] Why?",
]
CELLS = [
    "print('cooling', 'down')",
    "print('heating', 'up')",
    "claim(more=RATE * 2)\nprint(RATE)",
    "1 / 0",
    "x = 3\nx",
    "open('data.txt').read()",
]
FILES = ("docs", "code", "tests", "mkdocs.yml", "data.txt")


def normal(html: str) -> str:
    """Without what differs on purpose: addresses, how long cells took, the preview's own script."""
    html = re.sub(r'<script type="module" src="[^"]*_weave/page\.js"></script>', "", html)
    html = re.sub(r'<article data-build="\d+"', "<article", html)
    html = html.replace(f"http://127.0.0.1:{PORT}/repo/", "https://example.org/repo/")
    html = re.sub(r'\s*<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)  # of finished sites
    return re.sub(r"<dt>took</dt><dd>[^<]*</dd>", "", html)


def settled(preview: Preview) -> None:
    end = time.monotonic() + 60
    preview.fresh()
    while preview.background.running:
        assert time.monotonic() < end, preview.background.running
        time.sleep(0.02)
        preview.fresh()


def tree(root: Path) -> dict[str, bytes]:
    found = [
        path for name in FILES for path in ([root / name] if (root / name).is_file() else (root / name).rglob("*"))
    ]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found if path.is_file()}


def put(root: Path, wanted: dict[str, bytes]) -> None:
    now = tree(root)
    for name in now.keys() - wanted.keys():
        (root / name).unlink()
    for name, data in wanted.items():
        if now.get(name) != data:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)


def compare(preview: Preview, site: Small, clean: Small) -> None:
    """Every page, or every problem, beside those of a build that knows nothing of what was before."""
    settled(preview)
    put(clean.root, tree(site.root))
    shutil.rmtree(clean.root / "site", ignore_errors=True)
    built = clean.run("mkdocs", "build", "-q")
    said = sorted(re.findall(r"^(?:docs|code|tests)\S*:\d+: .*$", built.stderr, re.MULTILINE))
    assert sorted(str(one) for one in problems_of(preview.book)) == said
    if built.returncode:
        assert said, built.stderr
        return
    pages = {
        path.parent.relative_to(clean.root / "site").as_posix(): path for path in clean.root.rglob("site/**/index.html")
    }
    assert {url.rstrip("/.") for url in preview.shown.pages} == {name.rstrip(".") for name in pages}
    for name, path in pages.items():
        found = preview.answer("" if name == "." else f"{name}/")
        assert found and normal(found[1].decode()) == normal(path.read_text("utf-8")), name


@contextlib.contextmanager
def preview_of(site: Small) -> Any:
    with site.here():
        preview = Preview(str(site.root / "mkdocs.yml"), PORT)
        try:
            yield preview
        finally:
            preview.end()


def test_nothing_is_ever_stale(new_small: Callable[[], Small]) -> None:
    class Author(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.site, self.clean = new_small(), new_small()
            self.stack = contextlib.ExitStack()
            self.preview = self.stack.enter_context(preview_of(self.site))
            self.states = [tree(self.site.root)]

        @initialize()
        def first(self) -> None:
            self.site.write("data.txt", "data")
            settled(self.preview)
            self.states = [tree(self.site.root)]

        def write(self, path: str, text: str) -> None:
            self.site.write(path, text)
            self.states.append(tree(self.site.root))

        @rule(
            note=st.sampled_from(["heat", "other", "third"]), sentences=st.lists(st.sampled_from(SENTENCES), max_size=3)
        )
        def edit_a_note(self, note: str, sentences: list[str]) -> None:
            path = f"docs/notes/{note}.md"
            if note == "heat":
                head = self.states[0][path].decode()
            else:
                head = f"---\ndescription: The {note} one.\n---\n\n# {note.title()}\n"
            self.write(path, head + "".join(f"\n{one}\n" for one in sentences))
            self.see(f"notes/{note}/")

        def see(self, url: str) -> None:
            """A page that is rendered before all others is what it is when all are."""
            self.preview.fresh(url)
            quick = self.preview.answer(url)
            self.preview.fresh()
            whole = self.preview.answer(url)
            if not self.preview.background.running:
                assert quick and whole and normal(quick[1].decode()) == normal(whole[1].decode())

        @rule(note=st.sampled_from(["other", "third"]))
        def delete_a_note(self, note: str) -> None:
            (self.site.root / f"docs/notes/{note}.md").unlink(missing_ok=True)

        @rule()
        def rename_a_note(self) -> None:
            with contextlib.suppress(FileNotFoundError):
                (self.site.root / "docs/notes/other.md").rename(self.site.root / "docs/notes/third.md")

        @rule(cells=st.lists(st.sampled_from(CELLS), max_size=3))
        def edit_the_notebook(self, cells: list[str]) -> None:
            text = self.states[0][HEAT].decode()
            self.write(HEAT, text + "".join(f"\n# %% more-{i}\n{one}\n" for i, one in enumerate(cells)))

        @rule(cell=st.sampled_from(CELLS[:2]), exists=st.booleans())
        def add_or_delete_a_notebook(self, cell: str, exists: bool) -> None:
            if exists:
                self.write("code/notebooks/second.py", f"# %% words\n{cell}\n")
            else:
                (self.site.root / "code/notebooks/second.py").unlink(missing_ok=True)

        @rule(rate=st.sampled_from(["0.5", "0.25", "1 /"]))
        def edit_the_module(self, rate: str) -> None:
            self.write("code/lab.py", f"RATE = {rate}\n")

        @rule(data=st.sampled_from(["data", "more data"]))
        def edit_the_data(self, data: str) -> None:
            self.write("data.txt", data)

        @rule(back=st.integers(0, 5))
        def revert(self, back: int) -> None:
            put(self.site.root, self.states[max(0, len(self.states) - 1 - back)])

        @rule()
        def look(self) -> None:
            self.preview.fresh()

        def teardown(self) -> None:
            try:
                compare(self.preview, self.site, self.clean)
            finally:
                self.stack.close()

    checks = settings(
        max_examples=settings().max_examples // 12,
        stateful_step_count=10,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(Author, settings=checks)


@pytest.fixture
def preview(small: Small) -> Any:
    with preview_of(small) as preview:
        settled(preview)
        yield preview


def page(preview: Preview, path: str) -> str:
    found = preview.answer(path)
    assert found
    return found[1].decode()


def test_a_page_is_marked_while_its_notebook_runs_and_other_pages_do_not_wait(small: Small, preview: Preview) -> None:
    small.replace(HEAT, 'print("cooling", "down")', 'import time; time.sleep(2)\nprint("warming")')
    began = time.monotonic()
    preview.fresh()
    small.replace("docs/index.md", "[Heat]", "[Warmth]")
    preview.fresh()
    assert "Warmth" in page(preview, "") and preview.background.running, "prose does not wait for cells"
    assert "weave-running" in page(preview, "notes/heat/")
    settled(preview)
    assert time.monotonic() - began > 1.9
    assert "weave-running" not in page(preview, "notes/heat/") and "warming" in page(preview, "notebooks/heat/")


def test_an_edit_while_it_runs_ends_that_run(small: Small, preview: Preview) -> None:
    small.replace(HEAT, 'print("cooling", "down")', "import time; time.sleep(50)")
    preview.fresh()
    small.replace(HEAT, "time.sleep(50)", "print('soon')")
    began = time.monotonic()
    settled(preview)
    assert time.monotonic() - began < 20 and "soon" in page(preview, "notebooks/heat/")


def test_an_edit_that_is_undone_while_it_runs_is_a_run_of_its_own(small: Small, preview: Preview) -> None:
    """The run before it was ended, which says nothing of this one."""
    slow = "import time; time.sleep(2); print('slow')"
    small.replace(HEAT, 'print("cooling", "down")', slow)
    preview.fresh()
    time.sleep(0.5)
    small.replace(HEAT, slow, "print('quick')")
    preview.fresh()
    small.replace(HEAT, "print('quick')", slow)
    settled(preview)
    html = page(preview, "notebooks/heat/")
    assert "weave-error" not in html and "slow" in html


def test_an_edit_before_the_process_is_there_ends_that_run(small: Small, preview: Preview, monkeypatch: Any) -> None:
    kernels = preview.book.executor.kernels
    real, begun = kernels.start, threading.Event()

    def start() -> Any:
        begun.wait(20)
        return real()

    monkeypatch.setattr(kernels, "start", start)
    small.replace(HEAT, "from weave import claim", "import time; time.sleep(50)\nfrom weave import claim")
    preview.fresh()
    small.replace(HEAT, "time.sleep(50)", "print('soon')")
    preview.fresh()
    began = time.monotonic()
    begun.set()
    settled(preview)
    assert time.monotonic() - began < 20 and "soon" in page(preview, "notebooks/heat/")


def test_a_notebook_that_reads_what_it_writes_is_told_so_and_runs_no_more(small: Small, preview: Preview) -> None:
    counts = "n = int(open('n').read()); print(n + 1, file=open('n', 'w'))"
    small.write("n", "0")
    small.replace(HEAT, 'print("cooling", "down")', counts)
    settled(preview)
    runs = small.read("n")
    for _ in range(3):
        settled(preview)
    assert "kept changing while it ran" in page(preview, "notebooks/heat/") and small.read("n") == runs
    small.replace(HEAT, counts, "print('warming')")
    settled(preview)
    assert "weave-error" not in page(preview, "notebooks/heat/") and "warming" in page(preview, "notebooks/heat/")


def test_files_that_come_and_go_while_it_looks_are_no_harm(small: Small, preview: Preview) -> None:
    """Editors write such files beside the one they save."""
    over = threading.Event()

    def come_and_go() -> None:
        number = 0
        while not over.is_set():
            number += 1
            (small.root / f"docs/notes/{number % 50}~").touch()
            (small.root / f"docs/notes/{(number + 25) % 50}~").unlink(missing_ok=True)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(300):
            assert str(small.root / "docs/notes/heat.md") in preview.watched.look()
    finally:
        over.set()
        thread.join()


def test_an_error_of_the_server_itself_is_shown_and_ends(small: Small, preview: Preview, monkeypatch: Any) -> None:
    def slip(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(preview.book.executor, "run", slip)
        small.replace(HEAT, 'print("cooling", "down")', 'print("warming")')
        settled(preview)
    assert "no space left" in page(preview, "notebooks/heat/") and "weave-running" not in page(preview, "notes/heat/")
    small.replace(HEAT, "warming", "heating")
    settled(preview)
    assert "weave-error" not in page(preview, "notebooks/heat/") and "heating" in page(preview, "notebooks/heat/")


def test_a_folder_that_a_notebook_lists_is_looked_at(small: Small, preview: Preview) -> None:
    small.write("data/one.txt", "")
    small.replace(HEAT, 'print("cooling", "down")', "import os\nprint(len(os.listdir('data')), 'of them')")
    settled(preview)
    assert "1 of them" in page(preview, "notebooks/heat/")
    small.write("data/two.txt", "")
    settled(preview)
    assert "2 of them" in page(preview, "notebooks/heat/")


@pytest.mark.parametrize("flat", [False, True])
def test_a_page_is_found_whatever_its_file_is_called(small: Small, flat: bool) -> None:
    """Names with spaces and umlauts; pages that are no folders."""
    small.write("docs/notes/Wärme fließt.md", "# Wärme\n\nAlles fließt.\n")
    small.write("docs/log/index.md", "# Log\n")
    if flat:
        small.replace("mkdocs.yml", "theme:", "use_directory_urls: false\ntheme:")
    with preview_of(small) as preview:
        settled(preview)
        path = "notes/Wärme fließt" + (".html" if flat else "/")
        assert "Alles fließt." in page(preview, path)
        small.replace("docs/notes/Wärme fließt.md", "Alles", "Wärme")
        preview.fresh(path)
        assert preview.alone and "Wärme fließt." in page(preview, path)
        for home in ("", "index.html"):
            assert "<title>Small" in page(preview, home)
        assert "Log" in page(preview, "log/") and "Log" in page(preview, "log/index.html")


def test_an_edit_of_the_front_matter_alone_is_seen(small: Small, preview: Preview) -> None:
    """It may be wrong itself, and moves the lines of what is wrong below it."""
    small.replace("docs/notes/heat.md", "[0.5]", "[0.7]")
    settled(preview)
    for line, said in (
        ("needs: [nope]", "3: needs 'nope', which is not a note beside it"),
        ("needs:", "3: 'needs' "),
        ("needs: 3", "3: 'needs' cannot be 3"),
        ("needs: [[a]]", "3: 'needs' cannot be"),
        ("date: 2026-11-31", "3: "),
    ):
        small.replace("docs/notes/heat.md", "title: Heat\n", f"title: Heat\n{line}\n")
        settled(preview)
        problems = [str(one) for one in problems_of(preview.book)]
        assert preview.failure == "" and any(one.startswith(f"docs/notes/heat.md:{said}") for one in problems), problems
        assert line.startswith("date") or any(":9: the note says 0.7" in one for one in problems), problems
        small.replace("docs/notes/heat.md", f"{line}\n", "")


@pytest.mark.parametrize("name", ["v1.2.py", "my book.py", "höhe.py"])
def test_a_number_follows_its_notebook_whatever_that_is_called(small: Small, preview: Preview, name: str) -> None:
    small.write(f"code/notebooks/{name}", "# %% a\nfrom weave import claim\nclaim(x=1)\n")
    small.write("docs/notes/other.md", f"# Other\n\n[1](<../../code/notebooks/{name}#=x>)\n")
    settled(preview)
    assert problems_of(preview.book) == []
    small.replace(f"code/notebooks/{name}", "x=1", "x=2")
    settled(preview)
    assert [one.line for one in problems_of(preview.book)] == [3] and "the note says 1" in page(preview, "notes/other/")


def test_a_site_without_a_first_page(small: Small) -> None:
    (small.root / "docs/index.md").unlink()
    with preview_of(small) as preview:
        settled(preview)
        assert preview.answer("") is None and "How heat decays" in page(preview, "notes/heat/")


def test_settings_that_cannot_be_read_stand_on_the_page(small: Small, preview: Preview) -> None:
    before = small.read("mkdocs.yml")
    small.write("mkdocs.yml", before.replace("plugins:", "plugins: ["))
    preview.fresh()
    assert "mkdocs.yml" in page(preview, "notes/heat/") and "How heat decays" in page(preview, "notes/heat/")
    small.write("mkdocs.yml", before.replace("site_name: Small", "site_name: Tiny"))
    preview.fresh()
    assert "weave-error" not in page(preview, "notes/heat/") and "Tiny" in page(preview, "notes/heat/")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: material", "name: nope", "mkdocs.yml: Aborted with a configuration error!"),
        ("cell_timeout: 10", "cell_timeout: ten", "mkdocs.yml: Aborted with a configuration error!"),
        ("  - weave: {cell_timeout: 10}\n", "", "mkdocs.yml:1: no plugin &#x27;weave&#x27;; add it under plugins"),
    ],
)
def test_settings_that_cannot_be_used_stand_on_the_page(
    small: Small, preview: Preview, old: str, new: str, said: str
) -> None:
    before = small.read("mkdocs.yml")
    small.replace("mkdocs.yml", old, new)
    preview.fresh()
    assert said in page(preview, "notes/heat/") and "How heat decays" in page(preview, "notes/heat/")
    small.write("mkdocs.yml", before)
    preview.fresh()
    assert "weave-error" not in page(preview, "notes/heat/")


def test_everything_that_a_page_asks_for_is_there(small: Small, preview: Preview) -> None:
    html = page(preview, "notes/heat/")
    asked = re.findall(r'(?:href|src)="(\.\./[^"#?]*)', html)
    assert len(asked) > 5
    for one in asked:
        path = (Path("notes/heat") / one).as_posix()
        parts: list[str] = []
        for part in path.split("/"):
            parts = parts[:-1] if part == ".." else [*parts, part]
        url = "/".join(parts) + ("/" if one.endswith("/") and parts else "")
        assert preview.answer(url) is not None, one
    assert (
        b"the decay constant" in (preview.answer("search/search_index.json") or ("", b""))[1].lower()
        or preview.shown.search is None
    )
    assert (
        preview.answer("assets/ledger.json") and preview.answer("_weave/page.js") and preview.answer("nowhere") is None
    )


def beginnings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The commands by which it starts again, which are not executed."""
    began: list[Any] = []
    monkeypatch.setattr("weave.serve.preview.os.execv", lambda *command: began.append(command))
    return began


def test_it_begins_again_when_its_own_code_changes_and_only_then(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    began = beginnings(monkeypatch)
    with preview_of(small) as preview:
        preview.own = [str(small.root / "code")]
        settled(preview)
        small.replace("docs/index.md", "[Heat]", "[Warmth]")
        settled(preview)
        assert began == []
        small.write("code/lab.py", "RATE = 0.5  # the same\n")
        preview.fresh()
        assert len(began) == 1 and began[0][1][1:4] == ["-m", "weave.cli", *began[0][1][3:4]]


def test_it_begins_again_also_while_a_notebook_runs(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread may wait for the lock that the restarting thread holds."""
    began = beginnings(monkeypatch)
    with preview_of(small) as preview:
        preview.own = [str(small.root / "tests")]
        settled(preview)
        small.replace(HEAT, 'print("cooling", "down")', "import time; time.sleep(50)")
        preview.fresh()
        small.replace("tests/test_heat.py", "0.5 < 1", "0.5 < 2")
        looking = threading.Thread(target=preview.fresh, daemon=True)
        looking.start()
        looking.join(20)
        assert began


def test_nothing_is_left_of_it_when_it_ends(small: Small) -> None:
    with preview_of(small) as preview:
        settled(preview)
        made = Path(preview.site.plugin.notebooks.folder.name)
        assert any(made.rglob("heat.ipynb"))
    assert not made.exists()


def test_a_first_link_to_a_test_leads_there_at_once(small: Small) -> None:
    small.write("tests/test_cold.py", "def test_c():\n    assert True\n")
    with preview_of(small) as preview:
        settled(preview)
        link = "[this test](../../tests/test_cold.py#test_c)"
        small.write("docs/notes/heat.md", small.read("docs/notes/heat.md") + f"\n{link}\n")
        preview.fresh("notes/heat/")
        assert 'href="../../source/tests/test_cold.py/#test_c"' in page(preview, "notes/heat/")
        assert preview.answer("source/tests/test_cold.py/")


def test_options_of_the_plugin_follow_its_settings(small: Small) -> None:
    small.write("lib/foo.py", "def f():\n    return 1\n")
    with preview_of(small) as preview:
        settled(preview)
        small.write("docs/notes/heat.md", small.read("docs/notes/heat.md") + "\n[f](../../lib/foo.py#f)\n")
        settled(preview)
        assert problems_of(preview.book) != []
        small.replace(
            "mkdocs.yml", "weave: {cell_timeout: 10}", "weave: {cell_timeout: 20, sources: [tests, code, lib]}"
        )
        settled(preview)
        assert problems_of(preview.book) == []
