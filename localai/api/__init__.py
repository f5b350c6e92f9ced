"""Dialects over HTTP: each module translates one to and from `localai.messages`, and decides nothing else."""
