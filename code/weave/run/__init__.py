"""Turns notebooks into results: parse, execute, record what was read, store, say why a result is stale."""
