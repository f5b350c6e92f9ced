"""Long runs, not collected by pytest."""
