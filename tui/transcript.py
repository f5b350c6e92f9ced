"""The messages of one conversation, and the answer that is being written at its end.

Clean text enters; what is on the screen is its only output. It knows nothing of the daemon.
"""

from __future__ import annotations

from collections.abc import Sequence

from markdown_it import MarkdownIt
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.widget import Widget
from textual.widgets import Collapsible, Markdown, Static
from textual.widgets.markdown import MarkdownStream

from localai.errors import LocalaiError
from tui.sanitize import clean
from tui.wire import ShownMessage

SHOWN_AT_ONCE = 16
_ENDINGS = {
    "stop": "",
    "tool_calls": "",
    "length": "cut at the token limit",
    "cancelled": "stopped",
    "deadline": "stopped at its deadline",
    "error": "failed",
}


class Question(Static):
    """What the person wrote, as it was typed; paler until the daemon has stored it and given it an id."""

    DEFAULT_CSS = """
    Question { border-left: thick $primary; padding: 0 1; margin: 0 0 1 0; }
    Question.unsent { color: $text-muted; border-left: thick $panel; }
    """

    def __init__(self, text: str, message: str | None = None) -> None:
        super().__init__(clean(text), markup=False)
        self.message = message
        self.set_class(message is None, "unsent")

    def sent(self, message: str) -> None:
        self.message = message
        self.remove_class("unsent")


class Notice(Static):
    """An error that belongs to no answer."""

    DEFAULT_CSS = "Notice { color: $text-error; padding: 0 1; margin: 0 0 1 0; }"

    def __init__(self, error: LocalaiError) -> None:
        super().__init__(error_text(error), markup=False)


class Earlier(Static):
    """Stands for the messages before the first one shown; drawing them all would take a tenth of a second each."""

    DEFAULT_CSS = "Earlier { color: $text-muted; padding: 0 1; margin: 0 0 1 0; }"

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} earlier messages: PageUp shows more", markup=False)


class Answer(Vertical):
    """What the model wrote: thoughts folded away, text as Markdown, and a note on how it stands."""

    DEFAULT_CSS = """
    Answer {
        height: auto;
        margin: 0 0 1 0;
        Collapsible { display: none; border: none; padding: 0 1; background: transparent; }
        Collapsible.filled { display: block; }
        .thoughts { color: $text-muted; }
        Markdown { padding: 0 1; margin: 0; background: transparent; }
        Markdown > MarkdownBlock:last-child { margin-bottom: 0; }
        .note { padding: 0 1; color: $text-muted; text-style: italic; }
        .note.failed { color: $text-error; }
    }
    """

    def __init__(self, content: str = "", reasoning: str = "") -> None:
        super().__init__()
        self._content = content
        self._reasoning = reasoning
        self._thoughts = Static(reasoning, markup=False, classes="thoughts")
        self._fold = Collapsible(self._thoughts, title="Thinking", classes="filled" if reasoning else "")
        self._text = Markdown(content, parser_factory=_parser, open_links=False)
        self._note = Static("", markup=False, classes="note")
        self._note.display = False
        self._stream: MarkdownStream | None = None

    def compose(self) -> ComposeResult:
        yield self._fold
        yield self._text
        yield self._note

    @property
    def content(self) -> str:
        return self._content

    async def write(self, content: str, reasoning: str) -> None:
        """Append; the Markdown widget merges what comes faster than it can draw."""
        if reasoning:
            self._reasoning += reasoning
            self._fold.add_class("filled")
            self._thoughts.update(self._reasoning)
        if content:
            self._content += content
            self._stream = self._stream or Markdown.get_stream(self._text)
            await self._stream.write(content)

    async def finish(self) -> None:
        """Parse the whole text once more: what closed late (a fence, a table) is drawn right only then."""
        if self._stream is not None:
            await self._stream.stop()
            self._stream = None
            await self._text.update(self._content)

    def note(self, text: str, *, failed: bool = False) -> None:
        self._note.update(text)
        self._note.display = bool(text)
        self._note.set_class(failed, "failed")

    def toggle_thoughts(self) -> None:
        self._fold.collapsed = not self._fold.collapsed


