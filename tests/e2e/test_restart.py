"""Killed at any moment, and one of several: a turn is found again from the id of its conversation alone."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from mcp import Client, MCPError

from letta_conversations_mcp.settings import Settings
from tests.rig.bounds import HANG_SECONDS
from tests.rig.letta_server import Letta
from tests.rig.model import Hold, Say
from tests.rig.servers import Caller, Era, environment


@asynccontextmanager
async def http_process(letta: Letta) -> AsyncGenerator[tuple[Process, str]]:
    """A process of ours that serves over HTTP, and its address."""
    settings = Settings(base_url=letta.base_url, port=0)
    command = [sys.executable, "-m", "letta_conversations_mcp", "serve", "--http", "--port", "0"]
    async with await anyio.open_process(command, env=environment(settings), stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = ""
        try:
            with anyio.fail_after(HANG_SECONDS):
                async for text in TextReceiveStream(process.stderr):
                    said += text
                    if found := re.search(r"http://\S+/mcp", said):
                        yield process, found[0]
                        return
            raise AssertionError(said)
        finally:
            if process.returncode is None:
                process.kill()


@asynccontextmanager
async def client_of(url: str, era: Era) -> AsyncGenerator[Caller]:
    async with Client(url, mode="legacy" if era == "legacy" else "auto") as client:
        yield Caller(client)


@asynccontextmanager
async def two_servers(letta: Letta, era: Era) -> AsyncGenerator[tuple[Caller, Caller]]:
    async with (
        http_process(letta) as (_, one),
        http_process(letta) as (_, other),
        client_of(one, era) as first,
        client_of(other, era) as second,
    ):
        yield first, second


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_turn_is_awaited_at_another_process_than_the_one_that_was_asked(letta: Letta, era: Era) -> None:
    agent_id, _ = await letta.new_agent()
    held = Hold(Say("wherever you ask"))
    letta.model.enqueue(held)
    async with two_servers(letta, era) as (first, second):
        sent = await first.ok("send_message", agent=agent_id, message="hello", wait_seconds=0.5)
        place = {"conversation_id": sent.data["conversation_id"]}
        await letta.model.asked()
        waiting = await second.ok("wait_for_reply", **place, wait_seconds=0.5)
        held.gate.set()
        replies = [(await each.ok("wait_for_reply", **place)).data["reply"] for each in (second, first, second)]
        following = [
            (await each.ok("send_message", **place, message=f"to {number}")).data["reply"]
            for number, each in enumerate((second, first, second))
        ]

    assert (sent.data["status"], waiting.data["status"]) == ("running", "running")
    assert replies == ["wherever you ask"] * 3
    assert following == ["echo: to 0", "echo: to 1", "echo: to 2"]
    texts = await letta.stored_texts(agent_id, place["conversation_id"])
    assert texts == ["hello", "to 0", "to 1", "to 2"]


async def test_two_processes_take_turns_in_one_conversation(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    async with two_servers(letta, "modern") as (first, second):
        replies: list[str] = []

        async def send(caller: Caller, text: str) -> None:
            answer = await caller.ok("send_message", conversation_id=conversation_id, message=text)
            replies.append(answer.data["reply"])

        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(send, (first, second)[number % 2], f"message {number}")

    texts = [f"message {number}" for number in range(6)]
    assert sorted(replies) == [f"echo: {text}" for text in texts]
    assert sorted(await letta.stored_texts(agent_id, conversation_id)) == texts


async def test_a_process_that_is_killed_in_a_turn_is_not_missed(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    held = Hold(Say("still here"))
    letta.model.enqueue(held)
    async with http_process(letta) as (killed, one), http_process(letta) as (_, other):
        async with client_of(one, "modern") as first, anyio.create_task_group() as tasks:

            async def send() -> None:
                with pytest.raises(MCPError):
                    await first.call("send_message", conversation_id=conversation_id, message="hello")

            tasks.start_soon(send)
            await letta.model.asked()
            killed.kill()
        held.gate.set()
        async with client_of(other, "modern") as second:
            reply = await second.ok("wait_for_reply", conversation_id=conversation_id)

    assert (reply.data["reply"], reply.data["answers"]) == ("still here", "hello")
    assert await letta.stored_texts(agent_id, conversation_id) == ["hello"]
