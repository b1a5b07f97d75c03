"""The cases, and the Letta server that each of them begins with."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mcp import Client
from pydantic import BaseModel, ConfigDict, Field

from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.settings import Settings
from tests.rig.fake_letta import FakeLetta
from tests.rig.model import ScriptedModel
from tests.rig.servers import Caller

CASES = Path(__file__).with_name("cases.yaml")


AGENTS: dict[str, list[str]] = {"librarian": [], "support": ["office"], "gardener": ["garden"]}
"""Their names and tags."""


class Case(BaseModel):
    """See the head of cases.yaml."""

    model_config = ConfigDict(extra="forbid")

    says: str
    calls: list[dict[str, dict[str, Any]]] = Field(min_length=1)
    holds: dict[str, Any] = Field(default_factory=dict)
    refused: bool = False
    only_checked: bool = False

    def expected(self, world: World) -> list[tuple[str, dict[str, Any]]]:
        """Tools and arguments, with the ids of this world."""
        return [(tool, world.filled(arguments)) for call in self.calls for tool, arguments in call.items()]


def load_cases() -> list[Case]:
    return [Case.model_validate(each) for each in yaml.safe_load(CASES.read_text())]


@dataclass(frozen=True)
class World:
    """A client of our server, and the ids behind the names that the cases use."""

    caller: Caller
    ids: Mapping[str, str]

    def filled(self, value: Any) -> Any:
        """The value with `$name` replaced by ids."""
        if isinstance(value, dict):
            return {name: self.filled(each) for name, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
        if isinstance(value, list):
            return [self.filled(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
        if isinstance(value, str) and value.startswith("$"):
            return self.ids[value[1:]]
        return value

    async def failed(self, case: Case) -> list[str]:
        """What does not hold that must hold after the case."""
        if not case.holds:
            return []
        [(tool, arguments)] = [(name, each) for name, each in case.holds.items() if name not in ("has", "lacks")]
        said = (await self.caller.ok(tool, **self.filled(arguments))).text
        wrong = [f"{tool} lacks {case.holds['has']!r}"] if case.holds.get("has", "") not in said else []
        return wrong + ([f"{tool} has {case.holds['lacks']!r}"] if case.holds.get("lacks", "\0") in said else [])


@asynccontextmanager
async def open_world() -> AsyncGenerator[World]:
    fake = FakeLetta(ScriptedModel())
    ids = {name: fake.add_agent(name, tags=tags) for name, tags in AGENTS.items()}
    for name, owner, summary, text in (
        ("invoice", "support", "invoice 4711", "the invoice, part {n}"),
        ("printer", "support", "printer broken", "the toner is empty, {n}"),
        ("tea", "librarian", "tea books", "oolong and other tea, {n}"),
    ):
        ids[name] = fake.add_conversation(ids[owner], summary)
        fake.add_messages(ids[name], 12, text=text)
    async with fake.serve() as url:
        settings = Settings(base_url=url, create_agents=True)
        async with Client(build_server(settings)) as client:
            yield World(Caller(client), ids)
