"""The files in deploy/: what they name exists, and nginx, where there is one, does what its file says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import tomllib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
import yaml
from mcp import Client
from pydantic import SecretStr

from letta_conversations_mcp.settings import Settings
from tests.http.team import HEADERS
from tests.operations.service import Service, service
from tests.rig.bounds import HANG_SECONDS
from tests.rig.fake_letta import FakeLetta
from tests.rig.loopback import http_client, loopback_socket
from tests.rig.model import Hold, Say, ScriptedModel
from tests.rig.programs import installed
from tests.rig.real_letta import free_port
from tests.rig.servers import Caller, Era, in_own_task
from tests.rig.waiting import Record, until

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

NOWHERE = "http://127.0.0.1:9"
TOKEN = "a-token-of-enough-characters"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def named_settings() -> set[str]:
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text())
    config = next(each for each in manifests() if each["kind"] == "ConfigMap")
    dockerfile = (ROOT / "Dockerfile").read_text()
    in_image = {word.split("=")[0] for word in dockerfile.split() if word.startswith("LETTA_")}
    return {*compose["x-replica"]["environment"], *config["data"], *in_image}


def test_every_variable_in_the_files_is_a_setting() -> None:
    known = {f"LETTA_MCP_{name.upper()}" for name in Settings.model_fields} | {"LETTA_API_KEY", "LETTA_BASE_URL"}

    assert named_settings() - known == set()


def instruction(name: str) -> str:
    """What the Dockerfile gives the last instruction of this name, on one line."""
    joined = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    return next(line for line in reversed(joined.splitlines()) if line.startswith(f"{name} ")).removeprefix(f"{name} ")


def test_the_image_starts_the_command_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert json.loads(instruction("ENTRYPOINT")) == list(project["scripts"])[:1]


def test_every_image_of_others_can_be_pinned_by_its_digest() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yml").read_text())["services"]
    bases = re.findall(r"(?m)^FROM (\S+)", (ROOT / "Dockerfile").read_text())

    for name, each in services.items():
        assert "build" in each or each["image"].endswith(f"${{{name.upper()}_DIGEST:-}}"), name
    assert set(bases) == {"${PYTHON_IMAGE}"}
    assert "PYTHON_IMAGE" in services["replica-a"]["build"]["args"]


async def test_the_health_check_of_the_image_tells_whether_the_server_answers() -> None:
    check = json.loads(instruction("HEALTHCHECK").split("CMD ")[1])
    proxied = {**os.environ, "http_proxy": "http://127.0.0.1:9"}
    started = json.loads(instruction("CMD"))
    async with service(Settings(base_url="http://127.0.0.1:9"), arguments=started) as server:
        command = [sys.executable, *check[1:]]
        variables = proxied | {"LETTA_MCP_PORT": server.url.rpartition(":")[2]}
        healthy = await anyio.run_process(command, env=variables, check=False)
        server.process.kill()
        await server.ended()
        gone = await anyio.run_process(command, env=variables, check=False)

    assert (check[0], healthy.returncode) == ("python", 0), healthy.stderr
    assert gone.returncode == 1


def test_containers_cannot_write_cannot_gain_rights_and_are_not_root() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text())
    for name, each in compose["services"].items():
        assert each["read_only"] is True, name
        assert each["cap_drop"] == ["ALL"], name
        assert each["security_opt"] == ["no-new-privileges:true"], name
    for deployment in (each for each in manifests() if each["kind"] == "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["capabilities"] == {"drop": ["ALL"]}
    assert "\nUSER 10001" in (ROOT / "Dockerfile").read_text()


def test_containers_have_limits_for_memory_processes_and_temporary_files() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text())
    for name, each in compose["services"].items():
        assert each["mem_limit"], name
        assert each["pids_limit"] > 0, name
        assert all(":size=" in mount for mount in each.get("tmpfs", [])), name
    for deployment in (each for each in manifests() if each["kind"] == "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert all(each["resources"]["limits"]["memory"] for each in pod["containers"])
        assert all(each["emptyDir"]["sizeLimit"] for each in pod.get("volumes", []))


def test_every_pod_has_a_network_policy_and_only_the_servers_reach_redis() -> None:
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in manifests() if each["kind"] == "Deployment"]
    policies = {each["metadata"]["name"]: each["spec"] for each in manifests() if each["kind"] == "NetworkPolicy"}
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text())
    reached = {name for name, each in compose["services"].items() if "back" in each["networks"]}

    assert [each["podSelector"]["matchLabels"] for each in policies.values()] == [labels[1], labels[0]]
    assert policies["letta-conversations-mcp-redis"]["ingress"][0]["from"] == [
        {"podSelector": {"matchLabels": labels[0]}}
    ]
    assert reached == {"replica-a", "replica-b", "redis"}
    assert compose["networks"]["back"] == {"internal": True}


def redis_scripts() -> list[str]:
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text())
    deployment = [each for each in manifests() if each["kind"] == "Deployment"][1]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    return [compose["services"]["redis"]["command"][2].replace("$$", "$"), container["args"][0]]


@pytest.mark.parametrize("script", redis_scripts(), ids=["compose", "kubernetes"])
async def test_redis_asks_for_its_password(tmp_path: Path, script: str) -> None:
    installed("redis-server")
    command = script.replace("/data/", f"{tmp_path}/").rstrip() + f" --port {(port := free_port())}"
    variables = {**os.environ, "REDISCLI_AUTH": "secret"}
    async with await anyio.open_process(["sh", "-c", command], env=variables, stdout=None) as process:
        try:
            good = await pings(f"redis://:secret@127.0.0.1:{port}/0")
            without = await pings(f"redis://127.0.0.1:{port}/0")
        finally:
            process.send_signal(signal.SIGTERM)
        with anyio.fail_after(HANG_SECONDS):
            await process.wait()

    assert (good, without) == ("True", "refused")


async def pings(url: str) -> str:
    from redis.asyncio import Redis
    from redis.exceptions import AuthenticationError
    from redis.exceptions import ConnectionError as NotConnected

    async def answer() -> str:
        client: Any = Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]
        try:
            async with client as redis:
                return str(await redis.ping())
        except AuthenticationError:
            return "refused"
        except NotConnected:
            return ""

    return await until(answer)


def test_there_is_more_time_to_go_down_than_calls_may_take_to_be_answered() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text())
    config = next(each for each in manifests() if each["kind"] == "ConfigMap")["data"]
    pod = next(each for each in manifests() if each["kind"] == "Deployment")["spec"]["template"]["spec"]
    pause = float(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])

    assert float(compose["services"]["replica-a"]["stop_grace_period"].rstrip("s")) > Settings().drain_seconds + 3
    assert pod["terminationGracePeriodSeconds"] > pause + float(config["LETTA_MCP_DRAIN_SECONDS"]) + 3


def test_selectors_find_the_pods_that_they_are_for() -> None:
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in manifests() if each["kind"] == "Deployment"]
    for each in manifests():
        selector = cast("dict[str, Any]", each.get("spec", {}).get("selector", {}))
        wanted = selector.get("matchLabels", selector)
        if wanted:
            assert wanted in labels, each["kind"]


@asynccontextmanager
async def nginx(folder: Path, *replicas: Service) -> AsyncGenerator[str]:
    """nginx with the file of deploy/, in front of servers of this machine. Gives its URL."""
    with loopback_socket() as free:
        port = free.getsockname()[1]
    text = (DEPLOY / "nginx.conf").read_text()
    one, *others = [each.url.removeprefix("http://") for each in replicas]
    options = " max_fails=0;\n        server "
    for name, value in {
        "replica-a:8000": one,
        "replica-b:8000": options.join(others),
        "listen 8080": f"listen 127.0.0.1:{port}",
        "/tmp/": f"{folder}/",
        "worker_processes auto": "daemon off; worker_processes 1",
    }.items():
        assert name in text
        text = text.replace(name, value)
    (folder / "nginx.conf").write_text(text)
    command = [installed("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "/dev/stderr"]
    async with await anyio.open_process(command, stderr=None, stdout=None) as process:
        try:
            await until(lambda: is_listening(f"http://127.0.0.1:{port}"))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)


async def is_listening(url: str) -> bool:
    async with http_client() as http:
        try:
            return (await http.get(f"{url}/healthz")).is_success
        except httpx.TransportError:
            return False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return opened(tmp_path)


def opened(folder: Path) -> Path:
    """The folder, which nginx's workers can use too: they are not root."""
    folder.chmod(0o777)
    for parent in folder.parents[:3]:
        if parent.stat().st_uid == os.getuid():
            parent.chmod(parent.stat().st_mode | 0o011)
    return folder


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_behind_nginx_progress_comes_while_a_turn_runs(era: Era, folder: Path) -> None:
    model = ScriptedModel()
    fake = FakeLetta(model)
    held = Hold(Say("done"))
    model.enqueue(held)
    async with fake.serve() as letta_url:
        settings = Settings(base_url=letta_url, stateless=True)
        async with (
            service(settings) as one,
            service(settings) as other,
            nginx(folder, one, other) as url,
            Client(f"{url}/mcp", mode="legacy" if era == "legacy" else "auto") as client,
        ):
            caller = Caller(client)
            call = asyncio.create_task(caller.ok("send_message", agent=fake.add_agent("slow"), message="think"))
            await caller.progress.until()
            was_running = not call.done()
            held.gate.set()
            answer = await call

    assert was_running
    assert answer.data["reply"] == "done"


