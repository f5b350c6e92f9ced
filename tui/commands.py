"""Slash commands: what may be typed, what it does, and which action of the chat it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """`action` is one of the chat's; with `argument`, in brackets where it may be left out, it gets the line's rest."""

    name: str
    help: str
    action: str
    argument: str = ""

    @property
    def complete(self) -> bool:
        """True where it means something by itself."""
        return not self.argument or self.argument.startswith("[")


COMMANDS = (
    Command("model", "choose the model and see what each would cost here", "models"),
    Command("use", "use this model for the chat", "use", "MODEL"),
    Command("pull", "get a model of the catalogue or the hub", "pull", "MODEL"),
    Command("system", "show or set the system prompt of this chat", "system", "[TEXT]"),
    Command("set", "show or set temperature, top_p, max_tokens, policy, backend, memory, ...", "set", "[NAME VALUE]"),
    Command("tools", "which tools this chat may use, and whether each asks first", "tools"),
    Command("memory", "what was recalled for the answer", "memory"),
    Command("remember", "keep a text in the memory", "remember", "TEXT"),
    Command("memories", "what you say about yourself: ask, auto (kept at once) or off", "memories", "[MODE]"),
    Command("plan", "what each model would cost here", "models"),
    Command("energy", "engines, caches and power", "dashboard"),
    Command("bench", "the last benchmark", "bench"),
    Command("branches", "all branches of this conversation", "branches"),
    Command("fork", "go on from here in a new conversation", "fork"),
    Command("compact", "go on from a summary, in a new conversation", "compact"),
    Command("undo", "back to what was shown before", "undo"),
    Command("rename", "give this conversation a title", "rename", "TITLE"),
    Command("pin", "keep this conversation at the top of the list, or no longer", "pin"),
    Command("open", "earlier conversations", "open"),
    Command("new", "a new conversation", "new"),
    Command("export", "write this conversation to a file: markdown, json or html", "export", "[KIND]"),
    Command("import", "bring in chats of ChatGPT, Open WebUI, Ollama or localai", "import", "FILE"),
    Command("attach", "send a file or folder along", "attach", "PATH"),
    Command("editor", "write in $EDITOR", "editor"),
    Command("copy", "copy the chosen code, else the answer", "copy"),
    Command("save", "save the chosen code", "save_code", "[FILE]"),
    Command("theme", "dark, light, high contrast, no colour", "theme"),
    Command("id", "how to open this conversation again from a shell", "id"),
    Command("help", "all keys", "help"),
    Command("quit", "leave; the daemon goes on", "quit"),
)


def parsed(text: str) -> tuple[Command, str] | None:
    """The command of a line that begins with / and its argument; None where it names none."""
    word, _, rest = text.strip().partition(" ")
    found = next((command for command in COMMANDS if f"/{command.name}" == word), None)
    return None if found is None else (found, rest.strip())


def help_of(name: str) -> str:
    """What a command does."""
    return next(command.help for command in COMMANDS if command.name == name)
