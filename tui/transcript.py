"""All turns of one conversation, of which only the lines on the screen are ever painted.

Turns enter; lines, and clicks on them, leave. Heights of turns that were never seen are guessed, and put right when
they come into view, without moving what is read. It knows nothing of the daemon.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate

from rich.segment import Segment
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from tui.painting import Painter
from tui.palette import palette_of
from tui.turns import Turn

KEPT_PAINTED = 64
"""Turns whose lines are kept for the next drawing."""
_SETTLE_ROUNDS = 8


class Transcript(ScrollView, can_focus=False):
    """Scrolled to the end as long as the person does not scroll away from it."""

    DEFAULT_CSS = """
    Transcript { height: 1fr; padding: 0 1; overflow-x: hidden; overflow-y: scroll; scrollbar-size-vertical: 1; }
    """

    class Toggled(Message):
        """The person clicked on a fold of this turn."""

        def __init__(self, turn: Turn) -> None:
            super().__init__()
            self.turn = turn

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[Turn] = []
        self.selected: Turn | None = None
        self.marked: tuple[Turn, int] | None = None
        self._painter: Painter | None = None
        self._heights: list[int] = []
        self._tops: list[int] = [0]
        self._strips: OrderedDict[Turn, list[Strip]] = OrderedDict()
        self._drawn: list[Strip | None] = []
        self._following = True
        self._settling = False

    def on_mount(self) -> None:
        self.app.theme_changed_signal.subscribe(self, lambda _: self.repaint())

    # What is shown.

    def show(self, turns: Sequence[Turn]) -> None:
        """Replace everything, and go to the end."""
        self.turns = list(turns)
        self.selected = self.marked = None
        self._strips.clear()
        self._guess()
        self.follow()

    def add(self, turn: Turn) -> None:
        self.turns.append(turn)
        self._heights.append(turn.guess(self._width))
        self._settle()

    def take_away(self, *turns: Turn) -> None:
        gone = {id(turn) for turn in turns}
        kept = [n for n, turn in enumerate(self.turns) if id(turn) not in gone]
        self._heights = [self._heights[n] for n in kept]
        self.turns = [self.turns[n] for n in kept]
        for turn in turns:
            self._strips.pop(turn, None)
        if self.selected is not None and id(self.selected) in gone:
            self.selected = None
        self._settle()

    def changed(self, turn: Turn) -> None:
        """Paint this turn anew."""
        self._strips.pop(turn, None)
        self._settle()

    def repaint(self) -> None:
        """Everything anew, for another width or palette."""
        self._painter = None
        self._strips.clear()
        self._drawn = []
        self._settle()

    def select(self, turn: Turn | None) -> None:
        """Mark a turn and bring it into view; None marks none and returns to the end."""
        before, self.selected = self.selected, turn
        for each in (before, turn):
            if each is not None:
                self._strips.pop(each, None)
        if turn is None:
            self.follow()
            return
        self._settle()
        number = self.turns.index(turn)
        top, bottom = self._tops[number], self._tops[number + 1]
        height = self.scrollable_content_region.height
        if top < self.scroll_offset.y or bottom > self.scroll_offset.y + height:
            self._go(top if bottom - top >= height or top < self.scroll_offset.y else bottom - height)

    def mark(self, turn: Turn | None, fence: int = 0) -> None:
        """Choose a fence of a turn."""
        before, self.marked = self.marked, None if turn is None else (turn, fence)
        for each in (turn, before[0] if before else None):
            if each is not None:
                self._strips.pop(each, None)
        self._settle()

    # Scrolling.

    def follow(self) -> None:
        """Go to the end and stay there."""
        self._following = True
        self._settle()

    def page(self, pages: int) -> None:
        """Scroll by whole pages."""
        height = max(1, self.scrollable_content_region.height - 1)
        self._go(self.scroll_offset.y + pages * height)

    def _go(self, y: int) -> None:
        self._following = False
        self.scroll_to(y=y, animate=False, immediate=True)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if not self._settling:
            self._following = new_value >= self.max_scroll_y
            self._settle()

    def on_resize(self, _: events.Resize) -> None:
        if self._painter is None or self._painter.width != self._width - 2:
            self.repaint()
        else:
            self._settle()

    # Heights.

    @property
    def _width(self) -> int:
        return max(12, self.scrollable_content_region.width)

    def _guess(self) -> None:
        self._heights = [turn.guess(self._width - 2) for turn in self.turns]

    def _settle(self) -> None:
        """Paint what is in view, and correct the heights until nothing moves any more."""
        if not self.is_attached or not self.size:
            return
        self._settling = True
        try:
            for _ in range(_SETTLE_ROUNDS):
                anchor = self._anchor()
                self._measure()
                self._place(anchor)
                if not self._unpainted():
                    break
        finally:
            self._settling = False
        self._draw_changes()

    def _draw_changes(self) -> None:
        """Only the rows that differ from those on the screen: over a slow line every other byte would be a delay."""
        before = self._drawn
        self._drawn = [self._strip_at(row + self.scroll_offset.y) for row in range(self.size.height)]
        for row, strip in enumerate(self._drawn):
            if row >= len(before) or strip != before[row]:
                self.refresh_line(row + self.scroll_offset.y)

    def _anchor(self) -> tuple[int, int]:
        """The first turn in view, and how many of its lines are above the view."""
        y = self.scroll_offset.y
        number = self._at(y)
        return number, y - self._tops[number]

    def _measure(self) -> None:
        self._tops = [*accumulate(self._heights, initial=0)]
        if self._following:
            number, room = len(self.turns), self.size.height
            while number and room > 0:
                number -= 1
                self._heights[number] = len(self._lines_of(self.turns[number]))
                room -= self._heights[number]
        else:
            for number in self._in_view():
                self._heights[number] = len(self._lines_of(self.turns[number]))
        self._tops = [*accumulate(self._heights, initial=0)]

    def _place(self, anchor: tuple[int, int]) -> None:
        self.virtual_size = Size(self._width, self._tops[-1])
        number, above = anchor
        if self._following:
            target = self.max_scroll_y
        else:
            target = min(self.max_scroll_y, self._tops[min(number, len(self.turns))] + above)
        if round(self.scroll_y) != round(target):
            self.scroll_to(y=target, animate=False, immediate=True, force=True)

    def _unpainted(self) -> bool:
        return any(
            turn not in self._strips or self._heights[n] != len(self._strips[turn])
            for n in self._in_view()
            for turn in (self.turns[n],)
        )

    def _at(self, y: int) -> int:
        return max(0, min(len(self._tops) - 2, bisect_right(self._tops, y) - 1))

    def _in_view(self) -> range:
        if not self.turns:
            return range(0)
        y = self.scroll_offset.y
        return range(self._at(y), min(len(self.turns), self._at(y + max(1, self.size.height)) + 1))

    # Lines.

    def _lines_of(self, turn: Turn) -> list[Strip]:
        kept = self._strips.get(turn)
        if kept is None:
            if self._painter is None:
                app = self.app
                plain = app.current_theme.ansi or app.no_color
                palette = palette_of(app.theme_variables, dark=app.current_theme.dark, plain=plain)
                self._painter = Painter(self._width - 2, palette)
            marked = self.marked[1] if self.marked and self.marked[0] is turn else None
            lines = turn.lines(self._painter, selected=turn is self.selected, marked=marked)
            kept = [Strip(line) for line in lines]
            self._strips[turn] = kept
            while len(self._strips) > KEPT_PAINTED:
                self._strips.popitem(last=False)
        self._strips.move_to_end(turn)
        return kept

    def render_line(self, y: int) -> Strip:
        line = y + self.scroll_offset.y
        width = self.size.width
        strip = self._strip_at(line)
        if strip is None:
            return Strip.blank(width, self.rich_style)
        strip = strip.apply_style(self.rich_style).adjust_cell_length(width, self.rich_style)
        chosen = self.text_selection
        if chosen is not None and (span := chosen.get_span(line)) is not None:
            strip = _highlighted(strip, span, self.screen.get_component_rich_style("screen--selection"))
        return strip.apply_offsets(0, line)

    def _strip_at(self, line: int) -> Strip | None:
        """As painted, without the background; None below the last turn."""
        if line >= self._tops[-1] or not self.turns:
            return None
        number = self._at(line)
        strips = self._lines_of(self.turns[number])
        inside = line - self._tops[number]
        return strips[inside] if inside < len(strips) else Strip.blank(self.size.width)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        first = selection.start.y if selection.start else 0
        last = selection.end.y if selection.end else self._tops[-1] - 1
        taken = [""] * first
        for line in range(first, min(last, self._tops[-1] - 1) + 1):
            strip = self._strip_at(line)
            taken.append("" if strip is None else strip.text.rstrip())
        return selection.extract("\n".join(taken)), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        if not self.turns:
            return
        line = event.y + self.scroll_offset.y
        number = self._at(line)
        if line - self._tops[number] in self.turns[number].folds:
            self.post_message(self.Toggled(self.turns[number]))


def _highlighted(strip: Strip, span: tuple[int, int], style: object) -> Strip:
    start, end = span
    end = strip.cell_length if end == -1 else end
    before, inside, after = (list(part) for part in strip.divide([start, end, strip.cell_length]))
    return Strip([*before, *Segment.apply_style(inside, post_style=style), *after])  # type: ignore[arg-type]
