"""localai: a daemon that runs language models on the user's own device."""

__version__ = "0.1.0"
