"""Settings and checks for all tests."""

import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Before torch is imported: two workers with two threads each slow each other down on tensors of a few hundred numbers.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A process that a shell started in the background ignores Ctrl-C, and so do its children. Some tests send it, so
# restore its usual effect here.
signal.signal(signal.SIGINT, signal.default_int_handler)

# `make test` draws the same examples each time, so unchanged code cannot fail. The weekly run draws new ones, and
# more of them: pytest --hypothesis-profile weekly.
settings.register_profile("test", derandomize=True, max_examples=50)
settings.register_profile("weekly", max_examples=300, print_blob=True)
settings.load_profile("test")


def pytest_xdist_auto_num_workers() -> int:
    """Return one more than the number of cores: a test that waits for a browser or a server leaves its core idle."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """Fail a test that changes torch's global settings; otherwise later tests would fail far from the cause."""
    yield
    if torch := sys.modules.get("torch"):
        assert torch.is_grad_enabled(), "gradients are off: something called torch.set_grad_enabled(False)"
        assert torch.get_default_dtype() == torch.float32, "something called torch.set_default_dtype"


# The folders whose files take longest: begun last, one of them would run on while the other workers are idle.
LONGEST = ("browser", "notes", "site", "author", "serve", "independent", "training")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked weekly, except in the weekly run, and begin with the longest files."""
    items.sort(key=lambda item: item.path.parent.name not in LONGEST)
    if config.getoption("--hypothesis-profile") != "weekly":
        for item in items:
            if item.get_closest_marker("weekly"):
                item.add_marker(pytest.mark.skip(reason="weekly: pytest --hypothesis-profile weekly"))
