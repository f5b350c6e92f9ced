"""`python -m localai`: the same as the command `localai`."""

from __future__ import annotations

from localai.cli import main

main()
