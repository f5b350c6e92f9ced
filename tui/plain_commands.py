"""The slash commands of the chat in lines: a talk as it stands and an argument enter, lines of text leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import quote

from localai.client import Client
from localai.errors import BadRequest, LocalaiError
from localai.sanitize import one_line
from tui.bench_screen import bench_text
from tui.commands import help_of
from tui.compacting import Compacting
from tui.dashboard import board_text, reading_of
from tui.fetching import PULL, pull_text
from tui.files import kind_of, written
from tui.memory_panel import recalled, recalled_text
from tui.models import check_model, cost_text, costs_of, known_models, model_text
from tui.options import option_of, options_text
from tui.wire import Chat, ChatLine, Figures, chat_lines_of, chat_of

_ROOT = "/localai/conversations"
_WIDTH = 100


@dataclass(slots=True, eq=False)
class Standing:
    """What the next message goes to. `asked` is the last question's id, `listed` what /list showed last."""

    client: Client
    say: Callable[[str], None]
    conversation: str | None
    model: str | None
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    asked: str | None = None
    figures: Figures = field(default_factory=Figures)
    listed: tuple[ChatLine, ...] = ()

    @property
    def path(self) -> str:
        """Of the conversation. Raises BadRequest where there is none."""
        if self.conversation is None:
            raise BadRequest("there is no conversation yet", "it begins with the first message")
        return f"{_ROOT}/{quote(self.conversation)}"

    def chat(self) -> Chat:
        return chat_of(self.client.get(self.path))

    def read_out(self) -> None:
        """What was said so far."""
        chat = self.chat()
        self.asked, self.figures = None, Figures()
        for message in chat.messages:
            self.say(f"{'You' if message.role == 'user' else 'Answer'}: {message.content}")
            if message.role == "user":
                self.asked = message.id
            else:
                self.figures = message.figures


def _help(now: Standing, _: str) -> None:
    for name, command in COMMANDS.items():
        now.say(f"{f'{name} {command.argument}'.strip():24}{command.help}")
    now.say(f"{'/again':24}answer the last question anew\n{'/quit':24}leave; the daemon goes on")


def _new(now: Standing, _: str) -> None:
    now.conversation = now.asked = None
    now.options.clear()
    now.figures = Figures()
    now.say("A new conversation.")


def _list(now: Standing, words: str) -> None:
    now.listed = chat_lines_of(now.client.get(f"{_ROOT}?limit=20&search={quote(words)}"))
    for number, chat in enumerate(now.listed, 1):
        now.say(f"{number:3}  {datetime.fromtimestamp(chat.updated):%Y-%m-%d %H:%M}  {chat.title}  {chat.id}")
    now.say("/open NUMBER opens one." if now.listed else "There are no such conversations.")


def _open(now: Standing, which: str) -> None:
    at = int(which) - 1 if which.isdecimal() and len(which) < 4 else None
    if at is not None and not 0 <= at < len(now.listed):
        raise BadRequest(f"there is no conversation {which} in the list", "/list shows what there is")
    chosen = now.listed[at].id if at is not None else which
    if not chosen:
        raise BadRequest("which one is to be opened is not said", "write a number of /list, or an id")
    now.client.get(f"{_ROOT}/{quote(chosen)}")
    # It has a model of its own.
    now.conversation, now.model = chosen, None
    now.options.clear()
    now.read_out()


def _model(now: Standing, name: str) -> None:
    if name:
        check_model(now.client, name)
        now.model = name
        if now.conversation is not None:
            now.client.patch(now.path, {"model": name})
        now.say(f"The next answers come from {one_line(name)}.")
        return
    now.say(f"Now: {one_line(now.model or now.figures.model or 'default')}")
    for line in known_models(now.client):
        now.say(f"  {model_text(line)}")
        if line.guess is not None:
            now.say(f"      {cost_text(line.guess)}")
    now.say("/model NAME takes one, /plan NAME tells what it would cost here, /pull NAME gets one.")


def _plan(now: Standing, name: str) -> None:
    name = name or now.model or now.figures.model or "default"
    for cost in costs_of(now.client.get(f"/localai/plan?model={quote(name)}", timeout=60.0)):
        now.say(f"  {cost_text(cost)}")


