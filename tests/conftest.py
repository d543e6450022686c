"""For every test."""

import os
import signal

from hypothesis import settings

# Before torch is imported: two workers with two threads each wait for one another on tensors of a few hundred numbers.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A run that a shell started in the background ignores Ctrl-C, and so does each process that it starts. Some tests
# press it; here it means again what it means at a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)

# `make test` draws the same examples each time: whoever changed nothing breaks nothing. The weekly run draws new ones,
# and more of them: pytest --hypothesis-profile weekly.
settings.register_profile("test", derandomize=True)
settings.register_profile("weekly", max_examples=300, print_blob=True)
settings.load_profile("test")
