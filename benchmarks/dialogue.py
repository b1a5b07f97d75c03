"""What is said in the conversations of the fake Letta server: the talk of a person with an assistant at work.

User messages from three words to three sentences, answers from one sentence to five, thoughts before half of them, and
a tool call with its return before a third. And, for contrast, messages of a few words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from tests.rig.model import Answer, CallTools, Say, Use


@dataclass(frozen=True)
class Exchange:
    """What the user says, and what the model answers, step by step."""

    said: str
    answers: tuple[Answer, ...]


EXCHANGES = (
    Exchange(
        "Good morning! What is on today?",
        (Say("Good morning, Ann. The review of the quarterly report is at ten, and the call with Oslo is at three."),),
    ),
    Exchange(
        "Did we ever settle who presents the figures? I remember that somebody asked me about it last week.",
        (
            CallTools((Use("conversation_search", {"query": "presents the figures"}),)),
            Say(
                "Yes. You said that Marta presents the figures and that you take the outlook. She has the slides since "
                "Thursday, and the last two are still empty.",
                reasoning="The user asks about a decision of last week. The search shows who presents; say it briefly.",
            ),
        ),
    ),
    Exchange("ok, thanks", (Say("You're welcome."),)),
    Exchange(
        "Please remember that the Oslo office moves in March. Their new address comes later, so don't print anything "
        "with the old one.",
        (
            CallTools(
                (
                    Use(
                        "memory_replace",
                        {"label": "human", "old_string": "Name: Ann", "new_string": "Name: Ann"},
                    ),
                ),
                text="I will note that.",
            ),
            Say("Noted: Oslo moves in March, and nothing is to be printed with the old address."),
        ),
    ),
    Exchange(
        "How long is the flight?",
        (
            Say(
                "About two hours and ten minutes from Berlin. With the train to the airport, the control and the way "
                "into the city you should plan with six hours from door to door. The morning flight leaves at 7:05, "
                "the evening flight at 18:40. Last time you took the evening flight and were content with it. "
                "Shall I look for a seat on it?",
                reasoning="She travels from Berlin. She wants the time of the flight, the door-to-door time is useful.",
            ),
        ),
    ),
    Exchange(
        "Evening, please. An aisle seat if there is one.",
        (
            Say(
                "The evening flight then, with an aisle seat. I can't book by myself; the link is in your travel page.",
                reasoning="No booking tool here. Say so, and say where she can do it.",
            ),
        ),
    ),
)


SHORT_EXCHANGES = (
    Exchange("ok, go on", (Say("Done. Next?"),)),
    Exchange("the third", (Say("Here it is."),)),
)


def repeated(exchanges: Sequence[Exchange], count: int) -> Iterator[Exchange]:
    """So many exchanges, the same ones again and again."""
    return islice(cycle(exchanges), count)
