"""`doctor`: checks the configuration step by step, each within a time limit, and says what to fix.

Sends no message and changes nothing. Its output has no secrets.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Literal
from urllib.parse import urlsplit

import anyio

from letta_conversations_mcp import __version__
from letta_conversations_mcp.backends.letta_api.backend import FREE_MODEL
from letta_conversations_mcp.backends.letta_api.network_variables import check_network, network_variables
from letta_conversations_mcp.cli.client_config import client_configuration
from letta_conversations_mcp.cli.command import run_with_backend
from letta_conversations_mcp.cli.program_name import SHORT
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import ConversationError, NotConfigured
from letta_conversations_mcp.core.model import ConversationQuery, Health, ServerKind
from letta_conversations_mcp.core.quoting import NAME_CHARS, quote, without_password
from letta_conversations_mcp.settings import BackendSettings, unknown_variables

CHECK_SECONDS = 15
"""Time limit for one check; a healthy Letta server needs less than a second."""

START_SECONDS = 75
"""Time limit for starting the App Server of this machine: it takes two seconds, and its own limit is 60."""

SHOWN = 5
"""How many agents or models are named."""

MANY = 100
"""How many agents are counted."""

SERVERS: dict[ServerKind, str] = {
    "cloud": "Letta Cloud",
    "self_hosted": "a self-hosted Letta server",
    "local": "the agents of this machine, with Letta Code's App Server",
    "app_server": "a Letta Code App Server",
    "other": "something that is no Letta server",
}

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One check: what was found, and what a person should do about it."""

    check: str
    status: Status
    found: str
    to_do: str = ""

    def to_text(self) -> str:
        first = f"{self.status:<5} {self.check:<14} {self.found}"
        return first + "".join(f"\n{'':<21}{line}" for line in self.to_do.splitlines())


def doctor(settings: BackendSettings, *, as_json: bool) -> int:
    """Exit status: 0, or 1 when a check failed."""
    hide = _Secrets(settings).hide
    checks: list[Check] = []

    def report(check: Check) -> None:
        check = replace(check, found=hide(check.found), to_do=hide(check.to_do))
        checks.append(check)
        if not as_json:
            print(check.to_text(), flush=True)

    async def look(backend: Backend) -> int:
        async for check in _checks(backend, settings):
            report(check)
        return 0

    report(_versions())
    for check in _variables(os.environ, settings):
        report(check)
    try:
        run_with_backend(settings, look)
    except NotConfigured as error:
        report(Check("server", "fail", "nothing is chosen", error.for_person))
        # Then show the configuration for the first remedy.
        settings = settings.model_copy(update={"backend": "api"})
    failed = any(check.status == "fail" for check in checks)
    configuration = client_configuration(settings)
    if as_json:
        answer = {"ok": not failed, "checks": [asdict(check) for check in checks], "configuration": configuration}
        print(json.dumps(answer, ensure_ascii=False), flush=True)
    else:
        print("\nFor your client (claude_desktop_config.json, ~/.cursor/mcp.json, .mcp.json):")
        print(json.dumps(configuration, ensure_ascii=False, indent=2), flush=True)
    return int(failed)


async def _checks(backend: Backend, settings: BackendSettings) -> AsyncIterator[Check]:
    """The checks of the server; later ones only if the earlier ones allow it."""
    found: list[Health] = []

    async def server() -> Check:
        found.append(await backend.check())
        return _server(found[0])

    yield await _bounded("server", server, START_SECONDS if settings.uses_local else CHECK_SECONDS)
    if not found or found[0].kind in ("app_server", "other"):
        return
    health = found[0]
    key = await _bounded("key", lambda: _key(backend, settings, health))
    if not settings.uses_local or key.status == "fail":
        yield key
    if key.status == "fail":
        return
    if settings.project:
        yield _project(settings, health)
    yield await _bounded("agents", lambda: _agents(backend))
    yield await _bounded("conversations", lambda: _conversations(backend))
    yield await _bounded("models", lambda: _models(backend))
    if not settings.uses_local:
        yield _background(health)


async def _bounded(name: str, check: Callable[[], Awaitable[Check]], seconds: float = CHECK_SECONDS) -> Check:
    try:
        with anyio.fail_after(seconds):
            return await check()
    except ConversationError as error:
        # The errors' first sentence is what was found, the rest what can be done.
        found, _, to_do = error.for_person.partition(". ")
        return Check(name, "fail", found, to_do.removeprefix("Nothing was done. "))
    except TimeoutError:
        return Check(name, "fail", f"no answer within {seconds:g} s", "Look whether the server is busy, and its log.")


