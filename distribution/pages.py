"""The parts of README and docs that are written from the code: clients, the reference of the tools, the stories."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from typing import Any

from distribution.answers import RECORDED
from distribution.clients import client_guides
from distribution.description import ROOT, Description

HINTS = {
    "readOnlyHint": "changes nothing",
    "destructiveHint": "may remove or stop something",
    "idempotentHint": "can be repeated safely",
    "openWorldHint": "reaches what the agent reaches",
}


def clients(server: Description) -> str:
    return "\n\n".join(each.markdown() for each in client_guides(server))


def tools(listed: list[dict[str, Any]]) -> str:
    """`docs/tools.md`, from the tools as a client lists them and the recorded answers."""
    recorded = _recorded()["tools"]
    contents = [f"* [`{each['name']}`](#{each['name']}): {_lower(each['title'])}" for each in listed]
    head = """# Tools

<!-- Written by `make pages`. -->

Every argument is checked before anything is sent, and an unknown one is an error. Agents are given by id or exact name,
conversations by id, or as `default` together with `agent`. Ids in the answers below are shortened."""
    return (
        "\n\n".join([head, "\n".join(contents), *(_tool(each, recorded.get(each["name"])) for each in listed)]) + "\n"
    )


def stories() -> str:
    parts: list[str] = []
    for title, steps in _recorded()["stories"].items():
        lines = [f"$ {step['tool']}({_call(step['arguments'])})\n{step['text'].strip()}" for step in steps]
        parts.append(f"**{title}**\n\n```text\n" + "\n\n".join(lines) + "\n```")
    return "\n\n".join(parts)


def between(page: str, name: str, text: str) -> str:
    """The page with `text` between its marks for `name`. Raises ValueError if it has none."""
    begin, end = f"<!-- {name}: written by `make pages` -->", f"<!-- end of {name} -->"
    if begin not in page or end not in page:
        raise ValueError(f"no place for {name}")
    return page[: page.index(begin) + len(begin)] + f"\n\n{text}\n\n" + page[page.index(end) :]


def frameworks() -> str:
    """The examples of `examples/`, each with what to install."""
    parts: list[str] = []
    for name, example in tomllib.loads((ROOT / "examples" / "requirements.toml").read_text()).items():
        install = f"pip install {shlex.join(example['requirements'])}"
        code = (ROOT / "examples" / f"{name}.py").read_text().strip()
        parts.append(f"## {example['title']}\n\n```sh\n{install}\n```\n\n```python\n{code}\n```")
    return "\n\n".join(parts)


def _recorded() -> dict[str, Any]:
    return json.loads(RECORDED.read_text())


def _tool(tool: dict[str, Any], answer: dict[str, Any] | None) -> str:
    hints = [text for name, text in HINTS.items() if tool["annotations"][name]]
    parts = [
        f"## {tool['name']}",
        f"*{tool['title']}* · {', '.join(hints) or 'changes something'}",
        tool["description"],
    ]
    required = tool["inputSchema"].get("required", [])
    if properties := tool["inputSchema"].get("properties"):
        rows = [_row(name, schema, name in required) for name, schema in properties.items()]
        parts.append("\n".join(["| argument | type | meaning |", "|---|---|---|", *rows]))
    if answer:
        call = f"{tool['name']}({_call(answer['arguments'])})"
        parts.append(f"An answer:\n\n```text\n$ {call}\n{answer['text'].strip()}\n```")
    return "\n\n".join(parts)


def _row(name: str, schema: dict[str, Any], required: bool) -> str:
    kind = " or ".join(f"`{each}`" for each in schema["enum"]) if "enum" in schema else schema.get("type", "")
    if kind == "array":
        kind = f"list of {schema.get('items', {}).get('type', 'values')}s"
    default = schema.get("default")
    said = [schema["description"]] + ([f"default `{json.dumps(default)}`"] if default not in (None, "", []) else [])
    return f"| `{name}`{' (required)' if required else ''} | {kind} | {_cell('; '.join(said))} |"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _call(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())


def _lower(title: str) -> str:
    return title[0].lower() + title[1:]
