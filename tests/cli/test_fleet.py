"""Fleet files: what is read of one, and what is wrong with one that cannot be used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from letta_conversations_mcp.cli.exit_status import CommandFailed
from letta_conversations_mcp.cli.fleet import LARGEST_BYTES, read_fleet


def written(folder: Path, content: str | bytes) -> str:
    path = folder / "fleet.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def problem(folder: Path, content: str | bytes) -> str:
    with pytest.raises(CommandFailed) as raised:
        read_fleet(written(folder, content))
    assert raised.value.status == 2
    return str(raised.value)


def test_only_what_concerns_conversations_is_read(tmp_path: Path) -> None:
    fleet, _ = read_fleet(
        written(
            tmp_path,
            """
            shared_blocks: [{name: brand, value: 1}]
            agents:
              - name: bookkeeper
                llm_config: {model: openai/gpt-5, context_window: 32000}
                conversations:
                  - summary: invoice 4711
                    isolated_blocks: [human]
                  - {summary: taxes}
              - name: lonely
              - {name: also lonely, conversations: null}
            """,
        )
    )

    bookkeeper, lonely, also_lonely = fleet.agents
    assert [each.summary for each in bookkeeper.conversations] == ["invoice 4711", "taxes"]
    assert bookkeeper.conversations[0].isolated_blocks == ["human"]
    assert lonely.conversations == also_lonely.conversations == []


def test_aliases_stand_for_what_they_name(tmp_path: Path) -> None:
    text = "common: &c\n  - summary: one\nagents:\n  - {name: a, conversations: *c}\n  - {name: b, conversations: *c}\n"

    fleet, _ = read_fleet(written(tmp_path, text))

    assert [agent.conversations[0].summary for agent in fleet.agents] == ["one", "one"]


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    assert read_fleet(written(tmp_path, "﻿agents: []"))[0].agents == []


BILLION_LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED_LAUGHS = "a: &a {k: v}\n" + "".join(
    f"{name}: &{name} {{<<: [{','.join([f'*{before}'] * 10)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("agents: [", "is no YAML: line "),
        ("agents: []\n---\nagents: []", "is no YAML"),
        ("agents: !!python/object/apply:os.system [ls]", "is no YAML"),
        ("agents: [{name: a, since: 2026-13-45}]", "is no YAML"),
        ("a: \x00", "is no YAML"),
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- name: a", "is no fleet file"),
        ("just words", "is no fleet file"),
        ("fleet: 1", "agents: is missing"),
        ("agents: {name: a}", "agents: a list is needed"),
        ("agents: [bookkeeper]", "agents[0]: a mapping is needed"),
        ("agents: [{conversations: []}]", "agents[0].name: is missing"),
        ("agents: [{name: 7}]", "agents[0].name: a text is needed; put it in quotes"),
        ("agents: [{name: a, conversations: yes}]", "agents[0].conversations: a list is needed"),
        ("agents: [{name: a, conversations: [{}]}]", "agents[0].conversations[0].summary: is missing"),
        ("agents: [{name: a, conversations: [{summary: '  '}]}]", "agents[0].conversations[0].summary: a text"),
        ("agents: [{name: a, conversations: [{summary: b, isolated_blocks: x}]}]", ".isolated_blocks: a list is"),
        ("agents: [{name: a, conversations: [{summary: b, isolated_blocks: [1]}]}]", ".isolated_blocks[0]: a text"),
        ("agents: [{name: a, conversations: [{summary: b}, {summary: b}]}]", "conversations[1].summary: agent 'a' has"),
        (BILLION_LAUGHS, "stands for more than"),
        (MERGED_LAUGHS, "stands for more than"),
        ("a: &a [*a]", "the alias *a"),
        ("a: *nothing", "the alias *nothing"),
        ("[" * 500, "nested deeper"),
        ("agents: []".encode("utf-16"), "is no UTF-8 text"),
        (b"agents: [{name: \xff}]", "is no UTF-8 text (byte 16)"),
        (b"#" * (LARGEST_BYTES + 1), "is larger than 5 MB"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_file_that_cannot_be_used_is_explained(tmp_path: Path, content: str | bytes, words: str) -> None:
    assert words in problem(tmp_path, content)


def test_the_place_of_a_wrong_value_is_named_however_deep(tmp_path: Path) -> None:
    good = "  - {name: a, conversations: [{summary: x}]}\n"

    said = problem(
        tmp_path, f"agents:\n{good}{good.replace('a,', 'b,')}  - {{name: c, conversations: [{{summary: 3}}]}}"
    )

    assert "agents[2].conversations[0].summary: a text is needed; put it in quotes" in said


def test_many_problems_are_counted_and_not_all_told(tmp_path: Path) -> None:
    said = problem(tmp_path, "agents: [" + "{}," * 500 + "]")

    assert said.count("is missing") == 20
    assert "480 more" in said


def test_a_file_of_100_mb_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    with path.open("wb") as file:
        file.truncate(100 * 1024 * 1024)

    with pytest.raises(CommandFailed, match="larger than 5 MB"):
        read_fleet(str(path))


def test_a_file_that_is_not_there_or_is_a_folder_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="No such file"):
        read_fleet(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(CommandFailed, match="cannot be read"):
        read_fleet(str(tmp_path))


def test_a_text_that_ends_at_a_comment_is_reported(tmp_path: Path) -> None:
    text = """agents:
  - name: bookkeeper   # the good one
    conversations:
      - summary: Ticket #103
      - summary: "Ticket #104"
      - summary: Zürich #105
      - {summary: 'C#'}
      - summary: plain # a comment
"""

    fleet, warnings = read_fleet(written(tmp_path, text))

    assert [each.summary for each in fleet.agents[0].conversations] == [
        "Ticket",
        "Ticket #104",
        "Zürich",
        "C#",
        "plain",
    ]
    assert [re.search(r"line (\d+)", each)[1] for each in warnings] == ["4", "6"]  # pyright: ignore[reportOptionalSubscript]
    assert "the summary is 'Ticket'; '#103' is a comment" in warnings[0]
    assert "put it in quotes" in warnings[0]


def test_a_key_that_is_ignored_is_reported_and_lettactls_own_are_not(tmp_path: Path) -> None:
    text = """shared_blocks: []
agents:
  - name: bookkeeper
    llm_config: {}
    conversation:
      - summary: x
  - name: archivist
    conversations:
      - summary: letters
        isolated_block: [human]
        description: long
    conversation: []
"""

    fleet, warnings = read_fleet(written(tmp_path, text))

    assert [len(each.conversations) for each in fleet.agents] == [0, 1]
    assert [each.partition(", ")[2] for each in warnings] == [
        "agents[0].conversation: is 'conversations' meant? It is ignored.",
        "agents[1].conversation: is 'conversations' meant? It is ignored.",
        "agents[1].conversations[0].isolated_block: is 'isolated_blocks' meant? It is ignored.",
        "agents[1].conversations[0].description: It is ignored.",
    ]