def _pull(now: Standing, name: str) -> None:
    said = ""
    with now.client.stream(PULL, {"model": name}) as events:
        for event in events:
            text = pull_text(event.data) if event.data is not None else said
            if text != said:
                said = text
                now.say(f"({text})")
    _model(now, name)


def _system(now: Standing, text: str) -> None:
    if not text:
        known = now.chat().system if now.conversation is not None else ""
        now.say(f"System prompt: {known}" if known else "There is no system prompt.")
    elif now.conversation is None:
        made = now.client.post(_ROOT, {"system": text, **({"model": now.model} if now.model else {})})
        now.conversation = made["id"]
        now.say("The next answers follow it.")
    else:
        now.client.patch(now.path, {"system": text})
        now.say("The next answers follow it.")


def _set(now: Standing, text: str) -> None:
    if text:
        name, value = option_of(text)
        now.options.pop(name, None)
        if value is not None:
            now.options[name] = value
    now.say(options_text(now.options))


def _memory(now: Standing, _: str) -> None:
    used = now.figures.memories or ()
    for each in used:
        now.say(f"  {recalled_text(recalled(now.client, each))}")
    now.say(f"{len(used)} recalled for the last answer." if used else "No memory was recalled for the last answer.")
    if now.figures.memory_fallback:
        now.say(f"Memories were found by {now.figures.memory_fallback}.")


def _remember(now: Standing, text: str) -> None:
    now.client.post("/localai/memory", {"text": text})
    now.say("Remembered.")


def _energy(now: Standing, _: str) -> None:
    status, energy = now.client.get("/localai/status"), now.client.get("/localai/energy?days=1")
    now.say(board_text((reading_of(status, energy, time()),), _WIDTH))


def _bench(now: Standing, _: str) -> None:
    now.say(bench_text(now.client.get("/localai/bench")))


def _export(now: Standing, kind: str) -> None:
    body = now.client.get(f"{now.path}/export?kind={kind_of(kind)}")
    now.say(f"Written: {written(now.folder / Path(body['name']).name, body['content'])}")


def _compact(now: Standing, _: str) -> None:
    context = now.chat().room.n_ctx
    assert now.conversation is not None
    made = Compacting(now.client, now.conversation, now.model or now.figures.model, context).run(now.say)
    if made is None:
        raise LocalaiError("the summary was stopped", "/compact begins again")
    now.conversation = made.conversation
    now.asked = next((m.id for m in reversed(now.chat().messages) if m.role == "user"), None)
    now.say(f"{made.text} The whole conversation is kept beside it: /list.")


def _rename(now: Standing, title: str) -> None:
    body = now.client.patch(now.path, {"title": title})
    now.say(f"This conversation is called {one_line(body['title'])} now.")


@dataclass(frozen=True, slots=True)
class PlainCommand:
    """`argument` in brackets may be left out."""

    run: Callable[[Standing, str], None]
    help: str
    argument: str = ""

    def act(self, now: Standing, argument: str) -> None:
        """Raises BadRequest where what it needs is left out."""
        if self.argument and not argument and not self.argument.startswith("["):
            raise BadRequest(f"{self.argument} is missing", self.help)
        self.run(now, argument)


COMMANDS = {
    "/help": PlainCommand(_help, "all commands"),
    "/list": PlainCommand(_list, "earlier conversations, or those that hold or mean these words", "[WORDS]"),
    "/open": PlainCommand(_open, "go on with a conversation of the list", "NUMBER"),
    "/new": PlainCommand(_new, help_of("new")),
    "/model": PlainCommand(_model, "take this model; without a name, list what there is", "[NAME]"),
    "/plan": PlainCommand(_plan, "what a model would cost here", "[NAME]"),
    "/pull": PlainCommand(_pull, help_of("pull"), "NAME"),
    "/system": PlainCommand(_system, help_of("system"), "[TEXT]"),
    "/set": PlainCommand(_set, help_of("set"), "[NAME VALUE]"),
    "/memory": PlainCommand(_memory, help_of("memory")),
    "/remember": PlainCommand(_remember, help_of("remember"), "TEXT"),
    "/energy": PlainCommand(_energy, help_of("energy")),
    "/bench": PlainCommand(_bench, help_of("bench")),
    "/export": PlainCommand(_export, help_of("export"), "[KIND]"),
    "/compact": PlainCommand(_compact, help_of("compact")),
    "/rename": PlainCommand(_rename, help_of("rename"), "TITLE"),
}
