"""Opens the backend that the settings select."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec

from letta_conversations_mcp.backends.forwarding import ForwardingBackend
from letta_conversations_mcp.backends.letta_api import ApiBackend
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import NotConfigured
from letta_conversations_mcp.core.installation import install_command
from letta_conversations_mcp.core.model import Deletion
from letta_conversations_mcp.settings import BackendSettings
from letta_conversations_mcp.turns.instrumentation import NO_METER, Meter

logger = logging.getLogger(__name__)


def check_backend(settings: BackendSettings) -> None:
    """Raises NotConfigured if the settings select no usable backend. Commands call this first, to fail at once; a
    server over stdio starts nevertheless, see `open_backend`."""
    if not settings.uses_local:
        return
    if sys.platform == "win32":
        raise NotConfigured(
            "Agents on this machine are not supported on Windows.",
            "Set LETTA_API_KEY (Letta Cloud) or LETTA_BASE_URL (a server of your own), or run this server inside WSL.",
        )
    installed = find_spec("websockets") and (settings.app_server_url or find_spec("letta_code"))
    if installed:
        return
    if settings.backend == "local":
        raise NotConfigured("The local backend is not installed.", f"Install it with: {install_command('local')}")
    raise NotConfigured(
        "No place where Letta agents live is configured.",
        "There are three ways:\n"
        "  set LETTA_API_KEY=…    for Letta Cloud (make a key at https://app.letta.com)\n"
        "  set LETTA_BASE_URL=…   for a Letta server of your own, such as http://localhost:8283\n"
        "  for agents on this machine, without an account, install Letta Code:\n"
        f"    {install_command('local')}",
    )


class UnconfiguredBackend(ForwardingBackend):
    """A backend with nowhere to forward to: each operation raises NotConfigured."""

    name = "none"
    deletion: Deletion = "deleted"
    keeps_tags = True
    isolates_blocks = True
    no_models_advice = ""
    image_note = ""
    new_agent_note = ""

    def __init__(self, problem: NotConfigured) -> None:
        self._problem = problem

    @property
    def inner(self) -> Backend:
        raise self._problem.with_traceback(None)


@asynccontextmanager
async def open_backend(
    settings: BackendSettings, meter: Meter = NO_METER, *, for_many: bool = False
) -> AsyncGenerator[Backend]:
    """The backend, for as long as the context lasts. `for_many`: calls of many clients are expected.

    If the settings select no usable backend, each operation raises NotConfigured: a client that cannot start a server
    shows its user no more than "failed to connect".
    """
    try:
        check_backend(settings)
    except NotConfigured as problem:
        logger.warning("%s", problem.for_person)
        yield UnconfiguredBackend(problem)
        return
    if settings.uses_local:
        async with _open_local(settings) as backend:
            yield backend
        return
    async with ApiBackend(settings, meter, for_many=for_many) as backend:
        yield backend


@asynccontextmanager
async def _open_local(settings: BackendSettings) -> AsyncGenerator[Backend]:
    # Imported late: the local backend needs an optional extra.
    from platformdirs import user_data_path

    from letta_conversations_mcp.backends.app_server.backend import open_local_backend
    from letta_conversations_mcp.backends.app_server.process import AppServer, LocalOptions, app_server

    options = LocalOptions(
        state_dir=settings.local_dir or user_data_path("letta-conversations-mcp"), environment=dict(os.environ)
    )

    @asynccontextmanager
    async def running() -> AsyncGenerator[AppServer]:
        yield AppServer(url=settings.app_server_url, token=settings.app_server_token.get_secret_value())

    server = running if settings.app_server_url else lambda: app_server(options)
    async with open_local_backend(server, settings) as backend:
        yield backend
