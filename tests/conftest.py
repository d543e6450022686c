"""For every test."""

import signal

# A run that a shell started in the background ignores Ctrl-C, and so does each process that it starts. Some tests
# press it; here it means again what it means at a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)