def _versions() -> Check:
    packages = ("mcp", "letta-client", "letta")
    said = [f"{name} {number}" for name in packages if (number := _installed(name))]
    return Check(
        "versions",
        "ok",
        ", ".join([f"letta-conversations-mcp {__version__}", f"Python {platform.python_version()}", *said]),
    )


def _variables(environment: Mapping[str, str], settings: BackendSettings) -> Iterator[Check]:
    """Variables that are misspelt, and those that httpx reads."""
    for name, meant in unknown_variables(environment).items():
        yield Check("variables", "warn", f"no option reads {name}", f"Did you mean {meant}?" if meant else "Unset it.")
    if not settings.uses_local and (used := network_variables(environment)):
        said = ", ".join(f"{name}={quote(value, NAME_CHARS)}" for name, value in used.items())
        try:
            check_network(environment)
        except NotConfigured as error:
            fact, _, step = error.for_person.partition(". ")
            yield Check("network", "fail", fact, step)
        else:
            yield Check("network", "ok", said)


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _server(health: Health) -> Check:
    number = f" {health.version}" if health.version else ""
    found = f"{SERVERS[health.kind]}{number} at {health.address}"
    match health.kind:
        case "app_server":
            place = urlsplit(health.address).netloc
            return Check(
                "server",
                "fail",
                found,
                f"It does not speak the Letta REST API. Set LETTA_MCP_APP_SERVER_URL=ws://{place}/ws (and "
                "LETTA_MCP_APP_SERVER_TOKEN, if it has a token) and LETTA_MCP_BACKEND=local instead of LETTA_BASE_URL.",
            )
        case "other":
            to_do = [*health.remarks, "Look at LETTA_BASE_URL: the address of a Letta server, without /v1."]
            return Check("server", "fail", found, " ".join(to_do))
        case _:
            return Check("server", "warn" if health.remarks else "ok", found, " ".join(health.remarks))


async def _key(backend: Backend, settings: BackendSettings, health: Health) -> Check:
    await backend.list_agents(limit=1)
    if not settings.api_key.get_secret_value():
        return Check("key", "ok", "none is set, and none is needed")
    said = {True: "accepted", False: "set, but this server asks for none", None: "set, and not refused"}
    return Check("key", "ok", said[health.needs_key])


async def _conversations(backend: Backend) -> Check:
    page = await backend.list_conversations(ConversationQuery(limit=1))
    return Check("conversations", "ok", "there are some" if page.items else "there are none yet")


def _project(settings: BackendSettings, health: Health) -> Check:
    project = quote(settings.project, NAME_CHARS)
    if health.kind == "cloud":
        return Check("project", "ok", f"{project}; the agents below are those of it")
    return Check(
        "project", "warn", f"{project} means nothing here", "Only Letta Cloud has projects: unset LETTA_PROJECT."
    )


async def _agents(backend: Backend) -> Check:
    page = await backend.list_agents(limit=MANY)
    if not page.items:
        return Check("agents", "warn", "none is visible", f"Create one with: {SHORT} create-agent NAME")
    names = [repr(quote(each.name, NAME_CHARS)) for each in page.items]
    return Check("agents", "ok", _first_few(names, more=page.more))


async def _models(backend: Backend) -> Check:
    handles = [quote(each, NAME_CHARS) for each in await backend.list_models()]
    if not handles:
        return Check("models", "fail", "none is offered: agents cannot answer", backend.no_models_advice)
    if handles == [FREE_MODEL]:
        to_do = "Connect a model provider to the server, as by its variable OPENAI_API_KEY; this one is a trial."
        return Check("models", "warn", f"only {FREE_MODEL}: no provider is connected", to_do)
    return Check("models", "ok", _first_few(handles))


def _background(health: Health) -> Check:
    if health.background is None:
        return Check("background", "ok", "cannot be told here without sending a message")
    if health.background:
        return Check("background", "ok", "the server has Redis: it locks a conversation while it answers in it")
    return Check(
        "background",
        "warn",
        "the server has no Redis: two messages sent to one conversation at once are both answered, mixed up",
        "Start the Letta server with LETTA_REDIS_HOST, or see that nobody else sends to the same conversations.",
    )


def _first_few(names: Sequence[str], *, more: bool = False) -> str:
    rest = f", and {'at least ' if more else ''}{len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)}{'+' if more else ''}: {', '.join(names[:SHOWN])}{rest}"


class _Secrets:
    """The keys, and passwords in addresses, which must not be printed."""

    def __init__(self, settings: BackendSettings) -> None:
        secrets = [settings.api_key.get_secret_value(), settings.app_server_token.get_secret_value()]
        self._secrets = [each for each in secrets if each]
        self._addresses = [each for each in (settings.base_url, settings.app_server_url) if "@" in each]

    def hide(self, text: str) -> str:
        for address in self._addresses:
            text = text.replace(address, without_password(address))
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        return text
