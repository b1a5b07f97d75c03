"""Which Host and Origin headers are accepted: those of this machine, and the names that the settings give.

A page in somebody's browser must not reach a server on that person's machine, whatever its name resolves to.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from urllib.parse import urlsplit

from mcp.server.transport_security import TransportSecuritySettings

from letta_conversations_mcp.settings import Settings


def host_and_origin_check(settings: Settings) -> TransportSecuritySettings:
    """What the SDK accepts at the MCP endpoint, `name:*` for any port."""
    names = ["127.0.0.1", "localhost", "[::1]"]
    if settings.listens_beyond_loopback and not _is_unspecified(settings.host):
        names.append(f"[{settings.host}]" if ":" in settings.host else settings.host)
    hosts = [*names, *(f"{name}:*" for name in names), *settings.allowed_hosts]
    origins = [f"http://{name}{port}" for name in names for port in ("", ":*")]
    if settings.public_url:
        hosts.append(settings.public_host)
        origins.append(f"{urlsplit(settings.public_url).scheme}://{settings.public_host}")
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=[*origins, *settings.allowed_origins])


def known_host(settings: Settings) -> Callable[[str], bool]:
    """The check for the operators' endpoints, which also accepts addresses: probes and Prometheus use them, and a web
    page whose own name was made to resolve to this server cannot."""
    allowed = host_and_origin_check(settings).allowed_hosts

    def is_known(host: str) -> bool:
        name = urlsplit(f"//{host}").hostname or ""
        return host in allowed or f"{name}:*" in allowed or f"[{name}]:*" in allowed or _is_address(name)

    return is_known


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_unspecified(host: str) -> bool:
    """True if the host stands for every address of the machine, which no client sends as its Host header."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
