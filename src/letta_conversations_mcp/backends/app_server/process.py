"""Runs Letta Code's App Server while any process uses it, one per state folder.

`app_server` provides the address of a running server, and starts one if there is none. All processes that use a folder
share one server, and it ends with the last of them, even if that is killed. File locks ensure this, which the kernel
releases with the process that holds them:

- Every user holds `in-use`, shared. The supervisor, which runs the server, ends it only once it has got the lock
  exclusively: nobody can be handed the address of a server that is about to stop, and those that come meanwhile wait.
- Every user with a request or a turn in progress holds `active`, shared, so that a server that has grown too large is
  ended only while it is idle.
- The process that gets the lock `keeper` starts a supervisor and hands the lock to it: while it is held, a server
  runs, starts or ends.

Writes nothing outside the folder, which is also the server's home.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from letta_conversations_mcp.backends.app_server import supervisor
from letta_conversations_mcp.backends.app_server.activity import ActivityLock
from letta_conversations_mcp.backends.app_server.broken_files import BACKEND, broken_records
from letta_conversations_mcp.core.errors import ConversationError
from letta_conversations_mcp.core.installation import install_command
from letta_conversations_mcp.core.quoting import QUOTE_CHARS, quote

LOG = "server.log"

ANSWER_SECONDS = 2
"""Timeout for the server's readiness, which it reports within milliseconds."""

FORK_SECONDS = 20
"""Timeout for a bare Python to start on a busy machine."""

FULL_BYTES = 16_384
"""A disk with less room is full: not even the server's own files fit."""

MORE_FILES = "A person has to let it open more files (ulimit -n), and to start this program again."

TOKEN_BYTES = 32
TOKEN_CHARS = 43
"""Characters in which those are written."""

COMPILED = "compiled"
"""Where Node.js keeps its compiled code of Letta Code, so that only the first start has to compile it."""

_FOLDERS = ("home", BACKEND, "temporary", "work", COMPILED)
_NOT_PASSED = ("LETTA_", "GIT_", "XDG_", "PYTHON")
"""Prefixes of variables that would direct the server to other folders or servers, or that hold our secrets."""


@dataclass(frozen=True)
class LocalOptions:
    """Where the server keeps its agents, and how it is run. All durations in seconds.

    `command` is the program `letta`: without it the one of this Python, else the one on PATH. `environment` is where
    the server finds models and their keys (OPENAI_API_KEY, OLLAMA_BASE_URL, …); variables that would misdirect it are
    left out. The process that starts the server decides about `command` and `environment`: those that join later take
    the server as it is.
    `start_seconds` bounds all waiting for the server, `stop_seconds` how long it is asked before it is killed. A server
    that has grown by `growth_bytes`, which is looked at every `look_seconds`, is ended when it is idle: Letta Code
    0.34.12 grows by 0.4 MB with every turn.
    """

    state_dir: Path
    command: str | None = None
    start_seconds: float = 60
    stop_seconds: float = 5
    growth_bytes: int = 350_000_000
    look_seconds: float = 10
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


@dataclass(frozen=True)
class AppServer:
    """A running server: where its WebSocket is, the bearer token that it asks for, and, for one of ours, the file whose
    shared lock keeps it running."""

    url: str
    token: str = field(repr=False)
    in_use: Path | None = None
    inodes: Mapping[Path, int] = field(default_factory=dict[Path, int], repr=False)
    """Which files its lock and its data were when it was handed over."""
    activity: ActivityLock | None = field(default=None, repr=False, compare=False)
    """Held when the server is handed over."""

    def check_in_place(self) -> None:
        """Raises LocalServerProblem if the state folder was moved or deleted: the server still writes to its old path,
        and the next process would start another server with other data."""
        for path, inode in self.inodes.items():
            try:
                in_place = path.stat().st_ino == inode
            except OSError:
                in_place = False
            if not in_place:
                moved = path if path.name == BACKEND else path.parent
                raise LocalServerProblem(
                    f"its folder {moved} was moved, replaced or deleted while it was in use",
                    "A person has to end the programs that use it, see that the right folder is there, and start them "
                    "again.",
                )


