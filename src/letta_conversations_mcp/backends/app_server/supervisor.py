"""Runs one App Server for as long as any process uses it.

A script for the standard library alone, which `process` starts in a session of its own, so that it outlives the
process that started it and costs few MB. It owns the server, which is its child, and the address file; it ends both,
and itself, once nobody holds the lock `in-use` any more, whatever became of the users. It also ends a server that has
grown too large, at a moment when nobody holds the lock `active`; the next use starts another one. It holds the lock
`keeper`, handed to it open, for as long as it lives: the kernel lets all of them go when it is killed.

    supervisor.py FOLDER LOCK STOP_SECONDS GROWTH_BYTES LOOK_SECONDS COMMAND…
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

IN_USE = "in-use"
"""Locked, shared, by every user; exclusively by the supervisor while it ends the server."""

ACTIVE = "active"
"""Locked, shared, by everybody with a request or a turn on the server; exclusively by the supervisor before it ends a
server that has grown too large."""

SUPERVISOR = "keeper"
"""Locked by the process that starts a supervisor, and then by the supervisor. Keeps the name used by older releases, so
that old and new processes never run two servers in one folder."""

ADDRESS = "address.json"
"""Where the server is. There only while it can be used."""

ADDRESS_VERSION = 2
"""Since 2 every user takes the lock `active`."""

SERVER_PID = "server.pid"
TOKEN = "token"  # noqa: S105 - a file's name

LOG_BYTES = 1_000_000
"""The log starts again at this size."""

PIECE_BYTES = 65_536
POLL_SECONDS = 0.05
TRY_SECONDS = 0.5
"""How often a server that has grown too large is checked for being idle."""

DRAIN_SECONDS = 1
"""Timeout for the last output of a server that has ended; something that it started may hold the output open."""

_LISTENING = re.compile(rb"Listening on (ws://\S+)")
_PR_SET_PDEATHSIG = 1

_ENDED = "ended"
_UNUSED = "unused"


def open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def lock(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file. True if that was possible."""
    import fcntl  # not on Windows

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def release(descriptor: int) -> None:
    """Unlock an open file, for which closing it would not do: a child that is being forked has it open too."""
    import fcntl

    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def unlock(descriptor: int) -> None:
    """Unlock a file and close it."""
    release(descriptor)
    os.close(descriptor)


