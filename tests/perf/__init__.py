"""Benchmarks, run by hand as `python -m tests.perf.NAME`; pytest does not collect them."""