class LocalServerProblem(ConversationError):
    """The server on this machine cannot be used, for a reason that a person has to fix."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem = problem
        super().__init__(f"The Letta server of this machine cannot be used: {problem}. Nothing was done. {remedy}")


@asynccontextmanager
async def app_server(options: LocalOptions) -> AsyncGenerator[AppServer]:
    """A running server, for as long as the context lasts. When it breaks, leave the context and enter a new one.

    Raises LocalServerProblem. If cancelled during the start, it leaves no unused server running.
    """
    if sys.platform == "win32":
        raise LocalServerProblem(
            "it is started only on Linux and macOS",
            "On Windows, start one with `letta server --listen`, and give its address with --app-server-url.",
        )
    start = _Start(options)
    server: AppServer | None = None
    with ExitStack() as locks:

        def open_lock(name: str) -> int:
            descriptor = supervisor.open_lock(start.folder / name)
            locks.callback(supervisor.unlock, descriptor)
            return descriptor

        with anyio.move_on_after(options.start_seconds), start.problems():
            await anyio.to_thread.run_sync(start.prepare)
            in_use = open_lock(supervisor.IN_USE)
            while not supervisor.lock(in_use, shared=True):  # noqa: ASYNC110 - a lock of the kernel's, not the loop's
                await anyio.sleep(supervisor.POLL_SECONDS)
            activity = ActivityLock(open_lock(supervisor.ACTIVE))
            while not activity.hold():  # noqa: ASYNC110 - the same
                await anyio.sleep(supervisor.POLL_SECONDS)
            server = await start.until_running(activity)
        if server is None:
            raise start.too_slow()
        yield server


async def until_stopped(folder: Path) -> None:
    """Wait, without a timeout, until no server runs, starts or ends in a state folder, so that it can be removed."""
    if sys.platform == "win32":
        return  # there is none that was started here
    descriptor = supervisor.open_lock(folder / supervisor.SUPERVISOR)
    try:
        while not supervisor.lock(descriptor):  # noqa: ASYNC110 - a lock of the kernel's, not the loop's
            await anyio.sleep(supervisor.POLL_SECONDS)
    finally:
        os.close(descriptor)


class _Start:
    """The start of a server, or the search for a running one, by one process."""

    def __init__(self, options: LocalOptions) -> None:
        self._options = options
        self.folder = Path(os.path.abspath(options.state_dir))
        self._program = ""
        self._environment: dict[str, str] = {}

    def prepare(self) -> None:
        """Find the programs and make the folders. Blocks."""
        given, path = self._options.environment, self._options.environment.get("PATH") or os.environ.get("PATH")
        beside = Path(sys.executable).with_name("letta")
        wanted = self._options.command or (str(beside) if beside.exists() else "letta")
        program = shutil.which(wanted, path=path)
        if program is None:
            raise LocalServerProblem(
                f"there is no program {quote(wanted)}, which is Letta Code",
                f"A person has to run: {install_command('local')}",
            )
        if shutil.which("git", path=path) is None:
            raise LocalServerProblem(
                "the program git is missing, in which Letta Code keeps the memory of agents",
                "A person has to install git.",
            )
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Resolved, because the server is recognised by a path in its command line.
        self.folder = self.folder.resolve()
        _check_own(self.folder)
        for each in _FOLDERS:
            (self.folder / each).mkdir(mode=0o700, exist_ok=True)
            _check_own(self.folder / each)
        self._program = os.path.abspath(program)
        self._environment = {name: value for name, value in given.items() if not name.startswith(_NOT_PASSED)}
        self._environment.setdefault("NODE_COMPILE_CACHE", str(self.folder / COMPILED))
        self._environment |= {
            "PATH": path or os.defpath,
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "temporary"),
            "LETTA_LOCAL_BACKEND_DIR": str(self.folder / BACKEND),
            "LETTA_CODE_TELEM": "0",
            "LETTA_SKIP_KEYCHAIN_CHECK": "1",
            "DO_NOT_TRACK": "1",
            "DISABLE_AUTOUPDATER": "1",
            "NO_COLOR": "1",
        }

    async def until_running(self, activity: ActivityLock) -> AppServer:
        """Wait for a server, and start one if there is none. The caller holds `in-use` and `active`."""
        started = False
        while True:
            if not started:
                started = await anyio.to_thread.run_sync(self._start_unless_supervised)
            elif not await anyio.to_thread.run_sync(self._is_supervised):
                raise self._ended()
            if (server := await anyio.to_thread.run_sync(self._read_address, activity)) and await _answers(server.url):
                return server
            await anyio.sleep(supervisor.POLL_SECONDS)

    def _start_unless_supervised(self) -> bool:
        """Start a supervisor if none runs, and return True then. Runs in a thread, which a cancellation does not
        interrupt."""
        with self._supervisor_lock() as lock:
            if not supervisor.lock(lock):
                return False
            (self.folder / supervisor.ADDRESS).unlink(missing_ok=True)
            (self.folder / supervisor.TOKEN).unlink(missing_ok=True)
            with open(self.folder / supervisor.TOKEN, "x", opener=_private) as token:
                token.write(secrets.token_urlsafe(TOKEN_BYTES))
            (self.folder / LOG).unlink(missing_ok=True)
            with open(self.folder / LOG, "ab", opener=_private) as output:
                subprocess.run(
                    # -I: otherwise the modules beside the script would shadow those of the standard library.
                    [sys.executable, "-I", supervisor.__file__, *self._supervisor_arguments(lock)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=self.folder,
                    env=self._environment,
                    pass_fds=(lock,),
                    start_new_session=True,
                    timeout=FORK_SECONDS,
                    check=False,
                )
            return True

    def _supervisor_arguments(self, lock: int) -> list[str]:
        listen = ["server", "--listen", "ws://127.0.0.1:0"]
        authentication = ["--ws-auth", "capability-token", "--ws-token-file", str(self.folder / supervisor.TOKEN)]
        command = [self._program, "--backend", "local", *listen, *authentication]
        bounds = (self._options.stop_seconds, self._options.growth_bytes, self._options.look_seconds)
        return [str(self.folder), str(lock), *map(str, bounds), *command]

    def _is_supervised(self) -> bool:
        with self._supervisor_lock() as lock:
            return not supervisor.lock(lock)

    @contextmanager
    def _supervisor_lock(self) -> Generator[int]:
        descriptor = supervisor.open_lock(self.folder / supervisor.SUPERVISOR)
        try:
            yield descriptor
        finally:
            # Closed and not unlocked: a supervisor that was handed it keeps the lock.
            os.close(descriptor)

    def _read_address(self, activity: ActivityLock) -> AppServer | None:
        address = self.folder / supervisor.ADDRESS
        try:
            written = address.read_text()
            token = (self.folder / supervisor.TOKEN).read_text()
            # Unchanged before and after; otherwise the token could be the next server's.
            if address.read_text() != written:
                return None
        except FileNotFoundError:
            return None
        try:
            data = json.loads(written)
        except ValueError:
            raise self._broken(address) from None
        if len(token) != TOKEN_CHARS:
            raise self._broken(self.folder / supervisor.TOKEN)
        if data["version"] != supervisor.ADDRESS_VERSION:
            raise LocalServerProblem(
                f"another release of letta-conversations-mcp runs the one in {self.folder}",
                "A person has to end those who use it, or use another folder.",
            )
        in_use = self.folder / supervisor.IN_USE
        inodes = {path: path.stat().st_ino for path in (in_use, self.folder / BACKEND)}
        return AppServer(url=data["url"], token=token, in_use=in_use, inodes=inodes, activity=activity)

    def _broken(self, path: Path) -> LocalServerProblem:
        return LocalServerProblem(
            f"the file {path}, which says how to reach it, is broken",
            "Once nobody uses it any more it ends, and the next call starts another: a person has to close the other "
            "programs that use it.",
        )

    @contextmanager
    def problems(self) -> Generator[None]:
        """Turns errors of the operating system about the folder into texts for a person."""
        try:
            yield
        except subprocess.TimeoutExpired as error:
            raise self.too_slow() from error
        except OSError as error:
            match error.errno:
                case errno.ENOSPC | errno.EDQUOT:
                    problem, remedy = "is on a full disk", "A person has to make room."
                case errno.EMFILE | errno.ENFILE:
                    raise LocalServerProblem(quote(error.strerror or error), MORE_FILES) from error
                case errno.EEXIST | errno.ENOTDIR:
                    problem, remedy = "is not a folder, or lies below a file", "A person has to choose another one."
                case _:
                    problem = f"cannot be written ({quote(error.strerror or error)})"
                    remedy = "A person has to see to its permissions, or choose another one."
            raise LocalServerProblem(f"its folder {self.folder} {problem}", remedy) from error

    def too_slow(self) -> LocalServerProblem:
        return LocalServerProblem(
            f"it was not ready within {self._options.start_seconds:g} s{self._last_words()}",
            f"The same call can be made again; its whole log is {self.folder / LOG}.",
        )

    def _ended(self) -> ConversationError:
        if shutil.disk_usage(self.folder).free < FULL_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if broken := broken_records(self.folder):
            return LocalServerProblem(
                f"it does not start, because these files are broken: {', '.join(map(str, broken))}",
                "A person has to restore them from a backup, or to move them away, and with them what is in them; "
                "then the same call can be made again.",
            )
        last_words = self._last_words()
        return LocalServerProblem(
            f"it ended instead of starting{last_words}",
            MORE_FILES
            if "EMFILE" in last_words
            else f"A person has to look at its log, {self.folder / LOG}; {self._program} must be Letta Code "
            f"({install_command('local')}).",
        )

    def _last_words(self) -> str:
        try:
            log = (self.folder / LOG).read_bytes()[-4 * QUOTE_CHARS :].decode(errors="replace").strip()
        except OSError:
            log = ""
        # Cut after secrets were removed: half a secret would not be recognised.
        return f" (its last words: {quote(log, len(log))[-QUOTE_CHARS:]})" if log else " (it said nothing)"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _check_own(folder: Path) -> None:
    """Raises LocalServerProblem for a folder that another user could have prepared or can change: what is in it runs
    with this user's rights."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        problem = "it is a symbolic link or no folder"
    elif found.st_uid != os.geteuid():
        problem = "it belongs to another user"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        problem = "other users can write to it"
    else:
        return
    raise LocalServerProblem(
        f"its folder {folder} is not safe to use: {problem}",
        "A person has to give it to this user alone (chown, chmod 700), or choose another one with --local-dir.",
    )


async def _answers(url: str) -> bool:
    """True if a server answers. A connection is not enough: the kernel accepts it even for a dying process."""
    asked = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    with anyio.move_on_after(ANSWER_SECONDS):
        try:
            async with await anyio.connect_tcp("127.0.0.1", urlsplit(url).port or 0) as stream:
                await stream.send(asked)
                return (await stream.receive()).startswith(b"HTTP/1.1 200")
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
            return False
    return False
