"""Models that run on another machine, behind an OpenAI-compatible address, used only where a request names one."""
