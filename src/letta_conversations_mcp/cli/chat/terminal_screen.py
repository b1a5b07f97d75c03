"""The chat on a terminal. From the bottom up: the status line, the input, the part that grows, and all that was said,
in the terminal's own scrollback.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import Completer
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import ANSI, AnyFormattedText
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import ConditionalContainer, Float, FloatContainer, HSplit, Layout, Window
from prompt_toolkit.layout.controls import BufferControl, FormattedTextControl
from prompt_toolkit.layout.dimension import Dimension
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.styles import Style
from rich.console import Console, RenderableType

from letta_conversations_mcp.cli.chat.entries import PROMPT
from letta_conversations_mcp.cli.chat.formatting import one_line
from letta_conversations_mcp.cli.chat.status import Status

MOST_INPUT_LINES = 10
BELOW_LIVE = 4
"""Lines below the growing part that stay free for the input and the status line."""

STYLE = Style.from_dict(
    {
        "prompt": "bold ansicyan",
        "status": "reverse",
        "status.urgent": "reverse bold ansiyellow",
        "queued": "ansibrightblack",
        "completion-menu": "noreverse",
        "completion-menu.completion": "",
        "completion-menu.completion.current": "reverse",
        "completion-menu.meta.completion": "ansibrightblack",
        "completion-menu.meta.completion.current": "reverse",
    }
)


class TerminalScreen:
    """A screen on the terminal of this process.

    `submit` gets what was entered, `interrupt` a Ctrl-C with nothing entered, `unfold` a Ctrl-O; `status` and `queued`
    are asked for what stands below.
    """

    def __init__(
        self,
        *,
        status: Callable[[], Status],
        queued: Callable[[], Sequence[str]],
        submit: Callable[[str], None],
        interrupt: Callable[[], None],
        unfold: Callable[[], None],
        completer: Completer,
    ) -> None:
        self._status = status
        self._queued = queued
        self._submit = submit
        self._interrupt = interrupt
        self._unfold = unfold
        self._live: RenderableType | None = None
        self._live_lines: tuple[tuple[object, int], list[str]] | None = None
        self._buffer = Buffer(
            multiline=True,
            history=InMemoryHistory(),
            completer=completer,
            complete_while_typing=Condition(lambda: self._buffer.text.startswith("/")),
        )
        self.app: Application[None] = Application(
            layout=self._layout(),
            key_bindings=self._keys(),
            style=STYLE,
            color_depth=ColorDepth.DEPTH_1_BIT if os.environ.get("NO_COLOR") else ColorDepth.DEPTH_4_BIT,
            min_redraw_interval=0.03,
            erase_when_done=True,
        )

    async def run(self) -> None:
        """Until `leave`."""
        await self.app.run_async(handle_sigint=False)

    def leave(self) -> None:
        if self.app.is_running:
            self.app.exit()

    # Screen

    async def show(self, entries: Sequence[RenderableType], live: RenderableType | None = None) -> None:
        if not entries:
            self._live = live
            self.refresh()
            return
        text = self._render(*entries)

        # Not with `run_in_terminal`, which takes the terminal out of its raw mode: an Enter would become another key.
        if self.app.is_running:
            self.app.renderer.erase()
        self._live = live
        self.app.output.write_raw(text.replace("\n", "\r\n"))
        self.app.output.flush()
        if self.app.is_running:
            self.app.renderer.request_absolute_cursor_position()
            self.refresh()

    def refresh(self) -> None:
        self.app.invalidate()

    def give_back(self, text: str) -> None:
        if not self._buffer.text:
            self._buffer.text = text
            self._buffer.cursor_position = len(text)

    def remember(self, texts: Sequence[str]) -> None:
        self._buffer.history = InMemoryHistory(list(texts))
        self._buffer.reset()

    def _render(self, *entries: RenderableType) -> str:
        console = Console(
            file=io.StringIO(),
            force_terminal=True,
            width=self.app.output.get_size().columns,
            color_system=None if self._is_plain else "standard",
            no_color=self._is_plain,
            highlight=False,
            legacy_windows=False,
        )
        with console.capture() as shown:
            for entry in entries:
                console.print(entry)
        return shown.get()

    @property
    def _is_plain(self) -> bool:
        return bool(os.environ.get("NO_COLOR"))

    # What stands below

    def _layout(self) -> Layout:
        live = Window(FormattedTextControl(self._live_text), dont_extend_height=True, wrap_lines=False)
        queue = Window(FormattedTextControl(self._queue_text), dont_extend_height=True, style="class:queued")
        entry = Window(
            BufferControl(self._buffer),
            height=Dimension(min=1, max=MOST_INPUT_LINES),
            dont_extend_height=True,
            wrap_lines=True,
            get_line_prefix=self._prefix,
        )
        status = Window(FormattedTextControl(self._status_text), height=1)
        body = HSplit(
            [
                ConditionalContainer(live, Condition(lambda: self._live is not None)),
                ConditionalContainer(queue, Condition(lambda: bool(self._queued()))),
                Window(height=1),
                entry,
                status,
            ]
        )
        menu = Float(CompletionsMenu(max_height=10), xcursor=True, ycursor=True)
        return Layout(FloatContainer(body, [menu]), focused_element=entry)

    def _prefix(self, line: int, wrapped: int) -> AnyFormattedText:
        return [("class:prompt", PROMPT if line == 0 and wrapped == 0 else " " * len(PROMPT))]

    def _live_text(self) -> AnyFormattedText:
        size = self.app.output.get_size()
        key = (self._live, size.columns)
        if self._live is None:
            return ""
        if self._live_lines is None or self._live_lines[0] != key:
            self._live_lines = (key, self._render(self._live).rstrip("\n").split("\n"))
        lines = self._live_lines[1]
        room = max(size.rows - BELOW_LIVE - self._buffer.document.line_count - len(self._queued()), 1)
        return ANSI("\n".join(lines[-room:]))

    def _queue_text(self) -> AnyFormattedText:
        width = self.app.output.get_size().columns
        lines = [f"next: {one_line(text, max(width - 7, 10))}" for text in self._queued() if text]
        return "\n".join(lines)

    def _status_text(self) -> AnyFormattedText:
        status = self._status()
        line = status.line(self.app.output.get_size().columns)
        return [("class:status.urgent" if status.urgent else "class:status", line)]

    # Keys

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add(Keys.ControlM)
        def _enter(event: KeyPressEvent) -> None:
            buffer = self._buffer
            if buffer.complete_state and buffer.complete_state.current_completion:
                buffer.apply_completion(buffer.complete_state.current_completion)
                return
            if buffer.document.current_line.endswith("\\") and buffer.document.is_cursor_at_the_end:
                buffer.delete_before_cursor()
                buffer.insert_text("\n")
                return
            if text := buffer.text.strip():
                buffer.append_to_history()
                buffer.reset()
                self._submit(text)

        @keys.add(Keys.Escape, Keys.ControlM)
        @keys.add(Keys.ControlJ)
        def _new_line(event: KeyPressEvent) -> None:
            self._buffer.insert_text("\n")

        @keys.add(Keys.ControlC)
        @keys.add(Keys.SIGINT)
        def _interrupt(event: KeyPressEvent) -> None:
            if self._buffer.text:
                self._buffer.reset()
            else:
                self._interrupt()

        @keys.add(Keys.ControlD)
        def _end(event: KeyPressEvent) -> None:
            if self._buffer.text:
                self._buffer.delete()
            else:
                self.leave()

        @keys.add(Keys.ControlO)
        def _show(event: KeyPressEvent) -> None:
            self._unfold()

        @keys.add(Keys.ControlL)
        def _clear(event: KeyPressEvent) -> None:
            event.app.renderer.clear()

        return keys
