"""Tools of MCP servers that the user declares, and turns that may call them, each by the user's leave."""
