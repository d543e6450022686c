"""Turns notebooks into results: parse, execute, record what was read, store, and know when a result is stale."""
