"""What is written to stderr: the ids that an operator needs, no text of a message, and never a secret."""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator
from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr

from letta_conversations_mcp.observability.context import Subject, about
from letta_conversations_mcp.observability.logs import configure_logging, hide, secrets_of
from letta_conversations_mcp.settings import Settings
from tests.http.team import Team
from tests.operations.service import Service, service
from tests.rig.fake_letta import FakeLetta
from tests.rig.loopback import http_client
from tests.rig.model import Refuse, Say, ScriptedModel
from tests.rig.servers import http_server

KEY = "sk-let-MTIzNDU2Nzg5MDEyMzQ1Njc4OTA="
TOKEN = 'a"token\\that is hard to write'
METRICS_TOKEN = "metrics-token-91723"
SECRETS = (KEY, TOKEN, METRICS_TOKEN)

TEXT = "Xylophone seventy-three"
REPLY = "Quagmire forty-two"


def full(base_url: str, **more: object) -> Settings:
    return Settings.model_validate(
        {
            "letta_base_url": base_url,
            "letta_api_key": KEY,
            "token": TOKEN,
            "metrics_token": METRICS_TOKEN,
            "log_level": "DEBUG",
            **more,
        }
    )


async def work(fake: FakeLetta, model: ScriptedModel, running: Service) -> str:
    """Good and bad calls of every kind; everything that the clients got to see."""
    seen: list[str] = []
    agent_id = fake.add_agent("talker")
    async with running.client("legacy", TOKEN) as caller:
        model.enqueue(Say(REPLY))
        seen.append((await caller.ok("send_message", agent=agent_id, message=TEXT)).text)
        seen.append((await caller.ok("list_agents", search=TEXT)).text)
        model.enqueue(Refuse(500, f"cannot answer {TEXT} with {KEY}"))
        seen.append((await caller.call("send_message", agent=agent_id, message=TEXT)).text)
        fake.drop("POST", "/v1/conversations/*/messages", after_events=1)
        seen.append((await caller.call("send_message", agent=agent_id, message=TEXT)).text)
        for status in (400, 401, 422, 500):
            fake.fail("GET", "/v1/agents/*", status=status, body={"detail": f"{TEXT} {KEY} api_key={KEY}"}, times=3)
            seen.append(await caller.refused("list_agents", search=TEXT))
            fake.forget_faults()
        seen.append(await caller.refused("send_message", agent=agent_id, message=TEXT, images=[f"data:{TEXT}"]))
        seen.append(await caller.refused("send_message", agent=agent_id, message=TEXT, no_such=TEXT))
        seen.append(await caller.refused(TEXT))
    async with running.client("modern", TOKEN) as caller:
        seen.append((await caller.ok("send_message", agent=agent_id, message=TEXT)).text)
    async with http_client() as http:
        for headers in ({}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"Bearer {TOKEN}"}):
            for path in ("/mcp", "/metrics", "/readyz", "/healthz"):
                response = await http.post(f"{running.url}{path}", content=TEXT, headers=headers)
                seen.append(f"{response.headers}{response.text}")
    for path in ("/metrics", "/readyz", "/healthz"):
        response = await running.get(path, Authorization=f"Bearer {METRICS_TOKEN}")
        seen.append(f"{response.headers}{response.text}")
    return "\n".join(seen)


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("log_messages", [False, True])
async def test_a_secret_gets_into_no_output_and_a_message_only_when_asked(log_format: str, log_messages: bool) -> None:
    model = ScriptedModel()
    fake = FakeLetta(model, password=KEY)
    async with fake.serve() as letta_url:
        settings = full(letta_url, log_format=log_format, log_messages=log_messages)
        async with service(settings) as running:
            seen = await work(fake, model, running)
            running.process.terminate()
            await running.ended()

    for secret in SECRETS:
        assert secret not in seen
        assert secret not in running.log
        assert repr(secret)[1:-1] not in running.log
    assert (TEXT in running.log) is log_messages
    assert (REPLY in running.log) is log_messages


