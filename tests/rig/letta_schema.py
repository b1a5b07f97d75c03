"""Creates the database schema of a Letta server. Runs inside Letta's own environment, not in that of the tests.

The package of the server brings no migrations, so the tables come from its models. What its migrations have beyond the
models and the server needs is added here. The database is that of LETTA_PG_URI, as for the server.
"""
# pyright: basic, reportMissingImports=false

import asyncio

import letta.orm  # noqa: F401  (fills the metadata of Base with every table)
from letta.orm import Base
from letta.server.db import engine
from sqlalchemy import text

# Without the sequence every creation of an agent fails with a NOT NULL violation.
MIGRATIONS_ONLY = (
    "CREATE SEQUENCE message_seq_id OWNED BY messages.sequence_id",
    "ALTER TABLE messages ALTER COLUMN sequence_id SET DEFAULT nextval('message_seq_id')",
    "ALTER TABLE archives_agents ALTER COLUMN created_at SET DEFAULT now()",
    "ALTER TABLE steps ALTER COLUMN completion_tokens SET DEFAULT 0",
    "ALTER TABLE steps ALTER COLUMN prompt_tokens SET DEFAULT 0",
    "ALTER TABLE steps ALTER COLUMN total_tokens SET DEFAULT 0",
)


async def create() -> None:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE EXTENSION vector"))
        await connection.run_sync(Base.metadata.create_all)
        for statement in MIGRATIONS_ONLY:
            await connection.execute(text(statement))
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(create())
