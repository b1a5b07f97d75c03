"""What is written from the description of the server, the settings and the tools is up to date and true."""

from __future__ import annotations

import base64
import json
import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

from distribution.clients import ClientGuide, client_guides, cursor_link, vscode_link
from distribution.description import ROOT, read_description
from distribution.outputs import listed_tools, outputs
from letta_conversations_mcp.settings import Settings, unknown_variables

SERVER = read_description()
GUIDES = client_guides(SERVER)
LONGEST_SUMMARY = 100
"""Characters that the registry takes as a description."""


async def test_every_generated_file_is_up_to_date() -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in (await outputs()).items() if path.read_text() != text]

    assert not stale, "run python -m distribution"


def entries() -> dict[str, dict[str, Any]]:
    return json.loads((ROOT / "mcp.json.example").read_text())["mcpServers"]


@pytest.mark.parametrize("name", [name for name, each in entries().items() if "command" in each])
def test_an_example_configures_the_server_as_it_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = entries()[name]
    for variable, value in entry["env"].items():
        monkeypatch.setenv(variable, value)

    settings = Settings()

    assert unknown_variables(entry["env"]) == {}
    assert settings.uses_local is (name == "letta-on-this-machine")
    assert bool(settings.base_url) is (name == "letta-self-hosted")


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.title)
def test_the_configuration_of_a_client_can_be_parsed(guide: ClientGuide) -> None:
    for snippet in (guide.stdio, guide.http):
        match snippet.language:
            case "json":
                assert json.loads(snippet.text)
            case "toml":
                assert tomllib.loads(snippet.text)["mcp_servers"]["letta"]
            case _:
                assert snippet.text.startswith("claude mcp add ")


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.title)
def test_a_client_over_http_sends_a_token_to_the_address(guide: ClientGuide) -> None:
    assert "http://127.0.0.1:8000/mcp" in guide.http.text
    assert any(mark in guide.http.text for mark in ("Bearer", "bearer_token_env_var"))
    assert "http" not in guide.stdio.text


def test_install_links_hold_the_entry_of_a_client() -> None:
    cursor = parse_qs(urlsplit(cursor_link(SERVER)).query)
    vscode = json.loads(unquote(vscode_link(SERVER).removeprefix("vscode:mcp/install?")))

    assert json.loads(base64.b64decode(cursor["config"][0]))["args"] == ["--from", SERVER.requirement, SERVER.name]
    assert (cursor["name"], vscode["name"], vscode["command"]) == (["letta"], "letta", "uvx")


async def test_the_bundles_name_the_same_server_options_and_secrets() -> None:
    registry = json.loads((ROOT / "server.json").read_text())
    bundle = json.loads((ROOT / "distribution" / "mcpb" / "manifest.json").read_text())
    plugin = json.loads((ROOT / ".claude-plugin" / "plugin.json").read_text())
    variables = registry["packages"][0]["environmentVariables"]

    assert {each["version"] for each in (registry, bundle, plugin)} == {SERVER.version}
    assert {each["description"] for each in (registry, bundle, plugin)} == {SERVER.summary}
    assert len(SERVER.summary) <= LONGEST_SUMMARY
    assert {each["name"] for each in variables if each.get("isSecret")} == {
        each.variable for each in SERVER.options if each.secret
    }
    assert set(bundle["server"]["mcp_config"]["env"]) == {each["name"] for each in variables}
    assert {each["name"] for each in bundle["tools"]} == {each["name"] for each in await listed_tools()}


def test_dockers_catalogue_takes_its_entry() -> None:
    """The rules of `cmd/validate` in docker/mcp-registry that need no network."""
    entry = yaml.safe_load((ROOT / "distribution" / "docker" / "server.yaml").read_text())
    title, config = entry["about"]["title"], entry["config"]

    assert re.fullmatch(r"[a-z0-9-]+", entry["name"])
    assert "MCP" not in title
    assert "Server" not in title
    assert all(word[0].isupper() for word in title.split())
    assert re.fullmatch(r"[a-f0-9]{40}", entry["source"]["commit"])
    assert all(re.fullmatch(r"[\w-]+\.[\w.-]+", each["name"]) for each in config["secrets"])
    parameters = [f"{{{{{entry['name']}.{each}}}}}" for each in config["parameters"]["properties"]]
    assert [each["value"] for each in config["env"]] == parameters


def test_the_registry_finds_its_proof_in_readme_and_image() -> None:
    assert f"<!-- mcp-name: {SERVER.registry_name} -->" in (ROOT / "README.md").read_text()
    assert f'LABEL io.modelcontextprotocol.server.name="{SERVER.registry_name}"' in (ROOT / "Dockerfile").read_text()


def test_host_and_owner_are_placeholders_in_one_place() -> None:
    """`server.toml` has them; all other files have what it says."""
    proof = SERVER.registry_name.rpartition("/")[0]
    written = (ROOT / "README.md", ROOT / "Dockerfile", ROOT / "pyproject.toml", ROOT / "server.json")

    for path in written:
        text = path.read_text().replace(SERVER.repository, "").replace(SERVER.image, "").replace(proof, "")
        assert "OWNER" not in text, Path(path).name
