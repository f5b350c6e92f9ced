"""The terminal chat. It talks to the daemon through `localai.client` and to nothing else."""
