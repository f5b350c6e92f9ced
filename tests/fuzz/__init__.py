"""Long runs that look for what breaks the daemon; a short slice of each is in the suite."""
