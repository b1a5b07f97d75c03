"""Tools as commands: what is typed, what is printed, and the exit status."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import anyio
import pytest

from letta_conversations_mcp.cli.command_lines import command_line, for_person
from letta_conversations_mcp.cli.main import main
from letta_conversations_mcp.cli.program import Program
from letta_conversations_mcp.tools.catalogue import TOOLS
from tests.cli.conftest import Commands, Run
from tests.rig.letta_server import Letta
from tests.rig.loopback import loopback_socket
from tests.rig.model import CallTools, Hold, Say, ScriptedModel, Use


@pytest.fixture(autouse=True)
def short_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/lcm"])


async def opened(run: Run, agent: str, *options: str) -> str:
    ran = await run("create-conversation", agent, "--json", *options)
    return json.loads(ran.out)["conversation_id"]


def test_every_tool_is_a_command_of_its_name_with_dashes() -> None:
    commands = Program().list_commands(Program().make_context("lcm", ["doctor"], resilient_parsing=True))

    for spec in TOOLS:
        assert (spec.name.replace("_", "-") in commands) == spec.for_models
        assert "_" not in spec.name or spec.name not in commands


async def test_an_agent_can_be_named_without_a_flag(run: Run, letta: Letta) -> None:
    _, name = await letta.new_agent()
    _, other = await letta.new_agent()
    conversation_id = await opened(run, name, "--summary", "invoice 4711")
    elsewhere = await opened(run, other)

    ran = await run("list-conversations", name)

    assert ran.status == 0
    assert f"{conversation_id} · 'invoice 4711'" in ran.out
    assert elsewhere not in ran.out


async def test_a_message_is_sent_and_its_reply_printed(run: Run, letta: Letta) -> None:
    _, name = await letta.new_agent()
    conversation_id = await opened(run, name)

    ran = await run("send-message", "When is it due?", "--conversation-id", conversation_id)

    assert ran.status == 0
    assert ran.out.startswith(f"[completed · {conversation_id} · ")
    assert "echo: When is it due?" in ran.out
    assert ran.err.startswith("… ")
    assert "echo" not in ran.err


async def test_the_result_can_be_json_alone(run: Run, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()

    ran = await run("send-message", "Good morning!", "--agent", name, "--json")

    result = json.loads(ran.out)
    assert (result["status"], result["reply"]) == ("completed", "echo: Good morning!")
    assert result["agent_id"] == agent_id


async def test_a_message_can_come_from_standard_input(
    run: Run, letta: Letta, monkeypatch: pytest.MonkeyPatch, model: ScriptedModel
) -> None:
    _, name = await letta.new_agent()
    monkeypatch.setattr(sys, "stdin", io.StringIO("Dear agent,\n\nwhen is it due?"))

    ran = await run("send-message", "-", "--agent", name)

    assert ran.status == 0
    assert model.calls[-1].text == "Dear agent,\n\nwhen is it due?"


async def test_a_conversation_is_compacted(run: Run, letta: Letta) -> None:
    _, name = await letta.new_agent()
    conversation_id = await opened(run, name)
    await run("send-message", "The invoice is due on Friday.", "--conversation-id", conversation_id)

    ran = await run("compact", conversation_id, "--mode", "all")

    assert ran.status == 0
    assert f"Compacted {conversation_id}: " in ran.out


async def test_a_limited_wait_ends_with_three_and_the_way_back(run: Run, letta: Letta, model: ScriptedModel) -> None:
    _, name = await letta.new_agent()
    conversation_id = await opened(run, name)
    held = Hold(Say("At last."))
    model.enqueue(held)

    ran = await run("send-message", "think", "--conversation-id", conversation_id, "--wait-seconds", "0")
    held.gate.set()
    back = ran.out.partition("Run lcm ")[2].partition(". Do not")[0].split()
    later = await run(*back)

    assert ran.status == 3
    assert back[:2] == ["wait-for-reply", conversation_id]
    assert later.status == 0
    assert "At last." in later.out


async def test_a_reply_is_printed_as_it_is_though_it_reads_like_advice(
    run: Run, letta: Letta, model: ScriptedModel
) -> None:
    _, name = await letta.new_agent()
    words = "Call send_message(conversation_id='conv-1', message=…) or list_agents."
    model.enqueue(Say(words))

    ran = await run("send-message", "How?", "--agent", name)

    assert words in ran.out


async def test_a_tool_that_fails_ends_with_one_and_says_why_on_stderr(run: Run) -> None:
    ran = await run("send-message", "hello", "--agent", "nobody-of-this-name")

    assert ran.status == 1
    assert ran.out == ""
    assert "There is no agent 'nobody-of-this-name'" in ran.err
    assert "Run lcm list-agents to see which there are." in ran.err
    assert ran.err.splitlines()[-1].startswith("lcm: ")


async def test_where_letta_is_not_the_person_is_told_the_address_and_what_to_check(commands: Commands) -> None:
    with loopback_socket() as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"

        ran = await commands(url)("list-agents")

    assert ran.status == 1
    assert url in ran.err
    assert "Check that the server runs and that LETTA_BASE_URL is right." in ran.err
    assert "A person" not in ran.err


async def test_a_search_says_how_to_go_on_in_commands_that_work(run: Run, letta: Letta) -> None:
    _, name = await letta.new_agent()
    older, conversation_id = [await opened(run, name) for _ in range(2)]
    await run("send-message", "The harbour is far.", "--conversation-id", older)
    for text in ("The harbour is closed.", "Which harbour?"):
        await run("send-message", text, "--conversation-id", conversation_id)

    found = await run("search-messages", "harbour", "--agent", name, "--limit", "1")
    around = found.out.partition("Around the first: lcm ")[2].partition(", and the same")[0].split()
    before = await run(*around)

    assert found.status == 0
    assert "More: the same command with --after " in found.out
    assert "=" not in found.out.partition("**")[0]
    assert around[:2] == ["list-messages", conversation_id]
    assert before.status == 0
    assert "> The harbour is closed." in before.out


async def test_show_conversation_speaks_of_no_viewer(run: Run, letta: Letta) -> None:
    _, name = await letta.new_agent()
    conversation_id = await opened(run, name, "--summary", "This client shows no viewer")
    await run("send-message", "list_agents", "--conversation-id", conversation_id)

    one, all_ = await run("show-conversation", conversation_id), await run("show-conversation")

    assert one.out.splitlines()[2] == "The newest messages follow; lcm list-messages has the others."
    assert "'This client shows no viewer'" in one.out
    assert "> list_agents" in one.out
    assert all_.out.splitlines()[2] == "lcm list-conversations lists them."


async def test_a_pending_approval_ends_with_four_and_the_commands_that_decide(
    run: Run, letta: Letta, model: ScriptedModel
) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    use = Use("memory_insert", {"label": "human", "new_string": "Likes tea"})
    model.enqueue(CallTools((use,)), Say("I wrote it."))

    asked = await run("send-message", "Remember.", "--agent", agent_id, "--json")
    conversation_id = json.loads(asked.out)["conversation_id"]
    shown = await run("wait-for-reply", conversation_id)
    decided = await run("respond-to-approval", conversation_id, "--approve")

    assert (asked.status, shown.status, decided.status) == (4, 4, 0)
    assert f"lcm respond-to-approval {conversation_id} --approve (or --deny)" in shown.out
    assert "I wrote it." in decided.out


async def test_a_decision_has_to_be_given(run: Run) -> None:
    ran = await run("respond-to-approval", "conv-123e4567-e89b-42d3-a456-426614174000")

    assert ran.status == 2
    assert "Missing option '--approve' or '--deny'." in ran.err


async def test_nothing_is_deleted_without_a_yes(run: Run, letta: Letta) -> None:
    _, name = await letta.new_agent()
    conversation_id = await opened(run, name)

    refused = await run("delete", conversation_id)
    still_there = await run("list-conversations", name)
    deleted = await run("delete", conversation_id, "--confirm")
    gone = await run("list-conversations", name)

    assert refused.status == 1
    assert "If that is wanted, add --confirm." in refused.err
    assert conversation_id in still_there.out
    assert deleted.status == 0
    assert conversation_id not in gone.out


async def test_an_image_is_read_from_its_file(run: Run, letta: Letta, model: ScriptedModel, tmp_path: Path) -> None:
    _, name = await letta.new_agent()
    picture = tmp_path / "dot.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")

    sent = await run("send-message", "Look!", "--agent", name, "--images", str(picture))
    missing = await run("send-message", "Look!", "--agent", name, "--images", str(tmp_path / "none.png"))

    assert sent.status == 0
    assert missing.status == 2
    assert "none.png cannot be read: No such file or directory." in missing.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["send-mesage", "hi"], "Did you mean one of: 'list-messages', 'search-messages', 'send-message'?"),
        (["send-message", "hi", "--agnet", "x"], "Did you mean one of: '--agent', '--images'?"),
        (["send-message", "hi", "--conv", "conv-1"], "No such option '--conv'"),
        (["compact", "conv-1", "--mode", "everything"], "'everything' is not one of 'all', 'sliding_window'"),
        (["list-agents", "--limit", "1000"], "1000 is not in the range 1<=x<=100"),
        (["create-conversation", "x", "--model-settings", "{"], "this is no JSON"),
        (["create-conversation", "x", "--model-settings", "[]"], "a JSON object is needed"),
        (["compact"], "Missing argument 'CONVERSATION'"),
        (["list"], "'list-conversations', 'list-messages', 'list-agents', 'list-models'"),
        (["messages"], "'list-messages', 'search-messages'"),
        (["get"], "'get' needs one of these words after it: agents, conversations, messages."),
    ],
)
def test_what_is_mistyped_is_explained(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(arguments)

    said = capsys.readouterr()
    assert status == 2
    assert said.out == ""
    assert words in said.err


async def test_a_variable_that_no_option_reads_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETTA_MCP_WAIT_SECOND", "5")

    ran = await run("list-models")

    assert ran.status == 0
    assert "no option reads the variable LETTA_MCP_WAIT_SECOND; did you mean LETTA_MCP_WAIT_SECONDS?" in ran.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Call wait_for_reply(conversation_id='default', agent='agent-1', run_id='run-2').",
            "Run lcm wait-for-reply default --agent agent-1 --run-id run-2.",
        ),
        ("send_message(conversation_id='conv-1', message=…)", "lcm send-message MESSAGE --conversation-id conv-1"),
        (
            "respond_to_approval(conversation_id='conv-1', approve=true|false).",
            "lcm respond-to-approval conv-1 --approve (or --deny).",
        ),
        ("list_messages(kinds=['summary']) shows it.", "lcm list-messages --kinds summary shows it."),
        ("More: the same call with after='conv-9'.", "More: the same command with --after 'conv-9'."),
        ("call again with confirm=true.", "add --confirm."),
        ("Ask your user, then call list_agents.", "Ask your user, then run lcm list-agents."),
        ("limit: it is 0. Nothing was done; correct it and call again.", "limit: it is 0. Nothing was done."),
        ("cancel took this message back.", "cancel took this message back."),
        ("create_agent makes one.", "lcm create-agent makes one."),
    ],
)
def test_advice_for_models_becomes_command_lines(text: str, expected: str) -> None:
    assert for_person(text) == expected


def test_what_the_shell_would_split_is_quoted() -> None:
    assert command_line("send_message", {"agent": "my agent", "message": "It's due"}) == (
        """lcm send-message 'It'"'"'s due' --agent 'my agent'"""
    )


@pytest.mark.parametrize(
    ("words", "candidates"),
    [
        ("lcm list-", ["list-conversations", "list-messages", "list-agents", "list-models"]),
        ("lcm get ", ["agents", "conversations", "messages"]),
        ("lcm compact conv-1 --mo", ["--mode", "--model"]),
        ("lcm fork conv-1 --on", []),
        ("lcm send-message hi --on-busy ", ["wait", "fail", "fork"]),
    ],
)
def test_the_shell_completes(
    words: str, candidates: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = words.split(" ")
    monkeypatch.setenv("_LETTA_CONVERSATIONS_MCP_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(typed) - 1))

    with pytest.raises(SystemExit):
        main([])

    assert [line.partition(",")[2] for line in capsys.readouterr().out.split()] == candidates


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_the_shell_completes_both_names(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0

    said = capsys.readouterr().out
    assert "letta-conversations-mcp" in said
    assert "lcm" in said
    assert "_LETTA_CONVERSATIONS_MCP_COMPLETE" in said


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        ("--help", {}),
        ("send-message --help", {}),
        ("get messages --help", {}),
        ("no-such-command", {}),
        ("", {"COMP_WORDS": "lcm list-", "COMP_CWORD": "1"}),
    ],
)
async def test_help_and_completion_load_no_server(arguments: str, variables: dict[str, str]) -> None:
    """A person waits for them."""
    if variables:
        variables = {**variables, "_LETTA_CONVERSATIONS_MCP_COMPLETE": "bash_complete"}
    script = (
        "import sys\n"
        "from letta_conversations_mcp.cli.main import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    print(sorted({'mcp', 'mcp_types', 'letta_client', 'rich', 'httpx'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, *arguments.split()]

    done = await anyio.run_process(command, check=False, env={**os.environ, **variables})

    assert done.stdout.decode().splitlines()[-1] == "[]"


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_no_line_of_the_help_is_wider_than_the_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for arguments in (["--help"], ["send-message", "--help"], ["serve", "--help"], ["get", "messages", "--help"]):
        assert main(arguments) == 0

    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= columns
    assert not [word for word in ("SecretStr", "None,", "Path,") if word in said]
    assert os.environ["COLUMNS"] == str(columns)
