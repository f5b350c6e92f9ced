"""The chat screen: one conversation that lives in the daemon, shown, continued, stopped and tried again.

It reaches the daemon through the client it is given, in threads, and keeps nothing that a restart would miss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, ClassVar

from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Footer, Static

from localai.client import Client
from localai.errors import LocalaiError
from tui.chooser import Chooser
from tui.help import Help
from tui.messages import Failed, Healthy, Listed, Loaded, Tick, Titled
from tui.prompt import Prompt
from tui.reply import Reply
from tui.status import StatusLine, progress_text
from tui.transcript import Answer, Question, Transcript, ending_text, error_text
from tui.wire import Created, Figures, Finished, Opened, Progress, ReplyEvent, Text, chat_lines_of, chat_of

DRAWS_PER_SECOND = 20
LISTED = 200


def run(client: Client, conversation: str | None = None, model: str | None = None) -> None:
    """Show the chat until the person leaves; `conversation` is the id of one to continue. Closes the client."""
    try:
        ChatApp(client, conversation, model).run()
    finally:
        client.close()


class ChatApp(App[None]):
    TITLE = "localai"
    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = "Prompt"
    CSS = """
    #title { height: 1; padding: 0 1; background: $panel; text-wrap: nowrap; text-overflow: ellipsis; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "help", "Help"),
        Binding("escape", "stop", "Stop"),
        Binding("ctrl+r", "again", "Again"),
        Binding("ctrl+n", "new", "New"),
        Binding("ctrl+o", "open", "Open"),
        Binding("ctrl+t", "thoughts", "Show or hide thinking", show=False),
        Binding("ctrl+q", "quit", "Quit", priority=True),
    ]

    def __init__(self, client: Client, conversation: str | None = None, model: str | None = None) -> None:
        super().__init__()
        self._client = client
        self._conversation = conversation
        self._model = model
        # Kept by name: a query would search the screen on top, which may be the help.
        self._heading = Static(id="title", markup=False)
        self._transcript = Transcript()
        self._status = StatusLine()
        self._prompt = Prompt()
        self._chat_title = ""
        self._leaf: str | None = None
        self._reply: Reply | None = None
        self._question: Question | None = None
        self._answer: Answer | None = None
        self._reason: str | None = None
        self._figures = Figures()
        self._repeat: Callable[[], object] | None = None
        self._ticks: Timer | None = None

    def compose(self) -> ComposeResult:
        yield self._heading
        yield self._transcript
        yield self._status
        yield self._prompt
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._begin_with(self._conversation)

    def on_unmount(self) -> None:
        # Threads that wait for the daemon would keep the process alive.
        self._client.close()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self._reply is not None if action == "stop" else True

    # What the person does.

    async def on_prompt_submitted(self, event: Prompt.Submitted) -> None:
        if self._reply is not None:
            self._prompt.put_back(event.text)
            self.notify("An answer is being written. Esc stops it.")
        else:
            await self._ask(event.text)

    def action_stop(self) -> None:
        if self._reply is not None:
            self._reply.stop()

    def action_again(self) -> None:
        """Repeat what failed, or answer the last question anew."""
        repeat, self._repeat = self._repeat, None
        if self._reply is not None:
            self.notify("An answer is being written. Esc stops it.")
        else:
            self.call_later(repeat or self._regenerate)

    async def action_new(self) -> None:
        await self._leave()
        self._begin_with(None)

    def action_open(self) -> None:
        self._fetch(
            f"/localai/conversations?limit={LISTED}", lambda body: Listed(chat_lines_of(body)), self.action_open
        )

    def action_help(self) -> None:
        self.push_screen(Help([*Prompt.BINDINGS, *ChatApp.BINDINGS]))

    def action_thoughts(self) -> None:
        answer = self._transcript.last_answer
        if answer is not None:
            answer.toggle_thoughts()

    async def action_scroll_transcript(self, pages: int) -> None:
        await self._transcript.page(pages)

    # Which conversation.

    def _begin_with(self, conversation: str | None) -> None:
        """Show `conversation`, or an empty one that the daemon will hear of with its first message."""
        self._conversation, self._leaf, self._repeat = conversation, None, None
        self._set_figures(Figures(model=self._model or "default"))
        self._set_title("")
        if conversation is None:
            self._fetch("/health", lambda _: Healthy(), lambda: self._begin_with(None))
        else:
            self._load(conversation)

    def _load(self, conversation: str) -> None:
        path = f"/localai/conversations/{conversation}"
        self._fetch(path, lambda body: Loaded(chat_of(body)), lambda: self._load(conversation))

    async def _leave(self) -> None:
        if self._reply is not None:
            self._reply.stop()
            await self._end(self._reply)
        self._answer = None
        await self._transcript.show(())

    async def on_healthy(self) -> None:
        await self._transcript.clear_notices()

    async def on_loaded(self, event: Loaded) -> None:
        chat = event.chat
        if chat.id != self._conversation:
            return
        self._leaf = chat.messages[-1].id if chat.messages else None
        self._set_title(chat.title)
        self._set_figures(Figures(model=self._model or chat.model or "default"))
        await self._transcript.show(chat.messages)

    def on_titled(self, event: Titled) -> None:
        if event.chat.id == self._conversation:
            self._set_title(event.chat.title)

    def on_listed(self, event: Listed) -> None:
        self.push_screen(Chooser(event.chats), self._choose)

    async def _choose(self, conversation: str | None) -> None:
        if conversation is not None:
            await self._leave()
            self._begin_with(conversation)

    async def on_failed(self, event: Failed) -> None:
        self._repeat = event.again
        await self._transcript.fail(event.error)

    # One answer.

    async def _ask(self, text: str) -> None:
        """Show the question and send it. Until the daemon has stored it, a failure puts it back into the prompt."""
        self._question = await self._transcript.ask(text)
        # The parent is always named: sent twice, a question becomes a second branch and no answer to itself.
        self._start({"content": text, "parent": self._leaf})

    def _regenerate(self) -> None:
        question = self._transcript.last_question
        if question is None or question.message is None:
            self.notify("There is no question to answer again.")
        else:
            self._question = question
            self._start({"parent": question.message})

    def _start(self, body: dict[str, Any]) -> None:
        self._answer, self._reason = None, None
        self._reply = Reply(self._client, self._conversation, self._model, body)
        self._say("sending…")
        self._run(self._reply)
        # A message, because a timer's own callback runs beside the handlers, and dies when the timer is stopped.
        self._ticks = self.set_interval(1 / DRAWS_PER_SECOND, lambda: self.post_message(Tick()))
        self.refresh_bindings()

    @work(thread=True)
    def _run(self, reply: Reply) -> None:
        reply.run()

    async def on_tick(self) -> None:
        """Show what has arrived since the last time."""
        reply = self._reply
        if reply is None:
            return
        # Asked before the inbox is emptied, so that nothing can come in between.
        over = reply.over
        for event in reply.take():
            await self._show(reply, event)
        if over:
            await self._end(reply)

    async def _show(self, reply: Reply, event: ReplyEvent) -> None:
        match event:
            case Created():
                self._conversation = event.conversation
            case Opened():
                await self._open(event)
            case Progress():
                self._say(progress_text(event))
            case Text() if self._answer is not None:
                self._say(f"answering, about {reply.rate:.0f} tok/s" if reply.rate else "answering…", noted="")
                await self._answer.write(event.content, event.reasoning)
            case Finished():
                self._reason = event.reason
            case Figures():
                known = {name: value for name, value in asdict(event).items() if value is not None}
                self._set_figures(Figures(**{**asdict(self._figures), **known}))

    async def _open(self, opened: Opened) -> None:
        """The daemon has stored the question."""
        self._leaf = opened.assistant
        if self._question is not None and opened.user is not None:
            self._question.sent(opened.user)
        self._answer = await self._transcript.begin_answer()
        self._say("waiting for the model…")

    async def _end(self, reply: Reply) -> None:
        if self._ticks is not None:
            self._ticks.stop()
        self._reply = None
        self._say("", noted="")
        self.refresh_bindings()
        if self._answer is not None:
            await self._answer.finish()
            self._note_ending(self._answer, reply)
        else:
            await self._take_back(reply)
        if self._conversation is not None and not self._chat_title and reply.error is None:
            path = f"/localai/conversations/{self._conversation}"
            self._fetch(path, lambda body: Titled(chat_of(body)), lambda: None)

    async def _take_back(self, reply: Reply) -> None:
        """No answer has begun: what was typed returns to the prompt, before what has been typed since."""
        if reply.question is not None and self._question is not None:
            await self._question.remove()
            self._prompt.put_back(reply.question)
            self._repeat = self._send_again
        if reply.error is not None:
            await self._transcript.fail(reply.error)

    def _note_ending(self, answer: Answer, reply: Reply) -> None:
        if reply.error is not None:
            answer.note(error_text(reply.error), failed=True)
        else:
            answer.note(ending_text("cancelled" if reply.stopped else self._reason or "stop"))

    def _send_again(self) -> None:
        if self._prompt.text.strip():
            self._prompt.action_submit()
        else:
            self._regenerate()

    # Small things.

    @work(thread=True)
    def _fetch(self, path: str, made: Callable[[dict[str, Any]], Message], again: Callable[[], object]) -> None:
        try:
            self.post_message(made(self._client.get(path)))
        except LocalaiError as error:
            self.post_message(Failed(error, again))

    def _say(self, text: str, *, noted: str | None = None) -> None:
        """What is going on: in the status line, and under the answer (`noted` where that is to differ)."""
        self._status.set_activity(text)
        if self._answer is not None:
            self._answer.note(text if noted is None else noted)

    def _set_figures(self, figures: Figures) -> None:
        self._figures = figures
        self._status.set_figures(figures)

    def _set_title(self, title: str) -> None:
        self._chat_title = title
        self._heading.update(f"localai · {title or 'New conversation'}")