def supervise(folder: Path, stop_seconds: float, growth_bytes: int, look_seconds: float, command: list[str]) -> None:
    """Run the server until it ends by itself, is no longer used, or is idle and has grown by `growth_bytes` since it
    began to listen. Looks at its size every `look_seconds`."""
    events: SimpleQueue[str] = SimpleQueue()

    def on_signal(*_: object) -> None:
        events.put(_UNUSED)

    signal.signal(signal.SIGTERM, on_signal)
    _end_abandoned(folder, stop_seconds)
    in_use, active = open_lock(folder / IN_USE), open_lock(folder / ACTIVE)
    server = _start(command, folder)
    ended = threading.Event()

    def wait_for_end() -> None:
        code = server.wait()
        ended.set()
        reader.join(DRAIN_SECONDS)
        _log(b"The server ended with exit code %d.\n" % code)
        events.put(_ENDED)

    def wait_until_unused() -> None:
        # Never released: new users wait until this process has ended, and the server before it.
        lock(in_use, wait=True)
        events.put(_UNUSED)

    def wait_until_grown(limit: int) -> None:
        while (size := _memory(server.pid)) <= limit:
            if ended.wait(look_seconds):
                return
        # Like that on `in-use`, the lock is never released.
        while not lock(active):
            if ended.wait(TRY_SECONDS):
                return
        _log(b"The server is idle and uses %d MB. It is ended; the next use starts another.\n" % (size // 10**6))
        events.put(_UNUSED)

    reader = threading.Thread(target=_read_output, args=(server, events.put), daemon=True)
    reader.start()
    threading.Thread(target=wait_for_end, daemon=True).start()
    try:
        (folder / SERVER_PID).write_text(str(server.pid))
        threading.Thread(target=wait_until_unused, daemon=True).start()
        while (event := events.get()) not in (_ENDED, _UNUSED):
            limit = _memory(server.pid) + growth_bytes
            threading.Thread(target=wait_until_grown, args=(limit,), daemon=True).start()
            _write_address(folder, event, server.pid)
    finally:
        (folder / ADDRESS).unlink(missing_ok=True)
        with suppress(ProcessLookupError):
            server.terminate()
        ended.wait(stop_seconds)
        # The whole group: also what its agents started.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(server.pid, signal.SIGKILL)
        ended.wait(stop_seconds)
        (folder / SERVER_PID).unlink(missing_ok=True)
        reader.join(DRAIN_SECONDS)


def _start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    supervisor = os.getpid()
    # Loaded here: after the fork there should be as little to do as possible.
    prctl: Callable[..., int] | None = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def die_with_supervisor() -> None:
        # The kernel remembers the thread that forked: it has to be the main one, which lives as long as the process.
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != supervisor:
                os._exit(1)

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder / "work",
        start_new_session=True,
        preexec_fn=die_with_supervisor,
    )


def _read_output(server: subprocess.Popen[bytes], tell: Callable[[str], None]) -> None:
    assert server.stdout
    told = False
    # In pieces: what prints no line end must not fill the memory.
    while line := server.stdout.readline(PIECE_BYTES):
        _log(line)
        if not told and (found := _LISTENING.search(line)):
            told = True
            tell(found[1].decode())


def _log(line: bytes) -> None:
    # A full disk must not stop the reading, or the server would block on its output.
    with suppress(OSError):
        if os.fstat(1).st_size > LOG_BYTES:
            os.ftruncate(1, 0)
        os.write(1, line)


def _write_address(folder: Path, url: str, server_pid: int) -> None:
    address = {
        "version": ADDRESS_VERSION,
        "url": f"{url}/ws",
        "token_file": str(folder / TOKEN),
        "supervisor_pid": os.getpid(),
        "server_pid": server_pid,
    }
    new = folder / f"{ADDRESS}.new"
    new.write_text(json.dumps(address))
    new.replace(folder / ADDRESS)


def _memory(pid: int) -> int:
    """The bytes of memory that a process uses; 0 if that cannot be found out."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return 1024 * int(_ps("rss=", pid) or 0)


def _ps(column: str, pid: int) -> bytes:
    """What the program ps says of a process, where there is no /proc; empty if it says nothing."""
    listing = ["/bin/ps", "-ww", "-o", column, "-p", str(pid)]
    try:
        return subprocess.run(listing, capture_output=True, timeout=5, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return b""


def _end_abandoned(folder: Path, stop_seconds: float) -> None:
    """End the server of a supervisor that was killed: on Linux the kernel has done so, elsewhere nobody has."""
    try:
        pid = int((folder / SERVER_PID).read_text())
    except (OSError, ValueError):
        return
    for sign in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + stop_seconds
        if _is_server(pid, folder):
            # Once: the second would cut short what the first asks for.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, sign)
        while _is_server(pid, folder) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    if _is_server(pid, folder):
        raise OSError(f"an older one, process {pid}, does not end")


def _is_server(pid: int, folder: Path) -> bool:
    """True if the process is a server of this folder, and not another one that has got its number since."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        if Path("/proc/self/cmdline").exists():
            return False
        arguments = _ps("args=", pid)
    return os.fsencode(folder / TOKEN) in arguments


def main() -> None:
    """Detach from the process that started this one, then supervise."""
    if os.fork():
        # The starter waits for this process, and never has to reap the other.
        os._exit(0)
    for sign in (signal.SIGINT, signal.SIGHUP):
        signal.signal(sign, signal.SIG_IGN)
    os.umask(0o077)
    folder, _, stop_seconds, growth_bytes, look_seconds, *command = sys.argv[1:]
    try:
        supervise(Path(folder), float(stop_seconds), int(growth_bytes), float(look_seconds), command)
    except OSError as error:
        _log(f"The server cannot be run: {error}\n".encode(errors="replace"))


if __name__ == "__main__":
    main()
