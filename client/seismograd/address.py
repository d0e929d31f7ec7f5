"""Server addresses as people write them: `host`, `host:port`, `[::1]:7450`, `unix:/path`, `grpcs://host:port`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from seismograd.errors import OptionError

DEFAULT_PORT = 7450  # the server's gRPC port

# Letters, digits, hyphens, dots and underscores: what resolvers accept; anything else is a typing mistake.
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?")
_FORMS = 'write "host:port", for example "localhost:7450", or "grpcs://host:port" for TLS'


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where the server is and whether TLS was asked for by the address itself."""

    target: str  # as gRPC takes it
    host: str
    port: int  # 0 for a socket in the file system
    tls: bool
    loopback: bool  # nothing sent there leaves this machine

    @classmethod
    def parse(cls, text: str) -> ServerAddress:
        """Reads an address; raises OptionError that names the value and the fix."""
        stripped = text.strip()
        if stripped.startswith("unix:"):
            return cls._parse_unix(text, stripped)
        rest, tls = cls._strip_scheme(text, stripped)
        host, port_text = cls._split(text, rest)
        port = cls._parse_port(text, port_text)
        shown = f"[{host}]" if ":" in host else host
        return cls(target=f"{shown}:{port}", host=host, port=port, tls=tls, loopback=_is_loopback(host))

    @classmethod
    def _parse_unix(cls, text: str, stripped: str) -> ServerAddress:
        if len(stripped) == len("unix:"):
            raise OptionError(f"server: {text!r} names no socket; write unix:/path/to/socket")
        return cls(target=stripped, host="localhost", port=0, tls=False, loopback=True)

    @staticmethod
    def _strip_scheme(text: str, stripped: str) -> tuple[str, bool]:
        scheme, separator, rest = stripped.partition("://")
        if not separator:
            return stripped, False
        if scheme in ("grpc", "grpcs"):
            return rest.rstrip("/"), scheme == "grpcs"
        raise OptionError(
            f"server: {text!r} has the scheme {scheme!r}, but telemetry goes over gRPC (default port {DEFAULT_PORT});"
            f" {_FORMS}"
        )

    @staticmethod
    def _split(text: str, rest: str) -> tuple[str, str]:
        if rest.startswith("["):
            host, closed, tail = rest[1:].partition("]")
            if not closed or (tail and not tail.startswith(":")) or not _is_ip(host):
                raise OptionError(f"server: {text!r} is not an IPv6 address in brackets; write [::1]:{DEFAULT_PORT}")
            return host, tail[1:]
        if rest.count(":") > 1:
            if _is_ip(rest):
                return rest, ""
            raise OptionError(f"server: {text!r} has more than one colon; {_FORMS}")
        host, _, port_text = rest.partition(":")
        if not _HOST_NAME.fullmatch(host):
            raise OptionError(f"server: {text!r} has no usable host name; {_FORMS}")
        return host, port_text

    @staticmethod
    def _parse_port(text: str, port_text: str) -> int:
        if not port_text:
            return DEFAULT_PORT
        if not re.fullmatch(r"[0-9]{1,5}", port_text) or not 1 <= int(port_text) <= 65535:
            raise OptionError(f"server: {text!r} has the port {port_text!r}, which is not in 1 to 65535; {_FORMS}")
        return int(port_text)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    return _is_ip(host) and ipaddress.ip_address(host).is_loopback
