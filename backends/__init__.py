"""Engines that turn tokens into tokens, each in a child process of its own. Knows nothing of the daemon above it."""