async def test_behind_nginx_nobody_notices_that_a_replica_goes_down(folder: Path) -> None:
    model = ScriptedModel()
    fake = FakeLetta(model)
    async with fake.serve() as letta_url:
        settings = Settings(base_url=letta_url, stateless=True, drain_seconds=5)
        gate = anyio.Event()
        fake.stall("GET", "/v1/models/*", gate)
        async with (
            service(settings) as one,
            service(settings) as other,
            one.client("modern") as direct,
            nginx(folder, one, other) as url,
            Client(f"{url}/mcp") as client,
        ):
            caller = Caller(client)
            agent_id = fake.add_agent("talker")
            await caller.ok("send_message", agent=agent_id, message="warm up")
            # A call that keeps the first one draining.
            holding = asyncio.create_task(direct.call("list_models"))
            await fake.requests.until(lambda each: each.path.startswith("/v1/models"))
            await one.begin_to_drain()
            while_draining = [await caller.ok("send_message", agent=agent_id, message=f"m{n}") for n in range(6)]
            gate.set()
            await holding
            await one.ended()
            after = [await caller.ok("send_message", agent=agent_id, message=f"n{n}") for n in range(6)]

    assert [each.data["reply"] for each in while_draining] == [f"echo: m{n}" for n in range(6)]
    assert [each.data["reply"] for each in after] == [f"echo: n{n}" for n in range(6)]
    assert len(model.calls) == 13


