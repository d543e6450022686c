"""For every test."""

import os
import signal

# Before torch is imported: two workers with two threads each wait for one another on tensors of a few hundred numbers.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A run that a shell started in the background ignores Ctrl-C, and so does each process that it starts. Some tests
# press it; here it means again what it means at a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)
