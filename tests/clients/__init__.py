"""Programs that other people wrote, and the few lines by which they are pointed at a daemon."""
