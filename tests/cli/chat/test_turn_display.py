"""From looks at a turn to what is shown of it: everything once, and in order."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from letta_conversations_mcp.cli.chat.entries import AgentText, Folds, Heading, Note
from letta_conversations_mcp.cli.chat.markdown import split_finished
from letta_conversations_mcp.cli.chat.status import Status
from letta_conversations_mcp.cli.chat.turn_display import Seen, TurnDisplay
from letta_conversations_mcp.core.model import ToolCall


def display() -> TurnDisplay:
    return TurnDisplay("bookkeeper", "14:02", lambda: 0.0)


def words(entries: list[RenderableType]) -> list[str]:
    return [str(each).strip() for each in entries]


PENDING = ToolCall(id="a", name="look", arguments='{"query": "4711"}')
DONE = PENDING.model_copy(update={"status": "success", "result": "found"})


def test_finished_blocks_are_shown_for_good_and_the_last_one_grows() -> None:
    turn = display()

    first = turn.look(Seen("One"))
    second = turn.look(Seen("One.\n\nTwo"))
    rest = turn.finish(Seen("One.\n\nTwo."))

    assert first.entries == []
    assert words(second.entries) == ["bookkeeper · 14:02", "One."]
    assert words(rest) == ["Two."]


def test_what_is_said_before_a_tool_call_stands_above_it() -> None:
    turn = display()

    turn.look(Seen("Let me look."))
    called = turn.look(Seen("Let me look.", calls=[PENDING]))
    returned = turn.look(Seen("Let me look.", calls=[DONE]))
    rest = turn.finish(Seen("Let me look.\n\nOn Friday.", calls=[DONE]))

    assert words(called.entries) == ["bookkeeper · 14:02", "Let me look."]
    assert returned.entries == []
    assert words(rest) == ['▸ look("4711") done', "On Friday."]


def test_reasoning_is_folded_above_the_text_that_follows_it() -> None:
    turn = display()

    turn.look(Seen(reasoning="hm"))
    turn.look(Seen("On Friday.", reasoning="hm, yes"))
    entries = turn.finish(Seen("On Friday.", reasoning="hm, yes"))

    assert [type(each) for each in entries] == [Heading, Folds, AgentText]
    assert [fold.body for fold in turn.unfolded] == ["hm, yes"]


def test_a_step_that_is_tried_again_is_said_to_be_told_differently() -> None:
    turn = display()
    turn.look(Seen("One.\n\nTwo.\n\nThree"))

    entries = turn.finish(Seen("One.\n\nOther."))

    assert any(isinstance(each, Note) for each in entries)
    assert words(entries)[-1] == "Other."


def test_a_turn_that_was_not_watched_is_shown_whole() -> None:
    entries = display().finish(Seen("On Friday.", reasoning="hm", calls=[DONE]))

    assert words(entries) == ["bookkeeper · 14:02", '▸ reasoning\n  ▸ look("4711") done', "On Friday."]


@given(st.text(alphabet="ab *`-|#\n>1.", max_size=80), st.lists(st.integers(1, 20), max_size=8))
def test_no_character_of_a_reply_is_lost_or_shown_twice(text: str, steps: list[int]) -> None:
    turn = display()
    entries: list[RenderableType] = []
    for end in [sum(steps[: index + 1]) for index in range(len(steps))]:
        # As replies are built: without the spaces at the end of what has come so far.
        entries += turn.look(Seen(text[:end].rstrip())).entries
    entries += turn.finish(Seen(text.rstrip()))

    shown = "".join(each.text for each in entries if isinstance(each, AgentText))
    assert shown.replace("\n", "") == text.rstrip().replace("\n", "")


@given(st.text(alphabet="ab *`-|#\n\r\u2028>1.", max_size=80))
def test_a_text_is_split_between_blocks_without_loss(text: str) -> None:
    assert "".join(split_finished(text)) == text


def rendered(entry: RenderableType, width: int = 60) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="standard")
    with console.capture() as shown:
        console.print(entry)
    return shown.get()


@given(st.text(max_size=60))
def test_no_text_of_an_agent_reaches_the_terminal_as_an_instruction(text: str) -> None:
    for entry in (AgentText(text), AgentText(f"```{text}\n{text}\n```"), Heading(text), Note(text)):
        left = rendered(entry)
        # What rich itself writes are colours, and nothing else.
        for part in left.split("\x1b")[1:]:
            assert part[0] == "["
            assert part[1:].lstrip("0123456789;")[:1] == "m"
        assert not set(left) & {"\x07", "\x08", "\r", "\x9b", "\u202e", "\u2066", "\u200f"}


def test_entities_are_no_way_around_it() -> None:
    shown = rendered(AgentText("&#27;]52;c;aGk=&#7; &#x202e;evil [a](http://x&#27;[2J) <b>&#155;</b>"))

    assert "\\u202e" in shown
    assert "<b>" in shown
    assert "\x1b]" not in shown
    assert "\x1b[2J" not in shown
    assert "\x9b" not in shown


def test_a_link_shows_where_it_leads() -> None:
    assert "http://evil.example/" in rendered(AgentText("[https://bank.example](http://evil.example/)"), 120)


def test_the_status_line_fits_and_keeps_what_matters() -> None:
    full = Status(
        "bookkeeper", "invoice 4711", "openai/gpt-5.2", 62, 100, "writing its answer, 2 s", "Ctrl-C stops waiting"
    )

    assert full.line(120).rstrip() == (
        " bookkeeper · invoice 4711 · gpt-5.2 · context 62 % ▕█████   ▏  │ "
        "writing its answer, 2 s   Ctrl-C stops waiting"
    )
    for width in (20, 40, 60, 80, 120):
        line = full.line(width)
        assert len(line) == width
        assert line.startswith(" bookkeeper")
    assert "writing its answer, 2 s" in full.line(60)
