"""Serving over HTTP: who may call (`gate`, `tokens`, `oidc`), how much at a time (`limits`), and the application."""

from letta_conversations_mcp.http.app import KEEP_ALIVE_SECONDS, MCP_PATH, STOP_SECONDS, CannotServe, build_app, listen

__all__ = ["KEEP_ALIVE_SECONDS", "MCP_PATH", "STOP_SECONDS", "CannotServe", "build_app", "listen"]
