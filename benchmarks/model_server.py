"""The scripted language model in a process of its own: `python -m benchmarks.model_server`. It takes no time to answer.

It tells its address in a line on stdout, and ends when its stdin does.
"""

from __future__ import annotations

import sys

import anyio
import anyio.to_thread

from tests.rig.model import ScriptedModel
from tests.rig.openai_model import serve_model


async def serve() -> None:
    async with serve_model(ScriptedModel()) as url:
        print(url, flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    anyio.run(serve)