async def test_every_line_is_json_with_the_ids_of_what_it_is_about(tmp_path: Path) -> None:
    team = Team(tmp_path / "tokens.toml")
    token = team.add("ann")
    fake = FakeLetta(ScriptedModel())
    agent_id = fake.add_agent("talker")
    async with (
        fake.serve() as letta_url,
        service(team.settings(letta_url, log_format="json", log_level="INFO")) as running,
    ):
        async with running.client("modern", token) as caller:
            fake.drop("POST", "/v1/conversations/*/messages", after_events=1)
            sent = await caller.ok("send_message", agent=agent_id, message="hello")
        await running.said("the turn ended")
        running.process.terminate()
        await running.ended()

    assert len(running.events) == len(running.log.splitlines())
    lost = next(each for each in running.events if "was lost" in each["message"])
    answered = next(each for each in running.events if each.get("tool") == "send_message" and "outcome" in each)
    ended = next(each for each in running.events if each["message"].startswith("the turn ended"))
    for event in (lost, answered, ended):
        assert event.get("conversation_id") == sent.data["conversation_id"]
        assert event["run_id"] == sent.data["run_id"]
        assert event["request_id"] == lost["request_id"]
        assert event["caller"] == "ann"
        assert event["tool"] == "send_message"
    assert lost["level"] == "WARNING"
    assert (answered["outcome"], ended["status"]) == ("ok", "completed")
    assert answered["seconds"] >= 0
    assert {"time", "logger"} <= lost.keys()
    assert any(each["logger"].startswith("uvicorn") for each in running.events)


async def test_the_id_that_a_proxy_gave_to_a_request_is_kept_and_a_strange_one_is_not() -> None:
    async with http_server(Settings()) as url, http_client() as http:
        kept = await http.post(f"{url}/mcp", headers={"X-Request-ID": "edge-1234"})
        replaced = await http.post(f"{url}/mcp", headers={"X-Request-ID": "a b\tc"})

    assert kept.headers["X-Request-ID"] == "edge-1234"
    assert len(replaced.headers["X-Request-ID"]) == 32


@pytest.fixture
def logging_as_before() -> Generator[None]:
    root = logging.getLogger()
    before = (
        root.handlers[:],
        root.level,
        {name: logging.getLogger(name).level for name in ("uvicorn", "letta_conversations_mcp")},
    )
    yield
    root.handlers[:], level, levels = before
    root.setLevel(level)
    for name, value in levels.items():
        logging.getLogger(name).setLevel(value)


@pytest.mark.usefixtures("logging_as_before")
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_secret_that_somebody_logs_by_mistake_is_hidden(log_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(sys, "stderr", Lines(written))
    configure_logging(full("http://letta.test", log_format=log_format))
    logger = logging.getLogger("letta_conversations_mcp.test")
    try:
        raise ConnectionError(f"refused by {TOKEN}")
    except ConnectionError:
        logger.exception("it broke: %s", KEY, extra={"given": METRICS_TOKEN})
    logging.getLogger("somebody.else").warning("Authorization: Bearer abc.def-unknown-to-us")
    try:
        raise ValueError(TEXT)
    except ValueError:
        logger.exception("it broke")

    text = "".join(written)
    for secret in (*SECRETS, "abc.def-unknown-to-us", TEXT):
        assert secret not in text
    assert "ConnectionError" in text
    assert "ValueError" in text


@pytest.mark.usefixtures("logging_as_before")
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nothing_that_is_logged_begins_a_line_or_reaches_the_terminal(
    log_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(sys, "stderr", Lines(written))
    configure_logging(full("http://letta.test", log_format=log_format))
    forged = "x\n2026-11-24 10:00:00 ERROR forged\x1b[2J\u202e"
    with about(Subject(caller=f"oidc:{forged}", tool="t] [caller=admin")):
        logging.getLogger("letta_conversations_mcp.test").warning("a call of %s", forged)

    text = "".join(written)
    assert len(text.splitlines()) == 1
    assert text.rstrip("\n").isprintable()
    assert "[caller=admin" not in text or "'t] [caller=admin'" in text or log_format == "json"


class Lines:
    """A stderr that keeps what is written to it."""

    def __init__(self, written: list[str]) -> None:
        self._written = written

    def write(self, text: str) -> int:
        self._written.append(text)
        return len(text)

    def flush(self) -> None: ...


def test_passwords_in_urls_are_secrets_too() -> None:
    settings = Settings(
        base_url="http://someone:pass-word@letta.test", redis_url=SecretStr("redis://:hush%21hush@cache:6379/0")
    )

    hidden = hide("pass-word redis://:hush%21hush@cache:6379/0 hush!hush", secrets_of(settings))

    assert "pass-word" not in hidden
    assert "hush" not in hidden


async def test_over_stdio_nothing_of_this_is_loaded() -> None:
    script = (
        "import sys, letta_conversations_mcp.cli.main, letta_conversations_mcp.cli.serve\n"
        "from letta_conversations_mcp.server.app import build_server\n"
        "from letta_conversations_mcp.settings import Settings\n"
        "from letta_conversations_mcp.observability.logs import configure_logging\n"
        "configure_logging(Settings())\n"
        "build_server(Settings()).specs\n"
        "print(sorted({'prometheus_client', 'pythonjsonlogger', 'redis', 'opentelemetry.sdk'} & set(sys.modules)))"
    )

    done = await anyio.run_process([sys.executable, "-c", script])

    assert done.stdout.decode().strip() == "[]"
