"""The Letta REST API: Letta Cloud and self-hosted servers. The only folder that knows `letta_client`.

Importing this package does not import `letta_client`, which takes longer than the rest of a start: the first call does
that, in a thread.
"""

from letta_conversations_mcp.backends.letta_api.backend import ApiBackend as ApiBackend
