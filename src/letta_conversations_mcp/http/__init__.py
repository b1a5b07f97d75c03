"""Serving over HTTP: the application, authentication (`auth`), and limits."""

from letta_conversations_mcp.http.app import KEEP_ALIVE_SECONDS, MCP_PATH, STOP_SECONDS, CannotServe, build_app, listen

__all__ = ["KEEP_ALIVE_SECONDS", "MCP_PATH", "STOP_SECONDS", "CannotServe", "build_app", "listen"]
