"""Checks the environment variables that httpx reads proxies and certificates from. The errors of httpx for a bad value
do not name the variable."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from letta_conversations_mcp.core.errors import NotConfigured

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
SCHEMES = ("http", "https", "socks5", "socks5h")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def network_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that are set, with their values without passwords."""
    found = {name: environment[name] for name in _proxies(environment)}
    shown = {name: value.rpartition("@")[2] if "@" in value else value for name, value in found.items()}
    return shown | {name: environment[name] for name in CERTIFICATES if environment.get(name)}


def check_network(environment: Mapping[str, str]) -> None:
    """Raises NotConfigured, naming the variable, for a proxy that is not a URL and for unreadable certificates."""
    for name in _proxies(environment):
        if problem := _proxy_problem(environment[name]):
            raise NotConfigured(f"The variable {name} {problem}.", f"Correct {name} or unset it.")
    for name in CERTIFICATES:
        if (value := environment.get(name)) and (problem := _certificates_problem(name, value)):
            raise NotConfigured(f"The variable {name} {problem}.", f"Correct {name} or unset it.")


def _proxies(environment: Mapping[str, str]) -> list[str]:
    return [each for name in PROXIES for each in (name, name.upper()) if environment.get(each)]


def _proxy_problem(value: str) -> str:
    """Describes the problem without the value, which may contain a password."""
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        usable = bool(parts.hostname) and parts.port != 0 and not any(each.isspace() for each in value)
    except ValueError:
        return "is no URL of a proxy"
    if not usable:
        return "is no URL of a proxy"
    return "" if parts.scheme in SCHEMES else f"names a proxy that is none of {', '.join(SCHEMES)}"


def _certificates_problem(name: str, value: str) -> str:
    path = Path(value)
    if name == "SSL_CERT_DIR":
        return "" if path.is_dir() else "names no directory"
    if not path.is_file():
        return "names no file"
    try:
        ssl.create_default_context(cafile=value)
    except OSError:
        return "names a file without certificates"
    return ""
