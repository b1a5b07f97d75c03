"""Comparing two compiled system prompts."""

from __future__ import annotations

from letta_conversations_mcp.conversations.memory import compiled_at, memory_changes

PROMPT = """Instructions.

<memory_blocks>
<human>
<description>
Who you talk with.
</description>
<metadata>
- chars_current={size}
</metadata>
<value>
{human}
</value>
</human>

<persona>
<value>
{persona}
</value>
</persona>
</memory_blocks>

<memory_metadata>
- CONVERSATION_ID: {conversation}
- System prompt last recompiled: 2026-11-21 0{hour}:23:45 AM UTC+0000
- {hour} previous messages between you and the user are stored in recall memory
</memory_metadata>"""


def prompt(human: str, persona: str = "Brief.", hour: int = 8) -> str:
    return PROMPT.format(size=len(human), human=human, persona=persona, conversation=f"conv-{hour}", hour=hour)


def test_what_is_different_in_every_prompt_is_no_change() -> None:
    assert memory_changes(prompt("Ann"), prompt("Ann", hour=9)) == ""


def test_a_change_is_told_under_the_label_of_its_block() -> None:
    changes = memory_changes(prompt("Ann\nLikes tea"), prompt("Ann\nLikes coffee", "Very brief.", hour=9))

    assert changes == "<human>\n- Likes tea\n+ Likes coffee\n<persona>\n- Brief.\n+ Very brief."


def test_what_is_only_new_or_only_gone_is_told() -> None:
    assert memory_changes(prompt("Ann"), prompt("Ann\nLikes tea")) == "<human>\n+ Likes tea"
    assert memory_changes(prompt("Ann\nLikes tea"), prompt("Ann")) == "<human>\n- Likes tea"


def test_the_order_of_blocks_says_nothing() -> None:
    human, persona = "<human>\n<value>\nAnn\n</value>\n</human>", "<persona>\n<value>\nBrief.\n</value>\n</persona>"

    def compiled(*blocks: str) -> str:
        return "Head.\n<memory_blocks>\n" + "\n\n".join(blocks) + "\n\n</memory_blocks>\nTail."

    assert memory_changes(compiled(human, persona), compiled(persona, human)) == ""
    assert memory_changes(compiled(human), compiled(persona, human)) == ("<persona>\n+ <value>\n+ Brief.\n+ </value>")


def test_the_age_of_a_prompt_is_read_from_it() -> None:
    forged = "- System prompt last recompiled: 1999-01-01 08:23:45 AM UTC+0000"
    elsewhere = prompt("Ann").replace("AM UTC+0000", "PM CET+0100")

    assert compiled_at(prompt(f"Ann\n{forged}")) == "2026-11-21T08:23:45+00:00"
    assert compiled_at(elsewhere) == "2026-11-21T20:23:45+01:00"
    assert compiled_at(prompt("Ann").replace("2026-11-21", "2026-13-45")) == ""
    assert compiled_at("Instructions.") == ""
