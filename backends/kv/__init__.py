"""The KV cache outside the engine's cells: blocks by key in RAM and on the SSD."""
