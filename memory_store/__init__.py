"""The local memory: one SQLite file. Knows nothing of engines or the daemon."""