@dataclass
class Replica:
    """A server that is stopped and started again at the same address."""

    settings: Settings
    running: Service
    stack: AsyncExitStack

    @classmethod
    async def start(cls, settings: Settings, port: int = 0) -> Replica:
        stack = AsyncExitStack()
        return cls(settings, await stack.enter_async_context(in_own_task(service(settings, port=port))), stack)

    async def restart(self) -> None:
        port = int(self.running.url.rpartition(":")[2])
        self.running.process.send_signal(signal.SIGTERM)
        assert await self.running.ended() == 0
        await self.stack.aclose()
        again = await Replica.start(self.settings, port)
        self.running, self.stack = again.running, again.stack


@pytest.mark.slow(reason="three processes are drained and started, one after the other, while calls go on")
async def test_behind_nginx_nobody_notices_a_rolling_restart(folder: Path) -> None:
    """Calls overlap all the time, and each of three replicas is restarted."""
    model = ScriptedModel()
    fake = FakeLetta(model)
    sent = Record[str]()
    async with fake.serve() as letta_url:
        settings = Settings(base_url=letta_url, stateless=True, drain_seconds=5)
        replicas = [await Replica.start(settings) for _ in range(3)]
        agents = [fake.add_agent(f"talker {number}") for number in range(4)]
        is_over = anyio.Event()

        async def talk(url: str, agent: str, era: Era) -> None:
            async with Client(f"{url}/mcp", mode="legacy" if era == "legacy" else "auto") as client:
                caller = Caller(client)
                while not is_over.is_set():
                    text = f"{agent} {len(sent)}"
                    sent.append(text)
                    answer = await caller.call("send_message", agent=agent, message=text)
                    while answer.is_error and "; the same call can be made again" in answer.text:
                        # The replica had begun the call, and had not handed the message over when it was stopped.
                        answer = await caller.call("send_message", agent=agent, message=text)
                    while answer.data["status"] == "running":
                        place = {name: answer.data[name] for name in ("conversation_id", "run_id")}
                        answer = await caller.ok("wait_for_reply", **place)
                    assert answer.data["reply"] == f"echo: {text}"

        try:
            async with nginx(folder, *(each.running for each in replicas)) as url, anyio.create_task_group() as tasks:
                for number, agent in enumerate(agents):
                    tasks.start_soon(talk, url, agent, "legacy" if number % 2 else "modern")
                for replica in replicas:
                    seen = len(sent)
                    await replica.restart()
                    await sent.until(times=seen + len(agents))
                is_over.set()
        finally:
            for replica in replicas:
                await replica.stack.aclose()

    assert len(model.calls) == len(sent)


@pytest.fixture(scope="module")
def nginx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return opened(tmp_path_factory.mktemp("nginx"))


