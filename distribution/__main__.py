"""`make pages`: write every file that follows from the description of the server, the settings and the tools.

`--record` records the answers of the tools again first. `--check` writes nothing and fails if a file differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from distribution.answers import record
from distribution.description import ROOT
from distribution.outputs import outputs


async def main(*, check: bool) -> int:
    differs: list[Path] = []
    for path, text in (await outputs()).items():
        if path.exists() and path.read_text() == text:
            continue
        differs.append(path)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    for path in differs:
        print(f"{'differs' if check else 'written'}: {path.relative_to(ROOT)}")
    return 1 if check and differs else 0


if __name__ == "__main__":
    import anyio

    parser = argparse.ArgumentParser(prog="python -m distribution", description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    if options.record:
        anyio.run(record)

    async def run() -> int:
        return await main(check=options.check)

    sys.exit(anyio.run(run))
