"""The tokens file: what it may hold, what is wrong with it in words, and the command that writes its tables."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from letta_conversations_mcp.cli.main import main
from letta_conversations_mcp.core.access import EVERYTHING
from letta_conversations_mcp.http.app import CannotServe, build_app
from letta_conversations_mcp.http.auth import token_file
from letta_conversations_mcp.http.auth.token_file import (
    PREFIX,
    BadTokensFile,
    TokensFile,
    hash_of,
    make_token,
    read_tokens,
)
from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.server.caller_view import CallerToken
from letta_conversations_mcp.settings import Settings

AGENT = "agent-123e4567-e89b-42d3-a456-426614174000"


def table(**changes: str) -> str:
    lines = {"name": '"ann"', "sha256": f'"{"0" * 64}"', "scopes": '["read"]'} | changes
    return "[[tokens]]\n" + "\n".join(f"{key} = {value}" for key, value in lines.items() if value) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[tokens]\n", "is not TOML"),
        ("", "is empty, as a file is that was cut off"),
        (table() + '[[tokens]]\nname = "bob"\n', "token 2: sha256"),
        ("tokens = 1\n", "[[tokens]] tables and nothing else"),
        ("[users]\n", "[[tokens]] tables and nothing else"),
        ("tokens = [1]\n", "token 1"),
        (table(name=""), "token 1: name"),
        (table(name='"ann lee"'), "such as ann@example.org"),
        (table(name='"ann\\nbob"'), "such as ann@example.org"),
        (table(sha256='"abc"'), "token 1: sha256"),
        (table(sha256=""), "token 1: sha256"),
        (table(scopes="[]"), "token 1: scopes"),
        (table(scopes='["admin"]'), "of read, write, delete"),
        (table(agents='["bookkeeper"]'), "ids are needed"),
        (table(agents=f'["{AGENT}/../x"]'), "ids are needed"),
        (table(expires='"tomorrow"'), "token 1: expires"),
        (table(token='"secret-secret"'), "token 1: token"),
        (table() + table(sha256=f'"{"1" * 64}"'), "has the name of 'ann' twice"),
        (table() + table(name='"bob"'), "has the sha256 of 'bob' twice"),
    ],
)
def test_what_is_wrong_is_said_without_what_it_holds(path: Path, text: str, words: str) -> None:
    path.write_text(text)

    with pytest.raises(BadTokensFile) as raised:
        read_tokens(path)

    assert words in str(raised.value)
    assert str(path) in str(raised.value)
    assert "secret-secret" not in str(raised.value)
    assert "0000" not in str(raised.value)


def test_a_file_that_is_not_there_or_no_text_is_said_to_be(path: Path) -> None:
    with pytest.raises(BadTokensFile, match="cannot be read: No such file"):
        read_tokens(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadTokensFile, match="UTF-8"):
        read_tokens(path)


async def verified(path: Path, token: str) -> CallerToken | None:
    found = await TokensFile(path).verify_token(token)
    assert found is None or isinstance(found, CallerToken)
    return found


async def test_a_token_opens_what_its_table_says(path: Path) -> None:
    token = make_token()
    path.write_text(
        table(sha256=f'"{hash_of(token)}"', scopes='["read", "delete"]', agents=f'["{AGENT}"]', letta_api_key='"k"')
    )

    found = await verified(path, token)

    assert found
    assert (found.access.name, found.access.scopes) == ("ann", {"read", "delete"})
    assert (found.access.agents, found.access.letta_key) == ({AGENT}, "k")
    assert found.token == ""
    assert "'k'" not in repr(found)


async def test_no_agents_at_all_is_not_all_agents(path: Path) -> None:
    token = make_token()
    path.write_text(table(sha256=f'"{hash_of(token)}"', agents="[]"))

    found = await verified(path, token)

    assert found
    assert found.access.agents == frozenset()


DAY = "%Y-%m-%d"
MOMENT = "%Y-%m-%dT%H:%M:%SZ"


@pytest.mark.parametrize(
    ("form", "seconds_from_now", "is_good"),
    [
        (DAY, -86_400, False),
        (DAY, 0, False),
        (DAY, 86_400, True),
        ("%Y-%m-%dT%H:%M:%S", -1, False),
        ("%Y-%m-%dT%H:%M:%S+00:00", -1, False),
        (MOMENT, -1, False),
        (MOMENT, 3600, True),
    ],
)
async def test_a_token_is_refused_from_its_last_moment_on(
    path: Path, form: str, seconds_from_now: int, is_good: bool
) -> None:
    token = make_token()
    expires = time.strftime(form, time.gmtime(time.time() + seconds_from_now))
    path.write_text(table(sha256=f'"{hash_of(token)}"', expires=expires))

    assert (await verified(path, token) is not None) == is_good


def test_the_command_writes_a_table_that_the_server_reads(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "--name", "ann@example.org", "--scopes", "delete,read", "--agents", AGENT]) == 0
    first = capsys.readouterr()
    assert main(["token", "--name", "bob", "--expires", "2027-01-31"]) == 0
    second = capsys.readouterr()
    path.write_text(first.out + second.out)

    ann, bob = read_tokens(path)
    token = first.err.split()[-1]

    assert token.startswith(PREFIX)
    assert token not in first.out
    assert (ann.name, ann.sha256, ann.agents) == ("ann@example.org", hash_of(token), {AGENT})
    assert (ann.scopes, bob.scopes) == ({"read", "delete"}, {"read", "write"})
    assert bob.agents is None
    assert bob.expires
    assert bob.expires.isoformat() == "2027-01-31T00:00:00+00:00"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--name", "ann lee"], "--name: 1 to 64 letters"),
        (["--name", "ann", "--scopes", "all"], "--scopes"),
        (["--name", "ann", "--scopes", ""], "--scopes"),
        (["--name", "ann", "--agents", "bookkeeper"], "--agents: ids are needed"),
        (["--name", "ann", "--agents", ""], "--agents: it is empty"),
        (["--name", "ann", "--expires", "soon"], "--expires: a day is needed"),
        (["--name", "ann", "--expires", "2026-11-23"], "2026-11-23 is not in the future"),
    ],
)
def test_the_command_makes_no_token_that_the_file_could_not_hold(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["token", *arguments]) == 2

    said = capsys.readouterr()
    assert words in said.err
    assert PREFIX not in said.out + said.err


def test_the_command_adds_to_a_file_that_only_its_owner_reads(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ann", "bob"):
        assert main(["token", "--name", name, "--file", str(path)]) == 0
    said = capsys.readouterr()
    again = main(["token", "--name", "bob", "--file", str(path)])

    assert [each.name for each in read_tokens(path)] == ["ann", "bob"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert said.out == ""
    assert again == 2
    assert "has a token named 'bob' already" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
@pytest.mark.parametrize(("mode", "warns"), [(0o644, True), (0o602, True), (0o600, False), (0o640, False)])
def test_a_file_that_all_users_can_read_or_change_draws_a_warning(
    path: Path, mode: int, warns: bool, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(table())
    path.chmod(mode)

    TokensFile(path)
    assert main(["token", "--name", "bob", "--file", str(path)]) == 0

    for said in (caplog.text, capsys.readouterr().err):
        assert (f"{path} can be read or changed by every user of this machine" in said) is warns
    assert path.stat().st_mode & 0o777 == mode


async def test_a_file_that_was_cut_off_locks_nobody_out(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = make_token(), make_token()
    tables = [table(name=f'"{name}"', sha256=f'"{hash_of(token)}"') for name, token in (("ann", ann), ("bob", bob))]
    path.write_text("".join(tables))
    monkeypatch.setattr(token_file, "LOOK_SECONDS", 0)
    file = TokensFile(path)

    async def let_in() -> list[bool]:
        return [await file.verify_token(token) is not None for token in (ann, bob)]

    found: list[list[bool]] = []
    for text in ("", tables[0] + tables[1][:40], tables[0], "tokens = []"):
        path.write_text(text)
        found.append(await let_in())

    assert found == [[True, True], [True, True], [True, False], [False, False]]
    assert caplog.text.count("stay in force") == 2
    assert "gone: bob" in caplog.text


async def test_a_file_is_looked_at_now_and_then_and_read_only_when_it_has_changed(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = make_token()
    path.write_text("tokens = []")
    file = TokensFile(path)

    async def is_let_in(looks_every: float) -> bool:
        monkeypatch.setattr(token_file, "LOOK_SECONDS", looks_every)
        return await file.verify_token(token) is not None

    assert not await is_let_in(looks_every=0)
    path.write_text(table(sha256=f'"{hash_of(token)}"'))
    assert not await is_let_in(looks_every=1000)
    assert await is_let_in(looks_every=0)
    assert await is_let_in(looks_every=0)
    assert caplog.text.count("was read again") == 1
    assert "gone" not in caplog.text


async def test_the_one_token_is_let_in_and_no_other() -> None:
    only = token_file.OneToken("the-token")

    found = await only.verify_token("the-token")

    assert isinstance(found, CallerToken)
    assert found.access == EVERYTHING
    assert [await only.verify_token(each) for each in ("", "the-toke", "the-tokens", hash_of("the-token"))] == [
        None
    ] * 4


def test_tokens_are_long_and_different() -> None:
    tokens = {make_token() for _ in range(100)}

    assert len(tokens) == 100
    assert min(map(len, tokens)) >= len(PREFIX) + 43


def test_a_key_of_letta_for_agents_of_this_machine_is_a_contradiction(path: Path) -> None:
    path.write_text(table(letta_api_key='"secret-key"'))
    settings = Settings(tokens_file=path, backend="local")

    with pytest.raises(CannotServe, match="'ann' a letta_api_key") as raised:
        build_app(build_server(settings), settings)

    assert "secret-key" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--token", "x", "--tokens-file", "f"], ["--token", "--tokens-file"]),
        (["--token", "x", "--oidc-issuer", "https://id.example", "--public-url", "https://x.example/mcp"], ["--token"]),
        (["--oidc-issuer", "https://id.example"], ["--oidc-issuer", "--public-url"]),
        (["--oidc-audience", "x"], ["--oidc-audience", "--oidc-issuer"]),
        (["--oidc-jwks-url", "https://id.example/keys"], ["--oidc-jwks-url", "--oidc-issuer"]),
        (["--oidc-agents-claim", "x"], ["--oidc-agents-claim", "--oidc-issuer"]),
        (["--oidc-issuer", "http://id.example"], ["--oidc-issuer", "https://"]),
        (["--public-url", "http://team.example/mcp"], ["--public-url", "https://"]),
        (["--public-url", "https://team.example/mcp?x=1"], ["--public-url", "URL"]),
        (["--public-url", "team.example"], ["--public-url", "URL"]),
        (["--request-state-keys", "short"], ["--request-state-keys", "32 characters"]),
        (["--request-state-keys", ",".join(["x" * 32] * 2)], ["--request-state-keys", "twice"]),
        (["--tokens-file", "/nowhere/tokens.toml"], ["/nowhere/tokens.toml", "No such file"]),
    ],
)
def test_contradictions_fail_at_the_start_and_are_named(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--http", "--letta-base-url", "http://127.0.0.1:9", "--port", "0", *arguments]) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert [each for each in words if each not in said.err] == []
