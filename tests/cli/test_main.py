"""The command line and the settings behind it."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import anyio
import pytest
from pydantic import ValidationError

from letta_conversations_mcp import __version__
from letta_conversations_mcp.cli.main import main
from letta_conversations_mcp.settings import Settings
from tests.rig.bounds import HANG_SECONDS


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a start with these arguments says on stderr; stdout must stay empty."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.fixture
def without_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the extra: its package cannot be found."""
    monkeypatch.setitem(sys.modules, "letta_code", None)


@pytest.mark.usefixtures("without_local")
def test_serving_over_http_without_a_place_to_go_names_the_ways(capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(["serve", "--http"], capsys)

    assert "LETTA_API_KEY" in said
    assert "LETTA_BASE_URL" in said
    assert f"{sys.executable} -m pip install letta==" in said


@pytest.mark.usefixtures("without_local")
def test_the_local_backend_has_to_be_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "-m pip install letta==" in fails(["serve", "--http", "--backend", "local"], capsys)


@pytest.mark.usefixtures("without_local")
@pytest.mark.parametrize("arguments", [["apply", "-f", "FILE"], ["export", "default", "--agent", "a"]])
def test_a_command_without_a_place_to_go_names_the_ways(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text("agents: []")

    said = fails([str(file) if each == "FILE" else each for each in arguments], capsys)

    assert "LETTA_BASE_URL" in said


@pytest.mark.usefixtures("without_local")
def test_the_doctor_finds_that_there_is_no_place_to_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 1

    said = capsys.readouterr().out
    assert "fail  server" in said
    assert "LETTA_API_KEY=…" in said
    assert '"LETTA_API_KEY": "your LETTA_API_KEY"' in said


@pytest.mark.usefixtures("without_local")
def test_a_key_that_the_client_did_not_fill_in_is_no_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LETTA_API_KEY", "${LETTA_API_KEY}")

    assert "LETTA_API_KEY" in fails(["serve", "--http"], capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--wait-seconds", "soon"], "--wait-seconds (or LETTA_MCP_WAIT_SECONDS): a number is needed"),
        (["serve", "--max-output-chars", "10"], "(or LETTA_MCP_MAX_OUTPUT_CHARS): it must be 2000 or more"),
        (["send-message", "--wait-seconds", "soon"], "'soon' is not a valid number"),
        (["--letta-base-url", "not an url"], "a URL is needed"),
        (["--local-dir", "agents"], "an absolute path is needed"),
        (["--local-dir", "~nobody-of-this-name/agents"], "there is no such user"),
        (["serve", "--http", "--letta-base-url", "http://localhost:1", "--host", "0.0.0.0"], "a token is needed"),
    ],
)
def test_a_wrong_option_is_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(arguments, capsys)

    assert words in said
    assert "Traceback" not in said


def test_the_folder_of_local_agents_may_begin_with_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")

    assert str(Settings(local_dir=Path("~/agents")).local_dir) == "/home/ann/agents"


def test_a_port_that_is_taken_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        said = fails(["serve", "--http", "--letta-base-url", "http://localhost:1", "--port", str(port)], capsys)

    assert f"cannot listen on 127.0.0.1:{port}" in said


def test_a_flag_wins_over_a_variable_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETTA_MCP_WAIT_SECONDS", "7")

    assert Settings().wait_seconds == 7
    assert Settings(wait_seconds=9).wait_seconds == 9
    assert Settings().request_timeout == 60


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETTA_MCP_WAIT_SECONDS", "")

    assert Settings().wait_seconds == 45


def test_variables_that_are_not_ours_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "BASE_URL", "TOKEN", "PORT", "HOST"):
        monkeypatch.setenv(name, "12345")

    settings = Settings()

    assert settings.api_key.get_secret_value() == ""
    assert (settings.base_url, settings.port, settings.host) == ("", 8000, "127.0.0.1")


def test_lists_are_read_from_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETTA_MCP_ALLOWED_HOSTS", "a.example, b.example:8443,")

    assert Settings().allowed_hosts == ("a.example", "b.example:8443")


def test_secrets_do_not_show_when_settings_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETTA_API_KEY", "sk-secret")
    monkeypatch.setenv("LETTA_MCP_TOKEN", "also-secret")

    assert "secret" not in repr(Settings()).replace("SecretStr", "")


def test_a_token_that_no_header_can_carry_is_refused() -> None:
    with pytest.raises(ValidationError, match="ASCII"):
        Settings(token="schlüssel")  # pyright: ignore[reportArgumentType]


async def test_serving_over_http_tells_where_and_ends_on_a_signal() -> None:
    command = [sys.executable, "-m", "letta_conversations_mcp", "serve", "--http", "--port", "0"]
    async with await anyio.open_process([*command, "--letta-base-url", "http://127.0.0.1:9"]) as process:
        assert process.stderr
        with anyio.fail_after(HANG_SECONDS):
            said = (await process.stderr.receive()).decode()
        process.terminate()
        with anyio.fail_after(HANG_SECONDS):
            await process.wait()

    assert "Serving MCP at http://127.0.0.1:" in said


def test_a_secret_among_the_arguments_draws_a_warning(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LETTA_BASE_URL", "http://127.0.0.1:9")
    export = ["export", "default", "--agent", "a", "-o", str(tmp_path)]
    main([*export, "--letta-api-key", "of-the-test"])
    warned = capsys.readouterr().err
    monkeypatch.setenv("LETTA_API_KEY", "of-the-test")
    main(export)

    assert "can read the value of --letta-api-key in the list of processes (ps). Set LETTA_API_KEY instead." in warned
    assert "of-the-test" not in warned
    assert "(ps)" not in capsys.readouterr().err


def test_stateless_is_a_flag_without_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["serve", "--http", "--stateless", "--letta-base-url", "http://127.0.0.1:9", "--host", "192.0.2.1"]

    assert "a token is needed" in fails(arguments, capsys)
