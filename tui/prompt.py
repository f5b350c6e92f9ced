"""Where the person types: Enter sends, a few keys make a new line, the box grows with the text."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from localai.sanitize import clean
from tui.attachments import LONG_PASTE
from tui.completion import Completion, wanted_at


class Prompt(TextArea):
    """Posts Submitted and empties itself; `put_back` undoes that. `earlier` are messages to recall, oldest first."""

    DEFAULT_CSS = """
    Prompt {
        height: auto;
        min-height: 3;
        max-height: 8;
        border: round $panel;
        padding: 0 1;
        &:focus { border: round $primary; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Send", show=False),
        Binding("shift+enter,ctrl+j", "newline", "New line", show=False),
        Binding("tab", "complete", "Take the completion", show=False),
        Binding("up", "cursor_up", "Up; above the first line, earlier messages", show=False),
        Binding("down", "cursor_down", "Down; below the last line, later messages", show=False),
        Binding("alt+b", "cursor_word_left", "A word to the left", show=False),
        Binding("alt+f", "cursor_word_right", "A word to the right", show=False),
        Binding("alt+d", "delete_word_right", "Delete the word to the right", show=False),
        Binding("pageup", "screen.scroll_transcript(-1)", "Scroll up", show=False),
        Binding("pagedown", "screen.scroll_transcript(1)", "Scroll down", show=False),
    ]

    class Submitted(Message):
        """The person wants `text` to be sent; it is not empty."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Pasted(Message):
        """A text too long for the box was pasted."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Attached(Message):
        """The person has chosen a file or folder, relative to the one where the chat was started."""

        def __init__(self, path: str) -> None:
            super().__init__()
            self.path = path

    def __init__(self, completion: Completion) -> None:
        super().__init__(placeholder="Ask anything. Enter sends, / lists commands, @ attaches files", soft_wrap=True)
        self._completion = completion
        self.earlier: list[str] = []
        self._at = 0
        self._draft = ""

    def on_key(self, event: events.Key) -> None:
        """Enter and its like here rather than as bindings: those run ahead of letters still in the queue."""
        action = {
            "enter": self.action_submit,
            "shift+enter": self.action_newline,
            "ctrl+j": self.action_newline,
            "tab": self.action_complete,
            "alt+b": self.action_cursor_word_left,
            "alt+f": self.action_cursor_word_right,
            "alt+d": self.action_delete_word_right,
        }
        if self._completion.open and event.key in ("up", "down", "escape"):
            action |= {
                "up": self._completion.action_cursor_up,
                "down": self._completion.action_cursor_down,
                "escape": self._completion.close,
            }
        if event.key.startswith("alt+"):
            # Most terminals send its letter along, which is not to be typed.
            event.prevent_default()
        if event.key in action:
            event.stop()
            event.prevent_default()
            action[event.key]()

    def on_text_area_changed(self) -> None:
        row, column = self.cursor_location
        self._completion.offer(wanted_at(self.document[row], column, first=row == 0))

    def on_paste(self, event: events.Paste) -> None:
        """A short one is left to the text area, and to nobody else."""
        event.stop()
        if len(event.text) >= LONG_PASTE:
            event.prevent_default()
            self.post_message(self.Pasted(clean(event.text)))

    def action_submit(self) -> None:
        # The last letters may not have been looked at yet.
        self.on_text_area_changed()
        if self._completion.open and self._completion.wanted and self._complete():
            return
        if self.text.strip():
            text = self.text
            self.remember(text)
            self.clear()
            self.post_message(self.Submitted(text))

    def action_newline(self) -> None:
        self.insert("\n")

    def action_complete(self) -> None:
        if not self._complete():
            self.insert("    ")

    def action_cursor_up(self, select: bool = False) -> None:
        if select or self.cursor_location[0] > 0 or not self.earlier:
            super().action_cursor_up(select)
        else:
            self._recall(-1)

    def action_cursor_down(self, select: bool = False) -> None:
        if select or self.cursor_location[0] < self.document.line_count - 1 or self._at >= len(self.earlier):
            super().action_cursor_down(select)
        else:
            self._recall(1)

    def remember(self, text: str) -> None:
        """The newest entry of the history, once."""
        if not self.earlier or self.earlier[-1] != text:
            self.earlier.append(text)
        self._at = len(self.earlier)

    def put_back(self, text: str) -> None:
        """Return what could not be sent, before what has been typed since."""
        self.load("\n".join(filter(None, (text, self.text))))

    def load(self, text: str) -> None:
        """Replace what is typed."""
        self.text = text
        self.move_cursor(self.document.end)

    def _recall(self, step: int) -> None:
        if self._at >= len(self.earlier):
            self._draft = self.text
        self._at = max(0, min(len(self.earlier), self._at + step))
        self.load(self.earlier[self._at] if self._at < len(self.earlier) else self._draft)
        self._completion.close()

    def _complete(self) -> bool:
        """Take the highlighted completion; False where there is none."""
        wanted, name = self._completion.wanted, self._completion.chosen()
        if wanted is None or name is None:
            return False
        row, column = self.cursor_location
        if wanted.kind == "/":
            self.replace(f"/{name} ", (row, 0), (row, column))
        else:
            self.replace("", (row, wanted.start), (row, column))
            self.post_message(self.Attached(name))
        self._completion.close()
        return True