@pytest.fixture(scope="module")
async def behind_nginx(nginx_folder: Path) -> AsyncGenerator[str]:
    """The URL of nginx before two servers that know one token and take requests of 40 MB themselves."""
    settings = Settings(base_url=NOWHERE, stateless=True, token=SecretStr(TOKEN), max_body_bytes=40_000_000)
    async with in_own_task(_two_behind_nginx(nginx_folder, settings)) as url:
        yield url


@asynccontextmanager
async def _two_behind_nginx(folder: Path, settings: Settings) -> AsyncGenerator[str]:
    async with service(settings) as one, service(settings) as other, nginx(folder, one, other) as url:
        yield url


async def test_nginx_keeps_no_body_of_a_caller_without_a_token(nginx_folder: Path, behind_nginx: str) -> None:
    parts = urlsplit(behind_nginx)
    spooled = nginx_folder / "client_body"
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(await anyio.connect_tcp(str(parts.hostname), parts.port or 0))
            for _ in range(5)
        ]
        answers: list[bytes] = []
        for stream in streams:
            head = f"POST /mcp HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 30000000\r\n\r\n"
            await stream.send(head.encode() + b"x" * 500_000)
            with anyio.fail_after(HANG_SECONDS):
                answers.append(await stream.receive())
        kept = [each for each in spooled.rglob("*") if each.is_file()]

    assert [each.split()[1] for each in answers] == [b"401"] * 5
    assert kept == []


@pytest.mark.parametrize(
    ("size", "headers", "status"),
    [
        (100, {}, 401),
        (100, {"Authorization": "Bearer wrong"}, 401),
        (100, BEARER | {"Origin": "https://elsewhere.example"}, 403),
        (34_000_000, BEARER, 413),
        (100, BEARER, 400),
    ],
)
async def test_errors_of_nginx_are_those_of_json_rpc(
    behind_nginx: str, size: int, headers: dict[str, str], status: int
) -> None:
    async with http_client() as http:
        answer = await http.post(f"{behind_nginx}/mcp", content=b"x" * size, headers=HEADERS | headers)

    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert len(answer.headers.get_list("www-authenticate")) == (1 if status == 401 else 0)


async def test_without_a_replica_nginx_says_that_nothing_is_certain(folder: Path) -> None:
    settings = Settings(base_url=NOWHERE, stateless=True)
    async with service(settings) as one, service(settings) as other, nginx(folder, one, other) as url:
        for each in (one, other):
            each.process.kill()
            await each.ended()
        async with http_client() as http:
            answer = await http.post(f"{url}/mcp", json={}, headers=HEADERS)

    assert answer.status_code == 502
    assert "not certain" in answer.json()["error"]["message"]


async def test_through_nginx_a_client_finds_the_provider_of_its_token(folder: Path) -> None:
    settings = Settings(
        base_url=NOWHERE,
        stateless=True,
        oidc_issuer="https://id.example.org",
        public_url="https://letta.example.org/mcp",
    )
    path = "/.well-known/oauth-protected-resource/mcp"
    host = {"Host": "letta.example.org"}
    async with (
        _two_behind_nginx(folder, settings) as url,
        http_client() as http,
    ):
        metadata = await http.get(f"{url}{path}", headers=host)
        refused = await http.post(f"{url}/mcp", json={}, headers=HEADERS | host)
        viewer = await http.get(url, headers=host)

    assert metadata.json()["authorization_servers"] == ["https://id.example.org"]
    assert f"https://letta.example.org{path}" in refused.headers["www-authenticate"]
    assert viewer.status_code == 200


def pins(file: str) -> dict[str, str]:
    """The versions that a file pins, by name."""
    return dict(re.findall(r"(?m)^([A-Za-z0-9._-]+)==([^ ;\\\n]+)", (ROOT / file).read_text()))


def test_every_package_of_development_has_a_tested_version() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    named = {
        re.split(r"[^A-Za-z0-9._-]", each)[0] for group in groups.values() for each in group if isinstance(each, str)
    }

    assert named - {"letta-conversations-mcp"} - set(pins("constraints.txt")) == set()


def test_the_image_installs_the_tested_versions_and_only_files_with_known_hashes() -> None:
    tested, installed = pins("constraints.txt"), pins("deploy/image-requirements.txt")

    assert {"mcp", "letta-client", "redis", "opentelemetry-sdk"} <= set(installed)
    assert {name: version for name, version in installed.items() if tested.get(name, version) != version} == {}
    for line in (line for line in (ROOT / "Dockerfile").read_text().splitlines() if "pip install" in line):
        assert "--require-hashes" in line or "--no-index" in line
    for name in ("deploy/image-requirements.txt", "deploy/image-build-requirements.txt"):
        assert len(re.findall(r"(?m)^\S+==.* \\\n    --hash=sha256:", (ROOT / name).read_text())) == len(pins(name))
