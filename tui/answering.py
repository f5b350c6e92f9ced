"""One answer in a conversation: asked for, shown as it comes, stopped, tried again."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

from textual.message import Message

from localai.sanitize import clean, one_line
from tui.conversation import ROOT, ConversationScreen, Earlier
from tui.gauges import progress_text
from tui.reply import Reply
from tui.tree import Node
from tui.turns import Turn, ending_text, error_text
from tui.wire import (
    Called,
    Created,
    Figures,
    Finished,
    Opened,
    Progress,
    ReplyEvent,
    Text,
    ToolAsked,
    ToolCall,
    ToolUsed,
)

SHORTEST_DRAW_S = 0.05
_TYPING_S = 0.1
"""An answer waits for so long after a key, so that what is typed shows first, but not longer than _LONGEST_DRAW_S."""
_LONGEST_DRAW_S = 0.25
_SHARE = 8.0
"""Drawing takes at most about 1/8 of a core: the next one waits so many times what the last one took."""


class Tick(Message):
    """Time to show what has arrived of the answer."""

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, Tick)


class AnsweringScreen(ConversationScreen):
    """`reply` is the answer that is being written, if one is."""

    @property
    def working(self) -> bool:
        """True while there is something that Esc stops."""
        return self.reply is not None

    def busy(self) -> bool:
        """True, and said, while an answer is being written."""
        if self.reply is not None:
            self.notify("An answer is being written. Esc stops it.")
        return self.reply is not None

    async def leave(self) -> None:
        """Its daemon ends the answer, and keeps what it took."""
        if self.reply is not None:
            self.reply.close()
            await self._end(self.reply)
        self._answer = None

    def ask(self, text: str, parent: str | None) -> None:
        """Show the question and send it. Until the daemon has stored it, a failure gives it back."""
        self._clear("notice", "info")
        self.earlier.append(Earlier(self.leaf, text))
        self._question = Turn(role="user", content=clean(text), parent=parent)
        self.transcript.select(None)
        self.transcript.add(self._question)
        # The parent is always named: sent twice, a question becomes a second branch and no answer to itself.
        self._start({"content": text, "parent": parent})

    def regenerate(self) -> None:
        """Answer the last question anew, as another branch."""
        question = next((turn for turn in reversed(self.transcript.turns) if turn.role == "user"), None)
        if question is None or question.id is None:
            self.notify("There is no question to answer again.")
            return
        self._question = question
        self.earlier.append(Earlier(self.leaf, ""))
        self._start({"parent": question.id})

    def retry(self) -> None:
        """Repeat what failed, or answer the last question anew."""
        if not self.busy():
            repeat, self._repeat = self._repeat, None
            self.call_later(repeat or self.regenerate)

    def stop(self) -> None:
        """End the answer with what it took; asked for twice, without waiting for that."""
        reply = self.reply
        if reply is not None and reply.stopped:
            reply.close()
        elif reply is not None:
            reply.stopped = True
            self._say("stopping…")
            self.run_worker(reply.stop, thread=True)

    def _start(self, body: dict[str, Any]) -> None:
        self._answer, self._reason = None, None
        self.asked += 1
        self.reply = Reply(self.client, self.conversation, self.model, {**self.options, **body})
        self._say("sending…")
        reply = self.reply
        self.run_worker(reply.run, thread=True)
        self._draw_later(0.0)
        self.refresh_bindings()

    def _draw_later(self, spent: float) -> None:
        # A message, because a timer's own callback runs beside the handlers.
        self.set_timer(max(SHORTEST_DRAW_S, _SHARE * spent), lambda: self.post_message(Tick()))

    async def on_tick(self) -> None:
        """Show what has arrived since the last time."""
        reply = self.reply
        if reply is None:
            return
        now = time.monotonic()
        if now - self.typed_at < _TYPING_S and now - self._drawn_at < _LONGEST_DRAW_S:
            self._draw_later(0.0)
            return
        begun, self._drawn_at = time.thread_time(), now
        # Asked before the inbox is emptied, so that nothing can come in between.
        over = reply.over
        for event in reply.take():
            self._show(reply, event)
        if self._answer is not None:
            self.transcript.changed(self._answer)
        if over:
            await self._end(reply)
        else:
            self._draw_later(time.thread_time() - begun)

    def _show(self, reply: Reply, event: ReplyEvent) -> None:
        answer = self._answer
        match event:
            case Created():
                self.conversation = event.conversation
            case Opened():
                self._open(event)
            case Progress():
                self._say(progress_text(event))
            case Text() if answer is not None and reply.stopped:
                answer.write(event.content, event.reasoning)
            case Text() if answer is not None:
                self._say(f"answering, about {reply.rate:.0f} tok/s" if reply.rate else "answering…", noted="")
                answer.write(event.content, event.reasoning)
            case Called() if answer is not None:
                answer.calls = _called(answer.calls, event)
            case ToolAsked():
                self.tool_asked(event)
            case ToolUsed() if answer is not None:
                self.tool_asked(None)
                answer.calls = (*answer.calls, event.call)
            case Finished():
                self._reason = event.reason
            case Figures():
                self._set_figures(self.figures.updated(event))
                if answer is not None:
                    answer.figures = event

    def _open(self, opened: Opened) -> None:
        """The daemon has stored the question; what the last answer took is not said of this one."""
        self._set_figures(self.figures.before_an_answer())
        self.leaf = opened.assistant
        question = self._question
        if question is not None and opened.user is not None:
            question.id = opened.user
            self.branching.add(Node(opened.user, question.parent, "user", one_line(question.content)[:80]))
            self._truncate(question.parent)
            self.transcript.add(question)
        if question is not None and question.id is not None:
            self._truncate(question.id)
            self.branching.add(Node(opened.assistant, question.id, "assistant", "…"))
        self._answer = Turn(role="assistant", id=opened.assistant, parent=question.id if question else None)
        self._answer.siblings = self.branching.place(opened.assistant)
        if question is not None:
            question.siblings = self.branching.place(question.id or "")
            self.transcript.changed(question)
        self.transcript.add(self._answer)
        self.transcript.follow()
        self._say("waiting for the model…")

    async def _end(self, reply: Reply) -> None:
        self.reply = None
        self.tool_asked(None)
        self._say("", noted="")
        self.refresh_bindings()
        answer = self._answer
        if answer is not None:
            answer.finish()
            ending = ending_text("cancelled" if reply.stopped else self._reason or "stop", answer.figures.stopped)
            answer.note = error_text(reply.error, self.key_of("again")) if reply.error is not None else ending
            answer.failed = reply.error is not None
            self.transcript.changed(answer)
        else:
            self._take_back(reply)
        if reply.error is None:
            self._retitle()
            self.refresh_today()

    def _retitle(self) -> None:
        """The daemon has named the conversation after its first message."""
        conversation = self.conversation
        if conversation is not None and not self.chat_title:

            def titled(body: dict[str, Any]) -> None:
                if body["id"] == self.conversation:
                    self.set_title(one_line(body.get("title") or ""))

            self.fetch(lambda: self.client.get(f"{ROOT}/{quote(conversation)}"), titled)

    def _take_back(self, reply: Reply) -> None:
        """No answer has begun: what was typed returns to the prompt, before what has been typed since."""
        if self.earlier:
            self.earlier.pop()
        if reply.question is not None and self._question is not None:
            self.transcript.take_away(self._question)
            self.put_back(reply.question)
            self._repeat = self.send_again
        if reply.error is not None:
            self._fail(reply.error)

    def _truncate(self, last: str | None) -> None:
        """Take away what follows the message `last`, all of it for None."""
        ids = [turn.id for turn in self.transcript.turns]
        after = 0 if last is None else ids.index(last) + 1 if last in ids else len(ids)
        gone = self.transcript.turns[after:]
        if gone:
            self.transcript.take_away(*gone)

    def _say(self, text: str, *, noted: str | None = None) -> None:
        """What is going on: in the gauges, and under the answer (`noted` where that is to differ)."""
        self.gauges.set_activity(text)
        if self._answer is not None:
            self._answer.note = text if noted is None else noted


def _called(calls: tuple[ToolCall, ...], piece: Called) -> tuple[ToolCall, ...]:
    known = [*calls, *[ToolCall("", "")] * (piece.index + 1 - len(calls))]
    before = known[piece.index]
    known[piece.index] = ToolCall(before.name + piece.name, before.arguments + piece.arguments)
    return tuple(known)
