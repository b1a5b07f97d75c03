"""How well a model uses the tools: `python -m evals`, with a model behind an OpenAI-compatible URL.

    EVAL_BASE_URL=http://localhost:11434/v1 EVAL_MODEL=qwen3 [EVAL_API_KEY=…] python -m evals [WORDS]

Every case begins with a new fake Letta server, and the model sees only what the user says and the tool list. A case
succeeds when the expected calls were made and what must hold does; there is no judge. With WORDS, only the cases that
contain them. Without a URL, the cases are checked against the schemas and the fake server, as the tests do.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from typing import Any, cast

import httpx

from evals.check import problems_of
from evals.world import Case, World, load_cases, open_world

MOST_STEPS = 8
"""Answers of the model in one case."""


@dataclass
class Outcome:
    """What a model did in one case."""

    wrong: list[str]
    calls: int = 0
    errors: int = 0
    tokens: int = 0


async def play(case: Case, model: httpx.AsyncClient, name: str) -> Outcome:
    async with open_world() as world:
        outcome, made = Outcome([]), list[tuple[str, dict[str, Any]]]()
        tools = [
            {
                "type": "function",
                "function": {"name": each.name, "description": each.description, "parameters": each.input_schema},
            }
            for each in (await world.caller.client.list_tools()).tools
        ]
        messages: list[dict[str, Any]] = [{"role": "user", "content": case.says}]
        for _ in range(MOST_STEPS):
            answer = await model.post("chat/completions", json={"model": name, "messages": messages, "tools": tools})
            answer.raise_for_status()
            data = answer.json()
            outcome.tokens += data.get("usage", {}).get("total_tokens", 0)
            message = data["choices"][0]["message"]
            messages.append(message)
            if not message.get("tool_calls"):
                break
            for call in message["tool_calls"]:
                said, is_error = await _call(world, call["function"], made)
                outcome.calls, outcome.errors = outcome.calls + 1, outcome.errors + is_error
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": said})
        missing = [each for each in case.expected(world) if not any(_fits(world, each, one) for one in made)]
        outcome.wrong = [f"no call {tool}({arguments})" for tool, arguments in missing]
        outcome.wrong += [] if case.only_checked else await world.failed(case)
        return outcome


async def _call(world: World, wanted: dict[str, Any], made: list[tuple[str, dict[str, Any]]]) -> tuple[str, bool]:
    try:
        arguments = json.loads(wanted["arguments"] or "{}")
        made.append((wanted["name"], arguments))
        answer = await world.caller.call(wanted["name"], **arguments)
    except (ValueError, TypeError) as error:
        return f"The arguments are no JSON object: {error}", True
    return answer.text, answer.is_error


FREE = frozenset(
    {"message", "description", "persona", "human", "prompt", "reason", "summary", "query", "search", "name"}
)
"""Arguments that a model phrases itself: they must be there, not be the same."""


def _fits(world: World, expected: tuple[str, dict[str, Any]], made: tuple[str, dict[str, Any]]) -> bool:
    names = {world.ids[each]: each for each in world.ids}

    def named(value: Any) -> Any:
        if isinstance(value, list):
            return sorted(names.get(str(each), str(each)) for each in cast("list[object]", value))
        return names.get(str(value), value)

    tool, arguments = expected
    return tool == made[0] and all(
        name in made[1] and (name in FREE or named(value) == named(made[1][name])) for name, value in arguments.items()
    )


async def main() -> int:
    wanted = " ".join(sys.argv[1:]).lower()
    cases = [each for each in load_cases() if wanted in each.says.lower()]
    url, name = os.environ.get("EVAL_BASE_URL", ""), os.environ.get("EVAL_MODEL", "")
    if not url:
        wrong = {each.says: found for each in cases if (found := await problems_of(each))}
        for says, found in wrong.items():
            print(f"{says}\n  {'; '.join(found)}")
        print(f"{len(cases) - len(wrong)} of {len(cases)} cases fit the schemas and the fake server.")
        return int(bool(wrong))
    headers = {"Authorization": f"Bearer {os.environ.get('EVAL_API_KEY', 'none')}"}
    outcomes: list[Outcome] = []
    async with httpx.AsyncClient(base_url=url.rstrip("/") + "/", headers=headers, timeout=300) as model:
        for case in cases:
            outcomes.append(outcome := await play(case, model, name))
            print(f"{'ok  ' if not outcome.wrong else 'FAIL'} {case.says}", *outcome.wrong, sep="\n       ")
    solved = sum(not each.wrong for each in outcomes)
    calls, errors, tokens = (sum(getattr(each, one) for each in outcomes) for one in ("calls", "errors", "tokens"))
    print(f"{solved} of {len(outcomes)} cases, {calls} calls, {errors} errors, {tokens} tokens.")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