class Transcript(VerticalScroll):
    """All messages, scrolled to the end as long as the person does not scroll away from it."""

    DEFAULT_CSS = "Transcript { height: 1fr; padding: 0 1; scrollbar-size-vertical: 1; }"

    def __init__(self) -> None:
        super().__init__()
        self._earlier: Sequence[ShownMessage] = ()

    def on_mount(self) -> None:
        self.anchor()

    async def show(self, messages: Sequence[ShownMessage]) -> None:
        """Replace everything by the end of `messages`; `page` brings the others."""
        self._earlier = messages
        async with self.batch():
            await self.remove_children()
            await self._mount_earlier()
        self.anchor()

    async def page(self, pages: int) -> None:
        """Scroll by whole pages; up from the top, more of the earlier messages are added."""
        if pages > 0:
            self.scroll_page_down(animate=False)
        elif self.scroll_y > 0 or not self._earlier:
            self.scroll_page_up(animate=False)
        else:
            top = self.children[1]
            async with self.batch():
                await self.query(Earlier).remove()
                await self._mount_earlier()
            self.release_anchor()
            self.call_after_refresh(self.scroll_to_widget, top, animate=False)

    async def _mount_earlier(self) -> None:
        self._earlier, now = self._earlier[:-SHOWN_AT_ONCE], self._earlier[-SHOWN_AT_ONCE:]
        views = [view for message in now for view in _views_of(message)]
        marks = [Earlier(len(self._earlier))] if self._earlier else []
        await self.mount_all([*marks, *views], before=0 if self.children else None)

    async def ask(self, text: str) -> Question:
        await self.clear_notices()
        question = Question(text)
        await self.mount(question)
        self.anchor()
        return question

    async def begin_answer(self) -> Answer:
        """A new answer under the last question, in place of the one that is there."""
        for stale in self._after_question():
            await stale.remove()
        answer = Answer()
        await self.mount(answer)
        self.anchor()
        return answer

    async def fail(self, error: LocalaiError) -> None:
        await self.clear_notices()
        await self.mount(Notice(error))
        self.anchor()

    async def clear_notices(self) -> None:
        await self.query(Notice).remove()

    @property
    def last_question(self) -> Question | None:
        return next((view for view in reversed(self.children) if isinstance(view, Question)), None)

    @property
    def last_answer(self) -> Answer | None:
        return next((view for view in reversed(self.children) if isinstance(view, Answer)), None)

    def on_markdown_link_clicked(self, event: Markdown.LinkClicked) -> None:
        """The model wrote the link: only the web is opened, no file and no other program."""
        if event.href.startswith(("https://", "http://")):
            self.app.open_url(event.href)

    def _after_question(self) -> list[Widget]:
        question = self.last_question
        views = list(self.children)
        return views[views.index(question) + 1 :] if question in views else []


def error_text(error: LocalaiError) -> str:
    """The error, what to do about it, and the key that tries again."""
    hint = f"\n{clean(error.hint)}." if error.hint else ""
    return f"{clean(error.message)}.{hint}\nCtrl+R tries again."


def ending_text(reason: str | None) -> str:
    """How an answer ended, in words; "" where it ended by itself."""
    return "incomplete" if reason is None else _ENDINGS.get(reason, reason)


def _views_of(message: ShownMessage) -> list[Widget]:
    if message.role == "user":
        return [Question(message.content, message.id)]
    if message.role != "assistant":
        return []
    answer = Answer(message.content, message.reasoning)
    answer.note(ending_text(message.finish_reason))
    return [answer]


def _parser() -> MarkdownIt:
    # HTML would vanish from the screen; as text it can at least be read.
    return MarkdownIt("gfm-like", {"html": False})
